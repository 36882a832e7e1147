"""Few-shot classifiers of codes whose true classifier is known: two Gaussians in the z of a small model."""

import copy
import math

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics.fewshot import FewShot, fit_binary, fit_unlabelled
from zsem.semantics.probes import auroc
from zsem.values.draws import generator, normal
from zsem.values.errors import ZsemError
from zsem.values.logistic import Logistic

SHIFT, SHARE = 1.5, 0.3


@pytest.fixture(scope="module")
def model(small_model) -> DiffusionAutoencoder:
    """Its codes are far from normalised."""
    model = copy.deepcopy(small_model)
    model.z_mean.copy_(torch.arange(8) - 3.0)
    model.z_std.copy_(torch.linspace(0.5, 4, 8))
    return model


def codes(model: DiffusionAutoencoder, number: int, positive: bool, seed: int) -> Tensor:
    """z of one kind: normalised it is N(+-SHIFT e1, 1)."""
    z = normal([(seed, i, int(positive)) for i in range(number)], (8,))
    z[:, 0] += SHIFT if positive else -SHIFT
    return z * model.z_std + model.z_mean


def mixed(model: DiffusionAutoencoder, number: int, seed: int) -> tuple[Tensor, np.ndarray]:
    kinds = generator(seed).random(number) < SHARE
    both = [codes(model, number, kind, seed) for kind in (False, True)]
    return torch.where(torch.from_numpy(kinds)[:, None], both[1], both[0]), kinds


def bayes(model: DiffusionAutoencoder, z: Tensor, share: float = SHARE) -> Tensor:
    normalised = (z - model.z_mean) / model.z_std
    return torch.sigmoid(2 * SHIFT * normalised[:, 0] + math.log(share / (1 - share)))


def test_many_examples_give_bayes_rule(model):
    z, _ = mixed(model, 2000, 9)
    found = fit_binary(codes(model, 300, True, 0), codes(model, 300, False, 0), model)
    assert found.class_prior == 0.5 and found.model == model.stamp
    assert float((found.probability(z) - bayes(model, z, 0.5)).abs().mean()) < 0.03
    known = fit_binary(codes(model, 300, True, 0), codes(model, 300, False, 0), model, class_prior=SHARE)
    assert float((known.probability(z) - bayes(model, z)).abs().mean()) < 0.03


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_the_class_prior_is_estimated_from_codes_without_labels(model, share):
    kinds = generator(3).random(3000) < share
    z = torch.where(
        torch.from_numpy(kinds)[:, None], codes(model, 3000, True, 4), codes(model, 3000, False, 4)
    )  # fmt: skip
    found = fit_binary(codes(model, 200, True, 0), codes(model, 200, False, 0), model, unlabelled=z)
    assert found.class_prior == pytest.approx(share, abs=0.05)
    assert float(found.probability(z).mean()) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("number", [5, 10, 50])
def test_a_few_examples_tell_and_do_not_claim_more_than_they_know(model, number):
    """Calibrated: over several draws of examples the loss is not above that of knowing nothing."""
    z, kinds = mixed(model, 1000, 9)
    scores, losses = [], []
    for seed in range(4):
        found = fit_binary(
            codes(model, number, True, seed), codes(model, number, False, seed), model, class_prior=SHARE
        )
        assert found.about["positive"] == found.about["negative"] == number
        log_p, log_q = found.log_p(z), torch.nn.functional.logsigmoid(-found.logit(z))
        losses.append(-float(torch.where(torch.from_numpy(kinds), log_p, log_q).mean()))
        scores.append(auroc(found.logit(z).double().numpy(), kinds.astype(np.float64)))
    entropy = -(SHARE * math.log(SHARE) + (1 - SHARE) * math.log(1 - SHARE))
    assert np.mean(scores) > {5: 0.85, 10: 0.9, 50: 0.96}[number]
    assert np.mean(losses) < {5: 0.85, 10: 0.7, 50: 0.45}[number] * entropy


def test_examples_that_say_nothing_are_not_believed(model):
    """Both kinds from the same Gaussian: probabilities stay near the class prior."""
    z, _ = mixed(model, 500, 9)
    spread = []
    for seed in range(5):
        one, other = (codes(model, 5, True, seed + shift) for shift in (0, 100))
        spread.append(float((fit_binary(one, other, model).probability(z) - 0.5).abs().mean()))
    assert np.median(spread) < 0.15


def test_more_of_one_kind_do_not_shift_the_odds(model):
    found = fit_binary(codes(model, 400, True, 0), codes(model, 40, False, 0), model)
    z = torch.cat([codes(model, 500, kind, 9) for kind in (True, False)])
    assert float(found.probability(z).mean()) == pytest.approx(0.5, abs=0.05)
    few = fit_binary(codes(model, 40, True, 0), codes(model, 3, False, 0), model)
    assert few.about["C"] == 1 and np.isfinite(few.intercept)


def test_positive_and_unlabelled_codes_give_nearly_bayes_rule(model):
    z, kinds = mixed(model, 2000, 9)
    positive, (unlabelled, _) = codes(model, 200, True, 0), mixed(model, 3000, 8)
    truth = bayes(model, z)

    def error(method: str, class_prior: float | None) -> float:
        found = fit_unlabelled(positive, unlabelled, model, method, class_prior=class_prior)
        assert found.class_prior == (None if method == "naive" else pytest.approx(SHARE, abs=0.1))
        assert auroc(found.logit(z).double().numpy(), kinds.astype(np.float64)) > 0.97
        return float((found.probability(z) - truth).abs().mean())

    assert error("naive", None) > 0.2
    assert error("nnpu", SHARE) < 0.05
    assert error("elkan_noto", SHARE) < 0.13
    assert error("elkan_noto", None) < 0.13  # with the class prior that c says


def test_log_p_is_a_log_of_a_probability_with_a_gradient(model):
    unlabelled, _ = mixed(model, 1000, 8)
    for found in (
        fit_binary(codes(model, 30, True, 0), codes(model, 30, False, 0), model),
        fit_unlabelled(codes(model, 50, True, 0), unlabelled, model, "elkan_noto"),
    ):
        z = unlabelled[:64].double().requires_grad_()
        log_p = found.log_p(z)
        assert float(log_p.detach().max()) <= 0 and torch.allclose(log_p.exp(), found.probability(z))
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
        step = torch.zeros_like(z)
        step[:, 0] = 1e-5
        with torch.no_grad():
            slope = (found.log_p(z + step) - found.log_p(z - step)) / 2e-5
        assert torch.allclose(gradient[:, 0], slope, atol=1e-6)
    # what is surely labelled more often than every positive code is can be no more than certain
    sure = codes(model, 1, True, 0) + 50 * found.weight * model.z_std
    assert found.frequency < 0.2 and float(found.log_p(sure)) == 0


def test_conditions_are_the_probability(model):
    z, _ = mixed(model, 200, 9)
    binary = fit_binary(codes(model, 30, True, 0), codes(model, 30, False, 0), model)
    condition = binary.condition()
    assert isinstance(condition, Logistic) and condition.weights.shape == (1, 8)
    assert torch.allclose(condition(z.double()), binary.log_p(z.double()), atol=1e-4)
    rare = fit_unlabelled(codes(model, 30, True, 0), z, model)
    assert torch.equal(rare.condition()(z), rare.log_p(z))


def test_it_is_a_file_that_belongs_to_its_model(model, small_model, tmp_path):
    unlabelled, _ = mixed(model, 300, 8)
    found = fit_unlabelled(codes(model, 30, True, 0), unlabelled, model)
    path = found.save(tmp_path / "deep" / "fewshot.safetensors")
    again = FewShot.load(path, model)
    assert torch.equal(again.log_p(unlabelled), found.log_p(unlabelled))
    assert (again.class_prior, again.about, again.frequency) == (found.class_prior, found.about, found.frequency)
    other = copy.deepcopy(small_model)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(ZsemError, match=r"belongs to model .*: fit it again"):
        FewShot.load(path, other)
    with pytest.raises(ZsemError, match="is missing; fit it again"):
        FewShot.load(tmp_path / "none.safetensors", model)
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(8)}, foreign)
    with pytest.raises(ZsemError, match="holds no few-shot classifier"):
        FewShot.load(foreign, model)
    safetensors.torch.save_file({"weight": torch.zeros(8)}, foreign, {"format": "zsem.fewshot", "version": "9"})
    with pytest.raises(ZsemError, match="has version 9"):
        FewShot.load(foreign, model)


def test_what_cannot_be_fitted(model):
    z = codes(model, 5, True, 0)
    with pytest.raises(ZsemError, match="at least 2 negative images, not 1"):
        fit_binary(z, z[:1], model)
    with pytest.raises(ZsemError, match="at least 2 positive images, not 0"):
        fit_unlabelled(z[:0], z, model)
    with pytest.raises(ZsemError, match="have 7 numbers and those of the model 8"):
        fit_unlabelled(z[:, :7], z[:, :7], model)
    with pytest.raises(ZsemError, match="no method 'best'"):
        fit_unlabelled(z, z, model, "best")
    with pytest.raises(ZsemError, match=r"between 0 and 1, not 1\.5"):
        fit_binary(z, z - 1, model, class_prior=1.5)
    naive = fit_unlabelled(z, z - 1, model, "naive")
    with pytest.raises(ValueError, match="none to change"):
        naive.for_unlabelled(z)
