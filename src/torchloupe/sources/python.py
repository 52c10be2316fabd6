"""Models from any Python code: a factory named by its dotted path, or a module as it is."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from torch import nn

from torchloupe.errors import BadInput, LoupeError, nearest
from torchloupe.probe import Subject
from torchloupe.sources import patches
from torchloupe.sources.assemble import Options, channels, finish, split_spec
from torchloupe.sources.preparation import resize_crop

HOMES = {name: f"torchloupe.sources.{name}" for name in ("timm", "torchvision", "transformers")}


def factory(rest: str, options: Options) -> Subject:
    """torch:package.module:factory?key=value: call it and take the nn.Module (or Subject) that it returns.

    The current directory is importable. Importing and calling run that code.
    Errors: BadInput for a module or factory that is absent, fails, or returns something else.
    """
    path, arguments = split_spec(rest)
    home, mark, name = path.partition(":")
    if not mark or not home or not name:
        raise BadInput(
            f"model {options.spec!r}: expected torch:package.module:factory, as in torch:my.models:small?depth=3"
        )
    make = _attribute(_imported(home, options), name, options)
    if not callable(make):
        raise BadInput(
            f"{options.spec}: {name} is a {type(make).__name__}; expected a function or class that makes a model"
        )
    try:
        made = make(**arguments)
    except LoupeError:
        raise
    except Exception as error:  # the user's own code
        raise BadInput(f"{options.spec}: {name} failed with {type(error).__name__}: {error}") from error
    if isinstance(made, Subject):
        return made
    if not isinstance(made, nn.Module):
        raise BadInput(f"{options.spec}: {name} returned a {type(made).__name__}; expected an nn.Module")
    return given(made, options)


def _imported(home: str, options: Options) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return patches.imported(home)
    except ModuleNotFoundError as error:
        if error.name is not None and (home == error.name or home.startswith(error.name + ".")):
            raise BadInput(
                f"{options.spec}: no Python module {error.name!r} in the current directory or among the installed packages"
            ) from error
        raise BadInput(f"{options.spec}: importing {home} failed, it needs {error.name!r}, which is absent") from error
    except Exception as error:  # the user's own code
        raise BadInput(f"{options.spec}: importing {home} failed with {type(error).__name__}: {error}") from error


def _attribute(home: Any, name: str, options: Options) -> Any:
    found = home
    for part in name.split("."):
        if not hasattr(found, part):
            known = [other for other in dir(found) if not other.startswith("_")]
            raise BadInput(f"{options.spec}: {home.__name__} has no {name!r}.{nearest(part, known)}")
        found = getattr(found, part)
    return found


def given(module: nn.Module, options: Options) -> Subject:
    """A module as it is, prepared by resize, crop and normalise; those of timm, torchvision and transformers as there."""
    home = HOMES.get(type(module).__module__.partition(".")[0])
    if home is not None:
        found = import_module(home).given(module, options)
        if found is not None:
            return found
    h, w = options.hw or (224, 224)
    count = len(options.mean) if options.mean else channels(module)
    preparation = resize_crop((count, h, w), options.mean, options.std) if count in (1, 3) else None
    notes = (
        {}
        if preparation is None
        else {"preparation": f"resize, crop {h} x {w}, mean {preparation.mean}, std {preparation.std}"}
    )
    return finish(module, options, preparation, notes=notes)
