"""`loupe runs`: what lies in a folder, whether it is whole, what can be taken along."""

from __future__ import annotations

import csv
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import zarr
from PIL import Image

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput, MissingPackage
from torchloupe.runs.export import to_fiftyone
from torchloupe.runs.found import results

TESTS = Path(__file__).parent
MODEL = ["--model", "torch:tiny:colours", "--size", "64", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", (220, 30, 30)), ("b", (30, 220, 30)), ("c", (30, 30, 220))):
        Image.new("RGB", (64, 64), colour).save(f"{name}.png")
    (tmp_path / "d.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture(params=["files", "shards"])
def run(request: pytest.FixtureRequest, folder: Path) -> Path:
    assert main(["cam", "a.png", "b.png", "c.png", "d.png", *MODEL, "--save", "out", "--store", request.param]) == 3
    return folder / "out"


def test_what_lies_in_a_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["runs", str(run), "--verify"]) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{run}: 3 maps, 1 left out, 0.")
    assert "model torch:tiny:colours; layers stage; methods gradcam; target" in said[1]
    assert re.fullmatch(r"  the last run made 3 in \d+\.\d s, [\d.e+]+ a second", said[2])
    assert said[3].startswith("  left out: d: d.png: not a picture")
    assert said[4] == "  verified: whole"


def test_what_was_left_out_is_asked_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {id: results(run).store.read(id).arrays["map/gradcam/stage"] for id in ("a", "b", "c")}
    assert main(["runs", str(run), "--retry-failed"]) == 3
    Image.new("RGB", (64, 64), (220, 220, 30)).save("d.png")
    capsys.readouterr()
    assert main(["runs", str(run), "--retry-failed"]) == 0
    assert capsys.readouterr().out.startswith(f"{run}: 1 made, 0 still left out\n{run}: 4 maps, 0 left out")
    found = results(run)
    assert list(found) == ["a", "b", "c", "d"]
    assert all(np.array_equal(before[id], found.store.read(id).arrays["map/gradcam/stage"]) for id in before)
    assert main(["cam", "d.png", *MODEL, "--save", "alone", "--store", "files"]) == 0
    alone = results("alone").store.read("d").arrays["map/gradcam/stage"]
    np.testing.assert_allclose(found.store.read("d").arrays["map/gradcam/stage"], alone, rtol=1e-5)


def test_what_is_there_is_not_asked_with_what_was_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cam", "a.png", "d.png", *MODEL, "--save", "out", "--store", "files", "--again"]) == 3
    capsys.readouterr()
    assert main(["runs", "out", "--retry-failed"]) == 3
    assert capsys.readouterr().out.startswith("out: 0 made, 1 still left out\n")


def test_asking_again_needs_to_know_what_and_where(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TESTS)
    assert main(["runs", str(run), "--retry-failed"]) == 2
    assert f"was asked in {run.parent}, where its relative paths begin" in capsys.readouterr().err
    (run / ".job.json").unlink()
    assert main(["runs", str(run), "--retry-failed"]) == 2
    assert "does not say how it was asked" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "most"), [("float16", 2**-11), ("uint8", 1 / 510)])
def test_maps_of_fewer_bits(folder: Path, precision: str, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    for name, picture in zip("ab", noise, strict=True):
        Image.fromarray(picture).save(f"{name}.png")
    asked = ["cam", "a.png", "b.png", *MODEL, "--store", "shards"]
    assert main([*asked, "--save", "exact"]) == 0
    assert main([*asked, "--save", "out", "--precision", precision]) == 0
    for id in ("a", "b"):
        want, got = (results(name).store.read(id).arrays["map/gradcam/stage"] for name in ("exact", "out"))
        assert got.dtype == np.float32
        assert 0 < np.abs(got - want).max() <= most * want.max() * 1.001
    assert main([*asked, "--save", "out"]) == 2
    assert "made with precision" in capsys.readouterr().err
    assert main(["cam", "a.png", *MODEL, "--save", "files", "--store", "files", "--precision", precision]) == 2
    assert "files keep all digits; shards round (--store shards)" in capsys.readouterr().err


def test_what_has_changed_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), (1, 2, 3)).save("b.png")
    Path("c.png").unlink()
    capsys.readouterr()
    assert main(["runs", str(run), "--verify"]) == 3
    said = capsys.readouterr()
    assert "b: its source b.png has changed since" in said.err
    assert "c: its source c.png is gone" in said.err
    assert "a:" not in said.err
    assert "whole" not in said.out


def test_a_table_and_the_arrays_are_taken_along(run: Path, folder: Path) -> None:
    found = results(run)
    assert main(["runs", str(run), "--table", "t.csv", "--export", "npz"]) == 3
    assert main(["runs", str(run), "--table", "t.parquet", "--export", "all.zarr"]) == 3
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [float(row["score"]) for row in rows] == pytest.approx([row["score"] for row in found.table])
    assert parquet.read_table("t.parquet").to_pylist() == found.table
    held = zarr.open_group("all.zarr", mode="r")
    for id in "abc":
        want = found[id].maps["gradcam", "stage"]
        np.testing.assert_array_equal(store.load_arrays(f"npz/{id}.npz")["map/gradcam/stage"], want)
        np.testing.assert_array_equal(np.asarray(held[id]["map/gradcam/stage"]), want)
    for words, told in (
        (["--table", "t.txt"], "expected .csv or .parquet"),
        (["--export", "npz"], "holds something already"),
    ):
        assert main(["runs", str(run), *words]) == 2, told


def test_bad_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ([], "name a folder of results"),
        (["nothing"], "no such folder"),
        ([str(folder)], "no results in this folder"),
    ):
        assert main(["runs", *words]) == 2
        assert told in capsys.readouterr().err


def test_heatmaps_for_fiftyone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside FiftyOne's documented classes: it is not installed for the tests, since it brings a database along."""
    if "fiftyone" not in sys.modules:
        with pytest.raises(MissingPackage, match=r"torchloupe\[fiftyone\]"):
            to_fiftyone(results(run))
    made = types.ModuleType("fiftyone")

    class Sample(dict[str, Any]):
        def __init__(self, filepath: str) -> None:
            super().__init__(filepath=filepath)

    class Dataset(list[Any]):
        def __init__(self, name: str) -> None:
            self.name = name

        add_sample = list.append

    made.Sample, made.Dataset, made.Heatmap = Sample, Dataset, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", made)
    dataset = to_fiftyone(results(run), "mine")
    assert dataset.name == "mine"
    assert [sample["filepath"] for sample in dataset] == ["a.png", "b.png", "c.png"]
    label = next(value for key, value in dataset[0].items() if key.startswith("gradcam_stage"))
    np.testing.assert_array_equal(label["map"], results(run)["a"].maps["gradcam", "stage"][0, 0])
    assert label["range"] == [label["map"].min(), label["map"].max()]
    (run / "left-out.json").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="no results in this folder"):
        to_fiftyone(results(run.parent))
