"""Pose ResNet (SimpleBaseline): a ResNet, some transposed convolutions and one heatmap per joint."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchloupe.networks.pose.blocks import BasicBlock, Block, Bottleneck, row

DEPTHS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
# kernel of a transposed convolution of stride 2 -> (padding, output padding) that doubles the size exactly
DOUBLING = {4: (1, 0), 3: (1, 1), 2: (0, 0)}


class PoseResNet(nn.Module):
    """x (n, 3, h, w) -> heatmaps (n, joints, h / 4, w / 4) with three transposed convolutions.

    depth is 18, 34, 50, 101 or 152; width is the channels of the stem (64 in every published network).
    Source: Xiao et al. 2018, Simple Baselines for Human Pose Estimation and Tracking, arXiv:1804.06208.
    """

    def __init__(
        self,
        depth: int = 50,
        joints: int = 17,
        filters: Sequence[int] = (256, 256, 256),
        kernels: Sequence[int] = (4, 4, 4),
        final_kernel: int = 1,
        deconv_bias: bool = False,
        width: int = 64,
    ) -> None:
        super().__init__()
        block, counts = DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = width
        for i, count in enumerate(counts):
            wide = width * 2**i
            setattr(self, f"layer{i + 1}", row(block, inside, wide, count, stride=1 if i == 0 else 2))
            inside = wide * block.expansion
        upward: list[nn.Module] = []
        for outside, kernel in zip(filters, kernels, strict=True):
            padding, extra = DOUBLING[kernel]
            upward += [
                nn.ConvTranspose2d(inside, outside, kernel, 2, padding, extra, bias=deconv_bias),
                nn.BatchNorm2d(outside),
                nn.ReLU(inplace=True),
            ]
            inside = outside
        self.deconv_layers = nn.Sequential(*upward)
        self.final_layer = nn.Conv2d(inside, joints, final_kernel, padding=final_kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(len(DEPTHS[18][1])):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.final_layer(self.deconv_layers(x))
