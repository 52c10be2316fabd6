"""Plants random one-line faults in the lines that a branch changes, and lists those that no test notices: make mutants.

A fault is planted in a copy of src/, and those tests of the files nearest to its module that come to its line run on that
copy. Only expressions and statements are changed, never texts, annotations or docstrings. Exit status 1 where a fault was
not noticed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC, TESTS = ROOT / "src", ROOT / "tests"
OTHER: dict[type, type] = {
    ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
BOUND: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "amin": "amax", "amax": "amin"}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One fault: what stands from `start` to `stop` (line, byte) of the file is replaced."""

    file: Path
    kind: str
    start: tuple[int, int]
    stop: tuple[int, int]
    new: str

    def planted(self, text: str) -> str:
        lines = [line.encode() for line in text.splitlines(keepends=True)]
        (first, left), (last, right) = self.start, self.stop
        lines[first - 1 : last] = [lines[first - 1][:left] + self.new.encode() + lines[last - 1][right:]]
        return b"".join(lines).decode()

    def told(self, text: str) -> str:
        before, after = text.splitlines(), self.planted(text).splitlines()
        place = f"{self.file.relative_to(SRC)}:{self.start[0]}"
        return f"{place} ({self.kind})\n    - {before[self.start[0] - 1].strip()}\n    + {after[self.start[0] - 1].strip()}"


def faults(file: Path, text: str) -> Iterator[Fault]:
    """All faults that can be planted in a file."""
    tree = ast.parse(text)

    def fault(kind: str, node: ast.expr | ast.stmt, new: ast.AST | str) -> Fault:
        said = new if isinstance(new, str) else ast.unparse(new)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Fault(file, kind, (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), said)

    for node in _live(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for kind, table in (("comparison", OTHER), ("bound", BOUND)):
                if type(node.ops[0]) in table:
                    yield fault(kind, node, _with(node, ops=[table[type(node.ops[0])]()]))
        elif isinstance(node, ast.BinOp) and type(node.op) in OTHER and not isinstance(node.left, ast.JoinedStr):
            yield fault("sign", node, _with(node, op=OTHER[type(node.op)]()))
        elif isinstance(node, ast.BoolOp):
            yield fault("and/or", node, f"({ast.unparse(_with(node, op=OTHER[type(node.op)]()))})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield fault("sign" if isinstance(node.op, ast.USub) else "not", node, f"({ast.unparse(node.operand)})")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield fault("constant", node, str(not node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield fault("constant", node, repr(node.value + 1 if isinstance(node.value, int) else node.value * 2))
        elif isinstance(node, ast.Call):
            for i, one in enumerate(node.keywords):
                if one.arg is not None:
                    yield fault("keyword", node, _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :]))
            if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name | ast.Constant):
                yield fault("call", node, f"({ast.unparse(node.func.value)})")
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in NAMES:
                called = ast.Attribute(node.func.value, NAMES[name]) if isinstance(node.func, ast.Attribute) else None
                yield fault("call", node, _with(node, func=called or ast.Name(NAMES[name])))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield fault("call", node, "pass")
        elif isinstance(node, ast.Try):
            yield from (fault("finally", one, "pass") for one in node.finalbody)


def _live(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose change changes what is done: no annotation, no text, nothing only for type checkers."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_comment") or isinstance(
            tree, ast.Import | ast.ImportFrom | ast.JoinedStr
        ):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not _only_types(node):
                yield node
                yield from _live(node)


def _only_types(node: ast.AST) -> bool:
    named = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    asserted = isinstance(node, ast.Assert)  # said to the type checker
    return named or asserted


def _with(node: ast.AST, **fields: object) -> ast.AST:
    made = copy.copy(node)
    vars(made).update(fields)
    return made


def changed(base: str) -> dict[Path, set[int]]:
    """File -> the lines that differ from a revision."""
    shown = _git("diff", "--unified=0", "--no-color", "--diff-filter=d", base, "--", "src")
    found: dict[Path, set[int]] = {}
    file = ROOT
    for line in shown.splitlines():
        if line.startswith("+++ "):
            file = ROOT / line[6:]
        elif (at := re.match(r"@@ \S+ \+(\d+)(?:,(\d+))? @@", line)) and file.suffix == ".py":
            first, count = int(at[1]), int(at[2] or 1)
            found.setdefault(file, set()).update(range(first, first + count))
    return found


def chosen(lines: dict[Path, set[int] | None], count: int, seed: int) -> list[Fault]:
    """So many faults, no two on a line; a kind that is rare comes as often as one that is not. lines: None is every line."""
    by_kind: dict[str, list[Fault]] = {}
    rng = random.Random(seed)
    for file, some in sorted(lines.items()):
        for fault in faults(file, file.read_text(encoding="utf-8")):
            if some is None or fault.start[0] in some:
                by_kind.setdefault(fault.kind, []).append(fault)
    for of_kind in by_kind.values():
        rng.shuffle(of_kind)
    taken: dict[tuple[Path, int], Fault] = {}
    while len(taken) < count and any(by_kind.values()):
        kind = rng.choice(sorted(kind for kind, left in by_kind.items() if left))
        fault = by_kind[kind].pop()
        taken.setdefault((fault.file, fault.start[0]), fault)
    return list(taken.values())


def nearest(file: Path, most: int) -> list[Path]:
    """The test files nearest to a module: those that import it or use its public names, that are named like it, that import
    what imports it."""
    name = ".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
    public = re.findall(
        rf'"(\w+)": "{name.removeprefix("torchloupe")}"', (SRC / "torchloupe" / "__init__.py").read_text()
    )
    users = {one for one in _modules() if name in _imports(SRC / one)}
    words = {word for word in re.split(r"[._]", name) if len(word) > 3} - {"torchloupe"}
    scored = []
    for test in sorted(TESTS.glob("test_*.py")):
        text, taken = test.read_text(encoding="utf-8"), _imports(test)
        direct = name in taken or any(re.search(rf"\bloupe\.{one}\b", text) for one in public)
        indirect = any(".".join(Path(user).with_suffix("").parts) in taken for user in users)
        score = 4 * direct + 2 * len(words & set(test.stem.split("_"))) + indirect
        if score:
            scored.append((-score, len(text), test))
    return [test for _, _, test in sorted(scored)[:most]]


def _modules() -> list[str]:
    return [str(one.relative_to(SRC)) for one in SRC.rglob("*.py")]


def _imports(file: Path) -> set[str]:
    """The modules that a file imports, with what may be a module among the names taken from a package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return found


@dataclass
class Reach:
    """What the tests of one file come to: line of a file of the package -> names of tests; file -> names; and those that fail."""

    lines: dict[tuple[str, int], set[str]]
    files: dict[str, set[str]]
    red: set[str]
    seconds: float

    def of(self, fault: Fault) -> list[str]:
        """The tests that come to the fault's line; where it is run when the module is imported, all that come to the module."""
        file = str(fault.file.relative_to(SRC))
        found = self.lines.get((file, fault.start[0]), set())
        return sorted((self.files[file] if found == {""} else found) - {""} - self.red)


def reach(test: Path, source: Path, folder: Path) -> Reach:
    """Run a file of tests once, each line noted with the test that came to it."""
    begun, data = time.monotonic(), folder / f"{test.stem}.coverage"
    measure = [
        "-m",
        "coverage",
        "run",
        f"--data-file={data}",
        f"--source={source / 'torchloupe'}",
        "-m",
        "pytest",
        "-p",
        "reach",
    ]
    said = subprocess.run(
        [sys.executable, *measure, *QUIET, str(test)], cwd=ROOT, env={**os.environ, **_environment(source)}, text=True,
        capture_output=True, check=False,
    ).stdout  # fmt: skip
    lines: dict[tuple[str, int], set[str]] = {}
    files: dict[str, set[str]] = {}
    if data.is_file():
        from coverage import CoverageData

        held = CoverageData(str(data))
        held.read()
        for path in held.measured_files():
            name = str(Path(path).relative_to(source))
            for line, tests in held.contexts_by_lineno(path).items():
                lines[name, line] = set(tests)
                files.setdefault(name, set()).update(tests)
    red = set(re.findall(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", said, re.MULTILINE))
    return Reach(lines, files, red, time.monotonic() - begun)


QUIET = ("-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow", "--tb=no")
HEAVY = ("torch", "matplotlib.pyplot", "pandas", "scipy.stats")  # seconds to import, once


def tested(tests: Sequence[str], source: Path, limit: float) -> bool:
    """Whether tests pass on a copy of the package, in a fork of this process. A run over the limit counts as failed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silent, stream)
            os.chdir(ROOT)
            os.environ |= _environment(source)
            sys.path[:0] = [str(source), str(TESTS)]
            sys.dont_write_bytecode = True
            status = int(pytest.main([*QUIET, "-x", *tests]))
        finally:
            os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return False


def _environment(source: Path) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(source), str(TESTS), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument(
        "paths", nargs="*", type=Path, help="files or folders of src/, whole, instead of what a branch changes"
    )
    parser.add_argument("--base", help="the revision that is compared with; the merge base with origin/main or main")
    parser.add_argument("--count", type=int, default=20, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=6, help="test files for a fault at most")
    asked = parser.parse_args(words)
    lines: dict[Path, set[int] | None] = {
        file: None
        for path in asked.paths
        for file in (path.resolve().rglob("*.py") if path.is_dir() else [path.resolve()])
    }
    lines |= {} if lines else changed(asked.base or _fork())
    planted = chosen(lines, asked.count, asked.seed)
    if not planted:
        print("no line of src/ changes that a fault could be planted in")
        return 0
    for one in HEAVY:
        with suppress(ImportError):
            importlib.import_module(one)
    survivors, counts = [], Counter[tuple[str, bool]]()
    known: dict[Path, Reach] = {}
    with tempfile.TemporaryDirectory(prefix="loupe-mutants-") as name:
        folder = Path(name)
        source = folder / "src"
        shutil.copytree(SRC, source, ignore=shutil.ignore_patterns("__pycache__"))
        for fault in sorted(planted, key=lambda one: (one.file, one.start)):
            home, text = source / fault.file.relative_to(SRC), fault.file.read_text(encoding="utf-8")
            noticed = False
            home.write_text(fault.planted(text), encoding="utf-8")
            for test in nearest(fault.file, asked.files):
                if test not in known:
                    home.write_text(text, encoding="utf-8")
                    known[test] = reach(test, source, folder)
                    home.write_text(fault.planted(text), encoding="utf-8")
                near = known[test].of(fault)
                noticed = bool(near) and not tested(near, source, 60 + 5 * known[test].seconds)
                if noticed:
                    break
            home.write_text(text, encoding="utf-8")
            counts[_area(fault.file), noticed] += 1
            print(("noticed  " if noticed else "SURVIVED ") + fault.told(text), flush=True)
            survivors += [] if noticed else [fault]
    for area in sorted({area for area, _ in counts}):
        print(f"{area}: {counts[area, True]} of {counts[area, True] + counts[area, False]} noticed")
    print(f"all: {len(planted) - len(survivors)} of {len(planted)} noticed (seed {asked.seed})")
    return 1 if survivors else 0


def _area(file: Path) -> str:
    parts = file.relative_to(SRC / "torchloupe").parts
    return parts[0] if len(parts) > 1 else "core"


def _fork() -> str:
    for other in ("origin/main", "main"):
        found = subprocess.run(["git", "merge-base", other, "HEAD"], cwd=ROOT, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    raise SystemExit("neither origin/main nor main is here: give --base REV")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
