"""Pairs of states within a mask, and where two conditions differ."""

import pytest
import torch

from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.masking import Comparison, Masked
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.values import draws
from zsem.values.codes import Noise
from zsem.values.prediction import Condition, Prediction

SCHEDULE = NoiseSchedule()
GRID = TimeGrid.make(SCHEDULE, 6, u_max=100.0, cleanest=2)
X = draws.normal([(0, i) for i in range(2)], (3, 8, 8))
OLD, NEW = Condition(z=torch.full((2, 1), -1.0)), Condition(z=torch.full((2, 1), 1.0))
MASK = torch.zeros(2, 1, 8, 8)
MASK[0, :, 2:6, 2:6] = 1
MASK[1, :, :, :4] = torch.tensor([1.0, 0.75, 0.5, 0.25])


def network(x_t: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
    """Every pixel depends on the condition and on its neighbours."""
    assert cond.z is not None
    blurred = torch.nn.functional.avg_pool2d(x_t, 3, stride=1, padding=1)
    return torch.tanh(blurred + cond.z[:, :, None, None])


DENOISER = NetworkDenoiser(network, SCHEDULE, "v")


def pairs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.stack([a, b], 1).flatten(0, 1)


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_ends_outside_the_mask_as_the_source_does_to_the_bit(codec):
    walker = CODECS[codec]
    grid = TimeGrid.strided(SCHEDULE, 5) if codec == "reference" else GRID
    noise = walker.encode(bind(DENOISER, OLD), X, grid)
    doubled = noise.map(lambda tensor: pairs(tensor, tensor))
    out = walker.decode(Masked(bind(DENOISER, OLD), bind(DENOISER, NEW), MASK), doubled, grid)
    source, target = walker.decode(bind(DENOISER, OLD), noise, grid), walker.decode(bind(DENOISER, NEW), noise, grid)
    assert torch.equal(out[0::2], source)
    outside = (MASK == 0).expand_as(source)
    assert torch.equal(out[1::2][outside], source[outside])
    # "reference" clips, so that some pixels are white or black either way
    assert torch.isclose(out[1::2], source)[~outside].float().mean() < 0.5 * (codec == "reference") + 1e-9
    assert torch.isclose(target, source)[outside].float().mean() < 0.5  # what the mask holds back


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "unipc"])
def test_so_does_every_solver(solver):
    masked = Masked(bind(DENOISER, OLD), bind(DENOISER, NEW), MASK)
    out, _ = last(SOLVERS[solver](masked, pairs(X, X), GRID))
    source, _ = last(SOLVERS[solver](bind(DENOISER, OLD), X, GRID))
    outside = (MASK == 0).expand_as(source)
    assert torch.equal(out[1::2][outside], source[outside])
    assert not torch.equal(out[1::2], source)


def test_a_mask_of_ones_is_none_and_answers_are_consistent():
    masked = Masked(bind(DENOISER, OLD), bind(DENOISER, NEW), torch.ones_like(MASK))
    noise = Noise(x_T=X)
    out = CODECS["exact"].decode(masked, noise.map(lambda tensor: pairs(tensor, tensor)), GRID)
    assert torch.equal(out[1::2], CODECS["exact"].decode(bind(DENOISER, NEW), noise, GRID))
    states = pairs(X, X + 0.1 * (MASK > 0)).double()
    t = torch.full((4,), 300.0)
    answer = Masked(bind(DENOISER, OLD), bind(DENOISER, NEW), MASK)(states, t)
    alpha, sigma = SCHEDULE.level(t[:1])
    torch.testing.assert_close(alpha * answer.x0 + sigma * answer.eps, states)


def test_a_soft_edge_does_not_depend_on_the_number_of_steps():
    """Blending states after every step would: a weight of 1/2 would be (1/2)^steps in the end."""
    half = torch.full_like(MASK, 0.5)
    masked = Masked(bind(DENOISER, OLD), bind(DENOISER, NEW), half)
    few, many, more = (
        last(SOLVERS["heun"](masked, pairs(X, X), TimeGrid.make(SCHEDULE, steps, u_max=100.0)))[0][1::2]
        for steps in (20, 80, 160)
    )
    source, target = (
        last(SOLVERS["heun"](bind(DENOISER, c), X, TimeGrid.make(SCHEDULE, 160, u_max=100.0)))[0] for c in (OLD, NEW)
    )
    apart = (target - source).abs().mean()
    assert (more - source).abs().mean() > 0.2 * apart
    assert (many - more).abs().mean() < 0.1 * (few - more).abs().mean()


def test_a_comparison_walks_as_the_source_does_and_sums_the_differences_of_x0_within_its_interval():
    calls = []

    def counted(x_t: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
        calls.append(float(t[0]))
        return network(x_t, t, cond)

    denoiser = NetworkDenoiser(counted, SCHEDULE, "v")
    comparison = Comparison(denoiser, OLD, NEW, (100, 700))
    assert comparison.total is None
    walked = CODECS["exact"].decode(comparison, Noise(x_T=X), GRID)
    assert torch.equal(walked, CODECS["exact"].decode(bind(DENOISER, OLD), Noise(x_T=X), GRID))
    within = [t for t in GRID.t[:-1].tolist() if 100 <= t <= 700]
    assert 1 < len(within) < GRID.steps
    assert sorted(calls) == sorted([*GRID.t[:-1].tolist(), *within])
    expected, xs = torch.zeros(2, 8, 8, dtype=torch.float64), {}

    class Recorded:
        schedule = SCHEDULE

        def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> Prediction:
            xs[float(t[0])] = (x_t, t)
            return DENOISER(x_t, t, OLD)

    CODECS["exact"].decode(Recorded(), Noise(x_T=X), GRID)
    for t in within:
        old, new = (DENOISER(*xs[t], cond).x0 for cond in (OLD, NEW))
        expected += ((new - old) ** 2).mean(1) ** 0.5
    torch.testing.assert_close(comparison.total, expected)
