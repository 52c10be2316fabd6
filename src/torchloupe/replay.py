"""Run only the part of a network behind a layer, many times, with the layer's output replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.names import split_call
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Probe, full
from torchloupe.taps import swapped
from torchloupe.trace import tensors, tracing

Cache = dict[tuple[str, int], Any]


class Replay:
    """A batch and one layer, after one recorded forward; then scores for other outputs of that layer, sample by sample.

    A module that had ended before the layer did answers from the record, so that only what follows the layer runs. Where
    a network does not give its own scores back that way, or breaks, whole forwards are run in its place.

    scores: of the batch as it is. batch: with the target's choices held fixed. layout, act (n, c, t, h, w): of the layer.
    whole: True where whole forwards are run.
    """

    def __init__(self, probe: Probe, batch: Batch, layer: str) -> None:
        self._probe = probe
        bare, call = split_call(layer)
        self._target = bare
        declared = probe.subject.layout(bare)
        joined = declared is not None and declared.join is not None and call is None
        self._cache: Cache = {}
        self._outputs: dict[int, Any] = {}
        self._copy = self.whole = False
        last = None if joined else call or 0
        with (
            probe.asked() as own,
            torch.no_grad(),
            tracing(own.module) as trace,
            self._recorded(own.module, last),
        ):
            self.scores, self.batch = probe.score(own.output(batch.at(batch.x.clone())), batch)
        wanted = range(len(self._outputs)) if joined else [call or 0]
        calls = len(trace.of(bare)) if call is None else int(call in self._outputs)
        self.layout: Layout = probe.layout(layer, trace, batch, calls)
        self._outputs = {number: self._outputs[number] for number in wanted}
        raw = [next(tensors(output)).detach() for output in self._outputs.values()]
        self.act = self.layout.canonical([full(call) for call in raw], batch.n, batch.size)
        self.whole = not self._faithful()

    def acts(self, sample: int) -> tuple[Tensor, ...]:
        """The layer's raw output for one sample, call by call."""
        return tuple(self._rows(next(tensors(output)), sample) for output in self._outputs.values())

    def __call__(self, sample: int, copies: Sequence[Tensor], count: int) -> Scores:
        """copies of one sample's raw output, call by call, each for count samples -> scores (k, count)."""
        many = self.batch.take([sample]).spread(count)
        if self.whole or self._copy:
            many = many.at(many.x.clone())
        cache = {} if self.whole else self._cache
        with self._probe.asked() as own, torch.no_grad(), self._patched(own.module, cache, sample, copies, count):
            return self._probe.target(own.output(many), many)

    def _faithful(self) -> bool:
        value = self.scores.value[:, :1]
        for self._copy in (False, True):
            try:
                found = self(0, [widened(act, 2).clone() for act in self.acts(0)], 2).value
            except Exception:  # somebody else's tail may fail in any way where it does not stand alone
                continue
            size = value.abs().max().clamp_min(torch.finfo(value.dtype).tiny)
            if found.shape == (len(value), 2) and ((found - value).abs().max() <= 1e-5 * size):
                return True
        return False

    def _rows(self, tensor: Tensor, sample: int) -> Tensor:
        n = self.batch.n
        if not tensor.ndim or n == 1 or tensor.shape[0] % n:
            return tensor
        share = tensor.shape[0] // n
        return tensor.narrow(0, sample * share, share)

    @contextmanager
    def _recorded(self, net: nn.Module, last: int | None) -> Iterator[None]:
        """Keeps the outputs of the layer's calls, and of the outermost modules that ended before the last of them."""
        target = net.get_submodule(self._target)
        around = {id(part) for part in net.modules() if target in part.modules()} - {id(target)}
        ended: Cache = {}
        active: list[bool] = []
        counts: dict[int, int] = {}
        done = False

        def before(part: nn.Module, _inputs: Any) -> None:
            active.append(id(part) in around)

        def after(name: str) -> Callable[..., None]:
            def hook(part: nn.Module, _inputs: Any, output: Any) -> None:
                nonlocal done
                active.pop()
                call = counts[id(part)] = counts.get(id(part), -1) + 1
                if done:
                    return
                if part is target:
                    self._outputs[call] = mapped(output, Tensor.clone)
                    self._cache = dict(ended)
                    done = call == last
                elif all(active):
                    ended[name, call] = mapped(output, Tensor.clone)

            return hook

        handles = []
        for name, part in net.named_modules():
            handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after(name))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _patched(
        self, net: nn.Module, cache: Mapping[tuple[str, int], Any], sample: int, copies: Sequence[Tensor], count: int
    ) -> Iterator[None]:
        target = net.get_submodule(self._target)
        held = {name for name, _ in cache}
        turns = dict(zip(self._outputs, copies, strict=True))

        def widen(tensor: Tensor) -> Tensor:
            wide = widened(self._rows(tensor, sample), count)
            return wide.clone() if self._copy else wide

        def answer(name: str, part: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
            call = -1

            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal call
                call += 1
                if part is target and call in turns:
                    first = next(tensors(self._outputs[call]))
                    return mapped(self._outputs[call], lambda found: turns[call] if found is first else widen(found))
                if (name, call) in cache:
                    return mapped(cache[name, call], widen)
                return run(*args, **kwargs)

            return forward

        parts = [(name, part) for name, part in net.named_modules() if name in held or part is target]
        own = {name: part.__dict__["forward"] for name, part in parts if "forward" in part.__dict__}
        try:
            for name, part in parts:
                part.__dict__["forward"] = answer(name, part, part.forward)
            yield
        finally:
            for name, part in parts:
                if name in own:
                    part.__dict__["forward"] = own[name]
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
