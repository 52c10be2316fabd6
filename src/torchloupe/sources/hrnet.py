"""HRNet-style experiment files (YAML with KEY VALUE overrides) and the pose networks they describe."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from torchloupe.data.bodies import COCO_BODY, MPII_BODY
from torchloupe.errors import BadInput, nearest
from torchloupe.networks.pose import PoseHRNet, PoseResNet, Stage
from torchloupe.networks.pose.blocks import BLOCKS
from torchloupe.networks.pose.resnet import DEPTHS, DOUBLING
from torchloupe.probe import Subject
from torchloupe.sources.assemble import Loaded, Options, finish
from torchloupe.sources.preparation import resize_crop
from torchloupe.sources.safe import read_checkpoint, weights_in
from torchloupe.store import sha256
from torchloupe.store.reading import reads

# Every key of an experiment file with its default, whose type is the type that is asked for. EXTRA is open, as it
# depends on the network; what a network reads there is checked when it is built.
DEFAULTS: dict[str, Any] = {
    "OUTPUT_DIR": "",
    "LOG_DIR": "",
    "DATA_DIR": "",
    "GPUS": (0,),
    "WORKERS": 4,
    "PRINT_FREQ": 20,
    "AUTO_RESUME": False,
    "PIN_MEMORY": True,
    "RANK": 0,
    "CUDNN": {"BENCHMARK": True, "DETERMINISTIC": False, "ENABLED": True},
    "MODEL": {
        "NAME": "pose_hrnet",
        "INIT_WEIGHTS": True,
        "PRETRAINED": "",
        "NUM_JOINTS": 17,
        "TAG_PER_JOINT": True,
        "TARGET_TYPE": "gaussian",
        "IMAGE_SIZE": (256, 256),
        "HEATMAP_SIZE": (64, 64),
        "SIGMA": 2.0,
        "STYLE": "pytorch",
        "EXTRA": {},
    },
    "LOSS": {
        "USE_OHKM": False,
        "TOPK": 8,
        "USE_TARGET_WEIGHT": True,
        "USE_DIFFERENT_JOINTS_WEIGHT": False,
    },
    "DATASET": {
        "ROOT": "",
        "DATASET": "mpii",
        "TRAIN_SET": "train",
        "TEST_SET": "valid",
        "DATA_FORMAT": "jpg",
        "HYBRID_JOINTS_TYPE": "",
        "SELECT_DATA": False,
        "FLIP": True,
        "SCALE_FACTOR": 0.25,
        "ROT_FACTOR": 30.0,
        "PROB_HALF_BODY": 0.0,
        "NUM_JOINTS_HALF_BODY": 8,
        "COLOR_RGB": False,
    },
    "TRAIN": {
        "LR_FACTOR": 0.1,
        "LR_STEP": (90, 110),
        "LR": 0.001,
        "OPTIMIZER": "adam",
        "MOMENTUM": 0.9,
        "WD": 0.0001,
        "NESTEROV": False,
        "GAMMA1": 0.99,
        "GAMMA2": 0.0,
        "BEGIN_EPOCH": 0,
        "END_EPOCH": 140,
        "RESUME": False,
        "CHECKPOINT": "",
        "BATCH_SIZE_PER_GPU": 32,
        "SHUFFLE": True,
    },
    "TEST": {
        "BATCH_SIZE_PER_GPU": 32,
        "FLIP_TEST": False,
        "POST_PROCESS": False,
        "SHIFT_HEATMAP": False,
        "USE_GT_BBOX": False,
        "IMAGE_THRE": 0.1,
        "NMS_THRE": 0.6,
        "SOFT_NMS": False,
        "OKS_THRE": 0.5,
        "IN_VIS_THRE": 0.0,
        "COCO_BBOX_FILE": "",
        "BBOX_THRE": 1.0,
        "MODEL_FILE": "",
    },
    "DEBUG": {
        "DEBUG": False,
        "SAVE_BATCH_IMAGES_GT": False,
        "SAVE_BATCH_IMAGES_PRED": False,
        "SAVE_HEATMAPS_GT": False,
        "SAVE_HEATMAPS_PRED": False,
    },
}


STAGE_KEYS = ("NUM_MODULES", "NUM_BRANCHES", "NUM_BLOCKS", "NUM_CHANNELS", "BLOCK", "FUSE_METHOD")
# network -> what it knows below EXTRA
EXTRA_KEYS: dict[str, tuple[str, ...]] = {
    "pose_resnet": (
        *("NUM_LAYERS", "NUM_DECONV_LAYERS", "NUM_DECONV_FILTERS", "NUM_DECONV_KERNELS", "DECONV_WITH_BIAS"),
        *("FINAL_CONV_KERNEL", "WIDTH"),
    ),
    "pose_hrnet": (
        *("PRETRAINED_LAYERS", "FINAL_CONV_KERNEL", "STEM_INPLANES", "STAGE2", "STAGE3", "STAGE4"),
        *(f"STAGE{number}.{key}" for number in (2, 3, 4) for key in STAGE_KEYS),
    ),
}


@dataclass(frozen=True)
class Experiment:
    """An experiment file with its overrides, every key checked; `experiment["MODEL.NAME"]` reads one."""

    values: Mapping[str, Any]
    source: str = ""
    overrides: tuple[str, ...] = field(default=())

    def __getitem__(self, key: str) -> Any:
        part: Any = self.values
        for name in key.split("."):
            if not isinstance(part, Mapping) or name not in part:
                known = list(part) if isinstance(part, Mapping) else []
                raise BadInput(f"{self.source}: {key} is missing.{nearest(name, known)}")
            part = part[name]
        return part

    def get(self, key: str, default: Any) -> Any:
        """The value of a key, or the default where the file has none."""
        try:
            return self[key]
        except BadInput:
            return default

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the network's input in pixels."""
        width, height = self["MODEL.IMAGE_SIZE"]
        return int(width), int(height)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(width, height) of the heatmaps in pixels."""
        width, height = self["MODEL.HEATMAP_SIZE"]
        return int(width), int(height)


@reads("an experiment file (YAML)")
def experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and lay `KEY VALUE KEY VALUE ...` over it. Nothing in it is executed.

    Errors: BadInput for a file that is no YAML mapping, an unknown key, a value of the wrong type, a KEY without VALUE.
    """
    path = Path(path)
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(read, dict):
        raise BadInput(f"{path}: expected a mapping of keys such as MODEL and DATASET, found {type(read).__name__}")
    values = copy.deepcopy(DEFAULTS)
    _lay(values, read, DEFAULTS, str(path), "")
    if len(overrides) % 2:
        raise BadInput(f"overrides come as KEY VALUE pairs; {overrides[-1]!r} has no value")
    for key, value in zip(overrides[::2], overrides[1::2], strict=True):
        change: Any = value
        for name in reversed(key.split(".")):
            change = {name: change}
        _lay(values, change, DEFAULTS, "override", "")
    return Experiment(values, str(path), tuple(overrides))


def _lay(values: dict[str, Any], change: Mapping[Any, Any], known: Mapping[str, Any], source: str, prefix: str) -> None:
    for name, value in change.items():
        key = f"{prefix}{name}"
        open_ended = prefix.startswith("MODEL.EXTRA.")
        if name not in known and not open_ended:
            raise BadInput(f"{source}: unknown key {key}.{nearest(str(name), known)}")
        default = known.get(name)
        # below EXTRA there are no defaults: what the file says is the type that an override has to keep
        if open_ended and name in values:
            default = values[name]
        if isinstance(value, Mapping):
            if not isinstance(default, dict) and default is not None:
                raise BadInput(f"{source}: {key} is expected to be {_kind(default)}, found a mapping")
            below = values.setdefault(name, {}) if isinstance(values.get(name), dict) else {}
            values[name] = below
            _lay(below, value, known.get(name) or {}, source, f"{key}.")
        else:
            values[name] = _typed(value, default, f"{source}: {key}")


def _typed(value: Any, default: Any, where: str) -> Any:
    """The value as the type of the default. Text is read as a Python literal first, so that '(0, 1)' is a tuple."""
    if isinstance(value, str) and not isinstance(default, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(value.lower(), value)
    if default is None:
        return value
    if isinstance(default, tuple | list) and isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    right = {
        bool: lambda: isinstance(value, bool),
        int: lambda: isinstance(value, int) and not isinstance(value, bool),
        float: lambda: isinstance(value, int | float) and not isinstance(value, bool),
        str: lambda: isinstance(value, str),
        tuple: lambda: isinstance(value, tuple | list),
        list: lambda: isinstance(value, tuple | list),
        dict: lambda: False,
    }[type(default)]()
    if not right:
        raise BadInput(f"{where} is expected to be {_kind(default)}, found {value!r}")
    return float(value) if isinstance(default, float) else value


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    return names.get(type(default), "a list")


def network(config: Experiment) -> nn.Module:
    """The untrained network that an experiment file describes: Pose ResNet or HRNet."""
    name = config["MODEL.NAME"]
    if name not in ("pose_resnet", "pose_hrnet"):
        raise BadInput(f"{config.source}: MODEL.NAME is {name!r}; known are pose_resnet and pose_hrnet")
    _sizes(config)
    for key in _below(config["MODEL.EXTRA"]):
        if key not in EXTRA_KEYS[name]:
            raise BadInput(f"{config.source}: unknown key MODEL.EXTRA.{key}.{nearest(key, EXTRA_KEYS[name])}")
    return _resnet(config) if name == "pose_resnet" else _hrnet(config)


def _below(part: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    for name, value in part.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _below(value, f"{prefix}{name}.")


def _sizes(config: Experiment) -> None:
    for key in ("MODEL.IMAGE_SIZE", "MODEL.HEATMAP_SIZE"):
        size = config[key]
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise BadInput(f"{config.source}: {key} is expected to be [width, height] in pixels, found {list(size)}")
    if config["MODEL.NUM_JOINTS"] < 1:
        raise BadInput(f"{config.source}: MODEL.NUM_JOINTS is 1 or more, found {config['MODEL.NUM_JOINTS']}")
    if any(side % 32 for side in config.image_size):
        raise BadInput(f"{config.source}: MODEL.IMAGE_SIZE {list(config.image_size)} is not a multiple of 32")


def _number(config: Experiment, key: str, known: Iterable[int] | None = None, default: int | None = None) -> int:
    value = config[key] if default is None else config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or (known is not None and value not in known):
        expected = "a whole number" if known is None else f"one of {', '.join(map(str, known))}"
        raise BadInput(f"{config.source}: {key} is expected to be {expected}, found {value!r}")
    return value


def _numbers(config: Experiment, key: str, length: int) -> tuple[int, ...]:
    value = config[key]
    whole = isinstance(value, list | tuple) and all(isinstance(one, int) and one > 0 for one in value)
    if not whole or len(value) != length:
        raise BadInput(f"{config.source}: {key} is expected to be a list of {length} whole numbers, found {value!r}")
    return tuple(value)


def _resnet(config: Experiment) -> PoseResNet:
    extra = "MODEL.EXTRA"
    layers = _number(config, f"{extra}.NUM_DECONV_LAYERS")
    kernels = _numbers(config, f"{extra}.NUM_DECONV_KERNELS", layers)
    if not set(kernels) <= set(DOUBLING):
        raise BadInput(f"{config.source}: {extra}.NUM_DECONV_KERNELS are 2, 3 or 4, found {list(kernels)}")
    net = PoseResNet(
        depth=_number(config, f"{extra}.NUM_LAYERS", known=DEPTHS),
        joints=config["MODEL.NUM_JOINTS"],
        filters=_numbers(config, f"{extra}.NUM_DECONV_FILTERS", layers),
        kernels=kernels,
        final_kernel=_number(config, f"{extra}.FINAL_CONV_KERNEL", known=(1, 3)),
        deconv_bias=bool(config.get(f"{extra}.DECONV_WITH_BIAS", False)),
        width=_number(config, f"{extra}.WIDTH", default=64),
    )
    _fits(config, 32 // 2**layers)
    return net


def _hrnet(config: Experiment) -> PoseHRNet:
    stages = (_stage(config, 2), _stage(config, 3), _stage(config, 4))
    _fits(config, 4)
    return PoseHRNet(
        stages=stages,
        joints=config["MODEL.NUM_JOINTS"],
        final_kernel=_number(config, "MODEL.EXTRA.FINAL_CONV_KERNEL", known=(1, 3)),
    )


def _stage(config: Experiment, number: int) -> Stage:
    key = f"MODEL.EXTRA.STAGE{number}"
    branches = _number(config, f"{key}.NUM_BRANCHES", known=(number,))
    block = config.get(f"{key}.BLOCK", "BASIC")
    if block not in BLOCKS:
        raise BadInput(f"{config.source}: {key}.BLOCK is BASIC or BOTTLENECK, found {block!r}")
    if config.get(f"{key}.FUSE_METHOD", "SUM") != "SUM":
        raise BadInput(f"{config.source}: {key}.FUSE_METHOD is SUM, found {config[f'{key}.FUSE_METHOD']!r}")
    return Stage(
        modules=_number(config, f"{key}.NUM_MODULES"),
        blocks=_numbers(config, f"{key}.NUM_BLOCKS", branches),
        channels=_numbers(config, f"{key}.NUM_CHANNELS", branches),
        block=block,
    )


def _fits(config: Experiment, stride: int) -> None:
    width, height = config.image_size
    made = (width // stride, height // stride)
    if made != config.heatmap_size:
        raise BadInput(
            f"{config.source}: the network makes heatmaps of {list(made)} from IMAGE_SIZE {[width, height]}, "
            f"but MODEL.HEATMAP_SIZE says {list(config.heatmap_size)}"
        )


def hrnet(rest: str, options: Options) -> Subject:
    """hrnet:CONFIG.yaml, a Pose ResNet or HRNet; `cfg_options` are laid over the file, as KEY VALUE pairs are.

    Errors: BadInput for a config or a checkpoint that does not fit.
    """
    pairs = [text for key, value in options.cfg_options.items() for text in (key, str(value))]
    return described(experiment(rest, pairs), options)


def described(config: Experiment, options: Options) -> Subject:
    """The network of an experiment file, with its weights (options.weights, or TEST.MODEL_FILE)."""
    net = network(config)
    path = options.weights or (Path(config["TEST.MODEL_FILE"]) if config["TEST.MODEL_FILE"] else None)
    note: dict[str, Any] = {}
    if path is not None:
        load_weights(
            net, weights_in(read_checkpoint(path, unsafe=options.unsafe_load), path, ema=options.ema), str(path)
        )
        note = {"path": str(path), "sha256": sha256(path)}
    width, height = config.image_size
    known = (COCO_BODY, MPII_BODY)
    names = next((body.joints for body in known if body.name == config["DATASET.DATASET"]), ())
    made = finish(
        net,
        options,
        resize_crop((3, height, width), options.mean, options.std),
        classes=names if len(names) == config["MODEL.NUM_JOINTS"] else (),
        kind="pose",
        loaded=Loaded(note, {}),
    )
    layer = "deconv_layers" if isinstance(net, PoseResNet) else "stage4"
    return replace(made, layers=tuple(options.layers) if options.layers else (layer,))


def load_weights(net: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put a state dict into the network; keys and shapes must agree exactly, but for a leading `module.`.

    Errors: BadInput that names the first key that is missing, foreign or of another shape, and how many there are.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in state]
    foreign = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and tuple(state[key].shape) != tuple(wanted[key].shape)]
    if missing or foreign or shapes:
        found = []
        if shapes:
            key = shapes[0]
            found.append(
                f"{len(shapes)} of another shape, first {key} {list(state[key].shape)} for {list(wanted[key].shape)}"
            )
        found += [f"{len(missing)} keys missing, first {missing[0]}"] if missing else []
        found += [f"{len(foreign)} keys too many, first {foreign[0]}"] if foreign else []
        raise BadInput(
            f"{source}: does not fit the network of the config ({'; '.join(found)}); "
            "use the checkpoint of the same depth, width and number of joints"
        )
    net.load_state_dict(state)
