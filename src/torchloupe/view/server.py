"""A read-only server on this machine over opened runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import secrets
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from torchloupe.errors import BadInput, LoupeError, nearest, need
from torchloupe.view.api import Library

# the page of a map of points is one file with its script inside, and its WebGL library writes code of its own
INLINE = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval' blob:; "
    "worker-src blob:"
)
MOST_SPREAD = 50_000
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; "
    "frame-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def application(library: Library, token: str, port: int) -> Any:
    """The ASGI application. Everything lies below /TOKEN/; other hosts and origins are refused.

    Errors: MissingPackage without Starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import Response
        from starlette.routing import Route
    except ImportError:
        raise need("starlette", "view") from None

    hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    def answer(act: Callable[[Request], tuple[bytes, str]]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            origin = request.headers.get("origin")
            if request.headers.get("host") not in hosts or (origin and origin not in {f"http://{h}" for h in hosts}):
                return Response("refused: another host or origin", 403)
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                return Response("not here", 404)
            try:
                content, media = await run_in_threadpool(act, request)
            except LoupeError as error:
                return Response(json.dumps({"error": str(error)}), 404, media_type="application/json")
            except OSError as error:
                said = f"cannot be read any more ({error.strerror or error})"
                return Response(json.dumps({"error": said}), 410, media_type="application/json")
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            headers = {**HEADERS, "ETag": etag, "Cache-Control": "private, no-cache"}
            if request.url.path.endswith("/points"):
                headers["Content-Security-Policy"] = INLINE
            if request.headers.get("if-none-match") == etag:
                return Response(status_code=304, headers=headers)
            span = request.headers.get("range")
            if span:
                return _part(Response, content, media, headers, span)
            if len(content) > 1000 and media != "image/png" and "gzip" in request.headers.get("accept-encoding", ""):
                headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
                content = gzip.compress(content, 5)
            return Response(content, headers=headers, media_type=media)

        return respond

    def put(value: Any) -> tuple[bytes, str]:
        return json.dumps(value, allow_nan=False).encode(), "application/json"

    def rows(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        table = library.run(request.path_params["run"]).table
        conditions, failed = _conditions(asked.get("filter")), asked.get("failed") == "1"
        page = table.rows(
            conditions,
            asked.get("sort", "id"),
            asked.get("down") == "1",
            _number(asked.get("from", "0")),
            _number(asked.get("count", "100")),
            failed,
        )
        return put({"count": table.count(conditions, failed), "rows": page})

    def histogram(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        table = library.run(request.path_params["run"]).table
        return put(table.histogram(asked.get("column", "id"), _conditions(asked.get("filter"))))

    def sample(request: Request) -> tuple[bytes, str]:
        return put(library.run(request.path_params["run"]).sample(request.query_params.get("id", "")))

    def plane(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        run = library.run(request.path_params["run"])
        return run.plane(asked.get("id", ""), _number(asked.get("plane", "0"))).tobytes(), "application/octet-stream"

    def picture(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        size = _number(asked["size"]) if "size" in asked else None
        run = library.run(request.path_params["run"])
        frame, answer = _number(asked.get("frame", "0")), asked.get("answer") == "1"
        return run.picture(asked.get("id", ""), frame, size, answer), "image/png"

    def neighbours(request: Request) -> tuple[bytes, str]:
        return put(library.neighbours(request.path_params["run"], _number(request.query_params.get("index", ""))))

    def columns(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        table = library.run(request.path_params["run"]).table
        conditions, names = _conditions(asked.get("filter")), _names(asked.get("names"), table)
        rows = table.spread(MOST_SPREAD, conditions)
        values = {name: [row.get(name) for row in rows] for name in names}
        return put({"ids": [row["id"] for row in rows], "values": values, "of": table.count(conditions)})

    def peak(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        return put(library.run(request.path_params["run"]).peak(asked.get("method", ""), asked.get("layer", "")))

    def npz(request: Request) -> tuple[bytes, str]:
        return library.run(request.path_params["run"]).npz(request.query_params.get("id", "")), "application/zip"

    def drawing(request: Request) -> tuple[bytes, str]:
        return library.run(request.path_params["run"]).drawing(request.query_params.get("id", "")), "image/png"

    def csv(request: Request) -> tuple[bytes, str]:
        asked = request.query_params
        table = library.run(request.path_params["run"]).table
        order = asked.get("sort", "id"), asked.get("down") == "1"
        return table.csv(_conditions(asked.get("filter")), *order).encode(), "text/csv; charset=utf-8"

    def points(request: Request) -> tuple[bytes, str]:
        return library.run(request.path_params["run"]).page().encode(), "text/html; charset=utf-8"

    def asset(name: str, media: str) -> Callable[[Request], tuple[bytes, str]]:
        return lambda _request: ((files(__package__) / name).read_bytes(), media)

    acts = {
        "/": asset("view.html", "text/html; charset=utf-8"),
        "/view.js": asset("view.js", "text/javascript; charset=utf-8"),
        "/view.css": asset("view.css", "text/css; charset=utf-8"),
        "/api/runs": lambda _request: put(library.plain()),
        "/api/runs/{run}/rows": rows,
        "/api/runs/{run}/histogram": histogram,
        "/api/runs/{run}/sample": sample,
        "/api/runs/{run}/plane": plane,
        "/api/runs/{run}/picture": picture,
        "/api/runs/{run}/points": points,
        "/api/runs/{run}/columns": columns,
        "/api/runs/{run}/neighbours": neighbours,
        "/api/runs/{run}/peak": peak,
        "/api/runs/{run}/npz": npz,
        "/api/runs/{run}/drawing": drawing,
        "/api/runs/{run}/csv": csv,
    }
    return Starlette(routes=[Route("/{token}" + path, answer(act)) for path, act in acts.items()])


def _part(response: Any, content: bytes, media: str, headers: dict[str, str], span: str) -> Any:
    """The bytes FIRST-LAST of the content, as a request with a range asks for them."""
    first, mark, last = span.removeprefix("bytes=").partition("-")
    total = len(content)
    if not span.startswith("bytes=") or not mark or not (first or last) or not (first + last).isdecimal():
        return response(status_code=416, headers={**headers, "Content-Range": f"bytes */{total}"})
    begin = int(first) if first else max(0, total - int(last))
    end = min(int(last), total - 1) if first and last else total - 1
    if begin > end:
        return response(status_code=416, headers={**headers, "Content-Range": f"bytes */{total}"})
    headers = {**headers, "Content-Range": f"bytes {begin}-{end}/{total}", "Accept-Ranges": "bytes"}
    return response(content[begin : end + 1], 206, headers=headers, media_type=media)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise BadInput(f"{text!r}: expected a number")
    return int(text)


def _conditions(text: str | None) -> list[Any]:
    if not text:
        return []
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(f"filter {text!r}: expected JSON ({error})") from error
    if not isinstance(found, list) or len(found) > 50:
        raise BadInput(f"filter {text[:80]!r}: expected a list of at most 50 conditions")
    return found


def _names(text: str | None, table: Any) -> list[str]:
    """Columns of a table, from a JSON list."""
    found = _conditions(text)
    known = table.columns()
    for name in found:
        if name not in known:
            raise BadInput(f"no column {name!r}.{nearest(str(name), known)} Columns: {', '.join(known)}")
    return found


def serve(library: Library, ready: Callable[[str], None], port: int = 0) -> None:
    """Serve until interrupted, on 127.0.0.1; ready is told the address. port 0: any that is free.

    Errors: BadInput for a port in use; MissingPackage without uvicorn.
    """
    try:
        import uvicorn
    except ImportError:
        raise need("uvicorn", "view") from None
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()  # a browser that is quicker than the server waits
    except OSError as error:
        listener.close()
        raise BadInput(
            f"port {port}: cannot be used ({error.strerror or error}); give another, or 0 for any"
        ) from error
    with listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(16)
        app = application(library, token, port)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        )
        ready(f"http://127.0.0.1:{port}/{token}/")
        server.run(sockets=[listener])
