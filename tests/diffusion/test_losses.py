from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.losses import (
    TIMESTEP_DRAW,
    diffusion_loss,
    stratified_draws,
    target,
    timesteps_of,
    uniform_draws,
    weight,
)
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
    """One model of x0, worn as three kinds of network: equal losses and equal gradients."""
    t = torch.tensor([30, 200, 500, 800])
    x0, eps = images.double(), noises.double()
    results = []
    for prediction in ("v", "eps", "x0"):
        gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

        def network(x_t: Tensor, t: Tensor, cond: Condition, prediction=prediction, gain=gain) -> Tensor:
            alpha, sigma = level_like(LINEAR, t, x_t)
            guess = torch.tanh(gain * x_t)
            return target(prediction, guess, (x_t - alpha * guess) / sigma, alpha, sigma)

        loss = diffusion_loss(NetworkDenoiser(network, LINEAR, prediction), x0, eps, t, Condition(), weighting)
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
