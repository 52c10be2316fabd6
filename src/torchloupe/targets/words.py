"""Targets as people write them on a command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torchloupe.errors import BadInput
from torchloupe.named import called, fingerprint, imported, is_path, plugged, registered
from torchloupe.probe import Target
from torchloupe.targets.classes import Classes, Several, Top, Truth
from torchloupe.targets.contrast import Contrast, contrasted

EXPECTED = "a function (output, batch) -> Scores, or a class without arguments whose objects are such"


def target(words: Sequence[str], names: tuple[str, ...] = ()) -> Target:
    """Words of a classifier -> a target: "predicted", "top3", "truth", a class index or name, one class less another ("tabby - tiger
    cat", "tabby - others"), and what `question` takes.

    Errors: as question; unknown classes are told when the model's classes are known.
    """
    return question(words, names, _classes)


def question(
    words: Sequence[str], names: tuple[str, ...], plain: Callable[[Sequence[str], tuple[str, ...]], Target]
) -> Target:
    """Words -> a target, for a model of any kind: "package.module:function", the name of a target that a package registers, and
    words that plain reads; any number of them, in their order.

    Errors: BadInput for a function that cannot be imported, and as plain.
    """
    groups: list[Target] = []
    kept: list[str] = []
    for word in words or ("predicted",):
        found = _foreign(word, names)
        if found is None:
            kept.append(word)
            continue
        if kept:
            groups.append(plain(kept, names))
            kept = []
        groups.append(found)
    if kept:
        groups.append(plain(kept, names))
    return groups[0] if len(groups) == 1 else Several(tuple(groups))


def foreign(words: Sequence[str], names: Sequence[str] = ()) -> dict[str, str]:
    """The words that name somebody else's code, and no class, with the fingerprint of the file that it is in."""
    return {word: fingerprint(imported(word)) for word in words if is_path(word) and word not in names}


def _classes(words: Sequence[str], names: tuple[str, ...]) -> Target:
    groups: list[Target] = []
    classes: list[int | str] = []
    for word in words:
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
    pair = contrasted(word, names)
    if pair is not None:
        return Contrast((pair,), names)
    if plain in ("predicted", "pred", "prediction"):
        return Top(1, names)
    if plain in ("truth", "true", "label"):
        return Truth(names)
    if (found := re.fullmatch(r"top-?(\d+)", plain)) is not None:
        return Top(int(found[1]), names)
    return None


def _foreign(word: str, names: tuple[str, ...]) -> Target | None:
    """The target that a path or a registered name gives; None for any other word, and for the name of a class."""
    if word in names:
        return None
    if is_path(word):
        made = called(word, "--target", EXPECTED)
    elif (point := registered("targets").get(word)) is not None:
        made = plugged(point)
        if not callable(made):
            raise BadInput(f"--target {word!r}: is a {type(made).__name__}; expected {EXPECTED}")
    else:
        return None
    if not isinstance(made, type):
        return made
    try:
        target: Target = made()
    except TypeError as error:
        raise BadInput(f"--target {word!r}: {error}; expected {EXPECTED}") from error
    if not callable(target):
        raise BadInput(f"--target {word!r}: its objects cannot be called; expected {EXPECTED}")
    return target
