"""The page of a 3-D map, served on this machine until its view is saved."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from torchloupe.errors import BadInput
from torchloupe.render.page import page
from torchloupe.render.points import Look, View, read_map
from torchloupe.sources.points import whole


def serve(
    path: Path,
    ready: Callable[[str], None],
    *,
    port: int = 0,
    color_by: str | None = None,
    title: str | None = None,
    labels: Path | None = None,
) -> Path:
    """Serve the page at an address that cannot be guessed, until it posts a view; the view's file is returned.

    ready(address) is called once the page can be opened. Raises BadInput for a map of fewer than three dimensions.
    """
    points = read_map(path, labels=labels)
    if points.feats.shape[1] < 3:
        raise BadInput(f"{path}: a map of {points.feats.shape[1]} dimensions cannot be turned; project with -e 3")
    saved = path.with_suffix(".view.json")
    view = View.parse(str(saved)) if saved.is_file() else View()
    text = page(points, look=Look(title=title, view=view), color_by=color_by).encode()
    secret = secrets.token_urlsafe(12)
    done: list[dict[str, float]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self._reply(200 if self.path == f"/{secret}/" else 404, text if self.path == f"/{secret}/" else b"")

        def do_POST(self) -> None:  # noqa: N802
            length = int(self.headers.get("Content-Length", 0))
            view = _view(self.rfile.read(length)) if self.path == f"/{secret}/view" and length < 1000 else None
            self._reply(200 if view else 400, b"")
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

    try:
        server = HTTPServer(("127.0.0.1", port), Answer)
    except OSError as error:
        raise BadInput(f"port {port}: {error.strerror}; leave out --port to take a free one") from None
    with server:
        ready(f"http://127.0.0.1:{server.server_port}/{secret}/")
        while not done:
            server.handle_request()
    with whole(saved) as aside:
        aside.write_text(json.dumps(done[0]) + "\n", encoding="utf-8")
    return saved


def _view(raw: bytes) -> dict[str, float] | None:
    try:
        sent = json.loads(raw)
        return {name: float(sent[name]) for name in ("elev", "azim", "zoom")}
    except (ValueError, KeyError, TypeError):
        return None
