from dataclasses import replace

import numpy as np
import pytest
import torch

from zsem.diffusion.denoiser import bind
from zsem.hspace.boundary import Reach, boundary, chosen, read_attributes
from zsem.hspace.collect import Collected
from zsem.hspace.engine import Edited
from zsem.semantics.probes import Probe
from zsem.values.draws import generator
from zsem.values.prediction import Condition

LEVELS = (900.0, 400.0, 100.0)


@pytest.fixture(scope="module")
def sides():
    """h of images in which "smile" can be read at the middle timestep, less at the last and not at the first."""
    rng = generator(6, 1)
    step = rng.standard_normal((4, 2, 2))
    found = []
    for number in (80, 60):
        smile = (rng.random(number) < 0.5).astype(np.float32)
        h = rng.standard_normal((number, 3, 4, 2, 2))
        h += smile[:, None, None, None, None] * step * np.array([0, 2, 0.5])[:, None, None, None]
        age = h[:, 2, 0, 0, 0] + 0.1 * rng.standard_normal(number)
        collected = Collected(h=h.astype(np.float32), timesteps=LEVELS, model="abc")
        found.append((collected, {"smile": smile, "age": age.astype(np.float32)}))
    return found


@pytest.fixture(scope="module")
def readings(sides):
    (train, labels), (test, test_labels) = sides
    return read_attributes(train, labels, test, test_labels, resamples=50)


def test_the_curve_tells_where_an_attribute_can_be_read(readings):
    curve = readings["smile"]
    assert [one.timestep for one in curve] == list(LEVELS)
    assert curve[0].figures.score < 0.7 < curve[1].figures.score
    assert chosen(curve).timestep == 400 and chosen(curve, 120).timestep == 100
    assert curve[1].accuracy is not None and curve[1].accuracy > 0.9 > curve[0].accuracy
    summary = curve[1].summary()
    assert summary["auroc"] == curve[1].figures.score and summary["timestep"] == 400
    assert [one.accuracy for one in readings["age"]] == [None] * 3
    assert chosen(readings["age"]).timestep == 100 and readings["age"][2].figures.measure == "r2"


def test_figures_are_those_of_a_probe_on_the_same_numbers(sides, readings):
    (train, labels), (test, test_labels) = sides
    h, held_out = (part.at(400).reshape(len(part), -1) for part in (train, test))
    probe = Probe().fit(h, labels["smile"])
    np.testing.assert_allclose(readings["smile"][1].probe.coef_, probe.coef_)
    right = (probe.predict(held_out) > 0.5) == (test_labels["smile"] == 1)
    assert readings["smile"][1].accuracy == pytest.approx(right.mean())


def test_other_timesteps_do_not_go_together(sides):
    (train, labels), (test, test_labels) = sides
    other = Collected(h=test.h[:, :2], timesteps=LEVELS[:2], model="abc")
    with pytest.raises(ValueError, match="same timesteps"):
        read_attributes(train, labels, other, test_labels)


def test_an_amount_of_one_is_one_logit(sides, readings):
    (train, _), _ = sides
    found = boundary(train, readings["smile"][1], "smile")
    assert found.timesteps == (400.0,) and found.space == "h" and tuple(found.vector.shape) == (1, 4, 2, 2)
    h = torch.from_numpy(train.at(400))
    probe = readings["smile"][1].probe
    torch.testing.assert_close(
        found.logit(h).double(), torch.from_numpy(probe.decision_function(h.flatten(1))), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(found.logit(h - 2 * found.vector), found.logit(h) - 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooled", [False, True])
def test_every_image_is_brought_to_the_same_distance(sides, pooled):
    (train, labels), (test, test_labels) = sides
    if pooled:
        train, test = (
            Collected(h=part.h.mean(axis=(3, 4), keepdims=True), timesteps=LEVELS, model="abc")
            for part in (train, test)
        )
    readings = read_attributes(train, {"smile": labels["smile"]}, test, {"smile": test_labels["smile"]}, resamples=20)
    found = boundary(train, readings["smile"][1], "smile")
    h = torch.from_numpy(sides[1][0].at(400))
    moved = h + Reach(found, -1.5)(h, torch.full((len(h),), 400.0))
    seen = moved.mean(dim=(2, 3), keepdim=True) if pooled else moved
    torch.testing.assert_close(found.logit(seen), torch.full((len(h),), -1.5), atol=1e-4, rtol=0)
    assert found.logit(h.mean(dim=(2, 3), keepdim=True) if pooled else h).std() > 0.5


@torch.no_grad()
def test_a_distance_is_reached_while_a_denoiser_answers(model, model_noise, random_direction):
    normal = random_direction(model, timesteps=(500.0,))
    square = float(normal.vector.square().sum())
    direction = replace(normal, vector=normal.vector / square, slope=square, intercept=1.0)
    seen = []

    class Spy:
        down = model.unet.down

        def up(self, h, context):
            seen.append(h)
            return model.unet.up(h, context)

        def __call__(self, *told):
            return self.up(*self.down(*told))

    denoise = replace(model.denoiser, network=Spy())
    x_t, t = model_noise.double(), torch.full((4,), 500.0, dtype=torch.float64)
    edited = bind(Edited(denoise, Reach(direction, 3.0)), Condition())
    edited(x_t, t)
    torch.testing.assert_close(direction.logit(seen[-1]), torch.full((4,), 3.0), atol=1e-3, rtol=0)
    edited(x_t, t - 1)
    assert torch.equal(seen[-1], model.bottleneck(x_t.float(), 499))
