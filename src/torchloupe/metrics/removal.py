"""Faithfulness by taking away in the order of the map: deletion, insertion, symmetric relevance gain, ROAD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchloupe.axes import Size
from torchloupe.errors import BadInput
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import Cells, gone_at, kept, steps_of, unranked
from torchloupe.metrics.fills import Fill
from torchloupe.metrics.marks import Curve, Heat, Marks, Number
from torchloupe.metrics.registry import metric

PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


ASIDE = {"time": "t", "space": "hw"}
"""What is judged beside a sequence as a whole: frames, whatever is in them, and places, through all frames."""


def _points(options: Mapping[str, Any]) -> int:
    if not options["step"]:
        return int(options["steps"]) + 1
    return Cells(options["size"], options["over"], options["grid"]).count // int(options["step"]) + 1


def _apart(size: Size, over: str, grid: int) -> dict[str, Cells]:
    """Name -> cells, of what is judged beside a whole sequence; nothing for a picture, or where one of them was asked for."""
    if over != "thw" or size[0] == 1 or size[1] * size[2] == 1:
        return {}
    return {name: Cells(size, axes, grid) for name, axes in ASIDE.items()}


def _cost(maps: int, n: int, options: Mapping[str, Any]) -> int:
    """Forwards of deletion or insertion."""
    parts = _apart(options["size"], options["over"], options["grid"]).values()
    return maps * n * (_points(options) + sum(min(int(options["steps"]), cells.count) + 1 for cells in parts))


def curve(
    asking: Asking, heats: Mapping[str, Heat], cells: Cells, counts: Sequence[int], fill: Fill, most: bool
) -> Curve:
    """Scores as the most (or least) important cells are taken away, (k, n, counts) of each map; NaN for maps that rank nothing."""
    ranks = cells.ranks(heats, asking.seed)
    found = asking.answers(kept(cells, ranks, counts, most), fill)
    rows = found.double().cpu().view(asking.k, len(heats), asking.k, asking.batch.n, len(counts))
    own = torch.arange(asking.k)
    value = {
        name: rows[own, i, own].masked_fill(unranked(heat, cells)[..., None], float("nan"))
        for i, (name, heat) in enumerate(heats.items())
    }
    taken = {name: gone_at(cells, ranks[name], counts, most) for name in heats}
    return Curve(torch.tensor(counts, dtype=torch.float64) / cells.count, value, taken, str(fill))


def areas(found: Curve) -> dict[str, Tensor]:
    """Area under each curve by trapezoids, over the share of the input taken away."""
    return {name: torch.trapezoid(value, found.at) for name, value in found.value.items()}


@metric(_cost)
def deletion(
    asking: Asking,
    heats: Mapping[str, Heat],
    *,
    steps: int = 20,
    step: int = 0,
    fill: Fill = "zero",
    grid: int = 0,
    over: str = "thw",
) -> Marks:
    """Deletion:  area under  s(x without its m most important cells)  over  m / N,  m from 0 to N

    steps: points of the curve; step: cells a step in their place. fill: what is put in. grid, over: see Cells.
    Numbers: deletion, low is good, in the unit of the score; of a sequence also deletion_time, whole frames by the mean of the map
    in them, and deletion_space, places through all frames, at most so many steps. Curves: the same, by the share taken away.
    Errors: BadInput for a step that does not divide the picture.
    Source: Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421.
    Differs: 20 points in place of one each 224 pixels (step=224 gives them); ties in random order, the same for all maps.
    """
    return _area("deletion", asking, heats, Cells(asking.batch.size, over, grid), (steps, step), fill, most=True)


@metric(_cost)
def insertion(
    asking: Asking,
    heats: Mapping[str, Heat],
    *,
    steps: int = 20,
    step: int = 0,
    fill: Fill = "blur",
    grid: int = 0,
    over: str = "thw",
) -> Marks:
    """Insertion:  area under  s(filling with the m most important cells put back)  over  m / N,  m from 0 to N

    Options as for deletion. Numbers: insertion, high is good; of a sequence also insertion_time and insertion_space. Curves: the same,
    by the share that is still taken away.
    Source: Petsiuk et al. 2018, RISE, BMVC, arXiv:1806.07421.
    Differs: as deletion. The authors' blur (11 taps, sigma 5) is weak: see its score in the curve's last point.
    """
    return _area("insertion", asking, heats, Cells(asking.batch.size, over, grid), (steps, step), fill, most=False)


def _area(
    name: str,
    asking: Asking,
    heats: Mapping[str, Heat],
    cells: Cells,
    points: tuple[int, int],
    fill: Fill,
    *,
    most: bool,
) -> Marks:
    """The area under one curve, whose most important cells go first, or stay longest; of a sequence over time and space too.

    points: steps and step, see `steps_of`.
    """
    curves = {name: curve(asking, heats, cells, steps_of(cells, *points), fill, most)}
    for label, other in _apart(cells.size, cells.over, cells.grid).items():
        counts = steps_of(other, min(points[0], other.count), 0)
        curves[f"{name}_{label}"] = curve(asking, heats, other, counts, fill, most)
    numbers = {label: Number(areas(found), "low" if most else "high") for label, found in curves.items()}
    return Marks(numbers, curves, beyond(asking, fill))


@metric(lambda maps, n, options: 2 * maps * n * _points(options) + options["draws"] * n * _points(options))
def srg(
    asking: Asking,
    heats: Mapping[str, Heat],
    *,
    steps: int = 20,
    step: int = 0,
    fill: Fill = "zero",
    grid: int = 0,
    over: str = "thw",
    draws: int = 1,
) -> Marks:
    """Symmetric relevance gain:  SRG = area(least important first) - area(most important first) = MRG + LRG

    MRG = area(random order) - area(most important first), LRG = area(least important first) - area(random order); draws: random
    orders in the mean. Other options as for deletion.
    Numbers: srg, mrg, lrg, high is good, chance 0. Curves: srg_most, srg_least, srg_random.
    Source: Bluecher et al. 2024, Decoupling pixel flipping and occlusion strategy for consistent XAI benchmarks, TMLR,
    arXiv:2401.06654.
    Differs: cells of a grid in place of superpixels, points at equal distances; steps and fill as deletion, whose masks it shares.
    """
    if draws < 1:
        raise BadInput(f"draws is {draws}; expected 1 or more")
    cells = Cells(asking.batch.size, over, grid)
    counts = steps_of(cells, steps, step)
    first = curve(asking, heats, cells, counts, fill, True)
    last = curve(asking, heats, cells, counts, fill, False)
    n = asking.batch.n
    orders = [
        torch.randperm(cells.count, generator=torch.Generator().manual_seed(asking.seed + 1 + i)) for i in range(draws)
    ]
    ranks = {str(i): order.expand(1, n, -1) for i, order in enumerate(orders)}
    random = asking.answers(kept(cells, ranks, counts, True), fill).double().cpu()
    middle = Curve(first.at, {"": random.view(asking.k, draws, n, len(counts)).mean(1)})
    low, high, mid = areas(first), areas(last), areas(middle)[""]
    zero = torch.zeros((), dtype=torch.float64)
    numbers = {
        "srg": Number({name: high[name] - low[name] for name in heats}, "high", zero),
        "mrg": Number({name: mid - low[name] for name in heats}, "high", zero),
        "lrg": Number({name: high[name] - mid for name in heats}, "high", zero),
    }
    every = Curve(first.at, dict.fromkeys(heats, middle.value[""]))
    return Marks(numbers, {"srg_most": first, "srg_least": last, "srg_random": every}, beyond(asking, fill))


@metric(lambda maps, n, options: 2 * maps * n * len(options["percentiles"]))
def road(
    asking: Asking,
    heats: Mapping[str, Heat],
    *,
    percentiles: Sequence[float] = PERCENTILES,
    fill: Fill = "linear",
    grid: int = 0,
    over: str = "thw",
) -> Marks:
    """ROAD:  mean over percentiles p of  (s(x without its least important p %) - s(x without its most important p %)) / 2

    What is taken away is filled by noisy linear imputation (see fills.imputed). Other options as for deletion.
    Numbers: road, high is good, chance 0; road_morf, the mean score without the most important (low is good); road_lerf,
    without the least important (high is good). Curves: road_morf, road_lerf.
    Errors: BadInput for a percentile that is not between 0 and 100.
    Source: Rong et al. 2022, A consistent and efficient evaluation strategy for attribution methods, ICML,
    arXiv:2202.00449; combined as in pytorch-grad-cam.
    Differs: scores in place of accuracy; exact counts of cells, ties in random order; one noise field for all masks; a picture
    of which nothing is kept gets its mean colour, where the system has no solution.
    """
    shares = (percentiles,) if isinstance(percentiles, (int, float)) else tuple(percentiles)
    if not shares or any(not 0 < p < 100 for p in shares):
        raise BadInput(f"percentiles {shares}: expected numbers above 0 and below 100")
    cells = Cells(asking.batch.size, over, grid)
    counts = [round(p * cells.count / 100) for p in shares]
    first = curve(asking, heats, cells, counts, fill, True)
    last = curve(asking, heats, cells, counts, fill, False)
    low = {name: value.mean(-1) for name, value in first.value.items()}
    high = {name: value.mean(-1) for name, value in last.value.items()}
    numbers = {
        "road": Number(
            {name: (high[name] - low[name]) / 2 for name in heats}, "high", torch.zeros((), dtype=torch.float64)
        ),
        "road_morf": Number(low, "low"),
        "road_lerf": Number(high, "high"),
    }
    return Marks(numbers, {"road_morf": first, "road_lerf": last})


def beyond(asking: Asking, fill: Fill) -> tuple[str, ...]:
    """A line where the wholly filled input scores as high as the input itself: there the masks have left the data."""
    base = asking.filled(fill)
    over = (base >= asking.clean).any(0).nonzero().flatten().tolist()
    if not over:
        return ()
    worst = asking.batch.ids[over[0]]
    return (
        f"fill {fill!r} leaves the data: wholly filled, {len(over)} of {asking.batch.n} samples score as high as they are "
        f"({worst} first); take another fill",
    )
