"""Reading files of other people without running what is in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import pickletools
import re
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, LoupeWarning, UnsafeFile
from torchloupe.store.reading import reads

WRAPPINGS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"),
    "module",
)
EMA_WRAPPINGS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model", "model_ema_state_dict"),
    "params_ema",
)
ENOUGH = 0.5


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over the names and values of a module's weights, where no file tells them."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@reads("a checkpoint")
def read_checkpoint(path: str | Path, *, unsafe: bool = False) -> Any:
    """What is in a .safetensors, .pth, .pt, .ckpt or .bin file, on the CPU. Nothing in the file is executed.

    Checkpoints of mmengine's Runner are read too: their history buffers, and argparse.Namespace, become inert
    placeholders.
    unsafe: unpickle whatever is in the file, which may run any code; only for files whose maker is trusted.
    Errors: BadInput for a file that is absent, truncated or no checkpoint; UnsafeFile for one that carries code.
    """
    path = Path(path)
    start = _start(path)
    if path.suffix.lower() == ".safetensors" or _is_safetensors(start):
        return _read_safetensors(path)
    if _is_torchscript(path):
        raise BadInput(
            f"{path}: a TorchScript archive, not a checkpoint; save the state_dict() of the Python module instead"
        )
    if unsafe:
        warnings.warn(f"{path}: loaded unsafely; code in this file, if any, was run", LoupeWarning, stacklevel=2)
    try:
        with _known_globals(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'torch.load' received a zip file")
            return torch.load(path, map_location="cpu", weights_only=not unsafe)
    except Exception as error:  # a broken file may raise anything
        if not zipfile.is_zipfile(path):
            names, is_whole = _names_in(path)
            if not names and not is_whole:
                raise BadInput(f"{path}: cannot be read as a checkpoint; truncated or not one") from error
            if names and "GLOBAL" not in str(error):
                raise _carries(path, names[0]) from error
        if isinstance(error, pickle.UnpicklingError):
            raise _refusal(path, str(error)) from error
        raise BadInput(f"{path}: cannot be read as a checkpoint; truncated or not one ({_line(error)})") from error


def _start(path: Path) -> bytes:
    if not path.exists():
        said = "; weights are never downloaded, give a file" if "://" in str(path) or ":/" in str(path) else ""
        raise BadInput(f"{path}: no such weights file{said}")
    if path.is_dir():
        raise BadInput(f"{path}: a folder; expected a weights file (.safetensors, .pth, .pt, .ckpt, .bin)")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise BadInput(f"{path}: the file is empty (0 bytes)")
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: a Git LFS pointer, not the weights themselves; run git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise BadInput(f"{path}: a web page, not weights; the download went wrong")
    return start


def _is_safetensors(start: bytes) -> bool:
    """Eight bytes of header length, then JSON."""
    return len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: cannot be read as safetensors; truncated or not one ({_line(error)})") from error


def _refusal(path: Path, said: str) -> BadInput | UnsafeFile:
    found = re.search(r"GLOBAL (\S+)", said) or re.search(r"unrecognized function (\S.*?)(?:\n|$)", said)
    if found is None:
        return BadInput(f"{path}: cannot be read as a checkpoint; truncated or not one ({said.splitlines()[0][:120]})")
    return _carries(path, found[1].strip())


def _carries(path: Path, name: str) -> UnsafeFile:
    return UnsafeFile(
        f"{path}: carries code ({name!r}) besides weights and was not loaded; save its state_dict() alone, "
        f"or pass --unsafe-load if you trust its maker (the code will run)"
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def _names_in(path: Path) -> tuple[list[str], bool]:
    """What an old-style file, one pickle or several before raw storage, names besides tensors and arrays, and whether it is
    whole. Nothing is unpickled."""
    found: list[str] = []
    pickles, expected = 0, 1
    memo: dict[int, str] = {}
    words: list[str] = []
    try:
        with path.open("rb") as file:
            while pickles < expected:
                for code, given, _ in pickletools.genops(file):
                    if code.name == "MEMOIZE":
                        memo[len(memo)] = words[-1] if words else ""
                    elif code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
                        memo[int(given or 0)] = words[-1] if words else ""
                    elif code.name in ("GET", "BINGET", "LONG_BINGET"):
                        words.append(memo.get(int(given or 0), ""))
                    elif code.name in ("GLOBAL", "INST"):
                        found.append(str(given).replace(" ", "."))
                    elif code.name == "STACK_GLOBAL":
                        found.append(".".join(words[-2:]))
                    elif given == torch.serialization.MAGIC_NUMBER:
                        expected = 5  # it, a version, the system, the object, the names of its storages
                    elif isinstance(given, str):
                        words.append(given)
                pickles += 1
                memo.clear()
    except Exception:  # what is no pickle, or ends too soon, may raise anything
        pass
    known = {f"{one.__module__}.{one.__qualname__}" for one in ADMITTED}
    plain = ("torch", "collections", "numpy", "_codecs")
    return [name for name in found if name not in known and name.partition(".")[0] not in plain], pickles == expected


def _line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]


def _placeholder(module: str, name: str) -> type:
    """A class that a checkpoint may name and that does nothing, whatever it is called with or set to."""
    body = {
        "__module__": module,
        "__qualname__": name,
        "__init__": lambda self, *_, **__: None,
        "__setstate__": lambda self, _: None,
        "__doc__": f"Stands for {module}.{name}, which is not imported.",
    }
    return type(name, (), body)


def _array(_kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    """numpy's _reconstruct, which makes a plain array whatever it is asked for; the content is set afterwards."""
    return np.ndarray((0,), np.int8)


def _scalar(dtype: np.dtype, data: bytes = b"") -> Any:
    """numpy's scalar, for numbers, booleans and text alone."""
    return np.frombuffer(data, dtype)[0]


def _buffer(data: bytes, dtype: np.dtype, shape: Any, order: str) -> np.ndarray:
    """numpy's _frombuffer, for numbers alone."""
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """_codecs.encode as old pickles use it: for bytes written as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"GLOBAL _codecs.encode with {encoding!r}: expected latin1")
    return text.encode("latin1")


NUMPY: Mapping[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in {
            "multiarray._reconstruct": _array,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _buffer,
        }.items()
    },
}


def _named(full: str, function: Any) -> Any:
    """The function under another full name, as torch's list of admitted globals goes by name."""
    if isinstance(function, type):
        return function
    copy = types.FunctionType(function.__code__, function.__globals__, full.rpartition(".")[2], function.__defaults__)
    copy.__module__, _, copy.__qualname__ = full.rpartition(".")
    return copy


ADMITTED: tuple[Callable[..., Any], ...] = (
    *(_named(full, found) for full, found in NUMPY.items()),
    _named("_codecs.encode", _latin1),
    *{type(np.dtype(code)) for code in "?bhilqBHILQefdgFDSUV"},
    _placeholder("mmengine.logging.history_buffer", "HistoryBuffer"),
    _placeholder("builtins", "getattr"),
    _placeholder("argparse", "Namespace"),
)


@contextmanager
def _known_globals() -> Iterator[None]:
    """torch's reader of weights admits ADMITTED inside; its list is as it was afterwards."""
    before = list(torch.serialization.get_safe_globals())  # torch 2.4 gives its own list, not a copy
    torch.serialization.add_safe_globals(list(ADMITTED))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@reads("weights")
def load_state(path: str | Path, *, ema: bool = False, unsafe: bool = False) -> dict[str, Tensor]:
    """The weights in a file, by name.

    ema: the moving average of the weights instead of the weights.
    Errors: as read_checkpoint and weights_in.
    """
    return weights_in(read_checkpoint(path, unsafe=unsafe), path, ema=ema)


def weights_in(raw: Any, path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The state dict in what read_checkpoint gave: bare, or under one of WRAPPINGS (EMA_WRAPPINGS with ema), or in a module.

    Errors: BadInput that lists what the file holds where no weights, or no moving average, are found.
    """
    if isinstance(raw, nn.Module):
        raw = raw.state_dict()
    if not isinstance(raw, Mapping):
        raise BadInput(f"{path}: holds a {type(raw).__name__}, not weights; expected a state dict")
    if ema:
        averages = [key for key in EMA_WRAPPINGS if key in raw]
        if not averages:
            raise BadInput(f"{path}: holds no moving average (EMA) of the weights; it holds {_held(raw)}")
        return weights_in(raw[averages[0]], path)
    for key in WRAPPINGS:
        inner = raw.get(key)
        if isinstance(inner, nn.Module) or (isinstance(inner, Mapping) and inner):
            return weights_in(inner, path)
    state = {str(key): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        hint = "; pass --ema" if any(key in raw for key in EMA_WRAPPINGS) else ""
        raise BadInput(f"{path}: no weights found in it; it holds {_held(raw)}{hint}")
    return state


def _held(raw: Mapping[Any, Any]) -> str:
    names = [str(key) for key in raw]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"


@dataclass(frozen=True)
class Report:
    """How a checkpoint fits a model.

    missing: names of weights that the model has and the file has not; unexpected: the other way round; mismatched: names and shapes
    that differ; loaded, total: counts of the model's tensors; prefix: what was taken off the file's names ("-module.") or put
    before them ("+backbone."). trusted: every weight that matters came from the file.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    trusted: bool
    loaded: int = 0
    total: int = 0
    prefix: str = ""

    def __str__(self) -> str:
        parts = [f"{self.loaded} of {self.total} weights fit"]
        for word in ("missing", "unexpected", "mismatched"):
            names = getattr(self, word)
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{len(names)} {word} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def load_into(module: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> Report:
    """Copy weights into a model, whatever prefix wraps their names, and say how well they fit.

    Counters (num_batches_tracked) and tables that a model computes itself (integer buffers, attention masks) may be missing.
    A LoupeWarning says what stays random; where most of the model would stay random nothing is loaded.
    Errors: BadInput for the wrong checkpoint, with counts and examples.
    """
    own = module.state_dict()
    given, prefix = _aligned(state, own)
    before = _compare(own, given, prefix, {name for name in given if name in own and _differ(given[name], own[name])})
    if before.total and before.loaded < ENOUGH * before.total:
        raise BadInput(f"{path}: the wrong checkpoint for this model, nothing was loaded: {before}{_advice(before)}")
    report = before
    try:
        # The model's own loading hooks may rename or resize what differs, so everything is handed on.
        result = module.load_state_dict(given, strict=False)
        left = {name for name in result.missing_keys if name in own}
        report = _compare(own, {**given, **{name: own[name] for name in own if name not in left}}, prefix, set())
    except RuntimeError as error:
        failed = {name for name in given if f"size mismatch for {name}:" in str(error)}
        if not failed:
            raise BadInput(f"{path}: does not fit this model ({_line(error)})") from error
        report = _compare(own, given, prefix, failed)
    if not report.trusted:
        warnings.warn(f"{path}: {report}. {_consequence(module, report)}{_advice(report)}", LoupeWarning, stacklevel=2)
    return report


def _differ(given: Tensor, own: Tensor) -> bool:
    return given.shape != own.shape and not nn.parameter.is_lazy(own)


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor], prefix: str, differing: set[str]) -> Report:
    shared = {own[name].data_ptr() for name in own if name in given and name not in differing and own[name].numel()}
    absent = [name for name in own if name not in given and own[name].data_ptr() not in shared]
    lost = tuple(name for name in absent if not _computed(name, own[name]))
    counted = [name for name in own if not _computed(name, own[name])]
    loaded = sum(name not in differing and name not in lost for name in counted)
    shapes = tuple(
        f"{name}: {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in differing
    )
    unexpected = tuple(name for name in given if name not in own)
    return Report(lost, unexpected, shapes, not lost and not differing, loaded, len(counted), prefix)


def _computed(name: str, tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or name.endswith("attn_mask")


def _aligned(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The state under the model's names: the prefix, off or on, with which most names and shapes fit."""
    names = [name for name in own if "." in name and own[name].ndim] or list(own)
    probes = names[:: max(1, len(names) // 8)]
    candidates = [""]
    for probe in probes:
        candidates += ["-" + name[: -len(probe)] for name in state if name.endswith("." + probe)]
        candidates += ["+" + probe[: -len(name)] for name in state if probe.endswith("." + name)]
    renamed = {prefix: _renamed(state, prefix) for prefix in dict.fromkeys(candidates)}

    def fit(prefix: str) -> int:
        return sum(name in own and not _differ(value, own[name]) for name, value in renamed[prefix].items())

    best = max(renamed, key=fit)
    return renamed[best], best


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    sign, text = prefix[:1], prefix[1:]
    if sign == "+":
        return {text + name: value for name, value in state.items()}
    return {name[len(text) :] if name.startswith(text) else name: value for name, value in state.items()}


def _consequence(module: nn.Module, report: Report) -> str:
    last = [name for name, _ in module.named_parameters()][-1].rpartition(".")[0]
    lost = [*report.missing, *(text.partition(":")[0] for text in report.mismatched)]
    if last and all(name.startswith(last + ".") for name in lost):
        return f"The head ({last}) stays random: its class scores mean nothing, the layers before it can be trusted"
    return "What does not fit stays random, so the result cannot be trusted"


def _advice(report: Report) -> str:
    if report.mismatched and not report.missing:
        return "; give the model the sizes of the file, for example ?num_classes=10"
    return "; is it made for another architecture?" if report.loaded * 2 < report.total else ""


class _Kind:
    """numpy.dtype in a pickle. numpy believes whatever state a damaged file gives it, which may end the process; this does not."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        self.order, self.parts = state[1], state[2:5]

    def made(self) -> np.dtype[Any]:
        order: Any = getattr(self, "order", "=")
        parts = getattr(self, "parts", ())
        if not re.fullmatch(r"[biufcSUO]\d{0,5}|\?", self.code) or order not in ("<", ">", "=", "|") or any(parts):
            raise pickle.UnpicklingError(f"arrays of {self.code!r}; expected plain numbers or text")
        return np.dtype(self.code).newbyteorder(order)


class _Held:
    """An array in a pickle, made only where its shape is that of its bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        _, shape, kind, turned, raw = self.state
        dtype = kind.made()
        if not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if dtype.kind == "O":
            flat = np.empty(len(raw), dtype)
            for i, part in enumerate(raw):
                flat[i] = _sound(part)
        else:
            raw = raw.encode("latin1") if isinstance(raw, str) else raw
            flat = np.frombuffer(bytearray(raw), dtype) if len(raw) else np.zeros(0, dtype)
        return flat.reshape(shape, order="F" if turned else "C")


def _sound(value: Any) -> Any:
    """What a pickle holds, with arrays in the places of what stands for them."""
    if isinstance(value, _Held):
        return value.made()
    if isinstance(value, (list, tuple)):
        return type(value)(_sound(part) for part in value)
    if isinstance(value, dict):
        return {key: _sound(part) for key, part in value.items()}
    return value


STANDING: Mapping[str, Any] = {
    "numpy.ndarray": None,  # an argument of what makes an array, never made by itself
    "numpy.dtype": _Kind,
    "_codecs.encode": _latin1,
    **dict.fromkeys(("builtins.bytes", "__builtin__.bytes"), lambda: b""),
    **dict.fromkeys(("builtins.bytearray", "__builtin__.bytearray"), lambda raw: bytearray(memoryview(raw))),
    **{
        f"numpy.{core}.{name}": made
        for core in ("core", "_core")
        for name, made in {
            "multiarray._reconstruct": _Held,
            "multiarray.scalar": lambda kind, data=b"": _scalar(kind.made(), data),
            "numeric._frombuffer": lambda data, kind, shape, order: _buffer(data, kind.made(), shape, order),
        }.items()
    },
}


class _ArraysOnly(pickle._Unpickler):  # in Python: that in C makes room for whatever number a damaged file names
    """Admits numpy arrays and scalars, and nothing else that has a name."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in STANDING:
            raise pickle.UnpicklingError(f"GLOBAL {full}")
        return STANDING[full]

    def _bytes(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = _bytes


def load_pickle_arrays(path: str | Path) -> Any:
    """A pickle of numpy arrays: one array, or lists, tuples and dicts of arrays, numbers and text.

    Errors: UnsafeFile for anything else in it; BadInput for a truncated file or one that is no pickle.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    try:
        return _sound(_ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (.*)", str(error))
        if found is not None:
            raise UnsafeFile(
                f"{path}: holds {found[1]!r}; only numpy arrays are read from pickles, since anything else could run code"
            ) from error
        raise BadInput(f"{path}: a broken or truncated pickle ({_line(error)})") from error
    except Exception as error:  # a broken pickle may raise anything
        raise BadInput(f"{path}: a broken or truncated pickle ({_line(error)})") from error
