"""LibraGrad: a backward pass through a transformer that hands on as much as it was given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.attention import opened
from torchloupe.backward import Change, functions, replaced
from torchloupe.errors import LoupeWarning
from torchloupe.probe import Probe

NORMS = ("RMSNorm", "RmsNorm", "SimpleNorm")


def libra() -> Change:
    """LibraGrad's rules for one asking. Forward values stay; only what flows back is changed:

    - LayerNorm, RMSNorm: their standard deviation (root mean square) counts as a constant;
    - attention: its probabilities count as constants, so the gradient flows through the values alone;
    - GELU, SiLU, QuickGELU: x times a gate that counts as a constant;
    - L2 normalisation (F.normalize): the length counts as a constant.

    - gated MLPs (SwiGLU, GEGLU): of the product of two parts of the input each takes half.

    With these, score = sum over inputs x * dY/dx + sum over biases b * dY/db (FullGrad-completeness).
    Differs: a norm that is written out by hand is left as it is, unless its module is one of `NORMS` and gives what is expected.
    Source: Mehri et al. 2025, LibraGrad, CVPR, arXiv:2411.16760.
    """

    def change(net: nn.Module) -> Any:
        plain_norms(net)
        return _open(net)

    return change


def plain_norms(net: nn.Module) -> None:
    """Modules that are known to be QuickGELU or an RMSNorm by their names by ones that functions' rules see through.

    A norm whose numbers are not those of its name stays, with a warning.
    """
    kinds: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {}
    for part in net.modules():
        name = type(part).__name__
        if name in ("QuickGELU", "QuickGELUActivation"):
            kinds[type(part)] = lambda _part: _QuickGELU()
        elif name.endswith(NORMS) and type(part).forward is not nn.RMSNorm.forward and _as_named(part):
            kinds[type(part)] = _RMSNorm
    if kinds:
        replaced(kinds)(net)


def _as_named(part: Any) -> bool:
    """Whether a module gives what an RMSNorm does; says so where it does not."""
    weight = getattr(part, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        x = torch.linspace(-1, 2, len(weight)).to(weight)[None]
        with torch.no_grad(), torch._C.DisableTorchFunction():
            found, wanted = part(x), _RMSNorm(part)(x)
        if isinstance(found, Tensor) and torch.allclose(found, wanted.to(found), rtol=1e-2, atol=1e-3):
            return True
    text = f"{type(part).__name__} is no RMSNorm as it is known, so its backward pass stays as it is; sums are not complete"
    warnings.warn(text, LoupeWarning, stacklevel=4)
    return False


@contextmanager
def gated_halves(net: nn.Module) -> Iterator[None]:
    """Inside, of a product in a gated MLP of a shadow each factor takes half of the gradient.

    A module is a gated MLP whose name has "glu" in it, or that has a layer gate_proj (Llama and its kin) or fc1_g (timm).
    Says where none of them multiplied anything.
    """
    within = [part for part in net.modules() if _is_gated(part)]
    depth = halved = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    def product(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal halved
        two = len(args) == 2 and all(isinstance(one, Tensor) and one.requires_grad for one in args)
        if not depth or not two or args[0].shape != args[1].shape:
            return func(*args, **kwargs)
        halved += 1
        return func(*(one.detach() + (one - one.detach()) / 2 for one in args))

    with ExitStack() as stack:
        for part in within:
            stack.callback(part.register_forward_pre_hook(enter).remove)
            stack.callback(part.register_forward_hook(leave, always_call=True).remove)
        if within:
            stack.enter_context(functions(dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__), product))(net))  # type: ignore[arg-type]
        yield
        if within and not halved and torch.is_grad_enabled():
            names = ", ".join(sorted({type(part).__name__ for part in within}))
            text = f"{names}: gated MLPs in which no product was seen, so their gradients stay as they are; sums are not complete"
            warnings.warn(text, LoupeWarning, stacklevel=3)


def _is_gated(part: nn.Module) -> bool:
    named = "glu" in type(part).__name__.lower() and type(part) is not nn.GLU
    return named or any(isinstance(getattr(part, name, None), nn.Module) for name in ("gate_proj", "fc1_g"))


def librated(probe: Probe) -> Probe:
    """The probe with LibraGrad's rules for its backward pass."""
    return replace(probe, changes=(*probe.changes, libra()))


@contextmanager
def _open(net: nn.Module) -> Iterator[None]:
    held = lambda _name, probabilities: probabilities.detach()
    with opened(net, held, lambda _: False), gated_halves(net), functions(RULES)(net):  # type: ignore[union-attr]
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


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: lambda func, args, kwargs: _normed(
        *args[:5], **{k: v for k, v in kwargs.items() if k != "cudnn_enable"}
    ),
    F.gelu: _gated(_gelu_gate),
    F.silu: _gated(torch.sigmoid),
    F.normalize: _normalised,
    **({F.rms_norm: _rms_norm} if hasattr(F, "rms_norm") else {}),
}
