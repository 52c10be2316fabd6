"""Numbers about an arrangement of points: do neighbours stay neighbours, do labels stay together, do two agree?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.errors import BadInput

EXACT = 10_000
DOUBLE = 3000
CACHED = 1 << 21


def distances(rows: Tensor, points: Tensor) -> Tensor:
    """Squared Euclidean distances, |a|^2 - 2ab + |b|^2: rows (q, d), points (N, d) -> (q, N), >= 0."""
    square = (points * points).sum(1)
    return torch.addmm(square[None], rows, points.T, alpha=-2).add_((rows * rows).sum(1)[:, None]).clamp_min_(0)


def nearest_neighbours(points: np.ndarray, count: int, *, pairs: int = 1 << 25) -> tuple[np.ndarray, np.ndarray]:
    """The count nearest other points of every point, by all distances: (N, d) -> indices (N, count), distances.

    Exact to float32 on centred points; nearest first. Memory: pairs distances at a time.
    """
    data = torch.as_tensor(points - points.mean(0, dtype=np.float64).astype(points.dtype))
    total = len(data)
    indices, lengths = np.empty((total, count), np.int32), np.empty((total, count), np.float32)
    for start, stop in _spans(total, max(1, pairs // total)):
        squared = distances(data[start:stop], data)
        squared[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf
        found = squared.topk(count, largest=False)
        indices[start:stop], lengths[start:stop] = found.indices, found.values.sqrt()
    return indices, lengths


def _spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, size):
        yield start, min(start + size, total)


@dataclass(frozen=True)
class Arrangement:
    """How an arrangement keeps what the features say. All in [0, 1] but silhouettes, in [-1, 1]; higher is better.

    trustworthiness: are the k neighbours on the map near in feature space? kept: share of the k nearest neighbours in
    feature space that are among the k nearest on the map. accuracy: leave-one-out k-NN accuracy of the labels, silhouette:
    mean silhouette of the labels, each in feature space and on the map; None without labels.
    k: neighbours asked for. asked: points whose neighbours were searched (among all `points`), below `points` a sample.
    """

    trustworthiness: float
    kept: float
    k: int
    asked: int
    points: int
    accuracy: tuple[float, float] | None = None
    silhouette: tuple[float, float] | None = None

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
    exact: int = EXACT,
) -> Arrangement:
    """The numbers of a projection: feats (N, D), coords (N, e), labels (N,).

    trustworthiness  T = 1 - 2 / (N k (2N - 3k - 1)) * sum_i sum_{j in map_k(i)} max(0, rank(i, j) - k)
    kept neighbours  R = 1 / (N k) * sum_i |map_k(i) & feats_k(i)|
    Up to `exact` points over all of them (in float64 up to 3000). Above, i runs over a random sample, but neighbours and ranks
    are still taken among all N: an unbiased estimate, not the numbers of a thinned cloud. k is at most N / 2 - 1
    (as T demands).
    Source: Venna and Kaski 2001, Neighborhood preservation in nonlinear projection methods, ICANN (trustworthiness);
    Rousseeuw 1987, Silhouettes, doi:10.1016/0377-0427(87)90125-7.
    """
    total = len(feats)
    k = min(k, (total - 1) // 2)
    if k < 1:
        raise BadInput(f"{total} points: trustworthiness needs at least 3")
    asked = np.arange(total) if total <= exact else _sample(total, seed)
    dtype = np.float64 if total <= DOUBLE else np.float32
    high, low = _tensor(feats, dtype), _tensor(coords, dtype)
    near_high, near_low, ranks = _neighbours(high, low, asked, k)
    penalty = float((ranks - k).clamp_min(0).sum())
    trust = 1 - 2 * penalty / (len(asked) * k * (2 * total - 3 * k - 1))
    kept = float((near_low[:, :, None] == near_high[:, None, :]).any(2).double().mean())
    if labels is None or len(np.unique(labels)) < 2:
        return Arrangement(trust, kept, k, len(asked), total)
    codes = torch.as_tensor(np.unique(labels, return_inverse=True)[1])
    accuracy = _accuracy(codes, near_high, asked), _accuracy(codes, near_low, asked)
    return Arrangement(trust, kept, k, len(asked), total, accuracy, _silhouettes(high, low, codes, exact, seed))


def _sample(total: int, seed: int) -> np.ndarray:
    count = min(int(np.clip(1e8 / total, 1000, EXACT)), total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def _tensor(values: np.ndarray, dtype: type) -> Tensor:
    """Centred, as float: differences of large numbers would lose the distances."""
    values = np.asarray(values, dtype)
    return torch.from_numpy(values - values.mean(0, dtype=np.float64).astype(dtype))


def _neighbours(high: Tensor, low: Tensor, asked: np.ndarray, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """For every asked point: k neighbours by features, k on the map, and the feature ranks of those (1 = nearest)."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for start, stop in _spans(len(asked), max(8, CACHED // len(high))):
        rows = torch.as_tensor(asked[start:stop])
        itself = torch.arange(len(rows)), rows
        far, near = distances(high[rows], high), distances(low[rows], low)
        far[itself] = near[itself] = torch.inf
        by_feats, by_map = _nearest(far, k), _nearest(near, k)
        theirs = far.gather(1, by_map)
        ranks = torch.stack([(far < theirs[:, i : i + 1]).sum(1) for i in range(k)], 1) + 1
        found.append((by_feats, by_map, ranks))
    high_near, low_near, ranks = (torch.cat(parts) for parts in zip(*found, strict=True))
    return high_near, low_near, ranks


def _nearest(squared: Tensor, k: int) -> Tensor:
    return squared.topk(k, largest=False).indices


def _accuracy(codes: Tensor, near: Tensor, asked: np.ndarray) -> float:
    """Share of points whose neighbours' most frequent label (the first of equals) is their own."""
    around = codes[near].sort(1).values
    votes = (around[:, :, None] == around[:, None, :]).sum(2)
    chosen = around.gather(1, votes.argmax(1, keepdim=True))[:, 0]
    return float((chosen == codes[asked]).double().mean())


def _silhouettes(high: Tensor, low: Tensor, codes: Tensor, exact: int, seed: int) -> tuple[float, float]:
    if len(high) > exact:
        rows = torch.as_tensor(np.random.default_rng(seed).choice(len(high), min(exact, 5000), replace=False))
        high, low, codes = high[rows], low[rows], codes[rows]
    return silhouette(high, codes), silhouette(low, codes)


def silhouette(points: Tensor, codes: Tensor) -> float:
    """Mean over points of s = (b - a) / max(a, b), a the mean distance to its own class, b to the nearest other one.

    points (N, d), codes (N,) class numbers -> [-1, 1]; a class of one point counts 0, fewer than two classes give nan.
    Source: Rousseeuw 1987, doi:10.1016/0377-0427(87)90125-7.
    """
    _, codes, sizes = codes.unique(return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return float("nan")
    member = points.new_zeros(len(points), len(sizes)).scatter_(1, codes[:, None], 1)
    total = 0.0
    for start, stop in _spans(len(points), max(8, CACHED // len(points))):
        own = codes[start:stop, None]
        lengths = distances(points[start:stop], points)
        lengths[torch.arange(stop - start), torch.arange(start, stop)] = 0
        sums = lengths.sqrt_() @ member
        inside = sums.gather(1, own)[:, 0] / (sizes[own[:, 0]] - 1).clamp_min(1)
        outside = (sums / sizes).scatter(1, own, torch.inf).amin(1)
        scores = (outside - inside) / torch.maximum(inside, outside).clamp_min(torch.finfo(points.dtype).tiny)
        total += float(scores[sizes[own[:, 0]] > 1].sum())
    return total / len(points)


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

    def most(self, count: int) -> np.ndarray:
        """Rows of the points that moved most, farthest first."""
        return np.argsort(-self.moved, kind="stable")[:count]


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
