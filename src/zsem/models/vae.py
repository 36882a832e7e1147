"""A variational autoencoder, the baseline for codes: what a probe reads off z of equal length (1312.6114)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zsem.data.shaping import sides
from zsem.models.baseline import LatentVariableModel
from zsem.models.imaging import Progress, evaluation
from zsem.models.inputs import Images
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.vae import Decoder
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase

LATENT_DRAW = 5  # the last integer of a draw's name: what the draw is for
ROUNDING = (2 / 255) ** 2 / 12  # variance of what rounding to 8 bits takes away, on the scale of [-1, 1]


class VariationalAutoencoder(LatentVariableModel):
    """Images to codes and back: `encode`, `decode`, `reconstruct`, `sample`.

    The encoder is the half U-Net of the diffusion autoencoder, with twice the outputs: mean and log-variance of
    q(z | image).
    """

    kind = "vae"

    @dataclass(frozen=True, kw_only=True)
    class Config(LatentVariableModel.Config):
        encoder: SemanticEncoder.Config = field(
            default_factory=lambda: SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_resolutions=(), patch=2, pool=4
            )
        )
        """the network from images to codes"""
        decoder: Decoder.Config = field(default_factory=Decoder.Config)
        """the network from codes to images"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, "VAE", config.encoder.multiple, config.decoder.multiple)
        size = sides(config.image_size)
        self.encoder = SemanticEncoder(
            config.encoder, image_size=max(size), image_channels=config.image_channels, z_dim=2 * config.z_dim
        )
        self.decoder = Decoder(
            config.decoder, image_size=size, image_channels=config.image_channels, z_dim=config.z_dim
        )

    @property
    def _of_z(self) -> Decoder:
        return self.decoder

    def posterior(self, x0: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Mean and log-variance of q(z | image), for images in [-1, 1]."""
        mean, log_var = self.encoder(x0).float().chunk(2, dim=1)
        return mean, log_var

    def forward(
        self, x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Images decoded from z = mean + std eps, and mean and log-variance of q(z | image) (1312.6114, eq. 10)."""
        mean, log_var = self.posterior(x0)
        return self.decoder(mean + (log_var / 2).exp() * eps), mean, log_var

    def encode(self, images: Images, *, batch_size: int = 64, progress: Progress | None = None) -> Float[Tensor, "n d"]:
        """Codes of images of any kind that `DiffusionAutoencoder.encode` takes: means of q(z | image), on the CPU."""
        inputs = self.read(images)
        number, out = len(inputs.pixels), [torch.empty(0, self.config.z_dim)]
        with evaluation(self):
            for start in range(0, number, batch_size):
                stop = min(start + batch_size, number)
                out.append(self.posterior(inputs.part(slice(start, stop)).to(self.device))[0].cpu())
                if progress is not None:
                    progress(stop, number)
        return torch.cat(out)

    def reconstruct(self, images: Images, *, batch_size: int = 64) -> Float[Tensor, "n c h w"]:
        """Images decoded from their codes, float32, nominally in [-1, 1] and not clipped."""
        return self.decode(self.encode(images, batch_size=batch_size), batch_size=batch_size)


def reconstruction_nats(x0: Float[Tensor, "b c h w"], decoded: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """-log p(image | z) in nats, under a normal distribution round `decoded` with the variance that fits it best.

    That variance is the mean squared error itself, so nothing weighs reconstruction against the KL term by hand
    (the optimal sigma-VAE of 2006.13202). Here it is each image's own: the loss of a batch is then the mean of
    those of its images, however it is shared out. The image counts as spread over the width of its rounding to 8 bits,
    so that the variance never falls below that of the rounding.
    """
    variance = (x0.float() - decoded.float()).square().mean(dim=(1, 2, 3)) + ROUNDING
    return x0[0].numel() / 2 * ((2 * math.pi * variance).log() + 1)


def kl_nats(mean: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(mean, exp(log_var)) || N(0, I)) in nats (1312.6114, appendix B)."""
    return (mean.square() + log_var.exp() - 1 - log_var).sum(dim=1) / 2


class VaeObjective:
    """The negative evidence lower bound per pixel and channel, in nats: -log p(image | z) + beta KL(q(z | image) || p).

    The decoder's variance is the optimal one, which needs no tuning: see `reconstruction_nats`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        beta: float = 1.0
        """weight of the KL term; 1 is the evidence lower bound, more makes codes simpler and images blurrier"""

    def __init__(self, model: VariationalAutoencoder, config: Config) -> None:
        """Raises ZsemError for a negative weight."""
        if config.beta < 0:
            raise ZsemError(f"objective.beta must not be negative, and is {config.beta:g}")
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"vae": self.model}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        x0 = self.model.prepare(batch.images)
        eps = draws.normal([(*name, LATENT_DRAW) for name in batch.names], (self.model.config.z_dim,)).to(x0)
        decoded, mean, log_var = networks["vae"](x0, eps)
        nats = reconstruction_nats(x0, decoded) + self.config.beta * kl_nats(mean, log_var)
        yield Phase(loss=nats.mean() / x0[0].numel(), optimiser="vae")


def negative_elbo(
    model: VariationalAutoencoder, images: Images, *, beta: float | int = 1.0, batch_size: int = 64
) -> dict[str, float]:
    """What the training loss would be on `images` ("loss"), and what it is made of; always with the same draws of z.

    "kl": mean of KL(q(z | image) || p), nats per image. "mse": mean squared error of `reconstruct` on the [0, 1] scale.
    """
    inputs = model.read(images)
    number = len(inputs.pixels)
    names = [draws.name_of(path) for path in inputs.paths] or [(0, position) for position in range(number)]
    eps = draws.normal([(*name, LATENT_DRAW) for name in names], (model.config.z_dim,))
    sums = dict.fromkeys(("loss", "kl", "mse"), 0.0)
    with evaluation(model):
        for start in range(0, number, batch_size):
            rows = slice(start, start + batch_size)
            x0 = inputs.part(rows).to(model.device)
            decoded, mean, log_var = model(x0, eps[rows].to(x0))
            kl = kl_nats(mean, log_var)
            sums["loss"] += float((reconstruction_nats(x0, decoded) + beta * kl).sum()) / x0[0].numel()
            sums["kl"] += float(kl.sum())
            sums["mse"] += float(((model.decoder(mean) - x0) / 2).square().mean(dim=(1, 2, 3)).sum())
    return {name: total / number for name, total in sums.items()}
