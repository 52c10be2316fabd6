"""Maps of several layers made one: the places of the deep ones, the edges of the early ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.errors import BadInput
from torchloupe.methods import cam
from torchloupe.methods.registry import method
from torchloupe.names import split_call
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe

Base = Literal["gradcam", "gradcam_pp", "hirescam", "layercam", "xgradcam"]
BASES = ("gradcam", "gradcam_pp", "hirescam", "layercam", "xgradcam")


@method
def refinecam(probe: Probe, batch: Batch, *, base: Base = "gradcam_pp") -> Maps:
    """RefineCAM:  M_l = product over the layer and those behind it of CAM_j / max CAM_j, resized to the finest of them

    base: the CAM. -> layer -> (k, n, t, h, w) in [0, 1]: the last of the probe's layers is its CAM alone, the first of them in the network
    the whole product, which is the paper's map. An empty CAM makes the product empty.
    Errors: BadInput for another base.
    Source: How to evaluate and refine your CAM, arXiv:2605.14641.
    Differs: every intermediate product is given, too.
    """
    if base not in BASES:
        raise BadInput(f"base is {base!r}; expected one of {', '.join(BASES)}")
    order: list[str] = []

    def take(layer: str, act: Tensor, grad: Tensor) -> Tensor:
        return getattr(cam, base).formula(act, grad)

    seen = probe(batch, take=take)
    ran = [visit.name for visit in seen.trace.visits]
    order = sorted(probe.layers, key=lambda name: -1 if name == INPUT else _end(ran, name))
    product: Tensor | None = None
    maps: dict[str, Tensor] = {}
    for layer in reversed(order):
        found = torch.cat(seen.taken[layer])
        top = found.amax((-3, -2, -1), keepdim=True)
        unit = torch.where(top > 0, found / torch.where(top > 0, top, 1), 0)
        if product is None:
            product = unit
        else:
            size = tuple(max(a, b) for a, b in zip(product.shape[-3:], unit.shape[-3:], strict=True))
            product = resize(product, size) * resize(unit, size)  # type: ignore[arg-type]
        maps[layer] = product
    return Maps({layer: maps[layer] for layer in probe.layers}, seen.scores)


def _end(ran: list[str], layer: str) -> int:
    """When a layer, or the call of it that is named, ended."""
    bare, call = split_call(layer)
    ends = [i for i, name in enumerate(ran) if name == bare]
    return ends[call if call is not None else -1] if ends else 0
