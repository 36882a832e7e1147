import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from zsem.metrics.perceptual import PairDistance, mean_distance
from zsem.nets.perceptual import load_stlpips
from zsem.values.draws import normal


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean((1, 2, 3))


def images(number: int, seed: int = 0, side: int = 8) -> Tensor:
    return normal([(seed, i) for i in range(number)], (3, side, side)).clamp(-1, 1)


def test_the_mean_is_over_aligned_pairs():
    x, y = images(10), images(10, seed=1)
    found = mean_distance(squared, x, y, batch_size=4)
    values = squared(x, y).double().numpy()
    assert found.n == 10 and found.distance == pytest.approx(values.mean())
    assert found.interval.low < found.distance < found.interval.high
    error = values.std() / 10**0.5
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert mean_distance(squared, x, x).distance == 0


@given(order=st.permutations(range(5)))
def test_the_order_of_merging_makes_no_difference(order):
    x, y = images(20), images(20, seed=1)
    parts = [PairDistance(squared) for _ in range(5)]
    for part, a, b in zip(parts, x.split(4), y.split(4), strict=True):
        part.update(a, b)
    merged = PairDistance(squared)
    for i in order:
        merged.merge(parts[i])
    assert merged.compute(resamples=50) == mean_distance(squared, x, y, resamples=50)


def test_st_lpips_orders_samplers_by_their_consistency():
    """Images that change little from one number of steps to the next are nearer than those that change much."""
    x = torch.nn.functional.interpolate(images(4), (64, 64), mode="bicubic")
    network = load_stlpips()
    near, far = (mean_distance(network, x, x + size * images(4, 2, 64), resamples=100) for size in (0.05, 0.5))
    assert near.interval.high < far.interval.low
    by_hand = np.mean([network(x[i : i + 1], (x + 0.05 * images(4, 2, 64))[i : i + 1]).item() for i in range(4)])
    assert near.distance == pytest.approx(by_hand, rel=1e-4)


def test_nothing_has_no_mean_and_lengths_must_agree():
    with pytest.raises(ValueError, match="no pairs"):
        PairDistance(squared).compute()
    with pytest.raises((ValueError, TypeError)):
        mean_distance(squared, images(3), images(4))
