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


@dataclass
class Seen:
    """One call of attention: the module that made it, and its probabilities (n, heads, queries, keys), in the graph."""

    name: str
    probabilities: Tensor


@dataclass
class Opened:
    """The calls of attention of the forwards inside, in order; change: what takes the place of the probabilities."""

    calls: list[Seen] = field(default_factory=list)
    change: Callable[[str, Tensor], Tensor] | None = None

    def of(self, name: str) -> list[Tensor]:
        """What the calls made by one module, or inside it, gave."""
        return [seen.probabilities for seen in self.calls if seen.name == name or seen.name.startswith(f"{name}.")]


@contextmanager
def opened(net: nn.Module, change: Callable[[str, Tensor], Tensor] | None = None) -> Iterator[Opened]:
    """Inside, every attention of a shadow is computed step by step, and its probabilities are kept, part of the graph.

    net: a shadow (see `Probe.asked`), whose switches between fused and plain attention are set; nobody else is touched.
    change: (module, probabilities) -> what takes their place, such as a leaf that requires a gradient.
    Seen are F.scaled_dot_product_attention (timm, transformers, open_clip) and nn.MultiheadAttention (torchvision), with
    masks, causal masks, grouped queries. The outputs are those of the fused kernels, up to rounding.
    Memory: n * heads * queries * keys numbers a call.
    """
    seen = Opened(change=change)
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
            return self._attend(*args, **(kwargs or {}))
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
    ) -> Tensor:
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        if dropout_p:
            return F.dropout(self._keep(scores.softmax(-1)), dropout_p) @ value
        return self._keep(scores.softmax(-1)) @ value

    def _keep(self, probabilities: Tensor) -> Tensor:
        name = self._active[-1] if self._active else ""
        if self._seen.change is not None:
            probabilities = self._seen.change(name, probabilities)
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
        before = len(self._seen.calls)
        found = self._attend(q, k, v, mask).permute(2, 0, 1, 3).flatten(2)
        found = F.linear(found, out_proj_weight, out_proj_bias)
        probabilities = self._seen.calls[before].probabilities if more.get("need_weights", True) else None
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
