"""Does a map depend on the weights, on the question, on a pixel more or less? Randomised copies of a network, moved inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchloupe.axes import resize
from torchloupe.errors import BadInput, BadSample, NoGradient
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.chance import edges
from torchloupe.metrics.judge import Judgement
from torchloupe.metrics.marks import Curve, Heat, Marks, Number
from torchloupe.metrics.registry import heats_of
from torchloupe.metrics.similar import spearman, ssim
from torchloupe.metrics.verdict import verdicts
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe
from torchloupe.shadow import is_shadow
from torchloupe.trace import tracing

Ask = Callable[[Probe, Batch], Mapping[str, Maps]]
Similar = Callable[[Tensor, Tensor], Tensor]
MEASURES: dict[str, Similar] = {"ssim": ssim, "spearman": spearman}
BINS = 100
NONE = float("nan")


@dataclass(frozen=True)
class Sanity(Judgement):
    """What randomised weights, other questions, other methods and moved inputs do to maps.

    blocks: the blocks in the order in which they were randomised. said: one sentence a map, after what the reader should know.
    """

    blocks: tuple[str, ...] = ()


def sane(
    ask: Ask,
    probe: Probe,
    batch: Batch,
    *,
    order: Literal["top_down", "bottom_up"] = "top_down",
    independent: bool = False,
    most: int = 12,
    smooth: int = 1,
    stability: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Sanity:
    """Do maps depend on what they claim to explain?

    ask: (probe, batch) -> method -> Maps, for example cams with its methods chosen.
    Randomisation: blocks of the network (at most so many) are randomised on a copy, one more at each point from the last to the
    first (top_down) or the other way (bottom_up), or each by itself (independent), and the maps of the same question are compared
    with the original ones. All parameters and statistics of a block are shuffled: convolutions, BatchNorm, tokens, positions,
    projections of attention. What the answer does not use (the text tower of a model that is asked about pictures, heads whose
    shuffling changes no score) is no block, and said. smooth: mean of the maps over so many noisy inputs (sigma a tenth of the range), the last without noise.
    Numbers, each (k, n), maps compared at their own resolution:
    ssim and spearman: mean over the points without the first, low is good; ssim_all and spearman_all: at the last point. Their
    chance is the level of the maps of other pictures under the same network, from two pictures on.
    complexity_rise: (H(randomised) - H(original)) / H(original), H the entropy of a histogram of 100 values, high is good.
    label_ssim and label_spearman: likeness of the maps of two questions, from two questions on, low is good.
    edge_ssim: likeness of |map| to an edge detector's. agreement: Spearman with the other methods' maps, the mean. mirror, shift (an eighth of the picture), noise (.02 of the range):
    Spearman of the map of the moved input, moved back; sensitivity_max: max over 8 draws within .02 of the range of
    |map' - map| / |map|, low is good.
    Curves: ssim, spearman, by the share of the blocks that is randomised (independent: by the block's number).
    Errors: BadInput for a subject whose answer does not change with its module's weights.
    Source: Adebayo et al. 2018, Sanity checks for saliency maps, NeurIPS, arXiv:1810.03292; Hedstrom et al. 2024, A fresh
    look at sanity checks for saliency maps, arXiv:2405.02383 (bottom-up, efficient and smooth variants); Yeh et al. 2019,
    arXiv:1901.09392 (sensitivity).
    Differs: values are shuffled within each tensor in place of drawn from an initialiser, so that their scale stays; the original is
    no point of the mean; blocks in the order in which they run.
    """
    if order not in ("top_down", "bottom_up"):
        raise BadInput(f"order is {order!r}; expected top_down or bottom_up")
    if most < 1 or smooth < 1:
        raise BadInput(f"most {most}, smooth {smooth}: expected 1 or more")
    asking = Asking(probe, batch, seed=seed)
    batch = asking.batch
    parts, idle = reaching(probe, batch, blocks(probe, batch, most), asking.given.value, seed)
    names = list(parts) if order == "bottom_up" else list(reversed(parts))
    total = len(names) * smooth + (2 if stability else 1)
    done = iter(range(1, total + 1))
    told = lambda: progress(next(done), total) if progress else None
    clean = _smoothed(ask, probe, batch, smooth, seed)
    first = heats_of(clean, asking)
    told()
    points: list[dict[str, Heat] | None] = []
    for _, changed in randomised(probe, parts, names, independent, seed):
        try:
            points.append(_heats(_smoothed(ask, changed, batch, smooth, seed)))
        except NoGradient:
            points.append(None)
        told()
    marks = {"randomisation": _randomisation(first, points, independent)}
    if asking.k > 1:
        marks["labels"] = _labels(first)
    if len(first) > 1:
        marks["agreement"] = _agreement(first, batch)
    marks["edges"] = _edges(first, asking)
    said = [f"no part of the answer, and not randomised: {', '.join(idle)}"] if idle else []
    if stability:
        marks["stability"] = _stability(ask, probe, batch, first, seed)
        said += marks["stability"].said
        told()
    line = {
        name: value[..., 1:].flatten(0, 1).nanmean(0).tolist()
        for name, value in marks["randomisation"].curves["ssim"].value.items()
    }
    level = marks["randomisation"]["ssim"].chance
    other = NONE if level is None else float(level.nanmean())
    drawn = {name: float(value.nanmean()) for name, value in marks["edges"]["edge_ssim"].value.items()}
    said += verdicts(line, names, other=other, outline=drawn, order=order, independent=independent)
    return Sanity(marks, (), batch.ids, asking.given.labels, 0, tuple(said), tuple(names))


class _Touched(TorchDispatchMode):
    """Notes the memory of every tensor that an operation of this thread is given."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, Tensor):
                self.memory.add(one.untyped_storage().data_ptr())
        return func(*args, **(kwargs or {}))


def blocks(probe: Probe, batch: Batch, most: int) -> dict[str, list[str]]:
    """Block -> the names of its parameters and statistics, in the order in which blocks run; at most so many blocks.

    A block is what begins with the same dotted name, as deep as `most` allows. What belongs to no layer that runs (tokens,
    positions) is the first, under the name of its owner. What no operation of the forward is given is in no block.
    """
    with probe.subject.asked() as own:
        module = own.module
        held = _weights(module)
        if not held:
            raise BadInput("this model has no weights to randomise")
        with tracing(module) as trace, _Touched() as touched:
            replace(probe, subject=own).ask(batch.take([0]))
        used = [name for name, value in held.items() if value.untyped_storage().data_ptr() in touched.memory]
    if not used:
        raise BadInput(f"the subject does not run the module that it is given: none of its {len(held)} weights is used")
    ran = {name: place for place, name in enumerate(trace.calls)}
    deepest = max(name.count(".") for name in used)
    best: dict[str, list[str]] = {}
    for depth in range(1, deepest + 1):
        found: dict[str, list[str]] = {}
        for name in used:
            owner = name.rpartition(".")[0]
            found.setdefault(".".join(owner.split(".")[:depth]) or "(the model's own)", []).append(name)
        if best and len(found) > most:
            break
        best = found
    best = best or {"(the model's own)": used}
    place = {
        block: min((at for name, at in ran.items() if name == block or name.startswith(block + ".")), default=-1)
        for block in best
    }
    ordered = sorted(best, key=lambda block: place[block])
    return _merged({block: best[block] for block in ordered}, most)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and statistics by their names, each once."""
    held: dict[str, Tensor] = dict(module.named_parameters())
    return held | {name: value for name, value in module.named_buffers() if value.is_floating_point()}


def _merged(parts: dict[str, list[str]], most: int) -> dict[str, list[str]]:
    """Neighbours joined where even the shortest names are too many."""
    names = list(parts)
    if len(names) <= most:
        return parts
    cuts = [round(i * len(names) / most) for i in range(most + 1)]
    groups = [names[a:b] for a, b in pairwise(cuts)]
    return {
        group[0] if len(group) == 1 else f"{group[0]} .. {group[-1]}": [one for name in group for one in parts[name]]
        for group in groups
    }


def reaching(
    probe: Probe, batch: Batch, parts: Mapping[str, list[str]], clean: Tensor, seed: int
) -> tuple[dict[str, list[str]], list[str]]:
    """The blocks whose shuffling, each alone, changes the answer, and the names of the others. clean (k, n): the scores.

    Errors: BadInput where none does.
    """
    found, idle = {}, []
    for block, changed in randomised(probe, parts, list(parts), True, seed):
        try:
            still = torch.equal(changed.ask(batch)[0].value, clean)
        except BadSample:  # a score that is not finite any more
            still = False
        if still:
            idle.append(block)
        else:
            found[block] = parts[block]
    if not found:
        raise BadInput(
            "the answers do not change when the weights are shuffled: the subject does not run the module that it is given, or "
            "its weights are all alike"
        )
    return found, idle


def randomised(
    probe: Probe, parts: Mapping[str, Sequence[str]], names: Sequence[str], independent: bool, seed: int
) -> Iterator[tuple[str, Probe]]:
    """(block, the probe of a shadow whose blocks up to this one, or this one alone, are shuffled), in the order of names.

    A shuffled value depends on the seed and its tensor's name alone. Errors: BadInput for a network that has no shadow.
    """
    with probe.subject.asked() as own:
        if not is_shadow(own.module):
            raise BadInput(
                f"{type(own.module).__name__} has no copy of its own, so its weights cannot be randomised without changing it"
            )
        changed = replace(probe, subject=own)
        held = _weights(own.module)
        with _lent(held):
            for block in names:
                kept = {name: held[name].data for name in parts[block]}
                for name in parts[block]:
                    held[name].data = _shuffled(held[name].data, name, seed)
                yield block, changed
                if independent:
                    for name, value in kept.items():
                        held[name].data = value


@contextmanager
def _lent(held: Mapping[str, Tensor]) -> Iterator[None]:
    """The tensors' own memory is theirs again afterwards. Errors: BadInput for tensors that a shadow shares with its network."""
    odd = next((name for name, value in held.items() if type(value) not in (Tensor, nn.Parameter)), None)
    if odd is not None:
        raise BadInput(
            f"{odd} is a {type(held[odd]).__name__}, whose values cannot be shuffled; take the model in plain floats"
        )
    before = {name: value.data for name, value in held.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            held[name].data = value


def _shuffled(value: Tensor, name: str, seed: int) -> Tensor:
    said = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(said[:7], "big"))
    return value.flatten()[torch.randperm(value.numel(), generator=generator).to(value.device)].view_as(value)


def _heats(found: Mapping[str, Maps]) -> dict[str, Heat]:
    return {
        f"{method}/{layer}": Heat(values.detach(), maps.signed)
        for method, maps in found.items()
        for layer, values in maps.maps.items()
    }


def _smoothed(ask: Ask, probe: Probe, batch: Batch, times: int, seed: int) -> Mapping[str, Maps]:
    found = ask(probe, batch)
    if times == 1:
        return found
    sums = {name: {layer: values.clone() for layer, values in maps.maps.items()} for name, maps in found.items()}
    for x in _noisy(batch, times - 1, 0.1, seed, torch.randn):
        for name, maps in ask(probe, batch.at(x)).items():
            for layer, values in maps.maps.items():
                sums[name][layer] += values
    return {
        name: replace(maps, maps={layer: sums[name][layer] / times for layer in maps.maps})
        for name, maps in found.items()
    }


def _noisy(batch: Batch, times: int, share: float, seed: int, draw: Any) -> Iterator[Tensor]:
    """The input with noise, a share of each sample's range; the same field for all samples."""
    x = batch.layout.canonical([batch.x.detach()], batch.n)
    span = (x.amax((1, 2, 3, 4)) - x.amin((1, 2, 3, 4))).view(-1, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(times):
        field = draw(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
        yield batch.layout.raw(x + share * span * field)


def _randomisation(first: Mapping[str, Heat], points: Sequence[Mapping[str, Heat] | None], independent: bool) -> Marks:
    numbers: dict[str, Number] = {}
    curves: dict[str, Curve] = {}
    share = torch.arange(len(points) + 1, dtype=torch.float64)
    for label, similar in MEASURES.items():
        value, whole, curve, level = {}, {}, {}, []
        for name, heat in first.items():
            blank = torch.full(heat.values.shape[:2], NONE, dtype=torch.float64)
            rows = [
                similar(heat.values, point[name].values).cpu() if point is not None and name in point else blank
                for point in points
            ]
            found = torch.stack(rows, -1)
            curve[name] = torch.cat([similar(heat.values, heat.values).cpu()[..., None], found], -1)
            value[name], whole[name] = _mean(found), found[..., -1]
            level.append(other_pictures(heat.values, similar).cpu())
        numbers[label] = Number(value, "low", _mean(torch.stack(level, -1)))
        numbers[f"{label}_all"] = Number(whole, "low", _mean(torch.stack(level, -1)))
        curves[label] = Curve(share if independent else share / len(points), curve)
    last = points[-1]
    rise = {}
    for name, heat in first.items():
        rise[name] = torch.full(heat.values.shape[:2], NONE, dtype=torch.float64)
        if last is not None and name in last:
            before, after = histogram_entropy(heat.values), histogram_entropy(last[name].values)
            rise[name] = torch.where(before > 0, (after - before) / before, NONE).cpu()
    numbers["complexity_rise"] = Number(rise, "high")
    return Marks(numbers, curves)


def _mean(values: Tensor) -> Tensor:
    """Mean along the last axis of what is there; NaN where nothing is."""
    return values.nanmean(-1)


def other_pictures(maps: Tensor, similar: Similar) -> Tensor:
    """Likeness of each map to those of the other samples for the same question, the mean: (k, n); NaN for one sample."""
    n = maps.shape[1]
    rows = [similar(maps, maps.roll(step, 1)) for step in range(1, n)]
    return torch.stack(rows, -1).nanmean(-1) if rows else torch.full(maps.shape[:2], NONE, dtype=torch.float64)


def histogram_entropy(maps: Tensor) -> Tensor:
    """Entropy of a histogram of the values of each map, 100 bins over its own range: (k, n)."""
    flat = maps.double().flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    place = ((flat - low) / torch.where(high > low, high - low, 1) * BINS).long().clamp_max(BINS - 1)
    counts = torch.zeros(*flat.shape[:2], BINS, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(2, place, torch.ones_like(flat))
    return torch.special.entr(counts / flat.shape[2]).sum(2)


def _labels(first: Mapping[str, Heat]) -> Marks:
    numbers = {}
    for label, similar in MEASURES.items():
        value = {}
        for name, heat in first.items():
            k = len(heat.values)
            rows = [similar(heat.values, heat.values.roll(step, 0)) for step in range(1, k)]
            value[name] = torch.stack(rows, -1).nanmean(-1).cpu()
        numbers[f"label_{label}"] = Number(value, "low")
    return Marks(numbers)


def _edges(first: Mapping[str, Heat], asking: Asking) -> Marks:
    outline = edges(asking.x)
    t, h, w = outline.shape[1:]
    drawn = outline.expand(asking.k, -1, -1, -1, -1)
    value = {
        name: ssim(resize(heat.values.double().abs(), (t, h, w)), drawn.to(heat.values.device)).cpu()
        for name, heat in first.items()
    }
    return Marks({"edge_ssim": Number(value, "neither")})


def _agreement(first: Mapping[str, Heat], batch: Batch) -> Marks:
    fine = {name: resize(heat.values.double(), batch.size) for name, heat in first.items()}
    value = {}
    for name, own in fine.items():
        rows = [spearman(own, other) for key, other in fine.items() if key != name]
        value[name] = torch.stack(rows, -1).nanmean(-1).cpu()
    return Marks({"agreement": Number(value, "neither")})


def _stability(ask: Ask, probe: Probe, batch: Batch, first: Mapping[str, Heat], seed: int) -> Marks:
    """Maps of moved inputs, moved back."""
    canonical = batch.layout.canonical([batch.x.detach()], batch.n)
    said = []
    found: dict[str, dict[str, Tensor]] = {}

    def compare(label: str, moved: Batch, back: Callable[[Tensor], Tensor], cut: Callable[[Tensor], Tensor]) -> None:
        heats = _heats(ask(probe, moved))
        found[label] = {
            name: spearman(
                cut(resize(heat.values.double(), batch.size)),
                cut(back(resize(heats[name].values.double(), batch.size))),
            ).cpu()
            for name, heat in first.items()
        }

    mirror = getattr(probe.target, "mirrored", None)
    placed = bool({"boxes", "region"} & set(batch.asked))
    same = lambda maps: maps
    if mirror is not None or not placed:
        asked = mirror(batch.asked, batch) if mirror is not None else batch.asked
        turned = replace(batch, asked=asked).at(batch.layout.raw(canonical.flip(-1)))
        compare("mirror", turned, lambda maps: maps.flip(-1), same)
    if placed:
        said.append("shift: left out, since the question is about a place that would move")
    else:
        step = max(1, min(batch.size[1:]) // 8)
        shifted = batch.at(batch.layout.raw(canonical.roll(step, -1)))
        compare("shift", shifted, lambda maps: maps.roll(-step, -1), lambda maps: maps[..., : maps.shape[-1] - step])
    noisy = next(_noisy(batch, 1, 0.02, seed, torch.randn))
    compare("noise", batch.at(noisy), same, same)
    worst = {name: torch.zeros(heat.values.shape[:2], dtype=torch.float64) for name, heat in first.items()}
    uniform = lambda shape, **more: 2 * torch.rand(shape, **more) - 1
    for x in _noisy(batch, 8, 0.02, seed + 1, uniform):
        heats = _heats(ask(probe, batch.at(x)))
        for name, heat in first.items():
            own = heat.values.double().flatten(2)
            gap = (heats[name].values.double().flatten(2) - own).norm(dim=2) / own.norm(dim=2)
            worst[name] = torch.maximum(worst[name], torch.where(own.norm(dim=2) > 0, gap, NONE).cpu())
    numbers = {label: Number(value, "high") for label, value in found.items()}
    numbers["sensitivity_max"] = Number(worst, "low")
    return Marks(numbers, said=tuple(said))
