"""What ran in one forward, and the layout that each layer's output has: found from shapes, order and module types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class Visit:
    """One call of one module: its dotted name, the module, which call it was, and the shapes of the tensors it returned."""

    name: str
    module: nn.Module
    call: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass
class Trace:
    """The calls of one forward, in the order in which they ended."""

    visits: list[Visit] = field(default_factory=list)

    def of(self, name: str) -> list[Visit]:
        """The calls of one module, in order."""
        return [visit for visit in self.visits if visit.name == name]

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

    handles = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def find_layout(visit: Visit, trace: Trace, n: int, size: Size) -> Layout | str:
    """The layout of a layer's first output tensor, or the reason why it has no image axes.

    n: samples in the forward; size: (t, h, w) of the input.
    """
    if not visit.shapes:
        return "it returns no tensor"
    shape = visit.shapes[0]
    frames = n * size[0]
    if len(shape) == 2 and shape[0] == n:
        return Layout("n c")
    if len(shape) == 5 and shape[0] == n:
        first, last = _fits(shape[3], shape[4], size), _fits(shape[2], shape[3], size)
        if last and (not first or _channels(visit, trace) == "last"):
            return Layout("n t h w c")
        if first:
            return Layout("n c t h w")
    if len(shape) == 4 and shape[0] in (n, frames):
        folded = "n" if shape[0] == n else "(n t)"
        return _picture(visit, trace, size, folded)
    if len(shape) == 3 and n in shape[:2]:
        return _tokens(visit, trace, n, size)
    if len(shape) >= 3 and shape[0] % n == 0 and shape[0] > n:
        return "it runs on windows or patches of the picture; take the block around it"
    return f"shape {shape} has no image axes"


def _picture(visit: Visit, trace: Trace, size: Size, folded: str) -> Layout | str:
    _, a, b, c = visit.shapes[0]
    if _between_tokens(visit, trace):
        return "it holds attention between tokens, not a picture"
    first, last = _misfit(b, c, size), _misfit(a, b, size)
    kind = _channels(visit, trace)
    if min(first, last) > (0.35 if kind is None else 0.7):
        return f"shape {visit.shapes[0]} has no axes shaped like the picture"
    if kind is None or not (abs(first - last) < 0.2 or max(first, last) < 0.35):
        kind = "first" if first <= last else "last"
    return Layout(f"{folded} c h w" if kind == "first" else f"{folded} h w c")


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


def _tokens(visit: Visit, trace: Trace, n: int, size: Size) -> Layout | str:
    shape = visit.shapes[0]
    if shape[0] != n:
        orders = [("(h w) n c", shape[0])]
    elif isinstance(visit.module, (nn.Conv1d, nn.BatchNorm1d)):
        orders = [("n c (h w)", shape[2])]
    else:
        orders = [("n (h w) c", shape[1]), ("n c (h w)", shape[2])]
    before = [
        other.shapes[0] for other in trace.visits[: _at(visit, trace)] if other.shapes and other.shapes[0][0] == n
    ]
    pictures = dict.fromkeys(pair for found in reversed(before) if len(found) == 4 for pair in (found[2:], found[1:3]))
    cut = [(h, w) for h, w in pictures if _fits(h, w, size)]
    plain = {found[1] for found in before if len(found) == 3}
    for pattern, count in orders:
        most = 0 if pattern == "n c (h w)" else MOST_EXTRA_TOKENS
        for h, w in cut:
            if 0 <= count - h * w <= min(most, h * w - 1):
                return Layout(pattern, skip=count - h * w, sizes={"h": h, "w": w})
    for pattern, count in orders:
        if cut and pattern == "n c (h w)":
            continue
        most = 0 if pattern == "n c (h w)" else MOST_EXTRA_TOKENS
        for skip in range(min(most, count - 1) + 1):
            found = grid(count - skip, size)
            # Behind a picture that was not cut at this grid, extra tokens are believed only where they were seen to be added.
            if found and _misfit(*found, size) == 0 and (not skip or not cut or count - skip in plain):
                return Layout(pattern, skip=skip, sizes={"h": found[0], "w": found[1]})
    return f"its {orders[0][1]} tokens fill no grid shaped like the picture"


def _misfit(h: int, w: int, size: Size) -> float:
    """0 where h x w is the picture's shape up to one cell of rounding; 1 where it is far from it."""
    if h > 2 * size[1] or w > 2 * size[2]:
        return 1.0
    wanted = h * size[2] / size[1]
    return max(0.0, abs(w - wanted) - 1) / max(w, wanted)


def _fits(h: int, w: int, size: Size) -> bool:
    return _misfit(h, w, size) < 0.35


def default_layers(trace: Trace, n: int, size: Size) -> Iterator[str]:
    """The layer that the literature looks at: the last stage; for a ViT the norm before its last attention block.

    Behind it, should the score not depend on it: the norms before it, the last one first.

    The last stage is the outermost module that ends last with more than one picture position and changes the resolution at
    most once, poolings and identities left aside. A network of tokens at one resolution is a ViT. Nothing where no layer
    has image axes.
    """
    drawable = [(visit, layout) for visit in trace.visits if (layout := _spatial(visit, trace, n, size)) is not None]
    if not drawable:
        return
    layout = drawable[-1][1]
    grids = {tuple(found.sizes.items()) for _, found in drawable if "(h w)" in found.pattern}
    isotropic = "(h w)" in layout.pattern and (layout.skip or len(grids) == 1)
    norm = _before_last_attention(trace, {id(visit) for visit, _ in drawable}) if isotropic else None
    yield norm or _unique(_stage(drawable, trace), trace)
    yield from (_unique(visit, trace) for visit, _ in reversed(drawable) if _is_norm(visit))


def _stage(drawable: Sequence[tuple[Visit, Layout]], trace: Trace) -> Visit:
    """The outermost of the modules that end last; a whole backbone, in which the resolution changes often, is left out."""
    resolutions = [(visit.name, tuple(visit.shapes[0][layout.axis(a)] for a in "hw")) for visit, layout in drawable]
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
    shape = visit.shapes[0]
    rows = [shape[layout.axis(letter)] for letter in "hw"]
    # A model's output that carries its pooled features too: the head may read those, past this layer's picture.
    pooled = any(len(other) >= 2 and max(other[2:], default=1) == 1 for other in visit.shapes[1:])
    return layout if max(rows) > 1 and not pooled else None


def _before_last_attention(trace: Trace, drawable: set[int]) -> str | None:
    attention = [i for i, visit in enumerate(trace.visits) if _is_attention(visit)]
    if not attention:
        return None
    begin = attention[-1]
    block = trace.visits[begin].name
    inside = [i for i in range(begin) if trace.visits[i].name.startswith(block + ".")]
    first = min((i for i in inside if i > (attention[-2] if len(attention) > 1 else -1)), default=begin)
    for visit in reversed(trace.visits[:first]):
        if id(visit) in drawable and _is_norm(visit):
            return _unique(visit, trace)
    return None


def _is_norm(visit: Visit) -> bool:
    return "norm" in type(visit.module).__name__.lower()


def _is_attention(visit: Visit) -> bool:
    kind, name = type(visit.module).__name__.lower(), visit.name.rpartition(".")[2]
    return "attention" in kind or kind.endswith("attn") or name in ("attn", "attention", "self_attn")


def _unique(visit: Visit, trace: Trace) -> str:
    return visit.name if len(trace.of(visit.name)) == 1 else f"{visit.name}#{visit.call}"
