"""Categories, spreads of joints in OKS, numbers of joints that do not fit, and float64."""

from __future__ import annotations

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import diagnosis
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchloupe.cli import main
from torchloupe.data.bodies import Crop
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.methods import keypoints
from torchloupe.networks.pose import PoseResNet
from torchloupe.runs.pose.errors import evaluation
from torchloupe.sources import poses
from torchloupe.sources.assemble import Options
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import soft_argmax

JOINTS = ("nose", "left_paw", "right_paw", "tail")


def animals(folder: Path, dogs: int = 2, birds: int = 1) -> Path:
    """Dogs and cats of four joints, birds of two."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (80, 80, 3), dtype=np.uint8)).save(folder / "a.png")
    kinds = [
        {"id": 3, "name": "dog", "keypoints": list(JOINTS), "skeleton": [[1, 4]]},
        {"id": 5, "name": "cat", "keypoints": list(JOINTS), "skeleton": [[1, 4]]},
    ]
    kinds += [{"id": 8, "name": "bird", "keypoints": ["beak", "tail"]}] if birds else []
    entries: list[dict[str, Any]] = []
    for category, count in ((3, dogs), (5, 3), (8, birds)):
        for _ in range(count):
            joints = rng.uniform(10, 70, (4 if category != 8 else 2, 2))
            entries.append(
                {
                    "id": len(entries),
                    "image_id": 1,
                    "category_id": category,
                    "bbox": [5, 5, 60, 70],
                    "area": 3000.0,
                    "iscrowd": 0,
                    "keypoints": np.concatenate([joints, np.full((len(joints), 1), 2)], 1).ravel().tolist(),
                }
            )
    path = folder / "animals.json"
    images = [{"id": 1, "file_name": "a.png", "width": 80, "height": 80}]
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": kinds}))
    return path


def ids(path: Path, category: str = "") -> list[str]:
    return [person.id for person in poses.coco(path, path.parent, Crop(), category=category).people]


def test_a_category_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    path = animals(tmp_path)
    assert ids(path, "cat") == ids(path, "5") == ["2", "3", "4"]
    assert ids(path, "bird") == ["5"]
    with pytest.warns(LoupeWarning, match="dog is looked at, and not cat, bird; --category names another, or all"):
        assert ids(path) == ["0", "1"]
    with pytest.raises(
        BadInput, match=r"--category cta: .*animals.json has dog, cat, bird with keypoints. Did you mean cat"
    ):
        ids(path, "cta")
    with pytest.raises(BadInput, match="--category all: .* has categories of other joints, such as bird; name one"):
        ids(path, "all")
    folder = tmp_path / "four"
    folder.mkdir()
    assert ids(animals(folder, birds=0), "all") == ["0", "1", "2", "3", "4"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids(animals(folder, birds=0), "dog") == ["0", "1"]


def net(joints: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, joints, 3, padding=1, stride=4)


def opened(path: Path, joints: int = 4, **given: Any) -> diagnosis.Study:
    options = Options(device="cpu")
    return diagnosis.study(model=net(joints), data=path, crop=Crop(size=(24, 32)), options=options, **given)


def test_another_number_of_joints_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = animals(tmp_path, birds=0)
    with pytest.raises(BadInput, match=r"the model gives 17 joints, and .*animals.json has 4 \(nose, left_paw"):
        opened(path, 17, category="dog")
    words = ["--model", f"torch:{__name__}:net", "--input-size", "24", "32", "--data", str(path), "--category", "bird"]
    path = animals(tmp_path)
    assert main(["pose", "epe", *words, "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "the model gives 4 joints, and" in said
    assert "has 2 (beak, tail ...)" in said
    assert not (tmp_path / "run").exists()


def test_ap_of_any_skeleton_takes_its_sigmas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each joint's own spread, in OKS by a plain loop; without any there is no AP, and it is said what to give."""
    path = animals(tmp_path, birds=0)
    sigmas = (0.03, 0.1, 0.2, 0.05)
    one = opened(path, category="all", sigmas=sigmas)
    assert one.data.skeleton.sigmas == sigmas
    assert opened(path, category="all", sigmas=(0.1,)).data.skeleton.sigmas == (0.1,) * 4
    diagnosis.errors(one, diagnosis.chosen(one), tmp_path / "run")
    given = evaluation(one, tmp_path / "run")
    entry = json.loads(path.read_text())["annotations"][2]
    truth = np.array(entry["keypoints"]).reshape(4, 3)[:, :2]
    at = truth + np.array([[3, 0], [0, 4], [6, 8], [1, 1]])
    naive = sum(
        np.exp(-((a - t) ** 2).sum() / (2 * 3000 * (2 * s) ** 2)) for a, t, s in zip(at, truth, sigmas, strict=True)
    )
    assert keypoints.similarity(at, truth, 3000.0, given.sigmas) == pytest.approx(naive / 4)
    assert set(given.figures()) == set(keypoints.COCO_NAMES)
    with pytest.raises(BadInput, match="the spread of its 4 joints in OKS is not known; give --sigmas"):
        evaluation(opened(path, category="all"), tmp_path / "run")
    for wrong in ((0.1, 0.2), (0.1, 0.1, 0.1, 0.0), (float("nan"),)):
        with pytest.raises(BadInput, match="--sigmas are 4 numbers above 0, a joint each, or one for all"):
            opened(path, category="all", sigmas=wrong)
    words = ["--model", f"torch:{__name__}:net", "--input-size", "24", "32", "--data", str(path), "--category", "all"]
    for extra, status in ((["--sigmas", "0.03", "0.1", "0.2", "0.05"], 0), ([], 2)):
        assert main(["pose", "errors", *words, *extra, "-o", str(tmp_path / f"cli{status}")]) == status
    assert "joints in OKS is not known; give --sigmas" in capsys.readouterr().err


def test_figures_of_one_category_are_those_of_a_file_that_has_no_other(tmp_path: Path) -> None:
    figures = []
    for name in ("both", "cats"):
        folder = tmp_path / name
        folder.mkdir()
        path = animals(folder, birds=0)
        if name == "cats":
            held = json.loads(path.read_text())
            held["annotations"] = [e for e in held["annotations"] if e["category_id"] == 5]
            held["categories"] = held["categories"][1:]
            path.write_text(json.dumps(held))
        one = opened(path, category="cat", sigmas=(0.5,))
        diagnosis.errors(one, diagnosis.chosen(one), folder / "run")
        figures.append(diagnosis.average_precision(one, folder / "run"))
    assert figures[0] == pytest.approx(figures[1], nan_ok=True)
    assert figures[0]["AP"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kind", "mpii", "--category", "dog"], "--category dog: MPII's people have one category"),
        (["--kind", "mpii", "--detections", "a.json"], "--detections a.json: MPII's people have one category and no"),
        (["--sigmas", "0"], "--sigmas"),
        (["--dtype", "float16"], "float16"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    path = animals(tmp_path, birds=0)
    model = ["--model", f"torch:{__name__}:net", "--input-size", "24", "32", "--data", str(path)]
    assert main(["pose", "epe", *model, "-o", str(tmp_path / "run"), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.strip().count("\n") == 0


def deep() -> nn.Module:
    """A Pose ResNet 18 of a quarter of the width, with statistics as after training."""
    torch.manual_seed(1)
    made = PoseResNet(depth=18, joints=4, filters=(32, 32, 32), kernels=(4, 4, 4), final_kernel=1, width=16)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    made.train()
    with torch.no_grad():
        for _ in range(12):
            made(torch.randn(4, 3, 48, 48))
    return made.eval()


def test_float64_makes_the_template_s_maps_to_a_millionth(tmp_path: Path) -> None:
    """Beside an independent float64 transcription of the template's loop; somebody's own module stays float32."""
    path = animals(tmp_path, birds=0)
    module = deep()
    found = {}
    for dtype in ("float32", "float64"):
        one = diagnosis.study(
            model=module,
            data=path,
            crop=Crop(size=(64, 96)),
            options=Options(device="cpu"),
            category="cat",
            dtype=dtype,
        )
        run = tmp_path / dtype
        diagnosis.attribute(one, ["1"], diagnosis.Attribution(reference=True), run, maps="float32")
        found[dtype] = Stream(run, "ig").arrays("1")["maps"]
    assert next(module.parameters()).dtype == torch.float32
    loaded, _ = diagnosis.load(one, ["1"])
    assert loaded is not None
    net64, x = deep().double().eval(), torch.from_numpy(loaded.samples[0].x).double()[None]
    real = soft_argmax(torch.from_numpy(loaded.samples[0].heatmaps).double()[None])
    at = torch.arange(31, dtype=torch.float64) - 15
    square = at[:, None] ** 2 + at**2
    images = []
    for sigma in np.linspace(19, 0, 51):
        weight = torch.exp(-square / (2 * (sigma + 1e-5) ** 2))
        kernel = (weight / weight.sum()).expand(3, 1, 31, 31)
        wide = torch.nn.functional.pad(x, (15,) * 4, mode="reflect")
        images.append(torch.nn.functional.conv2d(wide, kernel, groups=3))
    far = []
    for j in (0, 2, 3):
        total = torch.zeros_like(x)
        for here, there in pairwise(images):
            point = here.clone().requires_grad_()
            score = torch.exp(-0.3 * (soft_argmax(net64(point))[0, j] - real[0, j]).norm())
            total += torch.autograd.grad(score, point)[0] * (there - here)
        values = total.sum(1)[0].abs()
        expected = (values / values.max()).numpy()
        np.testing.assert_allclose(found["float64"][j], expected, atol=1e-6)
        far.append(np.abs(found["float32"][j] - expected).max())
    # what float32 can give: kinks that it takes on the other side
    assert 1e-5 < max(far) < 0.1
