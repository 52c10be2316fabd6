"""Finished pieces of a long computation in a folder, and word of how far it is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from torchloupe.errors import BadInput, LoupeError
from torchloupe.store import aside, load_arrays, sweep, whole

Progress = Callable[[str, int, int], None]


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Progress that nobody reads."""


class Kept:
    """Finished pieces of a long projection in a folder, so that the same command goes on after a kill.

    Pieces belong to one key (a hash of the data and of every option); those of another key are removed.
    """

    def __init__(self, folder: Path | None, key: str = "") -> None:
        self.folder = folder
        self._saved, self._cost = time.monotonic(), 0.0
        if folder is None:
            return
        stamp = folder / "key"
        sweep(folder)
        if folder.is_dir() and any(folder.iterdir()) and not stamp.is_file():
            raise BadInput(f"{folder}: not a folder of ours, and a long run would keep its pieces there; move it away")
        if stamp.is_file() and stamp.read_bytes() != key.encode():
            shutil.rmtree(folder)
        whole(stamp, key)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of a piece, or None; a damaged one is made again."""
        if self.folder is None or not (self.folder / f"{name}.npz").is_file():
            return None
        try:
            return load_arrays(self.folder / f"{name}.npz")
        except LoupeError:
            return None

    def save(self, name: str, **arrays: np.ndarray) -> None:
        """Keep a piece; whole or absent."""
        if self.folder is None:
            return
        begun = time.monotonic()
        with aside(self.folder / f"{name}.npz") as (draft,), draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        self._saved = time.monotonic()
        self._cost = self._saved - begun

    def due(self, every: float = 20.0) -> bool:
        """Whether it is time to save again: every 20 seconds, but at most a twentieth of the time goes into saving."""
        return self.folder is not None and time.monotonic() - self._saved > max(every, 20 * self._cost)

    def done(self) -> None:
        """The result is on disk: the pieces are not needed any more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
