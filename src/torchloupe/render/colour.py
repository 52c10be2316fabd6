"""Numbers to colours: resizing, scaling, colour maps, blending. NumPy in, NumPy out."""

from __future__ import annotations

import numpy as np

from torchloupe.errors import BadInput, nearest

SEQUENTIAL, DIVERGING = "inferno", "coolwarm"
PALE = 0.55
LUMA = np.array([0.299, 0.587, 0.114])


def resize(maps: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Linear interpolation of the last axes to `size`, pixel centres kept, in float64; an axis of length 1 broadcasts.

    The same numbers as torchloupe.axes.resize, without torch.
    """
    found = np.asarray(maps, np.float64)
    for axis, length in zip(range(-len(size), 0), size, strict=True):
        old = found.shape[axis]
        if old == length:
            continue
        at = np.maximum((np.arange(length) + 0.5) * old / length - 0.5, 0)
        low = np.minimum(at.astype(int), old - 1)
        high = np.minimum(low + 1, old - 1)
        part = (at - low).reshape(-1, *[1] * (-axis - 1))
        found = found.take(low, axis) * (1 - part) + found.take(high, axis) * part
    return found


def peak(maps: np.ndarray, signed: bool, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """The value of the last colour: the maximum, or the largest magnitude of a signed map; 0 for an empty map."""
    values = np.asarray(maps, np.float64)
    return np.abs(values).max(axes, keepdims=True) if signed else np.maximum(values.max(axes, keepdims=True), 0)


def unit(maps: np.ndarray, top: np.ndarray | float, signed: bool) -> np.ndarray:
    """Values over `top`:  0..1, or -1..1 for signed maps; 0 where top is 0. However small the numbers: no epsilon."""
    values, top = np.asarray(maps, np.float64), np.asarray(top, np.float64)
    found = np.divide(values, top, out=np.zeros(np.broadcast_shapes(values.shape, top.shape)), where=top > 0)
    return np.clip(found, -1 if signed else 0, 1)


def palette(name: str, signed: bool = False) -> np.ndarray:
    """(256, 3) float 0..1: the colours of a matplotlib colour map; "auto" is inferno, coolwarm for signed maps.

    Errors: BadInput that offers the nearest names.
    """
    import matplotlib

    wanted = (DIVERGING if signed else SEQUENTIAL) if name == "auto" else name
    known = {found.lower(): found for found in matplotlib.colormaps}
    if wanted.lower() not in known:
        raise BadInput(f"no colour map {name!r}.{nearest(name, matplotlib.colormaps)} Usual: inferno, viridis, jet.")
    return matplotlib.colormaps[known[wanted.lower()]](np.linspace(0, 1, 256))[:, :3]


def colours(values: np.ndarray, table: np.ndarray, signed: bool) -> np.ndarray:
    """Values 0..1 (-1..1 where signed) -> (..., 3) float 0..1, interpolated between the colours of the table."""
    at = (values + 1) / 2 if signed else values
    steps = np.linspace(0, 1, len(table))
    return np.stack([np.interp(at, steps, table[:, c]) for c in range(3)], -1)


def blend(
    picture: np.ndarray, values: np.ndarray, table: np.ndarray, *, signed: bool, opacity: float, fade: bool
) -> np.ndarray:
    """(1 - a) * picture + a * colour, with a = opacity; where fade, a = opacity * |value|.

    Maps whose sign matters are often fine-grained and mostly small, so that over a colourful picture nothing of them is
    seen: with fade their picture is a pale grey one and a = min(1, 2 opacity) * sqrt |value|.
    picture (h, w, 3) uint8, values (h, w) in 0..1 (-1..1 where signed) -> (h, w, 3) uint8.
    """
    under = picture / 255
    alpha: np.ndarray | float = opacity
    if fade and signed:
        strong = min(1.0, 2 * opacity)
        pale = PALE + (1 - PALE) * under @ LUMA
        under = (1 - strong) * under + strong * pale[..., None]
        alpha = strong * np.sqrt(np.abs(values))[..., None]
    elif fade:
        alpha = opacity * np.abs(values)[..., None]
    mixed = (1 - alpha) * under + alpha * colours(values, table, signed)
    return (mixed * 255).round().astype(np.uint8)
