"""Every point of a schedule against its closed form, written out with plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torchloupe.data.schedules import Mark, Plan, Ticker
from torchloupe.errors import BadInput
from torchloupe.methods.schedule import record
from torchloupe.sources.schedules import Training, schedules


def curve(source: str, parameter: str = "lr", **training):
    (plan,) = schedules(source, Training(**training))
    return record(plan, parameter)


def points(found) -> list[float]:
    return [float(found.value(t)[0]) for t in range(found.length)]


def cosine(base: float, low: float, t: int, total: int) -> float:
    return low + (base - low) * (1 + math.cos(math.pi * t / total)) / 2


def test_torch_cosine():
    found = curve("torch:CosineAnnealingLR?T_max=40&eta_min=0.001&lr=0.5&epochs=40")
    np.testing.assert_allclose(points(found), [cosine(0.5, 0.001, t, 40) for t in range(40)], rtol=1e-9)


def test_torch_multistep_and_its_marks():
    found = curve("torch:MultiStepLR?milestones=[3,7]&gamma=0.1&lr=1.0&epochs=10")
    np.testing.assert_allclose(points(found), [1.0] * 3 + [0.1] * 4 + [0.01] * 3, rtol=1e-12)
    assert found.at.tolist() == [0, 3, 7]
    assert found.marks == (Mark(3, "milestone"), Mark(7, "milestone"))


def test_torch_polynomial():
    found = curve("torch:PolynomialLR?total_iters=20&power=2.0&lr=0.3&iters=20")
    np.testing.assert_allclose(points(found), [0.3 * (1 - t / 20) ** 2 for t in range(20)], rtol=1e-9)


def test_by_epoch_steps_hold_within_an_epoch():
    found = curve("torch:StepLR?step_size=2&gamma=0.5&lr=8&epochs=5&batch_size=4", dataset_size=10)
    assert found.per_epoch == 3
    assert points(found) == [8.0] * 6 + [4.0] * 6 + [2.0] * 3


def test_timm_cosine_with_warm_up():
    found = curve("timm:cosine?epochs=50&warmup_epochs=5&warmup_lr=0.001&lr=0.1&min_lr=0.002")
    expected = [0.001 + t * (0.1 - 0.001) / 5 if t < 5 else cosine(0.1, 0.002, t, 50) for t in range(50)]
    np.testing.assert_allclose(points(found), expected, rtol=1e-9)
    assert found.marks[0] == Mark(0, "warm-up", 5)


def test_timm_by_iteration():
    found = curve("timm:cosine?epochs=4&warmup_epochs=1&warmup_lr=0&lr=0.1&per=iter&batch_size=8", dataset_size=80)
    expected = [t * 0.1 / 10 if t < 10 else cosine(0.1, 0, t, 40) for t in range(40)]
    np.testing.assert_allclose(points(found), expected, rtol=1e-9, atol=1e-15)


def test_transformers_linear_and_cosine():
    found = curve("transformers:linear?iters=100&warmup_steps=10&lr=0.01")
    expected = [0.01 * t / 10 if t < 10 else 0.01 * (100 - t) / 90 for t in range(100)]
    np.testing.assert_allclose(points(found), expected, rtol=1e-9)
    found = curve("transformers:cosine?iters=100&warmup_ratio=0.1&lr=0.01")
    expected = [0.01 * t / 10 if t < 10 else cosine(0.01, 0, t - 10, 90) for t in range(100)]
    np.testing.assert_allclose(points(found), expected, rtol=1e-9, atol=1e-15)


def factory(steps: int = 6):
    """Two named groups, a cyclic rate with cyclic momentum."""
    rates = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "name": name}
             for lr, name in ((0.1, "head"), (0.01, "backbone"))]  # fmt: skip
    optimizer = torch.optim.SGD(rates, momentum=0.9, weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5 if steps == 6 else 0.25)


def test_factory_with_several_groups():
    found = curve(f"torch:{__file__}:factory?epochs=4&steps=3")
    assert found.groups == ("head", "backbone")
    expected = [[lr * 0.25**t for lr in (0.1, 0.01)] for t in range(4)]
    np.testing.assert_allclose(found.value(range(4)), expected, rtol=1e-12)
    assert curve(f"torch:{__file__}:factory?epochs=4", "momentum").values.tolist() == [[0.9, 0.9]]
    assert curve(f"torch:{__file__}:factory?epochs=4", "wd").values.tolist() == [[0.01, 0.01]]


def test_momentum_moves_against_the_rate():
    spec = "torch:OneCycleLR?max_lr=1.0&total_steps=20&iters=20&momentum=0.9&lr=0.1"
    rate, momentum = points(curve(spec)), points(curve(spec, "momentum"))
    assert np.argmax(rate) == np.argmin(momentum)
    assert momentum[0] == pytest.approx(0.95)


def test_summary_tells_first_peak_and_last():
    (row,) = curve("transformers:linear?iters=100&warmup_steps=10&lr=0.01").summary()
    assert (row["first"], row["peak"], row["peak_at"]) == (0.0, 0.01, 10)
    assert row["last"] == pytest.approx(0.01 / 90)


def test_inert_schedulers_are_not_asked():
    calls = []
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plan = Plan("x", optimizer, (Ticker(calls.append, "iter", until=5),), 1000, "iter", 100)
    assert record(plan).values.tolist() == [[1.0]]
    assert calls == [1, 2, 3, 4, 5]


def test_million_iterations_take_seconds():
    found = curve("torch:StepLR?step_size=30&epochs=300&batch_size=256", dataset_size=1281167)
    assert (found.length, found.per_epoch, len(found.at)) == (1501500, 5005, 10)


def test_nan_is_told():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plan = Plan(
        "x", optimizer, (Ticker(lambda done: optimizer.param_groups[0].update(lr=math.nan), "iter"),), 5, "iter"
    )
    with pytest.raises(BadInput, match="x: lr is nan at iter 1"):
        record(plan)


@pytest.mark.parametrize(
    ("source", "training", "message"),
    [
        ("nowhere.py", {}, "nowhere.py: no such config"),
        ("torch:CosineAnealingLR?epochs=4", {}, "Did you mean CosineAnnealingLR"),
        ("torch:StepLR?step_size=3", {}, "add epochs=N or iters=N"),
        ("torch:StepLR?step_size=3&epochs=0", {}, "epochs=0: expected a positive number"),
        ("torch:StepLR?step_size=3&epochs=4&per=week", {}, "per=iter or per=epoch"),
        ("torch:StepLR?step_size=3&epochs=4&per=iter", {}, "give --dataset-size"),
        ("torch:StepLR?epochs=4&opt=SDG&step_size=3", {}, "no torch optimizer. Did you mean sgd"),
        ("torch:StepLR?epochs=4", {}, "step_size"),
        ("torch:ReduceLROnPlateau?epochs=4", {}, "follows a metric"),
        ("torch:no.such.module:make?epochs=4", {}, "no Python module 'no'"),
        ("torch:math:make?epochs=4", {}, "math has no 'make'"),
        ("torch:math:sqrt?epochs=4", {}, "sqrt"),
        ("timm:cosin?epochs=4", {}, "timm has no scheduler cosin. Did you mean cosine"),
        ("timm:cosine?warmup_epoch=4", {}, "Did you mean warmup_epochs"),
        ("timm:cosine?per=iter", {}, "needs --dataset-size"),
        ("transformers:cosin?iters=4", {}, "Did you mean cosine"),
        ("transformers:cosine?epochs=4", {}, "steps by iteration"),
        ("transformers:warmup_stable_decay?iters=40", {}, "goes into the spec, such as"),
    ],
)
def test_bad_specs_get_one_line(source, training, message):
    with pytest.raises(BadInput, match=message.replace("(", r"\(")) as caught:
        curve(source, **training)
    assert "\n" not in str(caught.value)


def test_a_schedule_by_epoch_needs_no_batch_size_beside_a_data_set_size():
    assert curve("timm:cosine?epochs=4", dataset_size=10).unit == "epoch"


def test_equal_schedules_are_one_line_and_many_are_small_pictures():
    from torchloupe.render.curves import axes_of, draw, table

    steps = [curve(f"torch:StepLR?step_size={k}&epochs=30") for k in (3, 4, 5, 5)]
    figure = draw(steps)
    (axes,) = figure.axes
    assert len(axes.lines) == 3
    assert [text.get_text() for text in figure.legends[0].texts][-1].count("step_size=5") == 2
    many = [
        *(curve(f"torch:StepLR?step_size={k}&epochs=30") for k in range(2, 10)),
        curve("transformers:linear?iters=9"),
    ]
    figure = draw([*many, many[0]])
    drawn = [axes for axes in figure.axes if axes.lines]
    assert len(drawn) == 9
    assert drawn[0].get_title().replace("\n", "").endswith("and 1 alike")
    assert drawn[-1].get_xlabel() == "iteration"
    assert axes_of(many, None) == ["epoch"] * 8 + ["iter"]
    assert table(many)[-1].split()[-2] == "iter"
    for line, found in zip(drawn, many, strict=True):
        assert line.lines[0].get_ydata()[0] == found.values[0, 0]
    with pytest.raises(BadInput, match="cannot be drawn by epoch"):
        axes_of(many, "epoch")


def test_labels_of_marks_do_not_lie_on_one_another():
    from torchloupe.render.curves import draw

    found = [curve(f"torch:MultiStepLR?milestones=[{k},{50 + k}]&epochs=100") for k in (10, 11, 12)]
    (axes,) = draw(found).axes
    places = sorted(text.get_position()[0] for text in axes.texts)
    assert len(places) == 2
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert len(dotted) == 6


def test_zero_and_negative_sizes():
    with pytest.raises(BadInput, match="--dataset-size 0"):
        Training(dataset_size=0)
    with pytest.raises(BadInput, match="--ngpus -1"):
        Training(ngpus=-1)


def test_no_such_parameter():
    with pytest.raises(BadInput, match="Rprop has no momentum"):
        curve("torch:StepLR?step_size=3&epochs=4&opt=Rprop", "momentum")
    with pytest.raises(BadInput, match="expected one of lr, momentum, wd"):
        curve("torch:StepLR?step_size=3&epochs=4", "beta")
