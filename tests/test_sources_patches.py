"""Patches of other packages: right beside plain loops, one warning, nothing where the package is healthy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import torch

from torchloupe.sources.patches import nms, roi_align

# A torchvision whose compiled operators do not load, as beside a torch that it was not built for.
MISMATCHED = """
import sys, torch

def refuse(path):
    raise OSError("undefined symbol")

torch.ops.load_library = refuse
"""


def python(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    start = f"import sys\nsys.path.insert(0, {str(path)!r})\n" if path is not None else ""
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)


def test_models_and_detectors_run_beside_a_mismatched_torchvision(tmp_path: Path) -> None:
    """timm, torchvision, transformers, a factory that imports torchvision; two boxes of three stay; one warning."""
    (tmp_path / "mine.py").write_text("import torchvision\ndef small():\n    return torchvision.models.resnet18()\n")
    done = python(
        MISMATCHED
        + f"""
import os, torch
from torchloupe.cli import main
os.chdir({str(tmp_path)!r})
for spec in ("torch:mine:small", "timm:resnet18", "torchvision:resnet18",
             "transformers:resnet?embedding_size=8&hidden_sizes=[8,16]&depths=[1,1]"):
    assert main(["layers", spec, "--depth", "1"]) == 0, spec
import torchvision
boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
assert torchvision.ops.nms(boxes, torch.tensor([.5, .9, .1]), .5).tolist() == [1, 2]
assert torchvision.ops.roi_align(torch.ones(1, 2, 8, 8), [boxes[:1]], 4).shape == (1, 2, 4, 4)
try:
    torchvision.ops.roi_pool(torch.ones(1, 2, 8, 8), [boxes[:1]], 4)
except RuntimeError as error:
    assert "custom C++ ops" in str(error)
else:
    raise AssertionError
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("was built for another torch") == 1, done.stderr


HEALTHY = """
from torchloupe.sources import patches
import torch
before = set(dir(torch.ops.torchvision)), torch.ops.load_library
patches.torchvision()
patches.torchvision()
import torchvision
assert torchvision.ops.boxes._assert_has_ops is torchvision.ops.roi_align._assert_has_ops
assert not hasattr(torch.ops.torchvision, "nms") and not patches._SUPPLIED
"""


def test_a_healthy_torchvision_is_left_alone(tmp_path: Path) -> None:
    """A stand-in whose operators load: nothing is registered, which would end the process in the real one."""
    for name, text in {
        "__init__": "from torchvision import extension, ops\n__version__ = '0'",
        "extension": "def _has_ops():\n    return True\ndef _assert_has_ops():\n    pass",
        "ops/__init__": "from torchvision.ops import boxes, roi_align",
        "ops/boxes": "from torchvision.extension import _assert_has_ops",
        "ops/roi_align": "from torchvision.extension import _assert_has_ops",
    }.items():
        file = tmp_path / "torchvision" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    done = python(HEALTHY, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "another torch" not in done.stderr


def test_nms_against_loops() -> None:
    """A box stays unless it overlaps a better one that stays by more than the threshold."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 10
    boxes = torch.cat([corner, corner + 1 + 5 * torch.rand(40, 2, generator=generator, dtype=torch.float64)], 1)
    scores = torch.rand(40, generator=generator)

    def overlap(a: list[float], b: list[float]) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(wide, 0.0) * max(high, 0.0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    for threshold in (0.1, 0.3, 0.5):
        stay: list[int] = []
        for i in sorted(range(40), key=lambda i: -float(scores[i])):
            if all(overlap(boxes[i].tolist(), boxes[j].tolist()) <= threshold for j in stay):
                stay.append(i)
        assert nms(boxes, scores, threshold).tolist() == stay
        assert 1 < len(stay) < 40
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_roi_aligns_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([(1, 0.4, 1.2, 5.3, 4.8), (0, -3.0, 2.0, 9.0, 2.2), (1, 20.0, 20.0, 30.0, 30.0)])
    for samples, aligned in ((-1, True), (2, False)):
        assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, 0.9, 3, 2, samples, aligned), (x,))  # noqa: B023


def test_roi_align_against_loops():
    """Each cell is the mean of as many bilinear samples a side as it has pixels; the border is held."""
    torch.manual_seed(0)
    x = torch.rand(2, 1, 7, 6, dtype=torch.float64)
    boxes = [(1, 0.4, 1.2, 5.3, 6.8), (0, 0.0, 0.0, 6.0, 7.0), (0, 2.0, 2.0, 2.1, 2.2)]
    got = roi_align(x, torch.tensor(boxes, dtype=torch.float64), 1.0, 3, 2)

    def sample(picture: int, y: float, column: float) -> float:
        y, column = min(max(y, 0.0), 6.0), min(max(column, 0.0), 5.0)
        total = 0.0
        for i in range(7):
            for j in range(6):
                total += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(column - j)) * float(x[picture, 0, i, j])
        return total

    for k, (picture, left, top, right, bottom) in enumerate(boxes):
        high, wide = max(bottom - top, 1.0) / 3, max(right - left, 1.0) / 2
        down, across = math.ceil(high), math.ceil(wide)
        for i in range(3):
            for j in range(2):
                values = [
                    sample(picture, top + (i + (a + 0.5) / down) * high, left + (j + (b + 0.5) / across) * wide)
                    for a in range(down)
                    for b in range(across)
                ]
                assert abs(float(got[k, 0, i, j]) - sum(values) / len(values)) < 1e-12
