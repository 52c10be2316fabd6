"""Does the map foretell what the score does? Infidelity, faithfulness correlation, monotonicity, completeness."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.errors import BadInput
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import Cells, blank
from torchloupe.metrics.fills import Fill
from torchloupe.metrics.marks import Heat, Marks, Number
from torchloupe.metrics.registry import metric
from torchloupe.metrics.similar import pearson, ranked


def effects(asking: Asking, masks: list[Tensor], fill: Fill) -> Tensor:
    """How much the score falls under each mask (what is kept, (t, h, w) bool), the same for all samples: (k, n, masks)."""
    n = asking.batch.n
    found = asking.answers(((i, keep) for i in range(n) for keep in masks), fill).double().cpu()
    clean = 1.0 if asking.value == "share" else asking.clean.double().cpu()[..., None]
    return clean - found.view(asking.k, n, len(masks))


@metric(lambda maps, n, options: options["draws"] * n)
def infidelity(
    asking: Asking, heats: Mapping[str, Heat], *, draws: int = 64, most: float = 0.25, fill: Fill = "zero"
) -> Marks:
    """Infidelity:  mean over squares I of  (beta e_I - d_I)^2,  d_I = s(x) - s(x without I),  e_I = sum of the map in I

    beta = mean(d e) / mean(e^2), so that the map's scale does not count. draws: random squares, the same for all samples and
    maps, of a side up to the share `most` of the shorter side, through all frames.
    Numbers: infidelity, low is good, in squares of the score's unit; infidelity_r2 = 1 - infidelity / mean(d^2), high is good,
    0 .. 1, 0 for a map that foretells nothing.
    Source: Yeh et al. 2019, On the (in)fidelity and sensitivity of explanations, NeurIPS, arXiv:1901.09392 (square
    removal, scaled by beta as in the authors' code).
    Differs: a draw of the squares in place of all; the map counts as a contribution, for masks.
    """
    if draws < 2 or not 0 < most <= 1:
        raise BadInput(f"draws {draws}, most {most}: expected 2 or more draws, and a share above 0 up to 1")
    t, h, w = asking.batch.size
    generator = torch.Generator().manual_seed(asking.seed)
    largest = max(1, round(most * min(h, w)))
    draw = lambda top: int(torch.randint(top, (), generator=generator))
    masks = []
    for _ in range(draws):
        side = 1 + draw(largest)
        row, column = draw(h - side + 1), draw(w - side + 1)
        keep = torch.ones(t, h, w, dtype=torch.bool)
        keep[:, row : row + side, column : column + side] = False
        masks.append(keep)
    fell = effects(asking, masks, fill)
    away = (~torch.stack(masks)).double().flatten(1)
    loss, share = {}, {}
    for name, heat in heats.items():
        fine = resize(heat.values.double(), asking.batch.size).flatten(2).cpu()
        told = fine @ away.T
        power = told.square().mean(-1)
        beta = torch.where(power > 0, (fell * told).mean(-1) / torch.where(power > 0, power, 1), 0)
        gone = (heat.values == 0).flatten(2).all(2).cpu()
        loss[name] = (beta[..., None] * told - fell).square().mean(-1).masked_fill(gone, float("nan"))
        whole = fell.square().mean(-1)
        share[name] = (1 - loss[name] / whole).masked_fill(whole == 0, float("nan"))
    zero = torch.zeros((), dtype=torch.float64)
    return Marks({"infidelity": Number(loss, "low"), "infidelity_r2": Number(share, "high", zero)})


@metric(lambda maps, n, options: options["draws"] * n)
def faithfulness_correlation(
    asking: Asking,
    heats: Mapping[str, Heat],
    *,
    draws: int = 100,
    share: float = 0.2,
    grid: int = 8,
    fill: Fill = "zero",
    over: str = "thw",
) -> Marks:
    """Faithfulness correlation:  Pearson over random subsets S of  sum of the map in S  and  s(x) - s(x without S)

    draws: subsets of the share of the cells (at least one), the same for all samples and maps. grid, over: see Cells.
    Numbers: faithfulness_correlation, -1 .. 1, high is good, chance 0. Missing where the score never changes.
    Source: Bhatt et al. 2020, Evaluating and aggregating feature-based model explanations, IJCAI, arXiv:2005.00631.
    Differs: cells of a grid in place of single pixels, whose effect on a score is noise.
    """
    if draws < 3 or not 0 < share < 1:
        raise BadInput(f"draws {draws}, share {share}: expected 3 or more draws, and a share above 0 and below 1")
    cells = Cells(asking.batch.size, over, grid)
    generator = torch.Generator().manual_seed(asking.seed)
    size = min(cells.count - 1, max(1, round(share * cells.count)))
    away = torch.zeros(draws, cells.count, dtype=torch.bool)
    for row in away:
        row[torch.randperm(cells.count, generator=generator)[:size]] = True
    fell = effects(asking, [cells.spread(~row) for row in away], fill)
    value = {}
    for name, heat in heats.items():
        told = cells.sums(heat.values).cpu() @ away.double().T
        value[name] = pearson(told, fell).masked_fill(blank(heat), float("nan"))
    return Marks({"faithfulness_correlation": Number(value, "high", torch.zeros((), dtype=torch.float64))})


@metric(lambda maps, n, options: options["grid"] ** 2 * n)
def monotonicity(
    asking: Asking, heats: Mapping[str, Heat], *, grid: int = 8, fill: Fill = "zero", over: str = "hw"
) -> Marks:
    """Monotonicity:  Spearman over cells of  the sum of the map in a cell  and  s(x) - s(x without the cell)

    One forward a cell, which serves all maps. grid, over: see Cells.
    Numbers: monotonicity, -1 .. 1, high is good, chance 0. Missing where no cell changes the score.
    Source: Nguyen and Martinez 2020, On quantitative aspects of model interpretability, arXiv:2007.07584; Hesse et al.
    2024, Benchmarking the attribution quality of vision models, arXiv:2407.11910 (single deletion).
    Differs: the effect itself, with its sign, in place of its squared relative change; the model is not fine-tuned.
    """
    cells = Cells(asking.batch.size, over, grid)
    alone = torch.eye(cells.count, dtype=torch.bool)
    fell = effects(asking, [cells.spread(~row) for row in alone], fill)
    value = {
        name: pearson(ranked(cells.sums(heat.values).cpu()), ranked(fell)).masked_fill(blank(heat), float("nan"))
        for name, heat in heats.items()
    }
    return Marks({"monotonicity": Number(value, "high", torch.zeros((), dtype=torch.float64))})


@metric(lambda maps, n, options: n)
def completeness(asking: Asking, heats: Mapping[str, Heat], *, fill: Fill = "zero") -> Marks:
    """Completeness residual:  | sum of the map - (s(x) - s(filled)) | / | s(x) - s(filled) |

    Numbers: completeness, 0 .. , low is good, 0 for an exact attribution from that filling; missing for maps that are not
    signed, which promise no sum, and where the score does not differ.
    Source: Sundararajan et al. 2017, Axiomatic attribution for deep networks, ICML, arXiv:1703.01365.
    Errors: BadInput for probabilities and shares, whose difference no map of a score sums to.
    """
    if asking.value != "score":
        raise BadInput(
            f"completeness is about the score that the map explains; value is {asking.value!r}, take 'score'"
        )
    change = (asking.clean - asking.filled(fill)).double().cpu()
    value, loose = {}, []
    for name, heat in heats.items():
        total = heat.values.double().sum((2, 3, 4)).cpu()
        gap = torch.where(change != 0, (total - change).abs() / change.abs(), float("nan"))
        if not heat.signed:
            loose.append(name)
            gap = torch.full_like(gap, float("nan"))
        value[name] = gap.masked_fill((heat.values == 0).flatten(2).all(2).cpu(), float("nan"))
    said = (f"completeness: maps without a sign promise no sum, no number for {', '.join(loose)}",) if loose else ()
    return Marks({"completeness": Number(value, "low")}, said=said)
