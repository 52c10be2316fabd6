"""Results of very many samples: immutable safetensors files, one writer each, and an index that can be made anew from them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from torchloupe.errors import BadInput, nearest
from torchloupe.store.files import aside, whole
from torchloupe.store.packing import Precision, packed, unpacked
from torchloupe.store.records import COMMAND, Artifact, key, load_record, plain, spoken
from torchloupe.store.results import RUN, difference, short

BETWEEN = "\x1f"
INDEX = "index.sqlite"
MOST, SECONDS = 256, 5.0
Entry = dict[str, Any]


@dataclass
class Shards:
    """A folder for 10^5 samples and more: shard-WRITER-NUMBER.safetensors, run.json, and index.sqlite.

    Arrays are named ID<1f>NAME. A shard's header holds the records and the reasons of samples that were left out, so that
    the shards alone say what is done; a later shard outdoes an earlier one. A shard is written every `most` samples or
    `seconds`, whichever is first, aside and renamed: what a killed process had not written yet is asked again. What all
    samples share stands once, in run.json. Every array has a CRC-32 in the header. precision: of maps, see `packing`.
    """

    root: Path
    writer: str = "0"
    most: int = MOST
    seconds: float = SECONDS
    precision: Precision = "float32"
    _about: Mapping[str, Any] = field(default_factory=dict)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _seen: sqlite3.Connection | None = None

    def begin(self, about: Mapping[str, Any]) -> None:
        """See `Results.begin`; a folder of shards holds one question."""
        # what was there before this was asked about is float32
        self._about = plain({**about, **({} if self.precision == "float32" else {"precision": self.precision})})
        path = self.root / RUN
        if path.exists():
            begun = load_record(path)
            differs = difference(begun.get("about", {}), self._about)
            if differs is not None and self.ids():
                name, was, now = differs
                raise BadInput(
                    f"{path}: holds results made with {name} {short(was)}, now it is {short(now)}; give another folder, or "
                    "ask the same"
                )
            if differs is None:
                return
        whole(
            path, json.dumps({"store": "shards", "about": self._about, **spoken()}, indent=1, ensure_ascii=False) + "\n"
        )

    def there(self, asked: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """See `Results.there`."""
        if self._seen is None:
            self._seen = self.index()  # closed by flush
        found: set[str] = set()
        ids = list(asked)
        with self._guarded():
            for begin in range(0, len(ids), 500):
                some = ids[begin : begin + 500]
                marks = ",".join("?" * len(some))
                query = f"SELECT id, asked FROM samples WHERE failed IS NULL AND id IN ({marks})"
                found |= {id for id, told in self._seen.execute(query, some) if told == _words(asked[id])}
        return found

    def write(self, id: str, result: Artifact, asked: Mapping[str, Any]) -> None:
        """See `Results.write`."""
        for name, array in packed(result.arrays, self.precision).items():
            self._arrays[f"{id}{BETWEEN}{name}"] = np.ascontiguousarray(array)
        own = {
            name: value
            for name, value in plain(result.record).items()
            if name not in self._about or self._about[name] != value
        }
        self._keep(id, {"record": own, "asked": _words(asked)})

    def fail(self, id: str, reason: str) -> None:
        """See `Results.fail`."""
        self._keep(id, {"failed": reason})

    def _keep(self, id: str, entry: Entry) -> None:
        if BETWEEN in id:
            raise BadInput(f"sample {id!r}: its name has the character that parts names in a shard")
        self._entries[id] = entry
        if len(self._entries) >= self.most or time.monotonic() - self._since > self.seconds:
            self.flush()

    def flush(self) -> None:
        """See `Results.flush`."""
        if self._entries:
            # text cannot be kept as numbers: it goes into the header
            words = {name: array.tolist() for name, array in self._arrays.items() if array.dtype.kind in "US"}
            numbers = {name: array for name, array in self._arrays.items() if name not in words}
            about = {
                "entries": json.dumps(self._entries, ensure_ascii=False, allow_nan=False),
                "words": json.dumps(words, ensure_ascii=False),
                "crc": json.dumps({name: zlib.crc32(_bytes(array)) for name, array in numbers.items()}),
            }
            number = sum(1 for _ in self.root.glob(f"shard-{self.writer}-*.safetensors"))
            with aside(self.root / f"shard-{self.writer}-{number:06}.safetensors") as (draft,):
                save_file(numbers or {"none": np.zeros(1, np.uint8)}, draft, metadata=about)
        self._arrays, self._entries, self._since = {}, {}, time.monotonic()
        if self._seen is not None:
            self._seen.close()
            self._seen = None

    def ids(self) -> list[str]:
        """See `Results.ids`."""
        with self.indexed() as index:
            return [id for (id,) in index.execute("SELECT id FROM samples WHERE failed IS NULL ORDER BY id")]

    def count(self) -> int:
        """How many samples have a result."""
        with self.indexed() as index:
            return int(index.execute("SELECT count(*) FROM samples WHERE failed IS NULL").fetchone()[0])

    def failed(self) -> dict[str, str]:
        """See `Results.failed`."""
        with self.indexed() as index:
            return dict(index.execute("SELECT id, failed FROM samples WHERE failed IS NOT NULL ORDER BY id"))

    def read(self, id: str) -> Artifact:
        """See `Results.read`."""
        shard, record = self._found(id)
        return Artifact(self._read(shard, id), {**self.shared(), **record})

    def table(self, ids: Sequence[str], name: str) -> np.ndarray:
        """(n, ...): one array of these samples, which has one shape in all of them.

        Errors: BadInput where it has not, or as `read`.
        """
        wanted, found = set(ids), dict[str, np.ndarray]()
        by_shard: dict[str, list[str]] = {}
        with self.indexed() as index:
            for id, shard in index.execute("SELECT id, shard FROM samples WHERE failed IS NULL"):
                if id in wanted:
                    by_shard.setdefault(shard, []).append(id)
        for shard, some in by_shard.items():
            try:
                with safe_open(self.root / shard, "np") as held:
                    found |= {id: held.get_tensor(f"{id}{BETWEEN}{name}") for id in some}
            except (SafetensorError, OSError) as error:
                raise BadInput(
                    f"{self.root / shard}: is damaged ({error}); delete it and run the same command again"
                ) from error
        odd = next((id for id in ids if found[id].shape != found[ids[0]].shape), None)
        if odd is not None:
            raise BadInput(
                f"{odd}: {name} of shape {found[odd].shape}, {ids[0]} gave {found[ids[0]].shape}; a table needs one shape:"
                " pool over what differs, or bring the samples to one size"
            )
        return np.stack([found[id] for id in ids])

    def record(self, id: str) -> dict[str, Any]:
        """See `Results.record`."""
        return {**self.shared(), **self._found(id)[1]}

    def _found(self, id: str) -> tuple[str, Entry]:
        with self.indexed() as index:
            found = index.execute("SELECT shard, record, failed FROM samples WHERE id = ?", (id,)).fetchone()
            record = dict(json.loads(found[1])) if found is not None else {}
        if found is None:
            raise BadInput(f"{self.root}: has no result {id!r}.{nearest(id, self.ids()[:10000])}")
        if found[2] is not None:
            raise BadInput(f"{self.root}: sample {id!r} was left out: {found[2]}")
        return str(found[0]), record

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See `Results.records`."""
        shared = self.shared()
        with self.indexed() as index:
            for id, record in index.execute("SELECT id, record FROM samples WHERE failed IS NULL ORDER BY id"):
                yield id, {**shared, **json.loads(record)}

    def shared(self) -> dict[str, Any]:
        """What all samples share."""
        path = self.root / RUN
        if not path.is_file():
            return {}
        told = load_record(path)
        return {**told.get("about", {}), **{name: told[name] for name in (COMMAND,) if name in told}}

    def verify(self) -> list[str]:
        """A line for every array or shard that is not what was written; none where all are."""
        wrong = []
        for path in self._shards():
            try:
                with safe_open(path, "np") as held:
                    crc = json.loads(held.metadata()["crc"])
                    for name, told in crc.items():
                        if zlib.crc32(_bytes(held.get_tensor(name))) != told:
                            id, _, array = name.partition(BETWEEN)
                            wrong.append(f"{path}: array {array!r} of sample {id!r} is damaged")
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                wrong.append(f"{path}: cannot be read ({error})")
        return wrong

    def _read(self, shard: str, id: str) -> dict[str, np.ndarray]:
        path = self.root / shard
        start = id + BETWEEN
        try:
            with safe_open(path, "np") as held:
                names = [name for name in held.keys() if name.startswith(start)]  # noqa: SIM118
                arrays = {name[len(start) :]: held.get_tensor(name) for name in names}
                words = json.loads(held.metadata()["words"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: is damaged ({error}); delete it and run the same command again") from error
        text = {name[len(start) :]: np.array(held) for name, held in words.items() if name.startswith(start)}
        return unpacked(arrays | text)

    def _shards(self) -> list[Path]:
        return sorted(self.root.glob("shard-*.safetensors"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    @contextmanager
    def indexed(self) -> Iterator[sqlite3.Connection]:
        """The index, to ask and to read what it says. Errors: BadInput where it is damaged."""
        with closing(self.index()) as index, self._guarded():
            yield index

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise BadInput(
                f"{self.root / INDEX}: cannot be read ({error}); delete it, it is made anew from the shards"
            ) from error

    def index(self) -> sqlite3.Connection:
        """The index, with the shards that it does not hold yet; in memory where the folder cannot be written."""
        with os.scandir(self.root) if self.root.is_dir() else nullcontext(()) as entries:
            found = {entry.name for entry in entries if entry.name.startswith("shard-")}
        for place in (self.root / INDEX, Path(":memory:")):
            try:
                index = sqlite3.connect(place, timeout=60)
                index.execute("CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY)")
                index.execute(
                    "CREATE TABLE IF NOT EXISTS samples "
                    "(id TEXT PRIMARY KEY, shard TEXT, asked TEXT, failed TEXT, record TEXT) WITHOUT ROWID"
                )
                known = {name for (name,) in index.execute("SELECT name FROM shards")}
                if known - found:  # some shards were taken away: begin anew
                    index.execute("DELETE FROM shards")
                    index.execute("DELETE FROM samples")
                    known = set()
                if found - known:
                    self._ingest(index, known)
                return index
            except sqlite3.DatabaseError as error:
                if place.name != INDEX:
                    raise BadInput(f"{self.root}: cannot be indexed ({error})") from error
                if "malformed" in str(error) or "not a database" in str(error):
                    (self.root / INDEX).unlink(missing_ok=True)
                    return self.index()
        raise AssertionError("an index in memory can always be made")

    def _ingest(self, index: sqlite3.Connection, known: set[str]) -> None:
        with index:
            for path in self._shards():
                if path.name in known:
                    continue
                try:
                    with safe_open(path, "np") as held:
                        entries: dict[str, Entry] = json.loads(held.metadata()["entries"])
                except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                    raise BadInput(f"{path}: is damaged ({error}); delete it and run the same command again") from error
                rows = [
                    (id, path.name, entry.get("asked"), entry.get("failed"), json.dumps(entry.get("record", {})))
                    for id, entry in entries.items()
                ]
                # a sample that was left out again keeps the result that it had
                index.executemany(
                    "INSERT INTO samples VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET shard = excluded.shard, "
                    "asked = excluded.asked, failed = excluded.failed, record = excluded.record "
                    "WHERE excluded.failed IS NULL OR samples.failed IS NOT NULL",
                    rows,
                )
                index.execute("INSERT INTO shards VALUES (?)", (path.name,))

    def rows(
        self, where: str = "", order: str = "id", start: int = 0, count: int = 100, values: Sequence[Any] = ()
    ) -> list[tuple[str, dict[str, Any]]]:
        """A page of the table, chosen and sorted by SQLite: its conditions see json_extract(record, '$.row.COLUMN')."""
        chosen = f"failed IS NULL{f' AND ({where})' if where else ''}"
        query = f"SELECT id, record FROM samples WHERE {chosen} ORDER BY {order} LIMIT ? OFFSET ?"
        with self.indexed() as index:
            return [(id, json.loads(record)) for id, record in index.execute(query, (*values, count, start))]


def _words(asked: Mapping[str, Any]) -> str:
    """What is the sample's own in the question, as text that can be compared."""
    return key(asked) if asked else ""


def _bytes(array: np.ndarray) -> Any:
    """The array's memory, as zlib reads it."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
