"""Data sets from the places where people keep them: folders, torch Dataset factories and OpenMMLab configs."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Exhausted, Feed, Marks, Sample, Step
from torchloupe.errors import BadInput, LoupeError
from torchloupe.sources import albu, patches
from torchloupe.sources.annotated import READERS, Entry, entries, hugging_face, shards
from torchloupe.sources.configs import expand, located, one_line, spec, yaml_config
from torchloupe.sources.look import PICTURE_SUFFIXES, Levels, Look, described, open_picture
from torchloupe.sources.mixing import MixedFeed, divided
from torchloupe.sources.pipelines import PipelineFeed, config_mixers, config_stages
from torchloupe.sources.transforms import (
    DRAWING,
    Flow,
    Stage,
    StepFailed,
    chosen,
    model_transform,
    named_transform,
    parameters,
    run,
    seeded,
    stages,
    unchanged,
)
from torchloupe.sources.transforms import watched as watching
from torchloupe.sources.truth import LABEL_KEYS, Truth, divided_item, fields, truth

# As many samples as tell the range of values of a data set.
PROBED = 8


@dataclass(frozen=True)
class Settings:
    """How values are shown (range), which channels, and how boxes are written that do not say so (one of truth.FORMS)."""

    range: tuple[float, float] | None = None
    channels: tuple[int, ...] | None = None
    boxes: str | None = None

    @property
    def asks(self) -> bool:
        """Whether something is asked of how values are shown."""
        return self.range is not None or self.channels is not None


def feeds(
    source: str,
    *,
    phase: str = "train",
    transform: str | None = None,
    model: str | None = None,
    data: str | None = None,
    changes: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
) -> list[Feed]:
    """The data sets that a source names, each with its pipeline; several for a folder of configs.

    source: an OpenMMLab config or a folder of them, `folder:PATH` (a class per sub-folder), `torch:module:factory`, or the word
    and file of what a tool exports (`annotated.READERS`, `hf:FOLDER`, `webdataset:GLOB`).
    transform, model: steps to take after the source's own. data: a folder of pictures in the place of a config's own.
    settings: how values, channels and boxes are read, where the data do not say.
    Errors: BadInput, MissingPackage, each in one line.
    """
    steps: list[Stage] = []
    if transform:
        steps += named_transform(transform)
    if model and model.endswith(".py"):
        steps += config_stages(located(model, "timm:NAME, transformers:FOLDER, torchvision:NAME"), changes or {})
    elif model:
        steps += model_transform(model)
    kind, rest, query = spec(source)
    if settings.boxes is not None and kind not in ("torch", "hf", "webdataset"):
        raise BadInput("--boxes is for torch:, hf: and webdataset: data that do not say how their boxes are written")
    words = ("folder", "torch", "hf", "webdataset", *READERS)
    if settings.asks and kind not in words:
        raise BadInput("--range and --channels are for folder:, torch: and their like; a config has its own pipeline")
    if kind in words:
        if data is not None:
            raise BadInput(f"--data is for configs; {source} names its own data")
        if not rest:
            raise BadInput(f"{source!r} names nothing; expected folder:PATH or torch:module:factory")
        single, mixers = divided(steps)
        feed: Feed
        if kind == "folder":
            feed = FolderFeed(rest, single, settings)
        elif kind == "torch":
            feed = torch_feed(source, rest, query, single, settings)
        elif kind == "hf":
            feed = TorchFeed(hugging_face(rest, phase), Path(rest).resolve().name, single, settings)
        elif kind == "webdataset":
            feed = StreamFeed(shards(rest), Path(rest).stem, single, settings)
        else:
            feed = AnnotatedFeed(*entries(kind, rest, query, phase), single, settings)
        return [MixedFeed(feed, mixers) if mixers else feed]
    source = located(source, f"one of {', '.join(f'{word}:' for word in words)}")
    if steps:
        raise BadInput("--transform and --model are for folder: and torch: sources; a config has its own pipeline")
    paths, found = expand(source), []
    last: LoupeError | None = None
    for path in paths:
        try:
            if path.endswith((".yaml", ".yml")):
                found.append(_yaml_feed(path, phase, changes or {}, data))
                continue
            feed = PipelineFeed(path, phase, changes or {}, data)
            mixers = config_mixers(path, changes or {}) if phase == "train" else []
            found.append(MixedFeed(feed, mixers) if mixers else feed)
            continue
        except LoupeError as error:
            last = error
        if len(paths) == 1 and last is not None:
            raise last
    if not found and last is not None:
        raise last
    # Configs of one folder differ in the model more often than in the data.
    distinct: dict[str, Feed] = {}
    for feed in found:
        distinct.setdefault(getattr(feed, "key", feed.name), feed)
    return list(distinct.values())


def _yaml_feed(path: str, phase: str, changes: Mapping[str, Any], data: str | None) -> Feed:
    """The walks of an OpenGait YAML, the people of an HRNet one."""
    from torchloupe.sources.crops import CropFeed, pose_config
    from torchloupe.sources.walks import WalkFeed, gait_config

    blocks = yaml_config(path, {})
    if gait_config(blocks):
        return WalkFeed(path, phase, changes, data)
    if pose_config(blocks):
        return CropFeed(path, phase, changes, data)
    raise BadInput(f"{path}: neither an OpenGait config (model_cfg, data_cfg) nor an HRNet one (MODEL, DATASET)")


class Shown:
    """What data sets of pictures have in common: the look of their values, told from a few of them before the first is shown."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.levels = Levels(settings.range)
        self.look = Look(levels=self.levels, channels=settings.channels)

    def probed(self, count: int, take: Callable[[int], Any]) -> None:
        """Takes a few samples evenly spread over the data set, so that the range of values is the same for all of them."""
        for index in sorted({round(k) for k in np.linspace(0, count - 1, min(count, PROBED))}):
            with suppress(BadSample, Exhausted):
                take(index)
        self.levels.open = False


class FolderFeed(Shown):
    """`folder:PATH`: pictures anywhere below PATH; the first folder below it is the class."""

    order = "RGB"

    def __init__(self, root: str, steps: Sequence[Stage], settings: Settings) -> None:
        super().__init__(settings)
        self.root, self.steps, self.name = Path(root), list(steps), Path(root).resolve().name
        if not self.root.is_dir():
            raise BadInput(f"folder:{root}: no such folder")
        self.paths = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        if not self.paths:
            raise BadInput(f"folder:{root}: no picture in it (looked for {', '.join(PICTURE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.paths)

    def faults(self, _index: int, _size: tuple[int, int]) -> tuple[str, ...]:
        """What is wrong with the annotation of a picture of that size."""
        return ()

    def truth(self, _index: int, _size: tuple[int, int]) -> Truth:
        """What is known of a picture: the folder that it lies in is its class."""
        inside = self.paths[_index].relative_to(self.root)
        return Truth(labels=inside.parts[:1] if len(inside.parts) > 1 else ())

    def called(self, index: int) -> str:
        """The name of a sample: its path below the folder."""
        return str(self.paths[index].relative_to(self.root))

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample for a file that is no picture and for a step that fails."""
        name = self.called(index)
        image, step = self._loaded(index, name)
        size = step.pictures[0].shape[1], step.pictures[0].shape[0]
        try:
            found = self.truth(index, size)
        except LoupeError as error:
            raise BadSample(index, name, "annotation", str(error)) from error
        except Exception as error:
            raise BadSample(index, name, "annotation", one_line(error)) from error
        log = [replace(step, marks=found.marks)]
        if whole:
            with seeded(seed):
                try:
                    run(self.steps, Flow(image, found.marks), self.look, log)
                except StepFailed as error:
                    raise BadSample(index, name, f"step {error.step}", error.message) from error
        notes = (*self.levels.told(), *([found.said] if found.said else []))
        wrong = self.faults(index, size)
        return Sample(index, name, found.label, tuple(log), labels=found.labels, notes=notes, faults=wrong)

    def _loaded(self, index: int, name: str) -> tuple[Any, Step]:
        """The picture as it goes through the pipeline, in bytes, and as the first step."""
        try:
            image, top, said = open_picture(self.paths[index])
        except LoupeError:
            raise
        except Exception as error:
            raise BadSample(index, name, "load", one_line(error)) from error
        look = replace(self.look, place="load", top=top)
        wide = isinstance(image, np.ndarray) or self.settings.asks
        if wide and self.levels.open:
            self.probed(len(self), lambda k: look.pictures(self._array(k)))
        pictures = look.pictures(np.asarray(image) if wide else image)
        if not pictures:
            raise BadSample(index, name, "load", f"holds no picture: {described(image)}")
        told = f"{image.dtype}, {image.shape[-1]} channels" if isinstance(image, np.ndarray) else ""
        told = ", ".join(part for part in (told, said, look.note(image)) if part)
        if wide:
            from PIL import Image

            image = Image.fromarray(pictures[0])
        return image, Step("load", pictures, told)

    def _array(self, index: int) -> np.ndarray:
        try:
            return np.asarray(open_picture(self.paths[index]).image)
        except Exception as error:
            raise BadSample(index, self.called(index), "load", one_line(error)) from error


class AnnotatedFeed(FolderFeed):
    """Pictures whose annotation lies in files of a tool: `coco:`, `yolo:`, `voc:`, `labelme:`, `cvat:`, `csv:`."""

    def __init__(self, name: str, found: Sequence[Entry], steps: Sequence[Stage], settings: Settings) -> None:
        Shown.__init__(self, settings)
        self.name, self.found, self.steps = name, list(found), list(steps)
        self.paths = [one.path for one in found]

    def faults(self, index: int, size: tuple[int, int]) -> tuple[str, ...]:
        """See `FolderFeed.faults`."""
        return self.found[index].faults(size)

    def truth(self, index: int, size: tuple[int, int]) -> Truth:
        """See `FolderFeed.truth`."""
        return self.found[index].known(size)

    def called(self, index: int) -> str:
        """See `FolderFeed.called`."""
        return self.found[index].name


def torch_feed(source: str, rest: str, query: Mapping[str, Any], steps: Sequence[Stage], settings: Settings) -> Feed:
    """`torch:module:factory?...`: any torch Dataset, with items or as a stream.

    Errors: BadInput for anything else, and for an empty data set.
    """
    made = patches.named(rest, "torch:")
    ready = hasattr(made, "__getitem__") or hasattr(made, "__iter__")
    if not callable(made) and not ready:
        raise BadInput(f"{source}: expected a data set or a factory of one, found {type(made).__name__}")
    try:
        dataset = made(**query) if inspect.isclass(made) or not ready else made
    except LoupeError:
        raise
    except Exception as error:
        raise BadInput(f"{source}: the factory failed: {one_line(error)}") from error
    found = type(dataset).__name__
    if hasattr(dataset, "batch_sampler"):
        raise BadInput(f"{source}: the factory gave a {found}, whose samples are batches; let it give the data set")
    import torch

    stream = isinstance(dataset, torch.utils.data.IterableDataset)
    items = not stream and hasattr(dataset, "__getitem__") and _length(dataset) is not None
    if not items and not hasattr(dataset, "__iter__"):
        raise BadInput(f"{source}: expected a data set with a length and items, the factory gave {found}")
    if _length(dataset) == 0:
        raise BadInput(f"{source}: the data set is empty")
    return (TorchFeed if items else StreamFeed)(dataset, rest.rpartition(":")[2], steps, settings)


def _length(dataset: Any) -> int | None:
    """The length of a data set; None where it has none (torch's IterableDataset raises, or lacks the method)."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        return None


class TorchFeed(Shown):
    """A torch Dataset with items. Its own `transform` is watched step by step while it runs."""

    def __init__(self, dataset: Any, name: str, steps: Sequence[Stage], settings: Settings) -> None:
        super().__init__(settings)
        self.dataset, self.name, self.steps = dataset, name, list(steps)
        self.classes = _classes(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> Any:
        """What the data set gives."""
        return self.dataset[index]

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample where the data set or a step raises."""
        found = self._sample(index, seed, whole)
        if self.levels.open:
            if self.levels.seen and len(self) < sys.maxsize and self.settings.range is None:
                self.probed(len(self), lambda k: self._sample(k, 0, whole))
                found = self._sample(index, seed, whole)
            self.levels.open = False
        return replace(found, notes=(*self.levels.told(), *found.notes))

    def _sample(self, index: int, seed: int, whole: bool) -> Sample:
        name, log = _file_name(self.dataset, index), list[Step]()
        with seeded(seed), albu.reseeded(_generators(self.dataset), seed):
            try:
                with recording(self.dataset, log, self.look, self.classes) as watched:
                    item = self.item(index)
            except StepFailed as error:
                raise BadSample(index, name, f"step {error.step}", error.message) from error
            except Exhausted:
                raise
            except Exception as error:
                raise BadSample(index, name, "load", one_line(error)) from error
            image, target = divided_item(item)
            look = (watched.looks[-1] if watched.looks else self.look).at("item")
            pictures = look.pictures(image)
            if not pictures:
                held = fields(item)
                found = described(item) if held is None else ", ".join(f"{k}: {described(v)}" for k, v in held.items())
                raise BadSample(index, name, "item", f"holds no picture: {found}")
            size = pictures[0].shape[1], pictures[0].shape[0]
            known = truth(target, self.classes, size, self.settings.boxes)
            if watched.out is not None and known.marks.boxes is not None and self.settings.boxes is None:
                # What comes out of a Compose is written as its parameters say.
                known = replace(known, marks=replace(known.marks, boxes=watched.out.boxes, keypoints=watched.out.keypoints,
                                                     names=watched.out.names or known.marks.names))  # fmt: skip
            note = look.note(image)
            if "NaN" in note:
                raise BadSample(index, name, "item", note)
            if not log:
                log.append(Step("item", pictures, note, known.marks))
            elif unchanged(log[-1].pictures, pictures, ""):
                # The data set's own target belongs to what its pipeline gave.
                log[-1] = replace(log[-1], marks=known.marks)
            else:
                log.append(Step("item", pictures, "", known.marks))
            if whole:
                try:
                    # A copy: a data set may keep what it gave, and a step may work in place.
                    run(self.steps, Flow(copy.deepcopy(image), copy.deepcopy(known.marks)), look, log)
                except StepFailed as error:
                    raise BadSample(index, name, f"step {error.step}", error.message) from error
        notes = (known.said,) if known.said else ()
        return Sample(index, name, known.label, tuple(log if whole else log[:1]), labels=known.labels, notes=notes)


class StreamFeed(TorchFeed):
    """An IterableDataset, read in order. A sample asked for again comes from a further pass through the stream."""

    def __init__(self, dataset: Any, name: str, steps: Sequence[Stage], settings: Settings) -> None:
        super().__init__(dataset, name, steps, settings)
        self.passes: list[Iterator[Any]] = []
        self.places: list[int] = []
        self.turn = -1, -1

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample as data sets with items do. The first sample says the range of values: nothing is read twice."""
        found = self._sample(index, seed, whole)
        self.levels.open = False
        return replace(found, notes=(*self.levels.told(), *found.notes))

    def __len__(self) -> int:
        """The length that the stream tells, else one that no stream reaches."""
        return _length(self.dataset) or sys.maxsize

    def item(self, index: int) -> Any:
        """The item of that number. Errors: Exhausted after the last one."""
        number, time = self.turn
        time = time + 1 if number == index else 0
        self.turn = index, time
        if time == len(self.passes):
            self.passes.append(iter(self.dataset))
            self.places.append(0)
        if index < self.places[time]:
            self.passes[time], self.places[time] = iter(self.dataset), 0
        while True:
            try:
                item = next(self.passes[time])
            except StopIteration:
                raise Exhausted from None
            self.places[time] += 1
            if self.places[time] == index + 1:
                return item


@dataclass
class Watched:
    """What the transforms of a data set left while they ran: their looks, and what a Compose said of boxes and points."""

    looks: list[Look] = field(default_factory=list)
    out: Marks | None = None


@contextmanager
def recording(dataset: Any, log: list[Step], look: Look, classes: Any = None) -> Iterator[Watched]:
    """Inside, the transforms that a data set holds leave a picture of every step in the log; then all is as before."""
    watched = Watched()
    with ExitStack() as stack:
        for home in _homes(dataset):
            own = getattr(home, "transform", None)
            if callable(own):
                taken = Recorder(own, log, watched, look, classes)
                _swap(home, "transform", taken, stack)
                both = getattr(home, "transforms", None)
                # torchvision's VisionDataset holds its transform a second time, inside `transforms`.
                if getattr(both, "transform", None) is own:
                    _swap(both, "transform", taken, stack)
            elif callable(getattr(home, "transforms", None)):
                _swap(home, "transforms", Recorder(home.transforms, log, watched, look, classes), stack)
            else:
                # albumentations' go by any name.
                for name, value in list(getattr(home, "__dict__", {}).items()):
                    if albu.composes(value):
                        _swap(home, name, Recorder(value, log, watched, look, classes), stack)
        yield watched


def _generators(dataset: Any) -> list[Any]:
    """All transforms of albumentations that a data set holds."""
    return [value for home in _homes(dataset) for value in getattr(home, "__dict__", {}).values() if albu.ours(value)]


def _swap(home: Any, name: str, value: Any, stack: ExitStack) -> None:
    before = getattr(home, name)
    setattr(home, name, value)
    stack.callback(setattr, home, name, before)


def _homes(dataset: Any) -> list[Any]:
    """The data set and those inside it (Subset, ConcatDataset): who may hold a transform."""
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else list(getattr(dataset, "datasets", ()))
    return [dataset, *(home for one in inner for home in _homes(one))]


class Recorder:
    """Called in the place of a transform: takes its steps one by one, as the transform does, and logs the pictures."""

    def __init__(self, transform: Any, log: list[Step], watched: Watched, look: Look, classes: Any) -> None:
        self.transform, self.log, self.watched, self.look, self.classes = transform, log, watched, look, classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transform, name)

    def __call__(self, *values: Any, **words: Any) -> Any:
        start = words.get("image", values[0] if values else None)
        look, size = self.look.at("load"), None
        pictures = look.pictures(start)
        size = (pictures[0].shape[1], pictures[0].shape[0]) if pictures else None
        if not values and albu.composes(self.transform) and set(words) != {"image"}:
            return self._composed(words, pictures)
        target = values[1] if len(values) > 1 else words
        self.log.append(Step("load", pictures, "", truth(target, self.classes, size).marks if target else Marks()))
        plain = len(values) == 1 and not words
        if plain or set(words) == {"image"}:
            parts = stages(self.transform)
            flow = run(parts, Flow(start), look, self.log)
            for part in parts:
                look = look.after(part.owner)
            self.watched.looks.append(look)
            return flow.image if plain else {"image": flow.image}
        inner = getattr(self.transform, "transforms", None)
        if words or not isinstance(inner, (list, tuple)):
            parts_called, result = [self.transform], None
        else:
            parts_called, result = list(inner), None
        for part in parts_called:
            name = type(part).__name__
            try:
                with watching(part, DRAWING) as drawn, chosen(part) as taken:
                    result = part(*values, **words)
            except Exception as error:
                raise StepFailed(name, error) from error
            if not words:
                values = result if isinstance(result, tuple) else (result,)
            look = look.after(part).at(name)
            image, target = divided_item(result)
            shown = look.pictures(image)
            size = (shown[0].shape[1], shown[0].shape[0]) if shown else None
            told = ", ".join(part for part in (*taken, parameters(drawn)) if part)
            self.log.append(Step(name, shown, told, truth(target, self.classes, size).marks))
        self.watched.looks.append(look)
        return result

    def _composed(self, words: dict[str, Any], pictures: tuple[np.ndarray, ...]) -> Any:
        """A Compose of albumentations with boxes, points or masks: itself is called, and watched after every step."""
        look = self.look
        start = albu.outer_marks(self.transform, words, self.classes)
        self.log.append(Step("load", pictures, "", start))
        seen: list[tuple[str, dict[str, Any], list[Any]]] = []
        try:
            with albu.watched_compose(self.transform, seen):
                result = self.transform(**words)
        except Exception as error:
            name = type(self.transform.transforms[len(seen)]).__name__ if len(seen) < len(self.transform) else "Compose"
            raise StepFailed(name, error) from error
        for owner, (name, data, applied) in zip(self.transform.transforms, seen, strict=False):
            before, look = self.log[-1].pictures, look.after(owner).at(name)
            text = parameters(albu.applied_text(applied, name)) or "applied" if applied else "not applied"
            shown = look.pictures(data["image"])
            self.log.append(Step(name, shown, unchanged(before, shown, text), albu.inner_marks(data, start.names)))
        if not seen:
            self.log.append(Step("Compose", pictures, "not applied", start))
        self.watched.out = albu.outer_marks(self.transform, result, self.classes)
        self.log[-1] = replace(self.log[-1], marks=self.watched.out)
        self.watched.looks.append(look)
        if not self.transform.save_applied_params:
            result.pop("applied_transforms", None)
        return result


# --- names of classes and files ------------------------------------------------------------------------------------------


def _classes(dataset: Any) -> Any:
    """Names of the classes: torchvision's `classes`, or those of a label's feature in Hugging Face's data sets."""
    for home in _homes(dataset):
        if getattr(home, "classes", None) is not None:
            return home.classes
        features = getattr(home, "features", None)
        for key in (*LABEL_KEYS, "objects"):
            names = _named_classes(features.get(key)) if isinstance(features, Mapping) else None
            if names:
                return names
    return None


def _named_classes(feature: Any) -> Any:
    """The names of a feature of Hugging Face's data sets, or of the classes inside a list or mapping of features."""
    if getattr(feature, "names", None):
        return feature.names
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, (list, tuple)) and inner:
        inner = inner[0]
    if getattr(inner, "names", None):
        return inner.names
    held = inner if isinstance(inner, Mapping) else {}
    return next((found for key in LABEL_KEYS if key in held and (found := _named_classes(held[key]))), None)


def _file_name(dataset: Any, index: int) -> str:
    """The file of a sample where the data set keeps a list of them (torchvision's folders), else its number."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        return _file_name(dataset.dataset, int(dataset.indices[index]))
    for key in ("samples", "imgs", "paths", "files"):
        known = getattr(dataset, key, None)
        if isinstance(known, (list, tuple)) and index < len(known):
            entry = known[index][0] if isinstance(known[index], (list, tuple)) else known[index]
            if isinstance(entry, (str, Path)):
                return Path(entry).name
    return str(index)
