"""Neighbours against plain sorting: over all distances, and in cells."""

from __future__ import annotations

import numpy as np
import pytest

from torchloupe.methods import neighbours as module
from torchloupe.methods.neighbours import nearby, nearest_neighbours, neighbours_in_cells, smallest


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


@pytest.mark.parametrize("spread", ["blobs", "one cloud", "uneven"])
def test_cells_find_what_they_say(monkeypatch, spread):
    monkeypatch.setattr(module, "CELL", 40)
    random = np.random.default_rng(1)
    code = np.sort(random.integers(0, 8, 1500) * (random.random(1500) < (0.2 if spread == "uneven" else 1)))
    centres = np.zeros((8, 5)) if spread == "one cloud" else 30 * random.normal(size=(8, 5))
    points = (centres[code] + random.normal(size=(1500, 5))).astype(np.float32)
    found, expected = neighbours_in_cells(points, 12, seed=3), by_sorting(points, 12)
    share = np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(found.indices, expected, strict=True)])
    assert found.search == "cells"
    assert found.recall > 0.98
    assert share == pytest.approx(found.recall, abs=0.02)
    assert not (found.indices == np.arange(1500)[:, None]).any()
    assert all(len(set(row)) == 12 for row in found.indices.tolist())
    apart = np.linalg.norm(points[found.indices].astype(float) - points[:, None], axis=2)
    assert found.lengths == pytest.approx(apart, abs=2e-3)
    assert (np.diff(found.lengths) >= 0).all()


def test_more_neighbours_than_the_cells_around_hold(monkeypatch):
    monkeypatch.setattr(module, "CELL", 4)
    monkeypatch.setattr(module, "MOST_PROBES", 2)
    points = np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32)
    found = neighbours_in_cells(points, 60)
    assert all(len(set(row)) == 60 for row in found.indices.tolist())


def test_repeated_points_are_neighbours_of_each_other(monkeypatch):
    monkeypatch.setattr(module, "CELL", 20)
    points = np.repeat(np.random.default_rng(0).normal(size=(6, 4)), 100, 0).astype(np.float32)
    found = neighbours_in_cells(points, 10)
    assert found.lengths.max() < 1e-3
    assert (found.indices // 100 == np.arange(600)[:, None] // 100).all()


def test_nearby_is_an_order_that_keeps_near_points_together():
    points = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    order = nearby(points)
    assert np.array_equal(np.sort(order), np.arange(3000))
    apart = np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
    assert apart < 0.5 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
