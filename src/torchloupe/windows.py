"""What runs in shifted windows, as a picture again, where a module around it says how it was cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.evidence import settle
from torchloupe.subjects import Batch, Subject
from torchloupe.trace import Trace, Visit

# Packages by whether their blocks shift the picture before they pad it to whole windows, or after.
SHIFT_FIRST = {"timm": True, "transformers": False, "mmpretrain": False, "mmdet": False, "mmseg": False}


def whole(
    tensor: Tensor, name: str, at: int, known: Mapping[str, nn.Module], subject: Subject, batch: Batch, trace: Trace
) -> tuple[Tensor, Layout] | str | None:
    """Windows (n * windows, places, channels) as a picture (n, h, w, channels) and its layout.

    The nearest module around `name` that has window_size and shift_size says how they were cut and shifted, its output how large
    the picture is; the number of windows and places must be that. None where there is no such module or the tensor is of
    another shape; a reason where it cannot be known. at: how many calls of modules had ended before the tensor was seen.
    """
    host = _host(name, known)
    if host is None or tensor.ndim != 3 or tensor.shape[0] % batch.n:
        return None
    visit = next((one for one in trace.visits[at:] if one.name == trace.aliases.get(host, host)), None)
    size = None if visit is None else _size(visit, subject, batch, trace)
    if visit is None or size is None:
        return None
    window, shift = _pair(visit.module.window_size), _pair(visit.module.shift_size)
    if isinstance(visit.module.shift_size, int) and min(size) <= min(window):
        # One window holds the picture's height or width: nothing is shifted.
        shift = 0, 0
    rows, columns = (-(-side // one) for side, one in zip(size, window, strict=True))
    if tensor.shape[:2] != (batch.n * rows * columns, window[0] * window[1]):
        return None
    padded = rows * window[0], columns * window[1]
    home = type(visit.module).__module__.partition(".")[0]
    if padded != size and any(shift) and home not in SHIFT_FIRST:
        return f"it runs in shifted windows of a padded picture; {home} does not say which of both comes first"
    cut = tensor.reshape(batch.n, rows, columns, *window, -1).transpose(2, 3).reshape(batch.n, *padded, -1)
    if not SHIFT_FIRST.get(home, False):
        cut = torch.roll(cut, shift, (1, 2))
    cut = cut[:, : size[0], : size[1]]
    if SHIFT_FIRST.get(home, False):
        cut = torch.roll(cut, shift, (1, 2))
    said = f"{host} says how its windows were cut: {window[0]}x{window[1]}, shifted by {shift[0]}, {shift[1]}"
    return cut, replace(Layout("n h w c"), rests=said)


def _host(name: str, known: Mapping[str, nn.Module]) -> str | None:
    """The module of that name or the nearest around it that says how it cuts windows."""
    while name:
        part = known.get(name)
        if part is not None and hasattr(part, "window_size") and hasattr(part, "shift_size"):
            return name
        name = name.rpartition(".")[0]
    return None


def _size(visit: Visit, subject: Subject, batch: Batch, trace: Trace) -> tuple[int, int] | None:
    """Rows and columns of what a module gave; None where that is no picture."""
    layout = settle(subject, batch, visit, trace)
    if isinstance(layout, str) or not visit.shapes:
        return None
    shape = layout.canonical([torch.empty(visit.shapes[0], device="meta")], batch.n, batch.size).shape
    return int(shape[-2]), int(shape[-1])


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
