"""What Pillow cannot read: PNG files of 16 bits per channel in colour, TIFF files of unusual numbers or channels."""

from __future__ import annotations

import importlib.util
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from zsem.data.limits import UnreadableImageError, check_claim
from zsem.data.shaping import standard, upright

MEND = "pip install 'zsem[formats]' to read it"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, PHOTOMETRIC, SAMPLES, EXTRA, KIND = 258, 262, 277, 338, 339  # TIFF tags
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
REDUCED = 1
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
COMPRESSIONS = frozenset((1, 5, 8, 32773, 32946, 34925, 50000))
"""None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard."""
ALPHA_CHANNELS = (2, 4)

# tifffile logs oddities; without a handler they would go to stderr, and files that cannot be read are named by us
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def pillow_reads(image: Image.Image) -> bool:
    """Whether Pillow gives all that a page of a TIFF file holds: it drops extra channels and mixes up some types."""
    tags: Any = getattr(image, "tag_v2", {})
    bits = _numbers(tags.get(BITS), 1)
    kinds = set(_numbers(tags.get(KIND), UNSIGNED))
    samples = tags.get(SAMPLES, 1)
    if max(bits) <= 8:
        extra = _numbers(tags.get(EXTRA), UNASSOCIATED)
        return kinds <= {UNSIGNED, UNDEFINED} and samples <= 4 and set(extra) <= {ASSOCIATED, UNASSOCIATED}
    if any(tile[0] == "libtiff" and "B" in str(tile[3][0]) for tile in getattr(image, "tile", ())):
        return False  # it swaps bytes that its decompressor has swapped already
    return samples == 1 and tags.get(PHOTOMETRIC) == BLACK_IS_ZERO and max(bits) <= 32 and len(kinds) == 1


def whole_type(image: Image.Image) -> type[np.generic]:
    """What the 32-bit whole numbers of a Pillow image of mode I are in its file."""
    if image.format in {"PPM", "PNG"}:
        return np.uint16
    tags: Any = getattr(image, "tag_v2", {})
    signed = SIGNED in _numbers(tags.get(KIND), UNSIGNED)
    if max(_numbers(tags.get(BITS), 32)) <= 16:
        return np.int16 if signed else np.uint16
    return np.int32 if signed or image.format is None else np.uint32


def _numbers(value: Any, default: int) -> tuple[int, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(default if number is None else int(number) for number in values) or (default,)


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def read_png(data: bytes, orientation: int, background: Sequence[int]) -> np.ndarray:
    """The pixels of a PNG file of 16 bits, uint16 [h, w, c]; transparent ones show `background`."""
    if not _installed("imagecodecs"):
        raise UnreadableImageError(f"a 16-bit PNG file in colour: {MEND}")
    import imagecodecs

    array = imagecodecs.png_decode(data)
    array = array.reshape(*array.shape[:2], -1)
    if array.shape[2] in ALPHA_CHANNELS:
        array = over(array, background)
    return upright(array, orientation)


def over(array: np.ndarray, background: Sequence[int], *, associated: bool = False) -> np.ndarray:
    """An image whose last channel is alpha, over a colour given in 8 bits; grey over a colour that is not becomes RGB.

    associated: the colours are multiplied by alpha already.
    """
    full = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
    alpha = array[:, :, -1:] / full
    ground = np.array(background) / 255 * full
    values = array[:, :, :-1].astype(np.float64)
    if values.shape[2] == 1 and len(set(background)) == 1:
        ground = ground[:1]
    mixed = (values if associated else alpha * values) + (1 - alpha) * ground
    return (np.rint(mixed).clip(0, full) if array.dtype.kind in "ui" else mixed).astype(array.dtype)


def read_tiff(data: bytes, background: Sequence[int]) -> np.ndarray:
    """The pixels of any TIFF file, [h, w, c]: pages of one size are channels, else the first page counts."""
    if not _installed("tifffile", "imagecodecs"):
        raise UnreadableImageError(f"a TIFF file of unusual numbers or channels: {MEND}")
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first: Any = file.pages[0]
        every: list[Any] = list(file.pages)
        pages = [page for page in every if page is first or not int(page.subfiletype) & REDUCED]
        if any((page.shape, page.dtype) != (first.shape, first.dtype) for page in pages):
            pages = [first]
        check_claim((len(pages), *first.shape), first.dtype.itemsize if first.dtype else 1, len(data))
        return np.concatenate([_page(page, len(data), background) for page in pages], axis=2)


def _page(page: Any, size: int, background: Sequence[int]) -> np.ndarray:
    """One page of a TIFF file, [h, w, c]."""
    photometric, compression = int(page.photometric), int(page.compression)
    if photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB} or compression not in COMPRESSIONS:
        raise UnreadableImageError(f"a TIFF file of photometric {photometric} and compression {compression}")
    if page.axes not in {"YX", "YXS", "SYX"}:
        raise UnreadableImageError(f"a TIFF page with the axes {page.axes}, where an image has height and width")
    check_claim(page.shape, page.dtype.itemsize, size)
    ends = [a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if max(ends, default=0) > size or len(ends) < int(np.prod(page.chunked)):
        raise UnreadableImageError("damaged (it ends too early)")
    array = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        array = array.transpose(1, 2, 0)
    array = standard(array.reshape(*array.shape[:2], -1))
    if photometric == WHITE_IS_ZERO and array.dtype.kind == "u":
        array = np.iinfo(array.dtype).max - array
    extra = tuple(int(kind) for kind in page.extrasamples)
    if extra in {(ASSOCIATED,), (UNASSOCIATED,)} and array.shape[2] in ALPHA_CHANNELS:
        array = over(array, background, associated=extra == (ASSOCIATED,))
    orientation = page.tags.get(274)
    return upright(array, int(orientation.value) if orientation else 1)
