"""Attribution maps of a pose model over a data set, and the indices that are read on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchloupe.axes import resize
from torchloupe.data.bodies import Crop, Sample
from torchloupe.errors import BadInput
from torchloupe.methods import indices
from torchloupe.methods.blur import (
    Curve,
    along,
    blur,
    blur_curve,
    blurred,
    evenly,
    gauss_legendre,
    scouted,
    straight_curve,
)
from torchloupe.methods.joints import means
from torchloupe.methods.poseig import poseig
from torchloupe.methods.registry import named, options_of
from torchloupe.named import called, fingerprint
from torchloupe.outputs import Maps
from torchloupe.probe import INPUT, Batch, Probe
from torchloupe.runs.pose.study import Made, Study, blamed, crop_of, load, picked, studied
from torchloupe.runs.run import Job, Summary, run
from torchloupe.sources.poses import gaussians, read
from torchloupe.store.records import Artifact
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import Joints, joint_index

Array = NDArray[Any]
BASELINES = ("black", "white", "mean", "blur")
PLACES = ("scouted", "even", "midpoint", "gauss-legendre")
REFERENCE_STEPS = 50
# options of a walk along a path
WALK = ("path", "baseline", "places", "sigma", "taps", "steps", "tolerance", "most", "noise", "power", "seed")


@dataclass(frozen=True)
class Attribution:
    """How maps are made: PoseIG along a path, or any method of the core with the same joint target.

    method: "poseig", or the name of a method. layers: for methods that look at layers.
    score: your own (output, batch) -> scores (n, j), in place of the exponential of the distance.
    path: "blur" or "straight" (from `baseline`: black, white, mean or blur). places, of the gradients on the path:
    "scouted", dense where the scores change; "even", sigma falling as (1 - a)^2 at even a; "midpoint" or "gauss-legendre",
    sigma falling evenly as in the template. On a straight path even and midpoint are one.
    reference: as PoseIG's template: 50 even left-hand steps of the linear blur path, every joint, absolute values over
    their maximum.
    Errors: BadInput for a value that is not known, or an option that would change nothing beside another.
    """

    method: str = "poseig"
    layers: tuple[str, ...] = ()
    path: str = "blur"
    baseline: str = "black"
    places: str = "scouted"
    sigma: float = 19.0
    taps: int = 31
    steps: int = 16
    tolerance: float | None = None
    most: int = 256
    noise: float = 0.0
    power: int = 1
    seed: int = 0
    joints: tuple[int | str, ...] = ()
    score: Callable[[Any, Batch], Tensor] | None = None
    reference: bool = False

    def __post_init__(self) -> None:
        for value, known, name in (
            (self.path, ("blur", "straight"), "--path"),
            (self.baseline, BASELINES, "--baseline"),
            (self.places, PLACES, "--places"),
        ):
            if value not in known:
                raise BadInput(f"{name} is one of {', '.join(known)}, found {value!r}")
        for name, fits, expected in (
            ("tolerance", self.tolerance is None or self.tolerance > 0, "more than 0"),
            ("noise", 0 <= self.noise < math.inf, "0 or more and finite"),
            ("power", self.power >= 1, "1 or more"),
        ):
            if not fits:
                raise BadInput(f"--{name} is {expected}, found {getattr(self, name)}")
        if self.method != "poseig":
            named(self.method)
        self._fits(
            "--reference", self.reference, ("method", "path", "baseline", "places", "steps", "tolerance", "layers")
        )
        taken = self.options()
        walked = [name for name in WALK if name not in taken]
        self._fits(f"--method {self.method}", self.method != "poseig", walked)
        self._fits("--method poseig", self.method == "poseig", ("layers",))
        self._fits("--path blur", self.path == "blur", ("baseline",))
        self._fits("fixed --steps (no --tolerance)", self.tolerance is None and self.most != self.steps, ("most",))
        if self.steps < 1 or self.most < self.steps:
            raise BadInput(f"--steps is 1 or more and --most at least as many, found {self.steps} and {self.most}")

    def _fits(self, given: str, holds: bool, names: Sequence[str]) -> None:
        """Errors: BadInput for an option that would change nothing beside another."""
        for name in names:
            value, plain = getattr(self, name), getattr(type(self), name)
            if holds and value != plain:
                shown = " ".join(value) if isinstance(value, tuple) else value
                raise BadInput(f"--{name} {shown} has no place beside {given}; leave one of them out")

    def target(self, study: Study) -> Joints:
        """The question asked of the model."""
        return Joints(only=self.joints, every=self.reference, score=self.score, names=study.data.skeleton.joints)

    def record(self) -> dict[str, Any]:
        """The options as JSON holds them; layers only where they matter."""
        kept = {**vars(self), "score": ""}
        if self.score is not None:
            kept |= {"score": _called(self.score), "score_sha256": fingerprint(self.score)}
        if self.method != "poseig":
            return {**{key: value for key, value in kept.items() if key not in WALK}, "options": self.options()}
        del kept["layers"]
        return kept | ({"places": "left", "steps": REFERENCE_STEPS} if self.reference else {})

    def options(self) -> dict[str, Any]:
        """Of steps, noise and seed what a method of the core takes, where it is not as it stands here."""
        if self.method == "poseig":
            return {}
        known = options_of(named(self.method))
        plain = {name: getattr(type(self), name) for name in ("steps", "noise", "seed")}
        return {
            name: getattr(self, name) for name, value in plain.items() if name in known and getattr(self, name) != value
        }

    def maps(self, probe: Probe, batch: Batch, crop: Crop) -> Maps:
        """Maps at the input's size, (k, n, 1, h, w) under INPUT."""
        if self.method != "poseig":
            found = named(self.method)(probe.at(*self.layers) if self.layers else probe, batch, **self.options())
            at_size = torch.stack([resize(maps, batch.size) for maps in found.maps.values()]).sum(0)
            return replace(found, maps={INPUT: at_size})
        _, batch = probe.ask(batch)
        options: dict[str, Any] = {"noise": self.noise, "power": self.power, "seed": self.seed}
        if self.reference:
            walk = blur(self.sigma, self.taps, "left", bend=1)
            return poseig(probe, batch, path=walk, steps=REFERENCE_STEPS, **options)
        options |= {"steps": self.steps, "tolerance": self.tolerance, "most": self.most}
        curve = self._curve(crop)
        if self.places == "gauss-legendre":
            first = partial(_first, curve)
            return poseig(probe, batch, path=gauss_legendre(curve), start=first, **options)
        walk = scouted(curve, probe, batch) if self.places == "scouted" else along(curve, evenly)
        return poseig(probe, batch, path=walk, **options)

    def _curve(self, crop: Crop) -> Curve:
        if self.path == "blur":
            return blur_curve(self.sigma, self.taps, bend=2.0 if self.places in ("scouted", "even") else 1.0)
        if self.baseline == "blur":
            return straight_curve(partial(blurred, sigma=self.sigma, taps=self.taps))
        if self.baseline == "mean":
            return straight_curve(lambda x: x.mean((-2, -1), keepdim=True).expand_as(x))
        value = 0.0 if self.baseline == "black" else 1.0
        colour = (value - torch.tensor(crop.mean)) / torch.tensor(crop.std)
        return straight_curve(colour.view(1, 3, 1, 1))


def _called(function: Callable[..., Any]) -> str:
    """Where a function of somebody's own lies, or what kind of object it is."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', type(function).__module__)}:{name}"


def _first(curve: Curve, x: Tensor) -> Tensor:
    return curve(x, torch.zeros(len(x), dtype=torch.float64))


def expected_bytes(study: Study, ids: Sequence[str], reference: bool, precision: str = "float16") -> int:
    """Size of the maps on disk before they are made: one a joint that is asked about."""
    width, height = study.crop.size
    count = len(study.data.skeleton.joints)
    shown = sum(count if reference else int((study.person(id).weight > 0).sum()) for id in ids)
    return shown * width * height * np.dtype(precision).itemsize


@dataclass(frozen=True)
class Attributing:
    """The work behind `loupe pose ig`: maps and indices of samples of a study.

    maps: how they are kept, float16 or float32, each over its own maximum; or none, to keep the indices only.
    Errors: BadInput for a joint, layer or precision that is not known.
    """

    study: Study
    samples: Sequence[str]
    how: Attribution
    maps: str = "float16"

    def __post_init__(self) -> None:
        if self.maps not in ("float16", "float32", "none"):
            raise BadInput(f"maps are kept as float16, float32 or none, found {self.maps!r}")
        names = self.study.data.skeleton.joints
        for joint in self.how.joints:
            joint_index(joint, names, len(names))
        self.probe()

    def probe(self) -> Probe:
        """The question, and where it is asked."""
        subject = self.study.subject
        probe = Probe(subject, self.how.layers or subject.layers or (INPUT,), self.how.target(self.study))
        return probe.at(INPUT) if self.how.method == "poseig" else probe

    def about(self) -> dict[str, Any]:
        """See `runs.run.Work.about`."""
        return {**self.study.record(), "attribution": self.how.record(), "maps": self.maps}

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; numbers of samples."""
        return self.samples

    def asked(self, id: str) -> dict[str, Any]:
        """See `runs.run.Work.asked`; nothing is the sample's own."""
        return {}

    def do(self, ids: Sequence[str]) -> Made:
        """See `runs.run.Work.do`."""
        return blamed(partial(_attributed, self.study, self.how, self.probe(), self.maps), ids)


def attributing(job: Job) -> Attributing:
    """The work of a job. job.model and job.data: see `study.studied`, and which samples: ids, max_samples, every.
    job.ask: the fields of Attribution, score as "module:function", and how maps are kept."""
    ask = dict(job.ask)
    maps = ask.pop("maps", "float16")
    one = studied(job.model, job.data)
    return Attributing(one, picked(one, job.data), asked_for(ask), maps)


def asked_for(ask: Mapping[str, Any]) -> Attribution:
    """An Attribution from plain words."""
    given = {**ask, "layers": tuple(ask.get("layers") or ()), "joints": tuple(ask.get("joints") or ())}
    if given.get("score") is not None:
        given["score"] = called(given["score"], "--score", "a function")
    return Attribution(**given)


def attribute(
    study: Study,
    ids: Sequence[str],
    how: Attribution,
    root: Path,
    *,
    maps: str = "float16",
    batch: int = 1,
    strict: bool = False,
) -> Summary:
    """Maps and indices of the samples into `root`, streaming; a run that was killed goes on where it stopped."""
    work = Attributing(study, ids, how, maps)
    return run(work, Stream(root, "ig"), batch=batch, strict=strict, what="attribution")


def _attributed(study: Study, how: Attribution, probe: Probe, maps: str, ids: Sequence[str]) -> Made:
    loaded, broken = load(study, ids)
    yield from broken.items()
    if loaded is None:
        return
    asked = how.target(study).choose(_blank(study), loaded.batch)["joints"]
    empty = (asked >= 0).sum(1) == 0
    for id, none in zip(loaded.batch.ids, empty.tolist(), strict=True):
        if none:
            yield id, BadInput("no joint of this sample is annotated and asked about")
    rows = (~empty).nonzero().flatten().tolist()
    if not rows:
        return
    _, batch = probe.ask(loaded.batch.take(rows))
    found = how.maps(probe, batch, study.crop)
    for row, number in enumerate(rows):
        yield batch.ids[row], Artifact(_kept(study, how, found, batch, row, loaded.samples[number], maps), {})


def _blank(study: Study) -> Tensor:
    return torch.zeros(1, len(study.data.skeleton.joints), 2)


def _kept(
    study: Study, how: Attribution, found: Maps, batch: Batch, row: int, sample: Sample, precision: str
) -> dict[str, Array]:
    joints = batch.asked["joints"][row]
    k = int((joints >= 0).sum())
    maps = found[INPUT][:k, row, 0].double().cpu()
    scale = maps.abs().amax((-2, -1))
    shown = maps / torch.where(scale > 0, scale, 1.0)[:, None, None]
    if how.reference:
        shown = shown.abs()
    kept: dict[str, Array] = {
        "joints": joints[:k].numpy(),
        "scores": found.scores.value[:k, row].double().cpu().numpy(),
        "scale": scale.numpy(),
        "weight": np.asarray(sample.weight, np.float64),
        "true": np.asarray(sample.joints, np.float64),
        "mask": sample.mask.astype(np.float16),
        "picture": sample.picture,
        "person": np.array(study.person(batch.ids[row]).id),
    }
    for name, values in found.notes.items():
        kept[name] = values[:k, row].double().cpu().numpy()
    # the indices are read on what is stored, so that reading them again from the disk gives the same numbers
    stored = shown.numpy().astype("float16" if precision == "none" else precision)
    kept.update(read_indices(torch.from_numpy(stored), kept, study.crop))
    kept["chance"] = by_chance(sample)
    return kept if precision == "none" else {**kept, "maps": stored}


def read_indices(maps: Tensor, kept: Mapping[str, Array], crop: Crop) -> dict[str, Array]:
    """DI, FI, LI (j,) and RI (j, j) of one sample from its maps (k, h, w); NaN for joints that were not asked about."""
    joints = torch.from_numpy(kept["joints"])
    count = len(kept["weight"])
    heatmaps, weight = gaussians(kept["true"], kept["weight"], crop)
    maps = maps[None].double()
    mask = torch.from_numpy(kept["mask"].astype(np.float64))[None]
    relation = indices.relation(maps, torch.from_numpy(heatmaps)[None])[0]
    found = {
        "DI": indices.diffusion(maps)[0],
        "FI": indices.foreground(maps, mask)[0],
        "LI": relation[torch.arange(len(joints)), joints],
        "RI": relation,
    }
    filled = {}
    for name, values in found.items():
        wide = torch.full((count, *values.shape[1:]), float("nan"), dtype=torch.float64)
        wide[joints] = values
        filled[name] = wide.numpy()
    filled["RI"][:, weight <= 0] = np.nan
    return filled


def stored_indices(root: Path, ids: Sequence[str] | None = None, again: bool = False) -> dict[str, dict[str, Array]]:
    """Indices of the samples of a run, all or these, without the model.

    again: compute them from the stored maps. Errors: BadInput where maps were never computed, or not kept and asked for.
    """
    stream = Stream(root, "ig")
    settings, there = stream.settings(), stream.ids()
    if not there:
        raise BadInput(f"{root}: no maps were computed yet; run `loupe pose ig` first")
    lacking = [id for id in ids or () if id not in there]
    if lacking:
        raise BadInput(
            f"{root}: no maps were computed of {len(lacking)} of the samples asked for ({', '.join(lacking[:5])}"
            f"{' ...' if len(lacking) > 5 else ''}); there are {len(there)}, {there[0]} to {there[-1]}: run `loupe pose ig` "
            "for the others first"
        )
    if again and settings.get("maps") == "none":
        raise BadInput(
            f"{root}: its maps were not kept (--no-save-ig); run `loupe pose ig --save-ig` into a new folder"
        )
    crop = crop_of(settings)
    found = {}
    for id in ids or there:
        kept = stream.arrays(id)
        values = read_indices(torch.from_numpy(kept["maps"]), kept, crop) if again else kept
        found[id] = {name: values[name] for name in ("DI", "FI", "LI", "RI")} | {"weight": kept["weight"]}
    return found


def by_chance(sample: Sample) -> Array:
    """(2, j): FI and LI of |x - blurred x|, by which every gradient on the blur path is multiplied; NaN for joints that are
    not annotated."""
    x, mask, heatmaps = (torch.from_numpy(part)[None].double() for part in (sample.x, sample.mask, sample.heatmaps))
    maps = (x - blurred(x, 19.0)).abs().sum(1, keepdim=True).expand(-1, heatmaps.shape[1], -1, -1)
    both = torch.stack([indices.foreground(maps, mask), indices.locality(maps, heatmaps)])[:, 0].numpy()
    return np.where(sample.weight > 0, both, np.nan)


def chance(study: Study, ids: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean (FI, LI) of maps that know nothing of a network: a uniform one, which is 1 by definition, and the change of the
    picture (see `by_chance`). A map has to be well above the second before it says something of what was learned."""
    stacked = np.stack([by_chance(read(study.person(id), study.crop)) for id in ids], 1)
    return {"uniform map": (1.0, 1.0), "change of the picture alone": (means(stacked[0])[1], means(stacked[1])[1])}
