"""Cells of a picture: what is ranked, taken away and put back as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchloupe.axes import Size, resize
from torchloupe.errors import BadInput
from torchloupe.metrics.marks import Heat

SAME = 1e-12


@dataclass(frozen=True)
class Cells:
    """A grid over the input: axes along which things are told apart, and cells a side along rows and columns.

    size: (t, h, w) of the input. over: the axes that are told apart, letters out of t h w; a frame is one cell over "t", a pixel
    through all frames is one over "hw". grid: cells along rows and along columns, 0 = one a pixel (as are more
    cells than pixels); they are as equal as whole pixels allow.
    """

    size: Size
    over: str = "thw"
    grid: int = 0

    def __post_init__(self) -> None:
        if not self.over or not set(self.over) <= set("thw") or len(set(self.over)) < len(self.over):
            raise BadInput(f"over is {self.over!r}; expected letters out of t h w, such as 'thw', 't' or 'hw'")
        if self.grid < 0:
            raise BadInput(f"grid is {self.grid}; expected 0 (a cell a pixel) or more cells a side")
        if self.count < 2:
            raise BadInput(
                f"over is {self.over!r} on an input of {self.size} (t, h, w): there is one cell, nothing to rank"
            )

    @property
    def shape(self) -> Size:
        """(t, h, w) in cells."""
        t, h, w = (length if axis in self.over else 1 for axis, length in zip("thw", self.size, strict=True))
        return (t, min(h, self.grid), min(w, self.grid)) if self.grid else (t, h, w)

    @property
    def count(self) -> int:
        """How many cells there are."""
        t, h, w = self.shape
        return t * h * w

    def means(self, values: Tensor) -> Tensor:
        """Maps (k, n, t, h, w) of any size -> mean in each cell (k, n, cells), float64."""
        if tuple(values.shape[-3:]) == self.shape:
            return values.double().flatten(2)
        return self.sums(values) / self.sides().flatten().to(values.device)

    def sums(self, values: Tensor) -> Tensor:
        """As `means`, the sum of the map, resized to the input, in each cell."""
        fine = resize(values.double(), self.size).flatten(2)
        found = fine.new_zeros(*fine.shape[:2], self.count)
        return found.index_add_(2, self.owner().flatten().to(fine.device), fine)

    def sides(self) -> Tensor:
        """Pixels in each cell, (t, h, w) in cells."""
        return self.owner().flatten().bincount(minlength=self.count).double().view(self.shape)

    def owner(self) -> Tensor:
        """(t, h, w) of the input: the number of the cell of each pixel."""
        index = [torch.arange(length) * cells // length for length, cells in zip(self.size, self.shape, strict=True)]
        _, h, w = self.shape
        return (index[0][:, None, None] * h + index[1][:, None]) * w + index[2]

    def spread(self, cells: Tensor) -> Tensor:
        """One value a cell (cells,) -> (t, h, w) of the input."""
        return cells.view(self.shape) if self.shape == tuple(self.size) else cells[self.owner()]

    def ranks(self, heats: Mapping[str, Heat], seed: int) -> dict[str, Tensor]:
        """Map -> rank of each cell (k, n, cells), 0 = the most important; ties in one random order, the same for all maps."""
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        found = {}
        for name, heat in heats.items():
            values = self.means(heat.values).cpu()
            best = order[values[..., order].argsort(dim=-1, descending=True, stable=True)]
            found[name] = torch.empty_like(best).scatter_(-1, best, torch.arange(self.count).expand_as(best))
        return found


def blank(heat: Heat) -> Tensor:
    """(k, n) bool: maps that are the same everywhere, which rank nothing."""
    flat = heat.values.flatten(2)
    return (flat.amax(2) == flat.amin(2)).cpu()


def unranked(heat: Heat, cells: Cells) -> Tensor:
    """(k, n) bool: maps whose cells are all the same, such as one that has no time over frames; they rank nothing."""
    values = cells.means(heat.values)
    low, high = values.amin(2), values.amax(2)
    return (high - low <= SAME * torch.maximum(low.abs(), high.abs())).cpu()


def steps_of(cells: Cells, steps: int, step: int) -> list[int]:
    """How many cells are taken away at each point of a curve, from 0 to all.

    steps: that many, as equal as whole cells allow; step: cells a step in their place, 0 = by steps.
    Errors: BadInput for a step that does not divide the picture, with those that do.
    """
    if step:
        if step < 0 or cells.count % step:
            known = [s for s in range(1, cells.count + 1) if cells.count % s == 0 and cells.count // s <= 1000]
            near = sorted(sorted(known, key=lambda s: abs(s - step))[:4])
            raise BadInput(f"step {step} does not divide the picture's {cells.count} cells; nearest that do: {near}")
        return list(range(0, cells.count + 1, step))
    if not 1 <= steps <= cells.count:
        raise BadInput(f"steps is {steps}; expected 1 to the picture's {cells.count} cells")
    return [round(i * cells.count / steps) for i in range(steps + 1)]


def kept(cells: Cells, ranks: Mapping[str, Tensor], counts: Sequence[int], most: bool) -> Iterator[tuple[int, Tensor]]:
    """Masks of every map, question, sample and count, in this order: without its most (or least) important so many cells."""
    for found in ranks.values():
        for row in found:
            for sample, rank in enumerate(row):
                place = cells.spread(rank)
                for count in counts:
                    yield sample, (place >= count) if most else (place < cells.count - count)


def gone_at(cells: Cells, ranks: Tensor, counts: Sequence[int], most: bool) -> Tensor:
    """The first of the points at which each cell is gone, their number where it stays: ranks (k, n, cells) -> (k, n, t, h, w).

    counts: cells taken away at each point, rising; most: the most important first. Whole numbers, of a byte where that holds them.
    """
    first = ranks if most else cells.count - 1 - ranks
    found = torch.searchsorted(torch.tensor(counts), first.contiguous(), right=True)
    return found.view(*ranks.shape[:2], *cells.shape).to(torch.uint8 if len(counts) < 256 else torch.int16)
