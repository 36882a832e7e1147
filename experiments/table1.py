"""How close faces come out of codes of all kinds (DiffAE, table 1).

    python -m experiments.models train avatars-64 avatars-64-ddpm avatars-64-vae
    python -m experiments.table1 [--number 1000] [--steps 10 20 50 100] [--quick] [--out runs/tables/table1]

SSIM, ST-LPIPS and MSE on [0, 1] of held-out faces from: as many principal components of the pixels as z has numbers; a
VAE; the unconditional twin, from x_T by DDIM backwards; the autoencoder, from z and random x_T (three seeds, beyond 20
steps one), x_T by DDIM backwards, or exact noise (x_T and carry). Encoding and decoding take T steps each, the exact
encoding one more.
"""

from __future__ import annotations

from experiments.compiling import compile_network, uncompiled
from experiments.reconstructions import (
    MEASURES,
    SETS_SAID,
    Way,
    by_inversion,
    by_noise,
    by_z,
    cells_of,
    components_of,
    drawn,
    from_components,
    rows_of,
)
from experiments.tables import STEPS, Faces, extent_of, fill, parser_of, publish, table

from zsem.data.pixels import save_png
from zsem.nets.perceptual import load_stlpips

NAME, DRAWN_STEPS, QUICK_STEPS = "table1", 20, [2, 4]
NOTE = (
    "StyleGAN2, VQ-GAN, VQ-VAE2 and NVAE, which the paper compares with, are not remade: figures of such models belong "
    "to trainings of a size that no table here has. Images are clipped to [-1, 1]; SSIM and MSE are taken on [0, 1]."
)


def ways_of(faces: Faces) -> dict[str, Way]:
    """All ways, by name."""
    model, vae, train = faces.autoencoder, faces.vae, components_of(faces.images)
    z = model.config.z_dim
    return {
        "pca": Way(
            says="PCA", dims=min(z, len(train)), passes=0,
            decode=lambda images, steps, seed: from_components(train, images.pixels, z),
        ),
        "vae": Way(
            says="VAE", dims=vae.config.z_dim, passes=0, decode=lambda images, steps, seed: vae.reconstruct(images)
        ),
        "twin": by_inversion(faces.twin),
        "random": by_z(model),
        "ddim": by_noise(model, "ddim"),
        "exact": by_noise(model, "exact"),
    }  # fmt: skip


def main() -> None:
    parser = parser_of(NAME, __doc__, number=1000, what="held-out faces")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="T; default 10 20 50 100")
    given = extent_of(parser)
    all_steps = QUICK_STEPS if given.quick else given.steps
    faces = Faces(given)
    images, ways = faces.held_out(given.number), ways_of(faces)
    stamp = faces.stamp(faces.autoencoder, faces.twin, faces.vae, number=len(images))
    for model in (faces.autoencoder, faces.twin):
        compile_network(model.unet, len(images))
    found = fill(given.out / "cells" / stamp, cells_of(ways, images, all_steps, load_stlpips()))
    steps = DRAWN_STEPS if DRAWN_STEPS in all_steps else all_steps[-1]
    with uncompiled():
        save_png(drawn(ways, images, steps), given.out / "reconstructions.png")
    lines = [
        "# Reconstruction",
        f"{len(images):,} held-out faces. {SETS_SAID}; the intervals of all means are in {NAME}.json. {NOTE}",
        "",
        *table(["", "latent dimension", "T", *MEASURES], rows_of(ways, found, all_steps)),
        "",
        f"![The same faces by every way, in {steps} steps](reconstructions.png)",
    ]
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
