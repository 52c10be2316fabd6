"""Vision-language models of transformers: what in the picture made the answer likely?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, BadSample
from torchloupe.sources.assemble import framework
from torchloupe.subjects import Batch, Subject

ANSWER = "answer:"
# where the picture enters the language model: the module's name ends so, and how its tokens lie
DOORS = (
    ("multi_modal_projector", "n (h w) c"),
    ("connector", "(n t) (h w) c"),
    ("visual.merger", "(n h w) c"),
)
FURTHER = ("visual.deepstack_merger_list.", "(n h w) c")


def is_speaker(module: nn.Module) -> bool:
    """Whether a model of transformers looks at pictures and writes."""
    config = getattr(module, "config", None)
    whole = getattr(config, "vision_config", None) is not None and getattr(config, "text_config", None) is not None
    return whole and type(module).__name__.endswith("ForConditionalGeneration") and bool(_doors(module))


def _doors(module: nn.Module) -> dict[str, str]:
    """The modules through which a picture enters the language model, and how their tokens lie."""
    names = [name for name, _ in module.named_modules()]
    found = {name: pattern for end, pattern in DOORS for name in names if name == end or name.endswith(f".{end}")}
    deep, pattern = FURTHER
    return found | {name: pattern for name in names if deep in name and name.rpartition(".")[2].isdigit()}


def speaker(subject: Subject, source: str | None) -> Subject:
    """The subject of a vision-language model, to be asked with `Subject.speaker`."""
    doors = _doors(subject.module)

    def layout(name: str) -> Layout | None:
        return Layout(doors[name], rests="the picture's way into the language model") if name in doors else None

    layers = subject.layers or tuple(doors)
    made = replace(subject, kind="classifier", layers=layers, layout=layout)
    return replace(made, speaker=lambda say, answers: _asked(made, source, say, answers))


def _asked(subject: Subject, source: str | None, say: str, answers: Sequence[str]) -> Subject:
    """The model asked `say`: its output (n, k) is the log-probability of each answer, word by word after the question.

    Errors: BadInput without a processor beside the model, for an answer that is empty or unknown to the tokenizer, and several
    answers of which one has several tokens.
    """
    processor = _processor(source)
    tokenizer = processor.tokenizer
    prompt = _prompt(processor, say)
    rows = []
    for answer in answers:
        word = answer.removeprefix(ANSWER).strip()
        ids = (
            tokenizer(word if prompt[-1:].isspace() else f" {word}", add_special_tokens=False)["input_ids"]
            if word
            else []
        )
        ids = [one for one in ids if one != tokenizer.bos_token_id]
        if not ids or all(one == tokenizer.unk_token_id for one in ids):
            left = "nothing" if not ids else "nothing that the model knows"
            raise BadInput(f"target {answer!r}: the tokenizer leaves {left} of it; try another word")
        rows.append(ids)
    long = next((answer for answer, ids in zip(answers, rows, strict=True) if len(ids) > 1), None)
    if long is not None and len(rows) > 1:
        raise BadInput(
            f"target {long!r}: is of several tokens, and such an answer is asked alone; give one --target a run"
        )
    told = torch.tensor(rows)
    suffix = told[:1] if long is not None else told[:1, :0]

    def call(module: nn.Module, batch: Batch) -> Tensor:
        given: dict[str, Any] = {**batch.shared, **batch.extra}
        length = given["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if key in given:
                more = suffix.to(given[key]) if key == "input_ids" else torch.full_like(suffix, key == "attention_mask")
                given[key] = torch.cat([given[key], more.to(given[key])], 1)
        given = {
            key: value.expand(batch.n, *value.shape[1:]) if isinstance(value, Tensor) and len(value) == 1 else value
            for key, value in given.items()
        }
        logits = module(pixel_values=batch.x, **given).logits
        if not suffix.numel():
            return logits[:, length - 1].log_softmax(-1)[:, told[:, 0].to(logits.device)]
        parts = logits[:, length - 1 : length - 1 + suffix.shape[1]].log_softmax(-1)
        return parts.gather(2, suffix.to(logits.device).expand(batch.n, -1)[..., None]).sum((1, 2))[:, None]

    def prepare(images: Sequence[Any], ids: Sequence[str]) -> Batch:
        return _prepared(processor, prompt, images, ids)

    names = tuple(f"{ANSWER}{answer.removeprefix(ANSWER).strip()}" for answer in answers)
    notes = {**subject.notes, "prompt": prompt, "answer_tokens": rows, "preparation": type(processor).__name__}
    return replace(subject, call=call, read=lambda output: output, prepare=prepare, classes=names, notes=notes)


def _processor(source: str | None) -> Any:
    where = source or "this model"
    if source is None or not Path(source).is_dir():
        raise BadInput(f"{where}: no processor beside the model; give a folder with both, transformers:FOLDER")
    library = framework("transformers", "transformers")
    try:
        found = library.AutoProcessor.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers, processors and transformers raise their own kinds for what is missing
        raise BadInput(
            f"{where}: no processor that can be read lies beside the model ({' '.join(str(error).split())[:160]}); save it into the folder "
            "(processor.save_pretrained(FOLDER))"
        ) from error
    if getattr(found, "tokenizer", None) is None or getattr(found, "image_processor", None) is None:
        raise BadInput(f"{where}: its processor is a {type(found).__name__}, without pictures or without words")
    return found


def _prompt(processor: Any, say: str) -> str:
    """The question with the picture's token before it, as the model's chat template has it, where there is one."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": say}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    return f"{processor.image_token}\n{say}\n"


def _prepared(processor: Any, prompt: str, images: Sequence[Any], ids: Sequence[str]) -> Batch:
    made = dict(
        processor(images=[[image] for image in images], text=[prompt] * len(images), return_tensors="pt", padding=True)
    )
    x = made.pop("pixel_values")
    if len(images) > 1 and ("image_grid_thw" in made or not all(_alike(value) for value in made.values())):
        raise BadSample("pictures of different grids of tokens are asked one by one")
    shared = {key: value[:1] for key, value in made.items() if isinstance(value, Tensor)}
    layout = Layout("n t c h w") if x.ndim == 5 else Layout()
    if "image_grid_thw" in made:
        layout = _of_patches(processor, made["image_grid_thw"][0].tolist(), x)
    pictures = _seen(processor, layout.canonical([x], len(images)))
    pictures = pictures[:, :1] if "image_grid_thw" in made else pictures  # the same picture several times
    return Batch(x, layout, tuple(ids), shared=shared, pictures=pictures)


def _alike(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool((value == value[:1]).all())


def _of_patches(processor: Any, grid: Sequence[int], x: Tensor) -> Layout:
    """Pictures cut to patches, merge x merge of them together, as Qwen2-VL and its kin take them."""
    kind = processor.image_processor
    side, merge, deep = kind.patch_size, kind.merge_size, kind.temporal_patch_size
    t, h, w = grid
    if t != 1 or h % merge or w % merge or tuple(x.shape) != (h * w, 3 * deep * side * side):
        raise BadInput(
            f"a picture of {h} x {w} patches and shape {tuple(x.shape)} does not fit the processor's grid of {merge} x {merge}"
        )
    sizes = {"hb": h // merge, "wb": w // merge, "ma": merge, "mb": merge, "t": deep, "pa": side, "pb": side, "c": 3}
    return Layout("(n hb wb ma mb) (c t pa pb) -> n c t (hb ma pa) (wb mb pb)", sizes=sizes)


def _seen(processor: Any, x: Tensor) -> Tensor:
    """(n, c, t, h, w) as the model takes it -> (n, t, h, w, 3) uint8."""
    kind = processor.image_processor
    mean, std = (
        torch.tensor(list(values), dtype=x.dtype).view(1, 3, 1, 1, 1) for values in (kind.image_mean, kind.image_std)
    )
    undone = (x * std + mean if getattr(kind, "do_normalize", True) else x) / (
        getattr(kind, "rescale_factor", None) or 1 / 255
    )
    return torch.from_numpy(np.clip(undone.round().numpy(), 0, 255).astype(np.uint8)).permute(0, 2, 3, 4, 1)
