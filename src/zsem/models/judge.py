"""A judge: a small supervised network that reads 0/1 attributes off pixels.

It is the ceiling for probes, and the instrument that says what an edit has done to a picture. It lies among the models
because it is trained by the one loop and saved like all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.data.shaping import sides
from zsem.models.base import Model
from zsem.models.imaging import check_size, evaluation
from zsem.models.inputs import Images, InputConfig, read_inputs
from zsem.nets.encoder import SemanticEncoder
from zsem.values import draws
from zsem.values.objective import Batch, Phase

NOISE_DRAW = 4  # the last integer of a draw's name: what the draw is for


class Judge(Model):
    """p(attribute | image) for several 0/1 attributes at once; the network is a half U-Net that ends in logits."""

    kind = "judge"

    @dataclass(frozen=True, kw_only=True)
    class Config(InputConfig):
        attributes: tuple[str, ...]
        """names of the attributes, in the order of the logits"""
        net: SemanticEncoder.Config = field(
            default_factory=lambda: SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_resolutions=(), patch=2, pool=4
            )
        )
        """the network"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = SemanticEncoder(
            config.net,
            image_size=max(sides(config.image_size)),
            image_channels=config.image_channels,
            z_dim=len(config.attributes),
        )
        check_size(config.image_size, "judge", config.net.multiple)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b a"]:
        """Logits for images in [-1, 1]."""
        return self.net(x0)

    def logits(self, images: Images, *, batch_size: int = 64) -> Float[Tensor, "n a"]:
        """Logits for images of any kind that `DiffusionAutoencoder.encode` takes, on the CPU and without gradients."""
        inputs = read_inputs(images, self.config.image_shape, self.config.intensity, self.config.background)
        starts = range(0, len(inputs.pixels), batch_size)
        with evaluation(self):
            parts = [self(inputs.part(slice(start, start + batch_size)).to(self.device)).cpu() for start in starts]
        return torch.cat(parts)


class JudgeObjective:
    """Mean binary cross-entropy over the attributes that are known of every image, under a little noise."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        noise: float = 0.1
        """largest standard deviation of noise on the images (of range 2), because decoded pictures are never clean"""

    def __init__(self, model: Judge, config: Config) -> None:
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"judge": self.model}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        """One phase. Raises ValueError for a batch without the model's attributes."""
        labels, device = batch.attributes, self.model.device
        if labels is None or labels.shape[1] != len(self.model.config.attributes):
            raise ValueError("a judge is trained on batches that have its attributes")
        x0 = self.model.config.intensity.normalise(batch.images).to(device)
        names = [(*name, NOISE_DRAW) for name in batch.names]
        sigma = [self.config.noise * draws.generator(*name, 1).random() for name in names]
        noise = draws.normal(names, tuple(x0.shape[1:])).to(x0)
        logits = networks["judge"](x0 + x0.new_tensor(sigma)[:, None, None, None] * noise)
        labels = labels.to(logits)
        known = ~labels.isnan()
        losses = F.binary_cross_entropy_with_logits(logits.float(), labels.float().nan_to_num(), reduction="none")
        yield Phase(loss=(losses * known).sum() / known.sum().clamp(min=1), optimiser="judge")
