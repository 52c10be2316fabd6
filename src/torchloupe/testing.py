"""Contracts that every method, target and source keeps, for our own and for third parties' extensions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.probe import Batch, Probe, Subject, Target
from torchloupe.results import Maps, Scores

Method = Callable[[Probe, Batch], Maps]


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


def check_restored(method: Method, probe: Probe, batch: Batch) -> None:
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
