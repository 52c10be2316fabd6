"""loupe pose: attribution maps, errors, indices and inversions of a pose model over a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from torchloupe.cli.options import Running

if TYPE_CHECKING:
    from torchloupe.data.bodies import PoseData
    from torchloupe.runs.pose.study import Study
    from torchloupe.runs.run import Job, Summary, Work

Flag = Parameter(negative="")
Several = Parameter(consume_multiple=True, negative="")
Output = Annotated[Path, Parameter(name=["--output", "-o"])]


@dataclass(frozen=True)
class Subjects:
    """The model and the data.

    Attributes:
        cfg: An experiment file (YAML) of Pose ResNet or HRNet, or a config file (.py) of mmpose, which runs as code.
        weights: Its checkpoint, read without running code. Default: TEST.MODEL_FILE of the config.
        model: Any model instead of a config: torch:package.module:factory, transformers:FOLDER, mmpose:CONFIG.py or the name
            of one that mmpose is installed with, hrnet:CONFIG.yaml ...
        data: Root of the data set, or its annotation file; or your own package.module:function, (crop) -> PoseData, whose
            import runs it. Default: DATASET.ROOT of the config.
        annotations: The annotation file, where it does not lie in its usual place.
        detections: A JSON of detected boxes to crop by instead of the annotated ones.
        kind: coco, wholebody (the 133 joints of COCO-WholeBody), mpii or rhd. Default: DATASET.DATASET of the config, or coco.
        category: The category of a COCO file with several, by name or number, or all that have the first one's joints, taken for
            one. Default: the first with keypoints.
        sigmas: The spread of each joint in OKS, or one number for all, for AP and errors of other joints than COCO's. Default:
            COCO's 17, or what mmpose's config says.
        input_size: Width and height of the input, for models without a config. Default: 192 256.
        sigma: Spread of the true heatmaps in their pixels, for models without a config. Default: 2.
        coordinates: What coordinates mean, for models that give them: pixels of the input, shares of its sides (unit), or
            the annotation's camera units (3D).
        dtype: float32, or float64: with --reference equal to a float64 transcription to 1e-6, at several times the time.
        device: auto, cpu, cuda, cuda:1, mps.
        unsafe_load: Let the checkpoint run code while it is read. Only for files that you trust.
    """

    cfg: Path | None = None
    weights: Path | None = None
    model: str | None = None
    data: Path | None = None
    annotations: Path | None = None
    detections: Path | None = None
    kind: Literal["coco", "wholebody", "mpii", "rhd"] | None = None
    category: str | None = None
    sigmas: Annotated[list[float] | None, Several] = None
    input_size: Annotated[list[int] | None, Several] = None
    sigma: float | None = None
    coordinates: Literal["input", "unit", "camera"] = "input"
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "auto"
    unsafe_load: Annotated[bool, Flag] = False

    @property
    def given(self) -> bool:
        """Whether a model is named."""
        return self.cfg is not None or self.model is not None

    def words(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(model, data) as a job holds them."""
        names = ("cfg", "weights", "model", "device", "unsafe_load", "dtype")
        said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        model = {name: said.pop(name) for name in names} | {"overrides": list(overrides)}
        return model, said


@dataclass(frozen=True)
class Choice:
    """Which samples.

    Attributes:
        ids: Sample numbers, counted from 0 in the order of the data set.
        max_samples: At most so many.
        every: Every so-maniest sample.
        batch: Samples in one forward. 1 wastes no backward on joints that a neighbour does not show; more suits a GPU.
            Default: 1 for maps and dependencies, 8 for errors.
        strict: Stop at the first sample that fails, instead of going on without it.
        again: Compute anew what lies on disk already.
        workers: Worker processes on this machine, or Ray actors; 0: this process. Results are the same.
        engine: processes (torch's launcher, on this machine) or ray (here or on a cluster).
        address: Of a Ray cluster: auto, or ray://HOST:PORT. Default: Ray on this machine.
        gpus_per_worker: Share of a GPU that each Ray actor is given.
        timeout: Seconds after which a batch counts as hung; its samples are then tried one by one.
    """

    ids: Annotated[list[int] | None, Several] = None
    max_samples: int | None = None
    every: int = 1
    batch: Annotated[int | None, Parameter(name=["--batch", "--batch-size"])] = None
    strict: Annotated[bool, Flag] = False
    again: Annotated[bool, Flag] = False
    workers: int = 0
    engine: Literal["processes", "ray"] = "processes"
    address: str | None = None
    gpus_per_worker: float = 0.0
    timeout: float | None = None

    def words(self) -> dict[str, Any]:
        """As a job's data hold them."""
        return {"ids": self.ids or [], "max_samples": self.max_samples, "every": self.every}

    def idle(self, of: str, names: Sequence[str]) -> None:
        """Errors: BadInput for one of these options, which are of something that is not asked for."""
        from torchloupe.errors import BadInput

        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise BadInput(f"--{name.replace('_', '-')} is of {of}, and there is none here; leave it out")

    def run(self, job: Job, work: Work, output: Path, kind: str, batch: int, what: str) -> Summary:
        """Do a job into a stream of a run's folder. batch: samples in one forward, where none are given."""
        from torchloupe.store.stream import Stream

        running = Running(
            batch_size=batch if self.batch is None else self.batch,
            **{name: getattr(self, name) for name in RUNNING},
        )
        done = running.run(job, work, Stream(output, kind), what)
        _say(done, output)
        return done


@dataclass(frozen=True)
class How:
    """How maps are made.

    Attributes:
        method: poseig, or any method of `loupe cam` with the same joint scores: gradcam, layercam, smoothgrad ... Options
            of the path have no place beside those.
        layers: Layers for methods that look at layers. Default: the last before the heatmaps.
        path: blur, or straight from a baseline.
        baseline: Where the straight path starts: black, white, mean (of each colour) or blur.
        places: Where on the path gradients are taken: scouted (dense where the scores change); even (sigma falls
            quadratically, so that more lie where it is small); midpoint or gauss-legendre (sigma falls evenly, as in the
            template).
        steps: Gradients a joint; with integrated_gradients its own 32 where none are given.
        tolerance: Double the steps until every completeness residual is at most this.
        most: Steps to stop at.
        noise: Normal noise on the path, as a share of the input's range; the template's is 0.01. Of smoothgrad its own.
        power: Power of the attribution of each colour, before colours are summed.
        seed: Of the noise.
        joints: Only these joints, by number or name.
        score: Your own target, package.module:function, (output, batch) -> scores (samples, joints). Importing runs it.
        reference: As PoseIG's template: 50 even left-hand steps, every joint, absolute values over their maximum.
    """

    method: str = "poseig"
    layers: Annotated[list[str] | None, Several] = None
    path: Literal["blur", "straight"] = "blur"
    baseline: Literal["black", "white", "mean", "blur"] = "black"
    places: Literal["scouted", "even", "midpoint", "gauss-legendre"] = "scouted"
    steps: int = 16
    tolerance: float | None = None
    most: int = 256
    noise: float = 0.0
    power: int = 1
    seed: int = 0
    joints: Annotated[list[str] | None, Several] = None
    score: str | None = None
    reference: Annotated[bool, Flag] = False

    def kept(self, precision: str | None = None) -> str:
        """How maps are stored."""
        return precision or ("float32" if self.reference else "float16")

    def words(self) -> dict[str, Any]:
        """As a job asks."""
        return {**vars(self), "most": max(self.most, self.steps)}


def _opened(
    kind: str, overrides: Sequence[str], subjects: Subjects, choice: Choice, ask: Mapping[str, Any] | None = None
) -> tuple[Job, Any]:
    """A job and its work; what its data set holds is said."""
    from torchloupe.errors import BadInput
    from torchloupe.runs.run import Job

    if choice.batch is not None and choice.batch < 1:
        raise BadInput(f"--batch is 1 or more, found {choice.batch}")
    model, data = subjects.words(overrides)
    job = Job(kind, model=model, data={**data, **choice.words()}, ask=dict(ask or {}))
    work = job.open()
    found = work.study.data
    left = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
    print(f"{found.source}: {len(found)} samples" + (f"; left out: {left}" if left else ""))
    return job, work


ERRORS = ("EPE", "decoded", "PCK")
RUNNING = ("strict", "again", "workers", "engine", "address", "gpus_per_worker", "timeout")
SUBJECTS, CHOICE, HOW = Subjects(), Choice(), How()


def ig(
    *overrides: str,
    output: Output,
    save_ig: Annotated[bool, Parameter(negative="--no-save-ig")] = True,
    precision: Literal["float16", "float32"] | None = None,
    load_ig: Annotated[bool, Flag] = False,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
    how: Annotated[How, Parameter(name="*")] = HOW,
) -> int:
    """Attribution maps (PoseIG) and their indices DI, FI, LI, RI, joint by joint, sample by sample.

    The same command goes on where a killed run stopped. Maps are kept beside the indices.

    Args:
        overrides: KEY VALUE pairs laid over the config, such as TEST.USE_GT_BBOX True.
        output: Folder of the run.
        save_ig: Keep the maps on disk; --no-save-ig keeps the indices only.
        precision: How maps are kept. Default: float16; float32 with --reference, whose maps are exact to 1e-4.
        load_ig: Take maps that were stored before and compute the indices again, without running the model.
        subjects: Model and data.
        choice: Samples.
        how: Method.
    """
    if load_ig:
        return index(*overrides, output=output, load_ig=True, subjects=subjects, choice=choice, how=how)
    from torchloupe.runs.pose.attribution import expected_bytes
    from torchloupe.store.stream import Stream

    kept = how.kept(precision) if save_ig else "none"
    job, work = _opened("pose maps", overrides, subjects, choice, {**how.words(), "maps": kept})
    ids = work.ids()
    if save_ig:
        size = expected_bytes(work.study, ids, how.reference, kept) / 1e6
        print(f"maps of {len(ids)} samples as {kept}: at most {size:.1f} MB in {output / 'ig'}")
    done = choice.run(job, work, output, "ig", 1, "attribution")
    scales = [
        value for id in ids if id not in done.failed for value in Stream(output, "ig").arrays(id, ["scale"])["scale"]
    ]
    if 0 in scales:
        print(
            f"{scales.count(0)} of {len(scales)} maps are empty: their scores do not change along the path, as exp(-0.3 d) is 0 "
            "where a prediction is hundreds of units off; see loupe pose epe, or give your own --score"
        )
    _print_columns(output, ("DI", "FI", "LI", "residual"))
    return _ended(done)


def index(
    *overrides: str,
    output: Output,
    load_ig: Annotated[bool, Flag] = False,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
    how: Annotated[How, Parameter(name="*")] = HOW,
) -> int:
    """DI, FI, LI and RI of every joint and sample, into index.json: computed first, where a model is given.

    Args:
        overrides: KEY VALUE pairs laid over the config.
        output: Folder of the run.
        load_ig: Compute them again from stored maps, without running the model; an error where maps were never computed.
        subjects: Model and data, where maps are to be computed.
        choice: Samples.
        how: Method.
    """
    import json

    import numpy as np

    from torchloupe.methods.joints import means
    from torchloupe.render.pose_report import Run, by_joint_rows, text_table
    from torchloupe.runs.pose.attribution import stored_indices
    from torchloupe.runs.pose.study import thinned
    from torchloupe.store import whole
    from torchloupe.store.stream import Stream

    ids = list(dict.fromkeys(str(number) for number in choice.ids or ()))
    done = None
    if load_ig or not subjects.given:
        choice.idle("a run of the model", ("batch", *RUNNING))
    if load_ig:
        _agree(output, subjects, overrides, how)
    elif subjects.given:
        begun = (output / "ig.json").exists()
        kept = Stream(output, "ig").settings()["maps"] if begun else how.kept()
        job, work = _opened("pose maps", overrides, subjects, choice, {**how.words(), "maps": kept})
        done = choice.run(job, work, output, "ig", 1, "attribution")
        ids = [id for id in work.ids() if id not in done.failed]
    found = stored_indices(output, ids, again=load_ig)
    found = {id: found[id] for id in thinned(list(found), choice.max_samples, 1 if ids else choice.every)}
    content = {id: {name: _plain(values) for name, values in parts.items()} for id, parts in found.items()}
    whole(output / "index.json", json.dumps(content).encode())
    print(f"{output / 'index.json'}: {len(found)} samples")
    by_joint, overall = {}, {}
    for name in ("DI", "FI", "LI"):
        by_joint[name], overall[name] = means(np.stack([one[name] for one in found.values()]))
    print(text_table(["joint", *by_joint], by_joint_rows(Run(output).names(), by_joint, overall)))
    return _ended(done)


def _agree(output: Path, subjects: Subjects, overrides: Sequence[str], how: How) -> None:
    """Errors: BadInput where stored maps are of another model, other data or other options than those given."""
    from torchloupe.runs.pose.attribution import asked_for
    from torchloupe.runs.pose.study import studied
    from torchloupe.store.stream import Stream

    stream = Stream(output, "ig")
    if subjects.given:
        stream.agrees(studied(*subjects.words(overrides)).record())
    plain = asked_for(HOW.words()).record()
    changed = {name: value for name, value in asked_for(how.words()).record().items() if value != plain.get(name)}
    stream.agrees({"attribution": {**stream.settings()["attribution"], **changed}})


def epe(
    *overrides: str,
    output: Output,
    flip: bool | None = None,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
) -> int:
    """End-point error, error of decoded joints, PCK and, on COCO, OKS-AP, by joint and over all.

    EPE is that of soft-argmax coordinates, which attribution maps ask about; decoded the error of the peaks, or of what
    the model's own codec reads, both in pixels of the network's input. PCK and AP are those of decoded joints.

    Args:
        overrides: KEY VALUE pairs laid over the config, such as TEST.FLIP_TEST False.
        output: Folder of the run.
        flip: Average with the mirrored picture. Default: as the config says (TEST.FLIP_TEST, test_cfg.flip_test), or no.
        subjects: Model and data.
        choice: Samples.
    """
    job, work = _opened("pose errors", overrides, subjects, choice, {"flip": flip})
    done = choice.run(job, work, output, "epe", 8, "errors")
    _tell_errors(work.study, output)
    return _ended(done)


def _tell_errors(study: Study, output: Path) -> None:
    """errors.json, and the same as tables."""
    import json

    from torchloupe.errors import MissingPackage
    from torchloupe.render.pose_report import MEANING, columns, text_table
    from torchloupe.runs.pose.errors import average_precision, by_part
    from torchloupe.store import whole

    names, by_joint, overall = columns(output)
    shown = [key for key in ERRORS if key in by_joint]
    content: dict[str, Any] = {
        "unit": "pixels of the network's input" if study.coordinates != "camera" else "camera units",
        "meaning": {key: MEANING[key] for key in shown},
        "by_joint": {name: {key: _plain(by_joint[key][j]) for key in shown} for j, name in enumerate(names)},
        "all": {key: _plain(overall[key]) for key in shown},
    }
    _print_columns(output, ERRORS)
    if study.data.skeleton.sigmas and study.coordinates != "camera" and Path(study.data.source).is_file():
        try:
            figures = average_precision(study, output)
            content["coco"] = {name: _plain(value) for name, value in figures.items()}
            print("  ".join(f"{name} {_figure(value)}" for name, value in figures.items()))
            parts = by_part(study, output)
            for part, own in parts.items():
                content.setdefault("coco_by_part", {})[part] = {name: _plain(value) for name, value in own.items()}
            if parts:
                rows = [[part, *map(_figure, own.values())] for part, own in parts.items()]
                print(text_table(["part", *figures], rows))
        except MissingPackage as error:
            print(f"no AP: {error}")
    whole(output / "errors.json", json.dumps(content, indent=1).encode())
    print(output / "errors.json")


def errors(
    *overrides: str,
    output: Output,
    least: float = 0.1,
    examples: int = 2,
    results: Path | None = None,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
) -> int:
    """Kinds of error of decoded joints (jitter, inversion, swap, miss), poses of nobody and missed people, by joint, by size
    and by crowding, and how much AP would rise were each mended; with pictures of examples.

    Predictions are computed first where they are not there; or they are those of a file, of any model, such as one that finds
    all people of a picture at once. Kinds are those of Ronchi and Perona 2017.

    Args:
        overrides: KEY VALUE pairs laid over the config.
        output: Folder of the run.
        least: OKS from which a pose is matched with a person.
        examples: Pictures of each kind.
        results: COCO results (a JSON list of image_id, category_id, keypoints, score) in place of a model.
        subjects: Model and data: COCO keypoints of any skeleton.
        choice: Samples.
    """
    from torchloupe.errors import BadInput
    from torchloupe.render.pose_mistakes import tables, told
    from torchloupe.render.pose_report import text_table
    from torchloupe.runs.pose.errors import of_results
    from torchloupe.runs.pose.mistakes import diagnosed, told_apart

    if not 0 < least < 1 or examples < 0:
        raise BadInput(f"--least is between 0 and 1 and --examples 0 or more, found {least} and {examples}")
    done = None
    if results is not None:
        people = _of_file(overrides, subjects, choice)
        content = told(told_apart(of_results(results, people), people.skeleton.pairs, least), people, output, examples)
        if lost := sum(not one["picture"] for one in content["examples"]):
            print(
                f"{lost} of {len(content['examples'])} examples have no picture: theirs lie elsewhere than --data says"
            )
    else:
        job, work = _opened("pose errors", overrides, subjects, choice)
        done = choice.run(job, work, output, "epe", 8, "errors")
        content = told(diagnosed(work.study, output, least), work.study, output, examples)
    ap = "-" if content["AP"] is None else f"{content['AP']:.3f}"
    print(f"AP {ap} of {content['poses']} poses for {content['people']} people")
    for head, rows in tables(content):
        print(f"\n{text_table(head, rows)}")
    print(output / "mistakes.json")
    return _ended(done)


def _of_file(overrides: Sequence[str], subjects: Subjects, choice: Choice) -> PoseData:
    """The annotated people beside whom poses of a file are laid. Errors: BadInput for options of a model."""
    from torchloupe.errors import BadInput
    from torchloupe.runs.pose.study import annotated_people

    choice.idle("a run of the model", tuple(vars(choice)))
    taken = ("data", "annotations", "kind", "category", "sigmas", "device")
    odd = [name for name, value in vars(subjects).items() if name not in taken and value != getattr(Subjects, name)]
    if overrides or odd:
        option = f"--{odd[0].replace('_', '-')}" if odd else overrides[0]
        raise BadInput(f"{option}: --results are poses that are there, without a model; leave it out")
    return annotated_people(subjects.words(())[1])


def inversions(
    *overrides: str,
    output: Output,
    reach: float = 10.0,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
) -> int:
    """Which joints are taken for which: inversions and swaps of soft-argmax and of decoded joints, with the RI of
    inverted and of other pairs.

    Predictions are computed first where a model is given and they are not there; RI comes from the maps of `loupe pose
    ig` in the same folder.

    Args:
        overrides: KEY VALUE pairs laid over the config.
        output: Folder of the run.
        reach: How near, in pixels of the input, a prediction must be to another joint.
        subjects: Model and data.
        choice: Samples.
    """
    import json

    from torchloupe.render.pose_report import TITLES, Run, number, text_table
    from torchloupe.runs.pose.confusion import confusion
    from torchloupe.store import whole

    if not subjects.given:
        choice.idle("a run of the model", tuple(vars(choice)))
    status = epe(*overrides, output=output, subjects=subjects, choice=choice) if subjects.given else 0
    names = Run(output).names()
    content: dict[str, Any] = {"reach": reach}
    for reading, title in TITLES.items():
        found = confusion(output, reach, reading)
        print(f"{title}: {len(found.pairs)} inversions, {found.swaps} swaps")
        order = sorted(((int(c), a, b) for (a, b), c in _counts(found.counts)), reverse=True)
        if order:
            print(text_table(["joint", "taken for", "count"], [[names[a], names[b], str(c)] for c, a, b in order[:20]]))
        part: dict[str, Any] = {
            "inversions": [{"sample": id, "joint": names[a], "taken_for": names[b]} for id, a, b in found.pairs],
            "swaps": found.swaps,
            "counts": found.counts.tolist(),
        }
        if found.relation is not None:
            part["RI"] = {key: _plain(value) for key, value in found.relation._asdict().items()}
            means = found.relation
            print(
                f"mean RI: {number(means.inverted)} over {means.inverted_pairs} inverted pairs, "
                f"{number(means.others)} over {means.other_pairs} others"
            )
        content |= part if reading == "EPE" else {reading: part}
    whole(output / "inversions.json", json.dumps(content).encode())
    print(output / "inversions.json")
    return status


def draw(
    run: Path,
    *,
    sample: str,
    joint: str | None = None,
    save: Path | None = None,
) -> None:
    """Pictures of a stored sample: map, density and joint of one joint; or all joints, and the skeleton.

    Args:
        run: Folder of the run.
        sample: Sample number.
        joint: Joint, by number or name. Default: all joints in one grid.
        save: Folder for the pictures. Default: pictures/ in the run.
    """
    from torchloupe.render.pose_report import Run, pictures
    from torchloupe.targets.pose import joint_index

    names = Run(run).names()
    number = None if joint is None else joint_index(joint, names, len(names))
    for path in pictures(run, sample, number, save or run / "pictures"):
        print(path)


def report(run: Path, *, worst: int = 6) -> None:
    """A page of tables and plots: by joint, by error, index against error, inversions, worst samples.

    Args:
        run: Folder of the run.
        worst: How many of the worst samples to show.
    """
    from torchloupe.render.pose_report import report as write

    print(write(run, worst))


def export(run: Path, *, to: str = "ig-db", save: Path | None = None) -> None:
    """The run in the format of another tool.

    Args:
        run: Folder of the run.
        to: ig-db, the folder of PoseIG's template: pickles of maps, idx.json, epe.json, RI.json, j2j.json.
        save: Where the folder IG_DB goes. Default: into the run.
    """
    from torchloupe.render.pose_report import export as write

    folder, count = write(run, to, save)
    print(f"{folder}: {count} samples")


def compare(
    *runs: Path,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    save: Path | None = None,
    worst: int = 6,
    seed: int = 0,
) -> None:
    """Two or more models on the same people: one table, differences to the first with bootstrap intervals of 95 %.

    People are joined by person, whatever boxes the runs took; errors are in pixels of the first run's input.

    Args:
        runs: Folders of the runs, the one to compare with first.
        output: A folder for a page that compares them, with the people of whom they differ most.
        save: A JSON file for the numbers.
        worst: How many people the page shows.
        seed: Of the bootstrap.
    """
    import json
    from dataclasses import asdict

    from torchloupe.errors import BadInput
    from torchloupe.render.pose_compare import compared, table_rows
    from torchloupe.render.pose_report import text_table
    from torchloupe.runs.pose.compare import differences, paired
    from torchloupe.store import plain, whole

    if worst < 0:
        raise BadInput(f"--worst is 0 or more, found {worst}")
    pairing = paired(runs)
    found = differences(pairing, runs, seed)
    print(f"{pairing.count} samples in common")
    print(text_table(["figure", "run", "mean", "difference"], table_rows(found, runs)))
    if save is not None:
        whole(save, json.dumps(plain([asdict(one) for one in found]), indent=1).encode())
    if output is not None:
        print(compared(output, runs, pairing, found, worst))


def depend(
    *overrides: str,
    output: Output,
    subjects: Annotated[Subjects, Parameter(name="*")] = SUBJECTS,
    choice: Annotated[Choice, Parameter(name="*")] = CHOICE,
) -> int:
    """Dependency between joints: how far joint a moves where what joint b rests on is masked, into dependency.json.

    Args:
        overrides: KEY VALUE pairs laid over the config.
        output: Folder of a run with maps.
        subjects: Model and data.
        choice: Samples, out of those with maps.
    """
    import json

    import numpy as np

    from torchloupe.render.pose_report import Run, number, text_table
    from torchloupe.runs.pose.depend import dependency
    from torchloupe.store import whole

    job, work = _opened("pose depend", overrides, subjects, choice, {"root": str(output)})
    done = choice.run(job, work, output, "depend", 1, "dependency")
    ids = [id for id in work.ids() if id not in done.failed]
    found, names = dependency(output, ids), Run(output).names()
    order = np.argwhere(np.isfinite(found) & ~np.eye(len(names), dtype=bool)).tolist()
    order.sort(key=lambda pair: -found[tuple(pair)])
    rows = [[names[a], names[b], number(found[a, b])] for a, b in order[:10]]
    print(text_table(["joint", "rests on", "moves by, pixels"], rows))
    whole(output / "dependency.json", json.dumps({"samples": ids, "mean": _plain(found)}).encode())
    print(output / "dependency.json")
    return _ended(done)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _counts(counts: Any) -> list[tuple[tuple[int, int], int]]:
    import numpy as np

    return [((a, b), int(counts[a, b])) for a, b in np.argwhere(counts).tolist()]


def _plain(values: Any) -> Any:
    """Numbers and arrays as JSON holds them: lists, and null for what is not known."""
    import numpy as np

    if isinstance(values, np.ndarray) and values.ndim:
        return [_plain(value) for value in values]
    value = float(values)
    return (int(value) if isinstance(values, int | np.integer) else value) if math.isfinite(value) else None


def _say(done: Summary, output: Path) -> None:
    from torchloupe.errors import BadInput

    print(f"{output}: {done.made} samples made, {done.before} were there, {len(done.failed)} failed")
    for id, reason in list(done.failed.items())[:5]:
        print(f"  sample {id}: {reason}")
    if len(done.failed) > 5:
        print(f"  and {len(done.failed) - 5} more, see the .failed files")
    if done.failed and not done.made + done.before:
        raise BadInput(
            f"{output}: none of the {len(done.failed)} samples could be looked at: {next(iter(done.failed.values()))}"
        )


def _ended(done: Summary | None) -> int:
    """The exit status of a run, and a last line that says where samples were left out."""
    if done is None or not done.failed:
        return 0
    print(done.told()[-1])
    return done.status


def _print_columns(output: Path, wanted: Sequence[str]) -> None:
    from torchloupe.render.pose_report import by_joint_rows, columns, text_table

    names, by_joint, overall = columns(output)
    shown = {name: by_joint[name] for name in wanted if name in by_joint}
    if shown:
        print(text_table(["joint", *shown], by_joint_rows(names, shown, overall)))


def demo(
    *,
    save: Path = Path("demo/pose"),
    samples: int = 24,
    steps: int = 1200,
    seed: int = 0,
) -> None:
    """Teach a small Pose ResNet figures on real photographs, then diagnose it and an untrained one side by side.

    Everything is made here: the data set (COCO's form), the config, the checkpoints and the runs, so that each `loupe pose`
    command can be tried on them. A few minutes on two cores; what is there already is not made again.

    Args:
        save: Folder.
        samples: Figures to diagnose.
        steps: Training steps of 32 figures each.
        seed: Of everything random.
    """
    import torch

    from torchloupe import store
    from torchloupe.errors import MissingPackage
    from torchloupe.examples import figures
    from torchloupe.render.pose_mistakes import tables, told
    from torchloupe.render.pose_report import columns, number, text_table
    from torchloupe.render.pose_report import report as write
    from torchloupe.runs.pose.attribution import asked_for, attribute, chance
    from torchloupe.runs.pose.confusion import confusion
    from torchloupe.runs.pose.errors import errors
    from torchloupe.runs.pose.mistakes import diagnosed
    from torchloupe.runs.pose.study import chosen
    from torchloupe.runs.pose.study import study as studied
    from torchloupe.runs.progress import progress
    from torchloupe.sources.assemble import Options
    from torchloupe.sources.hrnet import experiment, network

    config = figures.config(save / "figures.yaml")
    data = figures.write(save / "data", samples, seed + 1)
    torch.manual_seed(seed)
    net = network(experiment(config))
    weights = {name: save / f"{name}.pth" for name in ("trained", "random")}
    if not weights["trained"].exists():
        with store.aside(weights["random"]) as (draft,):
            torch.save(net.state_dict(), draft)
        print(f"{steps} training steps on 2000 figures")
        with progress("training", steps) as bar:
            figures.train(net, figures.rendered(2000, seed + 2), steps, seed, progress=lambda *_: bar.advance())
        with store.aside(weights["trained"]) as (draft,):
            torch.save(net.state_dict(), draft)
    for name, path in weights.items():
        study = studied(config=experiment(config), data=data, options=Options(weights=path, device="cpu"))
        ids, run = chosen(study), save / name
        errors(study, ids, run)
        attribute(study, ids, asked_for(HOW.words()), run)
        print(f"\n{name} weights")
        _tell_errors(study, run)
        _print_columns(run, ("DI", "FI", "LI", "residual"))
        try:
            content = told(diagnosed(study, run), study, run)
            print(text_table(*tables(content)[0]))
        except MissingPackage as error:
            print(f"no kinds of error: {error}")
        confused = confusion(run)
        decoded = confusion(run, reading="decoded")
        print(f"{len(confused.pairs)} inversions, {confused.swaps} swaps; {len(decoded.pairs)} of decoded joints")
        print(write(run))
    print("\nFI and LI beside what needs no training")
    rows = [[name, *map(number, pair)] for name, pair in chance(study, ids).items()]
    for name in ("random", "trained"):
        overall = columns(save / name)[2]
        rows.append([f"{name} weights", number(overall["FI"]), number(overall["LI"])])
    print(text_table(["map", "FI", "LI"], rows))
    print()
    compare(save / "trained", save / "random", output=save / "comparison")
    worst = chosen(study, most=1)[0]
    draw(save / "trained", sample=worst)
