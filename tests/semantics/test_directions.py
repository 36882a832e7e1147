import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA

from zsem.semantics.directions import (
    class_centres,
    constrained,
    entry_weights,
    lengths,
    logistic,
    mean_difference,
    pca,
    project_out,
    sefa,
    shrunk_covariance,
)
from zsem.values.direction import Direction, load_directions, save_directions
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

DIMS = 10


def classifier(weight: np.ndarray, name: str = "smile", intercept: float = 0.3) -> Direction:
    """A direction of unit length with a slope, as those of imported classifiers."""
    length = float(np.linalg.norm(weight))
    return Direction(
        space="z", vector=torch.from_numpy(weight / length).float(), unit="length of normalised z", name=name,
        model="abc", slope=length, intercept=intercept,
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return generator(0).standard_normal((4, DIMS))


@pytest.fixture(scope="module")
def covariance() -> np.ndarray:
    codes = generator(1).standard_normal((300, DIMS)) @ generator(2).standard_normal((DIMS, DIMS))
    return shrunk_covariance(codes)


def test_the_logistic_direction_is_the_euclidean_member_and_changes_the_logit_by_one(weights, covariance):
    direction = logistic(classifier(weights[0]))
    member = constrained(classifier(weights[0]), covariance, weights[1:], g=1, lam=0)
    torch.testing.assert_close(direction.vector, member.vector)
    np.testing.assert_allclose(direction.vector, weights[0] / (weights[0] @ weights[0]), rtol=1e-6)
    codes = torch.from_numpy(generator(3).standard_normal((5, DIMS))).float()
    torch.testing.assert_close(
        direction.logit(codes + 2 * direction.vector) - direction.logit(codes), 2 * torch.ones(5)
    )
    torch.testing.assert_close(direction.logit(codes), classifier(weights[0]).logit(codes))
    assert direction.unit == member.unit == "logit of smile" and member.slope is None


def test_without_constraints_the_mahalanobis_member_is_haufes_pattern(weights, covariance):
    found = constrained(classifier(weights[0]), covariance, weights[1:], g=0, lam=0).vector.numpy()
    pattern = covariance @ weights[0]
    np.testing.assert_allclose(found, pattern / (weights[0] @ pattern), rtol=1e-5)


@pytest.mark.parametrize(("g", "lam"), [(0, 0), (0.1, 1), (0.5, 10), (1, 1000)])
def test_every_member_costs_least_among_the_steps_that_reach_the_target(weights, covariance, g, lam):
    metric = g * np.eye(DIMS) + (1 - g) * scipy.linalg.inv(covariance) + lam * weights[1:].T @ weights[1:]
    # the conditions of a constrained minimum (Lagrange), solved as one linear system
    system = np.block([[metric, weights[:1].T], [weights[:1], np.zeros((1, 1))]])
    expected = scipy.linalg.solve(system, np.eye(DIMS + 1)[-1])[:DIMS]
    found = constrained(classifier(weights[0]), covariance, weights[1:], g=g, lam=lam).vector.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_large_lam_holds_the_others_still_as_keeping_them_does(weights, covariance):
    soft = constrained(classifier(weights[0]), covariance, weights[1:], g=0, lam=1e7).vector.numpy()
    hard = constrained(classifier(weights[0]), covariance, keep=weights[1:]).vector.numpy()
    np.testing.assert_allclose(soft, hard, atol=1e-5)
    np.testing.assert_allclose(weights @ hard, [1, 0, 0, 0], atol=1e-5)
    # the shortest of all such steps
    free = scipy.linalg.null_space(weights)
    shortest = minimize(lambda c: lengths((hard + free @ c)[None], covariance)[0], np.zeros(free.shape[1]))
    assert shortest.fun == pytest.approx(lengths(hard[None], covariance)[0], rel=1e-5)
    leaks = [np.abs(weights[1:] @ constrained(classifier(weights[0]), covariance, weights[1:], lam=lam).vector.numpy())
             for lam in (0, 1, 10, 1e3)]  # fmt: skip
    assert all(a.sum() > b.sum() for a, b in pairwise(leaks))


def test_mean_differences_go_from_one_kind_to_the_other():
    codes = generator(4).standard_normal((200, DIMS))
    labels = (generator(5).random(200) < 0.3).astype(float)
    codes[labels == 1, 0] += 2
    labels[:20] = np.nan
    centres = class_centres(codes, labels)
    np.testing.assert_allclose(centres, [codes[labels == 0].mean(0), codes[labels == 1].mean(0)])
    weight = np.eye(DIMS)[0] * 3
    direction = mean_difference(classifier(weight), centres)
    difference = centres[1] - centres[0]
    np.testing.assert_allclose(direction.vector, difference / (weight @ difference), rtol=1e-5)
    with pytest.raises(ZsemError, match="mean codes with and without smile"):
        mean_difference(classifier(-weight), centres)
    with pytest.raises(ZsemError, match="one label or none"):
        class_centres(codes, np.ones(200))


def test_centres_of_real_values_are_those_of_a_regression():
    codes = generator(6).standard_normal((300, DIMS))
    values = 5 + 3 * generator(7).standard_normal(300)
    codes[:, 2] += 0.5 * values
    centres = class_centres(codes, values)
    slopes = np.linalg.lstsq(np.stack([values, np.ones(300)], axis=1), codes, rcond=None)[0]
    expected = np.stack([slopes[0] * (values.mean() + sign * values.std()) + slopes[1] for sign in (-1, 1)])
    np.testing.assert_allclose(centres, expected, atol=1e-9)


def test_principal_directions_are_a_standard_deviation_long():
    codes = generator(8).standard_normal((100, DIMS)) @ np.diag(np.linspace(5, 1, DIMS))
    found = np.stack([direction.vector.numpy() for direction in pca(codes, 3)])
    theirs = PCA(3).fit(codes)
    sizes = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(sizes**2, theirs.explained_variance_ * 99 / 100, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(found / sizes[:, None] * theirs.components_, axis=1)), 1, rtol=1e-6)
    assert [d.name for d in pca(codes, 2)] == ["pca_0", "pca_1"] and pca(codes, 1)[0].unit == "standard deviation"
    assert (found[np.arange(3), np.abs(found).argmax(1)] > 0).all()
    with pytest.raises(ZsemError, match="there are 10 components here, not 11"):
        pca(codes, 11)


def test_sefa_finds_what_the_layers_answer_to_most():
    layers = generator(9).standard_normal((40, DIMS)) @ np.diag([9, *np.ones(DIMS - 1)])
    first, second = sefa(layers, 2)
    values, vectors = scipy.linalg.eigh(layers.T @ layers)
    assert abs(first.vector.numpy() @ vectors[:, -1]) == pytest.approx(1, abs=1e-6)
    assert float(np.sum((layers @ second.vector.numpy()) ** 2)) == pytest.approx(values[-2], rel=1e-5)
    spread = np.diag(np.arange(1.0, DIMS + 1))
    scaled = sefa(layers, 1, covariance=spread)[0].vector.numpy()
    unit = first.vector.numpy()
    np.testing.assert_allclose(scaled, unit * math.sqrt(unit @ spread @ unit), rtol=1e-5)


def test_the_weights_by_which_z_enters_tell_how_the_u_net_answers(small_model):
    mean, std = torch.linspace(-1, 1, 8), torch.linspace(0.5, 1.5, 8)
    found = entry_weights(small_model.unet, mean, std)
    layers = [block.embed_z for block in small_model.unet.modules() if getattr(block, "embed_z", None) is not None]
    stacked = torch.cat([layer.weight for layer in layers]).detach().double()
    assert found.shape == stacked.shape
    # the best linear fit to SiLU over many z
    normalised = torch.from_numpy(generator(10).standard_normal((200_000, 8)))
    entered = F.silu(mean + std * normalised)
    slopes = ((entered - entered.mean(0)) * normalised).mean(0)
    np.testing.assert_allclose(found, stacked * slopes, atol=0.02 * np.abs(found).max())
    with pytest.raises(ValueError, match="z does not enter"):
        entry_weights(small_model.encoder, mean, std)


def test_projecting_out_leaves_others_alone_and_keeps_the_unit(weights):
    others = [logistic(classifier(row, f"other {i}")) for i, row in enumerate(weights[1:])]
    for direction in (classifier(weights[0]), logistic(classifier(weights[0]))):
        rest = project_out(direction, [*others, others[0] + others[1]])  # dependent ones do no harm
        np.testing.assert_allclose(weights[1:] @ rest.vector.double().numpy(), 0, atol=1e-5)
        raised = float(direction.gradient @ direction.vector.double())
        assert float(direction.gradient @ rest.vector.double()) == pytest.approx(raised, rel=1e-5)
        assert rest.unit == direction.unit and rest.slope is None
    component = pca(generator(11).standard_normal((30, DIMS)), 1, model="abc")[0]
    rest = project_out(component, others).vector
    span, vector = scipy.linalg.orth(weights[1:].T), component.vector.double().numpy()
    np.testing.assert_allclose(rest, vector - span @ (span.T @ vector), atol=1e-6)
    assert project_out(component, []) is component
    with pytest.raises(ZsemError, match="nothing is left of smile without other"):
        project_out(logistic(classifier(weights[0])), [classifier(3 * weights[0], "other")])
    with pytest.raises(ValueError, match="different spaces or models"):
        project_out(component, [replace(others[0], model="another")])


def test_what_cannot_be_is_said(weights, covariance):
    with pytest.raises(ZsemError, match="smile cannot be changed like this"):
        constrained(classifier(weights[0]), covariance, keep=weights[:1] * 2)
    with pytest.raises(ZsemError, match="smile cannot be changed like this"):
        constrained(classifier(weights[0]), covariance, keep=weights[[1, 1]])
    with pytest.raises(ValueError, match=r"g must be in 0\.\.1"):
        constrained(classifier(weights[0]), covariance, g=2)
    with pytest.raises(ZsemError, match="needs images that differ"):
        shrunk_covariance(np.ones((5, DIMS)))
    with pytest.raises(ValueError, match="comes from no classifier"):
        logistic(pca(generator(12).standard_normal((30, DIMS)), 1)[0])


def test_the_covariance_is_shrunk_and_lengths_are_measured_in_it():
    codes = generator(13).standard_normal((15, DIMS))
    np.testing.assert_allclose(shrunk_covariance(codes), ledoit_wolf(codes)[0])
    steps = generator(14).standard_normal((4, DIMS))
    square = shrunk_covariance(codes)
    whitened = scipy.linalg.solve_triangular(scipy.linalg.cholesky(square, lower=True), steps.T, lower=True)
    np.testing.assert_allclose(lengths(steps, square), np.linalg.norm(whitened, axis=0))


def test_directions_add_up(weights, tmp_path):
    one, two = logistic(classifier(weights[0])), logistic(classifier(weights[1], "hat"))
    both = 2 * one + two
    torch.testing.assert_close(both.vector, 2 * one.vector + two.vector)
    assert (both.name, both.unit, both.slope, both.intercept) == (
        "smile + hat", "logit of smile + logit of hat", None, None,
    )  # fmt: skip
    less = one - two
    torch.testing.assert_close(less.vector, (one + -two).vector)
    assert less.name == "smile - hat"
    first, second = pca(generator(15).standard_normal((30, DIMS)), 2)
    assert (first + second).unit == "standard deviation"
    for other in (
        replace(two, space="h", vector=two.vector[:, None, None]),
        replace(two, model="x"),
        replace(two, vector=two.vector[:3]),
    ):
        with pytest.raises(ValueError, match="different spaces or models"):
            one + other
    assert load_directions(save_directions(tmp_path / "some.safetensors", [both]))[0].name == both.name
