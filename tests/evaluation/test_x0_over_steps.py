"""Predicted x0 over steps against closed forms for Gaussian pixels, and for small models from images to curves."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid, level_like
from zsem.evaluation.x0_over_steps import predictions, x0_over_steps
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import U_MAX
from zsem.nets.unet import UNet
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition, Prediction

MEAN, STD = 0.2, 0.4


class Gaussian:
    """The exact denoiser of pixels drawn from N(MEAN, STD^2)."""

    schedule = NoiseSchedule()

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = level_like(self.schedule, t, x_t)
        surprise = (x_t - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
        return Prediction(x0=MEAN + alpha * STD**2 * surprise, eps=sigma * surprise)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return MEAN + STD * normal([(0, i) for i in range(40)], (3, 8, 8)).double()


@pytest.fixture(scope="module")
def grid() -> TimeGrid:
    return TimeGrid.make(Gaussian.schedule, 100, u_max=U_MAX)


@pytest.mark.parametrize("noising", ["exact", "ddim"])
def test_on_the_models_own_trajectory(images, grid, noising):
    """The flow keeps (xb - mean) / sqrt(std^2 + u^2); the posterior mean shrinks it by std^2 / (std^2 + u^2)."""
    found = torch.stack(list(predictions(Gaussian(), images, grid, noising=noising)))
    share = STD / (STD**2 + grid.u[:-1] ** 2).sqrt()
    expected = MEAN + share[:, None, None, None, None] * (images - MEAN)
    assert torch.allclose(found, expected, atol={"exact": 3e-3, "ddim": 0.08}[noising])
    assert share[0] < 0.01 and share[-1] > 0.99


def test_with_fresh_noise_the_error_is_the_posteriors_variance(images, grid):
    eps = normal([(1, i) for i in range(40)], (3, 8, 8))
    found = predictions(Gaussian(), images, grid, noising="fresh", eps=eps)
    error = torch.stack([(x0 - images).square().mean() for x0 in found])
    u = grid.u[:-1]
    assert torch.allclose(error, STD**2 * u**2 / (STD**2 + u**2), rtol=0.05)
    with pytest.raises(ValueError, match="must be given"):
        next(predictions(Gaussian(), images, grid, noising="fresh"))


@pytest.fixture(scope="module")
def baseline() -> DiffusionModel:
    torch.manual_seed(1)
    unet = UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(), embed_channels=32)
    model = DiffusionModel(DiffusionModel.Config(image_size=16, unet=unet)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture(scope="module")
def pictures(labelled_discs) -> Tensor:
    return labelled_discs.pixels[:12]


@pytest.mark.parametrize("noising", ["exact", "ddim", "fresh"])
def test_curves_of_an_autoencoder_and_of_its_baseline(small_model, baseline, pictures, noising):
    ours, others = (
        x0_over_steps(model, pictures, noising=noising, steps=5, shown=3, batch_size=5)
        for model in (small_model, baseline)
    )
    assert ours.timesteps == tuple(small_model.grid(5).t[:-1].tolist()) and ours.log_snr[0] < ours.log_snr[-1]
    assert ours.errors.shape == (12, 5) and ours.strip.shape == (3, 5, 3, 16, 16)
    originals = pictures[:3] / 127.5 - 1
    assert torch.allclose(ours.originals, originals, atol=1e-6)
    drawn = ((ours.strip - originals[:, None]) / 2).square().mean(dim=(2, 3, 4))
    assert np.allclose(ours.errors[:3], drawn, rtol=1e-4)
    one = x0_over_steps(small_model, pictures[5:], noising=noising, steps=5)
    if noising == "fresh":  # its noise goes with the position
        assert not np.allclose(one.errors, ours.errors[5:], rtol=1e-4)
    else:
        assert np.allclose(one.errors, ours.errors[5:], rtol=1e-4)
    difference, ends = ours.minus(others, resamples=50)
    assert np.allclose(difference, np.array(ours.mse) - np.array(others.mse))
    assert all(end.low < value < end.high for value, end in zip(difference, ends, strict=True))
    summary = json.loads(json.dumps(ours.summary(resamples=50), allow_nan=False))
    assert [row["mse"] for row in summary["steps"]] == list(ours.mse) and summary["n"] == 12
    assert all(row["low"] < row["mse"] < row["high"] for row in summary["steps"])


def test_the_autoencoder_is_told_the_z_of_each_image(small_model, pictures):
    found = x0_over_steps(small_model, pictures[:4], noising="fresh", steps=3, seed=5)
    x0, grid = small_model.prepare(pictures[:4]), small_model.grid(3)
    eps = small_model.fresh_noise(4, seed=5).x_T
    with torch.no_grad():
        denoise = bind(small_model.denoiser, Condition(z=small_model.encoder(x0)))
        alpha, sigma = grid.alpha[1], grid.sigma[1]
        x_t = (alpha * x0 + sigma * eps).double()
        expected = denoise(x_t, grid.t[1].expand(4)).x0
    assert torch.allclose(found.strip[:, 1], expected.float(), atol=1e-5)


def test_sides_that_are_padded_do_not_count(small_model, pictures):
    config = DiffusionAutoencoder.Config(
        image_size=15, z_dim=8, unet=small_model.config.unet, encoder=small_model.config.encoder
    )
    torch.manual_seed(0)
    model = DiffusionAutoencoder(config).eval()
    curve = x0_over_steps(model, pictures[:2, :, :15, :15], steps=3)
    assert curve.strip.shape[-2:] == (15, 15) and curve.originals.shape[-2:] == (15, 15)


def test_what_cannot_be_followed(baseline, pictures, small_model):
    conditional = DiffusionModel(baseline.config.for_classes(["a", "b"]))
    with pytest.raises(ZsemError, match="unconditional diffusion model"):
        x0_over_steps(conditional, pictures)
    few, many = (x0_over_steps(small_model, pictures[:n], steps=2) for n in (2, 3))
    with pytest.raises(ValueError, match="image by image"):
        few.minus(many)
