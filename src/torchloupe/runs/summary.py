"""The maps of a run over walks, summed up: the work behind `loupe gait summary`. No model is needed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from torchloupe.data.bands import BANDS
from torchloupe.errors import BadInput
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.kinds.summary import Group, Summary

TIMES = 24
ONE = ("model", "method", "options", "target")


def summed(results: Iterable[SequenceMaps], layers: Sequence[str] = (), *, question: int = 0) -> Summary:
    """What the results of one run have in common.

    layers: names or globs; all by default. question: which, where a result has several.
    Errors: BadInput for results of different models, methods, targets or shapes, or without any map that is not 0.
    """
    walks: list[_Walk] = []
    empty: dict[str, int] = defaultdict(int)
    first: SequenceMaps | None = None
    for made in results:
        made = made.at(layers)
        first = first or made
        _check_alike(first, made)
        if not 0 <= question < max(1, len(made.questions)):
            raise BadInput(
                f"question {question}: {made.name} has {len(made.questions)}, 0 to {len(made.questions) - 1}"
            )
        walks.append(_Walk.of(made, question))
        for layer in set(made.layers) - set(walks[-1].maps):
            empty[layer] += 1
    if first is None:
        raise BadInput("no result of loupe gait cam among them")
    if not any(walk.maps for walk in walks):
        raise BadInput("no map that is not 0 everywhere: nothing to sum up")
    groups: dict[Group, list[_Walk]] = defaultdict(list)
    for walk in walks:
        for where in _groups(walk.made):
            groups[where].append(walk)
    groups = dict(
        sorted(groups.items(), key=lambda item: (("all", "view", "type", "match").index(item[0][0]), item[0][1]))
    )
    means: dict[tuple[str, Group], np.ndarray] = {}
    bodies: dict[Group, np.ndarray] = {}
    bands: dict[Group, dict[str, dict[str, float]]] = {}
    areas: dict[Group, dict[str, float]] = {}
    for where, own in groups.items():
        for layer in first.layers:
            if some := [walk.maps[layer] for walk in own if layer in walk.maps]:
                means[layer, where] = np.mean(some, 0)
                if not first.joints:
                    bands.setdefault(where, {})[layer] = on_bands(means[layer, where])
        if pictures := [walk.body for walk in own if walk.body.size]:
            bodies[where] = np.mean(pictures, 0)
            areas[where] = on_bands(bodies[where] / max(float(bodies[where].sum()), 1e-12))
    times = {layer: [walk.times[layer] for walk in walks if layer in walk.times] for layer in first.layers}
    differences, pairs = _differences(walks, first.layers)
    return Summary(
        means,
        bodies,
        {where: len(own) for where, own in groups.items()},
        {layer: np.mean(some, 0) for layer, some in times.items() if some},
        differences,
        pairs,
        bands,
        areas,
        _parts([walk.made for walk in walks]),
        first.part_rows,
        first.signed,
        {**{name: getattr(first, name) for name in ONE}, "question": question, "empty": dict(empty),
         "walks": [walk.made.name for walk in walks]},
    )  # fmt: skip


class _Walk(NamedTuple):
    """One walk without its frames: mean silhouette (h, w); layer -> (h', w') share of the map's sum; layer -> (h', TIMES)
    share of each row at each relative time, its mean over time being the row's share."""

    made: SequenceMaps
    body: np.ndarray
    maps: Mapping[str, np.ndarray]
    times: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, made: SequenceMaps, question: int) -> _Walk:
        maps, times = {}, {}
        at = (np.arange(TIMES) + 0.5) / TIMES
        for layer in made.layers:
            whole = made.maps[layer][question].astype(np.float64)
            total = np.abs(whole).sum()
            if not total > 0:
                continue
            maps[layer] = whole.sum(0) / total
            if len(whole) > 1:
                middles = made.windows[layer].mean(1) / made.frames
                rows = whole.sum(2).T * len(whole) / total
                times[layer] = np.stack([np.interp(at, middles, row) for row in rows])
        body = made.imgs.mean(0) if len(made.imgs) else np.zeros((0, 0))
        bare = {name: getattr(made, name)[:0] for name in ("imgs", "poses", "answer_imgs", "answer_poses")}
        return cls(replace(made, maps={}, windows={}, under={}, **bare), body, maps, times)


def on_bands(share: np.ndarray, bands: Mapping[str, tuple[float, float]] = BANDS) -> dict[str, float]:
    """(h', w') -> part of the body -> the sum of its rows; a row that lies on two counts by its overlap."""
    rows = share.sum(1)
    edges = np.arange(len(rows) + 1) / len(rows)
    found = {}
    for part, (low, high) in bands.items():
        overlap = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * len(rows)
        found[part] = float((rows * overlap).sum())
    return found


def kind_of(condition: str) -> str:
    """nm-05 -> nm: a condition without the number of its take."""
    return re.sub(r"-\d+$", "", condition) or condition


def right(made: SequenceMaps) -> bool | None:
    """Whether the nearest item of the same person is nearer than any other; None where one of the two is not known."""
    if not len(made.part_match) or not len(made.part_rival):
        return None
    return bool(made.part_match.mean() < made.part_rival.mean())


def _groups(made: SequenceMaps) -> list[Group]:
    found: list[Group] = [("all", "all")]
    found += [("view", made.view)] if made.view else []
    found += [("type", kind_of(made.condition))] if made.condition else []
    outcome = right(made)
    return found + ([("match", "right" if outcome else "wrong")] if outcome is not None else [])


def _check_alike(first: SequenceMaps, made: SequenceMaps) -> None:
    for name in ONE:
        if getattr(first, name) != getattr(made, name):
            raise BadInput(
                f"{made.name}: {name} {getattr(made, name)}, of {first.name} it is {getattr(first, name)}; "
                f"sum up results of one run"
            )
    shapes = [{layer: one.maps[layer].shape[2:] for layer in one.layers} for one in (first, made)]
    if shapes[0] != shapes[1]:
        raise BadInput(f"{made.name}: layers {shapes[1]}, of {first.name} {shapes[0]}; sum up results of one run")


def _differences(
    walks: Sequence[_Walk], layers: Sequence[str]
) -> tuple[dict[tuple[str, str], np.ndarray], dict[str, int]]:
    """Of every two conditions the mean difference over people and views that have both."""
    found: dict[tuple[str, str], np.ndarray] = {}
    pairs: dict[str, int] = {}
    for layer in layers:
        of: dict[str, dict[tuple[str, str], list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
        for walk in walks:
            made = walk.made
            if layer in walk.maps and made.identity and made.condition:
                of[kind_of(made.condition)][made.identity, made.view].append(walk.maps[layer])
        # the normal condition is what others are compared with
        kinds = sorted(of, key=lambda kind: (kind != "nm", kind))
        for a, b in combinations(kinds, 2):
            both = [who for who in of[a] if who in of[b]]
            if both:
                gaps = [np.mean(of[b][who], 0) - np.mean(of[a][who], 0) for who in both]
                found[layer, f"{b} - {a}"] = np.mean(gaps, 0)
                pairs[f"{b} - {a}"] = max(len(both), pairs.get(f"{b} - {a}", 0))
    return found, pairs


def _parts(walks: Sequence[SequenceMaps]) -> dict[str, np.ndarray]:
    """Outcome -> (3, p), see Summary.parts."""
    rows: Mapping[str, Callable[[SequenceMaps], np.ndarray]] = {
        "distance": lambda made: made.part_answer / max(float(made.part_answer.sum()), 1e-12),
        "margin": lambda made: (made.part_rival - made.part_match) / len(made.part_match),
        "alone": lambda made: (made.part_match < made.part_rival).astype(float),
    }
    found = {}
    for outcome, wanted in (("right", True), ("wrong", False)):
        if some := [made for made in walks if right(made) is wanted and len(made.part_answer)]:
            found[outcome] = np.stack([np.mean([row(made) for made in some], 0) for row in rows.values()])
    return found
