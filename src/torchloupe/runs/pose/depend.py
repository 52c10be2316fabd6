"""How far joints move where what another joint rests on is masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.kinds.pose import table
from torchloupe.methods import indices
from torchloupe.probe import Batch
from torchloupe.runs.pose.study import Made, Study, blamed, in_input_pixels, load, outputs, picked, studied
from torchloupe.runs.run import Job, Summary, run
from torchloupe.store.records import Artifact
from torchloupe.store.stream import Stream
from torchloupe.targets.pose import predicted

Array = NDArray[Any]


@dataclass(frozen=True)
class Depending:
    """The work behind `loupe pose depend`: dependencies (j, j) of samples whose maps lie in `root`.

    Errors: BadInput where there are no maps, or they were not kept.
    """

    study: Study
    samples: Sequence[str]
    root: Path

    def __post_init__(self) -> None:
        stream = Stream(self.root, "ig")
        if stream.settings().get("maps") == "none":
            raise BadInput(f"{self.root}: its maps were not kept (--no-save-ig); the dependency needs them")
        known = set(stream.ids())
        object.__setattr__(self, "samples", [id for id in self.samples if id in known])
        if not self.samples:
            raise BadInput(f"{self.root}: none of the chosen samples has a map; run `loupe pose ig` for them first")

    def about(self) -> dict[str, Any]:
        """See `runs.run.Work.about`."""
        return {**self.study.record(), "attribution": Stream(self.root, "ig").settings()["attribution"]}

    def ids(self) -> Sequence[str]:
        """See `runs.run.Work.ids`; numbers of samples."""
        return self.samples

    def asked(self, id: str) -> dict[str, Any]:
        """See `runs.run.Work.asked`; nothing is the sample's own."""
        return {}

    def do(self, ids: Sequence[str]) -> Made:
        """See `runs.run.Work.do`."""
        return blamed(partial(_moved, self.study, self.root), ids)


def depending(job: Job) -> Depending:
    """The work of a job. job.model and job.data: see `study.studied`, and which samples. job.ask: root, of the maps."""
    one = studied(job.model, job.data)
    return Depending(one, picked(one, job.data), Path(job.ask["root"]))


def _moved(study: Study, root: Path, ids: Sequence[str]) -> Made:
    loaded, broken = load(study, ids)
    yield from broken.items()
    if loaded is None:
        return
    for row, id in enumerate(loaded.batch.ids):
        batch, kept = loaded.batch.take([row]), Stream(root, "ig").arrays(id, ("joints", "maps"))
        maps = torch.full((1, len(study.data.skeleton.joints), *batch.x.shape[-2:]), float("nan"))
        maps[0, kept["joints"]] = torch.from_numpy(kept["maps"]).float()

        def predict(x: Tensor, batch: Batch = batch) -> Tensor:
            made = outputs(study.subject, batch.at(x))
            return in_input_pixels(predicted(made), study, made.ndim == 4)

        found = indices.dependency(predict, batch.x, maps, batch.truth["weight"])
        yield id, Artifact({"D": found[0].numpy()}, {})


def depend(study: Study, ids: Sequence[str], root: Path, *, batch: int = 1, strict: bool = False) -> Summary:
    """How far joint a moves where b's map is masked, in pixels of the input, of samples with maps, into `root`."""
    return run(Depending(study, ids, root), Stream(root, "depend"), batch=batch, strict=strict, what="dependency")


def dependency(root: Path, ids: Sequence[str] | None = None) -> Array:
    """The mean (j, j) of what was stored; NaN where no sample shows both joints."""
    held = table(Stream(root, "depend"), ("D",), ids)["D"]
    known = np.isfinite(held)
    count = known.sum(0)
    return np.divide(np.where(known, held, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)
