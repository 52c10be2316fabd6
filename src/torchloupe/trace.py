"""What ran in one forward, and the layout that each layer's output has: found from shapes, order and module types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout, Size, grid

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.Upsample,
    nn.PixelShuffle,
)
MOST_EXTRA_TOKENS = 16
FEW_TOKENS = 8
BY_MODULE = "the kind of the modules that gave this shape"


@dataclass(frozen=True)
class Visit:
    """One call of one module: its dotted name, the module, which call it was, and the shapes of the tensors it returned."""

    name: str
    module: nn.Module
    call: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass
class Trace:
    """The calls of one forward, in the order in which they ended.

    aliases: further names of modules that stand in several places -> the name under which their calls are noted.
    """

    visits: list[Visit] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> list[Visit]:
        """The calls of one module, in order."""
        own = self.aliases.get(name, name)
        return [visit for visit in self.visits if visit.name == own]

    @property
    def calls(self) -> dict[str, int]:
        """Name -> number of calls, for everything that ran, in order of its first end."""
        counts: dict[str, int] = {}
        for visit in self.visits:
            counts[visit.name] = counts.get(visit.name, 0) + 1
        return counts


def tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in a module's output, depth first: tuples, lists, dicts and model outputs are looked into."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        for value in output:
            yield from tensors(value)


def every_name(module: nn.Module) -> dict[str, nn.Module]:
    """Dotted name -> module, in the model's order; a module that stands in several places has a name for each."""
    found: dict[str, nn.Module] = {}

    def walk(part: nn.Module, name: str, above: tuple[nn.Module, ...]) -> None:
        found[name] = part
        for key, child in part._modules.items():
            if child is not None and child is not part and child not in above:
                walk(child, f"{name}.{key}" if name else key, (*above, part))

    walk(module, "", ())
    return found


@contextmanager
def tracing(module: nn.Module) -> Iterator[Trace]:
    """Notes every module call of the forwards inside. Costs a Python call a module and keeps no tensor."""
    trace = Trace()
    counts: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(part: nn.Module, _inputs: Any, output: Any) -> None:
            call = counts[name] = counts.get(name, -1) + 1
            trace.visits.append(Visit(name, part, call, tuple(tuple(found.shape) for found in tensors(output))))

        return hook

    handles = []
    first: dict[int, str] = {}
    for name, part in every_name(module).items():
        known = first.setdefault(id(part), name)
        if known != name:
            trace.aliases[name] = known
        elif name and not isinstance(part, torch.jit.ScriptModule):  # which takes no hooks, and cannot be looked into
            handles.append(part.register_forward_hook(note(name)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Guess:
    """What the shapes and the kinds of the modules of one forward say of a layer.

    layouts: what the layer may be, the likeliest first. doubt: why that is not certain, "" where it is. rests: on what the
    first of them rests. unlikely: why none of them is to be believed without evidence, "" where the first is likely.
    """

    layouts: tuple[Layout, ...]
    doubt: str = ""
    rests: str = "its shape alone"
    unlikely: str = ""


def find_layout(visit: Visit, trace: Trace, n: int, size: Size) -> Layout | str:
    """The likeliest layout of a layer's first output tensor by shape alone, or the reason why it has no image axes.

    n: samples in the forward; size: (t, h, w) of the input. Where `guess` has its doubts, `evidence.settle` knows more.
    """
    found = guess(visit, trace, n, size)
    if isinstance(found, str) or found.unlikely:
        return found if isinstance(found, str) else found.unlikely
    return replace(found.layouts[0], rests=found.rests)


def guess(visit: Visit, trace: Trace, n: int, size: Size) -> Guess | str:
    """What a layer's first output tensor may be, or the reason why it has no image axes. Arguments as of `find_layout`."""
    if not visit.shapes:
        return "it returns no tensor"
    shape = visit.shapes[0]
    frames = n * size[0]
    if len(shape) == 2 and shape[0] == n:
        return Guess((Layout("n c"),), rests="a vector has one place")
    if len(shape) == 5 and shape[0] == n and (found := _volume(visit, trace, size)) is not None:
        return found
    if len(shape) == 4 and shape[0] in (n, frames):
        return _picture(visit, trace, size, "n" if shape[0] == n else "(n t)")
    if len(shape) == 3 and size[2] == 1 and shape[0] == n:
        return _signal(visit, trace, size)
    if len(shape) == 3 and n in shape[:2]:
        return _tokens(visit, trace, n, size)
    if len(shape) == 3 and size[0] > 1 and shape[0] == frames:
        return _tokens(visit, trace, frames, (1, *size[1:]), "(n t)")
    if len(shape) >= 3 and shape[0] % n == 0 and shape[0] > n:
        return "it runs on windows or patches of the picture; take the block around it"
    return f"shape {shape} has no image axes"


def _volume(visit: Visit, trace: Trace, size: Size) -> Guess | None:
    shape = visit.shapes[0]
    first, last = _fits(shape[3], shape[4], size), _fits(shape[2], shape[3], size)
    kind = _channels(visit, trace)
    orders = [Layout("n c t h w")] if first else []
    if last:
        orders.insert(0 if not first or kind == "last" else 1, Layout("n t h w c"))
    if not orders:
        return None
    if kind == "first" and first:
        return Guess((Layout("n c t h w"),), rests=BY_MODULE)
    return Guess(tuple(orders), f"shape {shape} does not tell which axis holds the channels")


def _signal(visit: Visit, trace: Trace, size: Size) -> Guess | str:
    """One axis of places: (n, c, length) or (n, length, c)."""
    shape = _, a, b = visit.shapes[0]
    kind, longest = _channels(visit, trace), 2 * size[1]
    first = [Layout("n c h")] if b <= longest else []
    if first and kind == "first":
        return Guess((first[0],), rests=BY_MODULE)
    last = [Layout("n h c", skip=skip) for skip in range(min(MOST_EXTRA_TOKENS + 1, a)) if a - skip <= longest]
    last.sort(key=lambda layout: size[1] % (a - layout.skip) != 0)
    orders = last + first if kind == "last" else first + last
    if not orders:
        return f"no axis of shape {shape} can be the input's {size[1]} steps"
    return Guess(tuple(orders), f"shape {shape} does not tell which axis holds the channels")


def _picture(visit: Visit, trace: Trace, size: Size, folded: str) -> Guess | str:
    shape = _, a, b, c = visit.shapes[0]
    if _between_tokens(visit, trace):
        return "it holds attention between tokens, not a picture"
    first, last = _misfit(b, c, size), _misfit(a, b, size)
    kind = told = _channels(visit, trace)
    turned = [Layout(f"{folded} c w h")] if _misfit(c, b, size) < min(first, 0.35) else []
    blocks = [*_blocks(a, b, size, f"{folded} {{}} c", "c"), *_blocks(b, c, size, f"{folded} c {{}}", "c")]
    if min(first, last) > (0.35 if kind is None else 0.7):
        if not turned and not blocks:
            return f"shape {shape} has no axes shaped like the picture"
        doubt = f"shape {shape} has no axes shaped like the picture"
        return Guess((*turned, *blocks), doubt, unlikely=doubt)
    if kind is None or not (abs(first - last) < 0.2 or max(first, last) < 0.35):
        kind = "first" if first <= last else "last"
    fits = {f"{folded} c h w": first, f"{folded} h w c": last}
    plain = next(pattern for pattern in fits if pattern.endswith("c h w" if kind == "first" else "h w c"))
    if kind == told == "first" and first < 0.35:
        return Guess((Layout(plain),), rests=BY_MODULE)
    if kind == told == "last" and not last and first > 0.35 and (a, b) in _convolved(visit, trace):
        return Guess((Layout(plain),), rests="its grid is that of a convolution before it, with its channels last")
    upright = [plain, *(pattern for pattern, misfit in fits.items() if pattern != plain and misfit <= 0.7)]
    orders = [Layout(pattern) for pattern in (*upright, *(pattern.replace("h w", "w h") for pattern in upright))]
    return Guess(_once([*orders, *turned, *blocks]), f"shape {shape} does not tell which axes are rows")


def _blocks(a: int, b: int, size: Size, pattern: str, channels: str) -> Iterator[Layout]:
    """a blocks of b places, or a places in each of b blocks, put back. pattern: around the two axes."""
    left = pattern.format("(a b) (h w)")
    time = "(n t)" in pattern
    for outer, inner in product(_factors(a), _factors(b)):
        if (outer != (1, 1) or a == 1) and _misfit(outer[0] * inner[0], outer[1] * inner[1], size) == 0:
            sizes = {"a": outer[0], "b": outer[1], "h": inner[0], "w": inner[1]}
            for right in ("(a h) (b w)", "(h a) (w b)"):
                yield Layout(f"{left} -> n {channels} {'t' if time else '1'} {right}", sizes=sizes)


def _factors(count: int) -> list[tuple[int, int]]:
    """All (rows, columns) of so many places."""
    return [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]


def _convolved(visit: Visit, trace: Trace) -> set[tuple[int, int]]:
    """Rows and columns of what convolutions and their kin gave before this visit."""
    before = (other for other in trace.visits[: _at(visit, trace)] if isinstance(other.module, CHANNELS_FIRST))
    return {(shape[2], shape[3]) for other in before for shape in other.shapes[:1] if len(shape) == 4}


def _between_tokens(visit: Visit, trace: Trace) -> bool:
    """(n, heads, tokens, tokens): by the module's name, or by the number of tokens just before it."""
    n, _, rows, columns = visit.shapes[0]
    leaf = visit.name.rpartition(".")[2]
    if isinstance(visit.module, nn.Softmax) or (isinstance(visit.module, nn.Dropout) and leaf.startswith("att")):
        return True
    before = trace.visits[: _at(visit, trace)]
    tokens = (other.shapes[0] for other in reversed(before) if other.shapes and len(other.shapes[0]) == 3)
    count = next((shape[1] for shape in tokens if shape[0] == n), None)
    return rows == columns == count and _channels(visit, trace) != "first"


def _at(visit: Visit, trace: Trace) -> int:
    return next(i for i, other in enumerate(trace.visits) if other is visit)


def _channels(visit: Visit, trace: Trace) -> str | None:
    """'first' or 'last' where the module, or the last telling one that ran inside it or before it, says so."""
    shape = visit.shapes[0]
    for other in reversed(trace.visits[: _at(visit, trace) + 1]):
        if not other.shapes or other.shapes[0] != shape:
            continue
        module = other.module
        if isinstance(module, CHANNELS_FIRST) or type(module).__name__.endswith("2d"):
            return "first"
        if isinstance(module, (nn.LayerNorm, nn.Linear)):
            return "last"
    return None


def _tokens(visit: Visit, trace: Trace, n: int, size: Size, folded: str = "n") -> Guess | str:
    """One axis of tokens, which may begin with some that are no place in the picture."""
    shape = visit.shapes[0]
    if shape[0] != n:
        orders = [(f"{{}} {folded} c", shape[0])]
    elif isinstance(visit.module, (nn.Conv1d, nn.BatchNorm1d)):
        orders = [(f"{folded} c {{}}", shape[2])]
    else:
        orders = [(f"{folded} {{}} c", shape[1]), (f"{folded} c {{}}", shape[2])]
    likely, later = _in_a_picture(orders, visit, trace, n, size)
    found = [*(_in_time(orders, visit, trace, size) if size[0] > 1 else ()), *likely]
    none = "" if found else f"its {orders[0][1]} tokens fill no grid shaped like the picture"
    found += later
    if not found:
        return none
    windowed = (layout for one in found if "(h w)" in one.pattern for layout in _windowed(one))
    turned = (replace(one, pattern=one.pattern.replace("(h w)", "(w h)")) for one in found if "(h w)" in one.pattern)
    return Guess(_once([*found, *turned, *windowed]), "a number of tokens does not tell how they lie", unlikely=none)


def _in_a_picture(
    orders: Sequence[tuple[str, int]], visit: Visit, trace: Trace, n: int, size: Size
) -> tuple[list[Layout], list[Layout]]:
    """Row by row on a grid of this picture: the likely ones, a grid seen before first, and the others."""
    before = [
        other.shapes[0] for other in trace.visits[: _at(visit, trace)] if other.shapes and other.shapes[0][0] == n
    ]
    pictures = dict.fromkeys(pair for found in reversed(before) if len(found) == 4 for pair in (found[2:], found[1:3]))
    # what a network of spectrograms cuts may lie with its columns first
    cut = [(h, w) for h, w in pictures if _fits(h, w, size)] or [(w, h) for h, w in pictures if _fits(w, h, size)]
    plain = {found[1] for found in before if len(found) == 3}

    def lying(pattern: str, skip: int, h: int, w: int) -> Layout:
        return Layout(pattern.format("(h w)"), skip=skip, sizes={"h": h, "w": w})

    # tokens of another kind behind those of the picture, more than could stand before them
    later: list[Layout] = [
        replace(lying(pattern, skip, h, w), behind=count - h * w - skip)
        for pattern, count in orders
        for h, w in cut
        for skip in (0, 1)
        if not pattern.endswith("c {}") and count - h * w - skip > FEW_TOKENS and h * w > 1
    ]
    likely = [
        lying(pattern, count - h * w, h, w)
        for pattern, count in orders
        for h, w in cut
        if 0 <= count - h * w <= min(_most_extra(pattern), h * w - 1)
    ]
    for pattern, count in orders:
        for skip in range(min(_most_extra(pattern), count - 1) + 1):
            found = grid(count - skip, size)
            if found is None or _misfit(*found, size) > 0:
                continue
            # Behind a picture that was not cut at this grid, extra tokens are likely only where they were seen to be added.
            believed = not (cut and pattern.endswith("c {}")) and (not skip or not cut or count - skip in plain)
            (likely if believed else later).append(lying(pattern, skip, *found))
    return likely, later


def _in_time(orders: Sequence[tuple[str, int]], visit: Visit, trace: Trace, size: Size) -> Iterator[Layout]:
    """Grids of times, rows and columns, in any order of the three; those that a volume was cut at first."""
    before = trace.visits[: _at(visit, trace)]
    volumes = dict.fromkeys(
        cut
        for other in reversed(before)
        for shape in other.shapes[:1]
        if len(shape) == 5
        for cut in (shape[2:], shape[1:4])
        if _fits(cut[1], cut[2], size)
    )
    steps = [t for t in range(size[0], 1, -1) if size[0] % t == 0]
    for pattern, count in orders:
        most = min(_most_extra(pattern), count - 1)
        seen = [(count - t * h * w, (t, h, w)) for t, h, w in volumes]
        fits = [(skip, cut) for skip, cut in seen if 0 <= skip <= most]
        for t, skip in product(steps, range(most + 1)):
            found = grid((count - skip) // t, size) if (count - skip) % t == 0 and count - skip >= t else None
            if found is not None and _misfit(*found, size) == 0:
                fits.append((skip, (t, *found)))
        for order in ("t h w", "h w t", "t w h", "w h t", "h t w", "w t h"):
            for skip, cut in dict.fromkeys(fits):
                yield Layout(pattern.format(f"({order})"), skip=skip, sizes=dict(zip("thw", cut, strict=True)))


def _windowed(layout: Layout) -> Iterator[Layout]:
    """The same tokens window by window, or one place of every window after the other, as often as the grid halves."""
    h, w = layout.sizes["h"], layout.sizes["w"]
    left = layout.pattern
    time = "t" if "t" in left else "1"
    for side in range(2, min(h, w) // 2 + 1):
        if h % side == 0 and w % side == 0:
            sizes = {"a": h // side, "b": w // side, "h": side, "w": side}
            wide = left.replace("(h w)", "(a b h w)")
            yield replace(layout, pattern=f"{wide} -> n c {time} (a h) (b w)", sizes=sizes)
            sizes = {"a": side, "b": side, "h": h // side, "w": w // side}
            yield replace(layout, pattern=f"{wide} -> n c {time} (h a) (w b)", sizes=sizes)
    rows, columns = "h", "w"
    inside = "h w"
    for outer, inner in (("a", "b"), ("d", "e"), ("f", "g")):
        if h % 2 or w % 2:
            return
        h, w = h // 2, w // 2
        inside = f"{outer} {inner} {inside}"
        rows, columns = f"{rows} {outer}", f"{columns} {inner}"
        halves = {letter: 2 for letter in inside.split() if letter not in "hw"}
        if len(halves) == 2:
            continue
        yield replace(
            layout,
            pattern=f"{left.replace('(h w)', f'({inside})')} -> n c {time} ({rows}) ({columns})",
            sizes={**halves, "h": h, "w": w},
        )


def _once(layouts: Iterable[Layout]) -> tuple[Layout, ...]:
    return tuple({(one.pattern, one.skip, one.behind, *sorted(one.sizes.items())): one for one in layouts}.values())


def _most_extra(pattern: str) -> int:
    return 0 if pattern.endswith("c {}") else MOST_EXTRA_TOKENS


def _misfit(h: int, w: int, size: Size) -> float:
    """0 where h x w is the picture's shape up to one cell of rounding; 1 where it is far from it."""
    if h > 2 * size[1] or w > 2 * size[2]:
        return 1.0
    wanted = h * size[2] / size[1]
    return max(0.0, abs(w - wanted) - 1) / max(w, wanted)


def _fits(h: int, w: int, size: Size) -> bool:
    return _misfit(h, w, size) < 0.35


def default_layers(
    trace: Trace, n: int, size: Size, believed: Callable[[Visit], bool] = lambda _: True
) -> Iterator[str]:
    """The layer that the literature looks at: the last stage; for a ViT the norm before its last attention block.

    Behind it, should the score not depend on it: the norms before it, the last one first.

    The last stage is the outermost module that ends last with more than one picture position and changes the resolution at
    most once, poolings and identities left aside. A network of tokens at one resolution is a ViT. Nothing where no layer
    has image axes. believed: whether a layer's layout holds; where one does not, the others of its shape are passed over.
    """
    drawable = [(visit, layout) for visit in trace.visits if (layout := _spatial(visit, trace, n, size)) is not None]
    while drawable:
        layout = drawable[-1][1]
        grids = {tuple(found.sizes.items()) for _, found in drawable if found.folded}
        isotropic = layout.folded and (layout.skip or len(grids) == 1)
        norm = _before_last_attention(trace, {id(visit) for visit, _ in drawable}) if isotropic else None
        first = norm or _stage(drawable, trace)
        if believed(first):
            break
        drawable = [(visit, found) for visit, found in drawable if visit.shapes[0] != first.shapes[0]]
    else:
        return
    yield _unique(first, trace)
    yield from (_unique(visit, trace) for visit, _ in reversed(drawable) if _is_norm(visit) and believed(visit))


def _stage(drawable: Sequence[tuple[Visit, Layout]], trace: Trace) -> Visit:
    """The outermost of the modules that end last; a whole backbone, in which the resolution changes often, is left out."""
    resolutions = [(visit.name, _sides(visit, layout)) for visit, layout in drawable]
    for visit, _ in reversed(drawable):
        name = visit.name
        if len({found for other, found in resolutions if other == name or other.startswith(name + ".")}) <= 2:
            return visit
    return drawable[-1][0]


def _spatial(visit: Visit, trace: Trace, n: int, size: Size) -> Layout | None:
    kind = type(visit.module).__name__.lower()
    passes = isinstance(visit.module, nn.Identity) or kind == "permute" or "drop" in kind
    pools = kind.endswith(("pool", "pool1d", "pool2d", "pool3d", "pooling"))
    layout = None if passes or pools else find_layout(visit, trace, n, size)
    if not isinstance(layout, Layout) or layout.pattern == "n c":
        return None
    # A model's output that carries its pooled features too: the head may read those, past this layer's picture.
    pooled = any(len(other) >= 2 and max(other[2:], default=1) == 1 for other in visit.shapes[1:])
    return layout if max(_sides(visit, layout), default=1) > 1 and not pooled else None


def _sides(visit: Visit, layout: Layout) -> tuple[int, ...]:
    """Lengths of the raw axes that hold rows and columns; a signal has rows alone."""
    return tuple(visit.shapes[0][layout.axis(letter)] for letter in "hw" if layout.has(letter))


def _before_last_attention(trace: Trace, drawable: set[int]) -> Visit | None:
    attention = [i for i, visit in enumerate(trace.visits) if _is_attention(visit)]
    if not attention:
        return None
    begin = attention[-1]
    block = trace.visits[begin].name
    inside = [i for i in range(begin) if trace.visits[i].name.startswith(block + ".")]
    first = min((i for i in inside if i > (attention[-2] if len(attention) > 1 else -1)), default=begin)
    for visit in reversed(trace.visits[:first]):
        if id(visit) in drawable and _is_norm(visit):
            return visit
    return None


def _is_norm(visit: Visit) -> bool:
    return "norm" in type(visit.module).__name__.lower()


def _is_attention(visit: Visit) -> bool:
    kind, name = type(visit.module).__name__.lower(), visit.name.rpartition(".")[2]
    return "attention" in kind or kind.endswith("attn") or name in ("attn", "attention", "self_attn")


def _unique(visit: Visit, trace: Trace) -> str:
    return visit.name if len(trace.of(visit.name)) == 1 else f"{visit.name}#{visit.call}"
