"""What the census of loupe browse finds: odd pictures, boxes by size and place, how random a pipeline is, pictures in two sets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from torchloupe import kinds, store
from torchloupe.cli import main
from torchloupe.data.samples import Marks, Sample, Step
from torchloupe.errors import BadInput
from torchloupe.methods.browse import Census
from torchloupe.methods.faults import Boxes, Draws, odd_pictures, quality, share_interval
from torchloupe.render.samples import plots
from torchloupe.runs.browse import drawn

HALF = v2.Compose([v2.RandomHorizontalFlip(0.5), v2.ColorJitter(brightness=(0.5, 1.5))])


def photographs() -> list[Image.Image]:
    """Real bundled photographs, twelve crops of the same size."""
    from skimage import data

    held = [
        Image.fromarray(getattr(data, name)()).resize((320, 240))
        for name in ("chelsea", "astronaut", "coffee", "rocket")
    ]
    return [one.crop((x, 0, x + 160, 120)) for one in held for x in (0, 60, 120)]


def test_quality_by_plain_loops():
    picture = np.asarray(photographs()[0].resize((9, 7)))
    grey = np.asarray(Image.fromarray(picture).convert("L"), float)
    values = [
        4 * -grey[y, x] + grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1]
        for y in range(1, 6)
        for x in range(1, 8)
    ]
    mean = sum(values) / len(values)
    wanted = sum((value - mean) ** 2 for value in values) / len(values)
    np.testing.assert_allclose(quality(picture), (grey.mean(), grey.std(), wanted), rtol=1e-5)


def test_odd_pictures_are_found_and_others_are_not():
    usual = photographs()
    odd = {
        "dark": Image.fromarray((np.asarray(usual[0]) * 0.08).astype(np.uint8)),
        "blurred": usual[3].filter(ImageFilter.GaussianBlur(9)),
        "hardly any content": Image.new("RGB", (160, 120), (120, 130, 125)),
        "odd area": usual[6].resize((640, 480)),
        "odd aspect ratio": usual[9].resize((480, 40)),
    }
    held = [*usual, *odd.values()]
    figures = np.array([quality(np.asarray(one)) for one in held])
    found = odd_pictures(figures, np.array([one.size for one in held]))
    assert {k for k, _ in found} == set(range(len(usual), len(held)))
    for k, name in enumerate(odd, len(usual)):
        assert any(name in why for number, why in found if number == k), name
    assert odd_pictures(figures[:12], np.array([one.size for one in usual])) == []


def test_intervals_of_shares():
    for count, total in ((0, 10), (3, 10), (10, 10), (250, 1000)):
        low, high = share_interval(count, total)
        assert low + 1e-12 >= 0
        assert low <= count / total <= high + 1e-12
        # Both ends are where the observed share lies 1.96 standard deviations away.
        for end in (low, high):
            if 1e-9 < end < 1 - 1e-9:
                assert abs(count / total - end) / math.sqrt(end * (1 - end) / total) == pytest.approx(
                    1.959964, rel=1e-6
                )


def test_boxes_by_size_and_place():
    boxes = Boxes()
    boxes.add(np.array([[0.0, 0, 20, 20], [150, 80, 200, 100], [0, 0, 200, 100]]), ("a", "b", "b"), (200, 100))
    found = boxes.summary()
    assert found["sizes"] == {"small": 2, "medium": 0, "large": 1}
    assert found["places"][0][0] == found["places"][4][4] == found["places"][2][2] == 1
    assert found["share of picture"]["median"] == pytest.approx(0.05)
    assert boxes.names == {"b": 2, "a": 1}


def test_draws_are_counted():
    picture = np.zeros((4, 4, 3), np.uint8)
    draws = Draws()
    for k in range(4):
        boxes = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3]])
        steps = (Step("load", (picture,), "", Marks(boxes, ("a", "b"))),
                 Step("Rotate", (picture,), f"angle {10 * k}" if k else "not applied, unchanged", Marks(boxes[: 1 + k % 2], ("a", "b")[: 1 + k % 2])))  # fmt: skip
        draws.add(Sample(k, "x", "", steps))
    found = draws.summary()
    assert found["Rotate"]["left out"] == 0.25
    angle = found["Rotate"]["drawn"]["angle"]
    counts = angle.pop("counts")
    assert angle == {"count": 3, "min": 10, "25 %": 15, "median": 20, "75 %": 25, "max": 30}
    assert [(k, count) for k, count in enumerate(counts) if count] == [(0, 1), (10, 1), (19, 1)]
    assert found["boxes"] == {
        "samples with a box dropped": 0.5,
        "classes before": {"a": 4, "b": 4},
        "classes after": {"a": 4, "b": 2},
    }


def test_a_box_that_a_crop_keeps_without_area_has_left_the_picture():
    picture, smaller = np.zeros((40, 40, 3), np.uint8), np.zeros((20, 20, 3), np.uint8)
    draws = Draws()
    # Cut to the left upper quarter as torchvision does: what is outside stays as an edge; then as they are, beyond the edge.
    for kept in ([[2.0, 2, 9, 9], [20, 5, 20, 9]], [[2.0, 2, 9, 9], [25, 5, 30, 9]], [[2.0, 2, 9, 9], [15, 5, 30, 9]]):
        marks = Marks(np.array([[2.0, 2, 9, 9], [15, 5, 30, 9]]), ("a", "b"))
        draws.add(
            Sample(
                0,
                "x",
                "",
                (Step("load", (picture,), "", marks), Step("Crop", (smaller,), "", Marks(np.array(kept), ("a", "b")))),
            )
        )
    assert draws.summary()["boxes"] == {
        "samples with a box dropped": pytest.approx(2 / 3),
        "classes before": {"a": 3, "b": 3},
        "classes after": {"a": 3, "b": 1},
    }


def test_boxes_draws_and_intervals_are_plotted(tmp_path):
    """What the figure shows is what was counted, and the stored census draws the same figure."""
    picture = np.zeros((64, 64, 3), np.uint8)
    census, rng = Census(), np.random.default_rng(0)
    for k in range(30):
        marks = Marks(np.array([[4.0, 4, 12, 12], [40, 40, 60, 60]]), ("cat", "$dog$"))
        after = Marks(np.array([[4.0, 4, 12, 12]]), ("cat",)) if k % 3 == 0 else marks
        told = f"angle {rng.uniform(-20, 20):.3g}" if k % 2 else "not applied, unchanged"
        steps = (Step("load", (picture,), "", marks), Step("Rotate", (picture,), told, after))
        census.add(Sample(k, str(k), "", steps, labels=("day",) if k < 20 else ("night",)))
    summary = census.summary()
    figure = plots("set", np.array(census.sizes), summary)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert np.asarray(panels["middles of boxes"].images[0].get_array()).tolist() == summary["boxes"]["places"]
    assert panels["sizes of boxes"].patches[0].get_data().values.tolist() == summary["boxes"]["counts"]
    assert sum(summary["boxes"]["counts"]) == 60
    assert panels["Rotate: angle"].patches[0].get_data().values.sum() == 15
    (bars,) = [
        axes
        for title, axes in panels.items()
        if title.startswith("boxes by class; one or more gone in 33% of the draws")
    ]
    assert sorted(bar.get_width() for bar in bars.patches) == [20, 30, 30, 30]
    assert "$dog$" in [label.get_text() for label in bars.get_yticklabels()]
    assert len(panels["share of the draws"].patches) == 2
    # 20 of 30, by hand: (2/3 + 3.8415/60 +- 1.96 sqrt(2/270 + 3.8415/3600)) / (1 + 3.8415/30) = 0.4878, 0.8077; 10 of 30 mirrored.
    (segments,) = [one.get_segments() for one in panels["classes"].collections if hasattr(one, "get_segments")]
    ends = sorted(float(x) for segment in segments for x in segment[:, 0])
    np.testing.assert_allclose(np.array(ends) / 30, [1 - 0.8077, 0.4878, 1 - 0.4878, 0.8077], atol=2e-4)
    bare = plots("set", np.array(census.sizes), {**summary, "boxes": {}, "draws": {}})
    assert len(bare.axes) == 4


def test_the_share_of_flips_is_told(tmp_path, capsys):
    for k, one in enumerate(photographs()[:6]):
        one.resize((32, 24)).save(tmp_path / f"{k}.png")
    words = ["browse", f"folder:{tmp_path}", "--transform", f"{__file__}:HALF", "--repeat", "20", "--draw", "none"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    held = json.loads((tmp_path / "out/census.json").read_text())["summary"]["draws"]
    assert 0.35 < held["RandomHorizontalFlip"]["unchanged"] < 0.65
    assert "drawn             ColorJitter:" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("0*.png"))


def test_pictures_that_are_in_both_sets_are_listed(tmp_path, capsys):
    for name, numbers in (("train", range(6)), ("test", (4, 6, 7))):
        (tmp_path / name).mkdir()
        for k in numbers:
            photographs()[k].resize((160 - k, 120)).save(tmp_path / name / f"{name}{k}.jpg", quality=80)
    words = ["browse", f"folder:{tmp_path}/train", "--against", f"folder:{tmp_path}/test", "--draw", "sample:2"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    assert "in both           train4.jpg and test4.jpg" in capsys.readouterr().out
    arrays, record = store.load(tmp_path / "out/census.npz")
    assert record["summary"]["leaked"] == [["train4.jpg", "test4.jpg"]]
    assert len(list((tmp_path / "out").glob("0*.png"))) == 2
    found = kinds.read(arrays, record)
    assert found.row()["samples"] == 6
    assert {key: value.tolist() for key, value in found.arrays().items()} == {
        key: value.tolist() for key, value in arrays.items()
    }


def test_which_are_drawn():
    assert drawn(5, "auto") == set(range(5))
    assert len(drawn(10**5, "auto")) == 200
    assert drawn(10, "sample:2") == {0, 9}
    assert drawn(10, "none") == set()
    for word in ("some", "sample:0", "all:3", "worst:3"):
        with pytest.raises(BadInput, match="expected all, none, sample:N or auto"):
            drawn(10, word)


def test_results_of_earlier_versions_are_read(tmp_path: Path):
    arrays = {
        "index": np.arange(2),
        "size": np.full((2, 2), 4),
        "fingerprint": np.zeros((2, 72), np.uint8),
        "name": np.array(["a", "b"]),
    }
    record = {"kind": "census", "name": "x", "summary": {"samples": 2, "classes": {"a": 1, "b": 1}, "broken": [], "duplicates": [],
              "mean": [1, 2, 3], "std": [1, 1, 1], "transformed mean": [1, 2, 3], "transformed std": [1, 1, 1]}}  # fmt: skip
    store.save(tmp_path, "census", arrays, record)
    assert kinds.read(*store.load(tmp_path / "census.npz")).row()["classes"] == 2
    assert main(["draw", str(tmp_path / "census.npz"), "--save", str(tmp_path / "again.png")]) == 0
