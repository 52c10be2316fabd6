"""Signals, sounds, videos and other arrays in files, as a model that takes no picture is given them."""

from __future__ import annotations

import re
import warnings
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.probe import Batch
from torchloupe.sources import images, videos
from torchloupe.sources.examples import as_batch, contents
from torchloupe.sources.preparation import Preparation
from torchloupe.store.reading import reading

ARRAYS = (".npy", ".npz", ".pt", ".pth")
SIGNALS = (".wav", ".csv")
SUFFIXES = (*ARRAYS, *SIGNALS, *videos.SUFFIXES)

# (channels, steps) in -1..1 and steps a second -> x without its axis n
Sound = Callable[[np.ndarray, int], Tensor]


def axes_of(layout: Layout) -> set[str]:
    """Which of the axes t, h, w a layout has."""
    return set(re.findall(r"\w+", layout.pattern.partition("->")[0])) & set("thw")


@dataclass(frozen=True)
class Recordings:
    """Files -> Batch for a model that takes no picture.

    example: one sample of what the model takes: its layout, channels, and number of frames. frame: how one frame of a video
    becomes (c, h, w); None: videos come as arrays alone. sound: what makes a model's input of a sound, where that is no
    plain signal.
    """

    example: Batch
    frame: Preparation | None = None
    sound: Sound | None = None

    @property
    def what(self) -> str:
        """What the samples are called."""
        return {1: "signals", 3: "videos"}.get(len(axes_of(self.example.layout)), "arrays")

    @property
    def taken(self) -> str:
        """The endings of files that are read, for messages."""
        more = (".wav",) if self.sound else SIGNALS if self.what == "signals" else ()
        films = (*videos.SUFFIXES, "folders of frames") if self.frame else ()
        return ", ".join((*more, *films, *ARRAYS))

    def samples(self, files: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
        """Sample -> its files: the pictures in one folder are the frames of one video; every other file is a sample."""
        if self.frame is None:
            return {name: (file,) for name, file in files.items()}
        clips: dict[Path, list[Path]] = {}
        for file in files.values():
            still = file.suffix.lower() in images.SUFFIXES and file.suffix.lower() not in videos.SUFFIXES
            clips.setdefault(file.parent if still else file, []).append(file)
        return dict(zip(images.names_of([key.resolve() for key in clips]), map(tuple, clips.values()), strict=True))

    def read(self, files: Sequence[Path]) -> Batch:
        """One sample. Errors: BadInput that says what the file holds and what is taken."""
        file, ending = files[0], files[0].suffix.lower()
        images.check_file(file, "file")
        if self.frame is not None and ending in videos.SUFFIXES:
            frames = videos.frames(file, pick=lambda count: self._spread(count, file))
            return self._filmed([_image(frame) for frame in frames])
        if self.frame is not None and ending in images.SUFFIXES:
            chosen = self._spread(len(files), file.parent)
            return self._filmed([images.read(files[number]) for number in chosen])
        if ending in ARRAYS:
            return self._given(file)
        if ending == ".wav" and (self.sound is not None or self.what == "signals"):
            return self._heard(*heard(file), file)
        if ending == ".csv" and self.what == "signals":
            return self._signal(columns(file), file)
        raise BadInput(
            f"{file}: this model takes {self.what} ({self.example.layout.pattern}, such as {tuple(self.example.x.shape)}): "
            f"{self.taken}"
        )

    def joined(self, found: Sequence[Batch], ids: Sequence[str]) -> Batch:
        """Samples that `read` gave as one Batch. Errors: BadInput where they differ in shape."""
        shapes = {tuple(one.x.shape) for one in found}
        if len(shapes) > 1:
            raise BadInput(f"samples of several sizes {sorted(shapes)} cannot be asked at once; run them one by one")
        x = torch.cat([one.x for one in found], found[0].layout.axis("n"))
        extra = {name: _together([one.extra[name] for one in found]) for name in found[0].extra}
        shown = [one.pictures for one in found if one.pictures is not None]
        pictures = torch.cat(shown) if len(shown) == len(found) else None
        return Batch(x, found[0].layout, tuple(ids), extra=extra, pictures=pictures)

    def _spread(self, count: int, where: Path) -> list[int]:
        """As many frames as the model takes, evenly over all; some come twice where there are too few."""
        wanted = self.example.size[0]
        if count < 2:
            raise BadInput(f"{where}: {count} frame; this model takes videos of {wanted}: {self.taken}")
        if count < wanted:
            warnings.warn(f"{where}: {count} frames, of which the model is given {wanted}: some twice", LoupeWarning, 3)
        return [round(at) for at in np.linspace(0, count - 1, wanted)]

    def _filmed(self, frames: Sequence[Any]) -> Batch:
        assert self.frame is not None
        x = torch.stack([self.frame.steps(frame) for frame in frames])
        raw = self.example.layout.raw(x.transpose(0, 1)[None])
        return Batch(raw, self.example.layout, pictures=self.frame.undo(x)[:, 0][None])

    def _given(self, file: Path) -> Batch:
        held = contents(file)
        array = held if isinstance(held, (np.ndarray, Tensor)) else None
        if array is not None and self.frame is not None and str(array.dtype).endswith("uint8") and array.ndim == 4:
            if array.shape[-1] != 3:
                raise BadInput(f"{file}: {tuple(array.shape)} uint8; expected frames (t, h, w, 3)")
            frames = np.asarray(array)
            return self._filmed([_image(frames[number]) for number in self._spread(len(frames), file)])
        return self._like_example(as_batch(held, self.example.layout, str(file)), file)

    def _like_example(self, made: Batch, file: Path) -> Batch:
        own = self.example
        missing = [name for name in own.extra if name not in made.extra]
        count, wanted = (one.layout.canonical([one.x], one.n).shape[1] for one in (made, own))
        if made.n != 1 or made.layout.pattern != own.layout.pattern or count != wanted or missing:
            lacks = f", without {', '.join(missing)}" if missing else ""
            raise BadInput(
                f"{file}: {tuple(made.x.shape)} as {made.layout.pattern!r}{lacks}; expected one sample of this model's input, "
                f"{own.layout.pattern!r} with {wanted} channels, such as {tuple(own.x.shape)}"
                + (f" and {', '.join(own.extra)} (an .npz file of arrays by these names)" if own.extra else "")
            )
        return made

    def _heard(self, signal: np.ndarray, rate: int, file: Path) -> Batch:
        if self.sound is None:
            return self._signal(signal, file)
        with reading(file, "a sound for this model"):
            try:
                x = self.sound(signal, rate)
            except BadInput as error:
                raise BadInput(f"{file}: {error}") from None
        return self._like_example(Batch(x, self.example.layout), file)

    def _signal(self, signal: np.ndarray, file: Path) -> Batch:
        letter = next(iter(axes_of(self.example.layout)))
        axes = {"t": (1, 2, 3), "h": (2, 1, 3), "w": (2, 3, 1)}[letter]
        canonical = torch.from_numpy(np.ascontiguousarray(signal)).float().view(1, *signal.shape, 1, 1)
        canonical = canonical.permute(0, 1, *(1 + axis for axis in axes))
        wanted = self.example.layout.canonical([self.example.x], self.example.n).shape[1]
        if len(signal) != wanted:
            raise BadInput(f"{file}: {len(signal)} channels of {signal.shape[1]} steps; this model takes {wanted}")
        return Batch(self.example.layout.raw(canonical), self.example.layout)


def _together(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]


def _image(frame: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(frame)


def heard(file: Path) -> tuple[np.ndarray, int]:
    """A .wav of whole numbers: (channels, steps) float32 in -1..1, and steps a second. Errors: BadInput for other kinds."""
    with reading(file, "a .wav file of whole numbers (PCM)", "other kinds: as .npy"), wave.open(str(file)) as sound:
        width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
        data = np.frombuffer(sound.readframes(sound.getnframes()), np.uint8)
    if len(data) == 0:
        raise BadInput(f"{file}: no sound in this file")
    whole = data[: len(data) // width * width].reshape(-1, width)
    if width == 1:
        values = whole[:, 0].astype(np.float32) / 128 - 1
    else:
        # the highest bytes of an int32, whatever the width
        wide = np.zeros((len(whole), 4), np.uint8)
        wide[:, 4 - width :] = whole
        values = wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    return values[: len(values) // channels * channels].reshape(-1, channels).T.copy(), rate


def columns(file: Path) -> np.ndarray:
    """A .csv of numbers, a row a step, a column a channel, with or without a line of names: (channels, steps) float32."""
    with reading(file, "numbers with commas between them, a row a step, a column a channel"):
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if lines and not all(map(_is_number, lines[0].split(","))):
            lines = lines[1:]
        rows = [[float(word) for word in line.split(",")] for line in lines]
        if not rows:
            raise BadInput(f"{file}: no numbers in it")
        return np.array(rows, np.float32).T


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
