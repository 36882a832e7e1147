"""How many made images look real, and how much of what is real is made: precision and recall by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from zsem.metrics.collected import Collected
from zsem.metrics.intervals import Interval, interval_of_mean
from zsem.values.errors import ZsemError

NEIGHBOURS = 3
WORKING_MEMORY = 256  # MiB for a block of distances


@dataclass(frozen=True, kw_only=True)
class PrecisionRecallFigures:
    """What `PrecisionRecall` has found. Both depend on the numbers of images: compare at equal ones."""

    precision: float
    """Share of made images that lie among the real ones, in [0, 1]: quality."""
    precision_interval: Interval | None
    """Of the precision, over made images, where resamples were asked for."""
    recall: float
    """Share of real images that lie among the made ones, in [0, 1]: variety."""
    n: int
    """Number of images that were judged."""
    n_reference: int
    """Number of real images."""


class PrecisionRecall(Collected):
    """Improved precision and recall (1904.06991, eq. 1 and 2).

    f(x, S) = 1 where some s in S has |x - s| <= |s - NN_k(s, S)|, its distance to its k-th nearest neighbour in S;
    precision is the mean of f(made, real ones), recall that of f(real, made ones).
    """

    def __init__(self, reference: Float[Tensor, "n d"], *, neighbours: int = NEIGHBOURS) -> None:
        """reference: features of the real images. neighbours: the paper's k.

        Raises ZsemError where there are not more real images than neighbours.
        """
        super().__init__(reference)
        if len(reference) <= neighbours:
            raise ZsemError(
                f"precision and recall by {neighbours} neighbours need more real images than that, not {len(reference)}"
            )
        self._neighbours = neighbours
        self._manifold = Manifold(self.real, neighbours)

    def compute(self, *, resamples: int = 0, seed: int = 0) -> PrecisionRecallFigures:
        """The figures over everything counted so far.

        resamples: bootstrap samples for the interval of the precision, 0 for none. seed: of them. Recall has no such
        interval: a resample repeats images, and has less variety for that reason alone.

        Raises ValueError where there are not more made images than neighbours.
        """
        made = self.made
        if len(made) <= self._neighbours:
            raise ValueError(f"{self._neighbours} neighbours need more made images than that, not {len(made)}")
        real_looking = self._manifold.contains(made).astype(np.float64)
        return PrecisionRecallFigures(
            precision=float(real_looking.mean()),
            precision_interval=interval_of_mean(real_looking, resamples=resamples, seed=seed) if resamples else None,
            recall=float(Manifold(made, self._neighbours).contains(self.real).mean()),
            n=len(made),
            n_reference=len(self._reference),
        )


class Manifold:
    """Where images of a set are: in a ball around each of them that reaches to its k-th nearest neighbour."""

    def __init__(self, features: Float64[np.ndarray, "n d"], neighbours: int) -> None:
        self._features = features
        nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(features)
        self._radii = nearest.kneighbors()[0][:, -1]  # of the set's own members, themselves left out

    def contains(self, points: Float64[np.ndarray, "m d"]) -> Bool[np.ndarray, " m"]:
        """Whether each point lies in some ball."""
        blocks = pairwise_distances_chunked(
            points,
            self._features,
            reduce_func=lambda distances, start: (distances <= self._radii).any(1),
            working_memory=WORKING_MEMORY,
        )
        return np.concatenate(list(blocks))
