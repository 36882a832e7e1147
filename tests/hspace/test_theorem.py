import pytest
import torch

from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.hspace.theorem import cancellation, coefficients, published_levels
from zsem.values.errors import ZsemError

# steps: (t, in x0 alone, in both) twice; sums over t >= 513 and their ratio (computed apart, from the published betas)
TABLE = {
    1000: ((999, -1.010, -0.0102), (500, -0.965, -0.0053), (487.8, 3.75, 130)),
    100: ((999, -1.117, -0.117), (504, -1.012, -0.054), (52.6, 3.94, 13.4)),
    50: ((999, -1.234, -0.234), (509, -1.066, -0.111), (27.9, 4.07, 6.9)),
    40: ((999, -1.296, -0.296), (512, -1.100, -0.146), (23.0, 4.15, 5.6)),
    20: ((999, -1.684, -0.684), (525, -1.261, -0.313), (14.8, 4.87, 3.0)),
    10: ((999, -2.884, -1.884), (555, -1.714, -0.783), (11.4, 6.46, 1.8)),
}


def published(steps):
    return TimeGrid.from_levels(NoiseSchedule(), t=published_levels(steps), clean=True)


@pytest.mark.parametrize("steps", TABLE)
def test_the_table_of_coefficients(steps):
    found = coefficients(published(steps))
    *rows, sums = TABLE[steps]
    for t, in_x0, in_both in rows:
        i = found.t.tolist().index(t)
        assert float(found.asymmetric[i]) == pytest.approx(in_x0, abs=6e-4)
        assert float(found.symmetric[i]) == pytest.approx(in_both, abs=6e-4 if abs(in_both) > 0.02 else 6e-5)
    for value, wanted, digit in zip(found.sums(513), sums, (0.1, 0.01, 1 if steps == 1000 else 0.1), strict=True):
        assert value == pytest.approx(wanted, abs=0.55 * digit)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_single_timestep_cancels_as_the_theorem_says(kind):
    schedule = NoiseSchedule(NoiseSchedule.Config(kind=kind))
    grid = TimeGrid.from_levels(schedule, t=published_levels(1000), clean=True)
    abar = schedule.alphas_cumprod
    beta = 1 - abar[1:] / abar[:-1]
    wanted = ((1 - abar[1:] - beta).sqrt() - (1 - abar[1:]).sqrt()) / (1 - beta).sqrt()
    torch.testing.assert_close(coefficients(grid).symmetric[:-1].flip(0), wanted, rtol=1e-6, atol=1e-9)


def test_fresh_noise_takes_from_the_direction_alone():
    grid = published(40)
    plain, noisy = (coefficients(grid, eta) for eta in (0, 1))
    assert torch.equal(plain.asymmetric, noisy.asymmetric)
    alpha, sigma, before = grid.alpha[:-1] ** 2, grid.sigma[:-1] ** 2, grid.alpha[1:] ** 2
    spread = (1 - before) / sigma * (1 - alpha / before)
    torch.testing.assert_close(noisy.symmetric - noisy.asymmetric, (1 - before - spread).sqrt())
    assert bool((noisy.symmetric[:-1] < plain.symmetric[:-1]).all())


def test_a_random_shift_in_both_halves_cancels_the_more_the_smaller_the_steps(random_model):
    model = random_model(image_size=8)
    many, few = (cancellation(model, steps=steps, size=0.01, number=1) for steps in (60, 10))
    ratios = [found.asymmetric / found.symmetric for found in (many, few)]
    assert ratios[0] > 5 and 1 < ratios[1] < ratios[0] / 2
    assert few.symmetric > 4 * many.symmetric
    with pytest.raises(ZsemError, match="2 to 1000 steps"):
        cancellation(model, steps=1)
    with pytest.raises(ZsemError, match="told no class"):
        cancellation(random_model(num_classes=2), steps=3)
