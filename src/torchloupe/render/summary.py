"""Summaries of gait maps as lines of text and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import store
from torchloupe.data.bands import BANDS
from torchloupe.kinds.summary import Group, Summary
from torchloupe.render.colour import blend, palette, resize
from torchloupe.render.evaluation import aligned

if TYPE_CHECKING:
    from torchloupe.render.kinds import Wish

SIDE = 3
WORDS = {"view": "view", "type": "condition", "match": "nearest item", "all": "all walks"}


def lines(found: Summary) -> list[str]:
    """What share of the maps lies on which part of the body, beside the share of the silhouette, and which part decides."""
    told = [f"{found.counts['all', 'all']} walks; shares of the maps in percent, area: of the silhouette"]
    for by in ("all", "view", "type", "match"):
        for group in found.groups(by):
            where = (by, group)
            if where not in found.bands or (by != "all" and len(found.groups(by)) < 2):
                continue
            layers, parts = found.bands[where], list(next(iter(found.bands[where].values())))
            head = "all" if by == "all" else f"{by} {group}"
            rows = [[f"{head} ({found.counts[where]})", *parts]]
            rows += [[f"  {layer}", *(_percent(some[part]) for part in parts)] for layer, some in layers.items()]
            if where in found.areas:
                rows.append(["  area", *(_percent(found.areas[where][part]) for part in parts)])
            told += aligned(rows)
    for pair, count in found.pairs.items():
        told.append(f"{pair}: of {count} people and views that have both")
    if found.parts:
        told += _deciding(found)
    for layer, count in dict(found.told.get("empty", {})).items():
        told.append(f"{layer}: the map of {count} walks is 0 everywhere; they are left out there")
    return told


def draw_summary(found: Summary, folder: str | Path, ending: str = "png") -> list[Path]:
    """The pictures of a summary: means by view, condition and outcome, differences of conditions, parts over time, and the
    parts that decide; each where there is something to show. Gives their paths."""
    figures: dict[str, Any] = {}
    for by in ("view", "type", "match"):
        if len(found.groups(by)) > 1:
            figures[f"maps-by-{by}"] = _means(found, [("all", "all"), *((by, group) for group in found.groups(by))])
    if not figures:
        figures["maps"] = _means(found, [("all", "all")])
    if found.pairs and not found.signed and found.bodies:
        figures["differences"] = _differences(found)
    if found.times:
        figures["parts-over-time"] = _over_time(found)
    if found.parts:
        figures["parts"] = _parts(found)
    return [_saved(figure, Path(folder) / f"{name}.{ending}") for name, figure in figures.items()]


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Stored summaries drawn by `loupe draw`."""
    written = []
    for path in paths:
        found = Summary.read(*store.load(path), str(path))
        folder = path.parent if save is None else Path(save) / (path.stem if len(paths) > 1 else "")
        written += draw_summary(found, folder, wish.style.format)
    return written


def _saved(figure: Any, path: Path) -> Path:
    from matplotlib import rc_context

    from torchloupe.render.plots import SAVING

    with store.aside(path) as (draft,), rc_context(SAVING):
        figure.savefig(draft, format=path.suffix.lstrip("."), dpi=200)
    return path


def _under(found: Summary, where: Group, layer: str) -> np.ndarray:
    """The mean silhouette, grown, or a black picture of the map's shape (joints)."""
    if where in found.bodies:
        grey = found.bodies[where].repeat(SIDE, 0).repeat(SIDE, 1)
    else:
        grey = np.zeros(tuple(SIDE * size * 4 for size in found.means[layer, where].shape))
    return grey.round().astype(np.uint8)[..., None].repeat(3, -1)


def _cell(found: Summary, values: np.ndarray, top: float, where: Group, layer: str, signed: bool, label: str) -> Any:
    from torchloupe.render.plots import Cell

    under = _under(found, where, layer)
    grown = resize(values[None], under.shape[:2])[0] / (top or 1)
    table = palette("auto", signed)
    return Cell(
        blend(under, np.clip(grown, -1 if signed else 0, 1), table, signed=signed, opacity=0.65, fade=signed), label
    )


def _means(found: Summary, groups: Sequence[Group]) -> Any:
    from torchloupe.render.plots import Bar, grid
    from torchloupe.render.plots import Group as Rows

    rows = []
    for layer in found.layers:
        own = [found.means[layer, where] for where in groups if (layer, where) in found.means]
        top = max(float(np.abs(one).max()) for one in own) if own else 1.0
        rows.append((layer, [
            _cell(found, found.means[layer, where], top, where, layer, found.signed, "") if (layer, where) in found.means
            else None for where in groups
        ]))  # fmt: skip
    titles = [f"{'' if by == 'all' else group}{'all walks' if by == 'all' else ''} ({found.counts[by, group]})"
              for by, group in groups]  # fmt: skip
    by = groups[-1][0]
    bar = Bar(palette("auto", found.signed), ["against", "0", "for"] if found.signed else ["0", "most"])
    return grid([Rows(f"Mean maps by {WORDS[by]}", rows)], titles, [bar], _note(found))


def _differences(found: Summary) -> Any:
    from torchloupe.render.plots import Bar, grid
    from torchloupe.render.plots import Group as Rows

    pairs = list(found.pairs)
    rows = []
    for layer in found.layers:
        own = [found.differences[layer, pair] for pair in pairs if (layer, pair) in found.differences]
        top = max((float(np.abs(one).max()) for one in own), default=1.0)
        cells = [_cell(found, found.differences[layer, pair], top, ("all", "all"), layer, True, "")
                 if (layer, pair) in found.differences else None for pair in pairs]  # fmt: skip
        rows.append((layer, cells))
    titles = [f"{pair} ({found.pairs[pair]})" for pair in pairs]
    bar = Bar(palette("auto", True), ["less", "alike", "more"])
    return grid([Rows("The same people and views in two conditions", rows)], titles, [bar], _note(found))


def _over_time(found: Summary) -> Any:
    from torchloupe.render.ink import Plain

    figure = Plain(figsize=(5.6, 0.5 + 1.5 * len(found.times)), layout="constrained")
    for k, (layer, rows) in enumerate(found.times.items()):
        axes = figure.add_subplot(len(found.times), 1, k + 1)
        top = float(np.abs(rows).max()) or 1.0
        shown = axes.imshow(100 * rows, aspect="auto", cmap="coolwarm" if found.signed else "inferno",
                            vmin=-100 * top if found.signed else 0, vmax=100 * top, extent=(0, 100, 100, 0))  # fmt: skip
        axes.set_title(layer, size=8, loc="left")
        axes.set_ylabel("height in %", size=7)
        axes.tick_params(labelsize=7)
        bar = figure.colorbar(shown, ax=axes)
        bar.set_label("% of the map", size=7)
        bar.ax.tick_params(labelsize=6)
    figure.axes[-2].set_xlabel("time in % of the walk", size=7)
    return figure


def _parts(found: Summary) -> Any:
    from torchloupe.render.ink import Plain

    count = max(one.shape[1] for one in found.parts.values())
    figure = Plain(figsize=(6.4, 3.4), layout="constrained")
    titles = ("share of the distance in %", "margin: rival - match", "alone right in %")
    for row, title in enumerate(titles):
        axes = figure.add_subplot(1, 3, row + 1)
        for outcome, tint in (("right", "#2166ac"), ("wrong", "#b2182b")):
            if outcome in found.parts:
                values = found.parts[outcome][row] * (1 if row == 1 else 100)
                axes.plot(values, np.arange(count), color=tint, lw=1, marker=".", ms=3)
        if row == 1:
            axes.axvline(0, color="#999999", lw=0.6)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_title(title, size=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("part of the embedding", size=8)
    from matplotlib.lines import Line2D

    names = [name for name in ("right", "wrong") if name in found.parts]
    tints = {"right": "#2166ac", "wrong": "#b2182b"}
    handles = [Line2D([], [], color=tints[name]) for name in names]
    labels = [f"{name} ({found.counts.get(('match', name), 0)})" for name in names]
    figure.legend_of(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _deciding(found: Summary) -> list[str]:
    rows = found.part_rows
    told = []
    for outcome, values in found.parts.items():
        if len(rows) != values.shape[1]:
            best = np.argsort(-values[1])[:3]
            told.append(f"{outcome}: margin {values[1].sum():.4g}; most of it by the parts {', '.join(map(str, best))}")
            continue
        shares = {}
        for part, (low, high) in BANDS.items():
            overlap = np.clip(np.minimum(rows[:, 1], high) - np.maximum(rows[:, 0], low), 0, None)
            weight = overlap / (rows[:, 1] - rows[:, 0])
            shares[part] = [float((one * weight).sum()) for one in values[:2]]
        words = ", ".join(
            f"{part} {100 * a:.0f} % of the distance and {b:+.3g} of the margin" for part, (a, b) in shares.items()
        )
        told.append(f"{outcome} ({found.counts.get(('match', outcome), 0)}): margin {values[1].sum():+.3g}; {words}")
    return told


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _note(found: Summary) -> str:
    return f"{found.told.get('model', '')}, {found.told.get('method', '')}"
