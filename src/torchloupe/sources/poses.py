"""People and hands with known joints out of COCO, MPII and RHD annotations, cut from their pictures."""

from __future__ import annotations

import json
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from torchloupe.data.bodies import (
    COCO_BODY,
    HAND,
    MPII_BODY,
    WHOLE_BODY,
    WHOLE_PARTS,
    Crop,
    Person,
    PoseData,
    Sample,
    Skeleton,
    affine,
    frame,
    inverse,
    moved,
)
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.store.reading import reading, reads

Array = NDArray[Any]
WHOLE_FIELDS = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")


def warp(picture: Array, matrix: Array, size: tuple[int, int]) -> Array:
    """A picture (h, w[, c]) under a 2 x 3 matrix, bilinear, black outside -> float64 (height, width[, c])."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    where = moved(np.stack([columns, rows], -1).astype(np.float64), inverse(matrix))
    # two black pixels all round, so that whatever lies outside is read there
    padded = np.pad(picture, [(2, 2), (2, 2)] + [(0, 0)] * (picture.ndim - 2))
    x = np.clip(where[..., 0], -2, picture.shape[1]) + 2
    y = np.clip(where[..., 1], -2, picture.shape[0]) + 2
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = x - left, y - top
    if picture.ndim == 3:
        across, down = across[..., None], down[..., None]
    upper = padded[top, left] * (1 - across) + padded[top, left + 1] * across
    lower = padded[top + 1, left] * (1 - across) + padded[top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


def gaussians(joints: Array, weight: Array, crop: Crop) -> tuple[Array, Array]:
    """True heatmaps: exp(-d^2 / 2 sigma^2) about the nearest heatmap pixel (or the joint itself, with crop.subpixel), cut
    off at 3 sigma.

    joints (j, 2) in crop pixels, weight (j,) -> heatmaps (j, h, w) in [0, 1], and the weight with 0 for joints whose
    blob lies wholly outside.
    Source: Xiao et al. 2018, arXiv:1804.06208.
    """
    width, height = crop.heatmap
    at = joints / crop.stride
    # truncation towards zero, not rounding: the published networks were trained on these blobs
    centres = np.trunc(at + 0.5)
    reach = 3 * crop.sigma
    inside = np.all((centres - reach < (width, height)) & (centres + reach + 1 >= 0), axis=1)
    weight = weight * inside
    across: Array = np.arange(width) - centres[:, :1]
    down: Array = np.arange(height) - centres[:, 1:]
    near = (np.abs(across) <= reach)[:, None, :] & (np.abs(down) <= reach)[:, :, None]
    if crop.subpixel:
        across, down = across + (centres - at)[:, :1], down + (centres - at)[:, 1:]
    blobs = np.exp(-(across[:, None, :] ** 2 + down[:, :, None] ** 2) / (2 * crop.sigma**2))
    return blobs * near * (weight > 0.5)[:, None, None], weight


def outline(segmentation: Any, height: int, width: int) -> Array:
    """Polygons, or a run-length code (plain or packed), as a uint8 mask (height, width) of 0 and 1; a mask as it is.

    Errors: BadInput for a code or mask of another size or of no known form.
    """
    if isinstance(segmentation, np.ndarray):
        if segmentation.shape != (height, width):
            raise BadInput(f"a mask of {list(segmentation.shape)} does not fit a picture of {[height, width]}")
        return (segmentation > 0).astype(np.uint8)
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, height, width)
    picture = Image.new("L", (width, height))
    draw = ImageDraw.Draw(picture)
    for polygon in segmentation:
        if (
            not isinstance(polygon, Sequence)
            or len(polygon) < 6
            or len(polygon) % 2
            or not all(isinstance(value, int | float) and np.isfinite(value) for value in polygon)
        ):
            raise BadInput(f"a polygon is expected to be x y x y x y ..., found {str(polygon)[:60]}")
        draw.polygon([(x, y) for x, y in zip(polygon[::2], polygon[1::2], strict=True)], fill=1)
    return np.asarray(picture)


def _run_lengths(code: Mapping[str, Any], height: int, width: int) -> Array:
    if "counts" not in code or list(code.get("size", ())) != [height, width]:
        raise BadInput(f"a run-length mask of size {code.get('size')} does not fit a picture of {[height, width]}")
    counts = code["counts"]
    runs = _unpacked(counts) if isinstance(counts, str | bytes) else counts
    if not isinstance(runs, Sequence) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise BadInput(f"run lengths are expected to be whole numbers from 0, found {str(counts)[:60]}")
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    if flat.size != height * width:
        raise BadInput(f"a run-length mask covers {flat.size} pixels, the picture has {height * width}")
    return flat.reshape(width, height).T


def _unpacked(counts: str | bytes) -> list[int]:
    """COCO's packed run lengths: base 32, five bits a character, each run from the third on a difference two back."""
    text = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in text:
        digit = byte - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (1 << shift) if digit & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def read(person: Person, crop: Crop, picture: Array | None = None) -> Sample:
    """Cut a person out of its picture (read from its file, or given), with joints, mask and true heatmaps.

    Errors: BadInput for a picture that is missing or cannot be read.
    """
    if picture is None:
        picture = person.picture if isinstance(person.picture, np.ndarray) else _opened(person.picture)
    matrix = affine(person.centre, person.extent, crop.size, crop.udp)
    cut = np.rint(warp(picture, matrix, crop.size)).astype(np.uint8)
    if person.segmentation is None:
        mask = np.full(cut.shape[:2], np.nan)
    else:
        mask = warp(outline(person.segmentation, *picture.shape[:2]), matrix, crop.size) > 0.5
    colours = cut if crop.rgb else cut[..., ::-1]
    x = (colours / 255 - np.array(crop.mean)) / np.array(crop.std)
    seen = person.weight > 0
    joints = np.where(seen[:, None], moved(person.joints[:, :2], matrix), person.joints[:, :2])
    heatmaps, weight = gaussians(joints, person.weight, crop)
    camera = np.full((len(joints), 3), np.nan) if person.camera is None else person.camera
    return Sample(
        x=x.transpose(2, 0, 1).astype(np.float32),
        picture=cut,
        joints=joints,
        weight=weight,
        heatmaps=heatmaps.astype(np.float32),
        mask=mask.astype(np.float32),
        camera=camera,
    )


def _opened(path: Path) -> Array:
    with reading(path, "a picture"), Image.open(path) as opened:
        if opened.mode.startswith("I;16"):
            # Pillow would cut 16 bits off at 255, where the picture is in their upper half
            grey = (np.asarray(opened) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, -1)
        return np.asarray(opened.convert("RGB"))


def _json(path: Path) -> Any:
    with reading(path, "an annotation file (JSON)"):
        return json.loads(path.read_text(encoding="utf-8"))


def _needed(entry: Any, names: Iterable[str], where: str) -> None:
    lacking = [name for name in names if not isinstance(entry, Mapping) or name not in entry]
    if lacking:
        raise BadInput(f"{where}: lacks {', '.join(lacking)}")


_KINDS: dict[Any, str] = {list: "a list", str: "text", int | str: "a number or text"}


def _is(value: Any, kind: Any, where: str, name: str) -> None:
    """Errors: BadInput for a field of another type."""
    if not isinstance(value, kind):
        raise BadInput(
            f"{where}: {name} is expected to be {_KINDS[kind]}, found {type(value).__name__}: {str(value)[:60]}"
        )


def _numbers(values: Any, count: int, where: str, name: str) -> Array:
    """So many finite numbers. Errors: BadInput that names the entry and the field."""
    try:
        found = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.size != count or not np.isfinite(found).all():
        raise BadInput(
            f"{where}: {name} is expected to be {count} finite number{'s' * (count > 1)}, found {np.size(values)}: {str(values)[:60]}"
        )
    return found


@reads("annotations of people in COCO's form")
def coco(
    annotations: str | Path,
    pictures: str | Path,
    crop: Crop,
    *,
    detections: str | Path | None = None,
    threshold: float = 0.0,
    find: Callable[[Path, str], Path] | None = None,
    category: str = "",
    whole: bool = False,
) -> PoseData:
    """People of a COCO keypoint file. Their boxes are the annotated ones, or those of a detections JSON.

    Left out and counted: crowds, other categories, people without a visible joint, boxes of no area or outside the
    picture, detections of no area or whose score is below `threshold`. A detection carries the truth of the annotated person whose
    box it overlaps by at least half (intersection over union), the best score first; the rest carry none.
    category: of the bodies, by name or number; "all" takes those of the first one's joints together, as if they were one.
    By default the first that has keypoints, which is said where there are others. whole: the 133 joints of a file of
    COCO-WholeBody, whose feet, face and hands lie in fields of their own.
    Errors: BadInput for a file that is truncated or lacks fields, naming the entry and the field.
    """
    path, folder = Path(annotations), Path(pictures)
    images, entries, categories, skeleton = _coco_parts(path, category, whole)
    left_out: Counter[str] = Counter()
    people: list[tuple[Person, Sequence[float]]] = []
    for entry in entries:
        image = images[entry["image_id"]]
        reason = _unfit(entry, categories)
        box = None if reason else _inside(entry["bbox"], image, entry.get("area", 1), crop.whole_box)
        if reason or box is None:
            left_out[reason or "box outside the picture or of no area"] += 1
            continue
        picture = (find or Path.joinpath)(folder, image["file_name"])
        people.append((_coco_person(entry, picture, box, crop, len(skeleton.joints), path), entry["bbox"]))
    bare = len(set(images) - {entry["image_id"] for entry in entries})
    if bare:
        left_out["picture without annotation"] = bare
    # the order of the file's pictures, as the published evaluation goes through them
    order = {image_id: i for i, image_id in enumerate(images)}
    people.sort(key=lambda pair: order[pair[0].image_id])
    if detections is None:
        return PoseData(tuple(person for person, _ in people), skeleton, str(path), dict(left_out), categories)
    found = _detected(Path(detections), threshold, images, categories, people, folder, find, crop, skeleton)
    return PoseData(found[0], skeleton, str(path), found[1], categories)


def whole_body(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a file of COCO-WholeBody, its 133 joints together in `keypoints`.

    A joint counts as annotated where its own visibility is above 0, as in the data set's own evaluation.
    Errors: BadInput for an entry without the fields.
    """
    entries = []
    for i, entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{i}]"
        _needed(entry, WHOLE_FIELDS, f"{where} is none of COCO-WholeBody")
        parts = [
            _numbers(entry[name], 3 * (last - first), where, name)
            for name, (first, last) in zip(("keypoints", *WHOLE_FIELDS), WHOLE_PARTS.values(), strict=True)
        ]
        joints = np.concatenate(parts)
        seen = int((joints[2::3] > 0).sum())
        entries.append({**entry, "keypoints": joints.tolist(), "num_keypoints": seen})
    kinds = [
        {**kind, "keypoints": list(WHOLE_BODY.joints)} if isinstance(kind, Mapping) and kind.get("keypoints") else kind
        for kind in content.get("categories", ())
    ]
    return {**content, "annotations": entries, "categories": kinds}


def annotated(path: Path, skeleton: Skeleton) -> dict[str, Any]:
    """The content of a COCO keypoint file whose people have this skeleton."""
    content = _json(path)
    body = 3 * WHOLE_PARTS["body"][1]
    apart = any(len(entry.get("keypoints") or ()) == body for entry in content["annotations"])
    return whole_body(content, path) if apart and skeleton.joints == WHOLE_BODY.joints else content


def _coco_parts(path: Path, wanted: str, whole: bool) -> tuple[dict[Any, Any], list[Any], tuple[Any, ...], Skeleton]:
    content = _json(path)
    _needed(content, ("images", "annotations"), str(path))
    for name in ("images", "annotations", "categories"):
        _is(content.get(name, []), list, str(path), name)
    for i, image in enumerate(content["images"]):
        _needed(image, ("id", "file_name", "width", "height"), f"{path}: images[{i}]")
        _is(image["id"], int | str, f"{path}: images[{i}]", "id")
        _is(image["file_name"], str, f"{path}: images[{i}]", "file_name")
        _numbers([image["width"], image["height"]], 2, f"{path}: images[{i}]", "width, height")
    images = {image["id"]: image for image in content["images"]}
    for i, entry in enumerate(content["annotations"]):
        _needed(entry, ("id", "image_id", "bbox"), f"{path}: annotations[{i}]")
        _is(entry["image_id"], int | str, f"{path}: annotations[{i}]", "image_id")
        _is(entry.get("keypoints") or [], list, f"{path}: annotations[{i}]", "keypoints")
        _numbers(entry["bbox"], 4, f"{path}: annotations[{i}]", "bbox")
        _numbers(entry.get("area", 1), 1, f"{path}: annotations[{i}]", "area")
        if entry["image_id"] not in images:
            raise BadInput(f"{path}: annotations[{i}] is of picture {entry['image_id']}, which images does not list")
    if whole:
        content = whole_body(content, path)
    categories = [c for c in content.get("categories", ()) if isinstance(c, Mapping) and c.get("keypoints")]
    if not categories:
        if wanted:
            raise BadInput(f"--category {wanted}: {path} has no category with keypoints")
        return images, content["annotations"], (1,), WHOLE_BODY if whole else COCO_BODY
    taken = _categories(categories, content["annotations"], wanted, path)
    return images, content["annotations"], tuple(one.get("id", 1) for one in taken), _skeleton(taken[0], path)


def _categories(
    known: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]], wanted: str, path: Path
) -> list[Mapping[str, Any]]:
    """The categories that are meant. Errors: BadInput for one that is not there."""
    names = [str(one.get("name", one.get("id", 1))) for one in known]
    if wanted == "all" and "all" not in names:
        same = [one for one in known if list(one["keypoints"]) == list(known[0]["keypoints"])]
        if len(same) < len(known):
            other = next(name for name, one in zip(names, known, strict=True) if one not in same)
            raise BadInput(f"--category all: {path} has categories of other joints, such as {other}; name one")
        return same
    if wanted:
        found = [one for one, name in zip(known, names, strict=True) if wanted in (name, str(one.get("id", 1)))]
        if not found:
            raise BadInput(
                f"--category {wanted}: {path} has {', '.join(names[:8])}{' ...' if len(names) > 8 else ''} with keypoints."
                f"{nearest(wanted, names)}"
            )
        return found[:1]
    used = {entry.get("category_id") for entry in entries}
    others = [name for one, name in zip(known[1:], names[1:], strict=True) if one.get("id", 1) in used]
    if others:
        warnings.warn(
            f"{path}: {names[0]} is looked at, and not {', '.join(others[:5])}{' ...' if len(others) > 5 else ''}; --category "
            "names another, or all",
            LoupeWarning,
            stacklevel=2,
        )
    return [known[0]]


def _skeleton(category: Mapping[str, Any], path: Path) -> Skeleton:
    names = tuple(str(name) for name in category["keypoints"])
    for known in (COCO_BODY, HAND, WHOLE_BODY):
        if known.joints == names:
            return known
    place = {name: i for i, name in enumerate(names)}
    partners = ((i, place.get(name.replace("left", "right"), i)) for i, name in enumerate(names))
    pairs = tuple((left, right) for left, right in partners if left != right)
    where = f"{path}: category {category.get('name', category.get('id', 1))}"
    return Skeleton(
        str(category.get("name", "body")), names, pairs, _bones(category.get("skeleton") or (), len(names), where)
    )


def _bones(edges: Any, joints: int, where: str) -> tuple[tuple[int, int], ...]:
    """Pairs of joints from edges, which COCO counts from 1; from 0 where one of them says so by a 0.

    Errors: BadInput for an edge that is no pair of joints.
    """
    pairs = list(edges) if isinstance(edges, list | tuple) else [edges]
    for pair in pairs:
        whole = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(joint) is int for joint in pair)
        if not whole or not 0 <= min(pair) <= max(pair) <= joints:
            raise BadInput(
                f"{where}: an edge of the skeleton is expected to be two joints from 1 to {joints}, found {str(pair)[:60]}"
            )
    from_zero = any(0 in pair for pair in pairs)
    if from_zero and any(joints in pair for pair in pairs):
        raise BadInput(
            f"{where}: its skeleton has joints 0 and {joints}, and there are {joints} joints; count them from 1 to {joints}"
        )
    if from_zero:
        warnings.warn(f"{where}: its skeleton counts joints from 0 and is read so", LoupeWarning, stacklevel=2)
    return tuple((a - (not from_zero), b - (not from_zero)) for a, b in pairs)


def _unfit(entry: Mapping[str, Any], categories: tuple[Any, ...]) -> str:
    if entry.get("category_id", categories[0]) not in categories:
        return "another category"
    if entry.get("iscrowd"):
        return "crowd"
    if not any(value for value in np.ravel(entry.get("keypoints") or [0])[2::3]):
        return "no visible joint"
    return ""


def _inside(
    box: Sequence[float], image: Mapping[str, Any], area: float, whole: bool
) -> tuple[float, float, float, float] | None:
    """The part of the box within the picture, whole or by the published evaluation's rule; None where nothing is left."""
    x, y, wide, high = box
    left, top = max(0.0, x), max(0.0, y)
    end = (x + wide, y + high) if whole else (left + max(0.0, wide - 1), top + max(0.0, high - 1))
    right, bottom = min(image["width"] - 1, end[0]), min(image["height"] - 1, end[1])
    if area <= 0 or wide <= 0 or high <= 0 or right <= left or bottom <= top:
        return None
    return left, top, right - left, bottom - top


def _coco_person(
    entry: Mapping[str, Any], picture: Path, box: Sequence[float], crop: Crop, joints: int, path: Path
) -> Person:
    where = f"{path}: annotation {entry['id']}"
    points = _numbers(entry["keypoints"], joints * 3, where, "keypoints").reshape(joints, 3)
    centre, extent = frame(box, crop)
    camera = entry.get("joint_cam")
    return Person(
        id=str(entry["id"]),
        image_id=entry["image_id"],
        picture=picture,
        centre=centre,
        extent=extent,
        joints=points[:, :2],
        weight=(points[:, 2] > 0).astype(np.float64),
        area=float(entry.get("area", box[2] * box[3])),
        size=max(entry["bbox"][2:]),
        segmentation=entry.get("segmentation") or None,
        camera=None if camera is None else _numbers(camera, joints * 3, where, "joint_cam").reshape(joints, 3),
    )


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _detected(
    path: Path,
    threshold: float,
    images: Mapping[Any, Any],
    categories: tuple[Any, ...],
    people: Sequence[tuple[Person, Sequence[float]]],
    folder: Path,
    find: Callable[[Path, str], Path] | None,
    crop: Crop,
    skeleton: Skeleton,
) -> tuple[tuple[Person, ...], dict[str, int]]:
    content = _json(path)
    if not isinstance(content, list):
        raise BadInput(f"{path}: expected a list of detections, found {type(content).__name__}")
    free = defaultdict(list)
    for person, box in people:
        free[person.image_id].append((person, box))
    left_out: Counter[str] = Counter()
    chosen: dict[int, Person] = {}
    for i, entry in enumerate(content):
        _needed(entry, ("image_id", "bbox", "score"), f"{path}: detection {i}")
        _is(entry["image_id"], int | str, f"{path}: detection {i}", "image_id")
        _numbers(entry["bbox"], 4, f"{path}: detection {i}", "bbox")
        _numbers(entry["score"], 1, f"{path}: detection {i}", "score")
    for i in sorted(range(len(content)), key=lambda i: -content[i]["score"]):
        entry = content[i]
        image = images.get(entry["image_id"])
        reason = (
            "picture not in the annotations"
            if image is None
            else "another category"
            if entry.get("category_id", categories[0]) not in categories
            else "score below the threshold"
            if entry["score"] < threshold
            else "box of no area"
            if max(entry["bbox"][2:]) <= 0
            else ""
        )
        if reason:
            left_out[reason] += 1
            continue
        match = max(free[entry["image_id"]], key=lambda pair: overlap(pair[1], entry["bbox"]), default=None)
        known = match is not None and overlap(match[1], entry["bbox"]) >= 0.5
        centre, extent = frame(entry["bbox"], crop)
        if match is not None and known:
            free[entry["image_id"]].remove(match)
            chosen[i] = replace(match[0], centre=centre, extent=extent, score=float(entry["score"]))
            continue
        joints = len(skeleton.joints)
        chosen[i] = Person(
            id=f"detection-{i}",
            image_id=entry["image_id"],
            picture=(find or Path.joinpath)(folder, images[entry["image_id"]]["file_name"]),
            centre=centre,
            extent=extent,
            joints=np.zeros((joints, 2)),
            weight=np.zeros(joints),
            score=float(entry["score"]),
            size=max(entry["bbox"][2:]),
        )
    return tuple(chosen[i] for i in sorted(chosen)), dict(left_out)


def rhd(
    annotations: str | Path,
    pictures: str | Path,
    crop: Crop,
    *,
    detections: str | Path | None = None,
    threshold: float = 0.0,
    category: str = "",
) -> PoseData:
    """Hands of a rendered-hands file in COCO's form: 21 joints in pixels, and in camera millimetres as `camera`.

    There joint 1 of a finger is its tip and joint 4 is next to the wrist.
    """
    found = coco(annotations, pictures, crop, detections=detections, threshold=threshold, category=category)
    bones = tuple((0 if i % 4 == 0 else i + 1, i) for i in range(1, 21))
    return replace(found, skeleton=replace(found.skeleton, bones=bones)) if found.skeleton is HAND else found


@reads("annotations of people in MPII's form")
def mpii(annotations: str | Path, pictures: str | Path, crop: Crop) -> PoseData:
    """People of an MPII file: a list of image, center, scale (200 pixels), joints and joints_vis, counted from 1.

    The centre is moved down by 15 scales and the box padded by 1.25, as the published networks expect. `size` is the
    length of the head, from upper neck to head top.
    """
    path, folder = Path(annotations), Path(pictures)
    content = _json(path)
    if not isinstance(content, list):
        raise BadInput(f"{path}: expected a list of people, found {type(content).__name__}")
    people, left_out = [], Counter[str]()
    for i, entry in enumerate(content):
        _needed(entry, ("image", "center", "scale", "joints", "joints_vis"), f"{path}: person {i}")
        where = f"{path}: person {i}"
        joints = _numbers(entry["joints"], 32, where, "joints").reshape(16, 2)
        weight = _numbers(entry["joints_vis"], 16, where, "joints_vis")
        if not weight.any():
            left_out["no visible joint"] += 1
            continue
        (scale,) = _numbers(entry["scale"], 1, where, "scale").tolist()
        x, y = _numbers(entry["center"], 2, where, "center").tolist()
        if scale <= 0:
            left_out["box outside the picture or of no area"] += 1
            continue
        if x != -1:
            y, scale = y + 15 * scale, scale * crop.padding
        people.append(
            Person(
                id=str(i),
                image_id=entry["image"],
                picture=folder / entry["image"],
                centre=(x - 1, y - 1),
                extent=(200 * scale, 200 * scale),
                joints=joints - 1,
                weight=(weight > 0).astype(np.float64),
                area=(200 * scale) ** 2,
                size=float(np.linalg.norm(joints[9] - joints[8])),
            )
        )
    return PoseData(tuple(people), MPII_BODY, str(path), dict(left_out))


def located(root: str | Path, split: str, kind: str, annotations: str | Path | None = None) -> tuple[Path, Path]:
    """Where a data set lies: (annotation file, folder of pictures).

    Known: annotations/person_keypoints_<split>.json and images/<split>/ or <split>/ (COCO), with coco_wholebody_val_v1.0.json
    (COCO-WholeBody) in its place, annot/<split>.json and images/ (MPII), or a folder or file with the JSON beside its pictures.
    """
    root = Path(root)
    if annotations is not None:
        path = Path(annotations)
        folders = (root / "images" / split, root / split, root / "images", root)
        return path, next((folder for folder in folders if folder.is_dir()), root)
    if root.is_file():
        return root, root.parent
    if kind == "mpii":
        return root / "annot" / f"{split}.json", root / "images"
    whole = f"coco_wholebody_{split.rstrip('0123456789')}_v1.0.json"
    usual = root / "annotations" / (whole if kind == "wholebody" else f"person_keypoints_{split}.json")
    if usual.exists():
        folder = root / "images" / split
        return usual, folder if folder.is_dir() or not (root / split).is_dir() else root / split
    beside = sorted(path for path in root.glob("*.json") if "det" not in path.stem)
    if len(beside) == 1:
        return beside[0], root
    raise BadInput(f"{root}: found neither {usual.relative_to(root)} nor one annotation JSON; name it: --annotations")
