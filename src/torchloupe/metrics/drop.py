"""What is left of the score when only the map's part of the picture is: average drop, increase, gain."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from torchloupe.axes import resize
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import blank
from torchloupe.metrics.fills import Fill
from torchloupe.metrics.marks import Heat, Marks, Number
from torchloupe.metrics.registry import metric


@metric(lambda maps, n, options: maps * n)
def average_drop(asking: Asking, heats: Mapping[str, Heat], *, fill: Fill = "zero") -> Marks:
    """Average drop, increase, gain:  drop = max(0, Y - O) / Y,  increase = [O > Y],  gain = max(0, O - Y) / (1 - Y)

    Y = s(x), O = s(x * a + fill * (1 - a)), a the map resized to the input and scaled to 0 .. 1.
    Numbers: average_drop, low is good; increase and gain, high is good; as shares, 0 .. 1. Defined for scores that are
    probabilities, or for value="share": a sample with Y <= 0 has no drop, one with Y >= 1 no gain.
    Source: Chattopadhay et al. 2018, Grad-CAM++, WACV, arXiv:1710.11063 (drop, increase); Zhang et al. 2023, Opti-CAM,
    arXiv:2301.07002 (gain).
    """
    size = asking.batch.size
    scaled, flat = {}, {}
    for name, heat in heats.items():
        fine = resize(heat.values, size)
        low, high = fine.amin((2, 3, 4), keepdim=True), fine.amax((2, 3, 4), keepdim=True)
        flat[name] = blank(heat) | (high <= low)[..., 0, 0, 0].cpu()
        scaled[name] = (fine - low) / torch.where(high > low, high - low, 1)
    masks = ((i, a[q, i]) for a in scaled.values() for q in range(asking.k) for i in range(asking.batch.n))
    found = asking.answers(masks, fill).double().cpu().view(asking.k, len(heats), asking.k, asking.batch.n)
    own = torch.arange(asking.k)
    clean = torch.ones_like(found[:, 0, 0]) if asking.value == "share" else asking.clean.double().cpu()
    nothing = float("nan")
    drop, more, gain = {}, {}, {}
    for i, name in enumerate(heats):
        left = found[own, i, own].masked_fill(flat[name], nothing)
        drop[name] = ((clean - left).clamp_min(0) / clean).masked_fill(clean <= 0, nothing)
        more[name] = torch.where(left.isnan(), left, (left > clean).double())
        gain[name] = ((left - clean).clamp_min(0) / (1 - clean)).masked_fill(clean >= 1, nothing)
    said = []
    if asking.value != "share" and not ((clean > 0) & (clean <= 1)).all():
        said.append(
            "average_drop divides by the score, which here is no probability: samples at 0 or below have no drop, at 1 or "
            "above no gain; take value softmax, sigmoid or share"
        )
    numbers = {
        "average_drop": Number(drop, "low"),
        "increase": Number(more, "high"),
        "gain": Number(gain, "high"),
    }
    return Marks(numbers, said=tuple(said))
