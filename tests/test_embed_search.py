"""Retrieval numbers of any embedding, against plain loops."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from torchloupe.arrange import search_file, write_points
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.metrics.search import search
from torchloupe.points import Points


def by_loops(feats, labels, queries, items, apart, cosine):
    """(first, AP, INP) of every query that has a right item."""
    found = []
    for q in queries:
        ranking = []
        for i in items:
            same = labels[i] == labels[q]
            if i == q or (same and apart is not None and apart[i] == apart[q]):
                continue
            if cosine:
                far = 1 - feats[q] @ feats[i] / (np.sqrt(feats[q] @ feats[q]) * np.sqrt(feats[i] @ feats[i]))
            else:
                far = np.sqrt(((feats[q] - feats[i]) ** 2).sum())
            ranking.append((far, same))
        ranking.sort()
        places = [place for place, (_, same) in enumerate(ranking, start=1) if same]
        if places:
            precision = sum((k + 1) / place for k, place in enumerate(places)) / len(places)
            found.append((places[0], precision, len(places) / places[-1]))
    return np.array(found, float)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_numbers_by_loops(cosine, split):
    random = np.random.default_rng(int(cosine) + 2 * int(split))
    feats, labels = random.normal(size=(60, 5)), random.integers(0, 7, 60)
    cameras = random.integers(0, 3, 60)
    queries, items = (np.arange(20), np.arange(15, 60)) if split else (np.arange(60), np.arange(60))
    made = search(feats, labels, queries, items, [cameras] if split else [], "cos" if cosine else "euc")
    wanted = by_loops(feats, labels, queries, items, cameras if split else None, cosine)
    known = made.known
    assert np.allclose(made.first[known], wanted[:, 0])
    assert np.allclose(made.precision[known], wanted[:, 1])
    assert np.allclose(made.inp[known], wanted[:, 2])
    told = made.numbers()
    assert told["Rank-5"] == pytest.approx((wanted[:, 0] <= 5).mean())
    assert told["mAP"] == pytest.approx(wanted[:, 1].mean())


def test_rows_without_a_label_do_not_ask_and_are_never_right():
    feats = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    labels = np.array(["a", "", "a", "", "b"])
    made = search(feats, labels)
    assert made.queries.tolist() == [0, 2, 4]
    assert made.first.tolist()[:2] == [2, 2]
    assert np.isnan(made.first[2])
    assert made.nearest.tolist() == [1, 1, 3]
    assert made.numbers()["Rank-1"] == 0
    with pytest.raises(BadInput, match="none of the 1 queries has an item of its own label"):
        search(feats, labels, np.array([4]))


def test_a_model_that_maps_all_to_one_point_gets_nothing():
    made = search(np.ones((6, 3)), np.array([0, 0, 1, 1, 2, 2]))
    assert made.numbers()["Rank-1"] == 0


def test_the_command(tmp_path, capsys):
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(5), 4)
    feats = 4 * np.eye(5, 8)[people] + random.normal(size=(20, 8))
    columns = {
        "labels": people,
        "split": np.array(["query", "gallery", "gallery", "train"] * 5),
        "camera": np.arange(20) % 2,
    }
    write_points(
        Points(feats, np.array([f"s{i}" for i in range(20)]), columns, {"kind": "features"}), tmp_path / "f.npz"
    )
    words = ["search", tmp_path / "f.npz", "--query", "split=query", "--gallery", "split=gallery", "--apart", "camera"]
    assert main([str(word) for word in (*words, "-o", tmp_path / "s.csv")]) == 0
    said = capsys.readouterr().out
    asked, held = np.flatnonzero(columns["split"] == "query"), np.flatnonzero(columns["split"] == "gallery")
    wanted = by_loops(feats, people, asked, held, columns["camera"], False)
    assert f"Rank-1 {(wanted[:, 0] == 1).mean():.1%}" in said
    assert f"mAP {wanted[:, 1].mean():.1%}" in said
    assert "5 queries, 10 items, by labels" in said
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["id"] for row in rows] == ["s0", "s4", "s8", "s12", "s16"]
    assert [float(row["first_right"]) for row in rows] == wanted[:, 0].tolist()
    assert json.loads((tmp_path / "s.json").read_text())["numbers"]["mAP"] == pytest.approx(wanted[:, 1].mean())
    for more, message in (
        (["--query", "split=test"], "column 'split' has no value 'test'; it has gallery, query, train."),
        (["--query", "split"], "expected COLUMN=VALUE"),
        (["--label", "people"], "no column 'people'"),
        (["-o", "x.npz"], "a row a query is written as .csv"),
    ):
        assert main(["search", str(tmp_path / "f.npz"), *more]) == 2
        assert message in capsys.readouterr().err
    write_points(Points(feats, columns["labels"].astype(str), columns, {"kind": "projection"}), tmp_path / "m.npz")
    with pytest.raises(BadInput, match="a map, which keeps only some neighbours"):
        search_file(tmp_path / "m.npz")
