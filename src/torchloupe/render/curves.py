"""Schedules as a picture and as a table. The numbers stay whole; only what is drawn is thinned out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import store
from torchloupe.data.schedules import Curve, Mark, Unit
from torchloupe.errors import BadInput, nearest
from torchloupe.render.kinds import Wish
from torchloupe.store.reading import reads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {"lr": "learning rate", "momentum": "momentum", "wd": "weight decay"}
BINS = 2000
# More different curves than this are not drawn over one another.
TOGETHER = 8
SIZE = (12.0, 7.0)
SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".tif", ".tiff", ".webp")


def style_name(style: str) -> str:
    """matplotlib's name of a style: seaborn's five ('whitegrid', 'ticks', ...) or any of matplotlib's own.

    Errors: BadInput, with the nearest names.
    """
    import matplotlib.style

    known = ["default", *matplotlib.style.available]
    for name in (f"seaborn-v0_8-{style}", style):
        if name in known:
            return name
    short = [name.removeprefix("seaborn-v0_8-") for name in known]
    raise BadInput(f"--style {style}: unknown.{nearest(style, short)} Styles: {', '.join(short)}")


def window_size(text: str) -> tuple[float, float]:
    """'12*7' -> (12.0, 7.0), inches. Errors: BadInput for anything else, zero and negative sizes too."""
    parts = text.replace("x", "*").split("*")
    try:
        width, height = (float(part) for part in parts)
    except ValueError:
        width = height = 0.0
    if not (0 < width <= 200 and 0 < height <= 200):
        raise BadInput(f"--window-size {text}: expected W*H in inches, for example '12*7'")
    return width, height


def axes_of(curves: Sequence[Curve], by: Unit | None) -> list[Unit]:
    """The unit of each curve's horizontal axis: the wanted one, else epochs where all know them, else iterations.

    Too many curves for one picture each take the unit that they can. Errors: BadInput where the others have none in
    common, or lack the wanted one.
    """
    order: tuple[Unit, ...] = (by,) if by else ("epoch", "iter")
    for unit in order:
        if all(_able(curve, unit) for curve in curves):
            return [unit] * len(curves)
    if by is None and len(_families(curves)) > TOGETHER:
        return ["epoch" if _able(curve, "epoch") else "iter" for curve in curves]
    blind = [c.name for c in curves if c.unit == "epoch" or not c.per_epoch]
    wanted = f"by {by}" if by else "on one axis"
    raise BadInput(f"{_joined(blind)}: cannot be drawn {wanted} without iterations an epoch; give --dataset-size "
                   "(and batch_size=N in a spec)")  # fmt: skip


def _able(curve: Curve, unit: Unit) -> bool:
    return curve.unit == unit or (unit == "epoch" and bool(curve.per_epoch))


def draw(
    curves: Sequence[Curve],
    *,
    by: Unit | None = None,
    title: str | None = None,
    style: str = "whitegrid",
    size: tuple[float, float] | None = None,
) -> Figure:
    """One line for every distinct group of every curve; the warm-up shaded, milestones dotted, over one axis.

    Curves that agree are one line. More than TOGETHER different ones get a small picture each, over an axis of its own.
    size: (12, 7) inches by default, higher for many small pictures.
    """
    import matplotlib
    import matplotlib.style

    from torchloupe.render.ink import Plain

    units = axes_of(curves, by)
    families = _families(curves)
    quantity = LABELS[curves[0].parameter]
    with matplotlib.style.context(style_name(style)):
        if len(families) > TOGETHER:
            figure = _panels(curves, families, units, size)
            figure.suptitle(title if title is not None else quantity)
            return figure
        figure = Plain(figsize=size or SIZE, layout="constrained")
        axes = figure.subplots()
        drawn = [(curves[family[0]], _distinct(curves[family[0]]), _named(curves, family)) for family in families]
        count = sum(len(groups) for _, groups, _ in drawn)
        if count > 8:
            axes.set_prop_cycle(color=matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))
        lines: list[tuple[Any, str]] = []
        for curve, distinct, name in drawn:
            lines += _lines(axes, curve, units[0], distinct, name if len(curves) > 1 else "")
        axes.set_xlabel("epoch" if units[0] == "epoch" else "iteration")
        axes.set_ylabel(quantity)
        axes.set_title(title if title is not None else curves[0].name if len(curves) == 1 else quantity)
        axes.margins(x=0.01)
        _mark(axes, [curve for curve, _, _ in drawn], units[0])
        named = [(line, label) for line, label in lines if label]
        if named:
            columns = 1 if len(named) < 4 else 2
            words: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "fontsize": "small"}
            figure.legend_of([line for line, _ in named], [label for _, label in named], **words)
    return figure


def _panels(
    curves: Sequence[Curve], families: Sequence[Sequence[int]], units: Sequence[Unit], size: tuple[float, float] | None
) -> Figure:
    """A small picture for every family of equal curves, in rows."""
    from torchloupe.render.ink import Plain

    columns = 4 if len(families) <= 32 else 6
    rows = -(-len(families) // columns)
    figure = Plain(figsize=size or (SIZE[0] + 2 * (columns - 4), max(SIZE[1], 1.9 * rows + 0.6)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, family in zip(panels, families, strict=False):
        curve, unit = curves[family[0]], units[family[0]]
        _lines(panel, curve, unit, _distinct(curve), "", width=1.2)
        _mark(panel, [curve], unit, labels=False)
        panel.set_title("\n".join(textwrap.wrap(_named(curves, family, 1), 30)), fontsize=7.5)
        panel.set_xlabel("epoch" if unit == "epoch" else "iteration", fontsize=7)
        panel.tick_params(labelsize=7)
        panel.xaxis.get_major_locator().set_params(nbins=4)
        panel.margins(x=0.02)
    for panel in panels[len(families) :]:
        panel.set_axis_off()
    return figure


def _lines(
    axes: Any, curve: Curve, unit: Unit, distinct: Sequence[tuple[str, int]], name: str, width: float = 1.8
) -> list[tuple[Any, str]]:
    """Draws them; gives each with its label, "" where it needs none."""
    scale = 1 if unit == curve.unit else 1 / (curve.per_epoch or 1)
    lines = []
    for groups, column in distinct:
        at, values = thinned(curve, column)
        (line,) = axes.plot(at * scale, values, drawstyle="steps-post", linewidth=width)
        lines.append((line, " · ".join(part for part in (name, groups) if part)))
    return lines


def _families(curves: Sequence[Curve]) -> list[list[int]]:
    """Numbers of curves that agree in every value of every line, in their length and marks."""
    found: dict[Any, list[int]] = {}
    for k, curve in enumerate(curves):
        about = curve.unit, curve.length, curve.per_epoch, curve.marks, curve.at.tobytes()
        lines = tuple((label, curve.values[:, column].tobytes()) for label, column in _distinct(curve))
        found.setdefault((*about, lines), []).append(k)
    return list(found.values())


def _named(curves: Sequence[Curve], family: Sequence[int], most: int = 3) -> str:
    return _joined([curves[k].name for k in family], most)


def _distinct(curve: Curve) -> list[tuple[str, int]]:
    """(label, column): groups whose values are the same at every unit are one line."""
    found: dict[bytes, list[int]] = {}
    for g in range(curve.values.shape[1]):
        found.setdefault(np.ascontiguousarray(curve.values[:, g]).tobytes(), []).append(g)
    if len(found) == 1 and curve.values.shape[1] > 1:
        return [(f"all {curve.values.shape[1]} groups", 0)]
    return [(_joined([curve.groups[g] for g in columns]), columns[0]) for columns in found.values()]


def _joined(names: list[str], most: int = 3) -> str:
    return " = ".join(names) if len(names) <= most else f"{names[0]} and {len(names) - 1} alike"


def thinned(curve: Curve, column: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) to draw: every change where there are few; else the least and greatest of each of 2000 equal stretches.

    The first and the last value are always kept, the last up to the end of the training.
    """
    at, values = curve.at, curve.values[:, column]
    if len(at) > 2 * BINS:
        edges = np.searchsorted(at, np.linspace(0, curve.length, BINS + 1))
        kept = {0, len(at) - 1}
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if low < high:
                kept |= {low + int(values[low:high].argmin()), low + int(values[low:high].argmax())}
        chosen = np.array(sorted(kept))
        at, values = at[chosen], values[chosen]
    return np.append(at, curve.length), np.append(values, values[-1])


def _mark(axes: Any, curves: Sequence[Curve], unit: Unit, labels: bool = True) -> None:
    """Warm-ups as shaded spans and milestones as dotted lines, once where curves agree, with their places.

    A label for which there is no room beside another one is left out.
    """
    marks: dict[tuple[float, str], tuple[float, float | None]] = {}
    for curve in curves:
        scale = 1 if unit == curve.unit else 1 / (curve.per_epoch or 1)
        for mark in curve.marks:
            end = None if mark.end is None else mark.end * scale
            place = round(mark.at * scale if end is None else end, 2)
            marks.setdefault((place, mark.label), (mark.at * scale, end))
    left, right = axes.get_xlim()
    room = 0.24 * (right - left) / axes.figure.get_size_inches()[0]
    taken: list[float] = []
    for (place, label), (at, end) in sorted(marks.items()):
        if end is not None:
            axes.axvspan(at, end, alpha=0.12, color="tab:orange", linewidth=0)
        else:
            axes.axvline(at, linestyle=":", linewidth=1, color="0.5")
        # A warm-up's label ends at the end of its span, a milestone's begins at its line.
        middle = end - room / 2 if end is not None else at + room / 2
        if not labels or any(abs(middle - other) < room for other in taken):
            continue
        taken.append(middle)
        text = f"{label} {place:g}" if end is None else f"{label} to {place:g}"
        look: dict[str, Any] = {"rotation": 90, "va": "top", "fontsize": 8, "color": "0.3"}
        look["bbox"] = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "alpha": 0.6, "pad": 1}
        axes.text(middle, 0.98, text, transform=axes.get_xaxis_transform(), ha="center", **look)
    axes.set_xlim(left, right)


def table(curves: Sequence[Curve], by: Unit | None = None) -> list[str]:
    """Lines to print: first, peak and last value of every distinct group."""
    units = axes_of(curves, by)
    one = len(set(units)) == 1
    rows = [("", "first", "peak", f"at {units[0]}" if one else "at", "last")]
    for curve, unit in zip(curves, units, strict=True):
        scale = 1 if unit == curve.unit else 1 / (curve.per_epoch or 1)
        summary = curve.summary()
        for groups, column in _distinct(curve):
            row = summary[column]
            name = " · ".join(part for part in (curve.name, groups) if part)
            peak_at = f"{row['peak_at'] * scale:.6g}" + ("" if one else f" {unit}")
            rows.append((name, f"{row['first']:.6g}", f"{row['peak']:.6g}", peak_at, f"{row['last']:.6g}"))
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[k].rjust(widths[k]) for k in range(1, 5))]).rstrip() for row in rows
    ]


def write_csv(curves: Sequence[Curve], path: Path) -> None:
    """Every change of every group: schedule, group, iteration (empty where unknown), epoch, value; 17 digits.

    A row's value holds until the next row of its group; a last row at the end of the training repeats the last value.
    """
    with (
        store.aside(path) as (draft,),
        open(draft, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        file.write("schedule,group,parameter,iteration,epoch,value\n")
        for curve in curves:
            for g, group in enumerate(curve.groups):
                head = ",".join(_quoted(text) for text in (curve.name, group, curve.parameter))
                column = curve.values[:, g].tolist()
                for at, value in zip([*curve.at.tolist(), curve.length], [*column, column[-1]], strict=True):
                    iteration = at if curve.unit == "iter" else ""
                    epoch = at if curve.unit == "epoch" else repr(at / curve.per_epoch) if curve.per_epoch else ""
                    file.write(f"{head},{iteration},{epoch},{value!r}\n")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text


def check_suffix(path: Path) -> None:
    """Errors: BadInput for a name whose ending is no picture format."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--save-path {path}: expected a name ending with one of {', '.join(SUFFIXES)}")


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """The figure in the format that the file name ends with. Errors: BadInput for an unknown ending."""
    check_suffix(path)
    with store.aside(path) as (draft,):
        figure.savefig(draft, dpi=dpi)


def window() -> bool:
    """Whether matplotlib can open a window here."""
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    return plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)


def show(figure: Figure) -> bool:
    """The figure in a window until it is closed; False, and nothing shown, where there is no display."""
    if not window():
        return False
    import matplotlib.pyplot as plt

    width, height = figure.get_size_inches()
    manager = plt.figure(figsize=(width, height)).canvas.manager
    assert manager is not None
    manager.canvas.figure = figure
    figure.set_canvas(manager.canvas)
    plt.show()
    return True


def save(curves: Sequence[Curve], path: Path, record: Mapping[str, Any]) -> Path:
    """The numbers of a picture beside it: NAME.npz with every change of every group, NAME.json with how it was made.

    Arrays: `at 0`, `values 0` of the first curve and so on; the record's "curves" holds names, units and marks.
    """
    arrays = {f"{key} {k}": getattr(curve, key) for k, curve in enumerate(curves) for key in ("at", "values")}
    keys = ("name", "parameter", "unit", "length", "groups", "per_epoch", "marks")
    told = [{key: getattr(curve, key) for key in keys} for curve in curves]
    return store.save(path.parent, path.stem, arrays, {"kind": "curves", **record, "curves": told})


@reads("a stored schedule")
def load(path: Path) -> tuple[list[Curve], Mapping[str, Any]]:
    """The curves that `save` wrote, and their record."""
    arrays, record = store.load(path)
    curves = []
    for k, told in enumerate(record["curves"]):
        words = {**told, "groups": tuple(told["groups"]), "marks": tuple(Mark(**mark) for mark in told["marks"])}
        curves.append(Curve(at=arrays[f"at {k}"], values=arrays[f"values {k}"], **words))
    return curves, record


def redraw(paths: Sequence[Path], save: str | None, _wish: Wish) -> list[Path]:
    """The pictures of stored schedules again, as they were asked for; `loupe draw` calls this."""
    written = []
    for path in paths:
        curves, record = load(path)
        look = record.get("picture", {})
        told = look.get("window_size")
        size = window_size(told) if told else None
        figure = draw(
            curves, by=look.get("by"), title=look.get("title"), style=look.get("style", "whitegrid"), size=size
        )
        place = path.with_suffix(".png") if save is None else Path(save)
        place = place if place.suffix else place / f"{path.stem}.png"
        save_figure(figure, place)
        written.append(place)
    return written
