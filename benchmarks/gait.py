"""Gait: all listed layers of a sequence against one forward and backward; a gallery against the bare forward.

The first is CPU time and memory (what torch allocates) of Grad-CAM at every layer of the numbered table, for one sequence of
30 frames, as a ratio to forward + backward of the same model. The second is CPU time of embed_gallery, files included, as a
ratio to the forwards alone of sequences that are already in memory.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import yaml
from measure import allocated, cpu_times, table

from torchloupe.examples.walkers import write_tree
from torchloupe.gait import embed_gallery
from torchloupe.methods.registry import named
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.sources.opengait import example, gait, pick_layers
from torchloupe.sources.sequences import sequences
from torchloupe.targets.retrieval import Gallery, Nearest

BINS = [16, 8, 4, 2, 1]
GLN = {
    "model": "GLN",
    "in_channels": [1, 32, 64, 128],
    "bin_num": BINS,
    "lateral_dim": 256,
    "hidden_dim": 256,
    "class_num": 74,
    "SeparateFCs": {"in_channels": 256, "out_channels": 256, "parts_num": 93},
}
MODELS: dict[str, tuple[dict, str]] = {
    "gaitset": (
        {
            "model": "GaitSet",
            "in_channels": [1, 32, 64, 128],
            "bin_num": BINS,
            "SeparateFCs": {"in_channels": 128, "out_channels": 256, "parts_num": 62},
        },
        "1 3 6 8 11 13 15 17 20 22",
    ),
    "gaitpart": (
        {
            "model": "GaitPart",
            "bin_num": [16],
            "backbone_cfg": {"layers_cfg": ["BC-32", "BC-32", "M", "FC-64-2", "FC-64-2", "M", "FC-128-3", "FC-128-3"]},
            "SeparateFCs": {"in_channels": 128, "out_channels": 128, "parts_num": 16},
        },
        "1 3 6 8 11 13",
    ),
    "gaitgl": ({"model": "GaitGL", "channels": [32, 64, 128], "class_num": 74}, "1 3 5 6 8 9 10 11"),
    "gaitbase": (
        {
            "model": "Baseline",
            "bin_num": [16],
            "backbone_cfg": {
                "type": "ResNet9",
                "channels": [64, 128, 256, 512],
                "layers": [1, 1, 1, 1],
                "strides": [1, 2, 2, 1],
                "maxpool": False,
            },
            "SeparateFCs": {"in_channels": 512, "out_channels": 256, "parts_num": 16},
            "SeparateBNNecks": {"class_num": 74, "in_channels": 256, "parts_num": 16},
        },
        "1 5 8 10 13 17 20 24 27",
    ),
    "gln_p1": ({**GLN, "Lateral_pretraining": True}, "1 3 5 7 9 11 13 15 17 19 26 29"),
    "gln_p2": ({**GLN, "Lateral_pretraining": False}, "1 3 5 7 9 11 13 15 17 19 26 29"),
}


def model(name: str) -> Subject:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump({"model_cfg": MODELS[name][0]}))
        return gait(file, device="cpu")


def jobs(name: str, frames: int) -> dict:
    subject = model(name)
    batch: Batch = example(subject.notes["config"], frames)
    with torch.no_grad():
        item = subject.output(batch)
    gallery = Gallery(item + 0.1 * torch.randn_like(item), ("x-nm-01-000",), ("x",))
    probe = Probe(subject, pick_layers(subject, MODELS[name][1].split()), Nearest(gallery))

    def plain() -> None:
        subject.module.zero_grad()
        subject.module(batch.x).sum().backward()

    return {"forward + backward": plain, "all listed layers": lambda: named("gradcam")(probe, batch)}


def gallery_jobs(folder: Path, count: int, frames: int) -> dict:
    subject = model("gaitset")
    views = tuple(f"{18 * i:03d}" for i in range(10))
    write_tree(folder, range(max(1, count // 10)), ("nm-01",), views, frames=frames)
    walks = sequences(folder)
    batches = [subject.prepare(walk).x for walk in walks]

    def plain() -> None:
        with torch.no_grad():
            for x in batches:
                subject.module(x)

    return {"forwards alone": plain, "embed_gallery": lambda: embed_gallery(subject, walks)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [
        (
            "model",
            "layers",
            "CPU s, forward + backward",
            "CPU s, all layers",
            "ratio",
            "MiB",
            "MiB, all layers",
            "ratio",
        )
    ]
    for name in given.models:
        contenders = jobs(name, given.frames)
        times = cpu_times(contenders, given.rounds)
        memory = [allocated(run) for run in contenders.values()]
        first, second = times["forward + backward"], times["all listed layers"]
        count = str(len(MODELS[name][1].split()))
        numbers = (
            f"{first:.2f}",
            f"{second:.2f}",
            f"{second / first:.2f}",
            *(f"{one:.0f}" for one in memory),
            f"{memory[1] / memory[0]:.2f}",
        )
        rows.append((name, count, *numbers))
        print(table(rows[:1] + rows[-1:]), flush=True)
    print(table(rows), flush=True)
    if given.sequences:
        with tempfile.TemporaryDirectory() as folder:
            times = cpu_times(gallery_jobs(Path(folder), given.sequences, given.frames), 1)
        first, second = times["forwards alone"], times["embed_gallery"]
        print(f"\n{given.sequences} sequences: forwards {first:.1f} CPU s, gallery {second:.1f} CPU s, ", end="")
        print(f"ratio {second / first:.3f}")


if __name__ == "__main__":
    main()
