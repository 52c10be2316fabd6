"""The joints of a pose diagnosis, one row each: what the runs `epe` and `ig` of one folder and its mistakes know together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.store import Artifact, load_record
from torchloupe.store.stream import Stream

KINDS = ("ig", "epe")
MISTAKES = "mistakes.json"
BETWEEN = "/"


class Joints:
    """Every joint of every sample of a folder with `ig/` or `epe/`. Ids are SAMPLE/JOINT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.streams = {kind: Stream(root, kind) for kind in KINDS if (root / f"{kind}.json").is_file()}
        if not self.streams:
            raise BadInput(f"{root}: no results of loupe pose in this folder")

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the joints were made."""
        return next(iter(self.streams.values())).settings()

    @property
    def names(self) -> list[str]:
        """Of the joints of a body."""
        return list(self.settings["skeleton"]["joints"])

    def stamp(self) -> object:
        """Changes when the runs grow."""
        files = [stream.folder for stream in self.streams.values()] + [self.root / MISTAKES]
        return [path.stat().st_mtime_ns for path in files if path.exists()]

    def rows(self) -> list[tuple[str, str | None, str]]:
        """(id, None, row as JSON) of every annotated joint, in the order of samples and joints."""
        names = self.names
        told = self.root / MISTAKES
        kinds = load_record(told).get("samples", {}) if told.is_file() else {}
        found: list[tuple[str, str | None, str]] = []
        for sample in dict.fromkeys(id for stream in self.streams.values() for id in stream.ids()):
            columns = self._columns(sample, kinds.get(sample))
            for j, name in enumerate(names):
                row = {key: values[j] for key, values in columns.items() if values[j] is not None}
                if row:
                    found.append(
                        (f"{sample}{BETWEEN}{name}", None, json.dumps({"sample": sample, "joint": name, **row}))
                    )
        return found

    def _columns(self, sample: str, kinds: Any) -> dict[str, list[Any]]:
        names, columns = self.names, {}
        if "epe" in self.streams and sample in self.streams["epe"].there({sample: {}}):
            held = self.streams["epe"].arrays(sample, ("EPE", "decoded", "annotated", "extent", "confidence", "weight"))
            known = held["weight"] > 0
            columns["EPE"] = _plain(held["EPE"], known)
            if "extent" in held and "decoded" in held and self.settings["coordinates"] != "camera":
                away = np.linalg.norm(held["decoded"] - held["annotated"], axis=-1)
                scale = self.settings["crop"]["size"][0] / float(held["extent"][0])
                columns["decoded"] = _plain(away * scale, known)
            if "confidence" in held:
                columns["confidence"] = _plain(held["confidence"], known)
            if kinds is not None:
                columns["error"] = list(kinds)
        if "ig" in self.streams and sample in self.streams["ig"].there({sample: {}}):
            held = self.streams["ig"].arrays(sample, ("DI", "FI", "LI", "RI", "weight"))
            known = held["weight"] > 0
            columns |= {name: _plain(held[name], known) for name in ("DI", "FI", "LI") if name in held}
            if "RI" in held:
                other = np.where(np.eye(len(names), dtype=bool) | ~np.isfinite(held["RI"]), -np.inf, held["RI"])
                columns["RI"] = _plain(other.max(1), known & np.isfinite(other.max(1)))
                columns["RI at"] = [
                    names[k] if value is not None else None
                    for k, value in zip(other.argmax(1).tolist(), columns["RI"], strict=True)
                ]
        return columns

    def read(self, id: str) -> tuple[Artifact, str]:
        """The arrays of the joint's sample, and the joint's name. Errors: BadInput for one that there is not."""
        sample, _, joint = id.rpartition(BETWEEN)
        there = [kind for kind, stream in self.streams.items() if sample in stream.ids()]
        if joint not in self.names or not there:
            raise BadInput(f"{self.root.name}: no joint {id!r}; ids are SAMPLE{BETWEEN}JOINT")
        found = self.streams[there[0]].read(sample)
        more = self.streams["epe"].arrays(sample, ("predicted", "EPE", "confidence")) if "epe" in there else {}
        return Artifact({**more, **found.arrays}, found.record), joint


def _plain(values: np.ndarray, known: np.ndarray) -> list[float | None]:
    return [float(v) if k and np.isfinite(v) else None for v, k in zip(values, known, strict=True)]
