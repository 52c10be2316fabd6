"""Which of the tensors that a model returns is asked about: chosen once, said once, with how to take another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, nearest
from torchloupe.probe import Kind
from torchloupe.trace import Trace

Path = tuple[int | str, ...]
# Keys by which frameworks call what is meant, the first found is taken.
ANSWERS: tuple[str, ...] = (
    "logits",
    "logits_per_image",
    "out",
    "output",
    "outputs",
    "pred",
    "preds",
    "prediction",
    "predictions",
)
ANSWERS = (*ANSWERS, "cls_logits", "class_logits", "cls", "scores", "score", "probs", "probabilities", "y")
EMBEDDINGS: tuple[str, ...] = (
    "image_embeds",
    "pooler_output",
    "image_features",
    "embedding",
    "embeddings",
    "embeds",
    "embed",
    "feats",
)
EMBEDDINGS = (*EMBEDDINGS, "features", "feature", "last_hidden_state")
# Taken without a word: there everybody means this tensor.
USUAL = ("logits", "out", "image_embeds", "pooler_output")


@dataclass(frozen=True)
class Read:
    """output -> the tensor at a path in it: (n, classes) for classifiers, (n, c) for embeddings, or as it is.

    single: one number a sample, (n,), is read as one class, (n, 1). pooled: an embedding with places (n, ..., c) or (n, c, ...)
    is their mean: tokens along axis 1, pictures over rows and columns.
    Errors: BadInput where there is no such tensor, and for whole or complex numbers, which have no gradient.
    """

    path: Path = ()
    single: bool = False
    pooled: bool = False

    def __call__(self, output: Any) -> Tensor:
        found = dict(parts(output)).get(self.path)
        if found is None:
            raise BadInput(f"the model's output has no tensor {word(self.path)}; it has {listed(parts(output))}")
        if not found.is_floating_point():
            raise BadInput(
                f"the model gives {found.dtype} numbers{'' if found.is_complex() else ' (a class, not its score?)'}, which have no "
                "gradient; give the model without that last step, or Subject(read=...)"
            )
        if self.single:
            return found[:, None]
        if self.pooled and found.ndim > 2:
            return found.mean(1) if found.ndim == 3 else found.flatten(2).mean(2)
        return found


def parts(output: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """Every tensor in an output, in order, with the keys and numbers that lead to it."""
    if isinstance(output, Tensor):
        return [(path, output)]
    inside: Any = ()
    if isinstance(output, Mapping):
        inside = output.items()
    elif hasattr(output, "_fields"):
        inside = zip(output._fields, output, strict=True)
    elif isinstance(output, (list, tuple)):
        inside = enumerate(output)
    elif is_dataclass(output) and not isinstance(output, type):
        inside = ((field.name, getattr(output, field.name)) for field in fields(output))
    return [found for key, value in inside for found in parts(value, (*path, key))]


def word(path: Path) -> str:
    """A path as people write it: 1, logits, aux.0."""
    return ".".join(map(str, path)) or "output"


def listed(found: Sequence[tuple[Path, Tensor]]) -> str:
    """'0 (1, 8), logits (1, 5)', at most eight."""
    shown = [f"{word(path)} {tuple(part.shape)}" for path, part in found[:8]]
    return ", ".join(shown) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "none"


def choose(
    output: Any, kind: Kind, module: nn.Module, trace: Trace, wanted: str | int | None, classes: int | None
) -> tuple[Read, list[str]]:
    """How an output is read, and what should be said about it.

    wanted: a path that was asked for. classes: how many there are, where that is known.
    Errors: BadInput for a path that is not there, and an output without a tensor.
    """
    found = parts(output)
    if not found:
        raise BadInput(
            f"the model returned {type(output).__name__}, in which no tensor was found; give Subject(read=...)"
        )
    said: list[str] = []
    if wanted is not None:
        by_word = {word(path): path for path, _ in found}
        if str(wanted) not in by_word:
            raise BadInput(f"output {wanted!r}: the model gives {listed(found)}.{nearest(str(wanted), by_word)}")
        path = by_word[str(wanted)]
    else:
        floats = [(path, part) for path, part in found if part.is_floating_point() and part.ndim] or found
        path = _meant(floats, kind, module, trace, classes)
        usual = len(path) == 1 and path[0] in USUAL
        if len(floats) > 1 and not usual:
            said.append(
                f"the model gives {len(floats)} tensors: {listed(floats)}; taken is {word(path)}, "
                f"another by --output (output= in Python)"
            )
    taken = dict(found)[path]
    single = kind == "classifier" and taken.ndim == 1 and taken.is_floating_point()
    pooled = kind == "embedder" and taken.ndim > 2
    if single:
        said.append("the model gives one number a sample, which is read as its only class, 0: what raises it is shown")
    elif kind == "classifier" and _sums_to_one(taken):
        said.append(
            "the model gives probabilities (a softmax): what raises a class against the others is shown, and nothing where it "
            "is certain; give the model without its softmax for what speaks for a class by itself"
        )
    if pooled:
        said.append(f"the embedding {word(path)} {tuple(taken.shape)} has places; its mean over them is taken")
    return Read(path, single, pooled), said


def _meant(
    found: Sequence[tuple[Path, Tensor]], kind: Kind, module: nn.Module, trace: Trace, classes: int | None
) -> Path:
    if len(found) == 1:
        return found[0][0]
    names = (*EMBEDDINGS, *ANSWERS) if kind == "embedder" else (*ANSWERS, *EMBEDDINGS)
    by_key = {str(path[-1]).lower(): path for path, _ in reversed(found) if len(path) == 1 and isinstance(path[0], str)}
    for name in names:
        if name in by_key:
            return by_key[name]
    shapes = [tuple(part.shape) for _, part in found]
    if all(part.ndim > 2 for _, part in found):
        return found[-1][0]  # stages of one answer, each better than the one before, or of a pyramid, each deeper
    flat = [(path, part) for path, part in found if part.ndim == 2]
    if kind != "embedder":
        for width in (classes, _last_linear(module, trace)):
            fit = [path for path, part in flat if part.shape[1] == width]
            if fit and len(set(shapes)) > 1:
                return fit[-1] if len(fit) < len(flat) else fit[0]
    return (flat or found)[0][0]


def _last_linear(module: nn.Module, trace: Trace) -> int | None:
    """The width of the linear layer that ran last."""
    known = dict(module.named_modules())
    for visit in reversed(trace.visits):
        last = known.get(visit.name)
        if isinstance(last, nn.Linear):
            return last.out_features
    return None


def _sums_to_one(taken: Tensor) -> bool:
    if taken.ndim != 2 or taken.shape[1] < 2 or not taken.is_floating_point():
        return False
    return bool(
        (taken >= 0).all() and torch.allclose(taken.float().sum(1), taken.new_ones(len(taken)).float(), atol=1e-3)
    )
