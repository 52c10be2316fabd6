"""OpenGait's YAML configs: what they say of a model and of its data, and the network that one is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from torchloupe.errors import BadInput, nearest
from torchloupe.networks.gait import NETWORKS
from torchloupe.networks.gait.gln import GLN
from torchloupe.sources.configs import OPENGAIT_DEFAULTS, merged, opengait_default
from torchloupe.store.reading import reading

# evaluators that are about one data set
EVALUATORS = {
    "evaluate_Gait3D": "Gait3D",
    "evaluate_FreeGait": "FreeGait",
    "evaluate_CCGR_MINI": "CCGR-MINI",
    "evaluate_CCPG": "CCPG",
}
# rows of the silhouettes that a model was published for, where they are not 64
SIDES = {"GLN": GLN.SIDE}


@dataclass(frozen=True)
class Config:
    """What an OpenGait config says about a model and its data, merged over `default.yaml`.

    blocks: the merged YAML. merged: the default.yaml that was used, or None.
    """

    path: Path
    blocks: Mapping[str, Any] = field(repr=False)
    merged: Path | None = None

    @property
    def model(self) -> str:
        """The model's class name."""
        return str(self.blocks["model_cfg"]["model"])

    @property
    def dataset(self) -> str:
        """`data_cfg.dataset_name`."""
        return str(self.blocks["data_cfg"]["dataset_name"])

    @property
    def metric(self) -> str:
        """'euc' or 'cos'."""
        return str(self.blocks["evaluator_cfg"].get("metric", "euc"))

    @property
    def sampler(self) -> Mapping[str, Any]:
        """How the evaluator samples frames."""
        return self.blocks["evaluator_cfg"].get("sampler") or {}

    @property
    def transforms(self) -> list[Mapping[str, Any]]:
        """One transform a modality."""
        found = self.blocks["evaluator_cfg"].get("transform") or self.blocks["trainer_cfg"].get("transform")
        return found if isinstance(found, list) else [found]

    @property
    def joints(self) -> str:
        """The format of the skeletons that the model sees."""
        model = self.blocks["model_cfg"]
        return str(model.get("joint_format") or (model.get("graph_cfg") or {}).get("layout", "coco"))

    @property
    def side(self) -> int:
        """Rows of a silhouette before it is cut: what the transforms name, else what the network was published for."""
        named = next((part["img_w"] for one in self.transforms for part in steps_of(one) if "img_w" in part), None)
        return int(named) if isinstance(named, int) else SIDES.get(self.model, 64)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(h, w) after the transforms that our network can take; the one that the config is about first."""
        found = []
        for side in (self.side, 64, 128):
            for size in ((side, side * 44 // 64), (side, side)):
                if size not in found and self._runs(size):
                    found.append(size)
        named = any("img_w" in part for one in self.transforms for part in steps_of(one))
        return tuple(size for size in found if size[0] == self.side or not named)

    @cached_property
    def _empty(self) -> nn.Module:
        """Our network without numbers, to see what shapes it takes."""
        with torch.device("meta"):
            return build(self).eval()

    def _runs(self, size: tuple[int, int]) -> bool:
        channels = channels_of(self)
        shape = (1, 3, *size) if channels == 1 else (1, 3, channels, *size)
        if size[1] not in getattr(self._empty, "WIDTHS", (size[1],)):
            return False
        try:
            self._empty(torch.empty(shape, device="meta"))
        except (RuntimeError, ValueError):
            return False
        return True

    @property
    def protocol(self) -> str:
        """The protocol of metrics.retrieval that the evaluator's eval_func and the test data set mean; "" for another."""
        evaluator, data = self.blocks["evaluator_cfg"], self.blocks["data_cfg"]
        tested = str(data.get("test_dataset_name") or data.get("dataset_name"))
        kind = str(evaluator.get("eval_func", "evaluate_indoor_dataset")).strip()
        if kind == "evaluate_indoor_dataset":
            return tested + ("-cross-view" if evaluator.get("cross_view_gallery") else "")
        if kind in ("evaluate_real_scene", "GREW_submission"):
            return tested
        return EVALUATORS.get(kind, "")

    @property
    def partition(self) -> Path | None:
        """The file that says who is tested, `data_cfg.dataset_partition`: as written, or in the config's own tree."""
        written = self.blocks["data_cfg"].get("dataset_partition")
        if not written:
            return None
        places = (Path(written), *(folder / written for folder in self.path.resolve().parents))
        return next((place for place in places if place.is_file()), None)

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the evaluator's restore_hint means, below the current folder; None for 0."""
        evaluator = self.blocks["evaluator_cfg"]
        hint = evaluator.get("restore_hint", 0)
        if isinstance(hint, str):
            return Path(hint)
        if not hint:
            return None
        name = evaluator.get("save_name", "tmp")
        return Path("output", self.dataset, self.model, name, "checkpoints", f"{name}-{hint:0>5}.pt")


def steps_of(transform: Any) -> list[Mapping[str, Any]]:
    """The steps of a transform: `Compose` is opened."""
    if not isinstance(transform, Mapping) or transform.get("type") != "Compose":
        return [transform] if isinstance(transform, Mapping) else []
    return [step for part in transform.get("trf_cfg") or () for step in steps_of(part)]


def read_config(path: str | Path) -> Config:
    """An OpenGait YAML, merged over the `default.yaml` of its own tree (or of ./configs) where there is one.

    Errors: BadInput for a file that is absent, no YAML, or names no model.
    """
    file = Path(path)
    own = _yaml(file)
    base = opengait_default(file)
    if isinstance(own.get("data_cfg"), list):
        raise BadInput(f"{file}: data_cfg is a list of data sets; give a config with one")
    if not isinstance(own.get("model_cfg"), Mapping) or "model" not in own["model_cfg"]:
        raise BadInput(f"{file}: model_cfg.model is missing; expected an OpenGait config")
    blocks = merged(OPENGAIT_DEFAULTS, _yaml(base) if base else {})
    blocks = merged(blocks, {name: block for name, block in own.items() if block is not None})
    for name in OPENGAIT_DEFAULTS:
        if not isinstance(blocks[name], Mapping):
            raise BadInput(f"{file}: {name} holds {type(blocks[name]).__name__}; expected a mapping")
    return Config(file, blocks, base)


def _yaml(file: Path) -> dict[str, Any]:
    with reading(file, "an OpenGait config (valid YAML)"):
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise BadInput(f"{file}: holds {type(found).__name__}; expected an OpenGait config (blocks such as model_cfg)")
    return found


def build(config: Config) -> nn.Module:
    """Our network for a config, with random weights.

    Errors: BadInput for a model that is not ours, or a model_cfg that lacks or mistypes an entry.
    """
    make = NETWORKS.get(config.model)
    if make is None:
        near = nearest(config.model, NETWORKS)
        raise BadInput(
            f"{config.path}: model {config.model} is not built in.{near} Built in: {', '.join(NETWORKS)}. "
            f"For every other model give --opengait DIR, a checkout of OpenGait"
        )
    try:
        return make(config.blocks["model_cfg"], config.dataset)
    except KeyError as error:
        raise BadInput(f"{config.path}: model_cfg of {config.model} lacks {error.args[0]!r}") from None
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise BadInput(f"{config.path}: {error}") from None
        raise BadInput(f"{config.path}: model_cfg does not make a {config.model} ({error})") from None


def channels_of(config: Config) -> int:
    model = config.blocks["model_cfg"]
    backbone = model.get("Backbone") or model.get("backbone_cfg") or {}
    inputs = backbone.get("in_channels", backbone.get("in_channel", 1))
    return inputs if isinstance(inputs, int) else 1
