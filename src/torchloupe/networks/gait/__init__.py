"""Gait networks, state-dict compatible with OpenGait's published checkpoints: `NETWORKS` by the configs' model names."""

from __future__ import annotations
