"""GaitGL: global and local 3-D features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.networks.gait.blocks import SeparateBNNecks, SeparateFCs, SetPooling, leaky


class Conv3d(nn.Module):
    """A 3-D convolution without bias, held as `conv3d`."""

    def __init__(self, inputs: int, outputs: int, kernel: Any = 3, stride: Any = 1, padding: Any = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


class GLConv(nn.Module):
    """A convolution of the whole height and one of each strip; summed, or (stack) put one above the other.

    (n, c, t, h, w) -> (n, c', t, h, w), stacked (n, c', t, 2 h, w) with the global half above.
    """

    def __init__(self, inputs: int, outputs: int, halving: int, stack: bool = False) -> None:
        super().__init__()
        self.strips, self.stack = 2**halving, stack
        self.global_conv3d = Conv3d(inputs, outputs)
        self.local_conv3d = Conv3d(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.global_conv3d(x)
        local = torch.cat([self.local_conv3d(strip) for strip in x.chunk(self.strips, 3)], 3)
        if self.stack:
            return F.leaky_relu(torch.cat([whole, local], 3))
        return F.leaky_relu(whole) + F.leaky_relu(local)


class GeMHPP(nn.Module):
    """Generalised mean over the width of every row: ( mean_w max(x, 1e-6)^p )^(1/p), (n, c, h, w) -> (n, c, h).

    Source: Lin et al. 2021 (GaitGL); Radenovic et al. 2019, Fine-tuning CNN Image Retrieval, TPAMI.
    """

    def __init__(self, parts: int = 64) -> None:
        super().__init__()
        self.parts = parts
        self.p = nn.Parameter(torch.full((1,), 6.5))

    def forward(self, x: Tensor) -> Tensor:
        strips = x.flatten(2).unflatten(2, (self.parts, -1))
        return strips.clamp(min=1e-6).pow(self.p).mean(-1).pow(1 / self.p)


class GaitGL(nn.Module):
    """Silhouettes (n, t, h, w) in 0..1 -> embedding (n, c, 64).

    deep: the variant for OUMVLP and GREW, with two convolutions a stage. necks: with SeparateBNNecks, whose embedding
    is the output of `Head0`; without, it is the output of `Bn`.
    Source: Lin et al. 2021, Gait Recognition via Effective Global-Local Feature Representation and Local Temporal
    Aggregation, ICCV, arXiv:2011.01461.
    """

    STEP = 3

    def __init__(
        self, channels: Sequence[int], classes: int, deep: bool, necks: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        c = list(channels)
        if deep:
            self.conv3d = nn.Sequential(*leaky(Conv3d(1, c[0]), Conv3d(c[0], c[0])))
        else:
            self.conv3d = nn.Sequential(*leaky(Conv3d(1, c[0])))
        self.LTA = nn.Sequential(*leaky(Conv3d(c[0], c[0], (3, 1, 1), (3, 1, 1), 0)))
        if deep:
            self.GLConvA0: nn.Module = nn.Sequential(GLConv(c[0], c[1], 1), GLConv(c[1], c[1], 1))
        else:
            self.GLConvA0 = GLConv(c[0], c[1], 3)
        self.MaxPool0 = nn.MaxPool3d((1, 2, 2), (1, 2, 2))
        if deep:
            self.GLConvA1: nn.Module = nn.Sequential(GLConv(c[1], c[2], 1), GLConv(c[2], c[2], 1))
            self.GLConvB2: nn.Module = nn.Sequential(GLConv(c[2], c[3], 1), GLConv(c[3], c[3], 1, stack=True))
        else:
            self.GLConvA1 = GLConv(c[1], c[2], 3)
            self.GLConvB2 = GLConv(c[2], c[2], 3, stack=True)
        self.TP = SetPooling()
        self.HPP = GeMHPP()
        self.Head0 = SeparateFCs(64, c[-1], c[-1])
        self.necks = necks is not None
        if necks is not None:
            self.BNNecks = SeparateBNNecks(necks["parts_num"], necks["in_channels"], necks["class_num"])
        else:
            self.Bn = nn.BatchNorm1d(c[-1])
            self.Head1 = SeparateFCs(64, c[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        if x.shape[2] < self.STEP:
            # one or two frames do not fill a window of the temporal convolution
            x = x.repeat(1, 1, 3 if x.shape[2] == 1 else 2, 1, 1)
        x = self.MaxPool0(self.GLConvA0(self.LTA(self.conv3d(x))))
        parts = self.Head0(self.HPP(self.TP(self.GLConvB2(self.GLConvA1(x)))))
        return parts if self.necks else self.Bn(parts)


def build(model: Mapping[str, Any], dataset: str) -> GaitGL:
    """GaitGL from an OpenGait `model_cfg`; the data set's name decides the variant."""
    return GaitGL(model["channels"], model["class_num"], dataset in ("OUMVLP", "GREW"), model.get("SeparateBNNecks"))
