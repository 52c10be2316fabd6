"""Look at any value inside a forward: outputs and inputs of modules, functions and methods, and parameters."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.attention import drawn_query, opened, token_grid
from torchloupe.axes import Layout, Size
from torchloupe.errors import BadInput, nearest
from torchloupe.evidence import Watch, settle
from torchloupe.names import Point, locate, parse
from torchloupe.names import expand as expand_layer
from torchloupe.outputs import Features
from torchloupe.probe import INPUT, Batch, Subject, full, reject_wrapped
from torchloupe.taps import Tap, in_place, leaves, watched
from torchloupe.trace import Trace, Visit, every_name, find_layout, tensors, tracing
from torchloupe.windows import whole


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
        names = _parameters(module, point.name) if point.kind == "parameter" else expand_layer(known, point.name)
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
    inner = {point for point in flat if point.kind == "attention" or (not records[point] and _weighs(known, point))}
    attended, after = _attended(subject, batch, inner) if inner else ({}, trace)
    found: dict[str, Seen] = {}
    for label, matches in wanted.items():
        some = [point for point in matches if point.kind != "attention" or point in attended]
        if matches and not some:
            raise BadInput(
                f"point {label!r}: no attention ran in it; `{subject.listing}` shows where attention runs, as attn:NAME"
            )
        for point in some:
            if point in attended:
                called = label if len(some) == 1 and not _is_glob(label) else str(point)
                calls = attended[point]
                for i, probabilities in enumerate(calls):
                    one = called if len(calls) == 1 or point.call is not None else f"{called}#{i}"
                    seen = _attention(one, point, probabilities, subject, batch, after)
                    found[seen.label] = seen
                continue
            held = named.get(point.name, records[point])
            _check_ran(point, held, trace, subject.listing)
            called = label if len(matches) == 1 and not _is_glob(label) else str(point)
            found.update((one.label, one) for one in _seen(called, point, held, subject, batch, trace))
    return found


def _weighs(known: Mapping[str, nn.Module], point: Point) -> bool:
    """Whether a point is the module that attention's probabilities go through, which a fused kernel passes by."""
    idle = (nn.Dropout, nn.Identity, nn.Softmax)
    return point.kind == "module" and not point.inputs and isinstance(known.get(point.name), idle)


def _attended(subject: Subject, batch: Batch, points: Collection[Point]) -> tuple[dict[Point, list[Tensor]], Trace]:
    """Point -> the probabilities (n, heads, queries, keys) of its calls, in a forward of its own with attention opened.

    Errors: BadInput for a call that there is not.
    """
    around = {point: point.name if point.kind == "attention" else point.name.rpartition(".")[0] for point in points}

    def wanted(name: str) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in around.values())

    with (
        subject.asked() as own,
        torch.no_grad(),
        tracing(own.module) as trace,
        opened(own.module, wanted=wanted) as seen,
    ):
        own.output(batch.at(batch.x.clone()))
    found: dict[Point, list[Tensor]] = {}
    for point, name in around.items():
        mine = point.kind == "attention"
        calls = seen.of(name) if mine else [one.probabilities for one in seen.calls if one.name == name]
        if point.call is not None and calls:
            if point.call >= len(calls):
                raise BadInput(f"point {str(point)!r}: attention ran {len(calls)} times in it, #0 to #{len(calls) - 1}")
            calls = [calls[point.call]]
        if calls:
            found[point] = calls
    return found, trace


def _attention(label: str, point: Point, probabilities: Tensor, subject: Subject, batch: Batch, trace: Trace) -> Seen:
    """Of attn:NAME what one query attends to, head by head, over the picture; of a module inside it the whole matrices."""
    if point.kind != "attention":
        return Seen(label, probabilities, Layout(), batch.n, batch.size, aligned=False)
    n, _, rows, tokens = probabilities.shape
    if n != batch.n:
        why = f"its attention is of shape {tuple(probabilities.shape)}, in windows, which are no picture of their own"
        return Seen(label, probabilities, why, batch.n, batch.size)
    query = None
    if point.keys:
        if len(point.keys) > 1 or not point.keys[0].isdigit() or int(point.keys[0]) >= rows:
            raise BadInput(f"point {str(point)!r}: expected the number of a query token behind @, 0 to {rows - 1}")
        query = int(point.keys[0])
    layout = token_grid(subject, batch, trace, point.name, tokens)
    if isinstance(layout, str):
        return Seen(label, probabilities, layout, batch.n, batch.size)
    return Seen(label, drawn_query(probabilities, layout, query), layout, batch.n, batch.size)


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
            if point.kind == "parameter":
                tensor = _tensors(module)[point.name]
                records[point].append(Record(0, {(): Tap.of(tensor, True)}, 0))
            elif point.name != INPUT and point.kind != "attention":
                stack.enter_context(watched(module, point, partial(keep, point)))
        for part in in_place(module):
            stack.callback(part.register_forward_pre_hook(before).remove)
        yield records


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
        def keep(_part: nn.Module, value: Any) -> None:
            found = dict(leaves(pick(value, point)))
            if keys in found or len(found) == 1:
                take(found[keys] if keys in found else next(iter(found.values())))

        with watched(module, point, keep):
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
        if point.kind == "module" and tensor.ndim == 3 and tensor.shape[0] > batch.n:
            cut = whole(tensor, point.name, record.at, every_name(subject.module), subject, batch, trace)
            if isinstance(cut, tuple):
                return Seen(label, cut[0], cut[1], batch.n, batch.size)
            if cut is not None:
                return Seen(label, tensor, cut, batch.n, batch.size)
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
