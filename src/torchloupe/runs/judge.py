"""Heatmaps of pictures with numbers of how far each can be trusted: the work behind `loupe judge`, `loupe sane` and `loupe cam --metrics`."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from torchloupe.errors import BadInput, BadSample, UnsafeFile
from torchloupe.gait import about_walk, laid_out, last_pictures
from torchloupe.kinds.judged import Judged
from torchloupe.kinds.maps import Heatmaps, names_of
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.methods.cam import cams
from torchloupe.methods.registry import named as methods_named
from torchloupe.methods.registry import options_of as method_options
from torchloupe.metrics import registry
from torchloupe.metrics.judge import Judgement, budget, judge
from torchloupe.metrics.sanity import sane
from torchloupe.named import fingerprint as code_of
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe
from torchloupe.runs.asked import noted
from torchloupe.runs.found import opened
from torchloupe.runs.gait import Matching, walk_options
from torchloupe.runs.maps import Explaining
from torchloupe.runs.run import Job
from torchloupe.sources.places import Places, places, with_places
from torchloupe.sources.sequences import Walk
from torchloupe.store import Artifact, plain, sha256
from torchloupe.targets.classes import Classes, Each, Several, Top, Truth

OF_MODEL = (
    *("model", "cfg_options", "size", "mean", "std", "ema", "classes", "output"),
    *("layouts", "layout_sizes", "extra_tokens"),
)
"""What a record tells of the model, as the arguments of `sources.subject`."""
OF_CLASSES = (Classes, Each, Several, Top, Truth)


class Measuring:
    """What all works share that judge maps: which metrics, how, and what is said meanwhile.

    tell: is given lines to say while it works, such as how many forwards it will take.
    """

    tell: Callable[[str], None] | None = None
    part: Callable[[int, int], None] | None = None

    def measures(self, ask: Mapping[str, Any]) -> dict[str, Any]:
        """Notes the part of job.ask that is about numbers; gives what of it belongs into the question's key."""
        self.known = {fn.__name__: fn for fn in map(registry.named, ask["metrics"])}
        self.metrics = tuple(self.known)
        self.judging = {
            "value": ask["value"],
            "chance": bool(ask["chance"]),
            "seed": int(ask["seed"]),
            **dict(ask["metric_options"]),
        }
        self.chunk = int(ask["chunk"])
        self._told: set[str] = set()
        return {"metrics": {name: source_of(fn) for name, fn in self.known.items()}, **self.judging}

    @property
    def needing(self) -> list[str]:
        """The metrics that need to know where things are."""
        return [name for name, fn in self.known.items() if fn.needs]  # type: ignore[attr-defined]

    def judgement(self, found: Mapping[str, Maps], probe: Probe, batch: Batch) -> Judgement:
        """The numbers of these maps; says beforehand how many forwards they take."""
        options = {key: value for key, value in self.judging.items() if key not in ("value", "seed")}
        cost = budget(batch, found, tuple(self.known.values()), **options)
        if sum(cost.values()):
            parts = ", ".join(f"{name} {count // batch.n}" for name, count in cost.items() if count)
            self.say(
                f"budget: at most {sum(cost.values()) // batch.n} forwards a sample ({parts}), {self.chunk} at once"
            )
        total, part = max(1, sum(cost.values())), self.part
        return judge(
            probe,
            batch,
            found,
            tuple(self.known.values()),
            chunk=self.chunk,
            progress=(lambda done: part(min(done, total), total)) if part else None,
            **self.judging,
        )

    def say(self, line: str) -> None:
        """Told once, however many batches find it."""
        if line not in self._told and self.tell:
            self.tell(line)
        self._told.add(line)


class Judging(Measuring, Explaining):
    """Explains pictures and judges the maps.

    job.ask besides that of Explaining: metrics, metric_options, value ("auto": softmax for questions about a classifier's
    classes, else score), chance, chunk, seed. job.data besides: truth (a path, or None).
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        words = self.measures(job.ask)
        truth = job.data.get("truth")
        self.places = self._places(truth)
        if job.ask["value"] == "auto":
            asks_classes = isinstance(self.probe.target, OF_CLASSES) and self.subject.kind == "classifier"
            self.judging["value"] = "softmax" if asks_classes and "completeness" not in self.metrics else "score"
            if self.judging["value"] == "softmax":
                self.notices.append("value: softmax, the probability of the class (default; --value score for logits)")
        words |= {"value": self.judging["value"], "truth": truth and fingerprint(Path(str(truth)))}
        self._about = plain({**self._about, "judged": words})

    def _places(self, truth: Any) -> Places | None:
        if self.needing and not truth:
            raise BadInput(
                f"{', '.join(self.needing)}: needs to know where things are; give --truth (COCO JSON, a folder of VOC XML or of "
                "masks, or boxes by file name)"
            )
        if truth and not self.needing:
            raise BadInput(
                f"--truth {truth}: none of {', '.join(self.metrics)} looks at it; add --metric pointing, mass, energy or iou"
            )
        return places(str(truth)) if truth else None

    def _explained(self, images: Mapping[str, Any]) -> Iterator[tuple[str, Judged]]:
        probe, batch = self.prepared(images)
        found: dict[str, Maps] = {}
        seconds: dict[str, float] = {}
        for name, fn in self.methods.items():
            begin = time.process_time()
            own = {option: value for option, value in self.options.items() if option in method_options(fn)}
            found[name] = cams(probe, batch, (fn,), **own)[name]
            seconds[name] = (time.process_time() - begin) / batch.n
        self.seen(found, probe, batch)
        judgement = self.judged(found, probe, batch, list(images))
        for i, name in enumerate(images):
            heatmaps = Judged.of(found, batch, i, self.subject.classes)
            whole = self.recorded(heatmaps, probe, name)
            assert isinstance(whole, Judged)
            whole = replace(whole, record={**whole.record, "seconds": seconds})
            yield name, whole.with_numbers(judgement, i, metrics=self.metrics, options=self.judging)

    def judged(self, found: Mapping[str, Maps], probe: Probe, batch: Batch, names: Sequence[str]) -> Judgement:
        """The judgement of the maps of these pictures."""
        if self.places is not None:
            odd = next((name for name in names if not self.files[name].whole), None)
            if odd is not None:
                raise BadInput(
                    f"--truth: tells where things are in whole pictures; {self.files[odd]} is a part of one, or in no file of its own"
                )
            labels = probe.ask(batch)[0].labels
            batch, said = with_places(
                self.places, batch, [self.files[name].path for name in names], labels, self.subject
            )
            for line in said:
                self.say(line)
        return self.judgement(found, probe, batch)


class Sanity(Explaining):
    """Explains pictures again and again, with randomised weights, moved inputs and other questions.

    job.ask besides that of Explaining: order, independent, blocks, smooth, stability, seed.
    """

    usual: ClassVar = {"classifier": ("top2",), "detector": ("top2",)}

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        ask = job.ask
        self.testing = {
            "order": ask["order"],
            "independent": bool(ask["independent"]),
            "most": int(ask["blocks"]),
            "smooth": int(ask["smooth"]),
            "stability": bool(ask["stability"]),
            "seed": int(ask["seed"]),
        }
        self._about = plain({**self._about, "sane": self.testing})

    def _explained(self, images: Mapping[str, Any]) -> Iterator[tuple[str, Judged]]:
        probe, batch = self.prepared(images)

        def ask(asked: Probe, samples: Batch) -> Mapping[str, Maps]:
            return cams(asked, samples, tuple(self.methods.values()), **self.options)

        clean = ask(probe, batch)
        self.seen(clean, probe, batch)
        found = sane(ask, probe, batch, progress=self.part, **self.testing)  # type: ignore[arg-type]
        for i, name in enumerate(images):
            whole = self.recorded(Judged.of(clean, batch, i, self.subject.classes), probe, name)
            assert isinstance(whole, Judged)
            yield name, whole.with_numbers(found, i, blocks=found.blocks, options=self.testing)


class JudgingStored(Judging):
    """Judges heatmaps that lie on disk, with the model and the question that their records tell.

    job.data: run (a folder of results of `loupe cam`), truth. job.model: what the record does not tell of the model; empty
    values are filled from it. job.ask: as Judging, without what is asked of the model.
    Errors: BadInput for a folder without heatmaps, for results of several questions, and for a model with other weights than those
    of the record.
    """

    def __init__(self, job: Job) -> None:
        self.stored = opened(Path(str(job.data["run"])))
        records = {id: record for id, record in self.stored.records() if record.get("kind") in ("maps", "judged")}
        if not records:
            raise BadInput(f"{self.stored.root}: no heatmaps in this folder; expected results of loupe cam")
        asked = [one for record in records.values() if isinstance(one := record.get("asked"), Mapping)]
        if len(asked) < len(records):
            raise BadInput(
                f"{self.stored.root}: its records do not tell what was asked; make them again with loupe cam"
            )
        first, own = asked[0], ("own", "source", "judged")
        for id, one in zip(records, asked, strict=True):
            for key in {*first, *one} - {*own, "methods", "options"}:
                if first.get(key) != one.get(key):
                    raise BadInput(
                        f"{self.stored.root}: holds results of several questions ({id} has {key} {one.get(key)!r}, "
                        f"{next(iter(records))} {first.get(key)!r}); judge them by folders"
                    )
        if first.get("aug_smooth"):
            raise BadInput(
                f"{self.stored.root}: made with --aug-smooth, whose question is not that of one input; judge plain maps"
            )
        words = list(first["target"])
        each = bool(first.get("each"))
        record = next(iter(records.values()))
        model = {**job.model}
        for key in OF_MODEL:
            if key in first or key in model:
                model[key] = model.get(key) or first.get(key)
        model["weights"] = model.get("weights") or record.get("weights")
        files = {id: str(record["source"]) for id, record in records.items()}
        labels = job.data.get("labels")
        ask = {
            **job.ask,
            "layers": first["layers"],
            "methods": first["methods"],
            "options": first["options"],
            "target": [str(one["own"]) for one in asked] if each else words,
            "each": each,
            "explain": first["explain"],
            "threshold": first["threshold"],
            "templates": first.get("templates"),
            "say": noted(self.stored)["job"]["ask"]["say"] if first.get("say") else None,
            "like": list(first.get("like") or ()),
            "aug_smooth": False,
            "eigen_smooth": False,
        }
        super().__init__(Job("maps", model, {"files": files, "labels": labels, "truth": job.data.get("truth")}, ask))
        for key in sorted({*first, *self._about} - {*own, "options", "version"}, key=lambda key: key != "weights"):
            now, then = self._about.get(key), first.get(key)
            if now != then:
                way = (
                    "give the checkpoint that they were made with, --weights" if key == "weights" else "make them again"
                )
                difference = "other code" if key == "code" else f"{key} {_brief(then)}, these are with {_brief(now)}"
                raise BadInput(f"{self.stored.root}: the maps were made with {difference}; {way}")
        self._before = {id: str(one.get("source")) for id, one in zip(records, asked, strict=True)}

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the picture's sha256 and that of the maps. Errors: BadSample for a picture that changed."""
        found = super().asked(id)
        if found["source"] != self._before[id]:
            raise BadSample(
                f"{self.files[id]}: is not the picture that {id} was made of (sha256 {str(found['source'])[:12]}, then "
                f"{self._before[id][:12]})"
            )
        return {**found, "maps": digest(self.stored.read(id))}

    def _explained(self, images: Mapping[str, Any]) -> Iterator[tuple[str, Judged]]:
        probe, batch = self.prepared(images)
        results = {name: self.stored.read(name) for name in images}
        scores, _ = probe.ask(batch)
        found = stored_maps(results, scores)
        judgement = self.judged(found, probe, batch, list(images))
        for i, (name, one) in enumerate(results.items()):
            record = {key: value for key, value in one.record.items() if key not in ("asked", "key", "drawn")}
            heatmaps = Heatmaps.read(one.arrays, one.record, name)
            held = {part: getattr(heatmaps, part) for part in Heatmaps.__dataclass_fields__} | {"record": record}
            yield name, Judged(**held).with_numbers(judgement, i, metrics=self.metrics, options=self.judging)


class JudgingWalks(Measuring, Matching):
    """Explains walks by several methods and judges the maps.

    job.ask besides that of Matching: methods in place of method, and as Judging; value "auto" is the score, a distance.
    """

    def __init__(self, job: Job) -> None:
        methods = list(job.ask["methods"])
        super().__init__(replace(job, ask={**job.ask, "method": methods[0]}))
        self.methods = {fn.__name__: fn for fn in map(methods_named, methods)}
        value = job.ask["value"]
        self.words = self.measures({**job.ask, "value": "score" if value == "auto" else value})
        self.notices: list[str] = []
        if self.needing:
            raise BadInput(
                f"{', '.join(self.needing)}: needs to know where things are, and walks come without; from Python, see loupe.placed"
            )
        signed = bool(job.ask["signed"])
        self.given = {name: walk_options(name, signed) for name in self.methods}

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return plain({**super().about(), "methods": list(self.methods), "judged": self.words})

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """See `runs.run.Work.do`."""
        for id in ids:
            try:
                yield id, self.judged(self.walks[id])
            except (BadSample, UnsafeFile) as error:
                yield id, error

    def judged(self, walk: Walk) -> Judged:
        """The maps of one walk with their numbers."""
        batch, _ = about_walk(self.subject, walk, self.question, exclude=self.exclude, among=self._among(walk.name))
        probe = Probe(
            self.subject, tuple(self.layers) or last_pictures(self.subject, self.question, batch), self.question
        )
        seconds: dict[str, float] = {}
        found: dict[str, Maps] = {}
        for name, fn in self.methods.items():
            begin = time.process_time()
            found[name] = fn(probe, batch, **self.given[name])
            seconds[name] = time.process_time() - begin
        found = self.on_the_input(found, batch)
        judgement = self.judgement(found, probe, batch)
        made = Judged.of(found, batch, 0).made(
            model=self.subject.spec,
            target=repr(self.question),
            layouts={},
            options=self.given,
            seconds=seconds,
            identity=walk.identity,
            condition=walk.condition,
            view=walk.view,
            weights=self.subject.notes.get("weights"),
            job={name: self.job.plain()[name] for name in ("model", "data", "ask")},
        )
        return made.with_numbers(judgement, 0, metrics=self.metrics, options=self.judging)

    def on_the_input(self, found: Mapping[str, Maps], batch: Batch) -> dict[str, Maps]:
        """The maps as they lie over the silhouettes: those of one strip at its place. What lies on another picture is left out, and said.

        Errors: BadSample where nothing is left.
        """
        made = {}
        for method, maps in found.items():
            laid = laid_out(self.subject, maps, batch)
            for layer in laid["under"]:
                self.say(f"{layer}: lies {laid['words'][layer]}, which is not what is masked; not judged")
            kept = {
                layer: torch.from_numpy(values)[:, None]
                for layer, values in laid["maps"].items()
                if layer not in laid["under"]
            }
            if kept:
                made[method] = replace(maps, maps=kept)
        if not made:
            raise BadSample(f"{batch.ids[0]}: none of {', '.join(self.layers)} lies on the silhouettes that are masked")
        return made


class JudgingStoredWalks(JudgingWalks):
    """Judges heatmaps of walks that lie on disk, with the model and the question that their records tell.

    job.data: run (a folder of results of `loupe gait cam`). job.model: device and unsafe_load; what is given goes before the
    record. job.ask: as Judging, without what is asked of the model.
    Errors: BadInput for a folder without such maps, for results of several questions, and where the model or the gallery changed.
    """

    def __init__(self, job: Job) -> None:
        self.stored = opened(Path(str(job.data["run"])))
        records = {id: record for id, record in self.stored.records() if record.get("kind") == "gait maps"}
        told = [record.get("job") for record in records.values()]
        if not records or not all(isinstance(one, Mapping) for one in told):
            raise BadInput(
                f"{self.stored.root}: its records do not tell what was asked; make them again with loupe gait cam"
            )
        first: Any = told[0]
        other = next((id for id, one in zip(records, told, strict=True) if one != first), None)
        if other is not None:
            raise BadInput(
                f"{self.stored.root}: holds results of several questions ({other}, {next(iter(records))}); judge them by folders"
            )
        asked = next(iter(records.values()))["asked"]
        given = {key: value for key, value in job.model.items() if value and value != "auto"}
        ask = {**first["ask"], **job.ask, "methods": [first["ask"]["method"]], "layers": list(asked["layers"])}
        super().__init__(Job("gait judged", {**first["model"], **given}, {**first["data"], "only": list(records)}, ask))
        now = Matching.about(self)
        for key in ("model", "gallery", "metric", "target"):
            if now[key] != asked[key]:
                raise BadInput(
                    f"{self.stored.root}: the maps were made with {key} {_brief(asked[key])}, these are with {_brief(now[key])}; make "
                    "them again"
                )
        self._before = {id: record["asked"]["source"] for id, record in records.items()}

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`. Errors: BadSample for a walk that changed."""
        found = super().asked(id)
        if found["source"] != self._before[id]:
            raise BadSample(f"{id}: is not the walk that its maps were made of")
        return {**found, "maps": digest(self.stored.read(id))}

    def judged(self, walk: Walk) -> Judged:
        """The stored maps of one walk with their numbers."""
        held = SequenceMaps.read(*self.stored.read(walk.name), walk.name)
        batch, _ = about_walk(self.subject, walk, self.question, exclude=self.exclude, among=self._among(walk.name))
        probe = Probe(self.subject, held.layers, self.question)
        scores = Scores(
            torch.tensor(held.scores, dtype=torch.float64)[:, None], tuple((question,) for question in held.questions)
        )
        kept = {
            layer: torch.from_numpy(values)[:, None] for layer, values in held.maps.items() if layer not in held.under
        }
        for layer in held.under:
            self.say(f"{layer}: lies {held.words[layer]}, which is not what is masked; not judged")
        if not kept:
            raise BadSample(f"{walk.name}: none of its layers lies on the silhouettes that are masked")
        found = {held.method: Maps(kept, scores, signed=held.signed)}
        judgement = self.judgement(found, probe, batch)
        record = {
            key: value
            for key, value in held.told.items()
            if key not in ("asked", "key", "kind", "row", "method", "layers")
        }
        made = Judged.of(found, batch, 0)
        return replace(made, record={**record, **made.record}).with_numbers(
            judgement, 0, metrics=self.metrics, options=self.judging
        )


def stored_maps(results: Mapping[str, Artifact], now: Any) -> dict[str, Maps]:
    """Heatmaps of several samples as they lie on disk -> method -> Maps, scores and labels as stored.

    Errors: BadSample for results that do not hold the same maps and questions.
    """
    names = list(results)
    first = results[names[0]]
    where = names_of(tuple(first.arrays))
    for name in names[1:]:
        other = results[name]
        same = names_of(tuple(other.arrays)) == where and all(
            other.arrays[f"map/{m}/{layer}"].shape == first.arrays[f"map/{m}/{layer}"].shape for m, layer in where
        )
        if not same:
            raise BadSample(f"{name}: holds other maps than {names[0]}")
    about = first.record["methods"]
    value = torch.stack(
        [
            torch.tensor(
                [float("nan") if s is None else float(s) for s in results[name].record["scores"]], dtype=torch.float64
            )
            for name in names
        ],
        1,
    )
    if value.shape[0] != len(now.labels):
        raise BadSample(f"{names[0]}: holds {value.shape[0]} questions, the model is asked {len(now.labels)}")
    labels = tuple(tuple(str(results[name].record["questions"][k]) for name in names) for k in range(len(value)))
    found: dict[str, Maps] = {}
    for method in dict.fromkeys(m for m, _ in where):
        maps = {
            layer: torch.stack([torch.from_numpy(results[name].arrays[f"map/{method}/{layer}"]) for name in names], 1)
            for m, layer in where
            if m == method
        }
        found[method] = Maps(maps, type(now)(value, labels), signed=bool(about[method]["signed"]))
    return found


def _brief(value: Any) -> str:
    """A value of a record; a sha256 by its beginning."""
    return str(value)[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else str(value)


def source_of(fn: Any) -> str:
    """ "" for a metric of ours; of somebody else's the sha256 of its file, so that a change of it asks anew."""
    return "" if fn.__module__.startswith("torchloupe.") else code_of(fn)


def digest(found: Artifact) -> str:
    """sha256 of the heatmaps of a result, by their names."""
    whole = hashlib.sha256()
    for name in sorted(found.arrays):
        if name.startswith("map/"):
            values = found.arrays[name]
            whole.update(f"{name} {values.dtype} {values.shape}\n".encode() + values.tobytes())
    return whole.hexdigest()


def fingerprint(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return sha256(path)
    if not path.is_dir():
        raise BadInput(f"--truth {path}: no such file or folder")
    whole = hashlib.sha256()
    for file in sorted(one for one in path.iterdir() if one.is_file()):
        whole.update(f"{file.name} {sha256(file)}\n".encode())
    return whole.hexdigest()
