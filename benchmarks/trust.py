"""Deletion, insertion and ROAD of three methods: CPU time beside Quantus and pytorch-grad-cam, at equal results.

One grey network (Quantus' ROAD fails on colour pictures), the same maps, without ties, for all three. Quantus is measured where it is
installed. Its pixel flipping gives deletion, and insertion as the least important filled with the blurred picture; its ROAD is MoRF
alone, so that it is asked for the map and for its negative. pytorch-grad-cam has ROAD only.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import table
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.methods.cam import cams
from torchloupe.metrics.fills import blurred
from torchloupe.outputs import Maps
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.targets.classes import Top

SIDE, COUNT, STEPS = 112, 4, 16
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
METHODS = ("gradcam", "layercam", "eigencam")
ROUNDS = 2


def network() -> nn.Module:
    """ResNet-18 for grey pictures, random, its BatchNorm set to the pictures."""
    torch.manual_seed(0)
    model: Any = loupe.subject("torchvision:resnet18").module
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


def pictures() -> Tensor:
    """Grey crops of scikit-image's photographs, (n, 1, SIDE, SIDE)."""
    from skimage import data
    from skimage.transform import resize

    found = [resize(getattr(data, name)(), (SIDE, SIDE)) for name in ("chelsea", "coffee", "astronaut", "rocket")]
    grey = np.stack([one.mean(2) if one.ndim == 3 else one for one in found])[:COUNT]
    return torch.from_numpy((grey - 0.45) / 0.22).float()[:, None]


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it gave."""
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def ours(probe: Probe, batch: Batch, maps: dict[str, Maps], metrics: tuple[str, ...]) -> Any:
    """All of it in one call."""
    more = {"steps": STEPS} if "deletion" in metrics else {}
    return loupe.judge(probe, batch, maps, metrics, chance=False, value="softmax", percentiles=PERCENTILES, **more)


def quantus_all(model: nn.Module, x: Tensor, labels: np.ndarray, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """method -> its deletion curves (n, STEPS), insertion curves likewise."""
    import quantus

    soft = blurred(x[:, :, None])[:, :, 0].numpy()

    def blur_fill(arr: np.ndarray, indices: np.ndarray, **_: Any) -> np.ndarray:
        changed, flat = arr.copy(), soft.reshape(len(arr), -1)
        rows = np.arange(len(arr))[:, None]
        changed[rows, indices] = flat[rows, indices]
        return changed

    shared = {"normalise": False, "abs": False, "display_progressbar": False, "disable_warnings": True}
    step = SIDE * SIDE // STEPS
    given = {
        "model": model,
        "x_batch": x.numpy(),
        "y_batch": labels,
        "device": "cpu",
        "softmax": True,
        "batch_size": COUNT,
    }
    found = {}
    for name, a in maps.items():
        flip = quantus.PixelFlipping(features_in_step=step, perturb_baseline=0.0, **shared)
        found[f"{name} deletion"] = np.asarray(flip(a_batch=a, **given))
        back = quantus.PixelFlipping(features_in_step=step, perturb_func=blur_fill, **shared)
        found[f"{name} insertion"] = np.asarray(back(a_batch=-a, **given))
        for sign in (1, -1):
            quantus.ROAD(percentages=list(PERCENTILES), noise=0.01, **shared)(a_batch=sign * a, **given)
    return found


def grad_cam_road(model: nn.Module, x: Tensor, labels: np.ndarray, maps: dict[str, np.ndarray]) -> None:
    """ROAD combined of every method."""
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in labels]
    for a in maps.values():
        ROADCombined(percentiles=list(PERCENTILES))(x, a[:, 0], targets, model)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, x = network(), pictures()
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(x)
    model.eval()
    batch = Batch(x)
    probe = Probe(Subject(model), ("layer3",), Top(1))
    found = cams(probe, batch, METHODS)
    generator = torch.Generator().manual_seed(0)
    fine = {}
    for name, maps in found.items():
        values = loupe.resize(maps["layer3"], batch.size)
        # no two values are equal, so that everybody takes the same pixels away
        order = (values + 1e-9 * torch.rand(values.shape, generator=generator)).flatten(2).argsort(2).argsort(2)
        fine[name] = Maps({"layer3": order.view(values.shape).float() / values[0, 0].numel()}, maps.scores)
    plain = {name: maps["layer3"][0, :, 0].numpy()[:, None] for name, maps in fine.items()}
    labels = np.array([int(one) for one in found["gradcam"].scores.labels[0]])
    everything, road = ("deletion", "insertion", "road"), ("road",)
    rows = [
        (
            "round",
            "torchloupe, all three",
            "Quantus, all three",
            "ratio",
            "torchloupe, ROAD",
            "pytorch-grad-cam, ROAD",
            "ratio",
        )
    ]
    try:
        import quantus as _quantus  # noqa: F401

        there = True
    except ImportError:
        there = False
    for number in range(ROUNDS):
        mine, judged = spent(lambda: ours(probe, batch, fine, everything))
        theirs, curves = spent(lambda: quantus_all(model, x, labels, plain)) if there else (float("nan"), {})
        own, _ = spent(lambda: ours(probe, batch, fine, road))
        cam, _ = spent(lambda: grad_cam_road(model, x, labels, plain))
        rows.append(
            (
                str(number),
                f"{mine:.1f} s",
                f"{theirs:.1f} s",
                f"{theirs / mine:.1f}",
                f"{own:.1f} s",
                f"{cam:.1f} s",
                f"{cam / own:.1f}",
            )
        )
        for name in curves:
            method, kind = name.split()
            line = judged.curves[kind].value[f"{method}/layer3"][0].numpy()
            gap = np.abs(line[:, 1:] - curves[name]).max()
            assert gap < 1e-4, f"{name}: differs by {gap:.2g}"
    print(table(rows))
    print(
        f"\n{judged.forwards} masked pictures of {SIDE} x {SIDE}; curves of Quantus equal to 1e-4"
        if there
        else "\nQuantus is not installed"
    )


if __name__ == "__main__":
    main()
