"""What is named in text: objects of "package.module:name" or "file.py:name", and what other packages register."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torchloupe.errors import BadInput, LoupeError, nearest

GROUPS = ("sources", "methods", "metrics", "targets", "kinds", "drawings", "commands")


class Absent(BadInput):
    """A module that is nowhere to be found."""


def is_path(text: str) -> bool:
    """Whether a word has the form package.module:name or file.py:name."""
    home, mark, name = text.rpartition(":")
    dotted = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    return bool(mark and re.fullmatch(dotted, name) and (home.endswith(".py") or re.fullmatch(dotted, home)))


def imported(text: str, what: str = "") -> Any:
    """The object that "package.module:name" or "path/to/file.py:name" names; name may have dots. The module runs as code.

    The current directory is importable; beside a file, its folder is. what: the option that named it, for errors.
    Errors: BadInput for a word of another form, a module that is absent or fails, a name that it lacks.
    """
    said = f"{what} {text!r}".strip()
    home, _, name = text.rpartition(":")
    if not is_path(text):
        raise BadInput(f"{said}: expected package.module:name or path/to/file.py:name")
    found = _file(Path(home), said) if home.endswith(".py") else module(home, said)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [other for other in dir(found) if not other.startswith("_")]
            raise BadInput(f"{said}: {home} has no {name!r}.{nearest(part, known)}")
        found = getattr(found, part)
    return found


def own(path: str) -> Any:
    """The object behind a "torchloupe.file:name" of our own tables, whose file is imported only when it is asked for."""
    home, _, name = path.partition(":")
    return getattr(import_module(home), name)


def fingerprint(found: Any) -> str:
    """SHA-256 of the file that an object's code is in, 64 hexadecimal digits; "" where it is in none.

    An object of somebody else's is part of a question, so a result is stale once that file has changed.
    """
    found = inspect.unwrap(found) if callable(found) else found
    code = found if inspect.isfunction(found) or inspect.isclass(found) else type(found)
    try:
        return hashlib.sha256(Path(inspect.getfile(code)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return ""


def called(text: str, what: str, expected: str) -> Callable[..., Any]:
    """The function or class of that name. expected: what it should be, for errors. Errors: as imported; BadInput for anything else."""
    found = imported(text, what)
    if not callable(found):
        raise BadInput(f"{what} {text!r}: is a {type(found).__name__}; expected {expected}".strip())
    made: Callable[..., Any] = found
    return made


def module(home: str, said: str) -> Any:
    """A module by its dotted name; the current directory is importable. said: what named it, for errors.

    Errors: Absent where it is nowhere; BadInput for one that fails, in whatever way.
    """
    _importable(os.getcwd())
    try:
        return import_module(home)
    except ModuleNotFoundError as error:
        if error.name is not None and (home == error.name or home.startswith(error.name + ".")):
            raise Absent(
                f"{said}: no Python module {error.name!r} in the current directory or among the installed packages"
            ) from error
        raise BadInput(f"{said}: importing {home} failed, it needs {error.name!r}, which is absent") from error
    except LoupeError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code, which may be a script that ends itself
        raise BadInput(f"{said}: importing {home} failed with {type(error).__name__}: {error}") from error


def _file(path: Path, said: str) -> ModuleType:
    """A file as a module under a name of its own, so that dataclasses and pickles in it find their home."""
    if not path.is_file():
        raise BadInput(f"{said}: no file {path}")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    _importable(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except LoupeError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # as above
        del sys.modules[name]
        raise BadInput(f"{said}: running {path.name} failed with {type(error).__name__}: {error}") from error
    return module


def _importable(folder: str) -> None:
    if folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.append(folder)


def registered(group: str) -> Mapping[str, EntryPoint]:
    """What installed packages register under "torchloupe.GROUP", by name, without loading it.

    Two packages with one name: the first by the package's name.
    """
    found = sorted(
        _points(tuple(sys.path)).select(group=f"torchloupe.{group}"),
        key=lambda one: (one.dist.name if one.dist else "", one.name),
    )
    return {one.name: one for one in reversed(found)}


@lru_cache(maxsize=1)
def _points(_path: tuple[str, ...]) -> Any:
    """All entry points of all packages, as long as packages are looked for in the same folders: reading them is slow."""
    return entry_points()


def plugged(point: EntryPoint) -> Any:
    """The object of an entry point. Errors: BadInput that names the package where it does not load."""
    try:
        return point.load()
    except LoupeError:
        raise
    except (Exception, SystemExit) as error:  # somebody else's code
        home = point.dist.name if point.dist else "an installed package"
        raise BadInput(
            f"{point.name} ({point.value}) of {home} does not load: {type(error).__name__}: {error}"
        ) from error
