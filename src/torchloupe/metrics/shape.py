"""What a map is like, whatever is in the picture: entropy, Gini, the area of half its mass, its centre."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from torchloupe.axes import resize
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.marks import Heat, Marks, Number
from torchloupe.metrics.registry import metric

POSITIVE = "their positive part"


@metric(unsigned=POSITIVE)
def shape(asking: Asking, heats: Mapping[str, Heat]) -> Marks:
    """Shape:  entropy = -sum p log p / log N,  Gini,  the least share of the area that holds half of the mass,  centre of mass

    p = a / sum a over the N pixels of the input, a the map resized to it; of signed maps the positive part.
    Numbers: entropy (0 one pixel .. 1 uniform), gini (0 uniform .. 1 one pixel), half_area (0 .. 0.5), centre_row and
    centre_column (0 .. 1, 0.5 the middle), over time centre_frame. None is good by itself: a wrong map may be as sharp.
    An empty map has none.
    Source: Chalasani et al. 2020, Concise explanations of neural networks using adversarial training, ICML,
    arXiv:1810.06583 (Gini); Bhatt et al. 2020, arXiv:2005.00631 (entropy).
    """
    t, h, w = asking.batch.size
    names = ["entropy", "gini", "half_area", "centre_row", "centre_column", *(["centre_frame"] if t > 1 else [])]
    found: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    count = t * h * w
    for name, heat in heats.items():
        mass = resize(heat.values.double(), (t, h, w)).clamp_min(0).cpu()
        total = mass.sum((2, 3, 4))
        total = torch.where(total > 0, total, float("nan"))
        part = mass / total[..., None, None, None]
        flat = part.flatten(2)
        found["entropy"][name] = torch.special.entr(flat).sum(2) / math.log(max(count, 2))
        rising = flat.sort(2).values
        place = torch.arange(1, count + 1, dtype=torch.float64)
        found["gini"][name] = ((2 * place - count - 1) * rising).sum(2) / count
        half = (rising.flip(2).cumsum(2) < 0.5 - 1e-12).sum(2) + 1
        found["half_area"][name] = torch.where(total.isnan(), total, half.double() / count)
        for axis, label in zip((2, 3, 4), ("frame", "row", "column"), strict=True):
            if f"centre_{label}" in found:
                others = tuple(other for other in (2, 3, 4) if other != axis)
                at = (torch.arange(mass.shape[axis], dtype=torch.float64) + 0.5) / mass.shape[axis]
                found[f"centre_{label}"][name] = (part.sum(others) * at).sum(2)
    return Marks({label: Number(value, "neither") for label, value in found.items()})
