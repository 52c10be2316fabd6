"""Every page that is written, full of text that looks like something else, in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import unicodedata
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from hostile import texts
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from torchloupe.arrange import write_points
from torchloupe.cli import main
from torchloupe.errors import BadInput, legible
from torchloupe.examples import figures
from torchloupe.points import Points
from torchloupe.render.look import Look
from torchloupe.render.page import write_page
from torchloupe.render.page.turn import serve
from torchloupe.render.samples import page as browse_page
from torchloupe.sources.hrnet import experiment, network

TEXTS = texts()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium, headless=True)
        yield made
        made.close()


def opened(browser: Browser, path: Path, ready: str = "true") -> tuple[Page, list[str]]:
    """The page, and every error and every request for something else than its own pictures."""
    view, wrong = browser.new_page(viewport={"width": 1200, "height": 800}), []
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    view.on("requestfailed", lambda request: wrong.append(request.url))
    view.goto(path.resolve().as_uri())
    view.wait_for_function(ready, timeout=60_000)
    assert view.evaluate("window.hacked") is None
    return view, wrong


def plain(text: str | None) -> str:
    """As a page can show it: no lone surrogates, runs of blanks one blank."""
    return " ".join(legible(text or "").split())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_page_of_a_map_shows_every_label_id_column_and_title(browser: Browser, tmp_path: Path, dims: int) -> None:
    random, count = np.random.default_rng(0), len(TEXTS)
    feats = random.normal(size=(3 * count, dims)).astype(np.float32)
    labels = np.array(TEXTS * 3)
    ids = np.array([f"{text} {i}" for i in range(3) for text in TEXTS])
    columns = {"labels": labels, **{text: labels for text in TEXTS if text not in ("labels", "ids")}}
    for title in ("<!--<script>", "{{script}} {{data}}"):
        goal = tmp_path / "map.html"
        write_page(Points(feats, ids, columns, {"kind": "projection"}), goal, Look(title=title))
        view, wrong = opened(browser, goal, "window.loupe && window.loupe.ready")
        assert view.inner_text("#title") == title
        rows = view.locator("#legend .row").evaluate_all("rows => rows.map(row => row.textContent)")
        shown = [plain(row) for row in rows]
        for text in TEXTS:
            assert any(plain(text)[:300] in row for row in shown), text
        options = {plain(word) for word in view.locator("#by option").all_text_contents()}
        assert {plain(text) for text in TEXTS} <= options
        view.evaluate("document.querySelectorAll('#legend .row input')[0].click()")
        view.wait_for_function(f"window.loupe.shown() == {3 * count - 3}")
        assert wrong == []
        view.close()


def test_the_page_of_samples_shows_every_caption_once_and_every_picture(browser: Browser, tmp_path: Path) -> None:
    named = []
    for i, text in enumerate(TEXTS):
        file = tmp_path / "".join(c for c in f"{i} {text[:40]}.png" if c not in "/\n")
        Image.new("RGB", (9, 7)).save(file)
        named.append((file, text))
    for title in ("{{figures}}", "</title><script>window.hacked = 1</script>"):
        view, wrong = opened(browser, browse_page(title, named, TEXTS, tmp_path, 1.0))
        assert view.title() == plain(title)
        assert view.inner_text("h1") == plain(title)
        captions = view.locator("figcaption").all_text_contents()
        assert [plain(caption) for caption in captions] == [plain(text) for text in TEXTS]
        assert plain(view.locator("pre").text_content()) == plain("\n".join(TEXTS))
        view.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        view.wait_for_function("[...document.images].every(image => image.complete)")
        widths = view.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert widths == [9] * len(TEXTS)
        assert wrong == []
        view.close()


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `loupe pose epe` whose joints are called as no joint is."""
    folder = tmp_path_factory.mktemp("pose")
    figures.write(folder / "data", 2, seed=3)
    config = figures.config(folder / "net.yaml", width=4, filters=8)
    torch.save(network(experiment(config)).state_dict(), folder / "net.pth")
    run = folder / "{{body}} <b>&amp;"
    told = ["--cfg", str(config), "--weights", str(folder / "net.pth"), "--data", str(folder / "data")]
    assert main(["pose", "epe", *told, "-o", str(run)]) == 0
    return run


def test_the_report_of_a_pose_model_shows_every_joint(browser: Browser, diagnosed: Path) -> None:
    record = diagnosed / "epe.json"
    held: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    joints = held["skeleton"]["joints"]
    seen = [text for text in TEXTS if text.isprintable() and len(text) < 300]
    for first in range(0, len(seen), len(joints)):
        names = [*seen[first : first + len(joints)], *joints][: len(joints)]
        held["skeleton"]["joints"] = names
        held |= {"model": names[0], "data": names[1]}
        record.write_text(json.dumps(held), encoding="utf-8")
        assert main(["pose", "report", str(diagnosed)]) == 0
        view, wrong = opened(browser, diagnosed / "report" / "index.html")
        assert view.title() == f"Pose diagnosis: {diagnosed.name}"
        cells = [
            plain(cell)
            for cell in view.locator("table", has=view.locator("th", has_text=re.compile("^joint$")))
            .first.locator("td:first-child")
            .all_text_contents()
        ]
        assert cells == [*map(plain, names), "all"]
        facts = plain(view.locator("ul").first.text_content())
        assert plain(names[0]) in facts
        assert plain(names[1]) in facts
        view.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
        assert wrong == []
        view.close()


def test_text_that_cannot_be_written_is_made_legible() -> None:
    assert legible("caf\udce9.jpg") == r"caf\xe9.jpg"
    assert legible("\ud83d alone") == r"\ud83d alone"
    for text in TEXTS:
        assert legible(text).encode("utf-8").decode("utf-8") == legible(text)
        assert unicodedata.is_normalized("NFC", text) is unicodedata.is_normalized("NFC", legible(text))


def test_the_page_of_adjust_3d_takes_finite_views_only_and_broken_connections_are_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    feats = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    write_points(Points(feats, np.arange(9).astype(str), {}, {"kind": "projection"}), tmp_path / "map.npz")
    told: list[int] = []

    def ask(address: str, body: str | bytes, length: int | str | None = None) -> int:
        host, _, rest = address.removeprefix("http://").partition("/")
        with socket.create_connection(tuple(host.split(":")), timeout=20) as line:
            raw = body.encode() if isinstance(body, str) else body
            head = f"POST /{rest}view HTTP/1.1\r\nContent-Length: {len(raw) if length is None else length}\r\n\r\n"
            line.sendall(head.encode() + raw)
            return int(line.recv(100).split()[1])

    def browse(address: str) -> None:
        host = address.removeprefix("http://").partition("/")[0].split(":")
        for _ in range(3):  # reset in the middle of a request
            line = socket.create_connection((host[0], int(host[1])), timeout=20)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.sendall(b"GET /")
            line.close()
        for bad in ("NaN", "Infinity", "-Infinity", "1e999", "null", '"x"', "[]"):
            told.append(ask(address, f'{{"elev": {bad}, "azim": 2, "zoom": 1}}'))
            told.append(ask(address, f'{{"elev": 1, "azim": 2, "zoom": {bad}}}'))
        told.extend(ask(address, bad) for bad in ("", "[", "[" * 900, "7", b"\xff\xfe", '{"elev": 1}'))
        # no body after a length that says nothing: it would lie unread, and the reset may overtake the answer
        told.extend((ask(address, "", -1), ask(address, "", "many"), ask(address, '{"elev":1,"azim":2,"zoom":0}')))
        assert ask(address, '{"elev": 1, "azim": 2, "zoom": 1.5}') == 200

    def ready(address: str) -> None:
        Thread(target=browse, args=(address,), daemon=True).start()

    saved = serve(tmp_path / "map.npz", ready)
    assert json.loads(saved.read_text()) == {"elev": 1.0, "azim": 2.0, "zoom": 1.5}
    assert told == [400] * 23
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out == ""


def test_a_view_is_saved_though_the_browser_left_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feats = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    write_points(Points(feats, np.arange(9).astype(str), {}, {"kind": "projection"}), tmp_path / "map.npz")

    def gone(_handler: BaseHTTPRequestHandler) -> None:
        raise BrokenPipeError

    def ready(address: str) -> None:
        host, _, rest = address.removeprefix("http://").partition("/")
        body = b'{"elev": 1, "azim": 2, "zoom": 1.5}'
        with socket.create_connection(tuple(host.split(":")), timeout=20) as line:
            line.sendall(f"POST /{rest}view HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    monkeypatch.setattr(BaseHTTPRequestHandler, "end_headers", gone)
    assert json.loads(serve(tmp_path / "map.npz", ready).read_text()) == {"elev": 1.0, "azim": 2.0, "zoom": 1.5}


def test_a_port_that_is_taken_is_told_before_the_map_is_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadInput, match="leave out --port"):
        serve(tmp_path / "absent.npz", print, port=taken.getsockname()[1])
