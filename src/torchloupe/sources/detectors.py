"""Detectors and segmenters of mmdet and its relatives, torchvision and transformers, all with one output: Detections."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchloupe.errors import BadInput, LoupeWarning, MissingPackage, nearest, need
from torchloupe.probe import Batch, Subject
from torchloupe.shadow import shadowed
from torchloupe.sources import patches
from torchloupe.sources.assemble import Loaded, Options, finish, framework, load_weights
from torchloupe.sources.openmmlab import FROM_A_FILE, _import, forget_pretrained, told
from torchloupe.sources.preparation import Preparation
from torchloupe.subjects import read_first
from torchloupe.targets.boxes import Detections
from torchloupe.trace import Trace, default_layers, tracing

EXTRA = "mmdet"
LOADING = (*FROM_A_FILE, "LoadAnnotations", "LoadPanopticAnnotations")
SMALL = (3, 256, 256)


def repository(rest: str, options: Options) -> Subject:
    """mmdet:CONFIG.py, and mmseg, mmyolo, mmrotate, ... alike: the network of an OpenMMLab config, with random weights unless
    some are given. A config is found as a file, or by its name among those that the repository is installed with.

    A config file is Python: reading it runs its code. Pretrained weights that it names are not fetched. A picture goes
    through the config's own test pipeline and data preprocessor; boxes are in pixels of what comes out.
    Errors: BadInput for a config that is absent or broken; MissingPackage.
    Differs: padding counts as picture, so that boxes can be drawn on the input.
    """
    repo = options.spec.partition(":")[0]
    framework("mmengine", EXTRA)
    library = _library(repo)
    config = config_of(library, rest, options)
    if options.size is not None or options.mean or options.std:
        raise BadInput(f"{options.spec}: size, mean and std are the config's; change them with cfg_options")
    forget_pretrained(config.model)
    scope = framework("mmengine.registry", EXTRA).DefaultScope.overwrite_default_scope
    with scope(repo), told(options):
        module = framework(f"{repo}.registry", EXTRA).MODELS.build(config.model)
        sample, preparation, said = _preparation(repo, module, config)
    loaded = load_weights(module, options)
    detects = hasattr(module, "bbox_head") or hasattr(module, "roi_head") or "Detector" in _lineage(module)
    call = partial(_predict, sample=sample) if detects else _tensor
    if detects and not patches.operators_built():
        call = _before_boxes
        warnings.warn(
            f"{options.spec}: mmcv without its compiled operators: no boxes, only what the network holds before them",
            LoupeWarning,
            stacklevel=4,
        )
    made = finish(
        module,
        replace(options, layers=options.layers if options.layers is not None else ()),
        None,
        classes=_classes(repo, config, loaded),
        kind="detector" if detects else "segmenter",
        loaded=loaded,
        notes={"preparation": said, "cfg_options": dict(options.cfg_options)},
        call=call,
        read=_as_it_is if detects else read_first,
    )
    layers = made.layers or _backbone_layer(module, lambda: call(module, Batch(_zeros(module))))
    return replace(made, layers=layers, prepare=partial(preparation.batch, module=module))


def torchvision_detector(module: nn.Module, options: Options, classes: Sequence[str]) -> Subject:
    """A detector of torchvision: it takes pictures as they are and resizes and normalises them itself."""

    def steps(image: Any) -> Tensor:
        image = image.convert("RGB")
        if options.hw:
            image = image.resize(options.hw[::-1], 2)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)

    patches.torchvision()
    preparation = Preparation(steps, SMALL, (0.0,) * 3, (1.0,) * 3)
    return _detector(
        module,
        options,
        preparation,
        classes,
        _list,
        "the picture itself, 0..1",
        lambda: module(list(_zeros(module))),
    )


def transformers_detector(
    module: nn.Module, options: Options, preparation: Preparation, classes: Sequence[str], notes: dict[str, Any]
) -> Subject:
    """A detector of the DETR family: every query is a detection, with its best class."""
    said = str(notes.get("preparation", ""))
    zeros = torch.zeros(1, *preparation.size)
    made = _detector(module, options, preparation, classes, _queries, said, lambda: module(_zeros(module, zeros)))
    return replace(made, notes={**made.notes, **notes})


def _detector(
    module: nn.Module,
    options: Options,
    preparation: Preparation,
    classes: Sequence[str],
    call: Any,
    said: str,
    look: Any,
) -> Subject:
    chosen = replace(options, layers=options.layers if options.layers is not None else ())
    seams = {"call": call, "read": _as_it_is}
    made = finish(module, chosen, None, classes=classes, kind="detector", notes={"preparation": said}, **seams)
    layers = made.layers or _backbone_layer(module, look)
    return replace(made, layers=layers, prepare=partial(preparation.batch, module=module))


def _as_it_is(output: Any) -> Any:
    return output


def _zeros(module: nn.Module, like: Tensor | None = None) -> Tensor:
    first = next(module.parameters())
    zeros = torch.zeros(1, *SMALL) if like is None else like
    return zeros.to(first.device, first.dtype)


def _backbone_layer(module: nn.Module, look: Any) -> tuple[str, ...]:
    """The last stage of the backbone, which sees the whole picture at one resolution; () where there is none."""
    try:
        with shadowed(module, itself=True), torch.no_grad(), tracing(module) as trace:
            look()
    except Exception as error:  # a stranger's forward may fail in any way, and a subject is of use without its defaults
        said = " ".join(str(error).split())[:200]
        warnings.warn(f"no default layer, as one forward of zeros failed: {said}", LoupeWarning, stacklevel=4)
        return ()
    inside = [v for v in trace.visits if "backbone" in v.name.split(".")[:-1] and "fpn" not in v.name.split(".")]
    found = next(default_layers(Trace(inside), 1, (1, *SMALL[1:])), None)
    return (found,) if found else ()


def _list(module: nn.Module, batch: Batch) -> list[Detections]:
    """torchvision: a list of pictures in, a list of dictionaries out."""
    return [Detections(one["boxes"], one["scores"], one["labels"]) for one in module(list(batch.x))]


def _queries(module: nn.Module, batch: Batch) -> list[Detections]:
    """transformers: logits (n, queries, classes [+ no object]) and centre boxes (n, queries, 4) on 0..1."""
    output = module(batch.x)
    softmax = hasattr(module.config, "eos_coefficient") and not hasattr(module.config, "two_stage")
    share = output.logits.softmax(-1)[..., :-1] if softmax else output.logits.sigmoid()
    scores, labels = share.max(-1)
    h, w = batch.size[1:]
    x, y, wide, tall = output.pred_boxes.unbind(-1)
    boxes = torch.stack([(x - wide / 2) * w, (y - tall / 2) * h, (x + wide / 2) * w, (y + tall / 2) * h], -1)
    return [Detections(*one) for one in zip(boxes, scores, labels, strict=True)]


def _predict(module: nn.Module, batch: Batch, *, sample: type) -> list[Detections]:
    """mmdet: predictions in pixels of the input."""
    h, w = batch.x.shape[-2:]
    about = {"img_shape": (h, w), "ori_shape": (h, w), "pad_shape": (h, w), "batch_input_shape": (h, w)}
    samples = [sample(metainfo={**about, "scale_factor": (1.0, 1.0)}) for _ in range(batch.n)]
    with _attached(), Rows():
        found = [one.pred_instances for one in module(batch.x, samples, mode="predict")]
    return [Detections(upright(one.bboxes), one.scores, one.labels) for one in found]


def upright(boxes: Any) -> Tensor:
    """Boxes of any kind of OpenMMLab -> (m, 4): rotated ones (middle, width, height, angle) by the upright box around them."""
    raw: Tensor = getattr(boxes, "tensor", boxes)
    if raw.shape[-1] != 5:
        return raw
    x, y, w, h, angle = raw.unbind(-1)
    cosine, sine = angle.cos().abs(), angle.sin().abs()
    wide, tall = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
    return torch.stack([x - wide, y - tall, x + wide, y + tall], -1)


class Rows(TorchFunctionMode):
    """Rows of a tensor in a graph are copies: mmyolo changes them in place, which autograd refuses."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.unbind and args[0].requires_grad:
            tensor, dim = args[0], (kwargs or {}).get("dim", args[1] if len(args) > 1 else 0)
            return tuple(tensor.select(dim, i).clone() for i in range(tensor.shape[dim]))
        return func(*args, **(kwargs or {}))


@contextmanager
def _attached() -> Iterator[None]:
    """mmdet's dense heads cut their predictions off the graph when they choose a level's; inside here they do not."""
    name = "select_single_mlvl"
    homes = [m for key, m in list(sys.modules.items()) if key.startswith("mmdet.models.") and name in vars(m)]
    kept = [vars(home)[name] for home in homes]
    try:
        for home, original in zip(homes, kept, strict=True):
            setattr(home, name, partial(_undetached, original))
        yield
    finally:
        for home, original in zip(homes, kept, strict=True):
            setattr(home, name, original)


def _undetached(select: Any, levels: Any, index: int, detach: bool = True) -> Any:
    return select(levels, index, detach=False)


def _tensor(module: nn.Module, batch: Batch) -> Any:
    """mmseg and others: what the heads give, without post-processing."""
    return module(batch.x, mode="tensor")


def _before_boxes(module: nn.Module, batch: Batch) -> Any:
    """A detector of OpenMMLab without mmcv's operators: its backbone and neck, and its dense head where that calls none."""
    extract: Any = getattr(module, "extract_feat", None)
    if extract is None:
        return _tensor(module, batch)
    held = extract(batch.x)
    head: Any = getattr(module, "rpn_head" if hasattr(module, "rpn_head") else "bbox_head", None)
    if head is None or not {"SingleStageDetector", "TwoStageDetector"} & set(_lineage(module).split()):
        return held
    try:
        return head(held)
    except MissingPackage:
        return held


def _lineage(module: nn.Module) -> str:
    return " ".join(kind.__name__ for kind in type(module).__mro__)


def _library(repo: str) -> Any:
    try:
        with patches.absent_operators():
            if find_spec("mmpretrain") is not None:
                # mmdet takes backbones from mmpretrain where it is installed, and breaks where that one does.
                _import()
            patches.deformable_attention()
            library = patches.imported(repo)
            register = getattr(import_module(f"{repo}.utils"), "register_all_modules", None)
            if register is not None:
                register(init_default_scope=False)
    except AssertionError as error:
        raise BadInput(f"{repo} cannot be imported: {' '.join(str(error).split())}") from error
    except ModuleNotFoundError as error:
        if "mmcv" in str(error):
            raise BadInput(
                f"{repo} needs mmcv with its compiled operators, and {' '.join(str(error).split())}; see docs/features.md "
                "for how to build it"
            ) from error
        if error.name == repo:
            raise need(repo, EXTRA) from error
        raise BadInput(f"{repo} cannot be imported: it needs {error.name}, which is not installed") from error
    except (RuntimeError, ImportError, AttributeError) as error:
        raise BadInput(f"{repo} cannot be imported: {' '.join(str(error).split())[:200]}") from error
    return library


def config_of(library: Any, rest: str, options: Options) -> Any:
    """A config of an OpenMMLab repository, from a file or by its name among those that are installed; overrides laid over.

    Errors: BadInput for one that is absent, broken or without a model.
    """
    path = Path(rest).expanduser()
    home = Path(library.__file__).parent / ".mim" / "configs"
    if not path.is_file():
        name = rest if rest.endswith(".py") else f"{rest}.py"
        hits = [home / name] if (home / name).is_file() else sorted(home.rglob(Path(name).name))
        if not hits:
            known = (one.stem for one in home.rglob("*.py"))
            raise BadInput(
                f"{options.spec}: no such config file, and none of that name is installed.{nearest(path.stem, known)}"
            )
        path = hits[0]
    else:
        warnings.warn(f"{path}: a Python config; its code was run", LoupeWarning, stacklevel=4)
    with told(options):
        config = framework("mmengine", EXTRA).Config.fromfile(path)
        config.merge_from_dict(dict(options.cfg_options))
    if "model" not in config:
        raise BadInput(f"{options.spec}: the config has no 'model'")
    return config


def _preparation(repo: str, module: Any, config: Any) -> tuple[type, Preparation, str]:
    loader = config.get("test_dataloader") or config.get("val_dataloader")
    if loader is None:
        raise BadInput("the config has no test_dataloader, so nothing says how a picture is prepared")
    dataset = loader.dataset
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset.dataset
    pipeline = [step for step in dataset.pipeline if step["type"].rpartition(".")[2] not in LOADING]
    registry = framework(f"{repo}.registry", EXTRA).TRANSFORMS
    transforms = [registry.build(step) for step in pipeline]
    preprocessor = module.data_preprocessor

    def packed(image: Any) -> Any:
        array = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        shape = array.shape[:2]
        data: Any = {"img": array, "img_shape": shape, "ori_shape": shape, "img_id": 0, "img_path": ""}
        for transform in transforms:
            data = transform(data)
        return data

    def steps(image: Any) -> Tensor:
        data = packed(image)
        with torch.no_grad():
            held = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
            return preprocessor(held, False)["inputs"][0].cpu()

    mean, std = (_numbers(preprocessor, name, otherwise) for name, otherwise in (("mean", 0.0), ("std", 1.0)))
    bgr = not any(getattr(preprocessor, name, False) for name in ("_channel_conversion", "channel_conversion"))
    said = " ".join(str(step["type"]) for step in pipeline) + f", {type(preprocessor).__name__}"
    from PIL import Image

    sample = type(packed(Image.new("RGB", (64, 48), "grey"))["data_samples"])
    return sample, Preparation(steps, SMALL, mean, std, 1.0, bgr), said


def _numbers(preprocessor: nn.Module, name: str, otherwise: float) -> tuple[float, ...]:
    found = getattr(preprocessor, name, None)
    return tuple(found.flatten().tolist()) if isinstance(found, Tensor) else (otherwise,) * 3


def _classes(repo: str, config: Any, loaded: Loaded) -> tuple[str, ...]:
    """Of the checkpoint, else of the config's data set, else of the data set's class."""
    stored = loaded.meta.get("dataset_meta")
    found = (stored.get("classes") or stored.get("CLASSES")) if isinstance(stored, dict) else None
    dataset = (config.get("test_dataloader") or config.get("val_dataloader") or {}).get("dataset", {})
    found = found or (dataset.get("metainfo") or {}).get("classes")
    if not found:
        kind = framework(f"{repo}.registry", EXTRA).DATASETS.get(dataset.get("type", ""))
        found = (getattr(kind, "METAINFO", None) or {}).get("classes", ())
    return () if isinstance(found, str) else tuple(str(name) for name in found)
