"""Torch data sets of every form in loupe browse: streams, data classes, named tuples, numbers of every range."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from torchloupe.cli import main
from torchloupe.data.samples import BadSample, Exhausted
from torchloupe.errors import BadInput
from torchloupe.methods.browse import samples
from torchloupe.sources.datasets import feeds

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
CHW = torch.from_numpy(PICTURE).permute(2, 0, 1)


@dataclasses.dataclass
class Item:
    image: Any
    label: int = 1
    boxes: Any = None


class Named(NamedTuple):
    picture: Any
    target: int


FORMS = {
    "chw uint8": (CHW, 1),
    "chw float": (CHW / 255, torch.tensor(1)),
    "hwc float64": {"image": PICTURE / 255.0, "label": 1},
    "hwc uint16": (PICTURE.astype(np.uint16) * 257, 1),
    "data class": Item(PICTURE, boxes=np.array([[1.0, 1, 4, 3]])),
    "named tuple": Named(PICTURE, 1),
    "object": SimpleNamespace(image=PICTURE, label=1),
    "any key": {"photo": PICTURE, "label": 1},
}


class Forms(torch.utils.data.Dataset):
    classes = ("cat", "dog")

    def __len__(self) -> int:
        return len(FORMS)

    def __getitem__(self, index: int):
        return list(FORMS.values())[index]


def test_every_form_shows_the_same_picture():
    (feed,) = feeds(f"torch:{__file__}:Forms")
    for index, name in enumerate(FORMS):
        sample = feed.sample(index, 0)
        assert np.array_equal(sample.transformed.pictures[0], PICTURE), name
        assert sample.label == ("" if name == "nothing" else "dog"), name
    assert feed.sample(list(FORMS).index("data class"), 0).steps[0].marks.boxes.tolist() == [[1, 1, 4, 3]]


class Hugging(Forms):
    """As Hugging Face's data sets are: names of classes are in `features`."""

    classes = None
    features = {"image": None, "label": SimpleNamespace(names=["bird", "fish"])}  # noqa: RUF012

    def __getitem__(self, index: int):
        return {"image": PICTURE, "label": index % 2}


def test_names_of_classes_in_features():
    (feed,) = feeds(f"torch:{__file__}:Hugging")
    assert [feed.sample(k, 0).label for k in (0, 1)] == ["bird", "fish"]


class Strange(Forms):
    def __getitem__(self, index: int):
        normalised = (CHW / 255 - 0.5) / 0.25
        video = torch.stack([CHW] * 5, 1)
        broken = torch.full((3, 6, 8), float("nan"))
        return (normalised, video, broken, torch.zeros(7), None)[index], 0


def test_strange_numbers_are_told():
    (feed,) = feeds(f"torch:{__file__}:Strange")
    shown = feed.sample(0, 0).steps[0]
    assert shown.told == f"shown from {CHW.min() / 63.75 - 2:.3g} to {CHW.max() / 63.75 - 2:.3g}"
    assert (shown.pictures[0].min(), shown.pictures[0].max()) == (0, 255)
    assert [np.array_equal(one, PICTURE) for one in feed.sample(1, 0).steps[0].pictures] == [True] * 5
    with pytest.raises(BadSample, match="144 values are NaN or infinite"):
        feed.sample(2, 0)
    with pytest.raises(BadSample, match=r"holds no picture: tuple of Tensor 7, int"):
        feed.sample(3, 0)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, count: int = 5, told: bool = False) -> None:
        self.count, self.told = count, told

    def __iter__(self):
        for k in range(self.count):
            self.given = getattr(self, "given", 0) + 1
            yield np.full((4, 4, 3), k + torch.randint(0, 100, ()).item(), np.uint8), k

    def __len__(self) -> int:
        if not self.told:
            raise TypeError("no length")
        return self.count


def test_streams_go_on_and_repeat_by_further_passes():
    (feed,) = feeds(f"torch:{__file__}:Stream?told=True")
    assert len(feed) == 5
    found = list(samples(feed, range(5), repeat=2))
    # Nothing is read again from the start.
    assert feed.dataset.given == 10
    assert [one.label for one in found] == [label for label in "01234" for _ in range(2)]
    assert len({one.steps[0].pictures[0][0, 0, 0] for one in found}) > 4
    again = list(samples(feeds(f"torch:{__file__}:Stream?told=True")[0], range(5), repeat=2))
    assert all(np.array_equal(a.steps[0].pictures, b.steps[0].pictures) for a, b in zip(found, again, strict=True))
    assert feed.sample(1, 0).label == "1"
    with pytest.raises(Exhausted):
        feed.sample(5, 0)
    assert len(list(samples(feed, range(99)))) == 5


def test_a_stream_without_a_length_asks_for_a_number(tmp_path, capsys):
    words = ["browse", f"torch:{__file__}:Stream", "--output-dir", str(tmp_path)]
    assert main(words) == 2
    assert "say how many samples with --show-number N" in capsys.readouterr().err
    assert main([*words, "--show-number", "20"]) == 0
    assert "5 samples" in capsys.readouterr().out


def loader():
    return torch.utils.data.DataLoader(Forms())


def test_a_loader_is_no_data_set():
    with pytest.raises(BadInput, match="gave a DataLoader, whose samples are batches"):
        feeds(f"torch:{__file__}:loader")
