"""What tests of the bottleneck share: small random networks, and one that counts what it is asked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import UNet
from zsem.values.direction import Direction
from zsem.values.draws import normal
from zsem.values.prediction import Condition

SIZE = 16


def make(**settings: Any) -> DiffusionModel:
    classes = settings.pop("num_classes", None)
    net = UNet.Config(
        channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=32,
        num_classes=classes,
    )  # fmt: skip
    config = DiffusionModel.Config(**{"image_size": SIZE, "unet": net, "prediction": "eps"} | settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionModel(config)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def random_model() -> Callable[..., DiffusionModel]:
    """Makes a diffusion model of 16 px that answers something at every layer: zeros would hide mistakes."""
    return make


@pytest.fixture(scope="session")
def model() -> DiffusionModel:
    """One that predicts eps, without conditions."""
    return make()


@pytest.fixture(scope="session")
def model_noise() -> Float[Tensor, "4 3 16 16"]:
    """Standard normal noise of its images' shape."""
    return normal([(1, i) for i in range(4)], (3, SIZE, SIZE))


class Counting:
    """A network in two halves that counts how often each is evaluated."""

    def __init__(self, network: UNet) -> None:
        self.network, self.downs, self.ups = network, 0, 0

    def down(self, x_t: Tensor, t: Tensor, cond: Condition) -> Any:
        self.downs += 1
        return self.network.down(x_t, t, cond)

    def up(self, h: Tensor, context: Any) -> Tensor:
        self.ups += 1
        return self.network.up(h, context)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.up(*self.down(x_t, t, cond))


@pytest.fixture(scope="session")
def counting() -> type[Counting]:
    return Counting


@pytest.fixture(scope="session")
def random_direction() -> Callable[..., Direction]:
    """Makes a direction in h of random numbers, for some timesteps or for all."""

    def make(
        model: DiffusionModel, *, seed: int = 2, timesteps: tuple[float, ...] = (), size: float = 1.0
    ) -> Direction:
        vectors = normal([(seed, i) for i in range(len(timesteps) or 1)], model.bottleneck_shape) * size
        return Direction(
            space="h", vector=vectors if timesteps else vectors[0], unit="one", name="some", model=model.stamp,
            timesteps=timesteps,
        )  # fmt: skip

    return make
