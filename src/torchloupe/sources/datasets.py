"""Data sets from the places where people keep them: folders, torch Dataset factories and OpenMMLab configs."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torchloupe.data.samples import BadSample, Exhausted, Feed, Sample, Step
from torchloupe.errors import BadInput, LoupeError
from torchloupe.sources import patches
from torchloupe.sources.configs import expand, located, one_line, spec, yaml_config
from torchloupe.sources.mixing import MixedFeed, divided
from torchloupe.sources.pipelines import PipelineFeed, config_mixers, config_stages
from torchloupe.sources.transforms import (
    Flow,
    Look,
    Stage,
    StepFailed,
    described,
    model_transform,
    named_transform,
    run,
    seeded,
    stages,
    unchanged,
)
from torchloupe.sources.truth import LABEL_KEYS, divided_item, fields, truth

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")


def feeds(
    source: str,
    *,
    phase: str = "train",
    transform: str | None = None,
    model: str | None = None,
    data: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[Feed]:
    """The data sets that a source names, each with its pipeline; several for a folder of configs.

    source: an OpenMMLab config or a folder of them, `folder:PATH` (a class per sub-folder), `torch:module:factory`.
    transform, model: steps to take after the source's own. data: a folder of pictures in the place of a config's own.
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
    if kind in ("folder", "torch"):
        if data is not None:
            raise BadInput(f"--data is for configs; {source} names its own data")
        if not rest:
            raise BadInput(f"{source!r} names nothing; expected folder:PATH or torch:module:factory")
        single, mixers = divided(steps)
        feed: Feed = FolderFeed(rest, single) if kind == "folder" else torch_feed(source, rest, query, single)
        return [MixedFeed(feed, mixers) if mixers else feed]
    source = located(source, "folder:PATH or torch:module:factory")
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


def open_picture(path: str | Path) -> Any:
    """A picture file as an RGB PIL image, turned as its camera says. Raises what PIL raises."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        return ImageOps.exif_transpose(file).convert("RGB")


class FolderFeed:
    """`folder:PATH`: pictures anywhere below PATH; the first folder below it is the class."""

    def __init__(self, root: str, steps: Sequence[Stage]) -> None:
        self.root, self.steps, self.name = Path(root), list(steps), Path(root).resolve().name
        if not self.root.is_dir():
            raise BadInput(f"folder:{root}: no such folder")
        self.paths = sorted(p for p in self.root.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        if not self.paths:
            raise BadInput(f"folder:{root}: no picture in it (looked for {', '.join(PICTURE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample for a file that is no picture and for a step that fails."""
        path = self.paths[index]
        inside = path.relative_to(self.root)
        label = inside.parts[0] if len(inside.parts) > 1 else ""
        try:
            image = open_picture(path)
        except Exception as error:
            raise BadSample(index, str(inside), "load", one_line(error)) from error
        log = [Step("load", Look().pictures(image))]
        if whole:
            with seeded(seed):
                try:
                    run(self.steps, Flow(image), Look(), log)
                except StepFailed as error:
                    raise BadSample(index, str(inside), f"step {error.step}", error.message) from error
        return Sample(index, str(inside), label, tuple(log))


def torch_feed(source: str, rest: str, query: Mapping[str, Any], steps: Sequence[Stage]) -> Feed:
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
    return (TorchFeed if items else StreamFeed)(dataset, rest.rpartition(":")[2], steps)


def _length(dataset: Any) -> int | None:
    """The length of a data set; None where it has none (torch's IterableDataset raises, or lacks the method)."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        return None


class TorchFeed:
    """A torch Dataset with items. Its own `transform` is watched step by step while it runs."""

    def __init__(self, dataset: Any, name: str, steps: Sequence[Stage]) -> None:
        self.dataset, self.name, self.steps = dataset, name, list(steps)
        self.classes = _classes(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int) -> Any:
        """What the data set gives."""
        return self.dataset[index]

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample where the data set or a step raises."""
        name, log = _file_name(self.dataset, index), list[Step]()
        with seeded(seed):
            try:
                with recording(self.dataset, log) as looks:
                    item = self.item(index)
            except StepFailed as error:
                raise BadSample(index, name, f"step {error.step}", error.message) from error
            except Exhausted:
                raise
            except Exception as error:
                raise BadSample(index, name, "load", one_line(error)) from error
            image, target = divided_item(item)
            look = looks[-1] if looks else Look()
            pictures = look.pictures(image)
            if not pictures:
                held = fields(item)
                found = described(item) if held is None else ", ".join(f"{k}: {described(v)}" for k, v in held.items())
                raise BadSample(index, name, "item", f"holds no picture: {found}")
            marks, label = truth(target, self.classes)
            note = look.stretched(image)
            if "NaN" in note:
                raise BadSample(index, name, "item", note)
            if not log:
                log.append(Step("item", pictures, note, marks))
            else:
                last = log[-1]
                same = bool(unchanged(last.pictures, pictures, ""))
                # The data set's own target belongs to what its pipeline gave.
                log.append(Step("item", pictures, "", marks)) if not same else log.__setitem__(
                    -1, Step(last.name, last.pictures, last.told, marks)
                )
            if whole:
                try:
                    # A copy: a data set may keep what it gave, and a step may work in place.
                    run(self.steps, Flow(copy.deepcopy(image), copy.deepcopy(marks)), look, log)
                except StepFailed as error:
                    raise BadSample(index, name, f"step {error.step}", error.message) from error
        return Sample(index, name, label, tuple(log if whole else log[:1]))


class StreamFeed(TorchFeed):
    """An IterableDataset, read in order. A sample asked for again comes from a further pass through the stream."""

    def __init__(self, dataset: Any, name: str, steps: Sequence[Stage]) -> None:
        super().__init__(dataset, name, steps)
        self.passes: list[Iterator[Any]] = []
        self.places: list[int] = []
        self.turn = -1, -1

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


@contextmanager
def recording(dataset: Any, log: list[Step]) -> Iterator[list[Look]]:
    """Inside, the transforms that a data set holds leave a picture of every step in the log; then all is as before."""
    looks: list[Look] = []
    with ExitStack() as stack:
        for home in _homes(dataset):
            own = getattr(home, "transform", None)
            if callable(own):
                taken = Recorder(own, log, looks)
                _swap(home, "transform", taken, stack)
                both = getattr(home, "transforms", None)
                # torchvision's VisionDataset holds its transform a second time, inside `transforms`.
                if getattr(both, "transform", None) is own:
                    _swap(both, "transform", taken, stack)
            elif callable(getattr(home, "transforms", None)):
                _swap(home, "transforms", Recorder(home.transforms, log, looks), stack)
        yield looks


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

    def __init__(self, transform: Any, log: list[Step], looks: list[Look]) -> None:
        self.transform, self.log, self.looks = transform, log, looks

    def __call__(self, *values: Any, **words: Any) -> Any:
        start = words.get("image", values[0] if values else None)
        self.log.append(
            Step("load", Look().pictures(start), "", truth(values[1] if len(values) > 1 else words, None)[0])
        )
        look = Look()
        plain = len(values) == 1 and not words
        if plain or set(words) == {"image"}:
            parts = stages(self.transform)
            flow = run(parts, Flow(start), look, self.log)
            for part in parts:
                look = look.after(part.owner)
            self.looks.append(look)
            return flow.image if plain else {"image": flow.image}
        inner = getattr(self.transform, "transforms", None)
        if words or not isinstance(inner, (list, tuple)):
            parts_called, result = [self.transform], None
        else:
            parts_called, result = list(inner), None
        for part in parts_called:
            name = type(part).__name__
            try:
                result = part(*values, **words)
            except Exception as error:
                raise StepFailed(name, error) from error
            if not words:
                values = result if isinstance(result, tuple) else (result,)
            look = look.after(part)
            image, target = divided_item(result)
            self.log.append(Step(name, look.pictures(image), "", truth(target, None)[0]))
        self.looks.append(look)
        return result


# --- names of classes and files ------------------------------------------------------------------------------------------


def _classes(dataset: Any) -> Any:
    """Names of the classes: torchvision's `classes`, or those of a label's feature in Hugging Face's data sets."""
    for home in _homes(dataset):
        if getattr(home, "classes", None) is not None:
            return home.classes
        features = getattr(home, "features", None)
        for key in LABEL_KEYS:
            if isinstance(features, Mapping) and getattr(features.get(key), "names", None):
                return features[key].names
    return None


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
