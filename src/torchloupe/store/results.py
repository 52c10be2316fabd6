"""Results of many samples in one folder, behind one interface, whatever they lie in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torchloupe.errors import BadInput, LoupeError, nearest
from torchloupe.store.files import safe_name, whole
from torchloupe.store.records import COMMAND, Artifact, load, load_record, plain, save

LEFT_OUT = "left-out.json"
RUN = "run.json"


class Results(Protocol):
    """An opened folder. `write` may hold results back until `flush`; what was flushed survives any kill."""

    @property
    def root(self) -> Path:
        """The folder."""

    def begin(self, about: Mapping[str, Any]) -> None:
        """Begin, or go on with what was begun: what all samples of the run share.

        Errors: BadInput where the folder holds another question and cannot hold two, naming the first thing that differs.
        """

    def there(self, asked: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """The samples of which the answer to this very question is there; asked: id -> what is the sample's own in it."""

    def write(self, id: str, result: Artifact, asked: Mapping[str, Any]) -> None:
        """Keep what a sample gave."""

    def fail(self, id: str, reason: str) -> None:
        """Keep the reason why a sample has no result."""

    def flush(self) -> None:
        """Everything written so far is on the disk afterwards."""

    def ids(self) -> Sequence[str]:
        """The samples that have a result."""

    def failed(self) -> Mapping[str, str]:
        """Id -> reason, of the samples that were left out."""

    def read(self, id: str) -> Artifact:
        """A sample's arrays and record. Errors: BadInput where there is none, or it is damaged."""

    def record(self, id: str) -> Mapping[str, Any]:
        """A sample's record alone. Errors: as `read`."""

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every sample's record, without its arrays."""


@dataclass
class Files:
    """A folder for people: NAME.npz and NAME.json a sample, in which several questions may have been asked.

    A record holds the whole question under "asked", so that the same question reads the disk and another one does not.
    Samples that were left out stand with their reasons in left-out.json. also: what every record written now says besides,
    such as how it is drawn, which is no part of the question.
    """

    root: Path
    also: Mapping[str, Any] = field(default_factory=dict)
    _about: Mapping[str, Any] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)

    def begin(self, about: Mapping[str, Any]) -> None:
        """See `Results.begin`; a folder of files takes any question."""
        self._about = plain(about)
        self._failed = dict(self.failed())

    def asked(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The whole question about one sample."""
        return {**self._about, **plain(asked)}

    def there(self, asked: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """See `Results.there`."""
        return {id for id, own in asked.items() if self._has(id, own)}

    def _has(self, id: str, asked: Mapping[str, Any]) -> bool:
        data, words = self._pair(id)
        if not (data.is_file() and words.is_file()):
            return False
        try:
            return load_record(words).get("asked") == self.asked(asked)
        except LoupeError:
            return False

    def write(self, id: str, result: Artifact, asked: Mapping[str, Any]) -> None:
        """See `Results.write`."""
        save(self.root, id, result.arrays, {**result.record, **self.also, "asked": self.asked(asked)})
        self._failed.pop(id, None)

    def note(self, id: str, result: Artifact) -> Artifact:
        """The same result with a record that says what `also` says now; written only where it did not."""
        if plain(self.also) == {name: result.record.get(name) for name in self.also}:
            return result
        noted = Artifact(result.arrays, {**result.record, **plain(self.also)})
        save(self.root, id, *noted)
        return noted

    def fail(self, id: str, reason: str) -> None:
        """See `Results.fail`."""
        self._failed[id] = reason

    def flush(self) -> None:
        """See `Results.flush`; every sample is on the disk as soon as it is written, the ledger now. A folder without any
        result gets none."""
        if self._failed and self.ids():
            whole(self.root / LEFT_OUT, json.dumps(self._failed, indent=1, ensure_ascii=False) + "\n")
        elif not self._failed:
            (self.root / LEFT_OUT).unlink(missing_ok=True)

    def ids(self) -> list[str]:
        """See `Results.ids`; the stems of the files, in order."""
        return sorted(path.stem for path in self.root.glob("[!.]*.npz") if path.with_suffix(".json").is_file())

    def failed(self) -> dict[str, str]:
        """See `Results.failed`."""
        path = self.root / LEFT_OUT
        return {str(id): str(why) for id, why in load_record(path).items()} if path.is_file() else {}

    def read(self, id: str) -> Artifact:
        """See `Results.read`."""
        data, _ = self._pair(id)
        if not data.is_file() and (reason := self.failed().get(id)):
            raise BadInput(f"{self.root}: sample {id!r} was left out: {reason}")
        if not data.is_file():
            raise BadInput(f"{self.root}: has no result {id!r}.{nearest(id, self.ids())}")
        return load(data)

    def record(self, id: str) -> dict[str, Any]:
        """A sample's record alone."""
        return load_record(self._pair(id)[1])

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See `Results.records`."""
        for id in self.ids():
            yield id, self.record(id)

    def _pair(self, id: str) -> tuple[Path, Path]:
        name = safe_name(id)
        return self.root / f"{name}.npz", self.root / f"{name}.json"


def difference(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first thing that differs, by its dotted name, with both values; versions and the command may differ."""
    one, other = flat(begun), flat(wanted)
    for name in sorted(name for name in {*one, *other} if name != COMMAND and not name.startswith("versions.")):
        if one.get(name) != other.get(name):
            return name, one.get(name), other.get(name)
    return None


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, so that a difference has a name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def short(value: Any) -> str:
    """A value for an error line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
