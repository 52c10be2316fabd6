"""Patch features: components of all pictures as colours, likeness to one patch; beside numpy's SVD and plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.patches import Coloured, patch_likeness, pca_colours
from torchloupe.render.features import Change, Look, together
from torchloupe.store import Artifact

RNG = np.random.default_rng(4)
# two pictures: a square of one kind of patch in the middle, another around it, and noise
ACTS = [np.zeros((7, 1, 8, 8)), np.zeros((7, 1, 6, 8))]
for one, (top, left) in zip(ACTS, ((2, 2), (2, 3)), strict=True):
    one += RNG.normal(0, 0.3, one.shape)
    one[0] -= 2
    one[0, 0, top : top + 3, left : left + 3] += 6
    one[1, 0, top : top + 3, left : left + 3] += np.linspace(-1, 1, 3)[None]
TENSORS = [torch.from_numpy(one) for one in ACTS]


def scores(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rows' first three components by SVD of the others, signs by the loading of largest magnitude."""
    mean = others.mean(0)
    axes = np.linalg.svd(others - mean, full_matrices=False)[2][:3]
    for axis in axes:
        if axis[np.abs(axis).argmax()] < 0:
            axis *= -1
    return (rows - mean) @ axes.T


def test_pictures_share_one_fit() -> None:
    rows = np.concatenate([one.reshape(7, -1).T for one in ACTS])
    want = scores(rows, rows)
    low, high = np.quantile(want, 0.01, axis=0), np.quantile(want, 0.99, axis=0)
    unit = np.clip((want - low) / (high - low), 0, 1)
    found = pca_colours(TENSORS)
    np.testing.assert_allclose(found.colours[0].flatten(1).T, unit[:64], atol=1e-6)
    np.testing.assert_allclose(found.colours[1].flatten(1).T, unit[64:], atol=1e-6)
    variances = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(found.explained, variances[:3] / variances.sum(), atol=1e-9)
    alone = pca_colours(TENSORS[:1])
    assert not torch.allclose(alone.colours[0], found.colours[0], atol=0.05)


def test_dinov2_fits_again_what_the_first_component_leaves() -> None:
    rows = np.concatenate([one.reshape(7, -1).T for one in ACTS])
    inside = scores(rows, rows)[:, 0] > 0
    assert inside.sum() == 18
    again = scores(rows, rows[inside])
    low, high = again[inside].min(0), again[inside].max(0)
    unit = np.clip((again - low) / (high - low), 0, 1) * inside[:, None]
    found = pca_colours(TENSORS, procedure="dinov2")
    np.testing.assert_allclose(torch.cat([c.flatten(1) for c in found.colours], 1).T, unit, atol=1e-6)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_border_votes_which_side_is_background(flip: int) -> None:
    found: Coloured = pca_colours([flip * one for one in TENSORS], foreground="border")
    for mask, (top, left) in zip(found.foreground, ((2, 2), (2, 3)), strict=True):
        want = torch.zeros_like(mask)
        want[0, top : top + 3, left : left + 3] = True
        assert torch.equal(mask, want)
    first = pca_colours([flip * one for one in TENSORS], foreground="first").foreground[0]
    assert bool(first[0, 3, 3]) == (flip > 0)  # by the loading's sign alone it may be the other side


def test_dinov3_whitens_each_picture_alone() -> None:
    found = pca_colours(TENSORS, procedure="dinov3")
    for one, colours, mask in zip(ACTS, found.colours, found.foreground, strict=True):
        rows, inside = one.reshape(7, -1).T, mask.flatten().numpy()
        z = scores(rows[inside], rows[inside])
        z = z / z.std(0, ddof=1)
        np.testing.assert_allclose(colours.flatten(1).T[inside], 1 / (1 + np.exp(-2 * z)), atol=1e-6)
        assert not colours.flatten(1).T[~inside].any()


def test_likeness_to_a_patch_by_loops() -> None:
    """The centre of patch (row 4, column 3) of the first picture; half-way to the next column, the mean of both."""
    for x, query in ((3.5 / 8, ACTS[0][:, 0, 4, 3]), (4 / 8, (ACTS[0][:, 0, 4, 3] + ACTS[0][:, 0, 4, 4]) / 2)):
        found = patch_likeness(TENSORS, (x, 4.5 / 8))
        for act, values in zip(ACTS, found, strict=True):
            for row in range(act.shape[2]):
                for column in range(8):
                    v = act[:, 0, row, column]
                    want = v @ query / np.linalg.norm(v) / np.linalg.norm(query)
                    assert values[0, 0, row, column].item() == pytest.approx(want, abs=1e-6)
    itself = patch_likeness(TENSORS, (3.5 / 8, 4.5 / 8))[0]
    assert itself.argmax() == 4 * 8 + 3
    assert itself.max() == pytest.approx(1, abs=1e-6)
    other = patch_likeness(TENSORS, (0.5 / 8, 0.5 / 6), of=1, centred=True)
    mean = np.concatenate([one.reshape(7, -1) for one in ACTS], 1).mean(1)
    a, b = ACTS[1][:, 0, 0, 0] - mean, ACTS[0][:, 0, 5, 2] - mean
    assert other[0][0, 0, 5, 2].item() == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize(
    ("look", "told"),
    [
        ({"foreground": "border"}, "--channel-reduction pca alone"),
        ({"pca": "dinov2"}, "--channel-reduction pca alone"),
        ({"centred": True}, "with --patch alone"),
        ({"patch": "3,4", "channel_reduction": "pca"}, "leave --channel-reduction pca out"),
        ({"patch": "3;4"}, "expected X,Y in pixels"),
        ({"patch": "3,nan"}, "expected X,Y in pixels"),
        ({"patch": "3,4", "use_norm": True}, "--use-norm has no meaning"),
    ],
)
def test_looks_that_make_no_sense(look: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Look(**look)


def artifact(act: np.ndarray, **more: Any) -> Artifact:
    record = {"kind": "feature maps", "points": ["p"], "id": more.pop("id", "a"), **more}
    return Artifact({"value/p": act.astype(np.float32), "picture": np.zeros((1, 32, 48, 3), np.uint8)}, record)


@pytest.mark.parametrize(
    ("look", "acts", "told"),
    [
        ({"patch": "48.5,3"}, ACTS, "outside of a, which is 48 x 32"),
        ({"patch": "zebra:4,3"}, ACTS, "no picture 'zebra'"),
        ({"channel_reduction": "pca"}, [ACTS[0], ACTS[1][:5]], "features of 5, 7 channels"),
        ({"channel_reduction": "pca"}, [ACTS[0][:2]], "features of 2 channels"),
        ({"channel_reduction": "pca", "foreground": "first"}, [np.ones((3, 1, 4, 4))], "0 patches are foreground"),
    ],
)
def test_what_cannot_be_compared(look: dict[str, Any], acts: list[np.ndarray], told: str) -> None:
    found = {f"{name}-features": artifact(act, id=name) for name, act in zip("ab", acts, strict=False)}
    with pytest.raises(BadInput, match=told):
        together(found, Look(**look), "p")


def test_matrices_of_attention_have_no_patches() -> None:
    with pytest.raises(BadInput, match="not the picture's"):
        together({"a": artifact(ACTS[0], loose=["p"])}, Look(channel_reduction="pca"), "p")


def test_another_look_takes_what_belongs_to_the_first_with_it() -> None:
    before = {"look": {"channel_reduction": "pca", "pca": "dinov2", "foreground": "border"}}
    assert Change(channel_reduction="squeeze_mean").of(before)["look"]["pca"] == "plain"
    asked = Change(patch="3,4").of(before)["look"]
    assert (asked["channel_reduction"], asked["foreground"], asked["patch"]) == ("none", "auto", "3,4")
    back = Change(channel_reduction="pca").of({"look": asked})["look"]
    assert back["patch"] is None


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(f"{name}.png")
    model = ["--model", "timm:vit_tiny_patch16_224?img_size=64&depth=1"]
    asked = ["features", "a.png", "b.png", *model, "--at", "blocks.0", "--channel-reduction", "pca", "-o", "out"]
    assert main([*asked, "--tiles"]) == 0
    assert "pca.png" in capsys.readouterr().out
    assert {path.name for path in Path("out").glob("*.png")} == {
        "pca.png", "a-features-pca-blocks.0.png", "b-features-pca-blocks.0.png"
    }  # fmt: skip
    assert main(["draw", "out/a-features.npz", "out/b-features.npz", "--patch", "b:60,4"]) == 0
    assert Path("out/patch.png").is_file()
    assert main(["draw", "out/a-features.npz", "--patch", "b:60,4"]) == 2
    assert "no picture 'b'" in capsys.readouterr().err
    assert main(["diff", "a.png", "b.png", *model, "--at", "blocks.0", "--channel-reduction", "pca"]) == 2
    assert "for loupe features" in capsys.readouterr().err
