"""Heatmaps beside grad-cam, torchcam and captum, in the same run, as ratios of CPU time.

ResNet-50: 8 pictures of 224 x 224; ResNet-18: one picture of 128 x 128. Random weights. 1.00 = one forward with a full
backward. Run with: make bench, or python benchmarks/cam.py [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from measure import cpu_times, grown, peak_memory, table  # noqa: E402

import torchloupe as loupe  # noqa: E402
from torchloupe.sources import patches  # noqa: E402

torch.set_num_threads(1)
torchvision = patches.imported("torchvision")

SIX = ("gradcam", "gradcam_pp", "xgradcam", "layercam", "eigencam", "eigengradcam")
STAGES = ("layer1", "layer2", "layer3", "layer4")
Job = Callable[[], Any]


def calibrated(net: torch.nn.Module, size: int) -> torch.nn.Module:
    """Random weights with BatchNorm statistics of real photographs, so that activations look like activations."""
    from skimage import data
    from skimage.transform import resize

    shots = [
        resize(picture, (size, size)) for picture in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ]
    x = torch.tensor(np.stack(shots)).permute(0, 3, 1, 2).float()
    net.train()
    with torch.no_grad():
        for _ in range(10):
            net((x - 0.45) / 0.225)
    return net.eval()


def pictures(count: int, size: int) -> torch.Tensor:
    """Normalised photographs, mirrored and rolled to as many as asked for."""
    from skimage import data
    from skimage.transform import resize

    shots = [
        resize(picture, (size, size)) for picture in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    ]
    x = torch.tensor(np.stack(shots)).permute(0, 3, 1, 2).float()
    return torch.cat([(x - 0.45) / 0.225, (x.flip(3) - 0.45) / 0.225])[:count].contiguous()


def peers(net: torch.nn.Module, x: torch.Tensor) -> tuple[Callable[..., Any], Callable[..., Any], Job]:
    """(grad-cam by name and layers, torchcam's Grad-CAM by layers and classes, captum's Grad-CAM)."""
    import pytorch_grad_cam as pgc
    from captum.attr import LayerGradCam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM

    classes = net(x).argmax(1).tolist()
    named = {
        "gradcam": pgc.GradCAM,
        "gradcam_pp": pgc.GradCAMPlusPlus,
        "xgradcam": pgc.XGradCAM,
        "layercam": pgc.LayerCAM,
    }
    named |= {
        "eigencam": pgc.EigenCAM,
        "eigengradcam": pgc.EigenGradCAM,
        "scorecam": pgc.ScoreCAM,
        "ablationcam": pgc.AblationCAM,
    }

    def grad_cam(name: str, layers: tuple[str, ...], index: int | None = None) -> Any:
        targets = [ClassifierOutputTarget(c if index is None else index) for c in classes]
        with named[name](net, [net.get_submodule(layer) for layer in layers]) as extract:
            extract.batch_size = 32
            return extract(x, targets)

    def torchcam(layers: tuple[str, ...], asked: tuple[int, ...] | None = None) -> Any:
        with GradCAM(net, list(layers)) as extract:
            scores = net(x)
            for i, one in enumerate(asked or (None,)):
                wanted = classes if one is None else [one] * len(x)
                extract(wanted, scores, retain_graph=asked is not None and i + 1 < len(asked))

    def captum() -> Any:
        return LayerGradCam(net, net.layer4).attribute(x, target=classes, relu_attributions=True)

    return grad_cam, torchcam, captum


def backward(net: torch.nn.Module, x: torch.Tensor) -> Job:
    """One forward with a full backward."""

    def run() -> None:
        net.zero_grad()
        net(x).amax(1).sum().backward()

    return run


def forward(net: torch.nn.Module, x: torch.Tensor) -> Job:
    """One forward."""

    def run() -> None:
        with torch.no_grad():
            net(x)

    return run


def resnet50(rounds: int, count: int) -> list[tuple[str, ...]]:
    """The table's upper half."""
    net, x = calibrated(torchvision.models.resnet50(), 224), pictures(count, 224)
    grad_cam, torchcam, captum = peers(net, x)
    subject, batch = loupe.Subject(net), loupe.Batch(x)
    last, four = loupe.Probe(subject, ("layer4",), loupe.Top()), loupe.Probe(subject, STAGES, loupe.Top())
    ten, classes = loupe.Probe(subject, ("layer4",), loupe.Classes(tuple(range(10)))), tuple(range(10))
    jobs: dict[str, Job] = {
        "base": backward(net, x),
        "forward": forward(net, x),
        "ours/gradcam": lambda: loupe.gradcam(last, batch),
        "pgc/gradcam": lambda: grad_cam("gradcam", ("layer4",)),
        "tcam/gradcam": lambda: torchcam(("layer4",)),
        "captum/gradcam": captum,
        "ours/six": lambda: loupe.cams(last, batch, SIX),
        "pgc/six": lambda: [grad_cam(name, ("layer4",)) for name in SIX],
        "ours/six4": lambda: loupe.cams(four, batch, SIX),
        "pgc/six4": lambda: [grad_cam(name, STAGES) for name in SIX],
        "ours/ten": lambda: loupe.gradcam(ten, batch),
        "pgc/ten": lambda: [grad_cam("gradcam", ("layer4",), c) for c in classes],
        "tcam/ten": lambda: torchcam(("layer4",), classes),
    }
    seconds = cpu_times(jobs, rounds)
    r = {name: f"{value / seconds['base']:.2f}" for name, value in seconds.items()}
    return [
        ("one forward", "-", "-", "-", r["forward"], "-"),
        ("Grad-CAM, last stage", r["pgc/gradcam"], r["tcam/gradcam"], r["captum/gradcam"], r["ours/gradcam"], "0.33"),
        ("six methods, last stage", r["pgc/six"], "-", "-", r["ours/six"], "0.40"),
        ("the same six, four stages", r["pgc/six4"], "-", "-", r["ours/six4"], "0.85"),
        ("ten targets, last stage", r["pgc/ten"], r["tcam/ten"], "-", r["ours/ten"], "0.36"),
    ]


def resnet18(rounds: int) -> list[tuple[str, ...]]:
    """The table's lower half, and how close the fast Score-CAM comes."""
    net, x = calibrated(torchvision.models.resnet18(), 128), pictures(1, 128)
    grad_cam, _, _ = peers(net, x)
    subject, batch = loupe.Subject(net), loupe.Batch(x)
    four, three = loupe.Probe(subject, ("layer4",), loupe.Top()), loupe.Probe(subject, ("layer3",), loupe.Top())
    quick = cpu_times({"base": backward(net, x), "ours/ab4": lambda: loupe.ablationcam(four, batch)}, 20 * rounds)
    slow = cpu_times(
        {
            "ours/ab3": lambda: loupe.ablationcam(three, batch),
            "ours/score": lambda: loupe.scorecam(four, batch),
            "ours/fast": lambda: loupe.scorecam(four, batch, fast=True),
            "pgc/ab4": lambda: grad_cam("ablationcam", ("layer4",)),
            "pgc/ab3": lambda: grad_cam("ablationcam", ("layer3",)),
            "pgc/score": lambda: grad_cam("scorecam", ("layer4",)),
        },
        rounds,
    )
    r = {name: f"{value / quick['base']:.2f}" for name, value in {**quick, **slow}.items()}
    exact, fast = (
        loupe.scorecam(four, batch)["layer4"].flatten(),
        loupe.scorecam(four, batch, fast=True)["layer4"].flatten(),
    )
    alike = torch.corrcoef(torch.stack([exact, fast]))[0, 1]
    return [
        ("Ablation-CAM, ResNet-18, last stage", r["pgc/ab4"], "-", "-", r["ours/ab4"], "0.6"),
        ("Ablation-CAM, ResNet-18, stage 3", r["pgc/ab3"], "-", "-", r["ours/ab3"], "8.5"),
        ("Score-CAM, ResNet-18", r["pgc/score"], "-", "-", r["ours/score"], "95"),
        (f"Score-CAM, fast=True (correlation {alike:.4f})", "-", "-", "-", r["ours/fast"], "45"),
    ]


def memory_job(name: str) -> Job:
    """A job whose peak memory is measured in a process of its own."""
    torch.manual_seed(0)
    net, x = torchvision.models.resnet50().eval(), torch.randn(8, 3, 224, 224)
    forward(net, x[:1])()
    if name == "forward":
        return forward(net, x)
    if name == "backward":
        return backward(net, x)
    if name.startswith("ours"):
        probe = loupe.Probe(loupe.Subject(net), ("layer4",), loupe.Top())
        methods = ("gradcam",) if name == "ours/gradcam" else SIX
        loupe.cams(probe, loupe.Batch(x[:1]), methods)
        return lambda: loupe.cams(probe, loupe.Batch(x), methods)
    grad_cam, torchcam, captum = peers(net, x)
    return {"pgc": lambda: grad_cam("gradcam", ("layer4",)), "tcam": lambda: torchcam(("layer4",)), "captum": captum}[
        name
    ]


def main() -> str:
    """Measures everything and gives the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job")
    options, _ = parser.parse_known_args()
    torch.set_num_threads(2)
    if options.job:
        return str(grown(memory_job(options.job)))
    head = ("work", "grad-cam", "torchcam", "captum", "torchloupe", "asked")
    speed = table([head, *resnet50(options.rounds, 8), *resnet18(options.rounds)])
    names = {"forward": "one forward", "ours/gradcam": "torchloupe, Grad-CAM", "ours/six": "torchloupe, six methods"}
    names |= {"backward": "forward + backward", "pgc": "grad-cam", "tcam": "torchcam", "captum": "captum"}
    memory = [(label, f"{peak_memory(Path(__file__), job):.0f}") for job, label in names.items()]
    return f"{speed}\n\n{table([('ResNet-50, 8 pictures, last stage', 'MiB at the peak'), *memory])}"


if __name__ == "__main__":
    print(main())
