"""The images of a training: how they are read, and what they ask of the model's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from torch.utils.data import Dataset

from zsem.data.images import ImageSet, load_images
from zsem.data.intensity import EIGHT_BITS, Intensity, choose_intensity, intensity_note
from zsem.data.shaping import sides
from zsem.models.inputs import InputConfig
from zsem.training.families import kind_of
from zsem.values.errors import ZsemError

Source = str | Path | ImageSet | Dataset
"""A folder, an archive or a table of images, images that were read, or a torch Dataset."""
ConfigT = TypeVar("ConfigT", bound=InputConfig)


@runtime_checkable
class Classed(Protocol):
    """The configuration of a model that can know classes."""

    class_names: tuple[str, ...]

    @property
    def conditional(self) -> bool: ...

    def for_classes(self, names: Sequence[str]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How the images of a training are read, beyond what the model's configuration says."""

    keep_shape: bool = False
    """resize nothing: the images, all of one size, are taken as they are, and the model is made for them"""
    intensity: Literal["full", "percentiles"] | None = None
    """what becomes -1 .. 1: the type's whole range (default), or percentiles 0.1 to 99.9 (default for floats)"""
    window: tuple[float, float] | None = None
    """low and high value that become -1 .. 1, in place of --intensity; what lies outside is not clipped"""
    group: str | None = None
    """column of attributes.csv that names what no split may divide (patient, slide); by default the one named group"""
    conditional: bool = False
    """tell a diffusion model the classes of the images (class folders), so that it can be asked for one"""


def read_images(
    data: Source, config: ConfigT, options: ImageOptions, *, limit: int | None, fixed: bool
) -> tuple[ImageSet, ConfigT]:
    """The images to train on, and the configuration for them: their size, channels, intensity and classes.

    fixed: the model is there already, so that the images must fit it.
    ZsemError: they do not, or they cannot be read.
    """
    if isinstance(data, ImageSet):
        images = data.limit(limit)
    else:
        images = load_images(
            data, size=None if options.keep_shape else config.image_size, group=options.group, limit=limit,
            depth=config.intensity.depth if fixed else None, background=config.background,
        )  # fmt: skip
    if sides(images.size) != sides(config.image_size):
        if fixed or not options.keep_shape:
            there, wanted = (
                str(size) if isinstance(size, int) else " x ".join(map(str, size))
                for size in (images.size, config.image_size)
            )
            raise ZsemError(f"the images are {there} px and the model is for {wanted} px: give --size, or --keep-shape")
        config = replace(config, image_size=images.size)
    if images.channels != config.image_channels:
        if fixed:
            raise ZsemError(f"the model takes {config.image_channels} channels, the images have {images.channels}")
        config = replace(config, image_channels=images.channels)
    if not fixed and config.intensity == EIGHT_BITS:
        config = replace(config, intensity=intensity_for(images, options))
    elif config.intensity.depth != images.depth:
        raise ZsemError(f"the model takes {config.intensity.depth} values, the images have {images.depth}")
    config = with_classes(config, images, options, fixed=fixed)
    extremes = [value for original in images.originals for value in (original.low, original.high)]
    note = intensity_note(config.intensity, min(extremes), max(extremes)) if extremes else None
    return (replace(images, notes=[*images.notes, note]) if note else images), config


def with_classes(config: ConfigT, images: ImageSet, options: ImageOptions, *, fixed: bool) -> ConfigT:
    """The configuration of a model for the classes of the images, where it is to know them; errors as in `read_images`.

    Images whose class is not told are the objective's concern.
    """
    if not isinstance(config, Classed):
        if options.conditional:
            raise ZsemError(f"a model of kind {kind_of(config)} is told no classes: leave out --conditional")
        return config
    if not (options.conditional or config.conditional):
        return config
    names = tuple(images.class_names)
    if len(names) < 2:
        raise ZsemError(
            f"the model is told the classes of the images, and {images.source} has {', '.join(names) or 'none'}: put "
            "the images into a folder for each class, at least two"
        )
    if fixed and not config.conditional:
        raise ZsemError("the model to start from is told no classes: leave out --conditional, or --init")
    fitted = config.for_classes(names)
    # a model whose classes have no names yet takes those of the images
    if fixed and config not in {fitted, replace(fitted, class_names=())}:
        there, wanted = (", ".join(some) or "others" for some in (names, config.class_names))
        raise ZsemError(f"the classes of the images are {there}, those of the model {wanted}: give the same")
    return fitted


def intensity_for(images: ImageSet, options: ImageOptions) -> Intensity:
    """The map of stored values to -1 .. 1 that `options` ask for. ZsemError: both a window and another policy."""
    if options.window is not None:
        if options.intensity is not None:
            raise ZsemError("give --intensity or --window, not both")
        return choose_intensity(images.pixels[:0], low=options.window[0], high=options.window[1])
    if options.intensity == "full" or (options.intensity is None and images.depth != "float32"):
        return choose_intensity(images.pixels[:0], kind="full")
    return choose_intensity(images.split("train").pixels, kind="percentiles")
