"""Files and folders of any name that a disk takes: worked on or named, by every command that takes pictures."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from left import hidden
from PIL import Image

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.sources.images import find
from torchloupe.sources.points import read_points
from torchloupe.sources.samples import samples

NAMES = (
    b"caf\xe9", "名前".encode(), "Ü".encode(), "U\u0308".encode(), b"two\nlines", b"-dash", b"star*[1]?", b"%s{0}$x$", b"n" * 250,
    b"\xff\xfe", b"esc\x1b[31m", b" blank ", b"a'b\"c`d`$(e)", b"con", "👩‍🔬".encode(), b"x.png.png", b"<b>&",
)  # fmt: skip
MODEL = ["--model", "torch:tiny:colours", "--size", "64", "--device", "cpu"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder `pics` of pictures in two classes, one of them called by a byte that is no UTF-8, with loops of links."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    folders = [os.path.join(b"pics", folder) for folder in (b"a", b"b\xe9")]
    for folder in folders:
        os.makedirs(folder)
    for i, name in enumerate(NAMES):
        shade = np.full((40, 30, 3), 10 * i, np.uint8)
        Image.fromarray(shade).save("x.png")
        os.replace("x.png", os.path.join(folders[i % 2], name + b".png"))
    os.symlink("loop.png", "pics/a/loop.png")
    os.symlink("..", "pics/a/up")
    os.symlink("gone.png", "pics/a/gone.png")
    yield tmp_path
    for module in ("tiny",):
        sys.modules.pop(module, None)


def test_cam_explains_every_one_of_them(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cam", "pics", *MODEL, "--save", "out", "--target", "0", "--compare", "--dpi", "40"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "\x1b" not in said.err
    assert len(list(Path("out").glob("*.png"))) == len(NAMES)
    assert len(list(Path("out").glob("*.npz"))) == len(NAMES)
    assert {store.load(path).record["asked"]["source"] for path in Path("out").glob("*.npz")} == {
        store.sha256(path) for path in find("pics")
    }
    assert main(command) == 0
    assert main(["draw", "out", "--save", "again", "--format", "svg"]) == 0
    assert len(list(Path("again").glob("*.svg"))) == len(NAMES)
    assert hidden(place) == []


@pytest.mark.parametrize("goal", ["feats.npz", "feats.parquet"])
def test_embed_embeds_them_with_their_labels(place: Path, goal: str) -> None:
    assert main(["embed", *MODEL, "--data", "folder:pics", "-o", goal]) == 0
    points = read_points(goal)
    assert len(set(points.ids.tolist())) == len(NAMES)
    assert set(points.column("labels").tolist()) == {"a", r"b\xe9"}
    assert r"b\xe9/esc\x1b[31m.png" in points.ids.tolist() or r"a/esc\x1b[31m.png" in points.ids.tolist()
    assert hidden(place) == []


def test_browse_shows_them(place: Path) -> None:
    assert main(["browse", "folder:pics", "--output-dir", "out", "--mode", "original"]) == 0
    assert len(list(Path("out").glob("0*.png"))) == len(NAMES)
    assert (Path("out") / "index.html").read_text(encoding="utf-8").count("<figcaption>") == len(NAMES) + 1
    assert hidden(place) == []


def test_features_draws_them(place: Path) -> None:
    some = [str(path) for path in find("pics")][:6]
    more = ["--at", "stage", "--topk", "1", "--arrangement", "1", "1", "--dpi", "40"]
    assert main(["features", *some, *MODEL, *more, "-o", "out"]) == 0
    assert len((Path("out") / "statistics.csv").read_text(encoding="utf-8").splitlines()) >= len(some)
    assert hidden(place) == []


def test_project_and_draw_show_their_points(place: Path) -> None:
    assert main(["embed", *MODEL, "--data", "folder:pics", "-o", "feats.npz"]) == 0
    assert main(["project", "feats.npz", "--method", "pca", "-o", "plane.npz"]) == 0
    known = read_points("feats.npz")
    assert read_points("plane.npz").ids.tolist() == known.ids.tolist()
    for goal in ("plane.png", "plane.svg", "plane.html"):
        assert main(["draw", "plane.npz", "--save", goal, "--color-by", "labels"]) == 0
    page = (place / "plane.html").read_text(encoding="utf-8")
    assert "\\\\xe9" in page  # the byte that is no letter, spelt in JSON
    assert "b\\xe9" in (place / "plane.svg").read_text(encoding="utf-8")
    assert hidden(place) == []


def test_judge_judges_them_and_the_run_is_told_and_mailed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = ["--metric", "shape", "--method", "gradcam", "--target", "0", "--draw", "none"]
    assert main(["judge", "pics", *MODEL, *metric, "--save", "judged"]) == 0
    assert len(list(Path("judged").glob("*.npz"))) == len(NAMES)
    assert main(["runs", "judged", "--table", "t.csv"]) == 0
    assert main(["report", "judged", "-o", "r.html"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    with open("t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(NAMES)
    assert hidden(place) == []


LOCALES = {
    "C": {"LC_ALL": "C"},  # Python takes UTF-8
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": "", "PYTHONIOENCODING": "latin-1"},
}
COMMANDS = (
    ["cam", "pics", *MODEL, "--save", "s\udcc3\udcbc", "--target", "0", "--compare", "--dpi", "40"],
    ["embed", *MODEL, "--data", "folder:pics", "-o", "feats.parquet"],
    ["browse", "folder:pics", "--output-dir", "seen", "--mode", "original"],
    [
        "features",
        "pics",
        *MODEL,
        "--at",
        "stage",
        "--topk",
        "1",
        "--arrangement",
        "1",
        "1",
        "--dpi",
        "40",
        "-o",
        "feat",
    ],
    ["project", "feats.parquet", "--method", "pca", "-o", "plane.npz"],
    ["draw", "plane.npz", "--save", "plane.png", "--color-by", "labels"],
    ["draw", "s\udcc3\udcbc", "--save", "again"],
    ["judge", "pics", *MODEL, "--metric", "shape", "--target", "0", "--draw", "none", "--save", "judged"],
    ["runs", "judged", "--table", "t.csv"],
    ["report", "judged", "-o", "r.html"],
)


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES)
def test_names_in_a_locale_that_knows_no_letters(place: Path, locale: str) -> None:
    """A process of its own, with words as its shell hands them over; names as bytes are the same in all locales."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from torchloupe.cli import main
for words in {COMMANDS!r}:
    here = [os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in words]
    print("status", main(here), words[0])
"""
    (place / "script.py").write_text(script, encoding="utf-8", errors="surrogatepass")
    done = subprocess.run(
        [sys.executable, "script.py"], env={**os.environ, **LOCALES[locale]}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(b"status 0") == len(COMMANDS), done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    assert len([name for name in os.listdir(b"s\xc3\xbc") if name.endswith(b"-grid.png")]) == len(NAMES)
    assert len(set(read_points("plane.npz").ids.tolist())) == len(NAMES)
    assert (place / "t.csv").read_bytes().count(b"\n") > len(NAMES)
    assert hidden(place) == []


def test_a_name_that_is_not_utf_8_may_be_given_itself(place: Path) -> None:
    given = os.fsdecode(b"pics/a/caf\xe9.png")
    assert main(["cam", given, *MODEL, "--save", "out"]) == 0
    assert main(["cam", given, *MODEL, "--save", os.fsdecode(b"o\xe9ut")]) == 0
    assert len(list(Path(os.fsdecode(b"o\xe9ut")).glob("*.npz"))) == 1


@pytest.mark.parametrize(
    "given", ["pics/a/loop.png", "pics/a/gone.png", f"{'n' * 300}.png", "pics/a/up/a/up/b.png", "a/\udce9/b"]
)
def test_what_leads_nowhere_is_named(place: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cam", given, *MODEL]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert Path(given).name.encode(errors="replace").decode()[:200].replace("?", "") in said


def test_an_empty_place_is_not_the_present_folder(place: Path) -> None:
    for spec in ("folder:", "", "sequences:"):
        with pytest.raises(BadInput, match="names nothing"):
            samples(spec)
    with pytest.raises(BadInput, match="empty"):
        find("")


def test_drafts_of_names_of_many_bytes(tmp_path: Path) -> None:
    for name in ("名" * 80, "👩" * 60, "n" * 250):
        goal = store.whole(tmp_path / f"{name}.txt", "\udce9")
        assert goal.read_bytes() == b"\\udce9"
