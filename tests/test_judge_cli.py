"""loupe judge and loupe sane: runs over many pictures, truth in everybody's formats, the order of methods, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gait_fixtures import write_config, write_walkers
from PIL import Image

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import PARTLY, BadInput, BadSample
from torchloupe.gait import about_walk, embed_gallery
from torchloupe.kinds.judged import Judged
from torchloupe.methods.registry import named
from torchloupe.metrics.statistics import Rank, holm, interval, ranking, sign_flip
from torchloupe.metrics.verdict import verdicts
from torchloupe.render.judgement import drawn, order, without
from torchloupe.render.style import Style
from torchloupe.sources.opengait import gait
from torchloupe.sources.places import Thing, _counts, _run_lengths, places, with_places
from torchloupe.sources.sequences import sequences
from torchloupe.store import load
from torchloupe.targets.retrieval import Nearest

MODEL = ["--model", "torch:tiny:colours", "--size", "32"]
QUICK = ["--metric-option", "steps=4", "percentiles=30,70"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with a bright square in one colour, and where it is."""
    folder = tmp_path_factory.mktemp("judge")
    rng = np.random.default_rng(0)
    boxes = {}
    for i in range(4):
        picture = rng.integers(0, 90, (40, 40, 3)).astype(np.uint8)
        top, left = (int(one) for one in rng.integers(4, 24, 2))
        picture[top : top + 12, left : left + 12, i % 3] = 250
        (folder / "in").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / "in" / f"p{i}.png")
        boxes[f"p{i}.png"] = [[left, top, left + 12, top + 12]]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


def table(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return {(row["number"], row["map"]): row for row in csv.DictReader(file)}


def test_pictures_are_judged_and_go_on(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "judge",
        str(home / "in"),
        *MODEL,
        "--layers",
        "stage",
        "--method",
        "gradcam",
        "occlusion",
        *QUICK,
        "--rank",
        "--draw",
        "none",
    ]
    out = home / "judged"
    assert main([*words, "--save", str(out)]) == 0
    said, told = capsys.readouterr()
    assert "budget: at most" in told
    assert "softmax, the probability of the class" in told
    assert "order by deletion, 4 samples" in said
    assert "chance: random" in said
    assert {path.name for path in out.iterdir()} >= {"p0.npz", "p0.json", "table.csv", "curves.png", "rank.png"}
    rows = table(out)
    subject = loupe.subject("torch:tiny:colours", size=[32])
    batch = loupe.pictures([home / "in" / f"p{i}.png" for i in range(4)], subject)
    probe = loupe.Probe(subject, ("stage",), loupe.Top(1))
    maps = {"gradcam": loupe.gradcam(probe, batch), "occlusion": loupe.occlusion(probe, batch)}
    found = loupe.judge(probe, batch, maps, value="softmax", steps=4, percentiles=(30, 70))
    for row in found.rows():
        assert float(rows[row.number, row.map]["mean"]) == pytest.approx(row.mean, abs=1e-5), row
        assert int(rows[row.number, row.map]["control"]) == row.control
    one = Judged.read(*load(out / "p2.npz"))
    assert one.curves["deletion"].value["gradcam/stage"].tolist()[0] == pytest.approx(
        found.curves["deletion"].value["gradcam/stage"][0, 2].tolist(), abs=1e-5
    )
    assert one.row()["road occlusion/input"] == pytest.approx(
        found["road"].value["occlusion/input"][0, 2].item(), abs=1e-5
    )
    # what is stored as taken away is what the model was not shown
    line = one.curves["deletion"]
    assert line.fill == "zero"
    assert set(line.taken) == {"gradcam/stage", "occlusion/input"}
    for name, gone in line.taken.items():
        assert gone.shape == (1, 1, 32, 32)
        for p, share in enumerate(line.at):
            keep = gone[0, 0] > p
            assert (~keep).mean() == pytest.approx(share)
            left = subject.module(batch.x[2:3] * torch.from_numpy(keep)).softmax(1)[0, int(one.questions[0])]
            assert left.item() == pytest.approx(line.value[name][0, p], abs=1e-5)
    assert (one.curves["insertion"].taken["gradcam/stage"] == 5).sum() == 0
    shown = without(one.picture, line.taken["gradcam/stage"][0] <= 2, Style())[0]
    assert np.array_equal((shown == 128).all(-1), line.taken["gradcam/stage"][0, 0] <= 2)
    before = (out / "p1.npz").stat().st_mtime_ns
    assert main([*words, "--save", str(out)]) == 0
    assert "budget" not in capsys.readouterr().err
    assert (out / "p1.npz").stat().st_mtime_ns == before
    assert main(["draw", str(out / "p2.npz"), "--save", str(home / "again"), "--compare"]) == 0
    drawings = {"p2-grid.png", "curves.png", *(f"p2-removed-{name}.png" for name in one.curves)}
    assert {path.name for path in (home / "again").iterdir()} == drawings
    with Image.open(home / "again" / "p2-removed-deletion.png") as drawn_one:
        assert drawn_one.width > 500
    kept = one.only(("occlusion",), (), one.questions)
    assert kept.numbers["road"].value["gradcam/stage"].shape == (1,)
    assert one.only(targets=(one.questions[0],)).arrays().keys() == one.arrays().keys()


def test_maps_on_disk_are_judged(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = home / "run"
    assert main(["cam", str(home / "in"), *MODEL, "--layers", "stem", "--method", "gradcam", "--save", str(run)]) == 0
    words = [
        "judge",
        str(run),
        "--metric",
        "pointing",
        "mass",
        "road",
        "--truth",
        str(home / "boxes.json"),
        "--draw",
        "none",
    ]
    assert main([*words, "--metric-option", "tolerance=0", "percentiles=50,"]) == 0
    rows = table(home / "run-judged")
    assert float(rows["pointing", "gradcam/stem"]["mean"]) == 1
    assert float(rows["pointing", "gradcam/stem"]["chance"]) == pytest.approx((12 / 35) ** 2, abs=0.01)
    assert float(rows["mass", "gradcam/stem"]["mean"]) > 2 * float(rows["mass", "random 32x32"]["mean"])
    capsys.readouterr()
    other = ["judge", str(run), "--model", "torch:tiny:random", "--metric", "road"]
    assert main(other) == 2
    assert "the maps were made with weights" in capsys.readouterr().err
    assert main(["judge", str(run), "--method", "layercam"]) == 2
    assert "--method: the maps of" in capsys.readouterr().err
    assert main(["judge", str(run), "--save", str(run)]) == 2
    assert "is the folder of the maps itself" in capsys.readouterr().err
    changed = json.loads((run / "p3.json").read_text())
    changed["asked"]["target"] = ["1"]
    (run / "p3.json").write_text(json.dumps(changed))
    assert main(["judge", str(run), "--metric", "road"]) == 2
    assert "several questions" in capsys.readouterr().err


def test_maps_on_disk_are_judged_by_the_model_as_it_was_loaded(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = home / "lay"
    model = ["--model", "torch:tiny:tokens", "--size", "32", "48", "--mean", "0.4", "0.4", "0.4"]
    said = ["--layout", "block=n (h w) c", "--layout-sizes", "h=4", "w=6", "--num-extra-tokens", "1"]
    words = ["cam", str(home / "in"), *model, *said, "--layers", "block", "--draw", "none", "--save", str(run)]
    assert main([*words, "--method", "gradcam", "eigencam"]) == 0
    assert main(["judge", str(run), "--metric", "deletion", "shape", "--draw", "none"]) == 0
    for i in range(4):
        was, now = (json.loads((folder / f"p{i}.json").read_text()) for folder in (run, home / "lay-judged"))
        for key in ("layouts", "layout_sizes", "extra_tokens", "size", "mean"):
            assert now["asked"][key] == was["asked"][key], key
        assert now["layers"] == was["layers"]
    capsys.readouterr()
    for more, told in (
        (["--size", "32", "32"], "the maps were made with size [32, 48], these are with [32, 32]"),
        (["--num-extra-tokens", "2"], "made with extra_tokens 1, these are with 2"),
        (["--model", "torch:tiny:tokens", "--std", "0.5", "0.5", "0.5"], "made with std None, these are with"),
    ):
        assert main(["judge", str(run), *more, "--metric", "shape", "--save", str(home / "lay2")]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert "Traceback" not in err


def test_a_picture_that_changed_or_broke_is_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = home / "own"
    own.mkdir()
    for i in range(2):
        (own / f"p{i}.png").write_bytes((home / "in" / f"p{i}.png").read_bytes())
    (own / "broken.png").write_text("no picture")
    words = ["judge", str(own), *MODEL, "--metric", "shape", "--draw", "none", "--save", str(home / "part")]
    assert main(words) == PARTLY
    assert "INCOMPLETE: 2 of 3 pictures done" in capsys.readouterr().err
    assert main([*words, "--strict", "--again"]) == 2
    (own / "broken.png").unlink()
    assert main(["cam", str(own), *MODEL, "--save", str(home / "own-run")]) == 0
    Image.new("RGB", (40, 40), "green").save(own / "p0.png")
    assert main(["judge", str(home / "own-run"), "--metric", "shape", "--draw", "none"]) == PARTLY
    assert "is not the picture that p0 was made of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metric", "pointing"], "needs to know where things are; give --truth"),
        (["--truth", "{home}/boxes.json"], "none of deletion, insertion, road looks at it"),
        (["--metric", "mass", "--truth", "{home}/absent.json"], "absent.json: cannot be read"),
        (["--metric", "roda"], "no metric 'roda'. Did you mean road"),
        (["--metric-option", "step=7"], "step 7 does not divide the picture's 1024 cells"),
        (["--metric-option", "fill=grey"], "no fill 'grey'"),
        (["--metric-option", "tolerance=3"], "no option 'tolerance' in deletion, insertion, road"),
        (["--rank"], "--rank orders methods or layers; name at least two"),
        (["--chunk", "0"], "--chunk 0: expected 1 or more"),
        (["--metric", "completeness", "--value", "softmax"], "take 'score'"),
    ],
)
def test_bad_options(home: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.format(home=home) for word in words]
    assert main(["judge", str(home / "in" / "p0.png"), *MODEL, "--save", str(home / "bad"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_cam_with_metrics_gives_the_numbers_of_judge(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "cam-metrics"
    words = ["cam", f"folder:{home / 'in'}", *MODEL, "--layers", "stage", "stem", "--draw", "none", "--save", str(out)]
    asked = [*words, "--metrics", "deletion", "road", "shape"]
    assert main(asked) == 0
    said, told = capsys.readouterr()
    assert "deletion (lower is better)" in said
    assert "gradcam/stem" in said
    assert "chance: random" not in said
    assert "value: softmax" in told
    subject = loupe.subject("torch:tiny:colours", size=[32])
    batch = loupe.pictures([home / "in" / f"p{i}.png" for i in range(4)], subject)
    probe = loupe.Probe(subject, ("stage", "stem"), loupe.Top(1))
    maps = {"gradcam": loupe.gradcam(probe, batch)}
    found = loupe.judge(probe, batch, maps, ("deletion", "road", "shape"), chance=False, value="softmax")
    rows = {row["id"]: row for row in loupe.results(out).table}
    for name, number in found.numbers.items():
        for key, value in number.value.items():
            for i in range(4):
                column = rows[f"p{i}"][f"{name} {key}"]
                if value[0, i].isnan():
                    assert column is None or np.isnan(column)
                else:
                    assert column == pytest.approx(value[0, i].item(), abs=2e-5), (name, key)
    assert main(asked) == 0
    assert "deletion (lower is better)" in capsys.readouterr().out
    assert main([*words, "--metrics", "pointing"]) == 2
    assert "needs to know where things are" in capsys.readouterr().err
    assert main([*words, "--metrics", "road", "--aug-smooth"]) == 2
    assert "--metrics: with --aug-smooth a map answers for six inputs" in capsys.readouterr().err


def test_a_score_that_is_not_finite_is_left_out_by_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "dark"
    folder.mkdir()
    Image.new("RGB", (40, 40), "black").save(folder / "night.png")
    (folder / "p0.png").write_bytes((home / "in" / "p0.png").read_bytes())
    model = ["--model", "torch:tiny:sick", "--size", "32", "--mean", "0.5", "0.5", "0.5", "--std", "0.4", "0.4", "0.4"]
    words = ["judge", str(folder), *model, "--draw", "none", "--method", "gradcam", "--metric", "shape"]
    for command in (words, ["sane", str(folder), *model]):
        assert main([*command, "--save", str(home / f"night-{command[0]}")]) == PARTLY
        err = capsys.readouterr().err
        assert "the model's output is not finite (NaN or infinite) for" in err
        assert "night.png" in err
        assert "Traceback" not in err


def test_clip_is_judged_and_its_text_tower_is_left_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from test_texts import network, tokenizer

    network("clip").save_pretrained(tmp_path / "clip")
    tokenizer(tmp_path / "clip")
    files = [str(home / "in" / f"p{i}.png") for i in range(2)]
    model = ["--model", f"transformers:{tmp_path / 'clip'}", "--device", "cpu"]
    asked = ["--target", "a dog", "red car - a car"]
    words = ["sane", *files, *model, *asked, "--blocks", "4", "--no-stability", "--save", str(tmp_path / "sane")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert any(line.startswith("gradcam ") and "SSIM" in line for line in said.splitlines())
    blocks = json.loads((tmp_path / "sane" / "p0.json").read_text())["judged"]["blocks"]
    assert blocks
    assert not [name for name in blocks if "text" in name]
    assert any("vision" in name or "visual" in name for name in blocks)
    run = tmp_path / "run"
    some = ["--templates", "a photo of {}", "--draw", "none", "--save", str(run)]
    assert main(["cam", *files, *model, *asked, *some]) == 0
    assert main(["judge", str(run), "--metric", "deletion", "--metric-option", "steps=2", "--draw", "none"]) == 0
    record = json.loads((tmp_path / "run-judged" / "p1.json").read_text())
    assert record["asked"]["templates"] == ["a photo of {}"]
    assert record["questions"] == ["a dog", "red car - a car"]


def test_no_model_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(home / "in" / "p0.png")]) == 2
    assert "--model: missing" in capsys.readouterr().err
    assert main(["judge", str(home / "in" / "p0.png"), *MODEL, "--save", str(home / "x.png")]) == 2
    assert "a judgement is many files, give a folder" in capsys.readouterr().err


def test_sane_says_a_sentence_a_method(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "sane"
    words = [
        "sane",
        str(home / "in"),
        "--model",
        "torch:tiny:random",
        "--size",
        "32",
        "--layers",
        "stem",
        "--method",
        "gradcam",
    ]
    assert main([*words, "guided_backprop", "--batch-size", "2", "--save", str(out)]) == 0
    said = capsys.readouterr().out
    assert sum(line.startswith(("gradcam ", "guided_backprop ")) for line in said.splitlines()) == 2
    assert ("ssim", "gradcam/stem") in table(out)
    assert ("label_ssim", "gradcam/stem") in table(out)
    assert (out / "curves.png").stat().st_size > 5000


def test_truth_is_read_in_everybodys_formats(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    file = tmp_path / "a.png"
    wanted = np.zeros((20, 30), bool)
    wanted[5:9, 10:16] = True
    (tmp_path / "own.json").write_text(json.dumps({"a.png": [[10, 5, 16, 9]]}))
    flat = wanted.T.flatten().astype(int)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], flat, [-1]])))).tolist()
    whole = {
        "images": [{"id": 1, "file_name": "val/a.png", "height": 20, "width": 30}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    one = {"image_id": 1, "category_id": 7, "bbox": [10, 5, 6, 4]}
    (tmp_path / "box.json").write_text(json.dumps({**whole, "annotations": [one]}))
    rle = {**one, "segmentation": {"size": [20, 30], "counts": runs}}
    (tmp_path / "rle.json").write_text(json.dumps({**whole, "annotations": [rle]}))
    voc = tmp_path / "voc"
    voc.mkdir()
    (voc / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>30</width><height>20</height></size><object><name>cat</name>"
        "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>16</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    masks = tmp_path / "masks"
    masks.mkdir()
    level = np.where(wanted, 2, 0).astype(np.uint8)
    level[0, 0] = 255
    Image.fromarray(level).save(masks / "a.png")
    for name in ("own.json", "box.json", "rle.json", "voc", "masks"):
        (thing,) = places(tmp_path / name).of(file)
        assert np.array_equal(thing.drawn(20, 30), wanted), name
    outline = {**one, "segmentation": [[10, 5, 15, 5, 15, 8, 10, 8]]}
    (tmp_path / "polygon.json").write_text(json.dumps({**whole, "annotations": [outline]}))
    (thing,) = places(tmp_path / "polygon.json").of(file)
    assert np.array_equal(thing.drawn(20, 30), wanted)
    assert np.array_equal(Thing(point=(3.0, 4.0)).drawn(20, 30).nonzero(), [[4], [3]])


def test_packed_run_lengths_are_those_of_coco() -> None:
    # written by hand from the format: 5 bits and a sign at a time, differences from the third on
    def packed(counts: list[int]) -> str:
        text = ""
        for i, count in enumerate(counts):
            value, more = count - counts[i - 2] if i > 2 else count, True
            while more:
                bits, value = value & 31, value >> 5
                more = value != -1 if bits & 16 else value != 0
                text += chr((bits | 32 if more else bits) + 48)
        return text

    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.integers(1, 400, 9).tolist()
        assert _counts(packed(counts)) == counts
    assert _run_lengths([1, 2, 3], 3, 2).tolist() == [[False, False], [True, False], [True, False]]
    with pytest.raises(ValueError, match="run lengths of 6 pixels"):
        _run_lengths([1, 2, 3], 3, 3)


def test_truth_goes_through_the_preparation_and_by_class(home: Path) -> None:
    subject = loupe.subject("torch:tiny:colours", size=[32])
    files = [home / "in" / f"p{i}.png" for i in range(2)]
    batch = loupe.pictures(files, subject)
    known = json.loads((home / "boxes.json").read_text())
    told = {
        "p0.png": [{"box": known["p0.png"][0], "name": "red"}, {"box": [0, 0, 4, 40], "name": "green"}],
        "p1.png": [{"box": known["p1.png"][0], "name": "green"}],
    }
    (home / "named.json").write_text(json.dumps(told))
    found, said = with_places(places(home / "named.json"), batch, files, [["red", "red"], ["blue", "green"]], subject)
    assert said == [f"--truth: no class 'blue' in {home / 'named.json'}; all its objects count as the place"]
    place, others = found.truth["place"], found.truth["others"]
    assert place.shape == (2, 2, 1, 32, 32)
    bright = batch.pictures[0, 0, :, :, 0] > 170
    overlap = (place[0, 0, 0] & bright).sum() / (place[0, 0, 0] | bright).sum()
    assert overlap > 0.9
    assert not place[1, 0].any()
    assert place[1, 1].any()
    assert place[0, 1].sum() > place[0, 0].sum()
    assert others[0, 0].any()
    assert not (others & place).any()


def test_odd_truth_is_refused(tmp_path: Path, home: Path) -> None:
    def told(text: str) -> Path:
        (tmp_path / "t.json").write_text(text)
        return tmp_path / "t.json"

    for text, said in (
        ("{", "not JSON"),
        ("[1]", "found list"),
        ('{"a.png": 3}', "holds int; expected a list of boxes"),
        ('{"a.png": [[1, 2, 3]]}', "expected \\[left, top, right, bottom\\]"),
        ('{"a.png": [[5, 5, 5, 9]]}', "has no area"),
        ('{"images": [{"id": 1}], "annotations": []}', "not COCO as it is written"),
    ):
        with pytest.raises(BadInput, match=said):
            places(told(text))
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "a.xml").write_text("<a><object><name>x</name></object></a>")
    with pytest.raises(BadInput, match="an object without bndbox"):
        places(tmp_path / "voc")
    (tmp_path / "voc" / "a.xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    with pytest.raises(BadInput, match="declares entities"):
        places(tmp_path / "voc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no VOC file"):
        places(tmp_path / "empty")
    subject = loupe.subject("torch:tiny:colours", size=[32])
    file = home / "in" / "p0.png"
    batch = loupe.pictures([file], subject)
    sized = {"images": [{"id": 1, "file_name": "p0.png", "height": 9, "width": 9}], "annotations": []}
    with pytest.raises(BadSample, match="is 40 x 40, .* tells of 9 x 9"):
        with_places(places(told(json.dumps(sized))), batch, [file], [["0"]], subject)
    with pytest.raises(BadSample, match="does not tell where things are in it"):
        with_places(places(told('{"other.png": [[1, 1, 3, 3]]}')), batch, [file], [["0"]], subject)


def test_statistics() -> None:
    from scipy import stats

    rng = np.random.default_rng(0)
    values = rng.normal(1, 1, 40)
    low, high = interval(values)
    error = stats.sem(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert np.isnan(interval(np.array([1.0]))).all()
    few = np.array([0.5, -0.2, 0.9, 1.1, np.nan])
    exact = stats.permutation_test((few[:4],), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(few) == pytest.approx(exact)
    assert sign_flip(values) == pytest.approx(1e-4, abs=1e-9)
    assert holm([0.01, 0.04, float("nan"), 0.03]) == pytest.approx([0.03, 0.06, float("nan"), 0.06], nan_ok=True)
    better = rng.normal(0, 1, 60)
    found = ranking(
        {"a": better, "b": better - 0.5 + 0.1 * rng.normal(size=60), "c": better - 0.001 * rng.normal(size=60)}, "high"
    )
    assert [one.name for one in found][2] == "b"
    assert found[2].behind == pytest.approx(0.5, abs=0.05)
    assert found[2].p < 0.001
    assert found[1].p > 0.05
    assert (found[2].low, found[2].high) == (3, 3)
    turned = ranking({"a": better, "b": better - 0.5}, "low")
    assert [one.name for one in turned] == ["b", "a"]
    assert ranking({"a": np.array([np.nan]), "b": np.array([1.0])}, "low")[0].n == 0


def test_sentences() -> None:
    line = {
        "guided/input": [0.97, 0.93, 0.2],
        "cam/4": [0.1, 0.0, 0.0],
        "edge/input": [1.0, 1.0, 1.0],
        "none/a": [float("nan")] * 3,
    }
    said = verdicts(line, ("head", "c2", "c1"), other=0.3, outline={"edge/input": 0.9})
    assert said == [
        "guided does not depend on the last 2 of 3 blocks (SSIM .93, maps of other pictures .30)",
        "cam depends on the last block already (head: SSIM .10, maps of other pictures .30)",
        "edge does not depend on the weights at all (SSIM 1.00, maps of other pictures .30): it shows edges, not reasons",
        "none: no verdict, its maps of the randomised network are empty or cannot be had",
    ]
    alone = verdicts(
        {"a/b": [0.9, 0.1]}, ("x", "y"), other=float("nan"), outline={}, order="bottom_up", independent=True
    )
    assert alone == ["a does not depend on x (SSIM at least .90)"]
    assert verdicts({"a/b": [0.9, 0.8]}, ("x", "y"), other=0.95, outline={})[0].startswith(
        "a depends on the last block already (x: SSIM .90"
    )


def test_names_are_never_mathematics() -> None:
    lines = {"$x_{$": np.random.default_rng(0).random((3, 4))}
    figure = drawn({"deletion": (np.linspace(0, 1, 4), lines)}, (), (), "$\\frac{")
    figure.savefig("/dev/null", format="png")
    text = order({"road": [Rank("a/b", 0.5, 1, 1, 1, 0, 0, 0, float("nan"), 3)]}, {"a": 0.002})
    assert "2.0" in text[-1]


@pytest.fixture(scope="module")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walkers")
    write_walkers(folder, frames=3)
    write_config(folder, "gaitset")
    return folder


def test_walks_are_judged_and_those_on_disk_alike(
    walkers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(walkers)
    monkeypatch.setenv("XDG_CACHE_HOME", str(walkers / "cache"))
    asked = ["-c", "gaitset.yaml", "-w", "gaitset.pt", "-p", "Probe", "-g", "Gallery", "--device", "cpu"]
    layers = ["-l", "set_block1", "gl_block3"]
    few = ["--metric-option", "steps=2", "percentiles=50,"]
    numbers = ["deletion", "road"]
    words = ["gait", "judge", *asked, *layers, "--method", "gradcam", "layercam", "--rank", *few]
    assert main([*words, "--metrics", *numbers, "--draw", "sample:1", "-s", "direct"]) == 0
    said, told = capsys.readouterr()
    assert "order by deletion_space, 2 samples" in said
    assert "budget: at most" in told
    names = {path.name for path in (walkers / "direct").iterdir()}
    assert {f"000-bg-01-090-removed-{curve}.png" for curve in ("deletion", "deletion_time", "road_morf")} <= names
    assert {"000-bg-01-090-grid.png", "curves.png", "rank.png", "table.csv"} <= names
    assert not any(name.startswith("001-bg-01-090-removed") for name in names)

    # the same beside what Python gives
    subject = gait("gaitset.yaml", "gaitset.pt", device="cpu")
    walk = next(one for one in sequences("Probe") if one.name == "001-bg-01-090")
    question = Nearest(embed_gallery(subject, sequences("Gallery")))
    batch, _ = about_walk(subject, walk, question)
    probe = loupe.Probe(subject, ("set_block1", "gl_block3"), question)
    maps = {name: named(name)(probe, batch) for name in ("gradcam", "layercam")}
    found = loupe.judge(probe, batch, maps, numbers, steps=2, percentiles=(50,))
    one = Judged.read(*load(walkers / "direct" / "001-bg-01-090.npz"))
    assert one.numbers.keys() == found.numbers.keys()
    for name, number in found.numbers.items():
        for key, value in number.value.items():
            assert one.numbers[name].value[key] == pytest.approx(
                value[:, 0].numpy(), rel=1e-4, abs=1e-8, nan_ok=True
            ), (name, key)
    assert one.curves["deletion_time"].taken["gradcam/set_block1"].shape == (1, 3, 1, 1)
    assert np.isnan(one.numbers["deletion_time"].value["gradcam/gl_block3"]).all()
    assert one.picture.shape == (3, 64, 44, 3)

    assert main(["gait", "cam", *asked, *layers, "-s", "run"]) == 0
    assert main(["judge", "run", "--metric", *numbers, *few, "--draw", "none"]) == 0
    again = Judged.read(*load(walkers / "run-judged" / "001-bg-01-090.npz"))
    for name, told_number in again.numbers.items():
        for key in ("gradcam/set_block1", "gradcam/gl_block3", "centre"):
            assert told_number.value[key] == pytest.approx(
                one.numbers[name].value[key], rel=1e-5, abs=1e-9, nan_ok=True
            )
    assert again.record["verdict"] in ("right", "wrong")


def test_walks_on_disk_of_something_else_are_refused(
    walkers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(walkers)
    monkeypatch.setenv("XDG_CACHE_HOME", str(walkers / "cache"))
    asked = ["-c", "gaitset.yaml", "-w", "gaitset.pt", "-p", "Probe", "-g", "Gallery", "--device", "cpu"]
    assert main(["gait", "cam", *asked, "-l", "set_block1", "-s", "own"]) == 0
    capsys.readouterr()

    def refused(*words: str) -> str:
        assert main(["judge", "own", "--metric", "deletion", *words, "--draw", "none", "--save", "no"]) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return err

    assert "--model: has no meaning for walks" in refused("--model", "x")
    assert "pointing: needs to know where things are, and walks come without" in refused("--metric", "pointing")
    assert "no fill 'grey'" in refused("--metric-option", "fill=grey")
    weights = torch.load(walkers / "gaitset.pt")
    torch.save({"model": {key: value * 1.5 for key, value in weights["model"].items()}}, walkers / "other.pt")
    record = json.loads((walkers / "own" / "000-bg-01-090.json").read_text())
    record["job"]["model"]["weights"] = str(walkers / "other.pt")
    changed = walkers / "own" / "000-bg-01-090.json"
    changed.write_text(json.dumps(record))
    assert "holds results of several questions" in refused()
    (walkers / "own" / "001-bg-01-090.json").unlink()
    (walkers / "own" / "001-bg-01-090.npz").unlink()
    assert "the maps were made with model" in refused()
    del record["job"]
    changed.write_text(json.dumps(record))
    assert "its records do not tell what was asked" in refused()
    assert main(["gait", "judge", "-c", "gaitset.yaml", "--value", "softmax"]) == 2
    assert main(["gait", "judge", *asked, "--rank"]) == 2
    assert "name at least two" in capsys.readouterr().err
