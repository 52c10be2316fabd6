"""The text towers of transformers and open_clip: from texts to embeddings, as each model was trained to be given them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.sources.assemble import framework
from torchloupe.store import sha256
from torchloupe.subjects import TextTower

FILES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
SAID = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
AT_ONCE = 256


class Tokens:
    """The tokenizer of a model of transformers, read when it is first needed. Errors: BadInput where there is none beside the model."""

    def __init__(self, source: str | None, config: Any) -> None:
        self._source, self._config, self._known = source, config, None

    @property
    def room(self) -> int:
        """How many tokens the text tower takes."""
        return int(getattr(self._config.text_config, "max_position_embeddings", 0) or 0) or 10**9

    @property
    def digest(self) -> str | None:
        """sha256 of the tokenizer's files, or None without a folder."""
        folder = Path(self._source or "")
        files = [folder / name for name in (*FILES, *SAID) if self._source and (folder / name).is_file()]
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest() if files else None

    def _read(self) -> Any:
        if self._known is not None:
            return self._known
        where = self._source or "this model"
        # for some types transformers makes an empty tokenizer up where no file is: to it all words are alike
        if self._source is None or (Path(where).is_dir() and not any((Path(where) / name).is_file() for name in FILES)):
            raise BadInput(
                f"{where}: no tokenizer beside the model, so no words can be asked; save it into the folder "
                "(tokenizer.save_pretrained(FOLDER)) and give transformers:FOLDER"
            )
        library = framework("transformers", "transformers")
        try:
            found = library.AutoTokenizer.from_pretrained(where, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # tokenizers and transformers raise their own kinds for a broken file
            raise BadInput(f"{where}: its tokenizer cannot be read ({' '.join(str(error).split())[:200]})") from error
        self._known = found
        return found

    def check(self, words: Sequence[str]) -> None:
        """Errors: BadInput for a word of which the tokenizer leaves nothing, or nothing that it knows."""
        tokenizer = self._read()
        for word in words:
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            _something(word, ids, tokenizer.unk_token_id)

    def ids(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids (k, tokens), and a mask where the model takes one. Errors: BadInput for too long a text, or another's tokenizer."""
        tokenizer, kind = self._read(), str(self._config.model_type)
        rows = tokenizer(list(prompts))["input_ids"]
        for prompt, row in zip(prompts, rows, strict=True):
            _fits(prompt, len(row), self.room)
        text = self._config.text_config
        highest, known = max(max(row) for row in rows), int(getattr(text, "vocab_size", 10**9))
        end = getattr(text, "eos_token_id", None)
        # CLIP reads a text at its end token; configurations that say 2 stand for the token of the highest number
        lost = kind.startswith("clip") and end not in (None, 2) and not all(end in row for row in rows)
        if highest >= known or lost:
            why = f"gives token {highest} of {known}" if highest >= known else f"adds no end token {end}"
            raise BadInput(f"{self._source}: its tokenizer {why}; it belongs to another model")
        # SigLIP was trained on texts padded to the full length, without a mask: its text is read at the last token
        whole = kind.startswith("siglip")
        padding: dict[str, Any] = {"padding": "max_length", "max_length": self.room} if whole else {"padding": True}
        try:
            made = tokenizer(list(prompts), return_tensors="pt", **padding)
        except ValueError as error:
            raise BadInput(f"{self._source}: texts cannot be padded ({' '.join(str(error).split())[:200]})") from error
        names = ("input_ids",) if whole else ("input_ids", "attention_mask")
        return {name: made[name] for name in names if name in made}


def of_transformers(module: Any, source: str | None) -> TextTower | None:
    """The text tower of CLIP, SigLIP and their kin in transformers; None for a model without one, or with another logit."""
    whole = all(hasattr(module, name) for name in ("get_text_features", "get_image_features", "logit_scale"))
    if not whole or getattr(module.config, "text_config", None) is None:
        return None
    tokens = Tokens(source, module.config)

    def embed(net: Any, prompts: Sequence[str]) -> Tensor:
        found = []
        for one in _parts(prompts):
            given = {name: value.to(net.logit_scale.device) for name, value in tokens.ids(one).items()}
            out = net.get_text_features(**given)
            found.append(out if isinstance(out, Tensor) else out.pooler_output)
        return torch.cat(found)

    return TextTower(tokens.check, embed, _logit, tokens.digest)


def of_open_clip(library: Any, module: Any, name: str | None) -> TextTower | None:
    """The text tower of a model of open_clip, whose own tokenizer comes with the package; None for one without a text tower."""
    if not hasattr(module, "encode_text") or not hasattr(module, "logit_scale"):
        return None
    room = int(getattr(module, "context_length", 0) or 77)

    def tokenizer() -> Any:
        text = (library.get_model_config(name) or {}).get("text_cfg", {}) if name else {}
        if name is None or text.get("hf_tokenizer_name") or text.get("hf_model_name"):
            raise BadInput(
                f"open_clip:{name or '...'}: its tokenizer does not come with open_clip, and nothing is downloaded; give a model "
                "with open_clip's own, such as open_clip:ViT-B-32, or transformers:FOLDER"
            )
        return library.get_tokenizer(name, context_length=room)

    def check(words: Sequence[str]) -> None:
        cut = tokenizer()
        for word in words:
            _something(word, cut.encode(cut.clean_fn(word)), None)

    def embed(net: Any, prompts: Sequence[str]) -> Tensor:
        cut, found = tokenizer(), []
        for prompt in prompts:
            _fits(prompt, len(cut.encode(cut.clean_fn(prompt))) + 2, room)
        for one in _parts(prompts):
            found.append(net.encode_text(cut(one).to(net.logit_scale.device)))
        return torch.cat(found)

    return TextTower(check, embed, _logit)


def _logit(net: nn.Module) -> tuple[float, float]:
    """exp(logit_scale), and logit_bias or 0."""
    scale, bias = (getattr(net, name, None) for name in ("logit_scale", "logit_bias"))
    assert isinstance(scale, Tensor)
    return float(scale.detach().double().exp()), 0.0 if not isinstance(bias, Tensor) else float(bias.detach())


def _parts(prompts: Sequence[str]) -> list[list[str]]:
    return [list(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)]


def _something(word: str, ids: Sequence[int], unknown: int | None) -> None:
    if not ids or (unknown is not None and all(one == unknown for one in ids)):
        left = "nothing" if not ids else "nothing that the model knows"
        raise BadInput(f"target {word!r}: the model's tokenizer leaves {left} of it; try other words")
    if unknown in ids:
        text = f"target {word!r}: the model's tokenizer does not know part of it, and every such part is the same to the model"
        warnings.warn(text, LoupeWarning, stacklevel=5)


def _fits(prompt: str, count: int, room: int) -> None:
    if count > room:
        shown = prompt if len(prompt) <= 60 else f"{prompt[:57]}..."
        raise BadInput(f"target {shown!r}: {count} tokens, and the text tower takes {room}; say it shorter")
