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

from torchloupe.data.bodies import Crop
from torchloupe.methods.blur import blur, blurred
from torchloupe.methods.poseig import poseig
from torchloupe.networks.pose import PoseResNet
from torchloupe.networks.pose.hrnet import PoseHRNet, Stage
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.runs.pose.attribution import PLACES, Attribution
from torchloupe.runs.pose.study import chosen, load
from torchloupe.runs.pose.study import study as study_of
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


def step_ratio(probe: Probe, batch: Batch, steps: int, rounds: int) -> float:
    """CPU time of one more step over that of one bare pass, measured in turn and summed over the rounds."""
    one_pass(probe, batch)
    more = bare = less = 0.0
    for _ in range(rounds):
        more += timed(lambda: poseig(probe, batch, path=blur(), steps=2 * steps))[0]
        bare += timed(lambda: [one_pass(probe, batch) for _ in range(steps)])[0]
        less += timed(lambda: poseig(probe, batch, path=blur(), steps=steps))[0]
    return (more - less) / bare


def by_places(probe: Probe, batches: list[Batch], crop: Crop) -> None:
    """Mean residual by where on the path the gradients are taken, and by their number."""
    counts = (8, 16, 32, 50)
    print(f"\n{'mean residual':24}" + "".join(f"{count:>10}" for count in counts))
    for places in ("reference", *PLACES):
        row = []
        for count in counts:
            gaps = []
            for batch in batches:
                if places == "reference":
                    found = poseig(probe, batch, path=blur(rule="left", bend=1), steps=count)
                else:
                    found = Attribution(places=places, steps=count).maps(probe, batch, crop)
                gaps.append(found.notes["completeness_residual"].abs().flatten())
            row.append(float(torch.cat(gaps).mean()))
        print(f"{places:24}" + "".join(f"{value:10.4f}" for value in row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("--samples", type=int, default=6)
    given = parser.parse_args()
    config = experiment(given.demo / "figures.yaml")
    options = Options(weights=given.demo / "trained.pth", device="cpu")
    study = study_of(config=config, data=given.demo / "data", options=options)
    net = study.subject.module.eval()
    probe = Probe(study.subject, (INPUT,), Joints())
    folds = (4, 6, 8, 12, 16, 24)
    batches = []
    times: dict[object, list[float]] = {}
    gaps: dict[object, list[Tensor]] = {}
    for id in chosen(study, most=given.samples):
        loaded, _ = load(study, [id])
        assert loaded is not None
        weight = torch.zeros(1, 17)
        weight[0, :VISIBLE] = 1
        truth = {**loaded.batch.truth, "weight": weight}
        batch = Batch(loaded.batch.x, ids=(id,), truth=truth)
        batches.append(batch)
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
    base, wanted = float(np.median(times["template"])), float(torch.cat(gaps["template"]).mean())
    print(f"{'':24}{'CPU s a sample':>15}{'mean residual':>15}{'times faster':>14}")
    print(f"{'template, 50 folds':24}{base:15.2f}{wanted:15.4f}{1:14.1f}")
    for steps in folds:
        seconds, gap = float(np.median(times[steps])), float(torch.cat(gaps[steps]).mean())
        equal = "  <- residual at most the template's" if gap <= wanted else ""
        print(f"{f'poseig, {steps} steps':24}{seconds:15.2f}{gap:15.4f}{base / seconds:14.1f}{equal}")
    by_places(probe, batches, study.crop)
    print(f"\na step against one forward and {VISIBLE} backwards: {step_ratio(probe, batch, 4, 40):.3f} (this network)")
    truth = {"heatmaps": torch.rand(1, 17, 64, 48) ** 8, "weight": weight}
    picture = Batch(torch.randn(1, 3, 256, 192), truth=truth)
    w32 = (Stage(1, (4,) * 2, (32, 64)), Stage(4, (4,) * 3, (32, 64, 128)), Stage(3, (4,) * 4, (32, 64, 128, 256)))
    for name, large in (("HRNet-W32", PoseHRNet(w32)), ("Pose ResNet 50", PoseResNet(50))):
        large.eval().requires_grad_(False)
        one = Probe(Subject(large, kind="pose", read=lambda output: output), (INPUT,), Joints())
        print(f"a step against one forward and {VISIBLE} backwards: {step_ratio(one, picture, 1, 10):.3f} ({name})")
    for steps in (2, 6):
        poseig(one, picture, path=blur(), steps=steps)
        print(f"peak memory after {steps} steps: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
