"""The protocols of gait data sets, against their definitions with plain loops."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gait_fixtures import write_config
from PIL import Image

from torchloupe import kinds, store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.examples.walkers import write_tree
from torchloupe.kinds.evaluation import Evaluation
from torchloupe.metrics.retrieval import PROTOCOLS, Walks, evaluate, protocol, ranked
from torchloupe.render.evaluation import draw_tables, lines
from torchloupe.runs.evaluation import as_walks, read_evaluation
from torchloupe.sources.opengait_config import read_config
from torchloupe.sources.points import read_points
from torchloupe.sources.sequences import Hidden, Walk


def crowd(types: list[str], views: list[str], people: int = 7, drop: float = 0.0, seed: int = 0) -> Walks:
    rng = np.random.default_rng(seed)
    rows = [(f"{p:02d}", t, v) for p in range(people) for t in types for v in views if rng.random() >= drop]
    rng.shuffle(rows)
    mean = {key: rng.normal(size=(5, 3)) for row in rows for key in row}
    feats = np.stack([sum(mean[key] * 0.7 for key in row) + rng.normal(size=(5, 3)) for row in rows]).astype(np.float32)
    who, kind, view = (np.array(part) for part in zip(*rows, strict=True))
    return Walks(feats, np.array(["-".join(row) for row in rows]), who, kind, view)


def far(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    total = 0.0
    for p in range(a.shape[1]):
        x, y = a[:, p].astype(float), b[:, p].astype(float)
        if metric == "euc":
            total += sum((u - v) ** 2 for u, v in zip(x, y, strict=True)) ** 0.5
        else:
            total += 1 - float(x @ y) / (float(x @ x) ** 0.5 * float(y @ y) ** 0.5)
    return total / a.shape[1]


def sorted_people(walks: Walks, probe: int, items: list[int], metric: str) -> list[bool]:
    """Whether each item shows the probe's person, the nearest first."""
    order = sorted(items, key=lambda item: far(walks.embeddings[probe], walks.embeddings[item], metric))
    return [walks.identities[item] == walks.identities[probe] for item in order]


def view_by_view(
    walks: Walks, probe: list[str], gallery: list[str], rank: int, metric: str, holds: bool = False
) -> float:
    def is_one(kind: str, words: list[str]) -> bool:
        return any(word in kind if holds else word == kind for word in words)

    views = sorted(set(walks.views.tolist()))
    rows = []
    for one in views:
        cells = []
        for other in views:
            asked = [i for i in range(len(walks)) if walks.views[i] == one and is_one(walks.types[i], probe)]
            items = [i for i in range(len(walks)) if walks.views[i] == other and is_one(walks.types[i], gallery)]
            if one != other:
                cells.append(np.mean([any(sorted_people(walks, i, items, metric)[:rank]) for i in asked]))
        rows.append(np.mean(cells))
    return float(np.mean(rows))


def precision_and_inp(hits: list[bool]) -> tuple[float, float]:
    places = [rank for rank, hit in enumerate(hits, 1) if hit]
    return sum(i / place for i, place in enumerate(places, 1)) / len(places), len(places) / places[-1]


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_view_by_view_leaves_identical_views_out(metric):
    walks = crowd(["nm-01", "nm-03", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01"], ["000", "090", "180"])
    found = {one.setting: one for one in evaluate(walks, protocol("casia-b"), metric)}
    for name, probe in (("NM", ["nm-05", "nm-06"]), ("BG", ["bg-01", "bg-02"]), ("CL", ["cl-01"])):
        for rank in (1, 5):
            want = view_by_view(walks, probe, ["nm-01", "nm-03"], rank, metric)
            assert found[name].numbers[f"Rank-{rank}"] == pytest.approx(want)
        values = []
        for i in np.flatnonzero(np.isin(walks.types, probe)):
            items = [
                j
                for j in range(len(walks))
                if walks.types[j] in ("nm-01", "nm-03") and walks.views[j] != walks.views[i]
            ]
            values.append(precision_and_inp(sorted_people(walks, int(i), items, metric)))
        assert found[name].numbers["mAP"] == pytest.approx(np.mean([one for one, _ in values]))
        assert found[name].numbers["mINP"] == pytest.approx(np.mean([one for _, one in values]))


def test_a_word_in_the_type_is_enough_in_sustech_and_a_view_is_left_out_of_casia_e():
    walks = crowd(["00-nm", "01-nm", "01-nm-bg", "02-ub", "04-nt"], ["000", "045", "090"])
    found = {one.setting: one.numbers for one in evaluate(walks, PROTOCOLS["SUSTech1K"])}
    assert set(found) == {"Normal", "Bag", "Umbrella", "Night", "Overall"}
    for name, words in (("Normal", ["01-nm"]), ("Bag", ["bg"]), ("Overall", ["01", "02", "03", "04"])):
        assert found[name]["Rank-1"] == pytest.approx(view_by_view(walks, words, ["00-nm"], 1, "euc", holds=True))
    walks = crowd(["H-scene1-nm-1", "L-scene3_s-cl-2"], ["000", "090", "270"])
    (one,) = evaluate(walks, PROTOCOLS["CASIA-E"])
    seen = walks.views != "270"
    some = Walks(*(part[seen] for part in vars(walks).values()))
    assert one.numbers["Rank-1"] == pytest.approx(view_by_view(some, ["L-scene3_s-cl-2"], ["H-scene1-nm-1"], 1, "euc"))


def test_cross_view_gallery_leaves_the_own_view_of_the_person_out():
    walks = crowd(["nm-01", "nm-02", "bg-02", "cl-02", "cl-01"], ["000", "090", "180"], drop=0.1)
    found = {one.setting: one.numbers for one in evaluate(walks, PROTOCOLS["CASIA-B-cross-view"])}
    for name, probe in (("NM", "nm-01"), ("CL", "cl-01")):
        hits, precisions = [], []
        for view in ("000", "090", "180"):
            right, values = [], []
            for i in np.flatnonzero((walks.types == probe) & (walks.views == view)):
                items = [
                    j
                    for j in range(len(walks))
                    if walks.types[j] in ("nm-02", "bg-02", "cl-02")
                    and not (walks.views[j] == view and walks.identities[j] == walks.identities[i])
                ]
                people = sorted_people(walks, int(i), items, "euc")
                right.append(people[0])
                values += [precision_and_inp(people)[0]] if any(people) else []
            hits.append(np.mean(right))
            precisions.append(np.mean(values))
        assert found[name]["Rank-1"] == pytest.approx(np.mean(hits))
        assert found[name]["mAP"] == pytest.approx(np.mean(precisions))


def test_grew_counts_strangers_as_wrong_and_gait3d_leaves_them_out():
    walks = crowd(["01", "02"], ["x"], people=20, drop=0.2)
    (grew,) = evaluate(walks, PROTOCOLS["GREW"])
    items = [j for j in range(len(walks)) if walks.types[j] == "01"]
    asked = np.flatnonzero(walks.types == "02")
    people = {int(i): sorted_people(walks, int(i), items, "euc") for i in asked}
    assert not all(any(one) for one in people.values())
    for rank in (1, 5, 10, 20):
        assert grew.numbers[f"Rank-{rank}"] == pytest.approx(np.mean([any(one[:rank]) for one in people.values()]))
    named = walks.names[asked].tolist()
    for name, some in (("Gait3D", named), ("FreeGait", named), ("CCGR-MINI", walks.names[items].tolist())):
        (found,) = evaluate(walks, PROTOCOLS[name], named=some)
        known = [one for one in people.values() if any(one)]
        for rank in (1, 5, 10):
            assert found.numbers[f"Rank-{rank}"] == pytest.approx(np.mean([any(one[:rank]) for one in known]))
        both = np.array([precision_and_inp(one) for one in known])
        assert (found.numbers["mAP"], found.numbers["mINP"]) == pytest.approx(tuple(both.mean(0)))


def test_ccpg_goes_by_cameras():
    walks = crowd(["U0_D0_BG", "U0_D0", "U1_D0", "U1_D1"], ["1", "2_3", "2_4", "5"], people=6)
    found = {one.setting: one for one in evaluate(walks, PROTOCOLS["CCPG"])}
    assert set(found) == {"CL", "DN", "BG"}
    eye = np.array([view.split("_")[0] for view in walks.views])
    values, hits = [], []
    for i in np.flatnonzero(walks.types == "U1_D0"):
        items = [
            j
            for j in range(len(walks))
            if walks.types[j] == "U1_D1" and not (eye[j] == eye[i] and walks.identities[j] == walks.identities[i])
        ]
        people = sorted_people(walks, int(i), items, "euc")
        values.append(precision_and_inp(people))
        hits.append(people[0])
    one = found["DN"]
    assert one.numbers["Rank-1"] == pytest.approx(np.mean(hits))
    assert (one.numbers["mAP"], one.numbers["mINP"]) == pytest.approx(tuple(np.mean(values, 0)))
    seen = replace(walks, views=eye)
    assert one.numbers["Rank-1 other views"] == pytest.approx(view_by_view(seen, ["U1_D0"], ["U1_D1"], 1, "euc"))


def test_who_is_nearest_and_failures_are_those_of_loops():
    walks = crowd(["nm-01", "nm-05"], ["000", "090"])
    (one,) = evaluate(walks, PROTOCOLS["CASIA-B"])
    for k, i in enumerate(one.probes):
        items = [j for j in np.flatnonzero(walks.types == "nm-01") if walks.views[j] != walks.views[i]]
        to = {j: far(walks.embeddings[i], walks.embeddings[j], "euc") for j in items}
        near = min(to, key=to.get)
        match = min((j for j in items if walks.identities[j] == walks.identities[i]), key=to.get)
        assert (one.nearest[k], one.match[k]) == (near, match)
        assert (one.to_nearest[k], one.to_match[k]) == pytest.approx((to[near], to[match]))


def test_a_model_that_maps_all_to_one_point_recognises_nobody():
    walks = replace(crowd(["nm-01", "nm-05"], ["000", "090"]), embeddings=np.ones((28, 5, 3), np.float32))
    (one,) = evaluate(walks, PROTOCOLS["CASIA-B"])
    assert one.numbers["Rank-1"] == 0
    assert one.numbers["Rank-5"] == 0
    first, precision, inp = ranked(np.zeros((1, 3)), np.array([[True, False, False]]), np.ones((1, 3), bool))
    assert (first[0], precision[0], inp[0]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_a_view_without_items_is_left_out_of_the_means():
    walks = crowd(["nm-01", "nm-05"], ["000", "090", "180"])
    some = (walks.types != "nm-01") | (walks.views != "180")
    less = Walks(*(part[some] for part in vars(walks).values()))
    (one,) = evaluate(less, PROTOCOLS["CASIA-B"])
    table = evaluate(walks, PROTOCOLS["CASIA-B"])[0].tables[1]
    assert np.isnan(one.tables[1][:, 2]).all()
    np.testing.assert_array_equal(one.tables[1][:, :2], table[:, :2])
    assert one.numbers["Rank-1"] == pytest.approx(np.mean([table[0, 1], table[1, 0], table[2, :2].mean()]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda walks: protocol("casia"), "protocol 'casia': expected one of CASIA-B, .*Did you mean"),
        (
            lambda walks: evaluate(walks, PROTOCOLS["GREW"]),
            r"GREW: no setting has probes and a gallery \(all 0 and 0 of",
        ),
        (lambda walks: evaluate(walks, PROTOCOLS["CASIA-B"], "l1"), "metric 'l1': expected one of euc, cos"),
    ],
)
def test_what_cannot_be_evaluated_is_said(how, message):
    with pytest.raises(BadInput, match=message):
        how(crowd(["nm-01", "nm-05"], ["000", "090"]))


@pytest.mark.parametrize(
    ("evaluator", "data", "want"),
    [
        ({}, {}, "CASIA-B"),
        ({"cross_view_gallery": True}, {}, "CASIA-B-cross-view"),
        ({"eval_func": "evaluate_indoor_dataset"}, {"test_dataset_name": "SUSTech1K"}, "SUSTech1K"),
        ({"eval_func": "evaluate_CCPG"}, {"test_dataset_name": "CCPG"}, "CCPG"),
        ({"eval_func": "evaluate_CCGR_MINI"}, {}, "CCGR-MINI"),
        ({"eval_func": "GREW_submission"}, {"test_dataset_name": "GREW"}, "GREW"),
        ({"eval_func": "evaluate_scoliosis"}, {}, ""),
    ],
)
def test_a_config_names_its_protocol(tmp_path, evaluator, data, want):
    file = write_config(tmp_path, "gaitset", evaluator_cfg=evaluator, data_cfg={"dataset_name": "CASIA-B", **data})
    assert read_config(file).protocol == want


def test_a_part_is_black_in_pictures_and_masks_of_the_same_tree_hide_what_they_show(tmp_path):
    place = tmp_path / "Tree" / "1" / "nm" / "000"
    place.mkdir(parents=True)
    grey = np.full((2, 64, 64), 200, np.uint8)
    (place / "a.pkl").write_bytes(pickle.dumps(grey))
    walk = Walk("1", "nm", "000", (place / "a.pkl",))

    def rows(part: str) -> list[int]:
        (made,) = Hidden(*vars(walk).values(), part=part).read()
        assert set(np.unique(made)) == {0, 200}
        return np.flatnonzero((made == 0).all((0, 2))).tolist()

    assert rows("head") + rows("torso") + rows("legs") == list(range(64))
    assert rows("legs")[0] == 34
    mask = np.zeros((2, 64, 64), bool)
    mask[1, 3:5, 7] = True
    (tmp_path / "masks/1/nm/000").mkdir(parents=True)
    (tmp_path / "masks/1/nm/000/m.pkl").write_bytes(pickle.dumps(mask))
    (made,) = Hidden(*vars(walk).values(), part=str(tmp_path / "masks")).read()
    np.testing.assert_array_equal(made == 0, mask)
    (whole,) = Hidden("2", "nm", "000", walk.files, part=str(tmp_path / "masks")).read()
    np.testing.assert_array_equal(whole, grey)
    (tmp_path / "masks/1/nm/000/m.pkl").write_bytes(pickle.dumps(mask[:1]))
    with pytest.raises(BadInput, match=r"m\.pkl: a mask of shape \(1, 64, 64\); the walk has \(2, 64, 64\)"):
        Hidden(*vars(walk).values(), part=str(tmp_path / "masks")).read()
    (place / "a.pkl").write_bytes(pickle.dumps(np.ones((2, 17, 3))))
    with pytest.raises(BadInput, match="a part can be hidden in pictures"):
        Hidden(*vars(walk).values(), part="legs").read()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tree, a config and a checkpoint, and what loupe gait eval made of them."""
    top = tmp_path_factory.mktemp("eval")
    write_config(top, "gaitset")
    write_tree(top / "Tree", range(4), ("nm-01", "nm-05", "bg-01"), ("000", "090"), frames=5)
    (top / "part.json").write_text(json.dumps({"TRAIN_SET": ["003"], "TEST_SET": ["000", "001", "002"]}))
    assert run(top, "--partition", str(top / "part.json"), "--without", "legs", str(top / "Tree-bags")) == 0
    return top


def run(top: Path, *more: str, save: str = "ev") -> int:
    given = [
        "-c",
        str(top / "gaitset.yaml"),
        "-w",
        str(top / "gaitset.pt"),
        "-d",
        str(top / "Tree"),
        "-s",
        str(top / save),
    ]
    return main(["gait", "eval", *given, "--device", "cpu", *more])


def test_the_command_keeps_what_the_functions_find(place, capsys, monkeypatch):
    walks = as_walks(read_points(place / "ev" / "feats.npz"))
    assert sorted(set(walks.identities)) == ["000", "001", "002"]
    held = read_evaluation(place / "ev")
    assert isinstance(kinds.read(*store.load(place / "ev" / "evaluation.npz")), Evaluation)
    for one in evaluate(walks, PROTOCOLS["CASIA-B"]):
        assert dict(held.numbers[one.setting]) == pytest.approx(dict(one.numbers))
        np.testing.assert_array_equal(held.outcomes[one.setting].tables[1], one.tables[1])
        assert held.row()[f"{one.setting} Rank-1"] == pytest.approx(one.numbers["Rank-1"])
    assert set(held.hidden) == {"legs", str(place / "Tree-bags")}
    # the gallery stays as it is, and no walker carries a bag under nm, so that nothing of it is hidden there
    assert held.hidden[str(place / "Tree-bags")]["NM"] == held.numbers["NM"]
    for part, alike in (("legs", set()), ("Tree-bags", {"nm-05"})):
        less = as_walks(read_points(place / "ev" / f"feats-without-{part}.npz"))
        rows = [walks.names.tolist().index(name) for name in less.names]
        same = (less.embeddings == walks.embeddings[rows]).all((1, 2))
        assert set(less.types) == {"nm-05", "bg-01"}
        assert set(less.types[same]) == alike
        probes = walks.embeddings.copy()
        probes[rows] = less.embeddings
        for one in evaluate(walks, PROTOCOLS["CASIA-B"], probes=probes):
            key = part if part == "legs" else str(place / part)
            assert dict(held.hidden[key][one.setting]) == pytest.approx(dict(one.numbers))
    with Image.open(place / "ev" / "evaluation.png") as picture:
        assert picture.width > 500
    before = (place / "ev" / "feats.npz").stat().st_mtime_ns
    monkeypatch.setattr("torchloupe.runs.evaluation.embed_file", None)
    assert run(place, "--partition", str(place / "part.json")) == 0
    assert (place / "ev" / "feats.npz").stat().st_mtime_ns == before
    out = capsys.readouterr().out
    assert "protocol CASIA-B, distance euc, without same-view" in out
    told = "\n".join(lines(held))
    assert "no legs" in told
    assert f"{100 * held.numbers['NM']['Rank-1']:.1f}" in told


def test_failures_are_explained_by_their_number(place, capsys):
    held = read_evaluation(place / "ev")
    failed = held.failures()
    margins = [one.to_answer - one.to_match for one in failed]
    assert margins == sorted(margins)
    assert all(one.answer[:3] != one.probe[:3] == one.match[:3] for one in failed)
    with (place / "ev" / "failures.csv").open() as file:
        assert [row["probe"] for row in csv.DictReader(file)] == [one.probe for one in failed]
    out = place / "maps"
    assert (
        main(
            ["gait", "cam", "-e", str(place / "ev"), "--failures", "2", "-s", str(out), "-l", "Head", "--device", "cpu"]
        )
        == 0
    )
    for one in failed[:2]:
        note = json.loads((out / f"{one.probe}.json").read_text())
        assert note["answers"] == [one.answer]
        assert note["verdict"] == "wrong"
        assert note["exclude"] == ["same-view"]
        assert -note["scores"][0] == pytest.approx(one.to_answer, rel=1e-4)
    assert len(list(out.glob("*.npz"))) == 2
    capsys.readouterr()
    for given, message in (
        (["--failures", "2"], "--failures: of which evaluation? Give its folder with --evaluation"),
        (["-e", str(place)], "no evaluation there; expected a folder that loupe gait eval wrote"),
        (["-e", str(place / "ev"), "--failures", "0"], "--failures 0: expected 1 or more"),
        (["-e", str(place / "ev"), "-p", "Tree"], "--evaluation knows its probes and its gallery"),
        ([], "--config: give OpenGait's YAML, or an evaluation"),
    ):
        assert main(["gait", "cam", *given, "-s", str(place / "no")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--protocol", "GREW"],
            "protocol GREW: none of 24 walks is of its types; the types there are: bg-01, nm-01, nm-05",
        ),
        (["--protocol", "Gait3D"], "protocol Gait3D wants a partition file with PROBE_SET; give it with --partition"),
        (["--partition", "gaitset.yaml"], "gaitset.yaml: expected a JSON mapping with TEST_SET"),
        (["--without", "arms"], "without 'arms': expected head, torso, legs, or a folder of masks"),
    ],
)
def test_bad_questions_of_the_command_are_one_line(place, capsys, monkeypatch, given, message):
    monkeypatch.chdir(place)
    assert run(place, *given, save="bad") == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_a_protocol_without_tables_is_drawn_too(tmp_path):
    walks = crowd(["01", "02"], ["x"])
    (one,) = evaluate(walks, PROTOCOLS["GREW"])
    made = Evaluation("GREW", "euc", "", {}, {"all": one.numbers})
    for ending in ("png", "svg", "pdf"):
        assert draw_tables(made, tmp_path / f"a.{ending}").stat().st_size > 1000
