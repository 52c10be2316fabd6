"""Look at any value inside a forward: outputs and inputs of modules, functions and methods, and parameters."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import wraps
from importlib import import_module
from inspect import getattr_static, signature
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout, Size
from torchloupe.errors import BadInput, nearest
from torchloupe.evidence import Watch, settle
from torchloupe.names import expand as expand_layer
from torchloupe.probe import INPUT, Batch, Subject, full, reject_wrapped
from torchloupe.results import Features
from torchloupe.taps import Tap, in_place
from torchloupe.trace import Trace, Visit, every_name, find_layout, tensors, tracing

Kind = Literal["module", "function", "parameter"]
PREFIXES: Mapping[str, tuple[Kind, bool]] = {
    "in": ("module", True),
    "fn": ("function", False),
    "in-fn": ("function", True),
    "param": ("parameter", False),
}
ABSENT = object()


@dataclass(frozen=True)
class Point:
    """A place in a network.

    kind, name: a module or parameter by dotted name, a function or method by import path.
    inputs: what goes in, not what comes out. call: the n-th call in one forward; None = all of them.
    keys: the way to one tensor inside tuples, lists, dicts and objects.
    """

    kind: Kind
    name: str
    inputs: bool = False
    call: int | None = None
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        prefix = next((text + ":" for text, found in PREFIXES.items() if found == (self.kind, self.inputs)), "")
        call = "" if self.call is None else f"#{self.call}"
        return prefix + self.name + call + "".join(f"@{key}" for key in self.keys)


@dataclass(frozen=True)
class Seen:
    """One tensor that was seen.

    raw: as the network had it. layout: how it becomes canonical, or the reason why it has no image axes.
    n, size: samples, and (t, h, w) of the input. aligned: False where its rows and columns are not the picture's.
    """

    label: str
    raw: Tensor
    layout: Layout | str
    n: int
    size: Size
    aligned: bool = True

    @property
    def value(self) -> Tensor:
        """(n, c, t, h, w). Errors: BadInput where the tensor has no image axes."""
        if isinstance(self.layout, str):
            raise BadInput(f"point {self.label!r}: {self.layout}; its shape is {tuple(self.raw.shape)}")
        return self.layout.canonical([self.raw], self.n, self.size)


def parse(text: str) -> Point:
    """name | in:name | fn:package.module.function | in-fn:... | param:name, then #call, then @key as often as needed.

    A method is written as a function: fn:package.module.Class.method. Globs (* and ?) stand for modules and parameters.
    Errors: BadInput that shows the forms.
    """
    prefix, colon, rest = text.partition(":")
    kind, inputs = PREFIXES.get(prefix, ("module", False)) if colon else ("module", False)
    name = rest if colon and prefix in PREFIXES else text
    name, *keys = name.split("@")
    name, mark, call = name.partition("#")
    bad_prefix = colon and prefix not in PREFIXES
    if bad_prefix or not name or not all(keys) or (mark and not call.isdigit()):
        hint = nearest(prefix, PREFIXES) if bad_prefix else ""
        raise BadInput(
            f"point {text!r}: expected name, in:name, fn:package.function, in-fn:package.function or param:name, then "
            f"#call and @key where wanted, such as relu#1 or neck@0.{hint}"
        )
    return Point(kind, name.replace(":", "."), inputs, int(call) if mark else None, tuple(keys))  # type: ignore[arg-type]


def expand(module: nn.Module, known: Mapping[str, nn.Module], points: Sequence[Point]) -> list[Point]:
    """Globs become the names that they fit, other names are checked; layer4[-1] becomes layer4.2.

    known: dict(module.named_modules()).
    Errors: BadInput that offers the nearest names.
    """
    found: list[Point] = []
    for point in points:
        if point.kind == "function":
            locate(point.name)
            found.append(point)
            continue
        names = expand_layer(known, point.name) if point.kind == "module" else _parameters(module, point.name)
        found += [replace(point, name=name) for name in names]
    return list(dict.fromkeys(found))


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict([*module.named_parameters(), *module.named_buffers()])


def _parameters(module: nn.Module, name: str) -> list[str]:
    known = _tensors(module)
    if not _is_glob(name):
        if name not in known:
            raise BadInput(f"no parameter {name!r} in this model.{nearest(name, known)}")
        return [name]
    level = name.count(".")
    found = [one for one in known if one.count(".") == level and fnmatchcase(one, name.replace("[", "[[]"))]
    if not found:
        raise BadInput(f"no parameter fits {name!r}; * and ? stay between two dots, as in layer1.*.conv1.weight")
    return found


def features(
    subject: Subject, batch: Batch, points: Sequence[str] | Mapping[str, str], *, skip_flat: bool = False
) -> Features:
    """The values at points of a network, in one forward without gradients.

    points: as in parse; a mapping gives the labels under which the values are kept.
    skip_flat: leave out tensors without image axes in place of an error.
    Errors: BadInput for an unknown point, one that did not run, and a tensor without image axes.
    """
    seen = capture(subject, batch, points)
    if skip_flat:
        seen = {label: one for label, one in seen.items() if isinstance(one.layout, Layout)}
    return Features(
        {label: full(one.value) for label, one in seen.items()},
        {label: one.layout.pattern for label, one in seen.items() if isinstance(one.layout, Layout)},
        batch.ids,
        tuple(label for label, one in seen.items() if not one.aligned),
    )


def capture(subject: Subject, batch: Batch, points: Sequence[str] | Mapping[str, str]) -> dict[str, Seen]:
    """Label -> what was seen, raw. A point with several tensors or calls gives one label each: neck@0, relu#1."""
    reject_wrapped(subject.module)
    given = points if isinstance(points, Mapping) else {text: text for text in points}
    known = every_name(subject.module)
    wanted = {label: expand(subject.module, known, [parse(text)]) for label, text in given.items()}
    flat = list(dict.fromkeys(point for found in wanted.values() for point in found))
    if not flat:
        raise BadInput("no point was named")
    copied: set[Point] = set()
    while True:
        with (
            subject.asked() as own,
            torch.no_grad(),
            tracing(own.module) as trace,
            recording(own.module, flat, trace, copied) as records,
        ):
            own.output(batch.at(batch.x.clone()))
        spoiled = {point for point, held in records.items() if any(record.spoiled for record in held)}
        if not spoiled:
            break
        copied |= spoiled
    named = {point.name: [_of_input(batch)] for point in flat if point.name == INPUT and point.kind == "module"}
    found: dict[str, Seen] = {}
    for label, matches in wanted.items():
        for point in matches:
            held = named.get(point.name, records[point])
            _check_ran(point, held, trace, subject.listing)
            called = label if len(matches) == 1 and not _is_glob(label) else str(point)
            found.update((one.label, one) for one in _seen(called, point, held, subject, batch, trace))
    return found


@dataclass(frozen=True)
class Record:
    """The tensors of one call, by their keys; at: how many module calls had ended before it."""

    call: int
    tensors: Mapping[tuple[str, ...], Tap]
    at: int
    module: nn.Module = field(default_factory=nn.Identity)

    @property
    def spoiled(self) -> bool:
        """Whether something has changed a tensor in place unforeseen."""
        return not all(tap.intact for tap in self.tensors.values())


def _of_another(tensor: Tensor, weights: Collection[int]) -> bool:
    """Whether a tensor is a part of something larger, or one of the weights."""
    if tensor.layout != torch.strided:
        return False
    memory = tensor.untyped_storage()
    return memory.nbytes() > tensor.numel() * tensor.element_size() or memory.data_ptr() in weights


def _of_input(batch: Batch) -> Record:
    return Record(0, {(): Tap(batch.x.detach(), None)}, 0)


@contextmanager
def recording(
    module: nn.Module, points: Sequence[Point], trace: Trace | None = None, copied: Collection[Point] = ()
) -> Iterator[dict[Point, list[Record]]]:
    """Point -> a record a call, of the forwards inside. Hooks and patched functions are gone afterwards, whatever happens.

    What is kept is the network's own tensor, copied when a module that works in place is about to change it. What else
    changes it in place spoils its record; at the points in copied it is a copy. A function is patched where its path
    says, as a name in that module: code that imported it under another module's name still calls the original.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in _tensors(module).values()}
    visits = trace.visits if trace is not None else []
    records: dict[Point, list[Record]] = {point: [] for point in points}
    counts = dict.fromkeys(points, 0)
    busy = False

    def keep(point: Point, part: nn.Module, value: Any) -> None:
        nonlocal busy
        if busy:
            return
        call = counts[point]
        counts[point] += 1
        if point.call not in (None, call):
            return
        busy = True
        try:
            picked = pick(value, point)
            found = {
                keys: Tap.of(tensor, point in copied or _of_another(tensor, weights)) for keys, tensor in leaves(picked)
            }
            found = {(): next(iter(found.values()))} if len(found) == 1 else found
            records[point].append(Record(call, found, len(visits), part))
        finally:
            busy = False

    def before(_part: nn.Module, inputs: Any) -> None:
        changing = list(tensors(inputs))
        for record in chain.from_iterable(records.values()):
            for tap in record.tensors.values():
                if tap.shares(changing):
                    tap.copy()

    with ExitStack() as stack:
        for point in points:
            if point.kind == "function":
                stack.enter_context(_patched(point, keep))
            elif point.kind == "parameter":
                tensor = _tensors(module)[point.name]
                records[point].append(Record(0, {(): Tap.of(tensor, True)}, 0))
            elif point.name != INPUT:
                stack.enter_context(_hooked(module.get_submodule(point.name), point, keep))
        for part in in_place(module):
            stack.callback(part.register_forward_pre_hook(before).remove)
        yield records


@contextmanager
def _hooked(part: nn.Module, point: Point, keep: Callable[[Point, nn.Module, Any], None]) -> Iterator[None]:
    def before(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(point, part, Inputs(part.forward, args, kwargs))

    def after(part: nn.Module, _inputs: Any, output: Any) -> None:
        keep(point, part, output)

    if point.inputs:
        handle = part.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = part.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _patched(point: Point, keep: Callable[[Point, nn.Module, Any], None]) -> Iterator[None]:
    owner, attribute = locate(point.name)
    own = vars(owner).get(attribute, ABSENT)
    # getattr would bind a parent's class method to this class
    raw = getattr_static(owner, attribute, getattr(owner, attribute))
    original = raw.__func__ if isinstance(raw, (staticmethod, classmethod)) else raw
    bound = isinstance(owner, type) and not isinstance(raw, staticmethod)
    part = nn.Identity()

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if point.inputs:
            keep(point, part, Inputs(original, args, kwargs, skip=int(bound and not isinstance(args[0], Tensor))))
        result = original(*args, **kwargs)
        if not point.inputs:
            keep(point, part, result)
        return result

    wrapped = type(raw)(watched) if isinstance(raw, (staticmethod, classmethod)) else watched
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


def locate(path: str) -> tuple[Any, str]:
    """An import path -> the module or class that holds the last name, and that name.

    Errors: BadInput for a path that leads nowhere (with the nearest names) or to something that is not called.
    """
    parts = path.split(".")
    if not all(parts):
        raise BadInput(f"{path!r}: expected package.module.function, with a name between any two dots")
    holder: Any = None
    used = 0
    for used in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:used])
        try:
            holder = import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise BadInput(f"{path!r}: {module} cannot be imported ({error})") from error
        except ImportError as error:
            raise BadInput(f"{path!r}: {module} cannot be imported ({error})") from error
    if holder is None:
        raise BadInput(f"{path!r}: there is no module {parts[0]!r}; expected package.module.function")
    for i in range(used, len(parts)):
        if not hasattr(holder, parts[i]):
            where = ".".join(parts[:i])
            raise BadInput(f"{path!r}: {where} has no {parts[i]!r}.{nearest(parts[i], dir(holder))}")
        if i < len(parts) - 1:
            holder = getattr(holder, parts[i])
    if not callable(getattr(holder, parts[-1])) or isinstance(getattr(holder, parts[-1]), (type, types.ModuleType)):
        raise BadInput(f"{path!r} is not a function or method, so nothing calls it; name one inside it")
    return holder, parts[-1]


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


def pick(value: Any, point: Point) -> Any:
    """The part of a value that the point's keys lead to: an index, a key or an attribute each.

    Errors: BadInput that lists what there is.
    """
    for depth, key in enumerate(point.keys):
        try:
            value = _one(value, key)
        except (KeyError, IndexError, AttributeError):
            where = replace(point, keys=point.keys[:depth])
            raise BadInput(f"point {str(point)!r}: {where} {_describe(value)}, so there is no {key!r}") from None
    return value


def _one(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        try:
            return value[key]
        except KeyError:
            if key.lstrip("-").isdigit():
                return value[int(key)] if int(key) in value else list(value.values())[int(key)]
    if isinstance(value, (Sequence, Tensor)) and key.lstrip("-").isdigit():
        return value[int(key)]
    return getattr(value, key)


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"has the keys {', '.join(map(str, value))}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"has {len(value)} elements"
    return f"is a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"


def _check_ran(point: Point, records: Sequence[Record], trace: Trace, listing: str) -> None:
    if records and any(record.tensors for record in records):
        return
    if records:
        raise BadInput(f"point {str(point)!r}: no tensor is in it")
    often = trace.calls.get(point.name, 0)
    if point.kind == "module" and point.call is not None and often:
        raise BadInput(f"point {str(point)!r}: the module ran {often} times in the forward, #0 to #{often - 1}")
    if point.kind == "module":
        inside = next((name for name in trace.calls if name.startswith(f"{point.name}.")), None)
        hint = f"; its parts did, such as {inside}: its forward is called past its hooks" if inside else ""
        raise BadInput(f"point {str(point)!r}: the module did not run in the forward; `{listing}` shows which do{hint}")
    raise BadInput(
        f"point {str(point)!r}: the function was not called (often enough) in the forward; it may run inside C++ (a fused "
        f"kernel), or the model may hold it under another module's name{_other_names(point.name)}"
    )


def _other_names(path: str) -> str:
    """', such as a.f or b.f': other loaded modules of the model's packages that hold the same function."""
    import sys

    owner, attribute = locate(path)
    function = getattr(owner, attribute)
    found = [
        f"{name}.{attribute}"
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType) and module is not owner and vars(module).get(attribute) is function
    ]
    return f", such as fn:{' or fn:'.join(sorted(found, key=len)[:3])}" if found else ""


def _seen(
    label: str, point: Point, records: Sequence[Record], subject: Subject, batch: Batch, trace: Trace
) -> Iterator[Seen]:
    declared = subject.layout(point.name) if point.kind == "module" and not (point.inputs or point.keys) else None
    if point.name == INPUT and point.kind == "module":
        declared = batch.layout
    if declared is not None and declared.join is not None and point.call is None:
        raw = torch.cat([next(iter(one.tensors.values())).tensor for one in records], declared.axis(declared.join))
        yield Seen(label, raw, replace(declared, join=None), batch.n, batch.size)
        return
    for record in records:
        called = label if len(records) == 1 else f"{label}#{record.call}"
        for keys, tap in record.tensors.items():
            own = called + "".join(f"@{key}" for key in keys)
            if declared is not None and tap is next(iter(record.tensors.values())):
                yield Seen(own, tap.tensor, declared, batch.n, batch.size)
            elif point.kind == "parameter":
                yield _weights(own, tap.tensor, batch.size)
            else:
                yield _activation(own, point, record, keys, subject, batch, trace)


def _watch(point: Point, keys: tuple[str, ...]) -> Watch:
    """How to see one tensor of a point in another forward."""

    @contextmanager
    def watch(module: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
        def keep(_point: Point, _part: nn.Module, value: Any) -> None:
            found = dict(leaves(pick(value, point)))
            if keys in found or len(found) == 1:
                take(found[keys] if keys in found else next(iter(found.values())))

        where = (
            _patched(point, keep)
            if point.kind == "function"
            else _hooked(module.get_submodule(point.name), point, keep)
        )
        with where:
            yield

    return watch


def _activation(
    label: str, point: Point, record: Record, keys: tuple[str, ...], subject: Subject, batch: Batch, trace: Trace
) -> Seen:
    tensor = record.tensors[keys].tensor
    name = str(point) + "".join(f"@{key}" for key in keys)
    visit = Visit(name, record.module, record.call, (tuple(tensor.shape),))
    around = Trace([*trace.visits[: record.at], visit, *trace.visits[record.at :]])
    layout: Layout | str = "it is a single number"
    if tensor.ndim:
        layout = settle(subject, batch, visit, around, _watch(point, keys))
    matrices = isinstance(layout, str) and tensor.ndim == 4 and tensor.shape[0] == batch.n
    return Seen(label, tensor, Layout() if matrices else layout, batch.n, batch.size, not matrices)


def _weights(label: str, tensor: Tensor, size: Size) -> Seen:
    """Kernels as channels of one picture; a matrix as one channel; tokens (positional embeddings) on their grid."""
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        visit = Visit("", nn.Identity(), 0, (tuple(tensor.shape),))
        return Seen(label, tensor, find_layout(visit, Trace([visit]), 1, size), 1, size)
    patterns = {5: "n o i t h w -> n (o i) t h w", 4: "n o i h w -> n (o i) 1 h w", 3: "n o i h -> n (o i) 1 h 1"}
    patterns |= {2: "n h w -> n 1 1 h w", 1: "n c -> n c 1 1 1"}
    pattern = patterns.get(tensor.ndim)
    layout = Layout(pattern) if pattern else f"a parameter with {tensor.ndim} axes has no image axes"
    return Seen(label, tensor[None], layout, 1, size, aligned=False)
