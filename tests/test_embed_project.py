"""Projections: PCA against SVD, t-SNE against scikit-learn's, choices, resumption, bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_digits

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.arrangement import arrangement
from torchloupe.methods.kept import Kept
from torchloupe.methods.neighbours import neighbours_by
from torchloupe.methods.project import (
    Plan,
    Task,
    algorithm,
    choose,
    exact_gradient,
    place,
    place_by_neighbours,
    principal_axes,
    project,
    reduced,
)
from torchloupe.methods.rows import Rows, prepare


@pytest.fixture(scope="module")
def digits():
    feats, labels = load_digits(return_X_y=True)
    return feats[:500], labels[:500]


@pytest.mark.parametrize(("shape", "exact"), [((80, 12), 2048), ((20, 70), 40), ((300, 60), 20)])
def test_pca_is_the_svd(shape, exact):
    random = np.random.default_rng(0)
    feats = (random.normal(size=shape) * 1.5 ** -np.arange(shape[1]) + 5).astype(np.float32)
    axes = principal_axes(Rows(feats), 3, exact=exact)
    centred = feats.astype(float) - feats.astype(float).mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    assert axes.variance == pytest.approx(s[:3] ** 2 / (len(feats) - 1), rel=1e-4)
    assert axes.total == pytest.approx(centred.var(0, ddof=1).sum(), rel=1e-6)
    sign = np.sign((axes.axes * v[:3]).sum(1))
    assert np.allclose(axes.axes, v[:3] * sign[:, None], atol=2e-3)
    assert np.allclose(axes.apply(Rows(feats)), u[:, :3] * s[:3] * sign, atol=5e-3)
    assert (axes.axes[np.arange(3), np.abs(axes.axes).argmax(1)] > 0).all()


def test_pca_follows_a_shuffle_row_by_row(digits):
    feats, _ = digits
    order = np.random.default_rng(0).permutation(len(feats))
    plain, mixed = (project(prepare(part), "pca").coords for part in (feats, feats[order]))
    assert np.allclose(mixed, plain[order], atol=1e-3)


def test_whitened_pca_has_unit_variance(digits):
    coords = project(prepare(digits[0]), "pca", 3, parameters={"whiten": True}).coords
    assert np.allclose(coords.var(0, ddof=1), 1, atol=1e-4)


@pytest.mark.parametrize("count", [500, pytest.param(1797, marks=pytest.mark.slow)])
def test_kl_divergence_not_worse_than_scikit_learn(count):
    from sklearn.manifold import TSNE

    feats = load_digits(return_X_y=True)[0][:count]
    mine = project(prepare(feats), "tsne", jobs=1)
    theirs = TSNE(random_state=0).fit(feats)
    assert _kl(feats, mine.coords) <= 1.02 * _kl(feats, theirs.embedding_)


def _kl(feats: np.ndarray, coords: np.ndarray) -> float:
    """KL(P | Q) over all pairs, P with perplexity 30 by bisection on the precision of every row."""
    n = len(feats)
    square = ((feats[:, None] - feats[None]) ** 2).sum(2) if n < 600 else _squares(feats)
    p = np.zeros((n, n))
    for i in range(n):
        low, high, beta = 0.0, np.inf, 1.0
        others = np.delete(square[i], i)
        for _ in range(60):
            weight = np.exp(-(others - others.min()) * beta)
            weight /= weight.sum()
            entropy = -(weight * np.log(weight.clip(1e-300))).sum()
            low, high = (beta, high) if entropy > np.log(30) else (low, beta)
            beta = beta * 2 if high == np.inf else (low + high) / 2
        p[i] = np.insert(weight, i, 0)
    p = (p + p.T) / (2 * n)
    q = 1 / (1 + _squares(coords.astype(float)))
    np.fill_diagonal(q, 0)
    q /= q.sum()
    seen = p > 1e-12
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())


def _squares(x: np.ndarray) -> np.ndarray:
    s = (x**2).sum(1)
    return (s[:, None] + s[None] - 2 * x @ x.T).clip(0)


def test_same_seed_same_map_and_labels_stay_with_their_rows(digits):
    feats, labels = digits
    one, two = (project(prepare(feats), "tsne", jobs=1, parameters={"n_iter": 250}) for _ in range(2))
    assert np.array_equal(one.coords, two.coords)
    found = arrangement(feats, one.coords, labels)
    assert found.accuracy[1] > 0.9
    assert one.record["neighbours"] == "exact"
    assert one.record["library"] == {"openTSNE": __import__("openTSNE").__version__}


def test_parameters_reach_the_library(digits):
    feats, _ = digits
    short = project(prepare(feats), "tsne", jobs=1, parameters={"n_iter": 0, "early_exaggeration_iter": 50})
    assert np.ptp(short.coords) < 30
    library = project(prepare(feats), "tsne", jobs=1, parameters={"neighbors": "exact", "n_iter": 50})
    assert library.record["neighbours"] == "as openTSNE chooses"
    begun = project(
        prepare(feats), "tsne", jobs=1, begin=feats[:, 20:22], parameters={"n_iter": 0, "early_exaggeration_iter": 1}
    )
    assert np.corrcoef(begun.coords[:, 0], feats[:, 20])[0, 1] > 0.9


def test_scikit_learns_names_reach_open_tsne(digits):
    rows = prepare(digits[0][:200])
    theirs = {"max_iter": 80, "early_exaggeration_iter": 50, "init": "random", "angle": 0.4, "method": "barnes_hut"}
    plain = {"n_iter": 30, "early_exaggeration_iter": 50, "initialization": "random", "theta": 0.4}
    plain["negative_gradient_method"] = "bh"
    one, two = (project(rows, "tsne", jobs=1, parameters=words) for words in (theirs, plain))
    assert np.array_equal(one.coords, two.coords)
    assert one.record["parameters"] == theirs
    short = project(rows, "tsne", jobs=1, parameters={"max_iter": 20})
    same = project(rows, "tsne", jobs=1, parameters={"early_exaggeration_iter": 20, "n_iter": 0})
    assert np.array_equal(short.coords, same.coords)
    exact = project(rows, "tsne", jobs=1, parameters={"method": "exact", "max_iter": 30})
    assert exact.record["gradient"] == "exact"


@pytest.mark.parametrize("dims", [1, 3, 4])
def test_other_dimensions(digits, dims):
    feats, labels = digits[0][:200], digits[1][:200]
    made = project(prepare(feats), "tsne", dims, jobs=1, parameters={"n_iter": 150, "early_exaggeration_iter": 100})
    assert made.coords.shape == (200, dims)
    assert arrangement(feats, made.coords, labels).accuracy[1] > (0.6 if dims == 1 else 0.85)


def test_exact_gradient_is_the_gradient_of_kl():
    random = np.random.default_rng(0)
    places = random.normal(size=(12, 4))
    p = random.uniform(size=(12, 12))
    p = np.triu(p, 1) + np.triu(p, 1).T
    p /= p.sum()

    def kl(y):
        w = 1 / (1 + _squares(y))
        np.fill_diagonal(w, 0)
        q = w / w.sum()
        seen = p > 0
        return float((p[seen] * np.log(p[seen] / q[seen])).sum())

    value, gradient = exact_gradient(places, scipy.sparse.csr_matrix(p), 1, should_eval_error=True)
    assert value == pytest.approx(kl(places))
    for i, axis in ((0, 0), (5, 3), (11, 1)):
        step = np.zeros_like(places)
        step[i, axis] = 1e-5
        slope = (kl(places + step) - kl(places - step)) / 2e-5
        assert 4 * gradient[i, axis] == pytest.approx(slope, abs=1e-6)


def test_a_killed_run_goes_on_to_the_same_map(digits, tmp_path, monkeypatch):
    feats, _ = digits
    options = {"jobs": 1, "parameters": {"n_iter": 100, "early_exaggeration_iter": 100}}
    whole = project(prepare(feats), "tsne", **options).coords
    monkeypatch.setattr(Kept, "due", lambda kept: kept.folder is not None)

    def killed(stage, done, _total):
        if stage == "t-SNE" and done == 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project(prepare(feats), "tsne", work=tmp_path / "w", progress=killed, **options)
    assert int(np.load(tmp_path / "w" / "descent.npz")["done"]) == 100
    seen = []
    again = project(prepare(feats), "tsne", work=tmp_path / "w", progress=lambda *step: seen.append(step), **options)
    assert np.array_equal(again.coords, whole)
    assert ("t-SNE", 50, 200) not in seen
    changed = project(prepare(feats + 1), "tsne", work=tmp_path / "w", **options)
    assert not np.array_equal(changed.coords, whole)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("options", [{}, {"n_neighbors": 30, "init": "random", "n_epochs": 8}])
def test_umap_by_epochs_is_umap_learns_own_map(digits, options):
    from umap import UMAP

    feats = digits[0][:200].astype(np.float32)
    options = {"n_epochs": 40, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = UMAP(random_state=5, **options).fit_transform(feats)
    assert np.array_equal(project(prepare(feats), "umap", seed=5, parameters=options).coords, plain)


def test_a_killed_umap_goes_on_to_the_same_map(digits, tmp_path, monkeypatch):
    options = {"parameters": {"n_epochs": 40}}
    whole = project(prepare(digits[0]), "umap", **options).coords
    monkeypatch.setattr(Kept, "due", lambda kept: kept.folder is not None)

    def killed(stage, done, _total):
        if stage == "UMAP" and done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project(prepare(digits[0]), "umap", work=tmp_path / "w", progress=killed, **options)
    assert int(np.load(tmp_path / "w" / "layout.npz")["done"]) == 24
    seen = []
    again = project(
        prepare(digits[0]), "umap", work=tmp_path / "w", progress=lambda *step: seen.append(step), **options
    )
    assert np.array_equal(again.coords, whole)
    assert seen[0] == ("UMAP", 25, 40)


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_many_rows_are_mapped_in_another_order_and_put_back(digits, monkeypatch, method):
    feats, labels = digits
    for name in ("KEEP_FROM", "EXACT_NEIGHBOURS"):
        monkeypatch.setattr(f"torchloupe.methods.project.{name}", 100)
    for name in ("project", "neighbours"):
        monkeypatch.setattr(f"torchloupe.methods.{name}.LIST", 20)
    made = project(prepare(feats), method, jobs=1, neighbours="approximate")
    assert made.record["neighbours"] == "lists"
    assert made.record["neighbours_found"] > 0.98
    found = arrangement(feats, made.coords, labels)
    assert found.accuracy[1] > 0.9
    assert found.kept > 0.4


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("umap", {"n_epochs": 60}),
        ("sklearn.manifold:Isomap", {"n_neighbors": 8}),
        pytest.param("localmap", {}, marks=pytest.mark.slow),
        pytest.param("pacmap", {"n_neighbors": 12}, marks=pytest.mark.slow),
    ],
)
def test_other_algorithms_and_classes_by_import_path(digits, capfd, method, parameters):
    feats, labels = digits
    made = project(prepare(feats), method, parameters=parameters)
    assert made.coords.shape == (500, 2)
    assert arrangement(feats, made.coords, labels).accuracy[1] > 0.75
    assert capfd.readouterr() == ("", "")


def test_new_points_of_umap_do_not_depend_on_their_company(digits):
    feats = digits[0].astype(np.float32)
    coords = feats[:, [20, 21]] * 2
    random = np.random.default_rng(0)
    new = feats[:30] + random.normal(size=(30, 64)).astype(np.float32)
    new[3] = feats[77]
    task = Task(feats, 2, parameters={"n_neighbors": 8})
    together = place_by_neighbours(task, coords, new)
    alone = np.concatenate([place_by_neighbours(task, coords, new[i : i + 1]) for i in range(30)])
    assert np.array_equal(together, alone)
    assert np.allclose(together[3], coords[77])
    for row in (0, 9):
        apart = np.sqrt(((feats.astype(float) - new[row]) ** 2).sum(1))
        near = np.argsort(apart)[:8]
        low, high = 1e-3, 1e3
        for _ in range(200):
            scale = (low + high) / 2
            if np.exp(-apart[near] / scale).sum() > 3:  # log2(8)
                high = scale
            else:
                low = scale
        weight = np.exp(-apart[near] / scale)
        assert np.allclose(together[row], (weight / weight.sum()) @ coords[near], atol=1e-3)


@pytest.mark.parametrize(
    "method",
    ["pca", "tsne", "umap", pytest.param("localmap", marks=pytest.mark.slow), "sklearn.decomposition.KernelPCA"],
)
def test_new_points_lie_where_their_twins_are(digits, method):
    feats, _ = digits
    old, new = prepare(feats), prepare(feats[::25] + 0.01)
    quick = {"tsne": {"n_iter": 200}, "umap": {"n_epochs": 100}}.get(method, {})
    made = project(old, method, jobs=1, parameters=quick)
    placed = place(old, made.coords, new, made.record, jobs=1)
    apart = np.linalg.norm(placed - made.coords[::25], axis=1) / np.linalg.norm(made.coords.std(0))
    assert np.median(apart) < 0.1
    with pytest.raises(BadInput, match="63 numbers, the map's 64"):
        place(old, made.coords, prepare(feats[:9, :63]), made.record)


def test_placing_refuses_where_it_cannot(digits):
    rows = prepare(digits[0])
    with pytest.raises(BadInput, match="MDS cannot place"):
        place(rows, digits[0][:, :2], rows, {"method": "sklearn.manifold.MDS"})
    with pytest.raises(BadInput, match="buckets"):
        place(rows, digits[0][:, :2], rows, {"method": "pca", "buckets": 2})


def test_buckets_are_independent_and_warned_of(digits):
    feats, _ = digits
    with pytest.warns(LoupeWarning, match="3 buckets are projected independently"):
        made = project(prepare(feats), "pca", bucket=200)
    first = project(prepare(feats[200:400]), "pca").coords
    assert np.allclose(made.coords[200:400], first, atol=1e-3)
    assert made.record["buckets"] == 3


def test_rows_of_memory_maps_parts_and_normals(tmp_path):
    raw = np.random.default_rng(0).normal(size=(20, 6, 4)).astype(np.float32)
    np.save(tmp_path / "raw.npy", raw)
    mapped = np.load(tmp_path / "raw.npy", mmap_mode="r")
    flat = prepare(mapped).array()
    assert np.allclose(
        flat, raw.reshape(20, 24) / np.linalg.norm(raw.reshape(20, 24), axis=1, keepdims=True), atol=1e-6
    )
    assert np.allclose(prepare(mapped, parts="mean", normalize="none").array(), raw.mean(2), atol=1e-6)
    assert np.allclose(prepare(mapped, parts=2, normalize="none").array(), raw[:, :, 2])
    scored = prepare(mapped, normalize="zscore").array()
    assert np.allclose(scored.mean(0), 0, atol=1e-5)
    assert np.allclose(scored.std(0), 1, atol=1e-4)
    boxed = prepare(mapped, normalize="minmax").array()
    assert np.allclose(boxed.min(0), 0)
    assert np.allclose(boxed.max(0), 1)
    assert np.allclose(np.linalg.norm(prepare(mapped, normalize="none", metric="cosine").array(), axis=1), 1, atol=1e-6)
    with pytest.raises(BadInput, match="part 4: there are parts 0 to 3"):
        prepare(mapped, parts=4)


@pytest.mark.parametrize("normalize", ["none", "zscore", "minmax"])
def test_large_numbers_keep_their_differences(normalize):
    small = np.random.default_rng(0).normal(size=(50, 4))
    rows = prepare(small + 1.7e9, normalize=normalize).array()
    expected = small - small.mean(0) if normalize == "none" else prepare(small, normalize=normalize).array()
    assert np.allclose(rows - rows.mean(0), expected - expected.mean(0), atol=1e-5)


def test_one_loud_column_is_told():
    feats = np.random.default_rng(0).normal(size=(200, 5))
    feats[:, 3] *= 1000
    with pytest.warns(
        LoupeWarning, match=r"column 3 holds 99\.99.% of the variance of all 5 columns.*--normalize zscore"
    ):
        prepare(feats)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(feats, normalize="zscore")
        prepare(feats[:, 2:4])


def test_rows_that_differ_little_are_not_called_equal():
    feats = np.full((20, 3), 1e12)
    feats[:, 1] = np.arange(20) * 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(prepare(feats)) == 20
    with pytest.warns(LoupeWarning, match=r"1 of 21 rows repeat an earlier row \(20 repeats 0\)"):
        prepare(np.vstack([feats, [[1e12, -0.0, 1e12]]]))


def distances(feats, metric):
    """All distances by plain loops."""
    each = {
        "manhattan": lambda a, b: np.abs(a - b).sum(),
        "correlation": lambda a, b: 1 - np.corrcoef(a, b)[0, 1],
        "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
    }[metric]
    return np.array([[each(a, b) for b in feats.astype(float)] for a in feats.astype(float)])


@pytest.mark.parametrize("metric", ["manhattan", "correlation"])
def test_neighbours_and_numbers_follow_the_metric(digits, metric):
    feats = digits[0][:120]
    apart = distances(feats, metric)
    np.fill_diagonal(apart, np.inf)
    found = neighbours_by(prepare(feats, metric=metric).array(), 7, metric)
    assert np.allclose(found.lengths, np.sort(apart, 1)[:, :7], atol=1e-4)
    coords = feats[:, 20:22] + np.random.default_rng(0).normal(size=(120, 2))
    near = distances(coords, "euclidean")
    np.fill_diagonal(near, np.inf)
    kept = np.mean([len(set(np.argsort(a)[:5]) & set(np.argsort(b)[:5])) / 5 for a, b in zip(apart, near, strict=True)])
    assert arrangement(feats.astype(np.float32), coords, k=5, metric=metric).kept == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize("method", ["tsne", "umap", "sklearn.manifold.Isomap"])
def test_a_matrix_of_distances_is_mapped_as_its_points_are(digits, method):
    feats, labels = digits[0][:200], digits[1][:200]
    quick = {"tsne": {"n_iter": 100, "initialization": "random"}, "umap": {"n_epochs": 60}}.get(method, {})
    apart = distances(feats, "euclidean")
    made_of = prepare(apart, metric="precomputed")
    made = project(made_of, method, jobs=1, parameters=quick)
    assert made.record["metric"] == "precomputed"
    assert made.record["reduced_to"] == 0
    if method == "tsne":
        begin = {**quick, "n_iter": 0, "early_exaggeration_iter": 10}
        both = [project(rows, method, jobs=1, parameters=begin).coords for rows in (prepare(feats), made_of)]
        assert np.allclose(*np.abs(both), atol=0.01 * np.abs(both[0]).max())  # mirrored at random
    found = arrangement(apart.astype(np.float32), made.coords, labels, metric="precomputed")
    assert found.kept == pytest.approx(arrangement(feats, made.coords, labels).kept, abs=1e-3)
    assert found.kept > 0.4
    named = project(prepare(apart), method, jobs=1, parameters={**quick, "metric": "precomputed"})
    assert np.array_equal(named.coords, made.coords)


def test_cosine_ignores_the_length_of_rows(digits):
    feats = digits[0]
    stretched = feats * np.random.default_rng(0).uniform(1, 5, size=(len(feats), 1))
    one, two = (project(prepare(part, metric="cosine"), "pca").coords for part in (feats, stretched))
    assert np.allclose(one, two, atol=1e-4)


def test_few_points_lower_the_perplexity_and_say_so(digits):
    with pytest.warns(LoupeWarning, match=r"40 points are fewer than 3 x perplexity 30: perplexity lowered to 13"):
        made = project(prepare(digits[0][:40]), "tsne", jobs=1, parameters={"n_iter": 50})
    assert made.record["perplexity"] == 13
    with pytest.warns(LoupeWarning, match="n_neighbors lowered to 9"):
        project(prepare(digits[0][:10]), "umap", parameters={"n_epochs": 10})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: project(prepare(x), "tnse"), "Did you mean tsne"),
        (
            lambda x: project(prepare(x), "tsne", parameters={"perplexty": 3}),
            "Did you mean perplexity.*It has: perplexity, ",
        ),
        (lambda x: project(prepare(x), "tsne", parameters={"n_components": 3}), r"set by --dims"),
        (lambda x: project(prepare(x), "tsne", parameters={"perplexity": -1}), "perplexity -1"),
        (
            lambda x: project(prepare(x), "tsne", parameters={"min_grad_norm": -1}),
            "min_grad_norm -1: expected a number, 0",
        ),
        (lambda x: project(prepare(x), "tsne", target=np.zeros(len(x), int)), "tsne cannot be supervised by labels"),
        (
            lambda x: project(prepare(x), "tsne", parameters={"max_iter": 9, "n_iter": 9}),
            "max_iter and n_iter say the same",
        ),
        (lambda x: project(prepare(x), "tsne", parameters={"max_iter": 0.5}), "max_iter 0.5: expected a whole number"),
        (lambda x: project(prepare(x), "tsne", parameters={"method": "fft"}), "expected barnes_hut or exact"),
        (lambda x: project(prepare(x), "umap", parameters={"min_dist": 9}), "umap: min_dist must be less"),
        (lambda x: project(prepare(x), "sklearn.manifold.Isomop"), "Isomop"),
        (lambda x: project(prepare(x), "sklearn.datasets.load_digits"), "fit_transform"),
        (lambda x: project(prepare(x), "pca", 0), "0 dimensions"),
        (lambda x: project(prepare(x), "pca", 99), "at most 64"),
        (lambda x: project(prepare(x[:3]), "tsne"), "--method tsne needs at least 4 samples, not 3"),
        (lambda x: project(prepare(x), "pca", bucket=1), "bucket size 1"),
        (lambda x: project(prepare(x), "pca", reduce=-1), "reduce -1"),
        (lambda x: project(prepare(x), "pca", neighbours="many"), "exact or approximate"),
        (lambda x: prepare(x[:1]), "1 sample: "),
        (lambda x: prepare(x[:0]), "0 samples: "),
        (lambda x: prepare(np.ones((5, 3))), "all 5 rows are equal"),
        (lambda x: prepare(x, normalize="l7"), "expected one of none, l2"),
        (lambda x: prepare(x, metric="manhatten"), "expected one of euclidean, cosine, .*Did you mean manhattan"),
        (lambda x: prepare(x, metric="precomputed"), "500 rows of 64 numbers; expected the distances of all from all"),
        (lambda x: prepare(x[:64] @ x[:64].T, metric="precomputed"), "row 26 is .* away from itself.*similarities"),
        (lambda x: prepare(np.triu(np.ones((9, 9)), 1), metric="precomputed"), "there and back differ"),
        (lambda x: project(prepare(x, metric="manhattan"), "pca"), "pca knows no metric manhattan"),
        (lambda x: project(prepare(x, metric="manhattan"), "tsne", reduce=5), "PCA keeps Euclidean distances"),
        (
            lambda x: project(prepare(x, metric="manhattan"), "tsne", parameters={"metric": "dice"}),
            "give one of the two",
        ),
        (
            lambda x: prepare(np.where(np.arange(500)[:, None] % 100 == 7, np.nan, x)),
            r"5 of 500 rows .* 7, 107, 207, 307, 407;",
        ),
    ],
)
def test_bad_input_is_one_clear_line(digits, make, message):
    with pytest.raises(BadInput, match=message) as caught:
        make(digits[0])
    assert "\n" not in str(caught.value)


def test_bad_rows_can_be_left_out_and_duplicates_are_named(digits):
    feats = digits[0].copy()
    feats[[3, 9]] = np.inf
    with pytest.warns(LoupeWarning, match="2 of 500 rows hold NaN or infinity, left out: 3, 9"):
        rows = prepare(feats, drop_bad=True)
    assert len(rows) == 498
    assert np.array_equal(rows.array(), np.delete(feats, [3, 9], 0).astype(np.float32))
    assert np.array_equal(rows[np.array([3, 4])], feats[[4, 5]].astype(np.float32))
    feats = digits[0].copy()
    feats[40] = feats[8]
    with pytest.warns(LoupeWarning, match=r"1 of 500 rows repeat an earlier row \(40 repeats 8\)"):
        prepare(feats)


def test_the_choice_by_size_and_the_estimate():
    assert [choose(n) for n in (100, 1_000_000, 1_000_001)] == ["tsne", "tsne", "umap"]
    assert [reduced(1000, w, "tsne", None) for w in (64, 512, 2048)] == [0, 0, 256]
    assert reduced(1_000_000, 256, "umap", None) == 64
    assert reduced(1_000_000, 256, "umap", 0) == 0
    plan = Plan(algorithm("tsne"), 1_000_000, 256, 2, 64, 1, 2)
    seconds, memory = plan.estimate()
    assert 600 < seconds < 3600
    assert memory < 12e9
    assert "1,000,000 x 256 to 2-D after PCA to 64: roughly" in str(plan)


def test_reduction_first_and_its_share(digits):
    made = project(prepare(digits[0]), "pca", reduce=10)
    plain = project(prepare(digits[0]), "pca")
    assert made.record["reduced_to"] == 10
    assert 0.5 < made.record["variance_kept"] < 1
    assert np.allclose(np.abs(made.coords), np.abs(plain.coords), atol=1e-2)


def test_nothing_is_printed_or_warned_of_without_reason(digits, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoupeWarning)
        project(prepare(digits[0][:200]), "umap", parameters={"n_epochs": 5})
        project(prepare(digits[0][:200]), "tsne", jobs=1, parameters={"n_iter": 10})
    assert capfd.readouterr() == ("", "")


def test_every_name_of_scikit_learns_is_taken(digits):
    import inspect

    from sklearn.manifold import TSNE

    feats = digits[0][:60]
    given = {
        "perplexity": 9.0,
        "early_exaggeration": 4.0,
        "learning_rate": 50.0,
        "max_iter": 60,
        "n_iter_without_progress": 50,
        "min_grad_norm": 1e-9,
        "metric": "euclidean",
        "metric_params": None,
        "init": "random",
        "verbose": 0,
        "method": "barnes_hut",
        "angle": 0.4,
        "n_jobs": 1,
    }
    assert set(given) | {"n_components", "random_state"} == set(inspect.signature(TSNE).parameters)
    assert project(prepare(feats), "tsne", parameters=given, jobs=1).coords.shape == (60, 2)


def test_the_descent_stops_as_scikit_learn_says(digits):
    feats = digits[0][:80]
    asked = {"perplexity": 10, "early_exaggeration_iter": 50, "n_iter": 1000}
    whole = project(prepare(feats), "tsne", parameters=asked, jobs=1)
    assert "stopped_after" not in whole.record
    at_once = project(prepare(feats), "tsne", parameters={**asked, "min_grad_norm": 1e9}, jobs=1)
    assert at_once.record["stopped_after"] == 100
    short = project(prepare(feats), "tsne", parameters={**asked, "n_iter": 50}, jobs=1)
    assert np.array_equal(at_once.coords, short.coords)
    stuck = project(
        prepare(feats), "tsne", parameters={**asked, "learning_rate": 1e-12, "n_iter_without_progress": 1}, jobs=1
    )
    assert stuck.record.get("stopped_after", 1050) <= 1050
    never = project(prepare(feats), "tsne", parameters={**asked, "min_grad_norm": 0}, jobs=1)
    assert np.array_equal(never.coords, whole.coords)


def test_the_norm_of_the_gradient_is_scikit_learns():
    """Of the map that a descent ends on: 4 sum_j (p_ij - q_ij) w_ij (y_i - y_j), by loops in float64."""
    from openTSNE import TSNEEmbedding, affinity

    from torchloupe.methods.project import Watched

    random = np.random.default_rng(0)
    made = affinity.PerplexityBasedNN(random.normal(size=(20, 4)), perplexity=4, method="exact", random_state=0)
    places = random.normal(size=(20, 2))
    watched = Watched("bh")
    watched(TSNEEmbedding(places.copy(), made), made.P, dof=1, bh_params={"theta": 0.0}, fft_params={})
    p = made.P.toarray()
    w = np.array(
        [[0 if i == j else 1 / (1 + ((a - b) ** 2).sum()) for j, b in enumerate(places)] for i, a in enumerate(places)]
    )
    q = w / w.sum()
    gradient = np.zeros((20, 2))
    for i in range(20):
        for j in range(20):
            gradient[i] += 4 * (p[i, j] - q[i, j]) * w[i, j] * (places[i] - places[j])
    assert watched.norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_a_supervised_map_follows_its_labels_and_gaps_its_features():
    random = np.random.default_rng(0)
    feats = random.normal(size=(120, 6)).astype(np.float32)
    classes = np.arange(120) % 2
    options = {"parameters": {"n_epochs": 60, "n_neighbors": 10}, "jobs": 1}
    plain = project(prepare(feats), "umap", **options).coords
    led = project(prepare(feats), "umap", target=classes, **options).coords
    half = project(prepare(feats), "umap", target=np.where(np.arange(120) < 60, classes, -1), **options).coords

    def parted(coords):
        return arrangement(feats, coords, classes, k=10).accuracy[1]

    assert parted(plain) < 0.75
    assert parted(led) > 0.95
    known, gaps = slice(None, 60), slice(60, None)
    labelled, rest = (arrangement(feats[part], half[part], classes[part], k=10).accuracy[1] for part in (known, gaps))
    assert labelled > arrangement(feats[known], plain[known], classes[known], k=10).accuracy[1] + 0.05
    assert labelled > rest + 0.15  # the gaps follow their features, which know nothing of the classes
    amount = project(prepare(feats), "umap", target=feats[:, 0], **options).coords
    assert max(abs(np.corrcoef(amount[:, i], feats[:, 0])[0, 1]) for i in (0, 1)) > 0.6


@pytest.mark.slow  # umap-learn compiles its loop for densities anew
def test_densmap_is_umap_learns_own():
    import umap

    random = np.random.default_rng(1)
    feats = np.concatenate([random.normal(size=(60, 5)) * 0.2, 4 + random.normal(size=(60, 5))]).astype(np.float32)
    made = project(prepare(feats), "densmap", parameters={"n_epochs": 40}, jobs=1)
    own = umap.UMAP(densmap=True, n_epochs=40, random_state=1597, n_jobs=1).fit_transform(feats)
    assert np.array_equal(made.coords, own.astype(np.float32))
    assert made.record["method"] == "densmap"
    placed = place(prepare(feats), made.coords, prepare(feats[:3]), made.record)
    assert np.allclose(placed, made.coords[:3], atol=1e-5)
