"""OpenMMLab data sets, seen through the pipeline of their config one step at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Marks, Sample, Step
from torchloupe.errors import BadInput, LoupeError
from torchloupe.methods.browse import told
from torchloupe.sources.configs import missing, one_line, openmmlab_config, openmmlab_scope
from torchloupe.sources.geometry import Course, Seen
from torchloupe.sources.look import Look, described
from torchloupe.sources.mixing import Mixer
from torchloupe.sources.poses import COCO_BODY
from torchloupe.sources.transforms import Flow, Noted, Stage, parameters, seeded, unchanged, watched
from torchloupe.sources.truth import box_corners, class_name, label_names, named_map

# As many samples as steps that keep earlier ones need to mix.
CACHED = 8
# What steps note down of themselves that is worth telling; the rest of a sample is paths, sizes and data.
NOTED = ("flip", "flip_direction", "scale", "scale_factor", "pad_size_divisor", "crop_quadruple", "bbox_rotation",
         "swap", "brightness", "angle")  # fmt: skip


class PipelineFeed:
    """The data set that an OpenMMLab config names for a phase. The config is Python and runs as code.

    data: a folder of pictures (a class per sub-folder) in the place of the config's own; its pipeline stays.
    """

    def __init__(self, path: str, phase: str, changes: Mapping[str, Any], data: str | None = None) -> None:
        self.path, self.name = path, Path(path).stem
        self.config = openmmlab_config(path, changes)
        loader = self.config.get(f"{phase}_dataloader")
        old = (self.config.get("data") or {}).get(phase)
        written = copy.deepcopy(loader.get("dataset") if loader else old)
        if not written:
            has = [p for p in ("train", "val", "test") if self.config.get(f"{p}_dataloader")
                   or (self.config.get("data") or {}).get(p)]  # fmt: skip
            raise BadInput(f"{path}: has no data for --phase {phase} (it has {', '.join(has) or 'none at all'})")
        if data is not None:
            written = _other_data(path, written, data)
        self.key = repr(written)
        self.kept: list[Any] = []
        with openmmlab_scope(path, self.config, ("datasets",)):
            from mmengine.registry import DATASETS

            try:
                # pycocotools tells what it reads.
                with redirect_stdout(StringIO()):
                    self.dataset = DATASETS.build(written)
                    self.dataset.full_init()
            except ImportError as error:
                raise missing(path, error) from error
            except Exception as error:
                raise BadInput(f"{path}: the {phase} data set cannot be built: {one_line(error)}") from error
        if len(self.dataset) == 0:
            raise BadInput(f"{path}: the {phase} data set is empty")
        loaded = any(type(step).__name__.startswith("LoadImage") for step in _steps(self.dataset))
        self.look = Look(bgr=_bgr(self.config, loaded))
        self.order = "BGR" if self.look.bgr else "RGB"

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample with the step's name where a step of the pipeline raises."""
        run = _Run(index, whole)
        with openmmlab_scope(self.path, self.config):
            self._fill_caches(run)
            with seeded(seed):
                run.through(self.dataset, index, self.look)
        if not any(step.pictures for step in run.log):
            raise BadSample(index, run.name, "pipeline", "no step gives a picture")
        faults = tuple(run.course.faults)
        notes = (f"pictures flow as {self.order}, shown in their own colours",)
        label = ", ".join(run.labels)
        return Sample(
            index, run.name, label, tuple(run.log), file=run.file, faults=faults, labels=run.labels, notes=notes
        )

    def _fill_caches(self, run: _Run) -> None:
        """Steps that keep earlier samples to mix them in (CachedMosaic, CachedMixUp) start from the same ones each time."""
        caching = [step for step in _steps(self.dataset) if hasattr(step, "results_cache")]
        if caching and not self.kept and run.whole:
            with seeded(0):
                for k in range(min(len(self.dataset), CACHED)):
                    _Run(k, True).through(self.dataset, k, self.look)
            self.kept = [copy.deepcopy(step.results_cache) for step in caching]
        for step, kept in zip(caching, self.kept, strict=False):
            step.results_cache = copy.deepcopy(kept)


@dataclass
class _Run:
    """One sample on its way through a data set and those that it wraps."""

    index: int
    whole: bool
    name: str = ""
    labels: tuple[str, ...] = ()
    file: str = ""
    log: list[Step] = field(default_factory=list)
    course: Course = field(default_factory=Course)

    def __post_init__(self) -> None:
        self.name = self.name or str(self.index)

    def through(self, dataset: Any, index: int, look: Look) -> tuple[Any, Look]:
        """What the data set gives for a number, and its look; every step is logged. Errors: BadSample."""
        if isinstance(getattr(dataset, "pipeline", None), list):
            return self._mixture(dataset, index, look)
        home, place = _resolved(dataset, index)
        if home is not dataset:
            return self.through(home, place, look)
        info = home.get_data_info(place)
        file = info.get("img_path") or info.get("img")
        self.name = Path(file).name if isinstance(file, str) else str(self.index)
        # Repeats of one picture are no duplicates.
        self.file = file if isinstance(file, str) else f"{id(home)} {place}"
        classes = (home.metainfo or {}).get("classes")
        self.labels = _labels(info, classes)
        given = _marks(info, classes)
        self.course.loaded = given if given.placed else None
        if "img" in info:
            self.log.append(Step("load", look.pictures(info["img"]), "", given))
        results: Any = info
        for transform in getattr(home.pipeline, "transforms", []):
            if self._enough(transform):
                break
            results, look = self._step(transform, results, look, classes)
        return results, look

    def _mixture(self, dataset: Any, index: int, look: Look) -> tuple[Any, Look]:
        """mmdet's MultiImageMixDataset: steps that ask for further samples get them, and these are shown."""
        start = look
        results, look = self.through(dataset.dataset, index, start)
        classes = (dataset.metainfo or {}).get("classes")
        for transform in dataset.pipeline:
            if self._enough(transform):
                break
            if hasattr(transform, "get_indexes"):
                found = transform.get_indexes(dataset.dataset)
                numbers = [int(k) for k in (found if isinstance(found, (list, tuple)) else [found])]
                others = [_Run(self.index, True) for _ in numbers]
                results["mix_results"] = [
                    other.through(dataset.dataset, k, start)[0] for other, k in zip(others, numbers, strict=True)
                ]
                lasts = [(other.name, step) for other in others for step in other.log[-1:] if step.pictures]
                self.log.append(
                    Step(
                        f"for {type(transform).__name__}",
                        tuple(step.pictures[0] for _, step in lasts),
                        ", ".join(name for name, _ in lasts),
                        each=tuple(step.known(0) for _, step in lasts),
                    )
                )
            results, look = self._step(transform, results, look, classes)
            results.pop("mix_results", None)
        return results, look

    def _enough(self, transform: Any) -> bool:
        # The original's boxes and masks are loaded by a step of their own.
        loads = type(transform).__name__.startswith("Load")
        return not self.whole and not loads and any(step.pictures for step in self.log)

    def _step(self, transform: Any, results: Any, look: Look, classes: Any) -> tuple[Any, Look]:
        title = type(transform).__name__
        before = Seen.of(results, _marks(results, classes))
        try:
            results, look, step = _taken(transform, title, results, look, self.log, classes)
            if results is not None and step.pictures:
                marks, text = self.course.step(title, transform, before, results, step.marks)
                step = replace(step, marks=marks, told=", ".join(part for part in (step.told, text) if part))
        except LoupeError:
            raise
        except Exception as error:
            raise BadSample(self.index, self.name, f"step {title}", one_line(error)) from error
        self.log.append(step)
        if results is None:
            message = "gave the sample up (the training takes another one)"
            raise BadSample(self.index, self.name, f"step {title}", message)
        return results, look


def _steps(dataset: Any) -> list[Any]:
    """The steps of a data set and of those that it wraps."""
    own = getattr(dataset, "pipeline", None)
    steps = list(own if isinstance(own, list) else getattr(own, "transforms", None) or ())
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else list(getattr(dataset, "datasets", ()))
    return [*(step for one in inner for step in _steps(one)), *steps]


def _taken(
    transform: Any, title: str, results: Any, look: Look, log: list[Step], classes: Any
) -> tuple[Any, Look, Step]:
    """One step: its results, the look after it, and what to show of it."""
    before = {key: results.get(key) for key in NOTED}
    methods = tuple(getattr(transform, "_methods_with_randomness", ()))
    with watched(transform, methods) as drawn:
        results = transform(results)
    look = look.after(transform)
    if results is None:
        return None, look, Step(title)
    packed = "data_samples" in results and "img" not in results
    noted = {key: results.get(key) for key in NOTED if not packed and _differs(results.get(key), before[key])}
    text = ", ".join(part for part in (parameters(drawn), told(noted)) if part)
    value = None if packed else results.get("img")
    pictures = look.pictures(value)
    if packed:
        text = described(results.get("inputs"))
    elif not pictures and value is not None:
        text = f"{text} {described(value)}".strip()
    previous = log[-1].pictures if log else ()
    return results, look, Step(title, pictures, unchanged(previous, pictures, text), _marks(results, classes))


def _differs(one: Any, other: Any) -> bool:
    return one is not None and not (type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other)))


def _bgr(config: Any, loaded: bool) -> bool:
    """Whether pictures flow as BGR: mmcv's loaders give them so; of pictures in memory the preprocessor tells."""
    said = config.get("data_preprocessor") or (config.get("model") or {}).get("data_preprocessor") or {}
    return loaded or bool(next((said[key] for key in ("to_rgb", "bgr_to_rgb") if key in said), True))


def _resolved(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set and number behind wrappers (RepeatDataset, ConcatDataset, ClassBalancedDataset, KFoldDataset)."""
    while not hasattr(dataset, "pipeline"):
        found = dataset._get_ori_dataset_idx(index)
        if isinstance(found, tuple):
            dataset, index = dataset.datasets[found[0]], found[1]
        else:
            dataset, index = dataset.dataset, int(found)
    return dataset, index


def _other_data(path: str, written: Any, data: str) -> dict[str, Any]:
    """The config's data set with a folder of pictures in the place of its own; only its pipeline is kept."""
    if not Path(data).is_dir():
        raise BadInput(f"--data {data}: no such folder")
    inner = written
    while "pipeline" not in inner and isinstance(inner.get("dataset"), dict):
        inner = inner["dataset"]
    if "pipeline" not in inner:
        raise BadInput(f"{path}: --data needs a data set with a pipeline, {inner.get('type')} has none")
    folders = any(child.is_dir() for child in Path(data).iterdir())
    pipeline = list(inner["pipeline"])
    if not any("Load" in str(step.get("type")) for step in pipeline):
        # CIFAR and its like hold their pictures in memory.
        pipeline.insert(0, {"type": "LoadImageFromFile"})
    return {"type": "mmpretrain.CustomDataset", "data_root": "", "data_prefix": data, "with_label": folders,
            "pipeline": pipeline}  # fmt: skip


def config_mixers(path: str, changes: Mapping[str, Any]) -> list[Mixer]:
    """The batch augmentations with which an mmpretrain config trains: Mixup, CutMix, ResizeMix, one of them for a batch."""
    config = openmmlab_config(path, changes)
    model = config.get("model") or {}
    written = (model.get("train_cfg") or {}).get("augments") and model["train_cfg"]
    for place in (model.get("data_preprocessor"), config.get("data_preprocessor")):
        written = written or (place or {}).get("batch_augments")
    if not written or config.get("default_scope") != "mmpretrain":
        return []
    settings = dict(written) if isinstance(written, Mapping) else {"augments": written}
    with openmmlab_scope(path, config):
        from mmpretrain.models.utils.batch_augments import RandomBatchAugment

        try:
            choice = RandomBatchAugment(**copy.deepcopy(settings))
        except Exception as error:
            raise BadInput(f"{path}: the batch augmentations cannot be built: {one_line(error)}") from error
    log: list[str] = []
    choice.augments = [None if one is None else Noted(one, log) for one in choice.augments]
    names = [type(one.operator).__name__ for one in choice.augments if one is not None]
    return [Mixer(" or ".join(names), choice, hot=True, log=log)]


def _labels(info: Mapping[str, Any], classes: Any) -> tuple[str, ...]:
    """The classes of a picture; mmpretrain writes those of several as numbers or, as `gt_score`, as a mark for each class."""
    if info.get("gt_score") is not None:
        return label_names(np.asarray(info["gt_score"]), classes)
    return () if info.get("gt_label") is None else label_names(info["gt_label"], classes)


def _marks(results: Mapping[str, Any], classes: Any) -> Marks:
    """Boxes, keypoints, masks and heatmaps under the names that mmcv, mmdet and mmpose give them."""
    boxes = results.get("gt_bboxes")
    outlines: tuple[tuple[np.ndarray, ...], ...] = ()
    if boxes is not None:
        # mmrotate's are turned: middle, size, angle, or four corners.
        boxes, outlines = box_corners(boxes)
    elif results.get("bbox") is not None and "keypoints" in results and "transformed_keypoints" not in results:
        boxes = np.asarray(results["bbox"], dtype=float)
        # mmpose turns the four corners (n, 4, 2) of a box along with a picture that holds several people.
        boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1) if boxes.ndim == 3 else boxes.reshape(-1, 4)
    labels = results.get("gt_bboxes_labels")
    names = tuple(class_name(one, classes) for one in np.asarray(labels).tolist()) if labels is not None else ()
    points = next((results[key] for key in ("transformed_keypoints", "keypoints", "gt_keypoints")
                   if results.get(key) is not None), None)  # fmt: skip
    if points is not None:
        points = np.asarray(getattr(points, "keypoints", points), dtype=float)
        points = points[None] if points.ndim == 2 else points
        if points.shape[-1] == 2:
            seen = results.get("keypoints_visible")
            seen = np.ones(points.shape[:2]) if seen is None else np.asarray(seen, float)
            seen = seen[..., 0] if seen.ndim == 3 else seen
            points = np.concatenate([points, seen[..., None]], -1)
    masks = results.get("gt_seg_map")
    held = results.get("gt_masks")
    if held is not None and hasattr(held, "to_ndarray"):
        masks = held.to_ndarray().astype(bool)
    heat = results.get("heatmaps")
    heat = None if heat is None else np.asarray(heat, float).reshape(-1, *np.shape(heat)[-2:]).max(0)
    bones: tuple[tuple[int, int], ...] = ()
    links = results.get("skeleton_links") or COCO_BODY.bones
    if points is not None and (results.get("skeleton_links") or points.shape[1] == len(COCO_BODY.joints)):
        bones = tuple((int(a), int(b)) for a, b in links)
    legend = named_map(masks, classes) if masks is not None and masks.ndim == 2 else {}
    return Marks(boxes, names if boxes is not None else (), points, masks, heat, outlines, legend, bones)


def _cpu(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def config_stages(path: str, changes: Mapping[str, Any]) -> list[Stage]:
    """The test pipeline of a config as steps for any picture: what would this model see?"""
    config = openmmlab_config(path, changes)
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    pipeline = (loader or {}).get("dataset", {}).get("pipeline") or config.get("test_pipeline")
    if not pipeline:
        raise BadInput(f"{path}: has no test pipeline")
    bgr = _bgr(config, any("LoadImage" in str(one["type"]) for one in pipeline))
    with openmmlab_scope(path, config):
        from mmengine.registry import TRANSFORMS

        try:
            built = [
                TRANSFORMS.build(dict(one)) for one in pipeline if not str(one["type"]).endswith("LoadImageFromFile")
            ]
        except Exception as error:
            raise BadInput(f"{path}: the test pipeline cannot be built: {one_line(error)}") from error

    def stage(transform: Any) -> Stage:
        def take(flow: Flow) -> tuple[Flow, str]:
            results = flow.held
            if results is None:
                array = np.asarray(flow.image.convert("RGB")) if hasattr(flow.image, "getbands") else flow.image
                array = np.ascontiguousarray(array[..., ::-1]) if bgr else array
                results = {"img": array, "img_shape": array.shape[:2], "ori_shape": array.shape[:2], "img_path": ""}
            with openmmlab_scope(path, config):
                results, _, step = _taken(transform, "", results, Look(bgr), [], None)
            value = results["img"] if "img" in results else results.get("inputs")
            if bgr:
                value = value.flip(0) if hasattr(value, "flip") else value[..., ::-1]
            return Flow(value, step.marks, results), step.told

        return Stage(type(transform).__name__, take, transform)

    return [stage(transform) for transform in built]
