"""Numbers of maps as people read them: the table, the order of the methods, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import store
from torchloupe.errors import BadInput
from torchloupe.kinds.judged import Judged
from torchloupe.metrics.statistics import Floats, Rank, Row, interval, per_sample, rows
from torchloupe.metrics.verdict import verdicts
from torchloupe.render.pictures import FRAMES, SMALLEST
from torchloupe.render.pictures import redraw as redraw_maps
from torchloupe.render.plots import Cell, Group, grid
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from torchloupe.render.kinds import Wish
    from torchloupe.store.results import Results

ARROWS = {"high": "higher is better", "low": "lower is better", "neither": ""}
PER_ROW = 3
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
FEW_SHARES = (0.25, 0.5, 0.75)
GREY = 128
MOST_REMOVED = 8
"""Samples of which is drawn what was taken away, where many are drawn at once: a figure a curve."""


def gathered(samples: Sequence[Judged]) -> dict[str, tuple[dict[str, Floats], str, Floats | None]]:
    """The numbers of many samples: name -> (map -> (1, n) means over the questions, what is better, chance (1, n) or None).

    A sample that lacks a number or a map has NaN there.
    """
    names = dict.fromkeys(name for one in samples for name in one.numbers)
    found: dict[str, tuple[dict[str, Floats], str, Floats | None]] = {}
    for name in names:
        told = [one.numbers.get(name) for one in samples]
        maps = dict.fromkeys(key for one in told if one for key in one.value)
        value = {key: np.array([[_mean(one.value.get(key)) if one else math.nan for one in told]]) for key in maps}
        levels = np.array([[_mean(one.chance) if one else math.nan for one in told]])
        better = next(one.better for one in told if one)
        found[name] = (value, better, None if np.isnan(levels).all() else levels)
    return found


def _mean(values: Any) -> float:
    if values is None:
        return math.nan
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else math.nan


def controls_of(samples: Sequence[Judged]) -> tuple[str, ...]:
    """The maps that know nothing."""
    return tuple(dict.fromkeys(name for one in samples for name in one.controls))


def table(found: Sequence[Row], missing: str = "maps without a number") -> list[str]:
    """Lines to print: a block a number, maps first, then what maps that know nothing get, then the analytic level."""
    lines: list[str] = []
    width = max((len(row.map) for row in found), default=3)
    for name in dict.fromkeys(row.number for row in found):
        some = [row for row in found if row.number == name]
        better = ARROWS[some[0].better]
        lines.append(f"{name}{f' ({better})' if better else ''}")
        for row in sorted(some, key=lambda row: row.control):
            mark = "chance: " if row.control else ""
            ends = f"[{_figure(row.low)} .. {_figure(row.high)}]" if not math.isnan(row.low) else ""
            lacking = f"  {row.missing} {missing}" if row.missing else ""
            label = f"{mark}{row.map}"
            lines.append(
                f"  {label:<{width + 8}}  {_figure(row.mean):>8}  {ends:<20}  n {row.samples}{lacking}".rstrip()
            )
        levels = {_figure(row.chance) for row in some if not math.isnan(row.chance)}
        if len(levels) == 1:
            lines.append(f"  {'chance: expected':<{width + 8}}  {levels.pop():>8}")
    return lines


def table_of(results: Results, names: Sequence[str]) -> list[str]:
    """The lines of the table of these samples of a run."""
    samples = [Judged.read(*results.read(name), name) for name in names]
    return table(rows(gathered(samples), controls_of(samples)))


def _figure(value: float) -> str:
    if math.isnan(value):
        return "-"
    return (
        f"{value:.3f}"
        if value == 0 or 0.01 <= abs(value) < 1000
        else f"{value:.2e}"
        if abs(value) < 1e-4
        else f"{value:.3g}"
    )


def order(found: Mapping[str, Sequence[Rank]], seconds: Mapping[str, float]) -> list[str]:
    """Lines to print: the methods from best to worst by each number.

    seconds: method -> CPU seconds of one map.
    """
    lines: list[str] = []
    width = max((len(one.name) for some in found.values() for one in some), default=3)
    for name, some in found.items():
        lines.append(f"order by {name}, {some[0].n if some else 0} samples with a number of every method")
        lines.append(
            f"  {'':<{width}}  {'rank':>4}  {'95 %':>8}  {'mean':>8}  {'behind the best':<26}  {'p (Holm)':>8}"
            + (f"  {'ms a map':>8}" if seconds else "")
        )
        for one in some:
            ranks = "-" if math.isnan(one.low) else f"{one.low:.0f} .. {one.high:.0f}"
            rank = "-" if math.isnan(one.rank) else f"{one.rank:.0f}"
            behind = (
                ""
                if one.behind == 0 or math.isnan(one.behind)
                else (f"{_figure(one.behind)} [{_figure(one.behind_low)} .. {_figure(one.behind_high)}]")
            )
            p = "" if math.isnan(one.p) else f"{one.p:.4f}"
            cost = seconds.get(one.name.partition("/")[0])
            spent = "" if cost is None else f"{1000 * cost:.1f}"
            lines.append(
                f"  {one.name:<{width}}  {rank:>4}  {ranks:>8}  {_figure(one.mean):>8}  {behind:<26}  {p:>8}  {spent:>8}".rstrip()
            )
    return lines


def seconds_of(samples: Sequence[Judged]) -> dict[str, float]:
    """Method -> CPU seconds of one map, the mean over the samples that tell."""
    told: dict[str, list[float]] = {}
    for one in samples:
        for method, value in (one.record.get("seconds") or {}).items():
            told.setdefault(str(method), []).append(float(value))
    return {method: sum(some) / len(some) for method, some in told.items()}


def curves_of(samples: Sequence[Judged]) -> dict[str, tuple[Floats, dict[str, Floats]]]:
    """Curve -> (at (p,), map -> (n, p) means over the questions), of the samples that have it at the same points."""
    found: dict[str, tuple[Floats, dict[str, Floats]]] = {}
    for name in dict.fromkeys(name for one in samples for name in one.curves):
        own = [one.curves[name] for one in samples if name in one.curves]
        at = own[0].at
        own = [line for line in own if line.at.shape == at.shape and np.allclose(line.at, at)]
        maps = dict.fromkeys(key for line in own for key in line.value)
        value = {}
        for key in maps:
            each = [per_sample(line.value[key].T.reshape(len(at), -1).T) for line in own if key in line.value]
            value[key] = np.stack(each)
        found[name] = (at, value)
    return found


def figure(samples: Sequence[Judged], title: str = "") -> Figure:
    """The curves, mean over the samples with its 95 % interval; maps in colours, what knows nothing in grey. See `drawable`."""
    return drawn(drawable(samples), controls_of(samples), _steps(samples), title)


def drawable(samples: Sequence[Judged]) -> dict[str, tuple[Floats, dict[str, Floats]]]:
    """As `curves_of`, those along which at least one map has all its numbers in one sample."""
    return {
        name: (at, value)
        for name, (at, value) in curves_of(samples).items()
        if any(not np.isnan(lines).any(1).all() for lines in value.values())
    }


def _steps(samples: Sequence[Judged]) -> tuple[str, ...]:
    told = samples[0].record.get("judged", {})
    return tuple(str(one) for one in told.get("blocks", ())) if isinstance(told, Mapping) else ()


def sentences(samples: Sequence[Judged]) -> list[str]:
    """One sentence a method, of all samples together; see metrics.verdict."""
    told = samples[0].record.get("judged", {})
    options = told.get("options", {})
    line = {
        key: np.array([_mean(column) for column in value[:, 1:].T]).tolist()
        for key, value in curves_of(samples)["ssim"][1].items()
    }
    numbers = gathered(samples)
    level = numbers["ssim"][2]
    outline = {key: _mean(value) for key, value in numbers["edge_ssim"][0].items()}
    return verdicts(
        line,
        _steps(samples),
        other=math.nan if level is None else _mean(level),
        outline=outline,
        order=str(options.get("order", "top_down")),
        independent=bool(options.get("independent", False)),
    )


def drawn(
    curves: Mapping[str, tuple[Floats, Mapping[str, Floats]]], controls: Sequence[str], steps: Sequence[str], title: str
) -> Figure:
    """See `figure`. steps: names of the points, where they are blocks of a network."""
    from torchloupe.render.ink import Plain

    if not curves:
        raise BadInput("no curve to draw: none of these metrics has one; deletion, insertion, srg and road do")
    across = 2 if len(curves) == 4 else min(PER_ROW, len(curves))
    down = math.ceil(len(curves) / across)
    whole = Plain(figsize=(4.6 * across + 0.4, 3.9 * down + 0.6), layout="constrained")
    axes = whole.subplots(down, across, squeeze=False)
    maps = list(dict.fromkeys(key for _, value in curves.values() for key in value))
    own = [key for key in maps if key not in controls]
    handles: dict[str, Any] = {}
    for number, (name, (at, value)) in enumerate(curves.items()):
        one = axes[number // across][number % across]
        for key, lines in value.items():
            grey = key in controls
            colour = "0.55" if grey else f"C{own.index(key) % 10}"
            style = (0, (1 + controls.index(key), 1 + controls.index(key))) if grey else "-"
            known = lines[~np.isnan(lines).any(1)]
            if not len(known):
                continue
            (handles[key],) = one.plot(at, known.mean(0), color=colour, linestyle=style, linewidth=1.2 if grey else 1.8)
            if len(known) > 1 and not grey:
                ends = np.array([interval(known[:, p]) for p in range(known.shape[1])])
                one.fill_between(at, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
        if not one.lines:
            one.text(0.5, 0.5, "no map with a number at every point", ha="center", transform=one.transAxes, fontsize=8)
        one.set_title(name, fontsize=10)
        if steps and len(at) == len(steps) + 1:
            one.set_xticks(at, ["original", *steps], rotation=60, ha="right", fontsize=7)
            one.set_xlabel("blocks randomised, one more at each point" if at[-1] <= 1 else "block randomised by itself")
            one.set_ylabel("likeness to the original map")
        else:
            one.set_xlabel("share of the input taken away")
            one.set_ylabel("score")
        one.spines[["top", "right"]].set_visible(False)
    for number in range(len(curves), down * across):
        axes[number // across][number % across].set_axis_off()
    if handles:
        whole.legend_of(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=min(4, len(handles)),
            fontsize=8,
            frameon=False,
        )
    if title:
        whole.suptitle(title, fontsize=11)
    return whole


def removed_figure(sample: Judged, curve: str, style: Style) -> Figure | None:
    """What was taken away along a curve of one sample, grey, with the score beside the share; None where nothing was.

    A picture: a row a map, shares across. A sequence: a row a map and share, frames across.
    """
    line = sample.curves[curve]
    longest = max(sample.picture.shape[1:3])
    enlarged = None if longest >= SMALLEST else str(math.ceil(SMALLEST / longest))
    look = style if style.resize is not None else replace(style, resize=enlarged)
    still = len(sample.picture) == 1
    frames = sorted({round(i) for i in np.linspace(0, len(sample.picture) - 1, FRAMES)})
    points = sorted({int(np.abs(line.at - share).argmin()) for share in (SHARES if still else FEW_SHARES)})
    groups = []
    for k, question in enumerate(sample.questions):
        rows: list[tuple[str, Sequence[Cell | None]]] = []
        for key, taken in line.taken.items():
            if tuple(key.split("/", 1)) not in sample.maps or np.isnan(line.value[key][k]).any():
                continue
            told = [f"{100 * line.at[p]:.0f} %: {_figure(line.value[key][k, p])}" for p in points]
            pictures = [without(sample.picture, taken[k] <= p, look) for p in points]
            if still:
                rows.append((key, [Cell(one[0], text) for one, text in zip(pictures, told, strict=True)]))
            else:
                rows += [
                    (f"{key} {text}", [Cell(one[t]) for t in frames]) for one, text in zip(pictures, told, strict=True)
                ]
        if rows:
            groups.append(Group(f"{curve}: {question}", rows))
    if not groups:
        return None
    titles = [""] * len(points) if still else [str(t) for t in frames]
    return grid(groups, titles, (), f"Grey: taken away ({line.fill}), with the score of what is left")


def without(picture: np.ndarray, gone: np.ndarray, style: Style) -> list[np.ndarray]:
    """The frames of a picture (t, h, w, 3) with the cells that are gone (t', h', w') bool in grey."""
    size = picture.shape[:3]
    rows = [np.arange(length) * cells // length for length, cells in zip(size, gone.shape, strict=True)]
    fine = gone[np.ix_(*rows)]
    pictures = np.where(fine[..., None], GREY, picture).astype(np.uint8)
    height, width = style.size(*size[1:])
    down, across = np.arange(height) * size[1] // height, np.arange(width) * size[2] // width
    return [frame[np.ix_(down, across)] for frame in pictures]


def draw_removed(samples: Sequence[Judged], folder: Path, style: Style) -> list[Path]:
    """NAME-removed-CURVE of each sample, see `removed_figure`."""
    found = []
    for one in samples:
        for curve in one.curves:
            whole = removed_figure(one, curve, style)
            if whole is not None:
                path = folder / store.safe_name(f"{one.id}-removed-{curve}")
                found.append(save_figure(whole, path.with_name(f"{path.name}.{style.format}"), style.dpi // 2))
    return found


def rank_figure(found: Mapping[str, Sequence[Rank]], title: str = "") -> Figure:
    """Paired differences to the best with their intervals, a panel a number; the best stands at 0."""
    from torchloupe.render.ink import Plain

    across = min(PER_ROW, len(found))
    down = math.ceil(len(found) / across)
    most = max(len(some) for some in found.values())
    whole = Plain(figsize=(4.8 * across, (0.32 * most + 1.3) * down), layout="constrained")
    axes = whole.subplots(down, across, squeeze=False)
    for number, (name, some) in enumerate(found.items()):
        one = axes[number // across][number % across]
        for place, rank in enumerate(some):
            differs = not math.isnan(rank.p) and rank.p < 0.05
            colour = "C0" if place == 0 else "0.25" if differs else "0.65"
            one.plot([rank.behind_low, rank.behind_high], [place, place], color=colour, linewidth=2)
            one.plot([rank.behind], [place], "o", color=colour, markersize=5)
        one.axvline(0, color="0.85", linewidth=1, zorder=0)
        one.set_yticks(range(len(some)), [f"{rank.name}  {_figure(rank.mean)}" for rank in some], fontsize=8)
        one.invert_yaxis()
        one.set_title(name, fontsize=10)
        one.set_xlabel("behind the best (95 %; grey: no difference after Holm)", fontsize=8)
        one.spines[["top", "right", "left"]].set_visible(False)
        one.tick_params(axis="y", length=0)
        one.locator_params(axis="x", nbins=4)
        one.tick_params(axis="x", labelsize=8)
    for number in range(len(found), down * across):
        axes[number // across][number % across].set_axis_off()
    if title:
        whole.suptitle(title, fontsize=11)
    return whole


def save_figure(whole: Figure, path: Path, dpi: int = 120) -> Path:
    """The figure in the format that the name ends with."""
    with store.aside(path) as (draft,):
        whole.savefig(draft, dpi=dpi)
    return path


def write_table(found: Sequence[Row], path: Path) -> Path:
    """The table as comma-separated values, 17 digits; empty where there is no number."""
    import csv
    import io

    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["number", "map", "mean", "low", "high", "samples", "missing", "better", "chance", "control"])
    cell = lambda value: "" if math.isnan(value) else repr(value)
    for row in found:
        figures = [cell(value) for value in (row.mean, row.low, row.high)]
        out.writerow(
            [row.number, row.map, *figures, row.samples, row.missing, row.better, cell(row.chance), int(row.control)]
        )
    return store.whole(path, text.getvalue())


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Stored judgements again: their heatmaps, and the curves of all of them in one figure; `loupe draw` calls this."""
    written = redraw_maps(paths, save, wish)
    samples = [Judged.read(*store.load(path), store.pair(path)[0].stem) for path in paths]
    if drawable(samples):
        goal = Path(save) if save is not None else paths[0].parent
        goal = goal.parent if goal.suffix else goal
        written.append(save_figure(figure(samples), goal / f"curves.{wish.style.format}", wish.style.dpi // 2))
        written += draw_removed(
            [one.only(wish.methods, wish.layers, wish.targets) for one in samples[:MOST_REMOVED]], goal, wish.style
        )
    return written
