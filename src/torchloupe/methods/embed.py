"""A feature vector for every sample: the model's own embedding, or any layer pooled by a named rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.axes import Layout, dims
from torchloupe.errors import BadInput, nearest
from torchloupe.names import resolve
from torchloupe.outputs import Scores
from torchloupe.points import Points
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.taps import tapped
from torchloupe.trace import every_name

OUTPUT = "output"
POOLS = {
    "mean": "mean over time, rows and columns: (n, c)",
    "max": "largest over time, rows and columns: (n, c)",
    "flatten": "everything: (n, c * t * h * w)",
    "parts": "mean over columns, largest over time, every row a part: (n, c, h)",
}


def pooled(act: Tensor, rule: str) -> Tensor:
    """act (n, c, t, h, w) -> (n, c), (n, c * t * h * w) or (n, c, h), by a rule of POOLS."""
    if rule == "mean":
        return act.mean(dims("thw"))
    if rule == "max":
        return act.amax(dims("thw"))
    if rule == "flatten":
        return act.flatten(1)
    if rule == "parts":
        return act.mean(dims("w")).amax(dims("t")[0] + 1)
    raise BadInput(f"pool {rule!r}: expected one of {', '.join(POOLS)}.{nearest(rule, POOLS)}")


@dataclass
class Embedder:
    """batch -> feature rows, (n, D) or (n, c, p) float32.

    layer: a dotted name, pooled by `pool`; "output" is what the model's targets take, as it is. None: the output of an
    embedder, the last of the subject's layers of any other model. The layer's layout is found at the first batch.
    """

    subject: Subject
    layer: str | None = None
    pool: str = "mean"
    _layout: Layout | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.layer is None:
            known = self.subject.kind != "embedder" and self.subject.layers
            self.layer = self.subject.layers[-1] if known else OUTPUT
        if self.layer != OUTPUT:
            self.layer = resolve(every_name(self.subject.module), self.layer, self.subject.listing)
        if self.pool not in POOLS:
            pooled(torch.empty(0), self.pool)

    def __call__(self, batch: Batch) -> np.ndarray:
        return self.both(batch)[0]

    def both(self, batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows, and of a classifier the number (n,) of each sample's best class; None of any other model."""
        with torch.no_grad():
            if self.layer == OUTPUT:
                output = found = self._output(batch)
            else:
                act, output = self._act(batch)
                found = pooled(act, self.pool)
        return found.float().cpu().numpy(), self._predicted(output, batch)

    def _predicted(self, output: Any, batch: Batch) -> np.ndarray | None:
        if self.subject.kind != "classifier" or not isinstance(output, Tensor) or output.ndim != 2:
            return None
        if len(output) != batch.n or output.shape[1] < 2 or len(self.subject.classes) not in (0, output.shape[1]):
            return None
        best: np.ndarray = output.argmax(1).cpu().numpy()
        return best

    def _output(self, batch: Batch) -> Tensor:
        with self.subject.asked() as own, torch.no_grad():
            found = own.output(batch)
        if not isinstance(found, Tensor) or found.ndim not in (2, 3) or len(found) != batch.n:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(f"the model's output is {shape}, expected ({batch.n}, dimensions); name a layer to pool")
        return found

    def _act(self, batch: Batch) -> tuple[Tensor, Any]:
        """The layer's activation and the model's output."""
        assert self.layer is not None
        if self._layout is None:
            outputs: list[Any] = []

            def nothing(output: Any, asked: Batch) -> Scores:
                outputs.append(output)
                return Scores(torch.zeros(1, asked.n), (asked.ids,))

            seen = Probe(self.subject, (self.layer,), nothing)(batch, grad=False)
            self._layout = seen.layouts[self.layer]
            return seen.act[self.layer], outputs[-1]
        with (
            self.subject.asked() as own,
            torch.no_grad(),
            tapped(own.module, (self.layer,), False, {self.layer}) as taps,
        ):
            output = own.output(batch)
        return self._layout.canonical(taps.outputs(self.layer), batch.n, batch.size), output


def embed(subject: Subject, batches: Iterable[Batch], layer: str | None = None, pool: str = "mean") -> Points:
    """Points (N, D) or (N, c, p) of all samples of some batches; ids and truth (as columns) come along, in order.

    layer and pool as in Embedder. Raises BadInput for an unknown layer or pool, no batch, or an output of no rows.
    """
    ask = Embedder(subject, layer, pool)
    feats: list[np.ndarray] = []
    ids: list[str] = []
    truth: list[dict[str, np.ndarray]] = []
    for batch in batches:
        feats.append(ask(batch))
        ids.extend(batch.ids)
        truth.append({name: value.cpu().numpy() for name, value in batch.truth.items() if value.shape == (batch.n,)})
    if not feats:
        raise BadInput("no samples to embed")
    columns = {
        name: np.concatenate([part[name] for part in truth]) for name in truth[0] if all(name in t for t in truth)
    }
    record = {"kind": "features", "model": subject.spec, "layer": ask.layer, "pool": pool}
    return Points(np.concatenate(feats), np.array(ids), columns, record)
