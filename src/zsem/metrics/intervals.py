"""How far a figure may be off because it comes from these images and not from others: the bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest

from zsem.semantics.probes import LEVEL
from zsem.values.draws import generator


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % interval."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


def bootstrap(
    measure: Callable[[Float64[np.ndarray, " n"]], float], n: int, *, resamples: int, seed: int
) -> Float64[np.ndarray, " r"]:
    """The measure of `resamples` sets of n images, drawn from n with replacement (Efron 1979).

    measure: takes how often each image was drawn, float64 [n], n in all.
    """
    rng = generator(seed)
    counts = (np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(resamples))
    return np.array([measure(drawn) for drawn in counts])


def percentiles(samples: Float64[np.ndarray, " r"]) -> Interval:
    """Where the middle 95 % of the samples lie."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def wilson(share: float, n: int) -> Interval:
    """Interval of a share of n (Wilson 1927, eq. 1), which has a width for shares of 0 and 1 too."""
    found = binomtest(round(share * n), n).proportion_ci(confidence_level=LEVEL, method="wilson")
    return Interval(low=float(found.low), high=float(found.high))


def interval_around(figure: float, samples: Float64[np.ndarray, " r"]) -> Interval:
    """The percentile interval, moved so that the samples' mean lies on the figure.

    For biased measures: a resample repeats images, so it is as if there were fewer of them, and where fewer images
    give larger figures its own are too large, often all of them.
    """
    return percentiles(samples - samples.mean() + figure)


def interval_of_mean(values: Float64[np.ndarray, " n"], *, resamples: int, seed: int) -> Interval:
    """Percentile interval of the mean of one value for each image; the order of the images makes no difference."""
    ordered, n = np.sort(values), len(values)
    return percentiles(bootstrap(lambda drawn: float(drawn @ ordered) / n, n, resamples=resamples, seed=seed))
