"""CPU time of maps from attention beside one forward and backward of ViT-B/16, 8 pictures; torchcam's LeGrad and grad-cam beside.

python benchmarks/transformers.py [model] [pictures] [rounds]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import torchloupe as loupe
from torchloupe.methods.registry import METHODS
from torchloupe.probe import Batch, Probe
from torchloupe.sources import patches
from torchloupe.targets.classes import Top


def main(model: str = "vit_b_16", pictures: int = 8, rounds: int = 3) -> None:
    """Prints the least time of each over the rounds, and its ratio to the bare forward and backward."""
    patches.torchvision()
    import torchvision

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = getattr(torchvision.models, model)().eval()
    torch.nn.init.normal_(net.heads.head.weight, std=0.02)
    subject = loupe.subject(net)
    x = torch.randn(pictures, 3, 224, 224)
    last = f"encoder.layers.encoder_layer_{len(net.encoder.layers) - 1}.ln_1"
    probe = Probe(subject, (last,), Top(1))

    def bare() -> None:
        """As training has it: one forward, one backward to the first block's output."""
        held = []
        handle = net.encoder.layers[0].register_forward_hook(lambda _m, _i, out: held.append(out.requires_grad_()))
        for part in net.parameters():
            part.requires_grad_(False)
        y = net(x)
        handle.remove()
        torch.autograd.grad(y.max(1).values.sum(), held)

    def together() -> None:
        for name in ("legrad", "chefer", "rollout"):
            METHODS[name](probe, Batch(x))
        loupe.gradcam(probe, Batch(x), libra=True)

    asked: dict[str, Callable[[], Any]] = {
        "forward and backward": bare,
        "gradcam": partial(loupe.gradcam, probe, Batch(x)),
        "gradcam libra": partial(loupe.gradcam, probe, Batch(x), libra=True),
        "legrad, last two blocks": partial(loupe.legrad, probe, Batch(x)),
        "chefer": partial(loupe.chefer, probe, Batch(x)),
        "rollout": partial(loupe.rollout, probe, Batch(x)),
        "these four, one after the other": together,
        "torchcam LeGrad": partial(_torchcam, net, x),
        "grad-cam GradCAM": partial(_gradcam, net, x),
    }
    base = 0.0
    for name, ask in asked.items():
        ask()
        spent = []
        for _ in range(rounds):
            begin = time.process_time()
            ask()
            spent.append(time.process_time() - begin)
        base = base or min(spent)
        print(f"{name:34}{min(spent):8.2f} s{min(spent) / base:7.2f}", flush=True)


def _torchcam(net: Any, x: torch.Tensor) -> None:
    from torchcam.methods import LeGrad

    with LeGrad(net, [f"encoder.layers.encoder_layer_{len(net.encoder.layers) - i}" for i in (2, 1)]) as made:
        scores = net(x)
        made(scores.argmax(1).tolist(), scores)


def _gradcam(net: Any, x: torch.Tensor) -> None:
    from pytorch_grad_cam import GradCAM

    def grid(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))

    with GradCAM(net, [net.encoder.layers[-1].ln_1], reshape_transform=grid) as made:
        made(x)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:4]))
