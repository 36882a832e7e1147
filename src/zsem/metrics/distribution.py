"""How far two sets of images are apart as distributions, by features of a network that judges."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.decomposition import PCA
from torch import Tensor

from zsem.metrics.intervals import Interval, bootstrap, interval_around
from zsem.nets.features import EfficientNetLite0
from zsem.values.errors import ZsemError

COMPONENTS = EfficientNetLite0.components


@dataclass(frozen=True, kw_only=True)
class FrechetFigures:
    """What `FrechetDistance` has found."""

    distance: float
    """Squared Frechet distance of the Gaussians; 0 for equal means and covariances. It falls as n grows."""
    n: int
    """Number of images that were judged."""
    n_reference: int
    """Number of real images."""


class FrechetDistance:
    """Frechet distance between Gaussians fitted to features of real and of made images (FID, 1706.08500, eq. 6).

    It is taken on the first 128 principal components of the real features, because a covariance of all features would
    need many thousands of images. On EfficientNet-Lite0 features its name is FD-EffLite0. FID is the distance on all
    2,048 features of one Inception network, and figures of the two cannot be compared.
    """

    def __init__(self, reference: Float[Tensor, "n d"], *, components: int = COMPONENTS) -> None:
        """reference: features of the real images. Raises ZsemError where they are not more than the components."""
        if len(reference) <= components:
            raise ZsemError(
                f"a Frechet distance on {components} components needs more real images than that, not {len(reference)}"
            )
        features = reference.detach().cpu().double().numpy()
        # the solver that is exact and does not depend on a seed
        pca = PCA(min(components, features.shape[1]), svd_solver="full").fit(features)
        self._centre, self._basis = (torch.from_numpy(np.asarray(part)) for part in (pca.mean_, pca.components_))
        self._n_reference = len(features)
        self._real = moments(self._project(reference))
        self._forget()

    def empty(self) -> FrechetDistance:
        """The same measure with nothing counted; components and moments of the real images are kept."""
        fresh = copy.copy(self)
        fresh._forget()
        return fresh

    def _forget(self) -> None:
        self._images = 0
        self._sum, self._products = (torch.zeros_like(part) for part in self._real)

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Count features of one batch of made images."""
        projected = self._project(features)
        self._images += len(projected)
        self._sum += projected.sum(0)
        self._products += projected.mT @ projected

    def merge(self, other: FrechetDistance) -> None:
        """Add what `other` has counted; `other` stays as it is. Raises ValueError for another reference."""
        if not (torch.equal(self._centre, other._centre) and torch.equal(self._basis, other._basis)):
            raise ValueError("distances to different real images cannot be merged")
        self._images += other._images
        self._sum += other._sum
        self._products += other._products

    def compute(self) -> FrechetFigures:
        """The distance over everything counted so far. Raises ValueError for fewer than two images."""
        n = self._images
        if n < 2:
            raise ValueError(f"a covariance needs two images, and {n} have been counted")
        mean = self._sum / n
        # components are centred on the real images, so this difference of products loses few digits
        covariance = (self._products - n * mean.outer(mean)) / (n - 1)
        distance = frechet_distance(mean, covariance, *self._real)
        return FrechetFigures(distance=distance, n=n, n_reference=self._n_reference)

    def interval(self, features: Float[Tensor, "n d"], *, resamples: int, seed: int) -> Interval:
        """95 % interval of the distance over made images, whose features are given again: counting kept only sums.

        resamples: bootstrap samples; one takes some 10 ms on 128 components, and seconds on 2,048. seed: of them.

        It tells how the figure varies among sets of n made images, and stands around the figure at that n.
        """
        x = self._project(features)
        n = len(x)

        def distance(drawn: np.ndarray) -> float:
            times = torch.from_numpy(drawn)
            mean = times @ x / n
            centred = x - mean
            covariance = (times[:, None] * centred).mT @ centred / (n - 1)
            return frechet_distance(mean, covariance, *self._real)

        samples = bootstrap(distance, n, resamples=resamples, seed=seed)
        return interval_around(distance(np.ones(n)), samples)

    def _project(self, features: Tensor) -> Tensor:
        return (features.detach().cpu().double() - self._centre) @ self._basis.mT


def moments(x: Float64[Tensor, "n d"]) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "d d"]]:
    """Mean and (unbiased) covariance over the rows."""
    return x.mean(0), torch.atleast_2d(torch.cov(x.mT))


def frechet_distance(
    mean_1: Float64[Tensor, " d"],
    covariance_1: Float64[Tensor, "d d"],
    mean_2: Float64[Tensor, " d"],
    covariance_2: Float64[Tensor, "d d"],
) -> float:
    """Squared Frechet distance of two Gaussians (Dowson and Landau 1982, eq. 4).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2); the roots go through eigenvalues of symmetric
    matrices, so singular covariances are allowed.
    """
    values, vectors = torch.linalg.eigh(covariance_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    shared = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    squared = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace() - 2 * shared
    return max(0.0, float(squared))
