"""A run taken along: its table as CSV or parquet, its arrays as npz or zarr, its heatmaps for FiftyOne."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.errors import BadInput, need
from torchloupe.runs.found import Found
from torchloupe.runs.progress import progress
from torchloupe.store import aside, safe_name, write_arrays


def table_to(found: Found, path: Path) -> Path:
    """The table of a run, a row a sample, as .csv or .parquet (which embedding-atlas and data frames read).

    Errors: BadInput for another suffix; MissingPackage for parquet without pyarrow.
    """
    rows = found.table
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with aside(path) as (draft,), draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows({name: _word(value) for name, value in row.items()} for row in rows)
    elif path.suffix == ".parquet":
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise need("pyarrow", "embed") from None
        held = {name: [row.get(name) for row in rows] for name in columns}
        try:
            made = pyarrow.table(held)
        except pyarrow.ArrowException:  # a column of mixed kinds is kept as text
            made = pyarrow.table({name: [_text(value) for value in values] for name, values in held.items()})
        with aside(path) as (draft,):
            pyarrow.parquet.write_table(made, draft)
    else:
        raise BadInput(f"{path}: expected .csv or .parquet")
    return path


def _word(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _text(value: Any) -> str | None:
    return None if value is None else str(_word(value))


def arrays_to(found: Found, path: Path) -> Path:
    """All arrays of a run: a folder of ID.npz, or NAME.zarr with a group a sample.

    Errors: BadInput for a folder that holds something; MissingPackage for zarr without it.
    """
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        raise BadInput(f"{path}: holds something already; give another folder")
    group: Any = None
    if path.suffix == ".zarr":
        try:
            import zarr
        except ImportError:
            raise need("zarr", "zarr") from None
        group = zarr.open_group(path, mode="w")
    with progress("export", len(found)) as bar:
        for id in found:
            arrays, record = found.store.read(id)
            if group is None:
                with aside(path / f"{safe_name(id)}.npz") as (draft,):
                    write_arrays(draft, arrays)
            else:
                one = group.create_group(safe_name(id), attributes={"id": id, "record": json.dumps(record)})
                for name, array in _numbers(arrays).items():
                    one.create_array(name, data=array)
            bar.advance()
    return path


def _numbers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """zarr keeps numbers; text stands in the record."""
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biufc"}


def to_fiftyone(found: Found, name: str = "torchloupe") -> Any:
    """A FiftyOne data set: a sample for each picture with its heatmaps as `Heatmap` labels, METHOD at LAYER (question).

    Errors: BadInput for a run of another kind, or one without the names of its pictures; MissingPackage without FiftyOne.
    """
    try:
        import fiftyone
    except ImportError:
        raise need("fiftyone", "fiftyone") from None
    dataset = fiftyone.Dataset(name)
    for id in found:
        made = found[id]
        source = made.record.get("source")
        if not hasattr(made, "maps") or not source:
            raise BadInput(f"{found.store.root}: sample {id!r} has no heatmaps of a picture that lies on disk")
        sample = fiftyone.Sample(filepath=source)
        for (method, layer), maps in made.maps.items():
            for k, question in enumerate(made.questions):
                values = maps[k, 0]
                label = "".join(c if c.isalnum() else "_" for c in f"{method}_{layer}_{question}")
                sample[label] = fiftyone.Heatmap(map=values, range=[float(values.min()), float(values.max())])
        dataset.add_sample(sample)
    return dataset
