"""Pose ResNet and HRNet: published pose checkpoints run with no framework installed."""

from torchloupe.networks.pose.hrnet import PoseHRNet, Stage
from torchloupe.networks.pose.resnet import PoseResNet

__all__ = ["PoseHRNet", "PoseResNet", "Stage"]
