"""A diagnosis over a data set: streaming, resuming after SIGKILL, refusing other settings, the commands and their files."""

from __future__ import annotations

import copy
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import diagnosis
import numpy as np
import pytest
import torch
from left import hidden
from PIL import Image
from torch import nn

from torchloupe import kinds
from torchloupe.cli import main
from torchloupe.data.bodies import COCO_BODY, HAND, Crop, Person, PoseData, frame
from torchloupe.errors import PARTLY, BadInput, LoupeError
from torchloupe.examples import figures
from torchloupe.methods.blur import blurred
from torchloupe.methods.path import integrated_gradients
from torchloupe.probe import INPUT, Probe
from torchloupe.render import pose, pose_report
from torchloupe.runs.pose import errors
from torchloupe.runs.run import Asking, Job, run
from torchloupe.sources.assemble import Options
from torchloupe.sources.hrnet import experiment, network
from torchloupe.store import Artifact
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import soft_argmax

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
QUICK = ["--steps", "2", "--places", "even"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums of floats depend on how many threads share them: as many here as in the processes that are killed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six figures, the config of a tiny Pose ResNet and its weights."""
    folder = tmp_path_factory.mktemp("pose")
    figures.write(folder / "data", 6, seed=3)
    config = figures.config(folder / "net.yaml", width=4, filters=8)
    torch.manual_seed(0)
    torch.save(network(experiment(config)).state_dict(), folder / "net.pth")
    return folder


def common(bench: Path) -> list[str]:
    return ["--cfg", str(bench / "net.yaml"), "--weights", str(bench / "net.pth"), "--data", str(bench / "data")]


def study(bench: Path) -> diagnosis.Study:
    options = Options(weights=bench / "net.pth", device="cpu")
    return diagnosis.study(config=experiment(bench / "net.yaml"), data=bench / "data", options=options)


@pytest.fixture(scope="module")
def done(bench: Path) -> Path:
    """A finished run of everything."""
    run = bench / "done"
    assert main(["pose", "ig", *common(bench), *QUICK, "-o", str(run), "TEST.USE_GT_BBOX", "True"]) == 0
    assert main(["pose", "epe", *common(bench), "-o", str(run), "TEST.FLIP_TEST", "True"]) == 0
    return run


def contents(run: Path, kind: str = "ig") -> dict[str, dict[str, np.ndarray]]:
    stream = Stream(run, kind)
    return {id: stream.arrays(id) for id in stream.ids()}


def same(a: dict[str, dict[str, np.ndarray]], b: dict[str, dict[str, np.ndarray]]) -> bool:
    if a.keys() != b.keys():
        return False
    return all(
        np.array_equal(a[id][name], b[id][name], equal_nan=a[id][name].dtype.kind == "f") for id in a for name in a[id]
    )


@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_run_killed_at_any_moment_goes_on_to_the_same_result(
    bench: Path, done: Path, tmp_path: Path, after: int
) -> None:
    run = tmp_path / "run"
    script = (
        "import os, signal, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from torchloupe.cli import main\n"
        "from torchloupe.store.stream import Stream\n"
        "write, count = Stream.write, 0\n"
        "def killing(self, id, result, asked):\n"
        "    global count\n"
        "    count += 1\n"
        f"    if count == {after}:\n"
        "        (self.folder / f'.{id}.{os.getpid()}-1~.npz').write_bytes(b'torn')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(self, id, result, asked)\n"
        "Stream.write = killing\n"
        "main(sys.argv[1:])\n"
    )
    command = ["pose", "ig", *common(bench), *QUICK, "-o", str(run), "TEST.USE_GT_BBOX", "True"]
    killed = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(Stream(run, "ig").ids()) == after - 1
    assert main(command) == 0
    assert same(contents(run), contents(done))
    assert hidden(run) == []


def test_a_run_killed_from_outside_leaves_whole_files_only(bench: Path, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["pose", "ig", *common(bench), *QUICK, "-o", str(run), "TEST.USE_GT_BBOX", "True"]
    script = "import sys, torch; torch.set_num_threads(1); from torchloupe.cli import main; main(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", script, *command], stdout=subprocess.DEVNULL) as process:
        for _ in range(1200):
            if len(list((run / "ig").glob("*.npz"))) >= 2 or process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
    reference = contents(done)
    for id, kept in contents(run).items():
        assert same({id: kept}, {id: reference[id]})
    assert main(command) == 0
    assert same(contents(run), reference)


def test_a_finished_run_computes_nothing(bench: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pose", "ig", *common(bench), *QUICK, "-o", str(done), "TEST.USE_GT_BBOX", "True"]) == 0
    assert "0 samples made, 6 were there, 0 failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "3"], "attribution.seed 0, now it is 3"),
        (["--path", "straight"], 'attribution.path "blur", now it is "straight"'),
        (["--no-save-ig"], 'maps "float16", now it is "none"'),
    ],
)
def test_other_settings_are_refused(
    bench: Path, done: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pose", "ig", *common(bench), *QUICK, "-o", str(done), *change]) == 2
    assert message in capsys.readouterr().err


def test_another_model_is_refused(bench: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    torch.save(network(experiment(bench / "net.yaml")).state_dict(), tmp_path / "other.pth")
    command = ["pose", "ig", *common(bench), *QUICK, "-o", str(done), "--weights", str(tmp_path / "other.pth")]
    command.remove(str(bench / "net.pth"))
    command.remove("--weights")
    assert main(command) == 2
    assert "holds results made with weights_sha256" in capsys.readouterr().err


def test_the_stored_maps_are_those_of_the_method(bench: Path, done: Path) -> None:
    from torchloupe.methods.blur import along, blur_curve
    from torchloupe.methods.poseig import poseig
    from torchloupe.targets.pose import Joints

    one = study(bench)
    loaded, broken = diagnosis.load(one, ["2"])
    assert loaded is not None
    assert not broken
    path = along(blur_curve(bend=2.0), lambda count: torch.linspace(0, 1, count, dtype=torch.float64)[:, None])
    found = poseig(Probe(one.subject, (INPUT,), Joints()), loaded.batch, path=path, steps=2)
    kept = Stream(done, "ig").arrays("2")
    shown = np.nonzero(loaded.samples[0].weight)[0]
    assert kept["joints"].tolist() == shown.tolist()
    back = kept["maps"].astype(np.float64) * kept["scale"][:, None, None]
    np.testing.assert_allclose(back, found[INPUT][:, 0, 0].numpy(), atol=1e-3 * kept["scale"].max())
    np.testing.assert_allclose(kept["completeness_residual"], found.notes["completeness_residual"][:, 0], atol=1e-6)


def test_stored_maps_give_the_same_indices_without_the_model(bench: Path, done: Path) -> None:
    again = diagnosis.stored_indices(done, again=True)
    for id, kept in contents(done).items():
        for name in ("DI", "FI", "LI", "RI"):
            np.testing.assert_array_equal(again[id][name], kept[name])
    assert main(["pose", "ig", "-o", str(done), "--load-ig"]) == 0
    content = json.loads((done / "index.json").read_text())
    assert content["2"]["DI"] == [None if np.isnan(v) else v for v in contents(done)["2"]["DI"].tolist()]


def test_maps_that_were_never_made_are_named(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pose", "ig", "-o", str(tmp_path), "--load-ig"]) == 2
    assert "holds no ig results" in capsys.readouterr().err
    bare = tmp_path / "bare"
    assert main(["pose", "ig", *common(bench), *QUICK, "-o", str(bare), "--no-save-ig", "--ids", "1"]) == 0
    assert "maps" not in Stream(bare, "ig").arrays("1")
    capsys.readouterr()
    assert main(["pose", "index", "-o", str(bare), "--load-ig"]) == 2
    assert "its maps were not kept (--no-save-ig)" in capsys.readouterr().err
    assert main(["pose", "draw", str(bare), "--sample", "1"]) == 2
    assert main(["pose", "draw", str(bare), "--sample", "4"]) == 2
    assert "has no ig result of sample 4; there are 1 ... 1 (1)" in capsys.readouterr().err


def test_stored_maps_are_taken_for_the_samples_asked_for(
    bench: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*options: str) -> tuple[int, str]:
        code = main(["pose", "ig", "-o", str(part), "--load-ig", *options])
        return code, capsys.readouterr().err

    part = tmp_path / "part"
    shutil.copytree(done, part)
    (part / "ig" / "4.npz").unlink()
    assert run("--ids", "4", "5")[0] == 2
    code, said = run("--ids", "1", "4")
    assert code == 2
    assert "no maps were computed of 1 of the samples asked for (4); there are 5, 0 to 5" in said
    for options, ids in ((["--ids", "5", "1"], "51"), (["--every", "2"], "025"), (["--max-samples", "1"], "0")):
        assert run(*options)[0] == 0
        assert "".join(json.loads((part / "index.json").read_text())) == ids
    assert run("--every", "0")[0] == 2
    monkeypatch.setattr(errors, "outputs", None)
    monkeypatch.setattr(diagnosis.Attribution, "maps", None)
    assert run(*common(bench), *QUICK)[0] == 0
    assert "attribution.steps 2, now it is 5" in run("--steps", "5")[1]
    torch.manual_seed(1)
    torch.save(network(experiment(bench / "net.yaml")).state_dict(), tmp_path / "other.pth")
    assert (
        "holds results made with weights_sha256"
        in run(*[word.replace(str(bench / "net.pth"), str(tmp_path / "other.pth")) for word in common(bench)])[1]
    )


def test_indices_of_maps_that_were_not_kept(bench: Path, tmp_path: Path) -> None:
    asked = [*common(bench), *QUICK, "-o", str(tmp_path)]
    assert main(["pose", "ig", *asked, "--no-save-ig", "--ids", "1"]) == 0
    assert main(["pose", "index", *asked, "--ids", "1", "2"]) == 0
    assert list(json.loads((tmp_path / "index.json").read_text())) == ["1", "2"]
    assert main(["pose", "index", "-o", str(tmp_path)]) == 0
    assert "maps" not in Stream(tmp_path, "ig").arrays("2")


@pytest.mark.parametrize(
    ("given", "beside"),
    [
        ({"reference": True, "steps": 20}, "--steps 20 has no place beside --reference"),
        ({"reference": True, "method": "gradcam"}, "--method gradcam has no place beside --reference"),
        ({"reference": True, "path": "straight"}, "--path straight has no place beside --reference"),
        ({"method": "gradcam", "noise": 0.1}, "--noise 0.1 has no place beside --method gradcam"),
        ({"layers": ("layer3", "layer4")}, "--layers layer3 layer4 has no place beside --method poseig"),
        ({"baseline": "white"}, "--baseline white has no place beside --path blur"),
        ({"noise": float("inf")}, "--noise is 0 or more and finite, found inf"),
    ],
)
def test_options_that_would_change_nothing_are_refused(given: dict[str, object], beside: str) -> None:
    with pytest.raises(BadInput, match=beside):
        diagnosis.Attribution(**given)  # type: ignore[arg-type]


def test_a_method_of_the_core_takes_its_own_options(bench: Path) -> None:
    one = study(bench)
    loaded, _ = diagnosis.load(one, ["0"])
    assert loaded is not None

    def made(**given: object) -> torch.Tensor:
        how = diagnosis.Attribution(method="integrated_gradients", **given)  # type: ignore[arg-type]
        return how.maps(Probe(one.subject, (INPUT,), how.target(one)), loaded.batch, one.crop)[INPUT]

    probe = Probe(one.subject, (INPUT,), diagnosis.Attribution().target(one))
    assert torch.equal(made(steps=2), integrated_gradients(probe, loaded.batch, steps=2)[INPUT])
    assert torch.equal(made(), integrated_gradients(probe, loaded.batch)[INPUT])
    kept = diagnosis.Attribution(method="smoothgrad", noise=0.3, seed=2).record()
    assert kept["options"] == {"noise": 0.3, "seed": 2}
    assert "path" not in kept


def test_the_record_of_the_template_s_maps_says_how_they_are_made() -> None:
    kept = diagnosis.Attribution(reference=True).record()
    assert (kept["steps"], kept["places"]) == (50, "left")


def test_joints_of_pictures_without_annotation(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [str(path) for path in sorted((bench / "data").rglob("*.png"))[:2]]
    model = ["--model", f"hrnet:{bench / 'net.yaml'}", "--weights", str(bench / "net.pth"), "--save", str(tmp_path)]
    assert main(["cam", *pictures, *model, "--target", "left_wrist", "0", "--each"]) == 0
    assert len(list(tmp_path.glob("*-left_wrist.png"))) == len(list(tmp_path.glob("*-nose.png"))) == 1
    for words, message in (
        (["--target", "left_wrst"], "Did you mean left_wrist"),
        (["--target", "truth"], "--target truth: "),
        (["--aug-smooth"], "--aug-smooth mirrors pictures, in which left joints are right ones"),
        (["--target", "9", "--each"], "--each: 1 targets for 2 pictures"),
    ):
        assert main(["cam", *pictures, *model, *words]) == 2
        assert message in capsys.readouterr().err


def test_samples_are_chosen(bench: Path) -> None:
    one = study(bench)
    assert diagnosis.chosen(one) == list("012345")
    assert diagnosis.chosen(one, every=2) == ["0", "2", "4"]
    assert diagnosis.chosen(one, every=2, most=2) == ["0", "2"]
    assert diagnosis.chosen(one, ids=[5, 1, 5]) == ["5", "1"]
    with pytest.raises(BadInput, match="sample 6: the data set has 6 samples"):
        diagnosis.chosen(one, ids=[6])
    with pytest.raises(BadInput, match="are 1 or more"):
        diagnosis.chosen(one, every=0)


def test_a_missing_picture_is_recorded_skipped_and_tried_again(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = figures.write(tmp_path / "data", 3, seed=4)
    picture = data / "images" / "figures" / "000001.png"
    content = picture.read_bytes()
    picture.unlink()
    command = ["pose", "ig", *common(bench)[:4], "--data", str(data), *QUICK, "-o", str(tmp_path / "run")]
    assert main(command) == PARTLY
    said = capsys.readouterr().out
    assert "2 samples made, 0 were there, 1 failed" in said
    assert "sample 1:" in said
    assert said.splitlines()[-1].startswith("INCOMPLETE: 2 of 3 samples done")
    assert "no such file; expected a picture" in Stream(tmp_path / "run", "ig").failed()["1"]
    assert main([*command, "--strict"]) == 2
    picture.write_bytes(content)
    assert main(command) == 0
    assert "1 samples made, 2 were there, 0 failed" in capsys.readouterr().out
    assert not Stream(tmp_path / "run", "ig").failed()


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(tmp_path, "ig")
    stream.begin({"steps": 1})
    stream.write("0", Artifact({"a": np.arange(3)}, {}), {})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    work = Asking(["0", "1"], lambda ids: [(id, Artifact({"a": np.arange(3)}, {})) for id in ids], {"steps": 1})
    with pytest.raises(LoupeError, match="the disk is full; nothing was written that is not whole"):
        run(work, stream, batch=1)
    assert stream.ids() == ["0"]
    assert stream.arrays("0")["a"].tolist() == [0, 1, 2]
    assert hidden(tmp_path) == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    stream = Stream(tmp_path, "ig")
    stream.begin({})
    stream.write("7", Artifact({"a": np.arange(3)}, {}), {})
    path = tmp_path / "ig" / "7.npz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadInput, match="cannot be read as a whole sample .* delete it"):
        stream.arrays("7")


def test_errors_are_distances_in_input_pixels(bench: Path, done: Path) -> None:
    one = study(bench)
    loaded, _ = diagnosis.load(one, ["3"])
    assert loaded is not None
    kept = Stream(done, "epe").arrays("3")
    with torch.no_grad():
        found = soft_argmax(one.subject.module.eval()(loaded.batch.x))[0] * 4
    truth = soft_argmax(loaded.batch.truth["heatmaps"])[0] * 4
    shown = kept["weight"] > 0
    np.testing.assert_allclose(kept["EPE"][shown], (found - truth).norm(dim=-1).numpy()[shown], rtol=1e-4)
    assert np.isnan(kept["EPE"][~shown]).all()
    content = json.loads((done / "errors.json").read_text())
    assert content["unit"] == "pixels of the network's input"
    assert set(content["coco"]) >= {"AP", "AR"}


def template_resized(heatmap: np.ndarray, times: int) -> np.ndarray:
    """Bilinear, pixel centres where they are in the picture, edges repeated."""
    h, w = heatmap.shape
    wide = np.zeros((h * times, w * times))
    for row in range(h * times):
        for column in range(w * times):
            y, x = (min(max((at + 0.5) / times - 0.5, 0), side - 1) for at, side in ((row, h), (column, w)))
            top, left = int(y), int(x)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            upper = heatmap[top, left] * (1 - x + left) + heatmap[top, right] * (x - left)
            lower = heatmap[below, left] * (1 - x + left) + heatmap[below, right] * (x - left)
            wide[row, column] = upper * (1 - y + top) + lower * (y - top)
    return wide


def template_diffusion(values: np.ndarray) -> float:
    line = sorted(value + 1e-7 for value in values.ravel().tolist())
    n = len(line)
    return 100 * (1 - sum((2 * i - n - 1) * value for i, value in enumerate(line, 1)) / (n * sum(line)))


def template_share(values: np.ndarray, region: np.ndarray) -> float:
    """Attribution in a region over that of a uniform map; the template makes 0 of 0 / 0."""
    if not values.sum() or not region.sum():
        return 0.0
    return float((values / values.sum() * region).sum() * region.size / region.sum())


def template_dilated(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 2)
    return np.max([padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(5) for j in range(5)], 0)


def template_points(heatmaps: np.ndarray) -> list[np.ndarray]:
    found = []
    for heatmap in heatmaps.astype(np.float64):
        share = np.exp(10 * (heatmap - heatmap.max()))
        rows, columns = np.mgrid[: heatmap.shape[0], : heatmap.shape[1]]
        found.append(np.array([(share * columns).sum(), (share * rows).sum()]) / share.sum())
    return found


def test_the_template_s_folder_beside_a_transcription(bench: Path, done: Path, tmp_path: Path) -> None:
    """Every figure from the pickles, masks and heatmaps again, as the template's loops make it."""
    folder, count = pose_report.export(done, "ig-db", tmp_path)
    assert count == 6
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert files.keys() == {"idx", "epe", "RI", "j2j"}
    one = study(bench)
    net = one.subject.module.eval()
    inverted = {}
    for n in range(6):
        loaded, _ = diagnosis.load(one, [str(n)])
        assert loaded is not None
        heatmaps, weight = loaded.batch.truth["heatmaps"][0].numpy(), loaded.batch.truth["weight"][0].tolist()
        with torch.no_grad():
            seen = template_points(net(loaded.batch.x)[0].numpy())
        real = template_points(heatmaps)
        error = [float(np.linalg.norm(p - t)) * w for p, t, w in zip(seen, real, weight, strict=True)]
        assert files["epe"][str(n)]["EPE"] == pytest.approx(error, abs=6e-4)
        assert files["epe"][str(n)]["weight"] == files["idx"][str(n)]["weight"] == weight
        for a in range(17):
            for b in range(17):
                if a == b or not weight[a] * weight[b]:
                    continue
                if np.linalg.norm(seen[a] - real[a]) * 4 > 10 > np.linalg.norm(seen[a] - real[b]) * 4:
                    inverted[str(n * 17**2 + a * 17 + b)] = [n, a, b]
        maps = pickle.loads((folder / "ig" / f"{n}_ig.pickle").read_bytes())
        assert maps.dtype == np.float32
        assert maps.shape == (17, 128, 96)
        assert maps.max((1, 2)).tolist() == weight
        if n:  # the loops are slow
            continue
        values, wide = maps.astype(np.float64), [template_resized(heatmap, 4) for heatmap in heatmaps]
        mask = template_dilated(loaded.samples[0].mask)
        shown = np.flatnonzero(weight).tolist()
        expected = {
            "DI": [template_diffusion(values[j]) if j in shown else 0 for j in range(17)],
            "FI": [template_share(values[j], mask) if j in shown else 0 for j in range(17)],
            "LI": [template_share(values[j], wide[j]) if j in shown else 0 for j in range(17)],
        }
        for name, values_of in expected.items():
            assert files["idx"]["0"][name] == pytest.approx(values_of, abs=6e-4)
        for a in range(17):
            expected_row = {str(b): pytest.approx(template_share(values[a], wide[b]), rel=1e-5) for b in range(17)}
            assert files["RI"]["0"][str(a)] == expected_row
    assert inverted
    assert files["j2j"] == {"J2J": inverted}


def test_export_of_nothing_writes_nothing(done: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the only format is ig-db"):
        pose_report.export(done, "csv")
    with pytest.raises(BadInput, match="holds no results"):
        pose_report.export(tmp_path, "ig-db")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made a folder"):
        pose_report.export(done, "ig-db", tmp_path / "file")


def test_the_report_and_the_pictures(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pose", "inversions", "-o", str(done)]) == 0
    assert main(["pose", "report", str(done)]) == 0
    page = (done / "report" / "index.html").read_text()
    for word in (
        "By joint",
        "Index against decoded error",
        "By decoded error",
        "Inversions",
        "Worst samples",
        "left_wrist",
    ):
        assert word in page
    for name in page.split('src="')[1:]:
        assert (done / "report" / name.split('"')[0]).stat().st_size > 500
    joint = int(Stream(done, "ig").arrays("2")["joints"][0])
    assert main(["pose", "draw", str(done), "--sample", "2", "--joint", str(joint)]) == 0
    assert main(["pose", "draw", str(done), "--sample", "2"]) == 0
    names = {path.name for path in (done / "pictures").iterdir()}
    assert {f"2_{joint}_ig.png", f"2_{joint}_kde.png", f"2_{joint}_img.png", "2_grid.png", "2_skeleton.png"} <= names
    capsys.readouterr()
    assert main(["pose", "draw", str(done), "--sample", "2", "--joint", "left_wrst"]) == 2
    assert "Did you mean left_wrist" in capsys.readouterr().err


def test_a_run_is_drawn_again_without_the_model(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Stream(done, "ig").arrays("2")
    name = pose_report.Run(done).names()[int(kept["joints"][0])]
    one = [str(done / "ig" / "2.npz"), "--save", str(tmp_path / "one"), "--target", name, "--resize", "2"]
    assert main(["draw", *one, "--cmap", "viridis", "--opacity", "1"]) == 0
    (path,) = (tmp_path / "one").iterdir()
    assert str(path) in capsys.readouterr().out
    made = np.asarray(Image.open(path).convert("RGB"))
    assert made.shape == (256, 192, 3)
    assert (
        main(["draw", str(done), "--save", str(tmp_path / "all"), "--compare", "--dpi", "40", "--format", "pdf"]) == 0
    )
    assert len(list((tmp_path / "all").glob("*.pdf"))) == 6
    capsys.readouterr()
    assert main(["draw", str(done / "ig" / "2.npz"), "--target", "left_knees"]) == 2
    assert "left_knee" in capsys.readouterr().err
    assert main(["draw", str(done / "epe" / "2.npz"), "--save", str(tmp_path / "bones")]) == 0
    assert [path.name for path in (tmp_path / "bones").iterdir()] == ["2_skeleton.png"]


def test_two_runs_are_compared_on_their_common_samples(
    bench: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    torch.save(network(experiment(bench / "net.yaml")).state_dict(), tmp_path / "other.pth")
    other = tmp_path / "other"
    mine = [*common(bench)[:2], "--weights", str(tmp_path / "other.pth"), *common(bench)[4:]]
    assert main(["pose", "epe", *mine, "-o", str(other), "--max-samples", "4", "TEST.FLIP_TEST", "True"]) == 0
    count, (row, decoded) = diagnosis.compare([done, other])
    assert count == 4
    ids = ["0", "1", "2", "3"]
    first, second = (np.stack([contents(r, "epe")[id]["EPE"] for id in ids]) for r in (done, other))
    assert (row.name, decoded.name) == ("EPE", "decoded")
    assert row.differences[0].mean == pytest.approx(np.nanmean(second - first))
    assert row.differences[0].low <= row.differences[0].mean <= row.differences[0].high
    assert main(["pose", "compare", str(done), str(other), "--save", str(tmp_path / "c.json")]) == 0
    assert "4 samples in common" in capsys.readouterr().out
    assert [row["name"] for row in json.loads((tmp_path / "c.json").read_text())] == ["EPE", "decoded"]
    with pytest.raises(BadInput, match="two runs or more"):
        diagnosis.compare([done])
    with pytest.raises(BadInput, match="nowhere: holds no results"):
        diagnosis.compare([done, tmp_path / "nowhere"])
    # the same errors, had the input been twice as wide: half as many pixels of the first run's input
    settings = json.loads((other / "epe.json").read_text())
    settings["crop"]["size"] = [192, 256]
    (other / "epe.json").write_text(json.dumps(settings))
    _, (wide, _) = diagnosis.compare([done, other])
    assert wide.means == pytest.approx((row.means[0], row.means[1] / 2))
    (other / "epe.json").write_text(json.dumps({**settings, "coordinates": "camera"}))
    with pytest.raises(BadInput, match=r"errors cannot be compared: .*done in pixels, .*other in camera units"):
        diagnosis.compare([done, other])


def test_dependency_between_joints(bench: Path, done: Path) -> None:
    assert main(["pose", "depend", *common(bench), "-o", str(done), "--max-samples", "2"]) == 0
    content = json.loads((done / "dependency.json").read_text())
    assert content["samples"] == ["0", "1"]
    values = np.array(content["mean"], dtype=float)
    assert values.shape == (17, 17)
    assert np.nanmin(values) >= 0


@pytest.mark.parametrize(
    "how",
    [
        ["--steps", "2", "--path", "straight", "--baseline", "white"],
        ["--steps", "2", "--path", "straight", "--baseline", "mean"],
        ["--steps", "2", "--path", "straight", "--baseline", "blur"],
        ["--steps", "2", "--noise", "0.01", "--power", "2"],
        ["--steps", "2", "--tolerance", "0.5"],
        ["--method", "gradcam"],
        ["--method", "integrated_gradients", "--steps", "2"],
        ["--method", "layercam", "--layers", "layer4", "layer3"],
        ["--method", "gradient_x_input"],
    ],
)
def test_other_ways_to_attribute(bench: Path, tmp_path: Path, how: list[str]) -> None:
    command = ["pose", "ig", *common(bench), "-o", str(tmp_path), "--ids", "0", *how]
    assert main(command) == 0
    kept = Stream(tmp_path, "ig").arrays("0")
    assert np.isfinite(kept["maps"]).all()
    assert np.isfinite(kept["DI"][kept["joints"]]).any()


def test_the_reference_asks_about_every_joint_and_stores_normalised_maps(bench: Path, tmp_path: Path) -> None:
    command = ["pose", "ig", *common(bench), "-o", str(tmp_path), "--ids", "1", "--reference"]
    assert main(command) == 0
    kept = Stream(tmp_path, "ig").arrays("1")
    assert kept["joints"].tolist() == list(range(17))
    assert kept["maps"].min() >= 0
    assert kept["maps"].max((1, 2)).tolist() == [1] * 17
    assert kept["steps"].tolist() == [50] * 17
    # against the template's loop in float64: straight kernels, left-hand folds, one joint at a time
    one = study(bench)
    loaded, _ = diagnosis.load(one, ["1"])
    assert loaded is not None
    net, x = copy.deepcopy(one.subject.module).double().eval(), loaded.batch.x.double()
    true = soft_argmax(loaded.batch.truth["heatmaps"].double())
    at = torch.arange(31, dtype=torch.float64) - 15
    square = at[:, None] ** 2 + at**2
    images = []
    for sigma in np.linspace(19, 0, 51):
        weight = torch.exp(-square / (2 * (sigma + 1e-5) ** 2))
        kernel = (weight / weight.sum()).expand(3, 1, 31, 31)
        wide = torch.nn.functional.pad(x, (15,) * 4, mode="reflect")
        images.append(torch.nn.functional.conv2d(wide, kernel, groups=3))
    for j in (0, 9):
        total = torch.zeros_like(x)
        for here, there in pairwise(images):
            point = here.clone().requires_grad_()
            score = torch.exp(-0.3 * (soft_argmax(net(point))[0, j] - true[0, j]).norm())
            total += torch.autograd.grad(score, point)[0] * (there - here)
        values = total.sum(1)[0].abs()
        np.testing.assert_allclose(kept["maps"][j], (values / values.max()).numpy(), atol=1e-4)


def height_of_peak(output: torch.Tensor, _batch: object) -> torch.Tensor:
    """A target of one's own: how sure the model is of each joint."""
    return output.flatten(2).amax(2)


def test_a_target_of_one_s_own(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = study(bench)
    how = diagnosis.Attribution(steps=2, places="even", score=height_of_peak)
    diagnosis.attribute(one, ["0"], how, tmp_path)
    kept = Stream(tmp_path, "ig").arrays("0")
    loaded, _ = diagnosis.load(one, ["0"])
    assert loaded is not None
    with torch.no_grad():
        heights = one.subject.module.eval()(loaded.batch.x).flatten(2).amax(2)[0]
    np.testing.assert_allclose(kept["scores"], heights.numpy()[kept["joints"]], rtol=1e-5)
    assert Stream(tmp_path, "ig").settings()["attribution"]["score"].endswith(":height_of_peak")
    assert main(["pose", "ig", *common(bench), *QUICK, "-o", str(tmp_path / "x"), "--score", "nowhere:f"]) == 2
    assert "no Python module 'nowhere'" in capsys.readouterr().err


def far_too_far(output: torch.Tensor, _batch: object) -> torch.Tensor:
    """A score that is 0 in float32, as exp(-0.3 d) is for a large d."""
    return torch.exp(-1e3 - output.abs().flatten(2).amax(2))


def pixels_of_one_s_own(crop: Crop) -> PoseData:
    """A data set of one's own: pictures and masks as arrays."""
    rng = np.random.default_rng(0)
    mask = np.zeros((200, 120), bool)
    mask[20:150, 30:90] = True
    centre, extent = frame((10, 10, 100, 180), crop)
    made = (
        Person(
            id=str(i),
            image_id=i,
            picture=rng.integers(0, 255, (200, 120, 3), dtype=np.uint8),
            centre=centre,
            extent=extent,
            joints=rng.uniform(20, 90, (17, 2)),
            weight=np.ones(17),
            segmentation=mask,
        )
        for i in range(2)
    )
    return PoseData(tuple(made), COCO_BODY, "arrays")


def test_a_data_set_of_one_s_own(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def made(data: Callable[[Crop], PoseData]) -> diagnosis.Study:
        options = Options(weights=bench / "net.pth", device="cpu")
        return diagnosis.study(config=experiment(bench / "net.yaml"), data=data, options=options)

    one = made(pixels_of_one_s_own)
    assert one.record()["data_sha256"] == made(pixels_of_one_s_own).record()["data_sha256"]
    other = replace(one.data, people=one.data.people[:1])
    assert other.sha256() != one.data.sha256()
    diagnosis.attribute(one, ["0"], diagnosis.Attribution(steps=1, places="even"), tmp_path / "python")
    assert set(Stream(tmp_path / "python", "ig").arrays("0", ["DI", "nothing"])) == {"DI"}
    kept = Stream(tmp_path / "python", "ig").arrays("0")
    assert kept["mask"].astype(float).mean() == pytest.approx(130 * 60 / np.prod(one.data.people[0].extent), rel=0.05)
    elsewhere = replace(one.data.people[0], joints=one.data.people[0].joints + 1)
    assert replace(one.data, people=(elsewhere, *one.data.people[1:])).sha256() != one.data.sha256()
    command = ["--cfg", str(bench / "net.yaml"), "--weights", str(bench / "net.pth"), "-o", str(tmp_path / "run")]
    function = f"{__name__}:pixels_of_one_s_own"
    assert main(["pose", "ig", *command, *QUICK, "--data", function]) == 0
    assert "are empty" not in capsys.readouterr().out
    flat = ["-o", str(tmp_path / "flat"), "--data", function, "--score", f"{__name__}:far_too_far"]
    assert main(["pose", "ig", *command[:4], *QUICK, *flat]) == 0
    assert "34 of 34 maps are empty: their scores do not change along the path" in capsys.readouterr().out
    assert main(["pose", "epe", *command, "--data", function]) == 0
    assert "AP" not in json.loads((tmp_path / "run" / "errors.json").read_text())
    for name, message in (
        (f"{__name__}:same", "the data set same failed with TypeError"),
        (f"{__name__}:QUICK", "is a list; expected a function"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        ("nowhere:f", "no Python module 'nowhere'"),
    ):
        assert main(["pose", "epe", *command, "--data", name]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(BadInput, match="is expected to give PoseData, found int"):
        made(lambda crop: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(BadInput, match=r"person 0: joints and weight .* found \(3, 2\) and \(3,\)"):
        replace(one.data, people=(replace(one.data.people[0], joints=np.ones((3, 2)), weight=np.ones(3)),))
    with pytest.raises(BadInput, match=r"a mask of \[9, 9\] does not fit"):
        diagnosis.read(replace(one.data.people[0], segmentation=np.ones((9, 9))), one.crop)


class Regressor(nn.Module):
    """A network that gives coordinates as shares of the input's sides, or in three dimensions."""

    def __init__(self, joints: int = 21, axes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 7, 8), nn.Tanh(), nn.Flatten(), nn.LazyLinear(joints * axes))
        self.shape = (joints, axes)
        self.body(torch.zeros(1, 3, 64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).view(-1, *self.shape)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_network_that_regresses_hands_in_three_dimensions(tmp_path: Path) -> None:
    path = SHARED / "rhd" / "test_rhd.json"
    made = diagnosis.study(
        model=Regressor(),
        data=path,
        kind="rhd",
        crop=Crop(size=(64, 64)),
        coordinates="camera",
        options=Options(device="cpu"),
    )
    how = diagnosis.Attribution(steps=4, places="even", path="straight", joints=("wrist", 4))
    ids = diagnosis.chosen(made)
    # the scores of an untrained network half a metre off are 0 in float32; the wrist's are tiny but not
    diagnosis.errors(made, ids, tmp_path)
    kept = Stream(tmp_path, "epe").arrays(ids[0])
    assert kept["predicted"].shape == (21, 3)
    assert np.isfinite(kept["EPE"]).all()
    diagnosis.attribute(made, ids[:1], how, tmp_path)
    # a finger runs from the wrist to its joint 4, and on to the tip, its joint 1: never back across the palm
    for person in made.data.people:
        real, across = (
            sum(np.linalg.norm(person.joints[a] - person.joints[b]) for a, b in bones)
            for bones in (made.data.skeleton.bones, HAND.bones)
        )
        assert real < 0.9 * across
    assert {(0, 4), (0, 8), (0, 20), (4, 3), (2, 1)} <= set(made.data.skeleton.bones)
    drawn = pose_report.pictures(tmp_path, ids[0], None, tmp_path / "pictures")
    assert [path.name for path in drawn] == ["0_grid.png"]
    assert (
        how.target(made).choose(torch.zeros(1, 21, 3), diagnosis.load(made, ids)[0].batch)["joints"].tolist()
        == [[0, 4]] * 3
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_a_network_that_regresses_shares_of_the_picture(tmp_path: Path) -> None:
    net = Regressor(17, 2)
    made = diagnosis.study(
        model=net,
        data=SHARED / "coco" / "test_coco.json",
        crop=Crop(size=(64, 64)),
        coordinates="unit",
        options=Options(device="cpu"),
    )
    how = diagnosis.Attribution(steps=4, places="even", path="straight")
    done = diagnosis.attribute(made, ["0", "1"], how, tmp_path, batch=2)
    assert (done.made, dict(done.failed)) == (2, {})
    diagnosis.errors(made, ["0"], tmp_path)
    loaded, _ = diagnosis.load(made, ["0"])
    assert loaded is not None
    kept = Stream(tmp_path, "epe").arrays("0")
    with torch.no_grad():
        away = net(loaded.batch.x)[0].numpy() * 64 - loaded.samples[0].joints
    shown = kept["weight"] > 0
    np.testing.assert_allclose(kept["EPE"][shown], np.linalg.norm(away, axis=-1)[shown], rtol=1e-4)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_real_people_from_a_detections_file(bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = SHARED / "coco"
    boxes = coco / "test_coco_det_AP_H_56.json"
    command = ["pose", "epe", *common(bench)[:4], "--data", str(coco), "-o", str(tmp_path), "--annotations"]
    command += [str(coco / "test_coco.json"), "TEST.USE_GT_BBOX", "False", "TEST.COCO_BBOX_FILE", str(boxes)]
    assert main([*command, "TEST.IMAGE_THRE", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "score below the threshold" in said
    assert "AP " in said
    capsys.readouterr()
    command[command.index(str(boxes))] = "none.json"
    assert main(command) == 2
    assert "for annotated boxes put TEST.USE_GT_BBOX True" in capsys.readouterr().err


def test_density_is_scipy_s_kernel_density() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    values = rng.random((24, 18)) ** 4
    values[4:9, 3:8] += 2
    rows, columns = np.indices(values.shape)
    kernel = stats.gaussian_kde(np.stack([rows.ravel(), columns.ravel()]), weights=values.ravel())
    theirs = kernel(np.stack([rows.ravel(), columns.ravel()])).reshape(values.shape)
    assert np.abs(pose.density(values) - theirs / theirs.max()).max() < 0.03
    assert pose.density(np.zeros((4, 4))).max() == 0


def test_rank_correlation_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    assert pose.rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ig", "-o", "x"], "give either a config"),
        (["ig", "-o", "x", "--model", "torch:a:b", "TEST.X", "1"], "--cfg was not given"),
        (["report", "nowhere", "--worst", "-1"], "--worst -1: expected 0 or more"),
        (["report", "nowhere"], "nowhere: holds no results of `loupe pose`"),
        (["epe", "-o", "x", "--cfg", "none.yaml"], "--cfg none.yaml: no such file"),
    ],
)
def test_bad_commands_are_one_line(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pose", *command]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_vitpose_of_transformers(tmp_path: Path) -> None:
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    body = VitPoseBackboneConfig(
        image_size=[256, 192], hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    VitPoseForPoseEstimation(VitPoseConfig(backbone_config=body, num_labels=17)).save_pretrained(tmp_path / "vit")
    one = diagnosis.study(
        model=f"transformers:{tmp_path / 'vit'}",
        data=SHARED / "coco" / "test_coco.json",
        options=Options(device="cpu"),
    )
    assert one.crop.heatmap == (48, 64)
    done = diagnosis.attribute(one, ["0"], diagnosis.Attribution(steps=2, places="even"), tmp_path / "run")
    assert (done.made, dict(done.failed)) == (1, {})
    assert np.isfinite(Stream(tmp_path / "run", "ig").arrays("0")["DI"]).sum() == 17


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "gradcamm"], "no method 'gradcamm'. Did you mean gradcam"),
        (["--method", "gradcam", "--layers", "layer9"], "no layer 'layer9' in this model"),
        (["--joints", "nosee"], "no joint 'nosee'. Did you mean nose?"),
        (["--tolerance", "0"], "--tolerance 0.0: expected more than 0"),
        (["--noise", "-1"], "--noise -1.0: expected 0 or more"),
        (["--batch", "0"], "--batch 0: expected 1 or more"),
        (["--power", "0"], "--power 0: expected 1 or more"),
        (["MODEL.SIGMA", "0"], "the spread of true heatmaps (MODEL.SIGMA, --sigma) is more than 0, found 0"),
        (["MODEL.NUM_JOINTS", "0"], "MODEL.NUM_JOINTS is 1 or more, found 0"),
        (["MODEL.EXTRA.WIDHT", "4"], "unknown key MODEL.EXTRA.WIDHT. Did you mean WIDTH?"),
    ],
)
def test_a_bad_option_leaves_no_run_behind(
    bench: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pose", "ig", *common(bench), "-o", str(tmp_path / "run"), "--ids", "0", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_pairs_may_stand_behind_options_of_several_values(bench: Path, tmp_path: Path) -> None:
    words = ["pose", "epe", "--cfg", str(bench / "net.yaml"), "--data", str(bench / "data"), "-o", str(tmp_path)]
    pairs = ["TEST.MODEL_FILE", str(bench / "net.pth"), "TEST.USE_GT_BBOX", "True"]
    assert main([*words, "--ids", "0", "1", *pairs]) == 0
    assert Stream(tmp_path, "epe").ids() == ["0", "1"]


def test_a_data_set_of_nobody_and_an_output_that_is_a_file(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = figures.write(tmp_path / "data", 2, seed=4)
    path = data / "annotations" / "person_keypoints_figures.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert main(["pose", "epe", *common(bench)[:4], "--data", str(data), "-o", str(tmp_path / "run")]) == 2
    assert "no sample to look at; left out: 2 crowd" in capsys.readouterr().err
    assert main(["pose", "epe", *common(bench), "-o", str(path)]) == 2
    assert "cannot be made a folder for results" in capsys.readouterr().err
    assert main(["pose", "epe", *common(bench), "-o", str(tmp_path / "run"), "--batch", "0"]) == 2
    assert "--batch 0: expected 1 or more" in capsys.readouterr().err


def test_what_chance_gives(bench: Path) -> None:
    found = diagnosis.chance(study(bench), ["0", "1"])
    assert found["uniform map"] == pytest.approx((1, 1))
    loaded, _ = diagnosis.load(study(bench), ["0", "1"])
    assert loaded is not None
    change = (loaded.batch.x - blurred(loaded.batch.x, 19.0)).abs().sum(1).numpy()
    shares = []
    for values, sample in zip(change, loaded.samples, strict=True):
        wide = np.zeros_like(sample.mask)
        for row, column in np.argwhere(sample.mask > 0):
            wide[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 1
        shares += [(values * wide).sum() / values.sum() / wide.mean()] * int(sample.weight.sum())
    assert found["change of the picture alone"][0] == pytest.approx(np.mean(shares), rel=1e-6)


@pytest.mark.parametrize("places", ["midpoint", "gauss-legendre"])
def test_other_places_on_the_template_s_path(bench: Path, tmp_path: Path, places: str) -> None:
    command = ["pose", "ig", *common(bench), "-o", str(tmp_path), "--ids", "0", "--steps", "40", "--places", places]
    assert main(command) == 0
    kept = Stream(tmp_path, "ig").arrays("0")
    assert np.abs(kept["completeness_residual"]).max() < 1e-3 * np.abs(kept["scores"]).max()


def nowhere(output: torch.Tensor, _batch: object) -> torch.Tensor:
    return output.nowhere


def test_a_run_in_which_everything_fails_says_why(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = [*common(bench), *QUICK, "--ids", "0", "1"]
    assert main(["pose", "ig", *words, "-o", str(tmp_path / "a"), "--score", f"{__name__}:nowhere"]) == 2
    said = capsys.readouterr().err
    assert "none of the 2 samples could be looked at: the score nowhere failed with AttributeError" in said
    shutil.copytree(bench / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "images")
    lost = [*common(bench)[:4], "--data", str(tmp_path / "data"), "-o", str(tmp_path / "b")]
    assert main(["pose", "epe", *lost]) == 2
    assert "none of the 6 samples could be looked at" in capsys.readouterr().err
    assert main(["pose", "ig", *words[:-1], "-o", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    assert main(["pose", "depend", *common(bench), "--ids", "4", "-o", str(tmp_path / "c")]) == 2
    assert "none of the chosen samples has a map" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kept", "bones"),
    [
        ([[0, 1], [1, 2]], [(0, 1), (1, 2)]),
        ([[-1, 0], [0, 1]], [(0, 1), (1, 2)]),
        ([[0, 1], [2, 7]], [(0, 1)]),
    ],
)
def test_bones_that_earlier_versions_kept_wrongly(
    tmp_path: Path, kept: list[list[int]], bones: list[tuple[int, int]]
) -> None:
    Stream(tmp_path, "epe").begin({"skeleton": {"joints": ["a", "b", "c"], "bones": kept}})
    assert pose_report.Run(tmp_path).bones() == bones


def test_a_score_that_was_wrong_can_be_corrected_in_the_same_folder(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was made, so that nothing could be mixed; what was made by the function's earlier text is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path, run = tmp_path / "own_score.py", tmp_path / "run"

    def asked(text: str, steps: int) -> int:
        path.write_text(f"def score(output, batch):\n    return {text}\n")
        sys.modules.pop("own_score", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        words = ["pose", "ig", *common(bench), "--places", "even", "--steps", str(steps), "--ids", "0", "-o", str(run)]
        return main([*words, "--score", "own_score:score"])

    assert asked("output.nowhere", 2) == 2
    assert Stream(run, "ig").failed().keys() == {"0"}
    assert asked("output.flatten(2).amax(2)", 3) == 0
    assert Stream(run, "ig").settings()["attribution"]["steps"] == 3
    assert not Stream(run, "ig").failed()
    capsys.readouterr()
    assert asked("output.flatten(2).mean(2)", 3) == 2
    assert "holds results made with attribution.score_sha256" in capsys.readouterr().err


def test_a_job_is_plain_data_that_any_process_opens(bench: Path, done: Path) -> None:
    model = {"cfg": str(bench / "net.yaml"), "weights": str(bench / "net.pth"), "device": "cpu"}
    data = {"data": str(bench / "data"), "ids": [3, 1]}
    job = Job("pose maps", model=model, data=data, ask={"steps": 2, "places": "even"})
    work = Job.parse(json.dumps(job.plain())).open()
    assert work.ids() == ["3", "1"]
    settings = {name: value for name, value in Stream(done, "ig").settings().items() if name != "command"}
    assert json.loads(json.dumps(work.about())) == settings
    ((id, found),) = work.do(["3"])
    assert same({id: dict(found.arrays)}, {"3": contents(done)["3"]})
    assert kinds.kind("ig").read(*Stream(done, "ig").read("3")).row().keys() == {"DI", "FI", "LI"}
    assert kinds.kind("epe").read(*Stream(done, "epe").read("3")).row()["person"] == "3"


def test_dependency_goes_on_where_it_stopped_and_without_what_fails(
    bench: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bench / "data", tmp_path / "data")
    shutil.copytree(done, tmp_path / "run", ignore=shutil.ignore_patterns("depend*"))
    lost = tmp_path / "data" / "images" / "figures" / "000001.png"
    kept = lost.read_bytes()
    lost.unlink()
    words = ["pose", "depend", *common(bench)[:4], "--data", str(tmp_path / "data"), "-o", str(tmp_path / "run")]
    assert main([*words, "--max-samples", "3"]) == PARTLY
    assert "2 samples made, 0 were there, 1 failed" in capsys.readouterr().out
    lost.write_bytes(kept)
    assert main([*words, "--max-samples", "3"]) == 0
    assert "1 samples made, 2 were there, 0 failed" in capsys.readouterr().out
    held = json.loads((tmp_path / "run" / "dependency.json").read_text())
    stored = [Stream(tmp_path / "run", "depend").arrays(id)["D"] for id in ("0", "1", "2")]
    expected = np.nanmean(np.stack(stored), 0)
    np.testing.assert_allclose(np.array(held["mean"], dtype=float), expected)
