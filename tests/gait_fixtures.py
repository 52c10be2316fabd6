"""Small gait models and walkers on disk, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from gait_models import MODELS, gaitset, head

from torchloupe.examples.walkers import write_tree
from torchloupe.sources.opengait_config import build, read_config

SMALL: dict[str, dict] = {
    "gaitset": {**gaitset([2, 3, 4]), **head(4, 5, 62)},
    "gaitpart": {
        **MODELS["gaitpart_casiab"][0],
        "backbone_cfg": {
            "in_channels": 1,
            "type": "Plain",
            "layers_cfg": ["BC-2", "BC-2", "M", "FC-3-2", "FC-3-2", "M", "FC-4-3", "FC-4-3"],
        },
        **head(4, 4, 16),
    },
    "gaitgl": {"model": "GaitGL", "channels": [2, 3, 4], "class_num": 5},
}


def write_config(folder: Path, name: str, model: dict | None = None, **blocks: dict) -> Path:
    """A config beside a checkpoint of random weights with the same stem."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": model or SMALL[name], **blocks}))
    torch.manual_seed(0)
    torch.save({"model": build(read_config(file)).state_dict(), "iteration": 7}, file.with_suffix(".pt"))
    return file


def write_walkers(folder: Path, *, frames: int = 8, poses: bool = False) -> tuple[Path, Path]:
    """Two trees: a gallery of three people under nm-01 from two views, probes of two of them under bg-01."""
    write_tree(folder / "Gallery", range(3), ("nm-01",), ("000", "090"), frames=frames, poses=poses)
    write_tree(folder / "Probe", range(2), ("bg-01",), ("090",), frames=frames, poses=poses)
    return folder / "Gallery", folder / "Probe"
