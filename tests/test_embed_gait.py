"""Gait data embedded by the one command, and the demo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe.cli import main
from torchloupe.examples import gait as example
from torchloupe.examples.walkers import write_tree
from torchloupe.sources.points import read_points
from torchloupe.sources.samples import samples


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("gait")
    torch.manual_seed(0)
    torch.save({"model": example.network().state_dict()}, root / "gaitset.pt")
    config = example.CONFIG.replace("data_cfg:\n", f"data_cfg:\n  dataset_root: {root / 'tree'}\n")
    (root / "gaitset.yaml").write_text(config)
    write_tree(root / "tree", (1, 2, 3), ("nm-01", "cl-01"), ("000", "090"), frames=8)
    return root


def test_a_tree_is_samples_with_identity_type_and_view(place):
    found = samples(f"sequences:{place / 'tree'}")
    assert len(found) == 12
    assert found.ids[0] == "001-cl-01-000"
    assert found.columns["labels"].tolist() == ["001"] * 4 + ["002"] * 4 + ["003"] * 4
    assert found.columns["type"].tolist() == (["cl-01"] * 2 + ["nm-01"] * 2) * 3
    assert found.columns["view"].tolist() == ["000", "090"] * 6
    assert found.together == 1


def test_tsne_in_one_command(place, tmp_path, capsys):
    words = ["tsne", "-c", str(place / "gaitset.yaml"), "-w", str(place / "gaitset.pt"), "-s", str(tmp_path / "out")]
    words += ["-e", "2", "-T", "perplexity=3", "n_iter=20", "--seed", "1597", "--device", "cpu", "--title", "Walkers"]
    assert main([*words, "--verbose"]) == 0
    said = capsys.readouterr()
    assert "embedding 12/12" in said.err
    assert "t-SNE " in said.err
    feats, points = read_points(tmp_path / "out" / "feats.npz"), read_points(tmp_path / "out" / "points.npz")
    assert feats.feats.shape == (12, 64, 62)
    assert points.feats.shape == (12, 2)
    assert points.labels.tolist() == feats.labels.tolist()
    assert points.record["parameters"] == {"perplexity": 3, "n_iter": 20}
    assert points.record["prepared"]["normalize"] is None
    assert Image.open(tmp_path / "out" / "points.png").size == (1200, 1200)
    with torch.no_grad():
        walk = torch.from_numpy(_silhouettes(place / "tree/002/nm-01/090/090.pkl"))[None, :, :, 10:-10] / 255
        torch.manual_seed(0)
        expected = example.network().eval()(walk)[0].numpy()
    row = feats.ids.tolist().index("002-nm-01-090")
    assert np.allclose(feats.feats[row], expected, atol=1e-4)
    when = (tmp_path / "out" / "feats.npz").stat().st_mtime_ns
    assert main([*words, "--save-ext", "svg", "--color-by", "view"]) == 0
    assert (tmp_path / "out" / "feats.npz").stat().st_mtime_ns == when
    assert (tmp_path / "out" / "points.svg").is_file()
    torch.manual_seed(1)
    torch.save({"model": example.network().state_dict()}, tmp_path / "other.pt")
    words[words.index("-w") + 1] = str(tmp_path / "other.pt")
    assert main(words) == 0
    assert (tmp_path / "out" / "feats.npz").stat().st_mtime_ns > when


def _silhouettes(file) -> np.ndarray:
    from torchloupe.sources.sequences import read_pickle

    return read_pickle(file).astype(np.float32)


def test_tsne_bad_input(place, tmp_path, capsys):
    config = tmp_path / "bare.yaml"
    config.write_text(example.CONFIG)
    for words, message in (
        (["-c", str(config)], "names no dataset_root"),
        (["-c", str(config), "-d", str(place / "tree")], "no checkpoint is known"),
        (["-c", str(tmp_path / "absent.yaml")], "absent.yaml"),
        (
            ["-c", str(config), "-d", str(tmp_path / "none"), "-w", str(place / "gaitset.pt")],
            "no such file or directory",
        ),
    ):
        assert main(["tsne", *words, "-s", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_shows_what_training_does(tmp_path, capsys):
    from torchloupe.cli.embed import demo

    demo(save=tmp_path, steps=400, seconds=20, walkers=3)
    said = capsys.readouterr().out
    records = [json.loads((tmp_path / "digits" / f"{name}.json").read_text()) for name in ("before", "after")]
    before, after = (record["numbers"]["silhouette"] for record in records)
    assert after["features"] > before["features"] + 0.1
    assert after["map"] > before["map"]
    assert "by identity:" in said
    for name in ("digits/after.png", "digits/after.html", "digits/compared.png", "walkers/by-view.png"):
        assert (tmp_path / name).is_file()
