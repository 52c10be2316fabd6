"""Gait retrieval from end to end: embed a gallery, ask why a probe is near an item of it, keep the answer."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchloupe import store
from torchloupe.errors import BadInput, BadSample, LoupeError, LoupeWarning
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.methods.registry import named
from torchloupe.names import split_call
from torchloupe.networks.gait.layers import windows
from torchloupe.networks.gait.skeletons import skeleton
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.sources.opengait import config_of, inner_pictures, model_digest, part_rows, place_of
from torchloupe.sources.sequences import Walk
from torchloupe.store.reading import reading
from torchloupe.targets.retrieval import Gallery, Pair, Retrieval, between
from torchloupe.trace import find_layout, tracing

RUNNERS_UP = 5
# of the length of an embedding: nearer is as near as the same data comes in single precision
NO_DISTANCE = 1e-6


def embed_gallery(
    subject: Subject,
    walks: Sequence[Walk],
    *,
    metric: str | None = None,
    cache: str | Path | None = None,
    strict: bool = False,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """The gallery of these walks, embedded one by one without gradients.

    metric: 'euc' or 'cos'; by default what the config says. cache: a folder; what was embedded once by the same model
    from the same data is read from there. strict: a bad walk stops; otherwise it is told and left out.
    Errors: BadInput where nothing is left, or walks differ in the shape of their embedding.
    """
    config, prepare = config_of(subject), _reader(subject)
    digests: dict[str, str] = {}
    rows, kept, contents = [], [], []
    lost: list[str] = []
    for walk in walks:
        with _left_out(lost, strict):
            digests[walk.name] = walk.digest()
    readable = [walk for walk in walks if walk.name in digests]
    key = _key(model_digest(subject), digests)
    file = Path(cache) / f"gallery-{key[:16]}.npz" if cache is not None else None
    held = _cached(file) if file is not None and file.exists() else None
    if held is not None:
        absent = [walk.name for walk in readable if walk.name not in held.names]
        if not (absent and strict):
            if absent:
                text = f"left out of the gallery: {len(absent)} of {len(walks)} sequences, bad when it was embedded"
                warnings.warn(f"{text} ({', '.join(absent[:5])})", LoupeWarning, stacklevel=2)
            return replace(held, metric=metric or config.metric)
    with subject.asked() as own, torch.no_grad():
        for done, walk in enumerate(readable, 1):
            with _left_out(lost, strict):
                batch = prepare(walk)
                row = own.output(batch)[0].float().cpu()
                if not torch.isfinite(row).all():
                    raise BadInput(
                        f"{walk.name}: the embedding is not finite (NaN or infinite); check the weights and the transforms"
                    )
                rows.append(row)
                kept.append(walk)
                contents.append(content(batch))
            tell(done, len(readable))
    if not rows:
        raise BadInput(f"gallery: none of {len(walks)} sequences could be embedded; the last: {lost[-1]}")
    made = Gallery(
        torch.stack(rows),
        tuple(walk.name for walk in kept),
        tuple(walk.identity for walk in kept),
        metric or config.metric,
        key,
        tuple(contents),
        tuple(walk.condition for walk in kept),
        tuple(walk.view for walk in kept),
    )
    if file is not None:
        _write(file, made)
    return made


def content(batch: Batch) -> str:
    """sha256 over what the model is fed, whatever files it came from."""
    state = hashlib.sha256()
    inputs = {"x": batch.x, **{key: value for key, value in batch.extra.items() if isinstance(value, Tensor)}}
    for name, value in sorted(inputs.items()):
        state.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        state.update(value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _reader(subject: Subject) -> Callable[..., Batch]:
    """How the subject takes a walk. Errors: BadInput for a subject that takes none."""
    config = config_of(subject)
    if subject.prepare is None:
        raise BadInput(f"{subject.spec or config.model}: cannot read walks (its prepare is None)")
    return subject.prepare


@contextmanager
def _left_out(lost: list[str], strict: bool) -> Iterator[None]:
    """What goes wrong inside with one walk is told and noted; strict: raised."""
    try:
        yield
    except LoupeError as error:
        if strict:
            raise
        lost.append(str(error))
        # of embed_gallery's caller, past this and the two of contextlib
        warnings.warn(f"left out of the gallery: {error}", LoupeWarning, stacklevel=4)


def _key(model: str, digests: Mapping[str, str]) -> str:
    text = model + "".join(f"{name} {value}\n" for name, value in digests.items())
    return hashlib.sha256(text.encode()).hexdigest()


def _cached(file: Path) -> Gallery | None:
    """The gallery as it was kept; None where it is damaged, or of a version that knew files only: it is made anew."""
    names = ("names", "identities", "contents", "conditions", "views")
    try:
        with reading(file, "a gallery"):
            held = store.load_arrays(file)
            texts = {key: tuple(map(str, held[key].tolist())) for key in names}
            digest, rows = str(held["digest"].reshape(-1)[0]), torch.from_numpy(held["embeddings"])
    except LoupeError:
        return None
    if {len(rows), *map(len, texts.values())} != {len(rows)} or not torch.isfinite(rows).all():
        return None
    return Gallery(
        rows, texts["names"], texts["identities"], "euc", digest, texts["contents"], texts["conditions"], texts["views"]
    )


def _write(file: Path, gallery: Gallery) -> None:
    arrays = {
        "embeddings": gallery.embeddings.numpy(),
        "names": np.array(gallery.names),
        "identities": np.array(gallery.identities),
        "conditions": np.array(gallery.conditions),
        "views": np.array(gallery.views),
        "contents": np.array(gallery.digests),
        "digest": np.array(gallery.digest),
    }
    store.save(file.parent, file.stem, arrays, {"kind": "gait gallery", "items": len(gallery.names)})


class _Heard:
    """A target that remembers the first output that it was asked about, and the item that was chosen for it."""

    def __init__(self, target: Retrieval) -> None:
        self.target = target
        self.output: Tensor | None = None
        self.item: Tensor | None = None

    def __repr__(self) -> str:
        return repr(self.target)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return self.target.choose(output, batch)

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        asked = batch.asked or self.target.choose(output, batch)
        if self.output is None:
            self.output, self.item = output.detach(), asked["item"]
        return self.target(output, replace(batch, asked=asked))


def about_walk(
    subject: Subject, walk: Walk, target: Retrieval, *, exclude: Sequence[str] = (), among: Sequence[str] | None = None
) -> tuple[Batch, list[bool]]:
    """A probe as the model takes it, with what the target must know, and which items of the gallery are no candidates for it.

    Options as of `explain_walk`. Errors: BadSample for a walk that does not fit; LoupeWarning where it is itself in the gallery.
    """
    gallery = target.gallery
    try:
        batch = _reader(subject)(walk)
    except BadInput as error:
        raise BadSample(str(error)) from error
    own = content(batch)
    twins = [name for name, other in zip(gallery.names, gallery.digests, strict=True) if other == own]
    same = [name == walk.name or name in twins for name in gallery.names]
    if isinstance(target, Pair) and target.name in twins:
        raise BadSample(f"{walk.name} is the same data as {target.name}: distance 0, nothing to explain")
    if others := [name for name in twins if name != walk.name]:
        told = f"{walk.name} is the same data as {', '.join(others)} (distance 0); left out there"
        warnings.warn(told, LoupeWarning, stacklevel=3)
    elif any(same):
        warnings.warn(f"{walk.name} is itself in the gallery; left out there", LoupeWarning, stacklevel=3)
    away = gallery.excluded(exclude, walk.identity, walk.condition, walk.view)
    if among is not None:
        away = [one or name not in among for one, name in zip(away, gallery.names, strict=True)]
    same = [one or other for one, other in zip(same, away, strict=True)]
    return gallery.about(batch, [walk.identity], torch.tensor([same])), same


def explain_walk(
    subject: Subject,
    walk: Walk,
    target: Retrieval,
    layers: Sequence[str] = (),
    *,
    method: str = "gradcam",
    options: Mapping[str, Any] | None = None,
    gallery_walks: Iterable[Walk] = (),
    exclude: Sequence[str] = (),
    among: Sequence[str] | None = None,
) -> SequenceMaps:
    """Why this probe is as far from the gallery item as the target asks.

    layers: dotted names; by default the model's own. method: a published name; options go to it.
    gallery_walks: where the pictures of the answer are found. exclude: rules of targets.retrieval.EXCLUDE, of items that
    are no candidates for this probe. among: names of the items that are; None for all.
    Errors: BadSample for a walk that does not fit, BadInput for a layer that does not; LoupeWarning where the probe is itself in the gallery.
    """
    gallery, config = target.gallery, config_of(subject)
    batch, same = about_walk(subject, walk, target, exclude=exclude, among=among)
    heard = _Heard(target)
    probe = Probe(subject, tuple(layers) or subject.layers or last_pictures(subject, target, batch), heard)
    found = named(method)(probe, batch, **(options or {}))
    if heard.output is None or heard.item is None:
        raise BadInput(f"method {method} asked no question")
    if found.empty:
        dark = ", ".join(dict.fromkeys(layer for layer, _, _ in found.empty))
        text = f"{walk.name}: nothing speaks for it at {dark}, the map is 0 everywhere; try --signed, or another method"
        warnings.warn(text, LoupeWarning, stacklevel=2)
    answers = tuple(gallery.names[i] for i in heard.item[0].tolist())
    every = gallery.distances(heard.output)[0].cpu()
    scale = float(torch.linalg.vector_norm(heard.output[0].float(), dim=0).mean()) if gallery.metric == "euc" else 1.0
    for name, i in zip(answers, heard.item[0].tolist(), strict=True):
        if float(every[i]) <= NO_DISTANCE * scale:
            text = f"{walk.name}: its distance to {name} is 0: the model cannot tell them apart, and no map can say why"
            warnings.warn(text, LoupeWarning, stacklevel=2)
    ranked = every.masked_fill(torch.tensor(same), float("inf"))
    order = [i for i in ranked.argsort(stable=True).tolist() if not same[i]][: RUNNERS_UP + 1]
    shelf = {other.name: other for other in gallery_walks}
    return SequenceMaps(
        name=walk.name,
        identity=walk.identity,
        condition=walk.condition,
        view=walk.view,
        model=config.model,
        method=method,
        options=json.dumps(dict(options or {}), sort_keys=True),
        target=repr(target),
        questions=tuple(label[0] for label in found.scores.labels),
        scores=tuple(float(value) for value in found.scores.value[:, 0]),
        answers=answers,
        gallery=tuple(gallery.names[i] for i in order),
        distances=tuple(float(ranked[i]) for i in order),
        signed=found.signed,
        **_by_part(subject, gallery, heard.output, [int(heard.item[0, 0]), *_pair(ranked, gallery, walk.identity)]),
        **_answered(subject, shelf.get(answers[0])),
        **laid_out(subject, found, batch),
        **_shown(subject, batch),
    )


def _pair(ranked: Tensor, gallery: Gallery, identity: str) -> list[int]:
    """The nearest item of the same person and of another one, of those that are not infinitely far; -1 without one."""
    own = torch.tensor([name == identity for name in gallery.identities])
    found = []
    for some in (own, ~own):
        far = ranked.masked_fill(~some, float("inf"))
        found.append(int(far.argmin()) if torch.isfinite(far).any() else -1)
    return found


def _by_part(subject: Subject, gallery: Gallery, output: Tensor, items: Sequence[int]) -> dict[str, Any]:
    """Distances by part to the answer, the match and the rival, and the rows of the body that the parts see."""
    made = {}
    for name, item in zip(("part_answer", "part_match", "part_rival"), items, strict=True):
        if item >= 0:
            other = gallery.embeddings[item : item + 1].to(output)
            made[name] = between(output[:1], other, gallery.metric)[0].float().cpu().numpy()
    return {**made, "part_rows": part_rows(config_of(subject), output.shape[2])}


def last_pictures(subject: Subject, target: Retrieval, batch: Batch) -> tuple[str, ...]:
    """The last layer with picture axes that the score depends on, in a network that no table describes.

    Heads whose results only a loss reads run last in many gait models; they have strips, or lead nowhere.
    """
    with subject.asked() as own, torch.no_grad(), tracing(own.module) as trace:
        own.output(batch)
    for visit in reversed(trace.visits):
        layout = find_layout(visit, trace, batch.n, batch.size) if visit.name and visit.shapes else ""
        # a matrix of channels and strips reads as folded tokens, and a pooled layer says nothing of the frames
        if isinstance(layout, str) or "w" not in layout.pattern or layout.folded or "t" not in layout.pattern:
            continue
        if min(visit.shapes[0][layout.axis(letter)] for letter in "hw") > 1:
            try:
                Probe(subject, (visit.name,), target)(batch)
            except LoupeError:
                continue
            return (visit.name,)
    raise BadInput(f"{subject.spec}: no layer with image axes was found; name one with --layers")


def laid_out(subject: Subject, found: Maps, batch: Batch) -> dict[str, Any]:
    """Maps (k, t', h', w') by layer, the frames of their time steps, and what to know about them."""
    maps, frames, words, under = {}, {}, {}, {}
    for layer, value in found.maps.items():
        array = value[:, 0].float().cpu().numpy()
        place = place_of(subject, layer)
        length, whole = array.shape[1], batch.size[0]
        words[layer] = place.word if place is not None else ""
        band = place.band if place is not None else None
        call = split_call(layer)[1]
        if place is not None and place.layout is not None and place.layout.join == "h" and call is not None:
            # one call of a convolution that runs on strips of the height one by one
            band = call, round(batch.size[1] * array.shape[3] / (batch.size[2] * array.shape[2]))
            words[layer] = f"strip {band[0] + 1} of {band[1]}"
        if band is not None:
            number, rows = band[0], array.shape[2]
            wide = np.zeros((*array.shape[:2], band[1] * rows, array.shape[3]), np.float32)
            wide[:, :, number * rows : (number + 1) * rows] = array
            array = wide
        if length == 1 and whole > 1 and not words[layer]:
            words[layer] = "one map for all frames"
        maps[layer] = array
        frames[layer] = np.array(windows(length, whole, place.step if place is not None else None))
    shown = () if batch.pictures is None else tuple(batch.pictures.shape[2:4])
    odd = [layer for layer, array in maps.items() if shown and not _shaped(array.shape[2:], shown)]
    for picture in inner_pictures(subject, batch) if odd else []:
        for layer in odd:
            if layer not in under and _shaped(maps[layer].shape[2:], picture.shape[1:]):
                under[layer] = picture
                text = f"on the {picture.shape[1]} x {picture.shape[2]} picture that the model makes"
                words[layer] = ", ".join(part for part in (words[layer], text) if part)
    return {"maps": maps, "windows": frames, "words": words, "under": under}


def _shaped(cells: tuple[int, ...], picture: tuple[int, ...]) -> bool:
    """Whether rows and columns of a map cover a picture of this shape with nearly square cells; strips always do."""
    return min(cells) == 1 or 0.8 < cells[0] * picture[1] / (cells[1] * picture[0]) < 1.25


def _shown(subject: Subject, batch: Batch) -> dict[str, Any]:
    pose = batch.truth.get("pose")
    if pose is not None:
        shape = skeleton(config_of(subject).joints)
        return {"poses": pose[0].numpy(), "joints": shape.joints, "limbs": np.array(shape.edges)}
    return {} if batch.pictures is None else {"imgs": batch.pictures[0, ..., 0].numpy()}


def _answered(subject: Subject, walk: Walk | None) -> dict[str, Any]:
    if walk is None:
        return {}
    shown = _shown(subject, _reader(subject)(walk))
    return {f"answer_{key}": shown[key] for key in ("imgs", "poses") if key in shown}


def record(subject: Subject, made: SequenceMaps, gallery: Gallery, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """How a result was made, for JSON."""
    from torchloupe import __version__

    config = config_of(subject)
    return {
        "probe": made.name,
        "model": made.model,
        "config": str(config.path),
        "default config": str(config.merged) if config.merged else None,
        "weights": subject.notes.get("weights"),
        "model and evaluation sha256": model_digest(subject),
        "method": {"name": made.method, **json.loads(made.options)},
        "target": made.target,
        "exclude": list(exclude),
        "verdict": _verdict(made, gallery),
        "metric": gallery.metric,
        "gallery": {"items": len(gallery.names), "sha256": gallery.digest},
        "questions": list(made.questions),
        "scores": list(made.scores),
        "answers": list(made.answers),
        "nearest items": dict(zip(made.gallery, made.distances, strict=True)),
        "layers": {
            layer: {"shape": list(made.maps[layer].shape), "note": made.words.get(layer, "")} for layer in made.layers
        },
        "frames": made.frames,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "versions": {"torchloupe": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def _verdict(made: SequenceMaps, gallery: Gallery) -> str:
    """Whether the item that was chosen shows the probe's person; "" where the gallery does not show them at all."""
    if made.identity not in gallery.identities or not made.answers:
        return ""
    return "right" if gallery.identities[gallery.names.index(made.answers[0])] == made.identity else "wrong"
