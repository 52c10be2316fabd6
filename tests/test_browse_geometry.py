"""Where steps that keep no homography say that they put the pixels: beside a marked pixel that plain numpy moves."""

from __future__ import annotations

import numpy as np
import pytest

from torchloupe.data.samples import Marks
from torchloupe.sources.geometry import Seen, moved, movement

H, W = 30, 40
PIXEL = np.array([[7.0, 4, 8, 5]])


def painted() -> np.ndarray:
    picture = np.zeros((H, W, 3), np.uint8)
    picture[4, 7] = 255
    return picture


def step(name: str) -> object:
    return type(name, (), {})()


MOVES = {
    "horizontal": ("RandomFlip", lambda x: x[:, ::-1], {"flip": True, "flip_direction": "horizontal"}),
    "vertical": ("RandomFlip", lambda x: x[::-1], {"flip": True, "flip_direction": "vertical"}),
    "diagonal": ("RandomFlip", lambda x: x[::-1, ::-1], {"flip": True, "flip_direction": "diagonal"}),
    "no flip": ("RandomFlip", lambda x: x, {"flip": False, "flip_direction": "horizontal"}),
    "resize": ("Resize", lambda x: x.repeat(2, 0).repeat(3, 1), {}),
    "letterbox": (
        "LetterResize",
        lambda x: np.pad(x.repeat(2, 0).repeat(2, 1), [(3, 5), (2, 8), (0, 0)]),
        {"pad_param": np.array([3.0, 5, 2, 8])},
    ),
    "crop": ("CenterCrop", lambda x: x[3:27, 2:38], {}),
    "pad": ("Pad", lambda x: np.pad(x, [(0, 2), (0, 24), (0, 0)]), {}),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_marks_go_where_the_pixel_goes(name):
    kind, move, notes = MOVES[name]
    after = move(painted())
    matrix = movement(step(kind), Seen((H, W), None, None, Marks()), {"img": after, **notes})
    rows, columns = np.nonzero(after[..., 0])
    at = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    mask = np.zeros((1, H, W), bool)
    mask[0, 4, 7] = True
    found = moved(Marks(PIXEL, masks=mask), matrix, after.shape[:2])
    np.testing.assert_allclose(found.boxes, at, atol=1e-9)
    assert (found.masks[0] == (after[..., 0] > 0)).all()


def test_a_step_that_does_not_tell_is_not_guessed():
    assert movement(step("RandomCrop"), Seen((H, W), None, None, Marks()), {"img": painted()[2:, 5:]}) is None
    assert movement(step("RandomAffine"), Seen((H, W), None, None, Marks()), {"img": painted()}) is None
