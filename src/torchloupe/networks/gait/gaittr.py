"""GaitTR: attention over joints and convolution over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from torchloupe.networks.gait.skeletons import skeleton

HEADS = 8
WINDOW = 9


class TimeConv(nn.Module):
    """Convolution over time, Mish, batch norm: (n, c, t, v) -> (n, c', t, v)."""

    def __init__(self, inputs: int, outputs: int, window: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (window, 1), padding=(window // 2, 0))
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.Mish(inplace=False)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.bn(self.relu(self.conv(x))))


class JointAttention(nn.Module):
    """Multi-head attention among the joints of each frame: (n, c, v) -> (n, c', v), n counting frames.

    Source: Vaswani et al. 2017, Attention Is All You Need, NeurIPS, arXiv:1706.03762.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.keys, self.values = outputs // 4, outputs
        self.qkv_conv = nn.Conv2d(inputs, 2 * self.keys + self.values, 1)
        self.attn_out = nn.Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv_conv(x[:, :, None]).split([self.keys, self.keys, self.values], 1)
        query, key, value = (part[:, :, 0].unflatten(1, (HEADS, -1)) for part in (query, key, value))
        scale = (self.keys // HEADS) ** -0.5
        weights = (scale * query.transpose(2, 3) @ key).softmax(-1)
        joined = (value @ weights.transpose(2, 3)).flatten(1, 2)
        return self.attn_out(joined[:, :, None])[:, :, 0]


class SpatialTransformer(nn.Module):
    """Batch norm over (channel, joint), attention among joints, Mish, batch norm."""

    def __init__(self, inputs: int, outputs: int, joints: int) -> None:
        super().__init__()
        self.relu = nn.Mish(inplace=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.data_bn = nn.BatchNorm1d(inputs * joints)
        self.attention_conv = JointAttention(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        x = self.data_bn(x.permute(0, 1, 3, 2).reshape(n, c * v, t)).view(n, c, v, t)
        frames = self.attention_conv(x.permute(0, 3, 1, 2).reshape(n * t, c, v))
        return self.bn(self.relu(frames.view(n, t, -1, v).transpose(1, 2)))


class Block(nn.Module):
    """Time then joints, each with its own way round, and a way round both."""

    def __init__(self, inputs: int, outputs: int, joints: int) -> None:
        super().__init__()
        self.tcn = TimeConv(inputs, inputs, WINDOW)
        self.st = SpatialTransformer(inputs, outputs, joints)
        if inputs != outputs:
            self.residual_s = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
            self.down = TimeConv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        changes = hasattr(self, "down")
        over_time = self.tcn(x) + x
        over_joints = self.st(over_time) + (self.residual_s(over_time) if changes else over_time)
        return over_joints + (self.down(x) if changes else x)


class GaitTR(nn.Module):
    """Skeletons (n, t, 10, v, 1) -> embedding (n, c, 1).

    Source: Zhang et al. 2023, Spatial transformer network on skeleton-based gait recognition, Expert Systems,
    arXiv:2204.03873.
    """

    def __init__(self, widths: Sequence[int], outputs: int, joints: int) -> None:
        super().__init__()
        self.joints = joints
        self.data_bn = nn.BatchNorm1d(widths[0] * joints)
        self.backbone = nn.ModuleList(Block(widths[i], widths[i + 1], joints) for i in range(len(widths) - 1))
        self.fcn = nn.Conv1d(widths[-1], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c, v, _ = x.shape
        x = self.data_bn(x[..., 0].permute(0, 3, 2, 1).reshape(n, v * c, t)).view(n, v, c, t).permute(0, 2, 3, 1)
        for block in self.backbone:
            x = block(x)
        return self.fcn(x.mean((2, 3))[..., None])


def build(model: Mapping[str, Any], _dataset: str) -> GaitTR:
    """GaitTR from an OpenGait `model_cfg`."""
    return GaitTR(model["in_channels"], model["num_class"], len(skeleton(model["joint_format"]).joints))
