"""How a training goes: an optimizer and what steps it, and the curve of one of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from torchloupe.errors import BadInput

Unit = Literal["iter", "epoch"]
PARAMETERS = ("lr", "momentum", "wd")


@dataclass(frozen=True)
class Mark:
    """Something to point at on the axis: a milestone (end None) or a span such as a warm-up, in units of its curve."""

    at: int
    label: str
    end: int | None = None


@dataclass(frozen=True)
class Ticker:
    """One scheduler: `step(done)` is called after every unit with the number of units done; inert after `until`."""

    step: Callable[[int], Any]
    per: Unit
    until: int | None = None


@dataclass(frozen=True)
class Acting:
    """What is known of one scheduler: from where to where it acts (end None: to the end of the training), in units of its own.

    period: units in which it comes to its end, such as T_max. milestones: where it drops. smooth: whether it changes at every unit.
    """

    name: str
    per: Unit
    begin: int = 0
    end: int | None = None
    period: int | None = None
    milestones: tuple[int, ...] = ()
    smooth: bool = False


@dataclass(frozen=True)
class Plan:
    """An optimizer and what steps it, for `length` units; `per_epoch` iterations an epoch (None: not known)."""

    name: str
    optimizer: Any
    tickers: tuple[Ticker, ...]
    length: int
    unit: Unit
    per_epoch: int | None = None
    groups: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()
    acting: tuple[Acting, ...] = ()

    def __post_init__(self) -> None:
        if self.length < 1:
            raise BadInput(f"{self.name}: a schedule of {self.length} {self.unit}s has nothing to show")
        if self.per_epoch is not None and self.per_epoch < 1:
            raise BadInput(f"{self.name}: {self.per_epoch} iterations an epoch; give a larger --dataset-size")
        if self.unit == "epoch" and any(ticker.per == "iter" for ticker in self.tickers):
            raise BadInput(f"{self.name}: a scheduler goes by iteration; give --dataset-size")


@dataclass(frozen=True)
class Curve:
    """One parameter of every group over a training: a step function that is exact at every unit.

    at (K,) int64, the unit from which row k of values (K, G) float64 holds until at[k + 1]; `at` starts with 0.
    """

    name: str
    parameter: str
    unit: Unit
    length: int
    at: np.ndarray
    values: np.ndarray
    groups: tuple[str, ...]
    per_epoch: int | None = None
    marks: tuple[Mark, ...] = field(default=())
    findings: tuple[str, ...] = ()

    def value(self, unit: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """The values (G,) or (len(unit), G) that held at a unit or at several."""
        return self.values[np.searchsorted(self.at, np.asarray(unit), side="right") - 1]

    def summary(self) -> list[dict[str, Any]]:
        """First, peak and last value of each group, and where the peak is first reached."""
        peaks = self.values.argmax(0)
        return [
            {
                "group": name,
                "first": float(self.values[0, g]),
                "peak": float(self.values[peaks[g], g]),
                "peak_at": int(self.at[peaks[g]]),
                "last": float(self.values[-1, g]),
            }
            for g, name in enumerate(self.groups)
        ]
