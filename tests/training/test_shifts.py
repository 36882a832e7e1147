"""Edits that are trained on the common loop: they learn, they resume, they reload and edit to the bit the same."""

import json
from dataclasses import replace

import pytest
import torch

from zsem.diffusion.denoiser import bind
from zsem.hspace.alternatives import Target, tuned
from zsem.hspace.directional import ShiftObjective
from zsem.hspace.editable import invert
from zsem.hspace.edits import symmetric
from zsem.hspace.embeddings import Goal
from zsem.hspace.engine import Shifts
from zsem.hspace.latents import invert_as_published
from zsem.models.diffusion import DiffusionModel
from zsem.models.shift import LearnedShift, load_shifts
from zsem.training.shifts import RECIPES, TUNING, learn_shift, tune
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch

RED = torch.tensor([1.0, 0.0, 0.0])


def colours(images):
    return images.mean(dim=(2, 3))


GOAL = Goal(embedding=colours, direction=RED, name="red", reach=0.02)


@pytest.fixture(scope="module")
def model(random_diffusion):
    """A random network in which h is heard: what it predicts is v, so that x0 stays small."""
    return random_diffusion(8)


@pytest.fixture(scope="module")
def images():
    return normal([(5, i) for i in range(8)], (3, 8, 8)).tanh()


def quiet(line: str) -> None:
    """Nobody listens."""


RECIPE = replace(
    RECIPES["corrected"],
    steps=5,
    settings=replace(RECIPES["corrected"].settings, batch_size=4, learning_rate=1e-2, warmup=2, log_every=1),
)


@pytest.fixture(scope="module")
def trained(model, images, tmp_path_factory):
    """A shift towards red, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("red")
    return learn_shift(model, images, GOAL, folder, recipe=RECIPE, t_edit=100, iterations=30, say=quiet), folder


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_loss_falls_and_images_move_as_they_should(trained):
    shift, folder = trained
    found = losses(folder)
    assert len(found) == 30 and found[-1] < 0.6 * found[0]
    figures = shift.history["figures"]
    assert figures["cosine"] > 0.8 and figures["progress"] > 0.5
    assert list((folder / "pictures").glob("*.png"))


def test_edits_of_real_images_go_where_they_should(trained, model, images):
    shift, _ = trained
    others = normal([(6, i) for i in range(4)], (3, 8, 8)).tanh()  # none of the training's
    codes = invert(model, others, steps=5)
    interval = (shift.config.t_edit, 999.0)
    change = {
        amount: colours(symmetric(model, codes, Shifts([(amount, shift)]), interval=interval) - model.decode(codes))
        for amount in (0, 0.5, 1)
    }
    assert not change[0].any()
    assert bool((change[1] @ RED > 0.001).all())
    assert float((change[0.5] @ RED).mean()) < float((change[1] @ RED).mean())


def test_a_saved_shift_edits_to_the_bit_the_same(trained, model, images):
    shift, folder = trained
    (again,) = load_shifts(folder)
    assert isinstance(again, LearnedShift) and again.stamp == shift.stamp
    assert again.config.t_edit == 100 and again.model == model.stamp and again.name == "red"
    codes = invert(model, images, steps=5)
    assert torch.equal(symmetric(model, codes, again), symmetric(model, codes, shift))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
            break
    try:
        with pytest.raises(ZsemError, match="'red' belongs to model"):
            symmetric(model, codes, again)
    finally:
        with torch.no_grad():
            next(model.parameters()).sub_(0.01)


def test_the_published_recipe_descends_and_resumes_to_the_bit(model, images, tmp_path):
    """Batch of one, plain gradient descent at one rate, an update for each timestep, the last weights."""
    published = RECIPES["published"]
    recipe = replace(published, steps=4, settings=replace(published.settings, log_every=1))
    once = learn_shift(model, images, GOAL, tmp_path / "a", recipe=recipe, t_edit=300, iterations=6, say=quiet)
    for iterations in (2, 6):
        twice = learn_shift(
            model, images, GOAL, tmp_path / "b", recipe=recipe, t_edit=300, iterations=iterations, say=quiet
        )
    assert twice.stamp == once.stamp
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert once.config.mode == "asymmetric" and once.config.steps == 4
    rates = {json.loads(line)["learning_rate"] for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()}
    assert rates == {0.5}
    with pytest.raises(ZsemError, match="another model, goal, images or recipe"):
        learn_shift(
            model, images, replace(GOAL, direction=-RED), tmp_path / "b", recipe=recipe, t_edit=300, iterations=6
        )


def test_plain_gradient_descent_by_hand(model, images, tmp_path):
    """One image, one timestep: the weights after an iteration are those before minus the rate times the gradient."""

    published = RECIPES["published"]
    recipe = replace(published, steps=4)
    trained = learn_shift(model, images[:1], GOAL, tmp_path, recipe=recipe, t_edit=999, iterations=1, say=quiet)
    torch.manual_seed(published.settings.seed)
    fresh = LearnedShift(trained.config)
    fresh.net.adopt(model.unet)
    codes = invert_as_published(model, images[:1], steps=4)
    config = replace(published.objective, t_edit=999.0)
    objective = ShiftObjective(model, fresh, codes, GOAL, config, images=images[:1])
    batch = Batch(images=torch.zeros(1, 1, 1, 1, dtype=torch.long), names=[(0, 0, 0)])
    (phase,) = objective.phases(batch, objective.networks)
    phase.loss.backward()
    weight = fresh.net.conv_out.weight
    assert float(weight.grad.abs().max()) > 0
    torch.testing.assert_close(trained.net.conv_out.weight, weight.detach() - 0.5 * weight.grad, atol=1e-5, rtol=1e-4)


def test_all_weights_learn_with_the_same_loss(model, images, tmp_path):
    recipe = replace(
        TUNING, steps=5, settings=replace(TUNING.settings, batch_size=4, learning_rate=3e-5, warmup=2, log_every=1)
    )
    stamp = model.stamp
    other = tune(model, images, GOAL, tmp_path, recipe=recipe, iterations=15, say=quiet)
    assert model.stamp == stamp != other.stamp
    found = losses(tmp_path)
    assert found[-1] < 0.8 * found[0]
    again = DiffusionModel.from_pretrained(tmp_path)
    assert again.stamp == other.stamp and again.history["tuned_from"] == stamp
    edited = tuned(model, images, Target(model=again), steps=5)
    assert bool(((colours(edited) - colours(images)) @ RED > 0.01).all())
    # above t_start the weights are the model's own, so that nothing happens where no level is below it
    untouched = tuned(model, images, Target(model=again), steps=5, t_start=0)
    torch.testing.assert_close(untouched, images, atol=1e-4, rtol=0)
    x, t = torch.randn(1, 3, 8, 8), torch.full((1,), 100.0)
    cond = model.condition(None, 1)
    assert not torch.equal(bind(model.denoiser, cond)(x, t).eps, bind(again.denoiser, cond)(x, t).eps)
