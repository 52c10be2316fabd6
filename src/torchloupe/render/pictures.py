"""Heatmaps over pictures: overlays, grids and their files. Reads raw maps; never runs a model."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import store
from torchloupe.errors import BadInput, legible, one_line
from torchloupe.kinds.maps import Heatmaps, Where
from torchloupe.render import colour, signals
from torchloupe.render.kinds import Wish
from torchloupe.render.marks import Mark, framed_boxes, inside_box, inside_region, listed, outlined
from torchloupe.render.plots import FONT, Bar, Cell, Group, bare, grid, raster, vector
from torchloupe.render.signals import Strip
from torchloupe.render.style import FORMATS, VECTOR, Style, style
from torchloupe.render.video import write_video
from torchloupe.store import Artifact
from torchloupe.store.results import Files, Results

if TYPE_CHECKING:
    from PIL import Image

    from torchloupe.outputs import Maps
    from torchloupe.probe import Batch

INPUT = "input"
EMPTY = "empty map"
FRAMES = 10
SCREEN = 110
SMALLEST = 192
TITLES = {
    "cam": "CAM",
    "gradcam": "Grad-CAM",
    "gradcam_pp": "Grad-CAM++",
    "xgradcam": "XGrad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "smooth_gradcam_pp": "Smooth Grad-CAM++",
    "scorecam": "Score-CAM",
    "sscam": "SS-CAM",
    "iscam": "IS-CAM",
    "ablationcam": "Ablation-CAM",
    "gradient_x_input": "Gradient × input",
    "smoothgrad": "SmoothGrad",
    "integrated_gradients": "Integrated gradients",
    "guided_backprop": "Guided backprop",
    "guided_gradcam": "Guided Grad-CAM",
    "occlusion": "Occlusion",
    "poseig": "PoseIG",
    "attention": "Attention",
    "rollout": "Rollout",
    "gradient_x_attention": "Gradient × attention",
    "chefer": "Chefer",
    "legrad": "LeGrad",
    "lrp": "LRP",
    "attnlrp": "AttnLRP",
    "rise": "RISE",
    "vitcx": "ViT-CX",
    "gscorecam": "gScoreCAM",
    "maskclip": "MaskCLIP",
    "clip_surgery": "CLIP Surgery",
    "refinecam": "RefineCAM",
    "gradient_shap": "GradientSHAP",
}
SHARED = {"map": "of each map", "sequence": "of each sequence", "run": "of the run"}


class Sheet(Heatmaps):
    """The heatmaps of one sample, as they are drawn."""

    def inside(self, k: int) -> np.ndarray | None:
        """(h, w) bool of the picture: where question k is; None where it is nowhere in particular."""
        size = self.picture.shape[1:3]
        if self.regions is not None:
            return inside_region(self.regions[k], size)
        return inside_box(self.boxes[k], size) if self.boxes is not None and _extent(self.boxes[k]) else None

    def confined(self, k: int, maps: np.ndarray) -> np.ndarray:
        """A map (t, h', w') of question k as fine as the picture, 0 outside of where the question is."""
        inside = self.inside(k)
        return maps if inside is None else colour.resize(maps, inside.shape) * inside

    def marks(self, k: int, which: str, labels: bool) -> tuple[Mark, ...]:
        """The boxes that are drawn for question k, as the style says; its own alone, without a label, where not labels."""
        if self.boxes is None or which == "none" or not _extent(self.boxes[k]):
            return ()
        text = f"{self.questions[k].rpartition(' [')[0]} {self.scores[k]:.2f}"
        own = Mark(tuple(self.boxes[k].tolist()), text if labels else "")
        if which == "own" or self.detections is None or not labels:
            return (own,)
        return (own, *(mark for mark in listed(self.detections, self.classes) if mark.box != own.box))

    def fused(self, how: str) -> Sheet:
        """One map a method in place of one a layer: the mean, or the value of largest magnitude, of the layers' maps,
        each over its own maximum and resized to the finest of them. A method with one layer stays as it is."""
        return replace(self, maps=self._fused(how, self.maps), other_maps=self._fused(how, self.other_maps))

    def _fused(self, how: str, held: Mapping[Where, np.ndarray]) -> dict[Where, np.ndarray]:
        found: dict[Where, np.ndarray] = {}
        for method in dict.fromkeys(method for method, _ in held):
            parts = {layer: maps for (m, layer), maps in held.items() if m == method}
            if len(parts) == 1:
                found |= {(method, layer): maps for layer, maps in parts.items()}
                continue
            signed = method in self.signed
            size = tuple(max(maps.shape[axis] for maps in parts.values()) for axis in (1, 2, 3))
            stack = np.stack(
                [colour.resize(colour.unit(m, colour.peak(m, signed, (1, 2, 3)), signed), size) for m in parts.values()]
            )
            strongest = np.take_along_axis(stack, np.abs(stack).argmax(0)[None], 0)[0]
            found[method, f"{how}({', '.join(parts)})"] = stack.mean(0) if how == "mean" else strongest
        return found


def _extent(box: np.ndarray) -> bool:
    return bool(box[2] > box[0] and box[3] > box[1])


@dataclass(frozen=True)
class Tile:
    """One overlay: question k of the sheet of this number, method at layer, frame t; other: the map of the other picture."""

    number: int
    sheet: Sheet
    k: int
    method: str
    layer: str
    frame: int
    frames: int
    values: np.ndarray
    empty: bool
    other: np.ndarray | None = None

    @property
    def signed(self) -> bool:
        return self.method in self.sheet.signed

    @property
    def name(self) -> str:
        """What tells it from its neighbours, fit for a file name."""
        twins = sum(_slug(q) == _slug(self.sheet.questions[self.k]) for q in self.sheet.questions) > 1
        parts = [self.method, self.layer, _slug(self.sheet.questions[self.k])]
        number = [str(self.k)] * twins
        return "-".join([*("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts), *number])

    @property
    def numbered(self) -> str:
        """Its name, with the number of its frame where there are several."""
        return self.name + (f"-{self.frame:0{len(str(self.frames - 1))}d}" if self.frames > 1 else "")

    def image(self, style: Style, labels: bool = True) -> np.ndarray:
        """(h, w, 3) uint8; labels: what is written at the boxes."""
        picture = self.sheet.picture[min(self.frame, len(self.sheet.picture) - 1)]
        inside = self.sheet.inside(self.k) if style.confine else None
        image = overlay(picture, None if self.empty else self.values, style, signed=self.signed, inside=inside)
        image = with_places(image, self.sheet, self.k, style, labels)
        return both(image, self.sheet, self.k, self.other, style, self.signed)


def _slug(question: str) -> str:
    return question.split(",")[0][:40].strip()


def with_places(image: np.ndarray, sheet: Sheet, k: int, style: Style, labels: bool) -> np.ndarray:
    """An overlay of question k with the boxes, or the outline of the region, that the style asks for."""
    if sheet.regions is not None and style.boxes != "none":
        return outlined(image, sheet.regions[k])
    return framed_boxes(image, sheet.marks(k, style.boxes, labels), sheet.picture.shape[1:3])


def both(
    image: np.ndarray, sheet: Sheet, k: int, values: np.ndarray | None, style: Style, signed: bool = False
) -> np.ndarray:
    """An overlay, and beside it the picture that question k likens it to, with its own map (h', w'), or without one."""
    if sheet.others is None:
        return image
    other = overlay(sheet.others[k, 0], values, style, signed=signed)
    if other.shape[0] != image.shape[0]:
        other = sized(other, (image.shape[0], round(other.shape[1] * image.shape[0] / other.shape[0])))
    gap = np.full((len(image), max(2, image.shape[1] // 64), 3), 255, np.uint8)
    return np.concatenate([image, gap, other], 1)


def overlay(
    picture: np.ndarray,
    values: np.ndarray | None,
    style: Style,
    *,
    signed: bool = False,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """A map over a picture.

    picture (h, w, 3) uint8; values (h', w') scaled to 0..1 (-1..1 where signed), at any resolution, or None for an
    empty map, which leaves the picture as it is; inside (h, w) bool: where the colours stay. -> (h'', w'', 3) uint8, of the
    size that style.resize says.
    """
    size = style.size(*picture.shape[:2])
    under = sized(picture, size)
    if values is None:
        return under
    table = colour.palette(style.cmap, signed)
    fine = colour.resize(values, size)
    fade = signed if style.fade is None else style.fade
    mixed = colour.blend(under, fine, table, signed=signed, opacity=style.opacity, fade=fade)
    return mixed if inside is None else np.where(inside_region(inside, size)[..., None], mixed, under)


def sized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at another (height, width)."""
    from PIL import Image

    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS))


def labelled(image: np.ndarray, text: str) -> np.ndarray:
    """A picture with a small label in its lower left corner."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    text = one_line(text)
    drawn = Image.fromarray(image)
    size = max(8, min(image.shape[:2]) // 18)
    font = ImageFont.truetype(findfont(FONT), size)
    pen = ImageDraw.Draw(drawn, "RGBA")
    at = size // 2, image.shape[0] - size // 2
    left, top, right, bottom = pen.textbbox(at, text, font=font, anchor="lb")
    box = (left - size // 3, top - size // 3, right + size // 3, bottom + size // 4)
    pen.rounded_rectangle(box, size // 3, (255, 255, 255, 215))
    pen.text(at, text, font=font, anchor="lb", fill=(26, 26, 26))
    return np.asarray(drawn)


@dataclass(frozen=True)
class Drawing:
    """Heatmaps ready to be seen or saved. Shown as it is in a notebook."""

    sheets: tuple[Sheet, ...]
    style: Style

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every overlay, scaled as the style says."""
        return tuple(self._scaled())

    def _scaled(self) -> Iterator[Tile]:
        sheets = [sheet.fused(self.style.fuse) for sheet in self.sheets] if self.style.fuse else self.sheets
        run: dict[Where, float] = {}
        for sheet in sheets:
            for key, maps in sheet.maps.items():
                for k in range(len(maps)):
                    one = sheet.confined(k, maps[k]) if self.style.confine else maps[k]
                    run[key] = max(run.get(key, 0.0), colour.peak(one, key[0] in sheet.signed).item())
            for key, maps in sheet.other_maps.items():
                run[key] = max(run[key], colour.peak(maps, key[0] in sheet.signed).item())
        for number, sheet in enumerate(sheets):
            for k in range(len(sheet.questions)):
                for (method, layer), maps in sheet.maps.items():
                    signed = method in sheet.signed
                    frames = len(sheet.picture) if len(sheet.picture) > 1 else maps.shape[1]
                    frames = 1 if sheet.signal is not None else frames
                    one = sheet.confined(k, maps[k]) if self.style.confine else maps[k]
                    # a signal's steps are one strip, whichever axis they lie on
                    one = one if sheet.signal is None else one.reshape(1, 1, -1)
                    values = colour.resize(one, (frames, *one.shape[1:]))
                    own = colour.peak(values, signed, (1, 2) if self.style.scale == "map" else None)
                    top = np.full_like(own, run[method, layer]) if self.style.scale == "run" else own
                    unit = colour.unit(values, top, signed)
                    dark = np.broadcast_to(own == 0, (frames, 1, 1))[:, 0, 0]
                    beside = sheet.other_maps.get((method, layer))
                    other = None
                    if beside is not None and beside[k, 0].any():
                        most = run[method, layer] if self.style.scale == "run" else colour.peak(beside[k, 0], signed)
                        other = colour.unit(beside[k, 0], most, signed)
                    for t in range(frames):
                        yield Tile(number, sheet, k, method, layer, t, frames, unit[t], bool(dark[t]), other)

    def figure(self, sheet: int = 0) -> Any:
        """The labelled grid of one sample, as a matplotlib figure."""
        tiles = [tile for tile in self.tiles if tile.number == sheet]
        own = tiles[0].sheet
        look = self._look(own)
        bars = self._bars(tiles) if self.style.colorbar is not False else []
        if own.signal is not None:
            return self._traced(own, tiles)
        if tiles[0].frames > 1:
            return self._strip(own, tiles, look, bars)
        cells = {(tile.k, tile.method, tile.layer): self._cell(tile, look) for tile in tiles}
        methods = own.methods
        places = {method: [layer for other, layer in own.maps if other == method] for method in methods}
        floating = {method for method in methods if places[method] == [INPUT]}
        floating = set() if len(floating) == len(methods) else floating
        layers = tuple(dict.fromkeys(layer for method in methods if method not in floating for layer in places[method]))
        plain = overlay(own.picture[0], None, look)
        across = len(methods) == 1 < len(layers)
        names = [TITLES.get(method, method) + (f" ({INPUT})" if method in floating else "") for method in methods]
        titles = list(layers) if across else names
        groups = []
        for k in range(len(own.questions)):
            if across:
                rows = [(TITLES.get(methods[0], methods[0]), [cells.get((k, methods[0], layer)) for layer in layers])]
            else:
                rows = [
                    (
                        layer,
                        [cells.get((k, m, INPUT if m in floating and layer == layers[0] else layer)) for m in methods],
                    )
                    for layer in layers
                ]
            lead = both(with_places(plain, own, k, look, True), own, k, None, look)
            groups.append(Group(heading(own, k), rows, Cell(lead)))
        return grid(groups, titles, bars, self._note(bars))

    def _strip(self, sheet: Sheet, tiles: Sequence[Tile], look: Style, bars: Sequence[Bar]) -> Any:
        """A sequence: frames across, methods and layers down."""
        count = tiles[0].frames
        shown = sorted({round(i) for i in np.linspace(0, count - 1, min(count, FRAMES))})
        plain = [Cell(overlay(sheet.picture[min(t, len(sheet.picture) - 1)], None, look)) for t in shown]
        groups = [Group("", [("input", plain)])]
        held = {(tile.k, tile.method, tile.layer, tile.frame): tile for tile in tiles}
        for k in range(len(sheet.questions)):
            rows = [
                (f"{TITLES.get(m, m)}, {layer}", [self._cell(held[k, m, layer, t], look) for t in shown])
                for m, layer in sheet.maps
            ]
            groups.append(Group(heading(sheet, k), rows))
        return grid(groups, [str(t) for t in shown], bars, self._note(bars))

    def _traced(self, sheet: Sheet, tiles: Sequence[Tile]) -> Any:
        """A signal and a strip for each map."""
        assert sheet.signal is not None
        strips = []
        for tile in tiles:
            table = colour.palette(self.style.cmap, tile.signed)
            values = colour.resize(np.asarray(tile.values).reshape(-1), (sheet.signal.shape[1],))
            label = f"{TITLES.get(tile.method, tile.method)}, {tile.layer}" + (f" ({EMPTY})" if tile.empty else "")
            strips.append(Strip(heading(sheet, tile.k), label, colour.colours(values, table, tile.signed)))
        bars = self._bars(tiles) if self.style.colorbar is not False else []
        return signals.figure(sheet.signal, strips, bars, self._note(bars))

    def _look(self, sheet: Sheet) -> Style:
        """The style of a grid's cells: small pictures are enlarged, so that the map over them stays smooth."""
        longest = max(sheet.picture.shape[1:3])
        if self.style.resize is not None or longest >= SMALLEST:
            return self.style
        return replace(self.style, resize=str(math.ceil(SMALLEST / longest)))

    @staticmethod
    def _cell(tile: Tile, look: Style, labels: bool = False) -> Cell:
        return Cell(tile.image(look, labels), EMPTY if tile.empty else "")

    def _bars(self, tiles: Sequence[Tile]) -> list[Bar]:
        kinds = sorted({tile.signed for tile in tiles})
        tops = {False: ("0", "max"), True: ("−max", "0", "max")}
        return [Bar(colour.palette(self.style.cmap, kind), tops[kind]) for kind in kinds]

    def _framed(self, tile: Tile) -> Any:
        if tile.sheet.signal is not None:
            return self._traced(tile.sheet, [tile])
        title = f"{TITLES.get(tile.method, tile.method)}, {tile.layer}"
        row = ("", [self._cell(tile, self._look(tile.sheet), labels=True)])
        bars = self._bars([tile])
        return grid([Group(heading(tile.sheet, tile.k), [row])], [title], bars, self._note(bars))

    def _note(self, bars: Sequence[Bar]) -> str:
        return f"Colours end at the maximum {SHARED[self.style.scale]}" if bars else ""

    @property
    def image(self) -> Image.Image:
        """The picture itself where there is one, else the grid of the first sample."""
        from PIL import Image

        if self.style.compare or len(self.tiles) > 1:
            return raster(self.figure(), self.style.dpi)
        return Image.fromarray(self._raster(self.tiles[0]))

    def _raster(self, tile: Tile) -> np.ndarray:
        if self.style.colorbar or tile.sheet.signal is not None:
            return np.asarray(raster(self._framed(tile), self.style.dpi))
        image = tile.image(self.style)
        return labelled(image, EMPTY) if tile.empty else image

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        replace(self, style=replace(self.style, dpi=min(self.style.dpi, SCREEN))).image.save(held, "png")
        return held.getvalue()

    def save(self, path: str | os.PathLike[str], *, stale: Callable[[Path], bool] = lambda path: True) -> list[Path]:
        """Writes the pictures and gives their paths. stale: whether a file is to be written; all are unless told otherwise.

        path: a file, whose ending says the kind; several pictures get what tells them apart behind its stem. Without an
        ending, a folder, in which pictures are named by their sample.
        Errors: BadInput for an ending that is not png, jpg, webp, pdf or svg, or a folder that cannot be written.
        """
        goal = Path(path)
        kind = goal.suffix[1:].lower().replace("jpeg", "jpg")
        folder = not kind or goal.is_dir() or os.fspath(path).endswith(os.sep)
        kinds = (self.style.video,) if self.style.video else FORMATS
        if not folder and kind not in kinds:
            what = "video" if self.style.video else "picture"
            raise BadInput(f"{goal}: no {what} format {goal.suffix!r}; expected {', '.join(kinds)}, or a folder")
        kind = kind if not folder else self.style.video or self.style.format
        names = _distinct([store.safe_name(sheet.id) for sheet in self.sheets])
        jobs: list[tuple[str, int, Tile | None]] = []
        for number, name in enumerate(names):
            stem = name if folder else goal.stem + f"-{name}" * (len(names) > 1)
            tiles = [tile for tile in self.tiles if tile.number == number and not (self.style.video and tile.frame)]
            if self.style.compare:
                jobs.append((f"{stem}-grid" if folder else stem, number, None))
            elif len(tiles) == 1:
                jobs.append((f"{stem}-{self._called(tiles[0])}" if folder else stem, number, tiles[0]))
            else:
                jobs += [(f"{stem}-{self._called(tile)}", number, tile) for tile in tiles]
        home = goal if folder else goal.parent
        found = [(home / f"{stem}.{kind}", number, tile) for stem, number, tile in jobs]
        return [self._write(file, kind, number, tile) if stale(file) else file for file, number, tile in found]

    def _called(self, tile: Tile) -> str:
        return tile.name if self.style.video else tile.numbered

    def _moving(self, number: int, tile: Tile | None) -> list[np.ndarray]:
        """The frames of a video: of one map, or of all maps of a sample beside the input, a row a question."""
        tiles = [one for one in self.tiles if one.number == number]
        if tile is not None:
            tiles = [one for one in tiles if (one.k, one.method, one.layer) == (tile.k, tile.method, tile.layer)]
        look = self._look(tiles[0].sheet)
        frames = []
        for t in range(tiles[0].frames):
            now = [one for one in tiles if one.frame == t]
            if tile is not None:
                frames.append(now[0].image(look))
                continue
            sheet = now[0].sheet
            plain = labelled(overlay(sheet.picture[min(t, len(sheet.picture) - 1)], None, look), f"input {t}")
            rows = []
            for k in dict.fromkeys(one.k for one in now):
                mine = [one for one in now if one.k == k]
                words = [f"{TITLES.get(one.method, one.method)}, {one.layer}: {heading(sheet, k)}" for one in mine]
                pairs = zip(mine, words, strict=True)
                rows.append(np.hstack([plain, *(labelled(one.image(look, False), word) for one, word in pairs)]))
            frames.append(np.vstack(rows))
        return frames

    def _write(self, path: Path, kind: str, sheet: int, tile: Tile | None) -> Path:
        if self.style.video:
            return write_video(self._moving(sheet, tile), path, self.style.fps)
        about = legible(self._about(self.sheets[sheet], tile))
        with store.aside(path) as (draft,):
            if kind in VECTOR:
                draft.write_bytes(vector(self._drawn(sheet, tile), self.style.dpi, kind, {"Title": about}))
            else:
                from PIL import Image

                flat = (
                    raster(self.figure(sheet), self.style.dpi) if tile is None else Image.fromarray(self._raster(tile))
                )
                _save_raster(flat, draft, kind, self.style.dpi, about)
        return path

    def _drawn(self, sheet: int, tile: Tile | None) -> Any:
        if tile is None:
            return self.figure(sheet)
        whole = self.style.colorbar or tile.sheet.signal is not None
        return self._framed(tile) if whole else bare(self._raster(tile), self.style.dpi)

    def _about(self, sheet: Sheet, tile: Tile | None) -> str:
        """One line that stays inside the file: what is drawn and how it is scaled."""
        scaled = f"scaled by the maximum {SHARED[self.style.scale]}"
        if tile is None:
            return f"{sheet.id}: {', '.join(sheet.methods)} at {', '.join(sheet.layers)}; {scaled}"
        where = f"{TITLES.get(tile.method, tile.method)} at {tile.layer}"
        return f"{sheet.id}: {where}, {heading(tile.sheet, tile.k)}; {EMPTY if tile.empty else scaled}"


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, numbered where one comes several times."""
    return [f"{name}-{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _save_raster(image: Image.Image, path: Path, kind: str, dpi: int, about: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    words = PngInfo()
    words.add_itxt("Description", about)
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": (dpi, dpi), "pnginfo": words},
        "jpg": {"dpi": (dpi, dpi), "quality": 95, "subsampling": 0, "comment": about.encode()},
        "webp": {"quality": 95, "method": 4},
    }
    image.save(path, {"jpg": "jpeg"}.get(kind, kind), **options[kind])


def heading(sheet: Sheet, k: int) -> str:
    """A question and its score: "Greater Swiss Mountain dog, 0.93"."""
    question, score = sheet.questions[k], sheet.scores[k]
    if not math.isfinite(score):
        return question
    usual = score == 0 or 0.01 <= abs(score) < 1000
    return f"{question}, {score:.2f}" if usual else f"{question}, {score:.2g}"


def draw(maps: Maps | Mapping[str, Maps], batch: Batch, *, classes: Sequence[str] = (), **options: Any) -> Drawing:
    """Heatmaps of a batch as pictures; options are those of `Style`.

    maps: what a method gives, or method -> Maps, all of one target. Boxes are drawn where the batch holds them, as the one
    that Probe.ask gives back; classes: names for those beside the question.
    """
    found = maps if isinstance(maps, Mapping) else {"map": maps}
    sheets = [Sheet.of(found, batch, sample, classes) for sample in range(batch.n)]
    return drawing(sheets, style(**options))


def drawing(sheets: Sequence[Sheet], style: Style) -> Drawing:
    """Checks what can go wrong before anything is drawn. Errors: BadInput for an unknown colour map or equal ids."""
    colour.palette(style.cmap)
    for sheet in sheets:
        _has_effect(sheet, style)
    return Drawing(tuple(sheets), style)


def _has_effect(sheet: Sheet, style: Style) -> None:
    """Errors: BadInput for an option that has no meaning for this sample."""
    if sheet.signal is not None:
        usual = Style()
        for name in ("opacity", "fade", "resize", "confine", "video"):
            if getattr(style, name) != getattr(usual, name):
                raise BadInput(f"--{name}: {sheet.id} is a signal, drawn as a line with strips under it; leave it out")
    frames = max(len(sheet.picture), *(maps.shape[1] for maps in sheet.maps.values()))
    if style.video and frames == 1:
        raise BadInput(f"--video {style.video}: {sheet.id} is one picture; leave it out")


def draw_run(results: Results, names: Sequence[str], save: str | os.PathLike[str], style: Style) -> list[Path]:
    """Pictures of these results of a run; those that are as they should be, and not older than their result, stay.

    save: as in Drawing.save. On one scale of a run all are drawn together.
    """

    def read(name: str) -> tuple[Artifact, bool]:
        found = results.read(name)
        noted = results.note(name, found) if isinstance(results, Files) else found
        return noted, noted is found and isinstance(results, Files)

    if style.scale == "run":
        return drawing([Sheet.read(*read(name)[0], name) for name in names], style).save(save) if names else []
    written: list[Path] = []
    for name in names:
        noted, same = read(name)
        made = store.pair(results.root / store.safe_name(name))[1].stat().st_mtime_ns if same else 0

        def stale(file: Path, same: bool = same, made: int = made) -> bool:
            return not (same and file.is_file() and file.stat().st_mtime_ns >= made)

        written += drawing([Sheet.read(*noted, name)], style).save(save, stale=stale)
    return written


def redraw(results: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Pictures of stored heatmaps, without the model. save: as in Drawing.save; None = beside the first result."""
    sheets = []
    for path in results:
        arrays, record = store.load(path)
        sheets.append(
            Sheet.read(arrays, record, store.pair(path)[0].stem).only(wish.methods, wish.layers, wish.targets)
        )
    return drawing(sheets, wish.style).save(save if save is not None else results[0].parent)
