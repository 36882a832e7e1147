"""Whether images come back from their codes: the exact codec, DDIM inversion, and z with random noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, Shown, sheet
from zsem.evaluation.study import BATCH, Study
from zsem.metrics.reconstruction import image_errors
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import STEPS

MSE = Measure("MSE", "squared error", "mean squared error of pixels on the scale from 0 (black) to 1 (white)", "lower")
SSIM = Measure("SSIM", "score", "structural similarity: 1 for equal images, about 0 for unrelated ones", "higher")
IDENTICAL = Measure("identical pixels", "share", "pixels that are the very same number once stored", "higher")
PERCEPTUAL = Measure("ST-LPIPS", "score", "how different images look to people by a network: 0 for equal ones", "lower")
EXACT, RANDOM = "exact codec", "z, random noise"
ALL = 0.99999
"""Share of identical pixels from which on it is all of them, but for a few that rounding may tip."""


def codecs(study: Study) -> dict[str, tuple[str, int]]:
    """What is compared, with codec and steps."""
    found = {EXACT: ("exact", STEPS), f"DDIM, {STEPS} steps": ("ddim", STEPS)}
    if steps := study.amounts.long_ddim:
        found[f"DDIM, {steps} steps"] = ("ddim", steps)
    return found


def decoded(study: Study, images: ImageSet) -> Iterator[tuple[str, Tensor]]:
    """Images by way of every kind of code."""
    for row, (codec, steps) in codecs(study).items():
        yield row, study.decode(study.encode(images, codec=codec, steps=steps), images)
    if study.has_z:
        model = study.autoencoder
        z = model.encode(images, noise=False, batch_size=BATCH)
        yield RANDOM, model.decode(z, seed=study.seed, batch_size=BATCH)  # as `zsem reconstruct` does


def measure(study: Study) -> Finding:
    """A row for every kind of code."""
    images = study.some(study.amounts.reconstructed)
    originals, figures, rows = study.floats(images), [], {"original": study.pictures(images)}
    for row, pixels in decoded(study, images):
        figures += row_of(study, row, originals, pixels)
        rows[row.split(",")[0] if row != RANDOM else RANDOM] = study.pictures(pixels)
    notes = [
        f"The exact codec takes {STEPS + 1} evaluations of the network to encode an image and {STEPS} to decode it; "
        "DDIM inversion is the method of the literature, and only nearly gives images back."
    ]
    if study.perceptual is None:
        notes.append(study.without_perceptual)
    return Finding(
        figures=figures, verdict=verdict(figures, study.has_z), notes=notes, pictures=[picture(rows, study.has_z)]
    )


def row_of(study: Study, row: str, originals: Tensor, pixels: Tensor) -> list[Figure]:
    """Figures of one kind of code."""
    errors = image_errors(originals, pixels, study.model.config.intensity)
    found = [
        MSE.mean(row, errors.mse, study.seed),
        SSIM.mean(row, errors.ssim, study.seed),
        IDENTICAL.mean(row, errors.identical / errors.pixels, study.seed),
    ]
    if (distance := study.perceptual) is not None:
        with torch.no_grad():
            pairs = zip(originals.split(BATCH), pixels.split(BATCH), strict=True)
            values = torch.cat([distance(x, y.clamp(-1, 1)) for x, y in pairs])
        found.append(PERCEPTUAL.mean(row, values, study.seed))
    return found


def picture(rows: dict[str, Tensor], has_z: bool) -> Shown:
    """Originals above what became of them."""
    alone = " The last row keeps only what the semantic code says: all else is made up anew." if has_z else ""
    return sheet(rows, f"Held-out images (top) and what came back from their codes.{alone}")


def verdict(figures: list[Figure], has_z: bool) -> list[Sentence]:
    """Whether images come back, and how far z alone goes."""
    found = {(figure.of, figure.name): figure for figure in figures}
    exact, n = found[EXACT, IDENTICAL.name], figures[0].n
    if (exact.value or 0) >= ALL:
        said = [Sentence(grade="good", text=f"Encoding and decoding gives every pixel of {n} held-out images back.")]
    else:
        said = [Sentence(
            grade="poor", text=f"Encoding and decoding {n} held-out images gives {exact.text} of their pixels back: "
            "the codes are not exact here, and edits will disturb what they should keep.",
        )]  # fmt: skip
    if has_z:
        alone = found[RANDOM, SSIM.name]
        high, low = (alone.value or 0) >= 0.6, (alone.value or 0) < 0.3
        says = "much" if high else "little" if low else "something"
        said.append(Sentence(
            grade="good" if high else "poor" if low else "fair",
            text=f"The semantic code alone says {says} of how an image looks: SSIM {alone.text} with random noise.",
        ))  # fmt: skip
    return said


def left_out(study: Study) -> str:
    """Models that are told classes need those of the images."""
    model = study.model
    if isinstance(model, DiffusionModel) and model.config.conditional:
        names = list(model.config.class_names)
        if len(study.images.class_names) != model.config.unet.num_classes or (
            names and names != study.images.class_names
        ):
            return "The model must be told the class of every image, and the images are not in folders of its classes."
        if bool((study.held_out.classes < 0).any()):
            return "The model must be told the class of every image, and some held-out images have none."
    return ""


CHAPTER = Chapter(
    name="reconstruction",
    title="Do images come back from their codes?",
    question="Every held-out image is turned into codes and back. A code is only worth editing if decoding it without "
    "any edit gives the image itself.",
    uses=("reconstructed", "long_ddim"),
    measure=measure,
    left_out=left_out,
)
