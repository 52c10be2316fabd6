from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from torchloupe.errors import BadInput, BadSample, LoupeWarning, MissingPackage, UnsafeFile
from torchloupe.sources.sequences import centred, digest, read_pickle, sequences


def leaf(root: Path, name: str, **files: object) -> Path:
    folder = root.joinpath(*name.split("/"))
    folder.mkdir(parents=True)
    for stem, value in files.items():
        (folder / f"{stem}.pkl").write_bytes(pickle.dumps(value))
    return folder


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["uint8", "float64", "<i4", "bool"])
def test_arrays_of_every_protocol_and_order_are_read(tmp_path, protocol, dtype):
    array = np.arange(24).reshape(4, 3, 2).astype(dtype)
    for i, made in enumerate((array, np.asfortranarray(array), array[::2])):
        file = tmp_path / f"{i}.pkl"
        file.write_bytes(pickle.dumps(made, protocol))
        found = read_pickle(file)
        assert found.dtype == made.dtype
        np.testing.assert_array_equal(found, made)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch burnt",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, value in enumerate((Bomb(), [Bomb()], np.array([Bomb()], dtype=object))):
        file = tmp_path / f"{i}.pkl"
        file.write_bytes(pickle.dumps(value))
        with pytest.raises(UnsafeFile, match=r"\.pkl: holds .(posix|nt)\.system"):
            read_pickle(file)
    sneaky = b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x06\x00\x00\x00base64tR."
    (tmp_path / "codec.pkl").write_bytes(sneaky)
    with pytest.raises(UnsafeFile, match="base64"):
        read_pickle(tmp_path / "codec.pkl")
    assert not (tmp_path / "burnt").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "holds dict; expected a numpy array"),
        (np.array(["a", "b"]), "dtype <U1; expected numbers"),
        (np.array([None, 1], dtype=object), "dtype object; expected numbers"),
        ([np.zeros((2, 2)), np.zeros((3, 2))], "different shapes"),
        (np.float64(3), "holds float64"),
    ],
)
def test_what_is_no_array_is_said(tmp_path, value, message):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(value))
    with pytest.raises(BadInput, match=message):
        read_pickle(file)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([np.ones((64, 40 + i), np.uint8) for i in range(9)], r"frames of 9 different shapes \(64 x 40, 64 x 41, 64 x 42 \.\.\.\); expected"),
        ([np.ones((64, 44), np.uint8), np.ones((64, 44, 3), np.uint8)], r"frames of 2 different shapes \(64 x 44, 64 x 44 x 3\)"),
        ([np.ones((90 + i, 3)) for i in range(4)], r"4 point clouds of different length; point clouds are not read"),
        ([np.ones((5, 4)), np.ones((7, 4))], "point clouds are not read"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [list, tuple, "object"])
def test_uneven_frames_and_clouds_are_told_apart(tmp_path, value, message, kind):
    if kind == "object":
        held = np.empty(len(value), object)
        held[:] = value
    else:
        held = kind(value)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    with pytest.raises(BadInput, match=message):
        read_pickle(tmp_path / "x.pkl")


def test_damaged_and_absent_files(tmp_path):
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(np.zeros(100))[:50])
    with pytest.raises(BadInput, match="truncated pickle"):
        read_pickle(file)
    with pytest.raises(BadInput, match="no such file"):
        read_pickle(tmp_path / "y.pkl")


def test_a_tree_is_listed_lazily_sorted_with_every_modality(tmp_path):
    for name in ("002/nm-01/090", "001/nm-01/000", "001/bg-01/000"):
        leaf(tmp_path, name, b_sil=np.zeros((2, 4, 4)), a_map=np.ones((2, 2, 4, 4)))
    leaf(tmp_path, "003/nm-01/000")
    with pytest.warns(LoupeWarning, match=r"003/nm-01/000: no \.pkl"):
        walks = sequences(tmp_path)
    assert [walk.name for walk in walks] == ["001-bg-01-000", "001-nm-01-000", "002-nm-01-090"]
    assert (walks[0].identity, walks[0].condition, walks[0].view) == ("001", "bg-01", "000")
    assert [array.shape for array in walks[0].read()] == [(2, 2, 4, 4), (2, 4, 4)]
    before = digest(walks)
    walks[1].files[0].write_bytes(pickle.dumps(np.ones((3, 4, 4))))
    assert digest(walks) != before


def test_an_empty_or_absent_root_is_said(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        sequences(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no sequence found"):
        sequences(tmp_path)
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(BadInput, match=r"expected a folder, or a file of \.pkl, \.mp4"):
        sequences(tmp_path / "x.txt")


def person(rows: int = 120, columns: int = 200, left: int = 30) -> np.ndarray:
    frame = np.zeros((rows, columns), np.uint8)
    frame[20:110, left : left + 30] = 255
    return frame


def test_pictures_are_normalised_and_empty_ones_left_out(tmp_path):
    for i in range(4):
        Image.fromarray(person(left=30 + 10 * i) if i != 2 else np.zeros((120, 200), np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    (walk,) = sequences(tmp_path)
    with pytest.warns(LoupeWarning, match="1 of 4 frames show nobody"):
        (frames,) = walk.read()
    assert frames.shape == (3, 64, 64)
    columns = np.flatnonzero(frames[0].max(0) > 127)
    assert abs(columns.mean() - 31.5) <= 1
    assert frames[0].max(1).min() > 127
    assert abs(frames[0].astype(int) - frames[1]).mean() < 12


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def stretched(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bicubic over the four nearest pixels, edges repeated, nothing smoothed before; rounded."""

    def matrix(size: int, old: int) -> np.ndarray:
        found = np.zeros((size, old))
        for i in range(size):
            place = (i + 0.5) * old / size - 0.5
            for k in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                found[i, min(max(k, 0), old - 1)] += cubic(place - k)
        return found

    made = matrix(rows, picture.shape[0]) @ picture.astype(float) @ matrix(columns, picture.shape[1]).T
    return np.clip(np.rint(made), 0, 255)


def stored(picture: np.ndarray, size: int, resize) -> np.ndarray:
    """A silhouette by the recipe of gait data sets, one pixel after the other."""
    inside = [y for y in range(picture.shape[0]) if picture[y].any()]
    cut = picture[inside[0] : inside[-1] + 1]
    made = resize(cut, size, int(size * (cut.shape[1] / cut.shape[0])))
    total, mass, middle = made.sum(dtype=float), 0.0, 0
    for x in range(made.shape[1]):
        mass += made[:, x].sum(dtype=float)
        if mass > total / 2:
            middle = x
            break
    cell = np.zeros((size, size))
    for x in range(size):
        place = middle - size // 2 + x
        if 0 <= place < made.shape[1]:
            cell[:, x] = made[:, place]
    return cell


def someone(rows: int, columns: int, seed: int) -> np.ndarray:
    """A person of `rows` rows: ragged, grey at the edge, not in the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    middle = columns * (0.5 + 0.1 * np.sin(y / rows * 5 + seed))
    width = rows * (0.12 + 0.08 * np.sin(y / rows * 9) ** 2) + rng.integers(0, 2, (rows, 1))
    return np.clip((width - abs(x - middle)) * 90, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("rows", "columns"), [(512, 700), (300, 211), (137, 150), (65, 60), (40, 55), (64, 200)])
@pytest.mark.parametrize("size", [64, 128])
def test_silhouettes_are_shrunk_as_gait_data_sets_are(rows, columns, size):
    picture = np.pad(someone(rows, columns, rows), ((7, 3), (0, 0)))
    found = centred(picture, size)
    want = stored(picture, size, stretched)
    assert found.shape == (size, size)
    # torch's sums are in single precision, which may round a half the other way
    assert abs(found - want).max() <= 1
    assert (found != want).mean() < 0.001
    cv2 = pytest.importorskip("cv2")
    other = stored(picture, size, lambda cut, h, w: cv2.resize(cut, (w, h), interpolation=cv2.INTER_CUBIC))
    assert abs(found - other).max() <= 1
    assert (found != other).mean() < 0.005


def test_a_median_between_two_columns_and_a_person_in_the_first_column(tmp_path):
    picture = np.zeros((64, 64), np.uint8)
    picture[:, 20:24] = 255  # half of the mass lies left of column 22, not more: the middle is column 22
    assert np.flatnonzero(centred(picture).any(0)).tolist() == [30, 31, 32, 33]
    Image.fromarray(someone(200, 90, 1)).save(tmp_path / "0.png")
    for i, width in ((1, 1), (2, 3)):  # nothing is left of a thin line, and a wide one has no column before its middle
        picture = np.zeros((200, 90), np.uint8)
        picture[:, :width] = 255
        assert centred(picture) is None
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    with pytest.warns(LoupeWarning, match="2 of 3 frames show nobody"):
        assert len(sequences(tmp_path)[0].read()[0]) == 1


def test_pictures_of_the_right_size_are_taken_as_they_are(tmp_path):
    frame = centred(person())
    Image.fromarray(frame).save(tmp_path / "0.png")
    (walk,) = sequences(tmp_path)
    np.testing.assert_array_equal(walk.read()[0][0], frame)
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(BadInput, match="no frame shows a person"):
        walk.read()


def test_videos_are_read_as_silhouettes(tmp_path):
    frames = [person(128, 208, 40 + 5 * i) for i in range(6)]
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "walk.gif", save_all=True, append_images=pictures[1:])
    writer = imageio_ffmpeg.write_frames(str(tmp_path / "walk.mp4"), (208, 128), pix_fmt_in="gray", fps=6)
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()
    for name in ("walk.gif", "walk.mp4"):
        (walk,) = sequences(tmp_path / name)
        assert walk.name == "walk"
        (found,) = walk.read()
        assert found.shape == (6, 64, 64)
        assert abs(int((found[0] > 127).sum()) - int((centred(frames[0]) > 127).sum())) < 200
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(BadInput, match="cannot be read as a video"):
        sequences(tmp_path / "bad.mp4")[0].read()


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    for number, left in ((1, 30), (2, 60), (10, 90)):
        Image.fromarray(person(left=left)).save(tmp_path / f"frame-{number}.png")
    (walk,) = sequences(tmp_path)
    assert [file.name for file in walk.files] == ["frame-1.png", "frame-2.png", "frame-10.png"]


def test_a_picture_that_is_none_and_frames_that_differ_are_said(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    (walk,) = sequences(tmp_path)
    with pytest.raises(BadInput, match=r"0\.png: cannot be read as a picture"):
        walk.read()
    (tmp_path / "0.png").unlink()
    with pytest.raises(BadSample, match=r"0\.png: cannot be read \(No such file or directory\)"):
        walk.digest()
    for i, width in enumerate((64, 44)):
        Image.fromarray(np.full((64, width), 255, np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(BadInput, match="frames of different widths; expected 64 x 64"):
        sequences(tmp_path)[0].read()
    (tmp_path / "1.png").unlink()
    Image.fromarray((person() > 0).astype(np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(BadInput, match=r"values 0 to 1; expected grey values 0 to 255 \(multiply by 255\)"):
        sequences(tmp_path)[0].read()
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    with pytest.raises(BadInput, match=r"bad\.gif: cannot be read as a GIF"):
        sequences(tmp_path / "bad.gif")[0].read()


def test_a_video_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "walk.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingPackage, match=r"imageio-ffmpeg is not installed.*torchloupe\[video\]"):
        sequences(tmp_path / "walk.mp4")[0].read()
