"""What a page shows of a stored result: a base picture, maps over it, questions. One function a kind; the rest have a record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe import kinds
from torchloupe.errors import BadInput, LoupeError
from torchloupe.kinds.census import Seen
from torchloupe.kinds.evaluation import Evaluation
from torchloupe.kinds.features import Difference, FeatureMaps, Likeness
from torchloupe.kinds.judged import Judged
from torchloupe.kinds.maps import Heatmaps
from torchloupe.kinds.pose import PoseErrors, PoseMaps
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.render.kinds import Wish, drawing_of, redraw
from torchloupe.store import Artifact, plain, save
from torchloupe.store.reading import reading

MOST_VALUES, MOST_NEAREST, MOST_STEPS = 8_000_000, 50, 2000


@dataclass(frozen=True)
class Plane:
    """Maps (k, t, h, w) float32 of one method at one layer; signed: values below 0 mean something."""

    method: str
    layer: str
    values: np.ndarray
    signed: bool = False


@dataclass(frozen=True)
class Shown:
    """base (t, h, w, 3) uint8, or None; planes over it, each for all questions; scores: of the questions, NaN for none.

    boxes (k, 4), of the questions; answer (t, h, w, 3) uint8, the other sequence. more: plain data by what the page draws it as:
    numbers and curves (of maps), joints (sets of places with limbs), matrices, lines (plots), channels (questions are channels).
    """

    base: np.ndarray | None = None
    planes: Sequence[Plane] = ()
    questions: Sequence[str] = ()
    scores: Sequence[float] = ()
    boxes: np.ndarray | None = None
    answer: np.ndarray | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seen in (self.base, self.answer):
            if seen is not None and (seen.ndim != 4 or seen.shape[3] != 3 or seen.dtype != np.uint8):
                raise BadInput(f"picture {seen.shape} {seen.dtype}; expected (t, h, w, 3) uint8")
        for plane in self.planes:
            if plane.values.ndim != 4 or len(plane.values) > len(self.questions):
                told = f"{plane.values.shape} for {len(self.questions)} questions"
                raise BadInput(f"map {plane.method} at {plane.layer} {told}; expected (k, t, h, w)")
        if not all(isinstance(score, (int, float)) for score in self.scores):
            raise BadInput(f"scores {list(self.scores)}: expected a number for each question")

    def plain(self) -> dict[str, Any]:
        """As JSON, without the numbers of base and planes."""
        return {
            "base": None if self.base is None else list(self.base.shape[:3]),
            "planes": [
                {"method": p.method, "layer": p.layer, "signed": p.signed, "shape": list(p.values.shape)}
                for p in self.planes
            ],
            "questions": [str(question) for question in self.questions],
            "scores": [None if score != score else float(score) for score in self.scores],
            "boxes": plain(self.boxes),
            **plain(self.more),
        }


def shown(found: Artifact, name: str) -> Shown:
    """What there is to see of a stored result. A kind that has no picture of its own shows its record alone."""
    try:
        told = kinds.kind_of(found.arrays, found.record, name)
        if told == "curves":  # no kind of its own
            with reading(name, "stored schedules"):
                return _curves(found)
        if told not in SHOWN:
            return Shown(more={"drawing": drawing_of(told) is not None})
        with reading(name, f"a result of kind {told!r}"):
            return SHOWN[told](kinds.read(found.arrays, found.record, name))
    except LoupeError as error:
        return Shown(more={"error": str(error)})


def _float(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, "<f4")


def _maps(made: Heatmaps) -> Shown:
    planes = [
        Plane(method, layer, _float(values), method in made.signed) for (method, layer), values in made.maps.items()
    ]
    return Shown(made.picture, planes, made.questions, made.scores, made.boxes)


def _judged(made: Judged) -> Shown:
    told = made.record["judged"]
    curves = {
        name: {"at": line.at.tolist(), "value": {key: value.tolist() for key, value in line.value.items()}}
        for name, line in made.curves.items()
    }
    more = {"numbers": told["numbers"], "curves": curves, "controls": list(made.controls), "said": list(made.said)}
    return replace(_maps(made), more=more)


def _walk(made: SequenceMaps) -> Shown:
    base = made.imgs[..., None].repeat(3, -1) if len(made.imgs) else None
    more: dict[str, Any] = {}
    if len(made.poses):
        places, size = _placed(made.poses[..., :2])
        base = np.full((len(places), *size, 3), 24, np.uint8) if base is None else base
        more["joints"] = _joints(made.joints, made.limbs, {"pose": places})
    answer = made.answer_imgs[..., None].repeat(3, -1) if len(made.answer_imgs) else None
    if len(made.answer_poses):
        places, size = _placed(made.answer_poses[..., :2])
        answer = np.full((len(places), *size, 3), 24, np.uint8) if answer is None else answer
        more["answer joints"] = _joints(made.joints, made.limbs, {"pose": places})
    planes = []
    for layer, values in made.maps.items():
        windows = made.windows.get(layer)
        if base is not None and windows is not None and len(windows) == values.shape[1]:
            # every frame is shown with the time step that stands for it
            frames = np.arange(len(base))
            step = np.argmax((windows[None, :, 0] <= frames[:, None]) & (frames[:, None] < windows[None, :, 1]), 1)
            values = values[:, step]
        planes.append(Plane(made.method, layer, _float(values), made.signed))
    more["nearest"] = [[name, float(far)] for name, far in zip(made.gallery, made.distances, strict=True)][
        :MOST_NEAREST
    ]
    more["answer"] = None if answer is None else list(answer.shape[:3])
    more["answered"] = made.answers[0] if made.answers else ""
    return Shown(base, planes, made.questions, made.scores, answer=answer, more=more)


def _placed(poses: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Poses (t, v, 2) moved into a picture of 128 rows, and its size."""
    known = np.isfinite(poses).all(-1) & (poses != 0).any(-1)
    some = poses[known] if known.any() else np.zeros((1, 2))
    low, high = some.min(0), some.max(0)
    scale = 112 / max(float(high[1] - low[1]), 1e-6)
    wide = int(np.ceil((high[0] - low[0]) * scale)) + 16
    return np.where(known[..., None], (poses - low) * scale + 8, np.nan), (128, max(16, wide))


def _joints(names: Sequence[str], limbs: Any, sets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Sets of places (t, j, 2) in pixels of the base, NaN where a joint is not there."""
    return {
        "names": list(names),
        "limbs": np.asarray(limbs).reshape(-1, 2).tolist(),
        "sets": {name: np.round(places.astype(float), 2).tolist() for name, places in sets.items()},
    }


def _pose(made: PoseMaps) -> Shown:
    held = made.held
    names = made.joints
    questions = [names[joint] for joint in held["joints"].tolist()]
    base = np.asarray(held["picture"])[None]
    planes = []
    if "maps" in held:
        values = held["maps"].astype(np.float32) * held["scale"].astype(np.float32)[:, None, None]
        planes = [
            Plane(
                str(made.record.get("attribution", {}).get("method", "maps")),
                "input",
                _float(values[:, None]),
                bool(values.min() < 0),
            )
        ]
    true = np.where(held["weight"][:, None] > 0, held["true"][:, :2], np.nan)
    limbs = made.record["skeleton"].get("limbs", [])
    figures = {name: held[name].tolist() for name in ("DI", "FI", "LI") if name in held}
    sets = {"true": true[None]}
    if "predicted" in held:
        sets["predicted"] = held["predicted"][None, :, :2]
    figures |= {name: held[name].tolist() for name in ("EPE", "confidence") if name in held}
    more: dict[str, Any] = {"joints": _joints(names, limbs, sets), "by joint": figures}
    if "RI" in held:
        more["matrices"] = [{"title": "RI: a joint's map (row) under another's heatmap; 1 is a uniform map's", "rows": names, "columns": names,
                             "values": held["RI"].tolist()}]  # fmt: skip
    return Shown(base, planes, questions, held["scores"].tolist(), more=more)


def _errors(made: PoseErrors) -> Shown:
    held = made.held
    known = held["weight"] > 0
    sets = {
        "true": np.where(known[:, None], held["true"][:, :2], np.nan)[None],
        "predicted": held["predicted"][None, :, :2],
    }
    more = {
        "joints": _joints(made.joints, made.record["skeleton"].get("limbs", []), sets),
        "by joint": {name: held[name].tolist() for name in ("EPE", "confidence") if name in held},
    }
    return Shown(np.asarray(held["picture"])[None], more=more)


def _features(made: FeatureMaps) -> Shown:
    planes = [
        Plane("features", point, _float(_strongest(array)), bool(array.min() < 0))
        for point, array in made.values.items()
        if array.ndim == 4 and array.size
    ]
    return _channelled(planes, made.picture)


def _difference(made: Difference) -> Shown:
    planes = []
    for point, first in made.first.items():
        second = made.second[point]
        if first.ndim != 4 or first.shape != second.shape or not first.size:
            continue
        sides = {"second - first": second.astype(np.float64) - first, "first": first, "second": second}
        order = _order(sides["second - first"])
        planes += [Plane(name, point, _float(side[order]), bool(side.min() < 0)) for name, side in sides.items()]
    return _channelled(planes, made.picture)


def _order(array: np.ndarray) -> np.ndarray:
    """All channels of (c, t, h, w) where they are not too many, else the strongest, in their own order."""
    most = max(1, MOST_VALUES // max(1, array[0].size))
    if len(array) <= most:
        return np.arange(len(array))
    strength = np.abs(array).reshape(len(array), -1).mean(1)
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def _strongest(array: np.ndarray) -> np.ndarray:
    return array[_order(array)]


def _channelled(planes: Sequence[Plane], picture: np.ndarray | None) -> Shown:
    most = max((len(plane.values) for plane in planes), default=0)
    names = [f"channel {i}" for i in range(most)]
    return Shown(picture, planes, names, [float("nan")] * most, more={"channels": True})


def _likeness(made: Likeness) -> Shown:
    sides = [[str(name) for name in made.told.get(side, ())] for side in ("rows", "columns")]
    return Shown(
        more={"matrices": [{"title": "linear CKA", "rows": sides[0], "columns": sides[1], "values": made.cka.tolist()}]}
    )


def _evaluation(made: Evaluation) -> Shown:
    matrices = [
        {"title": f"{setting}: share within rank {rank}, probe views by gallery views", "rows": one.views.tolist(),
         "columns": one.views.tolist(), "values": table.tolist()}
        for setting, one in made.outcomes.items() for rank, table in one.tables.items()
    ]  # fmt: skip
    failures = [one._asdict() for one in made.failures()[:MOST_NEAREST]]
    return Shown(more={"matrices": matrices, "rows": failures, "drawing": True})


def _census(made: Seen) -> Shown:
    """The lines of the census, each with its samples."""
    summary = dict(made.told.get("summary", {}))
    return Shown(more={"census": summary, "names": made.name.tolist(), "drawing": True})


def _curves(found: Artifact) -> Shown:
    """Schedules: every group of every curve as a step function."""
    lines = []
    for k, told in enumerate(found.record["curves"]):
        at, values = found.arrays[f"at {k}"], found.arrays[f"values {k}"]
        for g, group in enumerate(told["groups"]):
            name = told["name"] if len(told["groups"]) == 1 else f"{told['name']}: {group}"
            x, y = _steps(at, values[:, g], int(told["length"]))
            lines.append({"name": name, "x": x.tolist(), "y": y.tolist()})
    first = found.record["curves"][0]
    plot = {"title": first["parameter"], "x": first["unit"], "y": first["parameter"], "lines": lines, "steps": True}
    return Shown(more={"plots": [plot], "drawing": True})


def _steps(at: np.ndarray, values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The points where a step function changes, thinned to at most MOST_STEPS, with its end."""
    keep = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    if len(keep) > MOST_STEPS:
        low_high = [keep[piece] for piece in np.array_split(np.arange(len(keep)), MOST_STEPS // 4) if len(piece)]
        keep = np.unique(
            np.concatenate([[p[0], p[np.argmin(values[p])], p[np.argmax(values[p])], p[-1]] for p in low_high])
        )
    return np.r_[at[keep], length], np.r_[values[keep], values[-1]]


def top(plane: Plane) -> float:
    """The value of the last colour of a plane."""
    known = plane.values[np.isfinite(plane.values)]
    if not known.size:
        return 0.0
    return float(np.abs(known).max() if plane.signed else max(known.max(), 0))


def still(found: Artifact, name: str) -> bytes:
    """The picture that `loupe draw` makes of a result, as PNG. Errors: BadInput for a kind that is not drawn."""
    with tempfile.TemporaryDirectory(prefix="loupe-") as folder:
        path = save(folder, "drawn", found.arrays, found.record)
        written, _ = redraw([path], str(Path(folder) / "picture.png"), Wish())
        pictures = [one for one in written if one.suffix == ".png"]
        if not pictures:
            raise BadInput(f"{name}: no picture of a result of kind {found.record.get('kind')!r}")
        return pictures[0].read_bytes()


SHOWN: Mapping[str, Callable[[Any], Shown]] = {
    "census": _census,
    "cka": _likeness,
    "difference": _difference,
    "epe": _errors,
    "gait evaluation": _evaluation,
    "feature maps": _features,
    "gait maps": _walk,
    "ig": _pose,
    "judged": _judged,
    "maps": _maps,
    "pose maps": _pose,
}
