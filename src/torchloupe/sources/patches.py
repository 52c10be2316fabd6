"""The one room for patches of other people's packages: each is a no-op where the package is healthy.

torchvision whose build is for another torch gets what it lacks for good, since without it its import fails. All else is
undone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import ceil, floor
from threading import RLock
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torchloupe.named
from torchloupe.errors import BadInput, LoupeWarning, MissingPackage

OPERATORS = "mmcv._ext"
_LOCK = RLock()
_SUPPLIED: list[torch.library.Library] = []  # a schema lasts as long as its library object


def imported(name: str) -> Any:
    """import_module(name); where that fails for want of torchvision's operators, they are supplied and it is tried again."""
    try:
        return import_module(name)
    except Exception as error:
        if not lacks_operators(error):
            raise
    torchvision()
    return import_module(name)


def named(text: str, what: str) -> Any:
    """As torchloupe.named.imported, with torchvision's operators supplied where the module or file asks for them."""
    try:
        return torchloupe.named.imported(text, what)
    except BadInput as error:
        if not lacks_operators(error):
            raise
    torchvision()
    return torchloupe.named.imported(text, what)


def operators_built() -> bool:
    """Whether mmcv has its compiled operators, or somebody put others in their place."""
    return OPERATORS in sys.modules or (find_spec("mmcv") is not None and find_spec(OPERATORS) is not None)


@contextmanager
def absent_operators() -> Iterator[None]:
    """While mmdet or mmpose is imported, mmcv's compiled operators may be absent: data sets and most networks only name them.

    What was imported so fails when such an operator is called, not before.
    """
    if operators_built() or find_spec("mmcv") is None:
        deformable_attention()
        yield
        return
    sys.modules[OPERATORS] = _NoOperators(OPERATORS)
    deformable_attention()
    try:
        yield
    finally:
        del sys.modules[OPERATORS]


class _NoOperators(ModuleType):
    """In the place of mmcv's compiled operators: every name is there, and raises when called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def absent(*_: Any, **__: Any) -> Any:
            raise MissingPackage(
                f"this needs mmcv's compiled operator {name}; mmcv-lite has none, install mmcv >= 2.0.1, < 2.2"
            )

        return absent


def deformable_attention() -> None:
    """mmcv leaves a layer out of a module that was imported without its compiled operators, which mmdet names on import: it is put
    there, from mmcv itself. It can be built; without the operators it raises when it is called."""
    home = sys.modules.get("mmcv.cnn.bricks.transformer")
    name = "MultiScaleDeformableAttention"
    if home is not None and not hasattr(home, name):
        setattr(home, name, getattr(import_module("mmcv.ops.multi_scale_deform_attn"), name))


@contextmanager
def coco_tools(tools: Callable[[str], Any]) -> Iterator[None]:
    """While mmpose is imported and its network built: pycocotools where xtcocotools, its fork, does not load.

    tools: how a module of pycocotools is imported, with an error that says how to install it.
    """
    placed: dict[str, Any] = {}
    if "xtcocotools" not in sys.modules and not _loads("xtcocotools.mask"):
        placed = {f"xtcocotools{part}": tools(f"pycocotools{part}") for part in ("", ".coco", ".cocoeval", ".mask")}
    sys.modules.update(placed)
    try:
        yield
    finally:
        for name in placed:
            sys.modules.pop(name, None)


def _loads(name: str) -> bool:
    before = set(sys.modules)
    try:
        import_module(name)
    except (ImportError, ValueError, OSError):
        # what came in before the failure would be taken for the whole
        for half in set(sys.modules) - before:
            if half.startswith(name.partition(".")[0]):
                del sys.modules[half]
        return False
    return True


@contextmanager
def as_they_were() -> Iterator[None]:
    """While ultralytics is imported: what it puts in the place of others' functions then, and sets for the whole process, is undone.

    Its PIL.Image.open installs a package from the network where a picture is in no known format.
    """
    from PIL import Image

    opening, saving = Image.open, torch.save
    printing, numbers = dict(vars(torch._tensor_str.PRINT_OPTS)), np.get_printoptions()
    with suppress(ImportError):
        import cv2
    threads = cv2.getNumThreads() if "cv2" in sys.modules else 0
    try:
        yield
    finally:
        Image.open, torch.save = opening, saving  # type: ignore[assignment]
        torch.set_printoptions(**printing)
        np.set_printoptions(**numbers)
        if "cv2" in sys.modules:
            cv2.setNumThreads(threads)


@contextmanager
def no_tensorboard() -> Iterator[None]:
    """An empty SummaryWriter where TensorBoard is absent: nothing is logged here."""
    name = "torch.utils.tensorboard"
    if _loads(name):
        yield
        return
    stand_in = ModuleType(name)
    stand_in.SummaryWriter = type("SummaryWriter", (), {})  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def lacks_operators(error: BaseException | None) -> bool:
    """Whether this error comes from a torchvision that was built for another torch, and so lacks its compiled operators."""
    said = ("operator torchvision::", "partially initialized module 'torchvision' has no attribute 'extension'")
    while error is not None:
        if any(part in str(error) for part in said):
            return True
        error = error.__cause__ or error.__context__
    return False


def torchvision() -> None:
    """Imports torchvision, where it is installed, and gives it what a build for another torch lacks, with one warning.

    nms and RoIAlign run in plain torch then, on any device; its other operators say that they are absent, as before.
    """
    with _LOCK:
        if _SUPPLIED or find_spec("torchvision") is None:
            return
        try:
            _forget_half()
            library = import_module("torchvision")
        except Exception as error:
            if not lacks_operators(error):
                return  # whoever needs it will say so
            _forget_half()
            _define()
            library = import_module("torchvision")
        if library.extension._has_ops():
            return
        _define()
        _SUPPLIED[0].impl("nms", nms, "CompositeExplicitAutograd")
        boxes, roi = import_module("torchvision.ops.boxes"), import_module("torchvision.ops.roi_align")
        vars(boxes)["_assert_has_ops"] = lambda: None
        # its own way out goes through torch.compile: a C++ compiler, half a minute, and gigabytes a picture
        vars(roi).update(_roi_align=roi_align, is_compile_supported=lambda _device: True)
        warnings.warn(
            f"torchvision {library.__version__} was built for another torch than {torch.__version__}: its operators are "
            "missing, so nms and RoIAlign run in plain torch, slower; install the torchvision made for this torch",
            LoupeWarning,
            stacklevel=3,
        )


def _forget_half() -> None:
    """What an import of torchvision that failed has left would be taken for the whole."""
    if "torchvision" not in sys.modules:
        for half in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[half]


def _define() -> None:
    """The schemas that torchvision's import asks for, where they are undefined."""
    if _SUPPLIED:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SUPPLIED.append(library)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: boxes (k, 4) as x1, y1, x2, y2, scores (k,) -> numbers of those that stay, best first.

    A box goes where its intersection over union with a better one that stays is above the threshold.
    """
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order]
    area = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).prod(1)
    stays = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if not stays[i]:
            continue
        rest = sorted_boxes[i + 1 :]
        corner, other = torch.maximum(sorted_boxes[i, :2], rest[:, :2]), torch.minimum(sorted_boxes[i, 2:], rest[:, 2:])
        both = (other - corner).clamp(min=0).prod(1)
        stays[i + 1 :] &= ~(both / (area[i] + area[i + 1 :] - both) > iou_threshold)
    return order[stays]


def roi_align(
    x: Tensor, boxes: Tensor, scale: float, rows: int, columns: int, samples: int = -1, aligned: bool = False
) -> Tensor:
    """Mean of bilinear samples in every cell of a grid over a box: x (n, c, h, w), boxes (k, 5) -> (k, c, rows, columns).

    boxes: number of the picture, x1, y1, x2, y2, times scale. samples: a cell's samples a side; below 1: as many as it
    has pixels. aligned: pixel centres lie at .5. The samples form a grid and bilinear weights are products, so that a
    box is (rows, h) @ x @ (w, columns), over the pixels that it touches. No gradient goes to the boxes.
    Source: He et al. 2017, Mask R-CNN, ICCV, arXiv:1703.06870.
    """
    made: Tensor = _RoIAlign.apply(x, boxes.detach(), scale, rows, columns, samples, aligned)  # type: ignore[no-untyped-call]
    return made


class _RoIAlign(torch.autograd.Function):
    """Box by box, so that no more than the answer and one gradient is ever held."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, boxes: Tensor, scale: float, rows: int, columns: int, samples: int, aligned: bool
    ) -> Tensor:
        made = x.new_empty(len(boxes), x.shape[1], rows, columns)
        places = []
        for number, box in enumerate(boxes.double().tolist()):
            left, top, right, bottom = (side * scale - (0.5 if aligned else 0.0) for side in box[1:])
            high, down = _weights(top, bottom, rows, x.shape[2], samples, aligned)
            wide, across = _weights(left, right, columns, x.shape[3], samples, aligned)
            places.append((int(box[0]), high, wide, down.to(x), across.to(x)))
            picture, high, wide, down, across = places[-1]
            made[number] = down @ x[picture, :, high, wide] @ across.T
        ctx.places, ctx.shape = places, x.shape
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        whole = grad.new_zeros(ctx.shape)
        for got, (picture, high, wide, down, across) in zip(grad, ctx.places, strict=True):
            whole[picture, :, high, wide] += down.T @ got @ across
        return whole, None, None, None, None, None, None


def _weights(begin: float, end: float, cells: int, size: int, samples: int, aligned: bool) -> tuple[slice, Tensor]:
    """The pixels of a line that a box touches, and (cells, pixels): how much of each goes into each cell."""
    length = end - begin if aligned else max(end - begin, 1.0)
    count = samples if samples > 0 else max(ceil(length / cells), 0)
    offsets = (torch.arange(count, dtype=torch.float64) + 0.5) / max(count, 1)
    place = begin + (torch.arange(cells, dtype=torch.float64)[:, None] + offsets) * length / cells
    first = min(max(floor(min(begin, begin + length)), 0), size - 1)
    last = min(max(ceil(max(begin, begin + length)), first), size - 1)
    pixel = torch.arange(first, last + 1, dtype=torch.float64)
    inside = ((place >= -1) & (place <= size))[..., None]
    hat = (1 - (place.clamp(0, size - 1)[..., None] - pixel).abs()).clamp(min=0) * inside
    return slice(first, last + 1), hat.sum(1) / max(count, 1)
