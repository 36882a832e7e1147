"""How different aligned images look on average, by a perceptual distance such as ST-LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.metrics.intervals import Interval, interval_of_mean
from zsem.semantics.probes import RESAMPLES

Distance = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images in [-1, 1], [b, c, h, w], to a distance for each pair, [b]."""


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """What `PairDistance` has found."""

    distance: float
    """Mean over the pairs."""
    interval: Interval
    """Its 95 % bootstrap interval over pairs."""
    n: int
    """Number of pairs."""


class PairDistance:
    """Mean distance of aligned pairs, (1/n) sum_i d(x_i, y_i): e.g. of what two numbers of steps make of one x_T.

    With samples of one x_T at different step counts it is the consistency of a sampler (DDIM, 2010.02502,
    section 5.2).
    """

    def __init__(self, distance: Distance) -> None:
        """distance: of two batches, e.g. `load_stlpips()`."""
        self._distance = distance
        self._values: list[float] = []

    def update(self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]) -> None:
        """Count one batch of pairs, images in [-1, 1]."""
        with torch.no_grad():
            self._values += self._distance(x, y).tolist()

    def merge(self, other: PairDistance) -> None:
        """Add what `other` has counted; `other` stays as it is."""
        self._values += other._values

    def compute(self, *, resamples: int = RESAMPLES, seed: int = 0) -> PairFigures:
        """Mean and interval over everything counted so far; the order of pairs makes no difference.

        resamples: bootstrap samples. seed: of them.

        Raises ValueError where nothing has been counted.
        """
        if not self._values:
            raise ValueError("no pairs have been counted yet")
        values = np.sort(np.array(self._values))
        return PairFigures(
            distance=float(values.mean()),
            interval=interval_of_mean(values, resamples=resamples, seed=seed),
            n=len(values),
        )


def mean_distance(
    distance: Distance,
    x: Float[Tensor, "n c h w"],
    y: Float[Tensor, "n c h w"],
    *,
    batch_size: int = 16,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairFigures:
    """Mean distance of n aligned pairs of images in [-1, 1], see `PairDistance`."""
    pairs = PairDistance(distance)
    for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True):
        pairs.update(a, b)
    return pairs.compute(resamples=resamples, seed=seed)
