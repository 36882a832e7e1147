"""Exponential moving average of weights with a power-function profile."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

WIDEST = 0.28  # an average with equal weights has relative width 12^-1/2 = 0.289
SELDOM = 4  # iterations between two updates of the averages that only snapshots are taken of


def power_exponent(sigma_rel: float) -> float:
    """The exponent gamma whose power-function average t^gamma has relative width `sigma_rel` (EDM2, eq. 126)."""
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel is {sigma_rel}; a power-function average needs one between 0 and {WIDEST}")
    roots = np.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2])
    return float(np.max(roots.real))


def decay(iteration: int, sigma_rel: float, since: int = 1) -> float:
    """How much of the average is kept at `iteration` (counted from 1): (1 - since/t)^(gamma + 1) (EDM2, eq. 127).

    since: iterations since the update before. The average forgets the random start, which a fixed .9999 still carries
    after 30,000 iterations. A width of 0 keeps nothing.
    """
    if sigma_rel == 0:
        return 0.0
    return (1 - since / iteration) ** (power_exponent(sigma_rel) + 1)


def steps_since_update(iteration: int) -> int:
    """For averages that need not be updated every iteration: how many have passed since, or 0 where none is due.

    An update goes through all weights once, which costs a hundredth of a step on a CPU.
    """
    if iteration <= SELDOM:
        return 1
    return SELDOM if iteration % SELDOM == 0 else 0


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average <- keep average + (1 - keep) model, for all parameters; buffers are left alone."""
    get_ema_multi_avg_fn(keep)(list(average.parameters()), [p.detach() for p in model.parameters()], None)
