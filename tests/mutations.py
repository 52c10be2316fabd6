"""Damage as files suffer it, from a seed: cut off, bits turned, parts lost, doubled, overwritten, numbers and types changed."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import numpy as np

TOKENS = (
    b"null", b"[]", b"{}", b'""', b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"true", b'"\\ud800"', b"[[[[]]]]",
    b"!!python/object:os.system", b"&a [*a]", b"'", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"]", b"%s", b"\n", b"\t:",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to three kinds of damage."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = chance.choice(KINDS)(content, chance)
    return content


def _place(content: bytes, chance: random.Random) -> int:
    """Anywhere, but half of the time near an end, where headers and directories are."""
    last = max(len(content) - 1, 0)
    near = min(last, int(chance.expovariate(1 / 40)))
    return chance.choice((near, last - near, chance.randint(0, last), chance.randint(0, last)))


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _headless(content: bytes, chance: random.Random) -> bytes:
    return content[_place(content, chance) :]


def _bits(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(chance.choice((1, 2, 8))):
        if found:
            found[_place(content, chance) % len(found)] ^= 1 << chance.randint(0, 7)
    return bytes(found)


def _bytes(content: bytes, chance: random.Random) -> bytes:
    at, size = _place(content, chance), chance.choice((1, 2, 4, 8, 64))
    put = chance.choice((b"\0" * size, b"\xff" * size, chance.randbytes(size)))
    return content[:at] + put + content[at + size :]


def _lost(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + content[at + chance.choice((1, 3, 16, 100)) :]


def _doubled(content: bytes, chance: random.Random) -> bytes:
    at, size = _place(content, chance), chance.choice((1, 5, 40))
    return content[: at + size] + content[at:]


def _token(content: bytes, chance: random.Random) -> bytes:
    """A word or a number becomes another thing."""
    words = list(re.finditer(rb"[-\w.]+|\"[^\"]*\"|\[[^\[\]]*\]|\{[^{}]*\}", content))
    if not words:
        return _bytes(content, chance)
    word = chance.choice(words)
    return content[: word.start()] + chance.choice(TOKENS) + content[word.end() :]


def _deep(content: bytes, chance: random.Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + chance.choice((b"[", b"{'a':", b'{"a":', b"- ")) * chance.choice((50, 5000)) + content[at:]


KINDS = (_cut, _headless, _bits, _bytes, _lost, _doubled, _token, _token, _deep)


def altered(arrays: Mapping[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """Arrays of which one is absent, empty, of another shape or kind, or holds what nobody expects."""
    name = chance.choice(sorted(arrays))
    array, rest = arrays[name], {key: value for key, value in arrays.items() if key != name}
    how = chance.choice(
        ("absent", "named", "empty", "flat", "axis", "less", "more", "text", "odd", "huge", "kind", "first")
    )
    if how == "absent":
        return rest
    if how == "named":
        return {**rest, name[: len(name) // 2] + "?": array}
    made = {
        "empty": lambda: array[:0] if array.ndim else np.zeros(0),
        "flat": lambda: array.reshape(-1),
        "axis": lambda: array[None],
        "less": lambda: array[:-1] if array.ndim else array,
        "more": lambda: np.concatenate([array, array]) if array.ndim else np.stack([array, array]),
        "text": lambda: np.full(array.shape, "%s{0}"),
        "odd": lambda: np.full(array.shape, chance.choice((np.nan, np.inf, -np.inf))),
        "huge": lambda: np.full(array.shape, chance.choice((1e308, -1e308, 2**62, -(2**62)))),
        "kind": lambda: np.zeros(array.shape, chance.choice(("bool", "uint8", "int64", "complex128", "datetime64[D]"))),
        "first": lambda: array.reshape(-1)[:1].reshape(()) if array.size else array,
    }
    return {**rest, name: np.asarray(made[how]())}
