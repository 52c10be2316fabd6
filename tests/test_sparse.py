"""Sparse autoencoders as layers: latents and their gradients beside plain sums, every format, and files of another width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_attention_methods import batch as tokens
from test_attention_methods import vit
from torch import Tensor

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.probe import Probe, Subject
from torchloupe.sources.sparse import autoencoder, spliced
from torchloupe.targets.classes import Classes

D, M = 12, 20


def weights(d: int = D) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (d, M), "b_enc": (M,), "W_dec": (M, d), "b_dec": (d,)}
    return {name: torch.randn(shape, generator=drawn) for name, shape in shapes.items()}


def latents(held: dict[str, Tensor], x: Tensor, shifted: bool = True) -> Tensor:
    b = held["b_dec"] if shifted else torch.zeros(D)
    return ((x - b) @ held["W_enc"] + held["b_enc"]).clamp_min(0)


def written(kind: str, path: Path) -> tuple[dict[str, Tensor], bool, int | None]:
    """A file of each kind: what is in it, whether b_dec is subtracted first, how many latents live."""
    held = weights()
    if kind == "safetensors":
        save_file(held, path)
    elif kind == "turned":
        save_file({**held, "W_enc": held["W_enc"].T.contiguous(), "W_dec": held["W_dec"].T.contiguous()}, path)
    elif kind == "torch":
        torch.save(held, path)
    elif kind in ("saev", "saev-new"):
        top = {"schema": 2, "cfg": {"activation": {"key": "top-k", "top_k": 3}}} if kind == "saev-new" else {"d_in": D}
        with path.open("wb") as file:
            file.write(json.dumps(top).encode() + b"\n")
            torch.save(held, file)
        return held, kind == "saev", 3 if kind == "saev-new" else None
    else:
        words = held["W_dec"]
        held["W_dec"], held["b_dec"] = words / words.norm(dim=1, keepdim=True) * torch.e**0.5, torch.zeros(D)
        state = {
            "encoder.final_block.0.weight": held["W_enc"].T.contiguous(),
            "encoder.final_block.0.bias": held["b_enc"],
        }
        torch.save({**state, "dictionary._weights": words, "dictionary.multiplier": torch.tensor(0.5)}, path)
        return held, False, None
    return held, True, None


@pytest.mark.parametrize("kind", ["safetensors", "turned", "torch", "saev", "saev-new", "overcomplete"])
def test_every_format_gives_its_latents_and_the_output_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("sae.safetensors" if kind in ("safetensors", "turned") else "sae.pt")
    held, shifted, top = written(kind, path)
    net, asked = vit(), tokens()
    made, (name,), _ = spliced(Subject(net), [f"blocks.1|{path}"])
    seen = Probe(made, (name, "blocks.1"), Classes((1, 3)))(asked)
    with torch.no_grad():
        x = net._pos_embed(net.patch_embed(asked.x))
        x = net.blocks[1](net.blocks[0](x))
        y = net(asked.x)
    z = latents({key: value.double() for key, value in held.items()}, x, shifted)
    if top is not None:
        z = torch.where(z >= z.sort(-1).values[..., -top:][..., :1], z, 0)
        assert int((z > 0).sum(-1).max()) == top
    np.testing.assert_allclose(seen.act[name][:, :, 0].flatten(2).transpose(1, 2), z[:, 1:], atol=1e-6)
    np.testing.assert_allclose(seen.scores.value, y[:, [1, 3]].T, atol=1e-10)
    # behind the latents lies x^ = W_dec z + b_dec: dY/dz_j = sum_c W_dec[j, c] dY/dx_c
    grad = torch.einsum("knchw,jc->knjhw", seen.grad["blocks.1"][:, :, :, 0], held["W_dec"].double())
    np.testing.assert_allclose(seen.grad[name][:, :, :, 0], grad, atol=1e-6)
    assert not hasattr(net.blocks[1], name.rpartition(".")[2])
    assert not net.blocks[1]._forward_hooks
    assert next(made.module.parameters()).data_ptr() == next(net.parameters()).data_ptr()


def test_latents_of_a_convolution_are_channels(tmp_path: Path) -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, D, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(D, 2)
    )
    save_file(weights(), tmp_path / "sae.safetensors")
    made, names, _ = spliced(Subject(net), [f"0|{tmp_path / 'sae.safetensors'}"])
    x = torch.rand(2, 3, 7, 6)
    found = loupe.features(made, loupe.Batch(x), names)[names[0]]
    want = latents(weights(), net[0](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    np.testing.assert_allclose(found[:, :, 0], want.detach(), atol=1e-5)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save("a.png")
    save_file(weights(192), "sae.safetensors")
    save_file(weights(), "small.safetensors")
    save_file({"W_enc": torch.zeros(3, 4)}, "half.safetensors")
    save_file({**weights(), "b_enc": torch.zeros(3)}, "odd.safetensors")
    model = ["--model", "timm:vit_tiny_patch16_224?img_size=64&depth=2"]
    assert (
        main(
            [
                "features",
                "a.png",
                *model,
                "--at",
                "blocks.0|sae.safetensors",
                "--topk",
                "4",
                "--arrangement",
                "1",
                "4",
                "-o",
                "f",
            ]
        )
        == 0
    )
    assert (
        main(["cam", "a.png", *model, "--layers", "blocks.0|sae.safetensors", "--method", "hirescam", "--save", "c"])
        == 0
    )
    record: dict[str, Any] = json.loads(Path("c/a.json").read_text())
    assert list(record["layers"]) == ["blocks.0.sae"]
    capsys.readouterr()
    for layer, told in (
        ("blocks.0|small.safetensors", "the autoencoder is of 12 channels, the layer gives (1, 17, 192)"),
        ("blocks.0|half.safetensors", "expected W_enc, b_enc, W_dec, b_dec"),
        ("blocks.0|odd.safetensors", "are no autoencoder"),
        ("blocks.7|sae.safetensors", "no layer 'blocks.7'"),
        ("blocks.0|", "expected LAYER|FILE"),
        ("blocks.0|gone.safetensors", "gone.safetensors"),
    ):
        assert main(["cam", "a.png", *model, "--layers", layer, "--save", "x"]) == 2, layer
        assert told in capsys.readouterr().err


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b'{"d_in": 3}\nnothing')
    with pytest.raises(BadInput, match="a sparse autoencoder"):
        autoencoder(tmp_path / "a.pt")
