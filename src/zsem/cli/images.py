"""Images in and pictures out, as commands need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from zsem.cli.command import progress
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.data.images import ImageSet
    from zsem.data.intensity import Intensity
    from zsem.hspace.editable import Editable
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.imaging import ImageModel

Choice = Literal["all", "train", "val", "test"]
"""A split of the images, or all of them."""
SHOWN = 8
"""How many images a picture shows at most."""
SHOWN_PIXELS = 64
"""Smaller images are enlarged by a whole number to about this side."""


def open_autoencoder(name: str) -> DiffusionAutoencoder:
    """The autoencoder of a run folder, on the hub, or in a foreign checkpoint."""
    from zsem import api
    from zsem.models.autoencoder import DiffusionAutoencoder

    return api.load(name, kind=DiffusionAutoencoder)


def open_editable(name: str) -> Editable:
    """A model with a bottleneck to edit in: a diffusion model or an autoencoder, found as `open_autoencoder` does."""
    from zsem import api
    from zsem.models.autoencoder import DiffusionAutoencoder
    from zsem.models.diffusion import DiffusionModel
    from zsem.models.imaging import ImageModel

    model = api.load(name, kind=ImageModel)
    assert isinstance(model, DiffusionModel | DiffusionAutoencoder)
    return model


def classes_for(model: Editable, images: ImageSet) -> Tensor | None:
    """The classes of images for a model that is told such, else None. ZsemError: they have none, or others."""
    from zsem.models.diffusion import DiffusionModel

    if not isinstance(model, DiffusionModel) or not model.config.conditional:
        return None
    names, known = images.class_names, model.config.class_names
    if bool((images.classes < 0).any()) or (known and not set(names) <= set(known)):
        wanted = f": {', '.join(known)}" if known else ""
        raise ZsemError(f"{images.source}: put the images into folders that are called as the model's classes{wanted}")
    if not known:
        return images.classes
    return images.classes.new_tensor([known.index(names[int(i)]) for i in images.classes])


def open_images(
    source: str, model: ImageModel, *, split: Choice = "all", limit: int | None = None, as_trained: bool = False
) -> ImageSet:
    """Images as `model` takes them; what is odd about them is said on stderr.

    as_trained: all of them, split as the training of the model would have split them.
    """
    from zsem.data.images import held_out_name, load_images

    if split == "val":
        split = held_out_name(source)
    with progress("reading") as done:
        images = load_images(
            source,
            size=model.config.image_size,
            channels=model.config.image_channels,
            depth=model.config.intensity.depth,
            background=model.config.background,
            limit=limit,
            split=None if split == "all" else split,
            # what training held out depends on it
            group=None if split == "all" and not as_trained else model.history.get("group"),
            progress=done,
        )
    for note in images.notes:
        print(f"zsem: note: {note}", file=sys.stderr)
    return images


def file_stems(paths: Sequence[str], number: int) -> list[str]:
    """Names without a suffix for `number` images: the relative paths they come from, or their positions without those.

    Never absolute, never upwards, never twice the same, so that paths from a foreign file of codes do no harm.
    """
    if not paths:
        return [f"{i:06d}" for i in range(number)]
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        pure = PurePosixPath(path.replace("\\", "/"))
        parts = [part for part in pure.parts if part not in {"..", "/"} and not part.endswith(":")]
        safe = PurePosixPath(*parts or ["image"])
        name, twin = str(safe.with_suffix("")), 1
        while name.casefold() in taken:
            twin += 1
            name = str(safe.with_name(f"{safe.stem}-{twin}"))
        taken.add(name.casefold())
        names.append(name)
    return names


def save_images(folder: Path, stems: Sequence[str], images: Tensor, intensity: Intensity) -> None:
    """Write images [n, c, h, w] in [-1, 1] below `folder`, as stored values in the depth of `intensity`."""
    from zsem.data.pixels import save_pixels

    for stem, image in zip(stems, intensity.restore(images), strict=True):
        save_pixels(image, folder / stem)


def save_picture(path: Path, rows: Sequence[Tensor], captions: Sequence[str] | None = None) -> None:
    """Write rows of uint8 images [n, c, h, w], grey or RGB, as one picture."""
    from zsem.data.pixels import grid, save_png

    save_png(grid(*rows, captions=captions, scale=max(1, SHOWN_PIXELS // rows[0].shape[-1])), path)


def shown(model: ImageModel, images: ImageSet) -> Tensor:
    """Stored images as pictures to look at, uint8 [n, 1 or 3, h, w]."""
    return model.display(model.config.intensity.normalise(images.pixels))


def chunks(number: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover 0 .. number."""
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))
