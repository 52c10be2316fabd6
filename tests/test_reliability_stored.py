"""Results of every kind, damaged on disk or made by something else: opened, listed, shown and drawn, or refused in one line."""

from __future__ import annotations

import json
import random
import shutil
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutations import altered, mutated
from stored import KINDS, streamed

from torchloupe import store
from torchloupe.errors import LoupeError
from torchloupe.render.kinds import Wish, redraw
from torchloupe.render.style import Style
from torchloupe.runs.found import results
from torchloupe.store import Artifact
from torchloupe.store.shards import Shards
from torchloupe.view.api import Library
from torchloupe.view.report import report

QUICK, MANY = 15, 150  # each is also drawn
ALONE = ("curves", "projection")  # files by themselves, no folder of results


def told(ask: Callable[[], Any]) -> str:
    """'read', or the line of why not; anything else is raised."""
    begun = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask()
        said = "read"
    except LoupeError as error:
        said = str(error)
    assert time.process_time() - begun < 5
    return said


def looked_at(folder: Path) -> list[str]:
    """Everything that opens a folder of results, once; what each said."""
    found: list[Any] = []

    def opened() -> None:
        found.append(results(folder))

    said = [told(opened)]
    if not found:
        return said
    (run,) = found
    said += [told(lambda: run.table), told(run.told), told(lambda: run.failed), told(lambda: [run[id] for id in run])]
    page = Library([folder]).runs[0]
    said += [told(page.plain), told(lambda: page.table.rows())]

    def seen(id: str) -> None:
        for number in range(len(page.sample(id)["planes"])):
            page.plane(id, number)
        json.dumps(page.sample(id), allow_nan=False)
        page.picture(id)

    ids: list[str] = []
    said += [told(lambda: ids.extend(run)), *(told(lambda id=id: seen(id)) for id in ids)]
    said.append(told(lambda: report([folder])))
    return said


def drawn(path: Path) -> str:
    goal = path.parent.parent / "drawn"
    said = told(lambda: redraw([path], str(goal), Wish(Style(dpi=40))))
    shutil.rmtree(goal, ignore_errors=True)
    return said


def spoilt(kind: str, folder: Path, count: int, arrays_too: bool) -> int:
    """How many of so many results were refused by whatever draws them."""
    arrays, record = KINDS[kind]
    words, chance = json.dumps(record).encode(), random.Random(zlib.crc32(kind.encode()) + arrays_too)
    refused = 0
    for i in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        store.save(folder, "a", altered(arrays, chance) if arrays_too else arrays, record)
        if not arrays_too:
            (folder / "a.json").write_bytes(mutated(words, chance))
        try:
            refused += drawn(folder / "a.npz") != "read"
            if kind not in ALONE:
                looked_at(folder)
        except Exception as error:
            kept = {name: (array.dtype, array.shape) for name, array in np.load(folder / "a.npz").items()}
            said = (folder / "a.json").read_bytes()
            raise AssertionError(f"{i} of {kind}: {type(error).__name__}: {error}\n{kept}\n{said!r}") from error
    return refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_result_is_read(kind: str, tmp_path: Path) -> None:
    store.save(tmp_path / "run", "a", *KINDS[kind])
    assert drawn(tmp_path / "run" / "a.npz") == "read"
    if kind not in ALONE:
        said = looked_at(tmp_path / "run")
        assert all(one == "read" or "no picture of number 0" in one for one in said), said


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_are_damaged(kind: str, tmp_path: Path) -> None:
    assert spoilt(kind, tmp_path / "run", QUICK, arrays_too=False) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_odd(kind: str, tmp_path: Path) -> None:
    assert spoilt(kind, tmp_path / "run", QUICK, arrays_too=True) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arrays_too", [False, True])
def test_much_damage_to_results(kind: str, arrays_too: bool, tmp_path: Path) -> None:
    assert spoilt(kind, tmp_path / "run", MANY, arrays_too) > MANY // 20


def of_pose(kind: str, folder: Path, count: int) -> None:
    (arrays, _), run = streamed()[kind]
    chance = random.Random(zlib.crc32(kind.encode()))
    words = json.dumps(run).encode()
    for i in range(count):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / kind).mkdir(parents=True)
        np.savez(folder / kind / "0.npz", **(altered(arrays, chance) if i % 2 else arrays))
        (folder / f"{kind}.json").write_bytes(words if i % 2 else mutated(words, chance))
        try:
            looked_at(folder / kind)
        except Exception as error:
            raise AssertionError(f"{i} of {kind}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("kind", ["ig", "epe"])
def test_results_of_pose_that_are_damaged(kind: str, tmp_path: Path) -> None:
    of_pose(kind, tmp_path / "run", 2 * QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ig", "epe"])
def test_much_damage_to_results_of_pose(kind: str, tmp_path: Path) -> None:
    of_pose(kind, tmp_path / "run", 2 * MANY)


def of_shards(folder: Path, name: str, count: int) -> int:
    """How many folders of shards, of which one file is damaged, were refused by something."""
    arrays, record = KINDS["maps"]
    whole = folder / "whole"
    shards = Shards(whole)
    shards.begin({"kind": "maps"})
    for id in ("a", "b"):
        shards.write(id, Artifact(arrays, {**record, "id": id, "row": {"score": 0.5}}), {"source": id})
    shards.fail("c", "no picture")
    shards.flush()
    assert shards.ids() == ["a", "b"]
    content, chance = (whole / name).read_bytes(), random.Random(zlib.crc32(name.encode()))
    refused = 0
    for i in range(count):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        if name.startswith("shard"):
            (run / "index.sqlite").unlink()
        (run / name).write_bytes(mutated(content, chance))
        try:
            said = [*looked_at(run), told(lambda run=run: Shards(run).verify()), told(lambda run=run: Shards(run).begin({"kind": "maps"})),
                    told(lambda run=run: Shards(run).there({"a": {"source": "a"}}))]  # fmt: skip
        except Exception as error:
            raise AssertionError(f"{i} of {name}: {type(error).__name__}: {error}") from error
        refused += set(said) != {"read"}
    return refused


SHARDS = ("shard-0-000000.safetensors", "index.sqlite", "run.json")


@pytest.mark.parametrize("name", SHARDS)
def test_shards_that_are_damaged(name: str, tmp_path: Path) -> None:
    assert of_shards(tmp_path, name, QUICK) > (0 if name != "index.sqlite" else -1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDS)
def test_much_damage_to_shards(name: str, tmp_path: Path) -> None:
    assert of_shards(tmp_path, name, 8 * MANY) > (0 if name != "index.sqlite" else -1)
