"""What a data set says of a picture: labels, boxes, keypoints, masks and heatmaps out of whatever it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks
from torchloupe.sources.transforms import Look

IMAGE_KEYS = ("image", "img", "pixel_values", "inputs", "input", "x", "picture", "jpg", "png")
LABEL_KEYS = ("label", "labels", "target", "class", "gt_label", "y", "fine_label", "cls")


def fields(item: Any) -> dict[str, Any] | None:
    """The named values of a mapping, a dataclass, a named tuple or a plain object that has a picture; None else."""
    if isinstance(item, Mapping):
        return dict(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {one.name: getattr(item, one.name) for one in dataclasses.fields(item)}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return dict(zip(item._fields, item, strict=True))
    return dict(vars(item)) if any(key in getattr(item, "__dict__", {}) for key in IMAGE_KEYS) else None


def divided_item(item: Any) -> tuple[Any, Any]:
    """(picture, the rest) of what a data set gives: a tuple, a mapping, or the picture alone."""
    held = fields(item)
    if held is not None:
        key = next((key for key in IMAGE_KEYS if key in held), None)
        if key is None:
            # Under a name of its own: the first value that is a picture.
            key = next((key for key, value in held.items() if Look().pictures(value)), None)
        return (None if key is None else held[key]), {k: v for k, v in held.items() if k != key}
    if isinstance(item, (tuple, list)) and item:
        return item[0], item[1] if len(item) == 2 else item[1:]
    return item, None


def truth(target: Any, classes: Any) -> tuple[Marks, str]:
    """Marks and label of a target: a number, a name, a mapping of boxes, keypoints and masks, COCO annotations."""
    if isinstance(target, (list, tuple)) and target and isinstance(target[0], Mapping) and "bbox" in target[0]:
        edges = np.array([one["bbox"] for one in target], dtype=float).reshape(-1, 4)
        edges[:, 2:] += edges[:, :2]
        names = tuple(class_name(one.get("category_id", ""), classes) for one in target)
        points = [one["keypoints"] for one in target if one.get("keypoints")]
        keypoints = np.array(points, dtype=float).reshape(len(points), -1, 3) if points else None
        return Marks(edges, names, keypoints), ""
    if isinstance(target, (tuple, list)) and target and not isinstance(target[0], (int, float)):
        target = target[0]
    if not isinstance(target, Mapping):
        return Marks(), "" if target is None else class_name(target, classes)
    boxes = corners(
        next((target[key] for key in ("boxes", "bboxes", "gt_bboxes") if target.get(key) is not None), None)
    )
    labels = next((target[key] for key in LABEL_KEYS if target.get(key) is not None), None)
    many = boxes is not None and labels is not None and np.ndim(plain(labels)) == 1 and len(labels) == len(boxes)
    names = tuple(class_name(one, classes) for one in plain(labels)) if many and labels is not None else ()
    keypoints = plain(target.get("keypoints"))
    if keypoints is not None:
        keypoints = np.asarray(keypoints, float)
        keypoints = keypoints[None] if keypoints.ndim == 2 else keypoints
        if keypoints.shape[-1] == 2:
            keypoints = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], -1)
    masks = plain(next((target[key] for key in ("masks", "mask") if target.get(key) is not None), None))
    heat = plain(target.get("heatmaps", target.get("heatmap")))
    heat = None if heat is None else np.asarray(heat, float).reshape(-1, *np.shape(heat)[-2:]).max(0)
    label = "" if many or labels is None else class_name(labels, classes)
    return Marks(boxes, names, keypoints, None if masks is None else np.asarray(masks), heat), label


def corners(boxes: Any) -> np.ndarray | None:
    """Boxes as corners; torchvision's BoundingBoxes say in which format they are."""
    if boxes is None:
        return None
    form = str(getattr(getattr(boxes, "format", None), "value", getattr(boxes, "format", "XYXY"))).upper()
    found = np.asarray(plain(boxes), dtype=float).reshape(-1, 4).copy()
    if form == "XYWH":
        found[:, 2:] += found[:, :2]
    elif form == "CXCYWH":
        found[:, :2] -= found[:, 2:] / 2
        found[:, 2:] += found[:, :2]
    return found


def plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def class_name(label: Any, classes: Any) -> str:
    """A label as text; the name of its class where the data set tells names. A mixed label shows its shares."""
    label = plain(label)
    if isinstance(label, np.ndarray):
        if label.ndim == 0 or label.size == 1:
            label = label.reshape(-1)[0].item()
        elif label.ndim == 1 and label.dtype.kind == "f":
            shares = [k for k in np.argsort(-label)[:3].tolist() if label[k] > 0.005]
            return " + ".join(f"{class_name(k, classes)} {label[k]:.2f}" for k in shares)
        else:
            return ", ".join(class_name(one, classes) for one in label.tolist()[:4])
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and classes is not None:
        if isinstance(classes, Mapping):
            return str(classes.get(int(label), label))
        return str(classes[int(label)]) if 0 <= int(label) < len(classes) else str(label)
    return str(label) if isinstance(label, (int, float, str, np.number)) else ""
