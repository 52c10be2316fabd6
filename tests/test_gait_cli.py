from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gait_fixtures import SMALL, write_config, write_walkers
from PIL import Image

from torchloupe.cli import main
from torchloupe.errors import PARTLY


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with trees, configs and checkpoints; the cache is inside it."""
    write_walkers(tmp_path, frames=7)
    for name in ("gaitset", "gaitgl"):
        write_config(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def cam(*more: str, name: str = "gaitset") -> int:
    given = ["gait", "cam", "-c", f"{name}.yaml", "--weights", f"{name}.pt", "-p", "Probe", "-g", "Gallery"]
    return main([*given, "--device", "cpu", *more])


def test_the_commands_of_the_readme(place, capsys):
    assert cam("-s", "out", "--method", "layercam") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[0].startswith("out/000-bg-01-090.npz  nearest: 0")
    assert out[0].endswith(("right", "wrong"))
    assert sorted(path.name for path in (place / "out").glob("[!.]*")) == [
        f"00{i}-bg-01-090.{end}" for i in (0, 1) for end in ("json", "npz")
    ]
    # -d both, -h, -r, -f as in the seed tool
    assert main(["gait", "draw", "out/001-bg-01-090.npz", "-d", "both", "-h", "0.6", "-r", "2", "-f", "2.5"]) == 0
    drawn = place / "out" / "001-bg-01-090"
    assert np.asarray(Image.open(drawn / "set_block1" / "006.png")).shape == (128, 88, 3)
    assert (drawn / "compare.png").exists()
    assert main(["gait", "layers", "-c", "gaitgl.yaml"]) == 0
    out = capsys.readouterr().out
    assert "3 frames a step" in out
    assert "8 strips joined" in out
    assert [line.split()[0] for line in out.splitlines() if line[:1].isspace() and " conv3d.0.conv3d" in line] == ["1"]


def test_the_same_command_again_reads_the_disk(place, capsys):
    assert cam("-s", "out") == 0
    before = (place / "out" / "000-bg-01-090.npz").stat().st_mtime_ns
    capsys.readouterr()
    assert cam("-s", "out") == 0
    assert capsys.readouterr().out.endswith("2 of 2 were there already\n")
    assert (place / "out" / "000-bg-01-090.npz").stat().st_mtime_ns == before
    assert cam("-s", "out", "--again") == 0
    assert (place / "out" / "000-bg-01-090.npz").stat().st_mtime_ns != before
    assert "there already" not in capsys.readouterr().out
    assert cam("-s", "out", "--target", "rival") == 0
    assert "rival: " in capsys.readouterr().out


def test_underscored_flags_and_default_folders_of_the_seed_tool(place):
    (place / "Probe").rename(place / "Probes")
    given = ["gait", "cam", "--config_path", "gaitset.yaml", "-w", "gaitset.pt", "--save_dir", "out", "--device", "cpu"]
    assert main(given) == 0
    assert main(["gait", "draw", "out", "--save_dir", "pictures", "--draw_mode=compare", "--heatmap_opacity=0.5"]) == 0
    assert (place / "pictures" / "000-bg-01-090" / "compare.png").exists()


@pytest.mark.parametrize("target", ["nearest", "match", "rival", "margin", "002-nm-01-000"])
def test_every_target_and_metric(place, target):
    assert cam("-s", "out", "--target", target, "--metric", "cos", "--parts", "0", "61", "-l", "Head", "--signed") == 0
    note = json.loads((place / "out" / "000-bg-01-090.json").read_text())
    assert note["metric"] == "cos"
    assert len(note["questions"]) == 2
    assert note["questions"][1].endswith("part 61")
    assert note["method"] == {"name": "gradcam", "relu": False}
    if target.startswith("0"):
        assert note["answers"] == [target]


def test_layers_by_number_glob_and_prompt(place, monkeypatch, capsys):
    assert cam("-s", "out", "--layers", "1", "gl_block?", "set_pooling#1") == 0
    with np.load(place / "out" / "000-bg-01-090.npz") as held:
        names = ["set_block1.forward_block.0.conv", "gl_block2", "gl_block3", "set_pooling#1"]
        assert held["layers"].tolist() == names
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "3, Head")
    assert cam("-s", "asked") == 0
    with np.load(place / "asked" / "000-bg-01-090.npz") as held:
        assert held["layers"].tolist() == ["set_block1.forward_block.2.conv", "Head"]


def test_videos_and_one_scale_over_the_run(place):
    assert cam("-s", "out", name="gaitgl") == 0
    assert main(["gait", "draw", "out", "--video", "gif", "--scale", "run", "-d", "compare", "-l", "LTA"]) == 0
    with Image.open(place / "out" / "000-bg-01-090" / "000-bg-01-090.gif") as picture:
        assert picture.n_frames == 7


def test_several_results_are_drawn_at_once(place, capsys):
    assert cam("-s", "out", "-l", "gl_block2") == 0
    files = sorted(map(str, Path("out").glob("*.npz")))
    assert main(["gait", "draw", *files, "-d", "compare", "-s", "drawn"]) == 0
    assert sorted(path.parent.name for path in Path("drawn").glob("*/compare.png")) == [Path(one).stem for one in files]
    assert main(["gait", "draw", "out", files[0], "-s", "twice"]) == 2
    assert f"{Path(files[0]).name} is named more than once" in capsys.readouterr().err
    assert not Path("twice").exists()
    assert main(["gait", "draw"]) == 2
    assert "no result was named" in capsys.readouterr().err


def test_loupe_draw_knows_these_results_too(place, capsys):
    assert cam("-s", "out", "--parts", "0", "1", "-l", "Head", "gl_block2", "--method", "layercam") == 0
    given = ["draw", "out/000-bg-01-090.npz", "--compare", "--resize", "2", "--layers", "gl*", "--save", "pictures"]
    assert main(given) == 0
    assert (place / "pictures" / "000-bg-01-090" / "compare.png").exists()
    assert main(["draw", "out/000-bg-01-090.npz", "--target", "part", "--save", "parts"]) == 0
    assert len(list((place / "parts" / "000-bg-01-090").glob("*/Head/*.png"))) == 14
    capsys.readouterr()
    assert main(["draw", "out/000-bg-01-090.npz", "--target", "nobody", "--save", "parts"]) == 2
    assert "no question nobody; it has 0" in capsys.readouterr().err


def test_the_checkpoint_that_the_config_means_is_found(place, capsys):
    blocks = {"evaluator_cfg": {"save_name": "GS", "restore_hint": 40}}
    write_config(place, "hinted", SMALL["gaitset"], **blocks)
    assert main(["gait", "cam", "-c", "hinted.yaml", "-p", "Probe", "-g", "Gallery", "-s", "out"]) == 2
    assert (
        "restore_hint of hinted.yaml means output/CASIA-B/GaitSet/GS/checkpoints/GS-00040.pt" in capsys.readouterr().err
    )
    goal = place / "output/CASIA-B/GaitSet/GS/checkpoints/GS-00040.pt"
    goal.parent.mkdir(parents=True)
    (place / "hinted.pt").rename(goal)
    assert main(["gait", "cam", "-c", "hinted.yaml", "-p", "Probe", "-g", "Gallery", "-s", "out"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-c", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["-c", "gaitset.yaml"], "--weights: give a checkpoint; restore_hint of gaitset.yaml names none"),
        (["-c", "gaitset.yaml", "-w", "nowhere.pt"], "--weights nowhere.pt: no such file"),
        (["-c", "gaitset.yaml", "-w", "gaitgl.pt"], "not a checkpoint of GaitSet"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--layers", "99"], "layer 99: this model's layers are numbered 1"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--target", "nearset"], "Did you mean nearest"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--method", "gradcma"], "Did you mean gradcam"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--method", "opengait", "--signed"], "--signed: opengait"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--parts", "62"], "part 62: this model has 62 parts"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--device", "cuda:9"], "device 'cuda:9'"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "-p", "nowhere"], "nowhere: no such folder"),
        (["-c", "gaitset.yaml", "-w", "gaitset.pt", "--opengait", "nowhere"], "nowhere: not a checkout of OpenGait"),
        (["-c", "other.yaml", "-w", "gaitset.pt"], "is not built in"),
    ],
)
def test_bad_input_is_one_line_and_status_2(place, capsys, given, message):
    (place / "other.yaml").write_text(yaml.safe_dump({"model_cfg": {"model": "SwinGait"}}))
    options = {"-p": "Probe", "-g": "Gallery", "--device": "cpu", "-s": "out"}
    rest = [word for key, value in options.items() if key not in given for word in (key, value)]
    assert main(["gait", "cam", *given, *rest]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(place.glob("out/*.npz"))


def test_a_bad_probe_is_told_and_left_out_or_stops(place, capsys):
    bad = place / "Probe" / "000" / "bg-01" / "090" / "090.pkl"
    bad.write_bytes(b"nothing")
    assert cam("-s", "out") == PARTLY
    caught = capsys.readouterr()
    assert "Probe/000/bg-01/090/090.pkl: a broken or truncated pickle" in caught.err
    assert caught.err.splitlines()[-1].startswith("INCOMPLETE: 1 of 2 probes done")
    assert [path.name for path in sorted((place / "out").glob("*.npz"))] == ["001-bg-01-090.npz"]
    assert cam("-s", "other", "--strict") == 2
    assert "090.pkl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.npz"], "nowhere.npz: no such file"),
        (["Probe"], "no .npz in this folder"),
        (["gaitset.pt"], "gaitset.pt: cannot be read as a whole npz file"),
        (["out", "-d", "grid"], "--draw-mode 'grid'"),
        (["out", "-h", "7"], "--heatmap-opacity 7.0"),
        (["out", "-l", "nothing"], "no layer 'nothing'"),
    ],
)
def test_bad_drawing_is_one_line_and_status_2(place, capsys, given, message):
    assert cam("-s", "out", "-l", "Head") == 0
    capsys.readouterr()
    assert main(["gait", "draw", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_of_pictures_is_a_probe(place, capsys):
    folder = place / "walk"
    folder.mkdir()
    for i in range(5):
        frame = np.zeros((90, 120), np.uint8)
        frame[10:80, 40 + 2 * i : 60 + 2 * i] = 255
        Image.fromarray(frame).save(folder / f"{i}.png")
    given = ["gait", "cam", "-c", "gaitset.yaml", "-w", "gaitset.pt", "-p", "walk", "-g", "Gallery", "-s", "out"]
    assert main(given) == 0
    assert (place / "out" / "walk.npz").exists()


@pytest.mark.slow
def test_the_demo_learns_something_and_draws(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    torch.manual_seed(0)
    given = ["--steps", "40", "--people", "8", "--strangers", "3", "--frames", "8", "--save", "demo"]
    assert main(["demo", "gait", *given]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line[:2] in ("NM", "BG", "CL")]
    whole = next(row for row in rows if row[0] == "NM" and row[1] == "66")  # 3 people, 2 walks, 11 views
    assert float(whole[3]) > 50
    assert "no legs" in out
    assert "shares of the maps in percent" in out
    assert (place / "demo" / "evaluation.png").exists()
    assert (place / "demo" / "summary" / "parts.png").exists()
    assert "of the maps lie on it" in out
    assert list((place / "demo").glob("*/walk.gif"))


def test_an_error_of_the_question_stops_at_once(place, capsys, monkeypatch):
    """Not a warning for every probe; a probe that has no match is left out alone."""
    for more, message in (
        (["-l", "set_pooling#9"], "layer 'set_pooling#9' did not run"),
        (["-l", "1#9"], "layer 'set_block1.forward_block.0.conv#9' did not run"),
        (["--parts", "62"], "part 62: this model has 62 parts"),
    ):
        assert cam("-s", "out", *more) == 2
        err = capsys.readouterr().err
        assert err.count(message) == 1
        assert "left out" not in err
    assert not (place / "out").exists()
    (place / "Gallery" / "000").rename(place / "Gallery" / "010")
    assert cam("-s", "out", "--target", "match") == PARTLY
    assert "000-bg-01-090: no gallery item of the same identity; try the target nearest" in capsys.readouterr().err
    assert [file.name for file in (place / "out").glob("*.npz")] == ["001-bg-01-090.npz"]
    # an unknown target is told before the gallery is embedded
    monkeypatch.setattr("torchloupe.runs.gait.embed_gallery", None)
    assert cam("-s", "out", "--target", "nearset") == 2


def test_the_prompt_asks_again_and_is_left_by_the_end_of_input(place, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    words = iter(["99", "no_such_layer", "1#0 gl_*k2", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(words))
    assert cam("-s", "asked") == 0
    with np.load(place / "asked" / "000-bg-01-090.npz") as held:
        assert held["layers"].tolist() == ["set_block1.forward_block.0.conv#0", "gl_block2"]
    out = capsys.readouterr().out
    assert "layer 99: this model's layers are numbered 1 to 25" in out
    assert "no layer 'no_such_layer' in this model" in out
    assert cam("-s", "default") == 0
    with np.load(place / "default" / "000-bg-01-090.npz") as held:
        assert held["layers"].tolist() == ["set_block1", "set_block2", "set_block3", "gl_block2", "gl_block3"]

    def ended(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert cam("-s", "left") == 130
    assert not (place / "left").exists()
