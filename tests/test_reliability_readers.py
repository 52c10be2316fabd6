"""Every reader against damaged files: what it cannot read is one error of ours that names the file, quickly."""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mutations import mutated
from PIL import Image
from safetensors.torch import save_file

from torchloupe import store
from torchloupe.errors import BadInput, LoupeError, one_line
from torchloupe.examples import figures
from torchloupe.examples import gait as walkers
from torchloupe.gait import _cached, _write
from torchloupe.render.kinds import Wish, redraw
from torchloupe.render.look import View
from torchloupe.render.style import Style
from torchloupe.render.video import write_video
from torchloupe.runs.maps import _listed
from torchloupe.sources import annotated as annotations
from torchloupe.sources import images, places, points, poses, recorders, safe, sequences, subject
from torchloupe.sources.assemble import class_names
from torchloupe.sources.configs import opengait_default, yaml_config
from torchloupe.sources.examples import as_batch
from torchloupe.sources.hrnet import experiment
from torchloupe.sources.opengait_config import read_config
from torchloupe.store.stream import Stream
from torchloupe.targets.retrieval import Gallery

QUICK, MANY = 200, 3000
CROP = poses.Crop()


class Reader(NamedTuple):
    """A reader and a sound file for it; every: one of so many mutations, for readers that do more than read."""

    name: str
    content: Callable[[Path], bytes]
    read: Callable[[Path], Any]
    every: int = 1


def npz(path: Path, compressed: bool = False) -> bytes:
    held = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    save(held, feats=rows, labels=np.array(list("aabbcc")), depth=np.arange(6.0), ids=np.arange(6))
    return held.getvalue()


def npy(_: Path, shape: tuple[int, ...] = (6, 4)) -> bytes:
    held = io.BytesIO()
    np.save(held, np.arange(np.prod(shape)).reshape(shape))
    return held.getvalue()


def parquet(_: Path) -> bytes:
    import pyarrow
    import pyarrow.parquet

    held = io.BytesIO()
    rows = {
        "ids": list("012345"),
        "feats": np.eye(6).tolist(),
        "labels": list("xyxyxy"),
        "depth": [1.0, 2, None, 4, 5, 6],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), held)
    return held.getvalue()


def table(_: Path) -> bytes:
    return b"id,labels,when\n" + b"".join(f"{i},name {i},2024-01-0{i + 1}\n".encode() for i in range(6))


def picture(kind: str, _: Path) -> bytes:
    held = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 31, 3), dtype=np.uint8)
    Image.fromarray(noise).save(held, kind)
    return held.getvalue()


def state() -> dict[str, torch.Tensor]:
    return {
        "conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2),
        "conv.bias": torch.zeros(2),
        "steps": torch.tensor(3),
    }


def checkpoint(_: Path, old: bool = False) -> bytes:
    held = io.BytesIO()
    torch.save({"state_dict": state(), "epoch": 3}, held, _use_new_zipfile_serialization=not old)
    return held.getvalue()


def safetensors(folder: Path) -> bytes:
    save_file(state(), folder / "sound", metadata={"format": "pt"})
    return (folder / "sound").read_bytes()


def words(value: Any) -> Callable[[Path], bytes]:
    return lambda _: json.dumps(value, indent=1).encode()


def text(value: str) -> Callable[[Path], bytes]:
    return lambda _: value.encode()


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 80}],
    "annotations": [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [5, 6, 30 + i, 50], "area": 900, "iscrowd": 0, "num_keypoints": 17,
         "keypoints": [10 + i, 12, 2] * 17, "segmentation": [[1, 2, 3, 4, 5, 9]]} for i in range(2)
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": [f"joint {i}" for i in range(17)], "skeleton": [[1, 2], [3, 4]]}],
}  # fmt: skip
MPII = [
    {"image": "a.jpg", "center": [30.0, 40.0], "scale": 0.4, "joints": [[1.0 + i, 2.0] for i in range(16)],
     "joints_vis": [1] * 16, "head": [1, 2, 3, 4]}
]  # fmt: skip
RHD = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "bbox": [1, 2, 30, 40],
            "keypoints": [5, 6, 1] * 21,
            "joint_cam": [[1.0, 2.0, 3.0]] * 21,
        }
    ],
    "categories": [{"id": 1, "name": "hand", "keypoints": list(poses.HAND.joints)}],
}
DETECTED = [{"image_id": 1, "category_id": 1, "bbox": [5, 6, 30, 50], "score": 0.9}]
MAP = {"kind": "maps", "id": "a", "layers": {"l": {"size": [1, 3, 3]}}, "methods": {"gradcam": {"signed": False}}}


def with_labels(path: Path) -> Any:
    sound = points.Points(np.eye(6), np.array(list("012345")), {}, {})
    return points.with_labels(sound, path)


def posed(read: Callable[..., Any], path: Path) -> Any:
    data = read(path, path.parent, CROP)
    for person in data.people[:2]:
        picture = np.zeros((80, 60, 3), np.uint8)
        poses.read(person, CROP, picture)
    return data


def detected(path: Path) -> Any:
    (path.parent / "truth.json").write_text(json.dumps(COCO))
    return poses.coco(path.parent / "truth.json", path.parent, CROP, detections=path)


def streamed(path: Path) -> Any:
    (path.parent / "ig").mkdir(exist_ok=True)
    (path.parent / "ig.json").write_text("{}")
    (path.parent / "ig" / "1.npz").write_bytes(path.read_bytes())
    return Stream(path.parent, "ig").arrays("1")


def streamed_record(path: Path) -> Any:
    return Stream(path.parent, path.stem).settings()


BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
VOC = (
    "<annotation><filename>a.png</filename><size><width>12</width><height>10</height></size>"
    f"<object><name>cat</name>{BOX}</object></annotation>"
)
CVAT = (
    '<annotations><image name="a.png" width="12" height="10"><box label="cat" xtl="1" ytl="2" xbr="9" ybr="8"/>'
    '<polygon label="dog" points="1,2;3,4;5,1"/></image></annotations>'
)
LABELME = {
    "imagePath": "a.png", "imageWidth": 12, "imageHeight": 10,
    "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [9, 8]]},
               {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [3, 4], [5, 1]]}],
}  # fmt: skip
THINGS = {
    "images": [{"id": 1, "file_name": "a.png", "width": 12, "height": 10}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "segmentation": [[1, 2, 3, 4, 5, 1]]},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 5, 6],
            "segmentation": {"size": [10, 12], "counts": [20, 100]},
        },
    ],
    "categories": [{"id": 1, "name": "cat"}],
}


def annotated(kind: str, path: Path) -> Any:
    (path.parent / "a.png").write_bytes(picture("PNG", path))
    (path.parent / "images").mkdir(exist_ok=True)
    (path.parent / "labels").mkdir(exist_ok=True)
    (path.parent / "images" / "a.png").write_bytes(picture("PNG", path))
    if path.name == "a.txt":
        (path.parent / "labels" / "a.txt").write_bytes(path.read_bytes())
    elif kind == "yolo":
        (path.parent / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.3\n")
    config = path.with_name("data.yaml")
    if path.name == "a.txt":
        config.write_text(YOLO)
    _, found = annotations.entries(kind, str(config if kind == "yolo" else path), {}, "train")
    return [entry.known((12, 10)) for entry in found]


YOLO = "path: .\ntrain: images\nval: images\nnames: {0: cat, 1: dog}\n"


def drawn(path: Path) -> Any:
    picture, cells = np.zeros((1, 9, 9, 3), np.uint8), np.ones((1, 1, 3, 3))
    np.savez(path.with_suffix(".npz"), **{"picture": picture, "map/gradcam/l": cells, "score": np.ones(1)})
    return redraw([path.with_suffix(".npz")], str(path.parent / "drawn"), Wish(Style(dpi=40)))


def drawn_arrays(path: Path) -> Any:
    path.with_suffix(".json").write_text(json.dumps(DRAWN))
    return redraw([path], str(path.parent / "drawn"), Wish(Style(dpi=40)))


def maps_npz(_: Path) -> bytes:
    held = io.BytesIO()
    picture, cells = np.zeros((1, 9, 9, 3), np.uint8), np.ones((1, 1, 3, 3))
    np.savez(held, **{"picture": picture, "map/gradcam/l": cells, "score": np.ones(1)})  # type: ignore[arg-type]
    return held.getvalue()


def gallery(folder: Path) -> bytes:
    names = tuple(f"00{i}-nm-090" for i in range(4))
    _write(
        folder / "sound.npz",
        Gallery(torch.randn(4, 6, 2), names, names, digest="d", conditions=names, views=names, digests=names),
    )
    return (folder / "sound.npz").read_bytes()


def kept_gallery(path: Path) -> Any:
    """A damaged one is made anew without a word, so it is None here."""
    found = _cached(path)
    if found is None:
        raise BadInput(f"{path}: made anew")
    assert len(found.embeddings) == len(found.names) == len(found.identities) == len(found.digests)
    return found


def film(folder: Path) -> bytes:
    frames = [np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8) for i in range(3)]
    return write_video(frames, folder / "sound.mp4").read_bytes()


def example(_: Path) -> bytes:
    held = io.BytesIO()
    torch.save({"x": torch.zeros(2, 3, 4, 4), "depth": torch.ones(2)}, held)
    return held.getvalue()


def example_npz(_: Path) -> bytes:
    held = io.BytesIO()
    np.savez(held, x=np.zeros((2, 3, 4, 4), np.float32), depth=np.ones(2))
    return held.getvalue()


def vit(folder: Path, name: str) -> bytes:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(folder)
    return (folder / name).read_bytes()


def transformer(path: Path) -> Any:
    return subject(f"transformers:{path.parent}", device="cpu")


DRAWN = {**MAP, "questions": ["cat"], "scores": [0.5], "picture": "seen", "empty": [], "classes": {}}

READERS = (
    Reader("a.png", partial(picture, "PNG"), images.read),
    Reader("a.jpg", partial(picture, "JPEG"), images.read),
    Reader("a.gif", partial(picture, "GIF"), images.read),
    Reader("a.tif", partial(picture, "TIFF"), images.read),
    Reader("a.webp", partial(picture, "WEBP"), images.read),
    Reader("a.bmp", partial(picture, "BMP"), images.read),
    Reader("pose.png", partial(picture, "PNG"), poses._opened),
    Reader("walk.png", partial(picture, "PNG"), sequences._picture),
    Reader("list.txt", text("a.png\n# no\nb/c.png\n"), images._listed),
    Reader("points.npz", npz, points.read_points),
    Reader("packed.npz", partial(npz, compressed=True), points.read_points),
    Reader("points.npy", npy, points.read_points),
    Reader("points.parquet", parquet, points.read_points),
    Reader("record.json", words({"kind": "projection", "layer": "l", "seconds": 3}), points.read_record),
    Reader("labels.csv", table, with_labels),
    Reader("labels.npz", npz, with_labels),
    Reader("labels.npy", lambda folder: npy(folder, (6,)), with_labels),
    Reader("labels.parquet", parquet, with_labels),
    Reader("classes.txt", text("cat\ndog\nbird\n"), class_names),
    Reader("classes.json", words({"0": "cat", "1": "dog"}), class_names),
    Reader("truth.txt", text("a.png cat\nb.png dog\n"), _listed),
    Reader("coco.json", words(COCO), partial(posed, poses.coco)),
    Reader("mpii.json", words(MPII), partial(posed, poses.mpii)),
    Reader("rhd.json", words(RHD), partial(posed, poses.rhd)),
    Reader("boxes.json", words(DETECTED), detected),
    Reader("gait.yaml", text(walkers.CONFIG), read_config),
    Reader("default.yaml", text(walkers.CONFIG), lambda path: opengait_default(path.parent / "x.yaml"), 2),
    Reader("config.yaml", text(walkers.CONFIG), lambda path: yaml_config(path, {})),
    Reader("hrnet.yaml", lambda folder: figures.config(folder / "sound.yaml").read_bytes(), experiment),
    Reader("recorders.yaml", text("recorders:\n- {type: ModuleOutputs, source: a, layer: b}\nmappings: {a: {recorder: b}}\n"),
           recorders.read),
    Reader("walk.pkl", lambda _: pickle.dumps(np.zeros((5, 8, 6), np.uint8)), sequences.read_pickle),
    Reader("w.pth", checkpoint, safe.load_state),
    Reader("old.pth", partial(checkpoint, old=True), safe.load_state),
    Reader("w.safetensors", safetensors, safe.load_state),
    Reader("result.npz", npz, store.load_arrays),
    Reader("small.npz", partial(npz, compressed=True), store.load_arrays),
    Reader("result.json", words(MAP), store.load_record),
    Reader("stream.npz", npz, streamed),
    Reader("ig.json", words({"model": "m", "skeleton": {"joints": ["a"]}}), streamed_record),
    Reader("maps.json", words(DRAWN), drawn, 8),
    Reader("maps.npz", maps_npz, drawn_arrays, 8),
    Reader("things.json", words(THINGS), partial(annotated, "coco")),
    Reader("data.yaml", text(YOLO), partial(annotated, "yolo"), 4),
    Reader("a.txt", text("0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.2 0.1\n"), partial(annotated, "yolo")),
    Reader("labelme.json", words(LABELME), partial(annotated, "labelme")),
    Reader("cvat.xml", text(CVAT), partial(annotated, "cvat")),
    Reader("table.csv", text("file,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,9,8\na.png,dog,1,1,3,3\n"), partial(annotated, "csv")),
    Reader("places.json", words({"a.png": [[1, 2, 9, 8], {"point": [3, 4], "name": "cat"}]}), places.places),
    Reader("coco-places.json", words(THINGS), places.places),
    Reader("places.xml", text(VOC), places.places),
    Reader("gallery.npz", gallery, kept_gallery),
    Reader("walk.mp4", film, sequences._video, 40),  # each in a process of its own
    Reader("walk.gif", partial(picture, "GIF"), sequences._video),
    Reader("example.npz", example_npz, as_batch),
    Reader("example.npy", lambda folder: npy(folder, (2, 3, 4, 4)), as_batch),
    Reader("example.pt", example, as_batch),
    Reader("config.json", lambda folder: vit(folder, "config.json"), transformer, 20),
    Reader("model.safetensors", lambda folder: vit(folder, "model.safetensors"), transformer, 20),
    Reader("view.json", words({"elev": 1.0, "azim": 2.0, "zoom": 1.5}), lambda path: View.parse(str(path))),
)  # fmt: skip


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A reader that wants all memory of the machine gets an error, not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(reader: Reader, path: Path, content: bytes) -> str:
    """'read', or the one line of why not; anything else is raised."""
    path.write_bytes(content)
    begun, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
        told = "read"
    except LoupeError as error:
        told = one_line(str(error))
        assert any(
            name in told for name in (path.name, path.stem, path.parent.name, "truth.json", "1.npz", "labels")
        ), told
    assert time.process_time() - begun < 15  # torch looks for a name of 25,000 letters in its own words for six seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 500_000, "KB, for a file of a few hundred bytes"
    return told


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_sound_file_is_read(reader: Reader, tmp_path: Path) -> None:
    assert outcome(reader, tmp_path / reader.name, reader.content(tmp_path)) == "read"


def damaged(reader: Reader, folder: Path, count: int) -> int:
    """How many of so many damaged files were refused; all others were read."""
    content, chance = reader.content(folder), random.Random(zlib.crc32(reader.name.encode()))
    refused = 0
    for i in range(max(count // reader.every, 8)):
        bad = mutated(content, chance)
        try:
            refused += outcome(reader, folder / reader.name, bad) != "read"
        except Exception as error:
            raise AssertionError(f"mutation {i} of {reader.name}: {type(error).__name__}: {error}") from error
    return refused


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damage_ends_in_one_line(reader: Reader, tmp_path: Path) -> None:
    assert damaged(reader, tmp_path, QUICK) > 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_much_damage_ends_in_one_line(reader: Reader, tmp_path: Path) -> None:
    assert damaged(reader, tmp_path, MANY) > MANY // reader.every // 20
