"""Samples of a data set through its pipeline, one after the other, counted on their way: the work behind `loupe browse`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Feed, Sample
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.kinds.census import Seen
from torchloupe.methods.browse import Census, alike, fingerprint, samples
from torchloupe.methods.doubts import doubts
from torchloupe.methods.embed import Embedder
from torchloupe.probe import Subject
from torchloupe.runs.progress import progress

# As many bad samples as are told while the others go on.
TOLD = 5
MANY, FEW = 1000, 200


def length(feed: Feed, number: int | None) -> int:
    """How many samples are looked at. Errors: BadInput for a stream of which nobody says how long it is."""
    total = len(feed) if number is None else min(number, len(feed))
    if total == sys.maxsize:
        raise BadInput(
            f"{feed.name}: a stream that does not tell its length; say how many samples with --show-number N"
        )
    return total


def drawn(total: int, draw: str) -> set[int]:
    """The numbers of the samples that are drawn: all, none, sample:N evenly spread; auto: all up to 1,000, sample:200 above.

    Errors: BadInput for another word.
    """
    how, _, rest = (
        ("all" if total <= MANY else f"sample:{FEW}").partition(":") if draw == "auto" else draw.partition(":")
    )
    if how in ("all", "none") and not rest:
        return set(range(total)) if how == "all" else set()
    if how != "sample" or not rest.isdecimal() or int(rest) < 1:
        raise BadInput(f"--draw {draw!r}: expected all, none, sample:N or auto")
    return {round(k) for k in np.linspace(0, total - 1, min(int(rest), total))}


def counted(
    feed: Feed, census: Census, total: int, *, repeat: int = 1, seed: int = 0, whole: bool = True, strict: bool = False
) -> Iterator[list[Sample]]:
    """The repeats of every sample in turn, each counted by the census; bad ones are told and left out.

    Errors: BadSample with strict, and where not one sample can be shown.
    """
    told = 0
    repeats: list[Sample] = []
    with progress(feed.name, total) as bar:
        for sample in samples(feed, range(total), repeat=repeat, seed=seed, whole=whole):
            census.add(sample)
            if isinstance(sample, BadSample):
                if strict:
                    raise sample
                told += 1
                if told <= TOLD:
                    warnings.warn(f"left out {sample}", LoupeWarning, stacklevel=3)
                repeats.clear()
                bar.advance()
                continue
            repeats.append(sample)
            if len(repeats) == repeat:
                yield repeats
                repeats = []
                bar.advance()
    if not census.names and census.bad:
        raise census.bad[0]


def leaked(census: Census, other: Feed, total: int) -> list[tuple[str, str]]:
    """(name here, name there) of pictures that look the same in another data set, such as training and test pictures."""
    prints, names = [], []
    with progress(other.name, total) as bar:
        for sample in samples(other, range(total), whole=False):
            if isinstance(sample, Sample):
                prints.append(fingerprint(sample.original.pictures[0]))
                names.append(sample.name)
            bar.advance()
    count = len(census.prints)
    pairs = []
    for group in alike([*census.prints, *prints]):
        here, there = [k for k in group if k < count], [k - count for k in group if k >= count]
        pairs += [(census.names[a], names[b]) for a in here for b in there]
    return pairs


class Closeness:
    """What a network makes of the originals of a data set, to find labels that their neighbours contradict.

    Only samples of one class count. Errors: BadInput for a network that takes no pictures.
    """

    def __init__(self, subject: Subject, batch: int = 32) -> None:
        if subject.prepare is None:
            raise BadInput(f"--embedding {subject.spec}: does not say how it takes pictures")
        self.subject, self.batch = subject, batch
        self.ask = Embedder(subject)
        self.held: list[Any] = []
        self.feats: list[np.ndarray] = []
        self.rows: list[int] = []

    def add(self, sample: Sample, row: int) -> None:
        """The sample that the census has at a row."""
        from PIL import Image

        if len(sample.labels) == 1 or (sample.label and not sample.labels):
            self.held.append(Image.fromarray(sample.original.pictures[0]))
            self.rows.append(row)
            if len(self.held) == self.batch:
                self._flush()

    def _flush(self) -> None:
        if self.held and self.subject.prepare is not None:
            batch = self.subject.prepare(self.held, tuple(map(str, self.rows[-len(self.held) :])))
            self.feats.append(self.ask(batch))
            self.held = []

    def summary(self, census: Census) -> dict[str, Any]:
        """See `methods.doubts.Doubts.summary`. Errors: BadInput where there are too few samples of one class."""
        self._flush()
        if not self.rows:
            raise BadInput("--embedding: no sample has one class, so there are no labels to doubt")
        classes = [", ".join(census.classes[row]) for row in self.rows]
        found = doubts(np.concatenate(self.feats), classes)
        names, indices = [census.names[row] for row in self.rows], [census.indices[row] for row in self.rows]
        return {**found.summary(names, indices, classes), "model": self.subject.spec, "layer": self.ask.layer}


def seen(name: str, census: Census, asked: dict[str, Any], summary: dict[str, Any]) -> Seen:
    """The census as it lies on disk."""
    return Seen(np.array(census.indices), np.array(census.sizes).reshape(-1, 2), np.stack(census.prints),
                np.array(census.names), {"name": name, **asked, "summary": summary})  # fmt: skip
