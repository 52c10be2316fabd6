"""What is read from predicted and true joints: which are taken for which, means, and how sure a mean is.

Axes: n samples, j joints, d coordinates. NaN is what is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
NAN = float("nan")


class Inversions(NamedTuple):
    """taken[n, a, b]: joint a was predicted at joint b. swapped[n, a, b]: and b at a (symmetric)."""

    taken: Array
    swapped: Array


def inversions(predicted: ArrayLike, true: ArrayLike, weight: ArrayLike, reach: float = 10.0) -> Inversions:
    """a is taken for b  <=>  || pred_a - true_a || > reach  and  || pred_a - true_b || < reach,  both visible

    predicted and true (n, j, d) in input pixels, weight (n, j) -> two (n, j, j) of booleans.
    Source: He et al. 2023, CVPR, with their reach of 10 input pixels.
    """
    seen, real = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    away = np.linalg.norm(seen[:, :, None] - real[:, None], axis=-1)
    own = np.diagonal(away, axis1=-2, axis2=-1)
    visible = np.asarray(weight) > 0
    # a joint cannot be taken for itself: it would have to be both within reach and out of it
    taken = (own > reach)[:, :, None] & (away < reach) & visible[:, :, None] & visible[:, None]
    return Inversions(taken, taken & taken.swapaxes(-2, -1))


class RelationOfPairs(NamedTuple):
    """Mean RI over inverted pairs and over all other visible pairs, and how many there are of each."""

    inverted: float
    others: float
    inverted_pairs: int
    other_pairs: int


def relation_of_pairs(ri: ArrayLike, taken: ArrayLike, weight: ArrayLike) -> RelationOfPairs:
    """Mean RI[a, b] of the pairs where a was taken for b, against that of all other pairs of visible joints

    ri and taken (n, j, j), weight (n, j). NaN where there is no such pair.
    """
    values, seen = np.asarray(ri, np.float64), np.asarray(weight) > 0
    pairs = seen[:, :, None] & seen[:, None] & ~np.eye(values.shape[-1], dtype=bool) & np.isfinite(values)
    inverted, others = values[pairs & np.asarray(taken)], values[pairs & ~np.asarray(taken)]
    averages = [float(part.mean()) if part.size else NAN for part in (inverted, others)]
    return RelationOfPairs(averages[0], averages[1], inverted.size, others.size)


def means(values: Array) -> tuple[Array, float]:
    """Means by joint and over all, NaN left out; NaN where there is nothing. values (n, j)."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(0), known.sum(0)
    by_joint = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return by_joint, float(total.sum() / count.sum()) if count.sum() else float("nan")


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its bootstrap confidence interval, and the number of values.

    The ends are NaN where nothing is known of the spread: of fewer than two rows, or rows that all say the same.
    """

    mean: float
    low: float
    high: float
    count: int


def bootstrap(values: ArrayLike, seed: int = 0, draws: int = 2000, level: float = 0.95) -> Interval:
    """Mean and percentile bootstrap interval over the rows; NaN entries are left out of each draw's mean

    values (n,) or (n, j): whole rows are drawn, since the joints of one sample belong together.
    Source: Efron 1979, Bootstrap Methods: Another Look at the Jackknife, doi:10.1214/aos/1176344552.
    """
    held = np.asarray(values, np.float64)
    rows = held.reshape(len(held), -1)
    known = np.isfinite(rows)
    total, count = np.where(known, rows, 0.0).sum(1), known.sum(1)
    if not known.any():
        return Interval(NAN, NAN, NAN, 0)
    mean = float(total.sum() / count.sum())
    said = (total / np.maximum(count, 1))[count > 0]
    # an interval of no width would claim to know exactly what was seen once, or is constant
    if len(said) < 2 or np.ptp(said) == 0:
        return Interval(mean, NAN, NAN, int(count.sum()))
    pick = np.random.default_rng(seed).integers(len(rows), size=(draws, len(rows)))
    of, among = total[pick].sum(1), count[pick].sum(1)
    tail = (1 - level) / 2
    low, high = np.quantile(of[among > 0] / among[among > 0], [tail, 1 - tail]).tolist()
    return Interval(mean, low, high, int(count.sum()))
