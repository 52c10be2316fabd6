"""Kinds of error of a run told: mistakes.json, tables, and an example picture of each kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.data.bodies import Crop, PoseData, affine, moved
from torchloupe.errors import LoupeError
from torchloupe.methods.mistakes import KINDS
from torchloupe.render import pose
from torchloupe.sources.poses import read
from torchloupe.store import plain, whole
from torchloupe.store.stream import Stream

if TYPE_CHECKING:
    from torchloupe.runs.pose.mistakes import Diagnosed
    from torchloupe.runs.pose.study import Study

Array = NDArray[Any]
MEANING = {
    "good": "within the similarity of .85 that people agree on",
    "jitter": "at its own place, but loosely: similarity .5 to .85",
    "inversion": "at its left-right partner's place",
    "swap": "at the place of another person's joint",
    "miss": "near no place that it could be taken for",
}


def told(found: Diagnosed, study: Study | PoseData, root: Path, examples: int = 2) -> dict[str, Any]:
    """mistakes.json of a run, and examples/ with pictures of the most telling errors of each kind, from the model; or of poses
    that are there without one, with their people.

    Errors: BadInput where a file cannot be written.
    """
    draw = partial(_found, found, study) if isinstance(study, PoseData) else partial(_example, study)
    joints = (study if isinstance(study, PoseData) else study.data).skeleton.joints
    counts = found.found.counts()
    content: dict[str, Any] = {
        "AP": found.ap,
        "gain": dict(found.gain),
        "poses": len(found.poses),
        "people": int((~found.people.aside & found.people.visible.any(1)).sum()),
        "background": int(found.found.background.sum()),
        "missed": int(found.found.missed.sum()),
        "joints": _by_kind(counts.sum(1)),
        "by_joint": {name: _by_kind(counts[:, j]) for j, name in enumerate(joints)},
    }
    content["samples"] = {
        sample: [KINDS[kind] if kind >= 0 else None for kind in row]
        for sample, row in zip(found.samples, found.found.kind.tolist(), strict=True)
    }
    for name, groups in found.groups().items():
        content[f"by_{name}"] = {
            group: {"poses": len(rows), **_by_kind(found.found.counts(rows).sum(1))} for group, rows in groups.items()
        }
    content["examples"] = [
        {
            "kind": KINDS[kind],
            "sample": sample,
            "joint": joints[joint],
            "picture": draw(root, kind, sample, joint),
        }
        for kind in range(1, len(KINDS))
        for sample, joint in found.worst(kind, examples)
    ]
    content = plain(content)
    whole(root / "mistakes.json", json.dumps(content, indent=1))
    return content


def _by_kind(counts: Array) -> dict[str, int]:
    return dict(zip(KINDS, counts.astype(int).tolist(), strict=True))


def _example(study: Study, root: Path, kind: int, sample: str, joint: int) -> str:
    """Draws one error; -> its path below the run."""
    from torchloupe.runs.pose.mistakes import heatmap

    kept = Stream(root, "epe").arrays(sample)
    person = study.person(sample)  # runs of earlier versions kept no crop
    into = affine(person.centre, person.extent, study.crop.size)
    place, seen = (moved(kept[name][joint], into) for name in ("annotated", "decoded"))
    elsewhere = None
    partner = next((b if a == joint else a for a, b in study.data.skeleton.pairs if joint in (a, b)), None)
    if KINDS[kind] == "inversion" and partner is not None:
        elsewhere = moved(kept["annotated"][partner], into)
    maps, values = Stream(root, "ig"), None
    if sample in maps.ids():
        held = maps.arrays(sample, ("maps", "joints"))
        if "maps" in held and joint in held["joints"].tolist():
            values = held["maps"][held["joints"].tolist().index(joint)].astype(np.float64)
    title = _title(kind, study.data.skeleton.joints[joint], f"sample {sample}")
    drawn = pose.mistake(kept["picture"], place, seen, heatmap(study, sample, joint), values, title, elsewhere)
    return _kept(drawn, root, kind, sample, joint)


def _found(found: Diagnosed, people: PoseData, root: Path, kind: int, sample: str, joint: int) -> str:
    """Draws one error of a pose that is there without a model, in a crop of its person; "" where the picture is not."""
    row = found.samples.index(sample)
    id = found.ids[int(found.found.person[row])]
    person = next((one for one in people.people if one.id == id), None)
    crop = Crop()
    try:
        picture = None if person is None else read(person, crop).picture
    except LoupeError:
        picture = None
    if person is None or picture is None:
        return ""
    into = affine(person.centre, person.extent, crop.size)
    place, seen = (moved(at, into) for at in (person.joints[joint], found.poses.joints[row, joint]))
    partner = next((b if a == joint else a for a, b in people.skeleton.pairs if joint in (a, b)), None)
    elsewhere = None
    if KINDS[kind] == "inversion" and partner is not None:
        elsewhere = moved(person.joints[partner], into)
    title = _title(kind, people.skeleton.joints[joint], f"pose {sample}")
    return _kept(pose.mistake(picture, place, seen, None, None, title, elsewhere), root, kind, sample, joint)


def _title(kind: int, joint: str, whose: str) -> str:
    return f"{KINDS[kind]}: {joint.replace('_', ' ')} of {whose}\n{MEANING[KINDS[kind]]}"


def _kept(drawn: Any, root: Path, kind: int, sample: str, joint: int) -> str:
    path = root / "examples" / f"{KINDS[kind]}_{sample}_{joint}.png"
    whole(path, pose.png(drawn))
    return f"examples/{path.name}"


def tables(content: Mapping[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """(head, rows) of: what each kind costs; kinds by joint; by size; by crowding. Shares of joints in per cent."""
    whole_run = content["joints"]
    total = sum(whole_run.values())

    def share(count: int, of: int) -> str:
        return f"{100 * count / of:.1f} %" if of else "-"

    def gain(name: str) -> str:
        value = content["gain"].get(name)
        return "-" if value is None else f"{value:+.3f}"

    costs = [[kind, str(whole_run[kind]), share(whole_run[kind], total), gain(kind)] for kind in KINDS[1:]]
    costs.insert(0, ["good", str(whole_run["good"]), share(whole_run["good"], total), ""])
    costs.append(
        [
            "background pose",
            str(content["background"]),
            share(content["background"], content["poses"]),
            gain("background"),
        ]
    )
    costs.append(["missed person", str(content["missed"]), share(content["missed"], content["people"]), gain("missed")])
    made = [(["kind of error", "count", "share", "AP would rise by"], costs)]
    for title, part in (("joint", "by_joint"), ("size of the person", "by_size"), ("people beside", "by_crowding")):
        rows = []
        for name, counts in content[part].items():
            of = sum(counts[kind] for kind in KINDS)
            rows.append([name, str(of), *(share(counts[kind], of) for kind in KINDS)])
        made.append(([title, "joints", *KINDS], rows))
    return made
