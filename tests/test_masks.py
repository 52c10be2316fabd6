"""Methods that ask under masks or of patches alone, and targets of one class less others: plain loops, closed forms, other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from test_attention_methods import batch as tokens
from test_attention_methods import vit
from test_texts import X, folders, opened
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.errors import BadInput
from torchloupe.methods.masks import complete_linkage, random_masks
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.classes import Classes, Several, Top
from torchloupe.targets.contrast import Contrast
from torchloupe.targets.words import target

D = torch.float64
assert folders is not None  # the fixture


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, 2, padding=1), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    made = Net().to(D).eval()
    for part in made.parameters():
        nn.init.normal_(part, std=0.5)
    return made


PICTURES = torch.randn(2, 3, 8, 6, dtype=D, generator=torch.Generator().manual_seed(3))


def test_rise_by_loops() -> None:
    model = net()
    found = loupe.rise(
        Probe(Subject(model), (INPUT,), Classes((0, 2))), Batch(PICTURES), samples=40, cells=3, keep=0.4, chunk=7
    )[INPUT]
    masks = random_masks(40, (8, 6), 3, 0.4, 0).double()
    assert masks.min() == 0
    assert 0.9 < masks.max() <= 1
    assert abs(masks.mean() - 0.4) < 0.06
    with torch.no_grad():
        for n in range(2):
            values = [model((PICTURES[n] * m)[None])[0] for m in masks]
            for row, k in enumerate((0, 2)):
                mean = sum(v[k] for v in values) / 40
                want = sum((v[k] - mean) * m for v, m in zip(values, masks, strict=True)) / (0.4 * 40)
                np.testing.assert_allclose(found[row, n, 0], want, atol=1e-9)


def test_rise_finds_the_only_pixel_that_counts() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 6, 1], x[:, 0, 1, 5]], 1)

    x = torch.ones(1, 1, 8, 8)
    found = loupe.rise(Probe(Subject(Corner()), (INPUT,), Classes((0, 1))), Batch(x), samples=600, cells=8)[INPUT]
    assert [divmod(int(one.argmax()), 8) for one in found[:, 0, 0]] == [(6, 1), (1, 5)]


def test_clusters_as_scipy_has_them() -> None:
    rows = torch.randn(30, 6, dtype=D, generator=torch.Generator().manual_seed(1))
    rows[10:20] = rows[:10] + 0.1 * torch.randn(10, 6, dtype=D, generator=torch.Generator().manual_seed(2))
    for threshold in (0.0, 0.05, 0.3, 0.9, 2.0):
        labels = fcluster(linkage(rows.numpy(), "complete", "cosine"), threshold, "distance")
        want = sorted([sorted(np.flatnonzero(labels == one).tolist()) for one in set(labels)])
        assert sorted(complete_linkage(rows, threshold)) == want


def test_vitcx_by_loops() -> None:
    model = net()
    found = loupe.vitcx(Probe(Subject(model), ("two",), Classes((0, 2))), Batch(PICTURES), threshold=0.25, chunk=2)[
        "two"
    ]
    noise = (torch.randn(1, 3, 8, 6, generator=torch.Generator().manual_seed(0)).to(D) * 0.1)[0]

    def unit(m: Tensor) -> Tensor:
        return (m - m.min()) / (m.max() - m.min())

    with torch.no_grad():
        for n in range(2):
            act = model.two(torch.tanh(model.one(PICTURES[n : n + 1])))[0]
            channels = torch.stack([unit(one) for one in act])
            labels = fcluster(linkage(channels.flatten(1).numpy(), "complete", "cosine"), 0.25, "distance")
            assert 1 < len(set(labels)) < 5
            above = torch.zeros(4, 8, 6, dtype=D)
            below = torch.zeros(8, 6, dtype=D)
            for one in set(labels):
                small = unit(channels[torch.from_numpy(labels == one)].sum(0))
                m = nn.functional.interpolate(small[None, None], (8, 6), mode="bilinear", align_corners=False)[0, 0]
                x = PICTURES[n]
                shown, noised, plain = (model(v[None])[0] for v in (x * m + noise * (1 - m), x + noise * (1 - m), x))
                above += (shown - noised + plain)[:, None, None] * m
                below += m
            for row, k in enumerate((0, 2)):
                np.testing.assert_allclose(found[row, n, 0], above[k] / below, atol=1e-9)


def test_gscorecam_by_loops() -> None:
    model = net()
    seen = Probe(Subject(model), ("two",), Classes((0, 2)))(Batch(PICTURES))
    found = loupe.gscorecam(Probe(Subject(model), ("two",), Classes((0, 2))), Batch(PICTURES), top=2, chunk=2)["two"]
    with torch.no_grad():
        for row, k in enumerate((0, 2)):
            for n in range(2):
                act, grad = seen.act["two"][n, :, 0], seen.grad["two"][row, n, :, 0]
                best = sorted(range(5), key=lambda c: -float(grad[c].mean()))[:2]
                values = []
                for c in best:
                    m = (act[c] - act[c].min()) / (act[c].max() - act[c].min())
                    m = nn.functional.interpolate(m[None, None], (8, 6), mode="bilinear", align_corners=False)[0, 0]
                    values.append(float(model((PICTURES[n] * m)[None])[0, k]))
                weight = np.exp(values) / np.exp(values).sum()
                want = np.maximum(sum(w * act[c].numpy() for w, c in zip(weight, best, strict=True)), 0)
                np.testing.assert_allclose(found[row, n, 0], want, atol=1e-9)


def test_gradient_shap_of_a_linear_model_and_as_captum_has_it() -> None:
    """Of y = w x it is w (x - mean of the baselines drawn); beside captum's with the same draws; complete in the mean."""
    from captum.attr import IntegratedGradients

    model = net()
    probe = Probe(Subject(model), (INPUT,), Classes((0, 2)))
    many = loupe.gradient_shap(probe, Batch(PICTURES), samples=1500)
    exact = IntegratedGradients(model).attribute(PICTURES, target=2, n_steps=64).sum(1)
    scale = exact.abs().max()
    assert (many[INPUT][1, :, 0] - exact).abs().max() < 0.06 * scale
    assert (many.notes["completeness_residual"].abs() < 0.05 * many.scores.value.abs().max()).all()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 2)).to(D)
    base = torch.randn(3, 3, 8, 6, dtype=D, generator=torch.Generator().manual_seed(9))
    found = loupe.gradient_shap(
        Probe(Subject(linear), (INPUT,), Classes(1)), Batch(PICTURES), samples=4, seed=5, baselines=base
    )
    generator, drawn = torch.Generator().manual_seed(5), []
    for _ in range(4):
        torch.rand((), generator=generator)
        drawn.append(int(torch.randint(3, (), generator=generator)))
    assert len(set(drawn)) > 1
    w = linear[1].weight[1].view(3, 8, 6).detach()
    want = (w * (PICTURES - base[drawn].mean(0))).sum(1)
    np.testing.assert_allclose(found[INPUT][0, :, 0], want, atol=1e-10)
    assert found.notes["completeness_residual"].abs().max() < 1e-9


def test_refinecam_by_loops_and_as_torchcam_has_it() -> None:
    from torchcam.methods import LayerCAM, RefineCAM

    model = net()
    probe = Probe(Subject(model), ("two", "one"), Classes((2,)))
    found = loupe.refinecam(probe, Batch(PICTURES), base="layercam")
    parts = loupe.layercam(probe, Batch(PICTURES))
    assert found["two"].shape[-2:] == (4, 3)
    for n in range(2):
        deep, early = (parts[name][0, n, 0] / parts[name][0, n, 0].max() for name in ("two", "one"))
        large = nn.functional.interpolate(deep[None, None], (8, 6), mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(found["two"][0, n, 0], deep, atol=1e-12)
        np.testing.assert_allclose(found["one"][0, n, 0], large * early, atol=1e-12)
    with RefineCAM(model, ["one", "two"], input_shape=(3, 8, 6), base_method=LayerCAM) as theirs:
        scores = model(PICTURES)
        map_ = theirs([2, 2], scores)[0]
    for n in range(2):
        mine = found["one"][0, n, 0]
        both = torch.stack([mine.flatten(), map_[n].to(mine).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.98
    with pytest.raises(BadInput, match="expected one of"):
        loupe.refinecam(probe, Batch(PICTURES), base="eigencam")  # type: ignore[arg-type]


NAMES = ("tabby, tabby cat", "tiger cat", "dog", "well - known")


def test_one_class_less_another() -> None:
    logits = torch.tensor([[2.0, 1.5, -1.0, 2.2], [0.0, 3.0, 0.5, 9.0]], dtype=D)
    asked = Batch(torch.zeros(2, 1, 1, 1))
    found = target(["tabby - tiger cat", "2 - 0"], NAMES)(logits, asked)
    np.testing.assert_allclose(found.value, [[0.5, -3.0], [-3.0, 0.5]])
    assert found.labels == (("tabby, tabby cat - tiger cat",) * 2, ("dog - tabby, tabby cat",) * 2)
    one = Contrast((("tabby", None),), NAMES, alike=2)
    value = one(logits, asked).value
    for n, (row, near) in enumerate(zip(logits.tolist(), ((3, 1), (2, 1)), strict=True)):
        e = [np.exp(row[i]) for i in near]
        assert value[0, n].item() == pytest.approx(
            sum(p * (row[0] - row[i]) for p, i in zip(e, near, strict=True)) / sum(e)
        )
    assert isinstance(target(["well - known"], NAMES), Classes)
    assert one(logits, asked).labels == (("tabby, tabby cat - others",) * 2,)
    mixed = target(["tabby - others", "predicted"], NAMES)
    assert isinstance(mixed, Several)
    for words, told in (
        (["tabby - tabby cat"], "both are class 0"), (["tabby - "], "class less another"), (["a - b - c"], "class less another"),
        (["tabby - lion"], "no class 'lion'"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            target(words, NAMES)(logits, asked)


def test_finer_cam_is_the_cam_of_the_difference() -> None:
    """Its classes are chosen on the unchanged input, and the weights count as constants: linear in the CAMs of the classes."""
    model = net()
    batch = Batch(PICTURES)
    probe = Probe(Subject(model), ("two",), Contrast(((1, None),)))
    found = loupe.gradcam(probe, batch, relu=False)["two"]
    parts = loupe.gradcam(Probe(Subject(model), ("two",), Classes((0, 1, 2, 3))), batch, relu=False)["two"]
    with torch.no_grad():
        y = model(PICTURES)
    for n in range(2):
        others = [k for k in range(4) if k != 1]
        p = torch.exp(y[n, others])
        want = parts[1, n] - sum(p[i] / p.sum() * parts[k, n] for i, k in enumerate(others))
        np.testing.assert_allclose(found[0, n], want, atol=1e-10)
    assert "others" in probe.ask(batch)[0].labels[0][0]


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_maskclip_asks_the_head_of_every_patch(pool: str) -> None:
    model, asked = vit(global_pool=pool), tokens()
    found = loupe.maskclip(Probe(Subject(model), ("blocks.2",), Classes((1, 3))), asked)["blocks.2.attn"]
    with torch.no_grad():
        z = model._pos_embed(model.patch_embed(asked.x))
        z = model.blocks[1](model.blocks[0](z))
        block, attn = model.blocks[2], model.blocks[2].attn
        v = attn.qkv(block.norm1(z))[..., 24:]
        z = z + attn.proj(v)
        z = z + block.mlp(block.norm2(z))
        for p in range(16):
            head = model.fc_norm if pool == "avg" else model.norm
            want = model.head(head(z[:, 1 + p]))[:, [1, 3]]
            np.testing.assert_allclose(found[:, :, 0, p // 4, p % 4], want.T, atol=1e-10)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_maskclip_of_words_is_a_scaled_cosine(kind: str, folders: dict[str, Path]) -> None:
    made = opened(folders[kind])
    probe = loupe.Probe(made, made.layers, loupe.texts(made, ["a red car", "dog"]))
    found = next(iter(loupe.maskclip(probe, loupe.Batch(X)).maps.values()))
    assert found.shape == (2, 3, 1, 4, 4)
    assert found.std((-1, -2)).min() > 0
    assert loupe.clip_surgery(probe, loupe.Batch(X), blocks=1).scores.value.shape == (2, 3)


def test_clip_surgery_by_loops(folders: dict[str, Path]) -> None:
    made = opened(folders["clip"])
    texts = loupe.texts(made, ["a red car", "dog", "snow"])
    found = next(
        iter(loupe.clip_surgery(loupe.Probe(made, made.layers, texts), loupe.Batch(X), blocks=1).maps.values())
    )
    whole: Any = made.module
    tower = whole.vision_model
    with torch.no_grad():
        z = tower.pre_layrnorm(tower.embeddings(X))
        z = tower.encoder.layers[0](z, None)
        z = z[0] if isinstance(z, tuple) else z
        last = tower.encoder.layers[1]
        y = last.layer_norm1(z)
        v = last.self_attn.v_proj(y).unflatten(-1, (2, 16)).transpose(1, 2)
        a = (v @ v.transpose(-1, -2) / 4).softmax(-1)
        z = z + last.self_attn.out_proj((a @ v).transpose(1, 2).flatten(2))
        f = torch.nn.functional.normalize(whole.visual_projection(tower.post_layernorm(z)), dim=-1)
        out = whole.get_image_features(pixel_values=X)
        cls = torch.nn.functional.normalize(out if isinstance(out, Tensor) else out.pooler_output, dim=-1)
    t = torch.nn.functional.normalize(texts.directions, dim=1)
    for n in range(3):
        w = np.exp([2 * float(cls[n] @ one) for one in t])
        w = w / w.sum()
        w = w / w.mean()
        for p in range(16):
            each = np.array([[float(f[n, 1 + p, c] * t[k, c]) * w[k] for c in range(16)] for k in range(3)])
            want = (each - each.mean(0)).sum(1)
            np.testing.assert_allclose(found[:, n, 0, p // 4, p % 4], want, atol=2e-5)


def test_what_these_do_not_take(folders: dict[str, Path]) -> None:
    made = opened(folders["clip"])
    one = loupe.Probe(made, made.layers, loupe.texts(made, ["a red car"]))
    with pytest.raises(BadInput, match="needs two or more"):
        loupe.clip_surgery(one, loupe.Batch(X))
    with pytest.raises(BadInput, match="expected 1 to 1, as the network has 2"):
        loupe.clip_surgery(loupe.Probe(made, made.layers, loupe.texts(made, ["a", "dog"])), loupe.Batch(X))
    classifier = Probe(Subject(vit()), ("blocks.2",), Top(2))
    with pytest.raises(BadInput, match="clip_surgery compares texts"):
        loupe.clip_surgery(classifier, tokens())
    with pytest.raises(BadInput, match="no attention ran in it"):
        loupe.maskclip(Probe(Subject(net()), ("two",), Classes(1)), Batch(PICTURES))
    for name, wrong in (
        ("rise", {"samples": 1}), ("rise", {"keep": 1.0}), ("rise", {"cells": 0}), ("vitcx", {"threshold": 3.0}),
        ("vitcx", {"chunk": 0}), ("gscorecam", {"top": 0}), ("gradient_shap", {"samples": 0}),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="expected"):
            getattr(loupe, name)(Probe(Subject(net()), ("two",), Classes(1)), Batch(PICTURES), **wrong)
