"""Models of open_clip: the picture's embedding, or the picture against texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.probe import Batch, Subject
from torchloupe.sources.assemble import Options, finish, framework, split_spec, unknown
from torchloupe.sources.preparation import Preparation
from torchloupe.sources.texts import of_open_clip


def open_clip(rest: str, options: Options) -> Subject:
    """open_clip:NAME?key=value; random weights unless some are given. The embedding of the picture is asked about.

    With token ids of texts (Batch(shared={"text": ids})) the output is the picture against each text, (n, texts), times the
    model's own factor.
    Errors: BadInput for an unknown name, or one that would be fetched from a hub.
    """
    library = framework("open_clip", "open_clip")
    name, arguments = split_spec(rest)
    if name.startswith("hf-hub:") or arguments.get("pretrained"):
        raise BadInput(
            f"{options.spec}: would be downloaded; give open_clip's own name of the model, and its file as weights"
        )
    if name not in library.list_models():
        raise unknown(options.spec, name, library.list_models(), "open_clip")
    if options.hw and "force_image_size" not in arguments:
        arguments["force_image_size"] = options.hw
    try:
        module = library.create_model(name, pretrained=None, **{"pretrained_hf": False, **arguments})
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise BadInput(f"{options.spec}: {' '.join(str(error).split())[:200]}") from error
    return _subject(library, module, options, name)


def given(module: nn.Module, options: Options) -> Subject | None:
    """A model of open_clip that is already built; None for a part of one."""
    return _subject(framework("open_clip", "open_clip"), module, options) if hasattr(module, "encode_image") else None


def _subject(library: Any, module: Any, options: Options, name: str | None = None) -> Subject:
    size = getattr(module.visual, "image_size", 224)
    h, w = options.hw or ((size, size) if isinstance(size, int) else tuple(size))
    mean = tuple(options.mean or getattr(module.visual, "image_mean", None) or library.OPENAI_DATASET_MEAN)
    std = tuple(options.std or getattr(module.visual, "image_std", None) or library.OPENAI_DATASET_STD)
    transform = library.image_transform((h, w), is_train=False, mean=mean, std=std)

    def steps(image: Any) -> Tensor:
        return torch.as_tensor(transform(image.convert("RGB")))

    return finish(
        module,
        options,
        Preparation(steps, (3, h, w), mean, std),
        kind="embedder",
        notes={"preparation": " ".join(str(transform).split())},
        call=_call,
        tower=of_open_clip(library, module, name),
    )


def _call(module: Any, batch: Batch) -> Any:
    more = {**batch.extra, **batch.shared}
    if "text" not in more:
        return module.encode_image(batch.x)
    image, text = module.encode_image(batch.x, normalize=True), module.encode_text(more["text"], normalize=True)
    against = module.logit_scale.exp() * image @ text.T
    bias = getattr(module, "logit_bias", None)
    return against if bias is None else against + bias
