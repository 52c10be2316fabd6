"""From files to files: a data set to features, features to a map with its numbers, new points into a map, two maps on each other."""

from __future__ import annotations

import csv
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchloupe import __version__
from torchloupe.errors import BadInput, LoupeError, LoupeWarning, nearest
from torchloupe.kinds.film import Film
from torchloupe.methods.arrangement import Aligned, Arrangement, arrangement, linear_cka, procrustes
from torchloupe.methods.clusters import CLUSTER, ERRORS, PREDICTED, Group, are_wrong, clusters, errors, groups, spectral
from torchloupe.methods.kept import Progress, quiet
from torchloupe.methods.project import KEEP_FROM, SEED, Plan, choose, metric_of, place, principal_axes, project
from torchloupe.methods.rows import Parts, Rows, metrics, prepare
from torchloupe.metrics.search import Searched, search
from torchloupe.points import LABELS, Points, missing, numbered
from torchloupe.sources.points import read_points, read_record, with_labels
from torchloupe.sources.tables import pyarrow
from torchloupe.store import aside, never_over, plain, spoken, write_arrays
from torchloupe.store.records import key, load_record
from torchloupe.store.results import RUN, Results, difference
from torchloupe.store.shards import Shards

if TYPE_CHECKING:
    from torchloupe.probe import Subject
    from torchloupe.runs.embed import Embedding
    from torchloupe.runs.run import Summary
    from torchloupe.sources.samples import Samples

PLACED = "placed"
BY_POINT = ("kept", "trust", "stretch")


def files_of(path: str | Path) -> tuple[Path, Path]:
    """A file of points and the record beside it."""
    return Path(path), Path(path).with_suffix(".json")


def check_writable(path: str | Path, *inputs: str | Path | None) -> Path:
    """The path, if points can be written there; else BadInput. Asked before any work is done.

    inputs: files that are read, and must not be overwritten, nor the records beside them.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".parquet"):
        raise BadInput(f"{path}: points are written as .npz or .parquet, not {path.suffix or 'without a suffix'!r}")
    home = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not home.is_dir() or not os.access(home, os.W_OK):
        raise BadInput(f"{path}: cannot be written in {home}; give another place with --output")
    never_over((file for given in inputs if given is not None for file in files_of(given)), files_of(path))
    if path.suffix == ".parquet":
        pyarrow()
    return path


def write_points(points: Points, path: str | Path) -> Path:
    """Write points to .npz (plain arrays) or .parquet, and their record to .json beside it; both or none."""
    path = check_writable(path)
    with aside(path, path.with_suffix(".json")) as (data, words):
        if path.suffix == ".parquet":
            _to_parquet(points, data)
        else:
            write_arrays(data, points.arrays())
        words.write_text(
            json.dumps({**plain(points.record), **spoken()}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return path


def _to_parquet(points: Points, path: Path) -> None:
    package = pyarrow()
    flat = np.ascontiguousarray(points.feats.reshape(len(points), -1))
    vectors = package.FixedSizeListArray.from_arrays(package.array(flat.ravel()), flat.shape[1])
    columns = {"id": package.array(points.ids), "feats": vectors}
    if points.record.get("kind") == "projection":
        columns |= {f"projection_{axis}": package.array(flat[:, i]) for i, axis in enumerate("xyz"[: flat.shape[1]])}
    columns |= {name: package.array(column) for name, column in points.columns.items()}
    package.parquet.write_table(package.table(columns), path)


def project_file(
    feats: str | Path,
    out: str | Path,
    *,
    method: str = "auto",
    dims: int = 2,
    parameters: Mapping[str, Any] | None = None,
    seed: int = SEED,
    metric: str = "euclidean",
    parts: Parts = "flatten",
    normalize: str | None = None,
    drop_bad: bool = False,
    reduce: int | None = None,
    neighbours: str = "auto",
    bucket: int | None = None,
    labels: str | Path | None = None,
    vector: str | None = None,
    supervise: str | None = None,
    numbers: bool = True,
    k: int = 15,
    jobs: int | None = None,
    progress: Progress = quiet,
    started: Callable[[Plan], None] | None = None,
) -> Points:
    """Project a features file and write the map, its record and its numbers.

    feats: what read_points reads. out: .npz or .parquet; while a long projection runs, OUT.part/ holds what a killed run
    needs to go on. Options as in prepare, project and arrangement. supervise: the column that the map shall follow (umap,
    densmap); of words and classes gaps are points that nothing is known of. Returns the map.
    """
    out = check_writable(out, feats, labels)
    if k < 1:
        raise BadInput(f"k {k}: expected 1 or more neighbours")
    points = read_points(feats, labels=labels, vector=vector)
    parameters = dict(parameters or {})
    metric = _one_metric(metric, method if method != "auto" else choose(len(points)), parameters)
    rows = _named_file(
        feats, lambda: prepare(points.feats, parts=parts, normalize=normalize, metric=metric, drop_bad=drop_bad)
    )
    work = Path(f"{out}.part") if len(rows) >= KEEP_FROM else None
    kept = points if rows.keep is None else points.take(rows.keep)
    target = None if supervise is None else _target(kept.column(supervise), supervise)
    made = project(
        rows,
        method,
        dims,
        seed=seed,
        parameters=parameters,
        reduce=reduce,
        neighbours=neighbours,
        bucket=bucket,
        jobs=jobs,
        work=work,
        target=target,
        progress=progress,
        started=started,
    )
    record = {
        **made.record,
        "features": os.path.relpath(feats, out.parent),
        "prepared": {"parts": parts, "normalize": normalize, "metric": metric, "drop_bad": drop_bad},
        **({} if supervise is None else {"supervised_by": supervise}),
        "torchloupe": __version__,
    }
    if numbers and len(rows) >= 3:
        progress("numbers", 0, 1)
        found = _numbers(rows, made.coords, kept.labels, k, seed)
        record["numbers"] = found.record()
        record["doubts"] = found.doubts()
        if supervise is not None:
            told = f"the map was made to follow {supervise}: that its values lie apart here says nothing about the features"
            record["doubts"].append(told)
        if found.each is not None:
            record["numbers"]["worst"] |= {"id": str(kept.ids[found.each.worst])}
            trust = {f"map_{name}": getattr(found.each, name).astype(np.float32) for name in BY_POINT}
            kept = replace(kept, columns={**kept.columns, **trust})
    mapped = kept.moved(made.coords, record)
    write_points(mapped, out)
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    return mapped


def _target(values: np.ndarray, name: str) -> np.ndarray:
    """A column as what supervises a map: numbers of classes, -1 for gaps, or quantities. Errors: BadInput for gaps among these."""
    gap = missing(values)
    if values.dtype.kind in "fM":
        if gap.any():
            raise BadInput(f"--supervise {name}: {int(gap.sum())} quantities are missing; only classes may have gaps")
        return (values.astype("datetime64[s]").astype(float) if values.dtype.kind == "M" else values).astype(np.float32)
    codes = np.full(len(values), -1)
    codes[~gap] = np.unique(values[~gap], return_inverse=True)[1]
    if codes.max(initial=-1) < 1:
        raise BadInput(f"--supervise {name}: one class or none; it needs two to part")
    return codes


def _named_file(path: str | Path, make: Callable[[], Rows]) -> Rows:
    try:
        return make()
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _numbers(rows: Rows, coords: np.ndarray, labels: np.ndarray | None, k: int, seed: int) -> Arrangement:
    wanted = labels if labels is not None and labels.dtype.kind != "f" else None
    return arrangement(rows.array(), coords, wanted, k=k, seed=seed, metric=rows.metric)


def _one_metric(metric: str, method: str, parameters: dict[str, Any]) -> str:
    """The metric that was asked for, by name or among the parameters, out of which it is taken.

    One that only the library knows stays there, with a word that the numbers of the map are Euclidean.
    """
    asked = metric_of(method, parameters)
    if asked is None or asked not in metrics():
        for name in ("metric", "distance"):
            if isinstance(parameters.get(name), str):
                warnings.warn(
                    f"metric {parameters[name]!r} is {method}'s own: the map follows it, its numbers are {metric}",
                    LoupeWarning,
                    3,
                )
        return metric
    if metric not in ("euclidean", asked):
        raise BadInput(f"--metric {metric} and, among --args, {asked}; give one of the two")
    for name in ("metric", "distance"):
        if isinstance(parameters.get(name), str):
            del parameters[name]
    return asked


def place_file(
    feats: str | Path,
    into: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    vector: str | None = None,
    jobs: int | None = None,
    progress: Progress = quiet,
) -> Points:
    """Place the points of a features file in a map that exists; write both, with a column `placed` (map or new).

    The map's record says where its features are and how they were prepared; the new ones are prepared in the same way.
    """
    out = check_writable(out, feats, labels, into)
    here = read_points(into)
    if here.record.get("kind") != "projection":
        raise BadInput(f"{into}: no record of a projection beside it; --into needs a map made by loupe project")
    source = Path(into).parent / here.record["features"]
    if not source.is_file():
        raise BadInput(f"{into}: its features {source} are gone; placing new points needs them")
    check_writable(out, source)
    asked = here.record["prepared"]
    if asked.get("metric") not in ("euclidean", "cosine"):
        raise BadInput(
            f"{into}: made by the metric {asked.get('metric')}: new points can be placed by euclidean and cosine"
        )
    old, new = read_points(source), read_points(feats, labels=labels, vector=vector)
    if old.feats.shape[1:] != new.feats.shape[1:]:
        raise BadInput(
            f"{feats}: rows of shape {new.feats.shape[1:]}, the map was made of {old.feats.shape[1:]}; use the same layer"
        )
    rows = prepare(old.feats, **asked)
    fresh = Rows(new.feats, rows.parts, rows.unit, rows.shift, rows.scale)
    bad = [start + i for start, block in fresh.pieces() for i in np.flatnonzero(~np.isfinite(block).all(1))]
    if bad:
        raise BadInput(f"{feats}: {len(bad)} of {len(new)} rows hold NaN or infinity, the first in row {bad[0]}")
    coords = place(rows, here.feats, fresh, here.record, jobs=jobs, progress=progress)
    shared = [name for name in here.columns if name in new.columns]
    columns = {name: _joined(here.columns[name], new.columns[name]) for name in shared}
    columns[PLACED] = np.array(["map"] * len(here) + ["new"] * len(new))
    record = {**here.record, "placed_from": os.path.relpath(feats, out.parent), "placed": len(new)}
    both = Points(np.concatenate([here.feats, coords]), np.concatenate([here.ids, new.ids]), columns, record)
    write_points(both, out)
    return both


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind == second.dtype.kind:
        return np.concatenate([first, second])
    return np.concatenate([first.astype(str), second.astype(str)])


def compare_files(
    first: str | Path, second: str | Path, *, method: str = "auto", dims: int = 2, seed: int = SEED, **options: Any
) -> tuple[Points, Points, Aligned, float | None]:
    """Two files about the same samples, joined by id: both maps, the second laid on the first, and linear CKA.

    Features are projected, both in the same way and, by t-SNE and UMAP, from the same first places, the first one's
    principal axes, so that equal features give equal maps; maps are taken as they are, their CKA from the features that they
    were made of, None where those are gone.
    """
    a, b = read_points(first), read_points(second)
    a, b = _same_samples(a, b, first, second)
    mine, theirs = _features(a, first), _features(b, second)
    cka = None if mine is None or theirs is None else linear_cka(prepare(mine).array(), prepare(theirs).array())
    begin = None if mine is None else _first_places(mine, dims, seed)
    one = _mapped(a, method, dims, seed, begin, options)
    two = _mapped(b, method, one.feats.shape[1], seed, begin if begin is not None else one.feats, options)
    aligned = procrustes(one.feats, two.feats)
    return one, two.moved(aligned.as_wide_as(np.asarray(one.feats, np.float64)), two.record), aligned, cka


def film_files(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    names: Sequence[str] = (),
    method: str = "auto",
    dims: int = 2,
    seed: int = SEED,
    k: int = 15,
    jobs: int | None = None,
    progress: Progress = quiet,
) -> Film:
    """The maps of several checkpoints' features, in their order, as a film: the same samples, by id.

    Each map (t-SNE, UMAP) begins from the places of the one before, with the whole of its schedule, and is laid on it by rotation,
    mirror and shift; all have the same spread, and the same features twice are the same map. out: .npz. The record tells what every map keeps of its
    own features, and its disparity from the one before.
    """
    out = check_writable(out, *paths)
    if out.suffix != ".npz":
        raise BadInput(f"{out}: a film is written as .npz")
    if len(paths) < 2:
        raise BadInput(f"{len(paths)} file of features: a film needs two or more")
    called = [str(name) for name in names] or [Path(path).stem for path in paths]
    if len(called) != len(paths):
        raise BadInput(f"{len(called)} names for {len(paths)} files; give one a file")
    held = _shared([read_points(path) for path in paths], paths)
    maps: list[np.ndarray] = []
    told: list[dict[str, Any]] = []
    record: Mapping[str, Any] = {}
    for i, (points, path) in enumerate(zip(held, paths, strict=True)):
        if points.record.get("kind") == "projection":
            raise BadInput(f"{path}: a map; a film is made of features")
        progress("maps", i, len(paths))
        rows = _named_file(path, lambda points=points: prepare(points.feats))  # type: ignore[misc]
        last = i > 0 and np.array_equal(held[i - 1].feats, points.feats)
        if last:
            coords = maps[-1]
        else:
            made = project(rows, method, dims, seed=seed, begin=maps[-1] if maps else None, jobs=jobs)
            record, coords = made.record, made.coords
        aligned = procrustes(maps[-1], coords) if maps else None
        laid = coords - coords.mean(0) if aligned is None else aligned.as_wide_as(maps[-1])
        maps.append((laid / (np.sqrt((laid**2).sum(1).mean()) or 1)).astype(np.float32))
        found = _numbers(rows, maps[-1], points.labels, k, seed)
        own = found.record()
        own.pop("worst", None)
        told.append(
            {"name": called[i], "features": str(path), **own, "disparity": aligned.disparity if aligned else None}
        )
    progress("maps", len(paths), len(paths))
    about = {
        name: record[name] for name in ("method", "library", "parameters", "metric", "dims", "seed") if name in record
    }
    about = {"kind": "film", **about, "maps": told, "torchloupe": __version__}
    columns = {name: values for name, values in held[-1].columns.items() if name not in (PREDICTED, ERRORS)}
    film = Film(np.stack(maps), np.array(called), held[-1].ids, columns, plain(about))
    with aside(out, out.with_suffix(".json")) as (data, words):
        write_arrays(data, film.arrays())
        words.write_text(json.dumps(film.record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return film


def _shared(held: Sequence[Points], paths: Sequence[str | Path]) -> list[Points]:
    """The samples that all have, in the order of the first."""
    places = [{name: row for row, name in enumerate(numbered(points.ids.tolist()))} for points in held]
    for points, path in zip(held[1:], paths[1:], strict=True):
        _equally_often(held[0], points, paths[0], path)
    both = [name for name in places[0] if all(name in place for place in places)]
    if len(both) < 4:
        raise BadInput(
            f"{len(both)} ids are in all of {', '.join(map(str, paths))}; a film needs the same samples in all"
        )
    most = max(map(len, held))
    if len(both) < most:
        warnings.warn(
            f"{len(both)} samples are in all files; of the others, up to {most - len(both)}, none is shown",
            LoupeWarning,
            3,
        )
    return [points.take(np.array([place[name] for name in both])) for points, place in zip(held, places, strict=True)]


def _first_places(feats: np.ndarray, dims: int, seed: int) -> np.ndarray | None:
    """Places along the principal axes; None where there are fewer than the map has dimensions, or nothing that differs."""
    rows = prepare(feats)
    if dims > min(len(rows), rows.width):
        return None
    places = principal_axes(rows, dims, seed=seed).apply(rows)
    return places if places.std() else None


def _mapped(
    points: Points, method: str, dims: int, seed: int, begin: np.ndarray | None, options: Mapping[str, Any]
) -> Points:
    """A map as it is; features projected, from the other one's places where the method can."""
    if points.record.get("kind") == "projection":
        return points
    made = project(prepare(points.feats), method, dims, seed=seed, begin=begin, **options)
    return points.moved(made.coords, made.record)


def _same_samples(a: Points, b: Points, first: str | Path, second: str | Path) -> tuple[Points, Points]:
    _equally_often(a, b, first, second)
    place = {name: row for row, name in enumerate(numbered(b.ids.tolist()))}
    rows = [(i, place[name]) for i, name in enumerate(numbered(a.ids.tolist())) if name in place]
    if len(rows) < 3:
        raise BadInput(
            f"{first} and {second} have {len(rows)} ids in common; a comparison needs the same samples in both"
        )
    if len(rows) < max(len(a), len(b)):
        warnings.warn(
            f"{len(rows)} samples are in both files; {len(a) + len(b) - 2 * len(rows)} others are left out",
            LoupeWarning,
            3,
        )
    mine, theirs = (np.array(column) for column in zip(*rows, strict=True))
    return a.take(mine), b.take(theirs)


def _equally_often(a: Points, b: Points, first: str | Path, second: str | Path) -> None:
    """Errors: BadInput for an id that both have, one of them more often: it is not known which sample is meant."""
    times, others = Counter(a.ids.tolist()), Counter(b.ids.tolist())
    odd = next((name for name, count in times.items() if name in others and others[name] != count), None)
    if odd is not None:
        raise BadInput(
            f"id {odd!r} is {times[odd]} times in {first} and {others[odd]} times in {second}: it is not known which"
            " samples belong together; give every sample an id of its own"
        )


def _features(points: Points, path: str | Path) -> np.ndarray | None:
    """The features behind a file, in the order of its ids."""
    if points.record.get("kind") != "projection":
        return points.feats
    source = Path(path).parent / str(points.record.get("features", ""))
    if not source.is_file():
        return None
    found = read_points(source)
    _equally_often(points, found, path, source)
    place = {name: row for row, name in enumerate(numbered(found.ids.tolist()))}
    wanted = numbered(points.ids.tolist())
    gone = next((name for name, _ in wanted if (name, 0) not in place), None)
    if gone is not None:
        raise BadInput(f"{path}: its features {source} hold no id {gone!r}; they were written again: project again")
    return found.feats[np.array([place[name] for name in wanted])]


def embed_file(
    subject: Subject,
    data: Samples,
    out: str | Path,
    *,
    layer: str | None = None,
    pool: str = "mean",
    batch: int = 32,
    strict: bool = False,
    record: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> Points:
    """Embed a data set and write its features; a killed run goes on where it was, from OUT.part/.

    A sample that cannot be read, or whose features are not finite, is left out and named in a warning and in the record;
    strict: it stops the run. Raises BadInput where no sample is left.
    """
    from torchloupe.runs.embed import Embedding
    from torchloupe.runs.run import run

    work = Embedding(subject, data, layer, pool, record, progress)

    def go(results: Results) -> Summary:
        return run(work, results, batch=min(batch, data.together or batch), strict=strict, what="samples embedded")

    points, done = gather(work, out, go, record)
    if done.failed:
        named = ", ".join(list(done.failed)[:5]) + (" ..." if len(done.failed) > 5 else "")
        reason = next(iter(done.failed.values()))
        warnings.warn(f"{len(done.failed)} of {len(data)} samples were left out: {named} ({reason})", LoupeWarning, 2)
    return points


def reasons_file(
    run: str | Path,
    out: str | Path,
    *,
    method: str | None = None,
    layer: str | None = None,
    question: str | None = None,
    side: int | None = None,
    labels: str | Path | None = None,
) -> Points:
    """Write the heatmaps of a run as features, see `runs.reasons.reasons`; labels as in read_points, joined by id."""
    from torchloupe.runs.reasons import SIDE, reasons

    out = check_writable(out, labels)
    made = reasons(run, method, layer, question, SIDE if side is None else side)
    made = with_errors(made if labels is None else with_labels(made, Path(labels)))
    write_points(made, out)
    return made


def gather(
    work: Embedding,
    out: str | Path,
    go: Callable[[Results], Summary],
    record: Mapping[str, Any] | None = None,
    again: bool = False,
) -> tuple[Points, Summary]:
    """Run an embedding by `go` and write its features as one file: the points, and what the run did. A file that holds the
    answer already, of all samples, is read; again: it is not.

    What a killed run did, but for its last 100 samples or 5 seconds, lies in OUT.part/; pieces of another question there
    are removed. Raises BadInput where no sample has features.
    """
    out, data = check_writable(out), work.data
    question, stamp = key(plain(work.about())), data.stamp
    if not again and is_made(out, {**(record or {}), "question": question, "left_out": {}}, stamp):
        from torchloupe.runs.run import Summary as Done

        work.close()
        points = read_points(out)
        return points, Done(0, len(points), {})
    results = Shards(Path(f"{out}.part"), most=100)
    _make_way(results.root, work.about())
    try:
        done = go(results)
    finally:
        work.close()
    left = [name for name in work.ids() if name not in done.failed]
    if not left:
        reason = next(iter(done.failed.values()), "")
        raise BadInput(f"none of the {len(data)} samples could be embedded; the first: {reason}")
    rows = np.array([work.row[name] for name in left])
    about = {
        **(record or {}),
        "kind": "features",
        "model": work.subject.spec,
        "layer": work.ask.layer,
        "pool": work.pool,
        "samples": len(left),
        **{name: value for name, value in work.about().items() if name in ("weights_sha256", "prepared")},
        **{name: work.subject.notes[name] for name in ("random", "seed") if name in work.subject.notes},
        "stamp": stamp,
        "question": question,
        "left_out": dict(done.failed),
        "torchloupe": __version__,
    }
    columns = {name: column[rows] for name, column in data.columns.items()}
    if "predicted" not in columns and "predicted" in results.read(left[0]).arrays:
        columns["predicted"] = work.called(results.table(left, "predicted").ravel())
    points = with_errors(Points(results.table(left, "feats"), data.ids[rows], columns, about))
    write_points(points, out)
    shutil.rmtree(results.root, ignore_errors=True)
    return points, done


def _make_way(folder: Path, about: Mapping[str, Any]) -> None:
    """Remove what a run with another question left. Errors: BadInput for a folder that is not ours."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if not {name for name in names if not name.startswith(".")}:
        return
    if RUN not in names and not names <= {"key", "embedded.npz"}:  # as versions before 0.2 kept it
        raise BadInput(f"{folder}: not a folder of ours, and a long run would keep its pieces there; move it away")
    if RUN not in names or difference(load_record(folder / RUN).get("about", {}), plain(about)) is not None:
        shutil.rmtree(folder)


def join_labels(points: Points, labels: str | Path, out: str | Path) -> Points:
    """Points with the columns of another file, joined by id, written again."""
    joined = with_errors(with_labels(points, Path(labels)))
    write_points(joined, out)
    return joined


def is_made(path: Path, asked: Mapping[str, Any], stamp: str) -> bool:
    """Whether a features file is there, made as asked of the samples with this stamp."""
    if not path.is_file():
        return False
    try:
        record = read_record(path)
    except LoupeError:  # of a damaged one: it is made again
        return False
    return all(record.get(name) == value for name, value in plain({**asked, "stamp": stamp}).items())


def with_errors(points: Points) -> Points:
    """The points with a column `errors` (wrong, right, "" where that is not known), where their labels are names of the classes
    that a model predicted: some label is the whole name, or one of the names, of a predicted class."""
    labels, predicted = points.labels, points.columns.get(PREDICTED)
    found = None if labels is None or predicted is None else errors(predicted, labels)
    return points if found is None else replace(points, columns={**points.columns, ERRORS: found})


def clusters_file(
    path: str | Path,
    out: str | Path,
    *,
    name_by: str | None = None,
    errors_in: str | None = None,
    least: int | None = None,
    count: int | None = None,
    seed: int = SEED,
) -> tuple[Points, list[Group]]:
    """Find the clusters of a map (by density) or of features (by their graph of neighbours) and write them as a column.

    name_by: the column that names them; None: labels, else predictions, else numbers. errors_in: the column that says what is
    wrong; None: `errors` where there is one. least: fewest points of a map's cluster; count: how many of features.
    The clusters with the largest share of errors come first where errors are known, else the largest.
    """
    out = check_writable(out, path)
    points = read_points(path)
    is_map = points.record.get("kind") == "projection"
    option, given = ("--count", count) if is_map else ("--smallest", least)
    if given is not None:
        kind = "a map, by density (--smallest)" if is_map else "features, by their graph of neighbours (--count)"
        raise BadInput(f"{option} {given}: has no effect; these are clusters of {kind}")
    places = _named_file(path, lambda: prepare(points.feats)).array()
    codes = clusters(places, least, seed=seed) if is_map else spectral(places, count, seed=seed)
    name_by = name_by or next((name for name in (LABELS, PREDICTED) if name in points.columns), None)
    values = None if name_by is None else points.column(name_by)
    errors_in = errors_in or (ERRORS if ERRORS in points.columns else None)
    wrong = None if errors_in is None else are_wrong(points.column(errors_in), errors_in)
    found = groups(places, codes, values, wrong)
    if wrong is not None:
        found.sort(key=lambda group: (-(group.errors or 0.0), -len(group.rows)))
    column = np.array([str(code + 1) if code >= 0 else "" for code in codes.tolist()])
    told = [
        {
            "cluster": str(int(codes[group.rows[0]]) + 1),
            "points": len(group.rows),
            "name": group.name,
            "common": dict(group.common),
            "middle": str(points.ids[group.medoid]),
            **({} if group.errors is None else {"errors": group.errors}),
        }
        for group in found
    ]
    record = {**points.record, "clusters": told, "clustered_by": "density" if is_map else "graph of neighbours"}
    made = Points(points.feats, points.ids, {**points.columns, CLUSTER: column}, record)
    write_points(made, out)
    return made, found


def search_file(
    path: str | Path,
    out: str | Path | None = None,
    *,
    label: str = LABELS,
    query: str | None = None,
    gallery: str | None = None,
    apart: Sequence[str] = (),
    metric: str = "euc",
) -> tuple[Points, Searched]:
    """How well features find what belongs together; see `metrics.search.search`.

    label: the column that tells what belongs together. query, gallery: COLUMN=VALUE or COLUMN=VALUE,VALUE; None: all rows.
    apart: columns. out: a CSV file of a row a query, with the numbers in JSON beside it.
    """
    if out is not None and Path(out).suffix != ".csv":
        raise BadInput(f"{out}: a row a query is written as .csv")
    if out is not None:
        never_over(files_of(path), files_of(out))
    points = read_points(path)
    if points.record.get("kind") == "projection":
        raise BadInput(f"{path}: a map, which keeps only some neighbours; give the features that it was made of")
    for block in Rows(points.feats).pieces():
        if not np.isfinite(block[1]).all():
            raise BadInput(f"{path}: features hold NaN or infinity, from row {block[0]} on")
    labels = points.column(label)
    if labels.dtype.kind in "fM":
        raise BadInput(
            f"{path}: column {label!r} holds quantities; what belongs together is told by words or whole numbers"
        )
    asked, held = (None if words is None else _rows_of(points, words) for words in (query, gallery))
    feats = np.asarray(points.feats[np.arange(len(points))])
    found = search(feats, labels, asked, held, [points.column(name) for name in apart], metric)
    if out is not None:
        _write_search(points, labels, found, Path(out), {"features": str(path), "label": label, "query": query,
                      "gallery": gallery, "apart": list(apart), "metric": metric})  # fmt: skip
    return points, found


def _rows_of(points: Points, words: str) -> np.ndarray:
    """The rows in which a column has one of some values."""
    name, mark, values = words.partition("=")
    if not mark or not values:
        raise BadInput(f"{words!r}: expected COLUMN=VALUE, or COLUMN=VALUE,VALUE")
    column = points.column(name).astype(str)
    wanted = [values] if (column == values).any() else values.split(",")
    for value in wanted:
        if not (column == value).any():
            known = np.unique(column)
            shown = ", ".join(known[:8].tolist()) + (" ..." if len(known) > 8 else "")
            raise BadInput(f"column {name!r} has no value {value!r}; it has {shown}.{nearest(value, known.tolist())}")
    return np.flatnonzero(np.isin(column, wanted))


def _write_search(points: Points, labels: np.ndarray, found: Searched, out: Path, asked: Mapping[str, Any]) -> None:
    with aside(out, out.with_suffix(".json")) as (table, words):
        with table.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "label", "first_right", "average_precision", "nearest", "nearest_label"])
            for i, row in enumerate(found.queries.tolist()):
                near = int(found.nearest[i])
                there = ("", "") if near < 0 else (points.ids[near], labels[near])
                own = (f"{found.first[i]:.0f}", f"{found.precision[i]:.6g}") if found.known[i] else ("", "")
                writer.writerow([points.ids[row], labels[row], *own, *there])
        told = {
            "kind": "search",
            **asked,
            "queries": len(found.queries),
            "known": int(found.known.sum()),
            "items": len(found.items),
        }
        words.write_text(json.dumps({**told, "numbers": found.numbers()}, indent=1) + "\n", encoding="utf-8")


def numbers_by(feats: str | Path, points: str | Path, column: str, *, k: int = 5) -> Arrangement:
    """The numbers of a map once more, with the labels of another column."""
    here = read_points(points)
    source = _features(here, points)
    rows = prepare(read_points(feats).feats if source is None else source, **here.record["prepared"])
    return _numbers(rows, here.feats, here.column(column), k, int(here.record["seed"]))
