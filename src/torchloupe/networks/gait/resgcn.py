"""GaitGraph and GaitGraph2: residual graph convolutions on skeletons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.networks.gait.skeletons import Skeleton, adjacency, joints_velocity_bones, skeleton

HOPS = 3
USED = 3
WINDOW = 9


class GraphConv(nn.Module):
    """sum over hop distances 0, 1, 2 of (1 x 1 convolution) times adjacency: (n, c, t, v) -> (n, c', t, v)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gcn = nn.Conv2d(inputs, outputs * USED, 1)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        return torch.einsum("nkctv,kvw->nctw", self.gcn(x).unflatten(1, (USED, -1)), graph[:USED]).contiguous()


class Spatial(nn.Module):
    """The first layer's graph convolution: convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = GraphConv(inputs, outputs)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x, graph)))


class Temporal(nn.Module):
    """The first layer's convolution over 9 frames: convolution, batch norm, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, (WINDOW, 1), padding=(WINDOW // 2, 0))
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Narrow, convolve (over the graph, or over 9 frames), widen, add, ReLU."""

    def __init__(self, inputs: int, outputs: int, reduction: int, over_time: bool, stride: int = 1) -> None:
        super().__init__()
        few = outputs // reduction
        if inputs != outputs or stride != 1:
            self.residual: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, (stride, 1)), nn.BatchNorm2d(outputs)
            )
        self.conv_down = nn.Conv2d(inputs, few, 1)
        self.bn_down = nn.BatchNorm2d(few)
        self.conv: nn.Module
        if over_time:
            self.conv = nn.Conv2d(few, few, (WINDOW, 1), (stride, 1), (WINDOW // 2, 0))
        else:
            self.conv = GraphConv(few, few)
        self.bn = nn.BatchNorm2d(few)
        self.conv_up = nn.Conv2d(few, outputs, 1)
        self.bn_up = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, *graph: Tensor) -> Tensor:
        kept = self.residual(x) if hasattr(self, "residual") else x
        x = self.relu(self.bn_down(self.conv_down(x)))
        x = self.relu(self.bn(self.conv(x, *graph)))
        return self.relu(self.bn_up(self.conv_up(x)) + kept)


class Layer(nn.Module):
    """A graph convolution, whose adjacency is weighed by a learned `edge`, then a temporal one."""

    def __init__(self, joints: int, inputs: int, outputs: int, reduction: int | None, stride: int = 1) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.ones(HOPS + 1, joints, joints))
        if reduction is None:
            self.scn: nn.Module = Spatial(inputs, outputs)
            self.tcn: nn.Module = Temporal(outputs)
        else:
            self.scn = Bottleneck(inputs, outputs, reduction, over_time=False)
            self.tcn = Bottleneck(outputs, outputs, reduction, over_time=True, stride=stride)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        return self.tcn(self.scn(x, graph * self.edge))


class Branch(nn.Module):
    """The layers of one kind of input (joints, velocity or bones). `A` is the adjacency."""

    def __init__(self, graph: Tensor, widths: Sequence[int], reduction: int) -> None:
        super().__init__()
        self.register_buffer("A", graph.clone())
        self.bn = nn.BatchNorm2d(widths[0])
        joints = graph.shape[-1]
        self.layers = nn.ModuleList(
            Layer(joints, widths[i], widths[i + 1], None if i == 0 else reduction) for i in range(len(widths) - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        for layer in self.layers:
            x = layer(x, self.A)
        return x


class ResGCN(nn.Module):
    """Branches, joined over channels, then the main stream: (n, branch, c, t, v) -> (n, outputs).

    A layer of the main stream that changes the width halves the time.
    Source: Song et al. 2020, Stronger, Faster and More Explainable: A Graph Convolutional Baseline for Skeleton-based
    Action Recognition, ACM MM, arXiv:2010.09978.
    """

    def __init__(
        self, graph: Tensor, branches: int, branch: Sequence[int], main: Sequence[int], reduction: int, outputs: int
    ) -> None:
        super().__init__()
        self.head = nn.ModuleList(Branch(graph, branch, reduction) for _ in range(branches))
        widths = [main[0] * branches, *main[1:]]
        self.backbone = nn.ModuleList(
            Layer(graph.shape[-1], widths[i], widths[i + 1], reduction, 1 if main[i] == main[i + 1] else 2)
            for i in range(len(main) - 1)
        )
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.fcn = nn.Linear(main[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([head(x[:, i]) for i, head in enumerate(self.head)], 1)
        for layer in self.backbone:
            x = layer(x, self.head[0].A)
        return self.fcn(self.global_pooling(x).flatten(1))


class GaitGraph1(nn.Module):
    """Poses (n, 3, t, v, 1) of x, y, score -> embedding (n, c, 1) of unit length.

    twice: the mean of two such embeddings, of the sequence and of its reverse; the mean itself is not normalised.

    Source: Teepe et al. 2021, GaitGraph: Graph Convolutional Network for Skeleton-Based Gait Recognition, ICIP,
    arXiv:2101.11228.
    Differs: the reversed sequence is a second pass, not a second half of the batch, so that a layer's first call is the
    sequence as it was; with `tta: false` the plain pass alone is normalised (upstream stops with an error).
    """

    def __init__(self, net: ResGCN, twice: bool) -> None:
        super().__init__()
        self.ResGCN, self.twice = net, twice

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., 0][:, None]
        out = F.normalize(self.ResGCN(x), dim=1)
        if self.twice:
            out = (out + F.normalize(self.ResGCN(x.flip(3)), dim=1)) / 2
        return out[..., None]


class GaitGraph2(nn.Module):
    """Joints, velocity, bones (n, t, v, 3, 5) -> embedding (n, c, 1); `thrice` adds two views.

    The views are the reversed and the mirrored sequence.
    Source: Teepe et al. 2022, Towards a Deeper Understanding of Skeleton-based Gait Recognition, CVPRW,
    arXiv:2204.07855.
    Differs: the reversed and the mirrored sequence are passes of their own (see GaitGraph1).
    """

    def __init__(self, net: ResGCN, shape: Skeleton, thrice: bool) -> None:
        super().__init__()
        self.ResGCN, self.shape, self.thrice = net, shape, thrice

    def forward(self, x: Tensor) -> Tensor:
        inputs = [x]
        if self.thrice:
            poses = x[:, :, :, 0, :3]
            for changed in (poses.flip(1), poses[:, :, list(self.shape.mirror)]):
                made = [joints_velocity_bones(pose, self.shape, self.shape.centre) for pose in changed]
                inputs.append(torch.stack(made))
        return torch.cat([self.ResGCN(part.permute(0, 3, 4, 1, 2)) for part in inputs], 1)[..., None]


def _network(model: Mapping[str, Any]) -> ResGCN:
    if model.get("block", "Bottleneck") != "Bottleneck":
        raise BadInput(f"model_cfg.block: {model['block']!r} is not supported; expected Bottleneck; try --opengait DIR")
    return ResGCN(
        adjacency(skeleton(model["joint_format"]), HOPS),
        model["input_num"],
        model["input_branch"],
        model["main_stream"],
        model["reduction"],
        model["num_class"],
    )


def build1(model: Mapping[str, Any], _dataset: str) -> GaitGraph1:
    """GaitGraph1 from an OpenGait `model_cfg`."""
    return GaitGraph1(_network(model), bool(model.get("tta", True)))


def build2(model: Mapping[str, Any], _dataset: str) -> GaitGraph2:
    """GaitGraph2 from an OpenGait `model_cfg`."""
    return GaitGraph2(_network(model), skeleton(model["joint_format"]), bool(model.get("tta", True)))
