"""A feature vector of every sample of a data set: the work behind `loupe embed`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from torchloupe import __version__, sources
from torchloupe.errors import BadInput, BadSample, LoupeError, MissingPackage, UnsafeFile
from torchloupe.kinds.points import Feature
from torchloupe.methods.embed import OUTPUT, Embedder
from torchloupe.probe import Batch, Subject
from torchloupe.runs.run import Job
from torchloupe.sources.safe import state_sha256
from torchloupe.sources.samples import Samples, samples
from torchloupe.store import plain

Step = Callable[[str, int, int], None]
FAULTS = (BadInput, UnsafeFile, OSError)


def embedding(job: Job) -> Embedding:
    """The work of a job: job.model, the arguments of `sources.subject`; job.data: samples; job.ask: layer, pool."""
    data = samples(job.data["samples"])
    return Embedding(sources.subject(**job.model), data, job.ask["layer"], job.ask["pool"], job.plain())


class Embedding:
    """The features of some samples by a model's layer.

    said: the question in the words of who asked, part of the key. step: told how far it is, as (stage, done, total).
    The key holds besides the weights, the layer and what is done to pictures, by the numbers that the first sample that
    can be read becomes.
    """

    def __init__(
        self,
        subject: Subject,
        data: Samples,
        layer: str | None = None,
        pool: str = "mean",
        said: Mapping[str, Any] | None = None,
        step: Step | None = None,
    ) -> None:
        self.subject, self.data, self.step = subject, data, step
        self.ask = Embedder(subject, layer, pool)
        self.pool = pool if self.ask.layer != OUTPUT else None
        self.row = {str(name): row for row, name in enumerate(data.ids.tolist())}
        if len(self.row) < len(data):
            raise BadInput(f"{len(data) - len(self.row)} of {len(data)} samples have the name of another one")
        self.notices: list[str] = []
        if "random" in subject.notes:
            self.notices.append(str(subject.notes["random"]))
        self._said = plain(said or {})
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[tuple[str, ...], Future[Batch]] | None = None

    @cached_property
    def weights(self) -> str:
        """The sha256 of the weights."""
        return str(self.subject.notes.get("weights", {}).get("sha256") or state_sha256(self.subject.module))

    def about(self) -> Mapping[str, Any]:
        """See `runs.run.Work.about`."""
        return {
            "said": self._said,
            "model": self.subject.spec,
            "weights_sha256": self.weights,
            "layer": self.ask.layer,
            "pool": self.pool,
            "prepared": self._prepared,
            "version": __version__,
        }

    @cached_property
    def _prepared(self) -> str:
        for row in range(min(len(self.data), 20)):
            try:
                x = self.data.load(self.subject, [row]).x
            except FAULTS as error:
                if isinstance(error, MissingPackage):
                    raise
                continue
            raw = x.detach().cpu().float().numpy()
            return hashlib.sha256(f"{row} {raw.shape}".encode() + np.ascontiguousarray(raw).tobytes()).hexdigest()
        return ""

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`."""
        return list(self.row)

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `runs.run.Work.asked`; the sha256 of the sample's files."""
        try:
            return {"source": self.data.digest(self.row[id])}
        except BadSample:
            raise
        except OSError as error:
            raise BadSample(f"{id}: cannot be read ({error.strerror or error})") from error

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Feature | LoupeError]]:
        """See `runs.run.Work.do`; the batch behind this one is read meanwhile."""
        try:
            found, best = self.ask.both(self._loaded(tuple(ids)))
        except FAULTS as error:
            if isinstance(error, MissingPackage):
                raise
            raise BadSample(str(error)) from error
        if self.step:
            self.step("embedding", self.row[ids[-1]] + 1, len(self.data))
        for i, (id, row) in enumerate(zip(ids, found, strict=True)):
            if np.isfinite(row).all():
                yield id, Feature(row, None if best is None else int(best[i]), {"kind": "feature"})
            else:
                yield id, BadSample(f"{id}: its features are NaN or infinite")

    def called(self, numbers: np.ndarray) -> np.ndarray:
        """The names of classes, their numbers where they have none."""
        names = self.subject.classes
        return np.array([names[number] if names else str(number) for number in numbers.tolist()])

    def _loaded(self, ids: tuple[str, ...]) -> Batch:
        ready, self._next = self._next, None
        present = ready[1] if ready and ready[0] == ids else self._reader.submit(self._load, ids)
        first = self.row[ids[-1]] + 1
        following = tuple(self.data.ids[first : first + len(ids)].tolist())
        if following:
            self._next = following, self._reader.submit(self._load, following)
        return present.result()

    def _load(self, ids: tuple[str, ...]) -> Batch:
        return self.data.load(self.subject, [self.row[id] for id in ids])

    def close(self) -> None:
        """No batch is read any more."""
        self._reader.shutdown(wait=True, cancel_futures=True)
