"""What a folder of results was asked, so that it can be asked again: the job as plain data, in a hidden file beside the results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchloupe.errors import BadInput, BadSample
from torchloupe.store.files import whole
from torchloupe.store.records import load_record
from torchloupe.store.results import Files, Results
from torchloupe.store.shards import Shards
from torchloupe.store.stream import Stream


def described(results: Results) -> dict[str, Any]:
    """A store as plain data."""
    kind = type(results).__name__
    more: dict[str, Any] = {"also": results.also} if isinstance(results, Files) else {}
    more |= {"kind": results.kind} if isinstance(results, Stream) else {}
    more |= {"precision": results.precision} if isinstance(results, Shards) else {}
    return {"store": kind, "root": str(results.root), **more}


def reopened(told: Mapping[str, Any], writer: str = "0") -> Results:
    """The store again. writer: the name of who writes shards."""
    root = Path(told["root"])
    if told["store"] == "Files":
        return Files(root, told["also"])
    if told["store"] == "Stream":
        return Stream(root, told["kind"])
    return Shards(root, writer, precision=told["precision"])


def note(results: Results, told: Mapping[str, Any]) -> None:
    """Keep what is asked, or how it went; earlier words of the same name are replaced."""
    path = _place(results)
    before = load_record(path) if path.is_file() else {}
    whole(path, json.dumps({**before, **told}, ensure_ascii=False) + "\n")


@contextmanager
def noting(results: Results, told: Mapping[str, Any]) -> Iterator[None]:
    """What is asked stands beside the results; a question that is refused leaves the one before, and none stands beside no
    results."""
    places = (_place(results), _place(results).with_suffix(".ids"))
    before = {place: place.read_bytes() for place in places if place.is_file()}
    if told:
        note(results, told)
    try:
        yield
    except BadInput as error:
        if not isinstance(error, BadSample):
            for place, content in before.items():
                whole(place, content)
        raise
    finally:
        if all(entry.name.startswith(".") for entry in results.root.glob("*")):
            for place in places:
                place.unlink(missing_ok=True)


def ordered(results: Results, ids: Sequence[str]) -> list[str]:
    """The samples in the order in which batches are cut: those of the last run here as they were, new ones behind them.

    So samples that are added later add their own work alone, and what was there stays in its company. The order is kept.
    """
    path = _place(results).with_suffix(".ids")
    try:
        before = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):  # none yet, or damaged: it is made anew
        before = []
    if not before or before == list(ids):
        found = list(ids)
    else:
        wanted = dict.fromkeys(ids)
        known = dict.fromkeys(id for id in before if id in wanted)
        found = [*known, *(id for id in wanted if id not in known)]
    if found != before:
        whole(path, "".join(json.dumps(id) + "\n" for id in found))
    return found


def noted(results: Results) -> Mapping[str, Any]:
    """What was kept: job, plan, folder (in which relative paths begin), made, seconds. Errors: BadInput where nothing was."""
    path = _place(results)
    if not path.is_file():
        raise BadInput(f"{results.root}: does not say how it was asked; run the command that made it again")
    return load_record(path)


def _place(results: Results) -> Path:
    return results.root / (f".{results.kind}.job.json" if isinstance(results, Stream) else ".job.json")
