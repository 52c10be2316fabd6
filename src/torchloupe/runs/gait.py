"""Heatmaps of walks, asked of many: the work behind `loupe gait cam`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torchloupe import __version__
from torchloupe.errors import BadInput, BadSample, LoupeError, UnsafeFile, nearest
from torchloupe.gait import embed_gallery, explain_walk, record
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.methods.registry import named, options_of
from torchloupe.probe import Subject
from torchloupe.runs.evaluation import read_evaluation
from torchloupe.runs.progress import progress
from torchloupe.runs.run import Job
from torchloupe.sources.opengait import gait, model_digest, pick_layers
from torchloupe.sources.opengait_config import read_config
from torchloupe.sources.sequences import Walk, sequences
from torchloupe.store import plain
from torchloupe.targets.retrieval import EXCLUDE, TARGETS, Gallery, Pair, Retrieval


def opened(model: Mapping[str, Any]) -> Subject:
    """The subject of a job: config, weights, checkout, device, unsafe. Without weights those that the config means.

    Errors: BadInput where there is no checkpoint.
    """
    config, weights = Path(model["config"]), model.get("weights")
    found = Path(weights) if weights else read_config(config).checkpoint
    if found is None:
        raise BadInput(f"--weights: give a checkpoint; restore_hint of {config} names none")
    if not weights and not found.is_file():
        raise BadInput(f"--weights: give a checkpoint; restore_hint of {config} means {found}, which is not there")
    return gait(
        config,
        found,
        checkout=model.get("checkout"),
        device=model.get("device", "auto"),
        unsafe=bool(model.get("unsafe")),
    )


class Matching:
    """Why walks are near the walks of a gallery, for every walk of a tree.

    job.model: see `opened`. job.data: probes, gallery (trees), only, items (names of the probes and of the gallery to take,
    or None for all), among (probe -> names of the items that are candidates for it), strict, cache (a folder, or None).
    job.ask: layers, method, signed, target, parts, metric, exclude.
    layers: may be set before the run. Errors: BadInput for what is not known or does not fit.
    """

    def __init__(self, job: Job) -> None:
        ask, self.data, self.job = job.ask, job.data, job
        self.method, self.options = str(ask["method"]), walk_options(str(ask["method"]), bool(ask["signed"]))
        self.subject = opened(job.model)
        self.items = tuple(_walks(self.data["gallery"], self.data.get("items")).values())
        self.walks = _walks(self.data["probes"], self.data.get("only"))
        self.target, self.parts, self.metric = str(ask["target"]), tuple(ask["parts"]), ask["metric"]
        _check_target(self.target, [walk.name for walk in self.items])
        self.exclude = tuple(ask["exclude"])
        for rule in self.exclude:
            if rule not in EXCLUDE:
                raise BadInput(f"exclude {rule!r}: expected {', '.join(EXCLUDE)}.{nearest(rule, EXCLUDE)}")
        if self.exclude and self.target not in TARGETS:
            raise BadInput(f"--exclude has no effect on --target {self.target}, which names one sequence; leave it out")
        self.layers = pick_layers(self.subject, ask["layers"]) if ask["layers"] else self.subject.layers

    @cached_property
    def gallery(self) -> Gallery:
        """The gallery, embedded or read from the cache."""
        with progress("gallery", len(self.items)) as bar:
            return embed_gallery(
                self.subject,
                self.items,
                metric=self.metric,
                cache=self.data.get("cache"),
                strict=bool(self.data.get("strict")),
                tell=lambda *_: bar.advance(),
            )

    @cached_property
    def question(self) -> Retrieval:
        """The target, about the gallery."""
        if self.target in TARGETS:
            return TARGETS[self.target](self.gallery, self.parts)
        _check_target(self.target, self.gallery.names)
        return Pair(self.gallery, self.parts, self.target)

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return plain(
            {
                "model": model_digest(self.subject),
                "gallery": self.gallery.digest,
                "items": len(self.gallery.names),
                "metric": self.gallery.metric,
                "target": repr(self.question),
                "exclude": sorted(self.exclude),
                "layers": self.layers,
                "method": self.method,
                "options": self.options,
                "version": __version__,
            }
        )

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; id-type-view."""
        return list(self.walks)

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the sha256 of the walk's files."""
        return {"source": self.walks[id].digest(), "among": sorted(self._among(id) or ())}

    def _among(self, id: str) -> Sequence[str] | None:
        return (self.data.get("among") or {}).get(id)

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, SequenceMaps | LoupeError]]:
        """See `runs.run.Work.do`."""
        for id in ids:
            try:
                yield id, self._explained(self.walks[id])
            except (BadSample, UnsafeFile) as error:
                yield id, error

    def _explained(self, walk: Walk) -> SequenceMaps:
        made = explain_walk(
            self.subject,
            walk,
            self.question,
            self.layers,
            method=self.method,
            options=self.options,
            gallery_walks=self.items,
            exclude=self.exclude,
            among=self._among(walk.name),
        )
        asked = {name: self.job.plain()[name] for name in ("model", "data", "ask")}
        return made.noted({**record(self.subject, made, self.gallery, self.exclude), "job": asked})


def failing(
    folder: str | Path, count: int, model: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """(job.model, job.data, exclude) of the worst failures of an evaluation. What `model` names comes before the record.

    Errors: BadInput for a folder without an evaluation, or one without failures.
    """
    if count < 1:
        raise BadInput(f"failures {count}: expected 1 or more")
    held = read_evaluation(folder)
    chosen = held.failures()[:count]
    if not chosen:
        raise BadInput(f"{folder}: no probe was taken for somebody else")
    items = {one.setting: held.outcomes[one.setting].items.tolist() for one in chosen}
    tree = str(held.told["data"])
    data = {
        "probes": tree,
        "gallery": tree,
        "only": [one.probe for one in chosen],
        "items": sorted({name for names in items.values() for name in names}),
        "among": {one.probe: items[one.setting] for one in chosen} if len(items) > 1 else {},
        "metric": held.metric,
    }
    given = {key: value for key, value in model.items() if value and value != "auto"}
    return {**held.told["job"], **given}, data, (held.exclude,) if held.exclude else ()


def _walks(tree: str, only: Sequence[str] | None) -> dict[str, Walk]:
    """The walks by name. Errors: BadInput for two of one name, or a name that is not there."""
    found: dict[str, Walk] = {}
    for walk in sequences(tree):
        if walk.name in found:
            raise BadInput(f"{tree}: two sequences are called {walk.name}; rename one")
        found[walk.name] = walk
    for name in only or ():
        if name not in found:
            raise BadInput(f"{tree}: no sequence {name!r}.{nearest(name, found)}")
    return found if only is None else {name: found[name] for name in only}


def walk_options(method: str, signed: bool) -> dict[str, Any]:
    known = options_of(named(method))
    if signed and "relu" not in known:
        raise BadInput(f"--signed: {method} does not cut negative evidence off, or has none; leave the option out")
    return {"relu": False} if signed else {}


def _check_target(name: str, names: Sequence[str]) -> None:
    """Errors: BadInput for what is neither a question nor a sequence of the gallery."""
    known = (*TARGETS, *names)
    if name not in known:
        expected = f"expected {', '.join(TARGETS)} or the name of a gallery sequence"
        raise BadInput(f"--target {name!r}: {expected}.{nearest(name, known)}")
