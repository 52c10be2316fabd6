"""GLN: a gait lateral network with a top-down pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.networks.gait.blocks import Conv2d, FrameWise, SeparateFCs, SetPooling, leaky, pyramid


class GLN(nn.Module):
    """Silhouettes (n, t, 128, 88) in 0..1 -> embedding (n, c, 3 * sum of bins), finest stage first.

    classes: the second phase, whose compact block is held for its weights and does not touch this embedding.
    Source: Hou et al. 2020, Gait Lateral Network: Learning Discriminative and Compact Representations for Gait
    Recognition, ECCV.
    """

    SIDE = 128

    def __init__(
        self,
        channels: Sequence[int],
        bins: Sequence[int],
        lateral: int,
        hidden: int,
        head: tuple[int, int, int],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        zero, one, two, three = channels
        self.bins = tuple(bins)
        self.sil_stage_0 = FrameWise(_stage(zero, one, 5))
        self.sil_stage_1 = FrameWise(_stage(one, two, 3))
        self.sil_stage_2 = FrameWise(_stage(two, three, 3))
        self.set_stage_1 = _stage(one, two, 3)
        self.set_stage_2 = _stage(two, three, 3)
        self.set_pooling = SetPooling()
        self.MaxP_sil = FrameWise(nn.MaxPool2d(2, 2))
        self.MaxP_set = nn.MaxPool2d(2, 2)
        self.lateral_layer1 = nn.Conv2d(2 * one, lateral, 1, bias=False)
        self.lateral_layer2 = nn.Conv2d(2 * two, lateral, 1, bias=False)
        self.lateral_layer3 = nn.Conv2d(2 * three, lateral, 1, bias=False)
        self.smooth_layer1 = nn.Conv2d(lateral, hidden, 3, padding=1, bias=False)
        self.smooth_layer2 = nn.Conv2d(lateral, hidden, 3, padding=1, bias=False)
        self.smooth_layer3 = nn.Conv2d(lateral, hidden, 3, padding=1, bias=False)
        self.Head = SeparateFCs(*head)
        if classes is not None:
            whole = 3 * sum(bins) * head[2]
            self.encoder_bn = nn.BatchNorm1d(whole)
            self.reduce_dp = nn.Dropout(0.9)
            self.reduce_ac = nn.ReLU(inplace=True)
            self.reduce_fc = nn.Linear(whole, hidden, bias=False)
            self.reduce_bn = nn.BatchNorm1d(hidden)
            self.reduce_cls = nn.Linear(hidden, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sil_stage_0(x[:, None])
        first = self.set_pooling(x)
        stages = [torch.cat([first, first], 1)]
        x = self.MaxP_sil(x)
        whole = self.set_pooling(x)
        x = self.sil_stage_1(x)
        frames = self.set_pooling(x)
        whole = self.set_stage_1(whole) + frames
        stages.append(torch.cat([frames, whole], 1))
        x = self.sil_stage_2(self.MaxP_sil(x))
        frames = self.set_pooling(x)
        whole = self.set_stage_2(self.MaxP_set(whole)) + frames
        stages.append(torch.cat([frames, whole], 1))

        third = self.lateral_layer3(stages[2])
        second = F.interpolate(third, scale_factor=2.0) + self.lateral_layer2(stages[1])
        fine = F.interpolate(second, scale_factor=2.0) + self.lateral_layer1(stages[0])
        smooth = (self.smooth_layer1(fine), self.smooth_layer2(second), self.smooth_layer3(third))
        return self.Head(torch.cat([pyramid(stage, self.bins) for stage in smooth], -1))


def _stage(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        *leaky(Conv2d(inputs, outputs, kernel, padding=kernel // 2), Conv2d(outputs, outputs, 3, padding=1))
    )


def build(model: Mapping[str, Any], _dataset: str) -> GLN:
    """GLN of either phase from an OpenGait `model_cfg` (`Lateral_pretraining` is phase 1)."""
    head = model["SeparateFCs"]
    return GLN(
        model["in_channels"],
        model["bin_num"],
        model["lateral_dim"],
        model["hidden_dim"],
        (head["parts_num"], head["in_channels"], head["out_channels"]),
        None if model["Lateral_pretraining"] else model["class_num"],
    )
