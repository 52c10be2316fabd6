"""The demo's digits once more, read by a small transformer: which methods of attention point where?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.examples.digits import CLASSES, Material, Progress, Row, asked, chance, threads, train
from torchloupe.methods.registry import METHODS
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Truth

WIDTH, HEADS, DEPTH, GRID = 64, 4, 3, 8
LAYER = f"blocks.{DEPTH - 1}.norm1"
STEPS = 1500


class Attention(nn.Module):
    """x (n, T, WIDTH) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(WIDTH), Attention(), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Three convolutions of stride 2 cut a picture into tokens; DEPTH blocks; their mean; a linear layer.

    x (n, 3, h, w), at most 64 x 64 -> logits (n, classes).
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, WIDTH)):
            steps += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.patch = nn.Sequential(*steps)
        self.place = nn.Parameter(0.02 * torch.randn(1, WIDTH, GRID, GRID))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        x = (x + self.place[..., : x.shape[-2], : x.shape[-1]]).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def network() -> nn.Module:
    """The transformer, for `torch:torchloupe.examples.transformer:network`."""
    return Transformer()


def trained(made_of: Material, *, seed: int = 0, steps: int = STEPS, progress: Progress | None = None) -> nn.Module:
    """As the demo's CNN is trained, at a lower rate."""
    return train(made_of, seed=seed, steps=steps, progress=progress, make=network, rate=3e-3)


def subject(model: nn.Module) -> Subject:
    """The transformer with the names of its classes and its default layer."""
    return Subject(model, layers=(LAYER,), spec="torch:torchloupe.examples.transformer:network", classes=CLASSES)


ASKED: dict[str, dict[str, Any]] = {
    "gradcam": {},
    "gradcam libra": {"libra": True},
    "layercam": {},
    "layercam libra": {"libra": True},
    "hirescam": {},
    "hirescam libra": {"libra": True},
    "gradient_x_input": {},
    "gradient_x_input libra": {"libra": True},
    "attention": {},
    "rollout": {},
    "gradient_x_attention": {},
    "chefer": {},
    "legrad": {},
    "legrad all blocks": {"blocks": 0},
    "lrp": {},
    "attnlrp": {},
    "maskclip": {},
}
"""What the table asks, with the options of each."""


def measure(model: nn.Module, batch: Batch, progress: Progress | None = None) -> list[Row]:
    """The methods of ASKED on these questions; the first row is chance."""
    rows = [Row.of("chance", "", chance(batch), batch)]
    with threads(1):
        for name, options in ASKED.items():
            fn: Callable[..., Maps] = partial(METHODS[name.split()[0]], **options)
            where = INPUT if name.startswith("gradient_x_input") else LAYER
            rows += asked(name, fn, Probe(subject(model), (where,), Truth(CLASSES)), batch)
            if progress:
                progress()
    return rows
