"""Features in tables: CSV, parquet, HDF5, frames of pandas and polars; a column of vectors, or one column a dimension."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, LoupeWarning, nearest, need
from torchloupe.points import LABELS, Pieces, Points, as_column, date_of
from torchloupe.store.reading import reading

FEATS = ("feats", "features", "embeddings", "embedding", "X", "x")
GAPS = ("", "nan", "na", "n/a", "null", "none")
NAMES = {"id": "ids", "label": LABELS, "__index_level_0__": "ids"}
LARGE = 1 << 30
Columns = dict[str, np.ndarray]


# --- which columns ----------------------------------------------------------------------------------------------------


def dimensions(kinds: Mapping[str, str], vector: str | None, where: str) -> list[str]:
    """The columns that make up the features, one a dimension.

    kinds: column -> f (fractions), i (whole numbers), or something else. vector: names and patterns, separated by commas.
    None: the one series of numbered columns (x0, x1 ...), or all that hold fractions, which is said.
    Raises BadInput where they cannot be told.
    """
    numeric = [name for name, kind in kinds.items() if kind in "fiub" and name not in (LABELS, "label", "id", "ids")]
    if vector is not None:
        found = []
        for word in vector.split(","):
            more = [word] if word in kinds else [name for name in kinds if fnmatchcase(name, word)]
            if not more:
                raise BadInput(
                    f"{where}: no column {word!r} (--vector); columns: {', '.join(kinds) or 'none'}.{nearest(word, kinds)}"
                )
            found += [name for name in more if name not in found]
        words = [name for name in found if kinds[name] not in "fiub"]
        if words:
            raise BadInput(f"{where}: column {words[0]!r} (--vector) holds no numbers")
        return found
    series: dict[str, list[tuple[int, str]]] = {}
    for name in numeric:
        parted = re.fullmatch(r"(.*?)(\d+)", name)
        if parted and not name.startswith("projection_"):
            series.setdefault(parted[1], []).append((int(parted[2]), name))
    whole = {}
    for prefix, members in series.items():
        numbers = sorted(members)
        first = numbers[0][0]
        if len(numbers) > 1 and first in (0, 1) and [n for n, _ in numbers] == list(range(first, first + len(numbers))):
            whole[prefix] = [name for _, name in numbers]
    if len(whole) == 1:
        return next(iter(whole.values()))
    if whole:
        shown = ", ".join(f"{names[0]} ... {names[-1]}" for names in whole.values())
        raise BadInput(f"{where}: several series of columns ({shown}); say which with --vector 'PATTERN'")
    fractions = [name for name in numeric if kinds[name] == "f" and not name.startswith("projection_")]
    if len(fractions) < 2:
        raise BadInput(
            f"{where}: no column of vectors, and no columns that are plainly its dimensions; columns:"
            f" {', '.join(kinds) or 'none'}; say which with --vector NAME,NAME or 'PATTERN'"
        )
    shown = ", ".join(fractions[:5]) + (" ..." if len(fractions) > 5 else "")
    warnings.warn(
        f"{where}: features are the {len(fractions)} columns of fractions ({shown}); --vector chooses", LoupeWarning, 2
    )
    return fractions


def named(columns: Columns) -> Columns:
    """`id` read as `ids`, `label` as `labels`; the columns x, y, z of a map that was written are dropped."""
    renamed: Columns = {}
    for name, column in columns.items():
        to = NAMES.get(name, name)
        if to in columns and to != name:
            continue
        if not name.startswith("projection_"):
            renamed[to] = column
    return renamed


def parted(columns: Mapping[str, Any], vector: str | None, where: str) -> tuple[np.ndarray, Columns]:
    """Features (N, D) and the other columns of a table that is in memory."""
    held = {name: np.asarray(column) if not isinstance(column, list) else column for name, column in columns.items()}
    lists = [name for name, column in held.items() if len(column) and isinstance(column[0], (list, tuple, np.ndarray))]
    name = vector if vector in lists else None
    if vector is None:
        name = next((name for name in FEATS if name in lists), lists[0] if len(lists) == 1 else None)
    rest = {key: as_column(_objects(column), key) for key, column in held.items() if key not in lists}
    if name is not None:
        try:
            return np.stack([np.asarray(row) for row in held[name]]), named(rest)
        except ValueError:
            raise BadInput(f"{where}: column {name}: its vectors are not all of one length") from None
    chosen = dimensions({key: column.dtype.kind for key, column in rest.items()}, vector, where)
    feats = np.stack([np.asarray(rest[key], float) for key in chosen], 1)
    return feats, named({key: column for key, column in rest.items() if key not in chosen})


def _objects(column: Any) -> np.ndarray:
    if isinstance(column, np.ndarray):
        return column
    held = np.empty(len(column), object)
    held[:] = column
    return held


def from_table(table: Any, vector: str | None = None) -> Points:
    """Points from a frame of pandas or polars, a table of pyarrow, or a mapping of columns.

    vector: the column of vectors, or the columns that are the dimensions (names and patterns, separated by commas). None:
    the only column of vectors, the one series of numbered columns, or all columns of fractions. Ids are the column `id` or
    `ids`, or an index of words. Raises BadInput where the features cannot be told.
    """
    held = getattr(table, "column_names", None)
    names = list(table if held is None and not hasattr(table, "columns") else table.columns if held is None else held)
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name]
        plain = getattr(column, "to_pylist", None) or getattr(column, "to_list", None)
        kind = getattr(np.asarray(column[:0]).dtype, "kind", "O") if isinstance(column, np.ndarray) else "O"
        columns[str(name)] = column if kind != "O" or plain is None else plain()
    index = getattr(table, "index", None)
    if index is not None and hasattr(index, "tolist") and not {"id", "ids"} & set(columns):
        words = index.tolist()
        if words and all(isinstance(word, str) for word in words):
            columns["ids"] = words
    feats, rest = parted(columns, vector, "table")
    ids = rest.pop("ids", None)
    return Points(feats, np.arange(len(feats)).astype(str) if ids is None else ids.astype(str), rest)


# --- files ------------------------------------------------------------------------------------------------------------


def from_csv(path: Path) -> Columns:
    """The columns of a CSV or TSV file with a header line."""
    with reading(path, "a CSV file in UTF-8"), path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header, *rows = [row for row in lines if row] or [[]]
    ragged = next((i for i, row in enumerate(rows, start=2) if len(row) != len(header)), None)
    if not header or ragged is not None:
        raise BadInput(f"{path}: line {ragged or 1} does not have the {len(header)} values of the header line")
    again = next((name for i, name in enumerate(header) if name in header[:i]), None)
    if again is not None:
        raise BadInput(f"{path}: two columns are called {again!r}")
    return {name: as_column(_numeric([row[i] for row in rows]), NAMES.get(name, name)) for i, name in enumerate(header)}


def _numeric(values: list[str]) -> np.ndarray:
    """Numbers or dates where all that is not a gap is one; a name such as 007 stays text, and so does "none" among words."""
    held = [value for value in values if value.strip().lower() not in GAPS]
    if not held or any(len(value) > 1 and value[0] == "0" and value.isdigit() for value in held):
        return np.array(values, dtype=str)
    read: Any
    for read in (int, float, _date):
        try:
            found = [None if value.strip().lower() in GAPS else read(value) for value in values]
        except ValueError:
            continue
        return as_column(np.array([*found, None], object)[:-1])
    return np.array(values, dtype=str)


def _date(text: str) -> np.datetime64:
    found = date_of(text)
    if found is None:
        raise ValueError(text)
    return np.datetime64(found, "us")


def pyarrow() -> Any:
    """The package pyarrow, or MissingPackage."""
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ImportError:
        raise need("pyarrow", "embed") from None
    return package


def _parquet(path: Path) -> Any:
    package = pyarrow()
    with reading(path, "a parquet file"):
        return package.parquet.ParquetFile(path)


def columns_of_parquet(path: Path) -> Columns:
    """All columns of a parquet file that are no vectors."""
    table = _parquet(path).read()
    return {name: _cells(table[name]) for name in table.column_names}


def from_parquet(path: Path, vector: str | None) -> tuple[Any, Columns]:
    """Features and the other columns: one column of vectors, or one column a dimension; above 1 GB, features are read as
    they are asked for, a row group at a time."""
    file, kinds = _parquet(path), pyarrow().types
    types = {field.name: field.type for field in file.schema_arrow}
    lists = [
        name
        for name, kind in types.items()
        if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
    ]
    name = vector if vector in lists else None
    if vector is None and lists:
        known = [known for known in FEATS if known in lists]
        name = known[0] if known else lists[0] if len(lists) == 1 else None
        if name is None:
            raise BadInput(f"{path}: several columns of vectors ({', '.join(lists)}); say which with --vector")
    scalar = [key for key in types if key not in lists]
    if name is not None:
        chosen, rest = [name], scalar
    else:
        chosen = dimensions({key: _kind(types[key]) for key in scalar}, vector, str(path))
        rest = [key for key in scalar if key not in chosen]
    table = file.read(columns=rest)
    columns = named({key: _cells(table[key]) for key in rest})

    def block(held: Any) -> np.ndarray:
        if name is None:
            return np.stack([held[key].to_numpy() for key in chosen], 1)
        return _vectors(held[name], path, name)

    rows = file.metadata.num_rows
    first = block(next(file.iter_batches(64, columns=chosen), None) or file.read(columns=chosen))
    if rows * first.shape[1] * first.dtype.itemsize <= LARGE:
        return block(file.read(columns=chosen)), columns
    ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)])
    kept: dict[int, np.ndarray] = {}

    def read(start: int, stop: int) -> np.ndarray:
        parts = [np.empty((0, first.shape[1]), first.dtype)]
        for group in range(
            int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop - 1, "right")) + 1
        ):
            if group not in kept:
                kept.clear()
                kept[group] = block(file.read_row_group(group, columns=chosen))
            begin = int(ends[group]) - len(kept[group])
            parts.append(kept[group][max(0, start - begin) : stop - begin])
        return np.concatenate(parts)

    return Pieces((rows, first.shape[1]), first.dtype, read, ends.tolist()), columns


def _kind(type_: Any) -> str:
    kinds = pyarrow().types
    return "f" if kinds.is_floating(type_) else "i" if kinds.is_integer(type_) else "O"


def _vectors(column: Any, path: Path, name: str) -> np.ndarray:
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    offsets = (
        whole.offsets.to_numpy() if hasattr(whole, "offsets") else np.arange(len(whole) + 1) * whole.type.list_size
    )
    if len(whole) == 0 or len(flat) % len(whole) or whole.null_count or len(set(np.diff(offsets))) > 1:
        raise BadInput(f"{path}: column {name}: its vectors are not all of one length")
    return flat.reshape(len(whole), -1)


def _cells(column: Any) -> np.ndarray:
    """A column of a table; one with gaps, or of words or dates, by its Python values."""
    kinds = pyarrow().types
    if hasattr(column.type, "value_type") and kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    plain = kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type)
    if (plain and not column.null_count) or kinds.is_timestamp(column.type):
        return column.to_numpy()
    return as_column(np.array([*column.to_pylist(), None], object)[:-1])


def from_hdf5(path: Path, vector: str | None) -> tuple[Any, Columns]:
    """Features and columns of an HDF5 file: a dataset `X` (or `feats`, or the one named by vector) and, as AnnData has
    them, the columns of a group `obs`; sparse groups (data, indices, indptr) too."""
    try:
        import h5py
    except ImportError:
        raise need("h5py", "hdf5") from None
    with reading(path, "an HDF5 file"):
        file = h5py.File(path, "r")
    wanted = (vector,) if vector else FEATS
    name = next((name for name in wanted if name in file), None)
    if name is None:
        raise BadInput(f"{path}: holds no {' or '.join(wanted)}; it holds {', '.join(file) or 'nothing'} (--vector)")
    held = file[name]
    feats: Any
    if isinstance(held, h5py.Group):
        if not {"data", "indices", "indptr"} <= set(held):
            raise BadInput(f"{path}: {name} is a group of {', '.join(held) or 'nothing'}; expected numbers")
        feats = _sparse({key: held[key][:] for key in ("data", "indices", "indptr")}, _told(held), path)
    elif held.size * held.dtype.itemsize <= LARGE:
        feats = held[:]
    else:
        feats = Pieces(held.shape, held.dtype, lambda a, b: held[a:b], range(4096, held.shape[0], 4096))
    group = file["obs"] if "obs" in file and isinstance(file["obs"], h5py.Group) else file
    columns: Columns = {}
    for key in group:
        values = _observed(group[key], h5py)
        if values is not None and key != name and values.shape == (feats.shape[0],):
            columns[key] = values
    index = group.attrs.get("_index")
    if isinstance(index, str) and index in columns:
        columns["ids"] = columns.pop(index).astype(str)
    return feats, named(columns)


def _told(group: Any) -> Mapping[str, Any]:
    """Shape and layout of a sparse group."""
    said = str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csr")))
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    return {"format": "csc" if "csc" in said else "csr", "shape": None if shape is None else tuple(map(int, shape))}


def _sparse(arrays: Mapping[str, np.ndarray], told: Mapping[str, Any], path: Path) -> Pieces:
    import scipy.sparse

    make = {"csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_matrix}[told["format"]]
    try:
        return Pieces.sparse(make((arrays["data"], arrays["indices"], arrays["indptr"]), shape=told["shape"]))
    except (ValueError, TypeError, IndexError) as error:
        raise BadInput(f"{path}: not a whole sparse matrix ({error})") from None


def sparse_of_npz(arrays: Columns, path: Path) -> Pieces:
    """What scipy.sparse.save_npz wrote: data, indices, indptr, shape, format (csr or csc)."""
    said = arrays["format"].item()
    layout = said.decode() if isinstance(said, bytes) else str(said)
    if layout not in ("csr", "csc"):
        raise BadInput(f"{path}: a sparse matrix in the layout {layout!r}; expected csr or csc: save matrix.tocsr()")
    return _sparse(arrays, {"format": layout, "shape": tuple(arrays["shape"].tolist())}, path)


def _observed(entry: Any, h5py: Any) -> np.ndarray | None:
    """A column of AnnData's obs: plain, text, or categories with codes (-1: a gap)."""
    if isinstance(entry, h5py.Group):
        if not {"categories", "codes"} <= set(entry):
            return None
        names, codes = _observed(entry["categories"], h5py), entry["codes"][:]
        assert names is not None
        return as_column(_objects([None if code < 0 else names[code] for code in codes.tolist()]))
    if entry.ndim != 1:
        return None
    if h5py.check_string_dtype(entry.dtype) is not None:
        return as_column(_objects(list(entry.asstr()[:])))
    return entry[:] if entry.dtype.kind in "fiub" else None
