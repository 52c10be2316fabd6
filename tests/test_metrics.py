"""Metrics of maps: each against plain loops in float64, known answers, the contract, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import ZOO, Case

import torchloupe as loupe
from torchloupe.errors import BadInput
from torchloupe.metrics import fills
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.cells import Cells
from torchloupe.metrics.judge import budget, judge
from torchloupe.metrics.marks import Marks, Number
from torchloupe.metrics.place import placed
from torchloupe.metrics.registry import METRICS, load_all, metric, named
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Classes, Top
from torchloupe.testing import check_metric

D = torch.float64
load_all()
BUILT_IN = sorted(METRICS)
H, W = 6, 5


class Small(nn.Module):
    """A smooth network without symmetry."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * H * W, 3)
        self.to(D)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).flatten(1))


class Linear(nn.Module):
    """s = sum w x, over pixels and channels."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.to(D))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


def made(
    module: nn.Module, x: Tensor, values: Tensor, target: Any = None, signed: bool = True
) -> tuple[Any, Any, Maps]:
    probe = Probe(Subject(module), (loupe.INPUT,), target or Classes((0,)))
    batch = Batch(x.to(D))
    scores, batch = probe.ask(batch)
    return probe, batch, Maps({"input": values.to(D)}, scores, signed=signed)


@pytest.fixture(scope="module")
def small() -> tuple[Probe, Batch, Maps]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, H, W, generator=generator, dtype=D)
    values = torch.randn(2, 2, 1, H, W, generator=generator, dtype=D)
    return made(Small(), x, values, Classes((0, 2)))


def one(probe: Probe, picture: np.ndarray, question: int) -> float:
    """The model asked about one picture (c, h, w)."""
    with torch.no_grad():
        return float(probe.subject.module(torch.from_numpy(picture)[None])[0, (0, 2)[question]])


def falling(values: np.ndarray) -> list[tuple[int, int]]:
    """Pixels of (h, w) from the highest value to the lowest."""
    return sorted(np.ndindex(*values.shape), key=lambda at: -values[at])


def trapezoid(y: list[float], x: list[float]) -> float:
    return sum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(len(y) - 1))


def each(maps: Maps) -> Any:
    for k in range(maps["input"].shape[0]):
        for i in range(maps["input"].shape[1]):
            yield k, i, maps["input"][k, i, 0].numpy()


def blurred(picture: np.ndarray) -> np.ndarray:
    taps = [math.exp(-(d**2) / 50) for d in range(-5, 6)]
    whole = sum(taps) ** 2
    found = np.zeros_like(picture)
    for c, i, j in np.ndindex(*picture.shape):
        for a in range(-5, 6):
            for b in range(-5, 6):
                if 0 <= i + a < H and 0 <= j + b < W:
                    found[c, i, j] += taps[a + 5] * taps[b + 5] / whole * picture[c, i + a, j + b]
    return found


@pytest.mark.parametrize("steps", [1, 4, 7, H * W])
def test_deletion_and_insertion_are_the_plain_loops(small: tuple[Probe, Batch, Maps], steps: int) -> None:
    probe, batch, maps = small
    lost, put = (named(name)(probe, batch, maps, steps=steps) for name in ("deletion", "insertion"))
    for k, i, values in each(maps):
        x = batch.x[i].numpy()
        soft, order = blurred(x), falling(values)
        down, up, at = [], [], []
        for step in range(steps + 1):
            count = round(step * H * W / steps)
            at.append(count / (H * W))
            gone, back = x.copy(), soft.copy()
            for row, column in order[:count]:
                gone[:, row, column] = 0
                back[:, row, column] = x[:, row, column]
            down.append(one(probe, gone, k))
            up.append(one(probe, back, k))
        assert lost["deletion"].value["input"][k, i].item() == pytest.approx(trapezoid(down, at), abs=1e-12)
        assert put["insertion"].value["input"][k, i].item() == pytest.approx(trapezoid(up, at), abs=1e-12)
        assert lost.curves["deletion"].value["input"][k, i].tolist() == pytest.approx(down, abs=1e-12)


def imputed(x: np.ndarray, gone: list[tuple[int, int]]) -> np.ndarray:
    """The linear system of ROAD, dense, one row a missing pixel."""
    number = {at: row for row, at in enumerate(gone)}
    matrix, right = np.zeros((len(gone), len(gone))), np.zeros((len(gone), len(x)))
    for (i, j), row in number.items():
        around = [(i + a, j + b, a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]
        inside = [(p, q, 1 / 12 if a and b else 1 / 6) for p, q, a, b in around if 0 <= p < H and 0 <= q < W]
        matrix[row, row] = sum(weight for _, _, weight in inside)
        for p, q, weight in inside:
            if (p, q) in number:
                matrix[row, number[p, q]] -= weight
            else:
                right[row] += weight * x[:, p, q]
    found = x.copy()
    for at, value in zip(gone, np.linalg.solve(matrix, right), strict=True):
        found[:, at[0], at[1]] = value
    return found


def test_road_is_the_plain_loops(small: tuple[Probe, Batch, Maps], monkeypatch: pytest.MonkeyPatch) -> None:
    probe, batch, maps = small
    monkeypatch.setattr(fills, "NOISE", 0.0)
    monkeypatch.setattr(fills.linear, "__defaults__", (1e-12, 100))
    found = named("road")(probe, batch, maps, percentiles=(20, 50, 90))
    for k, i, values in each(maps):
        x, order = batch.x[i].numpy(), falling(values)
        counts = [round(p * H * W / 100) for p in (20, 50, 90)]
        most = [one(probe, imputed(x, order[:count]), k) for count in counts]
        least = [one(probe, imputed(x, order[-count:]), k) for count in counts]
        wanted = {"road": (sum(least) - sum(most)) / 6, "road_morf": sum(most) / 3, "road_lerf": sum(least) / 3}
        for name, value in wanted.items():
            assert found[name].value["input"][k, i].item() == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("size", [(9, 7), (16, 16), (1, 12)])
def test_linear_imputation_solves_its_system(size: tuple[int, int], share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(3, 2, *size, generator=generator, dtype=D)
    kept = torch.rand(3, 1, *size, generator=generator) > share
    kept[1, 0, 0] = True
    kept[1, 0, 1:] = False
    kept[2] = False
    found = fills.linear(frames, kept, tolerance=1e-11)
    assert torch.equal(found[2], frames[2])
    for b in range(2):
        for i, j in np.ndindex(*size):
            if kept[b, 0, i, j]:
                assert torch.equal(found[b, :, i, j], frames[b, :, i, j])
                continue
            total, weights = torch.zeros(2, dtype=D), 0.0
            for p, q in np.ndindex(3, 3):
                if (p, q) != (1, 1) and 0 <= i + p - 1 < size[0] and 0 <= j + q - 1 < size[1]:
                    weight = 1 / 6 if 1 in (p, q) else 1 / 12
                    total, weights = total + weight * found[b, :, i + p - 1, j + q - 1], weights + weight
            assert (total / weights - found[b, :, i, j]).abs().max() < 1e-8 or not kept[b].any()


def test_srg_is_the_area_between_its_curves(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    found = named("srg")(probe, batch, maps, steps=5, draws=2)
    random = [torch.randperm(H * W, generator=torch.Generator().manual_seed(1 + d)).tolist() for d in range(2)]
    for k, i, values in each(maps):
        x, order = batch.x[i].numpy(), falling(values)
        ranked = [[at for _, at in sorted(zip(ranks, np.ndindex(H, W), strict=True))] for ranks in random]
        areas = []
        for way in (order, order[::-1], *ranked):
            y = []
            for count in (0, 6, 12, 18, 24, 30):
                gone = x.copy()
                for row, column in way[:count]:
                    gone[:, row, column] = 0
                y.append(one(probe, gone, k))
            areas.append(trapezoid(y, [0, 0.2, 0.4, 0.6, 0.8, 1]))
        middle = (areas[2] + areas[3]) / 2
        for name, value in (("srg", areas[1] - areas[0]), ("mrg", middle - areas[0]), ("lrg", areas[1] - middle)):
            assert found[name].value["input"][k, i].item() == pytest.approx(value, abs=1e-12), name


def test_average_drop_is_the_plain_loops(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    found = named("average_drop")(probe, batch, maps, asking=Asking(probe, batch, value="softmax"))
    for k, i, values in each(maps):
        x = batch.x[i].numpy()
        share = (values - values.min()) / (values.max() - values.min())
        with torch.no_grad():
            y, o = (
                float(probe.subject.module(torch.from_numpy(p)[None]).softmax(1)[0, (0, 2)[k]]) for p in (x, x * share)
            )
        wanted = {"average_drop": max(0, y - o) / y, "increase": float(o > y), "gain": max(0, o - y) / (1 - y)}
        for name, value in wanted.items():
            assert found[name].value["input"][k, i].item() == pytest.approx(value, abs=1e-12), name


class Catching(Asking):
    """Keeps the masks (h, w) that it is asked about."""

    def __init__(self, probe: Probe, batch: Batch) -> None:
        super().__init__(probe, batch)
        self.caught: list[tuple[int, np.ndarray]] = []

    def answers(self, masks: Any, fill: Any) -> Tensor:
        given = list(masks)
        self.caught += [(sample, mask[0].numpy()) for sample, mask in given]
        return super().answers(iter(given), fill)


def test_responses_are_the_plain_loops(small: tuple[Probe, Batch, Maps]) -> None:
    from scipy import stats

    probe, batch, maps = small
    asked = Catching(probe, batch)
    for name, options in (
        ("infidelity", {"draws": 20}),
        ("faithfulness_correlation", {"draws": 20, "grid": 0}),
        ("monotonicity", {"grid": 3}),
    ):
        asked.caught.clear()
        found = named(name)(probe, batch, maps, asking=asked, **options)
        for k, i, values in each(maps):
            own = [mask for sample, mask in asked.caught if sample == i]
            x = batch.x[i].numpy()
            fell = np.array([one(probe, x, k) - one(probe, x * mask, k) for mask in own])
            told = np.array([sum(values[at] for at in np.ndindex(H, W) if not mask[at]) for mask in own])
            if name == "infidelity":
                assert len(own) == 20
                beta = np.mean(fell * told) / np.mean(told**2)
                loss = np.mean((beta * told - fell) ** 2)
                assert found[name].value["input"][k, i].item() == pytest.approx(loss, abs=1e-12)
                r2 = 1 - loss / np.mean(fell**2)
                assert found["infidelity_r2"].value["input"][k, i].item() == pytest.approx(r2, abs=1e-12)
            elif name == "monotonicity":
                assert len(own) == 9
                assert sum((~mask).sum() for mask in own) == H * W
                wanted = stats.spearmanr(told, fell).statistic
                assert found[name].value["input"][k, i].item() == pytest.approx(wanted, abs=1e-12)
            else:
                assert {int((~mask).sum()) for mask in own} == {6}
                wanted = np.corrcoef(told, fell)[0, 1]
                assert found[name].value["input"][k, i].item() == pytest.approx(wanted, abs=1e-10)


def test_places_are_the_plain_loops(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    truth = torch.zeros(2, 2, 1, H, W, dtype=torch.bool)
    truth[0, 0, 0, 1:3, 1:4] = truth[0, 1, 0, 4:, :2] = truth[1, 0, 0, :, 3] = truth[1, 1, 0, 2, 2] = True
    others = torch.zeros(2, 1, 1, H, W, dtype=torch.bool)
    others[:, :, :, 3:, 2:] = True
    batch = placed(batch, masks=truth, others=others)
    found = judge(probe, batch, maps, ("pointing", "mass", "energy", "iou"), chance=False, tolerance=1).numbers
    kinds: set[str] = set()
    for k, i, values in each(maps):
        inside, rival = truth[i, k, 0].numpy(), others[i, 0, 0].numpy() & ~truth[i, k, 0].numpy()
        top = falling(values)[0]
        grown = {at for at in np.ndindex(H, W) for p, q in np.argwhere(inside) if math.dist(at, (p, q)) <= 1}
        own = rest = whole = scaled = all_scaled = 0.0
        for at in np.ndindex(H, W):
            own += max(0, values[at]) * inside[at]
            rest += max(0, values[at]) * rival[at]
            whole += max(0, values[at])
            scaled += (values[at] - values.min()) * inside[at]
            all_scaled += values[at] - values.min()
        best = max((inside & (values >= c)).sum() / (inside | (values >= c)).sum() for c in values.flatten())
        size = inside.sum()
        wanted = {
            "pointing": float(top in grown),
            "mass": own / whole,
            "rank": sum(inside[at] for at in falling(values)[:size]) / size,
            "energy": scaled / all_scaled,
            "iou": best,
            "mass_against": own / (own + rest),
            "pointing_against": float(
                inside[max(zip(*np.nonzero(inside | rival), strict=True), key=lambda at: values[at])]
            ),
        }
        share = size / (H * W)
        kind = "small" if share < (32 / 224) ** 2 else "medium" if share < (96 / 224) ** 2 else "large"
        kinds.add(kind)
        for name, value in wanted.items():
            assert found[name].value["input"][k, i].item() == pytest.approx(value, abs=1e-12), name
            for one in ("small", "medium", "large"):
                part = found.get(f"{name}_{one}")
                if one == kind:
                    assert part.value["input"][k, i].item() == pytest.approx(value, abs=1e-12), (name, one)
                else:
                    assert part is None or math.isnan(part.value["input"][k, i].item()), (name, one)
        chance = len(grown) / (H * W)
        assert found["pointing"].chance[k, i].item() == pytest.approx(chance)
        assert found["mass"].chance[k, i].item() == pytest.approx(size / (H * W))
        for name in ("mass_against", "pointing_against", f"mass_against_{kind}"):
            assert found[name].chance[k, i].item() == pytest.approx(size / (size + rival.sum()))
    assert kinds == {"medium", "large"}


def test_shapes_are_the_plain_loops(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    found = named("shape")(probe, batch, maps)
    for k, i, values in each(maps):
        mass = np.maximum(values, 0)
        part = (mass / mass.sum()).flatten()
        entropy = -sum(p * math.log(p) for p in part if p > 0) / math.log(H * W)
        gini = sum(abs(a - b) for a in part for b in part) / (2 * len(part))
        held, count = 0.0, 0
        for p in sorted(part, reverse=True):
            if held >= 0.5:
                break
            held, count = held + p, count + 1
        wanted = {
            "entropy": entropy,
            "gini": gini,
            "half_area": count / (H * W),
            "centre_row": sum(mass[at] * (at[0] + 0.5) / H for at in np.ndindex(H, W)) / mass.sum(),
            "centre_column": sum(mass[at] * (at[1] + 0.5) / W for at in np.ndindex(H, W)) / mass.sum(),
        }
        for name, value in wanted.items():
            assert found[name].value["input"][k, i].item() == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(
    "case",
    [c for c in ZOO if c.name in ("in-place", "frames", "video", "heatmaps", "two inputs")],
    ids=lambda c: c.name,
)
def test_contract(name: str, case: Case) -> None:
    probe, batch = case.probe(), case.batch()
    layer = probe.layers[-1]
    probe = probe.at(layer)
    maps = loupe.layercam(probe, batch)
    noise = torch.rand(maps[layer].shape, generator=torch.Generator().manual_seed(5), dtype=D)
    maps = replace(maps, maps={layer: noise}, signed=name == "completeness")
    few: dict[str, Any] = {"road": {"percentiles": (30, 70)}, "infidelity": {"draws": 5}}
    few |= {"faithfulness_correlation": {"draws": 6, "grid": 3}, "monotonicity": {"grid": 3}}
    few |= {key: {"steps": 3} for key in ("deletion", "insertion", "srg")}
    fn = METRICS[name]

    def asked(probe: Probe, batch: Batch, maps: Maps, **more: Any) -> Marks:
        t, h, w = batch.size
        own = torch.zeros(batch.n, t, h, w, dtype=torch.bool)
        own[:, :, h // 4 : h // 2, w // 4 : w // 2 + 1] = True
        batch = placed(batch, masks=own)
        if "asking" in more:
            more["asking"] = Asking(probe, batch, chunk=more["asking"].chunk)
        return fn(probe, batch, maps, **few.get(name, {}), **more)

    check_metric(asked, probe, batch, maps)


def test_a_linear_model_is_known_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(4)
    weight, x = (torch.randn(3, H, W, generator=generator, dtype=D) for _ in range(2))
    share = (weight * x).sum(0)
    probe, batch, maps = made(Linear(weight), x[None], share[None, None, None])
    found = judge(
        probe,
        batch,
        maps,
        ("deletion", "faithfulness_correlation", "monotonicity", "infidelity", "completeness"),
        steps=H * W,
        chance=False,
    )
    falls = share.flatten().sort(descending=True).values.cumsum(0)
    curve = torch.cat([torch.zeros(1, dtype=D), falls])
    curve = share.sum() - curve
    wanted = (curve.sum() - curve[0] / 2 - curve[-1] / 2) / (H * W)
    assert found["deletion"].value["input"].item() == pytest.approx(wanted.item(), abs=1e-12)
    for name in ("faithfulness_correlation", "monotonicity", "infidelity_r2"):
        assert found[name].value["input"].item() == pytest.approx(1, abs=1e-12), name
    assert found["completeness"].value["input"].item() == pytest.approx(0, abs=1e-12)
    assert found["infidelity"].value["input"].item() == pytest.approx(0, abs=1e-20)
    turned = replace(maps, maps={"input": -maps["input"]})
    for name in ("faithfulness_correlation", "monotonicity"):
        assert named(name)(probe, batch, turned)[name].value["input"].item() == pytest.approx(-1, abs=1e-12)
    srg, other = (named("srg")(probe, batch, m)["srg"].value["input"].item() for m in (maps, turned))
    assert srg == pytest.approx(-other, abs=1e-12)
    assert srg > 0


def test_a_network_of_one_pixel_and_a_constant_one() -> None:
    weight = torch.zeros(3, H, W, dtype=D)
    weight[:, 2, 3] = 1
    right, wrong = torch.zeros(2, 1, 1, 1, H, W, dtype=D).unbind(0)
    right[..., 2, 3] = 1
    wrong += torch.arange(1.0, H * W + 1, dtype=D).view(H, W)
    wrong[..., 2, 3] = 0
    probe, batch, maps = made(Linear(weight), torch.ones(1, 3, H, W), right)
    found = judge(
        probe,
        batch,
        {"right": maps, "wrong": replace(maps, maps={"input": wrong})},
        ("deletion", "insertion", "road"),
        steps=H * W,
        fill="zero",
        chance=False,
    )
    gone = found.curves["deletion"].value["right/input"][0, 0]
    assert gone.tolist() == [3.0] + [0.0] * (H * W)
    assert found["deletion"].value["right/input"].item() == pytest.approx(1.5 / (H * W))
    assert found["insertion"].value["right/input"].item() == pytest.approx(3 - 1.5 / (H * W))
    assert found["road"].value["right/input"].item() == pytest.approx(1.5)
    assert found["road"].value["wrong/input"].item() == pytest.approx(-1.5)
    still, batch, maps = made(Linear(torch.zeros(3, H, W)), torch.ones(1, 3, H, W), right)
    fixed = judge(still, batch, maps, ("srg", "road", "monotonicity", "infidelity"), chance=False)
    assert fixed["srg"].value["input"].item() == 0
    assert fixed["road"].value["input"].item() == 0
    assert math.isnan(fixed["monotonicity"].value["input"].item())
    assert math.isnan(fixed["infidelity_r2"].value["input"].item())
    assert any("leaves the data" in line for line in fixed.said)


def test_a_perfect_map_an_inverted_one_and_an_empty_one() -> None:
    truth = torch.zeros(1, H, W, dtype=torch.bool)
    truth[0, 1:3, 1:4] = True
    probe, batch, maps = made(Small(), torch.ones(1, 3, H, W), truth[None, None].double(), signed=False)
    batch = placed(batch, boxes=[[(1, 1, 4, 3)]])
    assert torch.equal(batch.truth["place"][0, 0], truth)
    turned = replace(maps, maps={"input": 1 - maps["input"]})
    dark = replace(maps, maps={"input": 0 * maps["input"]})
    found = judge(
        probe,
        batch,
        {"right": maps, "turned": turned, "dark": dark},
        ("pointing", "mass", "energy", "iou", "shape"),
        tolerance=0,
        chance=False,
    )
    for name in ("pointing", "mass", "rank", "energy", "iou"):
        value = {key: one.item() for key, one in found[name].value.items()}
        assert value["right/input"] == 1, name
        assert value["turned/input"] == (0 if name != "iou" else pytest.approx(6 / 30)), name
        assert math.isnan(value["dark/input"]), name
    assert math.isnan(found["gini"].value["dark/input"].item())
    assert any("empty" in line and "dark/input" in line for line in found.said)


def test_chance_is_what_random_maps_get() -> None:
    generator = torch.Generator().manual_seed(9)
    n, side = 300, 8
    x = torch.rand(n, 3, side, side, generator=generator, dtype=D)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 1)).to(D)
    values = torch.rand(1, n, 1, side, side, generator=generator, dtype=D)
    probe, batch, maps = made(module, x, values, signed=False)
    batch = placed(batch, boxes=[[(1, 2, 4, 5)]] * n)
    found = judge(
        probe,
        batch,
        maps,
        ("pointing", "mass", "srg", "road", "monotonicity", "faithfulness_correlation"),
        tolerance=0,
        steps=4,
        percentiles=(20, 50, 80),
        draws=10,
    )
    for row in found.rows():
        if row.map in ("input", "random 8x8") and not math.isnan(row.chance):
            error = (row.high - row.low) / 3.92
            assert abs(row.mean - row.chance) < 4 * error, row
    assert {row.number for row in found.rows() if not math.isnan(row.chance)} == {
        "pointing",
        "pointing_medium",
        "mass",
        "mass_medium",
        "rank",
        "rank_medium",
        "srg",
        "mrg",
        "lrg",
        "road",
        "monotonicity",
        "faithfulness_correlation",
    }
    assert found.controls == ("random 8x8", "centre", "edges")
    shapes = named("shape")(probe, batch, maps)
    assert shapes["gini"].value["input"].mean().item() == pytest.approx(1 / 3, abs=0.02)
    assert shapes["half_area"].value["input"].mean().item() == pytest.approx(1 - 0.5**0.5, abs=0.02)


def test_masks_are_asked_once_whoever_asks(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    both = {"one": maps, "same": replace(maps)}
    alone = judge(probe, batch, maps, ("deletion",), chance=False, steps=5)
    twice = judge(probe, batch, both, ("deletion", "srg"), chance=False, steps=5)
    # deletion of both methods and the first curve of srg are the same masks; the random order and the ends are shared
    assert alone.forwards == 2 * (2 * 4 + 2)
    assert twice.forwards == alone.forwards + 2 * (2 * 4 + 4)
    told = budget(batch, both, ("deletion", "srg", "shape"), chance=False, steps=5)
    assert told == {"deletion": 48, "srg": 108, "shape": 0, "distance": 4}
    assert budget(batch, maps, ("deletion",), chance=False, step=6) == {"deletion": 24, "distance": 4}


def test_forwards_stay_within_the_chunk(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    sizes: list[int] = []
    handle = probe.subject.module.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    try:
        found = judge(probe, batch, maps, ("deletion", "insertion", "road"), chunk=7)
    finally:
        handle.remove()
    assert max(sizes) <= 7
    assert sum(sizes) - found.forwards <= 2  # the clean question


def test_sequences_are_judged_over_time_and_space_as_well() -> None:
    case = next(c for c in ZOO if c.name == "frames")
    probe, batch = case.probe(), case.batch()
    values = torch.rand(2, 2, 9, 16, 12, generator=torch.Generator().manual_seed(2), dtype=D)
    scores = probe.ask(batch)[0]
    both = {"moves": Maps({"x": values}, scores), "still": Maps({"x": values[:, :, :1]}, scores)}
    whole = judge(probe, batch, both, ("deletion", "insertion"), chance=False, steps=12)
    assert list(whole.numbers) == [
        f"{name}{end}" for name in ("deletion", "insertion") for end in ("", "_time", "_space")
    ]
    for name in ("deletion", "insertion"):
        for end, over, steps in (("time", "t", 9), ("space", "hw", 12)):
            alone = judge(probe, batch, both, (name,), chance=False, over=over, steps=steps)
            for key in ("moves/x", "still/x"):
                torch.testing.assert_close(whole[f"{name}_{end}"].value[key], alone[name].value[key], equal_nan=True)
                assert torch.equal(whole.curves[f"{name}_{end}"].taken[key], alone.curves[name].taken[key])
        # a map that has no time ranks no frames
        assert whole[f"{name}_time"].value["still/x"].isnan().all()
        assert not whole[f"{name}_time"].value["moves/x"].isnan().any()
        assert not whole[f"{name}_space"].value["still/x"].isnan().any()
    assert whole.curves["deletion_time"].taken["moves/x"].shape == (2, 2, 9, 1, 1)
    told = budget(batch, both, ("deletion", "insertion"), chance=False, steps=12)
    assert told["deletion"] == 4 * 2 * (13 + 10 + 13)
    assert whole.forwards <= sum(told.values())


def test_over_time_and_over_space() -> None:
    case = next(c for c in ZOO if c.name == "frames")
    probe, batch = case.probe(), case.batch()
    values = torch.rand(2, 2, 9, 16, 12, generator=torch.Generator().manual_seed(2), dtype=D)
    maps = Maps({"x": values}, probe.ask(batch)[0])
    found = named("deletion")(probe, batch, maps, over="t", step=3)
    mean = values.mean((3, 4))
    for k in range(2):
        for i in range(2):
            y = []
            for count in (0, 3, 6, 9):
                x = batch.x[i : i + 1].clone()
                x[:, mean[k, i].argsort(descending=True)[:count]] = 0
                y.append(probe.ask(batch.take([i]).at(x))[0].value[k, 0].item())
            assert found["deletion"].value["x"][k, i].item() == pytest.approx(
                trapezoid(y, [0, 1 / 3, 2 / 3, 1]), abs=1e-12
            )
    cells = Cells((9, 16, 12), "hw", 4)
    assert cells.shape == (1, 4, 4)
    assert cells.sums(values)[0, 0].sum().item() == pytest.approx(values[0, 0].sum().item())
    assert cells.sums(values)[0, 0, 5].item() == pytest.approx(values[0, 0, :, 4:8, 3:6].sum().item())
    assert cells.spread(torch.arange(16))[3, 9, 10].item() == 2 * 4 + 3


def test_share_is_one_when_clean_and_nothing_when_filled(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    found = judge(probe, batch, maps, ("deletion",), value="share", chance=False).curves["deletion"].value["input"]
    assert torch.allclose(found[..., 0], torch.ones(2, 2, dtype=D))
    assert torch.allclose(found[..., -1], torch.zeros(2, 2, dtype=D))
    still, batch, maps = made(Linear(torch.zeros(3, H, W)), torch.ones(1, 3, H, W), torch.rand(1, 1, 1, H, W))
    assert (
        judge(still, batch, maps, ("deletion",), value="share", chance=False)["deletion"].value["input"].isnan().all()
    )


def test_black_is_found_from_the_pictures(small: tuple[Probe, Batch, Maps]) -> None:
    seen = torch.randint(0, 256, (2, 1, H, W, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1)
    x = (seen[:, 0].permute(0, 3, 1, 2) / 255.0 - mean) / std
    for given, wanted in ((x, -mean / std), (x.flip(1), (-mean / std).flip(1))):
        batch = Batch(given, pictures=seen)
        found = fills.background(given[:, :, None], batch, "black")
        assert torch.allclose(found[0, :, 0, 0, 0], wanted[0, :, 0, 0], atol=1e-5)
    with pytest.raises(BadInput, match="no straight line of its pictures"):
        fills.background(x[:, :, None].square(), Batch(x, pictures=seen), "black")
    with pytest.raises(BadInput, match="no colour pictures beside it"):
        fills.background(x[:, :, None], Batch(x), "black")


def test_a_fill_that_leads_far_from_the_data_is_told() -> None:
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=D) * 0.1 + 1
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).to(D)
    probe = Probe(Subject(module), ("0",), Classes((0,)))
    maps = loupe.layercam(probe, Batch(x))
    maps = replace(maps, maps={"0": torch.rand(1, 4, 1, 16, 16, dtype=D)})
    far, near = (judge(probe, Batch(x), maps, ("deletion",), fill=fill, steps=2) for fill in (5.0, "mean"))
    (line,) = [line for line in far.said if "from themselves" in line]
    keep = Cells((1, 16, 16), grid=8).spread(torch.randperm(64, generator=torch.Generator().manual_seed(0)) >= 32)[0]
    inside = lambda given: module[0](given).mean((2, 3))
    gone = inside(torch.where(keep, x, 5.0)) - inside(x)
    apart = [(inside(x)[i] - inside(x)[j]).norm() for i in range(4) for j in range(i)]
    ratio = gone.norm(dim=1).median() / torch.stack(apart).median()
    assert f"inputs are {ratio.item():.1f} times as far from themselves at 0" in line
    assert not any("from themselves" in line for line in near.said)


def test_inpainting_fills_holes_only(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, _ = small
    asking = Asking(probe, batch)
    keep = torch.ones(1, 1, 1, H, W, dtype=torch.bool)
    keep[..., 2:4, 2:4] = False
    found = asking.masked([0], keep, "inpaint")
    flat = torch.full_like(batch.x[:1], 0.25)
    assert torch.equal(found[keep.expand_as(found)], asking.x[:1][keep.expand_as(found)])
    assert not torch.equal(found, asking.x[:1])
    level = Asking(probe, batch.take([0]).at(flat)).masked([0], keep, "inpaint")
    assert torch.allclose(level[:, :, 0], flat, atol=1e-6)


def test_a_metric_of_ones_own(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small

    @metric(lambda maps, n, options: n * options["times"])
    def brightness(asking: Asking, heats: Any, *, times: int = 1) -> Marks:
        value = {name: heat.values.double().mean((2, 3, 4)) * times for name, heat in heats.items()}
        return Marks({"brightness": Number(value, "high")})

    try:
        found = loupe.judge(probe, batch, maps, ("brightness", brightness), times=2, chance=False)
        assert torch.allclose(found["brightness"].value["input"], 2 * maps["input"].mean((2, 3, 4)))
        assert loupe.METRICS["brightness"] is brightness
    finally:
        del METRICS["brightness"]


class Unfrozen:
    """The best class of each output, whatever was best before."""

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        best = output.argmax(1)
        return Scores(output.gather(1, best[:, None]).T, (tuple(str(int(b)) for b in best),))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("deletion", {"step": 7}, r"step 7 does not divide the picture's 30 cells; nearest that do: \[3, 5, 6, 10\]"),
    ("deletion", {"steps": 31}, "steps is 31; expected 1 to the picture's 30 cells"),
    ("deletion", {"steps": 0}, "steps is 0"),
    ("deletion", {"steps": 2.5}, "option steps is 2.5; expected int"),
    ("deletion", {"grid": -1}, "grid is -1; expected 0"),
    ("deletion", {"over": "t"}, "there is one cell, nothing to rank"),
    ("deletion", {"over": "xy"}, "over is 'xy'; expected letters"),
    ("deletion", {"fill": "blurr"}, "no fill 'blurr'. Did you mean blur"),
    ("deletion", {"stepz": 3}, "no option 'stepz' in deletion. Did you mean step"),
    ("delition", {}, "no metric 'delition'. Did you mean deletion"),
    ("road", {"percentiles": (0, 50)}, "percentiles .*expected numbers above 0 and below 100"),
    ("pointing", {}, r"pointing needs to know where things are: the batch has no truth\['place'\]"),
    ("average_drop", {"fill": "linear"}, "kept or not, nothing between"),
    ("infidelity", {"draws": 1}, "expected 2 or more draws"),
    ("faithfulness_correlation", {"share": 1.0}, "a share above 0 and below 1"),
    ("srg", {"draws": 0}, "draws is 0"),
    ("completeness", {"value": "softmax"}, "take 'score'"),
    ("deletion", {"value": "percent"}, "value is 'percent'; expected one of score"),
    ("deletion", {"chunk": 0}, "chunk is 0"),
]


@pytest.mark.parametrize(("name", "options", "said"), REFUSED)
def test_what_is_refused(small: tuple[Probe, Batch, Maps], name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        judge(*small, (name,), **options)


def test_maps_of_something_else_are_refused(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    other = Small()
    nn.init.constant_(other.head.bias, 1.0)
    with pytest.raises(BadInput, match="of another model or other inputs: 0 scored .* and scores .* now"):
        judge(Probe(Subject(other), ("input",), Classes((0, 2))), batch, maps)
    with pytest.raises(BadInput, match="another question: 0 was asked for '2', now for '1'"):
        judge(replace(probe, target=Classes((0, 1))), batch, maps)
    with pytest.raises(BadInput, match="answer 2 questions about 2 samples, the probe asks 2 about 1"):
        judge(probe, batch.take([0]), maps)
    broken = replace(maps, maps={"input": maps["input"] / 0})
    with pytest.raises(BadInput, match="maps 'input' are not finite"):
        judge(probe, batch, broken)
    with pytest.raises(BadInput, match="boxes of 1 samples for 2"):
        placed(batch, boxes=[[(0, 0, 2, 2)]])
    with pytest.raises(BadInput, match="masks of shape"):
        placed(batch, masks=torch.ones(2, 4, 4))
    with pytest.raises(BadInput, match=r"box \(9, 9, 12, 12\) lies outside the input of 5 x 6"):
        placed(batch, boxes=[[(9, 9, 12, 12)], []])
    with pytest.raises(BadInput, match="give masks, boxes or points"):
        placed(batch)


def test_a_question_that_moves_is_refused() -> None:
    probe, batch, maps = made(Small(), torch.randn(4, 3, H, W), torch.rand(1, 4, 1, H, W), Unfrozen())
    with pytest.raises(BadInput, match="the question changed with the input"):
        judge(probe, batch, maps, ("deletion",), steps=20)
    probe, batch, maps = made(Small(), torch.randn(4, 3, H, W), torch.rand(1, 4, 1, H, W), Top(1))
    judge(probe, batch, maps, ("deletion",))


def test_signed_maps_are_said_where_a_metric_takes_part_of_them(small: tuple[Probe, Batch, Maps]) -> None:
    probe, batch, maps = small
    assert any(
        "shape needs unsigned maps; of input it takes their positive part" in line
        for line in judge(probe, batch, maps, ("shape",)).said
    )
    assert not any("unsigned" in line for line in judge(probe, batch, maps, ("deletion",), steps=2).said)
