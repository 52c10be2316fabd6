"""The one guard around readers: whatever a damaged or foreign file makes a library raise is one error that names the file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from torchloupe.errors import BadInput, LoupeError, UnsafeFile, one_line

Reader = TypeVar("Reader", bound=Callable[..., Any])
SAID = 200
DEFLATED = 1032
"""Nothing shrinks by more than this in a zip file."""


@contextmanager
def reading(path: str | os.PathLike[str], what: str, advice: str = "") -> Iterator[None]:
    """Inside, everything but errors of our own becomes BadInput: the file, what it was to be, what was found, what to try."""
    more = f"; {advice}" if advice else ""
    try:
        yield
    except LoupeError:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename or os.fspath(path)}: no such file; expected {what}") from error
    except Exception as error:  # libraries raise a dozen kinds for a broken file
        reason = error.strerror if isinstance(error, OSError) and error.errno is not None else error
        raise BadInput(f"{os.fspath(path)}: cannot be read as {what} ({_said(reason)}){more}") from error


def reads(what: str, advice: str = "") -> Callable[[Reader], Reader]:
    """`reading` around a function whose first argument is the file's path."""

    def guarded(read: Reader) -> Reader:
        @wraps(read)
        def inner(path: Any, *more: Any, **words: Any) -> Any:
            with reading(path, what, advice):
                return read(path, *more, **words)

        return inner  # type: ignore[return-value]

    return guarded


def _said(error: object) -> str:
    text = one_line(str(error))
    kind = "" if isinstance(error, str) else type(error).__name__
    return (text if len(text) <= SAID else text[:SAID] + "...") or kind


def members(path: str | os.PathLike[str], names: Container[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file, read whole, all or those of these names. An array whose header claims more than its entry holds, than the file can hold or
    than memory does is refused before it is read; so are arrays of objects (UnsafeFile)."""
    size = os.path.getsize(path)
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if names is not None and info.filename.removesuffix(".npy") not in names:
                continue
            where = f"{os.fspath(path)}: array {info.filename.removesuffix('.npy')!r}"
            if info.compress_size > size or info.file_size > DEFLATED * info.compress_size + SAID:
                raise BadInput(f"{where}: claims {info.file_size:,} bytes, and the file has {size:,}")
            with archive.open(info) as file:
                shape, order, kind = header(file, where)
                wanted = int(np.prod([1, *shape], dtype=object)) * kind.itemsize
                there = info.file_size - file.tell()
                if wanted != there:
                    raise BadInput(f"{where}: claims {wanted:,} bytes, and {there:,} are there")
                room(wanted, where)
                flat = np.frombuffer(bytearray(file.read()), kind) if wanted else np.zeros(shape, kind)
                arrays[info.filename.removesuffix(".npy")] = flat.reshape(shape, order=order)
    return arrays


def header(file: Any, where: str) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    """Shape, order ("C" or "F") and kind of an array, from the beginning of a .npy file.

    Errors: UnsafeFile for an array of objects; others as numpy raises them.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if kind.hasobject:
        raise UnsafeFile(
            f"{where} holds Python objects, which may run code while being read; save plain numbers and text instead"
        )
    if any(side < 0 for side in shape):
        raise BadInput(f"{where}: has the shape {shape}")
    return shape, "F" if fortran else "C", kind


def room(size: int, where: str) -> None:
    """Errors: BadInput for more bytes than this machine has memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return
    if size > memory:
        raise BadInput(f"{where}: claims {size:,} bytes, and this machine has {memory:,}")


__all__ = ["header", "members", "reading", "reads", "room"]
