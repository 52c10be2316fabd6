"""Code of other people by its name: one importer, one error; methods, targets and sources that packages register."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeError
from torchloupe.methods.registry import ours
from torchloupe.named import imported, is_path
from torchloupe.sources import patches

MINE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
import torchloupe as loupe
from torchloupe.outputs import Maps, Scores
from torchloupe.targets.classes import Top
from torchloupe.subjects import Subject

@loupe.rule
def own_rule(act, grad, *, power: float = 1.0):
    return (act.abs() ** power).sum(1)[None]

def own_function(probe, batch):
    return loupe.gradcam(probe, batch)

def gradcam(probe, batch):
    return loupe.layercam(probe, batch)

@dataclass(frozen=True)
class Total:
    times: float = 2.0
    def __call__(self, output, batch):
        parts = output if torch.is_tensor(output) else torch.stack([one.scores.sum() for one in output])
        return Scores(self.times * parts.flatten(1).sum(1)[None] if parts.ndim > 1 else self.times * parts[None],
                      (("total",) * batch.n,))

number = 3

def net(width=4):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten(), torch.nn.Linear(width, 3))

def subject():
    return loupe.subject(net(), size=32)

def plain_source(rest, options):
    return loupe.subject(net(int(rest)), size=32)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of somebody's own, and a picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_test.py").write_text(MINE)
    (tmp_path / "broken_of_test.py").write_text("import sys\nsys.exit(3)")
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for name in [name for name in sys.modules if name.endswith("_of_test")]:
        del sys.modules[name]
    return tmp_path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine_of_test", "expected package.module:name"),
        ("mine_of_test:", "expected package.module:name"),
        (":net", "expected package.module:name"),
        ("no_such_module_at_all:net", "no Python module 'no_such_module_at_all'"),
        ("mine_of_test:nett", "has no 'nett'. Did you mean net"),
        ("broken_of_test:net", "failed with SystemExit"),
        ("broken_of_test.py:net", "failed with SystemExit"),
        ("absent.py:net", "no file absent.py"),
    ],
)
def test_one_error_for_all_that_is_named(here: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=said.replace("(", "\\(")):
        imported(text, "--method")
    if is_path(text):
        for option in ("--method", "--target"):
            words = ["cam", "noise.png", "--model", "torch:mine_of_test:net", "--size", "32", option, text]
            assert main(words) == 2
            assert said.split(".")[0] in capsys.readouterr().err


def test_a_method_and_a_target_of_ones_own(here: Path) -> None:
    """From a module and from a file; what is stored equals what Python gives, and goes stale with the file."""
    words = ["cam", "noise.png", "--model", "torch:mine_of_test:net", "--size", "32", "--save", "out"]
    own = ["--method", "mine_of_test:own_rule", "mine_of_test.py:own_function", "--target", "0", "mine_of_test:Total"]
    assert main([*words, *own, "--layers", "1", "--option", "power=2.0"]) == 0
    with np.load("out/noise.npz") as held:
        arrays = dict(held)
    subject = loupe.subject(imported("mine_of_test:net")(), size=32)
    batch = loupe.pictures(["noise.png"], subject)
    act = torch.relu(subject.module[0](batch.x))  # type: ignore[index]
    assert np.allclose(arrays["map/own_rule/1"][1, 0], (act**2).sum(1)[0].detach().numpy(), atol=1e-5)
    expected = 2 * subject.module(batch.x).sum()
    assert np.allclose(arrays["score"][1], expected.item(), atol=1e-5)
    record = json.loads(Path("out/noise.json").read_text())
    assert "Total(times=2.0)" in record["target"]
    before = record["asked"]["code"]
    Path("mine_of_test.py").write_text(MINE + "\n# changed\n")
    assert main([*words, *own, "--layers", "1", "--option", "power=2.0"]) == 0
    assert json.loads(Path("out/noise.json").read_text())["asked"]["code"] != before


def test_ones_own_method_never_takes_a_published_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cam", "noise.png", "--model", "torch:mine_of_test:net", "--size", "32"]
    assert main([*words, "--method", "mine_of_test:gradcam"]) == 2
    assert "torchloupe has a method 'gradcam'" in capsys.readouterr().err
    assert main([*words, "--method", "mine_of_test:number"]) == 2
    assert main([*words, "--method", "mine_of_test:net"]) == 2
    assert "expected a function (probe, batch, **options)" in capsys.readouterr().err

    @loupe.rule
    def layercam(act: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return (act * 0).sum(1)[None]

    assert loupe.METHODS["layercam"] is loupe.layercam
    with pytest.raises(BadInput, match="two methods are called 'layercam'"):
        loupe.cams(None, None, (layercam, "layercam"))  # type: ignore[arg-type]


def test_a_subject_of_a_factory_obeys_or_refuses(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["layers", "torch:mine_of_test:subject"]
    assert main(words) == 0
    assert main([*words, "--weights", "/nonexistent"]) == 2
    assert main([*words, "--device", "cuda:97"]) == 2
    assert main([*words, "--size", "64"]) == 2
    said = capsys.readouterr().err
    assert "/nonexistent: no such file or directory" in said
    assert "cuda:97" in said
    assert "--size: torch:mine_of_test:subject returns a Subject" in said
    state = imported("mine_of_test:net")().state_dict()
    state["4.bias"] += 1
    torch.save(state, "own.pth")
    made = loupe.subject("torch:mine_of_test:subject", weights="own.pth", classes=["a", "b", "c"])
    assert torch.equal(made.module.state_dict()["4.bias"], state["4.bias"])
    assert made.notes["weights"]["report"]["trusted"]
    assert made.classes == ("a", "b", "c")


def test_what_packages_register(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method, a target and a source of an installed package go by their names; one that does not load says whose it is."""
    about = here / "loupe_plus-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: loupe-plus\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[torchloupe.sources]\nwide = mine_of_test:plain_source\n"
        "[torchloupe.methods]\nown_rule = mine_of_test:own_rule\nlost_method = absent_of_test:lost\n"
        "[torchloupe.targets]\ntotal = mine_of_test:Total\n"
    )
    monkeypatch.syspath_prepend(str(here))
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "wide" in out
    assert "loupe-plus 1.2" in out
    assert "lost_method (absent_of_test:lost) of loupe-plus does not load" in out
    assert {"own_rule", "lost_method", "gradcam"} <= set(loupe.METHODS)
    words = ["cam", "noise.png", "--model", "wide:6", "--layers", "1", "--method", "own-rule", "--target", "total"]
    assert main(words) == 0
    assert "map/own_rule/1" in np.load("out/noise.npz")
    assert main([*words[:-3], "lost_method"]) == 2
    assert "of loupe-plus does not load" in capsys.readouterr().err
    assert loupe.subject("wide:6").module[0].out_channels == 6  # type: ignore[index]
    with pytest.raises(LoupeError, match="wide"):
        loupe.subject("widely:6")


def test_methods_are_whole_from_the_start() -> None:
    code = "import torchloupe as l; print(len(l.METHODS), 'gradcam' in l.METHODS, l.METHODS['occlusion'].__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(ours())), "True", "occlusion"]


def test_a_file_of_code_gets_what_a_torchvision_for_another_torch_lacks(tmp_path, monkeypatch):
    supplied: list[bool] = []
    monkeypatch.setattr(patches, "torchvision", lambda: supplied.append(True))
    monkeypatch.setattr(builtins, "supplied_for_a_test", supplied, raising=False)
    (tmp_path / "wants.py").write_text(
        "if not supplied_for_a_test:\n    raise RuntimeError('operator torchvision::nms does not exist')\nit = 7\n"
    )
    assert patches.named(f"{tmp_path}/wants.py:it", "--transform") == 7
    assert supplied == [True]


def test_a_function_of_the_user_s_own_module_is_found_and_its_failures_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fn:package.module.function goes through the one importer: the current directory, and any failure as one error."""
    from torchloupe.names import locate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one])
    (tmp_path / "own_ops.py").write_text("class Part:\n    def go(self):\n        return 1\n")
    (tmp_path / "broken_ops.py").write_text("1 / 0\n")
    (tmp_path / "needy_ops.py").write_text("import no_such_package_at_all\n")
    holder, name = locate("own_ops.Part.go")
    assert (holder.__name__, name) == ("Part", "go")
    for path, said in (
        ("broken_ops.f", "importing broken_ops failed with ZeroDivisionError"),
        ("needy_ops.f", "it needs 'no_such_package_at_all', which is absent"),
        ("nowhere_ops.f", "there is no module 'nowhere_ops'"),
        ("own_ops.Bart.go", "own_ops has no 'Bart'"),
    ):
        with pytest.raises(loupe.BadInput, match=re.escape(said)):
            locate(path)
