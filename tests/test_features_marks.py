"""Boxes and regions over pictures: where they are drawn, what stays inside them, and the commands that ask for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.cam import gradcam
from torchloupe.methods.smooth import aug_smooth
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.render.marks import Mark, framed_boxes, inside_box, inside_region, listed, outlined
from torchloupe.render.pictures import Sheet, draw, drawing
from torchloupe.render.style import Style
from torchloupe.sources import subject
from torchloupe.sources.preparation import Preparation
from torchloupe.targets.boxes import Boxes, Detections, Region, regions

SIZE = (40, 60)


class Cells(nn.Module):
    """A detector in small: one box a cell of a grid, its score and class from a convolution that does not mind a mirror."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 6, 10, stride=10)
        self.head = nn.Conv2d(6, 2, 1)
        with torch.no_grad():
            self.backbone.weight.copy_((self.backbone.weight + self.backbone.weight.flip(-1)) / 2)

    def forward(self, x: Tensor) -> list[Detections]:
        heat = self.head(self.backbone(x).relu()).sigmoid()
        h, w = heat.shape[-2:]
        corner = torch.tensor([[10.0 * j, 10.0 * i] for i in range(h) for j in range(w)], dtype=x.dtype)
        boxes = torch.cat([corner, corner + 10], 1)
        return [Detections(boxes, one.amax(0).flatten(), one.argmax(0).flatten()) for one in heat]


def detector() -> Subject:
    torch.manual_seed(0)
    module = Cells()

    def steps(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image.resize(SIZE[::-1]), np.float32) / 255).permute(2, 0, 1)

    preparation = Preparation(steps, (3, *SIZE), (0.0,) * 3, (1.0,) * 3)
    return Subject(
        module,
        read=lambda output: output,
        kind="detector",
        layers=("backbone",),
        spec="cells",
        classes=("cat", "dog"),
        prepare=lambda images, ids=(): preparation.batch(images, ids, module=module),
    )


class Painter(nn.Module):
    """A segmenter in small."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 2, 2), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.head(self.encoder(x)), size=x.shape[-2:], mode="bilinear")


def painter() -> Painter:
    torch.manual_seed(0)
    return Painter()


DETECTOR, SEGMENTER = f"torch:{__name__}:detector", f"torch:{__name__}:painter"


@pytest.fixture
def street(tmp_path: Path) -> str:
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return str(path)


def run(*words: str) -> int:
    return main([*words, "--dpi", "60"])


def test_the_pixels_of_a_box_and_of_a_region() -> None:
    mask = inside_box((1.2, 2.0, 3.5, 4.0), (6, 5))
    assert [(i, j) for i, j in np.argwhere(mask)] == [(i, j) for i in (2, 3) for j in (1, 2, 3)]
    assert inside_box((-9, -9, -5, -5), (6, 5)).sum() == 1
    assert inside_box((90, 90, 95, 95), (6, 5))[5, 4]
    coarse = np.array([[True, False], [False, True]])
    assert np.array_equal(inside_region(coarse, (4, 6)), np.kron(coarse, np.ones((2, 3), bool)))


def test_boxes_are_drawn_where_they_are_at_any_size() -> None:
    plain = np.full((100, 200, 3), 120, np.uint8)
    image = framed_boxes(plain, [Mark((20, 10, 60, 40))], (50, 100))
    assert (image[20:80, 40] == 255).all()
    assert (image[20, 40:120] == 255).all()
    assert (image[40:60, 60:100] == 120).all()
    assert (image[:15] == 120).all()
    assert framed_boxes(plain, [], (50, 100)) is plain
    written = framed_boxes(plain, [Mark((20, 20, 60, 40), "dog 0.90")], (50, 100))
    assert (written != framed_boxes(plain, [Mark((20, 20, 60, 40))], (50, 100))).any()


def test_a_region_has_an_outline() -> None:
    inside = np.zeros((50, 50), bool)
    inside[10:40, 10:40] = True
    image = outlined(np.full((50, 50, 3), 120, np.uint8), inside)
    assert (image[10, 12:38] == 255).all()
    assert (image[15:35, 15:35] == 120).all()
    assert (image[:8] == 120).all()


def test_detections_are_listed_best_first() -> None:
    rows = np.array([[0, 0, 1, 1, 0.2, 0], [0, 0, 2, 2, 0.9, 1], [0, 0, 3, 3, 0.1, 1]])
    assert [mark.label for mark in listed(rows, {"0": "cat"}, 0.15)] == ["class 1 0.90", "cat 0.20"]


def sheet(maps: np.ndarray) -> Sheet:
    picture = np.full((1, *SIZE, 3), 200, np.uint8)
    boxes = np.array([[10.0, 10, 30, 30]])
    return Sheet("x", picture, {("gradcam", "top"): maps}, frozenset(), ("dog [10 10 30 30]",), (0.5,), boxes)


def test_a_confined_map_has_its_own_scale_and_leaves_the_picture_alone() -> None:
    maps = np.zeros((1, 1, 4, 6))
    maps[0, 0, 1, 1] = 1
    maps[0, 0, 3, 5] = 100
    (tile,) = drawing([sheet(maps)], Style(confine=True, boxes="none")).tiles
    assert tile.values.max() == tile.values[15, 15] == 1
    image = tile.image(Style(confine=True, boxes="none"))
    inside = inside_box((10, 10, 30, 30), SIZE)
    assert (image[~inside] == 200).all()
    assert (image[inside] != 200).any(1).all()
    (free,) = drawing([sheet(maps)], Style(boxes="none")).tiles
    assert free.values[1, 1] == pytest.approx(0.01)
    (shared,) = drawing([sheet(maps)], Style(confine=True, scale="run")).tiles
    assert shared.values.max() == shared.values[15, 15] == 1


def test_what_is_asked_stays_the_same_in_the_mirror() -> None:
    found = detector()
    torch.manual_seed(1)
    batch = Batch(torch.rand(2, 3, *SIZE))
    for target in (Boxes(3), Boxes(3, "iou")):
        scores, asked = Probe(found, ("backbone",), target).ask(batch)
        turned = Batch(batch.x.flip(-1), asked=target.mirrored(asked.asked, asked))
        assert torch.allclose(target(found.output(turned), turned).value, scores.value)
    maps = aug_smooth(
        lambda probe, samples: {"gradcam": gradcam(probe, samples)}, Probe(found, ("backbone",), target), batch
    )
    assert maps["gradcam"]["backbone"].any()
    logits = torch.randn(2, 3, 8, 8)
    region = Region(k=2)
    asked = region.choose(logits, batch)
    turned = Batch(batch.x.flip(-1), asked=region.mirrored(asked, batch))
    assert torch.allclose(region(logits.flip(-1), turned).value, region(logits, batch).value)


def test_cam_of_a_detector_draws_its_boxes(street: str, tmp_path: Path) -> None:
    words = ("--target", "top2", "--compare", "--boxes", "all", "--save", str(tmp_path / "out"))
    assert run("cam", street, "--model", DETECTOR, *words) == 0
    arrays, record = store.load(tmp_path / "out" / "street.npz")
    assert arrays["boxes"].shape == (2, 4)
    assert arrays["detections"].shape == (24, 6)
    assert set(record["classes"].values()) <= {"cat", "dog"}
    assert [f"[{' '.join(f'{v:.0f}' for v in box)}]" for box in arrays["boxes"]] == [
        question[question.index("[") :] for question in record["questions"]
    ]
    whole = (tmp_path / "out" / "street-grid.png").read_bytes()
    assert run("draw", str(tmp_path / "out" / "street.npz"), "--compare", "--boxes", "none") == 0
    assert (tmp_path / "out" / "street-grid.png").read_bytes() != whole
    assert (
        run("cam", street, "--model", DETECTOR, *words[:2], "--threshold", "0.99", "--save", str(tmp_path / "no")) == 2
    )
    assert not (tmp_path / "no").exists()
    assert run("cam", street, "--model", DETECTOR, "--explain", "iou", "--aug-smooth", *words) == 0


def test_boxes_from_python() -> None:
    found = detector()
    batch = Batch(torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0)))
    probe = Probe(found, ("backbone",), Boxes(2, names=found.classes))
    _, batch = probe.ask(batch)
    drawn = draw(gradcam(probe, batch), batch, classes=found.classes, boxes="all", confine=True)
    assert drawn.sheets[0].boxes is not None
    marks = drawn.sheets[0].marks(0, "all", labels=True)
    assert (len(marks), sum(mark.bold for mark in marks)) == (20, 1)
    assert len(drawn.sheets[0].marks(0, "all", labels=False)) == 1
    assert drawn.figure() is not None


def test_a_segmenter_is_asked_about_regions(street: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = subject(painter(), device="cpu")
    assert (found.kind, found.layers) == ("segmenter", ("encoder.3",))
    assert run("cam", street, "--model", SEGMENTER, "--target", "top2", "--confine", "--save", str(tmp_path)) == 0
    arrays, record = store.load(tmp_path / "street.npz")
    assert arrays["region"].shape == (2, 224, 224)
    assert len(record["questions"]) == 2
    assert run("cam", street, "--model", SEGMENTER, "--each", "--target", "1") == 2
    assert "asked for boxes or regions" in capsys.readouterr().err
    assert run("cam", street, "--model", SEGMENTER, "--threshold", "0.5") == 2
    assert "are for detectors" in capsys.readouterr().err


def test_regions_as_people_write_them() -> None:
    assert regions(()) == Region()
    assert regions(("top3",)) == Region(k=3)
    assert regions(("dog", "2")) == Region(("dog", 2))
    for words, said in ((("truth",), "no one true class"), (("top2", "dog"), "either topK or classes")):
        with pytest.raises(BadInput, match=said):
            regions(words)


def test_feature_maps_of_a_detector_carry_its_boxes(street: str, tmp_path: Path) -> None:
    look = ("--at", "backbone", "--channel-reduction", "squeeze_mean", "--overlaid")
    pictures = {}
    for name, more in (
        ("all", ("--cfg-options", "pred_score_thr=0.0")),
        ("none", ("--cfg-options", "draw_pred=False")),
    ):
        assert run("features", street, "--model", DETECTOR, *look, *more, "-o", str(tmp_path / name)) == 0
        pictures[name] = (tmp_path / name / "street-features.png").read_bytes()
    assert pictures["all"] != pictures["none"]
    result = str(tmp_path / "all" / "street-features.npz")
    assert run("draw", result, "--pred-score-thr", "2", "--save", str(tmp_path / "again")) == 0
    assert (tmp_path / "again" / "street-features.png").read_bytes() == pictures["none"]
    assert run("features", street, "--model", DETECTOR, *look, "--cfg-options", "pred_score_thr=high") == 2
