"""Overlays, grids and their files, from fixed arrays; `loupe draw` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchloupe
from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.outputs import Maps, Scores
from torchloupe.probe import Batch
from torchloupe.render import colour, plots
from torchloupe.render.pictures import Drawing, Sheet, draw, drawing, heading, overlay
from torchloupe.render.style import Style, style

QUESTIONS = ("Greater Swiss Mountain dog", "tabby, tabby cat")


def sheet(
    methods: tuple[str, ...] = ("gradcam", "occlusion"),
    layers: tuple[str, ...] = ("layer3", "layer4"),
    frames: int = 1,
    questions: tuple[str, ...] = QUESTIONS,
    name: str = "pets",
) -> Sheet:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (frames, 24, 32, 3), dtype=np.uint8)
    maps = {
        (m, layer): (rng.random((len(questions), frames, 4 + 2 * j, 5)) - 0.5 * (m == "occlusion")).astype(np.float32)
        for m in methods
        for j, layer in enumerate(layers)
    }
    scores = tuple(0.93 - 0.5 * k for k in range(len(questions)))
    return Sheet(name, picture, maps, frozenset({"occlusion"} & set(methods)), questions, scores)


def one(**more: object) -> Sheet:
    return replace(sheet(("gradcam",), ("layer4",), questions=("cat",)), **more)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"opacity": 1.5}, "opacity 1.5: expected"),
        ({"dpi": 0}, "dpi 0: expected"),
        ({"format": "bmp"}, "format 'bmp': expected png"),
        ({"scale": "maps"}, "scale 'maps': expected .* Did you mean map"),
        ({"fuse": "sum"}, "fuse 'sum': expected mean or max"),
        ({"resize": "big"}, r"resize 'big': expected a factor up to 100, such as 2, or WIDTHxHEIGHT"),
        ({"resize": "0*5"}, "resize '0.5': expected sides"),
        ({"resize": "-1"}, "resize '-1': expected a factor"),
        ({"opactiy": 1}, "no drawing option 'opactiy'. Did you mean opacity"),
    ],
)
def test_bad_options(option: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        style(**option)


def test_bad_colour_map_before_anything_is_drawn() -> None:
    with pytest.raises(BadInput, match="no colour map 'jett'"):
        drawing([one()], Style(cmap="jett"))


@pytest.mark.parametrize(
    ("resize", "size"), [(None, (24, 32)), ("2", (48, 64)), (0.5, (12, 16)), ((30, 20), (20, 30)), ("30x20", (20, 30))]
)
def test_resize(resize: object, size: tuple[int, int]) -> None:
    assert drawing([one()], style(resize=resize)).image.size == size[::-1]


def test_overlay_is_the_blend_of_the_resized_map() -> None:
    held = one()
    raw = held.maps["gradcam", "layer4"][0, 0].astype(np.float64)
    fine = torchloupe.resize(torch.from_numpy(raw)[None, None, None], (1, 24, 32))[0, 0, 0].numpy() / raw.max()
    table = colour.palette("jet")
    want = colour.blend(held.picture[0], fine, table, signed=False, opacity=0.3, fade=False)
    found = np.asarray(drawing([held], Style(cmap="jet", opacity=0.3)).image)
    assert np.abs(found.astype(int) - want.astype(int)).max() <= 1


def test_golden_overlay() -> None:
    """By hand: inferno starts at (0, 0, 3.53) and ends at (252, 254.6, 164.5) of 255."""
    picture = np.full((1, 2, 3), 100, np.uint8)
    found = overlay(picture, np.array([[0.0, 1.0]]), Style(opacity=0.5))
    np.testing.assert_array_equal(found, [[[50, 50, 52], [176, 177, 132]]])
    plain = overlay(picture, np.array([[0.0, 1.0]]), Style(opacity=0.5, fade=True))
    np.testing.assert_array_equal(plain, [[[100, 100, 100], [176, 177, 132]]])


def test_signed_maps_show_a_pale_grey_picture_where_they_are_zero() -> None:
    """By hand: 0.55 * 255 + 0.45 * 100 = 185; with opacity 0 the picture is left alone."""
    picture = np.full((1, 3, 3), 100, np.uint8)
    found = overlay(picture, np.array([[-1.0, 0.0, 1.0]]), Style(), signed=True)
    np.testing.assert_array_equal(found[0, 1], [185, 185, 185])
    bare = overlay(picture, np.array([[-1.0, 0.0, 1.0]]), Style(opacity=0.0), signed=True)
    np.testing.assert_array_equal(bare, picture)
    assert found[0, 0, 2] > found[0, 0, 0]
    assert found[0, 2, 0] > found[0, 2, 2]


@pytest.mark.parametrize("how", ["map", "sequence", "run"])
def test_scales(how: str) -> None:
    values = np.ones((1, 2, 1, 1)) * np.array([1.0, 4.0])[None, :, None, None]
    first = one(picture=np.zeros((2, 4, 4, 3), np.uint8), maps={("gradcam", "layer4"): values})
    second = replace(first, maps={("gradcam", "layer4"): values * 2}, id="other")
    found = [tile.values[0, 0] for tile in drawing([first, second], Style(scale=how)).tiles]
    want = {"map": [1, 1, 1, 1], "sequence": [0.25, 1, 0.25, 1], "run": [0.125, 0.5, 0.25, 1]}[how]
    np.testing.assert_allclose(found, want)


def test_tiny_maps_look_like_large_ones() -> None:
    held = one()
    tiny = replace(held, maps={key: maps.astype(np.float64) * 1e-200 for key, maps in held.maps.items()})
    np.testing.assert_array_equal(*(np.asarray(drawing([s], Style()).image) for s in (held, tiny)))


def test_empty_maps_leave_the_picture_and_say_so() -> None:
    picture = np.full((1, 120, 120, 3), 77, np.uint8)
    held = one(picture=picture, maps={("gradcam", "layer4"): np.zeros((1, 1, 3, 3))})
    image = np.asarray(drawing([held], Style()).image)
    assert (image[:80] == 77).all()
    assert (image[80:] != 77).any()
    assert "empty map" in texts(drawing([held], Style(compare=True)).figure())


def texts(figure: object) -> list[str]:
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]  # type: ignore[attr-defined]


def test_fusing() -> None:
    coarse, fine = np.array([[[[2.0]]]]), np.array([[[[1.0, 4.0]]]])
    held = one(maps={("gradcam", "a"): coarse, ("gradcam", "b"): fine})
    mean, most = held.fused("mean"), held.fused("max")
    np.testing.assert_allclose(mean.maps["gradcam", "mean(a, b)"], [[[[0.625, 1]]]])
    np.testing.assert_allclose(most.maps["gradcam", "max(a, b)"], [[[[1, 1]]]])
    signed = replace(held, signed=frozenset({"gradcam"}), maps={**held.maps, ("gradcam", "a"): -coarse}).fused("max")
    np.testing.assert_allclose(signed.maps["gradcam", "max(a, b)"], [[[[-1, -1]]]])
    assert one().fused("mean").layers == ("layer4",)
    assert "mean(a, b)" in texts(drawing([held], Style(fuse="mean", compare=True)).figure())


@pytest.mark.parametrize(
    "methods", [("gradcam",), ("gradcam", "occlusion"), ("gradcam", "layercam", "occlusion", "cam")]
)
@pytest.mark.parametrize("layers", [("layer4",), ("backbone.layers.3.blocks.1.norm1.of.a.very.deep.network", "layer4")])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("shape", [(24, 32), (64, 16), (16, 64)])
def test_no_text_overlaps_or_leaves_the_page(
    methods: tuple[str, ...], layers: tuple[str, ...], frames: int, shape: tuple[int, int]
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    questions = ("Greater Swiss Mountain dog", "a $strange$ name " * 12)
    held = replace(sheet(methods, layers, frames, questions), picture=np.zeros((frames, *shape, 3), np.uint8))
    figure = drawing([held], Style(compare=True)).figure()
    canvas = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    import matplotlib.text

    found = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in found]
    page = figure.bbox
    for i, (text, box) in enumerate(zip(found, boxes, strict=True)):
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the page"
        for other, rival in zip(found[:i], boxes[:i], strict=True):
            across = min(box.x1, rival.x1) - max(box.x0, rival.x0)
            down = min(box.y1, rival.y1) - max(box.y0, rival.y0)
            assert across <= 1 or down <= 1, f"{text.get_text()!r} overlaps {other.get_text()!r}"
        for axes in figure.axes:
            if text.axes is None:
                area = axes.get_window_extent(renderer)
                across = min(box.x1, area.x1) - max(box.x0, area.x0)
                down = min(box.y1, area.y1) - max(box.y0, area.y0)
                assert across <= 1 or down <= 1, f"{text.get_text()!r} lies on a picture"


def test_the_grid_says_what_it_shows() -> None:
    said = texts(drawing([sheet()], Style(compare=True)).figure())
    for words in ("input", "Grad-CAM", "Occlusion", "layer3", "layer4", "tabby, tabby cat, 0.43", "max", "−max"):
        assert words in said
    assert not {"max", "−max"} & set(texts(drawing([sheet()], Style(compare=True, colorbar=False)).figure()))


def test_a_method_without_a_layer_leaves_a_blank() -> None:
    held = sheet()
    some = replace(held, maps={key: maps for key, maps in held.maps.items() if key != ("occlusion", "layer3")})
    full, less = (drawing([s], Style(compare=True, colorbar=False)).figure() for s in (held, some))
    assert len(full.axes) - len(less.axes) == 2


def test_small_pictures_are_enlarged_in_grids() -> None:
    figure = drawing([one()], Style(compare=True)).figure()
    assert figure.axes[0].get_images()[0].get_size() == (144, 192)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "pdf", "svg"])
@pytest.mark.parametrize("options", [{}, {"compare": True}, {"colorbar": True}])
def test_files_of_every_kind(tmp_path: Path, kind: str, options: dict) -> None:
    made = drawing([one()], Style(dpi=60, **options)).save(tmp_path / f"a.{kind}")
    assert made == [tmp_path / f"a.{kind}"]
    assert list(tmp_path.iterdir()) == made
    start = made[0].read_bytes()[:400]
    if kind == "pdf":
        assert start.startswith(b"%PDF")
    elif kind == "svg":
        words = made[0].read_text()
        assert "<svg" in words
        assert ("cat, 0.93</text>" in words) == bool(options)
    else:
        with Image.open(made[0]) as image:
            assert image.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[kind]
            assert options or image.size == (32, 24)
            assert kind != "png" or "scaled by the maximum of each map" in image.text["Description"]


def test_same_drawing_same_bytes(tmp_path: Path) -> None:
    for kind in ("png", "pdf", "svg"):
        first, second = (drawing([one()], Style(compare=True, dpi=50)).save(tmp_path / f"{n}.{kind}")[0] for n in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_names_of_several_pictures(tmp_path: Path) -> None:
    made = drawing([sheet()], Style()).save(tmp_path / "out.png")
    assert len(made) == 8
    assert tmp_path / "out-gradcam-layer4-Greater_Swiss_Mountain_dog.png" in made
    assert tmp_path / "out-occlusion-layer3-tabby.png" in made
    made = drawing([one(), one()], Style(format="jpg")).save(tmp_path / "folder")
    assert [path.name for path in made] == ["pets-0-gradcam-layer4-cat.jpg", "pets-1-gradcam-layer4-cat.jpg"]
    twins = sheet(("gradcam",), ("layer4",), questions=("crane, bird", "crane, machine"))
    assert len(set(drawing([twins], Style()).save(tmp_path / "twins.png"))) == 2


def test_sequences_are_numbered_and_drawn_as_a_strip(tmp_path: Path) -> None:
    held = sheet(("gradcam",), ("layer4",), frames=12, questions=("001",))
    made = drawing([held], Style()).save(tmp_path / "walk.png")
    assert [path.name for path in made[:2]] == ["walk-gradcam-layer4-001-00.png", "walk-gradcam-layer4-001-01.png"]
    assert len(made) == 12
    figure = drawing([held], Style(compare=True, colorbar=False)).figure()
    assert len(figure.axes) == 20
    pooled = replace(held, maps={key: maps[:, :1] for key, maps in held.maps.items()})
    assert len(drawing([pooled], Style()).tiles) == 12


@pytest.mark.parametrize("name", ["a.bmp", "a.gif"])
def test_unknown_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"no picture format .* expected png, jpg, webp, pdf, svg"):
        drawing([one()], Style()).save(tmp_path / name)


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(BadInput, match="f: cannot be made a folder for results"):
        drawing([one()], Style()).save(tmp_path / "f" / "a.png")


def test_draw_from_maps_and_batch() -> None:
    scores = Scores(torch.tensor([[0.5, 2.0]]), (("cat", "dog"),))
    maps = Maps({"layer4": torch.rand(1, 2, 1, 3, 3)}, scores)
    batch = Batch(torch.rand(2, 3, 16, 16), ids=("a", "b"))
    drawn = draw({"gradcam": maps}, batch, compare=True, dpi=50)
    assert isinstance(drawn, Drawing)
    assert "dog, 2.00" in texts(drawn.figure(1))
    assert drawn._repr_png_().startswith(b"\x89PNG")
    assert draw(maps, batch.take([1])).sheets[0].methods == ("map",)


@pytest.mark.parametrize(
    ("score", "words"), [(0.934, "cat, 0.93"), (0.0, "cat, 0.00"), (-3e-7, "cat, -3e-07"), (float("nan"), "cat")]
)
def test_headings(score: float, words: str) -> None:
    assert heading(one(scores=(score,)), 0) == words


def test_wrapping_stays_in_its_lines() -> None:
    for text in ("Greater Swiss Mountain dog, 0.93", "backbone.layers.3.blocks.1.norm1", "x" * 80, "", "a"):
        for width in (0.3, 0.7, 2.0):
            lines = plots.wrap(text, width, 8, 2)
            assert len(lines) <= 2
            assert all(plots.measure(line, 8) <= width for line in lines)
    assert plots.wrap("Greater Swiss Mountain dog, 0.93", 1.4, 8, 2) == ["Greater Swiss Mountain", "dog, 0.93"]


def artifact(tmp_path: Path, name: str = "pets") -> Path:
    held = sheet()
    arrays = {"picture": held.picture, "score": np.array(held.scores)}
    arrays |= {f"map/{m}/{layer}": maps for (m, layer), maps in held.maps.items()}
    methods = {m: {"signed": m in held.signed} for m in held.methods}
    record = {"kind": "maps", "id": name, "methods": methods, "questions": held.questions, "scores": held.scores}
    return store.save(tmp_path, name, arrays, record)


def test_loupe_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = artifact(tmp_path)
    assert (
        main(["draw", str(path), "--method", "gradcam", "--layers", "layer4", "--target", "tabby", "--cmap", "jet"])
        == 0
    )
    made = Path(capsys.readouterr().out.strip())
    assert made == tmp_path / "pets-gradcam-layer4-tabby.png"
    held = Sheet.read(*store.load(path)).only(["gradcam"], ["layer4"], ["tabby"])
    np.testing.assert_array_equal(np.asarray(Image.open(made)), np.asarray(drawing([held], Style(cmap="jet")).image))
    assert (
        main(["draw", str(tmp_path), "--compare", "--dpi", "60", "--format", "svg", "--save", str(tmp_path / "o")]) == 0
    )
    assert (tmp_path / "o" / "pets-grid.svg").is_file()
    assert main(["draw", str(tmp_path / "*.npz"), "--fuse", "max", "--scale", "run", "--no-colorbar"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "nothing: no such result"),
        (["{p}", "--cmap", "infernoo"], "no colour map 'infernoo'. Did you mean inferno"),
        (["{p}", "--layers", "layer5"], "no layer 'layer5' in it. Did you mean layer"),
        (["{p}", "--method", "gradcamm"], "no method 'gradcamm' in it. Did you mean gradcam"),
        (["{p}", "--target", "dogs"], "no target 'dogs' in it"),
        (["{p}", "--opacity", "2"], "opacity 2.0: expected"),
        (["{p}", "--save", "x.bmp"], "no picture format '.bmp'"),
        (["{p}", "--save", "{p}/x.png"], "pets.json is a file; give a folder"),
        (["{d}/empty"], "no result (.npz) in this folder"),
        (["{d}/*.foo"], "no result fits this pattern"),
        (["{d}/odd.json"], "no way to draw a result of kind 'odd'; known: "),
        (["{d}/bare.npz"], "no 'kind' in its record"),
        (["{d}/hollow"], "no heatmaps in it"),
        (["{p}", "--scale", "maps"], "scale"),
    ],
)
def test_loupe_draw_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    path = artifact(tmp_path)
    (tmp_path / "empty").mkdir()
    store.save(tmp_path, "odd", {}, {"kind": "odd"})
    store.save(tmp_path, "hollow", {"a": np.zeros(1)}, {"kind": "maps"})
    np.savez(tmp_path / "bare.npz", a=np.zeros(1))
    before = sorted(tmp_path.rglob("*"))
    assert main(["draw", *(part.format(p=path, d=tmp_path) for part in arguments)]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"picture": np.zeros((4, 4), np.uint8)}, "expected .t, h, w, 3. uint8"),
        ({"map/gradcam/layer3": np.zeros((3, 1, 2, 2))}, "does not fit 2 questions"),
        ({"map/gradcam/layer3": np.full((2, 1, 2, 2), np.inf)}, "is not finite"),
    ],
)
def test_odd_results(tmp_path: Path, change: dict, words: str) -> None:
    arrays, record = store.load(artifact(tmp_path))
    with pytest.raises(BadInput, match=words):
        Sheet.read({**arrays, **change}, record)


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from torchloupe.cli import main; "
        f"status = main(['draw', {str(artifact(tmp_path))!r}, '--compare', '--dpi', '50']); "
        "print('torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", "0"]
