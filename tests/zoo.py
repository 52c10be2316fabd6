"""A dozen tiny float64 networks, one for each layout trap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Classes

D = torch.float64


class Plain(nn.Module):
    """Convolutions with in-place ReLUs right behind, a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.two = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).mean((2, 3)))


class Residual(nn.Module):
    """In-place addition and one ReLU that runs twice, as in torchvision's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.stem(x)
        out = self.relu(self.bn1(self.conv1(identity)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.head(self.relu(out).mean((2, 3)))


class Concatenated(nn.Module):
    """DenseNet in small: every layer's output goes on beside what was there."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.last = nn.Conv2d(15, 6, 3, padding=1, stride=2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        return self.head(torch.tanh(self.last(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = (
            nn.LayerNorm(width),
            Attention(width),
            nn.LayerNorm(width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + F.gelu(self.mlp(self.norm2(x)))


class Tokens(nn.Module):
    """A ViT in small: class token, registers, classification on the class token."""

    def __init__(self, extra: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, extra, 8))
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class ChannelsLast(nn.Module):
    """Swin and ConvNeXt style: channels at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.norm, self.mlp, self.out = nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        x = self.out(x + F.gelu(self.mlp(self.norm(x))))
        return self.head(x.mean((1, 2)))


class Returns(nn.Module):
    """A stage that returns a tuple and a model that returns a dictionary."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            y = self.conv(x)
            return y, {"square": y**2}

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.head = Returns.Stage(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        y, more = self.stage(x)
        return {"features": y, "logits": self.head((y.relu() + more["square"]).mean((2, 3)))}


class TwoInputs(nn.Module):
    """A second input beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(4, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, facts: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)) * self.side(facts))


class Frames(nn.Module):
    """Silhouettes: frames folded into the batch, time strided by a third, pooled over time, strips, scales of strips."""

    class Focal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.conv(strip) for strip in x.split(x.shape[2] // 4, 2)], 2)

    def __init__(self) -> None:
        super().__init__()
        self.b1 = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(inplace=True), nn.MaxPool2d(2))
        self.b2 = Frames.Focal()
        self.lta = nn.Conv3d(6, 6, (3, 1, 1), stride=(3, 1, 1))
        self.stack = nn.Identity()
        self.post, self.hpp = nn.Identity(), nn.Identity()
        self.fc = nn.Linear(6, 5)

    def forward(self, sils: Tensor) -> Tensor:
        n = sils.shape[0]
        y = self.b2(self.b1(rearrange(sils, "n t h w -> (n t) 1 h w")))
        y = self.lta(rearrange(y, "(n t) c h w -> n c t h w", n=n))
        y = self.stack(torch.cat([y, y.relu()], 3))
        y = self.post(y[:, :, :, : y.shape[3] // 2].amax(2))
        parts = [y.reshape(*y.shape[:2], q, -1) for q in (4, 2, 1)]
        strips = self.hpp(torch.cat([part.mean(-1) + part.amax(-1) for part in parts], -1))
        return self.fc(strips.mean(-1))


class Video(nn.Module):
    """Three-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, padding=1, stride=(2, 2, 2))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3, 4)))


class Heatmaps(nn.Module):
    """A pose estimator: a heatmap a joint."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.final_layer = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.final_layer(torch.tanh(self.stem(x)))


class Boxes(nn.Module):
    """A detector in small: scores and boxes of fixed places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.score, self.box = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.stem(x))
        return self.score(y).flatten(2).transpose(1, 2), self.box(y).flatten(2).transpose(1, 2)


class Windows(nn.Module):
    """A layer that runs on 4 x 4 windows of the picture, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(self.stem(x), "n c (a h) (b w) -> (n a b) (h w) c", h=4, w=4)
        return self.head(torch.tanh(rearrange(self.inside(y), "(n s) p c -> n (s p) c", n=len(x))).mean(1))


@dataclass(frozen=True)
class Peaks:
    """One question a joint: the soft maximum of its heatmap."""

    joints: tuple[int, ...] = (0, 2)

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        value = output[:, list(self.joints)].flatten(2).logsumexp(2).T
        return Scores(value, tuple(tuple(f"joint {j}" for _ in batch.ids) for j in self.joints))


@dataclass(frozen=True)
class Detections:
    """One question a place: its best class score."""

    places: tuple[int, ...] = (0, 5)

    def __call__(self, output: Any, batch: Batch) -> Scores:
        value = output[:, list(self.places)].logsumexp(2).T
        return Scores(value, tuple(tuple(f"place {p}" for _ in batch.ids) for p in self.places))


@dataclass(frozen=True)
class Case:
    """A network of the zoo, the layers to probe, and what their canonical shapes must be."""

    name: str
    make: Callable[[], nn.Module]
    shapes: dict[str, tuple[int, ...]]
    x: tuple[int, ...] = (2, 3, 12, 8)
    layouts: dict[str, Layout] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)
    target: Any = field(default_factory=lambda: Classes((1, 3)))
    extra: Callable[[], dict[str, Tensor]] = dict

    def subject(self) -> Subject:
        torch.manual_seed(1)
        module = self.make().to(D)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.running_mean), nn.init.uniform_(part.running_var, 0.5, 1.5)
        return Subject(module.train(), layout=self.layouts.get)

    def batch(self) -> Batch:
        torch.manual_seed(2)
        return Batch(torch.rand(*self.x, dtype=D), layout=self.layout, extra=self.extra())

    def probe(self) -> Probe:
        return Probe(self.subject(), tuple(self.shapes), self.target)


GAIT = {
    "b1.0": Layout("(n t) c h w"),
    "b2.conv": Layout("(n t) c h w", join="h"),
    "lta": Layout("n c t h w"),
    "stack": Layout("n c t (g h) w", sizes={"g": 2}),
    "post": Layout("n c h w"),
    "hpp": Layout("n c h", bins=(4, 2, 1)),
}
ZOO = [
    Case("in-place", Plain, {"one.0": (2, 4, 1, 12, 8), "one": (2, 4, 1, 12, 8), "two": (2, 6, 1, 6, 4)}),
    Case("reused", Residual, {"bn2": (2, 4, 1, 12, 8), "relu#1": (2, 4, 1, 12, 8), "relu#0": (2, 4, 1, 12, 8)}),
    Case("concatenated", Concatenated, {"layers.1": (2, 4, 1, 12, 8), "last": (2, 6, 1, 6, 4)}),
    Case("tokens", Tokens, {"blocks.0": (2, 8, 1, 3, 2), "blocks.1.norm1": (2, 8, 1, 3, 2)}),
    Case("channels last", ChannelsLast, {"norm": (2, 8, 1, 3, 2), "out": (2, 8, 1, 3, 2)}),
    Case("tuples", Returns, {"stage": (2, 6, 1, 6, 4)}),
    Case(
        "two inputs",
        TwoInputs,
        {"conv": (2, 6, 1, 12, 8)},
        extra=lambda: {"facts": torch.rand(2, 4, dtype=D)},
    ),
    Case(
        "frames",
        Frames,
        {
            "b1.0": (2, 4, 9, 16, 12),
            "b2.conv": (2, 6, 9, 8, 6),
            "lta": (2, 6, 3, 8, 6),
            "stack": (2, 12, 3, 8, 6),
            "post": (2, 6, 1, 8, 6),
            "hpp": (2, 18, 1, 4, 1),
        },
        x=(2, 9, 16, 12),
        layouts=GAIT,
        layout=Layout("n t h w"),
    ),
    Case("video", Video, {"conv": (2, 6, 2, 6, 4)}, x=(2, 3, 4, 12, 8), layout=Layout("n c t h w")),
    Case(
        "windows",
        Windows,
        {"inside": (2, 8, 1, 12, 8)},
        layouts={"inside": Layout("(n a b) (h w) c -> n c 1 (a h) (b w)", sizes={"a": 3, "b": 2, "h": 4})},
    ),
    Case("heatmaps", Heatmaps, {"stem": (2, 8, 1, 6, 4), "final_layer": (2, 4, 1, 6, 4)}, target=Peaks()),
    Case("boxes", Boxes, {"stem": (2, 6, 1, 6, 4)}, target=Detections()),
]
