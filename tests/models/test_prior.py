"""Priors of codes: what they draw, under which conditions, and that each draw depends on its name alone."""

import pytest
import torch
from scipy import stats
from torch import nn

from zsem.models.base import Model
from zsem.models.prior import LatentDiffusion, Prior, accepted
from zsem.models.walking import Walking
from zsem.nets.latent import LatentNet
from zsem.values.errors import ZsemError
from zsem.values.logistic import Logistic

CONFIG = LatentDiffusion.Config(z_dim=2, net=LatentNet.Config(layers=3, hidden=8))
STD = torch.tensor([0.5, 2.0])
HALF = Logistic(weights=torch.tensor([[3.0, 0.0]]), offsets=torch.tensor([-3.0]))


class ExactNet(nn.Module):
    """The best predictor of eps where normalised codes are normal with standard deviations STD."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.unused = schedule, nn.Parameter(torch.zeros(1))  # a model is where its weights are

    def forward(self, z_t, t):
        alpha, sigma = (level.float()[:, None] for level in self.schedule.level(t))
        return z_t * sigma / (alpha**2 * STD**2 + sigma**2)


@pytest.fixture
def exact() -> LatentDiffusion:
    """A latent DDIM that knows its distribution exactly: mean (1, -1), standard deviations 1.5 and 6."""
    model = LatentDiffusion(CONFIG)
    model.net = ExactNet(model.schedule)
    model.z_mean.copy_(torch.tensor([1.0, -1.0]))
    model.z_std.fill_(3.0)
    return model.eval()


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 200), ("unipc", 30), ("heun", 40)])
def test_the_latent_ddim_draws_from_what_its_network_knows(exact, solver, steps):
    z = exact.sample(800, solver=solver, steps=steps, seed=4)
    for column, mean, std in ((0, 1.0, 1.5), (1, -1.0, 6.0)):
        assert stats.kstest(z[:, column].numpy(), "norm", (mean, std)).pvalue > 0.001


def test_ancestral_steps_have_noise_of_their_own(exact):
    z = exact.sample(150, solver="ddpm", steps=80, seed=4)
    assert stats.kstest(z[:, 0].numpy(), "norm", (1.0, 1.5)).pvalue > 0.001
    again = exact.sample(5, solver="ddpm", steps=80, seed=4, first=30)
    torch.testing.assert_close(again, z[30:35], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["rejection", "guidance"])
def test_a_code_depends_on_seed_and_position_alone(exact, method):
    settings = {"where": HALF, "method": method, "steps": 10}
    many = exact.sample(40, seed=3, **settings)
    torch.testing.assert_close(exact.sample(5, seed=3, first=20, **settings), many[20:25], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(exact.sample(40, seed=5, **settings), many, atol=1e-2)


def test_truncation_draws_nearer_to_the_middle(exact):
    """DDIM is linear here, so that half the noise gives half of the way from the mean."""
    full, half, none = (exact.sample(50, steps=20, truncation=share) for share in (1, 0.5, 0))
    torch.testing.assert_close(half - exact.z_mean, (full - exact.z_mean) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(none, exact.z_mean.expand(50, 2), atol=1e-5, rtol=1e-5)


def test_rejection_draws_from_the_prior_times_the_condition(exact):
    z = exact.sample(800, where=HALF, steps=30, seed=1, solver="unipc")
    grid = torch.linspace(-8, 10, 20001, dtype=torch.float64)
    weight = torch.exp(-((grid - 1) ** 2) / (2 * 1.5**2)) * torch.sigmoid(3 * grid - 3)
    cumulative = weight.cumsum(0) / weight.sum()
    place = torch.searchsorted(grid, z[:, 0].double())
    assert stats.kstest(cumulative[place.clamp(max=20000)].numpy(), "uniform").pvalue > 0.001
    assert stats.kstest(z[:, 1].numpy(), "norm", (-1.0, 6.0)).pvalue > 0.001  # nothing was asked of this one


def test_guidance_goes_where_it_is_asked_to(exact):
    """A condition exp(a z) tilts a Gaussian by a times its variance, and only where the gradient is."""

    def tilt(z):
        return 0.4 * (z[:, 0] - 60)  # a log-probability as long as z is below 60

    plain, guided, strong = (
        exact.sample(400, steps=100, where=where, method="guidance" if where else "auto", scale=scale)
        for where, scale in ((None, 1), (tilt, 1), (tilt, 2))
    )
    moved = (guided - plain).mean(0)
    assert abs(float(moved[0]) - 0.4 * 1.5**2) < 0.1
    assert abs(float(moved[1])) < 1e-3
    assert abs(float((strong - plain).mean(0)[0]) - 2 * 0.4 * 1.5**2) < 0.2


def test_what_is_never_accepted_ends_with_a_sentence(exact):
    with pytest.raises(ZsemError, match="too rare: none of"):
        exact.sample(3, steps=2, where=lambda z: torch.full((len(z),), -200.0))
    rarely = accepted_share(lambda names: (torch.zeros(len(names), 1), torch.full((len(names),), -5.0)))
    with pytest.raises(ZsemError, match=r"too rare: 0\.\d+ % of .* samples found no code"):
        rarely()


def accepted_share(propose):
    return lambda: accepted(propose, range(200), seed=0, tries=100)


def test_trials_are_counted_in_order():
    """The first proposal that is accepted counts, in however large blocks they are made."""

    def propose(names):
        trials = torch.tensor([name[2] for name in names], dtype=torch.float32)
        wanted = torch.tensor([3.0 * name[1] for name in names])
        return trials[:, None], torch.where(trials >= wanted, 0.0, -200.0)

    assert accepted(propose, range(12), seed=0)[:, 0].tolist() == [3.0 * i for i in range(12)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"truncation": 1.5}, "truncation lies from 0"),
        ({"solver": "euler"}, "no solver 'euler'"),
        ({"steps": 2000}, "steps must lie between"),
        ({"where": HALF, "method": "tilt"}, "by rejection or guidance, not by tilt"),
    ],
)
def test_settings_that_make_no_sense(exact, settings, says):
    with pytest.raises(ZsemError, match=says):
        exact.sample(2, **settings)
    with pytest.raises(ZsemError, match="at least one code"):
        exact.sample(0)


@pytest.mark.parametrize("answer", [0.5, float("nan")])
def test_a_condition_that_is_no_log_probability(exact, answer):
    with pytest.raises(ValueError, match="one log-probability"):
        exact.sample(2, steps=2, where=lambda z: torch.full((len(z),), answer))


def test_the_base_loads_any_kind(tmp_path):
    saved = LatentDiffusion(CONFIG).save(tmp_path)
    assert isinstance(Prior.from_pretrained(saved), LatentDiffusion)
    assert isinstance(Model.from_pretrained(saved), Prior)


def test_images_of_a_prior(small_model):
    """z from the prior, x_T independent of it, by any solver; in parts and at once the same."""
    prior = LatentDiffusion(LatentDiffusion.Config(z_dim=8, net=LatentNet.Config(layers=2, hidden=8)))
    images = small_model.sample(5, prior=prior, seed=2, steps=3, solver="dpmpp_2m")
    part = small_model.sample(2, prior=prior, seed=2, steps=3, solver="dpmpp_2m", first=3)
    torch.testing.assert_close(part, images[3:], atol=1e-4, rtol=1e-4)
    z = prior.sample(5, seed=2)
    codes = small_model.codes(z)
    walking = Walking(solver="dpmpp_2m", steps=3)
    torch.testing.assert_close(small_model.decode(codes, seed=2, walking=walking), images, atol=1e-4, rtol=1e-4)
    x_T = small_model.fresh_noise(5, seed=2).x_T.flatten(1)[:, :8]
    noise = prior.sample(5, seed=2, steps=1)
    both = torch.corrcoef(torch.stack([x_T.flatten(), noise.flatten()]))
    assert abs(float(both[0, 1])) < 0.9  # not the same draws twice
    prior.history["model"] = "0" * 16
    with pytest.raises(ZsemError, match="belongs to model 0000"):
        small_model.sample(1, prior=prior)
    with pytest.raises(ZsemError, match="have 8 numbers, and these 3"):
        small_model.codes(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="decoded by that codec"):
        small_model.decode(small_model.encode(images[:1].clamp(-1, 1), steps=2), walking=walking)
