"""PCK, OKS, suppression and COCO's AP."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from torchloupe.data.bodies import COCO_BODY, Crop
from torchloupe.methods import keypoints
from torchloupe.sources.poses import coco

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "coco"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/coco is absent")
SIGMAS = np.array(COCO_BODY.sigmas)


def test_sigmas_are_those_of_coco() -> None:
    assert SIGMAS.tolist() == [0.026, *np.repeat([0.025, 0.035, 0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2).tolist()]


def test_pck() -> None:
    errors = np.array([[1.0, np.nan], [3.0, 2.0], [0.0, 9.0]])
    by_joint, overall = keypoints.pck(errors, np.array([10.0, 10.0, 0.0]), 0.2)
    assert by_joint.tolist() == [0.5, 1.0]
    assert overall == 2 / 3


def test_similarity_is_the_naive_sum() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 50, (17, 2)), rng.uniform(0, 50, (17, 2))
    naive = sum(
        math.exp(-(math.dist(p, q) ** 2) / (2 * 900 * (2 * s) ** 2)) for p, q, s in zip(a, b, SIGMAS, strict=True)
    )
    assert keypoints.similarity(a, b, 900.0, SIGMAS) == pytest.approx(naive / 17)
    assert keypoints.similarity(a, a, 900.0, SIGMAS) == 1


def test_suppression_keeps_the_best_of_each_cluster() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.uniform(0, 50, (17, 2)), rng.uniform(200, 250, (17, 2))
    poses = [first, first + 0.1, second, second - 0.1]
    assert keypoints.suppressed(poses, [0.5, 0.9, 0.8, 0.1], [900.0] * 4, SIGMAS, 0.9) == [1, 2]


def test_rescoring() -> None:
    assert keypoints.rescored(0.5, np.array([0.1, 0.3, 0.9]), 0.2) == pytest.approx(0.3)
    assert keypoints.rescored(0.5, np.array([0.1]), 0.2) == 0


@needs_data
def test_average_precision_of_the_truth_is_one_and_falls_with_noise() -> None:
    path = SHARED / "test_coco.json"
    content = json.loads(path.read_text())
    people = coco(path, SHARED, Crop()).people

    def entries(noise: float) -> list[dict]:
        rng = np.random.default_rng(0)
        return [
            {
                "image_id": person.image_id,
                "joints": person.joints + rng.normal(0, noise, person.joints.shape),
                "confidence": person.weight,
                "score": 1.0,
                "area": float(np.prod(person.extent)),
            }
            for person in people
        ]

    def ap(noise: float) -> float:
        results = keypoints.coco_results(entries(noise), SIGMAS, visible=0.2, limit=0.9)
        return keypoints.average_precision(content, results, SIGMAS)["AP"]

    assert ap(0) == pytest.approx(1.0)
    assert 0.1 < ap(4) < 0.95
    # people who were not asked about do not count as missed
    ids = sorted(person.id for person in people)
    few, others = set(ids[:5]), set(ids[5:])
    results = keypoints.coco_results(
        [e for e, p in zip(entries(0), people, strict=True) if p.id in few], SIGMAS, visible=0.2, limit=0.9
    )
    assert keypoints.average_precision(content, results, SIGMAS, aside=others)["AP"] == pytest.approx(1.0)
    assert keypoints.average_precision(content, results, SIGMAS)["AP"] < 0.6


def test_no_prediction_is_no_precision() -> None:
    person = {"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2] * 17}
    content = {"images": [{"id": 1}], "annotations": [person]}
    assert set(keypoints.average_precision(content, [], SIGMAS).values()) == {0.0}
    nobody = keypoints.average_precision({"images": [], "annotations": []}, [], SIGMAS)
    assert all(math.isnan(value) for value in nobody.values())
