"""How far two sets of images are apart as distributions, by features of a network that judges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from sklearn.decomposition import PCA
from torch import Tensor

from zsem.values.errors import ZsemError

COMPONENTS = 128


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
    need many thousands of images. On EfficientNet-Lite0 features its name is FD-EffLite0. It is not FID, which is
    defined on another network and all its features, and figures of the two cannot be compared.
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
        self._images = 0
        self._sum = torch.zeros(len(self._real[0]), dtype=torch.float64)
        self._products = torch.zeros_like(self._real[1])

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
