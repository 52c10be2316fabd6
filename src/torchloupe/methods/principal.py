"""The leading principal component of channel vectors, batched, by a Gram matrix and Lanczos."""

from __future__ import annotations

import torch
from torch import Tensor

DENSE = 64
STEPS = 64
CHECK = 8


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

    Lanczos with full reorthogonalisation from a fixed start, until every residual is below 4e-6 (float64: 1e-11) of its
    eigenvalue; a matrix that does not get there is solved densely, as are small ones.
    """
    size, tolerance = gram.shape[-1], 1e-11 if gram.dtype == torch.float64 else 4e-6
    flat = gram.reshape(-1, size, size)
    if size <= DENSE:
        return torch.linalg.eigh(flat)[1][..., -1].reshape(gram.shape[:-1])
    scale = flat.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(torch.finfo(gram.dtype).tiny)
    flat = flat / scale[:, None, None]
    start = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(flat)
    basis = flat.new_zeros(len(flat), STEPS + 1, size)
    image = flat.new_zeros(len(flat), STEPS, size)
    basis[:, 0] = start / start.norm()
    for step in range(STEPS):
        rest = image[:, step] = torch.bmm(flat, basis[:, step, :, None])[..., 0]
        done = basis[:, : step + 1]
        for _ in range(2):
            rest = rest - torch.bmm(torch.bmm(done, rest[..., None]).mT, done)[:, 0]
        norm = rest.norm(dim=-1, keepdim=True)
        basis[:, step + 1] = torch.where(norm > 1e-7, rest / norm.clamp_min(1e-30), 0)
        if step % CHECK == CHECK - 1:
            vector, value, left = _ritz(done, image[:, : step + 1])
            if (left <= tolerance * value).all():
                break
    for i in (left > tolerance * value).nonzero().flatten().tolist():
        vector[i] = torch.linalg.eigh(flat[i])[1][..., -1]
    return vector.reshape(gram.shape[:-1])


def _ritz(basis: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best eigenvector in the span of basis (n, m, d), given its image: the vector, its value, its residual."""
    inner = torch.bmm(basis, image.mT)
    value, turn = torch.linalg.eigh((inner + inner.mT) / 2)
    best, top = turn[..., -1:].mT, value[..., -1]
    vector, moved = torch.bmm(best, basis)[:, 0], torch.bmm(best, image)[:, 0]
    return vector, top, (moved - top[:, None] * vector).norm(dim=-1)
