"""Contracts that every method, target and source keeps, for our own and for third parties' extensions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.metrics.asking import Asking
from torchloupe.metrics.marks import Marks
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe, Subject, Target

Method = Callable[[Probe, Batch], Maps]
Metric = Callable[..., Marks]


@dataclass(frozen=True)
class Question:
    """One of the questions of a target, by number."""

    target: Target
    number: int

    def choose(self, output: Any, batch: Batch) -> Any:
        """The target's own choice."""
        choose = getattr(self.target, "choose", None)
        return choose(output, batch) if choose else {}

    def __call__(self, output: Any, batch: Batch) -> Scores:
        value, labels = self.target(output, batch)
        return Scores(value[self.number : self.number + 1], labels[self.number : self.number + 1])


class Interrupted(Exception):
    """Raised on purpose inside a probing."""


def state(module: nn.Module) -> list[Any]:
    """Everything that a probing may touch and must put back."""
    parts: list[Any] = []
    for part in module.modules():
        hooks = len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks)
        parts.append((part.training, hooks, "forward" in part.__dict__))
    for parameter in module.parameters():
        parts.append((parameter.requires_grad, parameter.grad is None, parameter._version))
    parts += [buffer._version for buffer in module.buffers()]
    return parts


def check_method(method: Method, probe: Probe, batch: Batch, *, tolerance: float = 1e-9) -> Maps:
    """Asserts the contract of a method on one probe and a batch of several samples; gives the maps.

    Maps are finite and (k, n, t, h, w); asked twice they are the same; nothing is left behind, also after an error in the
    middle; a batch gives what its samples give one by one; k questions give what they give one by one; the order of the
    layers does not matter.
    """
    module = probe.subject.module
    before = state(module)
    found = method(probe, batch)
    assert state(module) == before, "the model was changed"
    k = len(found.scores.value)
    for layer, maps in found.maps.items():
        assert maps.ndim == 5, f"{layer}: maps of shape {tuple(maps.shape)}, expected (k, n, t, h, w)"
        assert maps.shape[:2] == (k, batch.n), (
            f"{layer}: {tuple(maps.shape[:2])} maps for {k} questions, {batch.n} samples"
        )
        assert torch.isfinite(maps).all(), f"{layer}: not finite"
        assert found.signed or (maps >= 0).all(), f"{layer}: negative values in a map that is not signed"
    _same(found, method(probe, batch), 0, "asked twice")
    if batch.n > 1:
        for i in range(batch.n):
            single = method(probe, batch.take([i]))
            for layer, maps in single.maps.items():
                _close(found.maps[layer][:, i : i + 1], maps, tolerance, f"{layer}: sample {i} alone")
    if k > 1:
        for i in range(k):
            single = method(replace(probe, target=Question(probe.target, i)), batch)
            for layer, maps in single.maps.items():
                _close(found.maps[layer][i : i + 1], maps, tolerance, f"{layer}: question {i} alone")
    if len(probe.layers) > 1:
        _same(found, method(probe.at(*reversed(probe.layers)), batch), tolerance, "layers in reverse")
    check_restored(method, probe, batch)
    return found


def check_restored(method: Callable[[Probe, Batch], Any], probe: Probe, batch: Batch) -> None:
    """Asserts that an error in the middle of a probing leaves nothing behind."""

    def broken(output: Any, asked: Batch) -> Scores:
        probe.target(output, asked)
        raise Interrupted

    before = state(probe.subject.module)
    with suppress(Interrupted):
        method(replace(probe, target=broken), batch)
    assert state(probe.subject.module) == before, "the model was changed by a probing that broke off"


def check_target(target: Target, output: Any, batch: Batch, *, tolerance: float = 1e-9) -> Scores:
    """Asserts the contract of a target on a model's output for a batch of several samples.

    Scores are (k, n), finite, with k x n labels; the gradient of column i reaches sample i of a tensor output only.
    """
    value, labels = target(output, batch)
    assert value.ndim == 2, f"scores of shape {tuple(value.shape)}, expected (k, n)"
    assert value.shape[1] == batch.n, f"{value.shape[1]} columns for {batch.n} samples"
    assert torch.isfinite(value).all(), "scores are not finite"
    assert [len(row) for row in labels] == [batch.n] * len(value), "labels are not k x n"
    if isinstance(output, Tensor) and output.shape[0] == batch.n:
        free = output.detach().clone().requires_grad_()
        asked = target(free, batch).value
        assert asked.requires_grad, "scores are not differentiable"
        for i in range(batch.n):
            (grad,) = torch.autograd.grad(asked[:, i].sum(), free, retain_graph=True)
            others = [j for j in range(batch.n) if j != i]
            assert not grad[others].any(), f"the score of sample {i} depends on other samples"
            alone = target(output[i : i + 1], batch.take([i])).value
            _close(value[:, i : i + 1], alone, tolerance, f"sample {i} alone")
    return Scores(value, labels)


def check_metric(metric: Metric, probe: Probe, batch: Batch, maps: Maps, *, tolerance: float = 1e-9) -> Marks:
    """Asserts the contract of a metric on maps of one probe and a batch of several samples; gives the marks.

    Numbers are (k, n) float64 and finite or NaN; asked twice they are the same; nothing is left behind, also after an error
    in the middle; a batch gives what its samples give one by one; k questions give what they give one by one; maps beside it
    do not matter, nor does the size of a chunk; what ranks or takes shares does not see the map's scale; an empty map has no
    number.
    """
    module = probe.subject.module
    before = state(module)
    found = metric(probe, batch, maps)
    assert state(module) == before, "the model was changed"
    k = len(maps.scores.value)
    for label, number in found.numbers.items():
        assert set(number.value) == set(maps.maps), f"{label}: numbers of {set(number.value)}, maps {set(maps.maps)}"
        for layer, value in number.value.items():
            assert value.shape == (k, batch.n), f"{label} of {layer}: shape {tuple(value.shape)}, expected (k, n)"
            assert value.dtype == torch.float64, f"{label} of {layer}: {value.dtype}, expected float64"
            assert not torch.isinf(value).any(), f"{label} of {layer}: infinite"
        assert number.chance is None or number.chance.shape in ((), (k, batch.n)), f"{label}: chance is not (k, n)"
    for label, curve in found.curves.items():
        for layer, value in curve.value.items():
            assert value.shape == (k, batch.n, len(curve.at)), f"curve {label} of {layer}: shape {tuple(value.shape)}"
    _same_marks(found, metric(probe, batch, maps), 0, "asked twice")
    small = metric(probe, batch, maps, asking=Asking(probe, batch, chunk=3))
    _same_marks(found, small, tolerance, "in chunks of 3")
    doubled = replace(maps, maps={layer: 4 * value for layer, value in maps.maps.items()})
    if not any(label in OF_SCALE for label in found.numbers):
        _same_marks(found, metric(probe, batch, doubled), tolerance, "maps times 4")
    for i in range(batch.n if batch.n > 1 else 0):
        single = metric(probe, batch.take([i]), _cut(maps, slice(None), slice(i, i + 1)))
        _same_marks(_cut_marks(found, slice(None), slice(i, i + 1)), single, tolerance, f"sample {i} alone")
    for i in range(k if k > 1 else 0):
        asked = replace(probe, target=Question(probe.target, i))
        rows = {
            key: value[:, i : i + 1] if _of_questions(value, batch.n, k) else value
            for key, value in batch.truth.items()
        }
        single = metric(asked, replace(batch, truth=rows), _cut(maps, slice(i, i + 1), slice(None)))
        _same_marks(_cut_marks(found, slice(i, i + 1), slice(None)), single, tolerance, f"question {i} alone")
    dark = replace(maps, maps={layer: torch.zeros_like(value) for layer, value in maps.maps.items()})
    for label, number in metric(probe, batch, dark).numbers.items():
        for layer, value in number.value.items():
            assert value.isnan().all(), f"{label}: an empty map at {layer} has a number"
    check_restored(lambda broken, samples: metric(broken, samples, maps), probe, batch)
    return found


OF_SCALE = ("completeness",)


def _of_questions(value: Any, n: int, k: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 5 and value.shape[:2] == (n, k)


def _cut(maps: Maps, rows: slice, columns: slice) -> Maps:
    value, labels = maps.scores
    scores = Scores(value[rows, columns], tuple(names[columns] for names in labels[rows]))
    return replace(maps, maps={layer: one[rows, columns] for layer, one in maps.maps.items()}, scores=scores)


def _cut_marks(marks: Marks, rows: slice, columns: slice) -> Marks:
    numbers = {
        label: replace(number, value={layer: one[rows, columns] for layer, one in number.value.items()})
        for label, number in marks.numbers.items()
    }
    return replace(marks, numbers=numbers)


def _same_marks(one: Marks, two: Marks, tolerance: float, when: str) -> None:
    for label, number in one.numbers.items():
        if label not in two.numbers:
            assert all(value.isnan().all() for value in number.value.values()), f"{when}: no {label}"
            continue
        for layer, value in number.value.items():
            other = two.numbers[label].value[layer]
            assert torch.equal(value.isnan(), other.isnan()), f"{label} of {layer}: {when}: other numbers are missing"
            _close(value.nan_to_num(), other.nan_to_num(), tolerance, f"{label} of {layer}: {when}")


def check_source(subject: Subject, batch: Batch) -> None:
    """Asserts the contract of a subject: it runs, asks nothing of the model, and its default layers can be probed."""
    before = state(subject.module)

    def first(output: Any, asked: Batch) -> Scores:
        flat = output.reshape(asked.n, -1)
        return Scores(flat[:, :1].T, (tuple("first" for _ in asked.ids),))

    assert subject.layers, "no default layer"
    seen = Probe(subject, subject.layers, first)(batch)
    for layer in subject.layers:
        assert seen.act[layer].shape[0] == batch.n, f"{layer}: {seen.act[layer].shape[0]} samples for {batch.n}"
        assert seen.act[layer].ndim == 5, f"{layer}: shape {tuple(seen.act[layer].shape)}"
    assert state(subject.module) == before, "the model was changed"


def _same(one: Maps, two: Maps, tolerance: float, when: str) -> None:
    assert set(one.maps) == set(two.maps), f"{when}: other layers"
    for layer, maps in one.maps.items():
        _close(maps, two.maps[layer], tolerance, f"{layer}: {when}")


def _close(one: Tensor, two: Tensor, tolerance: float, when: str) -> None:
    assert one.shape == two.shape, f"{when}: shape {tuple(two.shape)}, expected {tuple(one.shape)}"
    gap = (one - two).abs().max() if one.numel() else torch.zeros(())
    assert gap <= tolerance * max(1.0, float(one.abs().max())), f"{when}: differs by {float(gap):.3g}"
