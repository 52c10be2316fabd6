"""Options without an effect are refused, and so are numbers that make no sense, in methods, specs and names of schedules."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.perturb import scorecam
from torchloupe.probe import Probe
from torchloupe.runs.pose.attribution import Attribution
from torchloupe.sources import subject
from torchloupe.targets.classes import Top


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, heatmaps of it, a map of points, vectors, body parts."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "cat.png")
    (folder / "labels.txt").write_text("cat.png 1\n")
    np.savez(folder / "vectors.npz", feats=rng.normal(size=(20, 4)))
    np.savez(folder / "plane.npz", feats=rng.normal(size=(20, 2)))
    return folder


IGNORED = {
    "labels without the truth": (["cam", "cat.png", "--labels", "labels.txt"], "--labels has a meaning"),
    "a config of a model without": (["layers", "timm:resnet10t", "--cfg-options", "a=1"], "--cfg-options"),
    "a config of a factory's model": (["layers", "torch:tiny:colours", "--cfg-options", "a=1"], "--cfg-options"),
    "a config of a factory's Subject": (["layers", "torch:tiny:subject", "--cfg-options", "a=1"], "--cfg-options"),
    "parts of vectors": (["project", "vectors.npz", "--parts", "mean", "--method", "pca"], "--parts mean"),
    "one part of vectors": (["project", "vectors.npz", "--parts", "0", "--method", "pca"], "--parts 0"),
    "colours of points on heatmaps": (["draw", "out/cat.npz", "--color-by", "labels"], "--color-by is for points"),
    "channels of features on heatmaps": (["draw", "out/cat.npz", "--topk", "3"], "--topk is for feature maps"),
    "channels of features on points": (["draw", "plane.npz", "--topk", "3"], "--topk is for feature maps"),
    "a page of two maps": (["compare-points", "plane.npz", "plane.npz", "--save-ext", "html"], "--save-ext"),
    "shapes of two maps": (["compare-points", "plane.npz", "plane.npz", "--shape-by", "labels"], "--shape-by"),
    "a picture of a billion pixels": (
        ["draw", "plane.npz", "--fig-size", "90", "90", "--dpi", "2400"],
        "pixels a side",
    ),
    "negative noise": (["cam", "cat.png", "--method", "sscam", "--option", "sigma=-1"], "sigma"),
    "endless noise": (["cam", "cat.png", "--method", "smoothgrad", "--option", "noise=1e999"], "noise is inf"),
    "steps of 0": (["schedule", "torch:StepLR?step_size=0&epochs=9", "--save-path", "s.png"], "StepLR"),
    "steps of nan": (["schedule", "torch:StepLR?step_size=nan&epochs=9", "--save-path", "s.png"], "StepLR"),
    "rates of nan": (["schedule", "torch:ExponentialLR?gamma=nan&epochs=9", "--save-path", "s.png"], "ExponentialLR"),
    "epochs of 0": (["schedule", "timm:cosine?epochs=0", "--save-path", "s.png"], "epochs"),
    "endless epochs": (["schedule", "timm:cosine?epochs=1e999", "--save-path", "s.png"], "epochs"),
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", IGNORED)
def test_what_has_no_effect_is_refused(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model = ["--model", "torch:tiny:colours", "--size", "32", "--device", "cpu"]
    words, message = IGNORED[name]
    if words[0] == "draw" and words[1].startswith("out") and not (place / "out").exists():
        assert main(["cam", "cat.png", *model, "--save", "out"]) == 0
    capsys.readouterr()
    before = contents(place)
    assert main([*words, *(model if words[0] == "cam" else [])]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loupe: error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert contents(place) == before


def test_a_limit_of_steps_that_do_not_grow_is_refused() -> None:
    with pytest.raises(BadInput, match="--most 64 has no place"):
        Attribution(most=64)
    assert Attribution(steps=300, most=300).most == 300
    assert Attribution(tolerance=0.1, most=64).most == 64


ASKED: list[str] = []


class Slow(torch.nn.Module):
    """A network to which one way of asking is slower: that in half precision, or those in channels-last memory."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slow = slow
        self.stage, self.head = torch.nn.Conv2d(3, 12, 3), torch.nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = torch.is_autocast_enabled("cpu")
        last = x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)
        way = "half" if half else "channels last" if last else "plain"
        if way in self.slow:
            time.sleep(0.02)
        ASKED.append(way)
        return self.head(self.stage(x).relu().mean((2, 3)))


@pytest.mark.parametrize("slow", ["half", "half, channels last", "plain, channels last"])
def test_what_is_called_fast_takes_the_way_that_is(slow: str) -> None:
    model = Slow(slow)
    batch = torch.rand(1, 3, 16, 16)
    probe = Probe(subject(model), ("stage",), Top(1))
    exact = scorecam(probe, batch, chunk=4)["stage"]
    ASKED.clear()
    fast = scorecam(probe, batch, chunk=4, fast=True)["stage"]
    assert ASKED[-1] not in slow
    assert ASKED.count("half") == 2 + 3 * (ASKED[-1] == "half")
    assert torch.corrcoef(torch.stack([exact.flatten(), fast.flatten()]))[0, 1] > 0.999
