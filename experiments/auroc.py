"""What linear classifiers read off codes: AUROC by attribute, and its mean weighted as in DiffAE, section 5.1.

    python -m experiments.models train avatars-64 avatars-64-vae
    python -m experiments.auroc [--number 1000] [--judge runs/judges/avatars-64] [--quick] [--out runs/tables/auroc]

Logistic probes of the faces' attributes on z, as many principal components of the pixels, the pixels, and the codes of
a VAE, fitted to the same labelled training faces and judged on all held-out ones; and a supervised network, trained
once on all training faces: the ceiling. The paper's mean weighs every attribute by its number of positive images, the
plain one all alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from experiments.tables import Cell, Faces, extent_of, fill, parser_of, publish, table, within

from zsem.evaluation.attributes import HELD_OUT, LABELS, judge_attributes
from zsem.models.judge import Judge
from zsem.semantics.probes import RESAMPLES
from zsem.training.judging import judge_for

NAME, QUICK_LABELS, QUICK_ITERATIONS = "auroc", 150, 10
SOURCES = {"z": "z", "pca": "PCA", "pixels": "pixels", "vae": "VAE", "cnn": "supervised network"}


def judged(faces: Faces, judge: Judge, labels: int) -> dict[str, Any]:
    """AUROC with its interval by attribute and source, and the number of positives among the held-out faces."""
    found = judge_attributes(
        faces.autoencoder, faces.images, vae=faces.vae, judge=judge, labels=labels, resamples=RESAMPLES
    )
    held_out = faces.images.held_out().limit(HELD_OUT)
    rows = {
        name: {
            "positives": int(np.nansum(held_out.attributes[name])),
            **{source: asdict(getattr(compared, source)) for source in SOURCES},
        }
        for name, compared in found.attributes.items()
    }
    return {"labels": found.labels, "held_out": found.held_out, "attributes": rows}


def means(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean AUROC of every source over attributes, plain and weighted by their positives."""
    positives = [row["positives"] for row in rows.values()]
    scores = {source: [row[source]["score"] for row in rows.values()] for source in SOURCES}
    return {
        "mean": {source: float(np.mean(values)) for source, values in scores.items()},
        "weighted mean": {source: float(np.average(values, weights=positives)) for source, values in scores.items()},
    }


def main() -> None:
    parser = parser_of(NAME, __doc__, number=LABELS, what="labelled training faces")
    parser.add_argument("--judge", type=Path, default=Path("runs/judges/avatars-64"), help="of the supervised network")
    given = extent_of(parser)
    labels = QUICK_LABELS if given.quick else given.number
    faces = Faces(given)
    quick: dict[str, Any] = {"folder": given.out / "judge", "iterations": QUICK_ITERATIONS} if given.quick else {}
    judge = judge_for(faces.images, **{"folder": given.judge, **quick})
    cells = {"auroc": Cell(evaluations=0, work=lambda: judged(faces, judge, labels))}
    stamp = faces.stamp(faces.autoencoder, faces.vae, judge, labels=labels)
    found = fill(given.out / "cells" / stamp, cells)["auroc"]
    averages = means(found["attributes"])
    rows = [
        [name.replace("_", " "), str(row["positives"]), *(within(row[s]["score"], row[s], ".3f") for s in SOURCES)]
        for name, row in found["attributes"].items()
    ]
    rows += [[name, "", *(f"{values[source]:.3f}" for source in SOURCES)] for name, values in averages.items()]
    lines = [
        "# What codes tell",
        f"AUROC, with 95 % bootstrap intervals, of probes fitted to {found['labels']:,} labelled training faces and "
        f"judged on {found['held_out']:,} held-out ones. The weighted mean is the paper's: every attribute counts by "
        "its number of positive images among the latter.",
        "",
        *table(["attribute", "positives", *SOURCES.values()], rows),
    ]
    publish(given.out, NAME, lines, {**found, **averages}, quick=given.quick)


if __name__ == "__main__":
    main()
