"""What a training shows of itself: the same images, or samples from the same noise, every time."""

from __future__ import annotations

from pathlib import Path

from zsem.data.images import ImageSet
from zsem.data.pixels import grid, save_png
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.baseline import LatentVariableModel
from zsem.models.diffusion import DiffusionModel

COLUMNS = 8  # samples in a row


def sample_sheet(model: DiffusionAutoencoder, images: ImageSet, path: Path) -> None:
    """A PNG of three rows: the originals, their exact reconstruction, and z alone (fresh x_T, always the same)."""
    codes = model.encode(images)
    exact = model.display(model.decode(codes))
    z_alone = model.display(model.decode(model.vary(codes)))
    originals = model.display(model.config.intensity.normalise(images.pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(originals, exact, z_alone, captions=["original", "exact", "z alone"]), path)


def samples_sheet(model: DiffusionModel | LatentVariableModel, path: Path, number: int = 32) -> None:
    """A PNG of `number` samples in rows of eight, always from the same noise, without guidance.

    Each row of a model with classes is of one of them, in turn.
    """
    rows = range(0, number, COLUMNS)
    classes = captions = None
    if isinstance(model, DiffusionModel):
        if (known := model.config.unet.num_classes) is not None:
            names = model.config.class_names or tuple(f"class {index}" for index in range(known))
            classes = [position // COLUMNS % known for position in range(number)]
            captions = [names[classes[row]] for row in rows]
        samples = model.sample(number, classes=classes, solver="unipc", steps=20)
    else:
        samples = model.sample(number)
    shown = model.display(samples)
    save_png(grid(*(shown[row : row + COLUMNS] for row in rows), captions=captions), path)
