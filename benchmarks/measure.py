"""What every benchmark shares: interleaved CPU times, peak memory of one job in a process of its own, tables."""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

HERE = Path(__file__).parent


def cpu_times(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each contender; every round runs all of them in another order, after one warm-up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    order = list(contenders)
    for turn in range(rounds):
        random.Random(turn).shuffle(order)
        for name in order:
            gc.collect()
            before = time.process_time()
            contenders[name]()
            found[name].append(time.process_time() - before)
    return {name: statistics.median(times) for name, times in found.items()}


def peak_memory(script: Path, job: str) -> float:
    """MiB by which the resident memory grows at its peak while `script --job JOB` runs, which prints that number last.

    The least of three processes: how threads share the allocator adds up to 60 MiB by chance.
    """
    command = [sys.executable, script, "--job", job]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    return min(float(done.stdout.split()[-1]) for done in runs)


def grown(run: Callable[[], object]) -> float:
    """MiB between the resident memory before and the peak during the run."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return (_status("VmHWM") - before) / 1024


def allocated(run: Callable[[], object]) -> float:
    """MiB that torch holds at the peak of a run, beyond what it held before; after one warm-up."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held) / 2**20


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def table(rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
