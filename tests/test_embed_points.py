"""Points: what is read is what was written, and bad files get one clear line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from torchloupe.arrange import write_points
from torchloupe.errors import BadInput, LoupeWarning, UnsafeFile
from torchloupe.points import Points
from torchloupe.sources.points import read_points, read_record


def some(count: int = 7, width: int = 3) -> Points:
    feats = np.arange(count * width, dtype=np.float32).reshape(count, width)
    columns = {"labels": np.array([f"c{i % 3}" for i in range(count)]), "age": np.linspace(0, 1, count)}
    return Points(feats, np.array([f"id{i}" for i in range(count)]), columns, {"kind": "features", "seed": 3})


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_round_trip_keeps_rows_ids_columns_and_record(tmp_path, suffix):
    path = write_points(some(), tmp_path / f"p{suffix}")
    back = read_points(path)
    assert np.array_equal(back.feats, some().feats)
    assert back.ids.tolist() == some().ids.tolist()
    assert back.labels.tolist() == some().labels.tolist()
    assert np.array_equal(back.columns["age"], some().columns["age"])
    assert back.record == some().record == json.loads((tmp_path / "p.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", f"p{suffix}"]


def test_npz_is_memory_mapped_and_compressed_is_read(tmp_path):
    feats = np.random.default_rng(0).normal(size=(50, 4))
    np.savez(tmp_path / "a.npz", feats=np.asfortranarray(feats), labels=np.arange(50))
    np.savez_compressed(tmp_path / "b.npz", feats=feats, labels=np.arange(50))
    plain, packed = read_points(tmp_path / "a.npz"), read_points(tmp_path / "b.npz")
    assert isinstance(plain.feats, np.memmap)
    assert np.array_equal(plain.feats, feats)
    assert np.array_equal(packed.feats, feats)
    assert plain.labels.tolist() == list(range(50))


def test_npy_with_labels_and_default_ids(tmp_path):
    np.save(tmp_path / "f.npy", np.zeros((4, 2)))
    np.save(tmp_path / "l.npy", np.array(["a", "b", "a", "b"]))
    points = read_points(tmp_path / "f.npy", labels=tmp_path / "l.npy")
    assert isinstance(points.feats, np.memmap)
    assert points.ids.tolist() == ["0", "1", "2", "3"]
    assert points.labels.tolist() == ["a", "b", "a", "b"]


def test_csv_is_joined_by_id_not_by_order(tmp_path):
    write_points(some(), tmp_path / "p.npz")
    rows = [f"id{i},{i * 10},00{i}" for i in reversed(range(9))]
    (tmp_path / "t.csv").write_text("\n".join(["id,score,subject", *rows]))
    points = read_points(tmp_path / "p.npz", labels=tmp_path / "t.csv")
    assert points.columns["score"].tolist() == [i * 10 for i in range(7)]
    assert points.columns["subject"].tolist() == [f"00{i}" for i in range(7)]
    (tmp_path / "t.csv").write_text("\n".join(["id,score,subject", *rows[3:-1]]))
    with pytest.warns(LoupeWarning, match="2 of 7 ids have no row, hence no label: id0, id6"):
        read_points(tmp_path / "p.npz", labels=tmp_path / "t.csv")


def test_bad_labels(tmp_path):
    write_points(some(), tmp_path / "p.npz")
    (tmp_path / "a.csv").write_bytes(b"id,x\n\xff\xfe,3\n")
    (tmp_path / "b.csv").write_text("id,x\nid0,3,4\n")
    (tmp_path / "c.npz").write_bytes(b"no zip")
    for name, message in {
        "a.csv": "cannot be read as a CSV file in UTF-8",
        "b.csv": "line 2 does not",
        "c.npz": "cannot be read as an npz",
    }.items():
        with pytest.raises(BadInput, match=message):
            read_points(tmp_path / "p.npz", labels=tmp_path / name)
    with pytest.raises(BadInput, match="no such file of labels"):
        read_points(tmp_path / "p.npz", labels=tmp_path / "d.csv")


def test_foreign_parquet_with_one_column_of_vectors(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"vec": [[1.0, 2.0], [3.0, 4.0]], "label": ["x", "y"], "id": ["b", "a"]})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    points = read_points(tmp_path / "f.parquet")
    assert points.feats.tolist() == [[1, 2], [3, 4]]
    assert points.ids.tolist() == ["b", "a"]
    assert points.labels.tolist() == ["x", "y"]
    ragged = pyarrow.table({"vec": [[1.0, 2.0], [3.0], [1.0, 2.0, 3.0]]})
    pyarrow.parquet.write_table(ragged, tmp_path / "r.parquet")
    with pytest.raises(BadInput, match="not all of one length"):
        read_points(tmp_path / "r.parquet")


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", feats=np.zeros((2, 2)), labels=np.array([{}, {}], dtype=object))
    with pytest.raises(UnsafeFile, match=r"array 'labels' holds Python objects"):
        read_points(tmp_path / "p.npz")
    np.save(tmp_path / "p.npy", np.array([{}], dtype=object))
    with pytest.raises(UnsafeFile, match="holds Python objects"):
        read_points(tmp_path / "p.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"feats": np.zeros((3, 2)), "labels": np.zeros(2)}, "labels: 2 values, but feats has 3 rows"),
        ({"points": np.zeros((3, 2))}, "no array feats or features"),
        ({"feats": np.zeros(3)}, "expected numbers"),
        ({"feats": np.array([["a", "b"]])}, "expected numbers"),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadInput, match=message) as caught:
        read_points(tmp_path / "bad.npz")
    assert str(caught.value).startswith(str(tmp_path / "bad.npz"))


def test_other_bad_files(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"no zip")
    (tmp_path / "x.npy").write_bytes(b"no array")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    (tmp_path / "x.txt").write_text("")
    for name, message in {
        "x.npz": "cannot be read as an npz",
        "x.npy": "cannot be read as a numpy",
        "x.parquet": "cannot be read as a parquet",
    }.items():
        with pytest.raises(BadInput, match=message):
            read_points(tmp_path / name)
    with pytest.raises(BadInput, match="unknown kind of file"):
        read_points(tmp_path / "x.txt")
    with pytest.raises(BadInput, match="no such file"):
        read_points(tmp_path / "absent.npz")
    with pytest.raises(BadInput, match="written as"):
        write_points(some(), tmp_path / "p.csv")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(BadInput, match="as a JSON record"):
        read_record(tmp_path / "p.npz")


def test_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(np.lib.format, "write_array", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_points(some(), tmp_path / "p.npz")
    assert not list(tmp_path.iterdir())


def test_take_and_columns():
    points = some().take(np.array([4, 1]))
    assert points.ids.tolist() == ["id4", "id1"]
    assert points.feats[:, 0].tolist() == [12, 3]
    assert points.column("ids").tolist() == ["id4", "id1"]
    with pytest.raises(BadInput, match="no column 'labls'.*Did you mean labels"):
        points.column("labls")


@pytest.mark.parametrize(
    ("words", "dates"),
    [
        (["2024-05-01", "", "2024-12-31"], ["2024-05-01", "NaT", "2024-12-31"]),
        (["2024/05/01", "2023/01/02"], ["2024-05-01", "2023-01-02"]),
        (["2024:05:01 10:20:30"], ["2024-05-01T10:20:30"]),
        (["2024-05-01T10:20Z", "2024-05-01T10:20:00+02:00"], ["2024-05-01T10:20", "2024-05-01T08:20"]),
        (["2024-05-01T00:30-0130"], ["2024-05-01T02:00"]),
    ],
)
def test_dates_as_words_are_dates(words, dates):
    column = Points(np.zeros((len(words), 2)), np.arange(len(words)).astype(str), {"day": np.array(words)}).columns[
        "day"
    ]
    assert column.dtype.kind == "M"
    assert np.array_equal(column, np.array(dates, "datetime64[us]"), equal_nan=True)


@pytest.mark.parametrize(
    "words", [["03/04/2024"], ["2024-05-01", "soon"], ["2024-13-01"], ["2024-05/01"], ["", ""], ["20240501"]]
)
def test_words_that_are_no_dates_stay_words(words):
    held = Points(
        np.zeros((len(words), 2)),
        np.arange(len(words)).astype(str),
        {"day": np.array(words), "labels": np.array(["2024-05-01"] * len(words))},
    )
    assert held.columns["day"].tolist() == words
    assert held.columns["labels"].tolist() == ["2024-05-01"] * len(words)
