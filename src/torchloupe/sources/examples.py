"""An example of what a model takes, for models that take no picture, or more than one thing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.sources.safe import read_checkpoint
from torchloupe.store import load_arrays
from torchloupe.store.reading import reads

# by the number of axes; what lies otherwise is given as a Batch, or says so in a file
USUAL = {3: "n c h", 4: "n c h w", 5: "n c t h w"}
EXPLAINED = ("x", "input", "inputs", "image", "images", "pixel_values", "video", "signal")


def as_batch(example: Any, usual: Layout | None = None, where: str = "example") -> Batch:
    """A Batch as it is; a tensor or array, (n, ...); several by the names of the forward's arguments, of which the one of a name
    in EXPLAINED, else the first, is explained; or a file with such: .npz, .npy, .pt, .pth.

    A text under "layout" says how what is explained lies ("n c t h w"); without it the usual one is taken, where none is given
    (n, c, h), (n, c, h, w), (n, c, t, h, w). where: what it is called in messages.
    Errors: BadInput for anything else, and for a number of axes that nothing is known of.
    """
    if isinstance(example, Batch):
        return example
    if isinstance(example, (str, Path)):
        where, example = f"example {example}", contents(Path(example))
    if isinstance(example, (tuple, list)):
        raise BadInput(f"{where}: a {type(example).__name__}; expected tensors by the names of the forward's arguments")
    if not isinstance(example, Mapping):
        example = {"x": example}
    given = {str(name): value for name, value in example.items()}
    pattern = given.pop("layout", None)
    if not given:
        raise BadInput(f"{where}: nothing in it")
    name = next((one for one in EXPLAINED if one in given), next(iter(given)))
    x = _tensor(given.pop(name), f"{where}: {name}")
    if pattern is None and usual is None and x.ndim not in USUAL:
        raise BadInput(
            f"{where}: {name} has {x.ndim} axes; say how they lie, with a text 'layout' beside it such as 'n c h w'"
        )
    layout = Layout(str(pattern)) if pattern is not None else usual or Layout(USUAL[x.ndim])
    extra = {key: _tensor(value, f"{where}: {key}") if _numbers(value) else value for key, value in given.items()}
    return Batch(x, layout, extra=extra)


def _numbers(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise BadInput(f"{where}: expected a tensor or an array of numbers, found {type(value).__name__}")
    return value


@reads("an example (.npz, .npy, .pt or .pth)")
def contents(path: Path) -> Any:
    """What is in a file of arrays: one, or several by their names."""
    if not path.is_file():
        raise BadInput(f"example {path}: no such file")
    if path.suffix == ".npz":
        return load_arrays(path)
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return read_checkpoint(path)
