"""Models of torchvision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.probe import Batch, Kind, Subject
from torchloupe.sources.assemble import Options, channels, finish, framework, split_spec, unknown
from torchloupe.sources.preparation import Preparation, resize_crop


def torchvision(rest: str, options: Options) -> Subject:
    """torchvision:NAME?key=value; random weights unless some are given.

    The picture is prepared as for the model's default weights, and their class names are used.
    Errors: BadInput for an unknown name.
    """
    models = framework("torchvision.models", "torchvision")
    name, arguments = split_spec(rest)
    if name not in models.list_models():
        raise unknown(options.spec, name, models.list_models(), "torchvision")
    if arguments.get("weights") or arguments.get("weights_backbone"):
        raise BadInput(f"{options.spec}: weights are never downloaded; give their file with --weights")
    family = models.get_model_builder(name).__module__
    kind: Kind = "detector" if ".detection" in family else "segmenter" if ".segmentation" in family else "classifier"
    if ".detection" in family or ".segmentation" in family:
        arguments["weights_backbone"] = None
    arguments["weights"] = None
    try:
        module = models.get_model(name, **arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{options.spec}: {error}") from error
    weights = models.get_model_weights(name)
    entry = getattr(weights, "DEFAULT", None)
    preset = entry.transforms() if entry is not None else None
    classes = entry.meta.get("categories", ()) if entry is not None else ()
    if kind == "detector":
        from torchloupe.sources.detectors import torchvision_detector

        return torchvision_detector(module, options, classes)
    if kind == "segmenter":
        preparation: Preparation | None = _segmentation(preset, options)
    elif ".video" in family:
        example, frame = _clip(preset, family, options), _frame(preset, options)
        return finish(module, options, None, classes=classes, kind=kind, example=example, frame=frame)
    else:
        preparation = _preset(preset, options) if _is_classification(preset) else _plain(module, options)
    return finish(
        module, options, preparation, classes=classes, kind=kind, notes={"preparation": " ".join(str(preset).split())}
    )


def _clip(preset: Any, family: str, options: Options) -> Batch:
    """A clip of as many frames as these networks are trained on, for the default layer."""
    h, w = options.hw or (preset.crop_size[0], preset.crop_size[-1])
    frames = 16 if family.rpartition(".")[2] in ("mvit", "swin_transformer", "s3d") else 8
    return Batch(torch.zeros(1, 3, frames, h, w), Layout("n c t h w"))


def _frame(preset: Any, options: Options) -> Preparation:
    """How a frame of a video becomes (c, h, w), as in the preset."""
    h, w = preset.crop_size[0], preset.crop_size[-1]
    if options.hw:
        old, (h, w) = preset.crop_size[-1], options.hw
        preset.resize_size = [round(side * max(h, w) / old) for side in preset.resize_size]
        preset.crop_size = [h, w]
    preset.mean, preset.std = list(options.mean or preset.mean), list(options.std or preset.std)

    def steps(image: Any) -> Tensor:
        frame = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
        return torch.as_tensor(preset(frame[None]))[:, 0]

    return Preparation(steps, (3, h, w), tuple(preset.mean), tuple(preset.std))


def given(module: nn.Module, options: Options) -> Subject | None:
    """A detector of torchvision that is already built; None for any other module."""
    if ".detection." not in type(module).__module__ or not hasattr(module, "transform"):
        return None
    from torchloupe.sources.detectors import torchvision_detector

    return torchvision_detector(module, options, ())


def _is_classification(preset: Any) -> bool:
    return all(hasattr(preset, name) for name in ("crop_size", "resize_size", "mean", "std"))


def _plain(module: Any, options: Options) -> Preparation | None:
    count = channels(module)
    return resize_crop((count, *(options.hw or (224, 224))), options.mean, options.std) if count in (1, 3) else None


def _segmentation(preset: Any, options: Options) -> Preparation:
    """The whole picture, its shorter side as long as in training, or of the size that was asked for."""
    if options.hw:
        preset.resize_size = list(options.hw)
    preset.mean, preset.std = list(options.mean or preset.mean), list(options.std or preset.std)

    def steps(image: Any) -> Tensor:
        return torch.as_tensor(preset(image))

    return Preparation(steps, (3, *(options.hw or (256, 256))), tuple(preset.mean), tuple(preset.std))


def _preset(preset: Any, options: Options) -> Preparation:
    crop = preset.crop_size[-1]
    h, w = options.hw or (crop, crop)
    if options.hw:
        preset.resize_size = [round(max(h, w) * preset.resize_size[0] / crop)]
        preset.crop_size = [h, w]
    preset.mean, preset.std = list(options.mean or preset.mean), list(options.std or preset.std)

    def steps(image: Any) -> Tensor:
        return torch.as_tensor(preset(image))

    return Preparation(steps, (3, h, w), tuple(preset.mean), tuple(preset.std))
