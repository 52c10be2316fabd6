"""Where a model runs."""

from __future__ import annotations

import torch

from torchloupe.errors import BadInput


def device(name: str | int | torch.device = "auto") -> torch.device:
    """'auto' (CUDA, then MPS, then the CPU), 'cpu', 'cuda', 'cuda:1', 'mps', or the number of a CUDA device.

    Errors: BadInput for a name that is not one of these, and for a device that this machine does not have.
    """
    if isinstance(name, torch.device):
        name = str(name)
    text = f"cuda:{name}" if isinstance(name, int) or name.isdigit() else name.strip().lower()
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in text and not index.isdigit()):
        raise BadInput(f"device {name!r}: expected auto, cpu, cuda, cuda:0, mps or a number")
    if kind == "cuda":
        _check_cuda(text, int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadInput("device 'mps': this machine or this torch has no Metal device; try --device cpu")
    return torch.device(text)


def _check_cuda(text: str, index: int) -> None:
    if not torch.backends.cuda.is_built():
        raise BadInput(
            f"device {text!r}: this torch ({torch.__version__}) is built without CUDA; install another or try --device cpu"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        found = f"it has {count}, numbered from 0" if count else "it has none"
        raise BadInput(f"device {text!r}: this machine has no such CUDA device ({found}); try --device auto")
