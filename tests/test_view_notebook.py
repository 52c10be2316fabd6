"""Results in a notebook: as a picture, in a frame without a server, and as a widget with a selection."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_view import browser, heatmaps, until, write

from torchloupe.kinds.census import Seen
from torchloupe.runs.found import results
from torchloupe.store import Files

__all__ = ["browser"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store, rng = Files(tmp_path / "run"), np.random.default_rng(0)
    store.begin({})
    for name in "abc":
        write(store, heatmaps(name, rng, 0.5, word='</iframe>"<b>'))
    return tmp_path / "run"


def test_a_result_is_its_picture_and_a_run_its_page(browser: Any, folder: Path, tmp_path: Path) -> None:
    found = results(folder)
    picture = found["a"]._repr_png_()
    assert Image.open(io.BytesIO(picture)).size == (48, 32)
    assert (
        Seen(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 72)), np.array(["x"]))._repr_png_() is None
    )  # nothing to draw
    (tmp_path / "cell.html").write_text(f"<!doctype html><p>a cell</p>{found._repr_html_()}", encoding="utf-8")
    page = browser.new_context(offline=True).new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "cell.html").as_uri())
    frame = until(lambda: page.frames[1:])[0]
    frame.wait_for_selector('.tile[data-id="b"]')
    frame.click('.tile[data-id="b"]')
    frame.wait_for_selector('.one[data-id="b"] .large canvas')
    assert wrong == []


def test_a_widget_tells_and_takes_its_selection(browser: Any, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    made = results(folder).widget()
    (tmp_path / "widget.js").write_text(made._esm if isinstance(made._esm, str) else str(made._esm))
    script = (tmp_path / "widget.js").read_text().replace("export default", "window.widget =")
    page = browser.new_context(offline=True).new_page()
    page.goto("about:blank")
    page.evaluate(script + ";0")
    page.evaluate(
        "(held) => { const acts = []; window.held = held; widget.render({ el: document.body, model: { get: (n) => held[n], "
        "set: (n, v) => { held[n] = v; }, save_changes: () => {}, on: (n, act) => acts.push(act), off: () => {} } }); "
        "window.change = (s) => { held.selection = s; acts.forEach((act) => act()); }; }",
        {"page": made.page, "tall": made.tall, "selection": {}},
    )
    frame = until(lambda: page.frames[1:])[0]
    frame.click('.tile[data-id="c"]')
    frame.wait_for_selector('.one[data-id="c"] .large canvas')
    assert page.evaluate("() => window.held.selection") == {"view": "sample", "id": "c"}
    page.evaluate("() => window.change({ view: 'sample', id: 'a', question: 1 })")
    frame.wait_for_selector('.one[data-id="a"] .tabs button:nth-child(2)[aria-pressed=true]')
