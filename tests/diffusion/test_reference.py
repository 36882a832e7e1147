"""The codec "reference" against the official loops' formulas, written down here once more, and learned variances."""

import numpy as np
import pytest
import torch

from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import Clip
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import ddim, ddpm
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

SCHEDULE = NoiseSchedule()


def network(x_t, t, _=None):
    """A smooth eps that is not that of any data, and lets x0 leave [-1, 1]."""
    return torch.tanh(x_t.flip(-1) + 0.3 * torch.sin(t / 200)[:, None, None, None]) * 1.5


@pytest.fixture
def x():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def official_states(x, stride, *, encode):
    """ddim_reverse_sample_loop or ddim_sample_loop of the official code, state by state, in float64."""
    taken = np.arange(0, 1000, stride)
    cumprod = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[taken]
    order = range(len(taken)) if encode else range(len(taken))[::-1]
    after = np.append(cumprod[1:], 0.0) if encode else np.append(1.0, cumprod[:-1])
    x, states, clipped = x.double(), [], 0
    for i in order:
        eps = network(x.float(), torch.full((len(x),), float(taken[i]))).double()
        x0 = x / cumprod[i] ** 0.5 - (1 / cumprod[i] - 1) ** 0.5 * eps
        clipped += int((x0.abs() > 1).sum())
        x0 = x0.clamp(-1, 1)
        eps = (x / cumprod[i] ** 0.5 - x0) / (1 / cumprod[i] - 1) ** 0.5
        x = x0 * after[i] ** 0.5 + (1 - after[i]) ** 0.5 * eps
        states.append(x)
    assert clipped > 0  # or the test would not see clipping
    return states


def denoiser():
    return bind(NetworkDenoiser(network, SCHEDULE, "eps"), Condition())


@pytest.mark.parametrize(("steps", "stride"), [(10, 100), (20, 50), (36, 28)])
def test_reference_codec_walks_as_the_official_loops(x, steps, stride):
    grid = TimeGrid.strided(SCHEDULE, steps)
    assert grid.t[:-1].tolist() == list(range(0, 1000, stride))[::-1]
    codec = CODECS["reference"]
    x_T = official_states(x, stride, encode=True)[-1]
    noise = codec.encode(denoiser(), x, grid)
    torch.testing.assert_close(noise.x_T, x_T.float(), atol=1e-4, rtol=0)
    states = official_states(x_T, stride, encode=False)
    for step, wanted in zip(ddim(Clip(denoiser()), x_T, grid), states, strict=True):
        torch.testing.assert_close(step.x, wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(codec.decode(denoiser(), noise, grid), states[-1], atol=1e-4, rtol=0)
    assert codec.nfe_encode(grid) == codec.nfe_decode(grid) == steps


@pytest.mark.parametrize("steps", [37, 45, 101, 1001])
def test_numbers_of_steps_that_the_official_code_refuses(steps):
    """It knows the 62 counts of whole strides; ours names near ones."""
    allowed = {len(range(0, 1000, stride)) for stride in range(1, 1000)}
    assert len(allowed) == 62
    with pytest.raises(ZsemError) as error:
        TimeGrid.strided(SCHEDULE, steps)
    named = {int(word.strip(",")) for word in str(error.value).split("one of ")[1].split()}
    assert named <= allowed


def test_clipped_predictions_stay_consistent(x):
    x_t, t = 2 * x, torch.tensor([10.0, 900.0])
    plain, clipped = denoiser()(x_t, t), Clip(denoiser())(x_t, t)
    assert plain.x0.abs().max() > 1
    torch.testing.assert_close(clipped.x0, plain.x0.clamp(-1, 1))
    alpha, sigma = (level.float()[:, None, None, None] for level in SCHEDULE.level(t))
    torch.testing.assert_close(alpha * clipped.x0 + sigma * clipped.eps, x_t, atol=1e-5, rtol=1e-5)


def test_learned_variances_agree_with_diffusers(x):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    theirs.set_timesteps(timesteps=[900, 600, 300, 0])

    def both(x_t, t, _):
        return torch.cat([network(x_t, t), torch.sin(3 * x_t)], dim=1)

    learned = bind(NetworkDenoiser(both, SCHEDULE, "eps", learned_range=True), Condition())
    grid = TimeGrid.from_levels(SCHEDULE, t=torch.tensor([900.0, 600.0, 300.0, 0.0]), clean=True)

    def seeded(index):
        return torch.Generator().manual_seed(index)

    ours = ddpm(learned, x, grid, variance="learned", noise=lambda i: torch.randn(x.shape, generator=seeded(i)))
    wanted = x.clone()
    for t, step in zip([900, 600, 300, 0], ours, strict=True):
        out = both(wanted, torch.full((2,), float(t)), None)
        wanted = theirs.step(out, t, wanted, generator=seeded(step.index)).prev_sample
        torch.testing.assert_close(step.x.float(), wanted, atol=1e-4, rtol=1e-4)


def test_a_learned_variance_must_be_there(x):
    grid = TimeGrid.make(SCHEDULE, 3)
    with pytest.raises(ValueError, match="small or large"):
        list(ddpm(denoiser(), x, grid, variance="learned", noise=lambda i: torch.zeros_like(x)))
