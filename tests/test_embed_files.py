"""From files to files: a map and its record, new points in it, two models compared, the commands and their bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from torchloupe.arrange import compare_files, place_file, project_file, write_points
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.arrangement import arrangement
from torchloupe.methods.project import project
from torchloupe.methods.rows import prepare
from torchloupe.points import Points
from torchloupe.render.points import colouring
from torchloupe.sources.points import read_points


@pytest.fixture
def digits(tmp_path):
    feats, labels = load_digits(return_X_y=True)
    ids = np.array([f"digit-{i}" for i in range(300)])
    columns = {"labels": labels[:300], "ink": feats[:300].sum(1)}
    return write_points(Points(feats[:300], ids, columns, {"kind": "features"}), tmp_path / "feats.npz")


def test_ids_labels_and_rows_stay_together(digits, tmp_path):
    made = project_file(digits, tmp_path / "m.npz", method="pca")
    back, feats = read_points(tmp_path / "m.npz"), read_points(digits)
    assert back.ids.tolist() == feats.ids.tolist()
    assert back.columns["ink"].tolist() == feats.feats.sum(1).tolist()
    order = np.random.default_rng(0).permutation(300)
    write_points(feats.take(order), tmp_path / "mixed.npz")
    mixed = project_file(tmp_path / "mixed.npz", tmp_path / "n.npz", method="pca")
    places = dict(zip(made.ids.tolist(), made.feats, strict=True))
    for name, place, label in zip(mixed.ids.tolist(), mixed.feats, mixed.labels, strict=True):
        assert np.allclose(place, places[name], atol=1e-3)
        assert label == feats.labels[int(name.split("-")[1])]
    assert mixed.record["numbers"]["trustworthiness"] == pytest.approx(
        made.record["numbers"]["trustworthiness"], abs=1e-3
    )


def test_the_record_says_how(digits, tmp_path):
    project_file(digits, tmp_path / "m.npz", method="tsne", parameters={"n_iter": 50}, seed=7, jobs=1)
    record = json.loads((tmp_path / "m.json").read_text())
    assert record["kind"] == "projection"
    assert record["method"] == "tsne"
    assert record["seed"] == 7
    assert record["parameters"] == {"n_iter": 50}
    assert list(record["library"]) == ["openTSNE"]
    assert record["features"] == "feats.npz"
    assert record["numbers"]["knn_accuracy"]["features"] > 0.9
    assert record["numbers"]["on_a_sample"] is False


def test_bad_rows_leave_their_ids_too(digits, tmp_path):
    points = read_points(digits)
    feats = points.feats.copy()
    feats[4] = np.nan
    write_points(points.moved(feats, {}), tmp_path / "bad.npz")
    with pytest.raises(BadInput, match=r"bad\.npz: 1 of 300 rows hold NaN or infinity: 4; --drop-bad"):
        project_file(tmp_path / "bad.npz", tmp_path / "m.npz", method="pca")
    assert not (tmp_path / "m.npz").exists()
    with pytest.warns(LoupeWarning, match="left out"):
        made = project_file(tmp_path / "bad.npz", tmp_path / "m.npz", method="pca", drop_bad=True)
    assert "digit-4" not in made.ids
    assert len(made) == 299


def test_a_killed_process_goes_on(tmp_path):
    random = np.random.default_rng(0)
    feats = random.normal(size=(500, 8)).astype(np.float32)
    np.savez(tmp_path / "feats.npz", feats=feats)
    code = (
        "import sys, os, torchloupe.arrange; from torchloupe.arrange import project_file\n"
        "torchloupe.arrange.KEEP_FROM = 100\n"
        "def stop(stage, done, total):\n"
        "    if stage == 't-SNE' and len(sys.argv) > 3: os.kill(os.getpid(), 9)\n"
        "project_file(sys.argv[1], sys.argv[2], method='tsne', jobs=1, numbers=False, neighbours='approximate',\n"
        "    parameters={'perplexity': 5, 'n_iter': 0, 'early_exaggeration_iter': 20}, progress=stop)\n"
    )
    out = tmp_path / "m.npz"
    command = [sys.executable, "-c", code, str(tmp_path / "feats.npz"), str(out)]
    killed = subprocess.run([*command, "kill"], capture_output=True, check=False)
    assert killed.returncode == -9
    kept = tmp_path / "m.npz.part" / "neighbours.npz"
    assert kept.is_file()
    assert not out.exists()
    subprocess.run(command, check=True, capture_output=True)
    assert out.is_file()
    assert not kept.parent.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["feats.npz", "m.json", "m.npz"]


def test_folders_of_others_are_left_alone(digits, tmp_path, monkeypatch):
    (tmp_path / "m.npz.part").mkdir()
    (tmp_path / "m.npz.part" / "mine.txt").write_text("kept")
    project_file(digits, tmp_path / "m.npz", method="pca")
    monkeypatch.setattr("torchloupe.arrange.KEEP_FROM", 100)
    with pytest.raises(BadInput, match=r"m\.npz\.part: not a folder of ours"):
        project_file(digits, tmp_path / "m.npz", method="pca")
    assert (tmp_path / "m.npz.part" / "mine.txt").read_text() == "kept"


def test_new_points_go_into_a_map(digits, tmp_path):
    made = project_file(digits, tmp_path / "m.npz", method="pca", normalize="zscore")
    feats, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "new.npz", feats=feats[:10], labels=labels[:10], ids=np.array([f"new-{i}" for i in range(10)]))
    both = place_file(tmp_path / "new.npz", tmp_path / "m.npz", tmp_path / "both.npz")
    assert np.array_equal(both.feats[:300], made.feats)
    assert np.allclose(both.feats[300:], made.feats[:10], atol=1e-3)
    assert both.columns["placed"].tolist() == ["map"] * 300 + ["new"] * 10
    assert both.labels[300:].tolist() == labels[:10].tolist()
    assert both.ids[-1] == "new-9"
    np.savez(tmp_path / "other.npz", feats=feats[:10, :60])
    with pytest.raises(BadInput, match=r"rows of shape \(60,\), the map was made of \(64,\)"):
        place_file(tmp_path / "other.npz", tmp_path / "m.npz", tmp_path / "x.npz")
    with pytest.raises(BadInput, match="no record of a projection"):
        place_file(tmp_path / "new.npz", tmp_path / "new.npz", tmp_path / "x.npz")
    digits.unlink()
    with pytest.raises(BadInput, match="are gone"):
        place_file(tmp_path / "new.npz", tmp_path / "m.npz", tmp_path / "x.npz")


def test_two_models_are_matched_by_id_and_aligned(digits, tmp_path):
    points = read_points(digits)
    random = np.random.default_rng(0)
    order = random.permutation(300)[:280]
    turn = np.linalg.qr(random.normal(size=(64, 64)))[0]
    write_points(points.take(order).moved(points.feats[order] @ turn * 3, {}), tmp_path / "second.npz")
    with pytest.warns(LoupeWarning, match="280 samples are in both files; 20 others"):
        one, two, aligned, cka = compare_files(digits, tmp_path / "second.npz", method="pca")
    assert one.ids.tolist() == two.ids.tolist()
    assert cka == pytest.approx(1)
    assert aligned.disparity == pytest.approx(0, abs=1e-5)
    assert np.allclose(one.feats, two.feats, atol=0.02)
    np.savez(tmp_path / "alone.npz", feats=np.zeros((5, 2)))
    with pytest.raises(BadInput, match="0 ids in common"):
        compare_files(digits, tmp_path / "alone.npz")


def test_repeated_ids_are_told_apart_or_refused(tmp_path):
    feats = np.random.default_rng(0).normal(size=(60, 6))
    ids = np.array([f"walk-{i % 20}" for i in range(60)])
    np.savez(tmp_path / "a.npz", feats=feats, ids=ids)
    _, _, aligned, cka = compare_files(tmp_path / "a.npz", tmp_path / "a.npz", method="pca")
    assert aligned.disparity == pytest.approx(0, abs=1e-9)
    assert cka == pytest.approx(1)
    np.savez(tmp_path / "b.npz", feats=feats[:59], ids=ids[:59])
    with pytest.raises(BadInput, match=r"'walk-19' is 3 times in .*a\.npz and 2 times in .*b\.npz"):
        compare_files(tmp_path / "a.npz", tmp_path / "b.npz", method="pca")
    (tmp_path / "l.csv").write_text(
        "id,labels\n" + "".join(f"walk-{i % 20},{i % 2}\n" for i in range(21)) + "walk-0,7\n"
    )
    with pytest.raises(BadInput, match=r"l\.csv: id 'walk-0' stands twice, with different labels"):
        read_points(tmp_path / "a.npz", labels=tmp_path / "l.csv")


@pytest.mark.parametrize("words", [{"metric": "cosine"}, {"parameters": {"metric": "cosine"}}])
def test_numbers_follow_the_metric_of_the_map(tmp_path, words):
    random = np.random.default_rng(0)
    unit = random.normal(size=(150, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.savez(tmp_path / "unit.npz", feats=unit)
    np.savez(tmp_path / "long.npz", feats=unit * random.uniform(1, 100, (150, 1)))
    plain = project_file(tmp_path / "unit.npz", tmp_path / "u.npz", method="tsne", jobs=1)
    made = project_file(tmp_path / "long.npz", tmp_path / "l.npz", method="tsne", jobs=1, **words)
    assert made.record["prepared"]["metric"] == made.record["metric"] == "cosine"
    for name in ("trustworthiness", "kept_neighbours"):
        assert made.record["numbers"][name] == pytest.approx(plain.record["numbers"][name], abs=0.02)


def test_missing_labels_are_no_class(tmp_path):
    feats, labels = load_digits(return_X_y=True)
    feats, labels = feats[:200], labels[:200]
    gaps = np.arange(200) % 3 == 0
    full = np.array([None if gap else int(label) for label, gap in zip(labels, gaps, strict=True)], object)
    pq.write_table(pa.table({"feats": feats.tolist(), "labels": full.tolist()}), tmp_path / "p.parquet")
    rows = "".join("\n" if label is None else f"{label}\n" for label in full)
    (tmp_path / "m.csv").write_text("labels,other\n" + "".join(f"{line},1\n" for line in rows.split("\n")[:-1]))
    np.save(tmp_path / "feats.npy", feats)
    np.savez(tmp_path / "f.npz", feats=feats, labels=np.where(gaps, np.nan, labels))
    wanted = ["" if label is None else str(label) for label in full]
    for points in (
        read_points(tmp_path / "p.parquet"),
        read_points(tmp_path / "feats.npy", labels=tmp_path / "m.csv"),
        read_points(tmp_path / "f.npz"),
        Points(feats, np.arange(200).astype(str), {"labels": full}),
    ):
        assert points.labels.tolist() == wanted
    coords = feats[:, 20:22] + np.random.default_rng(0).normal(size=(200, 2))
    known = arrangement_by_loops(feats, coords, wanted, 5)
    made = arrangement(feats, coords, np.array(wanted), k=5)
    assert made.accuracy == pytest.approx(known, abs=1e-9)
    colours = colouring(points, None, None)
    assert colours.count == 10
    assert colours.names[-1] == "(no label)"
    assert (colours.codes == 10).tolist() == gaps.tolist()


def arrangement_by_loops(feats, coords, labels, k):
    """Accuracy of labelled points by the labelled ones among their k nearest."""
    shares = []
    for space in (feats, coords):
        right = []
        for i, label in enumerate(labels):
            if not label:
                continue
            near = sorted((float(((space[i] - space[j]) ** 2).sum()), j) for j in range(len(labels)) if j != i)[:k]
            votes = [labels[j] for _, j in near if labels[j]]
            best = max(sorted(set(votes)), key=votes.count) if votes else None
            right.append(best == label)
        shares.append(np.mean(right))
    return tuple(shares)


@pytest.mark.parametrize(
    "words",
    [
        ("project", "f.npz", "-o", "f.npz"),
        ("project", "f.npz", "-o", "./f.parquet"),
        ("project", "f.npz", "-o", "link.npz"),
        ("project", "f.npz", "--into", "m.npz", "-o", "m.npz"),
        ("project", "g.npz", "--into", "m.npz", "-o", "f.npz"),
        ("project", "f.npz", "--labels", "l.npz", "-o", "l.npz"),
        ("compare-points", "f.npz", "g.npz", "-o", "g.png"),
    ],
)
def test_no_input_is_ever_overwritten(digits, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    points = read_points(digits)
    for name in ("f.npz", "g.npz"):
        write_points(points, name)
    np.savez("l.npz", labels=np.arange(300))
    project_file("f.npz", "m.npz", method="pca")
    os.symlink("f.npz", "link.npz")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(*words) == 2
    assert "is an input of this command and would be overwritten" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("row", [1, 14_999, 30_001])
def test_a_projection_goes_on_only_with_the_very_same_rows(tmp_path, row):
    feats = np.random.default_rng(0).normal(size=(30_002, 2)).astype(np.float32)
    stamps = []
    for _ in range(2):
        project(prepare(feats), "pca", work=tmp_path / "w")
        stamps.append((tmp_path / "w" / "key").read_text())
        feats[row] += 3
    assert stamps[0] != stamps[1]


def test_maps_are_compared_as_they_are(digits, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        project_file(digits, tmp_path / f"{name}.npz", method="tsne", seed=seed, jobs=1, parameters={"n_iter": 20})
    one, _, aligned, cka = compare_files(tmp_path / "a.npz", tmp_path / "b.npz")
    assert np.array_equal(one.feats, read_points(tmp_path / "a.npz").feats)
    assert cka == pytest.approx(1)
    assert 0 <= aligned.disparity < 1


def test_equal_features_give_equal_maps(tmp_path):
    feats = np.random.default_rng(0).normal(size=(90, 6))
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", feats=feats)
    _, _, aligned, cka = compare_files(tmp_path / "a.npz", tmp_path / "b.npz", method="tsne", jobs=1)
    assert aligned.disparity == pytest.approx(0, abs=1e-9)
    assert cka == pytest.approx(1)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_the_commands_from_features_to_pictures(digits, tmp_path, capsys):
    assert (
        run(
            "project",
            digits,
            "--method",
            "tsne",
            "-e",
            3,
            "--args",
            "perplexity=20",
            "n_iter=50",
            "-o",
            tmp_path / "p.npz",
        )
        == 0
    )
    said = capsys.readouterr()
    assert "300 points by tsne in" in said.out
    assert "trustworthiness 0." in said.out
    assert "tsne of 300 x 64 to 3-D: roughly" in said.err
    assert json.loads((tmp_path / "p.json").read_text())["parameters"] == {"perplexity": 20, "n_iter": 50}
    words = ("--title", "Digits", "--cmap", "Spectral", "--transparent", "--save-ext", "svg", "--fig-size", 4, 4)
    assert run("draw", tmp_path / "p.npz", *words) == 0
    assert "Digits" in (tmp_path / "p.svg").read_text()
    assert run("draw", tmp_path / "p.npz", "-o", tmp_path / "page.html", "--color-by", "ink") == 0
    assert run("project", digits, "--method", "pca", "-o", tmp_path / "p.parquet") == 0
    assert run("draw", tmp_path / "p.parquet", "--dpi", 40) == 0
    assert (tmp_path / "p.png").is_file()
    assert (
        run("compare-points", digits, tmp_path / "p.parquet", "--method", "pca", "-o", tmp_path / "c.png", "--dpi", 30)
        == 0
    )
    assert json.loads((tmp_path / "c.json").read_text())["linear_cka"] == pytest.approx(1)
    assert run("project", digits, "--into", tmp_path / "p.parquet", "-o", tmp_path / "q.npz") == 0
    assert "300 new points among 300" in capsys.readouterr().out


def test_the_spelling_of_older_tools(digits, tmp_path):
    out = tmp_path / "p.npz"
    assert run("project", digits, "--method", "tsne", "-T", "{'perplexity': 20, 'n_iter': 10}", "-o", out) == 0
    assert json.loads((tmp_path / "p.json").read_text())["parameters"] == {"perplexity": 20, "n_iter": 10}
    assert run("draw", out, "--fig_size=4,3", "-c", "Spectral", "--dpi", 50, "--save_path", tmp_path / "a.png") == 0
    assert run("draw", out, "--fig-size", "(4, 3)", "--cmap", "Spectral", "--dpi", 50, "-o", tmp_path / "b.png") == 0
    assert Image.open(tmp_path / "a.png").size == (200, 150)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    worst = json.loads((tmp_path / "p.json").read_text())["numbers"]["worst"]
    kept = read_points(out).column("map_kept")
    assert worst["id"] == read_points(out).ids[worst["row"]]
    assert kept.mean() == pytest.approx(json.loads((tmp_path / "p.json").read_text())["numbers"]["kept_neighbours"])
    assert run("draw", out, "--color-by", "map_stretch", "--dpi", 50, "-o", tmp_path / "c.png") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("project", "{feats}", "--method", "tnse"), "Did you mean tsne"),
        (("project", "{feats}", "-T", "perplexty=3"), "It has: perplexity"),
        (("project", "{feats}", "-T", "perplexity"), "expected key=value"),
        (("project", "{feats}", "-T", "{{'perplexity': }}"), "expected a dictionary"),
        (("project", "{feats}", "-e", "0"), "--dims 0: expected 1 or more"),
        (("project", "{feats}", "-o", "x.csv"), "written as .npz or .parquet"),
        (("project", "{feats}", "-o", "{short}/x.npz"), "is a file; give a folder"),
        (("project", "{feats}", "-T", "perplexity=abc"), "perplexity 'abc': expected a number"),
        (("project", "{feats}", "--vector", "nope"), "no array nope; it holds"),
        (("project", "{feats}", "--parts", "left"), "--parts 'left'"),
        (("project", "{feats}", "--labels", "{short}"), "9 values, but feats has 300 rows"),
        (("project", "{feats}", "--k", "0", "--method", "pca"), "k 0: expected"),
        (("project", "{feats}", "--into", "{feats}", "--method", "pca"), "leave out --method"),
        (("project", "{absent}"), "no such file"),
        (("draw", "{feats}", "--save-ext", "xcf"), "cannot be written"),
        (("draw", "{feats}"), "not a map; first: loupe project"),
        (("compare-points", "{feats}", "{feats}", "-o", "x.xyz"), "format '.xyz' cannot be written"),
        (("adjust-3d", "{feats}"), "not a map"),
        (("embed", "--model", "timm:resnet18", "--data", "foldr:x"), "Did you mean folder"),
        (("embed", "--model", "timm:resnet18", "--data", "folder:{absent}"), "no such folder"),
        (("embed", "--model", "timm:resnet18", "--data", "folder:x", "-o", "x.txt"), "written as .npz"),
    ],
)
def test_bad_input_is_one_line_and_status_2(digits, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros(9))
    places = {"feats": digits, "absent": tmp_path / "absent.npz", "short": tmp_path / "short.npy"}
    assert run(*(word.format(**places) for word in words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loupe: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["feats.json", "feats.npz", "short.npy"]


def test_supervision_is_said_and_gaps_of_quantities_refused(digits, tmp_path, monkeypatch):
    from torchloupe.methods import project as made

    seen = []

    def watched(task):
        seen.append(task.target)
        return np.asarray(task.x[:, :2]), {}

    monkeypatch.setitem(made.NAMED, "umap", lambda: made.replace(made._umap(), run=watched))
    points = read_points(digits)
    labels = np.where(np.arange(300) % 3 == 0, "", points.labels.astype(str))
    half = Points(points.feats, points.ids, {"labels": labels, "ink": points.columns["ink"]}, points.record)
    write_points(half, tmp_path / "half.npz")
    with_gaps = project_file(tmp_path / "half.npz", tmp_path / "m.npz", method="umap", supervise="labels")
    assert ((seen[0] == -1) == (labels == "")).all()
    assert len(np.unique(seen[0])) == 11
    assert with_gaps.record["supervised_by"] == "labels"
    assert any("made to follow labels" in doubt for doubt in with_gaps.record["doubts"])
    project_file(tmp_path / "half.npz", tmp_path / "m.npz", method="umap", supervise="ink")
    assert np.allclose(seen[1], half.columns["ink"])
    with pytest.raises(BadInput, match="tsne cannot be supervised"):
        project_file(tmp_path / "half.npz", tmp_path / "m.npz", method="tsne", supervise="labels")
    gaps = np.where(np.arange(300) == 5, np.nan, half.columns["ink"])
    write_points(Points(points.feats, points.ids, {"ink": gaps}, points.record), tmp_path / "gaps.npz")
    with pytest.raises(BadInput, match="--supervise ink: 1 quantities are missing"):
        project_file(tmp_path / "gaps.npz", tmp_path / "m.npz", method="umap", supervise="ink")
