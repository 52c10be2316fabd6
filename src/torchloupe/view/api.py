"""The questions of the page and their answers, the same for the server and for a report in one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from torchloupe import __version__
from torchloupe.errors import BadInput, LoupeError
from torchloupe.kinds.film import Film
from torchloupe.points import Points
from torchloupe.render.mapped import FEATURES_WIDE, class_colours
from torchloupe.runs.found import Found, parts, results
from torchloupe.sources.points import read_points
from torchloupe.store import Artifact, load, load_record, plain
from torchloupe.view.joints import Joints
from torchloupe.view.shown import Shown, shown, still, top
from torchloupe.view.table import Table

PALETTES = ("inferno", "viridis", "cividis", "gray", "coolwarm", "jet")
LARGEST = 2048
HELD = 64
MOST_PEAK, NEIGHBOURS, PIECE = 200, 15, 1 << 24


class Library:
    """The opened runs, by their numbers. Nothing is read but what lies in their folders, by ids that they know."""

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise BadInput("nothing to look at: name folders of results, or maps of points")
        self.runs: list[Run] = []
        for path in paths:
            several = parts(path)
            if {part.name for part in several} & {"ig", "epe"} and several != [path]:
                self.runs.append(JointsRun(path))
            self.runs += [Run(part, path.name if several != [path] else "") for part in several]

    def plain(self) -> dict[str, Any]:
        """All runs, and what every page needs."""
        return {
            "runs": [run.plain() for run in self.runs],
            "palettes": {name: _palette(name) for name in PALETTES},
            "classes": [to_hex(colour) for colour in class_colours(60)],
            "version": __version__,
        }

    def neighbours(self, number: str, index: int) -> dict[str, Any]:
        """The nearest samples of a point in feature space, and which of them are among its nearest on the map.

        of: their rows; distance; kept: whether the map has them so near. Empty without features of the same samples.
        """
        mine = self.run(number)
        told = mine.about(index)
        for one in self.runs:
            if one.points and one.features and np.array_equal(one.places.ids, mine.places.ids):
                metric = str(mine.places.record.get("metric", "euclidean"))
                of, far = _nearest(one.places.feats, index, metric)
                near, _ = _nearest(mine.places.feats, index, "euclidean")
                kept = np.isin(of, near).tolist()
                ids = [str(mine.places.ids[i]) for i in of]
                return {
                    **told,
                    "of": of.tolist(),
                    "ids": ids,
                    "distance": far.tolist(),
                    "kept": kept,
                    "features": one.name,
                }
        return {**told, "of": [], "ids": [], "distance": [], "kept": [], "features": None}

    def run(self, number: str) -> Run:
        """A run. Errors: BadInput for a number that there is not."""
        if not number.isdecimal() or int(number) >= len(self.runs):
            raise BadInput(f"run {number!r}: there are {len(self.runs)}")
        return self.runs[int(number)]


class Run:
    """One opened folder of results, or one map of points."""

    def __init__(self, path: Path, within: str = "") -> None:
        self.path = path
        self.name = f"{within}/{path.name}" if within else path.name
        self.points = path.suffix in (".npz", ".parquet")
        if self.points and not path.is_file():
            raise BadInput(f"{path}: no such map of points")
        if not self.points:
            self.found: Found = results(path)
            self.table = Table(self.found)
        self._sample = lru_cache(HELD)(self._read)
        self._peaks: dict[tuple[str, str], dict[str, Any]] = {}
        self._drawn: dict[str, bytes] = {}

    @cached_property
    def film(self) -> Film | None:
        """Several maps of the same points; None for one map. Errors: BadInput for one that is damaged."""
        words = self.path.with_suffix(".json")
        if self.path.suffix != ".npz" or not words.is_file() or load_record(words).get("kind") != "film":
            return None
        return Film.read(*load(self.path), self.name)

    @cached_property
    def places(self) -> Points:
        """The points of a map, or features; the last map of a film. Errors: BadInput for a file that is neither."""
        return read_points(self.path) if self.film is None else self.film.at(len(self.film) - 1)

    @property
    def features(self) -> bool:
        """Whether these points are features, of which a map was made or is to be made."""
        return self.places.record.get("kind") == "features" or self.places.feats[:1].size > FEATURES_WIDE

    def plain(self) -> dict[str, Any]:
        """What the list of runs says. A run that is gone says so."""
        if self.points:
            return {"name": self.name, "kind": "features" if self.features else "points", "count": len(self.places)}
        if not self.path.is_dir():
            return {"name": self.name, "kind": "gone", "error": "this folder is not there any more"}
        told = [line.replace(str(self.path), self.path.name) for line in self.found.told()]  # a report may be mailed
        first = next((record for _, record in self.found.store.records()), {})
        return {
            "name": self.name,
            "kind": str(first.get("kind", "nothing")),
            "command": first.get("command"),
            "count": self.table.count(),
            "failed": self.table.count(failed=True),
            "columns": self.table.columns(),
            "told": told,
        }

    def _read(self, id: str) -> tuple[Shown, dict[str, Any]]:
        found = self.found.store.read(id)
        return shown(found, id), dict(found.record)

    def sample(self, id: str) -> dict[str, Any]:
        """A sample's record and what there is to see of it. Errors: BadInput for an id that the run does not have."""
        seen, record = self._sample(id)
        return {"id": id, "record": plain(record), **plain(seen.plain())}

    def plane(self, id: str, number: int) -> np.ndarray:
        """Maps (k, t, h, w) as little-endian float32. Errors: BadInput for a plane that there is not."""
        seen, _ = self._sample(id)
        if not 0 <= number < len(seen.planes):
            raise BadInput(f"sample {id!r} has {len(seen.planes)} planes, not one of number {number}")
        return seen.planes[number].values

    def picture(self, id: str, frame: int = 0, size: int | None = None, answer: bool = False) -> bytes:
        """The base of a sample, or its answer, as PNG, at most so many pixels a side. Errors: BadInput where there is none."""
        from PIL import Image

        seen, _ = self._sample(id)
        base = seen.answer if answer else seen.base
        if base is None or not 0 <= frame < len(base):
            raise BadInput(f"sample {id!r} has no picture of number {frame}")
        picture = Image.fromarray(base[frame])
        side = min(size or LARGEST, LARGEST)
        if max(picture.size) > side:
            picture.thumbnail((side, side))
        held = io.BytesIO()
        picture.save(held, "PNG")
        return held.getvalue()

    def peak(self, method: str, layer: str) -> dict[str, Any]:
        """The value of the last colour over the run, of at most 200 samples spread evenly, and of how many."""
        if (method, layer) not in self._peaks:
            ids = [row["id"] for row in self.table.spread(MOST_PEAK)]
            tops = []
            for id in ids:
                seen, _ = self._sample(id)
                tops += [top(one) for one in seen.planes if (one.method, one.layer) == (method, layer)]
            self._peaks[method, layer] = {"top": max(tops, default=0.0), "of": len(ids)}
        return self._peaks[method, layer]

    def npz(self, id: str) -> bytes:
        """All arrays of a sample as an npz file, as they are stored. Errors: BadInput for an id that the run does not have."""
        return packed(self.found.store.read(id))

    def drawing(self, id: str) -> bytes:
        """The still picture of a result, as `loupe draw` makes it, as PNG. Errors: BadInput for a kind that is not drawn."""
        if id not in self._drawn:
            self._drawn[id] = still(self.found.store.read(id), id)
        return self._drawn[id]

    def page(self) -> str:
        """The interactive page of a map of points."""
        from torchloupe.render.mapped import read_map
        from torchloupe.render.page import page

        return page(self.places if self.film else read_map(self.path), film=self.film)

    def about(self, index: int) -> dict[str, Any]:
        """A point of a map by its row: its id and columns, as they are. Errors: BadInput for a row that there is not."""
        if not self.points or not 0 <= index < len(self.places):
            raise BadInput(f"{self.name}: no point of number {index}")
        row = {
            name: plain(column[index : index + 1].astype(_kind(column)))[0]
            for name, column in self.places.columns.items()
        }
        return {"id": str(self.places.ids[index]), "row": row}


def _kind(column: np.ndarray) -> Any:
    return str if column.dtype.kind in "MU" else column.dtype


def _nearest(feats: Any, index: int, metric: str, k: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the k nearest to a row, without itself, and their distances; read in pieces."""
    count = len(feats)
    mine = np.asarray(feats[index : index + 1], np.float64).reshape(-1)
    step = max(1, PIECE // max(1, mine.size))
    far = np.empty(count)
    for start in range(0, count, step):
        some = np.asarray(feats[start : start + step], np.float64).reshape(-1, mine.size)
        if metric == "cosine":
            lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(mine)
            far[start : start + step] = 1 - some @ mine / np.where(lengths > 0, lengths, 1)
        else:
            far[start : start + step] = np.linalg.norm(some - mine, axis=1)
    far[index] = np.inf
    order = np.argsort(far, kind="stable")[: min(k, count - 1)]
    return order, far[order]


class JointsRun(Run):
    """The joints of a pose diagnosis; see `Joints`."""

    def __init__(self, path: Path) -> None:
        self.path, self.points, self.name = path, False, f"{path.name}: joints"
        self.joints = Joints(path)
        self.table = Table(self.joints)
        self._sample = lru_cache(HELD)(self._read)
        self._peaks, self._drawn = {}, {}

    def plain(self) -> dict[str, Any]:
        """See `Run.plain`."""
        if not self.path.is_dir():
            return {"name": self.name, "kind": "gone", "error": "this folder is not there any more"}
        about = {"name": self.name, "kind": "pose joints", "count": self.table.count(), "failed": 0}
        return {**about, "columns": self.table.columns(), "told": [], "command": self.joints.settings.get("command")}

    def _read(self, id: str) -> tuple[Shown, dict[str, Any]]:
        found, joint = self.joints.read(id)
        seen = shown(found, id)
        row = next(iter(self.table.rows([["id", "=", id]])), {})
        focus = {"focus": seen.questions.index(joint) if joint in seen.questions else None, "joint": joint}
        return replace(seen, more={**seen.more, **focus}), {**found.record, "row": row}

    def npz(self, id: str) -> bytes:
        """See `Run.npz`: of the joint's sample."""
        return packed(self.joints.read(id)[0])

    def drawing(self, id: str) -> bytes:
        """Joints have no still picture of their own."""
        raise BadInput(f"{id}: a joint has no picture of its own")


def packed(found: Artifact) -> bytes:
    """The arrays of a result as an npz file."""
    held = io.BytesIO()
    np.savez(held, **found.arrays)  # type: ignore[arg-type]
    return held.getvalue()


@lru_cache
def _palette(name: str) -> str:
    """256 colours as hexadecimal digits, six each."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]
    return bytes(table.tobytes()).hex()


__all__ = ["Library", "LoupeError", "Run"]
