"""Every writer on a full disk and killed in its middle: what was there stays, nothing is half-written, nothing is left lying."""

from __future__ import annotations

import ast
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import torchloupe
from torchloupe import store
from torchloupe.arrange import write_points
from torchloupe.data.schedules import Curve
from torchloupe.errors import LoupeError
from torchloupe.examples import figures, walkers
from torchloupe.gait import _write as write_gallery
from torchloupe.methods.kept import Kept
from torchloupe.points import Points
from torchloupe.render import curves, features, pictures, pose_page, samples, sequences
from torchloupe.render import points as maps
from torchloupe.render.page import write_page
from torchloupe.render.style import Style
from torchloupe.render.video import write_video
from torchloupe.store.records import Artifact
from torchloupe.store.results import Files
from torchloupe.store.stream import Stream
from torchloupe.targets.retrieval import Gallery

NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
FRAMES = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8) for i in range(8)]


def cloud() -> Points:
    feats = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    ids = np.array([f"sample {i} of many" for i in range(600)])
    return Points(feats, ids, {"labels": np.array(["a", "b"] * 300)}, {"kind": "projection"})


def curve() -> Curve:
    at = np.arange(800.0)
    return Curve(name="a", parameter="lr", unit="epoch", length=800, at=at, values=np.sin(at)[:, None], groups=("",),
                 per_epoch=None, marks=())  # fmt: skip


def heat() -> pictures.Sheet:
    values = {("gradcam", "l"): np.random.default_rng(0).random((1, 1, 40, 40))}
    return pictures.Sheet("a", NOISE[None], values, frozenset(), ("cat",), (0.5,))


def gallery() -> Gallery:
    names = tuple(f"00{i}-nm-090" for i in range(9))
    return Gallery(torch.randn(9, 64, 8), names, names, digest="d", conditions=names, views=names, digests=names)


def stream(folder: Path) -> Any:
    held = Stream(folder, "ig")
    held.begin({"a": 1})
    return held.write("1", Artifact({"maps": np.random.default_rng(0).random((40, 40))}, {}), {})


def files(folder: Path) -> Any:
    held = Files(folder)
    held.begin({"a": 1})
    return held.write("1", Artifact({"maps": np.random.default_rng(0).random((40, 40))}, {"kind": "maps"}), {})


def kept(folder: Path) -> Any:
    return Kept(folder / "part", "key").save("piece", rows=np.random.default_rng(0).random((40, 40)))


ARRAYS = {"a": np.random.default_rng(0).random((50, 50))}
WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda folder: store.whole(folder / "a.txt", "word " * 4000),
    "record": lambda folder: store.save(folder, "a", ARRAYS, {"kind": "x"}),
    "stream": stream,
    "files": files,
    "pieces": kept,
    "points npz": lambda folder: write_points(cloud(), folder / "p.npz"),
    "points parquet": lambda folder: write_points(cloud(), folder / "p.parquet"),
    "gallery": lambda folder: write_gallery(folder / "g.npz", gallery()),
    "page of a map": lambda folder: write_page(cloud(), folder / "p.html"),
    "picture of a map": lambda folder: maps.save(maps.scatter(cloud()), folder / "p.png"),
    "jpeg of a map": lambda folder: maps.save(maps.scatter(cloud()), folder / "p.jpg"),
    "svg of a map": lambda folder: maps.save(maps.scatter(cloud()), folder / "p.svg"),
    "gif": lambda folder: write_video(FRAMES, folder / "v.gif"),
    "mp4": lambda folder: write_video(FRAMES, folder / "v.mp4"),
    "cell of a sequence": lambda folder: sequences._save(NOISE, folder / "deep" / "s.png"),
    "sample": lambda folder: samples.save_image(Image.fromarray(NOISE), folder / "s.png"),
    "page of samples": lambda folder: samples.page("t", [(folder / "s.png", "c" * 20000)], ["x"], folder, 1.0),
    "schedule": lambda folder: curves.save_figure(curves.draw([curve()]), folder / "c.png"),
    "schedule table": lambda folder: curves.write_csv([curve()], folder / "c.csv"),
    "schedule record": lambda folder: curves.save([curve()], folder / "c.png", {}),
    "heatmap": lambda folder: pictures.drawing([heat()], Style(resize="4")).save(folder),
    "heatmaps as pdf": lambda folder: pictures.drawing([heat()], Style(format="pdf", compare=True)).save(folder),
    "tiles": lambda folder: features.write_tiles({"a": NOISE}, folder, "t"),
    "report": lambda folder: pose_page.saved(folder / "r.png", NOISE.tobytes()),
    "figures": lambda folder: figures.write(folder / "data", 1, 0),
    "walkers": lambda folder: walkers._write(folder / "w.pkl", NOISE),
}
LIMIT = 2000


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def full() -> Iterator[None]:
    """No file of this process, nor of those that it starts, grows beyond LIMIT bytes, as on a disk with that much room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """What a writer writes when all goes well."""
    made: dict[str, dict[str, bytes]] = {}

    def of(name: str) -> dict[str, bytes]:
        if name not in made:
            folder = tmp_path_factory.mktemp("sound")
            WRITERS[name](folder)
            made[name] = contents(folder)
        return made[name]

    return of


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_said_and_leaves_nothing(
    name: str, tmp_path: Path, sound: Callable[[str], dict[str, bytes]]
) -> None:
    whole = sound(name)
    assert max(map(len, whole.values())) > LIMIT, "this writer writes too little for the test to tell"
    with full(), pytest.raises(LoupeError, match="disk is full|is the disk full"):
        WRITERS[name](tmp_path)
    left = contents(tmp_path)
    assert all(len(content) <= LIMIT for content in left.values())
    assert all(not Path(path).name.startswith(".") for path in left)
    for path, content in left.items():  # what was written before the disk was full is whole
        assert len(content) == len(whole[path])


@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_leaves_what_was_there_and_its_draft_is_swept(
    name: str, tmp_path: Path, sound: Callable[[str], dict[str, bytes]]
) -> None:
    whole = sound(name)
    for path in whole:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.startswith("part") and not path.endswith("ig.json"):
            (tmp_path / path).write_bytes(b"old")
    before = contents(tmp_path)
    child = os.fork()
    if child == 0:  # dies in the moment before the first draft takes its place
        try:
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            WRITERS[name](tmp_path)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    left = contents(tmp_path)
    drafts = [path for path in left if Path(path).name.startswith(".") and f".{child}-" in path]
    assert drafts
    assert {path: content for path, content in left.items() if path not in drafts} == before
    store.files._SWEPT.clear()  # as in a new process
    WRITERS[name](tmp_path)
    again = contents(tmp_path)
    assert again.keys() == whole.keys()
    assert all(content != b"old" for content in again.values())


def test_drafts_of_a_living_process_stay(tmp_path: Path) -> None:
    alive = tmp_path / f".a.{os.getpid()}-1~.txt"
    alive.write_text("being written")
    others = tmp_path / ".a.0-1~.txt~"
    others.write_text("somebody else's")
    store.files._SWEPT.clear()
    store.whole(tmp_path / "b.txt", "b")
    assert alive.exists()
    assert others.exists()


OWN = {"files.py", "workers.py", "kept.py", "shards.py"}
WRITING = {"write_text", "write_bytes", "savefig", "savez", "write_table", "open"}
GIVEN = ("judgement.write_table", "held", "buffer", "draft", "raw", "words", "data.open", "path)", "(info, ")


def test_no_file_is_written_by_another_way() -> None:
    """Calls that write, outside of a `with aside(...)`, except into memory or into what an `aside` around them has given."""
    home, loose = Path(torchloupe.__file__).parent, []
    for path in sorted(home.rglob("*.py")):
        if path.name in OWN:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name not in WRITING or (name == "open" and not any(_mode(one) for one in call.args)):
                continue
            around: ast.AST = call
            inside = any(word in ast.unparse(call) for word in GIVEN)
            while not inside and around in above:
                around = above[around]
                inside = isinstance(around, ast.With) and any("aside(" in ast.unparse(one) for one in around.items)
            if not inside:
                loose.append(f"{path.name}:{call.lineno}: {ast.unparse(call)[:80]}")
    assert loose == []


def _mode(node: ast.expr) -> bool:
    """Whether an argument of open asks to write."""
    return isinstance(node, ast.Constant) and str(node.value) in ("w", "wb", "a", "ab", "x", "xb", "r+", "a+", "w+")
