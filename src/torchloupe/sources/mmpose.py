"""Top-down pose estimators of mmpose, from its config files: heatmaps, or coordinates in pixels of the input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchloupe.data.bodies import Crop
from torchloupe.errors import BadInput, MissingPackage
from torchloupe.probe import Batch, Subject
from torchloupe.shadow import shadowed
from torchloupe.sources import patches
from torchloupe.sources.assemble import Options, finish, framework, load_weights
from torchloupe.sources.detectors import config_of
from torchloupe.sources.openmmlab import _import, forget_pretrained, told
from torchloupe.sources.preparation import Preparation, resize_crop
from torchloupe.trace import Trace, default_layers, tracing

Array = NDArray[Any]
# (batch, joints with left and right exchanged for a flip test, or None) -> joints (n, j, 2) in input pixels, confidences (n, j)
Decode = Callable[[Batch, Sequence[int] | None], tuple[Tensor, Tensor]]

EXTRA = "mmpose"
INSTALL = (
    "pip install 'torchloupe[mmpose]' and then pip install --no-deps 'mmpose>=1.3,<1.4' (its requirement chumpy cannot be "
    "built by today's pip, and no network needs it)"
)


@dataclass(frozen=True)
class Estimator:
    """A network of mmpose, what its test pipeline feeds it, and how its codec reads joints from what it gives.

    flip: whether the config tests with the mirrored picture. root, annotations: of the config's test data. sigmas: of its
    joints in OKS, where its data set says them. kind: wholebody for data sets of COCO-WholeBody, else "".
    """

    subject: Subject
    crop: Crop
    decode: Decode
    flip: bool
    root: str
    annotations: str
    sigmas: tuple[float, ...] = ()
    kind: str = ""


def mmpose(rest: str, options: Options) -> Subject:
    """mmpose:CONFIG.py, a top-down pose estimator; see `estimator`."""
    return estimator(rest, options).subject


def estimator(rest: str, options: Options) -> Estimator:
    """A top-down estimator from a config file, or from its name among those that mmpose is installed with; random weights
    unless some are given.

    A config file is Python: reading it runs its code. Pretrained weights that it names are not fetched. Sizes, colours,
    padding and UDP come from the config's test pipeline and data preprocessor. Heatmaps are scaled to peaks of 1. A head
    that classifies coordinates (SimCC, RTMPose) is read as the expectation of softmax(beta * logits), beta that of its
    loss; a head that regresses shares of the picture is read in pixels.
    Errors: BadInput for a config that is absent, broken or not top-down; MissingPackage.
    """
    options = replace(options, spec=options.spec or f"mmpose:{rest}")
    with patches.coco_tools(lambda name: framework(name, EXTRA)), patches.absent_operators():
        config = config_of(_library(), rest, options)
        if options.size is not None or options.mean or options.std:
            raise BadInput(f"{options.spec}: size, mean and std are the config's; change them with cfg_options")
        loader = config.get("test_dataloader") or config.get("val_dataloader") or {}
        dataset = loader.get("dataset", {})
        pad, warp = (_step(dataset, name, options.spec) for name in ("GetBBoxCenterScale", "TopdownAffine"))
        forget_pretrained(config.model)
        config.model.pop("train_cfg", None)
        scope = framework("mmengine.registry", EXTRA).DefaultScope.overwrite_default_scope
        with scope("mmpose"), told(options):
            built = framework("mmpose.registry", EXTRA).MODELS.build(config.model)
            module = framework("mmengine.model", EXTRA).revert_sync_batchnorm(built)
            joints, sigmas = _joints(dataset)
    head = next((part for part in module.modules() if getattr(part, "decoder", None) is not None), None)
    if head is None:
        raise BadInput(f"{options.spec}: {type(module).__name__} has no head with a decoder of joints")
    codec = head.decoder
    crop = _crop(module.data_preprocessor, codec, pad, warp)
    loaded = load_weights(module, options)
    subject = finish(
        module,
        replace(options, layers=options.layers if options.layers is not None else _layers(module, crop)),
        _preparation(crop),
        classes=joints,
        kind="pose",
        loaded=loaded,
        notes={"cfg_options": dict(options.cfg_options)},
        call=_call,
        read=partial(_read, codec=codec, size=crop.size, beta=_beta(head), height=_peak(codec)[0]),
    )
    root = str(dataset.get("data_root") or "")
    return Estimator(
        subject,
        crop,
        partial(_decoded, module, crop.size),
        bool(module.test_cfg.get("flip_test", False)),
        root,
        str(Path(root) / dataset["ann_file"]) if dataset.get("ann_file") else "",
        sigmas,
        "wholebody" if dataset.get("type") == "CocoWholeBodyDataset" else "",
    )


def _library() -> Any:
    framework("mmengine", EXTRA)
    if find_spec("mmpose") is None:
        raise MissingPackage(f"mmpose is not installed: {INSTALL}")
    if find_spec("mmpretrain") is not None:
        # mmdet and ViTPose take backbones from mmpretrain where it is installed, and break where that one does.
        _import()
    try:
        library = framework("mmpose", EXTRA)
    except AssertionError as error:
        raise BadInput(f"mmpose cannot be imported: {' '.join(str(error).split())}") from error
    framework("mmpose.models", EXTRA)
    return library


def _step(dataset: Any, name: str, spec: str) -> Any:
    """The step of the test pipeline; data sets that wrap others have theirs, or the wrapped one has."""
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset.dataset
    found = next((step for step in dataset.get("pipeline", ()) if step["type"] == name), None)
    if found is None:
        raise BadInput(
            f"{spec}: its test pipeline has no {name}, so that it is no top-down estimator; models that find all people of a "
            "picture at once, and those that lift joints to 3D, are not read"
        )
    return found


def _joints(dataset: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """(names of the joints, their sigmas) from the meta information of the config's data set; () where it has none."""
    kind = framework("mmpose.registry", EXTRA).DATASETS.get(str(dataset.get("type")))
    about = dataset.get("metainfo") or getattr(kind, "METAINFO", None)
    if not about:
        return (), ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it takes its own copy of a file that is not where the config says
        try:
            found = framework("mmpose.datasets.datasets.utils", EXTRA).parse_pose_metainfo(dict(about))
        except OSError:
            return (), ()
    names = found["keypoint_id2name"]
    return tuple(names[joint] for joint in sorted(names)), tuple(float(one) for one in found["sigmas"])


def _crop(preprocessor: Any, codec: Any, pad: Any, warp: Any) -> Crop:
    width, height = (int(side) for side in warp["input_size"])
    heatmap = getattr(codec, "heatmap_size", (width // 4, height // 4))
    sigma = np.ravel(getattr(codec, "sigma", 2.0))
    mean, std = (_colours(preprocessor, name, otherwise) for name, otherwise in (("mean", 0.0), ("std", 1.0)))
    return Crop(
        size=(width, height),
        heatmap=(int(heatmap[0]), int(heatmap[1])),
        sigma=float(sigma[0]) if hasattr(codec, "heatmap_size") else 2.0,
        rgb=bool(getattr(preprocessor, "_channel_conversion", False)),
        padding=float(pad.get("padding", 1.25)),
        mean=mean,
        std=std,
        udp=bool(warp.get("use_udp", False)),
        subpixel=hasattr(codec, "heatmap_size") and _peak(codec)[1],
        whole_box=True,
    )


def _colours(preprocessor: Any, name: str, otherwise: float) -> tuple[float, float, float]:
    """In the order of the network's channels, on the range 0..1."""
    held = getattr(preprocessor, name, None)
    values = held.flatten().tolist() if isinstance(held, Tensor) else [otherwise]
    first, second, third = (value / 255 for value in (values * 3 if len(values) == 1 else values))
    return first, second, third


def _preparation(crop: Crop) -> Preparation:
    """Whole pictures, for commands that do not crop people."""
    size = (3, crop.size[1], crop.size[0])
    if crop.rgb:
        return resize_crop(size, crop.mean, crop.std)
    base = resize_crop(size, crop.mean[::-1], crop.std[::-1])
    return Preparation(lambda image: base.steps(image).flip(0), size, crop.mean, crop.std, bgr=True)


def _layers(module: Any, crop: Crop) -> tuple[str, ...]:
    """What joints are read from: the upsampled features where there are some, else the backbone's last stage."""
    if list(getattr(module.head, "deconv_layers", nn.Identity()).children()):
        return ("head.deconv_layers",)
    first, size = next(module.parameters()), (crop.size[1], crop.size[0])
    with shadowed(module) as net, torch.no_grad(), tracing(net) as trace:
        net(torch.zeros(1, 3, *size, dtype=first.dtype, device=first.device), None, mode="tensor")
    inside = Trace([visit for visit in trace.visits if visit.name.startswith("backbone.")])
    return tuple(islice(default_layers(inside, 1, (1, *size)), 1))


def _peak(codec: Any) -> tuple[float, bool]:
    """(height of the codec's own heatmap at a joint, whether it stands between the pixels where the joint does)."""
    if not hasattr(codec, "heatmap_size"):
        return 1.0, False
    middle = np.array(codec.heatmap_size) // 2
    heights = []
    for offset in (0.0, 0.25):
        joint = ((middle + offset) * codec.scale_factor).astype(np.float32)[None, None]
        encoded = codec.encode(keypoints=joint, keypoints_visible=np.ones((1, 1), np.float32))
        heights.append(float(np.max(encoded["heatmaps"])))
    return heights[0], heights[1] < 0.999 * heights[0]


def _call(module: nn.Module, batch: Batch) -> Any:
    return module(batch.x, None, mode="tensor")


def _beta(head: Any) -> float:
    """The factor on a head's logits in its own loss, so that their softmax is what was trained."""
    return float(getattr(getattr(head, "loss_module", None), "beta", 1.0))


def _read(output: Any, *, codec: Any, size: tuple[int, int], beta: float, height: float) -> Tensor:
    """Heatmaps (n, j, h, w) with peaks of 1, or coordinates (n, j, 2) in pixels of the input."""
    while isinstance(output, list):
        output = output[-1]
    parts = output if isinstance(output, tuple) else (output,)
    first = parts[0]
    if isinstance(first, Tensor) and first.ndim == 4:
        # UDP's combined form has two channels of offsets behind every heatmap
        return (first[:, ::3] if getattr(codec, "heatmap_type", "") == "combined" else first) / height
    if isinstance(first, Tensor) and first.ndim == 3:
        split = getattr(codec, "simcc_split_ratio", None)
        if split is not None:
            return torch.stack([_expected(bins, beta) for bins in parts[:2]], -1) / split
        if first.shape[-1] >= 2:
            return first[..., :2] * first.new_tensor(size)
    shown = ", ".join(str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts)
    raise BadInput(f"mmpose's head gave {shown}; expected heatmaps, two classifications of coordinates, or coordinates")


def _expected(logits: Tensor, beta: float) -> Tensor:
    """sum_i i softmax(beta * logits)_i over the bins (n, j, bins) -> (n, j)."""
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return ((beta * logits).softmax(-1) * bins).sum(-1)


def _decoded(module: Any, size: tuple[int, int], batch: Batch, order: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """What mmpose itself predicts: its head's codec on its features, with its flip test."""
    first = next(module.parameters())
    x = batch.x.to(first.device, first.dtype)
    about = framework("mmpose.structures", EXTRA).PoseDataSample(metainfo={"flip_indices": order, "input_size": size})
    config = {**module.test_cfg, "flip_test": order is not None, "output_heatmaps": False}
    net: Any
    with shadowed(module) as net, torch.no_grad():
        features = net.extract_feat(x)
        if order is not None:
            features = [features, net.extract_feat(x.flip(-1))]
        found = net.head.predict(features, [about] * batch.n, test_cfg=config)
    joints = np.concatenate([np.asarray(one.keypoints)[..., :2] for one in found])
    scores = np.concatenate([np.asarray(one.keypoint_scores) for one in found])
    return torch.from_numpy(joints).double(), torch.from_numpy(scores).double().reshape(joints.shape[:2])
