"""What steps on networks in the one training loop."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

OptimiserName = Literal["adamw", "sgd"]


def make_optimiser(
    network: nn.Module, name: OptimiserName, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW (1711.05101), or plain gradient descent, which has neither momentum nor a decay of weights."""
    if name == "sgd":
        return torch.optim.SGD(network.parameters(), lr=learning_rate, fused=True)
    return torch.optim.AdamW(network.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
