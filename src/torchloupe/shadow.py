"""Ask a shadow of a network, never the network: objects of its own over the network's own tensors."""

from __future__ import annotations

import copy
import functools
import io
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import LoupeWarning

PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))
# by these attributes networks say that they recompute parts of the forward in the backward, where no tap would see them
CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "with_cp", "memory_efficient")
# what cannot be copied, or is not a network's own, stays what it is
KEPT = (type(threading.Lock()), type(threading.RLock()), io.IOBase, types.ModuleType, torch.Generator, torch.device)
MOST_FREE = 4


class Unshadowable(Exception):
    """Why a network has no shadow."""


@dataclass
class _Shadow:
    """A copy, and what its objects held when it was made."""

    module: nn.Module
    held: list[tuple[dict[Any, Any], dict[Any, Any]]]
    lengths: list[tuple[Any, int]]

    def cleansed(self) -> bool:
        """Undoes every change of its attributes, hooks and parts; False where something inside a list or the like grew."""
        for now, before in self.held:
            if not _same(now, before):
                now.clear()
                now.update(before)
        return all(len(value) == length for value, length in self.lengths)


def _same(now: dict[Any, Any], before: dict[Any, Any]) -> bool:
    """Whether two dicts hold the same; what is the same object is not compared further, so that this is fast."""
    try:
        return now == before
    except Exception:  # tensors and arrays that are not the same object have no one answer
        return False


@dataclass
class _Shelf:
    """What is known of one network. reason: why it is asked itself, and the thread that does; free: shadows that nobody asks."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    asking: Any = field(default_factory=threading.RLock)
    seen: list[Any] = field(default_factory=list)
    reason: str = ""
    asker: int = 0
    free: list[_Shadow] = field(default_factory=list)


_SHELVES: weakref.WeakKeyDictionary[nn.Module, _Shelf] = weakref.WeakKeyDictionary()
_SHADOWS: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@contextmanager
def shadowed(module: nn.Module, *speakers: Any, itself: bool = False) -> Iterator[nn.Module]:
    """A network to ask and to change at will, in eval mode, its parameters frozen, its tensors those of the module.

    Shadows are kept: one is made where none is free or the module has changed since. What was changed in one is undone.
    speakers: functions that will call it; one that holds the module itself would not call the shadow.
    itself: the module is asked under a lock and put back as it was, as it is where it has no shadow, which is said once.
    """
    if module in _SHADOWS:
        yield module
        return
    shelf = _SHELVES.setdefault(module, _Shelf())
    mine = None if itself else _take(shelf, module, speakers)
    with torch.inference_mode(False):
        if mine is None:
            with shelf.asking:
                outer, shelf.asker = shelf.asker, threading.get_ident()
                try:
                    with _restored(module):
                        yield module
                finally:
                    shelf.asker = outer
            return
        whole = False
        try:
            yield mine.module
            whole = True
        finally:
            clean = mine.cleansed()
            if clean or whole:
                with shelf.lock:
                    if clean and len(shelf.free) < MOST_FREE:
                        shelf.free.append(mine)


def is_shadow(module: nn.Module) -> bool:
    """Whether a module is a shadow, to be changed at will."""
    return module in _SHADOWS


def give_up(module: nn.Module, reason: str) -> None:
    """From now on, and until it changes, the module itself is asked, for this reason; says so."""
    shelf = _SHELVES.setdefault(module, _Shelf())
    with shelf.lock:
        shelf.seen, shelf.free = _signature(module), []
        _say(shelf, module, reason)


def _say(shelf: _Shelf, module: nn.Module, reason: str) -> None:
    shelf.reason = reason
    text = (
        f"{type(module).__name__} is asked itself, one asking at a time, instead of a copy: {reason}; do not run it in other "
        "threads meanwhile"
    )
    warnings.warn(text, LoupeWarning, stacklevel=6)


def _take(shelf: _Shelf, module: nn.Module, speakers: Iterable[Any]) -> _Shadow | None:
    if shelf.asker == threading.get_ident():
        return None
    if shelf.reason:
        with shelf.asking:  # while another thread asks it, it has that thread's hooks
            seen = _signature(module)
    else:
        seen = _signature(module)
    with shelf.lock:
        if seen != shelf.seen:
            shelf.seen, shelf.free, shelf.reason = seen, [], ""
        elif shelf.reason:
            return None
        if shelf.free:
            return shelf.free.pop()
        try:
            parts = {id(part) for part in module.modules()}
            for speaker in speakers:
                if (held := _held(speaker, parts)) is not None:
                    raise Unshadowable(f"the function that calls it holds {held}")
            return _made(module)
        except Unshadowable as error:
            _say(shelf, module, str(error))
            return None


def _signature(module: nn.Module) -> list[Any]:
    """What a shadow was made from, by identity of objects and tensors and by value of plain attributes."""
    found: list[Any] = []
    add = found.append
    known: set[int] = set()
    for part in module.modules():
        add(id(part))
        for key, value in part.__dict__.items():
            kind = type(value)
            if kind in PLAIN:
                if key != "training":
                    add(value)
                continue
            add(id(value))
            if kind is dict or kind is OrderedDict:
                for name, inner in value.items():
                    add(name)
                    add(inner if type(inner) in PLAIN else id(inner))
                    if isinstance(inner, Tensor):
                        add(_address(inner))
            elif isinstance(value, Tensor):
                add(_address(value))
            elif isinstance(value, (list, tuple, set)):
                found.extend(one if type(one) in PLAIN else id(one) for one in value)
            elif id(value) not in known and hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)):
                known.add(id(value))
                found.extend(one if type(one) in PLAIN else id(one) for one in vars(value).values())
    return found


def _address(tensor: Tensor) -> int | None:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # tensors without memory of their own
        return None


def _made(module: nn.Module) -> _Shadow:
    """A copy of the tree in which tensors are the module's own memory, detached. Errors: Unshadowable."""
    parts = {id(part): name for name, part in module.named_modules()}
    memo: dict[int, Any] = {}
    compiled: list[nn.Module] = []
    for part in module.modules():
        if hasattr(part, "_hf_hook"):
            raise Unshadowable(f"{_named(parts, part)} moves its weights about by hooks")
        if hasattr(part, "_orig_mod"):
            compiled.append(part)
            continue
        for key, value in part.__dict__.items():
            if key == "_compiled_call_impl":  # is left out of a copy
                continue
            if (holds := _held(value, set(parts))) is not None:
                raise Unshadowable(f"{_named(parts, part)} has a function {key!r} that holds {holds}")
            inner = value.values() if isinstance(value, dict) else (value,)
            for one in inner:
                if isinstance(one, Tensor):
                    memo.setdefault(id(one), _alias(one))
                elif isinstance(one, KEPT) or (key.endswith("_hooks") and _is_recorder(one, parts)):
                    memo[id(one)] = one
                    memo[id(getattr(one, "__self__", one))] = getattr(one, "__self__", one)
    try:
        for part in reversed(compiled):
            memo[id(part)] = _Through(copy.deepcopy(part.get_submodule("_orig_mod"), memo))
        found = copy.deepcopy(module, memo)
    except Exception as error:  # a stranger's attribute may refuse to be copied in any way
        raise Unshadowable(
            f"it cannot be copied ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error
    for part in found.modules():
        _SHADOWS.add(part)
        _prepare(part)
    held: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
    lengths: list[tuple[Any, int]] = []
    for part in found.modules():
        own = part.__dict__
        held.append((own, dict(own)))
        held += [(value, dict(value)) for key, value in own.items() if key.startswith("_") and isinstance(value, dict)]
        lengths += [(value, len(value)) for value in own.values() if type(value) in (list, set, dict)]
    return _Shadow(found, held, lengths)


class _Through(nn.Module):
    """In the place of a compiled wrapper: what was compiled, as it is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self._orig_mod = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._orig_mod(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_orig_mod":
            return super().__getattr__(name)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._orig_mod, name)


def _prepare(part: nn.Module) -> None:
    """Eval mode without recomputation; recurrent layers so that their gradient exists on every device."""
    part.training = False
    for flag in CHECKPOINTING:
        if part.__dict__.get(flag) is True:
            setattr(part, flag, False)
    if isinstance(part, nn.RNNBase):
        # cuDNN gives the gradient of a recurrent layer in training mode only; without dropout the numbers are the same
        part.training, part.dropout = True, 0.0
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        part.register_forward_hook(_in_one_piece)


def _in_one_piece(_part: nn.Module, _inputs: Any, output: Any) -> None:
    """On a CPU torch's gradient of batch norm is wrong for one sample whose gradient comes with the strides of tokens."""
    if isinstance(output, Tensor) and output.requires_grad and len(output) == 1 and output.device.type == "cpu":
        output.register_hook(lambda grad: grad.contiguous())


def _alias(tensor: Tensor) -> Tensor:
    if type(tensor) is nn.Parameter:
        return nn.Parameter(tensor.detach(), requires_grad=False)
    if type(tensor) is Tensor:
        return tensor.detach()
    return tensor  # of a class of its own: quantised, sharded, not yet shaped


def _named(parts: Mapping[int, str], part: nn.Module) -> str:
    return repr(parts[id(part)]) if parts.get(id(part)) else "it"


def _is_recorder(hook: Any, parts: Mapping[int, str]) -> bool:
    """Whether a hook is an object of the user's, or a method of one, and not of the network's."""
    owner = getattr(hook, "__self__", hook)
    return not isinstance(owner, (types.FunctionType, functools.partial)) and id(owner) not in parts


def _held(value: Any, parts: set[int], depth: int = 0) -> str | None:
    """What module of the network a function holds, in its closure, its defaults or a weak reference; None: none."""
    if depth > 4:
        return None
    if isinstance(value, dict):
        inside: Iterable[Any] = value.values() if not depth else ()
    elif isinstance(value, types.FunctionType):
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # an empty cell
                continue
        for one in (*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            for content in one if isinstance(one, (list, tuple)) else one.values() if isinstance(one, dict) else (one,):
                owner = getattr(content, "__self__", content) if isinstance(content, types.MethodType) else content
                if isinstance(owner, nn.Module) and id(owner) in parts:
                    return f"{type(owner).__name__} in its closure"
        inside = [one for one in cells if isinstance(one, (types.FunctionType, functools.partial))]
    elif isinstance(value, functools.partial):
        inside = [value.func]
        if depth:
            inside += [*value.args, *value.keywords.values()]
    elif isinstance(value, weakref.ref):
        owner = value()
        return (
            f"{type(owner).__name__} by a weak reference"
            if isinstance(owner, nn.Module) and id(owner) in parts
            else None
        )
    elif isinstance(value, types.MethodType) and depth:
        inside = []
    else:
        return None
    return next((held for one in inside if (held := _held(one, parts, depth + 1)) is not None), None)


@contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; every flag as it was afterwards, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    dropouts = [(part, part.dropout) for part in module.modules() if isinstance(part, nn.RNNBase)]
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for part, _ in modes:
            part.training = False
        for recurrent, _ in dropouts:
            recurrent.training, recurrent.dropout = True, 0.0
        for p, flag in flags:
            if flag:
                p.requires_grad_(False)
        yield
    finally:
        for part, training in modes:
            part.training = training
        for recurrent, dropout in dropouts:
            recurrent.dropout = dropout
        for p, flag in flags:
            if flag:
                p.requires_grad_(True)
