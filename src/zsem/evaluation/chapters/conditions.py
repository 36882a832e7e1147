"""Images made from nothing that are asked to have attributes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.data.labels import spread
from zsem.evaluation.chapters.chapter import Chapter
from zsem.evaluation.chapters.sampling import PRIOR
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, sheet
from zsem.evaluation.study import BATCH, Study
from zsem.models.diffusion import DiffusionModel
from zsem.values.errors import ZsemError

Wanted = Mapping[str, int]
"""Attributes that images must have (1) or must not have (0)."""
SEEN = Measure("asked for and seen", "share", "made images that the judge takes for what was asked for", "higher")
USUAL = Measure("among real ones", "share", "training images that have it: what making images at random would reach")
RIGHT = Measure("judge is right", "share", "real held-out images that the judge tells rightly: no more can be seen")


def measure(study: Study) -> Finding:
    """A row for every condition."""
    figures: list[Figure] = []
    notes = ["An independent network, trained on the labels, judges the pictures."]
    rows: dict[str, Tensor] = {}
    for row, wanted in conditions(study).items():
        study.say(row)
        try:
            made = images_of(study, wanted)
        except ZsemError as error:  # codes that have all of it may be too rare to be found
            notes.append(f"{row}: {error}.")
            continue
        seen = met(study, judged(study, study.model.config.intensity.restore(made)), wanted)
        figures += [SEEN.share(row, float(seen.double().mean()), len(seen)), *real(study, row, wanted)]
        rows[row] = study.pictures(made)
    pictures = [sheet(rows, "Made from nothing, each row asked for what stands beside it.")] if rows else []
    return Finding(figures=figures, verdict=[verdict(figures)], notes=notes, pictures=pictures)


def conditions(study: Study) -> dict[str, Wanted]:
    """What is asked for: some attributes alone, and two at once; classes of models that are told classes."""
    names = study.binary
    if isinstance(study.model, DiffusionModel):
        classes = study.model.config.class_names
        known = {name: {name: 1} for name in classes if name in names}
        if len(classes) == 2 and len(known) == 1:  # of two classes one attribute tells both
            (other,) = set(classes) - set(known)
            known[other] = {next(iter(known)): 0}
        return {name: known[name] for name in chosen(list(known), study.amounts.conditions)}
    some = chosen(names, study.amounts.conditions)
    found: dict[str, Wanted] = {name.replace("_", " "): {name: 1} for name in some}
    if len(some) > 1 and not set(some[:2]) <= set(study.classes):
        a, b = some[:2]
        found[f"{a}, no {b}".replace("_", " ")] = {a: 1, b: 0}
    return found


def chosen(names: list[str], number: int) -> list[str]:
    """So many of the names, evenly spaced."""
    return [names[i] for i in spread([""] * len(names), number)]


def images_of(study: Study, wanted: Wanted) -> Float[Tensor, "n c h w"]:
    """Images made from nothing. Raises ZsemError where the prior finds no such codes."""
    number, model = study.amounts.conditioned, study.model
    if isinstance(model, DiffusionModel):
        ((name, value),) = wanted.items()
        names = model.config.class_names
        index = names.index(name) if value else 1 - names.index(name)
        return model.sample(number, classes=index, seed=study.seed, batch_size=BATCH).clamp(-1, 1)
    assert study.prior is not None
    where = study.semantics.log_p(wanted)
    return model.sample(number, prior=study.prior, where=where, seed=study.seed, batch_size=BATCH).clamp(-1, 1)


def judged(study: Study, stored: Tensor) -> dict[str, Bool[Tensor, " n"]]:
    """What the judge sees in stored pixels."""
    logits = study.judge.logits(stored)
    return {name: logits[:, column] > 0 for column, name in enumerate(study.judge.config.attributes)}


def met(study: Study, seen: Mapping[str, Tensor], wanted: Wanted) -> Bool[Tensor, " n"]:
    """Which images have all that is wanted."""
    return torch.stack([seen[name] == bool(value) for name, value in wanted.items()]).all(dim=0)


def real(study: Study, row: str, wanted: Wanted) -> list[Figure]:
    """How often real images have it, and how often the judge tells that rightly."""
    there, _ = true(study.training, wanted)
    held_out = study.some(study.amounts.probed)
    truth, known = true(held_out, wanted)
    seen = met(study, judged(study, held_out.pixels), wanted).numpy()[known]
    right = seen == truth
    return [
        USUAL.share(row, float(there.mean()), len(there)),
        RIGHT.share(row, float(right.mean()), len(right)),
    ]


def true(images: ImageSet, wanted: Wanted) -> tuple[Bool[np.ndarray, " k"], Bool[np.ndarray, " n"]]:
    """Which of the images with all those labels have what is wanted; which have the labels."""
    labels = np.stack([images.attributes[name] for name in wanted])
    known = np.asarray(~np.isnan(labels).any(axis=0))
    target = np.array(list(wanted.values()))[:, None]
    return (labels[:, known] == target).all(axis=0), known


def verdict(figures: list[Figure]) -> Sentence:
    """How often what is asked for is seen."""
    seen, usual = ([f.value or 0 for f in figures if f.name == column.name] for column in (SEEN, USUAL))
    if not seen:
        return Sentence(grade="poor", text="No images were found that have what is asked for.")
    mean, chance = float(np.mean(seen)), float(np.mean(usual))
    grade = "good" if mean >= 0.8 else "fair" if mean >= (1 + chance) / 2 else "poor"
    return Sentence(
        grade=grade,
        text=f"Images that are asked to have something have it in {mean:.0%} of the cases, where {chance:.0%} would by "
        "chance.",
    )


def left_out(study: Study) -> str:
    """Conditions take a prior and labels, or classes."""
    if isinstance(study.model, DiffusionModel):
        if not study.model.config.conditional:
            return "The model cannot be told what to make."
        return "" if conditions(study) else "The images are not in folders of the model's classes."
    if study.prior is None:
        command = PRIOR.format(run=study.run, data=study.data)
        return f"There is no prior of semantic codes to ask: `{command}` makes one."
    return "" if study.binary else "The images have no 0/1 attributes with several images of both kinds to ask for."


CHAPTER = Chapter(
    name="conditions",
    title="Can new images be asked for?",
    question="Images are made from nothing that shall have an attribute, or one and not another.",
    uses=("conditions", "conditioned", "labels", "probed", "judge_iterations"),
    measure=measure,
    left_out=left_out,
)
