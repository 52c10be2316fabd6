"""Evaluations of gait models as lines of text and as a picture of the tables of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchloupe import store
from torchloupe.kinds.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchloupe.render.kinds import Wish

CELL, HEAD, LEFT = 0.38, 0.75, 0.85
DARK = 0.6


def lines(found: Evaluation) -> list[str]:
    """The numbers in percent: by probe view where there are tables, then by setting, then with parts hidden."""
    told = [
        f"protocol {found.protocol}, distance {found.metric}" + (f", without {found.exclude}" if found.exclude else "")
    ]
    for setting, one in found.outcomes.items():
        if 1 in one.tables and len(one.views) > 1:
            told += _by_view(setting, one.views, one.tables[1])
    columns = list(dict.fromkeys(name for some in found.numbers.values() for name in some))
    rows = [[setting, str(len(found.outcomes[setting].probes)), str(len(found.outcomes[setting].items)),
             *(_percent(some.get(name)) for name in columns)] for setting, some in found.numbers.items()]  # fmt: skip
    told += aligned([["", "probes", "gallery", *columns], *rows])
    if found.hidden:
        told.append("Rank-1 with a part of the probes black")
        parts = {part: Path(part).name for part in found.hidden}
        head = ["", "whole", *(f"no {name}" for name in parts.values())]
        told += aligned([head, *(
            [setting, _percent(some.get("Rank-1")),
             *(_percent(found.hidden[part].get(setting, {}).get("Rank-1")) for part in parts)]
            for setting, some in found.numbers.items()
        )])  # fmt: skip
    return told


def draw_tables(found: Evaluation, file: str | Path) -> Path:
    """Rank-1 of each probe view (row) in each view of the gallery (column), one table a setting; without tables, bars of the
    numbers. Format by the file's ending. Gives the path."""
    from matplotlib import rc_context

    from torchloupe.render.plots import SAVING

    path = Path(file)
    figure = _grids(found) if any(1 in one.tables for one in found.outcomes.values()) else _bars(found)
    with store.aside(path) as (draft,), rc_context(SAVING):
        figure.savefig(draft, format=path.suffix.lstrip(".").lower() or "png", dpi=150)
    return path


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Stored evaluations drawn by `loupe draw`."""
    written = []
    for path in paths:
        found = Evaluation.read(*store.load(path), str(path))
        ending = wish.style.format
        goal = path.with_suffix(f".{ending}") if save is None else Path(save)
        if save is not None and (len(paths) > 1 or not goal.suffix):
            goal = goal / f"{path.stem}.{ending}"
        written.append(draw_tables(found, goal))
    return written


def _by_view(setting: str, views: np.ndarray, table: np.ndarray) -> list[str]:
    other = np.where(np.eye(len(table), dtype=bool), np.nan, table)
    known = ~np.isnan(other)
    means = np.where(known.any(1), np.where(known, other, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)
    whole = float(np.nanmean(means)) if known.any() else float("nan")
    return aligned(
        [[f"{setting} Rank-1", *views.tolist(), "mean"], ["other views", *map(_percent, means), _percent(whole)]]
    )


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]  # fmt: skip


def _grids(found: Evaluation) -> Figure:
    from torchloupe.render.ink import Plain

    shown: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
        setting: (one.views, one.tables[1]) for setting, one in found.outcomes.items() if 1 in one.tables
    }
    side = CELL * max(len(views) for views, _ in shown.values())
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    wide, tall = max(5.2, across * (side + LEFT) + 0.2), down * (side + HEAD) + 0.45
    figure = Plain(figsize=(wide, tall))
    figure.text(0.1 / wide, 1 - 0.2 / tall, f"{found.protocol}: Rank-1 in percent, probe view by gallery view",
                size=10, va="center", ha="left")  # fmt: skip
    for k, (setting, (views, table)) in enumerate(shown.items()):
        row, column = divmod(k, across)
        left, top = column * (side + LEFT) + LEFT - 0.15, 0.4 + row * (side + HEAD) + HEAD - 0.2
        axes = figure.add_axes((left / wide, 1 - (top + side) / tall, side / wide, side / tall))
        axes.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        ticks = range(len(views))
        axes.set_xticks(ticks, [str(view) for view in views], size=7, rotation=90 if len(views) > 6 else 0)
        axes.set_yticks(ticks, [str(view) for view in views], size=7)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlabel(f"{setting}, {_percent(found.numbers[setting].get('Rank-1'))}", size=9)
        for i, j in np.ndindex(*table.shape):
            if not np.isnan(table[i, j]):
                tint = "black" if table[i, j] > DARK else "white"
                axes.text(j, i, f"{100 * table[i, j]:.0f}", size=7, ha="center", va="center", color=tint)
    return figure


def _bars(found: Evaluation) -> Figure:
    from torchloupe.render.ink import Plain

    names = list(dict.fromkeys(name for some in found.numbers.values() for name in some))
    figure = Plain(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(found.numbers)
    for k, (setting, some) in enumerate(found.numbers.items()):
        places = np.arange(len(names)) + (k - (len(found.numbers) - 1) / 2) * width
        values = [100 * some.get(name, np.nan) for name in names]
        axes.bar(places, values, width, label=setting)
        for x, value in zip(places, values, strict=True):
            if not np.isnan(value):
                axes.text(x, value + 1, f"{value:.1f}", size=7, ha="center")
    axes.set_xticks(range(len(names)), names, size=8)
    axes.set_ylim(0, 108)
    axes.set_ylabel("percent", size=8)
    axes.set_title(found.protocol, size=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
