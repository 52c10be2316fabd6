"""Reading points: npz, npy, parquet; memory-mapped where the file allows it, never pickled."""

from __future__ import annotations

import csv
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, need
from torchloupe.points import LABELS, Points, as_column
from torchloupe.store.reading import header, members, reading, reads

FEATS = ("feats", "features", "embeddings", "embedding", "X", "x")
SUFFIXES = (".npz", ".npy", ".parquet")
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?Z?)?")


@reads(f"points ({', '.join(SUFFIXES)})")
def read_points(path: str | Path, *, labels: str | Path | None = None, vector: str | None = None) -> Points:
    """Points from a file.

    path: .npz with `feats` (or `features`, `embeddings`, `X`, or the array named by vector) and any (N,) columns;
    .npy with the features alone; .parquet with one column of vectors (named by vector, or the only one there is).
    Uncompressed npz members and npy files are memory-mapped, so they may be larger than memory.
    labels: .npy or .npz with (N,) values in the same order, or .csv or .parquet: joined by a column `id` (or `ids`)
    where it has one, else in the same order.
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
        feats, columns = _from_parquet(path, vector)
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


def _from_npz(path: Path, vector: str | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    arrays = _members(path)
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


def pyarrow() -> Any:
    """The package pyarrow, or MissingPackage."""
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ImportError:
        raise need("pyarrow", "embed") from None
    return package


def _from_parquet(path: Path, vector: str | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    table = _table(path)
    types = {name: table.schema.field(name).type for name in table.column_names}
    arrow = pyarrow().types
    lists = [name for name, kind in types.items() if arrow.is_list(kind) or arrow.is_large_list(kind)]
    lists += [name for name, kind in types.items() if arrow.is_fixed_size_list(kind)]
    known = [name for name in FEATS if name in lists]
    name = vector or (known[0] if known else lists[0] if len(lists) == 1 else None)
    if name is None or name not in lists:
        found = f"no column of vectors {vector!r}" if vector else "no single column of vectors"
        raise BadInput(f"{path}: {found}; columns of vectors: {', '.join(lists) or 'none'}; say which with --vector")
    column = table[name].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) == 0 or len(flat) % len(column) or column.null_count or len(set(np.diff(_offsets(column)))) > 1:
        raise BadInput(f"{path}: column {name}: its vectors are not all of one length")
    columns = {key: _cells(table[key]) for key in table.column_names if key not in lists}
    return flat.reshape(len(column), -1), _named(columns)


def _cells(column: Any) -> np.ndarray:
    """A column of a table; one with gaps, or of words or dates, by its Python values."""
    kinds = pyarrow().types
    if hasattr(column.type, "value_type") and kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    plain = kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type)
    if (plain and not column.null_count) or kinds.is_timestamp(column.type):
        return column.to_numpy()
    return as_column(np.array([*column.to_pylist(), None], object)[:-1])


def _offsets(column: Any) -> np.ndarray:
    if hasattr(column, "offsets"):
        return column.offsets.to_numpy()
    return np.arange(len(column) + 1) * column.type.list_size


def _table(path: Path) -> Any:
    package = pyarrow()
    with reading(path, "a parquet file"):
        return package.parquet.read_table(path)


def _named(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`id` read as `ids`, `label` as `labels`; the columns x, y, z of a map that was written are dropped."""
    renamed = {{"id": "ids", "label": LABELS}.get(name, name): column for name, column in columns.items()}
    return {name: column for name, column in renamed.items() if not name.startswith("projection_")}


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
    if missing:
        shown = ", ".join(missing[:3])
        raise BadInput(f"{path}: {len(missing)} of {len(points)} ids have no row, the first: {shown}")
    rows = np.array([place[name] for name in points.ids.tolist()])
    joined = {**points.columns, **{name: as_column(values, name)[rows] for name, values in columns.items()}}
    return Points(points.feats, points.ids, joined, points.record)


@reads("labels (.npy, .npz, .csv or .parquet)")
def _label_columns(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file of labels; expected .npy, .npz, .csv or .parquet")
    if path.suffix == ".npy":
        return {LABELS: np.asarray(_npy(path))}
    if path.suffix == ".npz":
        arrays = _members(path)
        return _named({name: np.asarray(values) for name, values in arrays.items() if values.ndim == 1})
    if path.suffix == ".parquet":
        table = _table(path)
        return _named({name: _cells(table[name]) for name in table.column_names})
    with (
        reading(path, "a CSV file in UTF-8", "labels may also be .npy, .npz or .parquet"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        header_line, *rows = [row for row in csv.reader(file) if row] or [[]]
    ragged = next((i for i, row in enumerate(rows, start=2) if len(row) != len(header_line)), None)
    if not header_line or ragged is not None:
        raise BadInput(f"{path}: line {ragged or 1} does not have the {len(header_line)} values of the header line")
    return _named({name: _numeric([row[i] for row in rows]) for i, name in enumerate(header_line)})


GAPS = ("", "nan", "na", "n/a", "null", "none")


def _numeric(values: list[str]) -> np.ndarray:
    """Numbers or dates where all that is not a gap is one; a name such as 007 stays text, and so does "none" among words."""
    held = [value for value in values if value.strip().lower() not in GAPS]
    if not held or any(len(value) > 1 and value[0] == "0" and value.isdigit() for value in held):
        return np.array(values, dtype=str)
    read: Any
    for read in (int, float, _date):
        try:
            return as_column([None if value.strip().lower() in GAPS else read(value) for value in values])
        except ValueError:
            continue
    return np.array(values, dtype=str)


def _date(text: str) -> np.datetime64:
    if not DATE.fullmatch(text.strip()):
        raise ValueError(text)
    return np.datetime64(text.strip().removesuffix("Z").replace(" ", "T"), "us")


def _text(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).astype(str)
