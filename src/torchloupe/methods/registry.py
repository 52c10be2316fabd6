"""Every method under its published name."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from inspect import Parameter, signature
from typing import TypeVar

from torchloupe.errors import BadInput, nearest
from torchloupe.results import Maps

Method = Callable[..., Maps]
METHODS: dict[str, Method] = {}
M = TypeVar("M", bound=Method)


def method(fn: M) -> M:
    """Registers a method under its own name."""
    METHODS[fn.__name__] = fn
    return fn


def named(name: str) -> Method:
    """A method by its published name; case, '-' and '+' as people write them ("Grad-CAM++") are understood.

    Errors: BadInput that offers the nearest names.
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
    found = {known.replace("_", ""): known for known in load_all()}.get(plain)
    if found is None:
        raise BadInput(f"no method {name!r}.{nearest(name, METHODS)} Known: {', '.join(sorted(METHODS))}.")
    return METHODS[found]


def options_of(fn: Method) -> dict[str, Parameter]:
    """The keyword options of a method, by name."""
    return {name: part for name, part in signature(fn).parameters.items() if part.kind is Parameter.KEYWORD_ONLY}


def load_all() -> dict[str, Method]:
    """Imports every file of methods and gives METHODS, by name."""
    for file in ("cam", "path", "backprop", "perturb", "opengait"):
        import_module(f"torchloupe.methods.{file}")
    return METHODS
