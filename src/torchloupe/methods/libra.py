"""LibraGrad: a backward pass through a transformer that hands on as much as it was given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.attention import opened
from torchloupe.backward import Change, functions, replaced
from torchloupe.errors import LoupeWarning
from torchloupe.probe import Probe


def libra() -> Change:
    """LibraGrad's rules for one asking. Forward values stay; only what flows back is changed:

    - LayerNorm, RMSNorm: their standard deviation (root mean square) counts as a constant;
    - attention: its probabilities count as constants, so the gradient flows through the values alone;
    - GELU, SiLU, QuickGELU: x times a gate that counts as a constant;
    - L2 normalisation (F.normalize): the length counts as a constant.

    With these, score = sum over inputs x * dY/dx + sum over biases b * dY/db (FullGrad-completeness).
    Differs: gated MLPs (SwiGLU, GEGLU), whose product the paper halves, are left as they are, with a warning; so is a norm
    that is written out by hand.
    Source: Mehri et al. 2025, LibraGrad, CVPR, arXiv:2411.16760.
    """

    def change(net: nn.Module) -> Any:
        gated = sorted({type(part).__name__ for part in net.modules() if "glu" in type(part).__name__.lower()})
        if gated:
            text = f"libra: {', '.join(gated)} multiply two parts of the input, which is left as it is; sums are not complete"
            warnings.warn(text, LoupeWarning, stacklevel=2)
        by_name = {
            type(part): _BY_NAME[type(part).__name__] for part in net.modules() if type(part).__name__ in _BY_NAME
        }
        if by_name:
            replaced(by_name)(net)
        return _open(net)

    return change


def librated(probe: Probe) -> Probe:
    """The probe with LibraGrad's rules for its backward pass."""
    return replace(probe, changes=(*probe.changes, libra()))


@contextmanager
def _open(net: nn.Module) -> Iterator[None]:
    with opened(net, lambda _name, probabilities: probabilities.detach()), functions(_RULES)(net):  # type: ignore[union-attr]
        yield


def _layer_norm(_func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _normed(*args, **kwargs)


def _normed(
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    with torch.no_grad():
        scale = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + eps)
    y = (x - x.mean(axes, keepdim=True)) * scale
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(_func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return _scaled(*args, **kwargs)


def _scaled(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    with torch.no_grad():
        scale = torch.rsqrt(x.pow(2).mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    return x * scale if weight is None else x * scale * weight


def _gated(gate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(_func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        x, *rest = args
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        return x * gate(x.detach(), *(one for one in rest if not isinstance(one, bool)), **kwargs)

    return rule


def _gelu_gate(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return 0.5 * (1 + torch.erf(x / 2**0.5))


def _normalised(_func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    def normalise(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
        return x / x.detach().norm(p, dim, keepdim=True).clamp_min(eps)

    return normalise(*args, **kwargs)


class _QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x.detach())


class _RMSNorm(nn.Module):
    def __init__(self, part: Any) -> None:
        super().__init__()
        self.weight, self.eps = part.weight, getattr(part, "variance_epsilon", getattr(part, "eps", 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return _scaled(x, self.weight.shape, self.weight, self.eps)


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: lambda func, args, kwargs: _normed(
        *args[:5], **{k: v for k, v in kwargs.items() if k != "cudnn_enable"}
    ),
    F.gelu: _gated(_gelu_gate),
    F.silu: _gated(torch.sigmoid),
    F.normalize: _normalised,
    **({F.rms_norm: _rms_norm} if hasattr(F, "rms_norm") else {}),
}
_BY_NAME: dict[str, Callable[[nn.Module], nn.Module]] = {
    "QuickGELU": lambda part: _QuickGELU(),
    "QuickGELUActivation": lambda part: _QuickGELU(),
    **dict.fromkeys(("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SimpleNorm"), _RMSNorm),
}
