"""mmdet's own pipelines in loupe browse: boxes and masks that go along, mixtures of several pictures, colours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mmcv_operators
import numpy as np
import pytest
from PIL import Image

from torchloupe.methods.browse import Census, samples, seed_of
from torchloupe.sources.datasets import feeds

SQUARE = (10, 20, 30, 15)  # x, y, width, height


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """Five pictures of one grey each with a red rectangle, and COCO annotations that say where."""
    mmcv_operators.install()
    root = tmp_path_factory.mktemp("coco")
    x, y, w, h = SQUARE
    about = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for k in range(5):
        picture = np.full((60, 80, 3), 40 * k, np.uint8)
        picture[y : y + h, x : x + w] = 250, 20, 20
        Image.fromarray(picture).save(root / f"{k}.png")
        about["images"].append({"id": k, "file_name": f"{k}.png", "width": 80, "height": 60})
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        about["annotations"].append({"id": k, "image_id": k, "category_id": 1, "bbox": list(SQUARE), "iscrowd": 0,
                                     "area": w * h, "segmentation": [corners]})  # fmt: skip
    (root / "coco.json").write_text(json.dumps(about))
    return root


def feed_of(name: str, coco: Path, prefix: str, phase: str = "train", **more):
    import mmdet

    path = Path(mmdet.__file__).parent / ".mim/configs" / name
    changes = {f"{prefix}.data_root": f"{coco}/", f"{prefix}.ann_file": "coco.json", f"{prefix}.data_prefix.img": ""}
    (feed,) = feeds(str(path), phase=phase, changes={**changes, **more})
    return feed


def red(picture: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 of the red pixels."""
    rows, columns = np.nonzero((picture[..., 0] > 120) & (picture[..., 1] < 90))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


def test_boxes_and_masks_lie_on_the_red_rectangle_after_every_step(coco):
    feed = feed_of("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", coco, "train_dataloader.dataset")
    for seed in range(4):
        steps = feed.sample(2, seed).steps
        assert [step.name for step in steps] == [
            "LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs"]  # fmt: skip
        for step in steps[1:4]:
            at = red(step.pictures[0])
            scale = step.pictures[0].shape[1] / 80
            assert np.abs(step.marks.boxes[0] - at).max() <= scale
            rows, columns = np.nonzero(step.marks.masks[0])
            mask = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(mask - at).max() <= 2 * scale
            assert step.marks.names == ("person",)


LOAD, NOTES, PACK = {"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}, {
    "type": "PackDetInputs"}  # fmt: skip
RESIZE = {"type": "Resize", "scale": (300, 200), "keep_ratio": True}
STRETCH = {"type": "Resize", "scale": (200, 300), "keep_ratio": False}
FLIP = {"type": "RandomFlip", "prob": 1.0}
DOWN = {"type": "RandomFlip", "prob": 1.0, "direction": "vertical"}
PAD = {"type": "Pad", "size_divisor": 64}
CUT = {"type": "RandomCrop", "crop_size": (0.9, 0.95), "crop_type": "relative"}
MIDDLE = {"type": "mmcv.CenterCrop", "crop_size": (70, 52)}


@pytest.mark.parametrize(
    "moves",
    [(RESIZE,), (RESIZE, FLIP), (RESIZE, DOWN), (STRETCH, FLIP, PAD), (FLIP, RESIZE), (MIDDLE, STRETCH, DOWN), (RESIZE, CUT, FLIP)],
    ids=lambda moves: "-".join(one["type"] for one in moves),
)  # fmt: skip
def test_annotation_lies_on_the_picture_wherever_it_is_loaded(coco, moves):
    """Test pipelines load annotation behind the steps that move the picture, so that it stays in the file's pixels."""
    for place in range(len(moves) + 1):
        if not place and MIDDLE in moves:
            continue  # mmcv's crop does not take mmdet's boxes
        steps = [LOAD, *moves[:place], NOTES, *[one for one in moves[place:] if not place or one is PAD], PACK]
        feed = feed_of("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", coco, "val_dataloader.dataset", phase="val",
                       **{"val_dataloader.dataset.pipeline": steps})  # fmt: skip
        for seed in range(2):
            sample = feed.sample(2, seed)
            assert not sample.faults
            for step in [one for one in sample.steps if one.pictures and one.marks.boxes is not None]:
                at, tall = red(step.pictures[0]), step.pictures[0].shape[0] / 60
                assert np.abs(step.marks.boxes[0] - at).max() <= 2 * max(tall, 1), (place, step.name)
                rows, columns = np.nonzero(step.marks.masks[0])
                mask = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                assert np.abs(mask - at).max() <= 3 * max(tall, 1), (place, step.name)


def test_the_step_at_which_annotation_and_picture_part_is_told(coco):
    name, place = "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "val_dataloader.dataset"
    for steps, wrong in (
        ([LOAD, RESIZE, NOTES, FLIP, PACK], "RandomFlip: moves annotation that was loaded in the file's pixels"),
        (
            [LOAD, NOTES, {"type": "mmpretrain.ResizeEdge", "scale": 120}, PACK],
            "ResizeEdge: moves the picture, but not its",
        ),
        ([LOAD, RESIZE, NOTES, PAD, PACK], ""),
    ):
        feed = feed_of(name, coco, place, phase="val", **{f"{place}.pipeline": steps})
        faults = feed.sample(0, 0).faults
        assert (len(faults) == 1 and faults[0].startswith(wrong)) if wrong else not faults


def test_repeats_of_a_repeated_data_set_differ_and_are_no_duplicates(coco, tmp_path):
    inner = {"type": "CocoDataset", "data_root": f"{coco}/", "ann_file": "coco.json", "data_prefix": {"img": ""},
             "pipeline": [LOAD, NOTES, {"type": "RandomShift", "prob": 1.0, "max_shift_px": 20}, PACK]}  # fmt: skip
    config = tmp_path / "repeated.py"
    config.write_text(
        f"default_scope = 'mmdet'\ntrain_dataloader = dict(dataset=dict(type='RepeatDataset', times=2, dataset={inner!r}))"
    )
    (feed,) = feeds(str(config))
    assert len(feed) == 10
    differ, census = 0, Census()
    for k in range(5):
        one, again = feed.sample(k, seed_of(0, k, 0)), feed.sample(k + 5, seed_of(0, k + 5, 0))
        assert one.name == again.name
        differ += not np.array_equal(one.transformed.pictures[0], again.transformed.pictures[0])
        census.add(one)
        census.add(again)
    assert differ >= 4
    assert census.duplicates() == []
    assert "pictures flow as BGR" in one.notes[0]


def test_mosaic_and_mixup_show_their_partners(coco):
    feed = feed_of("yolox/yolox_s_8xb8-300e_coco.py", coco, "train_dataloader.dataset.dataset")
    steps = feed.sample(1, 3).steps
    names = [step.name for step in steps]
    assert names[:4] == ["LoadImageFromFile", "LoadAnnotations", "for Mosaic", "Mosaic"]
    assert "for MixUp" in names
    partners = steps[2]
    assert len(partners.pictures) == 3
    greys = [int(name.removesuffix(".png")) * 40 for name in partners.told.split(", ")]
    assert [int(picture[0, 0, 0]) for picture in partners.pictures] == greys
    assert all(len(marks.boxes) == 1 for marks in partners.each)
    mosaic = steps[3].pictures[0]
    assert all((mosaic == grey).all(-1).any() for grey in (40, *greys))
    assert np.array_equal(feed.sample(1, 3).transformed.pictures[0], steps[-2].pictures[0])


def test_cached_mixtures_do_not_depend_on_what_was_seen_before(coco):
    """CachedMosaic keeps earlier samples; a sample looks the same whenever it is asked for. RTMDet takes BGR as it is."""
    name, place = "rtmdet/rtmdet_tiny_8xb32-300e_coco.py", "train_dataloader.dataset"
    feed = feed_of(name, coco, place)
    order = [one for one in samples(feed, range(5)) if hasattr(one, "steps")]
    assert order
    for one in order[::-1]:
        again = next(iter(samples(feed_of(name, coco, place), range(one.index, one.index + 1))))
        assert np.array_equal(again.transformed.pictures[0], one.transformed.pictures[0])
    red(order[0].original.pictures[0])
    mosaic = next(step for step in order[0].steps if step.name == "CachedMosaic")
    assert len(mosaic.marks.boxes) > 1


PLAIN = """
import sys
from torchloupe.cli import main
place = "train_dataloader.dataset"
words = ["browse", {config!r}, "--output-dir", {out!r}, "--cfg-options", f"{{place}}.data_root={coco}/",
         f"{{place}}.ann_file=coco.json", f"{{place}}.data_prefix.img="]
code = main(words)
assert "mmcv._ext" not in sys.modules
sys.exit(code)
"""


def test_pipelines_need_no_compiled_operators(coco, tmp_path):
    """In a process of its own, beside mmcv-lite: nothing stands in for the operators afterwards."""
    import mmdet

    config = Path(mmdet.__file__).parent / ".mim/configs/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    places = {"config": str(config), "out": str(tmp_path), "coco": coco}
    done = subprocess.run([sys.executable, "-c", PLAIN.format(**places)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "5 samples" in done.stdout
    assert "loading annotations" not in done.stdout
    assert len(list(tmp_path.glob("0*.png"))) == 5
