"""Questions about retrieval: why is this probe near that gallery item?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchloupe.errors import BadInput, BadSample, nearest
from torchloupe.outputs import Scores
from torchloupe.probe import Batch

METRICS = ("euc", "cos")
EXCLUDE: Mapping[str, tuple[str, ...]] = {
    "same-view": ("view",),
    "same-type": ("condition",),
    "own-view": ("identity", "view"),
    "own-type": ("identity", "condition"),
    "own-camera": ("identity", "camera"),
}
"""What can be left out of the candidates: rule -> in what an item and the probe must be alike for it. own: of the same
person; camera: what stands before "_" in a view. CASIA-B's cross-view gallery leaves `own-view` out, CCPG `own-camera`."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """Embedded items among which the answer is looked for.

    embeddings (N, c, p); names and identities: one an item; conditions and views: one an item, or (); metric: 'euc' or 'cos'; digest: hash of model
    and data; digests: hash of what the model is fed of each item, or ().
    """

    embeddings: Tensor = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    identities: tuple[str, ...] = field(repr=False)
    metric: str = "euc"
    digest: str = ""
    digests: tuple[str, ...] = field(default=(), repr=False)
    conditions: tuple[str, ...] = field(default=(), repr=False)
    views: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BadInput(f"metric {self.metric!r}: expected one of {', '.join(METRICS)}")
        if not len(self.embeddings) == len(self.names) == len(self.identities):
            raise BadInput(f"gallery: {len(self.embeddings)} embeddings, {len(self.names)} names")
        if not self.names:
            raise BadInput("the gallery is empty")
        if not self.digests:
            object.__setattr__(self, "digests", ("",) * len(self.names))

    @property
    def people(self) -> tuple[str, ...]:
        """The identities, sorted."""
        return tuple(sorted(set(self.identities)))

    def distances(self, embeddings: Tensor) -> Tensor:
        """(n, c, p) -> (n, N): each probe to each item, over all parts."""
        rows = [between(probe.expand_as(self.embeddings), self._like(probe), self.metric) for probe in embeddings]
        return torch.stack([row.mean(-1) for row in rows])

    def about(self, batch: Batch, identities: Sequence[str], same: Tensor | None = None) -> Batch:
        """The batch with truth that the targets need: who it is, and which items are the probe itself.

        same (n, N) bool: items to leave out of the candidates; by default those of the probe's own name.
        """
        people = {name: number for number, name in enumerate(self.people)}
        who = torch.tensor([people.get(name, -1) for name in identities])
        if same is None:
            same = torch.tensor([[name == own for name in self.names] for own in batch.ids])
        return replace(batch, truth={**batch.truth, "person": who, "itself": same})

    def excluded(self, rules: Sequence[str], identity: str, condition: str, view: str) -> list[bool]:
        """Which items are left out for a probe like this; an item that one rule of EXCLUDE fits is.

        Errors: BadInput for an unknown rule, or a gallery that does not know what the rule is about.
        """
        own = {"identity": identity, "condition": condition, "view": view, "camera": view.partition("_")[0]}
        cameras = tuple(one.partition("_")[0] for one in self.views)
        items = {"identity": self.identities, "condition": self.conditions, "view": self.views, "camera": cameras}
        out = [False] * len(self.names)
        for rule in rules:
            if rule not in EXCLUDE:
                raise BadInput(f"exclude {rule!r}: expected {', '.join(EXCLUDE)}.{nearest(rule, EXCLUDE)}")
            for what in EXCLUDE[rule]:
                if len(items[what]) != len(out) or not own[what]:
                    raise BadInput(f"exclude {rule!r}: the {what} of the probe or of the gallery is not known")
            alike = zip(*([item == own[what] for item in items[what]] for what in EXCLUDE[rule]), strict=True)
            out = [before or all(one) for before, one in zip(out, alike, strict=True)]
        return out

    def person(self) -> Tensor:
        """(N,) number of each item's identity among `people`."""
        people = {name: number for number, name in enumerate(self.people)}
        return torch.tensor([people[name] for name in self.identities])

    def _like(self, x: Tensor) -> Tensor:
        return self.embeddings.to(x.device, x.dtype)


def between(a: Tensor, b: Tensor, metric: str) -> Tensor:
    """Distance of each part: (m, c, p), (m, c, p) -> (m, p). euc: | a - b | over c; cos: 1 - cosine over c."""
    if metric == "euc":
        return torch.linalg.vector_norm(a - b, dim=1)
    return 1 - torch.cosine_similarity(a, b, dim=1)


@dataclass(frozen=True)
class Retrieval:
    """What all questions share. parts: body parts that are asked about, one question each; (): all parts together.

    Output (n, c, p) -> scores (k, n) = -distance to the chosen item, so that red means: makes them alike.
    The item is chosen over all parts. Probes that are items themselves are left out (see Gallery.about).
    """

    gallery: Gallery
    parts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = self.gallery.embeddings.shape[2]
        for part in self.parts:
            if not 0 <= part < count:
                raise BadInput(f"part {part}: this model has {count} parts, 0 to {count - 1}")

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"item": (n, 1)}: the number of the gallery item."""
        found = self.gallery.distances(check_embeddings(output, batch, self.gallery).detach())
        return {"item": self._nearest(found, self._candidates(batch), batch)[:, None]}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        check_embeddings(output, batch, self.gallery)
        item = (batch.asked or self.choose(output, batch))["item"]
        return self._scored(-self._parts_to(output, item[:, 0]), self._names(item[:, 0]))

    def _candidates(self, batch: Batch) -> Tensor:
        return ~self._itself(batch)

    def _itself(self, batch: Batch) -> Tensor:
        known = batch.truth.get("itself")
        return torch.zeros(batch.n, len(self.gallery.names), dtype=torch.bool) if known is None else known

    def _same_person(self, batch: Batch) -> Tensor:
        who = batch.truth.get("person")
        if who is None:
            raise BadInput(f"{type(self).__name__}: the batch does not know who it shows; use Gallery.about")
        return who[:, None] == self.gallery.person()

    def _nearest(self, distances: Tensor, allowed: Tensor, batch: Batch) -> Tensor:
        for name, row in zip(batch.ids, allowed, strict=True):
            if not row.any():
                raise BadSample(f"{name}: no gallery item {self._missing()}")
        return distances.cpu().masked_fill(~allowed, float("inf")).argmin(1)

    def _missing(self) -> str:
        return "besides the probe itself and what is left out"

    def _parts_to(self, output: Tensor, item: Tensor) -> Tensor:
        chosen = self.gallery.embeddings[item.cpu()].to(output.device, output.dtype)
        return between(output, chosen, self.gallery.metric)

    def _names(self, item: Tensor) -> list[str]:
        return [self.gallery.names[i] for i in item.tolist()]

    def _scored(self, by_part: Tensor, names: list[str]) -> Scores:
        """by_part (n, p) -> scores (k, n)."""
        if not self.parts:
            return Scores(by_part.mean(1)[None], (tuple(names),))
        labels = tuple(tuple(f"{name} part {part}" for name in names) for part in self.parts)
        return Scores(by_part[:, list(self.parts)].T, labels)


@dataclass(frozen=True)
class Nearest(Retrieval):
    """The nearest item of the gallery, whoever it shows."""


@dataclass(frozen=True)
class Match(Retrieval):
    """The nearest item of the same identity. Errors: BadSample where the gallery does not show the person."""

    def _candidates(self, batch: Batch) -> Tensor:
        return self._same_person(batch) & ~self._itself(batch)

    def _missing(self) -> str:
        return "of the same identity; try the target nearest"


@dataclass(frozen=True)
class Rival(Retrieval):
    """The nearest item of another identity."""

    def _candidates(self, batch: Batch) -> Tensor:
        return ~self._same_person(batch) & ~self._itself(batch)

    def _missing(self) -> str:
        return "of another identity"


@dataclass(frozen=True)
class Pair(Retrieval):
    """One item, by name."""

    name: str = ""

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"item": (n, 1)}. Errors: BadInput for an unknown name, with the nearest ones."""
        if self.name not in self.gallery.names:
            raise BadInput(f"no gallery item {self.name!r}.{nearest(self.name, self.gallery.names)}")
        return {"item": torch.full((batch.n, 1), self.gallery.names.index(self.name))}


@dataclass(frozen=True)
class Margin(Retrieval):
    """distance to the nearest other person - distance to the nearest item of the same: above 0 = recognised.

    Output (n, c, p) -> scores (k, n). Red means: tells the person from the rival.
    """

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"item": (n, 2)}: the match and the rival."""
        both = [kind(self.gallery).choose(output, batch)["item"] for kind in (Match, Rival)]
        return {"item": torch.cat(both, 1)}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        check_embeddings(output, batch, self.gallery)
        item = (batch.asked or self.choose(output, batch))["item"]
        match, rival = item[:, 0], item[:, 1]
        names = [f"{a} not {b}" for a, b in zip(self._names(match), self._names(rival), strict=True)]
        return self._scored(self._parts_to(output, rival) - self._parts_to(output, match), names)


TARGETS: dict[str, type[Retrieval]] = {"nearest": Nearest, "match": Match, "rival": Rival, "margin": Margin}


def check_embeddings(output: Tensor, batch: Batch, gallery: Gallery) -> Tensor:
    """Errors: BadInput unless output is (n, c, p) as in the gallery."""
    want = (batch.n, *gallery.embeddings.shape[1:])
    if not isinstance(output, Tensor) or tuple(output.shape) != want:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadInput(f"the gallery asks for embeddings of shape {want}; the model gave {found}")
    return output
