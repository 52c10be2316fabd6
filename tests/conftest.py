"""A torchvision whose compiled part does not load (wrong CUDA) gets its operators declared, so that it imports."""

from __future__ import annotations

import re
import sys

import torch

LIBRARIES = []


def _declare(name: str) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    LIBRARIES.append(library)
    signatures = {
        "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    }
    library.define(name + signatures.get(name, "(Tensor x) -> Tensor"))


for _ in range(8):
    try:
        import torchvision  # noqa: F401

        break
    except RuntimeError as error:
        missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
        if not missing:
            raise
        _declare(missing.group(1))
        for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[module]
