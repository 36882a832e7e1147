"""What a training shows of itself: the same images, decoded with the same noise, every time."""

from __future__ import annotations

from pathlib import Path

from zsem.data.images import ImageSet
from zsem.data.pixels import grid, save_png
from zsem.models.autoencoder import DiffusionAutoencoder


def sample_sheet(model: DiffusionAutoencoder, images: ImageSet, path: Path) -> None:
    """A PNG of three rows: the originals, their exact reconstruction, and z alone (fresh x_T, always the same)."""
    codes = model.encode(images)
    exact = model.display(model.decode(codes))
    z_alone = model.display(model.decode(model.vary(codes)))
    originals = model.display(model.config.intensity.normalise(images.pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(originals, exact, z_alone, captions=["original", "exact", "z alone"]), path)
