"""Questions about classes: which score of a classifier is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.errors import BadInput, nearest
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Target

PLACES = ("boxes", "labels", "region")


INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


@dataclass(frozen=True)
class Top:
    """The k classes that score highest, sample by sample; Top(1) is the predicted class.

    Output (n, classes) -> scores (k, n), the logits of the chosen classes.
    """

    k: int = 1
    names: tuple[str, ...] = field(default=(), repr=False)

    def with_names(self, names: tuple[str, ...]) -> Top:
        """The same question, its classes named, where they were not."""
        return self if self.names else replace(self, names=names)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"classes": (n, k)}, the best first."""
        logits = check_logits(output, batch)
        if not 1 <= self.k <= logits.shape[1]:
            raise BadInput(f"top {self.k} of {logits.shape[1]} classes; expected 1 to {logits.shape[1]}")
        return {"classes": logits.detach().topk(self.k, dim=1).indices}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        chosen = (batch.asked or self.choose(output, batch))["classes"]
        return picked(output, chosen, self.names)


@dataclass(frozen=True)
class Classes:
    """The same classes for every sample, by index or by name: one, several, or a tensor or array of indices.

    Output (n, classes) -> scores (k, n), their logits.
    Errors: BadInput for an index out of range, an unknown name or one that fits several classes.
    """

    wanted: tuple[int | str, ...]
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wanted", class_ids(self.wanted))

    def with_names(self, names: tuple[str, ...]) -> Classes:
        """The same question, its classes named, where they were not."""
        return self if self.names else replace(self, names=names)

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        logits = check_logits(output, batch)
        index = [class_index(one, self.names, logits.shape[1]) for one in self.wanted]
        return picked(logits, torch.tensor(index).expand(batch.n, -1), self.names)


@dataclass(frozen=True)
class Each:
    """One class a sample, in order: as many classes as samples, also as a tensor or array: Each(output.argmax(1)).

    Output (n, classes) -> scores (1, n).
    Errors: BadInput where the numbers of classes and samples differ.
    """

    wanted: tuple[int | str, ...]
    names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wanted", class_ids(self.wanted))

    def with_names(self, names: tuple[str, ...]) -> Each:
        """The same question, its classes named, where they were not."""
        return self if self.names else replace(self, names=names)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"classes": (n, 1)}."""
        logits = check_logits(output, batch)
        if len(self.wanted) != batch.n:
            raise BadInput(f"{len(self.wanted)} targets for {batch.n} pictures; give one a picture, or Classes for all")
        return {"classes": torch.tensor([[class_index(one, self.names, logits.shape[1])] for one in self.wanted])}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        chosen = (batch.asked or self.choose(output, batch))["classes"]
        return picked(output, chosen, self.names)


@dataclass(frozen=True)
class Truth:
    """The true class of each sample, from batch.truth["label"] (n,).

    Output (n, classes) -> scores (1, n).
    Errors: BadInput where no label is known.
    """

    names: tuple[str, ...] = field(default=(), repr=False)

    def with_names(self, names: tuple[str, ...]) -> Truth:
        """The same question, its classes named, where they were not."""
        return self if self.names else replace(self, names=names)

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        logits = check_logits(output, batch)
        label = batch.truth.get("label")
        if label is None:
            raise BadInput("the true class is not known: the batch has no truth['label']")
        bad = ((label < 0) | (label >= logits.shape[1])).nonzero().flatten().tolist()
        if bad:
            raise BadInput(
                f"label {int(label[bad[0]])} of {batch.ids[bad[0]]}: the model has {logits.shape[1]} classes"
            )
        return picked(logits, label.view(-1, 1), self.names)


@dataclass(frozen=True)
class Several:
    """The questions of several targets, one after the other."""

    targets: tuple[Target, ...]

    def with_names(self, names: tuple[str, ...]) -> Several:
        """The same questions, their classes named, where they were not."""
        named = (getattr(target, "with_names", None) for target in self.targets)
        return Several(tuple(name(names) if name else old for name, old in zip(named, self.targets, strict=True)))

    def choose(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The choices of each target under its number; places (PLACES) that every target has chosen, together as well."""
        chosen = []
        for target in self.targets:
            choose = getattr(target, "choose", None)
            chosen.append(choose(output, batch) if choose else {})
        return self._numbered(chosen)

    @property
    def mirrored(self) -> Callable[[Mapping[str, Tensor], Batch], Mapping[str, Tensor]] | None:
        """What was chosen, for the batch with left and right changed over; None where no target chooses places."""
        turns = [getattr(target, "mirrored", None) for target in self.targets]
        if not any(turns):
            return None

        def mirrored(asked: Mapping[str, Tensor], batch: Batch) -> Mapping[str, Tensor]:
            own = [self._own(asked, number) for number in range(len(self.targets))]
            return self._numbered([turn(one, batch) if turn else one for turn, one in zip(turns, own, strict=True)])

        return mirrored

    def _numbered(self, chosen: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found = {f"{number}:{name}": value for number, one in enumerate(chosen) for name, value in one.items()}
        for name in PLACES:
            if all(name in one for one in chosen):
                found[name] = torch.cat([one[name] for one in chosen], 1)
        if all("detections" in one for one in chosen):
            found["detections"] = max((one["detections"] for one in chosen), key=lambda listed: listed.shape[1])
        return found

    def _own(self, asked: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        return {name.partition(":")[2]: v for name, v in asked.items() if name.startswith(f"{number}:")}

    def __call__(self, output: Any, batch: Batch) -> Scores:
        answers = []
        for number, target in enumerate(self.targets):
            answers.append(target(output, replace(batch, asked=self._own(batch.asked, number))))
        labels = tuple(row for _, rows in answers for row in rows)
        return Scores(torch.cat([value for value, _ in answers]), labels)


def check_logits(output: Tensor, batch: Batch) -> Tensor:
    """Errors: BadInput unless output is (n, classes)."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != batch.n:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadInput(f"class targets need an output (samples, classes) = ({batch.n}, ...); the model gave {shape}")
    return output


def picked(logits: Tensor, index: Tensor, names: tuple[str, ...]) -> Scores:
    """logits (n, classes), index (n, k) -> scores (k, n) with class names as labels."""
    index = index.to(logits.device)
    labels = tuple(tuple(names[i] if i < len(names) else str(i) for i in row) for row in index.T.tolist())
    return Scores(logits.gather(1, index).T, labels)


def class_ids(wanted: Any) -> tuple[int | str, ...]:
    """One class or many, as people have them at hand: index, name, tensor, array, or a sequence of these.

    Errors: BadInput for what is none of them.
    """
    if isinstance(wanted, str):
        return (wanted,)
    if isinstance(wanted, (Tensor, np.ndarray, np.generic)):
        if wanted.ndim > 1 or not (wanted.dtype in INTEGERS or getattr(wanted.dtype, "kind", "") in ("i", "u")):
            raise BadInput(
                f"classes: an array of shape {tuple(wanted.shape)} and type {wanted.dtype}; expected whole numbers, one axis"
            )
        return tuple(int(one) for one in wanted.reshape(-1).tolist())
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        return (wanted,)
    if isinstance(wanted, Iterable):
        return tuple(one for part in wanted for one in class_ids(part))
    raise BadInput(f"class {wanted!r}: expected an index, a name, or several of them")


def class_index(wanted: int | str, names: tuple[str, ...], count: int) -> int:
    """A class by index or name; a name may be one of several that a class has ("tabby, tabby cat").

    Errors: BadInput that offers the nearest names.
    """
    if isinstance(wanted, int) or wanted.isdigit():
        index = int(wanted)
        if not 0 <= index < count:
            raise BadInput(f"class {index}: the model has {count} classes, 0 to {count - 1}")
        return index
    if not names:
        raise BadInput(f"class {wanted!r}: this model has no class names; give an index from 0 to {count - 1}")
    low = wanted.lower().strip()
    whole = [i for i, name in enumerate(names) if name.lower() == low]
    parts = [i for i, name in enumerate(names) if low in [part.strip().lower() for part in name.split(",")]]
    found = whole or parts
    if len(found) > 1:
        raise BadInput(f"class {wanted!r} fits {len(found)} classes: {', '.join(map(str, found))}; give the index")
    if not found:
        raise BadInput(f"no class {wanted!r}.{nearest(wanted, names)}")
    return found[0]
