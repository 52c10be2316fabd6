"""Right and fast on a GPU? One script, some minutes, that needs torch, torchvision, timm and the package alone.

python benchmarks/gpu.py [--device cuda] [--quick] [--minutes 8] [--out gpu.json]

Contracts of methods on the device and their values beside the CPU's; Grad-CAM and its kin of ResNet-50 and ViT-B/16 as
ratios of one forward with a full backward, in float32, bfloat16 and channels-last; peak memory; a run over a data set
beside the model's own rate. Parts that the minutes do not reach are left out and named. With --device cpu --quick it runs
whole anywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.runs.run import Job, run
from torchloupe.sources import patches
from torchloupe.store.shards import Shards
from torchloupe.testing import check_method

SIX = ("gradcam", "gradcam_pp", "xgradcam", "layercam", "eigencam", "eigengradcam")
CHECKED = ("gradcam", "hirescam", "layercam", "gradient_x_input", "integrated_gradients", "occlusion", "scorecam")
LEAST = 0.9
"""Of the model's own rate, that a run over a data set should reach."""


class Clock:
    """Wall time on the device, and its peak of memory above what was there before."""

    def __init__(self, device: str) -> None:
        self.cuda, self.device = device.startswith("cuda"), device

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, act: Callable[[], object], rounds: int) -> float:
        """Median of so many, after two that warm up."""
        found = []
        for turn in range(rounds + 2):
            self.wait()
            since = time.perf_counter()
            act()
            self.wait()
            if turn > 1:
                found.append(time.perf_counter() - since)
        return statistics.median(found)

    def memory(self, act: Callable[[], object]) -> float | None:
        """MiB at the peak; None off a GPU."""
        if not self.cuda:
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        act()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


def contracts(device: str) -> dict[str, str]:
    """Contracts on a tiny float64 network, and each method's maps beside those of the CPU."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    net.double().eval()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    told = {}
    for name in CHECKED:
        try:
            method, found = getattr(loupe, name), []
            for place in ("cpu", device):
                subject = loupe.Subject(net.to(place))
                layers = (loupe.INPUT,) if name in ("gradient_x_input", "integrated_gradients", "occlusion") else ("3",)
                probe, batch = loupe.Probe(subject, layers, loupe.Top(2)), loupe.Batch(x.to(place))
                found.append(check_method(method, probe, batch).maps[layers[0]].cpu())
            off = float((found[0] - found[1]).abs().max() / found[0].abs().max())
            told[name] = f"ok, {off:.1e} from the CPU" if off < 1e-9 else f"WRONG: {off:.1e} from the CPU"
        except Exception:
            told[name] = "FAILED: " + traceback.format_exc().strip().splitlines()[-1]
    return told


def network(name: str, size: int, device: str) -> nn.Module:
    """A network of timm with random weights and statistics of noise."""
    import timm

    torch.manual_seed(0)
    more: dict[str, Any] = {"img_size": size} if name.startswith("vit") and size != 224 else {}
    net = timm.create_model(name, **more).to(device).train()
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(8, 3, size, size, device=device))
    return net.eval()


def ratios(name: str, layer: str, size: int, count: int, clock: Clock, rounds: int) -> dict[str, Any]:
    """Every way of asking as a ratio of one forward with a full backward of the same kind of numbers."""
    net = network(name, size, clock.device)
    kinds: dict[str, tuple[torch.dtype, torch.memory_format]] = {
        "float32": (torch.float32, torch.contiguous_format),
        "bfloat16": (torch.bfloat16, torch.contiguous_format),
        "channels last": (torch.float32, torch.channels_last),
    }
    found: dict[str, Any] = {}
    for kind, (dtype, order) in kinds.items():
        net.to(dtype=dtype, memory_format=order)  # type: ignore[call-overload]
        x = torch.randn(count, 3, size, size, device=clock.device, dtype=dtype).contiguous(memory_format=order)
        probe = loupe.Probe(loupe.Subject(net), (layer,), loupe.Top(1))
        batch = loupe.Batch(x)

        def full(x: Tensor = x) -> None:
            torch.autograd.grad(net(x).max(1).values.sum(), list(net.parameters()), allow_unused=True)

        def forward(x: Tensor = x) -> None:
            with torch.no_grad():
                net(x)

        acts: Mapping[str, Callable[[], object]] = {
            "forward": forward,
            "Grad-CAM": lambda probe=probe, batch=batch: loupe.gradcam(probe, batch),  # type: ignore[misc]
            "six methods": lambda probe=probe, batch=batch: loupe.cams(probe, batch, SIX),  # type: ignore[misc]
        }
        unit = clock.seconds(full, rounds)
        table: dict[str, Any] = {act: round(clock.seconds(do, rounds) / unit, 3) for act, do in acts.items()}
        table["one forward with a backward, ms"] = round(1e3 * unit, 2)
        table["peak MiB"] = {act: clock.memory(do) for act, do in {"forward and backward": full, **acts}.items()}
        found[kind] = table
    return found


def dataset(name: str, count: int, batch: int, clock: Clock, size: int) -> dict[str, Any]:
    """Grad-CAM over a folder of JPEGs into shards, beside the model alone on tensors that are there already."""
    with tempfile.TemporaryDirectory() as home:
        files = {}
        rng = np.random.default_rng(0)
        for i in range(count):
            small = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
            path = Path(home) / f"{i:05}.jpg"
            small.resize((256, 256), Image.Resampling.BICUBIC).save(path)
            files[path.stem] = str(path)
        ask: dict[str, Any] = {"layers": None, "methods": ["gradcam"], "options": {}, "target": None, "each": False}
        ask |= {"explain": "score", "threshold": 0.0, "aug_smooth": False, "eigen_smooth": False}
        model = {"model": f"timm:{name}", "device": clock.device, "size": (size, size)}
        job = Job("maps", model, {"files": files, "labels": None}, ask)
        work = job.open()
        x = torch.randn(batch, 3, size, size, device=clock.device)
        net = work.subject.module

        def alone() -> None:
            with torch.no_grad():
                net(x)

        own = batch / clock.seconds(alone, 5)
        first = {id: files[id] for id in list(files)[:batch]}  # what is compiled and cached once
        run(Job("maps", model, {"files": first, "labels": None}, ask), Shards(Path(home) / "warm"), batch=batch)
        since = time.perf_counter()
        run(job, Shards(Path(home) / "run"), batch=batch, work=work)
        rate = count / (time.perf_counter() - since)
    return {
        "pictures": count,
        "the model alone, pictures a second": round(own, 1),
        "the run, pictures a second": round(rate, 1),
        "share": round(rate / own, 3),
        f"reaches {LEAST}": rate / own >= LEAST,
    }


def card(device: str) -> dict[str, Any]:
    """What this ran on."""
    about = {"torch": torch.__version__, "python": sys.version.split()[0], "torchloupe": loupe.__version__}
    if device.startswith("cuda"):
        held = torch.cuda.get_device_properties(device)
        return {"card": held.name, "GiB": round(held.total_memory / 2**30, 1), "cuda": torch.version.cuda, **about}
    return {"card": "none (CPU)", "threads": torch.get_num_threads(), **about}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="small networks and pictures: to see that it runs")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    patches.torchvision()
    clock = Clock(asked.device)
    size, count, rounds = (64, 2, 1) if asked.quick else (224, 32, 10)
    nets = [("resnet18", "layer4"), ("vit_tiny_patch16_224", "blocks.10")] if asked.quick else [
        ("resnet50", "layer4"),
        ("vit_base_patch16_224", "blocks.10"),
    ]  # fmt: skip
    parts: dict[str, Callable[[], Any]] = {"contracts": lambda: contracts(asked.device)}
    for name, layer in nets:
        parts[name] = lambda name=name, layer=layer: ratios(name, layer, size, count, clock, rounds)  # type: ignore[misc]
    pictures = 16 if asked.quick else 4000
    parts["data set"] = lambda: dataset(nets[0][0], pictures, 8 if asked.quick else 128, clock, size)
    told: dict[str, Any] = {**card(asked.device), "quick": asked.quick}
    end = time.monotonic() + 60 * asked.minutes
    for part, act in parts.items():
        if time.monotonic() > end:
            told[part] = "left out: no time was left"
        else:
            since = time.monotonic()
            try:
                told[part] = act()
            except Exception:
                told[part] = "FAILED: " + traceback.format_exc()
            told[f"{part}, seconds"] = round(time.monotonic() - since, 1)
        asked.out.write_text(json.dumps(told, indent=1) + "\n")  # what is known so far outlives whatever comes
        print(part, json.dumps(told[part], indent=1), flush=True)
    bad = json.dumps(told)
    return 1 if "FAILED" in bad or "WRONG" in bad else 0


if __name__ == "__main__":
    sys.exit(main())
