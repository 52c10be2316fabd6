from __future__ import annotations

import math

import torch

from torchloupe.sources.operators import roi_align


def test_roi_align_against_loops():
    """Each cell is the mean of as many bilinear samples a side as it has pixels; the border is held."""
    torch.manual_seed(0)
    x = torch.rand(2, 1, 7, 6, dtype=torch.float64)
    boxes = [(1, 0.4, 1.2, 5.3, 6.8), (0, 0.0, 0.0, 6.0, 7.0), (0, 2.0, 2.0, 2.1, 2.2)]
    got = roi_align(x, torch.tensor(boxes, dtype=torch.float64), 1.0, 3, 2)

    def sample(picture: int, y: float, column: float) -> float:
        y, column = min(max(y, 0.0), 6.0), min(max(column, 0.0), 5.0)
        total = 0.0
        for i in range(7):
            for j in range(6):
                total += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(column - j)) * float(x[picture, 0, i, j])
        return total

    for k, (picture, left, top, right, bottom) in enumerate(boxes):
        high, wide = max(bottom - top, 1.0) / 3, max(right - left, 1.0) / 2
        down, across = math.ceil(high), math.ceil(wide)
        for i in range(3):
            for j in range(2):
                values = [
                    sample(picture, top + (i + (a + 0.5) / down) * high, left + (j + (b + 0.5) / across) * wide)
                    for a in range(down)
                    for b in range(across)
                ]
                assert abs(float(got[k, 0, i, j]) - sum(values) / len(values)) < 1e-12
