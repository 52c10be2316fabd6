"""Gait networks that load OpenGait's published checkpoints: `NETWORKS` by the configs' model names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchloupe.networks.gait import deepgait, gaitbase, gaitgl, gaitpart, gaitset, gaittr, gln, resgcn

NETWORKS: dict[str, Callable[[Mapping[str, Any], str], nn.Module]] = {
    "GaitSet": gaitset.build,
    "GaitPart": gaitpart.build,
    "GaitGL": gaitgl.build,
    "GLN": gln.build,
    "Baseline": gaitbase.build,
    "DeepGaitV2": deepgait.build,
    "SkeletonGaitPP": deepgait.build_plus,
    "GaitGraph1": resgcn.build1,
    "GaitGraph2": resgcn.build2,
    "GaitTR": gaittr.build,
}


def leaves(module: nn.Module) -> dict[int, str]:
    """Running number, from 1 in order of registration, -> name, over the modules without children."""
    names = [name for name, part in module.named_modules() if name and not any(part.children())]
    return dict(enumerate(names, 1))
