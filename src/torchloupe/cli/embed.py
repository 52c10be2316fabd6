"""loupe embed, project, tsne, compare-points, adjust-3d: from a model and a data set to a map, its numbers, its picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Drawing, Model, Running, Words, pairs, say
from torchloupe.errors import BadInput
from torchloupe.render.look import Look

if TYPE_CHECKING:
    from torchloupe.methods.project import Progress
    from torchloupe.points import Points

DEFAULT_MODEL, DEFAULT_LOOK, WIDE_LOOK = Model(), Drawing(), Drawing(fig_size=(14.0, 7.5))
DEFAULT_RUNNING = Running(batch_size=32)
FEW = 30
Flag = Annotated[bool, Parameter(negative="")]
Output = Annotated[Path, Parameter(name=["--output", "-o"])]
MapArguments = Annotated[Words | None, Parameter(name=["--args", "-T", "--TSNE-ARGS"])]


def embed(
    run: Path | None = None,
    /,
    *,
    model: str | None = None,
    data: str | None = None,
    layer: str | None = None,
    pool: Literal["mean", "max", "flatten", "parts"] | None = None,
    of: Literal["features", "maps"] = "features",
    method: str | None = None,
    question: str | None = None,
    side: int | None = None,
    output: Output = Path("feats.npz"),
    labels: Path | None = None,
    running: Annotated[Running, Parameter(name="*")] = DEFAULT_RUNNING,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
) -> int:
    """Embed a data set: a feature vector of every sample, with its id and labels.

    Of a classifier the best class of every sample stands beside it as the column predicted and, where the labels are names
    of classes, errors (wrong, right). The same command goes on with what a killed one has done.

    `loupe embed --of maps RUN` takes the heatmaps of a run of `loupe cam` instead: samples that a model judges for the same
    reason lie together.

    Parameters:
        run: With --of maps: the folder of the heatmaps.
        model: timm:NAME, transformers:FOLDER, torchvision:NAME, torch:package.module:factory, mmpretrain:CONFIG.py,
            opengait:CONFIG.yaml.
        data: folder:PATH, pictures whose first folder is their label; sequences:PATH, a gait tree ID/TYPE/VIEW/; or what a tool
            exports: list:FILE, csv:FILE (its other columns come along), coco:FILE.json?images=DIR, yolo:FILE.yaml, voc:DIR,
            labelme:DIR, cvat:FILE.xml, hf:DIR, webdataset:GLOB, torch:module:factory. Behind ?: phase=val; crops, the objects
            in place of the pictures, with margin=0.1 around; detections=FILE, a detector's boxes, with score=0.5.
        layer: Whose activation is pooled; output is what the model returns. Default: the output of an embedder, the
            last of the default layers of any other model.
        pool: How a layer becomes a vector: mean (default) or max over time, rows and columns; flatten, everything; parts,
            every row a body part.
        of: What is embedded: features of samples, or maps, the heatmaps of a run.
        method: With --of maps: whose maps, where the run has several.
        question: With --of maps: only the maps that answer this question, such as a class.
        side: With --of maps: the size that maps are brought to at most (16).
        output: .npz or .parquet, with a JSON record beside it.
        labels: Label columns from a .csv or .parquet, joined by id.
    """
    from torchloupe.arrange import check_writable, gather, join_labels, reasons_file
    from torchloupe.runs.run import Job
    from torchloupe.store import sha256

    if of == "maps":
        wrong = [name for name, given in (("--model", model), ("--data", data), ("--pool", pool)) if given is not None]
        if wrong or run is None:
            raise BadInput(
                f"{wrong[0]}: has no effect with --of maps, whose maps are made already"
                if wrong
                else "--of maps: name the folder of heatmaps that loupe cam wrote: loupe embed --of maps RUN"
            )
        maps = reasons_file(run, output, method=method, layer=layer, question=question, side=side, labels=labels)
        print(
            f"{output}: {len(maps):,} maps of {maps.record['method']} at {maps.record['layer']}, {_sides(maps)}{_errors(maps)}"
        )
        return 0
    for option, value in (("RUN", run), ("--method", method), ("--question", question), ("--side", side)):
        if value is not None:
            raise BadInput(f"{option} {value}: has a meaning with --of maps alone; leave it out")
    if model is None or data is None:
        raise BadInput(f"{'--model' if model is None else '--data'}: missing; embedding needs a model and a data set")
    if running.store != "auto":
        raise BadInput(f"--store {running.store}: features are one file, {output}; leave it out")
    if running.precision != "float32":
        raise BadInput(
            f"--precision {running.precision}: it is of maps in shards, and features keep all digits; leave it out"
        )
    check_writable(output, labels, loading.weights)
    job = Job("features of samples", loading.words(model), {"samples": data}, {"layer": layer, "pool": pool or "mean"})
    work = job.open()
    for notice in work.notices:
        say(f"loupe: {notice}")
    record = {"data": data, "weights": work.subject.notes.get("weights"), "joined": labels and sha256(labels)}
    together = replace(running, batch_size=min(running.batch_size, work.data.together or running.batch_size))
    go = lambda results: together.run(job, work, results, "samples embedded")
    points, done = gather(work, output, go, record, running.again)
    if labels is not None:
        points = join_labels(points, labels, output)
    shape = " x ".join(map(str, points.feats.shape[1:]))
    print(f"{output}: {len(points):,} samples x {shape} from {points.record['layer']}{_errors(points)}")
    for line in done.told():
        say(line)
    return done.status


def _sides(points: Points) -> str:
    return " x ".join(map(str, points.record["size"]))


def _errors(points: Points) -> str:
    """How many errors there are, where that is known."""
    from torchloupe.methods.clusters import ERRORS

    said = points.columns.get(ERRORS)
    if said is None:
        return ""
    return f", {int((said == 'wrong').sum()):,} of {int((said != '').sum()):,} labelled ones wrong"


def clusters(
    points: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    name_by: str | None = None,
    errors: str | None = None,
    smallest: int | None = None,
    count: int | None = None,
    seed: int = 1597,
) -> None:
    """The clusters of a map or of features: how many, what they have in common, where errors gather.

    They become a column `cluster`, by which maps are coloured and named.

    Parameters:
        points: A map, clustered by density (HDBSCAN), or features, clustered by their graph of neighbours (spectral
            clustering, as many as its eigenvalues tell).
        output: The same points with the column. Default: NAME.clusters.npz.
        name_by: A column that names the clusters, by its most frequent values or, of texts, their typical words. Default:
            labels, else predicted.
        errors: A column that says what is wrong (wrong or right, true or false); clusters with most errors come first.
            Default: errors, where there is one.
        smallest: Of a map: fewest points of a cluster. Default: a 120th of all, at least 8.
        count: Of features: how many clusters.
        seed: Same seed, same clusters.
    """
    from torchloupe.arrange import clusters_file

    out = output or points.with_suffix(".clusters.npz")
    made, found = clusters_file(points, out, name_by=name_by, errors_in=errors, least=smallest, count=count, seed=seed)
    known = bool(found) and found[0].errors is not None
    print(f"{out}: {len(found)} clusters, {len(made) - sum(len(group.rows) for group in found):,} points in none")
    print(
        f"{'cluster':>7} {'points':>7} {'errors':>7}  in common"
        if known
        else f"{'cluster':>7} {'points':>7}  in common"
    )
    for told in made.record["clusters"][:FEW]:
        share = f" {told['errors']:>7.1%}" if known else ""
        common = ", ".join(f"{value} {part:.0%}" for value, part in told["common"].items())
        name = f"{told['name']}; {common}" if told["common"] and told["name"].split(" ")[0] not in common else common
        print(f"{told['cluster']:>7} {told['points']:>7,}{share}  {name or '-'} (in the middle: {told['middle']})")
    if len(found) > FEW:
        print(f"... {len(found)} clusters in {out.with_suffix('.json')}")


def search(
    feats: Path,
    /,
    *,
    label: str = "labels",
    query: str | None = None,
    gallery: str | None = None,
    apart: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    metric: Literal["euc", "cos"] = "euc",
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
) -> None:
    """How well an embedding finds what belongs together: Rank-k, mAP and mINP of queries in a gallery.

    Without --query and --gallery every sample is searched for among all others.

    Parameters:
        feats: Features, as for loupe project.
        label: The column that tells what belongs together.
        query: Which rows ask: COLUMN=VALUE, or COLUMN=VALUE,VALUE. Default: all.
        gallery: Which rows are searched through. Default: all.
        apart: Columns such as the camera: items of the query's own label that have its value in all of them are left out.
        metric: Euclidean distance or cosine.
        output: A table (.csv), a row a query, with the numbers in JSON beside it.
    """
    from torchloupe.arrange import search_file

    _, found = search_file(feats, output, label=label, query=query, gallery=gallery, apart=apart or (), metric=metric)
    known = int(found.known.sum())
    print("  ".join(f"{name} {value:.1%}" for name, value in found.numbers().items()))
    print(f"{known:,} queries, {len(found.items):,} items, by {label}" + (f"; {output}" if output else ""))
    if known < len(found.queries):
        say(f"{len(found.queries) - known} queries have no item of their own {label} to find and are left out")


def project(
    feats: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    method: str = "auto",
    dims: Annotated[int, Parameter(name=["--dims", "-e"])] = 2,
    args: MapArguments = None,
    metric: str = "euclidean",
    parts: str = "flatten",
    normalize: Literal["none", "l2", "zscore", "minmax"] | None = None,
    reduce: int | None = None,
    neighbours: Literal["auto", "exact", "approximate"] = "auto",
    bucket_size: Annotated[int | None, Parameter(name=["--bucket-size", "-b"])] = None,
    into: Path | None = None,
    labels: Path | None = None,
    vector: str | None = None,
    supervise: str | None = None,
    drop_bad: Flag = False,
    numbers: Annotated[bool, Parameter(negative="--no-numbers")] = True,
    k: int = 15,
    seed: int = 1597,
) -> None:
    """Project features to a map: t-SNE, UMAP, PCA, LocalMAP, or any scikit-learn style class.

    Parameters:
        feats: .npz with feats and labels, .npy, or .parquet with a column of vectors; may be larger than memory.
        output: The map, .npz or .parquet, with a JSON record beside it. Default: NAME.points.npz. The same command goes
            on with what a killed one has done.
        method: tsne, umap, densmap, pca, localmap, pacmap, or a class such as sklearn.manifold.Isomap. auto: t-SNE up to 1,000,000
            points, UMAP above.
        dims: Dimensions of the map.
        args: Parameters of the implementation: NAME=VALUE ...
        metric: cosine: rows are brought to unit length. precomputed: the rows are the distances of all points from all.
            Or manhattan, correlation, chebyshev and others of scikit-learn's, by all distances.
        parts: Of body parts (N, c, p): flatten them, the mean over them, or the number of one.
        normalize: Of the features, first. Default: l2 for body parts, none for vectors.
        reduce: First to so many dimensions by PCA; 0: never. Default: only where rows are wider than 512 (to 256), or more
            than 300,000 (to 64).
        neighbours: The search for nearest neighbours; auto: exact up to 20,000 points.
        bucket_size: Project independent buckets of so many points. Not needed to save memory; places in different buckets
            cannot be compared.
        into: Place these points in a map that exists (pca, tsne, umap) instead of making one.
        labels: Label columns from another file: .csv or .parquet joined by id, .npy or .npz in the same order.
        vector: The array or column that holds the features.
        supervise: A column that umap and densmap shall follow; points without a value are placed by their features alone.
        drop_bad: Leave out rows with NaN or infinity instead of stopping.
        numbers: Trustworthiness, kept neighbours, k-NN accuracy, silhouette.
        k: Neighbours that the numbers look at.
        seed: Same seed, same map.
    """
    from torchloupe.arrange import place_file, project_file

    out = output or feats.with_suffix(".points.npz")
    if into is not None:
        if method != "auto" or args or supervise:
            raise BadInput(
                "--into uses the method and parameters of the map; leave out --method, --args and --supervise"
            )
        placed = place_file(feats, into, out, labels=labels, vector=vector, progress=_progress())
        print(f"{out}: {placed.record['placed']} new points among {len(placed) - placed.record['placed']}")
        return
    points = project_file(
        feats,
        out,
        method=method,
        dims=dims,
        parameters=pairs(args or (), "--args"),
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
        supervise=supervise,
        numbers=numbers,
        k=k,
        progress=_progress(),
        started=lambda plan: say(f"loupe: {plan}"),
    )
    report(points, out)


def tsne(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c", "--config-path", "--config_path"])],
    embed_dim: Annotated[int, Parameter(name=["--embed-dim", "-e", "--embed_dim"])] = 2,
    bucket_size: Annotated[int | None, Parameter(name=["--bucket-size", "-b", "--bucket_size"])] = None,
    dataset_dir: Annotated[Path | None, Parameter(name=["--dataset-dir", "-d", "--dataset_dir"])] = None,
    save_dir: Annotated[Path, Parameter(name=["--save-dir", "-s", "--save_dir"])] = Path("tsne"),
    args: Annotated[Words | None, Parameter(name=["--TSNE-ARGS", "-T", "--TSNE_ARGS", "--args"])] = None,
    weights: Annotated[Path | None, Parameter(name=["--weights", "-w"])] = None,
    method: str = "tsne",
    opengait: Path | None = None,
    cmap: str | None = None,
    verbose: Flag = False,
    seed: int = 1597,
    device: str = "auto",
    unsafe_load: Flag = False,
    look: Annotated[Drawing, Parameter(name="*")] = DEFAULT_LOOK,
) -> None:
    """A gait model's data set as one picture: embed, project, draw.

    Writes feats.npz, points.npz (with their records) and a picture into a folder. Each step that is there already and
    asks the same is not done again.

    Parameters:
        config: OpenGait's YAML.
        embed_dim: Dimensions of the map.
        bucket_size: Project independent buckets of so many sequences. Not needed to save memory.
        dataset_dir: The tree ID/TYPE/VIEW/. Default: dataset_root of the config.
        save_dir: Where the results go.
        args: Parameters of the implementation: perplexity=50 ...
        weights: Checkpoint. Default: the one that restore_hint of the config means.
        method: tsne, umap, pca, ...
        opengait: A checkout of OpenGait, whose own classes build a model that is not built in (runs its code).
        cmap: A colour map of matplotlib.
        verbose: Say how the projection goes also where no terminal shows it.
        seed: Same seed, same map.
        device: auto, cpu, cuda, or a GPU's number.
        unsafe_load: Let the checkpoint run code while it is read. Only for files that you trust.
    """
    from torchloupe.arrange import embed_file, is_made, project_file
    from torchloupe.render.points import draw_points
    from torchloupe.sources import subject
    from torchloupe.sources.opengait import gait
    from torchloupe.sources.opengait_config import read_config
    from torchloupe.sources.samples import samples
    from torchloupe.store import plain

    settings = read_config(config)
    tree = dataset_dir or settings.blocks["data_cfg"].get("dataset_root")
    if not tree:
        raise BadInput(f"{config}: names no dataset_root; give the tree of sequences with --dataset-dir")
    given = weights or settings.checkpoint
    if given is None:
        raise BadInput(f"{config}: restore_hint is 0, so no checkpoint is known; give one with --weights")
    if opengait is None:
        model = subject(f"opengait:{config}", weights=given, device=device, unsafe_load=unsafe_load)
    else:
        model = gait(config, given, checkout=opengait, device=device, unsafe=unsafe_load)
    show = _spoken if verbose else _progress()
    feats, points = save_dir / "feats.npz", save_dir / "points.npz"
    data = samples(f"sequences:{tree}")
    record = {"data": f"sequences:{tree}", "weights": plain(model.notes.get("weights"))}
    if not is_made(feats, {**record, "model": model.spec}, data.stamp):
        embed_file(model, data, feats, record=record, progress=show)
    made = project_file(
        feats,
        points,
        method=method,
        dims=embed_dim,
        parameters=pairs(args or (), "--TSNE-ARGS"),
        seed=seed,
        bucket=bucket_size,
        progress=show,
        started=lambda plan: say(f"loupe: {plan}"),
    )
    report(made, points)
    print(draw_points(points, look=look, cmap=cmap))


def compare_points(
    first: Path,
    second: Path,
    /,
    *,
    output: Output = Path("compared.png"),
    method: str = "auto",
    most: int = 30,
    cmap: str | None = None,
    dpi: int = 150,
    seed: int = 1597,
    look: Annotated[Drawing, Parameter(name="*")] = WIDE_LOOK,
) -> None:
    """Two models or checkpoints on the same samples: maps side by side, aligned, with the points that moved most.

    Parameters:
        first: Features or a map of the first model.
        second: The same of the second model; samples are matched by id.
        output: The picture; numbers go to a JSON file beside it.
        method: How features are projected; maps are taken as they are.
        most: Lines between the two places of so many points, those that moved most.
        cmap: A colour map of matplotlib.
        dpi: Pixels an inch.
        seed: Of the projections.
    """
    import json

    from torchloupe.arrange import compare_files, files_of
    from torchloupe.render.points import check_format, save, side_by_side
    from torchloupe.store import aside, never_over

    check_format(output.suffix)
    for name in ("save_ext", "shape_by", "images", "labels"):
        if getattr(look, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} has no effect on two maps side by side; leave it out")
    never_over((*files_of(first), *files_of(second)), files_of(output))
    one, two, aligned, cka = compare_files(first, second, method=method, seed=seed)
    moved = aligned.most(max(0, most))
    caption = f"{len(one):,} samples, disparity after alignment {aligned.disparity:.3f}"
    caption += "" if cka is None else f", linear CKA of the features {cka:.3f}"
    figure = side_by_side(one, two, moved, (first.stem, second.stem), look, cmap=cmap, dpi=dpi, caption=caption)
    save(figure, output, transparent=look.transparent)
    record = {
        "kind": "comparison",
        "files": [str(first), str(second)],
        "samples": len(one),
        "disparity": aligned.disparity,
        "linear_cka": cka,
        "moved_most": [{"id": str(one.ids[row]), "moved": float(aligned.moved[row])} for row in moved],
    }
    with aside(output.with_suffix(".json")) as (draft,):
        draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {caption}")


def film(
    *feats: Path,
    output: Output = Path("film.npz"),
    names: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    method: str = "auto",
    dims: Annotated[int, Parameter(name=["--dims", "-e"])] = 2,
    cmap: str | None = None,
    dpi: int = 100,
    seed: int = 1597,
    look: Annotated[Drawing, Parameter(name="*")] = DEFAULT_LOOK,
) -> None:
    """A film of training: the same samples through several checkpoints, map after map.

    Each map begins from the one before and is laid on it. What lies on disk is redrawn by loupe draw.

    Parameters:
        feats: Features of the checkpoints, in order; samples are matched by id.
        output: The maps, .npz, with their numbers in JSON beside it; the picture has its name.
        names: What the maps are called. Default: the files' names.
        method: tsne, umap, pca ...
        dims: Dimensions of the maps.
        cmap: A colour map of matplotlib.
        dpi: Pixels an inch.
        seed: Of the projections.
    """
    from torchloupe.arrange import film_files
    from torchloupe.render.film import draw_film
    from torchloupe.render.points import check_format

    check_format(look.save_ext or "gif")
    made = film_files(feats, output, names=names or (), method=method, dims=dims, seed=seed, progress=_progress())
    for told in made.record["maps"]:
        line = f"{told['name']}: kept neighbours {told['kept_neighbours']:.3f}"
        if "knn_accuracy" in told:
            line += f", k-NN accuracy {told['knn_accuracy']['features']:.3f} in feature space, {told['knn_accuracy']['map']:.3f} on the map"
        print(line + ("" if told["disparity"] is None else f", disparity from the one before {told['disparity']:.3f}"))
    print(draw_film(output, look=look, cmap=cmap, dpi=dpi))


def adjust_3d(
    points: Path,
    /,
    *,
    cmap: str | None = None,
    dpi: int = 150,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    port: int = 0,
    look: Annotated[Drawing, Parameter(name="*")] = DEFAULT_LOOK,
) -> None:
    """Turn a 3-D map in the browser, save the view, and redraw the picture from it.

    The page comes from this machine only (127.0.0.1). "save view" writes NAME.view.json, which every later drawing of
    these points uses, draws the picture, and ends the command.

    Parameters:
        points: A map of three dimensions.
        cmap: A colour map of matplotlib.
        dpi: Pixels an inch.
        browser: Open a browser; otherwise only the address is printed.
        port: Of the address; 0: any that is free.
    """
    import webbrowser
    from threading import Thread

    from torchloupe.render.page.turn import serve
    from torchloupe.render.points import check_format, draw_points

    check_format(look.save_ext or "png")

    def ready(address: str) -> None:
        say(f"loupe: turn the map at {address} and press 'save view' (Ctrl-C ends without saving)")
        if browser:  # some commands in $BROWSER return only when the browser is closed
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    saved = serve(points, ready, port=port, look=look, cmap=cmap)
    print(saved)
    print(draw_points(points, look=replace(look, view=str(saved)), cmap=cmap, dpi=dpi))


def report(points: Points, out: Path) -> None:
    """What was made, its numbers in a line, and the reasons for doubt."""
    import warnings

    from torchloupe.errors import LoupeWarning

    record = points.record
    chosen = f" (chosen by {record['chosen_by']})" if record["chosen_by"] != "user" else ""
    print(f"{out}: {len(points):,} points by {record['method']}{chosen} in {record['seconds']:.1f} s")
    numbers = record.get("numbers")
    if numbers:
        line = f"trustworthiness {numbers['trustworthiness']:.3f}, kept neighbours {numbers['kept_neighbours']:.3f}"
        for name, title in (("knn_accuracy", "k-NN accuracy"), ("silhouette", "silhouette")):
            if name in numbers:
                line += (
                    f", {title} {numbers[name]['features']:.3f} in feature space, {numbers[name]['map']:.3f} on the map"
                )
        worst = numbers.get("worst")
        sample = f", on a sample of {numbers['points_asked']:,}" if numbers["on_a_sample"] else ""
        print(f"{line} (k = {numbers['k']}{sample})")
        if worst:
            print(
                f"least is kept around {worst['id']}: {worst['kept_around']:.3f} of the neighbours (--color-by map_kept)"
            )
    for doubt in record.get("doubts", []):
        warnings.warn(doubt, LoupeWarning, stacklevel=2)


def _parts(text: str) -> Any:
    if text in ("flatten", "mean"):
        return text
    if not text.isdigit():
        raise BadInput(f"--parts {text!r}: expected flatten, mean or the number of a part")
    return int(text)


def _spoken(stage: str, done: int, total: int) -> None:
    """Progress as lines."""
    say(f"loupe: {stage} {done}/{total}")


def _progress() -> Progress:
    """Progress as one line that is written over, with the time left; silent where standard error is no terminal."""
    import sys
    import time

    from torchloupe.methods.project import quiet

    if not sys.stderr.isatty():
        return quiet
    begun: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        spent = time.monotonic() - begun.setdefault(stage, time.monotonic())
        left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total else ""
        rate = f", {done / spent:.0f} a second" if done and spent > 1 else ""
        count = f" {done}/{total}" if total > 1 else ""
        end = "\n" if done == total else ""
        print(f"\r\033[Kloupe: {stage}{count}{rate}{left}", end=end, file=sys.stderr, flush=True)

    return show


def demo(
    *,
    save: Annotated[Path, Parameter(name=["--save", "-s", "-o"])] = Path("embed-demo"),
    steps: int = 1500,
    seconds: float = 60.0,
    walkers: int = 10,
    seed: int = 0,
) -> None:
    """How training rearranges the data: digits through a network before and after, walkers through a gait network.

    Writes features, maps, pictures, pages and a comparison, and prints what the numbers say.

    Parameters:
        save: Folder to write to.
        steps: Training steps of the network that reads digits on photographs.
        seconds: Length of the gait network's training; 0: leave the walkers out.
        walkers: Walkers to look at; others are trained on.
        seed: Of data, networks, training and maps.
    """
    _demo_digits(save / "digits", steps, seed)
    if seconds > 0:
        _demo_walkers(save / "walkers", seconds, walkers, seed)


def _demo_digits(folder: Path, steps: int, seed: int, pictures: int = 500) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from torchloupe import store
    from torchloupe.arrange import embed_file, project_file
    from torchloupe.examples import digits as example
    from torchloupe.probe import Batch
    from torchloupe.render.points import draw_points
    from torchloupe.runs.progress import progress
    from torchloupe.sources.samples import samples

    def prepare(images: Any, ids: Any = ()) -> Batch:
        return example.as_batch(example.Scenes(np.stack([np.asarray(image) for image in images]), np.empty(0)), ids)

    to_learn, held_out = example.material(seed)
    seen = example.scenes(held_out, pictures, np.random.default_rng(seed), most=1)
    for i, (picture, present) in enumerate(zip(seen.pictures, seen.present, strict=True)):
        with store.aside(folder / "pictures" / example.CLASSES[int(present.argmax())] / f"{i:04d}.png") as (draft,):
            Image.fromarray(picture).save(draft)
    print(f"{pictures} held-out pictures: a real digit on a photograph, neither of them trained on")
    torch.manual_seed(seed)
    model = example.network().eval()
    for name in ("before", "after"):
        if name == "after":
            with progress("training", steps) as bar:
                model = example.train(to_learn, seed=seed, steps=steps, progress=bar.advance)
        subject = replace(example.subject(model), prepare=prepare)
        feats, points = folder / f"{name}.feats.npz", folder / f"{name}.npz"
        embed_file(subject, samples(f"folder:{folder / 'pictures'}"), feats, layer="pool", batch=100)
        report(project_file(feats, points, method="tsne", seed=seed), points)
        look = Look(title=f"Digits on photographs, {name} training", images=folder / "pictures")
        for save_ext in ("png", "html"):
            print(f"  {draw_points(points, folder / f'{name}.{save_ext}', look)}")
    compare_points(folder / "before.feats.npz", folder / "after.feats.npz", output=folder / "compared.png", seed=seed)


def _demo_walkers(folder: Path, seconds: float, walkers: int, seed: int) -> None:
    import torch

    from torchloupe import store
    from torchloupe.arrange import embed_file, numbers_by, project_file
    from torchloupe.examples import gait as example
    from torchloupe.examples.walkers import write_tree
    from torchloupe.render.points import draw_points
    from torchloupe.sources import subject
    from torchloupe.sources.samples import samples

    if walkers < 2:
        raise BadInput(f"--walkers {walkers}: expected 2 or more")
    print(f"walkers: {walkers} (synthetic: drawn, not filmed), through a GaitSet trained on 24 others")
    known = example.Crowd.of(range(100, 124), example.TRAINED_ON, frames=16, seed=seed)
    module = example.train(known, steps=180, seconds=seconds, seed=seed)
    store.whole(folder / "gaitset.yaml", example.CONFIG)
    with store.aside(folder / "gaitset.pt") as (draft,):
        torch.save({"model": module.state_dict()}, draft)
    write_tree(folder / "tree", range(1, 1 + walkers), ("nm-05", "bg-01", "cl-01"), frames=16, seed=seed)
    model = subject(f"opengait:{folder / 'gaitset.yaml'}", weights=folder / "gaitset.pt")
    embed_file(model, samples(f"sequences:{folder / 'tree'}"), folder / "feats.npz")
    points = project_file(folder / "feats.npz", folder / "points.npz", method="tsne", seed=seed)
    report(points, folder / "points.npz")
    for column, title in (("labels", "identity"), ("view", "view"), ("type", "clothing")):
        found = numbers_by(folder / "feats.npz", folder / "points.npz", column)
        assert found.accuracy is not None
        print(
            f"  by {title}: {found.accuracy[0]:.0%} of {found.k}-NN in feature space, {found.accuracy[1]:.0%} on the map"
        )
        look = Look(title=f"Walkers by {title}", color_by=column, color_as="categories")
        print(f"  {draw_points(folder / 'points.npz', folder / f'by-{title}.png', look)}")
