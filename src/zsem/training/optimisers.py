"""What steps on networks in the one training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import nn

OptimiserName = Literal["adamw", "sgd"]


class Settings(Protocol):
    """The part of `Loop.Config` that optimisers read."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def betas(self) -> tuple[float, float]: ...

    @property
    def weight_decay(self) -> float: ...


def adamw(config: Settings, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW (1711.05101)."""
    return torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def sgd(config: Settings, network: nn.Module) -> torch.optim.Optimizer:
    """Plain gradient descent, without momentum or decay of weights."""
    return torch.optim.SGD(network.parameters(), lr=config.learning_rate, fused=True)


OPTIMISERS: dict[OptimiserName, Callable[[Settings, nn.Module], torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}
