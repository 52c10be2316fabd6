"""Feature maps and their differences as labelled grids. Reads raw numbers; never runs a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from cyclopts import Parameter

from torchloupe import store
from torchloupe.errors import BadInput, nearest
from torchloupe.kinds.features import drawable
from torchloupe.render import colour
from torchloupe.render.kinds import Wish
from torchloupe.render.marks import Mark, framed_boxes, listed
from torchloupe.render.plots import SMALL, Bar, Cell, Group, grid, raster, wrap
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRAMES = 10
SHOWN = 192
LABEL = 1.0


def _small(_kind: Any, words: Sequence[Any]) -> str:
    """None is written None in Python and none here."""
    word = str(words[0].value).lower()
    if word not in get_args(Known):
        raise BadInput(f"--channel-reduction {word!r}: expected one of {', '.join(get_args(Known))}")
    return word


Known = Literal["pixel_wise_max", "squeeze_mean", "select_max", "pca", "none"]
Reduction = Annotated[Known, Parameter(converter=_small, negative="")]


@dataclass(frozen=True)
class Look:
    """How feature maps are drawn.

    Attributes:
        channel_reduction: One map out of all channels: their maximum or mean at each position, or the one channel with the
            largest sum; pca, three principal components as colours, of all pictures in one fit; none keeps them, for --topk.
        topk: With no reduction: so many channels, those with the largest sum; -1 draws 1 or 3 channels as a picture.
        arrangement: Rows and columns of the topk channels.
        use_norm: Standardise each channel over batch and space before anything else.
        overlaid: Lay the maps over the picture.
        resize_shape: Height and width that maps (and the picture under them) are drawn at.
        alpha: How much an overlaid map covers the picture, from 0 to 1.
        pca: How components become colours: plain, by percentiles; dinov2 and dinov3, as those papers' figures do.
        foreground: Of pca, the patches that are coloured: first, where the first component is above 0; border, likewise, its sign
            such that most of the border is not; none, all. auto: none, first for dinov2, border for dinov3.
        patch: X,Y in pixels of the picture as it is drawn, the first one, or PICTURE:X,Y: draw how like every patch, of all
            pictures, is to the one there.
        centred: Of --patch: subtract the mean over all patches first, which sharpens.
    """

    channel_reduction: Reduction = "none"
    topk: int = 20
    arrangement: Annotated[tuple[int, int], Parameter(negative="")] = (4, 5)
    use_norm: Annotated[bool, Parameter(negative="")] = False
    overlaid: Annotated[bool, Parameter(negative="")] = False
    resize_shape: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    alpha: float = 0.5
    pca: Literal["plain", "dinov2", "dinov3"] = "plain"
    foreground: Literal["auto", "none", "first", "border"] = "auto"
    patch: str | None = None
    centred: Annotated[bool, Parameter(negative="")] = False

    def __post_init__(self) -> None:
        known = get_args(Known)
        if self.channel_reduction not in known:
            raise BadInput(
                f"channel reduction {self.channel_reduction!r}: expected one of {', '.join(known)}."
                + nearest(self.channel_reduction, known)
            )
        rows, columns = self.arrangement
        if self.topk == 0 or self.topk < -1:
            raise BadInput(f"topk {self.topk}: expected 1 or more, or -1 to draw 1 or 3 channels as a picture")
        if rows < 1 or columns < 1 or (not self.reduces and rows * columns < self.topk):
            raise BadInput(
                f"arrangement {rows} {columns} has {max(rows, 0) * max(columns, 0)} places for topk {self.topk} channels; give "
                f"--arrangement {max(rows, 1)} {math.ceil(max(self.topk, 1) / max(rows, 1))}, or a smaller --topk"
            )
        if not 0 <= self.alpha <= 1:
            raise BadInput(f"alpha {self.alpha}: expected a number from 0 (picture only) to 1 (map only)")
        if self.channel_reduction != "pca" and (self.pca != "plain" or self.foreground != "auto"):
            raise BadInput("--pca and --foreground have a meaning with --channel-reduction pca alone")
        if self.patch is None and self.centred:
            raise BadInput("--centred has a meaning with --patch alone")
        if self.patch is not None and self.channel_reduction != "none":
            raise BadInput(f"--patch compares all channels; leave --channel-reduction {self.channel_reduction} out")
        if self.use_norm and self.together:
            raise BadInput("--use-norm has no meaning with pca and --patch, which see the channels as they are")
        self.place()
        if self.resize_shape is not None and not all(1 <= side <= 20_000 for side in self.resize_shape):
            raise BadInput(f"resize shape {self.resize_shape}: expected a height and a width in pixels")

    @property
    def reduces(self) -> bool:
        return self.channel_reduction != "none"

    @property
    def together(self) -> bool:
        """Whether all pictures are looked at in one."""
        return self.channel_reduction == "pca" or self.patch is not None

    def place(self) -> tuple[str, float, float] | None:
        """The picture ('' for the first) and the pixel of --patch. Errors: BadInput for what is none."""
        if self.patch is None:
            return None
        name, _, pixel = self.patch.rpartition(":")
        try:
            x, y = (float(part) for part in pixel.split(","))
        except ValueError:
            x = y = math.nan
        if not (math.isfinite(x) and math.isfinite(y)):
            raise BadInput(f"--patch {self.patch!r}: expected X,Y in pixels, such as 120,80, or PICTURE:X,Y")
        return name, x, y


@dataclass(frozen=True)
class Change:
    """How stored feature maps and differences are drawn otherwise; what is not given stays as it was.

    Attributes:
        channel_reduction: Of feature maps: pixel_wise_max, squeeze_mean, select_max, pca, or none for the topk channels.
        topk: Of feature maps with no reduction: so many channels; -1 draws 1 or 3 as a picture.
        arrangement: Rows and columns of the topk channels.
        use_norm: Standardise each channel of feature maps first.
        overlaid: Lay feature maps over the picture.
        resize_shape: Height and width of feature maps.
        pca: Of --channel-reduction pca: plain, dinov2 or dinov3.
        foreground: Of pca: auto, none, first or border.
        patch: X,Y or PICTURE:X,Y: likeness of all patches to the one there.
        centred: Of --patch: subtract the mean first.
        pred_score_thr: The least score of a detector's boxes over feature maps.
    """

    channel_reduction: Reduction | None = None
    topk: int | None = None
    arrangement: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    use_norm: bool | None = None
    overlaid: bool | None = None
    resize_shape: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    pca: Literal["plain", "dinov2", "dinov3"] | None = None
    foreground: Literal["auto", "none", "first", "border"] | None = None
    patch: str | None = None
    centred: bool | None = None
    pred_score_thr: float | None = None

    def of(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """The record of a result as if it had been drawn so."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        threshold = {"pred_score_thr": given.pop("pred_score_thr")} if "pred_score_thr" in given else {}
        look = {**record.get("look", {}), **given}
        # what belongs to another way of drawing than the one that is asked for now goes with it
        if "patch" in given and "channel_reduction" not in given:
            look["channel_reduction"] = "none"
        if "channel_reduction" in given:
            look |= {} if "patch" in given else {"patch": None, "centred": False}
        if look.get("channel_reduction") != "pca":
            look |= {name: value for name, value in (("pca", "plain"), ("foreground", "auto")) if name not in given}
        return {**record, **threshold, "look": look}


@dataclass(frozen=True)
class Shown:
    """What is drawn of one point: maps (m, t, h, w), one label each; or, where picture, one picture of 1 or 3 channels."""

    maps: np.ndarray
    labels: tuple[str, ...]
    picture: bool = False


def shown(value: np.ndarray, look: Look, label: str = "") -> Shown:
    """The maps of one point that a look asks for.

    value (c, t, h, w). The order: standardise, reduce or choose, and only then resize (when drawn). Channels are chosen by their sums
    before they are standardised: afterwards every sum is zero but for rounding.
    Errors: BadInput for topk -1 with other than 1 or 3 channels, for a map without extent, and for values that are not finite.
    Differs: MMRazor resizes all channels before it reduces them; the result is the same for the mean. With use_norm it ranks
    channels after standardising, by rounding noise.
    """
    from torchloupe.methods.features import REDUCTIONS, from_array, standardise, strongest

    drawable(value, label)
    raw = from_array(value)
    act = standardise(raw) if look.use_norm else raw
    if look.channel_reduction == "select_max":
        _, order = strongest(raw, 1)
        return Shown(act[0, order[0]].numpy(), (f"channel {int(order)}",))
    if look.reduces:
        return Shown(REDUCTIONS[look.channel_reduction](act)[0].numpy(), ("",))
    if look.topk == -1:
        if act.shape[1] not in (1, 3):
            raise BadInput(
                f"point {label!r} has {act.shape[1]} channels, and topk -1 draws 1 or 3 channels as a picture; choose a "
                "--channel-reduction, or --topk 1 or more"
            )
        return Shown(act[0].numpy(), ("",), picture=True)
    _, order = strongest(raw, look.topk)
    if label.startswith("attn:"):
        heads = sorted(order[0].tolist())
        return Shown(act[0, heads].numpy(), tuple(f"head {c}" for c in heads))
    return Shown(act[0, order[0]].numpy(), tuple(f"channel {c}" for c in order[0].tolist()))


@dataclass(frozen=True)
class Scale:
    """The values of the first and the last colour."""

    low: float
    high: float

    @classmethod
    def over(cls, *maps: np.ndarray, zero: bool = False) -> Scale:
        """From the least to the greatest of all values; from 0 where zero."""
        low = 0.0 if zero else min(float(one.min()) for one in maps)
        return cls(low, max(float(one.max()) for one in maps))

    def unit(self, values: np.ndarray) -> np.ndarray:
        """Values as 0..1; all 0 where the scale has no extent."""
        extent = self.high - self.low
        return np.clip((values.astype(np.float64) - self.low) / extent, 0, 1) if extent > 0 else np.zeros(values.shape)

    @property
    def ticks(self) -> tuple[str, str]:
        return _short(self.low), _short(self.high)


def _short(value: float) -> str:
    """A number that fits beside a colour bar."""
    text = f"{value:.3g}"
    return text if len(text) <= 6 else f"{value:.2g}"


def tile(
    values: np.ndarray,
    scale: Scale,
    look: Look,
    style: Style,
    under: np.ndarray | None,
    marks: Sequence[Mark] = (),
) -> np.ndarray:
    """One map in colours, over the picture where there is one, with marks in it.

    values (h, w); under (h', w', 3) uint8 or None -> (h'', w'', 3) uint8. Without a picture a small map is enlarged in whole
    steps, so that its cells show.
    """
    table = colour.palette(style.cmap)
    if under is not None:
        size = look.resize_shape or under.shape[:2]
        base = (
            np.clip(np.round(colour.resize(under.transpose(2, 0, 1), size)), 0, 255).astype(np.uint8).transpose(1, 2, 0)
        )
        fine = scale.unit(colour.resize(values, size))
        mixed = colour.blend(base, fine, table, signed=False, opacity=look.alpha, fade=False)
        return framed_boxes(mixed, [replace(mark, label="") for mark in marks], under.shape[:2])
    unit = scale.unit(colour.resize(values, look.resize_shape) if look.resize_shape else values)
    step = max(1, math.ceil(SHOWN / max(unit.shape))) if look.resize_shape is None else 1
    unit = unit.repeat(step, 0).repeat(step, 1)
    return (colour.colours(unit, table, False) * 255).round().astype(np.uint8)


def as_picture(values: np.ndarray, look: Look) -> np.ndarray:
    """1 or 3 channels (c, h, w) as a picture, from the least to the greatest value."""
    values = colour.resize(values, look.resize_shape) if look.resize_shape else values
    grey = (Scale.over(values).unit(values) * 255).round().astype(np.uint8)
    return np.repeat(grey, 3 // len(grey), 0).transpose(1, 2, 0)


def framed(image: np.ndarray, ratio: float) -> np.ndarray:
    """A picture on white of the ratio height / width, so that pictures of other shapes stand beside it unstretched."""
    h, w = image.shape[:2]
    tall, wide = max(h, round(w * ratio)), max(w, round(h / ratio))
    page = np.full((tall, wide, 3), 255, np.uint8)
    top, left = (tall - h) // 2, (wide - w) // 2
    page[top : top + h, left : left + w] = image
    return page


@dataclass(frozen=True)
class Drawn:
    """A figure and the tiles in it, by name."""

    figure: Figure
    tiles: Mapping[str, np.ndarray]


def times(count: int) -> list[int]:
    """The frames that are shown of so many."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, FRAMES))})


def draw_point(
    value: np.ndarray,
    label: str,
    picture: np.ndarray | None,
    look: Look,
    style: Style,
    id: str,
    marks: Sequence[Mark] = (),
) -> Drawn:
    """The strongest channels of one point, in the arrangement; each by its own least and greatest value.

    value (c, t, h, w); of a sequence the mean over its frames is shown.
    """
    what = shown(value, look, label)
    frames = value.shape[1]
    under = picture[len(picture) // 2] if look.overlaid and picture is not None else None
    flat = what.maps.mean(1)
    if what.picture:
        images = [as_picture(flat, look)]
    else:
        images = [tile(one, Scale.over(one), look, style, under, marks) for one in flat]
    columns = min(look.arrangement[1], len(images))
    rows = [
        ("", [Cell(images[i], what.labels[i]) if i < len(images) else None for i in range(start, start + columns)])
        for start in range(0, len(images), columns)
    ]
    said = f"{id}: {label}, {value.shape[0]} channels of {value.shape[2]} x {value.shape[3]}"
    said += f", mean over {frames} frames" if frames > 1 else ""
    bar = Bar(colour.palette(style.cmap), ("min", "max"))
    bars, note = ((), "") if what.picture else ((bar,), "colours: each channel from its least to its greatest value")
    note += "; standardised, chosen by their sums before that" if note and look.use_norm else ""
    figure = grid([Group(said, rows)], [""] * columns, bars, note)
    return Drawn(figure, {name or "picture": image for name, image in zip(what.labels, images, strict=True)})


def draw_reduced(
    values: Mapping[str, np.ndarray],
    picture: np.ndarray | None,
    look: Look,
    style: Style,
    id: str,
    loose: Sequence[str] = (),
    marks: Sequence[Mark] = (),
) -> Drawn:
    """One map a point, beside the picture; of a sequence one row a point, with its frames as columns.

    loose: points that are not laid over the picture. marks: boxes in the picture and over it.
    """
    maps = {label: shown(value, look, label) for label, value in values.items()}
    longest = max(what.maps.shape[1] for what in maps.values())
    at = times(longest)
    tiles: dict[str, np.ndarray] = {}
    cells: dict[str, list[Cell]] = {}
    for label, what in maps.items():
        frames = what.maps[0]
        scale = Scale.over(frames)
        for t in at[: len(frames)] if len(frames) < longest else at:
            over = look.overlaid and picture is not None and label not in loose
            under = picture[min(t, len(picture) - 1)] if over and picture is not None else None
            image = tile(frames[min(t, len(frames) - 1)], scale, look, style, under, marks)
            tiles[f"{label}-{t}" if longest > 1 else label] = image
            cells.setdefault(label, []).append(Cell(image, what.labels[0]))
    ratio = _ratio(picture, tiles)
    seen = None if picture is None else framed_boxes(picture[0], marks, picture.shape[1:3])
    lead = None if seen is None else Cell(framed(seen, ratio))
    cells = {label: [Cell(framed(cell.image, ratio), cell.label) for cell in row] for label, row in cells.items()}
    reduced = look.channel_reduction + (", standardised" if look.use_norm else "")
    bar = Bar(colour.palette(style.cmap), ("min", "max"))
    note = "colours: each point from its least to its greatest value"
    if longest > 1:
        groups = [Group(f"{id}: {reduced}", list(cells.items()))]
        figure = grid(groups, [f"frame {t}" for t in at], (bar,), note)
    else:
        most = 4
        labels = list(cells)
        columns = min(most, len(labels))
        if len(labels) <= most:
            groups = [Group(f"{id}: {reduced}", [("", [cells[label][0] for label in labels])], lead)]
            figure = grid(groups, labels, (bar,), note)
        else:
            groups = [
                Group("", [("", [_titled(cells[label][0], label) for label in labels[start : start + columns]])])
                for start in range(0, len(labels), columns)
            ]
            groups[0] = replace(groups[0], heading=f"{id}: {reduced}", lead=lead)
            figure = grid(groups, [""] * columns, (bar,), note)
    return Drawn(figure, tiles)


def _titled(cell: Cell, label: str) -> Cell:
    whole = f"{label}, {cell.label}" if cell.label else label
    return Cell(cell.image, wrap(whole, LABEL, SMALL, 1)[0])


def _ratio(picture: np.ndarray | None, tiles: Mapping[str, np.ndarray]) -> float:
    h, w = (next(iter(tiles.values())) if picture is None else picture[0]).shape[:2]
    return h / w


@dataclass(frozen=True)
class Pair:
    """One point of two networks: raw features (c, t, h, w) of each, and how they are named."""

    label: str
    a: np.ndarray
    b: np.ndarray


def draw_difference(
    pairs: Sequence[Pair],
    names: tuple[str, str],
    how: str,
    picture: np.ndarray | None,
    look: Look,
    style: Style,
    id: str,
    other: np.ndarray | None = None,
    scale: str = "figure",
) -> tuple[Drawn, dict[str, Any]]:
    """Rows of points: the first network, the second, their difference; and figures about each difference.

    The two networks share one scale at each point; the differences share one, from 0, over all points, so that they can be
    compared, or with scale "layer" have one each, so that weak ones can be seen. Without a reduction the strongest channels of the difference are drawn, and no networks beside them.
    picture: what was seen, or by the first side where other is what the second saw.
    """
    from torchloupe.methods.difference import difference, matched
    from torchloupe.methods.features import REDUCTIONS, from_array, squeeze_mean, strongest

    measure = difference(how)
    reduce = REDUCTIONS.get(look.channel_reduction)
    sides: dict[str, tuple[np.ndarray, np.ndarray, Shown]] = {}
    figures: dict[str, Any] = {}
    titles: dict[str, str] = {}
    for pair in pairs:
        a, b, notes = matched(from_array(pair.a), from_array(pair.b), reduce)
        raw = measure(a, b)[0].numpy()
        figures[pair.label] = {"mean": float(raw.mean()), "max": float(raw.max()), "notes": list(notes)}
        one_channel = raw.shape[0] == 1
        own = replace(look, channel_reduction="squeeze_mean") if one_channel else look
        part = shown(raw, own, pair.label)
        shorten = reduce or squeeze_mean
        if look.channel_reduction == "select_max" and not one_channel:
            # both sides show the channel that differs most, not each its own
            best = int(strongest(from_array(raw), 1)[1])
            a, b, shorten = a[:, best : best + 1], b[:, best : best + 1], squeeze_mean
        sides[pair.label] = (shorten(a)[0, 0].numpy(), shorten(b)[0, 0].numpy(), part)
        titles[pair.label] = f"{pair.label} ({'; '.join(notes)})" if notes else pair.label
    whole = Scale.over(*(part.maps for _, _, part in sides.values()), zero=not look.use_norm)
    scales = {
        label: Scale.over(part.maps, zero=not look.use_norm) if scale == "layer" else whole
        for label, (_, _, part) in sides.items()
    }
    unders = [
        one[len(one) // 2] if look.overlaid and one is not None else None
        for one in (picture, picture if other is None else other)
    ]
    under = unders[0]
    tiles: dict[str, np.ndarray] = {}
    groups = []
    few = all(len(part.maps) == 1 for _, _, part in sides.values())
    columns = 3 if few else min(look.arrangement[1], max(len(part.maps) for _, _, part in sides.values()))
    columns = max(columns, 2) if other is not None else columns
    ratio = 0.0
    for label, (first, second, part) in sides.items():
        images = {
            f"{label}-{name}": tile(each.mean(0), scales[label], look, style, under)
            for name, each in zip(part.labels, part.maps, strict=True)
        }
        ranged = f", difference {' to '.join(scales[label].ticks)}" if scale == "layer" else ""
        if few:
            both = Scale.over(first.mean(0), second.mean(0))
            ranged += f", both sides {' to '.join(both.ticks)}"
            nets = [
                Cell(tile(side.mean(0), both, look, style, below))
                for side, below in zip((first, second), unders, strict=True)
            ]
            cells = [*nets, Cell(next(iter(images.values())), part.labels[0])]
        else:
            cells = [Cell(image, name) for image, name in zip(images.values(), part.labels, strict=True)]
        tiles |= {name.removesuffix("-"): image for name, image in images.items()}
        ratio = ratio or cells[0].image.shape[0] / cells[0].image.shape[1]
        cells = [Cell(framed(cell.image, ratio), cell.label) for cell in cells]
        rows = [
            ("", [*cells[i : i + columns], *[None] * (columns - len(cells[i : i + columns]))])
            for i in range(0, len(cells), columns)
        ]
        groups.append(Group(f"{titles[label]}: mean difference {figures[label]['mean']:.3g}{ranged}", rows))
    heads = [*names, f"{how} difference"] if few else [""] * columns
    seen = [Cell(framed(one[0], ratio), "") for one in (picture, other) if one is not None]
    if len(seen) == 2:
        named = seen if few else [replace(cell, label=name) for cell, name in zip(seen, names, strict=True)]
        groups.insert(0, Group(f"{how} difference" if not few else "", [("", [*named, *[None] * (columns - 2)])]))
    else:
        lead = seen[0] if seen else None
        before = f"{id}: " if few else f"{id}, {how} difference: "
        groups[0] = replace(groups[0], heading=before + groups[0].heading, lead=lead)
    bar = Bar(colour.palette(style.cmap), ("min", "max") if scale == "layer" else whole.ticks)
    note = (
        "colours: one scale for the difference at each point"
        if scale == "layer"
        else "colours: one scale for all differences"
    )
    note += "; both sides of a row from their least to their greatest value" if few else ""
    return Drawn(grid(groups, heads, (bar,), note), tiles), figures


def draw_cka(
    values: np.ndarray, rows: Sequence[str], columns: Sequence[str], names: tuple[str, str], samples: int
) -> Figure:
    """A matrix of CKA values, 0 to 1, with its numbers where they fit; NaN is grey."""
    from torchloupe.render.ink import Plain

    cell = 0.5 if max(values.shape) <= 14 else 7.0 / max(values.shape)
    figure = Plain((cell * len(columns) + 2.6, cell * len(rows) + 1.9), layout="constrained")
    axes = figure.add_subplot()
    import matplotlib

    table = matplotlib.colormaps["viridis"].with_extremes(bad="0.8")
    image = axes.imshow(np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=table, aspect="equal")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xlabel(names[1], fontsize=8)
    axes.set_ylabel(names[0], fontsize=8)
    axes.set_title(f"Linear CKA, {samples} pictures", fontsize=9)
    if cell >= 0.35:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "black" if value > 0.6 else "white"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=ink)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    return figure


def write(figure: Figure, path: Path, style: Style) -> Path:
    """A figure as a picture file of the kind that its ending says, whole or not at all."""
    from torchloupe.render.plots import vector

    kind = path.suffix[1:].lower()
    with store.aside(path) as (draft,):
        if kind in ("pdf", "svg"):
            draft.write_bytes(vector(figure, style.dpi, kind, {"Title": path.stem}))
        else:
            raster(figure, style.dpi).save(draft, {"jpg": "jpeg"}.get(kind, kind))
    return path


def write_tiles(tiles: Mapping[str, np.ndarray], folder: Path, stem: str) -> list[Path]:
    """Every tile as a png of its own."""
    from PIL import Image

    paths = []
    for name, image in tiles.items():
        path = folder / f"{stem}-{store.safe_name(name)}.png"
        with store.aside(path) as (draft,):
            Image.fromarray(image).save(draft)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Together:
    """What all pictures show of one point: of each a film (t, h, w, 3) of colours in [0, 1], or (t, h, w) in [-1, 1]; said: how
    they were made."""

    frames: Mapping[str, np.ndarray]
    said: str


def together(found: Mapping[str, store.Artifact], look: Look, point: str) -> Together:
    """One point of all pictures, by their names: colours of principal components of all, or likeness to one patch.

    Errors: BadInput for a picture or a place that there is not, and features that cannot be compared.
    """
    from torchloupe.methods.features import from_array
    from torchloupe.methods.patches import patch_likeness, pca_colours

    acts = {stem: from_array(one.arrays[f"value/{point}"])[0] for stem, one in found.items()}
    for stem, act in acts.items():
        drawable(act.numpy(), point)
        if point in found[stem].record.get("loose", ()):
            raise BadInput(
                f"point {point!r}: its rows and columns are not the picture's, so it has no patches; name another"
            )
    place = look.place()
    try:
        if place is None:
            how = None if look.foreground == "auto" else look.foreground
            made = pca_colours(list(acts.values()), how, look.pca)
            shares = ", ".join(f"{share:.0%}" for share in made.explained)
            frames = {stem: one.permute(1, 2, 3, 0).numpy() for stem, one in zip(acts, made.colours, strict=True)}
            fit = (
                "each picture alone"
                if look.pca == "dinov3"
                else f"one fit over {len(acts)} picture{'s' * (len(acts) > 1)}"
            )
            way = "" if look.pca == "plain" else f" ({look.pca})"
            return Together(frames, f"{point}: principal components{way}, {fit}; {shares} of the variance")
        stem, spot = _spot(found, place)
        maps = patch_likeness(list(acts.values()), spot, of=list(acts).index(stem), centred=look.centred)
    except BadInput as error:
        raise BadInput(f"point {point!r}: {error}") from None
    name = found[stem].record.get("id", stem)
    said = f"{point}: likeness to {name} at {place[1]:g}, {place[2]:g}" + (", mean subtracted" if look.centred else "")
    return Together({one: values[0].numpy() for one, values in zip(acts, maps, strict=True)}, said)


def _spot(found: Mapping[str, store.Artifact], place: tuple[str, float, float]) -> tuple[str, tuple[float, float]]:
    """The picture that a place names, and the place as shares of its width and height."""
    name, x, y = place
    names = {str(one.record.get("id", stem)): stem for stem, one in found.items()}
    if name and name not in names and name not in found:
        raise BadInput(f"--patch: no picture {name!r}.{nearest(name, names)} There are: {', '.join(list(names)[:10])}")
    stem = next(iter(found)) if not name else names.get(name, name)
    picture = found[stem].arrays.get("picture")
    if picture is None:
        raise BadInput("--patch: nothing is known of the picture's size")
    h, w = picture.shape[1:3]
    if not (0 <= x <= w and 0 <= y <= h):
        raise BadInput(
            f"--patch {x:g},{y:g}: outside of {names and found[stem].record.get('id', stem)}, which is {w} x {h} pixels as drawn"
        )
    return stem, (x / w, y / h)


def draw_together(
    found: Mapping[str, store.Artifact], points: Sequence[str], look: Look, style: Style
) -> tuple[Figure, dict[str, dict[str, np.ndarray]]]:
    """Rows of pictures, columns of points, on one scale; of a film its frames as columns, and points as rows. Also every tile, by
    picture and name."""
    made = {point: together(found, look, point) for point in points}
    place = look.place()
    signed = place is not None
    marked = _spot(found, place) if place is not None else None
    longest = max(len(frames) for one in made.values() for frames in one.frames.values())
    at = times(longest)
    groups: list[Group] = []
    tiles: dict[str, dict[str, np.ndarray]] = {}
    ratio = 0.0
    for stem, artifact in found.items():
        picture = artifact.arrays.get("picture")
        cells: dict[str, list[Cell]] = {}
        for point in points:
            frames = made[point].frames[stem]
            for t in at[: len(frames)] if len(frames) < longest else at:
                frame = frames[min(t, len(frames) - 1)]
                under = picture[min(t, len(picture) - 1)] if look.overlaid and picture is not None else None
                image = _tinted(frame, under, look, style, signed)
                tiles.setdefault(stem, {})[f"{point}-{t}" if longest > 1 else point] = image
                cells.setdefault(point, []).append(Cell(image))
        lead = None
        if picture is not None:
            first = picture[0] if marked is None or marked[0] != stem else _crossed(picture[0], marked[1])
            ratio = ratio or first.shape[0] / first.shape[1]
            lead = Cell(framed(first, ratio))
        ratio = ratio or cells[points[0]][0].image.shape[0] / cells[points[0]][0].image.shape[1]
        placed = {point: [Cell(framed(cell.image, ratio)) for cell in row] for point, row in cells.items()}
        id = str(artifact.record.get("id", stem))
        rows = list(placed.items()) if longest > 1 else [("", [row[0] for row in placed.values()])]
        groups.append(Group(id, rows, lead))
    titles = [f"frame {t}" for t in at] if longest > 1 else list(points)
    bars = (Bar(colour.palette(style.cmap, True), ("−1", "0", "1")),) if signed else ()
    return grid(groups, titles, bars, "; ".join(one.said for one in made.values())), tiles


def _tinted(frame: np.ndarray, under: np.ndarray | None, look: Look, style: Style, signed: bool) -> np.ndarray:
    """A frame of colours (h, w, 3), or of likeness (h, w) where signed, alone with its patches to be seen or over the picture."""
    if under is None:
        small = colour.colours(frame, colour.palette(style.cmap, True), True) if signed else frame
        step = max(1, math.ceil(SHOWN / max(small.shape[:2])))
        return (small.repeat(step, 0).repeat(step, 1) * 255).round().astype(np.uint8)
    size = look.resize_shape or under.shape[:2]
    base = np.clip(colour.resize(under.transpose(2, 0, 1), size), 0, 255).transpose(1, 2, 0)
    if signed:
        fine = colour.colours(colour.resize(frame, size), colour.palette(style.cmap, True), True)
    else:
        fine = colour.resize(frame.transpose(2, 0, 1), size).transpose(1, 2, 0)
    return ((1 - look.alpha) * base + look.alpha * 255 * fine).round().clip(0, 255).astype(np.uint8)


def _crossed(image: np.ndarray, place: tuple[float, float]) -> np.ndarray:
    """A picture with a cross at a place, white on black."""
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(image)
    x, y = place[0] * drawn.width, place[1] * drawn.height
    arm = max(4, min(drawn.size) // 16)
    pen = ImageDraw.Draw(drawn)
    for ink, wide in (((0, 0, 0), arm // 2 + 2), ((255, 255, 255), arm // 4 + 1)):
        pen.line((x - arm, y, x + arm, y), ink, wide)
        pen.line((x, y - arm, x, y + arm), ink, wide)
    return np.asarray(drawn)


def pictures_together(
    found: Mapping[str, store.Artifact],
    folder: Path,
    look: Look,
    style: Style,
    points: Sequence[str] = (),
    tiles: bool = False,
) -> list[Path]:
    """Draws the feature maps of all pictures in one figure, named by what it shows, or by the picture where there is one alone."""
    wrong = next((stem for stem, one in found.items() if one.record.get("kind") != "feature maps"), None)
    if wrong is not None:
        raise BadInput(f"{wrong}: holds no feature maps, of which pca and --patch are")
    first = next(iter(found))
    labels = chosen(found[first].record["points"], points, first)
    odd = next((stem for stem, one in found.items() if not set(labels) <= set(one.record["points"])), None)
    if odd is not None:
        raise BadInput(f"{odd}: has not the points {', '.join(labels)} of {first}")
    figure, cells = draw_together(found, labels, look, style)
    what = "pca" if look.patch is None else "patch"
    stem = f"{first}-{what}" if len(found) == 1 else what
    paths = [write(figure, folder / f"{stem}.{style.format}", style)]
    for one in found if tiles else ():
        paths += write_tiles(cells[one], folder, f"{one}-{what}")
    return paths


def chosen(labels: Sequence[str], wanted: Sequence[str], who: str) -> list[str]:
    """The labels that names or globs ask for; all where nothing is asked. Errors: BadInput that offers the nearest."""
    if not wanted:
        return list(labels)
    hits = [label for label in labels if any(fnmatchcase(label, word) or label == word for word in wanted)]
    for word in wanted:
        if not any(fnmatchcase(label, word) or label == word for label in labels):
            raise BadInput(f"{who}: no point {word!r} in it.{nearest(word, labels)} It has: {', '.join(labels)}.")
    return hits


def pictures_of(
    artifact: store.Artifact,
    folder: Path,
    stem: str,
    look: Look,
    style: Style,
    points: Sequence[str] = (),
    tiles: bool = False,
) -> list[Path]:
    """Draws one result of `loupe features` or `loupe diff` into a folder and gives the paths."""
    arrays, record = artifact
    kind = record.get("kind")
    if kind == "cka":
        figure = draw_cka(arrays["cka"], record["rows"], record["columns"], tuple(record["names"]), record["samples"])
        return [write(figure, folder / f"{stem}.{style.format}", style)]
    picture = arrays.get("picture")
    marks: list[Mark] = []
    if look.overlaid and "detections" in arrays:
        marks = listed(arrays["detections"], record["classes"], record["pred_score_thr"])
    id = str(record.get("id", stem))
    if kind == "difference":
        labels = chosen(record["points"], points, stem)
        pairs = [Pair(label, arrays[f"a/{label}"], arrays[f"b/{label}"]) for label in labels]
        drawn, _ = draw_difference(
            pairs, tuple(record["names"]), record["difference"], picture, look, style, id, arrays.get("other"),
            record.get("scale", "figure"),
        )  # fmt: skip
        paths = [write(drawn.figure, folder / f"{stem}.{style.format}", style)]
        return paths + (write_tiles(drawn.tiles, folder, stem) if tiles else [])
    labels = chosen(record["points"], points, stem)
    loose = record.get("loose", ())
    values = {label: arrays[f"value/{label}"] for label in labels}
    if look.reduces:
        jobs = [(stem, draw_reduced(values, picture, look, style, id, loose, marks))]
    else:
        jobs = [
            (
                f"{stem}-{store.safe_name(label)}",
                draw_point(value, label, None if label in loose else picture, look, style, id, marks),
            )
            for label, value in values.items()
        ]
    paths = []
    for name, drawn in jobs:
        paths.append(write(drawn.figure, folder / f"{name}.{style.format}", style))
        paths += write_tiles(drawn.tiles, folder, name) if tiles else []
    return paths


def redraw(results: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Stored features and differences drawn again: as they were, but in the style's colours, format and opacity.

    save: a folder; None = beside each result. Of the wish count its style, its layers (points) and its change.
    """
    paths: list[Path] = []
    shared: dict[str, store.Artifact] = {}
    for path in results:
        artifact = store.load(path)
        if wish.change is not None:
            artifact = artifact._replace(record=wish.change.of(artifact.record))
        look = look_of(artifact.record)
        if wish.style.opacity != Style.opacity:
            look = replace(look, alpha=wish.style.opacity)
        folder = Path(save) if save is not None else path.parent
        if look.together and artifact.record.get("kind") == "feature maps":
            shared[store.pair(path)[0].stem] = artifact
            continue
        paths += pictures_of(artifact, folder, store.pair(path)[0].stem, look, wish.style, wish.layers)
    if shared:
        paths += pictures_together(shared, folder, look, wish.style, wish.layers)
    return paths


def look_of(record: Mapping[str, Any]) -> Look:
    """The look that a record was drawn with."""
    held = dict(record.get("look", {}))
    for name in ("arrangement", "resize_shape"):
        if held.get(name) is not None:
            held[name] = tuple(held[name])
    return Look(**held)
