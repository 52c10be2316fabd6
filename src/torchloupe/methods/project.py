"""From feature rows to a map of one, two, three or more dimensions: PCA, t-SNE, UMAP, LocalMAP, or any such class."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, LoupeWarning, nearest, need
from torchloupe.methods.kept import Kept, Progress, quiet
from torchloupe.methods.neighbours import (
    LIST,
    Neighbours,
    nearby,
    nearest_neighbours,
    nearest_of,
    neighbours_by,
    neighbours_in_lists,
)
from torchloupe.methods.rows import Rows, metrics
from torchloupe.named import imported

SEED = 1597
EXACT_NEIGHBOURS = 20_000
EXACT_GRADIENT = 10_000
INTERPOLATED = 8000
KEEP_FROM = 20_000


# --- principal axes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axes:
    """Principal axes: mean (D,), axes (e, D) of unit length, variance (e,) along each, total variance over all D."""

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    total: float

    def apply(self, rows: Rows) -> np.ndarray:
        """(N, D) -> (N, e) float32, a piece at a time."""
        out = np.empty((len(rows), len(self.axes)), np.float32)
        for start, block in rows.pieces():
            out[start : start + len(block)] = (block.astype(np.float64) - self.mean) @ self.axes.T
        return out


def principal_axes(rows: Rows, count: int, *, seed: int = SEED, exact: int = 2048) -> Axes:
    """PCA:  the eigenvectors of  sum_i (x_i - mean)(x_i - mean)' / (N - 1)  with the largest eigenvalues.

    Exact (float64) while N or D is at most `exact`; above, by six rounds of subspace iteration over the rows, seeded.
    Never holds more than a piece of the rows and min(N, D) x D numbers. Each axis points where its largest entry > 0.
    Source: Halko, Martinsson and Tropp 2011, Finding structure with randomness, arXiv:0909.4061 (the iteration).
    """
    total, width = len(rows), rows.width
    if not 1 <= count <= min(total, width):
        raise BadInput(
            f"PCA to {count} dimensions: {total} samples of {width} numbers have at most {min(total, width)}"
        )
    mean = sum(block.sum(0, dtype=np.float64) for _, block in rows.pieces()) / total
    spread = float(sum(((block - mean) ** 2).sum() for _, block in rows.pieces())) / (total - 1)
    if width <= exact:
        covariance = sum(_centred(block, mean).T @ _centred(block, mean) for _, block in rows.pieces())
        values, vectors = np.linalg.eigh(covariance)
        axes, values = vectors[:, ::-1][:, :count].T, values[::-1][:count]
    elif total <= exact:
        data = rows.array() - mean
        values, vectors = np.linalg.eigh(data @ data.T)
        values = values[::-1][:count]
        axes = (vectors[:, ::-1][:, :count] / np.sqrt(values.clip(np.finfo(float).tiny))).T @ data
    else:
        basis = np.random.default_rng(seed).standard_normal((width, min(count + 16, width)))
        for _ in range(6):
            basis = np.linalg.qr(_twice(rows, mean, basis))[0]
        values, turn = np.linalg.eigh(basis.T @ _twice(rows, mean, basis))
        axes, values = (basis @ turn[:, ::-1][:, :count]).T, values[::-1][:count]
    top = np.abs(axes).argmax(1)
    axes = axes * np.sign(axes[np.arange(count), top])[:, None]
    return Axes(np.asarray(mean), axes, values.clip(0) / (total - 1), spread)


def _centred(block: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return block.astype(np.float64) - mean


def _twice(rows: Rows, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """X' (X basis), X the centred rows."""
    out = np.zeros_like(basis)
    for _, block in rows.pieces():
        centred = _centred(block, mean)
        out += centred.T @ (centred @ basis)
    return out


# --- one projection -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What an algorithm is given: x (N, d) float32 in memory, the number of dimensions of the map, and how to go about.

    begin (N, dims): places to begin from, for the algorithms that take steps (tsne, umap); None: as they choose.
    metric: of the rows; x (N, N) holds distances where it is "precomputed". target (N,): what supervises the map, numbers of
    classes (-1: not known) or quantities; None: nothing does.
    """

    x: np.ndarray
    dims: int
    seed: int = SEED
    parameters: Mapping[str, Any] = field(default_factory=dict)
    neighbours: str = "auto"
    jobs: int = 1
    kept: Kept = field(default_factory=lambda: Kept(None))
    progress: Progress = quiet
    begin: np.ndarray | None = None
    metric: str = "euclidean"
    target: np.ndarray | None = None


@dataclass(frozen=True)
class Algorithm:
    """A way to make a map. run(task) -> coords (N, dims) and notes; place(task, coords, new x) -> coords of new points.

    package: what has to be installed. parameters: the names that can be passed. least: fewest points that it can map.
    by_neighbours: it walks over neighbours, so that rows are best given in an order in which near ones lie near.
    """

    name: str
    package: str
    parameters: tuple[str, ...]
    run: Callable[[Task], tuple[np.ndarray, dict[str, Any]]]
    place: Callable[[Task, np.ndarray, np.ndarray], np.ndarray] | None = None
    least: int = 2
    by_neighbours: bool = False

    def check(self, given: Mapping[str, Any]) -> None:
        """Raises BadInput for a parameter that the implementation does not have, with the ones that it has."""
        for name in given:
            if name in RESERVED:
                raise BadInput(f"{self.name}: {name} is set by {RESERVED[name]}, not by --args")
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise BadInput(
                    f"{self.name} has no parameter {name!r}.{nearest(name, self.parameters)} It has: {known}"
                )

    @property
    def library(self) -> dict[str, str]:
        """Package and version, for the record."""
        try:
            return {self.package: version(self.package)}
        except PackageNotFoundError:
            return {self.package: "unknown version"}


RESERVED = {"n_components": "--dims (-e)", "random_state": "--seed", "callbacks": "torchloupe itself"}


def _parameters(of: Callable[..., Any]) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(of).parameters.values()
    return tuple(p.name for p in found if p.kind in kinds and p.name not in RESERVED)


def algorithm(name: str) -> Algorithm:
    """An algorithm by name (pca, tsne, umap, densmap, localmap, pacmap) or the import path of a scikit-learn style class.

    Raises BadInput for an unknown name, MissingPackage where its library is absent.
    """
    if name in NAMED:
        return NAMED[name]()
    if "." not in name and ":" not in name:
        known = ", ".join(NAMED)
        raise BadInput(
            f"method {name!r}: expected {known}, or the import path of a class, such as sklearn.manifold.Isomap."
            f"{nearest(name, NAMED)}"
        )
    return _imported(name)


def _pca() -> Algorithm:
    def run(task: Task) -> tuple[np.ndarray, dict[str, Any]]:
        if task.metric != "euclidean":
            raise BadInput(f"pca knows no metric {task.metric}, only euclidean and cosine; use tsne or umap")
        axes = principal_axes(Rows(task.x), task.dims, seed=task.seed)
        share = (axes.variance / axes.total).tolist() if axes.total else [0.0] * task.dims
        return _whitened(axes.apply(Rows(task.x)), axes, task), {"explained_variance_ratio": share}

    def place(task: Task, _coords: np.ndarray, new: np.ndarray) -> np.ndarray:
        axes = principal_axes(Rows(task.x), task.dims, seed=task.seed)
        return _whitened(axes.apply(Rows(new)), axes, task)

    return Algorithm("pca", "torchloupe", ("whiten",), run, place)


def _whitened(coords: np.ndarray, axes: Axes, task: Task) -> np.ndarray:
    if not task.parameters.get("whiten", False):
        return coords
    return (coords / np.sqrt(axes.variance.clip(np.finfo(float).tiny))).astype(np.float32)


# --- t-SNE ----------------------------------------------------------------------------------------------------------

SUPERVISED = ("umap", "densmap")
STOPS = ("n_iter_without_progress", "min_grad_norm")
LIBRARY_NEIGHBOURS = ("metric", "metric_params", "neighbors", "knn_kwargs")


def _of_scikit_learn(given: Mapping[str, Any]) -> dict[str, Any]:
    """t-SNE's parameters by openTSNE's names, from those and scikit-learn's.

    max_iter counts all steps, the exaggerated ones too; n_iter, as in openTSNE, those behind them. n_iter_without_progress and
    min_grad_norm, of which openTSNE has nothing, stop our own descent (STOPS).
    Raises BadInput for a name beside its twin.
    """
    found = dict(given)

    def renamed(old: str, new: str, value: Any) -> None:
        del found[old]
        if new in found:
            raise BadInput(f"tsne: {old} and {new} say the same; give one of the two")
        found[new] = value

    for name, least in (("n_iter_without_progress", 1), ("min_grad_norm", 0)):
        value = found.get(name, least)
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < np.inf:
            raise BadInput(f"tsne: {name} {value!r}: expected a number, {least} or more")
    if "max_iter" in found:
        total, early = found["max_iter"], found.get("early_exaggeration_iter", 250)
        if not isinstance(total, int) or isinstance(total, bool) or total < 1:
            raise BadInput(f"tsne: max_iter {total!r}: expected a whole number above 0")
        found["early_exaggeration_iter"] = min(early, total)
        renamed("max_iter", "n_iter", max(0, total - early))
    if "init" in found:
        renamed("init", "initialization", found["init"])
    if "angle" in found:
        renamed("angle", "theta", found["angle"])
    if "method" in found:
        ways = {"barnes_hut": "bh", "exact": exact_gradient}
        if found["method"] not in ways:
            raise BadInput(f"tsne: method {found['method']!r}: expected barnes_hut or exact")
        renamed("method", "negative_gradient_method", ways[found["method"]])
    return found


def _tsne() -> Algorithm:
    try:
        import openTSNE
    except ImportError:
        raise need("openTSNE", "embed") from None
    return Algorithm("tsne", "openTSNE", (*_parameters(openTSNE.TSNE), *STOPS), _run_tsne, _place_tsne, 4, True)


def perplexity_for(total: int, parameters: Mapping[str, Any]) -> float:
    """The perplexity that was asked for (30 if none), lowered with a warning to (N - 1) / 3 where N < 3 * perplexity."""
    asked = parameters.get("perplexity", 30)
    if not isinstance(asked, int | float) or not 0 < asked < np.inf:
        raise BadInput(f"perplexity {asked!r}: expected a number above 0, usually 5 to 50")
    if total - 1 >= 3 * asked:
        return asked
    lowered = (total - 1) / 3
    warnings.warn(
        f"{total} points are fewer than 3 x perplexity {asked}: perplexity lowered to {lowered:.4g}", LoupeWarning, 2
    )
    return lowered


def _run_tsne(task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    import openTSNE

    total = len(task.x)
    given = {name: value for name, value in task.parameters.items() if name not in STOPS}
    options: dict[str, Any] = {"n_jobs": task.jobs, "random_state": task.seed, **given}
    options["perplexity"] = perplexity_for(total, task.parameters)
    if "negative_gradient_method" not in options:
        options["negative_gradient_method"] = _gradient(total, task.dims)
    method, watched = options["negative_gradient_method"], None
    if "min_grad_norm" in task.parameters:
        watched = options["negative_gradient_method"] = Watched(method)
    if task.begin is not None:
        options["initialization"] = (task.begin - task.begin.mean(0)) / task.begin.std() * 1e-4
    if task.metric != "euclidean":
        options["metric"] = task.metric
        if task.metric == "precomputed" and task.begin is None:
            options.setdefault("initialization", "spectral")
    model = openTSNE.TSNE(n_components=task.dims, **options)
    affinities, how = _affinities(task, options)
    task.progress("first places", 0, 1)
    embedding = model.prepare_initial(task.x, affinities=affinities)
    del affinities
    plan = [(model.early_exaggeration_iter, model.early_exaggeration, model.initial_momentum)]
    plan.append((model.n_iter, model.exaggeration, model.final_momentum))
    steps = _descend(embedding, plan, task, watched)
    if steps < sum(rounds for rounds, _, _ in plan):
        how["stopped_after"] = steps
    notes = {"kl_divergence": float(embedding.kl_divergence), "perplexity": options["perplexity"], **how}
    notes["gradient"] = method if isinstance(method, str) else "exact"
    return np.asarray(embedding, np.float32), notes


def _gradient(total: int, dims: int) -> Any:
    """Barnes-Hut for few points and in 3-D, interpolation for many, all pairs above three dimensions."""
    if dims > 3:
        if total > EXACT_GRADIENT:
            raise BadInput(
                f"t-SNE in {dims} dimensions needs all pairs of points, possible up to {EXACT_GRADIENT:,} points, not"
                f" {total:,}; use 1 to 3 dimensions, or --method umap or pca"
            )
        return exact_gradient
    return "fft" if dims < 3 and total >= INTERPOLATED else "bh"


def exact_gradient(
    embedding: np.ndarray,
    P: Any,  # noqa: N803
    dof: float,
    *,
    should_eval_error: bool = False,
    **_: Any,
) -> tuple[float, np.ndarray]:
    """t-SNE's gradient over all pairs:  dC/dy_i = sum_j (p_ij - q_ij) w_ij (y_i - y_j),  w = 1 / (1 + |y_i - y_j|^2).

    embedding (N, e), P sparse (N, N) -> KL divergence (0 unless asked for), gradient (N, e). As in openTSNE, the factor
    4 is left to the learning rate. dof is 1.
    Source: van der Maaten and Hinton 2008, Visualizing Data using t-SNE, JMLR 9.
    """
    if dof != 1:
        raise BadInput(f"dof {dof}: above three dimensions only 1 is supported")
    places = np.asarray(embedding, np.float64)
    square = (places**2).sum(1)
    repulsion, normal = np.zeros_like(places), 0.0
    step = max(1, (1 << 22) // len(places))
    for start in range(0, len(places), step):
        rows = places[start : start + step]
        weight = 1 / (1 + (square[start : start + step, None] - 2 * rows @ places.T + square[None]).clip(0))
        weight[np.arange(len(rows)), np.arange(start, start + len(rows))] = 0
        normal += weight.sum()
        weight **= 2
        repulsion[start : start + step] = weight.sum(1)[:, None] * rows - weight @ places
    here, there = np.repeat(np.arange(len(places)), np.diff(P.indptr)), P.indices
    apart = places[here] - places[there]
    weight = 1 / (1 + (apart**2).sum(1))
    gradient = -repulsion / normal
    for axis in range(places.shape[1]):
        gradient[:, axis] += np.bincount(here, P.data * weight * apart[:, axis], len(places))
    if not should_eval_error:
        return 0.0, gradient
    return float((P.data * np.log(P.data.clip(1e-300) / (weight / normal))).sum()), gradient


def _affinities(task: Task, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """openTSNE's P from neighbours of ours, and how they were found; None: as openTSNE chooses."""
    from openTSNE import affinity
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    total, perplexity = len(task.x), options["perplexity"]
    if any(name in task.parameters for name in LIBRARY_NEIGHBOURS):
        return None, {"neighbours": "as openTSNE chooses"}
    found = _neighbours(task, min(total - 1, int(3 * perplexity) or 1))
    index = PrecomputedNeighbors(found.indices, found.lengths)
    made = affinity.PerplexityBasedNN(knn_index=index, perplexity=perplexity, n_jobs=options["n_jobs"])
    return made, found.record()


def _neighbours(task: Task, count: int) -> Neighbours:
    """The nearest others of every point: by all distances where that is quick, else in lists; kept for a resumed run."""
    kept = task.kept.load("neighbours")
    if kept is not None:
        return Neighbours(kept["indices"], kept["lengths"], str(kept["search"]), float(kept["recall"]))

    def step(done: int, total: int) -> None:
        task.progress("neighbours", done, total)

    if task.metric != "euclidean":
        return neighbours_by(task.x, count, task.metric, step)

    exact = task.neighbours == "exact" or (task.neighbours == "auto" and len(task.x) <= EXACT_NEIGHBOURS)
    if exact or len(task.x) <= 2 * LIST:
        found = nearest_neighbours(task.x, count, seed=task.seed, step=step)
    else:
        forced = task.neighbours == "approximate"
        found = neighbours_in_lists(task.x, count, seed=task.seed, jobs=task.jobs, forced=forced, step=step)
    about = {"search": np.array(found.search), "recall": np.array(found.recall)}
    task.kept.save("neighbours", indices=found.indices, lengths=found.lengths, **about)
    return found


class Watched:
    """A gradient of openTSNE's (bh or fft) or of ours that tells the norm of what it gave last, as scikit-learn counts it (4 x)."""

    def __init__(self, method: Any) -> None:
        from openTSNE import tsne

        ways = {"fft": "fft", "interpolation": "fft", "infft": "fft"}
        self.inner = (
            method if callable(method) else getattr(tsne, f"kl_divergence_{ways.get(str(method).lower(), 'bh')}")
        )
        self.norm = np.inf

    def __call__(self, *args: Any, **words: Any) -> tuple[float, np.ndarray]:
        error, gradient = self.inner(*args, **words)
        self.norm = 4 * float(np.linalg.norm(gradient))
        return error, gradient


def _descend(
    embedding: Any, plan: list[tuple[int, Any, float]], task: Task, watched: Watched | None = None, step: int = 50
) -> int:
    """Gradient descent in steps of 50; place, speed and gains are kept after each where there is a folder for them.

    Each step starts from exactly what was kept, so a resumed run ends on the same picture. Behind the exaggeration it ends early
    where task.parameters say so (STOPS), as scikit-learn's does: no better KL divergence for so many steps, or a gradient of
    so small a norm. How many steps were taken.
    """
    total, done = sum(rounds for rounds, _, _ in plan), 0
    patience, least = (task.parameters.get(name) for name in STOPS)
    optimizer = embedding.optimizer
    before = task.kept.load("descent")
    ready, best, best_at, ended = 0, np.inf, 0, False
    if before:
        embedding[:] = before["places"]
        optimizer.gains, optimizer.update = before["gains"], before["update"]
        embedding.kl_divergence = float(before["kl"])
        ready, best, best_at = int(before["done"]), float(before["best"]), int(before["best_at"])
        ended = bool(before["ended"])
    for phase, (rounds, exaggeration, momentum) in enumerate(plan):
        for first in range(0, rounds, step):
            size = min(step, rounds - first)
            done += size
            if done <= ready:
                continue
            if ended:
                return done - size
            embedding.optimize(
                size,
                exaggeration=exaggeration,
                momentum=momentum,
                inplace=True,
                callbacks=[lambda *_: False],
                callbacks_every_iters=size,
            )
            task.progress("t-SNE", done, total)
            if phase:
                if embedding.kl_divergence < best:
                    best, best_at = float(embedding.kl_divergence), done
                ended = patience is not None and done - best_at > patience
                ended = ended or (least is not None and watched is not None and watched.norm <= least)
            if ended or done == total or task.kept.due():
                state = {"places": np.asarray(embedding), "gains": optimizer.gains, "update": optimizer.update}
                state |= {"best": np.array(best), "best_at": np.array(best_at), "ended": np.array(ended)}
                task.kept.save("descent", done=np.array(done), kl=np.array(embedding.kl_divergence), **state)
    return done


def _place_tsne(task: Task, coords: np.ndarray, new: np.ndarray) -> np.ndarray:
    import openTSNE
    from openTSNE import affinity

    options: dict[str, Any] = {"n_jobs": task.jobs, "random_state": task.seed}
    perplexity = perplexity_for(len(task.x), task.parameters)
    method = "exact" if len(task.x) <= EXACT_NEIGHBOURS else "approx"
    affinities = affinity.PerplexityBasedNN(task.x, perplexity=perplexity, method=method, **options)
    gradient = {"negative_gradient_method": "bh"} if task.dims > 2 or len(task.x) < INTERPOLATED else {}
    embedding = openTSNE.TSNEEmbedding(coords.astype(np.float64), affinities, **options, **gradient)
    near = min(25, len(task.x) - 1)
    placed = np.asarray(embedding.transform(new, perplexity=min(5, max(1, near / 3)), k=near))
    # openTSNE moves the embedding to another origin while placing; what it placed has to move back.
    shift = coords[0] - np.asarray(embedding)[0]
    return (placed + shift).astype(np.float32)


# --- UMAP, LocalMAP, PaCMAP, and classes from elsewhere ---------------------------------------------------------------


def _umap(name: str = "umap") -> Algorithm:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap
    except ImportError:
        raise need("umap-learn", "embed") from None
    run = partial(_run_umap, densmap=True) if name == "densmap" else _run_umap
    return Algorithm(name, "umap-learn", _parameters(umap.UMAP), run, place_by_neighbours, 4, True)


def _umap_options(task: Task) -> dict[str, Any]:
    total = len(task.x)
    options: dict[str, Any] = {"n_jobs": 1, **task.parameters}
    asked = options.get("n_neighbors", 15)
    if asked >= total:
        options["n_neighbors"] = total - 1
        warnings.warn(f"{total} points have no {asked} neighbours: n_neighbors lowered to {total - 1}", LoupeWarning, 2)
    if task.begin is not None:
        options["init"] = (
            (task.begin - task.begin.mean(0)) / np.abs(task.begin - task.begin.mean(0)).max() * 10
        ).astype(np.float32)
    elif task.dims >= total - 1:
        options.setdefault("init", "random")
    return options


def _run_umap(task: Task, densmap: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """UMAP, or densMAP: Narayan, Berger and Cho 2021, Assessing single-cell transcriptomic variability through
    density-preserving data visualization, doi:10.1038/s41587-020-00801-7."""
    from torchloupe.methods.layout import Drawn, StepwiseUMAP

    total, options = len(task.x), _umap_options(task)
    if densmap:
        options["densmap"] = True
    if task.target is not None:
        options.setdefault("target_metric", "categorical" if task.target.dtype.kind in "iu" else "l2")
    how: dict[str, Any] = {"neighbours": "as umap-learn chooses"}
    if task.metric != "euclidean":
        options["metric"] = task.metric
    if total >= KEEP_FROM and not {"metric", "precomputed_knn", "unique"} & set(options):
        found = _neighbours(task, options.get("n_neighbors", 15) - 1)
        itself, no_way = np.arange(total, dtype=np.int32)[:, None], np.zeros((total, 1), np.float32)
        options["precomputed_knn"] = np.hstack([itself, found.indices]), np.hstack([no_way, found.lengths])
        how = found.record()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"umap.*")
        model = StepwiseUMAP(n_components=task.dims, **options, random_state=Drawn(task.seed))
        model.kept, model.progress = task.kept, task.progress
        coords = model.fit_transform(task.x, task.target)
    lost = np.flatnonzero(~np.isfinite(coords).all(1))
    if len(lost):
        raise BadInput(
            f"UMAP left {len(lost)} points without a neighbour, the first in row {lost[0]}; raise n_neighbors"
        )
    return coords.astype(np.float32), {"n_neighbors": options.get("n_neighbors", 15), **how}


def place_by_neighbours(task: Task, coords: np.ndarray, new: np.ndarray, count: int = 15) -> np.ndarray:
    """Places of new points (M, d): the mean of their neighbours' places, weighted by UMAP's membership.

    w_j = exp(-d_j / s), s such that sum_j w_j = log2(count); where twins are among the map's points, the mean of those.
    Source: McInnes, Healy and Melville 2018, UMAP, arXiv:1802.03426 (the membership).
    Differs: no descent follows, so that a point lies where it lies whatever others are placed with it.
    """
    asked = task.parameters.get("n_neighbors") or count
    found = nearest_of(task.x, new, int(min(asked, len(task.x))))
    lengths, indices = found
    wanted = max(1.0, np.log2(lengths.shape[1]))
    scale = np.maximum(lengths.mean(1, keepdims=True), np.finfo(float).tiny)
    apart = lengths / scale
    low, high = np.full((len(new), 1), 1e-6), np.full((len(new), 1), 1e6)
    for _ in range(80):
        middle = np.sqrt(low * high)
        over = np.exp(-apart / middle).sum(1, keepdims=True) > wanted
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    weights = np.exp(-apart / high)
    twins = lengths == 0
    weights = np.where(twins.any(1, keepdims=True), twins, weights)
    weights /= weights.sum(1, keepdims=True).clip(np.finfo(float).tiny)
    return np.einsum("mk,mke->me", weights, coords[indices].astype(np.float64)).astype(np.float32)


METRICS_OF_PACMAP = {"euclidean": "euclidean", "manhattan": "manhattan", "l1": "manhattan", "hamming": "hamming"}


def _pacmap(name: str, title: str) -> Algorithm:
    try:
        import pacmap
    except ImportError:
        raise need("pacmap", "embed") from None
    made = getattr(pacmap, title)

    def run(task: Task) -> tuple[np.ndarray, dict[str, Any]]:
        asked = task.parameters.get("n_neighbors", 10) or 10
        options = {"random_state": task.seed, **task.parameters, "n_neighbors": min(asked, len(task.x) - 1)}
        if task.metric not in METRICS_OF_PACMAP:
            raise BadInput(f"{name}: metric {task.metric}: expected {', '.join(METRICS_OF_PACMAP)} or cosine")
        options["distance"] = METRICS_OF_PACMAP[task.metric]
        logger = logging.getLogger("pacmap.pacmap")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            return np.asarray(made(n_components=task.dims, **options).fit_transform(task.x), np.float32), {}
        finally:
            logger.setLevel(level)

    return Algorithm(name, "pacmap", _parameters(made), run, partial(place_by_neighbours, count=10), 12, True)


def _imported(path: str) -> Algorithm:
    """A class with fit_transform(x), given n_components and random_state where it takes them."""
    # sklearn.manifold.Isomap is how such classes are written, too
    made = imported(path if ":" in path else ":".join(path.rsplit(".", 1)), "method")
    if not callable(getattr(made, "fit_transform", None)):
        raise BadInput(f"method {path!r}: no method fit_transform; expected a scikit-learn style class")
    names = inspect.signature(made).parameters

    def fresh(task: Task) -> Any:
        given: dict[str, Any] = {"n_components": task.dims, "random_state": task.seed}
        if task.metric != "euclidean":
            named = "dissimilarity" if "dissimilarity" in names and task.metric == "precomputed" else "metric"
            if named not in names:
                raise BadInput(f"method {path!r} takes no metric: leave out {task.metric}, or use tsne or umap")
            given[named] = task.metric
        return made(**{key: value for key, value in given.items() if key in names}, **task.parameters)

    def run(task: Task) -> tuple[np.ndarray, dict[str, Any]]:
        coords = np.asarray(fresh(task).fit_transform(task.x), np.float32)
        if coords.ndim != 2 or len(coords) != len(task.x):
            raise BadInput(f"method {path!r} returned shape {coords.shape} for {len(task.x)} points")
        return coords, {}

    def place(task: Task, _coords: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.asarray(fresh(task).fit(task.x).transform(new), np.float32)

    placing = place if hasattr(made, "transform") else None
    package = {"sklearn": "scikit-learn", "umap": "umap-learn"}.get(path.split(".")[0], path.split(".")[0])
    return Algorithm(path, package, _parameters(made), run, placing)


NAMED: dict[str, Callable[[], Algorithm]] = {
    "pca": _pca,
    "tsne": _tsne,
    "umap": _umap,
    "densmap": lambda: _umap("densmap"),
    "localmap": lambda: _pacmap("localmap", "LocalMAP"),
    "pacmap": lambda: _pacmap("pacmap", "PaCMAP"),
}


# --- what is done for how many points ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What will be done to N points: the algorithm, the width that the rows are reduced to (0: not), the buckets."""

    algorithm: Algorithm
    total: int
    width: int
    dims: int
    reduce: int
    buckets: int
    cores: int

    def estimate(self) -> tuple[float, float]:
        """(seconds, bytes), rough: read off what was measured on two cores, a line between sizes in log-log.

        Seconds are not a number for an algorithm that was not measured.
        """
        table = COSTS.get(self.algorithm.name, (np.nan,) * len(SIZES))
        size = self.total / self.buckets
        seconds = float(np.exp(np.interp(np.log(size), np.log(SIZES), np.log(table)))) * self.buckets
        if self.algorithm.name == "tsne" and self.dims > 2:
            seconds *= max(1.0, size / 5000) ** 0.5 * 2
        wide = self.reduce or self.width
        memory = 3e8 + 4.0 * size * (2.5 * wide + {"tsne": 1200, "umap": 900}.get(self.algorithm.name, 200))
        return seconds * (wide / 256) ** 0.3 * min(1.0, 2 / self.cores) ** 0.5, memory

    def __str__(self) -> str:
        seconds, memory = self.estimate()
        if seconds < 1:
            took = "under a second"
        elif np.isnan(seconds):
            took = "a time not known,"
        else:
            took = f"roughly {seconds:.0f} s" if seconds < 100 else f"roughly {seconds / 60:.0f} min"
        first = f" after PCA to {self.reduce}" if self.reduce else ""
        parts = f" in {self.buckets} buckets" if self.buckets > 1 else ""
        return (
            f"{self.algorithm.name} of {self.total:,} x {self.width} to {self.dims}-D{first}{parts}:"
            f" {took} and {memory / 1e9:.1f} GB on {self.cores} core{'s' * (self.cores > 1)}"
        )


SIZES = (1e2, 1e3, 1e4, 5e4, 2e5, 1e6)
COSTS = {
    "pca": (0.1, 0.1, 0.2, 0.5, 2, 10),
    "tsne": (0.5, 2, 14, 40, 150, 1000),
    "umap": (8, 12, 30, 45, 110, 600),
    "localmap": (0.3, 0.5, 3, 19, 90, 700),
    "pacmap": (0.3, 0.5, 3, 15, 75, 650),
}


def cores() -> int:
    """Processors that this process may use, no more than OMP_NUM_THREADS where it is set."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(found, int(asked)) if asked.isdigit() and int(asked) > 0 else found


def choose(total: int) -> str:
    """The method for N points: t-SNE keeps neighbours best, up to 1,000,000; above, UMAP in less time; PCA below 4."""
    return "pca" if total < 4 else "tsne" if total <= 1_000_000 else "umap"


def reduced(total: int, width: int, method: str, ask: int | None) -> int:
    """The width that rows are reduced to by PCA first; 0 for not at all. ask None: 256 for wide rows, 64 for many."""
    if ask is not None:
        if ask < 0:
            raise BadInput(f"reduce {ask}: expected a number of dimensions, or 0 for none")
        return ask if ask < min(total, width) else 0
    limit = 64 if total > 300_000 else 256 if width > 512 else width
    return limit if method != "pca" and limit < min(total, width) else 0


@dataclass(frozen=True)
class Projection:
    """A map: coords (N, e) float32, and the record of how it was made."""

    coords: np.ndarray
    record: dict[str, Any]


def project(
    rows: Rows,
    method: str = "auto",
    dims: int = 2,
    *,
    seed: int = SEED,
    parameters: Mapping[str, Any] | None = None,
    reduce: int | None = None,
    neighbours: str = "auto",
    bucket: int | None = None,
    jobs: int | None = None,
    work: Path | None = None,
    begin: np.ndarray | None = None,
    target: np.ndarray | None = None,
    progress: Progress = quiet,
    started: Callable[[Plan], None] | None = None,
) -> Projection:
    """Project feature rows (N, D) to a map (N, dims).

    method: pca, tsne, umap, densmap, localmap, pacmap, auto (as choose says) or a class's import path.
    parameters: passed to the implementation under its own names. reduce: PCA to so many dimensions first; None: when
    rows are wider than 512 (to 256) or more than 300,000 (to 64); 0: never. neighbours: exact, approximate, or auto
    (exact up to 20,000 points). bucket: project independent buckets of so many rows (their places cannot be compared).
    work: a folder for what a killed run needs to go on; the same call continues from it. begin (N, dims): places that
    t-SNE and UMAP begin from, so that two maps can be compared. target (N,): what supervises umap and densmap, see Task. started:
    told the plan.
    Raises BadInput for an unknown method, parameter or dimension and for too few points.
    """
    chosen = algorithm(choose(len(rows)) if method == "auto" else method)
    given = dict(parameters or {})
    rows = _under(rows, chosen, given)
    asked = dict(given)
    if chosen.name == "tsne":
        given = _of_scikit_learn(given)
    chosen.check(given)
    if rows.metric == "precomputed" and bucket is not None:
        raise BadInput("metric precomputed: distances cannot be cut into buckets; leave out --bucket-size")
    if target is not None and chosen.name not in SUPERVISED:
        raise BadInput(f"{chosen.name} cannot be supervised by labels; {' and '.join(SUPERVISED)} can")
    if target is not None and (len(target) != len(rows) or not np.isfinite(target).all()):
        raise BadInput(f"{len(target)} targets for {len(rows)} rows; every row needs one, and a finite one")
    if dims < 1:
        raise BadInput(f"{dims} dimensions: expected 1, 2, 3 or more")
    if neighbours not in ("auto", "exact", "approximate"):
        raise BadInput(f"neighbours {neighbours!r}: expected auto, exact or approximate")
    if bucket is not None and bucket < chosen.least:
        raise BadInput(f"bucket size {bucket}: {chosen.name} needs at least {chosen.least} points in each")
    if len(rows) < chosen.least:
        raise BadInput(f"--method {chosen.name} needs at least {chosen.least} samples, not {len(rows)}; pca needs 2")
    width = rows.width
    spans = _buckets(len(rows), bucket, chosen.least)
    if rows.metric != "euclidean" and reduce:
        raise BadInput(f"reduce {reduce}: PCA keeps Euclidean distances, not {rows.metric} ones; leave it out")
    to = reduced(len(rows), width, chosen.name, reduce) if rows.metric == "euclidean" else 0
    plan = Plan(chosen, len(rows), width, dims, to, len(spans), jobs or cores())
    if started is not None:
        started(plan)
    begun = time.monotonic()
    kept = Kept(
        work, _key(rows, chosen, given, dims, seed, to, neighbours, bucket, _told(begin), _told(target)) if work else ""
    )
    x, variance = _reduced_rows(rows, to, seed, kept, progress)
    task = Task(x, dims, seed, given, neighbours, plan.cores, kept, progress, begin, rows.metric, target)
    coords, notes = _run(chosen, task, spans)
    record: dict[str, Any] = {
        "kind": "projection",
        "method": chosen.name,
        "chosen_by": "number of points" if method == "auto" else "user",
        "library": chosen.library,
        "parameters": asked,
        "metric": "cosine" if rows.unit and rows.metric == "euclidean" else rows.metric,
        "dims": dims,
        "seed": seed,
        "points": len(rows),
        "width": width,
        "reduced_to": to,
        "neighbour_search": neighbours,
        "bucket_size": bucket,
        "buckets": len(spans),
        **({"variance_kept": variance} if to else {}),
        **notes,
        "seconds": round(time.monotonic() - begun, 3),
    }
    return Projection(coords, record)


def metric_of(method: str, parameters: Mapping[str, Any]) -> str | None:
    """The metric that an implementation's own parameters name; None where they name none."""
    given = parameters.get("distance" if method in ("localmap", "pacmap") else "metric")
    if not isinstance(given, str) or parameters.get("metric_params") or parameters.get("metric_kwds"):
        return None
    return {"angular": "cosine", "l2": "euclidean"}.get(given, given)


def _under(rows: Rows, chosen: Algorithm, given: dict[str, Any]) -> Rows:
    """The rows under the metric that is among the parameters, which is taken out of them: it is ours to bring about."""
    metric = metric_of(chosen.name, given)
    if metric is None or metric not in metrics():
        return rows
    if rows.metric not in ("euclidean", metric):
        raise BadInput(f"metric {rows.metric} and, among the parameters, {metric}; give one of the two")
    given.pop("distance" if chosen.name in ("localmap", "pacmap") else "metric")
    return rows.by(metric)


def _run(chosen: Algorithm, task: Task, spans: list[tuple[int, int]]) -> tuple[np.ndarray, dict[str, Any]]:
    if len(spans) > 1:
        warnings.warn(
            f"{len(spans)} buckets are projected independently: places in different buckets cannot be compared, and the"
            " same class may lie in several places; leave out the bucket size for one map of all points",
            LoupeWarning,
            3,
        )
    try:
        with _threads_of_torch():
            if len(spans) == 1:
                return _mapped(chosen, task)
            own = [None if task.target is None else task.target[a:b] for a, b in spans]
            pieces = zip(spans, own, strict=True)
            parts = [
                _mapped(chosen, replace(task, x=task.x[a:b], kept=Kept(None), target=t))[0] for (a, b), t in pieces
            ]
            return np.concatenate(parts), {}
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{chosen.name}: {error}") from error


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """numba and faiss set the number of OpenMP's threads, which is torch's too: put back where torch is loaded."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch and torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _mapped(chosen: Algorithm, task: Task) -> tuple[np.ndarray, dict[str, Any]]:
    """Run an algorithm; many rows are given in an order in which near ones lie near, and the map put back in theirs."""
    if not chosen.by_neighbours or len(task.x) < KEEP_FROM or task.metric != "euclidean":
        return chosen.run(task)
    order = nearby(task.x, task.seed)
    begin = None if task.begin is None else task.begin[order]
    target = None if task.target is None else task.target[order]
    sorted_map, notes = chosen.run(replace(task, x=task.x[order], begin=begin, target=target))
    coords = np.empty_like(sorted_map)
    coords[order] = sorted_map
    return coords, notes


def _buckets(total: int, bucket: int | None, least: int) -> list[tuple[int, int]]:
    """Spans of rows; a last one too small to be mapped joins the one before it."""
    size = bucket or total
    edges = [*range(0, total, size), total]
    if len(edges) > 2 and edges[-1] - edges[-2] < least:
        edges.pop(-2)
    return list(pairwise(edges))


def _reduced_rows(rows: Rows, to: int, seed: int, kept: Kept, progress: Progress) -> tuple[np.ndarray, float]:
    if not to:
        return rows.array(), 1.0
    found = kept.load("reduced")
    if found is None:
        progress("PCA", 0, 1)
        axes = principal_axes(rows, to, seed=seed)
        found = {"x": axes.apply(rows), "share": np.array(axes.variance.sum() / axes.total)}
        kept.save("reduced", **found)
    return found["x"], float(found["share"])


def _told(begin: np.ndarray | None) -> str:
    return "" if begin is None else hashlib.sha256(np.ascontiguousarray(begin).tobytes()).hexdigest()


def _key(rows: Rows, chosen: Algorithm, *options: object) -> str:
    """A hash of all rows and of everything that was asked."""
    digest = hashlib.sha256()
    for _, block in rows.pieces():
        digest.update(np.ascontiguousarray(block).tobytes())
    digest.update(json.dumps([len(rows), rows.metric, chosen.name, chosen.library, *options], default=str).encode())
    return digest.hexdigest()


def place(
    rows: Rows,
    coords: np.ndarray,
    new: Rows,
    record: Mapping[str, Any],
    *,
    jobs: int | None = None,
    progress: Progress = quiet,
) -> np.ndarray:
    """Places of new rows in a map that exists: the map's own points do not move.

    rows (N, D) and coords (N, e): what the map was made of, prepared in the same way; record: the map's record;
    new (M, D) -> (M, e). Each new point is placed by itself, by its neighbours among the map's points.
    Raises BadInput where the method cannot place, or the widths differ.
    """
    chosen = algorithm(str(record["method"]))
    if chosen.place is None:
        raise BadInput(f"{chosen.name} cannot place new points; pca, tsne, umap, localmap and pacmap can")
    if record.get("buckets", 1) > 1:
        raise BadInput("the map was made in buckets: there is no one map to place new points in")
    if rows.width != new.width:
        raise BadInput(f"new points have {new.width} numbers, the map's {rows.width}; embed both with the same layer")
    if len(rows) != len(coords):
        raise BadInput(f"the map has {len(coords)} points, its features {len(rows)} rows; were they written again?")
    to, seed = int(record.get("reduced_to", 0)), int(record["seed"])
    axes = principal_axes(rows, to, seed=seed) if to else None
    x, fresh = (axes.apply(part) if axes else part.array() for part in (rows, new))
    progress("placing", 0, 1)
    task = Task(x, coords.shape[1], seed, dict(record.get("parameters", {})), jobs=jobs or cores(), progress=progress)
    return chosen.place(task, coords, fresh)
