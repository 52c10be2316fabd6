"""GaitBase: a small residual network on every frame (the class `Baseline` of OpenGait)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.networks.gait.blocks import (
    BasicBlock,
    Conv2d,
    FrameWise,
    SeparateBNNecks,
    SeparateFCs,
    SetPooling,
    pyramid,
    residual_layer,
)
from torchloupe.networks.gait.gaitpart import Plain


class ResNet9(nn.Module):
    """A small residual network. `avgpool`, and `maxpool` where it is off, are held but not called."""

    def __init__(
        self,
        channels: Sequence[int],
        layers: Sequence[int],
        strides: Sequence[int],
        inputs: int = 1,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = Conv2d(inputs, channels[0], 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [channels[0], *channels]
        made = [residual_layer(BasicBlock, widths[i], widths[i + 1], layers[i], stride=strides[i]) for i in range(4)]
        self.layer1, self.layer2, self.layer3, self.layer4 = made
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.maxpool(x) if self.pool else x
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class GaitBase(nn.Module):
    """Silhouettes (n, t, h, w), or frames with channels (n, t, c, h, w), -> embedding (n, c, p).

    Source: Fan et al. 2023, OpenGait: Revisiting Gait Recognition Toward Better Practicality, CVPR, arXiv:2211.06597.
    """

    def __init__(
        self,
        backbone: nn.Module,
        bins: Sequence[int],
        head: tuple[int, int, int],
        necks: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.Backbone = FrameWise(backbone)
        self.FCs = SeparateFCs(*head)
        self.BNNecks = SeparateBNNecks(*necks)
        self.TP = SetPooling()

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None] if x.dim() == 4 else x.transpose(1, 2)
        return self.FCs(pyramid(self.TP(self.Backbone(x)), self.bins))


def build(model: Mapping[str, Any], _dataset: str) -> GaitBase:
    """GaitBase from an OpenGait `model_cfg` with a ResNet9 or Plain backbone."""
    backbone, head, necks = model["backbone_cfg"], model["SeparateFCs"], model["SeparateBNNecks"]
    kind, inputs = backbone["type"], backbone.get("in_channels", backbone.get("in_channel", 1))
    if kind == "Plain":
        built: nn.Module = Plain(backbone["layers_cfg"], inputs)
    elif kind == "ResNet9" and backbone.get("block", "BasicBlock") == "BasicBlock":
        pool = backbone.get("maxpool", True)
        built = ResNet9(backbone["channels"], backbone["layers"], backbone["strides"], inputs, pool)
    else:
        found = f"{kind} of {backbone['block']}" if "block" in backbone else kind
        raise BadInput(
            f"backbone_cfg: {found} is not known; expected ResNet9 of BasicBlock, or Plain; try --opengait DIR"
        )
    return GaitBase(
        built,
        model["bin_num"],
        (head["parts_num"], head["in_channels"], head["out_channels"]),
        (necks["parts_num"], necks["in_channels"], necks["class_num"]),
    )
