"""Small results of many samples, some hundred to a file, on their way to becoming one table."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.store.files import whole
from torchloupe.store.records import Artifact, key, load, plain, save

ABOUT = "about.json"
EARLIER = ("key", "embedded.npz")


@dataclass
class Gathered:
    """Results of one question in a folder, `every` samples or `seconds` to a file, so that no more is lost by a kill.

    What was begun with another question is removed: these are pieces, not results of their own. All samples' arrays of one
    name have one shape.
    """

    root: Path
    every: int = 100
    seconds: float = 5.0
    _rows: dict[str, tuple[str, Mapping[str, np.ndarray]]] = field(default_factory=dict)
    _new: list[str] = field(default_factory=list)
    _failed: dict[str, str] = field(default_factory=dict)
    _files: int = 0
    _since: float = field(default_factory=time.monotonic)

    def begin(self, about: Mapping[str, Any]) -> None:
        """See `Results.begin`. Errors: BadInput for a folder that holds something else."""
        said, wanted = self.root / ABOUT, plain(about)
        there = [path.name for path in self.root.iterdir() if not path.name.startswith(".")]
        if there and ABOUT not in there and not set(there) <= set(EARLIER):
            raise BadInput(
                f"{self.root}: not a folder of ours, and a long run would keep its pieces there; move it away"
            )
        if there and _read(said) != wanted:
            for name in there:
                (self.root / name).unlink()
        whole(said, json.dumps(wanted) + "\n")
        for path in sorted(self.root.glob("rows-*.json")):
            try:
                arrays, record = load(path)
                for row, (id, asked) in enumerate(zip(record["ids"], record["asked"], strict=True)):
                    self._rows[id] = asked, {name: array[row] for name, array in arrays.items()}
            except (BadInput, KeyError, ValueError, IndexError):
                continue  # damaged: its samples are asked again
            finally:
                self._files = int(path.stem.rpartition("-")[2]) + 1

    def has(self, id: str, asked: Mapping[str, Any]) -> bool:
        """See `Results.has`."""
        return id in self._rows and self._rows[id][0] == key(asked)

    def write(self, id: str, result: Artifact, asked: Mapping[str, Any]) -> None:
        """See `Results.write`. Errors: BadInput for arrays of another shape than those of the samples before."""
        arrays = {name: np.asarray(array) for name, array in result.arrays.items()}
        before = next(iter(self._rows.values()))[1] if self._rows else arrays
        for name, array in arrays.items():
            if array.shape != before[name].shape:
                raise BadInput(
                    f"{id}: {name} of shape {array.shape}, the samples before gave {before[name].shape}; a table needs one"
                    " shape: pool over what differs, or bring the samples to one size"
                )
        self._rows[id] = key(asked), arrays
        self._new.append(id)
        if len(self._new) >= self.every or time.monotonic() - self._since > self.seconds:
            self.flush()

    def fail(self, id: str, reason: str) -> None:
        """See `Results.fail`."""
        self._failed[id] = reason

    def flush(self) -> None:
        """See `Results.flush`."""
        if self._new:
            rows = [self._rows[id] for id in self._new]
            arrays = {name: np.stack([row[1][name] for row in rows]) for name in rows[0][1]}
            save(self.root, f"rows-{self._files:06d}", arrays, {"ids": self._new, "asked": [row[0] for row in rows]})
            self._files += 1
        self._new, self._since = [], time.monotonic()

    def ids(self) -> Sequence[str]:
        """See `Results.ids`."""
        return list(self._rows)

    def failed(self) -> Mapping[str, str]:
        """See `Results.failed`; of this run."""
        return self._failed

    def read(self, id: str) -> Artifact:
        """See `Results.read`."""
        if id not in self._rows:
            raise BadInput(f"{self.root}: holds nothing of {id}")
        return Artifact(self._rows[id][1], {})

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See `Results.records`; the rows have none."""
        return ((id, {}) for id in self._rows)

    def table(self, ids: Sequence[str], name: str) -> np.ndarray:
        """(n, ...): one array of these samples."""
        return np.stack([self._rows[id][1][name] for id in ids])

    def remove(self) -> None:
        """The table is on the disk: the pieces are not needed any more."""
        shutil.rmtree(self.root, ignore_errors=True)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
