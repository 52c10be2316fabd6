"""Runs in shards carried to an object store and back: a shard never changes, so only new ones are on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchloupe.errors import BadInput
from torchloupe.store import load_record
from torchloupe.store.files import aside
from torchloupe.store.results import RUN, difference, short

PATTERN = "shard-*.safetensors"


def send(folder: Path, url: str) -> tuple[int, int]:
    """Bring the shards of a folder that are not yet at the URL there, each whole or absent: (shards, bytes).

    url: of any file system of fsspec, such as s3://bucket/run, gs://..., file:///.... Errors: BadInput for a folder
    without shards, a URL that cannot be reached, or one that holds another question or another run's shards.
    """
    with _at(url) as (files, root):
        mine = {path.name: path for path in sorted(folder.glob(PATTERN))}
        if not mine or not (folder / RUN).is_file():
            raise BadInput(f"{folder}: holds no run in shards; make one with --store shards")
        there = _sizes(files, root)
        files.makedirs(root, exist_ok=True)
        if RUN in there:
            with files.open(f"{root}/{RUN}", "rb") as far:
                _same(load_record(folder / RUN), _parsed(far.read(), f"{url}/{RUN}"), url)
        new = _new({name: path.stat().st_size for name, path in mine.items()}, there, url)
        for name in [*([] if RUN in there else [RUN]), *new]:
            draft = f"{root}/.{name}~"
            files.put_file(str(folder / name), draft)
            files.mv(draft, f"{root}/{name}")
        return len(new), sum(new.values())


def fetch(url: str, folder: Path) -> tuple[int, int]:
    """Bring the shards at a URL that are not yet in the folder here: (shards, bytes). Errors: as `send`."""
    with _at(url) as (files, root):
        there = _sizes(files, root)
        if RUN not in there:
            raise BadInput(f"{url}: holds no run in shards")
        with files.open(f"{root}/{RUN}", "rb") as far:
            told = far.read()
        if (folder / RUN).is_file():
            _same(load_record(folder / RUN), _parsed(told, f"{url}/{RUN}"), url)
        elif folder.exists() and any(folder.glob("[!.]*")):
            raise BadInput(f"{folder}: holds something else; give a folder that is empty, or holds this run")
        far_shards = {name: size for name, size in there.items() if Path(name).match(PATTERN)}
        here = {path.name: path.stat().st_size for path in folder.glob(PATTERN)}
        new = _new(far_shards, here, str(folder))
        for name in [*([] if (folder / RUN).is_file() else [RUN]), *new]:
            with aside(folder / name) as (draft,):
                files.get_file(f"{root}/{name}", str(draft))
        return len(new), sum(new.values())


@contextmanager
def _at(url: str) -> Iterator[tuple[Any, str]]:
    import fsspec

    if "://" not in url:
        raise BadInput(f"{url!r}: expected a URL such as s3://bucket/run or file:///folder")
    try:
        files, root = fsspec.core.url_to_fs(url)
        yield files, root.rstrip("/")
    except BadInput:
        raise
    except ImportError as error:
        raise BadInput(f"{url}: {error}") from error
    except Exception as error:  # every kind of store has errors of its own
        raise BadInput(f"{url}: cannot be reached ({type(error).__name__}: {error})") from error


def _sizes(files: Any, root: str) -> dict[str, int]:
    if not files.exists(root):
        return {}
    return {Path(one["name"]).name: int(one["size"]) for one in files.ls(root, detail=True) if one["type"] == "file"}


def _new(from_: dict[str, int], to: dict[str, int], where: str) -> dict[str, int]:
    odd = next((name for name, size in from_.items() if to.get(name, size) != size), None)
    if odd is not None:
        raise BadInput(
            f"{where}: holds another {odd}, of {to[odd]:,} bytes in place of {from_[odd]:,}: of another run, or one that went "
            "on in two places"
        )
    return {name: size for name, size in from_.items() if name not in to}


def _same(mine: dict[str, Any], other: dict[str, Any], url: str) -> None:
    differs = difference(other.get("about", {}), mine.get("about", {}))
    if differs is not None:
        name, was, now = differs
        raise BadInput(f"{url}: holds a run made with {name} {short(was)}, this one with {short(now)}")


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise BadInput(f"{where}: is damaged ({error})") from error
