import io
import random

import numpy as np
import pytest
from PIL import Image

from zsem.data.decoding import UnreadableImageError, decode, fit, load_image
from zsem.values.errors import ZsemError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_kinds_come_back_to_the_pixel(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(Image.fromarray(COLOURS), kind, **options))
    assert np.array_equal(np.asarray(image), COLOURS)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "L"), ("PNG", "1"), ("PPM", "L"), ("TIFF", "1"), ("BMP", "L")])
def test_grey_files_are_grey(kind, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    result = decode(encoded(image, kind))
    assert result.mode == "L" and np.array_equal(np.asarray(result), np.asarray(image.convert("L")))


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_kinds_come_back_nearly(kind):
    smooth = Image.fromarray(COLOURS).resize((4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    result = np.asarray(decode(encoded(smooth, kind)), dtype=float)
    assert np.abs(result - np.asarray(smooth)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    upright = Image.fromarray(COLOURS)
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode(encoded(image, "PNG", exif=exif))), COLOURS)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode):
    rgba = Image.fromarray(COLOURS).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[0, 128, 255, 255]], 12, 0).repeat(4, 1).astype(np.uint8)))
    if mode == "P":  # a palette with one transparent entry
        image = Image.fromarray(COLOURS).quantize(8)
        data = encoded(image, "PNG", transparency=0)
        expected = np.where(np.asarray(image)[..., None] == 0, 255, np.asarray(image.convert("RGB")))
        assert np.array_equal(np.asarray(decode(data)), expected)
        return
    image = rgba.convert(mode)
    colour = np.asarray(image.convert("RGBA"), dtype=float)
    alpha = colour[..., 3:] / 255
    expected = colour[..., :3] * alpha + 255 * (1 - alpha)
    result = decode(encoded(image, "PNG"))
    assert result.mode == ("L" if mode == "LA" else "RGB")
    assert np.abs(np.asarray(result.convert("RGB")) - expected).max() <= 1


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.asarray(decode(encoded(image, "TIFF")), dtype=int)[0, 0] - [255, 0, 0]).max() <= 2


def test_more_than_eight_bits_are_refused_not_truncated():
    grey16 = Image.fromarray(RNG.integers(0, 65536, (8, 8)).astype(np.uint16))
    deep = [encoded(grey16, "PNG"), encoded(grey16, "TIFF")]
    deep.append(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))
    deep.append(b"P6 2 2 65535\n" + bytes(24))
    deep.append(b"P5 2 2 65535\n" + bytes(8))
    for data in deep:
        with pytest.raises(UnreadableImageError, match="more than 8 bits per channel are not read yet"):
            decode(data)


def test_sixteen_bit_rgb_png_is_refused_although_pillow_opens_it_as_eight_bit(tmp_path):
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + bytes(2 * 6) for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(png)).mode == "RGB"
    with pytest.raises(UnreadableImageError, match="more than 8 bits"):
        decode(png)


def test_mutated_files_are_read_or_refused_with_a_reason():
    picture = Image.fromarray(COLOURS)
    files = [encoded(picture.convert(m), k) for k in ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP") for m in ("RGB", "L")]
    draw = random.Random(0)
    read = 0
    for number in range(600):
        data = bytearray(draw.choice(files))
        if number % 3 == 0:
            del data[draw.randrange(len(data)) :]
        for _ in range(draw.randrange(1, 8)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            read += decode(bytes(data)).mode in {"L", "RGB"}
        except UnreadableImageError as error:
            assert str(error)
    assert 0 < read < 600


@pytest.mark.parametrize(("width", "height"), [(16, 12), (12, 16), (13, 12), (12, 12)])
def test_centre_crop_of_the_right_size_is_not_resampled(width, height):
    array = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top = (width - 12) // 2, (height - 12) // 2
    assert np.array_equal(np.asarray(fit(Image.fromarray(array), 12)), array[top : top + 12, left : left + 12])


def test_reduction_is_antialiased_and_enlargement_works():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # every second column: without antialiasing the result would be black or white
    reduced = np.asarray(fit(Image.fromarray(stripes), 8), dtype=float)
    assert np.abs(reduced - 127.5).max() < 6
    assert fit(Image.fromarray(stripes), 100).size == (100, 100)


def test_load_image_takes_paths_bytes_pictures_and_arrays(tmp_path):
    image = Image.fromarray(COLOURS)
    path = tmp_path / "a.png"
    image.save(path)
    expected = COLOURS[:, 2:14].transpose(2, 0, 1)
    for source in (path, str(path), path.read_bytes(), image, COLOURS, image.convert("RGBA")):
        pixels = load_image(source, 12, 3)
        assert pixels.is_contiguous() and np.array_equal(pixels.numpy(), expected)
    grey = np.asarray(image.convert("L"))
    for source in (path, grey, grey[:, :, None]):
        assert np.array_equal(load_image(source, 12, 1)[0].numpy(), grey[:, 2:14])
    assert np.array_equal(load_image(grey, 12, 3).numpy(), np.stack([grey[:, 2:14]] * 3))


def test_load_image_says_in_one_sentence_what_is_wrong(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    cases = [
        (tmp_path / "none.png", r"none\.png cannot be read: No such file or directory"),
        (tmp_path / "text.png", r"text\.png cannot be read: not an image"),
        (b"", "the given image cannot be read: an empty file"),
        (Image.new("I;16", (4, 4)), "more than 8 bits"),
    ]
    for source, sentence in cases:
        with pytest.raises(ZsemError, match=sentence):
            load_image(source, 8, 3)
    with pytest.raises(ZsemError, match="must be uint8"):
        load_image(np.zeros((4, 4, 3), np.float32), 8, 3)
