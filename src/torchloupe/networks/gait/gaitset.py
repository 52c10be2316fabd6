"""GaitSet: a gait sequence as a set of silhouettes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.networks.gait.blocks import Conv2d, FrameWise, SeparateFCs, SetPooling, leaky, pyramid


class GaitSet(nn.Module):
    """Silhouettes (n, t, h, w) in 0..1 -> embedding (n, c, 2 * sum of bins).

    Source: Chao et al. 2019, GaitSet: Regarding Gait as a Set for Cross-View Gait Recognition, AAAI, arXiv:1811.06186.
    """

    def __init__(self, channels: Sequence[int], bins: Sequence[int], width: int, outputs: int) -> None:
        super().__init__()
        zero, one, two, three = channels
        self.bins = tuple(bins)
        self.set_block1 = FrameWise(_stage(zero, one, 5, pool=True))
        self.set_block2 = FrameWise(_stage(one, two, 3, pool=True))
        self.set_block3 = FrameWise(_stage(two, three, 3, pool=False))
        self.gl_block2 = _stage(one, two, 3, pool=True)
        self.gl_block3 = _stage(two, three, 3, pool=False)
        self.set_pooling = SetPooling()
        self.Head = SeparateFCs(2 * sum(bins), width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.set_block1(x[:, None])
        whole = self.gl_block2(self.set_pooling(x))
        x = self.set_block2(x)
        whole = self.gl_block3(whole + self.set_pooling(x))
        frames = self.set_pooling(self.set_block3(x))
        return self.Head(torch.cat([pyramid(frames, self.bins), pyramid(whole + frames, self.bins)], -1))


def _stage(inputs: int, outputs: int, kernel: int, pool: bool) -> nn.Sequential:
    convs = leaky(Conv2d(inputs, outputs, kernel, padding=kernel // 2), Conv2d(outputs, outputs, 3, padding=1))
    return nn.Sequential(*convs, *([nn.MaxPool2d(2, 2)] if pool else []))


def build(model: Mapping[str, Any], _dataset: str) -> GaitSet:
    """GaitSet from an OpenGait `model_cfg`."""
    head = model["SeparateFCs"]
    return GaitSet(model["in_channels"], model["bin_num"], head["in_channels"], head["out_channels"])
