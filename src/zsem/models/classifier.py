"""A classifier of noisy images, which guides samples towards a class (ADM, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.base import Model
from zsem.models.imaging import check_size
from zsem.nets.encoder import NoisyClassifierNet
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError


class NoisyClassifier(Model):
    """p(class | x_t, t) for every timestep of a noise schedule."""

    kind = "classifier"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        image_size: int = 64
        """side of the square images, pixels"""
        image_channels: int = 3
        """1 for grey, 3 for colour, any number for other data"""
        num_outputs: int = 1000
        """number of classes"""
        class_names: tuple[str, ...] = ()
        """names of the classes, in the order of their indices; empty where they are unknown"""
        net: HalfUNet.Config = field(default_factory=HalfUNet.Config)
        """the network"""
        schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
        """noise levels that the classifier knows"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
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
