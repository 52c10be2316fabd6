"""Pictures of pose attribution: map over picture, density, joints marked, skeletons, all joints in one grid, plots."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
TRUE, PREDICTED = (40, 200, 90), (255, 60, 60)
INK = "#222222"


def density(values: Array) -> Array:
    """Kernel density of a map: Gaussian of covariance (m_eff^(-1/6))^2 * cov, laid over every pixel by its weight

    values (h, w) -> (h, w) in [0, 1]; m_eff = (sum v)^2 / sum v^2, cov the weighted covariance of the pixels' places.
    Source: Scott 1992, Multivariate Density Estimation, doi:10.1002/9780470316849 (the rule for the bandwidth).
    Differs: a product in the Fourier domain, milliseconds; the sum over all pairs of pixels takes a minute.
    """
    weight = np.abs(np.asarray(values, np.float64))
    total = weight.sum()
    if not np.isfinite(total) or total <= 0:
        return np.zeros(weight.shape)
    share = weight / total
    count = 1 / (share**2).sum()
    rows, columns = np.indices(weight.shape)
    places = np.stack([rows.ravel(), columns.ravel()])
    # one pixel alone has no spread: it is drawn a pixel wide
    spread = np.cov(places, aweights=share.ravel()) if count > 1 + 1e-9 else np.zeros((2, 2))
    spread = spread * count ** (-1 / 3) + np.eye(2) * 0.05
    size = tuple(2 * side for side in weight.shape)
    down, across = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1]), indexing="ij")
    form = spread[0, 0] * down**2 + 2 * spread[0, 1] * down * across + spread[1, 1] * across**2
    made = np.fft.irfft2(np.fft.rfft2(weight, size) * np.exp(-2 * np.pi**2 * form), size)
    made = made[: weight.shape[0], : weight.shape[1]].clip(0)
    return made / made.max()


def coloured(values: Array, name: str) -> Array:
    """Values in [0, 1] -> RGB uint8 by a matplotlib colour map."""
    from matplotlib import colormaps

    return (colormaps[name](np.clip(values, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def signed_map(values: Array) -> Array:
    """A map (h, w) in red (for) and blue (against), white where it is 0, scaled by its largest value."""
    top = float(np.abs(values).max()) or 1.0
    return coloured(values.astype(np.float64) / top / 2 + 0.5, "RdBu_r")


def over(picture: Array, values: Array) -> Array:
    """The picture in grey, and over it the absolute map, the stronger the less transparent."""
    strength = np.abs(values.astype(np.float64))
    strength = (strength / (np.quantile(strength, 0.995) or 1.0)).clip(0, 1) ** 0.6
    grey = picture.mean(-1, keepdims=True) * 0.55 + 60
    return (grey * (1 - strength[..., None]) + coloured(strength, "inferno") * strength[..., None]).astype(np.uint8)


def over_density(picture: Array, values: Array) -> Array:
    """The picture blended with the density of a map, white to red."""
    spread = coloured(density(values) / 2 + 0.5, "seismic")
    return (picture * 0.45 + spread * 0.55).astype(np.uint8)


def marked(picture: Array, point: Sequence[float], colour: tuple[int, int, int] = TRUE, reach: int = 5) -> Array:
    """The picture with a box at a point (x, y)."""
    made = Image.fromarray(picture)
    x, y = point[0], point[1]
    ImageDraw.Draw(made).rectangle((x - reach, y - reach, x + reach, y + reach), outline=colour, width=2)
    return np.asarray(made)


def enlarged(picture: Array, height: int = 384) -> Array:
    """The picture at least so high, by a whole factor, so that single pixels stay sharp."""
    factor = max(1, -(-height // picture.shape[0]))
    return picture.repeat(factor, 0).repeat(factor, 1)


def skeletons(
    picture: Array, true: Array, predicted: Array, weight: Array, bones: Sequence[Sequence[int]], scale: int = 3
) -> Array:
    """True (green) and predicted (red) joints and bones over a picture; a white line from each joint to its prediction."""
    size = (picture.shape[1] * scale, picture.shape[0] * scale)
    made = Image.fromarray((picture * 0.7).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    canvas = ImageDraw.Draw(made)
    seen = weight > 0
    for joints, colour in ((true, TRUE), (predicted, PREDICTED)):
        at = (joints[:, :2] + 0.5) * scale
        for a, b in bones:
            if seen[a] and seen[b]:
                canvas.line((*at[a], *at[b]), fill=colour, width=max(1, scale // 2))
        for x, y in at[seen]:
            canvas.ellipse((x - scale, y - scale, x + scale, y + scale), fill=colour)
    for (x, y), (u, v) in zip(true[seen, :2], predicted[seen, :2], strict=True):
        canvas.line(tuple((value + 0.5) * scale for value in (x, y, u, v)), fill=(255, 255, 255), width=1)
    return np.asarray(made)


def figure(width: float, height: float) -> Figure:
    """An empty figure in inches, drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from torchloupe.render.ink import Plain

    made = Plain(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made


def png(made: Figure | Array) -> bytes:
    """A figure or an RGB array as a PNG file."""
    buffer = io.BytesIO()
    if isinstance(made, np.ndarray):
        Image.fromarray(made).save(buffer, "PNG")
    else:
        made.savefig(buffer, format="png")
    return buffer.getvalue()


def all_joints(
    picture: Array, maps: Array, names: Sequence[str], true: Array, notes: Sequence[str], title: str
) -> Figure:
    """The maps of all joints of one sample over its picture, each with its name, note and true place."""
    across = min(6, len(maps) + 1)
    rows = -(-(len(maps) + 1) // across)
    made = figure(1.75 * across, (1.75 * picture.shape[0] / picture.shape[1] + 0.42) * rows + 0.35)
    made.suptitle(title, fontsize=10, color=INK)
    cells = made.subplots(rows, across, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    cells[0].imshow(picture)
    cells[0].set_title("picture", fontsize=8, color=INK)
    for cell, values, name, place, note in zip(cells[1:], maps, names, true, notes, strict=False):
        cell.imshow(over(picture, values))
        cell.plot(*place[:2], marker="+", color="#28c85a", markersize=9, markeredgewidth=1.6)
        cell.set_title(f"{name}\n{note}", fontsize=7.5, color=INK)
    return made


def mistake(
    picture: Array,
    true: Array,
    seen: Array,
    heatmap: Array | None,
    values: Array | None,
    title: str,
    elsewhere: Array | None = None,
) -> Figure:
    """One joint's error: the picture with its true place (green), where it was seen (red) and what it was taken for (blue),
    the heatmap over it, and the absolute attribution map, of whatever is known. Places in pixels of the picture."""
    shown: list[tuple[str, Array | None]] = [("picture", None)]
    shown += [("heatmap", heatmap)] if heatmap is not None else []
    shown += [("attribution", values)] if values is not None else []
    high = picture.shape[0] / picture.shape[1]
    made = figure(2.6 * len(shown), 2.6 * high + 0.75)
    made.suptitle(title, fontsize=9, color=INK, parse_math=False)
    extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
    for cell, (name, layer) in zip(made.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        cell.set_axis_off()
        cell.set_title(name, fontsize=8, color=INK)
        if name == "attribution" and layer is not None:
            cell.imshow(over(picture, layer))
        else:
            cell.imshow(picture)
        if name == "heatmap" and layer is not None:
            cell.imshow(layer, cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
        for place, colour, mark in ((true, "#28c85a", "+"), (elsewhere, "#3c8cff", "x"), (seen, "#ff3c3c", "o")):
            if place is not None:
                empty = {"markerfacecolor": "none"} if mark == "o" else {}
                cell.plot(*place[:2], marker=mark, color=colour, markersize=11, markeredgewidth=2, **empty)
        cell.set_xlim(extent[0], extent[1])
        cell.set_ylim(extent[2], extent[3])
    return made


def bars_by_joint(values: Mapping[str, Array], names: Sequence[str], unit: Mapping[str, str]) -> Figure:
    """One row of bars a figure, joints along x; a line at 1 where 1 means no better than uniform."""
    made = figure(max(6.0, 0.5 * len(names)), 1.7 * len(values) + 1.0)
    cells = made.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for cell, (name, row) in zip(cells, values.items(), strict=True):
        cell.bar(range(len(names)), np.nan_to_num(row), color="#4477aa")
        cell.set_ylabel(f"{name}\n{unit.get(name, '')}".strip(), fontsize=8, color=INK)
        cell.tick_params(labelsize=7)
        if name in ("FI", "LI"):
            cell.axhline(1, color="#cc4444", linewidth=1, linestyle="--")
        cell.spines[["top", "right"]].set_visible(False)
    cells[-1].set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=60, ha="right")
    return made


def scatter(errors: Array, values: Mapping[str, Array], axis: str) -> Figure:
    """Each index against an error, which `axis` names, a point a joint of a sample, with the rank correlation."""
    made = figure(3.4 * len(values), 3.2)
    cells = made.subplots(1, len(values), squeeze=False)[0]
    for cell, (name, found) in zip(cells, values.items(), strict=True):
        known = np.isfinite(errors) & np.isfinite(found)
        cell.scatter(errors[known], found[known], s=8, alpha=0.5, color="#4477aa", linewidths=0)
        cell.set_xlabel(axis, fontsize=8, color=INK)
        cell.set_ylabel(name, fontsize=8, color=INK)
        cell.tick_params(labelsize=7)
        cell.set_xscale("symlog", linthresh=1)
        cell.set_title(f"rank correlation {rank_correlation(errors[known], found[known]):+.2f}", fontsize=8, color=INK)
        cell.spines[["top", "right"]].set_visible(False)
    return made


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rho: Pearson's correlation of mean ranks; NaN for fewer than 3 pairs or a constant side."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")

    def ranks(values: Array) -> Array:
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(count) - (count + 1) / 2)[place]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def matrix(values: Array, names: Sequence[str], title: str, label: str) -> Figure:
    """A joint-by-joint matrix: rows ask, columns answer; NaN is grey."""
    side = 0.34 * len(names) + 2.2
    made = figure(side + 0.8, side)
    cell = made.subplots()
    cell.set_facecolor("#dddddd")
    drawn = cell.imshow(np.ma.masked_invalid(values), cmap="viridis")
    plain = [name.replace("_", " ") for name in names]
    cell.set_xticks(range(len(names)), plain, rotation=70, ha="right", fontsize=7)
    cell.set_yticks(range(len(names)), plain, fontsize=7)
    cell.set_title(title, fontsize=9, color=INK)
    made.colorbar(drawn, ax=cell, shrink=0.8).set_label(label, fontsize=8)
    return made
