"""Agreement with captum, torchcam and grad-cam where they are right; where they are not, the difference is pinned down."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Classes

CLASS = 2


class Net(nn.Module):
    """No in-place layers, so that every peer sees what it should."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.head = nn.Linear(12 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.two(self.one(x)), 4).flatten(1))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(5)
    net = Net()
    net(torch.randn(8, 3, 32, 24))
    return net.eval()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(6)
    return torch.randn(2, 3, 32, 24)


def ours(method: str, net: nn.Module, x: Tensor, layers: tuple[str, ...], **options: object) -> loupe.Maps:
    return getattr(loupe, method)(Probe(Subject(net), layers, Classes((CLASS,))), Batch(x), **options)


def scaled(maps: Tensor) -> Tensor:
    flat = maps - maps.amin((-2, -1), keepdim=True)
    return flat / flat.amax((-2, -1), keepdim=True).clamp_min(1e-12)


@pytest.mark.parametrize("layer", ["one", "two"])
@pytest.mark.parametrize(
    ("method", "theirs"), [("gradcam", "GradCAM"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")]
)
def test_torchcam(method: str, theirs: str, layer: str, net: Net, x: Tensor) -> None:
    import torchcam.methods

    with getattr(torchcam.methods, theirs)(net, layer) as extract:
        found = extract(CLASS, net(x), normalized=False)[0]
    assert torch.allclose(ours(method, net, x, (layer,))[layer][0, :, 0], found, rtol=1e-4, atol=1e-7)


def test_torchcams_gradcam_pp_never_applies_its_denominator(net: Net, x: Tensor) -> None:
    """Its weights are sum g^2 relu(g); ours follow the paper. Should this fail, torchcam was mended."""
    import torchcam.methods

    with torchcam.methods.GradCAMpp(net, "two") as extract:
        found = extract(CLASS, net(x), normalized=False)[0]
    seen = Probe(Subject(net), ("two",), Classes((CLASS,)))(Batch(x))
    grad, act = seen.grad["two"][0, :, :, 0], seen.act["two"][:, :, 0]
    wrong = ((grad**2 * grad.relu()).sum((2, 3), keepdim=True) * act).sum(1).relu()
    assert torch.allclose(scaled(found), scaled(wrong), atol=1e-4)
    right = ours("gradcam_pp", net, x, ("two",))["two"][0, :, 0]
    assert not torch.allclose(scaled(found), scaled(right), atol=1e-2)


def test_torchcam_scorecam_weighs_alike(net: Net, x: Tensor) -> None:
    """It scales masks before resizing, as we do."""
    import torchcam.methods

    with torchcam.methods.ScoreCAM(net, "two", batch_size=4) as extract:
        found = extract(CLASS, net(x), normalized=False)[0]
    assert torch.allclose(ours("scorecam", net, x, ("two",))["two"][0, :, 0], found, atol=1e-4)


def test_captum(net: Net, x: Tensor) -> None:
    from captum.attr import IntegratedGradients, LayerGradCam, Occlusion

    for layer in ("one", "two"):
        found = LayerGradCam(net, net.get_submodule(layer)).attribute(x, target=CLASS, relu_attributions=True)[:, 0]
        assert torch.allclose(ours("gradcam", net, x, (layer,))[layer][0, :, 0], found, atol=1e-6)
    for ours_rule, theirs in {"midpoint": "riemann_middle", "gauss-legendre": "gausslegendre"}.items():
        found = IntegratedGradients(net).attribute(x, target=CLASS, n_steps=20, method=theirs).sum(1)
        mine = ours("integrated_gradients", net, x, (INPUT,), steps=20, quadrature=ours_rule)[INPUT][0, :, 0]
        assert torch.allclose(mine, found, atol=1e-5)
    found = Occlusion(net).attribute(x, (3, 4, 4), strides=(3, 4, 4), target=CLASS)[:, 0]
    assert torch.allclose(
        ours("occlusion", net, x, (INPUT,), window=4, stride=4)[INPUT][0, :, 0], found.float(), atol=1e-5
    )


def test_captum_guided_backprop(net: Net, x: Tensor) -> None:
    from captum.attr import GuidedBackprop, GuidedGradCam

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine = GuidedBackprop(net).attribute(x.clone(), target=CLASS).sum(1)
        both = GuidedGradCam(net, net.two).attribute(x.clone(), target=CLASS, interpolate_mode="bilinear").sum(1)
    assert torch.allclose(ours("guided_backprop", net, x, (INPUT,))[INPUT][0, :, 0], fine, atol=1e-6)
    assert torch.allclose(ours("guided_gradcam", net, x, ("two",))["two"][0, :, 0], both, atol=1e-6)


PGC = {
    "gradcam": "GradCAM",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "ablationcam": "AblationCAM",
}


@pytest.mark.parametrize("method", PGC)
def test_grad_cam(method: str, net: Net, x: Tensor) -> None:
    """Its Ablation-CAM agrees where the score is positive and the layer ends in a ReLU."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with torch.no_grad():
        net.head.bias += 10
    with getattr(pytorch_grad_cam, PGC[method])(net, [net.two]) as extract:
        found = extract(x, [ClassifierOutputTarget(CLASS)] * 2)
    mine = ours(method, net, x, ("two",))["two"]
    up = scaled(loupe.resize(scaled(mine), (1, 32, 24))[0, :, 0])
    assert np.abs(up.numpy() - found).max() < 2e-4


@pytest.mark.parametrize(("method", "theirs"), [("eigencam", "EigenCAM"), ("eigengradcam", "EigenGradCAM")])
def test_grad_cam_eigen_maps_up_to_their_sign(method: str, theirs: str, net: Net, x: Tensor) -> None:
    """It centres the channels and leaves the sign to chance."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    assert hasattr(pytorch_grad_cam, theirs)
    seen = Probe(Subject(net), ("two",), Classes((CLASS,)))(Batch(x))
    parts = seen.act["two"] if method == "eigencam" else seen.act["two"] * seen.grad["two"][0]
    raw = get_2d_projection(parts[:, :, 0].numpy())
    mine = ours(method, net, x, ("two",), center=True)["two"][0, :, 0].numpy()
    for i in range(2):
        gap = min(np.abs(np.maximum(sign * raw[i], 0) - mine[i]).max() for sign in (1, -1))
        assert gap < 1e-4 * np.abs(raw[i]).max()
