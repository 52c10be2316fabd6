"""How results are drawn: every option of drawing, checked once. Light enough for the command line to import."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torchloupe.errors import BadInput, nearest

FORMATS = ("png", "jpg", "webp", "pdf", "svg")
VECTOR = ("pdf", "svg")
LARGEST = 20_000


@dataclass(frozen=True)
class Style:
    """How heatmaps are drawn.

    Attributes:
        cmap: Colour map: any name that matplotlib knows, such as jet; auto takes inferno, and coolwarm for maps whose
            sign matters.
        opacity: How much the colours cover the picture, from 0 to 1.
        fade: The opacity grows with the value, so that the picture stays as it is where the map is 0. Default: for maps
            whose sign matters only, since the pale middle of their colours would fog the picture.
        resize: Size of the drawn picture: a factor such as 2, or WIDTHxHEIGHT in pixels such as 640x480.
        dpi: Pixels an inch of grids and colour bars.
        format: Kind of file where the name to save to has no ending: png, jpg, webp, pdf or svg.
        scale: What shares one scale of colours: map (every map, and every frame of a sequence, by its own maximum),
            sequence (all frames of a map), run (all samples and questions of a method at a layer).
        fuse: Join the layers into one map, each scaled by its maximum first: mean or max.
        compare: One labelled grid a sample (questions x layers x methods beside the input) in place of single pictures.
        colorbar: A bar that explains the colours. Default: in grids only.
        boxes: Boxes over the pictures of a detector, with labels and scores: own (the one that the map explains), all
            (every detection), none; of a segmenter, own is the outline of the region.
        confine: Colours inside the explained box or region only; the picture around it stays as it is.
        video: Of samples of several frames: a moving gif or mp4 for each map, or with compare one of all beside the input.
        fps: Frames a second of the video.
    """

    cmap: str = "auto"
    opacity: float = 0.5
    fade: bool | None = None
    resize: str | None = None
    dpi: int = 300
    format: Literal["png", "jpg", "webp", "pdf", "svg"] = "png"
    scale: Literal["map", "sequence", "run"] = "map"
    fuse: Literal["mean", "max"] | None = None
    compare: bool = False
    colorbar: bool | None = None
    boxes: Literal["own", "all", "none"] = "own"
    confine: bool = False
    video: Literal["gif", "mp4"] | None = None
    fps: float = 6

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise BadInput(f"opacity {self.opacity}: expected a number from 0 (picture only) to 1 (colours only)")
        if not 20 <= self.dpi <= 2400:
            raise BadInput(f"dpi {self.dpi}: expected a number from 20 to 2400")
        _choice("format", self.format, FORMATS)
        _choice("scale", self.scale, ("map", "sequence", "run"))
        _choice("boxes", self.boxes, ("own", "all", "none"))
        if self.fuse is not None:
            _choice("fuse", self.fuse, ("mean", "max"))
        if self.video is not None:
            _choice("video", self.video, ("gif", "mp4"))
        elif self.fps != Style.fps:
            raise BadInput(f"fps {self.fps}: has a meaning for a video alone; ask for one, gif or mp4, or leave it out")
        if not 0 < self.fps <= 60:
            raise BadInput(f"fps {self.fps}: expected more than 0, at most 60")
        self.size(1, 1)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that a picture of this size is drawn at. Errors: BadInput for a resize that is no size."""
        if self.resize is None:
            return height, width
        fixed = re.fullmatch(r"(\d+)\s*[*x×,]\s*(\d+)", self.resize.strip())
        if fixed:
            found = int(fixed[2]), int(fixed[1])
            if not all(1 <= side <= LARGEST for side in found):
                raise BadInput(f"resize {self.resize!r}: expected sides from 1 to {LARGEST} pixels")
            return found
        try:
            factor = float(self.resize)
        except ValueError:
            factor = float("nan")
        if not 0 < factor <= 100:
            raise BadInput(
                f"resize {self.resize!r}: expected a factor up to 100, such as 2, or WIDTHxHEIGHT, such as 640x480"
            )
        found = max(1, round(height * factor)), max(1, round(width * factor))
        if max(found) > LARGEST:
            raise BadInput(f"resize {self.resize!r}: {found[1]} x {found[0]} pixels is more than {LARGEST} a side")
        return found


def style(**options: object) -> Style:
    """A Style from keywords. Errors: BadInput that offers the nearest option for an unknown one."""
    known = Style.__dataclass_fields__
    for name in options:
        if name not in known:
            raise BadInput(f"no drawing option {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    if options.get("resize") is not None:
        options["resize"] = _resize(options["resize"])
    return Style(**options)  # type: ignore[arg-type]


def _resize(value: object) -> str:
    """A factor or a (width, height) as people pass them from Python."""
    return "*".join(str(side) for side in value) if isinstance(value, (tuple, list)) else str(value)


def _choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"{option} {value!r}: expected {', '.join(known[:-1])} or {known[-1]}.{nearest(value, known)}")
