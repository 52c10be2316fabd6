"""Kinds of error of a stored run, what mending each would bring, and examples of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadSample
from torchloupe.methods.mistakes import (
    GOOD,
    KINDS,
    LARGE,
    SMALL,
    Mistakes,
    People,
    Poses,
    crowding,
    mistakes,
)
from torchloupe.runs.pose.errors import Evaluation, evaluation
from torchloupe.runs.pose.study import Study, load, outputs

Array = NDArray[Any]
ERRORS = KINDS[GOOD + 1 :]
SIZES = ("small", "medium", "large")
CROWDS = ("alone", "1 or 2 others", "3 or more")


@dataclass(frozen=True)
class Diagnosed:
    """Kinds of error of a run: of its poses, by sample, with its people; AP as it is, and what each kind costs.

    gain: kind, "background" or "missed" -> how much AP rises where only that is mended. ids: of the people.
    """

    evaluation: Evaluation
    poses: Poses
    people: People
    ids: tuple[str, ...]
    samples: tuple[str, ...]
    found: Mistakes
    ap: float
    gain: Mapping[str, float]

    def groups(self) -> dict[str, dict[str, Array]]:
        """size and crowding -> group -> which poses (d,), by their persons."""
        known = np.flatnonzero(self.found.person >= 0)
        whom = self.found.person[known]
        area, beside = self.people.area[whom], crowding(self.people)[whom]
        by = {
            "size": (SIZES, np.digitize(area, [SMALL, LARGE])),
            "crowding": (CROWDS, np.digitize(beside, [1, 3])),
        }
        return {
            name: {group: known[number == i] for i, group in enumerate(groups)} for name, (groups, number) in by.items()
        }

    def worst(self, kind: int, count: int) -> list[tuple[str, int]]:
        """(sample, joint) of the most telling errors of a kind: what was taken for something else and lies right on it,
        and what is farthest off."""
        rows, joints = np.nonzero(self.found.kind == kind)
        near = self.found.towards[rows, joints]
        order = np.argsort(-near if KINDS[kind] in ("inversion", "swap") else near, kind="stable")
        picked: dict[str, int] = {}
        for i in order.tolist():
            # one joint a sample shows more than several of the same
            picked.setdefault(self.samples[rows[i]], int(joints[i]))
        return list(picked.items())[:count]


def diagnosed(study: Study, root: Path, least: float = 0.1) -> Diagnosed:
    """The kinds of error of a run's stored predictions. Errors: BadInput where it has no AP, see `evaluation`."""
    return told_apart(evaluation(study, root), study.data.skeleton.pairs, least)


def told_apart(given: Evaluation, pairs: Sequence[tuple[int, int]], least: float = 0.1) -> Diagnosed:
    """The kinds of error of poses, whatever made them. pairs: left-right partners."""
    people, ids = annotated(given)
    results = given.results if given.pictures is None else [r for r in given.results if r["image_id"] in given.pictures]
    numbers = {image["id"]: i for i, image in enumerate(given.annotations["images"])}
    poses = Poses(
        np.array([numbers[result["image_id"]] for result in results]),
        np.array([result["keypoints"] for result in results]).reshape(len(results), -1, 3)[..., :2],
        np.array([result["score"] for result in results]),
    )
    found = mistakes(poses, people, given.sigmas, pairs, least=least)
    ap = given.figures()["AP"]

    def gain(put: Sequence[Mapping[str, Any]] | None = None, aside: Sequence[str] = ()) -> float:
        return given.figures(put, aside)["AP"] - ap

    gains = {}
    for kind in range(GOOD + 1, len(KINDS)):
        gains[KINDS[kind]] = gain([_put(r, found.mended[i], found.kind[i] == kind) for i, r in enumerate(results)])
    gains["background"] = gain([result for result, off in zip(results, found.background, strict=True) if not off])
    gains["missed"] = gain(aside=[ids[i] for i in np.flatnonzero(found.missed)])
    samples = tuple(str(result["sample"]) for result in results)
    return Diagnosed(given, poses, people, ids, samples, found, ap, gains)


def _put(result: Mapping[str, Any], mended: Array, which: Array) -> Mapping[str, Any]:
    """A result with some of its joints mended."""
    if not which.any():
        return result
    triples = np.array(result["keypoints"]).reshape(-1, 3)
    triples[which, :2] = mended[which]
    return {**result, "keypoints": triples.ravel().tolist()}


def annotated(given: Evaluation) -> tuple[People, tuple[str, ...]]:
    """The people who count in an evaluation, and their ids."""
    numbers = {image["id"]: i for i, image in enumerate(given.annotations["images"])}
    entries = [
        entry
        for entry in given.annotations["annotations"]
        if entry.get("category_id", given.categories[0]) in given.categories
        and (given.pictures is None or entry["image_id"] in given.pictures)
    ]
    count = len(given.sigmas)
    triples = np.array([entry.get("keypoints") or [0] * 3 * count for entry in entries], np.float64)
    triples = triples.reshape(len(entries), count, 3)
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    people = People(
        picture=np.array([numbers[entry["image_id"]] for entry in entries], int),
        joints=triples[..., :2],
        visible=triples[..., 2] > 0,
        area=np.array([entry.get("area", entry["bbox"][2] * entry["bbox"][3]) for entry in entries], np.float64),
        box=boxes,
        aside=np.array([bool(entry.get("iscrowd")) or str(entry["id"]) in given.aside for entry in entries], bool),
    )
    return people, tuple(str(entry["id"]) for entry in entries)


def heatmap(study: Study, sample: str, joint: int) -> Array | None:
    """The heatmap (h, w) of one joint of a sample, from the model; None for models that give coordinates.

    Errors: BadSample where the sample cannot be read.
    """
    loaded, broken = load(study, [sample])
    if loaded is None:
        raise BadSample(str(broken[sample]))
    made = outputs(study.subject, loaded.batch)
    return made[0, joint].double().numpy() if made.ndim == 4 else None
