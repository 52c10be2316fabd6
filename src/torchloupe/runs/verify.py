"""Whether a run on disk is what was written, and is of the files that it says."""

from __future__ import annotations

from torchloupe.errors import LoupeError
from torchloupe.runs.found import Found
from torchloupe.runs.progress import progress
from torchloupe.sources.items import item_at
from torchloupe.store.shards import Shards


def damaged(found: Found) -> list[str]:
    """A line for every result that cannot be read as it was written, and for every source that is not what it was."""
    store = found.store
    wrong = store.verify() if isinstance(store, Shards) else []
    with progress("verify", len(found)) as bar:
        for id in found:
            try:
                record = store.record(id) if isinstance(store, Shards) else store.read(id).record
            except LoupeError as error:
                wrong.append(str(error))
            else:
                source, told = record.get("source"), record.get("source_sha256")
                if source and told:
                    now = _now(str(source))
                    if now is None:
                        wrong.append(f"{id}: its source {source} is gone")
                    elif now != told:
                        wrong.append(f"{id}: its source {source} has changed since")
            bar.advance()
    return wrong


def _now(source: str) -> str | None:
    """The fingerprint of a source as it is now, a file or a picture of a data set; None where it is gone."""
    try:
        return item_at(source).sha256()
    except (LoupeError, OSError):
        return None
