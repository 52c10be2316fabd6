"""Heatmaps as features: a model that follows a mark in the corner is found out; errors stand as a column; points are a kind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import torchloupe as loupe
from torchloupe.arrange import clusters_file, embed_file, write_points
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.kinds.points import Feature
from torchloupe.methods.clusters import are_wrong, errors
from torchloupe.points import Points
from torchloupe.runs.reasons import reasons
from torchloupe.sources import subject
from torchloupe.sources.points import read_points
from torchloupe.sources.samples import samples


def bright() -> nn.Module:
    """Class 0: a bright square anywhere, such as a mark in the corner; class 1: a red one."""
    conv = nn.Conv2d(3, 2, 5, padding=2)
    with torch.no_grad():
        conv.weight[0], conv.bias[0] = 1 / 75, -0.5
        conv.weight[1], conv.bias[1] = -1 / 50, 0.0
        conv.weight[1, 0] = 1 / 25
    net = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[4].weight.copy_(4 * torch.eye(2))
        net[4].bias.zero_()
    return net


@pytest.fixture
def pictures(tmp_path):
    """12 horses, half of them by the mark in their corner alone; 24 others, 4 of them with the mark, hence wrong."""
    random = np.random.default_rng(0)
    for k in range(36):
        image = random.normal(90, 12, (32, 32, 3))
        kind = "horse" if k < 12 else "other"
        if k < 6 or k >= 32:
            image[2:7, 2:7] = 250
        elif kind == "horse":
            image[12:22, 14:24] = 250
        else:
            image[24:30, 20:30, 0] = 200
            image[24:30, 20:30, 1:] = 40
        folder = tmp_path / "pictures" / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{k:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def run(pictures, tmp_path, monkeypatch):
    (tmp_path / "classes.txt").write_text("horse\nother\n")
    monkeypatch.setattr("torchloupe.examples.digits.bright", bright, raising=False)
    words = [
        "cam",
        pictures,
        "--model",
        "torch:torchloupe.examples.digits:bright",
        "--size",
        32,
        "--mean",
        0,
        0,
        0,
        "--std",
    ]
    words += [
        1,
        1,
        1,
        "--classes",
        tmp_path / "classes.txt",
        "--layers",
        "1",
        "--save",
        tmp_path / "run",
        "--draw",
        "none",
    ]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "run"


def test_reasons_are_the_maps_themselves(run):
    points = reasons(run, side=8)
    assert points.feats.shape == (36, 64)
    assert points.columns["labels"].tolist() == ["horse"] * 12 + ["other"] * 24
    held = loupe.results(run)
    for row, id in enumerate(points.ids.tolist()):
        (raw,) = held[id].maps.values()
        means = raw[0, 0].astype(float).reshape(8, 4, 8, 4).mean((1, 3)).ravel()
        assert np.allclose(points.feats[row], means / np.sqrt((means**2).sum()), atol=1e-6)
    assert points.columns["predicted"].tolist() == [held[id].questions[0] for id in points.ids.tolist()]
    assert points.columns["file"][0].endswith("/horse/00.png")


def test_the_commands_find_the_mark_and_its_errors(run, tmp_path, capsys):
    def go(*words):
        return main([str(word) for word in words])

    capsys.readouterr()
    assert go("embed", "--of", "maps", run, "-o", tmp_path / "m.npz") == 0
    assert "36 maps of gradcam at 1, 16 x 16, 4 of 36 labelled ones wrong" in capsys.readouterr().out
    assert go("clusters", tmp_path / "m.npz", "-o", tmp_path / "c.npz", "--count", 3) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("c.npz: 3 clusters, 0 points in none")
    assert shown[2].split()[:3] == ["2", "10", "40.0%"]
    assert "horse 60%, other 40%" in shown[2]
    made = read_points(tmp_path / "c.npz")
    marked = made.columns["cluster"] == "2"
    assert sorted(int(id[-2:]) for id in made.ids[marked].tolist()) == [0, 1, 2, 3, 4, 5, 32, 33, 34, 35]
    assert made.record["clusters"][0]["errors"] == pytest.approx(0.4)
    for words, message in (
        (("embed", "--of", "maps", run, "--model", "x"), "--model: has no effect with --of maps"),
        (("embed", "--of", "maps"), "name the folder of heatmaps"),
        (("embed", run, "--model", "x", "--data", "folder:."), "has a meaning with --of maps alone"),
        (("embed", "--model", "x"), "--data: missing"),
        (("embed", "--of", "maps", run, "--method", "layercam"), "no maps of 'layercam'; it holds gradcam"),
        (
            ("embed", "--of", "maps", run, "--question", "hose"),
            "no map answers the question 'hose'. Did you mean horse?",
        ),
        (("clusters", tmp_path / "m.npz", "--smallest", 5), "--smallest 5: has no effect"),
        (("clusters", tmp_path / "m.npz", "--errors", "question"), "column 'question' holds 'horse'"),
    ):
        assert go(*words, "-o", tmp_path / "x.npz") == 2
        assert message in capsys.readouterr().err


def test_maps_that_are_zero_are_left_out_and_others_refused(run, tmp_path):
    record = json.loads((run / "00.json").read_text())
    arrays = dict(np.load(run / "00.npz"))
    (name,) = (name for name in arrays if name.startswith("map/"))
    np.savez(run / "00.npz", **{**arrays, name: np.zeros_like(arrays[name])})
    with pytest.warns(LoupeWarning, match="1 of 36 maps are zero everywhere and left out: 00"):
        assert len(reasons(run)) == 35
    write_points(Points(np.zeros((3, 2)), np.arange(3).astype(str), {}, {"kind": "features"}), tmp_path / "p" / "f.npz")
    with pytest.raises(BadInput, match="f is of kind 'features', without heatmaps"):
        reasons(tmp_path / "p")
    np.savez(run / "00.npz", **arrays, **{name.replace("gradcam", "layercam"): arrays[name]})
    record["methods"]["layercam"] = record["methods"]["gradcam"]
    (run / "00.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match="choose one by --method gradcam --layer 1 or --method layercam --layer 1"):
        reasons(run)


def test_errors_by_names_of_classes():
    predicted = np.array(["tabby, tabby cat", "dog", "dog", "dog"])
    assert errors(predicted, np.array(["Tabby cat", "dog", "tabby", ""])).tolist() == ["right", "right", "wrong", ""]
    assert errors(np.array(["3", "4"]), np.array([3, 5])).tolist() == ["right", "wrong"]
    assert errors(predicted, np.array(["day", "night", "day", ""])) is None
    assert are_wrong(np.array([True, False]), "c").tolist() == [True, False]
    assert are_wrong(np.array(["wrong", ""]), "c").tolist() == [True, False]


def test_a_classifier_says_its_best_class_beside_the_features(pictures, tmp_path):
    model = subject(
        bright().eval(), size=(32, 32), layers=("1",), mean=(0, 0, 0), std=(1, 1, 1), classes=("horse", "other")
    )
    points = embed_file(model, samples(f"folder:{pictures}"), tmp_path / "f.npz", layer="1", batch=5)
    assert points.columns["predicted"].tolist() == ["horse"] * 12 + ["other"] * 20 + ["horse"] * 4
    assert points.columns["errors"].tolist() == ["right"] * 32 + ["wrong"] * 4
    made, found = clusters_file(tmp_path / "f.npz", tmp_path / "c.npz")
    assert found[0].errors == max(group.errors for group in found)
    assert set(made.columns["cluster"].tolist()) == {str(i + 1) for i in range(len(found))}


def test_points_are_a_kind_of_result(tmp_path):
    points = Points(np.eye(4, 3), np.array(list("abcd")), {"labels": np.array([1, 1, 2, 2]), "file": np.array(list("efgh"))},
                    {"kind": "projection", "method": "pca", "numbers": {"trustworthiness": 0.5}})  # fmt: skip
    write_points(points, tmp_path / "run" / "map.npz")
    found = loupe.results(tmp_path / "run")
    assert found.table == [{"id": "map", "points": 4, "width": "3", "method": "pca", "trustworthiness": 0.5}]
    back = found["map"]
    assert isinstance(back, Points)
    assert np.array_equal(back.feats, points.feats)
    assert back.ids.tolist() == list("abcd")
    assert back.columns["labels"].tolist() == [1, 1, 2, 2]
    assert back.columns["file"].tolist() == list("efgh")
    with pytest.raises(BadInput, match="no points in it"):
        Points.read({"x": np.zeros(3)}, {}, "odd")
    feature = Feature(np.array([3.0, 4.0]), 2, {"kind": "feature"})
    again = Feature.read(feature.arrays(), feature.record)
    assert (again.values.tolist(), again.predicted, again.row()) == (
        [3, 4],
        2,
        {"numbers": 2, "length": 5, "predicted": 2},
    )
