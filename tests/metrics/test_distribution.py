import math

import numpy as np
import pytest
import scipy.linalg
import torch

from zsem.metrics.distribution import FrechetDistance, frechet_distance
from zsem.values.draws import generator, normal
from zsem.values.errors import ZsemError


def covariance(size: int, seed: int) -> torch.Tensor:
    root = torch.from_numpy(generator(seed).standard_normal((size, size)))
    return root @ root.mT / size


def by_square_root(mean_1, cov_1, mean_2, cov_2) -> float:
    """The textbook form, through the square root of a matrix that is not symmetric."""
    root = scipy.linalg.sqrtm(cov_1 @ cov_2)
    return float(np.sum((mean_1 - mean_2) ** 2) + np.trace(cov_1 + cov_2 - 2 * root.real))


def features(number: int, size: int, seed: int) -> torch.Tensor:
    """Correlated features with a mean of their own."""
    mixing = generator(seed, 1).standard_normal((size, size)).astype(np.float32)
    return normal([(seed, i) for i in range(number)], (size,)) @ torch.from_numpy(mixing) + seed


def test_commuting_gaussians_have_a_closed_form():
    a, b = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.0]).double()
    turn = torch.linalg.qr(covariance(3, 0))[0]
    means = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]).double()
    expected = (1 + 4 + 4) + (2 - 1) ** 2 + (1 - 3) ** 2 + 0.5**2
    covariances = [turn @ torch.diag(values) @ turn.mT for values in (a, b)]
    found = frechet_distance(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("size", [2, 7, 40])
def test_any_gaussians_agree_with_the_matrix_square_root(size):
    means = normal([(size, 0), (size, 1)], (size,)).double()
    a, b = covariance(size, 1), covariance(size, 2)
    expected = by_square_root(means[0].numpy(), a.numpy(), means[1].numpy(), b.numpy())
    assert frechet_distance(means[0], a, means[1], b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(means[1], b, means[0], a) == pytest.approx(expected, rel=1e-8)
    # nothing is left of equal Gaussians, a singular one included
    singular = a - torch.linalg.eigvalsh(a)[0] * torch.eye(size)
    for same in (a, singular):
        assert frechet_distance(means[0], same, means[0], same) == pytest.approx(0, abs=1e-6)


def test_features_are_compared_on_the_real_ones_principal_components():
    real, made = features(300, 20, 1), features(90, 20, 2)
    distance = FrechetDistance(real, components=6)
    distance.update(made)
    figures = distance.compute()
    centred = real.double().numpy() - real.double().numpy().mean(0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:6].T
    x, y = (part.double().numpy() @ basis for part in (made, real))
    expected = by_square_root(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert figures.distance == pytest.approx(expected, rel=1e-7)
    assert (figures.n, figures.n_reference) == (90, 300)


def test_a_shift_along_the_first_component_is_counted_squared():
    real = features(200, 10, 3)
    direction = torch.linalg.svd(real - real.mean(0)).Vh[0]
    distance = FrechetDistance(real, components=4)
    distance.update(real + 7 * direction)
    assert distance.compute().distance == pytest.approx(49, rel=1e-4)


def test_batches_and_merged_counts_make_no_difference():
    real, made = features(200, 16, 4), features(64, 16, 5)
    whole, first, second = (FrechetDistance(real, components=8) for _ in range(3))
    whole.update(made)
    for part in made[:40].split(7):
        first.update(part)
    second.update(made[40:])
    first.merge(second)
    assert first.compute().n == 64
    assert first.compute().distance == pytest.approx(whole.compute().distance, rel=1e-9)


def test_what_cannot_be_compared_is_refused():
    real = features(130, 140, 6)
    with pytest.raises(ZsemError, match="more real images than that, not 128"):
        FrechetDistance(real[:128])
    distance = FrechetDistance(real)
    distance.update(real[:1])
    with pytest.raises(ValueError, match="two images"):
        distance.compute()
    with pytest.raises(ValueError, match="cannot be merged"):
        distance.merge(FrechetDistance(real[:129]))
    distance.update(real[1:2])
    assert math.isfinite(distance.compute().distance)  # fewer images than components: singular, and still a number


def test_an_emptied_measure_counts_anew():
    real, made = features(200, 16, 4), features(64, 16, 5)
    reference = FrechetDistance(real, components=8)
    reference.update(features(30, 16, 6))
    again, expected = reference.empty(), FrechetDistance(real, components=8)
    for measure in (again, expected):
        measure.update(made)
    assert again.compute() == expected.compute()
    assert reference.compute().n == 30


def test_two_halves_of_one_set_are_near():
    both = features(1000, 8, 7)
    half, shifted = (FrechetDistance(both[:500], components=4) for _ in range(2))
    half.update(both[500:])
    shifted.update(both[500:] + both.std(0))
    assert 0 < half.compute().distance < 0.02 * shifted.compute().distance


def test_the_interval_tells_how_sets_of_that_size_vary():
    """Of the intervals of 60 sets from one distribution, 19 in 20 hold the mean of all."""
    real, number, sets = features(400, 12, 8), 100, 60
    reference, held, widths, distances = FrechetDistance(real, components=12), [], [], []
    pool = features(400 + number * sets, 12, 8)
    for made in (pool[400:] + 0.5).split(number):
        measure = reference.empty()
        measure.update(made)
        distances.append(measure.compute().distance)
        interval = reference.interval(made, resamples=60, seed=0)
        held.append(interval)
        widths.append(interval.high - interval.low)
    mean, deviation = np.mean(distances), np.std(distances)
    assert np.mean([i.low <= mean <= i.high for i in held]) >= 0.85
    assert np.mean(widths) == pytest.approx(2 * 1.96 * deviation, rel=0.35)
    assert reference.interval(made, resamples=60, seed=0) == held[-1] != reference.interval(made, resamples=60, seed=1)
