"""Features from tables of other tools: CSV, wide parquet, frames, sparse matrices, HDF5; gaps and dates in their columns."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from torchloupe import from_table
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.rows import prepare
from torchloupe.points import as_column, missing
from torchloupe.render.points import Scale, colouring
from torchloupe.sources import tables
from torchloupe.sources.points import read_points


@pytest.fixture
def frame():
    """Six samples of three dimensions, a label with a gap, a date with a gap, an age with a gap."""
    feats = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    made = pd.DataFrame(feats, columns=["dim_0", "dim_1", "dim_2"])
    made.insert(0, "id", [f"s{i}" for i in range(6)])
    made["labels"] = ["cat", None, "dog", "cat", "None", "dog"]
    made["day"] = pd.to_datetime(["2024-01-31", "2024-02-01", None, "2025-12-24", "2024-03-03", "2024-03-04"])
    made["age"] = [30.5, np.nan, 12, 44, 5, 6]
    made["count"] = pd.array([3, None, 1, 4, 1, 5], dtype="Int64")
    return made


def written(frame, kind, folder):
    path = folder / f"f.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "pandas", "polars", "arrow"])
def test_one_column_a_dimension(frame, tmp_path, kind):
    if kind in ("csv", "tsv", "parquet"):
        points = read_points(written(frame, kind, tmp_path))
    else:
        make = {"pandas": lambda x: x, "polars": pl.from_pandas, "arrow": pa.Table.from_pandas}[kind]
        points = from_table(make(frame))
    assert np.allclose(points.feats, frame[["dim_0", "dim_1", "dim_2"]].to_numpy())
    assert points.ids.tolist() == [f"s{i}" for i in range(6)]
    assert points.labels.tolist() == ["cat", "", "dog", "cat", "None", "dog"]
    assert missing(points.column("day")).tolist() == [False, False, True, False, False, False]
    assert points.column("day")[3] == np.datetime64("2025-12-24")
    assert np.allclose(points.column("age"), frame["age"], equal_nan=True)
    assert points.column("count").tolist() == ["3", "", "1", "4", "1", "5"]


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_a_column_of_vectors_in_a_frame(kind):
    vectors = np.random.default_rng(1).normal(size=(4, 5))
    table = {"embedding": list(vectors), "label": ["a", "b", "a", "b"], "x0": [1.0, 2, 3, 4], "x1": [1.0, 2, 3, 4]}
    make = {
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "arrow": lambda held: pa.table({**held, "embedding": vectors.tolist()}),
    }[kind]
    points = from_table(make(table))
    assert np.allclose(points.feats, vectors)
    assert points.labels.tolist() == ["a", "b", "a", "b"]
    assert from_table(make(table), "x*").feats.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_words_as_the_index_of_a_frame_are_ids(frame):
    assert from_table(frame.set_index("id")).ids.tolist() == frame["id"].tolist()


def test_columns_are_chosen_by_name_pattern_or_fraction(tmp_path):
    frame = pd.DataFrame({"petal": [0.5, 0.25], "sepal": [1.5, 2.5], "n": [1, 2], "kind": ["a", "b"]})
    path = written(frame, "csv", tmp_path)
    with pytest.warns(
        LoupeWarning, match=r"features are the 2 columns of fractions \(petal, sepal\); --vector chooses"
    ):
        assert read_points(path).feats.tolist() == [[0.5, 1.5], [0.25, 2.5]]
    assert read_points(path, vector="sepal,n").feats.tolist() == [[1.5, 1], [2.5, 2]]
    assert read_points(written(frame, "parquet", tmp_path), vector="?etal,n").feats.tolist() == [[0.5, 1], [0.25, 2]]
    for vector, message in (
        ("petl", "no column 'petl'.*Did you mean petal"),
        ("kind", "column 'kind' .* holds no numbers"),
    ):
        with pytest.raises(BadInput, match=message):
            read_points(path, vector=vector)
    two = pd.DataFrame({f"{name}{i}": [1.0, 2.0] for name in "ab" for i in range(3)})
    with pytest.raises(BadInput, match=r"several series of columns \(a0 ... a2, b0 ... b2\); say which with --vector"):
        read_points(written(two, "csv", tmp_path))
    with pytest.raises(BadInput, match="no columns that are plainly its dimensions; columns: n, kind"):
        read_points(written(frame[["n", "kind"]], "csv", tmp_path))


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_sparse_matrices(tmp_path, layout):
    dense = np.random.default_rng(0).normal(size=(40, 30)) * (np.random.default_rng(1).random((40, 30)) < 0.1)
    dense[:, 0] = 1
    matrix = scipy.sparse.csr_matrix(dense).asformat(layout)
    scipy.sparse.save_npz(tmp_path / "s.npz", matrix)
    read = read_points(tmp_path / "s.npz").feats
    assert read.shape == (40, 30)
    for rows in (slice(3, 9), np.array([7, 2, 2, 39]), slice(None)):
        assert np.allclose(read[rows], dense[rows])
    assert np.allclose(prepare(matrix).array(), dense, atol=1e-6)
    scipy.sparse.save_npz(tmp_path / "coo.npz", scipy.sparse.coo_matrix(dense))
    with pytest.raises(BadInput, match=r"no array feats|layout 'coo'"):
        read_points(tmp_path / "coo.npz")


@pytest.mark.parametrize("sparse", [False, True])
def test_annotated_data_in_hdf5(tmp_path, sparse):
    dense = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    dense[dense < 0] = 0
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        if sparse:
            matrix = scipy.sparse.csr_matrix(dense)
            group = file.create_group("X")
            group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", dense.shape
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
        else:
            file["X"] = dense
        obs = file.create_group("obs")
        obs.attrs["_index"] = "_index"
        obs["_index"] = np.array([f"cell{i}" for i in range(5)], dtype=h5py.string_dtype())
        obs["total"] = dense.sum(1)
        kinds = obs.create_group("labels")
        kinds["categories"] = np.array(["B", "T"], dtype=h5py.string_dtype())
        kinds["codes"] = np.array([0, 1, -1, 1, 0], np.int8)
    points = read_points(tmp_path / "a.h5ad")
    assert np.allclose(points.feats[:], dense)
    assert points.ids.tolist() == [f"cell{i}" for i in range(5)]
    assert points.labels.tolist() == ["B", "T", "", "T", "B"]
    assert np.allclose(points.column("total"), dense.sum(1))
    with pytest.raises(BadInput, match=r"holds no pca; it holds X, obs"):
        read_points(tmp_path / "a.h5ad", vector="pca")


def test_parquet_larger_than_what_is_read_at_once(tmp_path, monkeypatch):
    feats = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    wide = pa.table({f"x{i}": feats[:, i] for i in range(4)} | {"label": np.arange(1000) % 3})
    long = pa.table({"feats": feats.tolist(), "label": np.arange(1000) % 3})
    monkeypatch.setattr(tables, "LARGE", 100)
    for table in (wide, long):
        pa.parquet.write_table(table, tmp_path / "f.parquet", row_group_size=300)
        points = read_points(tmp_path / "f.parquet")
        assert not isinstance(points.feats, np.ndarray)
        assert points.feats.shape == (1000, 4)
        order = np.random.default_rng(1).permutation(1000)[:50]
        for rows in (slice(0, 1000), slice(290, 610), slice(299, 300), slice(5, 5), order):
            assert np.allclose(points.feats[rows], feats[rows])
        assert np.allclose(prepare(points.feats).array(), feats)
        assert points.labels.tolist() == (np.arange(1000) % 3).tolist()


def test_dates_are_a_scale_of_time():
    days = np.array(["2024-01-01", "2024-01-03", "NaT", "2024-01-05"], "datetime64[D]")
    points = from_table({"feats": np.zeros((4, 2)).tolist(), "day": days.tolist()})
    scale = colouring(points, "day", None)
    assert isinstance(scale, Scale)
    low, high = scale.colours_of([0, 1])
    assert np.allclose(scale.rgb[[0, 3]], [low, high])
    assert np.allclose(scale.rgb[2], 0.75)
    assert [word[:10] for word in scale.words([scale.low, scale.high])] == ["2024-01-01", "2024-01-05"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, None, 2], ["1", "", "2"]),
        ([1.5, None], [1.5, np.nan]),
        (["a", None, float("nan")], ["a", "", ""]),
        ([True, False], [True, False]),
        ([np.int64(3), 4], [3, 4]),
        ([*range(60), None], [*map(float, range(60)), np.nan]),
    ],
)
def test_gaps_by_kind(values, wanted):
    held = np.empty(len(values), object)
    held[:] = values
    found = as_column(held)
    assert all(a == b or (a != a and b != b) for a, b in zip(found.tolist(), wanted, strict=True))
