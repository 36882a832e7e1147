from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import Extrapolate
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid, level_like
from zsem.diffusion.solvers import SOLVERS, last
from zsem.values.prediction import Condition, Denoiser, NoiseLevels, Prediction

LINEAR = NoiseSchedule()
OLD = Condition(z=torch.linspace(-1, 1, 16).view(4, 4))
NEW = Condition(z=torch.linspace(2, -1, 16).view(4, 4))
T500 = torch.full((4,), 500.0)

Conv = Callable[..., NetworkDenoiser]


def consistent(prediction: Prediction, x_t: Tensor, t: Tensor) -> None:
    alpha, sigma = level_like(LINEAR, t, x_t)
    rebuilt = alpha * prediction.x0 + sigma * prediction.eps
    torch.testing.assert_close(rebuilt, x_t, rtol=0, atol=1e-9 * float(1 + prediction.eps.abs().max()))


def test_the_formula(conv: Conv, noises: Tensor) -> None:
    denoise, x_t = conv(LINEAR), noises.double()
    guided = Extrapolate(denoise, OLD, NEW, 3.0)
    old, new = denoise(x_t, T500, OLD).eps, denoise(x_t, T500, NEW).eps
    before = denoise.network.evaluations
    torch.testing.assert_close(guided(x_t, T500).eps, old + 3 * (new - old), rtol=1e-4, atol=1e-5)
    assert denoise.network.evaluations == before + 1
    assert guided.schedule is LINEAR


@pytest.mark.parametrize(
    ("base", "scale", "interval", "plain"),
    [
        (OLD, 1.0, None, NEW),
        (NEW, 5.0, None, NEW),
        (Condition(z=NEW.z.clone()), 5.0, None, NEW),
        (OLD, 5.0, (0, 499), NEW),
        (OLD, 5.0, (501.0, 999.0), NEW),
        (OLD, 0.0, None, OLD),
    ],
)
def test_where_nothing_is_extrapolated_the_answer_is_the_plain_one_to_the_bit(
    *,
    base: Condition,
    scale: float,
    interval: tuple[float, float] | None,
    plain: Condition,
    conv: Conv,
    noises: Tensor,
) -> None:
    denoise, x_t = conv(LINEAR), noises.double()
    expected = denoise(x_t, T500, plain)
    denoise.network.rows = 0
    answer = Extrapolate(denoise, base, NEW, scale, rescale=0.3, interval=interval)(x_t, T500)
    assert denoise.network.rows == 4
    assert torch.equal(answer.eps, expected.eps)
    assert torch.equal(answer.x0, expected.x0)


def test_the_interval_includes_its_ends_and_holds_for_each_image(conv: Conv, noises: Tensor) -> None:
    denoise, x_t = conv(LINEAR), noises.double()
    t = torch.tensor([199.0, 200.0, 600.0, 601.0])
    answer = Extrapolate(denoise, OLD, NEW, 4.0, interval=(200, 600))(x_t, t)
    always = Extrapolate(denoise, OLD, NEW, 4.0)(x_t, t)
    plain = denoise(x_t, t, NEW)
    torch.testing.assert_close(answer.eps[1:3], always.eps[1:3])
    torch.testing.assert_close(answer.eps[[0, 3]], plain.eps[[0, 3]], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(always.eps[0], plain.eps[0], atol=1e-2)


def test_rescale_pulls_the_deviation_to_the_conditional_one(conv: Conv, noises: Tensor) -> None:
    denoise, x_t = conv(LINEAR), noises.double()

    def deviation(scale: float, rescale: float) -> Tensor:
        return Extrapolate(denoise, OLD, NEW, scale, rescale=rescale)(x_t, T500).x0.std(dim=(1, 2, 3))

    plain = denoise(x_t, T500, NEW).x0.std(dim=(1, 2, 3))
    assert not torch.allclose(deviation(8.0, 0.0), plain, rtol=0.02)
    torch.testing.assert_close(deviation(8.0, 1.0), plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(deviation(8.0, 0.25), 0.75 * deviation(8.0, 0.0) + 0.25 * plain, rtol=1e-5, atol=0)


def test_no_condition_as_base(conv: Conv, noises: Tensor) -> None:
    """Conditions of different kinds cannot share a batch: two evaluations, the same formula."""
    denoise, x_t = conv(LINEAR), noises.double()
    none, new = denoise(x_t, T500, Condition()).eps, denoise(x_t, T500, NEW).eps
    answer = Extrapolate(denoise, Condition(), NEW, 2.0)(x_t, T500)
    torch.testing.assert_close(answer.eps, none + 2 * (new - none), rtol=1e-9, atol=1e-9)


def test_rescale_out_of_range(conv: Conv) -> None:
    with pytest.raises(ValueError, match="rescale"):
        Extrapolate(conv(LINEAR), OLD, NEW, 2.0, rescale=1.5)


class Push:
    """A wrapper that adds to eps, around a denoiser with or without a fixed condition."""

    def __init__(self, denoise: Denoiser, strength: float) -> None:
        self.denoise = denoise
        self.strength = strength

    @property
    def schedule(self) -> NoiseLevels:
        return self.denoise.schedule

    def __call__(self, x_t: Tensor, t: Tensor, *cond: Condition) -> Prediction:
        alpha, sigma = level_like(LINEAR, t, x_t)
        return self.denoise(x_t, t, *cond).steer(self.strength * torch.cos(x_t), sigma / alpha)


@given(
    st.floats(-2, 8),
    st.floats(0, 1),
    st.floats(-3, 3),
    st.lists(st.floats(0, 999), min_size=4, max_size=4),
    st.sampled_from(["v", "eps", "x0"]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_wrappers_stay_consistent_and_nest_in_any_order(
    scale: float, rescale: float, strength: float, times: list[float], prediction: str
) -> None:
    def network(x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return torch.tanh(x_t) * cond.z.mean(dim=1)[:, None, None, None]

    denoise = NetworkDenoiser(network, LINEAR, prediction)
    x_t = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64)
    consistent(Extrapolate(denoise, OLD, NEW, scale, rescale=rescale, interval=(100, 900))(x_t, t), x_t, t)
    inside = Extrapolate(Push(denoise, strength), OLD, NEW, scale)(x_t, t)
    outside = Push(Extrapolate(denoise, OLD, NEW, scale), strength)(x_t, t)
    consistent(inside, x_t, t)
    consistent(outside, x_t, t)
    torch.testing.assert_close(inside.eps, outside.eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inside.x0, outside.x0, rtol=1e-9, atol=1e-9)


def test_solvers_agree_under_guidance(conv: Conv, noises: Tensor) -> None:
    """Whichever half of a prediction a solver reads, a guided fine walk ends at the same place."""
    denoise = Extrapolate(conv(LINEAR, "v", gain=0.2), OLD, NEW, 4.0, rescale=0.5)
    plain = bind(conv(LINEAR, "v", gain=0.2), NEW)
    grid = TimeGrid.from_levels(LINEAR, u=torch.logspace(1, -1, 100, dtype=torch.float64))
    ends = {name: last(SOLVERS[name](denoise, noises, grid))[0] for name in ("heun", "ddim", "dpmpp_2m", "unipc")}
    effect = (ends["heun"] - last(SOLVERS["heun"](plain, noises, grid))[0]).norm()
    for name, limit in {"ddim": 0.1, "dpmpp_2m": 0.01, "unipc": 0.01}.items():
        assert (ends[name] - ends["heun"]).norm() < limit * effect


def test_delta_guidance_moves_further_than_the_new_condition(conv: Conv, noises: Tensor) -> None:
    denoise = conv(LINEAR, "v")
    grid = TimeGrid.make(LINEAR, 10)
    ends = {}
    for name, bound in {
        "old": bind(denoise, OLD),
        "new": bind(denoise, NEW),
        "guided": Extrapolate(denoise, OLD, NEW, 4.0),
    }.items():
        ends[name], _ = last(SOLVERS["ddim"](bound, noises, grid))
    assert (ends["guided"] - ends["old"]).norm() > 1.5 * (ends["new"] - ends["old"]).norm()
