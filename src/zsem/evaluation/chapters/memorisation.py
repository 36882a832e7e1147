"""Whether made images are copies of training images."""

from __future__ import annotations

import torch
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.attributes import small_pixels
from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, Shown, sheet
from zsem.evaluation.study import SHOWN, Study
from zsem.metrics.memorisation import Memorisation, MemorisationFigures

RATIO = Measure("nearest-neighbour ratio", "ratio", "distance of made images to the nearest training image, over that "
                "of held-out ones: 0 for copies, about 1 for new images of the same kind, more for others")  # fmt: skip
NEAR = Measure("suspiciously near", "share", "made images nearer to a training image than all but 1 % of held-out ones",
               "lower")  # fmt: skip
COPIES = 0.05
"""Share of suspiciously near images from which on a model copies; 1 % is usual."""


def measure(study: Study) -> Finding:
    """A row for every source of images; the nearest pairs."""
    training, held_out = study.training.limit(study.amounts.searched), study.held_out
    mirrored = [numbers(study, training), numbers(study, training, mirror=True)]
    usual = Memorisation(torch.cat(mirrored), numbers(study, held_out))
    figures: list[Figure] = []
    verdicts: list[Sentence] = []
    pictures: list[Shown] = []
    for row, made in study.made.items():
        counted = usual.empty()
        stored = study.model.config.intensity.restore(made)
        counted.update(scaled(study, stored))
        found = counted.compute(seed=study.seed, shown=SHOWN)
        figures += [RATIO.of(row, found.ratio, found.n, found.interval)]
        figures += [NEAR.share(row, found.near, found.n)]
        verdicts.append(verdict(row, found, figures[-1]))
        if not pictures:
            pictures = [nearest(study, row, made, training, found)]
    notes = [
        f"Distances are those of pixels, to {len(training)} training images and their mirror images; "
        f"{len(held_out)} held-out images tell what is usual."
    ]
    return Finding(figures=figures, verdict=verdicts, notes=notes, pictures=pictures)


def numbers(study: Study, images: ImageSet, *, mirror: bool = False) -> Tensor:
    """Pixels as they are compared."""
    return scaled(study, images.pixels.flip(-1) if mirror else images.pixels)


def scaled(study: Study, stored: Tensor) -> Tensor:
    """Stored values as numbers in about -1..1, averaged where images are large."""
    intensity = study.model.config.intensity
    return torch.cat([small_pixels(intensity.normalise(part)) for part in stored.split(256)])


def nearest(study: Study, row: str, made: Tensor, training: ImageSet, found: MemorisationFigures) -> Shown:
    """The nearest pairs, made above real."""
    ours = made[[pair.made for pair in found.pairs]]
    theirs = study.floats(training.subset([pair.training % len(training) for pair in found.pairs]))
    mirrored = torch.tensor([pair.training >= len(training) for pair in found.pairs])[:, None, None, None]
    rows = {"made": study.pictures(ours), "training": study.pictures(torch.where(mirrored, theirs.flip(-1), theirs))}
    return sheet(rows, f"The made images ({row}) that come nearest to a training image, and that image below.")


def verdict(row: str, found: MemorisationFigures, near: Figure) -> Sentence:
    """Whether they are copies."""
    if (near.low or 0) > COPIES:
        copied = f"{found.near:.0%} of the made images ({row}) are suspiciously near to a training image"
        return Sentence(grade="poor", text=f"{copied}, where 1 % is usual: the model copies.")
    far = f"they are {found.ratio:.2f} times as far from the nearest training image as held-out images are"
    return Sentence(grade="good", text=f"Made images ({row}) are no copies: {far}.")


CHAPTER = Chapter(
    name="memorisation",
    title="Does it copy its training images?",
    question="A model with too few images learns them by heart. Copies lie nearer to a training image than images that "
    "it has never seen do.",
    uses=("made", "searched"),
    measure=measure,
    left_out=lambda study: "" if len(study.training) else "There are no training images among these.",
)
