"""The diagnosis of a pose model over a data set: attribution maps and indices, errors, inversions, comparison."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchloupe import sources
from torchloupe.axes import resize
from torchloupe.errors import BadInput, BadSample, LoupeError
from torchloupe.methods import indices, keypoints
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
from torchloupe.methods.poseig import poseig
from torchloupe.methods.registry import named, options_of
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.results import Maps
from torchloupe.runs.run import Asking, Summary, run
from torchloupe.sources.assemble import Options
from torchloupe.sources.hrnet import Experiment, described
from torchloupe.sources.mmpose import Decode, estimator
from torchloupe.sources.poses import (
    Crop,
    Person,
    PoseData,
    Sample,
    affine,
    coco,
    gaussians,
    inverse,
    located,
    moved,
    mpii,
    read,
    rhd,
)
from torchloupe.store import sha256
from torchloupe.store.records import Artifact
from torchloupe.store.stream import Stream
from torchloupe.taps import restored
from torchloupe.targets.pose import Joints, exchanged, joint_index, merge_mirrored, peaks, predicted, true

Array = NDArray[Any]
Coordinates = Literal["input", "unit", "camera"]
BASELINES = ("black", "white", "mean", "blur")
PLACES = ("scouted", "even", "midpoint", "gauss-legendre")
REFERENCE_STEPS = 50
# options of a walk along a path
WALK = ("path", "baseline", "places", "sigma", "taps", "steps", "tolerance", "most", "noise", "power", "seed")


@dataclass(frozen=True)
class Reading:
    """How joints are read from the output for PCK and AP, where soft-argmax coordinates would not be what is published.

    flip: average with the mirrored picture; shift: move the mirrored heatmaps by a pixel; quarter: move peaks a quarter
    pixel towards the higher neighbour. visible, limit: least confidence that counts for the score of a pose, and OKS above
    which a pose is suppressed. decode: the model's own way instead of peaks.
    """

    flip: bool = False
    shift: bool = False
    quarter: bool = True
    visible: float = 0.2
    limit: float = 0.9
    decode: Decode | None = None


@dataclass(frozen=True)
class Study:
    """A pose model and the data that it is asked about.

    subject reads heatmaps (n, j, h, w) or coordinates (n, j, 2 or 3); `coordinates` says what the latter mean: pixels of
    the input, shares of its sides, or the annotation's camera units. facts: where model and data came from, for the
    record; results made under other facts are not mixed.
    """

    subject: Subject
    data: PoseData
    crop: Crop
    coordinates: Coordinates = "input"
    facts: Mapping[str, Any] = field(default_factory=dict)
    reading: Reading = Reading()

    def record(self) -> dict[str, Any]:
        """What every result of this study says about itself."""
        skeleton = self.data.skeleton
        return {
            **self.facts,
            "data": Path(self.data.source).name,
            "data_sha256": self.data.sha256(),
            "crop": asdict(self.crop),
            "coordinates": self.coordinates,
            "skeleton": asdict(skeleton),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }

    def person(self, id: str) -> Person:
        """The person of a sample number. Errors: BadInput for a number that the data set does not have."""
        if not id.isdigit() or int(id) >= len(self.data):
            raise BadInput(f"sample {id}: the data set has {len(self.data)} samples, 0 to {len(self.data) - 1}")
        return self.data.people[int(id)]


def study(
    *,
    config: Experiment | None = None,
    model: str | nn.Module | None = None,
    data: str | Path | Callable[[Crop], PoseData] | None = None,
    options: Options | None = None,
    annotations: str | Path | None = None,
    detections: str | Path | None = None,
    kind: str = "",
    crop: Crop | None = None,
    coordinates: Coordinates = "input",
) -> Study:
    """A study from an experiment file, or from any model spec or module; its data COCO, MPII or RHD, or what your own
    function makes of the crop.

    With an experiment file the crop, the kind of data, its root and the detections come from there where they are not
    given. Without one the heatmaps' size is found by one forward.
    Errors: BadInput for what is missing or does not fit.
    """
    if (config is None) == (model is None):
        raise BadInput("give either a config (--cfg) or a model (--model)")
    options, reading = options or Options(), Reading()
    split, threshold = "val2017", 0.0
    if config is not None:
        subject = described(config, replace(options, spec=f"hrnet:{config.source}"))
        crop = Crop(config.image_size, config.heatmap_size, config["MODEL.SIGMA"], config["DATASET.COLOR_RGB"])
        test = config["TEST"]
        reading = Reading(
            *(test[key] for key in ("FLIP_TEST", "SHIFT_HEATMAP", "POST_PROCESS", "IN_VIS_THRE", "OKS_THRE"))
        )
        kind, split, threshold = (
            kind or config["DATASET.DATASET"],
            config["DATASET.TEST_SET"],
            test["IMAGE_THRE"],
        )
        data = data or config["DATASET.ROOT"] or None
        if not test["USE_GT_BBOX"]:
            detections = detections or test["COCO_BBOX_FILE"] or None
    elif isinstance(model, str) and model.startswith("mmpose:"):
        if coordinates != "input":
            raise BadInput(
                f"--coordinates {coordinates}: coordinates of mmpose's heads are read in pixels of the input"
            )
        found = estimator(model.partition(":")[2], options)
        subject, crop = found.subject, found.crop
        reading = Reading(flip=found.flip, decode=found.decode)
        data, annotations = (
            (data, annotations) if data else (found.root or None, annotations or found.annotations or None)
        )
    else:
        crop = crop or Crop()
        subject = open_subject(model, replace(options, size=options.size or crop.size[::-1]))
        crop = _with_heatmap(subject, crop)
    if data is None:
        raise BadInput("no data set: give its folder to --data, or DATASET.ROOT in the config")
    people = (
        _made(data, crop)
        if callable(data)
        else _people(kind or "coco", data, split, annotations, detections, crop, threshold)
    )
    if not people.people:
        left = ", ".join(f"{count} {reason}" for reason, count in people.left_out.items())
        raise BadInput(f"{people.source}: no sample to look at" + (f"; left out: {left}" if left else ""))
    facts = {
        "model": subject.spec if config is None else config["MODEL.NAME"],
        "weights_sha256": _state_sha256(subject.module),
        "joints": len(people.skeleton.joints),
        "detections_sha256": sha256(detections) if detections and kind != "mpii" else "",
    }
    if facts["detections_sha256"] and threshold:
        # the numbers of samples count the boxes above it
        facts["threshold"] = threshold
    return Study(subject, people, crop, coordinates, facts, reading)


def open_subject(model: str | nn.Module | None, options: Options) -> Subject:
    """A model from its spec, or a module as it is."""
    assert model is not None
    given = {key: value for key, value in vars(options).items() if key != "spec"}
    return replace(sources.subject(model, **given), kind="pose")


def _with_heatmap(subject: Subject, crop: Crop) -> Crop:
    """The crop with the size of the heatmaps that the model makes of it."""
    width, height = crop.size
    made = outputs(subject, Batch(torch.zeros(1, 3, height, width)))
    return replace(crop, heatmap=(made.shape[-1], made.shape[-2])) if made.ndim == 4 else crop


def _made(data: Callable[[Crop], PoseData], crop: Crop) -> PoseData:
    name = getattr(data, "__qualname__", type(data).__name__)
    try:
        found = data(crop)
    except LoupeError:
        raise
    except Exception as error:  # a stranger's function may fail in any way
        raise BadInput(f"the data set {name} failed with {type(error).__name__}: {error}") from error
    if not isinstance(found, PoseData):
        raise BadInput(f"the data set {name} is expected to give PoseData, found {type(found).__name__}")
    return found


def _people(
    kind: str,
    data: str | Path,
    split: str,
    annotations: str | Path | None,
    detections: str | Path | None,
    crop: Crop,
    threshold: float,
) -> PoseData:
    if kind not in ("coco", "mpii", "rhd"):
        raise BadInput(f"data set {kind!r}: known are coco, mpii and rhd")
    path, folder = located(data, split, kind, annotations)
    if kind == "mpii":
        return mpii(path, folder, crop)
    if detections is not None and not Path(detections).exists():
        raise BadInput(
            f"{detections}: no such detections file; for annotated boxes put TEST.USE_GT_BBOX True behind the command"
        )
    return (rhd if kind == "rhd" else coco)(path, folder, crop, detections=detections, threshold=threshold)


def _state_sha256(module: nn.Module) -> str:
    """A hash of all weights, so that results of another checkpoint are told apart however it was loaded."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
    return digest.hexdigest()


def chosen(study: Study, ids: Sequence[int] = (), most: int | None = None, every: int = 1) -> list[str]:
    """Sample numbers: those named, or every so-maniest of the data set, at most so many.

    Errors: BadInput for a number that the data set does not have, or a step or count below 1.
    """
    found = list(dict.fromkeys(str(number) for number in ids or range(len(study.data))))
    found = thinned(found, most, 1 if ids else every)
    for id in found:
        study.person(id)
    return found


def thinned(ids: Sequence[str], most: int | None = None, every: int = 1) -> list[str]:
    """Every so-maniest id, at most so many. Errors: BadInput for a step or count below 1."""
    if every < 1 or (most is not None and most < 1):
        raise BadInput(f"--every and --max-samples are 1 or more, found {every} and {most}")
    return list(ids)[::every][:most]


@dataclass(frozen=True)
class Loaded:
    """Samples of one batch that could be read, as a batch, with what the diagnosis knows beside it."""

    batch: Batch
    samples: Sequence[Sample]
    people: Sequence[Person]


def load(study: Study, ids: Sequence[str]) -> tuple[Loaded | None, dict[str, LoupeError]]:
    """Read samples; those that cannot be read come back as errors by id."""
    samples, people, broken = {}, {}, {}
    for id in ids:
        people[id] = study.person(id)
        try:
            samples[id] = read(people[id], study.crop)
        except LoupeError as error:
            broken[id] = error
    if not samples:
        return None, broken
    parts = list(samples.values())

    def stack(name: str) -> Tensor:
        return torch.from_numpy(np.stack([np.ascontiguousarray(getattr(one, name)) for one in parts]))

    coordinates = stack("camera" if study.coordinates == "camera" else "joints").float()
    if study.coordinates == "unit":
        coordinates = coordinates / torch.tensor(study.crop.size)
    truth = {"heatmaps": stack("heatmaps"), "weight": stack("weight"), "coordinates": coordinates}
    batch = Batch(stack("x"), ids=tuple(samples), truth=truth, pictures=stack("picture")[:, None])
    return Loaded(batch, parts, [people[id] for id in samples]), broken


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
            kept |= {"score": _called(self.score), "score_sha256": _source_sha256(self.score)}
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


def _source_sha256(function: Callable[..., Any]) -> str:
    """A hash of the file of a function, so that results of its earlier text are told apart; '' where there is none."""
    while isinstance(function, partial):
        function = function.func
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        path = inspect.getsourcefile(type(function))
    return sha256(path) if path and Path(path).is_file() else ""


def _first(curve: Curve, x: Tensor) -> Tensor:
    return curve(x, torch.zeros(len(x), dtype=torch.float64))


def expected_bytes(study: Study, ids: Sequence[str], reference: bool, precision: str = "float16") -> int:
    """Size of the maps on disk before they are made: one a joint that is asked about."""
    width, height = study.crop.size
    count = len(study.data.skeleton.joints)
    shown = sum(count if reference else int((study.person(id).weight > 0).sum()) for id in ids)
    return shown * width * height * np.dtype(precision).itemsize


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
    """Maps and indices of the samples into `root`, streaming; a run that was killed goes on where it stopped.

    maps: how they are kept, float16 or float32, each over its own maximum; or none, to keep the indices only.
    """
    if maps not in ("float16", "float32", "none"):
        raise BadInput(f"maps are kept as float16, float32 or none, found {maps!r}")
    names = study.data.skeleton.joints
    for joint in how.joints:
        joint_index(joint, names, len(names))
    probe = Probe(study.subject, how.layers or study.subject.layers or (INPUT,), how.target(study))
    if how.method == "poseig":
        probe = probe.at(INPUT)
    # only when all options were found right is anything written
    stream = Stream(root, "ig")
    about = {**study.record(), "attribution": how.record(), "maps": maps}
    work = Asking(ids, partial(_blamed, partial(_attributed, study, how, probe, maps)), about)
    return run(work, stream, batch=batch, strict=strict, what="attribution")


Made = Iterator[tuple[str, Artifact | LoupeError]]


def _blamed(work: Callable[[Sequence[str]], Made], ids: Sequence[str]) -> Made:
    """What work makes of a batch; whatever it cannot answer is some sample's fault."""
    try:
        yield from list(work(ids))
    except LoupeError as error:
        raise BadSample(str(error)) from error


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


def crop_of(settings: Mapping[str, Any]) -> Crop:
    """The crop that a record speaks of."""
    kept: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings["crop"].items()}
    return Crop(**kept)


def outputs(subject: Subject, batch: Batch) -> Tensor:
    """What the model gives, on the CPU, without gradient. Errors: BadInput where that is no tensor."""
    with restored(subject.module), torch.no_grad():
        found = subject.output(batch)
    if not isinstance(found, Tensor):
        raise BadInput(f"{subject.spec}: gave {type(found).__name__}; expected heatmaps or coordinates in a tensor")
    return found.float().cpu()


def in_input_pixels(points: Tensor, study: Study, is_heatmap: bool) -> Tensor:
    """Coordinates as the model gives them -> pixels of the input; camera coordinates stay what they are."""
    return points * torch.from_numpy(_unit(study, is_heatmap)).to(points)


def _unit(study: Study, is_heatmap: bool) -> Array:
    """The model's own unit of coordinates, in pixels of the input."""
    if is_heatmap:
        return study.crop.stride
    return np.array(study.crop.size, np.float64) if study.coordinates == "unit" else np.ones(1)


def errors(
    study: Study,
    ids: Sequence[str],
    root: Path,
    *,
    flip: bool | None = None,
    batch: int = 8,
    strict: bool = False,
) -> Summary:
    """Predictions and end-point errors of the samples into `root`, streaming. flip: otherwise than study.reading says."""
    how = study.reading if flip is None else replace(study.reading, flip=flip)
    stream = Stream(root, "epe")
    decoded = "codec" if how.decode else "peaks"
    about = {**study.record(), "flip": how.flip, "shift": how.shift, "quarter": how.quarter, "decoded": decoded}
    work = Asking(ids, partial(_blamed, partial(_measured, study, how)), about)
    return run(work, stream, batch=batch, strict=strict, what="errors")


def _measured(study: Study, how: Reading, ids: Sequence[str]) -> Made:
    loaded, broken = load(study, ids)
    yield from broken.items()
    if loaded is None:
        return
    batch = loaded.batch
    plain = outputs(study.subject, batch)
    is_heatmap = plain.ndim == 4
    points = in_input_pixels(predicted(plain), study, is_heatmap)
    truth = in_input_pixels(true(plain, batch), study, is_heatmap)
    at, height = _decoded(study, how, batch, plain, points)
    finite = points.isfinite().all(-1).all(-1)
    for row, id in enumerate(batch.ids):
        if not finite[row]:
            yield id, BadInput("the model's output is not finite (NaN or infinite); check the weights")
            continue
        person, sample = loaded.people[row], loaded.samples[row]
        back = inverse(affine(person.centre, person.extent, study.crop.size))
        flat = points.shape[-1] == 2
        arrays = {
            "predicted": points[row].double().numpy(),
            "true": truth[row].double().numpy(),
            "unit": _unit(study, is_heatmap),
            "weight": np.asarray(sample.weight, np.float64),
            "EPE": indices.end_point_error(points[row], truth[row], batch.truth["weight"][row]).numpy(),
            "decoded": moved(at[row].double().numpy(), back) if flat else np.full((len(points[row]), 2), np.nan),
            "annotated": person.joints[:, :2],
            "confidence": height[row].double().numpy(),
            "size": np.array(person.size),
            "centre": np.array(person.centre, np.float64),
            "extent": np.array(person.extent, np.float64),
            "area": np.array(float(np.prod(person.extent))),
            "score": np.array(person.score),
            "person": np.array(person.id),
            "image": np.array(str(person.image_id)),
            "picture": sample.picture,
        }
        yield id, Artifact(arrays, {})


def _decoded(study: Study, how: Reading, batch: Batch, plain: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (n, j, 2 or 3) in pixels of the input, as published evaluations read them, and confidences (n, j)."""
    pairs = study.data.skeleton.pairs
    if how.decode is not None:
        return how.decode(batch, exchanged(pairs, plain.shape[1]) if how.flip else None)
    if plain.ndim != 4:
        return points, torch.ones(points.shape[:2])
    merged = plain
    if how.flip:
        merged = merge_mirrored(plain, outputs(study.subject, batch.at(batch.x.flip(-1))), pairs, how.shift)
    at, height = peaks(merged, how.quarter)
    return in_input_pixels(at, study, True), height


def table(stream: Stream, names: Sequence[str], ids: Sequence[str] | None = None) -> dict[str, Array]:
    """Arrays of the same name over samples, stacked: name -> (n, ...)."""
    found = [stream.arrays(id, names) for id in (stream.ids() if ids is None else ids)]
    return {name: np.stack([one[name] for one in found]) if found else np.zeros((0,)) for name in names}


@dataclass(frozen=True)
class Pixels:
    """Joints in pixels of the network's input, by sample: predicted and true (n, j, 2 or 3), weight (n, j), ids.

    zoom (n,): pixels of the input in one of the picture; 1 for camera units.
    """

    ids: tuple[str, ...]
    predicted: Array
    true: Array
    weight: Array
    zoom: Array

    @property
    def errors(self) -> Array:
        """Distances (n, j), NaN for joints that are not annotated."""
        away = np.linalg.norm(self.predicted - self.true, axis=-1)
        return np.where(self.weight > 0, away, np.nan)


READINGS = ("EPE", "decoded")


def pixels(stream: Stream, reading: str = "EPE", ids: Sequence[str] | None = None) -> Pixels:
    """Stored joints in one of two readings.

    EPE: as the score of the maps reads them: soft-argmax of heatmaps, predicted and true; coordinates as they are.
    decoded: as published evaluations read them for PCK and AP: peaks, or the model's own codec; NaN in camera units.
    """
    settings = stream.settings()
    ids = tuple(stream.ids() if ids is None else ids)
    width, height = settings["crop"]["size"]
    names = ("predicted", "true") if reading == "EPE" else ("decoded", "annotated")
    rows, zoom = [], []
    for id in ids:
        kept = stream.arrays(id, (*names, "weight", "area", "extent"))
        # runs of earlier versions kept the extent's area only
        wide = kept["extent"][0] if "extent" in kept else np.sqrt(kept["area"] * width / height)
        zoom.append(1.0 if settings["coordinates"] == "camera" else width / float(wide))
        scale = zoom[-1] if reading == "decoded" else 1.0
        rows.append((kept[names[0]] * scale, kept[names[1]] * scale, kept["weight"]))
    stacked = [np.stack(part) for part in zip(*rows, strict=True)] if rows else [np.zeros((0, 0))] * 3
    return Pixels(ids, stacked[0], stacked[1], stacked[2], np.array(zoom))


def means(values: Array) -> tuple[Array, float]:
    """Means by joint and over all, NaN left out; NaN where there is nothing. values (n, j)."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(0), known.sum(0)
    by_joint = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return by_joint, float(total.sum() / count.sum()) if count.sum() else float("nan")


def average_precision(study: Study, root: Path) -> dict[str, float]:
    """COCO's figures for the stored predictions of a run, as the published evaluation makes them of the same boxes.

    Annotated people whom no box covers are missed, and boxes on pictures without people are false. Where samples were left
    out of the run, only the pictures of the others count, and people whose own sample was left out count neither way.
    """
    stream = Stream(root, "epe")
    entries, done = [], stream.ids()
    for id in done:
        kept = stream.arrays(id, ("decoded", "confidence", "score", "area"))
        entries.append(
            {
                "image_id": study.person(id).image_id,
                "joints": kept["decoded"],
                "confidence": kept["confidence"],
                "score": float(kept["score"]),
                "area": float(kept["area"]),
            }
        )
    sigmas = np.array(study.data.skeleton.sigmas)
    results = keypoints.coco_results(entries, sigmas, visible=study.reading.visible, limit=study.reading.limit)
    there = set(done)
    aside = {person.id for number, person in enumerate(study.data.people) if str(number) not in there}
    return keypoints.average_precision(
        json.loads(Path(study.data.source).read_text(encoding="utf-8")),
        results,
        sigmas,
        category=study.data.category,
        pictures={entry["image_id"] for entry in entries} if aside else None,
        aside=aside,
    )


def chance(study: Study, ids: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean (FI, LI) of maps that know nothing of a network: a uniform one, and |x - blurred x|, by which every gradient on
    the blur path is multiplied. A map has to be well above the second before it says something of what was learned."""
    found: dict[str, list[Array]] = {"uniform map": [], "change of the picture alone": []}
    for id in ids:
        sample = read(study.person(id), study.crop)
        x = torch.from_numpy(sample.x)[None]
        mask, heatmaps = torch.from_numpy(sample.mask)[None], torch.from_numpy(sample.heatmaps)[None]
        change = (x - blurred(x, 19.0)).abs().sum(1, keepdim=True)
        for name, values in zip(found, (torch.ones_like(change), change), strict=True):
            maps = values.expand(-1, heatmaps.shape[1], -1, -1)
            both = torch.stack([indices.foreground(maps, mask), indices.locality(maps, heatmaps)])[:, 0].numpy()
            found[name].append(np.where(sample.weight > 0, both, np.nan))
    stacked = {name: np.stack(values, 1) for name, values in found.items()}
    return {name: (means(values[0])[1], means(values[1])[1]) for name, values in stacked.items()}


@dataclass(frozen=True)
class Confusion:
    """Inversions over a run: (sample, a, b) where a was taken for b, counts by pair (j, j), and RI of such pairs."""

    pairs: tuple[tuple[str, int, int], ...]
    swaps: int
    counts: Array
    relation: indices.RelationOfPairs | None


def confusion(root: Path, reach: float = 10.0, reading: str = "EPE") -> Confusion:
    """Which joints are taken for which, from the stored predictions in either of READINGS; with the RI of those pairs
    where maps were made."""
    stream = Stream(root, "epe")
    found = pixels(stream, reading)
    if not found.ids:
        raise BadInput(f"{root}: no predictions were stored yet; run `loupe pose epe` first")
    parts = [torch.from_numpy(values) for values in (found.predicted, found.true, found.weight)]
    both = indices.inversions(parts[0], parts[1], parts[2], reach)
    pairs = tuple((found.ids[n], a, b) for n, a, b in both.taken.nonzero().tolist())
    relation = None
    maps = Stream(root, "ig")
    known = set(maps.ids()) if maps.folder.is_dir() else set()
    rows = [row for row, id in enumerate(found.ids) if id in known]
    if rows:
        ri = torch.from_numpy(table(maps, ("RI",), [found.ids[row] for row in rows])["RI"])
        relation = indices.relation_of_pairs(ri, both.taken[rows], parts[2][rows])
    # every swap shows twice, once from each side
    return Confusion(pairs, int(both.swapped.sum()) // 2, both.taken.sum(0).numpy(), relation)


def depend(study: Study, ids: Sequence[str], root: Path) -> Array:
    """Mean dependency (j, j) over samples with stored maps: how far joint a moves where b's map is masked, in pixels."""
    stream = Stream(root, "ig")
    count = len(study.data.skeleton.joints)
    total, seen = np.zeros((count, count)), np.zeros((count, count))
    for id in ids:
        kept = stream.arrays(id)
        if "maps" not in kept:
            raise BadInput(f"{root}: its maps were not kept (--no-save-ig); the dependency needs them")
        loaded, broken = load(study, [id])
        if loaded is None:
            raise broken[id]
        batch = loaded.batch
        maps = torch.full((1, count, *batch.x.shape[-2:]), float("nan"))
        maps[0, kept["joints"]] = torch.from_numpy(kept["maps"]).float()

        def predict(x: Tensor, batch: Batch = batch) -> Tensor:
            made = outputs(study.subject, batch.at(x))
            return in_input_pixels(predicted(made), study, made.ndim == 4)

        moved_by = indices.dependency(predict, batch.x, maps, batch.truth["weight"])[0].numpy()
        known = np.isfinite(moved_by)
        total += np.where(known, moved_by, 0)
        seen += known
    return np.divide(total, seen, out=np.full(total.shape, np.nan), where=seen > 0)


@dataclass(frozen=True)
class Compared:
    """One figure of several runs on the same samples: mean of each, and the difference to the first with its interval."""

    name: str
    runs: tuple[str, ...]
    means: tuple[float, ...]
    differences: tuple[indices.Interval, ...]


def compare(roots: Sequence[Path], seed: int = 0) -> tuple[int, list[Compared]]:
    """Errors and indices of several runs on the people that all of them have: (number of people, a row a figure).

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
    rows, count = [], 0
    for kind, names in (("epe", READINGS), ("ig", ("DI", "FI", "LI"))):
        streams = [Stream(root, kind) for root in roots]
        if not all(stream.folder.is_dir() for stream in streams):
            continue
        joined = _joined(streams)
        count = max(count, len(joined[0]))
        for name, values in _figures(streams, joined, kind, names).items():
            known = np.isfinite(np.stack(values)).all(0)
            shared = [np.where(known, value, np.nan) for value in values]
            changes = tuple(indices.bootstrap(torch.from_numpy(other - shared[0]), seed) for other in shared[1:])
            averages = tuple(means(value)[1] for value in shared)
            rows.append(Compared(name, tuple(str(root) for root in roots), averages, changes))
    if not rows:
        raise BadInput(f"the runs {', '.join(map(str, roots))} have no kind of result in common")
    return count, rows


def _joined(streams: Sequence[Stream]) -> list[list[str]]:
    """Ids of the people that all runs have, run by run in one order."""
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
    return [[one[person] for person in common] for one in (first, *others)]


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
