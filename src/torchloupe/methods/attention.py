"""Maps from attention: rollout, attention times gradient, Chefer's relevance, LeGrad. Transformers over tokens on one grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from torchloupe.attention import opened, token_grid
from torchloupe.axes import Layout
from torchloupe.errors import BadInput, BadSample, NoGradient
from torchloupe.methods.registry import method
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch, Probe, finite
from torchloupe.trace import tracing

SMALL = 1e-12


@dataclass(frozen=True)
class Looked:
    """The attention of one asking, block by block.

    names: of the modules that attended, in order; probabilities: a tensor (n, heads, T, T) each; pool (n, heads, 1, T):
    of an attention-pooling head, or None. layout: how the T tokens lie in the picture. batch: with the choices held fixed. windows: other blocks attend in windows.
    """

    names: tuple[str, ...]
    probabilities: tuple[Tensor, ...]
    pool: Tensor | None
    layout: Layout
    scores: Scores
    batch: Batch
    windows: bool = False

    def drawn(self, rows: Tensor) -> Tensor:
        """Values (k, n, T) of the tokens -> maps (k, n, t, h, w)."""
        size = self.batch.size
        return torch.stack([self.layout.canonical([row[..., None]], self.batch.n, size)[:, 0] for row in rows])

    @property
    def prefix(self) -> int:
        """Tokens before those of the picture."""
        return self.layout.skip


def look(
    probe: Probe, batch: Batch, each: Callable[[Looked, int, tuple[Tensor, ...], Tensor | None], Any]
) -> list[Any]:
    """One forward with attention opened, one backward a question: each(looked, k, dY/dA of every block, dY/dpool).

    Errors: BadInput for a network without attention over the tokens of the picture; NoGradient where the score does not
    depend on it.
    """
    grid = token_grid_of(probe, batch)
    found: list[Any] = []
    with probe.asked() as own, torch.enable_grad():
        with opened(own.module, _leaf) as seen:
            output = own.output(batch.at(batch.x.detach().clone()))
        scores, batch = probe.score(output, batch)
        looked = _looked(probe, batch, [(one.name, one.probabilities) for one in seen.calls], grid, scores)
        leaves = [*looked.probabilities, *([] if looked.pool is None else [looked.pool])]
        if not scores.value.requires_grad:
            raise NoGradient("the score does not depend on any attention")
        for k, row in enumerate(scores.value):
            grads = torch.autograd.grad(row.sum(), leaves, retain_graph=k + 1 < len(scores.value), allow_unused=True)
            filled = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(leaves, grads, strict=True)]
            if not all(finite(grad) for grad in filled):
                raise BadSample("a gradient of attention is not finite (NaN or infinite); try float32")
            count = len(looked.names)
            found.append(each(looked, k, tuple(filled[:count]), filled[count] if len(filled) > count else None))
        value = Scores(scores.value.detach(), scores.labels)
    return [replace(looked, scores=value, probabilities=(), pool=None), *found]


def _leaf(_name: str, probabilities: Tensor) -> Tensor:
    """The graph begins at the first attention."""
    return probabilities if probabilities.requires_grad else probabilities.detach().requires_grad_()


def _looked(probe: Probe, batch: Batch, calls: Sequence[tuple[str, Tensor]], grid: Grid, scores: Scores) -> Looked:
    tokens = grid.tokens
    square = [
        (name, p) for name, p in calls if p.ndim == 4 and len(p) == batch.n and p.shape[2] == p.shape[3] == tokens
    ]
    if not square:
        seen = ", ".join(sorted({str(tuple(p.shape)) for _, p in calls})[:3])
        why = (
            f"its attention is of shape {seen}: in windows, or between other things"
            if seen
            else "no attention ran in it"
        )
        raise BadInput(
            f"{called(probe)} has no attention between the {tokens} tokens of the picture ({why}); use a CAM"
        )
    pools = [p for _, p in calls if p.ndim == 4 and len(p) == batch.n and p.shape[2] == 1 and p.shape[3] == tokens]
    names = tuple(name for name, _ in square)
    windows = any(len(p) != batch.n for _, p in calls)
    pool = pools[-1] if pools else None
    return Looked(names, tuple(p for _, p in square), pool, grid.layout, scores, batch, windows)


def _throughout(looked: Looked, probe: Probe) -> None:
    """Errors: BadInput where attention in windows breaks the way from block to block."""
    if looked.windows:
        raise BadInput(
            f"{called(probe)} attends in windows, through which attention cannot be followed from block to block; use "
            "gradient_x_attention, or a CAM"
        )


def called(probe: Probe) -> str:
    return probe.subject.spec or type(probe.subject.module).__name__


class Grid(NamedTuple):
    """The layout of the tokens between which a network attends, how many they are, and which modules attend."""

    layout: Layout
    tokens: int
    names: tuple[str, ...]


_GRIDS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Grid]] = WeakKeyDictionary()


def token_grid_of(probe: Probe, batch: Batch) -> Grid:
    """Where the tokens around the last attention lie; found in a forward of its own, once for a network, what was said of its layers,
    and a size of input. Errors: BadInput where they lie on no grid."""
    subject = probe.subject
    parts = tuple(id(part) for part in subject.module.modules())
    key = (hash(parts), batch.size, batch.layout.pattern, subject.extra_tokens, subject.layout)
    known = _GRIDS.setdefault(subject.module, {})
    if key not in known:
        known[key] = _found_grid(probe, batch)
    return known[key]


def _found_grid(probe: Probe, batch: Batch) -> Grid:
    plain = replace(probe, changes=())
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, probabilities: Tensor) -> Tensor:
        shapes.append((name, tuple(probabilities.shape)))
        return probabilities

    with (
        plain.asked() as own,
        torch.no_grad(),
        tracing(own.module) as trace,
        opened(own.module, note, lambda _: False),
    ):
        own.output(batch.at(batch.x.detach().clone()))
    wide = [(name, shape) for name, shape in shapes if len(shape) == 4 and shape[2] > 1]
    if not wide:
        raise BadInput(f"{called(probe)}: no attention ran in it; use a CAM, or another method")
    name, tokens = wide[-1][0], wide[-1][1][-1]
    names = tuple(name for name, shape in wide if shape[2] == shape[3] == tokens)
    layout = token_grid(probe.subject, batch, trace, name, tokens)
    if isinstance(layout, str):
        raise BadInput(f"{called(probe)}: {layout}; use a CAM")
    return Grid(layout, tokens, names)


def _start(looked: Looked, grads: Sequence[Tensor], pool: Tensor | None) -> Tensor:
    """(n, T): how much each token's row of the last block counts for the score: the length of its gradient, over their sum;
    behind an attention-pooling head, what the head looked at. A class token is found, and a mean over tokens too."""
    if looked.pool is not None and pool is not None:
        rows = (looked.pool * pool).clamp_min(0).mean(1)[:, 0].detach()
        if rows.any():
            return rows / rows.sum(-1, keepdim=True).clamp_min(SMALL)
        return looked.pool.detach().mean(1)[:, 0]
    rows = grads[-1].flatten(3).norm(dim=(1, 3))
    if not rows.any():
        raise NoGradient("the score does not depend on the last attention")
    return rows / rows.sum(-1, keepdim=True).clamp_min(SMALL)


def _maps(name: str, made: list[Any]) -> Maps:
    looked, *rows = made
    return Maps(
        {name: looked.drawn(torch.stack([row.float() if row.dtype.itemsize < 4 else row for row in rows]))},
        looked.scores,
    )


def _fused(probabilities: Tensor, heads: str) -> Tensor:
    if heads == "mean":
        return probabilities.mean(1)
    if heads in ("max", "min"):
        return probabilities.amax(1) if heads == "max" else probabilities.amin(1)
    raise BadInput(f"heads {heads!r}: expected mean, max or min")


@method
def rollout(probe: Probe, batch: Batch, *, heads: str = "mean", discard: float = 0.0) -> Maps:
    """Attention rollout:  r <- (r + r A_l) / 2  from the last block down, A_l the attention of block l over its heads

    -> the last attention's name -> (k, n, t, h, w), >= 0, the same for every question: attention, not evidence.
    r begins at the rows that the score looks at (the class token, or all tokens of a mean). heads: mean, max or min over
    the heads. discard: the smallest entries of each row, such a share of them, count as 0 and the row is brought to 1 again.
    Source: Abnar and Zuidema 2020, Quantifying attention flow in transformers, ACL, arXiv:2005.00928.
    Differs: a row vector is carried instead of matrices, which is the same and needs T numbers in place of T * T.
    """
    if not 0 <= discard < 1:
        raise BadInput(f"discard is {discard}; expected a share from 0 to less than 1")

    def each(looked: Looked, _k: int, grads: tuple[Tensor, ...], pool: Tensor | None) -> Tensor:
        _throughout(looked, probe)
        row = _start(looked, grads, pool)
        for probabilities in reversed(looked.probabilities):
            a = _fused(probabilities.detach(), heads)
            if discard:
                least = a.argsort(-1)[..., : int(discard * a.shape[-1])]
                a = a.scatter(-1, least, 0.0)
            a = a / a.sum(-1, keepdim=True).clamp_min(SMALL)
            row = (row + torch.einsum("nq,nqk->nk", row, a)) / 2
        return row

    return _named(probe, batch, each)


@method
def attention(probe: Probe, batch: Batch, *, block: int = -1, head: int = -1) -> Maps:
    """Attention of one block:  the row that the score looks at, over the tokens of the picture

    -> its name -> (k, n, t, h, w), >= 0, the same for every question. block: from 0, or from the end; head: one, or -1 for
    the mean over all.
    Source: Caron et al. 2021, Emerging properties in self-supervised vision transformers, ICCV, arXiv:2104.14294 (figure 1).
    """

    def each(looked: Looked, _k: int, grads: tuple[Tensor, ...], pool: Tensor | None) -> Tensor:
        a = _chosen(looked.probabilities, block).detach()
        if not -1 <= head < a.shape[1]:
            raise BadInput(f"head {head}: the block has {a.shape[1]}, 0 to {a.shape[1] - 1}; -1 is their mean")
        a = a.mean(1) if head < 0 else a[:, head]
        return torch.einsum("nq,nqk->nk", _start(looked, grads, pool), a)

    return _named(probe, batch, each, block)


@method
def gradient_x_attention(probe: Probe, batch: Batch, *, block: int = -1) -> Maps:
    """Attention times gradient:  M = sum over queries of mean over heads of ReLU(A * dY/dA)  of one block

    -> its name -> (k, n, t, h, w), >= 0. block: from 0, or from the end.
    Source: Barkan et al. 2021, Grad-SAM, CIKM, arXiv:2204.11073 (there over all blocks).
    """

    def each(looked: Looked, _k: int, grads: tuple[Tensor, ...], pool: Tensor | None) -> Tensor:
        a, g = _chosen(looked.probabilities, block).detach(), _chosen(grads, block)
        return (a * g).clamp_min(0).mean(1).sum(1)

    return _named(probe, batch, each, block)


@method
def chefer(probe: Probe, batch: Batch, *, blocks: int = 0) -> Maps:
    """Chefer's relevance:  R <- R + E_l R,  E_l = mean over heads of ReLU(A_l * dY/dA_l);  the score's row of R - I

    -> the last attention's name -> (k, n, t, h, w), >= 0. blocks: only so many of the last; 0: all.
    Source: Chefer et al. 2021, Generic attention-model explainability, ICCV, arXiv:2103.15679 (self-attention).
    Differs: the row is found by the score's gradient, not assumed to be the class token's; a row vector is carried.
    """

    def each(looked: Looked, _k: int, grads: tuple[Tensor, ...], pool: Tensor | None) -> Tensor:
        _throughout(looked, probe)
        start = row = _start(looked, grads, pool)
        pairs = list(zip(looked.probabilities, grads, strict=True))
        for a, g in reversed(pairs[-blocks:] if blocks else pairs):
            row = row + torch.einsum("nq,nqk->nk", row, (a.detach() * g).clamp_min(0).mean(1))
        return row - start if looked.pool is None else row

    if blocks < 0:
        raise BadInput(f"blocks is {blocks}; expected 0 (all) or more")
    return _named(probe, batch, each)


def _chosen(tensors: Sequence[Tensor], block: int) -> Tensor:
    if not -len(tensors) <= block < len(tensors):
        raise BadInput(
            f"block {block}: there are {len(tensors)}, 0 to {len(tensors) - 1}, or -1 to {-len(tensors)} from the end"
        )
    return tensors[block]


def _named(probe: Probe, batch: Batch, each: Callable[..., Tensor], block: int = -1) -> Maps:
    made = look(probe, batch, each)
    return _maps(made[0].names[block], made)


@method
def legrad(probe: Probe, batch: Batch, *, blocks: int = 2) -> Maps:
    """LeGrad:  M = sum over blocks of mean over heads and queries of ReLU(ds_l / dA_l)

    s_l: the score that the network's head gives to the tokens as they leave block l, as if it were the last.
    -> the last attention's name -> (k, n, t, h, w), >= 0. blocks: so many of the last; 0: all.
    Source: Bousselham et al. 2024, LeGrad, arXiv:2404.03214.
    Differs: the head pools as the network does (class token or mean); the authors' code takes the mean of all tokens.
    """
    if blocks < 0:
        raise BadInput(f"blocks is {blocks}; expected 0 (all) or more")
    grid = token_grid_of(probe, batch)
    names = attending_blocks(probe, grid.names)
    kept: dict[str, Any] = {}
    with probe.asked() as own, torch.enable_grad():
        with ExitStack() as stack:
            seen = stack.enter_context(opened(own.module, _leaf))
            for name in names:
                stack.callback(own.module.get_submodule(name).register_forward_hook(keep_output(kept, name)).remove)
            output = own.output(batch.at(batch.x.detach().clone()))
        scores, batch = probe.score(output, batch)
        looked = _looked(probe, batch, [(one.name, one.probabilities) for one in seen.calls], grid, scores)
        total: list[Any] = [torch.zeros(batch.n, grid.tokens, device=scores.value.device)] * len(scores.value)
        pairs = list(zip(names, looked.probabilities, strict=True))
        for name, probabilities in pairs[-blocks:] if blocks else pairs:
            with handing_on(own.module, names, kept, name):
                value = probe.score(own.output(batch.at(batch.x.detach().clone())), batch)[0].value
            if not value.requires_grad:
                raise NoGradient(f"the score does not depend on what leaves {name}")
            for k, row in enumerate(value):
                (grad,) = torch.autograd.grad(row.sum(), probabilities, retain_graph=True, allow_unused=True)
                if grad is not None:
                    total[k] = total[k] + grad.clamp_min(0).mean((1, 2))
        answer = Scores(scores.value.detach(), scores.labels)
        looked = replace(looked, scores=answer, probabilities=(), pool=None)
    return _maps(looked.names[-1], [looked, *total])


def keep_output(kept: dict[str, Any], name: str) -> Callable[..., None]:
    def keep(_part: nn.Module, _inputs: Any, output: Any) -> None:
        kept[name] = output

    return keep


def attending_blocks(probe: Probe, names: Sequence[str]) -> list[str]:
    """The block around each attention: one step below what all their names share.

    Errors: BadInput where there is not one attention a block.
    """
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    found = [".".join(part[: shared + 1]) for part in parts]
    if len(found) < 2 or len(set(found)) < len(found):
        raise BadInput(
            f"{called(probe)}: its attentions {', '.join(names[:3])} do not lie in blocks of their own; use chefer"
        )
    return found


@contextmanager
def handing_on(net: nn.Module, blocks: Sequence[str], kept: Mapping[str, Any], name: str) -> Iterator[None]:
    """Inside, the blocks of a shadow hand on what they are given, but the last one what left the block of that name."""
    with ExitStack() as stack:
        for block in blocks:
            part = net.get_submodule(block)
            before = vars(part).get("forward", stack)
            if before is stack:
                stack.callback(vars(part).pop, "forward")
            else:
                stack.callback(setattr, part, "forward", before)
            part.forward = _handing(kept[name if block == blocks[-1] else block], block == blocks[-1])
        yield


def _handing(output: Any, whole: bool) -> Callable[..., Any]:
    def forward(x: Any, *_: Any, **__: Any) -> Any:
        if whole:
            return output
        return (x, *output[1:]) if isinstance(output, tuple) else x

    return forward
