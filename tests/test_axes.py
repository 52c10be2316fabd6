"""Layouts: any raw tensor becomes n c t h w, and an error says what did not fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from torchloupe.axes import Layout, dims, grid, resize
from torchloupe.errors import BadInput

SMALL = st.integers(1, 5)
PATTERNS = ["n c t h w", "(n t) c h w", "n t h w c", "n t (h w) c", "(n t) (h w) c", "t n c h w", "n c (t h) w"]


@settings(max_examples=100, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL, SMALL, st.sampled_from(PATTERNS), st.integers(0, 3))
def test_round_trip(n: int, c: int, t: int, h: int, w: int, pattern: str, skip: int) -> None:
    known = torch.rand(n, c, t, h, w)
    raw = rearrange(known, f"n c t h w -> {pattern}")
    sizes = {
        axis: {"h": h, "t": t}[axis] for axis in "th" if f"({axis} " in pattern or (axis == "t" and "t)" in pattern)
    }
    if "(h w)" not in pattern:
        skip = 0
    layout = Layout(pattern, skip=skip, sizes=sizes)
    if skip:
        axis = layout.axis("h")
        raw = torch.cat([torch.full_like(raw.narrow(axis, 0, 1), 9.0)] * skip + [raw], axis)
    assert torch.equal(layout.canonical([raw], n), known)
    if skip:
        with pytest.raises(BadInput, match="cannot be undone"):
            layout.raw(known)
    else:
        assert torch.equal(layout.raw(known), raw)


def test_missing_axes_have_length_one() -> None:
    assert Layout("n c").canonical([torch.rand(2, 7)], 2).shape == (2, 7, 1, 1, 1)
    assert Layout("n c h").canonical([torch.rand(2, 7, 4)], 2).shape == (2, 7, 1, 4, 1)
    assert Layout("n t h w").canonical([torch.rand(2, 9, 4, 3)], 2).shape == (2, 1, 9, 4, 3)


def test_strips_are_joined_and_scales_stretched() -> None:
    calls = [torch.full((2, 3, 2, 5), float(i)) for i in range(3)]
    joined = Layout(join="h").canonical(calls, 2)
    assert joined.shape == (2, 3, 1, 6, 5)
    assert joined[0, 0, 0, :, 0].tolist() == [0, 0, 1, 1, 2, 2]
    raw = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 100.0]]])
    found = Layout("n c h", bins=(4, 2, 1)).canonical([raw], 1)
    assert found[0, :, 0, :, 0].tolist() == [[1, 2, 3, 4], [10, 10, 20, 20], [100, 100, 100, 100]]


def test_folded_halves_become_channels() -> None:
    raw = torch.arange(96.0).reshape(1, 2, 2, 8, 3)
    found = Layout("n c t (g h) w", sizes={"g": 2}).canonical([raw], 1)
    assert torch.equal(found[0, 0], raw[0, 0, :, :4])
    assert torch.equal(found[0, 1], raw[0, 0, :, 4:])


@pytest.mark.parametrize(
    ("layout", "shape", "match"),
    [
        (Layout("n c h w"), (2, 3, 4), "layout 'n c h w'.*does not fit shape"),
        (Layout("(n t) c h w"), (3, 3, 4, 4), "does not fit"),
        (Layout("n c h", bins=(4, 2)), (2, 3, 7), "do not add up to the 7 strips"),
        (Layout("n (h w) c"), (2, 13, 8), "fill no grid"),
    ],
)
def test_what_does_not_fit_is_told(layout: Layout, shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        layout.canonical([torch.rand(shape)], 2, (1, 32, 32))


def test_several_calls_need_a_join() -> None:
    with pytest.raises(BadInput, match="2 calls in one forward"):
        Layout().canonical([torch.rand(1, 1, 2, 2)] * 2, 1)
    with pytest.raises(BadInput, match="no axis 't'"):
        Layout().axis("t")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([8, 14, 16, 32]))
def test_token_grids_are_found_from_the_picture(h: int, w: int, patch: int) -> None:
    found = grid(h * w, (1, h * patch, w * patch))
    assert found is not None
    assert found[0] * found[1] == h * w
    assert found == (h, w)


def test_dims() -> None:
    assert dims("hw") == (-2, -1)
    assert dims("thw") == (-3, -2, -1)
    for wrong in ("", "x", "nhw"):
        with pytest.raises(BadInput, match="expected letters"):
            dims(wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_resize_is_bilinear_in_space_and_keeps_constants(t: int, h: int, w: int, to_h: int, to_w: int) -> None:
    maps = torch.rand(2, 1, t, h, w, dtype=torch.float64)
    found = resize(maps, (t, to_h, to_w))
    for frame in range(t):
        want = F.interpolate(maps[:, :, frame], (to_h, to_w), mode="bilinear", align_corners=False)
        assert torch.allclose(found[:, :, frame], want)
    assert torch.allclose(
        resize(torch.full_like(maps, 3.0), (t + 1, to_h, to_w)), torch.tensor(3.0, dtype=torch.float64)
    )
    assert resize(maps, (t, h, w)) is maps


def test_tokens_before_and_behind_the_picture_s_are_left_out() -> None:
    raw = torch.arange(2 * 11 * 3, dtype=torch.float64).view(2, 11, 3)
    found = Layout("n (h w) c", skip=1, behind=4, sizes={"h": 2, "w": 3}).canonical([raw], 2)
    assert found.shape == (2, 3, 1, 2, 3)
    for n in range(2):
        for token in range(6):
            assert torch.equal(found[n, :, 0, token // 3, token % 3], raw[n, 1 + token])
