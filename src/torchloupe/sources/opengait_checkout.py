"""Real OpenGait classes from a checkout, in this process: no process group, TensorBoard run or CUDA. Runs its code."""

from __future__ import annotations

import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, BadSample, LoupeError, LoupeWarning, MissingPackage, nearest
from torchloupe.probe import Batch
from torchloupe.sources import patches
from torchloupe.sources.opengait_config import Config

# the names that OpenGait's packages take at the top level
TOP = ("modeling", "data", "utils", "evaluation")
# types of walks that a model's loss tells apart, where it does not take any; embeddings do not depend on them
TYPES = dict.fromkeys(
    ("ScoNet", "FoundationGait_Scaling_LinearProbing_Scoliosis1K"), ("neutral", "negative", "positive")
)
# models that set a constant only where their input says that it is on a GPU
GPU_ONLY = ("ParsingGait",)


def real_class(config: Config, checkout: Path) -> tuple[nn.Module, Callable[[nn.Module, Batch], Any]]:
    """The config's model, built by the checkout's own code with random weights, and how to call it.

    Only the file that defines the model, and what it imports, is imported: a package that another model needs may be
    absent. Warns that the checkout's code runs.
    Errors: BadInput for a folder that is no checkout, an unknown model, or code that fails; MissingPackage.
    """
    code = checkout / "opengait"
    models = code / "modeling" / "models"
    if not models.is_dir():
        raise BadInput(f"{checkout}: not a checkout of OpenGait; expected opengait/modeling/models in it")
    defined = _defined(models)
    if config.model not in defined:
        raise BadInput(f"{checkout}: defines no model {config.model}.{nearest(config.model, defined)}")
    warnings.warn(f"{checkout}: the code of this checkout is imported and run", LoupeWarning, stacklevel=3)
    with _importable(code):
        try:
            found = getattr(import_module(f"modeling.models.{defined[config.model]}"), config.model)
        except ModuleNotFoundError as error:
            raise MissingPackage(
                f"{error.name} is not installed; OpenGait's {config.model} needs it (pip install {error.name})"
            ) from None
        except Exception as error:
            raise BadInput(f"{checkout}: importing {config.model} failed ({_said(error)})") from error
    return _built(found, config), _call


def _defined(models: Path) -> dict[str, str]:
    """Class name -> name of the file that defines it."""
    found: dict[str, str] = {}
    # a model in a file of its own comes before a part of another model that has the same name
    for file in sorted(models.rglob("*.py"), key=lambda file: (len(file.parts), file)):
        place = ".".join(file.relative_to(models).with_suffix("").parts)
        for name in re.findall(r"^class (\w+)\s*[(:]", file.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(name, place)
    return found


@contextmanager
def _importable(code: Path) -> Iterator[None]:
    """Imports from the checkout, while it lasts. What was imported stays, as functions there import more when they run."""
    for name in TOP:
        loaded = sys.modules.get(name)
        home = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), "")
        if loaded is not None and not Path(str(home)).resolve().is_relative_to(code.resolve()):
            raise BadInput(f"{code}: needs the module name {name!r}, but {home or 'another module'} is loaded under it")
    # the package's own __init__ would import every model, and fail where one of them lacks a package
    models = types.ModuleType("modeling.models")
    models.__path__ = [str(code / "modeling" / "models")]
    sys.modules.setdefault("modeling.models", models)
    sys.path.insert(0, str(code))
    try:
        patches.torchvision()
        with patches.no_tensorboard():
            yield
    finally:
        sys.path.remove(str(code))


def _built(found: Any, config: Config) -> nn.Module:
    module: Any = found.__new__(found)
    nn.Module.__init__(module)
    held: dict[str, Any] = {
        "cfgs": dict(config.blocks),
        "engine_cfg": config.blocks["evaluator_cfg"],
        "iteration": 0,
        "msg_mgr": _Silent(),
        "device": torch.device("cpu"),
    }
    for name, value in held.items():
        object.__setattr__(module, name, value)
    try:
        with _on_cpu():
            module.build_network(config.blocks["model_cfg"])
            if hasattr(module, "init_parameters"):
                module.init_parameters()
    except KeyError as error:
        raise BadInput(f"{config.path}: model_cfg of {config.model} lacks {error.args[0]!r}") from error
    except Exception as error:
        raise BadInput(f"{config.path}: OpenGait's code could not build {config.model} ({_said(error)})") from error
    return module


class _Silent:
    """A message manager that says nothing: log_info, log_warning and the like."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _call(module: nn.Module, batch: Batch) -> Any:
    """OpenGait's forward: a list of inputs, labels, types, views, and the length of the one sequence."""
    parts = {int(key.removeprefix("input")): value for key, value in batch.extra.items() if key.startswith("input")}
    own = next(i for i in range(len(parts) + 1) if i not in parts)
    # clones, as some models write into their inputs
    inputs = [(batch.x if i == own else parts[i].to(batch.x.dtype)).clone() for i in range(len(parts) + 1)]
    n = batch.x.shape[0]
    fixed = str(getattr(module, "engine_cfg", {}).get("sampler", {}).get("sample_type", "")).startswith("fixed")
    lengths = None if fixed or n > 1 else torch.tensor([[batch.size[0]]], dtype=torch.int32, device=batch.x.device)
    labels = torch.zeros(n, dtype=torch.long, device=batch.x.device)
    object.__setattr__(module, "device", batch.x.device)
    name, kind, view = type(module).__name__, batch.extra.get("type") or "nm", batch.extra.get("view") or "000"
    known = TYPES.get(name, (kind,))
    given = (inputs, labels, [kind if kind in known else known[0]] * n, [view] * n, lengths)
    on_cpu = _on_cpu(name in GPU_ONLY) if batch.x.device.type == "cpu" else nullcontext()
    with on_cpu, _with_gradients():
        try:
            return module(given)
        except LoupeError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
            raise BadSample(
                f"OpenGait's {name} failed on inputs of shapes {shapes} ({_said(error)}); "
                f"see data_in_use and the transforms of its config"
            ) from error


@contextmanager
def _on_cpu(claimed: bool = False) -> Iterator[None]:
    """`.cuda()` gives what it is called on: some models move constants to a GPU whatever they run on.

    claimed: tensors say that they are there.
    """

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self

    says = patch.object(Tensor, "is_cuda", property(lambda _: True)) if claimed else nullcontext()
    with patch.object(Tensor, "cuda", stay), patch.object(nn.Module, "cuda", stay), says:
        yield


@contextmanager
def _with_gradients() -> Iterator[None]:
    """`torch.no_grad` leaves gradients as they are, also where a class derived from it is given a flag.

    Some models switch gradients off for layers that were not to be trained further; they are asked about all the same.
    """
    made = torch.no_grad.__new__

    def new(kind: Any, first: Any = None) -> Any:
        return object.__new__(kind) if first is None or isinstance(first, bool) else made(kind, first)

    def nothing(*_: Any) -> None:
        return None

    with (
        patch.object(torch.no_grad, "__new__", new),
        patch.object(torch.no_grad, "__enter__", nothing),
        patch.object(torch.no_grad, "__exit__", nothing),
    ):
        yield


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
