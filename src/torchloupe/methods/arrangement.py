"""Numbers about an arrangement of points: do neighbours stay neighbours, do labels stay together, do two agree?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.methods.neighbours import Apart, block_rows, centred, dtype_for, halved, nearness, smallest, spans
from torchloupe.points import as_column, missing

EXACT = 10_000
DOUBLE = 3000


@dataclass(frozen=True)
class Each:
    """What a map keeps of every point, (N,) each, NaN for points that were not asked.

    kept: share of its k nearest in feature space among its k nearest on the map. trust: its part of the trustworthiness,
    1 where all its neighbours on the map are neighbours in feature space. stretch: log2 of the mean distance on the map to
    its k nearest in feature space over that in feature space, less the median of all: above 0 torn apart, below pressed
    together. worst: the row of the point around which (itself and its k nearest on the map) least is kept: around.
    """

    kept: np.ndarray
    trust: np.ndarray
    stretch: np.ndarray
    worst: int
    around: float

    @classmethod
    def of(cls, rows: np.ndarray, total: int, k: int, found: dict[str, list[np.ndarray]]) -> Each:
        """From the pieces of one pass over some rows."""
        kept, penalty, far, near, nearby = (
            np.concatenate(found[name]) for name in ("kept", "penalty", "far", "near", "by_map")
        )
        columns = [np.full(total, np.nan) for _ in range(3)]
        columns[0][rows] = kept / k
        columns[1][rows] = 1 - 2 * penalty / (k * (2 * total - 3 * k - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            stretch = np.log2(near) - np.log2(far)
        stretch[~np.isfinite(stretch)] = np.nan
        columns[2][rows] = stretch - (np.nanmedian(stretch) if np.isfinite(stretch).any() else 0)
        members = np.hstack([rows[:, None], nearby])
        known = np.isfinite(columns[0])[members]
        around = np.where(known, np.nan_to_num(columns[0])[members], 0).sum(1) / known.sum(1)
        worst = int(around.argmin())
        return cls(columns[0], columns[1], columns[2], int(rows[worst]), float(around[worst]))


@dataclass(frozen=True)
class Arrangement:
    """How an arrangement keeps what the features say. All in [0, 1] but silhouettes, in [-1, 1]; higher is better.

    trustworthiness: are the k neighbours on the map near in feature space? kept: share of the k nearest neighbours in
    feature space that are among the k nearest on the map. accuracy: leave-one-out k-NN accuracy of the labels, silhouette:
    mean silhouette of the labels, each in feature space and on the map; None without labels. Points without a label are
    left out of both.
    each: the same by point. k: neighbours asked for. asked: points whose neighbours were searched (among all `points`), below `points` a sample.
    """

    trustworthiness: float
    kept: float
    k: int
    asked: int
    points: int
    accuracy: tuple[float, float] | None = None
    silhouette: tuple[float, float] | None = None
    each: Each | None = None

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        found: dict[str, Any] = {
            "k": self.k,
            "trustworthiness": self.trustworthiness,
            "kept_neighbours": self.kept,
            "points_asked": self.asked,
            "points": self.points,
            "on_a_sample": self.asked < self.points,
        }
        if self.each is not None:
            found["worst"] = {"row": self.each.worst, "kept_around": self.each.around}
        if self.accuracy:
            found["knn_accuracy"] = {"features": self.accuracy[0], "map": self.accuracy[1]}
        if self.silhouette:
            found["silhouette"] = {"features": self.silhouette[0], "map": self.silhouette[1]}
        return found

    def doubts(self) -> list[str]:
        """Plain reasons not to trust the picture; empty where there are none."""
        found = []
        if self.trustworthiness < 0.8:
            found.append(
                f"trustworthiness {self.trustworthiness:.2f}: points that are neighbours in the picture are often not"
                " neighbours in feature space"
            )
        if self.kept < 0.1:
            found.append(
                f"only {self.kept:.0%} of the {self.k} nearest neighbours are kept: read groups, not single points"
            )
        if self.accuracy and self.accuracy[1] < self.accuracy[0] - 0.1:
            found.append(
                f"labels are told apart by {self.accuracy[0]:.0%} of neighbours in feature space but {self.accuracy[1]:.0%}"
                " in the picture: classes that overlap here are apart in the model"
            )
        if self.accuracy and self.accuracy[1] > self.accuracy[0] + 0.1:
            found.append(
                f"labels are told apart by {self.accuracy[1]:.0%} of neighbours in the picture but {self.accuracy[0]:.0%}"
                " in feature space: the picture separates more than the model does"
            )
        return found


def arrangement(
    feats: np.ndarray,
    coords: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    k: int = 15,
    seed: int = 1597,
    metric: str = "euclidean",
    exact: int = EXACT,
) -> Arrangement:
    """The numbers of a projection: feats (N, D), coords (N, e), labels (N,). metric: of feats, as Rows has it.

    trustworthiness  T = 1 - 2 / (N k (2N - 3k - 1)) * sum_i sum_{j in map_k(i)} max(0, rank(i, j) - k)
    kept neighbours  R = 1 / (N k) * sum_i |map_k(i) & feats_k(i)|
    Up to `exact` points over all of them (in float64 up to 3000, and wherever float32 would lose neighbours). Above, i runs over a random sample, but neighbours,
    ranks and silhouettes are still taken among all N: an unbiased estimate, not the numbers of a thinned cloud. All come
    from one pass over the distances. k is at most N / 2 - 1 (as T demands).
    Source: Venna and Kaski 2001, Neighborhood preservation in nonlinear projection methods, ICANN (trustworthiness);
    Rousseeuw 1987, Silhouettes, doi:10.1016/0377-0427(87)90125-7.
    """
    total = len(feats)
    k = min(k, (total - 1) // 2)
    if k < 1:
        raise BadInput(f"{total} points: trustworthiness needs at least 3")
    asked = np.arange(total) if total <= exact else _sample(total, seed)
    high = _space(feats, k) if metric == "euclidean" else Apart(feats, metric)
    low = _space(coords, k)
    classes = None if labels is None else Labels.of(labels)
    if classes is not None and len(classes.sizes) < 2:
        classes = None
    penalty = kept = 0.0
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in ("kept", "penalty", "far", "near", "by_map")}
    right, scores = np.zeros(2), np.zeros(2)
    for start, stop in spans(len(asked), block_rows(total)):
        rows = asked[start:stop]
        far, near = high.nearness(rows), low.nearness(rows)
        by_feats, by_map = smallest(far, k)[1], smallest(near, k)[1]
        worse = (_ranks(far, by_map) - k).clip(0).sum(1)
        same = (by_map[:, :, None] == by_feats[:, None, :]).sum((1, 2))
        penalty, kept = penalty + float(worse.sum()), kept + float(same.sum())
        pieces["penalty"].append(worse)
        pieces["kept"].append(same)
        pieces["by_map"].append(by_map)
        pieces["far"].append(high.chosen(rows, far, by_feats).mean(1))
        pieces["near"].append(low.chosen(rows, near, by_feats).mean(1))
        if classes is not None:
            right += classes.voted(rows, by_feats), classes.voted(rows, by_map)
            scores += (
                classes.silhouettes(rows, high.lengths(rows, far)),
                classes.silhouettes(rows, low.lengths(rows, near)),
            )
    trust = 1 - 2 * penalty / (len(asked) * k * (2 * total - 3 * k - 1))
    each = Each.of(asked, total, k, pieces)
    found = Arrangement(trust, kept / (len(asked) * k), k, len(asked), total, each=each)
    if classes is None:
        return found
    labelled = max(1, int((classes.codes[asked] >= 0).sum()))
    accuracy, silhouette = (right / labelled).tolist(), (scores / labelled).tolist()
    return replace(found, accuracy=(accuracy[0], accuracy[1]), silhouette=(silhouette[0], silhouette[1]))


def _space(points: np.ndarray, k: int) -> Space:
    return Space.of(points, np.float64 if len(points) <= DOUBLE else dtype_for(points, k))


def _sample(total: int, seed: int) -> np.ndarray:
    count = min(int(np.clip(1e8 / total, 1000, EXACT)), total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


@dataclass(frozen=True)
class Space:
    """Points (N, d) around their mean, and half of the square of their lengths (N,)."""

    points: np.ndarray
    halves: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, dtype: type) -> Space:
        """The space of some points, in float32 or float64."""
        data = centred(points, dtype)
        return cls(data, halved(data))

    def nearness(self, rows: np.ndarray) -> np.ndarray:
        """(q, N): orders all points as their distances from those of the rows do; the point itself is last."""
        found = nearness(self.points[rows], self.points, self.halves)
        found[np.arange(len(rows)), rows] = np.inf
        return found

    def chosen(self, rows: np.ndarray, near: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Distances (q, k) to the chosen columns."""
        return np.sqrt((2 * (np.take_along_axis(near, columns, 1) + self.halves[rows, None])).clip(0))

    def lengths(self, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Distances (q, N) from nearness, in its place; 0 to the point itself."""
        near += self.halves[rows, None]
        near *= 2
        near[np.arange(len(rows)), rows] = 0
        return np.sqrt(near.clip(0, out=near), out=near)


@dataclass(frozen=True)
class Labels:
    """A label of every point as a code (N,), -1 for none, the labelled points class by class, how many are in each."""

    codes: np.ndarray
    order: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Labels:
        """From any values."""
        labels = as_column(labels)
        codes, known = np.full(len(labels), -1), np.flatnonzero(~missing(labels))
        codes[known], sizes = np.unique(labels[known], return_inverse=True, return_counts=True)[1:]
        return cls(codes, known[np.argsort(codes[known], kind="stable")], sizes)

    def voted(self, rows: np.ndarray, near: np.ndarray) -> int:
        """How many points' neighbours (q, k) have as their most frequent label (the first of equals) the point's own."""
        rows, near = rows[self.codes[rows] >= 0], near[self.codes[rows] >= 0]
        around = np.sort(self.codes[near], 1)
        votes = (around[:, :, None] == around[:, None, :]).sum(2) * (around >= 0)
        chosen = np.take_along_axis(around, votes.argmax(1)[:, None], 1)[:, 0]
        return int((chosen == self.codes[rows]).sum())

    def silhouettes(self, rows: np.ndarray, lengths: np.ndarray) -> float:
        """Sum over rows of s = (b - a) / max(a, b), a the mean distance to its own class, b to the nearest other one.

        lengths (q, N): distances to all points. 0 for the only point of a class.
        """
        rows, lengths = rows[self.codes[rows] >= 0], lengths[self.codes[rows] >= 0]
        first = np.cumsum(self.sizes) - self.sizes
        sums = np.add.reduceat(np.take(lengths, self.order, 1), first, 1)
        each, own = np.arange(len(rows)), self.codes[rows]
        inside = sums[each, own] / (self.sizes[own] - 1).clip(1)
        means = sums / self.sizes
        means[each, own] = np.inf
        outside = means.min(1)
        scores = (outside - inside) / np.maximum(inside, outside).clip(np.finfo(lengths.dtype).tiny)
        return float(scores[self.sizes[own] > 1].sum())


def _ranks(near: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rank of the chosen columns (q, k) among all of their row (q, N), 1 the smallest; equals share the best."""
    values = np.take_along_axis(near, chosen, 1)
    ranks = np.empty(values.shape, np.int64)
    for row, (all_of, theirs, bound) in enumerate(zip(near, values, values.max(1), strict=True)):
        ranks[row] = np.sort(all_of[all_of < bound]).searchsorted(theirs) + 1
    return ranks


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear CKA:  |Y'X|_F^2 / (|X'X|_F |Y'Y|_F), X and Y centred over the samples.

    first (N, D1), second (N, D2), row i the same sample -> [0, 1]; 1 for features equal up to rotation and scale.
    Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, arXiv:1905.00414.
    """
    _same_length(first, second)
    x, y = (np.asarray(feats, np.float64) - feats.mean(0, dtype=np.float64) for feats in (first, second))
    if len(x) < min(x.shape[1], y.shape[1]):
        gram_x, gram_y = x @ x.T, y @ y.T
        cross, own = float((gram_x * gram_y).sum()), np.linalg.norm(gram_x) * np.linalg.norm(gram_y)
    else:
        cross, own = float(np.linalg.norm(y.T @ x) ** 2), np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if own == 0:
        raise BadInput("linear CKA: all rows of one of the two are equal, so there is nothing to compare")
    return cross / float(own)


@dataclass(frozen=True)
class Aligned:
    """A map laid on another: coords (N, e) in the other's frame, and how far each point is from its twin.

    disparity: what is left of the other's variance after the alignment, 0 equal up to rotation, mirror and scale.
    """

    coords: np.ndarray
    moved: np.ndarray
    disparity: float

    def as_wide_as(self, reference: np.ndarray) -> np.ndarray:
        """The same places in the spread of the other map: least squares shrink a map that has little to do with it to a spot."""
        centre = self.coords.mean(0)
        wide, own = (float(np.sqrt(((one - one.mean(0)) ** 2).sum())) for one in (reference, self.coords))
        return centre + (self.coords - centre) * (wide / own if own else 1.0)

    def most(self, count: int) -> np.ndarray:
        """Rows of the points that moved most, farthest first; without those that rounding alone moved (a millionth of the map)."""
        order = np.argsort(-self.moved, kind="stable")[:count]
        return order[self.moved[order] > 1e-6 * float(np.ptp(self.coords, axis=0).max(initial=0))]


def procrustes(reference: np.ndarray, other: np.ndarray) -> Aligned:
    """Lay one map on another:  min over rotation or mirror R, scale s, shift t of |reference - (s other R + t)|_F.

    reference (N, e), other (N, e), row i the same sample. The reference stays as it is.
    Source: Schoenemann 1966, A generalized solution of the orthogonal Procrustes problem, doi:10.1007/BF02289451.
    Differs: only `other` is scaled, so that the reference keeps its own units.
    """
    _same_length(reference, other)
    if reference.shape != other.shape:
        raise BadInput(f"maps of {reference.shape[1]} and {other.shape[1]} dimensions; project both to the same number")
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    centre, a, b = a.mean(0), a - a.mean(0), b - b.mean(0)
    left, weights, right = np.linalg.svd(b.T @ a)
    spread = float((b**2).sum())
    coords = (weights.sum() / spread if spread else 0.0) * b @ (left @ right) + centre
    moved = np.linalg.norm(coords - centre - a, axis=1)
    return Aligned(coords, moved, float((moved**2).sum() / max((a**2).sum(), np.finfo(float).tiny)))


def _same_length(first: np.ndarray, second: np.ndarray) -> None:
    if len(first) != len(second):
        raise BadInput(f"{len(first)} and {len(second)} samples; a comparison needs the same samples in the same order")
