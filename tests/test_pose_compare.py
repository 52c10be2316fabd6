"""Runs compared person by person, in two readings of the joints, beside plain loops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import diagnosis
import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, sync_playwright
from pose_fixtures import asked, boxes, content, joints_of, nearest, written
from torch import nn

from torchloupe.cli import main
from torchloupe.data.bodies import COCO_BODY, Crop, Person, PoseData, frame
from torchloupe.errors import BadInput
from torchloupe.methods.joints import bootstrap
from torchloupe.probe import Batch, Subject
from torchloupe.render import pose_report
from torchloupe.store import Artifact
from torchloupe.store.stream import Stream


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model on annotated boxes ("annotated") and on detections ("detected"), and the data."""
    folder = tmp_path_factory.mktemp("runs")
    made = content()
    written(folder, made, boxes(made))
    for name in ("annotated", "detected"):
        torch.manual_seed(0)
        one = asked(folder, detections=name == "detected")
        diagnosis.errors(one, diagnosis.chosen(one), folder / name)
    return folder


def expected(folder: Path) -> dict[str, list]:
    """Person -> (error on annotated boxes, on detections) by joint, in pixels of the first run's input, from the poses."""
    made, found = (json.loads((folder / name).read_text()) for name in ("people.json", "found_det.json"))
    taken: dict[str, int] = {}
    for number in sorted(range(len(found)), key=lambda i: -found[i]["score"]):
        box, best, share = found[number]["bbox"], None, 0.0
        for i, entry in enumerate(made["annotations"]):
            if i in (4, 7, 10) or entry["image_id"] != found[number]["image_id"] or str(entry["id"]) in taken:
                continue
            sides = [
                max(
                    0, min(box[k] + box[k + 2], entry["bbox"][k] + entry["bbox"][k + 2]) - max(box[k], entry["bbox"][k])
                )
                for k in (0, 1)
            ]
            shared = sides[0] * sides[1]
            union = box[2] * box[3] + entry["bbox"][2] * entry["bbox"][3] - shared
            if shared / union > share:
                best, share = entry, shared / union
        if best is not None and share >= 0.5:
            taken[str(best["id"])] = number
    rows: dict[str, list] = {"annotated": [], "detected": [], "people": list(taken)}
    for number, entry in enumerate(made["annotations"]):
        if number in (4, 7, 10) or str(entry["id"]) not in taken:
            continue
        x, y, wide, high = entry["bbox"]
        zoom = 24 / (max(wide - 1, (high - 1) * 0.75) * 1.25)
        box = found[taken[str(entry["id"])]]["bbox"]
        mine, _ = joints_of(number, entry["bbox"], entry)
        others = [other for other in made["annotations"] if other["image_id"] == entry["image_id"]]
        theirs, _ = joints_of(taken[str(entry["id"])], box, nearest(box, others))
        places = []
        for left, top, across, down in ((x, y, wide - 1, high - 1), box):
            padded = 1.25 * max(across, down * 0.75)
            places.append((left + across / 2, top + down / 2, padded))
        for j in range(17):
            at, seen = np.array(entry["keypoints"][3 * j : 3 * j + 2]), entry["keypoints"][3 * j + 2]
            # blobs wholly outside either crop are no joints of it: sigma 2, 4 pixels of the input in one of the heatmap
            inside = all(
                -6.5 <= np.trunc((at[axis] - middle) * 24 / padded / 4 + size / 2 + 0.5) < size + 6
                for *centre, padded in places
                for axis, middle, size in zip((0, 1), centre, (6, 8), strict=True)
            )
            if seen and inside:
                rows["annotated"].append(float(np.linalg.norm(mine[j] - at)) * zoom)
                rows["detected"].append(float(np.linalg.norm(theirs[j] - at)) * zoom)
    return rows


def test_annotated_boxes_and_detections_are_joined_by_person(runs: Path) -> None:
    count, found = diagnosis.compare([runs / "annotated", runs / "detected"])
    by_name = {row.name: row for row in found}
    assert by_name.keys() == {"EPE", "decoded"}
    rows = expected(runs)
    assert count == len(rows["people"]) == 7
    assert by_name["decoded"].means == pytest.approx((np.mean(rows["annotated"]), np.mean(rows["detected"])), rel=1e-6)
    assert by_name["decoded"].differences[0].mean == pytest.approx(
        np.mean(np.subtract(rows["detected"], rows["annotated"])), rel=1e-6
    )
    assert by_name["decoded"].differences[0].count == len(rows["annotated"])
    assert by_name["EPE"].differences[0].count == len(rows["annotated"])


def test_means_are_over_the_joints_that_all_runs_know(runs: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for run in (one, other):
        stream = Stream(run, "epe")
        stream.begin(Stream(runs / "annotated", "epe").settings())
        for id in ("0", "1", "2"):
            kept = Stream(runs / "annotated", "epe").arrays(id)
            if run is other:
                # the other run does not know the joints with the largest errors of the first
                away = np.linalg.norm(kept["predicted"] - kept["true"], axis=-1) * (kept["weight"] > 0)
                kept["weight"] = kept["weight"] * (away < np.median(away[away > 0]))
            stream.write(id, Artifact(kept, {}), {})
    _, found = diagnosis.compare([one, other])
    for row in found:
        assert row.means[0] == pytest.approx(row.means[1])
        assert row.differences[0].mean == pytest.approx(0, abs=1e-12)


def test_people_who_cannot_be_told_apart_are_refused(runs: Path, tmp_path: Path) -> None:
    """Runs of earlier versions kept no person: by number where boxes are the same, else not at all."""
    bare = {}
    for name in ("annotated", "detected"):
        bare[name] = tmp_path / name
        kept, stream = Stream(runs / name, "epe"), Stream(tmp_path / name, "epe")
        stream.begin(kept.settings())
        for id in kept.ids():
            arrays = {key: v for key, v in kept.arrays(id).items() if key not in ("person", "extent", "centre")}
            stream.write(id, Artifact(arrays, {}), {})
    with pytest.raises(BadInput, match="are of different boxes, and their people cannot be told apart"):
        diagnosis.compare(list(bare.values()))
    count, found = diagnosis.compare([runs / "annotated", bare["annotated"]])
    assert count == 8
    assert [row.differences[0].mean for row in found] == pytest.approx([0, 0], abs=1e-9)


def test_no_interval_of_no_width(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for values in ([[1.0, 2.0]], [[1.0], [1.0], [1.0]], [[np.nan], [3.0]]):
        found = bootstrap(torch.tensor(values))
        assert np.isnan(found.low)
        assert np.isnan(found.high)
        assert found.mean == pytest.approx(np.nanmean(values))
    kept, few = Stream(runs / "annotated", "epe"), Stream(tmp_path / "few", "epe")
    few.begin(kept.settings())
    few.write("3", Artifact({**kept.arrays("3"), "predicted": kept.arrays("3")["predicted"] + 1}, {}), {})
    words = ["pose", "compare", str(runs / "annotated"), str(tmp_path / "few"), "--save", str(tmp_path / "c.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 samples in common" in said
    assert said.count("(no interval)") == 2
    row = json.loads((tmp_path / "c.json").read_text())[0]
    assert row["differences"][0]["low"] is None


def half(_module: nn.Module, batch: Batch) -> torch.Tensor:
    """Heatmaps with a peak of .5 exactly where every joint is."""
    return batch.truth["heatmaps"].float() / 2


def test_a_low_peak_in_the_right_place_is_decoded_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Soft-argmax with beta 10 is pulled far from a peak of .5; the peak itself is right. Both are said everywhere."""
    crop = Crop(size=(192, 256), heatmap=(48, 64))
    rng = np.random.default_rng(0)
    centre, extent = frame((10, 10, 90, 120), crop)
    people = tuple(
        Person(
            id=str(i),
            image_id=i,
            picture=rng.integers(0, 255, (140, 110, 3), dtype=np.uint8),
            centre=centre,
            extent=extent,
            joints=np.array([14.0, 29.0]) + 3 * np.arange(17)[:, None],
            weight=np.ones(17),
            size=120.0,
        )
        for i in range(2)
    )
    subject = Subject(nn.Conv2d(3, 17, 1), call=half, kind="pose")
    one = diagnosis.Study(subject, PoseData(people, COCO_BODY, "low"), crop)
    diagnosis.errors(one, ["0", "1"], tmp_path)
    figures = pose_report.error_figures(tmp_path)
    grid = np.stack(np.meshgrid(np.arange(48), np.arange(64)), -1)
    naive = []
    for at in one.data.people[0].joints:
        into = (at - centre) * 192 / extent[0] + (96, 128)
        blob = np.zeros((64, 48))
        u, v = np.trunc(into / 4 + 0.5)
        near = (np.abs(grid[..., 0] - u) <= 6) & (np.abs(grid[..., 1] - v) <= 6)
        blob[near] = np.exp(-(((grid - (u, v)) ** 2).sum(-1)[near]) / 8)
        places = [(np.exp(10 * h)[..., None] * grid).sum((0, 1)) / np.exp(10 * h).sum() * 4 for h in (blob / 2, blob)]
        naive.append(np.linalg.norm(places[0] - places[1]))
    assert figures["EPE"][1] == pytest.approx(np.mean(naive), rel=1e-4)
    assert figures["EPE"][1] > 20
    # half a heatmap pixel of rounding and a quarter of decoding, in both directions, four pixels of the input each
    assert figures["decoded"][1] < 4 * 0.75 * 2**0.5
    assert figures["PCK"][1] == 1
    soft, decoded = (diagnosis.confusion(tmp_path, reading=reading) for reading in diagnosis.READINGS)
    assert soft.pairs
    assert not decoded.pairs
    assert main(["pose", "inversions", "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"Soft-argmax error (EPE): {len(soft.pairs)} inversions" in said
    assert "Decoded error: 0 inversions, 0 swaps" in said
    kept = json.loads((tmp_path / "inversions.json").read_text())
    assert kept["decoded"]["inversions"] == []
    page = pose_report.report(tmp_path).read_text()
    for words in ("soft-argmax joints", "decoded joints", "<th>decoded</th>", "Decoded error: 0 inversions"):
        assert words in page
    drawn = pose_report.skeleton(pose_report.Run(tmp_path), "0")
    assert drawn.shape == (768, 576, 3)


def test_errors_of_crops_of_other_sizes_are_in_pixels_of_the_first(runs: Path, tmp_path: Path) -> None:
    one = asked(runs, detections=False)
    wide = replace(one, crop=replace(one.crop, size=(48, 64)))
    kept = Stream(runs / "annotated", "epe")
    stream = Stream(tmp_path, "epe")
    stream.begin({**kept.settings(), "crop": {**kept.settings()["crop"], "size": list(wide.crop.size)}})
    for id in kept.ids():
        values = kept.arrays(id)
        doubled = values | {"predicted": values["predicted"] * 2, "true": values["true"] * 2}
        stream.write(id, Artifact(doubled, {}), {})
    _, found = diagnosis.compare([runs / "annotated", tmp_path])
    for row in found:
        assert row.means[1] == pytest.approx(row.means[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=chromium, headless=True)
        yield made
        made.close()


def test_pages_hold_what_was_found_and_fit_a_telephone(
    runs: Path, browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [runs / "annotated", runs / "detected"]
    assert main(["pose", "compare", *map(str, roots), "-o", str(tmp_path / "page"), "--worst", "3"]) == 0
    said = capsys.readouterr().out
    pages = [tmp_path / "page" / "index.html", pose_report.report(roots[0])]
    _, found = diagnosis.compare(roots)
    for path, width in product(pages, (390, 1100)):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(path.as_uri())
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        text = page.inner_text("body")
        page.close()
        if path == pages[0]:
            for row in found:
                assert f"{row.differences[0].mean:+.4g} [{row.differences[0].low:+.4g}" in text
                assert f"{row.differences[0].mean:+.4g} [{row.differences[0].low:+.4g}" in said
            assert "7 people that all runs have" in text
    assert len(list((tmp_path / "page").glob("person_*.png"))) == 6


def test_overall_figures_have_the_intervals_of_a_plain_bootstrap(runs: Path) -> None:
    """Means and ends of the report's table, from the stored files again."""
    figures = pose_report.figures_of(pose_report.Run(runs / "annotated"))
    away = []
    for id in Stream(runs / "annotated", "epe").ids():
        kept = Stream(runs / "annotated", "epe").arrays(id)
        zoom = 24 / kept["extent"][0]
        row = []
        for j in range(17):
            distance = float(np.hypot(*(kept["decoded"][j] - kept["annotated"][j])))
            row.append(distance * zoom if kept["weight"][j] > 0 else np.nan)
        away.append(row)
    np.testing.assert_allclose(figures["decoded"], away)
    sizes = [float(Stream(runs / "annotated", "epe").arrays(id)["size"]) for id in ("0", "1")]
    zooms = [24 / Stream(runs / "annotated", "epe").arrays(id)["extent"][0] for id in ("0", "1")]
    for n in range(2):
        for j in range(17):
            right = np.nan if np.isnan(away[n][j]) else float(away[n][j] <= 0.2 * sizes[n] * zooms[n])
            np.testing.assert_equal(figures["PCK"][n, j], right)
    one = bootstrap(figures["decoded"], draws=4000)
    rng = np.random.default_rng(7)
    draws = [np.nanmean(np.array(away)[rng.integers(8, size=8)]) for _ in range(4000)]
    assert (one.low, one.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=0.05)
