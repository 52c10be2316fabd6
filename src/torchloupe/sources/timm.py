"""Models of timm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.probe import Batch, Kind, Subject
from torchloupe.sources.assemble import Options, finish, framework, split_spec, unknown
from torchloupe.sources.preparation import Preparation


def timm(rest: str, options: Options) -> Subject:
    """timm:NAME?key=value, or timm:FOLDER with a config.json; random weights unless some are given.

    Errors: BadInput for an unknown name, or one that would be fetched from a hub.
    """
    library = framework("timm", "timm")
    name, arguments = split_spec(rest)
    if name.startswith(("hf-hub:", "hf_hub:")):
        raise BadInput(
            f"{options.spec}: would be downloaded; give timm's own name of the model, and its file as weights"
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder}: no config.json in this folder; expected a model saved by timm")
        name = f"local-dir:{folder}"
    elif not library.is_model(name):
        raise unknown(options.spec, name, library.list_models(), "timm")
    return _prepared(_create(library, name, arguments, options), options)


def _create(library: Any, name: str, arguments: dict[str, Any], options: Options) -> nn.Module:
    sized = {"img_size": options.hw} if options.hw and "img_size" not in arguments else {}
    for extra in [sized, {}] if sized else [{}]:
        try:
            return library.create_model(name, pretrained=False, **extra, **arguments)
        except TypeError as error:
            if not (extra and "img_size" in str(error)):
                raise BadInput(f"{options.spec}: {error}") from error
        except (RuntimeError, ValueError, AssertionError) as error:
            raise BadInput(f"{options.spec}: {error}") from error
    raise AssertionError("the last attempt returns or raises")


def given(module: nn.Module, options: Options) -> Subject | None:
    """A model of timm that is already built; None for a part of one."""
    return _prepared(module, options) if hasattr(module, "pretrained_cfg") else None


def _prepared(module: Any, options: Options) -> Subject:
    count = _channels(module)
    kind: Kind = "classifier" if getattr(module, "num_classes", 0) else "embedder"
    if count not in (1, 3):
        h, w = options.hw or _fixed_size(module) or module.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
        return finish(module, options, None, kind=kind, example=Batch(torch.zeros(1, count, h, w)))
    data = framework("timm.data", "timm")
    config = data.resolve_data_config(_overrides(module, options), model=module)
    transform = data.create_transform(**config)
    size = tuple(config["input_size"])
    grey = size[0] == 1

    def steps(image: Any) -> Tensor:
        return torch.as_tensor(transform(image.convert("L" if grey else "RGB")))

    mean, std = tuple(config["mean"]), tuple(config["std"])
    subset = data.infer_imagenet_subset(module)
    names = data.ImageNetInfo(subset) if subset else None
    classes = [names.index_to_description(i) for i in range(names.num_classes())] if names else []
    return finish(
        module,
        options,
        Preparation(steps, size, mean, std),
        classes=classes,
        kind=kind,
        notes={"preparation": " ".join(str(transform).split())},
    )


def _overrides(module: Any, options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {}
    count = _channels(module)
    hw = options.hw or _fixed_size(module)
    if hw or count != 3:
        h, w = hw or module.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
        found["input_size"] = (count, h, w)
    for key in ("mean", "std"):
        value = getattr(options, key) or module.pretrained_cfg.get(key)
        if value and len(value) == 3 and count == 1:
            value = (sum(value) / 3,)
        if value:
            found[key] = tuple(value)
    return found


def _channels(module: Any) -> int:
    """Input channels: what the model says, else those of its first convolution."""
    count = getattr(module, "in_chans", None) or module.pretrained_cfg.get("input_size", (3,))[0]
    stem = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return int(stem.in_channels if stem is not None and stem.in_channels < 32 else count)


def _fixed_size(module: nn.Module) -> tuple[int, int] | None:
    """The picture size that the model was built for (ViT, Swin), where its patch embedding says so."""
    found = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return (found[0], found[1]) if isinstance(found, (tuple, list)) and len(found) == 2 else None
