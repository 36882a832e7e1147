"""Morphs between real images."""

from __future__ import annotations

import torch

from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.chapters.reconstruction import IDENTICAL
from zsem.evaluation.chapters.reconstruction import left_out as needs_classes
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, sheet
from zsem.evaluation.study import Study
from zsem.metrics.reconstruction import image_errors
from zsem.metrics.variation import path_length
from zsem.models.diffusion import DiffusionModel
from zsem.values.codes import between

PATH = Measure("PPL", "distance", "perceptual path length: how fast the picture changes on the way, squared; jumps "
               "make it large. Compare it between models of the same images only", "lower")  # fmt: skip
ENDS, WAY = "first and last frames", "on the way"
FRAMES, STRIPS = 7, 3


def measure(study: Study) -> Finding:
    """End frames, path length, strips."""
    pairs = min(study.amounts.morphs, len(study.held_out) // 2)
    images = study.some(2 * pairs)
    codes = study.encode(images)
    first, second = codes[0::2], codes[1::2]
    notes = [f"Straight lines between semantic codes, great circles between noise; {FRAMES} frames are shown."]
    strips = {}
    ends: list[torch.Tensor] = []
    for i in range(pairs):
        frames = FRAMES if i < STRIPS else 2
        made = study.decode(between(first[[i]], second[[i]], torch.linspace(0, 1, frames)))
        ends += [made[0], made[-1]]
        if i < STRIPS:
            strips[f"{i + 1}"] = study.model.display(made)
    errors = image_errors(study.floats(images), torch.stack(ends), study.model.config.intensity)
    figures: list[Figure] = [IDENTICAL.mean(ENDS, errors.identical / errors.pixels, study.seed)]
    if study.perceptual is None:
        notes.append(study.without_perceptual)
    else:
        found = path_length(study.decode, first, second, study.perceptual, seed=study.seed)
        figures.append(PATH.of(WAY, found.distance, found.n, found.interval))
    caption = "Morphs: the first and the last picture of every row are real, those between are made."
    return Finding(
        figures=figures, verdict=[verdict(figures[0], pairs)], notes=notes, pictures=[sheet(strips, caption)]
    )


def verdict(ends: Figure, pairs: int) -> Sentence:
    """Whether morphs begin and end at the images."""
    if (ends.value or 0) >= 0.99999:
        return Sentence(grade="good", text=f"Morphs begin and end at the very images, in all of {pairs} pairs.")
    return Sentence(
        grade="poor", text=f"Morphs do not begin and end at the images: {ends.text} of the pixels are theirs."
    )


def left_out(study: Study) -> str:
    """Two images, which a conditional model would have to be told the classes of."""
    if isinstance(study.model, DiffusionModel) and study.model.config.conditional:
        return needs_classes(study) or "Images of two classes have no way between them in a model that is told classes."
    return "" if len(study.held_out) > 1 else "It takes two held-out images."


CHAPTER = Chapter(
    name="interpolation",
    title="Can images be morphed?",
    question="Codes halfway between two images should decode to something in between that is as real as both.",
    uses=("morphs",),
    measure=measure,
    left_out=left_out,
)
