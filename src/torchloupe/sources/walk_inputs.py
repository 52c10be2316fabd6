"""Walks as OpenGait feeds them to a model: files chosen, frames sampled, transforms applied, by an evaluator's config."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.networks.gait import NETWORKS
from torchloupe.networks.gait.skeletons import joints_velocity_bones, positions_steps_bones, skeleton
from torchloupe.probe import Batch
from torchloupe.sources.opengait_config import Config, channels_of, steps_of
from torchloupe.sources.sequences import Walk
from torchloupe.sources.walk_augmentations import DRAWN, taken
from torchloupe.targets.retrieval import METRICS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# how the models of skeletons take them: rows are joints
POSES = {"GaitGraph1": "n c t h w", "GaitGraph2": "n t h i c", "GaitTR": "n t c h w", "MultiScaleGaitGraph": "n t h c"}


def check(config: Config) -> None:
    """Errors: BadInput for what every sequence would stumble over."""
    for one in config.transforms:
        for step in steps_of(one) or [one]:
            if not isinstance(step, Mapping) or "type" not in step:
                raise BadInput(
                    f"{config.path}: transform {step!r}; expected mappings with a type, such as {{type: ...}}"
                )
            if step["type"] not in TRANSFORMS:
                raise BadInput(f"{config.path}: {_unknown(str(step['type']))}")
    if config.metric not in METRICS:
        raise BadInput(f"{config.path}: evaluator_cfg.metric {config.metric!r}; expected one of {', '.join(METRICS)}")
    if not isinstance(config.sampler, Mapping):
        raise BadInput(
            f"{config.path}: sampler {config.sampler!r}; expected a mapping, such as sample_type: all_ordered"
        )
    for key in ("frames_num_fixed", "frames_all_limit"):
        count = config.sampler.get(key)
        if count is not None and (not isinstance(count, int) or count < 1):
            raise BadInput(f"{config.path}: sampler.{key} {count!r}; expected a number of frames, 1 or more")
    use = config.blocks["data_cfg"].get("data_in_use")
    if use is not None and (not isinstance(use, list) or not use or not all(isinstance(one, int) for one in use)):
        raise BadInput(f"{config.path}: data_in_use {use!r}; expected a list of true and false, or of file numbers")
    if use and not any(use) and isinstance(use[0], bool):
        raise BadInput(f"{config.path}: data_in_use {use!r} uses no file at all")


def prepare(walk: Walk, config: Config, module: nn.Module | None = None) -> Batch:
    """One walk as a batch of one sample, by the config's data_in_use, sampler and transforms.

    Silhouettes (1, t, h, w), maps (1, t, c, h, w), poses as the model takes them; pictures (1, t, h, w, 3) of the
    silhouettes; extra: further modalities of a real OpenGait class; truth["pose"] (1, t, v, 3) of skeletons.
    Differs: of a sequence longer than a fixed number of frames the middle is taken, where OpenGait draws at random.
    Errors: BadInput, one line, for whatever does not fit the model.
    """
    raw = _sampled(chosen(walk, config), walk, config)
    arrays = _transformed(raw, walk, config)
    # the picture is what is explained; other inputs, such as ratios, go with it
    own = next((i for i, array in enumerate(arrays) if array.ndim >= 3), 0)
    first = arrays[own]
    if config.model in POSES:
        # what is drawn is cropped as what the model sees
        crops = [step for step in steps_of(config.transforms[0]) if step["type"] == "SelectSequenceCenter"]
        drawn = transformed(raw[0], {"type": "Compose", "trf_cfg": crops}, walk.files[0])
        return _poses(first, drawn, walk, config)
    if config.model == "SkeletonGaitPP":
        first = _maps_and_silhouettes(arrays, walk)
    x = torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32))[None]
    _check_colour(x, raw[own], walk, config)
    if config.model in NETWORKS and x.dim() == 5 and x.shape[2] == channels_of(config) == 1:
        x = x[:, :, 0]
    if x.dim() not in (4, 5):
        shape = tuple(raw[0].shape)
        raise BadInput(
            f"{walk.files[0]}: shape {shape}; {config.model} takes silhouettes (t, h, w) or maps (t, c, h, w)"
        )
    if config.model in NETWORKS:
        _check_picture(x, raw[0], walk, config, module)
    layout = Layout("n t h w" if x.dim() == 4 else "n t c h w")
    others = {f"input{i}": _tensor(array) for i, array in enumerate(arrays) if i != own}
    extra = {} if config.model in NETWORKS else {**others, "type": walk.condition, "view": walk.view}
    return Batch(x, layout, (walk.name,), extra, pictures=grey_pictures(x))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def grey_pictures(x: Tensor) -> Tensor:
    """What is shown, grey: the silhouette, the brightest channel of maps, or a coloured picture without its colours."""
    grey = x if x.dim() == 4 else x.amax(2)
    low, high = grey.min(), grey.max()
    if low < 0 or high > 1:
        grey = (grey - low) / (high - low).clamp(min=1e-6)
    return (grey * 255).round().byte()[..., None].expand(*grey.shape, 3)


def chosen(walk: Walk, config: Config) -> list[np.ndarray]:
    arrays = walk.read(config.side if config.model in NETWORKS else 64)
    use = config.blocks["data_cfg"].get("data_in_use")
    if use:
        whole = all(isinstance(one, bool) for one in use)
        names = ", ".join(file.name for file in walk.files[:6])
        told = f"{walk.files[0].parent}: {len(arrays)} modalities ({names})"
        if whole and len(use) != len(arrays):
            raise BadInput(f"{told}; data_in_use of the config is about {len(use)}")
        index = [i for i, used in enumerate(use) if used] if whole else [int(one) for one in use]
        if any(i >= len(arrays) for i in index):
            raise BadInput(f"{told}; data_in_use of the config asks for {use}")
        used = [(walk.files[i], arrays[i]) for i in index]
    else:
        used = list(zip(walk.files, arrays, strict=False))
    lengths = {file.name: len(array) for file, array in used}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise BadInput(
            f"{walk.files[0].parent}: modalities of unequal length ({told}); expected the same frames in each"
        )
    if not used or not next(iter(lengths.values())):
        raise BadInput(f"{walk.files[0]}: no frames; expected (t, ...) with t > 0")
    for file, array in used:
        if not array.size:
            raise BadInput(f"{file}: shape {array.shape} holds nothing; expected (t, ...), no axis of length 0")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum())
            raise BadInput(f"{file}: {count} of {len(array)} frames hold NaN or infinite values; expected numbers")
    return [array for _, array in used]


def _sampled(arrays: list[np.ndarray], walk: Walk, config: Config) -> list[np.ndarray]:
    sampler, count = config.sampler, len(arrays[0])
    kind = str(sampler.get("sample_type", "all_ordered"))
    if kind.startswith("fixed"):
        wanted = int(sampler.get("frames_num_fixed", 30))
        start = max(0, (count - wanted) // 2)
        index = (np.arange(wanted) % count) if count < wanted else np.arange(start, start + wanted)
        return [array[index] for array in arrays]
    limit = int(sampler.get("frames_all_limit", 0) or 0)
    if limit and count > limit:
        warnings.warn(
            f"{walk.name}: the first {limit} of {count} frames (frames_all_limit)", LoupeWarning, stacklevel=2
        )
        return [array[:limit] for array in arrays]
    return arrays


def _transformed(arrays: Sequence[np.ndarray], walk: Walk, config: Config) -> list[np.ndarray]:
    transforms = config.transforms
    if config.model == "SkeletonGaitPP":
        transforms = transforms * len(arrays) if len(transforms) == 1 else transforms
    if len(transforms) != len(arrays):
        raise BadInput(
            f"{walk.files[0].parent}: {len(arrays)} modalities, but the config names {len(transforms)} transforms; "
            f"choose modalities with data_in_use"
        )
    return [transformed(array, one, walk.files[0]) for array, one in zip(arrays, transforms, strict=True)]


def transformed(array: np.ndarray, transform: Mapping[str, Any], file: Path) -> np.ndarray:
    """One array after one of OpenGait's evaluation transforms, by its `type`."""
    kind = str(transform.get("type"))
    if kind == "Compose":
        for part in transform["trf_cfg"]:
            array = transformed(array, part, file)
        return array
    if kind not in TRANSFORMS:
        raise BadInput(f"{file}: {_unknown(kind)}")
    wanted, make = TRANSFORMS[kind]
    if wanted == "pose" and (array.ndim != 3 or array.shape[-1] < 3):
        raise BadInput(f"{file}: shape {array.shape}; {kind} takes poses (t, joints, 3) of x, y, score")
    if wanted == "silhouette":
        _check_grey(array, file, kind, transform.get("divsor", 255.0))
    if wanted == "pose":
        _check_empty(array, file)
    options = {key: value for key, value in transform.items() if key != "type"}
    try:
        return make(array, **options)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{file}: transform {kind} with {options or 'no options'} failed ({error})") from None


def _unknown(kind: str) -> str:
    if kind == "PointCloudsTransform":
        return f"transform {kind}: point clouds are not read"
    if kind in DRAWN or kind == "DA4GaitSSB":
        return f"transform {kind} changes walks by chance; an evaluator's transforms must not"
    return f"transform {kind!r} is not known.{nearest(kind, TRANSFORMS)} Known: {', '.join(TRANSFORMS)}."


def _check_grey(array: np.ndarray, file: Path, kind: str, divisor: Any) -> None:
    """divisor: what white is divided by; masks of 0 and 1 are right where it is 1, and a mistake where it is more."""
    if not isinstance(divisor, (int, float)) or not divisor > 0:
        raise BadInput(f"{file}: {kind} with divsor {divisor!r}; expected a number above 0")
    if array.ndim < 3:
        raise BadInput(f"{file}: shape {array.shape}; {kind} takes silhouettes (t, h, w)")
    if divisor > 1 and (array.dtype.kind == "b" or (array.size and 0 < array.max() <= 1)):
        raise BadInput(
            f"{file}: dtype {array.dtype} with values 0 to 1; expected grey values 0 to 255 (multiply by 255, or set divsor to 1)"
        )
    if array.min() < 0 or array.max() > 255:
        raise BadInput(
            f"{file}: dtype {array.dtype} with values {array.min():g} to {array.max():g}; expected grey values 0 to 255"
        )
    _check_empty(array, file)


def _check_empty(array: np.ndarray, file: Path) -> None:
    empty = np.flatnonzero(~array.reshape(len(array), -1).any(1))
    if len(empty) == len(array):
        raise BadInput(f"{file}: all {len(array)} frames are empty")
    if len(empty):
        told = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
        warnings.warn(f"{file}: {len(empty)} of {len(array)} frames are empty ({told})", LoupeWarning, stacklevel=2)


def _cut(array: np.ndarray, divsor: float = 255.0, cutting: int | None = None, **_: Any) -> np.ndarray:
    sides = array.shape[-1] // 64 * 10 if cutting is None else cutting
    return array[..., sides : array.shape[-1] - sides] / divsor


def _parsing(array: np.ndarray, divsor: float = 255.0, cutting: int | None = None, **_: Any) -> np.ndarray:
    return _cut(array, divsor if array.max() == 255 else 1.0, cutting)


def _rgb(array: np.ndarray, mean: Sequence[float] = (), std: Sequence[float] = (), **_: Any) -> np.ndarray:
    centre = np.reshape(mean or [255 * value for value in IMAGENET[0]], (1, 3, 1, 1))
    return (array - centre) / np.reshape(std or [255 * value for value in IMAGENET[1]], (1, 3, 1, 1))


def _fill_empty(pose: np.ndarray, **_: Any) -> np.ndarray:
    """Joints at x = 0 take the frame's mean position and score 0."""
    filled = np.array(pose, dtype=np.float64)
    for frame, joint in np.argwhere(pose[:, :, 0] == 0):
        filled[frame, joint, :2] = filled[frame].mean(0)[:2]
        filled[frame, joint, 2] = 0
    return filled


def _three(pose: np.ndarray, joint_format: str = "coco", center: int = 0, **_: Any) -> np.ndarray:
    return joints_velocity_bones(_pose(pose, joint_format), skeleton(joint_format), center).numpy()


def _ten(pose: np.ndarray, joint_format: str = "coco", **_: Any) -> np.ndarray:
    return positions_steps_bones(_pose(pose, joint_format), skeleton(joint_format)).numpy()


def _twelve(pose: np.ndarray, joint_format: str = "coco", **_: Any) -> np.ndarray:
    """The joints of shoulders, elbows, wrists, hips, knees and ankles."""
    _pose(pose, joint_format)
    places = skeleton(joint_format).joints
    return pose[:, [places.index(name) for name in skeleton("body_12").joints]]


def _pose(pose: np.ndarray, joint_format: str) -> Tensor:
    count = len(skeleton(joint_format).joints)
    if pose.shape[1] != count:
        raise BadInput(f"poses of {pose.shape[1]} joints; joint_format {joint_format} has {count}")
    return torch.from_numpy(np.ascontiguousarray(pose[..., :3], dtype=np.float64))


def _as_is(array: np.ndarray, **_: Any) -> np.ndarray:
    return array


TRANSFORMS: Mapping[str, tuple[str, Callable[..., np.ndarray]]] = {
    "BaseSilCuttingTransform": ("silhouette", _cut),
    "BaseSilTransform": ("silhouette", lambda array, divsor=255.0, **_: array / divsor),
    "BaseParsingCuttingTransform": ("parsing", _parsing),
    "BaseRgbTransform": ("rgb", _rgb),
    "NoOperation": ("any", _as_is),
    "NormalizeEmpty": ("pose", _fill_empty),
    "GaitGraph1Input": ("pose", lambda pose, **_: pose.transpose(2, 0, 1)[..., None]),
    "GaitGraphMultiInput": ("pose", _three),
    "GaitGraph_MultiInput": ("pose", _three),
    "GaitTRMultiInput": ("pose", _ten),
    "MSGGTransform": ("pose", _twelve),
    "SelectSequenceCenter": ("any", lambda array, **options: taken("SelectSequenceCenter", array, options)[0]),
    "RatioHW": ("any", lambda array, **_: taken("RatioHW", array, {})[0]),
    "Rearrange": ("any", lambda array, **options: taken("Rearrange", array, options)[0]),
    "SkeletonInput": ("any", lambda pose, **_: pose.transpose(0, 2, 1)[..., None]),
}


def _poses(made: np.ndarray, raw: np.ndarray, walk: Walk, config: Config) -> Batch:
    count = len(skeleton(config.joints).joints)
    # the transform itself may choose the joints that the model sees
    pose = raw if raw.shape[1] == count else made
    if pose.ndim != 3 or pose.shape[1] != count:
        raise BadInput(
            f"{walk.files[0]}: {raw.shape[1]} joints; {config.model} with joint_format {config.joints} has {count}"
        )
    axes = POSES[config.model]
    if made.ndim + 1 != len(axes.split()):
        raise BadInput(
            f"{walk.files[0]}: shape {made.shape} after the transforms; {config.model} takes {len(axes.split()) - 1} axes; "
            f"see evaluator_cfg.transform of {config.path}"
        )
    return Batch(_tensor(made), Layout(axes), (walk.name,), truth={"pose": _tensor(pose[..., :3])})


def _maps_and_silhouettes(arrays: Sequence[np.ndarray], walk: Walk) -> np.ndarray:
    """Skeleton maps (t, 2, h, w) and silhouettes (t, h, w') -> (t, 3, h, min(w, w')), the wider one cut at both sides."""
    if len(arrays) != 2 or arrays[0].ndim != 4 or arrays[1].ndim != 3:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise BadInput(
            f"{walk.files[0].parent}: {shapes}; SkeletonGaitPP takes maps (t, 2, h, w), then silhouettes (t, h, w)"
        )
    parts = [arrays[0], arrays[1][:, None]]
    width = 44 if parts[0].shape[-2] == 64 else min(part.shape[-1] for part in parts)
    sides = [(part.shape[-1] - width) // 2 for part in parts]
    return np.concatenate([part[..., side : side + width] for part, side in zip(parts, sides, strict=True)], 1)


def _check_colour(x: Tensor, raw: np.ndarray, walk: Walk, config: Config) -> None:
    """Errors: BadInput for coloured pictures, or an axis too many, where our network takes silhouettes."""
    if config.model not in NETWORKS or channels_of(config) != 1 or raw.ndim != 4 or x.dim() != 5:
        return
    file, shape = walk.files[0], tuple(raw.shape)
    takes = f"{config.model} by this config takes silhouettes (t, h, w)"
    if shape[-1] == 3 or shape[1] == 3:
        raise BadInput(f"{file}: colour pictures, shape {shape}; {takes}")
    if shape[-1] == 1 and shape[1] != 1:
        raise BadInput(f"{file}: shape {shape}; {takes}, without the last axis")


def _check_picture(x: Tensor, raw: np.ndarray, walk: Walk, config: Config, module: nn.Module | None) -> None:
    size = (x.shape[-2], x.shape[-1])
    channels = 1 if x.dim() == 4 else x.shape[2]
    takes = int(channels_of(config))
    if channels != takes:
        raise BadInput(f"{walk.files[0]}: {channels} channels a frame; {config.model} by this config takes {takes}")
    if size not in config.sizes:
        cut = f", {size[0]} x {size[1]} after the transform" if raw.shape[-2:] != size else ""
        whole = f"{raw.shape[-2]} x {raw.shape[-1]}"
        known = [one for one in config.sizes if one[0] != one[1]] or config.sizes
        sides = " or ".join(f"{one[0]} x {one[0]}" for one in known)
        raise BadInput(
            f"{walk.files[0]}: frames of {whole}{cut}; {config.model} by this config takes "
            f"{' or '.join(f'{h} x {w}' for h, w in known)} ({sides} before cutting)"
        )
    step = getattr(module, "STEP", 1)
    if x.shape[1] < step:
        warnings.warn(
            f"{walk.name}: {x.shape[1]} frame{'s' if x.shape[1] > 1 else ''}, fewer than the {step} of {config.model}'s temporal convolution; "
            f"repeated, as the model does",
            LoupeWarning,
            stacklevel=2,
        )
