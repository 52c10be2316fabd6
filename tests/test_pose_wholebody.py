"""COCO-WholeBody: its 133 joints out of fields of their own, and AP of all and of each part beside pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diagnosis
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchloupe.cli import main
from torchloupe.data.bodies import WHOLE_BODY, WHOLE_PARTS, Crop, affine, moved
from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.runs.pose.errors import average_precision, by_part
from torchloupe.runs.pose.study import Study
from torchloupe.sources.assemble import Options

FIELDS = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
COUNTS = (17, 6, 68, 21, 21)


def net() -> nn.Module:
    """133 small heatmaps."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 133, 3, padding=1, stride=4)


def file_of(folder: Path) -> dict[str, Any]:
    """Four pictures; somebody whose face alone is annotated, somebody without feet, a crowd."""
    rng = np.random.default_rng(4)
    entries = []
    for number, picture in enumerate((0, 0, 1, 2, 2, 2)):
        x, y, wide, high = (*rng.uniform(5, 40, 2), *rng.uniform(50, 80, 2))
        joints = np.stack([rng.uniform(x, x + wide, 133), rng.uniform(y, y + high, 133)], 1).round(2)
        seen = rng.choice([0, 1, 2], 133, p=[0.2, 0.2, 0.6]).astype(float)
        if number == 1:
            seen[:23] = seen[91:] = 0
        if number == 3:
            seen[17:23] = 0
        triples = np.concatenate([joints * (seen > 0)[:, None], seen[:, None]], 1)
        parts = np.split(triples, np.cumsum(COUNTS)[:-1])
        entries.append(
            {
                "id": number + 1,
                "image_id": picture,
                "category_id": 1,
                "iscrowd": int(number == 5),
                "bbox": [x, y, wide, high],
                "area": float(wide * high * rng.uniform(0.5, 2)),
                "num_keypoints": int((seen[:17] > 0).sum()),
                **{name: part.ravel().tolist() for name, part in zip(FIELDS, parts, strict=True)},
            }
        )
    images = [{"id": i, "file_name": f"{i}.png", "width": 140, "height": 130} for i in range(4)]
    for image in images:
        Image.fromarray(np.full((130, 140, 3), 90, np.uint8)).save(folder / image["file_name"])
    kinds = [{"id": 1, "name": "person", "keypoints": list(WHOLE_BODY.joints[:17])}]
    made = {"images": images, "annotations": entries, "categories": kinds}
    (folder / "whole.json").write_text(json.dumps(made))
    return made


def joined(entry: dict[str, Any]) -> np.ndarray:
    return np.array([value for name in FIELDS for value in entry[name]]).reshape(133, 3)


def predictions(entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(entry["id"])
    spread = rng.choice([0.1, 0.5, 1.5], (133, 1))
    return joined(entry)[:, :2] + rng.normal(0, 1, (133, 2)) * spread, rng.uniform(0.3, 1, 133)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    made = file_of(folder)
    one = diagnosis.study(
        model=net(), data=folder / "whole.json", kind="wholebody", crop=Crop((24, 32)), options=Options(device="cpu")
    )
    by_id = {str(entry["id"]): entry for entry in made["annotations"]}

    def decode(batch: Batch, _order: object) -> tuple[Tensor, Tensor]:
        points, sure = [], []
        for id in batch.ids:
            person = one.person(id)
            at, height = predictions(by_id[person.id])
            points.append(moved(at, affine(person.centre, person.extent, one.crop.size)))
            sure.append(height)
        return torch.from_numpy(np.stack(points)), torch.from_numpy(np.stack(sure))

    one = replace(one, reading=diagnosis.Reading(decode=decode, limit=1.1))
    diagnosis.errors(one, diagnosis.chosen(one), folder / "run")
    return folder / "run", one, made


def test_the_skeleton_is_that_of_the_data_set_s_description() -> None:
    """mmpose's description: names, spreads and partners."""
    found = find_spec("mmpose")
    assert found is not None
    assert found.origin is not None
    held: dict[str, Any] = {}
    exec((Path(found.origin).parent / ".mim/configs/_base_/datasets/coco_wholebody.py").read_text(), held)
    joints = held["dataset_info"]["keypoint_info"]
    names = [joints[j]["name"] for j in range(133)]
    assert list(WHOLE_BODY.joints) == names
    assert list(WHOLE_BODY.sigmas) == held["dataset_info"]["sigmas"]
    partners = {frozenset((j, names.index(joints[j]["swap"]))) for j in range(133) if joints[j]["swap"]}
    assert {frozenset(pair) for pair in WHOLE_BODY.pairs} == partners
    assert len(WHOLE_BODY.pairs) == len(partners)
    bones = {
        frozenset(names.index(end) for end in one["link"]) for one in held["dataset_info"]["skeleton_info"].values()
    }
    assert {frozenset(bone) for bone in WHOLE_BODY.bones} == bones
    assert [last - first for first, last in WHOLE_PARTS.values()] == list(COUNTS)


def test_joints_come_out_of_their_fields(run: tuple[Path, Study, dict[str, Any]]) -> None:
    _, one, made = run
    assert one.data.skeleton.joints == WHOLE_BODY.joints
    people = {person.id: person for person in one.data.people}
    assert sorted(people) == ["1", "2", "3", "4", "5"]  # who shows a face alone is somebody; the crowd is none
    for entry in made["annotations"][:5]:
        whole = joined(entry)
        np.testing.assert_array_equal(people[str(entry["id"])].joints, whole[:, :2])
        np.testing.assert_array_equal(people[str(entry["id"])].weight, whole[:, 2] > 0)


def plain(made: dict[str, Any], first: int, last: int) -> list[float]:
    """pycocotools on the joints of one part, written into `keypoints` by hand."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    entries, results = [], []
    for entry in made["annotations"]:
        part = joined(entry)[first:last]
        seen = int((part[:, 2] > 0).sum())
        number = {"image_id": entry["image_id"] + 1}
        entries.append({**entry, **number, "keypoints": part.ravel().tolist(), "num_keypoints": seen})
        if not entry["iscrowd"]:
            at, sure = predictions(entry)
            triples = np.concatenate([at, sure[:, None]], 1)[first:last]
            results.append({**number, "category_id": 1, "keypoints": triples.ravel().tolist(), "score": sure.mean()})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": [{"id": i + 1} for i in range(4)], "annotations": entries, "categories": [{"id": 1}]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(WHOLE_BODY.sigmas[first:last])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [value if value >= 0 else np.nan for value in evaluation.stats.tolist()]


def test_ap_is_that_of_all_joints_and_of_each_part(run: tuple[Path, Study, dict[str, Any]]) -> None:
    root, one, made = run
    whole = average_precision(one, root)
    np.testing.assert_allclose(list(whole.values()), plain(made, 0, 133), atol=1e-9)
    parts = by_part(one, root)
    assert list(parts) == list(WHOLE_PARTS)
    for name, joints in WHOLE_PARTS.items():
        np.testing.assert_allclose(list(parts[name].values()), plain(made, *joints), atol=1e-9)
    assert len({round(one["AP"], 6) for one in (whole, *parts.values())}) > 3


def test_the_commands_tell_parts_and_kinds_of_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_of(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return nn.Conv2d(3, 133, 3, padding=1, stride=4)\n"
    )
    words = [
        "--model",
        f"torch:{tmp_path / 'mine.py'}:net",
        "--data",
        str(tmp_path / "whole.json"),
        "--input-size",
        "24",
        "32",
    ]
    words += ["-o", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["pose", "epe", *words]) == 2
    assert "the model gives 133 joints" in (said := capsys.readouterr().err)
    assert "give --kind wholebody to a file of COCO-WholeBody" in said
    assert main(["pose", "epe", *words, "--kind", "wholebody"]) == 0
    said = capsys.readouterr().out
    for word in ("left_small_toe", "face-67", "right_pinky_finger4", "left hand"):
        assert word in said
    held = json.loads((tmp_path / "run" / "errors.json").read_text())
    assert list(held["coco_by_part"]) == list(WHOLE_PARTS)
    assert main(["pose", "errors", *words, "--kind", "wholebody"]) == 0
    assert "5 people" in capsys.readouterr().out
    assert main(["pose", "report", str(tmp_path / "run")]) == 0


def test_a_file_without_the_fields_is_refused(tmp_path: Path) -> None:
    made = file_of(tmp_path)
    del made["annotations"][2]["face_kpts"]
    (tmp_path / "whole.json").write_text(json.dumps(made))
    with pytest.raises(BadInput, match=r"annotations\[2\] is none of COCO-WholeBody: lacks face_kpts"):
        diagnosis.study(model=net(), data=tmp_path / "whole.json", kind="wholebody", crop=Crop((24, 32)))
    made["annotations"][2]["face_kpts"] = [0.0] * 9
    (tmp_path / "whole.json").write_text(json.dumps(made))
    with pytest.raises(BadInput, match=r"face_kpts is expected to be 204 finite numbers, found 9"):
        diagnosis.study(model=net(), data=tmp_path / "whole.json", kind="wholebody", crop=Crop((24, 32)))
