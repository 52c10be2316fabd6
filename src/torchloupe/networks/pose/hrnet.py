"""HRNet: branches of several resolutions side by side, exchanged after every module; heatmaps from the finest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from torchloupe.networks.pose.blocks import BLOCKS, Bottleneck, conv_norm, row


@dataclass(frozen=True)
class Stage:
    """One stage: so many modules, and for each branch its number of blocks and its channels."""

    modules: int
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    block: str = "BASIC"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that leave each branch."""
        return tuple(width * BLOCKS[self.block].expansion for width in self.channels)


class Exchange(nn.Module):
    """Every branch's blocks, then every output the sum of all branches brought to its resolution and channels."""

    def __init__(self, stage: Stage, inside: Sequence[int], outputs: int) -> None:
        super().__init__()
        block, widths = BLOCKS[stage.block], stage.widths
        self.branches = nn.ModuleList(
            row(block, before, width, count)
            for before, width, count in zip(inside, stage.channels, stage.blocks, strict=True)
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_bring(source, target, widths) for source in range(len(widths))) for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        x = [branch(one) for branch, one in zip(self.branches, x, strict=True)]
        rows = [[bring(one) for bring, one in zip(row.children(), x, strict=True)] for row in self.fuse_layers]
        return [self.relu(_sum(terms)) for terms in rows]


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _bring(source: int, target: int, widths: Sequence[int]) -> nn.Module:
    """Branch `source` at the resolution of branch `target`: nearest neighbours up, strided convolutions down."""
    if source == target:
        return nn.Identity()
    if source > target:
        up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
        return nn.Sequential(*conv_norm(widths[source], widths[target], 1), up)
    steps = [
        nn.Sequential(*conv_norm(widths[source], widths[source], 3, 2), nn.ReLU(inplace=True))
        for _ in range(target - source - 1)
    ]
    return nn.Sequential(*steps, nn.Sequential(*conv_norm(widths[source], widths[target], 3, 2)))


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Old branches keep their resolution; every new one is made of the last old one by strided convolutions."""
    parts: list[nn.Module] = []
    for i, width in enumerate(after):
        if i < len(before):
            same = before[i] == width
            step = nn.Identity() if same else nn.Sequential(*conv_norm(before[i], width, 3), nn.ReLU(inplace=True))
            parts.append(step)
            continue
        widths = [before[-1]] * (i - len(before) + 1) + [width]
        pairs = pairwise(widths)
        parts.append(nn.Sequential(*(nn.Sequential(*conv_norm(a, b, 3, 2), nn.ReLU(inplace=True)) for a, b in pairs)))
    return nn.ModuleList(parts)


class PoseHRNet(nn.Module):
    """x (n, 3, h, w) -> heatmaps (n, joints, h / 4, w / 4). h and w are multiples of 32.

    Source: Sun et al. 2019, Deep High-Resolution Representation Learning for Human Pose Estimation, arXiv:1902.09212.
    """

    def __init__(self, stages: tuple[Stage, Stage, Stage], joints: int = 17, final_kernel: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, 64, 3, 2)
        self.conv2, self.bn2 = conv_norm(64, 64, 3, 2)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = row(Bottleneck, 64, 64, 4)
        inside: tuple[int, ...] = (64 * Bottleneck.expansion,)
        for number, stage in enumerate(stages, start=2):
            self.add_module(f"transition{number - 1}", _transition(inside, stage.widths))
            modules = []
            inside = stage.widths
            for i in range(stage.modules):
                # the heatmaps read the finest branch only, so the very last module makes no other
                outputs = 1 if number == 4 and i == stage.modules - 1 else len(inside)
                modules.append(Exchange(stage, inside, outputs))
            self.add_module(f"stage{number}", nn.Sequential(*modules))
        self.final_layer = nn.Conv2d(inside[0], joints, final_kernel, padding=final_kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches = [x]
        for number in (2, 3, 4):
            steps = self.get_submodule(f"transition{number - 1}")
            last = len(branches) - 1
            branches = [step(branches[min(i, last)]) for i, step in enumerate(steps.children())]
            branches = self.get_submodule(f"stage{number}")(branches)
        return self.final_layer(branches[0])
