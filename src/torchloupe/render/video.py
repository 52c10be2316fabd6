"""GIF and MP4 of frames that are already drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from torchloupe import store
from torchloupe.errors import BadInput, LoupeError, need, one_line


def write_video(frames: Sequence[np.ndarray], file: str | Path, fps: float = 12) -> Path:
    """Frames (h, w, 3) uint8 of one size as a GIF or an MP4, by the file's suffix; whole or absent.

    Errors: BadInput for another suffix, no frames, or a place that cannot be written; MissingPackage for an MP4 without imageio-ffmpeg.
    """
    path = Path(file)
    if path.suffix.lower() not in (".gif", ".mp4"):
        raise BadInput(f"{path}: expected .gif or .mp4")
    if not frames:
        raise BadInput(f"{path}: no frames to write")
    if not 0 < fps <= 60:
        raise BadInput(f"--fps {fps}: expected more than 0, at most 60")
    with store.aside(path) as (draft,):
        (_gif if path.suffix.lower() == ".gif" else _mp4)(frames, draft, fps)
    return path


def _gif(frames: Sequence[np.ndarray], file: Path, fps: float) -> None:
    # one palette for all frames, else the colours of equal values flicker
    sample = np.concatenate(frames[:: max(1, len(frames) // 8)])
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.MEDIANCUT)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=False
    )


def _mp4(frames: Sequence[np.ndarray], file: Path, fps: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise need("imageio-ffmpeg", "video") from None
    height, width = frames[0].shape[:2]
    even = height + height % 2, width + width % 2
    writer = imageio_ffmpeg.write_frames(
        str(file), even[::-1], fps=fps, macro_block_size=1, quality=8, output_params=["-f", "mp4"]
    )
    try:
        writer.send(None)
        for frame in frames:
            padded = np.pad(frame, ((0, even[0] - height), (0, even[1] - width), (0, 0)), constant_values=255)
            writer.send(np.ascontiguousarray(padded).tobytes())
        writer.close()
        # the encoder ends without a word where it could not write
        whole = imageio_ffmpeg.count_frames_and_secs(str(file))[0] == len(frames)
    except (OSError, RuntimeError) as error:
        said = one_line(str(error))[-200:]
        raise LoupeError(f"{file.parent}: the encoder of the video stopped; is the disk full? ({said})") from error
    if not whole:
        raise LoupeError(f"{file.parent}: the encoder of the video lost frames; is the disk full?")
