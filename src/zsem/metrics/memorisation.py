"""Whether made images are copies of training images: how near they come to them, beside how near held-out images do."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from zsem.metrics.intervals import Interval, bootstrap, percentiles
from zsem.semantics.probes import RESAMPLES
from zsem.values.errors import ZsemError

NEAR = 0.01
"""Share of held-out images that count as suspiciously near to a training image: what is usual for new images."""
SHOWN = 8
"""Pairs that a report shows."""


@dataclass(frozen=True, kw_only=True)
class NearestPair:
    """A made image and the training image that is nearest to it."""

    made: int
    """Number of the made image, in the order in which they were counted."""
    training: int
    """Number of the training image, in the order of the features given."""
    ratio: float
    """Their distance over the mean distance of held-out images to their nearest; 0 for a copy."""


@dataclass(frozen=True, kw_only=True)
class MemorisationFigures:
    """What `Memorisation` has found."""

    ratio: float
    """Mean distance of made images to their nearest training image over that of held-out ones: 1 for new images of the
    same kind, 0 for copies, above 1 also for images that are unlike all real ones."""
    interval: Interval
    """Its 95 % bootstrap interval over made and held-out images."""
    near: float
    """Share of made images nearer to a training image than all but 1 % of the held-out ones are: .01 for new images."""
    near_interval: Interval
    """Its 95 % bootstrap interval over made images."""
    pairs: tuple[NearestPair, ...]
    """The nearest pairs, nearest first."""
    n: int
    """Number of made images."""
    n_training: int
    """Number of training images."""
    n_held_out: int
    """Number of held-out images."""


class Memorisation:
    """Nearest-neighbour ratio of made images, in any space of features, or in pixels ([n, c, h, w] flattened).

    The distance to the nearest of the training images says little alone: it depends on the space and on how many there
    are. Held-out images, which cannot be copies, tell what is usual. Where training mirrored its images, give the
    mirrored ones too. A ratio near 1 can hide a few copies; `near` and the pairs tell them.
    """

    def __init__(self, training: Float[Tensor, "n d"], held_out: Float[Tensor, "m d"]) -> None:
        """Features of the images that the model was trained on, and of others of the same kind.

        Raises ZsemError where there are none of either, or where all held-out images are among the training images.
        """
        if not len(training) or not len(held_out):
            raise ZsemError("copies are told from new images by training and by held-out images: give some of both")
        self._training = training.detach().cpu().numpy()
        self._nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(self._training)
        self._usual = np.sort(self._find(held_out)[0])
        if not self._usual[-1]:
            raise ZsemError("every held-out image is a training image: hold out others, or none can be called new")
        self._forget()

    def empty(self) -> Memorisation:
        """The same measure with nothing counted; what was found out about the real images is kept."""
        fresh = copy.copy(self)
        fresh._forget()
        return fresh

    def _forget(self) -> None:
        self._distances: Float64[np.ndarray, " k"] = np.empty(0)
        self._indices: Int64[np.ndarray, " k"] = np.empty(0, dtype=np.int64)

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Count features of one batch of made images."""
        distances, indices = self._find(features)
        self._distances = np.concatenate([self._distances, distances])
        self._indices = np.concatenate([self._indices, indices])

    def merge(self, other: Memorisation) -> None:
        """Add what `other` has counted, after one's own; `other` stays as it is. ValueError: other real images."""
        if not np.array_equal(self._training, other._training) or not np.array_equal(self._usual, other._usual):
            raise ValueError("measures against different real images cannot be merged")
        self._distances = np.concatenate([self._distances, other._distances])
        self._indices = np.concatenate([self._indices, other._indices])

    def compute(self, *, resamples: int = RESAMPLES, seed: int = 0, shown: int = SHOWN) -> MemorisationFigures:
        """The figures over everything counted so far; the order of the images makes no difference to them.

        resamples: bootstrap samples of the intervals. seed: of them. shown: pairs to name at most.

        Raises ValueError where nothing has been counted.
        """
        n = len(self._distances)
        if not n:
            raise ValueError("no images have been counted yet")
        made, usual = np.sort(self._distances), self._usual
        threshold = np.quantile(usual, NEAR)
        near = (made < threshold).astype(np.float64)

        def means(values: np.ndarray, which: int) -> np.ndarray:
            number = len(values)
            return bootstrap(lambda drawn: float(drawn @ values) / number, number, resamples=resamples, seed=which)

        # one seed for both would pair the draws of two independent sets
        ratios = means(made, 2 * seed) / np.maximum(means(usual, 2 * seed + 1), np.finfo(np.float64).tiny)
        order = np.argsort(self._distances, kind="stable")[:shown]
        return MemorisationFigures(
            ratio=float(made.mean() / usual.mean()),
            interval=percentiles(ratios),
            near=float(near.mean()),
            near_interval=percentiles(means(near, 2 * seed)),
            pairs=tuple(
                NearestPair(
                    made=int(i), training=int(self._indices[i]), ratio=float(self._distances[i] / usual.mean())
                )
                for i in order
            ),
            n=n,
            n_training=len(self._training),
            n_held_out=len(usual),
        )  # fmt: skip

    def _find(self, features: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the nearest training image, and its number."""
        rows = features.detach().cpu().numpy().astype(self._training.dtype, copy=False)
        if not len(rows):
            return np.empty(0), np.empty(0, dtype=np.int64)
        indices = self._nearest.kneighbors(rows, return_distance=False)[:, 0].astype(np.int64)
        # from the difference itself: by way of products, copies would lie apart by rounding
        gaps = (rows - self._training[indices]).astype(np.float64)
        return np.linalg.norm(gaps, axis=1), indices
