"""How far masked inputs are from the data, seen from inside the network."""

from __future__ import annotations

import torch
from torch import Tensor

from torchloupe.axes import dims
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import Cells
from torchloupe.metrics.fills import Fill
from torchloupe.probe import INPUT

GRID = 8


def far(asking: Asking) -> list[str]:
    """A line for each fill that was asked for and takes inputs further from themselves than the inputs are from each other.

    Half of 8 x 8 cells, the same at random for all, are filled; the distance is Euclidean between the activations of the probe's
    last layer, averaged over places, and is compared with the median distance of two clean inputs. Nothing is said of one input, or
    of a probe that looks at the input alone.
    """
    layers = [layer for layer in asking.probe.layers if layer != INPUT]
    if asking.batch.n < 2 or not layers or not asking.fills:
        return []
    clean = _inside(asking, layers[-1], asking.x)
    apart = torch.pdist(clean).median()
    cells = Cells(asking.batch.size, grid=GRID)
    order = torch.randperm(cells.count, generator=torch.Generator().manual_seed(asking.seed))
    keep = cells.spread(order >= cells.count // 2).to(asking.x.device)
    found = []
    for fill in asking.fills:
        moved = _inside(asking, layers[-1], asking.x, keep, fill)
        ratio = float((moved - clean).norm(dim=1).median() / apart) if apart > 0 else 0.0
        if ratio > 1:
            found.append(
                f"fill {fill!r} leaves the data: half filled, inputs are {ratio:.1f} times as far from themselves at {layers[-1]} as "
                "two inputs are from each other"
            )
    return found


def _inside(asking: Asking, layer: str, x: Tensor, keep: Tensor | None = None, fill: Fill = "zero") -> Tensor:
    """(n, c): the layer's activations of clean or masked inputs, averaged over places."""
    probe, batch, rows = asking.probe.at(layer), asking.batch, []
    for begin in range(0, batch.n, asking.chunk):
        some = list(range(begin, min(begin + asking.chunk, batch.n)))
        given = x[some] if keep is None else asking.masked(some, keep.expand(len(some), 1, *keep.shape), fill)
        part = batch.take(some)
        seen = probe(part.at(part.layout.raw(given).to(part.x)), grad=False)
        rows.append(seen.act[layer].double().mean(dims("thw")))
        asking.forwards += len(some)
    return torch.cat(rows)
