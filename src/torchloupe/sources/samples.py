"""A data set as named samples that a model can be fed with: `folder:PATH`; further kinds register themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torchloupe.errors import BadInput, nearest
from torchloupe.points import LABELS
from torchloupe.probe import Batch, Subject

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


@dataclass(frozen=True)
class Samples:
    """N samples, not yet read: ids, label columns (N,) each, and load(subject, rows) -> Batch of those rows.

    together: how many may go into one batch (1 where samples differ in length); None: as many as asked.
    """

    ids: np.ndarray
    load: Callable[[Subject, Sequence[int]], Batch]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    together: int | None = None

    def __len__(self) -> int:
        return len(self.ids)


def folder(path: str) -> Samples:
    """All pictures below a folder, sorted; ids are paths relative to it, the first folder below it is the label."""
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder of pictures")
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
    if not files:
        raise BadInput(f"{root}: holds no picture ({', '.join(PICTURES)})")
    relative = [file.relative_to(root) for file in files]
    columns = {}
    if all(len(name.parts) > 1 for name in relative):
        columns[LABELS] = np.array([name.parts[0] for name in relative])

    def load(subject: Subject, rows: Sequence[int]) -> Batch:
        if subject.prepare is None:
            raise BadInput(f"{subject.spec or 'the model'} does not say how it takes pictures; give Subject(prepare=...)")
        return subject.prepare([files[row] for row in rows])

    return Samples(np.array([name.as_posix() for name in relative]), load, columns)


KINDS: dict[str, Callable[[str], Samples]] = {"folder": folder}


def samples(spec: str) -> Samples:
    """A data set from "kind:rest"; a folder's path alone is a folder of pictures."""
    kind, colon, rest = spec.partition(":")
    if not colon and Path(spec).is_dir():
        return folder(spec)
    if not colon or kind not in KINDS:
        known = ", ".join(f"{name}:PATH" for name in KINDS)
        raise BadInput(f"data {spec!r}: expected {known}.{nearest(kind, KINDS)}")
    return KINDS[kind](rest)
