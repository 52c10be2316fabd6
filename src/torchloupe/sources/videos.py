"""Frames of GIFs and videos, decoded as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from torchloupe.errors import BadInput, need
from torchloupe.store.reading import reading

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif")
MODES = {"L": "gray", "RGB": "rgb24"}

Pick = Callable[[int], Sequence[int]]


def frames(file: Path, mode: str = "RGB", pick: Pick = range) -> list[np.ndarray]:
    """Frames (h, w) or (h, w, 3) uint8 of a video or GIF; no more of them are held than are asked for.

    mode: L or RGB. pick: the number of frames -> the numbers of those that are wanted, in order; some may come twice.
    Errors: BadInput for a file that cannot be decoded; MissingPackage for a video without imageio-ffmpeg.
    """
    decode = _of_gif if file.suffix.lower() == ".gif" else _of_video
    return decode(file, mode, pick)


def _of_gif(file: Path, mode: str, pick: Pick) -> list[np.ndarray]:
    from PIL import Image

    with reading(file, "a GIF"), Image.open(file) as picture:
        wanted = list(pick(getattr(picture, "n_frames", 1)))
        held: dict[int, np.ndarray] = {}
        for number in sorted(set(wanted)):
            picture.seek(number)
            held[number] = np.asarray(picture.convert(mode))
    return [held[number] for number in wanted]


def _of_video(file: Path, mode: str, pick: Pick) -> list[np.ndarray]:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise need("imageio-ffmpeg", "video") from None
    deep = len(mode)
    with reading(file, "a video"):
        # what a header claims is not always there
        wanted = list(pick(imageio_ffmpeg.count_frames_and_secs(str(file))[0])) if pick is not range else None
        reader = imageio_ffmpeg.read_frames(str(file), pix_fmt=MODES[mode], bits_per_pixel=8 * deep)
        columns, rows = next(reader)["size"]
        held: dict[int, np.ndarray] = {}
        for number, frame in enumerate(reader):
            if wanted is None or number in wanted:
                shape = (rows, columns) if deep == 1 else (rows, columns, deep)
                held[number] = np.frombuffer(frame, np.uint8).reshape(shape)
    if not held:
        raise BadInput(f"{file}: no frame in this video")
    last = max(held)
    return list(held.values()) if wanted is None else [held.get(number, held[last]) for number in wanted]
