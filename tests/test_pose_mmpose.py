"""mmpose's own config files: what is fed and what is read, against mmpose's own inference; the commands on them."""

from __future__ import annotations

import json
import sys
import types
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diagnosis
import mmcv_operators
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image

from torchloupe.cli import main
from torchloupe.data.bodies import COCO_BODY, Crop
from torchloupe.errors import BadInput, MissingPackage
from torchloupe.probe import Batch
from torchloupe.sources import mmpose, patches, subject
from torchloupe.sources.assemble import Options
from torchloupe.sources.poses import gaussians, read
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import exchanged

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
NARROW = {"model.backbone.depth": 18, "model.head.in_channels": 512}
HEATMAPS = "td-hm_res50_8xb64-210e_coco-256x192"
SIMCC = "simcc_res50_8xb64-210e_coco-256x192"
SHARES = "td-reg_res50_8xb64-210e_coco-256x192"
UDP = "td-hm_ViTPose-small_8xb64-210e_coco-256x192"
UPWARD = {"model.head.deconv_out_channels": (8, 8, 8)}
SMALL: dict[str, dict[str, Any]] = {
    HEATMAPS: NARROW | UPWARD,
    SIMCC: NARROW | UPWARD | {"model.head.deconv_num_groups": (8, 8, 8)},
    SHARES: NARROW,
    UDP: {"model.head.deconv_out_channels": (8, 8), "model.backbone.arch.num_layers": 2},
    "rtmpose-t_8xb256-420e_coco-256x192": {},
}


@pytest.fixture(scope="module", autouse=True)
def operators() -> None:
    mmcv_operators.install()


def load(name: str) -> mmpose.Estimator:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mmpose.estimator(name, Options(device="cpu", cfg_options=SMALL[name]))


@pytest.fixture(scope="module")
def loaded(operators: None) -> dict[str, mmpose.Estimator]:
    return {name: load(name) for name in SMALL}


@needs_data
@pytest.mark.parametrize("name", SMALL)
def test_joints_are_those_of_mmpose_s_own_inference(name: str, loaded: dict[str, mmpose.Estimator]) -> None:
    """The same picture and box through mmpose's pipeline, network, flip test and codec, and through ours."""
    one = loaded[name]
    picture = SHARED / "coco" / "000000000785.jpg"
    data = diagnosis.coco(SHARED / "coco" / "test_coco.json", SHARED / "coco", one.crop)
    person = next(person for person in data.people if person.picture == picture)
    entries = json.loads((SHARED / "coco" / "test_coco.json").read_text())["annotations"]
    box = next(entry["bbox"] for entry in entries if str(entry["id"]) == person.id)
    with patches.coco_tools(import_module), patches.absent_operators():
        from mmengine.config import Config
        from mmengine.dataset import Compose, pseudo_collate
        from mmengine.registry import DefaultScope

        home = Path(str(find_spec("mmpose").origin)).parent / ".mim" / "configs"
        config = Config.fromfile(next(home.rglob(f"{name}.py")))
        corners = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float32)
        about = {"flip_indices": exchanged(data.skeleton.pairs, 17), "bbox_score": np.ones(1, np.float32)}
        with DefaultScope.overwrite_default_scope("mmpose"):
            steps = Compose(config.test_dataloader.dataset.pipeline)
            fed = pseudo_collate([steps({"img_path": str(picture), "bbox": corners, **about})])
        module: Any = one.subject.module
        with torch.no_grad():
            x = module.data_preprocessor(fed, False)["inputs"]
            found = module.eval().test_step(fed)[0].pred_instances
    ours = torch.from_numpy(read(person, one.crop).x)[None]
    # OpenCV places its samples at multiples of 1/32 pixel
    assert (ours - x).abs().mean() < 0.01
    assert one.flip
    order = exchanged(data.skeleton.pairs, 17)
    joints, scores = one.decode(Batch(x), order)
    scale, centre = np.array(person.extent), np.array(person.centre)
    at = joints[0].numpy() / np.array(one.crop.size) * scale + centre - scale / 2
    np.testing.assert_allclose(at, found.keypoints[0], atol=1e-3 * scale.max())
    np.testing.assert_allclose(scores[0].numpy(), found.keypoint_scores[0], atol=1e-5)


def test_what_is_asked_is_what_the_codec_reads(loaded: dict[str, mmpose.Estimator]) -> None:
    x = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(0))
    heatmaps = loaded[HEATMAPS].subject.output(Batch(x))
    assert heatmaps.shape == (2, 17, 64, 48)
    assert torch.equal(heatmaps, loaded[HEATMAPS].subject.module(x, None, mode="tensor"))
    assert loaded[HEATMAPS].subject.layers == ("head.deconv_layers",)
    across, down = loaded[SIMCC].subject.module(x, None, mode="tensor")
    naive = [(bins.softmax(-1) * torch.arange(bins.shape[-1])).sum(-1) / 2 for bins in (across, down)]
    assert torch.allclose(loaded[SIMCC].subject.output(Batch(x)), torch.stack(naive, -1))
    # a head of shares: the expectation is what is decoded
    shares = loaded[SHARES]
    assert torch.allclose(shares.subject.output(Batch(x)), shares.decode(Batch(x), None)[0].float(), atol=1e-4)
    assert loaded[SHARES].subject.layers == ("backbone.layer4",)
    # RTMPose is trained on softmax(10 x)
    sharp = loaded["rtmpose-t_8xb256-420e_coco-256x192"].subject
    across, _ = sharp.module(x, None, mode="tensor")
    expected = ((10 * across).softmax(-1) * torch.arange(across.shape[-1])).sum(-1) / 2
    assert torch.allclose(sharp.output(Batch(x))[..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"), [("MSRAHeatmap", {}), ("UDPHeatmap", {}), ("MSRAHeatmap", {"unbiased": True})]
)
def test_true_heatmaps_are_the_codec_s(kind: str, options: dict[str, Any], loaded: dict[str, mmpose.Estimator]) -> None:
    from mmpose.registry import KEYPOINT_CODECS

    codec = KEYPOINT_CODECS.build(
        {"type": kind, "input_size": (192, 256), "heatmap_size": (48, 64), "sigma": 2, **options}
    )
    height, subpixel = mmpose._peak(codec)
    crop = Crop(udp=kind == "UDPHeatmap", subpixel=subpixel)
    joints = np.array([[90.3, 120.9], [3.0, 250.6], [-50.0, 10.0], [191.0, 17.5]], np.float32)
    weight = np.array([1.0, 1, 1, 1], np.float32)
    theirs = codec.encode(joints[None], weight[None])
    ours, kept = gaussians(joints, weight, crop)
    assert height == pytest.approx(1)
    # the unbiased codec does not cut its blobs off at 3 sigma, where they are exp(-4.5)
    np.testing.assert_allclose(ours, theirs["heatmaps"], atol=0.012 if options else 1e-5)
    assert kept.tolist() == theirs["keypoint_weights"][0].tolist()


def test_heatmaps_of_another_height_are_scaled_to_one(loaded: dict[str, mmpose.Estimator]) -> None:
    from mmpose.registry import KEYPOINT_CODECS

    sizes = {"input_size": (192, 256), "heatmap_size": (48, 64)}
    codec = KEYPOINT_CODECS.build({"type": "MegviiHeatmap", "kernel_size": 11, **sizes})
    height, _ = mmpose._peak(codec)
    assert height == pytest.approx(255)
    made = mmpose._read([[torch.full((1, 2, 4, 4), 51.0)]], codec=codec, size=(192, 256), beta=1, height=height)
    assert made.unique().tolist() == pytest.approx([0.2])
    with pytest.raises(BadInput, match=r"mmpose's head gave \(3, 4\); expected heatmaps"):
        mmpose._read(torch.zeros(3, 4), codec=codec, size=(192, 256), beta=1, height=1)


@needs_data
def test_the_commands_take_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Path(str(find_spec("mmpose").origin)).parent / ".mim" / "configs"
    config = next(home.rglob(f"{SHARES}.py"))
    changes = [word for key, value in SMALL[SHARES].items() for word in (key, str(value))]
    common = [
        "--cfg",
        str(config),
        "--data",
        str(SHARED / "coco"),
        "--annotations",
        str(SHARED / "coco" / "test_coco.json"),
    ]
    some = [*common, "--ids", "0", "-o", str(tmp_path / "run"), *changes]
    assert main(["pose", "ig", "--steps", "2", "--places", "even", "--path", "straight", *some]) == 0
    kept = Stream(tmp_path / "run", "ig").arrays("0")
    assert np.isfinite(kept["DI"]).any()
    assert main(["pose", "epe", *some]) == 0
    assert Stream(tmp_path / "run", "epe").settings()["decoded"] == "codec"
    assert "AP " in capsys.readouterr().out
    assert main(["pose", "epe", *common, "-o", str(tmp_path / "x"), "--coordinates", "unit"]) == 2
    assert "read in pixels of the input" in capsys.readouterr().err
    assert main(["pose", "epe", *common, "-o", str(tmp_path / "x"), "model.backbone.depth"]) == 2
    assert "'model.backbone.depth' has no value" in capsys.readouterr().err


@needs_data
def test_a_heatmap_of_what_makes_the_model_sure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(SHARED / "coco" / "000000000785.jpg")
    changes = [f"{key}={value}".replace(" ", "") for key, value in SMALL[HEATMAPS].items()]
    words = [picture, "--model", f"mmpose:{HEATMAPS}", "--save", str(tmp_path), "--target", "9", "top2"]
    assert main(["cam", *words, "--cfg-options", *changes]) == 2
    assert "at once: give either" in capsys.readouterr().err
    words.remove("top2")
    assert main(["cam", *words, "--cfg-options", *changes]) == 0
    arrays = np.load(next(tmp_path.glob("*.npz")))
    assert arrays["map/gradcam/head.deconv_layers"].shape == (1, 1, 64, 48)


@needs_data
def test_features_layers_and_differences_of_an_estimator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [str(SHARED / "coco" / f"{name}.jpg") for name in ("000000000785", "000000196141")]
    model = ["--model", f"mmpose:{HEATMAPS}"]
    options = ["--cfg-options", *(f"{key}={value}".replace(" ", "") for key, value in SMALL[HEATMAPS].items())]
    assert main(["layers", model[1], *options]) == 0
    assert "default: head.deconv_layers" in capsys.readouterr().out
    places = ["--at", "backbone.layer2", "head.deconv_layers"]
    assert main(["features", *pictures, *model, *places, "--save", str(tmp_path / "f"), *options]) == 0
    held = np.load(tmp_path / "f" / "000000000785-features.npz")
    assert {(128, 1, 32, 24), (8, 1, 64, 48)} <= {value.shape[-4:] for value in held.values()}
    assert main(["diff", *pictures, *model, "--save", str(tmp_path / "d"), *options]) == 0
    assert list((tmp_path / "d").glob("*.png"))
    each = ["--target", "left_wrist", "0", "--each", "--save", str(tmp_path / "c")]
    assert main(["cam", *pictures, *model, *each, *options]) == 0
    names = {path.name for path in (tmp_path / "c").glob("*.png")}
    assert names == {
        "000000000785-gradcam-head.deconv_layers-left_wrist.png",
        "000000196141-gradcam-head.deconv_layers-nose.png",
    }


def test_whole_pictures_are_fed_in_the_config_s_colours() -> None:
    """For commands that do not crop people: as the network's channels are, RGB or BGR."""
    picture = Image.fromarray(np.full((64, 48, 3), (255, 51, 102), np.uint8))
    colours = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.2)}
    for rgb, channels in ((True, (1.0, 0.2, 0.4)), (False, (0.4, 0.2, 1.0))):
        made = mmpose._preparation(Crop(size=(48, 64), rgb=rgb, **colours)).steps(picture)
        expected = [(c - m) / s for c, m, s in zip(channels, colours["mean"], colours["std"], strict=True)]
        assert made.mean((1, 2)).tolist() == pytest.approx(expected, abs=1e-5)


def test_what_a_config_says_about_crop_and_output() -> None:
    codec = types.SimpleNamespace(heatmap_type="combined")
    offsets = torch.arange(2 * 9 * 4.0).view(2, 9, 2, 2)
    made = mmpose._read(offsets, codec=codec, size=(192, 256), beta=1, height=1)
    assert torch.equal(made, offsets[:, [0, 3, 6]])
    inner = {"pipeline": [{"type": "TopdownAffine", "input_size": (96, 128)}]}
    assert mmpose._step(ConfigDict(dataset={"dataset": inner}), "TopdownAffine", "x")["input_size"] == (96, 128)
    head = types.SimpleNamespace(heatmap_size=(24, 32), sigma=1.5, encode=lambda **_: {"heatmaps": np.ones(1)})
    head.scale_factor = np.array([4.0, 4.0])
    crop = mmpose._crop(types.SimpleNamespace(), head, {}, {"input_size": (192, 256)})
    assert (crop.sigma, crop.heatmap) == (1.5, (24, 32))


def test_joints_have_the_names_of_the_config_s_data_set(loaded: dict[str, mmpose.Estimator]) -> None:
    assert loaded[HEATMAPS].subject.classes == COCO_BODY.joints
    for about in ({}, {"metainfo": {"from_file": "nowhere.py"}}):
        assert mmpose._joints({"type": "Unknown", **about}) == ((), ())
    own = {"dataset_name": "x", "joint_weights": [], "sigmas": [0.1, 0.2], "skeleton_info": {}}
    points = {1: {"name": "tail", "id": 1, "color": [0] * 3}, 0: {"name": "head", "id": 0, "color": [0] * 3}}
    assert mmpose._joints({"metainfo": {**own, "keypoint_info": points}}) == (
        ("head", "tail"),
        pytest.approx((0.1, 0.2)),
    )


def test_what_is_not_top_down_or_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="has no GetBBoxCenterScale, so that it is no top-down estimator"):
        subject("mmpose:dekr_hrnet-w32_8xb10-140e_coco-512x512")
    with pytest.raises(BadInput, match=f"Did you mean {HEATMAPS}"):
        subject(f"mmpose:{HEATMAPS.replace('res50', 'res51')}")
    with pytest.raises(BadInput, match="size, mean and std are the config's"):
        subject(f"mmpose:{HEATMAPS}", size=64)
    monkeypatch.setattr(mmpose, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match="pip install --no-deps 'mmpose"):
        subject(f"mmpose:{HEATMAPS}")


def test_stand_ins_are_there_only_while_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "mmcv._ext" or name.startswith("xtcocotools")]:
        monkeypatch.delitem(sys.modules, name)
    with patches.coco_tools(import_module), patches.absent_operators():
        operator = sys.modules["mmcv._ext"].deform_conv_forward
        from xtcocotools.coco import COCO
    assert COCO.__module__.endswith("tools.coco")
    assert "mmcv._ext" not in sys.modules
    with pytest.raises(MissingPackage, match="compiled operator deform_conv_forward"):
        operator()
