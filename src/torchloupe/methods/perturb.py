"""Methods that ask again with something taken away: occlusion, Score-CAM and its kin, Ablation-CAM."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.errors import BadInput
from torchloupe.methods.cam import combine
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe
from torchloupe.replay import Replay


@method
def scorecam(
    probe: Probe,
    batch: Batch,
    *,
    chunk: int = 32,
    fast: bool = False,
    relu: bool = True,
    eigen_smooth: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Maps:
    """Score-CAM:  M = ReLU( sum_c w_c A_c ),  w = softmax_c( Y(x * H_c) - Y(0) ),  H_c = A_c resized and scaled to 0 .. 1

    -> layer -> (k, n, t, h, w), >= 0. chunk: masked pictures a forward. fast: the forwards as they are, in channels-last
    memory, or also in half precision (bfloat16), whichever a trial on a few copies finds fastest here; not exact, and where
    two take equally long not always the same.
    progress: called with (done, all) forwards.
    Source: Wang et al. 2020, Score-CAM, CVPR workshops, arXiv:1910.01279, eq. 6-9.
    Differs: a channel that is constant over space has the mask 0, where the paper divides by 0.
    """
    variants = lambda act, generator: (act,)
    return _masked(probe, batch, variants, chunk, fast, relu, eigen_smooth, progress)


@method
def sscam(
    probe: Probe,
    batch: Batch,
    *,
    smooth: Literal["map", "input"] = "map",
    samples: int = 10,
    sigma: float = 2.0,
    seed: int = 0,
    chunk: int = 32,
    fast: bool = False,
    relu: bool = True,
    eigen_smooth: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Maps:
    """SS-CAM:  Score-CAM whose score is a mean over Gaussian noise on the activation map, or on the masked input

    smooth: "map" = H_c from A_c + e, "input" = x * H_c + e; e ~ N(0, sigma^2), samples times.
    -> layer -> (k, n, t, h, w), >= 0.
    Source: Wang et al. 2020, SS-CAM, arXiv:2006.14255.
    Differs: the noise on an activation map has the layer's size, as A_c has in the paper's formula; the authors' code draws it
    at the input's size, on the map that was resized, where it is finer: maps of both correlate at about .73.
    """
    if samples < 1:
        raise BadInput(f"samples is {samples}; expected 1 or more")
    if not 0 <= sigma < math.inf:
        raise BadInput(f"sigma is {sigma}; expected 0 or more")
    if smooth not in ("map", "input"):
        raise BadInput(f"smooth is {smooth!r}; expected 'map' or 'input'")

    def variants(act: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(samples):
            noise = torch.randn(act.shape, generator=generator, dtype=act.dtype).to(act.device) * sigma
            yield act + noise if smooth == "map" else act

    jitter = sigma if smooth == "input" else 0.0
    return _masked(probe, batch, variants, chunk, fast, relu, eigen_smooth, progress, jitter=jitter, seed=seed)


@method
def iscam(
    probe: Probe,
    batch: Batch,
    *,
    samples: int = 10,
    chunk: int = 32,
    fast: bool = False,
    relu: bool = True,
    eigen_smooth: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Maps:
    """IS-CAM:  Score-CAM whose score is integrated over the mask's strength:  mean_i Y(x * (i/N) H_c),  i = 1 .. N

    samples N. -> layer -> (k, n, t, h, w), >= 0.
    Source: Naidu et al. 2020, IS-CAM, arXiv:2010.03023.
    """
    if samples < 1:
        raise BadInput(f"samples is {samples}; expected 1 or more")
    variants = lambda act, generator: (act for _ in range(samples))
    strengths = [(i + 1) / samples for i in range(samples)]
    return _masked(probe, batch, variants, chunk, fast, relu, eigen_smooth, progress, strengths=strengths)


def _masked(
    probe: Probe,
    batch: Batch,
    variants: Callable[[Tensor, torch.Generator], Any],
    chunk: int,
    fast: bool,
    relu: bool,
    eigen_smooth: bool,
    progress: Callable[[int, int], None] | None,
    *,
    strengths: Sequence[float] = (),
    jitter: float = 0.0,
    seed: int = 0,
) -> Maps:
    """The Score-CAM family: mean score of x under each channel's masks, softmax over channels, weighted activations."""
    check_chunk(chunk)
    scores, batch = probe.ask(batch)
    seen = probe(batch, grad=False)
    empty, _ = probe.ask(batch.at(torch.zeros_like(batch.x)))
    way = _fastest(probe, batch) if fast else _exact
    maps: dict[str, Tensor] = {}
    for number, layer in enumerate(probe.layers):
        act = seen.act[layer]
        generator = torch.Generator().manual_seed(seed)
        gain = torch.zeros(len(scores.value), *act.shape[:2], dtype=act.dtype, device=act.device)
        rounds = list(variants(act, generator))
        for turn, source in enumerate(rounds):
            strength = strengths[turn] if strengths else 1.0
            for sample in range(batch.n):
                told = progress and _part(
                    progress,
                    number * len(rounds) * batch.n + turn * batch.n + sample,
                    len(probe.layers) * len(rounds) * batch.n,
                )
                found = mask_scores(probe, batch, sample, source[sample], strength, jitter, generator, chunk, way, told)
                gain[:, sample] += (found.to(gain) - empty.value[:, sample, None].to(gain)) / len(rounds)
        maps[layer] = combine(gain.softmax(2)[..., None, None, None], act, relu=relu, eigen_smooth=eigen_smooth)
    return Maps(maps, scores, signed=not relu)


def _part(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int, int], None]:
    return lambda i, n: progress(done * n + i, total * n)


def mask_scores(
    probe: Probe,
    batch: Batch,
    sample: int,
    act: Tensor,
    strength: float = 1.0,
    jitter: float = 0.0,
    generator: torch.Generator | None = None,
    chunk: int = 32,
    way: Way | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Scores (k, c) of one sample under the mask of each channel of act (c, t, h, w)."""
    one = batch.take([sample])
    low, high = act.amin((-3, -2, -1), keepdim=True), act.amax((-3, -2, -1), keepdim=True)
    span = high - low
    unit = torch.where(span > 0, (act - low) / torch.where(span > 0, span, 1), 0)
    flat = (span <= 0).flatten()
    live = (~flat).nonzero().flatten().tolist()
    order = ([int(flat.nonzero()[0])] if flat.any() else []) + live
    parts = []
    for begin in range(0, len(order), chunk):
        channels = order[begin : begin + chunk]
        masks = resize(unit[channels][None], batch.size)[0]
        many = one.take([0] * len(channels))
        x = masked(many, masks * strength)
        if jitter:
            x = x + jitter * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        parts.append((way or _exact)(probe, many.at(x)))
        if progress:
            progress(min(begin + chunk, len(order)), len(order))
    found = torch.cat(parts, 1)
    spread = torch.empty(len(found), len(act), dtype=found.dtype, device=found.device)
    if flat.any():
        spread[:, flat] = found[:, :1]
    spread[:, live] = found[:, len(order) - len(live) :]
    return spread


def masked(batch: Batch, masks: Tensor) -> Tensor:
    """x * mask, masks (n, t, h, w) in the canonical order, in x's own layout."""
    return batch.x * batch.layout.raw(masks[:, None].to(batch.x))


def check_chunk(chunk: int, least: int = 1) -> None:
    if chunk < least:
        raise BadInput(f"chunk is {chunk}; expected {least} or more")


Way = Callable[[Probe, Batch], Tensor]


def _exact(probe: Probe, batch: Batch) -> Tensor:
    return probe.ask(batch)[0].value


def _channels_last(probe: Probe, batch: Batch) -> Tensor:
    x = batch.x.contiguous(memory_format=torch.channels_last) if batch.x.ndim == 4 else batch.x
    return probe.ask(batch.at(x))[0].value


def _half(probe: Probe, batch: Batch) -> Tensor:
    with torch.autocast(batch.x.device.type, torch.bfloat16):
        return _channels_last(probe, batch).float()


WAYS: tuple[Way, ...] = (_exact, _channels_last, _half)
TRIAL = 4


def _fastest(probe: Probe, batch: Batch) -> Way:
    """The way to ask that takes the least time here: each is tried twice on a few copies, since the first call sets up."""
    few = batch.take([0] * TRIAL)
    spent = dict.fromkeys(WAYS, math.inf)
    for way in WAYS * 2:
        _settled(few)
        begun = time.perf_counter()
        way(probe, few)
        _settled(few)
        spent[way] = time.perf_counter() - begun  # of the second try
    return min(WAYS, key=spent.__getitem__)


def _settled(batch: Batch) -> None:
    """What was asked of a GPU has been done."""
    if batch.x.device.type == "cuda":
        torch.cuda.synchronize(batch.x.device)


@method
def ablationcam(
    probe: Probe,
    batch: Batch,
    *,
    chunk: int = 0,
    relu: bool = True,
    eigen_smooth: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Maps:
    """Ablation-CAM:  M = ReLU( sum_c w_c A_c ),  w_c = (Y - Y without channel c) / |Y|

    A channel is taken away by setting it to 0 at the layer; only the network behind the layer runs again, where the
    network allows it. chunk: ablated copies a run, 0 = chosen by the layer's size.
    -> layer -> (k, n, t, h, w), >= 0.
    Source: Desai and Ramaswamy 2020, Ablation-CAM, WACV, doi:10.1109/WACV45572.2020.9093360.
    Differs: divided by |Y|, since a negative score would turn the map upside down; Y = 0 leaves the difference as it is.
    """
    check_chunk(chunk, 0)
    maps: dict[str, Tensor] = {}
    jobs = len(probe.layers) * batch.n
    for number, layer in enumerate(probe.layers):
        if layer == INPUT:
            raise BadInput("ablationcam ablates the channels of a layer; for the input take occlusion")
        replay = Replay(probe, batch, layer)
        scores, batch = replay.scores, replay.batch
        told = [progress and _part(progress, number * batch.n + i, jobs) for i in range(batch.n)]
        left = torch.stack([_ablated(replay, i, chunk, told[i]) for i in range(batch.n)], 1)
        size = scores.value.abs()
        drop = (scores.value[..., None] - left) / torch.where(size > 0, size, 1)[..., None]
        weight = drop[..., None, None, None].to(replay.act)
        maps[layer] = combine(weight, replay.act, relu=relu, eigen_smooth=eigen_smooth)
    return Maps(maps, scores, signed=not relu)


def _ablated(replay: Replay, sample: int, chunk: int, progress: Callable[[int, int], None] | None) -> Tensor:
    """Scores (k, c) of one sample with each channel of the layer set to 0."""
    layout, acts = replay.layout, replay.acts(sample)
    sizes = [act.numel() for act in acts]
    flat = torch.cat([(act.dequantize() if act.is_quantized else act).flatten() for act in acts])
    spots = torch.arange(len(flat), device=flat.device).split(sizes)
    numbered = [spot.view_as(act) for spot, act in zip(spots, acts, strict=True)]
    where = layout.canonical(numbered, 1, replay.batch.size)[0].flatten(1)
    alive = flat[where].any(1).nonzero().flatten().tolist()
    found = replay.scores.value[:, sample : sample + 1].repeat(1, len(where))
    chunk = chunk or max(8, min(512, 8_000_000 // len(flat)))
    axis = layout.axis("n")
    for begin in range(0, len(alive), chunk):
        some = alive[begin : begin + chunk]
        ablated = flat.repeat(len(some), 1).scatter_(1, where[some], 0).split(sizes, dim=1)
        copies = [
            _like(part.reshape(len(some), *act.shape).movedim(0, axis).flatten(axis, axis + 1), act)
            for part, act in zip(ablated, acts, strict=True)
        ]
        found[:, some] = replay(sample, copies, len(some)).value
        if progress:
            progress(min(begin + chunk, len(alive)), len(alive))
    return found


def _like(values: Tensor, act: Tensor) -> Tensor:
    """Values in whole numbers where the layer's are, whose 0 is one of them."""
    if not act.is_quantized:
        return values
    return torch.quantize_per_tensor(values, act.q_scale(), act.q_zero_point(), act.dtype)


@method
def occlusion(
    probe: Probe,
    batch: Batch,
    *,
    window: int = 0,
    stride: int = 0,
    frames: int = 0,
    fill: float = 0.0,
    chunk: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Maps:
    """Occlusion:  M(p) = mean over windows that cover p of  Y(x) - Y(x with the window filled)

    window: side in pixels, 0 = an eighth of the longer side; stride: 0 = half a window; frames: length in time, 0 = all.
    fill: the value put in, in the model's input space. -> INPUT -> (k, n, t, h, w), signed.
    Source: Zeiler and Fergus 2014, Visualizing and understanding convolutional networks, ECCV, arXiv:1311.2901.
    """
    check_chunk(chunk)
    if min(window, stride, frames) < 0:
        raise BadInput(f"window {window}, stride {stride}, frames {frames}: expected 0 or more")
    scores, batch = probe.ask(batch)
    t, h, w = batch.size
    side = min(window or max(1, round(max(h, w) / 8)), max(h, w))
    step = stride or max(1, side // 2)
    long = min(frames or t, t)
    corners = list(product(_starts(t, long, long), _starts(h, side, step), _starts(w, side, step)))
    k = len(scores.value)
    total = torch.zeros(k, batch.n, t, h, w, dtype=scores.value.dtype, device=scores.value.device)
    count = torch.zeros(t, h, w, dtype=total.dtype, device=total.device)
    jobs = [(sample, corner) for sample in range(batch.n) for corner in corners]
    for begin in range(0, len(jobs), chunk):
        some = jobs[begin : begin + chunk]
        many = batch.take([sample for sample, _ in some])
        keep = torch.ones(len(some), t, h, w)
        for row, (_, (a, b, c)) in enumerate(some):
            keep[row, a : a + long, b : b + side, c : c + side] = 0
        x = masked(many, keep) + fill * (1 - masked(many.at(torch.ones_like(many.x)), keep))
        drop = scores.value[:, [sample for sample, _ in some]] - probe.ask(many.at(x))[0].value
        for row, (sample, (a, b, c)) in enumerate(some):
            total[:, sample, a : a + long, b : b + side, c : c + side] += drop[:, row, None, None, None]
        if progress:
            progress(min(begin + chunk, len(jobs)), len(jobs))
    for a, b, c in corners:
        count[a : a + long, b : b + side, c : c + side] += 1
    return Maps({INPUT: total / count}, scores, signed=True)


def _starts(length: int, side: int, step: int) -> list[int]:
    """Starts of windows that cover 0 .. length; the last one is moved back to end there."""
    last = max(0, length - side)
    return sorted({*range(0, last, step), last})


__all__ = ["ablationcam", "iscam", "occlusion", "scorecam", "sscam"]
