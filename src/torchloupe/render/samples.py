"""Samples as pictures: what is known drawn on them, steps side by side, contact sheets, plots, a web page."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import store
from torchloupe.data.samples import MODES, Marks, Sample, Step
from torchloupe.errors import BadInput, legible, one_line
from torchloupe.methods.faults import drawn_lines
from torchloupe.render.kinds import Wish
from torchloupe.render.template import address, filled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
           (227, 119, 194), (23, 190, 207), (188, 189, 34))  # fmt: skip
GAP = 8
ROW = 1500
LARGEST = 20000
FONT_SIZE = 13
# Small panels in a row of the plots, and how many of them at most.
ACROSS, MOST_PANELS = 4, 16
# Pixels that the joints of a body must spread over to be named.
NAMED_FROM = 200


def grid_size(text: str) -> tuple[int, int]:
    """'4x5' -> (4, 5), rows and columns. Errors: BadInput for anything else."""
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and 0 < int(rows) <= 100 and 0 < int(columns) <= 100):
        raise BadInput(f"--grid {text}: expected ROWSxCOLUMNS, for example 4x5")
    return int(rows), int(columns)


def view(sample: Sample, mode: str = "transformed", factor: float = 1.0, flip: bool = False) -> Image.Image:
    """One sample as one picture in a mode of MODES, with what is known of it drawn in.

    factor enlarges (whole pixels stay sharp) or shrinks; flip turns the channels round.
    """
    if mode not in MODES:
        raise BadInput(f"--mode {mode}: expected one of {', '.join(MODES)}")
    head = sample.fed if sample.fed and mode != "original" else sample.label
    if mode == "pipeline":
        tiles = [_tile(step, step.name, factor, flip) for step in sample.steps]
        return captioned(joined(tiles), head)
    steps = {
        "original": [("", sample.original)],
        "transformed": [("", sample.transformed)],
        "concat": [("original", sample.original), ("transformed", sample.transformed)],
    }[mode]
    tiles = [_tile(step, name, factor, flip, told=False) for name, step in steps]
    return captioned(joined(tiles), head)


def _tile(step: Step, name: str, factor: float, flip: bool, told: bool = True) -> Image.Image:
    """A step: its pictures side by side below its name; a step without one is a narrow empty tile."""
    from PIL import Image

    text = f"{name}\n{step.told}" if told and step.told else name
    if not step.pictures:
        return captioned(Image.new("RGB", (150, 4), "white"), text)
    drawn = [marked(picture, step.known(k), factor, flip) for k, picture in enumerate(step.pictures)]
    return captioned(joined(drawn), text)


def marked(picture: np.ndarray, marks: Marks, factor: float = 1.0, flip: bool = False) -> Image.Image:
    """picture (h, w, 3) uint8, scaled by factor, with masks, heat, boxes, names and keypoints drawn over it."""
    from PIL import Image, ImageDraw

    if flip:
        picture = np.ascontiguousarray(picture[..., ::-1])
    h, w = picture.shape[:2]
    size = max(1, round(w * factor)), max(1, round(h * factor))
    if max(size) > LARGEST:
        raise BadInput(f"--rescale-factor {factor:g}: a picture of {size[0]} x {size[1]} is too large")
    image = Image.fromarray(picture)
    if size != (w, h):
        image = image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
    layers = _layers(marks.masks)
    for k, mask in enumerate(layers):
        veil = Image.fromarray((mask > 0).astype(np.uint8) * 110).resize(size, Image.Resampling.NEAREST)
        image.paste(COLOURS[k % len(COLOURS)], (0, 0), veil)
    if marks.heat is not None and marks.heat.max() > 0:
        heat = (marks.heat / marks.heat.max() * 190).clip(0, 190).astype(np.uint8)
        image.paste((255, 40, 40), (0, 0), Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    pen = ImageDraw.Draw(image)
    width = max(1, round(min(size) / 150))
    turned = len(marks.outlines) == len(marks.boxes) if marks.boxes is not None else False
    for k, lines in enumerate(marks.outlines):
        for line in lines:
            corners = [(float(x) * factor, float(y) * factor) for x, y in line]
            pen.line([*corners, corners[0]], fill=COLOURS[k % len(COLOURS)], width=width, joint="curve")
    for k, box in enumerate(marks.boxes if marks.boxes is not None else ()):
        x0, y0, x1, y1 = (float(v) * factor for v in box)
        if x1 >= x0 and y1 >= y0:
            colour = COLOURS[k % len(COLOURS)]
            # Around a turned box nothing upright is known.
            if not (turned and len(marks.outlines[k]) == 1 and len(marks.outlines[k][0]) == 4):
                pen.rectangle((x0, y0, x1, y1), outline=colour, width=width)
            if k < len(marks.names) and marks.names[k]:
                _tag(pen, (x0, y0), marks.names[k], colour)
    for k, person in enumerate(marks.keypoints if marks.keypoints is not None else ()):
        radius, colour = max(2, width + 1), COLOURS[k % len(COLOURS)]
        for a, b in marks.bones:
            if max(a, b) < len(person) and person[a, 2] > 0 and person[b, 2] > 0:
                pen.line([*(person[a, :2] * factor), *(person[b, :2] * factor)], fill=colour, width=width)
        for x, y, seen in person:
            if seen > 0:
                spot = (x * factor - radius, y * factor - radius, x * factor + radius, y * factor + radius)
                pen.ellipse(spot, fill=colour, outline="white")
        _name_joints(pen, person * [factor, factor, 1], marks.joints, colour)
    _named_areas(pen, marks, layers, size)
    return image


def _name_joints(pen: Any, person: np.ndarray, joints: Sequence[str], colour: tuple[int, int, int]) -> None:
    """Names beside the joints (j, 3) of somebody who is large enough; a name that would lie on an earlier one is left out."""
    seen = person[person[:, 2] > 0]
    if len(joints) != len(person) or not len(seen) or np.ptp(seen[:, :2], axis=0).max() < NAMED_FROM:
        return
    taken: list[tuple[float, float, float, float]] = []
    for (x, y, visible), name in zip(person.tolist(), joints, strict=True):
        if visible <= 0:
            continue
        place = pen.textbbox((x + 6, y - FONT_SIZE / 2), one_line(name), font=_font())
        if not any(place[0] < c and a < place[2] and place[1] < d and b < place[3] for a, b, c, d in taken):
            taken.append(place)
            words: dict[str, Any] = {"fill": "white", "stroke_width": 2, "stroke_fill": colour}
            pen.text((x + 6, y - FONT_SIZE / 2), one_line(name), font=_font(), **words)


def _named_areas(pen: Any, marks: Marks, layers: Sequence[np.ndarray], size: tuple[int, int]) -> None:
    """The names of the classes of a label map, each in the middle of its pixels."""
    if marks.masks is None or marks.masks.ndim != 2:
        return
    shown = [int(k) for k in np.unique(marks.masks) if k not in (0, 255)]
    for k, (number, mask) in enumerate(zip(shown, layers, strict=True)):
        rows, columns = np.nonzero(mask)
        place = np.median(columns) / mask.shape[1] * size[0], np.median(rows) / mask.shape[0] * size[1]
        if marks.legend.get(number):
            _tag(pen, place, marks.legend[number], COLOURS[k % len(COLOURS)])


def _layers(masks: np.ndarray | None) -> list[np.ndarray]:
    """Masks one by one: a stack as it is, a label map label by label (0 and 255 are background and ignored)."""
    if masks is None:
        return []
    if masks.ndim == 3:
        return list(masks)
    return [masks == label for label in np.unique(masks) if label not in (0, 255)]


def _tag(pen: Any, at: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    text = one_line(text)
    width, height = pen.im.size
    long = pen.textlength(text, font=_font())
    place = max(min(at[0], width - long - 1), 0), max(min(at[1], height) - FONT_SIZE - 3, 0)
    left, top, right, bottom = pen.textbbox(place, text, font=_font())
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=colour)
    pen.text(place, text, font=_font(), fill="white")


@cache
def _font() -> Any:
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    return ImageFont.truetype(findfont("DejaVu Sans"), FONT_SIZE)


def captioned(image: Image.Image, text: str) -> Image.Image:
    """A picture with lines of text above it, broken to its width; unchanged for no text."""
    if not text:
        return image
    from PIL import Image, ImageDraw

    font, width = _font(), max(image.width, 110)
    lines: list[str] = []
    for paragraph in legible(text).splitlines():
        line = ""
        for word in paragraph.split(" "):
            for piece in _pieces(word, width, font):
                longer = f"{line} {piece}".strip()
                if line and font.getlength(longer) > width:
                    lines.append(line)
                    line = piece
                else:
                    line = longer
        lines.append(line)
    lines = lines if len(lines) <= 6 else [*lines[:5], lines[5] + " ..."]
    step = FONT_SIZE + 4
    page = Image.new("RGB", (width, image.height + step * len(lines) + 3), "white")
    pen = ImageDraw.Draw(page)
    for k, line in enumerate(lines):
        pen.text((0, k * step), line, font=font, fill=(20, 20, 20) if k == 0 else (110, 110, 110))
    page.paste(image, (0, step * len(lines) + 3))
    return page


def _pieces(word: str, width: int, font: Any) -> list[str]:
    """A word that is wider than the picture, cut to pieces that are not."""
    pieces, piece = [], ""
    for letter in word:
        if piece and font.getlength(piece + letter) > width:
            pieces.append(piece)
            piece = ""
        piece += letter
    return [*pieces, piece]


def joined(tiles: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Tiles in rows, aligned at the top; below one another in columns, else as they come, wider than high."""
    from PIL import Image

    if len(tiles) == 1:
        return tiles[0]
    if columns is None:
        area = sum((tile.width + GAP) * (tile.height + GAP) for tile in tiles)
        one_row = len(tiles) <= 4 or sum(tile.width + GAP for tile in tiles) <= ROW
        wide = math.inf if one_row else max(math.sqrt(1.8 * area), ROW)
        rows = [[tiles[0]]]
        for tile in tiles[1:]:
            if sum(one.width + GAP for one in rows[-1]) + tile.width > max(wide, tile.width):
                rows.append([])
            rows[-1].append(tile)
        lefts = [[sum(one.width + GAP for one in row[:c]) for c in range(len(row))] for row in rows]
    else:
        rows = [list(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
        widths = [max(row[c].width for row in rows if c < len(row)) for c in range(len(rows[0]))]
        lefts = [[sum(widths[:c]) + GAP * c for c in range(len(row))] for row in rows]
    heights = [max(tile.height for tile in row) for row in rows]
    right = max(left + tile.width for row, places in zip(rows, lefts, strict=True)
                for tile, left in zip(row, places, strict=True))  # fmt: skip
    page = Image.new("RGB", (right, sum(heights) + GAP * (len(heights) - 1)), "white")
    for r, (row, places) in enumerate(zip(rows, lefts, strict=True)):
        for tile, left in zip(row, places, strict=True):
            page.paste(tile, (left, sum(heights[:r]) + GAP * r))
    return page


def framed(image: Image.Image) -> Image.Image:
    """The picture with a white margin."""
    from PIL import Image

    page = Image.new("RGB", (image.width + 2 * GAP, image.height + 2 * GAP), "white")
    page.paste(image, (GAP, GAP))
    return page


def save_image(image: Image.Image, path: Path) -> Path:
    """The picture as PNG, whole or not at all."""
    with store.aside(path) as (draft,):
        # Twice as fast as PIL's usual level, and hardly larger for photographs.
        image.save(draft, compress_level=1)
    return path


def table(name: str, summary: dict[str, Any]) -> list[str]:
    """Lines to print about the samples seen."""
    lines = [f"{name}: {summary['samples']} samples"]

    def row(key: str, text: str) -> None:
        lines.append(f"  {key:<18}{text}")

    if summary["samples"]:
        for key in ("width", "height", "aspect"):
            low, middle, high = (f"{summary[key][part]:.4g}" for part in ("min", "median", "max"))
            row("aspect (w/h)" if key == "aspect" else key, f"{low} to {high}, median {middle}")
        outputs = summary["output sizes"]
        row("after", ", ".join(f"{size} ({count})" for size, count in list(outputs.items())[:4])
            + (f", {len(outputs) - 4} other sizes" if len(outputs) > 4 else ""))  # fmt: skip
        for key in ("mean", "std", "transformed mean", "transformed std"):
            row(key, "R {:.2f}  G {:.2f}  B {:.2f}".format(*summary[key]))
        classes = summary["classes"]
        if classes:
            if summary.get("several classes"):
                row("several classes", f"{summary['several classes']} samples")
            row("classes", f"{len(classes)}: " + ", ".join(_counted(key, count, summary) for key, count in list(classes.items())[:8])
                + (" ..." if len(classes) > 8 else ""))  # fmt: skip
    boxes = summary.get("boxes")
    if boxes:
        sizes = ", ".join(f"{count} {key}" for key, count in boxes["sizes"].items())
        row("boxes", f"{boxes['count']}: {sizes}; median {boxes['share of picture']['median']:.2%} of the picture")
        named = list(summary.get("classes of boxes", {}).items())
        if named:
            row("", ", ".join(f"{key} {count}" for key, count in named[:8]) + (" ..." if len(named) > 8 else ""))
    held = list(summary.get("classes of areas", {}).items())
    if held:
        row("areas", ", ".join(f"{key} {count}" for key, count in held[:8]) + (" ..." if len(held) > 8 else ""))
    for step, words in drawn_lines(summary.get("draws", {})):
        row("drawn", f"{step}: {words}")
    for note in summary.get("notes", []):
        row("note", note)
    for bad in summary["broken"][:20]:
        row("broken", f"sample {bad['index']} ({bad['name']}): {bad['step']}: {bad['message']}")
    if len(summary["broken"]) > 20:
        row("broken", f"{len(summary['broken']) - 20} more")
    wrong = summary.get("annotation", [])
    for one in wrong[:20]:
        row("annotation", f"sample {one['index']} ({one['name']}): {one['fault']}")
    if len(wrong) > 20:
        row("annotation", f"{len(wrong) - 20} more")
    odd = summary.get("odd", [])
    for one in odd[:20]:
        row("odd", f"sample {one['index']} ({one['name']}): {one['why']}")
    if len(odd) > 20:
        row("odd", f"{len(odd) - 20} more")
    for here, there in summary.get("leaked", [])[:20]:
        row("in both", f"{here} and {there}")
    if len(summary.get("leaked", [])) > 20:
        row("in both", f"{len(summary['leaked']) - 20} more")
    doubted = summary.get("doubts")
    if doubted:
        row("neighbours", f"{doubted['agreement']:.0%} of the {doubted['neighbours']} nearest have the same class, "
            f"{doubted['chance']:.0%} by chance ({doubted['model']}, {doubted['layer']})")  # fmt: skip
        if doubted["blind"]:
            row("", "hardly more than by chance: these features do not tell the classes apart, nothing is doubted")
        found = [] if doubted["blind"] else doubted["candidates"]
        for one in found[:20]:
            row("label?", f"sample {one['index']} ({one['name']}): {one['label']}, but {one['share']:.0%} of its neighbours are "
                f"{one['suggests']}")  # fmt: skip
        if len(found) > 20:
            row("label?", f"{len(found) - 20} more")
    for one in summary.get("contradictions", [])[:20]:
        pairs = [f"{name} ({label})" for name, label in zip(one["names"], one["labels"], strict=True)]
        row("same, other class", ", ".join(pairs[:6]) + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""))
    for group in summary["duplicates"][:20]:
        row("look the same", ", ".join(group[:6]) + (f" and {len(group) - 6} more" if len(group) > 6 else ""))
    if len(summary["duplicates"]) > 20:
        row("look the same", f"{len(summary['duplicates']) - 20} more groups")
    return lines


def _counted(key: str, count: int, summary: Mapping[str, Any]) -> str:
    """A class with its count and the 95 % interval of its share."""
    interval = summary.get("intervals", {}).get(key)
    return f"{key} {count}" if interval is None else f"{key} {count} ({interval[0]:.0%} to {interval[1]:.0%})"


def plots(name: str, sizes: np.ndarray, summary: Mapping[str, Any]) -> Figure:
    """Sizes (n, 2) as width and height, aspect ratios, class counts with the 95 % intervals of their shares, mean and spread of the
    colours of the samples; where there are, boxes by place, size and class, and how what the pipeline drew is spread."""
    from matplotlib.ticker import MaxNLocator

    from torchloupe.render.ink import Plain

    boxes, shown = summary.get("boxes") or {}, _panels(summary.get("draws", {}))
    rows = 2 * 2 + 2 * bool(boxes) + -(-len(shown) // ACROSS)
    figure = Plain(figsize=(11, 7.5 * rows / 4), layout="constrained")
    grid = figure.add_gridspec(rows, ACROSS)
    half = ACROSS // 2
    (a, b), (c, d) = (
        [figure.add_subplot(grid[2 * r : 2 * r + 2, half * k : half * (k + 1)]) for k in (0, 1)] for r in (0, 1)
    )
    if boxes:
        _box_panels(
            [figure.add_subplot(grid[4:6, part]) for part in (slice(0, 1), slice(1, 2), slice(2, ACROSS))],
            boxes,
            summary,
        )
    for k, (title, draw) in enumerate(shown):
        panel = figure.add_subplot(grid[rows - -(-len(shown) // ACROSS) + k // ACROSS, k % ACROSS])
        draw(panel)
        panel.set_title(title, fontsize=8)
        panel.tick_params(labelsize=7)
    for axis in (b.yaxis, c.xaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    a.scatter(sizes[:, 0], sizes[:, 1], s=18, alpha=0.5)
    most = (sizes.max(0) if len(sizes) else np.ones(2)) * 1.08
    a.set(xlabel="width", ylabel="height", title="sizes before the pipeline", xlim=(0, most[0]), ylim=(0, most[1]))
    b.hist(sizes[:, 0] / sizes[:, 1], bins=min(30, max(5, len(sizes))))
    b.set(xlabel="width / height", ylabel="pictures", title="aspect ratios")
    classes = list(summary["classes"].items())[:30]
    total, intervals = summary["samples"], summary.get("intervals", {})
    ranges = [intervals.get(label, (count / max(total, 1),) * 2) for label, count in classes]
    reach = np.array([[max(count - low * total, 0), max(high * total - count, 0)]
                      for (_, count), (low, high) in zip(classes, ranges, strict=True)]).reshape(-1, 2)  # fmt: skip
    c.barh(range(len(classes)), [count for _, count in classes][::-1], height=0.7, xerr=reach[::-1].T if classes else None,
           error_kw={"ecolor": "0.35", "elinewidth": 1})  # fmt: skip
    c.set_yticks(range(len(classes)), [_shortened(label) for label, _ in classes][::-1])
    if len(classes) < 4:
        c.set_ylim(len(classes) - 4.5, len(classes) - 0.5)
    if not classes:
        c.text(0.5, 0.5, "no classes", ha="center", va="center", transform=c.transAxes, color="0.5")
        c.set_yticks([])
    more = len(summary["classes"]) - len(classes)
    c.set(xlabel="pictures", title="classes" + (f" (the first 30, {more} more)" if more else ""))
    c.tick_params(axis="y", labelsize=8)
    for k, (key, shift) in enumerate((("", -0.18), ("transformed ", 0.18))):
        d.bar(np.arange(3) + shift, summary[f"{key}mean"], 0.34, yerr=summary[f"{key}std"], capsize=4,
              color=["tab:red", "tab:green", "tab:blue"], alpha=0.85 - 0.4 * k, label=key.strip() or "original")  # fmt: skip
    d.set_xticks(range(3), ["R", "G", "B"])
    d.set(ylim=(0, 255), title="mean ± std: original (dark), transformed (pale)")
    figure.suptitle(f"{name}: {summary['samples']} samples")
    return figure


def _panels(draws: Mapping[str, Any]) -> list[tuple[str, Callable[[Any], None]]]:
    """(title, what draws it) of each step: how what it drew is spread, and how often it was left out or changed nothing."""
    found: list[tuple[str, Callable[[Any], None]]] = []
    idle = {
        name: {key: one[key] for key in ("left out", "unchanged") if key in one}
        for name, one in draws.items()
        if name != "boxes"
    }
    if any(idle.values()):
        found.append(("share of the draws", partial(_idle, {name: held for name, held in idle.items() if held})))
    for name, one in draws.items():
        for key, values in one.get("drawn", {}).items() if name != "boxes" else ():
            if values["min"] < values["max"] and "counts" in values:
                found.append((f"{_shortened(name)}: {_shortened(key)}", partial(_spread, values)))
    return found[:MOST_PANELS]


def _idle(shares: Mapping[str, Mapping[str, float]], panel: Any) -> None:
    bars = [(_shortened(name), key, value) for name, held in list(shares.items())[:6] for key, value in held.items()][
        ::-1
    ]
    panel.barh(
        range(len(bars)),
        [value for *_, value in bars],
        color=["0.55" if key == "left out" else "0.75" for _, key, _ in bars],
    )
    panel.set_yticks([])
    for k, (name, key, _) in enumerate(bars):
        panel.text(0.02, k, f"{name} {key}", va="center", fontsize=6.5)
    panel.set_xlim(0, 1)


def _spread(values: Mapping[str, Any], panel: Any) -> None:
    edges = np.linspace(values["min"], values["max"], len(values["counts"]) + 1)
    panel.stairs(values["counts"], edges, fill=True, alpha=0.7)
    panel.axvline(values["median"], color="0.2", linewidth=1)
    panel.set_ylim(bottom=0)


def _box_panels(panels: Sequence[Any], boxes: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Where the middles of boxes lie, how large they are, and how many of each class there are, before and after the pipeline."""
    places, sizes, classes = panels
    held = np.asarray(boxes["places"])
    places.imshow(held, cmap="viridis", vmin=0)
    for (row, column), count in np.ndenumerate(held):
        ink = "white" if count < 0.6 * held.max() else "black"
        places.text(column, row, str(count), ha="center", va="center", fontsize=7, color=ink)
    places.set(title="middles of boxes", xticks=[], yticks=[])
    if "counts" in boxes:
        sizes.stairs(boxes["counts"], 100 * np.asarray(boxes["edges"]), fill=True, alpha=0.7)
        sizes.set(xscale="log", xlabel="% of the picture", title="sizes of boxes")
        sizes.set_ylim(bottom=0)
    draws = summary.get("draws", {}).get("boxes", {})
    before = draws.get("classes before") or summary.get("classes of boxes", {})
    names = sorted(before, key=lambda one: (-before[one], one))[:12]
    after = draws.get("classes after")
    for k, (counts, label) in enumerate(((before, "before"), (after, "after the pipeline"))):
        if counts is not None:
            shift = (0.2 - 0.4 * k) if after is not None else 0.0
            where = np.arange(len(names))[::-1] + shift
            classes.barh(where, [counts.get(one, 0) for one in names], 0.38 if after is not None else 0.7, alpha=0.85 - 0.4 * k, color="C0",
                         label=label)  # fmt: skip
    classes.set_yticks(range(len(names)), [_shortened(one) for one in names][::-1], fontsize=8)
    dropped = draws.get("samples with a box dropped")
    told = "" if dropped is None else f"; one or more gone in {dropped:.0%} of the draws"
    classes.set(title=f"boxes by class{told}", xlabel="boxes")
    if after is not None:
        classes.legend(fontsize=7)


def _shortened(label: str) -> str:
    return label if len(label) <= 24 else label[:22] + "..."


def redraw(paths: Sequence[Path], save: str | None, _wish: Wish) -> list[Path]:
    """The plots of stored censuses again; `loupe draw` calls this."""
    from torchloupe.render.curves import save_figure

    written = []
    for path in paths:
        found = store.load(path)
        place = path.with_suffix(".png") if save is None else Path(save)
        place = place if place.suffix else place / f"{path.stem}.png"
        name = str(found.record.get("name") or path.parent.name)
        save_figure(plots(name, found.arrays["size"], found.record["summary"]), place)
        written.append(place)
    return written


def page(name: str, files: Sequence[tuple[Path, str]], lines: Sequence[str], folder: Path, interval: float) -> Path:
    """index.html in the folder: the pictures that lie there, one after the other or all at once, and the table."""
    figures = "\n".join(
        f'<figure><img loading="lazy" src="{address(file.relative_to(folder))}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for file, caption in files
    )
    places = {"title": html.escape(name), "table": html.escape("\n".join(lines)), "interval": repr(float(interval))}
    template = (Path(__file__).parent / "browse.html").read_text(encoding="utf-8")
    text = filled(template, {**places, "figures": figures})
    goal = folder / "index.html"
    with store.aside(goal) as (draft,):
        draft.write_text(text, encoding="utf-8")
    return goal


class Window:
    """A window that shows one picture after the other, each for a while."""

    def __init__(self, title: str, interval: float) -> None:
        import matplotlib.pyplot as plt

        from torchloupe.render.ink import Plain

        self.plt, self.interval = plt, interval
        self.figure = plt.figure(num=title, figsize=(11, 7.5), FigureClass=Plain)

    def show(self, image: Image.Image, caption: str) -> bool:
        """Shows a picture for the interval; False once the window has been closed."""
        if not self.plt.fignum_exists(self.figure.number):
            return False
        self.figure.clear()
        axes = self.figure.add_axes((0, 0, 1, 0.94))
        axes.imshow(np.asarray(image))
        axes.set_axis_off()
        self.figure.suptitle(caption, fontsize=10)
        self.plt.pause(max(self.interval, 0.001))
        return bool(self.plt.fignum_exists(self.figure.number))
