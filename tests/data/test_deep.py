"""Images of more than 8 bits, and TIFF files of every kind."""

import io
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from zsem.data.decoding import decode
from zsem.data.limits import UnreadableImageError

RNG = np.random.default_rng(0)
SHAPE = (6, 7)


def values(kind: str, *shape: int) -> np.ndarray:
    if np.dtype(kind).kind == "f":
        return RNG.normal(size=shape).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(max(limits.min, -(2**24)), min(limits.max, 2**24) + 1, shape).astype(kind)


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def hwc(array: np.ndarray) -> np.ndarray:
    return array[:, :, None] if array.ndim == 2 else array


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_tiff_files_of_8_16_and_float_bits_come_back_to_the_bit(kind, colours, compression, byteorder):
    array = values(kind, *SHAPE, *colours)
    data = tiff(array, compression=compression, byteorder=byteorder, photometric="rgb" if colours else "minisblack")
    result = decode(data)
    assert result.dtype == np.dtype(kind).newbyteorder("=") and np.array_equal(result, hwc(array))


@pytest.mark.parametrize("kind", ["i1", "u4", "i4", "f2", "f8", "i8"])
def test_other_numbers_of_tiff_files_are_kept_too(kind):
    array = values(kind, *SHAPE)
    result = decode(tiff(array))
    assert result.dtype == ("int16" if kind == "i1" else "float32")
    assert np.array_equal(result[:, :, 0], array.astype(result.dtype))


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("channels", [2, 4, 5, 12])
def test_tiff_files_of_many_samples_keep_all_of_them(kind, channels, planes):
    array = values(kind, 16, 18, channels)
    stored = array if planes == "contig" else array.transpose(2, 0, 1)
    data = tiff(np.ascontiguousarray(stored), planarconfig=planes, photometric="minisblack")
    assert np.array_equal(decode(data), array)


def test_a_fourth_sample_that_is_no_alpha_is_kept():
    array = values("u1", *SHAPE, 4)
    assert np.array_equal(decode(tiff(array, photometric="rgb", extrasamples=["unspecified"])), array)
    assert decode(tiff(array, photometric="rgb", extrasamples=["unassalpha"])).shape == (*SHAPE, 3)


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4", "f8"])
def test_pages_of_one_size_are_channels(kind):
    pages = values(kind, 5, *SHAPE)
    result = decode(tiff(pages, photometric="minisblack"))
    assert np.array_equal(result, pages.transpose(1, 2, 0).astype(result.dtype))
    colours = values(kind, 2, *SHAPE, 3)
    result = decode(tiff(colours, photometric="rgb"))
    assert np.array_equal(result, np.concatenate(list(colours), axis=2).astype(result.dtype))


def test_of_pages_of_several_sizes_the_first_counts_and_previews_never_do():
    first, second = values("u2", *SHAPE), values("u2", 3, 3)
    for other, options in ((second, {}), (first + 1, {"subfiletype": 1})):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            writer.write(first)
            writer.write(other, **options)
        assert np.array_equal(decode(file.getvalue())[:, :, 0], first)


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_white_is_zero_is_turned_round(kind):
    array = values(kind, *SHAPE)
    assert np.array_equal(decode(tiff(array, photometric="miniswhite"))[:, :, 0], np.iinfo(kind).max - array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_tiff_files_is_undone(orientation):
    array = values("u2", *SHAPE, 3)
    stored = np.asarray(array)
    for name, turn in {  # how a camera would have stored the upright image
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }.items():
        stored = turn(array) if name == orientation else stored
    data = tiff(np.ascontiguousarray(stored), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    assert np.array_equal(decode(data), array)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_png_files_come_back_to_the_bit(channels):
    array = values("u2", *SHAPE, channels)
    assert np.array_equal(decode(imagecodecs.png_encode(array.squeeze())), array)


@pytest.mark.parametrize("encode", [imagecodecs.png_encode, lambda a: tiff(a, photometric="rgb", extrasamples=[2])])
def test_sixteen_bit_transparency_shows_the_background(encode):
    array = values("u2", *SHAPE, 4)
    alpha = array[:, :, 3:] / 65535
    for background, colour in (("white", 65535), ("#336699", np.array([0x3333, 0x6666, 0x9999]))):
        expected = alpha * array[:, :, :3] + (1 - alpha) * colour
        result = decode(encode(array), background)
        assert result.dtype == np.uint16 and np.abs(result - expected).max() <= 0.5 + 1e-9


def test_sixteen_bit_grey_with_alpha_stays_grey_over_grey():
    array = values("u2", *SHAPE, 2)
    assert decode(imagecodecs.png_encode(array)).shape == (*SHAPE, 1)
    assert decode(imagecodecs.png_encode(array), "red").shape == (*SHAPE, 3)


def test_exif_rotation_of_a_sixteen_bit_png_is_undone():
    array = values("u2", *SHAPE, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    png = imagecodecs.png_encode(np.ascontiguousarray(array.swapaxes(0, 1)[::-1]))
    assert np.array_equal(decode(png[:33] + chunk + png[33:]), array)  # after the header


def test_sixteen_bit_netpbm():
    array = values("u2", *SHAPE)
    data = b"P5 7 6 65535\n" + array.astype(">u2").tobytes()
    assert np.array_equal(decode(data)[:, :, 0], array)
    with pytest.raises(UnreadableImageError, match="a 16-bit PPM file in colour: save it as PNG or TIFF"):
        decode(b"P6 2 2 65535\n" + bytes(24))


def test_without_the_extra_packages_files_are_refused_with_the_mend(monkeypatch):
    colours, grey = values("u2", *SHAPE, 3), values("u2", *SHAPE)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for data in (imagecodecs.png_encode(colours), tiff(colours, photometric="rgb"), tiff(values("f8", *SHAPE))):
        with pytest.raises(UnreadableImageError, match=r"pip install 'zsem\[formats\]' to read it"):
            decode(data)
    # what Pillow reads needs no package
    for data in (imagecodecs.png_encode(grey), tiff(grey)):
        assert np.array_equal(decode(data)[:, :, 0], grey)
    assert decode(tiff(values("f4", *SHAPE))).dtype == np.float32


def test_damage_and_absurd_claims_are_named_and_cost_nothing():
    colours = values("u2", 40, 40, 3)
    for data in (imagecodecs.png_encode(colours), tiff(colours, photometric="rgb")):
        with pytest.raises(UnreadableImageError, match="damaged"):
            decode(data[: len(data) // 2])
    png = bytearray(imagecodecs.png_encode(colours))
    png[16:24] = struct.pack(">II", 9_400, 9_400)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(UnreadableImageError, match=r"it claims 9400 x 9400 x 3 values and has \d+ bytes"):
        decode(bytes(png))
    png[16:24] = struct.pack(">II", 200_000, 200_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(UnreadableImageError, match="more than 178 million pixels"):
        decode(bytes(png))
