"""Why do these two pictures match? Both sides, beside closed forms of an embedding that is a mean over places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.kinds.maps import Heatmaps
from torchloupe.render.pictures import Sheet, drawing
from torchloupe.render.style import style

MODEL = ["--model", "timm:resnet18?num_classes=0", "--size", "64"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("alike")
    for seed, name in enumerate("abcd"):
        noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(here / f"{name}.png")
    files = [str(here / f"{name}.png") for name in "abcd"]
    assert main(["cam", *files[:2], *MODEL, "--like", *files[2:], "--save", str(here / "out"), "--compare"]) == 0
    return here


def test_both_sides_are_explained(run: Path) -> None:
    """S = <e, r> / |e| |r|, e the mean of A over HW places: dS/dA = (r / |r| - S e / |e|) / |e| / HW; and r's side with e."""
    net = loupe.subject("timm:resnet18?num_classes=0", size=64)
    batch = loupe.pictures([run / f"{name}.png" for name in "abcd"], net)
    act = loupe.features(net, batch, ("layer4",))["layer4"][:, :, 0].double().numpy()

    def gradcam(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        e, r = mine.mean((1, 2)), theirs.mean((1, 2))
        length, likeness = np.linalg.norm(e), e @ r / np.linalg.norm(e) / np.linalg.norm(r)
        found = np.zeros(mine.shape[1:])
        for c in range(len(e)):
            weight = (r[c] / np.linalg.norm(r) - likeness * e[c] / length) / length / found.size
            found += weight * mine[c]
        return np.maximum(found, 0)

    for i, name in enumerate("ab"):
        held: Any = loupe.results(run / "out")[name]
        assert held.questions == ("like c", "like d")
        assert held.others.shape == (2, 1, 64, 64, 3)
        for k in range(2):
            mine, theirs = held.maps["gradcam", "layer4"][k, 0], held.other_maps["gradcam", "layer4"][k, 0]
            scale = np.abs(gradcam(act[2 + k], act[i])).max()
            np.testing.assert_allclose(mine, gradcam(act[i], act[2 + k]), atol=1e-3 * scale)
            np.testing.assert_allclose(theirs, gradcam(act[2 + k], act[i]), atol=1e-3 * scale)
        assert not np.allclose(held.other_maps["gradcam", "layer4"][0], held.other_maps["gradcam", "layer4"][1])


def test_both_sides_are_drawn(run: Path) -> None:
    held = loupe.results(run / "out")["a"]
    sheet = Sheet.read(held.arrays(), held.record, "a")
    image = drawing([sheet], style()).tiles[1].image(style())
    assert image.shape == (64, 64 + 2 + 64, 3)
    moved = dict(sheet.other_maps)
    moved["gradcam", "layer4"] = 1 - moved["gradcam", "layer4"] / moved["gradcam", "layer4"].max()
    from dataclasses import replace

    again = drawing([replace(sheet, other_maps=moved)], style()).tiles[1].image(style())
    assert np.array_equal(image[:, :64], again[:, :64])
    assert not np.array_equal(image[:, 66:], again[:, 66:])
    one = sheet.only(targets=["like d"])
    assert one.others is not None
    assert np.array_equal(one.others[0], held.others[1])
    assert (run / "out" / "a-grid.png").is_file()


def test_a_result_whose_other_side_is_missing_is_refused(run: Path) -> None:
    held = loupe.results(run / "out")["a"]
    arrays = held.arrays()
    for name, other in (("others", arrays["others"][:1]), ("other/gradcam/layer4", arrays["other/gradcam/layer4"][:1])):
        with pytest.raises(BadInput, match="do not fit 2 questions"):
            Heatmaps.read({**arrays, name: other}, held.record, "a")
    with pytest.raises(BadInput, match="do not fit 2 questions"):
        Heatmaps.read({name: value for name, value in arrays.items() if name != "others"}, held.record, "a")
