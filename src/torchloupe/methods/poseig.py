"""Integrated gradients that answer many questions over one path in constant memory, to a stated residual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from torchloupe.errors import BadInput, NoGradient
from torchloupe.methods.blur import blur_curve, scouted
from torchloupe.methods.path import Path
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe


def poseig(
    probe: Probe,
    batch: Batch,
    *,
    path: Path | None = None,
    start: Callable[[Tensor], Tensor] | None = None,
    steps: int = 16,
    tolerance: float | None = None,
    most: int = 256,
    noise: float = 0.0,
    power: int = 1,
    seed: int = 0,
) -> Maps:
    """PoseIG:  M = sum_c ( sum_i dY/dx_c(x_i) * (x_{i+1} - x_i) )^power  along a path; by default the
    blur path from sigma 19 to 0, its points where this sample's scores change

    -> INPUT -> (k, n, 1, h, w), signed, not normalised. Each of `steps` points costs one forward, and one backward a
    question; memory holds one map a question (three for a power above 1), however many steps there are.
    start: the first point of a path whose steps do not sum to x - start exactly, as those of Gauss-Legendre.
    tolerance: double the steps until every residual is at most this, or `most` steps are reached.
    noise: standard deviation of normal noise on the path, as a share of the input's range, sample by sample.
    notes, each (k, n): completeness_residual = sum(M with power 1) - (Y(x) - Y(start)); steps; nan_gradients,
    how many gradient values were not finite and count as 0.
    Source: He et al. 2023, Analyzing and Diagnosing Pose Estimation with Attributions, CVPR; Sundararajan et al. 2017,
    arXiv:1703.01365.
    Differs: signed and unnormalised; noise is drawn once a point, not ten times over.
    """
    if tolerance is not None and tolerance <= 0:
        raise BadInput(f"tolerance is {tolerance}; expected more than 0")
    if batch.layout.pattern != "n c h w":
        raise BadInput(f"PoseIG takes pictures of layout n c h w, found {batch.layout.pattern}")
    scores, batch = probe.ask(batch)
    walk = path or scouted(blur_curve(), probe, batch)
    while True:
        # values that are not finite are looked for only where the sum of all tells that there are any
        for careful in (False, True):
            found, residual, broken = _integral(
                probe, batch, walk, start, steps, scores.value, noise, power, seed, careful
            )
            if bool(found.sum().isfinite()):
                break
        reached = tolerance is None or float(residual.abs().max()) <= tolerance
        if reached or steps * 2 > most:
            break
        steps *= 2
    notes = {
        "completeness_residual": residual,
        "steps": torch.full_like(residual, steps),
        "nan_gradients": broken,
    }
    return Maps({INPUT: found[:, :, None]}, scores, signed=True, notes=notes)


def _integral(
    probe: Probe,
    batch: Batch,
    walk: Path,
    first: Callable[[Tensor], Tensor] | None,
    steps: int,
    at_end: Tensor,
    noise: float,
    power: int,
    seed: int,
    careful: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(maps (k, n, h, w), residuals (k, n), counts of values that are not finite (k, n)).

    careful: gradients that are not finite are counted and left out.
    """
    x = batch.x.detach()
    k, (n, _, h, w) = len(at_end), x.shape
    total = torch.zeros(k, n, h, w) if power == 1 else torch.zeros(k, *x.shape)
    total = total.to(at_end)
    broken = torch.zeros(k, n)
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    start = x.double()
    with probe.asked() as own:
        mine = replace(probe, subject=own, changes=())
        for point, step in walk(x, steps):
            start = start - step
            if noise:
                point = point + spread * torch.randn(x.shape, generator=generator).to(x)
            for row, grad in enumerate(_gradients(mine, batch, point)):
                if careful:
                    fine = grad.isfinite()
                    broken[row] += (~fine).flatten(1).sum(1).cpu()
                    grad = torch.where(fine, grad, 0.0)
                if power == 1:
                    for channel in range(x.shape[1]):
                        total[row].addcmul_(grad[:, channel], step[:, channel])
                else:
                    total[row].addcmul_(grad, step)
    at_start, _ = probe.ask(batch.at(start.to(x.dtype) if first is None else first(x)))
    # completeness holds for the plain sum, whatever power the map is shown in
    residual = total.flatten(2).sum(2, dtype=torch.float64) - (at_end - at_start.value).double()
    return (total if power == 1 else (total**power).sum(2)), residual, broken


def _gradients(probe: Probe, batch: Batch, point: Tensor) -> Iterator[Tensor]:
    x = point.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = probe.subject.output(batch.at(x))
        value, _ = probe.target(output, batch)
    if not value.requires_grad:
        raise NoGradient("the score does not depend on the input")
    for i, row in enumerate(value):
        yield torch.autograd.grad(row.sum(), x, retain_graph=i + 1 < len(value))[0]
