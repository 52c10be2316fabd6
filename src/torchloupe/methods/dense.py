"""What a transformer's head says of each patch by itself: MaskCLIP's way, and CLIP Surgery's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.attention import opened
from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.methods.attention import attending_blocks, called, handing_on, keep_output, token_grid_of
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe
from torchloupe.trace import tensors

SHARP = 2.0


def _heads(
    probe: Probe, net: Any, blocks: list[str], kept: dict[str, Any], tokens: Tensor, prefix: int, batch: Batch
) -> Any:
    """What the network gives where each token (n, T, c) stands alone behind the last block, as a sample of its own: n * T rows.

    As many tokens as come before those of the picture, and one more, are all the same one: a class token, a mean and a pooling by
    attention alike see nothing else.
    """
    n, count, width = tokens.shape
    many = batch.take(torch.arange(n).repeat_interleave(count).tolist())
    alone = dict(kept)
    last = kept[blocks[-1]]
    single = tokens.reshape(n * count, 1, width).repeat(1, prefix + 1, 1)
    alone[blocks[-1]] = (single, *last[1:]) if isinstance(last, tuple) else single
    try:
        with handing_on(net.module, blocks, alone, blocks[-1]):
            return net.output(many), many
    except (RuntimeError, ValueError, IndexError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadInput(
            f"{called(probe)}: its head does not take one token alone ({why}), so patches cannot be asked one by one; use a CAM"
        ) from error


def _folded(batch: Batch, values: Tensor, layout: Layout) -> Tensor:
    """Values (k, n * T) of tokens -> maps (k, n, t, h, w)."""
    return torch.stack(
        [layout.canonical([row.reshape(batch.n, -1, 1)], batch.n, batch.size)[:, 0] for row in values.float()]
    )


@method
def maskclip(probe: Probe, batch: Batch) -> Maps:
    """MaskCLIP:  M_p = Y of the head on patch p alone, where in the last block each token attends to itself

    -> the last attention's name -> (k, n, t, h, w), signed: the logit of each patch; of a text the scaled cosine.
    For class tokens, means and attention-pooling heads, of CLIP, SigLIP and of classifiers.
    Source: Zhou et al. 2022, Extract free dense labels from CLIP, ECCV, arXiv:2112.01071.
    Differs: the last block's sum and MLP stay, as in the authors' code; without their key smoothing and prompt denoising.
    """
    grid = token_grid_of(probe, batch)
    blocks = attending_blocks(probe, grid.names)
    kept: dict[str, Any] = {}

    def itself(name: str, probabilities: Tensor) -> Tensor:
        if name != grid.names[-1]:
            return probabilities
        return torch.eye(grid.tokens, dtype=probabilities.dtype, device=probabilities.device).expand_as(probabilities)

    scores, batch = probe.ask(batch)
    with probe.asked() as own, torch.no_grad():
        with ExitStack() as stack:
            stack.enter_context(opened(own.module, itself, lambda _: False))
            for name in blocks:
                stack.callback(own.module.get_submodule(name).register_forward_hook(keep_output(kept, name)).remove)
            own.output(batch.at(batch.x.detach().clone()))
        output, many = _heads(probe, own, blocks, kept, next(tensors(kept[blocks[-1]])), grid.layout.skip, batch)
        value = probe.score(output, many)[0].value
    return Maps({grid.names[-1]: _folded(batch, value, grid.layout)}, scores, signed=True)


@method
def clip_surgery(probe: Probe, batch: Batch, *, blocks: int = 6) -> Maps:
    """CLIP Surgery:  M_kp = sum_c (f_pc t_kc w_k - mean_j f_pc t_jc w_j),  w = softmax(2 cls . t) over their mean

    f_p: the embedding of patch p from a second path, t: those of the texts. The path begins before the last `blocks` blocks, and takes of
    each only its attention, between values and values of the ordinary path: softmax(v v / sqrt(d)) v. cls: the picture's
    own embedding. What all texts share is taken away, so there must be two or more.
    -> the last attention's name -> (k, n, t, h, w), signed.
    Errors: BadInput for fewer than two texts, a target that is no text, and blocks that the network does not have.
    Source: Li et al. 2023, CLIP Surgery for better explainability, arXiv:2304.05653.
    """
    ways: Any = getattr(probe.target, "directions", None)
    if not isinstance(ways, Tensor):
        raise BadInput("clip_surgery compares texts; ask a model with a text tower, --target TEXT TEXT ...")
    if len(ways) < 2:
        raise BadInput(
            "clip_surgery takes away what all texts share, so it needs two or more; add one such as 'a photo'"
        )
    grid = token_grid_of(probe, batch)
    around = attending_blocks(probe, grid.names)
    if not 1 <= blocks < len(around):
        raise BadInput(f"blocks is {blocks}; expected 1 to {len(around) - 1}, as the network has {len(around)}")
    kept: dict[str, Any] = {}
    found: list[Tensor] = []
    again = False

    def by_values(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (v, v, v) if again else (q, k, v)

    def attend(part: nn.Module, args: Any, kwargs: Any, _output: Any) -> None:
        nonlocal again
        if again:
            return
        again = True
        try:
            found.append(next(tensors(part(*args, **kwargs))))
        finally:
            again = False

    scores, batch = probe.ask(batch)
    with probe.asked() as own, torch.no_grad():
        with ExitStack() as stack:
            stack.enter_context(opened(own.module, None, lambda _: False, by_values))
            for name in around:
                stack.callback(own.module.get_submodule(name).register_forward_hook(keep_output(kept, name)).remove)
            for name in grid.names[-blocks:]:
                part = own.module.get_submodule(name)
                stack.callback(part.register_forward_hook(attend, with_kwargs=True).remove)
            whole = own.output(batch.at(batch.x.detach().clone()))
        start = next(tensors(kept[around[-blocks - 1]]))
        if any(one.shape != start.shape for one in found):
            raise BadInput(f"{called(probe)}: its attentions do not give what its blocks hand on; use maskclip")
        tokens = start + torch.stack(found).sum(0)
        output, _ = _heads(probe, own, around, kept, tokens, grid.layout.skip, batch)
    t = F.normalize(ways.to(whole), dim=1)
    cls, f = (F.normalize(one.flatten(1), dim=1) for one in (whole, output))
    w = (SHARP * cls @ t.T).softmax(1)
    w = (w / w.mean(1, keepdim=True)).repeat_interleave(grid.tokens, 0)
    each = f[:, None] * t[None] * w[..., None]
    value = (each - each.mean(1, keepdim=True)).sum(-1)
    return Maps({grid.names[-1]: _folded(batch, value.T, grid.layout)}, scores, signed=True)
