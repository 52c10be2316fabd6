"""One loop for every command: same results after kills and in any company, bad samples named, one run a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from left import hidden

from torchloupe import store
from torchloupe.errors import PARTLY, BadInput, BadSample, LoupeError
from torchloupe.kinds.maps import Heatmaps
from torchloupe.runs.found import results, store_of
from torchloupe.runs.run import Job, run
from torchloupe.store import Artifact
from torchloupe.store.results import LEFT_OUT, Files
from torchloupe.store.stream import Stream


class Sums:
    """Samples whose batch-mates matter in the last bit, as in a real network."""

    def __init__(self, count: int = 11, bad: Sequence[str] = (), scale: float = 1.0) -> None:
        self.count, self.bad, self.scale = count, set(bad), scale
        self.asked_for: list[list[str]] = []

    def about(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def ids(self) -> Sequence[str]:
        return [f"{i:02}" for i in range(self.count)]

    def asked(self, id: str) -> Mapping[str, Any]:
        return {"source": f"sha of {id}"}

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Artifact | LoupeError]]:
        self.asked_for.append(list(ids))
        if self.bad & set(ids):
            raise BadSample(f"{min(self.bad & set(ids))}: broken picture")
        x = np.stack([np.random.default_rng(int(i)).normal(size=16) for i in ids]).astype("f4") * self.scale
        for id, row in zip(ids, x @ x.T @ x, strict=True):
            yield id, Artifact({"y": row}, {"kind": "sums", "total": float(row.sum())})


class Slow(Sums):
    """Takes its time; one sample hangs where that is asked for."""

    def __init__(self, hang: str = "", wait: float = 0.0, **more: Any) -> None:
        super().__init__(**more)
        self.hang, self.wait = hang, wait

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Artifact | LoupeError]]:
        time.sleep(60 if self.hang in ids else self.wait)
        return super().do(ids)


def opened(job: Job) -> Sums:
    """What `Job(kind="test_runs:opened")` opens."""
    return Slow(**job.ask)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: store.load_arrays(path)["y"].tobytes() for path in sorted(folder.glob("[!.]*.npz"))}


def test_what_is_there_is_not_asked_again(tmp_path: Path) -> None:
    first, again = Sums(), Sums()
    done = run(first, Files(tmp_path), batch=4)
    assert (done.made, done.before, done.failed, done.status) == (11, 0, {}, 0)
    assert [len(ids) for ids in first.asked_for] == [4, 4, 3]
    done = run(again, Files(tmp_path), batch=4)
    assert (done.made, done.before) == (0, 11)
    assert again.asked_for == []
    done = run(again, Files(tmp_path), batch=4, again=True)
    assert (done.made, done.before) == (11, 0)


def test_a_sample_that_is_missing_is_computed_in_its_old_company(tmp_path: Path) -> None:
    run(Sums(), Files(tmp_path), batch=4)
    want = contents(tmp_path)
    (tmp_path / "05.json").unlink()
    work = Sums()
    assert run(work, Files(tmp_path), batch=4).made == 1
    assert work.asked_for == [["04", "05", "06", "07"]]
    assert contents(tmp_path) == want


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_samples_that_are_added_add_their_own_work_alone(tmp_path: Path, kind: str) -> None:
    class Some(Sums):
        def ids(self) -> Sequence[str]:
            return [f"{i:02}" for i in range(0, 24, self.count)]

    first, more = Some(2), Some(1)
    run(first, store_of(tmp_path, kind, 12, {}), batch=4)
    found = results(tmp_path)
    before = {id: found.store.read(id).arrays["y"].tobytes() for id in found}
    assert run(more, store_of(tmp_path, kind, 24, {}), batch=4).made == 12
    assert [id for group in more.asked_for for id in group] == [f"{i:02}" for i in range(1, 24, 2)]
    found = results(tmp_path)
    assert all(found.store.read(id).arrays["y"].tobytes() == y for id, y in before.items())
    (tmp_path / ".job.ids").write_text("damaged")
    assert run(more, store_of(tmp_path, kind, 24, {}), batch=4).before == 24


def test_another_question_is_asked_again(tmp_path: Path) -> None:
    run(Sums(), Files(tmp_path), batch=4)
    assert run(Sums(scale=2.0), Files(tmp_path), batch=4).made == 11
    assert store.load(tmp_path / "03").record["asked"] == {"scale": 2.0, "source": "sha of 03"}


def test_a_bad_sample_is_found_named_and_left_out(tmp_path: Path) -> None:
    work = Sums(bad=["02", "09"])
    done = run(work, Files(tmp_path), batch=4)
    assert done.failed == {"02": "02: broken picture", "09": "09: broken picture"}
    assert (done.made, done.status) == (9, PARTLY)
    assert json.loads((tmp_path / LEFT_OUT).read_text()) == done.failed
    assert done.told()[-1] == "INCOMPLETE: 9 of 11 samples done; 2 could not be read or explained"
    with pytest.raises(BadInput, match="sample '02' was left out: 02: broken picture"):
        Files(tmp_path).read("02")
    with pytest.raises(BadSample, match="02: broken picture"):
        run(Sums(bad=["02"]), Files(tmp_path / "strict"), batch=4, strict=True)
    assert run(Sums(), Files(tmp_path), batch=4).made == 2
    assert not (tmp_path / LEFT_OUT).exists()


def test_where_all_fail_nothing_is_left(tmp_path: Path) -> None:
    done = run(Sums(3, ["00", "01", "02"]), Files(tmp_path / "new"), batch=2)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BadInput, match=r"00: broken picture \(and 2 more failed\)"):
        done.check()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    class Slow(Sums):
        def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Artifact | LoupeError]]:
            begun.set()
            go.wait(30)
            return super().do(ids)

    first = threading.Thread(target=run, args=(Slow(), Files(tmp_path)))
    first.start()
    begun.wait(30)
    try:
        with pytest.raises(BadInput, match=rf"another run \(process {os.getpid()}\) is writing here"):
            run(Sums(), Files(tmp_path))
    finally:
        go.set()
        first.join()
    assert run(Sums(), Files(tmp_path)).before == 11
    assert hidden(tmp_path) == []


def test_kills_cost_nothing_that_was_done(tmp_path: Path) -> None:
    run(Sums(), Files(tmp_path / "whole"), batch=3)
    code = (
        "import os, signal, sys; sys.path.insert(0, {tests!r})\n"
        "import test_runs as t\n"
        "write, count = t.Files.write, 0\n"
        "def killing(self, *args):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == {after}:\n"
        "        (self.root / f'.torn.{{os.getpid()}}-1~.npz').write_bytes(b'torn')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, *args)\n"
        "t.Files.write = killing\n"
        "t.run(t.Sums(), t.Files(t.Path({root!r})), batch=3)\n"
    )
    root = tmp_path / "killed"
    for after in (1, 3, 4):
        text = code.format(tests=str(Path(__file__).parent), after=after, root=str(root))
        killed = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(contents(root)) == 5
    assert run(Sums(), Files(root), batch=3).before == 5
    assert contents(root) == contents(tmp_path / "whole")
    assert hidden(root) == []


def test_a_job_is_plain_data() -> None:
    job = Job("test_runs:opened", ask={"count": 4, "scale": 3.0})
    again = Job.parse(json.dumps(job.plain()))
    assert again == job
    assert again.key == job.key
    assert again.key != Job("test_runs:opened", ask={"count": 5, "scale": 3.0}).key
    assert again.open().ids() == ["00", "01", "02", "03"]
    with pytest.raises(BadInput, match="no kind of job 'nothing'"):
        Job("nothing").open()


def test_a_batch_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch size 0: expected 1 or more"):
        run(Sums(), Files(tmp_path), batch=0)


@pytest.mark.parametrize("folder", ["", "ig"])
def test_a_stream_is_a_store_like_any_other(tmp_path: Path, folder: str) -> None:
    assert run(Sums(bad=["01"]), Stream(tmp_path, "ig"), batch=4).made == 10
    with pytest.raises(BadInput, match=r"ig\.json: holds results made with scale 1.0, now it is 2.0"):
        run(Sums(scale=2.0), Stream(tmp_path, "ig"))
    found = results(tmp_path / folder)
    assert len(found) == 10
    assert found.failed == {"01": "01: broken picture"}
    assert found.store.read("02").record == {"kind": "ig", "scale": 1.0, "id": "02"}


def heatmaps(name: str, value: float) -> Heatmaps:
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    maps = {("gradcam", "layer4"): np.full((1, 1, 2, 2), value, np.float32)}
    record = {"kind": "maps", "id": name, "questions": ["dog"], "scores": [value], "methods": {}}
    return Heatmaps(name, picture, maps, frozenset(), ("dog",), (value,), record=record)


def test_a_folder_of_results_is_opened_by_id_and_as_a_table(tmp_path: Path) -> None:
    class Two(Sums):
        def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
            for id in ids:
                yield id, BadSample("no") if id == "02" else heatmaps(id, float(id) + 0.5)

    run(Two(3), Files(tmp_path))
    found = results(tmp_path)
    assert list(found) == ["00", "01"]
    assert found["01"].maps["gradcam", "layer4"].tolist() == [[[[1.5, 1.5], [1.5, 1.5]]]]
    assert found.table == [
        {"id": "00", "question": "dog", "score": 0.5},
        {"id": "01", "question": "dog", "score": 1.5},
    ]
    assert found.failed == {"02": "no"}
    assert repr(found) == f"{tmp_path}: 2 results, 1 left out"
    with pytest.raises(BadInput, match=r"has no result '0'\. Did you mean"):
        found["0"]
    with pytest.raises(BadInput, match="no results in this folder"):
        results(tmp_path.parent / tmp_path.name / "..")
    with pytest.raises(BadInput, match="no such folder"):
        results(tmp_path / "nothing")


def test_results_of_no_known_kind_stand_with_their_ids(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.begin({})
    made = heatmaps("a", 0.5)
    files.write("a", Artifact(made.arrays(), made.record), {})  # as older versions wrote it: without a row
    files.write("odd", Artifact({"y": np.zeros(1)}, {"kind": "of nobody"}), {})
    assert results(tmp_path).table == [{"id": "a", "question": "dog", "score": 0.5}, {"id": "odd"}]
    from torchloupe.view.api import Library

    run = Library([tmp_path]).runs[0]
    assert run.plain()["count"] == 2
    assert run.sample("odd")["planes"] == []
    assert len(run.sample("a")["planes"]) == 1


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    one, other, link = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "link.npz"
    one.write_bytes(b"x")
    link.symlink_to(one)
    store.never_over([one], [other])
    for output in (one, link, tmp_path / "sub" / ".." / "a.npz"):
        with pytest.raises(BadInput, match="is an input of this command and would be overwritten"):
            store.never_over([other, one], [output])


def test_an_alarm_that_was_set_before_rings_when_it_was_to(tmp_path: Path) -> None:
    """A run with a timeout sets the process's one alarm; a caller's own, pytest's for example, goes on afterwards."""
    rung: list[float] = []
    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic() - begun))
    before = signal.setitimer(signal.ITIMER_REAL, 0.6, 0.2)
    try:
        run(Slow(count=2, wait=0.2), Files(tmp_path), batch=1, timeout=30)
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.2
        assert not rung
        while len(rung) < 2 and time.monotonic() - begun < 10:
            time.sleep(0.01)
        assert 0.55 < rung[0] < rung[1]
        rung.clear()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        run(Slow(count=1, wait=0.3), Files(tmp_path / "late"), timeout=30)  # its time comes in the run
        while not rung and time.monotonic() - begun < 20:
            time.sleep(0.01)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)
