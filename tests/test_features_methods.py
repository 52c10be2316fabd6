"""Reductions, statistics, differences and CKA against plain loops in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.methods.difference import CKA, absolute, batches, cosine, difference, matched, relative
from torchloupe.methods.features import (
    effective_rank,
    pixel_wise_max,
    reduction,
    select_max,
    squeeze_mean,
    standardise,
    statistics,
    strongest,
)


def act(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def positions(a: Tensor) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(length) for length in a.shape[2:])))


def test_reductions() -> None:
    a = act(2, 3, 2, 4, 5)
    for n in range(2):
        sums = [sum(a[n, c][p].item() for p in positions(a)) for c in range(3)]
        best = sums.index(max(sums))
        for p in positions(a):
            values = [a[n, c][p].item() for c in range(3)]
            assert pixel_wise_max(a)[n, 0][p].item() == max(values)
            assert squeeze_mean(a)[n, 0][p].item() == pytest.approx(sum(values) / 3)
            assert select_max(a)[n, 0][p].item() == values[best]


def test_strongest_channels_come_first() -> None:
    a = act(3, 6, 1, 3, 3)
    maps, order = strongest(a, 4)
    for n in range(3):
        sums = [sum(a[n, c][p].item() for p in positions(a)) for c in range(6)]
        want = sorted(range(6), key=lambda c: -sums[c])[:4]
        assert order[n].tolist() == want
        assert all(torch.equal(maps[n, i], a[n, c]) for i, c in enumerate(want))
    assert strongest(a, 20)[0].shape[1] == 6


def test_standardise_over_batch_and_space() -> None:
    a = act(2, 3, 1, 4, 5)
    for c in range(3):
        values = [a[n, c][p].item() for n in range(2) for p in positions(a)]
        mean = sum(values) / len(values)
        std = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        for n in range(2):
            for p in positions(a):
                assert standardise(a)[n, c][p].item() == pytest.approx((a[n, c][p].item() - mean) / (std + 1e-6))
    assert (standardise(torch.full((1, 2, 1, 1, 1), 7.0)) == 0).all()
    assert (standardise(torch.full((1, 2, 1, 2, 2), 7.0)) == 0).all()


def test_statistics() -> None:
    a = act(2, 4, 1, 3, 3).relu()
    a[:, 2] = 0
    found = statistics(a)
    values = a.flatten().tolist()
    mean = sum(values) / len(values)
    assert found["mean"] == pytest.approx(mean)
    assert found["std"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))
    assert found["zeros"] == pytest.approx(sum(v == 0 for v in values) / len(values))
    assert found["dead_channels"] == 0.25
    assert (found["min"], found["max"]) == (min(values), max(values))
    a[0, 0, 0, 0, 0] = math.nan
    assert statistics(a)["not_finite"] == pytest.approx(1 / len(values))
    assert math.isfinite(statistics(a)["mean"])


@pytest.mark.parametrize("shape", [(2, 3, 1, 4, 4), (1, 9, 1, 2, 2)])
def test_effective_rank_is_the_entropy_of_singular_values(shape: tuple[int, ...]) -> None:
    a = act(*shape)
    matrix = np.array([[a[n, c][p].item() for c in range(shape[1])] for n in range(shape[0]) for p in positions(a)])
    s = np.linalg.svd(matrix, compute_uv=False)
    p = [v / s.sum() for v in s]
    assert effective_rank(a) == pytest.approx(math.exp(-sum(v * math.log(v) for v in p)))


def test_effective_rank_of_known_matrices() -> None:
    assert effective_rank(torch.eye(4).view(4, 4, 1, 1, 1)) == pytest.approx(4)
    assert effective_rank(torch.ones(1, 5, 1, 3, 3)) == pytest.approx(1)
    assert effective_rank(torch.zeros(1, 5, 1, 3, 3)) == 0


def test_differences() -> None:
    a, b = act(1, 3, 1, 2, 3), act(1, 3, 1, 2, 3, seed=1)
    a[0, :, 0, 0, 0] = b[0, :, 0, 0, 0] = 0
    b[0, :, 0, 0, 1] = 0
    for p in positions(a):
        one, other = a[0, :][(slice(None), *p)].tolist(), b[0, :][(slice(None), *p)].tolist()
        for c in range(3):
            top = max(abs(one[c]), abs(other[c]))
            assert absolute(a, b)[0, c][p].item() == pytest.approx(abs(one[c] - other[c]))
            assert relative(a, b)[0, c][p].item() == pytest.approx(abs(one[c] - other[c]) / top if top else 0)
        lengths = [math.sqrt(sum(v * v for v in vector)) for vector in (one, other)]
        dot = sum(x * y for x, y in zip(one, other, strict=True))
        want = 1 - dot / (lengths[0] * lengths[1]) if all(lengths) else float(any(lengths))
        assert cosine(a, b)[0, 0][p].item() == pytest.approx(want, abs=1e-12)
    assert cosine(1e-30 * a.float(), 1e-30 * a.float()).abs().max() < 1e-6


def test_what_does_not_match_is_made_comparable() -> None:
    a, b = act(1, 3, 1, 4, 4), act(1, 5, 1, 8, 8)
    one, other, notes = matched(a, b)
    assert one.shape == other.shape == (1, 1, 1, 8, 8)
    assert notes == ("3 and 5 channels: squeeze_mean of each", "4x4 and 8x8 resized to 8x8")
    assert torch.equal(other, b.mean(1, keepdim=True))
    kept = matched(a, a + 1)
    assert torch.equal(kept[0], a)
    assert kept[2] == ()
    assert torch.equal(matched(a, b, pixel_wise_max)[1], b.amax(1, keepdim=True))
    with pytest.raises(BadInput, match="1 samples against 2"):
        matched(a, act(2, 3, 1, 4, 4))


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """Song et al. 2012, eq. 4, every sum written out."""
    n = len(x)
    k = [[0.0 if i == j else sum((x[i] * x[j]).flatten().tolist()) for j in range(n)] for i in range(n)]
    el = [[0.0 if i == j else sum((y[i] * y[j]).flatten().tolist()) for j in range(n)] for i in range(n)]
    trace = sum(k[i][j] * el[j][i] for i in range(n) for j in range(n))
    totals = sum(map(sum, k)) * sum(map(sum, el)) / ((n - 1) * (n - 2))
    crossed = sum(k[i][j] * el[j][m] for i in range(n) for j in range(n) for m in range(n)) * 2 / (n - 2)
    return (trace + totals - crossed) / (n * (n - 3))


def naive_cka(x: Tensor, y: Tensor, runs: list[range]) -> float:
    sums = [0.0, 0.0, 0.0]
    for run in runs:
        one, other = x[list(run)], y[list(run)]
        for i, (a, b) in enumerate(((one, other), (one, one), (other, other))):
            sums[i] += len(run) * naive_hsic(a, b)
    return sums[0] / math.sqrt(sums[1] * sums[2])


def test_cka_of_all_pairs_in_minibatches_is_the_double_loop() -> None:
    a = {"p": act(11, 3, 2), "q": act(11, 4, seed=1)}
    b = {"r": a["p"] @ act(2, 5, seed=2), "s": act(11, 2, 2, 2, seed=3), "t": a["q"] + 1}
    runs = list(batches(11, 4))
    assert [len(run) for run in runs] == [4, 7]
    found = CKA(tuple(a), tuple(b))
    for run in runs:
        found.add({name: x[list(run)] for name, x in a.items()}, {name: x[list(run)] for name, x in b.items()})
    want = [[naive_cka(x, y, runs) for y in b.values()] for x in a.values()]
    np.testing.assert_allclose(found.value().numpy(), want, rtol=1e-9)
    assert found.samples == 11


def test_cka_is_one_up_to_rotation_scale_and_shift() -> None:
    x = act(12, 6)
    rotation = torch.linalg.qr(act(6, 6, seed=5)).Q
    found = CKA(("a",), ("a", "moved"))
    found.add({"a": x}, {"a": x, "moved": 3 * x @ rotation + 7})
    torch.testing.assert_close(found.value(), torch.ones(1, 2, dtype=torch.float64))


def test_cka_of_constant_features_is_undefined() -> None:
    found = CKA(("a",), ("b",))
    found.add({"a": torch.ones(6, 3)}, {"b": act(6, 3)})
    assert found.value().isnan().all()


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="Did you mean squeeze_mean"):
        reduction("squeeze_men")
    assert reduction("none") is reduction(None) is None
    with pytest.raises(BadInput, match="Did you mean absolute"):
        difference("absolut")
    with pytest.raises(BadInput, match="at least 4 pictures"):
        batches(3, 16)
    with pytest.raises(BadInput):
        batches(16, 3)
    for count in range(4, 30):
        for size in range(4, 12):
            runs = batches(count, size)
            assert [i for run in runs for i in run] == list(range(count))
            assert all(len(run) == size for run in runs[:-1])
            assert 4 <= len(runs[-1]) < size + 4
    with pytest.raises(BadInput, match="at least 4 pictures"):
        CKA(("a",), ("b",)).add({"a": act(3, 2)}, {"b": act(3, 2)})
    with pytest.raises(BadInput, match="6 and 5 samples"):
        CKA(("a",), ("b",)).add({"a": act(6, 2)}, {"b": act(5, 2)})
