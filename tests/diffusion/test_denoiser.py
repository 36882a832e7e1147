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


@given(
    st.sampled_from([("v", 1.0), ("v", 0.1), ("v", 3.0), ("eps", 1.0), ("x0", 1.0)]),
    st.lists(st.floats(0, 999), min_size=2, max_size=2),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_whatever_is_predicted_x0_and_eps_come_back(kind: tuple[str, float], times: list[float], seed: int) -> None:
    prediction, s = kind
    x0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma = level_like(LINEAR, t, x0)
    x_t = LINEAR.diffuse(x0, eps, t)
    answer = target(prediction, x0, eps, alpha, sigma, sigma_data=s)
    out = NetworkDenoiser(lambda x_t, t, cond: answer, LINEAR, prediction, sigma_data=s)(x_t, t, Condition())
    torch.testing.assert_close(out.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out.eps, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alpha * out.x0 + sigma * out.eps, x_t, rtol=1e-12, atol=1e-12)


def test_a_sigma_data_is_that_of_edm() -> None:
    """v with sigma_data s is EDM's D = c_skip y + c_out F, y = x_t / alpha (2206.00364, table 1), F being -s F here."""
    t = torch.tensor([0.0, 40.0, 400.0, 990.0], dtype=torch.float64)
    x_t, out = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = level_like(LINEAR, t, x_t)
    u, s = sigma / alpha, 0.1
    found = NetworkDenoiser(lambda *_: out, LINEAR, "v", sigma_data=s)(x_t, t, Condition())
    skip, scale = s**2 / (u**2 + s**2), u * s / (u**2 + s**2).sqrt()
    torch.testing.assert_close(found.x0, skip * x_t / alpha + scale * (-out / s))
    plain = NetworkDenoiser(lambda *_: out, LINEAR, "v")(x_t, t, Condition())
    near = NetworkDenoiser(lambda *_: out, LINEAR, "v", sigma_data=1 + 1e-12)(x_t, t, Condition())
    torch.testing.assert_close(near.x0, plain.x0, rtol=1e-9, atol=1e-9)


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
