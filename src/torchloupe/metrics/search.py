"""How well any embedding finds what belongs together: Rank-k, mean average precision and mINP of queries in a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torchloupe.errors import BadInput
from torchloupe.metrics.retrieval import CHUNK, RANKS, distances, ranked
from torchloupe.points import missing


@dataclass(frozen=True)
class Searched:
    """What queries found.

    queries, items: rows. first (q,): rank of the first right item, NaN for a query that has none in the gallery; precision,
    inp (q,): AP and INP, NaN likewise. nearest (q,): row of the nearest item that is not left out, -1 where there is none.
    """

    queries: np.ndarray
    items: np.ndarray
    first: np.ndarray
    precision: np.ndarray
    inp: np.ndarray
    nearest: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(q,) bool: the queries that have a right item, over which all numbers go."""
        return ~np.isnan(self.first)

    def numbers(self, ranks: Sequence[int] = RANKS) -> dict[str, float]:
        """Rank-k, the share of queries with a right item among the first k; mAP; mINP. 0..1, higher is better."""
        known = self.known
        told = {f"Rank-{rank}": float((self.first[known] <= rank).mean()) for rank in ranks}
        return {**told, "mAP": float(self.precision[known].mean()), "mINP": float(self.inp[known].mean())}


def search(
    feats: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray | None = None,
    items: np.ndarray | None = None,
    apart: Sequence[np.ndarray] = (),
    metric: str = "euc",
) -> Searched:
    """Every query searched for in the gallery: feats (N, D) or (N, c, p), labels (N,), an item is right that has the query's label.

    queries, items: rows; None: all. A row never finds itself. apart: columns (N,); items of the query's own label that have
    its value in all of them are left out, as re-identification leaves out those of the same camera. metric: euc or cos, the mean
    over parts. Equal distances count against the query. Queries without a label are left out; items without one are wrong.
    Source: Zheng et al. 2015, Scalable Person Re-identification: A Benchmark (Rank-k, mAP, the same camera left out);
    Ye et al. 2021, arXiv:2001.04193 (mINP).
    Errors: BadInput where no query has a right item in the gallery.
    """
    every = np.arange(len(feats))
    asked = every if queries is None else np.asarray(queries)
    held = every if items is None else np.asarray(items)
    gaps = missing(labels)
    asked = asked[~gaps[asked]]
    if not len(asked) or not len(held):
        raise BadInput(f"{len(asked)} queries with a label and {len(held)} items: a search needs both")
    parts = np.asarray(feats).reshape(len(feats), feats.shape[1], -1)
    gallery = torch.as_tensor(np.ascontiguousarray(parts[held]))
    found: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(asked), CHUNK):
        some = asked[start : start + CHUNK]
        far = distances(torch.as_tensor(np.ascontiguousarray(parts[some])), gallery, metric).numpy()
        right = (labels[some][:, None] == labels[held]) & ~gaps[held]
        out = some[:, None] == held
        if apart:
            out = out | (right & np.all([column[some][:, None] == column[held] for column in apart], axis=0))
        near = np.where(out, np.inf, far)
        nearest = np.where(np.isfinite(near.min(1)), held[near.argmin(1)], -1)
        found.append((*ranked(far, right, ~out), nearest))
    first, precision, inp, nearest = (np.concatenate(one) for one in zip(*found, strict=True))
    made = Searched(asked, held, first, precision, inp, nearest)
    if not made.known.any():
        raise BadInput(
            f"none of the {len(asked)} queries has an item of its own label in the gallery of {len(held)}, other than itself"
            " and those left out"
        )
    return made
