"""A map of points in the page: exact values, search, filters by histograms, neighbours in feature space and the heatmap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_view import NAMES, browser, heatmaps, opened, served, until, write

from torchloupe.arrange import write_points
from torchloupe.points import Points
from torchloupe.store import Files
from torchloupe.view.api import Library

__all__ = ["browser"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A map, its features, and a run of heatmaps of the same samples."""
    folder, rng = tmp_path_factory.mktemp("points"), np.random.default_rng(7)
    count = len(NAMES)
    feats = rng.normal(size=(count, 6)).astype("f4")
    age = rng.integers(0, 1000, count) + 0.125
    age[3] = np.nan
    columns = {
        "labels": np.array(["dog", "cat", "bird"])[rng.integers(0, 3, count)],
        "day": rng.integers(20240101, 20241231, count),
        "when": np.datetime64("2024-02-29") + rng.integers(0, 50, count),
        "age": age,
    }
    ids = np.array(NAMES)
    write_points(
        Points(feats[:, :2] + rng.normal(size=(count, 2)), ids, columns, {"kind": "projection"}), folder / "map.npz"
    )
    write_points(Points(feats, ids, {}, {"kind": "features"}), folder / "feats.npz")
    store = Files(folder / "run")
    store.begin({})
    for name in NAMES[:10]:
        write(store, heatmaps(name, rng, 0.5))
    return [folder / "map.npz", folder / "feats.npz", folder / "run"]


def inner(page: Any) -> Any:
    """The page of points inside the page, once it is drawn."""
    frame = until(lambda: [one for one in page.frames if one.parent_frame])[0]
    frame.wait_for_function("() => window.loupe && window.loupe.ready")
    return frame


def test_a_clicked_point_tells_its_neighbours_and_opens_its_heatmap(browser: Any, paths: list[Path]) -> None:
    library = Library(paths)
    points, feats = library.runs[0].places, library.runs[1].places.feats
    for at in served(paths):
        page = opened(browser, at)
        frame = inner(page)
        box = page.locator("iframe").bounding_box()
        x, y = frame.evaluate("() => window.loupe.screen(4)")
        page.mouse.move(box["x"] + x, box["y"] + y)
        frame.wait_for_selector("#tip:not([hidden])")
        told = frame.inner_text("#tip").splitlines()
        hit = NAMES.index(told[0])  # a neighbour may lie on it
        day, age = int(points.columns["day"][hit]), float(points.columns["age"][hit])
        assert f"day: {day}" in told  # no digit is lost
        assert f"when: {points.columns['when'][hit].astype('datetime64[D]')}" in told
        assert f"age: {age:g}" in told or (age != age and "age: missing" in told)
        page.mouse.click(box["x"] + x, box["y"] + y)
        page.wait_for_selector("#about caption")
        assert page.inner_text("#about h2") == NAMES[hit]
        far = np.linalg.norm(feats.astype(float) - feats[hit], axis=1)
        far[hit] = np.inf
        near = np.linalg.norm(points.feats.astype(float) - points.feats[hit], axis=1)
        near[hit] = np.inf
        want, on_map = np.argsort(far)[:15], set(np.argsort(near)[:15].tolist())
        rows = page.locator("#about table").nth(1).locator("tr").all_inner_texts()
        assert [row.split("\t")[0] for row in rows] == [NAMES[i] for i in want]
        assert [row.split("\t")[1] for row in rows] == ["kept" if i in on_map else "lost" for i in want]
        kept = sum(i in on_map for i in want)
        frame.wait_for_selector("#links line", state="attached")
        assert frame.locator("#links .kept").count() == kept
        assert frame.locator("#links .lost").count() == 15 - kept
        # an id is found and opened
        frame.fill("#seek", "s003")
        assert frame.inner_text("#howmany") == "1 chosen"
        x, y = frame.evaluate("() => window.loupe.screen(3)")
        # a drag over a histogram filters; a missing value fits no filter
        bars = frame.locator(".bars").nth([c for c in points.columns if c != "labels"].index("age")).bounding_box()
        page.mouse.move(bars["x"] + bars["width"] * 0.26, bars["y"] + 10)
        page.mouse.down()
        page.mouse.move(bars["x"] + bars["width"] * 0.74, bars["y"] + 10)
        page.mouse.up()
        values = points.columns["age"]
        low, high = np.nanmin(values), np.nanmax(values)
        a, b = low + (high - low) * 10 / 40, low + (high - low) * 30 / 40
        inside = int(((values >= a) & (values < b)).sum())
        assert frame.evaluate("() => window.loupe.shown()") == inside
        assert frame.inner_text("#count") == f"{inside} of 60 points"
        assert page.wrong == []


def test_points_are_found_in_the_runs_beside(browser: Any, paths: list[Path]) -> None:
    for at in served(paths):
        page = opened(browser, at, width=390, theme="dark")
        frame = inner(page)
        assert frame.evaluate("() => document.getElementById('plot').clientWidth") == 390
        assert frame.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        page.evaluate(
            "() => document.querySelector('iframe').contentWindow.parent.postMessage({loupe: 'point', index: 5}, '*')"
        )
        frame.evaluate("() => parent.postMessage({loupe: 'point', index: 5, id: 's005'}, '*')")
        page.wait_for_selector("#about canvas")
        page.click("#about button")
        page.wait_for_selector('.one[data-id="s005"] .large canvas')
        assert page.wrong == []


def test_neighbours_are_asked_of_a_point_that_there_is(paths: list[Path]) -> None:
    from torchloupe.errors import BadInput

    library = Library(paths)
    assert library.neighbours("0", 3)["row"]["age"] is None
    with pytest.raises(BadInput, match="no point of number 60"):
        library.neighbours("0", 60)
    alone = Library(paths[:1]).neighbours("0", 3)
    assert (alone["of"], alone["features"]) == ([], None)


def test_nothing_moved_most_where_nothing_moved() -> None:
    from torchloupe.methods.arrangement import procrustes

    places = np.random.default_rng(0).normal(size=(50, 2))
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert procrustes(places, places @ turn * 3 + 5).most(30).tolist() == []
    there = places.copy()
    there[7] += 1
    assert procrustes(places, there).most(1).tolist() == [7]
