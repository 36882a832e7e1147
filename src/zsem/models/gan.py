"""A generative adversarial network, the baseline for samples: non-saturating, with R1 (1406.2661, 1801.04406)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.data.shaping import sides
from zsem.models.baseline import LatentVariableModel
from zsem.models.imaging import evaluation
from zsem.models.inputs import Images
from zsem.nets.gan import Discriminator
from zsem.nets.vae import Decoder
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase

DISCRIMINATOR_DRAW, GENERATOR_DRAW = 6, 7  # the last integer of a draw's name: what the draw is for


class GenerativeAdversarialNetwork(LatentVariableModel):
    """Latent vectors to images: `sample`, `decode`; a discriminator that tells them from real ones is kept with it."""

    kind = "gan"

    @dataclass(frozen=True, kw_only=True)
    class Config(LatentVariableModel.Config):
        generator: Decoder.Config = field(default_factory=Decoder.Config)
        """the network from latent vectors to images"""
        discriminator: Discriminator.Config = field(default_factory=Discriminator.Config)
        """the network that tells real images from samples"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, "GAN", config.generator.multiple, config.discriminator.multiple)
        size = sides(config.image_size)
        self.generator = Decoder(
            config.generator, image_size=size, image_channels=config.image_channels, z_dim=config.z_dim
        )
        self.discriminator = Discriminator(config.discriminator, image_size=size, image_channels=config.image_channels)

    @property
    def _of_z(self) -> Decoder:
        return self.generator


def discriminator_loss(real: Float[Tensor, " b"], fake: Float[Tensor, " b2"]) -> Float[Tensor, ""]:
    """-log D(x) - log(1 - D(G(z))), means over both (1406.2661, eq. 1), of logits; 2 ln 2 where D knows nothing."""
    return F.softplus(-real.float()).mean() + F.softplus(fake.float()).mean()


def generator_loss(fake: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """-log D(G(z)), the loss that does not saturate (1406.2661, section 3), of logits."""
    return F.softplus(-fake.float()).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], x0: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """E ||grad_x D(x)||^2 at real images, D the logit: R1 without its factor gamma / 2 (1801.04406, eq. 9).

    In float32 whatever the precision around it: squares of small gradients do not bear bf16's three digits.
    """
    taught = torch.is_grad_enabled()  # not where only the value is wanted
    with torch.enable_grad(), torch.autocast(x0.device.type, enabled=False):
        x = x0.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=taught)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


class GanObjective:
    """Two phases per batch: the discriminator learns from images and samples, then the generator from new samples.

    Train with AdamW's first beta at 0, as StyleGAN2 does, and without a clip: gradients have norms of 5 to 40, longest
    where the penalty is due, and a clip at 1 takes back what `r1_every` gives it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        r1: float = 1.0
        """gamma, the weight of the gradient penalty R1; more is steadier, and too much blurs; 0 for none"""
        r1_every: int = 8
        """iterations from one penalty to the next, which then counts as often (1912.04958, section 3.1)"""

    def __init__(self, model: GenerativeAdversarialNetwork, config: Config) -> None:
        """Raises ZsemError for a negative weight or an interval below one."""
        if config.r1 < 0 or config.r1_every < 1:
            raise ZsemError(
                f"objective.r1 = {config.r1:g} every {config.r1_every} iterations is no penalty: "
                "the weight must not be negative, the interval at least 1"
            )
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"discriminator": self.model.discriminator, "generator": self.model.generator}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        config = self.config
        generator, discriminator = networks["generator"], networks["discriminator"]
        x0 = self.model.prepare(batch.images)
        with torch.no_grad():
            samples = generator(self._z(batch.names, DISCRIMINATOR_DRAW))
        # one pass for both: gradients are exchanged between processes after one
        real, fake = discriminator(torch.cat([x0, samples.to(x0)])).chunk(2)
        loss = discriminator_loss(real, fake)
        iteration = batch.names[0][1]
        if config.r1 > 0 and iteration % config.r1_every == 0:
            loss = loss + config.r1_every * config.r1 / 2 * gradient_penalty(discriminator, x0)
        yield Phase(loss=loss, optimiser="discriminator")
        samples = generator(self._z(batch.names, GENERATOR_DRAW))
        yield Phase(loss=generator_loss(discriminator(samples.to(x0))), optimiser="generator")

    def _z(self, names: Sequence[tuple[int, ...]], purpose: int) -> Float[Tensor, "b d"]:
        """Latent vectors for a batch, on the model's device."""
        shape = (self.model.config.z_dim,)
        return draws.normal([(*name, purpose) for name in names], shape).to(self.model.device)


def figures(
    model: GenerativeAdversarialNetwork, images: Images, *, seed: int = 0, batch_size: int = 64
) -> dict[str, float]:
    """How well the discriminator tells held-out images from as many samples.

    "loss": its non-saturating loss, without penalty; 2 ln 2 = 1.386 where it knows nothing. It says how the two
        networks balance, not how good samples are: a better discriminator lowers it, a better generator raises it.
    "accuracy": the share of both that it tells right.
    """
    inputs = model.read(images)
    number = len(inputs.pixels)
    samples = model.sample(number, seed=seed, batch_size=batch_size)
    real, fake = [], []
    with evaluation(model):
        for start in range(0, number, batch_size):
            rows = slice(start, start + batch_size)
            real.append(model.discriminator(inputs.part(rows).to(model.device)))
            fake.append(model.discriminator(samples[rows].to(model.device)))
    logits = torch.cat([torch.cat(real), -torch.cat(fake)])
    return {"loss": float(2 * F.softplus(-logits).mean()), "accuracy": float((logits > 0).float().mean())}
