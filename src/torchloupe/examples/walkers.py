"""Walkers: synthetic people who walk. Articulated bodies with their own proportions and gait, seen from 11 views.

Synthetic, made for examples and tests: who recognises walkers has shown nothing about people.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchloupe.store import whole

VIEWS = tuple(f"{18 * i:03d}" for i in range(11))
CONDITIONS = ("nm-01", "nm-02", "nm-03", "nm-04", "nm-05", "nm-06", "bg-01", "bg-02", "cl-01", "cl-02")
SIZE = 64
ELEVATION = np.radians(12)
# half the width of the soft edge of a silhouette, in pixels
EDGE = 0.7
COCO_FROM = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)


@dataclass(frozen=True)
class Walking:
    """One walk.

    silhouettes (t, 64, 64) uint8; bag (t, 64, 64) bool: where the bag shows outside the body; poses (t, 17, 3): COCO
    joints x, y in pixels, and score 1.
    """

    silhouettes: np.ndarray
    bag: np.ndarray
    poses: np.ndarray


def walk(person: int, condition: str, view: str, *, frames: int = 24, seed: int = 0) -> Walking:
    """Person number `person` under a condition (nm-, bg-, cl- and a number) from a view (degrees; 000 towards us).

    The same arguments give the same walk. Body and gait depend on the person; phase, speed and small changes on the
    condition as well, so that all views of one walk show the same movement.
    """
    body = _Body.of(np.random.default_rng([seed, person]))
    rng = np.random.default_rng([seed, person, *condition.encode()])
    points = _points(body, rng, frames, _carried(condition, rng))
    angle = np.radians(float(view))
    flat = {name: _project(place, angle) for name, place in points.items()}
    capsules = _capsules(body, flat, condition)
    noise = np.random.default_rng([seed, person, int(view), *condition.encode()])
    return _drawn(capsules, flat, noise)


def write_tree(
    root: str | Path,
    people: Iterable[int],
    conditions: Sequence[str] = CONDITIONS,
    views: Sequence[str] = VIEWS,
    *,
    frames: int = 24,
    seed: int = 0,
    poses: bool = False,
) -> None:
    """OpenGait trees of walks: `<root>/<id>/<type>/<view>/<view>.pkl`, and where the bag is in `<root>-bags/...`.

    poses: joints (t, 17, 3) in place of silhouettes.
    """
    top = Path(root)
    for person in people:
        for condition in conditions:
            for view in views:
                made = walk(person, condition, view, frames=frames, seed=seed)
                place = Path(f"{person:03d}", condition, view, f"{view}.pkl")
                _write(top / place, made.poses.astype(np.float64) if poses else made.silhouettes)
                if condition.startswith("bg") and not poses:
                    _write(top.with_name(top.name + "-bags") / place, made.bag)


def _write(file: Path, array: np.ndarray) -> None:
    whole(file, pickle.dumps(array))


@dataclass(frozen=True)
class _Body:
    """Lengths in units of height about 1.75; angles in radians."""

    thigh: float
    shin: float
    torso: float
    neck: float
    head: float
    upper_arm: float
    forearm: float
    shoulders: float
    hips: float
    chest: float
    belly: float
    limb: float
    swing: float
    knee: float
    arm: float
    elbow: float
    lean: float
    bounce: float
    sway: float
    cycle: float

    @classmethod
    def of(cls, rng: np.random.Generator) -> _Body:
        def near(middle: float, spread: float) -> float:
            return float(middle * (1 + spread * rng.uniform(-1, 1)))

        return cls(
            thigh=near(0.44, 0.1),
            shin=near(0.44, 0.1),
            torso=near(0.50, 0.12),
            neck=near(0.10, 0.35),
            head=near(0.115, 0.18),
            upper_arm=near(0.30, 0.1),
            forearm=near(0.26, 0.1),
            shoulders=near(0.185, 0.2),
            hips=near(0.10, 0.2),
            chest=near(0.115, 0.25),
            belly=near(0.115, 0.35),
            limb=near(0.058, 0.25),
            swing=near(0.42, 0.3),
            knee=near(0.85, 0.25),
            arm=near(0.45, 0.6),
            elbow=near(0.45, 0.8),
            lean=float(rng.uniform(-0.06, 0.16)),
            bounce=near(0.02, 0.7),
            sway=near(0.02, 0.8),
            cycle=near(22, 0.18),
        )


def _carried(condition: str, rng: np.random.Generator) -> str:
    """Which bag: in the hand, over the shoulder, on the back; '' for none."""
    return str(rng.choice(["hand", "shoulder", "back"])) if condition.startswith("bg") else ""


def _points(body: _Body, rng: np.random.Generator, frames: int, bag: str) -> dict[str, np.ndarray]:
    """Name -> (t, 3): forward, up, to the walker's left."""

    def near(value: float) -> float:
        return value * (1 + 0.05 * rng.uniform(-1, 1))

    phase = 2 * np.pi * (np.arange(frames) / near(body.cycle)) + rng.uniform(0, 2 * np.pi)
    lean, swing, arm = near(body.lean), near(body.swing), near(body.arm)
    zero = np.zeros(frames)
    pelvis = np.stack([zero, near(body.bounce) * np.cos(2 * phase), near(body.sway) * np.sin(phase)], 1)
    up = np.stack([np.sin(lean) + zero, np.cos(lean) + zero, zero], 1)
    chest = pelvis + body.torso * up
    crown = chest + (body.neck + body.head) * up
    made = {"pelvis": pelvis, "chest": chest, "crown": crown, "nose": crown + np.array([body.head, 0, 0])}
    for side, sign, turn in (("left", 1.0, 0.0), ("right", -1.0, np.pi)):
        own = phase + turn
        hip = pelvis + sign * np.array([0, 0, body.hips])
        thigh = swing * np.cos(own) + 0.06
        bend = 0.12 + near(body.knee) * np.clip(-np.sin(own), 0, None) ** 2
        knee = hip + body.thigh * _down(thigh)
        made[f"{side}_hip"], made[f"{side}_knee"] = hip, knee
        made[f"{side}_ankle"] = knee + body.shin * _down(thigh - bend)
        made[f"{side}_toe"] = made[f"{side}_ankle"] + 0.17 * _down(thigh - bend + np.pi / 2 - 0.15)
        held = 0.25 if (bag == "hand" and side == "right") or (bag == "shoulder" and side == "left") else 1.0
        shoulder = chest + sign * np.array([0, 0, body.shoulders])
        back = -held * arm * np.cos(own)
        elbow = shoulder + body.upper_arm * _down(back, 0.12 * sign)
        made[f"{side}_shoulder"], made[f"{side}_elbow"] = shoulder, elbow
        made[f"{side}_wrist"] = elbow + body.forearm * _down(back + held * near(body.elbow), 0.05 * sign)
        made[f"{side}_ear"] = crown + sign * np.array([0, 0, body.head])
        made[f"{side}_eye"] = crown + np.array([0.8 * body.head, 0.03, sign * 0.5 * body.head])
    if bag == "hand":
        made["bag"] = made["right_wrist"] + np.array([0, -0.16, 0])
    elif bag == "shoulder":
        made["bag"] = made["left_hip"] + np.array([-0.06, 0.05, body.hips + 0.06])
    elif bag == "back":
        made["bag"] = chest - 0.45 * body.torso * up + np.array([-body.chest - 0.09, 0, 0])
    return made


def _down(angle: np.ndarray, out: float = 0.0) -> np.ndarray:
    """Unit vectors that hang down, turned forward by an angle and to the left by `out`."""
    return np.stack([np.sin(angle) * np.cos(out), -np.cos(angle) * np.cos(out), np.sin(out) + 0 * angle], 1)


def _project(place: np.ndarray, angle: float) -> np.ndarray:
    """(t, 3) -> (t, 2): right and up in the picture. 0: the walker comes towards us; 90: walks to the right."""
    forward, up, left = place.T
    right = forward * np.sin(angle) + left * np.cos(angle)
    near = forward * np.cos(angle) - left * np.sin(angle)
    return np.stack([right, up * np.cos(ELEVATION) - near * np.sin(ELEVATION)], 1)


def _capsules(
    body: _Body, flat: dict[str, np.ndarray], condition: str
) -> list[tuple[np.ndarray, np.ndarray, float, float, bool]]:
    """(from, to, radius there, radius here, is it the bag)."""
    coat = condition.startswith("cl")
    limb = body.limb * (1.0 + 0.5 * coat)
    torso = 0.05 * coat
    neck = flat["chest"] + (flat["crown"] - flat["chest"]) * 0.5
    made = [
        (flat["pelvis"], flat["chest"], body.belly + torso, body.chest + torso, False),
        (flat["chest"], neck, 0.06, 0.05, False),
        (flat["crown"], flat["crown"], body.head, body.head, False),
        (flat["left_shoulder"], flat["right_shoulder"], limb + 0.01, limb + 0.01, False),
        (flat["left_hip"], flat["right_hip"], body.belly * 0.8 + torso, body.belly * 0.8 + torso, False),
    ]
    for side in ("left", "right"):
        hip, knee, ankle, toe = (flat[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "toe"))
        made += [
            (hip, knee, body.limb * 1.45, body.limb * 1.05, False),
            (knee, ankle, body.limb * 1.05, body.limb * 0.75, False),
            (ankle, toe, body.limb * 0.75, body.limb * 0.6, False),
            (flat[f"{side}_shoulder"], flat[f"{side}_elbow"], limb, limb * 0.85, False),
            (flat[f"{side}_elbow"], flat[f"{side}_wrist"], limb * 0.85, limb * 0.7, False),
        ]
        if coat:
            made.append((hip, hip + 0.75 * (knee - hip), body.belly + 0.06, body.limb * 1.2 + 0.09, False))
    if "bag" in flat:
        made.append((flat["bag"] + np.array([0, 0.07]), flat["bag"] - np.array([0, 0.09]), 0.09, 0.11, True))
    return made


def _drawn(
    capsules: list[tuple[np.ndarray, np.ndarray, float, float, bool]],
    flat: dict[str, np.ndarray],
    noise: np.random.Generator,
) -> Walking:
    tops = [np.maximum(a[:, 1] + r, b[:, 1] + s) for a, b, r, s, _ in capsules]
    bottoms = [np.minimum(a[:, 1] - r, b[:, 1] - s) for a, b, r, s, _ in capsules]
    top, bottom = np.max(tops, 0), np.min(bottoms, 0)
    scale = SIZE / (top - bottom)
    middle = flat["pelvis"][:, 0]

    def pixels(place: np.ndarray) -> np.ndarray:
        return np.stack([(place[:, 0] - middle) * scale + SIZE / 2, (top - place[:, 1]) * scale], 1)

    far = np.full((len(scale), SIZE, SIZE), 99, np.float32)
    bag = far.copy()
    for a, b, r, s, is_bag in capsules:
        _carve(bag if is_bag else far, pixels(a), pixels(b), r * scale, s * scale)
    rough = 0.25 * noise.standard_normal(far.shape, dtype=np.float32)
    grey = np.clip((EDGE - (np.minimum(far, bag) + rough)) / (2 * EDGE), 0, 1)
    silhouettes = (grey * 255).round().astype(np.uint8)
    outside = (bag < 0) & (far > 0)
    joints = np.stack([pixels(flat[name]) for name in COCO_FROM], 1)
    for t, frame in enumerate(silhouettes):
        mass = frame.sum(0, dtype=np.int64).cumsum()
        shift = SIZE // 2 - int(np.searchsorted(mass, mass[-1] / 2))
        silhouettes[t], outside[t] = np.roll(frame, shift, 1), np.roll(outside[t], shift, 1)
        joints[t, :, 0] += shift
    return Walking(silhouettes, outside, np.concatenate([joints, np.ones((*joints.shape[:2], 1))], -1))


def _carve(field: np.ndarray, a: np.ndarray, b: np.ndarray, r: np.ndarray, s: np.ndarray) -> None:
    """Lowers a field (t, h, w) to the signed distance (below 0 inside) of tapered capsules, near them."""
    reach = max(r.max(), s.max()) + 2
    low = np.floor(np.minimum(a, b).min(0) - reach).clip(0, SIZE).astype(int)
    high = np.ceil(np.maximum(a, b).max(0) + reach).clip(0, SIZE).astype(int)
    box = field[:, low[1] : high[1], low[0] : high[0]]
    ax, ay, bx, by, ra, rb = (part.astype(np.float32)[:, None, None] for part in (*a.T, *b.T, r, s))
    x = np.arange(low[0], high[0], dtype=np.float32) + np.float32(0.5) - ax
    y = (np.arange(low[1], high[1], dtype=np.float32) + np.float32(0.5))[:, None] - ay
    dx, dy = bx - ax, by - ay
    share = np.clip((x * dx + y * dy) / np.maximum(dx * dx + dy * dy, np.float32(1e-6)), 0, 1)
    np.minimum(box, np.hypot(x - share * dx, y - share * dy) - (ra + share * (rb - ra)), out=box)
