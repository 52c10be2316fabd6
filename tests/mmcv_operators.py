"""Stand-ins for compiled operators, so that detectors run beside mmcv-lite and a torchvision without them: nms in torch."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import torch
from torch import Tensor

from torchloupe.sources.patches import deformable_attention


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression: numbers of the boxes that stay, the best first."""
    order = scores.argsort(descending=True)
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    keep = []
    while len(order):
        best, order = order[0], order[1:]
        keep.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[order, :2])
        other = torch.minimum(boxes[best, 2:], boxes[order, 2:])
        both = (other - corner + offset).clamp_min(0).prod(1)
        order = order[both / (area[best] + area[order] - both) <= iou_threshold]
    return torch.stack(keep) if keep else order


def install() -> None:
    """Puts the stand-in where mmcv looks for its compiled module, unless that one is there."""
    if "mmcv._ext" in sys.modules:
        return
    stand_in = types.ModuleType("mmcv._ext")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    stand_in.nms = nms  # type: ignore[attr-defined]

    def operator(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise NotImplementedError(f"mmcv's operator {name} is not built")

        return missing

    stand_in.__getattr__ = operator  # type: ignore[method-assign]
    sys.modules["mmcv._ext"] = stand_in
    deformable_attention()
