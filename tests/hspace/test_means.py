import numpy as np
import pytest
import torch

from zsem.hspace.collect import Collected, collect_samples
from zsem.hspace.means import extremes, judged_difference, mean_difference
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

LEVELS = (900.0, 500.0, 100.0)


@pytest.fixture(scope="module")
def planted():
    """h of 400 images in which two attributes that go together each have a direction at every timestep."""
    rng = generator(3, 1)
    smile = rng.random(400) < 0.5
    hat = np.where(rng.random(400) < 0.8, smile, ~smile)
    steps = rng.standard_normal((2, len(LEVELS), 4, 2, 2))
    h = 0.1 * rng.standard_normal((400, len(LEVELS), 4, 2, 2))
    h += smile[:, None, None, None, None] * steps[0] + hat[:, None, None, None, None] * steps[1]
    collected = Collected(h=h.astype(np.float32), timesteps=LEVELS, model="abc")
    return collected, {"smile": smile.astype(np.float32), "hat": hat.astype(np.float32)}, steps


def test_the_mean_difference_is_the_planted_step_at_every_timestep(planted):
    collected, _, steps = planted
    rng = generator(3, 2)
    alone = (rng.random(len(collected)) < 0.5).astype(np.float64)
    h = collected.h + alone[:, None, None, None, None] * steps[0] * 2
    found = mean_difference(Collected(h=h.astype(np.float32), timesteps=LEVELS, model="abc"), alone, "own")
    assert found.timesteps == LEVELS and found.space == "h" and found.model == "abc"
    # the other two attributes are independent of this one, and leave noise of their own: 2 sd / sqrt(400)
    assert np.abs(found.vector.numpy() - 2 * steps[0]).max() < 0.5
    exact = h[alone == 1].mean(0) - h[alone == 0].mean(0)
    np.testing.assert_allclose(found.vector.numpy(), exact, atol=1e-5)
    np.testing.assert_allclose(found.mean().vector.numpy(), exact.mean(0), atol=1e-5)


def test_images_without_a_label_are_left_out(planted):
    collected, labels, _ = planted
    some = labels["smile"].copy()
    some[::3] = np.nan
    rows = [i for i in range(len(some)) if i % 3]
    part = Collected(h=collected.h[rows], timesteps=LEVELS, model="abc")
    assert torch.equal(
        mean_difference(collected, some, "smile").vector, mean_difference(part, some[rows], "smile").vector
    )
    with pytest.raises(ZsemError, match="attribute smile: its images all have one label"):
        mean_difference(collected, np.ones(len(collected)), "smile")


def test_what_another_attribute_changes_is_projected_out_over_all_timesteps_together(planted):
    collected, labels, _ = planted
    smile, hat = (mean_difference(collected, labels[name], name) for name in ("smile", "hat"))
    kept = smile.without(hat)
    size = smile.vector.norm() * hat.vector.norm()
    assert abs(float((smile.vector * hat.vector).sum() / size)) > 0.5
    assert abs(float((kept.vector * hat.vector).sum() / size)) < 1e-6
    flat, other = smile.vector.flatten().double(), hat.vector.flatten().double()
    wanted = flat - other * (flat @ other) / (other @ other)
    torch.testing.assert_close(kept.vector.flatten().double(), wanted, atol=1e-5, rtol=0)


def test_the_ends_of_a_ranking_are_labels():
    scores = np.array([0.3, 5.0, -2.0, 1.0, 1.0, -7.0])
    np.testing.assert_array_equal(extremes(scores, 2), [np.nan, 1, 0, 1, np.nan, 0])
    for number in (0, 4):
        with pytest.raises(ZsemError, match="have 1 to 3 at either end"):
            extremes(scores, number)


def test_samples_are_judged_by_any_scorer(model):
    def brightness(images):
        assert images.abs().max() <= 1
        return images.mean(dim=(1, 2, 3))

    found = judged_difference(model, brightness, "bright", number=8, ends=2, steps=3, seed=4)
    collected, images = collect_samples(model, 8, steps=3, seed=4)
    order = images.clamp(-1, 1).mean(dim=(1, 2, 3)).argsort(descending=True).tolist()
    wanted = collected.h[order[:2]].mean(0) - collected.h[order[-2:]].mean(0)
    np.testing.assert_allclose(found.vector.numpy(), wanted, atol=1e-5)
    assert found.model == model.stamp and found.name == "bright"
