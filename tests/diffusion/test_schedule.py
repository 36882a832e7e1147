import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.values.errors import ZsemError

LINEAR = NoiseSchedule()
COSINE = NoiseSchedule(NoiseSchedule.Config(kind="cosine"))
CONSTANT = NoiseSchedule(NoiseSchedule.Config(kind="constant"))
SPACINGS = ("logsnr", "uniform", "trailing", "karras")

schedules = st.sampled_from([LINEAR, COSINE, CONSTANT])
spacings = st.sampled_from(SPACINGS)
few = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize(("schedule", "name"), [(LINEAR, "linear"), (COSINE, "squaredcos_cap_v2")])
def test_alphas_cumprod_are_those_of_diffusers(schedule: NoiseSchedule, name: str) -> None:
    theirs = DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
    torch.testing.assert_close(schedule.alphas_cumprod, theirs, rtol=2e-4, atol=1e-9)


def test_known_ends() -> None:
    assert float(LINEAR.alphas_cumprod[-1]) == pytest.approx(4.036e-5, rel=1e-3)  # quoted throughout the literature
    assert float(CONSTANT.alphas_cumprod[-1]) == pytest.approx(0.992**1000, rel=1e-12)


@given(schedules, st.integers(0, 999))
@few
def test_level_is_the_table_at_integers(schedule: NoiseSchedule, t: int) -> None:
    alpha, sigma = schedule.level(torch.tensor([float(t)]))
    abar = float(schedule.alphas_cumprod[t])
    assert alpha.dtype == sigma.dtype == torch.float64
    assert float(alpha) == pytest.approx(math.sqrt(abar), rel=1e-13)
    assert float(sigma) == pytest.approx(math.sqrt(1 - abar), rel=1e-12)


@given(schedules, st.floats(0, 999))
@few
def test_timestep_at_inverts_u(schedule: NoiseSchedule, t: float) -> None:
    at = torch.tensor([t], dtype=torch.float64)
    alpha, sigma = schedule.level(at)
    torch.testing.assert_close(sigma / alpha, schedule.u(at), rtol=1e-12, atol=0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(at), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.timestep_at(schedule.u(at)), at, rtol=1e-9, atol=1e-9)


def test_log_snr_is_linear_between_integers() -> None:
    u = LINEAR.u(torch.tensor([40.0, 40.25, 41.0], dtype=torch.float64)).log()
    assert float((u[1] - u[0]) / (u[2] - u[0])) == pytest.approx(0.25, rel=1e-9)


def test_levels_beyond_the_schedule_get_its_ends() -> None:
    u = torch.tensor([0.0, 1e-9, 1e9], dtype=torch.float64)
    assert LINEAR.timestep_at(u).tolist() == [0, 0, 999]


def test_diffuse() -> None:
    x0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([3.0, 700.0])
    abar = LINEAR.alphas_cumprod[[3, 700]].view(2, 1, 1, 1)
    torch.testing.assert_close(LINEAR.diffuse(x0, eps, t), abar.sqrt() * x0 + (1 - abar).sqrt() * eps)


@pytest.mark.parametrize(
    "config",
    [
        NoiseSchedule.Config(timesteps=1),
        NoiseSchedule.Config(beta_end=1.5),
        NoiseSchedule.Config(kind="constant", beta=0.0),
    ],
)
def test_impossible_schedules(config: NoiseSchedule.Config) -> None:
    with pytest.raises(ZsemError):
        NoiseSchedule(config)


@given(schedules, spacings, st.integers(1, 1000))
@few
def test_any_number_of_steps(schedule: NoiseSchedule, spacing: str, steps: int) -> None:
    grid = TimeGrid.make(schedule, steps, spacing)
    levels = grid.t[:-1]
    assert grid.steps == len(levels) == steps
    assert bool((levels == levels.round()).all())
    assert bool((levels.diff() < 0).all())
    assert float(levels[0]) == 999
    assert float(levels[-1]) >= 0
    assert [float(v[-1]) for v in (grid.t, grid.alpha, grid.sigma, grid.u)] == [0, 1, 0, 0]
    torch.testing.assert_close(grid.u[:-1], schedule.u(levels))


@given(schedules, spacings, st.integers(3, 1000), st.sets(st.integers(0, 999), max_size=2))
@few
def test_forced_levels_keep_the_count(schedule: NoiseSchedule, spacing: str, steps: int, forced: set[int]) -> None:
    levels = TimeGrid.make(schedule, steps, spacing, forced=list(forced)).t[:-1].tolist()
    assert len(set(levels)) == steps
    assert forced <= set(levels)
    assert levels[0] == 999
    assert levels == sorted(levels, reverse=True)


@given(schedules, spacings, st.integers(1, 60), st.floats(1.0, 200.0))
@few
def test_u_max_leaves_out_noisier_levels(schedule: NoiseSchedule, spacing: str, steps: int, u_max: float) -> None:
    grid = TimeGrid.make(schedule, steps, spacing, u_max=u_max)
    assert grid.steps == steps
    assert float(grid.u[0]) <= u_max
    above = schedule.u(grid.t[:1] + 1)
    assert float(above) > u_max or float(grid.t[0]) == 999


def test_logsnr_levels() -> None:
    expected = [0, 1, 4, 10, 19, 35, 61, 103, 166, 253, 353, 454, 546, 629, 704, 772, 834, 893, 947, 999]
    assert TimeGrid.make(LINEAR, 20).t[:-1].flip(0).tolist() == expected


def test_real_valued_spacings() -> None:
    def u(spacing: str) -> torch.Tensor:
        return TimeGrid.make(LINEAR, 12, spacing, integer=False).u[:-1]

    def even(x: torch.Tensor) -> None:
        torch.testing.assert_close(x.diff(), x.diff().mean().expand(len(x) - 1), rtol=1e-6, atol=0)

    even(u("logsnr").log())
    even(u("karras") ** (1 / 7))
    even(LINEAR.timestep_at(u("uniform")))
    trailing = LINEAR.timestep_at(u("trailing"))
    even(trailing)
    assert trailing[[0, -1]].tolist() == pytest.approx([999, 1000 / 12 - 1])
    torch.testing.assert_close(u("logsnr")[[0, -1]], LINEAR.u(torch.tensor([999.0, 0.0])))


def test_a_level_may_be_u_max_itself() -> None:
    u_max = float(LINEAR.u(torch.tensor([500.0], dtype=torch.float64)))
    assert TimeGrid.make(LINEAR, 5, u_max=u_max).t[0] == 500
    assert float(TimeGrid.make(LINEAR, 5, u_max=u_max, integer=False).t[0]) == pytest.approx(500)


def test_reversed() -> None:
    grid = TimeGrid.make(LINEAR, 7)
    there = grid.reversed()
    assert there.steps == 7
    assert float(there.u[0]) == 0
    for name in ("t", "alpha", "sigma", "u"):
        assert torch.equal(getattr(there.reversed(), name), getattr(grid, name))


@pytest.mark.parametrize(
    ("steps", "options", "sentence"),
    [
        (0, {}, "between 1 and 1000"),
        (1001, {}, "between 1 and 1000"),
        (20, {"u_max": 0.015}, "steps must lie"),
        (5, {"u_max": 1e-4}, "u_max"),
        (2, {"forced": [300, 400]}, "forced"),
        (5, {"forced": [1000]}, "forced"),
        (5, {"forced": [900], "u_max": 10.0}, "forced"),
    ],
)
def test_impossible_grids(steps: int, options: dict, sentence: str) -> None:
    with pytest.raises(ZsemError, match=sentence):
        TimeGrid.make(LINEAR, steps, **options)


def test_from_levels() -> None:
    u = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    grid = TimeGrid.from_levels(LINEAR, u=u)
    again = TimeGrid.from_levels(LINEAR, t=grid.t, clean=True)
    torch.testing.assert_close(again.u, torch.cat([u, torch.zeros(1, dtype=torch.float64)]))
    torch.testing.assert_close(grid.sigma / grid.alpha, u)
    for wrong in ({"u": u.flip(0)}, {"u": u * 100}, {"t": u - 1}, {}, {"t": u, "u": u}):
        with pytest.raises(ValueError, match=r"levels|level|either"):
            TimeGrid.from_levels(LINEAR, **wrong)


@pytest.mark.parametrize("spacing", ["logsnr", "uniform", "trailing", "karras"])
@pytest.mark.parametrize("steps", [1, 19, 995])
def test_no_level_below_the_cleanest(spacing, steps):
    levels = TimeGrid.make(LINEAR, steps, spacing, cleanest=5).t[:-1]
    assert levels[0] == 999
    assert levels[-1] >= 5
    assert len(set(levels.tolist())) == steps
    if steps == 19 and spacing != "trailing":
        assert levels[-1] == 5
