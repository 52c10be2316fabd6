"""What a shard keeps of a sample's arrays: pictures as JPEG, maps as they are or rounded to fewer bits."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Literal

import numpy as np

PICTURE = "picture.jpg"
SCALE = "\x1escale"
Precision = Literal["float32", "float16", "uint8"]
MAPS = "map/"


def packed(arrays: Mapping[str, np.ndarray], precision: Precision = "float32") -> dict[str, np.ndarray]:
    """The arrays with the picture, which is there to be looked at, as a JPEG: a tenth of the bytes.

    precision: of maps, float32 arrays (k, ...) named map/... whose numbers are all finite; others stay as they are. With
    float16 and uint8 each of the k maps is divided by its largest magnitude, which is kept beside it: float16 is off by at
    most 2^-11 of a number (2^-25 of the largest one near 0), uint8 by 1/510 of the largest one, 1/254 in maps of both signs.
    """
    held = dict(arrays)
    picture = held.get("picture")
    if picture is not None and picture.dtype == np.uint8 and picture.ndim == 4 and picture.shape[::3] == (1, 3):
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(picture[0]).save(file, "JPEG", quality=95, subsampling=0)
        held[PICTURE] = np.frombuffer(file.getvalue(), np.uint8)
        del held["picture"]
    if precision != "float32":
        for name in [name for name in held if name.startswith(MAPS)]:
            held |= _rounded(name, held[name], precision)
    return held


def _rounded(name: str, array: np.ndarray, precision: Precision) -> dict[str, np.ndarray]:
    if array.dtype != np.float32 or array.ndim < 2 or not array.size or not np.isfinite(array).all():
        return {name: array}
    axes = tuple(range(1, array.ndim))
    largest = np.abs(array).max(axes, keepdims=True)
    shares = array / np.where(largest > 0, largest, 1)
    if precision == "float16":
        return {name: shares.astype(np.float16), f"{name}{SCALE}": largest}
    steps = 127 if (array < 0).any() else 255
    kind = np.int8 if steps == 127 else np.uint8
    return {name: np.rint(shares * steps).astype(kind), f"{name}{SCALE}": largest / np.float32(steps)}


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as they were written, but for the picture, which is as JPEG keeps it, and maps that were rounded."""
    held = dict(arrays)
    if PICTURE in held:
        from PIL import Image

        with Image.open(io.BytesIO(held.pop(PICTURE).tobytes())) as picture:
            held["picture"] = np.asarray(picture.convert("RGB"))[None]
    for name in [name for name in held if name.endswith(SCALE)]:
        rounded = name.removesuffix(SCALE)
        held[rounded] = held[rounded].astype(np.float32) * held.pop(name)
    return held
