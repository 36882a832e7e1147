from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.values import draws
from zsem.values.prediction import Condition

LINEAR = NoiseSchedule()
COSINE = NoiseSchedule(NoiseSchedule.Config(kind="cosine"))

# What theory says of each: error ~ steps ** -order
ORDERS = {"ddim": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 3}


def their_noise(i: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(i))


def their_walk(scheduler: Any, network: Callable[..., Tensor], x: Tensor, **options: Any) -> Iterator[Tensor]:
    for i, t in enumerate(scheduler.timesteps):
        out = network(x, t.float().expand(len(x)), Condition())
        extra = dict(options)
        if isinstance(scheduler, DDPMScheduler):
            extra["generator"] = torch.Generator().manual_seed(i)
        elif options.get("eta"):
            extra["variance_noise"] = their_noise(i, x)
        x = scheduler.step(out, t, x, **extra).prev_sample
        yield x


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=["linear", "cosine"])
@pytest.mark.parametrize(
    ("name", "options", "theirs", "settings", "step_options"),
    [
        ("ddpm", {"variance": "small"}, DDPMScheduler, {"variance_type": "fixed_small"}, {}),
        ("ddpm", {"variance": "large"}, DDPMScheduler, {"variance_type": "fixed_large"}, {}),
        ("ddim", {}, DDIMScheduler, {}, {}),
        ("ddim", {"eta": 0.6}, DDIMScheduler, {}, {"eta": 0.6}),
        ("ddim", {"eta": 1.0}, DDIMScheduler, {}, {"eta": 1.0}),
        ("dpmpp_2m", {}, DPMSolverMultistepScheduler, {"solver_order": 2}, {}),
        ("unipc", {}, UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}, {}),
    ],
)
def test_every_step_is_that_of_diffusers(
    *,
    name: str,
    options: dict,
    theirs: Any,
    settings: dict,
    step_options: dict,
    schedule: NoiseSchedule,
    steps: int,
    conv: Callable[..., NetworkDenoiser],
    noises: Tensor,
) -> None:
    if "clip_sample" in theirs._get_init_keys(theirs):
        settings = settings | {"clip_sample": False}
    betas = (1 - schedule.alphas_cumprod[1:] / schedule.alphas_cumprod[:-1]).numpy()
    scheduler = theirs(trained_betas=np.concatenate([[1 - schedule.alphas_cumprod[0]], betas]), **settings)
    scheduler.set_timesteps(steps)
    denoise = conv(schedule, "eps", gain=0.05)
    if name in ("ddpm", "ddim") and options != {}:
        options = options | {"noise": lambda i: their_noise(i, noises)}
    grid = TimeGrid.from_levels(schedule, t=scheduler.timesteps.double(), clean=True)
    with torch.no_grad():
        expected = list(their_walk(scheduler, denoise.network, noises, **step_options))
    done = list(SOLVERS[name](bind(denoise, Condition()), noises, grid, **options))
    assert [step.index for step in done] == list(range(steps))
    assert [step.nfe for step in done] == list(range(1, steps + 1))
    for step, x in zip(done, expected, strict=True):
        assert step.x.dtype == torch.float64
        assert float((step.x - x).norm() / x.norm()) < 1e-4


@pytest.mark.parametrize("name", ORDERS)
def test_order_on_the_gaussian(name: str, gaussian: Any, noises: Tensor) -> None:
    xb = noises[:, :, :4, :4].double() * 10
    exact = gaussian.flow(xb, 10.0, 0.1)
    steps, errors = (20, 40, 80, 160), []
    for S in steps:
        grid = TimeGrid.from_levels(LINEAR, u=torch.logspace(1, -1, S + 1, dtype=torch.float64))
        x, nfe = last(SOLVERS[name](gaussian, grid.alpha[0] * xb, grid))
        assert nfe == (2 * S if name == "heun" else S)
        errors.append(float((x / grid.alpha[-1] - exact).norm() / exact.norm()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(ORDERS[name], abs=0.2)


def test_every_deterministic_solver_has_its_order_tested() -> None:
    assert set(SOLVERS) == {"ddpm", *ORDERS}


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_there_and_back(name: str, gaussian: Any, images: Tensor) -> None:
    x0 = images[:, :, :4, :4].double()
    grid = TimeGrid.make(LINEAR, 200)
    x_T, _ = last(SOLVERS[name](gaussian, x0, grid.reversed()))
    torch.testing.assert_close(
        x_T / grid.alpha[0], gaussian.flow(x0, 0.0, float(grid.u[0])), rtol=0.05 if name == "ddim" else 2e-3, atol=0.1
    )
    back, _ = last(SOLVERS[name](gaussian, x_T, grid))
    assert float((back - x0).square().mean()) < (1e-3 if name == "ddim" else 1e-6)


def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(conv: Callable[..., NetworkDenoiser], noises: Tensor) -> None:
    denoise = bind(conv(LINEAR, "v"), Condition())
    grid = TimeGrid.make(LINEAR, 15)
    one, _ = last(SOLVERS["ddim"](denoise, noises, grid, eta=1.0, noise=lambda i: their_noise(i, noises)))
    other, _ = last(SOLVERS["ddpm"](denoise, noises, grid, noise=lambda i: their_noise(i, noises)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_ancestral_samples_have_the_distribution_of_the_data(gaussian: Any) -> None:
    x_T = draws.normal([(0, i) for i in range(2000)], (3, 4, 4))
    grid = TimeGrid.make(LINEAR, 100)
    for variance in ("small", "large"):
        noise = {i: draws.normal([(1, i)], tuple(x_T.shape))[0] for i in range(100)}
        x, _ = last(SOLVERS["ddpm"](gaussian, x_T, grid, noise=noise.__getitem__, variance=variance))
        torch.testing.assert_close(x.mean(dim=0), gaussian.mean, rtol=0, atol=0.1)
        torch.testing.assert_close(x.std(dim=0), gaussian.std, rtol=0.12, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_an_image_does_not_depend_on_its_batch(name: str, conv: Callable[..., NetworkDenoiser], noises: Tensor) -> None:
    denoise = bind(conv(LINEAR, "v"), Condition())

    def walk(rows: list[int]) -> Tensor:
        options = {}
        if name == "ddpm":
            options["noise"] = lambda i: draws.normal([(5, row, i) for row in rows], (3, 8, 8))
        return last(SOLVERS[name](denoise, noises[rows], TimeGrid.make(LINEAR, 12), **options))[0]

    torch.testing.assert_close(walk([2, 0, 3])[0], walk([2])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_walk_without_gradients_and_leave_their_callers_mode(
    name: str, conv: Callable[..., NetworkDenoiser], noises: Tensor
) -> None:
    options = {"noise": lambda i: noises} if name == "ddpm" else {}
    denoise = bind(conv(LINEAR, "v"), Condition())
    for step in SOLVERS[name](denoise, noises.clone().requires_grad_(), TimeGrid.make(LINEAR, 3), **options):
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad


def test_what_a_solver_cannot_do(gaussian: Any, images: Tensor) -> None:
    x0 = images[:, :, :4, :4]
    grid = TimeGrid.make(LINEAR, 3)
    for name in ("dpmpp_2m", "unipc"):
        with pytest.raises(ValueError, match="noisy to clean"):
            last(SOLVERS[name](gaussian, x0, grid.reversed()))
    with pytest.raises(ValueError, match="noisy to clean"):
        last(SOLVERS["ddpm"](gaussian, x0, grid.reversed(), noise=lambda i: x0))
    with pytest.raises(ValueError, match="noise"):
        last(SOLVERS["ddim"](gaussian, x0, grid, eta=0.5))
    with pytest.raises(ValueError, match="eta"):
        last(SOLVERS["ddim"](gaussian, x0, grid, eta=1.5, noise=lambda i: x0))
