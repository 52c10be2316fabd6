"""Attention opened: its probabilities, between which tokens and for which score, of fused kernels too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.evidence import settle
from torchloupe.subjects import Batch, Subject
from torchloupe.trace import Trace

# (query, key, value) -> the same, with other gradients
Feed = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass
class Seen:
    """One call of attention: the module that made it, and its probabilities (n, heads, queries, keys), in the graph."""

    name: str
    probabilities: Tensor


@dataclass
class Opened:
    """The calls of attention of the forwards inside, in order; change, wanted, feed: as `opened` has them."""

    calls: list[Seen] = field(default_factory=list)
    change: Callable[[str, Tensor], Tensor] | None = None
    wanted: Callable[[str], bool] | None = None
    feed: Feed | None = None

    def of(self, name: str) -> list[Tensor]:
        """What the calls made by one module, or inside it, gave."""
        return [seen.probabilities for seen in self.calls if seen.name == name or seen.name.startswith(f"{name}.")]


@contextmanager
def opened(
    net: nn.Module,
    change: Callable[[str, Tensor], Tensor] | None = None,
    wanted: Callable[[str], bool] | None = None,
    feed: Feed | None = None,
) -> Iterator[Opened]:
    """Inside, every attention of a shadow is computed step by step, and its probabilities are kept, part of the graph.

    net: a shadow (see `Probe.asked`), whose switches between fused and plain attention are set; nobody else is touched.
    change: (module, probabilities) -> what takes their place, such as a leaf that requires a gradient.
    wanted: module -> whether its calls are kept; what is not kept is let go at once. None: all.
    feed: what is done to queries, keys and values before.
    Seen are F.scaled_dot_product_attention (timm, transformers, open_clip) and nn.MultiheadAttention (torchvision), with
    masks, causal masks, grouped queries. The outputs are those of the fused kernels, up to rounding.
    Memory: n * heads * queries * keys numbers a call.
    """
    seen = Opened(change=change, wanted=wanted, feed=feed)
    active: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: active.append(name)

    def leave(*_: Any) -> None:
        active.pop()

    with ExitStack() as stack:
        for name, part in net.named_modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = True
            config: Any = getattr(part, "config", None)
            if getattr(config, "_attn_implementation", "sdpa") not in ("sdpa", None):
                stack.callback(setattr, config, "_attn_implementation", config._attn_implementation)
                config._attn_implementation = "sdpa"
            stack.callback(part.register_forward_pre_hook(enter(name)).remove)
            stack.callback(part.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(_Opening(seen, active))
        yield seen


class _Opening(TorchFunctionMode):
    def __init__(self, seen: Opened, active: list[str]) -> None:
        super().__init__()
        self._seen, self._active = seen, active

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))[0]
        if func is F.multi_head_attention_forward:
            return self._heads(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:
        if self._seen.feed is not None:
            query, key, value = self._seen.feed(query, key, value)
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        probabilities = self._keep(scores.softmax(-1))
        return (F.dropout(probabilities, dropout_p) if dropout_p else probabilities) @ value, probabilities

    def _keep(self, probabilities: Tensor) -> Tensor:
        name = self._active[-1] if self._active else ""
        if self._seen.change is not None:
            probabilities = self._seen.change(name, probabilities)
        if self._seen.wanted is None or self._seen.wanted(name):
            self._seen.calls.append(Seen(name, probabilities))
        return probabilities

    def _heads(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None]:
        plain = bias_k is None and bias_v is None and not add_zero_attn
        if not plain or more.get("static_k") is not None or more.get("static_v") is not None:
            return F.multi_head_attention_forward(
                *(query, key, value, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v),
                *(add_zero_attn, dropout_p, out_proj_weight, out_proj_bias),
                **more,
            )
        batched = query.ndim == 3
        if not batched:
            query, key, value = (one.unsqueeze(1) for one in (query, key, value))
        if more.get("use_separate_proj_weight"):
            weights = [more[f"{letter}_proj_weight"] for letter in "qkv"]
        else:
            assert in_proj_weight is not None
            weights = list(in_proj_weight.chunk(3))
        biases = [None] * 3 if in_proj_bias is None else list(in_proj_bias.chunk(3))

        def split(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return F.linear(x, weight, bias).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)

        q, k, v = (split(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        mask = _added(more.get("attn_mask"), more.get("key_padding_mask"), q, k)
        found, seen = self._attend(q, k, v, mask)
        found = F.linear(found.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
        probabilities = seen if more.get("need_weights", True) else None
        if probabilities is not None and more.get("average_attn_weights", True):
            probabilities = probabilities.mean(1)
        if not batched:
            return found.squeeze(1), None if probabilities is None else probabilities.squeeze(0)
        return found, probabilities


def _added(mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The masks of nn.MultiheadAttention, in which True is forbidden, as one that is added; None without any."""
    total: Tensor | None = None
    for number, one in enumerate((mask, padding)):
        if one is None:
            continue
        added = torch.zeros_like(one, dtype=q.dtype).masked_fill(one, -torch.inf) if one.dtype == torch.bool else one
        if number:
            added = added.view(-1, 1, 1, k.shape[-2])
        elif added.ndim == 3:
            added = added.unflatten(0, (len(q), -1))
        total = added if total is None else total + added
    return total


def token_grid(subject: Subject, batch: Batch, trace: Trace, name: str, tokens: int) -> Layout | str:
    """How the tokens lie between which a module attends, as the first module around it says that has so many; or why none is known.

    trace: of the forward in which it ran.
    """
    reason = ""
    while name:
        visits = trace.of(name)
        found: Layout | str | None = subject.layout(name)
        if found is None and visits:
            found = settle(subject, batch, visits[-1], trace)
        if isinstance(found, str):
            reason = reason or f"{name}: {found}"
        elif found is not None and found.folded and visits and visits[-1].shapes:
            try:
                act = found.canonical([torch.empty(visits[-1].shapes[0], device="meta")], batch.n, batch.size)
            except BadInput as error:
                reason = reason or str(error)
            else:
                if found.skip + act.shape[2:].numel() == tokens:
                    return found
        name = name.rpartition(".")[0]
    return f"its {tokens} tokens do not lie on a grid of the picture" + (f" ({reason})" if reason else "")


def drawn_query(probabilities: Tensor, layout: Layout, query: int | None = None) -> Tensor:
    """Probabilities (n, heads, queries, T) -> of one query, by head, over the places of the picture (n, heads, t, h, w) as
    tokens (n, T, heads) that the layout reads.

    query: a row; None: the class token, where tokens come before those of the picture, else the mean over all rows (the one
    row of an attention-pooling head).
    """
    if query is not None:
        rows = probabilities[:, :, query]
    elif layout.skip and probabilities.shape[2] > 1:
        rows = probabilities[:, :, 0]
    else:
        rows = probabilities.mean(2)
    return rows.transpose(1, 2)
