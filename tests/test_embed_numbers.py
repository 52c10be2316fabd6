"""The numbers of an arrangement against plain loops, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from torchloupe.errors import BadInput
from torchloupe.methods.arrangement import Arrangement, arrangement, linear_cka, procrustes


@pytest.fixture(scope="module")
def digits():
    feats, labels = load_digits(return_X_y=True)
    return feats[:400], labels[:400], np.random.default_rng(0).normal(size=(400, 2)) + feats[:400, 20:22]


def loops(feats, coords, k):
    """Trustworthiness and kept neighbours, as their definitions read."""
    n, penalty, kept = len(feats), 0, 0
    for i in range(n):
        far = sorted((float(np.sum((feats[i] - feats[j]) ** 2)), j) for j in range(n) if j != i)
        near = sorted((float(np.sum((coords[i] - coords[j]) ** 2)), j) for j in range(n) if j != i)
        rank = {j: r for r, (_, j) in enumerate(far, start=1)}
        chosen = [j for _, j in near[:k]]
        penalty += sum(rank[j] - k for j in chosen if rank[j] > k)
        kept += len({j for _, j in far[:k]} & set(chosen))
    return 1 - 2 * penalty / (n * k * (2 * n - 3 * k - 1)), kept / (n * k)


@pytest.mark.parametrize("k", [1, 5, 12])
def test_trustworthiness_and_kept_neighbours_by_loops(k):
    random = np.random.default_rng(k)
    feats = random.normal(size=(60, 5))
    coords = feats[:, :2] + random.normal(size=(60, 2))
    found = arrangement(feats, coords, k=k)
    assert (found.trustworthiness, found.kept) == pytest.approx(loops(feats, coords, k), abs=1e-12)
    assert found.asked == found.points == 60


def test_trust_by_point_by_loops():
    random = np.random.default_rng(3)
    feats = random.normal(size=(60, 5))
    coords = 3 * feats[:, :2] + random.normal(size=(60, 2))
    k, n = 5, 60
    each = arrangement(feats, coords, k=k).each
    far = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in feats] for a in feats])
    near = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in coords] for a in coords])
    kept, trust, ratio, around = [], [], [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        by_feats = sorted(others, key=lambda j: far[i, j])
        by_map = sorted(others, key=lambda j: near[i, j])[:k]
        kept.append(len(set(by_feats[:k]) & set(by_map)) / k)
        penalty = sum(max(0, by_feats.index(j) + 1 - k) for j in by_map)
        trust.append(1 - 2 * penalty / (k * (2 * n - 3 * k - 1)))
        ratio.append(np.log2(near[i, by_feats[:k]].mean() / far[i, by_feats[:k]].mean()))
        around.append([i, *by_map])
    assert np.allclose(each.kept, kept)
    assert np.allclose(each.trust, trust)
    assert np.allclose(each.stretch, np.array(ratio) - np.median(ratio), atol=1e-6)
    means = [np.mean([kept[j] for j in members]) for members in around]
    assert (each.worst, each.around) == (int(np.argmin(means)), pytest.approx(min(means)))
    sampled = arrangement(feats, coords, k=k, exact=10).each
    assert np.isfinite(sampled.kept).sum() == 60


def test_far_groups_above_the_size_for_float64(monkeypatch):
    monkeypatch.setattr("torchloupe.methods.arrangement.DOUBLE", 10)
    random = np.random.default_rng(0)
    feats = random.normal(size=(200, 4)).astype(np.float32)
    feats[:, 1] += 30_000 * (random.random(200) < 0.5)
    coords = 1e-3 * feats[:, [0, 2]] + 100 * (feats[:, 1:2] > 10_000)
    found = arrangement(feats, coords, k=6)
    wanted = loops(feats.astype(float), coords.astype(float), 6)
    assert (found.trustworthiness, found.kept) == pytest.approx(wanted, abs=1e-3)


def test_against_scikit_learn(digits):
    feats, labels, coords = digits
    found = arrangement(feats, coords, labels, k=10)
    assert found.trustworthiness == pytest.approx(trustworthiness(feats, coords, n_neighbors=10), abs=1e-3)
    assert found.silhouette[0] == pytest.approx(silhouette_score(feats, labels), abs=1e-9)
    assert found.silhouette[1] == pytest.approx(silhouette_score(coords, labels), abs=1e-9)
    for mine, space in zip(found.accuracy, (feats, coords), strict=True):
        right = 0
        for i in range(0, 400, 10):
            others = np.delete(np.arange(400), i)
            model = KNeighborsClassifier(10).fit(space[others], labels[others])
            right += model.predict(space[i : i + 1])[0] == labels[i]
        assert mine == pytest.approx(right / 40, abs=0.12)


def test_accuracy_by_loops(digits):
    feats, labels, coords = digits
    right = 0
    for i in range(400):
        order = np.argsort(((coords - coords[i]) ** 2).sum(1), kind="stable")
        votes = np.bincount(labels[[j for j in order if j != i][:7]], minlength=10)
        right += votes.argmax() == labels[i]
    assert arrangement(feats, coords, labels, k=7).accuracy[1] == pytest.approx(right / 400, abs=1e-12)


def test_sampled_numbers_estimate_the_exact_ones(monkeypatch):
    feats, labels = load_digits(return_X_y=True)
    coords = feats[:, [21, 42]] + np.random.default_rng(1).normal(size=(len(feats), 2))
    monkeypatch.setattr("torchloupe.methods.arrangement._sample", lambda total, seed: np.arange(0, total, 4))
    exact, sampled = arrangement(feats, coords, labels), arrangement(feats, coords, labels, exact=500)
    assert sampled.asked < exact.asked == len(feats)
    assert sampled.record()["on_a_sample"]
    assert not exact.record()["on_a_sample"]
    assert sampled.trustworthiness == pytest.approx(exact.trustworthiness, abs=0.02)
    assert sampled.kept == pytest.approx(exact.kept, abs=0.02)
    assert sampled.accuracy == pytest.approx(exact.accuracy, abs=0.04)


def test_shuffling_everything_alike_changes_nothing(digits):
    feats, labels, coords = digits
    order = np.random.default_rng(2).permutation(len(feats))
    before, after = arrangement(feats, coords, labels), arrangement(feats[order], coords[order], labels[order])
    assert before.trustworthiness == pytest.approx(after.trustworthiness, abs=1e-4)
    assert before.silhouette == pytest.approx(after.silhouette, abs=1e-9)
    assert before.accuracy == pytest.approx(after.accuracy, abs=5e-3)
    mixed = arrangement(feats, coords, labels[order])
    assert mixed.accuracy[0] < 0.3 < before.accuracy[0]


def test_a_map_that_is_the_features_is_perfect(digits):
    labels = digits[1]
    feats = np.random.default_rng(0).normal(size=(400, 6))
    found = arrangement(feats, feats * 3 + 1, labels)
    assert found.trustworthiness == found.kept == 1
    assert found.doubts() == []


def test_doubts_say_what_to_doubt():
    bad = Arrangement(0.6, 0.05, 15, 100, 100, (0.9, 0.5), None).doubts()
    assert [word in text for word, text in zip(("trustworthiness", "nearest neighbours", "overlap"), bad, strict=True)]
    assert "separates more" in Arrangement(0.9, 0.5, 15, 100, 100, (0.4, 0.8), None).doubts()[0]


def test_silhouette_of_single_points_and_single_class():
    points = np.array([[0.0], [1.0], [10.0]])
    expected = ((10 - 1) / 10 + (9 - 1) / 9 + 0) / 3
    assert arrangement(points, points, np.array([4, 4, 9])).silhouette == pytest.approx((expected, expected))
    assert arrangement(points, points, np.array([1, 1, 1])).silhouette is None


def test_linear_cka_by_loops_and_closed_forms():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)), random.normal(size=(30, 6))
    k, m = x - x.mean(0), y - y.mean(0)

    def hsic(a, b):
        return sum((a[i] @ a[j]) * (b[i] @ b[j]) for i in range(30) for j in range(30))

    assert linear_cka(x, y) == pytest.approx(hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5, abs=1e-12)
    turn = np.linalg.qr(random.normal(size=(4, 4)))[0]
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    wide = random.normal(size=(10, 50))
    assert linear_cka(wide, wide[:, ::-1]) == pytest.approx(1)
    with pytest.raises(BadInput, match="30 and 29 samples"):
        linear_cka(x, y[:29])
    with pytest.raises(BadInput, match="all rows"):
        linear_cka(x, np.ones((30, 2)))


def test_procrustes_finds_what_was_done():
    random = np.random.default_rng(0)
    reference = random.normal(size=(40, 3))
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    other = 2.5 * reference @ turn + np.array([1.0, -4.0, 2.0])
    other[7] += 30
    found = procrustes(reference, other)
    assert found.most(1).tolist() == [7]
    other[7] -= 30
    found = procrustes(reference, other)
    assert np.allclose(found.coords, reference)
    assert found.disparity == pytest.approx(0, abs=1e-20)
    from scipy.spatial import procrustes as scipys

    noisy = other + random.normal(size=other.shape)
    assert procrustes(reference, noisy).disparity == pytest.approx(scipys(reference, noisy)[2])
    with pytest.raises(BadInput, match="2 and 3 dimensions"):
        procrustes(reference[:, :2], other)
