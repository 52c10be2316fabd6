"""What kind of error each joint of each pose has, who is missed and what is seen where nobody is.

Axes: d poses, p people, j joints. Places are pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
KINDS = ("good", "jitter", "inversion", "swap", "miss")
GOOD, JITTER, INVERSION, SWAP, MISS = range(5)
NOBODY, ASIDE = -1, -2
SMALL, LARGE = 32.0**2, 96.0**2
OVERLAP = 0.1


@dataclass(frozen=True)
class People:
    """Annotated people: picture (p,), joints (p, j, 2), visible (p, j), area (p,), box (p, 4), and aside (p,): crowds and
    people who count neither way."""

    picture: Array
    joints: Array
    visible: Array
    area: Array
    box: Array
    aside: Array

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True)
class Poses:
    """Predicted poses: picture (d,), joints (d, j, 2), score (d,)."""

    picture: Array
    joints: Array
    score: Array

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True)
class Mistakes:
    """person (d,): whom a pose was matched with, NOBODY, or ASIDE for somebody who counts neither way.

    kind (d, j): an index of KINDS; -1 for joints that are not annotated, and poses without a person. towards (d, j): how
    near the joint is to what it was taken for, or to its own place (keypoint similarity). mended (d, j, 2): the joints as
    they were without their error. missed (p,): people without a pose.
    """

    person: Array
    kind: Array
    towards: Array
    mended: Array
    missed: Array

    @property
    def background(self) -> Array:
        """(d,): poses that are nobody's."""
        return self.person == NOBODY

    def counts(self, poses: Array | None = None) -> Array:
        """How many joints have each kind, of all poses or of these: (len(KINDS), j)."""
        held = self.kind if poses is None else self.kind[poses]
        return np.stack([(held == kind).sum(0) for kind in range(len(KINDS))])


def closeness(at: Array, place: Array, area: Array, sigmas: Array) -> Array:
    """ks = exp( -d^2 / (2 area (2 sigma)^2) ),  the similarity of one joint to one place, in [0, 1]

    at and place (..., j, 2), area (...), sigmas (j,) -> (..., j).
    Source: COCO keypoint evaluation (cocodataset.org).
    """
    square = ((at - place) ** 2).sum(-1)
    return np.exp(-square / (2 * (np.asarray(area)[..., None] + np.spacing(1)) * (2 * sigmas) ** 2))


def likeness(joints: Array, people: People, sigmas: Array) -> Array:
    """OKS of poses (d, j, 2) with people of one picture -> (d, p); of a person without a visible joint, by how far the joints
    lie outside the box twice as large on each side, as COCO's evaluation has it."""
    found = np.zeros((len(joints), len(people)))
    for p in range(len(people)):
        seen = people.visible[p]
        if seen.any():
            found[:, p] = closeness(joints, people.joints[p], people.area[p], sigmas)[:, seen].mean(1)
            continue
        x, y, wide, high = people.box[p]
        low, top = np.array([x - wide, y - high]), np.array([x + 2 * wide, y + 2 * high])
        off = np.maximum(0, low - joints) + np.maximum(0, joints - top)
        found[:, p] = closeness(off, np.zeros(2), people.area[p], sigmas).mean(1)
    return found


def matched(likenesses: Array, scores: Array, aside: Array, crowd: Array, least: float, most: int = 20) -> Array:
    """Poses to people of one picture, the surest pose first, each to the free person whom it is most like, by at least
    `least`; people who are aside only where no other fits, and several poses to a crowd -> (d,) person, -1 for nobody.

    likenesses (d, p). Poses beyond the `most` surest are not matched: -2.
    Source: COCO's evaluation (cocodataset.org).
    """
    found = np.full(len(likenesses), -1)
    taken = np.zeros(likenesses.shape[1], bool)
    order = np.argsort(-scores, kind="mergesort")
    found[order[most:]] = -2
    for pose in order[:most]:
        for group in (~aside & ~taken, aside & (crowd | ~taken)):
            fits = np.where(group & (likenesses[pose] >= least), likenesses[pose], -1.0)
            if (fits >= 0).any():
                # of equals the last, as the evaluators take it
                found[pose] = len(fits) - 1 - int(np.argmax(fits[::-1]))
                taken[found[pose]] = True
                break
    return found


def mistakes(
    poses: Poses,
    people: People,
    sigmas: Array,
    pairs: Sequence[tuple[int, int]],
    *,
    least: float = 0.1,
    jitter: tuple[float, float] = (0.5, 0.85),
) -> Mistakes:
    """Kinds of error of annotated joints of matched poses, by ks to what the joint is nearest to:

    good: its own place, ks >= .85; jitter: its own place, .5 <= ks < .85; inversion: its left-right partner's place in the
    same person, ks >= .5; swap: the same joint or its partner of another person, ks >= .5; miss: ks < .5 to all of these.
    A pose is matched with a person where their OKS is at least `least`; the others are background, people left over missed.

    Mended joints are at a jitter's upper limit (.85), a miss's lower one (.5), or as near to their own place as they were to
    the wrong one, to the right of it.
    Source: Ronchi and Perona 2017, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation, ICCV, arXiv:1707.05388.
    Differs: the authors' code places mended joints by sigma where OKS has 2 sigma, so that they come out nearer than the
    paper's limits; their background and missed people are counted at every threshold of OKS anew, here once, at `least`.
    """
    d, j = poses.joints.shape[:2]
    sigmas = np.asarray(sigmas, np.float64)
    person = np.full(d, NOBODY)
    kind, towards = np.full((d, j), -1), np.zeros((d, j))
    mended = poses.joints.astype(np.float64).copy()
    missed = ~people.aside & people.visible.any(1)
    partner = np.arange(j)
    for left, right in pairs:
        partner[left], partner[right] = right, left
    for picture in dict.fromkeys(poses.picture.tolist()):
        here, there = np.flatnonzero(poses.picture == picture), np.flatnonzero(people.picture == picture)
        group = People(*(getattr(people, name)[there] for name in People.__dataclass_fields__))
        aside = group.aside | ~group.visible.any(1)
        found = matched(likeness(poses.joints[here], group, sigmas), poses.score[here], aside, group.aside, least)
        for pose, whom in zip(here, found, strict=True):
            if whom < 0:
                person[pose] = NOBODY if whom == -1 else ASIDE
                continue
            missed[there[whom]] = False
            person[pose] = ASIDE if aside[whom] else there[whom]
            if aside[whom]:
                continue
            kind[pose], towards[pose] = _kinds(poses.joints[pose], group, int(whom), partner, sigmas, jitter)
            aim = np.select(
                [kind[pose] == JITTER, kind[pose] == MISS], [jitter[1], jitter[0]], np.maximum(towards[pose], 1e-300)
            )
            away = np.sqrt(np.maximum(-np.log(aim), 0) * 2 * group.area[whom]) * 2 * sigmas
            put = group.joints[whom] + np.stack([away, np.zeros(j)], 1)
            mended[pose] = np.where((kind[pose] > GOOD)[:, None], put, mended[pose])
    return Mistakes(person, kind, towards, mended, missed)


def _kinds(
    joints: Array, group: People, whom: int, partner: Array, sigmas: Array, jitter: tuple[float, float]
) -> tuple[Array, Array]:
    """(kind, ks to what it is nearest to), each (j,), of one pose of a person of its picture."""
    own = closeness(joints, group.joints, group.area, sigmas)
    turned = closeness(joints, group.joints[:, partner], group.area, sigmas)
    own, turned = np.where(group.visible, own, -1.0), np.where(group.visible[:, partner], turned, -1.0)
    others = np.delete(np.maximum(own, turned), whom, 0)
    choices = np.stack([own[whom], turned[whom], others.max(0, initial=-1.0)])
    # of equals the joint's own place comes first: the partner of a joint without one is itself
    which, best = choices.argmax(0), np.maximum(choices.max(0), 0.0)
    near = np.select(
        [best < jitter[0], which == 2, which == 1, best < jitter[1]], [MISS, SWAP, INVERSION, JITTER], GOOD
    )
    return np.where(group.visible[whom], near, -1), best


def crowding(people: People) -> Array:
    """(p,): with how many others of the picture a person's box overlaps by more than .1 (intersection over union)."""
    low, top = people.box[:, :2], people.box[:, :2] + people.box[:, 2:]
    sides = np.minimum(top[:, None], top[None]) - np.maximum(low[:, None], low[None])
    shared = np.maximum(sides, 0).prod(-1)
    size = people.box[:, 2:].prod(-1)
    union = size[:, None] + size[None] - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    beside = (overlap > OVERLAP) & (people.picture[:, None] == people.picture[None])
    return (beside & ~np.eye(len(people), dtype=bool)).sum(1)
