"""Every metric under its published name. A metric is a formula over heats; a decorator makes it a function of (probe, batch, maps)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

import torch

from torchloupe.errors import BadInput, nearest
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.marks import Heat, Marks
from torchloupe.named import called, is_path, plugged, registered
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe

Metric = Callable[..., Marks]
Cost = Callable[[int, int, Mapping[str, Any]], int]
METRICS: dict[str, Metric] = {}
FILES = ("removal", "drop", "response", "place", "shape")


def metric(
    cost: Cost | None = None, *, needs: str = "", unsigned: str = ""
) -> Callable[[Callable[..., Marks]], Metric]:
    """A formula (asking, heats, **options) -> Marks, made a function of (probe, batch, maps) and registered under its name.

    asking: the question, see Asking; it gives the scores of masked inputs. heats: name of a map -> Heat, all finite.
    cost: (maps, samples, options) -> forwards at the most; maps counts questions, options hold the input's size (t, h, w) too;
    None: no forward.
    needs: the key in batch.truth without which the metric has no meaning.
    unsigned: how signed maps are made unsigned, where the metric needs that; said beside its numbers.
    """

    def lift(formula: Callable[..., Marks]) -> Metric:
        kept = options_of(formula)

        @wraps(formula)
        def run(
            probe: Probe, batch: Batch, maps: Maps | Mapping[str, Maps], *, asking: Asking | None = None, **options: Any
        ) -> Marks:
            asking = asking or Asking(probe, batch)
            if needs and needs not in asking.batch.truth:
                raise BadInput(
                    f"{formula.__name__} needs to know where things are: the batch has no truth[{needs!r}]; "
                    "loupe.placed makes one of boxes, masks or points, the command takes --truth"
                )
            return formula(asking, heats_of(maps, asking), **options)

        given = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("probe", "batch", "maps")]
        added = Parameter("asking", Parameter.KEYWORD_ONLY, default=None)
        run.__signature__ = signature(formula).replace(parameters=[*given, added, *kept.values()])  # type: ignore[attr-defined]
        run.formula, run.cost, run.needs, run.unsigned = formula, cost, needs, unsigned  # type: ignore[attr-defined]
        METRICS[formula.__name__] = run
        return run

    return lift


def heats_of(maps: Maps | Mapping[str, Maps], asking: Asking) -> dict[str, Heat]:
    """Maps of one or several methods -> name -> Heat; the name is LAYER, or METHOD/LAYER.

    Errors: BadInput for maps of other samples, of other questions or of another model, with the difference, and for
    values that are not finite.
    """
    several = {"": maps} if isinstance(maps, Maps) else maps
    heats: dict[str, Heat] = {}
    for method, found in several.items():
        _check_same(method, found, asking)
        for layer, values in found.maps.items():
            name = f"{method}/{layer}" if method else layer
            if values.ndim != 5 or values.shape[:2] != (asking.k, asking.batch.n):
                raise BadInput(
                    f"maps {name!r} of shape {tuple(values.shape)}; expected ({asking.k} questions, {asking.batch.n} samples, t, h, w)"
                )
            if not torch.isfinite(values).all():
                raise BadInput(f"maps {name!r} are not finite (NaN or infinite)")
            heats[name] = Heat(values.detach(), found.signed)
    if not heats:
        raise BadInput("no maps to judge")
    return heats


def _check_same(method: str, found: Maps, asking: Asking) -> None:
    now, then = asking.given, found.scores
    who = f"the maps of {method}" if method else "the maps"
    if then.value.shape != now.value.shape:
        raise BadInput(
            f"{who} answer {then.value.shape[0]} questions about {then.value.shape[1]} samples, the probe asks "
            f"{now.value.shape[0]} about {now.value.shape[1]}"
        )
    for before, after in zip(then.labels, now.labels, strict=True):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            if one != other:
                raise BadInput(
                    f"{who} answer another question: {asking.batch.ids[i]} was asked for {one!r}, now for {other!r}; "
                    "judge them with the probe that they were made with"
                )
    gap = (then.value.to(now.value) - now.value).abs()
    if (gap > 1e-3 * (1 + now.value.abs())).any():
        k, i = divmod(int((gap / (1 + now.value.abs())).argmax()), now.value.shape[1])
        raise BadInput(
            f"{who} are of another model or other inputs: {asking.batch.ids[i]} scored {float(then.value[k, i]):.6g} for "
            f"{now.labels[k][i]!r} when they were made, and scores {float(now.value[k, i]):.6g} now"
        )


def named(name: str) -> Metric:
    """A metric by its name, or by "package.module:function"; case, '-' and '_' do not matter.

    Errors: BadInput that offers the nearest names, and as torchloupe.named.imported.
    """
    if is_path(name):
        return checked(called(name, "--metric", "a function made by @torchloupe.metric"), name)
    plain = lambda text: re.sub(r"[^a-z0-9]", "", text.lower())
    foreign = registered("metrics")
    known = {plain(one): one for one in (*foreign, *load_all())}
    found = known.get(plain(name))
    if found is None:
        raise BadInput(
            f"no metric {name!r}.{nearest(name, known.values())} Known: {', '.join(sorted(known.values()))}; or "
            "package.module:function of your own"
        )
    return METRICS[found] if found in METRICS else checked(plugged(foreign[found]), found)


def checked(fn: Any, name: str) -> Metric:
    """Errors: BadInput unless it was made by `metric`."""
    if not hasattr(fn, "formula"):
        raise BadInput(
            f"metric {name!r}: a {type(fn).__name__}; expected a formula (asking, heats, **options) behind @metric"
        )
    made: Metric = fn
    return made


def options_of(fn: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword options of a metric, by name."""
    parts = signature(fn).parameters.items()
    return {name: part for name, part in parts if part.kind is Parameter.KEYWORD_ONLY and name != "asking"}


def load_all() -> dict[str, Metric]:
    """Imports every file of metrics and gives METRICS, by name."""
    for file in FILES:
        import_module(f"torchloupe.metrics.{file}")
    return METRICS
