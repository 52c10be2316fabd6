"""loupe features and loupe diff: what a network holds, and how far two networks lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Model, Running, Words, say
from torchloupe.render.features import Look
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from torchloupe.runs.run import Summary
    from torchloupe.store.results import Results


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


MODEL, LOOK, INK, RUNNING = Model(), Look(), Ink(), Running()
# The estimate of CKA in batches depends on their size.
PAIRED = Running(batch_size=16)
FEW = 24
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
    draw: str = "auto",
    loading: Annotated[Model, Parameter(name="*")] = MODEL,
    look: Annotated[Look, Parameter(name="*")] = LOOK,
    running: Annotated[Running, Parameter(name="*")] = RUNNING,
    ink: Annotated[Ink, Parameter(name="*")] = INK,
) -> int:
    """Draw the feature maps at any point of a network.

    For every picture a labelled grid a point (one grid for all points with --channel-reduction), the raw numbers as
    NAME.npz, and how they were made with statistics of every point as NAME.json. `loupe draw NAME.npz` redraws.

    Parameters:
        images: Pictures, folders, globs, a text file that lists pictures, or words of data sets, as for loupe cam; for
            opengait: models, folders of walks.
        model: As for loupe cam; also mmdet:CONFIG.py and other OpenMMLab repositories.
        at: Points: NAME of a module (globs are understood), in:NAME for what goes into it, fn:package.module.function and
            in-fn:..., param:NAME, attn:NAME for what a module attends to, head by head (@N behind it: of token N); #N behind it for the N-th call, @N or @KEY for an element of a tuple, list or dict.
        vis_config: A recorder config of MMRazor (.py, read and not run), or the same thing in YAML.
        repo: The OpenMMLab repository of a config that is given without a scheme: mmdet, mmseg, mmpretrain ...
        pred_score_thr: With --overlaid, a detector's boxes of this score and more are drawn; above 1 none. Also among
            --cfg-options, as MMRazor has it.
        save: Folder to write to; or a picture's name, where one picture is drawn.
        tiles: Write every map as a picture of its own, too.
        draw: Which pictures are drawn: all, none, sample:N, worst:N:COLUMN or best:N:COLUMN. auto: all up to 1,000, sample:50 above.
    """
    from torchloupe.render.colour import palette
    from torchloupe.runs.run import Job
    from torchloupe.sources.recorders import points as recorded

    palette(ink.cmap)
    named: dict[str, str] = dict(recorded(vis_config)) if vis_config is not None else {}
    named |= {word: word for word in at or ()}
    folder, single, style = destination(save, Style(**asdict(ink)))
    loading, pred_score_thr = visualizer_options(loading, pred_score_thr)
    ask = {"points": named, "detections": look.overlaid}
    job = Job("features", loading.words(spec(model, repo)), {"images": list(images), "single": single}, ask)
    work = job.open()
    for notice in work.notices:
        say(notice)
    results = running.results(folder, len(work.ids()), {"look": asdict(look), "pred_score_thr": pred_score_thr})
    done = running.run(job, work, results, "pictures")
    status = drawn(results, work.ids(), done, draw, folder, look, style, tiles)
    there = [id for id in work.ids() if id not in done.failed]
    rows = [(results.record(id)["id"], results.record(id)["statistics"]) for id in there]
    write_table([(name, label, row) for name, held in rows for label, row in held.items()], folder / "statistics.csv")
    for line in done.told("pictures"):
        say(line)
    return status


def diff(
    *images: str,
    model: Annotated[list[str], Parameter(negative="")],
    at: Words | None = None,
    weights: Annotated[list[str] | None, Parameter(negative="")] = None,
    vis_config: Path | None = None,
    difference: str = "absolute",
    scale: Literal["figure", "layer"] = "figure",
    cka: Flag = False,
    repo: str | None = None,
    save: Out = Path("out"),
    tiles: Flag = False,
    draw: str = "auto",
    loading: Annotated[Model, Parameter(name="*")] = MODEL,
    look: Annotated[Look, Parameter(name="*")] = LOOK,
    running: Annotated[Running, Parameter(name="*")] = PAIRED,
    ink: Annotated[Ink, Parameter(name="*")] = INK,
) -> int:
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
        scale: One scale of colours for the differences at all points, figure, or one for each, layer, where weak ones would be black.
        cka: Linear CKA between all pairs of points, over all pictures.
        repo: The OpenMMLab repository of configs that are given without a scheme.
        save: Folder to write to; or a picture's name, where one picture is drawn.
        tiles: Write every difference map as a picture of its own, too.
        draw: Which pictures are drawn: all, none, sample:N, worst:N:COLUMN or best:N:COLUMN. auto: all up to 1,000, sample:50 above.
    """
    from torchloupe.errors import BadInput
    from torchloupe.methods.difference import difference as check
    from torchloupe.render.colour import palette
    from torchloupe.runs.run import Job

    palette(ink.cmap)
    check(difference)
    if look.together:
        raise BadInput(
            "--channel-reduction pca and --patch are for loupe features; a difference has no patches to compare"
        )
    if loading.weights is not None:
        raise BadInput("--weights is given once a network here")
    if cka and scale != "figure":
        raise BadInput(f"--scale {scale} has no meaning with --cka, which goes from 0 to 1")
    pairs_of = two(model, weights or [])
    folder, single, style = destination(save, Style(**asdict(ink)))
    sides = [replace(loading, weights=file).words(spec(name, repo)) for name, file in pairs_of]
    ask = {"points": paired(at or (), vis_config), "difference": difference, "reduction": look.channel_reduction, "cka": cka,
           "batch": running.batch_size}  # fmt: skip
    job = Job("differences", {"sides": sides}, {"images": list(images), "single": single}, ask)
    work = job.open()
    for notice in work.notices:
        say(notice)
    results = running.results(folder, len(work.ids()), {"look": asdict(look), "scale": scale})
    done = running.run(job, work, results, "pictures")
    status = drawn(results, work.ids(), done, draw, folder, look, style, tiles)
    for id in [id for id in work.ids() if id not in done.failed]:
        if cka and not all(map(bool, map(_finite, results.read(id).arrays["cka"].ravel().tolist()))):
            say("a point gives every picture the same features, so its CKA is not defined (grey)")
        for name, row in results.record(id).get("figures", {}).items():
            for note in row["notes"]:
                say(f"{name}: {note}")
    for line in done.told("pictures"):
        say(line)
    return status


def _finite(value: float) -> bool:
    import math

    return math.isfinite(value)


def drawn(
    results: Results,
    ids: Sequence[str],
    done: Summary,
    draw: str,
    folder: Path,
    look: Look,
    style: Style,
    tiles: bool,
) -> int:
    """Draws what lies on disk, tells the files, and gives the exit status. Errors: BadInput where nothing can be drawn."""
    from torchloupe.errors import PARTLY, BadInput
    from torchloupe.render.features import pictures_of, pictures_together
    from torchloupe.runs.found import chosen
    from torchloupe.store.results import Files

    done.check()
    there = [id for id in ids if id not in done.failed]
    written: list[Path] = []
    odd: list[str] = []
    shown = chosen(results, there, draw)
    if look.together:
        if shown:
            written = pictures_together({id: results.read(id) for id in shown}, folder, look, style, tiles=tiles)
        shown = []
    for id in shown:
        try:
            found = results.read(id)
            found = results.note(id, found) if isinstance(results, Files) else found
            written += pictures_of(found, folder, id, look, style, tiles=tiles)
        except BadInput as error:
            if len(there) == 1:
                raise
            odd.append(f"{id}: {error}")
    if odd and not written:
        raise BadInput(f"{odd[0]} (and {len(odd) - 1} more pictures failed)")
    for path in written[:FEW]:
        print(path)
    if len(written) > FEW:
        print(f"... {len(written)} drawings in {folder}")
    for line in odd:
        say(f"not drawn: {line}")
    return PARTLY if odd else done.status


def spec(model: str, repo: str | None) -> str:
    """A model's spec, with the repository of a config that is given without one."""
    return f"{repo}:{model}" if repo and not model.startswith(f"{repo}:") else model


def two(models: Sequence[str], weights: Sequence[str]) -> list[tuple[str, Path | None]]:
    """The sides as (model, checkpoint): two, or one network that sees two pictures.

    Errors: BadInput for another number of models and weights than makes two sides.
    """
    from torchloupe.cli.edge import readable
    from torchloupe.errors import BadInput

    if len(models) > 2 or len(weights) > 2:
        raise BadInput(f"{len(models)} models and {len(weights)} weights; expected one or two of each")
    if len(models) == 2 and len(weights) == 1:
        raise BadInput("two models and one --weights; give one a model, in their order (none for a model without)")
    files = [None if name.lower() == "none" else Path(name) for name in weights]
    for file in files:
        if file is not None:
            readable("--weights", file)
    if len(models) == 1 and len(weights) < 2:
        return [(models[0], files[0] if files else None)]
    return list(zip(list(models) * (3 - len(models)), files or [None, None], strict=True))


def paired(words: Sequence[str], vis_config: Path | None) -> list[tuple[str, str, str]]:
    """(label, point of the first network, point of the second); none where nobody names one."""
    from torchloupe.errors import BadInput
    from torchloupe.sources.recorders import pairs

    found = pairs(vis_config) if vis_config is not None else []
    for word in words:
        one, mark, other = word.partition("=")
        if mark and not (one and other):
            raise BadInput(f"--at {word!r}: expected NAME, or NAME1=NAME2 where the networks differ")
        found.append((one if not mark or one == other else word, one, other or one))
    return found


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


def write_table(rows: Sequence[tuple[str, str, Mapping[str, float]]], path: Path) -> None:
    """The statistics of every point and picture as a csv file, and on standard output."""
    import csv

    from torchloupe import store

    columns = list(rows[0][2])
    with (
        store.aside(path) as (draft,),
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
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
