"""How a diffusion autoencoder is trained: encoder and decoder together, on the denoising loss alone (DiffAE, eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.losses import (
    CONDITION_DRAW,
    NOISE_DRAW,
    TIMESTEP_DRAW,
    Weighting,
    diffusion_loss,
    stratified_draws,
    timesteps_of,
    uniform_draws,
)
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.values import draws
from zsem.values.objective import Batch, Phase
from zsem.values.prediction import Condition


class EncodeAndPredict(nn.Module):
    """Encoder and U-Net in one forward pass, so that the loop can wrap them (mixed precision, several devices)."""

    def __init__(self, encoder: SemanticEncoder, unet: UNet) -> None:
        super().__init__()
        self.encoder, self.unet = encoder, unet

    def forward(
        self,
        x0: Float[Tensor, "n c h w"],
        x_t: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        keep: Float[Tensor, "b 1"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The prediction at x_t, of which every image of x0 has b / n in a row; `keep` is 0 where z is not told."""
        z = self.encoder(x0).repeat_interleave(len(x_t) // len(x0), dim=0)
        return self.unet(x_t, t, Condition(z=z if keep is None else z * keep))


class AutoencoderObjective:
    """E_{x0, t, eps} || prediction(x_t, t, encoder(x0)) - target ||^2, weighted; one optimiser for both networks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        weighting: Weighting = "v"
        """what every noise level weighs: 1 on the error of v, 1 on that of eps (simple), min_snr, p2"""
        timesteps: Literal["stratified", "uniform"] = "stratified"
        """draws of t: spread evenly over 0..T-1 in every batch, or independent"""
        noisy_share: float = 0.0
        """share of the draws of t that lie at high noise, where the image must be predicted from z"""
        noisy_log_snr: float = -2.0
        """log-SNR below which noise is high"""
        noise_draws: int = 1
        """noisy versions of every image in a batch; the encoder sees it once"""
        z_dropout: float = 0.0
        """share of the predictions that are made without z (zeros in its place), for guidance on z"""

    def __init__(self, model: DiffusionAutoencoder, config: Config) -> None:
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": EncodeAndPredict(self.model.encoder, self.model.unet)}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        model, config = self.model, self.config
        clean = model.prepare(batch.images)
        number = config.noise_draws
        names = [(*name[:-1], name[-1] * number + k) for name in batch.names for k in range(number)]
        x0 = clean.repeat_interleave(number, dim=0)
        eps = draws.normal([(*name, NOISE_DRAW) for name in names], tuple(x0.shape[1:])).to(x0)
        spread = stratified_draws if config.timesteps == "stratified" else uniform_draws
        t = timesteps_of(
            spread(names, TIMESTEP_DRAW), model.schedule.timesteps,
            noisy_share=config.noisy_share, noisy_from=first_below(model.schedule, config.noisy_log_snr),
        ).to(x0.device)  # fmt: skip
        keep = None
        if config.z_dropout > 0:
            keep = (uniform_draws(names, CONDITION_DRAW) >= config.z_dropout)[:, None].to(x0)

        def network(x_t: Tensor, t: Tensor, _: Condition) -> Tensor:
            return networks["autoencoder"](clean, x_t, t, keep)  # z comes from the encoder, inside

        denoise = NetworkDenoiser(network, model.schedule, model.config.prediction)
        loss = diffusion_loss(denoise, x0, eps, t, Condition(), config.weighting)
        yield Phase(loss=loss.mean(), optimiser="autoencoder")


def first_below(schedule: NoiseSchedule, log_snr: float) -> int:
    """The first timestep with a log-SNR below `log_snr`, or the last where there is none."""
    abar = schedule.alphas_cumprod
    below = (abar.log() - torch.log1p(-abar)) < log_snr
    return int(below.long().argmax()) if bool(below.any()) else schedule.timesteps - 1
