"""Set-up that the tests need and the package does not, and a watch over what they leave behind."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from left import Before

from torchloupe.sources import patches

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as of jobs in the background: tests of Ctrl-C send it to children
    signal.signal(signal.SIGINT, signal.default_int_handler)
# a machine that is busy is no fault of what is tested
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")
torch.set_num_threads(1)  # two workers of pytest share two cores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    patches.torchvision()  # tests import peers, timm and torchvision by themselves, before the package does


def pytest_configure() -> None:
    """A folder of this process for temporary files: what is left in it was left by its own tests. pytest's own go elsewhere."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="loupe-tests-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


@pytest.fixture
def threads() -> Iterator[None]:
    """For a test that calls numba or faiss itself: both set the number of OpenMP's threads, which is torch's."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves the process other than it was: the first fixture of a test, hence the last one undone."""
    before = Before()
    yield
    left = before.left()
    assert not left, "left behind: " + "; ".join(left)
