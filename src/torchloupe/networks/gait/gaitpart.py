"""GaitPart: body parts with short-range temporal attention; and the plain backbone, shared with older baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.networks.gait.blocks import Conv1d, Conv2d, FocalConv2d, FrameWise, SeparateFCs, leaky, pyramid


class Plain(nn.Module):
    """Convolutions in a row, as the configs write them: BC-32 (plain), FC-64-2 (focal, 2^2 strips), M (pooling)."""

    def __init__(self, layers: Sequence[str], inputs: int = 1) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        kernel = 5
        for layer in layers:
            kind, *numbers = layer.split("-")
            if kind == "M":
                parts.append(nn.MaxPool2d(2, 2))
                continue
            if kind == "BC":
                conv: nn.Module = Conv2d(inputs, int(numbers[0]), kernel, padding=kernel // 2)
            elif kind == "FC":
                conv = FocalConv2d(inputs, int(numbers[0]), kernel, kernel // 2, int(numbers[1]))
            else:
                raise BadInput(
                    f"layers_cfg: {layer!r} is not a layer; expected BC-<channels>, FC-<channels>-<halving> or M"
                )
            parts += leaky(conv)
            inputs, kernel = int(numbers[0]), 3
        self.feature = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.feature(x)


class FramePyramid(nn.Module):
    """Horizontal pyramid pooling of every frame: (n, c, t, h, w) -> (n, c, t, p)."""

    def __init__(self, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        return pyramid(x.transpose(1, 2).flatten(0, 1), self.bins).unflatten(0, (n, -1)).transpose(1, 2)


class TemporalAggregator(nn.Module):
    """Micro-motion templates of windows 3 and 5 with attention, summed; the maximum over time.

    (n, c, t, p) -> (n, c, p);
    template = (mean + maximum of the window) * sigmoid(two convolutions); own convolutions for each part.
    """

    def __init__(self, channels: int, parts: int, squeeze: int = 4) -> None:
        super().__init__()
        few = channels // squeeze

        def attention(kernel: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(
                    Conv1d(channels, few, 3, padding=1),
                    nn.LeakyReLU(inplace=True),
                    Conv1d(few, channels, kernel, padding=kernel // 2),
                )
                for _ in range(parts)
            )

        self.conv1d3x1 = attention(1)
        self.avg_pool3x1 = nn.AvgPool1d(3, stride=1, padding=1)
        self.max_pool3x1 = nn.MaxPool1d(3, stride=1, padding=1)
        self.conv1d3x3 = attention(3)
        self.avg_pool3x3 = nn.AvgPool1d(5, stride=1, padding=2)
        self.max_pool3x3 = nn.MaxPool1d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, _, p = x.shape
        parts = x.permute(0, 3, 1, 2)
        flat = parts.flatten(0, 1)
        near = self._attention(self.conv1d3x1, parts) * (self.avg_pool3x1(flat) + self.max_pool3x1(flat))
        wide = self._attention(self.conv1d3x3, parts) * (self.avg_pool3x3(flat) + self.max_pool3x3(flat))
        return (near + wide).max(-1).values.view(n, p, c).transpose(1, 2)

    def _attention(self, convs: nn.ModuleList, parts: Tensor) -> Tensor:
        return torch.stack([conv(parts[:, i]) for i, conv in enumerate(convs)], 1).sigmoid().flatten(0, 1)


class Aggregated(nn.Module):
    """Holds the temporal aggregator as `pooling_func`."""

    def __init__(self, pooling_func: nn.Module) -> None:
        super().__init__()
        self.pooling_func = pooling_func

    def forward(self, x: Tensor) -> Tensor:
        return self.pooling_func(x)


class GaitPart(nn.Module):
    """Silhouettes (n, t, h, w) in 0..1 -> embedding (n, c, p).

    Source: Fan et al. 2020, GaitPart: Temporal Part-Based Model for Gait Recognition, CVPR.
    """

    def __init__(self, backbone: nn.Module, bins: Sequence[int], width: int, outputs: int, parts: int) -> None:
        super().__init__()
        self.Backbone = FrameWise(backbone)
        self.Head = SeparateFCs(parts, width, outputs)
        self.HPP = FramePyramid(bins)
        self.TFA = Aggregated(TemporalAggregator(width, parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.Head(self.TFA(self.HPP(self.Backbone(x[:, None]))))


def build(model: Mapping[str, Any], _dataset: str) -> GaitPart:
    """GaitPart from an OpenGait `model_cfg`."""
    head, backbone = model["SeparateFCs"], model["backbone_cfg"]
    plain = Plain(backbone["layers_cfg"], backbone.get("in_channels", 1))
    return GaitPart(plain, model["bin_num"], head["in_channels"], head["out_channels"], head["parts_num"])
