"""What is refused of a file before its pixels are read, and what readers raise on damaged files."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence

from PIL import Image

MAX_SAMPLES = 3 * 178_956_970
"""Values of one image, over all channels: three for every pixel that Pillow allows."""
FREE = 64 * 2**20
"""Bytes of pixels that a file of any size may claim."""
RATIO = 1100
"""Bytes of pixels per byte of file beyond that; deflate, the densest of the usual compressions, ends at 1032."""

# what Pillow, numpy, tifffile and imagecodecs raise on damaged files
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


class UnreadableImageError(Exception):
    """An image that is left out; the text says why."""


def check_claim(shape: Sequence[int], itemsize: int, size: int) -> None:
    """Refuse an image whose header claims more than a file of `size` bytes can hold, or more than is ever read.

    A few bytes are enough to ask for gigabytes, by accident or on purpose. UnreadableImageError: it does.
    """
    samples = math.prod(shape)
    claim = " x ".join(map(str, shape))
    if samples > MAX_SAMPLES:
        raise UnreadableImageError(f"too large: {claim} values")
    if samples * itemsize > max(FREE, RATIO * size):
        raise UnreadableImageError(f"damaged (it claims {claim} values and has {size} bytes)")
