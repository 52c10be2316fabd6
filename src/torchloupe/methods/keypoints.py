"""How right predicted joints are: PCK, object keypoint similarity, non-maximum suppression by it, COCO's AP."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.errors import need

Array = NDArray[Any]
COCO_NAMES = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")


def pck(errors: Array, size: Array, threshold: float) -> tuple[Array, float]:
    """PCK = share of the annotated joints with error <= threshold * size of the person

    errors (n, j) with NaN for joints that are not annotated, size (n,) in the same unit -> by joint (j,), over all.
    """
    known = np.isfinite(errors) & (size > 0)[:, None]
    right = known & (np.nan_to_num(errors, nan=np.inf) <= threshold * size[:, None])
    count = known.sum(0)
    by_joint = np.divide(right.sum(0), count, out=np.full(len(count), np.nan), where=count > 0)
    return by_joint, float(right.sum() / count.sum()) if count.sum() else float("nan")


def similarity(a: Array, b: Array, area: float, sigmas: Array) -> float:
    """OKS = mean_j exp( -d_j^2 / (2 area (2 sigma_j)^2) ),  d_j between the joints of two poses (j, 2)

    Source: COCO keypoint evaluation (cocodataset.org).
    """
    distance = ((a - b) ** 2).sum(-1)
    return float(np.exp(-distance / (2 * (area + np.spacing(1)) * (2 * sigmas) ** 2)).mean())


def suppressed(
    poses: Sequence[Array], scores: Sequence[float], areas: Sequence[float], sigmas: Array, limit: float
) -> list[int]:
    """Greedy non-maximum suppression by OKS: indexes that are kept, best score first."""
    kept: list[int] = []
    for i in sorted(range(len(poses)), key=lambda i: -scores[i]):
        if all(similarity(poses[i], poses[k], (areas[i] + areas[k]) / 2, sigmas) <= limit for k in kept):
            kept.append(i)
    return kept


def rescored(box_score: float, confidence: Array, threshold: float) -> float:
    """Score of a pose: that of its box times the mean confidence of its joints above the threshold."""
    sure = confidence[confidence > threshold]
    return box_score * float(sure.mean()) if sure.size else 0.0


def coco_results(
    entries: Sequence[Mapping[str, Any]], sigmas: Array, *, visible: float, limit: float
) -> list[dict[str, Any]]:
    """Poses as COCO result entries, rescored by their joints and thinned by OKS within each picture.

    An entry has image_id, joints (j, 2), confidence (j,), score and area (that of the crop's box); sample, a name that its
    result keeps.
    """
    by_picture: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_picture[entry["image_id"]].append(entry)
    results = []
    for image_id, group in by_picture.items():
        scores = [rescored(entry["score"], entry["confidence"], visible) for entry in group]
        kept = suppressed([e["joints"] for e in group], scores, [e["area"] for e in group], sigmas, limit)
        for i in kept:
            triples = np.concatenate([group[i]["joints"], group[i]["confidence"][:, None]], 1)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": 1,
                    "keypoints": [float(number) for number in triples.ravel()],
                    "score": scores[i],
                    "sample": group[i].get("sample", ""),
                }
            )
    return results


def average_precision(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    sigmas: Array,
    *,
    categories: Collection[Any] = (1,),
    pictures: Collection[Any] | None = None,
    aside: Collection[str] = (),
) -> dict[str, float]:
    """COCO's ten keypoint figures (AP, AP .5, ..., AR (L)) over the annotated people of categories, taken for one; NaN where there are none

    People without a result are missed, results on pictures without people are false. Only `pictures` count, where they
    are given. People whose ids are `aside` are treated as crowds: predictions on them count neither way.
    Differs: images and annotations are numbered anew from 1, so that ids may be text, and 0, which the evaluators take
    for "no match".
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise need("faster-coco-eval", "pose") from None
    images = [image["id"] for image in annotations["images"] if pictures is None or image["id"] in pictures]
    number = {id: i for i, id in enumerate(images, 1)}
    entries: list[dict[str, Any]] = []
    for entry in annotations["annotations"]:
        if entry["image_id"] not in number or entry.get("category_id", next(iter(categories))) not in categories:
            continue
        keypoints = entry.get("keypoints") or [0] * 3 * len(sigmas)
        entries.append(
            {
                "id": len(entries) + 1,
                "image_id": number[entry["image_id"]],
                "category_id": 1,
                "keypoints": keypoints,
                "num_keypoints": entry.get("num_keypoints", sum(1 for v in keypoints[2::3] if v)),
                "bbox": entry["bbox"],
                "area": entry.get("area", entry["bbox"][2] * entry["bbox"][3]),
                "iscrowd": int(str(entry["id"]) in aside or entry.get("iscrowd", 0)),
            }
        )
    found = [
        {**result, "image_id": number[result["image_id"]], "category_id": 1}
        for result in results
        if result["image_id"] in number
    ]
    counted = any(entry["num_keypoints"] and not entry["iscrowd"] for entry in entries)
    if not found or not counted:
        return dict.fromkeys(COCO_NAMES, 0.0 if counted else float("nan"))
    content = {"images": [{"id": i} for i in number.values()], "annotations": entries, "categories": [{"id": 1}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(content)
        evaluation = COCOeval_faster(truth, truth.loadRes(found), "keypoints", kpt_oks_sigmas=list(sigmas))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = (float(value) for value in evaluation.stats[:10])
    return {name: value if value >= 0 else float("nan") for name, value in zip(COCO_NAMES, figures, strict=True)}
