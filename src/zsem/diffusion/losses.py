"""What networks are trained on: targets, weightings and samplers of timesteps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, PredictionType, mixture
from zsem.diffusion.likelihood import vlb_term
from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import level_like, state_dtype
from zsem.values import draws
from zsem.values.prediction import Condition

Weighting = Literal["simple", "v", "min_snr", "p2"]
ErrorKind = Literal["l1", "l2"]

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
    *,
    sigma_data: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """What a network should answer: eps, x0, or v = alpha eps - sigma x0 (2202.00512, appendix D).

    sigma_data: of v, as in `mixture`.
    """
    if prediction == "v" and sigma_data != 1:
        k, q, _ = mixture(alpha, sigma, sigma_data)
        return sigma_data * q * eps - k * x0
    if prediction == "v":
        return alpha * eps - sigma * x0
    return eps if prediction == "eps" else x0


def weight(
    weighting: Weighting, prediction: PredictionType, snr: Float[Tensor, " b"], *, sigma_data: float = 1.0
) -> Float[Tensor, " b"]:
    """The factor of the squared error of `prediction` at snr = alpha^2 / sigma^2, [b]; `sigma_data` as in `target`.

    A weighting means the same loss whatever the network predicts:
    simple: the squared error of eps (DDPM, eq. 14);
    v: the squared error of v, which weighs high noise more;
    min_snr: min(snr, 5) times that of x0 (2303.09556);
    p2: that of eps over 1 + snr (2204.00227).
    """
    # At given x_t an error of x0 is one of eps times sigma/alpha and one of v times k of `mixture`.
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
    return of_x0 / (sigma_data**2 * snr + 1) if prediction == "v" else of_x0


def diffusion_loss(
    denoise: NetworkDenoiser,
    x0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    cond: Condition,
    weighting: Weighting,
    *,
    error: ErrorKind = "l2",
) -> Float[Tensor, " b"]:
    """Weighted mean error of the network's prediction at x_t = alpha x0 + sigma eps, per image, in float32.

    error: squared (l2), or absolute (l1, DiffAE, section 3.4), whose factor is the root of that of the squared one.
    x0 lies in [-1, 1], eps is standard normal, t in 0..T-1. Gradients flow into the network and the condition. The
    variance of a network with a learned range is not taught: see `hybrid_loss`.
    """
    x_t = denoise.schedule.diffuse(x0, eps, t.float())
    out = denoise.network(x_t, t.float(), cond)
    return _weighted_error(denoise, out[:, : x0.shape[1]], x0, eps, t, weighting, error)


def hybrid_loss(
    denoise: NetworkDenoiser,
    x0: Float[Tensor, "b c h w"],
    eps: Float[Tensor, "b c h w"],
    t: Int[Tensor, " b"],
    cond: Condition,
    posteriors: Posteriors,
    weighting: Weighting = "simple",
    *,
    vlb_weight: float = 0.001,
) -> Float[Tensor, " b"]:
    """L_simple + vlb_weight L_vlb (improved DDPM, eq. 16), per image, for a network with a learned range.

    L_vlb is estimated by its term at t, in bits per dimension, times the number of timesteps, with the predicted mean
    held fixed, so that it teaches the variance alone. Arguments as in `diffusion_loss`; x0 is 8-bit.
    posteriors: `Posteriors.of_all(schedule)`.
    Raises ValueError for a network without a learned range.
    """
    if not denoise.learned_range:
        raise ValueError("the hybrid loss teaches a learned variance, which this network does not predict")
    times = t.float()
    x_t = denoise.schedule.diffuse(x0, eps, times)
    out = denoise.network(x_t, times, cond)
    mean, between = out.chunk(2, dim=1)
    simple = _weighted_error(denoise, mean, x0, eps, t, weighting)
    exact = state_dtype(x0.device)
    frozen = denoise.answer(torch.cat([mean.detach(), between], dim=1), x_t.to(exact), times)
    step = posteriors.steps - 1 - t
    vlb = vlb_term(frozen, x0.to(exact), x_t.to(exact), step, posteriors, "learned")
    return simple + (vlb_weight * posteriors.steps * vlb).float()


def _weighted_error(
    denoise: NetworkDenoiser, out: Tensor, x0: Tensor, eps: Tensor, t: Tensor, weighting: Weighting,
    error: ErrorKind = "l2",
) -> Float[Tensor, " b"]:  # fmt: skip
    """Weighted mean error of predictions, per image, in float32."""
    s, (alpha, sigma) = denoise.sigma_data, denoise.schedule.level(t.float())
    factor = weight(weighting, denoise.prediction, (alpha / sigma) ** 2, sigma_data=s).float()
    alpha, sigma = level_like(denoise.schedule, t.float(), x0)
    off = out.float() - target(denoise.prediction, x0, eps, alpha, sigma, sigma_data=s)
    if error == "l1":
        return factor.sqrt() * off.abs().mean(dim=(1, 2, 3))
    return factor * off.square().mean(dim=(1, 2, 3))


def training_noise(names: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> Float[Tensor, "b ..."]:
    """The eps of every name in training, standard normal float32 of `shape` on the CPU, [b, *shape]."""
    return draws.normal([(*name, NOISE_DRAW) for name in names], shape)


def training_places(names: Sequence[tuple[int, ...]], *, stratified: bool) -> Float[Tensor, " b"]:
    """The number in [0, 1) of every name that its timestep comes from: spread evenly, or independent."""
    return (stratified_draws if stratified else uniform_draws)(names, TIMESTEP_DRAW)


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


class ImportanceTimesteps:
    """Timesteps in proportion to the root mean square of their last losses (improved DDPM, eq. 18).

    Uniform until every timestep has shown as many losses as are remembered. With the same updates in the same order it
    draws the same, to the bit.
    """

    def __init__(self, timesteps: int, *, history: int = 10, uniform_share: float = 0.001) -> None:
        """history: losses that are remembered for each timestep; uniform_share: of the draws, uniform over all."""
        self._losses = torch.zeros(timesteps, history, dtype=torch.float64)
        self._seen = torch.zeros(timesteps, dtype=torch.int64)
        self._uniform_share = uniform_share

    def probabilities(self) -> Float64[Tensor, " T"]:
        """How often each timestep is drawn, in sum 1."""
        timesteps, history = self._losses.shape
        if bool((self._seen < history).any()):
            return torch.full((timesteps,), 1 / timesteps, dtype=torch.float64)
        size = self._losses.square().mean(dim=1).sqrt()
        return (1 - self._uniform_share) * size / size.sum() + self._uniform_share / timesteps

    def draw(self, places: Float[Tensor, " b"]) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
        """Timesteps of numbers in [0, 1) (`uniform_draws`), by the inverse of their distribution, and weights.

        The mean of the losses times their weights, 1 / (T p), estimates that of all timesteps without bias.
        """
        p = self.probabilities()
        t = torch.searchsorted(p.cumsum(0), places.double().cpu(), right=True).clamp(max=len(p) - 1)
        return t, (1 / (len(p) * p[t])).float()

    def update(self, t: Int[Tensor, " b"], losses: Float[Tensor, " b"]) -> None:
        """Remember losses (not weighted by `draw`), in the order of the batch; in place of the oldest ones."""
        history = self._losses.shape[1]
        for at, loss in zip(t.tolist(), losses.detach().tolist(), strict=True):
            self._losses[at, self._seen[at] % history] = loss
            self._seen[at] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that it has learned, for `load_state_dict`."""
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError where it has another number of timesteps or of remembered losses."""
        if state["losses"].shape != self._losses.shape:
            raise ValueError(f"a state of {tuple(state['losses'].shape)} losses, not {tuple(self._losses.shape)}")
        self._losses, self._seen = state["losses"].clone(), state["seen"].clone()
