"""Questions in words, to models that put texts and pictures beside each other: where is the red car?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.outputs import Scores
from torchloupe.probe import Batch, Subject, Target
from torchloupe.targets.classes import Several
from torchloupe.targets.embedding import Norm, rows

BETWEEN = " - "
PLACE = "{}"
SAME = 1e-6
LENGTH = ("norm", "predicted")


@dataclass(frozen=True)
class Texts:
    """How well a picture fits a text, as the model scores it:  Y_k = s <e, w_k> / ||e||_2 + b;  contrast "a - b": Y_a - Y_b.

    words: k, as they were written. templates: sentences around them, with {} for the word, or (). directions (k, c): the
    normalised embedding of each text (with templates: the mean of the normalised ones, normalised again), or the difference of two.
    scale s, bias b: the model's own; b is not in a contrast. each: one text a sample, in order, in place of all for every sample.
    Output (n, c), not normalised -> scores (k, n), or (1, n) with each: the model's logits.
    Errors: BadInput where the embeddings have another length than the texts, or with each, where texts and samples are not as many.
    Source: Radford et al. 2021, Learning transferable visual models from natural language supervision, arXiv:2103.00020 (scaled
    cosine, templates); Zhai et al. 2023, Sigmoid loss for language image pre-training, arXiv:2303.15343 (bias).
    """

    words: tuple[str, ...]
    directions: Tensor = field(repr=False)
    scale: float = 1.0
    bias: float = 0.0
    templates: tuple[str, ...] = ()
    each: bool = False

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or len(self.directions) != len(self.words) or not self.words:
            shape = tuple(self.directions.shape)
            raise BadInput(f"Texts: expected directions (k, c) for {len(self.words)} words, found {shape}")

    def choose(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """{"texts": (n, 1)} with each, so that every sample keeps its own; else nothing."""
        if not self.each:
            return {}
        if batch.n != len(self.words):
            raise BadInput(f"{len(self.words)} texts for {batch.n} pictures; give one a picture")
        return {"texts": torch.arange(batch.n)[:, None]}

    def __call__(self, output: Any, batch: Batch) -> Scores:
        found = rows(output, batch)
        if found.shape[1] != self.directions.shape[1]:
            raise BadInput(
                f"Texts: the texts have {self.directions.shape[1]} numbers, the embeddings of pictures {found.shape[1]}"
            )
        ways = self.directions.to(found)
        offsets = torch.tensor([0.0 if len(sides(word)) == 2 else self.bias for word in self.words]).to(found)
        value = self.scale * torch.nn.functional.normalize(found, dim=1) @ ways.T + offsets
        if not self.each:
            return Scores(value.T, tuple((word,) * batch.n for word in self.words))
        own = (batch.asked or self.choose(output, batch))["texts"].to(found.device)
        return Scores(value.gather(1, own).T, (tuple(self.words[i] for i in own[:, 0].tolist()),))

    def of(self, index: Sequence[int]) -> Texts:
        """The questions of these numbers, in this order."""
        where = torch.as_tensor(index)
        return Texts(
            tuple(self.words[i] for i in index),
            self.directions[where.to(self.directions.device)],
            self.scale,
            self.bias,
            self.templates,
            self.each,
        )


def sides(word: str) -> tuple[str, ...]:
    """A text -> itself; a contrast "a - b" -> both. Errors: BadInput for an empty side, or more than two."""
    parts = tuple(part.strip() for part in f" {word} ".split(BETWEEN))
    if len(parts) > 2 or not all(parts):
        raise BadInput(f"target {word!r}: expected a text, or a contrast of two, such as 'a red car - a car'")
    return parts


def texts(subject: Subject, words: Sequence[str], templates: Sequence[str] = (), *, each: bool = False) -> Texts:
    """Texts of a model with a text tower, which runs once: each text is embedded one time, however many samples are asked.

    Errors: BadInput for a model without a text tower, a template without {}, a text that its tokenizer cuts to nothing or that
    is too long for it, a class index, and contrasts that are none.
    """
    if subject.tower is None:
        raise BadInput(
            f"target {words[0]!r}: {subject.spec} has no text tower, so it knows no words; give a CLIP or SigLIP model, or "
            "--like PICTURE"
        )
    wrong = next((one for one in templates if PLACE not in one), None)
    if wrong is not None:
        raise BadInput(f"--templates {wrong!r}: expected {PLACE} where the word goes, such as 'a photo of {PLACE}'")
    for word in words:
        if re.fullmatch(r"top-?\d+|truth|true|label", word.lower()) or (word.isdigit() and not templates):
            raise BadInput(
                f"target {word!r}: {subject.spec} has no classes; say in words what to look for, such as 'a red car'"
            )
    parts = [sides(word) for word in words]
    single = list(dict.fromkeys(part for pair in parts for part in pair))
    subject.tower.check(single)
    prompts = [one.replace(PLACE, part) for part in single for one in templates or (PLACE,)]
    unique = list(dict.fromkeys(prompts))
    with subject.asked() as own, torch.no_grad():
        found = subject.tower.embed(own.module, unique)
        scale, bias = subject.tower.logit(own.module)
    found = found.float() if found.dtype.itemsize < 4 else found
    if not found.isfinite().all():
        raise BadInput(f"{subject.spec}: the embeddings of texts are not finite (NaN or infinite); try float32")
    at = {prompt: i for i, prompt in enumerate(unique)}
    lined = torch.nn.functional.normalize(found, dim=1)[torch.tensor([at[one] for one in prompts])]
    ways = torch.nn.functional.normalize(lined.unflatten(0, (len(single), -1)).mean(1), dim=1)
    by = dict(zip(single, ways, strict=True))
    rows_of = [by[pair[0]] - by[pair[1]] if len(pair) == 2 else by[pair[0]] for pair in parts]
    same = next((word for word, row in zip(words, rows_of, strict=True) if row.norm() < SAME), None)
    if same is not None:
        raise BadInput(f"target {same!r}: nothing to explain, as both sides are the same text to this model")
    return Texts(tuple(words), torch.stack(rows_of), scale, bias, tuple(templates), each)


def text_words(
    words: Sequence[str], _names: tuple[str, ...] = (), *, subject: Subject, templates: Sequence[str] = ()
) -> Target:
    """Words of a model with a text tower -> Norm for none and for "norm", else Texts. Errors: as texts."""
    groups: list[Target] = [
        Norm() if length else texts(subject, list(some), templates)
        for length, some in groupby(words, lambda word: word.lower() in LENGTH)
    ]
    if templates and not any(isinstance(one, Texts) for one in groups):
        raise BadInput("--templates: no --target in words that they would be around; give some, such as 'a red car'")
    return groups[0] if len(groups) == 1 else Several(tuple(groups))
