"""`loupe draw`: results drawn again with other settings, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from torchloupe.render.features import Change
from torchloupe.render.look import Look
from torchloupe.render.style import Style

KINDS: dict[str, str] = {
    "maps": "torchloupe.render.pictures:redraw",
    "curves": "torchloupe.render.curves:redraw",
    "census": "torchloupe.render.samples:redraw",
    "gait maps": "torchloupe.render.sequences:redraw",
    "pose maps": "torchloupe.render.pose_report:redraw",
    "pose joints": "torchloupe.render.pose_report:redraw_joints",
}
"""Kind of result -> function(paths, save, style, methods, layers, targets) -> the paths written."""

POINTS = ("projection", "features", "points")
"""Kinds that are drawn as points."""

SIGNS: dict[str, str] = {"feats": "points", "RI": "pose maps", "decoded": "pose joints"}
"""An array that tells the kind of an npz file that has no record beside it."""

FEATURES = ("feature maps", "difference", "cka")
"""Kinds that are drawn as feature maps."""

STYLE, LOOK, CHANGE = Style(), Look(), Change()


def draw(
    results: Annotated[list[str], Parameter(negative=())],
    *,
    save: Annotated[str | None, Parameter(name=["--save", "-o", "--save-path", "--save_path"])] = None,
    method: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    layers: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    target: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    style: Annotated[Style, Parameter(name="*")] = STYLE,
    look: Annotated[Look, Parameter(name="*")] = LOOK,
    change: Annotated[Change, Parameter(name="*")] = CHANGE,
) -> None:
    """Draw results again with other settings, without running the model.

    Args:
        results: Results (.npz, .json or the stem of both), globs of them, or folders of them.
        save: A file such as out.png, or a folder. Default: beside the first result.
        method: Only these methods (names or globs).
        layers: Only these layers (names or globs).
        target: Only these questions (names, globs, or a part of a name that only it has).
        style: How to draw.
        look: How to draw points.
        change: How to draw feature maps.
    """
    from torchloupe.errors import BadInput
    from torchloupe.named import own

    paths = found(results)
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(kind_of(path), []).append(path)
    written = []
    for kind, some in kinds.items():
        if kind in POINTS:
            from torchloupe.render.points import redraw

            written += redraw(some, save, style, look)
            continue
        if kind in FEATURES:
            from torchloupe.render.features import redraw as redraw_features

            written += redraw_features(some, save, style, method or (), layers or (), target or (), change)
            continue
        if kind not in KINDS:
            raise BadInput(
                f"{some[0]}: no way to draw a result of kind {kind!r}; known: {', '.join((*KINDS, *FEATURES, *POINTS))}"
            )
        written += own(KINDS[kind])(some, save, style, method or (), layers or (), target or ())
    for picture in written:
        print(picture)


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


def kind_of(path: Path) -> str:
    """The kind that the record tells, or the arrays of an npz file that has no record."""
    from torchloupe import store
    from torchloupe.errors import BadInput

    if path.suffix in (".npy", ".parquet"):
        return "points"
    data, words = store.pair(path)
    if data.is_file() and not words.is_file():
        held = store.load_arrays(data)
        told = next((kind for sign, kind in SIGNS.items() if sign in held), None)
    else:
        told = store.load(path).record.get("kind")
    if not isinstance(told, str):
        raise BadInput(f"{path}: no 'kind' in its record; is it a result of loupe?")
    return told
