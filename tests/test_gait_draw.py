from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.text import Text
from PIL import Image

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.networks.gait.skeletons import COCO
from torchloupe.render import fonts, ink, plots
from torchloupe.render.sequences import (
    Painter,
    Style,
    chosen_frames,
    compare,
    draw,
    folders,
    limits_of,
    rows_of,
    safe,
    strip,
)
from torchloupe.render.video import write_video


def made(frames: int = 8, signed: bool = False, **changes: object) -> SequenceMaps:
    """A result with a map a frame, one every 3 frames, one for all, and strips; values are known."""
    rng = np.random.default_rng(0)
    imgs = rng.integers(0, 256, (frames, 16, 12)).astype(np.uint8)
    steps = frames // 3
    maps = {
        "each": rng.random((2, frames, 16, 12)).astype(np.float32),
        "every3": rng.random((2, steps, 8, 6)).astype(np.float32),
        "all.frames": rng.random((2, 1, 8, 6)).astype(np.float32),
        "strips": np.arange(8, dtype=np.float32).reshape(2, 1, 4, 1),
    }
    windows = {
        "each": np.array([(i, i + 1) for i in range(frames)]),
        "every3": np.array([(3 * i, 3 * i + 3) for i in range(steps)]),
        "all.frames": np.array([(0, frames)]),
        "strips": np.array([(0, frames)]),
    }
    if signed:
        maps = {layer: value - 0.7 for layer, value in maps.items()}
    known = {
        "name": "001-nm-05-090",
        "identity": "001",
        "condition": "nm-05",
        "view": "090",
        "model": "GaitSet",
        "method": "gradcam",
        "options": "{}",
        "target": "Nearest",
        "words": {"all.frames": "one map for all frames"},
        "questions": ("002-nm-01-090", "part 3"),
        "scores": (-1.0, -2.0),
        "answers": ("002-nm-01-090",),
        "imgs": imgs,
        "answer_imgs": imgs[:5],
    }
    return SequenceMaps(**{**known, "maps": maps, "windows": windows, "signed": signed, **changes})


def pixels(file) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_merge_writes_a_folder_for_each_layer_whatever_its_length(tmp_path):
    written = draw(made(), tmp_path, "merge")
    names = {str(file.relative_to(tmp_path)) for file in written}
    assert names == {
        *(f"each/{i:03d}.png" for i in range(8)),
        *(f"every3/{i:03d}.png" for i in range(2)),
        *(f"every3_input/{i:03d}.png" for i in range(2)),
        *(f"all-frames/{i:03d}.png" for i in range(8)),
        *(f"strips/{i:03d}.png" for i in range(8)),
    }
    assert all(pixels(file).shape == (16, 12, 3) for file in written)


def test_a_frame_is_the_blend_of_the_picture_and_its_colour(tmp_path):
    result = made()
    draw(result, tmp_path, "merge", Style(opacity=0.25, scale="frame"), question=1)
    for t in (0, 5):
        values = result.maps["each"][1, t].astype(float)
        values = (values - values.min()) / (values.max() - values.min())
        want = 0.75 * result.imgs[t][..., None] + 0.25 * (colormaps["jet"](values)[..., :3] * 255).round()
        assert abs(pixels(tmp_path / "each" / f"{t:03d}.png") - want).max() <= 1


def test_a_strided_layer_is_drawn_on_the_mean_of_exactly_its_frames(tmp_path):
    result = made()
    draw(result, tmp_path, "merge")
    for step in range(2):
        want = result.imgs[3 * step : 3 * step + 3].mean(0)
        assert abs(pixels(tmp_path / "every3_input" / f"{step:03d}.png")[..., 0] - want).max() <= 1
    painter = Painter(result, Style())
    assert painter.unseen("every3").tolist() == [False] * 6 + [True] * 2
    assert [painter.step_of("every3", t) for t in range(8)] == [0, 0, 0, 1, 1, 1, None, None]


@pytest.mark.parametrize("scale", ["sequence", "frame", "run"])
def test_scales_say_what_is_comparable(scale):
    result = made()
    other = made(maps={layer: 3 * value for layer, value in made().maps.items()})
    run = limits_of([result, other])
    scaled = Painter(result, Style(scale=scale), run=run)._scaled("each")
    raw = result.maps["each"][0].astype(float)
    tops = {"sequence": raw.max(), "frame": raw.max((1, 2), keepdims=True), "run": 3 * result.maps["each"].max()}
    lows = {"sequence": 0, "frame": raw.min((1, 2), keepdims=True), "run": 0}
    np.testing.assert_allclose(scaled, (raw - lows[scale]) / (tops[scale] - lows[scale]), rtol=1e-5)


def test_signed_maps_keep_zero_in_the_middle():
    scaled = Painter(made(signed=True), Style())._scaled("each")
    raw = made(signed=True).maps["each"][0]
    assert ((scaled > 0.5) == (raw > 0)).all()
    assert scaled.min() == pytest.approx(0)
    dark = made(maps={layer: 0 * value for layer, value in made().maps.items()})
    assert (Painter(dark, Style())._scaled("each") == 0).all()


def test_strips_keep_their_edges():
    result = made()
    picture = Painter(result, Style(opacity=1)).step("strips", 2)
    rows = (colormaps["jet"](np.arange(4) / 3)[:, :3] * 255).round()
    for i in range(4):
        assert abs(picture[4 * i : 4 * i + 4].astype(float) - rows[i]).max() <= 1


def test_compare_is_one_grid_of_frames_and_layers(tmp_path):
    result = made()
    small = pixels(draw(result, tmp_path / "a", "compare")[0])
    large = pixels(draw(result, tmp_path / "b", "compare", Style(ratio=3))[0])
    assert large.shape[0] > small.shape[0]
    bigger = pixels(draw(result, tmp_path / "c", "compare", Style(ratio=3, font=5))[0])
    assert bigger.shape[0] > large.shape[0]
    # the last two frames of the strided layer are crossed out in grey: the cells hold no colour
    painter = Painter(result, Style(ratio=3))
    cell = painter.size[0] + 4
    bottom = large[-2 * cell :].astype(int)
    column = bottom[:, 2 * (painter.size[1] + 4) : 3 * (painter.size[1] + 4)]
    tinted = (column.max(-1) - column.min(-1) > 30).any(0)
    assert not tinted.all()
    both = draw(result, tmp_path / "d", "both")
    assert tmp_path / "d" / "compare.png" in both
    assert len(both) == 29


@pytest.mark.parametrize(
    ("frames", "count", "want"),
    [
        ("auto", 60, list(range(60))),
        ("all", 5, [0, 1, 2, 3, 4]),
        ("3", 9, [0, 4, 8]),
        ("1", 9, [0]),
        ("99", 4, [0, 1, 2, 3]),
        ("every:4", 9, [0, 4, 8]),
        ("key", 8, [1, 5]),
    ],
)
def test_some_frames_are_compared(frames, count, want):
    maps = np.ones((2, count, 4, 3), np.float32)
    maps[0, 1::4] = 2  # two peaks of the first question
    result = made(count, maps={"each": maps}, windows={"each": np.array([[t, t + 1] for t in range(count)])}, words={})
    assert chosen_frames(Painter(result, Style(frames=frames))) == want


def test_a_long_walk_is_no_long_picture_and_says_how_many_frames_it_shows(tmp_path):
    result = made(600)
    shown = rows_of(Painter(result, Style()))
    assert (len(shown), shown[0], shown[-1]) == (24, 0, 599)
    assert compare(Painter(result, Style(ratio=1))).shape[0] < 2500
    with pytest.raises(BadInput, match=r"--frames all: 600 frames would be 4\d,\d{3} pixels high, at most 20,000; try"):
        draw(result, tmp_path, "compare", Style(ratio=4, frames="all"))
    assert not list(tmp_path.iterdir())


def test_a_grid_for_a_paper_has_its_text_as_text_and_a_bar_that_can_be_left_out(tmp_path):
    result = made()
    (svg,) = draw(result, tmp_path, "compare", Style(ratio=2, format="svg", frames="3"))
    text = svg.read_text()
    for word in ("input", "each", "every3", "most", "3 of 8 frames", "GaitSet"):
        assert word in text
    (pdf,) = draw(result, tmp_path, "compare", Style(ratio=2, format="pdf"))
    assert pdf.read_bytes().startswith(b"%PDF")
    (with_bar,) = draw(result, tmp_path, "compare", Style(ratio=2))
    (without,) = draw(result, tmp_path / "b", "compare", Style(ratio=2, bar=False))
    wide, narrow = pixels(with_bar), pixels(without)
    assert wide.shape[1] > narrow.shape[1]
    np.testing.assert_array_equal(wide[:, : narrow.shape[1]], narrow)
    reds, blues = (
        np.abs(wide[:, narrow.shape[1] :].astype(int) - tint).sum(-1).min(1) for tint in ((128, 0, 0), (0, 0, 128))
    )
    assert reds.argmin() < blues.argmin()  # the most at the top, nothing at the bottom


def test_what_fades_leaves_the_picture_where_the_map_is_0():
    result = made()
    maps = np.zeros((2, 8, 16, 12), np.float32)
    maps[0, :, 8:] = 1
    result = replace(result, maps={"each": maps}, windows={"each": result.windows["each"]})
    style = Style(opacity=0.5, fade=True)
    painter = Painter(result, style)
    cell, input_ = painter.step("each", 2).astype(int), painter.frame(2).astype(int)
    np.testing.assert_array_equal(cell[:7], input_[:7])
    red = np.round(np.array(colormaps["jet"](1.0)[:3]) * 255)
    assert abs(cell[-7:] - (input_[-7:] + red) / 2).max() <= 1


def test_folders_of_pictures_hold_the_frames_that_are_asked_for(tmp_path):
    result = made(9)  # "every3" has steps 0 1 2
    written = {str(file.relative_to(tmp_path)) for file in draw(result, tmp_path, "merge", Style(frames="every:4"))}
    assert written == {
        *(f"{layer}/{t:03d}.png" for layer in ("each", "all-frames", "strips") for t in (0, 4, 8)),
        *(f"every3{more}/{t:03d}.png" for more in ("", "_input") for t in (0, 1, 2)),
    }
    draw(result, tmp_path / "whole", "merge")
    for name in ("each/004.png", "every3/001.png", "strips/008.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # frame 8 lies in no window of three frames out of 8
    (one,) = draw(made(8).at(["every3"]), tmp_path / "one", "merge", Style(frames="1"))[::2]
    assert one.name == "000.png"


def test_videos_and_loupe_draw_take_frames_too(tmp_path):
    made(9).save(tmp_path / "walk.npz")
    assert main(["gait", "draw", str(tmp_path / "walk.npz"), "--video", "gif", "--frames", "every:3"]) == 0
    with Image.open(tmp_path / "walk" / "001-nm-05-090.gif") as picture:
        assert picture.n_frames == 3
    assert sorted(p.name for p in (tmp_path / "walk" / "each").iterdir()) == ["000.png", "003.png", "006.png"]
    assert main(["draw", str(tmp_path / "walk.npz"), "--save", str(tmp_path / "d"), "--frames", "2"]) == 0
    assert sorted(p.name for p in (tmp_path / "d" / "walk" / "each").iterdir()) == ["000.png", "008.png"]


def test_frames_of_what_is_no_walk_are_refused(tmp_path, capsys):
    store.save(tmp_path, "p", {"feats": np.zeros((3, 2)), "ids": np.array(list("abc"))}, {"kind": "points"})
    assert main(["draw", str(tmp_path / "p.npz"), "--frames", "2"]) == 2
    assert "--frames is for walks; these are points: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("frames", ["0", "every:0", "first", "-1", "every:x", "1.5", ""])
def test_frames_that_make_no_sense_are_said(frames):
    with pytest.raises(BadInput, match="expected auto, all, key, a number such as 12, or every:5"):
        Style(frames=frames)


def test_letters_are_drawn_by_a_font_that_has_them_or_by_their_number():
    assert fonts.shown("001-nm-05") == "001-nm-05"
    assert fonts.shown("Ωμέγα") == "Ωμέγα"
    assert fonts.font(12).getname() != fonts.font(12, "Ωμέγα").getname()
    unknown = "\U000e0fff"  # a code that no font has
    assert fonts.shown(f"a{unknown}b") == "aU+E0FFFb"
    heads = [compare(Painter(made(name=name), Style()))[:16, :60] for name in ("anna", "ωωωω")]
    assert not np.array_equal(*heads)


@pytest.mark.filterwarnings("error:Glyph")
def test_figures_write_letters_of_any_script_by_a_font_that_has_them_or_by_their_number(tmp_path, monkeypatch):
    """A font that has letters which the usual ones lack, and a letter that none has; in svg the text stays as it is."""
    unknown = "\U000e0fff"
    result = made(name=f"\u0627\u0644{unknown}-nm-01", words={})
    (svg,) = draw(result, tmp_path, "compare", Style(ratio=2, format="svg", frames="1"))
    assert f"\u0627\u0644{unknown}-nm-01: GaitSet" in svg.read_text()
    figures = []
    monkeypatch.setattr(plots, "vector", lambda figure, *more: figures.append(figure) or b"")
    draw(result, tmp_path, "compare", Style(ratio=2, format="pdf", frames="1"))
    figures[0].savefig(tmp_path / "one.pdf")
    texts = [text.get_text() for text in figures[0].findobj(Text)]
    assert "\u0627\u0644U+E0FFF-nm-01: GaitSet, gradcam" in texts
    assert plots.measure(unknown, 8) == plots.measure("U+E0FFF", 8) > 0
    # a family asked for first that lacks Arabic gets DejaVu Sans behind it, which has it
    monkeypatch.setitem(ink.TEXT, "fontfamily", ["cmr10"])
    ink.fonts_of.cache_clear()
    assert ink.fonts_of("\u0627")[0] == "cmr10"
    assert ink.written("\u0627") == "\u0627"
    assert ink.fonts_of("plain") == ("cmr10",)
    ink.fonts_of.cache_clear()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file"):
        write_video([np.zeros((4, 4, 3), np.uint8)] * 2, tmp_path / "file" / "x.gif")
    with pytest.raises(BadInput, match="file"):
        draw(made(), tmp_path / "file", "compare")
    with pytest.raises(BadInput, match="--format is about the grid"):
        draw(made(), tmp_path, "merge", Style(format="pdf"))


def test_skeletons_are_drawn_as_people_and_as_a_plane(tmp_path):
    rng = np.random.default_rng(0)
    poses = np.concatenate([100 * rng.random((6, 17, 2)), np.ones((6, 17, 1))], -1).astype(np.float32)
    result = made(
        6,
        poses=poses,
        imgs=np.zeros((0, 0, 0), np.uint8),
        joints=COCO.joints,
        limbs=np.array(COCO.edges),
        maps={"a": rng.random((2, 6, 17, 1)), "half": rng.random((2, 3, 17, 1)), "one": rng.random((2, 1, 1, 1))},
        windows={
            "a": np.array([(i, i + 1) for i in range(6)]),
            "half": np.array([(0, 2), (2, 4), (4, 6)]),
            "one": np.array([(0, 6)]),
        },
    )
    written = draw(result, tmp_path, "both", Style(ratio=1.5))
    names = {str(file.relative_to(tmp_path)) for file in written}
    assert {"a_joints.png", "half_joints.png", "one_joints.png", "compare.png", "half_input/002.png"} <= names
    assert pixels(tmp_path / "a" / "000.png").shape == (144, 108, 3)
    # the plane's colours are those of the joints' values
    painter = Painter(result, Style())
    plane = painter.plane("a")
    hottest = (colormaps["jet"](painter._scaled("a").max())[:3] * np.array(255)).round()
    assert (abs(plane.astype(float) - hottest).max(-1) <= 1).any()
    # people who stand far from the origin are in the picture as well
    moved = Painter(
        made(
            6,
            poses=poses + np.array([500, 300, 0]),
            imgs=result.imgs,
            joints=COCO.joints,
            limbs=result.limbs,
            maps=result.maps,
            windows=result.windows,
        ),
        Style(ratio=1.5),
    )
    np.testing.assert_array_equal(moved.frame(0), Painter(result, Style(ratio=1.5)).frame(0))


@pytest.mark.parametrize("suffix", ["gif", "mp4"])
def test_videos_have_every_frame_beside_the_answer(tmp_path, suffix):
    result = made()
    painter = Painter(result, Style(ratio=4))
    frames = [strip(painter, result.layers, t) for t in range(8)]
    assert frames[0].shape == frames[7].shape
    assert frames[0].shape[1] > 6 * painter.size[1]
    file = write_video(frames, tmp_path / f"walk.{suffix}", fps=10)
    if suffix == "gif":
        with Image.open(file) as picture:
            assert picture.n_frames == 8
            assert picture.info["duration"] == 100
    else:
        import imageio_ffmpeg

        reader = imageio_ffmpeg.read_frames(str(file))
        facts = next(reader)
        assert facts["fps"] == 10
        assert sum(1 for _ in reader) == 8
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opacity": 1.5}, "--heatmap-opacity 1.5: expected 0 to 1"),
        ({"ratio": 0}, "--resize-ratio 0: expected more than 0"),
        ({"font": -1}, "--font-scale -1: expected more than 0"),
        ({"scale": "all"}, "--scale 'all': expected one of sequence, frame, run"),
    ],
)
def test_styles_that_make_no_sense_are_said(change, message):
    with pytest.raises(BadInput, match=message):
        Style(**change)


def test_other_bad_options_are_said(tmp_path):
    with pytest.raises(BadInput, match="--draw-mode 'grid': expected one of merge, compare, both"):
        draw(made(), tmp_path, "grid")
    with pytest.raises(BadInput, match="--question 2: this result has 2, 0 to 1"):
        draw(made(), tmp_path, question=2)
    with pytest.raises(BadInput, match=r"expected \.gif or \.mp4"):
        write_video([np.zeros((4, 4, 3), np.uint8)], tmp_path / "x.avi")
    with pytest.raises(BadInput, match="--fps 0: expected more than 0"):
        write_video([np.zeros((4, 4, 3), np.uint8)], tmp_path / "x.gif", 0)
    with pytest.raises(BadInput, match=r"no layer 'eech' in 001-nm-05-090\. Did you mean each\? It has each, every3"):
        made().at(["eech"])
    assert made().at(["e*"]).layers == ("each", "every3")


def test_layer_names_become_folder_names():
    assert safe("set_block1.forward_block.0.conv") == "set_block1-forward_block-0-conv"
    assert safe("relu#1") == "relu-1"


def test_layers_of_one_name_without_their_dots_get_folders_of_their_own(tmp_path):
    """A second call beside a child, a dot beside a hyphen, another case, and the inputs of a layer beside a layer."""
    names = ("relu#1", "relu.1", "a.b", "a-b", "A.b", "each", "every3", "every3_input")
    plain = made()
    maps = {name: plain.maps["every3" if name == "every3" else "each"] + i for i, name in enumerate(names)}
    windows = {name: plain.windows["every3" if name == "every3" else "each"] for name in names}
    result = made(maps=maps, windows=windows, words={})
    written = draw(result, tmp_path)
    expected = 7 * result.frames + 2 * len(windows["every3"])
    assert len({str(file).casefold() for file in written}) == len(written) == expected
    assert (tmp_path / "each" / "000.png").is_file()
    assert folders(names) == folders(reversed(names))
    assert folders(("relu#1",)) == {"relu#1": "relu-1"}


def test_a_skeleton_video_has_the_answer_too_and_a_dark_map_says_so():
    rng = np.random.default_rng(0)
    poses = np.concatenate([100 * rng.random((12, 17, 2)), np.ones((12, 17, 1))], -1).astype(np.float32)
    known = {"imgs": np.zeros((0, 0, 0), np.uint8), "answer_imgs": np.zeros((0, 0, 0), np.uint8)}
    known |= {"poses": poses, "joints": COCO.joints, "limbs": np.array(COCO.edges)}
    known |= {"maps": {"a": np.zeros((2, 12, 17, 1))}, "windows": {"a": np.array([(i, i + 1) for i in range(12)])}}
    alone, paired = (Painter(made(12, **known, **more), Style()) for more in ({}, {"answer_poses": poses[3:7]}))
    assert strip(paired, ["a"], 0).shape[1] - strip(alone, ["a"], 0).shape[1] == 72 + 4
    np.testing.assert_array_equal(strip(paired, ["a"], 6)[-76:-4, -76:-4], strip(paired, ["a"], 10)[-76:-4, -76:-4])
    # of the same size in every frame, and long names are not cut off in the plane
    assert len({strip(paired, ["a"], t).shape for t in range(12)}) == 1
    named = made(12, **{**known, "maps": {"a" * 60: known["maps"]["a"]}, "windows": {"a" * 60: known["windows"]["a"]}})
    plane = Painter(named, Style()).plane("a" * 60)
    assert (plane[:, -4:] == 255).all()
    assert plane.shape[1] > Painter(made(12, **known), Style()).plane("a").shape[1]
