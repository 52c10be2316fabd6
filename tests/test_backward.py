"""What is changed for one asking: rules of a backward pass, attention opened. Nobody else is touched."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Plain

import torchloupe as loupe
from torchloupe.attention import opened
from torchloupe.backward import functions, replaced
from torchloupe.errors import BadInput
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Classes
from torchloupe.testing import state

D = torch.float64


class Straight(torch.autograd.Function):
    """Tanh whose gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class StraightTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Straight.apply(x)


class Net(nn.Module):
    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Linear(4, 5)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((torch.tanh(y) if self.functional else self.act(y)).mean((2, 3)))


@pytest.mark.parametrize("functional", [False, True])
def test_a_rule_holds_for_one_asking_in_one_thread(functional: bool) -> None:
    torch.manual_seed(0)
    net, batch = Net(functional).to(D), Batch(torch.rand(2, 3, 6, 6, dtype=D))
    plain = Probe(Subject(net), (INPUT, "conv"), Classes(1))
    change = (
        functions({torch.tanh: lambda func, args, kwargs: Straight.apply(*args)})
        if functional
        else replaced({nn.Tanh: lambda part: StraightTanh()})
    )
    before, want = state(net), plain(batch)
    others: list[bool] = []

    def meanwhile() -> None:
        others.append(torch.equal(plain(batch).grad["conv"], want.grad["conv"]))

    class Watching:
        def __call__(self, output: Any, asked: Batch) -> loupe.Scores:
            thread = threading.Thread(target=meanwhile)
            thread.start()
            thread.join()
            return Classes(1)(output, asked)

    changed = replace(plain, target=Watching(), changes=(change,))(batch)
    assert others == [True]
    linear = net.head.weight[1] / 16  # the gradient of a mean over 4 x 4 places, passed straight through tanh
    assert torch.allclose(changed.grad["conv"], linear.view(1, 1, 4, 1, 1, 1).expand_as(changed.grad["conv"]))
    assert not torch.allclose(want.grad["conv"], changed.grad["conv"])
    assert torch.equal(changed.act["conv"], want.act["conv"])
    assert torch.equal(plain(batch).grad["conv"], want.grad["conv"])
    assert state(net) == before


def test_a_module_in_two_places_is_replaced_by_one() -> None:
    shared = nn.Tanh()
    net = nn.Sequential(shared, nn.Sequential(shared, nn.ReLU()))
    replaced({nn.Tanh: lambda part: StraightTanh()})(net)
    assert net[0] is net[1][0]
    assert isinstance(net[0], StraightTanh)
    assert isinstance(net[1][1], nn.ReLU)


def test_a_network_without_a_shadow_is_not_changed() -> None:
    net = Plain()
    net.counter = (number for number in range(3))
    asked = Probe(Subject(net), ("two",), Classes(1), changes=(replaced({nn.ReLU: lambda part: nn.Tanh()}),))
    with pytest.warns(loupe.LoupeWarning, match="asked itself"), pytest.raises(BadInput, match="no copy to be changed"):
        asked(Batch(torch.rand(1, 3, 12, 8)))
    assert isinstance(net.two[1], nn.ReLU)


class Attending(nn.Module):
    """Attention by a fused kernel, as timm and transformers call it."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.qkv, self.out, self.how = nn.Linear(8, 24), nn.Linear(8, 8), how

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if self.how.get("enable_gqa"):
            k, v = k[:, :1], v[:, :1]
        how = {key: value for key, value in self.how.items() if key != "mask"}
        if "mask" in self.how:
            how["attn_mask"] = self.how["mask"]
        return self.out(F.scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).flatten(2))


MASK = torch.tensor([[True, False, True, True, True]] * 5)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"mask": MASK},
        {"mask": torch.randn(5, 5, dtype=D)},
        {"enable_gqa": True},
    ],
    ids=["plain", "causal", "scale", "boolean mask", "added mask", "grouped queries"],
)
def test_fused_attention_is_opened(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Identity(), Attending(**how)).to(D)
    x = torch.randn(3, 5, 8, dtype=D)
    with Subject(net).asked() as own, opened(own.module) as seen:
        found = own.module(x)
    assert torch.allclose(found, net(x), atol=1e-12)
    assert [one.name for one in seen.calls] == ["1"]
    (probabilities,) = seen.of("1")
    assert probabilities.shape == (3, 2, 5, 5)
    assert torch.allclose(probabilities.sum(-1), torch.ones(3, 2, 5, dtype=D))
    if how.get("mask") is MASK:
        assert not probabilities[..., 1].any()
    if how.get("is_causal"):
        assert not probabilities.triu(1).any()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["no", "mask", "heads", "padding", "both"])
def test_multihead_attention_is_opened(batch_first: bool, masked: str) -> None:
    torch.manual_seed(0)
    part = nn.MultiheadAttention(8, 2, batch_first=batch_first).to(D).eval()
    q, kv = torch.randn(4, 4, 8, dtype=D), torch.randn(4, 4, 8, dtype=D)
    padding = torch.tensor([[False, False, False, True]] * 4)
    masks: dict[str, Any] = {
        "no": {},
        "mask": {"attn_mask": torch.ones(4, 4, dtype=torch.bool).triu(1)},
        "heads": {"attn_mask": torch.randn(8, 4, 4, dtype=D)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": torch.zeros(4, 4, dtype=D), "key_padding_mask": padding.to(D) * -1e9},
    }
    given = masks[masked]
    with Subject(part).asked() as own, opened(own.module) as seen, torch.enable_grad():
        found, weights = own.module(q, kv, kv, average_attn_weights=False, **given)
    want, kernel = part(q, kv, kv, average_attn_weights=False, **given)
    assert torch.allclose(found, want, atol=1e-12)
    assert torch.allclose(weights, kernel, atol=1e-12)
    assert torch.allclose(seen.calls[0].probabilities, kernel, atol=1e-12)


def test_probabilities_are_part_of_the_graph() -> None:
    """Gradient of a linear read-out: dS/dA = read-out of the values, by hand."""
    torch.manual_seed(0)
    net = Attending().to(D)
    x = torch.randn(1, 5, 8, dtype=D)
    with Subject(net).asked() as own, torch.enable_grad():
        with opened(own.module, lambda _name, found: found.detach().requires_grad_()) as seen:
            score = own.module(x)[0, 0].sum()
        (grad,) = torch.autograd.grad(score, seen.calls[0].probabilities)
    value = net.qkv(x)[0, :, 16:].unflatten(-1, (2, 4))
    read = net.out.weight.sum(0).view(2, 4)
    want = torch.einsum("khc,hc->hk", value, read)
    assert torch.allclose(grad[0, :, 0], want)
    assert not grad[0, :, 1:].any()
    assert not any(p.grad is not None for p in net.parameters())
