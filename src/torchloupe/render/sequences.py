"""Pictures of sequences: one folder a layer, one grid of frames and layers, skeletons, and strips for videos."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from torchloupe import store
from torchloupe.errors import BadInput, one_line
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.render import fonts
from torchloupe.render.kinds import Wish
from torchloupe.render.video import write_video

MODES = ("merge", "compare", "both")
SCALES = ("sequence", "frame", "run")
FORMATS = ("png", "pdf", "svg")
MANY, FEW, KEYS, HIGHEST = 60, 24, 12, 20_000
BAR = 12
UNSIGNED, SIGNED = "jet", "RdBu_r"
SKELETON_SIZE = (96, 72)
MARGIN = 4
PAPER, INK, GREY = (255, 255, 255), (20, 20, 20), (150, 150, 150)
Limits = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How maps are drawn.

    opacity 0..1 of the heatmap over the picture; ratio: pictures' size over the model's; font: size of labels over 4
    pixels, as in the seed tool; scale: 'sequence' (frames comparable), 'frame', or 'run' (all results of this drawing).
    frames: 'auto' (all; of `compare` FEW of more than MANY), 'all', a number (spread evenly), 'every:N', or 'key' (where a
    layer's map is strongest, see `key_frames`). bar: a bar beside `compare` that explains the colours. fade: the opacity
    grows with the value. format of `compare`: png, pdf or svg.
    """

    opacity: float = 0.6
    ratio: float = 1.0
    font: float = 2.5
    scale: str = "sequence"
    frames: str = "auto"
    bar: bool = True
    fade: bool = False
    format: str = "png"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|all|key|[1-9]\d*|every:[1-9]\d*", self.frames):
            raise BadInput(f"--frames {self.frames!r}: expected auto, all, key, a number such as 12, or every:5")
        if self.format not in FORMATS:
            raise BadInput(f"--format {self.format!r}: expected one of {', '.join(FORMATS)}")
        if not 0 <= self.opacity <= 1:
            raise BadInput(f"--heatmap-opacity {self.opacity}: expected 0 to 1")
        if not 0 < self.ratio <= 32:
            raise BadInput(f"--resize-ratio {self.ratio}: expected more than 0, at most 32")
        if not 0 < self.font <= 50:
            raise BadInput(f"--font-scale {self.font}: expected more than 0, at most 50")
        if self.scale not in SCALES:
            raise BadInput(f"--scale {self.scale!r}: expected one of {', '.join(SCALES)}")


def draw(
    made: SequenceMaps,
    folder: str | Path,
    mode: str = "merge",
    style: Style | None = None,
    *,
    question: int = 0,
    run: Mapping[str, Limits] | None = None,
) -> list[Path]:
    """Writes the pictures of one result below a folder. Gives their paths.

    mode: 'merge' (a folder for each layer), 'compare' (one grid), 'both'. run: limits over a run, for scale 'run'.
    Errors: BadInput for a mode or a question that is not there.
    """
    style = style or Style()
    if mode not in MODES:
        raise BadInput(f"--draw-mode {mode!r}: expected one of {', '.join(MODES)}")
    if not 0 <= question < max(1, len(made.questions)):
        raise BadInput(f"--question {question}: this result has {len(made.questions)}, 0 to {len(made.questions) - 1}")
    if mode == "merge" and style.format != "png":
        raise BadInput("--format is about the grid of --draw-mode compare or both; leave it out, or draw one")
    painter = Painter(made, style, question, run)
    top, written = Path(folder), []
    if mode in ("merge", "both"):
        for layer, name in folders(made.layers).items():
            steps = shown_steps(painter, layer)
            pictures = {top / name / f"{step:03d}.png": painter.step(layer, step) for step in steps}
            if painter.pooled(layer):
                pictures |= {top / f"{name}_input" / f"{step:03d}.png": painter.window(layer, step) for step in steps}
            written += [_save(picture, file) for file, picture in pictures.items()]
            if made.joints:
                written.append(_save(painter.plane(layer), top / f"{name}_joints.png"))
    if mode in ("compare", "both"):
        if style.format == "png":
            written.append(_save(compare(painter), top / "compare.png"))
        else:
            written.append(_write(figure(painter), top / f"compare.{style.format}"))
    return written


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Results of `loupe gait cam` drawn by `loupe draw`, with its options; each into a folder of its own.

    Errors: BadInput for a layer or a question that a result does not have, or a result of another method.
    """
    how, methods, layers, targets = wish.style, wish.methods, wish.layers, wish.targets
    results = {path: SequenceMaps.load(path) for path in paths}
    run = limits_of(results.values()) if how.scale == "run" else None
    written = []
    for path, made in results.items():
        if methods and not any(fnmatchcase(made.method, one) for one in methods):
            raise BadInput(f"{path}: its method is {made.method}, not {', '.join(methods)}")
        asked = [i for i, name in enumerate(made.questions) if any(one in name for one in targets)] if targets else [0]
        if not asked:
            raise BadInput(f"{path}: no question {', '.join(targets)}; it has {', '.join(made.questions)}")
        height, width = made.imgs.shape[1:] if len(made.imgs) else SKELETON_SIZE
        ratio = how.size(height, width)[0] / height
        style = Style(
            how.opacity,
            ratio,
            scale="frame" if how.scale == "map" else how.scale,
            bar=how.colorbar is not False,
            fade=bool(how.fade),
            format=how.format if how.compare and how.format in FORMATS else "png",
            frames=wish.frames,
        )
        folder = Path(save) / path.stem if save else path.with_suffix("")
        places = folders(made.questions)
        for question in asked:
            place = folder / places[made.questions[question]] if len(asked) > 1 else folder
            some = made.at(layers)
            if how.video:
                painter = Painter(some, style, question, run)
                moving = [strip(painter, some.layers, number) for number in chosen_frames(painter)]
                written.append(write_video(moving, place / f"{store.safe_name(some.name)}.{how.video}", how.fps))
                continue
            mode = "compare" if how.compare else "merge"
            written += draw(some, place, mode, style, question=question, run=run)
    return written


def limits_of(results: Iterable[SequenceMaps]) -> dict[str, Limits]:
    """Layer -> smallest and largest value over several results, for one scale over a run."""
    found: dict[str, Limits] = {}
    for made in results:
        for layer, maps in made.maps.items():
            low, high = found.get(layer, (np.inf, -np.inf))
            found[layer] = (min(low, float(maps.min())), max(high, float(maps.max())))
    return found


def safe(layer: str) -> str:
    """A layer's name as a file name: set_block1.forward_block.0.conv -> set_block1-forward_block-0-conv."""
    return store.safe_name(re.sub(r"[^\w+-]+", "-", layer).strip("-"))


def folders(layers: Iterable[str]) -> dict[str, str]:
    """Layer -> the name of its folder; names that would meet, in whatever case, carry eight digits of their hash."""
    plain = {layer: safe(layer) for layer in layers}
    taken = Counter(name.casefold() for one in plain.values() for name in (one, f"{one}_input"))
    digits = {layer: hashlib.sha256(layer.encode(errors="surrogateescape")).hexdigest()[:8] for layer in plain}
    return {layer: f"{one}-{digits[layer]}" if taken[one.casefold()] > 1 else one for layer, one in plain.items()}


class Painter:
    """Cells of one result: a frame, or a frame with one layer's map on it."""

    def __init__(
        self, made: SequenceMaps, style: Style, question: int = 0, run: Mapping[str, Limits] | None = None
    ) -> None:
        self.made, self.style, self.question, self.run = made, style, question, run or {}
        size = made.imgs.shape[1:] if made.frames == len(made.imgs) and len(made.imgs) else SKELETON_SIZE
        self.size = max(1, round(size[0] * style.ratio)), max(1, round(size[1] * style.ratio))
        self.colours = colormaps[SIGNED if made.signed else UNSIGNED]

    def maps(self, layer: str) -> np.ndarray:
        """(t', h', w') raw numbers of the question that is drawn."""
        return self.made.maps[layer][self.question]

    def steps(self, layer: str) -> int:
        """Pictures of a layer: its time steps, or all frames where it has one map for all of them."""
        windows = self.made.windows[layer]
        return self.made.frames if len(windows) == 1 else len(windows)

    def pooled(self, layer: str) -> bool:
        """Whether a time step of the layer stands for several frames, but not for all."""
        windows = self.made.windows[layer]
        return len(windows) > 1 and bool((windows[:, 1] - windows[:, 0] > 1).any())

    def unseen(self, layer: str) -> np.ndarray:
        """(t,) bool: frames that are in no window of the layer."""
        hidden = np.ones(self.made.frames, bool)
        for start, stop in self.made.windows[layer]:
            hidden[start:stop] = False
        return hidden

    def step_of(self, layer: str, frame: int) -> int | None:
        """The time step whose window holds a frame; the picture's own number where there is one map for all."""
        windows = self.made.windows[layer]
        if len(windows) == 1:
            return frame
        inside = [i for i, (start, stop) in enumerate(windows) if start <= frame < stop]
        return inside[0] if inside else None

    def frame(self, number: int) -> np.ndarray:
        """One frame of the input, (h, w, 3) uint8."""
        return self._input(slice(number, number + 1))

    def answer(self, number: int) -> np.ndarray:
        """One frame of the gallery sequence that answered, which begins again where it is the shorter one."""
        if len(self.made.answer_poses):
            return self._skeleton(number % len(self.made.answer_poses), None, self.made.answer_poses)
        picture = Image.fromarray(self.made.answer_imgs[number % len(self.made.answer_imgs)])
        grown = np.asarray(picture.resize(self.size[::-1], Image.Resampling.BILINEAR))
        return grown[..., None].repeat(3, -1)

    def window(self, layer: str, step: int) -> np.ndarray:
        """What is drawn under a time step: the mean of its frames; the frame itself for a map of all frames."""
        windows = self.made.windows[layer]
        return self._input(slice(step, step + 1) if len(windows) == 1 else slice(*windows[step]), layer)

    def step(self, layer: str, step: int) -> np.ndarray:
        """The map of one time step over its frames, (h, w, 3) uint8."""
        maps = self.maps(layer)
        values = self._scaled(layer)[step if len(maps) > 1 else 0]
        if self.made.joints:
            start, stop = self.made.windows[layer][step if len(maps) > 1 else 0]
            at = step if len(maps) == 1 else (start + stop) // 2 if stop - start > 1 else start
            return self._skeleton(at, self._per_joint(values))
        size = self._room(layer)
        heat = (self.colours(_resized(values, size))[..., :3] * 255).round()
        picture = self.window(layer, step)
        rows, columns = ((whole - own) // 2 for whole, own in zip(self.size, size, strict=True))
        inside = (slice(rows, rows + size[0]), slice(columns, columns + size[1]))
        below = picture[inside].astype(np.float64)
        alpha: float | np.ndarray = self.style.opacity
        if self.style.fade:
            strength = _resized(np.abs(2 * values - 1) if self.made.signed else values, size)
            alpha = self.style.opacity * strength[..., None]
        picture[inside] = ((1 - alpha) * below + alpha * heat).round()
        return picture

    def plane(self, layer: str) -> np.ndarray:
        """Joints by frames, with the joints' names."""
        cell = max(6, round(6 * self.style.ratio))
        values = np.stack([self._per_joint(row) for row in self._scaled(layer)])
        heat = (self.colours(values.T)[..., :3] * 255).round().astype(np.uint8)
        windows = self.made.windows[layer]
        across = heat if len(windows) > 1 else heat.repeat(self.made.frames, 1)
        widths = [stop - start for start, stop in windows] if len(windows) > 1 else [1] * self.made.frames
        across = np.concatenate([across[:, i : i + 1].repeat(w * cell, 1) for i, w in enumerate(widths)], 1)
        font = _font(max(9.0, cell * 0.9 * 2))
        row = max(cell * 2, round(font.size) + 4)
        picture = across.repeat(row, 0)
        joints = [one_line(name) for name in self.made.joints]
        left = max(_width(font, name) for name in joints) + 2 * MARGIN
        title = one_line(f"{layer}  {_words(self, layer)}")
        right = max(picture.shape[1] + _width(font, "000"), _width(font, title))
        sheet = _sheet(left + right + MARGIN, row + picture.shape[0] + row)
        sheet.paste(Image.fromarray(picture), (left, row))
        pen = ImageDraw.Draw(sheet)
        pen.text((left, 2), title, INK, font)
        for i, name in enumerate(joints):
            pen.text((left - MARGIN, row + i * row + row // 2), name, INK, font, anchor="rm")
        for t in range(0, self.made.frames, max(1, -(-_width(font, "000 ") // cell))):
            pen.text((left + t * cell, row + picture.shape[0] + 1), str(t), GREY, font)
        return np.asarray(sheet)

    def _per_joint(self, values: np.ndarray) -> np.ndarray:
        """(h', w') -> one number a joint; a layer without joints colours all alike."""
        column = values.mean(-1)
        return column if len(column) == len(self.made.joints) else np.full(len(self.made.joints), column.mean())

    def _scaled(self, layer: str) -> np.ndarray:
        """(t', h', w') in 0..1 by the style's scale."""
        maps = self.maps(layer).astype(np.float64)
        if self.style.scale == "run":
            low, high = self.run.get(layer, (float(maps.min()), float(maps.max())))
            lows, highs = np.full(len(maps), low), np.full(len(maps), high)
        elif self.style.scale == "frame":
            lows, highs = maps.min((1, 2)), maps.max((1, 2))
        else:
            lows, highs = np.full(len(maps), maps.min()), np.full(len(maps), maps.max())
        if self.made.signed:
            highs = np.maximum(abs(lows), abs(highs))
            lows = -highs
        elif self.style.scale != "frame":
            lows = np.minimum(lows, 0)
        span = (highs - lows)[:, None, None]
        middle = 0.5 if self.made.signed else 0.0
        return np.where(span > 0, (maps - lows[:, None, None]) / np.where(span > 0, span, 1), middle)

    def _room(self, layer: str) -> tuple[int, int]:
        """Rows and columns of the cell that the layer's picture takes: all, but for a picture of another shape."""
        if layer not in self.made.under:
            return self.size
        rows, columns = self.made.under[layer].shape[1:]
        grow = min(self.size[0] / rows, self.size[1] / columns)
        return max(1, round(rows * grow)), max(1, round(columns * grow))

    def _input(self, part: slice, layer: str = "") -> np.ndarray:
        if self.made.joints:
            start, stop = part.start, part.stop
            return self._skeleton((start + stop) // 2 if stop - start > 1 else start, None)
        grey = Image.fromarray(self.made.under.get(layer, self.made.imgs)[part].mean(0).round().astype(np.uint8))
        size = self._room(layer)
        way = Image.Resampling.BILINEAR if size[0] > grey.height else Image.Resampling.BOX
        cell = _sheet(*self.size[::-1])
        cell.paste(grey.resize(size[::-1], way), ((self.size[1] - size[1]) // 2, (self.size[0] - size[0]) // 2))
        return np.array(cell)

    def _skeleton(self, frame: int, values: np.ndarray | None, people: np.ndarray | None = None) -> np.ndarray:
        people = self.made.poses if people is None else people
        poses = people[..., :2]
        known = poses[people[..., 2] > 0] if (people[..., 2] > 0).any() else poses.reshape(-1, 2)
        # people walk through the picture: each frame is centred, all at one scale
        tall = max(float(np.ptp(frame_[:, 1])) for frame_ in poses) or float(np.ptp(known)) or 1.0
        over = 4
        rows, columns = self.size[0] * over, self.size[1] * over
        scale = 0.84 * min(rows / tall, columns / max(tall * 0.7, 1e-6))
        middle = (poses[frame].min(0) + poses[frame].max(0)) / 2
        places = (poses[frame] - middle) * scale + (columns / 2, rows / 2)
        sheet = Image.new("RGB", (columns, rows), (24, 24, 24))
        pen = ImageDraw.Draw(sheet)
        thick = max(2, rows // 45)
        colour = [(190, 190, 190)] * len(places) if values is None else [self._colour(value) for value in values]
        for a, b in self.made.limbs:
            tint = (110, 110, 110) if values is None else self._colour((values[a] + values[b]) / 2)
            pen.line([tuple(places[a]), tuple(places[b])], tint, thick)
        for place, tint in zip(places, colour, strict=True):
            x, y = place
            pen.ellipse([x - thick * 1.4, y - thick * 1.4, x + thick * 1.4, y + thick * 1.4], tint)
        return np.asarray(sheet.resize(self.size[::-1], Image.Resampling.BOX))

    def _colour(self, value: float) -> tuple[int, int, int]:
        red, green, blue, _ = self.colours(float(value))
        return round(red * 255), round(green * 255), round(blue * 255)


def key_frames(painter: Painter) -> list[int]:
    """The frames at which the map of a layer with time is strongest: of all layers the peaks of the sum of magnitudes over a
    frame (larger than before, not smaller than after), the strongest KEYS of them by their share of their layer's sum.

    The first and last frame, and one between, where no layer has time or a peak.
    """
    found: dict[int, float] = {}
    for layer in painter.made.layers:
        maps, windows = painter.maps(layer), painter.made.windows[layer]
        if len(maps) < 2 or not np.abs(maps).sum() > 0:
            continue
        strength = np.abs(maps.astype(np.float64)).sum((1, 2))
        before, after = np.append(-np.inf, strength[:-1]), np.append(strength[1:], -np.inf)
        for step in np.flatnonzero((strength > before) & (strength >= after)):
            frame = int(windows[step].sum() - 1) // 2
            found[frame] = max(found.get(frame, 0.0), float(strength[step] / strength.sum()))
    if not found:
        return sorted({0, painter.made.frames // 2, painter.made.frames - 1})
    return sorted(sorted(found, key=lambda frame: (-found[frame], frame))[:KEYS])


def chosen_frames(painter: Painter, auto: int | None = None) -> list[int]:
    """The frames that the style asks for. auto: how many 'auto' takes; all by default."""
    count, how = painter.made.frames, painter.style.frames
    if how == "key":
        return key_frames(painter)
    if how.startswith("every:"):
        return list(range(0, count, int(how.partition(":")[2])))
    few = count if auto is None else min(auto, count)
    number = count if how == "all" else few if how == "auto" else min(int(how), count)
    if number == 1:
        return [0]
    return sorted({round(place) for place in np.linspace(0, count - 1, number).tolist()})


def shown_steps(painter: Painter, layer: str) -> list[int]:
    """The time steps of a layer that hold the frames that the style asks for; all where it asks for none in particular."""
    if painter.style.frames == "auto":
        return list(range(painter.steps(layer)))
    steps = [painter.step_of(layer, frame) for frame in chosen_frames(painter)]
    return list(dict.fromkeys(step for step in steps if step is not None))


def rows_of(painter: Painter) -> list[int]:
    """The frames of `compare`: those that the style asks for, by default FEW of more than MANY."""
    return chosen_frames(painter, FEW if painter.made.frames > MANY else None)


def compare(painter: Painter) -> np.ndarray:
    """One grid: a row for each frame, the input beside every layer, labelled. Frames that a layer did not see are grey.

    Errors: BadInput for a grid that is higher than HIGHEST pixels.
    """
    made, (rows, columns) = painter.made, painter.size
    shown = rows_of(painter)
    text = max(8.0, 4 * painter.style.font)
    font = _font(text)
    line = round(font.size) + 3
    gap = MARGIN
    titles = [("input", ""), *((layer, _words(painter, layer)) for layer in made.layers)]
    wrapped = [_labels(painter, *title) for title in titles]
    left = _width(font, str(made.frames)) + 2 * gap
    width = left + len(titles) * (columns + gap) + gap
    lines = [part for text in _head(painter, shown) for part in _wrapped(text, width - 2 * gap, font)]
    top = len(lines) * line + max(map(len, wrapped)) * line + 2 * gap
    side = BAR + 3 * gap + max(_width(font, word) for word in _ends(painter)) if painter.style.bar else 0
    height = top + len(shown) * (rows + gap) + gap
    if height > HIGHEST:
        raise BadInput(
            f"--frames {painter.style.frames}: {len(shown)} frames would be {height:,} pixels high, at most {HIGHEST:,}; "
            f"try --frames {FEW}, or a smaller --resize-ratio"
        )
    sheet = _sheet(width + side, height)
    pen = ImageDraw.Draw(sheet)
    for i, words in enumerate(lines):
        _put(pen, (gap, gap + i * line), words, INK, font)
    for column, texts in enumerate(wrapped):
        for i, (words, tint) in enumerate(texts):
            _put(pen, (left + column * (columns + gap), top - gap - (len(texts) - i) * line), words, tint, font)
    for row, frame in enumerate(shown):
        y = top + row * (rows + gap)
        pen.text((left - gap, y + rows // 2), str(frame), GREY, font, anchor="rm")
        for column, cell in enumerate(_cells(painter, frame)):
            sheet.paste(Image.fromarray(cell), (left + column * (columns + gap), y))
    if painter.style.bar:
        _draw_bar(painter, sheet, width, top, min(height - top - gap, max(3 * line, 2 * rows)), font)
    return np.asarray(sheet)


def figure(painter: Painter) -> bytes:
    """The same grid for a paper, as pdf or svg: its text is text."""
    from torchloupe.render.plots import Bar, Cell, Group, grid, vector

    shown = rows_of(painter)
    titles = ["input", *(" ".join(filter(None, (layer, _words(painter, layer)))) for layer in painter.made.layers)]
    rows = [(str(frame), [Cell(cell) for cell in _cells(painter, frame)]) for frame in shown]
    head, *rest = _head(painter, shown)
    table = painter.colours(np.linspace(0, 1, 256))[:, :3]
    bars = [Bar(table, _ends(painter))] if painter.style.bar else []
    made = grid([Group(head, rows)], titles, bars, "; ".join(rest))
    return vector(made, 300, painter.style.format, {"Title": painter.made.name})


def _cells(painter: Painter, frame: int) -> list[np.ndarray]:
    cells = [painter.frame(frame)]
    for layer in painter.made.layers:
        step = painter.step_of(layer, frame)
        cells.append(_unseen(painter.size) if step is None else painter.step(layer, step))
    return cells


def _head(painter: Painter, shown: Sequence[int]) -> list[str]:
    """What the grid is of, in lines."""
    made = painter.made
    head = [f"{made.name}: {made.model}, {made.method}"]
    if made.questions:
        head.append(f"asked: {made.questions[painter.question]}, score {made.scores[painter.question]:.4g}")
    if len(shown) < made.frames:
        how = ", the strongest" if painter.style.frames == "key" else ""
        head.append(f"{len(shown)} of {made.frames} frames{how}")
    return head


def _ends(painter: Painter) -> list[str]:
    """What the colours mean, from low to high."""
    if painter.made.signed:
        return ["against", "0", "for"]
    return ["least" if painter.style.scale == "frame" else "0", "most"]


def _draw_bar(painter: Painter, sheet: Image.Image, x: int, y: int, height: int, font: ImageFont.FreeTypeFont) -> None:
    table = (painter.colours(np.linspace(1, 0, height))[:, :3] * 255).round().astype(np.uint8)
    sheet.paste(Image.fromarray(np.repeat(table[:, None], BAR, 1)), (x, y))
    pen, words = ImageDraw.Draw(sheet), _ends(painter)
    for i, word in enumerate(words):
        place = y + round((1 - i / (len(words) - 1)) * (height - 1))
        anchor = "la" if i == len(words) - 1 else "ld" if i == 0 else "lm"
        pen.text((x + BAR + MARGIN, place), word, INK, font, anchor=anchor)


def strip(painter: Painter, layers: Sequence[str], frame: int) -> np.ndarray:
    """One frame of a video: the input, its maps, and the gallery sequence that answered (in its own time)."""
    made, (rows, columns) = painter.made, painter.size
    font = _font(4 * painter.style.font)
    # as many digits in every frame, so that all pictures of a video have one size
    titles, cells = [("input", str(frame).zfill(len(str(made.frames))))], [painter.frame(frame)]
    for layer in layers:
        step = painter.step_of(layer, frame)
        titles.append((layer, _words(painter, layer)))
        cells.append(_unseen(painter.size) if step is None else painter.step(layer, step))
    if len(made.answer_imgs) or len(made.answer_poses):
        titles.append((made.answers[0], "the answer"))
        cells.append(painter.answer(frame))
    wrapped = [_labels(painter, *title) for title in titles]
    line = round(font.size) + 3
    top = max(map(len, wrapped)) * line + 2 * MARGIN
    sheet = _sheet(len(cells) * (columns + MARGIN) + MARGIN, top + rows + MARGIN)
    pen = ImageDraw.Draw(sheet)
    for i, cell in enumerate(cells):
        x = MARGIN + i * (columns + MARGIN)
        for j, (text, tint) in enumerate(wrapped[i]):
            _put(pen, (x, MARGIN + j * line), text, tint, font)
        sheet.paste(Image.fromarray(cell), (x, top))
    return np.asarray(sheet)


def _labels(painter: Painter, title: str, words: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines over a column, and their colours."""
    font, columns = _font(4 * painter.style.font), painter.size[1]
    return [(line, tint) for text, tint in ((title, INK), (words, GREY)) for line in _wrapped(text, columns, font)]


def _words(painter: Painter, layer: str) -> str:
    """What to know of a layer's map."""
    dark = "" if painter.maps(layer).any() else "all zero"
    return ", ".join(word for word in (painter.made.words.get(layer, ""), _step_word(painter, layer), dark) if word)


def _step_word(painter: Painter, layer: str) -> str:
    if not painter.pooled(layer):
        return ""
    start, stop = painter.made.windows[layer][0]
    hidden = int(painter.unseen(layer).sum())
    return f"{stop - start} frames a map" + (f", last {hidden} unseen" if hidden else "")


def _unseen(size: tuple[int, int]) -> np.ndarray:
    sheet = Image.new("RGB", size[::-1], (225, 225, 225))
    pen = ImageDraw.Draw(sheet)
    pen.line([(0, 0), (size[1], size[0])], GREY)
    pen.line([(0, size[0]), (size[1], 0)], GREY)
    return np.asarray(sheet)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Linear, except over an axis where strips stand: those keep their edges."""
    rows, columns = values.shape
    if columns == 1:
        index = np.arange(size[0]) * rows // size[0]
        return values[index].repeat(size[1], 1)
    image = Image.fromarray(values.astype(np.float32))
    return np.clip(np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)), 0, 1)


def _save(picture: np.ndarray, file: Path) -> Path:
    with store.aside(file) as (draft,):
        Image.fromarray(picture).save(draft, format="png")
    return file


def _write(content: bytes, file: Path) -> Path:
    with store.aside(file) as (draft,):
        draft.write_bytes(content)
    return file


def _sheet(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _font(size: float) -> ImageFont.FreeTypeFont:
    return fonts.font(round(size))


def _put(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    tint: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """A text with a font that has its letters."""
    pen.text(place, text, tint, fonts.font(round(font.size), text))


def _width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(np.ceil(fonts.font(round(font.size), text).getlength(text)))


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most this width, broken behind '.', '_', '-', spaces, or anywhere if need be."""
    lines: list[str] = []
    for piece in re.findall(r"[^._\- ]*[._\- ]?", fonts.shown(one_line(text))):
        while piece:
            if lines and _width(font, lines[-1] + piece) <= width:
                lines[-1] += piece
                break
            fits = next((i for i in range(len(piece), 1, -1) if _width(font, piece[:i]) <= width), 1)
            lines.append(piece[:fits])
            piece = piece[fits:]
    return [one.strip() for one in lines if one.strip()]
