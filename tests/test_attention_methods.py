"""Maps from attention and LibraGrad, beside plain loops in float64 over the probabilities that the network's own modules give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.errors import BadInput
from torchloupe.methods.libra import libra
from torchloupe.methods.registry import METHODS, options_of
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.sources import patches
from torchloupe.targets.classes import Classes

patches.torchvision()
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

D = torch.float64
NAMES = ("attention", "chefer", "gradient_x_attention", "legrad", "rollout")


def vit(**more: Any) -> VisionTransformer:
    torch.manual_seed(0)
    net = VisionTransformer(img_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=2, num_classes=5, **more)
    for part in net.parameters():  # the inits of timm are so small that attention is all but even
        nn.init.normal_(part, std=0.5 / max(1, part.shape[-1]) ** 0.5) if part.ndim > 1 else nn.init.normal_(
            part, std=0.2
        )
    for part in net.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.normal_(part.weight, 1, 0.2)
    return net.to(D).eval()


def batch(n: int = 2) -> Batch:
    return Batch(torch.randn(n, 3, 16, 16, dtype=D, generator=torch.Generator().manual_seed(1)))


@contextmanager
def unfused(net: Any) -> Iterator[list[Tensor]]:
    """The probabilities of every block, by timm's own unfused path."""
    seen: list[Tensor] = []
    handles = []
    for block in net.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda _m, _i, out: seen.append(out)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for block in net.blocks:
            block.attn.fused_attn = True


def truth(net: Any, x: Tensor, k: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A and dY_k/dA of every block: (n, heads, T, T) each."""
    with unfused(net) as seen:
        y = net(x)
    grads = torch.autograd.grad(y[:, k].sum(), seen)
    return [one.detach().numpy() for one in seen], [one.numpy() for one in grads]


def picture(row: np.ndarray) -> np.ndarray:
    return row[-16:].reshape(4, 4)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_chefer_and_rollout_by_matrices(pool: str) -> None:
    net, asked = vit(global_pool=pool), batch()
    probe = Probe(Subject(net), ("blocks.2",), Classes((1, 3)))
    relevance, flow = loupe.chefer(probe, asked)["blocks.2.attn"], loupe.rollout(probe, asked)["blocks.2.attn"]
    for number, k in enumerate((1, 3)):
        a, g = truth(net, asked.x, k)
        for n in range(2):
            tokens = a[0].shape[-1]
            r, forward = np.eye(tokens), np.eye(tokens)
            for block in range(3):
                e = np.zeros((tokens, tokens))
                for head in range(2):
                    e += np.maximum(a[block][n, head] * g[block][n, head], 0) / 2
                r = r + e @ r
                forward = (a[block][n].mean(0) + np.eye(tokens)) / 2 @ forward
            if pool == "token":
                start = np.eye(tokens)[0]
            else:
                length = np.sqrt((g[2][n] ** 2).sum((0, 2)))
                start = length / length.sum()
            np.testing.assert_allclose(relevance[number, n, 0], picture(start @ r - start), atol=1e-12)
            np.testing.assert_allclose(flow[number, n, 0], picture(start @ forward), atol=1e-12)


def test_discarded_attention_and_heads() -> None:
    net, asked = vit(), batch(1)
    probe = Probe(Subject(net), ("blocks.2",), Classes(1))
    a, _ = truth(net, asked.x, 1)
    row = np.eye(17)[0]
    for block in (2, 1, 0):
        fused = a[block][0].max(0).copy()
        for line in fused:
            line[np.argsort(line, kind="stable")[: int(0.5 * 17)]] = 0
            line /= line.sum()
        row = (row + row @ fused) / 2
    found = loupe.rollout(probe, asked, heads="max", discard=0.5)["blocks.2.attn"]
    np.testing.assert_allclose(found[0, 0, 0], picture(row), atol=1e-12)
    for wrong, told in (({"heads": "sum"}, "expected mean, max or min"), ({"discard": 1.0}, "expected a share")):
        with pytest.raises(BadInput, match=told):
            loupe.rollout(probe, asked, **wrong)


def test_one_block_s_attention_plain_and_times_its_gradient() -> None:
    net, asked = vit(), batch()
    probe = Probe(Subject(net), ("blocks.2",), Classes((1, 3)))
    for number, k in enumerate((1, 3)):
        a, g = truth(net, asked.x, k)
        last = METHODS["attention"](probe, asked)["blocks.2.attn"]
        one = METHODS["attention"](probe, asked, head=1)["blocks.2.attn"]
        np.testing.assert_allclose(last[number, 1, 0], picture(a[2][1].mean(0)[0]), atol=1e-12)
        np.testing.assert_allclose(one[number, 1, 0], picture(a[2][1, 1, 0]), atol=1e-12)
        both = loupe.gradient_x_attention(probe, asked, block=1)["blocks.1.attn"]
        want = sum(np.maximum(a[1][0, head] * g[1][0, head], 0).sum(0) for head in range(2)) / 2
        np.testing.assert_allclose(both[number, 0, 0], picture(want), atol=1e-12)
    for wrong in ({"block": 3}, {"block": -4}, {"head": 2}):
        with pytest.raises(BadInput, match="there are 3|the block has 2"):
            METHODS["attention"](probe, asked, **wrong)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_legrad_by_the_head_on_every_block(pool: str) -> None:
    net, asked = vit(global_pool=pool), batch()
    found = loupe.legrad(Probe(Subject(net), ("blocks.2",), Classes((1, 3))), asked, blocks=0)["blocks.2.attn"]
    for number, k in enumerate((1, 3)):
        want = np.zeros((2, 17))
        for block in range(3):
            with unfused(net) as seen:
                z = net.patch_embed(asked.x)
                z = net._pos_embed(z)
                for part in net.blocks[: block + 1]:
                    z = part(z)
                score = net.forward_head(net.norm(z))[:, k].sum()
            (grad,) = torch.autograd.grad(score, seen[block])
            want += np.maximum(grad.numpy(), 0).mean((1, 2))
        for n in range(2):
            np.testing.assert_allclose(found[number, n, 0], picture(want[n]), atol=1e-12)
    last = loupe.legrad(Probe(Subject(net), ("blocks.2",), Classes(1)), asked, blocks=1)["blocks.2.attn"]
    _, g = truth(net, asked.x, 1)
    np.testing.assert_allclose(last[0, 0, 0], picture(np.maximum(g[2][0], 0).mean((0, 1))), atol=1e-12)


def test_nothing_is_left_and_k_questions_are_k_single_ones() -> None:
    net, asked = vit(), batch()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    two, one = (Probe(Subject(net), ("blocks.2",), Classes(k)) for k in ((1, 3), (3,)))
    for name in NAMES:
        both, single = (METHODS[name](probe, asked)["blocks.2.attn"] for probe in (two, one))
        assert torch.allclose(both[1], single[0], atol=1e-12)
        first = METHODS[name](two, Batch(asked.x[:1]))["blocks.2.attn"]
        assert torch.allclose(both[:, :1], first, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part._forward_hooks or "forward" in vars(part) for part in net.modules())
    assert all(block.attn.fused_attn for block in net.blocks)
    earlier = two.at("blocks.1")
    assert torch.equal(loupe.gradcam(earlier, asked)["blocks.1"], loupe.gradcam(earlier, asked)["blocks.1"])


def test_attention_is_a_point() -> None:
    """attn_drop, which a fused kernel passes by, gives the matrices of timm's unfused path; attn:NAME the class token's row."""
    net, asked = vit(), batch()
    with unfused(net) as seen:
        net(asked.x)
    found = loupe.features(
        Subject(net), asked, ("blocks.2.attn.attn_drop", "attn:blocks.1.attn", "attn:blocks.0.attn@5", "blocks.1")
    )
    assert found.loose == ("blocks.2.attn.attn_drop",)
    np.testing.assert_allclose(found["blocks.2.attn.attn_drop"][:, :, 0], seen[2].detach(), atol=1e-6)
    for label, block, row in (("attn:blocks.1.attn", 1, 0), ("attn:blocks.0.attn@5", 0, 5)):
        want = seen[block].detach()[:, :, row, 1:].reshape(2, 2, 4, 4)
        np.testing.assert_allclose(found[label][:, :, 0], want, atol=1e-6)
    several = loupe.features(Subject(net), asked, ("attn:blocks.*.attn",))
    assert list(several.values) == [f"attn:blocks.{i}.attn" for i in range(3)]
    mean = vit(global_pool="avg", class_token=False)
    with unfused(mean) as seen:
        mean(asked.x)
    pooled = loupe.features(Subject(mean), asked, ("attn:blocks.2.attn",))["attn:blocks.2.attn"]
    np.testing.assert_allclose(pooled[:, :, 0], seen[2].detach().mean(2).reshape(2, 2, 4, 4), atol=1e-6)
    assert not any(part._forward_hooks for part in net.modules())


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("attn:blocks.2.mlp", "no attention ran in it"),
        ("attn:blocks.2.attn#1", "attention ran 1 times in it"),
        ("attn:blocks.2.attn@17", "number of a query token behind @, 0 to 16"),
        ("attn:blocks.2.att", "Did you mean|did you mean|nearest|attn"),
        ("blocks.2.mlp.act#3", "ran 1 times"),
    ],
)
def test_points_of_attention_that_are_none(point: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        loupe.features(Subject(vit()), batch(1), (point,))


def test_layers_list_where_attention_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from torchloupe.cli import main

    assert main(["layers", "timm:vit_tiny_patch16_224?img_size=32&depth=2", "--depth", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "attn:" in line]
    assert [line[0] for line in lines] == ["attn:blocks.0.attn", "attn:blocks.1.attn"]
    assert lines[0][1:] == ["attention", "1", *["1", "3", "5", "5"], "class", "token", *["1", "3", "1", "2", "2"]]


class Copying(nn.Module):
    """Attention that takes one place of the picture and nothing else; two heads, of which the second is dead."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.patch = place, nn.Conv2d(1, 4, 4, 4, bias=False)
        self.blocks = nn.ModuleList([nn.Module(), nn.Module()])
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch(x).flatten(2).transpose(1, 2)
        n, tokens, _ = z.shape
        for _ in self.blocks:
            q = torch.zeros(n, 2, tokens, 1, dtype=x.dtype)
            q[:, 0] = 60.0
            key = torch.zeros(n, 2, tokens, 1, dtype=x.dtype)
            key[:, 0, self.place] = 1.0
            v = torch.stack([z, torch.zeros_like(z)], 1)
            z = torch.nn.functional.scaled_dot_product_attention(q, key, v).sum(1)
        return self.head(z.mean(1))


def test_a_transformer_that_copies_one_place_is_seen_to() -> None:
    torch.manual_seed(3)
    net, x = Copying(6).to(D), torch.rand(1, 1, 16, 16, dtype=D)
    best = int(net(x)[0].argmax())
    probe = Probe(Subject(net, layout=lambda name: None), ("patch",), Classes(best))
    with pytest.raises(BadInput, match="do not lie on a grid of the picture|no attention"):
        loupe.chefer(probe, Batch(x))  # no module attends: nothing says how its tokens lie


@pytest.mark.parametrize("name", NAMES)
def test_networks_without_attention_or_with_windows(name: str) -> None:
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(BadInput, match="no attention ran in it"):
        METHODS[name](Probe(Subject(cnn), ("0",), Classes(1)), Batch(torch.rand(1, 3, 8, 8)))
    if name in ("rollout", "chefer"):
        from timm.models.swin_transformer import SwinTransformer

        net = SwinTransformer(
            img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=4, num_classes=3
        )
        with pytest.raises(BadInput, match="attends in windows"):
            METHODS[name](Probe(Subject(net.eval()), ("layers.1",), Classes(1)), Batch(torch.rand(1, 3, 32, 32)))


def complete(net: Any, x: Tensor, changes: tuple[Any, ...]) -> tuple[float, float]:
    """(score, sum x * dY/dx + sum over all additive parameters b * dY/db)."""
    probe = Probe(Subject(net), (INPUT,), Classes(1), changes=changes)
    with probe.asked() as own, torch.enable_grad():
        biases = [
            p
            for name, p in own.module.named_parameters()
            if name.endswith("bias") or name in ("cls_token", "pos_embed")
        ]
        x = x.clone().requires_grad_()
        for one in biases:
            one.requires_grad_()
        try:
            score = own.output(Batch(x))[:, 1].sum()
            grads = torch.autograd.grad(score, [x, *biases], allow_unused=True)
        finally:
            for one in biases:
                one.requires_grad_(False)
    parts = [(value * grad).sum().item() for value, grad in zip([x, *biases], grads, strict=True) if grad is not None]
    return score.item(), sum(parts)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_libragrad_is_complete(pool: str) -> None:
    net, x = vit(global_pool=pool), batch(1).x
    score, total = complete(net, x, (libra(),))
    assert total == pytest.approx(score, abs=1e-12)
    plain, off = complete(net, x, ())
    assert plain == pytest.approx(score, abs=1e-12)
    assert abs(off - score) > 1e-3


def test_libra_is_an_option_of_every_gradient_method() -> None:
    net, asked = vit(), batch()
    probe = Probe(Subject(net), ("blocks.1",), Classes((1, 3)))
    for name in ("gradcam", "layercam", "hirescam", "gradient_x_input", "smoothgrad", "integrated_gradients"):
        assert "libra" in options_of(METHODS[name])
        plain, other = (METHODS[name](probe, asked, libra=on) for on in (False, True))
        layer = next(iter(plain.maps))
        assert torch.allclose(plain.scores.value, other.scores.value)
        assert not torch.allclose(plain[layer], other[layer])
    changed = Probe(Subject(net), ("blocks.1",), Classes((1, 3)), changes=(libra(),))
    both = loupe.cams(probe, asked, ("gradcam", "eigencam", "gradient_x_input"), libra=True)
    assert torch.equal(both["gradcam"]["blocks.1"], loupe.gradcam(changed, asked)["blocks.1"])
    assert torch.allclose(both["eigencam"]["blocks.1"], loupe.eigencam(probe, asked)["blocks.1"])
    assert torch.equal(both["gradient_x_input"][INPUT], loupe.gradient_x_input(changed, asked)[INPUT])
    for name in ("occlusion", "eigencam", "chefer"):
        assert "libra" not in options_of(METHODS[name])
        with pytest.raises(BadInput, match="libra changes gradients"):
            METHODS[name](probe, asked, libra=True)


def test_gates_and_norms_keep_their_values() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rms, self.out = nn.LayerNorm(6), nn.RMSNorm(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            f = nn.functional
            x = self.rms(self.norm(x.flatten(2).transpose(1, 2)))
            x = f.silu(x) + f.gelu(x) + f.gelu(x, approximate="tanh") + f.normalize(x, dim=-1)
            return self.out(x.mean(1))

    net, x = Parts().to(D), torch.randn(2, 6, 3, 3, dtype=D)
    plain, changed = (Probe(Subject(net), (INPUT,), Classes(1), changes=c) for c in ((), (libra(),)))
    assert torch.allclose(plain.ask(Batch(x))[0].value, changed.ask(Batch(x))[0].value, atol=1e-12)
    assert not torch.allclose(plain(Batch(x)).grad[INPUT], changed(Batch(x)).grad[INPUT])
