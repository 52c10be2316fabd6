"""Joints that a pose model predicts over a data set, and how far they are off."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchloupe.data.bodies import WHOLE_BODY, WHOLE_PARTS, PoseData, affine, inverse, moved
from torchloupe.errors import BadInput
from torchloupe.methods import indices, keypoints
from torchloupe.probe import Batch
from torchloupe.runs.pose.study import (
    Made,
    Reading,
    Study,
    blamed,
    in_input_pixels,
    load,
    outputs,
    picked,
    studied,
    unit,
)
from torchloupe.runs.run import Job, Summary, run
from torchloupe.sources.poses import annotated
from torchloupe.store.reading import reads
from torchloupe.store.records import Artifact
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import exchanged, merge_mirrored, peaks, predicted, true

Array = NDArray[Any]


@dataclass(frozen=True)
class Measuring:
    """The work behind `loupe pose epe`: predictions and errors of samples of a study, read as `reading` says."""

    study: Study
    samples: Sequence[str]
    reading: Reading

    def about(self) -> dict[str, Any]:
        """See `runs.run.Work.about`."""
        how = self.reading
        read = {"flip": how.flip, "shift": how.shift, "quarter": how.quarter}
        return {**self.study.record(), **read, "decoded": "codec" if how.decode else "peaks"}

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; numbers of samples."""
        return self.samples

    def asked(self, id: str) -> dict[str, Any]:
        """See `runs.run.Work.asked`; nothing is the sample's own."""
        return {}

    def do(self, ids: Sequence[str]) -> Made:
        """See `runs.run.Work.do`."""
        return blamed(partial(_measured, self.study, self.reading), ids)


def measuring(job: Job) -> Measuring:
    """The work of a job. job.model and job.data: see `study.studied`, and which samples. job.ask: flip, or None."""
    one = studied(job.model, job.data)
    return Measuring(one, picked(one, job.data), reading(one, job.ask.get("flip")))


def reading(study: Study, flip: bool | None) -> Reading:
    """As the study says, unless flip says otherwise."""
    return study.reading if flip is None else replace(study.reading, flip=flip)


def errors(
    study: Study,
    ids: Sequence[str],
    root: Path,
    *,
    flip: bool | None = None,
    batch: int = 8,
    strict: bool = False,
) -> Summary:
    """Predictions and end-point errors of the samples into `root`, streaming. flip: otherwise than study.reading says."""
    work = Measuring(study, ids, reading(study, flip))
    return run(work, Stream(root, "epe"), batch=batch, strict=strict, what="errors")


def _measured(study: Study, how: Reading, ids: Sequence[str]) -> Made:
    loaded, broken = load(study, ids)
    yield from broken.items()
    if loaded is None:
        return
    batch = loaded.batch
    plain = outputs(study.subject, batch)
    is_heatmap = plain.ndim == 4
    points = in_input_pixels(predicted(plain), study, is_heatmap)
    truth = in_input_pixels(true(plain, batch), study, is_heatmap)
    at, height = _decoded(study, how, batch, plain, points)
    finite = points.isfinite().all(-1).all(-1)
    for row, id in enumerate(batch.ids):
        if not finite[row]:
            yield id, BadInput("the model's output is not finite (NaN or infinite); check the weights")
            continue
        person, sample = loaded.people[row], loaded.samples[row]
        back = inverse(affine(person.centre, person.extent, study.crop.size))
        flat = points.shape[-1] == 2
        arrays = {
            "predicted": points[row].double().numpy(),
            "true": truth[row].double().numpy(),
            "unit": unit(study, is_heatmap),
            "weight": np.asarray(sample.weight, np.float64),
            "EPE": indices.end_point_error(points[row], truth[row], batch.truth["weight"][row]).numpy(),
            "decoded": moved(at[row].double().numpy(), back) if flat else np.full((len(points[row]), 2), np.nan),
            "annotated": person.joints[:, :2],
            "confidence": height[row].double().numpy(),
            "size": np.array(person.size),
            "centre": np.array(person.centre, np.float64),
            "extent": np.array(person.extent, np.float64),
            "area": np.array(float(np.prod(person.extent))),
            "score": np.array(person.score),
            "person": np.array(person.id),
            "image": np.array(str(person.image_id)),
            "picture": sample.picture,
        }
        yield id, Artifact(arrays, {})


def _decoded(study: Study, how: Reading, batch: Batch, plain: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (n, j, 2 or 3) in pixels of the input, as published evaluations read them, and confidences (n, j)."""
    pairs = study.data.skeleton.pairs
    if how.decode is not None:
        return how.decode(batch, exchanged(pairs, plain.shape[1]) if how.flip else None)
    if plain.ndim != 4:
        return points, torch.ones(points.shape[:2])
    merged = plain
    if how.flip:
        merged = merge_mirrored(plain, outputs(study.subject, batch.at(batch.x.flip(-1))), pairs, how.shift)
    at, height = peaks(merged, how.quarter)
    return in_input_pixels(at, study, True), height


@dataclass(frozen=True)
class Evaluation:
    """What COCO's evaluation of a stored run is made of.

    annotations: the whole file; results: poses, rescored and thinned, each with its sample. pictures: those that count, or
    None for all; aside: ids of people who count neither way. See `methods.keypoints.average_precision`.
    """

    annotations: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    sigmas: Array
    categories: tuple[Any, ...]
    pictures: frozenset[Any] | None
    aside: frozenset[str]

    def figures(
        self, results: Sequence[Mapping[str, Any]] | None = None, aside: Collection[str] = ()
    ) -> dict[str, float]:
        """COCO's ten figures; of other results, or with more people aside."""
        return keypoints.average_precision(
            self.annotations,
            self.results if results is None else results,
            self.sigmas,
            categories=self.categories,
            pictures=self.pictures,
            aside={*self.aside, *aside},
        )

    def part(self, first: int, last: int) -> Evaluation:
        """The same of the joints [first, last) alone; people without one of them annotated do not count."""
        entries = []
        for entry in self.annotations["annotations"]:
            triples = list(entry.get("keypoints") or [0] * 3 * len(self.sigmas))[3 * first : 3 * last]
            entries.append(
                {**entry, "keypoints": triples, "num_keypoints": sum(1 for seen in triples[2::3] if seen > 0)}
            )
        results = [{**one, "keypoints": one["keypoints"][3 * first : 3 * last]} for one in self.results]
        content = {**self.annotations, "annotations": entries}
        return replace(self, annotations=content, results=results, sigmas=self.sigmas[first:last])


def evaluation(study: Study, root: Path) -> Evaluation:
    """The stored predictions of a run as the published evaluation takes the same boxes.

    Annotated people whom no box covers are missed, and boxes on pictures without people are false. Where samples were left
    out of the run, only the pictures of the others count, and people whose own sample was left out count neither way.
    Errors: BadInput where nothing is stored, the data set is no COCO file, its joints have no sigmas, or coordinates are
    those of a camera.
    """
    stream, skeleton = Stream(root, "epe"), study.data.skeleton
    why = (
        "OKS is of joints in pictures, and these are in camera units"
        if study.coordinates == "camera"
        else "its data set is no annotation file of COCO's form"
        if not Path(study.data.source).is_file() or skeleton.name == "mpii"
        else f"the spread of its {len(skeleton.joints)} joints in OKS is not known; give --sigmas"
        if not skeleton.sigmas
        else ""
    )
    if why:
        raise BadInput(f"{root}: has no AP: {why}")
    entries, done = [], stream.ids()
    for id in done:
        kept = stream.arrays(id, ("decoded", "confidence", "score", "area"))
        entries.append(
            {
                "image_id": study.person(id).image_id,
                "joints": kept["decoded"],
                "confidence": kept["confidence"],
                "score": float(kept["score"]),
                "area": float(kept["area"]),
                "sample": id,
            }
        )
    if not entries:
        raise BadInput(f"{root}: no predictions were stored yet; run `loupe pose epe` first")
    sigmas = np.array(skeleton.sigmas)
    results = keypoints.coco_results(entries, sigmas, visible=study.reading.visible, limit=study.reading.limit)
    there = set(done)
    aside = frozenset(person.id for number, person in enumerate(study.data.people) if str(number) not in there)
    pictures = frozenset(entry["image_id"] for entry in entries) if aside else None
    content = annotated(Path(study.data.source), skeleton)
    return Evaluation(content, results, sigmas, study.data.categories, pictures, aside)


@reads("COCO results: a list of poses with image_id, keypoints and score")
def of_results(path: Path, people: PoseData) -> Evaluation:
    """Poses that any model has left as COCO results, as COCO evaluates them: all pictures of the annotation file count.

    Each result's sample is its number in the file. Results of other categories are left out.
    Errors: BadInput for an entry that lacks a field, has another number of joints than the people, or is of a picture that the
    annotation file does not list; joints without sigmas.
    """
    sigmas, count = np.array(people.skeleton.sigmas), len(people.skeleton.joints)
    if not len(sigmas):
        raise BadInput(f"{people.source}: the spread of its {count} joints in OKS is not known; give --sigmas")
    content = annotated(Path(people.source), people.skeleton)
    pictures = {image["id"] for image in content["images"]}
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, list):
        raise BadInput(f"{path}: expected a list of poses, found {type(held).__name__}")
    results = []
    for i, entry in enumerate(held):
        lacking = [name for name in ("image_id", "keypoints", "score") if name not in entry]
        if lacking:
            raise BadInput(f"{path}: pose {i} lacks {', '.join(lacking)}")
        if entry["image_id"] not in pictures:
            raise BadInput(f"{path}: pose {i} is of picture {entry['image_id']!r}, which {people.source} does not list")
        points = np.asarray(entry["keypoints"], np.float64).ravel()
        if len(points) != 3 * count or not np.isfinite([*points, float(entry["score"])]).all():
            raise BadInput(
                f"{path}: pose {i}: keypoints are expected to be {3 * count} finite numbers, x y and a score of {count} joints; "
                f"found {len(points)}"
            )
        if entry.get("category_id", people.categories[0]) in people.categories:
            results.append({**entry, "keypoints": points.tolist(), "score": float(entry["score"]), "sample": str(i)})
    if not results:
        raise BadInput(f"{path}: no pose of the people's category")
    return Evaluation(content, results, sigmas, people.categories, None, frozenset())


def by_part(study: Study, root: Path) -> dict[str, dict[str, float]]:
    """COCO's figures by part of the whole body, each over its own joints, as COCO-WholeBody is evaluated; {} of others."""
    if study.data.skeleton.joints != WHOLE_BODY.joints:
        return {}
    found = evaluation(study, root)
    return {name: found.part(*joints).figures() for name, joints in WHOLE_PARTS.items()}


def average_precision(study: Study, root: Path) -> dict[str, float]:
    """COCO's figures for the stored predictions of a run, see `evaluation`."""
    return evaluation(study, root).figures()
