"""What comes out: raw numbers, never pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Scores(NamedTuple):
    """The answers to k questions about n samples.

    value: (k, n), differentiable inside a probing; column i depends on sample i only.
    labels: k tuples of n names, what each question asked of each sample.
    """

    value: Tensor
    labels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Maps:
    """Heatmaps as raw numbers at each layer's own resolution.

    maps: layer -> (k, n, t, h, w).
    scores: what was asked and answered.
    signed: True where negative values carry meaning (evidence against), False where a map is >= 0.
    notes: further numbers by name, each (k, n), such as a completeness residual.
    """

    maps: Mapping[str, Tensor]
    scores: Scores
    signed: bool = False
    notes: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        return self.maps[layer]

    @property
    def empty(self) -> tuple[tuple[str, int, int], ...]:
        """(layer, question, sample) of every map that is zero everywhere."""
        dark = {layer: (maps == 0).flatten(2).all(2) for layer, maps in self.maps.items()}
        return tuple((layer, k, n) for layer, mask in dark.items() for k, n in mask.nonzero().tolist())


@dataclass(frozen=True)
class Features:
    """Feature maps as raw numbers.

    values: label of a point -> (n, c, t, h, w). layouts: label -> the pattern with which it was read. ids: the n samples.
    loose: labels of values whose rows and columns are not the picture's (parameters, attention between tokens).
    """

    values: Mapping[str, Tensor]
    layouts: Mapping[str, str]
    ids: tuple[str, ...]
    loose: tuple[str, ...] = ()

    def __getitem__(self, label: str) -> Tensor:
        return self.values[label]
