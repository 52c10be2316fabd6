"""Models of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.probe import Batch, Subject
from torchloupe.sources import patches
from torchloupe.sources.assemble import Options, channels, finish, framework, split_spec
from torchloupe.sources.preparation import Preparation, resize_crop
from torchloupe.sources.recordings import Sound
from torchloupe.sources.speakers import is_speaker, speaker
from torchloupe.sources.texts import of_transformers
from torchloupe.store import sha256

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def transformers(rest: str, options: Options) -> Subject:
    """transformers:FOLDER saved by save_pretrained (weights may be absent: random), a model type with random weights, such as
    transformers:vit?image_size=64, or a hub name that is already in the local cache. Code from the hub is never run.

    Errors: BadInput for a folder without config.json, a name that is neither a type nor in the cache, or unknown options.
    """
    patches.torchvision()  # transformers hides what goes wrong when it imports torchvision
    library = framework("transformers", "transformers")
    name, arguments = split_spec(rest)
    folder = Path(name).expanduser()
    if name in library.CONFIG_MAPPING and not (folder / "config.json").is_file():
        config, source, found = _default_config(library, name, arguments, options), None, False
    else:
        source = str(folder) if folder.is_dir() else name
        config, found = _stored_config(library, source, arguments, options)
    module, notes = _build(library, config, source, found, options)
    return _finish(module, source, options, notes)


def given(module: nn.Module, options: Options) -> Subject | None:
    """A model of transformers that is already built; None for a part of one."""
    patches.torchvision()
    return _finish(module, None, options, {}) if hasattr(getattr(module, "config", None), "model_type") else None


def _default_config(library: Any, name: str, arguments: Mapping[str, Any], options: Options) -> Any:
    config = library.CONFIG_MAPPING[name]()
    if options.hw and hasattr(config, "image_size") and "image_size" not in arguments:
        h, w = options.hw
        arguments = {**arguments, "image_size": h if h == w else (h, w)}
    wrong = [key for key in arguments if not hasattr(config, key)]
    if wrong:
        raise BadInput(f"{options.spec}: {name} has no option {wrong[0]!r}.{nearest(wrong[0], config.to_dict())}")
    try:
        return library.CONFIG_MAPPING[name](**arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{options.spec}: {' '.join(str(error).split())}") from error


def _stored_config(library: Any, source: str, arguments: Mapping[str, Any], options: Options) -> tuple[Any, bool]:
    """The configuration of a folder or a cached hub name, and whether weights lie beside it."""
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise BadInput(f"{source}: no config.json in this folder; expected a model saved by save_pretrained")
    try:
        config = library.AutoConfig.from_pretrained(source, local_files_only=True, **arguments)
    except Exception as error:  # a damaged file makes transformers raise what it likes
        if Path(source).is_dir():
            raise BadInput(f"{source}/config.json: {' '.join(str(error).split())[:200]}") from error
        raise BadInput(
            f"{options.spec}: {source!r} is neither a folder, nor a model type, nor in the local cache, and nothing is downloaded."
            f"{nearest(source, library.CONFIG_MAPPING)}"
        ) from error
    folder = Path(source)
    return config, not folder.is_dir() or any((folder / name).is_file() for name in WEIGHTS)


def _build(
    library: Any, config: Any, source: str | None, stored: bool, options: Options
) -> tuple[nn.Module, dict[str, Any]]:
    kind = _class(library, config)
    if not stored:
        if source is not None and options.weights is None:
            warnings.warn(f"{source}: no weights in this folder, the model is random", LoupeWarning, stacklevel=4)
        try:
            return kind._from_config(config), {}
        except Exception as error:  # sizes that do not fit, or that no memory has
            raise BadInput(f"{options.spec}: {' '.join(str(error).split())[:200]}") from error
    try:
        module, info = kind.from_pretrained(
            source, config=config, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # safetensors, pickle and transformers raise their own kinds for a broken file
        raise BadInput(f"{source}: the weights cannot be loaded ({' '.join(str(error).split())[:200]})") from error
    return module, {"weights": _note(str(source), info)}


def _class(library: Any, config: Any) -> Any:
    """The class that the configuration names, else the classifier, detector or segmenter of its type, else the bare model."""
    for name in getattr(config, "architectures", None) or ():
        if hasattr(library, name):
            return getattr(library, name)
    tasks = (
        "ImageClassification",
        "ObjectDetection",
        "SemanticSegmentation",
        "VideoClassification",
        "AudioClassification",
        "ImageTextToText",
    )
    for auto in (*(getattr(library, f"AutoModelFor{task}") for task in tasks), library.AutoModel):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            return found[0] if isinstance(found, (tuple, list)) else found
    raise BadInput(f"{config.model_type}: transformers has no model of this type that takes a picture")


def _note(source: str, info: Mapping[str, Any]) -> dict[str, Any]:
    report = {
        name: sorted(str(key) for key in info.get(f"{name}_keys", ()))
        for name in ("missing", "unexpected", "mismatched")
    }
    lost = [*report["missing"], *report["mismatched"]]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        warnings.warn(
            f"{source}: {len(lost)} weights are not in the file and stay random ({', '.join(lost[:3])}{more}); what comes "
            "behind them cannot be trusted",
            LoupeWarning,
            stacklevel=5,
        )
    files = [Path(source) / name for name in WEIGHTS if (Path(source) / name).is_file()]
    digest = {"sha256": sha256(files[0])} if files else {}
    return {"path": str(files[0]) if files else source, **digest, "report": {**report, "trusted": not lost}}


def _finish(module: nn.Module, source: str | None, options: Options, notes: dict[str, Any]) -> Subject:
    config = module.config
    if is_speaker(module):
        return speaker(finish(module, options, None, notes=notes), source)
    names = getattr(config, "id2label", None) or {}
    example = _example(config, options)
    frame = sound = None
    if example is None:
        preparation, said = _preparation(module, source, options)
    elif example.layout.pattern == "n t c h w":
        preparation, (frame, said) = None, _frame(module, source, options, example)
    else:
        preparation, (sound, said) = None, _sound(source, config, example)
    classifies = "Classification" in type(module).__name__
    segments = "SemanticSegmentation" in type(module).__name__
    poses = "PoseEstimation" in type(module).__name__
    if "ObjectDetection" in type(module).__name__ and preparation is not None:
        from torchloupe.sources.detectors import transformers_detector

        found = [str(names[i]) for i in sorted(names)]
        return transformers_detector(module, options, preparation, found, {**notes, "preparation": said})
    plain = all(str(name) == f"LABEL_{i}" for i, name in names.items())
    return finish(
        module,
        options,
        preparation,
        classes=[] if plain or not (classifies or segments) else [str(names[i]) for i in sorted(names)],
        kind="classifier" if classifies else "segmenter" if segments else "pose" if poses else "embedder",
        notes={**notes, "preparation": said},
        example=example,
        frame=frame,
        sound=sound,
        tower=of_transformers(module, source),
        **_called(module),
    )


def _called(module: nn.Module) -> dict[str, Any]:
    """How a model is called that wants more than its picture: of two towers the picture's, unless the text is given; experts."""
    taken = signature(module.forward).parameters
    if hasattr(module, "get_image_features") and "input_ids" in taken:
        return {"call": _two_towers}
    if "dataset_index" in taken and _experts(module) > 1:
        warnings.warn(
            "this pose model has experts for several data sets; the first is asked, another by Batch(extra={'dataset_index': ...})",
            LoupeWarning,
            stacklevel=5,
        )
        return {"call": _first_expert}
    return {}


def _experts(module: nn.Module) -> int:
    return int(getattr(getattr(module.config, "backbone_config", None), "num_experts", 1) or 1)


def _two_towers(module: Any, batch: Batch) -> Any:
    """CLIP and its kin: with input_ids the picture against each text (n, texts), without them the picture's embedding."""
    more = {**batch.extra, **batch.shared}
    if "input_ids" in more:
        return module(pixel_values=batch.x, **more).logits_per_image
    found = module.get_image_features(pixel_values=batch.x, **more)
    return found if isinstance(found, Tensor) else found.pooler_output


def _first_expert(module: Any, batch: Batch) -> Any:
    index = torch.zeros(batch.n, dtype=torch.long, device=batch.x.device)
    return module(batch.x, **{"dataset_index": index, **batch.extra, **batch.shared})


def _example(config: Any, options: Options) -> Batch | None:
    """What a model of videos or spectrograms takes; None for one of pictures."""
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length") and hasattr(config, "patch_size"):
        return Batch(torch.zeros(1, config.max_length, config.num_mel_bins), Layout("n h w"))
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    if not isinstance(frames, int) or (not hasattr(config, "patch_size") and not hasattr(config, "tubelet_size")):
        return None
    h, w = options.hw or _picture_size(config) or (224, 224)
    return Batch(torch.zeros(1, frames, getattr(config, "num_channels", None) or 3, h, w), Layout("n t c h w"))


def _preparation(module: Any, source: str | None, options: Options) -> tuple[Preparation | None, str]:
    """The model's own image processor: the stored one, else the default of its type at the model's picture size."""
    processor, stored = _processor(source, module.config)
    if processor is not None and "boxes" in signature(processor.preprocess).parameters:
        # pose models crop people out of the picture; what they are fed is a crop already
        processor = None
    hw = options.hw or _picture_size(module.config) or (224, 224)
    count = getattr(module.config, "num_channels", None) or channels(module)
    if processor is None or count != 3:
        if count not in (1, 3):
            return None, "none"
        made = resize_crop((count, *hw), options.mean, options.std)
        return made, f"resize, crop {made.size[1:]}, mean {made.mean}, std {made.std}"
    if not stored or options.size is not None:
        _resize(processor, hw)
    _normalised(processor, options)
    return _processed(processor, hw, lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0])


def _processed(processor: Any, hw: tuple[int, int], steps: Callable[[Any], Any]) -> tuple[Preparation, str]:
    """What a processor of transformers does to a picture, and how it is undone."""
    normal = bool(getattr(processor, "do_normalize", False))
    # offset: 1 is taken off behind the scaling
    above = float(bool(getattr(processor, "offset", False)))
    mean = tuple(value + above for value in processor.image_mean) if normal else (above,) * 3
    std = tuple(processor.image_std) if normal else (1.0,) * 3
    factor = processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
    size = tuple(steps(_grey(hw)).shape)
    made = Preparation(lambda image: torch.as_tensor(steps(image)), size, mean, std, 1 / factor)  # type: ignore[arg-type]
    return made, f"{type(processor).__name__}, {size[1]} x {size[2]}"


def _frame(module: Any, source: str | None, options: Options, example: Batch) -> tuple[Preparation | None, str]:
    """How a frame of a video is prepared: by the model's own processor of videos, else by resize, crop and normalise."""
    hw = (example.size[1], example.size[2])
    count = example.x.shape[2]
    if count not in (1, 3):
        return None, "none"
    processor, stored = _processor(source, module.config)
    if processor is None or count != 3 or "videos" not in signature(processor.preprocess).parameters:
        made = resize_crop((count, *hw), options.mean, options.std)
        return made, f"resize, crop {hw}, mean {made.mean}, std {made.std}"
    if not stored or options.size is not None:
        _resize(processor, hw)
    _normalised(processor, options)
    return _processed(processor, hw, lambda image: processor([image], return_tensors="pt")["pixel_values"][0, 0])


def _normalised(processor: Any, options: Options) -> None:
    if options.mean:
        processor.image_mean = list(options.mean)
    if options.std:
        processor.image_std = list(options.std)


def _sound(source: str | None, config: Any, example: Batch) -> tuple[Sound | None, str]:
    """How a sound becomes what the model takes: by its own feature extractor."""
    auto = framework("transformers.models.auto.feature_extraction_auto", "transformers")
    extractor = None
    if source is not None:
        with suppress(OSError, ValueError, KeyError, ImportError):
            extractor = auto.AutoFeatureExtractor.from_pretrained(source, local_files_only=True)
    if extractor is None and type(config) in auto.FEATURE_EXTRACTOR_MAPPING:
        fitting = {"num_mel_bins": "num_mel_bins", "max_length": "max_length"}
        kind = auto.FEATURE_EXTRACTOR_MAPPING[type(config)]
        extractor = kind(**{name: getattr(config, own) for name, own in fitting.items() if hasattr(config, own)})
    if extractor is None:
        return None, "none: arrays are taken as they are"

    def features(signal: np.ndarray, rate: int) -> Tensor:
        if rate != extractor.sampling_rate:
            raise BadInput(
                f"{rate} steps a second; this model hears {extractor.sampling_rate}: convert the sound (ffmpeg -i in.wav -ar "
                f"{extractor.sampling_rate} out.wav)"
            )
        found = extractor(signal.mean(0), sampling_rate=rate, return_tensors="pt")
        return torch.as_tensor(next(iter(found.values())))

    return features, type(extractor).__name__


def _grey(hw: tuple[int, int]) -> Any:
    from PIL import Image

    return Image.new("RGB", (hw[1], hw[0]), "grey")


def _processor(source: str | None, config: Any) -> tuple[Any, bool]:
    """The image processor stored beside the model, else the default one of its type, or None; and whether it was stored."""
    auto = framework("transformers.models.auto.image_processing_auto", "transformers")
    if source is not None:
        try:
            return auto.AutoImageProcessor.from_pretrained(source, local_files_only=True, trust_remote_code=False), True
        except (OSError, ValueError, KeyError, ImportError):
            pass  # none is stored beside the model: its type's default follows
    if type(config) not in auto.IMAGE_PROCESSOR_MAPPING:
        return None, False
    found = auto.IMAGE_PROCESSOR_MAPPING[type(config)]
    kinds = found.values() if isinstance(found, dict) else found
    for kind in kinds:
        try:
            return kind(), False
        except (TypeError, ImportError):
            continue
    return None, False


def _picture_size(config: Any) -> tuple[int, int] | None:
    size = next((getattr(config, name) for name in ("image_size", "crop_size") if getattr(config, name, None)), None)
    if size is None and getattr(config, "vision_config", None) is not None:
        return _picture_size(config.vision_config)
    if isinstance(size, int):
        return size, size
    return (size[0], size[1]) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _resize(processor: Any, hw: tuple[int, int]) -> None:
    """Make a processor give pictures of this size, in the way that it already works."""
    h, w = hw
    cropped = bool(getattr(processor, "do_center_crop", False))
    edge = dict(getattr(processor, "size", None) or {})
    if cropped:
        processor.crop_size = {"height": h, "width": w}
        before = edge.get("shortest_edge", max(h, w))
        old = 224
        processor.size = (
            {"shortest_edge": round(max(h, w) * max(1.0, before / old))}
            if "shortest_edge" in edge
            else {"height": h, "width": w}
        )
    elif "shortest_edge" in edge and h == w:
        processor.size = {"shortest_edge": h, **({"longest_edge": h} if "longest_edge" in edge else {})}
    else:
        processor.size = {"height": h, "width": w}
