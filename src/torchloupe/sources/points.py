"""Reading points: npz, npy, parquet; memory-mapped where the file allows it, never pickled."""

from __future__ import annotations

import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.points import LABELS, MISSING, Points, as_column
from torchloupe.sources.tables import (
    FEATS,
    columns_of_parquet,
    from_csv,
    from_hdf5,
    from_parquet,
    named,
    parted,
    sparse_of_npz,
)
from torchloupe.store.reading import header, members, reading, reads

HDF5 = (".h5", ".hdf5", ".h5ad")
SUFFIXES = (".npz", ".npy", ".parquet", ".csv", ".tsv", *HDF5)


@reads(f"points ({', '.join(SUFFIXES)})")
def read_points(path: str | Path, *, labels: str | Path | None = None, vector: str | None = None) -> Points:
    """Points from a file.

    path: .npz with `feats` (or `features`, `embeddings`, `X`, or the array named by vector) and any (N,) columns;
    .npy with the features alone; a sparse .npz of scipy's; .parquet, .csv or .tsv with one column of vectors or one column
    a dimension (named by vector: names and patterns, separated by commas); .h5, .hdf5 or .h5ad with `X` and `obs`.
    Uncompressed npz members and npy files are memory-mapped, large parquet and HDF5 files read as they are asked for, so
    they may be larger than memory.
    labels: .npy or .npz with (N,) values in the same order, or .csv, .tsv or .parquet: joined by a column `id` (or `ids`)
    where it has one, else in the same order. Ids without a row have a gap.
    Raises BadInput (what was found, what was expected), UnsafeFile for pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected one of {', '.join(SUFFIXES)}")
    if path.suffix == ".npz":
        feats, columns = _from_npz(path, vector)
    elif path.suffix == ".npy":
        feats, columns = _npy(path), {}
    elif path.suffix == ".parquet":
        feats, columns = from_parquet(path, vector)
    elif path.suffix in (".csv", ".tsv"):
        feats, columns = parted(from_csv(path), vector, str(path))
    elif path.suffix in HDF5:
        feats, columns = from_hdf5(path, vector)
    else:
        raise BadInput(f"{path}: unknown kind of file {path.suffix or 'without a suffix'!r}; expected {SUFFIXES}")
    if feats.ndim < 2 or feats.dtype.kind not in "fiub":
        raise BadInput(
            f"{path}: feats has shape {feats.shape} of {feats.dtype}, expected numbers (samples, dimensions)"
        )
    ids = columns.pop("ids", None)
    ids = np.arange(len(feats)).astype(str) if ids is None else _text(ids)
    points = _checked(path, feats, ids, columns)
    return points if labels is None else with_labels(points, Path(labels))


def _checked(path: Path, feats: np.ndarray, ids: np.ndarray, columns: Mapping[str, np.ndarray]) -> Points:
    try:
        return Points(feats, ids, columns, read_record(path))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def read_record(path: str | Path) -> dict[str, Any]:
    """The JSON record beside a points file, or {} where there is none."""
    beside = Path(path).with_suffix(".json")
    if not beside.is_file():
        return {}
    with reading(beside, "a JSON record", "move it away or write it again"):
        record = json.loads(beside.read_text(encoding="utf-8"))
    return record if isinstance(record, dict) else {}


def _from_npz(path: Path, vector: str | None) -> tuple[Any, dict[str, np.ndarray]]:
    arrays = _members(path)
    if {"indices", "indptr", "format", "shape", "data"} <= set(arrays) and vector is None:
        return sparse_of_npz(arrays, path), {}
    wanted = (vector,) if vector else FEATS
    name = next((name for name in wanted if name in arrays), None)
    if name is None:
        raise BadInput(f"{path}: no array {' or '.join(wanted)}; it holds {', '.join(arrays) or 'nothing'}")
    feats = arrays.pop(name)
    columns = {key: np.asarray(values) for key, values in arrays.items() if values.ndim == 1}
    return feats, columns


def _members(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz by name: memory-mapped where they are stored uncompressed, else read."""
    arrays: dict[str, np.ndarray] = {}
    with reading(path, "an npz file", "write it with numpy.savez, or name a .npy file .npy"):
        with zipfile.ZipFile(path) as archive:
            stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
            packed = {info.filename.removesuffix(".npy") for info in archive.infolist() if info not in stored}
            for info in stored:
                arrays[info.filename.removesuffix(".npy")] = _mapped(path, archive, info)
        arrays |= members(path, packed)
    return arrays


def _mapped(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An uncompressed array of an npz, memory-mapped."""
    with archive.open(info) as file:
        shape, order, dtype = header(file, f"{path}: array {info.filename.removesuffix('.npy')!r}")
        start = file.tell()
    if 0 in shape or not dtype.itemsize:
        return np.zeros(shape, dtype)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26xHH", file.read(30))
    offset = info.header_offset + 30 + name_length + extra_length + start
    return np.memmap(path, dtype, "r", offset, shape, order)


@reads("a numpy array", "write it with numpy.save")
def _npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        header(file, f"{path}: its array")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def with_labels(points: Points, path: Path) -> Points:
    """Points with the label columns of another file: joined by id, or in the same order where it has no ids."""
    columns = _label_columns(path)
    ids = columns.pop("ids", None)
    if ids is None:
        return _checked(path, points.feats, points.ids, {**points.columns, **columns})
    names = _text(ids).tolist()
    place = {name: row for row, name in enumerate(names)}
    again = next((name for row, name in enumerate(names) if place[name] != row), None)
    if again is not None:
        first = names.index(again)
        apart = [name for name, values in columns.items() if values[first] != values[place[again]]]
        if apart:
            raise BadInput(f"{path}: id {again!r} stands twice, with different {apart[0]}; every id needs one row")
    missing = [name for name in points.ids.tolist() if name not in place]
    if len(missing) == len(points):
        raise BadInput(
            f"{path}: none of the {len(points)} ids has a row, such as {missing[0]}; is its column called id?"
        )
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        warnings.warn(
            f"{path}: {len(missing)} of {len(points)} ids have no row, hence no label: {shown}", LoupeWarning, 2
        )
    rows = np.array([place.get(name, -1) for name in points.ids.tolist()])
    joined = {**points.columns, **{name: _at(as_column(values, name), rows) for name, values in columns.items()}}
    return Points(points.feats, points.ids, joined, points.record)


def _at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of these rows; a gap for row -1."""
    if (rows >= 0).all():
        return values[rows]
    if values.dtype.kind in "fUM":
        gap: Any = {"f": np.nan, "U": MISSING, "M": "NaT"}[values.dtype.kind]
        return np.append(values, np.array([gap], values.dtype))[rows]
    return as_column(np.array([*(None if row < 0 else values[row].item() for row in rows), None], object)[:-1])


@reads("labels (.npy, .npz, .csv, .tsv or .parquet)")
def _label_columns(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file of labels; expected .npy, .npz, .csv, .tsv or .parquet")
    if path.suffix == ".npy":
        return {LABELS: np.asarray(_npy(path))}
    if path.suffix == ".npz":
        arrays = _members(path)
        return named({name: np.asarray(values) for name, values in arrays.items() if values.ndim == 1})
    if path.suffix == ".parquet":
        return named(columns_of_parquet(path))
    if path.suffix in (".csv", ".tsv"):
        return named(from_csv(path))
    raise BadInput(f"{path}: unknown kind of file of labels; expected .npy, .npz, .csv, .tsv or .parquet")


def _text(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(str)
