"""Images of any size, depth and number of channels through the codec, and back to the same numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.images import load_images
from zsem.data.intensity import EIGHT_BITS, Intensity, full_range
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import ImageModel
from zsem.values import draws
from zsem.values.errors import ZsemError

WINDOW = Intensity(kind="window", low=-3.0, high=5.0, depth="float32")


def made(kind: type[ImageModel], config: ImageModel.Config) -> ImageModel:
    """A model that answers something at every layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


def autoencoder(small_model, **changes) -> DiffusionAutoencoder:
    model = made(DiffusionAutoencoder, replace(small_model.config, **changes))
    assert isinstance(model, DiffusionAutoencoder)
    return model


def stored(depth: str, *shape: int) -> torch.Tensor:
    rng = draws.generator(3, *shape)
    if depth == "float32":
        return torch.from_numpy(rng.normal(0, 3, shape).astype(np.float32))
    limits = np.iinfo(depth)
    return torch.from_numpy(rng.integers(limits.min, limits.max + 1, shape).astype(depth))


@pytest.mark.parametrize("size", [(25, 19), (19, 25), 15, (16, 1), 3])
def test_every_size_comes_back_to_the_pixel(small_model, size):
    model = autoencoder(small_model, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    pixels = stored("uint8", 1, 3, height, width)
    codes = model.encode(pixels)
    assert codes.shape == (3, height, width) and codes.noise is not None
    assert codes.noise.x_T.shape == (1, 3, -(-height // 2) * 2, -(-width // 2) * 2)
    decoded = model.decode(codes)
    assert decoded.shape == pixels.shape and torch.equal(EIGHT_BITS.restore(decoded), pixels)
    assert model.decode(model.vary(codes)).shape == pixels.shape


def test_padding_repeats_the_edges_and_is_undone(small_model):
    model = autoencoder(small_model, image_size=(5, 7))
    x = torch.arange(35.0).reshape(1, 1, 5, 7)
    padded = model.pad(x)
    assert torch.equal(padded, torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge")))
    assert torch.equal(model.crop(padded), x)
    plain = autoencoder(small_model)
    image = torch.zeros(1, 3, 16, 16)
    assert plain.pad(image) is image and plain.noise_shape == plain.image_shape == (3, 16, 16)


def test_networks_with_different_needs_agree_on_the_padding(small_model):
    encoder = replace(small_model.config.encoder, channel_mult=(1, 1, 1), patch=2)
    model = autoencoder(small_model, image_size=(9, 17), encoder=encoder)
    assert model.noise_shape == (3, 16, 24)


@pytest.mark.parametrize(
    ("intensity", "channels"),
    [
        (full_range("uint16"), 1),
        (full_range("uint16"), 3),
        (full_range("int16"), 1),
        (Intensity(kind="window", low=20000.0, high=40000.0, depth="uint16"), 1),
        (Intensity(kind="percentiles", low=-30000.5, high=30000.25, depth="int16"), 2),
    ],
)
def test_sixteen_bits_come_back_identical_through_the_exact_codec(small_model, intensity, channels):
    model = autoencoder(small_model, image_channels=channels, intensity=intensity)
    pixels = stored(intensity.depth, 2, channels, 16, 16)
    decoded = model.decode(model.encode(pixels))
    assert decoded.dtype == torch.float32 and torch.equal(intensity.restore(decoded), pixels)
    if intensity.kind != "full":
        assert decoded.abs().max() > 1  # what lies outside the window is not clipped


def test_floats_come_back_to_a_part_of_a_step_of_sixteen_bits(small_model, tmp_path):
    model = autoencoder(small_model, image_channels=5, intensity=WINDOW)
    pixels = stored("float32", 2, 5, 16, 16)
    for i, image in enumerate(pixels):
        np.save(tmp_path / f"{i}.npy", image.numpy())
    images = load_images(tmp_path, size=16)
    decoded = model.reconstruct(images)
    assert torch.allclose(WINDOW.restore(decoded), pixels, rtol=0, atol=8 / 65535 / 10)
    assert torch.equal(model.reconstruct(tmp_path), decoded)
    assert torch.equal(model.reconstruct(WINDOW.normalise(pixels)), decoded)  # floats in a tensor are in [-1, 1]
    assert torch.equal(model.reconstruct([image.permute(1, 2, 0).numpy() for image in pixels]), decoded)


def test_a_model_says_what_depth_and_shape_it_takes(small_model, tmp_path):
    model = autoencoder(small_model, image_channels=1, intensity=full_range("uint16"))
    eight = np.full((16, 16), 7, np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.png")
    with pytest.raises(ZsemError, match="the images are uint8 and the model was trained on uint16: convert them"):
        model.encode(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(ZsemError, match="the images are uint8 and the model was trained on uint16"):
        model.encode(load_images(tmp_path, size=16))
    with pytest.raises(ZsemError, match=r"must be \[n, 1, 16, 16\] here, not \[1, 1, 16, 15\]"):
        model.encode(torch.zeros(1, 1, 16, 15))
    np.save(tmp_path / "b.npy", np.zeros((16, 16), np.float32))
    with pytest.raises(ZsemError, match=r"b\.npy cannot be read: an image of float32 values, where uint16 is wanted"):
        model.encode([tmp_path / "b.npy"])


def test_eight_bit_files_enter_a_sixteen_bit_model_at_full_range(small_model, tmp_path):
    model = autoencoder(small_model, image_channels=1, intensity=full_range("uint16"))
    eight = stored("uint8", 1, 1, 16, 16)
    Image.fromarray(eight[0, 0].numpy()).save(tmp_path / "a.png")
    z = model.encode(EIGHT_BITS.normalise(eight), noise=False).z
    assert torch.allclose(model.encode(tmp_path / "a.png", noise=False).z, z, atol=1e-5)


def test_transparent_files_show_the_models_background(small_model, tmp_path):
    Image.new("RGBA", (16, 16), (9, 9, 9, 0)).save(tmp_path / "a.png")
    black = autoencoder(small_model, background="black")
    for images in (tmp_path / "a.png", [tmp_path / "a.png"], Image.open(tmp_path / "a.png")):
        assert torch.equal(black.encode(images, noise=False).z, black.encode(-torch.ones(1, 3, 16, 16), noise=False).z)


def test_samples_and_inversions_of_a_plain_diffusion_model_have_the_images_shape(small_model):
    config = DiffusionModel.Config(
        image_size=(15, 10), image_channels=1, unet=small_model.config.unet, intensity=full_range("uint16")
    )
    model = made(DiffusionModel, config)
    assert isinstance(model, DiffusionModel)
    for solver in ("unipc", "ddpm"):
        assert model.sample(2, solver=solver, steps=4).shape == (2, 1, 15, 10)
    pixels = stored("uint16", 2, 1, 15, 10)
    assert torch.equal(full_range("uint16").restore(model.decode(model.invert(pixels))), pixels)


def test_statistics_of_a_set_are_those_of_its_pixels(small_model, tmp_path):
    for i, image in enumerate(stored("uint16", 5, 16, 16)):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path, size=16)
    model = autoencoder(small_model, image_channels=1, intensity=full_range("uint16"))
    model.measure_codes(images, images)
    z = model.encode(images, noise=False).z
    assert torch.equal(model.z_mean, z.mean(0)) and model.history["x_T"]["images"] == 5


def test_size_and_intensity_are_saved_and_models_without_them_are_of_eight_bits(small_model, tmp_path):
    model = autoencoder(small_model, image_size=(15, 10), image_channels=5, intensity=WINDOW, background="black")
    again = DiffusionAutoencoder.from_pretrained(model.save(tmp_path / "new"))
    assert again.config == model.config and again.image_shape == (5, 15, 10)
    old = small_model.save(tmp_path / "old")
    about = json.loads((old / "config.json").read_text())
    del about["config"]["intensity"], about["config"]["background"]
    (old / "config.json").write_text(json.dumps(about))
    assert DiffusionAutoencoder.from_pretrained(old).config == small_model.config


def test_pictures_of_many_channels_show_the_first_ones(small_model):
    x = torch.linspace(-2, 2, 2 * 5 * 3 * 3).reshape(2, 5, 3, 3)
    for channels, shown in ((1, 1), (2, 1), (3, 3), (5, 3)):
        picture = small_model.display(x[:, :channels])
        assert picture.dtype == torch.uint8 and torch.equal(picture, EIGHT_BITS.restore(x[:, :shown]))
