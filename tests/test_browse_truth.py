"""What data sets say of their pictures in loupe browse: formats of boxes, several labels, label maps, ranges and channels."""

from __future__ import annotations

import albumentations
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from torchloupe.cli import main
from torchloupe.methods.browse import Census, samples
from torchloupe.sources.datasets import Settings, feeds
from torchloupe.sources.look import chosen_channels, value_range
from torchloupe.sources.truth import box_corners, label_names, truth

W, H = 40, 30
CORNERS = np.array([[4.0, 6, 14, 16], [20, 2, 36, 27]])


def written(form: str) -> np.ndarray:
    """The two boxes in a format of albumentations, by hand."""
    x0, y0, x1, y1 = CORNERS.T
    return {
        "pascal_voc": np.stack([x0, y0, x1, y1], 1),
        "coco": np.stack([x0, y0, x1 - x0, y1 - y0], 1),
        "albumentations": np.stack([x0 / W, y0 / H, x1 / W, y1 / H], 1),
        "yolo": np.stack([(x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H], 1),
    }[form]


def painted() -> np.ndarray:
    """A picture with the two boxes filled, one red, one green."""
    picture = np.zeros((H, W, 3), np.uint8)
    for k, (x0, y0, x1, y1) in enumerate(CORNERS.astype(int)):
        picture[y0:y1, x0:x1, k] = 255
    return picture


class Augmented(torch.utils.data.Dataset):
    """Boxes through a Compose of albumentations of its own, under any name."""

    classes = ("cat", "dog")

    def __init__(self, form: str = "coco", p: float = 1.0, kind: str = "fixed") -> None:
        steps = {
            "fixed": [albumentations.HorizontalFlip(p=1), albumentations.Resize(60, 60), albumentations.Crop(0, 0, 45, 60)],
            "random": [albumentations.OneOf([albumentations.VerticalFlip(p=1), albumentations.HorizontalFlip(p=1)], p=0.7),
                       albumentations.RandomCrop(20, 30), albumentations.RandomBrightnessContrast(p=0.5)],
        }[kind]  # fmt: skip
        self.form = form
        self.augment = albumentations.Compose(
            steps, albumentations.BboxParams(form, label_fields=["names"]), p=p, seed=5
        )

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        out = self.augment(image=painted(), bboxes=written(self.form), names=[1, 0])
        return {"image": out["image"], "bboxes": out["bboxes"], "labels": out["names"]}


@pytest.mark.parametrize("form", ["pascal_voc", "coco", "yolo", "albumentations"])
def test_boxes_of_albumentations_are_read_as_their_compose_writes_them(form):
    (feed,) = feeds(f"torch:{__file__}:Augmented?form={form}")
    steps = feed.sample(0, 0).steps
    assert [step.name for step in steps] == ["load", "HorizontalFlip", "Resize", "Crop"]
    flipped = np.stack([W - CORNERS[:, 2], CORNERS[:, 1], W - CORNERS[:, 0], CORNERS[:, 3]], 1)
    resized = flipped * np.array([60 / W, 60 / H] * 2)
    for step, wanted in zip(steps, (CORNERS, flipped, resized, np.minimum(resized, [45, 60, 45, 60])), strict=True):
        np.testing.assert_allclose(step.marks.boxes, wanted, atol=1e-3)
    assert steps[-1].marks.names == ("dog", "cat")


def test_the_seed_reaches_the_generators_of_albumentations_and_leaves_them():
    (feed,) = feeds(f"torch:{__file__}:Augmented?kind=random")
    state = feed.dataset.augment.py_random.getstate()
    one, two = (feeds(f"torch:{__file__}:Augmented?kind=random")[0].sample(0, 3) for _ in range(2))
    assert np.array_equal(one.transformed.pictures[0], two.transformed.pictures[0])
    assert len({feed.sample(0, seed).transformed.pictures[0].tobytes() for seed in range(6)}) > 3
    assert feed.dataset.augment.py_random.getstate() == state
    assert isinstance(feed.dataset.augment, albumentations.Compose)


def test_one_of_says_which_operation_it_took():
    (feed,) = feeds(f"torch:{__file__}:Augmented?kind=random")
    told = set()
    for seed in range(12):
        load, choice = feed.sample(0, seed).steps[:2]
        told.add(choice.told.split(" ")[0].split(",")[0])
        for word, turned in (("VerticalFlip", load.pictures[0][::-1]), ("HorizontalFlip", load.pictures[0][:, ::-1])):
            assert (word in choice.told) == np.array_equal(choice.pictures[0], turned)
    assert {"VerticalFlip", "HorizontalFlip", "not"} <= told


def test_a_compose_that_is_left_out_is_left_out():
    (feed,) = feeds(f"torch:{__file__}:Augmented?p=0.0")
    steps = feed.sample(0, 0).steps
    assert [step.name for step in steps] == ["load", "Compose"]
    np.testing.assert_allclose(steps[-1].marks.boxes, CORNERS, atol=1e-9)
    (half,) = feeds(f"torch:{__file__}:Augmented?p=0.5")
    left = sum(half.sample(0, seed).steps[-1].told.startswith("not applied") for seed in range(60))
    assert 15 < left < 45


HALF = albumentations.Compose([albumentations.HorizontalFlip(p=1), albumentations.VerticalFlip(p=1)], p=0.5)
ONE_OF = albumentations.Compose(
    [albumentations.OneOf([albumentations.HorizontalFlip(), albumentations.VerticalFlip()], p=1)]
)
CHOICE = v2.RandomChoice([v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)])


def plain_choice():
    from torchvision import transforms

    return transforms.RandomChoice([transforms.RandomHorizontalFlip(1.0), transforms.RandomVerticalFlip(1.0)])


class Painted(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        return painted(), {"boxes": CORNERS, "labels": [1, 0]}


def test_all_steps_of_a_compose_with_p_are_taken_or_none():
    (feed,) = feeds(f"torch:{__file__}:Painted", transform=f"{__file__}:HALF")
    seen = {bool(step.told.startswith("not applied")) for seed in range(12) for step in feed.sample(0, seed).steps[1:]}
    assert seen == {True, False}
    for seed in range(12):
        _, first, second = feed.sample(0, seed).steps
        applied = not first.told.startswith("not applied")
        assert np.array_equal(second.pictures[0], painted()[::-1, ::-1] if applied else painted())
        wanted = np.array([W, H, W, H]) - CORNERS[:, [2, 3, 0, 1]] if applied else CORNERS
        np.testing.assert_allclose(second.marks.boxes, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["ONE_OF", "CHOICE", "plain_choice"])
def test_choices_name_what_they_took(tmp_path, name):
    Image.fromarray(painted()).save(tmp_path / "a.png")
    (feed,) = feeds(f"folder:{tmp_path}", transform=f"{__file__}:{name}")
    told = set()
    for seed in range(8):
        last = feed.sample(0, seed).steps[-1]
        across = np.array_equal(last.pictures[0], painted()[:, ::-1])
        assert ("HorizontalFlip" in last.told) == across
        assert ("VerticalFlip" in last.told) == (not across)
        told.add(across)
    assert told == {True, False}


@pytest.mark.parametrize("family", ["v1", "v2", "timm"])
def test_randaugment_names_its_operations(tmp_path, family):
    from timm.data.auto_augment import rand_augment_transform
    from torchvision import transforms

    made = {"v1": lambda: transforms.RandAugment(2), "v2": lambda: v2.RandAugment(2),
            "timm": lambda: rand_augment_transform("rand-m9-n2-p1", {})}[family]()  # fmt: skip
    from torchloupe.sources.transforms import Flow, seeded, stages

    (stage,) = stages(made)
    names = set()
    for seed in range(10):
        with seeded(seed):
            _, text = stage.run(Flow(Image.fromarray(painted())))
        parts = text.split(", ")
        assert len(parts) == 2
        names |= {part.split(" ")[0] for part in parts}
    assert len(names) > 4
    assert names & {"Rotate", "Equalize", "ShearX", "TranslateY", "Posterize", "Contrast", "Brightness"}


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "classes", "names"),
    [
        (3, tuple("abcd"), ("d",)),
        ([1, 0, 0, 1, 0], None, ("0", "3")),
        ([1, 0, 0, 1], tuple("abcd"), ("a", "d")),
        (torch.tensor([True, False, True]), tuple("abc"), ("a", "c")),
        (np.array([0.0, 1.0, 1.0]), tuple("abc"), ("b", "c")),
        ([2, 0], tuple("abc"), ("c", "a")),
        (["cat", "dog"], None, ("cat", "dog")),
        ([0.75, 0.25, 0.0], tuple("abc"), ("a 0.75 + b 0.25",)),
        (np.array([0.0, 1.0, 0.0]), tuple("abc"), ("b",)),
        ([0, 0, 0], tuple("abc"), ()),
        ("cat", None, ("cat",)),
        (torch.tensor([2]), tuple("abc"), ("c",)),
    ],
)
def test_one_label_or_several(label, classes, names):
    assert label_names(label, classes) == names


def test_objects_of_voc_without_a_box_leave_the_names_of_the_others():
    box = {"xmin": "4", "ymin": "4", "xmax": "8", "ymax": "8"}
    found = truth(
        {"annotation": {"object": [{"name": "eel"}, {"name": "cat", "bndbox": box}, {"name": "dog", "bndbox": box}]}}
    )
    assert found.marks.names == ("cat", "dog")
    assert "eel" in found.said


class Several(torch.utils.data.Dataset):
    classes = ("cat", "dog", "eel")

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int):
        return painted(), torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]][index])


def test_classes_of_several_labels_are_counted_one_by_one():
    (feed,) = feeds(f"torch:{__file__}:Several")
    census = Census()
    for sample in samples(feed, range(3)):
        census.add(sample)
    assert census.summary()["classes"] == {"dog": 2, "cat": 1}
    assert census.summary()["several classes"] == 1
    assert feed.sample(0, 0).label == "cat, dog"


def test_targets_that_say_where_things_are():
    mask = np.zeros((H, W), np.int64)
    mask[2:9, 3:8], mask[0, 0] = 2, 255
    for target in (mask, torch.from_numpy(mask)[None], Image.fromarray(mask.astype(np.uint8))):
        found = truth(target, ("nothing", "cat", "dog"), (W, H)).marks
        assert np.array_equal(found.masks, mask)
        assert found.legend == {2: "dog"}
    voc = {
        "annotation": {
            "filename": "a.jpg",
            "object": [{"name": "dog", "bndbox": {"xmin": "4", "ymin": "6", "xmax": "14", "ymax": "16"}}],
        }
    }
    found = truth(voc, None, (W, H)).marks
    assert (found.boxes.tolist(), found.names) == ([[4, 6, 14, 16]], ("dog",))
    objects = {"image_id": 3, "objects": {"bbox": written("coco").tolist(), "category": [1, 0]}}
    for target in (
        objects,
        {
            "objects": [
                dict(zip(("bbox", "category"), pair, strict=True))
                for pair in zip(written("coco").tolist(), [1, 0], strict=True)
            ]
        },
    ):
        found = truth(target, ("cat", "dog"), (W, H))
        np.testing.assert_allclose(found.marks.boxes, CORNERS)
        assert (found.marks.names, "--boxes" in found.said) == (("dog", "cat"), True)
    rows = np.concatenate([[[1.0], [0.0]], written("yolo")], 1)
    for target in (torch.from_numpy(rows), torch.from_numpy(np.concatenate([np.zeros((2, 1)), rows], 1))):
        found = truth(target, ("cat", "dog"), (W, H))
        np.testing.assert_allclose(found.marks.boxes, CORNERS, atol=1e-9)
        assert found.marks.names == ("dog", "cat")
    assert truth(torch.from_numpy(CORNERS), None, (W, H), "xyxy").marks.boxes.tolist() == CORNERS.tolist()
    both = truth((torch.from_numpy(mask), 1), ("cat", "dog"), (W, H))
    assert (both.labels, both.marks.masks.sum()) == (("dog",), mask.sum())
    assert truth([], None, (W, H)).marks.empty


def test_notes_of_coco_with_polygons_run_lengths_and_keypoints():
    from pycocotools import mask as coco

    shape = np.zeros((H, W), np.uint8)
    shape[5:20, 7:31] = 1
    packed = coco.encode(np.asfortranarray(shape))
    packed["counts"] = packed["counts"].decode()
    points = [v for k in range(17) for v in (k, 2 * k, 2 if k % 3 else 0)]
    notes = [
        {"bbox": [4, 6, 10, 10], "category_id": 7, "segmentation": [[4, 6, 14, 6, 14, 16]], "keypoints": points},
        {"bbox": [7, 5, 24, 15], "category_id": 9, "segmentation": packed, "iscrowd": 1},
    ]
    found = truth(notes, {7: "dog", 9: "crowd"}, (W, H)).marks
    np.testing.assert_allclose(found.boxes, [[4, 6, 14, 16], [7, 5, 31, 20]])
    assert found.names == ("dog", "crowd")
    assert np.array_equal(found.masks[0], shape.astype(bool))
    assert [line.tolist() for line in found.outlines[0]] == [[[4, 6], [14, 6], [14, 16]]]
    assert found.keypoints.shape == (1, 17, 3)
    assert (15, 13) in found.bones


@pytest.mark.parametrize("form", ["cxcywhr", "xywhr", "xyxyxyxy"])
def test_turned_boxes_are_outlines(form):
    """Against torchvision's own conversion to four corners."""
    middle = torch.tensor([[20.0, 15.0, 12.0, 6.0, 30.0], [10.0, 10.0, 8.0, 4.0, -75.0]])
    boxes = tv_tensors.BoundingBoxes(middle, format="CXCYWHR", canvas_size=(H, W))
    corners = v2.functional.convert_bounding_box_format(boxes, new_format="XYXYXYXY").reshape(2, 4, 2).double().numpy()
    given = v2.functional.convert_bounding_box_format(boxes, new_format=form.upper())
    upright, outlines = box_corners(given)
    for k in range(2):
        np.testing.assert_allclose(sorted(outlines[k][0].tolist()), sorted(corners[k].tolist()), atol=1e-3)
        np.testing.assert_allclose(upright[k], [*corners[k].min(0), *corners[k].max(0)], atol=1e-3)


def test_outlines_go_along_with_every_framework():
    from torchloupe.data.samples import Marks
    from torchloupe.sources.transforms import Flow, stages

    line = np.array([[4.0, 6], [14, 6], [14, 16], [8, 20]])
    marks = Marks(CORNERS[:1], ("dog",), outlines=((line,),))
    for made in (v2.RandomHorizontalFlip(1.0), albumentations.HorizontalFlip(p=1)):
        (stage,) = stages(made)
        flow, _ = stage.run(Flow(Image.fromarray(painted()), marks))
        moved = flow.marks.outlines[0][0]
        np.testing.assert_allclose(moved[:, 1], line[:, 1], atol=1e-3)
        np.testing.assert_allclose(moved[:, 0], W - line[:, 0], atol=1.01)


# --- values ----------------------------------------------------------------------------------------------------------


def wide_folder(root, top: int) -> np.ndarray:
    """Four pictures of 16 bits, the first dark: ramps up to a quarter, a half ... of top."""
    ramp = np.arange(600).reshape(20, 30) / 599
    held = np.stack([(ramp * top * share).round() for share in (0.01, 0.5, 0.75, 1)]).astype(np.uint16)
    for k, one in enumerate(held):
        Image.fromarray(one).save(root / f"{k}.png")
    return held


def test_pictures_of_sixteen_bits_keep_their_order(tmp_path):
    held = wide_folder(tmp_path, 65535)
    (feed,) = feeds(f"folder:{tmp_path}")
    for k, one in enumerate(held):
        shown = feed.sample(k, 0)
        assert np.array_equal(shown.steps[0].pictures[0][..., 0], (one / 257).round())
    census = Census()
    for sample in samples(feed, range(4)):
        census.add(sample)
    np.testing.assert_allclose(census.summary()["mean"], [(held / 257).round().mean()] * 3)


def test_one_range_for_all_pictures_and_one_that_is_asked_for(tmp_path, capsys):
    held = wide_folder(tmp_path, 4095)
    words = ["browse", f"folder:{tmp_path}", "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    assert "load: values from 0 to 4095 in the pictures probed, shown from 0 to 6.554e+04" in capsys.readouterr().out
    (feed,) = feeds(f"folder:{tmp_path}", settings=Settings(value_range("0:4095")))
    for k in (3, 0):
        assert np.array_equal(feed.sample(k, 0).steps[0].pictures[0][..., 0], (held[k] / 4095 * 255).round())


class Floats(torch.utils.data.Dataset):
    """Numbers from 0 to 255 in a dark and a bright picture."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return torch.full((3, 8, 8), [0.5, 255.0][index]), index


def test_a_dark_picture_is_dark_beside_a_bright_one():
    (feed,) = feeds(f"torch:{__file__}:Floats")
    for order in ((0, 1), (1, 0)):
        feed = feeds(f"torch:{__file__}:Floats")[0]
        assert {k: int(feed.sample(k, 0).steps[0].pictures[0].max()) for k in order} == {0: 0, 1: 255}


@pytest.mark.parametrize("count", [2, 5, 6])
def test_other_numbers_of_channels(tmp_path, count):
    tifffile = pytest.importorskip("tifffile")
    held = np.random.default_rng(0).integers(0, 256, (20, 30, count), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", held, photometric="minisblack", planarconfig="contig")
    load = feeds(f"folder:{tmp_path}")[0].sample(0, 0).steps[0]
    assert np.array_equal(load.pictures[0][..., :2], held[..., :2])
    if count > 4:
        assert f"channels 0, 1, 2 of {count}" in load.told
        (feed,) = feeds(f"folder:{tmp_path}", settings=Settings(channels=chosen_channels("4,1,0")))
        assert np.array_equal(feed.sample(0, 0).steps[0].pictures[0], held[..., [4, 1, 0]])
    (feed,) = feeds(f"folder:{tmp_path}", settings=Settings(channels=chosen_channels("each")))
    shown = feed.sample(0, 0).steps[0].pictures
    assert [np.array_equal(one[..., 1], held[..., k]) for k, one in enumerate(shown)] == [True] * count


def test_alpha_is_said_to_be_left_out(tmp_path):
    Image.fromarray(np.dstack([painted(), np.zeros((H, W), np.uint8)]), "RGBA").save(tmp_path / "a.png")
    load = feeds(f"folder:{tmp_path}")[0].sample(0, 0).steps[0]
    assert np.array_equal(load.pictures[0], painted())
    assert load.told == "alpha left out"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--range", "5"], "--range 5: expected LOW:HIGH"),
        (["--range", "9:3"], "expected LOW:HIGH"),
        (["--channels", "1,2"], "expected one or three numbers"),
        (["--channels", "7"], "the picture has 3, numbered from 0"),
        (["--boxes", "xyhw"], "Did you mean"),
        (["--boxes", "yolo"], "--boxes is for torch:, hf: and webdataset: data"),
    ],
)
def test_bad_words(tmp_path, words, message, capsys):
    Image.fromarray(painted()).save(tmp_path / "a.png")
    assert main(["browse", f"folder:{tmp_path}", *words, "--output-dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_the_order_of_colours_is_said_and_not_turned_again(tmp_path, capsys):
    Image.fromarray(painted()).save(tmp_path / "a.png")
    assert main(["browse", f"folder:{tmp_path}", "--bgr2rgb", "--output-dir", str(tmp_path / "out")]) == 0
    assert "--bgr2rgb has no effect" in capsys.readouterr().err
    shown = np.asarray(Image.open(next((tmp_path / "out").glob("0*.png"))))
    assert (shown == [255, 0, 0]).all(-1).sum() == 100
