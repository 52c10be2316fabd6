"""Models of ultralytics: YOLO detectors, segmenters and pose estimators as detectors, and classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, UnsafeFile
from torchloupe.probe import Batch, Subject
from torchloupe.sources.assemble import Options, finish, framework, split_spec
from torchloupe.sources.detectors import _as_it_is, upright
from torchloupe.sources.patches import as_they_were, nms
from torchloupe.sources.preparation import Preparation, resize_crop
from torchloupe.targets.boxes import Detections
from torchloupe.targets.pose import Anchored

GREY = 114
MOST, SAME = 300, 0.7


def ultralytics(rest: str, options: Options) -> Subject:
    """ultralytics:NAME.yaml with random weights, or FILE.pt; detection, oriented boxes, segmentation, pose, classification.

    A .pt file of ultralytics is a pickled module, which is code: it is read with unsafe_load only.
    A picture keeps its sides' ratio and is padded with grey to 640 x 640, or to the size that is asked for; boxes are in pixels
    of that. Of several detections of one thing the best stays (overlap above 0.7).
    Errors: BadInput for a name that ultralytics does not have; UnsafeFile for a .pt file; MissingPackage.
    """
    name, arguments = split_spec(rest)
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml", ".pt"):
        raise BadInput(f"{options.spec}: expected NAME.yaml, such as yolov8n.yaml, or FILE.pt")
    if path.suffix == ".pt" and not path.is_file():
        raise BadInput(
            f"{path}: no such file; nothing is downloaded. {path.stem}.yaml gives the network with random weights"
        )
    if path.suffix == ".pt" and not options.unsafe_load:
        raise UnsafeFile(
            f"{path}: a .pt file of ultralytics is a pickled module, which runs code when it is read; pass --unsafe-load if you trust "
            f"its maker, or save its state_dict() and give {path.stem}.yaml --weights FILE"
        )
    with as_they_were():
        maker = framework("ultralytics", "ultralytics").YOLO  # imported when it is first named
    try:
        whole = maker(str(path), verbose=False)
        module = whole.model.float()
    except (FileNotFoundError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise BadInput(f"{options.spec}: {' '.join(str(error).split())[:200]}") from error
    if arguments:
        raise BadInput(f"{options.spec}: no options are known here, found {', '.join(arguments)}")
    return _subject(module, str(whole.task), options)


def poser(rest: str, options: Options) -> Subject:
    """A pose model of ultralytics about one person: crops of people in, the joints at every anchor out (`targets.pose.Anchored`).

    What answers for the person of a crop is the surest detection whose box holds the crop's middle, of all where none does.
    Crops are on 0..1, their sides multiples of the coarsest stride.
    Errors: as `ultralytics`; BadInput for a model of another task, or a size that does not fit.
    """
    made = ultralytics(rest, replace(options, size=options.size or (256, 192)))
    module: Any = made.module
    head = module.model[-1]
    if made.notes.get("task") != "pose":
        task = made.notes.get("task", "classify")
        raise BadInput(f"{options.spec}: its task is {task!r}; give a pose model, such as yolov8n-pose.yaml")
    h, w = options.hw or (256, 192)
    step = int(max(head.stride))
    if h % step or w % step:
        raise BadInput(f"{options.spec}: crops of {w} x {h} do not fit; sides are multiples of {step}, such as 192 256")
    return replace(made, kind="pose", call=partial(_anchored, size=(h, w)), classes=())


def _anchored(module: Any, batch: Batch, *, size: tuple[int, int]) -> Anchored:
    """Every anchor's joints, see `poser`; (n, 4 + classes + joints, anchors), or (n, boxes, 6 + joints) of heads that need
    no suppression."""
    found = module(batch.x)
    while isinstance(found, (tuple, list)):
        found = found[0]
    head = module.model[-1]
    joints, numbers = head.kpt_shape
    if getattr(head, "end2end", False):
        low, high, person, rest = found[..., :2], found[..., 2:4], found[..., 4], found[..., 6:]
    else:
        found = found.transpose(1, 2)
        middle, sides = found[..., :2], found[..., 2:4]
        low, high = middle - sides / 2, middle + sides / 2
        person, rest = found[..., 4 : 4 + head.nc].amax(-1), found[..., 4 + head.nc :]
    triples = rest.unflatten(-1, (joints, numbers))
    sure = triples[..., 2] if numbers == 3 else person[..., None].expand(triples.shape[:-1])
    centre = found.new_tensor([size[1] / 2, size[0] / 2])
    holds = ((low <= centre) & (centre <= high)).all(-1)
    return Anchored(triples[..., :2], sure, person + holds)


def decoded(subject: Subject, batch: Batch, order: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Joints (n, j, 2) in pixels of the input and their confidences (n, j); with order the mean of the crop and of its
    mirror image, left and right exchanged."""
    with subject.asked() as own, torch.no_grad():
        at, sure = own.output(batch).at()
        if order is not None:
            mirrored, too = own.output(batch.at(batch.x.flip(-1))).at()
            mirrored = mirrored[:, list(order)]
            width = batch.x.shape[-1]
            back = torch.stack([width - mirrored[..., 0], mirrored[..., 1]], -1)
            at, sure = (at + back) / 2, (sure + too[:, list(order)]) / 2
    return at.double().cpu(), sure.double().cpu()


def given(module: nn.Module, options: Options) -> Subject | None:
    """A network of ultralytics that is already built, or the YOLO around it; None for a part of one."""
    if type(module).__name__ == "YOLO":
        module = module.model  # type: ignore[assignment]
    task = {"DetectionModel": "detect", "SegmentationModel": "segment", "PoseModel": "pose", "OBBModel": "obb"}.get(
        type(module).__name__, "classify" if type(module).__name__ == "ClassificationModel" else ""
    )
    return _subject(module, task, options) if task else None


def _subject(module: Any, task: str, options: Options) -> Subject:
    names = getattr(module, "names", None) or {}
    classes = [str(names[i]) for i in sorted(names)] if isinstance(names, Mapping) else list(map(str, names))
    if all(name == str(i) for i, name in enumerate(classes)):
        classes = []
    layer = f"model.{len(module.yaml['backbone']) - 1}"
    if task == "classify":
        h, w = options.hw or (224, 224)
        preparation = resize_crop((3, h, w), options.mean or (0.0,) * 3, options.std or (1.0,) * 3, crop=1.0)
        return finish(
            module,
            options,
            preparation,
            classes=classes,
            read=_logits,
            notes={"preparation": f"resize, crop {h} x {w}, 0..1"},
        )
    if options.mean or options.std:
        raise BadInput(f"{options.spec}: these networks take pictures on 0..1; --mean and --std have no place here")
    h, w = options.hw or (640, 640)
    preparation = Preparation(partial(_padded, size=(h, w)), (3, h, w), (0.0,) * 3, (1.0,) * 3)
    made = finish(
        module,
        Options(**{**vars(options), "layers": options.layers if options.layers is not None else (layer,)}),
        None,
        classes=classes,
        kind="detector",
        call=partial(_detections, angle=task == "obb"),
        read=_as_it_is,
        notes={"preparation": f"kept in ratio, grey to {h} x {w}, 0..1", "task": task},
    )
    return Subject(**{**vars(made), "prepare": partial(preparation.batch, module=module)})


def _logits(output: Any) -> Tensor:
    """In eval mode (probabilities, logits), in training the logits."""
    found: Tensor = output[1] if isinstance(output, (tuple, list)) else output
    return found


def _padded(image: Any, size: tuple[int, int]) -> Tensor:
    """(3, h, w) on 0..1: the picture at its own ratio in the middle of grey."""
    from PIL import Image

    image, (h, w) = image.convert("RGB"), size
    factor = min(h / image.height, w / image.width)
    high, wide = max(1, round(image.height * factor)), max(1, round(image.width * factor))
    whole = Image.new("RGB", (w, h), (GREY,) * 3)
    whole.paste(image.resize((wide, high), Image.Resampling.BILINEAR), ((w - wide) // 2, (h - high) // 2))
    return torch.from_numpy(np.asarray(whole, dtype=np.float32) / 255).permute(2, 0, 1)


def _detections(module: Any, batch: Batch, *, angle: bool) -> list[Detections]:
    """What the head decodes: (n, 4 + classes + more, places), or (n, boxes, 6 + more) where it needs no suppression."""
    found = module(batch.x)
    while isinstance(found, (tuple, list)):
        found = found[0]
    head = module.model[-1]
    if getattr(head, "end2end", False):
        return [Detections(one[:, :4], one[:, 4], one[:, 5].long()) for one in found]
    made = []
    for one in found.transpose(1, 2):
        middle, sides = one[:, :2], one[:, 2:4]
        boxes = torch.cat([middle - sides / 2, middle + sides / 2], 1)
        if angle:
            boxes = upright(torch.cat([middle, sides, one[:, -1:]], 1))
        scores, labels = one[:, 4 : 4 + head.nc].max(1)
        best = scores.detach().topk(min(MOST, len(scores))).indices
        apart = labels[best, None] * (2 * boxes.detach().abs().max() + 1)  # classes do not suppress each other
        kept = best[nms(boxes.detach()[best] + apart, scores.detach()[best], SAME)]
        made.append(Detections(boxes[kept], scores[kept], labels[kept]))
    return made
