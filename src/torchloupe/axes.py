"""The one shape: every tensor is n c t h w. A picture is a one-frame sequence, a strip a one-column picture."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import EinopsError, rearrange
from torch import Tensor

from torchloupe.errors import BadInput

C, T, H, W = -4, -3, -2, -1
Size = tuple[int, int, int]


def dims(letters: str) -> tuple[int, ...]:
    """Negative axis numbers of canonical axes: dims("hw") == (-2, -1).

    Errors: BadInput for a letter that is not one of c t h w, or none at all.
    """
    if not letters or not set(letters) <= set("cthw"):
        raise BadInput(f"axes {letters!r}: expected letters out of c t h w, for example 'thw'")
    return tuple("cthw".index(letter) - 4 for letter in letters)


def resize(maps: Tensor, size: Size) -> Tensor:
    """Linear interpolation of maps to another size; an axis of length 1 broadcasts.

    maps (k, n, t, h, w), size (t, h, w) -> (k, n, *size). Pixel centres are kept (align_corners=False).
    """
    if maps.shape[-3:] == tuple(size):
        return maps
    k, n = maps.shape[:2]
    flat = maps.flatten(0, 1)[:, None]
    if maps.shape[T] == size[0] == 1:
        flat = F.interpolate(flat[:, :, 0], size[1:], mode="bilinear", align_corners=False)[:, :, None]
    else:
        flat = F.interpolate(flat, size, mode="trilinear", align_corners=False)
    return flat[:, 0].unflatten(0, (k, n))


@dataclass(frozen=True)
class Layout:
    """How one layer's raw tensor becomes canonical: the left side of an einops pattern over n c t h w.

    pattern: "n c h w" | "n h w c" (Swin) | "n (h w) c" (tokens) | "(n t) c h w" (frame by frame) | "n c t h w" | "n c h"
        (strips) | "n t h w" (silhouettes) | "n c t (g h) w" (stacked halves) | "n c" (a vector is a one-pixel picture).
        A whole einops expression with "->" is taken as it is.
    skip: leading tokens to drop (class, distillation, registers). behind: trailing ones (detection tokens).
    join: axis letter along which several calls in one forward are joined; None = exactly one call, else an error.
    bins: multi-scale strips on the last axis, for example (16, 8, 4, 2, 1): each scale is stretched to the longest and
        the scales are stacked as channels.
    sizes: lengths of axes that cannot be derived.
    rests: on what the layout rests, for people: declared, the kind of a module, a gradient. Not compared.
    """

    pattern: str = "n c h w"
    skip: int = 0
    join: str | None = None
    bins: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    rests: str = field(default="", compare=False)
    behind: int = 0

    def canonical(self, calls: Sequence[Tensor], n: int, size: Size | None = None) -> Tensor:
        """Raw tensors of the calls of one layer -> (n, c, t, h, w).

        size: (t, h, w) of the input; tells the grid of folded tokens where sizes does not.
        Errors: BadInput that repeats the pattern, the shape and the sizes.
        """
        raw = self._joined(calls)
        if self.skip or self.behind:
            tokens = self.axis("h")
            raw = raw.narrow(tokens, self.skip, raw.shape[tokens] - self.skip - self.behind)
        if self.bins:
            raw = self._stretched(raw)
        left, _, right = self.pattern.partition("->")
        known = {"n": n, **self._lengths(raw, size, n)}
        try:
            return rearrange(raw, f"{left} -> {right or self._right()}", **known)
        except EinopsError as error:
            shape = tuple(calls[0].shape)
            raise BadInput(
                f"layout {self.pattern!r} (skip {self.skip}) does not fit shape {shape} with {known}"
            ) from error

    def raw(self, canonical: Tensor) -> Tensor:
        """(n, c, t, h, w) -> the raw tensor of an input: `canonical` undone; an axis of length 1 stays one.

        Errors: BadInput for a layout that drops or joins something, which cannot be undone.
        """
        if self.skip or self.behind or self.bins or self.join:
            raise BadInput(f"layout {self.pattern!r} drops or joins something (skip, bins, join) and cannot be undone")
        left, _, right = self.pattern.partition("->")
        sizes = {name: size for name, size in self.sizes.items() if name not in "nthw"}
        return rearrange(canonical, f"{right or self._right()} -> {left}", **sizes)

    def axis(self, letter: str) -> int:
        """Number of the raw axis that holds a canonical axis, folded or not."""
        for number, part in enumerate(self._parts()):
            if letter in re.findall(r"\w+", part):
                return number
        raise BadInput(f"layout {self.pattern!r} has no axis {letter!r}")

    def has(self, letter: str) -> bool:
        """Whether a raw axis holds this canonical axis, folded or not."""
        return any(letter in re.findall(r"\w+", part) for part in self._parts())

    @property
    def ndim(self) -> int:
        """Number of axes of the raw tensor."""
        return len(self._parts())

    @property
    def folded(self) -> bool:
        """Whether rows and columns lie on one axis, as tokens have them."""
        return any({"h", "w"} <= set(re.findall(r"\w+", part)) for part in self._parts())

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Numbers of the raw axes that hold channels alone."""
        right = self.pattern.partition("->")[2] or self._right()
        channels = set(re.findall(r"[a-z]+", re.findall(r"\([^)]*\)|\w+", right)[1]))
        parts = [set(re.findall(r"\w+", part)) for part in self._parts()]
        return tuple(number for number, part in enumerate(parts) if part and part <= channels)

    def _right(self) -> str:
        names = re.findall(r"\w+", self.pattern)
        folded = " ".join(name for name in names if name not in "nthw")
        return " ".join(["n", f"({folded})" if folded else "1", *(axis if axis in names else "1" for axis in "thw")])

    def _parts(self) -> list[str]:
        return re.findall(r"\([^)]*\)|\w+", self.pattern.partition("->")[0])

    def _joined(self, calls: Sequence[Tensor]) -> Tensor:
        if len(calls) == 1:
            return calls[0]
        if self.join is None:
            raise BadInput(
                f"{len(calls)} calls in one forward; say which with '#0' ... '#{len(calls) - 1}', or how with join"
            )
        return torch.cat(list(calls), dim=self.axis(self.join))

    def _stretched(self, raw: Tensor) -> Tensor:
        if sum(self.bins) != raw.shape[-1]:
            raise BadInput(f"bins {self.bins} do not add up to the {raw.shape[-1]} strips of shape {tuple(raw.shape)}")
        rows = max(self.bins)
        scales = raw.split(list(self.bins), dim=-1)
        return torch.cat([scale.repeat_interleave(rows // scale.shape[-1], -1) for scale in scales], dim=1)

    def _lengths(self, raw: Tensor, size: Size | None, n: int) -> dict[str, int]:
        """The sizes, and rows and columns where one axis holds them and they are not given."""
        known = dict(self.sizes)
        folded = next((part for part in self._parts() if {"h", "w"} <= set(re.findall(r"\w+", part))), "")
        if not folded or size is None or "h" in known or "w" in known:
            return known
        tokens = raw.shape[self.axis("h")]
        others = [letter for letter in re.findall(r"\w+", folded) if letter not in "hw"]
        lengths = {"n": n, **known}
        open_ = [letter for letter in others if letter not in lengths]
        if open_:
            raise BadInput(f"layout {self.pattern!r}: the length of {open_[0]!r} is not known; give it with sizes")
        each = math.prod(lengths[letter] for letter in others)
        found = grid(tokens // each, size) if tokens % each == 0 else None
        if found is None:
            of = "" if each == 1 else f", {each} times,"
            raise BadInput(f"{tokens} tokens fill no grid{of} shaped like {size[1:]}; set skip or sizes")
        return {**known, "h": found[0], "w": found[1]}


def grid(tokens: int, size: Size) -> tuple[int, int] | None:
    """Rows and columns of a token grid that covers a picture of this size with (nearly) square cells, or None."""
    rows = [h for h in range(1, tokens + 1) if tokens % h == 0]
    best = min(rows, key=lambda h: abs(_stretch(h, tokens // h, size)))
    exact = (tokens * size[1] / size[2]) ** 0.5
    return (best, tokens // best) if abs(best - exact) < 1 else None


def _stretch(h: int, w: int, size: Size) -> float:
    return math.log(h * size[2] / (w * size[1]))
