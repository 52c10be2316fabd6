"""What a model is fed: samples as they go through a pipeline, and what many of them have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Exhausted, Feed, Marks, Sample
from torchloupe.methods.faults import Boxes, Draws, odd_pictures, quality, share_interval


def seed_of(seed: int, index: int, repeat: int) -> int:
    """One seed for every (seed, sample, repeat), the same on every machine and in every order."""
    return int(np.random.SeedSequence((seed, index, repeat)).generate_state(1)[0])


def samples(
    feed: Feed, numbers: range, *, repeat: int = 1, seed: int = 0, whole: bool = True
) -> Iterator[Sample | BadSample]:
    """The samples one after the other, each `repeat` times; a bad one is handed on as its error."""
    for index in numbers:
        for time in range(repeat):
            try:
                found = feed.sample(index, seed_of(seed, index, time), whole)
                yield replace(found, repeat=time)
            except BadSample as error:
                yield error
                break
            except Exhausted:
                return


def faults(sample: Sample) -> list[str]:
    """What is wrong with the annotation of a sample, a line each: what its pipeline told, and boxes that are outside their
    picture, reach beyond it, have no area or are on another scale, at the first step where they do."""
    found = list(sample.faults)
    told: set[str] = set()
    for step in sample.steps:
        for k, picture in enumerate(step.pictures):
            for kind, text in _box_faults(step.known(k), picture.shape[0], picture.shape[1]):
                if kind not in told:
                    told.add(kind)
                    found.append(f"{step.name}: {text}")
    return found


def _box_faults(marks: Marks, h: int, w: int) -> Iterator[tuple[str, str]]:
    """(kind, text) for each kind of fault among the boxes of one picture, with the first box that has it."""
    boxes = marks.boxes
    if boxes is None or not len(boxes):
        return
    x0, y0, x1, y1 = boxes.T
    if boxes.min() >= 0 and boxes.max() <= 1 and min(h, w) > 8:
        yield "shares", f"boxes from 0 to 1 on a picture of {w}x{h}: shares of it, not pixels?"
        return
    flat = (x1 <= x0) | (y1 <= y0) | ~np.isfinite(boxes).all(1)
    out = ~flat & ((x0 >= w) | (y0 >= h) | (x1 <= 0) | (y1 <= 0))
    over = np.stack([-x0, -y0, x1 - w, y1 - h], 1).max(1)
    beyond = ~flat & ~out & (over > np.maximum(1.0, 0.01 * max(h, w)))
    for kind, which, words in (
        ("area", flat, "without area"),
        ("outside", out, f"outside its picture of {w}x{h}"),
        ("beyond", beyond, f"beyond its picture of {w}x{h}"),
    ):
        if which.any():
            k = int(which.argmax())
            name = f" ({marks.names[k]})" if k < len(marks.names) and marks.names[k] else ""
            more = f"{int(which.sum())} of {len(boxes)} boxes" if len(boxes) > 1 else "box"
            yield kind, f"{more} {words}: {', '.join(f'{value:.4g}' for value in boxes[k])}{name}"


def areas(marks: Marks) -> list[str]:
    """The names of the areas of a label map that has some: classes, or the segments of a panoptic map one by one."""
    if marks.masks is None or marks.masks.ndim != 2 or not marks.legend:
        return []
    return [marks.legend[number] for number in np.unique(marks.masks).tolist() if number in marks.legend]


class Census:
    """Numbers over the samples seen, kept in memory that grows by a few hundred bytes a sample."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.indices: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.outputs: Counter[tuple[int, int]] = Counter()
        self.labels: Counter[str] = Counter()
        self.files: list[str] = []
        self.prints: list[np.ndarray] = []
        self.bad: list[BadSample] = []
        self.faults: list[tuple[int, str, str]] = []
        self.notes: dict[str, None] = {}
        self.areas: Counter[str] = Counter()
        self.classes: list[tuple[str, ...]] = []
        self.several = 0
        self.figures: list[tuple[float, float, float]] = []
        self.boxes = Boxes()
        self.draws = Draws()
        self.original = Moments()
        self.transformed = Moments()

    def add(self, sample: Sample | BadSample) -> None:
        """Counts a sample; of a repeated one only the result of the pipeline counts again."""
        if isinstance(sample, BadSample):
            self.bad.append(sample)
            return
        pictures = sample.original.pictures
        picture = pictures[0]
        if sample.repeat == 0:
            self.indices.append(sample.index)
            self.names.append(sample.name)
            self.files.append(sample.file or str(sample.index))
            self.sizes.append((picture.shape[1], picture.shape[0]))
            self.faults += [(sample.index, sample.name, text) for text in faults(sample)]
            # Frames of a walk side by side: single silhouettes all look the same.
            row = len(pictures) > 1 and len({one.shape for one in pictures}) == 1
            self.prints.append(fingerprint(np.concatenate(pictures, 1) if row else picture))
            self.figures.append(quality(picture))
            marks = sample.original.known(0)
            if marks.boxes is not None:
                self.boxes.add(marks.boxes, marks.names, (picture.shape[1], picture.shape[0]))
            self.areas.update(areas(marks))
            counts = [histogram(one) for one in pictures]
            for one in counts:
                self.original.add_counts(one)
            names = sample.labels or ((sample.label,) if sample.label else ())
            self.labels.update(names)
            self.classes.append(names)
            self.several += len(names) > 1
            self.notes.update(dict.fromkeys(sample.notes))
        if len(sample.steps) > 1:
            self.draws.add(sample)
        last = sample.transformed.pictures
        # Without a pipeline the last pictures are the first ones.
        same = sample.repeat == 0 and last is pictures
        for result, one in zip(last, counts if same else map(histogram, last), strict=True):
            self.transformed.add_counts(one)
            self.outputs[(result.shape[1], result.shape[0])] += 1

    def duplicates(self) -> list[list[int]]:
        """Groups of pictures that look the same, by their places among the samples seen."""
        return [group for group in alike(self.prints) if len({self.files[k] for k in group}) > 1]

    def contradictions(self, groups: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """Of pictures that look the same those whose classes differ."""
        found = []
        for group in groups:
            classes = [", ".join(self.classes[k]) for k in group]
            if len(set(classes)) > 1:
                found.append({"names": [self.names[k] for k in group], "labels": classes})
        return found

    def summary(self) -> dict[str, Any]:
        """All of it as plain values, for a table and a file. Sizes are width x height, colours RGB from 0 to 255."""
        groups = self.duplicates()
        sizes = np.array(self.sizes, dtype=float).reshape(-1, 2)
        aspect = sizes[:, 0] / sizes[:, 1]

        def spread(values: np.ndarray) -> dict[str, float]:
            return {key: float(f(values)) for key, f in (("min", np.min), ("median", np.median), ("max", np.max))}

        return {
            "samples": len(self.names),
            "width": spread(sizes[:, 0]) if len(sizes) else {},
            "height": spread(sizes[:, 1]) if len(sizes) else {},
            "aspect": spread(aspect) if len(sizes) else {},
            "output sizes": {f"{w}x{h}": count for (w, h), count in self.outputs.most_common()},
            "classes": dict(sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))),
            "several classes": self.several,
            "notes": list(self.notes),
            "intervals": {
                name: share_interval(count, len(self.names)) for name, count in self.labels.items() if len(self.names)
            },
            "odd": [
                {"index": self.indices[k], "name": self.names[k], "why": why}
                for k, why in odd_pictures(np.array(self.figures).reshape(-1, 3), np.array(self.sizes).reshape(-1, 2))
            ],
            "boxes": self.boxes.summary(),
            "classes of boxes": dict(self.boxes.names.most_common()),
            "classes of areas": dict(self.areas.most_common()),
            "draws": self.draws.summary(),
            "mean": self.original.mean.tolist(),
            "std": self.original.std.tolist(),
            "transformed mean": self.transformed.mean.tolist(),
            "transformed std": self.transformed.std.tolist(),
            "broken": [{"index": e.index, "name": e.name, "step": e.step, "message": e.message} for e in self.bad],
            "annotation": [{"index": index, "name": name, "fault": text} for index, name, text in self.faults],
            "duplicates": [[self.names[k] for k in group] for group in groups],
            "contradictions": self.contradictions(groups),
        }


VALUES = np.arange(256.0)


def histogram(picture: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel: picture (h, w, 3) uint8 -> (3, 256). Whole numbers: exact, in any order of samples."""
    flat = picture.reshape(-1, 3)
    return np.stack([np.bincount(flat[:, c], minlength=256) for c in range(3)])


class Moments:
    """mean = sum(x) / n, std = sqrt(sum(x^2) / n - mean^2) of each channel over all pixels of all pictures."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = np.zeros(3)
        self.squares = np.zeros(3)

    def add(self, picture: np.ndarray) -> None:
        """picture (h, w, 3) uint8."""
        self.add_counts(histogram(picture))

    def add_counts(self, counts: np.ndarray) -> None:
        """counts (3, 256) as histogram gives them."""
        self.count += int(counts[0].sum())
        self.sum += counts @ VALUES
        self.squares += counts @ VALUES**2

    @property
    def mean(self) -> np.ndarray:
        return self.sum / max(self.count, 1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0))


BASIS = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32)[None] + 1) / 64)


def fingerprint(picture: np.ndarray) -> np.ndarray:
    """A picture in 72 bytes, uint8: 8 of pHash (64 signs of low frequencies) and 64 of its 8 x 8 grey thumbnail.

    Source: Zauner 2010, Implementation and benchmarking of perceptual image hash functions, thesis, FH Hagenberg.
    Differs: the sign is taken against the median of the 8 x 8 block without its first entry, the mean of the picture.
    """
    from PIL import Image

    grey = np.asarray(Image.fromarray(picture).convert("L").resize((32, 32), Image.Resampling.BOX), dtype=float)
    block = (BASIS @ grey @ BASIS.T).ravel()
    # Rounding noise in a flat picture is no sign.
    signs = block > np.median(block[1:]) + 1e-6 * np.abs(block).max()
    small = grey.reshape(8, 4, 8, 4).mean((1, 3)).round().astype(np.uint8)
    return np.concatenate([np.packbits(signs), small.ravel()])


ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
MOST_PAIRS = 1 << 20


def _near(rows: np.ndarray, bits: int) -> Iterator[tuple[int, int]]:
    """Pairs of rows (n, 72) of whose 64 signs at most `bits` differ; a pair may come several times.

    Cut into bits + 1 parts, the signs of such a pair agree in one part at least: only rows that do are compared.
    """
    signs = np.unpackbits(rows[:, :8], axis=1)
    for part in np.array_split(signs, bits + 1, axis=1):
        words = np.packbits(part, axis=1)
        _, where = np.unique(words, axis=0, return_inverse=True)
        order = np.argsort(where.ravel(), kind="stable")
        starts = np.flatnonzero(np.diff(where.ravel()[order], prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
            same = order[start:stop]
            step = max(MOST_PAIRS // len(same), 1)
            for first in range(0, len(same) if len(same) > 1 else 0, step):
                mine = same[first : first + step]
                apart = ONES[rows[mine, None, :8] ^ rows[None, same, :8]].sum(2)
                for k, j in np.argwhere(apart <= bits).tolist():
                    if first + k < j:
                        yield int(mine[k]), int(same[j])


def alike(prints: list[np.ndarray], bits: int = 6, level: float = 6.0) -> list[list[int]]:
    """Groups of numbers whose fingerprints agree: at most `bits` signs differ and the thumbnails by < `level` of 255."""
    if len(prints) < 2:
        return []
    # The same picture many times is compared once.
    rows, which = np.unique(np.stack(prints), axis=0, return_inverse=True)
    parent = list(range(len(rows)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for one, other in _near(rows, bits):
        if root(one) != root(other) and np.abs(rows[one, 8:].astype(int) - rows[other, 8:]).mean() < level:
            parent[root(other)] = root(one)
    groups: dict[int, list[int]] = {}
    for k, one in enumerate(which.ravel().tolist()):
        groups.setdefault(root(one), []).append(k)
    return sorted(group for group in groups.values() if len(group) > 1)


def told(values: Mapping[str, Any]) -> str:
    """Drawn values as a short text: 'i 3, j 17, angle -12.5'; long and large ones are left out."""
    return ", ".join(
        f"{key.lstrip('_')} {text}".strip()
        for key, value in values.items()
        if value is not None and (text := _short(value))
    )


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return value if len(value) <= 24 else ""
    if isinstance(value, (int, np.integer)):
        return str(value)
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.3g}"
    if isinstance(value, np.ndarray):
        return _short(value.tolist()) if value.size <= 6 else ""
    if isinstance(value, Mapping):
        text = told(value)
    elif isinstance(value, (list, tuple)):
        parts = [_short(part) for part in value]
        text = parts[0] if len(parts) == 1 else f"({', '.join(parts)})" if all(parts) and parts else ""
    else:
        return ""
    return text if len(text) <= 80 else ""
