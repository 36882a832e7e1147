"""KID against loops over pairs, torchmetrics, and what an unbiased estimate promises."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from zsem.metrics.kernel import KernelDistance, KernelFigures, squared_mmd
from zsem.values.draws import normal


def features(number: int, size: int = 6, seed: int = 0) -> Tensor:
    return normal([(seed, i) for i in range(number)], (size,))


def figures(real: Tensor, made: Tensor, **options: int) -> KernelFigures:
    measure = KernelDistance(real, **options)
    measure.update(made)
    return measure.compute()


def test_it_equals_a_loop_over_pairs():
    x, y = features(5).double().numpy(), features(7, seed=1).double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / 6 + 1) ** 3

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def within(z: np.ndarray) -> float:
        return mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    expected = within(x) + within(y) - 2 * mean([k(a, b) for a in x for b in y])
    assert squared_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_it_equals_that_of_torchmetrics():
    real, made = features(60, 30), features(60, 30, seed=1) + 0.3
    with pytest.warns(UserWarning, match="save all extracted features"):
        # one subset with everything in it, so that its global random numbers make no difference
        reference = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=60)
    reference.update(real.double(), real=True)
    reference.update(made.double(), real=False)
    expected = float(reference.compute()[0])
    assert squared_mmd(real.double().numpy(), made.double().numpy()) == pytest.approx(expected, rel=1e-10)


def test_subsets_agree_with_the_whole_and_say_how_they_vary():
    real, made = features(300), features(200, seed=1) + 0.4
    found = figures(real, made)
    assert (found.n, found.n_reference, found.subset_size) == (200, 300, 100)
    whole = squared_mmd(real.double().numpy(), made.double().numpy())
    assert found.distance == pytest.approx(whole, abs=4 * found.deviation / 10)
    small = figures(real, made, subset_size=20)
    assert small.subset_size == 20 and small.deviation > 1.5 * found.deviation > 0
    # the shift moves the mean of the kernel far above what the noise does
    assert found.distance > 3 * found.deviation


def test_it_is_unbiased():
    """For equal distributions the mean over repeated draws is 0 within its error, however few images there are."""
    found = [
        squared_mmd(features(10, seed=2 * i).double().numpy(), features(10, seed=2 * i + 1).double().numpy())
        for i in range(400)
    ]
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < -error  # so it may be below 0, as squares that are clipped are not


@settings(max_examples=30)
@given(cuts=st.sets(st.integers(1, 39), max_size=5), order=st.permutations(range(6)))
def test_neither_batches_nor_the_order_of_merging_make_a_difference(cuts, order):
    real, made = features(30), features(40, seed=1)
    expected = figures(real, made, subsets=5)
    bounds = [0, *sorted(cuts), 40]
    parts = []
    for start, end in pairwise(bounds):
        parts.append(KernelDistance(real, subsets=5))
        parts[-1].update(made[start:end])
    parts = [parts[i] for i in order if i < len(parts)]
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == expected


def test_an_emptied_measure_counts_anew():
    real, made = features(30), features(40, seed=1)
    measure = KernelDistance(real)
    measure.update(features(20, seed=2))
    again = measure.empty()
    again.update(made)
    assert again.compute() == figures(real, made)
    assert measure.compute().n == 20


def test_seeds_name_the_subsets():
    real, made = features(30), features(40, seed=1)
    assert figures(real, made) == figures(real, made.mT.contiguous().mT)  # however they lie in memory
    assert figures(real, made).distance != figures(real, made, seed=1).distance


def test_what_cannot_be_compared_is_refused():
    real = features(30)
    with pytest.raises(ValueError, match="four images of each kind, not 3 made and 30 real"):
        figures(real, features(3))
    with pytest.raises(ValueError, match="different real images"):
        KernelDistance(real).merge(KernelDistance(real + 1))
    with pytest.raises(ValueError, match="not 0 made"):
        KernelDistance(real).compute()
