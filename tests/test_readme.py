"""What the README shows runs as it stands there, with a small model in the big one's place."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchloupe.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import timm

    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 255, (80, 60, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save("cat-dog.png")
    torch.manual_seed(0)
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet18").state_dict(), "r50.safetensors")
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_snippet(here: Path) -> None:
    code = blocks("python")[0].replace("timm:resnet50", "timm:resnet18")
    names: dict[str, object] = {}
    exec(code, names)
    assert (here / "cat-dog.pdf").stat().st_size > 1000
    assert names["maps"]["layer4"].shape == (3, 1, 1, 7, 7)  # type: ignore[index]


def test_the_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = blocks("sh")[1].replace("\\\n", " ").replace("timm:resnet50", "timm:resnet18").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("loupe ")]
    assert [words[0] for words in commands] == ["cam", "layers", "draw"]
    for words in commands:
        assert main([word.replace("timm:vit_small_patch16_224", "timm:vit_tiny_patch16_224") for word in words]) == 0
    assert (here / "out/cat-dog-grid.png").exists()
    assert (here / "again.pdf").exists() or list(here.glob("again*.pdf"))


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
