"""What a metric gives: numbers (k, n) of every map, and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

Better = Literal["high", "low", "neither"]


class Heat(NamedTuple):
    """One map as metrics take it: values (k, n, t, h, w) at its own resolution, and whether negative values carry meaning."""

    values: Tensor
    signed: bool = False


@dataclass(frozen=True)
class Number:
    """One number of every map.

    value: map -> (k, n) float64; NaN where there is none (an empty map, no truth).
    better: what speaks for a map. chance: its analytic level, (k, n) or (), where one is known.
    """

    value: Mapping[str, Tensor]
    better: Better
    chance: Tensor | None = None


@dataclass(frozen=True)
class Curve:
    """A score along what was taken away:  at (p,), the share of the input taken away;  value: map -> (k, n, p).

    taken: map -> (k, n, t, h, w) in cells, each of them as equal a part of the input as whole pixels allow: the number of the first
    point at which the cell is gone, p for one that stays; nothing where cells do not go one after the other. fill: what stood there.
    """

    at: Tensor
    value: Mapping[str, Tensor]
    taken: Mapping[str, Tensor] = field(default_factory=dict)
    fill: str = ""


@dataclass(frozen=True)
class Marks:
    """What one metric gives.

    numbers: name -> Number, the one that carries the metric's own name first. curves: name -> Curve.
    said: what the reader of the numbers should know, a line each.
    """

    numbers: Mapping[str, Number]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]
