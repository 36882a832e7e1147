"""The kinds of models that the one loop trains, each with its objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.models.classifier import ClassifierObjective, NoisyClassifier
from zsem.models.denoising import AutoencoderObjective, DiffusionObjective, LatentObjective
from zsem.models.diffusion import DiffusionModel
from zsem.models.gan import GanObjective, GenerativeAdversarialNetwork
from zsem.models.prior import LatentDiffusion
from zsem.models.vae import VaeObjective, VariationalAutoencoder


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of model: its class, and that of the objective it is trained on, both with a nested Config."""

    model: type[Model]
    objective: type[Any]

    @property
    def configs(self) -> tuple[type, type]:
        """The configurations of the model and of the objective."""
        return self.model.Config, self.objective.Config


FAMILIES: dict[str, Family] = {
    "autoencoder": Family(model=DiffusionAutoencoder, objective=AutoencoderObjective),
    "diffusion": Family(model=DiffusionModel, objective=DiffusionObjective),
    "classifier": Family(model=NoisyClassifier, objective=ClassifierObjective),
    "vae": Family(model=VariationalAutoencoder, objective=VaeObjective),
    "gan": Family(model=GenerativeAdversarialNetwork, objective=GanObjective),
    "latent_diffusion": Family(model=LatentDiffusion, objective=LatentObjective),
}


def kind_of(config: Any) -> str:
    """The kind of model that a configuration is for. Raises ValueError for the configuration of no such model."""
    for kind, family in FAMILIES.items():
        if type(config) is family.model.Config:
            return kind
    raise ValueError(f"{type(config).__qualname__} is not the configuration of a model that is trained")
