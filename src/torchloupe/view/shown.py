"""What a page shows of a stored result: a base picture, maps over it, questions. One function a kind; the rest have a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchloupe import kinds
from torchloupe.errors import LoupeError
from torchloupe.kinds.judged import Judged
from torchloupe.kinds.maps import Heatmaps
from torchloupe.kinds.pose import PoseMaps
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.store import Artifact

MOST_CHANNELS = 64


@dataclass(frozen=True)
class Plane:
    """Maps (k, t, h, w) float32 of one method at one layer; signed: values below 0 mean something."""

    method: str
    layer: str
    values: np.ndarray
    signed: bool = False


@dataclass(frozen=True)
class Shown:
    """base (t, h, w, 3) uint8, or None; planes over it, each for all questions; scores: of the questions, NaN for none."""

    base: np.ndarray | None = None
    planes: Sequence[Plane] = ()
    questions: Sequence[str] = ()
    scores: Sequence[float] = ()
    boxes: np.ndarray | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON, without the numbers of base and planes."""
        return {
            "base": None if self.base is None else list(self.base.shape[:3]),
            "planes": [
                {"method": p.method, "layer": p.layer, "signed": p.signed, "shape": list(p.values.shape)}
                for p in self.planes
            ],
            "questions": list(self.questions),
            "scores": [None if score != score else float(score) for score in self.scores],
            "boxes": None if self.boxes is None else self.boxes.tolist(),
            **self.more,
        }


def shown(found: Artifact, name: str) -> Shown:
    """What there is to see of a stored result. A kind that has no picture of its own shows its record alone."""
    try:
        told = kinds.kind_of(found.arrays, found.record, name)
        if told not in SHOWN:
            return Shown()
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
    return replace(_maps(made), more={"numbers": told["numbers"], "controls": list(made.controls)})


def _walk(made: SequenceMaps) -> Shown:
    base = made.imgs[..., None].repeat(3, -1) if len(made.imgs) else None
    planes = []
    for layer, values in made.maps.items():
        windows = made.windows.get(layer)
        if base is not None and windows is not None and len(windows) == values.shape[1]:
            # every frame is shown with the time step that stands for it
            frames = np.arange(len(base))
            step = np.argmax((windows[None, :, 0] <= frames[:, None]) & (frames[:, None] < windows[None, :, 1]), 1)
            values = values[:, step]
        planes.append(Plane(made.method, layer, _float(values), made.signed))
    ranked = dict(zip(made.gallery, map(float, made.distances), strict=True))
    answer = {"answer": list(made.answer_imgs.shape[:3]) if len(made.answer_imgs) else None, "nearest": ranked}
    return Shown(base, planes, made.questions, made.scores, more=answer)


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
    return Shown(base, planes, questions, held["scores"].tolist())


def _features(made: Any) -> Shown:
    arrays = made.arrays()
    values = {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith("value/")}
    planes, most = [], 0
    for label, array in values.items():
        if array.ndim == 4:  # c t h w: the strongest channels, as questions
            strength = np.abs(array).reshape(len(array), -1).mean(1)
            order = np.argsort(-strength, kind="stable")[:MOST_CHANNELS]
            planes.append(Plane("channel", label, _float(array[order]), bool(array.min() < 0)))
            most = max(most, len(order))
    return Shown(arrays.get("picture"), planes, [f"channel rank {i + 1}" for i in range(most)], [float("nan")] * most)


SHOWN: Mapping[str, Callable[[Any], Shown]] = {
    "feature maps": _features,
    "gait maps": _walk,
    "ig": _pose,
    "judged": _judged,
    "maps": _maps,
    "pose maps": _pose,
}
