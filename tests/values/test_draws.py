"""Draws depend on their names alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.values import draws

names = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 500)), min_size=1, max_size=5)


@given(names)
def test_a_draw_does_not_depend_on_its_batch(batch):
    together = draws.normal(batch, (2, 3))
    for name, row in zip(batch, together, strict=True):
        assert torch.equal(draws.normal([name], (2, 3))[0], row)


def test_different_names_give_independent_normal_numbers():
    x = draws.normal([(0, i) for i in range(200)], (500,))
    assert abs(x.mean()) < 0.01
    assert abs(x.var() - 1) < 0.02
    correlation = torch.corrcoef(x) - torch.eye(200)
    assert correlation.abs().max() < 0.25


def test_texts_have_names_of_their_own():
    names = {draws.name_of(f"folder/{i}.png") for i in range(1000)}
    assert len(names) == 1000
    assert draws.name_of("a") == (0xCA978112, 0xCA1BBDCA)  # the first eight bytes of its SHA-256
