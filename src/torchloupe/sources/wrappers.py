"""Models inside of other people's wrappers: looked through, and said."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from torchloupe.errors import LoupeWarning

# class name anywhere among a module's bases -> where the model is in it
INSIDE = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "PeftModel": "base_model.model",
    "PeftMixedModel": "base_model.model",
}


def unwrapped(module: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel, DistributedDataParallel, an averaged model, PEFT (its adapters stay at work),
    or a Lightning module that only hands on to it; a warning says so. Any other module as it is.

    Layers go by the names that they have in the model inside.
    """
    seen: list[str] = []
    while True:
        names = [kind.__name__ for kind in type(module).__mro__]
        place = next((INSIDE[name] for name in names if name in INSIDE), None)
        inner = _at(module, place) if place else _lightning(module) if "LightningModule" in names else None
        if inner is None:
            break
        seen.append(type(module).__name__)
        module = inner
    if seen:
        warnings.warn(
            f"{type(module).__name__} is looked at inside {' inside '.join(reversed(seen))}; its layers have the names that they "
            "have there",
            LoupeWarning,
            stacklevel=4,
        )
    return module


def _at(module: nn.Module, path: str) -> nn.Module | None:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, nn.Module) else None


def _lightning(module: nn.Module) -> nn.Module | None:
    """The one network in a Lightning module, where both give the same answer to the same pictures; else None."""
    inside = [child for child in module.children() if next(child.parameters(), None) is not None]
    if len(inside) != 1:
        return None
    first = next(module.parameters())
    stem = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    x = torch.linspace(-1, 1, 64 * 64).view(64, 64).expand(2, stem.in_channels if stem is not None else 3, 64, 64)
    x = x.to(first.device, first.dtype)
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            outer, inner = module(x.clone()), inside[0](x.clone())
        same = isinstance(outer, torch.Tensor) and isinstance(inner, torch.Tensor) and torch.equal(outer, inner)
    except Exception:  # somebody else's forward, which may want another input
        same = False
    finally:
        for part, mode in modes.items():
            part.training = mode
    return inside[0] if same else None
