"""Guided backpropagation: gradients that pass a ReLU only where both the activation and the gradient are positive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchloupe.axes import C, resize
from torchloupe.backward import Change, functions
from torchloupe.errors import BadInput
from torchloupe.methods.cam import gradcam
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe

RELUS: tuple[Callable[..., Any], ...] = (F.relu, torch.relu, Tensor.relu)
RELUS_IN_PLACE: tuple[Callable[..., Any], ...] = (torch.relu_, Tensor.relu_, F.relu_)
OTHERS = {
    *(
        "gelu",
        "silu",
        "mish",
        "leaky_relu",
        "leaky_relu_",
        "elu",
        "elu_",
        "selu",
        "selu_",
        "celu",
        "hardswish",
        "softplus",
    ),
    *("prelu", "rrelu"),
}


CLIPPED = ("relu6", "relu6_", "hardtanh", "hardtanh_")


class _GuidedReLU(torch.autograd.Function):
    """A ReLU, or one that ends at a bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        y = x.clamp(0, bound)
        ctx.save_for_backward(y)
        ctx.bound = bound
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.where((y > 0) & (y < ctx.bound), grads[0].clamp_min(0), 0), None


@dataclass
class Activations:
    """What ran while guided: how many ReLUs, and which other activation functions."""

    relus: int = 0
    others: set[str] = field(default_factory=set)


def guided(seen: Activations) -> Change:
    """Every ReLU (module, functional, in place) sends back relu(grad) where it was active; seen notes what ran."""

    def relu(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.relus += 1
        x = args[0] if args else kwargs["input"]
        in_place = func in RELUS_IN_PLACE or kwargs.get("inplace") or (func is F.relu and args[1:] == (True,))
        return guide(x, float("inf"), in_place)

    def guide(x: Tensor, bound: float, in_place: Any) -> Tensor:
        made: Tensor = _GuidedReLU.apply(x.clone() if in_place else x, bound)
        return x.copy_(made) if in_place else made

    def clipped(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("input", "inplace") if "relu6" in func.__name__ else ("input", "min_val", "max_val", "inplace")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        low, high = (0, 6) if "relu6" in func.__name__ else (given.get("min_val", -1.0), given.get("max_val", 1.0))
        if low != 0:
            return func(*args, **kwargs)
        seen.relus += 1
        return guide(given["input"], float(high), given.get("inplace") or func.__name__.endswith("_"))

    def other(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        seen.others.add(func.__name__.rstrip("_"))
        return func(*args, **kwargs)

    homes = (F, torch, Tensor, torch._C._nn)
    rules = {getattr(home, name): other for name in OTHERS for home in homes if hasattr(home, name)}
    clips = {getattr(home, name): clipped for name in CLIPPED for home in homes if hasattr(home, name)}
    return functions({**rules, **clips, **dict.fromkeys((*RELUS, *RELUS_IN_PLACE), relu)})


@method
def guided_backprop(probe: Probe, batch: Batch) -> Maps:
    """Guided backpropagation:  M = sum_c dY/dx_c,  every ReLU passing back relu(grad) * [activation > 0]

    -> INPUT -> (k, n, t, h, w), signed.
    One rule for activations: what is 0 below 0 and rises from there is a ReLU, also where it ends at a bound (ReLU6, Hardtanh
    from 0); what rises without bound and is no ReLU (GELU, LeakyReLU, ...) is refused, as the rule has no meaning for it; what
    is bounded on both sides (sigmoid, tanh, softmax) is a gate and passes its own gradient.
    Errors: BadInput for a network without ReLU, or with activation functions that are refused.
    Source: Springenberg et al. 2015, Striving for simplicity, arXiv:1412.6806.
    """
    seen = Activations()
    capture = replace(probe.at(INPUT), changes=(*probe.changes, guided(seen)))(batch)
    if seen.others:
        raise BadInput(
            f"guided_backprop is defined for ReLU networks; this one also runs {', '.join(sorted(seen.others))}. "
            "Take smoothgrad or integrated_gradients"
        )
    if not seen.relus:
        raise BadInput(
            "guided_backprop is defined for ReLU networks; this one runs no ReLU. Take smoothgrad or integrated_gradients"
        )
    return Maps({INPUT: capture.grad[INPUT].sum(C)}, capture.scores, signed=True)


@method
def guided_gradcam(probe: Probe, batch: Batch) -> Maps:
    """Guided Grad-CAM:  M = guided backpropagation * Grad-CAM at the layer, resized to the input

    -> layer -> (k, n, t, h, w) at the input's size, signed.
    Source: Selvaraju et al. 2017, Grad-CAM, ICCV, arXiv:1610.02391.
    """
    fine = guided_backprop(probe, batch)
    coarse = gradcam(probe, batch)
    return Maps(
        {layer: resize(found, batch.size) * fine[INPUT] for layer, found in coarse.maps.items()},
        coarse.scores,
        signed=True,
    )
