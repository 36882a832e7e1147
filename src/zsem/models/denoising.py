"""How models that remove noise are trained: on the denoising loss alone (DDPM, eq. 14; DiffAE, eq. 6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from zsem.data.intensity import EIGHT_BITS
from zsem.diffusion.losses import (
    CONDITION_DRAW,
    ErrorKind,
    ImportanceTimesteps,
    Weighting,
    diffusion_loss,
    hybrid_loss,
    timesteps_of,
    training_noise,
    training_places,
    uniform_draws,
)
from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.prior import LatentDiffusion
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase
from zsem.values.prediction import Condition


class DenoisingObjective:
    """What all of them share: which noise an image is shown with, and what its loss counts.

    With timesteps by importance it is an `Adaptive` objective, which learns from its losses what to draw.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        weighting: Weighting = "v"
        """what every noise level weighs: 1 on the error of v, 1 on that of eps (simple), min_snr, p2"""
        timesteps: Literal["stratified", "uniform", "importance"] = "stratified"
        """draws of t: spread evenly over 0..T-1 in every batch, independent, or more of those with large losses"""
        noisy_share: float = 0.0
        """share of the draws of t that lie at high noise, where the image must be predicted from what is told of it"""
        noisy_log_snr: float = -2.0
        """log-SNR below which noise is high"""

    config: Any  # a Config, which every objective extends

    def __init__(self, schedule: NoiseSchedule, config: Config) -> None:
        """Raises ZsemError for a share that is none, and where two settings both say which timesteps are drawn."""
        if not 0 <= config.noisy_share <= 1:
            raise ZsemError(f"objective.noisy_share is a share of the draws, from 0 to 1, not {config.noisy_share:g}")
        if config.timesteps == "importance" and config.noisy_share > 0:
            raise ZsemError(
                "noisy_share and timesteps importance both say which timesteps are drawn: leave one of them out"
            )
        self.schedule, self.config = schedule, config
        self.importance = ImportanceTimesteps(schedule.timesteps) if config.timesteps == "importance" else None
        self._shown: list[Float[Tensor, "b 3"]] = []  # position, timestep and loss of what an iteration has shown

    def mean_loss(
        self,
        names: Sequence[tuple[int, ...]],
        x0: Float[Tensor, "b c h w"],
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Float[Tensor, ""]:
        """The mean of `loss`, which is told eps [b, c, h, w] and t [b] and gives a loss for each of the named images.

        By importance it is weighted, so that it estimates the mean over all timesteps without bias.
        """
        eps = training_noise(names, tuple(x0.shape[1:])).to(x0)
        t, weights = self._timesteps(names)
        losses = loss(eps, t.to(x0.device))
        if weights is None:
            return losses.mean()
        if torch.is_grad_enabled():  # otherwise it is only looked at, and nothing is learned
            positions = torch.tensor([name[-1] for name in names])
            self._shown.append(torch.stack([values.to(losses).detach() for values in (positions, t, losses)], dim=1))
        return (losses * weights.to(losses)).mean()

    def iterated(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Learn from the losses of an iteration, in the order of positions, however it was cut and shared."""
        if self.importance is None:
            return
        shown = gather(torch.cat(self._shown)).cpu()
        self._shown.clear()
        shown = shown[shown[:, 0].argsort()]
        self.importance.update(shown[:, 1].long(), shown[:, 2])

    def state_dict(self) -> dict[str, Tensor]:
        """What the importance of timesteps has learned; nothing where they are drawn otherwise."""
        return {} if self.importance is None else self.importance.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state; errors as in `ImportanceTimesteps`."""
        if self.importance is not None:
            self.importance.load_state_dict(state)

    def _timesteps(self, names: Sequence[tuple[int, ...]]) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"] | None]:
        """Timesteps, and by importance their weights."""
        config = self.config
        places = training_places(names, stratified=config.timesteps == "stratified")
        if self.importance is not None:
            return self.importance.draw(places)
        t = timesteps_of(
            places, self.schedule.timesteps,
            noisy_share=config.noisy_share, noisy_from=first_below(self.schedule, config.noisy_log_snr),
        )  # fmt: skip
        return t, None


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


class AutoencoderObjective(DenoisingObjective):
    """E_{x0, t, eps} || prediction(x_t, t, encoder(x0)) - target ||^2, weighted; one optimiser for both networks."""

    @dataclass(frozen=True, kw_only=True)
    class Config(DenoisingObjective.Config):
        noise_draws: int = 1
        """noisy versions of every image in a batch; the encoder sees it once"""
        z_dropout: float = 0.0
        """share of the predictions that are made without z (zeros in its place), for guidance on z"""

    config: Config

    def __init__(self, model: DiffusionAutoencoder, config: Config) -> None:
        """Raises ZsemError for a number of draws or a share that is none."""
        super().__init__(model.schedule, config)
        if config.noise_draws < 1:
            raise ZsemError(f"objective.noise_draws must be at least 1, not {config.noise_draws}")
        if not 0 <= config.z_dropout < 1:
            raise ZsemError(f"objective.z_dropout is a share, from 0 to below 1, not {config.z_dropout:g}")
        self.model = model

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"autoencoder": EncodeAndPredict(self.model.encoder, self.model.unet)}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        config, clean = self.config, self.model.prepare(batch.images)
        number = config.noise_draws
        names = [(*name[:-1], name[-1] * number + k) for name in batch.names for k in range(number)]
        x0 = clean.repeat_interleave(number, dim=0)
        keep = None
        if config.z_dropout > 0:
            keep = (uniform_draws(names, CONDITION_DRAW) >= config.z_dropout)[:, None].to(x0)

        def network(x_t: Tensor, t: Tensor, _: Condition) -> Tensor:
            return networks["autoencoder"](clean, x_t, t, keep)  # z comes from the encoder, inside

        denoise = replace(self.model.denoiser, network=network)

        def loss(eps: Tensor, t: Tensor) -> Tensor:
            return diffusion_loss(denoise, x0, eps, t, Condition(), config.weighting)

        yield Phase(loss=self.mean_loss(names, x0, loss), optimiser="autoencoder")


class DiffusionObjective(DenoisingObjective):
    """E_{x0, t, eps} || prediction(x_t, t, class) - target ||^2, weighted (DDPM, eq. 14).

    A learned variance is taught beside it, by the variational bound (improved DDPM, eq. 16). Classes are dropped with
    the model's `class_dropout` (2207.12598, algorithm 1); images of unknown class are shown without one.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(DenoisingObjective.Config):
        vlb_weight: float = 0.001
        """of models with a learned variance: weight of the variational bound, which teaches it"""

    config: Config

    def __init__(self, model: DiffusionModel, config: Config) -> None:
        """Raises ZsemError for a negative weight, and for a learned variance of images that are not 8-bit."""
        super().__init__(model.schedule, config)
        if config.vlb_weight < 0:
            raise ZsemError(f"objective.vlb_weight must not be negative, and is {config.vlb_weight:g}")
        self.model = model
        self.posteriors = Posteriors.of_all(model.schedule) if model.config.learned_range else None
        if model.config.learned_range and model.config.intensity != EIGHT_BITS:
            raise ZsemError(
                f"learned_range is taught by the likelihood of 8-bit images over their full range, and these are "
                f"{model.config.intensity.depth}, {model.config.intensity.kind}: turn it off, or convert the images"
            )

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"diffusion": self.model.unet}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        """One phase. Raises ZsemError where the model has classes and the images have none, or more."""
        x0, config = self.model.prepare(batch.images), self.config
        cond = self._condition(batch, x0.device)
        denoise = replace(self.model.denoiser, network=networks["diffusion"])

        def loss(eps: Tensor, t: Tensor) -> Tensor:
            if self.posteriors is None:
                return diffusion_loss(denoise, x0, eps, t, cond, config.weighting)
            return hybrid_loss(
                denoise, x0, eps, t, cond, self.posteriors, config.weighting, vlb_weight=config.vlb_weight
            )

        yield Phase(loss=self.mean_loss(batch.names, x0, loss), optimiser="diffusion")

    def _condition(self, batch: Batch, device: torch.device) -> Condition:
        """The classes of a batch, -1 where they are unknown or dropped."""
        config = self.model.config
        if config.unet.num_classes is None:
            return Condition()
        dropped = uniform_draws(batch.names, CONDITION_DRAW) < config.class_dropout
        return Condition(classes=batch.classes_of(config.unet.num_classes).masked_fill(dropped, -1).to(device))


class LatentObjective(DenoisingObjective):
    """E_{z, t, eps} | eps_theta(z_t, t) - eps |_1 over normalised codes (DiffAE, section 3.4 and supplement A.1).

    That loss, whatever the network predicts. The images of a batch are raw codes, [b, d, 1, 1].
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(DenoisingObjective.Config):
        weighting: Weighting = "simple"
        """what every noise level weighs: 1 on the error of eps (simple, as published), v, min_snr, p2"""
        error: ErrorKind = "l1"
        """absolute (l1, as published) or squared (l2) error"""

    config: Config

    def __init__(self, model: LatentDiffusion, config: Config) -> None:
        super().__init__(model.schedule, config)
        self.model = model

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"latent": self.model.net}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        x0 = self.model.normalise(batch.images[:, :, 0, 0])
        denoise, config = self.model.denoiser_of(networks["latent"]), self.config

        def loss(eps: Tensor, t: Tensor) -> Tensor:
            return diffusion_loss(denoise, x0, eps, t, Condition(), config.weighting, error=config.error)

        yield Phase(loss=self.mean_loss(batch.names, x0, loss), optimiser="latent")


def first_below(schedule: NoiseSchedule, log_snr: float) -> int:
    """The first timestep with a log-SNR below `log_snr`, or the last where there is none."""
    abar = schedule.alphas_cumprod
    below = (abar.log() - torch.log1p(-abar)) < log_snr
    return int(below.long().argmax()) if bool(below.any()) else schedule.timesteps - 1
