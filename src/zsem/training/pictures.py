"""What a training shows of itself: the same images, decoded with the same noise, every time."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from zsem.data.pixels import grid, save_png, to_uint8
from zsem.models.autoencoder import DiffusionAutoencoder


def sample_sheet(model: DiffusionAutoencoder, images: UInt8[Tensor, "n c h w"], path: Path) -> None:
    """A PNG of three rows: the originals, their exact reconstruction, and z alone (fresh x_T, always the same)."""
    codes = model.encode(images)
    exact = to_uint8(model.decode(codes))
    z_alone = to_uint8(model.decode(model.vary(codes)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(grid(images, exact, z_alone, captions=["original", "exact", "z alone"]), path)
