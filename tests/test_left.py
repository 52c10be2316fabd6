"""The watch over what tests leave behind notices each kind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from left import Before


def _put(home: object, name: str, value: object, undone: ExitStack) -> None:
    undone.callback(setattr, home, name, getattr(home, name))
    setattr(home, name, value)


def _folder(undone: ExitStack) -> None:
    undone.callback(os.chdir, os.getcwd())
    os.chdir("/")


def _module(name: str) -> Callable[[ExitStack], None]:
    def place(undone: ExitStack) -> None:
        sys.modules[name] = types.ModuleType(name)
        undone.callback(sys.modules.pop, name)

    return place


def _safe(undone: ExitStack) -> None:
    undone.callback(torch.serialization.add_safe_globals, list(torch.serialization.get_safe_globals()))
    undone.callback(torch.serialization.clear_safe_globals)
    torch.serialization.add_safe_globals([Path])


def _lost(undone: ExitStack) -> None:
    undone.callback(torch.serialization.add_safe_globals, list(torch.serialization.get_safe_globals()))
    torch.serialization.clear_safe_globals()


def _level(undone: ExitStack) -> None:
    undone.callback(logging.getLogger("torchloupe.tested").setLevel, logging.NOTSET)
    logging.getLogger("torchloupe.tested").setLevel(logging.ERROR)


def _file(undone: ExitStack) -> None:
    name = tempfile.mkdtemp(prefix="loupe-browse-")
    undone.callback(os.rmdir, name)


def _thread(undone: ExitStack) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="lasting")
    thread.start()
    undone.callback(thread.join)
    undone.callback(done.set)


def _figure(undone: ExitStack) -> None:
    undone.callback(plt.close, plt.figure())


def _errors(undone: ExitStack) -> None:
    undone.callback(lambda before: np.seterr(**before), np.seterr(invalid="raise"))


def _handler(undone: ExitStack) -> None:
    undone.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))


def _dtype(undone: ExitStack) -> None:
    undone.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def _threads(undone: ExitStack) -> None:
    undone.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(torch.get_num_threads() + 1)


def _deterministic(undone: ExitStack) -> None:
    undone.callback(torch.use_deterministic_algorithms, False)
    torch.use_deterministic_algorithms(True)


def _gradients(undone: ExitStack) -> None:
    undone.callback(torch.set_grad_enabled, torch.is_grad_enabled())
    torch.set_grad_enabled(False)


LEFT: dict[str, Callable[[ExitStack], None]] = {
    "working folder": _folder,
    "torch.utils.tensorboard": _module("torch.utils.tensorboard"),
    "mmcv._tested": _module("mmcv._tested"),
    "torch.nn.functional.relu": lambda undone: _put(torch.nn.functional, "relu", torch.relu_, undone),
    "torch.load": lambda undone: _put(torch, "load", print, undone),
    "torch.nn.Module.forward": lambda undone: _put(torch.nn.Module, "forward", print, undone),
    "warnings.showwarning": lambda undone: _put(warnings, "showwarning", print, undone),
    "safe global": _safe,
    "DTensor": _lost,
    "logger torchloupe.tested": _level,
    "temporary file loupe-browse-": _file,
    "thread lasting": _thread,
    "open figures": _figure,
    "numpy errors": _errors,
    "SIGINT handler": _handler,
    "default dtype": _dtype,
    "torch threads": _threads,
    "deterministic": _deterministic,
    "gradients on": _gradients,
}


# torch has many classes of its own in the list; numpy's errors follow nothing; faiss may count torch's threads
SEVERAL = ("DTensor", "default dtype", "torch threads")


@pytest.mark.parametrize("kind", LEFT)
def test_each_kind_of_thing_left_is_noticed(kind: str) -> None:
    logging.getLogger("torchloupe.tested")
    before = Before()
    with ExitStack() as undone:
        LEFT[kind](undone)
        found = before.left()
    assert any(kind in one for one in found), found
    assert kind in SEVERAL or len(found) == 1, found
    assert before.left() == []


def test_a_scope_of_mmengine_is_noticed() -> None:
    scopes = pytest.importorskip("mmengine.registry").DefaultScope
    before = Before()
    kept = dict(scopes._instance_dict)
    scopes.get_instance("tested", scope_name="mmdet")
    found = before.left()
    scopes._instance_dict.clear()
    scopes._instance_dict.update(kept)
    assert [one for one in found if one.startswith("scope of mmengine")]
    assert before.left() == []
