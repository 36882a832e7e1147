"""The power-function average against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.training import ema


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_published_in_edm2(sigma_rel, gamma):
    assert ema.power_exponent(sigma_rel) == pytest.approx(gamma, abs=0.01)


@given(st.floats(0.01, 0.27))
def test_the_exponent_has_the_asked_width(sigma_rel):
    gamma = ema.power_exponent(sigma_rel)
    t = np.linspace(0, 1, 200_001)[1:]
    weight = t**gamma / np.sum(t**gamma)
    mean = np.sum(weight * t)
    assert np.sqrt(np.sum(weight * t**2) - mean**2) == pytest.approx(sigma_rel, rel=1e-2)


def test_the_average_is_the_weighted_sum_of_the_past():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    n, gamma = 3000, ema.power_exponent(0.1)
    for t in range(1, n + 1):
        model.weight.data.fill_(t / n)
        ema.update(average, model, ema.decay(t, 0.1))
    expected = (gamma + 1) / (gamma + 2)  # the mean of t under the density t^gamma
    assert average.weight.item() == pytest.approx(expected, rel=1e-3)


def test_an_average_updated_seldom_is_nearly_the_same():
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    n, gamma, updates = 3000, ema.power_exponent(0.05), 0
    for t in range(1, n + 1):
        model.weight.data.fill_(t / n)
        if since := ema.steps_since_update(t):
            updates += 1
            ema.update(average, model, ema.decay(t, 0.05, since))
    assert updates < n / 3
    assert average.weight.item() == pytest.approx((gamma + 1) / (gamma + 2), rel=1e-3)


def test_widths_that_no_power_has_are_refused():
    with pytest.raises(ValueError, match="between 0 and"):
        ema.power_exponent(0.5)
