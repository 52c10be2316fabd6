"""Methods on the input: integrated gradients along any path, SmoothGrad."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.axes import C
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.cam import noisy
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe

TOLERANCE, SMALL = 0.05, 1e-12
Path = Callable[[Tensor, int], Iterator[tuple[Tensor, Tensor]]]


def quadrature(steps: int, rule: str = "midpoint") -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]; the weights sum to 1.

    rule: "midpoint", "gauss-legendre", or "left" (Riemann sum from the start, as PoseIG's template).
    """
    if steps < 1:
        raise BadInput(f"steps is {steps}; expected 1 or more")
    if rule == "midpoint":
        return [(i + 0.5) / steps for i in range(steps)], [1 / steps] * steps
    if rule == "left":
        return [i / steps for i in range(steps)], [1 / steps] * steps
    if rule == "gauss-legendre":
        nodes, weight = np.polynomial.legendre.leggauss(steps)
        return ((nodes + 1) / 2).tolist(), (weight / 2).tolist()
    raise BadInput(f"no quadrature {rule!r}; expected midpoint, gauss-legendre or left")


def straight(baseline: float | Tensor = 0.0, rule: str = "midpoint") -> Path:
    """The straight line from a baseline to x, as (point, step)s whose steps sum to x - baseline.

    baseline: a value in the model's input space (0 = the mean picture of a normalised input), or a tensor like x.
    """

    def path(x: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        start = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
        way = x - start
        for node, weight in zip(*quadrature(steps, rule), strict=True):
            yield start + way * node, way * weight

    return path


@method
def integrated_gradients(
    probe: Probe, batch: Batch, *, path: Path | None = None, steps: int = 32, quadrature: str = "midpoint"
) -> Maps:
    """Integrated gradients:  M = sum_c integral dY/dx_c(gamma(a)) gamma'(a) da  along a path gamma from a baseline to x

    -> INPUT -> (k, n, t, h, w), signed. notes["completeness_residual"] (k, n) is sum(M) - (Y(x) - Y(baseline)), which is 0
    for an exact integral; above 5 % of that difference a warning says so.
    path: (x, steps) -> (point, step)s; None = straight from 0 with the given quadrature (midpoint or gauss-legendre).
    Source: Sundararajan et al. 2017, Axiomatic attribution for deep networks, ICML, arXiv:1703.01365.
    """
    probe = probe.at(INPUT)
    scores, batch = probe.ask(batch)
    x = batch.x.detach()
    walk = path or straight(rule=quadrature)
    total: Tensor | float = 0.0
    start = x.clone()
    for point, step in walk(x, steps):
        grad = probe(batch.at(point)).grad[INPUT]
        total = total + grad * batch.layout.canonical([step], batch.n).to(grad)
        start = start - step
    found = torch.as_tensor(total).sum(C)
    at_start, _ = probe.ask(batch.at(start))
    rise = (scores.value - at_start.value).to(found)
    gap = found.sum((-3, -2, -1)) - rise
    share = gap.abs() / torch.maximum(rise.abs(), 0.01 * found.abs().sum((-3, -2, -1))).clamp_min(SMALL)
    if (share > TOLERANCE).any():
        k, i = divmod(int(share.argmax()), batch.n)
        text = (
            f"integrated_gradients: the map for {scores.labels[k][i]} of {batch.ids[i]} sums to {float(share[k, i]):.0%} more or "
            f"less than the score changes along the path; take more than {steps} steps"
        )
        warnings.warn(text, LoupeWarning, stacklevel=3)
    return Maps({INPUT: found}, scores, signed=True, notes={"completeness_residual": gap})


@method
def gradient_x_input(probe: Probe, batch: Batch) -> Maps:
    """Gradient x input:  M = sum_c dY/dx_c * x_c

    -> INPUT -> (k, n, t, h, w), signed, in the space in which the model takes its input.
    Source: Shrikumar et al. 2016, Not just a black box, arXiv:1605.01713.
    """
    probe = probe.at(INPUT)
    seen = probe(batch)
    return Maps({INPUT: (seen.grad[INPUT] * seen.act[INPUT]).sum(C)}, seen.scores, signed=True)


@method
def smoothgrad(probe: Probe, batch: Batch, *, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Maps:
    """SmoothGrad:  M = sum_c mean_i dY/dx_c(x + e_i),  e_i ~ N(0, (noise * (max x - min x))^2)

    -> INPUT -> (k, n, t, h, w), signed; noise 0 is the plain gradient.
    Source: Smilkov et al. 2017, SmoothGrad, arXiv:1706.03825.
    """
    probe = probe.at(INPUT)
    if samples < 1:
        raise BadInput(f"samples is {samples}; expected 1 or more")
    scores, batch = probe.ask(batch)
    total: Any = 0.0
    for x in noisy(batch, samples, noise, seed):
        total = total + probe(batch.at(x)).grad[INPUT].sum(C) / samples
    return Maps({INPUT: total}, scores, signed=True)


@method
def gradient_shap(
    probe: Probe, batch: Batch, *, samples: int = 25, noise: float = 0.0, seed: int = 0, baselines: Tensor | None = None
) -> Maps:
    """Expected gradients (GradientSHAP):  M = sum_c mean_i (x_i - b_i) * dY/dx_c( b_i + a_i (x_i - b_i) ),  a_i ~ U(0, 1)

    x_i = x + e_i, e_i ~ N(0, (noise * (max x - min x))^2); b_i: drawn from baselines (m, ...), each as one sample is for the model;
    None: 0, the mean picture of a normalised input. The same a_i, b_i and noise for every sample.
    -> INPUT -> (k, n, t, h, w), signed. notes["completeness_residual"] (k, n) is sum(M) - (Y(x) - mean_i Y(b_i)), 0 in the mean over many samples.
    Source: Erion et al. 2021, Improving performance of deep learning models with axiomatic attribution priors and expected gradients,
    Nature Machine Intelligence, arXiv:1906.10670; Lundberg and Lee 2017, arXiv:1705.07874.
    """
    probe = probe.at(INPUT)
    if samples < 1 or noise < 0:
        raise BadInput(f"samples {samples}, noise {noise}: expected 1 or more, and 0 or more")
    scores, batch = probe.ask(batch)
    x = batch.x.detach()
    shape = batch.take([0]).x.shape
    pool = torch.zeros(1, *shape) if baselines is None else torch.as_tensor(baselines).reshape(-1, *shape)
    generator = torch.Generator().manual_seed(seed)
    axis = batch.layout.axis("n")
    spans = torch.stack([part.max() - part.min() for part in x.split(1, axis)])
    spans = spans.view([-1 if i == axis else 1 for i in range(x.ndim)])
    total: Any = 0.0
    from_baselines: Any = 0.0
    for _ in range(samples):
        share = float(torch.rand((), generator=generator))
        start = pool[int(torch.randint(len(pool), (), generator=generator))].to(x).expand_as(x)
        moved = x + noise * spans * torch.randn(shape, generator=generator).to(x) if noise else x
        way = moved - start
        grad = probe(batch.at(start + share * way)).grad[INPUT]
        total = total + (grad * batch.layout.canonical([way], batch.n).to(grad)).sum(C) / samples
        from_baselines = from_baselines + probe.ask(batch.at(start.clone()))[0].value / samples
    gap = total.sum((-3, -2, -1)) - (scores.value - from_baselines).to(total)
    return Maps({INPUT: total}, scores, signed=True, notes={"completeness_residual": gap})
