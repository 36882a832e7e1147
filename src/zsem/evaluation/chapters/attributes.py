"""What can be read off z, beside principal components and pixels."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from zsem.evaluation.attributes import Compared, Judged, judge_attributes, mean_scores
from zsem.evaluation.chapters.chapter import Chapter, needs_z
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, Shown, sheet
from zsem.evaluation.study import BATCH, Study
from zsem.metrics.intervals import Interval
from zsem.semantics.probes import ProbeFigures

SOURCES = {"z": "z", "pca": "PCA", "pixels": "pixels"}
SAYS = {
    "auroc": "AUROC: how well images with and without it are told apart; .5 is guessing, 1 is perfect",
    "r2": "R²: the share of a number's variance that is told; 0 is guessing, 1 is perfect",
}
READ = {
    "z": "read off the semantic code",
    "pca": "off as many principal components of the pixels",
    "pixels": "off the pixels themselves",
}
PICTURED = 5


def measure(study: Study) -> Finding:
    """A row for every attribute."""
    amounts = study.amounts
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        judged = judge_attributes(
            study.autoencoder, study.images, classes=study.classes, labels=amounts.labels, held_out=amounts.probed,
            seed=study.seed, say=study.say,
        )  # fmt: skip
    figures = [figure for name, row in judged.attributes.items() for figure in row_of(name, row)]
    notes = [
        f"Linear probes, fitted to {judged.labels} labelled training images and judged on {judged.held_out} held-out "
        "ones. Probes on z and on principal components get equally many numbers.",
        *(f"Note: {warning.message}." for warning in told if issubclass(warning.category, UserWarning)),
    ]
    return Finding(figures=figures, verdict=verdict(judged), notes=notes, pictures=pictures(study, judged))


def row_of(name: str, row: Compared) -> list[Figure]:
    """z beside what else it could be read off."""
    found = []
    for source, title in SOURCES.items():
        figures: ProbeFigures | None = getattr(row, source)
        if figures is not None:
            column = Measure(title, "score", f"{SAYS[figures.measure]}; {READ[source]}", "higher")
            label = name.replace("_", " ") + (" (R²)" if figures.measure == "r2" else "")
            found.append(column.of(label, figures.score, figures.n, Interval(low=figures.low, high=figures.high)))
    return found


def verdict(judged: Judged) -> list[Sentence]:
    """Means over attributes, and which z does not know."""
    means = mean_scores(judged.attributes)
    unknown = [name for name, row in judged.attributes.items() if row.z.low <= (0.5 if row.z.measure == "auroc" else 0)]
    said = []
    if "z" in means:
        ahead = means["z"] - means.get("pca", 0.5)
        grade = (
            "good" if means["z"] >= 0.85 and ahead >= 0 else "poor" if means["z"] < 0.65 or ahead < -0.05 else "fair"
        )
        beside = f", off as many principal components of the pixels with {means['pca']:.2f}" if "pca" in means else ""
        said.append(Sentence(
            grade=grade,
            text=f"A linear probe reads labels off the semantic code with a mean AUROC of {means['z']:.2f} (1 is "
            f"perfect, 0.5 guessing){beside}.",
        ))  # fmt: skip
    else:
        best = {name: row.z.score for name, row in judged.attributes.items()}
        said.append(Sentence(
            grade="good" if min(best.values()) > 0.5 else "fair" if max(best.values()) > 0.2 else "poor",
            text=f"A linear probe reads the numbers off the semantic code with R² from {min(best.values()):.2f} to "
            f"{max(best.values()):.2f} (1 is perfect, 0 guessing).",
        ))  # fmt: skip
    if unknown:
        names = ", ".join(name.replace("_", " ") for name in unknown)
        said.append(Sentence(grade="poor", text=f"No better than guessing, as far as these images tell: {names}."))
    return said


def pictures(study: Study, judged: Judged) -> list[Shown]:
    """Held-out images with the lowest and the highest scores."""
    some = study.some(judged.held_out)
    z = study.autoencoder.encode(some, noise=False, batch_size=BATCH).z
    rows = {}
    for name in list(judged.attributes)[:PICTURED]:
        order = np.argsort(judged.semantics.score(z, name), kind="stable")
        ends = [*order[:3], *order[-3:]] if len(order) > 6 else order
        rows[name.replace("_", " ")] = study.pictures(some.subset(torch.as_tensor(np.array(ends)).tolist()))
    return [sheet(rows, "Held-out images that score lowest (left half) and highest (right half) on each attribute.")]


CHAPTER = Chapter(
    name="attributes",
    title="What does the semantic code know?",
    question="Labels were no part of the training. A linear probe that reads them off the semantic code shows what it "
    "has learned by itself.",
    uses=("labels", "probed"),
    measure=measure,
    left_out=lambda study: (
        needs_z(study)
        or (
            ""
            if study.learnable
            else "The images have no labels: an attributes.csv beside them, or class folders, would do."
        )
    ),
)
