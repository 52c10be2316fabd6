"""A small sound result of every kind: its arrays and its record, as a command writes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchloupe.data.schedules import Curve
from torchloupe.kinds.census import Seen
from torchloupe.kinds.evaluation import Evaluation, Outcome
from torchloupe.kinds.features import Difference, FeatureMaps, Likeness
from torchloupe.kinds.judged import Judged, Line, Told
from torchloupe.kinds.maps import Heatmaps
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.kinds.summary import Summary
from torchloupe.store import plain

Parts = tuple[dict[str, np.ndarray], dict[str, Any]]
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (1, 9, 8, 3), dtype=np.uint8)
FIGURES = {"mean": 0.5, "zeros": 0.1, "effective_rank": 1.5, "std": 0.2, "min": 0.0, "max": 1.0}


def _maps() -> Heatmaps:
    maps = {("gradcam", "l"): RNG.random((2, 1, 3, 4)).astype(np.float32)}
    record = {
        "kind": "maps", "id": "a", "layers": {"l": {"size": [1, 3, 4]}}, "methods": {"gradcam": {"signed": False, "notes": {}}},
        "questions": ["cat", "dog"], "scores": [0.5, 0.25], "picture": "seen", "empty": [], "classes": {"1": "cat"},
        "asked": {"model": "m", "layers": ["l"], "methods": ["gradcam"], "target": "Top(2)", "version": "0"},
    }  # fmt: skip
    boxes, found = np.array([[1.0, 1, 4, 4]] * 2), np.array([[1.0, 1, 4, 4, 0.5, 1]])
    return Heatmaps(
        "a", PICTURE, maps, frozenset(), ("cat", "dog"), (0.5, 0.25), boxes, found, None, {"1": "cat"}, record
    )


def _judged() -> Judged:
    made = _maps()
    names = ("gradcam/l", "random")
    value = {name: np.array([0.5, np.nan]) for name in names}
    line = {name: RNG.random((2, 3)) for name in names}
    told = {
        "numbers": {"deletion": {"better": "low", "chance": np.array([0.5, 0.5]), "value": value}},
        "curves": {"deletion": {"at": np.array([0.0, 0.5, 1.0]), "maps": list(names)}},
        "controls": ("random",), "said": ("one word",),
    }  # fmt: skip
    fields = {name: getattr(made, name) for name in ("id", "picture", "signed", "questions", "scores")}
    return Judged(
        **fields, maps=made.maps, record=plain({**made.record, "kind": "judged", "judged": told, "seconds": {"gradcam": 0.1}}),
        numbers={"deletion": Told(value, "low", np.array([0.5, 0.5]))}, curves={"deletion": Line(np.array([0.0, 0.5, 1.0]), line)},
        controls=("random",), said=("one word",),
    )  # fmt: skip


def _walk() -> SequenceMaps:
    return SequenceMaps(
        "001-nm-01-090", "001", "nm-01", "090", "GaitSet", "gradcam", "{}", "Nearest",
        {"l": RNG.random((1, 3, 4, 3)).astype(np.float32)}, {"l": np.array([[0, 1], [1, 2], [2, 3]])},
        questions=("x",), scores=(-1.0,), answers=("x",), gallery=("x", "y"), distances=(1.0, 2.0),
        imgs=RNG.integers(0, 256, (3, 8, 6)).astype(np.uint8), answer_imgs=RNG.integers(0, 256, (2, 8, 6)).astype(np.uint8),
        part_answer=RNG.random(2), part_match=RNG.random(2), part_rival=RNG.random(2),
        part_rows=np.array([[0, 0.5], [0.5, 1]], np.float32), told={"verdict": "right"},
    )  # fmt: skip


def _summary() -> Summary:
    every = ("all", "all")
    shares = {"head": 0.2, "torso": 0.3, "legs": 0.5}
    return Summary(
        {("l", every): RNG.random((8, 6))}, {every: RNG.random((8, 6))}, {every: 3}, {"l": RNG.random((1, 5))}, {}, {},
        {every: {"l": shares}}, {every: shares}, {"right": RNG.random((3, 2))}, np.array([[0, 0.5], [0.5, 1]], np.float32),
    )  # fmt: skip


def _evaluation() -> Evaluation:
    names = np.array(["01-nm-000", "02-nm-000"])
    one = Outcome(
        names, names[::-1].copy(), names, np.array([1.0, 2]), np.array([1.5, 2]), np.array([2.0, 1]), np.array([0.5, 1]), names,
        np.array(["000", "090"]), {1: np.array([[np.nan, 0.5], [0.5, np.nan]])},
    )  # fmt: skip
    return Evaluation(
        "CASIA-B", "euc", "", {"NM": one}, {"NM": {"rank-1": 0.5}}, {"head": {"NM": {"rank-1": 0.25}}}, {}
    )


def _census() -> Seen:
    summary = {"samples": 3, "classes": {"cat": 2, "dog": 1}, "broken": [], "duplicates": [], "mean": [1, 2, 3], "std": [1, 2, 3],
               "transformed mean": [1, 2, 3], "transformed std": [1, 2, 3]}  # fmt: skip
    size, prints = np.array([[4, 5], [6, 7], [4, 5]]), np.zeros((3, 72), np.uint8)
    return Seen(np.arange(3), size, prints, np.array(["a", "b", "c"]), {"name": "train", "summary": summary})


def _features() -> FeatureMaps:
    told = {"id": "a", "points": ["p"], "look": {}, "statistics": {"p": FIGURES}, "loose": [], "classes": ["cat"],
            "pred_score_thr": 0.3, "names": ["m"]}  # fmt: skip
    return FeatureMaps(
        {"p": RNG.random((5, 1, 3, 4)).astype(np.float32)}, PICTURE, np.array([[1.0, 1, 4, 4, 0.5, 0]]), told
    )


def _difference() -> Difference:
    told = {
        "id": "a",
        "points": ["p"],
        "look": {},
        "names": ["m", "n"],
        "difference": "absolute",
        "figures": {"p": FIGURES},
    }
    sides = [{"p": RNG.random((5, 1, 3, 4)).astype(np.float32)} for _ in "ab"]
    return Difference(sides[0], sides[1], PICTURE, None, told)


def _likeness() -> Likeness:
    return Likeness(
        RNG.random((2, 3)), {"rows": ["a", "b"], "columns": ["a", "b", "c"], "names": ["m", "n"], "samples": 8}
    )


def _curves() -> Parts:
    at = np.arange(4.0)
    one = Curve(name="a", parameter="lr", unit="epoch", length=4, at=at, values=np.sin(at)[:, None], groups=("",), per_epoch=None,
                marks=())  # fmt: skip
    keys = ("name", "parameter", "unit", "length", "groups", "per_epoch", "marks")
    record = {"kind": "curves", "curves": [{key: getattr(one, key) for key in keys}], "picture": {"window_size": "4*3"}}
    return {"at 0": one.at, "values 0": one.values}, plain(record)


def _points() -> Parts:
    feats = RNG.normal(size=(12, 2)).astype(np.float32)
    arrays = {"feats": feats, "ids": np.array([f"s{i}" for i in range(12)]), "labels": np.array(["a", "b", "c"] * 4)}
    return arrays, {"kind": "projection", "method": "pca", "source": "f.npz", "scores": {"trustworthiness": 0.9}}


KINDS: dict[str, Parts] = {
    **{
        name: (made.arrays(), plain(made.record))
        for name, made in {
            "maps": _maps(), "judged": _judged(), "gait maps": _walk(), "gait summary": _summary(), "census": _census(),
            "gait evaluation": _evaluation(), "feature maps": _features(), "difference": _difference(), "cka": _likeness(),
        }.items()
    },
    "curves": _curves(),
    "projection": _points(),
}  # fmt: skip
"""Kind -> arrays and record; those of pose lie in streams, and are in `streamed`."""


def streamed() -> dict[str, tuple[Parts, dict[str, Any]]]:
    """Stream ("ig", "epe") -> the arrays of one sample, with its own record, and the run's record."""
    j = 3
    skeleton = {"joints": ["a", "b", "c"], "limbs": [[0, 1], [1, 2]], "pairs": []}
    run = {
        "model": "m", "skeleton": skeleton, "crop": {"size": [8, 9]}, "coordinates": "input", "attribution": {"method": "ig"},
        "data": "d.json",
    }  # fmt: skip
    place = RNG.random((j, 2)) * 8
    common = {"weight": np.ones(j), "true": place, "picture": PICTURE[0]}
    maps = {
        **common, "joints": np.arange(j), "scores": RNG.random(j), "scale": np.ones(j, np.float32),
        "maps": RNG.random((j, 9, 8)).astype(np.float16), "mask": np.ones((9, 8), np.uint8),
        **{name: RNG.random(j) for name in ("DI", "FI", "LI")}, "RI": RNG.random((j, j)),
    }  # fmt: skip
    joints = {
        **common, "predicted": place + 0.5, "decoded": place, "annotated": place, "confidence": RNG.random(j), "EPE": RNG.random(j),
        "size": np.array([8.0, 9]), "centre": np.array([4.0, 4]), "extent": np.array([8.0, 9]), "area": np.array(72.0),
        "score": np.array(0.5), "person": np.array("1"), "image": np.array("a.png"),
    }  # fmt: skip
    return {"ig": ((maps, {}), run), "epe": ((joints, {}), run)}
