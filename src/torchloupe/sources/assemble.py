"""What every source of models does alike: options, weights, class names, default layers."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, NoGradient, nearest, need
from torchloupe.evidence import settle
from torchloupe.probe import Batch, Kind, Probe, Subject, reject_wrapped
from torchloupe.results import Scores
from torchloupe.sources import patches
from torchloupe.sources.devices import device
from torchloupe.sources.preparation import Preparation
from torchloupe.sources.safe import load_into, read_checkpoint, weights_in
from torchloupe.store import sha256
from torchloupe.store.reading import reading
from torchloupe.trace import Trace, Visit, default_layers, tensors, tracing

MOST_TRIALS = 8


@dataclass(frozen=True)
class Options:
    """The options of sources.subject; spec is what the user wrote."""

    spec: str = ""
    weights: Path | None = None
    device: str | int = "auto"
    ema: bool = False
    unsafe_load: bool = False
    classes: str | Path | Sequence[str] | None = None
    size: int | Sequence[int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[str] | None = None

    @property
    def hw(self) -> tuple[int, int] | None:
        """(height, width), or None where no size was given. Errors: BadInput unless it is one or two positive numbers."""
        if self.size is None:
            return None
        numbers = (self.size,) * 2 if isinstance(self.size, int) else tuple(self.size) * (3 - len(self.size))
        if len(numbers) != 2 or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise BadInput(f"size {self.size!r}: expected one number, or height and width, for example 256 128")
        return numbers[0], numbers[1]


class Loaded(NamedTuple):
    """note: what a record says of the weights; meta: the checkpoint's own notes, or {}."""

    note: Mapping[str, Any]
    meta: Mapping[str, Any]


def framework(name: str, extra: str) -> Any:
    """An optional package, imported.

    Errors: MissingPackage that names the extra; BadInput where it is broken.
    """
    try:
        return patches.imported(name)
    except ModuleNotFoundError as error:
        absent = (error.name or name).partition(".")[0]
        raise need(absent, extra) from error
    except (RuntimeError, ImportError, AttributeError) as error:
        raise BadInput(f"{name} is installed but cannot be imported: {' '.join(str(error).split())[:200]}") from error


def split_spec(text: str) -> tuple[str, dict[str, Any]]:
    """'name?key=value&key=value' -> name and keyword arguments; values are Python literals, else text.

    Errors: BadInput for a part without '='.
    """
    name, _, query = text.partition("?")
    arguments: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, mark, value = part.partition("=")
        if not mark or not key.isidentifier():
            raise BadInput(f"model option {part!r}: expected key=value, as in {name}?num_classes=10")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value
    return name, arguments


def load_weights(module: nn.Module, options: Options) -> Loaded:
    """Load options.weights into the module. Errors and warnings: as sources.safe."""
    if options.weights is None:
        if options.ema:
            raise BadInput("ema: asks for the moving average in a checkpoint, but no weights were given")
        return Loaded({}, {})
    raw = read_checkpoint(options.weights, unsafe=options.unsafe_load)
    report = load_into(module, weights_in(raw, options.weights, ema=options.ema), options.weights)
    note = {"path": str(options.weights), "sha256": sha256(options.weights), "report": asdict(report)}
    meta = raw.get("meta") if isinstance(raw, Mapping) else None
    return Loaded({**note, "ema": options.ema}, meta if isinstance(meta, Mapping) else {})


def class_names(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names of classes from a sequence or a file: one a line, or JSON (a list, or index -> name, or index -> [id, name]).

    Errors: BadInput for a file that is absent, empty or neither.
    """
    if not isinstance(given, (str, Path)):
        return tuple(str(name) for name in given)
    path = Path(given)
    with reading(path, "class names (UTF-8 text, one a line, or JSON)"):
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    if not isinstance(found, (list, Mapping)):
        raise BadInput(f"{path}: holds {type(found).__name__}; expected class names, a JSON list or index -> name")
    if isinstance(found, Mapping):
        if sorted(found, key=str) != sorted(map(str, range(len(found)))):
            raise BadInput(f"{path}: class names by index must run from 0 to {len(found) - 1} without gaps")
        found = [found[str(i)] for i in range(len(found))]
    names = tuple(str(one[-1] if isinstance(one, list) and one else one).strip() for one in found)
    while names and not names[-1]:
        names = names[:-1]
    if not names:
        raise BadInput(f"{path}: no class names in it; expected one a line, or a JSON list")
    return names


def finish(
    module: nn.Module,
    options: Options,
    preparation: Preparation | None,
    *,
    classes: Sequence[str] = (),
    kind: Kind = "classifier",
    loaded: Loaded | None = None,
    notes: Mapping[str, Any] | None = None,
    **seams: Any,
) -> Subject:
    """A Subject of a built model: weights, eval mode, device, class names, default layers.

    seams: call, read, layout, for Subject. loaded: where the source has loaded the weights itself.
    """
    if loaded is None:
        loaded = load_weights(module, options)
    if options.spec:
        module.eval()
    if options.spec or options.device != "auto":
        module.to(device(options.device))
    notes = {**(notes or {}), **({"weights": dict(loaded.note)} if loaded.note else {})}
    made = Subject(module, kind=kind, spec=options.spec or type(module).__name__, notes=notes, **seams)
    layers, count, kind = _look(made, preparation.size) if preparation is not None else ((), None, kind)
    if options.classes is not None:
        names = class_names(options.classes)
        if count is not None and len(names) != count:
            raise BadInput(f"{len(names)} class names were given; the model has {count} classes")
    else:
        names = tuple(classes) if count in (None, len(classes)) else ()
    return Subject(
        module,
        kind=kind,
        spec=made.spec,
        notes=notes,
        layers=tuple(options.layers) if options.layers is not None else layers,
        classes=names,
        prepare=None if preparation is None else partial(preparation.batch, module=module),
        **seams,
    )


def _look(made: Subject, size: tuple[int, int, int]) -> tuple[tuple[str, ...], int | None, Kind]:
    """The default layers, the number of classes and the kind, from one forward of zeros; () and None where it will not run.

    What gives a picture of logits where a classifier gives a vector is a segmenter; its default is a layer of its encoder.
    """
    batch = Batch(torch.zeros(1, *size))
    try:
        reject_wrapped(made.module)
        with made.asked() as own, torch.no_grad(), tracing(own.module) as trace:
            output = own.output(batch)
    except Exception as error:  # a stranger's forward may fail in any way, and a subject is of use without its defaults
        text = f"{made.spec}: no default layer, as one forward of zeros {size} failed: {' '.join(str(error).split())[:200]}"
        warnings.warn(text, LoupeWarning, stacklevel=4)
        return (), None, made.kind
    maps = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
    kind: Kind = "segmenter" if maps and made.kind == "classifier" else made.kind
    if kind == "segmenter":
        trace = Trace(_encoder(made.module, trace))
    seen = trace

    def believed(visit: Visit) -> bool:
        return isinstance(settle(made, batch, visit, seen), Layout)

    candidates = list(islice(default_layers(trace, 1, (1, *size[1:]), believed), MOST_TRIALS))
    found = next((layer for layer in candidates if _leads(made, layer, batch)), None)
    count = output.shape[1] if isinstance(output, Tensor) and (output.ndim == 2 or kind == "segmenter") else None
    return (found or candidates[0],) if candidates else (), count, kind


def _encoder(module: nn.Module, trace: Trace) -> list[Visit]:
    """What ran inside the part that is called backbone or encoder, or that transformers calls the base; all, without one."""
    names = ("backbone", "encoder", getattr(module, "base_model_prefix", ""))
    inside = [visit for visit in trace.visits if visit.name.startswith(tuple(f"{name}." for name in names if name))]
    return inside or trace.visits


def _leads(made: Subject, layer: str, batch: Batch) -> bool:
    """Whether the output depends on the picture at this layer."""

    def total(output: Any, asked: Batch) -> Scores:
        parts = [part.sum() for part in tensors(output) if part.is_floating_point()]
        return Scores(torch.stack(parts).sum().view(1, 1), (asked.ids,))

    try:
        Probe(made, (layer,), total)(batch)
    except NoGradient:
        return False
    return True


def channels(module: nn.Module) -> int:
    """Input channels of the first convolution, else 3."""
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    return next((part.in_channels for part in convolutions), 3)


def unknown(spec: str, name: str, known: Sequence[str], where: str) -> BadInput:
    """The error for a model that its framework does not know."""
    return BadInput(f"{spec}: {where} has no model {name!r}.{nearest(name, known)}")
