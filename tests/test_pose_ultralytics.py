"""Pose models of ultralytics in the pose commands: which anchor answers, that it is held along a path, the commands by name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import diagnosis
import numpy as np
import pytest
import torch
from pose_fixtures import content, written

from torchloupe.cli import main
from torchloupe.data.bodies import Crop
from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.runs.pose.study import Study, load
from torchloupe.sources.assemble import Options
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import Anchored, Joints

NAME = "ultralytics:yolov8n-pose.yaml"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("people")
    written(folder, content(), [])
    data = folder / "people.json"
    return diagnosis.study(model=NAME, data=data, crop=Crop((64, 96)), options=Options(device="cpu"))


def test_the_surest_detection_over_the_middle_answers(one: Study) -> None:
    """Beside loops over what the network itself gives: boxes as middle and sides, one class, 17 triples."""
    assert one.subject.kind == "pose"
    loaded, _ = load(one, ["0", "3", "5"])
    assert loaded is not None
    raw = one.subject.module.eval()(loaded.batch.x)[0].detach()
    assert raw.shape[1] == 4 + 1 + 51
    assert one.reading.decode is not None
    at, sure = one.reading.decode(loaded.batch, None)
    for row in range(3):
        best, most = -1, -1.0
        for anchor in range(raw.shape[2]):
            x, y, wide, high, person = raw[row, :5, anchor].tolist()
            over = abs(x - 32) <= wide / 2 and abs(y - 48) <= high / 2
            if person + over > most:
                best, most = anchor, person + over
        triples = raw[row, 5:, best].reshape(17, 3).double()
        np.testing.assert_allclose(at[row], triples[:, :2], rtol=1e-6)
        np.testing.assert_allclose(sure[row], triples[:, 2], rtol=1e-6)
    assert ((at > -500) & (at < 500)).all()


def test_the_mirrored_crop_is_laid_back_with_left_and_right_exchanged(one: Study) -> None:
    loaded, _ = load(one, ["2"])
    assert loaded is not None
    assert one.reading.decode is not None
    partner = [0, *(i + (1 if i % 2 else -1) for i in range(1, 17))]
    plain, turned = (
        one.reading.decode(batch, None) for batch in (loaded.batch, loaded.batch.at(loaded.batch.x.flip(-1)))
    )
    both, sure = one.reading.decode(loaded.batch, partner)
    for j in range(17):
        x, y = turned[0][0, partner[j]].tolist()
        expected = [(plain[0][0, j, 0] + 64 - x) / 2, (plain[0][0, j, 1] + y) / 2]
        np.testing.assert_allclose(both[0, j], expected, rtol=1e-5, atol=1e-4)
        assert sure[0, j].item() == pytest.approx(((plain[1][0, j] + turned[1][0, partner[j]]) / 2).item(), rel=1e-5)


def test_the_anchor_of_the_picture_is_asked_about_along_the_path() -> None:
    rng = torch.Generator().manual_seed(0)
    points, sure = torch.rand(2, 3, 4, 2, generator=rng) * 9, torch.rand(2, 3, 4, generator=rng)
    sharp = Anchored(points, sure, torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.1, 0.3]]))
    dark = Anchored(points + 1, sure, torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.1, 0.3]]))
    truth = {"coordinates": torch.rand(2, 4, 2, generator=rng) * 9, "weight": torch.ones(2, 4)}
    batch = Batch(torch.zeros(2, 3, 4, 4), truth=truth)
    asked = Joints().choose(sharp, batch)
    assert asked["anchor"].tolist() == [1, 0]
    found = Joints()(dark, replace(batch, asked=asked)).value
    for n, anchor in enumerate((1, 0)):
        for j in range(4):
            far = math.dist((points[n, anchor, j] + 1).tolist(), truth["coordinates"][n, j].tolist())
            assert found[j, n].item() == pytest.approx(math.exp(-0.3 * far), rel=1e-5)


def test_the_commands_take_them_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, content(), [])
    words = ["--model", NAME, "--data", str(tmp_path / "people.json"), "--input-size", "64", "64", "--device", "cpu"]
    words += ["-o", str(tmp_path / "run"), "--ids", "0", "4"]
    assert main(["pose", "errors", *words]) == 0
    assert "miss" in capsys.readouterr().out
    assert main(["pose", "ig", *words, "--steps", "2"]) == 0
    kept = Stream(tmp_path / "run", "ig").arrays("0")
    assert np.abs(kept["maps"]).sum() > 0
    # random weights are the same every time, so that a run goes on
    capsys.readouterr()
    assert main(["pose", "epe", *words]) == 0
    assert "0 samples made, 2 were there" in capsys.readouterr().out
    assert main(["pose", "report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("name", "size", "more", "message"),
    [
        ("yolov8n.yaml", (64, 64), {}, "its task is 'detect'; give a pose model, such as yolov8n-pose.yaml"),
        ("yolov8n-pose.yaml", (60, 64), {}, "crops of 60 x 64 do not fit; sides are multiples of 32"),
        ("yolov8n-pose.yaml", (64, 64), {"coordinates": "unit"}, "joints of ultralytics are in pixels of the input"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: str, size: tuple[int, int], more: dict[str, str], message: str
) -> None:
    written(tmp_path, content(), [])
    with pytest.raises(BadInput, match=message):
        diagnosis.study(model=f"ultralytics:{name}", data=tmp_path / "people.json", crop=Crop(size), **more)
