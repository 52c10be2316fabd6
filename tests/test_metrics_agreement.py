"""Metrics beside those of torchcam, captum and pytorch-grad-cam, where these are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.metrics import fills
from torchloupe.metrics.asking import Asking
from torchloupe.metrics.judge import judge
from torchloupe.metrics.registry import named
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Classes, Top

SIDE = 8


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(2)
    parts = nn.Sequential(nn.Conv2d(channels, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1), nn.Softplus())
    return nn.Sequential(parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def test_deletion_insertion_and_average_drop_of_torchcam() -> None:
    from torchcam.methods import GradCAM
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

    model = network()
    model[3].weight.data.abs_()  # a map without zeros, whose order is beyond doubt
    model[3].bias.data.fill_(0.5)  # scores above 0, by which a drop is divided
    x = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2
    probe = Probe(Subject(model), ("0",), Top(1))
    maps = loupe.gradcam(probe, Batch(x))
    with GradCAM(model, "0") as extractor:
        curves = DeletionInsertionMetric(extractor, steps=8)
        drops = ClassificationMetric(extractor)
        curves.update(x)
        drops.update(x)
        theirs, dropped = curves.summary(), drops.summary()
    found = judge(
        probe,
        Batch(x),
        maps,
        ("deletion", "insertion", "average_drop"),
        value="score",
        steps=8,
        fill="zero",
        chance=False,
    )
    mean = lambda name: found[name].value["0"].mean().item()
    assert mean("deletion") == pytest.approx(theirs["deletion_auc"], abs=1e-5)
    assert mean("insertion") == pytest.approx(theirs["insertion_auc"], abs=1e-5)
    assert mean("average_drop") == pytest.approx(dropped["avg_drop"], abs=1e-5)
    assert mean("increase") == pytest.approx(dropped["conf_increase"], abs=1e-6)


def test_linear_imputation_and_road_of_pytorch_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    generator = torch.Generator().manual_seed(1)
    picture = torch.randn(3, 21, 18, generator=generator)
    for share in (0.2, 0.6, 0.9):
        keep = torch.rand(21, 18, generator=generator) > share
        theirs = NoisyLinearImputer(noise=0)(picture, keep.float())
        ours = fills.linear(picture[None].double(), keep[None, None], tolerance=1e-9)[0]
        assert (ours - theirs).abs().max() < 1e-5, share
    # its masks are wrong where values are tied or the percentile is read as what is kept; with exact counts it agrees
    model, x = network(), torch.randn(1, 3, SIDE, SIDE, generator=generator)
    values = torch.randperm(SIDE * SIDE, generator=generator).float().view(1, 1, 1, SIDE, SIDE)
    probe = Probe(Subject(model), (loupe.INPUT,), Classes((2,)))
    scores, batch = probe.ask(Batch(x))
    monkeypatch.setattr(fills, "NOISE", 0.0)
    found = named("road")(probe, batch, Maps({"input": values}, scores), percentiles=(25, 50))
    gaps = []
    for count in (16, 32):
        sides = []
        for gone in (values[0, 0, 0] >= SIDE * SIDE - count, values[0, 0, 0] < count):
            filled = NoisyLinearImputer(noise=0)(x[0], (~gone).float())
            with torch.no_grad():
                sides.append(model(filled[None])[0, 2].item())
        gaps.append((sides[1] - sides[0]) / 2)
    assert found["road"].value["input"].item() == pytest.approx(np.mean(gaps), abs=1e-4)


def test_infidelity_of_captum() -> None:
    from captum.metrics import infidelity

    model = network(1).double()
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(1, 1, SIDE, SIDE, generator=generator, dtype=torch.float64) + 0.5
    values = torch.randn(1, 1, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    probe = Probe(Subject(model), (loupe.INPUT,), Classes((1,)))
    scores, batch = probe.ask(Batch(x))
    masks: list[Tensor] = []

    class Catching(Asking):
        def answers(self, given: Any, fill: Any) -> Tensor:
            held = list(given)
            masks.extend(mask for _, mask in held)
            return super().answers(iter(held), fill)

    ours = named("infidelity")(
        probe, batch, Maps({"input": values}, scores, signed=True), asking=Catching(probe, batch)
    )
    left = iter(masks)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        keep = torch.stack([next(left) for _ in range(len(inputs))]).double()
        return inputs * (1 - keep), inputs * keep

    theirs = infidelity(
        lambda one: model(one)[:, 1],
        perturb,
        x,
        values[:, 0] / x,
        n_perturb_samples=len(masks),
        max_examples_per_batch=1,
        normalize=True,
    )
    assert ours["infidelity"].value["input"].item() == pytest.approx(theirs.item(), rel=1e-9)
