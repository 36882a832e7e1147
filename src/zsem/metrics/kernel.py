"""How far two sets of images are apart by a kernel on their features: KID, which few images do not bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from sklearn.metrics.pairwise import polynomial_kernel
from torch import Tensor

from zsem.metrics.collected import Collected
from zsem.values.draws import generator

SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True, kw_only=True)
class KernelFigures:
    """What `KernelDistance` has found."""

    distance: float
    """Mean of the squared distance over subsets; about 0 for equal distributions, and then as often below it."""
    deviation: float
    """Standard deviation of it over subsets, which share images: the figure itself is surer than one subset's."""
    subset_size: int
    """Images of each kind in a subset."""
    n: int
    """Number of images that were judged."""
    n_reference: int
    """Number of real images."""


class KernelDistance(Collected):
    """Kernel distance of the features of real and made images (KID, 1801.01401, section 4).

    The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with the kernel
    k(x, y) = (x . y / d + 1)^3, averaged over random subsets. KID proper is that of Inception's features; on those of
    another network its size means nothing beside published ones.
    """

    def __init__(
        self,
        reference: Float[Tensor, "n d"],
        *,
        subsets: int = SUBSETS,
        subset_size: int = SUBSET_SIZE,
        seed: int = 0,
    ) -> None:
        """reference: features of the real images.

        subsets: how many are drawn. seed: of the draws.
        subset_size: images of each kind in one; at most half of what there is, so that subsets differ.
        """
        super().__init__(reference)
        self._subsets, self._subset_size, self._seed = subsets, subset_size, seed

    def compute(self) -> KernelFigures:
        """The distance over everything counted so far. Raises ValueError for fewer than four images of a kind."""
        real, made = self.real, self.made
        size = min(self._subset_size, len(real) // 2, len(made) // 2)
        if size < 2:
            raise ValueError(f"KID needs four images of each kind, not {len(made)} made and {len(real)} real ones")
        found = []
        for subset in range(self._subsets):
            rng = generator(self._seed, subset)
            x, y = (part[rng.choice(len(part), size, replace=False)] for part in (real, made))
            found.append(squared_mmd(x, y))
        return KernelFigures(
            distance=float(np.mean(found)),
            deviation=float(np.std(found)),
            subset_size=size,
            n=len(made),
            n_reference=len(real),
        )


def squared_mmd(x: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, "n d"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (Gretton et al. 2012, eq. 3).

    Means of k over pairs of different x, and of different y, less twice the mean over pairs of x and y.
    """

    def within(z: np.ndarray) -> float:
        values = polynomial_kernel(z, degree=3, gamma=1 / z.shape[1], coef0=1)
        return float((values.sum() - np.trace(values)) / (len(z) * (len(z) - 1)))

    between = polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1).mean()
    return within(x) + within(y) - 2 * float(between)
