"""From a network and a noise schedule to a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule, level_like
from zsem.values.prediction import Condition, Denoiser, NoiseLevels, Prediction

PredictionType = Literal["v", "eps", "x0"]
Network = Callable[[Tensor, Tensor, Condition], Tensor]


def mixture(
    alpha: Float[Tensor, "b 1 1 1"], sigma: Float[Tensor, "b 1 1 1"], sigma_data: float
) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """(k, q, r) of the prediction F = s q eps - k x0: k = sigma / r, q = s alpha / r, r^2 = sigma^2 + s^2 alpha^2.

    s = 1 is v. For another s it is the F of EDM for data of deviation s (2206.00364, table 1), but for sign and scale.
    A small s asks for the image itself wherever sigma is above s alpha, and for the noise below: a network that sees
    large patches cannot pass on the noise of all their pixels (2511.13720), and need not.
    """
    r = (sigma**2 + (sigma_data * alpha) ** 2) ** 0.5
    return sigma / r, sigma_data * alpha / r, r


@dataclass(frozen=True)
class NetworkDenoiser:
    """A network that predicts v, eps or x0, as a Denoiser.

    network: (x_t, t, condition) -> prediction; x_t [b, c, h, w] and t [b] in float32, the answer like x_t in any float
        type.
    prediction: what the network predicts; v = alpha eps - sigma x0 (2202.00512, appendix D).
    sigma_data: of v, see `mixture`; 1 is v itself.
    learned_range: the network answers with twice the channels; the second half, in -1..1, says where the variance of an
        ancestral step lies between its bounds (improved DDPM, eq. 15).
    """

    network: Network
    schedule: NoiseSchedule
    prediction: PredictionType
    learned_range: bool = False
    sigma_data: float = 1.0

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """Both x0 and eps in x_t's dtype: the network sees float32, the conversion around it does not lose digits."""
        return self.answer(self.network(x_t.float(), t.float(), cond), x_t, t)

    def answer(
        self, out: Float[Tensor, "b c2 h w"], x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Prediction:
        """What the network's output for x_t says, in x_t's dtype."""
        out, var_fraction = out.to(x_t.dtype), None
        if self.learned_range:
            out, between = out.chunk(2, dim=1)
            var_fraction = (between + 1) / 2
        alpha, sigma = level_like(self.schedule, t, x_t)
        if self.prediction == "v" and self.sigma_data != 1:
            k, q, r = mixture(alpha, sigma, self.sigma_data)
            x0, eps = self.sigma_data * q / r * x_t - k * out, (k * x_t + alpha * out) / r
        elif self.prediction == "v":  # in v's own terms, so that stored codes decode to the same bits as ever
            x0, eps = alpha * x_t - sigma * out, alpha * out + sigma * x_t
        elif self.prediction == "eps":
            x0, eps = (x_t - sigma * out) / alpha, out
        else:
            x0, eps = out, (x_t - alpha * out) / sigma
        return Prediction(x0=x0, eps=eps, var_fraction=var_fraction)


@dataclass(frozen=True)
class Bound:
    """A denoiser with its condition fixed; see `bind`."""

    denoise: Denoiser
    cond: Condition

    @property
    def schedule(self) -> NoiseLevels:
        return self.denoise.schedule

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        return self.denoise(x_t, t, self.cond)


def bind(denoise: Denoiser, cond: Condition) -> Bound:
    """Fix the condition, for the batch that solvers and codecs will walk with."""
    return Bound(denoise, cond)
