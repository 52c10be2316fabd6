"""Signals, sounds, videos and arrays from files: read as they lie, asked by the one runner, drawn as strips and frames."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import nn

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.render import colour
from torchloupe.render.pictures import Sheet, drawing
from torchloupe.render.style import Style
from torchloupe.sources.recordings import columns, heard
from torchloupe.sources.videos import frames
from torchloupe.store import load

TESTS = Path(__file__).parent
STEPS, FRAMES, SIDE = 60, 8, 16


def heart() -> nn.Module:
    """Two leads; the class's score is the mean of a convolution."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))


def clips() -> nn.Module:
    """Class 0 is how red a video is."""
    net = nn.Sequential(nn.Conv3d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
        net[0].weight[0, 0] = 1
        net[4].weight.copy_(torch.tensor([[1.0, 0], [0, 1]]))
        net[4].bias.zero_()
    return net


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    np.savez("signal.npz", x=np.zeros((1, 2, STEPS), np.float32))
    np.savez("clip.npz", x=np.zeros((1, 3, FRAMES, SIDE, SIDE), np.float32), layout="n c t h w")


HEART = ["--model", f"torch:{__name__}:heart", "--example", "signal.npz", "--device", "cpu"]
CLIPS = ["--model", f"torch:{__name__}:clips", "--example", "clip.npz", "--device", "cpu"]
PLAIN = ["--mean", "0", "0", "0", "--std", "1", "1", "1"]


def run(*words: str) -> int:
    return main([str(word) for word in words])


def refused(capsys: Any, *words: str) -> str:
    assert run(*words) != 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def signal(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, STEPS)).astype(np.float32)


def film(count: int = FRAMES, side: int = SIDE) -> np.ndarray:
    """A red place that wanders: in frame t at column t of the upper row."""
    made = np.zeros((count, side, side, 3), np.uint8)
    for t in range(count):
        made[t, :, :, 2] = 10 * t
        made[t, 2, t % side, 0] = 255
    return made


def test_a_signal_is_explained_as_its_formula_says(tmp_path: Path) -> None:
    x = signal()
    np.save("beat.npy", x)
    assert run("cam", "beat.npy", *HEART, "--layers", "0", "--target", "1", "--save", "out") == 0
    arrays, record = load(tmp_path / "out" / "beat")
    np.testing.assert_array_equal(arrays["signal"], x)
    net = heart()
    weight, bias, head = (value.detach().double().numpy() for value in (net[0].weight, net[0].bias, net[3].weight))
    wanted = np.zeros(STEPS // 2)
    for step in range(STEPS // 2):
        for channel in range(3):
            held = bias[channel]
            for lead in range(2):
                for tap in range(3):
                    at = 2 * step + tap - 1
                    held += weight[channel, lead, tap] * (x[lead, at] if 0 <= at < STEPS else 0.0)
            wanted[step] += head[1, channel] / (STEPS // 2) * held
    assert arrays["map/gradcam/0"].shape == (1, 1, STEPS // 2, 1)
    np.testing.assert_allclose(arrays["map/gradcam/0"][0, 0, :, 0], np.maximum(wanted, 0), rtol=2e-4, atol=1e-7)
    assert record["layers"]["0"]["pattern"] == "n c h"
    assert record["source_sha256"]


def test_a_network_of_signals_has_a_default_layer(capsys: Any) -> None:
    np.save("beat.npy", signal())
    assert run("cam", "beat.npy", *HEART, "--save", "out") == 0
    assert "layer: 0 (default)" in capsys.readouterr().err


def test_every_kind_of_file_gives_the_same_signal(tmp_path: Path) -> None:
    whole = np.round(signal() * 1000).clip(-32768, 32767).astype("<i2")
    with wave.open("s.wav", "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(500)
        file.writeframes(whole.T.tobytes())
    np.save("s.npy", (whole / 32768).astype(np.float32))
    np.savez("t.npz", signal=(whole / 32768).astype(np.float32)[None])
    rows = "\n".join(f"{a!r},{b!r}" for a, b in (whole / 32768).astype(np.float32).T.tolist())
    Path("s.csv").write_text("left,right\n" + rows + "\n")
    Path("many").mkdir()
    for name in ("s.wav", "s.npy", "t.npz", "s.csv"):
        Path(name).rename(Path("many") / name)
    assert run("cam", "many", *HEART, "--save", "out") == 0
    found = [load(path)[0] for path in sorted((tmp_path / "out").glob("*.npz"))]
    assert len(found) == 4
    for one in found[1:]:
        np.testing.assert_array_equal(one["signal"], found[0]["signal"])
        np.testing.assert_array_equal(one["map/gradcam/0"], found[0]["map/gradcam/0"])


@pytest.mark.parametrize(("width", "low", "high"), [(1, 0, 255), (2, -(2**15), 2**15 - 1), (3, -(2**23), 2**23 - 1)])
def test_whole_numbers_of_a_wav_lie_between_one_and_minus_one(width: int, low: int, high: int) -> None:
    values = [low, high, (low + high + 1) // 2, low]
    with wave.open("w.wav", "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(b"".join(value.to_bytes(width, "little", signed=width > 1) for value in values))
    found, rate = heard(Path("w.wav"))
    top = 1 - 2.0 / 2 ** (8 * width)
    assert rate == 8000
    np.testing.assert_allclose(found, [[-1, 0], [top, -1]], atol=1e-7)


def test_columns_are_channels() -> None:
    Path("a.csv").write_text("1,2\n3,4\n5,6\n")
    np.testing.assert_array_equal(columns(Path("a.csv")), [[1, 3, 5], [2, 4, 6]])


def test_a_video_is_the_same_as_its_frames_wherever_they_lie(tmp_path: Path) -> None:
    made = film()
    np.save("array.npy", made)
    for folder in ("one", "two"):
        Path("many", folder).mkdir(parents=True)
        for t, frame in enumerate(made):
            Image.fromarray(frame).save(Path("many", folder, f"{t}.png"))
    # 16 x 16 frames come through the usual preparation cropped; asked for at once, they differ in nothing
    words = ["--layers", "1", "--target", "0", *PLAIN]
    assert run("cam", "array.npy", "many", *CLIPS, *words, "--save", "out") == 0
    found = {path.stem: load(path) for path in (tmp_path / "out").glob("*.npz")}
    assert set(found) == {"array", "one", "two"}
    array, record = found["array"]
    assert array["picture"].shape == (FRAMES, SIDE, SIDE, 3)
    for name in ("one", "two"):
        for key, value in found[name][0].items():
            np.testing.assert_array_equal(value, array[key])
    # score: the mean of red; so is its Grad-CAM, place by place
    red = array["picture"][..., 0].astype(np.float64) / 255
    np.testing.assert_allclose(array["score"], [red.mean()], atol=1e-6)
    np.testing.assert_allclose(array["map/gradcam/1"][0], red / red.size, atol=1e-9)
    assert record["layers"]["1"]["pattern"] == "n c t h w"


def test_frames_are_spread_evenly_and_say_when_they_are_too_few(tmp_path: Path, capsys: Any) -> None:
    for count, wanted in ((22, [0, 3, 6, 9, 12, 15, 18, 21]), (4, [0, 0, 1, 1, 2, 2, 3, 3])):
        made = (
            np.zeros((count, SIDE, SIDE, 3), np.uint8) + (np.arange(count) * 10).astype(np.uint8)[:, None, None, None]
        )
        images = [Image.fromarray(frame) for frame in made]
        images[0].save(f"g{count}.gif", save_all=True, append_images=images[1:])
        assert run("cam", f"g{count}.gif", *CLIPS, "--layers", "1", *PLAIN, "--save", "out") == 0
        picture = load(tmp_path / "out" / f"g{count}")[0]["picture"]
        np.testing.assert_array_equal(picture[:, 3, 3, 0], np.array(wanted) * 10)
    assert "4 frames, of which the model is given 8: some twice" in capsys.readouterr().err


def test_an_mp4_is_read_and_written_frame_by_frame(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    writer = imageio_ffmpeg.write_frames("v.mp4", (32, 32), fps=5, macro_block_size=1)
    writer.send(None)
    for t in range(10):
        writer.send(np.full((32, 32, 3), 20 * t, np.uint8).tobytes())
    writer.close()
    every = frames(Path("v.mp4"))
    assert len(every) == 10
    assert all(abs(float(frame.mean()) - 20 * t) < 8 for t, frame in enumerate(every))
    some = frames(Path("v.mp4"), pick=lambda count: [0, count - 1, 3])
    assert [np.array_equal(one, every[at]) for one, at in zip(some, (0, 9, 3), strict=True)] == [True] * 3
    words = ["--layers", "1", "--target", "0", "1", "--compare", "--save", "out/all.mp4"]
    assert run("cam", "v.mp4", *CLIPS, *words) == 0
    assert len(frames(tmp_path / "out" / "all.mp4")) == FRAMES


def test_moving_pictures_show_every_frame_in_its_turn(tmp_path: Path) -> None:
    np.save("array.npy", film())
    words = ["--layers", "1", "--target", "0", *PLAIN, "--scale", "sequence", "--opacity", "1", "--resize", "1"]
    assert run("cam", "array.npy", *CLIPS, *words, "--video", "gif", "--save", "out") == 0
    (file,) = (tmp_path / "out").glob("*.gif")
    red = load(tmp_path / "out" / "array")[0]["map/gradcam/1"][0]
    with Image.open(file) as moving:
        shown = [np.asarray(one.convert("RGB")).astype(int) for one in ImageSequence.Iterator(moving)]
    assert len(shown) == FRAMES
    for t, frame in enumerate(shown):
        bright = frame.sum(-1)
        assert np.unravel_index(bright.argmax(), bright.shape) == np.unravel_index(red[t].argmax(), red[t].shape)
    assert run("draw", "out/array.npz", "--video", "gif", "--fps", "3", "--compare", "--save", "again.gif") == 0
    with Image.open("again.gif") as moving:
        assert moving.n_frames == FRAMES
        assert moving.info["duration"] == 330


def test_the_strip_under_a_signal_has_the_colours_of_its_map(tmp_path: Path) -> None:
    steps = 40
    maps = np.zeros((2, 1, 20, 1), np.float32)
    maps[0, 0, 5, 0], maps[1, 0, 12, 0] = 2.0, 3.0
    arrays = {
        "picture": np.full((1, steps, 1, 3), 255, np.uint8),
        "score": np.zeros(2, np.float32),
        "map/gradcam/a": maps,
        "signal": np.stack([np.arange(steps), -np.arange(steps)]).astype(np.float32),
    }
    record = {
        "kind": "maps",
        "id": "s",
        "questions": ["first", "second"],
        "scores": [0.5, 1.5],
        "methods": {"gradcam": {}},
    }
    sheet = Sheet.read(arrays, record, "s")
    made = drawing([sheet], Style(compare=True))
    figure = made.figure()
    table = colour.palette("auto")
    strips = [
        axes.images[0].get_array() for axes in figure.axes if axes.images and axes.images[0].get_array().shape[0] == 1
    ]
    assert [strip.shape for strip in strips] == [(1, steps, 3)] * 2
    for strip, k in zip(strips, range(2), strict=True):
        for step in range(steps):
            # pixel centres: two steps an entry, linear between
            at = min(max((step + 0.5) / 2 - 0.5, 0), 19)
            low = int(at)
            value = maps[k, 0, low, 0] * (1 - (at - low)) + maps[k, 0, min(low + 1, 19), 0] * (at - low)
            share = value / maps[k].max()
            wanted = [np.interp(share, np.linspace(0, 1, 256), table[:, c]) for c in range(3)]
            np.testing.assert_allclose(strip[0, step], wanted, atol=1e-9)
    lines = [line for axes in figure.axes for line in axes.lines]
    np.testing.assert_array_equal([line.get_ydata() for line in lines], arrays["signal"])
    assert [file.suffix for file in made.save(tmp_path / "s.pdf")] == [".pdf"]
    single = drawing([sheet], Style()).save(tmp_path / "each")
    assert len(single) == 2
    with pytest.raises(loupe.BadInput, match="--opacity: s is a signal"):
        drawing([sheet], Style(opacity=0.3))


def test_a_spectrogram_model_hears_sounds_of_its_own_rate(capsys: Any) -> None:
    pytest.importorskip("transformers")
    small = (
        "hidden_size=48&num_hidden_layers=2&num_attention_heads=3&intermediate_size=96&max_length=128&num_mel_bins=64"
    )
    model = ["--model", f"transformers:audio-spectrogram-transformer?{small}", "--device", "cpu"]
    tone = (np.sin(np.arange(16000) / 7) * 20000).astype("<i2")
    for name, rate in (("right.wav", 16000), ("wrong.wav", 8000)):
        with wave.open(name, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(tone.tobytes())
    assert run("cam", "right.wav", *model, "--save", "out") == 0
    record = json.loads(Path("out/right.json").read_text())
    (layer,) = record["layers"].values()
    # 16 x 16 patches every 10 of 128 times and 64 frequencies; its tokens run through the frequencies first
    assert (layer["pattern"], layer["size"]) == ("n (w h) c", [1, 12, 5])
    assert "wrong.wav: 8000 steps a second; this model hears 16000" in refused(
        capsys, "cam", "wrong.wav", *model, "--save", "out"
    )


def test_what_is_no_sample_is_refused_in_one_line(capsys: Any) -> None:
    np.save("three.npy", np.zeros((3, STEPS), np.float32))
    np.save("words.npy", np.zeros((FRAMES, SIDE, SIDE, 2), np.uint8))
    Image.fromarray(film()[0]).save("still.png")
    Path("broken.wav").write_bytes(b"RIFF....WAVEfmt nothing")
    Path("empty.csv").write_text("")
    Path("text.csv").write_text("a,b\n1,x\n")
    Path("broken.mp4").write_bytes(b"no video at all" * 9)
    for words, told in (
        (
            ["three.npy", *HEART],
            "three.npy: (1, 3, 60) as 'n c h'; expected one sample of this model's input, 'n c h' with 2",
        ),
        (["still.png", *HEART], "still.png: this model takes signals (n c h, such as (1, 2, 60)): .wav, .csv, .npy"),
        (["broken.wav", *HEART], "broken.wav: cannot be read as a .wav file of whole numbers (PCM)"),
        (["empty.csv", *HEART], "empty.csv: the file is empty"),
        (["text.csv", *HEART], "text.csv: cannot be read as numbers with commas"),
        (["still.png", *CLIPS], "1 frame; this model takes videos of 8"),
        (["words.npy", *CLIPS], "words.npy: (8, 16, 16, 2) uint8; expected frames (t, h, w, 3)"),
        (["broken.mp4", *CLIPS], "broken.mp4: cannot be read as a video"),
    ):
        assert told in refused(capsys, "cam", *words, "--save", "bad"), told
    picture = ["--model", "torch:tiny:colours", "--size", "64", "--device", "cpu"]
    np.save("s.npy", signal())
    assert "s.npy: no picture, and this model takes pictures" in refused(
        capsys, "cam", "s.npy", *picture, "--save", "bad"
    )
    assert "--video gif: still is one picture" in refused(
        capsys, "cam", "still.png", *picture, "--video", "gif", "--save", "worse"
    )
    assert "a signal does not have" in refused(capsys, "cam", "s.npy", *HEART, "--aug-smooth", "--save", "b")
