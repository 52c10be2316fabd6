"""OpenGait's models from its own configs and checkpoints, without its code; or its real classes from a checkout."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.names import resolve, split_call
from torchloupe.networks.gait import NETWORKS, leaves
from torchloupe.networks.gait.gln import GLN
from torchloupe.networks.gait.layers import Seen, default_layers, passes, seen, windows
from torchloupe.networks.gait.skeletons import joints_velocity_bones, positions_steps_bones, skeleton
from torchloupe.probe import INPUT, Batch, Subject
from torchloupe.sources.assemble import Options, split_spec
from torchloupe.sources.configs import OPENGAIT_DEFAULTS, merged, opengait_default
from torchloupe.sources.devices import device as choose_device
from torchloupe.sources.safe import load_state, sha256
from torchloupe.sources.sequences import Walk
from torchloupe.taps import restored
from torchloupe.trace import Trace, find_layout, tracing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
METRICS = ("euc", "cos")
# rows of the silhouettes that a model was published for, where they are not 64
SIDES = {"GLN": GLN.SIDE}
# how the models of skeletons take them: rows are joints
POSES = {"GaitGraph1": "n c t h w", "GaitGraph2": "n t h i c", "GaitTR": "n t c h w", "MultiScaleGaitGraph": "n t h c"}


@dataclass(frozen=True)
class Config:
    """What an OpenGait config says about a model and its data, merged over `default.yaml`.

    blocks: the merged YAML. merged: the default.yaml that was used, or None.
    """

    path: Path
    blocks: Mapping[str, Any] = field(repr=False)
    merged: Path | None = None

    @property
    def model(self) -> str:
        """The model's class name."""
        return str(self.blocks["model_cfg"]["model"])

    @property
    def dataset(self) -> str:
        """`data_cfg.dataset_name`."""
        return str(self.blocks["data_cfg"]["dataset_name"])

    @property
    def metric(self) -> str:
        """'euc' or 'cos'."""
        return str(self.blocks["evaluator_cfg"].get("metric", "euc"))

    @property
    def sampler(self) -> Mapping[str, Any]:
        """How the evaluator samples frames."""
        return self.blocks["evaluator_cfg"].get("sampler") or {}

    @property
    def transforms(self) -> list[Mapping[str, Any]]:
        """One transform a modality."""
        found = self.blocks["evaluator_cfg"].get("transform") or self.blocks["trainer_cfg"].get("transform")
        return found if isinstance(found, list) else [found]

    @property
    def joints(self) -> str:
        """The format of the skeletons that the model sees."""
        model = self.blocks["model_cfg"]
        return str(model.get("joint_format") or (model.get("graph_cfg") or {}).get("layout", "coco"))

    @property
    def side(self) -> int:
        """Rows of a silhouette before it is cut: what the transforms name, else what the network was published for."""
        named = next((part["img_w"] for one in self.transforms for part in _steps(one) if "img_w" in part), None)
        return int(named) if isinstance(named, int) else SIDES.get(self.model, 64)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) after the transforms that our network can take; the one that the config is about first."""
        found = []
        for side in (self.side, 64, 128):
            for size in ((side, side * 44 // 64), (side, side)):
                if size not in found and self._runs(size):
                    found.append(size)
        named = any("img_w" in part for one in self.transforms for part in _steps(one))
        return tuple(size for size in found if size[0] == self.side or not named)

    @cached_property
    def _empty(self) -> nn.Module:
        """Our network without numbers, to see what shapes it takes."""
        with torch.device("meta"):
            return build(self).eval()

    def _runs(self, size: tuple[int, int]) -> bool:
        channels = _channels(self)
        shape = (1, 3, *size) if channels == 1 else (1, 3, channels, *size)
        if size[1] not in getattr(self._empty, "WIDTHS", (size[1],)):
            return False
        try:
            self._empty(torch.empty(shape, device="meta"))
        except (RuntimeError, ValueError):
            return False
        return True

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the evaluator's restore_hint means, below the current folder; None for 0."""
        evaluator = self.blocks["evaluator_cfg"]
        hint = evaluator.get("restore_hint", 0)
        if isinstance(hint, str):
            return Path(hint)
        if not hint:
            return None
        name = evaluator.get("save_name", "tmp")
        return Path("output", self.dataset, self.model, name, "checkpoints", f"{name}-{hint:0>5}.pt")


def _steps(transform: Any) -> list[Mapping[str, Any]]:
    """The steps of a transform: `Compose` is opened."""
    if not isinstance(transform, Mapping) or transform.get("type") != "Compose":
        return [transform] if isinstance(transform, Mapping) else []
    return [step for part in transform.get("trf_cfg") or () for step in _steps(part)]


def read_config(path: str | Path) -> Config:
    """An OpenGait YAML, merged over the `default.yaml` of its own tree (or of ./configs) where there is one.

    Errors: BadInput for a file that is absent, no YAML, or names no model.
    """
    file = Path(path)
    own = _yaml(file)
    base = opengait_default(file)
    if isinstance(own.get("data_cfg"), list):
        raise BadInput(f"{file}: data_cfg is a list of data sets; give a config with one")
    if not isinstance(own.get("model_cfg"), Mapping) or "model" not in own["model_cfg"]:
        raise BadInput(f"{file}: model_cfg.model is missing; expected an OpenGait config")
    blocks = merged(OPENGAIT_DEFAULTS, _yaml(base) if base else {})
    blocks = merged(blocks, {name: block for name, block in own.items() if block is not None})
    for name in OPENGAIT_DEFAULTS:
        if not isinstance(blocks[name], Mapping):
            raise BadInput(f"{file}: {name} holds {type(blocks[name]).__name__}; expected a mapping")
    return Config(file, blocks, base)


def _check(config: Config) -> None:
    """Errors: BadInput for what every sequence would stumble over."""
    for one in config.transforms:
        for step in _steps(one) or [one]:
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


def _yaml(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror}); expected an OpenGait config (.yaml)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise BadInput(f"{file}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(found, dict):
        raise BadInput(f"{file}: holds {type(found).__name__}; expected an OpenGait config (blocks such as model_cfg)")
    return found


def build(config: Config) -> nn.Module:
    """Our network for a config, with random weights.

    Errors: BadInput for a model that is not ours, or a model_cfg that lacks or mistypes an entry.
    """
    make = NETWORKS.get(config.model)
    if make is None:
        near = nearest(config.model, NETWORKS)
        raise BadInput(
            f"{config.path}: model {config.model} is not built in.{near} Built in: {', '.join(NETWORKS)}. "
            f"For every other model give --opengait DIR, a checkout of OpenGait"
        )
    try:
        return make(config.blocks["model_cfg"], config.dataset)
    except KeyError as error:
        raise BadInput(f"{config.path}: model_cfg of {config.model} lacks {error.args[0]!r}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise BadInput(f"{config.path}: {error}") from None
        raise BadInput(f"{config.path}: model_cfg does not make a {config.model} ({error})") from None


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], source: str, model: str, places: nn.Module | None = None
) -> tuple[str, ...]:
    """Loads a checkpoint's state dict. Gives the keys that do not fit but do not touch the embedding either.

    places: our network that has the layers of a real class; by default the module itself.
    Errors: BadInput for a checkpoint of another model, naming the nearest, or of another variant.
    """
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    own = module.state_dict()
    odd = [key for key in {**own, **state} if key not in state or key not in own or own[key].shape != state[key].shape]
    aside = sorted(key for key in odd if _unused(places or module, key))
    wrong = sorted(set(odd) - set(aside))
    if wrong:
        raise BadInput(f"{source}: {_why_not(own, state, wrong, model)}")
    module.load_state_dict({key: value for key, value in state.items() if key not in aside}, strict=False)
    return tuple(aside)


def _unused(module: nn.Module, key: str) -> bool:
    if key.endswith("num_batches_tracked"):
        return True
    name = key.rpartition(".")[0]
    place = _place(module, name) if name else None
    # the embedding behind the neck reads its batch norm, never its classifier
    return (place is not None and place.layout is None) or key == "BNNecks.fc_bin"


def _why_not(own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: list[str], model: str) -> str:
    looks = next((name for name, marks in MARKS if all(mark in state for mark in marks)), None)
    key = wrong[0]
    if looks == model:
        found, want = (tuple(part[key].shape) if key in part else "absent" for part in (state, own))
        return (
            f"a {model} of another config: {key} is {found}, by the config {want} ({len(wrong)} keys differ); "
            f"take the config that it was trained with"
        )
    nature = "lacks" if key in own else "has an unknown"
    guess = f"; it looks like {looks}" if looks else ""
    return f"not a checkpoint of {model}: it {nature} {key} ({len(wrong)} keys differ){guess}"


# the first model whose keys are all there is the one that a checkpoint looks like
MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GaitSet", ("set_block1.forward_block.0.conv.weight", "gl_block2.0.conv.weight")),
    ("GaitPart", ("TFA.pooling_func.conv1d3x1.0.0.conv.weight",)),
    ("GaitEdge", ("LTA.0.conv3d.weight", "Backbone.Conv_1x1.weight")),
    ("GaitGL", ("LTA.0.conv3d.weight", "HPP.p")),
    ("GLN", ("sil_stage_0.forward_block.0.conv.weight", "lateral_layer1.weight")),
    ("SwinGait", ("layer0.forward_block.0.weight", "transformer.patch_embed.proj.weight")),
    ("SkeletonGaitPP", ("map_layer0.forward_block.0.weight", "fusion.conv.forward_block.0.weight")),
    ("DeepGaitV2", ("layer0.forward_block.0.weight", "FCs.fc_bin")),
    ("GaitGraph2", ("ResGCN.head.2.A",)),
    ("GaitGraph1", ("ResGCN.head.0.A",)),
    ("GaitTR", ("backbone.0.st.attention_conv.qkv_conv.weight",)),
    ("ParsingGait", ("gammas_coarse", "Backbone.forward_block.layer4.0.conv1.weight")),
    ("Baseline", ("Backbone.forward_block.layer4.0.conv1.weight", "BNNecks.fc_bin")),
)


def prepare(walk: Walk, config: Config, module: nn.Module | None = None) -> Batch:
    """One walk as a batch of one sample, by the config's data_in_use, sampler and transforms.

    Silhouettes (1, t, h, w), maps (1, t, c, h, w), poses as the model takes them; pictures (1, t, h, w, 3) of the
    silhouettes; extra: further modalities of a real OpenGait class; truth["pose"] (1, t, v, 3) of skeletons.
    Differs: of a sequence longer than a fixed number of frames the middle is taken, where OpenGait draws at random.
    Errors: BadInput, one line, for whatever does not fit the model.
    """
    raw = _sampled(_chosen(walk, config), walk, config)
    arrays = _transformed(raw, walk, config)
    # the picture is what is explained; other inputs, such as ratios, go with it
    own = next((i for i, array in enumerate(arrays) if array.ndim >= 3), 0)
    first = arrays[own]
    if config.model in POSES:
        return _poses(first, raw[0], walk, config)
    if config.model == "SkeletonGaitPP":
        first = _maps_and_silhouettes(arrays, walk)
    x = torch.from_numpy(np.ascontiguousarray(first, dtype=np.float32))[None]
    if config.model in NETWORKS and x.dim() == 5 and x.shape[2] == _channels(config) == 1:
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
    return Batch(x, layout, (walk.name,), extra, pictures=_pictures(x))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def _pictures(x: Tensor) -> Tensor:
    """What is shown, grey: the silhouette, the brightest channel of maps, or a coloured picture without its colours."""
    grey = x if x.dim() == 4 else x.amax(2)
    low, high = grey.min(), grey.max()
    if low < 0 or high > 1:
        grey = (grey - low) / (high - low).clamp(min=1e-6)
    return (grey * 255).round().byte()[..., None].expand(*grey.shape, 3)


def _chosen(walk: Walk, config: Config) -> list[np.ndarray]:
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
        chosen = [(walk.files[i], arrays[i]) for i in index]
    else:
        chosen = list(zip(walk.files, arrays, strict=False))
    lengths = {file.name: len(array) for file, array in chosen}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise BadInput(
            f"{walk.files[0].parent}: modalities of unequal length ({told}); expected the same frames in each"
        )
    if not chosen or not next(iter(lengths.values())):
        raise BadInput(f"{walk.files[0]}: no frames; expected (t, ...) with t > 0")
    for file, array in chosen:
        if not array.size:
            raise BadInput(f"{file}: shape {array.shape} holds nothing; expected (t, ...), no axis of length 0")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum())
            raise BadInput(f"{file}: {count} of {len(array)} frames hold NaN or infinite values; expected numbers")
    return [array for _, array in chosen]


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
        raise BadInput(_unknown(kind))
    wanted, make = TRANSFORMS[kind]
    if wanted == "pose" and (array.ndim != 3 or array.shape[-1] < 3):
        raise BadInput(f"{file}: shape {array.shape}; {kind} takes poses (t, joints, 3) of x, y, score")
    if wanted == "silhouette":
        _check_grey(array, file, kind)
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
    return f"transform {kind!r} is not known.{nearest(kind, TRANSFORMS)} Known: {', '.join(TRANSFORMS)}."


def _check_grey(array: np.ndarray, file: Path, kind: str) -> None:
    if array.ndim < 3:
        raise BadInput(f"{file}: shape {array.shape}; {kind} takes silhouettes (t, h, w)")
    if array.dtype.kind == "b" or (array.size and 0 < array.max() <= 1):
        raise BadInput(
            f"{file}: dtype {array.dtype} with values 0 to 1; expected grey values 0 to 255 (multiply by 255)"
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


def _check_picture(x: Tensor, raw: np.ndarray, walk: Walk, config: Config, module: nn.Module | None) -> None:
    size = (x.shape[-2], x.shape[-1])
    channels = 1 if x.dim() == 4 else x.shape[2]
    takes = int(_channels(config))
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


def _channels(config: Config) -> int:
    model = config.blocks["model_cfg"]
    backbone = model.get("Backbone") or model.get("backbone_cfg") or {}
    inputs = backbone.get("in_channels", backbone.get("in_channel", 1))
    return inputs if isinstance(inputs, int) else 1


def gait(
    config: str | Path,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    checkout: str | Path | None = None,
    device: str | int = "auto",
    unsafe: bool = False,
) -> Subject:
    """A gait model as a subject: an embedder (1, t, h, w) -> (1, c, p) whose layers know their time and space.

    config: an OpenGait YAML. weights: a checkpoint or its state dict; None: random. checkout: a checkout of OpenGait,
    whose code is then imported, that is, run: for the models that are not built in. unsafe: let the checkpoint run code.
    `prepare` makes a batch of a Walk. notes: the config, and what is known of the weights.
    """
    settings = read_config(config)
    _check(settings)
    module: nn.Module
    call: Callable[[nn.Module, Batch], Any]
    if checkout is None:
        module, call = build(settings), _call
    else:
        from torchloupe.sources.opengait_checkout import real_class

        module, call = real_class(settings, Path(checkout))
    places = module if checkout is None else _alike(module, settings)
    notes: dict[str, Any] = {"config": settings, "places": places}
    if weights is not None:
        given = weights if isinstance(weights, Mapping) else load_state(weights, unsafe=unsafe)
        source = "the weights" if isinstance(weights, Mapping) else str(weights)
        aside = load_weights(module, given, source, settings.model, places)
        if aside:
            told = ", ".join(aside[:3]) + (" ..." if len(aside) > 3 else "")
            text = f"{source}: {told} do not fit the config; the embedding does not use them"
            warnings.warn(text, LoupeWarning, stacklevel=2)
        known = {} if isinstance(weights, Mapping) else {"path": source, "sha256": sha256(weights)}
        notes["weights"] = {**known, "left aside": list(aside)}
    module = module.eval().to(choose_device(device))
    return Subject(
        module,
        layout=partial(_layout, places),
        call=call,
        read=_read,
        kind="embedder",
        layers=default_layers(places),
        spec=f"opengait:{settings.path}",
        prepare=partial(_prepared, config=settings, module=module),
        notes=notes,
    )


def opengait(rest: str, options: Options) -> Subject:
    """The subject of opengait:CONFIG.yaml, or of opengait:CONFIG.yaml?checkout=DIR."""
    name, arguments = split_spec(rest)
    checkout = arguments.pop("checkout", None)
    if arguments:
        raise BadInput(f"{options.spec}: no option {next(iter(arguments))!r}; expected checkout=DIR")
    made = gait(name, options.weights, checkout=checkout, device=options.device, unsafe=options.unsafe_load)
    return made if options.layers is None else replace(made, layers=tuple(options.layers))


def _prepared(walk: Walk, *, config: Config, module: nn.Module) -> Batch:
    return prepare(walk, config, module)


def _call(module: nn.Module, batch: Batch) -> Tensor:
    return module(batch.x)


def _read(output: Any) -> Tensor:
    """The embedding: what our networks give; in OpenGait's own output under inference_feat."""
    if not isinstance(output, Mapping):
        return output
    found = output.get("inference_feat") or {}
    if "embeddings" not in found:
        raise BadInput(f"this model gives {', '.join(found) or 'nothing'} and no embeddings: no gallery can be asked")
    return found["embeddings"]


def _alike(module: nn.Module, config: Config) -> nn.Module:
    """Our network with the layers of a real class, or of the class that it is derived from (GaitEdge: GaitGL); or itself.

    Such layers have the names, times and spaces of ours.
    """
    model = config.blocks["model_cfg"]
    for kind in type(module).__mro__:
        if kind.__name__ in NETWORKS:
            own = model.get(kind.__name__, model)
            blocks = {**config.blocks, "model_cfg": {**own, "model": kind.__name__}}
            return build(replace(config, blocks=blocks))
    return module


def _place(places: nn.Module, name: str) -> Seen | None:
    """How a layer lies over the sequence; None where no table tells, as for layers that only a real class has."""
    return seen(places, name) if name in dict(places.named_modules()) else None


def inner_pictures(subject: Subject, batch: Batch) -> list[np.ndarray]:
    """What a real class shows of its own way, one picture a frame (t, h, w) uint8: the `visual_summary` of its output."""
    with restored(subject.module), torch.no_grad():
        output = replace(subject, read=lambda found: found).output(batch)
    shown = output.get("visual_summary", {}).values() if isinstance(output, Mapping) else ()
    frames = [x.detach().float().cpu() for x in shown if isinstance(x, Tensor) and x.dim() == 4]
    return [_pictures(x[None])[0, ..., 0].numpy() for x in frames if len(x) == batch.size[0]]


def place_of(subject: Subject, layer: str) -> Seen | None:
    """How a layer (with or without '#') lies over the sequence; None where no table tells."""
    return None if layer == INPUT else _place(subject.notes["places"], split_call(layer)[0])


def _layout(places: nn.Module, name: str) -> Layout | None:
    place = _place(places, name)
    if place is None:
        return None
    if place.layout is None:
        raise BadInput(f"layer {name!r} cannot be drawn: {place.word}")
    return place.layout


def pick_layers(subject: Subject, wanted: Sequence[str]) -> tuple[str, ...]:
    """Layers by dotted name, by glob, or by the running number of the seed's table -> dotted names, in order.

    Errors: BadInput for a number out of range, a glob that fits nothing, or an unknown name.
    """
    module = subject.module
    numbered, known = leaves(module), {name: part for name, part in module.named_modules() if name}
    picked: list[str] = []
    for one in (part for given in wanted for part in given.replace(",", " ").split()):
        word, call = split_call(one)
        if word.isdigit():
            if int(word) not in numbered:
                raise BadInput(
                    f"layer {word}: this model's layers are numbered 1 to {len(numbered)}; see loupe gait layers"
                )
            found = [numbered[int(word)] + ("" if call is None else f"#{call}")]
        elif any(mark in one for mark in "*?"):
            found = [name for name in known if fnmatchcase(name, one) and _drawable(subject, name)]
            if not found:
                raise BadInput(f"no layer fits {one!r}.{nearest(one.strip('*'), known)} See loupe gait layers.")
        else:
            found = [one]
        for name in found:
            if (place := place_of(subject, name)) is not None and place.layout is None:
                raise BadInput(f"layer {name!r} cannot be drawn: {place.word}")
        picked += [resolve(known, _plain_pass(subject, name)) for name in found]
    return tuple(dict.fromkeys(picked)) or subject.layers


def _drawable(subject: Subject, name: str) -> bool:
    place = place_of(subject, name)
    return place is None or place.layout is not None


def _plain_pass(subject: Subject, name: str) -> str:
    """Of a layer that runs once in each pass of a network that runs several times: the call of the plain pass."""
    module = subject.module
    if passes(module) == 1 or name == INPUT or split_call(name)[1] is not None:
        return name
    # an activation is shared within each pass, so that its first call would not be all of the pass
    shared = isinstance(dict(module.named_modules()).get(name), nn.ReLU)
    return name if shared else f"{name}#0"


def model_digest(subject: Subject) -> str:
    """sha256 over the weights and the config's model and evaluator blocks."""
    state = hashlib.sha256()
    config: Config = subject.notes["config"]
    for block in ("model_cfg", "data_cfg", "evaluator_cfg"):
        state.update(yaml.safe_dump(config.blocks[block], sort_keys=True).encode())
    for name, value in sorted(subject.module.state_dict().items()):
        state.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def example(config: Config, frames: int = 12) -> Batch:
    """Noise of the shape that a built-in model takes, to see what its layers give."""
    if config.model in POSES:
        joints = len(skeleton(config.joints).joints)
        shapes = {
            "GaitGraph1": (1, 3, frames, joints, 1),
            "GaitGraph2": (1, frames, joints, 3, 5),
            "GaitTR": (1, frames, 10, joints, 1),
        }
        return Batch(torch.rand(shapes[config.model]), Layout(POSES[config.model]), ("noise",))
    channels, size = _channels(config), config.sizes[0]
    shape = (1, frames, *size) if channels == 1 else (1, frames, channels, *size)
    return Batch(torch.rand(shape), Layout("n t h w" if channels == 1 else "n t c h w"), ("noise",))


@dataclass(frozen=True)
class LayerFacts:
    """One line of `loupe gait layers`."""

    number: int | None
    name: str
    kind: str
    time: str
    space: str


def layer_facts(subject: Subject, batch: Batch) -> list[LayerFacts]:
    """What every layer that runs gives, in order of registration: its number, type, and where in time and space it is."""
    module = subject.module
    with restored(module), torch.no_grad(), tracing(module) as trace:
        subject.output(batch)
    numbers = {name: number for number, name in leaves(module).items()}
    facts = []
    for name, part in module.named_modules():
        visits = [visit for visit in trace.visits if visit.name == name and visit.shapes]
        if not name or (not visits and name not in numbers):
            continue
        time, space = _time_and_space(subject.notes["places"], name, trace, batch) if visits else ("not run", "")
        facts.append(LayerFacts(numbers.get(name), name, type(part).__name__, time, space))
    return facts


def _time_and_space(places: nn.Module, name: str, trace: Trace, batch: Batch) -> tuple[str, str]:
    visits, place = [visit for visit in trace.of(name) if visit.shapes], _place(places, name)
    if place is None:
        found = find_layout(visits[0], trace, batch.n, batch.size)
        place = Seen(None, word=found) if isinstance(found, str) else Seen(found)
    if place.layout is None:
        return "", place.word
    calls = [torch.empty(visit.shapes[0], device="meta") for visit in visits]
    joined = place.layout.join is not None
    t, h, w = place.layout.canonical(calls if joined else calls[:1], batch.n).shape[-3:]
    frames = batch.size[0]
    steps = windows(t, frames, place.step)
    width = steps[0][1] - steps[0][0]
    time = "each frame" if t == frames else "whole sequence" if t == 1 else f"{width} frames a step"
    if batch.size[2] == 1:
        space = f"{h} joints" if h > 1 else ""
    elif w == 1:
        space = f"{h} strips" if h > 1 else ""
    else:
        space = f"{h} x {w}"
    if len(calls) > 1:
        space += f", {len(calls)} {'strips joined' if joined else 'calls, see #0'}"
    return time, ", ".join(part for part in (space, place.word) if part)
