"""Every method keeps its contract on every network of the zoo that it has a meaning for."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from zoo import ZOO, Case, Peaks

from torchloupe.errors import BadInput
from torchloupe.methods.cam import cams
from torchloupe.methods.registry import METHODS
from torchloupe.methods.smooth import aug_smooth
from torchloupe.probe import INPUT, Batch, Probe
from torchloupe.targets.classes import Classes, Each, Top, Truth
from torchloupe.testing import check_method, check_restored, check_target, state

RANDOM = {"smooth_gradcam_pp", "smoothgrad", "sscam"}
FEW = {"smooth_gradcam_pp": 2, "smoothgrad": 2, "sscam": 2, "iscam": 2, "rise": 5, "gradient_shap": 2}
CASES = [pytest.param(case, id=case.name) for case in ZOO]


def applies(name: str, case: Case) -> bool:
    if name == "cam":
        return False
    if name in ("guided_backprop", "guided_gradcam"):
        return case.name in ("in-place", "reused", "concatenated", "tuples", "video", "boxes")
    return True


@pytest.mark.parametrize("case", CASES)
def test_layouts_are_found(case: Case) -> None:
    seen = case.probe()(case.batch())
    assert {layer: tuple(act.shape) for layer, act in seen.act.items()} == case.shapes
    assert all(grad.shape[1:] == seen.act[layer].shape for layer, grad in seen.grad.items())


BY_ATTENTION = ("attention", "chefer", "gradient_x_attention", "legrad", "maskclip", "rollout")


@pytest.mark.parametrize("name", BY_ATTENTION)
@pytest.mark.parametrize("case", CASES)
def test_without_attention_these_refuse(case: Case, name: str) -> None:
    with pytest.raises(BadInput, match="no attention|use a CAM"):
        METHODS[name](case.probe(), case.batch())


@pytest.mark.parametrize(
    "name", sorted(set(METHODS) - {*BY_ATTENTION, "clip_surgery"})
)  # those: test_attention_methods.py
@pytest.mark.parametrize("case", CASES)
def test_method(name: str, case: Case) -> None:
    if not applies(name, case):
        with pytest.raises(BadInput):
            METHODS[name](case.probe(), case.batch())
        return
    method = METHODS[name]
    if name in FEW:
        method = partial(method, samples=FEW[name])
    if name in RANDOM:  # noise differs with the sample's place in the batch
        check_restored(method, case.probe(), case.batch())
        found = check_method(method, case.probe(), case.batch().take([0]))
    else:
        found = check_method(method, case.probe(), case.batch())
    sizes = {layer: tuple(maps.shape[2:]) for layer, maps in found.maps.items()}
    if set(found.maps) == {INPUT}:
        assert sizes[INPUT] == case.batch().size
    elif name in ("guided_gradcam", "vitcx"):
        assert set(sizes.values()) == {case.batch().size}
    elif name == "refinecam":
        assert set(sizes) == set(case.shapes)  # each as fine as the finest behind it
    else:
        assert sizes == {layer: shape[2:] for layer, shape in case.shapes.items()}


@pytest.mark.parametrize("smooth", ["gradcam", "layercam", "scorecam", "ablationcam"])
def test_eigen_smooth_keeps_the_contract(smooth: str) -> None:
    case = ZOO[0]
    found = check_method(partial(METHODS[smooth], eigen_smooth=True), case.probe(), case.batch())
    plain = METHODS[smooth](case.probe(), case.batch())
    assert not torch.allclose(found["two"], plain["two"])


def test_aug_smooth_is_the_mean_over_its_six_views_of_one_class() -> None:
    case = ZOO[0]
    probe = Probe(case.subject(), ("two",), Top(1))
    batch = case.batch()
    found = aug_smooth(partial(cams, names=("gradcam",)), probe, batch)["gradcam"]
    classes = tuple(int(labels) for labels in found.scores.labels[0])
    fixed = Probe(probe.subject, ("two",), Each(classes))
    total = torch.zeros_like(found["two"])
    for scale in (0.9, 1.0, 1.1):
        total += cams(fixed, batch.at(batch.x * scale), ["gradcam"])["gradcam"]["two"]
        total += cams(fixed, batch.at(batch.x.flip(-1) * scale), ["gradcam"])["gradcam"]["two"].flip(-1)
    assert torch.allclose(found["two"], total / 6, atol=1e-12)


def test_cams_shares_one_probing_among_rules() -> None:
    case = ZOO[0]
    probe, batch, forwards = case.probe(), case.batch(), []
    handle = probe.subject.module.register_forward_hook(lambda *_: forwards.append(1))
    names = ["gradcam", "gradcam_pp", "xgradcam", "layercam", "eigencam", "eigengradcam"]
    together = cams(probe, batch, names)
    handle.remove()
    assert len(forwards) == 1
    for name in names:
        assert torch.equal(together[name]["two"], METHODS[name](probe, batch)["two"])


def test_a_rule_without_gradient_causes_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    case = ZOO[0]
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a backward ran"))
    METHODS["eigencam"](case.probe(), case.batch())


def test_what_the_target_chooses_is_chosen_once() -> None:
    """A noisy copy may be predicted as another class; the question stays."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9)
    )
    batch = Batch(0.01 * torch.randn(3, 1, 8, 8))
    from torchloupe.probe import Subject

    top, subject = Top(1), Subject(net)
    found = METHODS["smoothgrad"](Probe(subject, (INPUT,), top), batch, samples=6, noise=5.0)
    classes = tuple(int(label) for label in found.scores.labels[0])
    fixed = METHODS["smoothgrad"](Probe(subject, (INPUT,), Each(classes)), batch, samples=6, noise=5.0)
    assert torch.equal(found[INPUT], fixed[INPUT])


@pytest.mark.parametrize("target", [Top(1), Top(3), Classes((0, 4)), Each((1, 2)), Truth()], ids=repr)
def test_class_targets(target: object) -> None:
    batch = Batch(torch.rand(2, 3, 4, 4), truth={"label": torch.tensor([3, 0])})
    output = torch.randn(2, 5, dtype=torch.float64)
    if isinstance(target, Each):
        value = target(output, batch).value
        assert torch.equal(value, torch.stack([output[0, 1], output[1, 2]])[None])
    else:
        check_target(target, output, batch)


def test_other_targets_keep_the_contract() -> None:
    check_target(Peaks(), torch.randn(2, 4, 6, 4, dtype=torch.float64), Batch(torch.rand(2, 3, 12, 8)))


def test_contract_catches_what_it_is_for() -> None:
    case = ZOO[0]

    def leaves_a_hook(probe: Probe, batch: Batch) -> object:
        probe.subject.module.register_forward_hook(lambda *_: None)
        return METHODS["gradcam"](probe, batch)

    def mixes_samples(probe: Probe, batch: Batch) -> object:
        found = METHODS["gradcam"](probe, batch)
        return type(found)(
            {k: m - m.mean(1, keepdim=True) + 1 for k, m in found.maps.items()}, found.scores, signed=True
        )

    def mixes_questions(probe: Probe, batch: Batch) -> object:
        found = METHODS["gradcam"](probe, batch)
        return type(found)({k: m - m.mean(0, keepdim=True) for k, m in found.maps.items()}, found.scores, signed=True)

    def raises_negative(probe: Probe, batch: Batch) -> object:
        found = METHODS["gradcam"](probe, batch)
        return type(found)({k: -m for k, m in found.maps.items()}, found.scores)

    for broken in (leaves_a_hook, mixes_samples, mixes_questions, raises_negative):
        with pytest.raises(AssertionError):
            check_method(broken, case.probe(), case.batch())  # type: ignore[arg-type]


def test_state_notices_changes() -> None:
    net = ZOO[0].subject().module
    before = state(net)
    net.one[0].weight.requires_grad_(False)
    assert state(net) != before
