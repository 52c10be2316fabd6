"""A job over a data set: results stream to disk one sample at a time, and a killed run goes on where it stopped."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput, LoupeError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Stream:
    """The results of one job: `<kind>.json` says how they are made, `<kind>/<id>.npz` holds one sample's arrays.

    Every file is written aside and renamed, so that it is whole or absent. A sample that failed leaves
    `<kind>/<id>.failed` with the reason, and is tried again by the next run.
    """

    root: Path
    kind: str

    @property
    def folder(self) -> Path:
        """Where the samples' files lie."""
        return self.root / self.kind

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with what was begun; `versions` may differ. Where nothing was made, it begins anew.

        Errors: BadInput where results were made with other settings, naming the first that differs.
        """
        wanted = json.loads(json.dumps(settings))
        path = self.root / f"{self.kind}.json"
        if path.exists() and self.done():
            self.agrees({**dict.fromkeys(self.settings()), **wanted})
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(f"{self.folder}: cannot be made a folder for results: {error.strerror}") from None
            whole(path, json.dumps(wanted, indent=1).encode())
            for failed in self.folder.glob("*.failed"):
                failed.unlink()
        for left in self.folder.glob("*.part"):
            left.unlink()

    def agrees(self, settings: Mapping[str, Any]) -> None:
        """Errors: BadInput where what is here was made with another value of one of these settings, naming the first."""
        begun = self.settings()
        begun = _flat({key: value for key, value in begun.items() if key in settings})
        wanted = _flat(json.loads(json.dumps(settings)))
        for key in sorted(key for key in {*wanted, *begun} if not key.startswith("versions.")):
            if wanted.get(key) != begun.get(key):
                raise BadInput(
                    f"{self.root / self.kind}.json: holds results made with {key} {_short(begun.get(key))}, now it is "
                    f"{_short(wanted.get(key))}; give another folder to -o, or the same settings"
                )

    def settings(self) -> dict[str, Any]:
        """How the results are made. Errors: BadInput where there are none."""
        path = self.root / f"{self.kind}.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            raise BadInput(f"{self.root}: holds no {self.kind} results ({path.name} is absent)") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: is damaged: {error}") from None

    def done(self) -> list[str]:
        """Ids of the samples whose results are there, in numerical order where ids are numbers."""
        return sorted((path.stem for path in self.folder.glob("*.npz")), key=_order)

    def failed(self) -> dict[str, str]:
        """Id -> reason, of the samples that failed."""
        paths = sorted(self.folder.glob("*.failed"), key=lambda path: _order(path.stem))
        return {path.stem: path.read_text() for path in paths}

    def write(self, id: str, arrays: Arrays) -> None:
        """Keep a sample's arrays. Errors: BadInput where the disk is full; what was there before stays."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        whole(self.folder / f"{id}.npz", buffer.getvalue())
        (self.folder / f"{id}.failed").unlink(missing_ok=True)

    def fail(self, id: str, reason: str) -> None:
        """Keep the reason why a sample has no result."""
        whole(self.folder / f"{id}.failed", reason.encode())

    def read(self, id: str, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """A sample's arrays, all or those of these names that it has.

        Errors: BadInput where they were never made, or the file is damaged.
        """
        path = self.folder / f"{id}.npz"
        try:
            with np.load(path, allow_pickle=False) as held:
                return {name: held[name] for name in held.files if names is None or name in names}
        except FileNotFoundError:
            reason = self.failed().get(id)
            why = f": it failed ({reason})" if reason else ""
            known = self.done()
            there = f"{known[0]} ... {known[-1]} ({len(known)})" if known else "none"
            raise BadInput(f"{self.root}: has no {self.kind} result of sample {id}{why}; there are {there}") from None
        except (ValueError, OSError, EOFError, zipfile.BadZipFile):
            raise BadInput(f"{path}: is damaged; delete it and run the same command again") from None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, so that a difference has a name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _order(id: str) -> tuple[int, int, str]:
    return (0, int(id), "") if id.isdigit() else (1, 0, id)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(path: Path, content: bytes) -> None:
    """Write a file aside and rename it. Errors: BadInput where there is no space or no permission."""
    aside = path.with_name(f"{path.name}.part")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BadInput(
                f"{path}: no space left on the disk; what is stored so far is whole, free some space and run the same "
                "command again"
            ) from None
        raise BadInput(f"{path}: cannot be written: {error}") from None


@dataclass(frozen=True)
class Summary:
    """What a run did: samples made now, there before, and failed (id -> reason)."""

    made: int
    before: int
    failed: Mapping[str, str]


def run(
    stream: Stream,
    ids: Sequence[str],
    work: Callable[[Sequence[str]], Iterable[tuple[str, Arrays | LoupeError]]],
    *,
    batch: int = 1,
    strict: bool = False,
    title: str = "",
) -> Summary:
    """Go through the ids in batches and keep what comes; a batch that is wholly there is skipped.

    work: ids of a batch -> (id, arrays or what went wrong). Batches are cut from the full list, so that a resumed run
    computes each in the same company as an uninterrupted one, and its results are the same to the last bit.
    strict: stop at the first sample that fails.
    """
    if batch < 1:
        raise BadInput(f"--batch is 1 or more, found {batch}")
    there = set(stream.done())
    before = len(there & set(ids))
    made, failed = 0, {}
    batches = [ids[i : i + batch] for i in range(0, len(ids), batch)]
    left = [group for group in batches if not there.issuperset(group)]
    for group in progress(left, title or stream.kind, [len(group) for group in left]):
        for id, found in work(group):
            if isinstance(found, LoupeError):
                if strict:
                    raise found
                failed[id] = str(found)
                stream.fail(id, str(found))
            else:
                stream.write(id, found)
                made += id not in there
    return Summary(made, before, failed)


def progress(items: Sequence[Any], title: str, weights: Sequence[int] | None = None) -> Iterator[Any]:
    """The items, with a line of samples, rate and time left on a terminal; silent elsewhere."""
    weights = weights or [1] * len(items)
    total, done, started, shown = sum(weights), 0, time.monotonic(), 0.0
    visible = sys.stderr.isatty()
    for item, weight in zip(items, weights, strict=True):
        yield item
        done += weight
        now = time.monotonic()
        if visible and (now - shown > 0.2 or done == total):
            shown = now
            rate = done / max(now - started, 1e-9)
            left = round((total - done) / rate)
            line = f"{title} {done}/{total}  {rate:.2f} samples/s  {left // 60}:{left % 60:02d} left"
            print(f"\r{line:<78}", end="\n" if done == total else "", file=sys.stderr, flush=True)
