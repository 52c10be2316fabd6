"""loupe project, compare-points, adjust-3d: from features to a map, its numbers and its picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from torchloupe.points import Points

Arguments = Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")]


def project(
    feats: Path,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    method: str = "auto",
    dims: Annotated[int, Parameter(name=["--dims", "-e"])] = 2,
    args: Annotated[Arguments, Parameter(name=["--args", "-T"])] = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    parts: str = "flatten",
    normalize: Literal["none", "l2", "zscore", "minmax"] | None = None,
    reduce: int | None = None,
    neighbours: Literal["auto", "exact", "approximate"] = "auto",
    bucket_size: Annotated[int | None, Parameter(name=["--bucket-size", "-b"])] = None,
    into: Path | None = None,
    labels: Path | None = None,
    vector: str | None = None,
    drop_bad: bool = False,
    numbers: bool = True,
    k: int = 15,
    seed: int = 1597,
) -> None:
    """Project features to a map: t-SNE, UMAP, PCA, LocalMAP, or any scikit-learn style class.

    Parameters
    ----------
    feats
        .npz with feats and labels, .npy, or .parquet with a column of vectors; may be larger than memory.
    output
        The map, .npz or .parquet, with a JSON record beside it. Default: FEATS.points.npz. The same command goes on
        with what a killed one has done.
    method
        tsne, umap, pca, localmap, pacmap, or a class such as sklearn.manifold.Isomap. auto: t-SNE up to 500,000
        points, UMAP above.
    dims
        Dimensions of the map.
    args
        Parameters of the implementation: NAME=VALUE, several in a row.
    metric
        cosine: rows are brought to unit length.
    parts
        Body parts (N, c, p): flatten them, mean over them, or the number of one.
    normalize
        Of the features, first. Default: l2 for body parts, none for vectors.
    reduce
        First to so many dimensions by PCA; 0: never. Default: only where rows are wider than 512 or more than 300,000.
    neighbours
        The search for nearest neighbours. auto: exact up to 20,000 points.
    bucket_size
        Project independent buckets of so many points. Not needed to save memory; places in different buckets cannot be
        compared.
    into
        Place these points in a map that exists (pca, tsne, umap), instead of making one.
    labels
        Label columns from another file: .csv or .parquet joined by id, .npy or .npz in the same order.
    vector
        The array or column that holds the features.
    drop_bad
        Leave out rows with NaN or infinity instead of stopping.
    numbers
        Trustworthiness, kept neighbours, k-NN accuracy, silhouette.
    k
        Neighbours that the numbers look at.
    seed
        Same seed, same map.
    """
    from torchloupe.arrange import place_file, project_file

    out = output or feats.with_suffix(".points.npz")
    if into is not None:
        if method != "auto" or args:
            _refuse("--into uses the method and parameters of the map; leave out --method and --args")
        placed = place_file(feats, into, out, labels=labels, vector=vector, progress=_progress())
        print(f"{out}: {placed.record['placed']} new points among {len(placed) - placed.record['placed']}")
        return
    points = project_file(
        feats,
        out,
        method=method,
        dims=dims,
        parameters=parse_arguments(args or []),
        seed=seed,
        metric=metric,
        parts=_parts(parts),
        normalize=normalize,
        drop_bad=drop_bad,
        reduce=reduce,
        neighbours=neighbours,
        bucket=bucket_size,
        labels=labels,
        vector=vector,
        numbers=numbers,
        k=k,
        progress=_progress(),
        started=_say,
    )
    report(points, out)


def compare_points(
    first: Path,
    second: Path,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("compared.png"),
    method: str = "auto",
    most: int = 30,
    color_by: str | None = None,
    title: str | None = None,
    fig_size: tuple[float, float] = (14.0, 7.5),
    cmap: str | None = None,
    transparent: bool = False,
    seed: int = 1597,
) -> None:
    """Two models or checkpoints on the same samples: maps side by side, aligned, with the points that moved most.

    Parameters
    ----------
    first
        Features or a map of the first model.
    second
        The same of the second model; samples are matched by id.
    output
        The picture; numbers go to a JSON file beside it.
    method
        How features are projected; maps are taken as they are.
    most
        Lines between the two places of so many points, those that moved most.
    color_by
        A column of the first file.
    title
        Above the picture.
    fig_size
        Inches.
    cmap
        A colour map of matplotlib.
    transparent
        No background.
    seed
        Of the projections.
    """
    from torchloupe.arrange import compare_files
    from torchloupe.render.points import Look, check_format, save, side_by_side

    check_format(output.suffix)
    look = Look(title=title, fig_size=fig_size, cmap=cmap, transparent=transparent)
    one, two, aligned, cka = compare_files(first, second, method=method, seed=seed)
    moved = aligned.most(max(0, most))
    caption = f"{len(one):,} samples, disparity after alignment {aligned.disparity:.3f}"
    caption += "" if cka is None else f", linear CKA of the features {cka:.3f}"
    figure = side_by_side(one, two, moved, (first.stem, second.stem), look, color_by=color_by, caption=caption)
    save(figure, output, transparent=transparent)
    record = {
        "kind": "comparison",
        "files": [str(first), str(second)],
        "samples": len(one),
        "disparity": aligned.disparity,
        "linear_cka": cka,
        "moved_most": [{"id": str(one.ids[row]), "moved": float(aligned.moved[row])} for row in moved],
    }
    _write_json(output.with_suffix(".json"), record)
    print(f"{output}: {caption}")


def adjust_3d(
    points: Path,
    *,
    save_ext: str = "png",
    color_by: str | None = None,
    title: str | None = None,
    labels: Path | None = None,
    browser: bool = True,
    port: int = 0,
) -> None:
    """Turn a 3-D map in the browser, save the view, and redraw the picture from it.

    The page comes from this machine only (127.0.0.1). "save view" writes POINTS.view.json, which every later drawing of
    these points uses, draws the picture, and ends the command.

    Parameters
    ----------
    points
        A map of three dimensions.
    save_ext
        The picture's format.
    color_by
        A column.
    title
        Above the picture.
    labels
        Label columns from another file.
    browser
        Open a browser; otherwise only the address is printed.
    port
        Of the address; 0: any that is free.
    """
    import webbrowser

    from torchloupe.render.page.turn import serve
    from torchloupe.render.points import check_format, draw_points

    check_format(save_ext)

    def ready(address: str) -> None:
        _say(f"turn the map at {address} and press 'save view' (Ctrl-C ends without saving)")
        if browser:
            webbrowser.open(address)

    saved = serve(points, ready, port=port, color_by=color_by, title=title, labels=labels)
    print(saved)
    print(draw_points(points, save_ext=save_ext, color_by=color_by, title=title, labels=labels))


def parse_arguments(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE words as Python values: numbers, True, False, None, lists; anything else stays text."""
    import ast

    found = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            _refuse(f"--args {word!r}: expected NAME=VALUE, such as perplexity=50")
        try:
            found[name] = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def report(points: Points, out: Path) -> None:
    """What was made, its numbers in a line, and the reasons for doubt."""
    import warnings

    from torchloupe.errors import LoupeWarning

    record = points.record
    chosen = f" ({record['chosen_by']})" if record["chosen_by"] != "user" else ""
    print(f"{out}: {len(points):,} points by {record['method']}{chosen} in {record['seconds']:.1f} s")
    numbers = record.get("numbers")
    if numbers:
        line = f"trustworthiness {numbers['trustworthiness']:.3f}, kept neighbours {numbers['kept_neighbours']:.3f}"
        for name, title in (("knn_accuracy", "k-NN accuracy"), ("silhouette", "silhouette")):
            if name in numbers:
                line += f", {title} {numbers[name]['features']:.3f} in feature space, {numbers[name]['map']:.3f} on the map"
        sample = f", on a sample of {numbers['points_asked']:,}" if numbers["on_a_sample"] else ""
        print(f"{line} (k = {numbers['k']}{sample})")
    for doubt in record.get("doubts", []):
        warnings.warn(doubt, LoupeWarning, stacklevel=2)


def _parts(text: str) -> Any:
    if text in ("flatten", "mean"):
        return text
    if not text.isdigit():
        _refuse(f"--parts {text!r}: expected flatten, mean or the number of a part")
    return int(text)


def _refuse(message: str) -> None:
    from torchloupe.errors import BadInput

    raise BadInput(message)


def _say(line: object) -> None:
    print(f"loupe: {line}", file=sys.stderr, flush=True)


def _write_json(path: Path, record: dict[str, Any]) -> None:
    import json

    from torchloupe.sources.points import whole

    with whole(path) as aside:
        aside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _progress() -> Any:
    """A line that is written over, on a terminal; nothing elsewhere."""
    from torchloupe.methods.project import quiet

    if not sys.stderr.isatty():
        return quiet

    import time

    begun: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        start = begun.setdefault(stage, time.monotonic())
        spent = time.monotonic() - start
        left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total else ""
        count = f" {done}/{total}" if total > 1 else ""
        print(f"\r\033[Kloupe: {stage}{count}{left}", end="\n" if done == total > 1 else "", file=sys.stderr, flush=True)

    return show
