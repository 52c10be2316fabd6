"""A pose model and the data that it is asked about."""

from __future__ import annotations

import copy
import hashlib
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
from torchloupe.data.bodies import WHOLE_BODY, Crop, Person, PoseData, Sample, Skeleton
from torchloupe.errors import BadInput, BadSample, LoupeError
from torchloupe.named import called, is_path
from torchloupe.probe import Batch, Subject
from torchloupe.sources.assemble import Options
from torchloupe.sources.configs import literal
from torchloupe.sources.hrnet import Experiment, described, experiment
from torchloupe.sources.mmpose import Decode, estimator
from torchloupe.sources.poses import coco, located, mpii, read, rhd
from torchloupe.sources.ultralytics import decoded, poser
from torchloupe.store import sha256
from torchloupe.store.records import Artifact
from torchloupe.targets.pose import Anchored, predicted

Array = NDArray[Any]
Coordinates = Literal["input", "unit", "camera"]
DTYPES = ("float32", "float64")
Made = Iterator[tuple[str, Artifact | LoupeError]]


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
    category: str = "",
    sigmas: Sequence[float] = (),
    dtype: str = "float32",
) -> Study:
    """A study from an experiment file, or from any model spec or module; its data COCO, MPII or RHD, or what your own
    function makes of the crop.

    With an experiment file the crop, the kind of data, its root and the detections come from there where they are not
    given. Without one the heatmaps' size is found by one forward. category: see `sources.poses.coco`. sigmas: the spread of
    each joint in OKS, or one for all, where the skeleton is not COCO's. dtype: float32, or float64 for network, crops and
    gradients.
    Errors: BadInput for what is missing or does not fit, another number of joints than the data have among it.
    """
    if (config is None) == (model is None):
        raise BadInput("give either a config (--cfg) or a model (--model)")
    if dtype not in DTYPES:
        raise BadInput(f"--dtype is float32 or float64, found {dtype!r}")
    options, reading = options or Options(), Reading()
    spread: tuple[float, ...] = ()
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
        found = sources.seeded(estimator, model.partition(":")[2], options)
        subject, crop, kind = found.subject, found.crop, kind or found.kind
        reading, spread = Reading(flip=found.flip, decode=found.decode), found.sigmas
        data, annotations = (
            (data, annotations) if data else (found.root or None, annotations or found.annotations or None)
        )
    elif isinstance(model, str) and model.startswith("ultralytics:"):
        crop = replace(crop or Crop(), rgb=True, mean=(0.0,) * 3, std=(1.0,) * 3)
        words = replace(options, spec=model, size=options.size or crop.size[::-1])
        subject = sources.seeded(poser, model.partition(":")[2], words)
        reading = Reading(decode=partial(decoded, subject))
        if coordinates != "input":
            raise BadInput(
                f"--coordinates {coordinates}: joints of ultralytics are in pixels of the input; leave it out"
            )
    else:
        crop = crop or Crop()
        subject = open_subject(model, replace(options, size=options.size or crop.size[::-1]))
    weights = _state_sha256(subject.module)
    if dtype == "float64":
        # a module of somebody's own stays as it is
        module = copy.deepcopy(subject.module) if isinstance(model, nn.Module) else subject.module
        subject = replace(subject, module=module.double())
    width, height = crop.size
    made = outputs(subject, Batch(torch.zeros(1, 3, height, width)))
    seen = predicted(made).shape[1]
    if made.ndim == 4 and config is None and not (isinstance(model, str) and model.startswith("mmpose:")):
        crop = replace(crop, heatmap=(made.shape[-1], made.shape[-2]))
    if data is None:
        raise BadInput("no data set: give its folder to --data, or DATASET.ROOT in the config")
    people = (
        _made(data, crop)
        if callable(data)
        else _people(kind or "coco", data, split, annotations, detections, crop, threshold, category)
    )
    count = len(people.skeleton.joints)
    if seen != count:
        raise BadInput(
            f"the model gives {seen} joints, and {people.source} has {count} ({', '.join(people.skeleton.joints[:4])} ...); "
            + (
                "give --kind wholebody to a file of COCO-WholeBody"
                if seen == len(WHOLE_BODY.joints)
                else "give the data that it was trained on, or a --category of theirs"
            )
        )
    people = replace(people, skeleton=_spread(people.skeleton, tuple(sigmas), spread))
    if not people.people:
        left = ", ".join(f"{count} {reason}" for reason, count in people.left_out.items())
        raise BadInput(f"{people.source}: no sample to look at" + (f"; left out: {left}" if left else ""))
    facts = {
        "model": subject.spec if config is None else config["MODEL.NAME"],
        "weights_sha256": weights,
        "joints": len(people.skeleton.joints),
        "detections_sha256": sha256(detections) if detections and kind != "mpii" else "",
    }
    if facts["detections_sha256"] and threshold:
        # the numbers of samples count the boxes above it
        facts["threshold"] = threshold
    if category:
        facts["category"] = category
    if dtype != "float32":
        facts["dtype"] = dtype
    return Study(subject, people, crop, coordinates, facts, reading)


def studied(model: Mapping[str, Any], data: Mapping[str, Any]) -> Study:
    """A study from plain words, as a job holds them.

    model: cfg (an experiment file, or a config of mmpose), overrides (KEY VALUE ...), model (a spec), weights, device,
    unsafe_load, dtype. data: data (a path, or "module:function"), annotations, detections, kind, category, sigmas,
    input_size, sigma, coordinates.
    Errors: BadInput for what is missing or does not fit.
    """
    cfg = Path(model["cfg"]) if model.get("cfg") else None
    overrides = list(model.get("overrides", ()))
    python = cfg is not None and cfg.suffix == ".py"
    spec = f"mmpose:{cfg}" if python and not model.get("model") else model.get("model")
    changes = {}
    if (spec or "").startswith("mmpose:"):
        if len(overrides) % 2:
            raise BadInput(f"overrides come as KEY VALUE pairs; {overrides[-1]!r} has no value")
        changes = {key: literal(value) for key, value in zip(overrides[::2], overrides[1::2], strict=True)}
    elif overrides and cfg is None:
        raise BadInput(f"{overrides[0]}: KEY VALUE pairs are laid over a config, and --cfg was not given")
    known = cfg is not None or (spec or "").startswith("mmpose:")
    for name in ("input_size", "sigma"):
        if known and data.get(name) is not None:
            raise BadInput(f"--{name.replace('_', '-')} {data[name]}: the config says it; leave it out")
    if cfg is not None and not python and data.get("coordinates", "input") != "input":
        raise BadInput(f"--coordinates {data['coordinates']}: a config's network says it itself; leave it out")
    size = tuple(data.get("input_size") or (192, 256))
    if len(size) != 2:
        raise BadInput(f"--input-size is a width and a height, found {list(size)}")

    def path(name: str, where: Mapping[str, Any]) -> Path | None:
        return Path(where[name]) if where.get(name) else None

    return study(
        config=None if cfg is None or python else experiment(cfg, overrides),
        model=spec,
        data=given(data.get("data")),
        options=Options(
            weights=path("weights", model),
            device=model.get("device", "auto"),
            unsafe_load=model.get("unsafe_load", False),
            cfg_options=changes,
        ),
        annotations=path("annotations", data),
        detections=path("detections", data),
        kind=data.get("kind") or "",
        crop=Crop(size=(size[0], size[1]), sigma=2.0 if data.get("sigma") is None else data["sigma"]),
        coordinates=data.get("coordinates", "input"),
        category=str(data.get("category") or ""),
        sigmas=data.get("sigmas") or (),
        dtype=model.get("dtype", "float32"),
    )


def annotated_people(data: Mapping[str, Any]) -> PoseData:
    """The people of an annotation file without a model, from a job's words: data, annotations, kind, category, sigmas.

    Errors: BadInput for a data set that is not in COCO's form, or what `sources.poses` says of it.
    """
    kind = data.get("kind") or "coco"
    if kind == "mpii" or not data.get("data"):
        raise BadInput("--results: poses are compared with an annotation file of COCO's form; give it to --data")
    annotations = data.get("annotations")
    # person_keypoints_SPLIT.json is of the pictures of that split
    split = Path(annotations).stem.removeprefix("person_keypoints_") if annotations else "val2017"
    found = _people(kind, data["data"], split, annotations, None, Crop(), 0.0, str(data.get("category") or ""))
    return replace(found, skeleton=_spread(found.skeleton, tuple(data.get("sigmas") or ()), ()))


def given(data: str | Path | None) -> Path | Callable[[Crop], PoseData] | None:
    """The path of a data set, or the function that makes one."""
    if data is None:
        return None
    own = not Path(data).exists() and is_path(str(data))
    return called(str(data), "--data", "a function") if own else Path(data)


def open_subject(model: str | nn.Module | None, options: Options) -> Subject:
    """A model from its spec, or a module as it is."""
    assert model is not None
    given = {key: value for key, value in vars(options).items() if key != "spec"}
    return replace(sources.subject(model, **given), kind="pose")


def _spread(skeleton: Skeleton, given: tuple[float, ...], known: tuple[float, ...]) -> Skeleton:
    """The skeleton with sigmas: those given, its own, or those that the model's config knows.

    Errors: BadInput for another number of them than joints, or one that is not more than 0.
    """
    count = len(skeleton.joints)
    if given:
        if len(given) not in (1, count) or not all(math.isfinite(one) and one > 0 for one in given):
            raise BadInput(
                f"--sigmas are {count} numbers above 0, a joint each, or one for all; found {list(given)[:6]}"
            )
        return replace(skeleton, sigmas=given * count if len(given) == 1 else given)
    return replace(skeleton, sigmas=known) if not skeleton.sigmas and len(known) == count else skeleton


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
    category: str,
) -> PoseData:
    if kind not in ("coco", "wholebody", "mpii", "rhd"):
        raise BadInput(f"data set {kind!r}: known are coco, wholebody, mpii and rhd")
    path, folder = located(data, split, kind, annotations)
    if kind == "mpii" and (detections is not None or category):
        option, value = ("--category", category) if category else ("--detections", detections)
        raise BadInput(f"{option} {value}: MPII's people have one category and no detections; leave it out")
    if kind == "mpii":
        return mpii(path, folder, crop)
    if detections is not None and not Path(detections).exists():
        raise BadInput(
            f"{detections}: no such detections file; for annotated boxes put TEST.USE_GT_BBOX True behind the command"
        )
    make = rhd if kind == "rhd" else partial(coco, whole=kind == "wholebody")
    return make(path, folder, crop, detections=detections, threshold=threshold, category=category)


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


def picked(study: Study, data: Mapping[str, Any]) -> list[str]:
    """The sample numbers that a job's data name: ids, max_samples, every."""
    return chosen(study, data.get("ids") or (), data.get("max_samples"), data.get("every", 1))


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

    wide = torch.float64 if study.facts.get("dtype") == "float64" else torch.float32
    coordinates = stack("camera" if study.coordinates == "camera" else "joints").to(wide)
    if study.coordinates == "unit":
        coordinates = coordinates / torch.tensor(study.crop.size)
    truth = {"heatmaps": stack("heatmaps"), "weight": stack("weight"), "coordinates": coordinates}
    batch = Batch(stack("x").to(wide), ids=tuple(samples), truth=truth, pictures=stack("picture")[:, None])
    return Loaded(batch, parts, [people[id] for id in samples]), broken


def crop_of(settings: Mapping[str, Any]) -> Crop:
    """The crop that a record speaks of."""
    kept: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings["crop"].items()}
    return Crop(**kept)


def outputs(subject: Subject, batch: Batch) -> Tensor:
    """What the model gives, on the CPU, without gradient; of one with anchors the coordinates that answer.

    Errors: BadInput where that is no tensor.
    """
    with subject.asked() as own, torch.no_grad():
        found = own.output(batch)
    if isinstance(found, Anchored):
        found = predicted(found)
    if not isinstance(found, Tensor):
        raise BadInput(f"{subject.spec}: gave {type(found).__name__}; expected heatmaps or coordinates in a tensor")
    return (found if found.dtype == torch.float64 else found.float()).cpu()


def in_input_pixels(points: Tensor, study: Study, is_heatmap: bool) -> Tensor:
    """Coordinates as the model gives them -> pixels of the input; camera coordinates stay what they are."""
    return points * torch.from_numpy(unit(study, is_heatmap)).to(points)


def unit(study: Study, is_heatmap: bool) -> Array:
    """The model's own unit of coordinates, in pixels of the input."""
    if is_heatmap:
        return study.crop.stride
    return np.array(study.crop.size, np.float64) if study.coordinates == "unit" else np.ones(1)


def blamed(work: Callable[[Sequence[str]], Made], ids: Sequence[str]) -> Made:
    """What work makes of a batch; whatever it cannot answer is some sample's fault."""
    try:
        yield from list(work(ids))
    except LoupeError as error:
        raise BadSample(str(error)) from error
