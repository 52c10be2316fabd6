"""Labels to look at again: pictures whose nearest neighbours, in the features of a network, are of another class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.methods.neighbours import nearest_neighbours

NEIGHBOURS = 10
# Less than this share of the way from chance to perfect agreement is hardly better than chance.
LITTLE = 0.1


@dataclass(frozen=True)
class Doubt:
    """A sample (its row), the class that most of its neighbours have, and their share among all of them."""

    row: int
    suggests: str
    share: float


@dataclass(frozen=True)
class Doubts:
    """The doubtful samples, the surest first.

    agreement: the share of neighbours of a sample's own class, mean over all; chance: what it would be among neighbours drawn by
    lot, sum_c n_c (n_c - 1) / (n (n - 1)). Features that do not tell the classes apart agree as chance does, and doubt nothing.
    """

    found: tuple[Doubt, ...]
    neighbours: int
    agreement: float
    chance: float

    @property
    def blind(self) -> bool:
        """Whether the features tell the classes hardly better apart than chance: (agreement - chance) / (1 - chance) < 0.1."""
        return self.agreement - self.chance < LITTLE * (1 - self.chance)

    def summary(self, names: Sequence[str], indices: Sequence[int], labels: Sequence[str]) -> dict[str, Any]:
        """Plain values; names, indices, labels of all rows."""
        listed = [
            {"index": indices[one.row], "name": names[one.row], "label": labels[one.row], "suggests": one.suggests,
             "share": one.share}
            for one in self.found
        ]  # fmt: skip
        return {"neighbours": self.neighbours, "agreement": self.agreement, "chance": self.chance, "blind": self.blind,
                "candidates": listed}  # fmt: skip


def doubts(feats: np.ndarray, labels: Sequence[str], count: int = NEIGHBOURS) -> Doubts:
    """feats (n, d), one label a row: of which samples more than half of the `count` nearest have one and the same other class.

    Nearest by the cosine of the features. Of fewer than count + 1 samples all others are neighbours.
    Errors: BadInput for fewer than three samples, one class only, or features that are not finite.
    Source: Zhu, Dong, Liu 2022, Detecting corrupted labels without training a model to predict, ICML, arXiv:2110.06283 (the vote of
    the nearest neighbours). Differs: one vote on the features as they are, without their repeats over subsets.
    """
    rows = np.asarray(feats, dtype=np.float32).reshape(len(feats), -1)
    classes = Counter(labels)
    if len(rows) < 3 or len(classes) < 2:
        raise BadInput(f"doubtful labels need three samples of two classes; there are {len(rows)} of {len(classes)}")
    if not np.isfinite(rows).all():
        raise BadInput("doubtful labels: features are NaN or infinite")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    count = min(count, len(rows) - 1)
    near = nearest_neighbours(rows / np.where(length > 0, length, 1), count).indices
    found, own = [], 0.0
    for row, (label, others) in enumerate(zip(labels, near.tolist(), strict=True)):
        votes = Counter(labels[k] for k in others)
        own += votes[label] / count
        suggests, most = max(votes.items(), key=lambda item: (item[1], item[0]))
        if suggests != label and 2 * most > count:
            found.append(Doubt(row, suggests, most / count))
    total = len(rows)
    chance = sum(n * (n - 1) for n in classes.values()) / (total * (total - 1))
    found.sort(key=lambda one: (-one.share, one.row))
    return Doubts(tuple(found), count, own / total, chance)
