"""RoIAlign for a torchvision that was built for another torch, and so lacks its compiled operators."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor


def roi_align(
    x: Tensor, boxes: Tensor, scale: float, rows: int, columns: int, samples: int = -1, aligned: bool = False
) -> Tensor:
    """Mean of bilinear samples in every cell of a grid over a box: x (n, c, h, w), boxes (k, 5) -> (k, c, rows, columns).

    boxes: number of the picture, x1, y1, x2, y2, times scale. samples: a cell's samples a side; below 1: as many as it
    has pixels. aligned: pixel centres lie at .5. The samples form a grid and bilinear weights are products, so that a
    box is (rows, h) @ x @ (w, columns). No gradient goes to the boxes.
    Source: He et al. 2017, Mask R-CNN, ICCV, arXiv:1703.06870.
    """
    with torch.no_grad():
        left, top, right, bottom = (boxes[:, 1:] * scale - (0.5 if aligned else 0.0)).T
        sides = ((top, bottom, rows, x.shape[2]), (left, right, columns, x.shape[3]))
        down, across = (_weights(a, b, cells, size, samples, aligned).to(x.dtype) for a, b, cells, size in sides)
    return down[:, None] @ x[boxes[:, 0].long()] @ across[:, None].mT


def _weights(start: Tensor, stop: Tensor, cells: int, size: int, samples: int, aligned: bool) -> Tensor:
    """(k, cells, size): how much of each pixel of a line goes into each cell of each box."""
    pixel = torch.arange(size, device=start.device, dtype=torch.float64)
    made = []
    for begin, end in zip(start.tolist(), stop.tolist(), strict=True):
        length = end - begin if aligned else max(end - begin, 1.0)
        count = samples if samples > 0 else -int(-length // cells)
        offsets = (torch.arange(count, device=pixel.device, dtype=torch.float64) + 0.5) / max(count, 1)
        cell = torch.arange(cells, device=pixel.device, dtype=torch.float64)[:, None]
        place = begin + (cell + offsets) * length / cells
        inside = ((place >= -1) & (place <= size))[..., None]
        hat = (1 - (place.clamp(0, size - 1)[..., None] - pixel).abs()).clamp(min=0) * inside
        made.append(hat.sum(1) / max(count, 1))
    return torch.stack(made) if made else pixel.new_zeros(0, cells, size)


@contextmanager
def roi_align_here() -> Iterator[None]:
    """torchvision's RoIAlign runs as `roi_align` inside, where its compiled operator is absent; as it was afterwards.

    Its own way out compiles, with a C++ compiler, a graph that holds gigabytes for each frame.
    """
    home, extension = sys.modules.get("torchvision.ops.roi_align"), sys.modules.get("torchvision.extension")
    if home is None or extension is None or extension._has_ops():
        yield
        return
    with patch.object(home, "_roi_align", roi_align):
        yield
