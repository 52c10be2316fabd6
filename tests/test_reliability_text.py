"""Names and titles in every figure are drawn as they stand: no mathematics, no TeX, nothing left out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hostile import FOREIGN, FORMATS, MARKUP, NAMES, TEX, texts
from matplotlib.text import Text
from PIL import Image

from torchloupe.errors import legible
from torchloupe.methods.schedule import Curve
from torchloupe.points import Points
from torchloupe.render import curves, features, pictures, plots, pose, samples, sequences
from torchloupe.render import points as maps
from torchloupe.render.look import Look
from torchloupe.render.marks import Mark, framed_boxes

TEXTS = [text for text in (*TEX, *FORMATS[:3], *NAMES, *FOREIGN, *MARKUP[:1]) if "\n" not in text and len(text) < 100]


def words(figure: Any) -> list[str]:
    """The texts that a figure's SVG holds, read as XML."""
    held = io.StringIO()
    for text in figure.findobj(Text):
        text.set_path_effects([])  # with a halo it is drawn as an outline
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(held, format="svg")
    root = ElementTree.fromstring(held.getvalue())
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def cloud(labels: list[str]) -> Points:
    ids = np.array([f"{i}" for i in range(len(labels))])
    feats = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    columns = {"labels": np.array(labels), "shape": np.array([labels[i % 3] for i in range(len(labels))])}
    return Points(feats, ids, columns, {"kind": "projection"})


def census(names: list[str]) -> Any:
    colours = dict.fromkeys(("mean", "std", "transformed mean", "transformed std"), (9, 9, 9))
    summary = {"samples": 3, "classes": {name: 3 + i for i, name in enumerate(names)}, **colours}
    return samples.plots(names[0], np.array([[4, 5], [6, 7]]), summary)


def schedule(names: list[str]) -> Any:
    at = np.arange(4.0)
    made = [
        Curve(name=name, parameter="lr", unit="epoch", length=4, at=at, values=np.full((4, 1), i + 1.0), groups=("",),
              per_epoch=None, marks=())
        for i, name in enumerate(names)
    ]  # fmt: skip
    return curves.draw(made, title=names[0])


def cells(names: list[str]) -> Any:
    picture = np.zeros((40, 40, 3), np.uint8)
    row = [plots.Cell(picture, name) for name in names]
    return plots.grid([plots.Group("", [("", row)])], names, note=names[0])


def some(names: list[str]) -> Any:
    return cloud([*names, *names])


FIGURES: dict[str, Callable[[list[str]], Any]] = {
    "points, list": lambda names: maps.scatter(some(names), Look(legend="list", title=names[0], shape_by="shape")),
    "points, medians": lambda names: maps.scatter(some(names), Look(legend="medians", fig_size=(9, 9))),
    "points, two maps": lambda names: maps.side_by_side(
        some(names), some(names), np.array([0]), (names[0], names[1]), caption=names[2]
    ),
    "samples": census,
    "schedules": schedule,
    "grid": cells,
    "cka": lambda names: features.draw_cka(np.eye(len(names)), names, names, (names[0], names[1]), 3),
    "joints": lambda names: pose.all_joints(
        np.zeros((9, 9, 3), np.uint8), np.ones((len(names), 9, 9)), names, np.zeros((len(names), 2)), names, names[0]
    ),
    "bars": lambda names: pose.bars_by_joint({names[0]: np.ones(len(names))}, names, {names[0]: names[1]}),
    "matrix": lambda names: pose.matrix(np.eye(len(names)), names, names[0], names[1]),
}


def missing(kind: str, names: list[str]) -> list[str]:
    """The names that the figure does not say, blanks and low lines aside; long ones as far as the figure shows them."""

    def same(text: str) -> str:
        return "".join(text.replace("_", " ").split())

    said = same("".join(words(FIGURES[kind](names))))
    return [name for name in names if same(legible(name))[:16] not in said and not (kind == "grid" and len(name) > 12)]


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_says_every_text_as_it_stands(kind: str) -> None:
    for first in range(0, len(TEXTS), 16):
        names = list(dict.fromkeys([*TEXTS[first : first + 16], "$_a$", "$\\frac{$", "_c"]))
        assert missing(kind, names) == []


@pytest.mark.parametrize("kind", FIGURES)
def test_a_figure_does_so_for_a_user_who_has_matplotlib_write_tex(kind: str) -> None:
    with matplotlib.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True}):
        assert missing(kind, ["$_a$", "$\\frac{$", "_c", "100 %"]) == []


def test_logarithmic_axes_keep_what_matplotlib_writes_itself() -> None:
    figure = pose.scatter(np.array([0.0, 1e3, 1e5, 3]), {"$x$": np.arange(4.0)}, "$y$")
    said = " ".join(words(figure))
    assert "$x$" in said
    assert "mathdefault" not in said


@pytest.mark.parametrize("text", texts())
def test_labels_on_pictures_are_drawn(text: str) -> None:
    picture = np.zeros((80, 400, 3), np.uint8)
    drawn = framed_boxes(picture, [Mark((10, 30, 60, 70), text[:20])], (80, 400))
    assert (drawn[:26] > 200).any()
    assert (pictures.labelled(picture, text[:20])[40:] > 200).any()
    assert np.asarray(samples.captioned(Image.fromarray(picture), text)).shape[0] > 80
    assert sequences._wrapped(text, 100, sequences._font(9.0))


def test_classes_whose_names_are_cut_alike_keep_their_own_bars() -> None:
    names = ["a class with a very long name, first", "a class with a very long name, second"]
    figure = census(names)
    bars = figure.axes[2].patches
    assert sorted(bar.get_width() for bar in bars) == [3, 4]
    assert len({bar.get_y() for bar in bars}) == 2


def test_every_figure_of_the_package_is_a_plain_one() -> None:
    home = Path(plots.__file__).parent
    for path in home.rglob("*.py"):
        made = re.findall(r"(?<![\w.])(?:Figure|plt\.figure|plt\.subplots)\(.*", path.read_text(encoding="utf-8"))
        own = ("class Plain(", "FigureClass=Plain", ".canvas.manager")
        assert [call for call in made if not any(word in call for word in own)] == [], path
