"""What `loupe browse` saw of a data set: of each sample its number, name, size and fingerprint, and a summary of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.kinds.pictured import Pictured


@dataclass(frozen=True)
class Seen(Pictured):
    """index (n,), size (n, 2) width and height, fingerprint (n, 72) uint8, name (n,); told: the summary and what was asked."""

    index: np.ndarray
    size: np.ndarray
    fingerprint: np.ndarray
    name: np.ndarray
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        return {**self.told, "kind": "census"}

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        return {"index": self.index, "size": self.size, "fingerprint": self.fingerprint, "name": self.name}

    def row(self) -> dict[str, Any]:
        """Samples, classes, and how much is broken, alike or odd."""
        summary = dict(self.told.get("summary", {}))
        counted = ("classes", "broken", "duplicates", "annotation", "odd")
        return {
            "samples": summary.get("samples", len(self.index)),
            **{key: len(summary.get(key, ())) for key in counted},
        }

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Seen:
        """From disk. Errors: BadInput where something is missing."""
        missing = [key for key in ("index", "size", "fingerprint", "name") if key not in arrays]
        if missing:
            raise BadInput(f"{name or 'result'}: lacks {', '.join(missing)}; make it again with loupe browse")
        return cls(arrays["index"], arrays["size"], arrays["fingerprint"], arrays["name"], dict(record))
