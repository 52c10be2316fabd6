"""A plugin of pytest for `mutants.py`: the lines of the package that each test comes to, by the name of the test."""

from __future__ import annotations

from collections.abc import Iterator

import coverage
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """What is run from here on, fixtures too, is the test's."""
    measured = coverage.Coverage.current()
    assert measured is not None
    measured.switch_context(item.nodeid)
    return (yield)
