"""One decoded image, an array [h, w, c], to the channels, shape and depth that are asked for."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from PIL import Image

from zsem.data.limits import UnreadableImageError

Depth = Literal["uint8", "uint16", "int16", "float32"]
"""The kinds of number that pixels are kept as; whatever a file holds becomes one of them without loss."""
DEPTHS: tuple[Depth, ...] = ("uint8", "uint16", "int16", "float32")
Box = tuple[int, int, int, int]
"""A part of an image: left, top, right and bottom in pixels, the last two exclusive."""
EXACT = 2**24
"""Whole numbers up to here are exact in float32."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as Pillow weighs red, green and blue."""


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, of which squares are told by one number."""
    return (size, size) if isinstance(size, int) else size


def depth_of(array: np.ndarray) -> Depth:
    """The depth of an array of one of the four types."""
    return cast(Depth, array.dtype.name)


def standard(array: np.ndarray) -> np.ndarray:
    """The same numbers as uint8, uint16, int16 or float32: whatever holds them, in this order.

    Truth values become 0 and 255; whole numbers of other types and float64 become float32.
    UnreadableImageError: no numbers, not finite, or whole numbers above 2^24, which float32 would round.
    """
    kind = array.dtype.kind
    if kind not in "buif":
        raise UnreadableImageError(f"an array of {array.dtype}, not of numbers")
    if kind == "b":
        return array.astype(np.uint8) * 255
    if kind in "ui" and array.dtype.itemsize <= 2:
        name = array.dtype.name
        return array.astype(np.int16 if name == "int8" else name)
    if kind in "ui" and array.size and max(-int(array.min()), int(array.max())) > EXACT:
        raise UnreadableImageError("whole numbers above 2^24: divide them, or save them as float32")
    with np.errstate(over="ignore"):  # what overflows is infinite then, and told
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise UnreadableImageError("values that are not finite (NaN or infinite): fill them in")
    return values


def channels_last(array: np.ndarray) -> np.ndarray:
    """An array of one image as [h, w, c]: of [h, w], [h, w, c] or [c, h, w], the channels being the shorter end.

    UnreadableImageError: another number of axes, or nothing in it.
    """
    while array.ndim > 3 and 1 in array.shape:
        array = array.squeeze(array.shape.index(1))
    if array.ndim not in {2, 3} or 0 in array.shape:
        raise UnreadableImageError(f"an array {list(array.shape)}, where an image is [h, w], [h, w, c] or [c, h, w]")
    if array.ndim == 2:
        return array[:, :, None]
    return array.transpose(1, 2, 0) if array.shape[0] < array.shape[2] else array


def to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """The image as grey (1) or RGB (3), where it is the other. UnreadableImageError: it has other channels."""
    there = array.shape[2]
    if there == channels:
        return array
    if there == 1 and channels == 3:
        return array.repeat(3, axis=2)
    if there == 3 and channels == 1:
        if array.dtype == np.uint8:
            return np.asarray(_picture(array).convert("L"))[:, :, None]
        return _rounded(array @ np.array(LUMA), array.dtype)[:, :, None]
    raise UnreadableImageError(f"an image of {there} channels, where {channels} are wanted")


def without_colour(array: np.ndarray) -> np.ndarray:
    """One channel instead of three, where they are equal."""
    return array[:, :, :1] if array.shape[2] == 3 and (array == array[:, :, :1]).all() else array


def centre_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """The part of an image that `fit` keeps: the largest of the proportions of `size` (height, width), centred."""
    crop_height = min(height, round(width * size[0] / size[1]) or 1)
    crop_width = min(width, round(height * size[1] / size[0]) or 1)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Centre-crop to the proportions of `size` (height, width) and resize to it (Lanczos, antialiased).

    A crop that has the size already is not resampled. Resampled floats may leave the range of the image by a little.
    """
    height, width = array.shape[:2]
    box = left, top, right, bottom = centre_box(height, width, size)
    if (bottom - top, right - left) == size:
        return array[top:bottom, left:right]

    def resize(band: np.ndarray) -> np.ndarray:
        picture = _picture(band)
        return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))

    if array.dtype == np.uint8 and array.shape[2] in {1, 3}:
        return resize(array).reshape(*size, -1)
    bands = np.stack([resize(array[:, :, band].astype(np.float32)) for band in range(array.shape[2])], axis=2)
    return _rounded(bands, array.dtype)


def to_depth(array: np.ndarray, depth: Depth) -> np.ndarray:
    """The image in another depth: 8-bit images may become 16-bit ones, full range to full range (x 257).

    UnreadableImageError: numbers would be lost, or there is no way to tell what they mean there.
    """
    there = depth_of(array)
    if there == depth:
        return array
    if (there, depth) == ("uint8", "uint16"):
        return array.astype(np.uint16) * 257
    raise UnreadableImageError(f"an image of {there} values, where {depth} is wanted")


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the rotation and mirroring that an EXIF (or TIFF) orientation of 1 to 8 names."""
    if orientation in {5, 6, 7, 8}:
        array = array.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    return array


def _picture(array: np.ndarray) -> Image.Image:
    """A Pillow image of [h, w], [h, w, 1] or [h, w, 3]."""
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as `dtype`, rounded and kept in its range where it is one of whole numbers."""
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)
