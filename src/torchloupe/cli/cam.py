"""loupe cam: where did the model look?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Model, Running, Words, pairs, say
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from torchloupe.store.results import Results

DEFAULT_MODEL = Model()
DEFAULT_RUNNING = Running()
DEFAULT_STYLE = Style()
FEW = 24


def cam(
    *images: str,
    model: str,
    layers: Annotated[Words | None, Parameter(name=["--layers", "--target-layers"])] = None,
    method: Words | None = None,
    target: Annotated[Words | None, Parameter(name=["--target", "--target-category"])] = None,
    each: Annotated[bool, Parameter(negative="")] = False,
    labels: Path | None = None,
    explain: Literal["score", "iou"] = "score",
    threshold: float = 0.0,
    save: Annotated[Path, Parameter(name=["--save", "--save-path"])] = Path("out"),
    like: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    templates: Words | None = None,
    asking: Annotated[str | None, Parameter(name="--say")] = None,
    aug_smooth: Annotated[bool, Parameter(negative="")] = False,
    eigen_smooth: Annotated[bool, Parameter(negative="")] = False,
    option: Words | None = None,
    draw: str = "auto",
    metrics: Annotated[Words | None, Parameter(name=["--metrics", "--metric"])] = None,
    preview_model: Annotated[bool, Parameter(negative="")] = False,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
    running: Annotated[Running, Parameter(name="*")] = DEFAULT_RUNNING,
    style: Annotated[Style, Parameter(name="*")] = DEFAULT_STYLE,
) -> int:
    """Draw where a model looks: heatmaps of pictures, by any method, at any layers, for any classes, boxes or regions.

    For every picture: one drawing per layer, method and target (or one labelled grid with --compare), the raw maps as
    NAME.npz and how they were made as NAME.json. `loupe draw NAME.npz` redraws them with other settings.

    Parameters:
        images: Pictures, folders, globs, a text file that lists pictures, or words of data sets: coco:FILE.json, csv:FILE,
            hf:FOLDER, webdataset:GLOB ...; with ?crops the objects in them. For models that take something else (see
            --example): signals (.npy, .npz, .wav, .csv), videos (.mp4, .gif, folders of frames, arrays of frames).
        model: timm:NAME, transformers:NAME-or-FOLDER, torchvision:NAME, torch:package.module:factory?key=value,
            mmpretrain:CONFIG.py (a Python config runs its code); mmdet:CONFIG.py and other OpenMMLab repositories.
        layers: Layers by dotted name, layer4[-1], a glob such as layer*, or relu#1 for the second call. Default: the layer
            that the literature uses for this family of models.
        method: One or more of: cam, gradcam, gradcam_pp, xgradcam, hirescam, layercam, eigencam, eigengradcam,
            smooth_gradcam_pp, scorecam, sscam, iscam, ablationcam, gradient_x_input, smoothgrad, integrated_gradients,
            guided_backprop, guided_gradcam, gradient_shap, lrp, refinecam, rise, vitcx, gscorecam, occlusion; of transformers attention, rollout, gradient_x_attention, chefer,
            legrad, attnlrp, maskclip, clip_surgery; or package.module:function. Default: gradcam.
        target: Classes by index or name, predicted, topK, truth, one class less another ("tabby - tiger cat", "tabby - others"), or
            package.module:function. Default: predicted. Of a
            detector topK are its best detections, classes take only theirs; of a segmenter each class over its region;
            of a pose model joints by index or name; of CLIP, SigLIP and their kin any texts, such as "a red car" "a dog", and
            contrasts of two, "a red car - a car".
        each: One target a picture, in order.
        labels: True labels for the target truth: lines of "picture class". Default: the name of the picture's folder.
        explain: Of a detection: its score, or iou, the score times the overlap with the box, which says more of its place.
        threshold: Detections that score less are neither asked about nor drawn.
        save: Folder to write to; or a picture's name, where exactly one is drawn.
        like: Of a model that gives embeddings: pictures to which the similarity is explained. Default: the embedding's length.
        templates: Sentences around the texts of --target, with {} for them: "a photo of {}" "a drawing of {}"; their mean is asked.
        asking: What a vision-language model is asked; --target answer:red then explains the probability of that answer.
        aug_smooth: Mean over six views: mirrored or not, times the input scaled by 0.9, 1.0 and 1.1.
        eigen_smooth: First principal component of activation x weight in place of the sum over channels.
        option: Options of the methods, key=value: steps=64 samples=20 window=32 fast=True quadrature=gauss-legendre ...
        draw: Which pictures are drawn: all, none, sample:N (evenly), worst:N or best:N (by score, or by a column of the
            run's table, worst:N:COLUMN). auto: all up to 1,000 pictures, sample:50 above.
        metrics: Numbers of every map, in its record and in the run's table: deletion, insertion, srg, road, average_drop, infidelity,
            faithfulness_correlation, monotonicity, shape ... `loupe judge` sets chance beside them, and has their options.
        preview_model: List the model's layers and stop.
    """
    if preview_model:
        from torchloupe.cli.layers import layers as preview

        preview(model, loading=loading)
        return 0
    from torchloupe.errors import BadInput
    from torchloupe.render.colour import palette
    from torchloupe.render.pictures import draw_run
    from torchloupe.runs.found import chosen
    from torchloupe.runs.run import Job
    from torchloupe.sources.images import names_of
    from torchloupe.sources.items import items

    files = items(images)
    palette(style.cmap)
    if save.suffix.lower() in (".gif", ".mp4") and style.video is None:
        style = replace(style, video="gif" if save.suffix.lower() == ".gif" else "mp4")
    folder, single = destination(save)
    names = names_of([item.path for item in files])
    ask: dict[str, Any] = {
        "layers": layers,
        "methods": method or ["gradcam"],
        "options": pairs(option or (), "--option"),
        "target": target,
        "each": each,
        "explain": explain,
        "threshold": threshold,
        "like": like,
        "templates": templates,
        "say": asking,
        "aug_smooth": aug_smooth,
        "eigen_smooth": eigen_smooth,
    }
    data = {
        "files": {name: item.where for name, item in zip(names, files, strict=True)},
        "labels": labels and str(labels),
    }
    if metrics:
        if aug_smooth:
            raise BadInput(
                "--metrics: with --aug-smooth a map answers for six inputs, not for the one that is masked; leave one out"
            )
        ask |= {"metrics": metrics, "metric_options": {}, "value": "auto", "chance": False, "chunk": 32, "seed": 0}
    job = Job("judged" if metrics else "maps", loading.words(model), data, ask)
    work = job.open()
    for notice in work.notices:
        say(notice)
    results = running.results(folder, len(work.ids()), {"drawn": asdict(style)})
    done = running.run(job, work, results, work.what)
    done.check()
    there = [name for name in work.ids() if name not in done.failed]
    shown = chosen(results, there, draw)
    written = draw_run(results, shown, folder / (single or ""), style)
    for path in written[:FEW]:
        print(path)
    if len(written) > FEW:
        print(f"... {len(written)} drawings in {folder}")
    if metrics:
        from torchloupe.render.judgement import table_of

        print("\n".join(table_of(results, there)))
    for line in [*empty_maps(results, shown), *done.told(work.what)]:
        say(line)
    return done.status


def empty_maps(results: Results, names: Sequence[str]) -> Iterator[str]:
    """A line for every map that is 0 everywhere."""
    for name in names:
        record = results.record(name)
        for method, layer, question in record["empty"]:
            what = record["questions"][question]
            yield f"{name}: the {method} map at {layer} for {what!r} is empty: nothing there speaks for it"


def destination(save: Path) -> tuple[Path, str | None]:
    """Folder to write to, and the drawing's own name where a picture file was given."""
    from torchloupe.render.style import FORMATS

    single = save.suffix.lower().lstrip(".") in (*FORMATS, "jpeg", "gif", "mp4")
    return (save.parent, save.name) if single else (save, None)
