"""Every command of `loupe`, found by walking the application, so that no list of them ages."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple, get_args

from torchloupe.cli import build


class Command(NamedTuple):
    """A command and its options: name of the Python parameter -> the argument that cyclopts made of it."""

    path: tuple[str, ...]
    function: Any
    options: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(self.path)

    @property
    def needed(self) -> list[str]:
        """Words for what the command cannot do without; none of them names anything that is there."""
        found: list[str] = []
        for argument in self.options.values():
            if argument.required:
                found += [*(name for name in argument.names[:1] if name.startswith("-")), "nowhere"]
        return found


def kinds(type_: Any) -> set[Any]:
    """int, float, str, Path ... that an annotation is made of."""
    inner = [part for part in get_args(type_) if not isinstance(part, str)]
    return {kind for part in inner for kind in kinds(part)} if get_args(type_) else {type_}


@cache
def commands() -> tuple[Command, ...]:
    """All of them."""

    def walk(app: Any, path: tuple[str, ...]) -> Iterator[Command]:
        for name in app:
            if not name.startswith("-"):
                yield from walk(app[name], (*path, name))
        if path and app.default_command is not None:
            leaves = [one for one in app.assemble_argument_collection() if not one.children]
            yield Command(path, app.default_command, {one.field_info.name: one for one in leaves})

    return tuple(walk(build(), ()))
