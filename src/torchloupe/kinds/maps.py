"""Heatmaps of one sample: raw maps by method and layer, the picture, what was asked and answered."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from torchloupe.errors import BadInput, nearest
from torchloupe.kinds.pictured import Pictured
from torchloupe.store import plain

if TYPE_CHECKING:
    from torchloupe.outputs import Maps
    from torchloupe.probe import Batch

Where = tuple[str, str]
Some = TypeVar("Some", bound="Heatmaps")


def names_of(arrays: Sequence[str], kind: str = "map") -> list[Where]:
    """(method, layer) of every map among the names of a result's arrays, in their order."""
    return [(name.split("/", 2)[1], name.split("/", 2)[2]) for name in arrays if name.startswith(f"{kind}/")]


@dataclass(frozen=True)
class Heatmaps(Pictured):
    """All there is to draw about one sample.

    picture (t, h, w, 3) uint8; maps: (method, layer) -> (k, t, h, w) raw; signed: the methods whose sign matters;
    questions and scores: k each. Where the questions have places in the picture: boxes (k, 4), with no extent where there
    is none, and detections (m, 6), each a box, its score and the number of its class in classes; or regions (k, h', w').
    Where each question is a likeness to another picture, others (k, t, h, w, 3) are those pictures, and other_maps what in
    them made the two alike. signal (channels, steps), where the model is given no picture but a signal; its picture is white
    then. On disk: `picture`, `score` (k,), `map/METHOD/LAYER`; `boxes`, `detections` or `region` where there are places;
    `others` and `other/METHOD/LAYER`; `signal`.
    """

    id: str
    picture: np.ndarray
    maps: Mapping[Where, np.ndarray]
    signed: frozenset[str]
    questions: tuple[str, ...]
    scores: tuple[float, ...]
    boxes: np.ndarray | None = None
    detections: np.ndarray | None = None
    regions: np.ndarray | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    others: np.ndarray | None = None
    other_maps: Mapping[Where, np.ndarray] = field(default_factory=dict)
    signal: np.ndarray | None = None

    @classmethod
    def of(cls: type[Some], found: Mapping[str, Maps], batch: Batch, sample: int, classes: Sequence[str] = ()) -> Some:
        """The heatmaps of one sample out of a batch.

        found: method -> Maps of the whole batch, all of one target; sample: its number in the batch; classes: their names.
        Record: kind, version, torch, id, layers (with sizes), methods (signed, notes), questions, scores, classes (number
        -> name, of the detections), empty (method, layer, question number), picture (where it is from: "seen", "input"
        stretched to 0..255, or "none"). float64 stays.
        Errors: BadInput for no method at all, or maps that are not finite.
        """
        arrays, record = _told(found, batch, sample, classes)
        return cls.read(arrays, record)

    def made(
        self: Some,
        *,
        model: str,
        target: str,
        weights: str | None = None,
        weights_sha256: str | None = None,
        layouts: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        source: str | os.PathLike[str] | None = None,
        source_sha256: str | None = None,
        seed: int | None = None,
        **more: Any,
    ) -> Some:
        """The same with a record that says how they were made.

        layouts: layer -> Layout (pattern, skip, join, bins, sizes). options: method -> its options. source: the
        picture file.
        """
        layers = {
            layer: {**about, **plain((layouts or {}).get(layer, {}))} for layer, about in self.record["layers"].items()
        }
        methods = {
            method: {**about, "options": plain((options or {}).get(method, {}))}
            for method, about in self.record["methods"].items()
        }
        told = {
            "model": model,
            "weights": weights,
            "weights_sha256": weights_sha256,
            "target": target,
            "source": source,
            "source_sha256": source_sha256,
            "seed": seed,
            **more,
        }
        return replace(self, record={**self.record, **plain(told), "layers": layers, "methods": methods})

    def beside(self: Some, found: Mapping[str, Maps], batch: Batch, question: int) -> Some:
        """The same with the other side of each likeness.

        batch: the k other pictures; found: method -> Maps of them, whose question of this number is the likeness to this one.
        """
        pictures = np.stack([_picture(batch, i, False)[0] for i in range(batch.n)])
        maps = {
            (m, layer): _numbers(values[question]) for m, one in found.items() for layer, values in one.maps.items()
        }
        return replace(self, others=pictures, other_maps=maps)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        scores = np.array([np.nan if score is None else score for score in self.record.get("scores", self.scores)])
        kind = next(iter(self.maps.values())).dtype
        held = {"picture": self.picture, "score": scores.astype(kind if kind.kind == "f" else np.float32)}
        held |= {f"map/{method}/{layer}": values for (method, layer), values in self.maps.items()}
        held |= {f"other/{method}/{layer}": values for (method, layer), values in self.other_maps.items()}
        places = {"boxes": self.boxes, "detections": self.detections, "region": self.regions}
        places |= {"others": self.others, "signal": self.signal}
        return held | {name: value for name, value in places.items() if value is not None}

    def row(self) -> dict[str, Any]:
        """The question asked and its score; several stand numbered."""
        several = len(self.questions) > 1
        pairs = enumerate(zip(self.questions, self.scores, strict=True))
        return {
            f"{name}{f' {k}' if several else ''}": value
            for k, (question, score) in pairs
            for name, value in (("question", question), ("score", score))
        }

    @classmethod
    def read(cls: type[Some], arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Some:
        """From disk. Errors: BadInput where something is missing or odd."""
        who = name or str(record.get("id", "result"))
        maps = {(m, layer): arrays[f"map/{m}/{layer}"] for m, layer in names_of(tuple(arrays))}
        if not maps or "picture" not in arrays:
            raise BadInput(f"{who}: no heatmaps in it; expected the arrays 'picture' and 'map/METHOD/LAYER'")
        questions = tuple(str(question) for question in record.get("questions", ()))
        scores = tuple(float("nan") if s is None else float(s) for s in record.get("scores", ()))
        picture = arrays["picture"]
        if picture.ndim != 4 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
            raise BadInput(f"{who}: picture {picture.shape} {picture.dtype}; expected (t, h, w, 3) uint8")
        for (method, layer), values in maps.items():
            if values.ndim != 4 or len(values) != len(questions) or len(scores) != len(questions) or not values.size:
                raise BadInput(
                    f"{who}: map {method} at {layer} {values.shape} does not fit {len(questions)} questions with "
                    f"{len(scores)} scores; expected (k, t, h, w)"
                )
            if not np.isfinite(values).all():
                raise BadInput(f"{who}: map {method} at {layer} is not finite (NaN or infinite)")
        about = record.get("methods", {})
        signed = frozenset(m for m, _ in maps if isinstance(about.get(m), Mapping) and about[m].get("signed"))
        places = arrays.get("boxes"), arrays.get("detections"), arrays.get("region")
        shapes = ((len(questions), 4), (None, 6), (len(questions), None, None))
        for place, shape in zip(places, shapes, strict=True):
            if place is not None and not _fits(place.shape, shape):
                raise BadInput(f"{who}: boxes or regions {place.shape} do not fit {len(questions)} questions")
        others = arrays.get("others")
        beside = {(m, layer): arrays[f"other/{m}/{layer}"] for m, layer in names_of(tuple(arrays), "other")}
        wrong = next((v.shape for v in (others, *beside.values()) if v is not None and len(v) != len(questions)), None)
        if wrong is not None or (others is not None) != bool(beside):
            raise BadInput(
                f"{who}: the other pictures, or their maps {wrong or ''}, do not fit {len(questions)} questions"
            )
        signal = arrays.get("signal")
        if signal is not None and (signal.ndim != 2 or not signal.size or not np.isfinite(signal).all()):
            raise BadInput(f"{who}: signal {signal.shape}; expected finite numbers (channels, steps)")
        names = record.get("classes", {})
        return cls(who, picture, maps, signed, questions, scores, *places, names, record, others, beside, signal)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method for method, _ in self.maps))

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for _, layer in self.maps))

    def only(self: Some, methods: Sequence[str] = (), layers: Sequence[str] = (), targets: Sequence[str] = ()) -> Some:
        """The part that was asked for, by names or globs; a target also by a part of its name that only it has.

        Errors: BadInput that offers the nearest names.
        """
        some = chosen(self.id, "method", methods, self.methods)
        where = chosen(self.id, "layer", layers, self.layers)
        kept = {(m, layer): maps for (m, layer), maps in self.maps.items() if m in some and layer in where}
        if not kept:
            raise BadInput(f"{self.id}: none of {', '.join(some)} has a map at {', '.join(where)}")
        rows = [
            k for k, name in enumerate(self.questions) if name in chosen(self.id, "target", targets, self.questions)
        ]
        return replace(
            self,
            maps={key: maps[rows] for key, maps in kept.items()},
            questions=tuple(self.questions[k] for k in rows),
            scores=tuple(self.scores[k] for k in rows),
            boxes=None if self.boxes is None else self.boxes[rows],
            regions=None if self.regions is None else self.regions[rows],
            others=None if self.others is None else self.others[rows],
            other_maps={key: self.other_maps[key][rows] for key in kept if key in self.other_maps},
        )


def _told(
    found: Mapping[str, Maps], batch: Batch, sample: int, classes: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import torch

    from torchloupe import __version__

    if not found:
        raise BadInput("no maps to save")
    signal = _signal(batch, sample)
    picture, origin = _picture(batch, sample, signal is not None)
    scores = next(iter(found.values())).scores
    arrays = {"picture": picture, "score": _numbers(scores.value[:, sample])}
    arrays |= {} if signal is None else {"signal": signal}
    layers: dict[str, dict[str, Any]] = {}
    methods: dict[str, dict[str, Any]] = {}
    empty = []
    for method, maps in found.items():
        notes = {name: _numbers(value[:, sample]) for name, value in maps.notes.items()}
        methods[method] = {"signed": maps.signed, "notes": notes}
        for layer, values in maps.maps.items():
            raw = _numbers(values[:, sample])
            if not np.isfinite(raw).all():
                raise BadInput(
                    f"{batch.ids[sample]}: the {method} map at layer {layer!r} is not finite (NaN or infinite)"
                )
            arrays[f"map/{method}/{layer}"] = raw
            layers[layer] = {"size": raw.shape[1:]}
            empty += [[method, layer, k] for k in range(len(raw)) if not raw[k].any()]
    record = {
        "kind": "maps",
        "version": __version__,
        "torch": torch.__version__,
        "id": batch.ids[sample],
        "layers": layers,
        "methods": methods,
        "questions": [names[sample] for names in scores.labels],
        "scores": arrays["score"],
        "classes": _places(arrays, batch, sample, classes),
        "empty": empty,
        "picture": origin,
    }
    return arrays, plain(record)


def _places(arrays: dict[str, np.ndarray], batch: Batch, sample: int, classes: Sequence[str]) -> dict[str, str]:
    """Adds the boxes or regions of the questions to the arrays, and gives the names of the classes in them."""
    asked = batch.asked
    if "region" in asked:
        arrays["region"] = asked["region"][sample].cpu().numpy().astype(np.uint8)
    if "boxes" not in asked:
        return {}
    arrays["boxes"] = asked["boxes"][sample].cpu().numpy()
    detections = asked["detections"][sample].cpu().numpy()
    arrays["detections"] = detections[detections[:, 5] >= 0]
    numbers = sorted(set(arrays["detections"][:, 5].astype(int).tolist()))
    return {str(i): classes[i] if i < len(classes) else f"class {i}" for i in numbers}


def _numbers(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    return tensor.cpu().numpy()


def _signal(batch: Batch, sample: int) -> np.ndarray | None:
    """(channels, steps) float32 of an input that has one axis beside its channels; None for any other."""
    if sum(batch.layout.has(letter) for letter in "thw") != 1 or batch.pictures is not None:
        return None
    x = _numbers(batch.layout.canonical([batch.x], batch.n))[sample]
    return x.reshape(len(x), -1).astype(np.float32)


def _picture(batch: Batch, sample: int, blank: bool = False) -> tuple[np.ndarray, str]:
    """(t, h, w, 3) uint8 and where it is from."""
    if batch.pictures is not None:
        return batch.pictures[sample].cpu().numpy(), "seen"
    x = _numbers(batch.layout.canonical([batch.x], batch.n))[sample]
    channels, *size = x.shape
    if blank or channels not in (1, 3) or not np.isfinite(x).all():
        return np.full((*size, 3), 255, np.uint8), "none"
    low, high = x.min(), x.max()
    unit = (x - low) / (high - low if high > low else 1)
    return (unit * 255).round().astype(np.uint8).transpose(1, 2, 3, 0).repeat(3 // channels, -1), "input"


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def chosen(who: str, what: str, wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The known names that the wanted ones, or globs, mean. Errors: BadInput that offers the nearest."""
    if not wanted:
        return tuple(known)
    found: list[str] = []
    for name in wanted:
        low = name.lower()
        hits = [k for k in known if k == name] or [k for k in known if fnmatchcase(k.lower(), low)]
        if not hits and what == "target":
            hits = [k for k in known if low in k.lower()]
            hits = hits if len(hits) == 1 else []
        if not hits:
            raise BadInput(f"{who}: no {what} {name!r} in it.{nearest(name, known)} It has: {'; '.join(known)}.")
        found += hits
    return tuple(k for k in known if k in found)
