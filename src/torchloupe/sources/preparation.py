"""How a picture becomes the model's input, and how the input becomes a picture again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.probe import Batch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preparation:
    """Pictures -> Batch, and back:  picture = (x * std + mean) * scale.

    steps: one PIL.Image in RGB -> (c, h, w).
    mean, std: one number a channel, in the range of what was normalised; scale: from that range to 0..255.
    size: (c, h, w) of what steps returns, as far as it is known beforehand.
    bgr: the model takes blue first.
    """

    steps: Callable[[Any], Tensor]
    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    bgr: bool = False

    def batch(self, images: Sequence[Any], ids: Sequence[str] = (), *, module: nn.Module) -> Batch:
        """n images -> Batch with x (n, c, h, w) on the module's device and pictures (n, 1, h, w, 3) uint8.

        Errors: BadInput for no image, and where the images come out at different sizes.
        """
        if not images:
            raise BadInput("no picture to prepare")
        inputs = [self.steps(image) for image in images]
        shapes = {tuple(one.shape) for one in inputs}
        if len(shapes) > 1:
            raise BadInput(
                f"this model's own preparation gives pictures of several sizes {sorted(shapes)}; run them one by one"
            )
        x = torch.stack(inputs)
        first = next(module.parameters(), None)
        return Batch(x if first is None else x.to(first.device), ids=tuple(ids), pictures=self.undo(x))

    def undo(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> pictures (n, 1, h, w, 3) uint8. One channel is shown grey; of more than three the first three."""
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        shown = ((x * std + mean) * self.scale).round().clamp(0, 255).to(torch.uint8).cpu()
        shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1].expand(-1, 3, -1, -1)
        return (shown.flip(1) if self.bgr else shown).permute(0, 2, 3, 1)[:, None].contiguous()


def resize_crop(
    size: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop: float = 0.875,
) -> Preparation:
    """Resize, centre crop, normalise: ImageNet's usual preparation, for models that come with none.

    size: (c, h, w) with c 1 or 3. crop: the share of the resized picture that the crop keeps along the tighter side.
    mean, std: on the range 0..1; ImageNet's where not given.
    Errors: BadInput where they do not have one number a channel.
    """
    channels, h, w = size
    if channels not in (1, 3):
        raise BadInput(f"a model with {channels} input channels takes no ordinary picture; make a Batch yourself")
    mean = tuple(mean) if mean else IMAGENET_MEAN if channels == 3 else (sum(IMAGENET_MEAN) / 3,)
    std = tuple(std) if std else IMAGENET_STD if channels == 3 else (sum(IMAGENET_STD) / 3,)
    if len(mean) != channels or len(std) != channels or not all(std):
        raise BadInput(f"mean {mean} and std {std}: expected one number each for {channels} channels, std not 0")

    def steps(image: Any) -> Tensor:
        image = image.convert("L" if channels == 1 else "RGB")
        factor = max(h / image.height, w / image.width) / crop
        wide, high = max(w, math.floor(image.width * factor + 0.5)), max(h, math.floor(image.height * factor + 0.5))
        left, top = (wide - w) // 2, (high - h) // 2
        image = image.resize((wide, high), 3).crop((left, top, left + w, top + h))
        x = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).reshape(h, w, channels).permute(2, 0, 1)
        return (x - x.new_tensor(mean).view(-1, 1, 1)) / x.new_tensor(std).view(-1, 1, 1)

    return Preparation(steps, size, mean, std)
