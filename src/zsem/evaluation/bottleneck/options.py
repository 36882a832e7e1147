"""How much the study of h-space measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zsem.data.images import ImageSet
from zsem.evaluation.bottleneck.methods import METHODS
from zsem.evaluation.bottleneck.workshop import Reference
from zsem.evaluation.flipping import check_number
from zsem.hspace.editable import Editable
from zsem.models.diffusion import DiffusionModel
from zsem.models.judge import Judge
from zsem.training.shifts import RECIPES, TUNING
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How much is measured, and of what."""

    attributes: tuple[str, ...] = ("smile", "glasses", "beard")
    """what is edited"""
    methods: tuple[str, ...] = tuple(METHODS)
    """what is compared"""
    number: int = 100
    """held-out images that are edited, once for every attribute and method"""
    steps: int = 20
    """noise levels of every walk"""
    learned_from: int = 1000
    """labelled training images that directions are found from, at most half of those that there are"""
    trained_from: int = 200
    """of these f_t and fine-tuning learn from so many"""
    tuned_on: int = 16
    """other training images that the amounts are chosen on"""
    regardless: bool = False
    """choose amounts by the edited attribute alone, whatever becomes of the others"""
    of_properties: int = 16
    """held-out images of the properties; 0 leaves these out"""
    shift_iterations: int = RECIPES["corrected"].iterations
    """length of the training of f_t"""
    tuning_iterations: int = TUNING.iterations
    """length of each of two fine-tunings"""
    consistent_steps: tuple[int, ...] = (10, 20, 50)
    """steps of the solver that one edit is compared at"""
    batch_size: int = 25
    """images at a time"""
    seed: int = 0
    """of choices"""


QUICK: Mapping[str, Any] = {
    "number": 4, "learned_from": 64, "trained_from": 64, "tuned_on": 4, "of_properties": 2, "shift_iterations": 4,
    "tuning_iterations": 2, "steps": 8, "consistent_steps": (4, 8),
}  # fmt: skip
"""To see that everything works: the figures mean nothing."""


def check(options: StudyOptions, model: Editable, images: ImageSet) -> None:
    """Raise ZsemError for what cannot be studied; takes no time, and needs no judge."""
    positive = (
        "number", "steps", "learned_from", "trained_from", "tuned_on", "batch_size", "shift_iterations",
        "tuning_iterations",
    )  # fmt: skip
    for name in positive:
        if getattr(options, name) < 1:
            raise ZsemError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(options, name)}")
    if unknown := [method for method in options.methods if method not in METHODS]:
        raise ZsemError(f"--methods {unknown[0]} is none: choose among {', '.join(METHODS)}")
    if not options.attributes or not options.methods:
        raise ZsemError("name at least one of --attributes and of --methods")
    if unknown := [name for name in options.attributes if name not in images.attributes]:
        known = ", ".join(images.attributes)
        raise ZsemError(f"{images.source} has no labels of {unknown[0]}: choose --attributes among {known}")
    if isinstance(model, DiffusionModel) and model.config.conditional:
        raise ZsemError("the study is of models that are told no class: give an unconditional one, or an autoencoder")
    check_number(options.number, images)
    training = images.split("train")
    if len(training) < options.trained_from + options.tuned_on:
        raise ZsemError(
            f"directions are found from {options.trained_from} training images or more and their amounts chosen on "
            f"{options.tuned_on} others, and there are only {len(training)}: give more images"
        )


def check_networks(options: StudyOptions, model: Editable, judge: Judge, reference: Reference | None) -> None:
    """Raise ZsemError where the judge or the autoencoder do not go with the rest."""
    if unknown := [name for name in options.attributes if name not in judge.config.attributes]:
        known = ", ".join(judge.config.attributes)
        raise ZsemError(f"the judge knows no {unknown[0]}: choose --attributes among {known}")
    if reference is None:
        if all(METHODS[method].asks for method in options.methods):
            raise ZsemError("these methods ask the z_sem of an autoencoder: give --autoencoder")
        return
    if reference.model.image_shape != model.image_shape:
        raise ZsemError("the autoencoder must be for images of the model's size and channels: give another")
    for name in options.attributes:
        _ = reference.semantics[name]  # says so where it was not learned
