"""How well walks were recognised, by a protocol: numbers, tables of views, and who every probe was taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.kinds.pictured import Pictured
from torchloupe.store import plain

KIND = "gait evaluation"


class Failure(NamedTuple):
    """A probe whose nearest candidate is somebody else. to_match is NaN where the gallery has no right item."""

    probe: str
    setting: str
    answer: str
    to_answer: float
    match: str
    to_match: float


@dataclass(frozen=True)
class Outcome:
    """One setting: names of probes (n,), of their nearest candidates and nearest right ones ("" where there is none), the
    distances to them, the rank of the first right item and AP (n,), NaN without one; items: names of the gallery; views
    (V,); tables: k -> (V, V) share within rank k, probe views by gallery views."""

    probes: np.ndarray
    answers: np.ndarray
    matches: np.ndarray
    to_answer: np.ndarray
    to_match: np.ndarray
    first: np.ndarray
    precision: np.ndarray
    items: np.ndarray
    views: np.ndarray
    tables: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation(Pictured):
    """Every setting of a protocol, and what was asked.

    numbers: setting -> what the protocol reports, 0..1. hidden: part of the body -> the same, with that part of the probes
    black. told: how it was made, but for the kind's name.
    On disk: `SETTING/probes` and the other arrays of an Outcome, `SETTING/table/K`.
    """

    protocol: str
    metric: str
    exclude: str
    outcomes: Mapping[str, Outcome]
    numbers: Mapping[str, Mapping[str, float]]
    hidden: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        own = {"kind": KIND, "settings": list(self.outcomes)}
        names = ("protocol", "metric", "exclude", "numbers", "hidden")
        return plain({**self.told, **{name: getattr(self, name) for name in names}, **own})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        held: dict[str, np.ndarray] = {}
        for setting, outcome in self.outcomes.items():
            held |= {f"{setting}/{name}": getattr(outcome, name) for name in _ARRAYS}
            held |= {f"{setting}/table/{rank}": table for rank, table in outcome.tables.items()}
        return held

    def row(self) -> dict[str, Any]:
        """The numbers of every setting."""
        return {f"{setting} {name}": value for setting, some in self.numbers.items() for name, value in some.items()}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Evaluation:
        """From disk. Errors: BadInput where something is missing."""
        outcomes = {}
        for setting in record.get("settings", ()):
            missing = [part for part in _ARRAYS if f"{setting}/{part}" not in arrays]
            if missing:
                raise BadInput(
                    f"{name or 'evaluation'}: lacks {setting}/{missing[0]}; make it again with loupe gait eval"
                )
            start = f"{setting}/table/"
            tables = {int(key[len(start) :]): table for key, table in arrays.items() if key.startswith(start)}
            outcomes[setting] = Outcome(**{part: arrays[f"{setting}/{part}"] for part in _ARRAYS}, tables=tables)
        if not outcomes:
            raise BadInput(f"{name or 'evaluation'}: no setting in it; expected a result of loupe gait eval")
        names = ("protocol", "metric", "exclude", "numbers", "hidden")
        told = {key: value for key, value in record.items() if key not in (*names, "kind", "settings", "key")}
        protocol, metric, exclude = (str(record.get(key, "")) for key in names[:3])
        numbers, hidden = record.get("numbers", {}), record.get("hidden", {})
        return cls(protocol, metric, exclude, outcomes, numbers, hidden, told)

    def failures(self, settings: Sequence[str] = ()) -> list[Failure]:
        """Probes taken for somebody else, the farthest beyond the right item first, those without a right one last; each
        once, in the first setting that it is in."""
        found: dict[str, Failure] = {}
        for setting, one in self.outcomes.items():
            if settings and setting not in settings:
                continue
            for i in np.flatnonzero((one.answers != "") & (one.answers != one.matches)):
                probe = str(one.probes[i])
                far = float(one.to_answer[i]), float(one.to_match[i])
                found.setdefault(
                    probe, Failure(probe, setting, str(one.answers[i]), far[0], str(one.matches[i]), far[1])
                )
        return sorted(found.values(), key=_margin)


def _margin(one: Failure) -> tuple[bool, float]:
    known = np.isfinite(one.to_match)
    return not known, one.to_answer - one.to_match if known else one.to_answer


_ARRAYS = ("probes", "answers", "matches", "to_answer", "to_match", "first", "precision", "items", "views")
