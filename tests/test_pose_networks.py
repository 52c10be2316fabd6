"""Pose ResNet and HRNet: keys, shapes and heatmaps of the published networks; the config that builds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from torchloupe.errors import BadInput
from torchloupe.sources import subject
from torchloupe.sources.hrnet import experiment, load_weights, network

DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "pose"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/pose is absent")


def resnet_config(depth: int, joints: int = 17, size: tuple[int, int] = (192, 256)) -> dict:
    return {
        "MODEL": {
            "NAME": "pose_resnet",
            "NUM_JOINTS": joints,
            "IMAGE_SIZE": list(size),
            "HEATMAP_SIZE": [side // 4 for side in size],
            "EXTRA": {
                "FINAL_CONV_KERNEL": 1,
                "DECONV_WITH_BIAS": False,
                "NUM_DECONV_LAYERS": 3,
                "NUM_DECONV_FILTERS": [256, 256, 256],
                "NUM_DECONV_KERNELS": [4, 4, 4],
                "NUM_LAYERS": depth,
            },
        },
        "TEST": {"FLIP_TEST": True},
    }


def hrnet_config(width: int, joints: int = 17, size: tuple[int, int] = (192, 256)) -> dict:
    modules = {2: 1, 3: 4, 4: 3}
    stages = {
        f"STAGE{n}": {
            "NUM_MODULES": modules[n],
            "NUM_BRANCHES": n,
            "BLOCK": "BASIC",
            "NUM_BLOCKS": [4] * n,
            "NUM_CHANNELS": [width * 2**i for i in range(n)],
            "FUSE_METHOD": "SUM",
        }
        for n in (2, 3, 4)
    }
    return {
        "MODEL": {
            "NAME": "pose_hrnet",
            "NUM_JOINTS": joints,
            "IMAGE_SIZE": list(size),
            "HEATMAP_SIZE": [side // 4 for side in size],
            "EXTRA": {"FINAL_CONV_KERNEL": 1, "PRETRAINED_LAYERS": ["conv1", "bn1"], **stages},
        }
    }


PUBLISHED = {
    "coco_resnet_res50_256x192_d256x3": resnet_config(50),
    "coco_resnet_res101_384x288_d256x3": resnet_config(101, size=(288, 384)),
    "coco_resnet_res152_256x192_d256x3": resnet_config(152),
    "mpii_resnet_res50_256x256_d256x3": resnet_config(50, 16, (256, 256)),
    "coco_hrnet_w32_256x192": hrnet_config(32),
    "coco_hrnet_w48_384x288": hrnet_config(48, size=(288, 384)),
    "mpii_hrnet_w32_256x256": hrnet_config(32, 16, (256, 256)),
}


def write(folder: Path, config: dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def formula_weights(state: dict[str, torch.Tensor], gain: float) -> dict[str, torch.Tensor]:
    """The weights of the reference vectors: a sine over the flat index, phase by the rank of the key."""
    made = {}
    for i, key in enumerate(sorted(state)):
        old = state[key]
        base = np.sin(0.7 * np.arange(old.numel()) + 0.3 * i).reshape(old.shape)
        if not old.is_floating_point():
            made[key] = old
            continue
        if key.endswith("running_var"):
            new = 1 + 0.5 * np.abs(base)
        elif key.endswith("running_mean"):
            new = 0.1 * base
        elif old.ndim >= 2:
            new = gain * base * (old.numel() / old.shape[0]) ** -0.5
        else:
            new = 1 + 0.1 * base if key.endswith("weight") else 0.05 * base
        made[key] = torch.from_numpy(np.asarray(new)).float()
    return made


@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_key_and_shape(name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        net = network(experiment(write(tmp_path, PUBLISHED[name])))
    keys = json.loads((DATA / "keys" / f"{name}.json").read_text())
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == keys


@needs_data
@pytest.mark.parametrize("name", ["coco_resnet_res50_256x192_d256x3", "coco_hrnet_w32_256x192"])
def test_heatmaps_equal_the_reference(name: str, tmp_path: Path) -> None:
    net = network(experiment(write(tmp_path, PUBLISHED[name]))).eval()
    gain = json.loads((DATA / "vectors" / "summary.json").read_text())[name]["gain"]
    load_weights(net, formula_weights(net.state_dict(), gain), "formula")
    y, x = np.mgrid[:256, :192]
    picture = np.stack([np.sin(0.11 * y + 0.9 * c) + np.cos(0.17 * x) for c in range(3)])
    with torch.no_grad():
        made = net(torch.from_numpy(picture[None]).float()).numpy()
    reference = np.load(DATA / "vectors" / f"{name}.npy")
    assert np.abs(made - reference).max() < 1e-4 * np.ptp(reference)


def test_overrides_are_typed(tmp_path: Path) -> None:
    path = write(tmp_path, resnet_config(50))
    config = experiment(path, ["TEST.USE_GT_BBOX", "True", "TRAIN.LR", "1e-2", "TEST.MODEL_FILE", "a.pth"])
    assert config["TEST.USE_GT_BBOX"] is True
    assert config["TRAIN.LR"] == 0.01
    assert config["TEST.MODEL_FILE"] == "a.pth"
    assert config["TEST.FLIP_TEST"] is True
    assert config["DATASET.COLOR_RGB"] is False
    assert experiment(path, ["MODEL.EXTRA.NUM_LAYERS", "101"])["MODEL.EXTRA.NUM_LAYERS"] == 101
    assert experiment(path, ["GPUS", "(0,1)"])["GPUS"] == (0, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["TEST.USE_GT_BOX", "True"], "unknown key TEST.USE_GT_BOX. Did you mean USE_GT_BBOX"),
        (["TEST.USE_GT_BBOX", "maybe"], "TEST.USE_GT_BBOX is expected to be true or false, found 'maybe'"),
        (["MODEL.NUM_JOINTS", "many"], "MODEL.NUM_JOINTS is expected to be a whole number, found 'many'"),
        (["MODEL.IMAGE_SIZE", "large"], "MODEL.IMAGE_SIZE is expected to be a list, found 'large'"),
        (["MODEL", "hrnet"], "MODEL is expected to be a mapping, found 'hrnet'"),
        (["MODEL.EXTRA.NUM_LAYERS", "fifty"], "MODEL.EXTRA.NUM_LAYERS is expected to be a whole number"),
        (["TEST.MODEL_FILE"], "'TEST.MODEL_FILE' has no value"),
    ],
)
def test_a_bad_override_is_named(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message.replace("(", r"\(")):
        experiment(write(tmp_path, resnet_config(50)), overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: [", "cannot be read as an experiment file"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("MODEL:\n  NAMES: x\n", "unknown key MODEL.NAMES. Did you mean NAME"),
        ("MODEL:\n  NAME: pose_unet\n", "MODEL.NAME is 'pose_unet'; known are"),
        ("MODEL:\n  IMAGE_SIZE: [192]\n", r"MODEL.IMAGE_SIZE is expected to be \[width, height\]"),
        ("MODEL:\n  IMAGE_SIZE: [190, 256]\n", "is not a multiple of 32"),
        ("MODEL:\n  NAME: pose_resnet\n", "MODEL.EXTRA.NUM_DECONV_LAYERS is missing"),
        ("MODEL:\n  EXTRA:\n    STAGE2: {NUM_BRANCHES: 3}\n", "STAGE2.NUM_BRANCHES is expected to be one of 2"),
    ],
)
def test_a_bad_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        network(experiment(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file; expected an experiment file"):
        experiment(tmp_path / "none.yaml")


def test_a_heatmap_size_that_the_network_does_not_make_is_named(tmp_path: Path) -> None:
    config = resnet_config(50)
    config["MODEL"]["HEATMAP_SIZE"] = [24, 32]
    with pytest.raises(BadInput, match=r"makes heatmaps of \[48, 64\]"):
        network(experiment(write(tmp_path, config)))


def test_a_checkpoint_of_another_depth_or_width_is_named(tmp_path: Path) -> None:
    with torch.device("meta"):
        shallow, deep = (network(experiment(write(tmp_path, resnet_config(d)))) for d in (50, 101))
        narrow, wide = (network(experiment(write(tmp_path, hrnet_config(w)))) for w in (32, 48))
    with pytest.raises(BadInput, match=r"102 keys too many, first layer3.6.conv1.weight|keys too many, first layer3.6"):
        load_weights(shallow, deep.state_dict(), "deep.pth")
    with pytest.raises(BadInput, match=r"of another shape, first transition1.0.0.weight \[48, 256, 3, 3\]"):
        load_weights(narrow, wide.state_dict(), "wide.pth")


def small_config() -> dict:
    config = resnet_config(18)
    config["MODEL"]["EXTRA"] |= {"WIDTH": 8, "NUM_DECONV_FILTERS": [8, 8, 8]}
    return config


def test_a_subject_of_a_config_and_a_training_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, small_config())
    net = network(experiment(path))
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "a.pth")
    made = subject(f"hrnet:{path}", weights=tmp_path / "a.pth", device="cpu")
    assert made.kind == "pose"
    assert made.layers == ("deconv_layers",)
    pairs = zip(net.state_dict().values(), made.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert made.module(torch.rand(2, 3, 64, 32)).shape == (2, 17, 16, 8)
    again = subject(f"hrnet:{path}", device="cpu", cfg_options={"TEST.MODEL_FILE": str(tmp_path / "a.pth")})
    assert torch.equal(again.module.final_layer.weight, net.final_layer.weight)
    with pytest.raises(BadInput, match="does not fit the network of the config"):
        subject(f"hrnet:{path}", weights=tmp_path / "a.pth", cfg_options={"MODEL.EXTRA.NUM_LAYERS": 34})
