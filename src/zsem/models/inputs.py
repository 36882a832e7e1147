"""The images that a model is given, of whatever kind, as pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from zsem.data.images import ImageSet, load_image, load_images
from zsem.data.intensity import Intensity
from zsem.data.shaping import sides
from zsem.values.errors import ZsemError

OneImage = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """What images a model takes; the configuration of every model of images begins with it."""

    image_size: int | tuple[int, int] = 64
    """side of the square images, or height and width, pixels"""
    image_channels: int = 3
    """1 for grey, 3 for colour, any number for other data"""
    intensity: Intensity = field(default_factory=Intensity)
    """how stored values become -1 .. 1: by default 8 bits; a training sets it by its images"""
    background: str = "white"
    """colour behind transparent pixels of image files"""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        height, width = sides(self.image_size)
        return self.image_channels, height, width


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images ready for a network, and where they come from.

    pixels: as they are stored, or floats in [-1, 1], [n, c, h, w].
    intensity: what brings stored pixels to [-1, 1]; None where they are there.
    """

    pixels: Shaped[Tensor, "n c h w"]
    intensity: Intensity | None
    paths: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> Inputs:
        """Some of the images."""
        return replace(self, pixels=self.pixels[rows], paths=self.paths[rows], sha256=self.sha256[rows])

    def part(self, rows: slice) -> Float[Tensor, "b c h w"]:
        """Some of the images as the network sees them, in [-1, 1]."""
        pixels = self.pixels[rows]
        return pixels.float() if self.intensity is None else self.intensity.normalise(pixels)


Images = ImageSet | OneImage | Tensor | Sequence[OneImage] | Inputs


def read_inputs(images: Images, shape: tuple[int, int, int], intensity: Intensity, background: str = "white") -> Inputs:
    """Images of any kind, brought to `shape`: channels, height and width.

    A path is a folder, an archive or a file. A list of files keeps its order and must be readable as a whole. An array
    is [h, w], [h, w, c] or [n, h, w, c], of the depth of `intensity`; so is a tensor [n, c, h, w] of whole numbers, or
    it is float in [-1, 1]. Sets and tensors must have the right shape. What was read before stays as it is.
    Raises ZsemError where something cannot be read or does not fit.
    """
    channels, size, depth = shape[0], shape[1:], intensity.depth
    if isinstance(images, Inputs):
        fitting(images.pixels, shape)
        return images
    if isinstance(images, ImageSet):
        stored = of_depth(fitting(images.pixels, shape), intensity)
        return Inputs(pixels=stored, intensity=intensity, paths=tuple(images.paths), sha256=tuple(images.sha256))
    if isinstance(images, Tensor):
        pixels, whole = fitting(images, shape), not images.dtype.is_floating_point
        return Inputs(pixels=of_depth(pixels, intensity) if whole else pixels, intensity=intensity if whole else None)
    if isinstance(images, (str, Path)):
        loaded = load_images(images, size=size, channels=channels, depth=depth, background=background)
        return read_inputs(loaded, shape, intensity)
    if isinstance(images, np.ndarray):
        single = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in {1, 2, 3, 4, channels})
        images = [images] if single else list(images)
    elif isinstance(images, Image.Image):
        images = [images]
    if not images:
        raise ZsemError("there are no images to encode: the list is empty")
    read = [load_image(image, size, channels, depth=depth, background=background) for image in images]
    pixels = torch.stack(read)
    if not all(isinstance(image, (str, Path)) for image in images):
        return Inputs(pixels=pixels, intensity=intensity)
    files = [Path(image) for image in images if isinstance(image, (str, Path))]
    sums = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return Inputs(pixels=pixels, intensity=intensity, paths=tuple(file.as_posix() for file in files), sha256=sums)


def fitting(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The same pixels, if they have the model's shape."""
    if pixels.shape[1:] != shape:
        wanted = ", ".join(map(str, shape))
        raise ZsemError(f"a tensor of images must be [n, {wanted}] here, not {list(pixels.shape)}")
    return pixels


def of_depth(pixels: Tensor, intensity: Intensity) -> Tensor:
    """The same pixels, if they have the depth that the model was trained on."""
    depth = str(pixels.dtype).removeprefix("torch.")
    if depth != intensity.depth:
        raise ZsemError(f"the images are {depth} and the model was trained on {intensity.depth}: convert them")
    return pixels
