"""The one engine of perturbations: a question is asked once of the clean input, and once of every masked one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.metrics.fills import BY_MASK, Fill, background, check_fill, imputed
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Probe, Target

VALUES = ("score", "softmax", "sigmoid", "share")
LEAST = 1e-6
Value = Literal["score", "softmax", "sigmoid", "share"]
Masks = Iterator[tuple[int, Tensor]]


@dataclass(frozen=True)
class Probability:
    """A question about classes, answered with probabilities in place of logits."""

    target: Target
    kind: str

    def choose(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The target's own choice."""
        choose = getattr(self.target, "choose", None)
        return choose(output, batch) if choose else {}

    def __call__(self, output: Any, batch: Batch) -> Scores:
        if not isinstance(output, Tensor) or output.ndim != 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise BadInput(f"value {self.kind!r} needs logits (samples, classes); the model gave {shape}. Take 'share'")
        return self.target(output.softmax(1) if self.kind == "softmax" else output.sigmoid(), batch)


class Asking:
    """One question about one batch, its choices held fixed on the clean input, and all the answers to masked inputs.

    value: in which scale answers are given: score (as the target gives it), softmax, sigmoid (probabilities, of a target
        about classes), share ((s - s_0) / (s_clean - s_0), s_0 the score of the wholly filled input: 1 clean, 0 masked,
        whatever the score's range).
    chunk: masked inputs in one forward, which bounds the memory. seed: of everything random. progress: (done, all) forwards.
    clean (k, n): the scores of the clean input, in the scale of value (for share as the target gives them).
    forwards: inputs that went through the model so far. fills: those that were asked for.
    """

    def __init__(
        self,
        probe: Probe,
        batch: Batch,
        *,
        value: Value = "score",
        chunk: int = 32,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if value not in VALUES:
            raise BadInput(f"value is {value!r}; expected one of {', '.join(VALUES)}")
        if chunk < 1:
            raise BadInput(f"chunk is {chunk}; expected 1 or more")
        self.given, self.batch = probe.ask(batch)
        self.probe = replace(probe, target=Probability(probe.target, value)) if value in VALUES[1:3] else probe
        self.value, self.chunk, self.seed, self.progress = value, chunk, seed, progress
        self.clean = self.probe.ask(self.batch)[0].value if self.probe is not probe else self.given.value
        self.x = self.batch.layout.canonical([self.batch.x.detach()], self.batch.n)
        self.forwards = 0
        self._grounds: dict[Fill, Tensor] = {}
        self._known: dict[tuple[int, Fill, bytes], Tensor] = {}
        self.fills: dict[Fill, None] = {}

    @property
    def k(self) -> int:
        """Number of questions."""
        return len(self.clean)

    def answers(self, masks: Masks, fill: Fill) -> Tensor:
        """(sample, what is kept (t, h, w), bool or from 0 to 1) of each masked input, as they come -> scores (k, masks).

        x * keep + fill * (1 - keep). The same mask of the same sample under the same fill is asked once, whoever asks.
        """
        check_fill(fill)
        self.fills[fill] = None
        keys: list[tuple[int, Fill, bytes]] = []
        waiting: dict[tuple[int, Fill, bytes], Tensor] = {}
        for sample, keep in masks:
            key = (sample, fill, hashlib.blake2b(keep.contiguous().cpu().numpy().tobytes(), digest_size=16).digest())
            keys.append(key)
            if key not in self._known and key not in waiting:
                waiting[key] = keep
                if len(waiting) == self.chunk:
                    self._ask(waiting, fill)
        self._ask(waiting, fill)
        found = torch.stack([self._known[key] for key in keys], 1)
        return self._shares(found, [key[0] for key in keys], fill) if self.value == "share" else found

    def filled(self, fill: Fill) -> Tensor:
        """Scores (k, n) of the wholly filled input, as the target gives them."""
        size = self.batch.size
        nothing = torch.zeros(size, dtype=torch.bool)
        key = hashlib.blake2b(nothing.numpy().tobytes(), digest_size=16).digest()
        missing = {(i, fill, key): nothing for i in range(self.batch.n) if (i, fill, key) not in self._known}
        for group in _groups(list(missing), self.chunk):
            self._ask({name: missing[name] for name in group}, fill)
        return torch.stack([self._known[i, fill, key] for i in range(self.batch.n)], 1)

    def run(self, samples: Sequence[int], x: Tensor) -> Tensor:
        """Scores (k, b) of other inputs x (b, c, t, h, w) of these samples, at most `chunk` in a forward."""
        found = []
        for group in _groups(range(len(samples)), self.chunk):
            some = self.batch.take([samples[i] for i in group])
            scores, _ = self.probe.ask(some.at(some.layout.raw(x[list(group)]).to(some.x)))
            self._check_frozen(scores, [samples[i] for i in group])
            found.append(scores.value)
            self.forwards += len(group)
            if self.progress:
                self.progress(self.forwards)
        return torch.cat(found, 1)

    def masked(self, samples: Sequence[int], keep: Tensor, fill: Fill) -> Tensor:
        """The masked inputs (b, c, t, h, w) themselves: keep (b, 1, t, h, w), bool or from 0 to 1."""
        check_fill(fill)
        x = self.x[list(samples)]
        if fill in BY_MASK:
            if keep.dtype != torch.bool:
                raise BadInput(f"fill {fill!r} knows cells that are kept or not, nothing between; take another")
            ground = imputed(x, keep, str(fill), self.seed)
        else:
            if fill not in self._grounds:
                self._grounds[fill] = background(self.x, self.batch, fill)
            ground = self._grounds[fill]
            ground = ground[list(samples)] if len(ground) > 1 or self.batch.n == 1 else ground
        if keep.dtype == torch.bool:
            return torch.where(keep, x, ground)
        share = keep.to(x)
        return x * share + ground * (1 - share)

    def _ask(self, waiting: dict[tuple[int, Fill, bytes], Tensor], fill: Fill) -> None:
        if not waiting:
            return
        samples = [sample for sample, _, _ in waiting]
        keep = torch.stack(list(waiting.values()))[:, None].to(self.x.device)
        found = self.run(samples, self.masked(samples, keep, fill))
        self._known.update(zip(waiting, found.unbind(1), strict=True))
        waiting.clear()

    def _shares(self, found: Tensor, samples: list[int], fill: Fill) -> Tensor:
        low, high = self.filled(fill)[:, samples], self.clean[:, samples]
        span = high - low
        wide = span.abs() > LEAST * torch.maximum(low.abs(), high.abs())
        return torch.where(wide, (found - low) / torch.where(wide, span, 1), float("nan"))

    def _check_frozen(self, scores: Scores, samples: Sequence[int]) -> None:
        for asked, now in zip(self.given.labels, scores.labels, strict=True):
            for sample, label in zip(samples, now, strict=True):
                if asked[sample] != label:
                    raise BadInput(
                        f"{self.batch.ids[sample]}: the question changed with the input, from {asked[sample]!r} to {label!r}; "
                        "a target that chooses does so in choose(output, batch), once, on the clean input"
                    )


def _groups(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
