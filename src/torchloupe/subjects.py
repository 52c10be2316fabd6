"""Samples, and a model with how to talk to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout, Size
from torchloupe.errors import BadInput
from torchloupe.trace import tensors

INPUT = "input"
LISTING = "loupe layers"
Kind = Literal["classifier", "embedder", "pose", "detector", "segmenter"]


@dataclass(frozen=True)
class Batch:
    """n samples as the model takes them, and what is known about them.

    x: the tensor that is explained; layout says where its axes are.
    ids: one name a sample.
    extra: further inputs of the model; truth: what is known to be right; asked: choices of the target that are held
        fixed. Tensors in them whose first axis is n follow their samples.
    pictures: (n, t, h, w, 3) uint8, what the model saw, undone; or None.
    """

    x: Tensor
    layout: Layout = Layout()
    ids: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.x.shape[self._n_axis] if "(n" not in self.layout.pattern else len(self.ids)
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(count)))
        elif len(self.ids) != count:
            raise BadInput(f"{len(self.ids)} ids for {count} samples")

    @property
    def _n_axis(self) -> int:
        return self.layout.axis("n")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    @property
    def size(self) -> Size:
        """(t, h, w) of the input."""
        t, h, w = self.layout.canonical([self.x.detach()], self.n).shape[-3:]
        return t, h, w

    def at(self, x: Tensor) -> Batch:
        """The same samples with another input of the same shape."""
        return replace(self, x=x)

    def take(self, index: Sequence[int] | Tensor) -> Batch:
        """The samples of these numbers, in this order; a number may stand several times."""
        where = torch.as_tensor(index, dtype=torch.long)
        return self._rows(where, self.x.index_select(self._n_axis, where.to(self.x.device)))

    def spread(self, count: int) -> Batch:
        """One sample as count samples, whose input is a view, not a copy. Errors: BadInput for more than one sample."""
        if self.n != 1:
            raise BadInput(f"spread takes one sample, not {self.n}")
        shape = list(self.x.shape)
        shape[self._n_axis] = count
        return self._rows(torch.zeros(count, dtype=torch.long), self.x.expand(shape))

    def _rows(self, where: Tensor, x: Tensor) -> Batch:
        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.n:
                return value[where.to(value.device)]
            return value

        extra, truth, asked = (
            {key: rows(value) for key, value in part.items()} for part in (self.extra, self.truth, self.asked)
        )
        ids = tuple(self.ids[i] for i in where.tolist())
        return Batch(x, self.layout, ids, extra, truth, asked, rows(self.pictures))


def call_plainly(module: nn.Module, batch: Batch) -> Any:
    """module(x), with the batch's extra inputs as keyword arguments."""
    return module(batch.x, **batch.extra)


def read_first(output: Any) -> Tensor:
    """The output itself, its `logits`, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    first = next(tensors(output), None)
    if first is None:
        raise BadInput(
            f"the model returned {type(output).__name__}, in which no tensor was found; give Subject(read=...)"
        )
    return first


def find_from_trace(_layer: str) -> Layout | None:
    """No layout is declared: the probe finds it."""
    return None


@dataclass(frozen=True)
class Subject:
    """A model and how to talk to it.

    module: the network, never changed.
    layout: layer name -> Layout, or None to have it found.
    call: (module, batch) -> output. read: output -> what targets take (logits (n, classes) for classifiers).
    layers: the default layers; () where they are not known. spec: where the model came from.
    classes: names of the classes, or ().
    prepare: picture files or images -> Batch, or None. listing: the command that lists its layers, for messages.
    extra_tokens: how many tokens before those of the picture there are, where it was said; None: it is found.
    """

    module: nn.Module
    layout: Callable[[str], Layout | None] = find_from_trace
    call: Callable[[nn.Module, Batch], Any] = call_plainly
    read: Callable[[Any], Any] = read_first
    kind: Kind = "classifier"
    layers: tuple[str, ...] = ()
    spec: str = ""
    classes: tuple[str, ...] = ()
    prepare: Callable[..., Batch] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    listing: str = LISTING
    extra_tokens: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def output(self, batch: Batch) -> Any:
        """What targets take, for this batch, in the model's own device and precision."""
        first = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        x = batch.x if first is None else batch.x.to(first.device, first.dtype)
        extra = {key: value.to(x.device) if isinstance(value, Tensor) else value for key, value in batch.extra.items()}
        return self.read(self.call(self.module, replace(batch, x=x, extra=extra)))
