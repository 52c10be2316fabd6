"""Indices of pose attribution against plain loops, and what they must be in the limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchloupe.methods import indices, joints

N, J, H, W = 2, 3, 9, 7


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.rand(N, J, H, W, generator=torch.Generator().manual_seed(0)) ** 3


@pytest.fixture
def heatmaps() -> torch.Tensor:
    return torch.rand(N, J, H, W, generator=torch.Generator().manual_seed(1)) ** 8


@pytest.fixture
def mask() -> torch.Tensor:
    made = torch.zeros(N, H, W)
    made[0, 2:4, 3:5] = 1
    made[1, 0, 0] = 1
    return made


def naive_di(values: np.ndarray) -> float:
    top = max(abs(v) for v in values.ravel())
    v = sorted(abs(value) / top + 1e-7 for value in values.ravel())
    m = len(v)
    return 100 * (1 - sum((2 * i - m - 1) * v[i - 1] for i in range(1, m + 1)) / (m * sum(v)))


def naive_share(values: np.ndarray, region: np.ndarray) -> float:
    total = sum(abs(v) for v in values.ravel())
    on = area = 0.0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            on += abs(values[row, column]) / total * region[row, column]
            area += region[row, column]
    return on * values.size / area


def naive_wide(region: np.ndarray) -> np.ndarray:
    made = np.zeros_like(region)
    for row in range(region.shape[0]):
        for column in range(region.shape[1]):
            made[row, column] = region[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].max()
    return made


def test_indices_are_the_naive_loops(maps: torch.Tensor, heatmaps: torch.Tensor, mask: torch.Tensor) -> None:
    di, fi = indices.diffusion(maps), indices.foreground(maps, mask)
    li, ri = indices.locality(maps, heatmaps), indices.relation(maps, heatmaps)
    m, h, k = (t.double().numpy() for t in (maps, heatmaps, mask))
    for n in range(N):
        for a in range(J):
            assert float(di[n, a]) == pytest.approx(naive_di(m[n, a]), abs=1e-9)
            assert float(fi[n, a]) == pytest.approx(naive_share(m[n, a], naive_wide(k[n])), rel=1e-9)
            assert float(li[n, a]) == pytest.approx(naive_share(m[n, a], h[n, a]), rel=1e-9)
            for b in range(J):
                assert float(ri[n, a, b]) == pytest.approx(naive_share(m[n, a], h[n, b]), rel=1e-9)


def test_uniform_and_single_pixel_maps(heatmaps: torch.Tensor, mask: torch.Tensor) -> None:
    uniform = torch.full((N, J, H, W), 0.3)
    assert torch.allclose(indices.diffusion(uniform), torch.tensor(100.0).double())
    assert torch.allclose(indices.foreground(uniform, mask), torch.tensor(1.0).double())
    assert torch.allclose(indices.locality(uniform, heatmaps), torch.tensor(1.0).double())
    single = torch.zeros(1, 1, 256, 192)
    single[..., 100, 50] = 2.0
    assert float(indices.diffusion(single)) == pytest.approx(0.0, abs=0.5)


def test_small_heatmaps_are_enlarged(maps: torch.Tensor) -> None:
    small = torch.rand(N, J, 3, 2, generator=torch.Generator().manual_seed(2))
    wide = torch.nn.functional.interpolate(small.double(), (H, W), mode="bilinear", align_corners=False)
    assert torch.allclose(indices.locality(maps, small), indices.locality(maps, wide))


def test_a_map_of_zeros_and_an_unknown_mask_have_no_index(maps: torch.Tensor, heatmaps: torch.Tensor) -> None:
    empty = maps.clone()
    empty[0, 1] = 0
    empty[1, 2, 0, 0] = float("nan")
    for made in (indices.diffusion(empty), indices.locality(empty, heatmaps)):
        assert made.isnan().nonzero().tolist() == [[0, 1], [1, 2]]
    assert indices.foreground(maps, torch.full((N, H, W), float("nan"))).isnan().all()
    assert indices.foreground(maps, torch.zeros(N, H, W)).isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_indices_do_not_depend_on_scale_or_sign(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, 2, 5, 6, generator=generator, dtype=torch.float64)
    heatmaps = torch.rand(1, 2, 5, 6, generator=generator, dtype=torch.float64)
    assert torch.allclose(indices.diffusion(maps), indices.diffusion(-scale * maps))
    assert torch.allclose(indices.relation(maps, heatmaps), indices.relation(-scale * maps, 3 * heatmaps))
    assert ((indices.diffusion(maps) > 0) & (indices.diffusion(maps) <= 100)).all()


def test_end_point_error() -> None:
    predicted, true = torch.tensor([[[3.0, 4.0], [1.0, 1.0]]]), torch.zeros(1, 2, 2)
    made = indices.end_point_error(predicted, true, torch.tensor([[1.0, 0.0]]))
    assert made[0, 0] == 5
    assert made[0, 1].isnan()


def test_inversions_are_the_naive_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    predicted, true = (40 * torch.rand(20, 6, 2, generator=generator) for _ in range(2))
    weight = (torch.rand(20, 6, generator=generator) > 0.3).float()
    made = joints.inversions(predicted, true, weight)
    count = swaps = 0
    for n in range(20):
        for a in range(6):
            for b in range(6):
                if a == b or weight[n, a] == 0 or weight[n, b] == 0:
                    assert not made.taken[n, a, b]
                    continue
                own = math.dist(predicted[n, a].tolist(), true[n, a].tolist())
                other = math.dist(predicted[n, a].tolist(), true[n, b].tolist())
                taken = own > 10 and other < 10
                back_own = math.dist(predicted[n, b].tolist(), true[n, b].tolist())
                back = back_own > 10 and math.dist(predicted[n, b].tolist(), true[n, a].tolist()) < 10
                assert bool(made.taken[n, a, b]) == taken
                assert bool(made.swapped[n, a, b]) == (taken and back)
                count, swaps = count + taken, swaps + (taken and back)
    assert count > 10
    assert swaps > 0


def test_relation_of_pairs() -> None:
    ri = torch.arange(9.0).reshape(1, 3, 3)
    taken = torch.zeros(1, 3, 3, dtype=torch.bool)
    taken[0, 0, 1] = True
    made = joints.relation_of_pairs(ri, taken, torch.tensor([[1.0, 1.0, 1.0]]))
    assert made == (1.0, (2 + 3 + 5 + 6 + 7) / 5, 1, 5)
    made = joints.relation_of_pairs(ri, taken, torch.tensor([[1.0, 0.0, 1.0]]))
    assert math.isnan(made.inverted)
    assert made[1:] == ((2 + 6) / 2, 0, 2)


def test_ranks_share_ties() -> None:
    made = indices.ranked(torch.tensor([[0.0, 5.0], [5.0, -9.0]]))
    assert made.tolist() == [[0.0, 0.5], [0.5, 1.0]]


def test_dependency_is_the_naive_loop(maps: torch.Tensor) -> None:
    x = torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weight = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])

    def predict(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0, :3, 0] * 5, x[:, 1, 0, :3] ** 2], -1)

    made = indices.dependency(predict, x, maps, weight)
    for n in range(N):
        for b in range(J):
            order = sorted(maps[n, b].flatten().tolist())
            masked = x[n].clone()
            for c in range(3):
                for row in range(H):
                    for column in range(W):
                        r = order.index(float(maps[n, b, row, column])) / (H * W - 1)
                        masked[c, row, column] = x[n, c, row, column] * (1 - r) + x[n, c].mean() * r
            shift = (predict(masked[None]) - predict(x[n : n + 1])).norm(dim=-1)[0]
            for a in range(J):
                seen = weight[n, a] > 0 and weight[n, b] > 0
                assert bool(made[n, a, b].isnan()) != bool(seen)
                if seen:
                    assert float(made[n, a, b]) == pytest.approx(float(shift[a]), abs=1e-9)


def test_bootstrap_covers_the_mean_and_is_repeatable() -> None:
    values = torch.randn(200, 3, generator=torch.Generator().manual_seed(5)) + 2
    values[0] = float("nan")
    made = joints.bootstrap(values, seed=1)
    assert made == joints.bootstrap(values, seed=1)
    assert made.count == 597
    assert made.mean == pytest.approx(float(values[1:].double().mean()))
    assert made.low < made.mean < made.high
    # the width of the interval is that of the normal approximation: 2 * 1.96 / sqrt(597)
    assert made.high - made.low == pytest.approx(2 * 1.96 / 597**0.5, rel=0.2)
    assert joints.bootstrap(torch.full((3,), float("nan"))).count == 0
