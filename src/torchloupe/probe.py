"""Ask a model k questions about n samples and look at chosen layers: one forward, k backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.backward import Change
from torchloupe.errors import BadInput, BadSample, NoGradient
from torchloupe.evidence import settle
from torchloupe.names import name_of, resolve, split_call
from torchloupe.outputs import Scores
from torchloupe.shadow import give_up, is_shadow
from torchloupe.subjects import INPUT, Batch, Kind, Subject, as_batch
from torchloupe.taps import Taps, tapped
from torchloupe.trace import Trace, every_name, tracing

__all__ = ["INPUT", "Batch", "Capture", "Kind", "Probe", "Subject", "Take", "Target"]

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


class _RanElsewhere(Exception):
    """A layer that did not run in a shadow, although the output came."""


@dataclass(frozen=True)
class Probe:
    """A subject, the layers to look at and the question to ask. Stateless: everything lives inside one call.

    layers: dotted names, or modules of the network; "layer4[-1]" for an index, "relu#1" for the second call of a module
        that runs several times; INPUT is the input itself.
    target: (output, batch) -> Scores.
    changes: what is done to the shadow for every asking, such as rules for its backward pass (see `backward`).
    """

    subject: Subject
    layers: tuple[str, ...]
    target: Target
    changes: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        reject_wrapped(self.subject.module)
        asked: Any = self.layers
        names = (asked,) if isinstance(asked, (str, nn.Module)) else tuple(asked)
        if not names:
            raise BadInput("no layer was named")
        modules = every_name(self.subject.module)
        names = tuple(name if isinstance(name, str) else name_of(modules, name) for name in names)
        name_classes = getattr(self.target, "with_names", None)
        if name_classes is not None and self.subject.classes:
            object.__setattr__(self, "target", name_classes(self.subject.classes))
        object.__setattr__(
            self, "layers", tuple(dict.fromkeys(resolve(modules, name, self.subject.listing) for name in names))
        )

    def at(self, *layers: str) -> Probe:
        """The same question at other layers."""
        return replace(self, layers=layers)

    @contextmanager
    def asked(self, itself: bool = False) -> Iterator[Subject]:
        """The subject with a shadow of its network, to which the probe's changes are done.

        Errors: BadInput where there are changes, and the network has no shadow.
        """
        with self.subject.asked(itself) as own, ExitStack() as behind:
            for change in self.changes:
                if not is_shadow(own.module):
                    kind = type(own.module).__name__
                    raise BadInput(
                        f"{kind} has no copy to be changed for one asking, so its backward pass stays as it is"
                    )
                context = change(own.module)
                if context is not None:
                    behind.enter_context(context)
            yield own

    def ask(self, batch: Batch | Tensor) -> tuple[Scores, Batch]:
        """The scores, without any tap or gradient, and the batch with the target's choices held fixed."""
        batch = as_batch(batch)
        with self.asked() as own, torch.no_grad():
            scores, batch = self.score(own.output(batch.at(batch.x.clone())), batch)
        return Scores(scores.value.detach(), scores.labels), batch

    def score(self, output: Any, batch: Batch) -> tuple[Scores, Batch]:
        """The target's answer to an output, and the batch with the target's choices held fixed."""
        choose = getattr(self.target, "choose", None)
        if choose is not None and not batch.asked:
            batch = replace(batch, asked=choose(output, batch))
        value, labels = self.target(output, batch)
        check_finite(value, batch)
        return Scores(value, labels), batch

    def __call__(self, batch: Batch | Tensor, *, grad: bool = True, take: Take | None = None) -> Capture:
        """Run and look: one forward, and one backward a question.

        take: is given each layer's gradient as soon as the backward has it, which is then let go: where a map is all that
            is wanted, the gradients of only one layer are held at a time.
        Errors: BadInput for an unknown layer, one that did not run, or a score that is not finite; NoGradient for a
        layer that the score does not depend on.
        """
        try:
            return self._look(as_batch(batch), grad, take, itself=False)
        except _RanElsewhere as error:
            seen = self._look(as_batch(batch), grad, take, itself=True)
            give_up(self.subject.module, f"layer {error} runs past the copy")
            return seen

    def _look(self, batch: Batch, grad: bool, take: Take | None, itself: bool) -> Capture:
        needs_input = INPUT in self.layers
        with self.asked(itself) as own, torch.set_grad_enabled(grad), ExitStack() as behind:
            module = own.module
            x = batch.x.detach().clone().requires_grad_(grad) if needs_input else batch.x.detach()
            # a copy of one layer is cheaper than the risk of a second forward, copies of many are not
            copied = set(self.layers) if len(self.layers) == 1 else set()
            while True:
                with tracing(module) as trace, tapped(module, self.layers, grad, copied) as taps:
                    behind.callback(taps.release)
                    if needs_input:
                        taps.begun.append(x)
                        taps.keep(INPUT, x, False)
                    output = own.output(batch.at(x.clone()))
                if is_shadow(module) and (
                    missing := [name for name in self.layers if name != INPUT and not trace.of(split_call(name)[0])]
                ):
                    raise _RanElsewhere(missing[0])
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
            text = f"layer {name!r} did not run in the forward, or not so often"
            raise BadInput(f"{text}; `{self.subject.listing}` shows which do")
        bare, call = split_call(name)
        declared = self.subject.layout(bare)
        if calls > 1 and (declared is None or declared.join is None):
            raise BadInput(
                f"layer {name!r} runs {calls} times in one forward; say which: '{name}#0' ... '{name}#{calls - 1}'"
            )
        if declared is not None:
            return declared
        found = settle(self.subject, batch, trace.of(bare)[call or 0], trace)
        if isinstance(found, str):
            raise BadInput(
                f"layer {name!r} cannot be drawn: {found}. If you know how it lies, say so: layouts={{{name!r}: 'n (h w) c'}} "
                f"(--layout '{name}=n (h w) c')"
            )
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
        reject_int8(self.subject.module)
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
        extra, rest, behind = got.split(
            [layout.skip, got.shape[axis] - layout.skip - layout.behind, layout.behind], axis
        )
        if (extra.any() or behind.any()) and not rest.any():
            raise NoGradient(
                f"at layer {name!r} the score depends on the class token alone, not on the picture's tokens, so its map would be "
                f"blank (as after the last attention block of a ViT){self._advice()}"
            )

    def _advice(self) -> str:
        others = [layer for layer in self.subject.layers if layer not in self.layers]
        return (
            f"; use {others[0]!r}" if others else "; use an earlier layer, such as the norm before the last attention"
        )


def reject_int8(module: nn.Module) -> None:
    """Errors: NoGradient for a network with layers in int8: a gradient goes around them, by what is added, and tells half."""
    for name, part in module.named_modules():
        if ".quantized" in type(part).__module__ and next(part.parameters(), None) is None:
            raise NoGradient(
                f"{name or 'the model'} ({type(part).__name__}) is quantised to whole numbers, through which no gradient goes; "
                "take a method without gradients (eigencam, scorecam, occlusion) or the network in floats"
            )


def full(tensor: Tensor) -> Tensor:
    """Detached, in float32 at least."""
    tensor = tensor.detach()
    if tensor.is_quantized:
        return tensor.dequantize()
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
