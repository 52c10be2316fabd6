"""What a test could leave behind in the process: read before and after, and compared."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

# whose names we replace for a while, or have replaced: what a name stood for before, it must stand for after
WATCHED = (
    "torch",
    "torch.Tensor",
    "torch.nn.Module",
    "torch.nn.functional",
    "torch.serialization",
    "torch.autograd",
    "torch.utils.data",
    "mmengine.runner",
    "mmengine.runner.checkpoint",
    "mmpretrain.apis.model",
    "mmpretrain.apis.base",
    "mmdet.models.utils.misc",
    "mmpose.apis",
    "timm.models",
    "timm.models._builder",
    "torchvision.ops",
    "torchvision.ops.boxes",
    "torchvision.ops.roi_align",
    "PIL.Image",
    "ultralytics.nn.tasks",
    "os",
    "time",
)
OURS = ("loupe", "tmp")  # how our temporary files are named, and those that were given no name


def state() -> dict[str, Any]:
    """What holds for the whole process and is none of a test's business, by what it is called."""
    flags = torch.backends
    return {
        "working folder": os.getcwd(),
        "warnings.showwarning": warnings.showwarning,
        "numpy errors": tuple(np.geterr().items()),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "torch threads": torch.get_num_threads(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), flags.cudnn.deterministic),
        "cudnn.benchmark": flags.cudnn.benchmark,
        "tf32": (flags.cuda.matmul.allow_tf32, flags.cudnn.allow_tf32, torch.get_float32_matmul_precision()),
        "gradients on": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "modes of torch": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "hooks of every module": tuple(
            len(getattr(torch.nn.modules.module, f"_global_{name}_hooks"))
            for name in ("forward", "forward_pre", "backward", "backward_pre")
        ),
        "scope of mmengine": _scope(),
        "open figures": tuple(_of("matplotlib.pyplot", "get_fignums", ())),
        "threads of faiss": _of("faiss", "omp_get_max_threads"),
        "threads of OpenCV": _of("cv2", "getNumThreads"),
        **{f"safe global {_global(one)}": True for one in torch.serialization.get_safe_globals()},
        **{f"{kind.name} handler": signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)},
        # a browser that tests share keeps asyncio's threads
        **{f"thread {one.name}": True for one in threading.enumerate() if not (one.daemon or "asyncio" in one.name)},
        **{f"temporary file {name}": True for name in os.listdir(tempfile.gettempdir()) if name.startswith(OURS)},
    }


def levels() -> dict[str, int]:
    """The level of every logger that there is."""
    every = {name: one.level for name, one in list(logging.root.manager.loggerDict.items()) if hasattr(one, "level")}
    return {"root": logging.root.level, **every}


def names() -> dict[str, dict[str, Any]]:
    """What the names in watched modules and classes stand for."""
    return {home: dict(vars(found)) for home in WATCHED if (found := _loaded(home)) is not None}


class Before:
    """Everything as it is now; `left()` says what differs later."""

    def __init__(self) -> None:
        self.modules = dict(sys.modules)
        self.names, self.levels, self.state = names(), levels(), state()

    def left(self) -> list[str]:
        now, found = state(), []
        for what in {**self.state, **now}:
            if what in UNTIL_LOADED and self.state.get(what) is None:
                continue
            before, after = self.state.get(what), now.get(what)
            if before is not after and before != after:
                found.append(f"{what}: {before!r} is {after!r}")
        later = levels()
        found += [
            f"logger {name}: level {level} is {later[name]}"
            for name, level in self.levels.items()
            if later.get(name, level) != level
        ]
        for home, before in self.names.items():
            after = vars(_loaded(home) or types.ModuleType(home))
            found += [
                f"{home}.{name} was replaced"
                for name, value in before.items()
                if callable(value) and after.get(name) is not value
            ]
        for name, module in list(sys.modules.items()):
            if self.modules.get(name) is not module and (module is None or _stand_in(name, module)):
                found.append(f"sys.modules[{name!r}] is a stand-in")
        return found


# counts of a library that was not there yet: nobody changed them
UNTIL_LOADED = ("threads of faiss", "threads of OpenCV")
# in whose place we put modules made by hand
PLACED = ("torch", "torchvision", "tensorboard", "mmcv", "mmengine", "mmpretrain", "mmdet", "mmpose", "xtcocotools")


def _stand_in(name: str, module: Any) -> bool:
    """Whether a module of those packages was made by hand: it has neither a spec nor a file. torch makes its own of a class."""
    kept = vars(module) if isinstance(module, types.ModuleType) else {}
    by_hand = kept.get("__spec__") is None and "__file__" not in kept
    own = name.startswith(("torch.", "torchvision.")) and type(module) is not types.ModuleType
    return by_hand and not own and name.partition(".")[0] in PLACED


def _loaded(path: str) -> Any:
    """The module or class of that path, if it is loaded."""
    if path in sys.modules:
        return sys.modules[path]
    home, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(home), name, None) if home in ("torch", "torch.nn") else None
    return found if isinstance(found, type) else None


def _of(module: str, function: str, absent: Any = None) -> Any:
    home = sys.modules.get(module)
    made = getattr(home, function, None)
    if made is None:
        return absent
    with contextlib.suppress(Exception):  # half imported
        return made()
    return absent


def _global(one: Any) -> str:
    kind, *name = one if isinstance(one, tuple) else (one,)
    return f"{kind!r} {name}" if name else repr(kind)


def _scope() -> str | None:
    registry = sys.modules.get("mmengine.registry")
    scope = getattr(registry, "DefaultScope", None)
    current = scope.get_current_instance() if scope is not None else None
    return None if current is None else str(current.scope_name)


def hidden(folder: Path) -> list[str]:
    """Hidden files anywhere in a folder, such as drafts and locks, but for those that say what a run was asked of which samples."""
    return sorted(path.name for path in folder.rglob(".*") if not re.fullmatch(r"\.(\w+\.)?job\.(json|ids)", path.name))
