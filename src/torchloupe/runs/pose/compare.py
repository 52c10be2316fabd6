"""Several stored runs on the same people, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import BadInput
from torchloupe.kinds.pose import FIGURES, READINGS, pixels, table
from torchloupe.methods.joints import Interval, bootstrap, means
from torchloupe.store.stream import Stream

Array = NDArray[Any]


@dataclass(frozen=True)
class Compared:
    """One figure of several runs on the same samples: mean of each, and the difference to the first with its interval."""

    name: str
    runs: tuple[str, ...]
    means: tuple[float, ...]
    differences: tuple[Interval, ...]


@dataclass(frozen=True)
class Pairing:
    """The people whom all runs have predictions of, or maps where there are none: their names, the sample of each in every
    run, and figure -> (n, j) of every run, NaN where one of them does not know it.

    count: of the people; of those with maps where they are more.
    """

    people: tuple[str, ...]
    ids: tuple[tuple[str, ...], ...]
    figures: Mapping[str, Sequence[Array]]
    count: int


def compare(roots: Sequence[Path], seed: int = 0) -> tuple[int, list[Compared]]:
    """Errors and indices of several runs on the people that all of them have: (number of people, a row a figure), see
    `paired`."""
    pairing = paired(roots)
    return pairing.count, differences(pairing, roots, seed)


def differences(pairing: Pairing, roots: Sequence[Path], seed: int = 0) -> list[Compared]:
    """Means and differences to the first run, person by person, with bootstrap intervals of 95 %."""
    rows = []
    for name, values in pairing.figures.items():
        changes = tuple(bootstrap(other - values[0], seed) for other in values[1:])
        averages = tuple(means(value)[1] for value in values)
        rows.append(Compared(name, tuple(str(root) for root in roots), averages, changes))
    return rows


def paired(roots: Sequence[Path]) -> Pairing:
    """The people whom several runs have in common, with their errors and indices.

    Samples are joined by person, not by number, which differs between annotated boxes and detections; boxes on nobody are
    left out. Means and differences are over the joints of which all runs know the figure. Differences are paired, person
    by person, with bootstrap intervals of 95 %. Errors are in pixels of the first run's input, also of other crops.
    Errors: BadInput for fewer than two runs, runs of other data, people who cannot be told apart, pixels beside camera
    units, or nobody in common.
    """
    if len(roots) < 2:
        raise BadInput("a comparison takes two runs or more")
    for root in roots:
        if not any((root / f"{kind}.json").exists() for kind in ("epe", "ig")):
            raise BadInput(f"{root}: holds no results of `loupe pose`; run `loupe pose ig` or `loupe pose epe` first")
    figures: dict[str, list[Array]] = {}
    count, people, ids = 0, tuple[str, ...](), tuple[tuple[str, ...], ...]()
    for kind, names in (("epe", READINGS), ("ig", FIGURES)):
        streams = [Stream(root, kind) for root in roots]
        if not all(stream.folder.is_dir() for stream in streams):
            continue
        common, joined = _joined(streams)
        count = max(count, len(common))
        if not people:
            people, ids = tuple(common), tuple(tuple(one) for one in joined)
        for name, values in _figures(streams, joined, kind, names).items():
            known = np.isfinite(np.stack(values)).all(0)
            figures[name] = [np.where(known, value, np.nan) for value in values]
    if not figures:
        raise BadInput(f"the runs {', '.join(map(str, roots))} have no kind of result in common")
    return Pairing(people, ids, figures, count)


def _joined(streams: Sequence[Stream]) -> tuple[list[str], list[list[str]]]:
    """(the people that all runs have, their ids run by run in that order)."""
    runs = ", ".join(str(stream.root) for stream in streams)
    settings = [stream.settings() for stream in streams]
    if len({one["data_sha256"] for one in settings}) > 1:
        raise BadInput(f"the runs {runs} are of different data sets; compare runs of one")
    by_person = [_people_of(stream) for stream in streams]
    if any(one is None for one in by_person):
        boxes = {(one.get("detections_sha256", ""), one.get("threshold", 0.0)) for one in settings}
        if len(boxes) > 1:
            raise BadInput(
                f"the runs {runs} are of different boxes, and their people cannot be told apart: ids repeat or were not kept"
            )
        by_person = [{id: id for id in stream.ids()} for stream in streams]
    first, *others = [one for one in by_person if one is not None]
    common = [person for person in first if all(person in one for one in others)]
    if not common:
        raise BadInput(f"the runs {runs} have no sample of {streams[0].kind} in common")
    return common, [[one[person] for person in common] for one in (first, *others)]


def _people_of(stream: Stream) -> dict[str, str] | None:
    """person -> id, without boxes on nobody; None where ids of persons repeat, or were not kept by an earlier version."""
    found: dict[str, str] = {}
    for id in stream.ids():
        kept = stream.arrays(id, ("person", "weight"))
        if "person" not in kept or str(kept["person"]) in found:
            return None
        if (kept["weight"] > 0).any():
            found[str(kept["person"])] = id
    return found


def _figures(
    streams: Sequence[Stream], ids: Sequence[Sequence[str]], kind: str, names: Sequence[str]
) -> dict[str, list[Array]]:
    """Figure -> (n, j) of every run; errors of all in pixels of the first run's input."""
    if kind == "ig":
        tables = [table(stream, names, chosen) for stream, chosen in zip(streams, ids, strict=True)]
        return {name: [one[name] for one in tables] for name in names}
    camera = [stream.settings()["coordinates"] == "camera" for stream in streams]
    if len(set(camera)) > 1:
        named = (
            f"{stream.root} in {'camera units' if is_3d else 'pixels'}"
            for stream, is_3d in zip(streams, camera, strict=True)
        )
        raise BadInput(f"errors cannot be compared: {', '.join(named)}")
    found = {}
    for name in names:
        parts = [pixels(stream, name, chosen) for stream, chosen in zip(streams, ids, strict=True)]
        values = [part.errors * (parts[0].zoom / part.zoom)[:, None] for part in parts]
        if any(np.isfinite(value).any() for value in values):
            found[name] = values
    return found
