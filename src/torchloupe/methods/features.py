"""What one feature map shows: channels reduced to one, the strongest ones, and figures about the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from torchloupe.axes import C, H, T, W
from torchloupe.errors import BadInput, nearest

SPACE = (T, H, W)


def from_array(value: np.ndarray) -> Tensor:
    """Stored features of one sample (c, t, h, w) -> (1, c, t, h, w) in float32."""
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))[None]


def pixel_wise_max(act: Tensor) -> Tensor:
    """Pixel-wise maximum:  M_p = max_c A_cp.

    act (n, c, t, h, w) -> (n, 1, t, h, w).
    """
    return act.amax(C, keepdim=True)


def squeeze_mean(act: Tensor) -> Tensor:
    """Mean over channels:  M_p = mean_c A_cp.

    act (n, c, t, h, w) -> (n, 1, t, h, w).
    """
    return act.mean(C, keepdim=True)


def select_max(act: Tensor) -> Tensor:
    """The one channel with the largest sum over space:  M = A_c*,  c* = argmax_c sum_p A_cp.

    act (n, c, t, h, w) -> (n, 1, t, h, w), sample by sample; the first of equals.
    """
    return strongest(act, 1)[0]


REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "pixel_wise_max": pixel_wise_max,
    "squeeze_mean": squeeze_mean,
    "select_max": select_max,
}


def reduction(name: str | None) -> Callable[[Tensor], Tensor] | None:
    """A reduction by name; None or "none" keeps the channels. Errors: BadInput that offers the nearest name."""
    if name is None or name.lower() == "none":
        return None
    if name not in REDUCTIONS:
        known = (*REDUCTIONS, "none")
        raise BadInput(f"channel reduction {name!r}: expected one of {', '.join(known)}.{nearest(name, known)}")
    return REDUCTIONS[name]


def strongest(act: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The channels with the largest sum over space, the largest first, and their numbers.

    act (n, c, t, h, w) -> (n, min(count, c), t, h, w) and (n, min(count, c)).
    """
    order = act.sum(SPACE).argsort(dim=1, descending=True, stable=True)[:, :count]
    return act.take_along_dim(order[:, :, None, None, None], dim=1), order


def standardise(act: Tensor) -> Tensor:
    """Each channel standardised over batch and space:  (A_c - mean_c) / (std_c + 1e-6).

    act (n, c, t, h, w) -> the same shape. std is the unbiased one; a channel with one value becomes 0.
    Source: MMRazor's --use-norm.
    """
    over = (0, *SPACE)
    count = act.numel() // act.shape[1]
    std = act.std(over, keepdim=True) if count > 1 else torch.zeros_like(act[:1])
    return (act - act.mean(over, keepdim=True)) / (std + 1e-6)


def statistics(act: Tensor) -> dict[str, float]:
    """Figures about the features at one point, over all samples and positions.

    act (n, c, t, h, w) -> mean; std (unbiased); min; max; dead_channels: share of channels that are zero everywhere; zeros:
    share of exact zeros; effective_rank: as below; channels; not_finite: share of NaN and infinite values, which are left
    out of everything else.
    """
    finite = torch.isfinite(act)
    held = torch.where(finite, act, 0).double()
    values = act[finite].double()
    some = values if len(values) else values.new_zeros(1)
    return {
        "mean": some.mean().item(),
        "std": some.std().item() if len(some) > 1 else 0.0,
        "min": some.min().item(),
        "max": some.max().item(),
        "dead_channels": (held == 0).all(-1).all(-1).all(-1).all(0).double().mean().item(),
        "zeros": (act == 0).double().mean().item(),
        "effective_rank": effective_rank(held),
        "channels": float(act.shape[1]),
        "not_finite": 1 - finite.double().mean().item(),
    }


def effective_rank(act: Tensor) -> float:
    """Effective rank:  exp( -sum_i p_i log p_i ),  p_i = s_i / sum_j s_j, s the singular values.

    act (n, c, t, h, w), read as a matrix of n*t*h*w positions by c channels -> from 1 to min(positions, c); 0 for zeros.
    Source: Roy and Vetterli 2007, The effective rank, EUSIPCO.
    Differs: the singular values are the roots of the eigenvalues of the smaller Gram matrix, in float64, so that memory does
    not grow with the longer side; those below 1e-7 of the largest count as 0.
    """
    matrix = act.double().movedim(1, -1).flatten(0, -2)
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    values = values[values > 1e-7 * values.max()]
    if not len(values):
        return 0.0
    share = values / values.sum()
    return torch.exp(-(share * share.log()).sum()).item()
