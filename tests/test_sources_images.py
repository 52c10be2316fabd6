"""Pictures: every good kind becomes upright 8-bit RGB, every bad kind one clear line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchloupe.errors import BadInput
from torchloupe.probe import Subject
from torchloupe.sources import subject
from torchloupe.sources.images import find, pictures, read

RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def told(path: Path) -> str:
    with pytest.raises(BadInput) as error:
        read(path)
    text = str(error.value)
    assert "\n" not in text
    assert path.name in text
    return text


def png(path: Path, width: int, height: int, data: bytes = b"", colour: int = 0, depth: int = 8) -> Path:
    """A PNG file by hand, so that its header can say what no writer would."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )
    return path


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    assert (np.asarray(read(tmp_path / "grey.png")) == RAMP[..., None]).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert (np.asarray(read(tmp_path / "deep.png")) == RAMP[..., None]).all()


@pytest.mark.parametrize(("values", "wanted"), [(RAMP / np.float32(255), RAMP), (RAMP.astype(np.float32), RAMP)])
def test_floating_point_is_taken_as_0_to_1_or_0_to_255(tmp_path: Path, values: np.ndarray, wanted: np.ndarray) -> None:
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    assert (np.asarray(read(tmp_path / "float.tif")) == wanted[..., None]).all()


def test_floating_point_below_zero_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32) - 5).save(tmp_path / "float.tif")
    assert "from -5 to 215" in told(tmp_path / "float.tif")


def test_thirty_two_bit_integers(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.int32) * 257).save(tmp_path / "int.tif")
    assert (np.asarray(read(tmp_path / "int.tif")) == RAMP[..., None]).all()


def test_transparent_parts_show_white(tmp_path: Path) -> None:
    colours = np.zeros((2, 2, 4), np.uint8)
    colours[0, 0] = (10, 20, 30, 255)
    colours[1, 1] = (0, 0, 0, 51)
    Image.fromarray(colours).save(tmp_path / "alpha.png")
    found = np.asarray(read(tmp_path / "alpha.png"))
    assert found[0, 0].tolist() == [10, 20, 30]
    assert found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [204, 204, 204]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.save(tmp_path / "palette.png", transparency=0)
    assert np.asarray(read(tmp_path / "palette.png")).tolist() == [[[255, 255, 255], [50, 60, 70]]]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = np.asarray(read(tmp_path / "print.jpg")).reshape(-1, 3).mean(0)
    assert red > 240
    assert max(green, blue) < 15


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 100).save(tmp_path / "bits.png")
    assert (np.asarray(read(tmp_path / "bits.png"))[..., 0] == (RAMP > 100) * 255).all()


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(read(tmp_path / "moving.gif"))[0, 0].tolist() == [255, 0, 0]


def test_the_rotation_in_exif_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.stack([RAMP] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert (np.asarray(read(tmp_path / "turned.png"))[..., 0] == np.rot90(RAMP, -1)).all()


def test_a_missing_picture(tmp_path: Path) -> None:
    assert "no such picture" in told(tmp_path / "gone.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    assert "a folder" in told(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "0 bytes" in told(tmp_path / "empty.png")


def test_a_text_file_called_png(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("Dear all,\nplease find")
    assert "begins with b'Dear all," in told(tmp_path / "text.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_a_truncated_picture(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{suffix}")
    data = (tmp_path / f"whole.{suffix}").read_bytes()
    (tmp_path / f"half.{suffix}").write_bytes(data[: len(data) // 2])
    assert "broken or truncated" in told(tmp_path / f"half.{suffix}")


def test_a_picture_without_pixels(tmp_path: Path) -> None:
    told(png(tmp_path / "flat.png", 0, 5))
    (tmp_path / "flat.ppm").write_bytes(b"P6 0 0 255\n")
    told(tmp_path / "flat.ppm")


def test_a_decompression_bomb(tmp_path: Path) -> None:
    assert "too many to read safely" in told(png(tmp_path / "bomb.png", 60000, 60000))


def test_a_folder_is_searched_through_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.png", "sub/img1.JPG", ".hidden.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find(tmp_path)] == ["img2.png", "img10.png", "sub/img1.JPG"]


def test_globs_lists_and_files_together_without_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("# mine\nc.png\n\ngone.png\na.png\n")
    monkeypatch.chdir(tmp_path)
    assert [path.name for path in find(["b.png", "list.txt", "*.png"])] == ["b.png", "c.png", "gone.png", "a.png"]
    assert find(["a.png", tmp_path / "a.png"]) == [Path("a.png")]
    assert [path.name for path in find(str(tmp_path / "[ab].png"))] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "no pictures in this folder"),
        ("*.png", "no file fits this pattern"),
        ("catt.jpg", "no such file or folder. Did you mean cat.jpg?"),
        ("blank.txt", "names no picture"),
        ("bytes.txt", "cannot be read as a list"),
    ],
)
def test_what_finds_nothing(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "blank.txt").write_text("# nothing yet\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput) as error:
        find(tmp_path / path)
    assert said in str(error.value)


def test_nothing_named() -> None:
    with pytest.raises(BadInput, match="no picture was named"):
        find([])


def test_pictures_become_a_batch_whose_ids_are_the_paths(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (20, 40), 128).save(tmp_path / "b.png")
    model = subject("timm:test_resnet", device="cpu", size=32)
    batch = pictures(tmp_path, model)
    assert batch.ids == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    assert tuple(batch.x.shape) == (2, 3, 32, 32)
    assert batch.pictures is not None
    assert batch.pictures[:, 0, 16, 16].tolist() == [[255, 0, 0], [128, 128, 128]]


def test_a_subject_without_preparation() -> None:
    import torch

    with pytest.raises(BadInput, match="does not say how a picture is prepared"):
        pictures("x.png", Subject(torch.nn.Identity()))
