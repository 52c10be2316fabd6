"""Is a layer's grid where its layout says? Asked once a model and layer, and only where shapes leave a doubt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.names import Point
from torchloupe.subjects import Batch, Subject
from torchloupe.taps import watched
from torchloupe.trace import CHANNELS_FIRST, Guess, Trace, Visit, guess, tensors, tracing

CELLS = 8
# (network, what takes each tensor) -> while it is open, every call of the layer is handed on
Watch = Callable[[nn.Module, Callable[[Tensor], None]], AbstractContextManager[Any]]
# attributes by which modules of timm, transformers and others say what grid they work on
WORDS = ("grid_size", "resolution", "input_resolution", "output_resolution", "feat_size", "patches_resolution")


class Evidence(NamedTuple):
    """What the gradients from some cells of a layer to the input say of a layout.

    rank: mean share of the grid's cells whose input a cell depends on more than on its own (0: none; by chance 0.5).
    near: share of the cells whose strongest input is their own cell or one beside it.
    local: how much the cells differ in what they depend on: about 1 behind convolutions and residual blocks; near 0 all of
        them see the whole picture alike, and nothing follows.
    """

    rank: float
    near: float
    local: float

    @property
    def shown(self) -> bool:
        """Whether the layout is right. Cells that all but agree on what they see may still differ most at their own places."""
        faint = self.local > 0.001 and self.rank < 0.03 and self.near > 0.8
        return faint or (self.local >= 0.3 and self.rank < 0.1 and self.near > 0.4)

    @property
    def contradicted(self) -> bool:
        """Whether the layout is wrong."""
        return self.local >= 0.3 and self.rank >= 0.25

    @property
    def miss(self) -> float:
        """How far it is from perfect, 0 to 1.05."""
        return self.rank + 0.05 * (1 - self.near)

    def __str__(self) -> str:
        return f"rank {self.rank:.3f}, near {self.near:.2f}, local {self.local:.2f}"


@dataclass
class _Known:
    """What was found for one model: (layer, call, input) -> layout or reason."""

    answers: dict[tuple[Any, ...], Layout | str] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def settle(subject: Subject, batch: Batch, visit: Visit, trace: Trace, watch: Watch | None = None) -> Layout | str:
    """The layout of a layer that ran in a forward, or the reason why none can be believed; `rests` says on what it rests.

    Where the shape and the kinds of modules leave no doubt that is all. Else one sample of noise is asked: do the values
    that a convolution has cut from the picture lie in the tokens as the layout says, else does the gradient from cells to
    the input lead to their own places, else do the modules name the grid, or does a taller input bring more rows.
    watch: how to see the layer, where it is not the output of the module of the visit's name.
    """
    found = guess(visit, trace, batch.n, batch.size)
    if isinstance(found, str):
        return found
    if not found.doubt:
        return replace(found.layouts[0], rests=found.rests)
    tokens = [layout for layout in found.layouts if layout.folded]
    if subject.extra_tokens is not None and tokens:
        said = subject.extra_tokens
        behind = next((layout for layout in tokens if layout.skip == said), None)
        if behind is None:
            return f"no grid shaped like the picture is left of its shape {visit.shapes[0]} behind {said} extra tokens"
        return replace(behind, rests=f"said: {said} extra tokens, then the picture's")
    known = _KNOWN.setdefault(subject.module, _Known()).answers
    sizes = tuple(sorted(batch.layout.sizes.items()))
    key = (visit.name, visit.call, type(visit.module), batch.layout.pattern, sizes, batch.size)
    if key not in known:
        known[key] = _asked(subject, batch, visit, watch or _output_of(visit))
    return known[key]


def weigh(subject: Subject, batch: Batch, visit: Visit, layout: Layout, watch: Watch | None = None) -> Evidence | None:
    """What the gradient says of a given layout of a layer; None where it cannot be asked."""
    one = _noise(batch)
    watch = watch or _output_of(visit)
    try:
        with _quiet(one):
            strengths = _strengths(subject, one, watch, layout.channel_axes, visit.call)
    except Exception:  # a stranger's network may refuse to be asked in any way
        return None
    return _evidence(layout, strengths, one)


def _output_of(visit: Visit) -> Watch:
    def watch(module: nn.Module, take: Callable[[Tensor], None]) -> AbstractContextManager[None]:
        def see(_part: nn.Module, output: Any) -> None:
            first = next(tensors(output), None)
            if first is not None:
                take(first)

        return watched(module, Point("module", visit.name), see)

    return watch


def _noise(batch: Batch, rows: int = 1) -> Batch:
    """One sample of noise of the batch's mean and spread, rows times as tall."""
    one = batch.take([0])
    x = one.x.detach().float()
    shape = list(x.shape)
    if rows != 1:
        shape[one.layout.axis("h")] *= rows
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    spread = float(x.std()) if x.numel() > 1 else 0.0
    if spread > 0 and math.isfinite(spread):
        noise = noise * spread + x.mean()
    return one.at(noise.to(one.x.dtype if one.x.is_floating_point() else torch.float32))


@contextmanager
def _quiet(batch: Batch) -> Iterator[None]:
    """Whatever the network draws at random leaves the caller's generators as they were; no rule for backward passes holds."""
    devices = [batch.x.device] if batch.x.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), torch._C.DisableTorchFunction():
        yield


def _asked(subject: Subject, batch: Batch, visit: Visit, watch: Watch) -> Layout | str:
    one = _noise(batch)
    try:
        with _quiet(one):
            trace, raw, pictures = _forward(subject, one, watch, visit.call)
            mine = replace(visit, shapes=(tuple(raw.shape), *visit.shapes[1:]))
            around = _beside(trace, mine)
            found = guess(mine, around, 1, one.size)
            if isinstance(found, str):
                return found
            if not found.doubt:
                return replace(found.layouts[0], rests=found.rests)
            handed = _handed_on(raw, found.layouts, pictures)
            if handed is not None:
                return handed
            answer, silent = _by_gradient(subject, one, watch, visit.call, found)
            if not silent:
                return answer
            like = _as_around_it(subject, one, mine, around, found.layouts)
            return like or _by_word(subject, batch, mine, around, watch, found) or answer
    except Exception as error:  # a stranger's network may refuse to be asked in any way
        said = " ".join(str(error).split())[:160]
        return f"how it lies could not be asked ({type(error).__name__}: {said})"


def _beside(trace: Trace, visit: Visit) -> Trace:
    """The trace with the visit itself in its place, or at its end where it is no module's output."""
    visits = list(trace.visits)
    for i, other in enumerate(visits):
        if other.name == visit.name and other.call == visit.call:
            visits[i] = visit
            return Trace(visits)
    return Trace([*visits, visit])


def _forward(
    subject: Subject, one: Batch, watch: Watch, call: int
) -> tuple[Trace, Tensor, dict[tuple[int, ...], Tensor]]:
    """What ran, the layer's tensor, and what convolutions cut from the picture: canonical shape -> (c, t, h, w)."""
    pictures: dict[tuple[int, ...], Tensor] = {}
    calls: list[Tensor] = []
    upright: list[bool] = []
    whole = one.layout.canonical([one.x], 1)[0]
    frames = one.size[0]

    def keep(_part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        given = next(tensors(inputs), None)
        if not upright and given is not None:
            upright.append(not _turned(given, whole))
        steps = isinstance(output, Tensor) and output.ndim == 3 and one.size[2] == 1
        if isinstance(output, Tensor) and (steps or output.ndim in (4, 5)) and upright != [False]:
            cut = output.detach()[..., None] if steps else output.detach()
            cut = cut[0] if cut.ndim == 5 else cut.transpose(0, 1) if cut.shape[0] in (1, frames) else cut[:0]
            if cut.numel():
                pictures[tuple(cut.shape)] = cut.clone()

    with subject.asked() as own:
        module = own.module
        handles = [part.register_forward_hook(keep) for part in module.modules() if isinstance(part, CHANNELS_FIRST)]
        try:
            with tracing(module) as trace, watch(module, lambda found: calls.append(found.detach().clone())):
                own.output(one)
        finally:
            for handle in handles:
                handle.remove()
    return trace, calls[min(call, len(calls) - 1)], pictures


def _turned(given: Tensor, whole: Tensor) -> bool:
    """Whether what the first convolution is given is the input (c, t, h, w) with rows and columns exchanged."""
    turned = whole.transpose(-1, -2)
    mine = given.detach().flatten(0, -3)
    if mine.shape[-2:] != turned.shape[-2:]:
        return whole.shape[-2] != whole.shape[-1] and mine.shape[-2:] == whole.shape[-2:][::-1]
    plain = whole.flatten(0, -3)
    return any(torch.equal(row, other) for row in mine[:1] for other in turned.flatten(0, -3)) and not any(
        torch.equal(row, other) for row in mine[:1] for other in plain
    )


def _handed_on(raw: Tensor, layouts: Sequence[Layout], pictures: Mapping[tuple[int, ...], Tensor]) -> Layout | None:
    """The layout under which the tokens still hold what a convolution cut from the picture, place by place.

    The mean cosine between a token and the convolution's vector at its place, both without what all places share; by
    chance 0, give or take 1 / sqrt(places * channels).
    """
    found: list[tuple[float, Layout]] = []
    for layout in layouts:
        act = layout.canonical([raw], 1)[0]
        cut = pictures.get(tuple(act.shape))
        if cut is None or act[0].numel() < 4:
            continue
        one, other = (value.double().flatten(1) for value in (act, cut))
        one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
        alike = float(F.cosine_similarity(one, other, dim=0).mean())
        found.append(
            (alike, replace(layout, rests=f"values of a convolution lie in it place by place (cosine {alike:.2f})"))
        )
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    best, layout = found[0]
    chance = 12 / math.sqrt(raw.numel())
    second = found[1][0] if len(found) > 1 else 0.0
    return layout if (best > max(0.05, chance) and second < best / 2) or best > 0.999 > second else None


def _strengths(
    subject: Subject, one: Batch, watch: Watch, channels: tuple[int, ...], call: int
) -> tuple[list[int], tuple[int, ...], Tensor]:
    """Random cells of a layer, its shape with channels of length 1, and how strongly each depends on every input place.

    -> cell numbers, shape, (cells, t, h, w).
    """
    x = one.x.detach().clone().requires_grad_()
    calls: list[Tensor] = []
    draw = torch.Generator().manual_seed(0)
    with subject.asked() as own, torch.enable_grad():
        with watch(own.module, calls.append):
            own.output(one.at(x.clone()))
        raw = calls[min(call, len(calls) - 1)]
        shape = tuple(1 if axis in channels else length for axis, length in enumerate(raw.shape))
        flat = raw.movedim(channels, tuple(range(-len(channels), 0))).flatten(-len(channels)).flatten(0, -2)
        where = torch.randperm(len(flat), generator=draw)[:CELLS].tolist()
        seen = []
        for number, cell in enumerate(where, 1):
            mix = torch.randn(flat.shape[1], generator=draw).to(flat)
            (grad,) = torch.autograd.grad(
                (flat[cell] * mix).sum(), x, retain_graph=number < len(where), allow_unused=True
            )
            grad = torch.zeros_like(x) if grad is None else grad
            seen.append(one.layout.canonical([grad.abs().float()], 1)[0].sum(0))
    return where, shape, torch.stack(seen)


def _evidence(layout: Layout, strengths: tuple[list[int], tuple[int, ...], Tensor], one: Batch) -> Evidence | None:
    """What the cells' gradients say of a layout; None where it has no grid for them."""
    where, shape, seen = strengths
    numbers = torch.arange(math.prod(shape)).view(shape)
    places = layout.canonical([numbers], 1, one.size)[0, 0]
    grid = tuple(places.shape)
    if math.prod(grid) < 2:
        return None
    cells = [(row, (places == cell).nonzero()[0].tolist()) for row, cell in enumerate(where) if (places == cell).any()]
    if len(cells) < 2 or not torch.isfinite(seen).all():
        return None
    kept = F.adaptive_avg_pool3d(seen[[row for row, _ in cells]][:, None], (grid[0], grid[1], grid[2]))[:, 0].cpu()
    kept = kept / kept.sum((1, 2, 3), keepdim=True).clamp_min(1e-30) + 1e-9
    special = (kept / kept.mean(0)).log()
    rank = near = 0.0
    spread = []
    for own, (_, cell) in zip(special, cells, strict=True):
        time, row, column = cell
        # in its frame and along its time apart: where all of a frame is seen alike, the right frame is no evidence for the grid
        sights = [
            (sight, at)
            for sight, at in ((own[time], own[time, row, column]), (own[:, row, column], own[time, row, column]))
            if sight.numel() > 1
        ]
        rank += max(float((sight > at).float().mean()) for sight, at in sights) / len(cells)
        best = torch.unravel_index(own.argmax(), grid)
        near += all(abs(int(a) - b) <= (side > 4) for a, b, side in zip(best, cell, grid, strict=True)) / len(cells)
        spread.append([float(sight.std()) for sight, _ in sights])
    return Evidence(rank, near, min(sum(one) / len(cells) for one in zip(*spread, strict=True)))


def _by_gradient(subject: Subject, one: Batch, watch: Watch, call: int, found: Guess) -> tuple[Layout | str, bool]:
    """The layout that is shown, else why none is; whether the gradient is silent, so that other evidence may decide."""
    silent = True
    said = ""
    for channels in dict.fromkeys(layout.channel_axes for layout in found.layouts):
        strengths = _strengths(subject, one, watch, channels, call)
        ours = [layout for layout in found.layouts if layout.channel_axes == channels]
        weighed = [(layout, value) for layout in ours if (value := _evidence(layout, strengths, one)) is not None]
        best: tuple[Layout, Evidence] | None = None
        for layout, value in weighed:
            places = _places(layout, strengths, one)
            # a likelier layout gives way to one that is better by more than a place of its grid
            if value.shown and places >= 4 and (best is None or value.miss + max(0.02, 1 / places) < best[1].miss):
                best = layout, value
        if best is not None:
            layout, value = best
            return replace(layout, rests=f"gradients from its cells lead to their own places ({value})"), False
        if weighed and not said:
            layout, value = weighed[0]
            silent = not value.contradicted
            verdict = "are no evidence for" if silent else "contradict"
            said = f"gradients from its cells to the input {verdict} {layout.pattern!r} ({value})"
    return said or "no gradient leads from it to the input", silent


def _places(layout: Layout, strengths: tuple[list[int], tuple[int, ...], Tensor], one: Batch) -> int:
    return layout.canonical([torch.empty(strengths[1])], 1, one.size).numel()


def _as_around_it(subject: Subject, one: Batch, visit: Visit, trace: Trace, layouts: Sequence[Layout]) -> Layout | None:
    """The layout of the nearest module around it that gives as many places, where that has evidence of its own."""
    parts = visit.name.rpartition(":")[2].partition("#")[0].split(".")
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        above = next((other for other in trace.visits if other.name == name and other.shapes), None)
        if above is None or len(above.shapes[0]) != len(visit.shapes[0]) or above.shapes[0][:2] != visit.shapes[0][:2]:
            continue
        found = settle(subject, one, above, trace)
        if isinstance(found, Layout) and found in layouts:
            return replace(found, rests=f"as {name} around it, where {found.rests}")
        return None
    return None


def _by_word(subject: Subject, batch: Batch, visit: Visit, trace: Trace, watch: Watch, found: Guess) -> Layout | None:
    """The likeliest layout, where a module names its grid, a convolution before it had it, or a taller input adds rows."""
    likeliest = found.layouts[0]
    if found.unlikely or "->" in likeliest.pattern or "w h" in likeliest.pattern:
        return None
    t, h, w = likeliest.canonical([torch.empty(visit.shapes[0], device="meta")], 1, batch.size).shape[-3:]
    if t * h * w < 4:
        return None
    word = next((word for part in _around(subject.module, visit.name) for word in _words(part, (t, h, w))), None)
    if word is not None:
        return replace(likeliest, rests=f"{word} names its grid {h} x {w}")
    if len(visit.shapes[0]) >= 4 and any(
        other.shapes[0][2:] == (h, w)
        for other in trace.visits
        if isinstance(other.module, CHANNELS_FIRST) and other.shapes and len(other.shapes[0]) == 4
    ):
        return replace(likeliest, rests="its grid is that of a convolution")
    try:
        taller = _noise(batch, rows=2)
        _, raw, _ = _forward(subject, taller, watch, visit.call)
    except Exception:  # many networks take one size only
        return None
    before, after = visit.shapes[0], tuple(raw.shape)
    axis = likeliest.axis("h")
    folded = likeliest.folded
    a_row = w * (t if folded and "t h w" in likeliest.pattern else 1)
    for rows in (2 * h, 2 * h - 1, 2 * h + 1):
        grown = before[axis] + (rows - h) * a_row if folded else rows
        if after == (*before[:axis], grown, *before[axis + 1 :]):
            return replace(likeliest, rests="an input twice as tall gives it twice the rows")
    return None


def _around(module: nn.Module, name: str) -> Iterator[nn.Module]:
    """The module of this name, what is in it, and what it is in, the nearest first."""
    parts = name.split(".")
    known = dict(module.named_modules())
    if name in known:
        yield from known[name].modules()
    for end in range(len(parts) - 1, -1, -1):
        if (above := known.get(".".join(parts[:end]))) is not None:
            yield above


def _words(part: nn.Module, cut: tuple[int, int, int]) -> Iterator[str]:
    for word in WORDS:
        value = getattr(part, word, None)
        if isinstance(value, (tuple, list)) and tuple(value) in (cut, cut[1:]):
            yield f"{type(part).__name__}.{word}"
