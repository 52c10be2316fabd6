"""Set-up that the tests need and the package does not."""

from __future__ import annotations

import warnings

import torch

from torchloupe.sources import patches

torch.set_num_threads(1)  # two workers of pytest share two cores

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    patches.torchvision()  # tests import peers, timm and torchvision by themselves, before the package does
