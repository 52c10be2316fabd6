"""What nothing gets: a random map, a centred blob, an edge detector, on the same samples."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.axes import Size
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.marks import Heat

BLOB = 0.25


def controls(asking: Asking, sizes: list[Size]) -> dict[str, Heat]:
    """Maps that know nothing of the model:  random SIZE for each size of a map, centre, edges.

    random: white noise at a map's own resolution, drawn from the seed and the sample's own bytes. centre: a Gaussian in the middle,
    sigma a quarter of each side. edges: the magnitude of Sobel's gradient, summed over channels.
    """
    found = {}
    for size in dict.fromkeys(sizes):
        rows = [torch.rand(size, generator=_generator(x, asking.seed), dtype=torch.float64) for x in asking.x]
        label = "x".join(str(side) for side in (size if size[0] > 1 else size[1:]))
        found[f"random {label}"] = torch.stack(rows)
    found["centre"] = blob(asking.batch.size).expand(asking.batch.n, -1, -1, -1)
    found["edges"] = edges(asking.x)
    return {name: Heat(maps[None].expand(asking.k, -1, -1, -1, -1)) for name, maps in found.items()}


def _generator(x: Tensor, seed: int) -> torch.Generator:
    said = hashlib.sha256(x.detach().cpu().float().contiguous().numpy().tobytes() + str(seed).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(said[:7], "big"))


def blob(size: Size) -> Tensor:
    """A Gaussian in the middle of rows and columns (t, h, w), sigma a quarter of each side."""
    t, h, w = size
    row, column = ((torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5 for side in (h, w))
    return torch.exp(-(row[:, None].square() + column.square()) / (2 * BLOB**2)).expand(t, h, w)


def edges(x: Tensor) -> Tensor:
    """Magnitude of Sobel's gradient of each frame, summed over channels:  (n, c, t, h, w) -> (n, t, h, w); edges replicated."""
    n, c, t, h, w = x.shape
    flat = F.pad(x.detach().double().transpose(1, 2).reshape(n * t * c, 1, h, w), (1, 1, 1, 1), mode="replicate")
    sobel = flat.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    found = F.conv2d(flat, torch.stack([sobel, sobel.T])[:, None])
    return found.norm(dim=1).view(n, t, c, h, w).sum(2)
