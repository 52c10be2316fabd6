"""A small network for scikit-learn's digits, before and after training: what `loupe demo embed` looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from torchloupe.errors import need
from torchloupe.probe import Batch, Subject


@dataclass(frozen=True)
class Digits:
    """Half of scikit-learn's 1797 digits each: pictures (n, 8, 8) uint8 from 0 to 255, labels (n,)."""

    trained_on: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]


def digits() -> Digits:
    """Every second digit to train on, the others held out."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise need("scikit-learn", "demo") from None
    found = load_digits()
    pictures = (found.images * 255 / 16).astype(np.uint8)
    return Digits((pictures[::2], found.target[::2]), (pictures[1::2], found.target[1::2]))


def write_folder(pictures: np.ndarray, labels: np.ndarray, root: Path) -> None:
    """One PNG a digit: root / label / number.png."""
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:04d}.png")


def network(seed: int = 0) -> nn.Sequential:
    """(n, 1, 8, 8) -> (n, 10): two convolutions, 64 features, a head."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


FEATURES = "5"
MEAN, STD = 0.3, 0.37


def normalised(pictures: np.ndarray) -> Tensor:
    """(n, 8, 8) uint8 -> (n, 1, 8, 8), as the network takes them."""
    return (torch.from_numpy(pictures)[:, None].float() / 255 - MEAN) / STD


def look_at(module: nn.Module) -> Subject:
    """The network as a subject that takes 8 x 8 grey pictures; its layer is the 64 features before the head."""

    def prepare(images: Sequence[Any], ids: Sequence[str] = ()) -> Batch:
        pictures = np.stack([np.asarray(image.convert("L")) for image in images])
        return Batch(normalised(pictures), ids=tuple(ids))

    return Subject(module, layers=(FEATURES,), spec="digits", prepare=prepare)


def train(module: nn.Module, pictures: np.ndarray, labels: np.ndarray, *, epochs: int = 40, seed: int = 0) -> nn.Module:
    """The module, trained by cross-entropy (Adam, 1e-3, batches of 64)."""
    x, y = normalised(pictures), torch.from_numpy(labels)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    return module.eval()
