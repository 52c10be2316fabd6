"""What networks hold, asked of many pictures or walks: the work behind `loupe features` and `loupe diff`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchloupe import __version__, sources
from torchloupe.errors import BadInput, BadSample, LoupeError
from torchloupe.kinds.features import Difference, FeatureMaps, Likeness, drawable
from torchloupe.methods.difference import CKA, batches, difference, matched
from torchloupe.methods.features import REDUCTIONS, from_array, statistics
from torchloupe.probe import Batch, Subject
from torchloupe.runs.run import Job
from torchloupe.sites import capture, features
from torchloupe.sources.items import Item, items
from torchloupe.sources.safe import state_sha256
from torchloupe.sources.sequences import sequences
from torchloupe.sources.sparse import spliced
from torchloupe.store import plain, safe_name, sha256
from torchloupe.targets.boxes import check_detections, listed
from torchloupe.targets.words import foreign

GAIT = "opengait:"


@dataclass(frozen=True)
class Seen:
    """What is looked at: a picture file, or a walk for models of gait."""

    name: str
    path: Path
    walk: Any = None
    item: Item | None = None

    def batch(self, subject: Subject) -> Batch:
        """As the model takes it, alone."""
        assert subject.prepare is not None
        return subject.prepare(self.walk) if self.item is None else subject.prepare([self.picture()], (self.name,))

    def picture(self) -> Any:
        """The picture, of what is no walk. Errors: BadInput for one that cannot be read."""
        assert self.item is not None
        return self.item.read()

    @property
    def place(self) -> str:
        """Where it is: a file, or a picture of a data set."""
        return str(self.path if self.item is None else self.item)

    @property
    def called(self) -> str:
        """As people know it: the name of its file, or of its walk."""
        return self.path.name if self.walk is None else self.name

    def sha256(self) -> str:
        """The fingerprint of its file, or of all files of its walk. Errors: BadSample where one cannot be read."""
        if self.item is not None:
            return self.item.sha256()
        try:
            found = [sha256(file) for file in self.walk.files]
        except OSError as error:
            raise BadSample(f"{self.path}: cannot be read ({error.strerror or error})") from error
        return found[0] if len(found) == 1 else "+".join(found)


def looked_at(paths: Sequence[str], models: Sequence[str]) -> list[Seen]:
    """The pictures behind paths, or the walks for models of gait. Errors: BadInput for models that take different things."""
    gait = {model.startswith(GAIT) for model in models}
    if len(gait) > 1:
        raise BadInput(f"{' and '.join(models)}: one takes pictures and the other walks, so they see nothing alike")
    if gait == {True}:
        if not paths:
            raise BadInput("no walk was named; give its folder, as <id>/<type>/<view>, or a folder above it")
        return [Seen(walk.name, walk.files[0], walk) for path in paths for walk in sequences(path)]
    found = items(paths)
    stems = [one.path.stem for one in found]
    often = Counter(stems)
    names = [f"{stem}-{i}" if often[stem] > 1 else stem for i, stem in enumerate(stems)]
    return [Seen(name, one.path, item=one) for name, one in zip(names, found, strict=True)]


def opened_model(words: Mapping[str, Any]) -> Subject:
    """The subject of the arguments of `sources.subject`. Errors: BadInput where pictures cannot be prepared for it."""
    subject = sources.subject(**words)
    if subject.prepare is None:
        raise BadInput(
            f"model {words['model']!r}: it is not known how a picture is prepared for it; use it from Python"
        )
    return subject


def identity(subject: Subject, words: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model a question holds: its spec, the fingerprint of its weights, what prepares its input."""
    spec = str(words["model"])
    factory = [spec.partition(":")[2].partition("?")[0]] if spec.startswith("torch:") else []
    return {
        "model": spec,
        "weights": subject.notes.get("weights", {}).get("sha256") or state_sha256(subject.module),
        "code": foreign(factory),
        **{
            key: words.get(key)
            for key in ("cfg_options", "size", "mean", "std", "ema", "layouts", "layout_sizes", "extra_tokens")
        },
    }


def told(subject: Subject, words: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of a model."""
    return {
        "model": words["model"],
        "weights": dict(subject.notes.get("weights", {})),
        "cfg_options": words.get("cfg_options") or {},
        "size": words.get("size"),
        "preparation": subject.notes.get("preparation"),
    }


def random_weights(subject: Subject, model: str) -> list[str]:
    """A notice where a network has random weights."""
    if "weights" not in subject.notes and not model.startswith("torch:"):
        return [f"{model}: no --weights, the network is random; give a checkpoint"]
    return []


class Capturing:
    """The values at points of a network, for every picture or walk.

    job.model: the arguments of `sources.subject`. job.data: images (paths), single (the name of the only result, or None).
    job.ask: points (label -> point; empty: the model's own layers), detections (whether a detector's boxes are kept).
    notices: what the person who asks should be told before.
    """

    def __init__(self, job: Job) -> None:
        found = looked_at(job.data["images"], [str(job.model["model"])])
        single = job.data.get("single")
        names = [single] if single and len(found) == 1 else [f"{safe_name(one.name)}-features" for one in found]
        self.samples = dict(zip(names, found, strict=True))
        self.subject, self.words = opened_model(job.model), job.model
        self.points: dict[str, str] = dict(job.ask["points"])
        self.subject, places, coders = spliced(self.subject, list(self.points.values()))
        self.points = dict(zip(self.points, places, strict=True))
        self.notices: list[str] = []
        if not self.points:
            if not self.subject.layers:
                raise BadInput("no point to look at; name some with --at NAME ..., or give --vis-config")
            self.points = {layer: layer for layer in self.subject.layers}
            self.notices.append(f"point: {', '.join(self.points)} (default)")
        self.notices += random_weights(self.subject, str(job.model["model"]))
        self.detects = bool(job.ask["detections"]) and self.subject.kind == "detector"
        self._sources: dict[str, str] = {}
        self._about = plain(
            {
                **identity(self.subject, self.words),
                "points": self.points,
                **({"autoencoders": coders} if coders else {}),
                "detections": self.detects,
                "version": __version__,
            }
        )

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return self._about

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; the names of the results."""
        return list(self.samples)

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the fingerprint of the picture or walk."""
        self._sources[id] = self.samples[id].sha256()
        return {"source": self._sources[id]}

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, FeatureMaps | LoupeError]]:
        """See `runs.run.Work.do`; one by one, as pictures may differ in size."""
        for id in ids:
            try:
                yield id, self._captured(id)
            except BadInput as error:
                yield id, BadSample(f"{self.samples[id].path}: {error}")

    def _captured(self, id: str) -> FeatureMaps:
        sample, subject = self.samples[id], self.subject
        batch = sample.batch(subject)
        # With a glob, points without image axes are left out in place of an error.
        loose = any(set("*?") & set(word) for word in self.points)
        seen = features(subject, batch, self.points, skip_flat=loose)
        values = {label: value[0].cpu().numpy() for label, value in seen.values.items()}
        for label, value in values.items():
            drawable(value, label)
        found = _detections(subject, batch) if self.detects else None
        record = {
            **told(subject, self.words),
            "id": sample.name,
            "source": sample.place,
            "points": list(seen.values),
            "asked points": self.points,
            "layouts": dict(seen.layouts),
            "loose": list(seen.loose),
            "statistics": {label: statistics(value.cpu()) for label, value in seen.values.items()},
            "classes": _class_names(found, subject.classes),
        }
        picture = None if batch.pictures is None else batch.pictures[0].numpy()
        return FeatureMaps(values, picture, found, plain(record))


def _detections(subject: Subject, batch: Batch) -> np.ndarray:
    """What a detector finds in one picture, as numbers (m, 6) that can be stored."""
    with subject.asked() as own, torch.no_grad():
        return listed(check_detections(own.output(batch), batch), 0.0)[0].numpy()


def _class_names(detections: np.ndarray | None, names: Sequence[str]) -> dict[str, str]:
    """Number -> name, of the classes of the detections."""
    found = sorted({int(row[5]) for row in (() if detections is None else detections)})
    return {str(i): names[i] if i < len(names) else f"class {i}" for i in found}


class Comparing:
    """Two networks, two checkpoints of one, or two pictures in one network, at their points; or the CKA of all points.

    job.model: sides, the arguments of `sources.subject` of the first and of the second, one where one network sees two
    pictures. job.data: images; single. job.ask: points (label, point of the first, of the second; empty: the first's own
    layers), difference, reduction (what networks of different channels are compared by), cka, batch.
    """

    part: Callable[[int, int], None] | None = None

    def __init__(self, job: Job) -> None:
        ask, sides = job.ask, list(job.model["sides"])
        found = looked_at(job.data["images"], [str(words["model"]) for words in sides])
        if ask["cka"] and found[0].walk is not None:
            raise BadInput("--cka takes pictures, many in one forward; walks differ in length")
        if len(sides) == 1 and not ask["cka"] and len(found) != 2:
            raise BadInput(
                f"one model, {1 if sides[0]['weights'] else 0} weights and {len(found)} pictures; expected two --model, or "
                "two --weights, or two pictures"
            )
        difference(ask["difference"])
        opened = [opened_model(words) for words in sides]
        self.sides, self.subjects = (sides * 2)[:2], (opened * 2)[:2]
        self.notices = [
            line for one, words in zip(opened, sides, strict=True) for line in random_weights(one, words["model"])
        ]
        self.points = [tuple(point) for point in ask["points"]]
        if not self.points:
            self.points = [(layer, layer, layer) for layer in self.subjects[0].layers]
            self.notices.insert(0, f"point: {', '.join(self.subjects[0].layers)} (default)")
        if not self.points:
            raise BadInput("no point to compare; name some with --at NAME or NAME1=NAME2, or give --vis-config")
        self.names = _names([str(words["model"]) for words in sides], [words["weights"] for words in sides])
        self.how, self.reduction = str(ask["difference"]), ask["reduction"]
        self.batch = int(ask["batch"]) if ask["cka"] else None
        single = job.data.get("single")
        self.pairs: dict[str, tuple[Seen, ...]]
        if self.batch is not None:
            batches(len(found), self.batch)
            self.pairs = {single or "cka": tuple(found)}
        elif len(sides) == 1:
            self.pairs = {single or "difference": (found[0], found[1])}
            self.names = found[0].called, found[1].called
        elif len(found) == 1:
            self.pairs = {single or "difference": (found[0], found[0])}
        else:
            self.pairs = {f"{one.name}-difference": (one, one) for one in found}
        models = [identity(one, words) for one, words in zip(opened, sides, strict=True)]
        self._specs = [told(one, words) for one, words in zip(opened, sides, strict=True)]
        self._about = plain(
            {"models": models, "points": self.points, "batch": self.batch, "version": __version__}
            | ({} if self.batch else {"difference": self.how, "reduction": self.reduction})
        )

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return self._about

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; the names of the results."""
        return list(self.pairs)

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the fingerprints of the pictures or walks."""
        return {"sources": [one.sha256() for one in dict.fromkeys(self.pairs[id])]}

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Difference | Likeness | LoupeError]]:
        """See `runs.run.Work.do`."""
        for id in ids:
            try:
                yield id, self._difference(*self.pairs[id]) if self.batch is None else self._likeness(self.pairs[id])
            except BadInput as error:
                path = f"{self.pairs[id][0].path}: " if self.batch is None else ""
                yield id, BadSample(f"{path}{error}")

    def _difference(self, one: Seen, other: Seen) -> Difference:
        sides = []
        for side, (subject, sample) in enumerate(zip(self.subjects, (one, other), strict=True)):
            batch = sample.batch(subject)
            asked = {label: names[side] for label, *names in self.points}
            sides.append((features(subject, batch, asked), batch))
        (first, batch), (second, with_second) = sides
        if list(first.values) != list(second.values):
            odd = [next((name for name in mine.values if name not in theirs.values), "nothing")
                   for mine, theirs in ((first, second), (second, first))]  # fmt: skip
            raise BadInput(
                f"the points give different tensors: {odd[0]} in one network, {odd[1]} in the other; name one with @"
            )
        values = [{name: part[name][0].cpu().numpy() for name in part.values} for part in (first, second)]
        picture, another = (
            None if part.pictures is None else part.pictures[0].numpy() for part in (batch, with_second)
        )
        record = {
            "id": " against ".join(dict.fromkeys((one.called, other.called))),
            "sources": [one.place, other.place],
            "models": self._specs,
            "names": list(self.names),
            "points": list(first.values),
            "asked points": self.points,
            "difference": self.how,
            "figures": {name: self._figures(values[0][name], values[1][name]) for name in first.values},
        }
        return Difference(values[0], values[1], picture, another if one != other else None, plain(record))

    def _figures(self, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
        """Mean and maximum of the difference at one point, and what was done to make the two comparable."""
        a, b, notes = matched(from_array(first), from_array(second), REDUCTIONS.get(self.reduction or ""))
        raw = difference(self.how)(a, b)
        return {"mean": float(raw.mean()), "max": float(raw.max()), "notes": list(notes)}

    def _likeness(self, samples: Sequence[Seen]) -> Likeness:
        assert self.batch is not None
        found: CKA | None = None
        groups = batches(len(samples), self.batch)
        for done, group in enumerate(groups):
            images, ids = [samples[i].picture() for i in group], tuple(samples[i].place for i in group)
            sides = []
            for side, subject in enumerate(self.subjects):
                asked = {names[side]: names[side] for _, *names in self.points}
                seen = capture(subject, subject.prepare(images, ids), asked)  # type: ignore[misc]
                sides.append({name: one.raw for name, one in seen.items()})
            found = found or CKA(tuple(sides[0]), tuple(sides[1]))
            found.add(*sides)
            if self.part:
                self.part(done + 1, len(groups))
        assert found is not None
        record = {
            "rows": list(found.rows),
            "columns": list(found.columns),
            "names": list(self.names),
            "models": self._specs,
            "samples": found.samples,
            "batches": [len(group) for group in groups],
            "sources": [one.place for one in samples],
        }
        return Likeness(found.value().numpy(), plain(record))


def _names(specs: Sequence[str], weights: Sequence[str | None]) -> tuple[str, str]:
    """What two sides are called: their specs, or their checkpoints where the specs are the same."""
    if len(specs) == 1:
        return specs[0], specs[0]
    names = list(specs) if len(set(specs)) == 2 else [Path(file).name if file else "no weights" for file in weights]
    return names[0], names[1]
