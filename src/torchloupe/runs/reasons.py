"""Heatmaps as features, so that a model's few reasons show as clusters: the work behind `loupe embed --of maps`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchloupe import __version__
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.methods.clusters import PREDICTED
from torchloupe.points import LABELS, Points
from torchloupe.runs.found import Found, results

SIDE = 16


def reasons(
    run: str | Path, method: str | None = None, layer: str | None = None, question: str | None = None, side: int = SIDE
) -> Points:
    """The heatmaps of a run as points (N, h * w): one a sample and question, each of unit length.

    run: a folder of `loupe cam`, `judge` or `gait cam`. method, layer: which maps; None: the only one. question: only maps of
    this question. Maps are taken as their mean over time, brought to one size, at most `side` a side, as the means of areas,
    with their signs, and divided by their Euclidean length, so that strength, which follows the score, is not told apart.
    Columns: question, score, file, labels (the folder of the picture, where there are several) and, of maps that explain a
    prediction, predicted. Maps that are zero everywhere are left out with a warning, and named in the record.
    Source: Lapuschkin et al. 2019, Unmasking Clever Hans predictors and assessing what machines really learn,
    doi:10.1038/s41467-019-08987-4 (SpRAy). Differs: there maps are summed over colours; here the run's own maps are taken.
    Errors: BadInput for a folder without heatmaps, or an unknown method, layer or question.
    """
    if side < 1:
        raise BadInput(f"side {side}: expected 1 or more")
    found = results(run)
    rows, maps = [], []
    chosen: tuple[str, str] | None = None
    predicts = True
    for id in found:
        made, held = _maps_of(found, id)
        chosen = chosen or _chosen(held, method, layer, str(run))
        if chosen not in held:
            raise BadInput(
                f"{run}: {id} has no map of {chosen[0]} at {chosen[1]}; run the command again for all samples"
            )
        predicts = predicts and _asks_predictions(made.record)
        questions = list(made.questions)
        for k, (what, score) in enumerate(zip(questions, made.scores, strict=True)):
            if question is None or what == question:
                name = id if len(questions) == 1 or question is not None else f"{id}#{k}"
                rows.append({"id": name, "question": what, "score": float(score), "file": _file(made.record)})
                maps.append(np.asarray(held[chosen][k], np.float64).mean(0))
    if not rows:
        known = {what for id in found for what in _maps_of(found, id)[0].questions}
        raise BadInput(f"{run}: no map answers the question {question!r}.{nearest(str(question), known)}")
    assert chosen is not None
    shapes = {one.shape for one in maps}
    size = min(side, *(high for high, _ in shapes)), min(side, *(wide for _, wide in shapes))
    feats = np.stack([_shrunk(one, size) for one in maps])
    length = np.linalg.norm(feats, axis=1)
    dark = [str(row["id"]) for row, own in zip(rows, length, strict=True) if own == 0]
    kept = np.flatnonzero(length > 0)
    if not len(kept):
        raise BadInput(f"{run}: all maps of {chosen[0]} at {chosen[1]} are zero; choose another method or layer")
    if dark:
        shown = ", ".join(dark[:5]) + (" ..." if len(dark) > 5 else "")
        warnings.warn(
            f"{run}: {len(dark)} of {len(rows)} maps are zero everywhere and left out: {shown}", LoupeWarning, 2
        )
    rows = [rows[i] for i in kept]
    record = {
        "kind": "features",
        "of": "maps",
        "run": str(run),
        "method": chosen[0],
        "layer": chosen[1],
        "size": list(size),
        "question": question,
        "left_out": dict.fromkeys(dark, "the map is zero everywhere"),
        "torchloupe": __version__,
    }
    columns = _columns(rows, predicts)
    return Points(
        (feats[kept] / length[kept, None]).astype(np.float32), np.array([row["id"] for row in rows]), columns, record
    )


def _maps_of(found: Found, id: str) -> tuple[Any, dict[tuple[str, str], np.ndarray]]:
    """A result, and its maps by method and layer."""
    made = found[id]
    held = getattr(made, "maps", None)
    if not isinstance(held, Mapping) or not held or not hasattr(made, "questions"):
        told = getattr(made, "record", {}).get("kind", type(made).__name__)
        raise BadInput(f"{found.store.root}: {id} is of kind {told!r}, without heatmaps; name a folder of `loupe cam`")
    by_layer = {key if isinstance(key, tuple) else (str(made.method), str(key)): values for key, values in held.items()}
    return made, by_layer


def _chosen(held: Mapping[tuple[str, str], Any], method: str | None, layer: str | None, run: str) -> tuple[str, str]:
    fits = [key for key in held if method in (None, key[0]) and layer in (None, key[1])]
    methods, layers = list(dict.fromkeys(m for m, _ in held)), list(dict.fromkeys(where for _, where in held))
    if not fits:
        wanted, known = (method, methods) if method is not None and method not in methods else (layer, layers)
        raise BadInput(f"{run}: no maps of {wanted!r}; it holds {', '.join(known)}.{nearest(str(wanted), known)}")
    if len(fits) > 1:
        options = " or ".join(f"--method {m} --layer {where}" for m, where in fits[:4])
        raise BadInput(f"{run}: holds {len(held)} maps a question; choose one by {options}")
    return fits[0]


def _asks_predictions(record: Mapping[str, Any]) -> bool:
    asked = record.get("asked", {})
    return (
        isinstance(asked, Mapping) and list(asked.get("target") or ["predicted"]) == ["predicted"] and "model" in asked
    )


def _file(record: Mapping[str, Any]) -> str:
    """Where the picture is, from wherever it is asked; as the record says where it is gone."""
    said = str(record.get("source") or "")
    return str(Path(said).resolve()) if said and Path(said).is_file() else said


def _shrunk(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (h' * w'), the means of areas."""
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values)[None, None], size)
    return np.asarray(small[0, 0].numpy()).ravel()


def _columns(rows: list[dict[str, Any]], predicts: bool) -> dict[str, np.ndarray]:
    columns = {name: np.array([row[name] for row in rows]) for name in ("question", "score", "file")}
    if predicts:
        columns[PREDICTED] = columns["question"]
    folders = list(_folders(rows))
    if len(set(folders)) > 1:
        columns[LABELS] = np.array(folders)
    if not any(row["file"] for row in rows):
        del columns["file"]
    return columns


def _folders(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield Path(row["file"]).resolve().parent.name if row["file"] else ""
