"""All figures of a table in one pass, against each measure by itself."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zsem.metrics.distribution import FrechetDistance
from zsem.metrics.kernel import KernelDistance
from zsem.metrics.manifold import PrecisionRecall
from zsem.metrics.samples import (
    Distribution,
    FeatureNetwork,
    features_of,
    judge_distribution,
    note_on,
    over_sets,
)
from zsem.nets.features import EfficientNetLite0
from zsem.nets.inception import InceptionFID
from zsem.values.draws import normal
from zsem.values.errors import ZsemError


class Small(nn.Module):
    """A random linear layer on pixels, in place of a network that takes long; counts its calls."""

    frechet_name, kid_name, components = "FD-small", "KID-small", 6

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal([(0, i) for i in range(48)], (12,)) / 5)
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return images.flatten(1) @ self.weight


def images(number: int, seed: int) -> Tensor:
    return normal([(seed, i) for i in range(number)], (3, 4, 4)).clamp(-1, 1)


@pytest.fixture(scope="module")
def network() -> Small:
    return Small()


@pytest.fixture(scope="module")
def real(network) -> Tensor:
    return features_of(network, images(120, 1).split(50))


@pytest.fixture(scope="module")
def reference(network, real) -> Distribution:
    return Distribution(network, real)


def test_every_figure_is_that_of_its_measure(network, real, reference):
    made = images(90, 2) * 0.7 + 0.2
    before = network.images
    found = judge_distribution(reference, made.split(32), resamples=100)
    assert network.images - before == 90  # one pass
    with torch.no_grad():
        features = network(made)
    frechet, kid, shares = FrechetDistance(real, components=6), KernelDistance(real), PrecisionRecall(real)
    for measure in (frechet, kid, shares):
        measure.update(features)
    assert found.frechet == pytest.approx(frechet.compute().distance, rel=1e-6)
    assert (found.kid, found.kid_deviation) == pytest.approx((kid.compute().distance, kid.compute().deviation))
    assert (found.precision, found.recall) == (shares.compute().precision, shares.compute().recall)
    assert found.frechet_interval is not None and found.precision_interval is not None
    assert found.frechet_interval.low < found.frechet < found.frechet_interval.high
    assert found.precision_interval == shares.compute(resamples=100).precision_interval
    assert (found.frechet_name, found.kid_name, found.n, found.n_reference) == ("FD-small", "KID-small", 90, 120)
    json.dumps(asdict(found), allow_nan=False)


def test_one_reference_serves_many_sets_and_parts_can_be_merged(network, real, reference):
    made = images(60, 3)
    first = judge_distribution(reference, made.split(20))
    judge_distribution(reference, [images(40, 4)])
    assert judge_distribution(reference, made.split(20)) == first
    assert first.frechet_interval is None and first.precision_interval is None
    left, right = Distribution(network, real), reference.empty()
    left.update(made[40:])
    right.update(made[:40])
    left.merge(right)
    merged = left.compute()
    assert replace(merged, frechet=first.frechet) == first
    assert merged.frechet == pytest.approx(first.frechet, rel=1e-9)


def test_worse_images_have_worse_figures(reference):
    good, bad = (judge_distribution(reference, [part]) for part in (images(100, 5), images(100, 5) * 0.2 + 0.5))
    assert good.frechet < bad.frechet / 5
    assert good.kid < bad.kid / 5
    assert good.precision > 0.6 and good.recall > 0.6 > bad.recall


def test_few_images_are_noted(reference):
    assert judge_distribution(reference, [images(20, 6)]).note == (
        "only 20 made and 120 real images: a figure for a table takes 1000 of each"
    )
    assert note_on(1000, 5000, 128) == "" != note_on(999, 5000, 128)
    assert "takes 2049 of each" in note_on(5000, 2000, 2048)


def test_several_sets_have_mean_and_deviation(reference):
    figures = [judge_distribution(reference, [images(30, seed)]) for seed in (7, 8, 9)]
    spread = over_sets(figures)
    assert spread.frechet.mean == pytest.approx(np.mean([f.frechet for f in figures]))
    assert spread.recall.deviation == pytest.approx(np.std([f.recall for f in figures], ddof=1))
    assert (spread.sets, spread.n, spread.frechet_name, spread.note) == (3, 30, "FD-small", figures[0].note)
    assert over_sets(figures[:1]).kid.deviation is None
    for mixed in ([], [figures[0], replace(figures[1], n=31)]):
        with pytest.raises(ValueError, match="equal numbers"):
            over_sets(mixed)


def test_what_cannot_be_judged_is_named(network, reference):
    broken = images(8, 10)
    broken[3] = torch.nan
    with pytest.raises(ZsemError, match="features that are not finite numbers"):
        judge_distribution(reference, [broken])
    with pytest.raises(ValueError, match="no images"):
        features_of(network, [])
    with pytest.raises(ZsemError, match="needs more real images"):
        Distribution(network, torch.zeros(6, 12))


def test_only_the_inception_of_fid_gives_a_figure_that_is_called_so():
    lite, inception = EfficientNetLite0(), InceptionFID()
    assert isinstance(lite, FeatureNetwork) and isinstance(inception, FeatureNetwork)
    assert (lite.frechet_name, lite.kid_name, lite.components) == ("FD-EffLite0", "KID-EffLite0", 128)
    assert (inception.frechet_name, inception.kid_name, inception.components) == ("FID", "KID", 2048)
