"""One loop for every command: what is asked of which samples, done once, kept whole, gone on with after any kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torchloupe.errors import PARTLY, BadInput, BadSample, LoupeError
from torchloupe.kinds import Kind
from torchloupe.named import called, is_path, own
from torchloupe.runs.progress import Progress, progress
from torchloupe.store import Artifact, held, key, plain
from torchloupe.store.results import Results

FEW = 20


class Work(Protocol):
    """A job opened in the process that works: the model is loaded, the samples can be read.

    Ids are stable names, not positions. `do` may have an attribute `part` set on its object before: a function of (done,
    total) that tells how far a slow batch is.
    """

    def about(self) -> Mapping[str, Any]:
        """What the question has in common for all samples, as plain data: fingerprints of model and data, every option
        that changes a number."""

    def ids(self) -> Sequence[str]:
        """All samples, in order."""

    def asked(self, id: str) -> Mapping[str, Any]:
        """What is the sample's own in the question, such as the fingerprint of its file. Errors: BadSample where it
        cannot be read."""

    def do(self, ids: Sequence[str]) -> Iterable[tuple[str, Kind | Artifact | LoupeError]]:
        """Answer one batch. Errors: BadSample where something in this batch is at fault and it is not known which."""


@dataclass(frozen=True)
class Asking:
    """A work from its parts: the samples, the function that answers a batch, and what all samples share."""

    samples: Sequence[str]
    answer: Callable[[Sequence[str]], Iterable[tuple[str, Any]]]
    shared: Mapping[str, Any] = field(default_factory=dict)

    def about(self) -> Mapping[str, Any]:
        """See `Work.about`."""
        return self.shared

    def ids(self) -> Sequence[str]:
        """See `Work.ids`."""
        return self.samples

    def asked(self, id: str) -> Mapping[str, Any]:
        """See `Work.asked`; nothing is the sample's own."""
        return {}

    def do(self, ids: Sequence[str]) -> Iterable[tuple[str, Any]]:
        """See `Work.do`."""
        return self.answer(ids)


OPENERS: dict[str, str] = {
    "gait maps": "torchloupe.runs.gait:Matching",
    "maps": "torchloupe.runs.maps:Explaining",
    "pose depend": "torchloupe.runs.pose.depend:depending",
    "pose errors": "torchloupe.runs.pose.errors:measuring",
    "pose maps": "torchloupe.runs.pose.attribution:attributing",
}
"""Kind of job -> "module:function" that opens it: job -> Work."""


@dataclass(frozen=True)
class Job:
    """What is asked of which samples, as plain data. Any process can open it; equal questions have equal keys.

    kind: a name of OPENERS, or "package.module:function". model: a model spec and its options; data: which samples;
    ask: the question and its options.
    """

    kind: str
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    ask: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """sha256 of the job's own words; the contents of files are fingerprinted by its work."""
        return key(self.plain())

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: plain(getattr(self, name)) for name in ("kind", "model", "data", "ask")}

    @classmethod
    def parse(cls, text: str) -> Job:
        """A job from its JSON."""
        return cls(**json.loads(text))

    def open(self) -> Any:
        """The Work, with the model loaded. Errors: BadInput for a kind that is not known, or what its opener says."""
        if self.kind in OPENERS:
            return own(OPENERS[self.kind])(self)
        if not is_path(self.kind):
            raise BadInput(f"no kind of job {self.kind!r}; known: {', '.join(OPENERS)}, or package.module:function")
        return called(self.kind, "job", "a function (job) -> Work")(self)


@dataclass(frozen=True)
class Summary:
    """What a run did: samples made now, there before, and left out (id -> reason)."""

    made: int
    before: int
    failed: Mapping[str, str]

    @property
    def status(self) -> int:
        """The exit status: 0 where all samples have a result, PARTLY where some were left out."""
        return PARTLY if self.failed else 0

    def check(self) -> None:
        """Errors: BadInput where not one sample has a result."""
        if self.failed and not self.made + self.before:
            first = next(iter(self.failed.values()))
            more = f" (and {len(self.failed) - 1} more failed)" if len(self.failed) > 1 else ""
            raise BadInput(first + more)

    def told(self, what: str = "samples") -> list[str]:
        """Lines about what was left out; none where nothing was. The last one says it all."""
        if not self.failed:
            return []
        lines = [f"  {reason}" for reason in list(self.failed.values())[:FEW]]
        if len(self.failed) > FEW:
            lines.append(f"  ... and {len(self.failed) - FEW} more")
        total = self.made + self.before + len(self.failed)
        left = f"{len(self.failed)} could not be read or explained"
        return [f"{left}:", *lines, f"INCOMPLETE: {total - len(self.failed)} of {total} {what} done; {left}"]


def run(
    work: Work,
    results: Results,
    *,
    batch: int = 8,
    strict: bool = False,
    again: bool = False,
    what: str = "samples",
    made: Callable[[str], None] | None = None,
) -> Summary:
    """Begin, or go on with what was begun; what is there already is not asked again.

    Batches are cut from the full list of ids, so that a resumed run computes each sample in the same company as an
    uninterrupted one, and its results are the same to the last bit. A batch that is at fault is halved down to the sample
    that is. strict: stop at the first sample that fails. again: ask anew what is there. made: told the id of every sample
    that is on the disk now, whether it was before or not, in order.
    Errors: BadInput for a folder in use, or begun with another question.
    """
    if batch < 1:
        raise BadInput(f"batch size {batch}: expected 1 or more")
    with held(results.root):
        results.begin(work.about())
        with progress(what, len(work.ids())) as bar:
            try:
                return _loop(work, results, batch, strict, again, bar, made or (lambda _id: None))
            finally:
                results.flush()  # also on Ctrl-C


def _loop(
    work: Work, results: Results, batch: int, strict: bool, again: bool, bar: Progress, made: Callable[[str], None]
) -> Summary:
    ids, new, before = work.ids(), 0, 0
    failed: dict[str, str] = {}
    if hasattr(work, "part"):
        work.part = bar.part

    def left_out(id: str, error: LoupeError) -> None:
        if strict:
            raise error
        failed[id] = str(error)
        results.fail(id, str(error))

    for begin in range(0, len(ids), batch):
        group = ids[begin : begin + batch]
        asked: dict[str, Mapping[str, Any]] = {}
        for id in group:
            try:
                asked[id] = work.asked(id)
            except BadSample as error:
                left_out(id, error)
        there = set() if again else {id for id, own in asked.items() if results.has(id, own)}
        before += len(there)
        if len(there) < len(asked):
            for id, found in halved(work, list(asked)):
                if id in there:
                    continue
                if isinstance(found, LoupeError):
                    left_out(id, found)
                else:
                    results.write(id, artifact(found), asked[id])
                    new += 1
        for id in group:
            if id not in failed:
                made(id)
        bar.advance(len(group))
    return Summary(new, before, failed)


def artifact(found: Kind | Artifact) -> Artifact:
    """A result as it lies on disk; its line of the table stands in its record."""
    return found if isinstance(found, Artifact) else Artifact(found.arrays(), {**found.record, "row": found.row()})


def halved(work: Work, group: Sequence[str]) -> Iterator[tuple[str, Kind | Artifact | LoupeError]]:
    """A batch; where it is at fault its halves, down to the sample that is."""
    try:
        yield from list(work.do(group))
    except BadSample as error:
        if len(group) == 1:
            yield group[0], error
        else:
            middle = len(group) // 2
            yield from halved(work, group[:middle])
            yield from halved(work, group[middle:])
