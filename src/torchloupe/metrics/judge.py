"""Several metrics of several methods' maps on the same samples, chance beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchloupe.errors import BadInput, nearest
from torchloupe.metrics.asking import Asking, Value
from torchloupe.metrics.chance import controls
from torchloupe.metrics.distance import far
from torchloupe.metrics.marks import Curve, Heat, Marks, Number
from torchloupe.metrics.registry import Metric, checked, heats_of, named, options_of
from torchloupe.metrics.statistics import Floats, Rank, Row, per_sample, ranking, rows
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe

DEFAULT = ("deletion", "insertion", "road")
TYPES: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float)}


@dataclass(frozen=True)
class Judgement:
    """Numbers of every map, and of maps that know nothing, on the same samples.

    marks: metric -> Marks, whose maps are METHOD/LAYER (LAYER for the maps of one method) and the names in controls.
    ids: the n samples; questions: k tuples of n names. forwards: inputs that went through the model. said: what the reader
    should know.
    """

    marks: Mapping[str, Marks]
    controls: tuple[str, ...]
    ids: tuple[str, ...]
    questions: tuple[tuple[str, ...], ...]
    forwards: int = 0
    said: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, Number]:
        """Every number by its name."""
        return {name: number for marks in self.marks.values() for name, number in marks.numbers.items()}

    @property
    def curves(self) -> dict[str, Curve]:
        """Every curve by its name."""
        return {name: curve for marks in self.marks.values() for name, curve in marks.curves.items()}

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]

    def rows(self) -> list[Row]:
        """The table: a line a number and map, the controls last."""
        return rows({name: _plain(number) for name, number in self.numbers.items()}, self.controls)

    def rank(self, number: str) -> list[Rank]:
        """The methods from best to worst by one number, see `ranking`. Errors: BadInput for a number in which none is better."""
        found = self.numbers.get(number)
        if found is None:
            raise BadInput(f"no number {number!r}.{nearest(number, self.numbers)} Known: {', '.join(self.numbers)}.")
        if found.better == "neither":
            raise BadInput(f"{number} ranks nothing: neither high nor low is good by itself")
        own = {name: per_sample(_array(value)) for name, value in found.value.items() if name not in self.controls}
        return ranking(own, found.better)


def _array(value: torch.Tensor) -> Floats:
    return value.detach().cpu().double().numpy()


def _plain(number: Number) -> tuple[dict[str, Floats], str, Floats | None]:
    level = None if number.chance is None else _array(number.chance)
    return {name: _array(value) for name, value in number.value.items()}, number.better, level


def judge(
    probe: Probe,
    batch: Batch,
    maps: Maps | Mapping[str, Maps],
    metrics: Sequence[str | Metric] = DEFAULT,
    *,
    chance: bool = True,
    value: Value = "score",
    chunk: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Judgement:
    """How far maps can be trusted: numbers (k, n) of each, and curves.

    probe, batch: those that the maps were made with. maps: of one method, or method -> Maps. metrics: names, or functions
    made by `metric`. chance: judge a random map, a centred blob and an edge detector too. value: the scale of the scores, see Asking.
    chunk: masked inputs in one forward. seed: of all that is random. progress: is given the number of forwards done.
    options go to every metric that has them. `budget` tells beforehand how many forwards it takes.
    Errors: BadInput for an unknown metric or option, maps of other samples, questions or another model, and for a metric
    that needs a truth that the batch does not have.
    """
    chosen = _chosen(metrics, options)
    asking = Asking(probe, batch, value=value, chunk=chunk, seed=seed, progress=progress)
    heats = heats_of(maps, asking)
    nothing = controls(asking, [_size(heat) for heat in heats.values()]) if chance else {}
    both = {**heats, **nothing}
    said: list[str] = []
    empty = [name for name, heat in heats.items() if (heat.values == 0).flatten(2).all(2).any()]
    if empty:
        said.append(f"some maps are empty, and have no number: {', '.join(empty)}")
    marks = {}
    for name, (fn, own) in chosen.items():
        if fn.needs and fn.needs not in asking.batch.truth:  # type: ignore[attr-defined]
            fn(probe, batch, maps, asking=asking, **own)
        marks[name] = fn.formula(asking, both, **own)  # type: ignore[attr-defined]
        said += [line for line in marks[name].said if line not in said]
        signed = [label for label, heat in heats.items() if heat.signed and (heat.values < 0).any()]
        if fn.unsigned and signed:  # type: ignore[attr-defined]
            said.append(f"{name} needs unsigned maps; of {', '.join(signed)} it takes {fn.unsigned}")  # type: ignore[attr-defined]
    said += far(asking)
    labels = asking.given.labels
    return Judgement(marks, tuple(nothing), asking.batch.ids, labels, asking.forwards, tuple(said))


def _size(heat: Heat) -> tuple[int, int, int]:
    t, h, w = heat.values.shape[-3:]
    return t, h, w


def budget(
    batch: Batch,
    maps: Mapping[str, Maps] | Maps,
    metrics: Sequence[str | Metric] = DEFAULT,
    *,
    chance: bool = True,
    **options: Any,
) -> dict[str, int]:
    """Metric -> forwards that `judge` takes at the most for these maps; the same mask is asked once, so it may take fewer.

    distance: how far the masked inputs are from the data, see metrics.distance.
    """
    several = {"": maps} if isinstance(maps, Maps) else maps
    values = [one for found in several.values() for one in found.maps.values()]
    if not values:
        raise BadInput("no maps to judge")
    k, n = values[0].shape[:2]
    count = len(values) + ((len({one.shape[-3:] for one in values}) + 2) if chance else 0)
    found = {}
    fills = set()
    for name, (fn, own) in _chosen(metrics, options).items():
        cost: Any = fn.cost  # type: ignore[attr-defined]
        told = {option: part.default for option, part in options_of(fn).items()} | own | {"size": batch.size}
        fills |= {told["fill"]} if cost is not None and "fill" in told else set()
        found[name] = 0 if cost is None else int(cost(count * k, n, told))
    return found | ({"distance": n * (1 + len(fills))} if fills and n > 1 else {})


def _chosen(metrics: Sequence[str | Metric], options: Mapping[str, Any]) -> dict[str, tuple[Metric, dict[str, Any]]]:
    """name -> (metric, its own of the options). Errors: BadInput for an option that none has, or of another type."""
    if not metrics:
        raise BadInput("no metric was named")
    known = [named(one) if isinstance(one, str) else checked(one, getattr(one, "__name__", "?")) for one in metrics]
    chosen = {fn.__name__: fn for fn in known}
    every = {option: part for fn in chosen.values() for option, part in options_of(fn).items()}
    for option, given in options.items():
        if option not in every:
            raise BadInput(
                f"no option {option!r} in {', '.join(chosen)}.{nearest(option, every)} Known: {', '.join(sorted(every)) or 'none'}."
            )
        kind = type(every[option].default)
        wrong = not isinstance(given, TYPES.get(kind, (object,))) or (isinstance(given, bool) and kind in (int, float))
        if wrong:
            raise BadInput(f"option {option} is {given!r}; expected {kind.__name__}, such as {every[option].default!r}")
    return {
        name: (fn, {option: given for option, given in options.items() if option in options_of(fn)})
        for name, fn in chosen.items()
    }
