"""Kind of result -> how it is drawn again, without the model.

A drawing of somebody else's kind is known by an entry point of the group `torchloupe.drawings`: its name is the kind's, its
value a function (paths, save, wish) -> the paths written, as all of these are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from torchloupe import store
from torchloupe.errors import BadInput
from torchloupe.kinds import kind_of
from torchloupe.named import own, plugged, registered
from torchloupe.render.style import Style
from torchloupe.store.reading import reading

if TYPE_CHECKING:
    from torchloupe.render.features import Change
    from torchloupe.render.look import Look

HOMES: Mapping[str, str] = {
    "census": "torchloupe.render.samples:redraw",
    "cka": "torchloupe.render.features:redraw",
    "curves": "torchloupe.render.curves:redraw",
    "difference": "torchloupe.render.features:redraw",
    "feature maps": "torchloupe.render.features:redraw",
    "features": "torchloupe.render.points:redraw",
    "film": "torchloupe.render.film:redraw",
    "gait evaluation": "torchloupe.render.evaluation:redraw",
    "gait maps": "torchloupe.render.sequences:redraw",
    "judged": "torchloupe.render.judgement:redraw",
    "gait summary": "torchloupe.render.summary:redraw",
    "maps": "torchloupe.render.pictures:redraw",
    "points": "torchloupe.render.points:redraw",
    "pose joints": "torchloupe.render.pose_report:redraw_joints",
    "pose maps": "torchloupe.render.pose_report:redraw",
    "projection": "torchloupe.render.points:redraw",
}
# kinds whose samples may have frames
MOVING = ("maps", "judged", "gait maps")


@dataclass(frozen=True)
class Wish:
    """How results are to be drawn, and which part of them: methods, layers and targets by names or globs; () for all.

    look: of points; change: of feature maps; frames: of walks, see `render.sequences.Style`. A kind takes what has a meaning
    for it.
    """

    style: Style = field(default_factory=Style)
    methods: Sequence[str] = ()
    layers: Sequence[str] = ()
    targets: Sequence[str] = ()
    look: Look | None = None
    change: Change | None = None
    frames: str = "auto"


Redraw = Callable[[Sequence[Path], "str | None", Wish], "list[Path]"]


def known() -> tuple[str, ...]:
    """The kinds that can be drawn, installed ones included."""
    return tuple(sorted({*HOMES, *registered("drawings")}))


def drawing_of(kind: str) -> Redraw | None:
    """How a kind is drawn; None for one that is not known. Errors: BadInput for one that does not load."""
    if kind in HOMES:
        return own(HOMES[kind])
    point = registered("drawings").get(kind)
    return plugged(point) if point is not None else None


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> tuple[list[Path], list[str]]:
    """Results of any kinds drawn, each kind together: the paths written, and a line for each kind that is not drawn.

    Errors: BadInput where not one of them can be drawn.
    """
    by_kind: dict[str, list[Path]] = {}
    for path in paths:
        by_kind.setdefault(_told(path), []).append(path)
    _has_effect(wish, by_kind)
    written: list[Path] = []
    left: list[str] = []
    for kind, some in by_kind.items():
        draw = drawing_of(kind)
        if draw is None:
            more = f" (and {len(some) - 1} more)" if len(some) > 1 else ""
            left.append(f"{some[0]}{more}: no way to draw a result of kind {kind!r}; known: {', '.join(known())}")
        else:
            with reading(some[0], f"a result of kind {kind!r}"):
                written += draw(some, save, wish)
    if left and len(left) == len(by_kind):
        raise BadInput(left[0])
    return written, left


def _has_effect(wish: Wish, kinds: Collection[str]) -> None:
    """Errors: BadInput for an option of points, of feature maps, of frames or of walks, where no such result is drawn."""
    still = [kind for kind in kinds if kind in HOMES and kind not in MOVING]
    if wish.style.video and still:
        raise BadInput(f"--video is for heatmaps of several frames; these are {', '.join(sorted(still))}: leave it out")
    if wish.frames != "auto" and "gait maps" not in kinds and set(kinds) <= set(HOMES):
        raise BadInput(f"--frames is for walks; these are {', '.join(sorted(kinds))}: leave it out")
    for options, home, what in ((wish.look, "points", "points"), (wish.change, "features", "feature maps")):
        homes = (home, "film") if home == "points" else (home,)
        ours = {kind for kind, path in HOMES.items() if path in {f"torchloupe.render.{one}:redraw" for one in homes}}
        if options is None or ours & set(kinds) or not set(kinds) <= set(HOMES):
            continue
        for one in fields(options):
            if getattr(options, one.name) != one.default:
                option = one.name.replace("_", "-")
                raise BadInput(f"--{option} is for {what}; these are {', '.join(sorted(kinds))}: leave it out")


def _told(path: Path) -> str:
    """The kind that the record tells, or the arrays of an npz file that has no record."""
    if path.suffix in (".npy", ".parquet"):
        return "points"
    data, words = store.pair(path)
    if data.is_file() and not words.is_file():
        return kind_of(store.load_arrays(data), {}, str(path))
    return kind_of({}, store.load(path).record, str(path))
