"""The formula weights and inputs on which the reference embeddings of the real gait models were computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gait"
needs_reference = pytest.mark.skipif(not SHARED.exists(), reason=f"reference numbers are not at {SHARED}")


def reference(folder: str, name: str) -> dict:
    return json.loads((SHARED / folder / f"{name}.json").read_text())


def weights(module: torch.nn.Module, gain: float) -> dict[str, torch.Tensor]:
    state, made = module.state_dict(), {}
    for i, key in enumerate(sorted(state)):
        value = state[key]
        wave = np.sin(0.7 * np.arange(value.numel()) + 0.3 * i).reshape(value.shape)
        if not value.is_floating_point() or key.endswith(".A") or key == "HPP.p":
            made[key] = value
            continue
        if key.endswith("running_var"):
            wave = 1 + 0.5 * abs(wave)
        elif key.endswith("running_mean"):
            wave = 0.1 * wave
        elif key.endswith(".edge"):
            wave = 1 + 0.1 * wave
        elif value.dim() >= 2:
            wave = gain * wave * (value.numel() / value.shape[0]) ** -0.5
        elif key.endswith("weight"):
            wave = 1 + 0.1 * wave
        else:
            wave = 0.05 * wave
        made[key] = torch.tensor(wave.astype(np.float32))
    return made


def silhouettes(frames: int, rows: int, columns: int, channels: int | None = None) -> torch.Tensor:
    t, y, x = np.meshgrid(np.arange(frames), np.arange(rows), np.arange(columns), indexing="ij")
    planes = [
        np.sin(0.11 * y * (1 + 0.05 * t) + 0.9 * c) + np.cos(0.17 * x + 0.4 * t) > 0 for c in range(channels or 1)
    ]
    stacked = np.stack(planes, 1) if channels else planes[0]
    return torch.tensor(stacked.astype(np.float32))[None]


def poses(shape: tuple[int, ...]) -> torch.Tensor:
    """Poses as the network of this input shape takes them."""
    if shape == (1, 3, 60, 17, 1):
        return _wave(3).permute(2, 0, 1)[None, ..., None]
    if shape == (1, 60, 17, 3, 5):
        return _wave(15).reshape(1, 60, 17, 3, 5)
    return _wave(10).transpose(1, 2)[None, ..., None]


def _wave(channels: int) -> torch.Tensor:
    a = np.arange(60 * 17 * channels)
    return torch.tensor((np.sin(0.13 * a) + 0.5 * np.cos(0.029 * a)).reshape(60, 17, channels).astype(np.float32))
