"""How sure a mean is, and whether two methods differ: the unit is the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000


def per_sample(values: Floats) -> Floats:
    """(k, n) -> (n,): mean over the questions of a sample that have a number, NaN where none has."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total: Floats = np.where(known, values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(values: Floats, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of (n,), NaN left out; (NaN, NaN) for fewer than two.

    Source: Efron 1979, Bootstrap methods: another look at the jackknife, Annals of Statistics 7.
    """
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(len(values), size=(len(part), len(values)))].mean(1)
            for part in _parts(resamples, len(values))
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _parts(resamples: int, n: int) -> list[range]:
    """The resamples in pieces of a few million numbers."""
    size = max(1, 4_000_000 // max(n, 1))
    return [range(begin, min(begin + size, resamples)) for begin in range(0, resamples, size)]


def sign_flip(differences: Floats, *, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a mean difference of 0 under flips of the signs of paired differences (n,), NaN left out.

    All 2^n flips where there are at most `flips` of them, else as many random ones, the observed one among them.
    """
    values = differences[~np.isnan(differences)]
    n = len(values)
    if n == 0:
        return float("nan")
    if 2**n <= flips:
        signs = 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        means = np.abs(signs @ values) / n
        return float((means >= abs(values.mean()) * (1 - 1e-12)).mean())
    rng = np.random.default_rng(seed)
    beyond = sum(
        int(
            (
                np.abs(rng.choice([-1.0, 1.0], size=(len(part), n)) @ values) / n >= abs(values.mean()) * (1 - 1e-12)
            ).sum()
        )
        for part in _parts(flips - 1, n)
    )
    return (beyond + 1) / flips


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number; NaN stays and is not counted.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.
    """
    found = [float("nan")] * len(p)
    order = sorted((i for i, one in enumerate(p) if not np.isnan(one)), key=lambda i: p[i])
    most = 0.0
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(order) - place) * p[i]))
        found[i] = most
    return found


@dataclass(frozen=True)
class Row:
    """One line of the table: the mean of a number over the samples, its 95 % interval, and how many samples have none.

    chance: the mean of the analytic level, NaN where none is known. control: whether it is a map that knows nothing.
    """

    number: str
    map: str
    mean: float
    low: float
    high: float
    samples: int
    missing: int
    better: str
    chance: float
    control: bool


@dataclass(frozen=True)
class Rank:
    """One method in the order by one number. rank: 1 is the best; low and high: its 95 % interval over resampled samples.

    behind: paired difference to the best (best - this, so that more is worse), with its interval; p: of no difference, after
    Holm. n: samples in which all methods have a number.
    """

    name: str
    mean: float
    rank: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float
    p: float
    n: int


def ranking(values: dict[str, Floats], better: str, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Rank]:
    """name -> (n,) numbers of the same samples -> the names from best to worst. Samples that lack one are left out for all.

    better: "high" or "low".
    """
    names = list(values)
    table = np.stack([values[name] for name in names])
    table = table[:, ~np.isnan(table).any(0)]
    n = table.shape[1]
    if n == 0:
        nothing = float("nan")
        return [
            Rank(
                name,
                mean=nothing,
                rank=nothing,
                low=nothing,
                high=nothing,
                behind=nothing,
                behind_low=nothing,
                behind_high=nothing,
                p=nothing,
                n=0,
            )
            for name in names
        ]
    good = table if better == "high" else -table
    means = good.mean(1)
    best = int(means.argmax())
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [good[:, rng.integers(n, size=(len(part), n))].mean(2) for part in _parts(resamples, n * len(names))], 1
    )
    ranks = 1 + (drawn[None, :] > drawn[:, None]).sum(1)
    others = [i for i in range(len(names)) if i != best]
    corrected = dict(zip(others, holm([sign_flip(good[best] - good[i], seed=seed) for i in others]), strict=True))
    found = []
    for i, name in enumerate(names):
        low, high = np.quantile(ranks[i], [0.025, 0.975])
        gap = good[best] - good[i]
        ends = interval(gap, resamples=resamples, seed=seed) if i != best else (0.0, 0.0)
        place = 1.0 + float((means > means[i]).sum())
        p = corrected.get(i, float("nan"))
        found.append(
            Rank(name, float(table[i].mean()), place, float(low), float(high), float(gap.mean()), *ends, float(p), n)
        )
    return sorted(found, key=lambda one: one.rank)


def rows(numbers: Mapping[str, tuple[Mapping[str, Floats], str, Floats | None]], controls: Sequence[str]) -> list[Row]:
    """name -> (map -> (k, n), what is better, the level of chance) -> the lines of the table."""
    found = []
    for label, (values, better, level) in numbers.items():
        for name, value in values.items():
            each = per_sample(value)
            known = each[~np.isnan(each)]
            mean = float(known.mean()) if len(known) else float("nan")
            chance = float("nan")
            if level is not None:
                told = per_sample(np.broadcast_to(level, value.shape))
                told = told[~np.isnan(each) & ~np.isnan(told)]
                chance = float(told.mean()) if len(told) else float("nan")
            counts = (len(known), len(each) - len(known))
            found.append(Row(label, name, mean, *interval(each), *counts, better, chance, name in controls))
    return found
