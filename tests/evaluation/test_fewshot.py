"""Scenarios of few labels on codes whose classes are known, and the judgement of conditional samples."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zsem.evaluation.fewshot import (
    SCENARIOS,
    Scenario,
    decoded,
    draw_conditional,
    fit_scenario,
    judge_conditional,
)
from zsem.metrics.samples import Distribution, features_of
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.judge import Judge
from zsem.models.mixture import LatentMixture
from zsem.nets.encoder import SemanticEncoder
from zsem.semantics.probes import auroc
from zsem.values.draws import generator, normal
from zsem.values.errors import ZsemError

SHARE = 0.3


@pytest.fixture(scope="module")
def model(small_model) -> DiffusionAutoencoder:
    model = copy.deepcopy(small_model)
    model.z_std.copy_(torch.linspace(0.5, 2, 8))
    return model


def population(model: DiffusionAutoencoder, number: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """z of two kinds and 0/1 labels; every tenth is unknown."""
    kinds = generator(seed).random(number) < SHARE
    z = normal([(seed, i) for i in range(number)], (8,))
    z[:, 0] += torch.from_numpy(np.where(kinds, 2.0, -2.0)).float()
    labels = kinds.astype(np.float64)
    labels[::10] = np.nan
    return z * model.z_std, labels


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_of_the_table_learns(model, name):
    z, labels = population(model, 800, 0)
    found = fit_scenario(SCENARIOS[name], z, labels, model, seed=1)
    others, truth = population(model, 500, 1)
    known = ~np.isnan(truth)
    assert auroc(found.logit(others).double().numpy()[known], truth[known]) > 0.9
    wanted = SCENARIOS[name]
    assert found.about["positive"] == wanted.positives
    if wanted.negatives:
        assert found.about["negative"] == wanted.negatives
        if wanted.negatives == 50:  # told by codes without labels
            assert found.class_prior == pytest.approx(SHARE, abs=0.1)
    else:
        assert found.about["unlabelled"] == 700 and found.about["method"] == wanted.method
    again, other = (fit_scenario(wanted, z, labels, model, seed=seed) for seed in (1, 2))
    assert torch.equal(again.weight, found.weight) and not torch.equal(other.weight, found.weight)


def test_labels_that_are_not_there(model):
    z, labels = population(model, 60, 0)
    with pytest.raises(ZsemError, match=r"50 positive images are wanted, and \d+ have that label"):
        fit_scenario(SCENARIOS["50 + 50"], z, labels, model)
    some = fit_scenario(Scenario(positives=10, unlabelled=20), z, labels, model)
    assert some.about["unlabelled"] == 20


def test_conditional_codes_and_their_acceptance(model):
    z, labels = population(model, 1500, 0)
    prior = LatentMixture.fit(z)
    found = fit_scenario(SCENARIOS["50 + 50"], z, labels, model)
    drawn = draw_conditional(prior, found, 300)
    assert drawn.acceptance == pytest.approx(SHARE, abs=0.08)
    assert float((drawn.z[:, 0] > 0).double().mean()) > 0.9
    assert torch.equal(draw_conditional(prior, found, 40).z, drawn.z[:40])


def test_the_surest_of_several_draws(model):
    z, labels = population(model, 1500, 0)
    prior = LatentMixture.fit(z)
    found = fit_scenario(SCENARIOS["50 + 50"], z, labels, model)
    every = draw_conditional(prior, found, 120).z.view(40, 3, -1)
    surest = draw_conditional(prior, found, 40, surest=3)
    highest = found.logit(every.flatten(0, 1)).view(40, 3).max(1)
    assert torch.equal(found.logit(surest.z), highest.values) and len(highest.indices.unique()) == 3
    assert torch.equal(surest.z, every[torch.arange(40), highest.indices])
    assert surest.acceptance == draw_conditional(prior, found, 40).acceptance
    with pytest.raises(ZsemError, match="at least 1, not 0"):
        draw_conditional(prior, found, 40, surest=0)


class Small(nn.Module):
    """A random linear layer on pixels, in place of a network that takes long."""

    frechet_name, kid_name, components = "FD-small", "KID-small", 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal([(0, i) for i in range(768)], (6,)) / 20)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def judge() -> Judge:
    torch.manual_seed(0)
    net = SemanticEncoder.Config(channels=8, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), pool=1)
    return Judge(Judge.Config(attributes=("red", "round"), image_size=16, net=net)).eval()


def test_images_are_judged_batch_by_batch(model, judge):
    network = Small()
    real = normal([(1, i) for i in range(40)], (3, 16, 16)).clamp(-1, 1)
    reference = Distribution(network, features_of(network, [real]))
    z, _ = population(model, 10, 0)
    parts = list(decoded(model, z, steps=2, batch_size=4))
    assert [len(part) for part in parts] == [4, 4, 2]
    whole = torch.cat(list(decoded(model, z, steps=2, batch_size=10)))
    assert torch.allclose(torch.cat(parts), whole, atol=1e-4)
    found = judge_conditional(judge, "round", reference, parts, resamples=50)
    expected = (judge.logits(whole.clamp(-1, 1))[:, 1] > 0).double().mean()
    assert found.accuracy == pytest.approx(float(expected))
    assert found.accuracy_interval.low <= found.accuracy <= found.accuracy_interval.high
    assert found.distribution.n == 10 and found.distribution.n_reference == 40
    summary = json.loads(json.dumps(found.summary, allow_nan=False))
    assert summary["frechet"] == found.distribution.frechet and summary["accuracy"] == found.accuracy
    with pytest.raises(ZsemError, match="the judge does not know hat: it knows red, round"):
        judge_conditional(judge, "hat", reference, parts)
