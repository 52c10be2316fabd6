"""Results on disk: whole or absent, plain arrays only, said in one line when not."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchloupe import store
from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeError, UnsafeFile
from torchloupe.kinds.maps import Heatmaps, names_of
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch
from torchloupe.store.reading import SAID, reading

ARRAYS = {
    "map/gradcam/layer4[-1]": np.random.default_rng(0).random((2, 1, 3, 4)).astype(np.float32),
    "file": np.arange(5),
    "names": np.array(["a", "ü"]),
    "none": np.zeros((0, 3)),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = store.save(tmp_path / "new", "cat", ARRAYS, {"kind": "maps", "n": np.int64(3), "p": Path("a/b")})
    for name in (path, path.with_suffix(".npz"), path.with_suffix("")):
        arrays, record = store.load(name)
        assert list(arrays) == list(ARRAYS)
        for entry, array in ARRAYS.items():
            assert arrays[entry].dtype == array.dtype
            np.testing.assert_array_equal(arrays[entry], array)
        assert record == {"kind": "maps", "n": 3, "p": "a/b", "key": store.key(record)}
    assert sorted(found.name for found in path.parent.iterdir()) == ["cat.json", "cat.npz"]
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["map/gradcam/layer4[-1]"], ARRAYS["map/gradcam/layer4[-1]"])


def test_same_result_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        store.save(tmp_path / folder, "r", ARRAYS, {"kind": "maps"})
    for name in ("r.npz", "r.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_stem_may_hold_dots(tmp_path: Path) -> None:
    store.save(tmp_path, "cat.v1.2", {"a": np.zeros(1)}, {})
    assert store.load(tmp_path / "cat.v1.2").arrays["a"].shape == (1,)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_record_survives_json(record: dict) -> None:
    text = json.dumps(store.plain(record), allow_nan=False)
    assert json.loads(text) == record
    assert store.key(json.loads(text)) == store.key(record)


def test_key_knows_the_question_not_the_hour() -> None:
    record = {"kind": "maps", "model": "m", "layers": {"b": 1, "a": 2}}
    same = {"layers": {"a": 2, "b": 1}, "model": "m", "kind": "maps", "created": "now", "seconds": 3.5, "key": "x"}
    assert store.key(record) == store.key(same)
    assert store.key(record) != store.key({**record, "model": "n"})
    assert store.Artifact({}, record).key == store.key(record)


def test_plain_knows_numbers_and_refuses_the_rest() -> None:
    held = {"a": torch.tensor([1.5, float("nan")]), "l": Layout("n (h w) c", skip=1), "s": {2, 1}, "i": float("inf")}
    assert store.plain(held) == {
        "a": [1.5, None],
        "l": {"pattern": "n (h w) c", "skip": 1, "join": None, "bins": [], "sizes": {}, "rests": "", "behind": 0},
        "s": [1, 2],
        "i": None,
    }
    with pytest.raises(BadInput, match="cannot hold function"):
        store.plain({"f": lambda: 0})


@pytest.mark.parametrize("name", ["cat", "cat.v2", "nm-01_090+x", "größe"])
def test_safe_names_stay(name: str) -> None:
    assert store.safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "../up", ".hidden", "", "con", "x" * 300, "é" * 200, 'a:b*?"<>|', "a\nb"]
)
def test_unsafe_names_are_made_safe(name: str) -> None:
    safe = store.safe_name(name)
    assert safe != name
    assert len(safe.encode()) < 140
    assert not set(safe) & set('/\\:*?"<>|\n')
    assert not safe.startswith(".")


@given(
    st.text(st.characters(exclude_categories=()), max_size=300)
    | st.from_regex(r"(con|LPT1)(\.[a-z.]*)?", fullmatch=True)
)
def test_the_file_name_of_a_file_name_is_itself(name: str) -> None:
    safe = store.safe_name(name)
    assert store.safe_name(safe) == safe
    assert 0 < len(safe.encode()) <= 120


@pytest.mark.parametrize("letter", ["n", "é", "名", "👩"])
def test_names_up_to_120_bytes_stay(letter: str) -> None:
    size = len(letter.encode())
    longest = letter * (120 // size)
    if letter != "👩":  # is no letter
        assert store.safe_name(longest) == longest
    over = store.safe_name(longest + letter)
    assert over != longest + letter
    assert len(over.encode()) <= 120
    assert store.safe_name(longest + letter + letter) != over


def test_unsafe_names_stay_apart() -> None:
    assert len({store.safe_name(name) for name in ("a/b", "a_b", "a b", "a:b")}) == 4


def test_arrays_of_objects_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'o' holds Python objects"):
        store.save(tmp_path, "r", {"o": np.array([{}])}, {})
    assert not list(tmp_path.iterdir())


def test_arrays_of_objects_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "r.npz", a=np.zeros(2), o=np.array([{"a": 1}], dtype=object))
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(UnsafeFile, match="'o' holds Python objects"):
        store.load(tmp_path / "r")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_truncated_arrays(tmp_path: Path, share: float) -> None:
    path = store.save(tmp_path, "r", ARRAYS, {}).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BadInput, match=r"r\.npz: cannot be read as a whole npz file"):
        store.load(path)


def test_damaged_array(tmp_path: Path) -> None:
    store.save(tmp_path, "r", {}, {})
    held = io.BytesIO()
    np.save(held, np.arange(100))
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("a.npy", held.getvalue()[:200])
    with pytest.raises(BadInput, match="array 'a': claims"):
        store.load(tmp_path / "r")


@pytest.mark.parametrize("text", ['{"kind": ', "", "[1, 2]"])
def test_damaged_record(tmp_path: Path, text: str) -> None:
    path = store.save(tmp_path, "r", {}, {})
    path.write_text(text)
    with pytest.raises(BadInput, match=r"r\.json: (cannot be read as a whole JSON record|expected a JSON object)"):
        store.load(path)


def test_missing_results_offer_the_nearest(tmp_path: Path) -> None:
    path = store.save(tmp_path, "catdog", {}, {})
    with pytest.raises(BadInput, match=r"no such result .*Did you mean catdog"):
        store.load(tmp_path / "catdg.npz")
    path.unlink()
    with pytest.raises(BadInput, match=r"catdog\.json: missing beside catdog\.npz"):
        store.load(tmp_path / "catdog")


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(
        BadInput, match=r"f: cannot be made a folder for results, since a file stands there; give another folder"
    ):
        store.save(tmp_path / "f", "r", ARRAYS, {})


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, LoupeError, "the disk is full; nothing was written"),
        (errno.EACCES, BadInput, "cannot write here"),
    ],
)
def test_failing_writes_leave_the_old_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type, words: str
) -> None:
    store.save(tmp_path, "r", {"a": np.zeros(2)}, {"n": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        with pytest.raises(kind, match=words):
            store.save(tmp_path, "r", {"a": np.ones(3)}, {"n": 2})
    arrays, record = store.load(tmp_path / "r")
    assert (arrays["a"].shape, record["n"]) == ((2,), 1)
    assert len(list(tmp_path.iterdir())) == 2


def test_interrupted_writes_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        store.save(tmp_path, "r", ARRAYS, {})
    assert not list(tmp_path.iterdir())


def maps_of_two(dtype: torch.dtype = torch.float32) -> tuple[dict[str, Maps], Batch]:
    scores = Scores(torch.tensor([[0.5, 2.0]]), (("cat", "dog"),))
    values = torch.arange(8, dtype=dtype).reshape(1, 2, 1, 2, 2)
    residual = {"residual": torch.tensor([[0.1, 0.2]])}
    found = {
        "gradcam": Maps({"layer3": values, "layer4": values * 0}, scores),
        "occlusion": Maps({"input": -values}, scores, signed=True, notes=residual),
    }
    return found, Batch(torch.rand(2, 3, 4, 4), ids=("a.png", "b.png"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_maps_of_one_sample(dtype: torch.dtype) -> None:
    found, batch = maps_of_two(dtype)
    heatmaps = Heatmaps.of(found, batch, 1)
    arrays, parts = heatmaps.arrays(), heatmaps.record
    assert names_of(tuple(arrays)) == [("gradcam", "layer3"), ("gradcam", "layer4"), ("occlusion", "input")]
    np.testing.assert_array_equal(arrays["map/gradcam/layer3"], [[[[4, 5], [6, 7]]]])
    assert arrays["map/gradcam/layer3"].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    assert arrays["picture"].shape == (1, 4, 4, 3)
    assert (arrays["picture"].min(), arrays["picture"].max()) == (0, 255)
    assert parts["questions"] == ["dog"]
    assert parts["scores"] == [2.0]
    assert parts["id"] == "b.png"
    assert parts["empty"] == [["gradcam", "layer4", 0]]
    assert parts["methods"]["occlusion"] == {"signed": True, "notes": {"residual": [pytest.approx(0.2)]}}
    made = heatmaps.made(
        model="timm:x", target="Top(1)", layouts={"layer3": Layout()}, options={"gradcam": {"pool": "hw"}}
    )
    record = made.record
    assert record["layers"]["layer3"] == {
        "size": [1, 2, 2],
        "pattern": "n c h w",
        "skip": 0,
        "join": None,
        "bins": [],
        "sizes": {},
        "rests": "",
        "behind": 0,
    }
    assert record["methods"]["gradcam"]["options"] == {"pool": "hw"}
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_maps_that_are_not_finite() -> None:
    found, batch = maps_of_two()
    found["gradcam"].maps["layer3"][0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"a\.png: the gradcam map at layer 'layer3' is not finite"):
        Heatmaps.of(found, batch, 0)
    with pytest.raises(BadInput, match="no maps"):
        Heatmaps.of({}, batch, 0)


def test_pictures_that_were_seen_are_kept() -> None:
    found, batch = maps_of_two()
    seen = torch.randint(0, 255, (2, 1, 4, 4, 3), dtype=torch.uint8)
    batch = Batch(batch.x, ids=batch.ids, pictures=seen)
    heatmaps = Heatmaps.of(found, batch, 1)
    arrays, parts = heatmaps.arrays(), heatmaps.record
    np.testing.assert_array_equal(arrays["picture"], seen[1].numpy())
    assert parts["picture"] == "seen"
    heatmaps = Heatmaps.of(found, Batch(torch.rand(2, 5, 4, 4)), 0)
    arrays, parts = heatmaps.arrays(), heatmaps.record
    assert parts["picture"] == "none"
    assert (arrays["picture"] == 255).all()


@pytest.mark.parametrize("locks", [True, False])
def test_a_folder_is_left_as_it_was_where_nothing_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:  # as on Windows
        monkeypatch.setitem(sys.modules, "fcntl", None)
    there, new, used = tmp_path / "there", tmp_path / "new", tmp_path / "used"
    there.mkdir()
    for folder in (there, new, used):
        with store.held(folder):
            assert folder.is_dir()
            assert (folder / ".loupe-lock").exists() == locks
            if folder == used:
                (folder / "a.txt").write_text("a")
    assert there.is_dir()
    assert new.exists() != locks
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["a.txt"]
    with pytest.raises(ZeroDivisionError), store.held(new):
        raise ZeroDivisionError
    assert not list(tmp_path.rglob(".loupe-lock"))


def test_why_a_file_cannot_be_read_is_told_up_to_a_length(tmp_path: Path) -> None:
    for length, said in ((SAID, "x" * SAID), (SAID + 1, "x" * SAID + r"\.\.\.")):
        with (
            pytest.raises(BadInput, match=rf"cannot be read as a table \({said}\)"),
            reading(tmp_path / "a", "a table"),
        ):
            raise ValueError("x" * length)
