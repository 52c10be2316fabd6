"""HRNet's pose crops in loupe browse: geometry against closed forms, real COCO pictures, bad configs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchloupe.cli import main
from torchloupe.data.bodies import COCO_BODY, affine, frame, moved
from torchloupe.examples.figures import config as experiment_file
from torchloupe.examples.figures import write
from torchloupe.methods.browse import Census, samples
from torchloupe.sources.crops import CropFeed, half_body, mirrored, turned
from torchloupe.sources.datasets import feeds

COCO = Path(__file__).resolve().parents[2] / "shared/data/coco"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("figures")
    write(root / "data", 2, 0)
    return experiment_file(root / "small.yaml"), root / "data"


def test_a_quarter_turn_moves_points_as_the_matrix_of_hrnet():
    """HRNet turns the frame clockwise: what lies right of the middle comes to lie above it."""
    flat = affine((50.0, 60.0), (40.0, 40.0), (40, 40))
    matrix = turned(flat, (40, 40), 90)
    np.testing.assert_allclose(moved(np.array([[50.0, 60.0], [60.0, 60.0]]), matrix), [[20, 20], [20, 10]], atol=1e-9)


def test_mirroring_swaps_left_and_right():
    points = np.arange(34.0).reshape(17, 2)
    weight = np.ones(17)
    weight[1] = 0
    got, kept = mirrored(points, weight, 100, COCO_BODY.pairs)
    for j, name in enumerate(COCO_BODY.joints):
        side = {"left": "right", "right": "left"}.get(name.partition("_")[0])
        other = COCO_BODY.joints.index(f"{side}_{name.partition('_')[2]}") if side else j
        assert kept[j] == weight[other]
        expected = [99 - points[other, 0], points[other, 1]] if weight[other] else [0, 0]
        assert got[j].tolist() == expected


def test_test_crops_show_the_joints_where_the_heatmaps_are(made):
    path, data = made
    feed = CropFeed(str(path), "val", {}, str(data))
    load, crop, shown, heat = feed.sample(0, 0).steps
    person, size = feed.people[0], feed.crop.size
    seen = crop.marks.keypoints[0][person.weight > 0]
    for (x, y, _), (u, v) in zip(seen, person.joints[person.weight > 0], strict=True):
        assert x == pytest.approx((u - person.centre[0]) * size[0] / person.extent[0] + size[0] / 2)
        assert y == pytest.approx((v - person.centre[1]) * size[1] / person.extent[1] + size[1] / 2)
    assert np.array_equal(shown.pictures[0], crop.pictures[0])
    top = np.array(np.unravel_index(heat.marks.heat.argmax(), heat.marks.heat.shape))[::-1]
    stride = size[0] / feed.crop.heatmap[0]
    assert np.abs(seen[:, :2] / stride - top).max(1).min() <= 0.5
    assert load.marks.names == ("crop", "box")
    x, y, w, h = feed.boxes[person.id]
    np.testing.assert_allclose(load.marks.boxes[1], [x, y, x + w, y + h])


def test_training_crops_move_picture_joints_and_mask_together(made):
    """The colour below each joint is that of the joint in the whole picture, whatever the augmentation drew."""
    path, data = made
    feed = CropFeed(str(path), "train", {"DATASET.TRAIN_SET": "figures", "DATASET.ROT_FACTOR": 40}, str(data))
    told = set()
    for seed in range(8):
        load, crop = feed.sample(0, seed).steps[:2]
        told.add(crop.told)
        mirror = "mirrored" in crop.told
        order = list(range(17))
        for left, right in COCO_BODY.pairs if mirror else ():
            order[left], order[right] = right, left
        for j, (x, y, seen) in enumerate(crop.marks.keypoints[0]):
            u, v, _ = load.marks.keypoints[0][order[j]]
            h, w = crop.pictures[0].shape[:2]
            if seen and 3 < x < w - 4 and 3 < y < h - 4:
                a = crop.pictures[0][round(y), round(x)].astype(int)
                near = load.pictures[0][round(v) - 4 : round(v) + 5, round(u) - 4 : round(u) + 5].reshape(-1, 3)
                assert (np.abs(near.astype(int) - a).max(1).min()) <= 40
                assert crop.marks.masks[0][round(y), round(x)] == load.marks.masks[0][round(v), round(u)]
    assert any("mirrored" in text for text in told)
    assert len(told) >= 6
    assert np.array_equal(feed.sample(0, 3).steps[1].pictures[0], feed.sample(0, 3).steps[1].pictures[0])


def test_half_a_body_is_framed_by_its_joints(made):
    path, data = made
    feed = CropFeed(str(path), "val", {}, str(data))
    np.random.seed(0)
    got = half_body(feed.people[0], feed.crop)
    halves = []
    for half in (range(11), range(11, 17)):
        chosen = [feed.people[0].joints[j] for j in half if feed.people[0].weight[j] > 0]
        low, high = np.min(chosen, 0), np.max(chosen, 0)
        extent = np.array(frame((*low, *(high - low)), feed.crop)[1]) / feed.crop.padding * 1.5
        halves.append((np.mean(chosen, 0), extent))
    assert any(np.allclose(got.centre, c) and np.allclose(got.extent, e) for c, e in halves)


def test_people_of_one_picture_are_no_duplicates(made):
    path, data = made
    feed = CropFeed(str(path), "val", {}, str(data))
    census = Census()
    for sample in samples(feed, range(2)):
        census.add(sample)
        census.add(sample)
    assert census.duplicates() == []


@pytest.mark.skipif(not COCO.is_dir(), reason="the shared COCO pictures are not here")
def test_real_coco_people(tmp_path, capsys):
    path = experiment_file(tmp_path / "w.yaml")
    words = ["browse", str(path), "--data", str(COCO), "--phase", "val", "--mode", "pipeline", "--show-number", "4"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    assert "4 samples" in capsys.readouterr().out
    (feed,) = feeds(str(path), phase="val", data=str(COCO))
    first = feed.sample(0, 0)
    assert np.array_equal(first.original.pictures[0], np.asarray(Image.open(COCO / "000000000785.jpg").convert("RGB")))
    inside = first.steps[1].marks.masks[0]
    points = first.steps[1].marks.keypoints[0]
    assert np.mean([inside[int(y), int(x)] for x, y, seen in points if seen]) > 0.8


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("MODEL: {}\nDATASET: {}", [], "DATASET.ROOT is empty; give the data with --data"),
        ("MODEL: {}\nDATASET: {ROOT: nowhere}", [], "nowhere: no such data"),
        ("MODEL: {}\nDATASET: {DATASET: aic, ROOT: .}", [], "known are coco, mpii and rhd"),
        ("MODEL: {}\nDATASET: {ROOTS: x}", [], "unknown key DATASET.ROOTS"),
        ("MODEL: {}\nDATASET: {DATASET: coco}", ["--data", "{here}"], "found neither"),
        ("a: 1", [], "neither an OpenGait config"),
        ("a: [", [], "cannot be read as a config"),
    ],
)
def test_bad_configs(tmp_path, text, words, message, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    (tmp_path / "empty").mkdir()
    words = [word.format(here=tmp_path / "empty") for word in words]
    assert main(["browse", str(path), *words, "--output-dir", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("loupe: error: ")
    assert message in last
