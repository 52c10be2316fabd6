"""How far the features of two networks, or of one network on two pictures, lie apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchloupe.axes import C, resize
from torchloupe.errors import BadInput, nearest
from torchloupe.methods.features import squeeze_mean

FEWEST = 4


def absolute(a: Tensor, b: Tensor) -> Tensor:
    """Absolute difference:  D = |A - B|.

    a, b (n, c, t, h, w) -> (n, c, t, h, w), >= 0.
    """
    return (a - b).abs()


def relative(a: Tensor, b: Tensor) -> Tensor:
    """Relative difference:  D = |A - B| / max(|A|, |B|), and 0 where both are 0.

    a, b (n, c, t, h, w) -> (n, c, t, h, w), in [0, 2]: 1 where one is 0, 2 where they are opposite.
    """
    largest = torch.maximum(a.abs(), b.abs())
    return torch.where(largest > 0, (a - b).abs() / torch.where(largest > 0, largest, 1), 0)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine distance at each position:  D_p = 1 - <A_p, B_p> / (|A_p| |B_p|), over channels.

    a, b (n, c, t, h, w) -> (n, 1, t, h, w), in [0, 2]. 0 where both vectors are zero, 1 where one is.
    """
    longest = [one.abs().amax(C, keepdim=True) for one in (a, b)]
    unit = [
        torch.where(top > 0, one / torch.where(top > 0, top, 1), 0) for one, top in zip((a, b), longest, strict=True)
    ]
    lengths = [one.norm(dim=C, keepdim=True) for one in unit]
    one, other = (part / torch.where(length > 0, length, 1) for part, length in zip(unit, lengths, strict=True))
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    return torch.where(both_zero, 0, 1 - (one * other).sum(C, keepdim=True).clamp(-1, 1))


DIFFERENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "absolute": absolute,
    "relative": relative,
    "cosine": cosine,
}


def difference(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A difference by name. Errors: BadInput that offers the nearest name."""
    if name not in DIFFERENCES:
        raise BadInput(f"difference {name!r}: expected one of {', '.join(DIFFERENCES)}.{nearest(name, DIFFERENCES)}")
    return DIFFERENCES[name]


def matched(
    a: Tensor, b: Tensor, reduce: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Two feature maps made comparable, and notes of what was done to them.

    a, b (n, c, t, h, w). Sizes that differ: the smaller map is resized to the larger one (more positions). Channel counts
    that differ: the reductions are compared (reduce, else the mean over channels).
    Errors: BadInput for different numbers of samples.
    """
    if a.shape[0] != b.shape[0]:
        raise BadInput(f"{a.shape[0]} samples against {b.shape[0]}; both networks must see the same pictures")
    notes = []
    if a.shape[1] != b.shape[1]:
        reduce = reduce or squeeze_mean
        notes.append(f"{a.shape[1]} and {b.shape[1]} channels: {reduce.__name__} of each")
        a, b = reduce(a), reduce(b)
    if a.shape[2:] != b.shape[2:]:
        larger = max((a.shape[2:], b.shape[2:]), key=lambda size: size.numel())
        notes.append(f"{_size(a)} and {_size(b)} resized to {'x'.join(map(str, larger[-2:]))}")
        a, b = (resize(one, tuple(larger)) for one in (a, b))  # type: ignore[arg-type]
    return a, b, tuple(notes)


def _size(act: Tensor) -> str:
    return "x".join(map(str, act.shape[-2:]))


def hsic(k: Tensor, el: Tensor) -> Tensor:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion:
    [ tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 1'K L 1 / (n-2) ] / (n (n-3)),  the diagonals of K and L set to 0.

    k (a, n, n), el (b, n, n) with zero diagonals -> (a, b); n >= 4.
    Source: Song et al. 2012, Feature Selection via Dependence Maximization, JMLR 13, eq. 4.
    """
    n = k.shape[-1]
    rows, others = k.sum(-1), el.sum(-1)
    trace = torch.einsum("aij,bij->ab", k, el)
    total = rows.sum(-1)[:, None] * others.sum(-1)[None] / ((n - 1) * (n - 2))
    crossed = 2 * rows @ others.T / (n - 2)
    return (trace + total - crossed) / (n * (n - 3))


@dataclass
class CKA:
    """Linear CKA of every layer of one network with every layer of another, batch after batch:
    CKA = sum_i HSIC(K_i, L_i) / sqrt( sum_i HSIC(K_i, K_i) * sum_i HSIC(L_i, L_i) ),  K = X X', L = Y Y'.

    Memory: one Gram matrix of a batch a layer, and three small sums. Values reach 1 (the same up to rotation and scale); the
    estimate has no bias, so values about 0 may fall below it.
    Source: Kornblith et al. 2019, arXiv:1905.00414; in minibatches: Nguyen et al. 2021, arXiv:2010.15327, eq. 4.
    Differs: batches may have different sizes; each counts with its number of samples.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    crossed: Tensor = field(init=False)
    own_rows: Tensor = field(init=False)
    own_columns: Tensor = field(init=False)
    samples: int = 0

    def __post_init__(self) -> None:
        self.crossed = torch.zeros(len(self.rows), len(self.columns), dtype=torch.float64)
        self.own_rows = torch.zeros(len(self.rows), dtype=torch.float64)
        self.own_columns = torch.zeros(len(self.columns), dtype=torch.float64)

    def add(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
        """One batch: label -> features (n, ...), for both networks.

        Errors: BadInput for fewer than 4 samples, or where a tensor's first axis is not the samples.
        """
        k = torch.stack([gram(a[label], label) for label in self.rows])
        el = torch.stack([gram(b[label], label) for label in self.columns])
        if k.shape[-1] != el.shape[-1]:
            raise BadInput(f"CKA compares the same pictures; got {k.shape[-1]} and {el.shape[-1]} samples")
        n = k.shape[-1]
        if n < FEWEST:
            raise BadInput(f"CKA needs at least {FEWEST} pictures in a batch; got {n}")
        self.samples += n
        self.crossed += n * hsic(k, el)
        self.own_rows += n * torch.stack([hsic(one[None], one[None])[0, 0] for one in k])
        self.own_columns += n * torch.stack([hsic(one[None], one[None])[0, 0] for one in el])

    def value(self) -> Tensor:
        """(rows, columns); NaN where a layer gives every picture the same features."""
        scale = (self.own_rows.clamp_min(0)[:, None] * self.own_columns.clamp_min(0)[None]).sqrt()
        return torch.where(scale > 0, self.crossed / torch.where(scale > 0, scale, 1), float("nan"))


def gram(features: Tensor, label: str = "") -> Tensor:
    """X X' of features (n, ...) -> (n, n) in float64, the diagonal set to 0.

    Features are centred over the batch first, which changes no HSIC and keeps digits.
    """
    if features.ndim < 2:
        raise BadInput(f"point {label!r}: CKA needs features (samples, ...); got shape {tuple(features.shape)}")
    x = features.flatten(1)
    x = x - x.mean(0)
    found = (x @ x.T).double()
    return found.fill_diagonal_(0)


def batches(count: int, size: int) -> Sequence[range]:
    """Numbers 0..count-1 in runs of size; a rest too short for CKA joins the run before it.

    Errors: BadInput for fewer than 4.
    """
    if count < FEWEST or size < FEWEST:
        raise BadInput(
            f"CKA needs at least {FEWEST} pictures, and as many in a batch; got {count} in batches of {size}"
        )
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] < FEWEST:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True)]
