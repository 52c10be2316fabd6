"""Test-time augmentation of any method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from torchloupe.axes import W
from torchloupe.errors import BadInput
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe

SCALES = (0.9, 1.0, 1.1)


def aug_smooth(ask: Callable[[Probe, Batch], Mapping[str, Maps]], probe: Probe, batch: Batch) -> dict[str, Maps]:
    """Mean of the maps over six views: mirrored or not, times the input scaled by 0.9, 1.0 and 1.1.

    ask: (probe, batch) -> name -> Maps, for example cams with its methods chosen. What the target chooses (the predicted
    class) is chosen once, on the unchanged input; a target that chooses places (boxes) says where they are in the mirror.
    Errors: BadInput for signals, which have nothing to mirror.
    Source: the test-time augmentation of pytorch-grad-cam.
    """
    if not batch.layout.has("w"):
        raise BadInput("aug_smooth mirrors columns, which a signal does not have; leave it out")
    scores, batch = probe.ask(batch)
    axis = batch.layout.axis("w")
    mirror = getattr(probe.target, "mirrored", None)
    turned = replace(batch, asked=mirror(batch.asked, batch)) if mirror is not None else batch
    sums: dict[str, dict[str, Tensor]] = {}
    first: dict[str, Maps] = {}
    views = [(mirrored, scale) for mirrored in (False, True) for scale in SCALES]
    for mirrored, scale in views:
        view = turned.at(batch.x.flip(axis)) if mirrored else batch
        for name, found in ask(probe, view.at(view.x * scale)).items():
            first.setdefault(name, found)
            held: Any = sums.setdefault(name, {})
            for layer, maps in found.maps.items():
                held[layer] = held.get(layer, 0) + (maps.flip(W) if mirrored else maps) / len(views)
    return {name: Maps(held, scores, signed=first[name].signed) for name, held in sums.items()}
