"""The one keeper of taps: values in a forward, seen and replaced where they are, with or without their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import getattr_static, signature
from itertools import chain
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from torchloupe.errors import BadInput
from torchloupe.names import Point, locate, split_call
from torchloupe.subjects import INPUT
from torchloupe.trace import tensors


@dataclass
class Tap:
    """What a layer gave in one call, detached: the network's own tensor, as of a version of it, or a copy (None).

    slope: by which a LeakyReLU has multiplied its negative values in place.
    """

    tensor: Tensor
    version: int | None
    slope: float = 1.0

    @classmethod
    def of(cls, output: Tensor, copied: bool) -> Tap:
        """The tensor itself where changes of it can be told, else a copy."""
        tensor = output.detach()
        if copied or tensor.is_inference() or tensor.layout != torch.strided:
            return cls(tensor.clone(), None)
        return cls(tensor, tensor._version)

    @property
    def intact(self) -> bool:
        """Whether nothing has changed it unforeseen."""
        return self.version is None or self.version == self.tensor._version

    def output(self) -> Tensor:
        """As the layer gave it."""
        return self.tensor if self.slope == 1 else functional.leaky_relu(self.tensor, 1 / self.slope)

    def shares(self, given: Iterable[Tensor]) -> bool:
        """Whether it is the network's own, and would change with what is given."""
        return self.version is not None and self.intact and any(same_memory(self.tensor, one) for one in given)

    def copy(self) -> None:
        """Makes it a copy, before the network changes its own."""
        self.tensor, self.version = self.tensor.clone(), None

    def rescue(self, part: nn.Module) -> None:
        """Before a module changes it in place: a copy, or how to undo the change, which takes no memory."""
        slope = part.negative_slope if isinstance(part, nn.LeakyReLU) else 0.0
        if slope > 0 and self.version is not None and torch.finfo(self.tensor.dtype).bits >= 32:
            self.slope, self.version = self.slope * slope, self.version + 1
        else:
            self.copy()


@dataclass
class Taps:
    """What was tapped in one forward.

    calls: layer -> its calls, in order. begun: where the graph of gradients begins.
    arrive: takes (layer, number of the call, gradient) while a backward runs. hooks: what brings them, until `release`.
    """

    calls: dict[str, list[Tap]]
    begun: list[Tensor] = field(default_factory=list)
    arrive: Callable[[str, int, Tensor], None] = field(default=lambda name, call, grad: None)
    hooks: list[RemovableHandle] = field(default_factory=list)

    def keep(self, name: str, output: Tensor, copied: bool) -> None:
        """One more call of a layer."""
        calls = self.calls[name]
        if output.requires_grad:
            call = len(calls)
            self.hooks.append(output.register_hook(lambda grad: self.arrive(name, call, grad)))
        calls.append(Tap.of(output, copied))

    def outputs(self, name: str) -> list[Tensor]:
        """What the calls of a layer gave, in order."""
        return [call.output() for call in self.calls[name]]

    def changing(self, part: nn.Module, given: Sequence[Tensor]) -> None:
        """A module is about to change in place what it is given."""
        for call in chain.from_iterable(self.calls.values()):
            if call.shares(given):
                call.rescue(part)

    def release(self) -> None:
        """Lets go of everything, of what led back here too, and leaves no hook on tensors that a network may have kept."""
        self.calls.clear()
        self.begun.clear()
        self.arrive = lambda name, call, grad: None
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def spoiled(self) -> set[str]:
        """Layers whose output something else has changed in place."""
        return {name for name, calls in self.calls.items() if not all(call.intact for call in calls)}


class _Begin(torch.autograd.Function):
    """A copy of a tensor that needs no gradient; from here on there is a graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _start: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, grads[0].new_zeros(())


ABSENT = object()
# (module, value) -> what takes the value's place; None: nothing does
See = Callable[[nn.Module, Any], Any]


@contextmanager
def watched(net: nn.Module, point: Point, see: See) -> Iterator[None]:
    """Every value at a point of the forwards inside is shown, call by call, and may be replaced; in this thread only.

    A function is patched where its path says, as a name in that module, and is itself again afterwards; what other threads
    call is the original. Arguments come as `Inputs`; in their place (args, kwargs) may be given.
    Errors: BadInput for a function that is built into C++.
    """
    if point.kind == "function":
        with _patched(point, see):
            yield
        return
    part = net.get_submodule(point.name)

    def before(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return see(part, Inputs(part.forward, args, kwargs))

    def after(part: nn.Module, _inputs: Any, output: Any) -> Any:
        return see(part, output)

    if point.inputs:
        handle = part.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = part.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _patched(point: Point, see: See) -> Iterator[None]:
    owner, attribute = locate(point.name)
    own = vars(owner).get(attribute, ABSENT)
    # getattr would bind a parent's class method to this class
    raw = getattr_static(owner, attribute, getattr(owner, attribute))
    original = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    bound = isinstance(owner, type) and not isinstance(raw, staticmethod)
    part, mine = nn.Identity(), get_ident()

    @wraps(original)
    def seen(*args: Any, **kwargs: Any) -> Any:
        if get_ident() != mine:
            return original(*args, **kwargs)
        if point.inputs:
            other = see(part, Inputs(original, args, kwargs, skip=int(bound and not isinstance(args[0], Tensor))))
            args, kwargs = (args, kwargs) if other is None else other
        result = original(*args, **kwargs)
        other = None if point.inputs else see(part, result)
        return result if other is None else other

    wrapped = type(raw)(seen) if isinstance(raw, (staticmethod, classmethod)) else seen
    try:
        setattr(owner, attribute, wrapped)
    except (TypeError, AttributeError):
        raise BadInput(
            f"point {str(point)!r}: {point.name} is built into C++ and cannot be patched; take the module around it, or the "
            "Python function that calls it"
        ) from None
    try:
        yield
    finally:
        if own is ABSENT:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, own)


class Inputs(dict[str, Any]):
    """The arguments of one call: positional ones under "0", "1", ..., the others under their names, as they are declared."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], skip: int = 0) -> None:
        super().__init__({str(i): value for i, value in enumerate(args[skip:])} | _in_order(fn, kwargs))
        self._call = (fn, args, kwargs)

    def __missing__(self, name: str) -> Any:
        fn, args, kwargs = self._call
        try:
            return signature(fn).bind(*args, **kwargs).arguments[name]
        except (TypeError, ValueError):
            raise KeyError(name) from None


def _in_order(fn: Callable[..., Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments in the order in which the function declares them, as MMRazor counts them."""
    try:
        names = [*signature(fn).parameters] if len(kwargs) > 1 else []
    except (TypeError, ValueError):
        names = []
    return {name: kwargs[name] for name in dict.fromkeys([*(n for n in names if n in kwargs), *kwargs])}


def leaves(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor in a value with the keys that lead to it; a tensor itself has none."""
    if isinstance(value, Tensor):
        yield keys, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, (*keys, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for i, part in enumerate(value):
            yield from leaves(part, (*keys, str(i)))


@contextmanager
def tapped(module: nn.Module, layers: Sequence[str], grad: bool, copied: Set[str] = frozenset()) -> Iterator[Taps]:
    """Every call of the named layers, in order.

    At the first tapped tensor that needs no gradient the graph begins. What is kept is the network's own tensor, for the
    layers in copied a copy. Modules that work in place are seen coming; of the other layers whose output was changed in
    place `spoiled` tells.
    """
    taps = Taps({name: [] for name in layers})
    wanted: dict[str, list[tuple[str, int | None]]] = {}
    for name in layers:
        bare, call = split_call(name)
        wanted.setdefault(bare, []).append((name, call))

    def tap(bare: str) -> Callable[..., Any]:
        count = 0

        def see(_module: nn.Module, output: Any) -> Any:
            nonlocal count
            takers = [name for name, call in wanted[bare] if call in (None, count)]
            count += 1
            first = next(tensors(output), None)
            if not takers or first is None:
                return None
            kept = first
            if grad and not first.requires_grad and first.is_floating_point():
                start = torch.zeros((), dtype=first.dtype, device=first.device, requires_grad=True)
                taps.begun.append(start)
                kept = _Begin.apply(first.detach(), start)
            for name in takers:
                taps.keep(name, kept, name in copied)
            return swapped(output, first, kept)

        return see

    def before(part: nn.Module, inputs: Any) -> None:
        taps.changing(part, list(tensors(inputs)))

    with ExitStack() as stack:
        for part in in_place(module):
            stack.callback(part.register_forward_pre_hook(before).remove)
        for bare in wanted:
            if bare != INPUT:
                stack.enter_context(watched(module, Point("module", bare), tap(bare)))
        yield taps


def in_place(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that say of themselves that they change what they are given."""
    return [part for part in module.modules() if getattr(part, "inplace", False)]


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    if one.layout != torch.strided or other.layout != torch.strided:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def swapped(output: Any, old: Tensor, new: Tensor) -> Any:
    """The same output with one tensor replaced, in tuples, lists, dicts and model outputs."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = {key: swapped(value, old, new) for key, value in output.items()}
        return changed if type(output) is dict else type(output)(**changed)
    if isinstance(output, tuple):
        parts = [swapped(value, old, new) for value in output]
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
    if isinstance(output, list):
        return [swapped(value, old, new) for value in output]
    return output
