"""The interactive page in a real browser, by real mouse events."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from torchloupe.arrange import write_points
from torchloupe.errors import BadInput
from torchloupe.kinds.film import Film
from torchloupe.points import Points
from torchloupe.render.look import Look, View
from torchloupe.render.page import page, write_page
from torchloupe.render.points import flatten


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium, headless=True)
        yield made
        made.close()


def cloud(count: int, dims: int, classes: int = 5) -> Points:
    """Classes in well-separated blobs; the last point of all far from the others."""
    random = np.random.default_rng(0)
    codes = np.arange(count) % classes
    centres = random.uniform(-8, 8, (classes, dims))
    feats = (centres[codes] + random.normal(size=(count, dims)) * 0.5).astype(np.float32)
    feats[-1] = 14
    columns = {"labels": np.array([f"class {i}" for i in range(classes)])[codes], "depth": feats[:, 0].astype(float)}
    return Points(feats, np.array([f"sample {i}" for i in range(count)]), columns, {"kind": "projection"})


def opened(browser, path: Path | str):
    """The page, ready, at 1200 x 800; every request, error and console error it made."""
    view = browser.new_page(viewport={"width": 1200, "height": 800})
    view.asked, view.wrong = [], []
    view.on("request", lambda request: view.asked.append(request.url))
    view.on("pageerror", lambda error: view.wrong.append(str(error)))
    view.on("console", lambda message: view.wrong.append(message.text) if message.type == "error" else None)
    view.goto(path if isinstance(path, str) else path.resolve().as_uri())
    view.wait_for_function("window.loupe && window.loupe.ready", timeout=120_000)
    return view


def hover(view, i: int) -> str:
    x, y = view.evaluate(f"window.loupe.screen({i})")
    view.mouse.move(x - 40, y - 40)
    view.mouse.move(x, y, steps=4)
    view.wait_for_function("!document.getElementById('tip').hidden", timeout=20_000)
    return view.inner_text("#tip")


def lasso(view, x: float, y: float, radius: float) -> list[str]:
    """Draw a ring with the mouse; the ids it listed."""
    view.click("#lasso")
    view.mouse.move(x + radius, y)
    view.mouse.down()
    for i in range(1, 33):
        view.mouse.move(x + radius * math.cos(i * math.pi / 16), y + radius * math.sin(i * math.pi / 16))
        view.wait_for_timeout(15)
    view.mouse.up()
    view.wait_for_function("!document.getElementById('chosen').hidden", timeout=20_000)
    view.click("#lasso")
    return view.input_value("#ids").splitlines()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_hundred_thousand_points(browser, tmp_path, dims):
    points = cloud(100_000, dims)
    view = opened(browser, write_page(points, tmp_path / "p.html", Look(title="A <b>title</b>")))
    assert view.inner_text("#title") == "A <b>title</b>"
    last = len(points) - 1
    tip = hover(view, last)
    assert tip.splitlines()[:2] == [f"sample {last}", f"labels: class {last % 5}"]
    x, y = view.evaluate(f"window.loupe.screen({last})")
    assert lasso(view, x, y, 25) == [f"sample {last}"]
    assert view.evaluate("window.loupe.selected()") == [last]
    rows = view.locator("#legend .row")
    assert rows.count() == 5
    rows.nth(0).locator("input").click()
    view.wait_for_function("window.loupe.shown() == 80000")
    rows.nth(1).dblclick()
    view.wait_for_function("window.loupe.shown() == 20000")
    view.click("#all")
    view.wait_for_function("window.loupe.shown() == 100000")
    view.select_option("#by", label="depth")
    view.wait_for_selector("#legend .bar")
    assert view.asked == [(tmp_path / "p.html").resolve().as_uri()]
    assert view.wrong == []
    view.close()


def test_the_flat_page_paints_every_class_in_its_colour(browser, tmp_path):
    points = cloud(400, 2)
    view = opened(browser, write_page(points, tmp_path / "p.html"))
    view.wait_for_timeout(500)
    view.screenshot(path=tmp_path / "shot.png")
    image = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    found = set()
    for i in range(5):
        x, y = view.evaluate(f"window.loupe.screen({i})")
        ring = image[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].reshape(-1, 3)
        found.add(tuple((ring[np.argmin(ring.sum(1))] // 60).tolist()))
    assert len(found) == 5
    view.close()


def test_the_solid_page_turns_as_the_picture_does_and_saves_its_view(browser, tmp_path):
    points = cloud(500, 3)
    view = opened(browser, write_page(points, tmp_path / "p.html", Look(view="10,20,1.5")))
    before = view.evaluate("window.loupe.view()")
    assert before == {"elev": 10, "azim": 20, "zoom": 1.5}
    view.mouse.move(400, 400)
    view.mouse.down()
    view.mouse.move(500, 360, steps=5)
    view.mouse.up()
    view.mouse.wheel(0, -250)
    view.wait_for_function("window.loupe.view().zoom > 1.5")
    now = view.evaluate("window.loupe.view()")
    assert now["azim"] == pytest.approx(20 - 40)
    assert now["elev"] == pytest.approx(10 - 16)
    flat = flatten(points.feats, View(now["elev"], now["azim"], now["zoom"]))
    frame = view.locator("#plot").bounding_box()
    scale = min(frame["width"], frame["height"]) / 2 / flat.limits[1]
    for i in (0, 77, 499):
        expected = (frame["width"] / 2 + scale * flat.xy[i, 0], frame["height"] / 2 - scale * flat.xy[i, 1])
        assert view.evaluate(f"window.loupe.screen({i})") == pytest.approx(expected, abs=0.05)
    with view.expect_download() as download:
        view.click("#save")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    assert View.parse(str(saved)) == View(now["elev"], now["azim"], now["zoom"])
    view.close()


def test_thumbnails_are_shown_on_hover(browser, tmp_path):
    points = cloud(300, 2)
    for name in points.ids.tolist()[:299]:
        Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (30, 20), (30, 200, 30)).save(tmp_path / "sample 299.png")
    view = opened(browser, write_page(points, tmp_path / "p.html", Look(images=tmp_path)))
    hover(view, 299)
    view.wait_for_timeout(200)
    box = view.locator("#tip .thumb").bounding_box()
    view.screenshot(path=tmp_path / "shot.png")
    image = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    middle = image[round(box["y"] + box["height"] / 2), round(box["x"] + box["width"] / 2)]
    assert np.abs(middle - [30, 200, 30]).max() < 12
    view.close()


def test_adjust_3d_saves_the_view_and_redraws(browser, tmp_path):
    path = write_points(cloud(200, 3), tmp_path / "p.npz")
    command = [sys.executable, "-c", "import sys; from torchloupe.cli import main; sys.exit(main())"]
    run = subprocess.Popen(
        [*command, "adjust-3d", str(path), "--no-browser", "--dpi", "40"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http\S+", run.stderr.readline())[0]
        assert address.startswith("http://127.0.0.1:")
        view = opened(browser, address)
        view.mouse.move(400, 400)
        view.mouse.down()
        view.mouse.move(450, 400, steps=3)
        view.mouse.up()
        view.click("#save")
        out, err = run.communicate(timeout=60)
        view.close()
    finally:
        run.kill()
    assert run.returncode == 0, err
    assert out.split() == [str(tmp_path / "p.view.json"), str(tmp_path / "p.png")]
    saved = json.loads((tmp_path / "p.view.json").read_text())
    assert saved["azim"] == pytest.approx(-60 - 20)
    assert Image.open(tmp_path / "p.png").size == (320, 320)


def test_adjust_3d_serves_a_browser_that_holds_its_command_and_connects_ahead(tmp_path, monkeypatch):
    import socket
    import webbrowser
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    from torchloupe.cli import main

    failed = []

    def browse(address):
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port)):
            try:
                assert b"page" in urlopen(address, timeout=10).read()
                urlopen(address + "view", b'{"elev": 5, "azim": 6, "zoom": 2}', timeout=10).close()
            except Exception as error:
                failed.append(error)
                raise

    monkeypatch.setattr(webbrowser, "open", browse)
    path = write_points(cloud(20, 3), tmp_path / "p.npz")
    assert main(["adjust-3d", str(path), "--dpi", "30"]) == 0
    assert not failed
    assert json.loads((tmp_path / "p.view.json").read_text()) == {"elev": 5, "azim": 6, "zoom": 2}


def test_a_browser_without_webgl_is_told_so(browser, tmp_path):
    path = write_page(cloud(9, 2), tmp_path / "p.html")
    view = browser.new_page()
    view.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    view.goto(path.as_uri())
    assert "draws by WebGL" in view.inner_text("#count")
    view.close()


def test_only_three_dimensions_can_be_turned(tmp_path):
    from torchloupe.render.page.turn import serve

    with pytest.raises(BadInput, match="cannot be turned"):
        serve(write_points(cloud(9, 2), tmp_path / "p.npz"), print)


def test_text_from_outside_cannot_end_the_script():
    points = cloud(9, 2)
    nasty = Points(points.feats, points.ids, {"labels": np.array(["</script><b>"] * 9)})
    text = page(nasty)
    assert "</script><b>" not in text
    assert json.loads(re.search(r'<script id="meta"[^>]*>(.*?)</script>', text)[1])["columns"][0]["names"] == [
        "</script><b>"
    ]
    with pytest.raises(BadInput, match="no column 'x'"):
        page(points, Look(color_by="x"))


def test_the_bundles_name_their_parts():
    from importlib.resources import files

    notices = (files("torchloupe.render.page") / "THIRD_PARTY.txt").read_text()
    for part in ("regl-scatterplot 1.16.0 (MIT)", "three 0.187.0 (MIT)", "regl 2.1.1 (MIT)"):
        assert part in notices
    assert "Permission is hereby granted" in notices


@pytest.mark.parametrize("dims", [2, 3])
def test_a_film_is_moved_through_and_played(browser, tmp_path: Path, dims: int) -> None:
    random = np.random.default_rng(0)
    maps = random.normal(size=(3, 40, dims)).astype(np.float32)
    points = cloud(40, dims)
    points = Points(maps[-1], points.ids, points.columns, points.record)
    film = Film(maps, np.array(["epoch 1", "<b>2</b>", "epoch 3"]), points.ids, points.columns, points.record)
    view = opened(browser, write_page(points, tmp_path / "film.html", film=film))
    view.wait_for_function("document.getElementById('when').textContent === 'epoch 3'")

    def places() -> np.ndarray:
        view.wait_for_timeout(400)
        return np.array([view.evaluate(f"window.loupe.screen({i})") for i in range(40)])

    def set_to(at: float) -> None:
        view.evaluate(f"m = document.getElementById('moment'); m.value = {at}; m.dispatchEvent(new Event('input'))")

    last = places()
    shown = {}
    for at in (0, 1, 0.5):
        set_to(at)
        shown[at] = places()
    assert np.allclose(shown[0.5], (shown[0] + shown[1]) / 2, atol=1)
    if dims == 2:  # in the plane the map keeps its shape
        for number in (0, 1):
            want = np.linalg.norm(maps[number] - maps[number].mean(0), axis=1)
            got = np.linalg.norm(shown[number] - shown[number].mean(0), axis=1)
            assert np.corrcoef(want, got)[0, 1] > 0.999
    set_to(1)
    assert view.inner_text("#when") == "<b>2</b>"
    view.click("#play")
    view.wait_for_function(
        "document.getElementById('play').textContent === 'play' && document.getElementById('moment').value === '2'"
    )
    assert np.allclose(places(), last, atol=1)
    assert view.wrong == []
    view.close()
    flat = opened(browser, write_page(points, tmp_path / "still.html"))
    assert flat.is_hidden("#film")
    flat.close()
