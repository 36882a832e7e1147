"""Posteriors and variances against Bayes' rule, and against the formulas of improved DDPM's code in numpy."""

import numpy as np
import pytest
import torch

from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid

LINEAR = NoiseSchedule()
COSINE = NoiseSchedule(NoiseSchedule.Config(kind="cosine"))


def official_betas(name):
    if name == "linear":
        return np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    at = np.arange(1001) / 1000
    abar = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


class Official:
    """GaussianDiffusion.__init__ of a respaced process, clean timestep first, as the official code has it."""

    def __init__(self, name, timesteps):
        cumprod = np.cumprod(1 - official_betas(name))[timesteps]
        before = np.append(1.0, cumprod[:-1])
        self.betas = 1 - cumprod / before
        self.posterior_variance = self.betas * (1 - before) / (1 - cumprod)
        self.clipped = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        self.coef1 = self.betas * np.sqrt(before) / (1 - cumprod)
        self.coef2 = (1 - before) * np.sqrt(1 - self.betas) / (1 - cumprod)
        self.fixed_large = np.append(self.posterior_variance[1], self.betas[1:])


@pytest.mark.parametrize("timesteps", [list(range(1000)), [0, 1, 7, 30, 400, 999], [20, 500]])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_every_table_is_that_of_the_official_code(schedule, timesteps):
    official = Official(schedule.config.kind, timesteps)
    grid = TimeGrid.from_levels(schedule, t=torch.tensor(timesteps).double().flip(0), clean=True)
    ours = Posteriors.of(grid)
    steps = torch.arange(ours.steps)
    fraction = torch.rand(ours.steps, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.4
    learned = fraction[:, 0, 0, 0].flip(0).numpy()

    def compare(table, wanted):
        torch.testing.assert_close(table.flatten(), torch.from_numpy(wanted).flip(0), rtol=1e-8, atol=1e-14)

    compare(ours.of_x0, official.coef1)
    compare(ours.of_x_t, official.coef2)
    compare(ours.small, official.posterior_variance)
    compare(ours.log_variance("small", steps, None), official.clipped)
    compare(ours.log_variance("large", steps, None), np.log(official.fixed_large))
    between = learned * np.log(official.betas) + (1 - learned) * official.clipped
    compare(ours.log_variance("learned", steps, fraction)[:, 0], between)
    one = [ours.variance("learned", int(i), fraction[i : i + 1])[0, 0] for i in steps]
    compare(torch.stack(one), np.exp(between))
    large = [ours.variance("large", int(i), None) for i in steps]
    compare(torch.tensor(large, dtype=torch.float64), official.fixed_large)


@pytest.mark.parametrize("timesteps", [[999.0, 400.0], [400.0, 399.0], [700.0, 3.0], [1.0, 0.0]])
def test_bayes(timesteps):
    """q(x_s | x_t, x0) by conditioning the joint Gaussian of x_s and x_t, in which x_t is x_s diffused further."""
    grid = TimeGrid.from_levels(LINEAR, t=torch.tensor(timesteps))
    (alpha_t, alpha_s), (sigma_t, sigma_s) = grid.alpha.tolist(), grid.sigma.tolist()
    x0, x_t = torch.tensor([[[[0.3]]]], dtype=torch.float64), torch.tensor([[[[-1.7]]]], dtype=torch.float64)
    keep = alpha_t / alpha_s
    covariance = np.array([[sigma_s**2, keep * sigma_s**2], [keep * sigma_s**2, sigma_t**2]])
    mean = alpha_s * 0.3 + covariance[0, 1] / covariance[1, 1] * (-1.7 - alpha_t * 0.3)
    variance = covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1]
    ours = Posteriors.of(grid)
    assert float(ours.mean(0, x0, x_t)) == pytest.approx(mean, rel=1e-12)
    assert float(ours.mean(torch.tensor([0]), x0, x_t)) == pytest.approx(mean, rel=1e-12)
    assert float(ours.small[0]) == pytest.approx(variance, rel=1e-9)
    # what one diffusion step adds, which p would need for data without structure
    assert float(ours.large[0]) == pytest.approx(1 - keep**2, rel=1e-12)


def test_the_step_to_the_clean_image():
    ours = Posteriors.of_all(LINEAR)
    assert ours.steps == 1000
    x0, x_t = torch.rand(2, 1, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.mean(999, x0, x_t), x0, rtol=1e-12, atol=0)
    assert float(ours.small[999]) == 0
    assert float(ours.floor[999]) == float(ours.small[998]) > 0
    single = Posteriors.of(TimeGrid.make(LINEAR, 1))
    assert float(single.floor) == float(single.large) > 0.9


def test_what_there_is_no_posterior_for():
    with pytest.raises(ValueError, match="noisy to clean"):
        Posteriors.of(TimeGrid.make(LINEAR, 3).reversed())
    with pytest.raises(ValueError, match="small or large"):
        Posteriors.of(TimeGrid.make(LINEAR, 3)).variance("learned", 0, None)
