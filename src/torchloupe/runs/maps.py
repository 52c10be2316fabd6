"""Heatmaps of pictures, asked of many: the work behind `loupe cam`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from torchloupe import __version__, sources
from torchloupe.errors import BadInput, BadSample, LoupeError
from torchloupe.kinds.maps import Heatmaps
from torchloupe.methods.cam import cams
from torchloupe.methods.registry import named, options_of
from torchloupe.methods.smooth import aug_smooth
from torchloupe.names import expand
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe
from torchloupe.runs.ahead import Ahead
from torchloupe.runs.run import Job
from torchloupe.sources.images import read
from torchloupe.sources.items import Item, item_at, of_file
from torchloupe.sources.safe import state_sha256
from torchloupe.sources.sparse import spliced
from torchloupe.sources.speakers import ANSWER
from torchloupe.store import key, plain, sha256
from torchloupe.store.reading import reads
from torchloupe.targets.boxes import boxes, regions
from torchloupe.targets.classes import Each, class_index
from torchloupe.targets.contrast import BETWEEN
from torchloupe.targets.embedding import Like, Norm, embedding_words, rows
from torchloupe.targets.pose import Peaks, surest
from torchloupe.targets.texts import Texts, text_words, texts
from torchloupe.targets.words import foreign, question
from torchloupe.targets.words import target as words_to_target
from torchloupe.trace import every_name

PLACED = ("detector", "segmenter")
TRUTH = ("truth", "true", "label")


class Explaining:
    """Why a model answers as it does, for every picture of a list.

    job.model: the arguments of `sources.subject`. job.data: files (name -> path, or where `items.item_at` finds it), labels (a file, or None).
    job.ask: layers, methods, options, target (words, or None), templates (or absent), each, explain, threshold, aug_smooth, eigen_smooth.
    notices: what the person who asks should be told before.
    Errors: BadInput for what is not known or does not fit.
    """

    part: Callable[[int, int], None] | None = None
    usual: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Kind of model -> the questions where none was named; predicted for the others."""

    def __init__(self, job: Job) -> None:
        ask, self.files = job.ask, {str(name): item_at(str(at)) for name, at in job.data["files"].items()}
        self._ahead = Ahead(self._sample)
        self.notices: list[str] = []
        self.methods = {fn.__name__: fn for fn in map(named, ask["methods"])}
        self.options = dict(ask["options"])
        if ask["eigen_smooth"]:
            without = [name for name, fn in self.methods.items() if "eigen_smooth" not in options_of(fn)]
            if without:
                raise BadInput(
                    f"--eigen-smooth has no meaning with {', '.join(without)}: there is no weighted sum in it"
                )
            self.options["eigen_smooth"] = True
        self.subject = sources.subject(**job.model)
        self.spec = str(job.model["model"])
        self._say(ask, list(ask["target"] or ()))
        if self.subject.prepare is None and self.subject.recordings is None:
            raise BadInput(
                f"model {self.spec!r}: it is not known what it takes; a sample of it says so (--example FILE), or use it from "
                "Python with a Batch"
            )
        self.parts = self._parts(self.files)
        words = list(ask["target"] or self.usual.get(self.subject.kind, ()))
        self.each: Mapping[str, str] = {}
        if ask["each"]:
            if len(words) != len(self.files):
                raise BadInput(f"--each: {len(words)} targets for {len(self.files)} {self.what}; give one for each")
            self.each = dict(zip(self.files, words, strict=True))
        self.aug = bool(ask["aug_smooth"])
        self.liked: Batch | None = None
        layers = self._layers(ask["layers"])  # which may give the subject further layers
        self.probe = Probe(self.subject, layers, self._question(ask, words))
        self.truth = self._truth(words, job.data.get("labels"))
        self.own = self._own_texts(ask)
        self._layouts: Mapping[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._about = plain(
            {
                "model": self.spec,
                "weights": self.subject.notes.get("weights", {}).get("sha256") or state_sha256(self.subject.module),
                "layers": self.probe.layers,
                "methods": list(self.methods),
                "code": foreign([*ask["methods"], *words, *self._factory()], self.subject.classes),
                "options": self.options,
                "like": {name: sha256(name) for name in ask.get("like") or ()},
                "aug_smooth": self.aug,
                "target": words or ["predicted"],
                **({"templates": list(ask["templates"])} if ask.get("templates") else {}),
                **({"autoencoders": self.coders} if self.coders else {}),
                **({"say": self.subject.notes["prompt"]} if ask.get("say") else {}),
                **({"tokenizer": self.subject.tower.digest} if words and self.subject.tower is not None else {}),
                "each": bool(ask["each"]),
                "explain": ask["explain"],
                "threshold": ask["threshold"],
                **{
                    key: job.model.get(key)
                    for key in ("cfg_options", "size", "mean", "std", "ema", "classes", "output")
                },
                **{key: job.model[key] for key in ("layouts", "layout_sizes", "extra_tokens") if key in job.model},
                "version": __version__,
            }
        )

    @property
    def what(self) -> str:
        """What the samples are called, in the plural."""
        return "pictures" if self.subject.recordings is None else self.subject.recordings.what

    def _parts(self, files: Mapping[str, Item]) -> Mapping[str, Sequence[Path]]:
        """The files of every recording; self.files has the one file, or the folder, that stands for them. None of pictures."""
        if self.subject.recordings is None:
            return {}
        odd = next((item for item in files.values() if not item.whole), None)
        if odd is not None:
            raise BadInput(
                f"{odd}: a picture of a data set; {self.spec!r} takes {self.what}, which are files of their own"
            )
        parts = self.subject.recordings.samples({name: item.path for name, item in files.items()})
        self.files = {name: of_file(some[0] if len(some) == 1 else some[0].parent) for name, some in parts.items()}
        return parts

    def _batch(self, found: Sequence[Any], ids: Sequence[str]) -> Batch:
        """What `read` gave as the model takes it."""
        if self.subject.recordings is not None:
            return self.subject.recordings.joined(found, tuple(ids))
        assert self.subject.prepare is not None
        return self.subject.prepare(list(found), tuple(ids))

    def _sample(self, id: str) -> Any:
        return self._read(self.parts[id]) if id in self.parts else self.files[id].read()

    def _read(self, files: Sequence[Path]) -> Any:
        return read(files[0]) if self.subject.recordings is None else self.subject.recordings.read(files)

    def _say(self, ask: Mapping[str, Any], words: Sequence[str]) -> None:
        """The model asked what is said to it, where it writes. Errors: BadInput for one that does not, or that is told nothing."""
        say = ask.get("say")
        if self.subject.speaker is None:
            if say is not None:
                raise BadInput(f"--say is for models that look and write; {self.spec!r} is a {self.subject.kind}")
            return
        if not say or not str(say).strip():
            raise BadInput(
                f"{self.spec!r} answers questions; ask one: --say 'What colour is the bus?' --target {ANSWER}red"
            )
        sides = [side.strip() for word in words for side in f" {word} ".split(BETWEEN)]
        wrong = next((side for side in sides or [""] if not side.startswith(ANSWER)), None)
        if wrong is not None or ask["each"]:
            raise BadInput(
                f"target {wrong or '--each'!r}: of a model that writes the probability of a word is explained; give --target {ANSWER}WORD, or "
                f"'{ANSWER}red - {ANSWER}blue'"
            )
        self.subject = self.subject.speaker(str(say), list(dict.fromkeys(sides)))
        self.notices.append(f"said: {self.subject.notes['prompt']!r}")

    def _factory(self) -> list[str]:
        scheme, _, rest = self.spec.partition(":")
        return [rest.partition("?")[0]] if scheme == "torch" else []

    def _layers(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        self.subject, wanted, self.coders = spliced(self.subject, list(wanted or ()))
        known = every_name(self.subject.module)
        found = [name for word in wanted or self.subject.layers for name in expand(known, word)]
        if not found:
            raise BadInput(
                f"model {self.spec!r}: no default layer was found; name one with --layers (see: loupe layers {self.spec})"
            )
        if "weights" not in self.subject.notes and not self.spec.startswith("torch:"):
            self.notices.append("no --weights: the network is random, so its maps mean nothing; give a checkpoint")
        else:
            report = self.subject.notes.get("weights", {}).get("report", {})
            if report.get("trusted") and "loaded" in report:
                self.notices.append(f"weights: {report['loaded']} of {report['total']} from the file fit")
        if not wanted:
            self.notices.append(f"layer: {', '.join(found)} (default)")
        return tuple(found)

    def _question(self, ask: Mapping[str, Any], words: Sequence[str]) -> Any:
        kind, classes = self.subject.kind, self.subject.classes
        if kind != "detector" and (ask["threshold"] or ask["explain"] != "score"):
            raise BadInput(f"--threshold and --explain are for detectors; {self.spec!r} is a {kind}")
        if ask["each"] and kind in PLACED:
            raise BadInput(
                f"--each: {self.spec!r} is a {kind}, which is asked for boxes or regions; give --target alone"
            )
        if kind == "pose" and self.aug:
            raise BadInput(
                "--aug-smooth mirrors pictures, in which left joints are right ones; leave it out for a pose model"
            )
        asked = [] if ask["each"] else list(words)
        templates = list(ask.get("templates") or ())
        if templates and (self.subject.tower is None or ask.get("like")):
            raise BadInput("--templates go around the texts of --target, of a model with a text tower, such as CLIP")
        if ask["each"] and kind == "embedder" and self.subject.tower is None:
            raise BadInput(
                f"--each: {self.spec!r} gives an embedding, without classes, and has no text tower; use --like"
            )
        if ask.get("like"):
            if kind != "embedder":
                raise BadInput(f"--like is for models that give embeddings; {self.spec!r} is a {kind}")
            if asked:
                raise BadInput("--like and --target at once: give either")
            return self._like([Path(name) for name in ask["like"]])
        if self.subject.tower is not None:
            if ask["each"]:
                return Norm()
            return question(asked, classes, partial(text_words, subject=self.subject, templates=templates))
        if kind == "detector":
            return question(asked, classes, partial(boxes, value=ask["explain"], threshold=ask["threshold"]))
        by_kind: Mapping[str, Any] = {"segmenter": regions, "pose": surest, "embedder": embedding_words}
        return question(asked, classes, by_kind[kind]) if kind in by_kind else words_to_target(asked, classes)

    def _own_texts(self, ask: Mapping[str, Any]) -> Texts | None:
        """What is asked of each picture alone in words, embedded once; None where that is not asked."""
        if not self.each or self.subject.tower is None:
            return None
        return texts(self.subject, list(dict.fromkeys(self.each.values())), ask.get("templates") or (), each=True)

    def _like(self, files: Sequence[Path]) -> Like:
        """Similarity to other pictures, each embedded as it is prepared for this model."""
        parts: list[Sequence[Path]] = [(file,) for file in files]
        if self.subject.recordings is not None:
            parts = list(self.subject.recordings.samples({str(i): file for i, file in enumerate(files)}).values())
        self.liked = self._batch([self._read(some) for some in parts], [str(some[0]) for some in parts])
        names = (some[0].stem if len(some) == 1 else some[0].parent.name for some in parts)
        return Like(self._embedded(self.liked), tuple(names))

    def _embedded(self, batch: Batch) -> torch.Tensor:
        """The embeddings of a batch (n, c)."""
        with self.subject.asked() as own, torch.no_grad():
            return rows(own.output(batch), batch).float().cpu()

    def _truth(self, words: Sequence[str], labels: str | None) -> Mapping[str, int]:
        """The class index of every picture, from a list of "picture class" lines or from the folders' names."""
        if not any(word.lower() in TRUTH for word in words):
            if labels is not None:
                raise BadInput("--labels has a meaning with --target truth alone; ask for that, or leave it out")
            return {}
        if self.subject.kind == "pose":
            raise BadInput(
                f"--target truth: {self.spec!r} is a pose model; where joints truly are, loupe pose ig asks about"
            )
        classes = self.subject.classes
        count = len(classes) or 10**9
        if labels is None:
            named_by = {name: item.label for name, item in self.files.items()}
            without = next((name for name, label in named_by.items() if not label), None)
            if without is not None:
                raise BadInput(f"--target truth: {self.files[without]} has no label; give --labels")
        else:
            known = _listed(Path(labels))
            missing = [item.path.name for item in self.files.values() if item.path.name not in known]
            if missing:
                raise BadInput(f"--labels {labels}: no label for {missing[0]}; expected lines of 'picture class'")
            named_by = {name: known[item.path.name] for name, item in self.files.items()}
        return {name: class_index(label, classes, count) for name, label in named_by.items()}

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return self._about

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; the names of the pictures."""
        return list(self.files)

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the class or joint that is asked of this picture alone, and its file's sha256."""
        try:
            digests = [self.files[id].sha256()] if id not in self.parts else [sha256(file) for file in self.parts[id]]
        except OSError as error:
            raise BadSample(f"{self.files[id]}: cannot be read ({error.strerror or error})") from error
        self._sources[id] = digests[0] if len(digests) == 1 else key({"files": digests})
        return {"own": self.each.get(id, self.truth.get(id)), "source": self._sources[id]}

    def fetch(self, ids: Sequence[str]) -> None:
        """See `runs.run.Work`; the pictures."""
        self._ahead.fetch(ids)

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Heatmaps | LoupeError]]:
        """See `runs.run.Work.do`."""
        images: dict[str, Any] = {}
        for id in ids:
            try:
                images[id] = self._ahead.take(id)
            except BadInput as error:
                yield id, error
        if images:
            yield from self._explained(images)

    def _explained(self, images: Mapping[str, Any]) -> Iterator[tuple[str, Heatmaps]]:
        probe, batch = self.prepared(images)
        options = dict(self.options)
        if self.part and any("progress" in options_of(fn) for fn in self.methods.values()):
            options["progress"] = self.part

        def ask(asked: Probe, samples: Batch) -> Mapping[str, Maps]:
            return cams(asked, samples, tuple(self.methods.values()), **options)

        def all_of(asked: Probe, samples: Batch) -> Mapping[str, Maps]:
            return aug_smooth(ask, asked, samples) if self.aug else ask(asked, samples)

        found = all_of(probe, batch)
        self.seen(found, probe, batch)
        others: Mapping[str, Maps] = {}
        if self.liked is not None:
            # the other side: what in each of those pictures makes it like this one
            others = all_of(replace(probe, target=Like(self._embedded(batch), tuple(images))), self.liked)
        for i, name in enumerate(images):
            made = Heatmaps.of(found, batch, i, self.subject.classes)
            if self.liked is not None:
                made = made.beside(others, self.liked, i)
            yield name, self.recorded(made, probe, name)

    def prepared(self, images: Mapping[str, Any]) -> tuple[Probe, Batch]:
        """The question, and what was read of samples by their names, as the model takes them."""
        names = list(images)
        batch = self._batch(list(images.values()), [str(self.files[name]) for name in names])
        if self.truth:
            batch = replace(batch, truth={"label": torch.tensor([self.truth[name] for name in names])})
        probe = self._for_each([self.each[name] for name in names]) if self.each else self.probe
        if self.subject.kind in PLACED:
            _, batch = probe.ask(batch)
        return probe, batch

    def seen(self, found: Mapping[str, Maps], probe: Probe, batch: Batch) -> None:
        """Notes how the layers of these maps were read, once, for the records."""
        if not self._layouts:
            layers = {layer for maps in found.values() for layer in maps.maps}
            self._layouts = layouts(probe.at(*sorted(layers)), batch.take([0]))

    def recorded(self, heatmaps: Heatmaps, probe: Probe, name: str) -> Heatmaps:
        """Heatmaps of one picture with a record of how they were made."""
        used = {m: {o: v for o, v in self.options.items() if o in options_of(fn)} for m, fn in self.methods.items()}
        weights = self.subject.notes.get("weights", {})
        return heatmaps.made(
            model=self.subject.spec,
            target=repr(probe.target),
            weights=weights.get("path"),
            weights_sha256=weights.get("sha256"),
            layouts=self._layouts,
            options=used,
            source=str(self.files[name]),
            source_sha256=self._sources[name],
            seed=self.options.get("seed", 0),
            aug_smooth=self.aug,
            weights_report=weights.get("report"),
        )

    def _for_each(self, words: Sequence[str]) -> Probe:
        """The question with one class, or joint, a picture."""
        classes = self.subject.classes
        if self.subject.kind == "pose":
            return replace(self.probe, target=Peaks(tuple(words), each=True, names=classes))
        if self.own is not None:
            return replace(self.probe, target=self.own.of([self.own.words.index(word) for word in words]))
        return replace(self.probe, target=Each(tuple(words), classes))


@reads("labels, lines of 'picture class' in UTF-8")
def _listed(labels: Path) -> dict[str, str]:
    """File name -> class, of lines of "picture class". Errors: BadInput for a list that cannot be read."""
    lines = [line.strip() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = {}
    for line in lines:
        name, _, word = line.replace("\t", " ").replace(",", " ").partition(" ")
        known[Path(name).name] = word.strip()
    return known


def layouts(probe: Probe, batch: Batch) -> Mapping[str, Any]:
    """The layout of each of the probe's layers, found with one forward that asks nothing."""

    def nothing(_output: Any, asked: Batch) -> Scores:
        return Scores(torch.zeros(1, asked.n), (asked.ids,))

    return replace(probe, target=nothing)(batch, grad=False).layouts
