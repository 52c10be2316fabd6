"""What patches of pictures have in common: three principal components as colours, and likeness to one patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchloupe.errors import BadInput

Foreground = Literal["none", "first", "border"]
Procedure = Literal["plain", "dinov2", "dinov3"]
USUAL: Mapping[Procedure, Foreground] = {"plain": "none", "dinov2": "first", "dinov3": "border"}
SHARE = 0.01
SMALL = 1e-12


@dataclass(frozen=True)
class Coloured:
    """colours: a picture (3, t, h, w) in [0, 1] each, 0 where it is background; foreground: (t, h, w) bool each; explained: the
    share of the variance in each of the three components."""

    colours: tuple[Tensor, ...]
    foreground: tuple[Tensor, ...]
    explained: tuple[float, float, float]


def pca_colours(
    acts: Sequence[Tensor], foreground: Foreground | None = None, procedure: Procedure = "plain"
) -> Coloured:
    """The first three principal components of all patches of all pictures together, as red, green and blue:  z = (x - mean) V

    acts: (c, t, h, w) of each picture or film, frames too share the fit. A component's sign is that in which its loading of largest
    magnitude is positive. foreground: the patches that are coloured and fitted again: "first", those whose first component is
    above 0; "border", likewise, where its sign is such that most patches at the border of the pictures are below; "none", all.
    plain: each component from its 1st to its 99th percentile; foreground "none". dinov2: from its least to its greatest value
    over the foreground, foreground "first". dinov3: components of each picture alone, brought to variance 1, colour =
    sigmoid(2 z), foreground "border".
    Errors: BadInput for fewer than 3 channels, or fewer than 4 patches left to fit.
    Source: Oquab et al. 2023, DINOv2, arXiv:2304.07193 (figure 1); Simeoni et al. 2025, DINOv3, arXiv:2508.10104.
    Differs: DINOv3's foreground comes from a classifier trained on masks, here from the first component; singular vectors in float64.
    """
    widths = {len(act) for act in acts}
    if len(widths) != 1 or min(widths) < 3:
        raise BadInput(
            f"pca: features of {', '.join(map(str, sorted(widths)))} channels; expected one number, 3 or more"
        )
    rows = [act.double().flatten(1).T for act in acts]
    kept = _foreground(acts, rows, foreground or USUAL[procedure])
    together = [rows] if procedure != "dinov3" else [[one] for one in rows]
    masks = [kept] if procedure != "dinov3" else [[one] for one in kept]
    colours: list[Tensor] = []
    shares: list[Tensor] = []
    for group, mask in zip(together, masks, strict=True):
        some = torch.cat([one[inside.flatten()] for one, inside in zip(group, mask, strict=True)])
        if len(some) < 4:
            raise BadInput(f"pca: {len(some)} patches are foreground, too few to fit; try --foreground none, or border")
        mean, axes, spread, share = components(some, 3)
        shares.append(share)
        scores = (some - mean) @ axes
        if procedure == "plain":
            low, high = scores.quantile(SHARE, 0), scores.quantile(1 - SHARE, 0)
        else:
            low, high = scores.amin(0), scores.amax(0)
        for one, inside in zip(group, mask, strict=True):
            z = (one - mean) @ axes
            if procedure == "dinov3":
                unit = torch.sigmoid(2 * z / spread.clamp_min(SMALL))
            else:
                unit = ((z - low) / (high - low).clamp_min(SMALL)).clamp(0, 1)
            colours.append((unit.T.unflatten(1, inside.shape) * inside).float())
    explained = torch.stack(shares).mean(0).tolist()
    return Coloured(tuple(colours), tuple(kept), (explained[0], explained[1], explained[2]))


def components(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Principal components of rows (m, c) -> their mean (c), axes (c, count) with their signs fixed, standard deviation along
    each (count), and share of the variance (count); those beyond the rank are 0."""
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(rows) - 1))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    axes = vectors[:, :count] * (values[:count] > 1e-10 * values[0].clamp_min(SMALL))
    axes = axes * _sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    return mean, axes, values[:count].sqrt(), values[:count] / values.sum().clamp_min(SMALL)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1.0, 1.0).to(values)


def _foreground(acts: Sequence[Tensor], rows: Sequence[Tensor], how: Foreground) -> list[Tensor]:
    if how == "none":
        return [torch.ones(act.shape[1:], dtype=torch.bool) for act in acts]
    mean, axes, _, _ = components(torch.cat(list(rows)), 1)
    scores = [((one - mean) @ axes)[:, 0].unflatten(0, act.shape[1:]) for one, act in zip(rows, acts, strict=True)]
    if how == "border":
        votes = torch.cat([_border(score) for score in scores])
        if (votes > 0).double().mean() > 0.5:
            scores = [-score for score in scores]
    return [score > 0 for score in scores]


def _border(score: Tensor) -> Tensor:
    """The values of the patches at the edges of frames (t, h, w)."""
    edge = torch.ones(score.shape[1:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return score[:, edge].flatten()


def patch_likeness(
    acts: Sequence[Tensor], place: tuple[float, float], *, of: int = 0, centred: bool = False
) -> tuple[Tensor, ...]:
    """Cosine of each patch's features to those at one place of one picture:  <x_p, q> / ||x_p|| ||q||

    acts: (c, t, h, w) of each picture. place: (x, y) from 0 to 1 in picture `of`, of its first frame; between the centres of
    patches q is interpolated linearly. centred: the mean over all patches of all pictures is subtracted first.
    -> (1, t, h, w) in [-1, 1] of each picture; 0 where either is 0.
    """
    x, y = place
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise BadInput(f"patch {x:g}, {y:g}: lies outside of the picture")
    held = [act.double() for act in acts]
    if centred:
        mean = torch.cat([act.flatten(1) for act in held], 1).mean(1)
        held = [act - mean[:, None, None, None] for act in held]
    grid = torch.tensor([[[[2 * x - 1, 2 * y - 1]]]], dtype=torch.float64)
    query = torch.nn.functional.grid_sample(
        held[of][:, :1].transpose(0, 1), grid, padding_mode="border", align_corners=False
    ).flatten()
    query = query / query.norm().clamp_min(SMALL)
    return tuple(
        (torch.einsum("cthw,c->thw", act, query) / act.norm(dim=0).clamp_min(SMALL))[None].float() for act in held
    )
