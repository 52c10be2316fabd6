"""DeepGaitV2 (2-D, 3-D, pseudo 3-D), SkeletonGait (the same network on skeleton maps) and SkeletonGait++."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.networks.gait.blocks import (
    BasicBlock,
    FrameWise,
    SeparateBNNecks,
    SeparateFCs,
    SetPooling,
    pyramid,
    residual_layer,
)

MODES = ("2d", "3d", "p3d")
STRIDES = (2, 2, 1)
PARTS = 16


class BlockP3D(nn.Module):
    """A residual block of two 3 x 3 convolutions per frame with a temporal convolution added after the first.

    (n, c, t, h, w) -> (n, c', t, h / stride, w / stride); time never shrinks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = FrameWise(nn.Sequential(*_normed(inputs, outputs, stride), nn.ReLU(inplace=True)))
        self.conv2 = FrameWise(nn.Sequential(*_normed(outputs, outputs, 1)))
        self.shortcut3d = nn.Conv3d(outputs, outputs, (3, 1, 1), 1, (1, 0, 0), bias=False)
        self.sbn = nn.BatchNorm3d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            step = (1, stride, stride)
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, step, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        x = self.relu(x + self.sbn(self.shortcut3d(x)))
        return self.relu(self.conv2(x) + kept)


class DeepGaitV2(nn.Module):
    """Silhouettes (n, t, h, w) or skeleton maps (n, t, c, h, w) in 0..1 -> embedding (n, c, 16).

    Source: Fan et al. 2023, Exploring Deep Models for Practical Gait Recognition, arXiv:2303.03301; Fan et al. 2024,
    SkeletonGait: Gait Recognition Using Skeleton Maps, AAAI, arXiv:2311.13444.
    """

    WIDTHS = (44, 88)

    def __init__(
        self,
        mode: str,
        inputs: int,
        layers: Sequence[int],
        channels: Sequence[int],
        classes: int,
        after_neck: bool = False,
    ) -> None:
        super().__init__()
        self.after_neck = after_neck
        self.layer0 = _stem(inputs, channels[0])
        self.layer1 = FrameWise(residual_layer(BasicBlock, channels[0], channels[0], layers[0]))
        self.layer2, self.layer3, self.layer4 = _deep_layers(mode, layers, channels)
        self.FCs = SeparateFCs(PARTS, channels[3], channels[2])
        self.BNNecks = SeparateBNNecks(PARTS, channels[2], classes)
        self.TP = SetPooling()

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if x.dim() == 4 else x.transpose(1, 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(x)))))
        parts = self.FCs(pyramid(self.TP(x), (PARTS,)))
        return self.BNNecks(parts) if self.after_neck else parts


class AttentionFusion(nn.Module):
    """Two branches weighed at every pixel by a softmax over the branches: 2 x (n, c, t, h, w) -> (n, c, t, h, w)."""

    def __init__(self, channels: int, squeeze: int = 16) -> None:
        super().__init__()
        few = channels // squeeze
        self.conv = FrameWise(
            nn.Sequential(
                nn.Conv2d(2 * channels, few, 1, bias=False),
                nn.BatchNorm2d(few),
                nn.ReLU(inplace=True),
                nn.Conv2d(few, few, 3, 1, 1, bias=False),
                nn.BatchNorm2d(few),
                nn.ReLU(inplace=True),
                nn.Conv2d(few, 2 * channels, 1, bias=False),
            )
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        weights = self.conv(torch.cat([first, second], 1)).unflatten(1, (2, -1)).softmax(1)
        return first * weights[:, 0] + second * weights[:, 1]


class SkeletonGaitPP(nn.Module):
    """Skeleton maps and silhouettes (n, t, 3, h, w), the silhouette last, in 0..1 -> embedding (n, c, 16).

    Source: Fan et al. 2024, SkeletonGait: Gait Recognition Using Skeleton Maps, AAAI, arXiv:2311.13444.
    """

    def __init__(
        self, inputs: int, layers: Sequence[int], channels: Sequence[int], classes: int, after_neck: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.after_neck = inputs, after_neck
        self.sil_layer0 = _stem(1, channels[0])
        self.map_layer0 = _stem(inputs - 1, channels[0])
        self.sil_layer1 = FrameWise(residual_layer(BasicBlock, channels[0], channels[0], layers[0]))
        self.map_layer1 = FrameWise(residual_layer(BasicBlock, channels[0], channels[0], layers[0]))
        self.fusion = AttentionFusion(channels[0])
        self.layer2, self.layer3, self.layer4 = _deep_layers("p3d", layers, channels)
        self.FCs = SeparateFCs(PARTS, channels[3], channels[2])
        self.BNNecks = SeparateBNNecks(PARTS, channels[2], classes)
        self.TP = SetPooling()

    def forward(self, x: Tensor) -> Tensor:
        maps, silhouettes = x.transpose(1, 2).split((self.inputs - 1, 1), 1)
        maps = self.map_layer1(self.map_layer0(maps))
        x = self.fusion(self.sil_layer1(self.sil_layer0(silhouettes)), maps)
        parts = self.FCs(pyramid(self.TP(self.layer4(self.layer3(self.layer2(x)))), (PARTS,)))
        return self.BNNecks(parts) if self.after_neck else parts


def _normed(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)


def _stem(inputs: int, outputs: int) -> FrameWise:
    return FrameWise(nn.Sequential(*_normed(inputs, outputs, 1), nn.ReLU(inplace=True)))


def _deep_layers(mode: str, layers: Sequence[int], channels: Sequence[int]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for i, stride in enumerate(STRIDES):
        inputs, outputs, count = channels[i], channels[i + 1], layers[i + 1]
        if mode == "2d":
            made.append(FrameWise(residual_layer(BasicBlock, inputs, outputs, count, stride=stride)))
        elif mode == "3d":
            made.append(residual_layer(BasicBlock, inputs, outputs, count, stride=stride, volume=True))
        else:
            made.append(residual_layer(BlockP3D, inputs, outputs, count, stride=stride))
    return made


def build(model: Mapping[str, Any], _dataset: str) -> DeepGaitV2:
    """DeepGaitV2 or SkeletonGait from an OpenGait `model_cfg`."""
    backbone = model["Backbone"]
    mode = backbone.get("mode", "p3d")
    if mode not in MODES:
        raise BadInput(f"Backbone.mode: {mode!r} is not known; expected one of {', '.join(MODES)}")
    classes, after_neck = model["SeparateBNNecks"]["class_num"], bool(model.get("use_emb2", False))
    return DeepGaitV2(mode, backbone["in_channels"], backbone["layers"], backbone["channels"], classes, after_neck)


def build_plus(model: Mapping[str, Any], _dataset: str) -> SkeletonGaitPP:
    """SkeletonGait++ from an OpenGait `model_cfg`; the widths are 32, 64, 128, 256 times `Backbone.C`."""
    backbone = model["Backbone"]
    channels = [width * backbone["C"] for width in (32, 64, 128, 256)]
    classes, after_neck = model["SeparateBNNecks"]["class_num"], bool(model.get("use_emb2", False))
    return SkeletonGaitPP(backbone["in_channels"], backbone["blocks"], channels, classes, after_neck)
