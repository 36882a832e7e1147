from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsem.diffusion.codecs import CODECS
from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.values.codes import Noise
from zsem.values.prediction import Condition

LINEAR = NoiseSchedule()
COSINE = NoiseSchedule(NoiseSchedule.Config(kind="cosine"))
Conv = Callable[..., NetworkDenoiser]


def mse(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean())


@pytest.mark.parametrize("codec", ["exact", "offsets"])
@pytest.mark.parametrize("steps", [1, 2, 3, 19])
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_round_trip_of_a_real_network(codec: str, steps: int, prediction: str, conv: Conv, images: Tensor) -> None:
    denoise = bind(conv(LINEAR, prediction, gain=0.1), Condition())
    grid = TimeGrid.make(LINEAR, steps)
    for storage, limit in ((torch.float64, 1e-20), (torch.float32, 1e-10), (torch.float16, 1e-3)):
        noise = CODECS[codec].encode(denoise, images, grid, storage)
        given = [x for x in (noise.x_T, noise.carry, noise.offsets) if x is not None]
        assert all(x.dtype == storage for x in given)
        assert len(given) == 2
        decoded = CODECS[codec].decode(denoise, noise, grid)
        assert decoded.dtype == torch.float64
        assert mse(decoded, images) < limit


def test_19_levels_survive_storage(conv: Conv, images: Tensor) -> None:
    """What the default promises: float32 codes 1e-10, float16 codes 1e-8, on the scale of [0, 1]."""
    denoise = bind(conv(LINEAR, "v", gain=0.1), Condition())
    grid = TimeGrid.make(LINEAR, 19)
    for storage, limit in ((torch.float32, 1e-12), (torch.float16, 1e-8)):
        noise = CODECS["exact"].encode(denoise, images, grid, storage)
        assert mse(CODECS["exact"].decode(denoise, noise, grid), images) / 4 < limit


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("steps", [1, 2, 3, 19])
def test_nfe(codec: str, steps: int, gaussian: Any, images: Tensor) -> None:
    grid = TimeGrid.make(LINEAR, steps)
    noise = CODECS[codec].encode(gaussian, images[:, :, :4, :4], grid)
    assert gaussian.evaluations == CODECS[codec].nfe_encode(grid)
    gaussian.evaluations = 0
    CODECS[codec].decode(gaussian, noise, grid)
    assert gaussian.evaluations == CODECS[codec].nfe_decode(grid)


def test_the_default_costs_20_and_19() -> None:
    grid = TimeGrid.make(LINEAR, 19)
    assert (CODECS["exact"].nfe_encode(grid), CODECS["exact"].nfe_decode(grid)) == (20, 19)


@given(
    schedule=st.sampled_from([LINEAR, COSINE]),
    steps=st.integers(1, 40),
    spacing=st.sampled_from(["logsnr", "karras", "uniform", "trailing"]),
    integer=st.booleans(),
    u_max=st.floats(5.0, 160.0),
    codec=st.sampled_from(["exact", "offsets"]),
)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip_on_any_grid(
    *,
    conv: Conv,
    images: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    spacing: str,
    integer: bool,
    u_max: float,
    codec: str,
) -> None:
    denoise = bind(conv(schedule, "v", gain=0.1), Condition())
    grid = TimeGrid.make(schedule, steps, spacing, integer=integer, u_max=u_max)
    noise = CODECS[codec].encode(denoise, images, grid, torch.float64)
    assert mse(CODECS[codec].decode(denoise, noise, grid), images) < 1e-20


def test_the_cosine_schedule_is_capped_at_160(conv: Conv, images: Tensor) -> None:
    denoise = bind(conv(COSINE, "v", gain=0.1), Condition())
    grid = TimeGrid.make(COSINE, 19, u_max=160.0)
    assert 100 < float(grid.u[0]) <= 160
    noise = CODECS["exact"].encode(denoise, images, grid)
    assert mse(CODECS["exact"].decode(denoise, noise, grid), images) < 1e-10


def test_order_on_the_gaussian(gaussian: Any, noises: Tensor) -> None:
    xb = noises[:, :, :4, :4].double() * 10
    exact = gaussian.flow(xb, 10.0, 0.1)
    steps, errors = (20, 40, 80, 160), []
    for S in steps:
        grid = TimeGrid.from_levels(LINEAR, u=torch.logspace(1, -1, S + 1, dtype=torch.float64))
        x = CODECS["exact"].decode(gaussian, Noise(x_T=grid.alpha[0] * xb), grid)
        errors.append(float((x / grid.alpha[-1] - exact).norm() / exact.norm()))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(2, abs=0.2)


def test_x_T_of_the_gaussian_is_that_of_the_exact_flow(gaussian: Any, images: Tensor) -> None:
    x0 = images[:, :, :4, :4].double()
    grid = TimeGrid.make(LINEAR, 50)
    exact = grid.alpha[0] * gaussian.flow(x0, 0.0, float(grid.u[0]))
    x_T = {name: CODECS[name].encode(gaussian, x0, grid, torch.float64).x_T for name in CODECS}
    assert mse(x_T["exact"], exact) < 1e-2 * float(exact.square().mean())
    assert mse(x_T["exact"], exact) < mse(x_T["ddim"], exact)
    assert torch.equal(x_T["offsets"], x_T["exact"])


def test_fresh_noise_has_no_carry(gaussian: Any, noises: Tensor) -> None:
    x_T = noises[:, :, :4, :4]
    grid = TimeGrid.make(LINEAR, 40)
    fresh = CODECS["exact"].decode(gaussian, Noise(x_T=x_T), grid)
    zero = CODECS["exact"].decode(gaussian, Noise(x_T=x_T, carry=torch.zeros_like(x_T)), grid)
    assert torch.equal(fresh, zero)
    exact = gaussian.flow(x_T.double() / grid.alpha[0], float(grid.u[0]), 0.0)
    assert mse(fresh, exact) < 1e-3
    ddim, _ = last(SOLVERS["ddim"](gaussian, x_T, grid))
    assert mse(fresh, exact) < mse(ddim, exact)
    for name in ("ddim", "offsets"):
        assert torch.equal(CODECS[name].decode(gaussian, Noise(x_T=x_T), grid), ddim)


def test_the_carry_is_what_the_second_state_has_beyond_a_ddim_step(gaussian: Any, images: Tensor) -> None:
    """The first node that decoding reaches is the second-noisiest state of the encoding, however x_T was rounded."""
    x0 = images[:, :, :4, :4].double()
    grid = TimeGrid.make(LINEAR, 2)
    noise = CODECS["exact"].encode(gaussian, x0, grid, torch.float16)
    first = next(SOLVERS["ddim"](gaussian, noise.x_T, grid))
    clean_eps = gaussian(x0, grid.t[-1].expand(4)).eps
    second_state = grid.alpha[1] * (x0 + grid.u[1] * clean_eps)
    torch.testing.assert_close(first.x + noise.carry.double(), second_state, rtol=0, atol=2e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_an_image_does_not_depend_on_its_batch(codec: str, conv: Conv, images: Tensor) -> None:
    denoise = bind(conv(LINEAR, "v", gain=0.1), Condition())
    grid = TimeGrid.make(LINEAR, 19)
    together = CODECS[codec].encode(denoise, images, grid)
    alone = CODECS[codec].encode(denoise, images[2:3], grid)
    torch.testing.assert_close(alone.x_T[0], together.x_T[2], rtol=0, atol=1e-5)
    decoded = CODECS[codec].decode(denoise, alone, grid)
    torch.testing.assert_close(decoded[0], CODECS[codec].decode(denoise, together, grid)[2], rtol=0, atol=1e-5)


def test_offsets_are_exact_however_chaotic_the_network(images: Tensor) -> None:
    """A rounding of x_T changes everything that such a network says; stored offsets do not mind."""
    denoise = bind(NetworkDenoiser(lambda x_t, t, cond: torch.sin(1e5 * x_t), LINEAR, "eps"), Condition())
    grid = TimeGrid.make(LINEAR, 19)

    def round_trip(codec: str) -> float:
        noise = CODECS[codec].encode(denoise, images, grid)
        return mse(CODECS[codec].decode(denoise, noise, grid), images)

    assert round_trip("offsets") < 1e-16
    assert round_trip("exact") > 1e-2


def test_codecs_walk_without_gradients(conv: Conv, images: Tensor) -> None:
    denoise = bind(conv(LINEAR, "v", gain=0.1), Condition())
    grid = TimeGrid.make(LINEAR, 3)
    for codec in CODECS.values():
        noise = codec.encode(denoise, images, grid)
        assert not noise.x_T.requires_grad
        assert not codec.decode(denoise, noise, grid).requires_grad


def test_what_a_codec_cannot_do(gaussian: Any, images: Tensor) -> None:
    x0 = images[:, :, :4, :4]
    open_end = TimeGrid.from_levels(LINEAR, u=torch.logspace(1, -1, 5, dtype=torch.float64))
    for codec in CODECS.values():
        with pytest.raises(ValueError, match="clean"):
            codec.encode(gaussian, x0, open_end)
    noise = CODECS["offsets"].encode(gaussian, x0, TimeGrid.make(LINEAR, 4))
    with pytest.raises(ValueError, match="4 offsets"):
        CODECS["offsets"].decode(gaussian, noise, TimeGrid.make(LINEAR, 5))
