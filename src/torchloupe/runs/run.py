"""One loop for every command: what is asked of which samples, done once, kept whole, gone on with after any kill."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, cast

from torchloupe.errors import PARTLY, BadInput, BadSample, LoupeError, LoupeWarning
from torchloupe.kinds import Kind
from torchloupe.named import called, is_path, own
from torchloupe.runs.asked import described, note, noted, noting, ordered, reopened
from torchloupe.runs.progress import Progress, progress
from torchloupe.store import Artifact, held, key, plain
from torchloupe.store.results import Results

FEW = 20


class Work(Protocol):
    """A job opened in the process that works: the model is loaded, the samples can be read.

    Ids are stable names, not positions. What it may have besides: `part`, set before `do` to a function of (done, total)
    that tells how far a slow batch is; `fetch`, a method that is given the ids of the next batch before `do` is given this
    one, and begins to read them.
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


class Ordered:
    """A work whose samples come in another order; all else is the work's own."""

    def __init__(self, work: Work, ids: Sequence[str]) -> None:
        self.work, self._ids = work, ids

    def ids(self) -> Sequence[str]:
        """See `Work.ids`."""
        return self._ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self.work, name)


OPENERS: dict[str, str] = {
    "features of samples": "torchloupe.runs.embed:embedding",
    "differences": "torchloupe.runs.features:Comparing",
    "features": "torchloupe.runs.features:Capturing",
    "gait maps": "torchloupe.runs.gait:Matching",
    "maps": "torchloupe.runs.maps:Explaining",
    "pose depend": "torchloupe.runs.pose.depend:depending",
    "pose errors": "torchloupe.runs.pose.errors:measuring",
    "pose maps": "torchloupe.runs.pose.attribution:attributing",
    "gait judged": "torchloupe.runs.judge:JudgingWalks",
    "gait judged again": "torchloupe.runs.judge:JudgingStoredWalks",
    "judged": "torchloupe.runs.judge:Judging",
    "judged again": "torchloupe.runs.judge:JudgingStored",
    "sane": "torchloupe.runs.judge:Sanity",
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


@dataclass(frozen=True)
class Plan:
    """How a run goes: pictures in a batch, whether it stops at the first bad sample, whether what is there is asked anew,
    and after how many seconds a batch counts as hung (None: never)."""

    batch: int = 8
    strict: bool = False
    again: bool = False
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BadInput(f"batch size {self.batch}: expected 1 or more")
        if self.timeout is not None and not self.timeout > 0:
            raise BadInput(f"timeout {self.timeout}: expected seconds, more than 0")


# does the batches of a work into the results; the summary is of what it did
Engine = Callable[["Job | None", Work, Results, Plan, Progress], Summary]


def run(
    job: Job | Work,
    results: Results,
    *,
    batch: int = 8,
    strict: bool = False,
    again: bool = False,
    timeout: float | None = None,
    engine: Engine | None = None,
    what: str = "samples",
    work: Work | None = None,
) -> Summary:
    """Begin, or go on with what was begun; what is there already is not asked again.

    Batches are cut from the full list of ids, so that a resumed run, or one of more workers, computes each sample in the
    same company as an uninterrupted one, and its results are the same to the last bit. A batch that is at fault is halved
    down to the sample that is. job: a work, or the job that opens it, which engines of several processes need; work: the
    job's, where it is open already. strict: stop at the first sample that fails. again: ask anew what is there. timeout:
    seconds after which a batch counts as hung, and is taken one by one.
    Errors: BadInput for a folder in use, or begun with another question.
    """
    plan = Plan(batch, strict, again, timeout)
    mine = work or (job.open() if isinstance(job, Job) else job)
    asked = job if isinstance(job, Job) else None
    told: dict[str, Any] = {}
    if asked is not None:
        told = {"job": asked.plain(), "plan": asdict(plan), "store": described(results), "folder": os.getcwd()}
    with held(results.root):
        results.begin(mine.about())
        with noting(results, told):
            mine = cast(Work, Ordered(mine, ordered(results, mine.ids())))
            since = time.monotonic()
            with progress(what, len(mine.ids())) as bar:
                try:
                    done = (engine or here)(asked, mine, results, plan, bar)
                finally:
                    results.flush()  # also on Ctrl-C
            if told and done.made:
                note(results, {"made": done.made, "seconds": time.monotonic() - since})
    return done


def retried(results: Results, what: str = "samples") -> Summary:
    """The samples that were left out asked once more, and those that a killed run had not come to.

    Errors: BadInput where it is not known what was asked, or from another folder than relative paths begin in.
    """
    told = noted(results)
    if told["folder"] != os.getcwd():
        raise BadInput(f"{results.root}: was asked in {told['folder']}, where its relative paths begin; run this there")
    return run(
        Job(**told["job"]), reopened(told["store"]), **{**told["plan"], "again": False, "strict": False}, what=what
    )


def here(job: Job | None, work: Work, results: Results, plan: Plan, bar: Progress) -> Summary:
    """The engine of this process."""
    return loop(work, results, plan, bar)


def loop(
    work: Work,
    results: Results,
    plan: Plan,
    bar: Progress,
    batches: Sequence[int] | None = None,
    watch: Watch | None = None,
) -> Summary:
    """The loop itself, the same in every engine. batches: the numbers of those that are to be done; all by default."""
    ids, batch, new, before = work.ids(), plan.batch, 0, 0
    failed: dict[str, str] = {}
    watch = watch or Watch(plan.timeout)
    inner = work.work if isinstance(work, Ordered) else work
    if hasattr(inner, "part"):
        inner.part = bar.part

    def left_out(id: str, error: LoupeError) -> None:
        if plan.strict:
            raise error
        failed[id] = str(error)
        results.fail(id, str(error))

    def steps() -> Iterator[Step]:
        for number in range(-(-len(ids) // batch)) if batches is None else batches:
            group = ids[number * batch : (number + 1) * batch]
            asked: dict[str, Mapping[str, Any]] = {}
            for id in group:
                try:
                    asked[id] = work.asked(id)
                except BadSample as error:
                    left_out(id, error)
            yield Step(group, asked, set() if plan.again else results.there(asked))

    for group, asked, there in ahead(work, steps()):
        before, had = before + len(there), new
        if len(there) < len(asked):
            for id, found in halved(work, list(asked), watch):
                if id in there:
                    continue
                if isinstance(found, LoupeError):
                    left_out(id, found)
                else:
                    results.write(id, artifact(found), asked[id])
                    new += 1
        bar.advance(len(group), new - had)
    return Summary(new, before, failed)


class Step(NamedTuple):
    """A batch: its ids, what is asked of each that can be read, and those whose answers are there."""

    group: Sequence[str]
    asked: Mapping[str, Mapping[str, Any]]
    there: set[str]


def ahead(work: Work, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, each once the work has begun to read the one behind it."""
    fetch = getattr(work, "fetch", None)
    if fetch is None:
        yield from steps
        return
    waiting: Step | None = None
    for step in steps:
        if len(step.there) < len(step.asked):
            fetch(list(step.asked))
        if waiting is not None:
            yield waiting
        waiting = step
    if waiting is not None:
        yield waiting


class Watch:
    """Looks at the clock while a batch is worked on. This one interrupts Python code of the main thread."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds

    def hung(self, id: str) -> bool:
        """Whether this sample alone has hung before."""
        return False

    def suspect(self, ids: Sequence[str]) -> bool:
        """Whether a batch with these samples has hung before, so that they are taken one by one."""
        return False

    @contextmanager
    def over(self, ids: Sequence[str]) -> Iterator[None]:
        """Errors: BadSample where the time is over."""
        if self.seconds is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def over(*_: object) -> None:
            raise BadSample(f"{', '.join(ids[:3])}: took longer than {self.seconds:g} s")

        before, begun = signal.signal(signal.SIGALRM, over), time.monotonic()
        left, every = signal.setitimer(signal.ITIMER_REAL, self.seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if left:  # somebody else's alarm goes on; one whose time came meanwhile rings now
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-3), every)


def artifact(found: Kind | Artifact) -> Artifact:
    """A result as it lies on disk; its line of the table stands in its record."""
    return found if isinstance(found, Artifact) else Artifact(found.arrays(), {**found.record, "row": found.row()})


def halved(work: Work, group: Sequence[str], watch: Watch) -> Iterator[tuple[str, Kind | Artifact | LoupeError]]:
    """A batch; where it is at fault, too large for the memory or too slow, its halves, down to the sample that is."""
    if len(group) == 1 and watch.hung(group[0]):
        yield group[0], BadSample(f"{group[0]}: took longer than {watch.seconds:g} s")
        return
    try:
        if len(group) > 1 and watch.suspect(group):
            raise BadSample("a batch that has hung before")
        with watch.over(group):
            found = list(work.do(group))
        yield from found
    except (BadSample, MemoryError, RuntimeError) as error:
        if not isinstance(error, BadSample) and not _is_full(error):
            raise
        if len(group) == 1:
            yield group[0], error if isinstance(error, BadSample) else BadSample(f"{group[0]}: out of memory")
            return
        if not isinstance(error, BadSample):
            warnings.warn(
                f"out of memory with {len(group)} samples at once; going on with halves", LoupeWarning, stacklevel=2
            )
        middle = len(group) // 2
        yield from halved(work, group[:middle], watch)
        yield from halved(work, group[middle:], watch)


def _is_full(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, was not enough."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)
