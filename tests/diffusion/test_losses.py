import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.losses import (
    TIMESTEP_DRAW,
    ImportanceTimesteps,
    diffusion_loss,
    hybrid_loss,
    stratified_draws,
    target,
    timesteps_of,
    uniform_draws,
    weight,
)
from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import NoiseSchedule, level_like
from zsem.values.prediction import Condition

LINEAR = NoiseSchedule()
WEIGHTINGS = ("simple", "v", "min_snr", "p2")
SNR = torch.tensor([1e-4, 0.3, 1.0, 5.0, 80.0, 1e4], dtype=torch.float64)


def test_closed_forms() -> None:
    ones = torch.ones_like(SNR)
    assert torch.equal(weight("simple", "eps", SNR), ones)
    assert torch.equal(weight("v", "v", SNR), ones)
    torch.testing.assert_close(weight("min_snr", "v", SNR), SNR.clamp(max=5) / (SNR + 1))
    torch.testing.assert_close(weight("min_snr", "eps", SNR), (5 / SNR).clamp(max=1))
    torch.testing.assert_close(weight("min_snr", "x0", SNR), SNR.clamp(max=5))
    torch.testing.assert_close(weight("p2", "eps", SNR), 1 / (1 + SNR))
    torch.testing.assert_close(weight("v", "x0", SNR), SNR + 1)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_weighting_is_one_loss_whatever_is_predicted(weighting: str, images: Tensor, noises: Tensor) -> None:
    """One model of x0, worn as four kinds of network: equal losses and equal gradients."""
    t = torch.tensor([30, 200, 500, 800])
    x0, eps = images.double(), noises.double()
    results = []
    for prediction, s in (("v", 1.0), ("v", 0.1), ("eps", 1.0), ("x0", 1.0)):
        gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def network(x_t: Tensor, t: Tensor, cond: Condition, prediction=prediction, gain=gain, s=s) -> Tensor:
            alpha, sigma = level_like(LINEAR, t, x_t)
            guess = torch.tanh(gain * x_t)
            return target(prediction, guess, (x_t - alpha * guess) / sigma, alpha, sigma, sigma_data=s)

        loss = diffusion_loss(
            NetworkDenoiser(network, LINEAR, prediction, sigma_data=s), x0, eps, t, Condition(), weighting
        )
        assert loss.shape == (4,)
        results.append(torch.stack([loss.sum().detach(), *torch.autograd.grad(loss.sum(), gain)]))
    for one, other in pairwise(results):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0)


def test_simple_is_the_plain_squared_error(
    conv: Callable[..., NetworkDenoiser], images: Tensor, noises: Tensor
) -> None:
    denoise = conv(LINEAR, "eps")
    t = torch.tensor([0, 10, 500, 999])
    loss = diffusion_loss(denoise, images, noises, t, Condition(), "simple")
    abar = LINEAR.alphas_cumprod[t].view(4, 1, 1, 1).float()
    out = denoise.network(abar.sqrt() * images + (1 - abar).sqrt() * noises, t.float(), Condition())
    torch.testing.assert_close(loss, ((out - noises) ** 2).mean(dim=(1, 2, 3)))
    assert loss.dtype == torch.float32


def test_gradients_reach_the_condition(conv: Callable[..., NetworkDenoiser], images: Tensor, noises: Tensor) -> None:
    z = torch.ones(4, 4, requires_grad=True)
    t = torch.tensor([1, 10, 500, 999])
    diffusion_loss(conv(LINEAR, "v"), images, noises, t, Condition(z=z), "v").mean().backward()
    assert z.grad is not None
    assert bool(z.grad.abs().sum(dim=1).gt(0).all())


def drawn(sample: Callable[..., Tensor], names: list[tuple[int, ...]], timesteps: int, **noisy: float | int) -> Tensor:
    return timesteps_of(sample(names, TIMESTEP_DRAW), timesteps, **noisy)


@pytest.mark.parametrize("sample", [uniform_draws, stratified_draws])
def test_timesteps_are_functions_of_their_names(sample: Callable[..., Tensor]) -> None:
    names = [(3, 7, i) for i in range(64)]
    t = drawn(sample, names, 1000)
    assert t.dtype == torch.int64
    assert torch.equal(t, torch.cat([drawn(sample, names[:10], 1000), drawn(sample, names[10:], 1000)]))
    assert not torch.equal(t, drawn(sample, [(3, 8, i) for i in range(64)], 1000))
    assert not torch.equal(t, drawn(sample, [(4, 7, i) for i in range(64)], 1000))


@pytest.mark.parametrize("sample", [uniform_draws, stratified_draws])
@pytest.mark.parametrize(("noisy_share", "noisy_from"), [(0.0, 0), (0.5, 6), (1.0, 8)])
def test_timesteps_have_the_distribution_asked_for(sample: Callable[..., Tensor], noisy_share, noisy_from) -> None:
    """At one position over the iterations, and so for every image in the long run."""
    t = drawn(sample, [(0, i, 5) for i in range(4000)], 10, noisy_share=noisy_share, noisy_from=noisy_from)
    wanted = torch.full((10,), 400 * (1 - noisy_share), dtype=torch.float64)
    wanted[noisy_from:] += 4000 * noisy_share / (10 - noisy_from)
    counts = torch.bincount(t, minlength=10).double()
    there = wanted > 0
    assert not bool(counts[~there].any())
    chi_square = float(((counts - wanted) ** 2 / wanted)[there].sum())
    assert chi_square < 27.9  # 99.9 % of the distribution with 9 degrees of freedom


def test_stratified_timesteps_cover_the_range_evenly() -> None:
    for iteration in range(20):
        t = drawn(stratified_draws, [(0, iteration, i) for i in range(64)], 1000).sort().values
        gaps = torch.cat([t, t[:1] + 1000]).diff()
        assert int(gaps.max()) <= 2 * 1000 / 64  # independent draws leave gaps of five times the mean
        part = drawn(stratified_draws, [(0, iteration, i) for i in range(16, 32)], 1000).sort().values
        assert int(torch.cat([part, part[:1] + 1000]).diff().max()) <= 2 * 1000 / 16


class Ranged(torch.nn.Module):
    """A small network with a learned range."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.between = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return torch.cat([self.mean(x_t), self.between(x_t)], dim=1)


@pytest.fixture
def ranged() -> Ranged:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Ranged()


@torch.no_grad()
def official_vb(network: Ranged, x0: Tensor, eps: Tensor, t: int) -> Tensor:
    """_vb_terms_bpd of improved DDPM for eps-prediction and a learned range, in float64 and from its formulas alone."""
    betas = np.linspace(1e-4, 0.02, 1000)
    cumprod = np.cumprod(1 - betas)
    before = cumprod[t - 1] if t else 1.0
    x_t = cumprod[t] ** 0.5 * x0 + (1 - cumprod[t]) ** 0.5 * eps
    predicted, between = network(x_t.float(), None, None).double().chunk(2, dim=1)
    x0_hat = (x_t - (1 - cumprod[t]) ** 0.5 * predicted) / cumprod[t] ** 0.5
    clipped = max(t, 1)
    posterior = betas[clipped] * (1 - cumprod[clipped - 1]) / (1 - cumprod[clipped])
    fraction = (between + 1) / 2
    log_variance = fraction * math.log(betas[t]) + (1 - fraction) * math.log(posterior)
    if t == 0:
        levels = torch.distributions.Normal(x0_hat, (0.5 * log_variance).exp())
        inner = levels.cdf(x0 + 1 / 255) - levels.cdf(x0 - 1 / 255)
        ends = torch.where(x0 > 0.999, 1 - levels.cdf(x0 - 1 / 255), inner)
        nats = -torch.where(x0 < -0.999, levels.cdf(x0 + 1 / 255), ends).log()
    else:
        coefficient = betas[t] * before**0.5 / (1 - cumprod[t])
        gap = math.log(posterior) - log_variance
        nats = 0.5 * (-1 - gap + gap.exp() + (coefficient * (x0 - x0_hat)) ** 2 * (-log_variance).exp())
    return nats.mean(dim=(1, 2, 3)) / math.log(2)


def test_the_hybrid_loss_is_that_of_improved_ddpm(ranged: Ranged, images: Tensor, noises: Tensor) -> None:
    x0 = ((images + 1) * 127.5).round() / 127.5 - 1
    # the mean near the truth, as at the end of a training, so that the decoder's probability is no tail
    ranged.mean.weight.data.zero_()
    t, near = torch.tensor([0, 1, 500, 999]), 0.3 * noises
    denoise = NetworkDenoiser(ranged, LINEAR, "eps", learned_range=True)
    loss = hybrid_loss(denoise, x0, near, t, Condition(), Posteriors.of_all(LINEAR))
    assert loss.dtype == torch.float32
    for row, at in enumerate(t.tolist()):
        one = slice(row, row + 1)
        simple = diffusion_loss(denoise, x0[one], near[one], t[one], Condition(), "simple")
        vlb = official_vb(ranged, x0[one].double(), near[one].double(), at)
        assert float(vlb) > 5e-4
        torch.testing.assert_close(loss[one], simple + (0.001 * 1000 * vlb).float(), rtol=1e-4, atol=1e-6)


def test_the_bound_teaches_the_variance_and_the_squared_error_the_mean(
    ranged: Ranged, images: Tensor, noises: Tensor
) -> None:
    denoise = NetworkDenoiser(ranged, LINEAR, "v", learned_range=True)
    t = torch.tensor([2, 100, 500, 999])
    arguments = (denoise, images, noises, t, Condition())
    (of_mean,) = torch.autograd.grad(
        hybrid_loss(*arguments, Posteriors.of_all(LINEAR), "v").sum(), ranged.mean.weight, retain_graph=True
    )
    (plain,) = torch.autograd.grad(diffusion_loss(*arguments, "v").sum(), ranged.mean.weight)
    torch.testing.assert_close(of_mean, plain)
    for factor in (1.0, 3.0):
        loss = hybrid_loss(*arguments, Posteriors.of_all(LINEAR), "v", vlb_weight=factor)
        (gradient,) = torch.autograd.grad(loss.sum(), ranged.between.weight)
        if factor == 1.0:
            once = gradient
    assert bool(once.abs().gt(0).any())
    torch.testing.assert_close(gradient, 3 * once, rtol=1e-4, atol=1e-6)


def test_descending_the_hybrid_loss_finds_the_variance_of_the_data() -> None:
    """Pixels of N(0, 0.3^2) with their exact mean: the bound's variance is the exact one of x_s given x_t."""
    posteriors, at = Posteriors.of_all(LINEAR), 20
    between = torch.zeros(1, requires_grad=True)
    alpha, sigma = (float(level) for level in LINEAR.level(torch.tensor(float(at))))
    spread = 0.09 * alpha**2 + sigma**2

    def network(x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return torch.cat([x_t * sigma / spread, between.expand_as(x_t)], dim=1)

    denoise = NetworkDenoiser(network, LINEAR, "eps", learned_range=True)
    x0, eps = torch.randn(2, 256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.LBFGS([between], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = hybrid_loss(denoise, 0.3 * x0, eps, torch.full((256,), at), Condition(), posteriors).mean()
        total.backward()
        return total

    for _ in range(3):
        optimiser.step(loss)
    step = posteriors.steps - 1 - at
    exact = posteriors.small[step] + posteriors.of_x0[step] ** 2 * 0.09 * sigma**2 / spread
    found = posteriors.variance("learned", step, (between.detach().double() + 1).view(1, 1, 1, 1) / 2)
    assert float(found) == pytest.approx(float(exact), rel=2e-3)
    assert float(posteriors.small[step] * 1.01) < float(exact) < float(posteriors.large[step] * 0.999)


def test_a_fixed_variance_has_no_hybrid_loss(
    conv: Callable[..., NetworkDenoiser], images: Tensor, noises: Tensor
) -> None:
    with pytest.raises(ValueError, match="variance"):
        hybrid_loss(conv(LINEAR), images, noises, torch.zeros(4).long(), Condition(), Posteriors.of_all(LINEAR))


class OfficialResampler:
    """LossSecondMomentResampler of improved DDPM, as it is there."""

    def __init__(self, timesteps: int) -> None:
        self.history, self.counts = np.zeros([timesteps, 10]), np.zeros([timesteps], dtype=int)

    def update(self, ts: list[int], losses: list[float]) -> None:
        for t, loss in zip(ts, losses, strict=True):
            if self.counts[t] == 10:
                self.history[t, :-1] = self.history[t, 1:]
                self.history[t, -1] = loss
            else:
                self.history[t, self.counts[t]] = loss
                self.counts[t] += 1

    def probabilities(self) -> np.ndarray:
        if not (self.counts == 10).all():
            return np.ones(len(self.counts)) / len(self.counts)
        weights = np.sqrt(np.mean(self.history**2, axis=-1))
        return weights / np.sum(weights) * (1 - 0.001) + 0.001 / len(weights)


def losses_of(t: Tensor, names: list[tuple[int, ...]]) -> Tensor:
    return (1 + t).float() ** -1 * (0.5 + uniform_draws(names, 9).float())


def test_importance_is_that_of_the_official_resampler_and_survives_a_restart() -> None:
    ours, official = ImportanceTimesteps(8), OfficialResampler(8)
    states = []
    for iteration in range(20):
        names = [(0, iteration, i) for i in range(16)]
        t, weights = ours.draw(uniform_draws(names, TIMESTEP_DRAW))
        np.testing.assert_allclose(weights, 1 / (8 * official.probabilities()[t]), rtol=1e-6)
        ours.update(t, losses_of(t, names))
        official.update(t.tolist(), losses_of(t, names).tolist())
        np.testing.assert_allclose(ours.probabilities(), official.probabilities(), rtol=1e-12)
        states.append(ours.state_dict())
    assert float(ours.probabilities().max()) > 0.3  # warmed up long ago
    again = ImportanceTimesteps(8)
    again.load_state_dict(states[11])
    for iteration in range(12, 20):
        names = [(0, iteration, i) for i in range(16)]
        t, _ = again.draw(uniform_draws(names, TIMESTEP_DRAW))
        again.update(t, losses_of(t, names))
        for name, value in again.state_dict().items():
            assert torch.equal(value, states[iteration][name])
    with pytest.raises(ValueError, match="losses"):
        ImportanceTimesteps(9).load_state_dict(states[0])


def test_weighted_losses_estimate_the_plain_mean() -> None:
    sampler = ImportanceTimesteps(5, history=1)
    sampler.update(torch.arange(5), torch.tensor([10.0, 1.0, 0.1, 5.0, 0.01]))
    t, weights = sampler.draw((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    counts = torch.bincount(t, minlength=5) / 20000
    torch.testing.assert_close(counts.double(), sampler.probabilities(), rtol=0, atol=1e-4)
    losses = torch.tensor([3.0, -2.0, 7.0, 1.0, 4.0])
    assert float((weights * losses[t]).mean()) == pytest.approx(float(losses.mean()), rel=0.02)
