"""Models and data of other frameworks. The only floor that knows them; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchloupe.errors import BadInput, nearest
from torchloupe.named import own, plugged, registered

if TYPE_CHECKING:
    from torch import nn

    from torchloupe.axes import Layout
    from torchloupe.probe import Subject
    from torchloupe.sources.assemble import Options

SEED = 0
# scheme -> "module:function"; the function takes what follows the scheme, and Options, and returns a Subject.
SCHEMES: dict[str, str] = {
    "timm": "torchloupe.sources.timm:timm",
    "transformers": "torchloupe.sources.transformers:transformers",
    "torchvision": "torchloupe.sources.torchvision:torchvision",
    "ultralytics": "torchloupe.sources.ultralytics:ultralytics",
    "open_clip": "torchloupe.sources.open_clip:open_clip",
    "torch": "torchloupe.sources.python:factory",
    "mmpretrain": "torchloupe.sources.openmmlab:mmpretrain",
    "opengait": "torchloupe.sources.opengait:opengait",
    "hrnet": "torchloupe.sources.hrnet:hrnet",
    "mmpose": "torchloupe.sources.mmpose:mmpose",
    "mmdet": "torchloupe.sources.detectors:repository",
    "mmseg": "torchloupe.sources.detectors:repository",
    "mmyolo": "torchloupe.sources.detectors:repository",
    "mmrotate": "torchloupe.sources.detectors:repository",
}


def subject(
    model: str | nn.Module,
    *,
    weights: str | Path | None = None,
    device: str | int = "auto",
    ema: bool = False,
    unsafe_load: bool = False,
    classes: str | Path | Sequence[str] | None = None,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    layouts: Mapping[str, Layout | str] | None = None,
    layout_sizes: Mapping[str, int] | None = None,
    extra_tokens: int | None = None,
    example: Any = None,
    output: str | int | None = None,
) -> Subject:
    """A model and how to talk to it, from a spec or a module. Nothing is ever downloaded.

    model: timm:NAME, transformers:FOLDER or TYPE, torchvision:NAME, torch:package.module:factory, each with
        ?key=value&key=value behind it where the model takes options; mmpretrain:CONFIG.py or NAME; mmpose:CONFIG.py or NAME
        (top-down); ultralytics:NAME.yaml or FILE.pt; open_clip:NAME; mmdet:CONFIG.py and other OpenMMLab repositories alike; opengait:CONFIG.yaml; hrnet:CONFIG.yaml (Pose ResNet or HRNet); or an nn.Module.
    weights: a checkpoint file; without it the weights are what the source gives, mostly random.
    device: auto, cpu, cuda, cuda:0, mps or a number; a module that is given stays where it is under auto.
    ema: the moving average in the checkpoint. unsafe_load: let the checkpoint run code.
    classes: names of the classes, or a file with them (one a line, or JSON).
    size: input height and width. mean, std: normalisation on the range 0..1, for models that come with none.
    cfg_options: overrides of an OpenMMLab config. layers: default layers; found by one forward where not given.
    layouts: layer or glob -> how it lies, where that is known ("n (t h w) c", or a Layout); layout_sizes: lengths that they
        leave open ({"t": 8}); extra_tokens: tokens before the picture's.
    example: samples of the kind that the model takes, for one that takes no picture or more than one: a Batch, a tensor, tensors
        by the names of the forward's arguments, or a file of them (.npz, .npy, .pt).
    output: which of several tensors that it returns is meant: a number, a key, or both with dots ("aux.0").
    Errors: BadInput for an unknown scheme or model and for what does not fit; MissingPackage.
    """
    from torchloupe.sources.assemble import Options
    from torchloupe.sources.examples import as_batch

    options = Options(
        spec=model if isinstance(model, str) else "",
        weights=None if weights is None else Path(weights),
        device=device,
        ema=ema,
        unsafe_load=unsafe_load,
        classes=classes,
        size=size,
        mean=mean,
        std=std,
        cfg_options=cfg_options or {},
        layers=layers,
        example=None if example is None else as_batch(example),
        output=output,
    )
    from torchloupe.names import told

    return told(_made(model, options), layouts, layout_sizes, extra_tokens)


def _made(model: str | nn.Module, options: Options) -> Subject:
    if not isinstance(model, str):
        from torchloupe.sources.python import given

        return given(model, options)
    scheme, mark, rest = model.partition(":")
    if options.cfg_options and scheme in ("timm", "transformers", "torchvision"):
        raise BadInput(
            f"--cfg-options: {model} has no config to change; give the model an argument (?key=value) instead"
        )
    plugs = registered("sources")
    if not mark or not rest or not (scheme in SCHEMES or scheme in plugs):
        known = ", ".join(f"{name}:..." for name in (*SCHEMES, *plugs))
        hint = (
            nearest(scheme, (*SCHEMES, *plugs))
            if mark
            else nearest(model, (f"{name}:{model}" for name in ("timm", "torchvision")))
        )
        raise BadInput(f"model {model!r}: expected a scheme and what it loads, one of {known}.{hint}")
    make = own(SCHEMES[scheme]) if scheme in SCHEMES else _plugged(plugs[scheme])
    made: Subject = seeded(make, rest, options)
    if scheme in SCHEMES and "weights" not in made.notes:
        said = (
            f"no weights: what {model} does not load itself is random (seed {SEED}) and means nothing; give --weights"
        )
        made = replace(made, notes={**made.notes, "random": said, "seed": SEED})
    return made


def seeded(make: Any, rest: str, options: Options) -> Any:
    """What a source makes; weights that it draws by chance are the same every time, and the caller's chance goes on."""
    import torch

    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(SEED)
        return make(rest, options)


def _plugged(point: EntryPoint) -> Any:
    found = plugged(point)
    if not callable(found):
        raise BadInput(
            f"{point.name} ({point.value}): is a {type(found).__name__}; expected a function (rest, Options)"
        )
    return found
