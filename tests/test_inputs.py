"""What people hold as a batch, a layer, a class: integers, arrays, module objects, names, inputs for all samples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo import Plain

import torchloupe as loupe
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.registry import METHODS
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Classes, Each, Several, Top, Truth

NAMES = ("cat", "dog", "bird", "fish", "cow")


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


def probe(*layers: Any, target: Any = None, **subject: Any) -> Probe:
    return Probe(Subject(plain(), **subject), layers or ("two",), target or Classes((1,)))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"cam"}))
def test_integer_pictures_give_the_maps_of_floats(name: str) -> None:
    torch.manual_seed(1)
    whole = torch.randint(0, 256, (2, 3, 12, 8), dtype=torch.uint8)
    few = {"samples": 2} if name in ("smoothgrad", "smooth_gradcam_pp", "sscam", "iscam") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LoupeWarning)
        try:
            want = METHODS[name](probe(), Batch(whole.float()), **few)
        except BadInput:  # has no meaning for this network, in no type of numbers
            with pytest.raises(BadInput):
                METHODS[name](probe(), Batch(whole), **few)
            return
        found = METHODS[name](probe(), Batch(whole), **few)
    for layer, maps in want.maps.items():
        assert torch.equal(found[layer], maps), layer
        assert maps.any()


@pytest.mark.parametrize("kind", ["tensor", "array", "one", "one array", "reversed array", "bytes"])
def test_a_batch_may_be_an_array(kind: str) -> None:
    torch.manual_seed(1)
    x = torch.randint(0, 9, (1, 3, 12, 8)).float()
    given: dict[str, Any] = {
        "tensor": x,
        "array": x.numpy(),
        "one": x[0],
        "one array": x[0].numpy(),
        "reversed array": np.ascontiguousarray(x.numpy()[:, :, ::-1])[:, :, ::-1],
        "bytes": x[0].to(torch.uint8).numpy(),
    }
    want = loupe.gradcam(probe(), Batch(x))["two"]
    assert torch.equal(loupe.gradcam(probe(), given[kind])["two"], want)
    assert torch.equal(loupe.cams(probe(), given[kind], ("gradcam",))["gradcam"]["two"], want)
    assert torch.equal(probe()(given[kind]).act["two"], probe()(Batch(x)).act["two"])
    assert torch.equal(probe().ask(given[kind])[0].value, probe().ask(Batch(x))[0].value)
    assert Batch(given[kind]).ids == ("0",)


def test_what_is_no_batch_is_told() -> None:
    with pytest.raises(BadInput, match="channels last"):
        loupe.gradcam(probe(), np.zeros((12, 8, 3), np.uint8))
    with pytest.raises(BadInput, match=r"shape \(12, 8\) has not the axes of its layout 'n c h w'"):
        loupe.gradcam(probe(), torch.zeros(12, 8))
    with pytest.raises(BadInput, match="real numbers, not a tensor of torch.complex64"):
        Batch(torch.zeros(1, 3, 12, 8, dtype=torch.complex64))
    with pytest.raises(BadInput, match="real numbers, not list"):
        Batch([[1.0]])  # type: ignore[arg-type]


def test_layers_may_be_modules() -> None:
    net = plain()
    found = Probe(Subject(net), (net.two, net.one[0]), Top())
    assert found.layers == ("two", "one.0")
    assert Probe(Subject(net), net.two, Top()).layers == ("two",)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="this Plain is no part of the model"):
        Probe(Subject(net), (plain(),), Top())
    with pytest.raises(BadInput, match="expected dotted names, or modules"):
        Probe(Subject(net), (3,), Top())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wanted",
    [1, np.int64(1), torch.tensor(1), (1,), [1], np.array([1]), torch.tensor([1]), (torch.tensor(1),), range(1, 2)],
)
def test_classes_as_people_have_them(wanted: Any) -> None:
    want = probe().ask(torch.ones(2, 3, 12, 8))[0].value
    assert Classes(wanted).wanted == (1,)
    assert torch.equal(probe(target=Classes(wanted)).ask(torch.ones(2, 3, 12, 8))[0].value, want)


def test_each_takes_what_argmax_gives() -> None:
    x = torch.rand(3, 3, 12, 8)
    classes = plain()(x).argmax(1)
    for given in (classes, classes.numpy(), classes.tolist()):
        top, each = (probe(target=target).ask(x)[0] for target in (Top(), Each(given)))
        assert torch.equal(top.value, each.value)


@pytest.mark.parametrize(
    "wanted", [1.5, torch.tensor([0.5]), torch.zeros(2, 2, dtype=torch.int64), np.array([1.0]), None, True]
)
def test_what_is_no_class_is_told(wanted: Any) -> None:
    with pytest.raises(BadInput, match="class"):
        Classes(wanted)


def test_names_of_classes_come_from_the_model() -> None:
    x, named = torch.rand(2, 3, 12, 8), {"classes": NAMES}
    assert probe(target=Classes("dog"), **named).ask(x)[0].labels == (("dog", "dog"),)
    assert probe(target=Each(("dog", 3)), **named).ask(x)[0].labels == (("dog", "fish"),)
    both = probe(target=Several((Classes(("cow", 1)), Top())), **named).ask(x)[0]
    assert both.labels[:2] == (("cow", "cow"), ("dog", "dog"))
    assert both.labels[2][0] in NAMES
    truth = Batch(x, truth={"label": torch.tensor([2, 0])})
    assert probe(target=Truth(), **named).ask(truth)[0].labels == (("bird", "cat"),)
    assert probe(target=Classes((1,), ("a", "b", "c", "d", "e")), **named).ask(x)[0].labels == (("b", "b"),)
    with pytest.raises(BadInput, match="Did you mean dog"):
        probe(target=Classes("dgo"), **named).ask(x)


class Prompted(nn.Module):
    """Pictures beside prompts, as in CLIP: logits (n, prompts)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.words = nn.Conv2d(3, 6, 3, padding=1), nn.Embedding(9, 6)

    def forward(self, x: Tensor, input_ids: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)).mean((2, 3)) @ self.words(input_ids).mean(1).T


def test_inputs_for_all_samples_are_not_cut_up() -> None:
    torch.manual_seed(0)
    net, x, ids = Prompted(), torch.rand(2, 3, 12, 8), torch.tensor([[1, 2, 3], [4, 5, 6]])
    asked = Probe(Subject(net), ("conv",), Classes(1))
    batch = Batch(x, shared={"input_ids": ids})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = loupe.scorecam(asked, batch)["conv"]
        occluded = loupe.occlusion(asked, batch)["input"]
    for i in range(2):
        alone = Batch(x[i : i + 1], shared={"input_ids": ids})
        assert torch.allclose(found[:, i : i + 1], loupe.scorecam(asked, alone)["conv"], atol=1e-6)
        assert torch.allclose(occluded[:, i : i + 1], loupe.occlusion(asked, alone)["input"], atol=1e-6)


def test_rows_that_could_be_either_are_warned_of() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with pytest.warns(LoupeWarning, match=r"'input_ids' has a row for each of 2 samples.*Batch\(shared="):
        Batch(torch.rand(2, 3, 12, 8), extra={"input_ids": ids}).take([0])


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
        self.other, self.head = self.first, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(x).mean((2, 3)))


def test_an_aliased_module_answers_to_both_names() -> None:
    torch.manual_seed(0)
    net, batch = Twice(), Batch(torch.rand(2, 3, 12, 8))
    found = loupe.gradcam(Probe(Subject(net), ("first.0", "other.0"), Classes(1)), batch)
    alone = loupe.gradcam(Probe(Subject(net), ("other.0",), Classes(1)), batch)
    assert found["first.0"].any()
    assert torch.equal(found["first.0"], found["other.0"])
    assert torch.equal(alone["other.0"], found["other.0"])
    seen = loupe.features(Subject(net), batch, ["first", "other"])
    assert torch.equal(seen["first"], seen["other"])
    ablated = loupe.ablationcam(Probe(Subject(net), ("other",), Classes(1)), batch)
    assert torch.equal(ablated["other"], loupe.ablationcam(Probe(Subject(net), ("first",), Classes(1)), batch)["first"])


def test_integrated_gradients_that_do_not_add_up_say_so() -> None:
    steep = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    torch.manual_seed(0)
    with torch.no_grad():
        steep[1].weight.normal_(0, 20)
    asked, batch = Probe(Subject(steep), (loupe.INPUT,), Classes(0)), Batch(torch.rand(2, 1, 4, 4))
    with pytest.warns(LoupeWarning, match=r"sums to \d+% more or less.*more than 2 steps"):
        loupe.integrated_gradients(asked, batch, steps=2)
    with torch.no_grad():
        steep[1].weight.normal_(0, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loupe.integrated_gradients(asked, batch, steps=16)
