"""The blocks of docs/extending.md as an installed package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchloupe.cli import main
from torchloupe.runs.found import results

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "loupe_grain.py").write_text("\n\n".join(blocks))
    points = re.findall(r'^"(torchloupe\.\w+)" = \{ (\w+) = "([\w:]+)" \}$', text, re.MULTILINE)
    assert len(points) == 6
    about = tmp_path / "loupe_grain-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loupe-grain\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {home}\n" for group, name, home in points))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).convert("RGB").save("noise.png")
    Image.fromarray(np.linspace(0, 255, 1024).reshape(32, 32).astype(np.uint8)).convert("RGB").save("slope.png")
    Path("broken.png").write_text("no picture")
    return tmp_path


def test_a_kind_of_result_from_outside(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grain", "noise.png", "slope.png", "broken.png", "--bands", "6"]) == 3
    assert capsys.readouterr().out.split() == ["grain/noise-grain.png", "grain/slope-grain.png"]
    found = results("grain")
    assert type(found["noise"]).__name__ == "Grain"
    assert found["noise"].power.shape == (6,)
    fine = {row["id"]: row["fine"] for row in found.table}
    assert fine["slope"] < 0.1 < fine["noise"]
    assert list(found.failed) == ["broken"]
    before = (here / "grain/noise.npz").stat().st_mtime_ns
    assert main(["grain", "noise.png", "slope.png", "--bands", "6"]) == 0
    assert (here / "grain/noise.npz").stat().st_mtime_ns == before
    Path("grain/noise-grain.png").unlink()
    assert main(["draw", "grain"]) == 0
    assert Image.open("grain/noise-grain.png").size == (320, 40)
    assert main(["runs", "grain", "--table", "t.csv"]) == 3  # the broken one is still left out
    assert Path("t.csv").read_text().startswith("id,fine\n")


def test_a_method_a_target_and_a_source_from_outside(here: Path) -> None:
    words = ["cam", "noise.png", "--model", "edges:32", "--method", "softcam", "--target", "sum", "--save", "out"]
    assert main(words) == 0
    with np.load("out/noise.npz") as held:
        assert held["map/softcam/1"].shape == (1, 1, 32, 32)


def test_all_is_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    said = capsys.readouterr().out
    for group in ("sources", "methods", "targets", "kinds", "drawings", "commands"):
        assert re.search(rf"^{group} .*loupe-grain 1\.0.*loads$", said, re.MULTILINE), said
