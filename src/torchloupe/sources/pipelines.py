"""OpenMMLab data sets, seen through the pipeline of their config one step at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, LoupeError
from torchloupe.methods.browse import BadSample, Marks, Sample, Step, told
from torchloupe.sources.configs import missing, one_line, openmmlab_config, openmmlab_scope
from torchloupe.sources.transforms import Flow, Look, Stage, described, parameters, seeded, unchanged, watched

# What steps note down of themselves that is worth telling; the rest of a sample is paths, sizes and data.
NOTED = ("flip", "flip_direction", "scale", "scale_factor", "pad_size_divisor", "crop_quadruple", "bbox_rotation",
         "swap", "mix_results", "brightness", "angle")  # fmt: skip


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
        with openmmlab_scope(path, self.config) as self.scope:
            from mmengine.registry import DATASETS

            try:
                self.dataset = DATASETS.build(written)
                self.dataset.full_init()
            except ImportError as error:
                raise missing(path, error) from error
            except Exception as error:
                raise BadInput(f"{path}: the {phase} data set cannot be built: {one_line(error)}") from error
        if len(self.dataset) == 0:
            raise BadInput(f"{path}: the {phase} data set is empty")
        self.look = Look(bgr=_bgr(self.config))

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample with the step's name where a step of the pipeline raises."""
        home, place = _resolved(self.dataset, index)
        info = home.get_data_info(place)
        name = Path(
            str(info.get("img_path") or info.get("img", {}) if isinstance(info.get("img_path"), str) else index)
        ).name
        classes = (home.metainfo or {}).get("classes")
        log: list[Step] = []
        with openmmlab_scope(self.path, self.config), seeded(seed):
            results, look = info, self.look
            if "img" in info:
                log.append(Step("load", look.pictures(info["img"]), "", _marks(info, classes)))
            for transform in getattr(home.pipeline, "transforms", []):
                title = type(transform).__name__
                # The original's boxes and masks are loaded by a step of their own.
                if not whole and not title.startswith("Load") and any(step.pictures for step in log):
                    break
                try:
                    results, look, step = _taken(transform, title, results, look, log, classes)
                except LoupeError:
                    raise
                except Exception as error:
                    raise BadSample(index, name, f"step {title}", one_line(error)) from error
                log.append(step)
                if results is None:
                    raise BadSample(index, name, f"step {title}", "gave the sample up (the training takes another one)")
        if not any(step.pictures for step in log):
            raise BadSample(index, name, "pipeline", "no step gives a picture")
        return Sample(index, name, _label(info, classes), tuple(log))


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


def _bgr(config: Any) -> bool:
    """Whether pictures flow as BGR: the preprocessor that turns them to RGB says so; else mmcv's loader decides."""
    said = config.get("data_preprocessor") or (config.get("model") or {}).get("data_preprocessor") or {}
    for key in ("to_rgb", "bgr_to_rgb"):
        if key in said:
            return bool(said[key])
    return True


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


def _label(info: Mapping[str, Any], classes: Any) -> str:
    from torchloupe.sources.datasets import _name

    return "" if info.get("gt_label") is None else _name(info["gt_label"], classes)


def _marks(results: Mapping[str, Any], classes: Any) -> Marks:
    """Boxes, keypoints, masks and heatmaps under the names that mmcv, mmdet and mmpose give them."""
    from torchloupe.sources.datasets import _name

    boxes = results.get("gt_bboxes")
    if boxes is not None:
        boxes = np.asarray(_cpu(getattr(boxes, "tensor", boxes)), dtype=float).reshape(-1, 4)
    elif results.get("bbox") is not None and "keypoints" in results and "transformed_keypoints" not in results:
        boxes = np.asarray(results["bbox"], dtype=float).reshape(-1, 4)
    labels = results.get("gt_bboxes_labels")
    names = tuple(_name(one, classes) for one in np.asarray(labels).tolist()) if labels is not None else ()
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
    return Marks(boxes, names if boxes is not None else (), points, masks, heat)


def _cpu(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def config_stages(path: str, changes: Mapping[str, Any]) -> list[Stage]:
    """The test pipeline of a config as steps for any picture: what would this model see?"""
    config = openmmlab_config(path, changes)
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    pipeline = (loader or {}).get("dataset", {}).get("pipeline") or config.get("test_pipeline")
    if not pipeline:
        raise BadInput(f"{path}: has no test pipeline")
    bgr = _bgr(config)
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
            results = flow.image
            if not isinstance(results, dict):
                array = np.asarray(results.convert("RGB")) if hasattr(results, "getbands") else results
                array = np.ascontiguousarray(array[..., ::-1]) if bgr else array
                results = {"img": array, "img_shape": array.shape[:2], "ori_shape": array.shape[:2], "img_path": ""}
            with openmmlab_scope(path, config):
                results, _, step = _taken(transform, "", results, Look(bgr), [], None)
            return Flow(results), step.told

        return Stage(type(transform).__name__, take, transform)

    return [stage(transform) for transform in built]
