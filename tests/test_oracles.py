"""Each formula again, transcribed from its paper with plain loops in float64 and no shared code; closed forms; identities."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.errors import BadInput
from torchloupe.methods.cam import divide, noisy
from torchloupe.methods.path import quadrature, straight
from torchloupe.methods.principal import leading, principal
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.replay import Replay
from torchloupe.targets.classes import Classes

D = torch.float64
CLASS = 1


class Net(nn.Module):
    """conv - tanh - conv - relu - pool - linear; the first layer has negative activations, the second has none."""

    def __init__(self, head: int = 5) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(head, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.b(torch.tanh(self.a(x)))).mean((2, 3)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net().to(D)


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(4)
    return Batch(torch.randn(2, 3, 8, 6, dtype=D))


def ask(net: nn.Module, layers: tuple[str, ...] = ("a", "act")) -> Probe:
    return Probe(Subject(net), layers, Classes((CLASS,)))


def by_hand(net: Net, x: Tensor) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(activation, gradient of the class score) at a and act, by autograd with no code of ours."""
    a = net.a(x).detach().requires_grad_()
    act = net.act(net.b(torch.tanh(a)))
    score = net.fc(act.mean((2, 3)))[:, CLASS].sum()
    ga, gact = torch.autograd.grad(score, (a, act))
    return {"a": (a.detach().numpy(), ga.numpy()), "act": (act.detach().numpy(), gact.numpy())}


def positions(array: np.ndarray) -> list[tuple[int, int]]:
    return list(itertools.product(range(array.shape[-2]), range(array.shape[-1])))


def loop_gradcam(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    out = np.zeros(A.shape[1:])
    for c in range(len(A)):
        weight = sum(g[c, i, j] for i, j in positions(A)) / len(positions(A))
        for i, j in positions(A):
            out[i, j] += weight * A[c, i, j]
    return np.maximum(out, 0)


def loop_gradcam_pp(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    out = np.zeros(A.shape[1:])
    for c in range(len(A)):
        total, weight = sum(A[c, i, j] for i, j in positions(A)), 0.0
        for i, j in positions(A):
            below = 2 * g[c, i, j] ** 2 + total * g[c, i, j] ** 3
            alpha = g[c, i, j] ** 2 / below if below != 0 else 0.0
            weight += alpha * max(g[c, i, j], 0)
        for i, j in positions(A):
            out[i, j] += weight * A[c, i, j]
    return np.maximum(out, 0)


def loop_xgradcam(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    out = np.zeros(A.shape[1:])
    for c in range(len(A)):
        above = below = 0.0
        for i, j in positions(A):
            above += g[c, i, j] * A[c, i, j]
            below += A[c, i, j]
        for i, j in positions(A):
            out[i, j] += (above / below if below != 0 else 0.0) * A[c, i, j]
    return np.maximum(out, 0)


def loop_hirescam(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    out = np.zeros(A.shape[1:])
    for i, j in positions(A):
        out[i, j] = max(sum(g[c, i, j] * A[c, i, j] for c in range(len(A))), 0)
    return out


def loop_layercam(A: np.ndarray, g: np.ndarray) -> np.ndarray:
    out = np.zeros(A.shape[1:])
    for i, j in positions(A):
        out[i, j] = max(sum(max(g[c, i, j], 0) * A[c, i, j] for c in range(len(A))), 0)
    return out


def svd_map(M: np.ndarray, guide: np.ndarray, center: bool = False) -> np.ndarray:
    rows = M.reshape(len(M), -1).T
    if center:
        rows = rows - rows.mean(0)
        guide = guide - guide.mean()
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    found = rows @ right[0]
    if (found * guide.ravel()).sum() < 0:
        found = -found
    return np.maximum(found, 0).reshape(M.shape[1:])


LOOPS = {
    "gradcam": loop_gradcam,
    "gradcam_pp": loop_gradcam_pp,
    "xgradcam": loop_xgradcam,
    "hirescam": loop_hirescam,
    "layercam": loop_layercam,
    "eigencam": lambda A, g: svd_map(A, np.abs(A).mean(0)),
    "eigengradcam": lambda A, g: svd_map(A * g, (A * g).sum(0)),
}


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_rule_equals_its_formula(name: str, net: Net, batch: Batch) -> None:
    found = getattr(loupe, name)(ask(net), batch)
    for layer, (acts, grads) in by_hand(net, batch.x).items():
        for i in range(2):
            want = LOOPS[name](acts[i], grads[i])
            assert np.abs(found[layer][0, i, 0].numpy() - want).max() < 1e-9 * max(1, np.abs(want).max()), layer


@pytest.mark.parametrize("name", ["eigencam", "eigengradcam"])
def test_centred_eigen_maps(name: str, net: Net, batch: Batch) -> None:
    found = getattr(loupe, name)(ask(net), batch, center=True)
    for layer, (acts, grads) in by_hand(net, batch.x).items():
        M = acts if name == "eigencam" else acts * grads
        for i in range(2):
            guide = np.abs(M[i]).mean(0) if name == "eigencam" else M[i].sum(0)
            assert np.allclose(found[layer][0, i, 0].numpy(), svd_map(M[i], guide, True), atol=1e-9)


def test_without_relu_negative_evidence_stays(net: Net, batch: Batch) -> None:
    found = loupe.gradcam(ask(net), batch, relu=False)
    assert found.signed
    acts, grads = by_hand(net, batch.x)["a"]
    want = sum(grads[0, c].mean() * acts[0, c] for c in range(4))
    assert np.allclose(found["a"][0, 0, 0].numpy(), want, atol=1e-12)
    assert (want < 0).any()


def test_gradcam_pooled_frame_by_frame() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 3, 1), nn.Flatten(), nn.Linear(3 * 2 * 4 * 4, 3)).to(D)
    probe = Probe(Subject(net), ("0",), Classes((CLASS,)))
    batch = Batch(torch.randn(1, 1, 2, 4, 4, dtype=D), layout=loupe.Layout("n c t h w"))
    seen = probe(batch)
    A, g = seen.act["0"][0].numpy(), seen.grad["0"][0, 0].numpy()
    want = np.stack([loop_gradcam(A[:, t], g[:, t]) for t in range(2)])
    assert np.allclose(loupe.gradcam(probe, batch, pool="hw")["0"][0, 0].numpy(), want, atol=1e-12)


def test_eigen_smooth_is_the_principal_component_of_weighted_activations(net: Net, batch: Batch) -> None:
    found = loupe.gradcam(ask(net), batch, eigen_smooth=True)
    for layer, (acts, grads) in by_hand(net, batch.x).items():
        parts = acts[0] * grads[0].mean((1, 2), keepdims=True)
        assert np.allclose(found[layer][0, 0, 0].numpy(), svd_map(parts, parts.sum(0)), atol=1e-9)


def test_identities_behind_a_pooled_linear_head(net: Net, batch: Batch) -> None:
    """The gradient is constant over space: Grad-CAM = HiResCAM = XGrad-CAM = ReLU(CAM) / HW; Ablation-CAM too, up to Y."""
    probe = ask(net, ("act",))
    cells = 4 * 3
    original = loupe.cam(probe, batch)["act"]
    W = net.fc.weight.detach()[CLASS]
    act = net.act(net.b(torch.tanh(net.a(batch.x)))).detach()
    assert torch.allclose(original[0, :, 0], torch.einsum("c,nchw->nhw", W, act))
    for name in ("gradcam", "hirescam", "xgradcam"):
        assert torch.allclose(getattr(loupe, name)(probe, batch)["act"], original.relu() / cells), name
    score = net(batch.x)[:, CLASS].detach().abs().view(1, 2, 1, 1, 1)
    drops = torch.einsum("c,nchw->nc", W, act) / cells
    want = torch.einsum("nc,nchw->nhw", drops, act).relu()
    assert torch.allclose(loupe.ablationcam(probe, batch)["act"][0, :, 0], want / score[0, :, 0])


@pytest.mark.parametrize("layer", ["a", "b"])
def test_cam_is_refused_elsewhere(net: Net, batch: Batch, layer: str) -> None:
    with pytest.raises(BadInput, match="global average pooling"):
        loupe.cam(ask(net, (layer,)), batch)


def test_cam_is_refused_with_a_hidden_layer_in_the_head(batch: Batch) -> None:
    torch.manual_seed(0)
    net = Net()
    net.fc = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.raises(BadInput, match="2 linear layers"):
        loupe.cam(ask(net.to(D), ("act",)), batch)


def test_ablationcam_equals_full_runs_with_a_zeroed_channel(net: Net, batch: Batch) -> None:
    found = loupe.ablationcam(ask(net, ("a",)), batch)["a"]
    for i in range(2):
        a = net.a(batch.x[i : i + 1]).detach()

        def score(a: Tensor) -> Tensor:
            return net.fc(net.act(net.b(torch.tanh(a))).mean((2, 3)))[0, CLASS].detach()

        full, want = score(a), torch.zeros(a.shape[2:], dtype=D)
        for c in range(4):
            without = a.clone()
            without[:, c] = 0
            want += (full - score(without)) / full.abs() * a[0, c]
        assert torch.allclose(found[0, i, 0], want.relu(), atol=1e-12)


def test_a_negative_score_does_not_turn_the_ablation_map_upside_down(net: Net, batch: Batch) -> None:
    with torch.no_grad():
        net.fc.bias -= 100
    low = loupe.ablationcam(ask(net, ("act",)), batch)["act"]
    with torch.no_grad():
        net.fc.bias += 200
    high = loupe.ablationcam(ask(net, ("act",)), batch)["act"]
    assert torch.corrcoef(torch.stack([low.flatten(), high.flatten()]))[0, 1] > 0.999


def test_scorecam_equals_its_formula(net: Net, batch: Batch) -> None:
    found = loupe.scorecam(ask(net, ("act",)), batch, chunk=2)["act"]
    for i in range(2):
        x = batch.x[i : i + 1]
        A = net.act(net.b(torch.tanh(net.a(x)))).detach()[0]
        gains = [channel_gain(net, x, A[c]) for c in range(5)]
        top = max(gains)
        soft = [math.exp(gain - top) for gain in gains]
        want = sum(s / sum(soft) * A[c] for c, s in enumerate(soft))
        assert torch.allclose(found[0, i, 0], want.relu(), atol=1e-12)


def channel_gain(net: Net, x: Tensor, channel: Tensor, strength: float = 1.0) -> float:
    low, high = channel.min(), channel.max()
    unit = (channel - low) / (high - low) if high > low else torch.zeros_like(channel)
    mask = F.interpolate(unit[None, None], x.shape[-2:], mode="bilinear", align_corners=False)
    return float((net(x * mask * strength) - net(torch.zeros_like(x)))[0, CLASS])


def test_iscam_integrates_over_the_strength_of_the_mask(net: Net, batch: Batch) -> None:
    found = loupe.iscam(ask(net, ("act",)), batch, samples=4)["act"]
    x = batch.x[:1]
    A = net.act(net.b(torch.tanh(net.a(x)))).detach()[0]
    gains = [sum(channel_gain(net, x, A[c], (i + 1) / 4) for i in range(4)) / 4 for c in range(5)]
    weight = torch.tensor(gains, dtype=D).softmax(0)
    assert torch.allclose(found[0, 0, 0], torch.einsum("c,chw->hw", weight, A).relu(), atol=1e-12)


@pytest.mark.parametrize("smooth", ["map", "input"])
def test_sscam_without_noise_is_scorecam(net: Net, batch: Batch, smooth: str) -> None:
    one = loupe.scorecam(ask(net), batch)
    two = loupe.sscam(ask(net), batch, samples=3, sigma=0.0, smooth=smooth)
    assert all(torch.allclose(one[layer], two[layer], atol=1e-12) for layer in ("a", "act"))


def test_sscam_averages_scores_under_noisy_maps(net: Net, batch: Batch) -> None:
    found = loupe.sscam(ask(net, ("act",)), batch, samples=3, sigma=0.5, seed=7)["act"]
    A = net.act(net.b(torch.tanh(net.a(batch.x)))).detach()
    generator = torch.Generator().manual_seed(7)
    noisy_maps = [A + 0.5 * torch.randn(A[:, :, None].shape, generator=generator, dtype=D)[:, :, 0] for _ in range(3)]
    gains = [sum(channel_gain(net, batch.x[:1], M[0, c]) for M in noisy_maps) / 3 for c in range(5)]
    weight = torch.tensor(gains, dtype=D).softmax(0)
    assert torch.allclose(found[0, 0, 0], torch.einsum("c,chw->hw", weight, A[0]).relu(), atol=1e-12)


def test_smooth_gradcam_pp_equals_its_formula(net: Net, batch: Batch) -> None:
    found = loupe.smooth_gradcam_pp(ask(net), batch, samples=3, noise=0.2, seed=5)
    copies = list(noisy(batch, 3, 0.2, 5))
    for layer in ("a", "act"):
        grads = [by_hand(net, x)[layer][1][0] for x in copies]
        A = by_hand(net, batch.x)[layer][0][0]
        want = np.zeros(A.shape[1:])
        for c in range(len(A)):
            total, weight = A[c].sum(), 0.0
            for i, j in positions(A):
                d1, d2, d3 = (sum(g[c, i, j] ** m for g in grads) / 3 for m in (1, 2, 3))
                below = 2 * d2 + total * d3
                weight += (d2 / below if below != 0 else 0.0) * max(d1, 0)
            want += weight * A[c]
        assert np.allclose(found[layer][0, 0, 0].numpy(), np.maximum(want, 0), atol=1e-9)


def test_integrated_gradients_of_a_linear_model_is_weight_times_input() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3)).to(D)
    batch = Batch(torch.randn(2, 3, 4, 4, dtype=D))
    probe = Probe(Subject(net), (INPUT,), Classes((CLASS,)))
    want = (net[1].weight.detach()[CLASS].view(3, 4, 4) * batch.x).sum(1)
    for rule in ("midpoint", "gauss-legendre"):
        found = loupe.integrated_gradients(probe, batch, steps=1, quadrature=rule)
        assert torch.allclose(found[INPUT][0, :, 0], want)
        assert found.notes["completeness_residual"].abs().max() < 1e-12
    assert torch.allclose(loupe.gradient_x_input(probe, batch)[INPUT][0, :, 0], want)


@pytest.mark.parametrize(("rule", "steps"), [("midpoint", 400), ("gauss-legendre", 12)])
def test_integrated_gradients_are_complete(rule: str, steps: int, net: Net, batch: Batch) -> None:
    net.act = nn.Softplus()
    found = loupe.integrated_gradients(ask(net), batch, steps=steps, quadrature=rule)
    gap = net(batch.x)[:, CLASS] - net(torch.zeros_like(batch.x))[:, CLASS]
    assert torch.allclose(found[INPUT].sum((-1, -2, -3))[0], gap.detach(), atol=2e-4)
    assert torch.allclose(
        found.notes["completeness_residual"][0], found[INPUT].sum((-1, -2, -3))[0] - gap.detach(), atol=1e-12
    )


def test_integrated_gradients_along_another_path(net: Net, batch: Batch) -> None:
    start = torch.full_like(batch.x, 0.3)
    found = loupe.integrated_gradients(ask(net), batch, steps=200, path=straight(start))
    gap = net(batch.x)[:, CLASS] - net(start)[:, CLASS]
    assert torch.allclose(found[INPUT].sum((-1, -2, -3))[0], gap.detach(), atol=1e-3)


def test_quadratures_are_exact_where_they_should_be() -> None:
    for rule in ("midpoint", "left", "gauss-legendre"):
        assert abs(sum(quadrature(7, rule)[1]) - 1) < 1e-12
    nodes, weights = quadrature(4, "gauss-legendre")
    assert abs(sum(w * x**7 for x, w in zip(nodes, weights, strict=True)) - 1 / 8) < 1e-12


def test_smoothgrad(net: Net, batch: Batch) -> None:
    x = batch.x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(x)[:, CLASS].sum(), x)
    plain = loupe.smoothgrad(ask(net), batch, samples=3, noise=0.0)[INPUT]
    assert torch.allclose(plain[0, :, 0], grad.sum(1))
    total = torch.zeros_like(grad)
    for x in noisy(batch, 4, 0.3, 11):
        x = x.clone().requires_grad_()
        total += torch.autograd.grad(net(x)[:, CLASS].sum(), x)[0] / 4
    found = loupe.smoothgrad(ask(net), batch, samples=4, noise=0.3, seed=11)[INPUT]
    assert torch.allclose(found[0, :, 0], total.sum(1))


def test_noise_follows_each_samples_range(batch: Batch) -> None:
    x = torch.stack([batch.x[0], 100 * batch.x[1]])
    spread = torch.stack([noise - x for noise in noisy(Batch(x), 200, 0.15, 0)]).std((0, 2, 3, 4))
    span = torch.stack([part.max() - part.min() for part in x])
    assert torch.allclose(spread / span, torch.full((2,), 0.15, dtype=D), rtol=0.03)


def test_guided_backprop_by_hand(net: Net, batch: Batch) -> None:
    """One ReLU between two linear maps: the gradient that comes back through it is cut at 0."""
    pre = net.b(torch.tanh(net.a(batch.x))).detach()
    back = net.fc.weight.detach()[CLASS].view(1, 5, 1, 1) / (pre.shape[2] * pre.shape[3]) * torch.ones_like(pre)
    back = back.clamp_min(0) * (pre > 0)
    x = batch.x.clone().requires_grad_()
    (want,) = torch.autograd.grad(net.b(torch.tanh(net.a(x))), x, back)
    found = loupe.guided_backprop(ask(net), batch)[INPUT][0, :, 0]
    assert torch.allclose(found, want.sum(1))
    again = loupe.guided_backprop(ask(net), batch)[INPUT][0, :, 0]
    assert torch.equal(found, again)


@pytest.mark.parametrize(
    "relu", [F.relu, torch.relu, Tensor.relu, lambda x: F.relu(x, True), lambda x: x.relu_(), nn.ReLU(True), nn.ReLU()]
)
def test_guided_backprop_reaches_every_kind_of_relu(relu: object, net: Net, batch: Batch) -> None:
    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(relu(self.b(torch.tanh(self.a(x)))).mean((2, 3)))

    other = Other().to(D)
    other.load_state_dict(net.state_dict())
    assert torch.equal(
        loupe.guided_backprop(ask(other, ("a",)), batch)[INPUT], loupe.guided_backprop(ask(net), batch)[INPUT]
    )


@pytest.mark.parametrize("act", [nn.GELU(), nn.SiLU(), nn.LeakyReLU(), nn.Tanh()])
def test_guided_backprop_is_refused_without_meaning(act: nn.Module, net: Net, batch: Batch) -> None:
    net.act = act
    with pytest.raises(BadInput, match="defined for ReLU networks"):
        loupe.guided_backprop(ask(net), batch)


@pytest.mark.parametrize(
    ("act", "bound"),
    [
        (nn.ReLU6(), 6.0),
        (nn.ReLU6(inplace=True), 6.0),
        (F.relu6, 6.0),
        (nn.Hardtanh(0, 0.05), 0.05),
        (lambda x: F.hardtanh(x, 0.0, 0.05, inplace=True), 0.05),
        (lambda x: F.hardtanh_(x, 0, 0.05), 0.05),
    ],
)
def test_guided_backprop_of_rectifiers_that_end_at_a_bound(act: Any, bound: float, net: Net, batch: Batch) -> None:
    """Nothing comes back through what is 0 or at the bound; sigmoids and tanhs beside it are gates."""

    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(act(self.b(torch.tanh(self.a(x)))).mean((2, 3)))

    other = Other().to(D)
    other.load_state_dict(net.state_dict())
    pre = net.b(torch.tanh(net.a(batch.x))).detach()
    back = net.fc.weight.detach()[CLASS].view(1, 5, 1, 1) / (pre.shape[2] * pre.shape[3]) * torch.ones_like(pre)
    back = back.clamp_min(0) * ((pre > 0) & (pre < bound))
    x = batch.x.clone().requires_grad_()
    (want,) = torch.autograd.grad(net.b(torch.tanh(net.a(x))), x, back)
    assert torch.allclose(loupe.guided_backprop(ask(other, ("a",)), batch)[INPUT][0, :, 0], want.sum(1))
    assert bound > 1 or ((pre > 0) & (pre >= bound)).any()


def test_guided_gradcam_is_the_product(net: Net, batch: Batch) -> None:
    fine = loupe.guided_backprop(ask(net), batch)[INPUT]
    coarse = loupe.gradcam(ask(net), batch)["act"]
    up = F.interpolate(coarse[0], (8, 6), mode="bilinear", align_corners=False)
    assert torch.allclose(loupe.guided_gradcam(ask(net), batch)["act"][0, :, 0], fine[0, :, 0] * up[:, 0])


def test_occlusion_by_loops(net: Net, batch: Batch) -> None:
    found = loupe.occlusion(ask(net), batch, window=3, stride=2, fill=0.5, chunk=3)[INPUT]
    full = net(batch.x)[:, CLASS].detach()
    total, count = torch.zeros(2, 8, 6, dtype=D), torch.zeros(8, 6, dtype=D)
    for i, j in itertools.product((0, 2, 4, 5), (0, 2, 3)):
        x = batch.x.clone()
        x[:, :, i : i + 3, j : j + 3] = 0.5
        total[:, i : i + 3, j : j + 3] += (full - net(x)[:, CLASS].detach()).view(2, 1, 1)
        count[i : i + 3, j : j + 3] += 1
    assert torch.allclose(found[0, :, 0], total / count)


def test_the_leading_vector_is_found_where_it_is_hard() -> None:
    """Second eigenvalue at 0.98 of the first; a start on the null space; a degenerate pair; zero."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=D))
    values = torch.linspace(0.9, 0.0, 300, dtype=D)
    values[:2] = torch.tensor([1.0, 0.98])
    gram = basis @ values.diag() @ basis.T
    found = leading(gram.float()[None])[0].double()
    assert 1 - (found @ basis[:, 0]).abs() < 1e-6
    values[1] = 1.0
    twin = leading((basis @ values.diag() @ basis.T)[None])[0]
    assert abs((twin @ basis[:, :2]).norm() - 1) < 1e-6
    assert torch.isfinite(leading(torch.zeros(2, 100, 100))).all()


@pytest.mark.parametrize(("c", "h"), [(100, 20), (20, 12), (400, 5), (5, 5)])
def test_principal_does_not_depend_on_the_order_or_sign_of_channels(c: int, h: int) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(c, 1, h, h, generator=generator, dtype=D)
    guide = values.mean(0)
    found = principal(values, guide)
    shuffled = values[torch.randperm(c, generator=generator)]
    assert torch.allclose(found, principal(shuffled, guide), atol=1e-7)
    assert torch.allclose(found, torch.tensor(svd_map(values[:, 0].numpy(), guide[0].numpy()))[None], atol=1e-6)


def test_division_by_nothing() -> None:
    above = torch.tensor([1.0, 1.0, 1.0])
    below = torch.tensor([2.0, 0.0, 1e-9])
    assert torch.equal(divide(above, below, torch.tensor([2.0, 0.0, 1.0])), torch.tensor([0.5, 0.0, 0.0]))


def test_a_saturated_score_gives_the_same_map_scaled(net: Net, batch: Batch) -> None:
    """Where the softmax is 1 - 1e-12 an absolute epsilon would leave nothing of the map."""

    def saturated(output: Tensor, asked: Batch) -> loupe.Scores:
        return loupe.Scores(1e-12 * output[:, CLASS][None], (("x",) * asked.n,))

    small = Probe(Subject(net), ("a", "act"), saturated)
    for name in ("gradcam", "xgradcam", "layercam", "hirescam", "eigengradcam"):
        one, two = getattr(loupe, name)(ask(net), batch), getattr(loupe, name)(small, batch)
        for layer in ("a", "act"):
            assert torch.allclose(one[layer], two[layer] * 1e12, rtol=1e-5, atol=1e-9), name


def test_empty_maps_are_told(net: Net, batch: Batch) -> None:
    with torch.no_grad():
        net.fc.weight[CLASS] = -net.fc.weight[CLASS].abs()
    found = loupe.gradcam(ask(net, ("act",)), batch)
    assert found.empty == (("act", 0, 0), ("act", 0, 1))


def test_replay_runs_only_the_tail(net: Net, batch: Batch) -> None:
    replay = Replay(ask(net, ("b",)), batch, "b")
    assert not replay.whole
    seen = []
    original = nn.Conv2d.forward
    try:
        nn.Conv2d.forward = lambda self, x: (seen.append(self), original(self, x))[1]  # type: ignore[method-assign]
        replay(1, replay.acts(1), 1)
    finally:
        nn.Conv2d.forward = original  # type: ignore[method-assign]
    assert not seen


def test_replay_falls_back_to_whole_runs_where_the_tail_does_not_stand_alone(batch: Batch) -> None:
    """The tail reads what an earlier layer left in an attribute: for one sample only, where the record answers for it."""

    class Keeps(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = super().forward(x)
            return self.kept

    class Reads(Net):
        def __init__(self) -> None:
            super().__init__(9)
            self.a = Keeps(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.b(torch.tanh(self.a(x)))).mean((2, 3))
            return self.fc(torch.cat([y, self.a.kept.mean((2, 3))], 1))

    torch.manual_seed(0)
    net = Reads().to(D)
    probe, one = ask(net, ("b",)), batch.take([0])
    assert Replay(probe, one, "b").whole
    y = net.b(torch.tanh(net.a(one.x))).detach()
    full = net(one.x)[0, CLASS].detach()
    want = torch.zeros(y.shape[2:], dtype=D)
    for c in range(5):
        without = y.clone()
        without[:, c] = 0
        score = net.fc(torch.cat([net.act(without).mean((2, 3)), net.a.kept.mean((2, 3))], 1))[0, CLASS].detach()
        want += (full - score) / full.abs() * y[0, c]
    assert torch.allclose(loupe.ablationcam(probe, one)["b"][0, 0, 0], want.relu(), atol=1e-12)
