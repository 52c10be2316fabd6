"""Methods that ask again under masks: random ones, clusters of a layer's channels, the channels that a text speaks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.errors import BadInput
from torchloupe.methods.cam import combine
from torchloupe.methods.perturb import check_chunk, mask_scores, masked
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe

Progress = Callable[[int, int], None]


@method
def rise(
    probe: Probe,
    batch: Batch,
    *,
    samples: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
    chunk: int = 32,
    progress: Progress | None = None,
) -> Maps:
    """RISE:  M = sum_i Y(x * m_i) m_i / (keep * samples),  m_i random masks

    A mask is a grid of cells by cells, each 1 with probability keep, enlarged linearly and moved by less than a cell; the same masks
    for every sample, and for all frames. samples: masks; chunk: masked pictures a forward.
    -> INPUT -> (k, n, t, h, w). Asks forwards alone.
    Source: Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421.
    Differs: the target's own score, not a probability; the mean score over the masks is subtracted from each, without which a score
    that is no probability draws the masks' mean over its map.
    """
    check_chunk(chunk)
    if samples < 2 or cells < 1 or not 0 < keep < 1:
        raise BadInput(
            f"samples {samples}, cells {cells}, keep {keep}: expected 2 or more, 1 or more, and a share between 0 and 1"
        )
    scores, batch = probe.ask(batch)
    masks = random_masks(samples, batch.size[1:], cells, keep, seed)
    maps = torch.zeros(len(scores.value), batch.n, *batch.size, dtype=scores.value.dtype, device=scores.value.device)
    for sample in range(batch.n):
        one = batch.take([sample])
        found = []
        for begin in range(0, samples, chunk):
            some = masks[begin : begin + chunk, None].expand(-1, batch.size[0], -1, -1)
            many = one.take([0] * len(some))
            found.append(probe.ask(many.at(masked(many, some)))[0].value)
            if progress:
                progress(sample * samples + min(begin + chunk, samples), batch.n * samples)
        value = torch.cat(found, 1)
        gain = value - value.mean(1, keepdim=True)
        made = torch.einsum("ki,ihw->khw", gain, masks.to(gain)) / (keep * samples)
        maps[:, sample] = made[:, None]
    return Maps({INPUT: maps}, scores, signed=True)


def random_masks(samples: int, size: tuple[int, int], cells: int, keep: float, seed: int) -> Tensor:
    """(samples, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    high, wide = -(-h // cells), -(-w // cells)
    grids = (torch.rand(samples, 1, cells + 1, cells + 1, generator=generator) < keep).float()
    large = F.interpolate(grids, ((cells + 1) * high, (cells + 1) * wide), mode="bilinear", align_corners=False)[:, 0]
    tops = torch.randint(high, (samples,), generator=generator).tolist()
    lefts = torch.randint(wide, (samples,), generator=generator).tolist()
    return torch.stack([one[a : a + h, b : b + w] for one, a, b in zip(large, tops, lefts, strict=True)])


@method
def vitcx(
    probe: Probe,
    batch: Batch,
    *,
    threshold: float = 0.1,
    noise: float = 0.1,
    seed: int = 0,
    chunk: int = 32,
    progress: Progress | None = None,
) -> Maps:
    """ViT-CX:  M = sum_i s_i m_i / sum_i m_i,  s_i = Y(x m_i + e (1 - m_i)) - Y(x + e (1 - m_i)) + Y(x),  e ~ N(0, noise^2)

    m_i: the channels of the layer, resized and scaled to 0 .. 1, of one cluster together, scaled again; clusters by complete linkage of the
    cosine distance between channels, up to threshold. Of a ViT the layer is the last block's first norm.
    -> layer -> (k, n, t, h, w) at the input's size. Two forwards a cluster.
    Source: Xie et al. 2023, ViT-CX: causal explanation of vision transformers, IJCAI, arXiv:2211.03064.
    Differs: the target's own score, not a probability; clustered are the channels at the layer's size, not resized ones; the
    noise is the same for every sample.
    """
    check_chunk(chunk)
    if not 0 <= threshold <= 2 or noise < 0:
        raise BadInput(f"threshold {threshold}, noise {noise}: expected a cosine distance from 0 to 2, and 0 or more")
    scores, batch = probe.ask(batch)
    seen = probe(batch, grad=False)
    generator = torch.Generator().manual_seed(seed)
    shape = batch.take([0]).x.shape
    spread = torch.randn(shape, generator=generator).to(batch.x) * noise
    maps: dict[str, Tensor] = {}
    for number, layer in enumerate(probe.layers):
        rows = []
        for sample in range(batch.n):
            one, act = batch.take([sample]), seen.act[layer][sample]
            masks = resize(_clustered(_unit(act), threshold)[None], batch.size)[0]
            found = []
            for begin in range(0, len(masks), chunk):
                some = masks[begin : begin + chunk]
                many = one.take([0] * len(some))
                filled = masked(many.at(spread.expand_as(many.x)), 1 - some)
                shown = probe.ask(many.at(masked(many, some) + filled))[0].value
                found.append(shown - probe.ask(many.at(many.x + filled))[0].value)
                if progress:
                    done = (number * batch.n + sample) * 1000 + 1000 * min(begin + chunk, len(masks)) // len(masks)
                    progress(done, len(probe.layers) * batch.n * 1000)
            gain = (
                torch.cat(found, 1) + scores.value[:, sample, None]
                if found
                else scores.value.new_zeros(len(scores.value), 0)
            )
            total = masks.sum(0).to(gain)
            made = torch.einsum("ki,ithw->kthw", gain, masks.to(gain))
            rows.append(torch.where(total > 0, made / total.clamp_min(1e-12), 0))
        maps[layer] = torch.stack(rows, 1)
    return Maps(maps, scores, signed=True)


def _unit(act: Tensor) -> Tensor:
    """Each channel of act (c, t, h, w) from 0 to 1; those that are constant are left out."""
    low, high = act.amin((-3, -2, -1), keepdim=True), act.amax((-3, -2, -1), keepdim=True)
    live = (high > low).flatten()
    return ((act - low) / (high - low).clamp_min(torch.finfo(act.dtype).tiny))[live]


def _clustered(units: Tensor, threshold: float) -> Tensor:
    """The sum of each cluster's channels, scaled to 0 .. 1: (clusters, t, h, w)."""
    if not len(units):
        return units
    groups = complete_linkage(units.flatten(1).double(), threshold)
    return _unit(torch.stack([units[group].sum(0) for group in groups]))


def complete_linkage(rows: Tensor, threshold: float) -> list[list[int]]:
    """Clusters of rows (m, d), none of which holds two rows whose cosine distance is above threshold: the two nearest clusters, by
    their farthest members, are joined until none are near enough."""
    unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    apart = 1 - unit @ unit.T
    apart.fill_diagonal_(torch.inf)
    groups: dict[int, list[int]] = {i: [i] for i in range(len(rows))}
    nearest, least = apart.argmin(1), apart.amin(1)
    while len(groups) > 1:
        i = int(least.argmin())
        if least[i] > threshold:
            break
        j = int(nearest[i])
        groups[i] += groups.pop(j)
        farther = torch.maximum(apart[i], apart[j])
        farther[i] = farther[j] = torch.inf
        apart[i], apart[:, i] = farther, farther
        apart[j], apart[:, j] = torch.inf, torch.inf
        least[j] = torch.inf
        stale = (nearest == i) | (nearest == j)
        stale[i] = True
        for row in stale.nonzero().flatten().tolist():
            if row in groups:
                nearest[row], least[row] = apart[row].argmin(), apart[row].amin()
        closer = farther < least
        nearest[closer], least[closer] = i, farther[closer]
    return [sorted(group) for group in sorted(groups.values(), key=min)]


@method
def gscorecam(
    probe: Probe,
    batch: Batch,
    *,
    top: int = 300,
    chunk: int = 32,
    progress: Progress | None = None,
) -> Maps:
    """gScoreCAM:  M = ReLU( sum_c w_c A_c ) over the `top` channels of largest mean gradient,  w = softmax_c( Y(x * H_c) )

    H_c: A_c resized and scaled to 0 .. 1. -> layer -> (k, n, t, h, w), >= 0. Made for CLIP: of its thousands of channels few answer to a text.
    Source: Chen et al. 2022, gScoreCAM: what objects is CLIP looking at?, ACCV.
    Differs: the softmax runs over the chosen channels alone; in the authors' code the others take part with a score of 0, and so
    with a weight that is not small where scores are cosines.
    """
    check_chunk(chunk)
    if top < 1:
        raise BadInput(f"top is {top}; expected 1 or more channels")
    seen = probe(batch)
    k, maps = len(seen.scores.value), {}
    jobs = len(probe.layers) * batch.n * k
    for number, layer in enumerate(probe.layers):
        act, grad = seen.act[layer], seen.grad[layer]
        rows: list[list[Tensor]] = [[] for _ in range(k)]
        for sample in range(batch.n):
            for row in range(k):
                part = grad[row, sample].mean((-3, -2, -1))
                best = part.argsort(descending=True, stable=True)[:top]
                told: Any = None
                if progress:
                    done = (number * batch.n + sample) * k + row
                    told = lambda i, n, done=done: progress(done * n + i, jobs * n)
                value = mask_scores(probe, seen.batch, sample, act[sample, best], chunk=chunk, progress=told)[row]
                weight = value.softmax(0)[None, None, :, None, None, None]
                rows[row].append(combine(weight.to(act), act[sample : sample + 1, best])[0, 0])
        maps[layer] = torch.stack([torch.stack(row) for row in rows])
    return Maps(maps, seen.scores)


__all__ = ["complete_linkage", "gscorecam", "random_masks", "rise", "vitcx"]
