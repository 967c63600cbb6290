"""Pictures of every mode come out as their 8-bit selves, or are refused by the name of their file."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from prune_bench.data.folder import Pictures
from prune_bench.data.pictures import read_picture
from prune_bench.errors import DataError

DEEP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
GREY = np.rint(DEEP / 65535 * 255).astype(np.uint8)


def tiff(values, bits, byte_order="<"):
    """A TIFF file of one channel, by the specification."""
    joined = "".join(f"{int(value):0{bits}b}" for value in values.flatten())
    data = (
        int(joined, 2).to_bytes(len(joined) // 8, "big") if bits == 12 else values.astype(byte_order + "u2").tobytes()
    )
    entries = [(256, 3, 8), (257, 3, 8), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
               (278, 3, 8), (279, 4, len(data))]  # fmt: skip
    head = (b"II*\0" if byte_order == "<" else b"MM\0*") + struct.pack(byte_order + "I", 8 + len(data))
    rows = b"".join(
        struct.pack(byte_order + "HHI", tag, kind, 1)
        + (struct.pack(byte_order + "HH", value, 0) if kind == 3 else struct.pack(byte_order + "I", value))
        for tag, kind, value in entries
    )
    return head + data + struct.pack(byte_order + "H", len(entries)) + rows + struct.pack(byte_order + "I", 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("16.tif", tiff(DEEP, 16)),
        ("16 other way round.tif", tiff(DEEP, 16, ">")),
        ("12.tif", tiff(DEEP // 16, 12)),
        ("16.pgm", b"P5 8 8 65535\n" + DEEP.astype(">u2").tobytes()),
        ("12.pgm", b"P5 8 8 4095\n" + (DEEP // 16).astype(">u2").tobytes()),
        ("12.ppm", b"P6 8 8 4095\n" + np.stack([DEEP // 16] * 3, -1).astype(">u2").tobytes()),
    ],
)
def test_deep_pictures_keep_their_brightness(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    values = np.asarray(read_picture(tmp_path / name)).astype(int)
    assert values.shape == (8, 8, 3)
    assert np.abs(values - GREY[..., None].astype(int)).max() <= 1


def test_a_16_bit_png_keeps_its_brightness_in_a_data_set(tmp_path):
    Image.fromarray(DEEP.repeat(4, 0).repeat(4, 1)).save(tmp_path / "deep.png")
    Image.fromarray(GREY.repeat(4, 0).repeat(4, 1)).save(tmp_path / "grey.png")
    pictures = Pictures([(str(tmp_path / "deep.png"), 0), (str(tmp_path / "grey.png"), 0)], 32)
    for seed in (None, 3):
        assert torch.equal(pictures[0, seed][0], pictures[1, seed][0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_translated(tmp_path, mode):
    picture = Image.fromarray(GREY).convert("P" if mode == "PA" else "RGB").convert(mode)
    picture.save(tmp_path / "one.tif")
    wanted = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(np.asarray(read_picture(tmp_path / "one.tif")).astype(int) - wanted).max() <= 2


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_shows_its_colours_without_a_word(tmp_path):
    picture = Image.fromarray(GREY).convert("P")
    picture.save(tmp_path / "one.png", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(read_picture(tmp_path / "one.png")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((DEEP / 65535).astype(np.float32), "mode F"),
        ((DEEP / 257).astype(np.float32), "mode F"),
        (DEEP.astype(np.int32) - 9, "mode I"),
        (DEEP // 16, r"mode I;16.* to 4095"),
    ],
)
def test_what_has_no_known_range_is_refused_by_file_and_mode(tmp_path, values, words):
    Image.fromarray(values).save(tmp_path / "odd.tif")
    with pytest.raises(DataError, match=rf"odd\.tif is of {words}"):
        read_picture(tmp_path / "odd.tif")


def cut_short(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:2000])


def bomb(path):
    Image.new("1", (20000, 20000)).save(path, "PNG")


def no_size(path):
    path.write_bytes(b"P5 0 8 255\n")


def bad_numbers(path):
    path.write_bytes(b"P5 8 x8 255\n" + bytes(64))


@pytest.mark.parametrize("make", [cut_short, bomb, no_size, bad_numbers, lambda path: path.write_bytes(b"")])
def test_whatever_pil_raises_names_the_file(tmp_path, make):
    make(tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"bad\.png cannot be read as a picture"):
        read_picture(tmp_path / "bad.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        read_picture(tmp_path / "gone.png")
