import numpy as np
import pytest

from zsem.metrics.intervals import bootstrap, interval_around, interval_of_mean, percentiles, wilson
from zsem.values.draws import generator


def test_resamples_draw_as_many_as_there_are():
    drawn: list[np.ndarray] = []
    samples = bootstrap(lambda counts: drawn.append(counts) or float(counts[0]), 5, resamples=400, seed=0)
    assert all(counts.sum() == 5 and counts.shape == (5,) for counts in drawn)
    assert samples.tolist() == [counts[0] for counts in drawn]
    assert np.mean(drawn, axis=0) == pytest.approx(np.ones(5), abs=0.2)  # each as often as the others
    assert samples.var() == pytest.approx(0.8, abs=0.15)  # binomial: 5 draws with chance 1/5


def test_the_interval_of_a_mean_is_that_of_the_central_limit():
    values = generator(1).normal(3, 2, 400)
    interval = interval_of_mean(values, resamples=2000, seed=0)
    error = values.std() / 400**0.5
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert interval == interval_of_mean(values[::-1], resamples=2000, seed=0)
    assert interval != interval_of_mean(values, resamples=2000, seed=1)


def test_biased_samples_are_moved_to_the_figure():
    samples = generator(2).normal(50, 1, 1000)
    moved, plain = interval_around(10.0, samples), percentiles(samples)
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low)
    assert (moved.low, moved.high) == pytest.approx((10 - 1.96, 10 + 1.96), abs=0.2)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (500, 1000), (1000, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits, n):
    """Where the share lies 1.96 of a proportion's own standard deviations from it (Wilson 1927, eq. 1)."""
    found = wilson(hits / n, n)
    for end in (found.low, found.high):
        assert (hits / n - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, rel=1e-5, abs=1e-12)
    assert found.low < found.high
