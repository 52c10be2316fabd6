"""`model_cfg` and data set of every OpenGait model that torchloupe builds, by the name of its reference file."""

from __future__ import annotations

BINS = [16, 8, 4, 2, 1]
PLAIN = ["BC-32", "BC-32", "M", "FC-64-2", "FC-64-2", "M", "FC-128-3", "FC-128-3"]
PLAIN_WIDE = ["BC-32", "BC-32", "M", "BC-64", "BC-64", "M", "FC-128-3", "FC-128-3", "FC-256-3", "FC-256-3"]
RESNET = {
    "type": "ResNet9",
    "block": "BasicBlock",
    "channels": [64, 128, 256, 512],
    "layers": [1, 1, 1, 1],
    "strides": [1, 2, 2, 1],
    "maxpool": False,
}


def head(inputs: int, outputs: int, parts: int) -> dict:
    return {"SeparateFCs": {"in_channels": inputs, "out_channels": outputs, "parts_num": parts}}


def gaitset(channels: list[int]) -> dict:
    return {"model": "GaitSet", "in_channels": [1, *channels], "bin_num": BINS, **head(channels[-1], 256, 62)}


def gaitpart(layers: list[str], width: int, outputs: int) -> dict:
    backbone = {"in_channels": 1, "layers_cfg": layers, "type": "Plain"}
    return {"model": "GaitPart", "backbone_cfg": backbone, "bin_num": [16], **head(width, outputs, 16)}


def gln(pretraining: bool) -> dict:
    return {
        "model": "GLN",
        "in_channels": [1, 32, 64, 128],
        "bin_num": BINS,
        "lateral_dim": 256,
        "hidden_dim": 256,
        "dropout": 0.9,
        "class_num": 74,
        "Lateral_pretraining": pretraining,
        **head(256, 256, 93),
    }


def gaitbase(classes: int) -> dict:
    necks = {"class_num": classes, "in_channels": 256, "parts_num": 16}
    return {
        "model": "Baseline",
        "backbone_cfg": RESNET,
        "bin_num": [16],
        "SeparateBNNecks": necks,
        **head(512, 256, 16),
    }


def deepgait(classes: int, layers: list[int], inputs: int = 1, mode: str = "p3d") -> dict:
    backbone = {"mode": mode, "in_channels": inputs, "layers": layers, "channels": [64, 128, 256, 512]}
    return {"model": "DeepGaitV2", "Backbone": backbone, "SeparateBNNecks": {"class_num": classes}}


def gaitgraph(model: str, joint_format: str, inputs: list[int], main: list[int], reduction: int, outputs: int) -> dict:
    return {
        "model": model,
        "joint_format": joint_format,
        "input_num": 1 if model == "GaitGraph1" else 3,
        "reduction": reduction,
        "block": "Bottleneck",
        "input_branch": inputs,
        "main_stream": main,
        "num_class": outputs,
        "tta": True,
    }


def gaittr(joint_format: str, outputs: int) -> dict:
    channels = [10, 64, 64, 128, 256]
    return {"model": "GaitTR", "in_channels": channels, "num_class": outputs, "joint_format": joint_format}


_GG1 = ([3, 64, 64, 32], [32, 128, 128, 256, 256], 8)
MODELS: dict[str, tuple[dict, str]] = {
    "gaitset_casiab": (gaitset([32, 64, 128]), "CASIA-B"),
    "gaitset_oumvlp": (gaitset([64, 128, 256]), "OUMVLP"),
    "gaitpart_casiab": (gaitpart(PLAIN, 128, 128), "CASIA-B"),
    "gaitpart_oumvlp": (gaitpart(PLAIN_WIDE, 256, 256), "OUMVLP"),
    "gaitgl_casiab": ({"model": "GaitGL", "channels": [32, 64, 128], "class_num": 74}, "CASIA-B"),
    "gaitgl_oumvlp": ({"model": "GaitGL", "channels": [32, 64, 128, 256], "class_num": 5153}, "OUMVLP"),
    "gaitgl_grew_bnneck": (
        {
            "model": "GaitGL",
            "channels": [32, 64, 128, 256],
            "class_num": 20000,
            "SeparateBNNecks": {"class_num": 20000, "in_channels": 256, "parts_num": 64},
        },
        "GREW",
    ),
    "gln_p1_casiab": (gln(True), "CASIA-B"),
    "gln_p2_casiab": (gln(False), "CASIA-B"),
    "gaitbase_casiab": (gaitbase(74), "CASIA-B"),
    "gaitbase_oumvlp": (gaitbase(5153), "OUMVLP"),
    "gaitbase_grew": (gaitbase(20000), "GREW"),
    "gaitbase_gait3d": (gaitbase(3000), "Gait3D"),
    "lidargait": (
        {**gaitbase(250), "backbone_cfg": {**RESNET, "in_channel": 3}},
        "SUSTech1K",
    ),
    "deepgaitv2_casiab": (deepgait(74, [1, 1, 1, 1]), "CASIA-B"),
    "deepgaitv2_oumvlp": (deepgait(5153, [1, 1, 1, 1]), "OUMVLP"),
    "deepgaitv2_gait3d": (deepgait(3000, [1, 4, 4, 1]), "Gait3D"),
    "skeletongait_gait3d": (deepgait(3000, [1, 4, 4, 1], inputs=2), "Gait3D"),
    "skeletongaitpp_gait3d": (
        {
            "model": "SkeletonGaitPP",
            "Backbone": {"in_channels": 3, "blocks": [1, 4, 4, 1], "C": 2},
            "SeparateBNNecks": {"class_num": 3000},
        },
        "Gait3D",
    ),
    "gaitgraph1_casiab": (gaitgraph("GaitGraph1", "coco", *_GG1, 128), "CASIA-B"),
    "gaitgraph1_oumvlp": (gaitgraph("GaitGraph1", "alphapose", *_GG1, 256), "OUMVLP"),
    "gaitgraph2_casiab": (gaitgraph("GaitGraph2", "coco", [5, 64, 32], [32, 128, 256], 8, 128), "CASIA-B"),
    "gaitgraph2_oumvlp": (
        gaitgraph("GaitGraph2", "alphapose", [5, 64, 64, 32], [32, 128, 128, 128, 256, 256, 256], 4, 128),
        "OUMVLP",
    ),
    "gaittr_gait3d": (gaittr("coco", 128), "Gait3D"),
    "gaittr_oumvlp": (gaittr("alphapose", 256), "OUMVLP"),
}
