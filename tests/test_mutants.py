"""Faults that are planted change one place, in lines that were asked for, and are told apart by the tests."""

from __future__ import annotations

import ast
from pathlib import Path

import mutants
import pytest

TEXT = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import numpy
def f(x: 'a < b', k: int = 2) -> 'c and d':
    \"\"\"Text: x < 1.\"\"\"
    assert x is not None
    try:
        if x < k and not x == 3:
            say(f'{x + 1}', loud=True)
        return -x.sum().clamp(min=0)
    finally:
        close(x)
"""
EXPECTED = {
    "comparison": {"if x >= k", "not x != 3"},
    "bound": {"if x <= k"},
    "and/or": {"(x < k or not x == 3)"},
    "not": {"and (x == 3)"},
    "sign": {"return (x.sum().clamp(min=0))"},
    "constant": {"k: int = 3", "x == 4", "loud=False", "clamp(min=1)"},
    "keyword": {"say(f'{x + 1}')", "-x.sum().clamp()"},
    "call": {"pass", "return -(x.sum())"},
    "finally": {"pass"},
}


def test_every_kind_of_fault_where_it_belongs_and_nowhere_else() -> None:
    found: dict[str, list[str]] = {}
    for fault in mutants.faults(Path("f.py"), TEXT):
        after = fault.planted(TEXT)
        ast.parse(after)
        (line,) = [new for old, new in zip(TEXT.splitlines(), after.splitlines(), strict=True) if old != new]
        found.setdefault(fault.kind, []).append(line.strip())
    assert set(found) == set(EXPECTED)
    for kind, expected in EXPECTED.items():
        assert all(any(part in line for line in found[kind]) for part in expected), (kind, found[kind])
    assert len(found["sign"]) == 1, "the + stands in a text"
    assert len(found["comparison"]) == 2, "annotations, texts and assertions stay"
    assert sorted(found["call"]) == ["pass", "pass", "return -(x.sum())"]


def test_faults_of_the_package_can_be_compiled() -> None:
    for name in ("probe.py", "kinds/maps.py", "shadow.py"):
        file = mutants.SRC / "torchloupe" / name
        text = file.read_text(encoding="utf-8")
        for fault in mutants.faults(file, text):
            ast.parse(fault.planted(text))


def test_only_lines_that_were_asked_for_and_one_fault_a_line() -> None:
    file = mutants.SRC / "torchloupe" / "probe.py"
    taken = mutants.chosen({file: {*range(100, 200)}}, 12, seed=3)
    places = [fault.start[0] for fault in taken]
    assert len(set(places)) == len(places) == 12
    assert all(100 <= place < 200 for place in places)
    assert taken == mutants.chosen({file: {*range(100, 200)}}, 12, seed=3)
    assert taken != mutants.chosen({file: {*range(100, 200)}}, 12, seed=4)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("store/results.py", "test_store"),
        ("probe.py", "test_probe"),
        ("methods/cam.py", "test_oracles"),
        ("trace.py", "test_probe"),
    ],
)
def test_the_tests_of_a_module_are_near(module: str, expected: str) -> None:
    assert expected in [file.stem for file in mutants.nearest(mutants.SRC / "torchloupe" / module, 6)]
