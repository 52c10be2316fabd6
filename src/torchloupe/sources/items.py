"""Pictures by any word that names them: files, folders, lists, annotated data sets, shards, Hugging Face; whole, or the objects
in them. What `loupe browse` shows, `embed`, `cam`, `judge` and `features` take by the same words."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, BadSample, LoupeError, legible, nearest
from torchloupe.points import LABELS
from torchloupe.sources import images
from torchloupe.sources.images import read, there
from torchloupe.store import sha256
from torchloupe.store.reading import reading

ANNOTATED = ("coco", "csv", "cvat", "labelme", "voc", "yolo")
FED = ("hf", "webdataset", "torch")
FILES = ("folder", "list")
WORDS = (*FILES, *ANNOTATED, *FED)
OURS = ("crops", "margin", "detections", "score", "phase")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Item:
    """One picture. name: unique in its data set. where: by what it is found again, a path or WORD#NUMBER. path: the file that it is
    known by. label: its class, or "". columns: what else is known of it. whole: it is all that its file holds."""

    name: str
    where: str
    path: Path
    load: Callable[[], Any] = field(compare=False)
    stamp: Callable[[], str] = field(compare=False)
    label: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    whole: bool = False

    def __str__(self) -> str:
        """The file, or what it is found by in its data set."""
        return str(self.path) if self.whole else self.where

    def read(self) -> Any:
        """As a PIL picture in RGB. Errors: BadInput that names it."""
        return self.load()

    def sha256(self) -> str:
        """The fingerprint of its bytes, and of its box. Errors: BadSample where it cannot be read."""
        try:
            return self.stamp()
        except OSError as error:
            raise BadSample(f"{self.where}: cannot be read ({error.strerror or error})") from error


def is_word(text: str) -> bool:
    """Whether a text is a word of a data set, such as coco:FILE.json, and no file's name."""
    return text.partition(":")[0] in WORDS and ":" in text and not there(Path(text))


def items(given: str | Path | Sequence[str | Path]) -> list[Item]:
    """The pictures behind paths, globs, lists and words of data sets, in their order. Errors: as `find` and `opened`."""
    found: list[Item] = []
    for one in [given] if isinstance(given, (str, Path)) else list(given):
        found += opened(str(one)) if is_word(str(one)) else []
        if not is_word(str(one)):
            found += [of_file(path) for path in images.find([one])]
    if not found:
        images.find([])
    once: dict[str, Item] = {}
    for item in found:
        once.setdefault(str(item.path.resolve()) if item.whole else item.where, item)
    return list(once.values())


def item_at(where: str) -> Item:
    """The picture that an item's `where` names. Errors: BadInput where it is no longer there."""
    word, mark, number = where.rpartition("#")
    if not (mark and number.isdecimal() and is_word(word)):
        return of_file(Path(where))
    found = _kept(word)
    if int(number) >= len(found):
        raise BadInput(f"{where}: {word} holds {len(found)} pictures")
    return found[int(number)]


def of_file(path: Path) -> Item:
    """A file; its label is the name of its folder."""
    return Item(
        str(path), str(path), path, lambda: read(path), lambda: sha256(path), path.resolve().parent.name, whole=True
    )


@lru_cache(maxsize=8)
def _kept(word: str) -> tuple[Item, ...]:
    """A data set that is asked for again and again, as its file was when it was asked for first."""
    return opened(word)


def opened(word: str) -> tuple[Item, ...]:
    """All pictures of a data set by its word.

    folder:DIR (the first folder below is the label), list:FILE (a path a line, and its label behind a tab or blank),
    coco:FILE.json, csv:FILE, cvat:FILE.xml, labelme:DIR, voc:DIR, yolo:FILE.yaml (?images=DIR as they have it), hf:DIR,
    webdataset:GLOB, torch:module:factory. Behind ?: phase=train, val or test; crops: the annotated objects in place of the pictures,
    each with margin=0.1 of its sides around; detections=FILE with score=0.5: the boxes of a detector in the place of annotated
    ones, COCO's results or boxes by file name.
    A picture's label is the class that all its objects have; a crop's label its own.
    Errors: BadInput for a word that names nothing, or a form that its file has not.
    """
    from torchloupe.sources.configs import spec

    kind, rest, query = spec(word)
    if not rest and kind != "folder":
        raise BadInput(f"data {word!r}: names nothing (is a variable of the shell unset?)")
    ours = {name: query.pop(name) for name in OURS if name in query}
    phase = str(ours.get("phase", "train"))
    if phase not in ("train", "val", "test"):
        raise BadInput(f"{word}: phase {phase!r}: expected train, val or test")
    crops = ours.get("crops", False) not in (False, 0, "no", "false", None) or "detections" in ours
    for name in ("margin", "score"):
        value = ours.get(name, 0)
        if not isinstance(value, int | float) or not 0 <= value <= (10 if name == "margin" else 1):
            raise BadInput(f"{word}: {name} {value!r}: expected a number from 0 to {10 if name == 'margin' else 1}")
        if name in ours and not (crops if name == "margin" else "detections" in ours):
            raise BadInput(f"{word}: {name} has no effect without {'crops' if name == 'margin' else 'detections=FILE'}")
    whole = _pictures(kind, rest, query, phase, word)
    if crops:
        found = (
            None
            if "detections" not in ours
            else detections(Path(str(ours["detections"])), rest if kind == "coco" else None)
        )
        least, margin = float(ours.get("score", 0)), float(ours.get("margin", 0))
        whole = [crop for picture in whole for crop in _crops(picture, found, least, margin)]
        if not whole:
            raise BadInput(f"{word}: no box in it to crop")
    return tuple(replace(one.item, where=f"{word}#{i}") for i, one in enumerate(whole))


@dataclass(frozen=True)
class _Picture:
    """A picture and, when asked, the boxes in it with their names: m of [left, top, right, bottom], one name each."""

    item: Item
    boxes: Callable[[], tuple[np.ndarray, Sequence[str]]]


def _no_boxes() -> tuple[np.ndarray, Sequence[str]]:
    return np.zeros((0, 4)), ()


def _pictures(kind: str, rest: str, query: Mapping[str, Any], phase: str, word: str) -> list[_Picture]:
    if kind in FILES:
        if query:
            raise BadInput(f"{word}: no option {next(iter(query))}; it takes {', '.join(OURS[:4])}")
        return [_Picture(item, _no_boxes) for item in (_folder if kind == "folder" else _listed)(Path(rest))]
    if kind in ANNOTATED:
        return list(_annotated(kind, rest, query, phase))
    if kind in FED:
        return list(_fed(kind, rest, query, phase, word))
    raise BadInput(f"data {word!r}: expected {', '.join(f'{name}:' for name in WORDS)}.{nearest(kind, WORDS)}")


def _folder(root: Path) -> Iterator[Item]:
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder of pictures")
    for file in images.find(root):
        inside = file.relative_to(root)
        label = legible(inside.parts[0]) if len(inside.parts) > 1 else ""
        yield replace(of_file(file), name=legible(inside.as_posix()), label=label)


def _listed(path: Path) -> Iterator[Item]:
    with reading(path, "a list of pictures (UTF-8 text, a path a line, and its label)"):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise BadInput(f"{path}: this list names no picture; expected one path a line")
    for line in lines:
        name, label = line, ""
        if not any(there(one) for one in (path.parent / line, Path(line))):
            mark = "\t" if "\t" in line else " "
            name, _, label = (part.strip() for part in line.rpartition(mark))
            name, label = (name, label) if name else (line, "")
        file = path.parent / name if there(path.parent / name) else Path(name).expanduser()
        yield replace(of_file(file), name=name, label=label)


# --- annotated pictures ----------------------------------------------------------------------------------------------


def _annotated(kind: str, rest: str, query: Mapping[str, Any], phase: str) -> Iterator[_Picture]:
    from torchloupe.sources.annotated import entries

    _, found = entries(kind, rest, query, phase)
    more = _table(Path(rest), [entry.name for entry in found]) if kind == "csv" else {}
    for row, entry in enumerate(found):
        file = entry.path

        def boxes(entry: Any = entry) -> tuple[np.ndarray, Sequence[str]]:
            try:
                marks = entry.known(size_of(entry.path)).marks
            except OSError:
                return _no_boxes()  # reading the picture says what is wrong with it
            return (np.zeros((0, 4)) if marks.boxes is None else marks.boxes), marks.names

        label = ""
        try:
            known = entry.known(size_of(file))
            classes = {*known.labels, *known.marks.names}
            label = str(classes.pop()) if len(classes) == 1 else ""
        except OSError:
            pass
        own = {name: column[row] for name, column in more.items()}
        yield _Picture(replace(of_file(file), name=legible(entry.name), label=label, columns=own), boxes)


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture as it stands upright, without reading its pixels. Errors: OSError."""
    from PIL import Image

    with Image.open(path) as image:
        wide, high = image.size
        return (high, wide) if image.getexif().get(0x0112, 1) >= 5 else (wide, high)


def _table(path: Path, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """The other columns of a table, where it has a row a picture."""
    from torchloupe.sources.annotated import BOX_COLUMNS, CLASS_COLUMNS, FILE_COLUMNS
    from torchloupe.sources.tables import from_csv

    if path.suffix not in (".csv", ".tsv"):
        return {}
    columns = from_csv(path)
    if any(len(column) != len(names) for column in columns.values()):
        return {}
    ours = {*FILE_COLUMNS, *CLASS_COLUMNS, *(name for names in BOX_COLUMNS for name in names), "ids", "id", "feats"}
    return {name: column for name, column in columns.items() if name.strip().lower() not in ours}


# --- data sets of items ----------------------------------------------------------------------------------------------


class Members:
    """The samples of WebDataset's tar files by number: members of one name, found by one pass over the headers."""

    def __init__(self, pattern: str) -> None:
        from torchloupe.sources.annotated import shard_files, tar_members

        self.files: list[str] = []
        self.places: list[tuple[str, dict[str, tuple[int, int]]]] = []
        for file in shard_files(pattern):
            last = None
            with reading(file, "a tar file"), tarfile.open(file) as archive:
                for key, kind, member in tar_members(archive):
                    if key != last:
                        self.files.append(key)
                        self.places.append((file, {}))
                        last = key
                    self.places[-1][1][kind] = member.offset_data, member.size
        if len(set(self.files)) < len(self.files):
            self.files = [f"{Path(file).stem}/{key}" for key, (file, _) in zip(self.files, self.places, strict=True)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from torchloupe.sources.annotated import decoded

        file, members = self.places[index]
        held = {}
        with open(file, "rb") as archive:
            for kind, (start, size) in members.items():
                archive.seek(start)
                held[kind] = archive.read(size)
        return decoded(held)


def _fed(kind: str, rest: str, query: Mapping[str, Any], phase: str, word: str) -> Iterator[_Picture]:
    """Of any data set with items, each as `loupe browse` shows it before its transforms."""
    from PIL import Image

    from torchloupe.sources.annotated import hugging_face
    from torchloupe.sources.datasets import Settings, StreamFeed, TorchFeed, torch_feed

    feed: Any
    more: Mapping[str, np.ndarray] = {}
    if kind == "torch":
        feed = torch_feed(word, rest, query, [], Settings())
        if isinstance(feed, StreamFeed):
            raise BadInput(f"{word}: a stream, whose samples have no numbers; give a data set with a length and items")
    else:
        if query:
            raise BadInput(f"{word}: no option {next(iter(query))}; it takes {', '.join(OURS)}")
        dataset = hugging_face(rest, phase) if kind == "hf" else Members(rest)
        more = _values(dataset) if kind == "hf" else {}
        feed = TorchFeed(dataset, rest, [], Settings())
    names = getattr(feed.dataset, "files", None)
    one_at_a_time = Lock()  # a sample is taken under a seed and with the transforms watched: both are the process's
    for i in range(len(feed)):

        def sample(i: int = i) -> Any:
            with one_at_a_time:
                return feed.sample(i, 0, whole=False)

        def load(sample: Callable[[], Any] = sample) -> Any:
            return Image.fromarray(np.ascontiguousarray(sample().original.pictures[0]))

        def stamp(load: Callable[[], Any] = load) -> str:
            image = load()
            return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()

        def boxes(sample: Callable[[], Any] = sample) -> tuple[np.ndarray, Sequence[str]]:
            marks = sample().original.marks
            return (np.zeros((0, 4)) if marks.boxes is None else marks.boxes), marks.names

        name = legible(str(names[i])) if isinstance(names, list) else f"{i:0{len(str(len(feed) - 1))}d}"
        own = {key: column[i] for key, column in more.items()}
        yield _Picture(Item(name, "", Path(name), load, stamp, _label(sample), own), boxes)


def _label(sample: Callable[[], Any]) -> str:
    try:
        return str(sample().label)
    except LoupeError:
        return ""  # reading the picture says what is wrong with it


def _values(dataset: Any) -> Mapping[str, np.ndarray]:
    """The plain columns of a data set of Hugging Face's."""
    from torchloupe.sources.truth import LABEL_KEYS

    plain = [
        name for name, kind in dataset.features.items() if type(kind).__name__ == "Value" and name not in LABEL_KEYS
    ]
    return {name: np.array([*dataset.select_columns([name])[:][name], None], object)[:-1] for name in plain}


# --- objects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """An object: its box, name and, of a detector, how sure it is."""

    box: Box
    name: str
    score: float = 1.0


def _crops(
    picture: _Picture, found: Mapping[str, list[Found]] | None, least: float, margin: float
) -> Iterator[_Picture]:
    item = picture.item
    if found is None:
        boxes, names = picture.boxes()
        things = [Found(tuple(box), str(names[k]) if k < len(names) else "") for k, box in enumerate(boxes.tolist())]
    else:
        keys = (item.name, item.path.name, item.path.stem)
        things = next((found[key] for key in keys if key in found), [])
    for k, thing in enumerate(things):
        if thing.score < least:
            continue

        def load(thing: Found = thing, k: int = k) -> Any:
            return cut(item.read(), thing.box, margin, f"{item.name}, object {k}")

        def stamp(thing: Found = thing) -> str:
            return hashlib.sha256(f"{item.stamp()} {thing.box} {margin}".encode()).hexdigest()

        columns: dict[str, Any] = {"picture": item.name, "box": " ".join(f"{edge:g}" for edge in thing.box)}
        columns |= {} if found is None else {"score": thing.score}
        path = item.path.with_name(f"{item.path.stem}-{k}{item.path.suffix}")
        yield _Picture(
            Item(f"{item.name}#{k}", "", path, load, stamp, thing.name, {**item.columns, **columns}), _no_boxes
        )


def cut(image: Any, box: Box, margin: float, name: str) -> Any:
    """The part of a PIL picture in a box, with a share of its sides around, as far as the picture goes.

    Errors: BadInput for a box that holds no pixel of it.
    """
    left, top, right, bottom = box
    across, up = margin * (right - left), margin * (bottom - top)
    edges = (left - across, top - up, right + across, bottom + up)
    if not np.isfinite(edges).all():
        raise BadInput(f"{name}: its box {box} is not finite")
    x0, y0 = max(0, int(np.floor(edges[0]))), max(0, int(np.floor(edges[1])))
    x1, y1 = min(image.width, int(np.ceil(edges[2]))), min(image.height, int(np.ceil(edges[3])))
    if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
        raise BadInput(
            f"{name}: its box {tuple(round(edge, 1) for edge in box)} holds no pixel of {image.width} x {image.height}"
        )
    return image.crop((x0, y0, x1, y1))


def detections(path: Path, annotations: str | None = None) -> Mapping[str, list[Found]]:
    """A detector's boxes by picture: COCO's results (a list of image_id, category_id, bbox, score; annotations: the file that says
    which pictures and classes the numbers are), or boxes by file name ({"cat.jpg": [[left, top, right, bottom], ...]}).
    Errors: BadInput for anything else."""
    if path.is_dir():
        raise BadInput(
            f"{path}: a folder; expected a file of boxes in pixels of the pictures: COCO's results, or boxes by file name"
        )
    with reading(path, "a detector's boxes (JSON)"):
        told = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(told, list):
        with reading(path, "results as COCO has them: image_id, category_id, bbox and score"):
            return _of_results(told, annotations)
    from torchloupe.sources.places import places

    known = places(path)
    return {
        name: [Found(tuple(map(float, thing.box)), thing.name or "") for thing in things if thing.box is not None]  # type: ignore[arg-type]
        for name, things in known.things.items()
    }


def _of_results(told: Sequence[Mapping[str, Any]], annotations: str | None) -> Mapping[str, list[Found]]:
    files: dict[str, str] = {}
    classes: dict[str, str] = {}
    if annotations is not None:
        held = json.loads(Path(annotations).read_text(encoding="utf-8"))
        files = {str(one["id"]): str(one["file_name"]) for one in held.get("images", ())}
        classes = {str(one["id"]): str(one.get("name", one["id"])) for one in held.get("categories", ())}
    found: dict[str, list[Found]] = {}
    for one in told:
        left, top, wide, high = map(float, one["bbox"])
        name, number = files.get(str(one["image_id"]), str(one["image_id"])), str(one.get("category_id", ""))
        box = (left, top, left + wide, top + high)
        found.setdefault(name, []).append(Found(box, classes.get(number, number), float(one.get("score", 1))))
    return found


def columns_of(found: Sequence[Item]) -> dict[str, np.ndarray]:
    """What is known of all of these as columns: labels where any has one, and the rest."""
    columns: dict[str, np.ndarray] = {}
    if any(item.label for item in found):
        columns[LABELS] = np.array([item.label for item in found])
    for name in dict.fromkeys(name for item in found for name in item.columns):
        columns[name if name not in ("ids", "feats", LABELS) else f"{name}_"] = np.array(
            [*(item.columns.get(name) for item in found), None], object
        )[:-1]
    return columns
