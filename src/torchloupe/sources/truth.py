"""What a data set says of a picture: labels, boxes, keypoints, masks and heatmaps out of whatever it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks
from torchloupe.errors import BadInput, nearest
from torchloupe.sources.look import Look
from torchloupe.sources.poses import COCO_BODY, outline

IMAGE_KEYS = ("image", "img", "pixel_values", "inputs", "input", "x", "picture", "jpg", "jpeg", "png", "webp")
LABEL_KEYS = (
    "label",
    "labels",
    "target",
    "class",
    "gt_label",
    "y",
    "fine_label",
    "cls",
    "category",
    "class_labels",
    "categories",
)
BOX_KEYS = ("boxes", "bboxes", "gt_bboxes", "bbox")
MASK_KEYS = ("masks", "mask", "seg", "segmentation_mask", "semantic_mask")
# How four numbers make a box: corners, corner and size, middle and size; the last two as shares of the picture.
FORMS = ("xyxy", "xywh", "cxcywh", "shares", "yolo")
TURNED = ("xyxyxyxy", "cxcywhr", "xywhr")
# Classes of a label map that are no object: background, and what training ignores.
NO_OBJECT = (0, 255)


@dataclass(frozen=True)
class Truth:
    """What is known of one picture, the names of its classes, and what was taken for granted about it."""

    marks: Marks = field(default_factory=Marks)
    labels: tuple[str, ...] = ()
    said: str = ""

    @property
    def label(self) -> str:
        return ", ".join(self.labels)


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


def truth(target: Any, classes: Any = None, size: tuple[int, int] | None = None, form: str | None = None) -> Truth:
    """What a target says: a number, a name or several, a label map, boxes, a mapping of all these, COCO's or VOC's notes.

    size: (w, h) of the picture, which tells a label map from numbers and scales shares. form: one of FORMS for boxes that do
    not say how they are written.
    """
    if target is None:
        return Truth()
    found = _label_map(target, size)
    if found is not None:
        return Truth(Marks(masks=found, legend=named_map(found, classes)))
    if isinstance(target, Mapping):
        return _of_mapping(target, classes, size, form)
    if _annotations(target):
        return _coco(target, classes, size)
    yolo = _yolo(target, classes, size)
    if yolo is not None:
        return yolo
    value = plain(target)
    if form and isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 4:
        return Truth(Marks(box_corners(target, form, size)[0]))
    if isinstance(target, (tuple, list)) and any(_structured(part) for part in target):
        return _joined([truth(part, classes, size, form) for part in target])
    if isinstance(target, tuple) and len(target) > 1 and _numbers_or_none(target) is None:
        return truth(target[0], classes, size, form)
    return Truth(labels=label_names(target, classes))


def _structured(part: Any) -> bool:
    """Whether a part of a target is more than a number or a name."""
    return isinstance(part, Mapping) or hasattr(part, "getbands") or np.ndim(plain(part)) >= 2 or _annotations(part)


def _joined(found: Sequence[Truth]) -> Truth:
    """One truth out of several: of everything the first that is there; names that fit the boxes are theirs."""
    marks, labels = Marks(), tuple(name for one in found for name in one.labels)
    for one in found:
        for key in ("boxes", "names", "keypoints", "masks", "heat", "outlines", "legend", "bones", "joints"):
            value, old = getattr(one.marks, key), getattr(marks, key)
            if (old is None or (not isinstance(old, np.ndarray) and not old)) and value is not None:
                marks = replace(marks, **{key: value})
    if marks.boxes is not None and not marks.names and len(labels) == len(marks.boxes):
        marks, labels = replace(marks, names=labels), ()
    return Truth(marks, labels, "; ".join(dict.fromkeys(one.said for one in found if one.said)))


def _of_mapping(target: Mapping[str, Any], classes: Any, size: tuple[int, int] | None, form: str | None) -> Truth:
    inner = target.get("annotation")
    if isinstance(inner, Mapping) and ("object" in inner or "filename" in inner):
        return _voc(inner)
    said = ""
    objects = target.get("objects")
    if objects is not None:
        # Hugging Face: a mapping of lists, or a list of mappings.
        target = {**target, **(dict(objects) if isinstance(objects, Mapping) else _columns(objects))}
        if form is None and any(target.get(key) is not None for key in BOX_KEYS):
            form, said = "xywh", "objects.bbox taken for x y width height; --boxes says otherwise"
    notes = next((target[key] for key in ("annotations", "segments_info") if _annotations(target.get(key))), None)
    if notes is not None:
        return _coco(notes, classes, size)
    held = next((target[key] for key in BOX_KEYS if target.get(key) is not None), None)
    boxes, outlines = (None, ()) if held is None else box_corners(held, form, size)
    labels = next((target[key] for key in LABEL_KEYS if target.get(key) is not None), None)
    labels = plain(labels)
    many = boxes is not None and labels is not None and np.ndim(labels) == 1 and len(labels) == len(boxes)
    names = tuple(class_name(one, classes) for one in labels) if many and labels is not None else ()
    points = _keypoints(target.get("keypoints"))
    masks = plain(next((target[key] for key in MASK_KEYS if target.get(key) is not None), None))
    if isinstance(masks, (list, tuple)):
        masks = np.stack([np.asarray(plain(one)) for one in masks]) if masks else None
    masks = None if masks is None else np.asarray(masks)
    if masks is not None and masks.ndim == 3 and 1 in (masks.shape[0], masks.shape[2]) and masks.dtype != bool:
        masks = masks.reshape(max(masks.shape[0], masks.shape[1]) if masks.shape[0] != 1 else masks.shape[1], -1)
    legend = named_map(masks, classes) if masks is not None and masks.ndim == 2 and masks.dtype.kind in "iu" else {}
    heat = plain(target.get("heatmaps", target.get("heatmap")))
    heat = None if heat is None else np.asarray(heat, float).reshape(-1, *np.shape(heat)[-2:]).max(0)
    marks = Marks(boxes, names, points, masks, heat, outlines, legend, **body(points))
    return Truth(marks, () if many or labels is None else label_names(labels, classes), said)


def _columns(rows: Iterable[Any]) -> dict[str, list[Any]]:
    held = [row for row in rows if isinstance(row, Mapping)]
    return {key: [row.get(key) for row in held] for key in (held[0] if held else ())}


# --- notes of COCO and VOC, YOLO's rows -------------------------------------------------------------------------------


def _annotations(target: Any) -> bool:
    """Whether these are COCO's annotations, or the segments of its panoptic ones."""
    first = target[0] if isinstance(target, (list, tuple)) and target else None
    return isinstance(first, Mapping) and ("bbox" in first or "segmentation" in first or "keypoints" in first)


def _coco(notes: Sequence[Mapping[str, Any]], classes: Any, size: tuple[int, int] | None) -> Truth:
    """COCO's annotations: boxes x y width height, polygons, run lengths as masks, keypoints x y visible."""
    boxes, masks, outlines, points = [], [], [], []
    for one in notes:
        x, y, w, h = one.get("bbox") or _around(one)
        boxes.append([x, y, x + w, y + h])
        drawn: tuple[np.ndarray, ...] = ()
        shape = one.get("segmentation")
        if isinstance(shape, Mapping) and size is not None:
            masks.append(outline(shape, size[1], size[0]).astype(bool))
        elif isinstance(shape, (list, tuple)):
            drawn = tuple(np.asarray(line, float).reshape(-1, 2) for line in shape if len(line) >= 6)
        outlines.append(drawn)
        if one.get("keypoints"):
            points.append(np.asarray(one["keypoints"], float).reshape(-1, 3))
    names = tuple(class_name(one.get("category_id", one.get("category", "")), classes) for one in notes)
    places = np.stack(points) if points and len({len(one) for one in points}) == 1 else None
    found = Marks(np.array(boxes, float).reshape(-1, 4), names, places, np.stack(masks) if masks else None, None,
                  tuple(outlines) if any(outlines) else (), {}, **body(places))  # fmt: skip
    return Truth(found)


def _around(note: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width and height around the polygons or visible keypoints of a note that names no box; nothing without any."""
    shape, points = note.get("segmentation"), note.get("keypoints")
    if isinstance(shape, (list, tuple)) and shape:
        corners = np.concatenate([np.asarray(line, float).reshape(-1, 2) for line in shape])
    elif points:
        found = np.asarray(points, float).reshape(-1, 3)
        corners = found[found[:, 2] > 0][:, :2]
    else:
        return 0.0, 0.0, 0.0, 0.0
    (x, y), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return x, y, right - x, bottom - y


def _voc(note: Mapping[str, Any]) -> Truth:
    """The XML of Pascal VOC as torchvision reads it: boxes as the file has them, in pixels, corners."""
    objects = note.get("object") or []
    objects = objects if isinstance(objects, (list, tuple)) else [objects]
    edges = ("xmin", "ymin", "xmax", "ymax")
    framed = [one for one in objects if "bndbox" in one]
    boxes = [[float(one["bndbox"][edge]) for edge in edges] for one in framed]
    marks = Marks(np.array(boxes, float).reshape(-1, 4), tuple(str(one.get("name", "")) for one in framed))
    return Truth(marks, (), without_a_box(str(one.get("name", "")) for one in objects if "bndbox" not in one))


def without_a_box(names: Iterable[str]) -> str:
    """What to say of objects that name no box; "" where there are none."""
    found = ", ".join(dict.fromkeys(names))
    return f"objects without a box are not drawn: {found}" if found else ""


def _yolo(target: Any, classes: Any, size: tuple[int, int] | None) -> Truth | None:
    """Rows (class, cx, cy, w, h) or (picture, class, cx, cy, w, h) in shares of the picture, as YOLO's loaders give them.

    None for anything else: the last four must be shares, those before them whole numbers from 0.
    """
    value = plain(target)
    if (
        size is None
        or not isinstance(value, np.ndarray)
        or value.ndim != 2
        or value.shape[1] not in (5, 6)
        or not len(value)
    ):
        return None
    lead, shares = value[:, :-4], value[:, -4:]
    if value.dtype.kind != "f" or (lead % 1 != 0).any() or (lead < 0).any() or shares.min() < 0 or shares.max() > 1:
        return None
    names = tuple(class_name(int(one), classes) for one in lead[:, -1])
    said = "rows taken for class and middle, size in shares (YOLO)"
    return Truth(Marks(box_corners(shares, "yolo", size)[0], names), (), said)


# --- boxes, masks, points --------------------------------------------------------------------------------------------


def checked_form(form: str | None) -> str | None:
    """A form of boxes as it may be asked for. Errors: BadInput with the nearest one."""
    if form is not None and form not in FORMS:
        raise BadInput(f"--boxes {form}: expected one of {', '.join(FORMS)}.{nearest(form, FORMS)}")
    return form


def box_corners(
    held: Any, form: str | None = None, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[tuple[np.ndarray, ...], ...]]:
    """Boxes as corners (m, 4) in pixels, and the outlines of turned ones. Boxes of torchvision say how they are written, rows of five
    are middle, size and angle in radians (mmrotate), of eight four corners; otherwise form, corners by default."""
    own = getattr(held, "format", None)
    own = str(getattr(own, "value", own)).lower() if own is not None else None
    value = np.asarray(plain(getattr(held, "tensor", held)), dtype=float)
    value = value.reshape(len(value), -1) if value.size else value.reshape(-1, 4)
    form = own if own in (*FORMS, *TURNED) else form
    if value.shape[1] == 8:
        return _around_corners(value.reshape(-1, 4, 2))
    if value.shape[1] == 5 and form != "xywhr":
        return _around_corners(turned_corners(value, radians=form is None or form not in TURNED))
    if value.shape[1] == 5:
        # The corner that was the upper left one before the box was turned.
        x, y, w, h, angle = value.T
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        middle = np.stack([x + (w * cosine + h * sine) / 2, y + (h * cosine - w * sine) / 2, w, h, angle], 1)
        return _around_corners(turned_corners(middle, radians=False))
    boxes = value[:, :4].copy()
    if form in ("shares", "yolo") and size is not None:
        boxes *= np.tile(np.asarray(size, float), 2)
    if form == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    elif form in ("cxcywh", "yolo"):
        boxes[:, :2] -= boxes[:, 2:] / 2
        boxes[:, 2:] += boxes[:, :2]
    return boxes, ()


def turned_corners(boxes: np.ndarray, radians: bool = True) -> np.ndarray:
    """Middle, width, height and angle (m, 5), clockwise in the picture -> its four corners (m, 4, 2)."""
    x, y, w, h, angle = boxes.T
    angle = angle if radians else np.radians(-angle)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            np.stack([x + (a * w * cosine - b * h * sine) / 2, y + (a * w * sine + b * h * cosine) / 2], -1)
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ],
        1,
    )


def _around_corners(corners: np.ndarray) -> tuple[np.ndarray, tuple[tuple[np.ndarray, ...], ...]]:
    """Upright boxes around corners (m, k, 2), and the corners as outlines."""
    return np.concatenate([corners.min(1), corners.max(1)], 1), tuple((one,) for one in corners)


def _label_map(target: Any, size: tuple[int, int] | None) -> np.ndarray | None:
    """The numbers of a picture of classes: a PIL picture of one band, or whole numbers of the picture's own height and width."""
    if hasattr(target, "getbands"):
        return np.asarray(target) if len(target.getbands()) == 1 else None
    value = plain(target)
    if not isinstance(value, np.ndarray) or size is None or value.dtype.kind not in "iub":
        return None
    flat = value[0] if value.ndim == 3 and value.shape[0] == 1 else value
    return flat if flat.ndim == 2 and flat.shape == size[::-1] else None


def named_map(masks: np.ndarray, classes: Any) -> dict[int, str]:
    """Names of the classes in a label map, those that are no object left out."""
    if masks.ndim != 2 or masks.dtype.kind not in "iu":
        return {}
    return {int(k): class_name(int(k), classes) for k in np.unique(masks) if k not in NO_OBJECT}


def _keypoints(value: Any) -> np.ndarray | None:
    """(m, j, 3) out of (j, 2), (j, 3) or several; points without a third number are visible."""
    value = plain(value)
    if value is None or not len(value):
        return None
    points = np.asarray(value, float)
    if points.ndim == 1:
        points = points.reshape(-1, 3)
    points = points[None] if points.ndim == 2 else points
    return np.concatenate([points, np.ones_like(points[..., :1])], -1) if points.shape[-1] == 2 else points[..., :3]


def body(points: np.ndarray | None) -> dict[str, Any]:
    """The bones and names of COCO's seventeen joints, as Marks has them; nothing of other bodies."""
    known = points is not None and points.shape[1] == len(COCO_BODY.joints)
    return {"bones": COCO_BODY.bones, "joints": COCO_BODY.joints} if known else {}


def plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


# --- names of classes ------------------------------------------------------------------------------------------------


def label_names(label: Any, classes: Any = None) -> tuple[str, ...]:
    """The names of one class or of several: a number, a name, numbers of classes, or one 0 or 1 for each class.

    Marks for each class are told from numbers of classes by their type (bool), by being as many as the classes, or by a number that
    comes twice.
    """
    value = _numbers_or_none(label)
    if isinstance(label, (list, tuple)) and label and all(isinstance(one, str) for one in label):
        return tuple(label)
    if value is None or value.ndim != 1 or value.size < 2:
        name = class_name(label, classes)
        return (name,) if name else ()
    if value.dtype.kind == "b" or _marked(value, classes):
        return tuple(class_name(int(k), classes) for k in np.flatnonzero(value))
    if value.dtype.kind == "f":
        return (class_name(value, classes),)
    return tuple(class_name(int(k), classes) for k in value)


def _numbers_or_none(label: Any) -> np.ndarray | None:
    value = plain(label)
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(one, (bool, int, float, np.number)) for one in value)
    ):
        return np.asarray(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else None


def _marked(value: np.ndarray, classes: Any) -> bool:
    """Whether numbers are marks, one for each class: nothing but 0 and 1, and as many as classes or one of them twice."""
    if not np.isin(value, (0, 1)).all():
        return False
    if value.dtype.kind == "f":
        return bool(value.sum() != 1)
    return len(value) == (len(classes) if classes is not None else -1) or len(np.unique(value)) < len(value)


def class_name(label: Any, classes: Any) -> str:
    """A label as text; the name of its class where the data set tells names. A mixed label shows its shares."""
    label = plain(label)
    if isinstance(label, np.ndarray):
        if label.ndim == 0 or label.size == 1:
            label = label.reshape(-1)[0].item()
        elif label.ndim == 1 and label.dtype.kind == "f":
            shares = [k for k in np.argsort(-label)[:3].tolist() if label[k] > 0.005]
            if len(shares) == 1 and label[shares[0]] == 1:
                return class_name(shares[0], classes)
            return " + ".join(f"{class_name(k, classes)} {label[k]:.2f}" for k in shares)
        else:
            return ", ".join(class_name(one, classes) for one in label.tolist()[:4])
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool) and classes is not None:
        if isinstance(classes, Mapping):
            return str(classes.get(int(label), label))
        return str(classes[int(label)]) if 0 <= int(label) < len(classes) else str(label)
    return str(label) if isinstance(label, (int, float, str, np.number)) else ""
