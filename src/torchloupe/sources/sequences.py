"""Sequences of people walking: data trees, pickles of plain arrays, folders of silhouettes, videos."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchloupe.data.bands import BANDS
from torchloupe.errors import BadInput, BadSample, LoupeWarning
from torchloupe.sources import videos
from torchloupe.sources.safe import load_pickle_arrays
from torchloupe.store.reading import reading, reads

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".gif")
FAINT = 10_000


@dataclass(frozen=True)
class Walk:
    """One sequence, not yet read: who, under which condition, from which view, and its files, one a modality."""

    identity: str
    condition: str
    view: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """id-type-view, or the bare name of a sequence outside a tree."""
        return "-".join(part for part in (self.identity, self.condition, self.view) if part)

    def read(self, size: int = 64) -> tuple[np.ndarray, ...]:
        """The arrays, time first; pictures and videos as one of silhouettes (t, size, size) uint8."""
        kind = self.files[0].suffix.lower()
        if kind == ".pkl":
            return tuple(read_pickle(file) for file in self.files)
        frames = _video(self.files[0]) if kind in VIDEOS else [_picture(file) for file in self.files]
        return (_silhouettes(frames, size, self.files[0]),)

    def digest(self) -> str:
        """sha256 over the names and bytes of the files. Errors: BadSample for a file that cannot be read."""
        state = hashlib.sha256()
        for file in self.files:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise BadSample(f"{file}: cannot be read ({error.strerror})") from None
            state.update(os.fsencode(file.name) + b"\0" + content)
        return state.hexdigest()


@dataclass(frozen=True)
class Hidden(Walk):
    """A walk in whose pictures a part is black: a band of BANDS, or what masks of a tree like its own show.

    part: a name of BANDS, or a folder `<id>/<type>/<view>/*.pkl` of masks (t, h, w); a walk without a mask stays whole.
    """

    part: str = ""

    def read(self, size: int = 64) -> tuple[np.ndarray, ...]:
        """See `Walk.read`. Errors: BadInput for data without pictures, or a mask that does not fit."""
        arrays = super().read(size)
        first = arrays[0]
        if first.ndim not in (3, 4) or min(first.shape[-2:]) < 16:
            raise BadInput(f"{self.files[0]}: shape {first.shape}; a part can be hidden in pictures (t, h, w) only")
        made = first.copy()
        if self.part in BANDS:
            low, high = (round(share * made.shape[-2]) for share in BANDS[self.part])
            made[..., low:high, :] = 0
        else:
            folder = Path(self.part, self.identity, self.condition, self.view)
            masks = sorted(folder.glob("*.pkl")) if folder.is_dir() else []
            if masks:
                mask = read_pickle(masks[0])
                if mask.shape != (len(made), *made.shape[-2:]):
                    want = (len(made), *made.shape[-2:])
                    raise BadInput(f"{masks[0]}: a mask of shape {mask.shape}; the walk has {want}")
                made[(mask > 0)[:, None] & np.ones(made.shape, bool) if made.ndim == 4 else mask > 0] = 0
        return made, *arrays[1:]


def sequences(root: str | Path) -> tuple[Walk, ...]:
    """All walks of `<root>/<id>/<type>/<view>/`, each of pickles, silhouette pictures or one video; sorted.

    root may also be one folder of pictures, one pickle or one video: a single walk. Nothing is read.
    Errors: BadInput where nothing is there.
    """
    top = Path(root)
    if not top.exists():
        raise BadInput(f"{top}: no such folder; expected <id>/<type>/<view>/*.pkl, a folder of pictures, or a video")
    if top.is_file():
        if top.suffix.lower() not in (".pkl", *VIDEOS):
            raise BadInput(f"{top}: expected a folder, or a file of .pkl, {', '.join(VIDEOS)}")
        return (Walk(top.stem, "", "", (top,)),)
    if files := _files(top):
        return (Walk(top.resolve().name, "", "", files),)
    found = []
    for leaf in sorted(path for path in top.glob("*/*/*") if path.is_dir()):
        files = _files(leaf)
        if files:
            found.append(Walk(leaf.parts[-3], leaf.parts[-2], leaf.parts[-1], files))
        else:
            warnings.warn(f"{leaf}: no .pkl, pictures or video here; left out", LoupeWarning, stacklevel=2)
    if not found:
        raise BadInput(f"{top}: no sequence found; expected <id>/<type>/<view>/*.pkl below it")
    return tuple(found)


def _files(leaf: Path) -> tuple[Path, ...]:
    files = sorted(path for path in leaf.iterdir() if path.is_file() and not path.name.startswith("."))
    for kinds in ((".pkl",), PICTURES):
        if chosen := tuple(path for path in files if path.suffix.lower() in kinds):
            return chosen if kinds != PICTURES else tuple(sorted(chosen, key=_counted))
    return tuple(path for path in files if path.suffix.lower() in VIDEOS)[:1]


def _counted(file: Path) -> list[tuple[int, str]]:
    """Frame 10 comes behind frame 2, whether or not the numbers are padded."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", file.name)]


def digest(walks: Iterable[Walk]) -> str:
    """sha256 over the names and contents of walks, in their order."""
    state = hashlib.sha256()
    for walk in walks:
        state.update(f"{walk.name} {walk.digest()}\n".encode())
    return state.hexdigest()


@reads("a pickle of a plain array")
def read_pickle(file: str | Path) -> np.ndarray:
    """A pickled numpy array (or list of arrays), read so that nothing in the file can run.

    Errors: UnsafeFile for a pickle that asks for anything but arrays; BadInput for a damaged file or another content.
    """
    path = Path(file)
    found = load_pickle_arrays(path)
    listed = isinstance(found, (list, tuple)) or (isinstance(found, np.ndarray) and found.dtype.kind == "O")
    rows = list(found) if listed else []
    if listed and not rows:
        found = np.zeros((0,))
    if rows and all(isinstance(part, np.ndarray) for part in rows):
        shapes = list(dict.fromkeys(part.shape for part in rows))
        if len(shapes) > 1:
            raise BadInput(f"{path}: {_uneven(shapes, len(rows))}")
        found = np.stack(rows)
    if not isinstance(found, np.ndarray) or found.ndim == 0:
        raise BadInput(f"{path}: holds {type(found).__name__}; expected a numpy array, time first")
    if found.dtype.kind not in "buif":
        raise BadInput(f"{path}: dtype {found.dtype}; expected numbers (uint8 silhouettes, float poses)")
    return found


def _uneven(shapes: list[tuple[int, ...]], count: int) -> str:
    """What frames of these different shapes are."""
    if all(len(shape) == 2 and shape[1] in (3, 4) for shape in shapes):
        return f"{count} point clouds of different length; point clouds are not read, expected one array, time first"
    told = ", ".join(" x ".join(map(str, shape)) for shape in shapes[:3]) + (" ..." if len(shapes) > 3 else "")
    return f"frames of {len(shapes)} different shapes ({told}); expected all frames of one shape"


def _grey(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L"))


def _picture(file: Path) -> np.ndarray:
    with reading(file, "a picture"), Image.open(file) as picture:
        return _grey(picture)


def _video(file: Path) -> list[np.ndarray]:
    found = videos.frames(file, "L")
    # compression smears the edge of a silhouette
    return found if file.suffix.lower() == ".gif" else [np.where(one > 127, 255, 0).astype(np.uint8) for one in found]


def _silhouettes(frames: list[np.ndarray], size: int, file: Path) -> np.ndarray:
    if all(frame.shape in ((size, size), (size, size * 44 // 64)) for frame in frames):
        if len({frame.shape for frame in frames}) > 1:
            raise BadInput(f"{file.parent}: frames of different widths; expected {size} x {size}")
        return np.stack(frames)
    shown = (centred(frame, size) for frame in frames if frame.sum(dtype=np.int64) > FAINT)
    kept = [frame for frame in shown if frame is not None]
    if not kept and max(int(frame.max()) for frame in frames) == 1:
        raise BadInput(f"{file}: values 0 to 1; expected grey values 0 to 255 (multiply by 255)")
    if not kept:
        raise BadInput(f"{file}: no frame shows a person; expected white silhouettes on black")
    if len(kept) < len(frames):
        lost = len(frames) - len(kept)
        warnings.warn(
            f"{file.parent}: {lost} of {len(frames)} frames show nobody; left out", LoupeWarning, stacklevel=2
        )
    return np.stack(kept)


def centred(frame: np.ndarray, size: int = 64) -> np.ndarray | None:
    """A silhouette (h, w) uint8 as OpenGait stores it: (size, size), height filled, median of mass in the middle.

    Rows without the person are cut; width by the same factor as height, rounded down; bicubic over the nearest 4 x 4
    pixels (Keys' kernel, a = -0.75), not smoothed before, rounded. None where more than half of the mass is in the first
    column or nothing is left of it, as OpenGait leaves such frames out.
    Source: Keys 1981, Cubic convolution interpolation, IEEE TASSP, doi:10.1109/TASSP.1981.1163711.
    """
    rows = np.flatnonzero(frame.sum(1, dtype=np.int64))
    person = torch.from_numpy(frame[rows[0] : rows[-1] + 1].astype(np.float32))[None, None]
    width = max(1, int(size * (person.shape[3] / person.shape[2])))
    grown = torch.nn.functional.interpolate(person, (size, width), mode="bicubic", align_corners=False, antialias=False)
    scaled = grown[0, 0].round().clamp(0, 255).numpy().astype(np.uint8)
    mass = scaled.sum(0, dtype=np.int64).cumsum()
    middle = int(np.searchsorted(2 * mass, mass[-1], side="right"))
    if not 0 < middle < width:
        return None
    padded = np.pad(scaled, ((0, 0), (size, size)))
    return padded[:, middle + size - size // 2 : middle + size + size // 2]
