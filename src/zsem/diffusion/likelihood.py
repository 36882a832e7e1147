"""How likely a model finds 8-bit images: the variational bound of DDPM (eq. 5) in bits per dimension, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zsem.diffusion.posterior import Posteriors, Variance
from zsem.diffusion.schedule import TimeGrid, state_dtype
from zsem.values.prediction import BoundDenoiser, Prediction

_HALF_BIN = 1 / 255  # 8-bit images in [-1, 1] have a level every 2/255
_EDGE = 0.999  # beyond this lie the first and the last level alone

Noise = Callable[[int], Tensor]
"""Standard normal noise of x0's shape for the i-th evaluation."""


@dataclass(frozen=True, kw_only=True)
class BitsPerDim:
    """A bound on -log2 p(x0) divided by the number of pixels times channels, for each image, [b].

    prior: KL(q(x_T | x0) || N(0, I)), L_T of DDPM.
    steps: the KL divergences of all steps but the last, L_1 + .. + L_{T-1}.
    decoder: -log2 p(x0 | x_1) of the step to the clean image, L_0.
    """

    prior: Float[Tensor, " b"]
    steps: Float[Tensor, " b"]
    decoder: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        return self.prior + self.steps + self.decoder


def bits_per_dim(
    denoise: BoundDenoiser,
    x0: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    *,
    noise: Noise,
    variance: Variance = "small",
    subset: int | None = None,
    places: Float[Tensor, " b"] | None = None,
) -> BitsPerDim:
    """The bound for images x0 under ancestral sampling on a grid, an unbiased estimate of it for random `noise`.

    x0: 8-bit images, k / 127.5 - 1 for k in 0..255. The official code clips the predicted x0 here too (`Clip`).
    grid: ends at the clean node; that of the training is `TimeGrid.make(schedule, T, spacing="uniform")`.
    subset: evaluate so many terms of `steps` instead of all, evenly spaced in log-SNR from a random place for each
        image and weighted by the inverse of how often they are met, which leaves the estimate unbiased; the decoder's
        term, the largest, is always evaluated.
    places: those places, uniform in [0, 1); needed with `subset`.
    Raises ValueError for images that are not 8-bit and for a subset without places or with more terms than there are.
    """
    x0 = _eight_bit(x0)
    total = x0.new_zeros(len(x0))
    if subset is None:
        *steps, decoder = vlb_terms(denoise, x0, grid, noise=noise, variance=variance)
        return BitsPerDim(prior=prior_term(x0, grid), steps=sum(steps, total), decoder=decoder)
    if places is None or not 1 <= subset < grid.steps:
        raise ValueError(f"a subset has 1 to {grid.steps - 1} terms and needs a place for each image")
    posteriors = Posteriors.of(grid)
    share = grid.u[:-1].log().diff().neg()
    share = share / share.sum()
    for k in range(subset):
        at = torch.searchsorted(share.cumsum(0), (places.double().cpu() + k) / subset, right=True)
        at = at.clamp(max=grid.steps - 2)
        term = _term(denoise, x0, noise(k), at.to(x0.device), grid, posteriors, variance)
        total = total + term / (subset * share[at]).to(term)
    last_step = torch.full((len(x0),), grid.steps - 1, device=x0.device)
    decoder = _term(denoise, x0, noise(subset), last_step, grid, posteriors, variance)
    return BitsPerDim(prior=prior_term(x0, grid), steps=total, decoder=decoder)


def vlb_terms(
    denoise: BoundDenoiser,
    x0: Float[Tensor, "b c h w"],
    grid: TimeGrid,
    *,
    noise: Noise,
    variance: Variance = "small",
) -> Iterator[Float[Tensor, " b"]]:
    """L_{T-1}, .., L_1 and L_0 of DDPM (eq. 5) for images x0, one evaluation each, in bits per dimension, [b].

    They and `prior_term` add up to the bound. Raises ValueError where the grid does not end at the clean node.
    """
    posteriors = Posteriors.of(grid)
    x0 = x0.to(state_dtype(x0.device))
    for i in range(grid.steps):
        step = torch.full((len(x0),), i, device=x0.device)
        yield _term(denoise, x0, noise(i), step, grid, posteriors, variance)


def prior_term(x0: Float[Tensor, "b c h w"], grid: TimeGrid) -> Float[Tensor, " b"]:
    """KL(q(x_T | x0) || N(0, I)) at the first node of a grid, in bits per dimension, [b]."""
    kept = float(grid.alpha[0]) ** 2
    x0 = x0.to(state_dtype(x0.device))
    return _bits(0.5 * (kept * x0**2 - kept - math.log1p(-kept)))


def vlb_term(
    prediction: Prediction,
    x0: Float[Tensor, "b c h w"],
    x_t: Float[Tensor, "b c h w"],
    step: Int[Tensor, " b"],
    posteriors: Posteriors,
    variance: Variance,
) -> Float[Tensor, " b"]:
    """KL(q(x_s | x_t, x0) || p(x_s | x_t)), or -log p(x0 | x_t) on the last step, in bits per dimension, [b].

    prediction: for x_t, which is at node `step` of a grid that ends at the clean one, each image at its own.
    Gradients flow into the prediction.
    """
    log_variance = posteriors.log_variance(variance, step, prediction.var_fraction)
    mean = posteriors.mean(step, prediction.x0, x_t)
    if prediction.mean_shift is not None:
        mean = mean + log_variance.exp() * prediction.mean_shift
    gap = posteriors.log_variance("small", step, None) - log_variance
    error = posteriors.mean(step, x0, x_t) - mean
    divergence = 0.5 * (torch.expm1(gap) - gap + error**2 * (-log_variance).exp())
    decoder = discretised_nll(x0, mean, log_variance.expand_as(mean))
    return torch.where(step == posteriors.steps - 1, _bits(decoder), _bits(divergence))


def discretised_nll(
    x0: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], log_variance: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """-log of the probability that a Gaussian gives to the bins of 8-bit x0, in nats (DDPM, eq. 13).

    The first and the last bin are open-ended. The official code approximates the error function and cuts probabilities
    at 1e-12; this is exact.
    """
    deviation = (0.5 * log_variance).exp()
    # on the side below the mean, where differences of the distribution function keep their digits
    far = -(x0 - mean).abs()
    upper, lower = (torch.special.log_ndtr((far + side) / deviation) for side in (_HALF_BIN, -_HALF_BIN))
    inside = upper + torch.log1p(-(lower - upper).exp())
    first = torch.special.log_ndtr((x0 + _HALF_BIN - mean) / deviation)
    last = torch.special.log_ndtr((mean - x0 + _HALF_BIN) / deviation)
    return -torch.where(x0 < -_EDGE, first, torch.where(x0 > _EDGE, last, inside))


def _term(
    denoise: BoundDenoiser,
    x0: Tensor,
    eps: Tensor,
    step: Tensor,
    grid: TimeGrid,
    posteriors: Posteriors,
    variance: Variance,
) -> Tensor:
    """`vlb_term` at x_t = alpha x0 + sigma eps, each image at its own step."""
    if grid.u[-1] != 0:
        raise ValueError("the variational bound belongs to a grid whose last node is clean")
    alpha, sigma, t = (table.to(x0.device, x0.dtype)[step] for table in (grid.alpha, grid.sigma, grid.t))
    x_t = alpha[:, None, None, None] * x0 + sigma[:, None, None, None] * eps.to(x0)
    with torch.no_grad():
        return vlb_term(denoise(x_t, t), x0, x_t, step, posteriors, variance)


def _bits(nats: Tensor) -> Tensor:
    """Nats of every pixel and channel as bits per dimension of every image."""
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def _eight_bit(x0: Tensor) -> Tensor:
    """The images with their levels in the state's dtype; raises ValueError where they lie between the levels."""
    levels = (x0.to(state_dtype(x0.device)) + 1) * 127.5
    whole = levels.round().clamp(0, 255)
    if bool(((levels - whole).abs() > 1e-3).any()):
        raise ValueError("a likelihood in bits per dimension is that of 8-bit images, k / 127.5 - 1")
    return whole / 127.5 - 1
