"""Residual blocks and convolutions of Pose ResNet and HRNet. Attribute names are the published state-dict keys."""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(inside: int, outside: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution of the same padding without bias, and its batch norm."""
    return [
        nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
    ]


def shortcut(inside: int, outside: int, stride: int) -> nn.Sequential | None:
    """The 1 x 1 projection of a residual block; None where the shapes agree already."""
    return None if stride == 1 and inside == outside else nn.Sequential(*conv_norm(inside, outside, 1, stride))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; gives `width` channels."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inside, width, 3, stride)
        self.conv2, self.bn2 = conv_norm(width, width, 3)
        self.downsample = shortcut(inside, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (which carries the stride) and 1 x 1 convolutions and a shortcut; gives 4 * `width` channels."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inside, width, 1)
        self.conv2, self.bn2 = conv_norm(width, width, 3, stride)
        self.conv3, self.bn3 = conv_norm(width, width * self.expansion, 1)
        self.downsample = shortcut(inside, width * self.expansion, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


Block = type[BasicBlock] | type[Bottleneck]
BLOCKS: dict[str, Block] = {"BASIC": BasicBlock, "BOTTLENECK": Bottleneck}


def row(block: Block, inside: int, width: int, count: int, stride: int = 1) -> nn.Sequential:
    """`count` blocks in a row; the first takes the stride and the change of channels."""
    first = block(inside, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width) for _ in range(count - 1)))
