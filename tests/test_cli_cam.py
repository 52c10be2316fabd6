"""`loupe cam`, `loupe layers` and `loupe draw` as a user runs them: what is written, and every bad input in one line."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import Colours

from torchloupe.cli import main

TESTS = Path(__file__).parent
MODEL = ["--model", "torch:tiny:colours", "--size", "64", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    make(tmp_path / "red.png", (220, 30, 30), (4, 4, 24, 24))


def make(path: Path, colour: tuple[int, int, int], box: tuple[int, int, int, int], size: int = 64) -> Path:
    picture = np.full((size, size, 3), 90, np.uint8)
    picture[box[0] : box[2], box[1] : box[3]] = colour
    Image.fromarray(picture).save(path)
    return path


def run(*words: str) -> int:
    return main([str(word) for word in words])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("loupe: error:")]
    assert len(lines) == 1, error
    assert error.strip().splitlines()[-1] == lines[0]
    assert "Traceback" not in error
    return lines[0]


def test_pictures_maps_and_record_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(
        "cam",
        "red.png",
        *MODEL,
        "--layers",
        "stem",
        "stage",
        "--method",
        "gradcam",
        "Grad-CAM++",
        "eigencam",
        "--target",
        "0",
        "1",
        "--save",
        "out",
    )
    assert status == 0
    said = capsys.readouterr().out.split()
    assert len(said) == 12
    for name in said:
        assert Image.open(name).size == (64, 64)
    record = json.loads((tmp_path / "out/red.json").read_text())
    assert record["questions"] == ["0", "1"]
    assert record["layers"]["stage"]["pattern"] == "n c h w"
    assert set(record["methods"]) == {"gradcam", "gradcam_pp", "eigencam"}
    with np.load(tmp_path / "out/red.npz", allow_pickle=False) as stored:
        found = stored["map/gradcam/stage"]
        assert found.shape == (2, 1, 16, 16)
        assert np.unravel_index(found[0].argmax(), (16, 16))[0] < 6
        assert found[0, 0, :7, :7].sum() > 0.99 * found[0].sum()


def test_the_default_layer_is_told_and_random_weights_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cam", "red.png", *MODEL) == 0
    assert "layer: stage (default)" in capsys.readouterr().err
    assert run("cam", "red.png", "--model", "timm:resnet10t", "--size", "64", "--save", "o2") == 0
    said = capsys.readouterr().err
    assert "the network is random" in said
    assert "layer: layer4 (default)" in said


def test_the_seeds_names_of_options_work(tmp_path: Path) -> None:
    status = run(
        "cam",
        "red.png",
        *MODEL,
        "--target-layers",
        "stage[-1]",
        "--target-category",
        "2",
        "--save-path",
        "cam.jpg",
        "--method",
        "GradCAM",
    )
    assert status == 0
    assert Image.open(tmp_path / "cam.jpg").size == (64, 64)


def test_every_method_runs(tmp_path: Path) -> None:
    from torchloupe.methods.registry import needs_attention, ours

    by_attention = {name for name, fn in ours().items() if needs_attention(fn)}
    names = sorted(set(ours()) - by_attention)  # those are refused here: test_attention_methods.py
    status = run(
        "cam",
        "red.png",
        *MODEL,
        "--layers",
        "stage",
        "--method",
        *names,
        "--option",
        "samples=2",
        "steps=4",
        "--compare",
        "--save",
        "all",
    )
    assert status == 0
    record = json.loads((tmp_path / "all/red.json").read_text())
    assert set(record["methods"]) == set(names)
    residual = record["methods"]["integrated_gradients"]["notes"]["completeness_residual"]
    assert abs(residual[0]) < 0.05
    assert record["methods"]["sscam"]["options"] == {"samples": 2}


def test_smoothing(tmp_path: Path) -> None:
    plain = [
        "cam",
        "red.png",
        "--model",
        "torch:tiny:random",
        "--size",
        "64",
        "--layers",
        "stage",
        "--method",
        "layercam",
    ]
    assert run(*plain, "--save", "a") == 0
    assert run(*plain, "--save", "b", "--aug-smooth", "--eigen-smooth") == 0
    one, two = (np.load(tmp_path / f"{folder}/red.npz")["map/layercam/stage"] for folder in "ab")
    assert one.shape == two.shape
    assert not np.allclose(one, two)


def test_fused_layers_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cam", "red.png", *MODEL, "--layers", "stem", "stage", "--fuse", "mean", "--save", "f") == 0
    assert len(capsys.readouterr().out.split()) == 1
    record = tmp_path / "f/red.json"
    assert json.loads(record.read_text())["drawn"]["fuse"] == "mean"
    assert run("cam", "red.png", *MODEL, "--layers", "stem", "stage", "--fuse", "max", "--save", "f") == 0
    assert json.loads(record.read_text())["drawn"]["fuse"] == "max"


@pytest.mark.parametrize(
    "words", [["truth"], ["tiny:redness"], ["top2"], ["predicted", "1"], ["top2", "0", "predicted"]]
)
def test_targets(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red.png 0\n")
    labels = ["--labels", "labels.txt"] if "truth" in words else []
    assert run("cam", "red.png", *MODEL, "--target", *words, *labels, "--save", "t") == 0
    questions = json.loads((tmp_path / "t/red.json").read_text())["questions"]
    want = {"truth": ["0"], "tiny:redness": ["red - green"], "top2": 2, "predicted": ["0", "1"]}[words[0]]
    if len(words) == 3:
        assert questions == [*questions[:2], "0", "0"]
    elif isinstance(want, int):
        assert len(questions) == want
    else:
        assert questions == want


def test_true_labels_from_folders_and_class_names(tmp_path: Path) -> None:
    for folder, colour in {"red": (220, 0, 0), "blue": (0, 0, 220)}.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        make(tmp_path / "set" / folder / "a.png", colour, (0, 0, 20, 20))
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    assert run("cam", "set", *MODEL, "--classes", "names.txt", "--target", "truth", "--save", "o") == 0
    assert json.loads((tmp_path / "o/red-a.json").read_text())["questions"] == ["red"]
    assert json.loads((tmp_path / "o/blue-a.json").read_text())["questions"] == ["blue"]


def test_one_target_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "blue.png", (0, 0, 220), (0, 0, 20, 20))
    assert run("cam", "red.png", "blue.png", *MODEL, "--each", "--target", "0", "2", "--save", "o") == 0
    assert json.loads((tmp_path / "o/blue.json").read_text())["questions"] == ["2"]
    capsys.readouterr()
    assert run("cam", "red.png", "blue.png", *MODEL, "--each", "--target", "0", "--save", "o3") == 2
    assert "1 targets for 2 pictures" in one_line(capsys)


def test_a_folder_with_broken_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(100):
        make(folder / f"{i:03}.png", (220, 30, 30), (4, 4, 24, 24), size=32)
    (folder / "010.png").write_bytes((folder / "010.png").read_bytes()[:60])
    (folder / "020.png").write_text("not a picture")
    (folder / "030.png").write_bytes(b"")
    assert run("cam", "many", *MODEL, "--save", "o", "--batch-size", "16") == 3
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("INCOMPLETE: ")
    assert "97 of 100 pictures done; 3 could not be read or explained" in said.err
    for name in ("010.png", "020.png", "030.png"):
        assert name in said.err
    assert len(list((tmp_path / "o").glob("*.npz"))) == 97
    assert not (tmp_path / "o/010.npz").exists()
    assert run("cam", "many", *MODEL, "--save", "o2", "--strict") == 2
    assert "010.png" in one_line(capsys)


def test_a_picture_whose_answer_is_nan_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "dark.png", (0, 0, 0), (0, 0, 64, 64))
    sick = ["--model", "torch:tiny:sick", "--size", "64", "--device", "cpu"]
    assert run("cam", "red.png", "dark.png", *sick, "--save", "o") == 3
    said = capsys.readouterr().err
    assert "1 of 2 pictures done" in said
    assert "not finite" in said
    assert "dark.png" in said
    assert run("cam", "dark.png", *sick, "--save", "o2") == 2
    assert "not finite" in one_line(capsys)
    assert not (tmp_path / "o2").exists()


def test_the_same_question_twice_reads_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cam", "red.png", *MODEL, "--save", "o"]
    assert run(*words) == 0
    first = (tmp_path / "o/red.npz").stat().st_mtime_ns
    from torchloupe.runs.maps import Explaining

    monkeypatch.setattr(Explaining, "do", lambda *_, **__: pytest.fail("the model ran"))
    assert run(*words) == 0
    assert (tmp_path / "o/red.npz").stat().st_mtime_ns == first
    assert run(*words, "--cmap", "jet") == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    assert run(*words, "--target", "1") == 0
    assert (tmp_path / "o/red.npz").stat().st_mtime_ns != first


@pytest.mark.parametrize(
    "change", [["--mean", "0.1", "0.1", "0.1"], ["--std", "1", "1", "1"], ["--labels", "other.txt"]]
)
def test_another_question_does_not_read_the_disk(change: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red.png 0\n")
    (tmp_path / "other.txt").write_text("red.png 2\n")
    words = ["cam", "red.png", *MODEL, "--target", "truth", "--save", "o"]
    assert run(*words, "--labels", "labels.txt") == 0
    first = (tmp_path / "o/red.npz").stat().st_mtime_ns
    assert run(*words, *(change if "--labels" in change else [*change, "--labels", "labels.txt"])) == 0
    assert (tmp_path / "o/red.npz").stat().st_mtime_ns != first


def test_other_weights_of_a_factory_do_not_read_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("cam", "red.png", *MODEL, "--save", "o") == 0
    first = (tmp_path / "o/red.npz").stat().st_mtime_ns
    import tiny

    monkeypatch.setattr(tiny, "colours", lambda: Colours(bias=1.0))
    assert run("cam", "red.png", *MODEL, "--save", "o") == 0
    assert (tmp_path / "o/red.npz").stat().st_mtime_ns != first


def test_draw_again_without_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cam", "red.png", *MODEL, "--save", "o", "--target", "0", "1") == 0
    capsys.readouterr()
    assert (
        run(
            "draw",
            "o/red.npz",
            "--cmap",
            "jet",
            "--opacity",
            "0.7",
            "--resize",
            "2",
            "--target",
            "1",
            "--save",
            "again.png",
        )
        == 0
    )
    assert Image.open(tmp_path / "again.png").size == (128, 128)


def test_layers_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("layers", "torch:tiny:colours", "--size", "64") == 0
    said = capsys.readouterr().out
    stage = next(line for line in said.splitlines() if line.split()[:2] == ["*", "stage"])
    assert stage.split() == [
        "*",
        "stage",
        "Sequential",
        "1",
        "1",
        "3",
        "16",
        "16",
        "n",
        "c",
        "h",
        "w",
        "1",
        "3",
        "1",
        "16",
        "16",
    ]
    assert said.rstrip().endswith("default: stage")
    assert run("cam", *MODEL, "--preview-model") == 0
    assert capsys.readouterr().out == said


BAD_PICTURES = {
    "missing.png": (None, "no such"),
    "empty.png": (b"", "empty"),
    "text.png": (b"hello, I am a text file\n" * 20, "not a picture"),
    "cut.png": ("cut", "truncated"),
    "folder.png": ("folder", "no pictures in this folder"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_pictures(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, match = BAD_PICTURES[name]
    if content == "cut":
        (tmp_path / name).write_bytes((tmp_path / "red.png").read_bytes()[:70])
    elif content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    assert run("cam", name, *MODEL, "--save", "o") == 2
    line = one_line(capsys)
    assert name in line
    assert match in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK", "RGBA", "P", "1", "LA"])
def test_other_kinds_of_pictures(mode: str, tmp_path: Path) -> None:
    plain = Image.open(tmp_path / "red.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257).save(tmp_path / "odd.png")
    else:
        plain.convert(mode).save(tmp_path / ("odd.tif" if mode == "CMYK" else "odd.png"))
    name = "odd.tif" if mode == "CMYK" else "odd.png"
    assert run("cam", name, *MODEL, "--save", "o") == 0
    assert np.load(tmp_path / "o/odd.npz")["picture"].shape == (1, 64, 64, 3)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


BAD_WORDS = {
    "layer": (["--layers", "stag"], "no layer 'stag' in this model. Did you mean stage"),
    "glob": (["--layers", "block*"], "no layer fits 'block*'"),
    "method": (["--method", "gradcan"], "no method 'gradcan'. Did you mean gradcam"),
    "class index": (["--target", "3"], "class 3: the model has 3 classes, 0 to 2"),
    "class name": (["--target", "tabby"], "no class names"),
    "too many": (["--target", "top9"], "top 9 of 3 classes"),
    "target function": (["--target", "tiny:nothing"], "has no 'nothing'"),
    "target value": (["--target", "tiny:number"], "expected a function"),
    "option": (["--option", "stepz=3"], "no option 'stepz'"),
    "option type": (["--method", "smoothgrad", "--option", "samples=few"], "option samples is 'few'; expected int"),
    "option value": (["--method", "smoothgrad", "--option", "samples=0"], "samples is 0; expected 1 or more"),
    "chunk": (["--method", "scorecam", "--option", "chunk=0"], "chunk is 0; expected 1 or more"),
    "chunk of ablation": (["--method", "ablationcam", "--option", "chunk=-1"], "chunk is -1; expected 0 or more"),
    "pool": (["--option", "pool=xy"], "expected letters out of c t h w"),
    "option form": (["--option", "steps"], "expected key=value"),
    "eigen smooth": (["--eigen-smooth", "--method", "eigencam"], "has no meaning with eigencam"),
    "colour map": (["--cmap", "infernal"], "infernal"),
    "opacity": (["--opacity", "3"], "expected a number from 0"),
    "batch": (["--batch-size", "0"], "expected 1 or more"),
    "device": (["--device", "cuda:7"], "cuda"),
    "weights": (["--weights", "nothing.pth"], "nothing.pth: no such"),
    "unknown option": (["--methood", "gradcam"], "--methood"),
    "labels": (["--target", "truth", "--labels", "none.txt"], "none.txt"),
    "cam": (["--method", "cam", "--layers", "stem"], "global average pooling"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_words(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, match = BAD_WORDS[case]
    assert run("cam", "red.png", *MODEL[:4], "--save", "o", *words) == 2
    assert match in one_line(capsys)
    assert not list(tmp_path.glob("o/*"))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("resnet50", "expected a scheme"),
        ("tim:resnet50", "Did you mean timm"),
        ("timm:resnet51", "Did you mean"),
        ("torchvision:resnet51", "resnet5"),
        ("torch:tiny:colour", "Did you mean colours"),
        ("torch:tinny:colours", "tinny"),
        ("torch:tiny:colours?depth=3", "depth"),
        ("torch:tiny:number", "expected a function or class"),
        ("transformers:nowhere/model", "nothing is downloaded"),
        ("mmpretrain:nothing.py", "nothing.py"),
    ],
)
def test_bad_models(model: str, match: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("cam", "red.png", "--model", model) == 2
    assert match in one_line(capsys)


def test_bad_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"other.weight": torch.rand(3, 3), "more.weight": torch.rand(9)}, tmp_path / "other.pth")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "evil2.pth")
    save_file(Colours().state_dict(), tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, match in {
        "other.pth": "wrong checkpoint",
        "evil.pth": "evil.pth",
        "evil2.pth": "--unsafe-load",
        "cut.safetensors": "truncated",
    }.items():
        assert run("cam", "red.png", *MODEL, "--weights", name) == 2
        line = one_line(capsys)
        assert name in line
        assert match in line
    assert not (tmp_path / "pwned").exists()
    assert run("cam", "red.png", *MODEL, "--weights", "good.safetensors", "--save", "o") == 0
    record = json.loads((tmp_path / "o/red.json").read_text())
    assert len(record["weights_sha256"]) == 64


def test_folders_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert run("cam", "red.png", *MODEL, "--save", "file/out") == 2
    assert "is a file" in one_line(capsys)
    assert run("cam", "red.png", *MODEL, "--save", "/proc/nowhere") == 2
    assert "/proc/nowhere" in one_line(capsys)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert run("cam", "red.png", "--model", "timm:resnet18") == 2
    assert "pip install 'torchloupe[timm]'" in one_line(capsys)


def test_a_layer_behind_the_last_attention(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vit = ["--model", "timm:vit_tiny_patch16_224?depth=2&img_size=64"]
    assert run("cam", "red.png", *vit, "--layers", "norm", "--save", "o") == 2
    assert "use 'blocks.1.norm1'" in one_line(capsys)
    assert run("cam", "red.png", *vit, "--save", "o") == 0


def test_faults_of_ours_are_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torchloupe.sources.images as images

    def fault(_: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(images, "find", fault)
    assert run("cam", "red.png", *MODEL) == 1
    assert "ZeroDivisionError: surprise" in one_line(capsys)
    with pytest.raises(ZeroDivisionError):
        run("cam", "red.png", *MODEL, "--debug")


def test_the_command_itself(tmp_path: Path) -> None:
    loupe = Path(sys.executable).with_name("loupe")
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [loupe, "cam", "red.png", *MODEL], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/red.npz").exists()
    bad = subprocess.run(
        [loupe, "cam", "no.png", *MODEL], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("loupe: error: ")
    assert bad.stdout == ""
    help_ = subprocess.run([loupe, "--help"], capture_output=True, text=True, check=True)
    assert "cam" in help_.stdout
