"""The nearest-neighbour ratio against loops, and on sets of which it is known what is copied."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from zsem.metrics.memorisation import Memorisation, MemorisationFigures
from zsem.values.draws import normal
from zsem.values.errors import ZsemError


def cloud(number: int, seed: int) -> Tensor:
    return normal([(seed, i) for i in range(number)], (6,))


TRAINING, HELD_OUT = cloud(300, 0), cloud(200, 1)


def figures(made: Tensor, **options: int) -> MemorisationFigures:
    measure = Memorisation(TRAINING, HELD_OUT)
    measure.update(made)
    return measure.compute(**{"resamples": 200, **options})


def by_loops(points: Tensor) -> list[float]:
    return [min(float(np.linalg.norm(p - t)) for t in TRAINING.numpy()) for p in points.numpy()]


def test_the_ratio_equals_loops_over_all_pairs():
    made = 1.2 * cloud(50, 2)
    found, distances, usual = figures(made), by_loops(made), by_loops(HELD_OUT)
    assert found.ratio == pytest.approx(np.mean(distances) / np.mean(usual), rel=1e-6)
    threshold = np.quantile(usual, 0.01)
    assert found.near == pytest.approx(np.mean([d < threshold for d in distances]))
    nearest = int(np.argmin(distances))
    assert found.pairs[0].made == nearest
    assert found.pairs[0].ratio == pytest.approx(min(distances) / np.mean(usual), rel=1e-6)
    there = (TRAINING[found.pairs[0].training] - made[nearest]).norm()
    assert float(there) == pytest.approx(min(distances), rel=1e-6)
    assert (found.n, found.n_training, found.n_held_out) == (50, 300, 200)
    json.dumps(asdict(found), allow_nan=False)


def test_new_images_have_a_ratio_of_one():
    found = figures(cloud(400, 3))
    assert found.interval.low < 1 < found.interval.high
    assert found.interval.high - found.interval.low < 0.25
    assert found.near < 0.04


def test_planted_copies_are_found():
    made = cloud(100, 4)
    planted = {7: 250, 31: 3, 99: 120}
    for place, source in planted.items():
        made[place] = TRAINING[source]
    found = figures(made)
    assert {pair.made: pair.training for pair in found.pairs[:3]} == planted
    assert [pair.ratio for pair in found.pairs[:3]] == [0, 0, 0] and found.pairs[3].ratio > 0.1
    assert found.near >= 0.03 and len(found.pairs) == 8
    all_of_them = figures(TRAINING[:50] + 1e-3)
    assert all_of_them.ratio < 0.01 and all_of_them.near == 1 and all_of_them.interval.high < 0.01


def test_a_narrower_interval_takes_more_images():
    few, many = (figures(cloud(number, 5)).interval for number in (20, 400))
    assert many.high - many.low < few.high - few.low


def test_parts_are_merged_and_orders_make_no_difference():
    made, measure = cloud(60, 6), Memorisation(TRAINING, HELD_OUT)
    left, right = measure.empty(), measure.empty()
    left.update(made[:25])
    right.update(made[25:50])
    right.update(made[50:])
    left.merge(right)
    whole = figures(made)
    assert left.compute(resamples=200) == whole
    assert right.compute(resamples=10).n == 35
    turned = figures(made.flip(0))
    assert replace(turned, pairs=()) == replace(whole, pairs=())
    assert [59 - pair.made for pair in turned.pairs] == [pair.made for pair in whole.pairs]


def test_what_cannot_be_told():
    with pytest.raises(ValueError, match="no images"):
        Memorisation(TRAINING, HELD_OUT).compute()
    with pytest.raises(ValueError, match="different real images"):
        Memorisation(TRAINING, HELD_OUT).merge(Memorisation(TRAINING[1:], HELD_OUT))
    with pytest.raises(ZsemError, match="every held-out image is a training image"):
        Memorisation(TRAINING, TRAINING[:20])
    with pytest.raises(ZsemError, match="give some of both"):
        Memorisation(TRAINING, torch.zeros(0, 6))
