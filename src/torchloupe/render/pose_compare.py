"""A page that compares stored runs of pose models: figures with intervals, by joint, kinds of error, the people of whom they
differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.methods.joints import Interval, means
from torchloupe.methods.mistakes import KINDS
from torchloupe.render import pose
from torchloupe.render.pose_page import captioned, number, page, plot, saved, shown
from torchloupe.render.pose_report import MEANING, UNITS, Run, precision, skeleton
from torchloupe.runs.pose.compare import Compared, Pairing
from torchloupe.store import load_record

Array = NDArray[Any]


def change(found: Interval) -> str:
    """A difference with its interval in words."""
    if not found.count:
        return "-"
    known = math.isfinite(found.low)
    return f"{found.mean:+.4g} " + (f"[{found.low:+.4g}, {found.high:+.4g}]" if known else "(no interval)")


def compared(folder: Path, roots: Sequence[Path], pairing: Pairing, rows: Sequence[Compared], worst: int = 6) -> Path:
    """index.html in a folder, with its pictures. Errors: BadInput where it cannot be written."""
    runs = [Run(root) for root in roots]
    names = runs[0].names()
    sections = [
        f"<p>{pairing.count} people that all runs have; errors in pixels of the first run's input.</p>",
        "<h2>Figures</h2>" + shown(["figure", "run", "mean", "difference to the first"], table_rows(rows, roots)),
        _precision(roots),
        _by_joint(folder, roots, pairing, names),
        _kinds(roots),
        _apart(folder, runs, pairing, names, worst),
    ]
    return saved(folder / "index.html", page("Comparison of pose models", [part for part in sections if part]))


def table_rows(rows: Sequence[Compared], roots: Sequence[Path]) -> list[list[str]]:
    """A row a figure and run."""
    made = []
    for one in rows:
        made.append([one.name, str(roots[0]), number(one.means[0]), ""])
        for name, mean, difference in zip(one.runs[1:], one.means[1:], one.differences, strict=True):
            made.append(["", name, number(mean), change(difference)])
    return made


def _precision(roots: Sequence[Path]) -> str:
    found = [precision(root) for root in roots]
    if not all(found):
        return ""
    rows = [
        [name, *("-" if (value := one.get(name)) is None else f"{value:.3f}" for one in found)] for name in found[0]
    ]
    return (
        "<h2>AP</h2><p>COCO's figures of each run, over all that it holds: its own boxes and samples, not only the people "
        "in common.</p>" + shown(["figure", *map(str, roots)], rows)
    )


def _by_joint(folder: Path, roots: Sequence[Path], pairing: Pairing, names: Sequence[str]) -> str:
    parts = []
    for name, values in pairing.figures.items():
        first, *others = [means(value)[0] for value in values]
        bars = {str(root): other - first for root, other in zip(roots[1:], others, strict=True)}
        units = dict.fromkeys(bars, UNITS.get(name, ""))
        made = pose.bars_by_joint(bars, names, units)
        parts.append(plot(folder, f"{name}_by_joint", f"{name} by joint, less that of {roots[0]}", made))
        parts.append(f"<p>{MEANING[name]}</p>")
    return "".join(parts)


def _kinds(roots: Sequence[Path]) -> str:
    held = [load_record(root / "mistakes.json") for root in roots if (root / "mistakes.json").exists()]
    if len(held) < len(roots):
        return ""

    def share(one: Mapping[str, Any], kind: str) -> str:
        total = sum(one["joints"].values())
        return f"{100 * one['joints'][kind] / total:.1f} %" if total else "-"

    rows = [[kind, *(share(one, kind) for one in held)] for kind in KINDS]
    rows.append(["background poses", *(str(one["background"]) for one in held)])
    rows.append(["missed people", *(str(one["missed"]) for one in held)])
    return "<h2>Kinds of error</h2>" + shown(["kind", *map(str, roots)], rows)


def _apart(folder: Path, runs: Sequence[Run], pairing: Pairing, names: Sequence[str], count: int) -> str:
    if "decoded" not in pairing.figures:
        return ""
    values = [np.where(np.isfinite(value), value, 0).sum(1) for value in pairing.figures["decoded"]]
    known = np.isfinite(pairing.figures["decoded"][0]).sum(1)
    away = np.stack([np.divide(v, known, out=np.zeros(len(v)), where=known > 0) for v in values])
    spread = away.max(0) - away.min(0)
    figures = []
    for row in np.argsort(-spread, kind="stable")[:count].tolist():
        if spread[row] <= 0:
            continue
        pictures = []
        for i, run in enumerate(runs):
            id = pairing.ids[i][row]
            pictures.append(f"person_{row}_{i}.png")
            saved(folder / pictures[-1], pose.png(skeleton(run, id)))
        said = "; ".join(f"{run.root} {number(away[i, row])}" for i, run in enumerate(runs))
        figures.append(captioned(pictures, f"person {pairing.people[row]}, decoded error in pixels: {said}"))
    if not figures:
        return ""
    return (
        "<h2>Where they differ most</h2><p>By the error of decoded joints, runs in their order. Green: where the joints are. "
        "Red: where the model's decoded joints are.</p>" + "".join(figures)
    )
