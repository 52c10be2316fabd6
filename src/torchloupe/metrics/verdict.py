"""One sentence a method: on which blocks of the network its maps do not depend. Plain numbers in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

ALIKE = 0.5


def verdicts(
    likeness: Mapping[str, Sequence[float]],
    blocks: Sequence[str],
    *,
    other: float,
    outline: Mapping[str, float],
    order: str = "top_down",
    independent: bool = False,
) -> list[str]:
    """likeness: METHOD/LAYER -> mean SSIM to the original map, one a block randomised, in the order of blocks.

    A map does not depend on the blocks whose randomisation leaves it more alike than maps of other pictures are (other, NaN where
    it is not known), and more than .5. outline: map -> its SSIM with an edge detector's.
    """
    methods = [name.partition("/")[0] for name in likeness]
    beside = "" if math.isnan(other) else f", maps of other pictures {short(other)}"
    bar = ALIKE if math.isnan(other) else max(ALIKE, other)
    end = "last" if order == "top_down" else "first"
    found = []
    for name, line in likeness.items():
        method = name.partition("/")[0]
        who = method if methods.count(method) == 1 else name
        known = [0.0 if math.isnan(value) else value for value in line]
        if all(math.isnan(value) for value in line):
            found.append(f"{who}: no verdict, its maps of the randomised network are empty or cannot be had")
            continue
        like = [value > bar for value in known]
        count = like.index(False) if False in like else len(like)
        edges = ": it shows edges, not reasons" if outline.get(name, 0) > ALIKE else ""
        if independent:
            still = [block for block, one in zip(blocks, like, strict=True) if one]
            least = min(value for value, one in zip(known, like, strict=True) if one) if still else max(known)
            found.append(
                f"{who} does not depend on {', '.join(still)} (SSIM at least {short(least)}{beside}){edges}"
                if still
                else f"{who} depends on every block by itself (SSIM at most {short(least)}{beside})"
            )
        elif count == 0:
            found.append(f"{who} depends on the {end} block already ({blocks[0]}: SSIM {short(known[0])}{beside})")
        else:
            what = "the weights at all" if count == len(like) else f"the {end} {count} of {len(like)} blocks"
            found.append(f"{who} does not depend on {what} (SSIM {short(known[count - 1])}{beside}){edges}")
    return found


def short(value: float) -> str:
    """0.93 -> .93"""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"
