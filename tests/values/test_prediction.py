"""Conditions join, predictions stay consistent when steered."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.values.prediction import Condition, Prediction


@given(st.floats(0.01, 100), st.floats(-10, 10))
def test_steering_keeps_x_t(u, amount):
    generator = torch.Generator().manual_seed(0)
    x0, eps, d_eps = (torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    level = torch.full((2, 1, 1, 1), u, dtype=torch.float64)
    steered = Prediction(x0=x0, eps=eps).steer(amount * d_eps, level)
    torch.testing.assert_close(steered.x0 + u * steered.eps, x0 + u * eps)


def test_conditions_join_field_by_field():
    a, b = Condition(z=torch.zeros(1, 2)), Condition(z=torch.ones(2, 2))
    joined = Condition.cat(a, b)
    assert joined.z is not None
    assert joined.z.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert joined.classes is None
    with pytest.raises(ValueError, match="same fields"):
        Condition.cat(a, Condition(classes=torch.tensor([1])))


def test_equality_is_to_the_bit():
    z = torch.randn(1, 4)
    assert Condition(z=z).equal(Condition(z=z.clone()))
    assert not Condition(z=z).equal(Condition(z=z + 1e-6))
    assert not Condition(z=z).equal(Condition())
