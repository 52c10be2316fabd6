"""Pose data: affine crop, true heatmaps, masks, COCO, MPII and RHD files, and what bad files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.sources import poses

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
CROP = poses.Crop()


def tiny_coco(folder: Path, **changes: object) -> Path:
    """One picture, one person of 17 joints, and whatever the test changes in the annotation."""
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(folder / "a.png")
    joints = [[20 + i, 20 + i, 2] for i in range(17)]
    entry = {
        "id": 7,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "area": 600.0,
        "bbox": [10, 10, 30, 40],
        "keypoints": [number for joint in joints for number in joint],
        "segmentation": [[10, 10, 40, 10, 40, 50, 10, 50]],
    } | changes
    images = [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}]
    path = folder / "people.json"
    path.write_text(json.dumps({"images": images, "annotations": [entry], "categories": [{"id": 1}]}))
    return path


def test_warp_is_the_naive_bilinear_loop() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (9, 7, 3)).astype(np.uint8)
    matrix = poses.affine((3.0, 4.5), (8.0, 11.0), (6, 8))
    made = poses.warp(picture, matrix, (6, 8))

    def pixel(row: int, column: int) -> np.ndarray:
        inside = 0 <= row < 9 and 0 <= column < 7
        return picture[row, column].astype(float) if inside else np.zeros(3)

    scale = 6 / 8.0
    for v in range(8):
        for u in range(6):
            x, y = (u - 3) / scale + 3.0, (v - 4) / scale + 4.5
            left, top = int(np.floor(x)), int(np.floor(y))
            naive = np.zeros(3)
            for row in (top, top + 1):
                for column in (left, left + 1):
                    naive += pixel(row, column) * (1 - abs(x - column)) * (1 - abs(y - row))
            np.testing.assert_allclose(made[v, u], naive, atol=1e-9)


def test_warp_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    yy, xx = np.mgrid[:120, :90]
    picture = (127 + 60 * np.sin(xx / 7) + 60 * np.cos(yy / 9)).astype(np.uint8)
    matrix = poses.affine((40.0, 50.0), (70.0, 93.0), (48, 64))
    theirs = cv2.warpAffine(picture, matrix, (48, 64), flags=cv2.INTER_LINEAR)
    assert np.abs(poses.warp(picture, matrix, (48, 64)) - theirs).max() < 2


def test_the_affine_keeps_the_aspect_and_is_undone_by_its_inverse() -> None:
    centre, extent = poses.frame((10, 20, 30, 100), CROP)
    assert centre == (25, 70)
    assert extent == pytest.approx((93.75, 125.0))
    matrix = poses.affine(centre, extent, CROP.size)
    np.testing.assert_allclose(poses.moved(np.array([[25.0, 70.0]]), matrix), [[96, 128]])
    points = np.random.default_rng(1).uniform(0, 100, (5, 2))
    np.testing.assert_allclose(poses.moved(poses.moved(points, matrix), poses.inverse(matrix)), points)


def test_gaussians_are_the_naive_loop() -> None:
    joints = np.array([[0.0, 0.0], [50.0, 100.0], [191.0, 255.0], [-40.0, 9.0], [77.7, 31.9], [60.0, 60.0]])
    weight = np.array([1.0, 1, 1, 1, 1, 0])
    made, kept = poses.gaussians(joints, weight, CROP)
    assert kept.tolist() == [1, 1, 1, 0, 1, 0]
    for j, (x, y) in enumerate(joints):
        cx, cy = int(x / 4 + 0.5), int(y / 4 + 0.5)
        for v in range(64):
            for u in range(48):
                near = abs(u - cx) <= 6 and abs(v - cy) <= 6 and kept[j] > 0
                naive = np.exp(-((u - cx) ** 2 + (v - cy) ** 2) / 8) if near else 0.0
                assert made[j, v, u] == pytest.approx(naive, abs=1e-12)


def test_run_lengths_plain_and_packed_and_polygons() -> None:
    mask = np.zeros((6, 5), np.uint8)
    mask[1:4, 2:4] = 1
    plain = {"size": [6, 5], "counts": [13, 3, 3, 3, 8]}
    np.testing.assert_array_equal(poses.outline(plain, 6, 5), mask)
    faster = pytest.importorskip("faster_coco_eval.core.mask")
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask = (rng.random((37, 53)) > rng.random()).astype(np.uint8)
        packed = faster.encode(np.asfortranarray(mask))
        np.testing.assert_array_equal(poses.outline(packed, 37, 53), mask)
    square = poses.outline([[2, 1, 4, 1, 4, 3, 2, 3]], 6, 8)
    assert square.sum() == 9
    with pytest.raises(BadInput, match="does not fit a picture"):
        poses.outline(plain, 5, 6)
    with pytest.raises(BadInput, match="covers 29 pixels"):
        poses.outline({"size": [6, 5], "counts": [29]}, 6, 5)
    with pytest.raises(BadInput, match="a polygon is expected"):
        poses.outline([[1, 2, 3]], 6, 5)


@needs_data
def test_polygon_masks_agree_with_coco() -> None:
    faster = pytest.importorskip("faster_coco_eval.core.mask")
    content = json.loads((SHARED / "coco" / "test_coco.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for entry in content["annotations"]:
        height, width = sizes[entry["image_id"]]
        mine = poses.outline(entry["segmentation"], height, width)
        theirs = faster.decode(faster.merge(faster.frPyObjects(entry["segmentation"], height, width)))
        union = np.logical_or(mine, theirs).sum()
        # the outermost ring of pixels is all that the two rasterisers may judge differently
        edge = theirs.sum() ** 0.5 * 8
        assert np.logical_xor(mine, theirs).sum() < edge
        assert union > 0


@needs_data
def test_the_real_people_of_coco() -> None:
    data = poses.coco(SHARED / "coco" / "test_coco.json", SHARED / "coco", CROP)
    assert len(data) == 12
    assert data.left_out == {"no visible joint": 2}
    assert data.skeleton is poses.COCO_BODY
    near: list[bool] = []
    for person in data.people:
        sample = poses.read(person, CROP)
        assert sample.x.shape == (3, 256, 192)
        assert sample.mask.mean() > 0.05
        seen = sample.weight > 0
        # nearly every annotated joint lies on or beside the person's own mask
        columns = np.clip(sample.joints[seen, 0].astype(int), 0, 191)
        rows = np.clip(sample.joints[seen, 1].astype(int), 0, 255)
        near += [
            bool(sample.mask[max(0, r - 12) : r + 13, max(0, c - 12) : c + 13].any())
            for r, c in zip(rows, columns, strict=True)
        ]
    assert np.mean(near) > 0.9


@needs_data
def test_detections_carry_the_truth_of_the_person_they_cover() -> None:
    folder = SHARED / "coco"
    data = poses.coco(folder / "test_coco.json", folder, CROP, detections=folder / "test_coco_det_AP_H_56.json")
    assert len(data) == 118
    matched = [person for person in data.people if person.weight.any()]
    assert len(matched) == len({person.id for person in matched})
    assert 10 <= len(matched) <= 12
    few = poses.coco(
        folder / "test_coco.json", folder, CROP, detections=folder / "test_coco_det_AP_H_56.json", threshold=0.9
    )
    assert len(few) + few.left_out["score below the threshold"] == 118


@needs_data
def test_hands_have_camera_joints_and_no_mask() -> None:
    crop = poses.Crop(size=(256, 256), heatmap=(64, 64))
    data = poses.rhd(SHARED / "rhd" / "test_rhd.json", SHARED / "rhd", crop)
    assert data.skeleton.joints == poses.HAND.joints
    sample = poses.read(data.people[0], crop)
    assert sample.camera.shape == (21, 3)
    assert np.isfinite(sample.camera).all()
    assert np.isnan(sample.mask).all()
    assert sample.heatmaps.shape == (21, 64, 64)


def test_mpii_counts_from_one_and_pads_the_box(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "a.png")
    joints = [[100.0 + i, 50.0 + 2 * i] for i in range(16)]
    good = {"image": "a.png", "center": [101, 86], "scale": 1.0, "joints": joints, "joints_vis": [1] * 15 + [0]}
    unseen = good | {"joints_vis": [0] * 16}
    path = tmp_path / "valid.json"
    path.write_text(json.dumps([good, unseen]))
    crop = poses.Crop(size=(256, 256), heatmap=(64, 64))
    data = poses.mpii(path, tmp_path, crop)
    assert data.left_out == {"no visible joint": 1}
    (person,) = data.people
    assert person.centre == (100, 100)
    assert person.extent == (250, 250)
    np.testing.assert_array_equal(person.joints[0], [99, 49])
    assert person.weight.sum() == 15
    assert person.size == pytest.approx(5**0.5)
    path.write_text(json.dumps([{"image": "a.png"}]))
    with pytest.raises(BadInput, match="person 0: lacks center, scale, joints, joints_vis"):
        poses.mpii(path, tmp_path, crop)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"category_id": 3}, "another category"),
        ({"keypoints": [5, 5, 0] * 17}, "no visible joint"),
        ({"bbox": [200, 10, 30, 40]}, "box outside the picture or of no area"),
        ({"bbox": [10, 10, 0, 40]}, "box outside the picture or of no area"),
        ({"area": 0}, "box outside the picture or of no area"),
    ],
)
def test_what_is_left_out_is_counted(changes: dict, reason: str, tmp_path: Path) -> None:
    data = poses.coco(tiny_coco(tmp_path, **changes), tmp_path, CROP)
    assert len(data) == 0
    assert data.left_out == {reason: 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], "cannot be read as an annotation file"),
        (lambda _: "[]", "lacks images, annotations"),
        (lambda text: text.replace('"bbox"', '"box"'), r"annotations\[0\]: lacks bbox"),
        (lambda text: text.replace('"width"', '"wide"'), r"images\[0\]: lacks width"),
        (lambda text: text.replace('"image_id": 1', '"image_id": 2'), "is of picture 2, which images does not list"),
        (
            lambda text: text.replace("[20, 20, 2, ", "[2, "),
            "annotation 7: keypoints is expected to be 51 finite numbers, found 49",
        ),
        (
            lambda text: text.replace("[10, 10, 30, 40]", "[10, 10, 30]"),
            r"annotations\[0\]: bbox is expected to be 4 finite numbers",
        ),
        (
            lambda text: text.replace("[10, 10, 30, 40]", "[10, 10, NaN, 40]"),
            "bbox is expected to be 4 finite numbers, found 4:",
        ),
        (lambda text: text.replace("[10, 10, 30, 40]", '"large"'), "found 1: large"),
        (
            lambda text: text.replace('"area": 600.0', '"area": "big"'),
            r"annotations\[0\]: area is expected to be 1 finite number,",
        ),
        (lambda text: text.replace('"image_id": 1', '"image_id": [1]'), "image_id is expected to be a number or text"),
        (lambda text: text.replace('"a.png"', "3"), r"images\[0\]: file_name is expected to be text, found int: 3"),
        (lambda _: '{"images": [], "annotations": null}', "annotations is expected to be a list, found NoneType"),
        (lambda text: text.replace('"width": 80', '"width": "wide"'), r"images\[0\]: width, height is expected"),
    ],
)
def test_a_bad_annotation_file_is_named(change: object, message: str, tmp_path: Path) -> None:
    path = tiny_coco(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInput, match=message):
        poses.coco(path, tmp_path, CROP)


def test_a_missing_or_broken_picture_is_named(tmp_path: Path) -> None:
    data = poses.coco(tiny_coco(tmp_path), tmp_path, CROP)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match="cannot be read as a picture"):
        poses.read(data.people[0], CROP)
    (tmp_path / "a.png").unlink()
    with pytest.raises(BadInput, match="no such file; expected a picture"):
        poses.read(data.people[0], CROP)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([["a"] * 6], "a polygon is expected to be x y x y x y"),
        ([[1, 2, 3, 4, 5, float("inf")]], "a polygon is expected"),
        ({"size": [2, 2], "counts": ["a"]}, "run lengths are expected to be whole numbers from 0"),
        ({"size": [2, 2], "counts": [5, -1]}, "run lengths are expected"),
        ({"size": [2, 2], "counts": 4}, "run lengths are expected"),
    ],
)
def test_an_outline_of_no_known_form_is_named(segmentation: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        poses.outline(segmentation, 2, 2)


def test_a_picture_of_16_bits_is_read_over_its_whole_range(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert np.array_equal(poses._opened(tmp_path / "deep.png"), np.repeat((grey >> 8)[..., None], 3, -1))


def test_where_a_data_set_lies(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name it: --annotations"):
        poses.located(tmp_path, "val2017", "coco")
    path = tiny_coco(tmp_path)
    assert poses.located(tmp_path, "val2017", "coco") == (path, tmp_path)
    assert poses.located(path, "val2017", "coco") == (path, tmp_path)
    usual = tmp_path / "annotations" / "person_keypoints_val2017.json"
    usual.parent.mkdir()
    usual.write_text("{}")
    assert poses.located(tmp_path, "val2017", "coco") == (usual, tmp_path / "images" / "val2017")
    assert poses.located(tmp_path, "valid", "mpii") == (tmp_path / "annot" / "valid.json", tmp_path / "images")


def test_pictures_in_coco_s_own_layout_are_found(tmp_path: Path) -> None:
    path = tiny_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    path.rename(tmp_path / "annotations" / "person_keypoints_val2017.json")
    assert poses.located(tmp_path, "val2017", "coco")[1] == tmp_path / "val2017"
    assert poses.located(tmp_path, "val2017", "coco", path)[1] == tmp_path / "val2017"
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    assert poses.located(tmp_path, "val2017", "coco")[1] == tmp_path / "images" / "val2017"


def test_unbiased_data_processing_counts_from_the_middle_of_pixels() -> None:
    matrix = poses.affine((50.0, 40.0), (30.0, 50.0), (11, 21), udp=True)
    corners = np.array([[35.0, 15.0], [65.0, 65.0], [50.0, 40.0]])
    np.testing.assert_allclose(poses.moved(corners, matrix), [[0, 0], [10, 20], [5, 10]], atol=1e-12)
    crop = poses.Crop(size=(33, 65), heatmap=(9, 17), udp=True, subpixel=True)
    assert crop.stride.tolist() == [4, 4]
    heatmaps, _ = poses.gaussians(np.array([[13.0, 30.0]]), np.ones(1), crop)
    naive = [[np.exp(-((u - 3.25) ** 2 + (v - 7.5) ** 2) / 8) for u in range(9)] for v in range(17)]
    near = np.abs(np.arange(17) - 8)[:, None] <= 6
    np.testing.assert_allclose(heatmaps[0], np.array(naive) * near * (np.abs(np.arange(9) - 3) <= 6))


def edges(folder: Path, skeleton: object) -> tuple[tuple[int, int], ...]:
    """Bones of a body of four joints whose category has this skeleton."""
    path = tiny_coco(folder, keypoints=[20, 20, 2] * 4)
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "kite", "keypoints": ["a", "b", "c", "d"], "skeleton": skeleton}]
    path.write_text(json.dumps(content))
    return poses.coco(path, folder, CROP).skeleton.bones


def test_a_skeleton_counts_from_one_or_says_that_it_counts_from_zero(tmp_path: Path) -> None:
    assert edges(tmp_path, [[1, 2], [3, 4]]) == ((0, 1), (2, 3))
    assert edges(tmp_path, None) == edges(tmp_path, []) == ()
    with pytest.warns(LoupeWarning, match="category kite: its skeleton counts joints from 0 and is read so"):
        assert edges(tmp_path, [[0, 1], [2, 3]]) == ((0, 1), (2, 3))


@pytest.mark.parametrize("skeleton", [[[1, 5]], [[1, -1]], [[1, 2, 3]], [["a", "b"]], [[1, 2.0]], {"a": "b"}, 7, [3]])
def test_an_edge_that_is_no_pair_of_joints_is_named(tmp_path: Path, skeleton: object) -> None:
    with pytest.raises(
        BadInput, match="category kite: an edge of the skeleton is expected to be two joints from 1 to 4"
    ):
        edges(tmp_path, skeleton)


def test_a_skeleton_that_counts_both_ways_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="its skeleton has joints 0 and 4, and there are 4 joints"):
        edges(tmp_path, [[0, 1], [3, 4]])
