"""The nearest other points of every point: by all distances, or by those to the points of nearby lists of faiss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchloupe.errors import need

BLOCK = 1 << 23
COLUMNS = 1 << 15
LIST = 125
LEAST_PROBES, MOST_SCANNED = 4, 25_000
DEAR, MOST_EXACT = 12, 300_000
ASKED = 256
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Neighbours:
    """indices (N, count) int32 and distances (N, count) float32 of the nearest other points, nearest first.

    search: exact (all distances) or lists; recall: the share of the true nearest ones among them, measured in float64 on
    256 points, whatever the search.
    """

    indices: np.ndarray
    lengths: np.ndarray
    search: str
    recall: float

    def record(self) -> dict[str, Any]:
        """How they were found, as plain JSON."""
        return {"neighbours": self.search, "neighbours_found": self.recall}


@dataclass(frozen=True)
class Truth:
    """The true neighbours of some points: rows (q,), indices (q, count) and distances (q, count), all in float64."""

    rows: np.ndarray
    indices: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, count: int, seed: int = 0) -> Truth:
        """Of 256 points (N, d), or all where there are fewer."""
        rows = np.sort(np.random.default_rng(seed).choice(len(points), min(ASKED, len(points)), replace=False))
        middle = points.mean(0, dtype=np.float64)
        asked = points[rows] - middle
        values: np.ndarray = np.empty((len(rows), 0))
        indices: np.ndarray = np.empty((len(rows), 0), np.int64)
        for start, stop in spans(len(points), COLUMNS):
            part = points[start:stop] - middle
            near = nearness(asked, part, halved(part))
            mine = (rows >= start) & (rows < stop)
            near[np.flatnonzero(mine), rows[mine] - start] = np.inf
            values = np.concatenate([values, near], 1)
            indices = np.concatenate([indices, np.broadcast_to(np.arange(start, stop), near.shape)], 1)
            order = np.argsort(values, 1, kind="stable")[:, :count]
            values, indices = (np.take_along_axis(array, order, 1) for array in (values, indices))
        return cls(rows, indices, cls._lengths(points, rows, indices))

    @staticmethod
    def _lengths(points: np.ndarray, rows: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return np.array(
            [
                np.linalg.norm(points[near].astype(np.float64) - points[row], axis=1)
                for row, near in zip(rows, indices, strict=True)
            ]
        )

    def recall(self, points: np.ndarray, indices: np.ndarray) -> float:
        """The share of indices (q, count), found for `rows`, that lie no farther than the true last neighbour."""
        lengths = self._lengths(points, self.rows, indices)
        return float((lengths <= self.lengths[:, -1:] * (1 + 1e-9)).mean())


def dtype_for(points: np.ndarray, count: int, truth: Truth | None = None) -> type:
    """float32 where lengths as |b|^2 / 2 - ab in it find the neighbours of 256 points (N, d), else float64.

    Groups that lie far apart, and crowds much tighter than the whole, cancel in float32.
    """
    truth = truth or Truth.of(points, count)
    data = centred(points)
    found, indices = _by_all(data, halved(data), truth.rows, count)
    if truth.recall(points, indices) < 0.999:
        return np.float64
    apart = truth.lengths > 0
    wrong = np.abs(found - truth.lengths)[apart] / truth.lengths[apart]
    return np.float64 if len(wrong) and np.quantile(wrong, 0.99) > 0.01 else np.float32


def spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, end) of pieces of at most `size`."""
    for start in range(0, total, size):
        yield start, min(start + size, total)


def block_rows(total: int) -> int:
    """Rows of distances to `total` points that are held at a time."""
    return max(64, min(2048, BLOCK // max(1, total)))


def nearness(rows: np.ndarray, points: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """|b|^2 / 2 - ab: orders points b as distances from a do; rows (q, d), points (N, d), halves (N,) -> (q, N)."""
    found = rows @ points.T
    return np.subtract(halves, found, out=found)


def halved(points: np.ndarray) -> np.ndarray:
    """|b|^2 / 2 of every point, (N,)."""
    return np.einsum("nd,nd->n", points, points) / 2


def smallest(values: np.ndarray, count: int, strips: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The count smallest of every row, smallest first, of equals the first: values (q, N) -> values, columns (q, count).

    The count-th smallest of the minima of N / strips groups of columns is a bound that few other values reach.
    """
    total = values.shape[1]
    groups = total // strips
    if groups <= 2 * count:
        columns = np.argsort(values, 1, kind="stable")[:, :count]
        return np.take_along_axis(values, columns, 1), columns
    minima = values[:, : groups * strips].reshape(len(values), strips, groups).min(1)
    bound = np.partition(minima, count - 1, 1)[:, count - 1 : count]
    reached = np.flatnonzero(values <= bound)
    row, column = np.divmod(reached, total)
    found = values.ravel()[reached]
    order = np.lexsort((found, row))
    first = np.searchsorted(row, np.arange(len(values)))
    chosen = order[first[:, None] + np.arange(count)]
    return found[chosen], column[chosen]


def nearby(points: np.ndarray, seed: int = 0, leaf: int = 64) -> np.ndarray:
    """Rows in an order in which near points lie near in memory: halved at medians, again and again, points (N, d).

    Along the widest of the eight principal axes of a sample. What walks over neighbours in this order finds them in the
    processor's cache: the pull of a million t-SNE points on each other takes a fifth of the time.
    """
    sample = centred(points[np.random.default_rng(seed).permutation(len(points))[:4000]])
    places = points @ np.linalg.svd(sample, full_matrices=False)[2][:8].T
    waiting, done = [np.arange(len(points))], []
    while waiting:
        rows = waiting.pop()
        if len(rows) <= leaf:
            done.append(rows)
            continue
        here = places[rows]
        rows = rows[np.argsort(here[:, here.var(0).argmax()], kind="stable")]
        waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
    return np.concatenate(done)


def centred(points: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """Points around their mean: differences of large numbers would lose the distances."""
    points = np.asarray(points, dtype)
    return points - points.mean(0, dtype=np.float64).astype(dtype)


def nearest_neighbours(points: np.ndarray, count: int, *, seed: int = 0, step: Step = lambda *_: None) -> Neighbours:
    """The count nearest other points of every point, by all distances: points (N, d), N > count.

    In float32 where that finds the neighbours of 256 points as float64 does, else in float64.
    """
    truth = Truth.of(points, count, seed)
    return _exact(points, count, truth, step)


def _exact(points: np.ndarray, count: int, truth: Truth, step: Step) -> Neighbours:
    data = centred(points, dtype_for(points, count, truth))
    total, halves = len(data), halved(data)
    indices, lengths = np.empty((total, count), np.int32), np.empty((total, count), np.float32)
    for start, stop in spans(total, block_rows(total)):
        lengths[start:stop], indices[start:stop] = _by_all(data, halves, np.arange(start, stop), count)
        step(stop, total)
    return Neighbours(indices, lengths, "exact", truth.recall(points, indices[truth.rows]))


def nearest_of(points: np.ndarray, new: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (M, count) in float64 and indices (M, count) of the points (N, d) nearest to new ones (M, d)."""
    middle = points.mean(0, dtype=np.float64)
    lengths, indices = np.empty((len(new), count)), np.empty((len(new), count), np.int64)
    for start, stop in spans(len(new), ASKED):
        asked = new[start:stop] - middle
        values: np.ndarray = np.empty((len(asked), 0))
        held: np.ndarray = np.empty((len(asked), 0), np.int64)
        for first, end in spans(len(points), COLUMNS):
            part = points[first:end] - middle
            near = nearness(asked, part, halved(part))
            values = np.concatenate([values, near], 1)
            held = np.concatenate([held, np.broadcast_to(np.arange(first, end), near.shape)], 1)
            order = np.argsort(values, 1, kind="stable")[:, :count]
            values, held = np.take_along_axis(values, order, 1), np.take_along_axis(held, order, 1)
        apart = points[held].astype(np.float64) - new[start:stop, None]
        found = np.sqrt((apart**2).sum(2))
        order = np.argsort(found, 1, kind="stable")
        lengths[start:stop] = np.take_along_axis(found, order, 1)
        indices[start:stop] = np.take_along_axis(held, order, 1)
    return lengths, indices


def neighbours_by(points: np.ndarray, count: int, metric: str, step: Step = lambda *_: None) -> Neighbours:
    """The count nearest others by all distances of another metric of scikit-learn's, or of a matrix of distances."""
    apart, total = Apart(points, metric), len(points)
    indices, lengths = np.empty((total, count), np.int32), np.empty((total, count), np.float32)
    for start, stop in spans(total, block_rows(total)):
        lengths[start:stop], indices[start:stop] = smallest(apart.nearness(np.arange(start, stop)), count)
        step(stop, total)
    return Neighbours(indices, lengths, "exact", 1.0)


@dataclass(frozen=True)
class Apart:
    """Points (N, d) with distances of a metric other than the Euclidean one; "precomputed": points are distances."""

    points: np.ndarray
    metric: str

    def nearness(self, rows: np.ndarray) -> np.ndarray:
        """(q, N): distances from some rows to all points; the point itself is last."""
        if self.metric == "precomputed":
            found = np.array(self.points[rows])
        else:
            from sklearn.metrics import pairwise_distances

            binary = self.metric in ("jaccard", "dice")
            points = self.points != 0 if binary else self.points
            found = pairwise_distances(points[rows], points, metric=self.metric)
        found[np.arange(len(rows)), rows] = np.inf
        return found

    def chosen(self, rows: np.ndarray, near: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Distances (q, k) to the chosen columns."""
        return np.take_along_axis(near, columns, 1)

    def lengths(self, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Distances (q, N) from nearness; 0 to the point itself."""
        near[np.arange(len(rows)), rows] = 0
        return near


def _by_all(data: np.ndarray, halves: np.ndarray, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (q, count) and indices (q, count) of the nearest others of some rows."""
    lengths, indices = np.empty((len(rows), count), data.dtype), np.empty((len(rows), count), np.int64)
    for start, stop in spans(len(rows), block_rows(len(data))):
        mine = rows[start:stop]
        near = nearness(data[mine], data, halves)
        near[np.arange(len(mine)), mine] = np.inf
        found, indices[start:stop] = smallest(near, count)
        lengths[start:stop] = np.sqrt((2 * (found + halves[mine, None])).clip(0))
    return lengths, indices


# --- lists --------------------------------------------------------------------------------------------------------------


@contextmanager
def _faiss(jobs: int, plain: bool) -> Iterator[Any]:
    """faiss on so many threads; plain: centres too by differences, not by products that cancel. Both put back."""
    try:
        import faiss
    except ImportError:
        raise need("faiss-cpu", "embed") from None
    before = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    try:
        faiss.omp_set_num_threads(jobs)
        if plain:
            faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
        yield faiss
    finally:
        faiss.omp_set_num_threads(before[0])
        faiss.cvar.distance_compute_blas_threshold = before[1]


def neighbours_in_lists(
    points: np.ndarray,
    count: int,
    *,
    seed: int = 0,
    wanted: float = 0.995,
    jobs: int = 1,
    forced: bool = False,
    step: Step = lambda *_: None,
) -> Neighbours:
    """The count nearest other points of every point among those of the k-means lists nearest to it: points (N, d).

    faiss' inverted file: lists of about 125 points, 4 or more of them looked through for every point, as many as it takes
    to find `wanted` of the true neighbours of 256 points, at most 25,000 points. Where all distances are cheaper (data
    without structure) and N is at most 300,000, they are taken instead, unless forced.
    Source: Jegou, Douze and Schmid 2011, Product quantization for nearest neighbor search, doi:10.1109/TPAMI.2010.57
    (the inverted file, here without quantization).
    """
    truth = Truth.of(points, count, seed)
    plain = dtype_for(points, count, truth) is np.float64
    data = np.ascontiguousarray(points, np.float32) if plain else centred(points)
    total = len(data)
    with _faiss(jobs, plain) as faiss:
        index = _lists(faiss, data, seed)
        order, code = _codes(faiss, index, total)
        sizes = np.bincount(code, minlength=index.nlist)
        near = index.quantizer.search(data[truth.rows], index.nlist)[1]
        place = np.empty_like(near)
        np.put_along_axis(place, near, np.broadcast_to(np.arange(index.nlist), near.shape), 1)
        ranks = np.take_along_axis(place, code[truth.indices], 1)
        shares = np.cumsum(np.bincount(ranks.ravel(), minlength=index.nlist)) / ranks.size
        scanned = np.cumsum(sizes[near], 1).mean(0)
        probes = max(int(np.searchsorted(shares, wanted)) + 1, LEAST_PROBES)
        probes = min(probes, index.nlist)
        dear = DEAR * (2 if plain else 1)
        if not forced and total <= MOST_EXACT and scanned[probes - 1] * dear > total:
            return _exact(points, count, truth, step)
        affordable = max(LEAST_PROBES, int(np.searchsorted(scanned, MOST_SCANNED)))
        index.nprobe = min(probes, affordable, index.nlist)
        indices, lengths = np.empty((total, count), np.int32), np.empty((total, count), np.float32)
        for start, stop in spans(total, max(4096, total // 50)):
            rows = order[start:stop]
            found, columns = index.search(data[rows], count + 1)
            few = (columns < 0).any(1)
            if few.any():  # the lists looked through hold too few points
                probed, index.nprobe = index.nprobe, index.nlist
                found[few], columns[few] = index.search(data[rows[few]], count + 1)
                index.nprobe = probed
            itself = columns == rows[:, None]
            itself[~itself.any(1), -1] = True  # more twins than were asked for
            lengths[rows] = np.sqrt(found[~itself].reshape(len(rows), count))
            indices[rows] = columns[~itself].reshape(len(rows), count)
            step(stop, total)
    return Neighbours(indices, lengths, "lists", truth.recall(points, indices[truth.rows]))


def _lists(faiss: Any, data: np.ndarray, seed: int) -> Any:
    """An inverted file of all points, its centres by six rounds of k-means on 64 points a list."""
    width, lists = data.shape[1], max(2, len(data) // LIST)
    centres = faiss.IndexFlatL2(width)
    index = faiss.IndexIVFFlat(centres, width, lists)
    index.cp.niter, index.cp.seed = 6, seed % 2**31
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
    index.train(data)
    index.add(data)
    return index


def _codes(faiss: Any, index: Any, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows list by list (so that what is looked through stays in the processor's cache), and the list of every row."""
    lists = index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    held = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in enumerate(sizes) if size]
    order, code = np.concatenate(held), np.empty(total, np.int64)
    code[order] = np.repeat(np.arange(index.nlist), sizes)
    return order, code
