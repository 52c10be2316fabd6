"""Feature maps and differences of gait models, whose samples are walks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from gait_fixtures import SMALL
from PIL import Image

from torchloupe import store
from torchloupe.cli import main


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    for wide, view in enumerate(("000", "090")):
        folder = tmp_path / "walks" / "001" / "nm-01" / view
        folder.mkdir(parents=True)
        for frame in range(4):
            image = np.zeros((64, 64), np.uint8)
            image[8:60, 20 + frame : 36 + 6 * wide] = 255
            Image.fromarray(image).save(folder / f"{frame:03d}.png")
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"]}))
    return tmp_path


def run(*words: str) -> int:
    return main([*words, "--dpi", "60"])


def test_features_and_differences_of_walks(walks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--model", f"opengait:{walks / 'g.yaml'}", "--at", "set_block1", "--channel-reduction", "squeeze_mean")
    assert run("features", str(walks / "walks"), *model, "-o", str(walks / "f")) == 0
    values = store.load(walks / "f" / "001-nm-01-000-features.npz").arrays["value/set_block1"]
    assert values.shape[1] == 4
    assert run("diff", str(walks / "walks"), *model, "-o", str(walks / "d")) == 0
    record = store.load(walks / "d" / "difference.npz").record
    assert record["names"] == ["001-nm-01-000", "001-nm-01-090"]
    assert record["figures"]["set_block1"]["mean"] > 0
    capsys.readouterr()
    assert run("diff", str(walks / "walks"), *model, "--model", "timm:resnet18") == 2
    assert "one takes pictures and the other walks" in capsys.readouterr().err
    assert run("diff", str(walks / "walks"), *model, *model[:2], "--cka") == 2
    assert "--cka takes pictures" in capsys.readouterr().err
