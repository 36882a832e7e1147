"""What a table says of made images beside real ones: Frechet distance, KID, precision and recall, in one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.metrics.distribution import FrechetDistance
from zsem.metrics.intervals import Interval
from zsem.metrics.kernel import KernelDistance
from zsem.metrics.manifold import PrecisionRecall
from zsem.values.errors import ZsemError

ENOUGH = 1000
"""Images of each kind, from which on figures are worth a place in a table."""


@runtime_checkable
class FeatureNetwork(Protocol):
    """A network whose features tell distributions of images apart, e.g. `EfficientNetLite0` or `InceptionFID`."""

    frechet_name: str
    """What a Frechet distance on its features is called."""
    kid_name: str
    """What KID on them is called."""
    components: int
    """Principal components that the Frechet distance is taken on."""

    def __call__(self, images: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b d"]:
        """Features of images in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class DistributionFigures:
    """What `Distribution` has found."""

    frechet_name: str
    """Name of the Frechet distance: FD-EffLite0, or FID where the network is the Inception of FID."""
    frechet: float
    """The Frechet distance, see `FrechetDistance`; it falls as n grows, so compare it at equal n."""
    frechet_interval: Interval | None
    """Its 95 % bootstrap interval over made images, where resamples were asked for."""
    kid_name: str
    """Name of KID: KID-EffLite0, or KID on Inception."""
    kid: float
    """Mean over random subsets, see `KernelDistance`; n does not bias it."""
    kid_deviation: float
    """Standard deviation over the subsets."""
    precision: float
    """Share of made images that lie among real ones, see `PrecisionRecall`."""
    precision_interval: Interval | None
    """Its 95 % bootstrap interval over made images, where resamples were asked for."""
    recall: float
    """Share of real images that lie among made ones."""
    n: int
    """Number of images that were judged."""
    n_reference: int
    """Number of real images."""
    note: str
    """What keeps the figures out of a table, e.g. that there were few images; else empty."""


class Distribution:
    """Frechet distance, KID, precision and recall of made images against real ones."""

    def __init__(self, network: FeatureNetwork, real: Float[Tensor, "n d"], *, seed: int = 0) -> None:
        """network: gives the features that images are judged by. real: features of the real images, see `features_of`.

        seed: of KID's subsets.

        Raises ZsemError where there are not more real images than the network's components.
        """
        self._network = network
        self._frechet = FrechetDistance(real, components=network.components)
        self._kid = KernelDistance(real, seed=seed)
        self._manifold = PrecisionRecall(real)

    def empty(self) -> Distribution:
        """The same measures with nothing counted; what was found out about the real images is kept."""
        fresh = copy.copy(self)
        fresh._frechet, fresh._kid = self._frechet.empty(), self._kid.empty()
        fresh._manifold = self._manifold.empty()
        return fresh

    def update(self, images: Float[Tensor, "b c h w"]) -> None:
        """Count one batch of made images in [-1, 1]. Raises ZsemError where their features are not finite."""
        features = features_of(self._network, [images])
        for measure in (self._frechet, self._kid, self._manifold):
            measure.update(features)

    def merge(self, other: Distribution) -> None:
        """Add what `other` has counted; `other` stays as it is. Raises ValueError for other real images."""
        self._frechet.merge(other._frechet)
        self._kid.merge(other._kid)
        self._manifold.merge(other._manifold)

    def compute(self, *, resamples: int = 0, seed: int = 0) -> DistributionFigures:
        """The figures over everything counted so far.

        resamples: bootstrap samples for the intervals, 0 for none. seed: of them.

        Raises ValueError for fewer than four images.
        """
        kid, frechet = self._kid.compute(), self._frechet.compute()
        shares = self._manifold.compute(resamples=resamples, seed=seed)
        interval = None
        if resamples:
            interval = self._frechet.interval(torch.from_numpy(self._kid.made), resamples=resamples, seed=seed)
        return DistributionFigures(
            frechet_name=self._network.frechet_name,
            frechet=frechet.distance,
            frechet_interval=interval,
            kid_name=self._network.kid_name,
            kid=kid.distance,
            kid_deviation=kid.deviation,
            precision=shares.precision,
            precision_interval=shares.precision_interval,
            recall=shares.recall,
            n=shares.n,
            n_reference=shares.n_reference,
            note=note_on(shares.n, shares.n_reference, self._network.components),
        )


def note_on(n: int, n_reference: int, components: int) -> str:
    """What keeps figures of so many images out of a table; empty where nothing does."""
    needed = max(ENOUGH, components + 1)  # below that a covariance has no full rank
    if min(n, n_reference) >= needed:
        return ""
    return f"only {n} made and {n_reference} real images: a figure for a table takes {needed} of each"


def features_of(network: FeatureNetwork, batches: Iterable[Float[Tensor, "_ _ _ _"]]) -> Float[Tensor, "n d"]:
    """Features of batches of images in [-1, 1], on the CPU.

    Raises ZsemError where features are not finite, ValueError where there are no images.
    """
    parts = []
    with torch.no_grad():
        for images in batches:
            parts.append(network(images).cpu())
            if not parts[-1].isfinite().all():
                raise ZsemError("an image has features that are not finite numbers; look at the model that made it")
    if not parts:
        raise ValueError("there are no images to take features of")
    return torch.cat(parts)


def judge_distribution(
    reference: Distribution, samples: Iterable[Float[Tensor, "_ _ _ _"]], *, resamples: int = 0, seed: int = 0
) -> DistributionFigures:
    """Figures of one set of made images, which comes in batches in [-1, 1] and is gone through once.

    reference: made from the network and the features of the real images; it stays as it is, for the next set.
    resamples: bootstrap samples for the intervals, 0 for none. seed: of them.

    Raises ZsemError where features are not finite, ValueError for fewer than four images.
    """
    counted = reference.empty()
    for images in samples:
        counted.update(images)
    return counted.compute(resamples=resamples, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One figure over several sets."""

    mean: float
    """Mean over the sets."""
    deviation: float | None
    """Standard deviation over the sets (with n - 1); none of one set."""


@dataclass(frozen=True, kw_only=True)
class DistributionSpread:
    """Figures of several sets of equal size, e.g. made from several seeds."""

    frechet_name: str
    """Name of the Frechet distance."""
    kid_name: str
    """Name of KID."""
    frechet: Spread
    """The Frechet distance."""
    kid: Spread
    """KID, each set's mean over its subsets."""
    precision: Spread
    """Precision."""
    recall: Spread
    """Recall."""
    sets: int
    """Number of sets."""
    n: int
    """Images in each."""
    n_reference: int
    """Number of real images."""
    note: str
    """What keeps the figures out of a table; else empty."""


def over_sets(figures: Sequence[DistributionFigures]) -> DistributionSpread:
    """Mean and deviation of the figures of several sets. Raises ValueError for none, or sets of different kinds."""
    kinds = {(f.frechet_name, f.kid_name, f.n, f.n_reference, f.note) for f in figures}
    if len(kinds) != 1:
        raise ValueError(f"figures of one network and of equal numbers of images have a mean, not {sorted(kinds)}")

    def spread(name: str) -> Spread:
        values = [getattr(f, name) for f in figures]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Spread(mean=float(np.mean(values)), deviation=deviation)

    first = figures[0]
    return DistributionSpread(
        frechet_name=first.frechet_name, kid_name=first.kid_name, sets=len(figures), n=first.n,
        n_reference=first.n_reference, note=first.note,
        frechet=spread("frechet"), kid=spread("kid"), precision=spread("precision"), recall=spread("recall"),
    )  # fmt: skip
