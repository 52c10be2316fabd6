"""Layer-wise relevance propagation, of convolutional networks and transformers: rules for a backward pass, then gradient x activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.attention import opened
from torchloupe.axes import C
from torchloupe.backward import Change, functions, replaced
from torchloupe.errors import BadInput
from torchloupe.methods.libra import RULES, gated_halves, plain_norms
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe

Rule = Literal["epsilon", "gamma", "zplus"]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SMALL = 1e-30


@dataclass(frozen=True)
class Merged:
    """The weight and bias of a linear layer or convolution, with the BatchNorm behind it."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, part: Any, norm: Any | None) -> Merged:
        """weight W, bias b; behind a BatchNorm of mean m, variance v, scale g, shift s:  W g / sqrt(v + eps),
        (b - m) g / sqrt(v + eps) + s."""
        if norm is None:
            return cls(part.weight, part.bias)
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        bias = -norm.running_mean if part.bias is None else part.bias - norm.running_mean
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias
        return cls(part.weight * scale.reshape(-1, *[1] * (part.weight.ndim - 1)), bias)


class Propagating(nn.Module):
    """A linear layer or convolution with the same output, and a backward by a rule:  g_j <- sum_k m_jk y_k g_k / z_k

    y = w x + b, z = sum_j m_jk x_j + its bias; relevance is x g on either side.
    epsilon: m = w, z = y + epsilon sign y. gamma: where y > 0, m = w + gamma max(w, 0) for x > 0 and w + gamma min(w, 0) for x < 0,
    bias b + gamma max(b, 0); where y < 0 the two the other way round. zplus: m = max(w, 0) for x > 0, min(w, 0) for x < 0, bias max(b, 0).
    """

    def __init__(self, part: Any, norm: Any | None, rule: Rule, gamma: float, epsilon: float) -> None:
        super().__init__()
        self.rule, self.gamma, self.epsilon = rule, gamma, epsilon
        self._apply_to: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _applied(part)
        self._held = Merged.of(part, norm)
        self.weight, self.bias = part.weight, part.bias  # what others look up on a layer

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._held.weight, self._held.bias
        if self.rule == "epsilon":
            y = self._apply_to(x, weight, bias)
            fixed = y.detach()
            stable = torch.where(fixed < 0, fixed - self.epsilon, fixed + self.epsilon)
            return fixed + _silent((y - fixed) * _share(fixed, stable))
        up, down = x.clamp_min(0), x.clamp_max(0)
        with torch.no_grad():
            y = self._apply_to(x, weight, bias)
            more, less = self._raised(weight, 0, None), self._raised(weight, None, 0)
            none = None if bias is None else torch.zeros_like(bias)
            on, off = (None if bias is None else self._raised(bias, *bounds) for bounds in ((0, None), (None, 0)))
        risen = self._apply_to(up, more, none) + self._apply_to(down, less, none)
        above = risen.detach() + self._apply_to(torch.zeros_like(x), more, on).detach()
        if self.rule == "zplus":
            return y + _silent((risen - risen.detach()) * _share(y, above))
        fallen = self._apply_to(up, less, none) + self._apply_to(down, more, none)
        below = fallen.detach() + self._apply_to(torch.zeros_like(x), less, off).detach()
        parts = torch.where(
            y > 0, (risen - risen.detach()) * _share(y, above), (fallen - fallen.detach()) * _share(y, below)
        )
        return y + _silent(parts)

    def _raised(self, values: Tensor, low: float | None, high: float | None) -> Tensor:
        clipped = values.clamp(low, high)
        return clipped if self.rule == "zplus" else values + self.gamma * clipped


def _silent(x: Tensor) -> Tensor:
    """A tensor of zeros through which a gradient flows."""
    return x - x.detach()


def _share(y: Tensor, z: Tensor) -> Tensor:
    """y / z, and 0 where z is 0: nothing came that way."""
    safe = z.abs() > SMALL
    return torch.where(safe, y, 0) / torch.where(safe, z, 1)


def _applied(part: Any) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    if isinstance(part, nn.Linear):
        return F.linear

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return part._conv_forward(x, weight, bias)

    return convolve


def merged_norms(probe: Probe, batch: Batch) -> dict[str, str]:
    """BatchNorm -> the convolution or linear layer whose output it is given, in a forward; both run once in it."""
    made: dict[int, str] = {}
    held: list[Tensor] = []  # so that no other tensor takes the place of one in memory
    pairs: dict[str, str] = {}
    often: dict[str, int] = {}

    def gives(name: str) -> Callable[..., None]:
        def note(_part: nn.Module, _inputs: Any, output: Tensor) -> None:
            often[name] = often.get(name, 0) + 1
            made[id(output)] = name
            held.append(output)

        return note

    def takes(name: str) -> Callable[..., None]:
        def note(_part: nn.Module, inputs: Any) -> None:
            often[name] = often.get(name, 0) + 1
            if inputs and id(inputs[0]) in made:
                pairs[name] = made[id(inputs[0])]

        return note

    with replace(probe, changes=()).asked() as own, torch.no_grad():
        for name, part in own.module.named_modules():
            if isinstance(part, (nn.Linear, *CONVOLUTIONS)):
                part.register_forward_hook(gives(name))
            elif isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
                part.register_forward_pre_hook(takes(name))
        own.output(batch.at(batch.x.detach().clone()))
    return {norm: layer for norm, layer in pairs.items() if often[norm] == often[layer] == 1}


def propagation(conv: Rule, dense: Rule, gamma: float, epsilon: float, norms: Mapping[str, str]) -> Change:
    """Convolutions and linear layers by their rules, BatchNorms (norms: each -> the layer before it) merged into them."""

    def change(net: nn.Module) -> None:
        behind: dict[int, Any] = {}
        for norm, layer in norms.items():
            part = net.get_submodule(norm)
            behind[id(net.get_submodule(layer))] = part
            home, _, last = norm.rpartition(".")
            # timm's BatchNorm has its activation inside
            rest = [getattr(part, name) for name in ("drop", "act") if isinstance(getattr(part, name, None), nn.Module)]
            net.get_submodule(home)._modules[last] = nn.Sequential(*rest)

        def rule(kind: Rule) -> Callable[[nn.Module], nn.Module]:
            return lambda part: Propagating(part, behind.get(id(part)), kind, gamma, epsilon)

        replaced({nn.Linear: rule(dense), **{kind: rule(conv) for kind in CONVOLUTIONS}})(net)

    return change


def smooth_parts(attention: Literal["constant", "shared"]) -> Change:
    """Norms, activations, gates and attention by the rules of AttnLRP. attention: "constant", its probabilities count as constants
    (CP-LRP); "shared", queries and keys take a quarter each of what comes, values a half."""

    def change(net: nn.Module) -> Any:
        plain_norms(net)
        return _open(net, attention == "shared")

    return change


@contextmanager
def _open(net: nn.Module, shared: bool) -> Iterator[None]:
    held = None if shared else (lambda _name, probabilities: probabilities.detach())
    feed = (lambda q, k, v: (_part_of(q, 0.25), _part_of(k, 0.25), _part_of(v, 0.5))) if shared else None
    with opened(net, held, lambda _: False, feed), gated_halves(net), functions({**RULES, **_SLOPES})(net):  # type: ignore[union-attr]
        yield


def _part_of(x: Tensor, share: float) -> Tensor:
    """The same values; a share of the gradient."""
    return x.detach() + share * _silent(x)


def _slope(_func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """tanh(x) as x times tanh(x) / x, which counts as a constant."""
    x = args[0] if args else kwargs["input"]
    fixed = x.detach()
    near = fixed.abs() < 1e-8
    slope = torch.where(near, torch.ones_like(fixed), torch.tanh(fixed) / torch.where(near, 1, fixed))
    return fixed.tanh() + slope * _silent(x)


_SLOPES: dict[Callable[..., Any], Callable[..., Any]] = dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), _slope)


def _relevance(probe: Probe, batch: Batch) -> Maps:
    def take(_layer: str, act: Tensor, grad: Tensor) -> Tensor:
        return (grad * act).sum(C)

    seen = probe(batch, take=take)
    return Maps({layer: torch.cat(seen.taken[layer]) for layer in probe.layers}, seen.scores, signed=True)


@method
def lrp(
    probe: Probe,
    batch: Batch,
    *,
    conv: Rule = "zplus",
    dense: Rule = "epsilon",
    gamma: float = 0.25,
    epsilon: float = 1e-6,
) -> Maps:
    """Layer-wise relevance propagation:  R_j = sum_k x_j m_jk / z_k R_k  from the score back,  M = sum_c R_c

    conv, dense: the rule of convolutions, and of linear layers: epsilon, gamma (with gamma) or zplus, see `Propagating`; zplus and
    epsilon are the composite EpsilonPlus. BatchNorms are merged into the layer whose output they are given. Sums, poolings and ReLUs
    hand on gradients; of transformers, norms' deviations, attention probabilities and gates count as constants (CP-LRP).
    -> layer -> (k, n, t, h, w), signed; at INPUT the relevance of pixels.
    Source: Bach et al. 2015, On pixel-wise explanations, PLOS ONE, doi:10.1371/journal.pone.0130140; Montavon et al. 2019,
    Layer-wise relevance propagation: an overview, doi:10.1007/978-3-030-28954-6_10.
    Differs: no rule of its own for the first layer; a transposed convolution, and a weight that is used past its module, keep
    their gradients, which is epsilon = 0.
    """
    for name, word in (("conv", conv), ("dense", dense)):
        if word not in ("epsilon", "gamma", "zplus"):
            raise BadInput(f"{name} is {word!r}; expected epsilon, gamma or zplus")
    _check(gamma, epsilon)
    norms = merged_norms(probe, batch)
    changes = (propagation(conv, dense, gamma, epsilon, norms), smooth_parts("constant"))
    return _relevance(replace(probe, changes=(*probe.changes, *changes)), batch)


@method
def attnlrp(probe: Probe, batch: Batch, *, gamma: float = 0.0, epsilon: float = 1e-6) -> Maps:
    """AttnLRP, as gradient x activation:  M = sum_c A_c * g_c,  g the gradient under rules for norms, gates, products and attention

    A norm's deviation counts as a constant; GELU and SiLU are x times a constant gate; of a product of two parts of the input each
    takes half; of attention the values take half, queries and keys a quarter each. gamma: above 0, linear layers and
    convolutions follow the gamma rule, else epsilon.
    -> layer -> (k, n, t, h, w), signed.
    Source: Achtibat et al. 2024, AttnLRP, ICML, arXiv:2402.05602, in the form of gradient x input of their code.
    """
    _check(gamma, epsilon)
    rule: Rule = "gamma" if gamma else "epsilon"
    changes = (propagation(rule, rule, gamma, epsilon, merged_norms(probe, batch)), smooth_parts("shared"))
    return _relevance(replace(probe, changes=(*probe.changes, *changes)), batch)


def _check(gamma: float, epsilon: float) -> None:
    if gamma < 0 or epsilon < 0:
        raise BadInput(f"gamma {gamma}, epsilon {epsilon}: expected 0 or more")
