"""Images made from nothing, beside real ones."""

from __future__ import annotations

from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, sheet
from zsem.evaluation.study import BATCH, REAL, SHOWN, Study
from zsem.metrics.samples import DistributionFigures, judge_distribution

MADE, AUTOENCODING = "samples", "+ autoencoding"
DISTANCE = Measure("FD-EffLite0", "distance",
                   "distance to the distribution of training images; it falls as n grows", "lower")  # fmt: skip
KID = Measure("KID × 1000", "distance", "another such distance, whose mean does not depend on n; its deviation over "
              "random subsets is no interval, so that none is given", "lower")  # fmt: skip
PRECISION = Measure("precision", "share", "images that lie among real ones: quality", "higher")
RECALL = Measure("recall", "share", "real images that lie among these: variety; no interval, as resamples repeat "
                 "images", "higher")  # fmt: skip
RESAMPLES = 100
LEAST = 8
PRIOR = "zsem prior {run} {data} --kind mixture"


def measure(study: Study) -> Finding:
    """A row for every source of images."""
    made = study.made
    number = len(next(iter(made.values())))
    real = study.some(number)
    notes = [about(study)]
    figures: list[Figure] = []
    if reason := without_distance(study, number):
        notes.append(reason)
    else:
        judged = {}
        for row, pixels in {REAL: study.floats(real).clamp(-1, 1), **made}.items():
            study.say(f"{number} {row}")
            parts = pixels.split(BATCH)
            judged[row] = judge_distribution(study.reference, parts, resamples=RESAMPLES, seed=study.seed)
        figures = [figure for row, found in judged.items() for figure in row_of(row, found)]
        floor = judged[REAL]
        notes.append(f"{floor.n_reference:,} training images are what all rows are compared with.")
        if floor.note:
            notes.append(f"These are figures to look at, not for a table: {floor.note}.")
    rows = {"real": study.pictures(real)}
    for name, pixels in made.items():
        rows[name] = study.pictures(pixels)
        if len(made) == 1 and number > SHOWN:
            rows[" "] = study.pictures(pixels[SHOWN:])
    shown = sheet(rows, "Real held-out images, and such as the model has made.")
    return Finding(figures=figures, verdict=verdict(figures, made), notes=notes, pictures=[shown])


def about(study: Study) -> str:
    """Where the images come from."""
    if not study.has_z:
        return "Samples of the model, UniPC with 20 steps, from fresh noise."
    second = "+ autoencoding: semantic codes of held-out images with fresh noise, the best that a prior could do."
    if study.prior is None:
        command = PRIOR.format(run=study.run, data=study.data)
        return f"No prior of semantic codes was fitted, so nothing is made from nothing: `{command}` fits one. {second}"
    return f"Samples: semantic codes from the {study.prior.kind.replace('_', ' ')} beside the model. {second}"


def without_distance(study: Study, number: int) -> str:
    """Why distributions are not compared; empty where they are."""
    if study.images.channels not in {1, 3}:
        return "Distributions are not compared: that takes grey or RGB images."
    if not study.has_features:
        return "Distributions are not compared, because the weights are not installed: pip install 'zsem[metrics]'."
    needed = 129  # more than the components of the Frechet distance
    if number < LEAST or len(study.training) < needed:
        return f"Distributions are not compared: that takes {LEAST} held-out and {needed} training images."
    return ""


def row_of(row: str, found: DistributionFigures) -> list[Figure]:
    """The figures of one source."""
    return [
        DISTANCE.of(row, found.frechet, found.n, found.frechet_interval),
        KID.of(row, 1000 * found.kid, found.n),
        PRECISION.share(row, found.precision, found.n),
        RECALL.of(row, found.recall, found.n),
    ]


def verdict(figures: list[Figure], made: object) -> list[Sentence]:
    """How much farther made images are than real ones."""
    found = {(figure.of, figure.name): figure.value for figure in figures}
    floor = found.get((REAL, DISTANCE.name))
    if floor is None:
        return [Sentence(text="Whether made images look real is for the eye here: see the picture of its section.")]
    said = []
    for row, says in ((MADE, "Images made from nothing"), (AUTOENCODING, "Images with real codes and new noise")):
        value = found.get((row, DISTANCE.name))
        if value is not None:
            times = value / max(floor, 1e-9)
            said.append(Sentence(
                grade="good" if times < 2 else "fair" if times < 5 else "poor",
                text=f"{says} are {times:.2g} times as far from the training images as real held-out ones are.",
            ))  # fmt: skip
    return said


CHAPTER = Chapter(
    name="sampling",
    title="Can it make new images?",
    question="Made images are compared with training images by features of a network. Real held-out images show how "
    "good a figure can get at this number of images.",
    uses=("made", "reference"),
    measure=measure,
)
