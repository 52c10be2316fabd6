"""What is odd about a schedule, and schedulers that follow a metric."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.methods.schedule import record
from torchloupe.sources.schedules import Training, metric, schedules


def curve(source, **training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (plan,) = schedules(str(source), Training(**training))
        return record(plan)


def config(tmp_path: Path, *schedulers: str, loop: str = "max_epochs=100") -> Path:
    path = tmp_path / "c.py"
    path.write_text(
        f"train_cfg = dict(by_epoch=True, {loop})\ntrain_dataloader = dict(batch_size=2)\n"
        f"optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\nparam_scheduler = [{', '.join(schedulers)}]\n"
    )
    return path


LINEAR = "dict(type='LinearLR', start_factor=0.01, end={})"
COSINE = "dict(type='CosineAnnealingLR', T_max={}, begin={}, end={})"
STEPS = "dict(type='MultiStepLR', milestones={}, gamma=0.1)"


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([STEPS.format([30, 60])], []),
        ([STEPS.format([30, 60, 120])], ["MultiStepLR: milestone 120 behind the end of a training of 100 epochs"]),
        ([STEPS.format([130, 160])], ["milestones 130, 160 behind the end of a training of 100 epochs: it never acts"]),
        ([LINEAR.format(5), COSINE.format(95, 5, 100)], []),
        ([LINEAR.format(5), COSINE.format(100, 5, 100)], ["a period of 100, but it acts for 95: it stops on its way"]),
        ([LINEAR.format(5), COSINE.format(50, 5, 100)], ["a period of 50, but it acts for 95: behind its period"]),
        ([LINEAR.format(5), COSINE.format(80, 20, 100)], ["nothing acts from epoch 5 to 20, between LinearLR and Cosine"]),
        ([LINEAR.format(20), COSINE.format(90, 10, 100)], ["act at once from epoch 10 to 20: their factors multiply",
                                                               "the optimizer's rate 0.1 is never reached; the greatest"]),
        ([LINEAR.format(200)], ["a rise of 199 in a training of 100 epochs", "the optimizer's rate 0.1 is never reached"]),
        ([LINEAR.format(5), COSINE.format(50, 150, 200)], ["begins at 150, behind the end", ]),
        ([LINEAR.format(5), STEPS.format([50])], []),
        (["dict(type='LinearLR', start_factor=1e-12, end=5)"], []),
    ],
)  # fmt: skip
def test_findings(tmp_path, parts, wanted):
    found = curve(config(tmp_path, *parts)).findings
    assert len(found) == len(wanted), found
    for line, words in zip(found, wanted, strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torch:CosineAnnealingLR?T_max=50&epochs=100", "a period of 50, but it acts for 100"),
        ("torch:CosineAnnealingLR?T_max=100&epochs=100", None),
        ("torch:StepLR?step_size=30&epochs=90", None),
        ("torch:StepLR?step_size=100&epochs=90", "it never acts"),
        ("torch:LinearLR?total_iters=5&epochs=90", None),
        ("torch:MultiStepLR?milestones=[90]&gamma=0.0&epochs=100", "the rate is 0 in the last 10 epochs"),
        ("torch:OneCycleLR?max_lr=0.1&total_steps=200&iters=100", "a period of 200, but it acts for 100"),
    ],
)
def test_findings_of_torch(source, words):
    found = curve(source).findings
    assert [words in line for line in found] == ([] if words is None else [True])


def chained():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], milestones=[5])


def test_findings_of_chained_schedulers_of_torch():
    (line,) = curve(f"torch:{__file__}:chained?epochs=100").findings
    assert "CosineAnnealingLR: a period of 100, but it acts for 95" in line


def test_real_configs_have_no_findings():
    import mmpretrain

    home = Path(mmpretrain.__file__).parent / ".mim/configs"
    for name in ("resnet/resnet50_8xb32_in1k.py", "vision_transformer/vit-base-p16_32xb128-mae_in1k.py"):
        assert curve(home / name, dataset_size=4096, ngpus=8).findings == (), name


VALUES = [1.0, 0.8, 0.81, 0.82, 0.83, 0.84, 0.5, 0.51, 0.52, 0.53, 0.54, 0.55]


def by_hand(patience: int, factor: float = 0.1, rate: float = 0.1) -> list[float]:
    """The rate of every epoch: divided once `patience` epochs and one more bring no new least value."""
    rates, best, bad = [], float("inf"), 0
    for value in VALUES:
        rates.append(rate)
        best, bad = (value, 0) if value < best * (1 - 1e-4) else (best, bad + 1)
        if bad > patience:
            rate, bad = rate * factor, 0
    return rates


@pytest.mark.parametrize("kind", ["torch", "mmengine", "transformers"])
def test_plateaus_follow_the_metric(tmp_path, kind):
    path = tmp_path / "log.csv"
    path.write_text("epoch,acc,loss\n" + "\n".join(f"{k},{k / 20},{value}" for k, value in enumerate(VALUES)))
    mm = config(
        tmp_path, "dict(type='ReduceOnPlateauLR', monitor='loss', rule='less', patience=2)", loop="max_epochs=12"
    )
    source = {"torch": "torch:ReduceLROnPlateau?epochs=12&patience=2", "mmengine": str(mm),
              "transformers": "transformers:reduce_lr_on_plateau?epochs=12&patience=2&lr=0.1"}[kind]  # fmt: skip
    found = curve(source, metric=metric(path))
    np.testing.assert_allclose(found.value(range(12))[:, 0], by_hand(2))
    assert len(set(by_hand(2))) == 3
    with pytest.raises(BadInput, match="give its values with --metric"):
        schedules(source)
    path.write_text("\n".join(map(str, VALUES[:5])))
    with pytest.raises(BadInput, match="5 values, but .* asks for one after epoch 6"):
        curve(source, metric=metric(path))


def test_command_line_warns(tmp_path, capsys):
    words = ["schedule", "torch:CosineAnnealingLR?T_max=50&epochs=100", "--save-path", str(tmp_path / "a.png")]
    assert main(words) == 0
    assert "behind its period it goes on otherwise" in capsys.readouterr().err
    assert "behind its period" in (tmp_path / "a.json").read_text()
    (tmp_path / "bad.csv").write_text("a,b\nx,y\n")
    assert main([*words, "--metric", str(tmp_path / "bad.csv")]) == 2
    assert "no column of numbers" in capsys.readouterr().err
