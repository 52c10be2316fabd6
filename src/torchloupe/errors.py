"""What can go wrong, said in one line that tells what to do next."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

PARTLY = 3
"""Exit status of a run that went on without some of its samples."""


class LoupeError(Exception):
    """The base of every error that torchloupe raises on purpose. The command line prints it and exits with status 2."""


class BadInput(LoupeError, ValueError):
    """A file, option or value is not what was expected."""


class BadSample(BadInput):
    """One sample is at fault, not the question: a run over many goes on without it."""


class MissingPackage(LoupeError, ImportError):
    """An optional package is not installed."""


class UnsafeFile(LoupeError, ValueError):
    """A file would run code while being read."""


class NoGradient(LoupeError, RuntimeError):
    """The score does not depend on what was tapped."""


class LoupeWarning(UserWarning):
    """Something that the reader of a result should know."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """' Did you mean a, b?', or '' where nothing is near."""
    names = {str(known_name).lower(): str(known_name) for known_name in known}
    found = difflib.get_close_matches(name.lower(), names, n=count, cutoff=0.5)
    if not found:
        found = [lower for lower in names if name.lower() in lower][:count]
    return f" Did you mean {', '.join(names[lower] for lower in found)}?" if found else ""


def legible(text: str) -> str:
    """Text that can be written anywhere: bytes of a file name that are not UTF-8 and control characters as \\xNN, lone
    surrogates as \\uNNNN. Tabs and line breaks stay."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
        return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{code:04x}"

    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", escaped, text)


def one_line(text: str) -> str:
    """Legible text without line breaks, every run of blanks one blank."""
    return " ".join(legible(text).split())


def need(package: str, extra: str) -> MissingPackage:
    """The error for an optional package that is absent: names the extra to install."""
    return MissingPackage(f"{package} is not installed; install it with: pip install 'torchloupe[{extra}]'")
