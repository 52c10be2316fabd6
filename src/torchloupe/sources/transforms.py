"""Transforms of torchvision (v1 and v2), albumentations, kornia, timm and transformers, taken one step at a time."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from torchloupe.data.samples import Marks, Step
from torchloupe.errors import BadInput, need
from torchloupe.methods.browse import told
from torchloupe.sources import albu, patches
from torchloupe.sources.configs import one_line
from torchloupe.sources.look import Look, described

# What the drawing methods of transforms are called: torchvision v2 (new, old) and v1.
DRAWING = ("make_params", "_get_params", "get_params")


class StepFailed(Exception):
    """A step raised: its name and what it said."""

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(step, one_line(error))
        self.step, self.message = step, one_line(error)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """random, numpy and torch start from the seed inside; outside they go on as if nothing had been drawn."""
    import torch

    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


@contextmanager
def watched(step: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the named methods of a step, and of the steps that it holds, return inside; the methods are put back."""
    drawn: dict[str, Any] = {}
    with ExitStack() as stack:
        for part in _parts(step):
            for name in names:
                if callable(getattr(part, name, None)) and name not in vars(part):
                    _watch(part, name, part is step, drawn, stack)
        yield drawn


def _parts(step: Any) -> list[Any]:
    inner = getattr(step, "transforms", None)
    held = list(inner) if isinstance(inner, (list, tuple)) else []
    return [step, *(part for one in held for part in _parts(one) if hasattr(one, "__dict__"))]


@dataclass
class Noted:
    """An operator among those of a random choice: called as it is, it leaves its name in the log."""

    operator: Any
    log: list[str]

    def __call__(self, *arguments: Any, **words: Any) -> Any:
        self.log.append(type(self.operator).__name__)
        return self.operator(*arguments, **words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operator, name)


# torchvision's (v1 and v2) compositions that choose among what they hold.
CHOICES = ("RandomChoice", "RandomApply", "RandomOrder")


@contextmanager
def chosen(step: Any) -> Iterator[list[str]]:
    """Names of the operations that a random choice, an AutoAugment or a RandAugment takes inside; afterwards all is as before."""
    log: list[str] = []
    with ExitStack() as stack:
        for part in _parts(step):
            inner = getattr(part, "transforms", None)
            if type(part).__name__ in CHOICES and isinstance(inner, (list, tuple)) and "transforms" in vars(part):
                stack.callback(setattr, part, "transforms", inner)
                part.transforms = [Noted(one, log) for one in inner]
            # torchvision v2 hands every operation to one method, timm keeps each in an object that holds a function.
            if callable(getattr(part, "_apply_image_or_video_transform", None)):
                _listen(part, "_apply_image_or_video_transform", log, stack)
            for operator in getattr(part, "ops", ()) if isinstance(getattr(part, "ops", ()), (list, tuple)) else ():
                if callable(vars(operator).get("aug_fn") if hasattr(operator, "__dict__") else None):
                    stack.callback(setattr, operator, "aug_fn", operator.aug_fn)
                    operator.aug_fn = _named(operator.aug_fn, str(getattr(operator, "name", "")), log)
        homes_of = {home.__module__ for part in _parts(step) for home in type(part).__mro__}
        if "torchvision.transforms.autoaugment" in homes_of:
            import torchvision.transforms.autoaugment as home

            own = home._apply_op
            stack.callback(setattr, home, "_apply_op", own)
            home._apply_op = _second(own, log)
        yield log


def _listen(part: Any, name: str, log: list[str], stack: ExitStack) -> None:
    object.__setattr__(part, name, _second(getattr(part, name), log))
    stack.callback(lambda: object.__delattr__(part, name))


def _second(function: Callable[..., Any], log: list[str]) -> Callable[..., Any]:
    """The function, which leaves its second argument, the name of an operation, and its third, how strongly, in the log."""

    def called(first: Any, name: str, magnitude: Any, *rest: Any, **words: Any) -> Any:
        log.append(f"{name} {float(magnitude):.3g}" if magnitude else str(name))
        return function(first, name, magnitude, *rest, **words)

    return called


def _named(function: Callable[..., Any], name: str, log: list[str]) -> Callable[..., Any]:
    def called(*arguments: Any, **words: Any) -> Any:
        log.append(name)
        return function(*arguments, **words)

    return called


def _watch(part: Any, name: str, own: bool, drawn: dict[str, Any], stack: ExitStack) -> None:
    method = getattr(part, name)

    def seen(*arguments: Any, **words: Any) -> Any:
        value = method(*arguments, **words)
        key = ("" if own else type(part).__name__) if name in DRAWING else name
        if value is not None and not (isinstance(value, Mapping) and not value):
            drawn[key] = value
        return value

    object.__setattr__(part, name, seen)
    stack.callback(lambda: object.__delattr__(part, name))


def parameters(drawn: Mapping[str, Any]) -> str:
    """Drawn values as text; mappings are opened, unnamed tuples stand alone."""
    flat: dict[str, Any] = {}
    for key, value in drawn.items():
        if isinstance(value, Mapping):
            flat.update({f"{key} {name}".strip(): part for name, part in value.items() if name != "shape"})
        else:
            flat[key] = value
    return told(flat)


# --- steps -----------------------------------------------------------------------------------------------------------


@dataclass
class Flow:
    """What goes through a pipeline: the picture in whatever form, and what is known of it in pixels.

    held: what a step needs beside the picture, where its steps hand more on than that.
    """

    image: Any
    marks: Marks = field(default_factory=Marks)
    held: Any = None


@dataclass(frozen=True)
class Stage:
    """One step to take: run(flow) -> (flow, what it drew); `owner` is the transform, for its mean and std."""

    name: str
    run: Callable[[Flow], tuple[Flow, str]]
    owner: Any = None


def homes(transform: Any) -> list[str]:
    """The modules that a transform's class and the classes before it come from, its own first."""
    return [home.__module__ for home in type(transform).__mro__]


def kind(transform: Any) -> str:
    """'albumentations', 'kornia', 'v2' or 'plain': which conventions a transform follows."""
    for name, start in (
        ("albumentations", "albumentations"),
        ("kornia", "kornia"),
        ("v2", "torchvision.transforms.v2"),
    ):
        if any(home == start or home.startswith(start + ".") for home in homes(transform)):
            return name
    return "plain"


def stages(transform: Any) -> list[Stage]:
    """The steps of a transform: compositions are opened, random choices among steps stay one step."""
    import torch

    if isinstance(transform, (list, tuple)):
        return [stage for part in transform for stage in stages(part)]
    name, sort = type(transform).__name__, kind(transform)
    if name == "Compose" and sort == "albumentations":
        return _opened(transform)
    if name == "Compose" and hasattr(transform, "transforms"):
        return stages(list(transform.transforms))
    if isinstance(transform, torch.nn.Sequential):
        # kornia's AugmentationSequential and ImageSequential are Sequentials too.
        return stages(list(transform.children()))
    if not callable(transform):
        raise BadInput(
            f"--transform: {transform!r:.60} ({name}) cannot be called; expected a transform or a list of them"
        )
    makers = {"albumentations": _albumentations, "kornia": _kornia, "v2": _v2, "plain": _plain}
    return [makers[sort](transform)]


def _plain(transform: Any) -> Stage:
    """Anything that takes a picture and gives one: torchvision v1, functions."""

    def run(flow: Flow) -> tuple[Flow, str]:
        with watched(transform, DRAWING) as drawn, chosen(transform) as names:
            image = transform(flow.image)
        return Flow(image, Marks()), _both(names, parameters(drawn))

    return Stage(getattr(transform, "__name__", type(transform).__name__), run, transform)


def _both(names: Sequence[str], text: str) -> str:
    """What was chosen and what was drawn."""
    return ", ".join(part for part in (*names, text) if part)


def _points(marks: Marks) -> np.ndarray | None:
    """Keypoints and the corners of outlines as one (n, 2): they go the same way; None without any."""
    held = [] if marks.keypoints is None else [marks.keypoints[..., :2].reshape(-1, 2)]
    held += [line for lines in marks.outlines for line in lines]
    return np.concatenate(held).astype(float) if held else None


def _with_points(marks: Marks, points: np.ndarray | None, kept: Sequence[int] | None) -> Marks:
    """Marks whose points went along: keypoints and outlines again; of objects whose box was dropped no outline."""
    if points is None:
        return marks
    places, at = marks.keypoints, 0
    if places is not None:
        at = places.shape[0] * places.shape[1]
        places = np.concatenate([points[:at].reshape(*places.shape[:2], 2), places[..., 2:]], -1)
    outlines = []
    for lines in marks.outlines:
        moved = []
        for line in lines:
            moved.append(points[at : at + len(line)])
            at += len(line)
        outlines.append(tuple(moved))
    if kept is not None and marks.boxes is not None and len(outlines) == len(marks.boxes):
        outlines = [outlines[k] for k in kept]
    return replace(marks, keypoints=places, outlines=tuple(outlines))


def _v2(transform: Any) -> Stage:
    """torchvision v2: boxes, keypoints and masks go along."""

    def run(flow: Flow) -> tuple[Flow, str]:
        import torch
        from torchvision import tv_tensors

        (w, h), marks = _size(flow.image), flow.marks
        given: dict[str, Any] = {"image": flow.image}
        if marks.boxes is not None:
            boxes = torch.as_tensor(marks.boxes, dtype=torch.float32)
            given["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(h, w))  # type: ignore[call-overload]
            given["labels"] = torch.arange(len(boxes))
        if marks.masks is not None:
            given["masks"] = tv_tensors.Mask(torch.as_tensor(np.ascontiguousarray(marks.masks)))
        kind_of_points, points = getattr(tv_tensors, "KeyPoints", None), _points(marks)
        if points is not None and kind_of_points is not None:
            given["keypoints"] = kind_of_points(torch.as_tensor(points, dtype=torch.float32), canvas_size=(h, w))
        with watched(transform, DRAWING) as drawn, chosen(transform) as taken:
            out = transform(given)
        kept = out["labels"].tolist() if "labels" in out else None
        moved = np.asarray(out["keypoints"], float) if "keypoints" in out else None
        found = replace(
            _with_points(marks, moved, kept),
            boxes=out["boxes"].numpy() if "boxes" in out else None,
            names=tuple(marks.names[k] for k in kept) if kept is not None and marks.names else (),
            masks=out["masks"].numpy() if "masks" in out else None,
        )
        if points is not None and moved is None:
            found = replace(found, keypoints=None, outlines=())
        return Flow(out["image"], found), _both(taken, parameters(drawn))

    return Stage(type(transform).__name__, run, transform)


class _Skipped:
    """Whether a Compose with p below 1 leaves a sample as it is: drawn by its first step, for all of them."""

    def __init__(self, p: float) -> None:
        self.p, self.now = p, False

    def draw(self) -> None:
        self.now = self.p < 1 and random.random() >= self.p


def _opened(compose: Any) -> list[Stage]:
    """The steps of a Compose of albumentations, which all are taken or none."""
    skipped = _Skipped(float(compose.p))
    return [_albumentations(part, compose, skipped, k == 0) for k, part in enumerate(compose.transforms)]


def _albumentations(transform: Any, whole: Any = None, skipped: _Skipped | None = None, first: bool = False) -> Stage:
    """albumentations: each step in a Compose of its own, which keeps what it drew and moves boxes, points and masks.

    whole: the Compose that it is a step of, whose limits for boxes hold.
    """
    import albumentations

    def run(flow: Flow) -> tuple[Flow, str]:
        if skipped is not None and first:
            skipped.draw()
        if skipped is not None and skipped.now:
            return flow, "not applied: the whole Compose is left out"
        marks = flow.marks
        given: dict[str, Any] = {"image": _array(flow.image)}
        settings: dict[str, Any] = {"save_applied_params": True, "seed": random.getrandbits(31)}
        if marks.boxes is not None:
            said = getattr(whole, "processors", {}).get("bboxes")
            limits = {} if said is None else {
                name: getattr(said.params, name) for name in ("min_area", "min_visibility", "min_width", "min_height")
            }  # fmt: skip
            settings["bbox_params"] = albumentations.BboxParams(
                "pascal_voc", label_fields=["kept"], clip=True, **limits
            )
            given |= {"bboxes": np.asarray(marks.boxes, float), "kept": list(range(len(marks.boxes)))}
        points = _points(marks)
        if points is not None:
            settings["keypoint_params"] = albumentations.KeypointParams("xy", remove_invisible=False)
            given["keypoints"] = points
        if marks.masks is not None:
            stack = marks.masks if marks.masks.ndim == 3 else marks.masks[None]
            # 255 classes at most fit a byte; others go as 32 bits.
            kind = np.uint8 if stack.size and stack.max() <= 255 else np.int32
            given["masks"] = [np.ascontiguousarray(mask).astype(kind) for mask in stack]
        out = albumentations.Compose([transform], **settings)(**given)
        kept = [int(k) for k in out["kept"]] if "kept" in out else None
        masks = None
        if marks.masks is not None:
            masks = np.stack([np.asarray(mask) for mask in out["masks"]]).astype(marks.masks.dtype)
            masks = masks if marks.masks.ndim == 3 else masks[0]
        applied = albu.applied_text(out["applied_transforms"], type(transform).__name__)
        text = (parameters(applied) or "applied") if applied else "not applied"
        found = replace(
            _with_points(marks, None if points is None else np.asarray(out["keypoints"], float), kept),
            boxes=np.asarray(out["bboxes"], float).reshape(-1, 4) if marks.boxes is not None else None,
            names=tuple(marks.names[k] for k in kept) if kept is not None and marks.names else (),
            masks=masks,
        )
        return Flow(out["image"], found), text

    return Stage(type(transform).__name__, run, transform)


def _kornia(transform: Any) -> Stage:
    """kornia: pictures as (1, 3, h, w) from 0 to 1; boxes, points and masks go along through augmentations."""

    def run(flow: Flow) -> tuple[Flow, str]:
        import kornia.augmentation
        import torch

        marks, image = flow.marks, _unit_tensor(flow.image)
        known: dict[str, Any] = {"input": image}
        if marks.boxes is not None and len(marks.boxes):
            known["bbox_xyxy"] = torch.as_tensor(marks.boxes, dtype=torch.float32)[None]
        points = _points(marks)
        if points is not None:
            known["keypoints"] = torch.as_tensor(points, dtype=torch.float32)[None]
        if marks.masks is not None:
            stack = marks.masks if marks.masks.ndim == 3 else marks.masks[None]
            known["mask"] = torch.as_tensor(np.ascontiguousarray(stack).astype(np.float32))[None]
        if not isinstance(transform, kornia.augmentation.base._AugmentationBase):
            return Flow(transform(image), marks if transform(image).shape == image.shape else Marks()), ""
        around = kornia.augmentation.AugmentationSequential(transform, data_keys=list(known))
        out = around(*known.values())
        found = dict(zip(known, out if isinstance(out, (list, tuple)) else [out], strict=True))
        masks = None
        if marks.masks is not None:
            masks = found["mask"][0].numpy().round().astype(marks.masks.dtype)
            masks = masks if marks.masks.ndim == 3 else masks[0]
        boxes = found["bbox_xyxy"][0].numpy() if "bbox_xyxy" in found else None
        drawn = dict(getattr(transform, "_params", None) or {})
        drawn.pop("forward_input_shape", None)
        applied = drawn.pop("batch_prob", None)
        text = "not applied" if applied is not None and not bool(applied.any()) else told(drawn)
        went = _with_points(marks, None if points is None else found["keypoints"][0].numpy().astype(float), None)
        return Flow(found["input"], replace(went, boxes=boxes, masks=masks)), text

    return Stage(type(transform).__name__, run, transform)


def _size(image: Any) -> tuple[int, int]:
    """(w, h) of a PIL picture, a (..., h, w) tensor or an (h, w, c) array."""
    if hasattr(image, "getbands"):
        return image.size
    return (image.shape[-1], image.shape[-2]) if hasattr(image, "detach") else (image.shape[1], image.shape[0])


def _array(image: Any) -> np.ndarray:
    """The picture as albumentations takes it: (h, w, c), uint8 or float."""
    if isinstance(image, np.ndarray):
        return image
    if hasattr(image, "getbands"):
        return np.asarray(image.convert("RGB"))
    return image.detach().cpu().numpy().transpose(1, 2, 0)


def _unit_tensor(image: Any) -> Any:
    """The picture as kornia takes it: (1, 3, h, w) float, 0..1 if it was uint8."""
    import torch

    if not hasattr(image, "detach"):
        image = torch.as_tensor(np.array(image.convert("RGB") if hasattr(image, "getbands") else image)).movedim(-1, 0)
    image = image[None] if image.ndim == 3 else image
    return image.float() / 255 if image.dtype == torch.uint8 else image


def run(steps: Sequence[Stage], flow: Flow, look: Look, log: list[Step]) -> Flow:
    """Takes the steps and logs a picture after each one. Errors: StepFailed with the step's name."""
    for stage in steps:
        before = log[-1].pictures if log else ()
        try:
            flow, text = stage.run(flow)
        except Exception as error:
            raise StepFailed(stage.name, error) from error
        look = look.after(stage.owner)
        look = look.at(stage.name)
        pictures = look.pictures(flow.image)
        if not pictures:
            text = f"{text} {described(flow.image)}".strip()
        log.append(Step(stage.name, pictures, unchanged(before, pictures, text), flow.marks))
    return flow


def unchanged(before: Sequence[np.ndarray], after: Sequence[np.ndarray], text: str) -> str:
    """The text, with 'unchanged' where a step left every pixel as it was."""
    same = len(before) == len(after) > 0 and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    return (f"{text}, unchanged" if text not in ("", "applied") else "unchanged") if same else text


# --- where transforms come from --------------------------------------------------------------------------------------


def named_transform(text: str) -> list[Stage]:
    """The steps of `package.module:name`: a transform, a list of them, or a function without arguments that makes one."""
    found = patches.named(text, "--transform")
    if inspect.isfunction(found) or inspect.isclass(found):
        try:
            inspect.signature(found).bind()
        except TypeError:
            if inspect.isclass(found):
                raise BadInput(
                    f"--transform {text}: a class that needs arguments; name an object or a function"
                ) from None
        else:
            try:
                found = found()
            except Exception as error:
                raise BadInput(f"--transform {text}: {one_line(error)}") from error
    return stages(found)


def model_transform(text: str) -> list[Stage]:
    """The preprocessing of a model: `timm:NAME`, `transformers:FOLDER or NAME`, `torchvision:NAME`."""
    framework, _, name = text.partition(":")
    makers = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision}
    if not name or framework not in makers:
        raise BadInput(f"--model {text}: expected {', '.join(f'{key}:NAME' for key in makers)} or an OpenMMLab config")
    patches.torchvision()
    try:
        return makers[framework](name, text)
    except ImportError as error:
        raise need(framework, framework) from error


def _timm(name: str, text: str) -> list[Stage]:
    import timm
    import timm.data
    from timm.models import get_pretrained_cfg

    from torchloupe.errors import nearest

    if not timm.is_model(name.split(".")[0]):
        raise BadInput(f"--model {text}: timm has no model {name}.{nearest(name, timm.list_models())}")
    # The data settings hang on the name alone: no network is built, no weights are loaded.
    settings = get_pretrained_cfg(name)
    config = timm.data.resolve_data_config(pretrained_cfg=settings.to_dict() if settings else {})
    return stages(timm.data.create_transform(**config, is_training=False))


def _torchvision(name: str, text: str) -> list[Stage]:
    import torchvision.models
    from torchvision.transforms import functional

    from torchloupe.errors import nearest

    known = torchvision.models.list_models()
    if name not in known:
        raise BadInput(f"--model {text}: torchvision has no model {name}.{nearest(name, known)}")
    preset = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
    if not all(
        hasattr(preset, key) for key in ("resize_size", "crop_size", "mean", "std", "interpolation", "antialias")
    ):
        return stages(preset)

    class Normalize:
        mean, std = preset.mean, preset.std

        def __call__(self, image: Any) -> Any:
            return functional.normalize(image, mean=self.mean, std=self.std)

    def resize(image: Any) -> Any:
        return functional.resize(image, preset.resize_size, preset.interpolation, antialias=preset.antialias)

    def center_crop(image: Any) -> Any:
        return functional.center_crop(image, preset.crop_size)

    def to_tensor(image: Any) -> Any:
        return functional.convert_image_dtype(functional.pil_to_tensor(image))

    return stages([resize, center_crop, to_tensor, Normalize()])


def _transformers(name: str, text: str) -> list[Stage]:
    """The image processor's own operations, switched on one after the other: each step runs all up to it."""
    from transformers import AutoImageProcessor

    try:
        # Nothing is downloaded.
        processor = AutoImageProcessor.from_pretrained(name, local_files_only=True)
    except Exception as error:
        where = "a folder with a preprocessor_config.json, or a name that is in the cache of transformers"
        raise BadInput(f"--model {text}: no image processor there; expected {where}") from error
    switches = [key for key in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
                if getattr(processor, key, None)]  # fmt: skip
    start: dict[str, Any] = {}

    def stage(k: int, switch: str) -> Stage:
        class Owner:
            pass

        owner = Owner()
        if switch == "do_normalize":
            scale = 1.0 if "do_rescale" in switches else 255.0
            Owner.__name__ = "Normalize"
            owner.mean = np.asarray(processor.image_mean) * scale  # type: ignore[attr-defined]
            owner.std = np.asarray(processor.image_std) * scale  # type: ignore[attr-defined]

        def take(flow: Flow) -> tuple[Flow, str]:
            if k == 0:
                start["image"] = flow.image
            on = {key: place <= k for place, key in enumerate(switches)}
            out = processor(start["image"], return_tensors="pt", **on)
            sizes = {"do_resize": "size", "do_center_crop": "crop_size", "do_rescale": "rescale_factor"}
            value = getattr(processor, sizes.get(switch, ""), None)
            return Flow(next(iter(out.values()))[0]), "" if value is None else told(
                {"": dict(value) if hasattr(value, "keys") else value}
            )

        return Stage(switch.removeprefix("do_"), take, owner)

    if not switches:
        return [
            Stage(
                type(processor).__name__,
                lambda flow: (Flow(processor(flow.image, return_tensors="pt")["pixel_values"][0]), ""),
            )
        ]
    return [stage(k, switch) for k, switch in enumerate(switches)]
