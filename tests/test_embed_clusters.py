"""Clusters of maps and of features: found, named by their labels, words or pictures, and where errors gather."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods import clusters as made
from torchloupe.methods.clusters import clusters, groups, laplacian_values, largest_first, spectral, typical_words
from torchloupe.points import Points
from torchloupe.render.look import Look
from torchloupe.render.points import scatter


def islands(sizes=(60, 40, 25), apart=20.0, noise=0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    centres = apart * np.array([[np.cos(a), np.sin(a)] for a in 2 * np.pi * np.arange(len(sizes)) / len(sizes)])
    places = centres[codes] + random.normal(size=(len(codes), 2))
    if noise:
        places = np.concatenate([places, random.uniform(-90, 90, (noise, 2))])
        codes = np.concatenate([codes, np.full(noise, -1)])
    return places.astype(np.float32), codes


def same_parts(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two numberings part the rows alike, by comparing all pairs."""
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


def test_islands_are_clusters_the_largest_first():
    places, codes = islands()
    order = np.random.default_rng(0).permutation(len(places))
    found = clusters(places[order])
    assert same_parts(found, codes[order])
    assert np.bincount(found).tolist() == [60, 40, 25]
    assert clusters(places[:4]).tolist() == [-1] * 4
    with pytest.raises(BadInput, match="clusters of 1 points: expected 2 or more"):
        clusters(places, 1)


def test_many_points_go_with_their_nearest_of_a_sample(monkeypatch):
    places, codes = islands((300, 200, 100))
    monkeypatch.setattr(made, "MOST", 150)
    assert same_parts(clusters(places, 20), codes)


def test_features_in_groups_part_at_the_leap_of_the_eigenvalues():
    random = np.random.default_rng(1)
    centres = 8 * np.eye(5)[:4]
    codes = random.integers(0, 4, 120)
    feats = centres[codes] + random.normal(size=(120, 5)) * 0.3
    assert same_parts(spectral(feats), codes)
    assert len(np.unique(spectral(feats, 2))) == 2
    with pytest.raises(BadInput, match="200 clusters of 120 rows: expected 2 to 119"):
        spectral(feats, 200)


def test_eigenvalues_of_two_pairs_by_hand():
    """Two graphs of one edge each: the Laplacian of either is [[1, -1], [-1, 1]], with eigenvalues 0 and 2."""
    from scipy.sparse import csr_matrix

    graph = csr_matrix(np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], float))
    assert np.allclose(laplacian_values(graph, 4), [0, 0, 2, 2])


def test_groups_by_counting():
    places, codes = islands((6, 4))
    values = np.array(["cat"] * 5 + ["dog"] + ["dog", "", "dog", "dog"])
    wrong = np.array([True] * 2 + [False] * 8)
    first, second = groups(places, codes, values, wrong)
    assert (first.name, second.name) == ("cat 83%", "dog")
    assert first.common == (("cat", 5 / 6), ("dog", 1 / 6))
    assert second.common == (("dog", 1.0),)
    assert (first.errors, second.errors) == (2 / 6, 0.0)
    assert second.rows.tolist() == [6, 7, 8, 9]
    middle = np.median(places[6:], 0)
    assert second.medoid == 6 + min(range(4), key=lambda i: np.hypot(*(places[6 + i] - middle)))
    assert groups(places, codes)[1].name == "2"
    assert largest_first(np.array([5, -1, 2, 2])).tolist() == [1, -1, 0, 0]


def test_texts_give_their_typical_words():
    cats = [f"a photo of a cat asleep {i}" for i in range(10)]
    cars = [f"a photo of a red car {i}" for i in range(10)]
    assert typical_words([cats, cars]) == ["asleep, cat", "car, red"]
    assert typical_words([["cat"] * 4, ["dog"] * 4]) == ["", ""]
    named = groups(*islands((10, 10)), np.array(cats + cars))
    assert [group.name for group in named] == ["asleep, cat", "car, red"]


def written(figure) -> list[str]:
    return sorted(text.get_text() for text in figure.axes[0].texts)


def test_names_of_clusters_stand_on_the_map(tmp_path):
    places, codes = islands((60, 40, 25), noise=5)
    labels = np.array(["one", "two", "three", ""])[codes]
    points = Points(places, np.arange(130).astype(str), {"labels": labels}, {"kind": "projection"})
    assert written(scatter(points, Look(name_by="labels"), dpi=60)) == ["one", "three", "two"]
    given = np.array(["x"] * 100 + [""] * 30)
    asked = Points(places, points.ids, {"labels": labels, "cluster": given}, points.record)
    assert written(scatter(asked, Look(name_by="labels"), dpi=60)) == ["one 60%"]
    for i in range(130):
        Image.new("RGB", (8, 8), ["red", "lime", "blue", "gray"][codes[i]]).save(tmp_path / f"{i}.png")
    figure = scatter(points, Look(name_by="pictures", images=tmp_path), dpi=60)
    assert not figure.axes[0].texts
    shown = [box.offsetbox.get_children()[0].get_array()[0, 0].tolist() for box in figure.axes[0].artists]
    assert shown == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_the_page_holds_the_names():
    import json
    import re

    from torchloupe.render.page import page

    places, codes = islands()
    points = Points(
        places, np.arange(125).astype(str), {"labels": np.array(["a", "b", "c"])[codes]}, {"kind": "projection"}
    )
    meta = json.loads(re.search(r'id="meta"[^>]*>(.*?)</script>', page(points, Look(name_by="labels")), re.S)[1])
    assert [(one["name"], one["count"]) for one in meta["clusters"]] == [("a", 60), ("b", 40), ("c", 25)]
    assert all(codes[one["middle"]] == i and len(one["at"]) == 2 for i, one in enumerate(meta["clusters"]))
    assert "clusters" not in page(points, Look()).split("</script>")[0]


def test_names_of_clusters_are_refused_where_there_are_none():
    places, codes = islands()
    columns = {"labels": codes, "weight": np.linspace(0, 1, 125)}
    points = Points(places, np.arange(125).astype(str), columns, {"kind": "projection"})
    with pytest.raises(BadInput, match="--name-by weight: holds numbers"):
        scatter(points, Look(name_by="weight"))
    with pytest.raises(BadInput, match="no column 'label'"):
        scatter(points, Look(name_by="label"))
    with pytest.raises(BadInput, match="--name-by pictures: needs --images"):
        scatter(points, Look(name_by="pictures"))
    few = points.take(np.arange(6))
    with pytest.warns(LoupeWarning, match="no clusters on this map"):
        scatter(few, Look(name_by="labels"), dpi=60)
