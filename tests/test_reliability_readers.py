"""Every reader against damaged files: what it cannot read is one error of ours that names the file, quickly."""

from __future__ import annotations

import io
import json
import pickle
import random
import time
import warnings
import zlib
from collections.abc import Callable
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
from torchloupe.errors import LoupeError, one_line
from torchloupe.examples import figures
from torchloupe.examples import gait as walkers
from torchloupe.render.look import View
from torchloupe.runs.maps import _listed
from torchloupe.sources import images, points, poses, recorders, safe, sequences
from torchloupe.sources.assemble import class_names
from torchloupe.sources.configs import opengait_default, yaml_config
from torchloupe.sources.hrnet import experiment
from torchloupe.sources.opengait_config import read_config
from torchloupe.store.stream import Stream

QUICK, MANY = 200, 3000
CROP = poses.Crop()


class Reader(NamedTuple):
    """A reader and a sound file for it; name: what the file is called, from the folder on."""

    name: str
    content: Callable[[Path], bytes]
    read: Callable[[Path], Any]


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
    Reader("default.yaml", text(walkers.CONFIG), lambda path: opengait_default(path.parent / "x.yaml")),
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
    Reader("view.json", words({"elev": 1.0, "azim": 2.0, "zoom": 1.5}), lambda path: View.parse(str(path))),
)  # fmt: skip


def outcome(reader: Reader, path: Path, content: bytes) -> str:
    """'read', or the one line of why not; anything else is raised."""
    path.write_bytes(content)
    begun = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
        told = "read"
    except LoupeError as error:
        told = one_line(str(error))
        assert len(told) < 1000
        assert path.name in told or "truth.json" in told or "1.npz" in told, told
    assert time.process_time() - begun < 5
    return told


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_sound_file_is_read(reader: Reader, tmp_path: Path) -> None:
    assert outcome(reader, tmp_path / reader.name, reader.content(tmp_path)) == "read"


def damaged(reader: Reader, folder: Path, count: int) -> int:
    """How many of so many damaged files were refused; all others were read."""
    content, chance = reader.content(folder), random.Random(zlib.crc32(reader.name.encode()))
    refused = 0
    for i in range(count):
        bad = mutated(content, chance)
        try:
            refused += outcome(reader, folder / reader.name, bad) != "read"
        except Exception as error:
            raise AssertionError(f"mutation {i} of {reader.name}: {type(error).__name__}: {error}") from error
    return refused


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damage_ends_in_one_line(reader: Reader, tmp_path: Path) -> None:
    assert damaged(reader, tmp_path, QUICK // len(READERS) + 1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_much_damage_ends_in_one_line(reader: Reader, tmp_path: Path) -> None:
    assert damaged(reader, tmp_path, MANY) > MANY // 20
