"""What many walks have in common, against loops over small made-up results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gait_fixtures import write_config, write_walkers

from torchloupe import kinds, store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.gait import embed_gallery, explain_walk
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.kinds.summary import Summary
from torchloupe.render.summary import draw_summary, lines
from torchloupe.runs.found import results
from torchloupe.runs.summary import kind_of, on_bands, summed
from torchloupe.sources.opengait import gait
from torchloupe.sources.sequences import sequences
from torchloupe.targets.retrieval import Nearest

RNG = np.random.default_rng(0)


def result(
    person: str, condition: str, view: str, frames: int = 6, *, right: bool = True, **changes: object
) -> SequenceMaps:
    maps = {
        "early": RNG.random((1, frames, 8, 6)).astype(np.float32),
        "late": RNG.random((1, 1, 4, 3)).astype(np.float32),
    }
    windows = {"early": np.array([[t, t + 1] for t in range(frames)]), "late": np.array([[0, frames]])}
    match, rival = RNG.random(4).astype(np.float32), RNG.random(4).astype(np.float32)
    if (match.mean() < rival.mean()) != right:
        match, rival = rival, match
    made = SequenceMaps(
        f"{person}-{condition}-{view}", person, condition, view, "GaitSet", "gradcam", "{}", "Nearest", maps, windows,
        questions=("x",), scores=(-1.0,), answers=("x",), imgs=RNG.integers(0, 256, (frames, 8, 6)).astype(np.uint8),
        part_answer=RNG.random(4).astype(np.float32), part_match=match, part_rival=rival,
        part_rows=np.array([[0, 0.5], [0.5, 1], [0, 0.5], [0.5, 1]], np.float32),
    )  # fmt: skip
    return replace(made, **changes)


def run() -> list[SequenceMaps]:
    return [
        result("a", "nm-05", "000"),
        result("a", "nm-06", "000", 9),
        result("a", "cl-01", "000", right=False),
        result("a", "cl-01", "090"),
        result("b", "nm-05", "090", 4, right=False),
        result("b", "cl-01", "090"),
        result("c", "bg-01", "000"),
    ]


def flat(made: SequenceMaps, layer: str) -> np.ndarray:
    maps = made.maps[layer][0].astype(float)
    total = sum(abs(value) for value in maps.ravel().tolist())
    return sum(frame for frame in maps) / total


def test_every_walk_counts_alike_in_the_means():
    walks = run()
    found = summed(walks)
    groups = {
        ("all", "all"): lambda walk: True,
        ("view", "090"): lambda walk: walk.view == "090",
        ("type", "nm"): lambda walk: walk.condition.startswith("nm"),
        ("match", "wrong"): lambda walk: walk.part_match.mean() > walk.part_rival.mean(),
    }
    for where, inside in groups.items():
        own = [walk for walk in walks if inside(walk)]
        assert found.counts[where] == len(own) > 0
        for layer in ("early", "late"):
            want = np.mean([flat(walk, layer) for walk in own], 0)
            np.testing.assert_allclose(found.means[layer, where], want)
            assert want.sum() == pytest.approx(1)
            rows = want.sum(1)
            assert sum(found.bands[where][layer].values()) == pytest.approx(rows.sum())
        np.testing.assert_allclose(found.bodies[where], np.mean([walk.imgs.mean(0) for walk in own], 0))
        assert sum(found.areas[where].values()) == pytest.approx(1)
    assert [where for where in found.counts if where[0] == "type"] == [("type", "bg"), ("type", "cl"), ("type", "nm")]


def test_rows_that_lie_on_two_parts_count_by_their_overlap():
    share = np.zeros((4, 3))
    share[0] = 0.1
    share[2] = 0.2
    # rows of a quarter each: head 0 to 13 %, torso to 53 %, legs to 100 %
    found = on_bands(share)
    assert found["head"] == pytest.approx(0.3 * 0.13 / 0.25)
    assert found["torso"] == pytest.approx(0.3 * 0.12 / 0.25 + 0.6 * 0.03 / 0.25)
    assert found["legs"] == pytest.approx(0.6 * 0.22 / 0.25)


def test_two_conditions_are_compared_of_the_same_people_and_views():
    walks = run()
    found = summed(walks)
    assert found.pairs == {"cl - nm": 2}
    for layer in ("early", "late"):
        of = {walk.name: flat(walk, layer) for walk in walks}
        first = of["a-cl-01-000"] - (of["a-nm-05-000"] + of["a-nm-06-000"]) / 2
        second = of["b-cl-01-090"] - of["b-nm-05-090"]
        np.testing.assert_allclose(found.differences[layer, "cl - nm"], (first + second) / 2)
    assert [kind_of(one) for one in ("nm-05", "00", "01-nm", "U0_D0_BG", "H-scene1-nm-2")] == [
        *("nm", "00", "01-nm", "U0_D0_BG", "H-scene1-nm"),
    ]


def test_parts_over_time_keep_their_place_whatever_the_length():
    walks = []
    for frames in (4, 10):
        maps = np.zeros((1, frames, 8, 6), np.float32)
        for t in range(frames):
            maps[0, t, 7 if t >= frames / 2 else 0] = 1  # the head, then the feet
        windows = {"early": np.array([[t, t + 1] for t in range(frames)])}
        walks.append(result("a", "nm-01", f"{frames:03d}", frames, maps={"early": maps}, windows=windows))
    rows = summed(walks).times["early"]
    assert "late" not in summed(run()).times
    half = rows.shape[1] // 2
    np.testing.assert_allclose(rows.sum(0), 1)
    assert rows[0, : half - 4].min() == pytest.approx(1)
    assert rows[7, half + 4 :].min() == pytest.approx(1)
    assert rows[1:7].max() == 0


def test_the_part_that_decides():
    walks = run()
    found = summed(walks).parts
    for outcome, right in (("right", True), ("wrong", False)):
        own = [walk for walk in walks if (walk.part_match.mean() < walk.part_rival.mean()) == right]
        share = np.mean([walk.part_answer / walk.part_answer.sum() for walk in own], 0)
        margin = np.mean([(walk.part_rival - walk.part_match) / 4 for walk in own], 0)
        alone = np.mean([walk.part_match < walk.part_rival for walk in own], 0)
        np.testing.assert_allclose(found[outcome], [share, margin, alone], rtol=1e-5)
        assert (margin.sum() > 0) == right


def test_maps_that_are_0_are_left_out_and_told():
    walks = run()
    dark = replace(walks[0], maps={**walks[0].maps, "late": np.zeros((1, 1, 4, 3), np.float32)})
    found = summed([dark, *walks[1:]])
    assert found.told["empty"] == {"late": 1}
    want = np.mean([flat(walk, "late") for walk in walks[1:]], 0)
    np.testing.assert_allclose(found.means["late", ("all", "all")], want)
    assert "late: the map of 1 walks is 0 everywhere; they are left out there" in lines(found)


@pytest.mark.parametrize(
    ("walks", "layers", "question", "message"),
    [
        ([], (), 0, "no result of loupe gait cam among them"),
        ([result("a", "nm", "0"), result("b", "nm", "0", method="layercam")], (), 0, "b-nm-0: method layercam, of a-nm-0 it"),
        ([result("a", "nm", "0")], ("nothing",), 0, "no layer 'nothing'"),
        ([result("a", "nm", "0")], (), 1, "question 1: a-nm-0 has 1, 0 to 0"),
        ([result("a", "nm", "0", maps={"early": np.zeros((1, 6, 8, 6))}, windows={"early": np.zeros((6, 2))})], (), 0, "no map that is not 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_summed_up_is_said(walks, layers, question, message):
    with pytest.raises(BadInput, match=message):
        summed(walks, layers, question=question)


def test_a_summary_on_disk_is_the_same_and_is_drawn(tmp_path):
    found = summed(run())
    store.save(tmp_path, "summary", found.arrays(), found.record)
    held = kinds.read(*store.load(tmp_path / "summary.npz"))
    assert isinstance(held, Summary)
    for one, other in ((found.means, held.means), (found.times, held.times), (found.differences, held.differences)):
        assert set(one) == set(other)
        for key, array in one.items():
            np.testing.assert_array_equal(other[key], array)
    assert (held.counts, held.pairs, held.layers) == (found.counts, found.pairs, found.layers)
    assert held.bands[("type", "nm")]["late"] == pytest.approx(found.bands[("type", "nm")]["late"])
    assert lines(held) == lines(found)
    assert held.row()["walks"] == 7
    names = ["maps-by-view", "maps-by-type", "maps-by-match", "differences", "parts-over-time", "parts"]
    assert [path.stem for path in draw_summary(held, tmp_path / "png")] == names
    with pytest.raises(BadInput, match="no groups in it"):
        Summary.read({}, {"kind": "gait summary"})


def test_the_command_sums_a_run_up(tmp_path, capsys):
    write_walkers(tmp_path, frames=5)
    file = write_config(tmp_path, "gaitset")
    given = [
        "-c",
        str(file),
        "-w",
        str(file.with_suffix(".pt")),
        "-p",
        str(tmp_path / "Probe"),
        "-g",
        str(tmp_path / "Gallery"),
    ]
    out = tmp_path / "out"
    assert (
        main(
            [
                "gait",
                "cam",
                *given,
                "-s",
                str(out),
                "--method",
                "layercam",
                "-l",
                "set_block2",
                "gl_block3",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    # pictures of a result lie in a folder of its name
    assert main(["gait", "draw", str(out / "000-bg-01-090.npz"), "-d", "compare"]) == 0
    capsys.readouterr()
    assert main(["gait", "summary", str(out), "-l", "set*"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 walks; shares of the maps in percent")
    assert "area" in told
    assert (out / "summary" / "summary.npz").exists()
    assert len(results(out)) == 2
    made = Summary.read(*store.load(out / "summary" / "summary.npz"))
    assert made.layers == ("set_block2",)
    assert made.part_rows.shape == (62, 2)
    assert main(["gait", "summary", str(tmp_path)]) == 2
    assert "no results in this folder" in capsys.readouterr().err


def test_distances_by_part_are_those_of_the_embedding(tmp_path):
    """To the answer, the nearest item of the person and of another; their means are the distances."""
    write_walkers(tmp_path, frames=5)
    file = write_config(tmp_path, "gaitset")
    subject = gait(file, file.with_suffix(".pt"), device="cpu")
    gallery = embed_gallery(subject, sequences(tmp_path / "Gallery"))
    walk = sequences(tmp_path / "Probe")[0]
    found = explain_walk(subject, walk, Nearest(gallery), ("gl_block3",), method="layercam")
    with torch.no_grad():
        output = subject.output(subject.prepare(walk))[0].double()
    far = {
        name: [float(((output[:, p] - item[:, p].double()) ** 2).sum() ** 0.5) for p in range(62)]
        for name, item in zip(gallery.names, gallery.embeddings, strict=True)
    }
    own = [name for name in far if name.startswith("000")]
    other = [name for name in far if not name.startswith("000")]
    for parts, name in (
        (found.part_answer, min(far, key=lambda name: sum(far[name]))),
        (found.part_match, min(own, key=lambda name: sum(far[name]))),
        (found.part_rival, min(other, key=lambda name: sum(far[name]))),
    ):
        np.testing.assert_allclose(parts, far[name], rtol=1e-4, atol=1e-9)
    assert -found.scores[0] == pytest.approx(found.part_answer.mean(), rel=1e-5)
