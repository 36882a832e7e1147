"""The images that a model is given, of whatever kind, as pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zsem.data.images import ImageSet, load_image, load_images
from zsem.data.pixels import from_uint8
from zsem.values.errors import ZsemError

OneImage = str | Path | Image.Image | np.ndarray
Images = ImageSet | OneImage | Tensor | Sequence[OneImage]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images ready for a network: uint8 pixels, or floats in [-1, 1], [n, c, h, w], and where they come from."""

    pixels: UInt8[Tensor, "n c h w"] | Float[Tensor, "n c h w"]
    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    def part(self, rows: slice) -> Float[Tensor, "b c h w"]:
        """Some of the images as the network sees them, in [-1, 1]."""
        pixels = self.pixels[rows]
        return from_uint8(pixels) if pixels.dtype == torch.uint8 else pixels.float()


def read_inputs(images: Images, size: int, channels: int) -> Inputs:
    """Images of any kind at `size` pixels with `channels` channels.

    A path is a folder, an archive or a file. A list of files keeps its order and must be readable as a whole. An array
    is [h, w], [h, w, c] or [n, h, w, c], uint8; a tensor [n, c, h, w], uint8 or float in [-1, 1], of the right size.
    Raises ZsemError where something cannot be read or does not fit.
    """
    if isinstance(images, ImageSet):
        return Inputs(
            pixels=fitting(images.pixels, size, channels), paths=tuple(images.paths), sha256=tuple(images.sha256)
        )
    if isinstance(images, Tensor):
        return Inputs(pixels=fitting(images, size, channels))
    if channels not in {1, 3}:
        raise ZsemError(f"files and pictures have 1 or 3 channels, this model has {channels}: give it a tensor")
    if isinstance(images, (str, Path)):
        return read_inputs(load_images(images, size=size, channels=1 if channels == 1 else 3), size, channels)
    if isinstance(images, np.ndarray):
        single = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] <= 4)
        images = [images] if single else list(images)
    elif isinstance(images, Image.Image):
        images = [images]
    if not images:
        raise ZsemError("there are no images to encode: the list is empty")
    pixels = torch.stack([load_image(image, size, channels) for image in images])
    if not all(isinstance(image, (str, Path)) for image in images):
        return Inputs(pixels=pixels)
    files = [Path(image) for image in images if isinstance(image, (str, Path))]
    sums = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return Inputs(pixels=pixels, paths=tuple(file.as_posix() for file in files), sha256=sums)


def fitting(pixels: Tensor, size: int, channels: int) -> Tensor:
    """The same pixels, if they have the model's shape."""
    if pixels.shape[1:] != (channels, size, size):
        raise ZsemError(f"a tensor of images must be [n, {channels}, {size}, {size}] here, not {list(pixels.shape)}")
    return pixels
