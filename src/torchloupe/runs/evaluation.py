"""A gait model measured by its data set's protocol: the walks embedded once, then searched. The work behind `loupe gait eval`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe import __version__, store
from torchloupe.arrange import embed_file, is_made
from torchloupe.data.bands import BANDS
from torchloupe.errors import BadInput, one_line
from torchloupe.kinds.evaluation import Evaluation, Failure, Outcome
from torchloupe.metrics.retrieval import PROTOCOLS, Measured, Protocol, Walks, evaluate, protocol
from torchloupe.points import LABELS, Points
from torchloupe.probe import Subject
from torchloupe.runs.progress import progress
from torchloupe.sources.opengait import config_of, model_digest
from torchloupe.sources.points import read_points
from torchloupe.sources.samples import of_walks
from torchloupe.sources.sequences import Hidden, Walk, sequences

NAME = "evaluation"


def evaluated(
    subject: Subject,
    tree: str | Path,
    folder: str | Path,
    *,
    how: str | None = None,
    metric: str | None = None,
    partition: str | Path | None = None,
    without: Sequence[str] = (),
    strict: bool = False,
    told: Mapping[str, Any] | None = None,
) -> Evaluation:
    """The model of a subject by a protocol; embeddings, numbers and failures are kept below the folder.

    how, metric: by default what the config says. partition: a JSON file with TEST_SET, and PROBE_SET or GALLERY_SET where
    the protocol wants them; by default the config's, where it is there. without: parts of BANDS, or folders of masks, that
    are black in the probes, each measured by itself.
    Errors: BadInput for a config without a known protocol, a partition that lacks what the protocol wants, or a tree that
    has none of the protocol's walks.
    """
    config = config_of(subject)
    asked = protocol(how or _protocol_of(config.protocol, config.path))
    named, people = _sets(asked, Path(partition) if partition else config.partition)
    walks = [walk for walk in sequences(tree) if people is None or walk.identity in people]
    if not walks:
        raise BadInput(f"{tree}: none of the people of TEST_SET is in the tree; give their partition, or another tree")
    used = _used(walks, asked)
    for part in without:
        if part not in BANDS and not Path(part).is_dir():
            raise BadInput(f"without {part!r}: expected {', '.join(BANDS)}, or a folder of masks")
    about = {"model sha256": model_digest(subject), "version": __version__}
    top = Path(folder)

    def embedded(some: Sequence[Walk], name: str, part: str) -> Points:
        data, file = of_walks(some), top / f"{name}.npz"
        record = {**about, "without": part}
        if is_made(file, {**record, "model": subject.spec}, data.stamp):
            return read_points(file)
        with progress("sequences", len(data)) as bar:
            return embed_file(subject, data, file, strict=strict, record=record, progress=lambda *_: bar.advance())

    whole = as_walks(embedded(used, "feats", ""))
    measure = metric or config.metric
    found = evaluate(whole, asked, measure, named=named)
    hidden: dict[str, dict[str, Mapping[str, float]]] = {}
    rows = sorted({int(row) for one in found for row in one.probes})
    by_name = {walk.name: walk for walk in used}
    for part in without:
        probes = [by_name[str(whole.names[row])] for row in rows]
        changed = [Hidden(*(walk.identity, walk.condition, walk.view, walk.files), part=part) for walk in probes]
        made = as_walks(embedded(changed, f"feats-without-{store.safe_name(Path(part).name)}", part))
        held, kept = _swapped(whole, made, set(rows))
        some = Walks(*(getattr(whole, name)[kept] for name in ("embeddings", "names", "identities", "types", "views")))
        hidden[part] = {
            one.setting: one.numbers for one in evaluate(some, asked, measure, named=named, probes=held[kept])
        }
    made_by = {
        **(told or {}),
        **about,
        "model": subject.spec,
        "data": str(tree),
        "weights": subject.notes.get("weights"),
    }
    result = replace(_told(found, whole, asked, measure), hidden=hidden, told=made_by)
    store.save(top, NAME, result.arrays(), result.record)
    store.whole(top / "failures.csv", listed(result.failures()))
    return result


def evaluation(walks: Walks, how: Protocol, metric: str, named: Sequence[str] = ()) -> Evaluation:
    """Embedded walks by a protocol, see metrics.retrieval.evaluate."""
    return _told(evaluate(walks, how, metric, named=named), walks, how, metric)


def _told(found: Sequence[Measured], walks: Walks, how: Protocol, metric: str) -> Evaluation:
    outcomes = {one.setting: _outcome(one, walks, how) for one in found}
    return Evaluation(how.name, metric, how.exclude, outcomes, {one.setting: one.numbers for one in found})


def _swapped(whole: Walks, changed: Walks, rows: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings with those of the changed probes in their rows, (N,) bool: all but the probes that could not be embedded)."""
    place = {str(name): row for row, name in enumerate(changed.names)}
    held, kept = whole.embeddings.copy(), np.ones(len(whole), bool)
    for row in rows:
        name = str(whole.names[row])
        kept[row] = name in place
        if kept[row]:
            held[row] = changed.embeddings[place[name]]
    return held, kept


def as_walks(points: Points) -> Walks:
    """Embedded walks out of a features file. Errors: BadInput for features without the columns of walks."""
    lacking = [name for name in (LABELS, "type", "view") if name not in points.columns]
    if lacking:
        raise BadInput(
            f"features without {', '.join(lacking)}; expected those of gait sequences, such as loupe gait eval keeps"
        )
    feats = points.feats if points.feats.ndim == 3 else points.feats[..., None]
    texts = (points.ids, *(points.columns[name] for name in (LABELS, "type", "view")))
    return Walks(np.asarray(feats), *(np.asarray(text).astype(str) for text in texts))


def listed(failures: Sequence[Failure]) -> str:
    """Failures as CSV."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(Failure._fields)
    for one in failures:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in one])
    return made.getvalue()


def read_evaluation(folder: str | Path) -> Evaluation:
    """The evaluation in a folder. Errors: BadInput where there is none."""
    file = Path(folder) / f"{NAME}.npz" if Path(folder).is_dir() else Path(folder)
    if not file.is_file():
        raise BadInput(f"{folder}: no evaluation there; expected a folder that loupe gait eval wrote")
    arrays, record = store.load(file)
    return Evaluation.read(arrays, record, str(file))


def _protocol_of(name: str, config: Path) -> str:
    if name not in PROTOCOLS:
        told = f"means {name!r}" if name else "names no evaluator of retrieval"
        raise BadInput(f"{config}: eval_func and test_dataset_name {told}; name a protocol: {', '.join(PROTOCOLS)}")
    return name


def _sets(asked: Protocol, partition: Path | None) -> tuple[list[str], set[str] | None]:
    """(names of the protocol's probes or gallery, people to test or None for all)."""
    key = {"probe": "PROBE_SET", "gallery": "GALLERY_SET", "": ""}[asked.sets]
    if partition is None:
        if key:
            raise BadInput(f"protocol {asked.name} wants a partition file with {key}; give it with --partition")
        return [], None
    try:
        content = json.loads(Path(partition).read_text(encoding="utf-8"))
        named = [str(one) for one in content[key]] if key else []
        people = {str(one) for one in content["TEST_SET"]} if content.get("TEST_SET") else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{partition}: expected a JSON mapping with TEST_SET{' and ' + key if key else ''} ({one_line(str(error))})"
        ) from None
    return named, people


def _used(walks: Sequence[Walk], asked: Protocol) -> list[Walk]:
    """The walks that any setting is about."""
    if asked.sets:
        return list(walks)
    words = [(word, setting.holds) for setting in asked.settings for word in (*setting.probe, *setting.gallery)]

    def fits(condition: str) -> bool:
        return any(word in condition if holds else word == condition for word, holds in words)

    found = [walk for walk in walks if fits(walk.condition)]
    if not found:
        kinds = ", ".join(sorted({walk.condition for walk in walks})[:6])
        raise BadInput(
            f"protocol {asked.name}: none of {len(walks)} walks is of its types; the types there are: {kinds}"
        )
    return found


def _outcome(one: Measured, walks: Walks, asked: Protocol) -> Outcome:
    def names(rows: np.ndarray) -> np.ndarray:
        return np.where(rows >= 0, walks.names[rows], "")

    views = np.char.partition(walks.views, "_")[..., 0] if asked.cameras else walks.views
    return Outcome(
        walks.names[one.probes],
        names(one.nearest),
        names(one.match),
        one.to_nearest,
        one.to_match,
        one.first,
        one.precision,
        walks.names[one.items],
        np.unique(views[np.concatenate([one.probes, one.items])]),
        one.tables,
    )
