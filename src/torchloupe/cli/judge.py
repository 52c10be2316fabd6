"""loupe judge, loupe sane: how far can a map be trusted?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.cam import destination
from torchloupe.cli.options import Model, Running, Words, pairs, say
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from torchloupe.kinds.judged import Judged
    from torchloupe.runs.run import Job

DEFAULT_MODEL = Model()
DEFAULT_RUNNING = Running()
DEFAULT_STYLE = Style()
FEW = 6
METRICS = ("deletion", "insertion", "road")
FIXED = ("--layers", "--method", "--target", "--each", "--explain", "--threshold", "--option")


def judge(
    *images: str,
    model: str | None = None,
    metric: Words | None = None,
    method: Words | None = None,
    layers: Annotated[Words | None, Parameter(name=["--layers", "--target-layers"])] = None,
    target: Annotated[Words | None, Parameter(name=["--target", "--target-category"])] = None,
    each: Annotated[bool, Parameter(negative="")] = False,
    labels: Path | None = None,
    explain: Literal["score", "iou"] | None = None,
    threshold: float | None = None,
    option: Words | None = None,
    metric_option: Words | None = None,
    value: Literal["auto", "score", "softmax", "sigmoid", "share"] = "auto",
    truth: Path | None = None,
    chance: bool = True,
    rank: Annotated[bool, Parameter(negative="")] = False,
    chunk: int = 32,
    seed: int = 0,
    save: Annotated[Path | None, Parameter(name=["--save", "--save-path"])] = None,
    draw: str = "auto",
    running: Annotated[Running, Parameter(name="*")] = DEFAULT_RUNNING,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
    style: Annotated[Style, Parameter(name="*")] = DEFAULT_STYLE,
) -> int:
    """Numbers beside heatmaps: how faithful, where, of what shape, and what a map that knows nothing gets.

    Makes the maps of pictures, or takes those of a folder that `loupe cam` wrote, judges them, and prints one table: means over the
    pictures with 95 % intervals, a random map, a centred blob and an edge detector beside them. The folder gets the maps with their
    numbers and curves (NAME.npz, NAME.json), table.csv and the figure of the curves.

    Parameters:
        images: Pictures, folders, globs, or a text file that lists pictures; or one folder of results of `loupe cam` or `loupe gait
            cam`; `loupe gait judge` makes the maps of walks by several methods and judges them.
        model: As for `loupe cam`. For a folder of results: only where its records do not tell.
        metric: One or more of: deletion, insertion, srg, road, average_drop, infidelity, faithfulness_correlation, monotonicity,
            completeness; pointing, mass, energy, iou (with --truth); shape. Default: deletion insertion road.
        method: Methods, as for `loupe cam`. Default: gradcam.
        layers: Layers, as for `loupe cam`.
        target: Questions, as for `loupe cam`. Default: predicted.
        each: One target a picture, in order.
        labels: True labels for the target truth: lines of "picture class".
        explain: Of a detection: its score, or iou.
        threshold: Detections that score less are not asked about.
        option: Options of the methods, key=value.
        metric_option: Options of the metrics, key=value: steps=20 step=224 fill=blur grid=8 over=t percentiles=10,50 tolerance=15
            draws=64. fill: zero, black, mean, blur, linear, inpaint or a number.
        value: In which scale the score is read: score (as it is), softmax or sigmoid (probability of a class), share (1 clean, 0
            wholly filled). auto: softmax for questions about a classifier's classes, else score.
        truth: Where things are: COCO JSON, a folder of VOC XML files or of masks as pictures, JSON of boxes or points by file name.
        chance: Judge a random map, a centred blob and an edge detector too.
        rank: Order the methods by every number: paired differences to the best, intervals, p after Holm, cost; one figure.
        chunk: Masked inputs in one forward; bounds the memory.
        seed: Of ties, noise and random maps.
        save: Folder to write to. Default: judged; for a folder of results, the folder with -judged behind its name.
        draw: Which heatmaps to draw: all, none, sample:N, worst:N, best:N, worst:N:COLUMN of the table; auto: all of up to 1000.
    """
    from torchloupe.errors import BadInput
    from torchloupe.runs.run import Job

    options, what = pairs(metric_option or (), "--metric-option"), "pictures"
    if rank and len(method or ()) + len(layers or ()) < 2 and not (len(images) == 1 and stored(images[0])):
        raise BadInput("--rank orders methods or layers; name at least two with --method or --layers")
    ask: dict[str, Any] = {
        "metrics": metric or list(METRICS),
        "metric_options": options,
        "value": value,
        "chance": chance,
        "chunk": chunk,
        "seed": seed,
    }
    if len(images) == 1 and stored(images[0]):
        given = (layers, method, target, each, explain, threshold, option)
        wrong = [name for name, one in zip(FIXED, given, strict=True) if one]
        if wrong:
            raise BadInput(
                f"{', '.join(wrong)}: the maps of {images[0]} are made already; judge pictures, or leave it out"
            )
        folder = save or Path(images[0]).with_name(Path(images[0]).name + "-judged")
        if folder.resolve() == Path(images[0]).resolve():
            raise BadInput(f"--save {folder}: is the folder of the maps itself; give another one")
        data = {"run": images[0], "truth": truth and str(truth), "labels": labels and str(labels)}
        if walks(images[0]):
            wrong = [name for name, one in (("--truth", truth), ("--labels", labels), ("--model", model)) if one]
            if wrong:
                raise BadInput(
                    f"{', '.join(wrong)}: has no meaning for walks, whose maps {images[0]} holds; leave it out"
                )
            style, what = replace(style, compare=True), "walks"
            job = Job("gait judged again", {"device": loading.device, "unsafe": loading.unsafe_load}, data, ask)
        else:
            job = Job("judged again", loading.words(model or ""), data, ask)
    else:
        if model is None:
            raise BadInput(
                "--model: missing; name the model, as for loupe cam, or give one folder of results of loupe cam"
            )
        folder = save or Path("judged")
        ask |= asked(layers, method, target, each, explain, threshold, option)
        truths = {"labels": labels and str(labels), "truth": truth and str(truth)}
        job = Job("judged", loading.words(model), {**pictures(images), **truths}, ask)
    work = job.open()
    work.tell = say
    return judged(job, work, folder, running, draw, style, rank=rank, what=what)


def walks(name: str) -> bool:
    """Whether a folder of results holds maps of walks."""
    from torchloupe.runs.found import opened

    return next((record.get("kind") for _, record in opened(Path(name)).records()), None) == "gait maps"


def sane(
    *images: str,
    model: str,
    method: Words | None = None,
    layers: Annotated[Words | None, Parameter(name=["--layers", "--target-layers"])] = None,
    target: Annotated[Words | None, Parameter(name=["--target", "--target-category"])] = None,
    option: Words | None = None,
    order: Literal["top_down", "bottom_up"] = "top_down",
    independent: Annotated[bool, Parameter(negative="")] = False,
    blocks: int = 12,
    smooth: int = 1,
    stability: bool = True,
    seed: int = 0,
    save: Annotated[Path, Parameter(name=["--save", "--save-path"])] = Path("sane"),
    draw: str = "none",
    running: Annotated[Running, Parameter(name="*")] = DEFAULT_RUNNING,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
    style: Annotated[Style, Parameter(name="*")] = DEFAULT_STYLE,
) -> int:
    """Do the maps depend on the weights at all? Randomised networks, other questions, other methods, moved inputs.

    Blocks of a copy of the network are shuffled, one more at each point, and the maps compared with the original ones; the maps of
    two questions, of two methods, of a mirrored, shifted and noisy input are compared too. Prints one table, and one sentence a
    method. A batch of two pictures and more gives the level to compare with: how alike maps of other pictures are.

    Parameters:
        images: Pictures, folders, globs, or a text file that lists pictures.
        model: As for `loupe cam`.
        method: Methods, as for `loupe cam`. Default: gradcam.
        layers: Layers, as for `loupe cam`.
        target: Questions, as for `loupe cam`. Default: top2 for a classifier or detector, so that two
            questions can be compared; else as there.
        option: Options of the methods, key=value.
        order: top_down: from the output; bottom_up: from the input, which leaves nothing learnt intact.
        independent: Randomise each block by itself in place of one more at each point.
        blocks: Blocks at the most.
        smooth: Mean of the maps over so many noisy inputs (50 in the paper).
        stability: Compare maps of moved inputs.
        seed: Of the shuffles and of noise.
        save: Folder to write to.
        draw: Which heatmaps to draw: all, none, sample:N, worst:N, best:N, worst:N:COLUMN of the table; auto: all of up to 1000.
    """
    from torchloupe.runs.run import Job

    ask = {
        **asked(layers, method, target, False, None, None, option),
        "order": order,
        "independent": independent,
        "blocks": blocks,
        "smooth": smooth,
        "stability": stability,
        "seed": seed,
    }
    job = Job("sane", loading.words(model), {**pictures(images), "labels": None}, ask)
    return judged(job, job.open(), save, running, draw, style, sentences=True)


def asked(
    layers: Sequence[str] | None,
    method: Sequence[str] | None,
    target: Sequence[str] | None,
    each: bool,
    explain: str | None,
    threshold: float | None,
    option: Sequence[str] | None,
) -> dict[str, Any]:
    """What is asked of the model, as `loupe cam` does."""
    return {
        "layers": layers,
        "methods": method or ["gradcam"],
        "options": pairs(option or (), "--option"),
        "target": target,
        "each": each,
        "explain": explain or "score",
        "threshold": threshold or 0.0,
        "aug_smooth": False,
        "eigen_smooth": False,
    }


def pictures(images: Sequence[str]) -> dict[str, Any]:
    """The pictures by the names of their results."""
    from torchloupe.sources.images import names_of
    from torchloupe.sources.items import items

    files = items(images)
    return {"files": {name: one.where for name, one in zip(names_of([one.path for one in files]), files, strict=True)}}


def stored(name: str) -> bool:
    """Whether this is a folder of results."""
    folder = Path(name)
    return folder.is_dir() and any(one.with_suffix(".json").is_file() for one in folder.glob("*.npz"))


def judged(
    job: Job,
    work: Any,
    folder: Path,
    running: Running,
    draw: str,
    style: Style,
    *,
    rank: bool = False,
    sentences: bool = False,
    what: str = "pictures",
) -> int:
    """Runs the work, prints the table, writes and draws what came of it. Gives the exit status."""
    from torchloupe.errors import BadInput
    from torchloupe.kinds.judged import Judged
    from torchloupe.metrics.statistics import rows
    from torchloupe.render import judgement
    from torchloupe.render.colour import palette
    from torchloupe.render.pictures import draw_run
    from torchloupe.runs.found import chosen

    palette(style.cmap)
    folder, single = destination(folder)
    if single:
        raise BadInput(f"--save {folder / single}: a picture; a judgement is many files, give a folder")
    for notice in work.notices:
        say(notice)
    results = running.results(folder, len(work.ids()), {"drawn": asdict(style)})
    done = running.run(job, work, results, what)
    done.check()
    there = [id for id in work.ids() if id not in done.failed]
    samples = [Judged.read(*results.read(name), name) for name in there]
    numbers = judgement.gathered(samples)
    found = rows(numbers, judgement.controls_of(samples))
    for line in judgement.table(found):
        print(line)
    written = [judgement.write_table(found, folder / "table.csv")]
    if judgement.drawable(samples):
        written.append(judgement.save_figure(judgement.figure(samples), folder / f"curves.{style.format}"))
    if rank:
        written += ranked(samples, folder, style)
    shown = chosen(results, there, draw)
    written += draw_run(results, shown, folder, style)
    written += judgement.draw_removed(
        [one for one in samples if one.id in set(shown[: judgement.MOST_REMOVED])], folder, style
    )
    if len(shown) > judgement.MOST_REMOVED:
        say(
            f"what was taken away: drawn of {judgement.MOST_REMOVED} of {len(shown)} samples; `loupe draw {folder}/NAME.npz` draws that of others"
        )
    if sentences:
        print("\n".join(judgement.sentences(samples)))
    else:
        lines = list(dict.fromkeys(line for one in samples for line in one.said))
        for line in lines[:FEW]:
            say(line)
        if len(lines) > FEW:
            say(f"... and {len(lines) - FEW} more such lines, in the records under judged.said")
    for path in written:
        print(path)
    for line in done.told(what):
        say(line)
    return done.status


def ranked(samples: Sequence[Judged], folder: Path, style: Style) -> list[Path]:
    """Prints the order of the methods by every number that has a good side, and draws it."""
    from torchloupe.errors import BadInput
    from torchloupe.metrics.statistics import ranking
    from torchloupe.render import judgement

    controls = judgement.controls_of(samples)
    found = {
        name: ranking({key: one[0] for key, one in value.items() if key not in controls}, better)
        for name, (value, better, _) in judgement.gathered(samples).items()
        if better != "neither"
    }
    found = {name: some for name, some in found.items() if len(some) > 1 and some[0].n}
    if not found:
        raise BadInput("--rank: no number in which two methods can be compared on the same pictures")
    for line in judgement.order(found, judgement.seconds_of(samples)):
        print(line)
    return [judgement.save_figure(judgement.rank_figure(found), folder / f"rank.{style.format}")]
