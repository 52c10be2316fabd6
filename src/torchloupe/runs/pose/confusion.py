"""Which joints a stored run takes for which."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput
from torchloupe.kinds.pose import pixels, table
from torchloupe.methods import joints
from torchloupe.store.stream import Stream

Array = NDArray[Any]


@dataclass(frozen=True)
class Confusion:
    """Inversions over a run: (sample, a, b) where a was taken for b, counts by pair (j, j), and RI of such pairs."""

    pairs: tuple[tuple[str, int, int], ...]
    swaps: int
    counts: Array
    relation: joints.RelationOfPairs | None


def confusion(root: Path, reach: float = 10.0, reading: str = "EPE") -> Confusion:
    """Which joints are taken for which, from the stored predictions in either of READINGS; with the RI of those pairs
    where maps were made."""
    stream = Stream(root, "epe")
    found = pixels(stream, reading)
    if not found.ids:
        raise BadInput(f"{root}: no predictions were stored yet; run `loupe pose epe` first")
    both = joints.inversions(found.predicted, found.true, found.weight, reach)
    pairs = tuple((found.ids[n], a, b) for n, a, b in np.argwhere(both.taken).tolist())
    relation = None
    maps = Stream(root, "ig")
    known = set(maps.ids()) if maps.folder.is_dir() else set()
    rows = [row for row, id in enumerate(found.ids) if id in known]
    if rows:
        ri = table(maps, ("RI",), [found.ids[row] for row in rows])["RI"]
        relation = joints.relation_of_pairs(ri, both.taken[rows], found.weight[rows])
    # every swap shows twice, once from each side
    return Confusion(pairs, int(both.swapped.sum()) // 2, both.taken.sum(0), relation)
