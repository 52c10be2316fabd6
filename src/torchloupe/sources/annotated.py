"""Annotated pictures as tools export them: COCO, YOLO, Pascal VOC, LabelMe, CVAT, tables, WebDataset's shards, Hugging Face."""

from __future__ import annotations

import base64
import csv
import glob
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks
from torchloupe.errors import BadInput, need
from torchloupe.sources.configs import one_line
from torchloupe.sources.look import PICTURE_SUFFIXES, open_picture
from torchloupe.sources.truth import (
    Truth,
    body,
    box_corners,
    class_name,
    named_map,
    truth,
    turned_corners,
    without_a_box,
)
from torchloupe.store.reading import reading

Size = tuple[int, int]
# Columns of a table, by what they may be called.
FILE_COLUMNS = ("path", "file", "filename", "file_name", "image", "img", "image_path", "filepath")
CLASS_COLUMNS = ("label", "class", "category", "name", "labels")
BOX_COLUMNS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
)


@dataclass(frozen=True)
class Entry:
    """One annotated picture: its file, its name, and what is known of it once its size (w, h) is.

    written: the size that the annotation was made for, where it says so.
    """

    path: Path
    name: str
    known: Callable[[Size], Truth]
    written: Size | None = None

    def faults(self, size: Size) -> tuple[str, ...]:
        """A line where the annotation was made for another size of the picture."""
        if self.written is None or self.written == size or 0 in self.written:
            return ()
        return (f"annotation for {self.written[0]}x{self.written[1]}, the picture is {size[0]}x{size[1]}",)


def entries(kind: str, rest: str, query: Mapping[str, Any], phase: str) -> tuple[str, list[Entry]]:
    """The name of an annotated data set and its pictures. Errors: BadInput for what is absent or of no such form."""
    path = Path(rest)
    if not rest or not path.exists():
        raise BadInput(f"{kind}:{rest}: no such file or folder")
    asked = {key: str(value) for key, value in query.items()}
    known = {"coco": ("images", "masks"), "cvat": ("images",), "csv": ("images",)}.get(kind, ())
    for key in asked:
        if key not in known:
            raise BadInput(f"{kind}:{rest}: no option {key}; it takes {', '.join(known) or 'none'}")
    with reading(path, f"annotations as {kind} has them"):
        found = READERS[kind](path, asked, phase)
    if not found:
        raise BadInput(f"{path}: no annotated picture in it")
    return path.stem if path.is_file() else path.resolve().name, [_guarded(entry, path, kind) for entry in found]


def _guarded(entry: Entry, path: Path, kind: str) -> Entry:
    """The same, whose truth, read when it is asked for, ends in one line where it is damaged."""

    def known(size: Size) -> Truth:
        try:
            with reading(path, f"annotations of {entry.name} as {kind} has them"):
                return entry.known(size)
        except BadInput as error:
            told = str(error)
            if entry.name in told or path.name in told:
                raise
            raise BadInput(f"{path}: {entry.name}: {told}") from error

    return replace(entry, known=known)


def _json(path: Path) -> Any:
    with reading(path, "JSON"):
        return json.loads(path.read_text(encoding="utf-8"))


def _xml(path: Path) -> Any:
    from xml.etree import ElementTree

    with reading(path, "XML"):
        return ElementTree.parse(path).getroot()


def _folder(given: str | None, *otherwise: Path) -> Path:
    """The folder that was given, else the first of the others that there is. Errors: BadInput where it is absent."""
    found = Path(given) if given else next((place for place in otherwise if place.is_dir()), otherwise[-1])
    if not found.is_dir():
        raise BadInput(f"{found}: no such folder of pictures; name it with ?images=DIR")
    return found


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco(path: Path, asked: Mapping[str, str], _phase: str) -> list[Entry]:
    """instances, person_keypoints and panoptic files; pictures in ?images=DIR, panoptic masks in ?masks=DIR."""
    held = _json(path)
    names = {int(one["id"]): str(one.get("name", one["id"])) for one in held.get("categories", ())}
    bones = next((one["skeleton"] for one in held.get("categories", ()) if one.get("skeleton")), ())
    joints = next((tuple(map(str, one["keypoints"])) for one in held.get("categories", ()) if one.get("keypoints")), ())
    notes: dict[Any, list[Mapping[str, Any]]] = {}
    for one in held.get("annotations", ()):
        notes.setdefault(one["image_id"], []).append(one)
    first = held["images"][0]["file_name"] if held["images"] else ""
    beside = [
        place for place in (path.parent, path.parent.parent, *path.parent.parent.glob("*")) if (place / first).is_file()
    ]
    images = _folder(asked.get("images"), *beside, path.parent)
    links = tuple((int(a) - 1, int(b) - 1) for a, b in bones)

    def entry(one: Mapping[str, Any]) -> Entry:
        own = notes.get(one["id"], [])
        panoptic = next((note for note in own if "segments_info" in note), None)
        masks = Path(asked["masks"]) if "masks" in asked else path.with_suffix("")

        def known(size: Size) -> Truth:
            if panoptic is not None:
                return _panoptic(masks / panoptic["file_name"], panoptic["segments_info"], names)
            found = truth(own, names, size)
            marks = found.marks
            return Truth(replace(marks, bones=links or marks.bones, joints=joints or marks.joints)) if own else found

        return Entry(images / one["file_name"], one["file_name"], known, _written(one.get("width"), one.get("height")))

    return [entry(one) for one in held["images"]]


def _written(width: Any, height: Any) -> Size | None:
    return (int(width), int(height)) if width and height else None


def _panoptic(path: Path, segments: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Truth:
    """A picture whose colours number its segments: red + 256 green + 65536 blue; each segment with the name of its class."""
    colours = np.asarray(open_picture(path).image).astype(np.int64)
    ids = colours @ np.array([1, 256, 65536])
    numbered, legend = np.zeros(ids.shape, np.int64), {}
    for number, one in zip(numbers_of_areas(len(segments)), segments, strict=True):
        numbered[ids == one["id"]] = number
        legend[number] = class_name(one.get("category_id"), names)
    return Truth(Marks(masks=numbered, legend=legend))


# --- YOLO ------------------------------------------------------------------------------------------------------------


def _yolo(path: Path, _asked: Mapping[str, str], phase: str) -> list[Entry]:
    """data.yaml with path, train, val, test, names; a label file a picture, where images/ is called labels/."""
    import yaml

    with reading(path, "YAML"):
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict) or "names" not in held:
        raise BadInput(f"{path}: expected a mapping with names and train, val or test")
    if not held.get(phase):
        has = [key for key in ("train", "val", "test") if held.get(key)]
        raise BadInput(f"{path}: has no data for --phase {phase} (it has {', '.join(has) or 'none at all'})")
    root = Path(str(held.get("path") or "."))
    root = root if root.is_absolute() else path.parent / root
    places = held[phase] if isinstance(held[phase], list) else [held[phase]]
    files = [file for place in places for file in _yolo_files(root / str(place), path)]
    raw, shape = held["names"], held.get("kpt_shape")
    names = {int(k): str(v) for k, v in (raw.items() if isinstance(raw, dict) else enumerate(raw))}
    count = (int(shape[0]), int(shape[1])) if shape else None
    return [Entry(file, file.name, _yolo_known(_label_file(file), names, count)) for file in files]


def _yolo_files(place: Path, config: Path) -> list[Path]:
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    if place.suffix == ".txt" and place.is_file():
        lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [Path(line) if Path(line).is_absolute() else place.parent / line for line in lines]
    raise BadInput(f"{config}: {place} is neither a folder of pictures nor a list of them (.txt)")


def _label_file(picture: Path) -> Path:
    parts = list(picture.parts)
    at = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _yolo_known(labels: Path, names: Mapping[int, str], joints: tuple[int, int] | None) -> Callable[[Size], Truth]:
    """Rows: class and middle, size; class and the corners of a polygon; class, middle, size and joints; all in shares."""

    def known(size: Size) -> Truth:
        if not labels.is_file():
            return Truth(Marks(np.zeros((0, 4))))
        rows = [
            np.array(line.split(), float) for line in labels.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        wide = np.array(size, float)
        boxes, outlines, points = [], [], []
        for row in rows:
            numbers = row[1:]
            outline: tuple[np.ndarray, ...] = ()
            if joints is not None and len(numbers) == 4 + joints[0] * joints[1]:
                placed = numbers[4:].reshape(joints)
                seen = placed[:, 2:3] if joints[1] == 3 else (placed.sum(1, keepdims=True) > 0).astype(float)
                points.append(np.concatenate([placed[:, :2] * wide, seen], 1))
                numbers = numbers[:4]
            if len(numbers) == 4:
                boxes.append(box_corners(numbers[None], "yolo", size)[0][0])
            elif len(numbers) >= 6 and len(numbers) % 2 == 0:
                outline = (numbers.reshape(-1, 2) * wide,)
                boxes.append(np.concatenate([outline[0].min(0), outline[0].max(0)]))
            else:
                raise BadInput(
                    f"{labels}: a row of {len(row)} numbers; expected class and 4, or corners x y x y x y ..."
                )
            outlines.append(outline)
        called = tuple(class_name(int(row[0]), names) for row in rows)
        places = np.stack(points) if points else None
        marks = Marks(np.array(boxes).reshape(-1, 4), called, places, outlines=tuple(outlines) if any(outlines) else ())
        return Truth(replace(marks, **body(places)))

    return known


# --- VOC, LabelMe, CVAT ----------------------------------------------------------------------------------------------


def _voc(path: Path, _asked: Mapping[str, str], phase: str) -> list[Entry]:
    """Annotations/*.xml, or *.xml anywhere below, with the pictures in JPEGImages or beside; ImageSets/Main/PHASE.txt chooses;
    SegmentationClass/*.png are label maps."""
    home = path / "Annotations" if (path / "Annotations").is_dir() else path
    files = sorted(home.rglob("*.xml"))
    chosen = path / "ImageSets/Main" / f"{phase}.txt"
    if chosen.is_file():
        stems = {line.split()[0] for line in chosen.read_text(encoding="utf-8").splitlines() if line.strip()}
        files = [file for file in files if file.stem in stems]

    def entry(file: Path) -> Entry:
        root = _xml(file)
        name = root.findtext("filename") or f"{file.stem}.jpg"
        picture = _beside(file, name, path / "JPEGImages", path / "images")
        mask = path / "SegmentationClass" / f"{file.stem}.png"

        def known(size: Size) -> Truth:
            boxes: list[list[float]] = []
            names: list[str] = []
            bare: list[str] = []
            outlines: list[tuple[Any, ...]] = []
            for one in root.iter("object"):
                box, turned = one.find("bndbox"), one.find("robndbox")
                (bare if box is None and turned is None else names).append(one.findtext("name") or "")
                if box is not None:
                    boxes.append([float(box.findtext(edge) or "nan") for edge in ("xmin", "ymin", "xmax", "ymax")])
                    outlines.append(())
                elif turned is not None:
                    # roLabelImg: middle, width, height, angle in radians.
                    numbers = [float(turned.findtext(key) or "nan") for key in ("cx", "cy", "w", "h", "angle")]
                    corners = turned_corners(np.array([numbers]))[0]
                    boxes.append([*corners.min(0), *corners.max(0)])
                    outlines.append((corners,))
            held, legend = _class_map(mask, path) if mask.is_file() else (None, {})
            marks = Marks(np.array(boxes, float).reshape(-1, 4), tuple(names), masks=held, legend=legend,
                          outlines=tuple(outlines) if any(outlines) else ())  # fmt: skip
            return Truth(marks, (), without_a_box(bare))

        return Entry(picture, picture.name, known, _written(root.findtext("size/width"), root.findtext("size/height")))

    return [entry(file) for file in files]


def _class_map(path: Path, root: Path) -> tuple[np.ndarray, dict[int, str]]:
    """The numbers of the classes in a mask, and their names: those of its palette as they are; of a picture in colours each
    colour that labelmap.txt (name:r,g,b:...) names, as CVAT exports it, else each colour that there is, black left out."""
    from PIL import Image

    with Image.open(path) as file:
        if len(file.getbands()) == 1:
            held = np.asarray(file)
            return held, named_map(held, None)
        colours = np.asarray(file.convert("RGB")).astype(np.int64) @ np.array([65536, 256, 1])
    names: dict[int, str] = {}
    if (root / "labelmap.txt").is_file():
        for line in (root / "labelmap.txt").read_text(encoding="utf-8").splitlines():
            name, *rest = line.split(":")
            if rest and not line.startswith("#"):
                red, green, blue = (int(part) for part in rest[0].split(","))
                names[65536 * red + 256 * green + blue] = name
    found = [one for one in np.unique(colours).tolist() if one and names.get(one) != "background"]
    numbered, legend = np.zeros(colours.shape, np.int64), {}
    for number, one in zip(numbers_of_areas(len(found)), found, strict=True):
        numbered[colours == one] = number
        legend[number] = names.get(one, f"#{one:06x}")
    return numbered, legend


def numbers_of_areas(count: int) -> list[int]:
    """As many numbers of a label map from 1; 255 means ignored there."""
    return [k if k < 255 else k + 1 for k in range(1, count + 1)]


def _beside(file: Path, name: str, *folders: Path) -> Path:
    """A picture by its name in one of the folders or beside the file, else by the file's own stem."""
    places = [folder / Path(name).name for folder in (*folders, file.parent)] + [file.parent / name]
    same = [place.with_name(f"{file.stem}{suffix}") for place in places for suffix in PICTURE_SUFFIXES]
    return next((place for place in (*places, *same) if place.is_file()), places[0])


def _labelme(path: Path, _asked: Mapping[str, str], _phase: str) -> list[Entry]:
    """LabelMe's JSON files below a folder: polygons, rectangles, circles, lines and points with their labels."""

    def entry(file: Path) -> Entry | None:
        held = _json(file)
        if not isinstance(held, dict) or "shapes" not in held:
            return None

        def known(size: Size) -> Truth:
            boxes, names, outlines, points, masks = [], [], [], [], []
            for one in held["shapes"]:
                corners = np.array(one["points"], float).reshape(-1, 2)
                kind = one.get("shape_type") or "polygon"
                if kind == "point":
                    points.append([*corners[0], 1.0])
                    continue
                if kind == "circle":
                    radius = float(np.linalg.norm(corners[1] - corners[0]))
                    turn = np.linspace(0, 2 * np.pi, 33)[:-1]
                    corners = corners[0] + radius * np.stack([np.cos(turn), np.sin(turn)], 1)
                elif kind in ("line", "linestrip"):
                    corners = there_and_back(corners)
                elif kind == "mask":
                    # A picture in base64 that lies from the first to the second point, both included.
                    masks.append(laid(np.asarray(_inner_picture(one["mask"])) > 0, corners[0], size))
                    corners = corners + np.array([[0, 0], [1, 1]])
                boxes.append([*corners.min(0), *corners.max(0)])
                names.append(str(one.get("label", "")))
                outlines.append(() if kind in ("rectangle", "mask") else (corners,))
            marks = Marks(np.array(boxes, float).reshape(-1, 4), tuple(names), np.array(points)[None] if points else None,
                          np.stack(masks) if masks else None, outlines=tuple(outlines) if any(outlines) else ())  # fmt: skip
            return Truth(marks)

        picture = _beside(file, str(held.get("imagePath") or f"{file.stem}.jpg").replace("\\", "/"))
        return Entry(picture, picture.name, known, _written(held.get("imageWidth"), held.get("imageHeight")))

    found = [entry(file) for file in sorted(path.rglob("*.json") if path.is_dir() else [path])]
    return [one for one in found if one is not None]


def _inner_picture(text: str) -> Any:
    """A picture that is written in base64."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(text)))


def there_and_back(line: np.ndarray) -> np.ndarray:
    """An open line (k, 2) as a closed one: to its end and back the same way."""
    return np.concatenate([line, line[-2:0:-1]])


def laid(mask: np.ndarray, corner: np.ndarray, size: Size) -> np.ndarray:
    """A mask (h, w) whose upper left pixel lies at corner x y, as a mask of the whole picture of size (w, h)."""
    whole = np.zeros(size[::-1], bool)
    x, y = (round(float(value)) for value in corner)
    part = mask[max(-y, 0) :, max(-x, 0) :]
    place = whole[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]]
    place[:] = part[: place.shape[0], : place.shape[1]]
    return whole


def _cvat(path: Path, asked: Mapping[str, str], _phase: str) -> list[Entry]:
    """CVAT for images 1.1: boxes and ellipses (turned ones too), polygons, polylines, masks, skeletons and points, tags; pictures in
    ?images=DIR."""
    root = _xml(path)
    images = _folder(asked.get("images"), path.parent / "images", path.parent)

    def entry(one: Any) -> Entry:
        def known(size: Size) -> Truth:
            boxes, names, bodies, loose, masks = [], [], [], [], []
            outlines: list[tuple[np.ndarray, ...]] = []
            unknown: dict[str, None] = {}
            for shape in one:
                kind = shape.tag
                if kind == "points":
                    loose += [[*pair, 1.0] for pair in _pairs(shape)]
                    continue
                if kind == "skeleton":
                    bodies.append({str(joint.get("label")): [*_pairs(joint)[0], float(joint.get("outside") != "1")]
                                   for joint in shape if joint.tag == "points"})  # fmt: skip
                    continue
                if kind == "tag":
                    continue
                outline: tuple[np.ndarray, ...] = ()
                if kind in ("box", "ellipse"):
                    angle = np.radians(float(shape.get("rotation") or 0))
                    corners = _cvat_corners(shape, angle)
                    outline = (corners,) if angle or kind == "ellipse" else ()
                elif kind in ("polygon", "polyline"):
                    corners = _pairs(shape)
                    outline = (corners if kind == "polygon" else there_and_back(corners),)
                elif kind == "mask":
                    left, top, w, h = (int(float(shape.get(key))) for key in ("left", "top", "width", "height"))
                    runs = [int(part) for part in shape.get("rle").split(",")]
                    # Runs of 0 and 1 in turn, row by row, 0 first.
                    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
                    masks.append(laid(flat.reshape(h, w), np.array([left, top]), size))
                    corners = np.array([[left, top], [left + w, top + h]], float)
                else:
                    unknown[kind] = None
                    continue
                boxes.append([*corners.min(0), *corners.max(0)])
                names.append(shape.get("label") or "")
                outlines.append(outline)
            joints = tuple(dict.fromkeys(name for body in bodies for name in body))
            held = [[body.get(name, [0.0, 0.0, 0.0]) for name in joints] for body in bodies]
            if not held and loose:
                held = [loose]
            elif loose:
                unknown["points beside skeletons"] = None
            marks = Marks(np.array(boxes, float).reshape(-1, 4), tuple(names), np.array(held) if held else None,
                          np.stack(masks) if masks else None, joints=joints,
                          outlines=tuple(outlines) if any(outlines) else ())  # fmt: skip
            said = f"not drawn: {', '.join(unknown)}" if unknown else ""
            return Truth(marks, tuple(str(tag.get("label")) for tag in one if tag.tag == "tag"), said)

        return Entry(images / one.get("name"), one.get("name"), known, _written(one.get("width"), one.get("height")))

    return [entry(one) for one in root.iter("image")]


def _pairs(shape: Any) -> np.ndarray:
    """Points written x,y;x,y -> (k, 2)."""
    return np.array([pair.split(",") for pair in shape.get("points").split(";")], float)


def _cvat_corners(shape: Any, angle: float) -> np.ndarray:
    """The corners of a box, turned by an angle in radians about its middle, or 32 points of an ellipse."""
    if shape.tag == "ellipse":
        x, y, a, b = (float(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
        turn = np.linspace(0, 2 * np.pi, 33)[:-1]
        along, across = a * np.cos(turn), b * np.sin(turn)
        cosine, sine = np.cos(angle), np.sin(angle)
        return np.stack([x + along * cosine - across * sine, y + along * sine + across * cosine], 1)
    x0, y0, x1, y1 = (float(shape.get(key)) for key in ("xtl", "ytl", "xbr", "ybr"))
    return turned_corners(np.array([[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, angle]]))[0]


# --- tables ----------------------------------------------------------------------------------------------------------


def _csv(path: Path, asked: Mapping[str, str], _phase: str) -> list[Entry]:
    """A table with a column of files and of classes, and of corners or x y w h where it has boxes; a line a picture or a box."""
    with reading(path, "a table"), path.open(newline="", encoding="utf-8-sig") as file:
        sample = file.read(4096)
        file.seek(0)
        mark = max(",;\t", key=sample.count)
        rows = list(csv.DictReader(file, delimiter=mark))
    columns = {name.strip().lower(): name for name in (rows[0] if rows else ())}
    file_column = next((columns[name] for name in FILE_COLUMNS if name in columns), None)
    if file_column is None:
        raise BadInput(
            f"{path}: no column of files; expected one of {', '.join(FILE_COLUMNS)}, it has {', '.join(columns)}"
        )
    class_column = next((columns[name] for name in CLASS_COLUMNS if name in columns), None)
    box = next((names for names in BOX_COLUMNS if all(name in columns for name in names)), None)
    home = Path(asked["images"]) if "images" in asked else path.parent
    grouped: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        grouped.setdefault(row[file_column], []).append(row)

    def known_of(lines: Sequence[Mapping[str, str]]) -> Callable[[Size], Truth]:
        names = tuple(line[class_column].strip() for line in lines) if class_column else ()

        def known(size: Size) -> Truth:
            if box is None:
                return Truth(labels=tuple(dict.fromkeys(name for name in names if name)))
            kept = [k for k, line in enumerate(lines) if line[columns[box[0]]].strip()]
            numbers = np.array([[float(lines[k][columns[name]]) for name in box] for k in kept]).reshape(-1, 4)
            form = "xywh" if box[2] in ("w", "width") else "xyxy"
            return Truth(Marks(box_corners(numbers, form, size)[0], tuple(names[k] for k in kept) if names else ()))

        return known

    return [Entry(home / name, name, known_of(lines)) for name, lines in grouped.items()]


READERS: Mapping[str, Callable[[Path, Mapping[str, str], str], list[Entry]]] = {
    "coco": _coco,
    "csv": _csv,
    "cvat": _cvat,
    "labelme": _labelme,
    "voc": _voc,
    "yolo": _yolo,
}
"""Word of a data set -> what reads it."""


# --- data sets of items ----------------------------------------------------------------------------------------------


def hugging_face(folder: str, phase: str) -> Any:
    """A data set of Hugging Face's `datasets` from a folder: saved to disk, or pictures or Parquet files in it. Nothing is fetched."""
    try:
        import datasets
    except ImportError as error:
        raise need("datasets", "hf") from error
    path = Path(folder)
    if not path.is_dir():
        raise BadInput(f"hf:{folder}: no such folder")
    saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
    try:
        found = datasets.load_from_disk(folder) if saved else datasets.load_dataset(folder)
    except Exception as error:
        raise BadInput(f"hf:{folder}: cannot be read: {one_line(error)}") from error
    if isinstance(found, dict):
        split = {"val": ("val", "validation", "valid", "dev")}.get(phase, (phase,))
        name = next((name for name in split if name in found), None)
        if name is None:
            raise BadInput(f"hf:{folder}: has no data for --phase {phase} (it has {', '.join(found)})")
        found = found[name]
    return found


def shard_files(pattern: str) -> list[str]:
    """The tar files behind a path or glob, in order. Errors: BadInput where there are none."""
    files = sorted(glob.glob(pattern)) if any(mark in pattern for mark in "*?[") else [pattern]
    if not files or not all(Path(file).is_file() for file in files):
        raise BadInput(f"webdataset:{pattern}: no such tar files")
    return files


def shards(pattern: str) -> Any:
    """WebDataset's tar files, in order: members of one name make a sample, pictures are decoded, JSON gives fields, cls a class."""
    files = shard_files(pattern)
    from torch.utils.data import IterableDataset

    class Shards(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for file in files:
                yield from _samples(file)

    return Shards()


def tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """(sample, kind, member) of every file in a tar, in order: folder/stem.kind, the kind in small letters."""
    for member in archive:
        if member.isfile():
            folder, _, name = member.name.rpartition("/")
            stem, _, kind = name.partition(".")
            yield f"{folder}/{stem}" if folder else stem, kind.lower(), member


def _samples(file: str) -> Iterator[dict[str, Any]]:
    held: dict[str, bytes] = {}
    last = ""
    with reading(file, "a tar file"), tarfile.open(file) as archive:
        for key, kind, member in tar_members(archive):
            if key != last and held:
                yield decoded(held)
                held = {}
            opened = archive.extractfile(member)
            last = key
            if opened is not None:
                held[kind] = opened.read()
        if held:
            yield decoded(held)


def decoded(held: Mapping[str, bytes]) -> dict[str, Any]:
    from PIL import Image

    found: dict[str, Any] = {}
    for kind, data in held.items():
        last = kind.rpartition(".")[2]
        if f".{last}" in PICTURE_SUFFIXES:
            picture = Image.open(io.BytesIO(data))
            mask = any(word in kind for word in ("mask", "seg"))
            found["mask" if mask else "image"] = picture if mask else picture.convert("RGB")
        elif last == "json":
            more = json.loads(data)
            found.update(more if isinstance(more, dict) else {"annotations": more})
        elif last in ("cls", "txt"):
            text = data.decode("utf-8", "replace").strip()
            found["label"] = int(text) if text.lstrip("-").isdigit() else text
    return found
