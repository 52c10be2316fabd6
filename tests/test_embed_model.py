"""Embedding a data set: the right layer, the right rows, what cannot be read left out, a killed run continued."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchloupe.arrange import embed_file
from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods.embed import Embedder, embed, pooled
from torchloupe.probe import Batch, Subject
from torchloupe.sources import subject
from torchloupe.sources.points import read_points
from torchloupe.sources.samples import samples


class Small(nn.Module):
    """Two convolutions, one shared ReLU, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.act = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU()
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.two(self.act(self.one(x)))).mean((2, 3)))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return subject(Small().eval(), size=(16, 12), layers=("two",))


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(random.integers(0, 255, (16, 12, 3), dtype=np.uint8)).save(
                tmp_path / f"photos/{kind}/{i}.png"
            )
    return tmp_path / "photos"


def test_pooling_rules_by_loops():
    act = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    for n in range(2):
        for c in range(3):
            block = act[n, c].numpy()
            assert pooled(act, "mean")[n, c].item() == pytest.approx(block.mean())
            assert pooled(act, "max")[n, c].item() == pytest.approx(block.max())
            for h in range(5):
                expected = max(block[t, h].mean() for t in range(4))
                assert pooled(act, "parts")[n, c, h].item() == pytest.approx(expected)
    assert torch.equal(pooled(act, "flatten")[1], act[1].reshape(-1))


def test_features_are_the_layers_own(small):
    batches = [
        Batch(torch.randn(n, 3, 16, 12), ids=tuple(f"{n}-{i}" for i in range(n)), truth={"y": torch.arange(n)})
        for n in (3, 2)
    ]
    points = embed(small, batches)
    x = torch.cat([batch.x for batch in batches])
    with torch.no_grad():
        module = small.module
        expected = module.two(module.act(module.one(x))).mean((2, 3))
        logits = module(x)
    assert np.allclose(points.feats, expected.numpy(), atol=1e-6)
    assert points.ids.tolist() == ["3-0", "3-1", "3-2", "2-0", "2-1"]
    assert points.columns["y"].tolist() == [0, 1, 2, 0, 1]
    assert points.record["layer"] == "two"
    assert np.allclose(embed(small, batches, "output").feats, logits.numpy(), atol=1e-6)
    second = embed(small, batches, "act#1", "flatten").feats
    assert np.allclose(second, module.act(module.two(module.act(module.one(x)))).detach().flatten(1).numpy(), atol=1e-6)
    assert not any(part._forward_hooks for part in module.modules())


def test_an_embedder_gives_its_output_and_parts_stay_parts():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((5, 1)), nn.Flatten(3))
    made = Subject(module, kind="embedder", layers=("0",))
    parts = embed(Subject(nn.Sequential(module[0], nn.Flatten(2)), kind="embedder"), [Batch(torch.randn(2, 3, 8, 8))])
    assert parts.feats.shape == (2, 4, 36)
    assert Embedder(made).layer == "output"
    with pytest.raises(BadInput, match=r"the model's output is \(2, 4, 5, 1\)"):
        embed(made, [Batch(torch.randn(2, 3, 8, 8))])
    assert embed(made, [Batch(torch.randn(2, 3, 8, 8))], "0", "parts").feats.shape == (2, 4, 6)
    sequence = Batch(torch.randn(2, 3, 4, 8, 8), Layout("n c t h w"))
    with pytest.raises(BadInput, match="no layer 'conv' in this model"):
        embed(made, [sequence], "conv")
    with pytest.raises(BadInput, match="Did you mean mean"):
        Embedder(made, "0", "meen")
    with pytest.raises(BadInput, match="no samples"):
        embed(made, [])


def test_a_folder_is_embedded_in_order_whatever_the_batch(small, photos, tmp_path):
    one = embed_file(small, samples(f"folder:{photos}"), tmp_path / "a.npz", batch=1)
    four = embed_file(small, samples(str(photos)), tmp_path / "b.npz", batch=4)
    assert one.ids.tolist() == four.ids.tolist() == [f"{k}/{i}.png" for k in ("cat", "dog") for i in range(5)]
    assert one.labels.tolist() == ["cat"] * 5 + ["dog"] * 5
    assert np.allclose(one.feats, four.feats, atol=1e-5)
    back = read_points(tmp_path / "b.npz")
    assert np.array_equal(back.feats, four.feats)
    assert back.record["layer"] == "two"
    assert back.record["samples"] == 10


def test_bad_samples_are_named_and_left_out(small, photos, tmp_path):
    (photos / "cat" / "2.png").write_bytes(b"no picture")
    with pytest.warns(LoupeWarning, match=r"1 of 10 samples were left out: cat/2\.png \(.*not a picture"):
        points = embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=4)
    assert "cat/2.png" not in points.ids
    assert len(points) == 9
    assert list(points.record["left_out"]) == ["cat/2.png"]
    clean = embed_file(small, samples(f"folder:{photos / 'dog'}"), tmp_path / "b.npz")
    assert np.allclose(points.feats[4:], clean.feats, atol=1e-5)
    with pytest.raises(BadInput, match="not a picture"):
        embed_file(small, samples(str(photos)), tmp_path / "c.npz", strict=True)
    for file in photos.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(BadInput, match="none of the 10 samples could be embedded"):
        embed_file(small, samples(str(photos)), tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()


def test_features_that_are_not_finite_are_named(small, photos, tmp_path):
    with torch.no_grad():
        small.module.two.bias[:] = torch.nan
    with pytest.raises(BadInput, match="none of the 10 samples.*NaN or infinite"):
        embed_file(small, samples(str(photos)), tmp_path / "a.npz")


def test_a_killed_run_goes_on(small, photos, tmp_path):
    whole = embed_file(small, samples(str(photos)), tmp_path / "whole.npz", batch=2)

    def killed(_stage, done, _total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=2, progress=killed)
    seen = []
    again = embed_file(
        small, samples(str(photos)), tmp_path / "a.npz", batch=2, progress=lambda _, done, __: seen.append(done)
    )
    assert seen == [8, 10]
    assert np.array_equal(again.feats, whole.feats)
    assert again.ids.tolist() == whole.ids.tolist()
    assert not (tmp_path / "a.npz.part").exists()


KILLED = """
import os, sys
from torchloupe.cli import main
from torchloupe.runs.embed import Embedding
done = Embedding.do
def do(self, ids):
    if len(sys.argv) > 2 and sys.argv[1] == "kill" and self.row[ids[-1]] >= 8: os.kill(os.getpid(), 9)
    return done(self, ids)
Embedding.do = do
from torchloupe.store.shards import Shards
keep = Shards._keep
def kept(self, id, entry):
    self.most = 2
    keep(self, id, entry)
Shards._keep = kept
sys.exit(main(sys.argv[2:]))
"""


def embed_in_a_process(kind: str, photos, out, *words: object) -> int:
    model = ("embed", "--model", "timm:test_resnet", "--data", f"folder:{photos}", "-o", out, "--batch-size", 2)
    command = [sys.executable, "-c", KILLED, kind, *map(str, (*model, *words))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "random (seed 0)" in done.stderr
    return done.returncode


@pytest.mark.parametrize("words", [("--size", 64, 64), ("--mean", 0.1, 0.1, 0.1)])
def test_a_run_under_other_options_takes_nothing_over(photos, tmp_path, words):
    assert embed_in_a_process("kill", photos, tmp_path / "a.npz", "--size", 96, 96) == -9
    assert len(list((tmp_path / "a.npz.part").glob("shard-*.safetensors"))) == 4
    assert embed_in_a_process("go", photos, tmp_path / "a.npz", *words) == 0
    assert embed_in_a_process("go", photos, tmp_path / "b.npz", *words) == 0
    one, two = read_points(tmp_path / "a.npz"), read_points(tmp_path / "b.npz")
    assert np.array_equal(one.feats, two.feats)
    assert one.record["seed"] == 0
    assert len(one) == 10


def test_a_sample_that_changed_is_embedded_again(small, photos, tmp_path):
    def killed(_stage, done, _total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=2, progress=killed)
    first = photos / "cat" / "1.png"
    times = first.stat()
    pixels = 255 - np.asarray(Image.open(first))
    Image.fromarray(pixels).save(first)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=2)
    whole = embed_file(small, samples(str(photos)), tmp_path / "b.npz", batch=2)
    assert np.array_equal(again.feats, whole.feats)


def test_weights_that_changed_begin_again(small, photos, tmp_path):
    def killed(_stage, done, _total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=2, progress=killed)
    with torch.no_grad():
        small.module.one.bias += 1
    again = embed_file(small, samples(str(photos)), tmp_path / "a.npz", batch=2)
    assert np.array_equal(again.feats, embed_file(small, samples(str(photos)), tmp_path / "b.npz", batch=2).feats)


def test_random_weights_are_the_same_every_time_and_the_callers_chance_goes_on():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two = (subject("timm:test_resnet") for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    for mine, theirs in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert one.notes["seed"] == 0
