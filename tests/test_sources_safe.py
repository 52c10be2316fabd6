"""Checkpoints: every usual wrapping is read, nothing in a file runs, and the report says what can be trusted."""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import resource
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchloupe.errors import BadInput, LoupeWarning, UnsafeFile
from torchloupe.sources.safe import load_into, load_pickle_arrays, load_state, read_checkpoint
from torchloupe.store import sha256


class Small(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.body = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, classes)


class Runs:
    """Pickles as a call of os.mkdir."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def saved(tmp_path: Path, content: Any, name: str = "w.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


def quietly(module: nn.Module, state: dict[str, Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_into(module, state, "w.pth")


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "model": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "model_state": lambda s: {"model_state": s, "epoch": 1},
    "net, data parallel": lambda s: {"net": {f"module.{k}": v for k, v in s.items()}, "acc": 90.5},
    "lightning": lambda s: {
        "state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.0",
    },
    "compiled, data parallel": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "nested": lambda s: {"model": {"state_dict": s}},
    "numpy scalars": lambda s: {"state_dict": s, "best": np.float64(0.9), "step": np.int64(7), "curve": np.arange(3.0)},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_usual_wrappings(tmp_path: Path, wrapping: str) -> None:
    right, model = Small(), Small()
    path = saved(tmp_path, WRAPPINGS[wrapping](right.state_dict()))
    report = quietly(model, load_state(path))
    assert report.trusted
    assert not report.missing
    assert same(model, right)


def test_safetensors_whatever_the_suffix(tmp_path: Path) -> None:
    right = Small()
    for name in ("w.safetensors", "w.bin"):
        save_file(right.state_dict(), tmp_path / name)
        model = Small()
        assert quietly(model, load_state(tmp_path / name)).trusted
        assert same(model, right)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_state_dict", "ema"])
def test_the_moving_average_on_request(tmp_path: Path, key: str) -> None:
    last, mean = Small(), Small()
    path = saved(
        tmp_path, {"state_dict": last.state_dict(), key: {f"module.{k}": v for k, v in mean.state_dict().items()}}
    )
    model = Small()
    quietly(model, load_state(path))
    assert same(model, last)
    quietly(model, load_state(path, ema=True))
    assert same(model, mean)


def test_a_moving_average_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": Small().state_dict(), "epoch": 3})
    with pytest.raises(BadInput, match=r"no moving average.*it holds state_dict, epoch"):
        load_state(path, ema=True)
    with pytest.raises(BadInput, match="pass --ema"):
        load_state(saved(tmp_path, {"model_ema": Small().state_dict()}))


def test_a_backbone_alone_and_a_backbone_inside(tmp_path: Path) -> None:
    whole = nn.ModuleDict({"backbone": Small(), "neck": nn.Linear(4, 4)})
    inner = Small()
    report = quietly(inner, whole.state_dict())
    assert report.prefix == "-backbone."
    assert report.unexpected == ("neck.weight", "neck.bias")
    assert same(inner, whole["backbone"])
    right = Small()
    with pytest.warns(LoupeWarning, match=r"2 missing \(neck.weight, neck.bias\)"):
        report = load_into(whole, right.state_dict(), "w.pth")
    assert report.prefix == "+backbone."
    assert not report.trusted
    assert same(whole["backbone"], right)


def test_a_missing_head_is_said_and_the_rest_trusted() -> None:
    state = {name: value for name, value in Small().state_dict().items() if not name.startswith("head")}
    with pytest.warns(LoupeWarning, match=r"head \(head\) stays random.*layers before it can be trusted"):
        report = load_into(Small(), state, "w.pth")
    assert not report.trusted
    assert report.missing == ("head.weight", "head.bias")


def test_a_head_of_another_size_is_left_out_and_said() -> None:
    right, model = Small(7), Small(3)
    with pytest.warns(LoupeWarning, match=r"\(7, 4\) in the file, \(3, 4\) in the model.*num_classes"):
        report = load_into(model, right.state_dict(), "w.pth")
    assert len(report.mismatched) == 2
    assert torch.equal(model.body.weight, right.body.weight)


def test_a_missing_layer_inside_cannot_be_trusted() -> None:
    state = {name: value for name, value in Small().state_dict().items() if not name.startswith("body")}
    with pytest.warns(LoupeWarning, match="cannot be trusted"):
        load_into(Small(), state, "w.pth")


def test_missing_counters_do_not_matter() -> None:
    state = {name: value for name, value in Small().state_dict().items() if "num_batches" not in name}
    assert quietly(Small(), state).trusted


def test_missing_statistics_do_matter() -> None:
    state = {name: value for name, value in Small().state_dict().items() if "running" not in name}
    with pytest.warns(LoupeWarning, match="running_mean"):
        assert not load_into(Small(), state, "w.pth").trusted


def test_tied_weights_count_once() -> None:
    model = Small()
    model.other = model.body
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("other")}
    assert quietly(model, state).trusted


def test_a_hook_of_the_model_may_resize() -> None:
    model = Small()

    def shorten(state: dict[str, Tensor], *_: Any) -> None:
        state["body.bias"] = state["body.bias"][:4]

    model._register_load_state_dict_pre_hook(shorten)
    state = {**Small().state_dict(), "body.bias": torch.arange(6.0)}
    assert quietly(model, state).trusted
    assert torch.equal(model.body.bias.detach(), torch.arange(4.0))


def test_the_wrong_checkpoint_is_refused_and_nothing_is_loaded() -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).state_dict()
    with pytest.raises(BadInput) as error:
        load_into(model, other, "w.pth")
    text = str(error.value)
    assert "w.pth: the wrong checkpoint for this model, nothing was loaded: 0 of 10 weights fit" in text
    assert "missing (stem.0.weight" in text
    assert "4 unexpected (0.weight" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": Small().state_dict(), "hook": Runs(tmp_path / "pwned")})
    with pytest.raises(UnsafeFile, match=r"w.pth: carries code .*mkdir.* was not loaded.*--unsafe-load") as error:
        load_state(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_a_pickled_module_is_code_and_is_read_on_request(tmp_path: Path) -> None:
    right = Small()
    path = saved(tmp_path, right)
    with pytest.raises(UnsafeFile, match="Small"):
        load_state(path)
    with pytest.warns(LoupeWarning, match="loaded unsafely"):
        state = load_state(path, unsafe=True)
    model = Small()
    assert quietly(model, state).trusted
    assert same(model, right)


def runner_checkpoint(tmp_path: Path) -> Path:
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer()
    for value in (1.0, 0.5):
        buffer.update(value)
    content = {
        "meta": {"epoch": 1, "dataset_meta": {"classes": ("cat", "dog", "owl")}, "seed": np.int64(3)},
        "state_dict": Small().state_dict(),
        "message_hub": {"log_scalars": {"train/loss": buffer}, "runtime_info": {"lr": np.float64(0.1)}},
    }
    return saved(tmp_path, content, "epoch_1.pth")


def test_a_checkpoint_of_mmengines_runner(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    path = runner_checkpoint(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    before = set(map(str, torch.serialization.get_safe_globals()))
    raw = read_checkpoint(path)
    assert raw["meta"]["dataset_meta"]["classes"] == ("cat", "dog", "owl")
    assert raw["meta"]["seed"] == 3
    assert not isinstance(raw["message_hub"]["log_scalars"]["train/loss"], HistoryBuffer)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_getattr_in_a_checkpoint_is_inert(tmp_path: Path) -> None:
    class Reaches:
        def __reduce__(self) -> Any:
            return getattr, (np.ndarray, "tofile")

    raw = read_checkpoint(saved(tmp_path, {"x": torch.ones(1), "reached": Reaches()}))
    assert not callable(raw["reached"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"not a checkpoint at all", "cannot be read as a checkpoint"),
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(BadInput, match=said) as error:
        load_state(tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert "w.pth" in str(error.value)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_truncated_checkpoints(tmp_path: Path, share: float) -> None:
    state = Small().state_dict()
    torch.save(state, tmp_path / "zip.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "w.safetensors")
    for name in ("zip.pth", "old.pth", "w.safetensors"):
        whole = (tmp_path / name).read_bytes()
        load_state(tmp_path / name)
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInput, match="truncated") as error:
            load_state(tmp_path / name)
        assert "\n" not in str(error.value)


def test_other_content(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds a list"):
        load_state(saved(tmp_path, [1, 2]))
    with pytest.raises(BadInput, match="no weights found in it; it holds epoch"):
        load_state(saved(tmp_path, {"epoch": 3}))
    with pytest.raises(BadInput, match="no such weights file; weights are never downloaded"):
        load_state("https://example.org/w.pth")
    with pytest.raises(BadInput, match="no such weights file"):
        load_state(tmp_path / "gone.pth")
    with pytest.raises(BadInput, match="a folder"):
        load_state(tmp_path)


def test_torchscript_archives_are_named(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(BadInput, match="TorchScript archive"):
        load_state(tmp_path / "w.pt")


def test_sha256(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "w").write_bytes(data)
    assert sha256(tmp_path / "w") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickled_arrays(tmp_path: Path, protocol: int) -> None:
    content = [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        {"a": np.float32(2), "b": ("x", np.asfortranarray(np.eye(2)))},
    ]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = load_pickle_arrays(tmp_path / "a.pkl")
    assert (found[0] == content[0]).all()
    assert found[0].dtype == np.uint8
    assert found[1]["a"] == 2
    assert (found[1]["b"][1] == np.eye(2)).all()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_arrays_of_every_kind(tmp_path: Path, protocol: int) -> None:
    inner = np.arange(3.0)
    content = {
        "big end": np.arange(4, dtype=">i4"), "text": np.array(["a", "üüü"]), "bytes": np.array([b"a", b"bc"]), "zero": np.array(7),
        "none": np.zeros((0, 5), np.float16), "yes": np.array([True, False]), "complex": np.array([1j]), "one": np.float64(0.5),
        "word": np.str_("x"), "raw": bytearray(b"abc"), "same": [inner, inner], "walks": np.empty(2, object),
    }  # fmt: skip
    content["walks"][:] = [np.zeros((2, 3)), np.ones((2, 3))]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = load_pickle_arrays(tmp_path / "a.pkl")
    assert list(found) == list(content)
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            assert found[name].dtype == value.dtype
            assert found[name].shape == value.shape
            assert found[name].flags.writeable
            assert (found[name] == value).all()
    assert (found["one"], found["word"], found["raw"]) == (0.5, "x", bytearray(b"abc"))
    assert (found["same"][1] == inner).all()
    assert [(part == i).all() for i, part in enumerate(found["walks"])] == [True, True]


GREEDY = {
    "a memo of four billion places": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "four billion empty places": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93J\xff\xff\xff\x7f\x85\x85R.",
    "a buffer of many bytes": b"\x80\x05\x96" + (1 << 36).to_bytes(8, "little") + b"abc.",
    "bytes by their number": b"\x80\x04\x8c\x08builtins\x8c\x09bytearray\x93J\xff\xff\xff\x7f\x85R.",
    "an array without bytes": pickle.dumps(np.arange(3, dtype=np.uint8), 2).replace(
        b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_a_pickle_takes_no_more_memory_than_it_has_bytes(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(GREEDY[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with suppress(BadInput):
        assert load_pickle_arrays(tmp_path / "a.pkl") in (1, bytearray(b"abc."))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


@pytest.mark.parametrize(
    "state", [(3, "|", None, None, None, 99, 1, 63), (3, "<", (np.dtype("u1"), 9), None, None, 1, 1, 0)]
)
def test_a_type_with_an_odd_state_is_refused(state: tuple[Any, ...], tmp_path: Path) -> None:
    """numpy takes what it is given, and ends the process."""

    class Odd:
        def __reduce__(self) -> Any:
            return np.dtype, ("u1", False, True), state

    class Array:
        def __reduce__(self) -> Any:
            make = np.arange(3, dtype=np.uint8).__reduce__()[0]
            return make, (np.ndarray, (0,), b"b"), (1, (3,), Odd(), False, b"abc")

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Array()))
    if state[2] is None:  # sizes and flags are not believed
        assert load_pickle_arrays(tmp_path / "a.pkl").tolist() == [97, 98, 99]
    else:
        with pytest.raises(BadInput, match="expected plain numbers or text"):
            load_pickle_arrays(tmp_path / "a.pkl")


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    for content in (Runs(tmp_path / "pwned"), np.array([Runs(tmp_path / "pwned")], object)):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UnsafeFile, match=r"mkdir.*only numpy arrays"):
            load_pickle_arrays(tmp_path / "a.pkl")
    assert not (tmp_path / "pwned").exists()
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.arange(500))[:200])
    with pytest.raises(BadInput, match="broken or truncated"):
        load_pickle_arrays(tmp_path / "a.pkl")


class Echoes:
    """Would print when it is unpickled by a reader that runs what it is told."""

    def __reduce__(self) -> Any:
        return os.system, ("echo this ran",)


@pytest.mark.parametrize("protocol", range(6))
def test_an_old_style_pickle_with_code_is_called_that(tmp_path: Path, protocol: int, capfd: Any) -> None:
    content = {"state_dict": {"a": np.ones(2)}, "x": Echoes()}
    (tmp_path / "old.pth").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UnsafeFile, match=r"carries code \('posix.system'\)"):
        read_checkpoint(tmp_path / "old.pth")
    assert "this ran" not in capfd.readouterr().out


def test_an_old_style_checkpoint_that_is_cut_off_is_not_called_code(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pth").read_bytes()
    assert read_checkpoint(tmp_path / "old.pth")["a"].tolist() == [1, 1]
    for share in (0.1, 0.3, 0.5, 0.7):
        (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(BadInput, match="truncated or not one"):
            read_checkpoint(tmp_path / "cut.pth")


def npz_that_claims(path: Path, count: int) -> None:
    """An npz whose array is said to have so many numbers and has three, compressed, so that it cannot be mapped."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({count},), }}".ljust(117) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + np.ones(3).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("feats.npy", array)
        archive.writestr("picture.npy", array)


def test_files_that_claim_too_much_or_go_too_deep_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """47 GiB, 47 TiB; JSON and YAML 100,000 levels deep: status 2 and the file's name, whoever reads it."""
    from torchloupe.cli import main

    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000 + "]" * 100_000)
    (tmp_path / "deep.yaml").write_text("[" * 20_000 + "]" * 20_000)
    for count in (47 * 2**27, 47 * 2**37):
        npz_that_claims(tmp_path / "huge.npz", count)
        (tmp_path / "huge.json").write_text("{}")
        for command in ("draw", "project"):
            assert main([command, str(tmp_path / "huge.npz")]) == 2
            assert "huge.npz" in capsys.readouterr().err
    assert main(["layers", "timm:resnet18", "--classes", str(deep)]) == 2
    assert "deep.json: cannot be read as class names" in capsys.readouterr().err
    assert main(["gait", "layers", "--config", str(tmp_path / "deep.yaml")]) == 2
    assert "deep.yaml" in capsys.readouterr().err
    huge = {"w": torch.ones(2)}
    torch.save(huge, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    many = b"\x8a\x05" + (47 * 2**28).to_bytes(5, "little") + b"Ntq"
    assert b"K\x02Ntq" in content
    (tmp_path / "w.pth").write_bytes(content.replace(b"K\x02Ntq", many))
    assert main(["layers", "timm:resnet18", "--weights", str(tmp_path / "w.pth")]) == 2
    assert "w.pth: cannot be read as a checkpoint" in capsys.readouterr().err
