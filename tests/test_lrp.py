"""LRP and AttnLRP beside plain loops over neurons in float64, beside zennit, and beside explicit rules of products and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_attention_methods import batch as tokens
from test_attention_methods import complete, unfused, vit
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.libra import libra
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Classes

D = torch.float64


def dense(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, r: np.ndarray, rule: str, gamma: float, epsilon: float
) -> np.ndarray:
    """Relevance (j) of the inputs of y = w x + b from that of its outputs r (k), neuron by neuron."""
    found = np.zeros(len(x))
    for k in range(len(r)):
        y = b[k] + sum(w[k, j] * x[j] for j in range(len(x)))
        if rule == "epsilon":
            parts, bias = [w[k, j] * x[j] for j in range(len(x))], b[k] + (epsilon if y >= 0 else -epsilon)
        elif rule == "zplus":
            parts, bias = [max(w[k, j] * x[j], 0) for j in range(len(x))], max(b[k], 0)
        else:  # what speaks for the sign of y counts more
            side = 1 if y > 0 else -1
            parts = [w[k, j] * x[j] + gamma * side * max(side * w[k, j] * x[j], 0) for j in range(len(x))]
            bias = b[k] + gamma * side * max(side * b[k], 0)
        total = sum(parts) + bias
        for j in range(len(x)):
            found[j] += parts[j] / total * r[k] if total else 0
    return found


class Small(nn.Module):
    """A convolution over all of a 2 x 2 picture, a BatchNorm, a ReLU and a linear layer: small enough for loops."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 6, 2), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def small() -> Small:
    torch.manual_seed(2)
    net = Small().to(D).eval()
    for part in (*net.parameters(), net.norm.running_mean):
        nn.init.normal_(part, std=0.7)
    nn.init.uniform_(net.norm.running_var, 0.3, 2)  # type: ignore[arg-type]
    return net


@pytest.mark.parametrize("conv", ["epsilon", "gamma", "zplus"])
@pytest.mark.parametrize("last", ["epsilon", "gamma", "zplus"])
def test_lrp_neuron_by_neuron(conv: Any, last: Any) -> None:
    net, x = small(), torch.randn(2, 2, 2, 2, dtype=D, generator=torch.Generator().manual_seed(5))
    probe = Probe(Subject(net), (INPUT,), Classes((0, 2)))
    found = loupe.lrp(probe, Batch(x), conv=conv, dense=last, gamma=0.4, epsilon=0.01)[INPUT]
    norm = net.norm
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    w = (net.conv.weight.detach().flatten(1) * scale[:, None]).numpy()
    b = ((net.conv.bias.detach() - norm.running_mean) * scale + norm.bias.detach()).numpy()  # type: ignore[union-attr]
    v, c = net.head.weight.detach().numpy(), net.head.bias.detach().numpy()
    for n in range(2):
        flat = x[n].flatten().numpy()
        hidden = np.maximum(w @ flat + b, 0)
        for number, k in enumerate((0, 2)):
            r = np.zeros(3)
            r[k] = (v @ hidden + c)[k]
            r = dense(hidden, v, c, r, last, 0.4, 0.01)
            want = dense(flat, w, b, r, conv, 0.4, 0.01).reshape(2, 2, 2).sum(0)
            np.testing.assert_allclose(found[number, n, 0], want, atol=1e-10)
    assert torch.equal(probe.ask(Batch(x))[0].value, net(x).T[[0, 2]])
    assert isinstance(net.norm, nn.BatchNorm2d)


def test_without_biases_relevance_is_conserved_and_epsilon_is_gradient_times_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 2, bias=False), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 2, bias=False),
    ).to(D)  # fmt: skip
    x = torch.randn(2, 3, 8, 8, dtype=D)
    probe = Probe(Subject(net), (INPUT, "0", "3"), Classes((0, 1)))
    for rule in ("epsilon", "gamma", "zplus"):
        found = loupe.lrp(probe, Batch(x), conv=rule, dense=rule, epsilon=0.0)  # type: ignore[arg-type]
        for layer in (INPUT, "0", "3"):
            total = found[layer].sum((2, 3, 4))
            some = total.abs() > 1e-9  # a score that nothing speaks for has no relevance by zplus
            assert some.any()
            np.testing.assert_allclose(total[some], found.scores.value[some], atol=1e-9)
    plain = loupe.gradient_x_input(probe, Batch(x))[INPUT]
    np.testing.assert_allclose(loupe.lrp(probe, Batch(x), conv="epsilon", epsilon=0.0)[INPUT], plain, atol=1e-10)


class Residual(nn.Module):
    """Two convolutions with BatchNorm, a sum, ReLUs; as ResNets have them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
        )
        self.relu, self.pool, self.flat, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.head(self.flat(self.pool(x)))


@pytest.mark.parametrize("name", ["EpsilonPlus", "EpsilonGamma"])
def test_lrp_as_zennit_has_it(name: str) -> None:
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import LayerMapComposite
    from zennit.rules import Epsilon, Gamma, Norm, Pass, ZPlus
    from zennit.types import Activation, AvgPool, Convolution

    torch.manual_seed(1)
    net = Residual().to(D).eval()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-14  # zennit divides by its root once more behind the merged layer
            nn.init.normal_(part.weight, 1, 0.5)
            nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6, 6, dtype=D)
    plus = name == "EpsilonPlus"
    found = loupe.lrp(
        Probe(Subject(net), (INPUT,), Classes(1)), Batch(x), conv="zplus" if plus else "gamma", gamma=0.3, epsilon=1e-6
    )[INPUT]
    rules = [
        (Activation, Pass()), (AvgPool, Norm(1e-12)), (Convolution, ZPlus(stabilizer=1e-12) if plus else Gamma(0.3, stabilizer=1e-12)),
        (nn.Linear, Epsilon(1e-6)),
    ]  # fmt: skip
    composite = LayerMapComposite(rules, canonizers=[SequentialMergeBatchNorm()])
    with Gradient(model=net, composite=composite) as attributor:
        score = net(x)
        _, relevance = attributor(x, torch.eye(3, dtype=D)[[1, 1]] * score.detach())
    np.testing.assert_allclose(found[0, :, 0], relevance.sum(1), atol=1e-8)


def explicit(q: Tensor, k: Tensor, v: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AttnLRP's rules of the matrix product, softmax and matrix product again, for one head: r (T, d) -> R of q, k, v, by loops."""
    tokens, width = q.shape
    s = q @ k.T * width**-0.5
    p = s.softmax(-1)
    out = p @ v
    r_p, r_v = torch.zeros_like(p), torch.zeros_like(v)
    for i in range(tokens):
        for c in range(width):
            for j in range(tokens):  # a product of two inputs: half to each
                part = p[i, j] * v[j, c] / (2 * out[i, c]) * r[i, c]
                r_p[i, j] += part
                r_v[j, c] += part
    r_s = s * (r_p - p * r_p.sum(-1, keepdim=True))
    r_q, r_k = torch.zeros_like(q), torch.zeros_like(k)
    for i in range(tokens):
        for j in range(tokens):
            for c in range(width):
                part = q[i, c] * k[j, c] * width**-0.5 / (2 * s[i, j]) * r_s[i, j]
                r_q[i, c] += part
                r_k[j, c] += part
    return r_q, r_k, r_v


def test_attnlrp_by_the_rules_of_the_paper() -> None:
    """One head: relevance of q, k and v in the form of gradient x input is what the explicit rules give."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(4, 3, dtype=D, requires_grad=True) for _ in range(3))
    from torchloupe.methods.lrp import smooth_parts

    net = nn.Identity()
    w = torch.randn(4, 3, dtype=D)
    with smooth_parts("shared")(net):  # type: ignore[union-attr]
        out = nn.functional.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]
        grads = torch.autograd.grad((out * w).sum(), [q, k, v])
    with torch.no_grad():
        want = explicit(q, k, v, out * w)
    for x, grad, r in zip((q, k, v), grads, want, strict=True):
        np.testing.assert_allclose((x * grad).detach(), r, atol=1e-10)


def test_attnlrp_and_cp_lrp_of_a_transformer() -> None:
    """At the tokens of a block; with attention constant it is LibraGrad's gradient x activation, epsilon 0."""
    net, asked = vit(), tokens()
    probe = Probe(Subject(net), ("blocks.1",), Classes((1, 3)))
    ours = loupe.lrp(probe, asked, conv="epsilon", epsilon=0.0)["blocks.1"]
    seen = Probe(Subject(net), ("blocks.1",), Classes((1, 3)), changes=(libra(),))(asked)
    np.testing.assert_allclose(ours, (seen.act["blocks.1"] * seen.grad["blocks.1"]).sum(2), atol=1e-10)
    attn = loupe.attnlrp(probe, asked, epsilon=0.0)["blocks.1"]
    assert not torch.allclose(attn, ours)
    with unfused(net) as parts:
        net(asked.x)
    assert len(parts) == 3
    more = loupe.attnlrp(probe, asked, gamma=0.3)["blocks.1"]
    assert not torch.allclose(attn, more)


@pytest.mark.parametrize("kind", ["swiglu", "gluact"])
def test_libra_is_complete_with_gated_mlps(kind: str) -> None:
    from functools import partial

    from timm.layers import GluMlp, RmsNorm, SwiGLU

    mlp = SwiGLU if kind == "swiglu" else partial(GluMlp, act_layer=nn.GELU, gate_last=False)
    net, x = vit(mlp_layer=mlp, norm_layer=RmsNorm if kind == "gluact" else nn.LayerNorm), tokens(1).x
    score, total = complete(net, x, (libra(),))
    assert total == pytest.approx(score, abs=1e-12)
    plain, off = complete(net, x, ())
    assert plain == pytest.approx(score, abs=1e-12)
    assert abs(off - score) > 1e-4


def test_gates_that_multiply_nothing_and_norms_that_are_none_are_told() -> None:
    class SwiGLUish(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.gate_proj(x)

    class OddRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return 3 * x

    for part, told in (
        (SwiGLUish(), "SwiGLUish: gated MLPs in which no product"),
        (OddRMSNorm(), "OddRMSNorm is no RMSNorm"),
    ):
        net = nn.Sequential(nn.Flatten(), part, nn.Linear(4, 2))
        with pytest.warns(LoupeWarning, match=told):
            loupe.attnlrp(Probe(Subject(net), (INPUT,), Classes(1)), Batch(torch.rand(1, 1, 2, 2)))


def test_a_batchnorm_that_stands_alone_keeps_its_gradient() -> None:
    """Its input is a ReLU's, so there is nothing to merge it into: it is a linear layer with a bias, epsilon 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).to(D).eval()
    x = torch.randn(1, 1, 3, 3, dtype=D)
    probe = Probe(Subject(net), (INPUT,), Classes(1))
    plain = loupe.gradient_x_input(probe, Batch(x))[INPUT]
    np.testing.assert_allclose(loupe.lrp(probe, Batch(x), conv="epsilon", epsilon=0.0)[INPUT], plain, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"conv": "plus"}, {"dense": "z"}, {"gamma": -1.0}, {"epsilon": -1e-3}])
def test_rules_that_there_are_not(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="expected"):
        loupe.lrp(Probe(Subject(small()), (INPUT,), Classes(1)), Batch(torch.rand(1, 2, 2, 2, dtype=D)), **wrong)
