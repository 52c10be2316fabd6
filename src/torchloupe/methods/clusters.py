"""Groups of points: those that stand together on a map, those of features, what they are called, and where errors gather."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, need
from torchloupe.points import Points, missing

CLUSTER, ERRORS, PREDICTED = "cluster", "errors", "predicted"
MOST = 20_000
DENSE = 5
SPECTRAL = 5000
SURE, TYPICAL = 0.9, 0.2


def least_of(total: int) -> int:
    """The fewest points that make a cluster where nobody says: 8, or a 120th of all."""
    return max(8, total // 120)


def clusters(places: np.ndarray, least: int | None = None, *, seed: int = 1597) -> np.ndarray:
    """The clusters of a map by density: places (N, e) -> (N,) numbers from 0, the largest first, -1 for points in none.

    least: the fewest points of one. HDBSCAN, each point's core distance to its 5th nearest. Above 20,000 points a seeded
    sample is clustered, and every other point goes with its nearest neighbour of the sample.
    Source: Campello, Moulavi and Sander 2013, Density-Based Clustering Based on Hierarchical Density Estimates,
    doi:10.1007/978-3-642-37456-2_14.
    """
    try:
        from sklearn.cluster import HDBSCAN
        from sklearn.neighbors import NearestNeighbors
    except ImportError:
        raise need("scikit-learn", "embed") from None
    total = len(places)
    least = least_of(total) if least is None else least
    if least < 2:
        raise BadInput(f"clusters of {least} points: expected 2 or more")
    if total <= max(least, DENSE):
        return np.full(total, -1)
    rows = np.arange(total)
    if total > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(total, MOST, replace=False))
        least = max(2, least * MOST // total)
    some = np.asarray(places[rows], np.float64)
    found = HDBSCAN(min_cluster_size=least, min_samples=min(DENSE, len(some) - 1), copy=True).fit(some).labels_
    if total > MOST:
        nearest = NearestNeighbors(n_neighbors=1).fit(some)
        found = found[nearest.kneighbors(np.asarray(places, np.float64), return_distance=False)[:, 0]]
    return largest_first(found)


def cluster_codes(points: Points) -> np.ndarray:
    """The clusters that stand in the points' column `cluster`, by number, else those of their places."""
    column = points.columns.get(CLUSTER)
    if column is None:
        return clusters(points.feats)
    gap = missing(column)
    codes = np.full(len(points), -1)
    codes[~gap] = np.unique(column[~gap], return_inverse=True)[1]
    return largest_first(codes)


def spectral(feats: np.ndarray, count: int | None = None, *, most: int = 16, seed: int = 1597) -> np.ndarray:
    """The clusters of features (N, D) by their graph of neighbours: (N,) numbers from 0, the largest first.

    count: how many; None: where the eigenvalues of the graph's normalised Laplacian leap most, among 2 to `most`.
    Source: von Luxburg 2007, A Tutorial on Spectral Clustering, arXiv:0711.0189 (the gap); Lapuschkin et al. 2019, Unmasking
    Clever Hans predictors and assessing what machines really learn, doi:10.1038/s41467-019-08987-4 (of heatmaps: SpRAy).
    """
    try:
        from sklearn.cluster import SpectralClustering
        from sklearn.neighbors import kneighbors_graph
    except ImportError:
        raise need("scikit-learn", "embed") from None
    total = len(feats)
    if total > SPECTRAL:
        raise BadInput(
            f"{total:,} rows are too many for spectral clustering ({SPECTRAL:,}); project them, and cluster the map"
        )
    if total < 4:
        raise BadInput(f"{total} rows: too few for clusters")
    if count is not None and not 1 < count < total:
        raise BadInput(f"{count} clusters of {total} rows: expected 2 to {total - 1}")
    data = np.asarray(feats, np.float64).reshape(total, -1)
    near = kneighbors_graph(data, min(max(4, round(np.log2(total))), total - 1), include_self=True)
    graph = 0.5 * (near + near.T)
    if count is None:
        count = int(np.diff(laplacian_values(graph, min(most + 1, total - 1)))[1:].argmax()) + 2
    made = SpectralClustering(count, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)  # which it may well be
        return largest_first(made.fit_predict(graph))


def laplacian_values(graph: Any, count: int) -> np.ndarray:
    """The smallest `count` eigenvalues of the normalised Laplacian  1 - D^-1/2 W D^-1/2  of a graph W (N, N)."""
    from scipy.linalg import eigh

    weights = graph.toarray()
    scale = 1 / np.sqrt(weights.sum(1))
    laplacian = np.eye(len(weights)) - scale[:, None] * weights * scale
    values: np.ndarray = eigh(laplacian, eigvals_only=True, subset_by_index=[0, count - 1])
    return values


def largest_first(codes: np.ndarray) -> np.ndarray:
    """The same groups by other numbers: 0 the largest; -1 stays."""
    found, sizes = np.unique(codes[codes >= 0], return_counts=True)
    number = {int(code): i for i, code in enumerate(found[np.argsort(-sizes, kind="stable")])}
    return np.array([number.get(int(code), -1) for code in codes], np.int64)


def errors(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(N,) "wrong", "right" or, without a label, "": labels against predicted classes, whatever the case of their letters.

    A class may have several names ("tabby, tabby cat"). None where not one label is a name of any predicted class: then the
    labels speak of something else.
    """
    told, gaps = predicted.astype(str), missing(labels)
    names = {name: {part.strip().lower() for part in (name, *name.split(","))} for name in np.unique(told).tolist()}
    said = [label.strip().lower() for label in labels.astype(str).tolist()]
    if not set(said) & set().union(*names.values()):
        return None
    right = [label in names[name] for label, name in zip(said, told.tolist(), strict=True)]
    return np.array(["" if gap else "right" if ok else "wrong" for ok, gap in zip(right, gaps.tolist(), strict=True)])


WRONG, RIGHT = ("wrong", "true", "yes", "1", "error"), ("right", "false", "no", "0", "correct", "ok", "")


def are_wrong(values: np.ndarray, name: str) -> np.ndarray:
    """(N,) bool of a column that says which points are errors. Errors: BadInput for one that says something else."""
    said = [value.strip().lower() for value in values.astype(str).tolist()]
    odd = next((value for value in said if value not in (*WRONG, *RIGHT)), None)
    if odd is not None:
        raise BadInput(f"column {name!r} holds {odd!r}; of errors it says wrong or right, true or false, 1 or 0")
    return np.array([value in WRONG for value in said])


@dataclass(frozen=True)
class Group:
    """A cluster: its rows, the row in its middle, its name, and of the points with a value in the column that names it the share of
    that value.

    common: its most frequent values and their shares. errors: the share of points that are wrong; None where that is not known.
    """

    rows: np.ndarray
    medoid: int
    name: str
    share: float
    common: tuple[tuple[str, float], ...] = ()
    errors: float | None = None


def groups(
    places: np.ndarray, codes: np.ndarray, values: np.ndarray | None = None, wrong: np.ndarray | None = None
) -> list[Group]:
    """The clusters one by one: places (N, e), codes (N,) with -1 for none.

    values (N,): the column that names them, by the majority; by what words are typical of a cluster where there is none and the
    values are texts. None: numbers. wrong (N,) bool: which points are errors.
    """
    count = int(codes.max(initial=-1)) + 1
    rows = [np.flatnonzero(codes == code) for code in range(count)]
    found = []
    texts = None if values is None else [_texts(values[mine]) for mine in rows]
    typical = [] if texts is None else typical_words(texts)
    for code, mine in enumerate(rows):
        name, share, common = (str(code + 1), 1.0, ()) if texts is None else named(texts[code], typical[code])
        errors = None if wrong is None else float(wrong[mine].mean())
        found.append(Group(mine, medoid(places, mine), name, share, common, errors))
    return found


def medoid(places: np.ndarray, rows: np.ndarray) -> int:
    """The row nearest to the median of all of them, so that it is one of theirs."""
    mine = np.asarray(places[rows], np.float64)
    return int(rows[np.linalg.norm(mine - np.median(mine, 0), axis=1).argmin()])


def named(texts: Sequence[str], typical: str) -> tuple[str, float, tuple[tuple[str, float], ...]]:
    """What a cluster is called by its values, the share of the first, and the three most frequent with theirs."""
    if not texts:
        return "", 0.0, ()
    counted = sorted(Counter(texts).items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    common = tuple((value, times / len(texts)) for value, times in counted)
    first, share = common[0]
    if share < TYPICAL and typical:
        return typical, share, common
    return (first if share >= SURE else f"{first} {share:.0%}"), share, common


def _texts(values: np.ndarray) -> list[str]:
    return [str(value) for value in values[~missing(values)].tolist()]


def typical_words(groups_of_texts: Sequence[Sequence[str]], most: int = 3) -> list[str]:
    """Of each group of texts the words that it has and others have not; "" for groups of texts of one word.

    score of word t in group c:  f(t, c) * log(1 + A / f(t)),  f the number of texts, A its mean over the groups.
    Source: Grootendorst 2022, BERTopic, arXiv:2203.05794 (class-based tf-idf).
    Differs: a word counts once a text; words in fewer than a fifth of a group's texts, or hardly more frequent there than
    elsewhere, say nothing about it and are left out.
    """
    words = [[set(re.findall(r"\w{3,}", text.lower())) for text in texts] for texts in groups_of_texts]
    counts = [Counter(word for text in texts for word in text) for texts in words]
    total: Counter[str] = sum(counts, Counter())
    every = sum(len(texts) for texts in words)
    mean = sum(total.values()) / max(1, len(counts))
    found = []
    for texts, count in zip(words, counts, strict=True):
        size = len(texts)
        several = sum(len(text) > 1 for text in texts) > size / 2
        own = [
            word
            for word, times in count.items()
            if times >= TYPICAL * size and times / size > 1.5 * total[word] / every
        ]
        ordered = sorted((-count[word] * float(np.log1p(mean / total[word])), word) for word in own)
        found.append(", ".join(word for _, word in ordered[:most]) if several else "")
    return found
