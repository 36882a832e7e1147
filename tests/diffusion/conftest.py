"""Denoisers whose answers are known, and small networks whose answers are not."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.schedule import NoiseSchedule, level_like
from zsem.values.prediction import Condition, Prediction


class Gaussian:
    """The exact denoiser of pixels drawn from N(mean, std^2), each its own.

    The probability-flow ODE then keeps (xb - mean) / sqrt(std^2 + u^2).
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.evaluations = 0
        rows = torch.arange(48, dtype=torch.float64).view(3, 4, 4)
        self.mean = torch.sin(rows) / 2
        self.std = 0.3 + 0.5 * torch.cos(rows) ** 2

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        self.evaluations += 1
        alpha, sigma = level_like(self.schedule, t, x_t)
        surprise = (x_t - alpha * self.mean) / ((alpha * self.std) ** 2 + sigma**2)
        return Prediction(x0=self.mean + alpha * self.std**2 * surprise, eps=sigma * surprise)

    def flow(self, xb: Tensor, u: float, to: float) -> Tensor:
        """The exact solution of the probability-flow ODE, from level u to another."""
        return self.mean + (xb - self.mean) * torch.sqrt((self.std**2 + to**2) / (self.std**2 + u**2))


class ConvNet(nn.Module):
    """A small convolutional network of x_t, t and z or the class; counts how often it is asked."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.evaluations = 0
        self.rows = 0
        self.gain = gain
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.told = nn.Linear(4, 16)
        self.out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert x_t.dtype == t.dtype == torch.float32
        self.evaluations += 1
        self.rows += len(x_t)
        h = self.stem(x_t) + torch.sin(t / 200)[:, None, None, None]
        if cond.z is not None:
            h = h + self.told(cond.z)[:, :, None, None]
        return (t / 1000)[:, None, None, None] * x_t + self.gain * self.out(torch.sin(3 * h))


@pytest.fixture(scope="session")
def linear() -> NoiseSchedule:
    return NoiseSchedule()


@pytest.fixture
def gaussian(linear: NoiseSchedule) -> Gaussian:
    return Gaussian(linear)


@pytest.fixture
def conv() -> Callable[..., NetworkDenoiser]:
    """Makes a denoiser around a small network with fixed weights, nonlinear in everything that it is told."""

    def make(schedule: NoiseSchedule, prediction: str = "eps", gain: float = 0.3) -> NetworkDenoiser:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return NetworkDenoiser(ConvNet(gain), schedule, prediction)

    return make


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Four images, [4, 3, 8, 8], in [-1, 1]."""
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="session")
def noises() -> Tensor:
    """Standard normal noise, [4, 3, 8, 8]."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
