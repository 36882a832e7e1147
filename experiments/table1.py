"""How close faces come out of codes of all kinds (DiffAE, table 1).

    python -m experiments.models train avatars-64 avatars-64-ddpm avatars-64-vae
    python -m experiments.table1 [--number 1000] [--steps 10 20 50 100] [--quick] [--out runs/tables/table1]

SSIM, ST-LPIPS and MSE on [0, 1] of held-out faces from: as many principal components of the pixels as z has numbers; a
VAE; the unconditional twin, from x_T by DDIM backwards; the autoencoder, from z and random x_T (three seeds), x_T by
DDIM backwards, or exact noise (x_T and carry). Encoding and decoding take T steps each, the exact encoding one more.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.reconstructions import (
    BATCH,
    MEASURES,
    SEEDS,
    closeness,
    components_of,
    from_components,
    shown,
    with_fresh_noise,
)
from experiments.tables import Cell, Faces, extent_of, fill, parser_of, publish, table
from PIL import Image
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.pixels import grid, save_png, to_uint8
from zsem.nets.perceptual import load_stlpips

NAME, STEPS = "table1", (10, 20, 50, 100)
PICTURED, DRAWN_STEPS = 8, 20
NOTE = (
    "StyleGAN2, VQ-GAN, VQ-VAE2 and NVAE, which the paper compares with, are not remade: figures of such models belong "
    "to trainings of a size that no table here has. Images are clipped to [-1, 1]; SSIM and MSE are taken on [0, 1]."
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """From faces to faces.

    says: what it is. dims: length of its code. passes: evaluations of a network per step, 0 where there are no steps.
    decode: takes images, steps and a seed. sets: how many seeds.
    """

    says: str
    dims: int
    passes: int
    decode: Callable[[ImageSet, int, int], Tensor]
    sets: int = 1

    def keys(self, name: str, all_steps: Sequence[int]) -> dict[int, list[str]]:
        """Names of its cells by number of steps; 0 stands for none."""
        return {
            steps: [f"{name}-{steps}-{seed}" for seed in range(self.sets)]
            for steps in (all_steps if self.passes else [0])
        }


def ways_of(faces: Faces) -> dict[str, Way]:
    """All ways, by name."""
    model, twin, vae = faces.autoencoder, faces.twin, faces.vae
    train, z, pixels = components_of(faces.images), model.config.z_dim, math.prod(model.noise_shape)

    def by_twin(images: ImageSet, steps: int, seed: int) -> Tensor:
        return twin.decode(twin.invert(images, codec="ddim", steps=steps, batch_size=BATCH), batch_size=BATCH)

    def by_z(images: ImageSet, steps: int, seed: int) -> Tensor:
        codes = model.encode(images, noise=False, batch_size=BATCH)
        return model.decode(with_fresh_noise(model, codes, steps=steps, seed=seed), batch_size=BATCH)

    def by_noise(codec: str, images: ImageSet, steps: int, seed: int) -> Tensor:
        return model.decode(model.encode(images, codec=codec, steps=steps, batch_size=BATCH), batch_size=BATCH)

    return {
        "pca": Way(
            says="PCA", dims=min(z, len(train)), passes=0,
            decode=lambda images, steps, seed: from_components(train, images.pixels, z),
        ),
        "vae": Way(
            says="VAE", dims=vae.config.z_dim, passes=0, decode=lambda images, steps, seed: vae.reconstruct(images)
        ),
        "twin": Way(says="DDIM twin, inverted x_T", dims=pixels, passes=2, decode=by_twin),
        "random": Way(says="autoencoder, random x_T", dims=z, passes=1, decode=by_z, sets=SEEDS),
        "ddim": Way(
            says="autoencoder, DDIM-inverted x_T", dims=z + pixels, passes=2, decode=functools.partial(by_noise, "ddim")
        ),
        "exact": Way(
            says="autoencoder, exact noise", dims=z + 2 * pixels, passes=2, decode=functools.partial(by_noise, "exact")
        ),
    }  # fmt: skip


def cells_of(ways: Mapping[str, Way], images: ImageSet, all_steps: Sequence[int]) -> dict[str, Cell]:
    """All cells of the table, by name."""
    distance, cells = load_stlpips(), {}
    for name, way in ways.items():
        for steps, keys in way.keys(name, all_steps).items():
            for seed, key in enumerate(keys):

                def work(way: Way = way, steps: int = steps, seed: int = seed) -> dict[str, Any]:
                    return closeness(images, way.decode(images, steps, seed), distance)

                cells[key] = Cell(evaluations=way.passes * steps * len(images), work=work)
    return cells


def draw(ways: Mapping[str, Way], images: ImageSet, steps: int) -> Image.Image:
    """The first faces, by every way."""
    some = images.subset(range(min(PICTURED, len(images))))
    rows = {"originals": some.pixels}
    rows |= {way.says: to_uint8(way.decode(some, steps, 0)) for way in ways.values()}
    return grid(*rows.values(), captions=list(rows), scale=max(1, 64 // some.pixels.shape[-1]))


def report(ways: Mapping[str, Way], found: Mapping[str, Any], all_steps: Sequence[int], number: int) -> list[str]:
    """The table in words."""
    rows = []
    for name, way in ways.items():
        for steps, keys in way.keys(name, all_steps).items():
            figures = shown([found[key] for key in keys])
            rows.append([way.says, f"{way.dims:,}", str(steps or ""), *figures])
    return [
        "# Reconstruction",
        f"{number:,} held-out faces. Random x_T: mean and standard deviation over {SEEDS} seeds; the intervals of all "
        f"means are in {NAME}.json. {NOTE}",
        "",
        *table(["", "latent dimension", "T", *MEASURES], rows),
        "",
        "![The same faces by every way](reconstructions.png)",
    ]


def main() -> None:
    parser = parser_of(NAME, __doc__, number=1000, what="held-out faces")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="T; default 10 20 50 100")
    given: argparse.Namespace = extent_of(parser)
    all_steps = [2, 4] if given.quick else given.steps
    faces = Faces(given)
    images = faces.held_out(given.number)
    ways = ways_of(faces)
    stamp = faces.stamp(faces.autoencoder, faces.twin, faces.vae, number=len(images))
    found = fill(given.out / "cells" / stamp, cells_of(ways, images, all_steps))
    drawn = DRAWN_STEPS if DRAWN_STEPS in all_steps else all_steps[-1]
    save_png(draw(ways, images, drawn), given.out / "reconstructions.png")
    publish(given.out, NAME, report(ways, found, all_steps, len(images)), found, quick=given.quick)


if __name__ == "__main__":
    main()
