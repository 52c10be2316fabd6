"""Targets for detectors and segmenters, and heatmaps kept inside boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.methods.cam import gradcam
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.boxes import Boxes, Detections, Region, boxes, confined, iou

D = torch.float64


def overlap(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(area) - wide * tall
    return wide * tall / union if union else 0.0


def test_iou_is_intersection_over_union() -> None:
    a = [[0.0, 0, 4, 4], [1, 1, 3, 5], [9, 9, 9, 9]]
    b = [[2.0, 2, 6, 6], [0, 0, 4, 4], [9, 9, 9, 9]]
    found = iou(torch.tensor(a, dtype=D), torch.tensor(b, dtype=D))
    assert found.tolist() == [[pytest.approx(overlap(x, y)) for y in b] for x in a]


def detections(scores: list[float]) -> Detections:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]], dtype=D)
    count, known = len(scores), torch.tensor(scores, dtype=D, requires_grad=True)
    return Detections(boxes[:count], known, torch.tensor([1, 1, 2])[:count])


BATCH = Batch(torch.zeros(1, 3, 32, 32, dtype=D), ids=("street",))


def test_boxes_are_chosen_once_and_then_held() -> None:
    target = Boxes(2, names=("none", "car", "dog"))
    asked = target.choose([detections([0.9, 0.3, 0.6])], BATCH)
    assert asked["labels"].tolist() == [[1, 2]]
    held = Batch(BATCH.x, ids=BATCH.ids, asked=asked)
    assert target([detections([0.9, 0.3, 0.6])], held).value.tolist() == [[0.9], [0.6]]
    assert target([detections([0.2, 0.95, 0.6])], held).value.tolist() == [[0.2], [0.6]]
    assert target([detections([0.2, 0.95, 0.6])], held).labels == (("car [0 0 10 10]",), ("dog [20 20 30 30]",))
    weighted = Boxes(2, "iou")([detections([0.2, 0.95, 0.6])], held)
    assert weighted.value[0].item() == pytest.approx(max(0.2, 0.95 * overlap([0, 0, 10, 10], [1, 0, 11, 10])))


def test_a_detection_that_is_gone_scores_zero() -> None:
    target = Boxes(1)
    held = Batch(BATCH.x, ids=BATCH.ids, asked=target.choose([detections([0.9, 0.3, 0.6])], BATCH))
    moved = detections([0.9, 0.3, 0.6])._replace(boxes=torch.full((3, 4), 50.0, dtype=D))
    assert target([moved], held).value.tolist() == [[0.0]]


def test_fewer_detections_than_asked() -> None:
    found = Boxes(5, threshold=0.5)([detections([0.9, 0.3, 0.6])], BATCH)
    assert found.value.flatten().tolist() == [0.9, 0.6, 0, 0, 0]
    assert found.labels[4] == ("no detection",)


def test_only_some_classes() -> None:
    target = Boxes(1, wanted=("dog",), names=("none", "car", "dog"))
    assert target([detections([0.9, 0.3, 0.6])], BATCH).value.tolist() == [[0.6]]


@pytest.mark.parametrize(
    ("target", "output", "words"),
    [
        (
            Boxes(1, threshold=0.95),
            [detections([0.9, 0.3, 0.6])],
            "street: no detection scores 0.95 or more; its best has 0.9",
        ),
        (Boxes(1), [detections([])], "street: the detector found nothing in this picture, at any score"),
        (
            Boxes(1, wanted=("none",), names=("none", "car", "dog")),
            [detections([0.9, 0.3, 0.6])],
            "street: none of its 3 detections is of class none; take other classes",
        ),
        (
            Boxes(1, wanted=("dog",), names=("none", "car", "dog"), threshold=0.7),
            [detections([0.9, 0.3, 0.6])],
            "street: no detection scores 0.7 or more; its best has 0.6; lower the threshold",
        ),
        (Boxes(1), [detections([float("nan")] * 3)], "street: the score of every detection is NaN"),
        (Boxes(1), torch.zeros(1, 5), "box targets need a detector"),
        (
            Boxes(1, wanted=("cat",), names=("none", "car", "dog")),
            [detections([0.9, 0.3, 0.6])],
            "no class 'cat'. Did you",
        ),
        (Region(), torch.zeros(1, 5), "need a segmenter's output"),
        (Region((3,)), torch.eye(4)[:, 0].view(1, 4, 1, 1).expand(1, 4, 8, 8), "street: no pixel is seen as class 3"),
    ],
)
def test_bad_questions(target: Boxes | Region, output: object, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace("[", r"\[")):
        target(output, BATCH)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [{"k": 0}, {"value": "area"}, {"k": 0, "value": "area"}])
def test_questions_about_no_box(words: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="expected 1 or more boxes, and 'score' or 'iou'"):
        Boxes(**words)  # type: ignore[arg-type]


def test_a_class_beyond_the_last_is_refused_where_the_names_are_known() -> None:
    assert Boxes(1, wanted=(2,), names=("none", "car", "dog"))([detections([0.9, 0.3, 0.6])], BATCH).value.item() == 0.6
    with pytest.raises(BadInput, match="3"):
        Boxes(1, wanted=(3,), names=("none", "car", "dog"))([detections([0.9, 0.3, 0.6])], BATCH)
    assert Boxes(1, wanted=(2,))([detections([0.9, 0.3, 0.6])], BATCH).value.item() == 0.6


@pytest.mark.parametrize(
    "output", [[], [detections([0.9])] * 2, (detections([0.9]),) * 2, torch.zeros(1, 6), [torch.zeros(1)]]
)
def test_what_is_no_list_of_detections_of_every_picture(output: object) -> None:
    with pytest.raises(BadInput, match="whose output is 1 Detections"):
        Boxes(1)(output, BATCH)  # type: ignore[arg-type]


def test_maps_are_kept_to_their_boxes_against_loops() -> None:
    maps = torch.rand(2, 1, 1, 4, 3, generator=torch.Generator().manual_seed(0)) + 1
    boxes = torch.tensor([[[3.0, 9, 25, 31], [29, 0, 30, 2]]])  # the second holds no cell's middle
    found = confined(maps, boxes, (40, 30))
    for k, (left, top, right, bottom) in enumerate(boxes[0].tolist()):
        centre = int((top + bottom) / 2 // 10), int((left + right) / 2 // 10)
        for i in range(4):
            for j in range(3):
                rows = top <= (i + 0.5) * 40 / 4 < bottom or i == centre[0]
                columns = left <= (j + 0.5) * 30 / 3 < right or j == centre[1]
                assert found[k, 0, 0, i, j] == (maps[k, 0, 0, i, j] if rows and columns else 0)


def test_regions_are_where_the_network_sees_a_class() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=D, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.zeros(2, 3, 4, 5), ids=("a", "b"))
    found = Region((0, 2))(logits, batch)
    for n in range(2):
        for k, c in enumerate((0, 2)):
            inside = [
                logits[n, c, i, j].item()
                for i in range(4)
                for j in range(5)
                if max(range(3), key=lambda m, n=n, i=i, j=j: logits[n, m, i, j].item()) == c
            ]
            assert found.value[k, n].item() == pytest.approx(sum(inside) / len(inside))
    largest = Region(k=1).choose(logits, batch)["classes"]
    assert largest.flatten().tolist() == [logits[n].argmax(0).flatten().mode().values.item() for n in range(2)]


def test_maps_stay_inside_their_box() -> None:
    maps = torch.ones(1, 2, 1, 4, 8)
    boxes = torch.tensor([[[0.0, 0, 16, 8]], [[30, 30, 31, 31]]])
    found = confined(maps, boxes, (32, 64))
    assert found[0, 0, 0].tolist() == [[1.0, 1, 0, 0, 0, 0, 0, 0], *[[0.0] * 8] * 3]
    assert found[0, 1, 0].sum() == 1
    assert found[0, 1, 0, 3, 3] == 1


class Grid(torch.nn.Module):
    """A detector in small: one box a cell of a 4 x 4 grid, its score from a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Conv2d(3, 2, 8, stride=8)

    def forward(self, x: Tensor) -> list[Detections]:
        heat = self.backbone(x).relu().sum(1).sigmoid()
        corner = torch.tensor([[8.0 * j, 8.0 * i] for i in range(4) for j in range(4)], dtype=x.dtype)
        boxes = torch.cat([corner, corner + 8], 1)
        return [Detections(boxes, one.flatten(), torch.zeros(16, dtype=torch.long)) for one in heat]


def test_a_heatmap_of_a_box_lies_in_the_box() -> None:
    torch.manual_seed(0)
    subject = Subject(Grid().double(), read=lambda output: output, kind="detector")
    batch = Batch(torch.randn(2, 3, 32, 32, dtype=D))
    probe = Probe(subject, ("backbone",), Boxes(3))
    maps = gradcam(probe, batch)["backbone"]
    asked = probe.target.choose(subject.output(batch), batch)  # type: ignore[attr-defined]
    best = maps.flatten(3).argmax(-1)[..., 0]
    for k in range(3):
        for n in range(2):
            left, top = asked["boxes"][n, k, :2].tolist()
            inside = confined(maps, asked["boxes"], (32, 32))[k, n, 0]
            assert inside.nonzero().tolist() in ([], [[int(top) // 8, int(left) // 8]])
            assert k or best[k, n] == int(top) // 8 * 4 + int(left) // 8


def test_boxes_as_people_write_them() -> None:
    assert boxes(()) == boxes(("predicted",)) == Boxes(1)
    assert boxes(("top3", "dog", "2")) == Boxes(3, wanted=("dog", 2))
    with pytest.raises(BadInput, match="no one true class"):
        boxes(("truth",))
