"""Kinds of error beside an independent transcription of Ronchi and Perona's definitions, and the command that tells them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import diagnosis
import numpy as np
import pytest
import torch
from pose_fixtures import asked, content, written
from test_pose_precision import published

from torchloupe.cli import main
from torchloupe.data.bodies import COCO_BODY, affine, moved
from torchloupe.errors import BadInput
from torchloupe.methods import mistakes as m
from torchloupe.probe import Batch
from torchloupe.render import pose_mistakes, pose_report
from torchloupe.runs.pose import mistakes as runs
from torchloupe.runs.pose.errors import of_results
from torchloupe.runs.pose.study import Study
from torchloupe.store import Artifact
from torchloupe.store.stream import Stream

SIGMAS = np.array(COCO_BODY.sigmas)
PARTNER = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
Entry = dict[str, Any]


def ks(at: np.ndarray, place: np.ndarray, area: float, j: int) -> float:
    return math.exp(-(math.dist(at, place) ** 2) / (2 * area * (2 * SIGMAS[j]) ** 2))


def split(entry: Entry) -> tuple[np.ndarray, np.ndarray]:
    triples = np.array(entry["keypoints"], float).reshape(17, 3)
    return triples[:, :2], triples[:, 2] > 0


def oks(pose: np.ndarray, entry: Entry) -> float:
    places, seen = split(entry)
    if seen.any():
        return float(np.mean([ks(pose[j], places[j], entry["area"], j) for j in range(17) if seen[j]]))
    x, y, wide, high = entry["bbox"]
    values = []
    for j in range(17):
        dx = max(0, x - wide - pose[j][0]) + max(0, pose[j][0] - (x + 2 * wide))
        dy = max(0, y - high - pose[j][1]) + max(0, pose[j][1] - (y + 2 * high))
        values.append(math.exp(-(dx * dx + dy * dy) / (2 * entry["area"] * (2 * SIGMAS[j]) ** 2)))
    return float(np.mean(values))


def transcribed(poses: list[Entry], entries: list[Entry]) -> list[Entry]:
    """The definitions, one pose and one joint at a time."""
    taken: set[int] = set()
    made: list[Entry] = [{} for _ in poses]
    for number in sorted(range(len(poses)), key=lambda i: -poses[i]["score"]):
        pose = poses[number]
        others = [entry for entry in entries if entry["image_id"] == pose["image_id"]]
        best, at_least = None, 0.1
        for wanted in (False, True):
            for entry in others:
                ignored = bool(entry["iscrowd"]) or not split(entry)[1].any()
                if ignored != wanted or (entry["id"] in taken and not entry["iscrowd"]):
                    continue
                if oks(pose["at"], entry) >= at_least:
                    best, at_least = entry, oks(pose["at"], entry)
            if best is not None:
                break
        if best is None:
            made[number] = {"person": None, "kinds": [None] * 17, "mended": pose["at"]}
            continue
        taken.add(best["id"])
        places, seen = split(best)
        if best["iscrowd"] or not seen.any():
            made[number] = {"person": "aside", "kinds": [None] * 17, "mended": pose["at"]}
            continue
        kinds: list[str | None] = []
        mended = np.array(pose["at"], float)
        for j in range(17):
            if not seen[j]:
                kinds.append(None)
                continue
            own = ks(pose["at"][j], places[j], best["area"], j)
            turned = ks(pose["at"][j], places[PARTNER[j]], best["area"], j) if seen[PARTNER[j]] else 0
            elsewhere = 0.0
            for other in others:
                if other is best:
                    continue
                theirs, visible = split(other)
                for i in (j, PARTNER[j]):
                    if visible[i]:
                        elsewhere = max(elsewhere, ks(pose["at"][j], theirs[i], other["area"], j))
            top = max(own, turned, elsewhere)
            if top < 0.5:
                kind, aim = "miss", 0.5
            elif own >= turned and own >= elsewhere:
                kind, aim = ("good", 1.0) if own >= 0.85 else ("jitter", 0.85)
            else:
                kind, aim = ("inversion", turned) if turned >= elsewhere else ("swap", elsewhere)
            kinds.append(kind)
            if kind != "good":
                away = math.sqrt(-2 * math.log(aim) * best["area"]) * 2 * SIGMAS[j]
                mended[j] = (places[j][0] + away, places[j][1])
        made[number] = {"person": best["id"], "kinds": kinds, "mended": mended}
    return made


def confused(made: Entry, seed: int = 0) -> list[Entry]:
    """Poses of all kinds: joints right, a little off, at their partner's place, at another person's, anywhere; and poses on
    nobody."""
    rng = np.random.default_rng(seed)
    poses = []
    for i, entry in enumerate(made["annotations"]):
        if i in (1, 6):
            continue
        places, _ = split(entry)
        others = [split(o)[0] for o in made["annotations"] if o["image_id"] == entry["image_id"] and o is not entry]
        for _ in range(1 + (i % 4 == 0)):
            at = places.copy()
            for j in range(17):
                spread = math.sqrt(entry["area"]) * SIGMAS[j] * 2
                what = rng.choice(5, p=[0.35, 0.25, 0.15, 0.15, 0.1])
                source = places[PARTNER[j]] if what == 2 else places[j]
                if what == 3 and others:
                    source = others[int(rng.integers(len(others)))][int(rng.choice([j, PARTNER[j]]))]
                at[j] = source + rng.normal(0, 0.9 if what == 1 else 0.2, 2) * spread
                if what == 4:
                    at[j] = rng.uniform(0, 120, 2)
            poses.append({"image_id": entry["image_id"], "at": at, "score": float(rng.random())})
    for image in (10, 15, 16):
        poses.append({"image_id": image, "at": rng.uniform(0, 100, (17, 2)), "score": float(rng.random())})
    return poses


def arrays(made: Entry, poses: list[Entry]) -> tuple[m.Poses, m.People]:
    people = m.People(
        np.array([entry["image_id"] for entry in made["annotations"]]),
        np.stack([split(entry)[0] for entry in made["annotations"]]),
        np.stack([split(entry)[1] for entry in made["annotations"]]),
        np.array([entry["area"] for entry in made["annotations"]]),
        np.array([entry["bbox"] for entry in made["annotations"]]),
        np.array([bool(entry["iscrowd"]) for entry in made["annotations"]]),
    )
    parts = [np.array([pose[name] for pose in poses]) for name in ("image_id", "at", "score")]
    return m.Poses(*parts), people


@pytest.mark.parametrize("seed", range(6))
def test_kinds_of_error_are_those_of_the_definitions(seed: int) -> None:
    made = content()
    poses = confused(made, seed)
    found = m.mistakes(*arrays(made, poses), SIGMAS, COCO_BODY.pairs)
    expected = transcribed(poses, made["annotations"])
    for d, one in enumerate(expected):
        number = found.person[d]
        person = {m.NOBODY: None, m.ASIDE: "aside"}.get(number, made["annotations"][number]["id"])
        assert person == one["person"]
        assert [None if k < 0 else m.KINDS[k] for k in found.kind[d]] == one["kinds"]
        np.testing.assert_allclose(found.mended[d], one["mended"], rtol=1e-9)
    matched = {one["person"] for one in expected}
    missed = [e["id"] not in matched and not e["iscrowd"] and split(e)[1].any() for e in made["annotations"]]
    assert found.missed.tolist() == missed


def test_the_poses_of_the_tests_have_every_kind_of_error() -> None:
    made = content()
    counts = sum(
        m.mistakes(*arrays(made, confused(made, s)), SIGMAS, COCO_BODY.pairs).counts().sum(1) for s in range(6)
    )
    assert min(counts.tolist()) >= 10


def test_mended_joints_are_as_near_as_the_paper_says() -> None:
    made = content()
    poses, people = arrays(made, confused(made))
    found = m.mistakes(poses, people, SIGMAS, COCO_BODY.pairs)
    for d, p in enumerate(found.person):
        if p < 0:
            continue
        near = m.closeness(found.mended[d], people.joints[p], people.area[p], SIGMAS)
        np.testing.assert_allclose(near[found.kind[d] == m.JITTER], 0.85)
        np.testing.assert_allclose(near[found.kind[d] == m.MISS], 0.5)
        turned = np.isin(found.kind[d], (m.INVERSION, m.SWAP))
        np.testing.assert_allclose(near[turned], found.towards[d][turned], rtol=1e-9)


def test_crowding_is_the_naive_loop() -> None:
    rng = np.random.default_rng(0)
    box = np.concatenate([rng.uniform(0, 40, (12, 2)), rng.uniform(10, 40, (12, 2))], 1)
    picture = np.arange(12) % 2
    people = m.People(picture, np.zeros((12, 1, 2)), np.ones((12, 1), bool), np.ones(12), box, np.zeros(12, bool))
    naive = []
    for a in range(12):
        count = 0
        for b in range(12):
            if a == b or picture[a] != picture[b]:
                continue
            sides = [
                max(0, min(box[a, k] + box[a, k + 2], box[b, k] + box[b, k + 2]) - max(box[a, k], box[b, k]))
                for k in (0, 1)
            ]
            shared = sides[0] * sides[1]
            count += shared / (box[a, 2] * box[a, 3] + box[b, 2] * box[b, 3] - shared) > 0.1
        naive.append(count)
    assert m.crowding(people).tolist() == naive
    assert max(naive) > 1


def confusing(folder: Path, poses: list[Entry]) -> Study:
    """A study whose decoded joints are these poses, one a detection."""
    one = asked(folder, detections=True)

    def decode(batch: Batch, _order: object) -> tuple[torch.Tensor, torch.Tensor]:
        points = []
        for id in batch.ids:
            person = one.person(id)
            points.append(moved(poses[int(id)]["at"], affine(person.centre, person.extent, one.crop.size)))
        return torch.from_numpy(np.stack(points)), torch.ones(batch.n, 17)

    return replace(one, reading=diagnosis.Reading(decode=decode, limit=1.1))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, Entry, list[Entry]]:
    folder = tmp_path_factory.mktemp("mistakes")
    made = content()
    poses = confused(made)
    found = [
        {"image_id": p["image_id"], "category_id": 1, "bbox": [20, 20, 60, 80], "score": p["score"]} for p in poses
    ]
    written(folder, made, found)
    one = confusing(folder, poses)
    diagnosis.errors(one, diagnosis.chosen(one), folder / "run")
    return folder / "run", one, made, poses


def test_what_mending_each_kind_would_bring(run: tuple[Path, Study, Entry, list[Entry]]) -> None:
    """AP again by pycocotools, called plainly on poses mended by the transcription."""
    root, one, made, poses = run
    found = runs.diagnosed(one, root)
    kinds = transcribed(poses, made["annotations"])
    # OKS between boxes of one size: no pose is so like another that it is suppressed
    assert len(found.samples) == len(poses)

    def ap(ats: list[np.ndarray], keep: list[bool] | None = None, ignore: tuple[int, ...] = ()) -> float:
        entries = [{**e, "iscrowd": int(e["iscrowd"] or e["id"] in ignore)} for e in made["annotations"]]
        given = [
            {**pose, "at": at, "sure": np.ones(17), "area": 1e4}
            for i, (pose, at) in enumerate(zip(poses, ats, strict=True))
            if keep is None or keep[i]
        ]
        return published({**made, "annotations": entries}, given, limit=1.1)[0]

    plain = [pose["at"] for pose in poses]
    base = ap(plain)
    assert found.ap == pytest.approx(base, abs=1e-9)
    for kind in ("jitter", "inversion", "swap", "miss"):
        put = [
            np.where(np.array([k == kind for k in said["kinds"]])[:, None], said["mended"], at)
            for at, said in zip(plain, kinds, strict=True)
        ]
        assert found.gain[kind] == pytest.approx(ap(put) - base, abs=1e-9)
    assert found.gain["background"] == pytest.approx(ap(plain, [k["person"] is not None for k in kinds]) - base)
    matched = {said["person"] for said in kinds}
    missed = tuple(
        e["id"] for e in made["annotations"] if e["id"] not in matched and split(e)[1].any() and not e["iscrowd"]
    )
    assert found.gain["missed"] == pytest.approx(ap(plain, ignore=missed) - base)
    assert max(found.gain.values()) > 0.01
    groups = found.groups()
    known = sorted(np.concatenate(list(groups["size"].values())).tolist())
    assert known == sorted(np.concatenate(list(groups["crowding"].values())).tolist())
    assert sorted(int(found.samples[i]) for i in known) == [
        i for i, said in enumerate(kinds) if said["person"] not in (None, "aside")
    ]


def test_the_command_tells_kinds_by_joint_size_and_crowding_and_draws_each(
    run: tuple[Path, Study, Entry, list[Entry]], tmp_path: Path
) -> None:
    root, one, made, poses = run
    told = pose_mistakes.told(runs.diagnosed(one, root), one, root, examples=1)
    kinds = transcribed(poses, made["annotations"])
    for kind in ("good", *runs.ERRORS):
        count = sum(said["kinds"].count(kind) for said in kinds)
        assert told["joints"][kind] == count
        assert sum(told["by_joint"][joint][kind] for joint in COCO_BODY.joints) == count
        for groups in ("by_size", "by_crowding"):
            assert sum(group[kind] for group in told[groups].values()) == count
    assert told["background"] == sum(said["person"] is None for said in kinds)
    held = json.loads((root / "mistakes.json").read_text())
    assert held == json.loads(json.dumps(told))
    assert {example["kind"] for example in held["examples"]} == set(runs.ERRORS)
    for example in held["examples"]:
        assert (root / example["picture"]).stat().st_size > 2000
        assert example["kind"] in kinds[int(example["sample"])]["kinds"]
    page = pose_report.report(root).read_text()
    for words in ("Kinds of error", "inversion", "AP would rise by", "3 or more"):
        assert words in page
    for name in page.split('src="')[1:]:
        assert (root / "report" / name.split('"')[0]).stat().st_size > 500


def test_runs_without_ap_are_refused_with_the_reason(
    run: tuple[Path, Study, Entry, list[Entry]], tmp_path: Path
) -> None:
    root, one, _, _ = run
    bare = replace(one, data=replace(one.data, skeleton=replace(one.data.skeleton, sigmas=())))
    with pytest.raises(BadInput, match="the spread of its 17 joints in OKS is not known; give --sigmas"):
        runs.diagnosed(bare, root)
    with pytest.raises(BadInput, match="no annotation file of COCO's form"):
        runs.diagnosed(replace(one, data=replace(one.data, source="mine")), root)
    with pytest.raises(BadInput, match="these are in camera units"):
        runs.diagnosed(replace(one, coordinates="camera"), root)
    with pytest.raises(BadInput, match="no predictions were stored yet"):
        runs.diagnosed(one, tmp_path)


def test_runs_of_earlier_versions_which_kept_no_crop_are_told(
    run: tuple[Path, Study, Entry, list[Entry]], tmp_path: Path
) -> None:
    root, one, _, _ = run
    kept, stream = Stream(root, "epe"), Stream(tmp_path, "epe")
    stream.begin(kept.settings())
    for id in kept.ids():
        held = {name: v for name, v in kept.arrays(id).items() if name not in ("centre", "extent")}
        stream.write(id, Artifact(held, {}), {})
    told = pose_mistakes.told(runs.diagnosed(one, tmp_path), one, tmp_path, examples=1)
    assert told["joints"] == pose_mistakes.told(runs.diagnosed(one, root), one, tmp_path, examples=0)["joints"]
    assert len(list((tmp_path / "examples").iterdir())) == 4


def test_poses_of_any_model_are_told_apart_from_a_file(
    run: tuple[Path, Study, Entry, list[Entry]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same poses as COCO results, without a model: the same kinds and gains, AP that of pycocotools."""
    root, one, made, poses = run
    held = runs.diagnosed(one, root)
    given = [
        {
            "image_id": p["image_id"],
            "category_id": 1,
            "score": p["score"],
            "keypoints": np.concatenate([p["at"], np.ones((17, 1))], 1).ravel().tolist(),
        }
        for p in poses
    ]
    (tmp_path / "poses.json").write_text(json.dumps(given))
    words = ["pose", "errors", "--results", str(tmp_path / "poses.json"), "--data", str(root.parent / "people.json")]
    words += ["-o", str(tmp_path / "out")]
    assert main(words) == 0
    told = json.loads((tmp_path / "out" / "mistakes.json").read_text())
    assert told["AP"] == pytest.approx(held.ap, abs=1e-9)
    assert told["joints"] == dict(zip(m.KINDS, held.found.counts().sum(1).tolist(), strict=True))
    for name, value in held.gain.items():
        assert told["gain"][name] == pytest.approx(value, abs=1e-9)
    kinds = transcribed(poses, made["annotations"])
    for example in told["examples"]:
        assert (tmp_path / "out" / example["picture"]).stat().st_size > 2000
        assert example["kind"] in kinds[int(example["sample"])]["kinds"]
    assert "inversion" in capsys.readouterr().out
    for more, message in (
        (["--model", "torch:a.b:c"], "--model: --results are poses that are there, without a model; leave it out"),
        (["--ids", "3"], "--ids is of a run of the model"),
        (["--kind", "mpii"], "an annotation file of COCO's form"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "pose 1 is of picture 99, which .* does not list"),
        ({"keypoints": [1.0] * 12}, "pose 1: keypoints are expected to be 51 finite numbers, .* found 12"),
        ({"score": float("nan")}, "pose 1: keypoints are expected"),
        ({"keypoints": "all"}, "COCO results"),
    ],
)
def test_results_that_do_not_fit_are_named(
    run: tuple[Path, Study, Entry, list[Entry]], tmp_path: Path, change: Entry, message: str
) -> None:
    _, one, _, poses = run
    good = {"image_id": poses[0]["image_id"], "keypoints": [1.0] * 51, "score": 0.5}
    (tmp_path / "poses.json").write_text(json.dumps([good, {**good, **change}]))
    with pytest.raises(BadInput, match=message):
        of_results(tmp_path / "poses.json", one.data)
    (tmp_path / "poses.json").write_text("[{}]")
    with pytest.raises(BadInput, match="pose 0 lacks image_id, keypoints, score"):
        of_results(tmp_path / "poses.json", one.data)
