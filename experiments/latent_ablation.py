"""The latent DDIM: absolute against squared error, and how many layers (DiffAE, section 3.4 and supplement A.1).

    python -m experiments.models train avatars-64
    python -m experiments.latent_ablation [--number 1000] [--quick] [--out runs/tables/latent_ablation]

One training of each on the z of all training faces, in all else as that of table 4, some ten minutes. Judged are 5,000
codes by 100 steps of DDIM, three seeds, by their Frechet distance to the z of held-out faces (closed form, on all
numbers of normalised z), and as many faces as asked for that UniPC-2 decodes from such codes in 20 steps, by
FD-EffLite0 with its 95 % bootstrap interval.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from experiments.compiling import compile_network
from experiments.priors import SMALL, latent_ddim, latent_preset
from experiments.samples import Judging, at_precision, copies_shown, precision_of, shown
from experiments.tables import QUICK, Cell, Faces, extent_of, fill, parser_of, publish, spread, table
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.losses import ErrorKind
from zsem.metrics.distribution import frechet_distance, moments
from zsem.models.prior import LatentDiffusion
from zsem.models.walking import Walking

NAME, LAYERS = "latent_ablation", (5, 10, 20)
ERRORS: dict[ErrorKind, str] = {"l1": "L1", "l2": "L2"}
CODES, SEEDS, CODE_STEPS, BATCH = 5000, 3, 100, 50
CHOSEN: tuple[int, ErrorKind] = (SMALL.model.net.layers, SMALL.objective.error)
DECODED = Walking(solver="unipc", steps=20)


class Study:
    """The z of faces, and what latent DDIMs are judged by."""

    def __init__(self, faces: Faces, number: int, *, quick: bool) -> None:
        self.faces, self.number, self.judging = faces, number, Judging(faces.images)
        self.codes, self.steps = (20 * QUICK, 5) if quick else (CODES, CODE_STEPS)

    @functools.cached_property
    def held_out(self) -> Float[Tensor, "n d"]:
        """z of held-out faces."""
        return self.faces.autoencoder.encode(self.faces.images.held_out(), noise=False, batch_size=BATCH).z

    def distance(self, z: Float[Tensor, "n d"]) -> float:
        """Frechet distance of codes to those of held-out faces, both normalised as z of training faces are."""
        model = self.faces.autoencoder
        mean, std = model.z_mean.cpu().double(), model.z_std.cpu().double()
        ours, theirs = (moments((part.double() - mean) / std) for part in (z, self.held_out))
        return frechet_distance(*ours, *theirs)

    def judged(self, prior: LatentDiffusion) -> dict[str, Any]:
        """Distances of its codes, the validation loss it ended with, and figures of the faces made of its codes."""
        model, drawn = self.faces.autoencoder, []
        for seed in range(SEEDS):
            drawn.append(prior.sample(self.codes, seed=seed, steps=self.steps))
        z = prior.sample(self.number, seed=0, steps=self.steps)
        with at_precision(model.device):
            faces = model.decode(model.codes(z), walking=DECODED, batch_size=BATCH).clamp(-1, 1)
        return {
            "distances": [self.distance(part) for part in drawn],
            "parameters": sum(parameter.numel() for parameter in prior.parameters()),
            **self.judging.figures(faces.split(BATCH), 1),
        }

    def floor(self) -> dict[str, Any]:
        """The distance of as many z of training faces: what a prior that repeats them would have."""
        train = self.faces.images.split("train").limit(self.codes)
        z = self.faces.autoencoder.encode(train, noise=False, batch_size=BATCH).z
        return {"distances": [self.distance(z)], "n": len(z), "n_held_out": len(self.held_out)}


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Both distances over the number of layers, a line for each error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for error, says in ERRORS.items():
        rows = [found[f"{layers}-{error}"] for layers in LAYERS]
        values = [row["distances"] for row in rows]
        left.errorbar(LAYERS, np.mean(values, 1), yerr=np.std(values, 1, ddof=1), marker="o", capsize=3, label=says)
        ends = [[row["frechet"] - row["frechet_interval"]["low"] for row in rows]]
        ends.append([row["frechet_interval"]["high"] - row["frechet"] for row in rows])
        right.errorbar(LAYERS, [row["frechet"] for row in rows], yerr=ends, marker="o", capsize=3, label=says)
    for axes, label in ((left, "Frechet distance of z"), (right, "FD-EffLite0 of faces")):
        axes.set(xlabel="layers", ylabel=label, xticks=LAYERS)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def rows_of(found: Mapping[str, Mapping[str, Any]]) -> Sequence[Sequence[str]]:
    """A row for each latent DDIM."""
    rows = []
    for layers in LAYERS:
        for error, says in ERRORS.items():
            row = found[f"{layers}-{error}"]
            chosen = " (table 4)" if (layers, error) == CHOSEN else ""
            size = f"{row['parameters'] / 1e6:.1f}"
            distances = spread(row["distances"], ".2f")
            rows.append([f"{layers}{chosen}", says, size, distances, shown([row]), copies_shown([row])])
    return rows


def main() -> None:
    given = extent_of(parser_of(NAME, __doc__, number=1000, what="faces that are decoded for each"))
    faces = Faces(given)
    study = Study(faces, given.number, quick=given.quick)
    compile_network(faces.autoencoder.unet, given.number)
    priors = {
        f"{layers}-{error}": latent_ddim(faces, latent_preset(layers, error), quick=given.quick)
        for layers in LAYERS
        for error in ERRORS
    }
    cells = {"training": Cell(evaluations=0, work=study.floor)} | {
        name: Cell(evaluations=DECODED.steps * given.number, work=lambda prior=prior: study.judged(prior))
        for name, prior in priors.items()
    }
    precision = precision_of(faces.autoencoder.device)
    stamp = faces.stamp(faces.autoencoder, *priors.values(), number=given.number, precision=precision)
    found = fill(given.out / "cells" / stamp, cells)
    draw(found, given.out / "distances.png")
    floor = found["training"]
    head = ["layers", "error", "parameters, millions", "distance of z", "FD-EffLite0", "memorisation"]
    lines = [
        "# The latent DDIM",
        f"Frechet distance of {study.codes:,} codes to those of {floor['n_held_out']:,} held-out faces, mean and "
        f"standard deviation over {SEEDS} seeds of the draws; that of {floor['n']:,} codes of training faces is "
        f"{floor['distances'][0]:.2f}. FD-EffLite0 of {given.number:,} faces to training faces, with its 95 % "
        "bootstrap interval. Memorisation: mean distance of these faces to the nearest training face over that of "
        "held-out faces, 1 for new images. One training each.",
        "",
        *table(head, rows_of(found)),
        "",
        "![Both distances over the number of layers](distances.png)",
    ]
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
