"""Pictures by any word that names them: the same ones in embed, cam and features; whole, or the objects in them."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchloupe.arrange import embed_file
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.sources import subject
from torchloupe.sources.images import read
from torchloupe.sources.items import _kept, columns_of, cut, detections, item_at, items, opened
from torchloupe.sources.samples import samples
from torchloupe.store import sha256


def picture(value: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(value).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    for i in range(4):
        folder = tmp_path / "photos" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def coco(photos):
    told = {
        "images": [{"id": 10 + i, "file_name": f"{('cat', 'dog')[i % 2]}/{i}.png", "width": 40, "height": 30} for i in range(4)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": [5, 6, 10, 8]},
            {"id": 2, "image_id": 11, "category_id": 7, "bbox": [0, 0, 20, 30]},
            {"id": 3, "image_id": 11, "category_id": 3, "bbox": [30, 20, 30, 30]},
        ],
    }  # fmt: skip
    (photos.parent / "coco.json").write_text(json.dumps(told))
    return photos.parent / "coco.json"


def pixels(item) -> np.ndarray:
    return np.asarray(item.read())


def test_files_folders_lists_and_words_are_the_same_pictures(photos, tmp_path):
    (tmp_path / "list.txt").write_text(
        "# three of them\nphotos/cat/0.png\tone\nphotos/dog/1.png two\nphotos/cat/2.png\n"
    )
    listed = opened(f"list:{tmp_path / 'list.txt'}")
    assert [item.label for item in listed] == ["one", "two", ""]
    (tmp_path / "t.csv").write_text(
        "path,label,taken,camera\nphotos/cat/0.png,c,2024-05-01,a\nphotos/dog/1.png,d,2024-05-03,b\n"
    )
    table = opened(f"csv:{tmp_path / 't.csv'}")
    folder = opened(f"folder:{photos}")
    for found in (listed[:2], table):
        for item, file in zip(found, (photos / "cat/0.png", photos / "dog/1.png"), strict=True):
            assert np.array_equal(pixels(item), np.asarray(read(file)))
            assert item.sha256() == sha256(file)
            assert str(item) == str(file)
            assert item_at(item.where).label == item.label
    assert [item.name for item in folder] == ["cat/0.png", "cat/2.png", "dog/1.png", "dog/3.png"]
    assert [item.label for item in folder] == ["cat", "cat", "dog", "dog"]
    columns = columns_of(table)
    assert columns["labels"].tolist() == ["c", "d"]
    assert columns["camera"].tolist() == ["a", "b"]
    data = samples(f"csv:{tmp_path / 't.csv'}")
    assert data.columns["taken"].tolist()[1].astype("datetime64[D]") == np.datetime64("2024-05-03")
    assert len(items([str(photos), f"folder:{photos}"])) == 4


def test_objects_of_an_annotation_by_slicing(coco, photos):
    word = f"coco:{coco}?images={photos}&crops"
    found = opened(word)
    assert [item.name for item in found] == ["cat/0.png#0", "dog/1.png#0", "dog/1.png#1"]
    assert [item.label for item in found] == ["cat", "dog", "cat"]
    first, second = np.asarray(read(photos / "cat/0.png")), np.asarray(read(photos / "dog/1.png"))
    assert np.array_equal(pixels(found[0]), first[6:14, 5:15])
    assert np.array_equal(pixels(found[1]), second[:, :20])
    assert np.array_equal(pixels(found[2]), second[20:, 30:])  # as far as the picture goes
    wide = opened(f"{word}&margin=0.5")
    assert np.array_equal(pixels(wide[0]), first[2:18, 0:20])
    assert len({item.sha256() for item in (*found, *wide)}) == 6
    assert np.array_equal(pixels(item_at(found[2].where)), pixels(found[2]))
    whole = opened(f"coco:{coco}?images={photos}")
    assert [item.label for item in whole] == ["cat", "", "", ""]


def test_a_detectors_boxes(coco, photos, tmp_path):
    results = [
        {"image_id": 11, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.9},
        {"image_id": 11, "category_id": 3, "bbox": [10, 2, 3, 4], "score": 0.2},
        {"image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.6},
    ]
    (tmp_path / "r.json").write_text(json.dumps(results))
    found = opened(f"coco:{coco}?images={photos}&detections={tmp_path / 'r.json'}&score=0.5")
    assert [(item.name, item.label, item.columns["score"]) for item in found] == [
        ("cat/0.png#0", "cat", 0.6),
        ("dog/1.png#0", "dog", 0.9),
    ]
    assert np.array_equal(pixels(found[1]), np.asarray(read(photos / "dog/1.png"))[2:6, 1:4])
    (tmp_path / "own.json").write_text(json.dumps({"3.png": [[2, 3, 12, 9]]}))
    (own,) = opened(f"folder:{photos}?detections={tmp_path / 'own.json'}")
    assert np.array_equal(pixels(own), np.asarray(read(photos / "dog/3.png"))[3:9, 2:12])
    with pytest.raises(BadInput, match="a folder; expected a file of boxes"):
        detections(photos)


def test_boxes_that_hold_nothing_are_refused():
    image = picture(0)
    for box in ((50.0, 0.0, 60.0, 9.0), (5.0, 5.0, 5.0, 9.0), (float("nan"), 0.0, 1.0, 1.0), (9.0, 9.0, 4.0, 12.0)):
        with pytest.raises(BadInput, match="cat: its box"):
            cut(image, box, 0.0, "cat")


def test_shards_are_read_by_number(tmp_path):
    def add(archive, name, data):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as archive:
            for i in range(3):
                raw = io.BytesIO()
                picture(10 * shard + i).save(raw, "PNG")
                add(archive, f"{shard}{i}.png", raw.getvalue())
                add(archive, f"{shard}{i}.cls", str(i).encode())
    found = opened(f"webdataset:{tmp_path}/s-*.tar")
    assert [item.name for item in found] == ["00", "01", "02", "10", "11", "12"]
    assert [item.label for item in found] == ["0", "1", "2"] * 2
    assert np.array_equal(pixels(found[4]), np.asarray(picture(11)))
    assert found[4].sha256() != found[3].sha256()


def test_a_data_set_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    held = {"image": [picture(i) for i in range(3)], "label": [1, 0, 1], "place": ["x", "y", "z"]}
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "place": datasets.Value("string"),
        }
    )
    datasets.Dataset.from_dict(held, features=features).save_to_disk(str(tmp_path / "hf"))
    data = samples(f"hf:{tmp_path / 'hf'}")
    assert data.columns["labels"].tolist() == ["dog", "cat", "dog"]
    assert data.columns["place"].tolist() == ["x", "y", "z"]
    assert np.array_equal(pixels(opened(f"hf:{tmp_path / 'hf'}")[2]), np.asarray(picture(2)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()


def test_crops_are_embedded_as_the_cropped_files_are(coco, photos, tmp_path):
    model = subject(net(), size=(16, 16), layers=("1",))
    word = f"coco:{coco}?images={photos}&crops"
    points = embed_file(model, samples(word), tmp_path / "a.npz")
    for i, item in enumerate(opened(word)):
        (tmp_path / "cut").mkdir(exist_ok=True)
        item.read().save(tmp_path / "cut" / f"{i}.png")
    plain = embed_file(model, samples(f"folder:{tmp_path / 'cut'}"), tmp_path / "b.npz")
    assert np.array_equal(points.feats, plain.feats)
    assert points.columns["picture"].tolist() == ["cat/0.png", "dog/1.png", "dog/1.png"]


def test_the_commands_take_the_same_words(coco, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torchloupe.examples.digits.net", net, raising=False)
    word = f"coco:{coco}?images={photos}&crops"
    model = ["--model", "torch:torchloupe.examples.digits:net", "--size", "16"]
    assert main(["cam", word, *model, "--layers", "1", "--save", str(tmp_path / "cam"), "--draw", "none"]) == 0
    assert sorted(path.stem for path in (tmp_path / "cam").glob("*.npz")) == ["0-0", "1-0", "1-1"]
    assert json.loads((tmp_path / "cam/1-1.json").read_text())["source"] == f"{word}#2"
    assert main(["features", word, *model, "--at", "1", "--save", str(tmp_path / "f"), "--draw", "none"]) == 0
    assert sorted(path.stem for path in (tmp_path / "f").glob("*.npz")) == [
        "0-0-features",
        "1-0-features",
        "1-1-features",
    ]
    assert main(["runs", str(tmp_path / "cam"), "--verify"]) == 0
    picture(99).save(photos / "dog/1.png")
    _kept.cache_clear()
    assert main(["runs", str(tmp_path / "cam"), "--verify"]) == 3
    assert f"1-1: its source {word}#2 has changed since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("coco:gone.json", "coco:gone.json: no such file or folder"),
        ("folder:photos?crops", "no box in it to crop"),
        ("folder:photos?margin=0.1", "margin has no effect without crops"),
        ("folder:photos?score=0.1", "score has no effect without detections=FILE"),
        ("folder:photos?crops&margin=-1", "margin -1: expected a number from 0 to 10"),
        ("folder:photos?image=x", "no option image; it takes crops, margin, detections, score"),
        ("webdataset:gone-*.tar", "no such tar files"),
        ("coca:x.json", "Did you mean coco"),
        ("coco:c.json?phase=late", "phase 'late': expected train, val or test"),
        ("list:empty.txt", "this list names no picture"),
    ],
)
def test_bad_words_are_one_clear_line(word, message, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        samples(word)
