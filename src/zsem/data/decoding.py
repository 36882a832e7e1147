"""One encoded image to pixels: EXIF rotation, transparency over white, centre-crop to a square, resize."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from zsem.data.pixels import from_pil
from zsem.values.errors import ZsemError

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"),
)
GREY_MODES = frozenset(("1", "L"))
ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
PLAIN_ALPHA = {"RGBa": "RGBA", "La": "LA"}  # Pillow undoes premultiplied alpha in a step of its own
COLOUR_MODES = frozenset(("RGB", "P", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
# what Pillow's decoders raise on damaged files
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """An image that is left out; the text says why."""


def decode(data: bytes) -> Image.Image:
    """An upright image of mode L or RGB, from the bytes of a file (the first frame, where there are several).

    Transparent pixels show white. UnreadableImageError: damaged, not an image, or more than 8 bits per channel.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            _refuse_deep(image)
            image.load()
            return _flatten(_upright(image))
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("not an image" if data else "an empty file") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError("more than 178 million pixels") from None
    except DAMAGE as error:
        raise UnreadableImageError(f"damaged ({error or type(error).__name__})") from None


def _refuse_deep(image: Image.Image) -> None:
    """UnreadableImageError where a just opened image has more than 8 bits per channel.

    Pillow opens 16-bit RGB files as 8-bit ones and says nothing; its decoder's settings tell.
    """
    settings: list[Any] = []
    for tile in getattr(image, "tile", ()):
        settings += tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    hidden = any(
        (isinstance(value, str) and ";16" in value) or (type(value) is int and image.format == "PPM" and value > 255)
        for value in settings
    )
    if hidden or image.mode.startswith(("I", "F")):
        raise UnreadableImageError("images with more than 8 bits per channel are not read yet")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        return image  # unreadable EXIF data beside readable pixels


def _flatten(image: Image.Image) -> Image.Image:
    """To mode L or RGB, transparent pixels over white."""
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        grey = image.mode in {"LA", "La", "L", "1"}
        rgba = image.convert(PLAIN_ALPHA.get(image.mode, image.mode)).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
        return rgb.getchannel(0) if grey else rgb
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode not in COLOUR_MODES:
        raise UnreadableImageError(f"images of mode {image.mode} are not read yet")
    return image.convert("RGB")


def fit(image: Image.Image, size: int) -> Image.Image:
    """Centre-crop to a square and resize to `size` pixels (Lanczos, antialiased); an exact crop is not resampled."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    if side == size:
        return image if image.size == (size, size) else image.crop(box)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def load_image(
    source: str | Path | bytes | Image.Image | np.ndarray, size: int, channels: int
) -> UInt8[Tensor, "c h w"]:
    """One image as uint8 pixels, [channels, size, size].

    source: path, encoded bytes, Pillow image, or uint8 array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4].
    channels: 1 (grey) or 3 (RGB); the image is converted.

    ZsemError: the file is missing or cannot be read, or has more than 8 bits per channel.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the given image"
    try:
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim not in {2, 3}:
                raise UnreadableImageError(f"an array must be uint8 [h, w] or [h, w, c], not {source.dtype}")
            source = Image.fromarray(source[:, :, 0] if source.shape[2:] == (1,) else source)
        if isinstance(source, Image.Image):
            _refuse_deep(source)
            image = _flatten(_upright(source))
        else:
            image = decode(source if isinstance(source, bytes) else Path(source).read_bytes())
    except UnreadableImageError as error:
        raise ZsemError(f"{name} cannot be read: {error}") from None
    except OSError as error:
        raise ZsemError(f"{name} cannot be read: {error.strerror or error}") from None
    return from_pil(fit(image.convert("L" if channels == 1 else "RGB"), size))
