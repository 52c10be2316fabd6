"""The joints of a pose diagnosis in the browser: what the table, the samples and the comparison of two models say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_view import browser, opened, served

from torchloupe.errors import BadInput
from torchloupe.store import Artifact, whole
from torchloupe.store.stream import Stream
from torchloupe.view.api import Library
from torchloupe.view.joints import Joints

__all__ = ["browser"]
NAMES = ["nose", "left_knee", "right_knee"]


def diagnosis(root: Path, seed: int, samples: int = 6) -> dict[str, np.ndarray]:
    """ig/ and epe/ of a few samples, and the stacked errors (n, j), NaN where a joint is not annotated."""
    rng, settings = np.random.default_rng(seed), {
        "skeleton": {"joints": NAMES, "limbs": [[1, 2]]}, "crop": {"size": [32, 48]}, "coordinates": "input"}  # fmt: skip
    streams = {kind: Stream(root, kind) for kind in ("ig", "epe")}
    for stream in streams.values():
        stream.begin(settings)
    errors = []
    for i in range(samples):
        weight = np.array([1, 1, i % 2], float)
        true, predicted = rng.uniform(5, 25, (3, 2)), rng.uniform(5, 25, (3, 2))
        away = np.where(weight > 0, np.linalg.norm(true - predicted, axis=1), np.nan)
        errors.append(away)
        shared = {"weight": weight, "true": true, "picture": rng.integers(0, 255, (48, 32, 3), dtype=np.uint8)}
        epe = {"predicted": predicted, "decoded": predicted, "annotated": true, "EPE": away, "confidence": rng.random(3),
               "extent": np.array([64.0, 96.0])}  # fmt: skip
        streams["epe"].write(str(i), Artifact({**shared, **epe}, {}), {})
        asked = np.flatnonzero(weight)
        ig = {"joints": asked, "scores": rng.random(len(asked)), "scale": np.ones(len(asked)), "RI": rng.random((3, 3)),
              "maps": rng.random((len(asked), 48, 32)).astype("f2"), **{name: rng.random(3) for name in ("DI", "FI", "LI")}}  # fmt: skip
        streams["ig"].write(str(i), Artifact({**shared, **ig}, {}), {})
    kinds = {str(i): ["good", "jitter", None] for i in range(samples)}
    whole(root / "mistakes.json", json.dumps({"samples": kinds}))
    return {"EPE": np.array(errors)}


def test_joints_are_sorted_opened_and_compared(browser: Any, tmp_path: Path) -> None:
    made = [diagnosis(tmp_path / name, seed)["EPE"] for seed, name in enumerate(("one", "two"))]
    for at in served([tmp_path / "one", tmp_path / "two"]):
        page = opened(browser, at + "#run=0&view=table&sort=EPE&down=1")
        first = made[0]
        order = [(i, j) for i, j in np.ndindex(first.shape) if np.isfinite(first[i, j])]
        assert page.inner_text("#said") == f"{len(order)} samples"
        order.sort(key=lambda at: -first[at])
        shown = page.evaluate("() => [...document.querySelectorAll('tbody tr')].map((r) => r.dataset.id)")
        assert shown == [f"{i}/{NAMES[j]}" for i, j in order]
        page.locator("tbody tr").first.click()
        page.wait_for_selector(".one .marks")
        worst = order[0]
        assert page.inner_text(".one h2") == f"{worst[0]}/{NAMES[worst[1]]}"
        assert page.inner_text(".tabs [aria-pressed=true]").startswith(NAMES[worst[1]])
        row = page.inner_text("tr.mine")
        assert row.startswith(NAMES[worst[1]])
        assert f"{first[worst]:.4g}"[:4] in row
        known = int(np.isfinite(first[worst[0]]).sum())
        assert page.locator(".marks circle").count() == known + 3  # annotated ones, and all that are predicted
        page.goto(at + "#run=0&view=compare&y=EPE&other=3")
        page.wait_for_selector("#verdict")
        apart = (made[1] - first)[np.isfinite(first)]
        said = page.inner_text("#verdict")
        assert said.startswith(f"{len(apart)} samples in both. two: joints less one: joints: ")
        assert float(said.split("joints: ")[-1].split(" ")[0]) == pytest.approx(apart.mean(), rel=1e-3)
        assert page.wrong == []


def test_rows_of_joints_are_what_the_arrays_say(tmp_path: Path) -> None:
    errors = diagnosis(tmp_path, 5)["EPE"]
    library = Library([tmp_path])
    assert [run.name for run in library.runs] == [
        f"{tmp_path.name}: joints",
        f"{tmp_path.name}/epe",
        f"{tmp_path.name}/ig",
    ]
    rows = {row["id"]: row for row in library.runs[0].table.rows(count=500)}
    assert set(rows) == {f"{i}/{NAMES[j]}" for i, j in np.ndindex(errors.shape) if np.isfinite(errors[i, j])}
    for i in range(6):
        held = Stream(tmp_path, "ig").arrays(str(i))
        row = rows[f"{i}/left_knee"]
        assert row["EPE"] == pytest.approx(errors[i, 1])
        assert row["decoded"] == pytest.approx(errors[i, 1] / 2)  # 32 pixels of input over 64 of the picture
        assert row["error"] == "jitter"
        assert row["DI"] == held["DI"][1]
        other = [held["RI"][1, 0], -1, held["RI"][1, 2]]
        assert (row["RI"], row["RI at"]) == (max(other), NAMES[int(np.argmax(other))])
    with pytest.raises(BadInput, match="no joint '0/tail'"):
        library.runs[0].sample("0/tail")
    with pytest.raises(BadInput, match="no results of loupe pose"):
        Joints(tmp_path / "ig")
