"""OpenGait's models from its own configs and checkpoints, without its code; or its real classes from a checkout."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, nearest
from torchloupe.names import resolve, split_call
from torchloupe.networks.gait import NETWORKS, leaves
from torchloupe.networks.gait.layers import Seen, default_layers, passes, seen, windows
from torchloupe.networks.gait.skeletons import skeleton
from torchloupe.probe import INPUT, Batch, Subject
from torchloupe.sources.assemble import Options, split_spec
from torchloupe.sources.devices import device as choose_device
from torchloupe.sources.opengait_checkout import real_class
from torchloupe.sources.opengait_config import Config, build, channels_of, read_config
from torchloupe.sources.safe import load_state
from torchloupe.sources.sequences import Walk
from torchloupe.sources.walk_inputs import POSES, check, grey_pictures, prepare
from torchloupe.store import sha256
from torchloupe.trace import Trace, find_layout, tracing


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], source: str, model: str, places: nn.Module | None = None
) -> tuple[str, ...]:
    """Loads a checkpoint's state dict. Gives the keys that do not fit but do not touch the embedding either.

    places: our network that has the layers of a real class; by default the module itself.
    Errors: BadInput for a checkpoint of another model, naming the nearest, or of another variant.
    """
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    own = module.state_dict()
    odd = [key for key in {**own, **state} if key not in state or key not in own or own[key].shape != state[key].shape]
    aside = sorted(key for key in odd if _unused(places or module, key))
    wrong = sorted(set(odd) - set(aside))
    if wrong:
        raise BadInput(f"{source}: {_why_not(own, state, wrong, model)}")
    module.load_state_dict({key: value for key, value in state.items() if key not in aside}, strict=False)
    return tuple(aside)


def _unused(module: nn.Module, key: str) -> bool:
    if key.endswith("num_batches_tracked"):
        return True
    name = key.rpartition(".")[0]
    place = _place(module, name) if name else None
    # the embedding behind the neck reads its batch norm, never its classifier
    return (place is not None and place.layout is None) or key == "BNNecks.fc_bin"


def _why_not(own: Mapping[str, Tensor], state: Mapping[str, Tensor], wrong: list[str], model: str) -> str:
    looks = next((name for name, marks in MARKS if all(mark in state for mark in marks)), None)
    key = wrong[0]
    if looks == model:
        found, want = (tuple(part[key].shape) if key in part else "absent" for part in (state, own))
        return (
            f"a {model} of another config: {key} is {found}, by the config {want} ({len(wrong)} keys differ); "
            f"take the config that it was trained with"
        )
    nature = "lacks" if key in own else "has an unknown"
    guess = f"; it looks like {looks}" if looks else ""
    return f"not a checkpoint of {model}: it {nature} {key} ({len(wrong)} keys differ){guess}"


# the first model whose keys are all there is the one that a checkpoint looks like
MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("GaitSet", ("set_block1.forward_block.0.conv.weight", "gl_block2.0.conv.weight")),
    ("GaitPart", ("TFA.pooling_func.conv1d3x1.0.0.conv.weight",)),
    ("GaitEdge", ("LTA.0.conv3d.weight", "Backbone.Conv_1x1.weight")),
    ("GaitGL", ("LTA.0.conv3d.weight", "HPP.p")),
    ("GLN", ("sil_stage_0.forward_block.0.conv.weight", "lateral_layer1.weight")),
    ("SwinGait", ("layer0.forward_block.0.weight", "transformer.patch_embed.proj.weight")),
    ("SkeletonGaitPP", ("map_layer0.forward_block.0.weight", "fusion.conv.forward_block.0.weight")),
    ("DeepGaitV2", ("layer0.forward_block.0.weight", "FCs.fc_bin")),
    ("GaitGraph2", ("ResGCN.head.2.A",)),
    ("GaitGraph1", ("ResGCN.head.0.A",)),
    ("GaitTR", ("backbone.0.st.attention_conv.qkv_conv.weight",)),
    ("ParsingGait", ("gammas_coarse", "Backbone.forward_block.layer4.0.conv1.weight")),
    ("Baseline", ("Backbone.forward_block.layer4.0.conv1.weight", "BNNecks.fc_bin")),
)


def gait(
    config: str | Path,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    *,
    checkout: str | Path | None = None,
    device: str | int = "auto",
    unsafe: bool = False,
) -> Subject:
    """A gait model as a subject: an embedder (1, t, h, w) -> (1, c, p) whose layers know their time and space.

    config: an OpenGait YAML. weights: a checkpoint or its state dict; None: random. checkout: a checkout of OpenGait,
    whose code is then imported, that is, run: for the models that are not built in. unsafe: let the checkpoint run code.
    `prepare` makes a batch of a Walk. notes: the config, and what is known of the weights.
    """
    settings = read_config(config)
    check(settings)
    module: nn.Module
    call: Callable[[nn.Module, Batch], Any]
    if checkout is None:
        module, call = build(settings), _call
    else:
        module, call = real_class(settings, Path(checkout))
    places = module if checkout is None else _alike(module, settings)
    notes: dict[str, Any] = {"config": settings, "places": places}
    if weights is not None:
        given = weights if isinstance(weights, Mapping) else load_state(weights, unsafe=unsafe)
        source = "the weights" if isinstance(weights, Mapping) else str(weights)
        aside = load_weights(module, given, source, settings.model, places)
        if aside:
            told = ", ".join(aside[:3]) + (" ..." if len(aside) > 3 else "")
            text = f"{source}: {told} do not fit the config; the embedding does not use them"
            warnings.warn(text, LoupeWarning, stacklevel=2)
        known = {} if isinstance(weights, Mapping) else {"path": source, "sha256": sha256(weights)}
        notes["weights"] = {**known, "left aside": list(aside)}
    module = module.eval().to(choose_device(device))
    return Subject(
        module,
        layout=partial(_layout, places),
        call=call,
        read=_read,
        kind="embedder",
        layers=default_layers(places),
        spec=f"opengait:{settings.path}",
        prepare=partial(_prepared, config=settings, module=module),
        notes=notes,
        listing=f"loupe gait layers -c {settings.path}" + (f" --opengait {checkout}" if checkout else ""),
    )


def opengait(rest: str, options: Options) -> Subject:
    """The subject of opengait:CONFIG.yaml, or of opengait:CONFIG.yaml?checkout=DIR."""
    name, arguments = split_spec(rest)
    checkout = arguments.pop("checkout", None)
    if arguments:
        raise BadInput(f"{options.spec}: no option {next(iter(arguments))!r}; expected checkout=DIR")
    made = gait(name, options.weights, checkout=checkout, device=options.device, unsafe=options.unsafe_load)
    return made if options.layers is None else replace(made, layers=tuple(options.layers))


def config_of(subject: Subject) -> Config:
    """The OpenGait config that a subject was made from. Errors: BadInput for a subject of another source."""
    found = subject.notes.get("config")
    if not isinstance(found, Config):
        raise BadInput(
            f"{subject.spec or type(subject.module).__name__}: does not read walks; "
            f"expected a subject of OpenGait, such as opengait:gaitset.yaml"
        )
    return found


def _prepared(walk: Walk, *, config: Config, module: nn.Module) -> Batch:
    return prepare(walk, config, module)


def _call(module: nn.Module, batch: Batch) -> Tensor:
    return module(batch.x)


def _read(output: Any) -> Tensor:
    """The embedding: what our networks give; in OpenGait's own output under inference_feat."""
    if not isinstance(output, Mapping):
        return output
    found = output.get("inference_feat") or {}
    if "embeddings" not in found:
        raise BadInput(f"this model gives {', '.join(found) or 'nothing'} and no embeddings: no gallery can be asked")
    return found["embeddings"]


def _alike(module: nn.Module, config: Config) -> nn.Module:
    """Our network with the layers of a real class, or of the class that it is derived from (GaitEdge: GaitGL); or itself.

    Such layers have the names, times and spaces of ours.
    """
    model = config.blocks["model_cfg"]
    for kind in type(module).__mro__:
        if kind.__name__ in NETWORKS:
            own = model.get(kind.__name__, model)
            blocks = {**config.blocks, "model_cfg": {**own, "model": kind.__name__}}
            return build(replace(config, blocks=blocks))
    return module


def _place(places: nn.Module, name: str) -> Seen | None:
    """How a layer lies over the sequence; None where no table tells, as for layers that only a real class has."""
    return seen(places, name) if name in dict(places.named_modules()) else None


def part_rows(config: Config, count: int) -> np.ndarray:
    """(count, 2): the rows of the body that each part of the embedding sees, from 0 (top) to 1; (0, 2) where not known.

    Parts are horizontal strips: those of `bin_num`, coarser ones after finer, once for each branch of the network.
    """
    # GaitGL has a row a part, global rows and then local ones
    bins = [count // 2] if config.model == "GaitGL" else config.blocks["model_cfg"].get("bin_num") or [16]
    if config.model in POSES or config.model not in NETWORKS or sum(bins) < 1 or count % sum(bins):
        return np.zeros((0, 2), np.float32)
    once = [(strip / many, (strip + 1) / many) for many in bins for strip in range(many)]
    return np.array(once * (count // sum(bins)), np.float32)


def inner_pictures(subject: Subject, batch: Batch) -> list[np.ndarray]:
    """What a real class shows of its own way, one picture a frame (t, h, w) uint8: the `visual_summary` of its output."""
    with subject.asked() as own, torch.no_grad():
        output = replace(own, read=lambda found: found).output(batch)
    shown = output.get("visual_summary", {}).values() if isinstance(output, Mapping) else ()
    frames = [x.detach().float().cpu() for x in shown if isinstance(x, Tensor) and x.dim() == 4]
    return [grey_pictures(x[None])[0, ..., 0].numpy() for x in frames if len(x) == batch.size[0]]


def place_of(subject: Subject, layer: str) -> Seen | None:
    """How a layer (with or without '#') lies over the sequence; None where no table tells."""
    return None if layer == INPUT else _place(subject.notes["places"], split_call(layer)[0])


def _layout(places: nn.Module, name: str) -> Layout | None:
    place = _place(places, name)
    if place is None:
        return None
    if place.layout is None:
        raise BadInput(f"layer {name!r} cannot be drawn: {place.word}")
    return place.layout


def pick_layers(subject: Subject, wanted: Sequence[str]) -> tuple[str, ...]:
    """Layers by dotted name, by glob, or by the running number of the seed's table -> dotted names, in order.

    Errors: BadInput for a number out of range, a glob that fits nothing, or an unknown name.
    """
    module = subject.module
    numbered, known = leaves(module), {name: part for name, part in module.named_modules() if name}
    picked: list[str] = []
    for one in (part for given in wanted for part in given.replace(",", " ").split()):
        word, call = split_call(one)
        if word.isdigit():
            if int(word) not in numbered:
                raise BadInput(
                    f"layer {word}: this model's layers are numbered 1 to {len(numbered)}; see `{subject.listing}`"
                )
            found = [numbered[int(word)] + ("" if call is None else f"#{call}")]
        elif any(mark in one for mark in "*?"):
            found = [name for name in known if fnmatchcase(name, one) and _drawable(subject, name)]
            if not found:
                raise BadInput(
                    f"no layer fits {one!r}.{nearest(one.strip('*'), known)} `{subject.listing}` lists all of them."
                )
        else:
            found = [one]
        for name in found:
            if (place := place_of(subject, name)) is not None and place.layout is None:
                raise BadInput(f"layer {name!r} cannot be drawn: {place.word}")
        picked += [resolve(known, _plain_pass(subject, name), subject.listing) for name in found]
    return tuple(dict.fromkeys(picked)) or subject.layers


def _drawable(subject: Subject, name: str) -> bool:
    place = place_of(subject, name)
    return place is None or place.layout is not None


def _plain_pass(subject: Subject, name: str) -> str:
    """Of a layer that runs once in each pass of a network that runs several times: the call of the plain pass."""
    module = subject.module
    if passes(module) == 1 or name == INPUT or split_call(name)[1] is not None:
        return name
    # an activation is shared within each pass, so that its first call would not be all of the pass
    shared = isinstance(dict(module.named_modules()).get(name), nn.ReLU)
    return name if shared else f"{name}#0"


def model_digest(subject: Subject) -> str:
    """sha256 over the weights and the config's model and evaluator blocks."""
    state = hashlib.sha256()
    config = config_of(subject)
    for block in ("model_cfg", "data_cfg", "evaluator_cfg"):
        state.update(yaml.safe_dump(config.blocks[block], sort_keys=True).encode())
    for name, value in sorted(subject.module.state_dict().items()):
        state.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def example(config: Config, frames: int = 12) -> Batch:
    """Noise of the shape that a built-in model takes, to see what its layers give."""
    if config.model in POSES:
        joints = len(skeleton(config.joints).joints)
        shapes = {
            "GaitGraph1": (1, 3, frames, joints, 1),
            "GaitGraph2": (1, frames, joints, 3, 5),
            "GaitTR": (1, frames, 10, joints, 1),
        }
        return Batch(torch.rand(shapes[config.model]), Layout(POSES[config.model]), ("noise",))
    channels, size = channels_of(config), config.sizes[0]
    shape = (1, frames, *size) if channels == 1 else (1, frames, channels, *size)
    return Batch(torch.rand(shape), Layout("n t h w" if channels == 1 else "n t c h w"), ("noise",))


@dataclass(frozen=True)
class LayerFacts:
    """One line of `loupe gait layers`."""

    number: int | None
    name: str
    kind: str
    time: str
    space: str


def layer_facts(subject: Subject, batch: Batch) -> list[LayerFacts]:
    """What every layer that runs gives, in order of registration: its number, type, and where in time and space it is."""
    module = subject.module
    with subject.asked() as own, torch.no_grad(), tracing(own.module) as trace:
        own.output(batch)
    numbers = {name: number for number, name in leaves(module).items()}
    facts = []
    for name, part in module.named_modules():
        visits = [visit for visit in trace.visits if visit.name == name and visit.shapes]
        if not name or (not visits and name not in numbers):
            continue
        time, space = _time_and_space(subject.notes["places"], name, trace, batch) if visits else ("not run", "")
        facts.append(LayerFacts(numbers.get(name), name, type(part).__name__, time, space))
    return facts


def _time_and_space(places: nn.Module, name: str, trace: Trace, batch: Batch) -> tuple[str, str]:
    visits, place = [visit for visit in trace.of(name) if visit.shapes], _place(places, name)
    if place is None:
        found = find_layout(visits[0], trace, batch.n, batch.size)
        place = Seen(None, word=found) if isinstance(found, str) else Seen(found)
    if place.layout is None:
        return "", place.word
    calls = [torch.empty(visit.shapes[0], device="meta") for visit in visits]
    joined = place.layout.join is not None
    t, h, w = place.layout.canonical(calls if joined else calls[:1], batch.n).shape[-3:]
    frames = batch.size[0]
    steps = windows(t, frames, place.step)
    width = steps[0][1] - steps[0][0]
    time = "each frame" if t == frames else "whole sequence" if t == 1 else f"{width} frames a step"
    if batch.size[2] == 1:
        space = f"{h} joints" if h > 1 else ""
    elif w == 1:
        space = f"{h} strips" if h > 1 else ""
    else:
        space = f"{h} x {w}"
    if len(calls) > 1:
        space += f", {len(calls)} {'strips joined' if joined else 'calls, see #0'}"
    return time, ", ".join(part for part in (space, place.word) if part)
