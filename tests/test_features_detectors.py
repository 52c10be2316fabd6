"""Detectors of mmdet (its own config files), torchvision and transformers: features, differences, heatmaps of boxes."""

from __future__ import annotations

import warnings
from pathlib import Path

import mmcv_operators
import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.cam import gradcam
from torchloupe.probe import Probe, Subject
from torchloupe.sites import capture, features
from torchloupe.sources import subject
from torchloupe.sources.detectors import Rows, upright
from torchloupe.sources.images import pictures
from torchloupe.targets.boxes import Boxes, Region

SMALL = {
    "test_dataloader.dataset.pipeline.1.scale": (160, 128),
    "model.test_cfg.nms_pre": 20,
    "model.test_cfg.score_thr": 0.0,
}


@pytest.fixture(scope="module", autouse=True)
def operators() -> None:
    mmcv_operators.install()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("street") / "street.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 128)).save(path)
    return str(path)


def load(spec: str, **options: object) -> Subject:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return subject(spec, device="cpu", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def retinanet(operators: None) -> Subject:
    return load("mmdet:retinanet_r50_fpn_1x_coco", cfg_options=SMALL)


def check(found: Subject, street: str) -> None:
    """The heatmap of the best box is finite, not empty and the size of the layer; nothing is left behind."""
    batch = pictures(street, found)
    maps = gradcam(Probe(found, found.layers, Boxes(1, names=found.classes)), batch)
    (values,) = maps.maps.values()
    assert values.shape[:2] == (1, 1)
    assert torch.isfinite(values).all()
    assert 0 < maps.scores.value.item() <= 1
    assert not any(part._forward_hooks for part in found.module.modules())


def test_two_retinanets_of_mmdet_differ_at_every_level(street: str, tmp_path: Path) -> None:
    config = tmp_path / "diff.py"
    levels = ", ".join(f"p{i + 3}=dict(recorder='neck', data_idx={i})" for i in range(4))
    config.write_text(
        "".join(
            f"recorders{i} = dict(neck=dict(_scope_='mmrazor', type='ModuleOutputs', source='neck'))\n"
            f"mappings{i} = dict({levels})\n"
            for i in (1, 2)
        )
    )
    models = [f"--model={depth}" for depth in ("retinanet_r50_fpn_1x_coco", "retinanet_r101_fpn_1x_coco")]
    overrides = [f"{key}={value}".replace(" ", "") for key, value in SMALL.items()]
    words = ["--repo", "mmdet", "--vis-config", str(config), "--channel-reduction", "pixel_wise_max", "--overlaid"]
    torch.manual_seed(0)
    status = main(
        ["diff", street, *models, *words, "--use-norm", "--dpi", "60", "-o", str(tmp_path), "--cfg-options", *overrides]
    )
    assert status == 0
    arrays, record = store.load(tmp_path / "difference.npz")
    assert record["points"] == ["p3", "p4", "p5", "p6"]
    assert arrays["a/p3"].shape == arrays["b/p3"].shape == (256, 1, 16, 20)
    assert all(row["mean"] > 0 for row in record["figures"].values())
    assert (tmp_path / "difference.png").is_file()


def test_mmdet_heatmaps_of_boxes(street: str, retinanet: Subject) -> None:
    found = retinanet
    assert found.kind == "detector"
    assert found.layers == ("backbone.layer4",)
    assert len(found.classes) == 80
    import mmdet.models.dense_heads.base_dense_head as head

    before = head.select_single_mlvl
    check(found, street)
    assert head.select_single_mlvl is before
    function = "fn:mmdet.models.dense_heads.base_dense_head.select_single_mlvl#0@0"
    seen = capture(found, pictures(street, found), ("neck", function))
    assert [tuple(seen[f"neck@{i}"].value.shape[-2:]) for i in range(3)] == [(16, 20), (8, 10), (4, 5)]
    assert seen[function].raw.shape == (720, 16, 20)


def test_the_picture_is_what_the_network_saw_undone(street: str, retinanet: Subject) -> None:
    seen = pictures(street, retinanet).pictures
    assert seen is not None
    want = np.asarray(Image.open(street).convert("RGB"))
    assert np.abs(seen[0, 0, :128, :160].numpy().astype(int) - want).max() <= 1


def test_torchvision(street: str) -> None:
    found = load("torchvision:retinanet_resnet50_fpn?min_size=128&score_thresh=0.0&topk_candidates=20")
    assert (found.kind, found.layers) == ("detector", ("backbone.body.layer4",))
    check(found, street)
    assert len(features(found, pictures(street, found), ("backbone",)).values) == 5


def test_several_questions_about_two_stages(street: str) -> None:
    """Where torchvision's roi_align is not compiled, its stand-in in Python must answer more than one backward."""
    spec = (
        "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn?min_size=96&box_score_thresh=0.0&rpn_post_nms_top_n_test=12"
    )
    found = load(spec)
    maps = gradcam(Probe(found, found.layers, Boxes(3, names=found.classes)), pictures(street, found))
    assert not maps.empty
    assert maps.scores.value.shape == (3, 1)


def test_a_detector_that_is_built_already(street: str) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0)
    found = subject(module, device="cpu", classes=["nothing", "cat", "dog"])
    assert found.kind == "detector"
    assert found.prepare is not None
    scores, _ = Probe(found, found.layers, Boxes(2, names=found.classes)).ask(pictures(street, found))
    assert scores.value.shape == (2, 1)


def test_segmenters_see_the_whole_picture(street: str) -> None:
    found = load("torchvision:lraspp_mobilenet_v3_large", size=(64, 80))
    assert (found.kind, len(found.classes)) == ("segmenter", 21)
    assert found.layers[0].startswith("backbone.")
    batch = pictures(street, found)
    assert batch.size == (1, 64, 80)
    maps = gradcam(Probe(found, found.layers, Region(k=2, names=found.classes)), batch)
    assert maps[found.layers[0]].shape[:2] == (2, 1)
    kind = "transformers:segformer?architectures=['SegformerForSemanticSegmentation']"
    former = load(kind, size=64)
    assert (former.kind, former.layers) == ("segmenter", ("segformer.stages.3",))


def test_detr(street: str) -> None:
    found = load("transformers:detr?num_queries=5&encoder_layers=1&decoder_layers=1&d_model=32", size=64)
    assert found.kind == "detector"
    check(found, street)


def test_unknown_configs_and_repositories() -> None:
    with pytest.raises(BadInput, match="Did you mean"):
        load("mmdet:retinanet_r50_fpn_1x_cocoo")
    with pytest.raises(ImportError, match="mmseg is not installed"):
        load("mmseg:anything")


def test_rotated_boxes_stand_in_upright_ones() -> None:
    boxes = torch.tensor([[50.0, 40, 20, 10, 0], [50, 40, 20, 10, torch.pi / 2], [50, 40, 20, 20, torch.pi / 4]])
    half = 20 / 2**0.5
    want = [[40, 35, 60, 45], [45, 30, 55, 50], [50 - half, 40 - half, 50 + half, 40 + half]]
    assert torch.allclose(upright(boxes), torch.tensor(want), atol=1e-4)
    assert upright(torch.zeros(3, 4)).shape == (3, 4)


def test_rows_that_are_changed_in_place_keep_their_gradient() -> None:
    scores = torch.rand(2, 3, requires_grad=True)
    with Rows():
        for row in scores.sigmoid():
            row *= 2
            row.sum().backward(retain_graph=True)
    want = scores.detach().sigmoid()
    assert torch.allclose(scores.grad, 2 * want * (1 - want))
    plain = torch.zeros(2, 3)
    with Rows():
        for row in plain:
            row += 1
        assert [part.shape for part in torch.zeros(2, 3).unbind(dim=1)] == [(2,)] * 3
    assert plain.sum() == 6


LITE = """
import sys
sys.path.insert(0, {tests!r})
import conftest
import numpy as np
from PIL import Image
from torchloupe import store
from torchloupe.cli import main
Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save({out!r} + "/a.png")
words = [{out!r} + "/a.png", "--model", "mmdet:" + {config!r}, "--cfg-options", "test_dataloader.dataset.pipeline.1.scale=(96,64)"]
points = ["--at", "backbone.layer2", "neck@0", "--channel-reduction", "squeeze_mean", "-o", {out!r}, "--dpi", "40"]
assert main(["features", *words, *points]) == 0
assert "mmcv._ext" not in sys.modules
arrays, _ = store.load({out!r} + "/a-features.npz")
assert arrays["value/backbone.layer2"].shape[0] == 128 and arrays["value/neck@0"].shape[0] == 256
assert main(["cam", *words, "--layers", "backbone.layer2", "--save", {out!r} + "/cam"]) == 2
"""


def test_features_of_a_detector_need_no_compiled_operators(tmp_path):
    """In a process of its own, beside mmcv-lite: the backbone and the neck run, boxes are refused in one line."""
    import subprocess
    import sys

    import mmdet

    config = Path(mmdet.__file__).parent / ".mim/configs/retinanet/retinanet_r18_fpn_1x_coco.py"
    places = {"tests": str(Path(__file__).parent), "config": str(config), "out": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", LITE.format(**places)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mmcv without its compiled operators" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("loupe: error: ")


TWO = """
import sys
sys.path.insert(0, {tests!r})
import conftest
import numpy as np
from PIL import Image
from torchloupe import store
from torchloupe.cli import main
Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save({out!r} + "/a.png")
small = ["test_dataloader.dataset.pipeline.1.scale=(96,64)", "model.backbone.depth=18", "model.neck.in_channels=[64,128,256,512]"]
two = [{out!r} + "/a.png", "--model", "mmdet:" + {two!r}]
rest = ["--dpi", "40", "--cfg-options", *small]
assert main(["features", *two, "--at", "neck@0", "rpn_head.rpn_cls#0", "-o", {out!r} + "/two", *rest]) == 0
arrays, _ = store.load({out!r} + "/two/a-features.npz")
assert arrays["value/neck@0"].shape[0] == 256 and arrays["value/rpn_head.rpn_cls#0"].shape[0] == 3
both = [*two, "--model", "mmdet:" + {config!r}]
assert main(["diff", *both, "--at", "neck@0", "--channel-reduction", "squeeze_mean", "-o", {out!r} + "/diff", *rest]) == 0
arrays, _ = store.load({out!r} + "/diff/difference.npz")
assert arrays["a/neck@0"].shape[0] == arrays["b/neck@0"].shape[0] > 0
assert "mmcv._ext" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_stages_and_differences_need_no_compiled_operators(tmp_path):
    """The backbone, the neck and the first stage's head of a Faster R-CNN run; what chooses boxes is not asked."""
    import subprocess
    import sys

    import mmdet

    home = Path(mmdet.__file__).parent / ".mim/configs"
    places = {"tests": str(Path(__file__).parent), "out": str(tmp_path),
              "config": str(home / "retinanet/retinanet_r18_fpn_1x_coco.py"),
              "two": str(home / "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", TWO.format(**places)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
