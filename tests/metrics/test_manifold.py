"""Precision and recall against loops, and on sets whose supports are known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zsem.metrics import manifold
from zsem.metrics.manifold import PrecisionRecall, PrecisionRecallFigures
from zsem.values.draws import normal
from zsem.values.errors import ZsemError


def cloud(number: int, seed: int = 0, centre: float = 0.0, size: int = 4) -> Tensor:
    return normal([(seed, i) for i in range(number)], (size,)) + centre


def figures(real: Tensor, made: Tensor, **options: int) -> PrecisionRecallFigures:
    measure = PrecisionRecall(real)
    measure.update(made)
    return measure.compute(**options)


def by_loops(points: np.ndarray, others: np.ndarray, k: int) -> float:
    """Share of points within the k-th neighbour's distance of some of the others (1904.06991, eq. 1)."""
    inside = 0
    radii = []
    for i, other in enumerate(others):
        distances = sorted(np.linalg.norm(other - o) for j, o in enumerate(others) if j != i)
        radii.append(distances[k - 1])
    for point in points:
        inside += any(np.linalg.norm(point - o) <= r for o, r in zip(others, radii, strict=True))
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_both_equal_loops_over_all_pairs(k, monkeypatch):
    monkeypatch.setattr(manifold, "WORKING_MEMORY", 0.01)  # several blocks
    real, made = cloud(60), cloud(45, seed=1, centre=0.8)
    measure = PrecisionRecall(real, neighbours=k)
    measure.update(made)
    found = measure.compute()
    x, y = real.double().numpy(), made.double().numpy()
    assert 0.1 < found.precision < 0.95 and 0.1 < found.recall < 0.95
    assert (found.precision, found.recall) == pytest.approx((by_loops(y, x, k), by_loops(x, y, k)))
    assert (found.n, found.n_reference, found.precision_interval) == (45, 60, None)


def test_known_supports_are_told():
    two = torch.cat([cloud(200, 0, -20), cloud(200, 1, 20)])
    one, apart = cloud(200, 2, 20), cloud(200, 3, 60)
    same = figures(two, torch.cat([cloud(200, 4, -20), cloud(200, 5, 20)]))
    assert same.precision > 0.85 and same.recall > 0.85
    half = figures(two, one)  # one of two kinds is made, and made well
    assert half.precision > 0.85 and 0.4 < half.recall <= 0.5
    spoiled = figures(two, torch.cat([one, apart]))  # half of what is made is nothing real
    assert 0.4 < spoiled.precision <= 0.5 and 0.4 < spoiled.recall <= 0.5
    foreign = figures(two, apart)
    assert (foreign.precision, foreign.recall) == (0, 0)
    copies = figures(two, two)
    assert (copies.precision, copies.recall) == (1, 1)


def test_one_image_made_again_and_again_has_precision_and_no_recall():
    real = cloud(100)
    made = real[:1].expand(50, -1)
    assert figures(real, made).precision == 1
    assert figures(real, made).recall <= 0.01  # that image alone


def test_the_interval_of_precision_is_that_of_a_share():
    real, made = cloud(100), cloud(400, seed=1, centre=1.8)
    found = figures(real, made, resamples=1000)
    p = found.precision
    error = (p * (1 - p) / 400) ** 0.5
    assert 0.2 < p < 0.8 and found.precision_interval is not None
    assert found.precision_interval.low == pytest.approx(p - 1.96 * error, abs=0.3 * error)
    assert found.precision_interval.high == pytest.approx(p + 1.96 * error, abs=0.3 * error)


@settings(max_examples=20)
@given(order=st.permutations(range(4)))
def test_the_order_of_merging_makes_no_difference(order):
    real, made = cloud(30), cloud(40, seed=1, centre=0.5)
    expected = figures(real, made, resamples=20)
    reference = PrecisionRecall(real)
    parts = [reference.empty() for _ in range(4)]
    for part, batch in zip(parts, made.split(10), strict=True):
        part.update(batch)
    merged = reference.empty()
    for i in order:
        merged.merge(parts[i])
    assert merged.compute(resamples=20) == expected
    assert parts[0].compute().n == 10


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ZsemError, match="more real images than that, not 3"):
        PrecisionRecall(cloud(3))
    with pytest.raises(ValueError, match="more made images than that, not 3"):
        figures(cloud(10), cloud(3))
    with pytest.raises(ValueError, match="different real images"):
        PrecisionRecall(cloud(10)).merge(PrecisionRecall(cloud(11)))
