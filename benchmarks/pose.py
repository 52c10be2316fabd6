"""PoseIG against a plain transcription of its template's loop: same network, same pictures, one run, CPU time.

    python benchmarks/pose.py DEMO [--samples 6]

DEMO is the folder that `loupe demo pose` makes: a trained network whose scores change along the path.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe import diagnosis
from torchloupe.methods.blur import blur, blurred
from torchloupe.methods.poseig import poseig
from torchloupe.probe import INPUT, Batch, Probe
from torchloupe.sources.assemble import Options
from torchloupe.sources.hrnet import experiment
from torchloupe.targets.pose import Joints, soft_argmax

VISIBLE = 10
FOLDS = 50


def template(net: nn.Module, x: Tensor, heatmaps: Tensor) -> Tensor:
    """The template's loop: a 31 x 31 kernel twice a fold, one backward a joint and one of all, weights' gradients too."""
    count = heatmaps.shape[1]
    at = torch.arange(31, dtype=torch.float64) - 15
    square = at[:, None] ** 2 + at**2
    kernels = []
    for sigma in np.linspace(19, 0, FOLDS + 1):
        weight = torch.exp(-square / (2 * (sigma + 1e-5) ** 2))
        kernels.append((weight / weight.sum()).float().expand(3, 1, 31, 31))
    wide = nn.functional.pad(x, (15,) * 4, mode="reflect")
    true = soft_argmax(heatmaps)
    total = torch.zeros(1, count, *x.shape[1:])
    for i in range(FOLDS):
        point = nn.functional.conv2d(wide, kernels[i], groups=3).requires_grad_()
        step = nn.functional.conv2d(wide, kernels[i + 1] - kernels[i], groups=3)
        scores = torch.exp(-0.3 * (soft_argmax(net(point)) - true).norm(dim=-1))
        for j in range(count):
            scores[:, j].backward(torch.ones(1), retain_graph=True)
            assert point.grad is not None
            total[:, j] += point.grad * step
            point.grad.zero_()
        scores.backward(torch.ones_like(scores))
    return total.sum(2)


def score_change(net: nn.Module, x: Tensor, heatmaps: Tensor) -> Tensor:
    """s(x) - s(blurred x), (1, joints)."""
    with torch.no_grad():
        true = soft_argmax(heatmaps)
        ends = [torch.exp(-0.3 * (soft_argmax(net(point)) - true).norm(dim=-1)) for point in (x, blurred(x, 19.0))]
    return ends[0] - ends[1]


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds and the result."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def one_pass(probe: Probe, batch: Batch) -> None:
    """One forward and one backward a visible joint, with torch alone."""
    net = probe.subject.module
    x = batch.x.clone().requires_grad_()
    true = soft_argmax(batch.truth["heatmaps"])
    scores = torch.exp(-0.3 * (soft_argmax(net(x)) - true).norm(dim=-1))[0, :VISIBLE]
    for j in range(VISIBLE):
        torch.autograd.grad(scores[j], x, retain_graph=j + 1 < VISIBLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--samples", type=int, default=6)
    given = parser.parse_args()
    config = experiment(given.demo / "figures.yaml")
    options = Options(weights=given.demo / "trained.pth", device="cpu")
    study = diagnosis.study(config=config, data=given.demo / "data", options=options)
    net = study.subject.module.eval()
    probe = Probe(study.subject, (INPUT,), Joints())
    folds = (4, 6, 8, 12, 16, 24)
    times: dict[object, list[float]] = {}
    gaps: dict[object, list[Tensor]] = {}
    for id in diagnosis.chosen(study, most=given.samples):
        loaded, _ = diagnosis.load(study, [id])
        assert loaded is not None
        weight = torch.zeros(1, 17)
        weight[0, :VISIBLE] = 1
        truth = {**loaded.batch.truth, "weight": weight}
        batch = Batch(loaded.batch.x, ids=(id,), truth=truth)
        net.requires_grad_(True)
        seconds, maps = timed(lambda batch=batch: template(net, batch.x, batch.truth["heatmaps"]))
        net.zero_grad()
        change = score_change(net, batch.x, batch.truth["heatmaps"])
        times.setdefault("template", []).append(seconds)
        gaps.setdefault("template", []).append((maps.sum((-2, -1)) - change)[0, :VISIBLE].abs())
        for steps in folds:
            seconds, found = timed(lambda batch=batch, steps=steps: poseig(probe, batch, steps=steps))
            times.setdefault(steps, []).append(seconds)
            gaps.setdefault(steps, []).append(found.notes["completeness_residual"].abs().flatten())
        net.requires_grad_(False)
        for _ in range(3):
            times.setdefault("pass", []).append(
                timed(lambda batch=batch: [one_pass(probe, batch) for _ in range(16)])[0] / 16
            )
            even = timed(lambda batch=batch: poseig(probe, batch, path=blur(), steps=32))[0]
            less = timed(lambda batch=batch: poseig(probe, batch, path=blur(), steps=16))[0]
            times.setdefault("fold", []).append((even - less) / 16)
    base, wanted = float(np.median(times["template"])), float(torch.cat(gaps["template"]).mean())
    print(f"{'':24}{'CPU s a sample':>15}{'mean residual':>15}{'times faster':>14}")
    print(f"{'template, 50 folds':24}{base:15.2f}{wanted:15.4f}{1:14.1f}")
    for steps in folds:
        seconds, gap = float(np.median(times[steps])), float(torch.cat(gaps[steps]).mean())
        equal = "  <- residual at most the template's" if gap <= wanted else ""
        print(f"{f'poseig, {steps} steps':24}{seconds:15.2f}{gap:15.4f}{base / seconds:14.1f}{equal}")
    ratio = float(np.median(times["fold"]) / np.median(times["pass"]))
    print(f"a fold against one forward and {VISIBLE} backwards: {ratio:.3f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
