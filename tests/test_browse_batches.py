"""Batch augmentations in loupe browse: the operators of every framework on flat colours, whose mixtures are known."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from torchloupe.data.samples import BadSample
from torchloupe.errors import BadInput
from torchloupe.methods.browse import samples
from torchloupe.sources.datasets import feeds

MIXERS = """
import albumentations as A, kornia.augmentation as K, timm.data, torch
from torchvision.transforms import v2
v2_mixup = v2.MixUp(num_classes=6, alpha=1.0)
v2_cutmix = v2.CutMix(num_classes=6, alpha=1.0)
v2_choice = v2.RandomChoice([v2.MixUp(num_classes=6), v2.CutMix(num_classes=6)])
timm_mixup = timm.data.Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, num_classes=6, label_smoothing=0.0)
timm_elem = timm.data.Mixup(mixup_alpha=1.0, mode="elem", num_classes=6, label_smoothing=0.0)
timm_collate = timm.data.FastCollateMixup(mixup_alpha=1.0, num_classes=6, label_smoothing=0.0)
kornia_mixup = K.RandomMixUpV2(p=1.0)
kornia_cutmix = K.RandomCutMixV2(p=1.0)
mosaic = A.Mosaic(p=1.0, target_size=(32, 40))
def halves(x, y):
    return (x + x.flip(0)) / 2, y
def late():
    return [v2_mixup, v2.Resize(8)]
def single(x, strength=1.0):
    return x
"""
NAMES = re.findall(r"^(\w+) = |^def (halves)", MIXERS, re.MULTILINE)


class Flat(torch.utils.data.Dataset):
    """Pictures of one colour each; the last of another size where asked."""

    classes = tuple("abcdef")

    def __init__(self, count: int = 6, odd: bool = False) -> None:
        self.count, self.odd = count, odd

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        height = 8 if self.odd and index else 32
        return np.full((height, 40, 3), colour(index), np.uint8), index


def colour(index: int) -> tuple[int, int, int]:
    return 40 * index, 255 - 40 * index, 10 * index


@pytest.fixture(scope="module")
def mixers(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("mixers") / "mixers.py"
    path.write_text(MIXERS)
    return str(path)


@pytest.mark.parametrize("name", [first or second for first, second in NAMES])
def test_shares_tell_what_is_in_the_picture(mixers, name):
    """The mean colour of the mixture is the sum of the told shares of the flat colours, and so is its label."""
    (feed,) = feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:{name}")
    mixed = 0
    for sample in samples(feed, range(6), seed=3):
        last = sample.steps[-1]
        if last.told == "not mixed":
            continue
        mixed += 1
        shares = {int(who): float(share) for share, who in re.findall(r"([\d.]+) (\d)", last.told)}
        assert sum(shares.values()) == pytest.approx(1, abs=0.02) or name == "mosaic"
        wanted = sum(share * np.array(colour(who), float) for who, share in shares.items())
        assert np.abs(last.pictures[0].mean((0, 1)) - wanted).max() < 4
        partners = sample.steps[-2]
        assert partners.name == "mixed with"
        shown = {tuple(picture[0, 0].tolist()) for picture in partners.pictures}
        assert shown == {colour(who) for who in shares if who != sample.index}
        assert sample.label == "abcdef"[sample.index]
        labels = {"abcdef".index(who): float(share) for who, share in re.findall(r"(\w) ([\d.]+)", sample.fed)}
        if name != "halves":
            assert all(abs(labels[who] - share) < 0.02 for who, share in shares.items() if share > 0.03)
    assert mixed > 0


def test_cutmix_is_a_rectangle_of_the_partner(mixers):
    (feed,) = feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:v2_cutmix")
    last = feed.sample(2, 5).steps[-1]
    foreign = np.argwhere((last.pictures[0] != colour(2)).any(-1))
    high, wide = foreign.max(0) - foreign.min(0) + 1
    assert len(foreign) == high * wide
    assert f"{len(foreign) / (32 * 40):.2f} " in last.told


def test_seeds_repeat_a_mixture_and_the_operator_stays_as_it_was(mixers):
    (feed,) = feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:timm_mixup")
    one, two, other = (feed.sample(0, seed).steps[-1] for seed in (1, 1, 2))
    assert np.array_equal(one.pictures[0], two.pictures[0])
    assert one.told != other.told
    from torchvision.transforms import v2

    from torchloupe.sources.mixing import mixer

    own = v2.RandomChoice([v2.MixUp(num_classes=3)])
    assert mixer(own).log == []
    assert own.transforms[0].num_classes == 3


def test_one_sample_is_mixed_with_itself(mixers):
    (feed,) = feeds(f"torch:{__file__}:Flat?count=1", transform=f"{mixers}:halves")
    assert np.array_equal(feed.sample(0, 0).transformed.pictures[0], Flat()[0][0])


def test_the_original_is_not_mixed(mixers):
    (feed,) = feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:halves")
    assert [step.name for step in feed.sample(0, 0, whole=False).steps] == ["item"]


def test_bad_batches(mixers):
    (feed,) = feeds(f"torch:{__file__}:Flat?odd=True", transform=f"{mixers}:halves")
    with pytest.raises(BadSample, match=r"step halves: a batch of pictures of several sizes \(40x32, 40x8\)"):
        feed.sample(0, 0)
    with pytest.raises(BadInput, match="Resize after MixUp; what mixes a batch comes last"):
        feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:late")
    (feed,) = feeds(f"torch:{__file__}:Flat", transform=f"{mixers}:single")
    assert [step.name for step in feed.sample(0, 0).steps] == ["item", "single"]


CONFIG = """
default_scope = 'mmpretrain'
train_dataloader = val_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=(40, 32)), dict(type='PackInputs')]))
{place}
"""


@pytest.mark.parametrize(
    "place",
    ["model = dict(train_cfg=dict(augments=[dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)]))",
     "data_preprocessor = dict(batch_augments=dict(augments=[dict(type='ResizeMix', alpha=1.0)], probs=[1.0]))"],
)  # fmt: skip
def test_batch_augmentations_of_configs(tmp_path, place):
    from PIL import Image

    for k in range(4):
        folder = tmp_path / "data" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 40, 3), colour(k), np.uint8)).save(folder / f"{k}.png")
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(place=place))
    (train,), (val,) = (feeds(str(path), phase=phase, data=str(tmp_path / "data")) for phase in ("train", "val"))
    names = {one.steps[-1].name for one in samples(train, range(4), repeat=4)}
    assert names <= {"Mixup", "CutMix"} if "Mixup" in place else names == {"ResizeMix"}
    sample = next(one for one in samples(train, range(4), repeat=4) if one.fed)
    shares = {int(who): float(share) for share, who in re.findall(r"([\d.]+) (\d)\.png", sample.steps[-1].told)}
    wanted = sum(share * np.array(colour(who), float) for who, share in shares.items())
    assert np.abs(sample.transformed.pictures[0].mean((0, 1)) - wanted).max() < 4
    assert val.sample(0, 0).steps[-1].name == "PackInputs"
    path.write_text(CONFIG.format(place="model = dict(train_cfg=dict(augments=[dict(type='Mixdown', alpha=1.0)]))"))
    with pytest.raises(BadInput, match=r"config\.py: the batch augmentations cannot be built: .*Mixdown"):
        feeds(str(path), data=str(tmp_path / "data"))
