"""What every source of models does alike: options, weights, class names, default layers."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeError, LoupeWarning, NoGradient, nearest, need
from torchloupe.evidence import settle
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Kind, Probe, Subject, reject_wrapped
from torchloupe.sources import patches
from torchloupe.sources.devices import device
from torchloupe.sources.outputs import choose, word
from torchloupe.sources.preparation import Preparation, resize_crop
from torchloupe.sources.recordings import Recordings, Sound, axes_of
from torchloupe.sources.safe import load_into, read_checkpoint, weights_in
from torchloupe.store import sha256
from torchloupe.store.reading import reading
from torchloupe.subjects import read_first
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
    example: Batch | None = None
    output: str | int | None = None

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
    example: Batch | None = None,
    frame: Preparation | None = None,
    sound: Sound | None = None,
    **seams: Any,
) -> Subject:
    """A Subject of a built model: weights, eval mode, device, what of its output is read, class names, default layers.

    seams: call, read, layout, tower, for Subject. loaded: where the source has loaded the weights itself. example: samples of the kind
    that the model takes, where that is no picture; one that the user gives comes before it. frame, sound: how a frame of its
    videos, or a sound, is prepared.
    """
    if loaded is None:
        loaded = load_weights(module, options)
    if options.spec:
        module.eval()
    if options.spec or options.device != "auto":
        module.to(device(options.device))
    notes = {**(notes or {}), **({"weights": dict(loaded.note)} if loaded.note else {})}
    made = Subject(module, kind=kind, spec=options.spec or type(module).__name__, notes=notes, **seams)
    asked = options.example or example
    if asked is None and preparation is not None:
        asked = Batch(torch.zeros(1, *preparation.size))
    expected = len(class_names(options.classes)) if options.classes is not None else len(classes) or None
    seen = _look(made, asked, options, expected) if asked is not None else _Seen(made, (), None)
    if options.classes is not None:
        names = class_names(options.classes)
        if seen.classes is not None and len(names) != seen.classes:
            raise BadInput(f"{len(names)} class names were given; the model has {seen.classes} classes")
    else:
        names = tuple(classes) if seen.classes in (None, len(classes)) else ()
    recordings = _recordings(options.example or example, preparation, frame, sound, options)
    return replace(
        seen.subject,
        layers=tuple(options.layers) if options.layers is not None else seen.layers,
        classes=names,
        example=options.example or example,
        prepare=None if preparation is None or recordings else partial(preparation.batch, module=module),
        recordings=recordings,
    )


def _recordings(
    example: Batch | None,
    preparation: Preparation | None,
    frame: Preparation | None,
    sound: Sound | None,
    options: Options,
) -> Recordings | None:
    """How files become samples like the example; None without one, and where it is a picture alone."""
    if example is None or (
        preparation is not None and example.layout == Layout() and not (example.extra or example.shared)
    ):
        return None
    if example.shared or example.n != 1:
        return None
    channels, _, h, w = example.layout.canonical([example.x], 1)[0].shape
    if frame is None and {"t", "h", "w"} <= axes_of(example.layout) and channels == 3 and not example.extra:
        frame = resize_crop((channels, h, w), options.mean, options.std)
    return Recordings(example, frame, sound)


class _Seen(NamedTuple):
    """What one forward told: the subject, with its reading and kind; default layers; the number of classes."""

    subject: Subject
    layers: tuple[str, ...]
    classes: int | None


def _look(made: Subject, batch: Batch, options: Options, expected: int | None) -> _Seen:
    """What is read of the output, the default layers, the number of classes and the kind, from one forward of an example.

    What gives a picture of logits where a classifier gives a vector is a segmenter; its default is a layer of its encoder.
    """
    try:
        reject_wrapped(made.module)
        _reject_lazy(made.module)
        plain = replace(made, read=_as_it_is) if made.read is read_first else made
        with plain.asked() as own, torch.no_grad(), tracing(own.module) as trace:
            output = own.output(batch.at(batch.x.clone()))
        if made.read is read_first:
            read, said = choose(output, made.kind, made.module, trace, options.output, expected)
            made = replace(made, read=read, notes={**made.notes, "output": word(read.path)})
            for line in said:
                warnings.warn(f"{made.spec}: {line}", LoupeWarning, stacklevel=4)
            output = read(output)
        elif options.output is not None:
            raise BadInput(f"output {options.output!r}: what {made.spec} gives is read in its source's own way")
    except LoupeError as error:
        if options.output is not None:
            raise
        return _nothing(made, batch, error, options.example is not None)
    except Exception as error:  # a stranger's forward may fail in any way, and a subject is of use without its defaults
        return _nothing(made, batch, error, options.example is not None)
    maps = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
    kind: Kind = "segmenter" if maps and made.kind == "classifier" else made.kind
    made = replace(made, kind=kind)
    if kind == "segmenter":
        trace = Trace(_encoder(made.module, trace))
    calls = trace.calls
    if batch.extra or batch.shared:
        trace = Trace(_tied(made, batch, trace))
    seen = trace

    trials = iter(range(MOST_TRIALS))

    def believed(visit: Visit) -> bool:
        return next(trials, None) is not None and isinstance(settle(made, batch, visit, seen), Layout)

    candidates: list[str] = []
    found: str | None = None
    try:
        for one in islice(default_layers(trace, batch.n, batch.size, believed), MOST_TRIALS):
            # of a module that ran several times, and was left out but once, the call still has to be said
            candidates.append(one if "#" in one or calls[one] == 1 else f"{one}#{seen.of(one)[0].call}")
            if _leads(made, candidates[-1], batch):
                found = candidates[-1]
                break
    except Exception as error:  # as above, for a backward
        return _nothing(made, batch, error, options.example is not None)
    count = output.shape[1] if isinstance(output, Tensor) and (output.ndim == 2 or kind == "segmenter") else None
    return _Seen(made, (found or candidates[0],) if candidates else (), count)


def _nothing(made: Subject, batch: Batch, error: Exception, own: bool) -> _Seen:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    what, advice = (
        ("the example", "") if own else ("zeros", "; a sample of what it takes helps: --example (example= in Python)")
    )
    text = f"{made.spec}: no default layer, as one forward of {what} {tuple(batch.x.shape)} failed: {said}{advice}"
    warnings.warn(text, LoupeWarning, stacklevel=5)
    return _Seen(made, (), None)


def _as_it_is(output: Any) -> Any:
    return output


def _reject_lazy(module: nn.Module) -> None:
    """Errors: BadInput for a module whose sizes are not known before its first forward."""
    lazy = [name for name, one in module.named_parameters() if nn.parameter.is_lazy(one)]
    if lazy:
        raise BadInput(f"{lazy[0]} has no size before the model has run once; run it on an input first")


def _encoder(module: nn.Module, trace: Trace) -> list[Visit]:
    """What ran inside the part that is called backbone or encoder, or that transformers calls the base; all, without one."""
    names = ("backbone", "encoder", getattr(module, "base_model_prefix", ""))
    inside = [visit for visit in trace.visits if visit.name.startswith(tuple(f"{name}." for name in names if name))]
    return inside or trace.visits


def _tied(made: Subject, batch: Batch, trace: Trace) -> list[Visit]:
    """What changes with the input that is explained, beside the other inputs of the model."""

    def sums(x: Tensor) -> dict[tuple[str, int], Tensor]:
        found: dict[tuple[str, int], Tensor] = {}

        def note(name: str) -> Any:
            def hook(_part: nn.Module, _inputs: Any, output: Any) -> None:
                first = next(tensors(output), None)
                call = sum(key[0] == name for key in found)
                found[name, call] = (
                    torch.zeros(2) if first is None else torch.stack([first.double().sum(), first.double().norm()])
                )

            return hook

        with made.asked() as own, torch.no_grad():
            handles = [part.register_forward_hook(note(name)) for name, part in own.module.named_modules() if name]
            try:
                own.output(batch.at(x))
            finally:
                for handle in handles:
                    handle.remove()
        return found

    other = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(0)).to(batch.x)
    one, two = sums(batch.x.clone()), sums(batch.x + other)
    return [
        v for v in trace.visits if not torch.equal(one[v.name, v.call], two.get((v.name, v.call), one[v.name, v.call]))
    ]


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
