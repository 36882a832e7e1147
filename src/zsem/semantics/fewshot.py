"""Classifiers of codes from a handful of examples, for conditional sampling (DiffAE, section 3.4 and Table 3).

From a few images that have something and as few that have not, or from a few that have it and many of which nobody
knows. All are linear in normalised z; `FewShot.condition` is what priors sample with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.prior import LogP
from zsem.semantics.probes import Codes, HeldOutCodes, to_float64
from zsem.semantics.unlabelled import class_prior_of, frequency_of, labelled_or_not, non_negative
from zsem.values.errors import ZsemError
from zsem.values.files import read_format, write_whole
from zsem.values.logistic import Logistic

METHODS = ("elkan_noto", "nnpu", "naive")
"""Ways to learn from positive and unlabelled codes."""
FORMAT, FORMAT_VERSION = "zsem.fewshot", 1
FILE = "fewshot.safetensors"
AGAIN = "fit it again with `zsem fewshot`"
FEW, FOLDS = 10, 5
"""With fewer examples of a kind every pair is left out once, and with more there are so many folds."""
C_FEW, C_GRID = 1.0, tuple(10.0**k for k in range(-2, 3))
"""Inverse strengths of the logistic penalty: with few examples, and those that folds choose from."""
STEEPEST = 20.0
"""Factor that calibration multiplies logits with at most."""
LEAST_SHARE, MOST_SHARE = 0.05, 0.95
"""A class prior that is estimated lies between these."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShot:
    """What a handful of examples says about codes: p(has it | z).

    model: stamp of the model that the codes are of.
    mean, std: with which z is normalised, [d].
    weight, intercept: of the logit, weight . (z - mean) / std + intercept; [d] and scalar.
    frequency: Elkan and Noto's c, by which the probability is divided; 1 for other methods.
    class_prior: the share of images that have it, as far as it is known or was estimated.
    about: method, numbers of examples, penalty; JSON-able.
    """

    model: str
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    weight: Float[Tensor, " d"]
    intercept: float
    frequency: float = 1.0
    class_prior: float | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def logit(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The linear function of codes z as the encoder gives them, differentiable in z."""
        mean, std, weight = (part.to(z) for part in (self.mean, self.std, self.weight))
        return (z - mean) / std @ weight + self.intercept

    def log_p(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Natural log of the probability, at most 0, differentiable in z."""
        return (F.logsigmoid(self.logit(z)) - math.log(self.frequency)).clamp(max=0)

    def probability(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Probability, in [0, 1]."""
        return self.log_p(z).exp()

    def condition(self) -> LogP:
        """log p, as priors take it: samples of p(z) p(has it | z), normalised.

        A `Logistic`, which mixtures are tilted by exactly, but for Elkan and Noto's probability, which is none.
        """
        if self.frequency != 1:
            return self.log_p
        weight = self.weight.double() / self.std.double()
        offset = self.intercept - weight @ self.mean.double()
        return Logistic(weights=weight.float()[None], offsets=offset.float()[None])

    def for_unlabelled(self, z: Float[Tensor, "n d"]) -> FewShot:
        """The same with the class prior that codes without labels have, which most likely is not a half.

        That prior is what maximises the likelihood of their logits (Saerens et al. 2002, eq. 2.9), within .05 .. .95
        because few examples tell little of it; the odds are multiplied by the ratio of its odds and the old ones.
        Raises ValueError where the class prior is not known so far.
        """
        if self.class_prior is None:
            raise ValueError("a class prior is changed, and this classifier has none to change")
        odds = self.logit(z).double().cpu().numpy() - logit(self.class_prior)
        share = self.class_prior
        for _ in range(500):  # expectation maximisation, which converges slowly where classes overlap
            before, share = share, float(np.clip(expit(odds + logit(share)).mean(), LEAST_SHARE, MOST_SHARE))
            if abs(share - before) < 1e-6:
                break
        return self.for_class_prior(share)

    def for_class_prior(self, share: float) -> FewShot:
        """The same where this share of the images has it. Errors as in `for_unlabelled`; ZsemError: it is no share."""
        check_share(share)
        if self.class_prior is None:
            raise ValueError("a class prior is changed, and this classifier has none to change")
        return replace(
            self, class_prior=share, intercept=self.intercept + float(logit(share) - logit(self.class_prior))
        )

    def save(self, path: str | Path) -> Path:
        """Write it to a small safetensors file, whole or not at all."""
        import safetensors.torch

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "model": self.model, "intercept": self.intercept, "frequency": self.frequency,
            "class_prior": self.class_prior, "about": dict(self.about),
        }  # fmt: skip
        tensors = {name: getattr(self, name).detach().float().cpu() for name in ("mean", "std", "weight")}
        metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "fewshot": json.dumps(about)}
        write_whole(path, safetensors.torch.save(tensors, metadata))
        return path

    @staticmethod
    def load(path: str | Path, model: DiffusionAutoencoder) -> FewShot:
        """Read what `save` wrote. Raises ZsemError for a missing, damaged or foreign file, or one of another model."""
        path = Path(path)
        tensors, metadata = read_format(path, FORMAT, FORMAT_VERSION, holds="few-shot classifier", mend=AGAIN)
        about = json.loads(metadata["fewshot"])
        if about["model"] != model.stamp:
            raise ZsemError(f"{path} belongs to model {about['model']}, this is {model.stamp}: {AGAIN}")
        return FewShot(**tensors, **about)


def fit_binary(
    positive: Codes,
    negative: HeldOutCodes,
    model: DiffusionAutoencoder,
    *,
    unlabelled: Float[Tensor, "k d"] | None = None,
    class_prior: float | None = None,
    seed: int = 0,
) -> FewShot:
    """Logistic regression on a few codes that have something and a few that have not, calibrated.

    positive, negative: codes z as `model` gives them, two of each at least.
    unlabelled: codes of any images, e.g. samples of the prior, that the class prior is estimated from; without them it
        is `class_prior`, or a half.
    seed: of the folds.

    From ten of each kind on, five folds choose the penalty. With fewer it is fixed: their verdict would be noise, and
    the order of images hardly depends on it, only how sure the classifier is. That is calibrated in any case, by pairs
    of a positive and a negative code that were both left out: logits are multiplied by what makes sigma(difference)
    most likely. Single scores would be shifted by the kind that is left out, pairs are not. Platt's targets (1999) make
    the odds of either code n + 1 at most, so those of a pair (n + 1)^2: five and five that are told without a mistake
    do not ask for certainty. Of these every pair is left out once; where z does not tell them apart the factor is 0,
    and then nothing is conditioned on.
    Raises ZsemError for fewer than two codes of a kind, codes of another length, or a class prior that is no share.
    """
    x = np.concatenate(
        [_normalised(part, model, 2, name) for part, name in ((positive, "positive"), (negative, "negative"))]
    )
    y = np.repeat([1, 0], [len(positive), len(negative)])
    strengths = C_GRID if min(len(positive), len(negative)) >= FEW else (C_FEW,)
    loss, strength, factor, middle = min(_calibration(x, y, strength, seed) for strength in strengths)
    fitted = _logistic(x, y, strength)
    found = _fewshot(
        model, weight=fitted.coef_[0] * factor, intercept=factor * (float(fitted.intercept_[0]) - middle),
        class_prior=0.5,
        about={
            "method": "binary", "positive": len(positive), "negative": len(negative), "C": strength,
            "slope": factor, "pair_loss": loss,
        },
    )  # fmt: skip
    if class_prior is not None:
        return found.for_class_prior(class_prior)
    return found if unlabelled is None else found.for_unlabelled(unlabelled)


def fit_unlabelled(
    positive: Codes,
    unlabelled: HeldOutCodes,
    model: DiffusionAutoencoder,
    method: str = "elkan_noto",
    *,
    class_prior: float | None = None,
    seed: int = 0,
) -> FewShot:
    """A classifier from a few codes that have something and many codes of which nobody knows.

    positive, unlabelled: codes z as `model` gives them, two of each at least.
    method: elkan_noto = p(labelled | z) / c, at most 1 (Elkan and Noto 2008, lemma 1); nnpu = the minimiser of the
        non-negative risk (Kiryo et al. 2017, eq. 6); naive = unlabelled codes taken as negative.
    class_prior: share of unlabelled images that have it; estimated from Elkan and Noto's c where it is not given, which
        makes it too large where z does not tell positives without doubt.
    seed: of the folds.
    Raises ZsemError as `fit_binary` does, and for a method that does not exist.
    """
    if method not in METHODS:
        raise ZsemError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}")
    p, u = _normalised(positive, model, 2, "positive"), _normalised(unlabelled, model, 2, "unlabelled")
    if class_prior is not None:
        check_share(class_prior)
    labelled, c = labelled_or_not(p, u, seed=seed)
    if class_prior is None:
        class_prior = float(np.clip(class_prior_of(c, len(p), len(u)), LEAST_SHARE, MOST_SHARE))
    frequency = frequency_of(class_prior, len(p), len(u))
    found = non_negative(p, u, class_prior, seed=seed) if method == "nnpu" else labelled
    return _fewshot(
        model, weight=found.weight, intercept=found.intercept,
        frequency=frequency if method == "elkan_noto" else 1.0,
        class_prior=None if method == "naive" else class_prior,
        about={"method": method, "positive": len(p), "unlabelled": len(u), "penalty": found.penalty},
    )  # fmt: skip


def check_share(share: float) -> None:
    """Raise ZsemError where a class prior is no share of the images."""
    if not 0 < share < 1:
        raise ZsemError(f"a class prior is a share of the images, between 0 and 1, not {share:g}")


def _normalised(codes: Codes, model: DiffusionAutoencoder, least: int, kind: str) -> np.ndarray:
    mean, std = (to_float64(part) for part in (model.z_mean, model.z_std))
    if len(codes) < least:
        raise ZsemError(f"a classifier needs at least {least} {kind} images, not {len(codes)}: give more")
    if codes.shape[1] != len(mean):
        raise ZsemError(f"the {kind} codes have {codes.shape[1]} numbers and those of the model {len(mean)}")
    return (to_float64(codes) - mean) / std


def _fewshot(model: DiffusionAutoencoder, *, weight: np.ndarray, **more: Any) -> FewShot:
    mean, std = model.z_mean.detach().cpu().clone(), model.z_std.detach().cpu().clone()
    return FewShot(model=model.stamp, mean=mean, std=std, weight=torch.from_numpy(weight).float(), **more)


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    """Balanced, as if both kinds were equally frequent. Any: scikit-learn's learned attributes have no types."""
    return LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(x, y)


def _calibration(x: np.ndarray, y: np.ndarray, strength: float, seed: int) -> tuple[float, float, float, float]:
    """Held-out loss of pairs, strength, factor for the logits, and the logit that lies between the two kinds."""
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    fewest = min(len(positive), len(negative))
    if fewest < FEW:
        # of many of one kind no more than of the other: pairs of each with each would be many fits
        left_out = [np.array(pair) for pair in product(positive[:FEW], negative[:FEW])]
    else:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        left_out = [test for _, test in folds.split(x, y)]
    differences, middles = [], []
    for rows in left_out:
        kept = np.setdiff1d(np.arange(len(y)), rows)
        scores, kinds = _logistic(x[kept], y[kept], strength).decision_function(x[rows]), y[rows]
        differences.append((scores[kinds == 1][:, None] - scores[kinds == 0]).ravel())
        middles.append((scores[kinds == 1].mean() + scores[kinds == 0].mean()) / 2)
    gaps, doubt = np.concatenate(differences), 1 / ((fewest + 1) ** 2 + 1)

    def loss(factor: float) -> float:
        told, mistaken = np.logaddexp(0, -factor * gaps), np.logaddexp(0, factor * gaps)
        return float(((1 - doubt) * told + doubt * mistaken).mean())

    found: Any = minimize_scalar(loss, bounds=(0, STEEPEST), method="bounded")  # Any: it has no types
    factor = float(found.x)
    return loss(factor), strength, factor, float(np.mean(middles))
