"""COCO's AP beside the published pipeline's own evaluation: pycocotools, called plainly, on the same boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diagnosis
import numpy as np
import pytest
from pose_fixtures import LIMIT, VISIBLE, asked, boxes, content, joints_of, nearest, written

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def published(made: dict[str, Any], poses: Sequence[dict[str, Any]], limit: float = LIMIT) -> list[float]:
    """HRNet's evaluate: poses rescored, thinned by OKS picture by picture, and handed to pycocotools as they are."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = []
    for image in {pose["image_id"] for pose in poses}:
        here = [pose for pose in poses if pose["image_id"] == image]
        for pose in here:
            above = [c for c in pose["sure"] if c > VISIBLE]
            pose["final"] = pose["score"] * (sum(above) / len(above) if above else 0)
        here.sort(key=lambda pose: -pose["final"])
        while here:
            best, rest = here[0], here[1:]
            results.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": np.concatenate([best["at"], best["sure"][:, None]], 1).ravel().tolist(),
                    "score": best["final"],
                }
            )
            here = []
            for other in rest:
                square = ((best["at"] - other["at"]) ** 2).sum(1)
                wide = (best["area"] + other["area"]) / 2 + np.spacing(1)
                if np.exp(-square / (2 * SIGMAS) ** 2 / wide / 2).mean() <= limit:
                    here.append(other)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = made
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [value if value >= 0 else np.nan for value in evaluation.stats.tolist()]


def area_of(box: Sequence[float]) -> float:
    """Of the padded box of the crop's aspect."""
    wide, high = max(box[2], box[3] * 0.75), max(box[3], box[2] / 0.75)
    return wide * high * 1.25**2


def from_boxes(made: dict[str, Any], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    poses = []
    for number, one in enumerate(found):
        others = [entry for entry in made["annotations"] if entry["image_id"] == one["image_id"]]
        at, sure = joints_of(number, one["bbox"], nearest(one["bbox"], others))
        poses.append({**one, "at": at, "sure": sure, "area": area_of(one["bbox"])})
    return poses


def run(one: diagnosis.Study, folder: Path, ids: Sequence[int] = ()) -> dict[str, float]:
    done = diagnosis.errors(one, diagnosis.chosen(one, ids), folder)
    assert not done.failed
    return diagnosis.average_precision(one, folder)


def test_people_who_were_not_detected_stay_missed(tmp_path: Path) -> None:
    made = content()
    found = boxes(made)
    written(tmp_path, made, found)
    one = asked(tmp_path, detections=True)
    assert len(one.data) == len(found)
    expected = published(made, from_boxes(made, found))
    assert 0.05 < expected[0] < 0.9
    assert list(run(one, tmp_path / "run").values()) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_people_whose_box_is_unsound_stay_missed(tmp_path: Path) -> None:
    """Annotated boxes: the person of area 0 cannot be cropped, and is missed all the same."""
    made = content()
    written(tmp_path, made, [])
    one = asked(tmp_path, detections=False)
    poses = []
    for number, entry in enumerate(made["annotations"]):
        if number in (4, 7, 10):
            continue
        at, sure = joints_of(number, entry["bbox"], entry)
        # HRNet's annotated boxes end a pixel earlier
        box = [*entry["bbox"][:2], *(np.array(entry["bbox"][2:]) - 1)]
        poses.append({**entry, "score": 1.0, "at": at, "sure": sure, "area": area_of(box)})
    assert len(poses) == len(one.data)
    expected = published(made, poses)
    assert list(run(one, tmp_path / "run").values()) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_only_samples_that_were_not_asked_for_leave_the_count(tmp_path: Path) -> None:
    """Boxes 0, 2 and 3 of pictures 10 and 11: people whose box was not asked for are ignored, those without one missed."""
    made = content()
    found = boxes(made)
    written(tmp_path, made, found)
    one = asked(tmp_path, detections=True)
    ids = [0, 2, 3]
    left = {person.id for i, person in enumerate(one.data.people) if i not in ids}
    pictures = {found[i]["image_id"] for i in ids}
    part = {
        **made,
        "images": [image for image in made["images"] if image["id"] in pictures],
        "annotations": [
            {**entry, "iscrowd": int(entry["iscrowd"] or str(entry["id"]) in left)}
            for entry in made["annotations"]
            if entry["image_id"] in pictures
        ],
    }
    poses = from_boxes(made, found)
    expected = published(part, [poses[i] for i in ids])
    assert list(run(one, tmp_path / "run", ids).values()) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("change", ["text", "from 0"])
def test_ids_of_any_kind_change_nothing(tmp_path: Path, change: str) -> None:
    """Text ids, and ids counted from 0: the evaluators take a match with annotation 0 for none."""
    figures = []
    for name, made in (("plain", content()), ("changed", content(0 if change == "from 0" else 1))):
        found = boxes(made)
        if change == "text" and name == "changed":
            for part in (made["images"], made["annotations"], found):
                for entry in part:
                    entry.update({key: f"p{entry[key]}" for key in ("id", "image_id") if key in entry})
        folder = tmp_path / name
        folder.mkdir()
        written(folder, made, found)
        figures.append(list(run(asked(folder, detections=True), folder / "run").values()))
    assert figures[0] == pytest.approx(figures[1], abs=1e-12)


def test_another_category_is_no_person(tmp_path: Path) -> None:
    """Dogs in the file are neither missed nor found, and lack of their keypoints is no error."""
    made = content()
    found = boxes(made)
    dog = {"image_id": 12, "category_id": 2, "bbox": [5, 5, 40, 40], "area": 1600.0, "iscrowd": 0, "id": 99}
    figures = []
    for name, entries in (("without", made["annotations"]), ("with", [*made["annotations"], dog])):
        folder = tmp_path / name
        folder.mkdir()
        written(folder, {**made, "annotations": entries}, found)
        figures.append(list(run(asked(folder, detections=True), folder / "run").values()))
    assert figures[0] == figures[1]


def test_figures_of_which_there_are_none_are_not_minus_one(tmp_path: Path) -> None:
    made = content()
    for entry in made["annotations"]:
        entry["area"] = 40.0**2
    written(tmp_path, made, boxes(made))
    figures = run(asked(tmp_path, detections=True), tmp_path / "run")
    assert np.isnan(figures["AP (L)"])
    assert np.isfinite(figures["AP (M)"])
