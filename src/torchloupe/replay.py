"""Run only the part of a network behind a layer, many times, with the layer's output replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.probe import Batch, Probe, restored, split_call, swapped
from torchloupe.results import Scores
from torchloupe.trace import tensors

Cache = dict[tuple[int, int], Any]


class Replay:
    """One sample and one layer: called with copies of the layer's raw output, gives the scores behind them.

    One forward is recorded. Later calls answer from the record for every module that had ended before the layer did, so
    that only what follows it runs. Where a network does not give its own scores back that way, or breaks, whole forwards
    are run in its place.

    calls: which calls of the layer are replaced. acts: its raw output in each of them, for the sample.
    whole: True where whole forwards are run.
    """

    def __init__(self, probe: Probe, one: Batch, layer: str, calls: tuple[int, ...] = (0,)) -> None:
        self._probe, self._one, self._calls = probe, one, calls
        self._module = probe.subject.module
        self._target = self._module.get_submodule(split_call(layer)[0])
        self._cache: Cache = {}
        self._outputs: dict[int, Any] = {}
        self._copy = self.whole = False
        with restored(self._module), torch.no_grad(), self._recorded():
            value, _ = probe.target(probe.subject.output(one), one)
        self.acts = tuple(next(tensors(self._outputs[call])).detach() for call in calls)
        self.whole = not self._faithful(value)

    def __call__(self, copies: Sequence[Tensor], count: int) -> Scores:
        """copies of the layer's raw output, call by call, each for count samples -> scores (k, count)."""
        many = self._one.spread(count)
        cache = {} if self.whole else self._cache
        with restored(self._module), torch.no_grad(), self._patched(cache, copies, count):
            value, labels = self._probe.target(self._probe.subject.output(many), many)
        return Scores(value, labels)

    def _faithful(self, value: Tensor) -> bool:
        for self._copy in (False, True):
            try:
                found = self([widened(act, 2).clone() for act in self.acts], 2).value
            except RuntimeError:
                continue
            size = value.abs().max().clamp_min(torch.finfo(value.dtype).tiny)
            if found.shape == (len(value), 2) and ((found - value).abs().max() <= 1e-5 * size):
                return True
        return False

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        ended: list[tuple[int, int, Any]] = []
        begun: list[int] = []
        counts: dict[int, int] = {}
        done = False

        def before(_part: nn.Module, _inputs: Any) -> None:
            if not done:
                begun.append(len(ended))

        def after(part: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal done
            if done:
                return
            call = counts[id(part)] = counts.get(id(part), -1) + 1
            del ended[begun.pop() :]
            if part is self._target and call in self._calls:
                self._outputs[call] = output
                done = len(self._outputs) == len(self._calls)
            else:
                ended.append((id(part), call, mapped(output, Tensor.clone)))

        handles = []
        for part in {id(part): part for part in self._module.modules()}.values():
            handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._outputs = {call: mapped(output, Tensor.clone) for call, output in self._outputs.items()}
        self._cache = {(part, call): output for part, call, output in ended}

    @contextmanager
    def _patched(self, cache: Mapping[tuple[int, int], Any], copies: Sequence[Tensor], count: int) -> Iterator[None]:
        held = {part for part, _ in cache} | {id(self._target)}

        def widen(tensor: Tensor) -> Tensor:
            wide = widened(tensor, count)
            return wide.clone() if self._copy else wide

        def answer(part: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
            call = -1

            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal call
                call += 1
                if part is self._target and call in self._calls:
                    output, copy = self._outputs[call], copies[self._calls.index(call)]
                    first = next(tensors(output))
                    return mapped(output, lambda found: copy if found is first else widen(found))
                if (id(part), call) in cache:
                    return mapped(cache[id(part), call], widen)
                return run(*args, **kwargs)

            return forward

        parts = [part for part in {id(part): part for part in self._module.modules()}.values() if id(part) in held]
        own = {id(part): part.__dict__["forward"] for part in parts if "forward" in part.__dict__}
        try:
            for part in parts:
                part.__dict__["forward"] = answer(part, part.forward)
            yield
        finally:
            for part in parts:
                if id(part) in own:
                    part.__dict__["forward"] = own[id(part)]
                else:
                    part.__dict__.pop("forward", None)


def widened(tensor: Tensor, count: int) -> Tensor:
    """A tensor of one sample, its first axis that sample, its frames or its windows, as one of count equal samples."""
    if not tensor.ndim:
        return tensor
    if tensor.shape[0] == 1:
        return tensor.expand(count, *tensor.shape[1:])
    return tensor.repeat(count, *[1] * (tensor.ndim - 1))


def mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same output with every tensor changed."""
    for tensor in list(tensors(output)):
        output = swapped(output, tensor, change(tensor))
    return output
