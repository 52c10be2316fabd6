"""Neighbours against plain sorting: over all distances, and in lists."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from torchloupe.methods import neighbours as module
from torchloupe.methods.neighbours import nearby, nearest_neighbours, neighbours_in_lists, smallest


def by_sorting(points: np.ndarray, count: int) -> np.ndarray:
    apart = ((points[:, None].astype(float) - points[None].astype(float)) ** 2).sum(2)
    np.fill_diagonal(apart, np.inf)
    return np.argsort(apart, 1, kind="stable")[:, :count]


@pytest.mark.parametrize("width", [3, 31, 32, 700, 4999])
@pytest.mark.parametrize("count", [1, 3])
def test_smallest_by_sorting(width, count):
    values = np.random.default_rng(width).integers(0, 50, (20, width)).astype(np.float32)
    found, columns = smallest(values, count)
    expected = np.argsort(values, 1, kind="stable")[:, :count]
    assert np.array_equal(columns, expected)
    assert np.array_equal(found, np.take_along_axis(values, expected, 1))


@pytest.mark.parametrize("total", [70, 700])
def test_nearest_neighbours_by_sorting(total):
    points = np.random.default_rng(0).normal(size=(total, 6)).astype(np.float32) + 100
    found = nearest_neighbours(points, 8)
    expected = by_sorting(points, 8)
    assert np.array_equal(found.indices, expected)
    lengths = np.linalg.norm(points[expected].astype(float) - points[:, None], axis=2)
    assert found.lengths == pytest.approx(lengths, rel=1e-3)
    assert (found.search, found.recall) == ("exact", 1)


def awkward(kind: str, total: int = 1500) -> np.ndarray:
    """Points whose lengths cancel in float32: groups far apart, one loud column, crowds much tighter than the whole."""
    random = np.random.default_rng(2)
    points = random.normal(size=(total, 10))
    if kind == "two groups":
        points[:, 4] += 20_000 * (random.random(total) < 0.5)
    elif kind == "loud column":
        points[:, 0] = random.uniform(0, 3e4, total)
    elif kind == "many far groups":
        points += 1e5 * random.integers(0, 3, (total, 10))
    else:
        points = 300 * random.normal(size=(25, 10))[random.integers(0, 25, total)] + 1e-2 * points
    return points.astype(np.float32)


@pytest.mark.parametrize("search", [nearest_neighbours, partial(neighbours_in_lists, forced=True)])
@pytest.mark.parametrize("kind", ["two groups", "loud column", "many far groups", "tight crowds"])
def test_neighbours_of_points_that_cancel(monkeypatch, search, kind):
    monkeypatch.setattr(module, "LIST", 60)
    points = awkward(kind)
    found, expected = search(points, 12), by_sorting(points, 12)
    share = np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(found.indices, expected, strict=True)])
    assert share > (0.98 if found.search == "lists" else 0.9999)
    assert found.recall == pytest.approx(share, abs=0.01)
    apart = np.linalg.norm(points[found.indices].astype(float) - points[:, None], axis=2)
    assert found.lengths == pytest.approx(apart, rel=1e-4)


def test_the_recall_is_measured_also_where_all_distances_are_taken(monkeypatch):
    monkeypatch.setattr(module, "dtype_for", lambda *_: np.float32)
    assert nearest_neighbours(awkward("two groups"), 12).recall < 0.7


@pytest.mark.parametrize("spread", ["blobs", "one cloud", "uneven"])
def test_lists_find_what_they_say(monkeypatch, spread):
    monkeypatch.setattr(module, "LIST", 20)
    random = np.random.default_rng(1)
    code = np.sort(random.integers(0, 8, 1500) * (random.random(1500) < (0.2 if spread == "uneven" else 1)))
    centres = np.zeros((8, 5)) if spread == "one cloud" else 30 * random.normal(size=(8, 5))
    points = (centres[code] + random.normal(size=(1500, 5))).astype(np.float32)
    found, expected = neighbours_in_lists(points, 12, seed=3, forced=True), by_sorting(points, 12)
    share = np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(found.indices, expected, strict=True)])
    assert found.search == "lists"
    assert found.recall > 0.98
    assert share == pytest.approx(found.recall, abs=0.02)
    assert not (found.indices == np.arange(1500)[:, None]).any()
    assert all(len(set(row)) == 12 for row in found.indices.tolist())
    apart = np.linalg.norm(points[found.indices].astype(float) - points[:, None], axis=2)
    assert found.lengths == pytest.approx(apart, rel=1e-4)
    assert (np.diff(found.lengths) >= 0).all()


def test_all_distances_where_lists_would_not_pay():
    noise = np.random.default_rng(0).normal(size=(1000, 40)).astype(np.float32)
    found = neighbours_in_lists(noise, 10)
    assert (found.search, found.recall) == ("exact", 1)
    assert np.array_equal(found.indices, by_sorting(noise, 10))


def test_more_neighbours_than_the_lists_hold(monkeypatch):
    monkeypatch.setattr(module, "LIST", 4)
    monkeypatch.setattr(module, "MOST_SCANNED", 1)
    points = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    found = neighbours_in_lists(points, 60, forced=True)
    assert all(len({row, *near}) == 61 for row, near in enumerate(found.indices.tolist()))


@pytest.mark.parametrize("search", [nearest_neighbours, partial(neighbours_in_lists, forced=True)])
def test_repeated_points_are_neighbours_of_each_other(monkeypatch, search):
    monkeypatch.setattr(module, "LIST", 20)
    points = np.repeat(np.random.default_rng(0).normal(size=(6, 4)), 100, 0).astype(np.float32)
    found = search(points, 10)
    assert found.lengths.max() < 1e-3
    assert found.recall == 1
    assert (found.indices // 100 == np.arange(600)[:, None] // 100).all()
    assert not (found.indices == np.arange(600)[:, None]).any()


def test_faiss_is_left_as_it_was():
    import faiss

    before = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    neighbours_in_lists(awkward("two groups"), 12, jobs=1, forced=True)
    assert (faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold) == before


def test_nearby_is_an_order_that_keeps_near_points_together():
    points = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    order = nearby(points)
    assert np.array_equal(np.sort(order), np.arange(3000))
    apart = np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
    assert apart < 0.5 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
