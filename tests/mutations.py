"""Damage as files suffer it, from a seed: cut off, bits turned, parts lost, doubled, overwritten, numbers and types changed."""

from __future__ import annotations

import random
import re

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
