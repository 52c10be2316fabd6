"""A film of training: maps of several checkpoints, aligned, as a kind, as GIF, as a sheet and in the page."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

import torchloupe as loupe
from torchloupe.arrange import compare_files, film_files, write_points
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.kinds.film import Film
from torchloupe.methods.arrangement import procrustes
from torchloupe.points import Points
from torchloupe.render.film import STEPS, draw_film, frames
from torchloupe.render.look import Look
from torchloupe.view.api import Run


@pytest.fixture
def epochs(tmp_path):
    """Four checkpoints of 30 samples: noise, half way, three groups, the same in another order of samples and turned."""
    random = np.random.default_rng(0)
    labels = np.arange(30) % 3
    noise, groups = random.normal(size=(30, 6)), 9 * np.eye(6)[labels] + random.normal(size=(30, 6))
    order = random.permutation(30)
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    ids = np.array([f"s{i}" for i in range(30)])
    files = []
    for i, (feats, rows) in enumerate(
        (
            (noise, slice(None)),
            (0.5 * noise + 0.5 * groups, slice(None)),
            (groups, slice(None)),
            (groups[order] @ turn, order),
        )
    ):
        points = Points(feats.astype(np.float32), ids[rows], {"labels": labels[rows]}, {"kind": "features"})
        files.append(write_points(points, tmp_path / f"e{i}.npz"))
    return files


def test_maps_are_laid_on_one_another_sample_by_sample(epochs, tmp_path):
    film = film_files(epochs, tmp_path / "film.npz", method="pca", names=list("abcd"))
    assert film.places.shape == (4, 30, 2)
    assert film.columns["labels"].tolist() == (np.arange(30) % 3).tolist()
    assert np.allclose(
        (film.places**2).sum(2).mean(1), 1, atol=1e-5
    )  # none shrinks, however little it has to do with the one before
    assert np.allclose(film.places[2], film.places[3], atol=1e-3)  # the same features, turned, in another order
    assert film.record["maps"][3]["disparity"] == pytest.approx(0, abs=1e-4)
    assert film.record["maps"][1]["disparity"] > 0.05
    assert [told["name"] for told in film.record["maps"]] == list("abcd")
    assert film.record["maps"][2]["knn_accuracy"]["map"] == 1
    again = Film.read(film.arrays(), film.record)
    assert np.array_equal(again.places, film.places)
    assert again.columns["labels"].tolist() == film.columns["labels"].tolist()
    assert again.row() == {"maps": 4, "samples": 30, "method": "pca"}


def test_moments_lie_on_straight_ways():
    places = np.stack([np.zeros((3, 2)), np.ones((3, 2)), np.full((3, 2), 3.0)]).astype(np.float32)
    film = Film(places, np.array(list("abc")), np.array(list("xyz")))
    assert film.at(0).feats.tolist() == places[0].tolist()
    assert film.at(2).feats.tolist() == places[2].tolist()
    assert np.allclose(film.at(0.5).feats, 0.5)
    assert np.allclose(film.at(1.25).feats, 1 + 2 * (3 * 0.25**2 - 2 * 0.25**3))
    assert film.at(9).feats.tolist() == places[2].tolist()
    with pytest.raises(BadInput, match="expected \\(maps, samples"):
        Film(places, np.array(["a"]), np.array(list("xyz")))


def test_the_same_features_twice_are_the_same_map(epochs, tmp_path):
    film = film_files([epochs[0], epochs[0]], tmp_path / "film.npz", method="tsne", jobs=1)
    assert np.allclose(film.places[0], film.places[1], atol=1e-6)


def test_the_pictures(epochs, tmp_path, capsys):
    out = tmp_path / "runs" / "film.npz"
    words = ["film", *epochs, "--method", "pca", "-o", out, "--fig-size", 3, 2.5, "--title", "T"]
    assert main([str(word) for word in words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("e0: kept neighbours")
    assert said[-1].endswith("film.gif")
    with Image.open(out.with_suffix(".gif")) as film:
        assert film.n_frames > 2 * STEPS  # the last two maps are one, and equal pictures are kept once
        duration = 0
        for i in range(film.n_frames):
            film.seek(i)
            duration += film.info["duration"]
    held = loupe.results(out.parent)["film"]
    assert isinstance(held, Film)
    drawn = frames(held, Look(fig_size=(3, 2.5)), dpi=40)
    assert duration == pytest.approx(len(drawn) * 1000 / 16, rel=0.05)
    assert (drawn[0] != drawn[-1]).any()
    assert main(["draw", str(out), "--save", str(tmp_path / "f.png"), "--dpi", "40"]) == 0
    assert Image.open(tmp_path / "f.png").size == (320, 320)
    assert main(["draw", str(out), "--save", str(tmp_path / "f.html")]) == 0
    text = (tmp_path / "f.html").read_text()
    meta = json.loads(re.search(r'id="meta"[^>]*>(.*?)</script>', text, re.S)[1])
    assert meta["frames"] == ["e0", "e1", "e2", "e3"]
    raw = base64.b64decode(re.search(r'id="frames"[^>]*>(.*?)</script>', text, re.S)[1])
    shown = np.frombuffer(raw, "<f4").reshape(4, 30, 2)
    last = np.frombuffer(base64.b64decode(re.search(r'id="places"[^>]*>(.*?)</script>', text, re.S)[1]), "<f4")
    assert np.allclose(shown[3], last.reshape(30, 2), atol=1e-6)
    scale = np.linalg.norm(shown[0, 0] - shown[0, 1]) / np.linalg.norm(held.places[0, 0] - held.places[0, 1])
    assert np.allclose(shown, held.places * scale + (shown[0, 0] - held.places[0, 0] * scale), atol=1e-4)
    assert np.abs(shown).max() <= 0.951


def test_what_is_no_film_is_refused(epochs, tmp_path):
    with pytest.raises(BadInput, match="a film needs two or more"):
        film_files(epochs[:1], tmp_path / "f.npz")
    with pytest.raises(BadInput, match="1 names for 2 files"):
        film_files(epochs[:2], tmp_path / "f.npz", names=["a"])
    with pytest.raises(BadInput, match="is an input of this command"):
        film_files(epochs[:2], epochs[0])
    others = write_points(
        Points(np.eye(5), np.array([f"s{i}" for i in range(5)]), {}, {"kind": "features"}), tmp_path / "o.npz"
    )
    with pytest.warns(LoupeWarning, match="5 samples are in all files"):
        assert film_files([epochs[0], others], tmp_path / "f.npz", method="pca").places.shape == (2, 5, 2)
    with pytest.raises(BadInput, match="no film"):
        draw_film(epochs[0])
    with pytest.raises(BadInput, match="--name-by has no effect on a film"):
        draw_film(tmp_path / "f.npz", tmp_path / "f.png", Look(name_by="labels"))


def test_a_map_with_little_in_common_does_not_shrink(tmp_path):
    random = np.random.default_rng(0)
    one, other = random.normal(size=(200, 2)), random.normal(size=(200, 2))
    aligned = procrustes(one, other)
    wide = aligned.as_wide_as(one)
    spread = [float(np.sqrt(((held - held.mean(0)) ** 2).sum())) for held in (one, wide, aligned.coords)]
    assert spread[1] == pytest.approx(spread[0])
    assert spread[2] < 0.5 * spread[0]
    for name, coords in (("a", one), ("b", other)):
        write_points(Points(coords, np.arange(200).astype(str), {}, {"kind": "projection"}), tmp_path / f"{name}.npz")
    first, second, _, _ = compare_files(tmp_path / "a.npz", tmp_path / "b.npz")
    assert np.ptp(second.feats, 0).max() > 0.7 * np.ptp(first.feats, 0).max()


def test_a_film_is_viewed_and_reported(epochs, tmp_path):
    film = film_files(epochs, tmp_path / "film.npz", method="pca")
    run = Run(tmp_path / "film.npz")
    assert run.plain() == {"name": "film.npz", "kind": "points", "count": 30}
    assert np.allclose(run.places.feats, film.places[-1], atol=1e-6)
    assert 'id="frames"' in run.page()
    assert main(["report", str(tmp_path / "film.npz"), "-o", str(tmp_path / "r.html")]) == 0
    assert 'id=\\"frames\\"' in (tmp_path / "r.html").read_text()
