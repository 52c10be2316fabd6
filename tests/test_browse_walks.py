"""OpenGait trees in loupe browse: samplers, augmentations against plain loops, modalities, bad configs."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from torchloupe.cli import main
from torchloupe.data.samples import BadSample
from torchloupe.errors import BadInput
from torchloupe.examples.walkers import write_tree
from torchloupe.methods.browse import samples
from torchloupe.sources.datasets import feeds
from torchloupe.sources.transforms import seeded
from torchloupe.sources.walk_augmentations import DRAWN, KERNELS, blurred, dilated, kernel, taken, warped
from torchloupe.sources.walks import drawn_frames

CONFIG = """
data_cfg: {{dataset_name: CASIA-B, dataset_root: {root}/tree, dataset_partition: {root}/part.json}}
model_cfg: {{model: Baseline}}
evaluator_cfg: {{sampler: {{sample_type: all_ordered}}, transform: [{{type: BaseSilCuttingTransform}}]}}
trainer_cfg:
  sampler: {{sample_type: fixed_ordered, frames_num_fixed: 4, frames_skip_num: 2}}
  transform: [{{type: Compose, trf_cfg: [{{type: RandomHorizontalFlip, prob: 1}}, {{type: BaseSilCuttingTransform}}]}}]
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gait")
    write_tree(root / "tree", [1, 2], ("nm-01",), ("000", "090"), frames=10)
    write_tree(root / "poses", [1], ("nm-01",), ("000", "090"), frames=10, poses=True)
    (root / "part.json").write_text(json.dumps({"TRAIN_SET": ["001"], "TEST_SET": ["002"]}))
    (root / "gait.yaml").write_text(CONFIG.format(root=root))
    return root


def test_phases_take_their_people_and_their_transforms(tree):
    (train,), (test,) = feeds(str(tree / "gait.yaml")), feeds(str(tree / "gait.yaml"), phase="test")
    assert [walk.name for walk in train.walks] == ["001-nm-01-000", "001-nm-01-090"]
    assert [walk.name for walk in test.walks] == ["002-nm-01-000", "002-nm-01-090"]
    sample = train.sample(0, 5)
    assert [step.name for step in sample.steps] == [
        "load",
        "sampler",
        "RandomHorizontalFlip",
        "BaseSilCuttingTransform",
    ]
    assert sample.label == "001"
    drawn, flipped, cut = (step.pictures for step in sample.steps[1:])
    assert len(drawn) == 4
    assert np.array_equal(flipped[2], drawn[2][:, ::-1])
    assert np.array_equal(cut[2], flipped[2][:, 10:-10])
    whole = pickle.loads((tree / "tree/001/nm-01/000/000.pkl").read_bytes())
    assert any(np.array_equal(drawn[0][..., 0], frame) for frame in whole)
    assert [step.name for step in test.sample(0, 0).steps] == ["load", "sampler", "BaseSilCuttingTransform"]


def test_data_takes_the_place_of_the_tree(tree, tmp_path):
    (tmp_path / "bare.yaml").write_text("model_cfg: {model: Baseline}")
    with pytest.warns(UserWarning, match="no partition file; all 4 walks"):
        (feed,) = feeds(str(tmp_path / "bare.yaml"), data=str(tree / "tree"))
    assert len(feed) == 4


@pytest.mark.parametrize("count", [3, 20])
def test_samplers_against_their_words(count):
    for seed in range(20):
        with seeded(seed):
            fixed, text = drawn_frames(
                count, {"sample_type": "fixed_ordered", "frames_num_fixed": 6, "frames_skip_num": 3}
            )
            loose, _ = drawn_frames(count, {"sample_type": "fixed_unordered", "frames_num_fixed": 6})
            some, _ = drawn_frames(count, {"sample_type": "unfixed_ordered", "frames_num_min": 2, "frames_num_max": 4})
            whole, _ = drawn_frames(count, {"sample_type": "all_ordered", "frames_all_limit": 7})
        assert len(fixed) == len(loose) == 6
        assert text == f"fixed_ordered: 6 of {count} frames"
        assert 2 <= len(some) <= 4
        assert whole.tolist() == list(range(min(count, 7)))
        if count == 20:
            assert np.all(np.diff(fixed) > 0)
            assert fixed[-1] - fixed[0] < 9
            assert len(set(loose.tolist())) == 6


def test_warping_against_plain_loops():
    rng = np.random.default_rng(0)
    array, back = rng.random((2, 6, 5)), np.array([[0.9, -0.2, 0.7], [0.3, 1.1, -0.8], [0.01, 0.02, 1.0]])
    got = warped(array, back)
    for t in range(2):
        for row in range(6):
            for column in range(5):
                u, v, w = (sum(back[i, k] * p for k, p in enumerate((column, row, 1))) for i in range(3))
                u, v, value = u / w, v / w, 0.0
                for y in range(6):
                    for x in range(5):
                        value += max(0, 1 - abs(u - x)) * max(0, 1 - abs(v - y)) * array[t, y, x]
                assert got[t, row, column] == pytest.approx(value, abs=1e-12)


def test_a_rotation_turns_counter_clockwise(monkeypatch):
    """A dot right of the centre comes to lie above it after 90 degrees, in pictures whose rows go down."""
    array = np.zeros((1, 64, 64))
    array[0, 32, 42] = 1
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    made, text = DRAWN["RandomRotate"](array, degree=90)
    assert np.argwhere(made[0] > 0.5).tolist() == [[22, 32]]
    assert text == "90.0 degrees"


def test_a_perspective_stretches_its_corners_to_the_frame():
    array = np.tile(np.arange(64.0), (1, 64, 1))
    with seeded(3):
        made, text = DRAWN["RandomPerspective"](array)
    numbers = [int(word.strip(",")) for word in text.split() if word.strip(",").isdigit()]
    top_left, top_right = numbers[:2]
    assert made[0, 0, 0] == pytest.approx(top_left, abs=0.6)
    assert made[0, 0, 63] == pytest.approx(top_left + 63 / 64 * (top_right - top_left), abs=0.6)


def test_an_affine_warp_takes_three_points_to_three_points(monkeypatch):
    drawn = iter([0] * 6 + [4, 2] + [0] * 4)
    monkeypatch.setattr(random, "randrange", lambda reach: next(drawn))
    array = np.zeros((1, 64, 64))
    array[0, 40, 30] = 1
    made, _ = DRAWN["RandomAffine"](array)
    # The corner (0, 0) of the source goes to (4, 2); (64, 0) and (0, 64) stay.
    x, y = 30 + 4 * (1 - 30 / 64 - 40 / 64), 40 + 2 * (1 - 30 / 64 - 40 / 64)
    rows, columns = np.mgrid[0:64, 0:64]
    assert (made[0] * columns).sum() / made.sum() == pytest.approx(x, abs=0.2)
    assert (made[0] * rows).sum() / made.sum() == pytest.approx(y, abs=0.2)


@pytest.mark.parametrize("per_frame", [False, True])
def test_erasing_blackens_one_rectangle_of_the_asked_size(per_frame):
    with seeded(1):
        made, _ = DRAWN["RandomErasing"](np.ones((5, 64, 44)), per_frame=per_frame, prob=1.0)
    holes = [np.argwhere(frame == 0) for frame in made]
    for hole in holes:
        high, wide = hole.max(0) - hole.min(0) + 1
        assert len(hole) == high * wide
        assert 0.04 < len(hole) / (64 * 44) < 0.22
    assert (len({len(hole) for hole in holes}) > 1) is per_frame


def test_frame_by_frame_erasing_leaves_some_frames():
    with seeded(2):
        made, _ = taken("RandomErasing", np.ones((40, 64, 44)), {"per_frame": True, "prob": 0.5, "colour": "blue"})
    assert 8 < sum((frame == 0).any() for frame in made) < 32


@pytest.mark.parametrize("shape", sorted(KERNELS))
def test_growing_and_blurring_are_those_of_opencv(shape):
    import cv2

    rng = np.random.default_rng(0)
    frames = np.where(rng.random((3, 20, 17)) > 0.8, rng.random((3, 20, 17)), 0)
    for wide, high in KERNELS[shape]:
        element = cv2.getStructuringElement(getattr(cv2, f"MORPH_{shape}"), (wide, high))
        assert np.array_equal(kernel(shape, wide, high), element > 0)
        for frame, made in zip(frames, dilated(frames, element > 0), strict=True):
            assert np.array_equal(made, cv2.dilate(frame, element))
    for frame, made in zip(frames, blurred(frames), strict=True):
        np.testing.assert_allclose(made, cv2.GaussianBlur(frame, (3, 3), 0), atol=1e-12)


def test_part_augmentations_change_their_rows_only():
    rng = np.random.default_rng(0)
    frames = (rng.random((4, 64, 44)) > 0.7).astype(float)
    for kind in ("RandomPartDilate", "RandomPartBlur"):
        with seeded(0):
            made, text = taken(kind, frames, {"prob": 1.0, "top_range": [10, 12], "bot_range": [30, 33]})
        top, bottom = (int(word) for word in text.split("rows ")[1].split(" to "))
        assert 10 <= top <= 12
        assert 30 <= bottom <= 33
        assert np.array_equal(made[:, :top], frames[:, :top])
        assert np.array_equal(made[:, bottom:], frames[:, bottom:])
        assert (made[:, top:bottom] >= frames[:, top:bottom]).all() or kind == "RandomPartBlur"
        assert not np.array_equal(made, frames)


def test_point_clouds_fill_a_unit_ball_and_keep_their_heights():
    rng = np.random.default_rng(0)
    points = rng.normal(3, 2, (2, 50, 4))
    made, text = taken("PointCloudsTransform", points, {"scale_aware": True})
    assert made.shape == (2, 50, 4)
    assert text == "centred, scaled"
    for frame, before in zip(made, points, strict=True):
        centred = before[:, :3] - before[:, :3].mean(0)
        np.testing.assert_allclose(frame[:, :3], centred / np.linalg.norm(centred, axis=1).max(), atol=1e-12)
        np.testing.assert_allclose(frame[:, 3], before[:, 2] - before[:, 2].min())
    with seeded(0):
        drawn, text = taken("PointCloudsTransform", points, {"flip_prob": 1, "drop_prob": 1})
    assert text == "mirrored, dropped"
    for frame, before in zip(drawn, made[..., :3] * [1, -1, 1], strict=True):
        stays = (frame == before).all(1)
        assert ((frame == before[0]).all(1) | stays).all()
        assert not stays.all()
    with pytest.raises(BadInput, match=r"points_in_use\.points_num"):
        taken("PointCloudsTransform", np.empty(3, object), {})


def test_poses_mirror_about_their_middle_and_limbs_are_twelve():
    pose = np.arange(2 * 17 * 3, dtype=float).reshape(2, 17, 3)
    made, _ = taken("MirrorPoses", pose, {"prob": 1.0})
    for frame, before in zip(made, pose, strict=True):
        middle = sum(before[:, 0]) / 17
        assert frame[:, 0].tolist() == [middle - (x - middle) for x in before[:, 0]]
    limbs, text = taken("MSGGTransform", pose, {})
    assert text == "12 of 17 joints"
    assert np.array_equal(limbs, pose[:, [6, 8, 14, 12, 7, 13, 5, 10, 16, 11, 9, 15]])
    with pytest.raises(BadInput, match="poses of 12 joints"):
        taken("MSGGTransform", limbs, {})


def _feed(path: Path, data: Path, text: str, phase: str = "train"):
    path.write_text(text)
    with pytest.warns(UserWarning, match="no partition file"):
        (feed,) = feeds(str(path), phase=phase, data=str(data))
    return feed


def test_two_views_are_two_passes_through_the_same_steps(tree):
    text = """
model_cfg: {model: GaitGraph1, joint_format: coco}
trainer_cfg: {sampler: {sample_type: all_ordered}, transform: [{type: TwoView, trf_cfg: [
  {type: FlipSequence, probability: 1.0}, {type: RandomMove, random_r: [4, 1]}, {type: GaitGraph1Input}]}]}
"""
    steps = _feed(tree / "two.yaml", tree / "poses", text).sample(0, 0).steps
    names = ["FlipSequence", "RandomMove", "GaitGraph1Input"]
    assert [step.name for step in steps[2:]] == [f"view {v}: {name}" for v in (1, 2) for name in names] + ["TwoView"]
    assert np.array_equal(steps[2].pictures[0], steps[5].pictures[0])
    assert steps[3].told != steps[6].told
    assert steps[-1].told == "joined, ndarray 3x20x17x1"


def test_ragged_point_clouds_are_drawn_and_sampled(tmp_path):
    leaf = tmp_path / "tree/001/nm-01/000"
    leaf.mkdir(parents=True)
    rng = np.random.default_rng(0)
    (leaf / "0.pkl").write_bytes(pickle.dumps([rng.normal(size=(20 + t, 4)) for t in range(5)]))
    text = """
model_cfg: {model: LidarGaitPlusPlus}
trainer_cfg: {sampler: {sample_type: fixed_ordered, frames_num_fixed: 3, frames_skip_num: 0,
  points_in_use: {pointcloud_index: 0, points_num: 64}}, transform: [{type: PointCloudsTransform}]}
"""
    feed = _feed(tmp_path / "lidar.yaml", tmp_path / "tree", text)
    load, sampler, cloud = feed.sample(0, 0).steps
    assert [len(step.pictures) for step in (load, sampler, cloud)] == [5, 3, 3]
    assert sampler.told.endswith("64 points each")
    assert all(picture.any() for picture in cloud.pictures)


def test_the_chain_of_gaitssb_is_opened(tree):
    text = (
        "model_cfg: {model: GaitSSB_Pretrain}\ntrainer_cfg: {transform: [{type: DA4GaitSSB, cutting: 8, rhf_prob: 1}]}"
    )
    steps = _feed(tree / "ssb.yaml", tree / "tree", text).sample(0, 0).steps
    assert [step.name for step in steps[2:]] == [
        "RandomAffine", "RandomPerspective", "BaseSilCuttingTransform", "RandomHorizontalFlip", "RandomPartDilate",
        "RandomPartBlur"]  # fmt: skip
    assert steps[4].pictures[0].shape == (64, 48, 3)
    assert steps[5].told == "mirrored"


def test_poses_are_dots_and_then_numbers(tree):
    path = tree / "tr.yaml"
    path.write_text(
        "model_cfg: {model: GaitTR, joint_format: coco}\nevaluator_cfg: {transform: [{type: Compose, trf_cfg: "
        "[{type: NormalizeEmpty}, {type: InversePosesPre, probability: 1.0}, {type: GaitTRMultiInput}, "
        "{type: SkeletonInput}]}]}"
    )
    with pytest.warns(UserWarning, match="no partition file"):
        (feed,) = feeds(str(path), phase="val", data=str(tree / "poses"))
    sample = feed.sample(1, 0)
    load, swapped = sample.steps[0], sample.steps[3]
    assert [bool(step.pictures) for step in sample.steps] == [True, True, True, True, False, False]
    assert "10x17x1" in sample.steps[-1].told
    first, after = load.each[0].keypoints[0], swapped.each[0].keypoints[0]
    assert np.allclose(after[[0, 1, 2]], first[[0, 2, 1]])
    for x, y, _ in first:
        assert load.pictures[0][round(y), round(x)].all()


def test_modalities_go_side_by_side(tmp_path):
    leaf = tmp_path / "tree/001/nm-01/000"
    leaf.mkdir(parents=True)
    rng = np.random.default_rng(0)
    (leaf / "0_heatmap.pkl").write_bytes(pickle.dumps(rng.integers(1, 255, (3, 2, 64, 64), dtype=np.uint8)))
    (leaf / "1_sil.pkl").write_bytes(pickle.dumps(rng.integers(1, 255, (3, 64, 64), dtype=np.uint8)))
    path = tmp_path / "two.yaml"
    path.write_text(
        "model_cfg: {model: SkeletonGaitPP}\nevaluator_cfg: {transform: [{type: NoOperation}, "
        "{type: BaseSilCuttingTransform}]}"
    )
    with pytest.warns(UserWarning, match="no partition file"):
        (feed,) = feeds(str(path), phase="test", data=str(tmp_path / "tree"))
    sample = feed.sample(0, 0)
    assert sample.steps[-1].name == "NoOperation | BaseSilCuttingTransform"
    assert [picture.shape[1] for picture in sample.steps[-1].pictures] == [64] * 3 + [44] * 3
    assert not sample.original.pictures[0][..., 2].any()


def test_command_line_and_a_broken_walk(tree, tmp_path, capsys):
    import shutil

    shutil.copytree(tree / "tree", tmp_path / "tree")
    (tmp_path / "tree/001/nm-01/000/000.pkl").write_bytes(b"torn")
    words = ["browse", str(tree / "gait.yaml"), "--data", str(tmp_path / "tree"), "--mode", "concat"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "1 samples" in said.out
    assert "001-nm-01-000" in said.err
    (feed,) = feeds(str(tree / "gait.yaml"), data=str(tmp_path / "tree"))
    assert [one.step for one in samples(feed, range(2)) if isinstance(one, BadSample)] == ["load"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_cfg: {model: Baseline}", "data_cfg.dataset_root is missing; give the tree with --data"),
        ("model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: nowhere}", "nowhere: no such folder"),
        ("data_cfg: {dataset_root: x}", "model_cfg.model is missing"),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE}\ntrainer_cfg: {transform: [{type: RandomRotat}]}",
            "transform 'RandomRotat' is not known. Did you mean RandomRotate",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE, dataset_partition: NOBODY}",
            "none of the 1 people of TRAIN_SET is in the tree",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE}\n"
            "trainer_cfg: {sampler: {sample_type: fixed_ordered, frames_num_fixed: 0}}",
            "step sampler: the sampler asks for 0 frames",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE}\ntrainer_cfg: {transform: [3]}",
            "bad.yaml: transform 3: expected a mapping with a type",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE, dataset_partition: LIST}",
            "expected a JSON mapping with a list TRAIN_SET",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE}\n"
            "trainer_cfg: {transform: [{type: NoOperation}, {type: NoOperation}]}",
            "1 modalities, but the config names 2 transforms",
        ),
        (
            "model_cfg: {model: Baseline}\ndata_cfg: {dataset_root: TREE}\n"
            "trainer_cfg: {transform: [{type: BaseSilTransform, divsor: many}]}",
            "step BaseSilTransform: ",
        ),
    ],
)
def test_bad_configs(tree, tmp_path, text, message, capsys):
    (tmp_path / "nobody.json").write_text('{"TRAIN_SET": ["999"]}')
    (tmp_path / "list.json").write_text("[1]")
    path = tmp_path / "bad.yaml"
    for word, file in (("TREE", tree / "tree"), ("NOBODY", tmp_path / "nobody.json"), ("LIST", tmp_path / "list.json")):
        text = text.replace(word, str(file))
    path.write_text(text)
    assert main(["browse", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("loupe: error: ")
    assert message in last


def test_a_change_reaches_the_config(tree):
    change = {"trainer_cfg.sampler.frames_num_fixed": 7}
    (feed,) = feeds(str(tree / "gait.yaml"), changes=change)
    assert feed.sample(0, 0).steps[1].told == "fixed_ordered: 7 of 10 frames"
    with pytest.raises(BadInput, match="holds a value"):
        feeds(str(tree / "gait.yaml"), changes={"model_cfg.model.x": 1})


def test_point_clouds_that_are_none_and_frames_without_points_are_said(tmp_path):
    text = (
        "model_cfg: {model: LidarGaitPlusPlus}\ndata_cfg: {dataset_root: ROOT}\ntrainer_cfg: {sampler: {points_in_use: "
    )
    text += "{pointcloud_index: 0, points_num: 4}}, transform: [{type: PointCloudsTransform}]}"
    for name, value, message in (
        ("flat", [np.zeros(3), np.zeros(4)], r"expected point clouds, one array \(n, 3 or more\) a frame"),
        ("bare", [np.ones((5, 3)), np.ones((0, 3))], "a frame without points"),
    ):
        leaf = tmp_path / name / "001" / "nm-01" / "000"
        leaf.mkdir(parents=True)
        (leaf / "0.pkl").write_bytes(pickle.dumps(value))
        (tmp_path / f"{name}.yaml").write_text(text.replace("ROOT", str(tmp_path / name)))
        (feed,) = feeds(str(tmp_path / f"{name}.yaml"))
        with pytest.raises(BadSample, match=message):
            feed.sample(0, 0)
