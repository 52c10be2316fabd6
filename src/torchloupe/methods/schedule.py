"""How it is trained: what an optimizer's parameter is at every step, found by stepping the schedulers themselves."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from torchloupe.data.schedules import PARAMETERS, Acting, Curve, Mark, Plan
from torchloupe.errors import BadInput


def record(plan: Plan, parameter: str = "lr", progress: Callable[[int, int], Any] = lambda done, length: None) -> Curve:
    """curve[t] = the parameter in every group while unit t is trained, t = 0 .. length - 1

    The schedulers are stepped as a training loop does: those that go by iteration after every iteration, those that
    go by epoch after every epoch. Stretches in which no scheduler can act are jumped over. `optimizer.step()` is
    called once, without gradients, so nothing is trained. `progress(units done, length)` is called now and then.
    Errors: BadInput where the optimizer has no such parameter, or a scheduler fails.
    """
    read = _reader(plan, parameter)
    per_epoch = 1 if plan.unit == "epoch" else plan.per_epoch
    inner = [ticker for ticker in plan.tickers if ticker.per == "iter"]
    outer = [ticker for ticker in plan.tickers if ticker.per == "epoch"]
    if outer and per_epoch is None:
        raise BadInput(f"{plan.name}: a scheduler goes by epoch and the training by iteration; give --dataset-size")
    now = read()
    at, rows = array("q", [0]), array("d", now)
    done = 0
    with warnings.catch_warnings():
        # One optimizer.step() stands for all of them; torch and mmengine both warn about the order of the calls.
        warnings.simplefilter("ignore")
        plan.optimizer.step()
        while done < plan.length:
            live = [ticker for ticker in inner if ticker.until is None or done < ticker.until]
            last = plan.length if per_epoch is None else min((done // per_epoch + 1) * per_epoch, plan.length)
            done = done + 1 if live else last
            steps = [(ticker, done) for ticker in live]
            if per_epoch is not None and done % per_epoch == 0:
                steps += [(ticker, done // per_epoch) for ticker in outer]
            for ticker, count in steps:
                try:
                    ticker.step(count)
                except Exception as error:  # schedulers divide, index and multiply by what they were given
                    said = f"{type(error).__name__}: {error}"
                    raise BadInput(f"{plan.name}: a scheduler fails at {plan.unit} {done} ({said})") from error
            new = read()
            if new != now and done < plan.length:
                now = new
                at.append(done)
                rows.extend(now)
            if not live or done % 4096 == 0:
                progress(done, plan.length)
    values = np.frombuffer(rows, dtype=np.float64).reshape(len(at), len(now))
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values).all(1)))
        raise BadInput(f"{plan.name}: {parameter} is {values[first].max()} at {plan.unit} {at[first]}")
    groups = plan.groups or (("",) if len(now) == 1 else tuple(f"group {g}" for g in range(len(now))))
    places = np.frombuffer(at, dtype=np.int64)
    marks = (*_warm_up(parameter, places, values, plan.length), *plan.marks)
    odd = tuple(findings(plan, parameter, places, values))
    return Curve(plan.name, parameter, plan.unit, plan.length, places, values, groups, plan.per_epoch, marks, odd)


WARMING = ("linear", "constant", "quadratic", "warmup")


def findings(plan: Plan, parameter: str, at: np.ndarray, values: np.ndarray) -> list[str]:
    """What is odd about a schedule, a line each: a scheduler that never acts, a warm-up longer than the training, a period that is
    not its length, milestones behind the end, gaps and overlaps of schedulers that follow one another, a rate of 0 in the last
    stretch, a rate of the optimizer that is never reached. at (K,), values (K, G): the curve, as in Curve."""
    found = [line for one in plan.acting for line in _odd(one, plan)]
    found += _between([one for one in plan.acting if one.smooth], plan)
    if parameter != "lr":
        return found
    most = values.max(0)
    asked = [float(group.get("initial_lr", group["lr"])) for group in plan.optimizer.param_groups]
    low = [g for g in range(len(asked)) if most[g] < 0.999 * asked[g]]
    if low:
        found.append(f"the optimizer's rate {asked[low[0]]:.4g} is never reached; the greatest is {most[low[0]]:.4g}")
    if (values[-1] == 0).all() and most.max() > 0:
        rest = plan.length - int(at[-1])
        found.append(f"the rate is 0 in the last {_units(rest, plan.unit)}: nothing is learned there")
    first = int(at[1]) if len(at) > 1 else plan.length
    if (values[0] == 0).all() and (plan.unit == "epoch" or first >= (plan.per_epoch or plan.length)):
        found.append(f"the rate is 0 in the first {_units(first, plan.unit)}: nothing is learned there")
    return found


def _units(count: int, unit: str) -> str:
    word = "epoch" if unit == "epoch" else "iteration"
    return f"{count} {word}s" if count != 1 else word


def _scale(one: Acting, plan: Plan) -> int:
    """Units of the plan in one unit of a scheduler."""
    return plan.per_epoch or 1 if one.per == "epoch" and plan.unit == "iter" else 1


def _odd(one: Acting, plan: Plan) -> Iterator[str]:
    scale = _scale(one, plan)
    length = plan.length / scale
    text = f"{length:g} {'epochs' if one.per == 'epoch' else 'iterations'}"
    if one.begin >= length:
        yield f"{one.name} begins at {one.begin}, behind the end of a training of {text}: it never acts"
        return
    late = [mark for mark in one.milestones if mark + one.begin >= length]
    if late:
        none = len(late) == len(one.milestones)
        listed = ", ".join(str(mark + one.begin) for mark in late[:6])
        ends = "it never acts" if none else "they are never reached"
        yield f"{one.name}: milestone{'s' if len(late) > 1 else ''} {listed} behind the end of a training of {text}: {ends}"
    span = min(length, length if one.end is None else one.end) - one.begin
    if one.period is None:
        return
    if one.name.lower().startswith(WARMING):
        if one.begin == 0 and one.period >= length:
            yield f"{one.name}: a rise of {one.period} in a training of {text} does not come to its end"
    elif one.period > span + 1:
        yield f"{one.name}: a period of {one.period}, but it acts for {span:g}: it stops on its way"
    elif one.period < span - 1:
        yield f"{one.name}: a period of {one.period}, but it acts for {span:g}: behind its period it goes on otherwise"


def _between(chain: Sequence[Acting], plan: Plan) -> Iterator[str]:
    """Gaps and overlaps of schedulers that change at every unit."""
    spans = []
    for one in chain:
        scale = _scale(one, plan)
        end = plan.length if one.end is None else min(one.end * scale, plan.length)
        if one.begin * scale < end:
            spans.append((one.begin * scale, end, one.name))
    spans.sort()
    for (begin, end, name), (start, stop, other) in pairwise(spans):
        if start > end:
            yield f"nothing acts from {_places(plan, end, start)}, between {name} and {other}"
        elif start < min(end, stop) and (begin, end) != (start, stop):
            yield f"{name} and {other} act at once from {_places(plan, start, min(end, stop))}: their factors multiply"


def _places(plan: Plan, start: float, stop: float) -> str:
    word = "epoch" if plan.unit == "epoch" else "iteration"
    return f"{word} {start:g} to {stop:g}"


def _warm_up(parameter: str, at: np.ndarray, values: np.ndarray, length: int) -> list[Mark]:
    """The rise with which a learning rate begins, as a span; none where it does not rise or rises to the end."""
    if parameter != "lr":
        return []
    column = values[:, np.ptp(values, axis=0).argmax()]
    falls = np.flatnonzero(np.diff(column) < 0)
    top = int(falls[0]) if len(falls) else len(column) - 1
    end = int(at[column[: top + 1].argmax()])
    return [Mark(0, "warm-up", end)] if 0 < end < length - 1 else []


def _reader(plan: Plan, parameter: str) -> Callable[[], list[float]]:
    """A function that reads the parameter from every group of the optimizer, as floats."""
    if parameter not in PARAMETERS:
        raise BadInput(f"--parameter {parameter}: expected one of {', '.join(PARAMETERS)}")
    groups = plan.optimizer.param_groups
    if not groups:
        raise BadInput(f"{plan.name}: the optimizer has no parameter groups")
    name = type(plan.optimizer).__name__
    key = {"lr": "lr", "wd": "weight_decay", "momentum": "momentum"}[parameter]
    if parameter == "momentum" and "betas" in groups[0]:
        return lambda: [float(group["betas"][0]) for group in groups]
    if any(key not in group for group in groups):
        has = ", ".join(known for known in PARAMETERS if {"wd": "weight_decay"}.get(known, known) in groups[0])
        raise BadInput(f"{plan.name}: {name} has no {parameter} (its groups hold {has or 'none of lr, momentum, wd'})")
    return lambda: [float(group[key]) for group in groups]
