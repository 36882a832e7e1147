"""How a diffusion autoencoder is trained: encoder and decoder together, on the denoising loss alone (DiffAE, eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from zsem.data.pixels import from_uint8
from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.losses import NOISE_DRAW, Weighting, diffusion_loss, stratified_timesteps, uniform_timesteps
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
        self, x0: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        return self.unet(x_t, t, Condition(z=self.encoder(x0)))


class AutoencoderObjective:
    """E_{x0, t, eps} || prediction(x_t, t, encoder(x0)) - target ||^2, weighted; one optimiser for both networks."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        weighting: Weighting = "v"
        """what every noise level weighs: 1 on the error of v, 1 on that of eps (simple), min_snr, p2"""
        timesteps: Literal["stratified", "uniform"] = "stratified"
        """draws of t: spread evenly over 0..T-1 in every batch, or independent"""

    def __init__(self, model: DiffusionAutoencoder, config: Config) -> None:
        self.model, self.config = model, config

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": EncodeAndPredict(self.model.encoder, self.model.unet)}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        model, config = self.model, self.config
        x0 = from_uint8(batch.images.to(model.device))
        eps = draws.normal([(*name, NOISE_DRAW) for name in batch.names], tuple(x0.shape[1:])).to(x0)
        sample = stratified_timesteps if config.timesteps == "stratified" else uniform_timesteps
        t = sample(batch.names, model.schedule.timesteps).to(x0.device)

        def network(x_t: Tensor, t: Tensor, _: Condition) -> Tensor:
            return networks["autoencoder"](x0, x_t, t)  # z comes from the encoder, inside

        denoise = NetworkDenoiser(network, model.schedule, model.config.prediction)
        loss = diffusion_loss(denoise, x0, eps, t, Condition(), config.weighting)
        yield Phase(loss=loss.mean(), optimiser="autoencoder")
