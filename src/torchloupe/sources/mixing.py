"""Augmentations of a whole batch (mixup, cutmix and their like): each sample is mixed with partners of its data set."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchloupe.data.samples import BadSample, Feed, Sample, Step
from torchloupe.errors import BadInput
from torchloupe.methods.browse import seed_of
from torchloupe.sources.configs import one_line
from torchloupe.sources.transforms import Noted, Stage, homes, seeded

BATCH = 8
# Shares below this come from label smoothing or rounding.
LEAST = 0.02


@dataclass(frozen=True)
class Mixer:
    """An operator on a batch: run(x (n, c, h, w), target) -> (x, target) or x alone.

    hot: targets are one-hot rows, not numbers. log: names of those that a random choice took, as it takes them.
    """

    name: str
    run: Callable[[Any, Any], Any]
    hot: bool = False
    log: list[str] | None = None


class MixedFeed:
    """A feed whose samples are mixed at the end of their pipeline, as the training mixes a batch.

    The operator itself is run, on a batch of eight: the sample and others of the data set. A channel that is 1 on one
    sample alone goes through it with the pictures and tells how much of whom came out.
    """

    def __init__(self, feed: Feed, mixers: Sequence[Mixer]) -> None:
        self.feed, self.mixers, self.name = feed, list(mixers), feed.name
        self.key = f"{getattr(feed, 'key', feed.name)} {[mixer.name for mixer in mixers]}"

    def __len__(self) -> int:
        return len(self.feed)

    def sample(self, index: int, seed: int, whole: bool = True) -> Sample:
        """Raises BadSample as the feed does, and where the pictures of a batch have several sizes."""
        found = self.feed.sample(index, seed, whole)
        if not whole:
            return found
        for k, mixer in enumerate(self.mixers):
            try:
                found = self._mixed(found, mixer, seed_of(seed, index, k + 1))
            except BadSample:
                raise
            except Exception as error:
                message = str(error) if isinstance(error, BadInput) else one_line(error)
                raise BadSample(index, found.name, f"step {mixer.name}", message) from error
        return found

    def _mixed(self, own: Sample, mixer: Mixer, seed: int) -> Sample:
        picture = own.transformed.pictures[0]
        size = picture.shape[:2]
        # Who is chosen depends on the places in the batch alone, so only the chosen ones are loaded.
        shares, _ = self._run(mixer, seed, np.zeros((BATCH, *size, 0), np.float32))
        others = self._others(own.index, seed)
        batch = np.zeros((BATCH, *size, 3), np.float32)
        batch[0] = picture
        partners: dict[int, Sample] = {}
        for k in (np.flatnonzero(shares[1:] > 0) + 1).tolist():
            partner = self._partner(others, k, seed)
            if partner.transformed.pictures[0].shape[:2] != size:
                raise BadInput(
                    f"a batch of pictures of several sizes ({_wide(picture)}, {_wide(partner.transformed.pictures[0])}); "
                    "put a step that makes all of one size before it"
                )
            batch[k], partners[k] = partner.transformed.pictures[0], partner
        shares, labels, result = self._run(mixer, seed, batch / 255, True)
        shown = (result * 255).round().clip(0, 255).astype(np.uint8)
        steps = list(own.steps)
        if partners:
            names = ", ".join(f"{one.name} {one.label}".strip() for one in partners.values())
            steps.append(Step("mixed with", tuple(one.transformed.pictures[0] for one in partners.values()), names))
        who = {0: own, **partners}
        text = " + ".join(f"{shares[k]:.2f} {who[k].name}" for k in sorted(who, key=lambda k: -shares[k]))
        name = mixer.log[-1] if mixer.log else mixer.name
        steps.append(Step(name, (shown,), text if partners else "not mixed"))
        fed: dict[str, float] = {}
        for k, one in who.items():
            fed[one.label] = fed.get(one.label, 0.0) + float(labels[k])
        told = " + ".join(
            f"{name} {share:.2f}" for name, share in sorted(fed.items(), key=lambda pair: -pair[1]) if name
        )
        return replace(own, steps=tuple(steps), fed=told if partners else own.fed)

    def _others(self, index: int, seed: int) -> list[int]:
        """Numbers of other samples in an order that the seed draws; the sample itself where there is no other."""
        count = min(len(self.feed), 10**6)
        drawn = np.random.default_rng(seed).permutation(count)
        return [int(k) for k in drawn if k != index][: 8 * BATCH] or [index]

    def _partner(self, others: list[int], place: int, seed: int) -> Sample:
        """The sample at a place of the batch; the next readable one where it is broken."""
        last: BadSample | None = None
        for turn in range(min(len(others), BATCH)):
            number = others[(place - 1 + turn * BATCH) % len(others)]
            try:
                return self.feed.sample(number, seed_of(seed, number, 0))
            except BadSample as error:
                last = error
        assert last is not None
        raise last

    def _run(self, mixer: Mixer, seed: int, pictures: np.ndarray, result: bool = False) -> Any:
        """(shares (n,), label shares (n,)[, picture (h, w, 3)]) of the first of n pictures (n, h, w, c) after mixing."""
        import torch

        n, h, w, c = pictures.shape
        marks = np.broadcast_to(np.eye(n, dtype=np.float32)[:, None, None], (n, h, w, n))
        x = torch.from_numpy(np.concatenate([pictures, marks], -1)).movedim(-1, 1).contiguous()
        target = torch.eye(n) if mixer.hot else torch.arange(n)
        if mixer.log is not None:
            mixer.log.clear()
        with seeded(seed):
            out = mixer.run(x, target)
        mixed, labels = out if isinstance(out, (tuple, list)) else (out, None)
        found = mixed[0].movedim(0, -1).float().numpy()
        if found.shape[-1] != c + n:
            raise BadInput(f"gave {found.shape[-1]} channels for {c + n}; expected as many as it got")
        shares = found[..., c:].mean((0, 1))
        told = labels[0].float().numpy() if getattr(labels, "shape", None) == (n, n) else shares
        told = np.where(told >= LEAST, told, 0)
        return (shares, told, found[..., :c]) if result else (shares, told)


def _wide(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


# --- which operators mix ---------------------------------------------------------------------------------------------


def mixing(transform: Any) -> bool:
    """Whether a transform works on a batch: torchvision's MixUp and CutMix (also inside a random choice), kornia's mix
    augmentations, albumentations' Mosaic, timm's Mixup, and whatever else must be called with pictures and targets."""
    names = [home.__module__ + "." + home.__qualname__ for home in type(transform).__mro__]
    if any(name.startswith(("torchvision.transforms.v2._augment._BaseMixUp", "kornia.augmentation._2d.mix"))
           for name in names):  # fmt: skip
        return True
    if hasattr(transform, "metadata_key"):
        return True
    if homes(transform)[0].startswith(("torchvision", "albumentations", "kornia")):
        parts = getattr(transform, "transforms", None)
        return isinstance(parts, (list, tuple)) and bool(parts) and all(map(mixing, parts))
    return collates(transform) or (not _takes(transform, 1) and _takes(transform, 2))


def collates(transform: Any) -> bool:
    """Whether a transform is timm's FastCollateMixup, which takes samples of whole numbers, not yet a batch."""
    return callable(getattr(transform, "_mix_batch_collate", None))


def _takes(transform: Any, count: int) -> bool:
    try:
        inspect.signature(transform).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def mixer(transform: Any) -> Mixer:
    """The operator of a transform for which `mixing` holds; the transform stays as it is."""
    import torch

    name = getattr(transform, "__name__", type(transform).__name__)
    own = copy.deepcopy(transform)
    if homes(transform)[0].startswith("kornia"):
        own.data_keys = own.data_keys[:1]
        return Mixer(name, lambda x, _target: own(x))
    if hasattr(transform, "metadata_key"):
        import albumentations

        def laid(x: Any, _target: Any) -> Any:
            pictures = x.movedim(1, -1).numpy()
            whole = albumentations.Compose([own], seed=random.getrandbits(31))
            metadata = [{"image": picture} for picture in pictures[1:]]
            return torch.from_numpy(whole(image=pictures[0], **{own.metadata_key: metadata})["image"]).movedim(-1, 0)[
                None
            ]

        return Mixer(name, laid)
    for part in _all(own):
        # Targets are places in the batch.
        if hasattr(part, "num_classes"):
            part.num_classes = BATCH
    if collates(own):

        def collated(x: Any, target: Any) -> Any:
            levels = (x * 255).round().byte().numpy()
            mixed, labels = own(list(zip(levels, target.tolist(), strict=True)))
            return mixed.float() / 255, labels

        return Mixer(name, collated)
    log: list[str] = []
    if isinstance(getattr(own, "transforms", None), list):
        own.transforms = [Noted(part, log) for part in own.transforms]
    return Mixer(name, own, log=log)


def _all(transform: Any) -> list[Any]:
    parts = getattr(transform, "transforms", None)
    held = list(parts) if isinstance(parts, (list, tuple)) else []
    return [transform, *(one for part in held for one in _all(part))]


def divided(steps: Sequence[Stage]) -> tuple[list[Stage], list[Mixer]]:
    """The steps that take one picture, and the mixing ones, which come last. Errors: BadInput for another order."""
    kinds = [step.owner is not None and mixing(step.owner) for step in steps]
    first = kinds.index(True) if True in kinds else len(steps)
    for step, mixes in list(zip(steps, kinds, strict=True))[first:]:
        if not mixes:
            raise BadInput(f"--transform: {step.name} after {steps[first].name}; what mixes a batch comes last")
    return list(steps[:first]), [mixer(step.owner) for step in steps[first:]]
