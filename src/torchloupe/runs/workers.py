"""Engines of several processes: torch's elastic launcher on one machine, Ray on many. Neither knows what a job is about.

Batches are dealt out by their number, so the number of workers changes no result. A worker tells how it goes in a file of its
own, and writes into files of its own; one that dies is started again and skips what is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Timer
from typing import Any

from torchloupe.errors import BadInput, LoupeError, need
from torchloupe.runs.asked import described, ordered, reopened
from torchloupe.runs.progress import Progress
from torchloupe.runs.run import Engine, Job, Ordered, Plan, Summary, Watch, Work, loop
from torchloupe.store.files import whole
from torchloupe.store.results import Files, Results

HUNG = 99
PATIENCE = 2.0


def processes(count: int, restarts: int = 8) -> Engine:
    """So many worker processes on this machine. One that dies restarts all of them, at most so many times; one that ends
    itself since a sample hangs does not count."""
    if count < 1:
        raise BadInput(f"{count} workers: expected 1 or more")

    def engine(job: Job | None, work: Work, results: Results, plan: Plan, bar: Progress) -> Summary:
        told = Told(results.root, len(work.ids()), bar)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        most = restarts if plan.timeout is None else restarts + 2 * len(work.ids())
        launch += [f"--max-restarts={most}", "-m", __name__, str(told.folder)]
        threads = str(max(1, (os.cpu_count() or 1) // count))
        env = {"OMP_NUM_THREADS": threads, **os.environ, "LOUPE_DRIVER": str(os.getpid())}
        with told.open(job, results, plan):
            log = told.folder / "log"
            with log.open("wb") as output, _group(launch, env, output) as agent:
                while agent.poll() is None:
                    told.look()
                    time.sleep(0.2)
            told.look()
            if told.error:
                raise BadInput(told.error)
            if agent.returncode:
                lines = log.read_text(errors="replace").strip().splitlines()
                why = next((line for line in reversed(lines) if "Error" in line and "ChildFailed" not in line), "")
                raise BadInput(
                    f"{results.root}: workers died {restarts + 1} times{f' ({why.strip()})' if why else ''}; what was done "
                    "is kept, run the same command again"
                )
            return told.summary(results)

    return engine


def on_ray(count: int, address: str | None = None, gpus: float = 0, chunk: int = 4, restarts: int = 8) -> Engine:
    """So many Ray actors, here or on the cluster at an address; chunks of batches go to whoever is free.

    The folder must be seen by all machines under the same path. gpus: of each actor. Errors: MissingPackage without Ray.
    """
    if count < 1:
        raise BadInput(f"{count} workers: expected 1 or more")
    try:
        import ray
        from ray.util import ActorPool
    except ImportError:
        raise need("ray", "ray") from None

    def engine(job: Job | None, work: Work, results: Results, plan: Plan, bar: Progress) -> Summary:
        told = Told(results.root, len(work.ids()), bar)
        batches = -(-len(work.ids()) // plan.batch)
        with told.open(job, results, plan):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            own = not ray.is_initialized()
            if own:
                cores = None if address else count
                ray.init(address=address, num_cpus=cores, include_dashboard=False, log_to_driver=False)
            actor = ray.remote(max_restarts=restarts, max_task_retries=restarts, num_cpus=1, num_gpus=gpus)(Doing)
            try:
                pool = ActorPool([actor.remote(str(told.folder), number) for number in range(count)])
                chunks = [list(range(i, min(i + chunk, batches))) for i in range(0, batches, chunk)]
                for _ in pool.map_unordered(lambda one, some: one.do.remote(some), chunks):
                    told.look()
                    if told.error:
                        raise BadInput(told.error)
            finally:
                if own:
                    ray.shutdown()
            told.look()
            return told.summary(results)

    return engine


@contextmanager
def _group(launch: Sequence[str], env: Mapping[str, str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a group of its own, which is gone afterwards with all that it started; it is asked first."""
    process = subprocess.Popen(launch, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Told:
    """What workers tell the process that started them: a folder below the results with a file of lines for each."""

    root: Path
    total: int
    bar: Progress
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    error: str = ""
    _read: dict[Path, int] = field(default_factory=dict)
    _passed: dict[str, int] = field(default_factory=dict)
    _shown: int = 0

    @property
    def folder(self) -> Path:
        """Where it is told."""
        return self.root / ".workers"

    @contextmanager
    def open(self, job: Job | None, results: Results, plan: Plan) -> Iterator[None]:
        """The folder with the job in it, while workers are at it."""
        if job is None:
            raise BadInput(
                "several workers need a Job, which each of them opens; a work that is open here cannot be sent"
            )
        self._clear()
        self.folder.mkdir(parents=True)
        about = {"job": job.plain(), "plan": asdict(plan), "results": described(results)}
        whole(self.folder / "job.json", json.dumps(about))
        try:
            yield
        finally:
            self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def look(self) -> None:
        """Read what was told since."""
        for path in self.folder.glob("*.lines"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            end = text.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + end
            for line in text[:end].splitlines():
                self._take(path.name.partition("-")[0], path.stem, json.loads(line))
        passed = min(sum(self._passed.values()), self.total)
        if passed > self._shown:
            self.bar.advance(passed - self._shown)
            self._shown = passed

    def _take(self, rank: str, worker: str, told: Mapping[str, Any]) -> None:
        self.made += told.get("made", 0)
        self.failed |= told.get("failed", {})
        self.error = self.error or told.get("error", "")
        if "begin" in told:
            self._passed[rank] = 0
        self._passed[rank] = self._passed.get(rank, 0) + told.get("passed", 0)

    def summary(self, results: Results) -> Summary:
        """What all workers did; what they left out stands in the results' ledger."""
        for id, reason in self.failed.items():
            if isinstance(results, Files):
                results.fail(id, reason)
        made = min(self.made, self.total - len(self.failed))
        return Summary(made, self.total - made - len(self.failed), self.failed)


class Telling(Progress):
    """The progress of a worker, and all else that it has to tell."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        self._file = (folder / f"{rank}-{os.getpid()}.lines").open("a", encoding="utf-8")
        self._driver = int(os.environ.get("LOUPE_DRIVER", "0"))
        self.say(begin=True)

    def say(self, **told: Any) -> None:
        """A line."""
        self._file.write(json.dumps(told) + "\n")
        self._file.flush()

    def advance(self, count: int = 1, made: int = 0) -> None:
        """See `Progress.advance`. Ends the worker where nobody is there any more to whom it would tell it."""
        self.say(passed=count, made=made)
        if self._driver:
            try:
                os.kill(self._driver, 0)
            except ProcessLookupError:
                raise SystemExit("whoever started this worker is gone") from None


class Hanging(Watch):
    """Ends a worker that hangs, also in compiled code, and remembers at which samples."""

    def __init__(self, folder: Path, seconds: float | None) -> None:
        super().__init__(seconds)
        self.folder = folder / "hung"

    def _times(self, id: str) -> int:
        path = self._mark(id)
        return path.stat().st_size if path.is_file() else 0

    def _mark(self, id: str) -> Path:
        return self.folder / hashlib.sha256(id.encode(errors="surrogateescape")).hexdigest()[:32]

    def hung(self, id: str) -> bool:
        """See `Watch.hung`: in a batch, and alone."""
        return self.seconds is not None and self._times(id) > 1

    def suspect(self, ids: Sequence[str]) -> bool:
        """See `Watch.suspect`."""
        return self.seconds is not None and any(self._times(id) for id in ids)

    @contextmanager
    def over(self, ids: Sequence[str]) -> Iterator[None]:
        """See `Watch.over`; here the process ends, is started again and knows."""
        if self.seconds is None:
            yield
            return

        def end() -> None:
            self.folder.mkdir(exist_ok=True)
            for id in ids:
                with self._mark(id).open("a") as file:
                    file.write("." * (2 if len(ids) == 1 else 1))
            os._exit(HUNG)

        timer = Timer(self.seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class Doing:
    """A worker: the job opened once, batches done as they are asked for."""

    def __init__(self, folder: str, rank: int) -> None:
        self.folder = Path(folder)
        told = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
        self.plan = Plan(**told["plan"])
        self.bar = Telling(self.folder, rank)
        self.results = reopened(told["results"], f"{rank}-{os.getpid()}")
        job = Job(**told["job"])
        if job.model.get("device") == "auto":
            job = replace(job, model={**job.model, "device": _device(rank)})
        self.work = self._said(job.open)
        if self.work is not None:
            self.work = Ordered(self.work, ordered(self.results, self.work.ids()))
            self._said(lambda: self.results.begin(self.work.about()))

    def do(self, batches: Sequence[int]) -> int:
        """These batches by their numbers; gives how many."""
        done = self._said(lambda: self._loop(batches))
        if done is not None:
            self.bar.say(failed=dict(done.failed))
        return len(batches)

    def _loop(self, batches: Sequence[int]) -> Summary:
        try:
            return loop(self.work, self.results, self.plan, self.bar, batches, Hanging(self.folder, self.plan.timeout))
        finally:
            if not isinstance(self.results, Files):
                self.results.flush()

    def _said(self, act: Any) -> Any:
        """What comes of it; what is wrong with the question is told, and nothing else is begun."""
        try:
            return act()
        except LoupeError as error:
            self.bar.say(error=str(error))
            return None


def _device(rank: int) -> str:
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{rank % count}" if count else "auto"


def main() -> None:
    """One worker of the elastic launcher."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    worker = Doing(sys.argv[1], rank)
    if worker.work is not None:
        worker.do(range(rank, -(-len(worker.work.ids()) // worker.plan.batch), world))


if __name__ == "__main__":
    main()
