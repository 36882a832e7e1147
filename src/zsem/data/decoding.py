"""One encoded image to an array [h, w, c]: EXIF rotation, transparency over a background, any depth and channels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image, ImageColor, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from zsem.data import arrays, deep
from zsem.data.limits import DAMAGE, UnreadableImageError, check_claim
from zsem.data.shaping import Depth, channels_last, fit, sides, standard, to_channels, to_depth
from zsem.values.errors import ZsemError

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".npy", ".npz"),
)
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "PPM", str(TiffImageFile.format), str(WebPImageFile.format))
"""What Pillow may read; it knows formats that run other programs."""
GREY_MODES = frozenset(("1", "L"))
ALPHA_MODES = frozenset(("RGBA", "LA", "PA", "RGBa", "La"))
PLAIN_ALPHA = {"RGBa": "RGBA", "La": "LA"}  # Pillow undoes premultiplied alpha in a step of its own
COLOUR_MODES = frozenset(("RGB", "P", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
DEEP_MODES = frozenset(("I", "I;16", "I;16B", "I;16L", "I;16N", "F"))
ORIENTATION, REDUCED = 0x0112, 254  # tags


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as "white", "#808080" or "rgb(0, 0, 0)". ZsemError: there is no such one."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ZsemError(f"there is no colour {name!r}: give a name such as white, or #rrggbb") from None
    return red, green, blue


def decode(data: bytes, background: str = "white") -> np.ndarray:
    """An upright image from the bytes of a file: uint8, uint16, int16 or float32, [h, w, c].

    The pages of a TIFF file are channels where they are of one size, else the first one counts, as it does for moving
    pictures. A npz file must hold one array. Transparent pixels show `background`.
    UnreadableImageError: damaged, not an image, or of a kind that needs a package that is not there.
    """
    try:
        if data.startswith(arrays.NPY):
            return standard(channels_last(arrays.read_npy(data)))
        if data.startswith(arrays.ZIP):
            return standard(channels_last(arrays.read_only_member(data)))
        return _decode_picture(data, colour(background))
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("not an image" if data else "an empty file") from None
    except Image.DecompressionBombError:
        raise UnreadableImageError("more than 178 million pixels") from None
    except DAMAGE as error:
        raise UnreadableImageError(f"damaged ({error or type(error).__name__})") from None


def _decode_picture(data: bytes, background: tuple[int, int, int]) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        if data[:4] in deep.TIFF_STARTS:  # of more kinds than Pillow reads
            return deep.read_tiff(data, background)
        raise
    with image:
        check_claim((image.height, image.width, len(image.getbands())), 1, len(data))
        if image.format == "TIFF":
            if not deep.pillow_reads(image):
                return deep.read_tiff(data, background)
            return _join([from_pillow(page, background) for page in _pages(image, len(data))])
        if image.format == "PNG" and _hides_depth(image):
            return deep.read_png(data, image.getexif().get(ORIENTATION, 1), background)
        return from_pillow(image, background)


def _pages(image: Image.Image, size: int) -> Iterator[Image.Image]:
    """The pages of a TIFF file in turn, without its small copies for previews."""
    number = getattr(image, "n_frames", 1)
    check_claim((number, image.height, image.width, len(image.getbands())), 1, size)
    for page in range(number):
        image.seek(page)
        tags = getattr(image, "tag_v2", {})
        if page == 0 or not int(tags.get(REDUCED, 0)) & 1:
            check_claim((image.height, image.width, len(image.getbands())), 1, size)
            if not deep.pillow_reads(image):
                raise UnreadableImageError("pages of several kinds: keep one image per file")
            yield image


def _join(pages: list[np.ndarray]) -> np.ndarray:
    """Pages of one size and depth as the channels of one image, else the first page."""
    same = all(page.shape[:2] == pages[0].shape[:2] and page.dtype == pages[0].dtype for page in pages)
    return np.concatenate(pages, axis=2) if same else pages[0]


def _hides_depth(image: Image.Image) -> bool:
    """Whether a just opened image has more bits than its mode tells.

    Pillow opens 16-bit RGB files as 8-bit ones and says nothing; its decoder's settings tell.
    """
    settings: list[Any] = []
    for tile in getattr(image, "tile", ()):
        settings += tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return image.mode not in DEEP_MODES and any(
        (isinstance(value, str) and ";16" in value) or (type(value) is int and image.format == "PPM" and value > 255)
        for value in settings
    )


def from_pillow(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """The upright pixels of a Pillow image, [h, w, c]. UnreadableImageError: Pillow has fewer bits than the file."""
    if _hides_depth(image):
        raise UnreadableImageError(f"a 16-bit {image.format} file in colour: save it as PNG or TIFF")
    whole = deep.whole_type(image)
    image.load()
    image = _upright(image)
    pixels = np.asarray(image if image.mode in DEEP_MODES else _flatten(image, background))
    if image.mode == "I":
        pixels = pixels.view(np.uint32).astype(whole)
    return standard(pixels.reshape(*pixels.shape[:2], -1))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        return image  # unreadable EXIF data beside readable pixels


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """To mode L or RGB, transparent pixels over the background."""
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        grey = image.mode in {"LA", "La", "L", "1"} and len(set(background)) == 1
        rgba = image.convert(PLAIN_ALPHA.get(image.mode, image.mode)).convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, background), rgba).convert("RGB")
        return rgb.getchannel(0) if grey else rgb
    if image.mode in GREY_MODES:
        return image.convert("L")
    if image.mode not in COLOUR_MODES:
        raise UnreadableImageError(f"of Pillow's mode {image.mode}: save it as PNG or TIFF")
    return image.convert("RGB")


def load_image(
    source: str | Path | bytes | Image.Image | np.ndarray,
    size: int | tuple[int, int] | None,
    channels: int,
    *,
    depth: Depth | None = "uint8",
    background: str = "white",
) -> Shaped[Tensor, "c h w"]:
    """One image as pixels, [channels, height, width].

    source: path, encoded bytes, Pillow image, or array [h, w] or [h, w, c]; uint8 arrays [h, w, 4] are RGBA where 1 or
        3 channels are wanted.
    size: side of a square, or (height, width), to which the centre is cropped and resized; None = as it is.
    channels: 1 (grey) and 3 (RGB) are made of each other; with other numbers the image must have as many.
    depth: what the pixels must be; 8-bit images become 16-bit ones where that is asked for; None = as they are.
    background: colour behind transparent pixels.

    ZsemError: the file is missing or cannot be read, or has other channels or another depth.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the given image"
    try:
        if isinstance(source, np.ndarray):
            array = _from_array(source, channels, colour(background))
        elif isinstance(source, Image.Image):
            array = from_pillow(source, colour(background))
        else:
            array = decode(source if isinstance(source, bytes) else Path(source).read_bytes(), background)
        array = to_channels(array, channels)
        array = array if size is None else fit(array, sides(size))
        array = array if depth is None else to_depth(array, depth)
    except UnreadableImageError as error:
        raise ZsemError(f"{name} cannot be read: {error}") from None
    except OSError as error:
        raise ZsemError(f"{name} cannot be read: {error.strerror or error}") from None
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def _from_array(array: np.ndarray, channels: int, background: tuple[int, int, int]) -> np.ndarray:
    if array.ndim not in {2, 3} or array.size == 0:
        raise UnreadableImageError(f"an array must be [h, w] or [h, w, c], not {list(array.shape)}")
    array = array[:, :, None] if array.ndim == 2 else array
    if array.dtype == np.uint8 and array.shape[2] == 4 and channels in {1, 3}:
        return from_pillow(Image.fromarray(np.ascontiguousarray(array)), background)
    return standard(array)
