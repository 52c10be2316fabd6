"""What the maps of many walks have in common: means by view, condition and outcome, over the body and over time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchloupe.errors import BadInput
from torchloupe.kinds.pictured import Pictured
from torchloupe.store import plain

KIND = "gait summary"
Group = tuple[str, str]


@dataclass(frozen=True)
class Summary(Pictured):
    """Means over the walks of a run, each walk's map a share of its own sum (of magnitudes), so that all count alike.

    means: (layer, (by, group)) -> (h', w'), by "all", "view", "type" or "match" (right, wrong); bodies: (by, group) -> (h, w)
    mean silhouette 0..255; counts: (by, group) -> walks. times: layer -> (h', T) share of a row at a relative time, for
    layers with time. differences: (layer, "b - a") -> (h', w'), type b less type a of the same people from the same views;
    pairs: "b - a" -> how many. bands: (by, group) -> layer -> part of the body -> share; areas: (by, group) -> part -> share
    of the silhouette.
    parts: "right" or "wrong" -> (3, p): share of the distance to the answer, mean of rival - match over parts (adds up to
    the mean margin), and share of walks in which the part alone is right; part_rows as in SequenceMaps.
    On disk: `mean/LAYER/BY/GROUP`, `body/BY/GROUP`, `time/LAYER`, `difference/LAYER/PAIR`, `parts/OUTCOME`, `part_rows`.
    """

    means: Mapping[tuple[str, Group], np.ndarray]
    bodies: Mapping[Group, np.ndarray]
    counts: Mapping[Group, int]
    times: Mapping[str, np.ndarray] = field(default_factory=dict)
    differences: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    pairs: Mapping[str, int] = field(default_factory=dict)
    bands: Mapping[Group, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    areas: Mapping[Group, Mapping[str, float]] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    part_rows: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    signed: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in order."""
        return tuple(dict.fromkeys(layer for layer, _ in self.means))

    def groups(self, by: str) -> tuple[str, ...]:
        """The groups of a kind that have walks."""
        return tuple(group for kind, group in self.counts if kind == by)

    @property
    def record(self) -> Mapping[str, Any]:
        """How it was made, with the kind's name."""
        lists = {
            "layers": self.layers,
            "groups": [[*where, count] for where, count in self.counts.items()],
            "pairs": self.pairs,
            "bands": [[*where, some] for where, some in self.bands.items()],
            "areas": [[*where, some] for where, some in self.areas.items()],
            "signed": self.signed,
        }
        return plain({**self.told, **lists, "kind": KIND})

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by their names on disk."""
        return {
            **{f"mean/{layer}/{by}/{group}": array for (layer, (by, group)), array in self.means.items()},
            **{f"body/{by}/{group}": array for (by, group), array in self.bodies.items()},
            **{f"time/{layer}": array for layer, array in self.times.items()},
            **{f"difference/{layer}/{pair}": array for (layer, pair), array in self.differences.items()},
            **{f"parts/{outcome}": array for outcome, array in self.parts.items()},
            "part_rows": self.part_rows,
        }

    def row(self) -> dict[str, Any]:
        """Walks, and the shares of the last layer's map over all of them."""
        where = ("all", "all")
        last = self.bands.get(where, {}).get(self.layers[-1], {}) if self.layers else {}
        return {"walks": self.counts.get(where, 0), **{f"{part} share": value for part, value in last.items()}}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], name: str = "") -> Summary:
        """From disk. Errors: BadInput where something is missing."""
        counts = {(str(by), str(group)): int(count) for by, group, count in record.get("groups", ())}
        layers = [str(layer) for layer in record.get("layers", ())]
        if not counts or not layers:
            raise BadInput(f"{name or 'summary'}: no groups in it; expected a result of loupe gait summary")
        means = {
            (layer, where): arrays[key]
            for layer in layers
            for where in counts
            if (key := f"mean/{layer}/{where[0]}/{where[1]}") in arrays
        }
        pairs = {str(pair): int(count) for pair, count in record.get("pairs", {}).items()}
        keys = ("layers", "groups", "pairs", "bands", "areas", "signed", "kind", "key")
        return cls(
            means,
            {where: arrays[key] for where in counts if (key := f"body/{where[0]}/{where[1]}") in arrays},
            counts,
            {layer: arrays[f"time/{layer}"] for layer in layers if f"time/{layer}" in arrays},
            {
                (layer, pair): arrays[key]
                for layer in layers
                for pair in pairs
                if (key := f"difference/{layer}/{pair}") in arrays
            },
            pairs,
            {(by, group): some for by, group, some in record.get("bands", ())},
            {(by, group): some for by, group, some in record.get("areas", ())},
            {key.partition("/")[2]: array for key, array in arrays.items() if key.startswith("parts/")},
            arrays.get("part_rows", np.zeros((0, 2), np.float32)),
            bool(record.get("signed")),
            {key: value for key, value in record.items() if key not in keys},
        )
