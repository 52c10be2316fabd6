"""How it is trained: what an optimizer's parameter is at every step, found by stepping the schedulers themselves."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from torchloupe.data.schedules import PARAMETERS, Curve, Mark, Plan
from torchloupe.errors import BadInput


def record(plan: Plan, parameter: str = "lr", progress: Callable[[int, int], Any] = lambda done, length: None) -> Curve:
    """curve[t] = the parameter in every group while unit t is trained, t = 0 .. length - 1

    The schedulers are stepped as a training loop does: those that go by iteration after every iteration, those that
    go by epoch after every epoch. Stretches in which no scheduler can act are jumped over. `optimizer.step()` is
    called once, without gradients, so nothing is trained. `progress(units done, length)` is called now and then.
    Errors: BadInput where the optimizer has no such parameter.
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
            for ticker in live:
                ticker.step(done)
            if per_epoch is not None and done % per_epoch == 0:
                for ticker in outer:
                    ticker.step(done // per_epoch)
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
    return Curve(plan.name, parameter, plan.unit, plan.length, places, values, groups, plan.per_epoch, marks)


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
