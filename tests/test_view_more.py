"""What the page does with one sample, with columns of numbers and with two runs; downloads."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from test_view import browser, go, heatmaps, opened, pixels, served

from torchloupe import store as stored
from torchloupe.runs.found import results
from torchloupe.store import Artifact, Files
from torchloupe.store.stream import Stream
from torchloupe.view.api import Library
from torchloupe.view.report import write_report
from torchloupe.view.server import application

__all__ = ["browser"]
COMMAND = "loupe cam 'two words.png' --model timm:resnet18"


def judged(name: str, rng: np.random.Generator) -> Artifact:
    made = heatmaps(name, rng, 0.5)
    at = np.linspace(0, 1, 5)
    curves = {"gradcam/layer4": rng.random((2, 5)), "centre": rng.random((2, 5))}
    values = {key: curve.mean(1).tolist() for key, curve in curves.items()}
    told = {
        "numbers": {"deletion": {"better": "low", "chance": [0.25, 0.5], "value": values}},
        "curves": {"deletion": {"at": at.tolist(), "maps": list(curves)}},
        "controls": ["centre"],
        "said": [],
    }
    arrays = made.arrays() | {f"curve/deletion/{key}": curve for key, curve in curves.items()}
    record = {**made.record, "kind": "judged", "judged": told, "command": COMMAND}
    return Artifact(arrays, {**record, "row": {"deletion": values["gradcam/layer4"][0], "class": f"c{int(name) % 3}"}})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs over the same samples."""
    folders = [tmp_path_factory.mktemp(name) / name for name in ("one", "two")]
    for seed, folder in enumerate(folders):
        rng, store = np.random.default_rng(seed), Files(folder)
        store.begin({})
        for i in range(12):
            store.write(str(i), judged(str(i), rng), {})
    return folders


@pytest.fixture(scope="module")
def address(two: list[Path]) -> Iterator[str]:
    yield from served(two)


def test_a_pinned_place_says_what_every_map_holds_there(browser: Any, address: str, two: list[Path]) -> None:
    page = opened(browser, address + "#view=sample&id=3&with=3&other=1")
    page.wait_for_selector(".difference canvas")
    box = page.locator(".one .large .frame").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.3)
    page.wait_for_selector(".at td")
    cells = page.locator(".at").first.locator("tbody td:nth-child(2)").all_inner_texts()
    made = [results(folder)["3"] for folder in two]
    want = [values[0, 0, 1, 3] for values in made[0].maps.values()]
    assert [float(cell) for cell in cells] == pytest.approx(want, rel=1e-5)
    pins = page.locator(".pin:visible").count()
    assert pins >= 6  # large and small panels of both, and their difference
    # zooming in one zooms all: the same transformation
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => location.hash.includes('zoom=')")
    seen = page.evaluate(
        "() => [...document.querySelectorAll('.large canvas, .small canvas')].map((c) => getComputedStyle(c).transform.split(',')[0])"
    )
    assert len(set(seen)) == 1
    assert float(seen[0].removeprefix("matrix(")) == pytest.approx(np.exp(400 / 300), rel=1e-3)
    # the third map is the second less the first, around 0
    a, b = (one.maps["gradcam", "layer4"][0, 0].astype(float) for one in made)
    page.mouse.move(0, 0)
    page.click("#whole")
    page.locator(".difference .frame").scroll_into_view_if_needed()
    frame = page.locator(".difference .frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] * 0.9, frame["y"] + frame["height"] * 0.3)
    said = page.inner_text(".difference .readout")
    assert float(said.split(" at row")[0]) == pytest.approx((b - a)[1, 3], rel=1e-4)
    assert page.wrong == []


def test_a_contour_lies_where_the_map_crosses_the_threshold(browser: Any, address: str, two: list[Path]) -> None:
    from torchloupe.render.colour import resize

    page = opened(browser, address + "#view=sample&id=5&opacity=0")
    page.wait_for_selector(".large canvas")
    page.check("#contour")
    values = resize(results(two[0])["5"].maps["gradcam", "layer4"][0, 0].astype(float), (32, 48))
    above = values >= values.max() / 2
    padded = np.pad(above, 1, mode="edge")
    near = [padded[1 + r : 33 + r, 1 + c : 49 + c] for r, c in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    edge = above & ~np.logical_and.reduce(near)
    got = np.array(pixels(page, ".large canvas")).reshape(32, 48, 4)
    white = (got[..., :3] > 250).all(-1) & (got[..., 3] == 255)
    assert (white == edge).mean() > 0.995  # float32 may put a pixel on the other side
    assert edge.any()


def test_numbers_and_curves_stand_beside_the_map(browser: Any, address: str, two: list[Path]) -> None:
    page = opened(browser, address + "#view=sample&id=7")
    page.wait_for_selector(".chart path")
    made = results(two[0])["7"]
    cells = page.locator(".numbers td").all_inner_texts()
    want = [made.numbers["deletion"].value["gradcam/layer4"][0], made.numbers["deletion"].value["centre"][0], 0.25]
    assert [float(cell) for cell in cells] == pytest.approx(want, rel=1e-3)
    page.locator(".chart svg").scroll_into_view_if_needed()
    chart = page.locator(".chart svg").bounding_box()
    before = pixels(page, ".large canvas")
    x = chart["x"] + chart["width"] * (52 + 300 * 0.5) / 360  # half of the axis
    page.mouse.move(x, chart["y"] + chart["height"] / 2)
    said = page.inner_text(".chart .readout").removeprefix("taken away 0.5: ").split()
    curves = made.curves["deletion"].value
    assert [float(one) for one in said] == pytest.approx([curves[key][0, 2] for key in curves], rel=1e-3)
    taken = np.array(pixels(page, ".large canvas")).reshape(-1, 4)
    assert (taken[:, 3] == 255).mean() == pytest.approx(0.5, abs=0.01)
    page.mouse.move(0, 0)
    assert pixels(page, ".large canvas") == before
    assert page.inner_text("#command") == COMMAND
    assert page.wrong == []


def test_columns_of_numbers_as_scatter_and_by_group_and_between_runs(
    browser: Any, address: str, two: list[Path]
) -> None:
    first, second = ({row["id"]: row["deletion"] for row in results(folder).table} for folder in two)
    page = opened(browser, address + "#view=compare")
    said = page.inner_text("#verdict")
    apart = np.array([second[id] - first[id] for id in first])
    assert said.startswith("12 samples in both. two less one: ")
    assert float(said.split(": ")[1].split(" ")[0]) == pytest.approx(apart.mean(), rel=1e-3)
    low, high = (float(one) for one in said.split("interval ")[1].split(" (")[0].split(" .. "))
    assert low < apart.mean() < high
    error = apart.std(ddof=1) / np.sqrt(12)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.25)
    page.click("ol button")
    page.wait_for_selector(".one ~ .one")
    most = max(first, key=lambda id: abs(second[id] - first[id]))
    assert [one.get_attribute("data-id") for one in page.locator(".one").all()] == [most, most]
    go(page, view="spread", id="", group="class", y="deletion", **{"with": ""})
    page.wait_for_selector(".numbers td")
    rows = [
        [cell.inner_text() for cell in row.locator("th, td").all()] for row in page.locator(".numbers tbody tr").all()
    ]
    for name, *figures in rows:
        mine = np.array([value for id, value in first.items() if f"c{int(id) % 3}" == name])
        quartiles = np.quantile(mine, [0.25, 0.5, 0.75])
        want = [len(mine), mine.mean(), *quartiles, mine.max()]
        assert [float(one) for one in figures] == pytest.approx(want, rel=1e-3)
    assert len(rows) == 3
    go(page, view="scatter")
    assert "fewer" in page.inner_text(".hint")
    assert page.wrong == []


def test_files_of_what_is_on_screen(browser: Any, address: str, two: list[Path], tmp_path: Path) -> None:
    page = opened(browser, address + "#view=sample&id=2")
    page.wait_for_selector(".large canvas")

    def given(button: str, name: str) -> Path:
        with page.expect_download() as coming:
            page.click(f".files button:text-is('{button}')")
        assert coming.value.suggested_filename == name
        coming.value.save_as(tmp_path / name)
        return tmp_path / name

    made = results(two[0]).store.read("2").arrays
    with np.load(given("npz", "2.npz")) as found:
        assert set(found) == set(made)
        assert all((found[name] == made[name]).all() for name in made)
    assert Image.open(given("PNG", "2.png")).size == (48 * 11, 32 * 11)
    assert given("SVG", "2.svg").read_text().startswith("<svg")
    rows = list(csv.DictReader(io.StringIO(given("CSV", "one.csv").read_text())))
    assert {row["id"]: float(row["deletion"]) for row in rows} == {
        row["id"]: row["deletion"] for row in results(two[0]).table
    }
    write_report([two[0]], tmp_path / "r.html")
    page = opened(browser, (tmp_path / "r.html").as_uri() + "#view=sample&id=2", offline=True)
    page.wait_for_selector(".large canvas")
    with np.load(given("npz", "2.npz")) as found:
        assert set(found) == {"map/gradcam/layer4", "map/occlusion/input"}
        assert all((found[name] == made[name]).all() for name in found.files)
    assert len(list(csv.DictReader(io.StringIO(given("CSV", "one.csv").read_text())))) == 12
    assert page.wrong == []


def test_scale_of_the_run_is_its_largest_value(two: list[Path]) -> None:
    client = TestClient(application(Library(two), "key", 8000), base_url="http://127.0.0.1:8000")
    told = client.get("/key/api/runs/0/peak", params={"method": "occlusion", "layer": "input"}).json()
    want = max(np.abs(one.maps["occlusion", "input"]).max() for one in results(two[0]).values())
    assert told == {"top": pytest.approx(float(want)), "of": 12}
    answer = client.get("/key/api/runs/0/columns", params={"names": '["nothing"]'})
    assert (answer.status_code, answer.json()["error"][:20]) == (404, "no column 'nothing'.")


def test_records_tell_the_command_that_made_them(tmp_path: Path) -> None:
    arrays, record = {"y": np.zeros(1)}, {"kind": "x"}
    plainly = stored.load_record(stored.save(tmp_path, "a", arrays, record))
    with stored.speaking(["loupe", "cam", "two words.png"]):
        told = stored.load_record(stored.save(tmp_path, "a", arrays, record))
        stream = Stream(tmp_path, "ig")
        stream.begin({"model": "x"})
    assert told == {**plainly, "command": "loupe cam 'two words.png'"}
    assert told["key"] == plainly["key"]
    assert stream.settings()["command"] == "loupe cam 'two words.png'"
    stream.begin({"model": "x"})  # another command may go on with it
    assert stored.spoken() == {}
