"""Every option of every method, once at a value that is not its default: what it must change changes, what it must not does not."""

from __future__ import annotations

from typing import Any

import pytest
import test_attention_methods as attention
import torch
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.methods.blur import blur
from torchloupe.methods.cam import cams
from torchloupe.methods.registry import METHODS, options_of, ours
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Classes

D = torch.float64
# one value that is not the default, for every option by its name
OTHER: dict[str, Any] = {
    "pool": "hw", "relu": None, "eigen_smooth": True, "center": True, "samples": 3, "noise": 0.6, "seed": 7, "steps": 3,
    "quadrature": "left", "path": blur(sigma=3), "smooth": "input", "sigma": 0.5, "window": 3, "stride": 1, "frames": 1, "fill": 0.7,
    "heads": "max", "discard": 0.5, "block": 0, "head": 1, "blocks": 1, "libra": True,
    "cells": 2, "keep": 0.8, "threshold": 2.0, "top": 1, "base": "layercam", "baselines": torch.ones(2, 3, 3, 6, 5, dtype=D),
    "conv": "gamma", "dense": "zplus", "gamma": 0.6, "epsilon": 0.5,
}  # fmt: skip
HOW = {"chunk": 3, "progress": None, "fast": True}  # how it is reckoned, not what
TOKENS = ("rollout", "attention", "gradient_x_attention", "chefer", "legrad", "maskclip")
CASES = [(name, option) for name in sorted(set(ours()) - {"clip_surgery"}) for option in options_of(METHODS[name])]


class Moving(nn.Module):
    """Two samples' short films through two layers; what is behind the first weighs time and place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))).mean((2, 3, 4)))


class Pooled(Moving):
    """Nothing between the second layer and the mean, as CAM asks."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(torch.tanh(self.one(x))).mean((2, 3, 4)))


def asked(name: str, option: str) -> tuple[Probe, Batch]:
    """n = 2 samples, k = 2 questions, other numbers of channels than of either."""
    if name in TOKENS or option in ("libra", "path"):  # blurred are pictures, not films
        layers = (
            ("blocks.1",)
            if name not in ("gradient_shap", "gradient_x_input", "integrated_gradients", "smoothgrad")
            else (INPUT,)
        )
        subject = Subject(attention.vit(), lambda layer: Layout() if layer == INPUT else Layout("n (h w) c", skip=1))
        return Probe(subject, layers, Classes((1, 3))), attention.batch()
    torch.manual_seed(0)
    net = (Pooled() if name == "cam" else Moving()).to(D).eval()
    for part in net.parameters():
        nn.init.normal_(part, std=0.4)
    layout = Layout("n c t h w")
    x = torch.randn(2, 3, 3, 6, 5, dtype=D, generator=torch.Generator().manual_seed(1))
    return Probe(Subject(net, lambda _: layout), ("two" if name == "cam" else "one",), Classes((0, 2))), Batch(
        x, layout
    )


def made(name: str, probe: Probe, batch: Batch, options: dict[str, Any]) -> Tensor:
    few = {"samples": 2} if "samples" in options_of(METHODS[name]) else {}
    found = METHODS[name](probe, batch, **{**few, **options})
    return next(iter(found.maps.values()))


@pytest.mark.parametrize(("name", "option"), [case for case in CASES if case[1] not in HOW])
def test_an_option_changes_the_map(name: str, option: str) -> None:
    probe, batch = asked(name, option)
    default = options_of(METHODS[name])[option].default
    other = not default if option in ("relu", "center") else OTHER[option]
    assert other is not default
    assert isinstance(other, Tensor) or other != default
    beside = {"eigen_smooth": False, "relu": False} if option == "relu" and name != "cam" else {}
    if name == "sscam" and option in ("sigma", "samples", "seed"):
        beside = {"relu": False}
    if name == "lrp" and option == "gamma":
        beside = {"conv": "gamma"}
    if option == "stride":
        beside = {"window": 4}  # whose own stride is 2
    plain = made(name, probe, batch, {**beside, option: 2 if option == "samples" else default})
    changed = made(name, probe, batch, {**beside, option: other})
    assert plain.shape == changed.shape
    different = ~torch.isclose(plain, changed, rtol=1e-6, atol=1e-12).flatten(2).all(2)
    assert different.any(0).all(), "no sample without a change"


@pytest.mark.parametrize(("name", "option"), [case for case in CASES if case[1] in HOW])
def test_an_option_of_how_changes_no_map(name: str, option: str) -> None:
    probe, batch = asked(name, option)
    steps: list[tuple[int, int]] = []
    value = (lambda done, total: steps.append((done, total))) if option == "progress" else HOW[option]
    plain, changed = made(name, probe, batch, {}), made(name, probe, batch, {option: value})
    if option == "fast":  # takes the fastest of several ways on this machine, which may round
        both = torch.stack([plain.flatten(), changed.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.99
    else:
        assert torch.allclose(plain, changed, rtol=1e-9, atol=1e-12)
    if option == "progress":
        assert steps, "nothing was told"
        assert steps[-1][0] == steps[-1][1] > 0
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_options_of_several_methods_go_to_those_that_have_them() -> None:
    probe, batch = asked("eigencam", "center")
    found = cams(probe, batch, ("gradcam", "eigencam"), center=True)
    assert torch.equal(found["eigencam"]["one"], METHODS["eigencam"](probe, batch, center=True)["one"])
    assert torch.equal(found["gradcam"]["one"], METHODS["gradcam"](probe, batch)["one"])
    for names, option in ((("gradcam", "layercam"), "center"), (("gradcam", "eigencam"), "centre")):
        with pytest.raises(BadInput, match=f"no option '{option}' in {', '.join(names)}"):
            cams(probe, batch, names, **{option: True})


def test_every_option_has_another_value() -> None:
    assert {option for _, option in CASES} == set(OTHER) | set(HOW)
