"""A folder of results that a command wrote, opened: by id, in order, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torchloupe import kinds
from torchloupe.errors import BadInput
from torchloupe.store import results as stores
from torchloupe.store.stream import Stream


def results(path: str | os.PathLike[str]) -> Found:
    """The results in a folder that any command of loupe wrote.

    found["cat"] is the result of one sample as its kind (a dataclass: its arrays and record); len, in and iteration go over
    the ids; found.table is one row of numbers and words a sample, found.failed the reasons of samples that were left out.
    Errors: BadInput for a folder that is none, holds nothing, or holds several runs (name one of them).
    """
    return Found(opened(Path(path)))


def opened(folder: Path) -> stores.Results:
    """The store in a folder. Errors: as `results`."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder of results")
    if folder.with_suffix(".json").is_file() and any(folder.glob("[!.]*.npz")):
        return Stream(folder.parent, folder.name)
    streams = sorted(one.stem for one in folder.glob("*.json") if (folder / one.stem).is_dir())
    if len(streams) > 1:
        several = ", ".join(str(folder / name) for name in streams)
        raise BadInput(f"{folder}: holds several runs; name one: {several}")
    if streams:
        return Stream(folder, streams[0])
    files = stores.Files(folder)
    if not files.ids() and not files.failed():
        raise BadInput(f"{folder}: no results in this folder")
    return files


class Found(Mapping[str, Any]):
    """Results by id; see `results`."""

    def __init__(self, store: stores.Results) -> None:
        self.store = store

    @cached_property
    def _ids(self) -> dict[str, None]:
        return dict.fromkeys(self.store.ids())

    def __getitem__(self, id: str) -> Any:
        if id not in self._ids:
            self.store.read(id)  # says what is wrong
        return kinds.read(*self.store.read(id), id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    @property
    def failed(self) -> Mapping[str, str]:
        """Id -> reason, of the samples that were left out."""
        return self.store.failed()

    @cached_property
    def table(self) -> list[dict[str, Any]]:
        """One row a sample: its id, and the columns of its kind."""
        return [
            {"id": id, **(record["row"] if "row" in record else self[id].row())} for id, record in self.store.records()
        ]

    def __repr__(self) -> str:
        return f"{self.store.root}: {len(self)} results, {len(self.failed)} left out"
