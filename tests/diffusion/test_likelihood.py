"""The variational bound: its terms against torch's and scipy's distributions, its sum where the likelihood is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Clip
from zsem.diffusion.likelihood import bits_per_dim, discretised_nll, prior_term, vlb_term, vlb_terms
from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid, level_like
from zsem.values import draws
from zsem.values.prediction import Condition, Prediction

LINEAR = NoiseSchedule()
FULL = TimeGrid.make(LINEAR, 1000, spacing="uniform")
POSTERIORS = Posteriors.of_all(LINEAR)


def seeded(i, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)


def eight_bit(x):
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


@pytest.fixture(scope="module")
def photos():
    return eight_bit(torch.tanh(seeded(5, (4, 3, 8, 8))))


@pytest.fixture(scope="module")
def prediction():
    """Of no data; its variance beyond the learned range on both sides."""
    x0, eps, fraction = (seeded(i, (4, 3, 8, 8)) for i in range(3))
    return Prediction(x0=0.3 * x0, eps=eps, var_fraction=fraction)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_divergences_are_those_of_torch(variance, photos, prediction):
    x_t, step = seeded(7, photos.shape), torch.tensor([0, 300, 990, 998])
    ours = vlb_term(prediction, photos, x_t, step, POSTERIORS, variance)
    for row, i in enumerate(step.tolist()):
        one = slice(row, row + 1)
        q = torch.distributions.Normal(POSTERIORS.mean(i, photos[one], x_t[one]), POSTERIORS.small[i].sqrt())
        spread = POSTERIORS.variance(variance, i, prediction.var_fraction[one])
        mean = POSTERIORS.mean(i, prediction.x0[one], x_t[one])
        p = torch.distributions.Normal(mean, torch.as_tensor(spread, dtype=torch.float64).sqrt())
        wanted = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
        assert float(ours[row]) == pytest.approx(float(wanted), rel=1e-9)


def test_the_last_term_is_the_decoder(photos, prediction):
    step, x_t = torch.full((4,), 999), seeded(7, (4, 3, 8, 8))
    low, high = POSTERIORS.small[998], POSTERIORS.large[999]
    spreads = {"small": low, "large": low, "learned": low * (high / low) ** prediction.var_fraction}
    for variance, spread in spreads.items():
        ours = vlb_term(prediction, photos, x_t, step, POSTERIORS, variance)
        nll = discretised_nll(photos, prediction.x0, spread.log().expand_as(photos))
        torch.testing.assert_close(ours, nll.mean(dim=(1, 2, 3)) / math.log(2), rtol=1e-9, atol=0)


def test_a_shifted_mean_is_another_p(photos, prediction):
    """Guidance in mean form moves the mean of p, so its divergence from q."""
    x_t, step, shift = seeded(7, photos.shape), torch.full((4,), 500), seeded(8, photos.shape)
    moved = vlb_term(replace(prediction, mean_shift=shift), photos, x_t, step, POSTERIORS, "large")
    by_hand = prediction.x0 + POSTERIORS.large[500] * shift / POSTERIORS.of_x0[500]
    wanted = vlb_term(replace(prediction, x0=by_hand), photos, x_t, step, POSTERIORS, "large")
    torch.testing.assert_close(moved, wanted)


@pytest.mark.parametrize("log_deviation", [-6.0, -4.0, -1.0, 2.0])
def test_the_decoder_is_a_distribution_over_256_levels(log_deviation):
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)
    for mean in (-1.3, -1.0, 0.0, 0.1234, 0.99, 1.0):
        centre, spread = torch.full_like(levels, mean), torch.full_like(levels, 2 * log_deviation)
        nll = discretised_nll(levels, centre, spread)
        assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-12)
        edges = np.concatenate([[-np.inf], levels[:-1].flatten().numpy() + 1 / 255, [np.inf]])
        probability = np.diff(norm.cdf(edges, mean, math.exp(log_deviation)))
        seen = probability > 1e-6  # differences of a distribution function lose their digits in the tails
        np.testing.assert_allclose(nll.flatten().exp().numpy()[seen], 1 / probability[seen], rtol=1e-6)
        assert bool(torch.isfinite(nll).all())


def test_the_official_decoder_approximates_ours(photos):
    """discretized_gaussian_log_likelihood of improved DDPM, which has a tanh for the error function."""
    mean, log_deviation = photos + 0.02 * seeded(3, photos.shape), torch.full_like(photos, -3.5)

    def cdf(x):
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    plus, minus = ((photos - mean + side / 255) * (-log_deviation).exp() for side in (1, -1))
    log_probability = torch.where(
        photos < -0.999, cdf(plus).clamp(min=1e-12).log(),
        torch.where(
            photos > 0.999, (1 - cdf(minus)).clamp(min=1e-12).log(), (cdf(plus) - cdf(minus)).clamp(min=1e-12).log()
        ),
    )  # fmt: skip
    ours = discretised_nll(photos, mean, 2 * log_deviation)
    torch.testing.assert_close(ours, -log_probability, rtol=0.02, atol=0.005)
    assert bool((photos.abs() == 1).any())


def test_the_prior_is_the_divergence_of_what_remains_of_the_image(photos):
    for grid in (FULL, TimeGrid.make(LINEAR, 5, u_max=2.0)):
        alpha, sigma = grid.alpha[0], grid.sigma[0]
        q = torch.distributions.Normal(alpha * photos, sigma)
        wanted = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(dim=(1, 2, 3))
        torch.testing.assert_close(prior_term(photos, grid), wanted / math.log(2), rtol=1e-6, atol=1e-14)


class ExactReverse:
    """The exact denoiser of pixels of N(mean, std^2), and where in the learned range the exact reverse variance lies.

    Its bound is the likelihood: nothing is lost by its p(x_s | x_t), which is q(x_s | x_t) of the data.
    """

    def __init__(self, grid, std):
        self.schedule, self.grid, self.posteriors = LINEAR, grid, Posteriors.of(grid)
        self.mean, self.std, self.evaluations = 0.1, std, 0

    def __call__(self, x_t, t):
        self.evaluations += 1
        alpha, sigma = level_like(LINEAR, t, x_t)
        surprise = (x_t - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2)
        unknown = (self.std * sigma) ** 2 / ((alpha * self.std) ** 2 + sigma**2)  # variance of x0 given x_t
        step = (self.grid.t[None, :-1] == t[:, None]).long().argmax(dim=1)
        low, high = (table[step].view(-1, 1, 1, 1).log() for table in (self.posteriors.floor, self.posteriors.large))
        exact = self.posteriors.small[step].view(-1, 1, 1, 1)
        exact = (exact + self.posteriors.of_x0[step].view(-1, 1, 1, 1) ** 2 * unknown).log()
        return Prediction(
            x0=self.mean + alpha * self.std**2 * surprise, eps=sigma * surprise,
            var_fraction=((exact - low) / (high - low)).expand_as(x_t),
        )  # fmt: skip


def exact_bits(x0, mean, std):
    """-log2 of the probability of every 8-bit image, its pixels rounded normal numbers."""
    return discretised_nll(x0, torch.full_like(x0, mean), torch.full_like(x0, 2 * math.log(std))).mean((1, 2, 3)) / (
        math.log(2)
    )


def test_with_the_exact_reverse_process_the_bound_is_the_likelihood():
    """However few the steps, in the mean over the noise: for an image of the data, a likelier and a less likely one."""
    std, grid = 0.25, TimeGrid.make(LINEAR, 60)
    image = 0.1 + std * seeded(0, (1, 3, 8, 8))
    x0 = eight_bit(torch.cat([image, 0.3 * image, 1.5 * image])).repeat_interleave(40, dim=0)
    denoise = ExactReverse(grid, std)
    bits = bits_per_dim(denoise, x0, grid, noise=lambda i: seeded(i, x0.shape), variance="learned")
    assert denoise.evaluations == 60
    likelihood = exact_bits(x0, 0.1, std).view(3, 40)[:, 0]
    assert float(likelihood[2] - likelihood[1]) > 1
    torch.testing.assert_close(bits.total.view(3, 40).mean(dim=1), likelihood, rtol=0, atol=0.05)  # 0.12 / sqrt(40)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_with_another_variance_it_is_a_bound(variance):
    std, grid = 0.25, TimeGrid.make(LINEAR, 50)
    x0 = eight_bit(0.1 + std * seeded(0, (30, 3, 8, 8)))
    bits, exact = (
        bits_per_dim(ExactReverse(grid, std), x0, grid, noise=lambda i: seeded(i, x0.shape), variance=kind).total
        for kind in (variance, "learned")
    )
    assert float((bits - exact).mean()) > 0.005


def test_the_expected_divergence_in_closed_form():
    """With the posterior's variance a term is of_x0^2 Var(x0 | x_t) / (2 small), whatever the step."""
    std, grid = 0.25, TimeGrid.make(LINEAR, 12)
    x0 = 0.1 + std * seeded(0, (400, 3, 8, 8))
    terms = list(vlb_terms(ExactReverse(grid, std), x0, grid, noise=lambda i: seeded(i + 1, x0.shape)))
    posteriors = Posteriors.of(grid)
    for i, term in enumerate(terms[:-1]):
        unknown = (std * grid.sigma[i]) ** 2 / ((grid.alpha[i] * std) ** 2 + grid.sigma[i] ** 2)
        wanted = posteriors.of_x0[i] ** 2 * unknown / (2 * posteriors.small[i]) / math.log(2)
        assert float(term.mean()) == pytest.approx(float(wanted), rel=0.02)


@pytest.mark.parametrize("subset", [1, 5, 20])
def test_a_subset_estimates_the_sum_without_bias(subset):
    """One image, the same noise for every term, and every place once: the mean over the places is the sum."""
    grid, places = TimeGrid.make(LINEAR, 60), (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    x0 = eight_bit(seeded(0, (1, 1, 4, 4)) / 4)
    eps = seeded(1, x0.shape)
    denoise = ExactReverse(grid, 0.3)
    whole = bits_per_dim(denoise, x0, grid, noise=lambda _: eps)
    denoise.evaluations = 0
    many = x0.expand(1000, -1, -1, -1)
    part = bits_per_dim(denoise, many, grid, noise=lambda _: eps.expand_as(many), subset=subset, places=places)
    assert denoise.evaluations == subset + 1
    assert float(part.steps.mean()) == pytest.approx(float(whole.steps), rel=0.01)
    torch.testing.assert_close(part.decoder[:1], whole.decoder)
    torch.testing.assert_close(part.prior[:1], whole.prior)
    assert float(part.steps.std() / whole.steps) < 1.5 / subset


def test_an_image_has_its_bits_whatever_its_batch(conv, images):
    x0, grid = eight_bit(images), TimeGrid.make(LINEAR, 20)
    denoise = Clip(bind(conv(LINEAR, "v"), Condition()))

    def bits(rows):
        noise = lambda i: draws.normal([(0, row, i) for row in rows], (3, 8, 8))  # noqa: E731
        places = torch.tensor([0.1, 0.6, 0.3, 0.9])[rows]
        return bits_per_dim(denoise, x0[rows], grid, noise=noise, subset=4, places=places).total

    torch.testing.assert_close(bits([2, 0, 3])[0], bits([2])[0], rtol=1e-5, atol=0)
    assert not bits([0]).requires_grad


def test_what_has_no_likelihood(gaussian, images):
    noise = lambda i: seeded(i, images.shape)  # noqa: E731
    with pytest.raises(ValueError, match="8-bit"):
        bits_per_dim(gaussian, images, FULL, noise=noise)
    x0 = eight_bit(images)
    for subset, places in ((3, None), (0, torch.zeros(4)), (1000, torch.zeros(4))):
        with pytest.raises(ValueError, match="subset"):
            bits_per_dim(gaussian, x0, FULL, noise=noise, subset=subset, places=places)
    open_end = TimeGrid.from_levels(LINEAR, u=torch.logspace(1, -1, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="clean"):
        next(vlb_terms(gaussian, x0, open_end, noise=noise))
