"""Pages from templates: every place is filled in one pass, so that what fills a place is never taken for a place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from torchloupe.errors import legible


def filled(template: str, places: Mapping[str, str]) -> str:
    """The template with its `{{name}}`s replaced, each by its own text, which is not looked into again.

    Every place of the template is given, and every one given is there: a KeyError tells which is not.
    """
    left = set(places) - set(re.findall(r"\{\{(\w+)\}\}", template))
    if left:
        raise KeyError(f"the template has no place for {', '.join(sorted(left))}")
    return legible(re.sub(r"\{\{(\w+)\}\}", lambda found: places[found[1]], template))


def script_json(value: Any) -> str:
    """JSON that stands in a script element: no `<` in it, so that neither `</script>` nor `<!--<script>` ends or opens one."""
    return json.dumps(value).replace("<", "\\u003c")


def address(file: str | os.PathLike[str]) -> str:
    """A relative path as the address in a page: `#`, `?`, `%` and bytes that are not UTF-8 escaped."""
    return quote(os.fsencode(file))
