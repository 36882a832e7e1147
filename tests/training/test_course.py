"""Learning rates against their closed forms."""

import math

import pytest

from zsem.training.course import rate_factor, time_goal
from zsem.values.errors import ZsemError


def test_a_number_of_iterations_ends_on_a_cosine():
    factors = [rate_factor(1000, share, warmup=10, decay_share=None) for share in (0.0, 0.25, 0.5, 1.0)]
    assert factors == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0], abs=1e-12)


def test_a_time_limit_ends_on_a_line():
    factors = [rate_factor(1000, share, warmup=10, decay_share=0.2) for share in (0.0, 0.8, 0.9, 1.0)]
    assert factors == pytest.approx([1, 1, 0.5, 0], abs=1e-12)


def test_both_rise_from_zero():
    for decay_share in (None, 0.2):
        factors = [rate_factor(i, 0.0, warmup=4, decay_share=decay_share) for i in range(6)]
        assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rate_factor(0, 0.0, warmup=0, decay_share=None) == 1


def test_one_length_is_wanted():
    assert time_goal(5, None) == 5
    assert time_goal(None, 2.0) == 120
    for lengths in ((None, None), (5, 2.0), (0, None), (None, -1.0)):
        with pytest.raises(ZsemError):
            time_goal(*lengths)
