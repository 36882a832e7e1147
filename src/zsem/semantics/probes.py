"""Linear probes: how well attributes can be read off codes, on images that the probe has not seen.

A probe works on any array [n, d]: normalised z, h, pixels, or the principal components of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from zsem.values.direction import Direction
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

Codes = Float[np.ndarray, "n d"] | Float[Tensor, "n d"]
Labels = Shaped[np.ndarray, " n"] | Shaped[Tensor, " n"]
HeldOutCodes = Float[np.ndarray, "m d"] | Float[Tensor, "m d"]
HeldOutLabels = Shaped[np.ndarray, " m"] | Shaped[Tensor, " m"]

Parts = list[tuple[np.ndarray, np.ndarray]]

C_GRID = tuple(10.0**k for k in range(-4, 3))
"""Inverse strengths of the logistic probe's penalty, among which cross-validation chooses."""

ALPHA_GRID = tuple(10.0**k for k in range(-1, 6))
"""Strengths of the ridge probe's penalty."""

FOLDS = 3
CALIBRATION_FOLDS = 10
"""More of them, because a probe of fewer images is less sure, and would be corrected for what it is not."""
RESAMPLES = 1000
LEVEL = 0.95
BOOTSTRAP_DRAW, PERMUTATION_DRAW = 0, 1  # the last integer of a draw's name: what the draw is for


@dataclass(frozen=True, kw_only=True)
class ProbeFigures:
    """How well scores tell an attribute of held-out images."""

    measure: Literal["auroc", "r2"]
    """auroc for 0/1 attributes, r2 (coefficient of determination) for real ones."""
    score: float
    """The measure: AUROC .5 and R2 0 say nothing, 1 is perfect; R2 may be negative."""
    low: float
    """Lower end of the 95 % bootstrap interval over held-out images."""
    high: float
    """Upper end of it."""
    p: float
    """Permutation p-value: chance that scores without any relation to the labels do as well."""
    n: int
    """Held-out images with a label."""


class Probe(BaseEstimator):
    """A linear probe for one attribute: logistic regression for 0/1 labels, ridge regression for real ones.

    Both work on standardised codes with an L2 penalty that is chosen by cross-validation on the training images.

    binary_: whether the labels were 0/1.
    coef_, intercept_: the linear function in units of the given codes, not of the standardised ones, [d] and scalar:
        a logit for 0/1 labels, the value itself for real ones.
    penalty_: the chosen C (logistic) or alpha (ridge) of scikit-learn.
    """

    binary_: bool
    coef_: np.ndarray
    intercept_: float
    penalty_: float

    def __init__(self, *, C: float | None = None, seed: int = 0) -> None:
        """C: inverse strength of the logistic penalty, in place of cross-validation. seed: of the folds."""
        self.C = C
        self.seed = seed

    def fit(self, codes: Codes, labels: Labels, groups: Sequence[str] | None = None) -> Probe:
        """Fit to training images; those with the label NaN are left out.

        groups: what belongs together ("" = nothing): no fold of the cross-validation divides it.
        Raises ZsemError where fewer than two images have a label, two of each kind for 0/1 attributes.
        """
        x, y = labelled(codes, labels)
        self.binary_ = is_binary(y)
        few = np.bincount(y.astype(int), minlength=2).min() if self.binary_ else len(y)
        if few < 2:
            kind = "images with 0 and two with 1" if self.binary_ else "training images with a label"
            raise ZsemError(f"a probe needs at least two {kind}: give more images, or leave this attribute out")
        mean, scale = x.mean(0), x.std(0)
        scale[scale == 0] = 1
        x = (x - mean) / scale
        x, back = in_row_space(x)
        members = _known(labels, groups)
        # Any: scikit-learn's learned attributes have no types
        fitted: Any = None
        if self.binary_:
            fitted = self._logistic(x, y, members)
        else:
            fitted = RidgeCV(ALPHA_GRID, cv=self._folds(y, members)).fit(x, y)
        self.penalty_ = float(fitted.C if self.binary_ else fitted.alpha_)
        self.coef_ = back(fitted.coef_.reshape(-1)) / scale
        self.intercept_ = float(np.asarray(fitted.intercept_).reshape(-1)[0] - self.coef_ @ mean)
        return self

    def _logistic(self, x: np.ndarray, y: np.ndarray, members: np.ndarray | None) -> Any:
        if self.C is not None:
            return LogisticRegression(C=self.C, max_iter=1000).fit(x, y)
        parts = self._folds(y, members)
        search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": C_GRID}, scoring="neg_log_loss", cv=parts)
        return search.fit(x, y).best_estimator_

    def _folds(self, y: np.ndarray, groups: np.ndarray | None, most: int = FOLDS) -> Parts | None:
        """Training and test images of every fold; None for real values without groups: one fold for every image."""
        if not self.binary_:
            if groups is None:
                return None
            number = min(most, len(np.unique(groups)))
            return list(GroupKFold(number).split(y, y, groups)) if number > 1 else None
        if groups is None:
            folds = StratifiedKFold(min(most, np.bincount(y.astype(int)).min()), shuffle=True, random_state=self.seed)
            return list(folds.split(y, y))
        number = min(len(np.unique(groups[y == kind])) for kind in (0, 1))
        if number < 2:
            raise ZsemError("a probe needs images with 0 and with 1 from at least two groups each: give more of them")
        folds = StratifiedGroupKFold(min(most, number), shuffle=True, random_state=self.seed)
        # groups may be so unequal that a fold has one kind of label alone
        parts = [part for part in folds.split(y, y, groups) if all(len(np.unique(y[rows])) == 2 for rows in part)]
        if not parts:
            raise ZsemError("its groups cannot be divided into folds that each have both labels: give more groups")
        return parts

    def calibrated(self, codes: Codes, labels: Labels, groups: Sequence[str] | None = None) -> Probe:
        """This probe with its logits rescaled and shifted (Platt 1999) to say how sure it is of images it has not seen.

        codes, labels, groups: those that it was fitted to; its penalty is used in folds. Probes of real values, and
        such that tell nothing about the other folds, are returned as they are.
        """
        if not self.binary_:
            return self
        x, y = labelled(codes, labels)
        scores, kinds = [], []
        for train, test in self._folds(y, _known(labels, groups), CALIBRATION_FOLDS) or []:
            if np.bincount(y[train].astype(int), minlength=2).min() > 1:
                scores.append(Probe(C=self.penalty_).fit(x[train], y[train]).decision_function(x[test]))
                kinds.append(y[test])
        if not scores:
            return self
        score, kind = np.concatenate(scores)[:, None], np.concatenate(kinds)
        # Platt's targets, not quite 0 and 1, so that labels that are told without an error do not ask for infinity
        sure = np.array([1 - 1 / ((kind == 0).sum() + 2), 1 - 1 / ((kind == 1).sum() + 2)])[kind.astype(int)]
        line: Any = LogisticRegression(C=1e6, max_iter=1000).fit(
            np.concatenate([score, score]), np.concatenate([kind, 1 - kind]), np.concatenate([sure, 1 - sure])
        )
        slope, offset = float(line.coef_[0, 0]), float(line.intercept_[0])
        if slope <= 0:
            return self
        other = Probe(C=self.C, seed=self.seed)
        other.binary_, other.penalty_ = True, self.penalty_
        other.coef_, other.intercept_ = self.coef_ * slope, self.intercept_ * slope + offset
        return other

    def decision_function(self, codes: Codes) -> Float[np.ndarray, " n"]:
        """The linear function of codes: logits for 0/1 attributes, values for real ones."""
        return to_float64(codes) @ self.coef_ + self.intercept_

    def predict(self, codes: Codes) -> Float[np.ndarray, " n"]:
        """Probability of 1 for 0/1 attributes, the value for real ones."""
        scores = self.decision_function(codes)
        return 0.5 * (1 + np.tanh(scores / 2)) if self.binary_ else scores

    def judge(
        self,
        codes: Codes,
        labels: Labels,
        *,
        groups: Sequence[str] | None = None,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> ProbeFigures:
        """Figures on held-out images, see `judge_scores`."""
        scores = self.decision_function(codes)
        return judge_scores(scores, labels, self.binary_, groups=groups, resamples=resamples, seed=seed)

    def direction(self, name: str, *, space: str = "z", model: str = "") -> Direction:
        """The probe's gradient as a direction (DiffAE, section 5.1); an amount of 1 changes its score by 1.

        name: of the attribute. space, model: of the codes that the probe was fitted on.
        Raises ZsemError where the probe has no gradient: it found nothing.
        """
        slope = float(self.coef_ @ self.coef_)
        if slope == 0:
            raise ZsemError(f"the probe of {name} is the same for all codes, so it has no direction")
        return Direction(
            space=space, vector=torch.from_numpy(self.coef_ / slope).float(), name=name, model=model,
            unit=f"logit of {name}" if self.binary_ else f"unit of {name}", slope=slope, intercept=self.intercept_,
        )  # fmt: skip


def probe_attributes(
    train_codes: Codes,
    train_labels: Mapping[str, Labels],
    test_codes: HeldOutCodes,
    test_labels: Mapping[str, HeldOutLabels],
    *,
    train_groups: Sequence[str] | None = None,
    test_groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Probe, ProbeFigures]]:
    """A fitted probe and its held-out figures for every attribute of `train_labels`.

    train_groups, test_groups: what belongs together among the images, see `Probe.fit` and `judge_scores`.
    Raises ZsemError, which names the attribute, where it cannot be learned or judged.
    """
    found = {}
    for name, labels in train_labels.items():
        try:
            probe = Probe(seed=seed).fit(train_codes, labels, train_groups)
            found[name] = (
                probe,
                probe.judge(test_codes, test_labels[name], groups=test_groups, resamples=resamples, seed=seed),
            )
        except ZsemError as error:
            raise ZsemError(f"attribute {name}: {error}") from None
    return found


def judge_scores(
    scores: Float[np.ndarray, " n"] | Float[Tensor, " n"],
    labels: Labels,
    binary: bool,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ProbeFigures:
    """AUROC (0/1 labels) or R2 (real ones) of any scores, with interval and p-value; the label NaN is left out.

    groups: what belongs together ("" = nothing). Groups are then what is drawn and what is permuted, not images: those
        of one patient are not independent.
    resamples: bootstrap samples of the images (percentile interval), and permutations of the labels.
    Raises ZsemError where the measure does not exist: one kind of label only, or no image with a label.
    """
    labels = to_float64(labels)
    known = ~np.isnan(labels)
    scores, labels = to_float64(scores)[known], labels[known]
    if len(np.unique(labels)) < 2:
        raise ZsemError("its held-out images all have one label or none: give more images, or leave it out")
    measure = auroc if binary else r2
    score = measure(scores, labels)
    member = group_numbers(groups, known)
    number = int(member.max()) + 1
    rng = generator(seed, BOOTSTRAP_DRAW)
    samples = [
        measure(scores, labels, np.bincount(rng.integers(number, size=number), minlength=number)[member].astype(float))
        for _ in range(resamples)
    ]
    rng = generator(seed, PERMUTATION_DRAW)
    chance = np.array([measure(scores, shuffled(labels, member, rng)) for _ in range(resamples)])
    # samples without one of the two kinds have no AUROC
    low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return ProbeFigures(
        measure="auroc" if binary else "r2",
        score=score,
        low=float(low),
        high=float(high),
        p=float((1 + (chance >= score).sum()) / (1 + resamples)),
        n=len(labels),
    )


def auroc(
    scores: Float[np.ndarray, " n"],
    labels: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Chance that an image with label 1 scores above one with label 0, ties half; NaN where a kind has no weight."""
    weights = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(scores)
    first = np.flatnonzero(np.diff(scores[order], prepend=np.nan))  # of every group of equal scores
    positive = np.add.reduceat((weights * labels)[order], first)
    negative = np.add.reduceat((weights * (1 - labels))[order], first)
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / pairs) if pairs else float("nan")


def r2(
    scores: Float[np.ndarray, " n"],
    labels: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> float:
    """Share of the labels' variance that the scores explain; NaN where the labels do not vary."""
    weights = np.ones(len(scores)) if weights is None else weights
    spread = weights @ (labels - weights @ labels / weights.sum()) ** 2
    return float(1 - weights @ (labels - scores) ** 2 / spread) if spread else float("nan")


def pca_baseline(
    train_pixels: Shaped[Tensor, "n ..."],
    test_pixels: Shaped[Tensor, "m ..."],
    dims: int,
    *,
    unlabelled: Shaped[Tensor, "k ..."] | None = None,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Principal components of pixels, fitted to the training images: codes without any learning, for the same probe.

    dims: how many, as many as the codes that they are compared with.
    unlabelled: training images that components are fitted to instead, which need no labels.
    Raises ZsemError where there are fewer of those, or fewer pixels, than components.
    """
    sets = train_pixels, test_pixels, train_pixels if unlabelled is None else unlabelled
    train, test, fitted = (np.asarray(pixels, dtype=np.float32).reshape(len(pixels), -1) for pixels in sets)
    if dims > min(fitted.shape):
        raise ZsemError(f"{dims} principal components need as many training images and pixels, not {min(fitted.shape)}")
    pca = PCA(dims, svd_solver="randomized", random_state=seed).fit(fitted)
    return pca.transform(train), pca.transform(test)


def in_row_space(
    x: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n k"], Callable[[np.ndarray], np.ndarray]]:
    """The same codes in as few numbers as there are codes, and how weights [k] of those become weights [d].

    Weights with an L2 penalty never leave the span of the codes, so that nothing is lost, and fitting to 12,000 pixels
    of 1,000 images is ten times quicker. Codes with fewer numbers than there are of them come back as they are.
    """
    number, dims = x.shape
    if dims <= number or not x.any():
        return x, lambda weights: weights
    values, vectors = np.linalg.eigh(x @ x.T)
    there = values > values.max() * number * np.finfo(x.dtype).eps
    sizes, vectors = np.sqrt(values[there]), vectors[:, there]
    return vectors * sizes, lambda weights: x.T @ (vectors @ (weights / sizes))


def group_numbers(groups: Sequence[str] | None, chosen: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Numbers 0, 1, .. of the groups of the `chosen` images (bool), in any order; without a group each has its own."""
    if not groups:
        return np.arange(chosen.sum())
    names = [group or (place,) for place, group in enumerate(groups) if chosen[place]]
    number: dict[Any, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=np.int64)


def shuffled(
    labels: Float[np.ndarray, " n"], member: Int64[np.ndarray, " n"], rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """Labels in another order in which those of one group stay side by side, group by group as images are counted.

    Groups of different sizes get parts of others' labels, so that what images of a group share stays mostly shared.
    """
    number = int(member.max()) + 1
    if number == len(labels):
        return rng.permutation(labels)
    out = np.empty_like(labels)
    places = np.argsort(member, kind="stable")
    out[places] = labels[np.argsort(rng.permutation(number)[member], kind="stable")]
    return out


def is_binary(labels: Labels) -> bool:
    """Whether all labels that are there (not NaN) are 0 or 1."""
    values = to_float64(labels)
    return bool(np.isin(values[~np.isnan(values)], (0, 1)).all())


def labelled(codes: Codes, labels: Labels) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, " m"]]:
    """Codes and labels of the images that have a label, float64."""
    y = to_float64(labels)
    known = ~np.isnan(y)
    return to_float64(codes)[known], y[known]


def _known(labels: Labels, groups: Sequence[str] | None) -> np.ndarray | None:
    """Numbers of the groups of the images that have a label; None without groups."""
    return group_numbers(groups, ~np.isnan(to_float64(labels))) if groups else None


def to_float64(values: Shaped[np.ndarray, "*shape"] | Shaped[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Numbers of any type as a float64 array in memory."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
