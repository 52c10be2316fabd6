"""What a result has in common with a picture: a notebook shows it as one."""

from __future__ import annotations

from torchloupe.named import own


class Pictured:
    """A result that Jupyter, marimo and VS Code show as its still picture."""

    def _repr_png_(self) -> bytes | None:
        found: bytes | None = own("torchloupe.view.notebook:png")(self)
        return found
