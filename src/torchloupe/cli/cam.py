"""loupe cam: where did the model look?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Model, Progress, Words, pairs, progress, say
from torchloupe.render.style import Style

if TYPE_CHECKING:
    from torchloupe.probe import Batch, Probe, Subject
    from torchloupe.results import Maps

DEFAULT_MODEL = Model()
DEFAULT_STYLE = Style()
FEW = 24
PLACED = ("detector", "segmenter")


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
    aug_smooth: Annotated[bool, Parameter(negative="")] = False,
    eigen_smooth: Annotated[bool, Parameter(negative="")] = False,
    option: Words | None = None,
    batch_size: int = 8,
    strict: Annotated[bool, Parameter(negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
    preview_model: Annotated[bool, Parameter(negative="")] = False,
    loading: Annotated[Model, Parameter(name="*")] = DEFAULT_MODEL,
    style: Annotated[Style, Parameter(name="*")] = DEFAULT_STYLE,
) -> None:
    """Draw where a model looks: heatmaps of pictures, by any method, at any layers, for any classes, boxes or regions.

    For every picture: one drawing per layer, method and target (or one labelled grid with --compare), the raw maps as
    NAME.npz and how they were made as NAME.json. `loupe draw NAME.npz` redraws them with other settings.

    Parameters:
        images: Pictures, folders, globs, or a text file that lists pictures.
        model: timm:NAME, transformers:NAME-or-FOLDER, torchvision:NAME, torch:package.module:factory?key=value,
            mmpretrain:CONFIG.py (a Python config runs its code); mmdet:CONFIG.py and other OpenMMLab repositories.
        layers: Layers by dotted name, layer4[-1], a glob such as layer*, or relu#1 for the second call. Default: the layer
            that the literature uses for this family of models.
        method: One or more of: cam, gradcam, gradcam_pp, xgradcam, hirescam, layercam, eigencam, eigengradcam,
            smooth_gradcam_pp, scorecam, sscam, iscam, ablationcam, gradient_x_input, smoothgrad, integrated_gradients,
            guided_backprop, guided_gradcam, occlusion. Default: gradcam.
        target: Classes by index or name, predicted, topK, truth, or package.module:function. Default: predicted. Of a
            detector topK are its best detections, classes take only theirs; of a segmenter each class over its region;
            of a pose model joints by index or name.
        each: One target a picture, in order.
        labels: True labels for the target truth: lines of "picture class". Default: the name of the picture's folder.
        explain: Of a detection: its score, or iou, the score times the overlap with the box, which says more of its place.
        threshold: Detections that score less are neither asked about nor drawn.
        save: Folder to write to; or a picture's name, where exactly one is drawn.
        aug_smooth: Mean over six views: mirrored or not, times the input scaled by 0.9, 1.0 and 1.1.
        eigen_smooth: First principal component of activation x weight in place of the sum over channels.
        option: Options of the methods, key=value: steps=64 samples=20 window=32 fast=True quadrature=gauss-legendre ...
        batch_size: Pictures in one forward.
        strict: Stop at the first picture that cannot be explained, instead of going on without it.
        again: Compute anew what lies on disk already.
        preview_model: List the model's layers and stop.
    """
    from torchloupe.errors import BadInput, BadSample

    if preview_model:
        from torchloupe.cli.layers import layers as preview

        preview(model, loading=loading)
        return
    from torchloupe.methods.registry import named, options_of
    from torchloupe.names import expand
    from torchloupe.probe import Probe
    from torchloupe.render.colour import palette
    from torchloupe.sources.images import find
    from torchloupe.sources.safe import state_sha256
    from torchloupe.targets.boxes import boxes, regions
    from torchloupe.targets.pose import surest
    from torchloupe.targets.words import target as words_to_target

    methods = [named(name).__name__ for name in method or ("gradcam",)]
    options = pairs(option or (), "--option")
    if eigen_smooth:
        without = [name for name in methods if "eigen_smooth" not in options_of(named(name))]
        if without:
            raise BadInput(f"--eigen-smooth has no meaning with {', '.join(without)}: there is no weighted sum in it")
        options["eigen_smooth"] = True
    if batch_size < 1:
        raise BadInput(f"--batch-size {batch_size}: expected 1 or more")
    files = find(images)
    palette(style.cmap)
    folder, single = destination(save)
    if each and len(target or ()) != len(files):
        raise BadInput(f"--each: {len(target or ())} targets for {len(files)} pictures; give one a picture")
    subject = loading.load(model)
    if subject.prepare is None:
        raise BadInput(
            f"model {model!r}: it is not known how a picture is prepared for it; use it from Python with a Batch"
        )
    known = dict(subject.module.named_modules())
    wanted = [name for word in layers or subject.layers for name in expand(known, word)]
    if not wanted:
        raise BadInput(
            f"model {model!r}: no default layer was found; name one with --layers (see: loupe layers {model})"
        )
    if "weights" not in subject.notes and not model.startswith("torch:"):
        say("no --weights: the network is random, so its maps mean nothing; give a checkpoint")
    else:
        report = subject.notes.get("weights", {}).get("report", {})
        if report.get("trusted") and "loaded" in report:
            say(f"weights: {report['loaded']} of {report['total']} from the file fit")
    if not layers:
        say(f"layer: {', '.join(wanted)} (default)")
    detects = subject.kind == "detector"
    if not detects and (threshold or explain != "score"):
        raise BadInput(f"--threshold and --explain are for detectors; {model!r} is a {subject.kind}")
    if each and subject.kind in PLACED:
        raise BadInput(
            f"--each: {model!r} is a {subject.kind}, which is asked for boxes or regions; give --target alone"
        )
    words = [] if each else target or []
    if subject.kind == "pose" and aug_smooth:
        raise BadInput(
            "--aug-smooth mirrors pictures, in which left joints are right ones; leave it out for a pose model"
        )
    if detects:
        question: Any = boxes(words, subject.classes, value=explain, threshold=threshold)
    else:
        ask: Any = {"segmenter": regions, "pose": surest}.get(subject.kind, words_to_target)
        question = ask(words, subject.classes)
    probe = Probe(subject, tuple(wanted), question)
    names = unique_names(files)
    asked = {
        "model": model,
        "weights": subject.notes.get("weights", {}).get("sha256") or state_sha256(subject.module),
        "layers": list(probe.layers),
        "methods": methods,
        "options": options,
        "aug_smooth": aug_smooth,
        "target": list(target) if target else ["predicted"],
        "each": each,
        "explain": explain,
        "threshold": threshold,
        "cfg_options": loading.cfg_options,
        "size": loading.size,
        "mean": loading.mean,
        "std": loading.std,
        "ema": loading.ema,
        "classes": str(loading.classes) if loading.classes else None,
    }
    truth = None
    if any(word.lower() in ("truth", "true", "label") for word in target or ()):
        if subject.kind == "pose":
            raise BadInput(
                f"--target truth: {model!r} is a pose model; where joints truly are, loupe pose ig asks about"
            )
        truth = true_labels(files, labels, subject.classes)
    own_words = target if each and target else truth
    job = Job(subject, probe, methods, options, aug_smooth, folder, asked, style, single)
    failed: list[str] = []
    written: list[Path] = []
    with progress("pictures", len(files)) as bar:
        for chunk in chunks(range(len(files)), batch_size):
            ready: list[tuple[int, Any]] = []
            for i in chunk:
                try:
                    image = job.unless_done(files[i], names[i], again, written, own_words[i] if own_words else None)
                except BadInput as error:
                    if strict:
                        raise
                    failed.append(str(error))
                    bar.advance()
                    continue
                if image is None:
                    bar.advance()
                else:
                    ready.append((i, image))
            for part in job.parts(ready):
                try:
                    numbers = [i for i, _ in part]
                    batch = job.batch(part, files, truth)
                    own = job.for_each([target[i] for i in numbers]) if each and target else job.probe
                    asked_of = [own_words[i] if own_words else None for i in numbers]
                    pairs_of = [(names[i], files[i]) for i in numbers]
                    written += job.run(own, batch, pairs_of, asked_of, bar)
                except BadSample as error:
                    if len(part) > 1:
                        job.again(part)
                        continue
                    if strict:
                        raise
                    failed.append(str(error))
                bar.advance(len(part))
    written += job.draw_run(names)
    done = len(files) - len(failed)
    if failed and not done:
        more = f" (and {len(failed) - 1} more pictures failed)" if len(failed) > 1 else ""
        raise BadInput(failed[0] + more)
    for path in written[:FEW]:
        print(path)
    if len(written) > FEW:
        print(f"... {len(written)} drawings in {folder}")
    if failed:
        say(f"{done} of {len(files)} pictures done; {len(failed)} could not be read or explained:")
        for line in failed:
            say(f"  {line}")


class Job:
    """One run of `loupe cam`: the same question about many pictures."""

    def __init__(
        self,
        subject: Subject,
        probe: Probe,
        methods: Sequence[str],
        options: Mapping[str, Any],
        aug: bool,
        folder: Path,
        asked: Mapping[str, Any],
        style: Style,
        single: str | None,
    ) -> None:
        self.subject, self.probe, self.methods, self.options, self.aug = subject, probe, methods, options, aug
        self.folder, self.asked, self.style, self.single = folder, asked, style, single
        self._queue: list[list[tuple[int, Any]]] = []
        self._layouts: Mapping[str, Any] = {}

    def unless_done(self, file: Path, name: str, again: bool, written: list[Path], own: str | int | None) -> Any:
        """The picture, or None where the same question about it lies on disk (and was redrawn from there)."""
        from torchloupe.sources.images import read

        image = read(file)
        stored = self.folder / f"{name}.npz"
        if again or not stored.exists():
            return image
        from torchloupe.errors import LoupeError
        from torchloupe.store import load, plain, save

        try:
            arrays, record = load(stored)
        except LoupeError:
            return image
        if record.get("asked") != self._asked(file, own):
            return image
        if record.get("drawn") != plain(asdict(self.style)):
            save(self.folder, name, arrays, {**record, "drawn": asdict(self.style)})
        written += self._draw(arrays, record, name)
        return None

    def parts(self, ready: list[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
        """The pictures of one forward; those of a forward that failed come again one by one."""
        self._queue = [ready] if ready else []
        while self._queue:
            yield self._queue.pop(0)

    def again(self, part: list[tuple[int, Any]]) -> None:
        """Take the pictures of this forward one by one."""
        self._queue = [[one] for one in part] + self._queue

    def batch(self, part: list[tuple[int, Any]], files: Sequence[Path], truth: Sequence[int] | None) -> Batch:
        """The pictures as the model takes them."""
        from dataclasses import replace

        import torch

        assert self.subject.prepare is not None
        batch = self.subject.prepare([image for _, image in part], tuple(str(files[i]) for i, _ in part))
        if truth is not None:
            batch = replace(batch, truth={"label": torch.tensor([truth[i] for i, _ in part])})
        return batch

    def for_each(self, words: Sequence[str]) -> Probe:
        """The question with one class, or joint, a picture."""
        from dataclasses import replace

        from torchloupe.targets.classes import Each
        from torchloupe.targets.pose import Peaks

        if self.subject.kind == "pose":
            return replace(self.probe, target=Peaks(tuple(words), each=True, names=self.subject.classes))
        return replace(self.probe, target=Each(tuple(words), self.subject.classes))

    def run(
        self,
        probe: Probe,
        batch: Batch,
        pictures: Sequence[tuple[str, Path]],
        own: Sequence[str | int | None],
        bar: Progress,
    ) -> list[Path]:
        """Explain, store and draw one batch. pictures: name and file of each; own: what was asked of it alone."""
        from torchloupe.methods.cam import cams
        from torchloupe.methods.registry import named, options_of
        from torchloupe.methods.smooth import aug_smooth
        from torchloupe.store import maps_arrays, maps_record, save

        options = dict(self.options)
        if any("progress" in options_of(named(name)) for name in self.methods):
            options["progress"] = bar.part

        def ask(asked: Probe, samples: Batch) -> Mapping[str, Maps]:
            return cams(asked, samples, self.methods, **options)

        if self.subject.kind in PLACED:
            _, batch = probe.ask(batch)
        found = aug_smooth(ask, probe, batch) if self.aug else ask(probe, batch)
        if not self._layouts:
            layers = {layer for maps in found.values() for layer in maps.maps}
            self._layouts = layouts(probe.at(*sorted(layers)), batch.take([0]))
        written: list[Path] = []
        for i, (name, file) in enumerate(pictures):
            arrays, parts = maps_arrays(found, batch, i, self.subject.classes)
            asked = self._asked(file, own[i])
            used = {m: {o: v for o, v in self.options.items() if o in options_of(named(m))} for m in self.methods}
            weights = self.subject.notes.get("weights", {})
            record = maps_record(
                parts,
                model=self.subject.spec,
                target=repr(probe.target),
                weights=weights.get("path"),
                weights_sha256=weights.get("sha256"),
                layouts=self._layouts,
                options=used,
                source=file,
                source_sha256=asked["source"],
                seed=self.options.get("seed", 0),
                aug_smooth=self.aug,
                drawn=asdict(self.style),
                weights_report=weights.get("report"),
                asked=asked,
            )
            save(self.folder, name, arrays, record)
            written += self._draw(arrays, record, name)
            for method, layer, question in parts["empty"]:
                what = parts["questions"][question]
                say(f"{file}: the {method} map at {layer} for {what!r} is empty: nothing there speaks for it")
        return written

    def _asked(self, file: Path, own: str | int | None) -> dict[str, Any]:
        from torchloupe import __version__
        from torchloupe.sources.safe import sha256
        from torchloupe.store import plain

        return dict(plain({**self.asked, "own": own, "source": sha256(file), "version": __version__}))

    def _draw(self, arrays: Mapping[str, Any], record: Mapping[str, Any], name: str) -> list[Path]:
        from torchloupe.render.pictures import Sheet, drawing

        if self.style.scale == "run":
            return []
        return drawing([Sheet.read(arrays, record, name)], self.style).save(self.folder / (self.single or ""))

    def draw_run(self, names: Sequence[str]) -> list[Path]:
        """The drawings of a whole run on one scale of colours, where the style asks for it."""
        from torchloupe.render.pictures import redraw

        stored = [path for name in names if (path := self.folder / f"{name}.npz").exists()]
        return redraw(stored, str(self.folder), self.style) if self.style.scale == "run" else []


def layouts(probe: Probe, batch: Batch) -> Mapping[str, Any]:
    """The layout of each of the probe's layers, found with one forward that asks nothing."""
    from dataclasses import replace

    import torch

    from torchloupe.results import Scores

    def nothing(_output: Any, asked: Batch) -> Scores:
        return Scores(torch.zeros(1, asked.n), (asked.ids,))

    return replace(probe, target=nothing)(batch, grad=False).layouts


def destination(save: Path) -> tuple[Path, str | None]:
    """Folder to write to, and the drawing's own name where a picture file was given.

    Errors: BadInput for a folder that cannot be written.
    """
    import os

    from torchloupe.errors import BadInput
    from torchloupe.render.style import FORMATS

    single = save.suffix.lower().lstrip(".") in (*FORMATS, "jpeg")
    folder = save.parent if single else save
    above = folder
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise BadInput(f"--save {save}: {above} is a file; give a folder")
    if not os.access(above, os.W_OK):
        raise BadInput(f"--save {save}: the folder {above} cannot be written")
    return folder, save.name if single else None


def unique_names(files: Sequence[Path]) -> list[str]:
    """A file name for the result of each picture: its stem, with as much of its folder as tells it from the others."""
    import os

    stems = [file.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([file.resolve().parent for file in files]))
    longer = ["-".join(file.resolve().relative_to(common).with_suffix("").parts) for file in files]
    if len(set(longer)) == len(longer):
        return longer
    return ["-".join(file.resolve().relative_to(common).parts).replace(".", "-") for file in files]


def true_labels(files: Sequence[Path], labels: Path | None, classes: tuple[str, ...]) -> list[int]:
    """The class index of every picture, from a list of "picture class" lines or from the folders' names.

    Errors: BadInput for a list that cannot be read, or a picture without a label.
    """
    from torchloupe.errors import BadInput
    from torchloupe.targets.classes import class_index

    count = len(classes) or 10**9
    if labels is None:
        return [class_index(file.resolve().parent.name, classes, count) for file in files]
    try:
        lines = [line.strip() for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--labels {labels}: cannot be read ({error})") from error
    known = {}
    for line in lines:
        name, _, word = line.replace("\t", " ").replace(",", " ").partition(" ")
        known[Path(name).name] = word.strip()
    missing = [file.name for file in files if file.name not in known]
    if missing:
        raise BadInput(f"--labels {labels}: no label for {missing[0]}; expected lines of 'picture class'")
    return [class_index(known[file.name], classes, count) for file in files]


def chunks(numbers: range, size: int) -> Iterator[range]:
    """The numbers, so many at a time."""
    for begin in range(0, len(numbers), size):
        yield numbers[begin : begin + size]
