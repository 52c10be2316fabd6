"""Heatmaps of one sample with numbers of how far each can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.kinds.maps import Heatmaps
from torchloupe.store import plain

if TYPE_CHECKING:
    from torchloupe.metrics.judge import Judgement

Some = TypeVar("Some", bound="Judged")


class Told(NamedTuple):
    """One number of every map: map -> (k,), NaN where there is none; what is better; the analytic level of chance (k,) or None."""

    value: Mapping[str, np.ndarray]
    better: str
    chance: np.ndarray | None


class Line(NamedTuple):
    """One curve of every map: at (p,), map -> (k, p).

    taken: map that is no control -> (k, t, h, w) in cells, the number of the first point at which each is gone, p for never;
    fill: what stood there.
    """

    at: np.ndarray
    value: Mapping[str, np.ndarray]
    taken: Mapping[str, np.ndarray] = MappingProxyType({})
    fill: str = ""


@dataclass(frozen=True)
class Judged(Heatmaps):
    """Heatmaps with numbers and curves; maps are METHOD/LAYER there, and the names in controls, which know nothing.

    On disk beside the heatmaps' own: `curve/NAME/MAP` (k, p) and `taken/NAME/MAP` (k, t, h, w), see Line; the numbers are in the
    record under "judged", with what is better, chance, the controls, and what the reader should know (said).
    """

    numbers: Mapping[str, Told] = field(default_factory=dict)
    curves: Mapping[str, Line] = field(default_factory=dict)
    controls: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    def with_numbers(self: Some, found: Judgement, sample: int, **more: Any) -> Some:
        """The same with the numbers of one sample of a judgement; more: what else its record says."""
        row = lambda value: np.asarray(value[:, sample].numpy(), dtype=np.float64)
        numbers = {
            name: Told(
                {key: row(value) for key, value in number.value.items()},
                number.better,
                None if number.chance is None else row(number.chance.expand(len(self.questions), len(found.ids))),
            )
            for name, number in found.numbers.items()
        }
        curves = {
            name: Line(
                curve.at.numpy(),
                {key: row(value) for key, value in curve.value.items()},
                {key: one[:, sample].numpy() for key, one in curve.taken.items() if key not in found.controls},
                curve.fill,
            )
            for name, curve in found.curves.items()
        }
        told = {
            "numbers": {
                name: {"better": one.better, "chance": one.chance, "value": dict(one.value)}
                for name, one in numbers.items()
            },
            "curves": {
                name: {"at": one.at, "maps": list(one.value), "taken": list(one.taken), "fill": one.fill}
                for name, one in curves.items()
            },
            "controls": found.controls,
            "said": found.said,
            **more,
        }
        record = {**self.record, "kind": "judged", "judged": plain(told)}
        return replace(self, record=record, numbers=numbers, curves=curves, controls=found.controls, said=found.said)

    def only(self: Some, methods: Sequence[str] = (), layers: Sequence[str] = (), targets: Sequence[str] = ()) -> Some:
        """As of heatmaps; numbers and curves of the questions that stay."""
        found = super().only(methods, layers, targets)
        rows = [k for k, name in enumerate(self.questions) if name in found.questions]
        some = lambda values: {key: value[rows] for key, value in values.items()}
        numbers = {
            name: one._replace(value=some(one.value), chance=None if one.chance is None else one.chance[rows])
            for name, one in self.numbers.items()
        }
        curves = {name: one._replace(value=some(one.value), taken=some(one.taken)) for name, one in self.curves.items()}
        return replace(found, numbers=numbers, curves=curves)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        lines = {f"curve/{name}/{key}": value for name, one in self.curves.items() for key, value in one.value.items()}
        taken = {f"taken/{name}/{key}": value for name, one in self.curves.items() for key, value in one.taken.items()}
        return super().arrays() | lines | taken

    def row(self) -> dict[str, Any]:
        """The question and its score, and every number of every map that is not a control, the mean over the questions."""
        numbers = {
            f"{name} {key}": float(value[~np.isnan(value)].mean()) if not np.isnan(value).all() else float("nan")
            for name, one in self.numbers.items()
            for key, value in one.value.items()
            if key not in self.controls
        }
        return super().row() | numbers

    @classmethod
    def read(cls: type[Some], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Some:
        """From disk. Errors: BadInput where something is missing or odd."""
        found = super().read(arrays, record, name)
        told = record.get("judged")
        if told is None and record.get("kind") == "maps":
            return found
        try:
            assert isinstance(told, Mapping)
            numbers = {
                label: Told(
                    {key: _floats(value) for key, value in one["value"].items()},
                    str(one["better"]),
                    None if one.get("chance") is None else _floats(one["chance"]),
                )
                for label, one in told["numbers"].items()
            }
            curves = {
                label: Line(
                    _floats(one["at"]),
                    {key: arrays[f"curve/{label}/{key}"] for key in one["maps"]},
                    {key: arrays[f"taken/{label}/{key}"] for key in one.get("taken", ())},
                    str(one.get("fill", "")),
                )
                for label, one in told["curves"].items()
            }
            controls, said = (tuple(str(word) for word in told[part]) for part in ("controls", "said"))
        except (AssertionError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{found.id}: no whole judgement in it ({type(error).__name__}: {error}); make it again"
            ) from error
        k = len(found.questions)
        for label, one in numbers.items():
            if any(value.shape != (k,) for value in one.value.values()):
                raise BadInput(f"{found.id}: number {label} does not fit {k} questions")
        for label, line in curves.items():
            for part in line.taken.values():
                if part.ndim != 4 or len(part) != k or part.dtype.kind not in "iu":
                    raise BadInput(
                        f"{found.id}: what was taken away along {label} is {part.shape} {part.dtype}; make it again"
                    )
        return replace(found, numbers=numbers, curves=curves, controls=controls, said=said)


def _floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values])
