"""Unconditional samples: the autoencoder with its priors against a diffusion model of equal size (DiffAE, table 4).

    python -m experiments.models train avatars-64 avatars-64-ddpm
    python -m experiments.table4 [--number 1000] [--rows ROW ..] [--steps 10 20 50 100] [--quick] [--out DIR]

FD-EffLite0 and KID to 5,000 training faces at T = 10, 20, 50, 100: three sets of samples at 10 and 20 steps, one with a
95 % bootstrap interval at 50 and 100. The twin has as many parameters as encoder and decoder together and has seen as
many images. Ours draws z from the latent DDIM or from the mixture, fitted to the z of all training faces; the row
"+ autoencoding" has the z of held-out faces: what a perfect prior would give. Rows by DDIM are as in the paper, with T
steps of the latent DDIM too; those by UniPC-2, which needs few, are made in up to 10, z drawn in 100 steps of the
latent DDIM, whatever T: T counts evaluations of the U-Net. The last of them end with the x0 predicted at timestep 100,
without the steps whose noise small networks leave as grain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from experiments.compiling import compile_network, uncompiled
from experiments.priors import SMALL, latent_ddim, mixture
from experiments.samples import SETS, Judging, at_precision, copies_shown, precision_of, shown
from experiments.tables import Cell, Faces, extent_of, fill, parser_of, publish, spread, table
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from zsem.data.pixels import from_uint8, grid, save_png, to_uint8
from zsem.models.prior import Prior
from zsem.models.walking import Walking

NAME, BATCH, PICTURED, DRAWN_STEPS = "table4", 50, 10, 10
QUICK_SETS = {2: 2, 3: 1}
REAL, BASELINE = "real", "twin"
FEW = 10
"""Steps of UniPC-2 at most: it has all but converged there."""
CLEANEST = 100
"""The timestep where rows of that name end."""
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "": ("", {"solver": "ddim", "spacing": "uniform"}),
    "-unipc": (", UniPC-2", {"solver": "unipc", "spacing": "logsnr"}),
    f"-unipc-{CLEANEST}": (f", UniPC-2 to {CLEANEST}", {"solver": "unipc", "spacing": "logsnr", "cleanest": CLEANEST}),
}
"""Ways to walk by the end of a row's name: what is said of them, and the settings of `Walking`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to make samples.

    says: what it is. walk: settings of `Walking`. z: draws codes, so many, from a seed and T; None for the twin.
    """

    says: str
    walk: Mapping[str, Any]
    z: Callable[[int, int, int], Float[Tensor, "n d"]] | None = None

    def sets(self, all_sets: Mapping[int, int]) -> dict[int, int]:
        """Sets of samples by T, of those that this row has."""
        return {T: sets for T, sets in all_sets.items() if self.walk["solver"] == "ddim" or T <= FEW}


def rows_of(faces: Faces, latent: Prior, gaussians: Prior) -> dict[str, Row]:
    """All rows, by name."""

    def drawn(number: int, seed: int, steps: int) -> Tensor:
        return latent.sample(number, seed=seed, steps=steps)

    def drawn_well(number: int, seed: int, steps: int) -> Tensor:
        return latent.sample(number, seed=seed, steps=100)

    def mixed(number: int, seed: int, steps: int) -> Tensor:
        return gaussians.sample(number, seed=seed)

    @functools.cache
    def of_held_out() -> Tensor:
        return faces.autoencoder.encode(faces.images.held_out(), noise=False, batch_size=BATCH).z

    def real(number: int, seed: int, steps: int) -> Tensor:
        return of_held_out()[torch.arange(number) % len(of_held_out())]

    sources = {
        BASELINE: ("DDIM baseline (twin)", None, None),
        "latent": ("ours, latent DDIM", drawn, drawn_well),
        "mixture": ("ours, mixture", mixed, mixed),
        "autoencoding": ("+ autoencoding", real, real),
    }
    return {
        name + end: Row(says="twin" + how if end and z is None else says + how, walk=walk, z=z_well if end else z)
        for end, (how, walk) in SOLVERS.items()
        for name, (says, z, z_well) in sources.items()
    }


class Study:
    """What judges samples, and what makes them."""

    def __init__(self, faces: Faces, number: int) -> None:
        self.faces, self.number = faces, number
        self.judging = Judging(faces.images)

    def samples(self, row: Row, steps: int, seed: int, number: int | None = None) -> Iterator[Tensor]:
        """Samples batch by batch, clipped to [-1, 1]."""
        model, number, how = self.faces.autoencoder, number or self.number, row.walk
        z = None if row.z is None else row.z(number, seed, steps)
        for first in range(0, number, BATCH):
            some = range(first, min(first + BATCH, number))
            shared: dict[str, Any] = {"first": first, "seed": seed, "batch_size": BATCH}
            with at_precision(model.device):
                if z is None:
                    made = self.faces.twin.sample(len(some), steps=steps, **how, **shared)
                else:
                    codes = model.codes(z[some.start : some.stop])
                    made = model.decode(codes, walking=Walking(steps=steps, **how), **shared)
            yield made.clamp(-1, 1)

    def held_out(self) -> Iterator[Tensor]:
        """As many held-out faces."""
        return map(from_uint8, self.faces.held_out(self.number).pixels.split(BATCH))


def cells_of(study: Study, rows: Mapping[str, Row], all_sets: Mapping[int, int]) -> dict[str, Cell]:
    """All cells, by name."""
    cells = {REAL: Cell(evaluations=0, work=lambda: study.judging.figures(study.held_out(), 1))}
    for name, row in rows.items():
        for steps, sets in row.sets(all_sets).items():
            for seed in range(sets):

                def work(row: Row = row, steps: int = steps, sets: int = sets, seed: int = seed) -> dict[str, Any]:
                    return study.judging.figures(study.samples(row, steps, seed), sets)

                cells[f"{name}-{steps}-{seed}"] = Cell(evaluations=steps * study.number, work=work)
    return cells


Sets = Mapping[str, Mapping[int, list[Mapping[str, Any]]]]
"""Figures of all sets by row and number of steps."""


def lines_of(rows: Mapping[str, Row], found: Sets, real: Mapping[str, Any]) -> list[str]:
    """Both tables: FD by row and T, and all figures."""
    steps = sorted({T for by_steps in found.values() for T in by_steps})
    short = [
        [rows[name].says, *(shown(by_steps[T]) if T in by_steps else "" for T in steps)]
        for name, by_steps in found.items()
    ]
    short.append(["held-out faces themselves", *[shown([real])] * len(steps)])
    full = [
        [rows[name].says, str(T), *figures_of(sets)] for name, by_steps in found.items() for T, sets in by_steps.items()
    ]
    full.append(["held-out faces themselves", "", *figures_of([real])])
    head = ["", "T", "FD-EffLite0", "KID", "precision", "recall", "memorisation ratio", "near"]
    return [
        *table(["FD-EffLite0", *(f"T = {T}" for T in steps)], short),
        "",
        "All figures. Memorisation: mean distance to the nearest training face over that of held-out faces, 1 for new "
        "images; near: the share of samples nearer to a training face than all but 1 % of the held-out ones are.",
        "",
        *table(head, full),
    ]


def figures_of(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of sets of one kind: mean and deviation, or the one set's figures."""
    near = float(np.mean([figures["memorisation"]["near"] for figures in sets]))
    shares = [f"{np.mean([figures[name] for figures in sets]):.3f}" for name in ("precision", "recall")]
    kid = spread([f["kid"] for f in sets], ".4f") if len(sets) > 1 else f"{sets[0]['kid']:.4f}"
    return [shown(sets), kid, *shares, copies_shown(sets), f"{near:.1%}"]


def verdicts(rows: Mapping[str, Row], found: Sets) -> list[str]:
    """Whether ours is below the baseline at every T, and as good in the fewest steps as the baseline in the most."""

    def mean(name: str, steps: int) -> float:
        return float(np.mean([figures["frechet"] for figures in found[name][steps]]))

    if BASELINE not in found:
        return []
    many = max(found[BASELINE])
    lines = []
    for name in found:
        source = name.partition("-")[0]
        if source not in {"latent", "mixture"}:
            continue
        alike = BASELINE + name.removeprefix(source)
        rival = alike if alike in found else BASELINE
        few, above = min(found[name]), [T for T in found[name] if mean(name, T) >= mean(rival, T)]
        of = ", ".join(map(str, found[name]))
        lines.append(f"- {rows[name].says}: FD below that of {rows[rival].says} at {len(found[name]) - len(above)} of "
                     f"T = {of}; {few} steps of it have {mean(name, few):.1f}, {many} of {rows[BASELINE].says} "
                     f"{mean(BASELINE, many):.1f}.")  # fmt: skip
    return lines


def draw(study: Study, rows: Mapping[str, Row], steps: int) -> Image.Image:
    """The first samples of every row."""
    pictures = [to_uint8(torch.cat(list(study.samples(row, steps, 0, PICTURED)))) for row in rows.values()]
    return grid(*pictures, captions=[row.says for row in rows.values()], scale=max(1, 64 // pictures[0].shape[-1]))


def main() -> None:
    parser = parser_of(NAME, __doc__, number=1000, what="samples of a set")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="not all of twin, latent, mixture, autoencoding, ..")
    parser.add_argument("--steps", type=int, nargs="+", choices=SETS, default=list(SETS), help="T; default all")
    given = extent_of(parser)
    faces, all_sets = Faces(given), QUICK_SETS if given.quick else {T: SETS[T] for T in given.steps}
    latent, gaussians = latent_ddim(faces, SMALL, quick=given.quick), mixture(faces)
    rows = rows_of(faces, latent, gaussians)
    if unknown := set(given.rows or ()) - set(rows):
        parser.error(f"there is no row {min(unknown)!r}; choose among {', '.join(rows)}")
    rows = {name: row for name, row in rows.items() if name in (given.rows or rows) and row.sets(all_sets)}
    if not rows:
        parser.error(f"rows by UniPC-2 have at most {FEW} steps")
    study = Study(faces, given.number)
    for model in (faces.autoencoder, faces.twin):
        compile_network(model.unet, given.number)
    precision = precision_of(faces.autoencoder.device)
    stamp = faces.stamp(faces.autoencoder, faces.twin, latent, gaussians, number=given.number, precision=precision)
    cells = fill(given.out / "cells" / stamp, cells_of(study, rows, all_sets))
    found = {
        name: {T: [cells[f"{name}-{T}-{seed}"] for seed in range(sets)] for T, sets in row.sets(all_sets).items()}
        for name, row in rows.items()
    }
    with uncompiled():
        save_png(draw(study, rows, min(all_sets)), given.out / "samples.png")
    lines = [
        "# Unconditional samples",
        f"FD-EffLite0 of {given.number:,} samples to {cells[REAL]['n_reference']:,} training faces: mean and standard "
        f"deviation of several sets, or one set with its 95 % bootstrap interval. U-Nets in {precision}.",
        "",
        *verdicts(rows, found),
        "",
        *lines_of(rows, found, cells[REAL]),
        *(["", f"Note: {cells[REAL]['note']}."] if cells[REAL]["note"] else []),
        "",
        f"![The first samples of every row, {min(all_sets)} steps](samples.png)",
    ]
    publish(given.out, NAME, lines, cells, quick=given.quick)


if __name__ == "__main__":
    main()
