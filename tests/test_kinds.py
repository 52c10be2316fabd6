"""Kinds of result: what is on disk is what was made, their numbers against loops, and names that pick a part of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from stored import KINDS

from torchloupe import kinds
from torchloupe.axes import Layout
from torchloupe.errors import BadInput, BadSample
from torchloupe.kinds.judged import Judged
from torchloupe.kinds.maps import Heatmaps, _numbers, _picture, chosen
from torchloupe.names import locate
from torchloupe.points import Pieces
from torchloupe.probe import Batch, check_finite
from torchloupe.render.judgement import drawn
from torchloupe.store import Artifact
from torchloupe.view.shown import shown


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("curves", "projection")])
def test_what_is_read_is_written_again(kind: str) -> None:
    arrays, record = KINDS[kind]
    made = kinds.read(arrays, record, "a")
    again = made.arrays()
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        assert np.array_equal(again[name], array, equal_nan=array.dtype.kind == "f")
    assert {key: value for key, value in made.record.items() if key in record and value != record[key]} == {}


def test_a_judgement_keeps_its_numbers_curves_and_controls() -> None:
    arrays, record = KINDS["judged"]
    made = Judged.read(arrays, record, "a")
    number, line = made.numbers["deletion"], made.curves["deletion"]
    assert number.better == "low"
    assert number.chance is not None
    assert number.chance.tolist() == [0.5, 0.5]
    assert number.value["gradcam/l"][0] == 0.5
    assert math.isnan(number.value["gradcam/l"][1])
    assert line.at.tolist() == [0, 0.5, 1]
    assert np.array_equal(line.value["random"], arrays["curve/deletion/random"])
    assert (made.controls, made.said) == (("random",), ("one word",))
    row = made.row()
    assert row["deletion gradcam/l"] == 0.5, "the mean of those that there are"
    assert "deletion random" not in row, "maps that know nothing have no column"
    more = shown(Artifact(arrays, record), "a").plain()
    assert more["controls"] == ["random"]
    assert more["numbers"]["deletion"]["value"]["gradcam/l"] == [0.5, None]


def test_plain_heatmaps_are_a_judgement_without_numbers_and_a_damaged_one_is_none() -> None:
    made = Judged.read(*KINDS["maps"], "a")
    assert (made.numbers, made.curves, made.controls) == ({}, {}, ())
    arrays, record = KINDS["judged"]
    with pytest.raises(BadInput, match="a: "):
        Judged.read(arrays, {name: value for name, value in record.items() if name != "judged"}, "a")


@pytest.mark.parametrize("channels", [1, 3])
def test_an_input_without_a_picture_is_shown_between_its_least_and_its_greatest_value(channels: int) -> None:
    x = torch.rand(2, channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 7 - 3
    found, origin = _picture(Batch(x, Layout("n c h w")), 1)
    assert origin == "input"
    assert (found.shape, found.dtype) == ((1, 4, 5, 3), np.uint8)
    values = x[1].tolist()
    flat = [value for plane in values for row in plane for value in row]
    for c in range(3):
        for i in range(4):
            for j in range(5):
                unit = (values[c if channels == 3 else 0][i][j] - min(flat)) / (max(flat) - min(flat))
                assert abs(int(found[0, i, j, c]) - unit * 255) <= 0.51
    assert found.min() == 0
    assert found.max() == 255


def test_inputs_that_are_no_picture_are_white_and_flat_ones_black() -> None:
    white, origin = _picture(Batch(torch.rand(1, 2, 3, 3)), 0)
    assert (origin, white.min()) == ("none", 255)
    white, origin = _picture(Batch(torch.full((1, 3, 3, 3), float("nan"))), 0)
    assert (origin, white.min()) == ("none", 255)
    with np.errstate(all="raise"):
        black, origin = _picture(Batch(torch.full((1, 3, 3, 3), 2.5)), 0)
    assert (origin, black.max()) == ("input", 0)
    seen = torch.randint(0, 255, (1, 1, 3, 3, 3), dtype=torch.uint8)
    found, origin = _picture(Batch(torch.zeros(1, 3, 3, 3), pictures=seen), 0)
    assert (origin, found.tolist()) == ("seen", seen[0].tolist())


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.bfloat16, "float32"), (torch.float16, "float32"), (torch.float32, "float32"), (torch.float64, "float64")],
)
def test_numbers_of_low_precision_are_kept_in_single(dtype: torch.dtype, kept: str) -> None:
    found = _numbers(torch.tensor([1.5, -2.0], dtype=dtype, requires_grad=True))
    assert (found.dtype, found.tolist()) == (np.dtype(kept), [1.5, -2.0])


NAMES = ("Cat", "Dog house", "dog", "cat.v2")


@pytest.mark.parametrize(
    ("what", "wanted", "expected"),
    [
        ("method", (), NAMES),
        ("method", ("dog",), ("dog",)),  # itself before what fits
        ("method", ("CAT*",), ("Cat", "cat.v2")),  # globs whatever the case
        ("method", ("cat.v2", "Cat"), ("Cat", "cat.v2")),  # in the order of the result
        ("target", ("house",), ("Dog house",)),  # a part of a question that only one has
        ("target", ("HOUSE",), ("Dog house",)),
    ],
)
def test_names_pick_a_part(what: str, wanted: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert chosen("a", what, wanted, NAMES) == expected


@pytest.mark.parametrize(("what", "name"), [("target", "og"), ("method", "house"), ("target", "bird"), ("layer", "CA")])
def test_names_that_pick_nothing_or_too_much(what: str, name: str) -> None:
    with pytest.raises(BadInput, match=f"a: no {what} '{name}' in it"):
        chosen("a", what, (name,), NAMES)


def test_a_part_of_heatmaps_has_its_rows_of_everything() -> None:
    made = Heatmaps.read(*KINDS["maps"], "a")
    part = made.only(targets=["dog"])
    assert (part.questions, part.scores) == (("dog",), (0.25,))
    assert part.boxes is not None
    assert made.boxes is not None
    assert np.array_equal(part.boxes, made.boxes[1:])
    assert np.array_equal(part.maps["gradcam", "l"], made.maps["gradcam", "l"][1:])
    assert part.detections is made.detections
    with pytest.raises(BadInput, match="no method 'layercam'"):
        made.only(methods=["layercam"])


def odd_maps() -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    arrays, record = KINDS["maps"]
    spoilt = arrays["map/gradcam/l"].copy()
    spoilt[0, 0, 1, 2] = np.nan  # one of 24
    return [
        ({**arrays, "map/gradcam/l": spoilt}, record, "not finite"),
        ({**arrays, "map/gradcam/l": arrays["map/gradcam/l"][:1]}, record, "does not fit 2 questions"),
        (arrays, {**record, "scores": [0.5]}, "with 1 scores"),
        ({**arrays, "boxes": arrays["boxes"][:, :3]}, record, "boxes or regions"),
        ({**arrays, "boxes": arrays["boxes"][:1]}, record, "boxes or regions"),
        ({**arrays, "detections": arrays["detections"][:, :5]}, record, "boxes or regions"),
        ({**arrays, "picture": arrays["picture"][0]}, record, "expected .t, h, w, 3. uint8"),
        ({**arrays, "picture": arrays["picture"][..., :1]}, record, "expected .t, h, w, 3. uint8"),
        ({**arrays, "picture": arrays["picture"].astype(float)}, record, "expected .t, h, w, 3. uint8"),
    ]


@pytest.mark.parametrize(("arrays", "record", "message"), odd_maps())
def test_heatmaps_that_do_not_fit(arrays: dict[str, Any], record: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Heatmaps.read(arrays, record, "a")


def test_one_nan_in_one_of_several_questions_is_noticed() -> None:
    batch = Batch(torch.zeros(3, 3, 2, 2), ids=("a", "b", "c"))
    for bad in (float("nan"), float("inf"), -float("inf")):
        value = torch.zeros(4, 3)
        check_finite(value, batch)
        value[2, 1] = bad
        with pytest.raises(BadSample, match="not finite .* for b; check"):
            check_finite(value, batch)
    with pytest.raises(BadInput, match=r"shape \(3, 4\); expected \(questions, 3\)"):
        check_finite(torch.zeros(3, 4), batch)
    with pytest.raises(BadInput, match=r"shape \(3,\)"):
        check_finite(torch.zeros(3), batch)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("torch..relu", "a name between any two dots"),
        (".torch", "a name between any two dots"),
        ("nowhere.at.all", "there is no module 'nowhere'"),
        ("torch.nn", "is not a function or method"),
        ("torch.nn.Linear", "is not a function or method"),
        ("torch.nn.functional.rely", "has no 'rely'. Did you mean"),
    ],
)
def test_paths_that_lead_to_no_function(path: str, word: str) -> None:
    with pytest.raises(BadInput, match=word):
        locate(path)


def test_a_path_leads_to_the_function_in_its_longest_module() -> None:
    assert locate("torch.nn.Linear.forward") == (torch.nn.Linear, "forward")
    assert locate("torch.relu") == (torch, "relu")


@pytest.mark.parametrize("rows", [1, 1024, 1025, 2049])
def test_rows_of_a_sparse_matrix_in_any_order(rows: int) -> None:
    from scipy.sparse import csr_matrix

    dense = np.random.default_rng(0).integers(0, 3, (rows, 5)).astype(np.float32)
    held = Pieces.sparse(csr_matrix(dense))
    most: list[int] = []
    read = held._read
    held._read = lambda a, b: (most.append(b - a), read(a, b))[1]  # type: ignore[method-assign, func-returns-value]
    order = np.random.default_rng(1).permutation(rows)
    assert np.array_equal(held[order], dense[order])
    assert max(most) <= 1024, "more rows at once than a piece has"
    assert np.array_equal(held[3:7], dense[3:7])


def test_curves_of_which_none_is_whole_are_drawn_and_say_so() -> None:
    at = np.array([0.0, 0.5, 1.0])
    figure = drawn({"ssim": (at, {"gradcam/l": np.array([[0.5, np.nan, 0.1]])})}, (), (), "t")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].texts] == ["no map with a number at every point"]
    assert not figure.legends
    figure = drawn({"ssim": (at, {"gradcam/l": np.array([[0.5, 0.2, 0.1], [np.nan] * 3])})}, (), (), "")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.5, 0.2, 0.1], "the mean of those that are whole"
    assert len(figure.legends) == 1
