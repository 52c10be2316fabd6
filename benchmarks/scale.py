"""What a run costs beside the bare loop, what a second worker brings, how fast shards are, what a million samples need.

python benchmarks/scale.py [--pictures 96] [--stub 1000000]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from torchloupe.runs.run import Job, run
from torchloupe.runs.workers import processes
from torchloupe.store import Artifact, Files
from torchloupe.store.shards import Shards


def pictures(folder: Path, count: int) -> dict[str, str]:
    """So many pictures of smooth noise."""
    rng = np.random.default_rng(0)
    found = {}
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        path = folder / f"{i:05}.jpg"
        small.resize((256, 256), Image.Resampling.BICUBIC).save(path)
        found[path.stem] = str(path)
    return found


def job(files: Mapping[str, str], model: str) -> Job:
    """Grad-CAM of these pictures."""
    ask: dict[str, Any] = {"layers": None, "methods": ["gradcam"], "options": {}, "target": None, "each": False}
    ask |= {"explain": "score", "threshold": 0.0, "aug_smooth": False, "eigen_smooth": False}
    return Job("maps", {"model": model, "device": "cpu"}, {"files": dict(files), "labels": None}, ask)


class Stub:
    """A work that costs nothing: what is left is the run itself."""

    def __init__(self, count: int, size: int = 4) -> None:
        self.names = [f"{i:08}" for i in range(count)]
        self.array = np.zeros(size, np.float32)

    def about(self) -> Mapping[str, Any]:
        return {"stub": 1}

    def ids(self) -> Sequence[str]:
        return self.names

    def asked(self, id: str) -> Mapping[str, Any]:
        return {}

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Artifact]]:
        for id in ids:
            yield id, Artifact({"y": self.array}, {"kind": "stub", "row": {"score": float(int(id) % 97)}})


def cost(act: Callable[[], Any]) -> tuple[float, float]:
    """(CPU seconds of this process, wall seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    act()
    return time.process_time() - cpu, time.perf_counter() - wall


def resident() -> float:
    """MB at the peak so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--stub", type=int, default=1_000_000)
    parser.add_argument("--model", default="timm:resnet18")
    asked = parser.parse_args()
    base = Path(tempfile.mkdtemp())
    (base / "in").mkdir()
    files = pictures(base / "in", asked.pictures)
    question = job(files, asked.model)
    work = question.open()
    ids = list(work.ids())
    groups = [ids[i : i + 8] for i in range(0, len(ids), 8)]

    def bare() -> None:
        for group in groups:
            for id in group:
                work.asked(id)
            list(work.do(group))

    list(work.do([id for id in ids[:8] if work.asked(id)]))
    times = {"bare loop": cost(bare)}
    times["run, shards"] = cost(lambda: run(work, Shards(base / "shards")))
    times["run, files"] = cost(lambda: run(work, Files(base / "files")))
    times["the same again, files"] = cost(lambda: run(work, Files(base / "files")))
    for name, (cpu, wall) in times.items():
        print(f"{name:28s} {cpu:8.2f} CPU s  {wall:8.2f} s  {cpu / times['bare loop'][0]:.3f} of the bare loop")
    for count in (1, 2):
        os.environ["OMP_NUM_THREADS"] = "1"
        target = Shards(base / f"workers{count}")
        engine = processes(count)
        wall = cost(lambda target=target, engine=engine: run(question, target, engine=engine, work=work))[1]  # type: ignore[misc]
        print(f"{count} worker processes{'':11s} {wall:8.2f} s, start included")
    big = Stub(256, 1_000_000)
    cpu, wall = cost(lambda: run(big, Shards(base / "big", most=64), batch=64))
    print(f"store: {256 * 4 / wall:.0f} MB/s of raw maps ({256 * 4 / cpu:.0f} per CPU second)")
    shutil.rmtree(base / "big")
    before = resident()
    stub = Stub(asked.stub)
    named = resident()
    write = cost(lambda: run(stub, Shards(base / "stub", most=1024), batch=256))
    print(f"{asked.stub} stub samples: {1e6 * write[0] / asked.stub:.1f} us of CPU each; {resident() - named:.0f} MB more, "
          f"their names {named - before:.0f} MB")  # fmt: skip
    print("opened, one sample read: {1:.4f} s".format(*cost(lambda: Shards(base / "stub").read(stub.names[1234]))))
    print(
        "resume of the finished run: {:.2f} CPU s, {:.2f} s".format(
            *cost(lambda: run(stub, Shards(base / "stub"), batch=256))
        )
    )
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
