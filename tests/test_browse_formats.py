"""Annotated pictures as tools export them, each written by hand: boxes lie on what they frame before and after the whole pipeline."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from torchloupe.cli import main
from torchloupe.data.samples import Marks
from torchloupe.errors import BadInput
from torchloupe.methods.browse import faults
from torchloupe.render.samples import marked
from torchloupe.sources.datasets import feeds

W, H = 80, 60
BOXES = np.array([[8.0, 12, 30, 32], [40, 6, 72, 52]])
NAMES = ("cat", "dog")
MOVED = v2.Compose([v2.Resize((90, 120)), v2.RandomHorizontalFlip(1.0)])


def painted() -> np.ndarray:
    """The first box red, the second green."""
    picture = np.zeros((H, W, 3), np.uint8)
    for k, (x0, y0, x1, y1) in enumerate(BOXES.astype(int)):
        picture[y0:y1, x0:x1, k] = 255
    return picture


def polygons() -> list[np.ndarray]:
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in BOXES]


def coco(root: Path) -> str:
    notes = [{"id": k, "image_id": 5, "category_id": k + 3, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [line.ravel().tolist()]}
             for k, ((x0, y0, x1, y1), line) in enumerate(zip(BOXES.tolist(), polygons(), strict=True))]  # fmt: skip
    held = {"images": [{"id": 5, "file_name": "a.png", "width": W, "height": H}], "annotations": notes,
            "categories": [{"id": k + 3, "name": name} for k, name in enumerate(NAMES)]}  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations/instances.json").write_text(json.dumps(held))
    return f"coco:{root}/annotations/instances.json?images={root}/images"


def panoptic(root: Path) -> str:
    ids = np.zeros((H, W, 3), np.uint8)
    for k, (x0, y0, x1, y1) in enumerate(BOXES.astype(int)):
        ids[y0:y1, x0:x1] = (7 + k, 2 * k, 1)
    (root / "panoptic").mkdir()
    Image.fromarray(ids).save(root / "panoptic/a.png")
    segments = [{"id": 7 + k + 256 * 2 * k + 65536, "category_id": k} for k in range(2)]
    held = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": k, "name": name} for k, name in enumerate(NAMES)],
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]}  # fmt: skip
    (root / "panoptic.json").write_text(json.dumps(held))
    return f"coco:{root}/panoptic.json?images={root}/images"


def yolo_rows(polygon: bool) -> str:
    rows = []
    for k, ((x0, y0, x1, y1), line) in enumerate(zip(BOXES, polygons(), strict=True)):
        middle = [(x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H]
        numbers = (line / [W, H]).ravel().tolist() if polygon else middle
        rows.append(f"{k} " + " ".join(f"{value:.8f}" for value in numbers))
    return "\n".join(rows)


def yolo(root: Path, polygon: bool = False) -> str:
    (root / "labels").mkdir()
    (root / "labels/a.txt").write_text(yolo_rows(polygon))
    (root / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: {0: cat, 1: dog}\n")
    return f"yolo:{root}/data.yaml"


def yolo_polygons(root: Path) -> str:
    return yolo(root, True)


def voc(root: Path) -> str:
    (root / "images").rename(root / "JPEGImages")
    (root / "Annotations").mkdir()
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in zip(NAMES, BOXES, strict=True)
    )
    (root / "Annotations/a.xml").write_text(
        f"<annotation><filename>a.png</filename><size><width>{W}</width><height>{H}</height></size>{objects}</annotation>"
    )
    return f"voc:{root}"


def labelme(root: Path) -> str:
    shapes = [{"label": "cat", "shape_type": "rectangle", "points": [[8, 12], [30, 32]]},
              {"label": "dog", "shape_type": "polygon", "points": polygons()[1].tolist()}]  # fmt: skip
    (root / "images/a.json").write_text(
        json.dumps({"imagePath": "a.png", "shapes": shapes, "imageWidth": W, "imageHeight": H})
    )
    return f"labelme:{root}/images"


def cvat(root: Path) -> str:
    points = ";".join(f"{x},{y}" for x, y in polygons()[1])
    (root / "a.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="{W}" height="{H}"><box label="cat" xtl="8" ytl="12" xbr="30" ybr="32"/>'
        f'<polygon label="dog" points="{points}"/></image></annotations>'
    )
    return f"cvat:{root}/a.xml"


def table(root: Path) -> str:
    lines = [f"images/a.png,{x0},{y0},{x1},{y1},{name}" for name, (x0, y0, x1, y1) in zip(NAMES, BOXES, strict=True)]
    (root / "a.csv").write_text("filename,xmin,ymin,xmax,ymax,class\n" + "\n".join(lines))
    return f"csv:{root}/a.csv"


def webdataset(root: Path) -> str:
    buffer = io.BytesIO()
    Image.fromarray(painted()).save(buffer, "PNG")
    about = json.dumps({"boxes": BOXES.tolist(), "labels": list(NAMES)}).encode()
    with tarfile.open(root / "a-000.tar", "w") as archive:
        for k in range(2):
            for kind, data in (("png", buffer.getvalue()), ("json", about)):
                member = tarfile.TarInfo(f"x/{k}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return f"webdataset:{root}/a-*.tar"


def hugging(root: Path) -> str:
    datasets = pytest.importorskip("datasets")
    objects = {"bbox": [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in BOXES.tolist()], "category": [0, 1]}
    features = datasets.Features({
        "image": datasets.Image(),
        "objects": {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=4)),
                    "category": datasets.Sequence(datasets.ClassLabel(names=list(NAMES)))},
    })  # fmt: skip
    made = datasets.Dataset.from_dict({"image": [str(root / "images/a.png")], "objects": [objects]}, features=features)
    made.save_to_disk(str(root / "hf"))
    return f"hf:{root}/hf"


KINDS = (coco, panoptic, yolo, yolo_polygons, voc, labelme, cvat, table, webdataset, hugging)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.fromarray(painted()).save(tmp_path / "images/a.png")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_annotation_lies_on_its_objects_before_and_after_the_pipeline(kind, root):
    (feed,) = feeds(kind(root), transform=f"{__file__}:MOVED")
    sample = feed.sample(0, 0)
    assert len(sample.steps) == 3
    for step in sample.steps:
        w = step.pictures[0].shape[1]
        for k, name in enumerate(NAMES):
            rows, columns = np.nonzero(step.pictures[0][..., k] > 128)
            at = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            if kind is panoptic:
                number = next(key for key, value in step.marks.legend.items() if value == name)
                assert np.abs((step.marks.masks == number).astype(int) - (step.pictures[0][..., k] > 128)).mean() < 0.03
                continue
            assert step.marks.names[k] == name
            assert np.abs(step.marks.boxes[k] - at).max() <= 1.01 * w / W
            for line in step.marks.outlines[k] if step.marks.outlines else ():
                assert np.abs([*line.min(0), *line.max(0)] - at).max() <= 1.01 * w / W
    assert not faults(sample)


@pytest.mark.parametrize("kind", [coco, voc, labelme, cvat], ids=lambda kind: kind.__name__)
def test_annotation_for_another_size_is_told(kind, root, capsys):
    source = kind(root)
    picture = next(root.rglob("a.png"))
    Image.open(picture).resize((W // 2, H // 2)).save(picture)
    assert main(["browse", source, "--output-dir", str(root / "out")]) == 0
    told = capsys.readouterr().out
    assert f"annotation for {W}x{H}, the picture is {W // 2}x{H // 2}" in told
    assert "outside its picture" in told or "beyond its picture" in told


def test_joints_and_turned_boxes_of_yolo(root):
    (root / "labels").mkdir()
    joints = np.array([[10.0, 10, 2], [20, 20, 1], [0, 0, 0]])
    row = [0, *((np.array([19, 22, 22, 20]) / [W, H, W, H]).tolist()), *(joints / [W, H, 1]).ravel().tolist()]
    (root / "labels/a.txt").write_text(" ".join(map(str, row)))
    (root / "pose.yaml").write_text("train: images\nnames: [cat]\nkpt_shape: [3, 3]\n")
    marks = feeds(f"yolo:{root}/pose.yaml")[0].sample(0, 0).steps[0].marks
    np.testing.assert_allclose(marks.keypoints[0], joints)
    np.testing.assert_allclose(marks.boxes, BOXES[:1])
    body = np.random.default_rng(0).uniform(1, 50, (17, 3))
    row = [0, *((np.array([19, 22, 22, 20]) / [W, H, W, H]).tolist()), *(body / [W, H, 1]).ravel().tolist()]
    (root / "labels/a.txt").write_text(" ".join(map(str, row)))
    (root / "body.yaml").write_text("train: images\nnames: [cat]\nkpt_shape: [17, 3]\n")
    marks = feeds(f"yolo:{root}/body.yaml")[0].sample(0, 0).steps[0].marks
    assert marks.joints[:3] == ("nose", "left_eye", "right_eye")
    assert (15, 13) in marks.bones or (13, 15) in marks.bones
    diamond = np.array([[30.0, 10], [50, 30], [30, 50], [10, 30]])
    (root / "labels/a.txt").write_text("0 " + " ".join(map(str, (diamond / [W, H]).ravel())))
    (root / "obb.yaml").write_text("train: images\nnames: [cat]\n")
    marks = feeds(f"yolo:{root}/obb.yaml")[0].sample(0, 0).steps[0].marks
    np.testing.assert_allclose(marks.outlines[0][0], diamond)
    np.testing.assert_allclose(marks.boxes, [[10, 10, 50, 50]])


def first_marks(source: str) -> Marks:
    return feeds(source)[0].sample(0, 0).steps[0].marks


def test_objects_of_voc_files_without_a_box_leave_the_names_of_the_others(root, capsys):
    source = voc(root)
    file = root / "Annotations/a.xml"
    file.write_text(file.read_text().replace("<object><name>cat", "<object><name>eel</name></object><object><name>cat"))
    marks = first_marks(source)
    assert marks.names == NAMES
    np.testing.assert_allclose(marks.boxes, BOXES)
    assert main(["browse", source, "--output-dir", str(root / "out")]) == 0
    assert "without a box are not drawn: eel" in capsys.readouterr().out


@pytest.mark.parametrize("named", [True, False])
def test_masks_in_colours(root, named, capsys):
    source = voc(root)
    (root / "SegmentationClass").mkdir()
    colours = np.zeros((H, W, 3), np.uint8)
    for (x0, y0, x1, y1), colour in zip(BOXES.astype(int), ((64, 0, 128), (0, 128, 7)), strict=True):
        colours[y0:y1, x0:x1] = colour
    Image.fromarray(colours).save(root / "SegmentationClass/a.png")
    if named:
        (root / "labelmap.txt").write_text(
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:64,0,128::\ndog:0,128,7::\n"
        )
    marks = first_marks(source)
    for k, (name, code) in enumerate(zip(NAMES, ("#400080", "#008007"), strict=True)):
        number = next(key for key, value in marks.legend.items() if value == (name if named else code))
        assert ((marks.masks == number) == (painted()[..., k] > 0)).all()
    assert main(["browse", source, "--output-dir", str(root / "out")]) == 0
    assert f"areas             {'dog' if named else '#008007'} 1, " in capsys.readouterr().out


def test_masks_and_open_lines_of_labelme(root):
    mask = np.tri(20, 22, dtype=bool)
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    shapes = [{"label": "cat", "shape_type": "mask", "points": [[8, 12], [29, 31]], "mask": base64.b64encode(buffer.getvalue()).decode()},
              {"label": "rope", "shape_type": "linestrip", "points": [[1, 1], [5, 9], [9, 1]]}]  # fmt: skip
    (root / "images/a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    marks = first_marks(f"labelme:{root}/images")
    whole = np.zeros((H, W), bool)
    whole[12:32, 8:30] = mask
    assert (marks.masks == whole[None]).all()
    np.testing.assert_allclose(marks.boxes, [BOXES[0], [1, 1, 9, 9]])
    drawn = np.asarray(marked(np.zeros((H, W, 3), np.uint8), replace(marks, boxes=None, masks=None)))
    assert drawn[5, 3].any()
    assert not drawn[1, 3:8].any(), "an open line is not closed"


def test_ellipses_masks_and_skeletons_of_cvat(root, capsys):
    # The triangle of a 4 x 3 mask, in runs of 0 and 1 by hand: 1000, 1100, 1110.
    shapes = (
        '<ellipse label="eye" cx="40" cy="30" rx="20" ry="5" rotation="90"/><mask label="ear" left="3" top="4" width="4" height="3" rle="0,1,3,2,2,3,1"/>'
        '<skeleton label="body"><points label="nose" outside="0" points="9,8"/><points label="tail" outside="1" points="0,0"/></skeleton>'
        '<skeleton label="body"><points label="tail" outside="0" points="5,6"/></skeleton><cuboid label="box"/>'
    )
    (root / "a.xml").write_text(
        f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{shapes}</image></annotations>'
    )
    marks = first_marks(f"cvat:{root}/a.xml")
    assert marks.names == ("eye", "ear")
    np.testing.assert_allclose(marks.boxes, [[35, 10, 45, 50], [3, 4, 7, 7]], atol=1e-9)
    assert {tuple(at) for at in np.argwhere(marks.masks[0]).tolist()} == {
        (4, 3),
        (5, 3),
        (5, 4),
        (6, 3),
        (6, 4),
        (6, 5),
    }
    assert marks.joints == ("nose", "tail")
    np.testing.assert_allclose(marks.keypoints[:, :, 2], [[1, 0], [0, 1]])
    np.testing.assert_allclose([marks.keypoints[0, 0, :2], marks.keypoints[1, 1, :2]], [[9, 8], [5, 6]])
    assert main(["browse", f"cvat:{root}/a.xml", "--output-dir", str(root / "out")]) == 0
    assert "not drawn: cuboid" in capsys.readouterr().out


def test_names_of_joints_stand_beside_them_where_there_is_room():
    person = np.array([[[20.0, 20, 2], [22, 22, 2], [60, 260, 2], [0, 0, 0]]])
    page = np.zeros((300, 160, 3), np.uint8)
    bare, named = (
        np.asarray(marked(page, Marks(keypoints=person, joints=joints)))
        for joints in ((), ("nose", "eye", "heel", "ear"))
    )
    apart = np.argwhere((bare != named).any(-1))
    assert {(y // 60 * 60) for y in apart[:, 0].tolist()} == {0, 240}
    assert apart[:, 1].max() < 130
    small = [
        np.asarray(marked(page, Marks(keypoints=person / 2, joints=joints)))
        for joints in ((), ("nose", "eye", "heel", "ear"))
    ]
    assert (small[0] == small[1]).all(), "a small body is not covered with words"


def test_tags_stay_inside_the_picture():
    page = np.zeros((60, 160, 3), np.uint8)
    drawn = np.asarray(marked(page, Marks(np.array([[150.0, 30, 158, 58]]), ("a long name",))))
    assert np.argwhere(drawn.any(-1))[:, 1].min() < 100


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("coco:nowhere.json", "no such file"),
        ("coco:{root}/bad.json", "cannot be read as JSON"),
        ("coco:{root}/odd.json", "cannot be read as annotations as coco has them"),
        ("coco:{root}/odd.json?image=x", "no option image; it takes images, masks"),
        ("yolo:{root}/data.yaml", "expected a mapping with names"),
        ("voc:{root}", "no annotated picture"),
        ("csv:{root}/odd.csv", "no column of files"),
        ("cvat:{root}/bad.json", "cannot be read as XML"),
        ("webdataset:{root}/*.tar", "no such tar files"),
        ("labelme:{root}/images", "no annotated picture"),
    ],
)
def test_what_cannot_be_read_is_said(source, message, root):
    (root / "bad.json").write_text("{")
    (root / "odd.json").write_text('{"images": 3}')
    (root / "data.yaml").write_text("train: images\n")
    (root / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match=message):
        feeds(source.format(root=root))
