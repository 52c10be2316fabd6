"""Text that has been taken for something else: placeholders, markup, TeX, format strings, paths, properties."""

from __future__ import annotations

import re
from pathlib import Path

import torchloupe

MARKUP = (
    "<!--<script>",
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '" onmouseover="window.hacked = 1" x="',
    "&lt;b&gt; &amp; &#60;",
    "<style>* { display: none }</style>",
    "]]><!-- -->",
    "javascript:window.hacked = 1",
)
TEX = ("$", "price $5 to $10", r"$\frac{$", r"$x^2$", r"\$5\$", r"\alpha_{1}", "a_b^c", "$$", "%")
FORMATS = ("{0}", "{title}", "{{}}", "%s %d %", "${HOME}", "\\1 \\g<0>", "*bold* `code` [red]red[/red]")
NAMES = ("__proto__", "constructor", "toString", "_hidden", "null", "nan", "../../up", "a/b", "#?%41&", "-rf")
FOREIGN = (
    "Ünïcödé",
    "名前",
    "مرحبا",
    "👩‍🔬",
    "a\u2028b",
    "\u202edesrever",
    "two\nlines",
    "tab\there",
    "caf\udce9",
    "x" * 300,
)


def placeholders() -> tuple[str, ...]:
    """Every place of every template of the package, as it stands there."""
    home = Path(torchloupe.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted((*home.rglob("*.html"), *home.rglob("render/*.py")))]
    found = {name for text in texts for name in re.findall(r"\{\{\w+\}\}", text)}
    assert {"{{title}}", "{{figures}}", "{{script}}", "{{body}}"} <= found
    return tuple(sorted(found))


def texts() -> tuple[str, ...]:
    """All of them."""
    return (*placeholders(), *MARKUP, *TEX, *FORMATS, *NAMES, *FOREIGN)
