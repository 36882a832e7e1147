"""How long a training is, and how its learning rate goes along."""

from __future__ import annotations

import math

from zsem.values.errors import ZsemError


def time_goal(iterations: int | None, minutes: float | None) -> float:
    """Iterations or seconds, whichever is given; raises ZsemError where it is not one of the two and positive."""
    if (iterations is None) == (minutes is None):
        raise ZsemError("say how long to train: either a number of iterations or of minutes")
    goal = float(iterations or 0) if minutes is None else 60 * minutes
    if goal <= 0:
        raise ZsemError(f"a training must be longer than {goal:g}: give a positive number of iterations or minutes")
    return goal


def rate_factor(iteration: int, share: float, *, warmup: int, decay_share: float | None) -> float:
    """The factor of the peak learning rate after `iteration` iterations and `share` of the training.

    It rises from zero over `warmup` iterations, then falls: along a cosine where `decay_share` is None, else in the
    last `decay_share` of the training alone, linearly.
    """
    warm = min(1.0, (iteration + 1) / max(1, warmup))
    if decay_share is None:
        return warm * 0.5 * (1 + math.cos(math.pi * share))
    return warm * min(1.0, (1 - share) / max(decay_share, 1e-9))
