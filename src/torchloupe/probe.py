"""Ask a model k questions about n samples and look at chosen layers: one forward, k backwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from torchloupe.axes import Layout, Size
from torchloupe.errors import BadInput, BadSample, NoGradient, nearest
from torchloupe.results import Scores
from torchloupe.trace import Trace, find_layout, tensors, tracing

INPUT = "input"
Kind = Literal["classifier", "embedder", "pose", "detector", "segmenter"]


@dataclass(frozen=True)
class Batch:
    """n samples as the model takes them, and what is known about them.

    x: the tensor that is explained; layout says where its axes are.
    ids: one name a sample.
    extra: further inputs of the model; truth: what is known to be right; asked: choices of the target that are held
        fixed. Tensors in them whose first axis is n follow their samples.
    pictures: (n, t, h, w, 3) uint8, what the model saw, undone; or None.
    """

    x: Tensor
    layout: Layout = Layout()
    ids: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.x.shape[self._n_axis] if "(n" not in self.layout.pattern else len(self.ids)
        if not self.ids:
            object.__setattr__(self, "ids", tuple(str(i) for i in range(count)))
        elif len(self.ids) != count:
            raise BadInput(f"{len(self.ids)} ids for {count} samples")

    @property
    def _n_axis(self) -> int:
        return self.layout.axis("n")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.ids)

    @property
    def size(self) -> Size:
        """(t, h, w) of the input."""
        t, h, w = self.layout.canonical([self.x.detach()], self.n).shape[-3:]
        return t, h, w

    def at(self, x: Tensor) -> Batch:
        """The same samples with another input of the same shape."""
        return replace(self, x=x)

    def take(self, index: Sequence[int] | Tensor) -> Batch:
        """The samples of these numbers, in this order; a number may stand several times."""
        where = torch.as_tensor(index, dtype=torch.long)
        return self._rows(where, self.x.index_select(self._n_axis, where.to(self.x.device)))

    def spread(self, count: int) -> Batch:
        """One sample as count samples, whose input is a view, not a copy. Errors: BadInput for more than one sample."""
        if self.n != 1:
            raise BadInput(f"spread takes one sample, not {self.n}")
        shape = list(self.x.shape)
        shape[self._n_axis] = count
        return self._rows(torch.zeros(count, dtype=torch.long), self.x.expand(shape))

    def _rows(self, where: Tensor, x: Tensor) -> Batch:
        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.n:
                return value[where.to(value.device)]
            return value

        extra, truth, asked = (
            {key: rows(value) for key, value in part.items()} for part in (self.extra, self.truth, self.asked)
        )
        ids = tuple(self.ids[i] for i in where.tolist())
        return Batch(x, self.layout, ids, extra, truth, asked, rows(self.pictures))


def call_plainly(module: nn.Module, batch: Batch) -> Any:
    """module(x), with the batch's extra inputs as keyword arguments."""
    return module(batch.x, **batch.extra)


def read_first(output: Any) -> Tensor:
    """The output itself, its `logits`, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    first = next(tensors(output), None)
    if first is None:
        raise BadInput(
            f"the model returned {type(output).__name__}, in which no tensor was found; give Subject(read=...)"
        )
    return first


def find_from_trace(_layer: str) -> Layout | None:
    """No layout is declared: the probe finds it."""
    return None


@dataclass(frozen=True)
class Subject:
    """A model and how to talk to it.

    module: the network, never changed.
    layout: layer name -> Layout, or None to have it found.
    call: (module, batch) -> output. read: output -> what targets take (logits (n, classes) for classifiers).
    layers: the default layers; () where they are not known. spec: where the model came from.
    classes: names of the classes, or ().
    prepare: picture files or images -> Batch, or None.
    """

    module: nn.Module
    layout: Callable[[str], Layout | None] = find_from_trace
    call: Callable[[nn.Module, Batch], Any] = call_plainly
    read: Callable[[Any], Any] = read_first
    kind: Kind = "classifier"
    layers: tuple[str, ...] = ()
    spec: str = ""
    classes: tuple[str, ...] = ()
    prepare: Callable[..., Batch] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def output(self, batch: Batch) -> Any:
        """What targets take, for this batch, in the model's own device and precision."""
        first = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        x = batch.x if first is None else batch.x.to(first.device, first.dtype)
        extra = {key: value.to(x.device) if isinstance(value, Tensor) else value for key, value in batch.extra.items()}
        return self.read(self.call(self.module, replace(batch, x=x, extra=extra)))


Target = Callable[[Any, Batch], Scores]
# (layer, act (n, c, t, h, w), grad (1, n, c, t, h, w)) -> what is made of them
Take = Callable[[str, Tensor, Tensor], Any]


@dataclass(frozen=True)
class Capture:
    """What one probing saw.

    act: layer -> (n, c, t, h, w); grad: layer -> (k, n, c, t, h, w), empty where no gradient was asked for.
    layouts: layer -> the layout that was used. trace: what ran. batch: the samples, with the target's choices held fixed.
    taken: layer -> what was made of each of the k gradients; act and grad are then empty.
    """

    scores: Scores
    act: Mapping[str, Tensor]
    grad: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    trace: Trace
    batch: Batch
    taken: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """A subject, the layers to look at and the question to ask. Stateless: everything lives inside one call.

    layers: dotted names; "layer4[-1]" for an index, "relu#1" for the second call of a module that runs several times;
        INPUT is the input itself.
    target: (output, batch) -> Scores.
    """

    subject: Subject
    layers: tuple[str, ...]
    target: Target

    def __post_init__(self) -> None:
        reject_wrapped(self.subject.module)
        names = tuple(self.layers) if not isinstance(self.layers, str) else (self.layers,)
        if not names:
            raise BadInput("no layer was named")
        modules = dict(self.subject.module.named_modules())
        object.__setattr__(self, "layers", tuple(dict.fromkeys(resolve(modules, name) for name in names)))

    def at(self, *layers: str) -> Probe:
        """The same question at other layers."""
        return replace(self, layers=layers)

    def ask(self, batch: Batch) -> tuple[Scores, Batch]:
        """The scores, without any tap or gradient, and the batch with the target's choices held fixed."""
        with restored(self.subject.module), torch.no_grad():
            scores, batch = self.score(self.subject.output(batch.at(batch.x.clone())), batch)
        return Scores(scores.value.detach(), scores.labels), batch

    def score(self, output: Any, batch: Batch) -> tuple[Scores, Batch]:
        """The target's answer to an output, and the batch with the target's choices held fixed."""
        choose = getattr(self.target, "choose", None)
        if choose is not None and not batch.asked:
            batch = replace(batch, asked=choose(output, batch))
        value, labels = self.target(output, batch)
        check_finite(value, batch)
        return Scores(value, labels), batch

    def __call__(self, batch: Batch, *, grad: bool = True, take: Take | None = None) -> Capture:
        """Run and look: one forward, and one backward a question.

        take: is given each layer's gradient as soon as the backward has it, which is then let go: where a map is all that
            is wanted, the gradients of only one layer are held at a time.
        Errors: BadInput for an unknown layer, one that did not run, or a score that is not finite; NoGradient for a
        layer that the score does not depend on.
        """
        module = self.subject.module
        needs_input = INPUT in self.layers
        with restored(module), torch.set_grad_enabled(grad), ExitStack() as behind:
            x = batch.x.detach().clone().requires_grad_(grad) if needs_input else batch.x.detach()
            # a copy of one layer is cheaper than the risk of a second forward, copies of many are not
            copied = set(self.layers) if len(self.layers) == 1 else set()
            while True:
                with tracing(module) as trace, tapped(module, self.layers, grad, copied) as taps:
                    behind.callback(taps.release)
                    if needs_input:
                        taps.begun.append(x)
                        taps.keep(INPUT, x, False)
                    output = self.subject.output(batch.at(x.clone()))
                (value, labels), batch = self.score(output, batch)
                if not (spoiled := taps.spoiled()):
                    break
                taps.release()
                copied |= spoiled
            layouts = {name: self.layout(name, trace, batch, len(taps.calls[name])) for name in self.layers}

            def canonical(name: str, calls: Sequence[Tensor]) -> Tensor:
                return layouts[name].canonical([full(call) for call in calls], batch.n, batch.size)

            def use(name: str, grads: Sequence[Tensor], last: bool) -> Any:
                found = canonical(name, grads)[None]
                if take is None:
                    return found
                act = canonical(name, taps.outputs(name))
                if last:
                    taps.calls[name] = []
                return take(name, act, found)

            taken = self._gradients(value, taps, layouts, use) if grad else {}
            scores = Scores(value.detach(), labels)
            if take is not None:
                return Capture(scores, {}, {}, layouts, trace, batch, taken)
            grads = {name: joined(taken.pop(name)) for name in list(taken)}
            act = {name: canonical(name, taps.outputs(name)) for name in self.layers}
        return Capture(scores, act, grads, layouts, trace, batch)

    def layout(self, name: str, trace: Trace, batch: Batch, calls: int) -> Layout:
        """The layout of a layer that ran so many times in the traced forward: declared by the subject, or found."""
        if name == INPUT:
            return batch.layout
        if not calls:
            raise BadInput(f"layer {name!r} did not run in the forward, or not so often; `loupe layers` shows which do")
        bare, call = split_call(name)
        declared = self.subject.layout(bare)
        if calls > 1 and (declared is None or declared.join is None):
            raise BadInput(
                f"layer {name!r} runs {calls} times in one forward; say which: '{name}#0' ... '{name}#{calls - 1}'"
            )
        if declared is not None:
            return declared
        found = find_layout(trace.of(bare)[call or 0], trace, batch.n, batch.size)
        if isinstance(found, str):
            raise BadInput(f"layer {name!r} cannot be drawn: {found}")
        return found

    def _gradients(
        self,
        value: Tensor,
        taps: Taps,
        layouts: Mapping[str, Layout],
        use: Callable[[str, Sequence[Tensor], bool], Any],
    ) -> dict[str, list[Any]]:
        """value (k, n) -> layer -> k times use(layer, d value[k].sum() / d what was tapped there, whether it is the last).

        No .grad is touched.
        """
        if not value.requires_grad:
            raise NoGradient(
                f"the score does not depend on {', '.join(self.layers)}: nothing after the layer leads to it"
            )
        found: dict[str, list[Any]] = {name: [] for name in self.layers}
        arrived: dict[str, dict[int, Tensor]] = {}

        def finish(name: str) -> None:
            grads, calls = arrived.pop(name), taps.calls[name]
            if layouts[name].skip:
                self._check_tokens(name, grads.get(0), layouts[name])
            filled = [grads[i] if i in grads else torch.zeros_like(call.tensor) for i, call in enumerate(calls)]
            found[name].append(use(name, filled, len(found[name]) + 1 == len(value)))

        def arrive(name: str, call: int, grad: Tensor) -> None:
            if not finite(grad):
                raise BadSample("a gradient is not finite (NaN or infinite); try float32 instead of half precision")
            grads = arrived.setdefault(name, {})
            grads[call] = grad.detach()
            if len(grads) == len(taps.calls[name]):
                finish(name)

        taps.arrive = arrive
        for number, row in enumerate(value, 1):
            torch.autograd.grad(row.sum(), taps.begun, retain_graph=number < len(value), allow_unused=True)
            for name in list(arrived):
                finish(name)
            for name in self.layers:
                if len(found[name]) < number:
                    raise NoGradient(
                        f"the score does not depend on layer {name!r}: nothing leads from it to the output{self._advice()}"
                    )
        return found

    def _check_tokens(self, name: str, got: Tensor | None, layout: Layout) -> None:
        if got is None:
            return
        axis = layout.axis("h")
        extra, rest = got.narrow(axis, 0, layout.skip), got.narrow(axis, layout.skip, got.shape[axis] - layout.skip)
        if extra.any() and not rest.any():
            raise NoGradient(
                f"at layer {name!r} the score depends on the class token alone, not on the picture's tokens, so its map would be "
                f"blank (as after the last attention block of a ViT){self._advice()}"
            )

    def _advice(self) -> str:
        others = [layer for layer in self.subject.layers if layer not in self.layers]
        return (
            f"; use {others[0]!r}" if others else "; use an earlier layer, such as the norm before the last attention"
        )


def full(tensor: Tensor) -> Tensor:
    """Detached, in float32 at least."""
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def joined(rows: Sequence[Tensor]) -> Tensor:
    """torch.cat, without a copy where there is one row."""
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def finite(tensor: Tensor) -> bool:
    """Whether every number is finite. The sum tells it in one pass; only where that overflows each number is asked."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_finite(value: Tensor, batch: Batch) -> None:
    """Errors: BadInput that names the samples whose score is NaN or infinite."""
    if value.ndim != 2 or value.shape[1] != batch.n:
        raise BadInput(f"the target gave scores of shape {tuple(value.shape)}; expected (questions, {batch.n})")
    bad = (~torch.isfinite(value.detach())).any(0)
    if bad.any():
        names = [batch.ids[i] for i in bad.nonzero().flatten().tolist()]
        raise BadSample(
            f"the model's output is not finite (NaN or infinite) for {', '.join(names)}; check the weights and the input"
        )


def reject_wrapped(module: nn.Module) -> None:
    """Errors: BadInput for modules whose layers cannot be tapped, saying what to pass instead."""
    if isinstance(module, torch.jit.ScriptModule):
        raise BadInput(
            "this is a TorchScript module, whose layers cannot be tapped; pass the Python module that it was made from"
        )
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise BadInput(f"this is a {type(module).__name__} wrapper; pass the module inside it: model.module")
    if hasattr(module, "_orig_mod"):
        raise BadInput(
            "this is a torch.compile'd module, whose layers cannot be tapped; pass the module that was compiled: model._orig_mod"
        )
    for name, part in module.named_modules():
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise BadInput(
                f"{name or 'the model'} is compiled, its layers cannot be tapped; pass the model before compile()"
            )


def split_call(name: str) -> tuple[str, int | None]:
    """'relu#1' -> ('relu', 1); 'relu' -> ('relu', None)."""
    bare, mark, call = name.partition("#")
    if mark and not call.isdigit():
        raise BadInput(f"layer {name!r}: expected a call number after '#', such as {bare}#0")
    return bare, int(call) if mark else None


def resolve(known: Mapping[str, nn.Module], name: str) -> str:
    """A layer as users write it -> its dotted name: layer4[-1] -> layer4.2.

    known: dict(module.named_modules()).
    Errors: BadInput that offers the nearest names.
    """
    if name == INPUT:
        return name
    bare, call = split_call(name)
    suffix = "" if call is None else f"#{call}"
    dotted = re.sub(r"\[(\d+)\]", r".\1", bare)
    while (found := re.search(r"\[(-\d+)\]", dotted)) is not None:
        parent = known.get(dotted[: found.start()])
        try:
            count = len(parent)  # type: ignore[arg-type]
        except TypeError:
            raise BadInput(f"layer {name!r}: {dotted[: found.start()]!r} is not a list of layers") from None
        if count + int(found[1]) < 0:
            raise BadInput(f"layer {name!r}: {dotted[: found.start()]!r} has {count} layers")
        children = list(parent._modules)  # type: ignore[union-attr]
        dotted = f"{dotted[: found.start()]}.{children[int(found[1])]}{dotted[found.end() :]}"
    if not dotted or dotted not in known:
        raise BadInput(
            f"no layer {name!r} in this model.{nearest(dotted, (k for k in known if k))} `loupe layers` lists all of them."
        )
    return dotted + suffix


def expand(known: Mapping[str, nn.Module], word: str) -> list[str]:
    """A layer, or a glob over the layers' dotted names (layer* stays on its level), as names in the model's order.

    known: dict(module.named_modules()).
    Errors: BadInput for a glob that fits nothing.
    """
    if not re.search(r"[*?]", word):
        return [resolve(known, word)]
    parts = word.split(".")
    found = [
        name
        for name in known
        if name.count(".") == len(parts) - 1
        and all(fnmatchcase(own, part) for own, part in zip(name.split("."), parts, strict=True))
    ]
    if not found:
        raise BadInput(f"no layer fits {word!r}; `loupe layers` lists all of them.")
    return found


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Eval mode and frozen parameters inside; every flag as it was afterwards, whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for part, _ in modes:
            part.training = False
        for p, flag in flags:
            if flag:
                p.requires_grad_(False)
        with torch.inference_mode(False):
            yield
    finally:
        for part, training in modes:
            part.training = training
        for p, flag in flags:
            if flag:
                p.requires_grad_(True)


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
        """Lets go of everything, and leaves no hook on tensors that a network may have kept."""
        self.calls.clear()
        for hook in self.hooks:
            hook.remove()

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

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
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

        return hook

    def before(part: nn.Module, inputs: Any) -> None:
        taps.changing(part, list(tensors(inputs)))

    handles = [part.register_forward_pre_hook(before) for part in in_place(module)]
    handles += [module.get_submodule(bare).register_forward_hook(tap(bare)) for bare in wanted if bare != INPUT]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


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
