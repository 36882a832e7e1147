"""Real faces interpolated through codes and through the noise of an unconditional model (DiffAE, Fig. 4, and its PPL).

    python -m experiments.models train avatars-64 avatars-64-ddpm
    python -m experiments.figure4 [--number 1000] [--quick] [--out runs/tables/figure4]

Held-out faces are encoded and what lies between each and the next is decoded: by the autoencoder from z on a straight
line, x_T on a great circle and what belongs to x_T on a straight line, by its unconditional twin from x_T on a great
circle alone. PPL is the mean of ST-LPIPS(x(t), x(t + e)) / e^2 at one t for each pair, e = 0.001; the paper has LPIPS
at 128 px, so compare within this table alone. Neighbouring ways share a face, which the intervals do not know of.
strips.png has the same faces in both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from experiments.compiling import compile_network, uncompiled
from experiments.reconstructions import BATCH
from experiments.tables import Cell, Faces, beside, equal_pixels, extent_of, fill, parser_of, publish, table, within

from zsem.data.images import ImageSet
from zsem.data.pixels import grid, save_png, to_uint8
from zsem.diffusion.codecs import CODECS
from zsem.metrics.perceptual import Distance
from zsem.metrics.variation import EPSILON, path_length
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import STEPS
from zsem.nets.perceptual import load_stlpips
from zsem.values.codes import Codes, between

NAME, SAYS = "figure4", {"autoencoder": "z and noise, autoencoder", "twin": "x_T, unconditional twin"}
WALKS = {"exact": STEPS, "ddim": 100}
"""Steps by codec: ours, and what the paper has."""
QUICK_WALKS = {"exact": STEPS, "ddim": 10}
ROWS, FRAMES = 6, 7
"""Ways that are drawn, and pictures of each, its ends included."""


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A model that interpolates, and how it encodes."""

    model: DiffusionAutoencoder | DiffusionModel
    codec: str
    steps: int

    def encode(self, images: ImageSet) -> Codes:
        encode = self.model.encode if isinstance(self.model, DiffusionAutoencoder) else self.model.invert
        return encode(images, codec=self.codec, steps=self.steps, batch_size=BATCH)

    def decode(self, codes: Codes) -> torch.Tensor:
        return self.model.decode(codes, batch_size=BATCH)

    def evaluations(self, images: int) -> int:
        """Of encoding images and decoding twice as many."""
        levels, codec = self.model.grid(self.steps, self.codec), CODECS[self.codec]
        return images * (codec.nfe_encode(levels) + 2 * codec.nfe_decode(levels))

    def frames(self, images: ImageSet) -> list[torch.Tensor]:
        """uint8 pictures on the way from each image to the next, a row each."""
        codes, share = self.encode(images), torch.linspace(0, 1, FRAMES)
        ways = [between(codes[[i]], codes[[i + 1]], share) for i in range(len(codes) - 1)]
        return list(to_uint8(self.decode(Codes.cat(ways))).split(FRAMES))

    def judge(self, images: ImageSet, distance: Distance) -> dict[str, Any]:
        """PPL from each image to the next, the last to the first, and the share of pixels that the ends keep."""
        codes = self.encode(images)
        found = path_length(self.decode, codes, codes[torch.arange(len(codes)).roll(-1)], distance)
        ends = to_uint8(self.decode(codes[:BATCH]))  # a whole batch: others would be compiled for
        return {**asdict(found), "identical": equal_pixels(ends, images.pixels[:BATCH])}


def draw(walks: dict[str, Walk], images: ImageSet) -> Any:
    """The same faces on both ways, next to each other."""
    scale = max(1, 64 // images.pixels.shape[-1])
    return beside({SAYS[name]: grid(*walk.frames(images), scale=scale) for name, walk in walks.items()})


def main() -> None:
    parser = parser_of(NAME, __doc__, number=1000, what="held-out faces")
    given = extent_of(parser)
    faces = Faces(given)
    images = faces.held_out(given.number)
    models = {"autoencoder": faces.autoencoder, "twin": faces.twin}
    distance = load_stlpips()
    for model in models.values():
        compile_network(model.unet, len(images))
    walks = {
        (name, codec): Walk(model=model, codec=codec, steps=steps)
        for codec, steps in (QUICK_WALKS if given.quick else WALKS).items()
        for name, model in models.items()
    }
    cells = {
        f"{name}-{codec}-{walk.steps}": Cell(
            evaluations=walk.evaluations(len(images)), work=lambda walk=walk: walk.judge(images, distance)
        )
        for (name, codec), walk in walks.items()
    }  # fmt: skip
    found = fill(given.out / "cells" / faces.stamp(*models.values(), chain=len(images)), cells)
    with uncompiled():
        strips = draw({name: walks[name, "exact"] for name in models}, images.limit(ROWS + 1))
    save_png(strips, given.out / "strips.png")
    rows = []
    for (name, codec), walk in walks.items():
        figures = found[f"{name}-{codec}-{walk.steps}"]
        how = [SAYS[name], f"{codec}, {walk.steps} steps"]
        rows.append([*how, within(figures["distance"], figures["interval"], ".1f"), f"{figures['identical']:.1%}"])
    lines = [
        "# Interpolation of real faces",
        f"Perceptual path length from each of {len(images):,} held-out faces to the next, with its 95 % bootstrap "
        f"interval: ST-LPIPS over e^2, e = {EPSILON:g}. Ends: the share of pixels in which the ends of the way are the "
        "faces themselves.",
        "",
        *table(["interpolated", "codec", "PPL", "ends"], rows),
        "",
        "![The same faces on both ways](strips.png)",
    ]
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
