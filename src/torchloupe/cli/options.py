"""What several commands share: the model's options, method options, progress. Light: imports nothing heavy."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from torchloupe.errors import BadInput

if TYPE_CHECKING:
    from torchloupe.probe import Subject

Words = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


@dataclass(frozen=True)
class Model:
    """The model and its weights.

    Attributes:
        weights: A checkpoint: safetensors or .pth, read without running code.
        device: auto, cpu, cuda, cuda:1, mps.
        ema: Take the moving average of the weights from the checkpoint.
        unsafe_load: Let the checkpoint run code while it is read. Only for files that you trust.
        classes: A file with the names of the classes: one a line, or JSON.
        size: Height and width of the input, for models that take any: 224, or 256 192.
        mean: Mean of the normalisation, on the range 0 to 1, for models that come with none.
        std: Standard deviation of the normalisation, likewise.
        cfg_options: Overrides of an OpenMMLab config: key.path=value ...
        layout: How layers lie, where you know it: 'blocks.11=n (t h w) c' ...; n samples, c channels, t times, h rows, w columns.
        layout_sizes: Lengths of axes that --layout leaves open: t=8 ...
        num_extra_tokens: Tokens before those of the picture (class, registers), instead of what is found.
        vit_like: Says what is found anyway, that tokens lie row by row; the seed's word.
    """

    weights: Path | None = None
    device: str = "auto"
    ema: Annotated[bool, Parameter(negative="")] = False
    unsafe_load: Annotated[bool, Parameter(negative="")] = False
    classes: Path | None = None
    size: Annotated[list[int] | None, Parameter(consume_multiple=True, negative="")] = None
    mean: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None
    std: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None
    cfg_options: Words | None = None
    layout: Words | None = None
    layout_sizes: Words | None = None
    num_extra_tokens: int | None = None
    vit_like: Annotated[bool, Parameter(negative="")] = False

    def words(self, spec: str) -> dict[str, Any]:
        """The spec and these options as plain data: the arguments of `sources.subject`."""
        return {
            "model": spec,
            "weights": self.weights and str(self.weights),
            "device": self.device,
            "ema": self.ema,
            "unsafe_load": self.unsafe_load,
            "classes": self.classes and str(self.classes),
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "cfg_options": pairs(self.cfg_options or (), "--cfg-options"),
            **self._layouts(),
        }

    def _layouts(self) -> dict[str, Any]:
        if self.vit_like and self.num_extra_tokens is None and not self.layout:
            say("--vit-like: how tokens lie is found anyway; --num-extra-tokens and --layout say otherwise")
        layouts = dict(word.partition("=")[::2] for word in self.layout or ())
        if "" in layouts.values() or "" in layouts:
            raise BadInput(
                f"--layout {' '.join(self.layout or ())!r}: expected LAYER=PATTERN, such as 'blocks.11=n (h w) c'"
            )
        sizes = pairs(self.layout_sizes or (), "--layout-sizes")
        said = {"layouts": layouts, "layout_sizes": sizes, "extra_tokens": self.num_extra_tokens}
        return {name: value for name, value in said.items() if value not in (None, {})}

    def load(self, spec: str) -> Subject:
        """The subject of a spec with these options."""
        from torchloupe.sources import subject

        return subject(**self.words(spec))


def pairs(words: Sequence[str], option: str) -> dict[str, Any]:
    """key=value words -> a dictionary; values are Python literals where they can be, else text.

    Errors: BadInput for a word without '='.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, mark, value = word.partition("=")
        if not mark or not key:
            raise BadInput(f"{option} {word!r}: expected key=value")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {"true": True, "false": False, "none": None}.get(value.lower(), value)
    return found


def say(text: str) -> None:
    """A line for the person who runs the command."""
    print(text, file=sys.stderr, flush=True)
