"""`loupe draw`: results drawn again with other settings, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from torchloupe.cli.options import Drawing, say
from torchloupe.render.features import Change
from torchloupe.render.style import Style

STYLE, LOOK, CHANGE = Style(), Drawing(), Change()


def draw(
    results: Annotated[list[str], Parameter(negative=())],
    *,
    save: Annotated[str | None, Parameter(name=["--save", "-o", "--save-path", "--save_path"])] = None,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    layers: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    target: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    frames: str = "auto",
    style: Annotated[Style, Parameter(name="*")] = STYLE,
    look: Annotated[Drawing, Parameter(name="*")] = LOOK,
    change: Annotated[Change, Parameter(name="*")] = CHANGE,
) -> None:
    """Draw results again with other settings, without running the model.

    Args:
        results: Results (.npz, .json or the stem of both), globs of them, or folders of them.
        save: A file such as out.png, or a folder. Default: beside the first result.
        method: Only these methods (names or globs).
        layers: Only these layers (names or globs).
        target: Only these questions (names, globs, or a part of a name that only it has).
        frames: Of walks: a number such as 12 (spread evenly), every:5, key (where a map is strongest), all, or auto.
        style: How to draw.
        look: How to draw points.
        change: How to draw feature maps.
    """
    from torchloupe.render.kinds import Wish, redraw

    wish = Wish(style, method or (), layers or (), target or (), look, change, frames)
    written, left = redraw(found(results), save, wish)
    for picture in written:
        print(picture)
    for line in left:
        say(line)


def found(names: list[str]) -> list[Path]:
    """The results behind names, globs and folders, each once. Errors: BadInput where there is none."""
    import glob

    from torchloupe.errors import BadInput

    paths: dict[Path, None] = {}
    for name in names:
        path = Path(name)
        if path.is_dir():
            # a run of `loupe pose` keeps its samples one folder below
            some = sorted(path.glob("*.npz")) or sorted(path.glob("ig/*.npz")) or sorted(path.glob("epe/*.npz"))
            if not some:
                raise BadInput(f"{name}: no result (.npz) in this folder")
        elif glob.has_magic(name) and not path.exists():
            some = sorted(Path(hit) for hit in glob.glob(name) if hit.endswith((".npz", ".json")))
            if not some:
                raise BadInput(f"{name}: no result fits this pattern")
        else:
            some = [path]
        for one in some:
            paths[one.with_suffix(".npz") if one.suffix == ".json" else one] = None
    return list(paths)
