"""Resizing, scaling, colour maps and blending against plain loops and torchloupe.axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchloupe import axes
from torchloupe.errors import BadInput
from torchloupe.render import colour

SIDE = st.integers(1, 9)


@given(st.tuples(SIDE, SIDE, SIDE), st.tuples(SIDE, SIDE, SIDE))
def test_resize_is_that_of_axes(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, *old))
    want = axes.resize(torch.from_numpy(maps), new).numpy()
    np.testing.assert_allclose(colour.resize(maps, new), want, atol=1e-12)


def test_resize_by_a_plain_loop() -> None:
    row = np.array([0.0, 1.0, 4.0])
    want = []
    for i in range(7):
        at = max((i + 0.5) * 3 / 7 - 0.5, 0)
        low = int(at)
        high = min(low + 1, 2)
        want.append(row[low] + (at - low) * (row[high] - row[low]))
    np.testing.assert_allclose(colour.resize(row, (7,)), want, atol=1e-12)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1.0, 1e30])
def test_scaling_knows_no_size(size: float) -> None:
    maps = np.array([[0.0, 1.0], [2.0, 4.0]]) * size
    np.testing.assert_allclose(colour.unit(maps, colour.peak(maps, False), False), [[0, 0.25], [0.5, 1]])
    signed = np.array([[-4.0, 1.0], [2.0, 0.0]]) * size
    np.testing.assert_allclose(colour.unit(signed, colour.peak(signed, True), True), [[-1, 0.25], [0.5, 0]])


def test_empty_and_negative_maps_are_zero() -> None:
    for maps in (np.zeros((2, 2)), -np.ones((2, 2))):
        assert colour.peak(maps, False).item() == 0
        assert not colour.unit(maps, colour.peak(maps, False), False).any()


def test_colours_are_those_of_matplotlib() -> None:
    import matplotlib

    table = colour.palette("viridis")
    np.testing.assert_allclose(colour.colours(np.linspace(0, 1, 256), table, False), table, atol=1e-12)
    np.testing.assert_allclose(colour.colours(np.array([-1.0, 1.0]), table, True), table[[0, -1]], atol=1e-12)
    np.testing.assert_array_equal(colour.palette("auto"), colour.palette("inferno"))
    np.testing.assert_array_equal(colour.palette("auto", signed=True), colour.palette("coolwarm"))
    np.testing.assert_allclose(colour.palette("JET"), matplotlib.colormaps["jet"](np.linspace(0, 1, 256))[:, :3])


def test_default_colours_grow_lighter_evenly() -> None:
    """Perceptually uniform: the luminance of inferno rises at every step; that of jet does not."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(colour.palette("auto") @ weights) > 0).all()
    assert not (np.diff(colour.palette("jet") @ weights) > 0).all()


def test_unknown_colour_map() -> None:
    with pytest.raises(BadInput, match=r"no colour map 'infreno'\. Did you mean inferno"):
        colour.palette("infreno")


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_blend_by_a_plain_loop(fade: bool, signed: bool) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    values = rng.uniform(-1 if signed else 0, 1, (3, 4))
    table = colour.palette("inferno")
    found = colour.blend(picture, values, table, signed=signed, opacity=0.6, fade=fade)
    for h in range(3):
        for w in range(4):
            value = values[h, w]
            at = ((value + 1) / 2 if signed else value) * 255
            low = min(int(at), 254)
            shade = table[low] + (at - low) * (table[low + 1] - table[low])
            alpha = 0.6 * (abs(value) if fade else 1)
            red, green, blue = (float(channel) for channel in picture[h, w])
            under = [red, green, blue]
            if signed and fade:
                alpha = abs(value) ** 0.5
                under = [255 * 0.55 + 0.45 * (0.299 * red + 0.587 * green + 0.114 * blue)] * 3
            for c in range(3):
                want = (1 - alpha) * under[c] + alpha * 255 * shade[c]
                assert abs(int(found[h, w, c]) - want) <= 0.5 + 1e-9
