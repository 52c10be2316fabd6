"""Pictures of points: places, colours and shapes are right, legends do not cover, every format is written."""

from __future__ import annotations

import re
import warnings
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from PIL import Image

from torchloupe.arrange import write_points
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.points import Points
from torchloupe.render.look import Look, View
from torchloupe.render.points import (
    Classes,
    Scale,
    categories,
    class_colours,
    colouring,
    directions,
    draw_points,
    find_pictures,
    flatten,
    medians,
    save,
    scatter,
    side_by_side,
    turntable,
)


def blobs(classes: int = 4, each: int = 20, dims: int = 2) -> Points:
    random = np.random.default_rng(0)
    centres = random.uniform(-10, 10, (classes, dims))
    codes = np.repeat(np.arange(classes), each)
    feats = (centres[codes] + random.normal(size=(len(codes), dims)) * 0.3).astype(np.float32)
    columns = {
        "labels": np.array([f"class {c}" for c in codes]),
        "size": np.linspace(0, 1, len(codes)),
        "kind": np.array(["a", "b"])[np.arange(len(codes)) % 2],
        "frame": np.arange(len(codes)),
    }
    return Points(feats, np.array([f"s{i}" for i in range(len(codes))]), columns, {"kind": "projection"})


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def test_every_point_is_drawn_in_its_colour_at_its_place():
    points = blobs(3, 5)
    figure = scatter(points, Look(fig_size=(5, 5), alpha=1, marker_size=60), dpi=100)
    image, axes = pixels(figure), figure.axes[0]
    for row, place in enumerate(axes.transData.transform(points.feats)):
        x, y = round(place[0]), round(image.shape[0] - place[1])
        colour = class_colours(3)[row // 5] * 255
        assert np.abs(image[y, x] - colour).max() < 3


def test_columns_become_classes_or_scales():
    points = blobs(4, 20)
    assert isinstance(colouring(points, None, None), Classes)
    assert isinstance(colouring(points, "size", None), Scale)
    assert isinstance(colouring(points, "frame", None), Scale)
    assert isinstance(colouring(points, "frame", None, "categories"), Classes)
    assert colouring(points, "kind", None).names == ("a", "b")
    with pytest.raises(BadInput, match="words"):
        colouring(points, "kind", None, "numbers")
    with pytest.raises(BadInput, match="Did you mean labels"):
        colouring(points, "label", None)
    plain = Points(points.feats, points.ids)
    assert colouring(plain, None, None).names == ("all",)


def test_missing_numbers_are_grey_and_not_part_of_the_scale():
    points = blobs(1, 5)
    values = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    scale = colouring(Points(points.feats, points.ids, {"v": values}), "v", None)
    assert (scale.low, scale.high) == (1, 3)
    assert np.allclose(scale.rgb[[1, 3]], 0.75)
    assert np.allclose(scale.rgb[2], matplotlib.colormaps["viridis"](1.0)[:3])


def test_categories_are_in_natural_order():
    names, codes = categories(np.array(["walk 10", "walk 9", "10", "9", "walk 9"]))
    assert names == ("9", "10", "walk 9", "walk 10")
    assert codes.tolist() == [3, 2, 1, 0, 2]
    assert categories(np.array([20, 3, 3]))[0] == ("3", "20")


@pytest.mark.parametrize("count", [1, 2, 10, 11, 20, 21, 300])
def test_there_are_always_enough_colours(count):
    colours = class_colours(count)
    assert colours.shape == (count, 3)
    assert len(np.unique(colours.round(6), axis=0)) == count
    assert class_colours(count, "Spectral").shape == (count, 3)


def test_shuffled_rows_make_the_same_classes_and_limits():
    points = blobs()
    mixed = points.take(np.random.default_rng(1).permutation(len(points)))
    one, two = colouring(points, None, None), colouring(mixed, None, None)
    by_id = {name: tuple(colour) for name, colour in zip(points.ids, one.rgb, strict=True)}
    assert all(by_id[name] == tuple(colour) for name, colour in zip(mixed.ids, two.rgb, strict=True))


@pytest.mark.parametrize(
    ("classes", "legend"), [(12, "auto"), (20, "auto"), (150, "auto"), (30, "wheel"), (60, "list")]
)
def test_a_legend_never_covers_the_plot(classes, legend):
    points = blobs(classes, 3)
    figure = scatter(points, Look(fig_size=(6, 4), legend=legend), dpi=80)
    figure.canvas.draw()
    plot = figure.axes[0].get_window_extent()
    assert figure.legends
    for made in figure.legends:
        box = made.get_window_extent()
        assert box.x0 >= plot.x1
        assert box.x1 <= figure.bbox.width + 1
        assert box.y0 >= -1
        assert box.y1 <= figure.bbox.height + 1
    assert plot.width > 0.4 * figure.bbox.width


def test_names_stand_beside_their_classes_over_no_point_and_not_over_each_other():
    points = blobs(60, 4)
    figure = scatter(points, Look(fig_size=(8, 8), legend="auto"), dpi=80)
    figure.canvas.draw()
    axes = figure.axes[0]
    texts = axes.texts
    assert not figure.legends
    assert sorted(text.get_text() for text in texts) == sorted(f"class {i}" for i in range(60))
    boxes = [text.get_window_extent() for text in texts]
    pixels_of = axes.transData.transform(points.feats)
    marker = 25_000 / 240  # points squared, held to 50
    radius = min(50, marker) ** 0.5 / 2 * 80 / 72
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert not (a.x0 < b.x1 - 1 and b.x0 < a.x1 - 1 and a.y0 < b.y1 - 1 and b.y0 < a.y1 - 1)
        across = np.maximum(np.maximum(a.x0 - pixels_of[:, 0], pixels_of[:, 0] - a.x1), 0)
        up = np.maximum(np.maximum(a.y0 - pixels_of[:, 1], pixels_of[:, 1] - a.y1), 0)
        assert np.maximum(across, up).min() > radius - 3
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_medians_by_numpy():
    random = np.random.default_rng(0)
    xy, codes = random.normal(size=(50, 2)), random.integers(0, 4, 50)
    found = medians(xy, codes, 5)
    for code in range(4):
        assert np.allclose(found[code], np.median(xy[codes == code], 0))


def test_shapes_and_too_many_of_them():
    points = blobs(3, 6)
    figure = scatter(points, Look(shape_by="kind"), dpi=60)
    assert len(figure.axes[0].collections) == 2
    assert [made.get_title().get_text() for made in figure.legends] == ["labels", "kind"]
    with pytest.raises(BadInput, match="18 values; there are 12 marker shapes"):
        scatter(points, Look(shape_by="ids"))


def test_density_counts_every_point_and_keeps_colours():
    random = np.random.default_rng(0)
    feats = np.concatenate([random.normal(size=(3000, 2)), random.normal(size=(2000, 2)) + 12]).astype(np.float32)
    points = Points(feats, np.arange(5000).astype(str), {"labels": np.repeat(["a", "b"], [3000, 2000])})
    with pytest.warns(LoupeWarning, match="marker shapes are left out"):
        figure = scatter(points, Look(dense=1000, shape_by="labels"), dpi=60)
    assert not figure.axes[0].collections
    image = figure.axes[0].images[0].get_array()
    seen = image[image[..., 3] > 0]
    colours = class_colours(2)
    distance = np.abs(seen[:, None, :3] - colours[None]).max(2).min(1)
    assert (distance < 1e-6).all()
    assert seen[:, 3].max() == pytest.approx(1)


def test_one_dimension_lies_on_a_zero_axis():
    points = blobs(3, 5, dims=1)
    flat = flatten(points.feats, View())
    assert np.array_equal(flat.xy[:, 0], points.feats[:, 0].astype(float))
    assert not flat.xy[:, 1].any()
    assert scatter(points, dpi=50).axes[0].lines


def test_three_dimensions_turn_as_in_matplotlib():
    from mpl_toolkits.mplot3d import proj3d

    assert np.allclose(directions(View(0, 0)), [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    axes = directions(View(33, -71))
    assert np.allclose(axes @ axes.T, np.eye(3))
    u, v, w = proj3d._view_axes(axes[2], np.zeros(3), np.array([0, 0, 1]), 0)
    assert np.allclose(axes, [u, v, w])
    random = np.random.default_rng(0)
    coords = random.uniform(-1, 1, (30, 5))
    flat = flatten(coords, View(33, -71, 2))
    middle = (coords[:, :3].max(0) + coords[:, :3].min(0)) / 2
    assert np.allclose(np.column_stack([flat.xy, flat.depth]), (coords[:, :3] - middle) @ axes.T)
    assert flat.limits[1] == pytest.approx(flatten(coords, View(33, -71)).limits[1] / 2)


def test_views_are_read_and_bad_ones_refused(tmp_path):
    assert View.parse("10,-20") == View(10, -20, 1)
    assert View.parse(str(View(1.5, 2, 3))) == View(1.5, 2, 3)
    (tmp_path / "v.json").write_text('{"elev": 1, "azim": 2}')
    assert View.parse(str(tmp_path / "v.json")) == View(1, 2, 1)
    (tmp_path / "w.json").write_text("{}")
    for text, message in (
        ("a,b", "expected elev,azim"),
        ("1,2,0", "above 0"),
        (str(tmp_path / "w.json"), "view that the page saved"),
    ):
        with pytest.raises(BadInput, match=message):
            View.parse(text)
    with pytest.raises(BadInput, match="no such file"):
        View.parse(str(tmp_path / "absent.json"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "tiff", "tif", "svg", "pdf", "html"])
def test_formats(tmp_path, suffix):
    path = write_points(blobs(), tmp_path / "p.npz")
    look = Look(fig_size=(3, 2), save_ext=suffix, transparent=True)
    made = draw_points(path, look=look, dpi=50)
    assert made == tmp_path / f"p.{suffix}"
    if suffix not in ("svg", "pdf", "html"):
        with Image.open(made) as image:
            assert image.size == (150, 100)
            assert (image.mode == "RGBA") == (suffix in ("png", "tif", "tiff"))
    first = made.read_bytes()
    assert draw_points(path, look=look, dpi=50).read_bytes() == first
    assert sorted(p.suffix for p in tmp_path.iterdir()) == sorted({".npz", ".json", f".{suffix}"})


def test_refused_formats_and_unprojected_features(tmp_path):
    path = write_points(blobs(), tmp_path / "p.npz")
    with pytest.raises(BadInput, match="format 'xcf' cannot be written"):
        draw_points(path, look=Look(save_ext="xcf"))
    np.savez(tmp_path / "wide.npz", feats=np.zeros((5, 64)))
    with pytest.raises(BadInput, match=r"features of 64 numbers, not a map; first: loupe project"):
        draw_points(tmp_path / "wide.npz")
    np.savez(tmp_path / "five.npz", feats=np.random.default_rng(0).normal(size=(9, 5)))
    with pytest.warns(LoupeWarning, match="first 3 of 5"):
        draw_points(tmp_path / "five.npz", dpi=40)
    np.savez(tmp_path / "nan.npz", feats=np.full((5, 2), np.nan))
    with pytest.raises(BadInput, match="NaN"):
        draw_points(tmp_path / "nan.npz")
    with pytest.raises(BadInput, match="unknown to matplotlib.*Spectral"):
        draw_points(path, cmap="Spectrl")
    for bad in ({"fig_size": (0, 1)}, {"alpha": 2.0}, {"marker_size": -1.0}, {"legend": "side"}, {"color_as": "hue"}):
        with pytest.raises(BadInput, match="expected"):
            Look(**bad)


def test_a_saved_view_is_used_unless_one_is_given(tmp_path):
    path = write_points(blobs(dims=3), tmp_path / "p.npz")
    plain = draw_points(path, tmp_path / "a.png", dpi=40).read_bytes()
    (tmp_path / "p.view.json").write_text('{"elev": 80, "azim": 10, "zoom": 1}')
    assert draw_points(path, tmp_path / "b.png", dpi=40).read_bytes() != plain
    assert draw_points(path, tmp_path / "c.png", Look(view="25,-60"), dpi=40).read_bytes() == plain


def test_thumbnails_take_the_place_of_markers(tmp_path):
    points = blobs(3, 30)
    for i, name in enumerate(points.ids.tolist()):
        Image.new("RGB", (20, 12), [(255, 0, 0), (0, 255, 0), (0, 0, 255)][i // 30]).save(tmp_path / f"{name}.png")
    figure = scatter(points, Look(images=tmp_path, fig_size=(6, 6)), dpi=80)
    drawn = list(figure.axes[0].artists)
    assert 3 <= len(drawn) < 90
    image = pixels(figure)
    assert all(
        (np.abs(image - np.array(colour)).max(2) < 30).sum() > 50 for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    )
    assert find_pictures(points, tmp_path)[7] == tmp_path / "s7.png"
    (tmp_path / "other").mkdir()
    with pytest.raises(BadInput, match="holds no picture of the first sample 's0'"):
        find_pictures(points, tmp_path / "other")
    with pytest.raises(BadInput, match="no such folder"):
        find_pictures(points, tmp_path / "none")


def test_turntable_turns_once(tmp_path):
    points = blobs(dims=3)
    made = turntable(points, tmp_path / "t.gif", Look(fig_size=(2, 2)), dpi=40, frames=6, seconds=1.2)
    with Image.open(made) as film:
        assert film.n_frames == 6
        assert film.info["duration"] == 200
        frames = []
        for i in range(6):
            film.seek(i)
            frames.append(np.asarray(film.convert("RGB")).astype(int))
    assert all(np.abs(a - b).mean() > 0.5 for a, b in pairwise(frames))
    with pytest.raises(BadInput, match="3 dimensions"):
        turntable(blobs(), tmp_path / "t.gif", Look())


def test_side_by_side_draws_a_line_for_every_point_that_moved(tmp_path):
    first = blobs(3, 10)
    second = first.moved(first.feats + 0.5, {})
    figure = side_by_side(first, second, np.array([3, 17]), ("before", "after"), caption="CKA 0.9")
    assert len(figure.axes) == 2
    assert figure.axes[0].get_xlim() == pytest.approx(figure.axes[1].get_xlim())
    lines = [a for a in figure.artists if type(a).__name__ == "ConnectionPatch"]
    assert [tuple(line.xy1) for line in lines] == [tuple(first.feats[i]) for i in (3, 17)]
    assert [tuple(line.xy2) for line in lines] == [tuple(second.feats[i]) for i in (3, 17)]
    assert re.search("CKA", figure.texts[-1].get_text())
    assert save(figure, tmp_path / "x.png").stat().st_size > 1000


def test_fonts_of_other_scripts_stand_behind_the_users_own():
    from matplotlib import rcParams

    from torchloupe.render.ink import families

    found = families(["DejaVu Sans", "SimHei", "Noto Sans Arabic", "Noto Sans CJK JP"])
    assert found == [*rcParams["font.family"], "Noto Sans CJK JP", "SimHei", "Noto Sans Arabic"]


def test_a_glyph_that_the_first_font_lacks_is_taken_from_the_next(monkeypatch):
    from torchloupe.render import ink

    monkeypatch.setitem(ink.TEXT, "fontfamily", ["STIXSizeOneSym", "DejaVu Sans"])
    figure = ink.Plain(figsize=(2, 1), dpi=50)
    figure.suptitle("abc")
    figure.text(0.5, 0.5, "def")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


def test_no_two_of_many_colours_look_alike_and_none_is_the_grey_of_gaps():
    from skimage.color import rgb2lab

    from torchloupe.render.mapped import GREY, lab

    colours = class_colours(60)
    assert np.allclose(lab(colours), rgb2lab(colours[None])[0], atol=0.05)
    for count, least in ((20, 25), (60, 12), (100, 12)):
        places = rgb2lab(np.vstack([class_colours(count)[10:], class_colours(10), [GREY]])[None])[0]
        apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
        assert apart[: count - 10].min() > least
    assert np.array_equal(class_colours(17), colours[:17])


def test_classes_beside_the_wheel_are_the_largest_or_spread_evenly():
    def chosen(sizes):
        codes = np.repeat(np.arange(len(sizes)), sizes)
        return Classes("c", tuple(map(str, range(len(sizes)))), codes, class_colours(len(sizes))).named(20)

    numbers, how = chosen([5] * 120)
    assert len(set(numbers)) == 20
    assert (min(numbers), max(numbers)) == (0, 119)
    assert how == "20, evenly chosen,"
    numbers, how = chosen([*range(1, 121)])
    assert numbers == list(range(100, 120))
    assert how == "20 largest"
