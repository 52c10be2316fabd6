"""What goes into a projection: feature rows of any size, checked and normalised, read a piece at a time."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.points import Pieces

Parts = Literal["flatten", "mean"] | int
NORMALS = ("none", "l2", "zscore", "minmax")
PIECE = 1 << 24


@dataclass(frozen=True)
class Rows:
    """Feature rows (N, D) of float32, made from a source that may be larger than memory.

    source (N, D) or (N, c, p); parts: "flatten" (c * p numbers), "mean" over the parts, or one part's number;
    unit: each row to unit length; shift and scale (D,): row = (row - shift) * scale before that;
    keep: the rows to use, None for all. metric: how distances of the rows are meant: euclidean (cosine is that, of rows
    of unit length), precomputed (the rows are distances), or another one of scikit-learn's.
    """

    source: np.ndarray
    parts: Parts = "flatten"
    unit: bool = False
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None
    keep: np.ndarray | None = None
    metric: str = "euclidean"

    def __len__(self) -> int:
        return len(self.source) if self.keep is None else len(self.keep)

    @property
    def width(self) -> int:
        """D, the length of a row."""
        return self[0:1].shape[1]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        raw = self.raw(rows)
        if self.shift is not None and self.scale is not None:
            raw = (raw - self.shift) * self.scale  # in float64: large numbers lie apart by less than float32 holds
        with np.errstate(over="ignore"):  # what becomes infinite is named by prepare
            block = np.array(raw, dtype=np.float32)
        if self.unit:
            block /= np.linalg.norm(block, axis=1, keepdims=True).clip(np.finfo(np.float32).tiny)
        return block

    def raw(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows (n, D) as they are in the source, one vector each."""
        raw = self.source[rows if self.keep is None else self.keep[rows]]
        return (_one_vector(raw, self.parts) if raw.ndim > 2 else raw).reshape(len(raw), -1)

    def by(self, metric: str) -> Rows:
        """The same rows under another metric.

        Raises BadInput for a metric that is not known, or distances that are none.
        """
        if metric == self.metric:
            return self
        if metric == "cosine":
            return replace(self, unit=True, metric="euclidean")
        if metric == "precomputed":
            _distances(self)
        elif metric not in metrics():
            raise BadInput(f"metric {metric!r}: expected one of {', '.join(metrics())}.{nearest(metric, metrics())}")
        return replace(self, metric=metric)

    def spread(self, most: int = 10_000) -> np.ndarray:
        """Numbers of at most so many rows, taken evenly."""
        return np.arange(0, len(self), max(1, -(-len(self) // most)))

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, block) from the first to the last, each of bounded size."""
        step = max(1, PIECE // max(1, self.width))
        for start in range(0, len(self), step):
            yield start, self[start : start + step]

    def array(self) -> np.ndarray:
        """All rows, in memory."""
        out = np.empty((len(self), self.width), np.float32)
        for start, block in self.pieces():
            out[start : start + len(block)] = block
        return out


def _one_vector(raw: np.ndarray, parts: Parts) -> np.ndarray:
    if parts == "flatten":
        return raw.reshape(len(raw), -1)
    if parts == "mean":
        return raw.mean(axis=-1, dtype=np.float32).reshape(len(raw), -1)
    if not 0 <= int(parts) < raw.shape[-1]:
        raise BadInput(f"part {parts}: there are parts 0 to {raw.shape[-1] - 1}")
    return raw[..., int(parts)].reshape(len(raw), -1)


def metrics() -> tuple[str, ...]:
    """The names of metrics that can be asked for."""
    more = ["manhattan", "chebyshev", "canberra", "braycurtis", "correlation", "hamming", "jaccard", "dice", "l1"]
    return ("euclidean", "cosine", "precomputed", *more)


def _distances(rows: Rows) -> None:
    """Errors: BadInput where the rows are not the distances of all points from all."""
    total, width = len(rows), rows.width
    if total != width:
        raise BadInput(f"metric precomputed: {total} rows of {width} numbers; expected the distances of all from all")
    if rows.unit or rows.shift is not None:
        raise BadInput("metric precomputed: distances are not normalised; leave out --normalize")
    for start, block in rows.pieces():
        if (block < 0).any():
            raise BadInput(f"metric precomputed: a distance below 0 in row {start + int((block < 0).any(1).argmax())}")
        own = np.abs(block[np.arange(len(block)), start + np.arange(len(block))])
        if own.max() > 1e-6 * max(float(block.max()), 1e-30):
            raise BadInput(
                f"metric precomputed: row {start + int(own.argmax())} is {own.max():.3g} away from itself; expected"
                " distances, not similarities"
            )
        there = rows[:][:, start : start + len(block)].T
        if not np.allclose(block, there, rtol=1e-4, atol=1e-6 * float(block.max())):
            raise BadInput(f"metric precomputed: distances there and back differ, from row {start} on")


def prepare(
    feats: Any,
    *,
    parts: Parts = "flatten",
    normalize: str | None = None,
    metric: str = "euclidean",
    drop_bad: bool = False,
) -> Rows:
    """Feature rows, looked at once from the first to the last before anything is computed from them.

    feats (N, D), sparse ones too, or (N, c, p) body parts. normalize: none, l2 (unit length), zscore, minmax (each dimension to [0, 1]);
    None is l2 for body parts and none for vectors. metric: euclidean; cosine = unit length, then euclidean; precomputed:
    feats (N, N) are distances; or manhattan, correlation and others of scikit-learn's (see metrics).
    drop_bad: leave out rows with NaN or infinity, with a warning, instead of an error.
    Raises BadInput: fewer than 2 rows, NaN or infinite values (which rows), all rows equal. Warns of duplicates, and of a
    column whose differences are nearly all that distances are made of.
    """
    if hasattr(feats, "tocsr"):
        feats = Pieces.sparse(feats)
    if parts != "flatten" and feats.ndim == 2:
        raise BadInput(
            f"--parts {parts}: these are vectors {tuple(feats.shape)}, not body parts (samples, channels, parts)"
        )
    normalize = normalize or ("l2" if feats.ndim > 2 else "none")
    if normalize not in NORMALS:
        raise BadInput(f"normalize {normalize!r}: expected one of {', '.join(NORMALS)}")
    if metric not in metrics():
        raise BadInput(f"metric {metric!r}: expected one of {', '.join(metrics())}.{nearest(metric, metrics())}")
    if len(feats) < 2:
        raise BadInput(f"{len(feats)} sample{'' if len(feats) else 's'}: an arrangement needs at least 2")
    rows = Rows(feats, parts)
    bad = _bad(rows)
    if len(bad):
        if not drop_bad or metric == "precomputed":
            raise BadInput(
                f"{len(bad)} of {len(feats)} rows hold NaN or infinity: {_named(bad)}; --drop-bad leaves them out"
            )
        warnings.warn(f"{len(bad)} of {len(feats)} rows hold NaN or infinity, left out: {_named(bad)}", LoupeWarning, 2)
        rows = Rows(feats, parts, keep=np.setdiff1d(np.arange(len(feats)), bad))
        if len(rows) < 2:
            raise BadInput(f"{len(rows)} of {len(feats)} rows are finite: an arrangement needs at least 2")
    unit = normalize == "l2" or metric == "cosine"
    shift, scale = _statistics(rows, normalize)
    if shift is None and metric == "euclidean" and not unit:
        shift, scale = _large(rows)
    rows = Rows(feats, parts, unit, shift, scale, rows.keep)
    if metric == "precomputed":
        return rows.by(metric)
    _duplicates(rows)
    if metric == "euclidean":
        _loud(rows)
    return rows if metric == "cosine" else rows.by(metric)


def _bad(rows: Rows) -> np.ndarray:
    return np.concatenate([start + np.flatnonzero(~np.isfinite(block).all(1)) for start, block in rows.pieces()])


def _named(rows: np.ndarray, most: int = 5) -> str:
    return ", ".join(map(str, rows[:most])) + (" ..." if len(rows) > most else "")


def _statistics(rows: Rows, normalize: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """shift and scale (D,) of zscore and minmax; a constant dimension is shifted to 0 and not scaled."""
    if normalize == "zscore":
        mean = sum(block.sum(0, dtype=np.float64) for block in _raw_pieces(rows)) / len(rows)
        square = sum(((block - mean) ** 2).sum(0) for block in _raw_pieces(rows)) / len(rows)
        spread = np.sqrt(square)
    elif normalize == "minmax":
        mean = np.min([block.min(0) for block in _raw_pieces(rows)], axis=0)
        spread = np.max([block.max(0) for block in _raw_pieces(rows)], axis=0) - mean
    else:
        return None, None
    constant = spread <= np.abs(mean) * 1e-15
    return np.asarray(mean, np.float64), 1 / np.where(constant, 1, spread)


def _raw_pieces(rows: Rows) -> Iterator[np.ndarray]:
    step = max(1, PIECE // max(1, rows.width))
    for start in range(0, len(rows), step):
        yield rows.raw(slice(start, start + step)).astype(np.float64)


def _large(rows: Rows) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A shift (D,) by the means, where numbers are so large beside their spread that float32 would round it away."""
    if rows.source.dtype.itemsize <= 4 and rows.source.dtype.kind == "f":
        return None, None
    sample = rows.raw(rows.spread()).astype(np.float64)
    mean, spread = sample.mean(0), sample.std(0)
    varies = spread > 1e-12 * np.abs(mean)
    if not (np.abs(mean) > 1e3 * spread)[varies].any():
        return None, None
    return mean, np.ones_like(mean)


def _loud(rows: Rows) -> None:
    """Warn of one column that holds nearly all of the variance."""
    variance = rows[rows.spread()].astype(np.float64).var(0)
    loudest, total = int(variance.argmax()), float(variance.sum())
    if len(variance) > 2 and 0.99 * total < variance[loudest] < total:
        warnings.warn(
            f"column {loudest} holds {min(variance[loudest] / total, 0.99999):.3%} of the variance of all"
            f" {len(variance)} columns: distances are its differences; --normalize zscore weighs all columns alike",
            LoupeWarning,
            3,
        )


def _duplicates(rows: Rows) -> None:
    """Warn of equal rows, refuse when all are equal. Rows are compared by a hash of 128 bits."""
    seen = [
        hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        for _, block in rows.pieces()
        for row in block + np.float32(0)  # -0 is 0
    ]
    _, first, inverse = np.unique(np.array(seen, dtype="V16"), return_index=True, return_inverse=True)
    if len(first) == 1:
        raise BadInput(f"all {len(rows)} rows are equal: there is nothing to arrange (is the layer constant?)")
    again = np.flatnonzero(first[inverse] != np.arange(len(rows)))
    if len(again):
        one = again[0]
        twin = first[inverse[one]]
        warnings.warn(
            f"{len(again)} of {len(rows)} rows repeat an earlier row ({one} repeats {twin}); they fall on one place",
            LoupeWarning,
            3,
        )
