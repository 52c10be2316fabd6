"""A data set as named samples that a model can be fed with: pictures by any word of `sources.items`, `sequences:PATH` of gait."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torchloupe.errors import BadInput, BadSample, nearest
from torchloupe.points import LABELS
from torchloupe.probe import Batch, Subject
from torchloupe.sources.items import WORDS, Item, columns_of, opened
from torchloupe.sources.sequences import Walk, sequences


@dataclass(frozen=True)
class Samples:
    """N samples, not yet read: ids, label columns (N,) each, and load(subject, rows) -> Batch of those rows.

    digest(row): the sha256 of the files behind a sample; BadSample where they cannot be read.
    together: how many may go into one batch (1 where samples differ in length); None: as many as asked.
    """

    ids: np.ndarray
    load: Callable[[Subject, Sequence[int]], Batch]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    digest: Callable[[int], str] = lambda row: ""
    together: int | None = None

    @property
    def stamp(self) -> str:
        """A hash of the names and the contents of all samples; those that cannot be read count as such."""
        state = hashlib.sha256()
        for row, name in enumerate(self.ids.tolist()):
            try:
                state.update(f"{name} {self.digest(row)}\n".encode())
            except (BadSample, OSError):
                state.update(f"{name} unreadable\n".encode())
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.ids)


def pictures(word: str) -> Samples:
    """The pictures of a data set, or the objects in them, see `items.opened`; labels and what else is known become columns."""
    return of_items(opened(word))


def folder(path: str) -> Samples:
    """All pictures below a folder, sorted; ids are paths relative to it, the first folder below it is the label."""
    return pictures(f"folder:{path}")


def of_items(found: Sequence[Item]) -> Samples:
    """These pictures as samples."""

    def load(subject: Subject, rows: Sequence[int]) -> Batch:
        if subject.prepare is None:
            raise BadInput(f"model {subject.spec or 'given'!r} does not say how it takes pictures: no data to embed")
        return subject.prepare([found[row].read() for row in rows], tuple(found[row].name for row in rows))

    names = np.array([item.name for item in found])
    return Samples(names, load, columns_of(found), lambda row: found[row].sha256())


def walks(path: str) -> Samples:
    """All sequences of a gait tree <id>/<type>/<view>/; ids are id-type-view, labels the identities.

    Further columns: type and view. One sequence a batch: lengths differ.
    """
    return of_walks(sequences(path))


def of_walks(found: Sequence[Walk]) -> Samples:
    """These walks as samples, see `walks`."""
    columns = {
        LABELS: np.array([walk.identity for walk in found]),
        "type": np.array([walk.condition for walk in found]),
    }
    columns["view"] = np.array([walk.view for walk in found])

    def load(subject: Subject, rows: Sequence[int]) -> Batch:
        if subject.prepare is None or subject.kind != "embedder":
            raise BadInput(f"model {subject.spec or 'given'!r} does not take sequences; expected opengait:CONFIG.yaml")
        return subject.prepare(found[rows[0]])

    ids = np.array([walk.name for walk in found])
    return Samples(ids, load, columns, lambda row: found[row].digest(), together=1)


def samples(spec: str) -> Samples:
    """A data set from a word of `items.WORDS` or sequences:PATH; a folder's path alone is a folder of pictures."""
    kind, colon, rest = spec.partition(":")
    if not spec or (colon and not rest):
        raise BadInput(
            f"data {spec!r}: names nothing (is a variable of the shell unset?); for the present folder say folder:."
        )
    if not colon and Path(spec).is_dir():
        return folder(spec)
    known = (*WORDS, "sequences")
    if not colon or kind not in known:
        raise BadInput(f"data {spec!r}: expected {', '.join(f'{name}:' for name in known)}.{nearest(kind, known)}")
    return walks(rest) if kind == "sequences" else pictures(spec)
