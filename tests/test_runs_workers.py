"""Several processes give what one gives: the same numbers, nothing lost to kills, hangs, full disks and interruptions."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from left import hidden
from test_runs import Sums

from torchloupe import store
from torchloupe.errors import BadInput, LoupeError
from torchloupe.runs.found import chosen, results, store_of
from torchloupe.runs.run import Asking, Job, run
from torchloupe.runs.workers import processes
from torchloupe.store import Artifact
from torchloupe.store.results import Files
from torchloupe.store.shards import INDEX, Shards

TESTS = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.syspath_prepend(TESTS)


def job(**ask: Any) -> Job:
    return Job("test_runs:opened", ask=ask)


def state(found: Any) -> dict[str, tuple[bytes, Any]]:
    return {id: (found.read(id).arrays["y"].tobytes(), found.read(id).record["total"]) for id in found.ids()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(Sums(23, ["05"]), Files(folder), batch=4)
    return state(Files(folder))


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_two_workers_give_the_same_bytes(kind: str, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    asked = job(count=23, bad=["05"])
    done = run(asked, store_of(tmp_path, kind, 23, {}), batch=4, engine=processes(2))
    assert (done.made, done.before, done.failed) == (22, 0, {"05": "05: broken picture"})
    found = results(tmp_path)
    assert state(found.store) == undisturbed
    assert found.failed == {"05": "05: broken picture"}
    assert hidden(tmp_path) == []
    again = run(asked, store_of(tmp_path, "auto", 23, {}), batch=4)
    assert (again.made, again.before) == (0, 22)


def workers_of(driver: int) -> list[int]:
    """The worker processes below a driver."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    mark = "torchloupe.runs.workers"
    lines = [line for line in found if mark in line and "torch.distributed.run" not in line and " -c " not in line]
    pids = [int(line.split()[0]) for line in lines]
    return [pid for pid in pids if f"LOUPE_DRIVER={driver}\0" in _environment(pid)]


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def until(ready: Callable[[], Any], limit: float = 60) -> Any:
    end = time.monotonic() + limit
    while not (found := ready()):
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)
    return found


def started(folder: Path, **ask: Any) -> subprocess.Popen[bytes]:
    """A process that runs the job with two workers into shards of four samples."""
    code = (
        "import sys, test_runs as t\n"
        "from torchloupe.runs.workers import processes\n"
        "from torchloupe.store.shards import Shards\n"
        f"job = t.Job('test_runs:opened', ask={ask!r})\n"
        "try:\n"
        f"    t.run(job, Shards(t.Path({str(folder)!r})), batch=4, engine=processes(2))\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def begun(folder: Path) -> bool:
    return any(b"passed" in path.read_bytes() for path in (folder / ".workers").glob("*.lines"))


def test_a_worker_that_is_killed_costs_nothing(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with started(tmp_path, count=23, bad=["05"], wait=0.4) as driver:
        until(lambda: begun(tmp_path))
        os.kill(until(lambda: workers_of(driver.pid))[0], signal.SIGKILL)
        assert driver.wait(100) == 0
    assert state(Shards(tmp_path)) == undisturbed
    assert hidden(tmp_path) == []


def test_a_driver_that_is_killed_takes_its_workers_along(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with started(tmp_path, count=23, bad=["05"], wait=0.5) as driver:
        until(lambda: begun(tmp_path))
        driver.kill()
        driver.wait()
        until(lambda: not workers_of(driver.pid))
    run(job(count=23, bad=["05"]), Shards(tmp_path), batch=4)
    assert state(Shards(tmp_path)) == undisturbed
    assert not list(tmp_path.glob(".shard*"))


def test_an_interruption_ends_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    with started(tmp_path, count=200, wait=0.2) as driver:
        until(lambda: begun(tmp_path))
        asked = time.monotonic()
        driver.send_signal(signal.SIGINT)
        assert driver.wait(30) == 130
        assert time.monotonic() - asked < 10  # two seconds and what a busy machine adds
    assert not workers_of(driver.pid)
    assert Shards(tmp_path).ids()
    assert hidden(tmp_path) == []


def test_a_sample_that_hangs_is_left_out(tmp_path: Path) -> None:
    done = run(job(count=8, hang="05"), Shards(tmp_path), batch=4, timeout=1.5, engine=processes(1))
    assert done.failed == {"05": "05: took longer than 1.5 s"}
    assert len(Shards(tmp_path).ids()) == 7
    done = run(job(count=8, hang="05"), Files(tmp_path / "here"), batch=4, timeout=0.3)
    assert done.failed == {"05": "05: took longer than 0.3 s"}
    assert done.made == 7


def test_strict_workers_say_which_sample_it_was(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="05: broken picture"):
        run(job(count=8, bad=["05"]), Shards(tmp_path), batch=4, strict=True, engine=processes(1))


def test_what_workers_need(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="several workers need a Job"):
        run(Sums(3), Files(tmp_path), engine=processes(1))
    with pytest.raises(BadInput, match="0 workers: expected 1 or more"):
        processes(0)


def test_a_batch_too_large_for_the_memory_is_halved(tmp_path: Path) -> None:
    class Small(Sums):
        def do(self, ids: Any) -> Any:
            if len(ids) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if "03" in ids:
                raise MemoryError
            return super().do(ids)

    with pytest.warns(UserWarning, match="out of memory with 8 samples at once; going on with halves"):
        done = run(Small(8), Files(tmp_path), batch=8)
    assert (done.made, done.failed) == (7, {"03": "03: out of memory"})


def test_shards_of_one_question_refuse_another(tmp_path: Path) -> None:
    run(Sums(), Shards(tmp_path), batch=4)
    with pytest.raises(BadInput, match=r"run\.json: holds results made with scale 1\.0, now it is 2\.0"):
        run(Sums(scale=2.0), Shards(tmp_path), batch=4)
    assert run(Sums(12), Shards(tmp_path), batch=4).before == 11
    for named, other in (("files", tmp_path), ("shards", tmp_path / "files")):
        run(Sums(2), Files(tmp_path / "files"))
        with pytest.raises(BadInput, match="holds .* leave out --store, or give another folder"):
            store_of(other, named, 3, {})
    assert isinstance(store_of(tmp_path / "new", "auto", 100_000, {}), Shards)
    assert isinstance(store_of(tmp_path / "new", "auto", 99_999, {}), Files)


def test_the_index_is_made_anew_from_the_shards(tmp_path: Path) -> None:
    run(Sums(11, ["02"]), Shards(tmp_path, most=4), batch=4)
    want, failed = state(Shards(tmp_path)), Shards(tmp_path).failed()
    assert len(list(tmp_path.glob("shard-*"))) == 3
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no database" * 100)):
        damage(tmp_path / INDEX)
        assert state(Shards(tmp_path)) == want
        assert Shards(tmp_path).failed() == failed
    (tmp_path / "shard-0-000001.safetensors").unlink()
    assert len(Shards(tmp_path).ids()) == 6
    assert run(Sums(11, ["02"]), Shards(tmp_path), batch=4).made == 4


def test_a_sample_asked_again_outdoes_what_was_there(tmp_path: Path) -> None:
    run(Sums(4, ["02"]), Shards(tmp_path), batch=4)
    run(Sums(4), Shards(tmp_path, "1"), batch=4)
    assert Shards(tmp_path).failed() == {}
    assert Shards(tmp_path).ids() == ["00", "01", "02", "03"]
    shards = Shards(tmp_path, "2")
    shards.begin({"scale": 1.0})
    shards.fail("01", "later and worse")
    shards.flush()
    assert Shards(tmp_path).failed() == {}


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    run(Sums(4), Shards(tmp_path), batch=4)
    shard = next(tmp_path.glob("shard-*"))
    assert Shards(tmp_path).verify() == []
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Shards(tmp_path).verify() == [f"{shard}: array 'y' of sample '03' is damaged"]
    shard.write_bytes(whole[:200])
    assert "cannot be read" in Shards(tmp_path).verify()[0]
    with pytest.raises(BadInput, match="is damaged .* delete it and run the same command again"):
        Shards(tmp_path).read("01")


def test_all_that_a_sample_holds_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "map/gradcam/layer4": rng.normal(size=(2, 1, 3, 4)).astype("f4"),
        "half": rng.normal(size=(3,)).astype("f2"),
        "words": np.array(["ä", "雀", ""]),
        "empty": np.zeros((0, 4), np.int64),
        "flag": np.array([True, False]),
        "number": np.array(3.5),
    }
    smooth = np.linspace(0, 255, 64 * 48).reshape(1, 64, 48, 1).repeat(3, -1).astype(np.uint8)
    shards = Shards(tmp_path)
    shards.begin({"shared": 1, "nan": None})
    record = {"id": "a/b", "shared": 1, "own": float("nan"), "row": {"score": 2.5}}
    shards.write("a/b", Artifact({**arrays, "picture": smooth}, record), {"source": "x"})
    shards.flush()
    found = Shards(tmp_path).read("a/b")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], np.atleast_1d(array))
        assert found.arrays[name].dtype == array.dtype
    assert found.arrays["picture"].shape == smooth.shape
    assert np.abs(found.arrays["picture"].astype(int) - smooth).max() <= 3
    assert found.record == {"nan": None, "shared": 1, "id": "a/b", "own": None, "row": {"score": 2.5}}
    assert Shards(tmp_path).rows("json_extract(record, '$.row.score') > ?", values=[2]) == [
        ("a/b", {"id": "a/b", "own": None, "row": {"score": 2.5}})
    ]


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Sums(4), Shards(tmp_path), batch=4)
    (tmp_path / INDEX).unlink()
    connect = sqlite3.connect

    def refuse(place: Any, **more: Any) -> sqlite3.Connection:
        if str(place) != ":memory:":
            raise sqlite3.OperationalError("unable to open database file")
        return connect(place, **more)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert Shards(tmp_path).ids() == ["00", "01", "02", "03"]


def test_a_folder_that_is_read_only_is_told_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Path.open

    def refuse(path: Path, mode: str = "r", *more: Any, **words: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opening(path, mode, *more, **words)

    work = Sums(4)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match=r"cannot write here \(Read-only file system\); give another folder"):
        run(work, Shards(tmp_path), batch=4)
    assert work.asked_for == []


def test_two_versions_do_not_share_a_run(tmp_path: Path) -> None:
    run(
        Asking(["a"], lambda ids: [(id, Artifact({"y": np.ones(2)}, {})) for id in ids], {"version": "1"}),
        Shards(tmp_path),
    )
    newer = Asking(["a", "b"], lambda ids: [(id, Artifact({"y": np.zeros(2)}, {})) for id in ids], {"version": "2"})
    with pytest.raises(BadInput, match='made with version "1", now it is "2"'):
        run(newer, Shards(tmp_path))
    assert Shards(tmp_path).read("a").arrays["y"].tolist() == [1, 1]


def test_a_full_disk_leaves_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    sync = os.fsync

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count > 3:  # run.json, the list of samples, a shard
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LoupeError, match="the disk is full"):
        run(Sums(), Shards(tmp_path, most=4), batch=4)
    monkeypatch.undo()
    assert Shards(tmp_path).ids() == ["00", "01", "02", "03"]
    assert hidden(tmp_path) == []
    assert run(Sums(), Shards(tmp_path), batch=4).before == 4


def test_which_are_drawn(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.begin({})
    scores = {"a": 0.5, "b": 0.1, "c": None, "d": 0.9, "e": 0.3}
    for id, score in scores.items():
        files.write(id, Artifact({"y": np.zeros(1)}, {"row": {"score": score, "word": "x", "size": len(id)}}), {})
    ids = list(scores)
    assert chosen(files, ids, "auto") == chosen(files, ids, "all") == ids
    assert chosen(files, ids, "none") == []
    assert chosen(files, ids, "worst:2") == ["b", "e"]
    assert chosen(files, ids, "best:2:score") == ["d", "a"]
    assert chosen(files, ["a", "e"], "worst:1") == ["e"]
    assert chosen(files, ids, "sample:2") == ["a", "d"]
    assert chosen(files, ids, "sample:9") == ids
    assert len(chosen(files, [str(i) for i in range(1001)], "auto")) == 48
    for wrong in ("some", "worst", "worst:0", "worst:x", "sample:3:score", "all:2", "worst:2:"):
        with pytest.raises(BadInput, match="expected all, none, sample:N"):
            chosen(files, ids, wrong)
    for column in ("word", "nothing"):
        with pytest.raises(BadInput, match=f"no numbers in a column '{column}'; columns: score, size, word"):
            chosen(files, ids, f"worst:2:{column}")


def test_threads_of_one_process_wait_for_nobody(tmp_path: Path) -> None:
    """A run outside of the main thread has no alarm to set, and needs none."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run(Sums(3), Files(tmp_path), timeout=5)))
    thread.start()
    thread.join()
    assert found[0].made == 3
    assert store.load(tmp_path / "00").record["total"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_at_any_moment_cost_nothing(tmp_path: Path) -> None:
    run(Sums(400, ["05", "123"]), Files(tmp_path / "undisturbed"), batch=4)
    want = state(Files(tmp_path / "undisturbed"))
    rng = np.random.default_rng(7)
    kills = 0
    while True:
        with started(tmp_path / "run", count=400, bad=["05", "123"], wait=0.15) as driver:
            until(lambda: begun(tmp_path / "run") or driver.poll() is not None)
            if kills == 20 or driver.poll() is not None:
                assert driver.wait(300) == 0
                break
            time.sleep(rng.uniform(0, 1.5))
            victims = [driver.pid, *workers_of(driver.pid)]
            os.kill(victims[rng.integers(len(victims))], signal.SIGKILL)
            kills += 1
            if rng.random() < 0.5:  # as often as not the driver too; else it goes on with new workers
                driver.kill()
            else:
                with suppress(subprocess.TimeoutExpired):
                    driver.wait(rng.uniform(0, 3))
                driver.kill()
            driver.wait()
            until(lambda: not workers_of(driver.pid))
        assert Shards(tmp_path / "run").verify() == []
    assert kills >= 10
    assert state(Shards(tmp_path / "run")) == want
    assert Shards(tmp_path / "run").failed() == {name: f"{name}: broken picture" for name in ("05", "123")}


@pytest.mark.slow
def test_ray_gives_the_same_bytes_also_when_an_actor_is_killed(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    from torchloupe.runs.workers import on_ray

    asked = job(count=23, bad=["05"], wait=0.3)
    done: list[Any] = []

    def kill() -> None:
        def actors() -> list[int]:
            listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
            return [int(line.split()[0]) for line in listed.splitlines() if "ray::Doing" in line]

        until(lambda: begun(tmp_path) and actors(), 100)
        os.kill(actors()[0], signal.SIGKILL)
        done.append(True)

    thread = threading.Thread(target=kill)
    thread.start()
    found = run(asked, Shards(tmp_path), batch=4, engine=on_ray(2))
    thread.join()
    assert done
    assert found.failed == {"05": "05: broken picture"}
    assert state(Shards(tmp_path)) == undisturbed
