"""Maps that are rounded for a shard: how far off they may be, and what is never rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from torchloupe.store.packing import packed, unpacked

RNG = np.random.default_rng(0)
SIZES = RNG.normal(size=(3, 1, 5, 7)).astype(np.float32) * np.array([1e-6, 1.0, 1e20], np.float32).reshape(3, 1, 1, 1)


@pytest.mark.parametrize(("precision", "signed", "steps"), [("uint8", False, 255), ("uint8", True, 127)])
def test_uint8_is_off_by_half_a_step_of_each_map(precision: Any, signed: bool, steps: int) -> None:
    maps = SIZES if signed else np.abs(SIZES)
    held = packed({"map/gradcam/a": maps}, precision)
    assert held["map/gradcam/a"].dtype == (np.int8 if signed else np.uint8)
    found = unpacked(held)
    assert set(found) == {"map/gradcam/a"}
    for want, got in zip(maps, found["map/gradcam/a"], strict=True):
        assert np.abs(got.astype(float) - want).max() <= np.abs(want).max() / (2 * steps) * (1 + 1e-5)
        assert np.abs(got).argmax() == np.abs(want).argmax()


def test_float16_is_off_by_2_to_the_minus_11_at_any_size() -> None:
    held = packed({"map/gradcam/a": SIZES}, "float16")
    assert held["map/gradcam/a"].dtype == np.float16
    for want, got in zip(SIZES, unpacked(held)["map/gradcam/a"], strict=True):
        off = np.abs(got.astype(float) - want)
        assert (off <= np.maximum(np.abs(want) * 2.0**-11, np.abs(want).max() * 2.0**-25) * (1 + 1e-5)).all()


@pytest.mark.parametrize("precision", ["float16", "uint8"])
def test_what_is_never_rounded(precision: Any) -> None:
    odd = SIZES.copy()
    odd[0, 0, 0, 0] = np.nan
    kept = {
        "map/a/nan": odd,
        "map/a/double": SIZES.astype(np.float64),
        "map/a/vector": SIZES[:, 0, 0, 0],
        "map/a/empty": SIZES[:0],
        "score": SIZES,
    }
    held = packed(kept, precision)
    assert all(held[name] is array for name, array in kept.items())
    assert set(held) == set(kept)
    zeros = unpacked(packed({"map/a/b": np.zeros((2, 1, 3, 3), np.float32)}, precision))["map/a/b"]
    np.testing.assert_array_equal(zeros, np.zeros((2, 1, 3, 3)))
