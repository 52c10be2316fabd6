"""`loupe gait`: why did this probe match that gallery sequence?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Running, Words, pairs, say
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from torchloupe.probe import Subject

ConfigOption = Annotated[Path, Parameter(name=["--config", "-c", "--config-path", "--config_path"])]
WeightsOption = Annotated[Path | None, Parameter(name=["--weights", "-w"])]
LayersOption = Annotated[tuple[str, ...], Parameter(name=["--layers", "-l"], consume_multiple=True, negative=())]
DeviceOption = Annotated[str, Parameter(name=["--device"])]

ONE_BY_ONE = Running(batch_size=1)
DEFAULT_STYLE = Style()


def cam(
    *,
    config: Annotated[Path | None, Parameter(name=["--config", "-c", "--config-path", "--config_path"])] = None,
    weights: WeightsOption = None,
    probe: Annotated[Path | None, Parameter(name=["--probe", "-p", "--probe-dir", "--probe_dir"])] = None,
    gallery: Annotated[Path | None, Parameter(name=["--gallery", "-g", "--gallery-dir", "--gallery_dir"])] = None,
    save: Annotated[Path, Parameter(name=["--save", "-s", "--save-dir", "--save_dir", "--out", "-o"])] = Path(
        "gait-cam"
    ),
    layers: LayersOption = (),
    method: str = "gradcam",
    target: str = "nearest",
    exclude: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    evaluation: Annotated[Path | None, Parameter(name=["--evaluation", "-e"])] = None,
    failures: int | None = None,
    parts: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=())] = (),
    metric: Literal["euc", "cos"] | None = None,
    device: DeviceOption = "auto",
    opengait: Path | None = None,
    cache: Path | None = None,
    signed: Annotated[bool, Parameter(negative=())] = False,
    running: Annotated[Running, Parameter(name="*")] = ONE_BY_ONE,
    unsafe_load: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Heatmaps of probe sequences: where each layer sees what makes the probe like, or unlike, a gallery sequence.

    Writes <id>-<type>-<view>.npz (plain arrays) and .json (how it was made) for every probe; `loupe gait draw` draws
    them. The same command again computes only what is missing.

    Parameters
    ----------
    config
        OpenGait's YAML. It is merged over the default.yaml of its tree, where there is one. Not needed with --evaluation.
    weights
        Checkpoint (.pt or .safetensors). By default the one that restore_hint of the config means.
    probe
        Sequences to explain: a tree <id>/<type>/<view>/, a folder of silhouette pictures, or a video. Default: Probes.
    gallery
        Sequences among which the answer is looked for. Default: Gallery.
    save
        Folder of the results.
    layers
        Names, globs, or numbers of `loupe gait layers`. Asked for on a terminal, else the model's default layers.
    method
        gradcam, layercam, hirescam, ... or opengait, the formula of OpenGait's own tool.
    target
        nearest (whoever it is), match (same identity), rival (another identity), margin (rival - match), or the
        name of a gallery sequence.
    exclude
        Gallery sequences that are no candidates: same-view, same-type (of anybody), own-view, own-type (of the probe's
        own person).
    evaluation
        A folder of `loupe gait eval`, whose model, sequences and protocol are taken.
    failures
        Of the evaluation: explain so many probes that were taken for somebody else, the worst first. Default: 10.
    parts
        Body parts to ask about one by one; all together by default.
    metric
        Distance; by default the config's.
    device
        cpu, cuda, a GPU's number, or auto.
    opengait
        A checkout of OpenGait, for models that are not built in. Its code is imported, that is, run.
    cache
        Folder where embedded galleries are kept; by default the user's cache folder.
    signed
        Keep what makes them unlike as well, below 0 (blue); for methods that cut it off.
    unsafe_load
        Let the checkpoint run code while it is read; only for files whose maker is trusted.
    """
    from torchloupe.errors import BadInput
    from torchloupe.runs.run import Job

    model = _model(config, weights, device, opengait, unsafe_load)
    data: dict[str, Any] = {"probes": str(probe or "Probes"), "gallery": str(gallery or "Gallery")}
    if evaluation is not None and (probe or gallery):
        raise BadInput("--evaluation knows its probes and its gallery; leave --probe and --gallery out")
    if evaluation is not None:
        from torchloupe.runs.gait import failing

        model, data, rule = failing(evaluation, 10 if failures is None else failures, model)
        exclude, metric = exclude or rule, metric or data["metric"]
    elif failures is not None:
        raise BadInput("--failures: of which evaluation? Give its folder with --evaluation")
    elif config is None:
        raise BadInput("--config: give OpenGait's YAML, or an evaluation with --evaluation")
    data |= {"strict": running.strict, "cache": str(cache or _cache())}
    ask = {
        "layers": layers,
        "method": method,
        "signed": signed,
        "target": target,
        "parts": parts,
        "metric": metric,
        "exclude": exclude,
    }
    job = Job("gait maps", model, data, ask)
    work = job.open()
    if not layers:
        work.layers = _asked(work.subject)
        job = replace(job, ask={**ask, "layers": work.layers})
    work.about()  # the gallery is embedded, and the question checked, before anything is written
    results = running.results(save, len(work.ids()), {})
    done = running.run(job, work, results, "probes")
    done.check()
    there = [name for name in work.ids() if name not in done.failed]
    for name in there:
        print(_line(save / f"{name}.npz", results.record(name), target))
    if done.before:
        print(f"{done.before} of {len(there)} were there already")
    for line in done.told("probes"):
        print(line, file=sys.stderr)
    return done.status


def judge(
    *,
    config: ConfigOption,
    weights: WeightsOption = None,
    probe: Annotated[Path, Parameter(name=["--probe", "-p", "--probe-dir", "--probe_dir"])] = Path("Probes"),
    gallery: Annotated[Path, Parameter(name=["--gallery", "-g", "--gallery-dir", "--gallery_dir"])] = Path("Gallery"),
    save: Annotated[Path, Parameter(name=["--save", "-s", "--save-dir", "--save_dir", "--out", "-o"])] = Path(
        "gait-judged"
    ),
    layers: LayersOption = (),
    method: Words | None = None,
    target: str = "nearest",
    exclude: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    parts: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative=())] = (),
    metric: Literal["euc", "cos"] | None = None,
    device: DeviceOption = "auto",
    opengait: Path | None = None,
    cache: Path | None = None,
    signed: Annotated[bool, Parameter(negative=())] = False,
    metrics: Words | None = None,
    metric_option: Words | None = None,
    value: Literal["auto", "score", "share"] = "auto",
    chance: bool = True,
    rank: Annotated[bool, Parameter(negative=())] = False,
    chunk: int = 32,
    seed: int = 0,
    draw: str = "auto",
    running: Annotated[Running, Parameter(name="*")] = ONE_BY_ONE,
    style: Annotated[Style, Parameter(name="*")] = DEFAULT_STYLE,
    unsafe_load: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Numbers beside the heatmaps of walks: what the distance does as frames and places are taken away, and what chance gets.

    As `loupe judge` does for pictures; `loupe judge FOLDER` judges maps that `loupe gait cam` wrote. Deletion and insertion are
    given over frames and places together, over frames alone (_time) and over places alone (_space), with pictures of what was
    removed.

    Parameters
    ----------
    config
        OpenGait's YAML. It is merged over the default.yaml of its tree, where there is one.
    weights
        Checkpoint (.pt or .safetensors). By default the one that restore_hint of the config means.
    probe
        Sequences to explain: a tree <id>/<type>/<view>/, a folder of silhouette pictures, or a video.
    gallery
        Sequences among which the answer is looked for.
    save
        Folder of the results.
    layers
        Names, globs, or numbers of `loupe gait layers`. By default the model's default layers.
    method
        One or more methods, as for `loupe gait cam`. Default: gradcam.
    target
        nearest (whoever it is), match (same identity), rival (another identity), margin (rival - match), or the
        name of a gallery sequence.
    exclude
        Gallery sequences that are no candidates: same-view, same-type (of anybody), own-view, own-type (of the probe's
        own person).
    parts
        Body parts to ask about one by one; all together by default.
    metric
        Distance; by default the config's.
    device
        cpu, cuda, a GPU's number, or auto.
    opengait
        A checkout of OpenGait, for models that are not built in. Its code is imported, that is, run.
    cache
        Folder where embedded galleries are kept; by default the user's cache folder.
    signed
        Keep what makes them unlike as well, below 0; for methods that cut it off.
    metrics
        One or more of: deletion, insertion, srg, road, infidelity, faithfulness_correlation, monotonicity, completeness, shape.
        Default: deletion insertion road.
    metric_option
        Options of the metrics, key=value: steps=20 fill=zero grid=8 over=t percentiles=10,50 draws=64.
    value
        score: minus the distance, as it is; share: 1 clean, 0 wholly filled. auto: score.
    chance
        Judge a random map, a centred blob and an edge detector too.
    rank
        Order the methods by every number: paired differences to the best, intervals, p after Holm, cost; one figure.
    chunk
        Masked walks in one forward; bounds the memory.
    seed
        Of ties, noise and random maps.
    draw
        Which walks to draw: all, none, sample:N, worst:N, best:N, worst:N:COLUMN of the table; auto: all of up to 1000.
    unsafe_load
        Let the checkpoint run code while it is read; only for files whose maker is trusted.
    """
    from torchloupe.cli.judge import METRICS, judged
    from torchloupe.errors import BadInput
    from torchloupe.runs.run import Job

    if rank and len(method or ()) + len(layers) < 2:
        raise BadInput("--rank orders methods or layers; name at least two with --method or --layers")
    data = {
        "probes": str(probe),
        "gallery": str(gallery),
        "strict": running.strict,
        "cache": str(cache or _cache()),
    }
    ask = {
        "layers": layers,
        "methods": method or ["gradcam"],
        "signed": signed,
        "target": target,
        "parts": parts,
        "metric": metric,
        "exclude": exclude,
        "metrics": metrics or list(METRICS),
        "metric_options": pairs(metric_option or (), "--metric-option"),
        "value": value,
        "chance": chance,
        "chunk": chunk,
        "seed": seed,
    }
    job = Job("gait judged", _model(config, weights, device, opengait, unsafe_load), data, ask)
    work = job.open()
    work.tell = say
    work.about()  # the gallery is embedded, and the question checked, before anything is written
    return judged(job, work, save, running, draw, replace(style, compare=True), rank=rank, what="walks")


def evaluate(
    *,
    config: ConfigOption,
    weights: WeightsOption = None,
    dataset_dir: Annotated[Path | None, Parameter(name=["--dataset-dir", "--dataset_dir", "--data", "-d"])] = None,
    save: Annotated[Path, Parameter(name=["--save", "-s", "--save-dir", "--save_dir", "--out", "-o"])] = Path(
        "gait-eval"
    ),
    protocol: str | None = None,
    metric: Literal["euc", "cos"] | None = None,
    partition: Path | None = None,
    without: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    device: DeviceOption = "auto",
    opengait: Path | None = None,
    strict: Annotated[bool, Parameter(negative=())] = False,
    unsafe_load: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Rank-1, Rank-5, mAP and mINP by the protocol of a data set, and who was taken for whom.

    Writes the embeddings (feats.npz), the numbers and tables (evaluation.npz, .json), a picture of the tables (.png) and the
    probes taken for somebody else (failures.csv), which `loupe gait cam --evaluation ... --failures N` explains. The same
    command again embeds nothing that is there.

    Parameters
    ----------
    config
        OpenGait's YAML. It is merged over the default.yaml of its tree, where there is one.
    weights
        Checkpoint (.pt or .safetensors). By default the one that restore_hint of the config means.
    dataset_dir
        Tree <id>/<type>/<view>/ of all sequences. By default the config's dataset_root.
    save
        Folder of the results.
    protocol
        CASIA-B, CASIA-B-cross-view, OUMVLP, OUMVLP-cross-view, CASIA-E, SUSTech1K, GREW, CCPG, Gait3D, FreeGait or
        CCGR-MINI. By default the one of the config's eval_func and test_dataset_name.
    metric
        Distance; by default the config's.
    partition
        JSON with TEST_SET, and PROBE_SET or GALLERY_SET where the protocol wants them. By default the config's, where it is
        there; without one all sequences are used.
    without
        Measure once more with this part of the probes black: head, torso, legs, or a folder of masks
        <id>/<type>/<view>/*.pkl, such as of bags. Several are measured one by one.
    device
        cpu, cuda, a GPU's number, or auto.
    opengait
        A checkout of OpenGait, for models that are not built in. Its code is imported, that is, run.
    strict
        Stop at the first bad sequence. By default it is told and left out.
    unsafe_load
        Let the checkpoint run code while it is read; only for files whose maker is trusted.
    """
    from torchloupe.errors import BadInput
    from torchloupe.render.evaluation import draw_tables, lines
    from torchloupe.runs.evaluation import evaluated
    from torchloupe.runs.gait import opened
    from torchloupe.sources.opengait import config_of

    model = _model(config, weights, device, opengait, unsafe_load)
    subject = opened(model)
    tree = dataset_dir or config_of(subject).blocks["data_cfg"].get("dataset_root")
    if not tree:
        raise BadInput(f"{config}: names no dataset_root; give the tree of sequences with --dataset-dir")
    found = evaluated(
        subject,
        tree,
        save,
        how=protocol,
        metric=metric,
        partition=partition,
        without=without,
        strict=strict,
        told={"job": model},
    )
    print("\n".join(lines(found)))
    print(draw_tables(found, save / "evaluation.png"))
    failed = found.failures()
    print(f"{len(failed)} probes taken for somebody else: {save / 'failures.csv'}")
    if failed:
        print(f"explain the worst: loupe gait cam --evaluation {save} --failures {min(10, len(failed))}")


def _line(file: Path, note: Mapping[str, Any], target: str) -> str:
    """A result in one line."""
    answer = note["answers"][0] if target != "margin" else note["questions"][0]
    verdict = f"  {note['verdict']}" if target == "nearest" and note.get("verdict") else ""
    return f"{file}  {target}: {answer}  score {note['scores'][0]:.4g}{verdict}"


def draw(
    *npz: Path,
    save: Annotated[Path | None, Parameter(name=["--save", "-s", "--save-dir", "--save_dir"])] = None,
    heatmap_opacity: Annotated[float, Parameter(name=["--heatmap-opacity", "-h", "--heatmap_opacity"])] = 0.6,
    draw_mode: Annotated[str, Parameter(name=["--draw-mode", "-d", "--draw_mode"])] = "merge",
    resize_ratio: Annotated[float, Parameter(name=["--resize-ratio", "-r", "--resize_ratio"])] = 1.0,
    font_scale: Annotated[float, Parameter(name=["--font-scale", "-f", "--font_scale"])] = 2.5,
    scale: Literal["sequence", "frame", "run"] | None = None,
    frames_shown: Annotated[str, Parameter(name=["--frames"])] = "auto",
    colorbar: bool = True,
    fade: Annotated[bool, Parameter(negative=())] = False,
    format: Literal["png", "pdf", "svg"] = "png",
    question: int = 0,
    video: Literal["gif", "mp4"] | None = None,
    fps: float = 12.0,
    layers: LayersOption = (),
) -> None:
    """Pictures of the results of `loupe gait cam`, without the model.

    Parameters
    ----------
    npz
        Results, or folders of them.
    save
        Folder of the pictures; by default one beside each result, with its name.
    heatmap_opacity
        Of the heatmap over the picture, 0 to 1.
    draw_mode
        merge: a folder for each layer. compare: one grid of frames and layers beside the input. both.
    resize_ratio
        Size of pictures over the model's.
    font_scale
        Size of the labels of `compare` and of videos.
    scale
        What is brought to one scale: a sequence (its frames are comparable), each frame, or the run (all results of
        this command). By default a sequence; each frame for results of the method opengait.
    frames_shown
        Frames that are drawn: a number such as 12 (spread evenly), every:5, key (where a map is strongest), all, or auto (all,
        but in `compare` 24 of more than 60). A layer of fewer time steps shows those that hold them.
    colorbar
        A bar beside `compare` that explains the colours.
    fade
        The opacity grows with the value, so that the picture stays as it is where the map is 0.
    format
        Of `compare`; in pdf and svg its text is text.
    question
        Which question, where the result has several (`--parts`).
    video
        Also the sequence as a GIF or MP4: input, maps, and the gallery sequence that answered.
    fps
        Frames a second of the video.
    layers
        Names or globs of the layers to draw; all by default.
    """
    from torchloupe.errors import BadInput
    from torchloupe.kinds.sequences import SequenceMaps
    from torchloupe.render.sequences import Painter, Style, chosen_frames, limits_of, strip
    from torchloupe.render.sequences import draw as draw_result
    from torchloupe.render.video import write_video

    if not npz:
        raise BadInput("no result was named; expected those of loupe gait cam (.npz), or a folder of them")
    files: list[Path] = []
    for one in npz:
        if not one.exists():
            raise BadInput(f"{one}: no such file; expected a result of loupe gait cam (.npz) or a folder of them")
        found = sorted(one.glob("*.npz")) if one.is_dir() else [one]
        if not found:
            raise BadInput(f"{one}: no .npz in this folder; expected results of loupe gait cam")
        files += found
    if save and (twice := [name for name, times in Counter(file.stem for file in files).items() if times > 1]):
        raise BadInput(
            f"{twice[0]}.npz is named more than once, and --save takes one folder a name; draw them by themselves"
        )
    run = limits_of(SequenceMaps.load(file) for file in files) if scale == "run" else None
    for file in files:
        made = SequenceMaps.load(file).at(layers)
        how = scale or ("frame" if made.method == "opengait" else "sequence")
        style = Style(heatmap_opacity, resize_ratio, font_scale, how, frames_shown, colorbar, fade, format)
        folder = (save / file.stem if len(files) > 1 else save) if save else file.with_suffix("")
        written = draw_result(made, folder, draw_mode, style, question=question, run=run)
        if video:
            painter = Painter(made, style, question, run)
            frames = [strip(painter, made.layers, number) for number in chosen_frames(painter)]
            written.append(write_video(frames, folder / f"{made.name}.{video}", fps))
        print(f"{folder}: {len(written)} pictures")


def summary(
    run: Path,
    *,
    save: Annotated[Path | None, Parameter(name=["--save", "-s", "--save-dir", "--save_dir", "--out", "-o"])] = None,
    layers: LayersOption = (),
    question: int = 0,
    format: Literal["png", "pdf", "svg", "jpg", "webp"] = "png",
) -> None:
    """What the maps of `loupe gait cam` have in common: by view, condition and outcome, over the body and over time.

    Prints which part of the body the maps lie on, beside its share of the silhouette, and which part decides right and wrong
    matches. Writes summary.npz and .json, mean maps, differences of two conditions of the same people (such as coat less
    normal), parts over time and the parts' distances as pictures. No model is needed.

    Parameters
    ----------
    run
        Folder of results of `loupe gait cam`.
    save
        Folder of the summary; by default `summary` in the run's folder.
    layers
        Names or globs of the layers; all by default.
    question
        Which question, where the results have several (`--parts`).
    format
        Of the pictures.
    """
    from torchloupe import store
    from torchloupe.kinds.sequences import SequenceMaps
    from torchloupe.render.summary import draw_summary, lines
    from torchloupe.runs.found import results
    from torchloupe.runs.summary import summed

    every = results(run).values()
    made = summed((one for one in every if isinstance(one, SequenceMaps)), layers, question=question)
    folder = save or run / "summary"
    store.save(folder, "summary", made.arrays(), made.record)
    print("\n".join(lines(made)))
    for picture in draw_summary(made, folder, format):
        print(picture)


def layers(
    *,
    config: ConfigOption,
    opengait: Path | None = None,
    probe: Annotated[Path | None, Parameter(name=["--probe", "-p"])] = None,
    every: Annotated[bool, Parameter(name=["--all", "-a"], negative=())] = False,
) -> None:
    """The layers of a model: number, name, type, and where each lies in time and space. A star marks the default ones.

    Parameters
    ----------
    config
        OpenGait's YAML.
    opengait
        A checkout of OpenGait, for models that are not built in. Its code is imported, that is, run.
    probe
        A sequence to run the model on; needed for models that are not built in.
    every
        All layers. By default those of the numbered convolutions, and the default ones.
    """
    from torchloupe.errors import BadInput
    from torchloupe.sources.opengait import config_of, example, gait, layer_facts
    from torchloupe.sources.sequences import sequences

    subject = gait(config, checkout=opengait)
    if probe is not None and subject.prepare is not None:
        batch = subject.prepare(sequences(probe)[0])
    elif opengait is not None:
        raise BadInput("--opengait: give a sequence with --probe, so that the model can run once")
    else:
        batch = example(config_of(subject))
    facts = layer_facts(subject, batch)
    default = {name.partition("#")[0] for name in subject.layers}
    kept = [fact for fact in facts if every or fact.name in default or (fact.number and "Conv" in fact.kind)]
    rows = [("", "number", "name", "type", "time", "space")]
    rows += [
        ("*" if fact.name in default else "", str(fact.number or ""), fact.name, fact.kind, fact.time, fact.space)
        for fact in kept
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _model(
    config: Path | None, weights: Path | None, device: str, checkout: Path | None, unsafe: bool
) -> dict[str, object]:
    """A job's words about the model."""
    return {
        "config": config and str(config),
        "weights": weights and str(weights),
        "device": device,
        "checkout": checkout and str(checkout),
        "unsafe": unsafe,
    }


def _asked(subject: Subject) -> tuple[str, ...]:
    """Layers picked at a prompt, on a terminal; else the default ones. A word that fits none is asked again."""
    from torchloupe.errors import BadInput
    from torchloupe.networks.gait import leaves
    from torchloupe.sources.opengait import pick_layers

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return subject.layers
    for number, name in leaves(subject.module).items():
        if "Conv" in type(subject.module.get_submodule(name)).__name__:
            print(f"{number:>4}  {name}")
    print(f"default: {' '.join(subject.layers) or 'the last layer with frames and picture axes'}")
    while True:
        try:
            words = input("layers (numbers, names or globs; Enter for the default ones): ")
        except EOFError:
            print()
            raise KeyboardInterrupt from None
        try:
            return pick_layers(subject, (words,))
        except BadInput as error:
            print(error)


def _cache() -> Path:
    import os

    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "torchloupe" / "galleries"


def demo(
    *,
    save: Annotated[Path, Parameter(name=["--save", "-s", "-o"])] = Path("gait-demo"),
    steps: int = 180,
    seconds: float = 240.0,
    people: int = 24,
    strangers: int = 20,
    frames: int = 20,
    seed: int = 0,
) -> None:
    """Train a GaitSet on synthetic walkers, measure it, and explain right and wrong matches.

    Walkers are drawn, not filmed: articulated bodies with their own proportions and gait, 11 views, three conditions.
    Leaves a config and a checkpoint for `loupe gait cam`, OpenGait trees, results, pictures and a GIF.

    Parameters
    ----------
    save
        Folder to write to.
    steps
        Steps of the training.
    seconds
        The training stops after so long, whatever the steps.
    people
        Walkers to train on.
    strangers
        Other walkers to test on, at least 2.
    frames
        Frames of a walk, at least 8.
    seed
        Of bodies, walks and training.
    """
    import torch

    from torchloupe import store
    from torchloupe.errors import BadInput
    from torchloupe.examples import gait as example
    from torchloupe.render.evaluation import draw_tables
    from torchloupe.render.evaluation import lines as evaluation_lines
    from torchloupe.render.sequences import Painter, Style, strip
    from torchloupe.render.sequences import draw as draw_result
    from torchloupe.render.video import write_video

    for name, value, least in (
        ("people", people, 8),
        ("strangers", strangers, 2),
        ("frames", frames, 8),
        ("steps", steps, 1),
    ):
        if value < least:
            raise BadInput(f"--{name} {value}: expected {least} or more")
    print(f"{people} walkers to train on, {strangers} others to test on (synthetic: drawn, not filmed)")
    known = example.Crowd.of(range(100, 100 + people), example.TRAINED_ON, frames=frames, seed=seed)
    module = example.train(known, steps=steps, seconds=seconds, seed=seed)
    config, weights = save / "gaitset.yaml", save / "gaitset.pt"
    store.whole(config, example.CONFIG)
    with store.aside(weights) as (draft,):
        torch.save({"model": module.state_dict()}, draft)
    conditions = (*example.GALLERY, *(one for pair in example.PROBES.values() for one in pair))
    crowd = example.Crowd.of(range(1, 1 + strangers), conditions, frames=frames, seed=seed)
    embeddings = example.embedded(module, crowd)
    found = example.measured(embeddings, crowd)
    print(
        "\n".join(
            [
                *evaluation_lines(found),
                f"in percent; chance {100 / strangers:.1f}",
                *example.hidden(module, embeddings, crowd),
            ]
        )
    )
    print(draw_tables(found, save / "evaluation.png"))
    for case in example.cases(embeddings, crowd):
        made = example.explained(case, config, weights, save, frames=frames, seed=seed, strangers=strangers)
        folder = save / case.title
        draw_result(made, folder, "compare", Style(ratio=1.5))
        painter = Painter(made, Style(ratio=3))
        write_video([strip(painter, made.layers, i) for i in range(made.frames)], folder / "walk.gif")
        print(f"{case.title}: {made.name} is nearest to {made.answers[0]}, distance {-made.scores[0]:.3f}: {folder}")
        for line in example.on_the_bag(made, case, frames=frames, seed=seed):
            print(f"  {line}")
    some = min(4, strangers)
    print(f"the maps of {some} walkers, {len(example.HIDDEN_VIEWS)} views, three conditions: {save / 'summary'}")
    for line in example.summed_up(config, weights, save, people=some, frames=frames, seed=seed):
        print(f"  {line}")
    trees = f"-p {save / 'Probe'} -g {save / 'Gallery'}"
    print(f"explain more: loupe gait cam -c {config} -w {weights} {trees} -s {save / 'out'}")
