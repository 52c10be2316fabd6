"""The site's pages in build/docs: guides, the pages of the repository, and a reference made from the docstrings. See `make docs`.

Docstrings are plain text with formulas and shapes; they stand word for word, so that no star or underscore is markup.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

import torchloupe

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "docs"
PAGES = {"README.md": "index.md", "ARCHITECTURE.md": "architecture.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}  # fmt: skip
FENCE = "````"


def moved(text: str, here: str) -> str:
    """Links as they are in the site: docs/ is its root; what is no page of it is named without a link."""

    def link(found: re.Match[str]) -> str:
        words, goal, anchor = found["words"], found["goal"], found["anchor"] or ""
        if re.match(r"[a-z]+:", goal) or (not goal and anchor):
            return found[0]
        path = (ROOT / here / goal).resolve()
        place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else goal
        place = PAGES.get(place, place.removeprefix("docs/"))
        known = (OUT / place).is_file() or place in PAGES.values()
        return f"{found['mark']}[{words}]({place}{anchor})" if known else words

    return re.sub(r"(?P<mark>!?)\[(?P<words>[^\]]*)\]\((?P<goal>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)", link, text)


def reference() -> str:
    """A page of all public names, by the module that they live in."""
    homes: dict[str, list[str]] = {}
    for name in torchloupe.__all__:
        homes.setdefault(torchloupe._FROM[name], []).append(name)
    parts = ["# Reference\nEvery public name of `torchloupe`, by the module that it lives in, in its own words."]
    for home in sorted(homes):
        parts.append(f"## {home}")
        for name in homes[home]:
            parts.append(entry(name, getattr(torchloupe, name)))
    return "\n\n".join(parts) + "\n"


def entry(name: str, value: object) -> str:
    """One name: how it is called, its docstring, and those of its public methods."""
    told = inspect.getdoc(value) or ""
    lines = [f"### {name}", FENCE + "python", called(name, value), FENCE]
    if told:
        lines += [FENCE + "text", told, FENCE]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for part, member in vars(value).items():
            if not part.startswith("_") and inspect.isfunction(member) and inspect.getdoc(member):
                lines += [FENCE + "text", f".{called(part, member)}", *(f"    {line}" for line in (inspect.getdoc(member) or "").splitlines()), FENCE]  # fmt: skip
    return "\n".join(lines)


def called(name: str, value: object) -> str:
    """A name with its parameters."""
    try:
        return f"{name}{inspect.signature(value)}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name


def main() -> int:
    """Write the pages."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(ROOT / "docs", OUT, ignore=shutil.ignore_patterns("*.py"))
    for page in OUT.rglob("*.md"):
        here = (Path("docs") / page.relative_to(OUT)).parent.as_posix()
        page.write_text(moved(page.read_text(encoding="utf-8"), here), encoding="utf-8")
    for source, goal in PAGES.items():
        (OUT / goal).write_text(moved((ROOT / source).read_text(encoding="utf-8"), "."), encoding="utf-8")
    (OUT / "reference.md").write_text(reference(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
