"""A classifier of noisy images, which guides samples towards a class (ADM, section 4), and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Shaped
from torch import Tensor, nn

from zsem.diffusion.losses import timesteps_of, training_noise, training_places
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.base import Model
from zsem.models.imaging import check_names, check_size
from zsem.models.inputs import Images, InputConfig, Inputs, read_inputs
from zsem.nets.encoder import NoisyClassifierNet
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase


class NoisyClassifier(Model):
    """p(class | x_t, t) for every timestep of a noise schedule."""

    kind = "classifier"

    @dataclass(frozen=True, kw_only=True)
    class Config(InputConfig):
        num_outputs: int = 1000
        """number of classes"""
        class_names: tuple[str, ...] = ()
        """names of the classes, in the order of their indices; empty where they are unknown"""
        net: HalfUNet.Config = field(default_factory=HalfUNet.Config)
        """the network"""
        schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
        """noise levels that the classifier knows"""

        @property
        def conditional(self) -> bool:
            """True: a classifier is always told classes."""
            return True

        def for_classes(self, names: Sequence[str]) -> NoisyClassifier.Config:
            """The same for classes of these names."""
            return replace(self, num_outputs=len(names), class_names=tuple(names))

    config: Config

    def __init__(self, config: Config) -> None:
        """Raises ZsemError for names that do not fit the classes, a network that is told classes, or an odd size."""
        super().__init__(config)
        check_names(config.class_names, config.num_outputs)
        if config.net.num_classes is not None:
            raise ZsemError(
                "net.num_classes is for networks that are told the class: leave it out, and say num_outputs"
            )
        self.net = NoisyClassifierNet(
            config.net,
            image_size=config.image_size,
            image_channels=config.image_channels,
            num_outputs=config.num_outputs,
        )
        check_size(config.image_size, "classifier", self.net.multiple)
        self.schedule = NoiseSchedule(config.schedule)

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Logits for noisy images x_t at timesteps t (0..T-1)."""
        return self.net(x_t, t)

    def read(self, images: Images) -> Inputs:
        """Images of any kind as this model takes them. ZsemError: they cannot be read, or do not fit."""
        return read_inputs(images, self.config.image_shape, self.config.intensity, self.config.background)

    def prepare(self, pixels: Shaped[Tensor, "b c h w"]) -> Float32[Tensor, "b c h w"]:
        """Pixels as they are stored, as the network sees them: in [-1, 1], on the model's device."""
        return self.config.intensity.normalise(pixels).to(self.device)

    def log_prob(
        self, classes: Int[Tensor, " b"], schedule: NoiseSchedule | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """(x_t, t) -> log p(class | x_t) of a class for each image, [b], for `ClassifierGuidance`.

        schedule: that the timesteps t belong to, where it is not the classifier's own; it is told its own timestep of
            the same noise level.
        Raises ZsemError for classes that it does not know.
        """
        known = self.config.num_outputs
        if not bool(((classes >= 0) & (classes < known)).all()):
            raise ZsemError(f"the classifier knows the classes 0..{known - 1}: ask for one of them")
        other = schedule if schedule is not None and schedule.config != self.schedule.config else None
        index = classes.to(self.device)[:, None]

        def log_p(x_t: Tensor, t: Tensor) -> Tensor:
            if other is not None:
                t = self.schedule.timestep_at(other.u(t))
            return F.log_softmax(self(x_t.float(), t.float()), dim=1).gather(1, index)[:, 0]

        return log_p


class ClassifierObjective:
    """E_{x0, t, eps} [-log p(class | x_t, t)] over the images that have a class (ADM, section 4.1)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        timesteps: Literal["stratified", "uniform"] = "stratified"
        """draws of t: spread evenly over 0..T-1 in every batch, or independent"""

    def __init__(self, model: NoisyClassifier, config: Config) -> None:
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"classifier": self.model}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        """One phase. Raises ZsemError for images without classes, or of more classes than the model has."""
        schedule, classes = self.model.schedule, batch.classes_of(self.model.config.num_outputs)
        x0 = self.model.prepare(batch.images)
        eps = training_noise(batch.names, tuple(x0.shape[1:])).to(x0)
        places = training_places(batch.names, stratified=self.config.timesteps == "stratified")
        t = timesteps_of(places, schedule.timesteps).to(x0.device).float()
        logits = networks["classifier"](schedule.diffuse(x0, eps, t), t)
        total = F.cross_entropy(logits.float(), classes.to(x0.device), ignore_index=-1, reduction="sum")
        # over the known of the whole batch, not of this part, so that the parts add up to its gradient
        yield Phase(loss=total / (len(classes) * (batch.known or 1.0)), optimiser="classifier")
