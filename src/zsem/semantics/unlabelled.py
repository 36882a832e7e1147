"""Learning from positive and unlabelled codes, without a single negative one: Elkan-Noto and non-negative PU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.optimize import brentq, minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from zsem.values.draws import generator

Rows = Float64[np.ndarray, "n d"]
OtherRows = Float64[np.ndarray, "m d"]

FOLDS = 3
C_GRID = tuple(10.0**k for k in range(-3, 2))
"""Inverse strengths of the logistic penalty, on the sum of losses."""
PENALTY_GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Strengths of non-negative PU's penalty, on mean losses; with weaker ones the bound is all that holds a fit."""
FOLD_DRAW = 3  # the last integer of a draw's name: what the draw is for
LEAST_SHARE = 1e-3  # of the negative risk's gradient that is kept


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear function of codes, a logit: weight . code + intercept."""

    weight: Float64[np.ndarray, " d"]
    intercept: float
    penalty: float
    """the penalty that cross-validation chose: scikit-learn's C, or the strength for non-negative PU"""

    def __call__(self, codes: Rows) -> Float64[np.ndarray, " n"]:
        return codes @ self.weight + self.intercept


def labelled_or_not(positive: Rows, unlabelled: OtherRows, *, seed: int = 0) -> tuple[Linear, float]:
    """The logit of p(labelled | code), as if unlabelled codes were negative, and Elkan and Noto's c.

    c = p(labelled | positive), the mean of p(labelled | code) over positive codes that it was not fitted to (Elkan and
    Noto 2008, section 2, e1). It is exact where positives can be told without doubt, and too small where they cannot.
    """
    x = np.concatenate([positive, unlabelled])
    y = np.repeat([1, 0], [len(positive), len(unlabelled)])
    folds = StratifiedKFold(min(FOLDS, len(positive), len(unlabelled)), shuffle=True, random_state=seed)
    parts = list(folds.split(x, y))
    best, least, c = C_GRID[0], np.inf, 1.0
    for strength in C_GRID:
        logits = np.empty(len(y))
        for train, test in parts:
            logits[test] = _logistic(x[train], y[train], strength)(x[test])
        loss = float(np.logaddexp(0, np.where(y == 1, -logits, logits)).mean())
        if loss < least:
            best, least, c = strength, loss, float(expit(logits[y == 1]).mean())
    return _logistic(x, y, best), c


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> Linear:
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(x, y)
    return Linear(weight=fitted.coef_[0], intercept=float(fitted.intercept_[0]), penalty=strength)


def class_prior_of(c: float, positives: int, unlabelled: int) -> float:
    """The share of positives among unlabelled codes where a share c of all positives is labelled."""
    return (1 - c) / c * positives / unlabelled


def frequency_of(class_prior: float, positives: int, unlabelled: int) -> float:
    """Elkan and Noto's c where that share is known."""
    return positives / (positives + class_prior * unlabelled)


def non_negative(positive: Rows, unlabelled: OtherRows, class_prior: float, *, seed: int = 0) -> Linear:
    """The logit of p(positive | code) that minimises the non-negative risk and an L2 penalty on the weight.

    class_prior: share of positives among unlabelled codes. The penalty is chosen by the risk of other folds.
    """
    number = min(FOLDS, len(positive), len(unlabelled))
    rng = generator(seed, FOLD_DRAW)
    fold_of = [rng.permutation(len(part)) % number for part in (positive, unlabelled)]

    def held_out(penalty: float) -> float:
        risks = []
        for fold in range(number):
            own, other = (folds == fold for folds in fold_of)
            found = _minimise(positive[~own], unlabelled[~other], class_prior, penalty)
            risks.append(non_negative_risk(found(positive[own]), found(unlabelled[other]), class_prior))
        return float(np.mean(risks))

    return _minimise(positive, unlabelled, class_prior, min(PENALTY_GRID, key=held_out))


def non_negative_risk(
    positive: Float64[np.ndarray, " n"], unlabelled: Float64[np.ndarray, " m"], class_prior: float
) -> float:
    """pi R_p+ + max(0, R_u- - pi R_p-) of logits, with the logistic loss (Kiryo et al. 2017, eq. 6).

    R_p+ and R_p- are the mean losses of positive codes as positives and as negatives, R_u- that of unlabelled ones as
    negatives. The last term estimates the risk of negative codes, and without the bound a fit can make it negative.
    """
    return class_prior * float(np.logaddexp(0, -positive).mean()) + max(
        0.0, _negative_risk(positive, unlabelled, class_prior)
    )


def _negative_risk(positive: np.ndarray, unlabelled: np.ndarray, class_prior: float) -> float:
    return float(np.logaddexp(0, unlabelled).mean() - class_prior * np.logaddexp(0, positive).mean())


def _minimise(positive: np.ndarray, unlabelled: np.ndarray, class_prior: float, penalty: float) -> Linear:
    """The minimiser of the non-negative risk, exactly, in place of Kiryo's stochastic steps.

    With the logistic loss and a linear logit the risk is the larger of two convex functions: pi R_p+, and that with
    the estimated negative risk N added. Its minimiser is that of pi R_p+ + share N, where the share is 1 if N is not
    below 0 there, and else the one at which N is 0.
    """
    width = positive.shape[1]

    def solve(share: float, start: np.ndarray) -> np.ndarray:
        def risk(w: np.ndarray) -> tuple[float, np.ndarray]:
            p, u = (codes @ w[:width] + w[width] for codes in (positive, unlabelled))
            value = class_prior * np.logaddexp(0, -p).mean() + share * _negative_risk(p, u, class_prior)
            at_p = -class_prior * (expit(-p) + share * expit(p)) / len(p)
            at_u = share * expit(u) / len(u)
            slope = np.append(at_p @ positive + at_u @ unlabelled + penalty * w[:width], at_p.sum() + at_u.sum())
            return float(value + penalty / 2 * w[:width] @ w[:width]), slope

        return np.asarray(
            minimize(risk, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-7}).x
        )

    def negative(w: np.ndarray) -> float:
        p, u = (codes @ w[:width] + w[width] for codes in (positive, unlabelled))
        return _negative_risk(p, u, class_prior)

    found = solve(1.0, np.append(np.zeros(width), np.log(class_prior / (1 - class_prior))))
    if negative(found) < 0:
        start, share = found, LEAST_SHARE
        if negative(solve(share, start)) > 0:
            root: Any = brentq(lambda share: negative(solve(share, start)), LEAST_SHARE, 1.0, xtol=1e-6)
            share = float(root)  # Any: scipy's types know its other answer too
        found = solve(share, start)
    return Linear(weight=found[:width], intercept=float(found[width]), penalty=penalty)
