"""Labels that the neighbours of a picture contradict: the vote by plain loops, planted faults through the command."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.doubts import doubts


def clusters(seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Three clouds about three directions, of lengths that say nothing; 4 of 60 labels are another cloud's."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(3, 6))
    feats = np.concatenate([one + 0.3 * rng.normal(size=(20, 6)) for one in middle]) * rng.uniform(0.1, 9, (60, 1))
    labels = [name for name in "abc" for _ in range(20)]
    for row, name in ((3, "b"), (21, "c"), (22, "a"), (50, "a")):
        labels[row] = name
    return feats, labels


def by_loops(feats: np.ndarray, labels: list[str], count: int) -> tuple[dict[int, tuple[str, float]], float, float]:
    found, own = {}, 0.0
    for i, one in enumerate(feats):
        apart = [(1 - float(one @ other) / np.sqrt(float(one @ one) * float(other @ other)), j)
                 for j, other in enumerate(feats) if j != i]  # fmt: skip
        votes = Counter(labels[j] for _, j in sorted(apart)[:count])
        own += votes[labels[i]] / count
        for name, number in votes.items():
            if name != labels[i] and number > count / 2:
                found[i] = (name, number / count)
    pairs = [labels[i] == labels[j] for i in range(len(labels)) for j in range(len(labels)) if i != j]
    return found, own / len(labels), sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_vote_of_neighbours_by_plain_loops(seed):
    feats, labels = clusters(seed)
    made = doubts(feats, labels)
    found, agreement, chance = by_loops(feats, labels, 10)
    assert {one.row: (one.suggests, one.share) for one in made.found} == found
    assert {3, 21, 22, 50} <= set(found)
    assert made.agreement == pytest.approx(agreement)
    assert made.chance == pytest.approx(chance)
    assert not made.blind
    assert [one.share for one in made.found] == sorted((one.share for one in made.found), reverse=True)


def test_features_that_tell_nothing_doubt_nothing():
    rng = np.random.default_rng(3)
    assert doubts(rng.normal(size=(300, 5)), rng.choice(["a", "b"], 300).tolist()).blind


def test_few_samples_have_all_others_as_neighbours():
    feats, labels = clusters()
    few = [0, 1, 2, 25, 26, 27, 28]
    made = doubts(feats[few], [labels[k] for k in few])
    assert made.neighbours == 6
    assert {one.row: one.suggests for one in made.found} == {0: "b", 1: "b", 2: "b"}


@pytest.mark.parametrize(
    ("feats", "labels", "message"),
    [
        (np.ones((2, 3)), ["a", "b"], "three samples of two classes; there are 2 of 2"),
        (np.ones((4, 3)), ["a"] * 4, "there are 4 of 1"),
        (np.full((3, 2), np.nan), ["a", "b", "a"], "NaN"),
    ],
)
def test_what_cannot_be_doubted(feats, labels, message):
    with pytest.raises(BadInput, match=message):
        doubts(feats, labels)


def colours() -> nn.Module:
    """Eight mixtures of the colours of a picture."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture
def fruit(tmp_path):
    """Red and green pictures, twelve each; one red one lies among the green ones, one picture in both."""
    rng = np.random.default_rng(0)
    for name, channel in (("apple", 0), ("pear", 1)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(12):
            made = rng.integers(0, 90, (24, 24, 3)).astype(np.uint8)
            made[..., 0 if (name, k) == ("pear", 5) else channel] += 150
            Image.fromarray(made).save(tmp_path / "set" / name / f"{k}.png")
    (tmp_path / "set/pear/twin.png").write_bytes((tmp_path / "set/apple/3.png").read_bytes())
    return tmp_path / "set"


def test_planted_labels_are_listed(fruit, tmp_path, capsys):
    words = ["browse", f"folder:{fruit}", "--draw", "none", "--embedding", f"torch:{__file__}:colours"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    told, warned = capsys.readouterr()
    assert "random" in warned
    assert "of the 10 nearest have the same class, " in told
    held = json.loads((tmp_path / "out/census.json").read_text())["summary"]
    doubted = held["doubts"]
    assert {(one["name"], one["label"], one["suggests"]) for one in doubted["candidates"]} == {
        ("pear/5.png", "pear", "apple"),
        ("pear/twin.png", "pear", "apple"),
    }
    assert "(pear/5.png): pear, but " in told
    # Without any network: the same picture in two classes.
    assert held["contradictions"] == [{"names": ["apple/3.png", "pear/twin.png"], "labels": ["apple", "pear"]}]
    assert "same, other class" in told


def test_bad_words(fruit, tmp_path, capsys):
    for words, message in (
        (["--weights", str(fruit / "apple/0.png")], "--weights is for the network of --embedding"),
        (["--embedding", "timm:resnet8888"], "resnet8888"),
    ):
        assert main(["browse", f"folder:{fruit}", *words, "--output-dir", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("RGB", (24, 24)).save(flat / "a.png")
    words = ["browse", f"folder:{flat}", "--embedding", f"torch:{__file__}:colours"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 2
    assert "no sample has one class" in capsys.readouterr().err
