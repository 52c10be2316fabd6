"""loupe features and loupe diff: what a network holds, and how far two networks lie apart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Model, Words, say
from torchloupe.render.features import Look
from torchloupe.render.style import Style
from torchloupe.runs.progress import progress

if TYPE_CHECKING:
    from torchloupe.probe import Batch, Subject


@dataclass(frozen=True)
class Sample:
    """What is looked at: a picture file, or a walk for models of gait."""

    name: str
    path: Path
    walk: Any = None

    def batch(self, subject: Subject) -> Batch:
        """As the model takes it, alone."""
        from torchloupe.sources.images import read

        assert subject.prepare is not None
        return subject.prepare([read(self.path)], (self.name,)) if self.walk is None else subject.prepare(self.walk)


GAIT = "opengait:"


def samples(paths: Sequence[str], models: Sequence[str]) -> list[Sample]:
    """The pictures behind paths, or the walks for models of gait. Errors: BadInput for models that take different things."""
    from torchloupe.errors import BadInput
    from torchloupe.sources.images import find
    from torchloupe.sources.sequences import sequences

    gait = {model.startswith(GAIT) for model in models}
    if len(gait) > 1:
        raise BadInput(f"{' and '.join(models)}: one takes pictures and the other walks, so they see nothing alike")
    if gait == {True}:
        if not paths:
            raise BadInput("no walk was named; give its folder, as <id>/<type>/<view>, or a folder above it")
        return [Sample(walk.name, walk.files[0], walk) for path in paths for walk in sequences(path)]
    files = find(paths)
    return [Sample(name, file) for name, file in zip(distinct(files), files, strict=True)]


@dataclass(frozen=True)
class Ink:
    """Colours and files.

    Attributes:
        cmap: Colour map: any name that matplotlib knows, such as jet; auto takes inferno.
        dpi: Pixels an inch.
        format: Kind of file where the name to save to has no ending.
    """

    cmap: str = "auto"
    dpi: int = 300
    format: Literal["png", "jpg", "webp", "pdf", "svg"] = "png"


MODEL, LOOK, INK = Model(), Look(), Ink()
Out = Annotated[Path, Parameter(name=["--save", "--out-file", "-o"])]
Flag = Annotated[bool, Parameter(negative="")]


def features(
    *images: str,
    model: str,
    at: Words | None = None,
    vis_config: Path | None = None,
    repo: str | None = None,
    pred_score_thr: float = 0.3,
    save: Out = Path("out"),
    tiles: Flag = False,
    strict: Flag = False,
    loading: Annotated[Model, Parameter(name="*")] = MODEL,
    look: Annotated[Look, Parameter(name="*")] = LOOK,
    ink: Annotated[Ink, Parameter(name="*")] = INK,
) -> None:
    """Draw the feature maps at any point of a network.

    For every picture a labelled grid a point (one grid for all points with --channel-reduction), the raw numbers as
    NAME.npz, and how they were made with statistics of every point as NAME.json. `loupe draw NAME.npz` redraws.

    Parameters:
        images: Pictures, folders, globs, or a text file that lists pictures; for opengait: models, folders of walks.
        model: As for loupe cam; also mmdet:CONFIG.py and other OpenMMLab repositories.
        at: Points: NAME of a module (globs are understood), in:NAME for what goes into it, fn:package.module.function and
            in-fn:..., param:NAME; #N behind it for the N-th call, @N or @KEY for an element of a tuple, list or dict.
        vis_config: A recorder config of MMRazor (.py, read and not run), or the same thing in YAML.
        repo: The OpenMMLab repository of a config that is given without a scheme: mmdet, mmseg, mmpretrain ...
        pred_score_thr: With --overlaid, a detector's boxes of this score and more are drawn; above 1 none. Also among
            --cfg-options, as MMRazor has it.
        save: Folder to write to; or a picture's name, where one picture is drawn.
        tiles: Write every map as a picture of its own, too.
        strict: Stop at the first picture that fails, instead of going on without it.
    """
    from torchloupe import store
    from torchloupe.errors import BadInput
    from torchloupe.render.colour import palette
    from torchloupe.render.features import pictures_of, shown
    from torchloupe.sites import features as capture
    from torchloupe.sources.recorders import points as recorded

    palette(ink.cmap)
    named: dict[str, str] = dict(recorded(vis_config)) if vis_config is not None else {}
    named |= {word: word for word in at or ()}
    seen_by = samples(images, [model])
    folder, single, style = destination(save, Style(**asdict(ink)))
    loading, pred_score_thr = visualizer_options(loading, pred_score_thr)
    subject = load(loading, model, repo)
    if not named:
        if not subject.layers:
            raise BadInput("no point to look at; name some with --at NAME ..., or give --vis-config")
        named = {layer: layer for layer in subject.layers}
        say(f"point: {', '.join(named)} (default)")
    say_random(subject, model)
    failed: list[str] = []
    table: list[tuple[str, str, Mapping[str, float]]] = []
    with progress("pictures", len(seen_by)) as bar:
        for sample in seen_by:
            start, file, name = time.perf_counter(), sample.path, sample.name
            try:
                batch = sample.batch(subject)
                seen = capture(subject, batch, named, skip_flat=any(set("*?") & set(word) for word in named))
                for label, value in seen.values.items():
                    shown(value[0].cpu().numpy(), look, label)
                arrays, figures = held(seen, batch)
                if look.overlaid and subject.kind == "detector":
                    arrays["detections"] = detections(subject, batch)
                record = {
                    **about(subject, model, repo, loading),
                    "kind": "feature maps",
                    "id": name,
                    "source": str(file),
                    "points": list(seen.values),
                    "asked": dict(named),
                    "layouts": dict(seen.layouts),
                    "loose": list(seen.loose),
                    "statistics": figures,
                    "classes": class_names(arrays, subject.classes),
                    "pred_score_thr": pred_score_thr,
                    "look": asdict(look),
                    "seconds": time.perf_counter() - start,
                }
                stem = single if single and len(seen_by) == 1 else f"{store.safe_name(name)}-features"
                artifact = store.load(store.save(folder, stem, arrays, record))
                for path in pictures_of(artifact, folder, stem, look, style, tiles=tiles):
                    print(path)
                table += [(name, label, row) for label, row in figures.items()]
            except BadInput as error:
                if strict or len(seen_by) == 1:
                    raise
                failed.append(f"{file}: {error}")
            bar.advance()
    if failed and not table:
        raise BadInput(f"{failed[0]} (and {len(failed) - 1} more pictures failed)")
    write_table(table, folder / "statistics.csv")
    report(failed, len(seen_by))


def diff(
    *images: str,
    model: Annotated[list[str], Parameter(negative="")],
    at: Words | None = None,
    weights: Annotated[list[str] | None, Parameter(negative="")] = None,
    vis_config: Path | None = None,
    difference: str = "absolute",
    cka: Flag = False,
    batch_size: int = 16,
    repo: str | None = None,
    save: Out = Path("out"),
    tiles: Flag = False,
    strict: Flag = False,
    loading: Annotated[Model, Parameter(name="*")] = MODEL,
    look: Annotated[Look, Parameter(name="*")] = LOOK,
    ink: Annotated[Ink, Parameter(name="*")] = INK,
) -> None:
    """Draw the difference between two networks, two checkpoints of one network, or two pictures in one network.

    Two --model: two networks. One --model and two --weights: two checkpoints. One --model and two pictures: two pictures.
    --cka compares all pairs of points over a set of pictures in one matrix.

    Parameters:
        images: Pictures, folders, globs, or a text file that lists pictures.
        model: A model as for loupe features; give --model twice for two networks.
        at: Points, as for loupe features; NAME1=NAME2 where the two networks name them differently.
        weights: A checkpoint a network, in their order; none for a network without.
        vis_config: A recorder config of MMRazor with recorders1, mappings1, recorders2, mappings2 (or of one network).
        difference: absolute |a - b|; relative |a - b| / max(|a|, |b|); cosine distance of the channels at each position.
        cka: Linear CKA between all pairs of points, over all pictures.
        batch_size: Pictures in one forward of --cka; memory grows with it.
        repo: The OpenMMLab repository of configs that are given without a scheme.
        save: Folder to write to; or a picture's name, where one picture is drawn.
        tiles: Write every difference map as a picture of its own, too.
        strict: Stop at the first picture that fails, instead of going on without it.
    """
    from torchloupe.errors import BadInput
    from torchloupe.methods.difference import difference as check
    from torchloupe.render.colour import palette

    palette(ink.cmap)
    check(difference)
    if loading.weights is not None:
        raise BadInput("--weights is given once a network here")
    seen_by = samples(images, model)
    folder, single, style = destination(save, Style(**asdict(ink)))
    if cka and seen_by[0].walk is not None:
        raise BadInput("--cka takes pictures, many in one forward; walks differ in length")
    subjects, labels, specs = two(model, weights or [], loading, repo, len(seen_by), cka)
    points = paired(at or (), vis_config, subjects[0])
    if cka:
        files = [sample.path for sample in seen_by]
        compare(subjects, labels, specs, points, files, batch_size, folder, single or "cka", style)
        return
    if subjects[0] is subjects[1] and len(seen_by) == 2:
        jobs = [(seen_by[0], seen_by[1])]
        labels = (called(seen_by[0]), called(seen_by[1]))
    else:
        jobs = [(sample, sample) for sample in seen_by]
    failed: list[str] = []
    stems = [single or "difference"] if len(jobs) == 1 else [f"{sample.name}-difference" for sample in seen_by]
    with progress("pictures", len(jobs)) as bar:
        for job, stem in zip(jobs, stems, strict=True):
            try:
                for path in one_difference(
                    subjects, labels, specs, points, job, stem, folder, difference, look, style, tiles
                ):
                    print(path)
            except BadInput as error:
                if strict or len(jobs) == 1:
                    raise
                failed.append(f"{job[0].path}: {error}")
            bar.advance()
    if len(failed) == len(jobs):
        raise BadInput(f"{failed[0]} (and {len(failed) - 1} more pictures failed)")
    report(failed, len(jobs))


def one_difference(
    subjects: tuple[Subject, Subject],
    labels: tuple[str, str],
    specs: Sequence[Mapping[str, Any]],
    points: Sequence[tuple[str, str, str]],
    sides_of: tuple[Sample, Sample],
    stem: str,
    folder: Path,
    difference: str,
    look: Look,
    style: Style,
    tiles: bool,
) -> list[Path]:
    """Capture both sides of one picture, write the result, draw it."""
    from torchloupe import store
    from torchloupe.errors import BadInput
    from torchloupe.render.features import Pair, draw_difference, pictures_of
    from torchloupe.sites import features as capture

    start = time.perf_counter()
    sides = []
    for side, (subject, sample) in enumerate(zip(subjects, sides_of, strict=True)):
        batch = sample.batch(subject)
        asked = {label: names[side] for label, *names in points}
        sides.append((capture(subject, batch, asked), batch))
    (first, batch), (second, with_second) = sides
    if list(first.values) != list(second.values):
        one, other = (
            next((name for name in mine.values if name not in theirs.values), "nothing")
            for mine, theirs in ((first, second), (second, first))
        )
        raise BadInput(
            f"the points give different tensors: {one} in one network, {other} in the other; name one with @"
        )
    pairs = [Pair(name, first[name][0].cpu().numpy(), second[name][0].cpu().numpy()) for name in first.values]
    picture, second_picture = (
        None if one.pictures is None else one.pictures[0].numpy() for one in (batch, with_second)
    )
    another = second_picture if sides_of[0] != sides_of[1] else None
    id = " against ".join(dict.fromkeys(called(sample) for sample in sides_of))
    _, figures = draw_difference(pairs, labels, difference, picture, look, style, id, another)
    for name, row in figures.items():
        for note in row["notes"]:
            say(f"{name}: {note}")
    arrays = {f"a/{pair.label}": pair.a for pair in pairs} | {f"b/{pair.label}": pair.b for pair in pairs}
    record = {
        "kind": "difference",
        "id": id,
        "sources": [str(sample.path) for sample in sides_of],
        "models": list(specs),
        "names": list(labels),
        "points": [pair.label for pair in pairs],
        "asked": [list(point) for point in points],
        "difference": difference,
        "figures": figures,
        "look": asdict(look),
        "seconds": time.perf_counter() - start,
    }
    arrays |= {key: one for key, one in (("picture", picture), ("other", another)) if one is not None}
    artifact = store.load(store.save(folder, stem, arrays, record))
    return pictures_of(artifact, folder, store.safe_name(stem), look, style, tiles=tiles)


def called(sample: Sample) -> str:
    """A sample as people know it: the name of its file, or of its walk."""
    return sample.path.name if sample.walk is None else sample.name


def compare(
    subjects: tuple[Subject, Subject],
    labels: tuple[str, str],
    specs: Sequence[Mapping[str, Any]],
    points: Sequence[tuple[str, str, str]],
    files: Sequence[Path],
    batch_size: int,
    folder: Path,
    stem: str,
    style: Style,
) -> None:
    """The CKA matrix over all pictures, batch by batch."""
    import numpy as np

    from torchloupe import store
    from torchloupe.methods.difference import CKA, batches
    from torchloupe.render.features import pictures_of
    from torchloupe.sites import capture
    from torchloupe.sources.images import read

    found: CKA | None = None
    runs = batches(len(files), batch_size)
    with progress("pictures", len(files)) as bar:
        for run in runs:
            images = [read(files[i]) for i in run]
            ids = tuple(str(files[i]) for i in run)
            sides = []
            for side, subject in enumerate(subjects):
                batch = subject.prepare(images, ids)  # type: ignore[misc]
                asked = {names[side]: names[side] for _, *names in points}
                sides.append({name: one.raw for name, one in capture(subject, batch, asked).items()})
            if found is None:
                found = CKA(tuple(sides[0]), tuple(sides[1]))
            found.add(*sides)
            bar.advance(len(run))
    assert found is not None
    values = found.value().numpy()
    if not np.isfinite(values).all():
        say("a point gives every picture the same features, so its CKA is not defined (grey)")
    record = {
        "kind": "cka",
        "rows": list(found.rows),
        "columns": list(found.columns),
        "names": list(labels),
        "models": list(specs),
        "samples": found.samples,
        "batches": [len(run) for run in runs],
        "sources": [str(file) for file in files],
    }
    artifact = store.load(store.save(folder, stem, {"cka": values}, record))
    for path in pictures_of(artifact, folder, store.safe_name(stem), LOOK, style):
        print(path)


def load(loading: Model, model: str, repo: str | None) -> Subject:
    """The subject of a spec, or of a config and its repository. Errors: BadInput where pictures cannot be prepared."""
    from torchloupe.errors import BadInput

    spec = f"{repo}:{model}" if repo and not model.startswith(f"{repo}:") else model
    subject = loading.load(spec)
    if subject.prepare is None:
        raise BadInput(f"model {spec!r}: it is not known how a picture is prepared for it; use it from Python")
    return subject


def two(
    models: Sequence[str], weights: Sequence[str], loading: Model, repo: str | None, pictures: int, cka: bool
) -> tuple[tuple[Subject, Subject], tuple[str, str], list[dict[str, Any]]]:
    """The two sides, their names in the picture and what a record says of them.

    Errors: BadInput for another number of models, weights and pictures than makes two sides.
    """
    from torchloupe.errors import BadInput

    if len(models) > 2 or len(weights) > 2:
        raise BadInput(f"{len(models)} models and {len(weights)} weights; expected one or two of each")
    if len(models) == 2 and len(weights) == 1:
        raise BadInput("two models and one --weights; give one a model, in their order (none for a model without)")
    sides = list(models) * (3 - len(models))
    if len(models) == 1 and len(weights) < 2:
        if not cka and pictures != 2:
            raise BadInput(
                f"one model, {len(weights)} weights and {pictures} pictures; expected two --model, or two --weights, or "
                "two pictures"
            )
        subject = load(replace(loading, weights=_path(weights[0]) if weights else None), models[0], repo)
        say_random(subject, models[0])
        return (subject, subject), (models[0], models[0]), [about(subject, models[0], repo, loading)]
    files = [_path(name) for name in weights] or [None, None]
    options = [replace(loading, weights=file) for file in files]
    first, second = (load(option, spec, repo) for option, spec in zip(options, sides, strict=True))
    for one, spec in zip((first, second), sides, strict=True):
        say_random(one, spec)
    names = sides if len(set(sides)) == 2 else [str(file.name if file else "no weights") for file in files]
    specs = [about(one, spec, repo, o) for one, spec, o in zip((first, second), sides, options, strict=True)]
    return (first, second), (names[0], names[1]), specs


def _path(name: str) -> Path | None:
    return None if name.lower() == "none" else Path(name)


def paired(words: Sequence[str], vis_config: Path | None, subject: Subject) -> list[tuple[str, str, str]]:
    """(label, point of the first network, point of the second)."""
    from torchloupe.errors import BadInput
    from torchloupe.sources.recorders import pairs

    found = pairs(vis_config) if vis_config is not None else []
    for word in words:
        one, mark, other = word.partition("=")
        if mark and not (one and other):
            raise BadInput(f"--at {word!r}: expected NAME, or NAME1=NAME2 where the networks differ")
        found.append((one if not mark or one == other else word, one, other or one))
    if not found:
        found = [(layer, layer, layer) for layer in subject.layers]
        say(f"point: {', '.join(subject.layers)} (default)")
    if not found:
        raise BadInput("no point to compare; name some with --at NAME or NAME1=NAME2, or give --vis-config")
    return found


def held(seen: Any, batch: Any) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What is stored of the features of one picture, and the statistics of every point."""
    from torchloupe.methods.features import statistics

    arrays = {f"value/{label}": value[0].cpu().numpy() for label, value in seen.values.items()}
    if batch.pictures is not None:
        arrays["picture"] = batch.pictures[0].numpy()
    return arrays, {label: statistics(value.cpu()) for label, value in seen.values.items()}


def say_random(subject: Subject, model: str) -> None:
    """Tells that a network has random weights."""
    if "weights" not in subject.notes and not model.startswith("torch:"):
        say(f"{model}: no --weights, the network is random; give a checkpoint")


def visualizer_options(loading: Model, threshold: float) -> tuple[Model, float]:
    """The options without what MMRazor's --cfg-options hand to the visualizer, and the threshold that they say.

    Errors: BadInput for a threshold that is no number.
    """
    from torchloupe.cli.options import pairs
    from torchloupe.errors import BadInput

    found = pairs(loading.cfg_options or (), "--cfg-options")
    threshold = found.get("pred_score_thr", threshold) if found.get("draw_pred", True) else 2.0
    if not isinstance(threshold, (int, float)):
        raise BadInput(f"pred_score_thr {threshold!r}: expected a number, such as 0.3")
    ours = ("pred_score_thr", "draw_pred")
    kept = [word for word in loading.cfg_options or () if word.partition("=")[0] not in ours]
    return replace(loading, cfg_options=kept or None), threshold


def detections(subject: Subject, batch: Any) -> Any:
    """What a detector finds in one picture, as numbers (m, 6) that can be stored."""
    import torch

    from torchloupe.taps import restored
    from torchloupe.targets.boxes import check_detections, listed

    with restored(subject.module), torch.no_grad():
        return listed(check_detections(subject.output(batch), batch), 0.0)[0].numpy()


def class_names(arrays: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Number -> name, of the classes of the stored detections."""
    found = sorted({int(row[5]) for row in arrays.get("detections", ())})
    return {str(i): names[i] if i < len(names) else f"class {i}" for i in found}


def about(subject: Subject, model: str, repo: str | None, loading: Model) -> dict[str, Any]:
    """What a record says of a model."""
    return {
        "model": model if repo is None else f"{repo}:{model}",
        "weights": dict(subject.notes.get("weights", {})),
        "cfg_options": list(loading.cfg_options or ()),
        **({"layout": loading.layout} if loading.layout else {}),
        **({"layout_sizes": loading.layout_sizes} if loading.layout_sizes else {}),
        **({"num_extra_tokens": loading.num_extra_tokens} if loading.num_extra_tokens is not None else {}),
        "size": loading.size,
        "preparation": subject.notes.get("preparation"),
    }


def destination(save: Path, style: Style) -> tuple[Path, str | None, Style]:
    """The folder, the stem where a picture's name was given, and the style with that picture's format."""
    from torchloupe.errors import BadInput
    from torchloupe.render.style import FORMATS

    kind = save.suffix[1:].lower().replace("jpeg", "jpg")
    if not kind:
        return save, None, style
    if kind not in FORMATS:
        raise BadInput(f"--save {save}: no picture format {save.suffix!r}; expected {', '.join(FORMATS)}, or a folder")
    return save.parent, save.stem, replace(style, format=kind)  # type: ignore[arg-type]


def distinct(files: Sequence[Path]) -> list[str]:
    """One name a file: its stem, or with its number where several share it."""
    stems = [file.stem for file in files]
    return [f"{stem}-{i}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems)]


def write_table(rows: Sequence[tuple[str, str, Mapping[str, float]]], path: Path) -> None:
    """The statistics of every point and picture as a csv file, and on standard output."""
    import csv

    from torchloupe import store

    columns = list(rows[0][2])
    with store.aside(path) as (draft,), draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "point", *columns])
        writer.writerows([name, label, *(f"{row[c]:.6g}" for c in columns)] for name, label, row in rows)
    shown = ("channels", "mean", "std", "dead_channels", "zeros", "effective_rank")
    wide = max(len(label) for _, label, _ in rows)
    print(" " * wide, *(f"{c:>14}" for c in shown))
    for _, label, row in rows[:40]:
        print(f"{label:<{wide}}", *(f"{row[c]:>14.4g}" for c in shown))
    if len(rows) > 40:
        print(f"... {len(rows)} rows in {path}")


def report(failed: Sequence[str], count: int) -> None:
    """What was left out."""
    if failed:
        say(f"{count - len(failed)} of {count} pictures done; {len(failed)} failed:")
        for line in failed:
            say(f"  {line}")
