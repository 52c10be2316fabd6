"""What several commands share: the model's options, method options, progress. Light: imports nothing heavy."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    def load(self, spec: str) -> Subject:
        """The subject of a spec with these options."""
        from torchloupe.sources import subject

        return subject(
            spec,
            weights=self.weights,
            device=self.device,
            ema=self.ema,
            unsafe_load=self.unsafe_load,
            classes=self.classes,
            size=self.size,
            mean=self.mean,
            std=self.std,
            cfg_options=pairs(self.cfg_options or (), "--cfg-options"),
        )


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


class Progress:
    """A bar with samples, rate and time left on a terminal; silent elsewhere."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)

    def part(self, done: int, total: int) -> None:
        """How far the present one is."""
        if self._bar is not None:
            self._bar.update(self._task, part=f"{100 * done // max(total, 1)} %" if done < total else "")


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Progress over total things, shown when standard error is a terminal."""
    if not sys.stderr.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[part]}"))
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task(what, total=total, part=""))
