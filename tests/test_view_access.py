"""No serious fault of access in any view: names, contrast, keys, as axe-core finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from test_view import browser, heatmaps, opened, served, until, write
from test_view_joints import diagnosis
from test_view_more import judged

from torchloupe.arrange import write_points
from torchloupe.points import Points
from torchloupe.store import Files

__all__ = ["browser"]
VIEWS = ("gallery", "table", "scatter", "spread", "compare", "sample&id=1", "sample&id=1&with=2&place=.5,.5", "failed")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("access"), np.random.default_rng(0)
    for name in ("run", "other"):
        store = Files(folder / name)
        store.begin({})
        for i in range(3):
            store.write(str(i), judged(str(i), rng), {})
        write(store, heatmaps("3", rng, 0.5))
        store.fail("bad", "it is empty")
        store.flush()
    diagnosis(folder / "pose", 0, 3)
    labels = np.array(["a", "b"])[rng.integers(0, 2, 40)]
    columns = {"labels": labels, "age": rng.random(40)}
    write_points(
        Points(rng.normal(size=(40, 2)), np.arange(40).astype(str), columns, {"kind": "projection"}), folder / "map.npz"
    )
    return [folder / name for name in ("run", "other", "pose", "map.npz")]


def faults(page: Any) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found if one["impact"] in ("serious", "critical")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_view_has_a_serious_fault(browser: Any, paths: list[Path], theme: str) -> None:
    for at in served(paths):
        for view in VIEWS:
            page = opened(browser, f"{at}#view={view}", theme=theme)
            assert faults(page) == [], view
        page = opened(browser, f"{at}#run=2&view=sample&id=1/nose", width=390, theme=theme)
        assert faults(page) == []
        page = opened(browser, f"{at}#run=5&view=map", theme=theme)
        frame = until(lambda: page.frames[1:])[0]  # noqa: B023
        frame.wait_for_function("() => window.loupe && window.loupe.ready")
        assert faults(page) == []


def test_the_first_views_have_no_serious_fault(browser: Any, paths: list[Path]) -> None:
    for at in served(paths):
        for view in ("gallery", "sample&id=1"):
            page = opened(browser, f"{at}#view={view}")
            assert faults(page) == [], view
        page.evaluate("() => document.body.append(document.createElement('button'))")
        assert [one.split(":")[0] for one in faults(page)] == ["button-name"]
