"""albumentations: its own generators seeded, a Compose with boxes watched step by step, boxes in the format that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks
from torchloupe.sources.truth import box_corners, class_name, plain, truth

# albumentations' names of how boxes are written -> ours.
FORMATS = {"pascal_voc": "xyxy", "coco": "xywh", "yolo": "yolo", "albumentations": "shares"}
# What is noted down of a step beside what it drew.
QUIET = ("seed", "interpolation", "mask_interpolation", "fill", "fill_mask", "border_mode", "shape")


def composes(value: Any) -> bool:
    """Whether a value is a Compose of albumentations."""
    return (
        ours(value) and hasattr(value, "processors") and isinstance(getattr(value, "transforms", None), (list, tuple))
    )


def ours(value: Any) -> bool:
    """Whether a value is a transform or a composition of albumentations."""
    return any(home.__module__.partition(".")[0] == "albumentations" for home in type(value).__mro__)


def parts(value: Any) -> list[Any]:
    """A transform and all that it holds."""
    held = getattr(value, "transforms", None)
    inner = held if isinstance(held, (list, tuple)) else ()
    return [value, *(part for one in inner if ours(one) for part in parts(one))]


@contextmanager
def reseeded(values: Sequence[Any], seed: int) -> Iterator[None]:
    """albumentations keeps generators of its own: inside they start from the seed, each from another number; then they are
    those of before."""
    held = [part for value in values if ours(value) for part in parts(value)]
    names = ("random_generator", "py_random", "seed")
    before = [{name: vars(part)[name] for name in names if name in vars(part)} for part in held]
    try:
        for k, part in enumerate(held):
            # One number for all would have every step draw the same.
            only = part if not isinstance(getattr(part, "transforms", None), (list, tuple)) else None
            child = int(np.random.SeedSequence((seed, k)).generate_state(1)[0])
            if only is not None:
                only.set_random_seed(child)
            else:
                _own_seed(part, child)
        yield
    finally:
        for part, kept in zip(held, before, strict=True):
            vars(part).update(kept)


def _own_seed(composition: Any, seed: int) -> None:
    """Seeds a composition without what it holds."""
    inner, composition.transforms = composition.transforms, []
    try:
        composition.set_random_seed(seed)
    finally:
        composition.transforms = inner


@contextmanager
def watched_compose(compose: Any, log: list[tuple[str, dict[str, Any], list[Any]]]) -> Iterator[None]:
    """Inside, a Compose leaves (name, what flows, what was applied) after each of its steps; then it is as before.

    What flows has boxes as shares of the picture and points as x, y, ...: albumentations' own form between its steps.
    """
    with ExitStack() as stack:
        state = vars(compose)
        kept = {name: state[name] for name in ("save_applied_params", "_track_transform_params") if name in state}
        stack.callback(state.update, kept)
        stack.callback(state.pop, "_track_transform_params", None)
        wanted = bool(state.get("save_applied_params"))
        method = compose._track_transform_params

        def seen(transform: Any, data: dict[str, Any]) -> None:
            method(transform, data)
            applied, count = data.get("applied_transforms", []), sum(len(one[2]) for one in log)
            log.append((type(transform).__name__, dict(data), list(applied[count:])))

        state["_track_transform_params"] = seen
        state["save_applied_params"] = True
        yield
        state["save_applied_params"] = wanted


def inner_marks(data: Mapping[str, Any], names: Sequence[str]) -> Marks:
    """Marks of what flows between the steps of a Compose; names where no box was dropped. Boxes are cut off at the picture, as
    albumentations does after each step once it has been noted."""
    h, w = np.asarray(plain(data["image"])).shape[:2]
    boxes = points = None
    if data.get("bboxes") is not None:
        rows = np.asarray(data["bboxes"], float)
        numbers = rows.reshape(len(rows), -1)[:, :4] if len(rows) else rows.reshape(0, 4)
        boxes = box_corners(numbers, "shares", (w, h))[0].clip(0, [w, h, w, h])
    if data.get("keypoints") is not None and len(data["keypoints"]):
        xy = np.asarray(data["keypoints"], float)[:, :2]
        points = np.concatenate([xy, np.ones((len(xy), 1))], 1)[None]
    kept = tuple(names) if boxes is not None and len(boxes) == len(names) else ()
    masks = truth({key: data[key] for key in ("mask", "masks") if data.get(key) is not None}).marks.masks
    return Marks(boxes, kept, points, masks)


def outer_marks(compose: Any, data: Mapping[str, Any], classes: Any) -> Marks:
    """Marks of what goes into a Compose and comes out, in the formats that its parameters name."""
    image = plain(data["image"])
    h, w = image.shape[1:] if hasattr(data["image"], "detach") and image.ndim == 3 else image.shape[:2]
    boxes = points = None
    names: tuple[str, ...] = ()
    held = data.get("bboxes")
    if held is not None and "bboxes" in compose.processors:
        settings = compose.processors["bboxes"].params
        rows = np.asarray([list(row) for row in held], dtype=object).reshape(len(held), -1)
        numbers = rows[:, :4].astype(float) if len(rows) else np.zeros((0, 4))
        boxes = box_corners(numbers, FORMATS.get(settings.format, "xyxy"), (w, h))[0]
        fields = [data[key] for key in settings.label_fields or () if len(data.get(key, ())) == len(boxes)]
        labels = list(plain(fields[0])) if fields else [row[4] for row in rows] if rows.shape[1] > 4 else []
        names = tuple(class_name(int(one) if isinstance(one, float) else one, classes) for one in labels)
    if data.get("keypoints") is not None and "keypoints" in compose.processors and len(data["keypoints"]):
        xy = np.asarray([list(row)[:2] for row in data["keypoints"]], float)
        xy = xy[:, ::-1] if compose.processors["keypoints"].params.format == "yx" else xy
        points = np.concatenate([xy, np.ones((len(xy), 1))], 1)[None]
    masks = truth({key: data[key] for key in ("mask", "masks") if data.get(key) is not None}).marks.masks
    return Marks(boxes, names, points, masks)


def applied_text(applied: Sequence[tuple[str, Mapping[str, Any]]], own: str) -> dict[str, Any]:
    """What was applied, by name: a step of its own needs no name, those that a random choice took are named."""
    found: dict[str, Any] = {}
    for name, values in applied:
        drawn = {key: value for key, value in values.items() if key not in QUIET}
        found["" if name == own and len(applied) == 1 else name] = drawn or "applied"
    return found
