"""The validation loss against a slow loop, and its independence of order and batches."""

import json
from dataclasses import replace

import pytest
import torch

from zsem import api
from zsem.data.images import load_images
from zsem.data.pixels import from_uint8
from zsem.training.validation import validate
from zsem.values import draws
from zsem.values.prediction import Condition


@pytest.fixture(scope="module")
def images(image_folder):
    return load_images(image_folder, size=16, limit=9)


def slow_errors(model, images, timesteps):
    """Error of v, one image and one timestep at a time."""
    found = []
    with torch.no_grad():
        for timestep in timesteps:
            alpha_bar = model.schedule.alphas_cumprod[timestep].item()
            alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            errors = []
            for pixels, path in zip(images.pixels, images.paths, strict=True):
                x0 = from_uint8(pixels)[None]
                eps = draws.normal([(*draws.name_of(path), timestep)], (3, 16, 16))
                x_t = (alpha * x0 + sigma * eps).float()
                v = model.unet(x_t, torch.tensor([float(timestep)]), Condition(z=model.encoder(x0)))
                errors.append((v - (alpha * eps - sigma * x0)).square().mean().item())
            found.append(sum(errors) / len(errors))
    return found


def test_the_loss_is_the_mean_over_noise_levels(small_model, images):
    figures = validate(small_model, images, "v")
    assert list(figures.levels) == ["62", "187", "312", "437", "562", "687", "812", "937"]
    expected = slow_errors(small_model, images, map(int, figures.levels))
    assert list(figures.levels.values()) == pytest.approx(expected, rel=1e-4)
    assert figures.loss == pytest.approx(sum(expected) / 8, rel=1e-4)
    assert figures.n == 9


@pytest.mark.parametrize(
    ("weighting", "factor"), [("simple", lambda snr: snr / (snr + 1)), ("min_snr", lambda snr: min(snr, 5) / (snr + 1))]
)
def test_levels_weigh_as_in_training(small_model, images, weighting, factor):
    figures = validate(small_model, images, weighting, levels=3)
    bars = [small_model.schedule.alphas_cumprod[int(timestep)].item() for timestep in figures.levels]
    errors = figures.levels.values()
    expected = [factor(bar / (1 - bar)) * error for bar, error in zip(bars, errors, strict=True)]
    assert figures.loss == pytest.approx(sum(expected) / 3, rel=1e-6)


def test_noise_belongs_to_the_image_and_not_to_its_place(small_model, images):
    whole = validate(small_model, images, "v")
    backwards = validate(small_model, images.subset(range(8, -1, -1)), "v", batch_size=4)
    assert list(backwards.levels.values()) == pytest.approx(list(whole.levels.values()), rel=1e-5)
    renamed = replace(images, paths=[f"other-{path}" for path in images.paths])
    assert validate(small_model, renamed, "v").loss != whole.loss


def test_a_training_records_validations_of_the_averaged_weights(image_folder, quick_preset, tmp_path):
    images, out = load_images(image_folder, size=16), tmp_path / "run"
    settings = replace(quick_preset.training, validation_minutes=0.0, validation_images=3)
    model = api.train(images, out, preset=replace(quick_preset, training=settings), iterations=2, say=lambda _: None)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(record["iteration"], "validation" in record) for record in records] == [(1, True), (2, True)]
    assert records[-1]["validation"] == json.loads(json.dumps(model.history["validation"]))
    again = validate(model, images.held_out().limit(3), "v")
    assert again.loss == pytest.approx(records[-1]["validation"]["loss"], rel=1e-6)
    assert again.n == 3
    assert api.load(out, device="cpu").history["validation"] == records[-1]["validation"]
