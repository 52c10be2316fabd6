"""How well a gallery is searched: Rank-k, mean average precision and mINP, by the protocols of gait data sets.

Functions of embeddings and names; nothing here knows a model or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchloupe.errors import BadInput, nearest

CHUNK = 256
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class Setting:
    """Which walks are probes, and which are the gallery: by their types, or where these are (), by the sets of names.

    holds: a type counts that holds one of the words, as those of SUSTech1K do (01-nm is in 01-nm-ub).
    """

    name: str
    probe: tuple[str, ...] = ()
    gallery: tuple[str, ...] = ()
    holds: bool = False


@dataclass(frozen=True)
class Protocol:
    """How a data set is evaluated.

    by_view: Rank-k of every pair of views; the number is the mean over gallery views other than the probe's, then over
        probe views. Otherwise: over the whole gallery, without the items that `exclude` leaves out.
    exclude: a rule of targets.retrieval.EXCLUDE; where by_view, for mAP, mINP and the nearest item of a probe.
    by_probe: the mean over probe views of the mean over their probes. known: Rank-k over probes whose person is in the
        gallery. lost: views that are left out. cameras: a view is what stands before "_" in it, and Rank-k by view is told
    besides. sets: "probe" or "gallery": which of the two a file names, by id-type-view.
    Source: the evaluators of OpenGait (Fan et al. 2023, arXiv:2211.06597), whose names the protocols have.
    """

    name: str
    settings: tuple[Setting, ...]
    by_view: bool = False
    exclude: str = ""
    by_probe: bool = False
    known: bool = False
    lost: tuple[str, ...] = ()
    cameras: bool = False
    sets: str = ""


def _scenes(kind: str) -> tuple[str, ...]:
    return tuple(f"{h}-scene{n}-{kind}-{i}" for n in ("2", "3", "3_s") for h in "HL" for i in (1, 2))


_SUSTECH = {
    "Normal": ("01-nm",),
    "Bag": ("bg",),
    "Clothing": ("cl",),
    "Carrying": ("cr",),
    "Umbrella": ("ub",),
    "Uniform": ("uf",),
    "Occlusion": ("oc",),
    "Night": ("nt",),
    "Overall": ("01", "02", "03", "04"),
}
_NAMED = (Setting("all"),)
PROTOCOLS: Mapping[str, Protocol] = {
    one.name: one
    for one in (
        Protocol(
            "CASIA-B",
            tuple(
                Setting(kind.upper(), (f"{kind}-{i}", f"{kind}-{j}"), ("nm-01", "nm-02", "nm-03", "nm-04"))
                for kind, i, j in (("nm", "05", "06"), ("bg", "01", "02"), ("cl", "01", "02"))
            ),
            by_view=True,
            exclude="same-view",
        ),
        Protocol(
            "CASIA-B-cross-view",
            tuple(Setting(kind.upper(), (f"{kind}-01",), ("nm-02", "bg-02", "cl-02")) for kind in ("nm", "bg", "cl")),
            exclude="own-view",
            by_probe=True,
        ),
        Protocol("OUMVLP", (Setting("NM", ("00",), ("01",)),), by_view=True, exclude="same-view"),
        Protocol("OUMVLP-cross-view", (Setting("NM", ("00",), ("01",)),), exclude="own-view", by_probe=True),
        Protocol(
            "CASIA-E",
            tuple(
                Setting(kind.upper(), _scenes(kind), tuple(f"{h}-scene1-nm-{i}" for h in "HL" for i in (1, 2)))
                for kind in ("nm", "bg", "cl")
            ),
            by_view=True,
            exclude="same-view",
            lost=("270",),
        ),
        Protocol(
            "SUSTech1K",
            tuple(Setting(name, words, ("00-nm",), holds=True) for name, words in _SUSTECH.items()),
            by_view=True,
            exclude="same-view",
        ),
        Protocol("GREW", (Setting("all", ("02",), ("01",)),)),
        Protocol(
            "CCPG",
            (
                Setting("CL", ("U0_D0_BG", "U0_D0"), ("U1_D1", "U2_D2", "U3_D3")),
                Setting("UP", ("U3_D3",), ("U0_D3",)),
                Setting("DN", ("U1_D0",), ("U1_D1",)),
                Setting("BG", ("U0_D0_BG",), ("U0_D0",)),
            ),
            exclude="own-camera",
            known=True,
            cameras=True,
        ),
        Protocol("Gait3D", _NAMED, known=True, sets="probe"),
        Protocol("FreeGait", _NAMED, known=True, sets="probe"),
        Protocol("CCGR-MINI", _NAMED, known=True, sets="gallery"),
    )
}
"""Data set -> its protocol."""


@dataclass(frozen=True)
class Walks:
    """N embedded walks: embeddings (N, c, p); names (id-type-view), identities, types and views, (N,) texts each."""

    embeddings: np.ndarray
    names: np.ndarray
    identities: np.ndarray
    types: np.ndarray
    views: np.ndarray

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Measured:
    """What one setting gave.

    probes, items: rows of the walks. first (n,): the rank of the first right item, NaN for a probe whose person the
    gallery (without what is left out) lacks; precision, inp (n,): AP and INP, NaN likewise. nearest, match (n,): rows of
    the nearest item and of the nearest right one, -1 where there is none; to_nearest, to_match (n,): their distances.
    by_view (n, V): the rank of the first right item within one view of the gallery; infinite where it has none of the
    person, NaN where it has no item. tables: k -> (V, V), share of probes of a view (row) recognised within rank k in a
    view of the gallery (column).
    numbers: what the protocol reports, 0..1.
    """

    setting: str
    probes: np.ndarray
    items: np.ndarray
    first: np.ndarray
    precision: np.ndarray
    inp: np.ndarray
    nearest: np.ndarray
    match: np.ndarray
    to_nearest: np.ndarray
    to_match: np.ndarray
    by_view: np.ndarray
    tables: Mapping[int, np.ndarray] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


def protocol(name: str) -> Protocol:
    """A protocol by its data set's name. Errors: BadInput with the names there are."""
    known = {one.lower(): one for one in PROTOCOLS}
    if name.lower() not in known:
        raise BadInput(f"protocol {name!r}: expected one of {', '.join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[known[name.lower()]]


def distances(a: Tensor, b: Tensor, metric: str) -> Tensor:
    """(n, c, p), (m, c, p) -> (n, m), mean over parts. euc: | a - b | over c; cos: 1 - cosine over c. In float64."""
    if metric not in ("euc", "cos"):
        raise BadInput(f"metric {metric!r}: expected one of euc, cos")
    a, b = a.double(), b.double()
    if metric == "cos":
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    found = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    for part in range(a.shape[2]):
        x, y = a[..., part], b[..., part]
        if metric == "cos":
            found += 1 - x @ y.T
        else:
            square = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
            found += square.clamp(min=0).sqrt()
    return found / a.shape[2]


class Ranked(NamedTuple):
    """first (n,), precision (n,), inp (n,); NaN for a row without a right item."""

    first: np.ndarray
    precision: np.ndarray
    inp: np.ndarray


def ranked(distance: np.ndarray, right: np.ndarray, allowed: np.ndarray) -> Ranked:
    """What sorting each row of (n, m) distances gives: the rank of the first right item, AP, INP.

    AP = mean over right items of (right items up to it) / its rank; INP = right items / rank of the last one.
    A wrong item at the same distance as a right one comes before it, so that a model that maps all to one point gets 0.
    Source: Ye et al. 2021, Deep Learning for Person Re-identification, TPAMI, arXiv:2001.04193 (mINP).
    """
    right = right & allowed
    held = np.where(allowed, distance, np.inf)
    order = np.lexsort((right, held), axis=1)
    hits = np.take_along_axis(right, order, 1)
    total = hits.sum(1)
    place = np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = (hits * hits.cumsum(1) / place).sum(1) / total
        first = np.where(total > 0, hits.argmax(1) + 1.0, np.nan)
        inp = total / np.where(total > 0, hits.shape[1] - hits[:, ::-1].argmax(1), np.nan)
    return Ranked(first, precision, inp)


def evaluate(
    walks: Walks,
    how: Protocol,
    metric: str = "euc",
    *,
    named: Sequence[str] = (),
    probes: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> list[Measured]:
    """Every setting of a protocol.

    named: what the protocol's file of sets names. probes (N, c, p): other embeddings of the same walks for those that
    are probes, such as of changed pictures. Settings without any probe are left out.
    Errors: BadInput where no setting has probes and a gallery.
    Differs: OpenGait rounds each cell of view by view to 0.01 % before it takes means, and fails on a view without items;
    such a cell is left out of the means here.
    """
    asked = walks.embeddings if probes is None else probes
    if how.cameras:
        walks = replace(walks, views=np.char.partition(walks.views, "_")[..., 0])
    found, empty = [], []
    for setting in how.settings:
        is_probe, is_item = _chosen(walks, how, setting, named)
        if is_probe.any() and is_item.any():
            found.append(
                _measured(walks, asked, how, setting, np.flatnonzero(is_probe), np.flatnonzero(is_item), metric, device)
            )
        else:
            empty.append(f"{setting.name} {int(is_probe.sum())} and {int(is_item.sum())}")
    if not found:
        kinds = sorted(set(walks.types.tolist()))
        told = ", ".join(kinds[:6]) + (" ..." if len(kinds) > 6 else "")
        raise BadInput(
            f"protocol {how.name}: no setting has probes and a gallery ({'; '.join(empty[:4])} of {len(walks)} walks); "
            f"the types there are: {told}"
        )
    return found


def _chosen(walks: Walks, how: Protocol, setting: Setting, named: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) masks of probes and gallery."""
    seen = ~np.isin(walks.views, how.lost)
    if how.sets:
        inside = np.isin(walks.names, list(named))
        return (seen & inside, seen & ~inside) if how.sets == "probe" else (seen & ~inside, seen & inside)
    masks = []
    for words in (setting.probe, setting.gallery):
        if setting.holds:
            masks.append(seen & np.any([np.char.find(walks.types, word) >= 0 for word in words], axis=0))
        else:
            masks.append(seen & np.isin(walks.types, words))
    return masks[0], masks[1]


def _measured(
    walks: Walks,
    asked: np.ndarray,
    how: Protocol,
    setting: Setting,
    probes: np.ndarray,
    items: np.ndarray,
    metric: str,
    device: str | torch.device,
) -> Measured:
    views = np.unique(walks.views[np.concatenate([probes, items])])
    gallery = torch.as_tensor(np.ascontiguousarray(walks.embeddings[items]), device=device)
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, len(probes), CHUNK):
        some = probes[start : start + CHUNK]
        rows = torch.as_tensor(np.ascontiguousarray(asked[some]), device=device)
        distance = distances(rows, gallery, metric).cpu().numpy()
        right = walks.identities[some][:, None] == walks.identities[items]
        allowed = ~_left_out(how.exclude, walks, some, items)
        by_view = np.stack([_first_of(distance, right, walks.views[items] == view) for view in views], 1)
        parts.append(
            (
                *ranked(distance, right, allowed),
                *_nearest(distance, allowed, items),
                *_nearest(distance, allowed & right, items),
                by_view,
            )
        )
    first, precision, inp, near, to_near, match, to_match, by_view = (
        np.concatenate(one) for one in zip(*parts, strict=True)
    )
    tables = {}
    if how.by_view or how.cameras:
        tables = {rank: _table(by_view, walks.views[probes], views, rank) for rank in RANKS[:2]}
    made = Measured(setting.name, probes, items, first, precision, inp, near, match, to_near, to_match, by_view, tables)
    return replace(made, numbers=_numbers(made, how, walks.views[probes]))


def _left_out(rule: str, walks: Walks, probes: np.ndarray, items: np.ndarray) -> np.ndarray:
    """(n, m) bool, by a protocol's rule."""

    def alike(values: np.ndarray) -> np.ndarray:
        return values[probes][:, None] == values[items]

    if not rule:
        return np.zeros((len(probes), len(items)), bool)
    return alike(walks.views) if rule == "same-view" else alike(walks.views) & alike(walks.identities)


def _first_of(distance: np.ndarray, right: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(n,) rank of the first right item among some; infinite without a right one, NaN without any item."""
    if not inside.any():
        return np.full(len(distance), np.nan)
    nearest = np.where(right & inside, distance, np.inf).min(1)
    before = ((distance <= nearest[:, None]) & ~right & inside).sum(1)
    return np.where(np.isfinite(nearest), before + 1.0, np.inf)


def _nearest(distance: np.ndarray, allowed: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    held = np.where(allowed, distance, np.inf)
    index = held.argmin(1)
    far = held[np.arange(len(held)), index]
    return np.where(np.isfinite(far), items[index], -1), far


def _table(by_view: np.ndarray, own: np.ndarray, views: np.ndarray, rank: int) -> np.ndarray:
    table = np.full((len(views), len(views)), np.nan)
    for row, view in enumerate(views):
        some = by_view[own == view]
        if len(some):
            table[row] = np.where(np.isnan(some).all(0), np.nan, (some <= rank).mean(0))
    return table


def off_diagonal(table: np.ndarray) -> np.ndarray:
    """(V, V) -> (V,): mean over the other views; NaN where there is none."""
    held = np.where(np.eye(len(table), dtype=bool), np.nan, table)
    known = ~np.isnan(held)
    return np.where(known.any(1), np.where(known, held, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _numbers(made: Measured, how: Protocol, own: np.ndarray) -> dict[str, float]:
    if how.by_view:
        numbers = {f"Rank-{rank}": _mean(off_diagonal(table)) for rank, table in made.tables.items()}
        return {**numbers, "mAP": _mean(made.precision), "mINP": _mean(made.inp)}
    known = ~np.isnan(made.first) if how.known else np.ones(len(made.first), bool)

    def over(values: np.ndarray, some: np.ndarray) -> float:
        if not how.by_probe:
            return _mean(values[some])
        return _mean(np.array([_mean(values[some & (own == view)]) for view in np.unique(own)]))

    hits = {rank: (made.first <= rank).astype(float) for rank in RANKS}
    numbers = {f"Rank-{rank}": over(hit, known) for rank, hit in hits.items()}
    every = np.ones(len(made.first), bool)
    numbers |= {"mAP": over(made.precision, every), "mINP": over(made.inp, every)}
    if made.tables:
        numbers["Rank-1 by view"] = float(np.nanmean(made.tables[1]))
        numbers["Rank-1 other views"] = _mean(off_diagonal(made.tables[1]))
    return numbers
