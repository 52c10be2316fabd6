"""Where things are in pictures, as data sets write it: COCO JSON, VOC XML, masks as pictures, boxes and points of one's own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.errors import BadInput, BadSample, nearest
from torchloupe.probe import Batch, Subject
from torchloupe.sources.images import SUFFIXES, read
from torchloupe.store.reading import reads


@dataclass(frozen=True)
class Thing:
    """One object of a picture: its class ("" where none is told) and where it is, in pixels of the picture as it is stored.

    One of: box (left, top, right, bottom), the last two exclusive; polygons, (m, 2) each; mask (h, w) bool; point (column, row).
    """

    name: str = ""
    box: tuple[float, float, float, float] | None = None
    polygons: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    point: tuple[float, float] | None = None

    def drawn(self, height: int, width: int) -> np.ndarray:
        """(h, w) bool."""
        from PIL import Image, ImageDraw

        if self.mask is not None:
            return self.mask
        if self.polygons:
            canvas = Image.new("1", (width, height))
            for outline in self.polygons:
                ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in outline], fill=1)
            return np.asarray(canvas)
        found = np.zeros((height, width), bool)
        if self.point is not None:
            column, row = int(self.point[0]), int(self.point[1])
            if 0 <= row < height and 0 <= column < width:
                found[row, column] = True
        elif self.box is not None:
            left, top, right, bottom = (round(side) for side in self.box)
            found[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = True
        return found


@dataclass(frozen=True)
class Places:
    """What is known of many pictures. things: file name -> its objects; sizes: file name -> (h, w), where it is told.

    source: the file or folder, for messages.
    """

    source: str
    things: Mapping[str, tuple[Thing, ...]]
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """The classes that objects have."""
        return frozenset(thing.name.lower() for some in self.things.values() for thing in some if thing.name)

    def of(self, file: Path) -> tuple[Thing, ...]:
        """The objects of a picture. Errors: BadSample for a picture of which nothing is told."""
        for key in (file.name, file.stem):
            if key in self.things:
                return self.things[key]
        raise BadSample(f"{file}: {self.source} does not tell where things are in it.{nearest(file.name, self.things)}")

    def size(self, file: Path) -> tuple[int, int] | None:
        """(h, w) of a picture, where it is told."""
        return self.sizes.get(file.name, self.sizes.get(file.stem))


@reads("where things are in pictures: COCO JSON, boxes by file name, VOC XML, or a folder of them or of masks")
def places(path: str | Path) -> Places:
    """A COCO JSON, a JSON of boxes or points by file name, a folder of VOC XML files or of masks as pictures.

    JSON of one's own: {"cat.jpg": [[left, top, right, bottom], ...]}, or {"cat.jpg": [{"box": [...], "name": "cat"}, {"point":
    [column, row]}]}. Masks: a picture of the same name; one grey level an object, 0 and 255 (the border of VOC) nothing, or
    0 and 255 alone, 255 the object.
    Errors: BadInput for a file that is none of these, naming what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".xml":
        name, things, size = _voc(path)
        return Places(str(path), {name: things}, {name: size} if size else {})
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--truth {path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise BadInput(
            f"--truth {path}: not JSON ({error}); expected COCO JSON, boxes by file name, or a folder"
        ) from error
    if isinstance(told, dict) and "annotations" in told and "images" in told:
        return _coco(path, told)
    if isinstance(told, dict):
        return Places(
            str(path),
            {
                str(name): tuple(_own(path, str(name), one) for one in _list(path, name, some))
                for name, some in told.items()
            },
        )
    raise BadInput(
        f"--truth {path}: expected COCO JSON (images, annotations) or file name -> boxes, found {type(told).__name__}"
    )


def _list(path: Path, name: str, some: Any) -> list[Any]:
    if not isinstance(some, list):
        raise BadInput(f"--truth {path}: {name!r} holds {type(some).__name__}; expected a list of boxes or points")
    return some


def _own(path: Path, name: str, one: Any) -> Thing:
    told = one if isinstance(one, dict) else {"box": one}
    try:
        label = str(told.get("name", ""))
        if "point" in told:
            column, row = (float(side) for side in told["point"])
            return Thing(label, point=(column, row))
        left, top, right, bottom = (float(side) for side in told["box"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"--truth {path}: {name!r} holds {one!r}; expected [left, top, right, bottom], or a box or point with a name"
        ) from error
    if right <= left or bottom <= top:
        raise BadInput(
            f"--truth {path}: {name!r} holds the box {one!r}, which has no area; expected left, top, right, bottom"
        )
    return Thing(label, box=(left, top, right, bottom))


def _coco(path: Path, told: Mapping[str, Any]) -> Places:
    try:
        names = {one["id"]: str(one.get("name", one["id"])) for one in told.get("categories", ())}
        files = {one["id"]: Path(str(one["file_name"])).name for one in told["images"]}
        sizes = {
            files[one["id"]]: (int(one["height"]), int(one["width"]))
            for one in told["images"]
            if "height" in one and "width" in one
        }
        found: dict[str, list[Thing]] = {name: [] for name in files.values()}
        for one in told["annotations"]:
            if one["image_id"] in files:
                file = files[one["image_id"]]
                found[file].append(_annotated(one, names.get(one.get("category_id"), ""), sizes.get(file)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"--truth {path}: not COCO as it is written ({type(error).__name__}: {error})") from error
    return Places(str(path), {name: tuple(some) for name, some in found.items()}, sizes)


def _annotated(one: Mapping[str, Any], name: str, size: tuple[int, int] | None) -> Thing:
    shape = one.get("segmentation")
    if isinstance(shape, Mapping):
        height, width = (int(side) for side in shape["size"])
        counts = shape["counts"] if isinstance(shape["counts"], list) else _counts(str(shape["counts"]))
        return Thing(name, mask=_run_lengths(counts, height, width))
    if shape:
        return Thing(name, polygons=tuple(np.asarray(part, float).reshape(-1, 2) for part in shape if len(part) >= 6))
    left, top, wide, high = (float(side) for side in one["bbox"])
    return Thing(name, box=(left, top, left + wide, top + high))


def _run_lengths(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """COCO's run lengths, of 0 and 1 in turn, down the columns."""
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    if len(flat) != height * width:
        raise ValueError(f"run lengths of {len(flat)} pixels for {height} x {width}")
    return flat.astype(bool).reshape(width, height).T


def _counts(text: str) -> list[int]:
    """COCO's packed run lengths: six bits a sign, the differences to the last but one from the third on."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 31) << shift
            more = bool(bits & 32)
            place, shift = place + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _voc(path: Path) -> tuple[str, tuple[Thing, ...], tuple[int, int] | None]:
    try:
        text = path.read_text(encoding="utf-8")
        if "<!ENTITY" in text:
            raise BadInput(f"--truth {path}: declares entities, which VOC's files do not have; take them out")
        root = ElementTree.fromstring(text)
        name = Path(root.findtext("filename") or path.stem).name
        things = []
        for one in root.iter("object"):
            box = one.find("bndbox")
            if box is None:
                raise ValueError("an object without bndbox")
            left, top, right, bottom = (float(box.findtext(side) or "x") for side in ("xmin", "ymin", "xmax", "ymax"))
            # VOC counts pixels from 1, both ends inclusive
            things.append(Thing(one.findtext("name") or "", box=(left - 1, top - 1, right, bottom)))
        height, width = root.findtext("size/height"), root.findtext("size/width")
    except (OSError, ValueError, UnicodeDecodeError, ElementTree.ParseError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"--truth {path}: not VOC as it is written ({error})") from error
    return name, tuple(things), (int(height), int(width)) if height and width else None


def _folder(path: Path) -> Places:
    written = sorted(path.glob("*.xml"))
    if written:
        read_all = [_voc(file) for file in written]
        things = {name: some for name, some, _ in read_all}
        return Places(str(path), things, {name: size for name, _, size in read_all if size})
    masks = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not masks:
        raise BadInput(f"--truth {path}: no VOC file (.xml) and no mask (a picture) in this folder")
    return Places(str(path), _Masks({file.stem: file for file in masks}))


class _Masks(Mapping[str, tuple[Thing, ...]]):
    """Masks as pictures, read when they are asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> tuple[Thing, ...]:
        from PIL import Image

        try:
            with Image.open(self._files[name]) as image:
                levels = np.asarray(image if image.mode in ("P", "L", "1", "I", "I;16") else image.convert("L"))
        except (OSError, ValueError) as error:
            raise BadSample(f"{self._files[name]}: a mask that cannot be read ({error})") from error
        if levels.dtype == bool:
            levels = levels.astype(np.uint8)
        present = [int(level) for level in np.unique(levels) if level]
        if present != [255]:
            present = [level for level in present if level != 255]
        return tuple(Thing("", mask=levels == level) for level in present)

    def __iter__(self) -> Any:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def with_places(
    known: Places, batch: Batch, files: Sequence[Path], labels: Sequence[Sequence[str]], subject: Subject
) -> tuple[Batch, list[str]]:
    """The batch with truth["place"] and truth["others"] (n, k, t, h, w), and what should be said of it.

    Masks go through the same preparation as the pictures. labels: k questions of n names. Where the truth has classes and a
    question names one, its objects are the place and the rest are others; a question whose class the picture does not hold has no
    place; a question that names no class of the truth asks for all objects.
    Errors: BadSample for a picture of which nothing is told, or of another size than the truth says.
    """
    prepare = subject.prepare
    assert prepare is not None
    names = known.names
    said: dict[str, None] = {}
    place, others = [], []
    for i, file in enumerate(files):
        things = known.of(file)
        image = read(file)
        told = known.size(file)
        if told is not None and told != (image.height, image.width):
            raise BadSample(
                f"{file}: is {image.width} x {image.height}, {known.source} tells of {told[1]} x {told[0]}; the truth is of another picture"
            )
        for thing in things:
            if thing.mask is not None and thing.mask.shape != (image.height, image.width):
                raise BadSample(
                    f"{file}: is {image.width} x {image.height}, its mask in {known.source} {thing.mask.shape[1]} x {thing.mask.shape[0]}"
                )
        seen: dict[frozenset[int], Tensor] = {}

        def mask(
            which: frozenset[int], things: Any = things, image: Any = image, seen: Any = seen, file: Path = file
        ) -> Tensor:
            if which not in seen:
                union = np.zeros((image.height, image.width), bool)
                for number in which:
                    union |= things[number].drawn(image.height, image.width)
                seen[which] = _prepared(union, prepare, file)
            found: Tensor = seen[which]
            return found

        own_rows, other_rows = [], []
        for question in labels:
            wanted = {part.strip().lower() for part in question[i].rpartition(" [")[0].split(",") or ()} | {
                part.strip().lower() for part in question[i].split(",")
            }
            if names & wanted:
                own = frozenset(j for j, thing in enumerate(things) if thing.name.lower() in wanted)
            else:
                own = frozenset(range(len(things)))
                if names:
                    said[f"--truth: no class {question[i]!r} in {known.source}; all its objects count as the place"] = (
                        None
                    )
            own_rows.append(mask(own))
            other_rows.append(mask(frozenset(range(len(things))) - own))
        place.append(torch.stack(own_rows))
        others.append(torch.stack(other_rows))
    t = batch.size[0]
    widen = lambda rows: torch.stack(rows)[:, :, None].expand(-1, -1, t, -1, -1)
    own_masks, other_masks = widen(place), widen(others)
    truth = {**batch.truth, "place": own_masks}
    if other_masks.any():
        truth["others"] = other_masks & ~own_masks
    return replace(batch, truth=truth), list(said)


def _prepared(mask: np.ndarray, prepare: Any, file: Path) -> Tensor:
    """A mask of the stored picture (h, w) as the model sees it (h', w') bool, by way of a black and white picture."""
    from PIL import Image

    image = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    seen = prepare([image], (str(file),)).pictures
    if seen is None:
        raise BadInput(
            "this model's preparation shows no picture, so truth cannot be carried to its input; use loupe.placed"
        )
    found: Tensor = seen[0, 0, :, :, 0] > 127
    # a point may fall between the pixels of a smaller input
    if mask.any() and not found.any():
        found = seen[0, 0, :, :, 0] == seen[0, 0, :, :, 0].max() if seen[0, 0].max() > 0 else found
    return found
