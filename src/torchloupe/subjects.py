"""Samples, and a model with how to talk to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout, Size
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.shadow import shadowed
from torchloupe.trace import tensors

INPUT = "input"
LISTING = "loupe layers"
Kind = Literal["classifier", "embedder", "pose", "detector", "segmenter"]


@dataclass(frozen=True)
class Batch:
    """n samples as the model takes them, and what is known about them.

    x: the tensor that is explained, or a numpy array; layout says where its axes are. One sample may come without its
        axis n. Integers become float32, as the model is given them.
    ids: one name a sample.
    extra: further inputs of the model; truth: what is known to be right; asked: choices of the target that are held
        fixed. Tensors in them whose first axis is n follow their samples.
    pictures: (n, t, h, w, 3) uint8, what the model saw, undone; or None.
    shared: further inputs of the model that belong to all samples alike, such as prompts, whatever their length.
    Errors: BadInput for what has not the layout's axes, or is no array of real numbers.
    """

    x: Tensor
    layout: Layout = Layout()
    ids: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Tensor | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", self._given())
        count = self.x.shape[self._n_axis] if "(n" not in self.layout.pattern else len(self.ids)
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(count)))
        elif len(self.ids) != count:
            raise BadInput(f"{len(self.ids)} ids for {count} samples")

    def _given(self) -> Tensor:
        x: Any = torch.from_numpy(np.ascontiguousarray(self.x)) if isinstance(self.x, np.ndarray) else self.x
        if not isinstance(x, Tensor) or x.is_complex():
            kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise BadInput(f"a batch needs a tensor or array of real numbers, not {kind}")
        if x.ndim + 1 == self.layout.ndim and "(n" not in self.layout.pattern:
            x = x.unsqueeze(self._n_axis)
        if x.ndim != self.layout.ndim:
            raise BadInput(
                f"a batch of shape {tuple(x.shape)} has not the axes of its layout {self.layout.pattern!r}; say how it lies: "
                "Batch(x, Layout('n c t h w'))"
            )
        return x if x.is_floating_point() else x.float()

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
        axis, at = self._n_axis, where.to(self.x.device)
        if "(n" not in self.layout.pattern:
            return self._rows(where, self.x.index_select(axis, at))
        apart = self.x.unflatten(axis, (self.n, -1))  # several rows a sample
        return self._rows(where, apart.index_select(axis, at).flatten(axis, axis + 1))

    def spread(self, count: int) -> Batch:
        """One sample as count samples, whose input is a view, not a copy. Errors: BadInput for more than one sample."""
        if self.n != 1:
            raise BadInput(f"spread takes one sample, not {self.n}")
        if "(n" in self.layout.pattern:
            return self.take([0] * count)
        shape = list(self.x.shape)
        shape[self._n_axis] = count
        return self._rows(torch.zeros(count, dtype=torch.long), self.x.expand(shape))

    def _rows(self, where: Tensor, x: Tensor) -> Batch:
        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.n:
                return value[where.to(value.device)]
            return value

        if self.n > 1 and where.tolist() != list(range(self.n)):
            for key, value in self.extra.items():
                if (
                    isinstance(value, Tensor)
                    and not value.is_floating_point()
                    and value.ndim > 1
                    and len(value) == self.n
                ):
                    text = (
                        f"the input {key!r} has a row for each of {self.n} samples and is cut up with them; where its rows "
                        f"belong to all samples, such as prompts, give it as Batch(shared={{{key!r}: ...}})"
                    )
                    warnings.warn(text, LoupeWarning, stacklevel=4)
        extra, truth, asked = (
            {key: rows(value) for key, value in part.items()} for part in (self.extra, self.truth, self.asked)
        )
        ids = tuple(self.ids[i] for i in where.tolist())
        return Batch(x, self.layout, ids, extra, truth, asked, rows(self.pictures), self.shared)


def as_batch(samples: Batch | Tensor | np.ndarray) -> Batch:
    """A Batch as it is; a tensor or array (n, c, h, w) or (c, h, w) as the model takes it, as one.

    Errors: BadInput for what looks like pictures with their channels last, and as of Batch.
    """
    if isinstance(samples, Batch):
        return samples
    shape = tuple(getattr(samples, "shape", ()))
    if len(shape) in (3, 4) and shape[-1] in (1, 3, 4) and shape[-3] > 4:
        raise BadInput(
            f"an array of shape {shape} looks like pictures with their channels last; turn it to (n, c, h, w), or say that "
            "the model takes it so: Batch(x, Layout('n h w c'))"
        )
    return Batch(samples)  # type: ignore[arg-type]


def call_plainly(module: nn.Module, batch: Batch) -> Any:
    """module(x), with the batch's extra and shared inputs as keyword arguments."""
    return module(batch.x, **batch.extra, **batch.shared)


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
class TextTower:
    """How a model puts texts beside pictures.

    check: is given words, and raises BadInput for one of which the tokenizer leaves nothing. embed: (module, texts) -> (k, c),
    not normalised. logit: module -> (s, b), where the model's score is s cos + b. digest: of the tokenizer's files, or None.
    """

    check: Callable[[Sequence[str]], None]
    embed: Callable[[nn.Module, Sequence[str]], Tensor]
    logit: Callable[[nn.Module], tuple[float, float]]
    digest: str | None = None


class Recordings(Protocol):
    """How files become samples of a model that takes no picture. what: how samples are called in the plural."""

    @property
    def what(self) -> str: ...

    def samples(self, files: Mapping[str, Path]) -> Mapping[str, Sequence[Path]]:
        """Files by their names -> samples by theirs, each of one file or more."""

    def read(self, files: Sequence[Path]) -> Batch:
        """One sample."""

    def joined(self, found: Sequence[Batch], ids: Sequence[str]) -> Batch:
        """Samples as the model takes them."""


@dataclass(frozen=True)
class Subject:
    """A model and how to talk to it.

    module: the network, never changed: shadows of it are asked.
    layout: layer name -> Layout, or None to have it found.
    call: (module, batch) -> output. read: output -> what targets take (logits (n, classes) for classifiers).
    layers: the default layers; () where they are not known. spec: where the model came from.
    classes: names of the classes, or ().
    prepare: picture files or images -> Batch, or None. recordings: how files are read where the model takes no picture. listing: the command that lists its layers, for messages.
    extra_tokens: how many tokens before those of the picture there are, where it was said; None: it is found.
    example: samples of the kind that the model takes, where that is no picture; or None.
    tower: how texts are put beside its pictures, or None for a model that knows no words.
    speaker: (what is said to it, answers) -> a subject whose classes are those answers; None for a model that does not write.
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
    example: Batch | None = None
    tower: TextTower | None = None
    speaker: Callable[[str, Sequence[str]], Subject] | None = None
    recordings: Recordings | None = None

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @contextmanager
    def asked(self, itself: bool = False) -> Iterator[Subject]:
        """The same subject with a shadow of its network, to be tapped and changed at will (see `shadow.shadowed`).

        itself: the network under a lock instead.
        """
        with shadowed(self.module, self.call, self.read, itself=itself) as module:
            yield replace(self, module=module)

    def output(self, batch: Batch) -> Any:
        """What targets take, for this batch, in the model's own device and precision."""
        first = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        x = batch.x if first is None else batch.x.to(first.device, first.dtype)

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.to(x.device, x.dtype if first is not None and value.is_floating_point() else value.dtype)

        extra, shared = ({key: moved(value) for key, value in part.items()} for part in (batch.extra, batch.shared))
        return self.read(self.call(self.module, replace(batch, x=x, extra=extra, shared=shared)))
