"""The page of an evaluation: for people who have not met the model, nor the method."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zsem.data.shaping import sides
from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.evaluate import CHAPTERS, Evaluated
from zsem.evaluation.findings import Figure, Finding, Sentence
from zsem.evaluation.study import Study
from zsem.models.diffusion import DiffusionModel
from zsem.report import Picture, Point, Section, write_page

TERMS = {
    "95 % interval": "How far a figure may be off because it comes from these images and not from others of the same "
    "kind: of a hundred such intervals about 95 hold the true value. Small n, wide interval.",
    "n": "How many images, pairs or edits a figure was measured on.",
    "held-out images": "Images that the training never saw. All figures are about them.",
    "semantic code (z, z_sem)": "A short list of numbers that the encoder makes of an image: what it shows.",
    "noise (x_T, stochastic code)": "All that z does not say, as an image of noise. Code and noise together give the "
    "image back.",
    "encoder, decoder": "The network that makes z of an image; the network that makes an image of z and noise, by "
    "removing the noise step by step.",
    "exact codec": "A way to walk from an image to its noise that can be walked back without any loss (O-BELM).",
    "DDIM inversion": "The usual way to the noise of an image, which is walked back with a small error.",
    "MSE, SSIM, ST-LPIPS": "Three ways to say how different two images are: pixel by pixel; by structure; by a network "
    "that was taught what people find different.",
    "attribute, label": "Something an image has or has not, or a number that belongs to it, as its owner has noted it.",
    "linear probe": "The simplest classifier there is, a weighted sum of numbers. If it can read an attribute off z, "
    "the attribute is there in plain form, and can be edited by a step in one direction.",
    "AUROC": "Take an image with an attribute and one without: how often the probe gives the first the higher score.",
    "principal components (PCA)": "The best summary of pixels that needs no learning: what z must beat.",
    "judge": "A network of its own, trained on the labels, that looks at edited pictures without knowing the model.",
    "leakage": "How much the other attributes change while one is edited; 0 is best.",
    "FD-EffLite0, KID": "Distances between two sets of images as wholes, by what a network sees in them. They are not "
    "FID, and cannot be compared with figures of FID.",
    "precision, recall": "How many made images look like some real one; how many real images have a made one like "
    "them.",
    "prior": "A model of codes, which draws new z, so that images can be made from nothing.",
    "PPL": "Perceptual path length: how far a picture moves for a small step of its codes.",
}
"""The glossary."""
KINDS = {
    "autoencoder": "a diffusion autoencoder: an encoder turns every image into a short semantic code, and a decoder "
    "turns code and noise back into the image",
    "diffusion": "a plain diffusion model: it turns noise into images, and images into noise and back; it has no "
    "semantic code",
}


def write_evaluation(path: str | Path, study: Study, evaluated: Evaluated, command: Sequence[str]) -> Path:
    """Write the page, whole or not at all; returns its path.

    command: the words that made it, e.g. ("zsem", "evaluate", ..), to be shown.
    Raises ZsemError where the file cannot be written.
    """
    names = {chapter.name: chapter for chapter in CHAPTERS}
    sections = [
        Section(title="In short", points=[
            Point(text=sentence.text, mark=mark(sentence), link=name)
            for name, sentence in firsts(evaluated)
        ]),
        *(section(names[name], finding) for name, finding in evaluated.findings.items()),
    ]  # fmt: skip
    if evaluated.left_out:
        points = [Point(text=f"{names[name].title} {reason}") for name, reason in evaluated.left_out.items()]
        sections.append(Section(title="What was left out", points=points))
    sections.append(
        Section(
            title="How to repeat this",
            text=[
                "The same command gives the same figures, and finds what it has measured before in its folder. "
                f"Model {study.model.stamp}, seed {study.seed}."
            ],
            code=shlex.join(command),
        )
    )
    sections.append(Section(title="Words", terms=TERMS))
    return write_page(path, f"How good is {Path(study.run).name}?", sections, summary=summary(study))


def firsts(evaluated: Evaluated) -> list[tuple[str, Sentence]]:
    """The verdict, with the chapters that it comes from."""
    said = [(name, finding.verdict[0]) for name, finding in evaluated.findings.items() if finding.verdict]
    return said[: len(evaluated.verdict)]


def summary(study: Study) -> list[str]:
    """What the model is, and what it was judged on."""
    model, history = study.model, study.model.history
    height, width = sides(study.images.size)
    colours = {1: "grey", 3: "colour"}.get(study.images.channels, f"{study.images.channels}-channel")
    parameters = sum(p.numel() for p in model.parameters())
    told = [f"{study.run} is {KINDS[model.kind]}. It is for {colours} images of {height} × {width} pixels"]
    if study.has_z:
        told.append(f", its semantic code has {study.autoencoder.config.z_dim} numbers")
    told.append(f", and it has {parameters / 1e6:.1f} million parameters.")
    if "images" in history:
        minutes = f" in {history['minutes']:.0f} minutes" if "minutes" in history else ""
        different = f" of {history['train_images']:,} different images" if "train_images" in history else ""
        conditional = isinstance(model, DiffusionModel) and model.config.conditional
        labelled = "and told their classes" if conditional else "and no labels"
        told.append(f" It was shown {history['images']:,} training images{different}{minutes}, {labelled}.")
    labels = ", ".join(name.replace("_", " ") for name in study.images.attributes)
    named = f"Their labels: {labels}." if labels else "They have no labels."
    return [
        "".join(told),
        f"This page judges it on images of {study.data} that the training held out: {len(study.held_out):,}, of which "
        f"each section takes as many as it says (n). {named} Good, fair and poor are rules of thumb; small print below "
        "a figure is its 95 % interval.",
    ]


def mark(sentence: Sentence) -> str:
    """The grade as the page shows it."""
    return "" if sentence.grade == "none" else sentence.grade


def section(chapter: Chapter, finding: Finding) -> Section:
    """One chapter."""
    arrows = {"higher": " (higher is better)", "lower": " (lower is better)", "": ""}
    says: dict[str, dict[str, None]] = {}  # one column may hold figures of two kinds: a set that keeps its order
    for figure in finding.figures:
        says.setdefault(figure.name, {})[f"{figure.meaning}{arrows[figure.better]}"] = None
    terms = {name: f"– {'; or '.join(meanings)}" for name, meanings in says.items()}
    return Section(
        id=chapter.name, title=chapter.title, text=[chapter.question],
        points=[Point(text=sentence.text, mark=mark(sentence)) for sentence in finding.verdict],
        rows=table(finding.figures), cards=True, terms=terms, notes=finding.notes,
        pictures=[Picture(image=picture.image, caption=picture.caption) for picture in finding.pictures],
    )  # fmt: skip


def table(figures: Sequence[Figure]) -> list[dict[str, str]]:
    """A row for everything that figures are of, a column for every measure; n where a row has one for all of it."""
    columns = list(dict.fromkeys(figure.name for figure in figures))
    rows: dict[str, list[Figure]] = {}
    for figure in figures:
        rows.setdefault(figure.of, []).append(figure)
    out = []
    for row, found in rows.items():
        cells: dict[str, Any] = {figure.name: f"{figure.text}\n{figure.interval}".strip() for figure in found}
        out.append({" ": row, **{name: cells.get(name, "") for name in columns}, "n": counted(found)})
    return out


def counted(figures: Sequence[Figure]) -> str:
    """The n of a row, or of each of its figures in turn where they differ."""
    numbers = list(dict.fromkeys(figure.n for figure in figures))
    if len(numbers) == 1:
        return f"{numbers[0]:,}"
    return " / ".join(f"{figure.n:,}" for figure in figures)
