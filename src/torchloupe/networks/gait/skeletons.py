"""Skeletons as data: joints, bones, mirror pairs; and what skeleton networks are fed, from joint positions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from torchloupe.errors import BadInput, nearest


@dataclass(frozen=True)
class Skeleton:
    """A joint format: names, edges of the graph, the joint that each bone ends in, left-right pairs, the centre."""

    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]
    centre: int


_COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist "
    "right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle"
)
_OPENPOSE = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear"
)


def _pairs(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(a), int(b)) for a, b in (pair.split("-") for pair in text.split()))


COCO = Skeleton(
    joints=tuple(_COCO.split()),
    edges=_pairs("0-1 0-2 1-3 2-4 3-5 4-6 5-6 5-7 7-9 6-8 8-10 5-11 6-12 11-12 11-13 13-15 12-14 14-16"),
    parents=(5, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    mirror=(0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
    centre=0,
)
OPENPOSE = Skeleton(
    joints=tuple(_OPENPOSE.split()),
    edges=_pairs("1-0 2-1 3-2 4-3 5-1 6-5 7-6 8-2 9-8 10-9 11-5 12-11 13-12 14-0 15-0 16-14 17-15"),
    parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    mirror=(0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16),
    centre=1,
)
_BODY_12 = (
    "right_shoulder right_elbow right_knee right_hip left_elbow left_knee left_shoulder right_wrist right_ankle left_hip "
    "left_wrist left_ankle"
)
BODY_12 = Skeleton(
    joints=tuple(_BODY_12.split()),
    edges=_pairs("0-6 0-1 1-7 6-4 4-10 0-3 6-9 3-9 3-2 2-8 9-5 5-11"),
    parents=(6, 0, 3, 0, 6, 9, 0, 1, 2, 6, 4, 5),
    mirror=(6, 4, 5, 9, 1, 2, 0, 10, 11, 3, 7, 8),
    centre=0,
)
SKELETONS = {"coco": COCO, "alphapose": OPENPOSE, "openpose": OPENPOSE, "body_12": BODY_12}


def skeleton(joint_format: str) -> Skeleton:
    """The skeleton of a config's `joint_format`."""
    if joint_format not in SKELETONS:
        known = ", ".join(SKELETONS)
        raise BadInput(
            f"joint_format: {joint_format!r} is not known; expected one of {known}.{nearest(joint_format, SKELETONS)}"
        )
    return SKELETONS[joint_format]


def adjacency(shape: Skeleton, hops: int = 3) -> Tensor:
    """One matrix for each hop distance 0..hops, (hops + 1, v, v); together their columns sum to 1.

    Source: Yan et al. 2018, Spatial Temporal Graph Convolutional Networks, AAAI, arXiv:1801.07455.
    """
    count = len(shape.joints)
    link = torch.eye(count)
    for a, b in shape.edges:
        link[a, b] = link[b, a] = 1
    reach = [torch.eye(count)]
    for _ in range(hops):
        reach.append(((reach[-1] @ link) > 0).float())
    exact = torch.stack([reach[0], *(far - near for near, far in pairwise(reach))])
    return exact / reach[-1].sum(0)


def joints_velocity_bones(pose: Tensor, shape: Skeleton, centre: int) -> Tensor:
    """(t, v, 3) of x, y, score -> (t, v, 3, 5): the input of GaitGraph2.

    joints: x, y, score, x - centre, y - centre; velocity: step to the next frame, 0, score, y step over two frames;
    bones: vector to the parent, 0, score, angle of its y. The last two frames have no velocity.
    Differs: nothing; the score takes the place of the first of two values in velocity and bones, as the models were
    trained with.
    """
    place, score = pose[..., :2], pose[..., 2:3]
    nothing = torch.zeros_like(score)
    one, two = _steps(place)
    bone = place - place[:, list(shape.parents)]
    angle = torch.acos(bone[..., 1:] / (torch.linalg.vector_norm(bone, dim=-1, keepdim=True) + 0.0001))
    joints = torch.cat([pose, place - place[:, centre : centre + 1]], -1)
    velocity = torch.cat([one, nothing, score, two[..., 1:]], -1)
    bones = torch.cat([bone, nothing, score, angle], -1)
    return torch.stack([joints, velocity, bones], 2)


def _steps(place: Tensor) -> tuple[Tensor, Tensor]:
    """Steps to the next frame and over two frames, (t, v, 2) each; 0 in the last two frames."""
    ends = torch.zeros_like(place[:2])
    return torch.cat([place[1:-1] - place[:-2], ends]), torch.cat([place[2:] - place[:-2], ends])


def positions_steps_bones(pose: Tensor, shape: Skeleton) -> Tensor:
    """(t, v, 3) of x, y, score -> (t, v, 10): position, position from joint 0, step, step over two frames, bone."""
    place = pose[..., :2]
    one, two = _steps(place)
    return torch.cat([place, place - place[:, :1], one, two, place - place[:, list(shape.parents)]], -1)
