"""`loupe view` and `loupe report` in a real browser, and what the server refuses."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import sync_playwright
from starlette.testclient import TestClient

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.kinds.maps import Heatmaps
from torchloupe.runs.found import results
from torchloupe.store import Artifact, Files
from torchloupe.store.shards import Shards
from torchloupe.view.api import Library
from torchloupe.view.report import write_report
from torchloupe.view.server import application, serve
from torchloupe.view.table import Table

HOSTILE = [
    "<!--<script>",
    "{{script}}",
    "a/../../etc/passwd",
    '"><img src=x onerror=alert(1)>',
    "雀 العصفور 🐦",
    "x" * 300,
]
NAMES = [f"s{i:03}" for i in range(60)]


def heatmaps(name: str, rng: np.random.Generator, score: float, size: int = 4, word: str = "dog") -> Heatmaps:
    picture = rng.integers(0, 255, (1, 32, 48, 3), dtype=np.uint8)
    one, other = rng.random((2, 1, size, size)).astype("f4"), rng.normal(size=(2, 1, size, size)).astype("f4")
    maps = {("gradcam", "layer4"): one, ("occlusion", "input"): other}
    record = {
        "kind": "maps",
        "id": name,
        "questions": [word, "cat"],
        "scores": [score, 0.0],
        "methods": {"occlusion": {"signed": True}},
    }
    return Heatmaps(name, picture, maps, frozenset({"occlusion"}), (word, "cat"), (score, 0.0), record=record)


def write(store: Any, made: Heatmaps, **row: Any) -> None:
    told = {"score": made.scores[0], "class": made.questions[0], **row}
    store.write(made.id, Artifact(made.arrays(), {**made.record, "row": told}), {})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    store = Files(folder)
    store.begin({})
    scores = rng.permutation(60) / 60
    for name, score in zip(NAMES, scores, strict=True):
        write(store, heatmaps(name, rng, float(score), word="dog" if score > 0.3 else "wolf"), size=int(name[1:]) % 7)
    store.fail("broken", "broken.png: the file is empty (0 bytes)")
    store.flush()
    return folder


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    yield from served([run])


def served(paths: list[Path]) -> Iterator[str]:
    """The page of these paths, served from a thread."""
    found: list[str] = []
    kept: list[uvicorn.Server] = []
    begin = uvicorn.Server.run
    levels = {
        log: log.level for log in map(logging.getLogger, ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"))
    }

    def noted(self: uvicorn.Server, *args: Any, **more: Any) -> None:
        kept.append(self)
        begin(self, *args, **more)

    uvicorn.Server.run = noted  # type: ignore[method-assign]
    thread = threading.Thread(target=serve, args=(Library(paths), found.append), daemon=True)
    thread.start()
    try:
        until(lambda: found and kept and kept[0].started)
        yield found[0]
    finally:
        uvicorn.Server.run = begin  # type: ignore[method-assign]
        kept[0].should_exit = True
        thread.join(10)
        for log, level in levels.items():
            log.setLevel(level)


def until(ready: Callable[[], Any], limit: float = 30) -> Any:
    end = time.monotonic() + limit
    while not (found := ready()):
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium, headless=True)
        yield made
        made.close()


def opened(browser: Any, at: str, width: int = 1280, theme: str = "light", offline: bool = False) -> Any:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme, offline=offline)
    page = context.new_page()
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: (page.wrong.append(dialog.message), dialog.dismiss()))
    page.goto(at)
    page.wait_for_function("() => window.loupe && window.loupe.ready")
    return page


def go(page: Any, **changes: Any) -> None:
    """Another selection, by the address."""
    turn = page.evaluate("() => window.loupe.turn")
    page.evaluate(
        "(c) => { const h = new URLSearchParams(location.hash.slice(1)); "
        "for (const [k, v] of Object.entries(c)) h.set(k, v); location.hash = '#' + h; }",
        changes,
    )
    page.wait_for_function(f"() => window.loupe.turn > {turn}")


def tiles(page: Any) -> list[str]:
    """Ids of the tiles in order, once all are filled."""
    page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.tile')]; return all.length && all.every((t) => t.dataset.id); }"
    )
    return page.evaluate(
        "() => [...document.querySelectorAll('.tile')].sort((a, b) => a.dataset.at - b.dataset.at).map((t) => t.dataset.id)"
    )


def pixels(page: Any, selector: str) -> list[int]:
    return page.evaluate(
        "(s) => { const c = document.querySelector(s); return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }",
        selector,
    )


def test_the_gallery_shows_the_run_sorted_and_filtered(browser: Any, address: str, run: Path) -> None:
    page = opened(browser, address)
    table = {row["id"]: row for row in results(run).table}
    assert page.inner_text("#said") == "60 samples"
    assert tiles(page)[:8] == NAMES[:8]
    page.select_option("#sort", "score")
    page.click("#way")
    page.wait_for_function("() => document.querySelector('.tile[data-at=\"0\"]')?.dataset.id !== 's000'")
    best = sorted(NAMES, key=lambda id: -table[id]["score"])
    assert tiles(page)[:8] == best[:8]
    page.select_option("#column", "score")
    page.select_option("#sign", "<")
    page.fill("#value", "0.25")
    page.press("#value", "Enter")
    page.wait_for_function("() => document.querySelector('#view').dataset.count === '15'")
    assert tiles(page)[:8] == [id for id in best if table[id]["score"] < 0.25][:8]
    assert page.inner_text(".chip") == "score < 0.25 ×"
    page.go_back()
    page.wait_for_function("() => document.querySelector('#view').dataset.count === '60'")
    assert page.wrong == []
    assert all(url.startswith((address, "data:")) for url in page.asked)


def test_a_click_shows_the_right_sample_and_the_pointer_reads_its_values(browser: Any, address: str, run: Path) -> None:
    page = opened(browser, address)
    tiles(page)
    page.click('.tile[data-id="s003"]')
    page.wait_for_selector('.one[data-id="s003"] .large canvas')
    made = results(run)["s003"]
    assert page.inner_text(".one h2") == "s003"
    box = page.locator(".large .frame").bounding_box()
    for row, column in ((0, 0), (2, 1), (3, 3)):
        page.mouse.move(box["x"] + box["width"] * (column + 0.5) / 4, box["y"] + box["height"] * (row + 0.5) / 4)
        said = [one.split(" at row") for one in page.locator(".readout").all_inner_texts()]
        want = [made.maps["gradcam", "layer4"][0, 0, row, column], made.maps["occlusion", "input"][0, 0, row, column]]
        assert float(said[0][0]) == pytest.approx(float(want[0]), rel=1e-5)
        assert float(said[2][0]) == pytest.approx(float(want[1]), rel=1e-5)
        assert said[0][1].startswith(f" {row}, column {column}")
    page.click(".tabs button:nth-child(2)")
    page.wait_for_function(
        "() => document.querySelector('.tabs button:nth-child(2)').getAttribute('aria-pressed') === 'true'"
    )
    page.click(".matrix .small:nth-child(2)")
    page.wait_for_function(
        "() => document.querySelector('.large figcaption').textContent.startsWith('occlusion at input')"
    )
    assert "question=1" in page.url
    assert "plane=1" in page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('.one[data-id="s004"]')
    page.keyboard.press("Escape")
    page.wait_for_selector(".tile")
    assert page.wrong == []


def test_sliders_change_pixels_as_the_formula_says(browser: Any, address: str, run: Path) -> None:
    from torchloupe.render.colour import colours, palette, resize, unit

    page = opened(browser, address + "#view=sample&id=s005")
    page.wait_for_selector(".large canvas")
    values = results(run)["s005"].maps["gradcam", "layer4"][0, 0].astype(float)
    got = np.array(pixels(page, ".large canvas")).reshape(32, 48, 4)
    fine = resize(values, (32, 48))
    want = colours(unit(fine, values.max(), False), palette("auto"), False) * 255
    assert np.abs(got[..., :3] - want).max() <= 4  # opacity costs precision
    assert (got[..., 3] == 128).all()
    turn = page.evaluate("() => window.loupe.turn")
    page.locator("#opacity").fill("0.25")
    page.locator("#threshold").fill("0.5")
    got = np.array(pixels(page, ".large canvas")).reshape(32, 48, 4)
    assert ((got[..., 3] == 64) == (fine >= 0.5 * values.max())).mean() > 0.99
    assert (got[..., 3] == 0).any()
    page.select_option("#cmap", "viridis")
    page.locator("#threshold").fill("0")
    got = np.array(pixels(page, ".large canvas")).reshape(32, 48, 4)
    assert (
        np.abs(got[..., :3] - colours(unit(fine, values.max(), False), palette("viridis"), False) * 255).max() <= 4
    )  # opacity costs precision
    assert page.evaluate("() => window.loupe.turn") == turn  # nobody was asked
    go(page, plane=1, fade=0)
    signed = results(run)["s005"].maps["occlusion", "input"][0, 0].astype(float)
    page.select_option("#cmap", "auto")
    got = np.array(pixels(page, ".large canvas")).reshape(32, 48, 4)
    want = colours(unit(resize(signed, (32, 48)), np.abs(signed).max(), True), palette("coolwarm"), True) * 255
    assert np.abs(got[..., :3] - want).max() <= 4  # opacity costs precision


def test_the_table_sorts_filters_by_its_bars_and_opens_samples(browser: Any, address: str, run: Path) -> None:
    page = opened(browser, address + "#view=table")
    table = {row["id"]: row for row in results(run).table}
    page.click("th:has-text('score') button")
    page.wait_for_function(
        "() => document.querySelector('th[aria-sort=ascending] button')?.textContent.startsWith('score')"
    )
    worst = sorted(NAMES, key=lambda id: table[id]["score"])
    page.wait_for_function(f"() => document.querySelector('tbody tr')?.dataset.id === '{worst[0]}'")
    rows = page.evaluate("() => [...document.querySelectorAll('tbody tr')].map((r) => r.dataset.id)")
    assert rows[:10] == worst[:10]
    page.wait_for_selector("th:has-text('class') .spark i")
    page.locator("th:has-text('class') .spark i").nth(1).click()
    wolves = sum(row["class"] == "wolf" for row in table.values())
    page.wait_for_function(f"() => document.querySelector('#view').dataset.count === '{wolves}'")
    page.locator("tbody tr").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f'.one[data-id="{worst[0]}"]')
    assert page.wrong == []


def test_two_samples_side_by_side_and_what_was_left_out(browser: Any, address: str) -> None:
    page = opened(browser, address + "#view=sample&id=s001&with=s002")
    page.wait_for_selector('.one[data-id="s002"] .large canvas')
    assert [one.get_attribute("data-id") for one in page.locator(".one").all()] == ["s001", "s002"]
    go(page, view="failed", id="", **{"with": ""})
    page.wait_for_selector(".tile.failed")
    assert page.inner_text(".tile.failed .why") == "broken.png: the file is empty (0 bytes)"
    go(page, view="sample", id="nobody")
    assert "has no result 'nobody'" in page.inner_text("#said")


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_nothing_scrolls_sideways(browser: Any, address: str, width: int, theme: str) -> None:
    for view in ("gallery", "table", "sample"):
        page = opened(browser, f"{address}#view={view}&id={'s001' if view == 'sample' else ''}", width, theme)
        page.wait_for_selector({"gallery": ".tile img", "table": "tbody tr", "sample": ".large canvas"}[view])
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        back = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 27)")
        if width == 390:
            page.click("#more")
            assert page.is_visible("#opacity")
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('button, select, input')].filter((e) => "
            "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)"
        )
        assert unnamed == []


def hostile(folder: Path) -> Path:
    store = Shards(folder)
    store.begin({})
    rng = np.random.default_rng(1)
    for i, name in enumerate(HOSTILE):
        made = heatmaps(name, rng, i / 10, word=name)
        if i == 1:
            made.maps["gradcam", "layer4"][0, 0, 0, 0] = np.nan
        told = {"score": [0.0, None, 0.2, 0.3, float("nan"), 0.5][i], name[:20]: i}
        store.write(name, Artifact(made.arrays(), {**made.record, "row": told}), {})
    store.fail("<b>bad</b>", "<script>alert(1)</script>")
    store.flush()
    return folder


def test_hostile_names_are_text(browser: Any, tmp_path: Path) -> None:
    hostile(tmp_path / "run")
    for at in served([tmp_path / "run"]):
        page = opened(browser, at)
        assert sorted(tiles(page)) == sorted(HOSTILE)
        for name in HOSTILE:
            go(page, view="sample", id=name)
            if name != HOSTILE[1]:  # not finite: its kind refuses it, and that is said
                page.wait_for_function("(n) => document.querySelector('.one')?.dataset.id === n", arg=name)
            assert page.inner_text(".one h2") == name
        go(page, view="table", id="")
        go(page, view="failed")
        assert page.inner_text(".tile.failed .why") == "<script>alert(1)</script>"
        assert page.wrong == []


def test_a_report_opens_from_disk_without_a_network(browser: Any, run: Path, tmp_path: Path) -> None:
    hostile(tmp_path / "hostile")
    assert main(["report", str(run), str(tmp_path / "hostile"), "-o", str(tmp_path / "r.html"), "--most", "20"]) == 0
    page = opened(browser, (tmp_path / "r.html").as_uri(), offline=True)
    assert tiles(page)[:4] == NAMES[::3][:4]
    page.click('.tile[data-id="s003"]')
    page.wait_for_selector('.one[data-id="s003"] .large canvas')
    assert page.evaluate("() => document.querySelector('.large img').naturalWidth") == 48
    assert max(pixels(page, ".large canvas")[3::4]) == 128
    go(page, view="table", id="", filter=json.dumps([["class", "=", "wolf"]]))
    want = [row["id"] for row in results(run).table if row["id"] in NAMES[::3] and row["class"] == "wolf"]
    assert page.evaluate("() => [...document.querySelectorAll('tbody tr')].map((r) => r.dataset.id)") == want
    go(page, run=1, view="gallery", filter="[]")
    assert sorted(tiles(page)) == sorted(HOSTILE)
    assert page.wrong == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.asked)


def test_a_run_that_grows_and_one_that_goes(browser: Any, tmp_path: Path) -> None:
    store, rng = Files(tmp_path / "run"), np.random.default_rng(2)
    store.begin({})
    write(store, heatmaps("a", rng, 0.5))
    for at in served([tmp_path / "run"]):
        page = opened(browser, at)
        assert tiles(page) == ["a"]
        write(store, heatmaps("b", rng, 0.7))
        page.reload()
        page.wait_for_function("() => window.loupe && window.loupe.ready")
        assert tiles(page) == ["a", "b"]
        shutil.rmtree(tmp_path / "run")
        page.reload()
        page.wait_for_function("() => window.loupe && window.loupe.ready")
        assert page.inner_text("#said") == "this folder is not there any more"
        assert page.wrong == []


def test_what_the_server_refuses(run: Path, tmp_path: Path) -> None:
    (run.parent / "secret.txt").write_text("secret")
    client = TestClient(application(Library([run]), "key", 8000), base_url="http://127.0.0.1:8000")
    assert client.get("/key/api/runs").json()["runs"][0]["count"] == 60
    assert client.get("/other/api/runs").status_code == 404
    assert client.get("/api/runs").status_code == 404
    for headers in ({"host": "evil.example:8000"}, {"host": "127.0.0.1:9"}, {"origin": "http://evil.example"}):
        assert client.get("/key/api/runs", headers=headers).status_code == 403
    for id in ("../secret.txt", "/etc/passwd", "..%2fsecret.txt", "%2e%2e/secret", "s001/../../secret", "nobody", ""):
        for what in ("sample", "plane", "picture"):
            answer = client.get(f"/key/api/runs/0/{what}", params={"id": id})
            assert answer.status_code == 404
            assert "secret" not in answer.text.replace(id, "")
    for path in (
        "/key/../secret.txt",
        "/key/..%2f..%2fsecret.txt",
        "/key/view.py",
        "/key/api/runs/1/rows",
        "/key/api/runs/-1/rows",
    ):
        assert client.get(path).status_code == 404
    for bad in ({"filter": "nonsense"}, {"filter": "{}"}, {"filter": '[["score; DROP TABLE run", "=", 1]]'},
                {"filter": '[["score", "or", 1]]'}, {"sort": "1; DROP TABLE run"}, {"from": "-1"}, {"count": "x"}):  # fmt: skip
        assert client.get("/key/api/runs/0/rows", params=bad).status_code == 404, bad
    assert client.post("/key/api/runs").status_code == 405
    assert len(client.get("/key/api/runs/0/rows", params={"count": "100000"}).json()["rows"]) == 60


def test_bytes_by_range_and_what_is_unchanged(run: Path) -> None:
    client = TestClient(application(Library([run]), "key", 8000), base_url="http://127.0.0.1:8000")
    whole = client.get("/key/api/runs/0/plane", params={"id": "s001", "plane": "0"})
    want = results(run)["s001"].maps["gradcam", "layer4"].tobytes()
    assert whole.content == want
    for span, part in (("bytes=0-7", want[:8]), ("bytes=8-", want[8:]), ("bytes=-4", want[-4:])):
        answer = client.get("/key/api/runs/0/plane", params={"id": "s001"}, headers={"range": span})
        assert (answer.status_code, answer.content) == (206, part)
    for span in ("bytes=9999-", "bytes=x", "bytes=", "bytes=5-2"):
        assert client.get("/key/api/runs/0/plane", params={"id": "s001"}, headers={"range": span}).status_code == 416
    again = client.get("/key/api/runs/0/plane", params={"id": "s001"}, headers={"if-none-match": whole.headers["etag"]})
    assert again.status_code == 304
    policy = client.get("/key/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script" not in policy


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_filters_sorts_and_counts_equal_plain_python(kind: str, tmp_path: Path) -> None:
    store: Any = Files(tmp_path) if kind == "files" else Shards(tmp_path, most=7)
    store.begin({})
    rng = np.random.default_rng(3)
    rows = []
    for i in range(50):
        row = {
            "score": None if i % 11 == 0 else float(rng.normal()),
            "n": int(rng.integers(0, 5)),
            "word": "AbcÄ"[i % 4] * 2,
        }
        rows.append({"id": f"{i:02}", "failed": None, **row})
        store.write(f"{i:02}", Artifact({"y": np.zeros(1)}, {"row": row}), {})
    store.fail("x", "no")
    store.flush()
    table = Table(results(tmp_path))
    assert table.columns() == {"score": "number", "n": "number", "word": "text"}
    assert table.count() == 50
    assert table.rows(failed=True) == [{"id": "x", "failed": "no"}]
    for conditions, fits in (
        ([["score", ">", 0]], lambda r: r["score"] is not None and r["score"] > 0),
        ([["n", "=", 3], ["word", "~", "B"]], lambda r: r["n"] == 3 and "b" in r["word"].lower()),
        ([["id", "<=", "07"]], lambda r: r["id"] <= "07"),
        ([["n", "!=", 0]], lambda r: r["n"] != 0),
    ):
        want = [row for row in rows if fits(row)]
        assert table.rows(conditions, count=500) == want
        assert table.count(conditions) == len(want)
        down = sorted(want, key=lambda r: r["id"])
        down.sort(key=lambda r: r["n"], reverse=True)
        assert table.rows(conditions, "n", True, 2, 5) == down[2:7]
    numbers = np.array([row["score"] for row in rows if row["score"] is not None])
    found = table.histogram("score")
    counts, _ = np.histogram(numbers, 40)
    assert (found["low"], found["high"]) == (numbers.min(), numbers.max())
    assert sum(found["counts"]) == len(numbers)
    assert (
        np.abs(np.array(found["counts"]) - counts).sum() <= 2
    )  # a value on the edge of a bin may lie on its other side
    assert dict(zip(*(table.histogram("word")[key] for key in ("names", "counts")), strict=True)) == {
        "AA": 13,
        "bb": 13,
        "cc": 12,
        "ÄÄ": 12,
    }
    with pytest.raises(BadInput, match=r"no column 'scores'\. Did you mean score"):
        table.rows(sort="scores")


def test_bad_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ([], "nothing to look at: name folders"),
        ([str(tmp_path)], "no results in this folder"),
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path / "none.npz")], "no such map of points"),
    ):
        for command in ("view", "report"):
            assert main([command, *words, *(["--no-open"] if command == "view" else [])]) == 2
            assert told in capsys.readouterr().err


def test_the_bundle_is_what_the_sources_say() -> None:
    """Every module of web/src/view is in it, word for word where the builder keeps words."""
    web = Path(__file__).parents[1] / "web" / "src" / "view"
    bundle = (Path(__file__).parents[1] / "src" / "torchloupe" / "view" / "view.js").read_text()
    import re

    for module in web.glob("*.js"):
        for text in re.findall(
            r'"([A-Za-z][^"\\\n;=(){}?]{11,})"', re.sub(r"^(import|//).*$", "", module.read_text(), flags=re.MULTILINE)
        ):
            assert text in bundle, f"{module.name}: {text!r} is not in view.js; run npm run build in web/"


def counted(page: Any) -> str:
    """What the page of points inside the page says."""
    inside = until(lambda: [frame for frame in page.frames if frame.parent_frame])[0]
    inside.wait_for_function("() => window.loupe && window.loupe.ready")
    return str(inside.inner_text("#count"))


def test_a_report_of_points(browser: Any, tmp_path: Path) -> None:
    from torchloupe.arrange import write_points
    from torchloupe.points import Points

    rng = np.random.default_rng(4)
    points = Points(
        rng.normal(size=(50, 2)).astype("f4"), np.array([f"p{i}" for i in range(50)]), {}, {"kind": "projection"}
    )
    write_points(points, tmp_path / "points.npz")
    for at in served([tmp_path / "points.npz"]):
        page = opened(browser, at)
        assert counted(page) == "50 points"
        assert page.wrong == []
    write_report([tmp_path / "points.npz"], tmp_path / "r.html")
    page = opened(browser, (tmp_path / "r.html").as_uri(), offline=True)
    assert counted(page) == "50 points"


def test_an_interruption_ends_the_server_though_a_browser_holds_on(run: Path) -> None:
    import http.client
    import signal
    import subprocess
    import sys
    from urllib.parse import urlsplit

    code = "import sys; from torchloupe.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "view", str(run), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        place = urlsplit(process.stdout.readline().strip())
        held = http.client.HTTPConnection(str(place.hostname), place.port)
        held.request("GET", f"{place.path}api/runs")
        assert held.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
        held.close()
    finally:
        process.kill()
        process.communicate()


def test_a_page_of_rows_has_an_end(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchloupe.view.table.MOST", 7)
    table = Table(results(run))
    assert [row["id"] for row in table.rows(count=8)] == NAMES[:7]
    assert [row["id"] for row in table.rows(count=6)] == NAMES[:6]
    assert table.rows(count=-1) == []


def test_hostile_ids_maps_and_runs_are_told(browser: Any, tmp_path: Path) -> None:
    """Ten thousand letters, quotes, emoji and path parts as ids of joints, columns and questions; an empty run."""
    store, rng = Shards(tmp_path / "run"), np.random.default_rng(3)
    store.begin({})
    names = ["y" * 10_000, "../../x", "a'b\"c", "🐦‍⬛", "%2e%2e%2f", "<img src=x onerror=alert(1)>"]
    for i, name in enumerate(names):
        made = heatmaps(name, rng, i / 7, word=name)
        told = {"score": i / 7, "other": float(-i), name[:50]: name}
        store.write(name, Artifact(made.arrays(), {**made.record, "row": told, "command": f"loupe cam '{name}'"}), {})
    store.flush()
    for at in served([tmp_path / "run"]):
        page = opened(browser, at)
        for view in ("table", "scatter", "spread"):
            go(page, view=view, x="score", y="other", group=names[5])
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 1280
        for name in names:
            go(page, view="sample", id=name, **{"with": names[1]})
            assert page.inner_text(".one h2 >> nth=0") == name
            assert page.inner_text("#command") == f"loupe cam '{name}'"
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 1280
        go(page, view="table", id="", filter=json.dumps([["id", "=", "nobody"]]), **{"with": ""})
        assert page.inner_text("#said") == "No sample passes these filters: remove one."
        shutil.rmtree(tmp_path / "run")
        go(page, view="gallery", filter="[]")
        assert page.inner_text("#said") == "run: this folder is not there any more"
        assert not (tmp_path / "run").exists()
        assert [line for line in page.wrong if "404" not in line and "410" not in line] == []
