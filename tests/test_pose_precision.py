"""COCO's AP beside the published pipeline's own evaluation: pycocotools, called plainly, on the same boxes."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchloupe import diagnosis
from torchloupe.probe import Batch
from torchloupe.sources.assemble import Options
from torchloupe.sources.poses import COCO_BODY, Crop, affine, moved

SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
VISIBLE, LIMIT = 0.2, 0.9


def content(first: int = 1) -> dict[str, Any]:
    """Eight pictures, the last three without people; a crowd, a person without joints, a person without a sound box."""
    rng = np.random.default_rng(0)
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": 160, "height": 120} for i in range(8)]
    entries = []
    for picture in (0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4):
        left, top = rng.uniform(5, 80), rng.uniform(5, 30)
        wide, high = rng.uniform(36, 70), rng.uniform(60, 85)
        joints = np.stack([rng.uniform(left, left + wide, 17), rng.uniform(top, top + high, 17)], 1)
        seen = np.where(rng.random(17) < 0.8, 2, 0)
        entries.append(
            {
                "id": len(entries) + first,
                "image_id": 10 + picture,
                "category_id": 1,
                "iscrowd": 0,
                "area": float(wide * high * (0.6 if len(entries) % 2 else 4)),
                "bbox": [left, top, wide, high],
                "keypoints": (np.concatenate([joints, seen[:, None]], 1) * (seen > 0)[:, None]).ravel().tolist(),
                "num_keypoints": int((seen > 0).sum()),
            }
        )
    entries[4]["iscrowd"] = 1
    entries[7] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    entries[10]["bbox"] = [20, 20, 0, 40]
    kinds = [{"id": 1, "name": "person", "keypoints": list(COCO_BODY.joints)}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": entries, "categories": kinds}


def boxes(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Most people found, some twice, two not; boxes where nobody is, also on pictures without anybody."""
    rng = np.random.default_rng(1)
    found = []
    for i, entry in enumerate(made["annotations"]):
        if i in (1, 6):
            continue
        for _ in range(1 + (i % 4 == 0)):
            box = np.array(entry["bbox"]) + rng.normal(0, 2, 4)
            found.append((entry["image_id"], box.clip(1).tolist()))
    found += [(15, [10, 10, 50, 80]), (16, [40, 20, 60, 60]), (10, [90, 50, 60, 60]), (12, [300, 10, 30, 40])]
    return [
        {"image_id": image, "category_id": 1, "bbox": box, "score": float(rng.uniform(0.3, 1))} for image, box in found
    ]


def written(folder: Path, made: dict[str, Any], found: Sequence[dict[str, Any]]) -> None:
    for image in made["images"]:
        Image.fromarray(np.full((120, 160, 3), 90, np.uint8)).save(folder / image["file_name"])
    (folder / "people.json").write_text(json.dumps(made))
    (folder / "found_det.json").write_text(json.dumps(list(found)))


def joints_of(number: int, box: Sequence[float], near: dict[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """What is predicted in a box, in pixels of the picture: the person's joints, badly, or anything; and confidences."""
    rng = np.random.default_rng(100 + number)
    if near is None:
        at = np.stack([rng.uniform(box[0], box[0] + box[2], 17), rng.uniform(box[1], box[1] + box[3], 17)], 1)
    else:
        at = np.array(near["keypoints"], float).reshape(17, 3)[:, :2] + rng.normal(0, 1 + number % 4, (17, 2))
    return at, rng.uniform(0, 1, 17)


def nearest(box: Sequence[float], entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The annotated person of the picture whose box begins close by."""
    near = [entry for entry in entries if np.abs(np.array(entry["bbox"]) - box).max() < 12]
    return near[0] if near else None


def asked(folder: Path, detections: bool) -> diagnosis.Study:
    """A study whose joints are `joints_of` every sample's box, handed over in pixels of the crop."""
    made, found = (json.loads((folder / name).read_text()) for name in ("people.json", "found_det.json"))
    one = diagnosis.study(
        model=nn.Conv2d(3, 17, 3, padding=1, stride=4),
        data=folder / "people.json",
        detections=folder / "found_det.json" if detections else None,
        crop=Crop(size=(24, 32)),
        options=Options(device="cpu"),
    )
    by_id = {str(entry["id"]): entry for entry in made["annotations"]}

    def decode(batch: Batch, _order: object) -> tuple[torch.Tensor, torch.Tensor]:
        points, sure = [], []
        for id in batch.ids:
            person = one.person(id)
            number = int(id) if detections else list(by_id).index(person.id)
            box = found[number]["bbox"] if detections else by_id[person.id]["bbox"]
            others = [entry for entry in made["annotations"] if entry["image_id"] == person.image_id]
            at, height = joints_of(number, box, nearest(box, others) if detections else by_id[person.id])
            points.append(moved(at, affine(person.centre, person.extent, one.crop.size)))
            sure.append(height)
        return torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(sure))

    return replace(one, reading=diagnosis.Reading(decode=decode, visible=VISIBLE, limit=LIMIT))


def published(made: dict[str, Any], poses: Sequence[dict[str, Any]]) -> list[float]:
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
                if np.exp(-square / (2 * SIGMAS) ** 2 / wide / 2).mean() <= LIMIT:
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
