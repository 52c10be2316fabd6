"""Targets as people write them on a command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from torchloupe.errors import BadInput
from torchloupe.probe import Target
from torchloupe.targets.classes import Classes, Several, Top, Truth


def target(words: Sequence[str], names: tuple[str, ...] = ()) -> Target:
    """Words -> a target: "predicted", "top3", "truth", a class index or name, "package.module:function"; any number of them.

    Errors: BadInput for a function that cannot be imported; unknown classes are told when the model's classes are known.
    """
    groups: list[Target] = []
    classes: list[int | str] = []
    for word in words or ("predicted",):
        found = _special(word, names)
        if found is None:
            classes.append(int(word) if word.isdigit() else word)
            continue
        if classes:
            groups.append(Classes(tuple(classes), names))
            classes = []
        groups.append(found)
    if classes:
        groups.append(Classes(tuple(classes), names))
    return groups[0] if len(groups) == 1 else Several(tuple(groups))


def _special(word: str, names: tuple[str, ...]) -> Target | None:
    plain = word.lower()
    if plain in ("predicted", "pred", "prediction"):
        return Top(1, names)
    if plain in ("truth", "true", "label"):
        return Truth(names)
    if (found := re.fullmatch(r"top-?(\d+)", plain)) is not None:
        return Top(int(found[1]), names)
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", word):
        return _imported(word)
    return None


def _imported(word: str) -> Target:
    home, _, name = word.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(import_module(home), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"target {word!r} cannot be imported: {error}; expected package.module:function") from error
    if not callable(found):
        raise BadInput(f"target {word!r} is a {type(found).__name__}; expected a function (output, batch) -> Scores")
    return found() if isinstance(found, type) else found
