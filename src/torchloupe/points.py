"""Points: vectors with names and labels. A feature of every sample, or the place of every sample on a map."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, nearest

LABELS = "labels"
DATE = re.compile(r"(\d{4})([-/:])(\d\d)\2(\d\d)(?:[ T](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(Z|[+-]\d\d:?\d\d)?)?")
MISSING = ""
FEW_VALUES = 50


def as_column(values: Any, name: str = "") -> np.ndarray:
    """Values as numbers, words, truths or dates. A gap (None, NaN, NaT, pandas' NA) is NaN, NaT, or "" among words. Words that are
    dates without exception (2024-05-01, 2024/05/01, 2024:05:01 as cameras write it, with a time or without) are dates, but for labels.

    Whole numbers with gaps are names of classes, hence words, under the name "labels" or where there are at most 50 of
    them; else NaN stands in the gaps.
    """
    values = np.asarray(values)
    if values.dtype.kind == "U" and values.ndim == 1 and name != LABELS:
        found = as_dates(values.tolist())
        return values if found is None else found
    if values.dtype.kind in "iubUM":
        return values
    if values.dtype.kind == "f":
        gaps = np.isnan(values)
        if name != LABELS or not gaps.any() or not _whole(values[~gaps]):
            return values
        return np.array([MISSING if gap else str(int(value)) for value, gap in zip(values.tolist(), gaps, strict=True)])
    if values.dtype.kind in "SV" or values.ndim != 1:
        return values.astype(str)
    given = values.tolist()
    gaps = np.array([_is_gap(value) for value in given], bool)
    held = [value for value, gap in zip(given, gaps, strict=True) if not gap]
    if held and all(isinstance(value, bool | np.bool_) for value in held) and not gaps.any():
        return np.array(given, bool)
    if held and all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in held):
        numbers = np.array([np.nan if gap else value for value, gap in zip(given, gaps, strict=True)], float)
        if all(isinstance(value, int | np.integer) for value in held):
            if not gaps.any():
                return np.array(given, np.int64)
            if len(set(held)) <= FEW_VALUES:
                name = LABELS
        return as_column(numbers, name)
    if held and all(isinstance(value, datetime.date | np.datetime64) for value in held):
        return np.array(["NaT" if gap else value for value, gap in zip(given, gaps, strict=True)], "datetime64[us]")
    words = np.array([MISSING if gap else str(value) for value, gap in zip(given, gaps, strict=True)], str)
    return as_column(words, name)


def as_dates(words: Sequence[str]) -> np.ndarray | None:
    """Words as dates, "" as NaT; None where one of them, or all, is none. Times with an offset are brought to UTC."""
    found: list[Any] = []
    for word in words:
        if not word.strip():
            found.append("NaT")
            continue
        date = date_of(word)
        if date is None:
            return None
        found.append(date)
    return np.array(found, "datetime64[us]") if any(word != "NaT" for word in found) else None


def date_of(word: str) -> datetime.datetime | None:
    """The date that a word tells, None for one that tells none. Day and month in other orders tell none: 03/04/2024 is two dates."""
    parts = DATE.fullmatch(word.strip())
    if not parts:
        return None
    year, _, month, day, time, offset = parts.groups()
    try:
        made = datetime.datetime.fromisoformat(f"{year}-{month}-{day}" + (f"T{time}" if time else ""))
        if offset and offset != "Z":
            hours, minutes = int(offset[1:3]), int(offset[-2:])
            made -= (1 if offset[0] == "+" else -1) * datetime.timedelta(hours=hours, minutes=minutes)
    except (ValueError, OverflowError):
        return None
    return made


def _whole(numbers: np.ndarray) -> bool:
    return bool(len(numbers)) and bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def _is_gap(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64) and bool(value != value)


def missing(values: np.ndarray) -> np.ndarray:
    """(N,): where a column has a gap."""
    if values.dtype.kind == "U":
        return values == MISSING
    if values.dtype.kind in "fM":
        return np.isnat(values) if values.dtype.kind == "M" else np.isnan(values)
    return np.zeros(len(values), bool)


def numbered(ids: Iterable[str]) -> list[tuple[str, int]]:
    """Each id with how often it came before, so that repeated ids are told apart."""
    seen: Counter[str] = Counter()
    found = []
    for name in ids:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


class Pieces:
    """Feature rows (N, D) that are read when they are asked for: read(start, stop) -> (stop - start, D).

    edges: where rows are best parted, such as the row groups of a parquet file.
    """

    ndim = 2

    def __init__(
        self, shape: tuple[int, int], dtype: Any, read: Callable[[int, int], np.ndarray], edges: Sequence[int]
    ) -> None:
        self.shape, self.dtype, self._read, self._edges = shape, np.dtype(dtype), read, np.asarray(edges)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            return self._read(start, max(start, stop))
        wanted = np.arange(len(self))[rows]
        out = np.empty((len(wanted), self.shape[1]), self.dtype)
        place = np.searchsorted(self._edges, wanted, side="right")
        for piece in np.unique(place):
            mine = np.flatnonzero(place == piece)
            first, last = int(wanted[mine].min()), int(wanted[mine].max())
            out[mine] = self._read(first, last + 1)[wanted[mine] - first]
        return out

    @classmethod
    def sparse(cls, matrix: Any) -> Pieces:
        """Of a sparse matrix of scipy; rows become dense as they are read."""
        rows = matrix.tocsr()
        return cls(rows.shape, rows.dtype, lambda a, b: rows[a:b].toarray(), range(1024, rows.shape[0], 1024))


@dataclass(frozen=True)
class Points:
    """N points and what is known about each: row i of `feats`, `ids` and every column belong to the same sample.

    feats (N, D), or (N, c, p) for p body parts; may be a memory map. ids (N,) strings; repeated ones are told apart by
    their order.
    columns: name -> (N,) words, numbers or dates, gaps as `as_column` has them; "labels" is the one that pictures are coloured by unless asked otherwise.
    record: how the points were made (JSON-like); its "kind" is "features" or "projection".
    Raises BadInput where a column or the ids have another length than feats.
    """

    feats: np.ndarray
    ids: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.feats.ndim < 2:
            raise BadInput(f"feats: shape {self.feats.shape}, expected (samples, dimensions) or (samples, c, parts)")
        object.__setattr__(self, "columns", {name: as_column(column, name) for name, column in self.columns.items()})
        for name, column in (("ids", self.ids), *self.columns.items()):
            if column.shape != (len(self.feats),):
                found = f"{len(column)} values" if column.ndim == 1 else f"shape {column.shape}"
                raise BadInput(f"{name}: {found}, but feats has {len(self.feats)} rows; every row needs exactly one")

    def __len__(self) -> int:
        return len(self.feats)

    @property
    def labels(self) -> np.ndarray | None:
        """The column "labels", or None."""
        return self.columns.get(LABELS)

    def column(self, name: str) -> np.ndarray:
        """One column by name. Raises BadInput with the columns there are."""
        if name == "ids":
            return self.ids
        if name not in self.columns:
            known = ", ".join(self.columns) or "none"
            raise BadInput(f"no column {name!r}; columns: {known}.{nearest(name, self.columns)}")
        return self.columns[name]

    def take(self, rows: np.ndarray) -> Points:
        """The points of these rows, in this order."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return Points(self.feats[rows], self.ids[rows], columns, self.record)

    def moved(self, feats: np.ndarray, record: Mapping[str, Any]) -> Points:
        """The same samples at other places: ids and columns stay, feats and record are replaced."""
        return Points(feats, self.ids, self.columns, record)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk: `feats`, `ids` and every column."""
        return {"feats": self.feats, "ids": self.ids, **self.columns}

    def row(self) -> dict[str, Any]:
        """How many points of how many numbers, and of a map how it was made and what it keeps."""
        told: dict[str, Any] = {"points": len(self), "width": " x ".join(map(str, self.feats.shape[1:]))}
        told |= {
            name: self.record[name] for name in ("model", "layer", "method", "metric", "seed") if name in self.record
        }
        numbers = self.record.get("numbers", {})
        return told | {name: numbers[name] for name in ("trustworthiness", "kept_neighbours") if name in numbers}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Points:
        """From what `arrays` gave. Errors: BadInput where there are no features, or a column has another length."""
        if "feats" not in arrays or arrays["feats"].ndim < 2:
            raise BadInput(f"{name or 'result'}: no points in it; expected the array 'feats' (samples, dimensions)")
        held = {key: values for key, values in arrays.items() if key not in ("feats", "ids") and values.ndim == 1}
        ids = arrays.get("ids")
        ids = np.arange(len(arrays["feats"])).astype(str) if ids is None else ids.astype(str)
        return cls(arrays["feats"], ids, held, record)
