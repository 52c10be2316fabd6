"""The demo: its pictures, its marks against plain loops, and the command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchloupe.cli import main
from torchloupe.errors import BadInput, MissingPackage
from torchloupe.examples import digits
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Probe
from torchloupe.targets.classes import Truth


@pytest.fixture(scope="module")
def made_of() -> tuple[digits.Material, digits.Material]:
    return digits.material(0)


@pytest.fixture(scope="module")
def seen(made_of: tuple[digits.Material, digits.Material]) -> digits.Scenes:
    return digits.scenes(made_of[1], 40, np.random.default_rng(3))


def test_training_and_test_material_are_disjoint(made_of: tuple[digits.Material, digits.Material]) -> None:
    from sklearn.datasets import load_digits

    learn, held_out = made_of
    known = sorted(map(bytes, load_digits().images.astype(np.float32) / 16))
    assert sorted(map(bytes, [*learn.digits, *held_out.digits])) == known
    assert not set(digits.TRAINING_PHOTOGRAPHS) & set(digits.TEST_PHOTOGRAPHS)
    assert len(learn.photographs) == len(digits.TRAINING_PHOTOGRAPHS)
    assert len(held_out.photographs) == len(digits.TEST_PHOTOGRAPHS)
    assert all(photo.ndim == 3 and photo.dtype == np.uint8 for photo in learn.photographs + held_out.photographs)


def test_a_digit_changes_its_box_and_nothing_else(made_of: tuple[digits.Material, digits.Material]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        before = digits.background(made_of[0].photographs[0], digits.SIDE, rng)
        after = before.copy()
        box = digits.put(made_of[0].digits[rng.integers(100)], after, [], rng)
        assert box is not None
        rows, columns = np.nonzero((before != after).any(2))
        assert rows.min() >= box[0]
        assert columns.min() >= box[1]
        assert rows.max() < box[2]
        assert columns.max() < box[3]
        assert after.max() <= 255


def test_scenes_hold_what_they_say(made_of: tuple[digits.Material, digits.Material], seen: digits.Scenes) -> None:
    counts = seen.present.sum(1)
    assert set(counts) == {1, 2, 3}
    for boxes in seen.boxes:
        covered = np.zeros((digits.SIDE, digits.SIDE), int)
        for top, left, bottom, right in boxes[boxes[:, 0] >= 0]:
            covered[top:bottom, left:right] += 1
            assert (bottom - top) * (right - left) > 0
        assert covered.max() == 1
    again = digits.scenes(made_of[1], 40, np.random.default_rng(3))
    assert (again.pictures == seen.pictures).all()
    assert (again.boxes == seen.boxes).all()


def test_a_digit_without_room_is_left_out(made_of: tuple[digits.Material, digits.Material]) -> None:
    canvas = np.zeros((digits.SIDE, digits.SIDE, 3), np.float32)
    whole = [(0, 0, digits.SIDE, digits.SIDE)]
    assert digits.put(made_of[0].digits[0], canvas, whole, np.random.default_rng(0)) is None
    assert not canvas.any()


def test_place_is_what_plain_loops_find(seen: digits.Scenes) -> None:
    batch = digits.questions(seen)
    assert batch.n == seen.present.sum()
    maps = torch.randn(1, batch.n, 1, digits.SIDE, digits.SIDE, generator=torch.Generator().manual_seed(0))
    maps[0, 0] = -maps[0, 0].abs() - 1
    found = digits.place(maps, batch)
    for i in range(batch.n):
        boxes, label = batch.truth["boxes"][i].tolist(), int(batch.truth["label"][i])
        values = maps[0, i, 0].double().tolist()
        best, at, mass, all_mass, energy, all_energy = 0.0, None, 0.0, 0.0, 0.0, 0.0
        for row in range(digits.SIDE):
            for column in range(digits.SIDE):
                value = values[row][column]
                top, left, bottom, right = boxes[label]
                own = top <= row < bottom and left <= column < right
                if value > best:
                    best, at = value, (row, column)
                mass, all_mass = mass + own * max(value, 0), all_mass + max(value, 0)
                energy, all_energy = energy + own * value**2, all_energy + value**2
        hits = [
            at is not None and top <= at[0] < bottom and left <= at[1] < right for top, left, bottom, right in boxes
        ]
        assert found.empty[i] == (at is None)
        assert found.points[i] == hits[label]
        assert found.elsewhere[i] == (any(hits) and not hits[label])
        assert found.mass[i].item() == pytest.approx(mass / all_mass if all_mass else 0, abs=1e-12)
        assert found.energy[i].item() == pytest.approx(energy / all_energy, abs=1e-12)


def test_chance_is_what_a_uniform_map_gets(seen: digits.Scenes) -> None:
    batch = digits.questions(seen)
    level = digits.chance(batch)
    flat = digits.place(torch.ones(1, batch.n, 1, 8, 8), batch)
    torch.testing.assert_close(level.mass, flat.mass, atol=1e-12, rtol=0)
    torch.testing.assert_close(level.energy, flat.energy, atol=1e-12, rtol=0)
    draws = [
        digits.place(
            torch.rand(1, batch.n, 1, digits.SIDE, digits.SIDE, generator=torch.Generator().manual_seed(i)), batch
        )
        for i in range(30)
    ]
    for name in ("points", "elsewhere"):
        mean = torch.stack([getattr(draw, name) for draw in draws]).mean().item()
        expected = getattr(level, name).mean().item()
        assert abs(mean - expected) < 4 * (expected / (30 * batch.n)) ** 0.5


def perfect(probe: Probe, batch: digits.Batch) -> Maps:
    """The box of the asked digit at the first layer; refuses the second."""
    if probe.layers != digits.LAYERS[:1]:
        raise BadInput("perfect knows the first layer only; take it")
    own = digits.inside(batch.truth["boxes"][torch.arange(batch.n), batch.truth["label"]])
    value = torch.zeros(1, batch.n)
    return Maps({probe.layers[0]: own[None, :, None].float()}, Scores(value, (batch.ids,)))


def test_rows_of_a_perfect_method_and_of_a_refusal(seen: digits.Scenes) -> None:
    batch = digits.questions(seen)
    probe = Probe(digits.subject(digits.network()), digits.LAYERS, Truth(digits.CLASSES))
    first, second = digits.asked("perfect", perfect, probe, batch)
    assert (first.layer, first.questions) == ("stage2", batch.n)
    assert (first.points, first.alone, first.among, first.elsewhere) == (1, 1, 1, 0)
    assert (first.mass, first.energy, first.empty) == (1, 1, 0)
    assert second.refused.startswith("perfect knows")
    text = digits.table([first, second]).splitlines()
    assert text[1].split()[:6] == ["perfect", "stage2", str(batch.n), "100.0", "100.0", "100.0"]
    assert text[2].split("refused: ")[1] == "perfect knows the first layer only"


def test_training_is_the_same_twice_and_leaves_nothing(made_of: tuple[digits.Material, digits.Material]) -> None:
    count, state = torch.get_num_threads(), torch.get_rng_state()
    told: list[int] = []
    one = digits.train(made_of[0], steps=6, batch=4, progress=lambda: told.append(1))
    other = digits.train(made_of[0], steps=6, batch=4)
    assert len(told) == 6
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert torch.get_num_threads() == count
    assert torch.equal(torch.get_rng_state(), state)
    assert not one.training


def test_accuracy_counts(seen: digits.Scenes) -> None:
    truth = torch.from_numpy(seen.present)

    class Told(torch.nn.Module):
        def __init__(self, logits: torch.Tensor) -> None:
            super().__init__()
            self.logits = logits

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits

    assert digits.accuracy(Told(truth.float() - 0.5), seen) == (1, 1, 0, 1)
    half = truth & (torch.arange(10) < 5)
    found = digits.accuracy(Told(half.float() - 0.5), seen)
    assert found.exact == sum(set(row) <= set(range(5)) for row in map(np.flatnonzero, seen.present)) / len(
        seen.present
    )
    assert found.found == pytest.approx(sum(row[:5].sum() for row in seen.present) / seen.present.sum())
    assert 0 < found.exact < found.found < 1
    inverted = digits.accuracy(Told(0.5 - truth.float()), seen)
    assert inverted == (0, 0, 1, 0)


def test_missing_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackage, match=r"scikit-learn.*torchloupe\[demo\]"):
        digits.material()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from skimage import data

    home = tmp_path_factory.mktemp("demo")
    own = home / "own"
    own.mkdir()
    digits.Image.fromarray(data.chelsea()).save(own / "cat.png")
    (own / "broken.png").write_text("no picture")
    return home / "out", own


def test_the_command_small(small: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    save, own = small
    arguments = ["demo", "--save", str(save), "--steps", "8", "--pictures", "6", "--photographs", str(own)]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    named = {Path(line.strip()) for line in out.partition("wrote\n")[2].partition("\n\n")[0].splitlines()}
    assert named == set(save.iterdir())
    assert {"demo.json", "demo.npz", "digits.safetensors", "cat-with-digits-grid.png"} <= {path.name for path in named}
    assert "broken.png" in err
    assert "\r" not in err
    assert re.search(r"^cam +stage2 +refused: ", out, re.MULTILINE)
    record = json.loads((save / "demo.json").read_text())
    assert record["rows"][0]["method"] == "chance"
    assert {row["method"] for row in record["rows"][1:]} == set(digits.ours())
    assert sum(1 for _ in save.glob("picture-*-grid.png")) >= 1
    by_hand = out.rstrip().splitlines()[-1].split()[1:]
    assert main([*by_hand[:-1], str(save / "again")]) == 0
    assert len(list((save / "again").glob("*-grid.png"))) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "3"], "--steps 3: expected 4 or more"),
        (["--pictures", "2"], "--pictures 2: expected 4 or more"),
        (["--seed", "-1"], "--seed -1: expected 0 or more"),
        (["--save", __file__], "is a file; give a folder"),
    ],
)
def test_bad_options(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *words]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--save", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "demo.json").read_text())
    assert record["accuracy"]["right"] > 0.9
    assert record["accuracy"]["found"] > 0.85
    level = record["rows"][0]["points"]
    for row in record["rows"][1:]:
        assert row["refused"] or row["points"] > 2 * level, row["method"]
    sharp = {(row["method"], row["layer"]): row for row in record["rows"]}
    assert sharp["gradcam", "stage3"]["among"] > 0.8
    assert sharp["eigencam", "stage3"]["among"] < 0.6 < sharp["eigencam", "stage3"]["alone"]
    assert sharp["cam", "stage3"]["points"] == sharp["gradcam", "stage3"]["points"]
    assert "worse than chance" not in capsys.readouterr().err


def test_the_transformer_is_asked_by_every_method_of_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchloupe.examples import transformer
    from torchloupe.methods.registry import METHODS, needs_attention, ours

    assert main(["demo", "--transformer", "--steps", "5", "--pictures", "5", "--save", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "transformer.json").read_text())
    assert [row["method"] for row in record["rows"]] == ["chance", *transformer.ASKED]
    assert not any(row["refused"] for row in record["rows"])
    assert (tmp_path / "transformer.safetensors").is_file()
    asked = {name.split()[0] for name in transformer.ASKED}
    assert {name for name in ours() if needs_attention(METHODS[name])} - {"clip_surgery"} <= asked
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("method ", "chefer", "legrad"))]
    assert len({len(line) for line in lines}) == 1  # columns stand under each other
    assert main(["demo", "--transformer", "--rank", "--save", str(tmp_path)]) == 2
    assert "--rank has no meaning" in capsys.readouterr().err
