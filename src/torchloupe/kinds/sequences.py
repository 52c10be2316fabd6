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
from torchloupe.kinds.pictured import Pictured
from torchloupe.store import plain

KIND = "gait maps"


@dataclass(frozen=True)
class SequenceMaps(Pictured):
    """What a model saw in one probe sequence.

    name: id-type-view. method, options (JSON), target: what was asked, and how. signed: negative values carry meaning.
    imgs (t, h, w) uint8 silhouettes, or poses (t, v, 3) with joints' names and limbs (pairs of joints).
    maps: layer -> (k, t', h', w') float32 raw numbers. windows: layer -> (t', 2) int, the frames [start, stop) that each
        time step stands for. words: layer -> what to know about it. under: layer -> (t, h, w) uint8, for the layers that
        lie on another picture than imgs, such as a crop that the model itself makes.
    questions, scores: k each. gallery, distances: items by distance, the nearest first, without the probe itself.
    answers: gallery items that the questions are about; answer_imgs, answer_poses: what the first of them looks like.
    part_answer, part_match, part_rival (p,): distances, by part of the embedding, to the first answer, to the nearest item
        of the same person and of another (empty where there is none); part_rows (p, 2): the rows of the body that each part
        sees, as shares of its height from the top; empty where that is not known.
    told: how it was made, but for the kind's name.
    On disk: `map/METHOD/LAYER`, `windows/LAYER`, `under/LAYER`, and every other field by its name. Results of versions
    before 0.2 call their maps `maps/LAYER`; they are read.
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
    part_answer: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    part_match: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    part_rival: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    part_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        return {**self.told, "kind": KIND}

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

    def noted(self, told: Mapping[str, Any]) -> SequenceMaps:
        """The same, with a record that says how it was made."""
        return replace(self, told=plain({**self.told, **told}))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk; they are all that drawing needs."""
        return {
            **{key: np.array(getattr(self, key)) for key in _TEXTS + _LISTS},
            **{key: getattr(self, key) for key in _ARRAYS},
            "signed": np.array(self.signed),
            "layers": np.array(self.layers),
            "words": np.array([self.words.get(layer, "") for layer in self.layers]),
            **{f"map/{self.method}/{layer}": value for layer, value in self.maps.items()},
            **{f"windows/{layer}": value for layer, value in self.windows.items()},
            **{f"under/{layer}": value for layer, value in self.under.items()},
        }

    def row(self) -> dict[str, Any]:
        """Who, the first answer, its score, and whether it is right where the record knows."""
        made: dict[str, Any] = {"identity": self.identity, "type": self.condition, "view": self.view}
        pairs = zip(self.questions, self.scores, strict=True)
        several = len(self.questions) > 1
        for k, (question, score) in enumerate(pairs):
            made[f"question{f' {k}' if several else ''}"] = question
            made[f"score{f' {k}' if several else ''}"] = score
        return {**made, "answer": self.answers[0] if self.answers else "", "verdict": self.told.get("verdict", "")}

    def save(self, path: str | Path, record: Mapping[str, Any] | None = None) -> None:
        """One .npz of plain arrays, and how it was made as .json beside it; each whole or absent."""
        file = Path(path)
        store.save(file.parent, file.stem, self.arrays(), {**self.record, **(record or {})})

    @classmethod
    def read(
        cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any] | None = None, name: str = ""
    ) -> SequenceMaps:
        """From disk. Errors: BadInput where something is missing."""
        if "layers" not in arrays or "gallery" not in arrays:
            told = ", ".join(list(arrays)[:5]) or "nothing"
            raise BadInput(f"{name or 'result'}: not a result of loupe gait cam; it holds {told}")
        layers = [str(layer) for layer in arrays["layers"]]
        missing = [key for key in (*_TEXTS, *_LISTS, "signed", "words") if key not in arrays]
        texts = {key: str(arrays[key].reshape(-1)[0]) for key in _TEXTS if key in arrays}
        maps = {layer: f"map/{texts.get('method')}/{layer}" for layer in layers}
        maps = {layer: key if key in arrays else f"maps/{layer}" for layer, key in maps.items()}
        missing += [key for key in (*maps.values(), *(f"windows/{layer}" for layer in layers)) if key not in arrays]
        if missing:
            raise BadInput(f"{name or 'result'}: lacks {', '.join(missing[:3])}; make it again with loupe gait cam")
        held: dict[str, Any] = {
            **texts,
            **{key: tuple(arrays[key].tolist()) for key in _LISTS},
            **{key: arrays[key] for key in _ARRAYS if key in arrays},
        }
        return cls(
            **held,
            signed=bool(arrays["signed"].reshape(-1)[0]),
            words=dict(zip(layers, arrays["words"].tolist(), strict=True)),
            maps={layer: arrays[key] for layer, key in maps.items()},
            windows={layer: arrays[f"windows/{layer}"] for layer in layers},
            under={layer: arrays[f"under/{layer}"] for layer in layers if f"under/{layer}" in arrays},
            told=dict(record or {}),
        )

    @classmethod
    def load(cls, path: str | Path) -> SequenceMaps:
        """A result by its .npz, whose record may be absent. Errors: BadInput for a file that is not one of ours."""
        file = Path(path)
        words = file.with_suffix(".json")
        return cls.read(store.load_arrays(file), store.load_record(words) if words.is_file() else {}, str(file))


_TEXTS = ("name", "identity", "condition", "view", "model", "method", "options", "target")
_LISTS = ("questions", "scores", "answers", "gallery", "distances", "joints")
_PARTS = ("part_answer", "part_match", "part_rival", "part_rows")
_ARRAYS = ("imgs", "poses", "limbs", "answer_imgs", "answer_poses", *_PARTS)
