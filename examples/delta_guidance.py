"""An edit that a plain decode hardly shows, and delta guidance does.

    python examples/delta_guidance.py RUN DATA --attribute glasses --out picture.png

The direction is the difference of the mean z of images with and without the attribute (DATA/attributes.csv). Every row
decodes the same new z with the same, exact noise; `w` is the scale of the extrapolation from the old z to the new one.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from zsem import api
from zsem.data.images import ImageSet, load_images
from zsem.data.pixels import grid, save_png, to_uint8
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.edits import edit


def mean_difference(model: DiffusionAutoencoder, images: ImageSet, attribute: str) -> Tensor:
    """Mean z with the attribute minus mean z without, [d]."""
    has = torch.from_numpy(images.attributes[attribute]) == 1
    z = model.encode(images, noise=False, batch_size=64).z
    return z[has].mean(0) - z[~has].mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--attribute", default="glasses")
    parser.add_argument("--amount", type=float, default=1.0, help="1 moves z by the difference of the two means")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--number", type=int, default=8)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    model = api.load(arguments.run)
    size, channels = model.config.image_size, model.config.image_channels
    images = load_images(arguments.data, size=size, channels=channels)
    step = arguments.amount * mean_difference(model, images.split("train"), arguments.attribute)
    held_out = images.held_out()
    without = [i for i, value in enumerate(held_out.attributes[arguments.attribute]) if value == 0]
    shown = held_out.subset(without[: arguments.number])
    codes = model.encode(shown)
    rows = [to_uint8(edit(model, codes, codes.z + step, scale=scale)) for scale in arguments.scales]
    captions = ["original", *(f"w = {scale:g}" for scale in arguments.scales)]
    save_png(grid(shown.pixels, *rows, captions=captions), arguments.out)


if __name__ == "__main__":
    main()
