"""Schedules of real OpenMMLab configs (mmpretrain's wheel), of OpenGait and HRNet YAML, and the command line."""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning, MissingPackage
from torchloupe.methods.schedule import record
from torchloupe.sources.configs import openmmlab_config, options
from torchloupe.sources.schedules import Training, schedules


def configs() -> Path:
    import mmpretrain

    return Path(mmpretrain.__file__).parent / ".mim/configs"


def curve(path, parameter: str = "lr", **training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        (plan,) = schedules(str(path), Training(**training))
        return record(plan, parameter)


def test_resnet_multistep_needs_no_data_set():
    found = curve(configs() / "resnet/resnet50_8xb32_in1k.py")
    assert (found.unit, found.length) == ("epoch", 100)
    assert found.at.tolist() == [0, 30, 60, 90]
    np.testing.assert_allclose(found.values[:, 0], [0.1, 0.01, 0.001, 0.0001], rtol=1e-12)


def test_swin_warm_up_by_iteration_then_cosine_by_epoch():
    found = curve(configs() / "swin_transformer/swin-tiny_16xb64_in1k.py", dataset_size=64 * 16 * 10, ngpus=16)
    assert (found.per_epoch, found.length) == (10, 3000)
    assert len(found.groups) == 2
    # LinearLR of 20 epochs turned into 200 iterations reaches its end one iteration early; cosine from epoch 20 on.
    expected = []
    for t in range(3000):
        if t < 200:
            expected.append(0.001 * (0.001 + (1 - 0.001) * t / 199))
        else:
            expected.append(1e-5 + (0.001 - 1e-5) * (1 + math.cos(math.pi * (t // 10 - 20) / 280)) / 2)
    np.testing.assert_allclose(found.value(range(3000))[:, 0], expected, rtol=1e-6)
    assert found.marks[0].end == 199
    decay = curve(configs() / "swin_transformer/swin-tiny_16xb64_in1k.py", "wd", dataset_size=10240, ngpus=16)
    assert sorted(decay.values[0].tolist()) == [0.0, 0.05]


def test_mobilenet_steps_every_second_epoch():
    found = curve(configs() / "mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py")
    expected = [0.064 * 0.973 ** (t // 2) for t in range(600)]
    np.testing.assert_allclose(found.value(range(600))[:, 0], expected, rtol=1e-9)


def test_repvgg_cosine_of_the_seeds_example():
    found = curve(configs() / "repvgg/repvgg-B3g4_8xb32_in1k.py", dataset_size=3200, ngpus=4)
    assert found.per_epoch == 25
    total = found.length
    expected = [0.1 * (1 + math.cos(math.pi * t / total)) / 2 for t in range(total)]
    np.testing.assert_allclose(found.value(range(total))[:, 0], expected, rtol=1e-6, atol=1e-15)


def test_layer_wise_decay_gives_a_curve_for_every_layer():
    found = curve(configs() / "mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py", dataset_size=2048, ngpus=8)
    peaks = sorted({round(row["peak"], 12) for row in found.summary()})
    np.testing.assert_allclose(peaks, [0.002 * 0.65**k for k in range(13, -1, -1)], rtol=1e-6)


def test_poly_and_changes(tmp_path):
    config = tmp_path / "poly.py"
    config.write_text(
        "train_cfg = dict(by_epoch=False, max_iters=100)\n"
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))\n"
        "param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.001, by_epoch=False)]\n"
    )
    found = curve(config, changes=options(["optim_wrapper.optimizer.lr=0.2"]))
    expected = [0.001 + (0.2 - 0.001) * (1 - t / 99) ** 0.9 for t in range(100)]
    np.testing.assert_allclose(found.value(range(100))[:, 0], expected, rtol=1e-6)


OLD = """
optimizer = dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=1e-4)
runner = dict(type='EpochBasedRunner', max_epochs=10)
data = dict(samples_per_gpu=8, train=dict(type='Nothing'))
lr_config = dict({policy})
"""


@pytest.mark.parametrize("warmup", ["linear", "constant", "exp", None])
@pytest.mark.parametrize("policy", ["step", "CosineAnnealing", "poly", "fixed"])
def test_old_style(tmp_path, policy, warmup):
    """lr_config as mmcv 1 computed it: the regular rate of the epoch times the warm-up factor of the iteration."""
    words = {"step": "policy='step', step=[3, 7]", "CosineAnnealing": "policy='CosineAnnealing', min_lr=0.01",
             "poly": "policy='poly', power=2, min_lr=0.01", "fixed": "policy='fixed'"}[policy]  # fmt: skip
    words += f", warmup='{warmup}', warmup_iters=25, warmup_ratio=0.2" if warmup else ""
    config = tmp_path / "old.py"
    config.write_text(OLD.format(policy=words))
    found = curve(config, dataset_size=80)
    expected = []
    for t in range(100):
        epoch = t // 10
        rate = {
            "step": 0.5 * 0.1 ** sum(epoch >= m for m in (3, 7)),
            "CosineAnnealing": 0.01 + 0.49 * (1 + math.cos(math.pi * epoch / 10)) / 2,
            "poly": (0.5 - 0.01) * (1 - epoch / 10) ** 2 + 0.01,
            "fixed": 0.5,
        }[policy]
        if warmup and t < 25:
            rate *= {"linear": 1 - (1 - t / 25) * 0.8, "constant": 0.2, "exp": 0.2 ** (1 - t / 25)}[warmup]
        expected.append(rate)
    np.testing.assert_allclose(found.value(range(100))[:, 0], expected, rtol=1e-9)


def _half_cosine(first, last, share):
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _by_hand(name: str, t: int, length: int) -> float:
    """The rate 0.5 after t of `length` steps, as the hooks of mmcv 1 computed it."""
    if name == "exp":
        return 0.5 * 0.9**t
    if name == "inv":
        return 0.5 * (1 + 0.1 * t) ** -0.75
    if name == "floor":
        return max(0.5 * 0.5 ** (t // 3), 0.1)
    if name == "flat":
        start = round(length * 0.6)
        return 0.5 if t < start else _half_cosine(0.5, 0.05, (t - start) / (length - start))
    if name == "linear":
        return 0.5 + (0.01 - 0.5) * t / length
    if name == "restart":
        first = int(0.4 * length)
        weight, share = (1.0, t / first) if t < first else (0.5, (t - first) / (length - first))
        return 0.01 + weight * (0.5 - 0.01) * (1 + math.cos(math.pi * share)) / 2
    if name == "one cycle":
        top = 0.3 * length - 1
        if t <= top:
            return _half_cosine(1 / 25, 1.0, t / top)
        return _half_cosine(1.0, 1 / 25 / 1e4, (t - top) / (length - 1 - top))
    assert name == "cyclic"
    cycle = length // 2
    rise, peak, t = int(0.3 * cycle), 0.5 * (1 + 0.5 ** (t // cycle) * (5 - 1)), t % cycle
    return (
        _half_cosine(0.5, peak, t / rise) if t < rise else _half_cosine(peak, 0.5 * 0.01, (t - rise) / (cycle - rise))
    )


POLICIES = {
    "exp": "policy='exp', gamma=0.9",
    "inv": "policy='inv', gamma=0.1, power=0.75",
    "floor": "policy='step', step=3, gamma=0.5, min_lr=0.1",
    "flat": "policy='FlatCosineAnnealing', start_percent=0.6, min_lr_ratio=0.1",
    "linear": "policy='LinearAnnealing', min_lr=0.01",
    "restart": "policy='CosineRestart', periods={periods}, restart_weights=[1.0, 0.5], min_lr=0.01",
    "one cycle": "policy='OneCycle', max_lr=1.0",
    "cyclic": "policy='cyclic', target_ratio=(5, 0.01), cyclic_times=2, step_ratio_up=0.3, gamma=0.5",
}


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("runner", ["max_epochs=10", "max_iters=100"])
@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_mmcv_by_hand(tmp_path, name, runner, stepwise):
    periods = "[4, 6]" if stepwise else "[40, 60]"
    config = tmp_path / "old.py"
    words = f"{POLICIES[name].format(periods=periods)}, by_epoch={stepwise}, warmup='linear', warmup_iters=15"
    config.write_text(OLD.format(policy=words).replace("max_epochs=10", runner))
    found = curve(config, dataset_size=80)
    by_epoch = stepwise and name not in ("one cycle", "cyclic")
    expected = [_by_hand(name, t // 10 if by_epoch else t, 10 if by_epoch else 100) for t in range(100)]
    warm = [1 - (1 - min(t, 15) / 15) * 0.9 for t in range(100)]
    if by_epoch and "iters" in runner:
        # IterBasedRunner calls no hook before an epoch, in which such a rate is set, and a warm-up starts from that.
        expected, warm = [0.5] * 100, [1.0] * 100
    np.testing.assert_allclose(found.value(range(100))[:, 0], np.multiply(expected, warm), rtol=1e-9)


def test_policies_of_an_old_style_iteration_runner_go_by_iteration_unless_told(tmp_path):
    config = tmp_path / "old.py"
    config.write_text(OLD.format(policy="policy='step', step=[40, 70]").replace("max_epochs=10", "max_iters=100"))
    assert curve(config).at.tolist() == [0, 40, 70]


LOOPS = {
    "linear": [{"type": "LinearLR", "start_factor": 0.25, "end": 4}],
    "steps": [{"type": "MultiStepLR", "milestones": [2, 6], "gamma": 0.5}, {"type": "LinearLR", "start_factor": 0.5, "end": 6, "by_epoch": False}],
    "mixed": [{"type": "CosineAnnealingLR", "T_max": 8, "by_epoch": False}, {"type": "ExponentialLR", "gamma": 0.5}],
    "converted": [{"type": "CosineAnnealingLR", "T_max": 2, "convert_to_iter_based": True}],
    "constant": [{"type": "ConstantLR", "factor": 0.1, "end": 3}],
    "poly": [{"type": "PolyLR", "power": 1.0, "eta_min": 0.01, "begin": 2, "by_epoch": False}],
}  # fmt: skip


@pytest.mark.parametrize("loop", ["by_epoch=True, max_epochs=3", "by_epoch=False, max_iters=12"])
@pytest.mark.parametrize("name", LOOPS)
def test_what_the_real_runner_trains_with(tmp_path, name, loop):
    """The rate at every iteration of mmengine's own Runner, 4 iterations an epoch, is the rate that is drawn."""
    import cv2
    import torch
    from mmengine.hooks import Hook
    from mmengine.model import BaseModel
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner

    class Tiny(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, mode="loss"):
            return {"loss": self.weight.sum() * 0}

    rates: list[float] = []

    class Listening(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            rates.append(runner.optim_wrapper.optimizer.param_groups[0]["lr"])

    text = (f"train_cfg = dict({loop})\noptim_wrapper = dict(optimizer=dict(type='SGD', lr=0.8))\n"
            f"train_dataloader = dict(batch_size=2)\nparam_scheduler = {LOOPS[name]!r}\n")  # fmt: skip
    config = tmp_path / "c.py"
    config.write_text(text)
    held = openmmlab_config(str(config), {})
    loader = torch.utils.data.DataLoader([{"x": torch.zeros(1)}] * 8, batch_size=2)
    scopes, threads = dict(DefaultScope._instance_dict), cv2.getNumThreads()
    runner = Runner(Tiny(), str(tmp_path / "work"), train_dataloader=loader, train_cfg=held.train_cfg, optim_wrapper=held.optim_wrapper,
                    param_scheduler=held.param_scheduler, custom_hooks=[Listening()], log_level="ERROR",
                    experiment_name=f"{name} {loop}", default_hooks={"logger": None, "checkpoint": None})  # fmt: skip
    runner.train()
    # The Runner leaves its scope behind, and OpenCV on one thread.
    cv2.setNumThreads(threads)
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(scopes)
    (plan,) = (
        schedules(str(config), Training(dataset_size=8))
        if "epochs" in loop or name not in ("linear", "steps", "mixed", "constant")
        else _warned(config)
    )
    found = record(plan)
    drawn = found.value(range(12))[:, 0] if found.unit == "iter" else np.repeat(found.value(range(3))[:, 0], 4)
    np.testing.assert_allclose(drawn, rates, rtol=1e-12)


def _warned(config):
    with pytest.warns(LoupeWarning, match="by_epoch=True, the default, in a training by iteration is stepped once"):
        return schedules(str(config), Training(dataset_size=8))


def test_old_style_has_its_parameter_groups(tmp_path):
    config = tmp_path / "old.py"
    text = OLD.format(policy="policy='step', step=[4]")
    paramwise = "default_scope = 'mmpretrain'\noptimizer['paramwise_cfg'] = dict(norm_decay_mult=0.0)\n"
    model = "dict(type='ImageClassifier', backbone=dict(type='LeNet5', num_classes=10))"
    config.write_text(f"{text}{paramwise}model = {model}\n".replace("LeNet5', num_classes=10", "MobileNetV2'"))
    found = curve(config, "wd")
    assert sorted(found.values[0].tolist()) == [0.0, 1e-4]
    assert curve(config).values.tolist() == [[0.5] * 2, [0.05] * 2]


MOMENTA = {
    "step": ("policy='step', step=[3, 7], gamma=0.5", lambda t, e: 0.9 * 0.5 ** ((e >= 3) + (e >= 7))),
    "cosine": ("policy='CosineAnnealing', min_momentum=0.5", lambda t, e: 0.5 + 0.4 * (1 + math.cos(math.pi * e / 10)) / 2),
    "cyclic": ("policy='cyclic', target_ratio=(0.5, 1), cyclic_times=1, step_ratio_up=0.4",
               lambda t, e: _half_cosine(0.9, 0.45, t / 40) if t < 40 else _half_cosine(0.45, 0.9, (t - 40) / 60)),
    "one cycle": ("policy='OneCycle', base_momentum=0.8, max_momentum=0.95, pct_start=0.3",
                  lambda t, e: _half_cosine(0.95, 0.8, t / 29) if t <= 29 else _half_cosine(0.8, 0.95, (t - 29) / 70)),
}  # fmt: skip


@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_config_by_hand(tmp_path, name):
    words, by_hand = MOMENTA[name]
    config = tmp_path / "old.py"
    config.write_text(OLD.format(policy="policy='step', step=[4]") + f"momentum_config = dict({words})\n")
    found = curve(config, "momentum", dataset_size=80)
    np.testing.assert_allclose(found.value(range(100))[:, 0], [by_hand(t, t // 10) for t in range(100)], rtol=1e-9)
    assert curve(config, dataset_size=80).value([0, 39, 40])[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.05])


def test_an_unknown_policy_of_momentum_is_said(tmp_path):
    config = tmp_path / "old.py"
    config.write_text(OLD.format(policy="policy='step', step=[4]") + "momentum_config = dict(policy='cycle')\n")
    with pytest.raises(BadInput, match="momentum_config policy cycle is not known. Did you mean OneCycle, cyclic"):
        schedules(str(config))


def test_lightning_s_configs(tmp_path):
    config = tmp_path / "lightning.yaml"
    config.write_text(
        "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.2, momentum: 0.9}}\n"
        "lr_scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 10}}\n"
        "trainer: {max_epochs: 10}\ndata: {class_path: my.Data, init_args: {batch_size: 8}}\n"
    )
    wanted = [0.2 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)]
    np.testing.assert_allclose(curve(config).value(range(10))[:, 0], wanted, rtol=1e-9)
    found = curve(config, dataset_size=80)
    assert (found.unit, found.per_epoch, found.length) == ("iter", 10, 100)
    np.testing.assert_allclose(found.value(range(0, 100, 10))[:, 0], wanted, rtol=1e-9)
    config.write_text(config.read_text().replace("SGD", "SDG"))
    with pytest.raises(BadInput, match="torch.optim has no 'SDG'. Did you mean SGD"):
        schedules(str(config))


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_arguments_of_the_trainer_of_transformers(tmp_path, form):
    import json

    held = {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_ratio": 0.1, "num_train_epochs": 5,
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "weight_decay": 0.01}  # fmt: skip
    config = tmp_path / f"args.{form}"
    # JSON is YAML.
    config.write_text(json.dumps(held).replace("0.001", "0.001"))
    found = curve(config, dataset_size=160, ngpus=2)
    assert (found.length, found.per_epoch) == (50, 10)
    wanted = [1e-3 * (t / 5 if t < 5 else (50 - t) / 45) for t in range(50)]
    np.testing.assert_allclose(found.value(range(50))[:, 0], wanted, rtol=1e-9, atol=1e-15)
    with pytest.raises(BadInput, match="updates an epoch are not known; give --dataset-size"):
        schedules(str(config))
    config.write_text(json.dumps({**held, "max_steps": 20, "lr_scheduler_type": "constant"}))
    assert curve(config).length == 20


def test_optimizers_of_the_config_s_own_package():
    found = curve(configs() / "byol/byol_resnet50_16xb256-coslr-200e_in1k.py", dataset_size=4096, ngpus=16)
    assert found.summary()[0]["peak"] == pytest.approx(4.8)


def test_weights_that_a_model_asks_for_are_not_loaded():
    path = configs() / "milan/milan_vit-base-p16_16xb256-amp-coslr-400e_in1k.py"
    with pytest.warns(LoupeWarning, match="parameter groups are left out.*it asks for the weights http"):
        (plan,) = schedules(str(path), Training(4096, 16))
    assert len(plan.optimizer.param_groups) == 1


def test_configs_of_installed_packages_and_near_names():
    with pytest.warns(LoupeWarning, match="taken from mmpretrain's own configs"):
        (plan,) = schedules("configs/resnet/resnet50_8xb32_in1k.py")
    assert plan.name == "resnet50_8xb32_in1k"
    for wrong, near in (
        ("configs/resnet/resnet50_b16x8_cifar100.py", "resnet50_8xb16_cifar100"),
        ("configs/repvgg/repvgg-B3g4_4xb64-autoaug-lbs-mixup-coslr-200e_in1k.py", "repvgg-B3g4_8xb32_in1k"),
    ):
        with pytest.raises(BadInput, match=f"no such config. Did you mean .*{near}"):
            schedules(wrong)
    with pytest.raises(BadInput, match="neither a config file, a folder of configs nor a spec"):
        schedules("tim:cosine?epochs=3")


def test_catalogues_of_models_are_no_configs(tmp_path):
    (tmp_path / "resnet_coco.yml").write_text("Collections:\n- Name: ResNet\n")
    (tmp_path / "a.yaml").write_text("trainer_cfg: {total_iter: 100}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoupeWarning)
        assert [plan.name for plan in schedules(str(tmp_path))] == ["a"]


def test_old_style_by_epoch_needs_no_data_set(tmp_path):
    config = tmp_path / "old.py"
    config.write_text(OLD.format(policy="policy='step', step=4, gamma=0.5"))
    found = curve(config)
    assert (found.unit, found.at.tolist(), found.values[:, 0].tolist()) == ("epoch", [0, 4, 8], [0.5, 0.25, 0.125])
    config.write_text(OLD.format(policy="policy='cosinannealing'"))
    with pytest.raises(BadInput, match="policy cosinannealing is not known. Did you mean CosineAnnealing"):
        curve(config)


def test_opengait_yaml(tmp_path):
    config = tmp_path / "gaitset.yaml"
    config.write_text(
        "optimizer_cfg: {lr: 0.0001, solver: Adam, weight_decay: 0}\n"
        "scheduler_cfg: {gamma: 0.1, milestones: [10, 30], scheduler: MultiStepLR, colour: blue}\n"
        "trainer_cfg: {total_iter: 50, sampler: {batch_size: [2, 4]}}\n"
    )
    found = curve(config, dataset_size=80)
    assert (found.unit, found.length, found.per_epoch, found.at.tolist()) == ("iter", 50, 10, [0, 10, 30])
    np.testing.assert_allclose(found.values[:, 0], [1e-4, 1e-5, 1e-6], rtol=1e-12)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/default.yaml").write_text("optimizer_cfg: {solver: SGD, lr: 0.3}\n")
    bare = tmp_path / "bare.yaml"
    bare.write_text("trainer_cfg: {total_iter: 30000}\n")
    found = curve(bare)
    assert (found.length, found.at.tolist()) == (30000, [0, 20000])
    np.testing.assert_allclose(found.values[:, 0], [0.3, 0.03])


def test_the_schedule_and_the_maps_of_gait_find_the_same_default(tmp_path):
    """Beside the config, in the folder above, in ./configs of either: the nearest one, for both."""
    from torchloupe.sources.opengait_config import read_config

    tree = tmp_path / "tree/configs/gaitset"
    tree.mkdir(parents=True)
    config = tree / "gaitset.yaml"
    config.write_text("model_cfg: {model: GaitSet}\ntrainer_cfg: {sampler: {batch_size: [2, 4]}}\n")
    assert (read_config(config).merged, curve(config).length) == (None, 80000)
    places = [tmp_path / "tree/configs/default.yaml", tree.parent / "configs/default.yaml", tree / "default.yaml"]
    for place, rate in zip(places, (0.5, 0.25, 1.0), strict=True):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"optimizer_cfg: {{lr: {rate}}}\ntrainer_cfg: {{total_iter: 10}}\n")
        found = curve(config)
        wanted = tree / "default.yaml" if place.parent == tree else tmp_path / "tree/configs/default.yaml"
        assert read_config(config).merged == wanted
        assert (found.length, found.values.tolist()) == (10, [[1.0 if place.parent == tree else 0.5]])


def test_gpus_and_steps_that_are_written_as_text_are_read(tmp_path):
    """YAML has no tuples: HRNet's files write (0,1,2,3), and its reader makes four GPUs of that."""
    config = tmp_path / "w32.yaml"
    config.write_text(
        "GPUS: (0,1,2,3)\nMODEL: {NAME: pose_hrnet}\n"
        "TRAIN: {LR: 0.001, LR_STEP: '(2, 3)', OPTIMIZER: adam, END_EPOCH: 4, BATCH_SIZE_PER_GPU: 8}\n"
    )
    found = curve(config, dataset_size=320)
    assert (found.per_epoch, found.at.tolist()) == (10, [0, 20, 30])


def test_hrnet_yaml(tmp_path):
    config = tmp_path / "w32.yaml"
    config.write_text(
        "GPUS: (0,)\nMODEL: {NAME: pose_hrnet}\n"
        "TRAIN: {LR: 0.001, LR_STEP: [17, 20], LR_FACTOR: 0.1, OPTIMIZER: adam, END_EPOCH: 21, BATCH_SIZE_PER_GPU: 8}\n"
    )
    found = curve(config)
    assert (found.unit, found.length, found.at.tolist()) == ("epoch", 21, [0, 17, 20])
    np.testing.assert_allclose(found.values[:, 0], [1e-3, 1e-4, 1e-5], rtol=1e-12)
    assert curve(config, "wd").values.tolist() == [[0.0]]
    found = curve(config, dataset_size=80, ngpus=1, changes={"TRAIN.BEGIN_EPOCH": 18})
    assert (found.length, found.per_epoch, found.at.tolist()) == (30, 10, [0, 20])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.py", "x = = 1", "does not load"),
        ("a.py", "x = 1", "says nothing of training"),
        (
            "a.py",
            "train_cfg = dict(by_epoch=True)\noptim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0))",
            "max_epochs",
        ),
        (
            "a.py",
            "train_cfg = dict(max_epochs=0)\noptim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0))",
            "nothing to",
        ),
        (
            "a.py",
            "train_cfg = dict(max_epochs=3)\noptim_wrapper = dict(optimizer=dict(type='SDG', lr=1.0))",
            "no optimizer SDG. Did you mean",
        ),
        ("a.yaml", "[1, 2]", "expected a YAML mapping"),
        ("a.yaml", "a: [1", "cannot be read as a config in YAML"),
        ("a.yaml", "a: 1", "neither an OpenGait config"),
        ("a.yaml", "TRAIN: {OPTIMIZER: lion}", "expected sgd or adam"),
        ("a.yaml", "optimizer_cfg: {solver: Adaam}", "Did you mean Adam"),
    ],
)
def test_bad_configs_get_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        curve(tmp_path / name)
    assert Path(name).stem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_missing(tmp_path):
    (tmp_path / "a.py").write_text("default_scope = 'mmnothing'")
    with pytest.raises(MissingPackage, match="mmnothing, which is not installed"):
        curve(tmp_path / "a.py")
    (tmp_path / "a.py").write_text("custom_imports = dict(imports=['mmnothing'])")
    with pytest.raises(MissingPackage, match="mmnothing"):
        curve(tmp_path / "a.py")


def test_a_data_set_that_is_absent_asks_for_its_size():
    with pytest.raises(BadInput, match="give --dataset-size N"):
        curve(configs() / "swin_transformer/swin-tiny_16xb64_in1k.py")


def test_folder_leaves_out_what_trains_nothing(tmp_path):
    (tmp_path / "b.py").write_text("model = 1")
    (tmp_path / "a.py").write_text((tmp_path / "b.py").read_text() + "\ntrain_cfg = dict(max_epochs=3)\n"
                                   "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0))\n")  # fmt: skip
    with pytest.warns(LoupeWarning, match=r"left out: .*b\.py"):
        (plan,) = schedules(str(tmp_path))
    assert plan.name == "a"
    with pytest.raises(BadInput, match="no config"):
        schedules(str(Path(configs()) / "resnet/__pycache__"))


def test_the_scope_of_a_config_is_not_left_behind():
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):  # a user's own: mmengine puts back a copy of it
        curve(configs() / "resnet/resnet50_8xb32_in1k.py")
        assert DefaultScope.get_current_instance().scope_name == "mmdet"


def test_options():
    assert options(["a.b=1e-3", "c=[1, 2]", "d=x", "e=true", "f=1,2", "g=None"]) == {
        "a.b": 0.001, "c": [1, 2], "d": "x", "e": True, "f": [1, 2], "g": None}  # fmt: skip
    with pytest.raises(BadInput, match="expected key=value"):
        options(["a"])
    path = str(configs() / "resnet/resnet50_8xb32_in1k.py")
    assert openmmlab_config(path, options(["train_cfg.max_epochs=3"])).train_cfg.max_epochs == 3


def test_command_line(tmp_path, capsys):
    resnet = str(configs() / "resnet/resnet18_8xb16_cifar10.py")
    picture = tmp_path / "out/curve.png"
    words = ["schedule", resnet, "timm:cosine?epochs=20&warmup_epochs=2", "--save-path", str(picture)]
    words += ["--title", "Two", "--style", "ticks", "--window-size", "6*3", "--by", "epoch"]
    assert main([*words, "--cfg-options", "train_cfg.max_epochs=20", "param_scheduler.milestones=[5,10]"]) == 0
    assert "resnet18_8xb16_cifar10" in capsys.readouterr().out
    from PIL import Image

    assert Image.open(picture).size == (720, 360)
    rows = list(csv.DictReader(picture.with_suffix(".csv").open()))
    assert [(row["epoch"], float(row["value"])) for row in rows if row["schedule"] == "resnet18_8xb16_cifar10"] == [
        ("0", 0.1), ("5", pytest.approx(0.01)), ("10", pytest.approx(0.001)), ("20", pytest.approx(0.001))]  # fmt: skip
    assert [path.name for path in picture.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to draw"),
        (["timm:cosine", "--style", "whitegird"], "Did you mean whitegrid"),
        (["timm:cosine", "--window-size", "12"], "expected W*H"),
        (["timm:cosine", "--window-size", "0*7"], "expected W*H"),
        (["timm:cosine", "--window-size=-3*7"], "expected W*H"),
        (["timm:cosine", "--window-size", "12*seven"], "expected W*H"),
        (["timm:cosine", "--dataset-size", "0"], "--dataset-size 0: expected 1 or more"),
        (["timm:cosine", "--dataset-size", "-5"], "--dataset-size -5: expected 1 or more"),
        (["timm:cosine", "--ngpus", "0"], "--ngpus 0: expected 1 or more"),
        (["timm:cosine", "--save-path", "a.xyz"], ".png"),
        (["timm:cosine", "--by", "iter"], "give --dataset-size"),
        (["timm:cosine", "--parameter", "beta"], "beta"),
        (["timm:cosine", "--cfg-options", "a"], "key=value"),
        (["timm:cosine", "transformers:linear?iters=10"], "cannot be drawn on one axis"),
    ],
)
def test_bad_words_on_the_command_line(words, message, capsys):
    assert main(["schedule", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("loupe: error: ")
    assert told.count("\n") == 1


def test_gpus_share_an_epoch():
    """1281167 pictures in batches of 32 on 4 GPUs: 10009.1 batches of 128, so 10010 iterations."""
    assert Training(1281167, 4).per_epoch(32) == 10010
    assert Training(1281167).per_epoch(32) == 40037
    assert Training(128, 4).per_epoch(32) == 1
