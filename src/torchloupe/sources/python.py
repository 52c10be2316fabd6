"""Models from any Python code: a factory named by its dotted path, or a module as it is."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from torchloupe.errors import BadInput, LoupeError
from torchloupe.named import is_path, own
from torchloupe.probe import Subject
from torchloupe.sources import patches
from torchloupe.sources.assemble import Options, channels, class_names, finish, load_weights, split_spec
from torchloupe.sources.devices import device
from torchloupe.sources.preparation import resize_crop
from torchloupe.sources.wrappers import unwrapped

HOMES = {
    name: f"torchloupe.sources.{name}:given"
    for name in ("timm", "torchvision", "transformers", "ultralytics", "open_clip")
}


def factory(rest: str, options: Options) -> Subject:
    """torch:package.module:factory?key=value: call it and take the nn.Module (or Subject) that it returns.

    The current directory is importable. Importing and calling run that code.
    Errors: BadInput for a module or factory that is absent, fails, or returns something else, and for options that a Subject
    which the factory has made settles by itself.
    """
    path, arguments = split_spec(rest)
    if not is_path(path):
        raise BadInput(
            f"model {options.spec!r}: expected torch:package.module:factory, as in torch:my.models:small?depth=3"
        )
    make, name = patches.named(path, "torch:"), path.rpartition(":")[2]
    if not callable(make):
        raise BadInput(
            f"{options.spec}: {name} is a {type(make).__name__}; expected a function or class that makes a model"
        )
    try:
        made = make(**arguments)
    except LoupeError:
        raise
    except Exception as error:  # the user's own code
        raise BadInput(f"{options.spec}: {name} failed with {type(error).__name__}: {error}") from error
    if isinstance(made, Subject):
        return _obeying(made, options)
    if not isinstance(made, nn.Module):
        raise BadInput(f"{options.spec}: {name} returned a {type(made).__name__}; expected an nn.Module")
    return given(made, options)


def _obeying(made: Subject, options: Options) -> Subject:
    """A Subject of a factory with the options that it can take: weights, device, class names, layers.

    Errors: BadInput for one that it cannot: how pictures are prepared is the factory's own.
    """
    for name in ("size", "mean", "std", "cfg_options"):
        if getattr(options, name):
            raise BadInput(
                f"--{name.replace('_', '-')}: {options.spec} returns a Subject, which prepares its pictures itself; give the "
                "factory an argument (?key=value) instead"
            )
    loaded = load_weights(made.module, options)
    if options.device != "auto":
        made.module.to(device(options.device))
    names = class_names(options.classes) if options.classes is not None else made.classes
    notes = {**made.notes, **({"weights": dict(loaded.note)} if loaded.note else {})}
    layers = tuple(options.layers) if options.layers is not None else made.layers
    return replace(made, spec=options.spec, classes=names, notes=notes, layers=layers)


def given(module: nn.Module, options: Options) -> Subject:
    """A module as it is, prepared by resize, crop and normalise; those of timm, torchvision and transformers as there."""
    if options.cfg_options:
        raise BadInput(
            f"--cfg-options: {options.spec or type(module).__name__} has no config to change; give the factory an argument "
            "(?key=value) instead"
        )
    module = unwrapped(module)
    home = HOMES.get(type(module).__module__.partition(".")[0])
    if home is not None:
        found = own(home)(module, options)
        if found is not None:
            return found
    h, w = options.hw or (224, 224)
    count = len(options.mean) if options.mean else channels(module)
    preparation = resize_crop((count, h, w), options.mean, options.std) if count in (1, 3) else None
    notes = (
        {}
        if preparation is None
        else {"preparation": f"resize, crop {h} x {w}, mean {preparation.mean}, std {preparation.std}"}
    )
    return finish(module, options, preparation, notes=notes)
