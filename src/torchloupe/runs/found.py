"""A folder of results that a command wrote, opened: by id, in order, as a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from torchloupe import kinds
from torchloupe.errors import BadInput, LoupeError
from torchloupe.named import own
from torchloupe.runs.asked import noted
from torchloupe.store import load_record
from torchloupe.store import results as stores
from torchloupe.store.packing import Precision
from torchloupe.store.reading import reading
from torchloupe.store.shards import Shards
from torchloupe.store.stream import Stream

MANY = 100_000


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
    named = streams(folder)
    if len(named) > 1:
        several = ", ".join(str(folder / name) for name in named)
        raise BadInput(f"{folder}: holds several runs; name one: {several}")
    if named:
        return Stream(folder, named[0])
    if holds_shards(folder):
        return Shards(folder)
    files = stores.Files(folder)
    if not files.ids() and not files.failed():
        raise BadInput(f"{folder}: no results in this folder")
    return files


def parts(path: Path) -> list[Path]:
    """The folders of several runs in one folder, such as those of a pose diagnosis; else the path itself."""
    named = streams(path) if path.is_dir() else []
    return [path / name for name in named] if len(named) > 1 else [path]


def streams(folder: Path) -> list[str]:
    """Names of the runs of which a folder holds NAME.json and a folder NAME."""
    # a folder beside NAME.npz holds pictures of that result
    named = (one for one in folder.glob("*.json") if not one.with_suffix(".npz").is_file())
    return sorted(one.stem for one in named if (folder / one.stem).is_dir())


def holds_shards(folder: Path) -> bool:
    """Whether a run lies there in shards."""
    path = folder / stores.RUN
    return path.is_file() and load_record(path).get("store") == "shards"


def store_of(
    folder: Path, named: str, count: int, also: Mapping[str, Any], precision: Precision = "float32"
) -> stores.Results:
    """The store for a run of so many samples: files, shards, or auto: what the folder holds, else by their number.

    also: see `Files`; precision: see `Shards`. Errors: BadInput where the folder holds results in another store, or files
    are asked to round.
    """
    shards = holds_shards(folder)
    if named == "files" and shards:
        raise BadInput(f"{folder}: holds a run in shards; leave out --store, or give another folder")
    if named == "shards" and not shards and folder.is_dir() and stores.Files(folder).ids():
        raise BadInput(f"{folder}: holds results in files; leave out --store, or give another folder")
    if named == "shards" or (named == "auto" and (shards or (count >= MANY and not stores.Files(folder).ids()))):
        return Shards(folder, precision=precision)
    if precision != "float32":
        raise BadInput(f"precision {precision}: files keep all digits; shards round (--store shards)")
    return stores.Files(folder, also)


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
        return [{"id": id, **self._row(id, record)} for id, record in self.store.records()]

    def _row(self, id: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The line of a sample; a result of no known kind, or one that is damaged, stands with its id alone."""
        try:
            with reading(id, "a result"):
                return dict(record["row"] if "row" in record else self[id].row())
        except LoupeError:
            return {}

    def told(self) -> list[str]:
        """What is here, in lines: samples by kind, what was left out, bytes, how it was made."""
        kinds_here: dict[str, int] = {}
        first: Mapping[str, Any] = {}
        if isinstance(self.store, Shards):  # a million records are not read for a line
            first = next((record for _, record in self.store.records()), {})
            kinds_here = {str(first["kind"]): self.store.count()} if "kind" in first else {}
        else:
            for _, record in self.store.records():
                first = first or record
                name = str(record.get("kind", "result"))
                kinds_here[name] = kinds_here.get(name, 0) + 1
        what = ", ".join(f"{count} {name}" for name, count in kinds_here.items()) or "nothing"
        size = sum(path.stat().st_size for path in self.store.root.rglob("*") if path.is_file())
        lines = [f"{self.store.root}: {what}, {len(self.failed)} left out, {size / 1e6:.1f} MB"]
        asked = first["asked"] if isinstance(first.get("asked"), Mapping) else first
        words = ("model", "layers", "methods", "target", "version")
        told = [f"{name} {_words(asked[name])}" for name in words if asked.get(name)]
        lines += [f"  {'; '.join(told)}"] if told else []
        with suppress(BadInput):
            went = noted(self.store)
            if went.get("seconds"):
                rate = went["made"] / went["seconds"]
                lines.append(f"  the last run made {went['made']} in {went['seconds']:.1f} s, {rate:.3g} a second")
        return lines

    @property
    def root(self) -> Path:
        """The folder that was opened."""
        return self.store.folder if isinstance(self.store, Stream) else self.store.root

    def _repr_html_(self) -> str:
        """The page of the run in a frame, for notebooks."""
        told: str = own("torchloupe.view.notebook:frame")(self)
        return told

    def widget(self, most: int = 60) -> Any:
        """The page of the run as a widget of a notebook, with so many samples inside; its `selection` is read and set.

        Errors: MissingPackage without anywidget.
        """
        return own("torchloupe.view.notebook:widget")(self, most)

    def __repr__(self) -> str:
        return f"{self.store.root}: {len(self)} results, {len(self.failed)} left out"


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple, Mapping)) else str(value)


def chosen(results: stores.Results, ids: Sequence[str], draw: str) -> list[str]:
    """Of these samples those that are to be drawn: all, none, sample:N, worst:N, best:N, worst:N:COLUMN; or auto.

    Errors: BadInput for another word, or a column that the run's table does not have, or that holds no numbers.
    """
    how, _, rest = draw.partition(":")
    if draw == "auto":
        how, rest = ("all", "") if len(ids) <= 1000 else ("sample", "50")
    if draw in ("auto", "all", "none") and not rest:
        return list(ids) if how == "all" else []
    number, mark, column = rest.partition(":")
    known = how in ("sample", "worst", "best") and number.isdecimal() and int(number) > 0
    if not known or (mark and (how == "sample" or not column)):
        raise BadInput(
            f"--draw {draw!r}: expected all, none, sample:N, worst:N, best:N, worst:N:COLUMN or best:N:COLUMN"
        )
    count = int(number)
    if how == "sample":
        step = max(1, -(-len(ids) // count))
        return list(ids)[::step][:count]
    wanted = set(ids)
    values = {id: record.get("row", {}).get(column or "score") for id, record in results.records() if id in wanted}
    numbers = {id: value for id, value in values.items() if isinstance(value, (int, float)) and value == value}
    if values and not numbers:
        columns = sorted({name for _, record in results.records() for name in record.get("row", {})})
        raise BadInput(f"--draw {draw!r}: no numbers in a column {column or 'score'!r}; columns: {', '.join(columns)}")
    return sorted(numbers, key=lambda id: numbers[id], reverse=how == "best")[:count]
