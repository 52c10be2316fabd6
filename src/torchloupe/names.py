"""Layers as people write them."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, nearest
from torchloupe.named import Absent, module
from torchloupe.subjects import INPUT, LISTING, Subject
from torchloupe.trace import every_name

PointKind = Literal["module", "function", "parameter", "attention"]
PREFIXES: Mapping[str, tuple[PointKind, bool]] = {
    "in": ("module", True),
    "fn": ("function", False),
    "in-fn": ("function", True),
    "param": ("parameter", False),
    "attn": ("attention", False),
}


@dataclass(frozen=True)
class Point:
    """A place in a network, whose value can be seen.

    kind, name: a module or parameter by dotted name, a function or method by import path; attention: of the module that attends.
    inputs: what goes in, not what comes out. call: the n-th call in one forward; None = all of them.
    keys: the way to one tensor inside tuples, lists, dicts and objects.
    """

    kind: PointKind
    name: str
    inputs: bool = False
    call: int | None = None
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        prefix = next((text + ":" for text, found in PREFIXES.items() if found == (self.kind, self.inputs)), "")
        call = "" if self.call is None else f"#{self.call}"
        return prefix + self.name + call + "".join(f"@{key}" for key in self.keys)


def parse(text: str) -> Point:
    """name | in:name | fn:package.module.function | in-fn:... | param:name | attn:name, then #call, then @key as often as needed.

    A method is written as a function: fn:package.module.Class.method. Globs (* and ?) stand for modules and parameters.
    Errors: BadInput that shows the forms.
    """
    prefix, colon, rest = text.partition(":")
    kind, inputs = PREFIXES.get(prefix, ("module", False)) if colon else ("module", False)
    name = rest if colon and prefix in PREFIXES else text
    name, *keys = name.split("@")
    name, mark, call = name.partition("#")
    bad_prefix = colon and prefix not in PREFIXES
    if bad_prefix or not name or not all(keys) or (mark and not call.isdigit()):
        hint = nearest(prefix, PREFIXES) if bad_prefix else ""
        raise BadInput(
            f"point {text!r}: expected name, in:name, fn:package.function, in-fn:package.function, param:name or "
            f"attn:name, then "
            f"#call and @key where wanted, such as relu#1 or neck@0.{hint}"
        )
    return Point(kind, name.replace(":", "."), inputs, int(call) if mark else None, tuple(keys))  # type: ignore[arg-type]


def locate(path: str) -> tuple[Any, str]:
    """An import path -> the module or class that holds the last name, and that name.

    Errors: BadInput for a path that leads nowhere (with the nearest names), to something that is not called, or through a module
    that fails.
    """
    parts = path.split(".")
    if not all(parts):
        raise BadInput(f"{path!r}: expected package.module.function, with a name between any two dots")
    holder: Any = None
    used = 0
    for used in range(len(parts) - 1, 0, -1):
        try:
            holder = module(".".join(parts[:used]), repr(path))
            break
        except Absent:
            continue
    if holder is None:
        raise BadInput(f"{path!r}: there is no module {parts[0]!r}; expected package.module.function")
    for i in range(used, len(parts)):
        if not hasattr(holder, parts[i]):
            where = ".".join(parts[:i])
            raise BadInput(f"{path!r}: {where} has no {parts[i]!r}.{nearest(parts[i], dir(holder))}")
        if i < len(parts) - 1:
            holder = getattr(holder, parts[i])
    if not callable(getattr(holder, parts[-1])) or isinstance(getattr(holder, parts[-1]), (type, types.ModuleType)):
        raise BadInput(f"{path!r} is not a function or method, so nothing calls it; name one inside it")
    return holder, parts[-1]


def split_call(name: str) -> tuple[str, int | None]:
    """'relu#1' -> ('relu', 1); 'relu' -> ('relu', None)."""
    bare, mark, call = name.partition("#")
    if mark and not call.isdigit():
        raise BadInput(f"layer {name!r}: expected a call number after '#', such as {bare}#0")
    return bare, int(call) if mark else None


def name_of(known: Mapping[str, nn.Module], module: object) -> str:
    """The dotted name of a module. Errors: BadInput for one that is no part of the network, or no module at all."""
    found = next((name for name, part in known.items() if part is module and name), None)
    if found is None:
        what = (
            f"this {type(module).__name__} is no part of the model" if isinstance(module, nn.Module) else repr(module)
        )
        raise BadInput(f"layer: {what}; expected dotted names, or modules inside the model")
    return found


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


def told(
    subject: Subject,
    layouts: Mapping[str, Layout | str] | None = None,
    sizes: Mapping[str, int] | None = None,
    extra_tokens: int | None = None,
) -> Subject:
    """The subject with what is known of its layers' layouts; the others go on being found.

    layouts: a layer's name or a glob -> a Layout, or its pattern. sizes: lengths of axes that patterns leave open.
    extra_tokens: tokens before those of the picture, in these patterns and wherever tokens are found.
    Errors: BadInput for unknown layers, patterns that cannot be read, and sizes or tokens that make no sense.
    """
    if extra_tokens is not None and extra_tokens < 0:
        raise BadInput(f"extra_tokens is {extra_tokens}; expected 0 or more")
    lengths = dict(sizes or {})
    for letter, length in lengths.items():
        if not re.fullmatch(r"[a-z]+", letter) or isinstance(length, bool) or not isinstance(length, int) or length < 1:
            raise BadInput(f"layout size {letter}={length!r}: expected an axis of a layout and its length, such as t=8")
    if lengths and not layouts:
        raise BadInput(f"layout sizes {lengths} without a layout that they belong to")
    known = every_name(subject.module)
    found: dict[str, Layout] = {}
    used: set[str] = set()
    for word, given in (layouts or {}).items():
        layout = given if isinstance(given, Layout) else _pattern(word, given)
        letters = set(re.findall(r"[a-z]+", layout.pattern))
        used |= letters & set(lengths)
        layout = replace(layout, sizes={**{a: b for a, b in lengths.items() if a in letters}, **layout.sizes})
        if extra_tokens is not None and not layout.skip:
            layout = replace(layout, skip=extra_tokens)
        for name in expand(known, word):
            found[split_call(name)[0]] = replace(layout, rests=layout.rests or "said")
    if set(lengths) - used:
        raise BadInput(
            f"layout size {min(set(lengths) - used)!r}: no layout has this axis; {', '.join(map(str, (layouts or {}).values()))}"
        )
    declared = subject.layout

    def layout_of(name: str) -> Layout | None:
        return found[name] if name in found else declared(name)

    return replace(subject, layout=layout_of if found else declared, extra_tokens=extra_tokens)


def _pattern(word: str, text: str) -> Layout:
    left = text.partition("->")[0]
    letters = re.findall(r"[a-z]+", left)
    if (
        not re.fullmatch(r"\s*(\([a-z ]+\)|[a-z]+|\s)+\s*", left)
        or len(set(letters)) != len(letters)
        or "n" not in letters
        or not ("->" in text or set("thw") & set(letters))
    ):
        raise BadInput(
            f"layout of {word!r}, {text!r}: expected the axes in their order, n samples, c channels, t times, h rows, w columns, "
            "folded ones in brackets: 'n (h w) c', 'n (t h w) c', 'n h w c'"
        )
    return Layout(" ".join(text.split()))
