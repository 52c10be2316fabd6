"""Sanity of maps: likeness against scikit-image and SciPy, what is randomised, and what is said of methods whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from zoo import ZOO

from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.cam import cams
from torchloupe.metrics.chance import edges
from torchloupe.metrics.sanity import blocks, histogram_entropy, randomised, sane
from torchloupe.metrics.similar import spearman, ssim
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Classes
from torchloupe.testing import state

D = torch.float64


def network() -> nn.Module:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for before, after in ((3, 6), (6, 8), (8, 8)):
        parts.append(nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).to(D).eval()


@pytest.fixture(scope="module")
def asked() -> tuple[Probe, Batch]:
    x = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=D)
    return Probe(Subject(network()), ("2",), Classes((0, 3))), Batch(x)


def both(probe: Probe, batch: Batch) -> Mapping[str, Maps]:
    """A method of the network, and an edge detector that passes for one."""
    found = dict(cams(probe, batch, ("gradcam", "gradient_x_input")))
    drawn = edges(batch.layout.canonical([batch.x], batch.n))
    return {**found, "sobel": Maps({"input": drawn[None].expand(2, -1, -1, -1, -1)}, found["gradcam"].scores)}


def test_likeness_is_that_of_scikit_image_and_scipy() -> None:
    from scipy import stats
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(2, 3, 2, 12, 9, generator=generator, dtype=D).round(decimals=1) for _ in range(2))
    other = other + one
    for k in range(2):
        for i in range(3):
            a, b = one[k, i].numpy(), other[k, i].numpy()
            unit = lambda m: (m - m.min()) / (m.max() - m.min())
            wanted = np.mean(
                [structural_similarity(unit(a)[t], unit(b)[t], data_range=1, win_size=7) for t in range(2)]
            )
            # scikit-image leaves out a border of half a window, which is where our windows end
            assert ssim(one, other)[k, i].item() == pytest.approx(wanted, abs=1e-10)
            rank = stats.spearmanr(a.flatten(), b.flatten()).statistic
            assert spearman(one, other)[k, i].item() == pytest.approx(rank, abs=1e-12)
    flat = torch.ones(2, 3, 2, 12, 9, dtype=D)
    assert ssim(one, flat).isnan().all()
    assert spearman(one, flat).isnan().all()
    torch.testing.assert_close(ssim(one, one), torch.ones(2, 3, dtype=D))


def test_every_weight_belongs_to_one_block_in_order() -> None:
    for case in ZOO:
        probe, batch = case.probe(), case.batch()
        for most in (1, 3, 50):
            found = blocks(probe, batch, most)
            names = [name for part in found.values() for name in part]
            held = [name for name, _ in probe.subject.module.named_parameters()]
            held += [name for name, value in probe.subject.module.named_buffers() if value.is_floating_point()]
            assert sorted(names) == sorted(held), case.name
            assert len(found) <= max(most, 1)
    tokens = next(case for case in ZOO if case.name == "tokens")
    order = list(blocks(tokens.probe(), tokens.batch(), 50))
    assert order[0] == "(the model's own)"
    assert order.index("patch") < order.index("blocks.0.attn.qkv") < order.index("blocks.1.mlp") < order.index("head")
    attention = nn.Sequential(nn.Flatten(2), nn.MultiheadAttention(12, 2, batch_first=True))
    assert any("in_proj_weight" in name for name, _ in attention.named_parameters())


def test_blocks_are_shuffled_one_by_one_and_only_on_the_copy(asked: tuple[Probe, Batch]) -> None:
    probe, batch = asked
    before, original = state(probe.subject.module), {n: v.clone() for n, v in probe.subject.module.state_dict().items()}
    parts = blocks(probe, batch, 4)
    assert list(parts) == ["0", "1", "2", "5"]
    names = list(reversed(parts))
    for independent in (False, True):
        for place, (block, changed) in enumerate(randomised(probe, parts, names, independent, 0)):
            touched = {block} if independent else set(names[: place + 1])
            for name, value in changed.subject.module.state_dict().items():
                if value.dtype != D:
                    continue
                assert torch.equal(value.flatten().sort().values, original[name].flatten().sort().values)
                if name.split(".")[0] not in touched:
                    assert torch.equal(value, original[name]), (block, name)
                elif value.unique().numel() > 4:
                    assert not torch.equal(value, original[name]), (block, name)
    assert state(probe.subject.module) == before
    assert all(torch.equal(value, original[name]) for name, value in probe.subject.module.state_dict().items())


@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
def test_an_edge_detector_is_found_out(asked: tuple[Probe, Batch], order: Any) -> None:
    probe, batch = asked
    found = sane(both, probe, batch, order=order, most=4)
    assert found.blocks == (("5", "2", "1", "0") if order == "top_down" else ("0", "1", "2", "5"))
    assert found["ssim"].value["sobel/input"].tolist() == [[pytest.approx(1)] * 3] * 2
    assert found["spearman_all"].value["sobel/input"].tolist() == [[pytest.approx(1)] * 3] * 2
    assert found["complexity_rise"].value["sobel/input"].tolist() == [[0.0] * 3] * 2
    assert found["label_ssim"].value["sobel/input"].min() == pytest.approx(1)
    assert found["ssim_all"].value["gradient_x_input/input"].mean() < 0.5
    line = next(line for line in found.said if line.startswith("sobel"))
    assert line.startswith("sobel does not depend on the weights at all (SSIM 1.00")
    assert line.endswith("it shows edges, not reasons")
    assert not any("at all" in line for line in found.said if not line.startswith("sobel"))
    assert found.curves["ssim"].at.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert torch.allclose(found.curves["ssim"].value["gradcam/2"][..., 0], torch.ones(2, 3, dtype=D))
    rows = {(row.number, row.map): row for row in found.rows()}
    assert rows["agreement", "sobel/input"].samples == 3


def test_the_mean_leaves_the_original_out_and_the_level_is_of_other_pictures(asked: tuple[Probe, Batch]) -> None:
    probe, batch = asked
    ask = lambda p, b: cams(p, b, ("gradient_x_input",))
    found = sane(ask, probe, batch, stability=False, independent=True, most=4)
    original = ask(probe, batch)["gradient_x_input"].maps["input"]
    rows = []
    parts = blocks(probe, batch, 4)
    for _, changed in randomised(probe, parts, list(reversed(parts)), True, 0):
        rows.append(ssim(original, ask(changed, batch)["gradient_x_input"].maps["input"]))
    name = "gradient_x_input/input"
    torch.testing.assert_close(found["ssim"].value[name], torch.stack(rows).mean(0))
    torch.testing.assert_close(found["ssim_all"].value[name], rows[-1])
    level = (ssim(original[:, :1], original[:, 1:2]) + ssim(original[:, :1], original[:, 2:])) / 2
    torch.testing.assert_close(found["ssim"].chance[:, :1], level)
    assert found.curves["ssim"].at.tolist() == [0, 1, 2, 3, 4]


def test_stability_of_maps_that_follow_the_picture(asked: tuple[Probe, Batch]) -> None:
    probe, batch = asked

    def bright(probe: Probe, batch: Batch) -> Mapping[str, Maps]:
        scores, _ = probe.ask(batch)
        value = batch.x.sum(1)[None, :, None].expand(2, -1, -1, -1, -1)
        return {
            "bright": Maps({"input": value}, scores),
            "still": Maps({"input": torch.arange(576.0).view(1, 1, 1, 24, 24).expand(2, 3, 1, 24, 24)}, scores),
        }

    found = sane(bright, probe, batch, most=1)
    assert found["mirror"].value["bright/input"].min() == pytest.approx(1)
    assert found["shift"].value["bright/input"].min() == pytest.approx(1)
    assert 0.9 < found["noise"].value["bright/input"].min() < 1
    assert 0 < found["sensitivity_max"].value["bright/input"].max() < 1
    assert found["sensitivity_max"].value["still/input"].max() == 0
    assert found["mirror"].value["still/input"].max() < 1


def test_smooth_variant_is_the_mean_over_noise(asked: tuple[Probe, Batch]) -> None:
    probe, batch = asked
    calls = []

    def ask(probe: Probe, batch: Batch) -> Mapping[str, Maps]:
        calls.append(batch.x)
        return cams(probe, batch, ("gradient_x_input",))

    sane(ask, probe, batch, smooth=3, most=1, stability=False)
    assert len(calls) == 6
    assert torch.equal(calls[0], calls[3])
    assert torch.equal(calls[1], calls[4])
    span = (batch.x.amax((1, 2, 3)) - batch.x.amin((1, 2, 3))).view(-1, 1, 1, 1)
    assert ((calls[1] - batch.x) / span).std().item() == pytest.approx(0.1, rel=0.1)


def test_histogram_entropy() -> None:
    maps = torch.cat([torch.arange(200.0), torch.full((200,), 199.0)]).view(2, 1, 1, 20, 10)
    assert histogram_entropy(maps)[:, 0].tolist() == [pytest.approx(math.log(100)), 0]


def test_what_sanity_refuses(asked: tuple[Probe, Batch]) -> None:
    probe, batch = asked
    ask = lambda p, b: cams(p, b, ("gradcam",))
    with pytest.raises(BadInput, match="expected top_down or bottom_up"):
        sane(ask, probe, batch, order="sideways")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="most 0"):
        sane(ask, probe, batch, most=0)
    own = network()
    stuck = replace(probe, subject=Subject(own, call=lambda module, batch: own(batch.x)))
    with (
        pytest.warns(LoupeWarning, match="in its closure"),
        pytest.raises(BadInput, match="no copy of its own, so its weights cannot"),
    ):
        sane(lambda p, b: both(probe, b), stuck, batch)
    elsewhere = replace(
        probe, subject=replace(probe.subject, call=lambda module, batch: batch.x.mean((2, 3)).repeat(1, 2))
    )
    with pytest.raises(BadInput, match="does not run the module that it is given: none of its 20 weights is used"):
        sane(lambda p, b: both(probe, b), elsewhere, batch)
    alike = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(D)
    nn.init.ones_(alike[0].weight)
    with pytest.raises(BadInput, match="its weights are all alike"):
        sane(ask, Probe(Subject(alike), ("0",), Classes((0,))), batch)
    bare = Probe(Subject(nn.Flatten()), ("input",), Classes((0,)))
    with pytest.raises(BadInput, match="no weights to randomise"):
        sane(ask, bare, batch)


class TwoTowers(nn.Module):
    """Two networks of which a picture goes through one, a head that no question asks for, and attention by the function alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8))
        self.seen = nn.ModuleDict(
            {"patch": nn.Conv2d(3, 8, 4, 4), "mix": nn.MultiheadAttention(8, 2, batch_first=True)}
        )
        self.place = nn.Parameter(torch.randn(1, 36, 8))
        self.head, self.other = nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.seen["patch"](x).flatten(2).transpose(1, 2) + self.place
        tokens = tokens + self.seen["mix"](tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.mean(1)), self.other(tokens.mean(1))


@pytest.mark.parametrize("order", ["top_down", "bottom_up"])
def test_what_the_answer_does_not_use_is_not_shuffled(order: Any) -> None:
    net = TwoTowers().to(D).eval()
    x = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=D)
    probe, batch = Probe(Subject(net), ("input",), Classes((0, 3))), Batch(x)
    parts = blocks(probe, batch, 12)
    names = [name for part in parts.values() for name in part]
    assert not [name for name in names if name.startswith("words")]
    # read by a function, without a call of its module
    assert {"place", "seen.mix.in_proj_weight", "seen.mix.out_proj.weight"} <= set(names)
    found = sane(lambda p, b: cams(p, b, ("gradient_x_input",)), probe, batch, order=order, stability=False)
    assert "other" in parts
    assert "other" not in found.blocks
    assert set(found.blocks) == set(parts) - {"other"}
    assert "no part of the answer, and not randomised: other" in found.said
    assert not any("at all" in line for line in found.said)


def test_tied_and_flattened_weights_are_shuffled_where_they_are_used() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.two.weight = self.one.weight
            self.walk = nn.GRU(6, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.walk(self.two(self.one(x).relu()).mean(3).transpose(1, 2))[0].mean(1)

    net = Tied().to(D).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = Batch(torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(1), dtype=D))
    probe = Probe(Subject(net), ("one",), Classes((0,)))
    parts = blocks(probe, batch, 12)
    changed = {block: new.ask(batch)[0].value for block, new in randomised(probe, parts, list(parts), True, 0)}
    clean = probe.ask(batch)[0].value
    assert set(changed) == {"one", "two", "walk"}
    assert not any(torch.equal(value, clean) for value in changed.values())
    by_hand = Tied().to(D).eval()
    for block, new in randomised(probe, parts, ["one"], True, 0):
        by_hand.load_state_dict(new.subject.module.state_dict())
        assert torch.equal(by_hand.one.weight, by_hand.two.weight)
        torch.testing.assert_close(by_hand(batch.x)[:, 0], changed[block][0])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(probe.ask(batch)[0].value, clean)
