"""What a training learns of its model on the way: statistics, pictures and validations, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zsem.data.images import ImageSet
from zsem.metrics.health import health_of_z, verdict
from zsem.models import gan
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.models.baseline import LatentVariableModel
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.models.gan import GenerativeAdversarialNetwork
from zsem.models.vae import VariationalAutoencoder, negative_elbo
from zsem.training.pictures import sample_sheet, samples_sheet
from zsem.training.plan import Plan
from zsem.training.validation import validate, validate_classifier

MEASURED_IMAGES = 1024  # images that statistics of an unfinished model are taken over
SHOWN_IMAGES = 8  # images in the pictures of a training


class Watch:
    """The callables that the loop asks for, over the images of one training."""

    def __init__(self, images: ImageSet, plan: Plan, say: Callable[[str], None]) -> None:
        self.training, self.held_out = images.split("train"), images.held_out()
        self.plan, self.say = plan, say

    def measure(self, model: Model, everything: bool) -> None:
        """Fill in statistics of the model's codes, over all training images or some; other kinds have none."""
        if isinstance(model, DiffusionAutoencoder):
            some = self.training if everything else self.training.limit(MEASURED_IMAGES)
            model.measure_codes(some, self.held_out)

    def picture(self, model: Model, path: Path) -> None:
        """Draw what the model makes into a PNG file, where it makes pictures."""
        if isinstance(model, DiffusionAutoencoder):
            sample_sheet(model, self.held_out.limit(SHOWN_IMAGES), path)
        elif isinstance(model, (DiffusionModel, LatentVariableModel)):
            samples_sheet(model, path)

    def validate(self, model: Model) -> dict[str, Any]:
        """`figures`, and a word on what they mean."""
        figures = self.figures(model)
        if "z" in figures:
            self.say(verdict(figures["z"]["ratio"], figures["z"]["used"]))
        return figures

    def figures(self, model: Model) -> dict[str, Any]:
        """Figures of a validation on held-out images, JSON-able: "loss", and of an autoencoder whether z is used."""
        judged, objective = self.held_out.limit(self.plan.preset.training.validation_images), self.plan.preset.objective
        figures = self._validated(model, judged)
        if isinstance(model, DiffusionAutoencoder) and len(judged) > 1:
            figures["z"] = asdict(health_of_z(model, judged, unconditional=objective.z_dropout > 0))
        return figures

    def loss(self, model: Model, number: int) -> float:
        """The loss on `number` held-out images."""
        return self._validated(model, self.held_out.limit(number))["loss"]

    def _validated(self, model: Model, images: ImageSet) -> dict[str, Any]:
        objective = self.plan.preset.objective
        if isinstance(model, NoisyClassifier):
            return asdict(validate_classifier(model, images))
        if isinstance(model, VariationalAutoencoder):
            return negative_elbo(model, images, beta=objective.beta)
        if isinstance(model, GenerativeAdversarialNetwork):
            return gan.figures(model, images)
        assert isinstance(model, (DiffusionAutoencoder, DiffusionModel))
        return asdict(validate(model, images, objective.weighting))
