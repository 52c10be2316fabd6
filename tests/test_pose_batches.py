"""One sample that fails in a batch costs its neighbours nothing, and each failure has its own reason."""

from __future__ import annotations

from pathlib import Path

import diagnosis
import numpy as np
import pytest
import torch
from pose_fixtures import content, written
from torch import nn

from torchloupe.cli import main
from torchloupe.data.bodies import Crop, Person, PoseData, Skeleton, frame
from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.sources.assemble import Options
from torchloupe.store.stream import Stream

BODY = Skeleton("three", ("a", "b", "c"))


class Afraid(nn.Module):
    """Heatmaps that are not finite for a black picture."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 3, 3, padding=1, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x / (x.amax((1, 2, 3), keepdim=True) > -1))


def people(crop: Crop, flat: tuple[int, ...] = (1,), lost: tuple[int, ...] = (), count: int = 4) -> PoseData:
    """Pictures of noise; those of `flat` are black, those of `lost` are files that do not exist."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        picture = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
        centre, extent = frame((5, 5, 20, 30), crop)
        made.append(
            Person(
                id=str(i),
                image_id=i,
                picture=Path(f"none{i}.png") if i in lost else picture * (i not in flat),
                centre=centre,
                extent=extent,
                joints=rng.uniform(8, 22, (3, 2)),
                weight=np.ones(3),
            )
        )
    return PoseData(tuple(made), BODY, "noise")


def study(flat: tuple[int, ...] = (1,), lost: tuple[int, ...] = (), count: int = 4) -> diagnosis.Study:
    return diagnosis.study(
        model=Afraid(),
        data=lambda crop: people(crop, flat, lost, count),
        crop=Crop(size=(24, 32)),
        options=Options(device="cpu"),
    )


@pytest.mark.parametrize("method", ["poseig", "gradient_x_input"])
@pytest.mark.parametrize("batch", [2, 4])
def test_a_sample_that_is_not_finite_fails_alone(tmp_path: Path, batch: int, method: str) -> None:
    asked = {"steps": 2, "places": "even"} if method == "poseig" else {}
    how = diagnosis.Attribution(method=method, **asked)  # type: ignore[arg-type]
    one, ids = study(), list("0123")
    alone = diagnosis.attribute(one, ids, how, tmp_path / "alone", batch=1)
    together = diagnosis.attribute(one, ids, how, tmp_path / "together", batch=batch)
    assert (alone.made, list(alone.failed)) == (3, ["1"])
    assert (together.made, dict(together.failed)) == (3, dict(alone.failed))
    for id in ("0", "2", "3"):
        mine, theirs = (Stream(tmp_path / name, "ig").arrays(id) for name in ("together", "alone"))
        for name, values in theirs.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(mine[name], values, rtol=1e-3, atol=1e-3)


def test_each_failure_keeps_its_own_reason(tmp_path: Path) -> None:
    one, ids = study(flat=(1, 4), lost=(2,), count=6), list("012345")
    done = diagnosis.attribute(one, ids, diagnosis.Attribution(steps=2, places="even"), tmp_path, batch=6)
    assert (done.made, sorted(done.failed)) == (3, ["1", "2", "4"])
    assert "none2.png: no such file" in done.failed["2"]
    assert "not finite" in done.failed["1"]
    assert "not finite" in done.failed["4"]


def test_a_reading_that_fails_on_one_sample_costs_the_others_nothing(tmp_path: Path) -> None:
    def decode(batch: Batch, _order: object) -> tuple[torch.Tensor, torch.Tensor]:
        if "2" in batch.ids:
            raise BadInput("cannot be read")
        return torch.zeros(batch.n, 3, 2), torch.ones(batch.n, 3)

    made = study(flat=())
    one = diagnosis.Study(made.subject, made.data, made.crop, reading=diagnosis.Reading(decode=decode))
    done = diagnosis.errors(one, list("0123"), tmp_path, batch=4)
    assert (done.made, dict(done.failed)) == (3, {"2": "cannot be read"})


def test_a_fault_of_the_question_is_not_asked_again_for_every_sample(tmp_path: Path) -> None:
    calls = 0

    def score(output: torch.Tensor, _batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return output.nowhere

    one = study(flat=())
    done = diagnosis.attribute(
        one, list("0123"), diagnosis.Attribution(steps=2, places="even", score=score), tmp_path, batch=4
    )
    assert not done.made
    assert len(done.failed) == 4
    assert calls <= 7


MODEL = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=4), nn.ReLU(), nn.Conv2d(4, 17, 1))
"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A COCO file of eleven people, one of whose pictures is no picture, and a model of somebody's own."""
    made = content()
    written(tmp_path, made, [])
    (tmp_path / "0.png").write_text("no picture")
    (tmp_path / "mine.py").write_text(MODEL)
    model = ["--model", f"torch:{tmp_path / 'mine.py'}:net", "--input-size", "24", "32", "--device", "cpu"]
    return [*model, "--data", str(tmp_path / "people.json")]


def held(root: Path, kind: str) -> dict[str, dict[str, np.ndarray]]:
    stream = Stream(root, kind)
    return {id: stream.arrays(id) for id in stream.ids()}


def same(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> bool:
    return list(one) == list(other) and all(
        np.array_equal(one[id][name], other[id][name], equal_nan=one[id][name].dtype.kind == "f")
        for id in one
        for name in one[id]
    )


@pytest.mark.slow
def test_workers_change_no_result_and_say_what_was_left_out(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, more in (("here", []), ("two", ["--workers", "2"])):
        assert main(["pose", "ig", *words, "-o", str(tmp_path / folder), "--steps", "2", *more]) == 3
        assert "3 could not be read or explained" in capsys.readouterr().out.splitlines()[-1]
    one, two = held(tmp_path / "here", "ig"), held(tmp_path / "two", "ig")
    assert len(one) == 5
    assert same(one, two)
    assert Stream(tmp_path / "here", "ig").failed() == Stream(tmp_path / "two", "ig").failed()
    assert len(Stream(tmp_path / "two", "ig").failed()) == 3


def test_again_computes_anew_and_options_without_a_run_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["-o", str(tmp_path / "run"), "--ids", "4", "5"]
    assert main(["pose", "epe", *words, *run]) == 0
    (file,) = (tmp_path / "run" / "epe").glob("4.npz")
    file.write_bytes(b"damaged")
    assert main(["pose", "epe", *words, *run]) == 2  # it is there, and cannot be read
    assert main(["pose", "epe", *words, *run, "--again"]) == 0
    assert "2 samples made, 0 were there" in capsys.readouterr().out
    assert np.isfinite(held(tmp_path / "run", "epe")["4"]["EPE"]).any()
    assert main(["pose", "inversions", "-o", str(tmp_path / "run"), "--ids", "4"]) == 2
    assert "--ids is of a run of the model, and there is none here" in capsys.readouterr().err
    assert main(["pose", "index", "-o", str(tmp_path / "run"), "--workers", "2"]) == 2
    assert "--workers is of a run of the model" in capsys.readouterr().err
    assert main(["pose", "epe", *words, *run, "--engine", "ray"]) == 2
    assert "need --workers N" in capsys.readouterr().err
