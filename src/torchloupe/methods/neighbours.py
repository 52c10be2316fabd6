"""The nearest other points of every point: by all distances, or by those to the points of nearby cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 1 << 23
ROWS = 256
CELL = 500
LEAST_PROBES, MOST_PROBES = 8, 64
ASKED = 256
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Neighbours:
    """indices (N, count) int32 and distances (N, count) float32 of the nearest other points, nearest first.

    search: exact, or cells; recall: the share of the true nearest ones among them, for cells measured on 256 points.
    """

    indices: np.ndarray
    lengths: np.ndarray
    search: str = "exact"
    recall: float = 1.0

    def record(self) -> dict[str, Any]:
        """How they were found, as plain JSON."""
        return {"neighbours": self.search, "neighbours_found": self.recall}


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


def nearest_neighbours(points: np.ndarray, count: int, step: Step = lambda *_: None) -> Neighbours:
    """The count nearest other points of every point, by all distances, exact to float32: points (N, d)."""
    data = centred(points)
    total, halves = len(data), halved(data)
    indices, lengths = np.empty((total, count), np.int32), np.empty((total, count), np.float32)
    for start, stop in spans(total, block_rows(total)):
        near = nearness(data[start:stop], data, halves)
        near[np.arange(stop - start), np.arange(start, stop)] = np.inf
        found, indices[start:stop] = smallest(near, count)
        lengths[start:stop] = _lengths(found, halves[start:stop])
        step(stop, total)
    return Neighbours(indices, lengths)


def _lengths(found: np.ndarray, halves: np.ndarray) -> np.ndarray:
    return np.sqrt((2 * (found + halves[:, None])).clip(0))


@dataclass(frozen=True)
class Cells:
    """Points sorted by the cell of k-means that they lie in, cells of at most 2 * CELL points.

    order (N,): rows of the points in the order of the cells; edges (C + 1,): where each cell begins; centres (C, d);
    around (C, p): for every cell the cells whose centres are nearest, itself first.
    """

    order: np.ndarray
    edges: np.ndarray
    centres: np.ndarray
    around: np.ndarray

    @classmethod
    def of(cls, data: np.ndarray, seed: int) -> Cells:
        """k-means (6 rounds on a sample of 64 points a centre) with N / CELL centres; larger cells are cut in pieces."""
        count = max(2, len(data) // CELL)
        sample = data[np.random.default_rng(seed).permutation(len(data))[: 64 * count]]
        centres = sample[:count].copy()
        for _ in range(6):
            code = _assigned(sample, centres)
            order = np.argsort(code, kind="stable")
            filled, first = np.unique(code[order], return_index=True)
            sums = np.add.reduceat(sample[order].astype(np.float64), first)
            centres[filled] = sums / np.diff([*first, len(sample)])[:, None]
        code = _assigned(data, centres)
        order = np.argsort(code, kind="stable")
        whole = np.searchsorted(code[order], np.arange(count + 1))
        pieces = [(cell, start) for cell in range(count) for start in range(whole[cell], whole[cell + 1], 2 * CELL)]
        cells, edges = (np.array(column) for column in zip(*pieces, strict=True))
        centres = centres[cells]
        probes = min(MOST_PROBES, len(centres))
        around, halves = np.empty((len(centres), probes), np.int64), halved(centres)
        for start, stop in spans(len(centres), block_rows(len(centres))):
            near = nearness(centres[start:stop], centres, halves)
            near[np.arange(stop - start), np.arange(start, stop)] = -np.inf
            around[start:stop] = smallest(near, probes)[1]
        return cls(order, np.append(edges, len(data)), centres, around)

    def members(self, cell: int, probes: int) -> np.ndarray:
        """Places in `order` of the points of a cell and of the cells around it, its own first."""
        return np.concatenate([np.arange(self.edges[i], self.edges[i + 1]) for i in self.around[cell, :probes]])

    def probes(self, data: np.ndarray, count: int, seed: int, wanted: float) -> tuple[int, float]:
        """How many cells to look at so that `wanted` of the true neighbours are found, and the share that is found.

        Read off 256 points: in how many cells' distance do their true neighbours lie?
        """
        asked = np.random.default_rng(seed).choice(len(data), min(ASKED, len(data)), replace=False)
        place = np.empty(len(data), np.int64)
        place[self.order] = np.arange(len(data))
        cell = np.searchsorted(self.edges, place, side="right") - 1
        halves, ranks = halved(data), np.empty((len(asked), count), np.int64)
        for start, stop in spans(len(asked), block_rows(len(data))):
            near = nearness(data[asked[start:stop]], data, halves)
            near[np.arange(stop - start), asked[start:stop]] = np.inf
            theirs = cell[smallest(near, count)[1]]
            seen = theirs[:, :, None] == self.around[cell[asked[start:stop]]][:, None, :]
            ranks[start:stop] = np.where(seen.any(2), seen.argmax(2), MOST_PROBES)
        most = self.around.shape[1]
        shares = np.array([(ranks < probes).mean() for probes in range(1, most + 1)])
        enough = np.flatnonzero(shares >= wanted)
        chosen = min(most, max(LEAST_PROBES, int(enough[0]) + 1 if len(enough) else most))
        return chosen, float(shares[chosen - 1])


def _assigned(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    halves = halved(centres)
    size = block_rows(len(centres))
    parts = [nearness(points[a:b], centres, halves).argmin(1) for a, b in spans(len(points), size)]
    return np.concatenate(parts)


def neighbours_in_cells(
    points: np.ndarray, count: int, *, seed: int = 0, wanted: float = 0.99, step: Step = lambda *_: None
) -> Neighbours:
    """The count nearest other points of every point among those of the cells around it: points (N, d).

    k-means cells of about 500 points; each cell asks all points of the 8 to 64 cells whose centres are nearest to its
    own, as many as it takes to find `wanted` of the true neighbours. Work grows with N, memory is N x (d + 2 * count).
    Source: Jegou, Douze and Schmid 2011, Product quantization for nearest neighbor search, doi:10.1109/TPAMI.2010.57
    (the inverted file, here without quantization).
    """
    data = centred(points)
    cells = Cells.of(data, seed)
    probes, recall = cells.probes(data, count, seed, wanted)
    indices, lengths = np.empty((len(data), count), np.int32), np.empty((len(data), count), np.float32)
    for cell, centre in enumerate(cells.centres):
        first, end = cells.edges[cell], cells.edges[cell + 1]
        members = cells.order[_enough(cells, cell, probes, count)]
        near = data[members] - centre
        halves = halved(near)
        for start, stop in spans(end - first, ROWS):
            apart = nearness(near[start:stop], near, halves)
            apart[np.arange(stop - start), np.arange(start, stop)] = np.inf
            found, columns = smallest(apart, count)
            mine = members[start:stop]
            indices[mine], lengths[mine] = members[columns], _lengths(found, halves[start:stop])
        step(int(end), len(data))
    return Neighbours(indices, lengths, "cells", recall)


def _enough(cells: Cells, cell: int, probes: int, count: int) -> np.ndarray:
    """Members of the cells around, of more cells where those hold too few points."""
    members = cells.members(cell, probes)
    while len(members) <= count and probes < cells.around.shape[1]:
        probes = min(2 * probes, cells.around.shape[1])
        members = cells.members(cell, probes)
    return (
        members
        if len(members) > count
        else np.concatenate([members, np.setdiff1d(np.arange(len(cells.order)), members)])
    )
