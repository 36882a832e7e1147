import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from zsem.data.decoding import decode, load_image
from zsem.data.limits import UnreadableImageError
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
    assert np.array_equal(decode(encoded(Image.fromarray(COLOURS), kind, **options)), COLOURS)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "L"), ("PNG", "1"), ("PPM", "L"), ("TIFF", "1"), ("BMP", "L")])
def test_grey_files_are_grey(kind, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    assert np.array_equal(decode(encoded(image, kind)), np.asarray(image.convert("L"))[:, :, None])


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_kinds_come_back_nearly(kind):
    smooth = Image.fromarray(COLOURS).resize((4, 4)).resize((64, 64), Image.Resampling.BICUBIC)
    result = decode(encoded(smooth, kind)).astype(float)
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
    assert np.array_equal(decode(encoded(image, "PNG", exif=exif)), COLOURS)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode):
    rgba = Image.fromarray(COLOURS).convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[0, 128, 255, 255]], 12, 0).repeat(4, 1).astype(np.uint8)))
    if mode == "P":  # a palette with one transparent entry
        image = Image.fromarray(COLOURS).quantize(8)
        data = encoded(image, "PNG", transparency=0)
        expected = np.where(np.asarray(image)[..., None] == 0, 255, np.asarray(image.convert("RGB")))
        assert np.array_equal(decode(data), expected)
        return
    image = rgba.convert(mode)
    colour = np.asarray(image.convert("RGBA"), dtype=float)
    alpha = colour[..., 3:] / 255
    expected = colour[..., :3] * alpha + 255 * (1 - alpha)
    result = decode(encoded(image, "PNG"))
    assert result.shape[2] == (1 if mode == "LA" else 3)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("background", ["black", "#102030", "rgb(200, 0, 0)"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_the_background_that_is_chosen(mode, background):
    image = Image.new(mode, (4, 4), (90, 0) if mode == "LA" else (10, 20, 30, 0))
    result = decode(encoded(image, "PNG"), background)
    expected = ImageColor.getrgb(background)[: result.shape[2]]
    assert result.shape[2] == (1 if (mode, background) == ("LA", "black") else 3)
    assert (result == expected).all()
    with pytest.raises(ZsemError, match="there is no colour 'mauvish'"):
        decode(encoded(image, "PNG"), "mauvish")


def test_cmyk_is_converted():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decode(encoded(image, "TIFF")).astype(int)[0, 0] - [255, 0, 0]).max() <= 2


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
        (Image.new("I;16", (4, 4)), "an image of uint16 values, where uint8 is wanted"),
        (np.zeros((4, 4, 3), np.float32), "an image of float32 values, where uint8 is wanted"),
        (np.zeros((4, 4, 5), np.uint8), "an image of 5 channels, where 3 are wanted"),
        (np.zeros(4, np.uint8), r"an array must be \[h, w\] or \[h, w, c\], not \[4\]"),
        (np.zeros((4, 4), complex), "an array of complex128, not of numbers"),
    ]
    for source, sentence in cases:
        with pytest.raises(ZsemError, match=sentence):
            load_image(source, 8, 3)


def test_eight_bits_become_sixteen_where_they_are_asked_for_and_never_back():
    deep = load_image(COLOURS, 12, 3, depth="uint16")
    assert deep.dtype == torch.uint16
    assert np.array_equal(deep.numpy(), load_image(COLOURS, 12, 3).numpy().astype(int) * 257)
    grey = (COLOURS[:, :, 0].astype(np.uint16) * 199)[:12, :12]
    assert np.array_equal(load_image(grey, None, 1, depth=None).numpy()[0], grey)


def test_other_formats_that_pillow_knows_are_not_opened():
    """Among them are some that start other programs."""
    for kind in ("ICO", "PCX", "TGA", "EPS"):
        with pytest.raises(UnreadableImageError, match="not an image"):
            decode(encoded(Image.fromarray(COLOURS), kind))
