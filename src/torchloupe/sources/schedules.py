"""Schedules from the places where people write them: each becomes the real optimizer and the real schedulers."""

from __future__ import annotations

import bisect
import csv
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from torchloupe.data.schedules import Acting, Mark, Plan, Ticker, Unit
from torchloupe.errors import BadInput, LoupeError, LoupeWarning, MissingPackage, nearest, need
from torchloupe.sources import patches
from torchloupe.sources.configs import (
    OPENGAIT_DEFAULTS,
    expand,
    literal,
    located,
    merged,
    one_line,
    opengait_default,
    openmmlab_config,
    openmmlab_scope,
    spec,
    yaml_config,
)
from torchloupe.sources.hrnet import DEFAULTS

MOST_MARKS = 24
Rate = Callable[[int, float], float]
TIMM = ("cosine", "tanh", "step", "multistep", "plateau", "poly", "none")


@dataclass(frozen=True)
class Metric:
    """What a training measured after every epoch, for schedulers that follow it: the columns of a table."""

    source: str
    columns: Mapping[str, Sequence[float]]

    def of(self, name: str, wanted: str | None = None) -> Callable[[int], float]:
        """epoch (from 1) -> the value after it: of the wanted column where there is one, else of the only or the last one.

        Errors: BadInput for an epoch that the table does not have.
        """
        key = wanted if wanted is not None and wanted in self.columns else list(self.columns)[-1]
        values = self.columns[key]

        def value(epoch: int) -> float:
            if epoch > len(values):
                raise BadInput(
                    f"--metric {self.source}: {len(values)} values, but {name} asks for one after epoch {epoch}"
                )
            return values[epoch - 1]

        return value


def metric(path: str | Path | None) -> Metric | None:
    """A table (.csv) of numbers, one line an epoch, with names of columns or without. Errors: BadInput for anything else."""
    if path is None:
        return None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"--metric {path}: cannot be read as a table: {one_line(error)}") from error
    head = rows[0] if rows and not _is_number(rows[0][-1]) else None
    body = rows[1:] if head else rows
    wide = len(head) if head else max(map(len, body), default=0)
    columns: dict[str, list[float]] = {}
    for k in range(wide):
        cells = [row[k] for row in body if k < len(row) and row[k]]
        # Trainings that log by iteration leave the cells of a validation empty in most lines.
        if cells and all(map(_is_number, cells)):
            columns[head[k] if head else str(k)] = [float(cell) for cell in cells]
    if not columns:
        raise BadInput(f"--metric {path}: no column of numbers in it")
    return Metric(str(path), columns)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True)
class Training:
    """What the caller says of the training: pictures, GPUs, the wanted axis and changes to configs."""

    dataset_size: int | None = None
    ngpus: int | None = None
    by: Unit | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric | None = None

    def __post_init__(self) -> None:
        for option, value in (("--dataset-size", self.dataset_size), ("--ngpus", self.ngpus)):
            if value is not None and value < 1:
                raise BadInput(f"{option} {value}: expected a positive number")

    def per_epoch(self, batch_size: int, size: int | None = None) -> int | None:
        """Iterations an epoch: ceil(pictures / (batch size x GPUs)); None where no data set size is known."""
        size = size or self.dataset_size
        if batch_size < 1:
            raise BadInput(f"batch size {batch_size}: expected a positive number")
        return None if size is None else math.ceil(size / (batch_size * (self.ngpus or 1)))


def schedules(source: str, training: Training = Training()) -> list[Plan]:
    """The plan of a config or spec, or the plans of a folder of configs, in order.

    `config.py` (OpenMMLab), `config.yaml` (OpenGait, HRNet), `torch:module:factory`, `torch:CosineAnnealingLR?...`,
    `timm:cosine?...`, `transformers:cosine?...`. Errors: BadInput, MissingPackage, each in one line.
    """
    kind, rest, query = spec(source)
    makers: dict[str, Callable[[str, str, dict[str, Any], Training], Plan]] = {
        "torch": _torch,
        "timm": _timm,
        "transformers": _transformers,
    }
    if kind in makers and ":" in source:
        try:
            return [makers[kind](source, rest, dict(query), training)]
        except LoupeError:
            raise
        except ImportError as error:
            raise MissingPackage(f"{source}: {one_line(error)}") from error
        except Exception as error:
            raise BadInput(f"{source}: {one_line(error)}") from error
    source = located(source, f"a spec ({', '.join(f'{key}:...' for key in makers)})")
    plans, paths = [], expand(source)
    for path in paths:
        try:
            plans.append(_openmmlab(path, training) if path.endswith(".py") else _yaml(path, training))
        except LoupeError as error:
            if len(paths) == 1:
                raise
            # A folder holds configs that are for evaluation only.
            warnings.warn(f"left out: {error}", LoupeWarning, stacklevel=2)
    if not plans:
        raise BadInput(f"{source}: none of its {len(paths)} configs has a schedule that can be drawn")
    return plans


# --- specs -----------------------------------------------------------------------------------------------------------


def _length(name: str, query: dict[str, Any], training: Training) -> tuple[int, Unit, int | None, Unit]:
    """Takes epochs, iters, batch_size and per out of the query: length, its unit, iterations an epoch, stepping."""
    epochs, iters, per = query.pop("epochs", None), query.pop("iters", None), query.pop("per", None)
    batch_size = query.pop("batch_size", None)
    if per not in (None, "iter", "epoch"):
        raise BadInput(f"{name}: per={per}: expected per=iter or per=epoch")
    for key, value in (("epochs", epochs), ("iters", iters), ("batch_size", batch_size)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise BadInput(f"{name}: {key}={value}: expected a positive number")
    per_epoch = training.per_epoch(batch_size) if batch_size else None
    if iters is not None:
        return iters, "iter", per_epoch, per or "iter"
    if epochs is None:
        raise BadInput(f"{name}: does not say how long the training is; add epochs=N or iters=N, for example {name}"
                       f"{'&' if '?' in name else '?'}epochs=100")  # fmt: skip
    if per_epoch is not None:
        return epochs * per_epoch, "iter", per_epoch, per or "epoch"
    return epochs, "epoch", None, per or "epoch"


def _parameters(count: int = 1) -> list[Any]:
    import torch

    return [torch.nn.Parameter(torch.zeros(1)) for _ in range(count)]


def _optimizer(name: str, query: dict[str, Any]) -> Any:
    """A torch optimizer over one number, from opt, lr, momentum, weight_decay, betas in the query."""
    import torch

    wanted = str(query.pop("opt", "SGD"))
    known: dict[str, Any] = {key.lower(): value for key, value in vars(torch.optim).items() if inspect.isclass(value)}
    if wanted.lower() not in known or wanted.lower() == "optimizer":
        raise BadInput(f"{name}: opt={wanted} is no torch optimizer.{nearest(wanted, known)}")
    given = {key: query.pop(key) for key in ("lr", "momentum", "weight_decay", "betas") if key in query}
    return known[wanted.lower()](_parameters(), **{"lr": 0.1, **given})


def _torch(name: str, rest: str, query: dict[str, Any], training: Training) -> Plan:
    """`torch:module:factory?...` (the factory gives (optimizer, scheduler or schedulers)) or `torch:StepLR?...`."""
    import torch

    length, unit, per_epoch, per = _length(name, query, training)
    if ":" in rest:
        made = patches.named(rest, "torch:")(**query)
        if not isinstance(made, tuple) or len(made) != 2 or not hasattr(made[0], "param_groups"):
            raise BadInput(f"{name}: the factory must return (optimizer, scheduler), found {type(made).__name__}")
        optimizer, found = made
        schedulers = list(found) if isinstance(found, (list, tuple)) else [found]
    else:
        known: dict[str, Any] = {
            key: value for key, value in vars(torch.optim.lr_scheduler).items() if inspect.isclass(value)
        }
        if rest not in known:
            raise BadInput(f"{name}: no torch.optim.lr_scheduler.{rest} and no module:factory.{nearest(rest, known)}")
        optimizer = _optimizer(name, query)
        schedulers = [known[rest](optimizer, **query)]
    for scheduler in schedulers:
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if plateau and training.metric is None:
            raise BadInput(f"{name}: ReduceLROnPlateau follows a metric; give its values with --metric FILE.csv")
        if plateau and per == "iter":
            raise BadInput(
                f"{name}: ReduceLROnPlateau follows a metric of every epoch; expected epochs=N and per=epoch"
            )
        if not callable(getattr(scheduler, "step", None)):
            raise BadInput(f"{name}: {type(scheduler).__name__} is no scheduler (it has no step())")
    scale = per_epoch or 1 if per == "epoch" and unit == "iter" else 1
    marks = tuple(Mark(at * scale, "milestone") for scheduler in schedulers for at in _torch_milestones(scheduler))
    tickers = tuple(Ticker(_stepper(scheduler, name, training.metric), per) for scheduler in schedulers)
    names = _group_names(optimizer.param_groups)
    acting = tuple(one for scheduler in schedulers for one in _acting(scheduler, per))
    return Plan(name, optimizer, tickers, length, unit, per_epoch, names, _few(marks, length), acting)


def _stepper(scheduler: Any, name: str = "", followed: Metric | None = None) -> Callable[[int], Any]:
    """One step of a scheduler that counts for itself, or follows a metric."""
    import torch

    if followed is not None and isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        value = followed.of(name)
        return lambda done: scheduler.step(value(done))
    return lambda _done: scheduler.step()


# Schedulers of torch, mmengine and timm that change at every unit, by what their names hold.
SMOOTH = ("Cosine", "Linear", "Poly", "Exponential", "OneCycle", "Quadratic")
NEVER_ENDING = 10**9


def _acting(scheduler: Any, per: Unit, offset: int = 0, until: int | None = None) -> list[Acting]:
    """What is known of a scheduler of torch or mmengine; of those that hold others, of each of them."""
    inner = getattr(scheduler, "_schedulers", None)
    if inner:
        starts = [0, *getattr(scheduler, "_milestones", ())]
        ends = [*starts[1:], None] if len(starts) == len(inner) else [until] * len(inner)
        starts = starts if len(starts) == len(inner) else [0] * len(inner)
        pairs = zip(inner, starts, ends, strict=True)
        return [one for child, start, end in pairs
                for one in _acting(child, per, offset + start, end if end is None else offset + end)]  # fmt: skip
    name = type(scheduler).__name__
    end = getattr(scheduler, "end", None)
    end = until if end is None or end >= NEVER_ENDING else int(end)
    period = next(
        (int(getattr(scheduler, key)) for key in ("T_max", "total_iters", "total_steps") if hasattr(scheduler, key)),
        None,
    )
    period = None if period is not None and period >= NEVER_ENDING - 1 else period
    step = getattr(scheduler, "step_size", None)
    milestones = tuple(int(mark) for mark in getattr(scheduler, "milestones", ())) or ((int(step),) if step else ())
    begin = int(getattr(scheduler, "begin", 0)) + offset
    if end is None and name.startswith(("Linear", "Constant")) and period is not None:
        # torch's stop acting after their last step.
        end = begin + period
    return [Acting(name, per, begin, end, period, milestones, any(word in name for word in SMOOTH))]


def _torch_milestones(scheduler: Any) -> list[int]:
    """Where a torch scheduler changes its ways: milestones, also of the schedulers that it holds."""
    found = list(getattr(scheduler, "milestones", ())) + list(getattr(scheduler, "_milestones", ()))
    offsets = [0, *getattr(scheduler, "_milestones", ())]
    inner = getattr(scheduler, "_schedulers", ())
    for k, child in enumerate(inner):
        offset = offsets[k] if len(offsets) == len(inner) else 0
        found += [offset + at for at in _torch_milestones(child)]
    return found


def _timm(name: str, rest: str, query: dict[str, Any], training: Training) -> Plan:
    """`timm:cosine?epochs=300&warmup_epochs=5&lr=0.1`: timm's create_scheduler_v2 with the rest of the query."""
    try:
        create_scheduler_v2 = patches.imported("timm.scheduler").create_scheduler_v2
    except ImportError as error:
        raise need("timm", "timm") from error
    query.setdefault("epochs", query.pop("num_epochs", 300))
    epochs = query["epochs"]
    _, unit, per_epoch, per = _length(name, query, training)
    optimizer = _optimizer(name, query)
    known = set(inspect.signature(create_scheduler_v2).parameters) - {"optimizer", "sched", "num_epochs"}
    for key in query:
        if key not in known:
            raise BadInput(f"{name}: timm's create_scheduler_v2 has no {key}.{nearest(key, known)}")
    if rest not in TIMM:
        raise BadInput(f"{name}: timm has no scheduler {rest}.{nearest(rest, TIMM)} It has {', '.join(TIMM)}")
    if rest == "plateau" and training.metric is None:
        raise BadInput(f"{name}: plateau follows a metric; give its values with --metric FILE.csv")
    by_update = per == "iter" or query.get("step_on_epochs") is False
    if by_update and per_epoch is None:
        raise BadInput(f"{name}: stepping by iteration needs --dataset-size and batch_size=N in the spec")
    extra = {"step_on_epochs": not by_update, "updates_per_epoch": per_epoch or 0} if by_update else {}
    scheduler, epochs = create_scheduler_v2(optimizer, sched=rest, num_epochs=epochs, **{**query, **extra})
    tickers: tuple[Ticker, ...] = ()
    if scheduler is not None:
        tickers = (Ticker(lambda done: scheduler.step(done), "epoch"),)
        if rest == "plateau" and training.metric is not None:
            value = training.metric.of(name)
            tickers = (Ticker(lambda done: scheduler.step(done, value(done)), "epoch"),)
        if by_update:
            tickers += (Ticker(lambda done: scheduler.step_update(done), "iter"),)
    scale = per_epoch or 1 if unit == "iter" else 1
    times = getattr(scheduler, "decay_t", ())
    times = times if isinstance(times, (list, tuple)) else ()
    marks = tuple(Mark(int(at) * (1 if by_update else scale), "milestone") for at in times)
    return Plan(name, optimizer, tickers, epochs * scale, unit, per_epoch, marks=_few(marks, epochs * scale))


def _transformers(name: str, rest: str, query: dict[str, Any], training: Training) -> Plan:
    """`transformers:cosine?iters=10000&warmup_steps=500&lr=5e-5`: transformers.get_scheduler, stepped by iteration."""
    try:
        get_scheduler = patches.imported("transformers.optimization").get_scheduler
        from transformers.trainer_utils import SchedulerType
    except ImportError as error:
        raise need("transformers", "transformers") from error
    known = [str(kind.value) for kind in SchedulerType]
    if rest not in known:
        raise BadInput(f"{name}: transformers has no scheduler {rest}.{nearest(rest, known)} It has {', '.join(known)}")
    follows = rest in ("reduce_lr_on_plateau", "greedy")
    if rest == "greedy" or (follows and training.metric is None):
        raise BadInput(
            f"{name}: {rest} follows a metric; give its values with --metric FILE.csv to reduce_lr_on_plateau"
        )
    query.setdefault("per", "epoch" if follows else "iter")
    length, unit, per_epoch, per = _length(name, query, training)
    if unit == "epoch" and not follows:
        raise BadInput(f"{name}: transformers steps by iteration; give iters=N, or batch_size=N and --dataset-size")
    ratio = query.pop("warmup_ratio", 0)
    steps = query.pop("warmup_steps", math.ceil(length * ratio))
    query.setdefault("opt", "AdamW")
    query.setdefault("lr", 5e-5)
    optimizer = _optimizer(name, query)
    try:
        scheduler = get_scheduler(rest, optimizer, steps, length, scheduler_specific_kwargs=query or None)
    except (TypeError, ValueError) as error:
        hint = "what a scheduler needs goes into the spec, such as &min_lr=1e-6 or &num_decay_steps=100"
        raise BadInput(f"{name}: {one_line(error)}; {hint}") from error
    if follows and per == "iter":
        raise BadInput(f"{name}: {rest} follows a metric of every epoch; expected epochs=N")
    return Plan(name, optimizer, (Ticker(_stepper(scheduler, name, training.metric), per),), length, unit, per_epoch)


# --- YAML ------------------------------------------------------------------------------------------------------------


def _yaml(path: str, training: Training) -> Plan:
    config = yaml_config(path, training.changes)
    try:
        if "optimizer_cfg" in config or "scheduler_cfg" in config or "trainer_cfg" in config:
            return _opengait(path, config, training)
        if isinstance(config.get("TRAIN"), dict):
            return _hrnet(path, config, training)
        if isinstance(config.get("optimizer"), dict) and "class_path" in config["optimizer"]:
            return _lightning(path, config, training)
        if "learning_rate" in config or "lr_scheduler_type" in config:
            return _trainer(path, config, training)
    except LoupeError:
        raise
    except Exception as error:
        raise BadInput(f"{path}: {one_line(error)}") from error
    others = (
        "an HRNet one (TRAIN: LR), one of Lightning (optimizer: class_path) or of transformers' Trainer (learning_rate)"
    )
    raise BadInput(f"{path}: neither an OpenGait config (optimizer_cfg, scheduler_cfg) nor {others}")


def _lightning(path: str, config: dict[str, Any], training: Training) -> Plan:
    """A file of Lightning's command line: optimizer and lr_scheduler by class_path and init_args, which is stepped after every epoch."""
    trainer = config.get("trainer") or {}
    optimizer = _of_class(path, config["optimizer"], "optimizer", _parameters())
    written = config.get("lr_scheduler")
    scheduler = None if not written else _of_class(path, written, "lr_scheduler", optimizer)
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if not (isinstance(epochs, int) and epochs > 0) and not (isinstance(steps, int) and steps > 0):
        raise BadInput(
            f"{path}: trainer has max_epochs {epochs} and max_steps {steps}: nobody says how long the training is"
        )
    data = (config.get("data") or {}).get("init_args") or {}
    batch = int(data.get("batch_size") or 1) * int(trainer.get("accumulate_grad_batches") or 1)
    per_epoch = training.per_epoch(batch)
    by_epoch = isinstance(epochs, int) and epochs > 0
    if not by_epoch and per_epoch is None and scheduler is not None:
        raise BadInput(
            f"{path}: max_steps {steps}, and a scheduler that is stepped after every epoch; give --dataset-size"
        )
    length = int(epochs or 0) * (per_epoch or 1) if by_epoch else int(steps or 0)
    if by_epoch and per_epoch and isinstance(steps, int) and steps > 0:
        length = min(length, steps)
    unit: Unit = "iter" if per_epoch or not by_epoch else "epoch"
    scale = per_epoch or 1
    tickers: tuple[Ticker, ...] = ()
    marks: list[Mark] = []
    acting: list[Acting] = []
    if scheduler is not None:
        monitor = str(written.get("init_args", {}).get("monitor", "")) if isinstance(written, dict) else ""
        tickers = (Ticker(_stepper(scheduler, f"{path} {monitor}".strip(), training.metric), "epoch"),)
        marks = [Mark(at * scale, "milestone") for at in _torch_milestones(scheduler)]
        acting = _acting(scheduler, "epoch")
    return Plan(
        _stem(path), optimizer, tickers, length, unit, per_epoch, marks=_few(marks, length), acting=tuple(acting)
    )


def _of_class(path: str, written: Mapping[str, Any], what: str, first: Any) -> Any:
    """An object by class_path and init_args. Its code is imported. Errors: BadInput where it cannot be built."""
    name, settings = str(written.get("class_path", "")), dict(written.get("init_args") or {})
    home, _, kind = name.rpartition(".")
    # Lightning's own plateau scheduler is torch's, with a monitor.
    home = (
        "torch.optim.lr_scheduler"
        if kind == "ReduceLROnPlateau"
        else home or f"torch.optim{'.lr_scheduler' if what != 'optimizer' else ''}"
    )
    settings.pop("monitor", None)
    found = patches.named(f"{home}:{kind}", f"{path}: {what}")
    return found(first, **settings)


def _trainer(path: str, config: dict[str, Any], training: Training) -> Plan:
    """The arguments of transformers' Trainer, as JSON or YAML: AdamW and get_scheduler, stepped at every update."""
    try:
        get_scheduler = patches.imported("transformers.optimization").get_scheduler
    except ImportError as error:
        raise need("transformers", "transformers") from error
    import torch

    batch = int(config.get("per_device_train_batch_size") or 8) * int(config.get("gradient_accumulation_steps") or 1)
    per_epoch, steps = training.per_epoch(batch), int(config.get("max_steps") or -1)
    if steps <= 0 and per_epoch is None:
        raise BadInput(
            f"{path}: num_train_epochs without max_steps: updates an epoch are not known; give --dataset-size"
        )
    length = steps if steps > 0 else math.ceil(float(config.get("num_train_epochs") or 3.0) * (per_epoch or 1))
    warm = config.get("warmup_steps") or 0
    warm = int(warm) if warm >= 1 else math.ceil(length * (warm or config.get("warmup_ratio") or 0))
    optimizer = torch.optim.AdamW(
        _parameters(),
        lr=float(config.get("learning_rate") or 5e-5),
        betas=(float(config.get("adam_beta1") or 0.9), float(config.get("adam_beta2") or 0.999)),
        weight_decay=float(config.get("weight_decay") or 0.0),
    )
    kind = str(config.get("lr_scheduler_type") or "linear")
    more = config.get("lr_scheduler_kwargs") or None
    scheduler = get_scheduler(kind, optimizer, warm, length, scheduler_specific_kwargs=more)
    follows = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if follows and training.metric is None:
        raise BadInput(f"{path}: {kind} follows a metric; give its values with --metric FILE.csv")
    ticker = Ticker(_stepper(scheduler, path, training.metric), "epoch" if follows else "iter")
    return Plan(_stem(path), optimizer, (ticker,), length, "iter", per_epoch)


def _opengait(path: str, config: dict[str, Any], training: Training) -> Plan:
    """torch.optim and torch.optim.lr_scheduler by name, stepped every iteration, total_iter times."""
    import torch

    base = opengait_default(path)
    under = merged(OPENGAIT_DEFAULTS, yaml_config(base, {}) if base else {})
    config = merged(under, config)
    blocks = {}
    for block, key, home in (
        ("optimizer_cfg", "solver", torch.optim),
        ("scheduler_cfg", "scheduler", torch.optim.lr_scheduler),
    ):
        given = dict(config[block])
        kind = given.pop(key)
        found = getattr(home, str(kind), None)
        if found is None:
            raise BadInput(f"{path}: {block}.{key}: {home.__name__} has no {kind}.{nearest(str(kind), dir(home))}")
        taken = inspect.signature(found).parameters
        blocks[block] = (found, {name: value for name, value in given.items() if name in taken})
    optimizer_type, given = blocks["optimizer_cfg"]
    optimizer = optimizer_type(_parameters(), **given)
    scheduler_type, given = blocks["scheduler_cfg"]
    scheduler = scheduler_type(optimizer, **given)
    length = int(config["trainer_cfg"]["total_iter"])
    sizes = config["trainer_cfg"]["sampler"]["batch_size"]
    # The two numbers are subjects and sequences of each, over all GPUs.
    batch = math.prod(sizes) if isinstance(sizes, (list, tuple)) else int(sizes)
    per_epoch = math.ceil(training.dataset_size / batch) if training.dataset_size else None
    marks = tuple(Mark(at, "milestone") for at in _torch_milestones(scheduler))
    ticker = Ticker(lambda done: scheduler.step(), "iter")
    acting = tuple(_acting(scheduler, "iter"))
    return Plan(_stem(path), optimizer, (ticker,), length, "iter", per_epoch, marks=_few(marks, length), acting=acting)


def _hrnet(path: str, config: dict[str, Any], training: Training) -> Plan:
    """SGD or Adam and MultiStepLR by epoch, from BEGIN_EPOCH to END_EPOCH.

    Differs: HRNet's loop calls scheduler.step() before an epoch, which was right for torch 1.0; a later torch drops
    the rate one epoch early there. What the config says, LR_STEP, is drawn.
    """
    import torch

    # yacs reads text that spells a value, such as (0, 1) for a tuple.
    written = {key: literal(value) if isinstance(value, str) else value for key, value in config["TRAIN"].items()}
    train = merged(DEFAULTS["TRAIN"], written)
    kind = str(train["OPTIMIZER"]).lower()
    if kind == "sgd":
        optimizer: Any = torch.optim.SGD(
            _parameters(),
            lr=train["LR"],
            momentum=train["MOMENTUM"],
            weight_decay=train["WD"],
            nesterov=train["NESTEROV"],
        )
    elif kind == "adam":
        # HRNet gives Adam no weight decay, whatever WD says.
        optimizer = torch.optim.Adam(_parameters(), lr=train["LR"])
    else:
        raise BadInput(f"{path}: TRAIN.OPTIMIZER {kind}: expected sgd or adam")
    begin, end = int(train["BEGIN_EPOCH"]), int(train["END_EPOCH"])
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(train["LR_STEP"]), train["LR_FACTOR"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(begin):
            scheduler.step()
    said = config.get("GPUS") or (0,)
    said = literal(said) if isinstance(said, str) else said
    gpus = training.ngpus or (len(said) if isinstance(said, (list, tuple)) else 1)
    batch = int(train["BATCH_SIZE_PER_GPU"]) * gpus
    per_epoch = math.ceil(training.dataset_size / batch) if training.dataset_size else None
    scale = per_epoch or 1
    length = (end - begin) * scale
    marks = tuple(Mark((at - begin) * scale, "milestone") for at in train["LR_STEP"])
    ticker = Ticker(lambda done: scheduler.step(), "epoch")
    unit: Unit = "iter" if per_epoch else "epoch"
    steps = tuple(int(at) - begin for at in train["LR_STEP"] if at >= begin)
    acting = (Acting("MultiStepLR", "epoch", milestones=steps),)
    return Plan(_stem(path), optimizer, (ticker,), length, unit, per_epoch, marks=_few(marks, length), acting=acting)


# --- OpenMMLab -------------------------------------------------------------------------------------------------------


class _Pictures:
    """A data set that is only as long as a data set: what samplers need to know."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def _openmmlab(path: str, training: Training) -> Plan:
    """The config's own optimizer wrapper and parameter schedulers (or lr_config, the style before 2022)."""
    config = openmmlab_config(path, training.changes)
    with openmmlab_scope(path, config):
        try:
            if "lr_config" in config and "param_scheduler" not in config:
                return _old_style(path, config, training)
            return _new_style(path, config, training)
        except LoupeError:
            raise
        except ImportError as error:
            raise MissingPackage(f"{path}: {one_line(error)}") from error
        except Exception as error:
            raise BadInput(f"{path}: the schedule cannot be built: {one_line(error)}") from error


def _new_style(path: str, config: Any, training: Training) -> Plan:
    from mmengine.registry import PARAM_SCHEDULERS

    loop, wrapper = config.get("train_cfg"), config.get("optim_wrapper")
    if not loop or not wrapper:
        raise BadInput(f"{path}: says nothing of training ({'train_cfg' if not loop else 'optim_wrapper'} is missing)")
    max_epochs, max_iters = loop.get("max_epochs"), loop.get("max_iters")
    if max_epochs is None and max_iters is None:
        raise BadInput(f"{path}: train_cfg has neither max_epochs nor max_iters")
    if (max_epochs if max_epochs is not None else max_iters) < 1:
        raise BadInput(f"{path}: train_cfg has max_epochs {max_epochs}, max_iters {max_iters}: nothing to show")
    written = config.get("param_scheduler") or []
    written = [dict(one) for one in ([written] if isinstance(written, dict) else written)]
    by_epoch = max_epochs is not None
    mixed = any(one.get("convert_to_iter_based") or (by_epoch and not one.get("by_epoch", True)) for one in written)
    per_epoch = _iters_per_epoch(path, config.get("train_dataloader") or {}, training, mixed, by_epoch)
    unit: Unit = "iter" if per_epoch or not by_epoch else "epoch"
    length = max_epochs * (per_epoch or 1) if by_epoch else max_iters
    optimizer, names = _built_optimizer(path, config, training, per_epoch)
    tickers: list[Ticker] = []
    marks: list[Mark] = []
    idle: list[str] = []
    acting: list[Acting] = []
    for one in written:
        epochs = one.get("by_epoch", True)
        follows = str(one.get("type", "")).startswith("ReduceOnPlateau")
        if follows and training.metric is None:
            raise BadInput(f"{path}: {one['type']} follows a metric; give its values with --metric FILE.csv")
        # A training by iteration is one epoch to mmengine.
        one.setdefault("end", (max_epochs if by_epoch else 1) if epochs else (length if by_epoch else max_iters))
        scheduler = PARAM_SCHEDULERS.build(one, default_args={"optimizer": optimizer, "epoch_length": per_epoch or 1})
        per: Unit = "epoch" if scheduler.by_epoch else "iter"
        if per == "epoch" and not by_epoch:
            idle.append(type(scheduler).__name__)
            continue
        scale = per_epoch or 1 if per == "epoch" and unit == "iter" else 1
        step = _after_validation(scheduler, str(one["type"]), training.metric) if follows else _stepper(scheduler)
        tickers.append(Ticker(step, per, scheduler.end))
        # A momentum's schedule is its own chain.
        acting += _acting(scheduler, per) if "Momentum" not in type(scheduler).__name__ else []
        marks += [Mark((scheduler.begin + at) * scale, "milestone") for at in getattr(scheduler, "milestones", ())]
        if scheduler.begin > 0:
            marks.append(Mark(scheduler.begin * scale, type(scheduler).__name__))
    if idle:
        _never(
            path, f"param_scheduler {', '.join(idle)}: by_epoch=True, the default,", "once, after the last iteration"
        )
    few = _few(marks, length)
    return Plan(_stem(path), optimizer, tuple(tickers), length, unit, per_epoch, names, few, tuple(acting))


def _after_validation(scheduler: Any, name: str, followed: Metric | None) -> Callable[[int], Any]:
    """mmengine's plateau schedulers count after an epoch and look at the metric after its validation."""
    assert followed is not None
    value = followed.of(name, scheduler.monitor)

    def step(done: int) -> None:
        scheduler.step()
        scheduler.step({scheduler.monitor: value(done)})

    return step


def _never(path: str, what: str, when: str) -> None:
    """Tells of what goes by epoch in a training by iteration."""
    text = f"{path}: {what} in a training by iteration is stepped {when}, so it never acts; write by_epoch=False"
    warnings.warn(text, LoupeWarning, stacklevel=2)


def _iters_per_epoch(path: str, loader: Any, training: Training, needed: bool, by_epoch: bool) -> int | None:
    """ceil(samples a GPU / batch size), floor with drop_last; builds the data set only where nobody says its size."""
    from mmengine.registry import DATA_SAMPLERS, DATASETS

    wanted = "iter" if by_epoch else "epoch"
    if training.dataset_size is None and not needed and training.by != wanted:
        return None
    batch = loader.get("batch_size", loader.get("samples_per_gpu"))
    if batch is None:
        raise BadInput(f"{path}: the training data loader has no batch_size")
    if not isinstance(batch, int) or batch < 1:
        raise BadInput(f"{path}: batch_size {batch}: expected a positive number")
    size = training.dataset_size
    if size is None:
        try:
            # pycocotools tells what it reads.
            with redirect_stdout(StringIO()):
                size = len(DATASETS.build(loader["dataset"]))
        except Exception as error:
            message = f"{path}: the training set cannot be built ({one_line(error)}); give --dataset-size N"
            raise BadInput(message) from error
        if size == 0:
            raise BadInput(f"{path}: the training set is empty; give --dataset-size N")
    sampler = loader.get("sampler")
    if sampler:
        built = DATA_SAMPLERS.build(dict(sampler), default_args={"dataset": _Pictures(size)})
        size = len(built)
    share = size / (training.ngpus or 1)
    iters = int(share // batch) if loader.get("drop_last") else math.ceil(math.ceil(share) / batch)
    if iters < 1:
        raise BadInput(f"{path}: {size} pictures on {training.ngpus or 1} GPU(s) do not fill one batch of {batch}")
    return iters


def _built_optimizer(path: str, config: Any, training: Training, per_epoch: int | None) -> tuple[Any, tuple[str, ...]]:
    """The config's optimizer; its equal parameter groups become one each, so that stepping costs little.

    The model is built only where groups depend on it (paramwise_cfg, constructor).
    """
    import copy

    import torch
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import OPTIMIZERS

    wrapper = copy.deepcopy(dict(config.optim_wrapper))
    kind = (wrapper.get("optimizer") or {}).get("type")
    with OPTIMIZERS.switch_scope_and_registry(None) as own:
        if isinstance(kind, str) and own.get(kind) is None:
            raise BadInput(
                f"{path}: no optimizer {kind}.{nearest(kind, {**OPTIMIZERS.module_dict, **own.module_dict})}"
            )
    if str(wrapper.get("type", "")).startswith(("Amp", "Apex")):
        # Mixed precision does not change a schedule, and its wrapper asks for a GPU.
        wrapper = {
            key: wrapper[key] for key in ("optimizer", "paramwise_cfg", "constructor", "clip_grad") if key in wrapper
        }
        wrapper["type"] = "OptimWrapper"
    module: Any = torch.nn.Linear(1, 1)
    if wrapper.get("paramwise_cfg") or "constructor" in wrapper:
        try:
            module = _module(config.model)
        except Exception as error:
            said = str(error) if isinstance(error, BadInput) else one_line(error)
            message = f"{path}: parameter groups are left out, for the model cannot be built ({said})"
            warnings.warn(message, LoupeWarning, stacklevel=2)
            wrapper.pop("paramwise_cfg", None)
            wrapper.pop("constructor", None)
    built = _quietly(build_optim_wrapper, module, wrapper)
    optimizer = getattr(built, "optimizer", None)
    if optimizer is None:
        raise BadInput(f"{path}: several optimizers in one config are not supported")
    scale = config.get("auto_scale_lr") or {}
    if scale.get("enable"):
        batch = config.train_dataloader.batch_size * (training.ngpus or 1)
        for group in optimizer.param_groups:
            group["lr"] *= batch / scale["base_batch_size"]
    names = dict(_one_of_each(optimizer))
    return optimizer, tuple(names.values())


def _module(model: Any) -> Any:
    """The model without memory for its weights where it can be built so (no value is asked while building).

    Weights that it would load while it is built, from a file or from the net, are not loaded but an error.
    """
    import torch
    from mmengine.registry import MODELS
    from mmengine.runner.checkpoint import CheckpointLoader

    def refused(filename: Any, *_: Any, **__: Any) -> Any:
        raise BadInput(f"it asks for the weights {filename}")

    # Found first: what the package does on import wants real tensors.
    MODELS.get(model["type"])
    loads = vars(CheckpointLoader)["load_checkpoint"]
    CheckpointLoader.load_checkpoint = staticmethod(refused)
    try:
        with torch.device("meta"):
            return _quietly(MODELS.build, model)
    except BadInput:
        raise
    except Exception:
        return _quietly(MODELS.build, model)
    finally:
        CheckpointLoader.load_checkpoint = loads


def _one_of_each(optimizer: Any) -> list[tuple[int, str]]:
    """Keeps one parameter group of each setting (in place) and names them by what sets them apart."""
    import torch

    kept: dict[tuple[str, ...], Any] = {}
    counts: dict[tuple[str, ...], int] = {}
    for group in optimizer.param_groups:
        key = tuple(repr(group.get(name)) for name in optimizer.defaults)
        counts[key] = counts.get(key, 0) + len(group["params"])
        kept.setdefault(key, group)
    for group in kept.values():
        group["params"] = [torch.nn.Parameter(torch.zeros(1))]
    optimizer.param_groups[:] = list(kept.values())
    names = _group_names(optimizer.param_groups)
    return [
        (k, f"{name} ({count} tensors)" if name else "")
        for k, (name, count) in enumerate(zip(names, counts.values(), strict=True))
    ]


def _group_names(groups: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Each group's own name, else what sets it apart: 'decay 0.05', 'lr 0.001, decay 0'. One group needs no name."""
    if len(groups) == 1:
        return (str(groups[0].get("name", "")),)
    names = []
    short = {"weight_decay": "decay", "initial_lr": "lr"}
    keys = [key for key in ("initial_lr", "lr", "weight_decay", "momentum") if all(key in group for group in groups)]
    if "initial_lr" in keys:
        keys.remove("lr")
    telling = [key for key in keys if len({repr(group[key]) for group in groups}) > 1]
    for g, group in enumerate(groups):
        told = ", ".join(f"{short.get(key, key)} {float(group[key]):.4g}" for key in telling)
        names.append(str(group.get("name", "")) or told or f"group {g}")
    return tuple(name if names.count(name) == 1 else f"{name} #{k}" for k, name in enumerate(names))


def _quietly(build: Callable[..., Any], *arguments: Any) -> Any:
    """Calls with mmengine's log raised to errors: it prints a line for every parameter group."""
    import logging

    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return build(*arguments)
    finally:
        logger.setLevel(level)


# The policies of mmcv 1's LrUpdaterHook, for `length` epochs or iterations: mmengine's schedulers of the same values, or
# the hook's rate of t and of a group's own rate, for torch's LambdaLR.
def _policy(path: str, config: Mapping[str, Any], length: int, base: float) -> dict[str, Any] | Rate:
    policy = str(config.get("policy", "")).lower()
    low = config.get("min_lr") or 0
    low = low if config.get("min_lr_ratio") is None else config["min_lr_ratio"] * base
    if policy == "fixed":
        return lambda _t, rate: rate
    if policy == "step":
        step, gamma = config["step"], config.get("gamma", 0.1)
        if isinstance(step, int):
            return {"type": "StepLR", "step_size": step, "gamma": gamma}
        return {"type": "MultiStepLR", "milestones": list(step), "gamma": gamma}
    if policy == "exp":
        return {"type": "ExponentialLR", "gamma": config["gamma"]}
    if policy == "inv":
        gamma, power = config["gamma"], config.get("power", 1.0)
        return lambda t, rate: rate * (1 + gamma * t) ** -power
    if policy == "poly":
        # mmengine's PolyLR reaches its end one step before `end`.
        return {"type": "PolyLR", "power": config.get("power", 1.0), "eta_min": low, "end": length + 1}
    if policy == "cosineannealing":
        return {"type": "CosineAnnealingLR", "T_max": length, "eta_min": low}
    if policy == "flatcosineannealing":
        start = round(length * config.get("start_percent", 0.75))
        return {"type": "CosineAnnealingLR", "begin": start, "T_max": length - start, "eta_min": low}
    if policy == "linearannealing":
        return {"type": "PolyLR", "power": 1.0, "eta_min": low, "end": length + 1}
    if policy == "cosinerestart":
        return _restarts(config)
    if policy == "onecycle":
        words = ("pct_start", "anneal_strategy", "div_factor", "final_div_factor", "three_phase")
        return {"type": "OneCycleLR", "eta_max": config["max_lr"], "total_steps": config.get("total_steps") or length,
                **{key: config[key] for key in words if key in config}}  # fmt: skip
    if policy == "cyclic":
        return _cyclic(config, length)
    known = (*("fixed", "step", "exp", "inv", "poly", "CosineAnnealing", "FlatCosineAnnealing", "LinearAnnealing"),
             *("CosineRestart", "OneCycle", "cyclic"))  # fmt: skip
    text = f"{path}: lr_config policy {config.get('policy')} is not known.{nearest(policy, known)}"
    raise BadInput(f"{text} Policies: {', '.join(known)}")


def _restarts(config: Mapping[str, Any]) -> Rate:
    """A half cosine in each period, from a weight of the rate down to the least."""
    ends = np.cumsum(config["periods"]).tolist()
    weights = config.get("restart_weights", [1.0] * len(ends))

    def rate_of(t: int, rate: float) -> float:
        k = min(bisect.bisect_right(ends, t), len(ends) - 1)
        share = min((t - (ends[k] - config["periods"][k])) / config["periods"][k], 1)
        least = config.get("min_lr") or 0
        low = least if config.get("min_lr_ratio") is None else config["min_lr_ratio"] * rate
        return low + weights[k] * (rate - low) * (1 + math.cos(math.pi * share)) / 2

    return rate_of


def _cyclic(config: Mapping[str, Any], length: int) -> Rate:
    """Up to target_ratio[0] times the rate and down to target_ratio[1], cyclic_times; later peaks lower by gamma."""
    ratio = config.get("target_ratio", (10, 1e-4))
    top, end = ratio if isinstance(ratio, (list, tuple)) else (ratio, ratio / 1e5)
    cycle = length // int(config.get("cyclic_times", 1))
    rise = int(config.get("step_ratio_up", 0.4) * cycle)
    gamma, straight = config.get("gamma", 1), config.get("anneal_strategy", "cos") == "linear"

    def rate_of(t: int, rate: float) -> float:
        peak = 1 + gamma ** (t // cycle) * (top - 1)
        t %= cycle
        first, last, share = (1, peak, t / rise) if t < rise else (peak, end, (t - rise) / (cycle - rise))
        return rate * (first + (last - first) * (share if straight else (1 - math.cos(math.pi * share)) / 2))

    return rate_of


# Policies that go by iteration whatever by_epoch says.
BY_ITERATION = ("cyclic", "onecycle")


def _old_style(path: str, config: Any, training: Training) -> Plan:
    """lr_config of mmcv 1: the regular rate times a warm-up factor, each from its own stepped scheduler."""
    import copy

    import torch
    from mmengine.registry import PARAM_SCHEDULERS

    policy, runner = config.lr_config, config.get("runner") or {}
    max_epochs, max_iters = runner.get("max_epochs", config.get("total_epochs")), runner.get("max_iters")
    if max_epochs is None and max_iters is None:
        raise BadInput(f"{path}: the config has lr_config but neither runner.max_epochs nor runner.max_iters")
    by_epoch = max_epochs is not None and max_iters is None
    # mmcv 1's IterBasedRunner sets by_epoch=False where nobody does, and never calls what goes by epoch.
    stepwise = policy.get("by_epoch", by_epoch) and str(policy.get("policy", "")).lower() not in BY_ITERATION
    idle = stepwise and not by_epoch
    warm = policy.get("warmup")
    data = dict(config.get("data") or {})
    loader = {"batch_size": data.get("samples_per_gpu"), "dataset": data.get("train")}
    mixed = bool(warm) or stepwise != by_epoch
    per_epoch = _iters_per_epoch(path, loader, training, mixed and by_epoch, by_epoch)
    unit: Unit = "iter" if per_epoch or not by_epoch else "epoch"
    length = int(max_epochs * (per_epoch or 1) if by_epoch else max_iters or 0)
    steps = max_epochs if by_epoch and stepwise else math.ceil(length / (per_epoch or 1)) if stepwise else length

    told = dict(config.optimizer)
    base = float(told["lr"])
    wrapper: dict[str, Any] = {key: told.pop(key) for key in ("paramwise_cfg", "constructor") if key in told}
    config.optim_wrapper = {"type": "OptimWrapper", "optimizer": told, **wrapper}
    optimizer, names = _built_optimizer(path, config, training, per_epoch)
    if idle:
        _never(path, f"lr_config {policy.get('policy')}: by_epoch=True", "never")
        return Plan(_stem(path), optimizer, (), length, unit, per_epoch, names)
    regular, factor = copy.deepcopy(optimizer), _sgd_of_one()
    tickers: list[Ticker] = []
    marks: list[Mark] = []
    per: Unit = "epoch" if stepwise else "iter"
    scale = per_epoch or 1 if per == "epoch" and unit == "iter" else 1

    def scheduled(target: Any, written: dict[str, Any] | Rate, per: Unit, until: int) -> None:
        if callable(written):
            factors: list[Callable[[int], float]] = [
                partial(_share, written, group["lr"]) for group in target.param_groups
            ]
            scheduler: Any = torch.optim.lr_scheduler.LambdaLR(target, factors)
        else:
            scheduler = PARAM_SCHEDULERS.build(
                {"end": until, **written, "by_epoch": per == "epoch"}, default_args={"optimizer": target}
            )
        tickers.append(Ticker(_stepper(scheduler), per, until + 1))
        marks.extend(Mark(at * scale, "milestone") for at in getattr(scheduler, "milestones", ()))

    scheduled(regular, _policy(path, policy, steps, base), per, steps)
    if warm:
        count, ratio = int(policy.get("warmup_iters", 0)), float(policy.get("warmup_ratio", 0.1))
        if policy.get("warmup_by_epoch"):
            count *= per_epoch or 1
        kinds: dict[str, dict[str, Any]] = {
            "linear": {"type": "LinearLR", "start_factor": ratio, "end_factor": 1.0},
            "constant": {"type": "ConstantLR", "factor": ratio},
            "exp": {"type": "ExponentialLR", "gamma": ratio ** (-1 / max(count, 1))},
        }
        if warm not in kinds:
            raise BadInput(f"{path}: lr_config warmup {warm}: expected one of {', '.join(kinds)}")
        if warm == "exp":
            factor.param_groups[0]["lr"] = ratio
        scheduled(factor, {**kinds[warm], "end": count + 1}, "iter", count + 1)
    least = (policy.get("min_lr") or 0) if str(policy.get("policy")).lower() == "step" else 0

    def combine(_done: int = 0) -> None:
        for group, plain in zip(optimizer.param_groups, regular.param_groups, strict=True):
            group["lr"] = max(plain["lr"], least) * factor.param_groups[0]["lr"]

    combine()
    if config.get("momentum_config"):
        tickers += _momentum(path, config.momentum_config, optimizer, by_epoch, int(length), per_epoch)
    # The product follows whatever moved; by iteration only while the warm-up moves.
    last = max([ticker.until or 0 for ticker in tickers if ticker.per == "iter"], default=0)
    if last:
        tickers.append(Ticker(combine, "iter", last))
    tickers.append(Ticker(combine, "epoch" if unit == "epoch" or per_epoch else "iter"))
    return Plan(_stem(path), optimizer, tuple(tickers), length, unit, per_epoch, names, _few(marks, length))


def _momentum(
    path: str, config: Mapping[str, Any], optimizer: Any, by_epoch: bool, length: int, per_epoch: int | None
) -> list[Ticker]:
    """momentum_config of mmcv 1: the momentum, or the first beta of Adam, of every group, by a policy of its own."""
    if config.get("warmup"):
        warnings.warn(f"{path}: the warm-up of momentum_config is left out", LoupeWarning, stacklevel=2)
    policy = str(config.get("policy", "")).lower()
    stepwise = config.get("by_epoch", by_epoch) and policy not in BY_ITERATION
    if stepwise and not by_epoch:
        _never(path, f"momentum_config {config.get('policy')}: by_epoch=True", "never")
        return []
    if not stepwise and by_epoch and per_epoch is None:
        warnings.warn(
            f"{path}: momentum_config goes by iteration and is left out; give --dataset-size",
            LoupeWarning,
            stacklevel=2,
        )
        return []
    steps = length // (per_epoch or 1) if stepwise else length
    value_of = _momentum_policy(path, config, steps)
    key = "betas" if "betas" in optimizer.param_groups[0] else "momentum"
    base = [float(group[key][0] if key == "betas" else group[key]) for group in optimizer.param_groups]

    def put(done: int) -> None:
        for group, start in zip(optimizer.param_groups, base, strict=True):
            value = value_of(done, start)
            group[key] = (value, *group[key][1:]) if key == "betas" else value

    put(0)
    return [Ticker(put, "epoch" if stepwise else "iter")]


def _momentum_policy(path: str, config: Mapping[str, Any], length: int) -> Rate:
    """The momentum after t of `length` steps from the momentum of the optimizer: the policies of mmcv 1's MomentumUpdaterHook."""
    policy = str(config.get("policy", "")).lower()
    if policy == "step":
        step, gamma, least = config["step"], config.get("gamma", 0.5), config.get("min_momentum")

        def dropped(t: int, start: float) -> float:
            count = t // step if isinstance(step, int) else bisect.bisect_right(list(step), t)
            return max(start * gamma**count, least if least is not None else 0.0)

        return dropped
    if policy == "cosineannealing":

        def fallen(t: int, start: float) -> float:
            low = (
                config["min_momentum"]
                if config.get("min_momentum") is not None
                else config["min_momentum_ratio"] * start
            )
            return low + (start - low) * (1 + math.cos(math.pi * t / length)) / 2

        return fallen
    if policy == "cyclic":
        return _cyclic({"target_ratio": (0.85 / 0.95, 1), **config}, length)
    if policy == "onecycle":
        low, high = config.get("base_momentum", 0.85), config.get("max_momentum", 0.95)
        total = config.get("total_steps") or length
        top, straight = config.get("pct_start", 0.3) * total - 1, config.get("anneal_strategy", "cos") == "linear"

        def turned(t: int, _start: float) -> float:
            first, last, share = (
                (high, low, t / top) if t <= top else (low, high, min((t - top) / (total - 1 - top), 1))
            )
            return first + (last - first) * (share if straight else (1 - math.cos(math.pi * share)) / 2)

        return turned
    known = ("step", "CosineAnnealing", "cyclic", "OneCycle")
    raise BadInput(
        f"{path}: momentum_config policy {config.get('policy')} is not known.{nearest(policy, known)} Policies: {', '.join(known)}"
    )


def _share(rate_of: Rate, rate: float, t: int) -> float:
    return rate_of(t, rate) / rate if rate else 0.0


def _sgd_of_one() -> Any:
    import torch

    return torch.optim.SGD(_parameters(), lr=1.0)


def _few(marks: Sequence[Mark], length: int) -> tuple[Mark, ...]:
    """Distinct marks inside the training in order, none where there are too many to tell apart."""
    inside = sorted({mark.at: mark for mark in marks if 0 < mark.at < length}.values(), key=lambda mark: mark.at)
    return tuple(inside) if len(inside) <= MOST_MARKS else ()


def _stem(path: str) -> str:
    return Path(path).stem
