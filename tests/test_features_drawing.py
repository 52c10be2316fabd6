"""What is drawn of one point, and the commands `features` and `diff` from end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from torchloupe import store
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.render.features import Look, Pair, Scale, as_picture, draw_difference, framed, shown, tile
from torchloupe.render.style import Style
from torchloupe.sources.recorders import points

RAW = np.random.default_rng(0).normal(size=(6, 1, 4, 5))


class Stages(nn.Module):
    """Two stages and a head; built by a factory, so that the command line can name it."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, width, 3, 4, 1)
        self.two = nn.Conv2d(width, 8, 3, 2, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))


def stages(width: int = 6, seed: int = 0) -> Stages:
    torch.manual_seed(seed)
    return Stages(width)


SPEC = f"torch:{__name__}:stages"


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    values = np.random.default_rng(1).integers(0, 255, (5, 40, 60, 3), dtype=np.uint8)
    paths = [tmp_path / f"p{i}.png" for i in range(5)]
    for path, one in zip(paths, values, strict=True):
        Image.fromarray(one).save(path)
    return [str(path) for path in paths]


def test_what_a_look_shows() -> None:
    assert np.allclose(shown(RAW, Look("pixel_wise_max")).maps[0], RAW.max(0), atol=1e-6)
    assert np.allclose(shown(RAW, Look("squeeze_mean")).maps[0], RAW.mean(0), atol=1e-6)
    best = RAW.sum((1, 2, 3)).argmax()
    assert shown(RAW, Look("select_max")).labels == (f"channel {best}",)
    order = (-RAW.sum((1, 2, 3))).argsort()[:3]
    top = shown(RAW, Look(topk=3, arrangement=(1, 3)))
    assert top.labels == tuple(f"channel {c}" for c in order)
    assert np.allclose(top.maps, RAW[order], atol=1e-6)
    assert len(shown(RAW, Look()).maps) == 6
    normed = shown(RAW, Look("squeeze_mean", use_norm=True)).maps[0]
    each = (RAW - RAW.mean((1, 2, 3), keepdims=True)) / (RAW.std((1, 2, 3), ddof=1, keepdims=True) + 1e-6)
    assert np.allclose(normed, each.mean(0), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_topk_minus_one_draws_a_picture(channels: int) -> None:
    what = shown(RAW[:channels], Look(topk=-1))
    assert what.picture
    image = as_picture(RAW[:channels, 0], Look(topk=-1))
    assert image.shape == (4, 5, 3)
    assert (image.min(), image.max()) == (0, 255)


def test_standardised_channels_are_chosen_by_the_sums_that_they_had() -> None:
    """After standardising every sum is 0 but for rounding, which would choose; channel 2 is the strongest, 0 the next."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(4, 1, 16, 16)).astype(np.float32) + np.array([2, 1, 5, 0], np.float32)[:, None, None, None]
    for norm in (False, True):
        for value in (raw, raw + rng.normal(scale=1e-4, size=raw.shape).astype(np.float32)):
            chosen = shown(value, Look("none", topk=3, arrangement=(1, 3), use_norm=norm))
            assert chosen.labels == ("channel 2", "channel 0", "channel 1")
            assert shown(value, Look("select_max", use_norm=norm)).labels == ("channel 2",)
            wanted = value[[2, 0, 1]].astype(float)
            if norm:
                mean, std = wanted.mean((1, 2, 3), keepdims=True), wanted.std((1, 2, 3), keepdims=True, ddof=1)
                wanted = (wanted - mean) / (std + 1e-6)
            np.testing.assert_allclose(chosen.maps, wanted, atol=1e-5)


def test_bad_looks_are_said_in_one_line() -> None:
    with pytest.raises(BadInput, match="has 6 channels, and topk -1 draws 1 or 3 channels"):
        shown(RAW, Look(topk=-1), "neck")
    with pytest.raises(BadInput, match="arrangement 2 2 has 4 places for topk 5 channels"):
        Look(topk=5, arrangement=(2, 2))
    Look("select_max", topk=5, arrangement=(2, 2))
    with pytest.raises(BadInput, match="topk 0"):
        Look(topk=0)
    with pytest.raises(BadInput, match="Did you mean pixel_wise_max"):
        Look("pixel_max")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="alpha 2"):
        Look(alpha=2)
    with pytest.raises(BadInput, match="vector of 6 channels without image axes"):
        shown(RAW[:, :, :1, :1], Look("squeeze_mean"), "head")
    with pytest.raises(BadInput, match="not finite"):
        shown(np.full((1, 1, 2, 2), np.nan), Look("squeeze_mean"), "head")


def test_a_tile_is_the_blend_of_picture_and_colours() -> None:
    import matplotlib

    values = np.array([[0.0, 1.0], [2.0, 4.0]])
    under = np.full((2, 2, 3), 200, np.uint8)
    image = tile(values, Scale.over(values), Look(alpha=0.25), Style(cmap="gray"), under)
    for (i, j), value in np.ndenumerate(values):
        colour = np.array(matplotlib.colormaps["gray"](value / 4)[:3]) * 255
        assert np.abs(image[i, j] - (0.75 * 200 + 0.25 * colour)).max() <= 1.5
    assert tile(values, Scale.over(values), Look(resize_shape=(6, 8)), Style(), under).shape == (6, 8, 3)
    assert tile(values, Scale.over(values), Look(), Style(), None).shape == (192, 192, 3)
    assert (tile(values * 0, Scale.over(values * 0), Look(), Style(cmap="gray"), None) == 0).all()


def test_pictures_of_another_shape_are_not_stretched() -> None:
    page = framed(np.zeros((10, 40, 3), np.uint8), 1.0)
    assert page.shape == (40, 40, 3)
    assert (page == 0).all(2).sum() == 400


def test_differences_share_one_scale() -> None:
    one, other = RAW, RAW + 1
    pairs = [Pair("near", one, other), Pair("far", one, RAW + 2)]
    drawn, figures = draw_difference(pairs, ("a", "b"), "absolute", None, Look("squeeze_mean"), Style(cmap="gray"), "x")
    assert figures["near"]["mean"] == pytest.approx(1)
    assert figures["far"]["max"] == pytest.approx(2)
    assert drawn.tiles["far"].mean() == pytest.approx(255, abs=1)
    assert drawn.tiles["near"].mean() == pytest.approx(255 / 2, abs=1)


def run(*words: str) -> int:
    return main([*words, "--dpi", "60"])


def test_features_command(pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    look = ("--channel-reduction", "pixel_wise_max", "--overlaid", "--use-norm")
    assert (
        run("features", pictures[0], pictures[1], "--model", SPEC, "--at", "one", "in:two", *look, "-o", str(out)) == 0
    )
    arrays, record = store.load(out / "p0-features.json")
    assert arrays["value/one"].shape == (6, 1, 56, 56)
    assert (arrays["value/in:two"] >= 0).all()
    assert np.allclose(arrays["value/in:two"], arrays["value/one"].clip(0))
    assert record["kind"] == "feature maps"
    assert record["statistics"]["in:two"]["zeros"] == pytest.approx((arrays["value/in:two"] == 0).mean())
    assert (out / "p1-features.png").is_file()
    lines = (out / "statistics.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("picture,point,mean,std")
    assert "effective_rank" in capsys.readouterr().out
    before = (out / "p0-features.png").read_bytes()
    (out / "p0-features.png").unlink()
    assert run("draw", str(out / "p0-features.npz")) == 0
    assert (out / "p0-features.png").read_bytes() == before


def test_topk_gives_a_grid_a_point_and_tiles(pictures: list[str], tmp_path: Path) -> None:
    words = ("--topk", "4", "--arrangement", "2", "2", "--tiles", "-o", str(tmp_path / "out"))
    assert run("features", pictures[0], "--model", SPEC, "--at", "one", "two", *words) == 0
    names = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert [name for name in names if "channel" not in name] == ["p0-features-one.png", "p0-features-two.png"]
    assert len(names) == 10


def test_recorder_configs(pictures: list[str], tmp_path: Path) -> None:
    python = tmp_path / "vis.py"
    python.write_text(
        "# Copyright\nrecorders = dict(\n    a=dict(_scope_='mmrazor', type='ModuleOutputs', source='one'),\n"
        "    f=dict(type='FunctionInputs', source='torch.Tensor.relu'),\n    w=dict(type='Parameter', source='one.weight'))\n"
        "mappings = dict(\n    p3=dict(recorder='a'), p4=dict(recorder='f', record_idx=1, data_idx=0), k=dict(recorder='w'))\n"
    )
    yaml = tmp_path / "vis.yaml"
    yaml.write_text(
        "recorders:\n  a: {type: ModuleOutputs, source: one}\n  f: {type: FunctionInputs, source: torch.Tensor.relu}\n"
        "  w: {type: Parameter, source: one.weight}\nmappings:\n  p3: {recorder: a}\n"
        "  p4: {recorder: f, record_idx: 1, data_idx: 0}\n  k: {recorder: w}\n"
    )
    for config in (python, yaml):
        out = tmp_path / config.suffix[1:]
        words = ("--vis-config", str(config), "--channel-reduction", "squeeze_mean", "-o", str(out))
        assert run("features", pictures[0], "--model", SPEC, *words) == 0
        arrays, record = store.load(out / "p0-features.npz")
        assert record["points"] == ["p3", "p4", "k"]
        assert arrays["value/p4"].shape == (8, 1, 28, 28)
        assert arrays["value/k"].shape == (18, 1, 3, 3)


def test_recorders_of_two_networks_match_by_order(pictures: list[str], tmp_path: Path) -> None:
    config = tmp_path / "diff.py"
    config.write_text(
        "recorders1 = dict(a=dict(type='ModuleOutputs', source='one'))\nmappings1 = dict(p3=dict(recorder='a'))\n"
        "recorders2 = dict(b=dict(type='ModuleOutputs', source='one'))\nmappings2 = dict(p3=dict(recorder='b'))\n"
    )
    two = ("--model", SPEC, "--model", f"{SPEC}?seed=1")
    assert run("diff", pictures[0], *two, "--vis-config", str(config), "-o", str(tmp_path / "out")) == 0
    arrays, record = store.load(tmp_path / "out" / "difference.npz")
    assert record["points"] == ["p3"]
    assert record["figures"]["p3"]["mean"] == pytest.approx(np.abs(arrays["a/p3"] - arrays["b/p3"]).mean(), rel=1e-5)


def test_two_networks_whose_channels_differ(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("--model", SPEC, "--model", f"{SPEC}?width=9", "--at", "one", "one=two")
    look = ("--channel-reduction", "squeeze_mean", "-o", str(tmp_path / "d.png"))
    assert run("diff", pictures[0], *two, *look) == 0
    said = capsys.readouterr().err
    assert "one: 6 and 9 channels: squeeze_mean of each" in said
    assert "one=two: 56x56 and 28x28 resized to 56x56" in said
    arrays, record = store.load(tmp_path / "d.npz")
    want = np.abs(arrays["a/one"].mean(0) - arrays["b/one"].mean(0)).mean()
    assert record["figures"]["one"]["mean"] == pytest.approx(float(want), rel=1e-4)


@pytest.mark.parametrize("how", ["relative", "cosine"])
def test_two_checkpoints_and_two_pictures(pictures: list[str], tmp_path: Path, how: str) -> None:
    files = [tmp_path / "before.pth", tmp_path / "after.pth"]
    for seed, file in enumerate(files):
        torch.save(stages(seed=seed).state_dict(), file)
    common = ("--model", SPEC, "--at", "one", "--difference", how)
    weights = ("--weights", str(files[0]), "--weights", str(files[1]))
    assert run("diff", pictures[0], *common, *weights, "-o", str(tmp_path / "w")) == 0
    record = store.load(tmp_path / "w" / "difference.npz").record
    assert record["names"] == ["before.pth", "after.pth"]
    assert record["figures"]["one"]["mean"] > 0
    assert run("diff", *pictures[:2], *common, "-o", str(tmp_path / "p")) == 0
    record = store.load(tmp_path / "p" / "difference.npz").record
    assert record["names"] == ["p0.png", "p1.png"]
    twin = tmp_path / "twin.png"
    twin.write_bytes(Path(pictures[0]).read_bytes())
    assert run("diff", pictures[0], str(twin), *common, "-o", str(tmp_path / "same")) == 0
    assert store.load(tmp_path / "same" / "difference.npz").record["figures"]["one"]["max"] == pytest.approx(
        0, abs=1e-6
    )


def test_cka_command(pictures: list[str], tmp_path: Path) -> None:
    words = ("--at", "one", "two", "head", "--cka", "-o", str(tmp_path / "out"))
    assert run("diff", *pictures, "--model", SPEC, "--model", f"{SPEC}?width=9", *words) == 0
    values = store.load(tmp_path / "out" / "cka.npz").arrays["cka"]
    assert values.shape == (3, 3)
    assert run("diff", *pictures, "--model", SPEC, *words) == 0
    values = store.load(tmp_path / "out" / "cka.npz").arrays["cka"]
    assert np.allclose(values.diagonal(), 1)
    assert np.allclose(values, values.T)
    assert run("draw", str(tmp_path / "out" / "cka.npz"), "--save", str(tmp_path / "again")) == 0
    assert (tmp_path / "again" / "cka.png").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("features", "--model", SPEC, "--at", "onne"), "no layer 'onne' in this model. Did you mean one"),
        (("features", "--model", SPEC, "--at", "head"), "vector of 3 channels without image axes"),
        (("features", "--model", SPEC, "--at", "one", "--topk", "-1"), "choose a --channel-reduction"),
        (("features", "--model", SPEC, "--at", "one", "--topk", "9", "--arrangement", "2", "2"), "has 4 places"),
        (("features", "--model", SPEC, "--vis-config", "none.py"), "none.py: no such file"),
        (("diff", "--model", SPEC, "--at", "one"), "expected two --model, or two --weights, or two pictures"),
        (("diff", "--model", SPEC, "--model", SPEC, "--at", "one="), "expected NAME, or NAME1=NAME2"),
        (("diff", "--model", SPEC, "--model", SPEC, "--at", "one", "--cka"), "at least 4 pictures"),
        (("diff", "--model", SPEC, "--model", SPEC, "--at", "one", "--difference", "sine"), "Did you mean cosine"),
        (("features", "--model", SPEC, "--at", "one", "-o", "a.bmp"), "no picture format '.bmp'"),
    ],
)
def test_bad_commands_end_with_one_line(
    pictures: list[str], capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    name, *rest = words
    goal = () if "-o" in words else ("-o", str(tmp_path / "out"))
    assert run(name, pictures[0], *rest, *goal) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loupe: error")]
    assert len(errors) == 1
    assert said in errors[0]


def test_config_files_are_read_and_not_run(
    tmp_path: Path, pictures: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "vis.py"
    config.write_text("import os\nrecorders = dict()\n")
    assert run("features", pictures[0], "--model", SPEC, "--vis-config", str(config)) == 2
    assert "line 1: expected NAME = dict(...)" in capsys.readouterr().err
    config.write_text(
        "recorders = dict(a=dict(type='ModuleOutput', source='one'))\nmappings = dict(p=dict(recorder='a'))\n"
    )
    assert run("features", pictures[0], "--model", SPEC, "--vis-config", str(config)) == 2
    assert "Did you mean ModuleOutputs" in capsys.readouterr().err


def test_records_are_plain_json(pictures: list[str], tmp_path: Path) -> None:
    assert run("features", pictures[0], "--model", SPEC, "--at", "one", "-o", str(tmp_path)) == 0
    record = json.loads((tmp_path / "p0-features.json").read_text())
    assert record["look"]["topk"] == 20
    assert math.isfinite(record["statistics"]["one"]["effective_rank"])


def test_stored_features_are_drawn_in_another_way(pictures: list[str], tmp_path: Path) -> None:
    look = ("--at", "one", "two", "--channel-reduction", "None", "--topk", "2", "--arrangement", "1", "2")
    assert run("features", pictures[0], "--model", SPEC, *look, "-o", str(tmp_path / "a")) == 0
    assert len(list((tmp_path / "a").glob("*.png"))) == 2
    change = ("--channel-reduction", "squeeze_mean", "--overlaid", "--use-norm", "--save", str(tmp_path / "b"))
    assert run("draw", str(tmp_path / "a" / "p0-features.npz"), *change) == 0
    want = ("--at", "one", "two", *change[:4], "-o", str(tmp_path / "c"))
    assert run("features", pictures[0], "--model", SPEC, *want) == 0
    assert (tmp_path / "b" / "p0-features.png").read_bytes() == (tmp_path / "c" / "p0-features.png").read_bytes()


def test_nothing_is_written_where_a_point_cannot_be_drawn(pictures: list[str], tmp_path: Path) -> None:
    words = ("--at", "one", "head", "--channel-reduction", "squeeze_mean", "-o", str(tmp_path / "out"))
    assert run("features", pictures[0], "--model", SPEC, *words) == 2
    assert not (tmp_path / "out").exists()


def test_both_sides_show_the_channel_that_differs_most() -> None:
    other = RAW.copy()
    other[4] += 3
    drawn, _ = draw_difference(
        [Pair("near", RAW, other)], ("a", "b"), "absolute", None, Look("select_max"), Style(cmap="gray"), "x"
    )
    first, second, _ = (axes.get_images()[0].get_array() for axes in drawn.figure.axes[:3])
    low, high = RAW[4].min(), other[4].max()
    want = (RAW[4, 0] - low) / (high - low) * 255
    assert np.abs(first[:: first.shape[0] // 4, :: first.shape[1] // 5, 0] - want).max() < 2
    assert second.max() == 255


def test_two_pictures_are_shown_above_their_difference(pictures: list[str], tmp_path: Path) -> None:
    words = ("--at", "one", "--channel-reduction", "squeeze_mean", "--overlaid", "-o", str(tmp_path))
    assert run("diff", *pictures[:2], "--model", SPEC, *words) == 0
    arrays = store.load(tmp_path / "difference.npz").arrays
    assert (arrays["picture"] != arrays["other"]).any()
    assert run("diff", pictures[0], "--model", SPEC, "--model", f"{SPEC}?seed=1", *words) == 0
    assert "other" not in store.load(tmp_path / "difference.npz").arrays


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recorders: {a: neck}\nmappings: {p: {recorder: a}}", "recorder 'a': expected a source and a type"),
        ("recorders: {a: {type: ModuleOutputs, source: n}}\nmappings: {p: {recorder: [a]}}", "no recorder ['a']"),
        (
            "recorders: {a: {type: ModuleOutputs, source: n}}\nmappings: {p: {recorder: a, record_idx: x}}",
            "record_idx 'x'",
        ),
        (
            "recorders: {a: {type: ModuleOutputs, source: n}}\nmappings: {p: {recorder: a, record_idx: -1}}",
            "record_idx -1",
        ),
        (
            "recorders: {a: {type: ModuleOutputs, source: n}}\nmappings: {p: {recorder: a, data_idx: {x: 1}}}",
            "data_idx",
        ),
        ("recorders: {a: {type: ModuleOutputs, source: n}}\nmappings: 3", "no 'mappings' in it"),
        ("a: [", "cannot be read as a recorder config"),
    ],
)
def test_bad_recorder_configs(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "vis.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        points(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_the_recorders_of_a_training_config(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(
        "_base_ = ['./other.py']\ndefault_hooks = dict(\n    checkpoint=dict(interval=-1),\n    visualization=dict(\n"
        "        type='RazorVisualizationHook',\n        recorders=dict(neck=dict(type='ModuleOutputs', "
        "source='architecture.neck')),\n        mappings=dict(p3=dict(recorder='neck', data_idx=0))))\n"
    )
    assert points(path) == {"p3": "neck#0@0"}
    path.write_text("recorders = {[]: 1}\n")
    with pytest.raises(BadInput, match="line 1: expected a literal"):
        points(path)


@pytest.mark.parametrize("command", ["features", "diff"])
def test_the_same_question_reads_the_disk(command: str, pictures: list[str], tmp_path: Path, monkeypatch) -> None:
    """Another look is drawn from what is there; another point, another picture, and --again are asked of the network."""
    from torchloupe.runs import features as work

    asked = []
    monkeypatch.setattr(work, "features", lambda *a, own=work.features, **k: asked.append(1) or own(*a, **k))
    models = ["--model", SPEC] if command == "features" else ["--model", SPEC, "--model", SPEC]
    each = 1 if command == "features" else 2
    words = [command, *pictures[:2], *models, "--channel-reduction", "squeeze_mean", "-o", str(tmp_path)]
    for more, wanted in (
        (["--at", "one"], 2),
        (["--at", "one"], 0),
        (["--at", "one", "--cmap", "jet", "--overlaid"], 0),
        (["--at", "one", "--again"], 2),
        (["--at", "two"], 2),
    ):
        asked.clear()
        assert run(*words, *more) == 0
        assert len(asked) == wanted * each, more
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record["look"]["overlaid"] is False
    name = Path(pictures[0])
    name.write_bytes(Path(pictures[2]).read_bytes())
    asked.clear()
    assert run(*words, "--at", "two", "--batch-size", "1") == 0
    assert len(asked) == each


def test_weak_differences_are_seen_on_a_scale_of_their_own() -> None:
    """Two points, the second a thousand times weaker: black on the figure's scale, its full range on its own."""
    rng = np.random.default_rng(0)
    strong, weak = rng.random((4, 1, 6, 6), np.float32), rng.random((4, 1, 6, 6), np.float32) / 1000
    pairs = [Pair("strong", strong, strong * 0), Pair("weak", weak, weak * 0)]
    brightest = {}
    for scale in ("figure", "layer"):
        drawn, _ = draw_difference(
            pairs, ("a", "b"), "absolute", None, Look("squeeze_mean"), Style(cmap="gray"), "x", None, scale
        )
        brightest[scale] = {name: int(tile.max()) for name, tile in drawn.tiles.items()}
    assert brightest["figure"]["strong"] == brightest["layer"]["strong"] == 255
    assert brightest["figure"]["weak"] < 2
    assert brightest["layer"]["weak"] == 255
