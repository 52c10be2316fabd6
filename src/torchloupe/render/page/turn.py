"""The page of a 3-D map, served on this machine until its view is saved."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from torchloupe.errors import BadInput
from torchloupe.render.look import Look, View
from torchloupe.render.mapped import read_map
from torchloupe.render.page import page
from torchloupe.store import whole


def serve(
    path: Path,
    ready: Callable[[str], None],
    *,
    port: int = 0,
    look: Look | None = None,
    cmap: str | None = None,
) -> Path:
    """Serve the page at an address that cannot be guessed, until it posts a view; the view's file is returned.

    ready(address) is called once the page can be opened. Raises BadInput for a map of fewer than three dimensions.
    """
    look = look or Look()
    secret = secrets.token_urlsafe(12)
    text = b""
    done: list[View] = []

    class Answer(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            self._reply(200 if self.path == f"/{secret}/" else 404, text if self.path == f"/{secret}/" else b"")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            fits = length.isdecimal() and int(length) < 1000
            view = _view(self.rfile.read(int(length))) if self.path == f"/{secret}/view" and fits else None
            try:
                self._reply(200 if view else 400, b"")
            finally:  # a browser that hears 200 and leaves has sent its view all the same
                if view:
                    done.append(view)

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: the address is all that a user needs to see."""

    class Server(ThreadingHTTPServer):
        # in threads, for browsers open connections ahead that they may never use
        daemon_threads, block_on_close, timeout = True, False, 0.2

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Silent: a browser may break a connection off whenever it likes."""

    try:
        server = Server(("127.0.0.1", port), Answer)
    except OSError as error:
        raise BadInput(f"port {port}: {error.strerror}; leave out --port to take a free one") from None
    with server:
        points = read_map(path, labels=look.labels)
        if points.feats.shape[1] < 3:
            raise BadInput(f"{path}: a map of {points.feats.shape[1]} dimensions cannot be turned; project with -e 3")
        saved = path.with_suffix(".view.json")
        if look.view is None and saved.is_file():
            look = replace(look, view=str(saved))
        text = page(points, look, cmap=cmap).encode()
        ready(f"http://127.0.0.1:{server.server_port}/{secret}/")
        while not done:
            server.handle_request()
    return whole(saved, json.dumps(asdict(done[0])) + "\n")


def _view(raw: bytes) -> View | None:
    """The view that the page sent; None for anything else."""
    try:
        sent = json.loads(raw)
        return View(*(float(sent[name]) for name in ("elev", "azim", "zoom")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
