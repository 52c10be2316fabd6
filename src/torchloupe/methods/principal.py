"""The leading principal component of channel vectors, batched, by a Gram matrix and Lanczos."""

from __future__ import annotations

import torch
from torch import Tensor

DENSE = 64
STEPS = 48


def principal(values: Tensor, guide: Tensor, *, center: bool = False) -> Tensor:
    """Projection on the leading right singular vector:  P = M v1, with M (positions x channels).

    values (..., c, t, h, w), guide (..., t, h, w): what the sign follows -> (..., t, h, w).
    center: subtract each channel's mean over positions first.
    The singular vector's sign is arbitrary; it is chosen so that the projection is positively correlated with guide.
    """
    shape = values.shape[-3:]
    rows = values.flatten(-3).double() if values.dtype == torch.float64 else values.flatten(-3).float()
    side = guide.flatten(-3).to(rows.dtype)
    if center:
        rows = rows - rows.mean(-1, keepdim=True)
        side = side - side.mean(-1, keepdim=True)
    if rows.shape[-2] <= rows.shape[-1]:
        vector = leading(rows @ rows.mT)
        found = (vector[..., None, :] @ rows)[..., 0, :]
    else:
        vector = leading(rows.mT @ rows)
        norm = (rows @ vector[..., None]).norm(dim=-2)
        found = vector * norm
    sign = torch.where((found * side).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(found.dtype)
    return (found * sign).unflatten(-1, shape)


def leading(gram: Tensor) -> Tensor:
    """Eigenvector of the largest eigenvalue of positive semi-definite matrices: (..., d, d) -> (..., d), of length 1.

    Lanczos with full reorthogonalisation from a fixed start; a matrix whose residual stays above 1e-5 of its eigenvalue is
    solved densely instead, as are small ones.
    """
    size = gram.shape[-1]
    flat = gram.reshape(-1, size, size)
    if size <= DENSE:
        return torch.linalg.eigh(flat)[1][..., -1].reshape(gram.shape[:-1])
    scale = flat.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    flat = flat / scale[:, None, None]
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(flat)
    basis = [(start / start.norm()).expand(len(flat), size)]
    image = flat.new_empty(len(flat), STEPS, size)
    for step in range(STEPS):
        image[:, step] = (flat @ basis[-1][..., None])[..., 0]
        done = torch.stack(basis, 1)
        rest = image[:, step]
        for _ in range(2):
            rest = rest - ((done @ rest[..., None])[..., 0][:, None] @ done)[:, 0]
        norm = rest.norm(dim=-1, keepdim=True)
        basis.append(torch.where(norm > 1e-6, rest / norm.clamp_min(1e-30), torch.zeros_like(rest)))
    space = torch.stack(basis[:STEPS], 1)
    inner = space @ image.mT
    value, turn = torch.linalg.eigh((inner + inner.mT) / 2)
    vector = (turn[..., -1][:, None] @ space)[:, 0]
    vector = vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    left = ((flat @ vector[..., None])[..., 0] - value[..., -1:] * vector).norm(dim=-1)
    for i in (left > 1e-5 * value[..., -1].clamp_min(1e-30)).nonzero().flatten().tolist():
        vector[i] = torch.linalg.eigh(flat[i])[1][..., -1]
    return vector.reshape(gram.shape[:-1])
