"""What capturing 20 points of a ResNet-50 costs beside the bare forward: CPU time and memory, interleaved."""

from __future__ import annotations

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from torchloupe.probe import Batch, Subject
from torchloupe.sites import capture
from torchloupe.sources import patches

torch.set_num_threads(1)
timm = patches.imported("timm")

ROUNDS = 9


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Prints the ratios of CPU time, and the bytes that are held beside the captured tensors."""
    torch.manual_seed(0)
    module = timm.create_model("resnet50").eval()
    batch = Batch(torch.randn(8, 3, 224, 224))
    blocks = [f"layer{i}.{j}" for i, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(count)]
    points = [*blocks, "layer1", "layer2", "layer3", "layer4"]
    subject = Subject(module)

    def bare() -> None:
        with torch.no_grad():
            module(batch.x)

    def captured() -> None:
        capture(subject, batch, points)

    bare(), captured()
    seconds: dict[Callable[[], None], list[float]] = {bare: [], captured: []}
    for i in range(ROUNDS):
        for work in (bare, captured) if i % 2 else (captured, bare):
            seconds[work].append(cpu_seconds(work))
    least = min(seconds[captured]) / min(seconds[bare])
    middle = statistics.median(seconds[captured]) / statistics.median(seconds[bare])
    tracemalloc.start()
    seen = capture(subject, batch, points)
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    held = sum(one.raw.untyped_storage().nbytes() for one in seen.values())
    tensors = sum(one.raw.numel() * one.raw.element_size() for one in seen.values())
    print(f"capturing {len(points)} points of resnet50, 8 pictures of 224 x 224, {ROUNDS} rounds")
    print(f"CPU time / bare forward: {least:.3f} by the least of each, {middle:.3f} by the median of each")
    print(
        f"held: {held / 1e6:.1f} MB for {tensors / 1e6:.1f} MB of tensors; Python objects at most {python / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
