"""What is made of a stored diagnosis: pictures of a sample, the report, the template's IG_DB folder."""

from __future__ import annotations

import csv
import html
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchloupe.data.bodies import affine, moved
from torchloupe.errors import BadInput
from torchloupe.kinds.pose import FIGURES, READINGS, pixels, table
from torchloupe.methods.joints import bootstrap, means
from torchloupe.methods.keypoints import pck
from torchloupe.render import pose
from torchloupe.render.kinds import Wish
from torchloupe.render.pictures import INPUT, Sheet, drawing, sized
from torchloupe.render.pose_mistakes import MEANING as KIND
from torchloupe.render.pose_mistakes import tables
from torchloupe.render.pose_page import captioned, made_folder, meanings, number, page, plot, saved, shown
from torchloupe.runs.pose.confusion import confusion
from torchloupe.store import load_record, whole
from torchloupe.store.stream import Stream

Array = NDArray[Any]
MEANING = {
    "EPE": (
        "end-point error of soft-argmax joints, which the maps ask about; a broad or low heatmap pulls them far from its "
        "peak. Pixels of the network's input"
    ),
    "decoded": "error of decoded joints, which PCK, AP and applications rest on. Pixels of the network's input",
    "PCK": "share of decoded joints within 0.2 of the person's longer side (MPII: 0.5 of the head's length)",
    "DI": "diffusion, 100 = spread over the whole picture",
    "FI": "attribution on the person, 1 = no better than uniform",
    "LI": "attribution at the joint itself, 1 = no better than uniform",
    "residual": "completeness: |sum of the map - change of the score|",
}
TITLES = {"EPE": "Soft-argmax error (EPE)", "decoded": "Decoded error"}
UNITS = {
    "EPE": "pixels",
    "decoded": "pixels",
    "DI": "0 to 100",
    "FI": "times uniform",
    "LI": "times uniform",
    "residual": "of the score",
}


@dataclass(frozen=True)
class Run:
    """A folder of results, its joints and bones."""

    root: Path

    @property
    def ig(self) -> Stream:
        """Attribution maps and indices."""
        return Stream(self.root, "ig")

    @property
    def epe(self) -> Stream:
        """Predictions and errors."""
        return Stream(self.root, "epe")

    def has(self, kind: str) -> bool:
        """Whether results of a kind are there."""
        return bool(Stream(self.root, kind).ids())

    def settings(self) -> dict[str, Any]:
        """How the results were made. Errors: BadInput for a folder without any."""
        for kind in ("ig", "epe"):
            if (self.root / f"{kind}.json").exists():
                return Stream(self.root, kind).settings()
        raise BadInput(f"{self.root}: holds no results of `loupe pose`; run `loupe pose ig` or `loupe pose epe` first")

    def share(self) -> float:
        """Of the person's size that a joint may be off for PCK: 0.2 of the box, 0.5 of MPII's head."""
        return 0.5 if self.epe.settings()["skeleton"]["name"] == "mpii" else 0.2

    def names(self) -> list[str]:
        """Names of the joints."""
        return list(self.settings()["skeleton"]["joints"])

    def bones(self) -> list[tuple[int, int]]:
        """Pairs of joints. Earlier versions kept a skeleton that counts from 0 one off, and edges beyond the joints."""
        edges, count = self.settings()["skeleton"]["bones"], len(self.names())
        off = any(-1 in edge for edge in edges)
        return [(a + off, b + off) for a, b in edges if max(a, b) + off < count]


def pictures(root: Path, sample: str, joint: int | None, save: Path, points: bool = True) -> list[Path]:
    """<sample>_<joint>_{ig,kde,over,img}.png for a joint, or all joints in one grid; the skeleton where it is known.

    Errors: BadInput for a sample without maps, or a joint that was not asked about, saying which were.
    """
    run = Run(root)
    kept, names = run.ig.arrays(sample), run.names()
    if "maps" not in kept:
        raise BadInput(f"{root}: its maps were not kept (--no-save-ig); run `loupe pose ig` into a new folder")
    picture, maps, joints = kept["picture"], kept["maps"].astype(np.float64), kept["joints"].tolist()
    made: dict[str, Array | Any] = {}
    if joint is None:
        figures = (
            [f"{name} {kept[name][j]:.1f}" for name in ("FI", "LI") if np.isfinite(kept[name][j])] for j in joints
        )
        notes = ["  ".join(shown) if shown else "empty map" for shown in figures]
        title = f"sample {sample}: what each joint's score rests on"
        made["grid"] = pose.all_joints(picture, maps, [names[j] for j in joints], kept["true"][joints], notes, title)
    else:
        if joint not in joints:
            asked = ", ".join(f"{j} {names[j]}" for j in joints)
            raise BadInput(f"{root}: sample {sample} has no map of joint {joint}; it has {asked}")
        values, at = maps[joints.index(joint)], kept["true"][joint]
        made[f"{joint}_ig"] = pose.enlarged(pose.signed_map(values))
        made[f"{joint}_kde"] = pose.enlarged(pose.over_density(picture, values))
        made[f"{joint}_over"] = pose.enlarged(pose.marked(pose.over(picture, values), at))
        made[f"{joint}_img"] = pose.enlarged(pose.marked(picture, at))
    if points and sample in run.epe.ids() and run.epe.arrays(sample, ["predicted"])["predicted"].shape[-1] == 2:
        made["skeleton"] = skeleton(run, sample)
    return [saved(save / f"{sample}_{name}.png", pose.png(picture)) for name, picture in made.items()]


def redraw(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Maps of stored samples (RUN/ig/<sample>.npz) as `loupe draw` draws heatmaps, a target being a joint by its name.

    save: a file or a folder; None = pictures/ in the run. Errors: BadInput for maps that were not kept.
    """
    sheets = []
    for path in paths:
        run = Run(path.parent.parent)
        kept, names = run.ig.arrays(path.stem), run.names()
        if "maps" not in kept:
            raise BadInput(f"{path}: its maps were not kept (--no-save-ig); run `loupe pose ig` into a new folder")
        maps = kept["maps"].astype(np.float64) * kept["scale"][:, None, None]
        method = str(run.ig.settings()["attribution"]["method"])
        sheet = Sheet(
            path.stem,
            kept["picture"][None],
            {(method, INPUT): maps[:, None]},
            frozenset({method} if maps.min() < 0 else ()),
            tuple(names[joint] for joint in kept["joints"].tolist()),
            tuple(kept["scores"].tolist()),
        )
        sheets.append(sheet.only(wish.methods, wish.layers, wish.targets))
    return drawing(sheets, wish.style).save(save if save is not None else paths[0].parent.parent / "pictures")


def redraw_joints(paths: Sequence[Path], save: str | None, wish: Wish) -> list[Path]:
    """Skeletons of stored predictions (RUN/epe/<sample>.npz), predicted against true."""
    folder = Path(save) if save is not None else paths[0].parent.parent / "pictures"
    if folder.suffix:
        raise BadInput(f"{folder}: skeletons are saved into a folder, one PNG a sample")
    drawn = ((path.stem, skeleton(Run(path.parent.parent), path.stem)) for path in paths)
    sizes = ((id, sized(made, wish.style.size(*made.shape[:2]))) for id, made in drawn)
    return [saved(folder / f"{id}_skeleton.png", pose.png(made)) for id, made in sizes]


def skeleton(run: Run, sample: str) -> Array:
    found = run.epe.arrays(sample)
    if found["predicted"].shape[-1] != 2:
        raise BadInput("a skeleton is drawn of 2D coordinates; this model gives 3D ones")
    return pose.skeletons(found["picture"], *_places(run, found), found["weight"], run.bones())


def _places(run: Run, found: Mapping[str, Array]) -> tuple[Array, Array]:
    """(true, decoded) joints in pixels of the crop; soft-argmax ones of runs of earlier versions, which kept decoded joints
    without the crop that they lie in."""
    if "centre" not in found:
        return found["true"], found["predicted"]
    size = run.epe.settings()["crop"]["size"]
    into = affine(found["centre"].tolist(), found["extent"].tolist(), size)
    return moved(found["annotated"], into), moved(found["decoded"], into)


def error_figures(root: Path) -> dict[str, tuple[Array, float]]:
    """EPE, decoded and PCK -> (by joint, over all) of the stored predictions; without decoded and PCK in camera units."""
    run = Run(root)
    if not run.has("epe"):
        raise BadInput(f"{root}: no predictions were stored yet; run `loupe pose epe` first")
    found = {name: means(pixels(run.epe, name).errors) for name in READINGS}
    decoded = pixels(run.epe, "decoded")
    size = table(run.epe, ("size",))["size"] * decoded.zoom
    found["PCK"] = pck(decoded.errors, size, run.share())
    return {name: both for name, both in found.items() if name == "EPE" or np.isfinite(both[1])}


def columns(root: Path) -> tuple[list[str], dict[str, Array], dict[str, float]]:
    """(joints, figure -> by joint, figure -> over all) of whatever a run holds."""
    run = Run(root)
    names, by_joint, overall = run.names(), {}, {}
    if run.has("epe"):
        for name, both in error_figures(root).items():
            by_joint[name], overall[name] = both
    if run.has("ig"):
        found = table(run.ig, FIGURES)
        for name in FIGURES:
            by_joint[name], overall[name] = means(found[name])
        by_joint["residual"], overall["residual"] = means(residuals(run.ig, len(names)))
    return names, by_joint, overall


def residuals(stream: Stream, count: int) -> Array:
    """|completeness residual| by sample and joint; NaN where there is none, as of methods other than PoseIG."""
    made = []
    for id in stream.ids():
        kept = stream.arrays(id, ["completeness_residual", "joints"])
        row = np.full(count, np.nan)
        if "completeness_residual" in kept:
            row[kept["joints"]] = np.abs(kept["completeness_residual"])
        made.append(row)
    return np.stack(made)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in plain text, first column to the left, the rest to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join(lines)


def by_joint_rows(names: Sequence[str], by_joint: Mapping[str, Array], overall: Mapping[str, float]) -> list[list[str]]:
    """A row a joint and one for all, figures in the order given."""
    rows = [[name, *(number(values[j]) for values in by_joint.values())] for j, name in enumerate(names)]
    return [*rows, ["all", *(number(overall[name]) for name in by_joint)]]


def report(root: Path, worst: int = 6) -> Path:
    """report/index.html beside the results: tables and plots by joint, by error, index against error, worst samples.

    Nothing is computed anew. Errors: BadInput for a folder without results.
    """
    if worst < 0:
        raise BadInput(f"--worst is 0 or more, found {worst}")
    run, folder = Run(root), root / "report"
    names, by_joint, overall = columns(root)
    if not by_joint:
        raise BadInput(f"{root}: its runs hold no finished sample; run the same `loupe pose` command again")
    sections = [_facts(run), _overall(run), _chance(run), _by_joint(folder, names, by_joint, overall)]
    if run.has("ig") and run.has("epe"):
        sections += _against_error(folder, run)
    if run.has("ig"):
        ri = table(run.ig, ("RI",))["RI"]
        known = np.isfinite(ri)
        count = known.sum(0)
        mean = np.divide(np.where(known, ri, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)
        made = pose.matrix(mean, names, "RI: attribution of a joint (row) at another (column)", "times uniform")
        sections.append(plot(folder, "relation", "Relation between joints", made))
    if (root / "dependency.json").exists():
        values = np.array(json.loads((root / "dependency.json").read_text())["mean"], dtype=np.float64)
        made = pose.matrix(
            values, names, "How far a joint (row) moves where another's map (column) is masked", "pixels"
        )
        sections.append(plot(folder, "dependency", "Dependency between joints", made))
    if run.has("epe"):
        sections += [_mistakes(root), _inversions(run, names), _worst(folder, run, names, worst)]
    saved(folder / "table.csv", _csv(names, by_joint, overall).encode())
    return saved(folder / "index.html", page(f"Pose diagnosis: {root.name}", sections))


def _facts(run: Run) -> str:
    lines = []
    for kind, what in (("epe", "predictions"), ("ig", "attribution")):
        stream = Stream(run.root, kind)
        if not (run.root / f"{kind}.json").exists():
            continue
        failed = stream.failed()
        lost = f", {len(failed)} failed ({', '.join(list(failed)[:5])})" if failed else ""
        settings = stream.settings()
        how = settings.get("attribution", {})
        method = "PoseIG as its template" if how.get("reference") else how.get("method", "")
        about = f": {method}, {how['path']} path" if how.get("method") == "poseig" else f": {method}" if method else ""
        of = [settings.get("model") or "a model of your own"]
        of += [f"weights {settings['weights_sha256'][:12]}"] if settings.get("weights_sha256") else []
        said = f"{what} of {len(stream.ids())} samples{lost}; {', '.join([*of, settings['data']])}{about}"
        lines.append(f"<li>{html.escape(said)}</li>")
    broken = sum(
        float(run.ig.arrays(id, ["nan_gradients"]).get("nan_gradients", np.zeros(1)).sum()) for id in run.ig.ids()
    )
    if broken:
        lines.append(f"<li><b>{broken:.0f} gradient values were not finite and counted as 0</b></li>")
    return "<ul>" + "".join(lines) + "</ul>"


def figures_of(run: Run) -> dict[str, Array]:
    """Figure -> (n, j) of all samples of a run: EPE, decoded, PCK (1 or 0), DI, FI, LI; NaN for what is not known."""
    found: dict[str, Array] = {}
    if run.has("epe"):
        found |= {name: pixels(run.epe, name).errors for name in READINGS}
        size = table(run.epe, ("size",))["size"] * pixels(run.epe, "decoded").zoom
        known = np.isfinite(found["decoded"]) & (size > 0)[:, None]
        right = np.nan_to_num(found["decoded"], nan=np.inf) <= run.share() * size[:, None]
        found["PCK"] = np.where(known, right, np.nan)
    if run.has("ig"):
        found |= table(run.ig, FIGURES)
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _overall(run: Run) -> str:
    rows = []
    for name, values in figures_of(run).items():
        one = bootstrap(values)
        interval = f"{number(one.low)} to {number(one.high)}" if np.isfinite(one.low) else "not known"
        rows.append([name, number(one.mean), interval, str(one.count)])
    rows += [[name, "-" if value is None else f"{value:.3f}", "", ""] for name, value in precision(run.root).items()]
    return (
        "<h2>Overall</h2><p>Means over joints; intervals of 95 % over samples (bootstrap). AP and AR are COCO's figures of "
        f"<code>loupe pose epe</code>.</p>{shown(['figure', 'mean', 'interval', 'joints'], rows)}"
    )


def precision(root: Path) -> dict[str, float | None]:
    """COCO's figures of a run, as they were last computed; none where they never were."""
    path = root / "errors.json"
    return dict(load_record(path).get("coco", {})) if path.exists() else {}


def _chance(run: Run) -> str:
    kept = [run.ig.arrays(id, ("chance",)) for id in run.ig.ids()] if run.has("ig") else []
    held = [one["chance"] for one in kept if "chance" in one]
    if not held:
        return ""
    stacked = np.stack(held, 1)
    found = table(run.ig, FIGURES)
    rows = [
        ["uniform map", "1", "1"],
        ["change of the picture alone", *(number(means(part)[1]) for part in stacked)],
        ["this model", *(number(means(found[name])[1]) for name in ("FI", "LI"))],
    ]
    return (
        "<h2>FI and LI beside what needs no training</h2><p>A map has to be well above the second row before it says "
        "something of what the model learned; random weights come out between (see the documentation).</p>"
        + shown(["map", "FI", "LI"], rows)
    )


def _by_joint(folder: Path, names: Sequence[str], by_joint: Mapping[str, Array], overall: Mapping[str, float]) -> str:
    drawn = {name: values for name, values in by_joint.items() if np.isfinite(values).any() and name != "PCK"}
    bars = plot(folder, "by_joint", "By joint", pose.bars_by_joint(drawn, names, UNITS))
    rows = shown(["joint", *by_joint], by_joint_rows(names, by_joint, overall))
    return bars + rows + meanings({name: MEANING[name] for name in by_joint})


def _against_error(folder: Path, run: Run) -> list[str]:
    known = set(run.epe.ids())
    ids = [id for id in run.ig.ids() if id in known]
    if not ids:
        return []
    found = table(run.ig, FIGURES, ids)
    plots, tables = [], []
    for reading, title in TITLES.items():
        away = pixels(run.epe, reading, ids).errors
        if not np.isfinite(away).any():
            continue
        axis = f"{_within(title)} (input pixels)"
        made = pose.scatter(away.ravel(), {name: values.ravel() for name, values in found.items()}, axis)
        name = "scatter" if reading == "EPE" else f"scatter_{reading}"
        plots.append(plot(folder, name, f"Index against {_within(title)}", made))
        edges = [0, *np.nanquantile(away, [0.25, 0.5, 0.75]), np.inf]
        rows = []
        for low, high in pairwise(edges):
            part = (away >= low) & (away < high) if high > low else np.zeros(away.shape, bool)
            label = f"{number(low)} to {number(high)}" if np.isfinite(high) else f"{number(low)} and more"
            values = [means(np.where(part, found[name], np.nan))[1] for name in FIGURES]
            rows.append([label, str(int(part.sum())), *map(number, values)])
        tables.append(f"<h2>By {html.escape(_within(title))}</h2>{shown(['pixels', 'joints', *FIGURES], rows)}")
    return [*plots, *tables]


def _mistakes(root: Path) -> str:
    path = root / "mistakes.json"
    if not path.exists():
        return ""
    content = load_record(path)
    said = f"Of {content['poses']} poses for {content['people']} people; AP {number(_known(content['AP']))}. "
    said += "Kinds after Ronchi and Perona 2017, on decoded joints."
    parts = [f"<h2>Kinds of error</h2><p>{html.escape(said)}</p>", *(shown(*table) for table in tables(content))]
    parts.append(meanings(KIND))
    for example in content["examples"]:
        caption = f"{example['kind']}: {example['joint'].replace('_', ' ')} of sample {example['sample']}"
        parts.append(captioned([f"../{example['picture']}"], caption))
    return "".join(parts)


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def _within(title: str) -> str:
    return title[0].lower() + title[1:]


def _inversions(run: Run, names: Sequence[str]) -> str:
    if run.epe.arrays(run.epe.ids()[0], ["predicted"])["predicted"].shape[-1] != 2:
        return ""
    parts = ["<h2>Inversions</h2><p>A joint nearer than 10 input pixels to another's place than to its own.</p>"]
    for reading, title in TITLES.items():
        found = confusion(run.root, reading=reading)
        rows = [
            [f"{names[a].replace('_', ' ')} at {names[b].replace('_', ' ')}", str(int(found.counts[a, b]))]
            for a, b in sorted(np.argwhere(found.counts).tolist(), key=lambda pair: -found.counts[tuple(pair)])[:12]
        ]
        said = f"{title}: {len(found.pairs)} inversions, {found.swaps} swaps."
        if found.relation is not None and found.relation.inverted_pairs:
            said += (
                f" Mean RI of inverted pairs {number(found.relation.inverted)} ({found.relation.inverted_pairs}), "
                f"of other pairs {number(found.relation.others)} ({found.relation.other_pairs})."
            )
        parts.append(f"<p>{html.escape(said)}</p>" + (shown(["joint taken for", "count"], rows) if rows else ""))
    return "".join(parts)


def _worst(folder: Path, run: Run, names: Sequence[str], count: int) -> str:
    ids = run.epe.ids()
    if run.epe.arrays(ids[0], ["predicted"])["predicted"].shape[-1] != 2:
        return ""
    soft, decoded = (pixels(run.epe, reading).errors for reading in READINGS)
    known = np.isfinite(decoded)
    mean, other = (
        np.divide(np.where(known, away, 0).sum(1), known.sum(1), out=np.full(len(away), -1.0), where=known.any(1))
        for away in (decoded, soft)
    )
    figures, explained = [], set(run.ig.ids())
    for row in np.argsort(-mean)[:count].tolist():
        if mean[row] < 0:
            continue
        id, joint = ids[row], int(np.nanargmax(decoded[row]))
        saved(folder / f"worst_{id}.png", pose.png(skeleton(run, id)))
        caption = (
            f"sample {id}: decoded joints {number(mean[row])} pixels off in the mean (soft-argmax {number(other[row])}); "
            f"{names[joint].replace('_', ' ')} {number(decoded[row, joint])} ({number(soft[row, joint])})"
        )
        pictures = [f"worst_{id}.png"]
        kept = run.ig.arrays(id, ("maps", "joints")) if id in explained else {}
        if "maps" in kept and joint in kept["joints"].tolist():
            values = kept["maps"][kept["joints"].tolist().index(joint)].astype(np.float64)
            drawn = _joint_over(run, id, joint, values)
            saved(folder / f"worst_{id}_map.png", pose.png(drawn))
            pictures.append(f"worst_{id}_map.png")
            caption += "; beside it: what its score rests on"
        figures.append(captioned(pictures, caption))
    return (
        "<h2>Worst samples</h2><p>By the error of decoded joints. Green: where the joints are. Red: where the model's "
        "decoded joints are.</p>" + "".join(figures)
    )


def _joint_over(run: Run, sample: str, joint: int, values: Array) -> Array:
    """A joint's map over the picture, its true place in green and its decoded one in red, at the skeleton's size."""
    kept = run.epe.arrays(sample)
    made = pose.over(kept["picture"], values)
    for place, colour in zip(_places(run, kept), (pose.TRUE, pose.PREDICTED), strict=True):
        made = pose.marked(made, place[joint].tolist(), colour)
    return made.repeat(3, 0).repeat(3, 1)


def _csv(names: Sequence[str], by_joint: Mapping[str, Array], overall: Mapping[str, float]) -> str:
    rows = [["joint", *by_joint]]
    rows += [[name, *(repr(float(values[j])) for values in by_joint.values())] for j, name in enumerate(names)]
    rows.append(["all", *(repr(float(overall[name])) for name in by_joint)])
    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerows(rows)
    return held.getvalue()


def export(root: Path, to: str, save: Path | None = None) -> tuple[Path, int]:
    """The run as PoseIG's template stores it: IG_DB/ig/<n>_ig.pickle, idx.json, epe.json, RI.json, j2j.json.

    Pickles hold a float32 array (joints, h, w), absolute and over its maximum, zero for joints without a map. EPE is in
    the unit of the model's own coordinates there: heatmap pixels. -> (the folder, how many samples).
    Errors: BadInput for another format, or nothing to export.
    """
    if to != "ig-db":
        raise BadInput(f"--to {to}: the only format is ig-db")
    run, folder = Run(root), (save or root) / "IG_DB"
    run.settings()
    files: dict[str, dict[str, Any]] = {}
    if run.has("ig"):
        files |= {"idx.json": {}, "RI.json": {}}
    if run.has("epe"):
        files |= {"epe.json": {}}
    if not files:
        raise BadInput(f"{root}: its runs hold no finished sample to export")
    made_folder(folder / "ig")
    for id in run.ig.ids():
        kept = run.ig.arrays(id)
        weight = kept["weight"]
        if "maps" in kept:
            full = np.zeros((len(weight), *kept["maps"].shape[1:]), np.float32)
            full[kept["joints"]] = np.abs(kept["maps"])
            whole(folder / "ig" / f"{id}_ig.pickle", pickle.dumps(full, protocol=4))
        files["idx.json"][id] = {name: _rounded(kept[name] * weight) for name in FIGURES} | {"weight": weight.tolist()}
        files["RI.json"][id] = {a: dict(enumerate(row)) for a, row in enumerate(np.nan_to_num(kept["RI"]).tolist())}
    for id in run.epe.ids():
        kept = run.epe.arrays(id)
        if "unit" not in kept:
            raise BadInput(
                f"{root}: its predictions were stored by an earlier version; run `loupe pose epe` into a new folder"
            )
        error = np.linalg.norm((kept["predicted"] - kept["true"]) / kept["unit"], axis=-1)
        files["epe.json"][id] = {"EPE": _rounded(error * kept["weight"]), "weight": kept["weight"].tolist()}
    if run.has("epe") and kept["predicted"].shape[-1] == 2:
        count = len(kept["weight"])
        found = ((int(n), a, b) for n, a, b in confusion(root).pairs)
        files["j2j.json"] = {"J2J": {str(n * count**2 + a * count + b): [n, a, b] for n, a, b in found}}
    for name, content in files.items():
        whole(folder / name, json.dumps(content).encode())
    return folder, max(len(files.get(name, ())) for name in ("idx.json", "epe.json"))


def _rounded(values: Array) -> list[float]:
    """To three places, as the template keeps them; 0 for what is not known."""
    return np.nan_to_num(values).round(3).tolist()
