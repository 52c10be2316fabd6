"""The results of one job over a data set, one file a sample, all of them made in the same way."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput
from torchloupe.store.files import sweep, unwritable, whole
from torchloupe.store.reading import members, reading
from torchloupe.store.records import Artifact, load_record, spoken
from torchloupe.store.results import difference, short


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

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with what was begun; `versions` may differ. Where nothing was made, it begins anew.

        Errors: BadInput where results were made with other settings, naming the first that differs.
        """
        wanted = json.loads(json.dumps(settings))
        path = self.root / f"{self.kind}.json"
        if path.exists() and (self.ids() or load_record(path) == wanted):
            self.agrees({**dict.fromkeys(self.settings()), **wanted})
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise unwritable(error, self.folder) from None
            whole(path, json.dumps({**wanted, **spoken()}, indent=1))
            for failed in self.folder.glob("*.failed"):
                failed.unlink()
        for left in self.folder.glob("*.part"):  # the drafts of older versions
            left.unlink()
        sweep(self.folder)

    def agrees(self, settings: Mapping[str, Any]) -> None:
        """Errors: BadInput where what is here was made with another value of one of these settings, naming the first."""
        begun = {key: value for key, value in self.settings().items() if key in settings}
        differs = difference(begun, json.loads(json.dumps(settings)))
        if differs is not None:
            key, was, now = differs
            raise BadInput(
                f"{self.root / self.kind}.json: holds results made with {key} {short(was)}, now it is {short(now)}; give "
                "another folder to -o, or the same settings"
            )

    def settings(self) -> dict[str, Any]:
        """How the results are made. Errors: BadInput where there are none."""
        path = self.root / f"{self.kind}.json"
        if not path.exists():
            raise BadInput(f"{self.root}: holds no {self.kind} results ({path.name} is absent)")
        return load_record(path)

    def there(self, asked: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """See `Results.there`: all samples are asked the same, as `begin` has checked."""
        return {id for id in asked if (self.folder / f"{id}.npz").is_file()}

    def flush(self) -> None:
        """See `Results.flush`; every sample is on the disk as soon as it is written."""

    def ids(self) -> list[str]:
        """Ids of the samples whose results are there, in numerical order where ids are numbers."""
        return sorted((path.stem for path in self.folder.glob("[!.]*.npz")), key=_order)

    def failed(self) -> dict[str, str]:
        """Id -> reason, of the samples that failed."""
        paths = sorted(self.folder.glob("*.failed"), key=lambda path: _order(path.stem))
        return {path.stem: path.read_text() for path in paths}

    def write(self, id: str, result: Artifact, asked: Mapping[str, Any]) -> None:
        """Keep a sample's arrays. Errors: LoupeError where the disk is full; what was there before stays."""
        buffer = io.BytesIO()
        np.savez(buffer, **result.arrays)  # type: ignore[arg-type]
        whole(self.folder / f"{id}.npz", buffer.getvalue())
        (self.folder / f"{id}.failed").unlink(missing_ok=True)

    def fail(self, id: str, reason: str) -> None:
        """Keep the reason why a sample has no result."""
        whole(self.folder / f"{id}.failed", reason)

    def read(self, id: str) -> Artifact:
        """See `Results.read`; the record is that of the whole job."""
        return Artifact(self.arrays(id), {"kind": self.kind, **self.settings(), "id": id})

    def record(self, id: str) -> Mapping[str, Any]:
        """See `Results.record`."""
        return {**self.settings(), "id": id}

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See `Results.records`."""
        settings = self.settings()
        for id in self.ids():
            yield id, {"kind": self.kind, **settings, "id": id}

    def arrays(self, id: str, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """A sample's arrays, all or those of these names that it has.

        Errors: BadInput where they were never made, or the file is damaged.
        """
        path = self.folder / f"{id}.npz"
        if not path.exists():
            reason = self.failed().get(id)
            why = f": it failed ({reason})" if reason else ""
            known = self.ids()
            there = f"{known[0]} ... {known[-1]} ({len(known)})" if known else "none"
            raise BadInput(f"{self.root}: has no {self.kind} result of sample {id}{why}; there are {there}")
        with reading(path, "a whole sample", "delete it and run the same command again"):
            return members(path, names)


def _order(id: str) -> tuple[int, int, str]:
    return (0, int(id), "") if id.isdigit() else (1, 0, id)
