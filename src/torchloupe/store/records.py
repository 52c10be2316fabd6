"""Results on disk: NAME.npz holds plain arrays, NAME.json says how they were made. Whole or absent, never pickle."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchloupe.errors import BadInput, nearest
from torchloupe.store.files import aside, safe_name
from torchloupe.store.reading import members, reads

TIMES = ("created", "seconds")
COMMAND = "command"
"""The word under which a record holds the command line that made it; no part of its key."""
_SPOKEN = "LOUPE_COMMAND"


class Artifact(NamedTuple):
    """A result: plain arrays and the JSON record of how they were made."""

    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Identity of the result, see `key`."""
        return key(self.record)


def key(record: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON (sorted, no blanks) of a record or a part of one, without its times, command and own key."""
    kept = {name: value for name, value in record.items() if name not in (*TIMES, COMMAND, "key")}
    text = json.dumps(plain(kept), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


@contextmanager
def speaking(words: Sequence[str]) -> Iterator[None]:
    """Records written meanwhile, here or in a process begun here, tell these words of a command line."""
    before = os.environ.get(_SPOKEN)
    os.environ[_SPOKEN] = shlex.join(words).replace("\0", "\\0")  # what processes of workers are given
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SPOKEN]
        else:
            os.environ[_SPOKEN] = before


def spoken() -> dict[str, str]:
    """The command under way, as an entry of a record; nothing where there is none."""
    return {COMMAND: os.environ[_SPOKEN]} if _SPOKEN in os.environ else {}


def plain(value: Any) -> Any:
    """What JSON can hold: numpy and torch numbers and arrays, paths, tuples and dataclasses become plain; NaN and the
    infinities become null. Errors: BadInput for anything else."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise BadInput(f"a record cannot hold {type(value).__name__} {value!r}; expected text, numbers, lists or mappings")


def save(
    folder: str | os.PathLike[str], name: str, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> Path:
    """Writes NAME.npz and NAME.json whole or not at all; gives the path of the record.

    name is made safe for the file system. The record is written with its key.
    Errors: BadInput for a folder that cannot be written, an array of objects or a record that JSON cannot hold;
        LoupeError when the disk is full.
    """
    held = {entry: np.asarray(array) for entry, array in arrays.items()}
    for entry, array in held.items():
        if array.dtype.hasobject:
            raise BadInput(f"array {entry!r} holds Python objects; expected numbers or text")
    text = json.dumps({**spoken(), **plain(record), "key": key(record)}, indent=1, ensure_ascii=False, allow_nan=False)
    stem = Path(folder) / safe_name(name)
    goal = stem.with_name(stem.name + ".json")
    with aside(stem.with_name(stem.name + ".npz"), goal) as (data, words):
        write_arrays(data, held)
        words.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return goal


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Plain arrays as an npz file whose bytes follow from the arrays alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for entry, array in arrays.items():
            info = zipfile.ZipInfo(f"{entry}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            # Floats hardly shrink and large ones would take minutes.
            info.compress_type = zipfile.ZIP_STORED if array.dtype.kind in "fc" else zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def load(path: str | os.PathLike[str]) -> Artifact:
    """A result by its .npz, its .json or the stem of both.

    Errors: BadInput where one of the two is missing or damaged; UnsafeFile for arrays of objects.
    """
    data, words = pair(path)
    for part, other in ((data, words), (words, data)):
        if not part.is_file():
            if other.is_file():
                raise BadInput(f"{part}: missing beside {other.name}; a result is both. Make it again")
            raise BadInput(
                f"{os.fspath(path)}: no such result (NAME.npz and NAME.json).{nearest(data.stem, _stems(data.parent))}"
            )
    return Artifact(load_arrays(data), load_record(words))


def pair(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """(NAME.npz, NAME.json) of a result named by either of them or by NAME."""
    whole = Path(path)
    stem = whole.name[: -len(whole.suffix)] if whole.suffix in (".npz", ".json") else whole.name
    return whole.with_name(f"{stem}.npz"), whole.with_name(f"{stem}.json")


def _stems(folder: Path) -> list[str]:
    return [found.stem for found in folder.glob("*.npz")] if folder.is_dir() else []


@reads("a whole npz file", "make it again")
def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Errors: BadInput for a missing, truncated or foreign file; UnsafeFile for objects."""
    return members(path)


@reads("a whole JSON record", "make it again")
def load_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in a JSON file. Errors: BadInput for a missing or damaged file."""
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise BadInput(f"{os.fspath(path)}: expected a JSON object, found {type(record).__name__}")
    return record


__all__ = ["Artifact", "key", "load", "load_arrays", "load_record", "pair", "plain", "save", "write_arrays"]
