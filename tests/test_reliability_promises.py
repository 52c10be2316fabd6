"""What the commands promise: the same question asked twice reads the disk, and a run that was killed goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe.cli import main
from torchloupe.sources.points import read_points

COUNT = 12
MODEL = ["--model", "torch:tiny:random", "--size", "32", "--device", "cpu"]
COMMANDS: dict[str, tuple[list[str], list[str]]] = {  # the command, and words that make another question of it
    "cam": (["cam", "pics", *MODEL, "--save", "out", "--draw", "none", "--target", "0"], ["--target", "1"]),
    "judge": (
        ["judge", "pics", *MODEL, "--save", "out", "--draw", "none", "--target", "0", "--metric", "shape"],
        ["--seed", "1"],
    ),
    "sane": (["sane", "pics", *MODEL, "--save", "out", "--method", "gradcam", "--blocks", "2"], ["--seed", "1"]),
    "features": (
        ["features", "pics", *MODEL, "--at", "stage", "--topk", "1", "--arrangement", "1", "1", "--dpi", "40", "-o", "out"],
        ["--at", "stem"],
    ),
    "embed": (["embed", *MODEL, "--data", "folder:pics", "-o", "out/feats.npz"], ["--layer", "stem"]),
}  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A folder with pictures; how many pictures the network was asked about, call by call."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    import tiny

    (tmp_path / "pics").mkdir()
    (tmp_path / "out").mkdir()
    for i in range(COUNT):
        noise = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pics" / f"{i}.png")
    calls: list[int] = []
    forward = tiny.Colours.forward

    def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(tiny.Colours, "forward", counted)
    yield calls
    sys.modules.pop("tiny", None)


def written() -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path("out").rglob("*.npz")}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_question_twice_reads_the_disk(name: str, asked: list[int]) -> None:
    command, other = COMMANDS[name]
    assert main(command) == 0
    first, made = sum(asked), written()
    assert first >= COUNT
    assert made
    asked.clear()
    assert main(command) == 0
    assert sum(asked) < COUNT, "only what finds the network's layers asks it"
    assert written() == made
    asked.clear()
    option = other[0]
    words = [*command, *other] if option not in command else [*command]
    if option in command:
        words[command.index(option) + 1] = other[1]
    assert main(words) == 0
    assert sum(asked) >= COUNT
    assert written() != made


def test_a_projection_asked_twice_reads_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("feats.npz", feats=np.random.default_rng(0).normal(size=(60, 5)))
    words = ["project", "feats.npz", "--method", "tsne", "-o", "plane.npz"]
    assert main(words) == 0
    made = Path("plane.npz").read_bytes()
    assert main(words) == 0
    assert Path("plane.npz").read_bytes() == made


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import tiny
from torchloupe.cli import main
forward, left = tiny.Colours.forward, [{after}]
def dying(self, x):
    left[0] -= len(x)
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, x)
tiny.Colours.forward = dying
main({words!r})
"""


def test_a_killed_embedding_loses_a_hundred_samples_at_most(asked: list[int]) -> None:
    small = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    for i in range(COUNT, 260):
        small[0, 0] = i % 256, i // 256, 7
        Image.fromarray(small).save(f"pics/{i:03}.png")
    words = [*COMMANDS["embed"][0], "--batch-size", "20"]
    script = SCRIPT.format(tests=str(Path(__file__).parent), after=225, words=words)
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, env=dict(os.environ))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked.clear()
    assert main(words) == 0
    assert COUNT < sum(asked) <= 260 - 225 + 100 + 20 + 8, "what was kept is not asked again, but for the last hundred"
    kept = read_points("out/feats.npz")
    assert len(kept.ids) == 260
    Path("out/feats.npz").unlink()
    assert main(words) == 0
    assert np.array_equal(read_points("out/feats.npz").feats, kept.feats)
    assert read_points("out/feats.npz").ids.tolist() == kept.ids.tolist()
