"""Where in time and space each layer of a gait network lies: tables of name patterns, read from the top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from torchloupe.axes import Layout
from torchloupe.networks.gait.deepgait import DeepGaitV2, SkeletonGaitPP
from torchloupe.networks.gait.gaitbase import GaitBase
from torchloupe.networks.gait.gaitgl import GaitGL
from torchloupe.networks.gait.gaitpart import GaitPart, Plain
from torchloupe.networks.gait.gaitset import GaitSet
from torchloupe.networks.gait.gaittr import GaitTR
from torchloupe.networks.gait.gln import GLN
from torchloupe.networks.gait.resgcn import GaitGraph1, GaitGraph2


@dataclass(frozen=True)
class Seen:
    """How a layer's output lies over the sequence.

    step: frames for one time step of the layer, where a convolution strides over time without padding; None: found from
        the lengths.
    band: (number, count) where the layer sees one of count equal strips of the height only.
    word: why the layer cannot be drawn, or what to know about its map.
    """

    layout: Layout | None
    step: int | None = None
    band: tuple[int, int] | None = None
    word: str = ""


Table = tuple[tuple[str, Seen], ...]
FRAMES = Seen(Layout("(n t) c h w"))
SEQUENCE = Seen(Layout("n c t h w"))
STRIPPED = Seen(Layout("(n t) c h w", join="h"))
POOLED = Seen(Layout("n c h w"))
PARTS = Seen(Layout("n c h"))
JOINTS = Seen(Layout("n c t h"))
UNUSED = Seen(None, word="the embedding does not pass through it")


def _gaitset(net: GaitSet) -> Table:
    return (
        ("set_block?", SEQUENCE),
        ("set_block?.*", FRAMES),
        ("Head", Seen(Layout("n c h", bins=net.bins * 2))),
        ("*", POOLED),
    )


def _gaitpart(net: GaitPart) -> Table:
    count = net.Head.fc_bin.shape[0]
    word = "time course of one strip; it has no columns"
    bands = tuple(
        (f"TFA.pooling_func.conv1d3x?.{i}*", Seen(Layout("n c t"), band=(i, count), word=word))
        for i in sorted(range(count), reverse=True)
    )
    return (
        ("Backbone", SEQUENCE),
        ("Backbone.*", STRIPPED),
        ("HPP", Seen(Layout("n c t h", bins=net.HPP.bins if len(net.HPP.bins) > 1 else ()))),
        *bands,
        ("TFA.pooling_func.*_pool*", Seen(Layout("(n h) c t"))),
        ("*", PARTS),
    )


def _gaitgl(net: GaitGL) -> Table:
    stacked = Seen(Layout("n c t (g h) w", sizes={"g": 2}), net.STEP)
    parts = Seen(Layout("n c (g h)", sizes={"g": 2}))
    strips = Seen(Layout("n c t h w", join="h"), net.STEP)
    last = "GLConvB2.1" if isinstance(net.GLConvB2, nn.Sequential) else "GLConvB2"
    return (
        ("conv3d*", SEQUENCE),
        ("GLConvB2", stacked),
        (last, stacked),
        ("LTA*", strips),
        ("GLConv*", strips),
        ("MaxPool0", strips),
        ("TP", Seen(Layout("n c (g h) w", sizes={"g": 2}))),
        ("Head1", UNUSED),
        ("BNNecks*", UNUSED),
        ("*", parts),
    )


def _gln(net: GLN) -> Table:
    return (
        ("sil_stage_?", SEQUENCE),
        ("MaxP_sil", SEQUENCE),
        ("sil_stage_?.*", FRAMES),
        ("MaxP_sil.*", FRAMES),
        ("Head", Seen(Layout("n c h", bins=net.bins * 3))),
        ("encoder_bn", UNUSED),
        ("reduce_*", UNUSED),
        ("*", POOLED),
    )


def _necks(after_neck: bool) -> Table:
    if not after_neck:
        return (("FCs", PARTS), ("BNNecks*", UNUSED))
    flat = Seen(Layout("n (c h)", sizes={"h": 16}))
    return (("FCs", PARTS), ("BNNecks.bn1d", flat), ("BNNecks", PARTS))


def _gaitbase(net: GaitBase) -> Table:
    inside = STRIPPED if isinstance(net.Backbone.forward_block, Plain) else FRAMES
    return (*_necks(False), ("Backbone", SEQUENCE), ("Backbone.*", inside), ("TP", POOLED))


def _deepgait(net: DeepGaitV2 | SkeletonGaitPP) -> Table:
    two = hasattr(net.layer2, "forward_block")
    deep: Table = (("layer[234]", SEQUENCE), ("layer[234].*", FRAMES)) if two else ()
    return (
        *_necks(net.after_neck),
        ("*layer[01]", SEQUENCE),
        ("*layer[01].*", FRAMES),
        ("fusion.conv.*", FRAMES),
        *deep,
        ("layer[234].*.forward_block*", FRAMES),
        ("TP", POOLED),
        ("*", SEQUENCE),
    )


def _resgcn(_net: GaitGraph1 | GaitGraph2) -> Table:
    return (
        ("ResGCN", Seen(Layout("n c"), word="one vector for the sequence")),
        ("ResGCN.fcn", Seen(Layout("n c"), word="one vector for the sequence")),
        ("ResGCN.global_pooling", Seen(Layout("n c h w"), word="one vector for the sequence")),
        ("*", JOINTS),
    )


def _gaittr(net: GaitTR) -> Table:
    joints = net.joints
    return (
        ("data_bn", Seen(Layout("n (h c) t", sizes={"h": joints}))),
        ("*.st.data_bn", Seen(Layout("n (c h) t", sizes={"h": joints}))),
        ("*.attention_conv", Seen(Layout("(n t) c h"))),
        ("*.attention_conv.*", Seen(Layout("(n t) c o h"))),
        ("fcn", Seen(Layout("n c o"), word="one vector for the sequence")),
        ("*", JOINTS),
    )


def _msgg(_net: nn.Module) -> Table:
    return (
        ("st_gcn_networks_lowSemantic.*", JOINTS),
        ("st_gcn_networks_mediumSemantic.*", Seen(None, word="its nodes are pairs of joints")),
        ("st_gcn_networks_highSemantic.*", Seen(None, word="its nodes are groups of four joints")),
        ("fc", Seen(Layout("n c"), word="one vector for the sequence")),
        ("*", UNUSED),
    )


# by class, or by name where only a checkout has it
TABLES: dict[type[nn.Module] | str, Callable[..., Table]] = {
    GaitSet: _gaitset,
    GaitPart: _gaitpart,
    GaitGL: _gaitgl,
    GLN: _gln,
    GaitBase: _gaitbase,
    DeepGaitV2: _deepgait,
    SkeletonGaitPP: _deepgait,
    GaitGraph1: _resgcn,
    GaitGraph2: _resgcn,
    GaitTR: _gaittr,
    "MultiScaleGaitGraph": _msgg,
}
DEFAULTS: dict[type[nn.Module] | str, str] = {
    GaitSet: "set_block1 set_block2 set_block3 gl_block2 gl_block3",
    GaitPart: (
        "Backbone.forward_block.feature.3 Backbone.forward_block.feature.8 Backbone.forward_block.feature.13 "
        "TFA.pooling_func.max_pool3x1"
    ),
    GaitGL: "conv3d LTA GLConvA0 GLConvA1 GLConvB2",
    GLN: "sil_stage_0 sil_stage_1 sil_stage_2 set_stage_1 set_stage_2 smooth_layer1 smooth_layer2 smooth_layer3",
    GaitBase: " ".join(f"Backbone.forward_block.layer{i}" for i in (1, 2, 3, 4)),
    DeepGaitV2: "layer1 layer2 layer3 layer4",
    SkeletonGaitPP: "sil_layer1 map_layer1 fusion layer2 layer3 layer4",
    GaitTR: "backbone.0 backbone.1 backbone.2 backbone.3",
    "MultiScaleGaitGraph": " ".join(f"st_gcn_networks_lowSemantic.{i}" for i in (1, 3, 5, 7)),
}


def seen(net: nn.Module, name: str) -> Seen | None:
    """How a layer (without '#') of a network lies over the sequence; None for one that no table tells of."""
    table = TABLES.get(type(net)) or TABLES.get(type(net).__name__)
    if table is None:
        return None
    return next((found for pattern, found in table(net) if fnmatchcase(name, pattern)), None)


def default_layers(net: nn.Module) -> tuple[str, ...]:
    """The layers to look at where none are named: the ends of the stages."""
    if isinstance(net, (GaitGraph1, GaitGraph2)):
        first = "#0" if passes(net) > 1 else ""
        main = [f"ResGCN.backbone.{i}{first}" for i in range(len(net.ResGCN.backbone))]
        return (*(f"ResGCN.head.{i}{first}" for i in range(len(net.ResGCN.head))), *main)
    if isinstance(net, GaitBase) and isinstance(net.Backbone.forward_block, Plain):
        parts = list(net.Backbone.forward_block.feature)
        ends = [i - 1 for i, part in enumerate(parts) if isinstance(part, nn.MaxPool2d)] + [len(parts) - 1]
        return tuple(f"Backbone.forward_block.feature.{i}" for i in ends)
    return tuple((DEFAULTS.get(type(net)) or DEFAULTS.get(type(net).__name__, "")).split())


def passes(net: nn.Module) -> int:
    """How often the whole network runs in one forward (test-time augmentation of skeletons); the first is plain."""
    if isinstance(net, GaitGraph1):
        return 2 if net.twice else 1
    return 3 if isinstance(net, GaitGraph2) and net.thrice else 1


def windows(length: int, frames: int, step: int | None) -> list[tuple[int, int]]:
    """The frames [start, stop) that each of `length` time steps of a layer stands for.

    One step for the whole sequence; a step for each frame; or steps of `step` frames, exactly those that an unpadded
    strided convolution saw, so that frames of the tail may be in none. More steps than frames: the input was repeated.
    """
    if length == frames:
        return [(i, i + 1) for i in range(frames)]
    if length == 1 and (step is None or frames < step):
        return [(0, frames)]
    if length > frames:
        return [(i % frames, i % frames + 1) for i in range(length)]
    width = step or -(-frames // length)
    return [(i * width, min((i + 1) * width, frames)) for i in range(length)]
