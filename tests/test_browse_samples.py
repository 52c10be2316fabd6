"""Data sets through their pipelines: folders, torch data sets, real mmpretrain configs, bad samples, the census."""

from __future__ import annotations

import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchloupe.cli import main
from torchloupe.data.samples import BadSample, Marks, Sample, Step
from torchloupe.errors import BadInput
from torchloupe.methods import browse as methods
from torchloupe.methods.browse import Census, Moments, alike, faults, fingerprint, samples
from torchloupe.render import samples as render
from torchloupe.sources.datasets import feeds

TRANSFORMS = """
import albumentations as A, kornia.augmentation as K, torch
from torchvision import transforms as T
from torchvision.transforms import v2
MEAN, STD = [.485, .456, .406], [.229, .224, .225]
v1 = T.Compose([T.Resize((32, 48)), T.RandomHorizontalFlip(1.0), T.ToTensor(), T.Normalize(MEAN, STD)])
v2_ = v2.Compose([v2.Resize((32, 48)), v2.RandomHorizontalFlip(1.0), v2.ToImage(),
                  v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
alb = A.Compose([A.HorizontalFlip(p=1.0), A.Normalize(), A.ToTensorV2()])
kor = K.AugmentationSequential(K.RandomHorizontalFlip(p=1.0), K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
five = T.Compose([T.Resize(40), T.FiveCrop(16)])
wild = T.Compose([T.RandomResizedCrop(24), T.ColorJitter(.4, .4, .4)])
def bad(image):
    raise ValueError("no luck\\ntoday")
def make():
    return v1
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Real bundled photographs in two classes, one of them twice, and a file that is no picture."""
    from skimage import data

    root = tmp_path_factory.mktemp("photos")
    for label, names in {"alive": ("chelsea", "astronaut"), "things": ("coffee", "rocket")}.items():
        (root / label).mkdir()
        for name in names:
            Image.fromarray(getattr(data, name)()).resize((90, 60)).save(root / label / f"{name}.png")
    Image.fromarray(data.chelsea()).resize((60, 40)).save(root / "alive/chelsea_again.png")
    (root / "things/torn.jpg").write_bytes(b"no picture")
    (root / "tf.py").write_text(TRANSFORMS)
    return root


def configs() -> Path:
    import mmpretrain

    return Path(mmpretrain.__file__).parent / ".mim/configs"


@pytest.mark.parametrize("name", ["v1", "v2_", "alb", "kor", "make"])
def test_a_known_flip_is_undone_to_the_last_pixel(photos, name):
    """Every framework flips for certain: the normalised end shows the mirrored picture again, within rounding."""
    (feed,) = feeds(f"folder:{photos}", transform=f"{photos}/tf.py:{name}")
    sample = feed.sample(0, 7)
    names = [step.name for step in sample.steps]
    assert names[0] == "load"
    assert "Normalize" in names
    resized = [step for step in sample.steps if step.pictures][1 if "Resize" in names else 0].pictures[0]
    end = sample.transformed.pictures[0]
    assert np.abs(end.astype(int) - resized[:, ::-1].astype(int)).max() <= 1
    assert np.array_equal(sample.original.pictures[0], np.asarray(Image.open(photos / "alive/astronaut.png")))


def test_several_pictures_of_one_step_are_all_shown(photos):
    (feed,) = feeds(f"folder:{photos}", transform=f"{photos}/tf.py:five")
    assert len(feed.sample(0, 0).transformed.pictures) == 5


def test_seeds_repeat_and_nothing_is_left_behind(photos):
    (feed,) = feeds(f"folder:{photos}", transform=f"{photos}/tf.py:wild")
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    one, two, other = feed.sample(0, 1), feed.sample(0, 1), feed.sample(0, 2)
    assert np.array_equal(one.transformed.pictures[0], two.transformed.pictures[0])
    assert not np.array_equal(one.transformed.pictures[0], other.transformed.pictures[0])
    assert one.steps[1].told.startswith("(")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all("get_params" not in vars(stage.owner) for stage in feed.steps)


class Boxes(torch.utils.data.Dataset):
    """One real photograph with a box, a keypoint and a mask whose places are known."""

    classes = ("cat", "dog")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        from skimage import data

        picture = np.asarray(Image.fromarray(data.chelsea()).resize((90, 60)))
        mask = np.zeros((1, 60, 90), bool)
        mask[0, 5:15, 10:30] = True
        return {"image": picture, "boxes": np.array([[10.0, 5, 30, 15]]), "labels": [1],
                "keypoints": np.array([[[10.0, 5, 1]]]), "masks": mask}  # fmt: skip


@pytest.mark.parametrize("name", ["alb", "kor"])
def test_boxes_points_and_masks_are_flipped_along(photos, name):
    (feed,) = feeds(f"torch:{__file__}:Boxes", transform=f"{photos}/tf.py:{name}")
    step = feed.sample(0, 0).steps[1]
    marks = step.marks
    np.testing.assert_allclose(marks.boxes, [[60, 5, 80, 15]], atol=1.01)
    np.testing.assert_allclose(marks.keypoints[0, 0, :2], [80, 5], atol=1.01)
    assert marks.names == ("dog",)
    assert np.array_equal(np.asarray(marks.masks)[0] > 0, Boxes()[0]["masks"][0][:, ::-1])


class Kept(torch.utils.data.Dataset):
    """Gives the same memory each time, through a transform of its own where one is asked for."""

    def __init__(self, form: str = "uint8", own: bool = False) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        self.kept = torch.as_tensor(picture / np.float32(255)).permute(2, 0, 1) if form == "float" else picture
        if own:
            self.transform = mirror_in_place

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        return self.transform(self.kept) if hasattr(self, "transform") else self.kept


def mirror_in_place(image):
    """Mirrors the memory that it is given."""
    image[...] = image.flip(-1) if isinstance(image, torch.Tensor) else image[:, ::-1].copy()
    return image


@pytest.mark.parametrize("form", ["uint8", "float"])
def test_a_step_in_place_spoils_neither_the_loaded_picture_nor_the_next_repeat(form):
    (feed,) = feeds(f"torch:{__file__}:Kept?form={form}", transform=f"{__file__}:mirror_in_place")
    expected = Kept().kept
    for sample in samples(feed, range(1), repeat=2):
        assert np.array_equal(sample.steps[0].pictures[0], expected)
        assert np.array_equal(sample.steps[-1].pictures[0], expected[:, ::-1])
    (own,) = feeds(f"torch:{__file__}:Kept?form={form}&own=True")
    sample = own.sample(0, 0)
    assert [step.name for step in sample.steps] == ["load", "mirror_in_place"]
    assert np.array_equal(sample.steps[0].pictures[0], expected)
    assert np.array_equal(sample.steps[1].pictures[0], expected[:, ::-1])


@pytest.mark.parametrize("name", ["alb", "kor", "v1", "v2_"])
def test_the_load_tile_is_the_file_in_every_repeat(photos, name):
    (feed,) = feeds(f"folder:{photos}", transform=f"{photos}/tf.py:{name}")
    for sample in samples(feed, range(2), repeat=3):
        assert np.array_equal(sample.steps[0].pictures[0], np.asarray(Image.open(photos / sample.name)))


def folder_dataset(root: str):
    from torchvision import datasets, transforms

    steps = transforms.Compose([transforms.CenterCrop(32), transforms.ToTensor()])
    return datasets.ImageFolder(root, steps, is_valid_file=lambda path: path.endswith(".png"))


def test_a_torch_data_set_is_watched_and_put_back(photos):
    (feed,) = feeds(f"torch:{__file__}:folder_dataset?root={photos}")
    own = feed.dataset.transform
    sample = feed.sample(0, 0)
    assert [step.name for step in sample.steps] == ["load", "CenterCrop", "ToTensor"]
    assert (sample.label, sample.name) == ("alive", "astronaut.png")
    assert sample.original.pictures[0].shape == (60, 90, 3)
    assert feed.dataset.transform is own
    assert feed.dataset.transforms.transform is own


@pytest.mark.parametrize(
    "name",
    ["resnet/resnet50_8xb32_in1k.py", "swin_transformer/swin-tiny_16xb64_in1k.py",
     "mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py", "repvgg/repvgg-A0_8xb32_in1k.py"],
)  # fmt: skip
def test_real_configs(photos, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (feed,) = feeds(str(configs() / name), data=str(photos))
        (test,) = feeds(str(configs() / name), phase="val", data=str(photos))
    sample = feed.sample(0, 3)
    assert sample.steps[0].name == "LoadImageFromFile"
    packed = next(step for step in sample.steps if step.name == "PackInputs")
    assert not packed.pictures
    # Swin's training mixes batches.
    mixed = [step.name for step in sample.steps[sample.steps.index(packed) + 1 :]]
    assert set(mixed) <= {"mixed with", "Mixup", "CutMix"}
    assert bool(mixed) == ("swin" in name)
    assert sample.transformed.pictures[0].shape == (224, 224, 3)
    # mmcv loads BGR; the picture is shown in its own colours.
    assert np.array_equal(sample.original.pictures[0], np.asarray(Image.open(photos / "alive/astronaut.png")))
    crop = next(step for step in sample.steps if "Crop" in step.name)
    assert "crop_params" in crop.told
    assert [step.name for step in test.sample(0, 0).steps][-2:] == ["CenterCrop", "PackInputs"]
    found = [one for one in samples(feed, range(len(feed))) if isinstance(one, BadSample)]
    assert [(bad.name, bad.step) for bad in found] == [("torn.jpg", "step LoadImageFromFile")]


def test_what_a_model_of_a_config_would_see(photos):
    """The config's own test pipeline, from any folder; pictures keep their colours though the network takes BGR."""
    (feed,) = feeds(f"folder:{photos}", model=str(configs() / "resnet/resnet50_8xb32_in1k.py"))
    sample = feed.sample(0, 0)
    assert [step.name for step in sample.steps] == ["load", "ResizeEdge", "CenterCrop", "PackInputs"]
    assert sample.transformed.pictures[0].shape == (224, 224, 3)
    assert np.array_equal(sample.steps[3].pictures[0], sample.steps[2].pictures[0])
    image = Image.open(photos / sample.name).resize(sample.steps[1].pictures[0].shape[1::-1])
    assert np.abs(np.asarray(image).astype(float) - sample.steps[1].pictures[0]).mean() < 8


@pytest.mark.parametrize("model", ["timm:resnet18", "torchvision:resnet18"])
def test_what_a_model_would_see(photos, model):
    (feed,) = feeds(f"folder:{photos}", model=model)
    sample = feed.sample(0, 0)
    assert sample.transformed.pictures[0].shape == (224, 224, 3)
    assert sample.steps[-1].name.lower().startswith(("normalize", "maybe"))


def test_what_a_transformers_model_would_see(photos, tmp_path):
    from transformers import ViTImageProcessor

    ViTImageProcessor(size={"height": 48, "width": 40}).save_pretrained(tmp_path)
    (feed,) = feeds(f"folder:{photos}", model=f"transformers:{tmp_path}")
    sample = feed.sample(0, 0)
    assert [step.name for step in sample.steps] == ["load", "resize", "rescale", "normalize"]
    first, last = sample.steps[1].pictures[0], sample.steps[-1].pictures[0]
    assert first.shape == (48, 40, 3)
    assert np.abs(first.astype(int) - last.astype(int)).max() <= 1


def test_moments_against_plain_loops():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((3, 4), (5, 2))]
    moments = Moments()
    for picture in pictures:
        moments.add(picture)
    for c in range(3):
        values = [float(v) for picture in pictures for v in picture[..., c].ravel()]
        mean = sum(values) / len(values)
        assert moments.mean[c] == pytest.approx(mean, rel=1e-12)
        assert moments.std[c] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / len(values)), rel=1e-9)


def test_census_finds_the_duplicate_and_the_broken(photos):
    (feed,) = feeds(f"folder:{photos}")
    census = Census()
    for sample in samples(feed, range(len(feed))):
        census.add(sample)
    summary = census.summary()
    assert summary["samples"] == 5
    assert summary["classes"] == {"alive": 3, "things": 2}
    assert summary["duplicates"] == [["alive/chelsea.png", "alive/chelsea_again.png"]]
    assert [bad["name"] for bad in summary["broken"]] == ["things/torn.jpg"]
    assert summary["width"] == {"min": 60.0, "median": 90.0, "max": 90.0}


@pytest.mark.parametrize("pairs", [1 << 20, 50])
def test_groups_of_alike_fingerprints_are_those_of_all_pairs(monkeypatch, pairs):
    """Beside every pair, one by one: signs near one another and far apart, thumbnails near and far, long chains."""
    monkeypatch.setattr(methods, "MOST_PAIRS", pairs)
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, 72).astype(np.uint8) for _ in range(12)]
    for _ in range(90):
        one = made[rng.integers(len(made))].copy()
        for bit in rng.choice(64, rng.integers(0, 9), replace=False):
            one[bit // 8] ^= 1 << (bit % 8)
        one[8:] = np.clip(one[8:].astype(int) + rng.choice([0, 2, 9]), 0, 255)
        made.append(one)
    edges = {
        (i, j)
        for i in range(len(made))
        for j in range(i)
        if sum(bin(int(a ^ b)).count("1") for a, b in zip(made[i][:8], made[j][:8], strict=True)) <= 6
        and sum(abs(int(a) - int(b)) for a, b in zip(made[i][8:], made[j][8:], strict=True)) / 64 < 6
    }
    groups = [{k} for k in range(len(made))]
    for i, j in edges:
        one, other = (next(group for group in groups if k in group) for k in (i, j))
        if one is not other:
            one |= other
            groups.remove(other)
    assert methods.alike(made) == sorted(sorted(group) for group in groups if len(group) > 1)
    assert len(edges) > 4
    assert max(map(len, groups)) > 3


def test_flat_pictures_of_different_grey_are_not_alike():
    flat = [fingerprint(np.full((20, 30, 3), grey, np.uint8)) for grey in (10, 200, 201)]
    assert alike(flat) == [[1, 2]]


def test_the_original_has_the_marks_that_are_loaded_after_it():
    picture, boxes = np.zeros((4, 6, 3), np.uint8), Marks(np.array([[1.0, 1, 3, 2]]))
    load, notes = Step("LoadImageFromFile", (picture,)), Step("LoadAnnotations", (picture.copy(),), "", boxes)
    flip = Step("RandomFlip", (picture + 1,), "", boxes)
    assert Sample(0, "a", "", (load, notes, flip)).original.marks is boxes
    assert Sample(0, "a", "", (load, notes, flip)).original.name == "LoadImageFromFile"
    assert Sample(0, "a", "", (load, flip)).original.marks.empty
    assert Sample(0, "a", "", (notes, flip)).original is notes


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ([[1, 1, 9, 9]], None),
        ([[1, 1, 20.5, 10.4]], None),
        ([[1, 1, 9, 9], [5, 5, 5, 8]], "1 of 2 boxes without area: 5, 5, 5, 8 (b)"),
        ([[9, 9, 1, 1]], "box without area: 9, 9, 1, 1 (a)"),
        ([[21, 2, 30, 8]], "box outside its picture of 20x10: 21, 2, 30, 8 (a)"),
        ([[2, 2, 38, 9]], "box beyond its picture of 20x10: 2, 2, 38, 9 (a)"),
        ([[0.1, 0.2, 0.4, 0.9]], "boxes from 0 to 1 on a picture of 20x10: shares of it, not pixels?"),
    ],
)
def test_boxes_that_do_not_fit_their_picture_are_listed(boxes, fault):
    step = Step("load", (np.zeros((10, 20, 3), np.uint8),), "", Marks(np.array(boxes, float), ("a", "b")))
    sample = Sample(3, "x.png", "", (step, Step("flip", step.pictures, "", step.marks)))
    wanted = [] if fault is None else [f"load: {fault}"]
    assert faults(sample) == wanted
    census = Census()
    census.add(sample)
    lines = render.table("set", census.summary())
    assert [line for line in lines if "annotation" in line] == [
        f"  annotation        sample 3 (x.png): {line}" for line in wanted
    ]


def test_marks_are_drawn_where_they_are():
    picture = np.zeros((20, 30, 3), np.uint8)
    image = np.asarray(render.marked(picture, Marks(np.array([[5.0, 4, 20, 15]])), factor=2))
    assert image.shape == (40, 60, 3)
    lit = np.argwhere(image.any(-1))
    assert lit.min(0).tolist() == [8, 10]
    assert lit.max(0).tolist() == [30, 40]


@pytest.mark.parametrize("mode", ["original", "transformed", "concat", "pipeline"])
def test_command_line(photos, tmp_path, capsys, mode):
    words = ["browse", f"folder:{photos}", "--transform", f"{photos}/tf.py:v1", "--mode", mode, "--show-number", "3"]
    assert main([*words, "--output-dir", str(tmp_path), "--rescale-factor", "2", "--bgr2rgb", "--repeat", "2"]) == 0
    assert "3 samples" in capsys.readouterr().out
    pictures = sorted(tmp_path.glob("0*.png"))
    assert len(pictures) == 3
    for name in ("census.json", "census.npz", "census.png", "index.html"):
        assert (tmp_path / name).is_file()
    assert all(path.name in (tmp_path / "index.html").read_text() for path in pictures)


def test_contact_sheets_and_skipped_samples(photos, tmp_path, capsys):
    assert main(["browse", f"folder:{photos}", "--grid", "1x2", "--output-dir", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("sheet-*.png"))) == 3
    assert "torn.jpg" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "neither a config file"),
        (["resnet50_8xb32_in1.py"], "Did you mean resnet50_8xb32_in1k, "),
        (["{photos}", "--model", "transformers:{root}"], "expected a folder with a preprocessor_config.json"),
        (["folder:nowhere"], "no such folder"),
        (["{resnet}", "--phase", "train"], "cannot be built"),
        (["{phaseless}", "--phase", "val"], "has no data for --phase val (it has train)"),
        (["{photos}", "--show-number", "0"], "--show-number 0"),
        (["{photos}", "--repeat", "0"], "--repeat 0"),
        (["{photos}", "--rescale-factor", "-1"], "--rescale-factor -1"),
        (["{photos}", "--show-interval", "-1"], "--show-interval -1"),
        (["{photos}", "--grid", "4"], "expected ROWSxCOLUMNS"),
        (["{photos}", "--mode", "sideways"], "sideways"),
        (["{photos}", "--transform", "{tf}:nothing"], "has no 'nothing'"),
        (["{photos}", "--transform", "{tf}:bad"], "step bad: ValueError: no luck today"),
        (["{photos}", "--strict"], "torn.jpg"),
        (["{photos}", "--model", "timm:resnet1888"], "timm has no model"),
        (["{photos}", "--model", "nothing"], "expected timm:NAME"),
        (["torch:math:pi"], "expected a data set or a factory"),
        (["{resnet}", "--data", "{root}", "--phase", "testing"], "testing"),
        (["{resnet}", "--data", "{root}/tf.py"], "no such folder"),
        (["{resnet}", "--data", "{root}", "--strict"], "(torn.jpg): step LoadImageFromFile: "),
        (["{refuses}", "--data", "{root}"], "sample 0 (astronaut.png): step Rotate: "),
        (["{detector}"], "mmnodet, which is not installed; install it: pip install mmnodet"),
        (["{imports}"], "operator roi_pool_forward"),
        (["{photos}", "--seed", "-1"], "--seed -1"),
        (["{photos}", "--rescale-factor", "0"], "--rescale-factor 0"),
        (["{photos}", "--rescale-factor", "1000"], "is too large"),
        (["{photos}", "--grid", "0x3"], "expected ROWSxCOLUMNS"),
        (["{photos}", "--show-number", "-3"], "--show-number -3"),
        (["{photos}", "--cfg-options", "a"], "key=value"),
        (["folder:{root}/alive/none"], "no such folder"),
        (["folder:"], "names nothing"),
        ([""], "an empty word"),
        (["{photos}", "--data", "{root}"], "--data is for configs"),
        (["{photos}", "--transform", "{tf}:MEAN"], "(float) cannot be called"),
        (["{photos}", "--model", "nowhere/resnet50_8xb32_in1.py"], "Did you mean resnet50_8xb32_in1k"),
    ],
)
def test_bad_words(photos, tmp_path, words, message, capsys, monkeypatch):
    (tmp_path / "phaseless.py").write_text("train_dataloader = dict(dataset=dict(type='X'))")
    (tmp_path / "detector.py").write_text("default_scope = 'mmnodet'\ntrain_dataloader = dict(dataset=dict(type='X'))")
    (tmp_path / "imports.py").write_text(
        "default_scope = 'loupe_needs_mmcv'\ntrain_dataloader = dict(dataset=dict(type='X'))"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "loupe_needs_mmcv").mkdir()
    (tmp_path / "loupe_needs_mmcv/__init__.py").write_text("")
    (tmp_path / "loupe_needs_mmcv/datasets.py").write_text(
        "import importlib\nimportlib.import_module('mmcv._ext').roi_pool_forward()"
    )
    (tmp_path / "refuses.py").write_text(
        "default_scope = 'mmpretrain'\ntrain_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[dict("
        "type='LoadImageFromFile'), dict(type='Rotate', angle=10., interpolation='worst', prob=1.)]))"
    )
    places = {"root": photos, **{name: str(tmp_path / f"{name}.py") for name in ("detector", "imports", "refuses")},
              "photos": f"folder:{photos}", "tf": f"{photos}/tf.py", "phaseless": str(tmp_path / "phaseless.py"),
              "resnet": str(configs() / "resnet/resnet50_8xb32_in1k.py")}  # fmt: skip
    full = ["browse", *(word.format(**places) for word in words), "--output-dir", str(tmp_path / "out")]
    assert main(full) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("loupe: error: ")
    assert message in last


def test_a_folder_of_configs_and_a_census_drawn_again(photos, tmp_path, capsys):
    """CIFAR's pipeline, which loads nothing, stands beside ImageNet's; the stored census is drawn without the data."""
    import shutil

    home = tmp_path / "configs"
    home.mkdir()
    for name in ("resnet18_8xb16_cifar10", "resnet50_8xb32_in1k"):
        shutil.copy(configs() / f"resnet/{name}.py", home)
    shutil.copytree(configs() / "_base_", tmp_path / "_base_")
    words = ["browse", str(home), "--data", str(photos), "--phase", "val", "--mode", "original", "--show-number", "1"]
    assert main([*words, "--output-dir", str(tmp_path / "out")]) == 0
    stored = sorted((tmp_path / "out").glob("*/census.npz"))
    assert [path.parent.name for path in stored] == ["resnet18_8xb16_cifar10", "resnet50_8xb32_in1k"]
    capsys.readouterr()
    assert main(["draw", str(stored[0]), "--save", str(tmp_path / "again.png")]) == 0
    first, again = (Image.open(path) for path in (stored[0].with_name("census.png"), tmp_path / "again.png"))
    assert np.array_equal(np.asarray(first), np.asarray(again))


def test_a_config_takes_no_other_transform(photos):
    with pytest.raises(BadInput, match="a config has its own pipeline"):
        feeds(str(configs() / "resnet/resnet50_8xb32_in1k.py"), transform=f"{photos}/tf.py:v1")
