"""Priors over semantic codes, which make the autoencoder generative (DiffAE, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import ddim, last
from zsem.models.base import Model
from zsem.models.imaging import evaluation
from zsem.nets.latent import LatentNet
from zsem.values import draws
from zsem.values.prediction import Condition


class LatentDiffusion(Model):
    """The latent DDIM: a diffusion model of normalised z_sem, as published with its autoencoder.

    z_mean, z_std: statistics that codes were normalised with, [d].
    """

    kind = "latent_diffusion"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        z_dim: int = 512
        """length of the semantic code"""
        net: LatentNet.Config = field(default_factory=LatentNet.Config)
        """the network"""
        schedule: NoiseSchedule.Config = field(default_factory=lambda: NoiseSchedule.Config(kind="constant"))
        """noise levels, constant beta 0.008 in the paper"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = LatentNet(config.net, z_dim=config.z_dim)
        self.schedule = NoiseSchedule(config.schedule)
        self.z_mean: Tensor
        self.z_std: Tensor
        self.register_buffer("z_mean", torch.zeros(config.z_dim))
        self.register_buffer("z_std", torch.ones(config.z_dim))

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network as a denoiser of normalised codes, [b, d, 1, 1]."""

        def network(z_t: Tensor, t: Tensor, _: Condition) -> Tensor:
            return self.net(z_t[:, :, 0, 0], t)[:, :, None, None]

        return NetworkDenoiser(network, self.schedule, "eps")

    def sample(self, number: int, *, seed: int = 0, steps: int = 200) -> Float[Tensor, "n d"]:
        """New semantic codes, as the encoder would give them (not normalised), by DDIM (DiffAE, supplement A.1).

        Each is a function of (seed, position) alone. Raises ZsemError for more steps than timesteps.
        """
        grid = TimeGrid.make(self.schedule, steps, spacing="uniform")
        names = [(seed, position) for position in range(number)]
        with evaluation(self):
            noise = draws.normal(names, (self.config.z_dim, 1, 1)).to(self.device)
            z, _ = last(ddim(bind(self.denoiser, Condition()), noise, grid))
        return (z[:, :, 0, 0].float() * self.z_std + self.z_mean).cpu()
