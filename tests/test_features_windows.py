"""What runs in shifted windows is the picture again: beside the tensor that the network cut into them, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchloupe import sources, store
from torchloupe.axes import Layout
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.sites import capture

SMALL = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}


def timm(size: tuple[int, int], window: int) -> nn.Module:
    pytest.importorskip("timm")
    import timm

    return timm.create_model("swin_tiny_patch4_window7_224", img_size=size, window_size=window, **SMALL).eval()


def transformers(size: tuple[int, int], window: int) -> nn.Module:
    pytest.importorskip("transformers")
    from transformers import SwinConfig, SwinModel

    return SwinModel(SwinConfig(image_size=size, window_size=window, **SMALL)).eval()


def asked(net: nn.Module, size: tuple[int, int], points: list[str], n: int = 2) -> dict[str, Tensor]:
    subject = sources.subject(net, size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    x = torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(0))
    seen = capture(subject, Batch(x, Layout("n c h w"), tuple("abc"[:n])), points)
    return {label: one.value for label, one in seen.items()}


PLACES = {
    timm: ("in:layers.{i}.blocks.{k}.attn.qkv", "layers.{i}.blocks.{k}.norm1"),
    transformers: (
        "in:encoder.layers.{i}.blocks.{k}.attention.q_proj",
        "encoder.layers.{i}.blocks.{k}.layernorm_before",
    ),
}


# 12 x 14 and 6 x 7 places are padded to whole windows of 5; of 14 x 14 and 7 x 7 the latter are one window.
@pytest.mark.parametrize(("size", "window"), [((48, 56), 5), ((56, 56), 7)])
@pytest.mark.parametrize("make", [timm, transformers], ids=["timm", "transformers"])
def test_windows_are_what_was_cut(make, size, window):
    pairs = [tuple(one.format(i=i, k=k) for one in PLACES[make]) for i in (0, 1) for k in (0, 1)]
    found = asked(make(size, window), size, [name for pair in pairs for name in pair])
    for windowed, whole in pairs:
        assert torch.equal(found[windowed], found[whole]), windowed


class Block(nn.Module):
    """Somebody's own: padded to whole windows of 4, then shifted; nobody knows in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.window_size, self.shift_size, self.inner = 4, 2, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        pad_h, pad_w = -h % 4, -w % 4
        cut = torch.roll(nn.functional.pad(x, (0, 0, 0, pad_w, 0, pad_h)), (-2, -2), (1, 2))
        rows, columns = (h + pad_h) // 4, (w + pad_w) // 4
        cut = cut.reshape(n, rows, 4, columns, 4, c).transpose(2, 3).reshape(-1, 16, c)
        back = self.inner(cut).reshape(n, rows, columns, 4, 4, c).transpose(2, 3).reshape(n, h + pad_h, w + pad_w, c)
        return torch.roll(back, (2, 2), (1, 2))[:, :h, :w]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 4, 4), Block(), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_somebody_s_own_windows_are_put_back_where_nothing_was_padded():
    found = asked(Own(), (32, 48), ["in:block.inner", "stem"])
    assert torch.equal(found["in:block.inner"], found["stem"])
    with pytest.raises(BadInput, match="windows of a padded picture"):
        asked(Own(), (32, 40), ["in:block.inner"])


@pytest.mark.slow
def test_windows_through_the_command(tmp_path: Path):
    pytest.importorskip("timm")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    model = "timm:swin_tiny_patch4_window7_224?img_size=56&window_size=4&embed_dim=24&depths=(2,2)&num_heads=(2,2)"
    words = [
        "features",
        str(tmp_path / "a.png"),
        "--model",
        model,
        "--at",
        "layers.0.blocks.1.attn",
        "layers.0.blocks.1.norm1",
        "--dpi",
        "60",
    ]
    assert main([*words, "--save", str(tmp_path / "out")]) == 0
    held = store.load(tmp_path / "out/a-features.npz").arrays
    assert held["value/layers.0.blocks.1.attn"].shape == held["value/layers.0.blocks.1.norm1"].shape == (24, 1, 14, 14)
