from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.losses import target
from zsem.diffusion.schedule import NoiseSchedule, level_like
from zsem.values.prediction import Condition

LINEAR = NoiseSchedule()


@given(st.sampled_from(["v", "eps", "x0"]), st.lists(st.floats(0, 999), min_size=2, max_size=2), st.integers(0, 99))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_is_predicted_x0_and_eps_come_back(prediction: str, times: list[float], seed: int) -> None:
    x0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma = level_like(LINEAR, t, x0)
    x_t = LINEAR.diffuse(x0, eps, t)
    answer = target(prediction, x0, eps, alpha, sigma)
    out = NetworkDenoiser(lambda x_t, t, cond: answer, LINEAR, prediction)(x_t, t, Condition())
    torch.testing.assert_close(out.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.eps, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha * out.x0 + sigma * out.eps, x_t, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_a_real_network_answers_consistently_in_the_dtype_of_the_state(
    prediction: str, conv: Callable[..., NetworkDenoiser], images: Tensor
) -> None:
    t = torch.tensor([0.0, 20.5, 500.0, 999.0])
    for x_t in (images, images.double()):
        out = conv(LINEAR, prediction)(x_t, t, Condition())
        alpha, sigma = level_like(LINEAR, t, x_t)
        assert out.x0.dtype == out.eps.dtype == x_t.dtype
        tolerance = 1e-12 if x_t.dtype == torch.float64 else 1e-4
        torch.testing.assert_close(alpha * out.x0 + sigma * out.eps, x_t, rtol=0, atol=tolerance)


def test_a_network_may_answer_in_half_precision(images: Tensor) -> None:
    out = NetworkDenoiser(lambda x_t, t, cond: x_t.bfloat16(), LINEAR, "v")(
        images.double(), torch.full((4,), 500.0), Condition()
    )
    assert out.x0.dtype == torch.float64


def test_bind_fixes_the_condition(conv: Callable[..., NetworkDenoiser], images: Tensor) -> None:
    denoise = conv(LINEAR)
    z, t = torch.ones(4, 4), torch.full((4,), 300.0)
    bound = bind(denoise, Condition(z=z))
    assert bound.schedule is LINEAR
    assert torch.equal(bound(images, t).eps, denoise(images, t, Condition(z=z)).eps)
    assert not torch.allclose(bound(images, t).eps, denoise(images, t, Condition()).eps)
