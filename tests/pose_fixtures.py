"""A small COCO keypoint file with awkward people, detections of them, and a study whose joints a test knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diagnosis
import numpy as np
import torch
from PIL import Image
from torch import nn

from torchloupe.data.bodies import COCO_BODY, Crop, affine, moved
from torchloupe.probe import Batch
from torchloupe.sources.assemble import Options

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
