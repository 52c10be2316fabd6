"""What gait networks are made of: convolutions on strips and frames, set pooling, pyramids, heads per part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Module):
    """A 2-D convolution without bias, held as `conv` (as the published state dicts name it)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Conv1d(nn.Module):
    """A 1-D convolution without bias, held as `conv`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FocalConv2d(nn.Module):
    """Focal convolution: one 2-D convolution, run on each of 2^halving height strips with its own zero padding.

    Source: Fan et al. 2020, GaitPart, CVPR.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int, halving: int) -> None:
        super().__init__()
        self.strips = 2**halving
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(strip) for strip in x.chunk(self.strips, 2)], 2)


class FrameWise(nn.Module):
    """A 2-D module run on every frame: (n, c, t, h, w) -> (n, c', t, h', w')."""

    def __init__(self, forward_block: nn.Module) -> None:
        super().__init__()
        self.forward_block = forward_block

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[0], x.shape[2]
        frames = self.forward_block(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (n, t)).transpose(1, 2)


class SetPooling(nn.Module):
    """The maximum over time: (n, c, t, ...) -> (n, c, ...). The gradient goes to the winning frame."""

    def forward(self, x: Tensor) -> Tensor:
        return x.max(2).values


def pyramid(x: Tensor, bins: Sequence[int]) -> Tensor:
    """Horizontal pyramid pooling: mean + maximum of every strip, (n, c, h, w) -> (n, c, sum of bins).

    Source: Fu et al. 2019, Horizontal Pyramid Matching, AAAI; Chao et al. 2019, GaitSet, AAAI.
    """
    strips = [x.flatten(2).unflatten(2, (b, -1)) for b in bins]
    return torch.cat([strip.mean(-1) + strip.max(-1).values for strip in strips], -1)


class SeparateFCs(nn.Module):
    """One linear map for each body part: (n, c, p) -> (n, c', p)."""

    def __init__(self, parts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts, inputs, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ncp,pcd->ndp", x, self.fc_bin)


class SeparateBNNecks(nn.Module):
    """A batch norm and an identity classifier for each part; the embedding asks only for the normalised feature.

    (n, c, p) -> (n, c, p): batch norm over c * p, then unit length over c.
    Source: Luo et al. 2019, Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW.
    """

    def __init__(self, parts: int, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc_bin = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts, inputs, classes)))
        self.bn1d = nn.BatchNorm1d(inputs * parts)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.bn1d(x.flatten(1)).unflatten(1, x.shape[1:]), dim=1)


class BasicBlock(nn.Module):
    """The residual block of two 3 x 3 convolutions, in 2-D or (3 x 3 x 3) in 3-D.

    Source: He et al. 2016, Deep Residual Learning, CVPR.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, volume: bool = False) -> None:
        super().__init__()
        conv: Callable[..., nn.Module] = nn.Conv3d if volume else nn.Conv2d
        norm: Callable[[int], nn.Module] = nn.BatchNorm3d if volume else nn.BatchNorm2d
        step: Any = (1, stride, stride) if volume else stride
        self.conv1 = conv(inputs, outputs, 3, step, 1, bias=False)
        self.bn1 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, step, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)


def residual_layer(
    block: Callable[..., nn.Module], inputs: int, outputs: int, count: int, **options: Any
) -> nn.Sequential:
    """`count` blocks in a row; the first changes the width and takes the stride."""
    stride = options.pop("stride", 1)
    blocks = [block(inputs, outputs, stride, **options)]
    blocks += [block(outputs, outputs, **options) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def leaky(*modules: nn.Module) -> list[nn.Module]:
    """The modules, each followed by a LeakyReLU of slope 0.01."""
    return [part for module in modules for part in (module, nn.LeakyReLU(inplace=True))]
