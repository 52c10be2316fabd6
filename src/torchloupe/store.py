"""Results on disk: NAME.npz holds plain arrays, NAME.json says how they were made. Whole or absent, never pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from torchloupe import __version__
from torchloupe.errors import BadInput, LoupeError, UnsafeFile, nearest

if TYPE_CHECKING:
    from torchloupe.probe import Batch
    from torchloupe.results import Maps

TIMES = ("created", "seconds")
LONGEST = 120


class Artifact(NamedTuple):
    """A result: plain arrays and the JSON record of how they were made."""

    arrays: Mapping[str, np.ndarray]
    record: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Identity of the result, see `key`."""
        return key(self.record)


def key(record: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON (sorted, no blanks) of a record or a part of one, without its times and own key."""
    kept = {name: value for name, value in record.items() if name not in (*TIMES, "key")}
    text = json.dumps(plain(kept), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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


def safe_name(name: str) -> str:
    """A file name that every file system takes; a name that had to be changed carries eight digits of its hash, so that
    two names never meet in one file."""
    short = re.sub(r"[^\w.+=,@-]+", "_", name).strip("._")[:LONGEST]
    while len(short.encode()) > LONGEST:
        short = short[:-1]
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", short, re.IGNORECASE)
    if short and short == name and not reserved:
        return name
    return f"{short or 'result'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextmanager
def aside(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Paths in the same folder to write to; renamed to `paths`, in that order, when all went well, else removed.

    Errors: BadInput for a folder that cannot be made or written; LoupeError when the disk is full.
    """
    folder = paths[0].parent
    drafts = tuple(path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}") for path in paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield drafts
        for draft, path in zip(drafts, paths, strict=True):
            os.replace(draft, path)
    except OSError as error:
        raise _unwritable(error, folder) from error
    finally:
        for draft in drafts:
            with _quiet():
                draft.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _unwritable(error: OSError, folder: Path) -> LoupeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LoupeError(f"{folder}: the disk is full; nothing was written. Free some space or give another folder")
    return BadInput(f"{folder}: cannot write here ({error.strerror or error}); give another folder")


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
    text = json.dumps({**plain(record), "key": key(record)}, indent=1, ensure_ascii=False, allow_nan=False)
    stem = Path(folder) / safe_name(name)
    goal = stem.with_name(stem.name + ".json")
    with aside(stem.with_name(stem.name + ".npz"), goal) as (data, words):
        _write_arrays(data, held)
        words.write_text(text + "\n", encoding="utf-8")
    return goal


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
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


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file. Errors: BadInput for a missing, truncated or foreign file; UnsafeFile for objects."""
    where = os.fspath(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                with archive.open(entry) as file:
                    arrays[entry.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UnsafeFile(
                f"{where}: array {entry.removesuffix('.npy')!r} holds Python objects, which may run code while being "
                "read; save plain numbers instead"
            ) from error
        raise BadInput(f"{where}: damaged array {entry!r} ({error}); make it again") from error
    except FileNotFoundError as error:
        raise BadInput(f"{where}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise BadInput(f"{where}: not a whole npz file ({error}); make it again") from error
    return arrays


def load_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record in a JSON file. Errors: BadInput for a missing or damaged file."""
    where = os.fspath(path)
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{where}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise BadInput(f"{where}: not a whole JSON record ({error}); make it again") from error
    if not isinstance(record, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(record).__name__}")
    return record


def maps_arrays(
    found: Mapping[str, Maps], batch: Batch, sample: int, classes: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What one sample's heatmaps are on disk: the arrays, and the parts of the record that follow from them.

    found: method -> Maps of the whole batch, all of one target; sample: its number in the batch; classes: their names.
    Arrays: `picture` (t, h, w, 3) uint8, `map/METHOD/LAYER` (k, t, h, w) raw, `score` (k,); float64 stays.
    Where the batch holds the target's choice of places: `boxes` (k, 4) and `detections` (m, 6), or `region` (k, h, w).
    Record: kind, version, torch, id, layers (with sizes), methods (signed, notes), questions, scores, classes (number ->
    name, of the detections), empty (method, layer, question number), picture (where it is from: "seen", "input" stretched to 0..255, or "none").
    Errors: BadInput for no method at all, or maps that are not finite.
    """
    import torch

    if not found:
        raise BadInput("no maps to save")
    picture, origin = _picture(batch, sample)
    scores = next(iter(found.values())).scores
    arrays = {"picture": picture, "score": _numbers(scores.value[:, sample])}
    layers: dict[str, dict[str, Any]] = {}
    methods: dict[str, dict[str, Any]] = {}
    empty = []
    for method, maps in found.items():
        notes = {name: _numbers(value[:, sample]) for name, value in maps.notes.items()}
        methods[method] = {"signed": maps.signed, "notes": notes}
        for layer, values in maps.maps.items():
            raw = _numbers(values[:, sample])
            if not np.isfinite(raw).all():
                raise BadInput(
                    f"{batch.ids[sample]}: the {method} map at layer {layer!r} is not finite (NaN or infinite)"
                )
            arrays[f"map/{method}/{layer}"] = raw
            layers[layer] = {"size": raw.shape[1:]}
            empty += [[method, layer, k] for k in range(len(raw)) if not raw[k].any()]
    record = {
        "kind": "maps",
        "version": __version__,
        "torch": torch.__version__,
        "id": batch.ids[sample],
        "layers": layers,
        "methods": methods,
        "questions": [names[sample] for names in scores.labels],
        "scores": arrays["score"],
        "classes": _places(arrays, batch, sample, classes),
        "empty": empty,
        "picture": origin,
    }
    return arrays, plain(record)


def _places(arrays: dict[str, np.ndarray], batch: Batch, sample: int, classes: Sequence[str]) -> dict[str, str]:
    """Adds the boxes or regions of the questions to the arrays, and gives the names of the classes in them."""
    asked = batch.asked
    if "region" in asked:
        arrays["region"] = asked["region"][sample].cpu().numpy().astype(np.uint8)
    if "boxes" not in asked:
        return {}
    arrays["boxes"] = asked["boxes"][sample].cpu().numpy()
    detections = asked["detections"][sample].cpu().numpy()
    arrays["detections"] = detections[detections[:, 5] >= 0]
    numbers = sorted(set(arrays["detections"][:, 5].astype(int).tolist()))
    return {str(i): classes[i] if i < len(classes) else f"class {i}" for i in numbers}


def maps_record(
    parts: Mapping[str, Any],
    *,
    model: str,
    target: str,
    weights: str | None = None,
    weights_sha256: str | None = None,
    layouts: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    source: str | os.PathLike[str] | None = None,
    source_sha256: str | None = None,
    seed: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The whole record of one sample's heatmaps: `parts` of `maps_arrays` and what only the caller knows.

    layouts: layer -> Layout (pattern, skip, join, bins, sizes). options: method -> its options. source: the
    picture file.
    """
    layers = {layer: {**about, **plain((layouts or {}).get(layer, {}))} for layer, about in parts["layers"].items()}
    methods = {
        method: {**about, "options": plain((options or {}).get(method, {}))}
        for method, about in parts["methods"].items()
    }
    made = {
        "model": model,
        "weights": weights,
        "weights_sha256": weights_sha256,
        "target": target,
        "source": source,
        "source_sha256": source_sha256,
        "seed": seed,
        **more,
    }
    return {**parts, **plain(made), "layers": layers, "methods": methods}


def _numbers(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _picture(batch: Batch, sample: int) -> tuple[np.ndarray, str]:
    """(t, h, w, 3) uint8 and where it is from."""
    if batch.pictures is not None:
        return batch.pictures[sample].cpu().numpy(), "seen"
    x = _numbers(batch.layout.canonical([batch.x], batch.n))[sample]
    channels, *size = x.shape
    if channels not in (1, 3) or not np.isfinite(x).all():
        return np.full((*size, 3), 255, np.uint8), "none"
    low, high = x.min(), x.max()
    unit = (x - low) / (high - low if high > low else 1)
    return (unit * 255).round().astype(np.uint8).transpose(1, 2, 3, 0).repeat(3 // channels, -1), "input"


def names_of(arrays: Sequence[str]) -> list[tuple[str, str]]:
    """(method, layer) of every map among the names of a result's arrays, in their order."""
    return [(name.split("/", 2)[1], name.split("/", 2)[2]) for name in arrays if name.startswith("map/")]


__all__ = [
    *("Artifact", "aside", "key", "load", "load_arrays", "load_record", "maps_arrays", "maps_record", "names_of"),
    *("pair", "plain", "safe_name", "save"),
]
