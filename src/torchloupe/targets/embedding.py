"""Questions about an embedding: how strongly a picture is embedded at all, and how near it lies to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.outputs import Scores
from torchloupe.probe import Batch

SAME = 1e-3


@dataclass(frozen=True)
class Norm:
    """The length of the embedding:  Y = ||e||_2.

    Output (n, ...) -> scores (1, n), >= 0.
    Errors: BadInput where the model brings every embedding to length 1, whose gradient is 0.
    """

    def choose(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Nothing; the lengths are looked at once, on the unchanged input."""
        length = rows(output, batch).detach().norm(dim=1)
        if ((length - 1).abs() < SAME).all():
            raise BadInput(
                "this model brings every embedding to length 1, so its length says nothing; ask how near it is to "
                "another picture: --like PICTURE (Like in Python)"
            )
        return {}

    def __call__(self, output: Any, batch: Batch) -> Scores:
        return Scores(rows(output, batch).norm(dim=1)[None], (("length of the embedding",) * batch.n,))


@dataclass(frozen=True)
class Like:
    """Cosine similarity to k other embeddings:  Y_k = <e, r_k> / (||e||_2 ||r_k||_2).

    references (k, c); names: what they are called, k. Output (n, c) -> scores (k, n), in [-1, 1].
    Errors: BadInput where the embeddings have another length than the references, and for a reference of zeros.
    """

    references: Tensor = field(repr=False)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.references.ndim != 2 or not (self.references.norm(dim=1) > 0).all():
            raise BadInput(f"Like: expected references (k, c) that are not 0, found {tuple(self.references.shape)}")

    def __call__(self, output: Any, batch: Batch) -> Scores:
        found = rows(output, batch)
        if found.shape[1] != self.references.shape[1]:
            raise BadInput(
                f"Like: the references have {self.references.shape[1]} numbers, the embeddings {found.shape[1]}"
            )
        value = torch.nn.functional.cosine_similarity(self.references.to(found)[:, None], found[None], dim=2)
        names = self.names or tuple(map(str, range(len(self.references))))
        return Scores(value, tuple((f"like {name}",) * batch.n for name in names))


def embedding_words(words: Sequence[str], names: tuple[str, ...] = ()) -> Norm:
    """Words of an embedder -> Norm, for none and for "norm". Errors: BadInput for any other, as it has no classes."""
    wrong = [one for one in words if one.lower() not in ("norm", "predicted")]
    if wrong:
        raise BadInput(
            f"target {wrong[0]!r}: this model gives an embedding, which has no classes, and it has no text tower that would know "
            "words; leave it out for the embedding's length, "
            "give --like PICTURE for its similarity to another, or package.module:function"
        )
    return Norm()


def rows(output: Any, batch: Batch) -> Tensor:
    """Errors: BadInput unless output is (n, ...); every sample's numbers in one row, (n, c)."""
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[0] != batch.n:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadInput(f"targets of embeddings need an output ({batch.n}, numbers); the model gave {shape}")
    return output.flatten(1)
