"""Sparse autoencoders as layers of a network: their latents are channels."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.names import resolve
from torchloupe.sources.safe import read_checkpoint
from torchloupe.store import sha256
from torchloupe.store.reading import reads
from torchloupe.subjects import Subject
from torchloupe.taps import swapped
from torchloupe.trace import every_name, tensors

BEHIND = "|"
PLAIN = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class Autoencoder:
    """z = act(W_enc (x - shift) + b_enc),  x^ = W_dec z + b_dec.

    encoder W_enc (m, d), decoder W_dec (d, m), before b_enc (m,), after b_dec (d,), shift (d,) or None. top: only so many of the largest z are kept, or
    None for a ReLU alone.
    """

    encoder: Tensor
    before: Tensor
    decoder: Tensor
    after: Tensor
    shift: Tensor | None
    top: int | None = None


@reads("a sparse autoencoder: safetensors or torch weights with W_enc, b_enc, W_dec, b_dec, of saev or overcomplete")
def autoencoder(path: Path) -> Autoencoder:
    """From a file: safetensors or a state dict with W_enc, b_enc, W_dec, b_dec; saev's, with a line of JSON before the weights;
    overcomplete's state dict. Read without running code.

    In a saev file whose header has a schema x is encoded as it is, in all others less b_dec.
    Errors: BadInput for a file of none of these kinds, and arrays that do not fit each other.
    """
    header: Mapping[str, Any] = {}
    with path.open("rb") as file:
        first = file.readline(1 << 16)
        rest = file.read() if first[:1] == b"{" and first.endswith(b"\n") else b""
    if rest:
        header = json.loads(first)
        held = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    else:
        held = read_checkpoint(path)
    return _of(held, header, path)


def _of(held: Mapping[str, Any], header: Mapping[str, Any], path: Path) -> Autoencoder:
    state = {name.removeprefix("module."): value for name, value in held.items() if isinstance(value, Tensor)}
    if set(PLAIN) <= set(state):
        encoder, before, decoder, after = (state[name].float() for name in PLAIN)
        if (
            encoder.shape[-1] == before.shape[0] and encoder.shape[0] == after.shape[0]
        ):  # (d, m), as they are multiplied from the left
            encoder, decoder = encoder.T, decoder.T
        shift = None if "schema" in header else after
    elif "dictionary._weights" in state and "encoder.final_block.0.weight" in state:
        encoder, before = state["encoder.final_block.0.weight"].float(), state["encoder.final_block.0.bias"].float()
        words = state["dictionary._weights"].float()
        words = words / words.norm(dim=1, keepdim=True).clamp_min(1e-12)
        decoder = (words * state.get("dictionary.multiplier", torch.zeros(())).float().exp()).T
        after, shift = torch.zeros(len(decoder)), None
    else:
        raise BadInput(f"{path}: holds {', '.join(sorted(state)[:4]) or 'no tensors'}; expected {', '.join(PLAIN)}")
    m, d = encoder.shape if encoder.ndim == 2 else (0, 0)
    if (tuple(before.shape), tuple(decoder.shape), tuple(after.shape)) != ((m,), (d, m), (d,)):
        shapes = ", ".join(str(tuple(one.shape)) for one in (encoder, before, decoder, after))
        raise BadInput(f"{path}: arrays of shapes {shapes} are no autoencoder; expected (m, d), (m,), (d, m), (d,)")
    return Autoencoder(encoder, before, decoder, after, shift, _top(header))


def _top(header: Mapping[str, Any]) -> int | None:
    """How many latents the header of a saev file lets live; None where it says ReLU, or nothing."""
    config = header.get("cfg", header)
    activation = config.get("activation", {}) if isinstance(config, Mapping) else {}
    top = activation.get("top_k", activation.get("k")) if isinstance(activation, Mapping) else None
    return int(top) if isinstance(top, int) and top > 0 else None


class Latents(nn.Module):
    """What an autoencoder makes of a layer's channels (..., d) -> (..., m). said: the layer as it was written."""

    def __init__(self, coder: Autoencoder, said: str) -> None:
        super().__init__()
        self.said, self.top, self.width = said, coder.top, len(coder.after)
        for name in ("encoder", "before", "decoder", "after", "shift"):
            self.register_buffer(name, getattr(coder, name), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        parts: Any = self
        centred = x if parts.shift is None else x - parts.shift.to(x)
        z = (centred @ parts.encoder.to(x).T + parts.before.to(x)).relu()
        if self.top is not None and self.top < z.shape[-1]:
            least = z.topk(self.top, -1).values[..., -1:]
            z = torch.where(z >= least, z, 0)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """z (..., m) -> x^ (..., d)."""
        parts: Any = self
        return z @ parts.decoder.to(z).T + parts.after.to(z)


def _splice(part: Any, _inputs: Any, output: Any, key: str) -> Any:
    """The layer's output through the latents; what they do not hold is added as a constant, so that the output stays."""
    latents = part._modules[key]
    x, d = next(tensors(output)), latents.width
    first = x.ndim in (4, 5) and x.shape[1] == d
    if not first and x.shape[-1] != d:
        raise BadInput(f"layer {latents.said!r}: the autoencoder is of {d} channels, the layer gives {tuple(x.shape)}")
    inner = x.movedim(1, -1) if first else x
    made = latents.decode(latents(inner))
    made = made + (inner - made).detach()
    return swapped(output, x, made.movedim(-1, 1) if first else made)


def spliced(subject: Subject, words: Sequence[str]) -> tuple[Subject, list[str], dict[str, str]]:
    """A subject that has a layer for each word of the form LAYER|FILE, the words with those layers' names, and the files' sha256.

    The model itself stays: its modules are copied, its tensors are shared. Latents of layer L lie at L.NAME, NAME the file's stem.
    Errors: BadInput for unknown layers, and as autoencoder.
    """
    asked = [word for word in words if BEHIND in word]
    if not asked:
        return subject, list(words), {}
    module = subject.module
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    net = copy.deepcopy(module, shared)
    known, names, digests = every_name(module), {}, {}
    for word in dict.fromkeys(asked):
        layer, _, file = word.partition(BEHIND)
        if not layer or not file:
            raise BadInput(f"layer {word!r}: expected LAYER{BEHIND}FILE, such as blocks.8{BEHIND}sae.safetensors")
        name = resolve(known, layer, subject.listing)
        key = re.sub(r"\W", "_", Path(file).stem)
        part = net.get_submodule(name)
        if hasattr(part, key):
            key += "_latents"
        part.add_module(key, Latents(autoencoder(Path(file)), word))

        def hook(part: nn.Module, inputs: Any, output: Any, key: str = key) -> Any:
            return _splice(part, inputs, output, key)

        part.register_forward_hook(hook)
        names[word], digests[word] = f"{name}.{key}", sha256(file)
    return replace(subject, module=net), [names.get(word, word) for word in words], digests
