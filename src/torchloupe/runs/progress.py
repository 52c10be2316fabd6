"""How far a run is: samples, rate, time left. Shown on a terminal, silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A line that a run keeps up to date."""

    def __init__(self, bar: Any = None, task: Any = None) -> None:
        self._bar, self._task = bar, task

    def advance(self, count: int = 1, made: int = 0) -> None:
        """So many more are done; made: of these, so many now."""
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
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate())
    part = TextColumn("{task.fields[part]}")
    with Bar(*columns, TimeRemainingColumn(), part, console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task(what, total=total, part=""))
