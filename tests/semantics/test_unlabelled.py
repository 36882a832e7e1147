"""Positive and unlabelled codes of two Gaussians, of which everything is known."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from zsem.semantics.unlabelled import (
    Linear,
    _minimise,
    class_prior_of,
    frequency_of,
    labelled_or_not,
    non_negative,
    non_negative_risk,
)
from zsem.values.draws import generator

SHARE = 0.3


def sample(number: int, shift: float, *, size: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of N(+shift e1, 1) with probability SHARE, else of N(-shift e1, 1); and which they are of."""
    rng = generator(seed)
    kinds = rng.random(number) < SHARE
    codes = rng.standard_normal((number, size))
    codes[:, 0] += np.where(kinds, shift, -shift)
    return codes, kinds


def parts(shift: float, positives: int, unlabelled: int, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    codes, kinds = sample(20 * positives, shift, size=size, seed=1)
    return codes[kinds][:positives], sample(unlabelled, shift, size=size, seed=2)[0]


def bayes(codes: np.ndarray, shift: float) -> np.ndarray:
    """p(positive | code) by Bayes' rule."""
    return expit(2 * shift * codes[:, 0] + np.log(SHARE / (1 - SHARE)))


@pytest.mark.parametrize("labelled", [0.1, 0.5])
def test_elkan_and_notos_c_is_the_labelling_frequency(labelled):
    """One sample, of whose positive codes a share is labelled: the setting of their paper."""
    codes, kinds = sample(6000, 3.0, seed=3)
    chosen = kinds & (generator(4).random(6000) < labelled)
    _, c = labelled_or_not(codes[chosen], codes[~chosen])
    assert c == pytest.approx(chosen.sum() / kinds.sum(), rel=0.2)
    share = class_prior_of(c, int(chosen.sum()), int((~chosen).sum()))
    assert share == pytest.approx(kinds[~chosen].mean(), rel=0.25)


def test_class_prior_and_frequency_say_the_same():
    assert class_prior_of(frequency_of(0.3, 100, 10_000), 100, 10_000) == pytest.approx(0.3)
    assert frequency_of(0.25, 100, 400) == pytest.approx(0.5)


def test_the_non_negative_risk_against_its_definition():
    p, u = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([-1.0, 0.2])
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    plus, minus, rest = loss(p, torch.ones(3)), loss(p, torch.zeros(3)), loss(u, torch.zeros(2))
    expected = 0.2 * plus + (rest - 0.2 * minus)
    assert non_negative_risk(p.double().numpy(), u.double().numpy(), 0.2) == pytest.approx(float(expected))
    # with a larger share the estimated risk of negatives is below zero, and does not count
    assert float(rest - 0.9 * minus) < 0
    assert non_negative_risk(p.double().numpy(), u.double().numpy(), 0.9) == pytest.approx(0.9 * float(plus))


def risk(found: Linear, positive: np.ndarray, unlabelled: np.ndarray) -> float:
    shrink = found.penalty / 2 * float(found.weight @ found.weight)
    return non_negative_risk(found(positive), found(unlabelled), SHARE) + shrink


@pytest.mark.parametrize(
    ("positives", "number", "size", "penalty", "bounded"), [(200, 3000, 3, 0.01, False), (12, 300, 30, 0.003, True)]
)
def test_the_minimiser_is_one(positives, number, size, penalty, bounded):
    """No step in any direction lowers the penalised risk, whether the bound holds the fit or not."""
    positive, unlabelled = parts(1.0, positives, number, size)
    found = _minimise(positive, unlabelled, SHARE, penalty)
    rest = np.logaddexp(0, found(unlabelled)).mean() - SHARE * np.logaddexp(0, found(positive)).mean()
    assert (rest < 1e-3) == bounded and rest > -1e-3  # at the bound, or above it
    least, rng = risk(found, positive, unlabelled), generator(5)
    for length in (0.03, 0.3):
        for _ in range(50):
            step = rng.standard_normal(size + 1)
            step *= length / np.linalg.norm(step)
            other = Linear(weight=found.weight + step[:-1], intercept=found.intercept + step[-1], penalty=penalty)
            assert risk(other, positive, unlabelled) > least - 2e-4


def test_non_negative_pu_finds_bayes_rule_and_naive_does_not():
    positive, unlabelled = parts(1.5, 400, 4000)
    found = non_negative(positive, unlabelled, SHARE)
    naive, _ = labelled_or_not(positive, unlabelled)
    codes, _ = sample(2000, 1.5, seed=6)
    truth = bayes(codes, 1.5)
    errors = {"nnpu": expit(found(codes)) - truth, "naive": expit(naive(codes)) - truth}
    assert np.abs(errors["nnpu"]).mean() < 0.05
    assert np.abs(errors["naive"]).mean() > 0.15
    assert found.weight[0] == pytest.approx(3.0, rel=0.3) and np.abs(found.weight[1:]).max() < 0.4


def test_the_same_draws_of_folds_every_time():
    positive, unlabelled = parts(1.0, 20, 100)
    first, again = (non_negative(positive, unlabelled, SHARE, seed=7) for _ in range(2))
    assert np.array_equal(first.weight, again.weight) and first.penalty == again.penalty
