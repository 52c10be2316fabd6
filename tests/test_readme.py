"""What the README shows runs as it stands there, in the environment that its two commands leave, on stand-in files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README names: noise for the picture, random weights for the network."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("readme")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 255, (80, 60, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(folder / "cat-dog.png")
    torch.manual_seed(0)
    save_file(timm.create_model("resnet50").state_dict(), folder / "r50.safetensors")
    return folder


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def run(words: list[str], folder: Path) -> str:
    """In a process of its own, with the commands of this environment first on the path, and nothing else prepared."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands(here: Path) -> None:
    """The block under the two commands; only its line for pip is left out, as both commands have installed everything."""
    lines = [line for line in blocks("sh")[1].splitlines() if not line.startswith("pip install ")]
    assert sum(line.startswith("loupe ") for line in lines) == 3
    said = run(["bash", "-ec", "\n".join(lines)], here)
    assert "default: blocks.11" in said
    assert (here / "out/cat-dog-grid.png").exists()
    assert list(here.glob("again*.pdf"))


def test_the_python_snippet(here: Path) -> None:
    code = blocks("python")[0] + "\nassert maps['layer4'].shape == (3, 1, 1, 7, 7)\n"
    run([sys.executable, "-c", code], here)
    assert (here / "cat-dog.pdf").stat().st_size > 1000


def test_every_page_that_is_linked_exists() -> None:
    for page in [
        ROOT / "README.md",
        ROOT / "ARCHITECTURE.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name} links {link}"
