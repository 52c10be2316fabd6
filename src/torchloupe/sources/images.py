"""Pictures: found by file, folder, glob or list, and read as 8-bit RGB whatever is in the file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, legible, nearest
from torchloupe.probe import Batch, Subject
from torchloupe.store.reading import reads

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".avif"),
)
LIST_SUFFIXES = (".txt", ".lst")
# of samples that are no pictures, looked for in folders without any
RECORDED = (".npy", ".npz", ".wav", ".csv", ".mp4", ".avi", ".mov", ".mkv", ".webm")


def find(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Picture files, folders (searched through), globs and text lists -> files, each once.

    In a folder without a picture the files of signals, videos and arrays are taken. The order given is kept; inside a folder or a glob img2 comes before img10. A list names one picture a line, relative to
    itself or to the current folder; empty lines and lines that begin with '#' are left out. A file that a list names
    and that does not exist is kept, so that reading it says so.
    Errors: BadInput for a path that does not exist, a glob that fits nothing, and a folder or list without pictures.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise BadInput("no picture was named; give a file, a folder, a glob or a text list")
    if any(one == "" for one in given):
        raise BadInput("an empty name of a picture (is a variable of the shell unset?); for the present folder say .")
    found = [path for one in given for path in _expand(Path(one).expanduser())]
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
        inside = sorted((file for file in found if file.is_file()), key=_natural)
        kinds = ([file for file in inside if file.suffix.lower() in suffixes] for suffixes in (SUFFIXES, RECORDED))
        files = next(filter(None, kinds), [])
        if not files:
            raise BadInput(f"{path}: no pictures in this folder (looked for {', '.join(SUFFIXES)})")
        return files
    if path.is_file():
        return _listed(path) if path.suffix.lower() in LIST_SUFFIXES else [path]
    if re.search(r"[*?\[]", str(path)):
        root = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
        files = sorted((file for file in root.glob(pattern) if file.is_file()), key=_natural)
        if not files:
            raise BadInput(f"{path}: no file fits this pattern")
        return files
    around = path.parent if path.parent.is_dir() else None
    near = nearest(path.name, (file.name for file in around.iterdir())) if around else ""
    raise BadInput(f"{path}: no such file or folder.{near}")


@reads("a list of pictures (UTF-8 text, one path a line)")
def _listed(path: Path) -> list[Path]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    if not names:
        raise BadInput(f"{path}: this list names no picture; expected one path a line")
    return [beside if there(beside := path.parent / name) else name for name in names]


def there(path: Path) -> bool:
    """Whether there is such a file or folder; a name that no disk takes is none."""
    try:
        return path.exists()
    except OSError:  # a name that no disk takes
        return False


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers."""
    parts = re.findall(r"\d+|\D+", str(path).lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def names_of(files: Sequence[Path]) -> list[str]:
    """A file name for the result of each sample: its stem, with as much of its folder as tells it from the others."""
    stems = [legible(file.stem) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    common = Path(os.path.commonpath([file.resolve().parent for file in files]))
    longer = [legible("-".join(file.resolve().relative_to(common).with_suffix("").parts)) for file in files]
    if len(set(longer)) == len(longer):
        return longer
    return [legible("-".join(file.resolve().relative_to(common).parts).replace(".", "-")) for file in files]


def read(path: str | Path) -> Any:
    """One picture as a PIL.Image in RGB, 8 bit, upright (the EXIF rotation is applied).

    16-bit grey is scaled from 0..65535; floating point is taken as 0..1 where it lies in it, else as 0..255; transparent
    parts show white; of an animation the first frame is taken; CMYK, grey and palettes are converted.
    Errors: BadInput that names the file and says what is wrong with it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    check_file(path)
    try:
        with path.open("rb") as file:
            image = Image.open(file)
            image.load()
            return _rgb(ImageOps.exif_transpose(image), path)
    except UnidentifiedImageError as error:
        if path.suffix.lower() in RECORDED:
            raise BadInput(
                f"{path}: no picture, and this model takes pictures; --example says what else one takes"
            ) from error
        with path.open("rb") as file:
            start = file.read(16)
        raise BadInput(f"{path}: not a picture in any known format; it begins with {start!r}") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadInput(f"{path}: has more than {limit} pixels, too many to read safely; make it smaller") from error
    except BadInput:
        raise
    except Exception as error:  # decoders raise a dozen kinds for a broken file
        said = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path}: a broken or truncated picture ({said})") from error


def check_file(path: Path, what: str = "picture") -> None:
    """Errors: BadInput for a file that is not there, cannot be read, or is empty."""
    if not path.exists():
        raise BadInput(f"{path}: no such {what}")
    if not path.is_file():
        raise BadInput(f"{path}: a folder or device, not a {what}")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise BadInput(f"{path}: the file is empty (0 bytes)")


def _rgb(image: Any, path: Path) -> Any:
    from PIL import Image

    if 0 in image.size:
        raise BadInput(f"{path}: a picture without pixels ({image.width} x {image.height})")
    if image.mode == "F" or image.mode.startswith("I"):
        grey = Image.fromarray(_eight_bit(np.asarray(image), path))
        return grey.convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _eight_bit(values: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise BadInput(f"{path}: grey values from {low:g} to {high:g}; expected 0..1, 0..255 or 0..65535")
    if values.dtype.kind == "f":
        top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65535.0
    else:
        top = 65535.0 if values.dtype == np.uint16 or high > 255 else 255.0
    return np.round(values.astype(np.float64) * (255 / top)).astype(np.uint8)


def pictures(paths: str | Path | Sequence[str | Path], subject: Subject) -> Batch:
    """Picture files, folders, globs or lists -> one Batch as this model takes them; the ids are the paths.

    Errors: BadInput for a picture that cannot be read, and for a subject that has no preparation.
    """
    if subject.prepare is None:
        raise BadInput(
            f"model {subject.spec or 'given'!r} does not say how a picture is prepared; make a Batch yourself"
        )
    files = find(paths)
    return subject.prepare([read(file) for file in files], tuple(str(file) for file in files))
