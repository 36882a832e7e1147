"""Samples with an attribute that only a handful of labels says what it is (DiffAE, section 3.4 and Table 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from zsem.metrics.intervals import Interval, interval_of_mean
from zsem.metrics.samples import Distribution, DistributionFigures
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.models.prior import Prior
from zsem.models.walking import Walking
from zsem.semantics.fewshot import FewShot, fit_binary, fit_unlabelled
from zsem.semantics.probes import RESAMPLES
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

LABEL_DRAW = 4  # the last integer of a draw's name: what the draw is for
UNLABELLED = 2000
"""Codes without labels that tell a binary classifier the class prior."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is known of the images.

    positives, negatives: labelled images of each kind; without negatives there are unlabelled ones.
    method: of `fit_unlabelled`, where there are no negatives.
    unlabelled: how many, at most.
    """

    positives: int
    negatives: int = 0
    method: str = "elkan_noto"
    unlabelled: int = 10_000


SCENARIOS = {
    "5 + 5": Scenario(positives=5, negatives=5),
    "10 + 10": Scenario(positives=10, negatives=10),
    "50 + 50": Scenario(positives=50, negatives=50),
    "PU, Elkan-Noto": Scenario(positives=100),
    "PU, nnPU": Scenario(positives=100, method="nnpu"),
    "PU, naive": Scenario(positives=100, method="naive"),
}
"""Those of the paper's Table 3, with fewer labels beside them and with two more ways to learn without negatives."""


def fit_scenario(
    scenario: Scenario,
    z: Float[Tensor, "n d"],
    labels: Shaped[np.ndarray, " n"],
    model: DiffusionAutoencoder,
    *,
    seed: int = 0,
) -> FewShot:
    """A classifier from as many labels as a scenario has, drawn by `seed`.

    z, labels: of training images, 0/1 and NaN = unknown. What is not drawn has no label here: a binary classifier is
        told the class prior by such codes.
    Raises ZsemError where there are fewer labels than the scenario wants, or no codes are left.
    """
    order = generator(seed, LABEL_DRAW).permutation(len(z))
    chosen = []
    for kind, number, word in ((1, scenario.positives, "positive"), (0, scenario.negatives, "negative")):
        of_kind = order[labels[order] == kind]
        if len(of_kind) < number:
            raise ZsemError(f"{number} {word} images are wanted, and {len(of_kind)} have that label: label more")
        chosen.append(of_kind[:number])
    positive, negative = chosen
    rest = order[~np.isin(order, np.concatenate(chosen))]
    if scenario.negatives:
        return fit_binary(
            z[positive], z[negative], model, unlabelled=z[rest[:UNLABELLED]] if len(rest) else None, seed=seed
        )
    return fit_unlabelled(z[positive], z[rest[: scenario.unlabelled]], model, scenario.method, seed=seed)


@dataclass(frozen=True, kw_only=True)
class ConditionalFigures:
    """What `judge_conditional` found of one set of images."""

    accuracy: float
    """Share of the images that the judge says have the attribute."""
    accuracy_interval: Interval
    """Its 95 % bootstrap interval over images."""
    distribution: DistributionFigures
    """Against real images that have the attribute."""

    @property
    def summary(self) -> dict[str, Any]:
        """JSON-able: accuracy, its interval, and the figures of the distribution."""
        return {
            "accuracy": self.accuracy, "accuracy_interval": asdict(self.accuracy_interval),
            **asdict(self.distribution),
        }  # fmt: skip


def judge_conditional(
    judge: Judge,
    attribute: str,
    reference: Distribution,
    samples: Iterable[Float[Tensor, "_ _ _ _"]],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ConditionalFigures:
    """Figures of images that are to have an attribute, which come in batches in [-1, 1].

    reference: of real images that have it; it stays as it is.
    resamples: bootstrap samples of the accuracy's interval. seed: of them.
    Raises ZsemError for an attribute that the judge does not know, ValueError for fewer than four images.
    """
    names = judge.config.attributes
    if attribute not in names:
        raise ZsemError(f"the judge does not know {attribute}: it knows {', '.join(names)}")
    counted, hits = reference.empty(), []
    for images in samples:
        seen = images.clamp(-1, 1)
        counted.update(seen)
        hits.append(judge.logits(seen)[:, names.index(attribute)] > 0)
    having = torch.cat(hits).double().numpy()
    return ConditionalFigures(
        accuracy=float(having.mean()),
        accuracy_interval=interval_of_mean(having, resamples=resamples, seed=seed),
        distribution=counted.compute(seed=seed),
    )


@dataclass(frozen=True, kw_only=True)
class Conditional:
    """Codes under a condition, and the share of the prior's codes that would be accepted as they are."""

    z: Float[Tensor, "n d"]
    acceptance: float


def draw_conditional(
    prior: Prior, found: FewShot, number: int, *, surest: int = 1, seed: int = 0, steps: int = 100
) -> Conditional:
    """Codes of a prior under what was learned, by the quickest exact method; each a function of (seed, position).

    surest: of so many draws the one with the highest logit; 1 is what the examples say, more is surer and less various.
    steps: of a latent DDIM.
    The acceptance is the mean of p(has it | z) over as many codes of the prior without a condition.
    Raises ZsemError where codes with what is asked for are too rare to be found, or for less than one draw.
    """
    if surest < 1:
        raise ZsemError(f"of the draws for an image one must be the surest: take at least 1, not {surest}")
    where = found.condition()
    plain = prior.sample(number, seed=seed, steps=steps)
    drawn = prior.sample(number * surest, seed=seed, steps=steps, where=where)
    best = found.logit(drawn).view(number, surest).argmax(1)
    return Conditional(
        z=drawn.view(number, surest, -1)[torch.arange(number), best],
        acceptance=float(where(plain).double().exp().mean()),
    )


def decoded(
    model: DiffusionAutoencoder, z: Float[Tensor, "n d"], *, seed: int = 0, steps: int = 20, batch_size: int = 16
) -> Iterable[Float[Tensor, "_ _ _ _"]]:
    """Images of codes with fresh x_T, a batch at a time, float32; image i is a function of (seed, i)."""
    walking = Walking(solver="unipc", steps=steps)
    for first in range(0, len(z), batch_size):
        codes = model.codes(z[first : first + batch_size])
        yield model.decode(codes, seed=seed, first=first, walking=walking, batch_size=batch_size)
