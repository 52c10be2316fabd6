"""Reading ahead: the next batch is being read before this one is asked, and what comes out is the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchloupe.errors import BadInput, BadSample
from torchloupe.runs.ahead import Ahead
from torchloupe.runs.run import run
from torchloupe.store import Artifact
from torchloupe.store.results import Files


class Reads:
    """Samples whose reading is noted; each batch waits until the one behind it is read."""

    def __init__(self, count: int, broken: str = "") -> None:
        self.names, self.broken = [f"{i:02}" for i in range(count)], broken
        self.read: dict[str, threading.Event] = {name: threading.Event() for name in self.names}
        self.times: dict[str, int] = dict.fromkeys(self.names, 0)
        self.ahead = Ahead(self._read)
        self.batches: list[list[str]] = []

    def _read(self, id: str) -> int:
        self.times[id] += 1
        self.read[id].set()
        if id == self.broken:
            raise BadInput(f"{id}: broken")
        return int(id)

    def about(self) -> dict[str, Any]:
        return {}

    def ids(self) -> Sequence[str]:
        return self.names

    def asked(self, id: str) -> dict[str, Any]:
        return {}

    def fetch(self, ids: Sequence[str]) -> None:
        self.ahead.fetch(ids)

    def do(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        self.batches.append(list(ids))
        after = self.names.index(ids[-1]) + 1
        if after < len(self.names):
            assert self.read[self.names[after]].wait(20), "the next batch is not read while this one is worked on"
        for id in ids:
            try:
                yield id, Artifact({"y": np.full(2, self.ahead.take(id))}, {"kind": "n"})
            except BadInput as error:
                yield id, BadSample(str(error))


def test_the_next_batch_is_read_meanwhile(tmp_path: Path) -> None:
    work = Reads(7, "04")
    done = run(work, Files(tmp_path), batch=2)
    assert (done.made, done.failed) == (6, {"04": "04: broken"})
    assert work.batches == [["00", "01"], ["02", "03"], ["04", "05"], ["06"]]
    assert set(work.times.values()) == {1}
    assert [int(Files(tmp_path).read(id).arrays["y"][0]) for id in Files(tmp_path).ids()] == [0, 1, 2, 3, 5, 6]


def test_what_is_there_is_not_read(tmp_path: Path) -> None:
    run(Reads(6), Files(tmp_path), batch=2)
    (tmp_path / "03.npz").unlink()
    work = Reads(6)
    work.do = lambda ids: ((id, Artifact({"y": np.full(2, work.ahead.take(id))}, {})) for id in ids)  # type: ignore[method-assign]
    assert run(work, Files(tmp_path), batch=2).made == 1
    assert {id for id, times in work.times.items() if times} == {"02", "03"}  # in its old company


def test_what_was_not_fetched_is_read_when_taken() -> None:
    ahead = Ahead(int)
    assert ahead.take("4") == 4
    ahead.fetch(["5", "x"])
    assert ahead.take("5") == 5
    with pytest.raises(ValueError, match="invalid literal"):
        ahead.take("x")
