"""Whether z is used: figures against a slow loop, and real trainings with and without an encoder."""

from dataclasses import replace

import pytest
import torch

from zsem.api.training import assemble
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.metrics.health import USED, health_of_z, verdict
from zsem.training.plan import Plan
from zsem.values import draws
from zsem.values.prediction import Condition


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16)


def slow_error(model, pixels, path, timestep, z):
    """Error of x0 on the [0, 1] scale for one image, by hand from v."""
    alpha_bar = model.schedule.alphas_cumprod[timestep].item()
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    x0 = from_uint8(pixels)[None]
    x_t = (alpha * x0 + sigma * draws.normal([(*draws.name_of(path), timestep)], (3, 16, 16))).float()
    with torch.no_grad():
        v = model.unet(x_t, torch.tensor([float(timestep)]), Condition(z=z))
    return ((alpha * x_t - sigma * v).clamp(-1, 1) / 2 - x0 / 2).square().mean().item()


def test_the_errors_are_those_of_the_definition(small_model, images):
    five = images.limit(5)
    figures = health_of_z(small_model, five, batch_size=2)
    assert figures.n == 5
    with torch.no_grad():
        z = small_model.encoder(from_uint8(five.pixels))
    codes = {
        "right": [z[i : i + 1] for i in range(5)],
        "other": [z[[(i - 2) % 5]] for i in range(5)],
        "without": [z.mean(0, keepdim=True)] * 5,
    }
    for name, chosen in codes.items():
        for timestep, error in zip(figures.timesteps, getattr(figures, name), strict=True):
            slow = [
                slow_error(small_model, five.pixels[i], five.paths[i], timestep, chosen[i])
                for i in range(5)
            ]  # fmt: skip
            assert error == pytest.approx(sum(slow) / 5, rel=1e-4)
    assert figures.ratio == pytest.approx(sum(figures.other) / sum(figures.right))


def test_the_noise_levels_lie_below_log_snr_minus_2(small_model, images):
    bars = small_model.schedule.alphas_cumprod[list(health_of_z(small_model, images.limit(5)).timesteps)]
    assert (bars / (1 - bars)).log().tolist() == pytest.approx([-3, -5, -7], abs=0.02)


def test_one_image_has_no_other(small_model, images):
    with pytest.raises(ValueError, match="two images"):
        health_of_z(small_model, images.subset([0]))


def train(images, preset, folder, *, encoder: bool):
    """A real training of 90 iterations; without `encoder`, z is the same for all images and has no gradient."""
    loop, batches = assemble(images, Plan(preset=preset), folder, lambda _: None)
    if not encoder:
        for parameter in loop.model.encoder.parameters():
            parameter.requires_grad_(False).zero_()
    return loop.run(batches, iterations=90)


def test_it_tells_a_run_without_encoder_from_a_good_one(images, quick_preset, tmp_path):
    settings = replace(quick_preset.training, validation_images=2)
    preset, held_out = replace(quick_preset, training=settings), images.held_out()
    (tmp_path / "good").mkdir()
    (tmp_path / "deaf").mkdir()
    good = health_of_z(train(images, preset, tmp_path / "good", encoder=True), held_out)
    deaf = health_of_z(train(images, preset, tmp_path / "deaf", encoder=False), held_out)
    assert good.used
    assert good.ratio > USED + 0.2
    assert sum(good.right) < sum(good.without)
    assert not deaf.used
    assert deaf.ratio == pytest.approx(1, abs=1e-3)
    assert "z is used" in verdict(good.ratio, good.used)
    assert "train longer" in verdict(deaf.ratio, deaf.used)


def test_without_z_where_the_model_can_do_without(small_model, images):
    """The network is told no z at all, which is not the same as the mean one."""
    few = images.limit(5)
    told, untold = health_of_z(small_model, few), health_of_z(small_model, few, unconditional=True)
    assert untold.right == told.right
    assert untold.without != told.without
    slow = [slow_error(small_model, few.pixels[i], few.paths[i], untold.timesteps[0], None) for i in range(5)]
    assert untold.without[0] == pytest.approx(sum(slow) / 5, rel=1e-4)
