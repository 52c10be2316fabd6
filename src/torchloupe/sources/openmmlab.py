"""Models of OpenMMLab: mmpretrain's classifiers and backbones from a config file or a model name."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, LoupeError, LoupeWarning
from torchloupe.probe import Subject
from torchloupe.sources.assemble import Loaded, Options, channels, finish, framework, load_weights, unknown
from torchloupe.sources.preparation import Preparation

FROM_A_FILE = ("LoadImageFromFile", "LoadImageFromNDArray")


def mmpretrain(rest: str, options: Options) -> Subject:
    """mmpretrain:CONFIG.py or mmpretrain:NAME of a model that mmpretrain knows; random weights unless some are given.

    A config file is Python: reading it runs its code. Pretrained weights that it names are not fetched. The picture goes
    through the config's own test pipeline and data preprocessor.
    Errors: BadInput for a config that is absent or broken, an unknown name, and overrides that do not fit.
    """
    library = _import()
    config = _config(library, rest, options)
    try:
        config.merge_from_dict(dict(options.cfg_options))
    except (KeyError, TypeError, IndexError, AssertionError) as error:
        raise BadInput(
            f"{options.spec}: cfg_options {dict(options.cfg_options)} do not fit the config ({error})"
        ) from error
    if "model" not in config:
        raise BadInput(f"{options.spec}: the config has no 'model'; expected a config of mmpretrain")
    if options.size is not None or options.mean or options.std:
        raise BadInput(f"{options.spec}: size, mean and std are the config's; change them with cfg_options")
    forget_pretrained(config.model)
    config.model.pop("train_cfg", None)
    with _scope(), told(options):
        config.model.setdefault("data_preprocessor", config.get("data_preprocessor", None))
        module = framework("mmpretrain.registry", "mmpretrain").MODELS.build(config.model)
    loaded = load_weights(module, options)
    with _scope(), told(options):
        preparation, said = _preparation(module, config)
    classifies = getattr(module, "head", None) is not None and "Retriev" not in type(module).__name__
    return finish(
        module,
        options,
        preparation,
        classes=_classes(config, loaded),
        kind="classifier" if classifies else "embedder",
        loaded=loaded,
        notes={"preparation": said, "cfg_options": dict(options.cfg_options)},
    )


def _import() -> Any:
    """mmpretrain, without its text-and-picture models where they would break its import.

    mmpretrain 1.2 imports them as soon as pycocotools and transformers are installed, which fails from transformers 5 on. It
    is told that pycocotools is absent, while it is imported and not longer.
    """
    metadata = framework("importlib_metadata", "mmpretrain")
    if "mmpretrain" in sys.modules or not _too_new(metadata):
        return framework("mmpretrain", "mmpretrain")
    honest = metadata.distribution

    def without(name: str) -> Any:
        if name == "pycocotools":
            raise metadata.PackageNotFoundError(name)
        return honest(name)

    metadata.distribution = without
    try:
        library = framework("mmpretrain", "mmpretrain")
        framework("mmpretrain.models", "mmpretrain")
        framework("mmpretrain.datasets", "mmpretrain")
        return library
    finally:
        metadata.distribution = honest
        framework("mmpretrain.utils.dependency", "mmpretrain").distribution = honest


def _too_new(metadata: Any) -> bool:
    try:
        return int(metadata.version("transformers").partition(".")[0]) >= 5
    except metadata.PackageNotFoundError:
        return False


def _config(library: Any, rest: str, options: Options) -> Any:
    path = Path(rest).expanduser()
    if path.suffix in (".py", ".json", ".yml", ".yaml"):
        if not path.is_file():
            raise BadInput(f"{path}: no such config file")
        if path.suffix == ".py":
            warnings.warn(f"{path}: a Python config; its code was run", LoupeWarning, stacklevel=4)
        with told(options):
            return framework("mmengine", "mmpretrain").Config.fromfile(path)
    hub = framework("mmpretrain.apis", "mmpretrain").ModelHub
    try:
        return hub.get(rest).config
    except ValueError as error:
        home = Path(library.__file__).parent / ".mim" / "configs"
        configs = {file.stem: file for file in sorted(home.rglob("*.py")) if "_base_" not in file.parts}
        if rest in configs:  # a config that is installed, of which no model was published
            with told(options):
                return framework("mmengine", "mmpretrain").Config.fromfile(configs[rest])
        raise unknown(options.spec, rest, sorted({*library.list_models(), *configs}), "mmpretrain") from error


@contextmanager
def _scope() -> Iterator[None]:
    with framework("mmengine.registry", "mmpretrain").DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


@contextmanager
def told(options: Options) -> Iterator[None]:
    """What a config does wrong, in one line."""
    try:
        yield
    except LoupeError:
        raise
    except Exception as error:  # a config may run anything
        said = " ".join(str(error).split())[:300]
        raise BadInput(f"{options.spec}: the config does not work: {type(error).__name__}: {said}") from error


def forget_pretrained(part: Any) -> None:
    """Take out of a config all that would fetch weights."""
    if isinstance(part, Mapping):
        for key, value in list(part.items()):
            if key == "pretrained" and value:
                part[key] = None if isinstance(value, str) else False  # type: ignore[index]
            elif key == "init_cfg" and "Pretrained" in str(value):
                part[key] = None  # type: ignore[index]
            else:
                forget_pretrained(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            forget_pretrained(value)


def _preparation(module: Any, config: Any) -> tuple[Preparation | None, str]:
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    if loader is None:
        pipeline = _usual_pipeline(config)
        warnings.warn(
            f"the config has no test_dataloader; pictures are cropped to {pipeline[1]['crop_size']}",
            LoupeWarning,
            stacklevel=4,
        )
    else:
        pipeline = [step for step in loader.dataset.pipeline if step["type"] not in FROM_A_FILE]
    registry = framework("mmpretrain.registry", "mmpretrain").TRANSFORMS
    transforms = [registry.build(step) for step in pipeline]
    preprocessor = module.data_preprocessor
    grey = channels(module) == 1

    def steps(image: Any) -> Tensor:
        array = np.asarray(image.convert("L" if grey else "RGB"))
        array = array if grey else np.ascontiguousarray(array[..., ::-1])
        data: Any = {"img": array, "img_shape": array.shape[:2], "ori_shape": array.shape[:2]}
        for transform in transforms:
            data = transform(data)
        with torch.no_grad():
            return preprocessor({"inputs": data["inputs"][None]}, training=False)["inputs"][0]

    size = tuple(steps(_grey_picture()).shape)
    mean = _numbers(preprocessor, "mean", size[0], 0.0)
    std = _numbers(preprocessor, "std", size[0], 1.0)
    bgr = size[0] == 3 and not getattr(preprocessor, "to_rgb", False)
    said = " ".join(str(step["type"]) for step in pipeline) + f", {type(preprocessor).__name__}"
    return Preparation(steps, size, mean, std, 1.0, bgr), said  # type: ignore[arg-type]


def _usual_pipeline(config: Any) -> list[dict[str, Any]]:
    """ImageNet's, for configs that only pretrain, at the size that the backbone names."""
    size = config.model.get("backbone", {}).get("img_size", 224)
    edge = size if isinstance(size, int) else max(size)
    return [
        {"type": "ResizeEdge", "scale": round(edge / 0.875), "edge": "short"},
        {"type": "CenterCrop", "crop_size": size},
        {"type": "PackInputs"},
    ]


def _grey_picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (256, 256), "grey")


def _numbers(preprocessor: nn.Module, name: str, count: int, otherwise: float) -> tuple[float, ...]:
    found = getattr(preprocessor, name, None)
    return tuple(found.flatten().tolist()) if isinstance(found, Tensor) else (otherwise,) * count


def _classes(config: Any, loaded: Loaded) -> Sequence[str]:
    """Of the checkpoint, else of the config's data set, else of the data set's class."""
    stored = loaded.meta.get("dataset_meta") or {}
    found = stored.get("classes") if isinstance(stored, Mapping) else None
    found = found or loaded.meta.get("CLASSES")
    dataset = (config.get("test_dataloader") or config.get("val_dataloader") or {}).get("dataset", {})
    found = found or (dataset.get("metainfo") or {}).get("classes") or dataset.get("classes")
    if not found and "type" in dataset:
        kind = framework("mmpretrain.registry", "mmpretrain").DATASETS.get(dataset["type"])
        found = (getattr(kind, "METAINFO", None) or {}).get("classes")
    return () if isinstance(found, str) else tuple(str(name) for name in found or ())
