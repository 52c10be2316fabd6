"""Class activation maps from activations and gradients. A rule is a formula; a decorator makes it a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from torchloupe.axes import C, T, dims
from torchloupe.errors import BadInput, nearest
from torchloupe.methods.principal import principal
from torchloupe.methods.registry import Method, method, options_of
from torchloupe.names import split_call
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Capture, Probe, joined

SMALL = 1e-6
TYPES: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def lift(formula: Callable[..., Tensor], *, signed: Callable[[Mapping[str, Any]], bool]) -> Method:
    """formula(act[, grad], **options) -> map, made a method: one probing, the formula at each of its layers."""
    asked = signature(formula).parameters

    @wraps(formula)
    def run(probe: Probe, batch: Batch, **options: Any) -> Maps:
        return _together(probe, batch, {formula.__name__: (run, options)})[formula.__name__]

    given = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("probe", "batch")]
    kept = [option for option in asked.values() if option.kind is Parameter.KEYWORD_ONLY]
    run.__signature__ = signature(formula).replace(parameters=[*given, *kept], return_annotation=Maps)  # type: ignore[attr-defined]
    run.formula, run.signed, run.needs_grad = formula, signed, "grad" in asked  # type: ignore[attr-defined]
    return method(run)


def _together(probe: Probe, batch: Batch, asked: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> dict[str, Maps]:
    """Several rules on one question: name -> (rule, options) -> maps. Each gradient becomes maps as it comes, and is let go."""
    plain = {name: rule for name, rule in asked.items() if not rule[0].needs_grad}
    graded = {name: rule for name, rule in asked.items() if rule[0].needs_grad}
    still: dict[str, dict[str, Tensor]] = {}

    def look(layer: str, act: Tensor) -> None:
        still[layer] = {name: rule.formula(act, **options) for name, (rule, options) in plain.items()}

    def take(layer: str, act: Tensor, grad: Tensor) -> dict[str, Tensor]:
        if layer not in still:
            look(layer, act)
        return {name: rule.formula(act, grad, **options) for name, (rule, options) in graded.items()}

    if graded:
        seen = probe(batch, take=take)
    else:
        seen = probe(batch, grad=False)
        for layer in probe.layers:
            look(layer, seen.act[layer])
    k = len(seen.scores.value)

    def maps(name: str, layer: str) -> Tensor:
        found = still[layer][name] if name in plain else joined([one[name] for one in seen.taken[layer]])
        return found.expand(k, *found.shape[1:])

    return {
        name: Maps({layer: maps(name, layer) for layer in probe.layers}, seen.scores, signed=rule.signed(options))
        for name, (rule, options) in asked.items()
    }


def rule(formula: Callable[..., Tensor]) -> Method:
    """A rule act (n, c, t, h, w)[, grad (k, n, c, t, h, w)] -> map (k, n, t, h, w), made a method."""
    return lift(formula, signed=lambda _: False)


def weights(formula: Callable[..., Tensor]) -> Method:
    """A rule that gives weights w, broadcastable to (k, n, c, t, h, w), made a method:  M = ReLU( sum_c w_c * A_c ).

    Adds two options. relu=False keeps negative evidence. eigen_smooth=True takes the leading principal component of
    w * A over channels in place of the sum.
    """
    asked = signature(formula).parameters

    @wraps(formula)
    def combined(act: Tensor, grad: Tensor, *, relu: bool = True, eigen_smooth: bool = False, **options: Any) -> Tensor:
        return combine(formula(act, grad, **options), act, relu=relu, eigen_smooth=eigen_smooth)

    added = [
        Parameter("relu", Parameter.KEYWORD_ONLY, default=True, annotation=bool),
        Parameter("eigen_smooth", Parameter.KEYWORD_ONLY, default=False, annotation=bool),
    ]
    combined.__signature__ = signature(formula).replace(parameters=[*asked.values(), *added])  # type: ignore[attr-defined]
    return lift(combined, signed=lambda options: not options.get("relu", True))


def combine(weight: Tensor, act: Tensor, *, relu: bool = True, eigen_smooth: bool = False) -> Tensor:
    """sum_c w_c * A_c, or its leading principal component; then ReLU.

    weight broadcastable to (k, n, c, t, h, w), act (n, c, t, h, w) -> (k, n, t, h, w).
    """
    if eigen_smooth:
        parts = weight * act
        found = principal(parts, parts.sum(C))
    elif weight.shape[-3:] == (1, 1, 1):
        every = weight[..., 0, 0, 0].expand(-1, *act.shape[:2])
        # frame by frame, since the product copies what does not lie in one piece
        found = torch.stack([torch.einsum("knc,nchw->knhw", every, frame) for frame in act.unbind(T)], T)
    else:
        found = (weight * act).sum(C)
    return found.relu() if relu else found


def divide(above: Tensor, below: Tensor, scale: Tensor) -> Tensor:
    """above / below, and 0 where below vanishes beside the terms it was summed from (scale)."""
    safe = below.abs() > SMALL * scale
    return torch.where(safe, above, 0) / torch.where(safe, below, 1)


@weights
def gradcam(act: Tensor, grad: Tensor, *, pool: str = "thw") -> Tensor:
    """Grad-CAM:  M = ReLU( sum_c mean(dY/dA_c) * A_c )

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0. pool: axes of the mean; "hw" weights each frame
    by itself.
    Source: Selvaraju et al. 2017, Grad-CAM, ICCV, arXiv:1610.02391.
    """
    return grad.mean(dims(pool), keepdim=True)


@weights
def gradcam_pp(act: Tensor, grad: Tensor, *, pool: str = "thw") -> Tensor:
    """Grad-CAM++:  w_c = sum_p relu(g_p) * g_p^2 / (2 g_p^2 + S_c g_p^3) = sum_p relu(g_p) / (2 + g_p S_c),  S_c = sum_p A_p

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0.
    Source: Chattopadhay et al. 2018, Grad-CAM++, WACV, arXiv:1710.11063, eq. 19 for Y = exp(S).
    Differs: cancelled by g^2, so that no epsilon is needed; the factor exp(S), common to all channels, is left out. Where
    activations are negative the denominator can vanish; such a position counts as 0.
    """
    over = dims(pool)
    below = (grad * act.sum(over, keepdim=True)).add_(2)
    below.masked_fill_(below.abs() <= 4 * SMALL, float("inf"))
    return grad.relu().div_(below).sum(over, keepdim=True)


@weights
def xgradcam(act: Tensor, grad: Tensor, *, pool: str = "thw") -> Tensor:
    """XGrad-CAM:  w_c = sum_p(g_p A_p) / sum_p(A_p)

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0.
    Source: Fu et al. 2020, Axiom-based Grad-CAM, BMVC, arXiv:2008.02312.
    Differs: a channel whose activations cancel (|sum A| <= 1e-6 sum |A|) has weight 0, in place of an absolute epsilon.
    """
    over = dims(pool)
    return divide((grad * act).sum(over, keepdim=True), act.sum(over, keepdim=True), act.abs().sum(over, keepdim=True))


@weights
def hirescam(act: Tensor, grad: Tensor) -> Tensor:
    """HiResCAM:  M = ReLU( sum_c dY/dA_c * A_c )

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0.
    Source: Draelos and Carin 2020, Use HiResCAM instead of Grad-CAM, arXiv:2011.08891.
    Differs: the ReLU, for pictures that compare with the other maps; relu=False gives the paper's sum.
    """
    return grad


@weights
def layercam(act: Tensor, grad: Tensor) -> Tensor:
    """LayerCAM:  M = ReLU( sum_c ReLU(dY/dA_c) * A_c )

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0.
    Source: Jiang et al. 2021, LayerCAM, IEEE TIP, doi:10.1109/TIP.2021.3089943.
    """
    return grad.relu()


@rule
def eigencam(act: Tensor, *, center: bool = False) -> Tensor:
    """Eigen-CAM:  M = ReLU( A v1 ),  v1 = leading right singular vector of A (positions x channels)

    act (n, c, t, h, w) -> (1, n, t, h, w), >= 0, the same for every question. center: subtract channel means first.
    Source: Muhammad and Yeasin 2020, Eigen-CAM, IJCNN, arXiv:2008.00299.
    Differs: the arbitrary sign of v1 is chosen so that the map correlates positively with the mean magnitude of the
    activations (behind a ReLU, their mean); then ReLU.
    """
    return principal(act, act.abs().mean(C), center=center).relu()[None]


@rule
def eigengradcam(act: Tensor, grad: Tensor, *, center: bool = False) -> Tensor:
    """Eigen-Grad-CAM:  M = ReLU( G v1 ),  v1 = leading right singular vector of G = dY/dA * A (positions x channels)

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0. center: subtract channel means first.
    Source: Eigen-CAM (arXiv:2008.00299) on gradient x activation, as made popular by pytorch-grad-cam.
    Differs: the arbitrary sign of v1 is chosen so that the map correlates positively with sum_c G.
    """
    parts = grad * act
    return principal(parts, parts.sum(C), center=center).relu()


@method
def cam(probe: Probe, batch: Batch, *, relu: bool = False) -> Maps:
    """CAM:  M = sum_c w_c * A_c,  w = the class's row of the linear layer behind global average pooling

    -> layer -> (k, n, t, h, w), signed.
    Errors: BadInput where the network behind the layer is not global average pooling and one linear layer.
    Source: Zhou et al. 2016, Learning deep features for discriminative localization, CVPR, arXiv:1512.04150.
    """
    seen = probe(batch)
    maps = {}
    for layer in probe.layers:
        row = seen.grad[layer].sum(dims("thw"), keepdim=True)
        _check_pooled_linear(seen, layer, row)
        found = combine(row, seen.act[layer], relu=relu)
        maps[layer] = found
    return Maps(maps, seen.scores, signed=not relu)


def _check_pooled_linear(seen: Capture, layer: str, row: Tensor) -> None:
    why = f"cam needs global average pooling and one linear layer behind {layer!r}"
    grad = seen.grad[layer]
    flat = grad.amax(dims("thw")) - grad.amin(dims("thw"))
    if (flat > 1e-4 * grad.abs().amax(dims("thw"))).any():
        raise BadInput(
            f"{why}; the gradient there varies over the picture. Take gradcam, or the last layer before the pooling"
        )
    bare, call = split_call(layer)
    ends = [i for i, visit in enumerate(seen.trace.visits) if visit.name == bare]
    behind = seen.trace.visits[ends[call or -1] + 1 :] if ends else []
    linear = [visit.module for visit in behind if isinstance(visit.module, nn.Linear)]
    if len(linear) != 1 or linear[0].weight.shape[1] != row.shape[2]:
        raise BadInput(
            f"{why}; found {len(linear)} linear layers. Take gradcam, which is the same map there up to scale"
        )
    known = linear[0].weight.detach().to(row)
    off = torch.cdist(row[..., 0, 0, 0].flatten(0, 1), known).amin(1)
    if (off > 1e-3 * known.norm(dim=1).max()).any():
        raise BadInput(
            f"{why}; something between the pooling and the linear layer, or in the target, changes the score. Take gradcam"
        )


@method
def smooth_gradcam_pp(
    probe: Probe,
    batch: Batch,
    *,
    samples: int = 10,
    noise: float = 0.15,
    seed: int = 0,
    relu: bool = True,
    eigen_smooth: bool = False,
) -> Maps:
    """Smooth Grad-CAM++:  w_c = sum_p a_p relu(D1_p),  a_p = D2_p / (2 D2_p + S_c D3_p),  Dm = mean over noisy inputs of g^m

    samples noisy copies of the input, noise as a share of each sample's value range. -> layer -> (k, n, t, h, w), >= 0.
    Source: Omeiza et al. 2019, Smooth Grad-CAM++, arXiv:1908.01224.
    Differs: the activation is the picture's own; a position whose denominator vanishes counts as 0.
    """
    if samples < 1:
        raise BadInput(f"samples is {samples}; expected 1 or more")
    _, batch = probe.ask(batch)
    clean = probe(batch, grad=False)
    moments: dict[str, list[Tensor | float]] = {layer: [0.0, 0.0, 0.0] for layer in probe.layers}
    for x in noisy(batch, samples, noise, seed):
        grads = probe(batch.at(x)).grad
        for layer in probe.layers:
            moments[layer] = [old + grads[layer] ** (m + 1) / samples for m, old in enumerate(moments[layer])]
    maps = {}
    for layer in probe.layers:
        act = clean.act[layer]
        first, second, third = (torch.as_tensor(part) for part in moments[layer])
        drive = act.sum(dims("thw"), keepdim=True) * third
        share = divide(second, 2 * second + drive, 2 * second + drive.abs())
        weight = (share * first.relu()).sum(dims("thw"), keepdim=True)
        maps[layer] = combine(weight, act, relu=relu, eigen_smooth=eigen_smooth)
    return Maps(maps, clean.scores, signed=not relu)


def noisy(batch: Batch, samples: int, noise: float, seed: int) -> Any:
    """samples copies of the input with Gaussian noise, its standard deviation a share of each sample's value range."""
    generator = torch.Generator().manual_seed(seed)
    axis = batch.layout.axis("n")
    spans = [part.max() - part.min() for part in batch.x.detach().split(1, axis)]
    shape = [1] * batch.x.ndim
    shape[axis] = len(spans)
    scale = noise * torch.stack(spans).view(shape)
    for _ in range(samples):
        yield batch.x + scale * torch.randn(batch.x.shape, generator=generator, dtype=batch.x.dtype).to(batch.x.device)


def cams(probe: Probe, batch: Batch, names: Sequence[str | Method], **options: Any) -> dict[str, Maps]:
    """Several methods on the same question: one probing serves all that are rules, the others run by themselves.

    options go to every method that has them.
    Errors: BadInput for an unknown method, or an option that none of them has.
    """
    from torchloupe.methods.registry import named

    chosen: dict[str, Method] = {}
    for fn in (named(name) if isinstance(name, str) else name for name in names):
        if chosen.setdefault(fn.__name__, fn) is not fn:
            raise BadInput(f"two methods are called {fn.__name__!r}; give one of them another name")
    for option in options:
        if not any(option in options_of(fn) for fn in chosen.values()):
            known = sorted({o for fn in chosen.values() for o in options_of(fn)})
            raise BadInput(
                f"no option {option!r} in {', '.join(chosen)}.{nearest(option, known)} Known: {', '.join(known) or 'none'}."
            )
    for name, fn in chosen.items():
        for option, value in options.items():
            _check_type(name, option, value, options_of(fn).get(option))
    own = {name: {o: value for o, value in options.items() if o in options_of(fn)} for name, fn in chosen.items()}
    rules = {name: (fn, own[name]) for name, fn in chosen.items() if hasattr(fn, "formula")}
    # what is computed forwards stays the same, so rules without gradient go along
    asked = [own_options.pop("libra", False) for _, own_options in rules.values()]
    if any(asked):
        from torchloupe.methods.libra import librated

        found = _together(librated(probe), batch, rules)
    else:
        found = _together(probe, batch, rules) if rules else {}
    return {name: found[name] if name in found else fn(probe, batch, **own[name]) for name, fn in chosen.items()}


def _check_type(name: str, option: str, value: Any, known: Parameter | None) -> None:
    """Errors: BadInput for a value of another type than the option's default."""
    if known is None or type(known.default) not in TYPES:
        return
    kind = type(known.default)
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"{name}: option {option} is {value!r}; expected {kind.__name__}, such as {known.default!r}")


__all__ = [
    "cam",
    "cams",
    "combine",
    "eigencam",
    "eigengradcam",
    "gradcam",
    "gradcam_pp",
    "hirescam",
    "layercam",
    "rule",
    "smooth_gradcam_pp",
    "weights",
    "xgradcam",
]
