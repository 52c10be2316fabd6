"""What comes from a shell, checked before anything is loaded: empty words, numbers, places to read from and to write to."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from inspect import BoundArguments
from pathlib import Path
from typing import Any, NamedTuple, get_args

from torchloupe.errors import BadInput


class Range(NamedTuple):
    """Numbers from low to high; above: low itself is not among them."""

    low: float
    high: float
    above: bool = False

    def missed(self, value: float) -> str:
        """What was expected in place of a value that is outside."""
        if self.high <= 1:
            return f"{self.low:g} to {self.high:g}"
        if value > self.high:
            return f"{self.high:,.0f} at most"
        return f"more than {self.low:g}" if self.above else f"{self.low:g} or more"

    def __contains__(self, value: object) -> bool:
        return (
            isinstance(value, (int, float))
            and (self.low < value if self.above else self.low <= value)
            and value <= self.high
        )


MANY = 10**9
COUNT, SOME, SHARE = Range(1, MANY), Range(0, MANY), Range(0, 1)
SEED = Range(0, 2**32 - 1)
SIDE = Range(1, 8192)

RANGES: dict[str, Range] = {
    **dict.fromkeys(
        ("show_number", "repeat", "bucket_size", "dataset_size", "ngpus", "max_samples", "every", "failures"), COUNT
    ),
    **dict.fromkeys(("steps", "people", "strangers", "frames", "samples", "pictures", "walkers"), Range(1, 10**7)),
    **dict.fromkeys(
        ("ids", "parts", "question", "depth", "dense", "worst", "examples", "reduce", "num_extra_tokens"), SOME
    ),
    **dict.fromkeys(("batch_size", "batch"), Range(1, 65536)),
    **dict.fromkeys(("opacity", "heatmap_opacity", "threshold", "mean"), SHARE),
    **dict.fromkeys(("size", "input_size"), SIDE),
    **dict.fromkeys(("rescale_factor", "resize_ratio", "font_scale", "std"), Range(0, 10_000, above=True)),
    **dict.fromkeys(("seconds", "show_interval"), Range(0, 86_400)),
    **dict.fromkeys(("sigma", "sigmas", "tolerance", "reach", "marker_size"), Range(0, 10**6, above=True)),
    **dict.fromkeys(("chunk", "blocks", "smooth"), Range(1, 65536)),
    "seed": SEED,
    "least": Range(0, 1, above=True),
    "dpi": Range(20, 2400),
    "fps": Range(0, 60, above=True),
    "fig_size": Range(0, 100, above=True),
    "alpha": SHARE,
    "pred_score_thr": Range(0, 2),  # above 1: no detection at all
    "arrangement": Range(1, 1000),
    "resize_shape": Range(1, 20_000),
    "topk": Range(-1, MANY),
    "dims": Range(1, 1000),
    "embed_dim": Range(1, 1000),
    "k": Range(1, 10**6),
    "side": SIDE,
    "count": Range(2, MANY),
    "smallest": Range(2, MANY),
    "most": Range(0, MANY),
    "noise": Range(0, 1000),
    "power": Range(1, 64),
    "port": Range(0, 65535),
    "workers": Range(0, 4096),
    "gpus_per_worker": Range(0, 64),
    "timeout": Range(0, 10**7, above=True),
}
"""Option -> the numbers that it takes, in every command that has it."""

READ = (
    "labels",
    "classes",
    "images",
    "into",
    "annotations",
    "detections",
    "results",
    "cfg",
    "config",
    "weights",
    "example",
    "feats",
    "dataset_dir",
    "evaluation",
    "partition",
    "metric",
)
"""Options of type Path that name what is read."""

WRITTEN = ("output", "save", "save_path", "save_dir", "output_dir")
"""Options that name what is written."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg", ".bmp", ".tif", ".tiff", ".gif", ".mp4", ".html")
FILES = (*PICTURES, ".npz", ".npy", ".parquet", ".csv", ".json")
"""Endings of results: a file of another kind in the place of results is no result, and a folder is meant."""

MAY_BE_EMPTY = ("--title",)


def spelled(arguments: list[str]) -> list[str]:
    """The words of a command line as this one has them, from the spelling of older tools: --fig_size=4,4 and, of
    `loupe draw`, -c for the colour map."""
    found: list[str] = []
    for word in arguments:
        pair = re.fullmatch(r"(?:(--fig[-_]size|-f)=)?\(?([\d.]+),\s*([\d.]+)\)?", word)
        if pair and (pair[1] or found[-1:] in (["--fig-size"], ["--fig_size"], ["-f"])):
            found += [part for part in pair.groups() if part]
        elif found[:1] == ["draw"] and (word == "-c" or word.startswith("-c=")):
            found.append("--cmap" + word[2:])
        else:
            found.append(word)
    return found


def words(type_: Any, tokens: Any) -> Any:
    """The words of one option as its type. Errors: BadInput for an empty one, or a number that is none of the kind."""
    from cyclopts import convert

    kinds = set(_kinds(type_))
    for token in tokens:
        option, word = token.keyword or "argument", token.value
        if not word and option not in MAY_BE_EMPTY:
            raise BadInput(f"{option} '': an empty word; expected a value (is a variable of the shell unset?)")
        if "\0" in word:
            raise BadInput(f"{option} {word!r}: holds a NUL character, which no name does")
        if kinds & {int, float}:
            _number(option, word, whole=float not in kinds)
    return convert(type_, tokens)


def _number(option: str, word: str, whole: bool) -> None:
    try:
        value = float(word)
    except ValueError:
        return  # a word such as none, or one that the conversion refuses
    if not math.isfinite(value):
        raise BadInput(f"{option} {word}: expected a finite number")
    if whole and "x" not in word.lower() and not value.is_integer():
        raise BadInput(f"{option} {word}: expected a whole number")


def _kinds(type_: Any) -> Iterator[Any]:
    inner = get_args(type_)
    if not inner:
        yield type_
    for one in inner:
        yield from _kinds(one) if not isinstance(one, str) else ()


def check(bound: BoundArguments) -> None:
    """Errors: BadInput for a number out of its range, a file that is not there, a place that cannot be written."""
    for name, value in _given(bound.arguments):
        option = f"--{name.replace('_', '-')}"
        limits = RANGES.get(name)
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, bool):
                continue
            if isinstance(one, (int, float)) and limits is not None and one not in limits:
                raise BadInput(f"{option} {one}: expected {limits.missed(one)}")
            if name in READ and isinstance(one, Path):
                readable(option, one)
            if name in WRITTEN and isinstance(one, (str, Path)):
                writable(option, Path(one))


def _given(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every option and its value, those of groups of options too."""
    for name, value in arguments.items():
        if is_dataclass(value) and not isinstance(value, type):
            yield from _given({field.name: getattr(value, field.name) for field in fields(value)})
        else:
            yield name, value


def readable(option: str, path: Path) -> None:
    """Errors: BadInput for a file or folder that is not there or cannot be read."""
    try:
        path.stat()
    except OSError as error:
        raise BadInput(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
    if not os.access(path, os.R_OK):
        raise BadInput(f"{option} {path}: may not be read; change its permissions")


def writable(option: str, path: Path) -> None:
    """Errors: BadInput for a place below a file, in a folder that may not be written, or with a name that no disk takes."""
    try:
        above = path.absolute()
        while not above.exists():
            above = above.parent
    except OSError as error:  # a name that is too long, a loop of links
        raise BadInput(f"{option} {path}: {(error.strerror or str(error)).lower()}; give another name") from None
    if not above.is_dir() and (above != path.absolute() or above.suffix.lower() not in FILES):
        raise BadInput(f"{option} {path}: {above} is a file; give a folder")
    if not os.access(above, os.W_OK):
        raise BadInput(f"{option} {path}: {above} may not be written; give another place")
