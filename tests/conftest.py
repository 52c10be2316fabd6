"""Set-up that the tests need and the package does not."""

from __future__ import annotations

import torch

torch.set_num_threads(1)  # two workers of pytest share two cores


def load_torchvision() -> None:
    """torchvision's wheel is built for CUDA; beside a CPU torch its operators are missing and its import fails. Their
    schemas are enough for what the tests run."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    load_torchvision.library = library  # type: ignore[attr-defined]


load_torchvision()
