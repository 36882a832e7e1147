"""Fitting a Gaussian mixture to codes of many numbers: what few codes cannot tell is left out, as others judge it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from zsem.values import draws
from zsem.values.errors import ZsemError

LEAST = 10  # codes
RANKS = (16, 64, 128)
COMPONENTS = (1, 2, 4, 8, 16, 32)
ROWS_EACH = 10  # codes per component at least
SHRINKAGE = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
ROUNDS = 10  # of expectation and maximisation: in many dimensions they hardly move anything after that
LOADING = 0.1  # added to covariances meanwhile, without which components shrink to single codes
FLOOR = 1e-6  # of the mean variance: the least that a direction without any variance has
SPLIT_DRAW, START_DRAW = 1, 2  # the last integer of a draw's name: what the draw is for
LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A mixture of whitened principal components x = (z @ basis) / scales of normalised z.

    basis: orthonormal columns, [d, d]. scales: standard deviations along them, [d].
    weights, means, factors: of the mixture of the leading numbers of x, with lower Cholesky factors of covariances;
        [k], [k, r], [k, r, r].
    chosen: what was chosen, and the held-out log-likelihoods per code that decided, JSON-able.
    """

    basis: Float64[np.ndarray, "d d"]
    scales: Float64[np.ndarray, " d"]
    weights: Float64[np.ndarray, " k"]
    means: Float64[np.ndarray, "k r"]
    factors: Float64[np.ndarray, "k r r"]
    chosen: Mapping[str, Any] = field(default_factory=dict)


def fit_mixture(z: Float[np.ndarray, "n d"], *, seed: int = 0) -> Fitted:
    """A Gaussian mixture of normalised codes, chosen by the likelihood of a tenth of them that it is not fitted to.

    Chosen are, one after the other: how many principal components have a variance of their own (the others share
    theirs, where codes are few for their length); how many of them the mixture is of; how many Gaussians it has; and
    how far the covariance of each is shrunk towards that of all codes.
    Raises ZsemError for fewer than 10 codes, or such that are not finite.
    """
    if len(z) < LEAST or not np.isfinite(z).all():
        raise ZsemError(f"a mixture needs at least {LEAST} finite codes, and there are {np.isfinite(z).all(1).sum()}")
    order = draws.generator(seed, SPLIT_DRAW).permutation(len(z))
    held_out, training = np.split(z[order], [max(2, len(z) // 10)])
    basis, scales, kept = whitening(training, held_out)
    x, y = training @ basis / scales, held_out @ basis / scales
    single = gaussian_log_prob(y).mean() - np.log(scales).sum()
    best, gain, tried = one_gaussian(x.shape[1]), 0.0, {}
    for rank in sorted({min(rank, kept) for rank in RANKS}):
        found, gains = mixtures(x[:, :rank], y[:, :rank], seed)
        tried[str(rank)] = gains
        if max(gains.values(), default=0.0) > gain:
            best, gain = found, max(gains.values())
    weights, means, factors = best
    chosen = {
        "components": len(weights), "rank": means.shape[1], "own_variances": kept, "codes": len(training),
        "held_out": len(held_out), "log_likelihood": float(single + gain), "one_gaussian": float(single),
        "gains": tried,
    }  # fmt: skip
    return Fitted(basis=basis, scales=scales, weights=weights, means=means, factors=factors, chosen=chosen)


Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Weights, means and Cholesky factors."""


def one_gaussian(dims: int) -> Mixture:
    """The standard normal distribution, which whitened codes have where nothing else is known."""
    rank = min(dims, RANKS[0])
    return np.ones(1), np.zeros((1, rank)), np.eye(rank)[None]


def whitening(
    training: Float64[np.ndarray, "n d"], held_out: Float64[np.ndarray, "m d"]
) -> tuple[Float64[np.ndarray, "d d"], Float64[np.ndarray, " d"], int]:
    """Principal components in columns, standard deviations along them, and how many of these are not shared.

    The number is that under which held-out codes are most probable (probabilistic PCA, Tipping and Bishop 1999).
    """
    dims = training.shape[1]
    variances, basis = np.linalg.eigh(training.T @ training / len(training))
    variances, basis = np.maximum(variances[::-1], FLOOR * variances.mean()), np.ascontiguousarray(basis[:, ::-1])
    energy = np.square(held_out @ basis).mean(axis=0)
    most = min(dims, len(training) - 1)
    shared = np.array([variances[kept:].mean() if kept < dims else 1.0 for kept in range(most + 1)])
    own = np.concatenate([[0], np.cumsum(np.log(variances) + energy / variances)])[: most + 1]
    left = np.maximum(energy.sum() - np.concatenate([[0], np.cumsum(energy)])[: most + 1], 0)
    cost = own + (dims - np.arange(most + 1)) * np.log(shared) + left / shared
    kept = int(cost[1:].argmin()) + 1
    variances[kept:] = shared[kept]
    return basis, np.sqrt(variances), kept


def mixtures(
    x: Float64[np.ndarray, "n r"], y: Float64[np.ndarray, "m r"], seed: int
) -> tuple[Mixture, dict[str, float]]:
    """The mixture of x under which y is most probable, and what each number of components gains over one Gaussian.

    More components are tried as long as they gain.
    """
    best, gains, highest = one_gaussian(x.shape[1]), {}, 0.0
    for number in COMPONENTS[1:]:
        if number * ROWS_EACH > len(x):
            break
        found, gain = mixture_of(x, y, number, seed)
        gains[str(number)] = gain
        if gain <= highest:
            break
        best, highest = found, gain
    return best, gains


def mixture_of(
    x: Float64[np.ndarray, "n r"], y: Float64[np.ndarray, "m r"], number: int, seed: int
) -> tuple[Mixture, float]:
    """A mixture of so many Gaussians, its covariances shrunk as y likes it best, and its gain over one Gaussian."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    state = int(draws.generator(seed, START_DRAW).integers(2**31))
    model = GaussianMixture(number, reg_covar=LOADING, max_iter=ROUNDS, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of rounds is meant
        model.fit(x)
    learned: Any = model  # scikit-learn's learned attributes have no types
    weights, means, identity = learned.weights_, learned.means_, np.eye(x.shape[1])
    covariances = learned.covariances_ - LOADING * identity
    base, found = gaussian_log_prob(y).mean(), []
    for share in SHRINKAGE:
        factors = np.linalg.cholesky((1 - share) * covariances + share * identity)
        model.precisions_cholesky_ = np.linalg.inv(factors).transpose(0, 2, 1)
        found.append((float(model.score(y) - base), factors))
    gain, factors = max(found, key=lambda one: one[0])
    return (weights, means, factors), gain


def gaussian_log_prob(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    """log N(x; 0, I)."""
    return -0.5 * (np.square(x).sum(axis=1) + x.shape[1] * LOG_2PI)
