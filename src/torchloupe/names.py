"""Layers as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from torchloupe.errors import BadInput, nearest
from torchloupe.subjects import INPUT, LISTING


def split_call(name: str) -> tuple[str, int | None]:
    """'relu#1' -> ('relu', 1); 'relu' -> ('relu', None)."""
    bare, mark, call = name.partition("#")
    if mark and not call.isdigit():
        raise BadInput(f"layer {name!r}: expected a call number after '#', such as {bare}#0")
    return bare, int(call) if mark else None


def resolve(known: Mapping[str, nn.Module], name: str, listing: str = LISTING) -> str:
    """A layer as users write it -> its dotted name: layer4[-1] -> layer4.2.

    known: dict(module.named_modules()). listing: the command that lists the layers.
    Errors: BadInput that offers the nearest names.
    """
    if name == INPUT:
        return name
    bare, call = split_call(name)
    suffix = "" if call is None else f"#{call}"
    dotted = re.sub(r"\[(\d+)\]", r".\1", bare)
    while (found := re.search(r"\[(-\d+)\]", dotted)) is not None:
        parent = known.get(dotted[: found.start()])
        try:
            count = len(parent)  # type: ignore[arg-type]
        except TypeError:
            raise BadInput(f"layer {name!r}: {dotted[: found.start()]!r} is not a list of layers") from None
        if count + int(found[1]) < 0:
            raise BadInput(f"layer {name!r}: {dotted[: found.start()]!r} has {count} layers")
        children = list(parent._modules)  # type: ignore[union-attr]
        dotted = f"{dotted[: found.start()]}.{children[int(found[1])]}{dotted[found.end() :]}"
    if not dotted or dotted not in known:
        raise BadInput(
            f"no layer {name!r} in this model.{nearest(dotted, (k for k in known if k))} `{listing}` lists all of them."
        )
    return dotted + suffix


def expand(known: Mapping[str, nn.Module], word: str) -> list[str]:
    """A layer, or a glob over the layers' dotted names (layer* stays on its level), as names in the model's order.

    known: dict(module.named_modules()).
    Errors: BadInput for a glob that fits nothing.
    """
    if not re.search(r"[*?]", word):
        return [resolve(known, word)]
    parts = word.split(".")
    found = [
        name
        for name in known
        if name.count(".") == len(parts) - 1
        and all(fnmatchcase(own, part) for own, part in zip(name.split("."), parts, strict=True))
    ]
    if not found:
        raise BadInput(f"no layer fits {word!r}; `loupe layers` lists all of them.")
    return found
