"""Heatmaps of one sequence, with all that is needed to draw them: plain arrays on disk, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe import store
from torchloupe.errors import BadInput, nearest

KIND = "gait maps"


@dataclass(frozen=True)
class SequenceMaps:
    """What a model saw in one probe sequence.

    name: id-type-view. method, options (JSON), target: what was asked, and how. signed: negative values carry meaning.
    imgs (t, h, w) uint8 silhouettes, or poses (t, v, 3) with joints' names and limbs (pairs of joints).
    maps: layer -> (k, t', h', w') float32 raw numbers. windows: layer -> (t', 2) int, the frames [start, stop) that each
        time step stands for. words: layer -> what to know about it. under: layer -> (t, h, w) uint8, for the layers that
        lie on another picture than imgs, such as a crop that the model itself makes.
    questions, scores: k each. gallery, distances: items by distance, the nearest first, without the probe itself.
    answers: gallery items that the questions are about; answer_imgs, answer_poses: what the first of them looks like.
    """

    name: str
    identity: str
    condition: str
    view: str
    model: str
    method: str
    options: str
    target: str
    maps: Mapping[str, np.ndarray]
    windows: Mapping[str, np.ndarray]
    words: Mapping[str, str] = field(default_factory=dict)
    under: Mapping[str, np.ndarray] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()
    gallery: tuple[str, ...] = ()
    distances: tuple[float, ...] = ()
    signed: bool = False
    imgs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))
    joints: tuple[str, ...] = ()
    limbs: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    answer_imgs: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    answer_poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the order in which they were asked for."""
        return tuple(self.maps)

    @property
    def frames(self) -> int:
        """Frames of the sequence."""
        return len(self.poses) if len(self.poses) else len(self.imgs)

    def at(self, layers: Sequence[str]) -> SequenceMaps:
        """The same result with these layers only, by name or glob; all where none is named."""
        if not layers:
            return self
        for one in layers:
            if not any(fnmatchcase(layer, one) for layer in self.maps):
                raise BadInput(
                    f"no layer {one!r} in {self.name}.{nearest(one, self.maps)} It has {', '.join(self.maps)}."
                )
        kept = [layer for layer in self.maps if any(fnmatchcase(layer, one) for one in layers)]
        return replace(self, maps={layer: self.maps[layer] for layer in kept})

    def save(self, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
        """One .npz of plain arrays, and how it was made as .json beside it; each whole or absent."""
        file = Path(path)
        arrays: dict[str, np.ndarray] = {
            **{key: np.array(getattr(self, key)) for key in _TEXTS + _LISTS},
            **{key: getattr(self, key) for key in _ARRAYS},
            "signed": np.array(self.signed),
            "layers": np.array(self.layers),
            "words": np.array([self.words.get(layer, "") for layer in self.layers]),
            **{f"maps/{layer}": value for layer, value in self.maps.items()},
            **{f"windows/{layer}": value for layer, value in self.windows.items()},
            **{f"under/{layer}": value for layer, value in self.under.items()},
        }
        store.save(file.parent, file.stem, arrays, {"kind": KIND, **(record or {})})

    @classmethod
    def load(cls, path: str | Path) -> SequenceMaps:
        """Errors: BadInput for a file that is not one of ours."""
        file = Path(path)
        arrays = store.load_arrays(file)
        if "layers" not in arrays or "gallery" not in arrays:
            raise BadInput(
                f"{file}: not a result of loupe gait cam; it holds {', '.join(list(arrays)[:5]) or 'nothing'}"
            )
        layers = [str(layer) for layer in arrays["layers"]]
        held: dict[str, Any] = {
            **{key: str(arrays[key].reshape(-1)[0]) for key in _TEXTS},
            **{key: tuple(arrays[key].tolist()) for key in _LISTS},
            **{key: arrays[key] for key in _ARRAYS if key in arrays},
        }
        return cls(
            **held,
            signed=bool(arrays["signed"].reshape(-1)[0]),
            words=dict(zip(layers, arrays["words"].tolist(), strict=True)),
            maps={layer: arrays[f"maps/{layer}"] for layer in layers},
            windows={layer: arrays[f"windows/{layer}"] for layer in layers},
            under={layer: arrays[f"under/{layer}"] for layer in layers if f"under/{layer}" in arrays},
        )


_TEXTS = ("name", "identity", "condition", "view", "model", "method", "options", "target")
_LISTS = ("questions", "scores", "answers", "gallery", "distances", "joints")
_ARRAYS = ("imgs", "poses", "limbs", "answer_imgs", "answer_poses")
