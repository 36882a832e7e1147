"""What networks are trained on: targets, weightings and samplers of timesteps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, PredictionType
from zsem.values import draws
from zsem.values.prediction import Condition

Weighting = Literal["simple", "v", "min_snr", "p2"]

# What the training draws are for: the last integer of their names.
TIMESTEP_DRAW = 1
NOISE_DRAW = 2
CONDITION_DRAW = 4

_MIN_SNR_GAMMA = 5.0  # the default of 2303.09556
_P2_K, _P2_GAMMA = 1.0, 1.0  # the defaults of 2204.00227
_GOLDEN = (5**0.5 - 1) / 2


def target(
    prediction: PredictionType,
    x0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    alpha: Float[Tensor, "b 1 1 1"],
    sigma: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, "b c h w"]:
    """What a network should answer: eps, x0, or v = alpha eps - sigma x0 (2202.00512, appendix D)."""
    if prediction == "v":
        return alpha * eps - sigma * x0
    return eps if prediction == "eps" else x0


def weight(weighting: Weighting, prediction: PredictionType, snr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The factor of the squared error of `prediction` at snr = alpha^2 / sigma^2, [b].

    A weighting means the same loss whatever the network predicts:
    simple: the squared error of eps (DDPM, eq. 14);
    v: the squared error of v, which weighs high noise more;
    min_snr: min(snr, 5) times that of x0 (2303.09556);
    p2: that of eps over 1 + snr (2204.00227).
    """
    # At given x_t an error of x0 is one of eps times sigma/alpha and one of v times sigma.
    if weighting == "simple":
        of_x0 = snr
    elif weighting == "v":
        of_x0 = snr + 1
    elif weighting == "min_snr":
        of_x0 = snr.clamp(max=_MIN_SNR_GAMMA)
    else:
        of_x0 = snr / (_P2_K + snr) ** _P2_GAMMA
    if prediction == "eps":
        return of_x0 / snr
    return of_x0 / (snr + 1) if prediction == "v" else of_x0


def diffusion_loss(
    denoise: NetworkDenoiser,
    x0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    cond: Condition,
    weighting: Weighting,
) -> Float[Tensor, " b"]:
    """Weighted mean squared error of the network's prediction at x_t = alpha x0 + sigma eps, per image, in float32.

    x0 lies in [-1, 1], eps is standard normal, t in 0..T-1. Gradients flow into the network and the condition.
    """
    times = t.float()
    alpha, sigma = denoise.schedule.level(times)
    snr = (alpha / sigma) ** 2
    alpha, sigma = (level.to(x0.dtype)[:, None, None, None] for level in (alpha, sigma))
    out = denoise.network(alpha * x0 + sigma * eps, times, cond)
    error = out.float() - target(denoise.prediction, x0, eps, alpha, sigma)
    return weight(weighting, denoise.prediction, snr).float() * error.square().mean(dim=(1, 2, 3))


def uniform_draws(names: Sequence[tuple[int, ...]], purpose: int) -> Float[Tensor, " b"]:
    """One number in [0, 1) for each name, independent and uniform, float64 on the CPU."""
    return torch.tensor([draws.generator(*name, purpose).random() for name in names], dtype=torch.float64)


def stratified_draws(names: Sequence[tuple[int, ...]], purpose: int) -> Float[Tensor, " b"]:
    """One number in [0, 1) for each name (seed, iteration, position), float64 on the CPU.

    Each is uniform, and those of one iteration cover the range evenly (compare 2107.00630, appendix I.1): they start
    at a random place and advance by the golden ratio per position. So any stretch of positions is spread evenly,
    and a draw does not depend on how an iteration is cut into batches.
    """
    starts = {name[:-1]: 0.0 for name in names}
    for iteration in starts:
        starts[iteration] = float(draws.generator(*iteration, purpose).random())
    return torch.tensor([(starts[name[:-1]] + _GOLDEN * name[-1]) % 1 for name in names], dtype=torch.float64)


def timesteps_of(
    places: Float[Tensor, " b"], timesteps: int, *, noisy_share: float = 0.0, noisy_from: int = 0
) -> Int[Tensor, " b"]:
    """Timesteps in 0..timesteps-1 of numbers in [0, 1), by the inverse of their distribution.

    noisy_share: this share is uniform over noisy_from..timesteps-1, the rest over all.
    """
    everywhere = (1 - noisy_share) / timesteps
    below = noisy_from * everywhere
    above = everywhere + noisy_share / (timesteps - noisy_from)
    t = torch.where(places < below, places / max(everywhere, 1e-12), noisy_from + (places - below) / above)
    return t.long().clamp(0, timesteps - 1)
