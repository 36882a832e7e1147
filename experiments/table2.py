"""How long z must be (DiffAE, table 2): reconstruction and probes for z of 32, 64, 128 and 256 at equal short training.

    python -m experiments.models train avatars-64-z32 avatars-64-z64 avatars-64-z128 avatars-64-z256
    python -m experiments.table2 [--number 1000] [--steps 20] [--quick] [--out runs/tables/table2]

The paper decodes z with random x_T; here three seeds of it, and DDIM-inverted x_T and exact noise beside it. AUROC is
that of logistic probes of the faces' attributes, fitted to 1,000 training faces and judged on all held-out ones, and
the same of as many principal components of the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from experiments.compiling import compile_network, uncompiled
from experiments.models import Z_DIMS, finished
from experiments.reconstructions import (
    MEASURES,
    SETS_SAID,
    Way,
    by_noise,
    by_z,
    cells_of,
    components_of,
    drawn,
    rows_of,
)
from experiments.tables import Cell, Faces, beside, extent_of, fill, parser_of, publish, table, within

from zsem import api
from zsem.data.images import ImageSet
from zsem.data.pixels import save_png
from zsem.evaluation.attributes import HELD_OUT, LABELS
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.nets.perceptual import load_stlpips
from zsem.semantics.probes import RESAMPLES, pca_baseline, probe_attributes

NAME, QUICK_STEPS = "table2", 2


def ways_of(model: DiffusionAutoencoder) -> dict[str, Way]:
    """From z alone, and with both kinds of noise."""
    return {"random": by_z(model), "ddim": by_noise(model, "ddim"), "exact": by_noise(model, "exact")}


def probes(model: DiffusionAutoencoder, images: ImageSet) -> dict[str, Any]:
    """AUROC with its interval of every attribute, and the mean over them, from z and from principal components."""
    train, test = images.split("train").limit(LABELS), images.held_out().limit(HELD_OUT)
    mean, std = model.z_mean.cpu(), model.z_std.cpu()
    z = [(model.encode(part, noise=False, batch_size=64).z - mean) / std for part in (train, test)]
    fitted = components_of(images)
    dims = min(model.config.z_dim, len(fitted))
    codes = {"z": z, "pca": pca_baseline(train.pixels, test.pixels, dims, unlabelled=fitted)}
    figures: dict[str, Any] = {"labels": len(train), "held_out": len(test)}
    for source, (of_train, of_test) in codes.items():
        found = probe_attributes(of_train, train.attributes, of_test, test.attributes, resamples=RESAMPLES)
        rows = {name: {"auroc": f.score, "low": f.low, "high": f.high} for name, (_, f) in found.items()}
        figures[source] = {"mean": float(np.mean([row["auroc"] for row in rows.values()])), "attributes": rows}
    return figures


def probe_rows(found: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: AUROC by attribute, and the means; `found` by length of z."""
    names = list(next(iter(found.values()))["z"]["attributes"])
    rows = []
    for dims, figures in found.items():
        scores = [within(row["auroc"], row, ".3f") for row in figures["z"]["attributes"].values()]
        rows.append([dims, *scores, f"{figures['z']['mean']:.3f}", f"{figures['pca']['mean']:.3f}"])
    return ["z", *(name.replace("_", " ") for name in names), "mean", "mean of PCA"], rows


def main() -> None:
    parser = parser_of(NAME, __doc__, number=1000, what="held-out faces that are reconstructed")
    parser.add_argument("--steps", type=int, default=20, help="T; default 20")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="autoencoders in place of those of experiments.models")
    given = extent_of(parser)
    faces, steps = Faces(given), QUICK_STEPS if given.quick else given.steps
    if given.runs:
        models = [api.load(run, kind=DiffusionAutoencoder) for run in given.runs]
    else:
        models = [finished(f"avatars-64-z{dims}", DiffusionAutoencoder) for dims in Z_DIMS]
    images, distance = faces.held_out(given.number), load_stlpips()
    for model in models:
        compile_network(model.unet, len(images))
    all_ways = {str(model.config.z_dim): ways_of(model) for model in models}
    cells = {}
    for model, (dims, ways) in zip(models, all_ways.items(), strict=True):
        cells |= {f"{dims}-{name}": cell for name, cell in cells_of(ways, images, [steps], distance).items()}
        cells[f"{dims}-probes"] = Cell(evaluations=0, work=lambda model=model: probes(model, faces.images))
    found = fill(given.out / "cells" / faces.stamp(*models, number=len(images)), cells)
    rows = []
    for dims, ways in all_ways.items():
        own = {name.removeprefix(f"{dims}-"): f for name, f in found.items() if name.startswith(f"{dims}-")}
        rows += [[dims, *row] for row in rows_of(ways, own, [steps])]
    of_probes = {dims: found[f"{dims}-probes"] for dims in all_ways}
    first = next(iter(of_probes.values()))
    with uncompiled():
        sheets = {f"z of {dims}": drawn(ways, images, steps) for dims, ways in all_ways.items()}
    save_png(beside(sheets), given.out / "z.png")
    lines = [
        "# Length of z",
        f"{len(images):,} held-out faces; each model saw {models[0].history.get('images', 0):,} images in training. "
        f"{SETS_SAID}; the intervals of all means are in {NAME}.json.",
        "",
        *table(["z", "", "latent dimension", "T", *MEASURES], rows),
        "",
        f"AUROC of probes fitted to {first['labels']:,} training faces and judged on {first['held_out']:,} held-out "
        "ones, with 95 % bootstrap intervals; PCA has as many components as z has numbers.",
        "",
        *table(*probe_rows(of_probes)),
        "",
        "![The same faces by every length of z](z.png)",
    ]
    publish(given.out, NAME, lines, found, quick=given.quick)


if __name__ == "__main__":
    main()
