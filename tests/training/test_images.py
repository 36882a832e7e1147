"""How the images of a training set the model's size, channels and intensity."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from zsem import api
from zsem.data.images import load_images
from zsem.data.intensity import EIGHT_BITS, Intensity, full_range
from zsem.models.denoising import AutoencoderObjective
from zsem.training.images import ImageOptions, read_images
from zsem.training.loop import Loop
from zsem.training.presets import Preset
from zsem.values.errors import ZsemError

PLAIN = ImageOptions()


def write(folder, number: int = 12, shape: tuple[int, ...] = (16, 16), kind: str = "uint16"):
    """Smooth images of all values that fit into 12 bits."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for i in range(number):
        values = 2000 + 1000 * np.sin(rows / (3 + i % 5)) + 1000 * np.cos(columns / (4 + i % 3))
        values = np.broadcast_to(values[..., None], (*shape[:2], 3))[..., : 3 if len(shape) == 3 else 1].squeeze()
        if kind == "uint16":
            Image.fromarray(values.astype(np.uint16)).save(folder / f"{i:02d}.png")
        else:
            np.save(folder / f"{i:02d}.npy", values.astype(kind))
    return folder


def fitted(data, config, options=PLAIN, *, fixed=False):
    return read_images(data, config, options, limit=None, fixed=fixed)


def test_ordinary_images_leave_a_configuration_as_it_was(image_folder, small_model):
    images, config = fitted(image_folder, small_model.config)
    assert config == small_model.config and images.notes == []
    grey = replace(small_model.config, image_channels=1)
    assert fitted(load_images(image_folder, size=16), grey)[1] == small_model.config


def test_deep_images_set_the_intensity(tmp_path, small_model):
    write(tmp_path)
    images, config = fitted(tmp_path, small_model.config)
    assert config.intensity == full_range("uint16") and config.image_channels == 1
    (note,) = images.notes
    assert note.startswith("the images use values from ") and "of 0 to 65535: percentiles, or a window" in note
    window = fitted(tmp_path, small_model.config, ImageOptions(window=(0.0, 4095.0)))
    assert window[1].intensity == Intensity(kind="window", low=0.0, high=4095.0, depth="uint16")
    assert window[0].notes == []
    shares = fitted(tmp_path, small_model.config, ImageOptions(intensity="percentiles"))[1].intensity
    train = images.split("train").pixels.numpy()
    assert (shares.low, shares.high) == pytest.approx(tuple(np.percentile(train, (0.1, 99.9))))
    chosen = replace(small_model.config, intensity=Intensity(kind="window", low=9.0, high=99.0, depth="uint16"))
    assert fitted(tmp_path, chosen)[1].intensity == chosen.intensity  # what a preset says stands


def test_floats_take_percentiles(tmp_path, small_model):
    write(tmp_path, kind="float32")
    _, config = fitted(tmp_path, small_model.config)
    assert config.intensity.kind == "percentiles" and config.intensity.depth == "float32"


@pytest.mark.parametrize("shape", [(10, 15), (10, 15, 3)])
def test_kept_shapes_set_the_size(tmp_path, small_model, shape):
    write(tmp_path, shape=shape, kind="uint8")
    images, config = fitted(tmp_path, small_model.config, ImageOptions(keep_shape=True))
    assert images.size == config.image_size == (10, 15) and config.image_channels == 1
    with pytest.raises(ZsemError, match=r"the images are 10 x 15 px and the model is for 16 px: give --size, or"):
        fitted(images, small_model.config)
    assert fitted(images, small_model.config, ImageOptions(keep_shape=True))[1].image_size == (10, 15)


def test_a_model_that_is_there_takes_only_images_that_fit(tmp_path, small_model):
    write(tmp_path)
    deep = replace(small_model.config, image_channels=1, intensity=full_range("uint16"))
    assert fitted(tmp_path, deep, fixed=True)[1] == deep
    with pytest.raises(ZsemError, match="an image of uint16 values, where uint8 is wanted"):
        fitted(tmp_path, small_model.config, fixed=True)
    images = load_images(tmp_path, size=16)
    with pytest.raises(ZsemError, match="the model takes 3 channels, the images have 1"):
        fitted(images, small_model.config, fixed=True)
    with pytest.raises(ZsemError, match="the model takes uint8 values, the images have uint16"):
        fitted(images, replace(small_model.config, image_channels=1), fixed=True)
    with pytest.raises(ZsemError, match="the images are 16 px and the model is for 16 x 8 px"):
        fitted(images, replace(deep, image_size=(16, 8)), ImageOptions(keep_shape=True), fixed=True)


def test_choices_that_exclude_each_other_are_one_sentence(tmp_path, small_model):
    write(tmp_path)
    with pytest.raises(ZsemError, match="give --intensity or --window, not both"):
        fitted(tmp_path, small_model.config, ImageOptions(intensity="full", window=(0.0, 1.0)))
    with pytest.raises(ZsemError, match="give --size or --keep-shape, not both"):
        api.train(tmp_path, tmp_path / "run", size=16, reading=ImageOptions(keep_shape=True), iterations=1)
    write(tmp_path, kind="float64")
    with pytest.raises(ZsemError, match="images of several depths"):
        fitted(tmp_path, small_model.config)


@pytest.fixture
def preset(small_model):
    return Preset(
        model=small_model.config,
        objective=AutoencoderObjective.Config(),
        training=Loop.Config(batch_size=4, warmup=2, log_every=2, learning_rate=1e-3, precision="fp32", flip=True),
    )


def test_training_on_deep_images_of_odd_shape_resumes_and_reconstructs_identically(tmp_path, preset):
    (tmp_path / "set").mkdir()
    folder = write(tmp_path / "set", shape=(13, 10))
    (folder / "attributes.csv").write_text("path,slide\n" + "".join(f"{i:02d}.png,S{i // 3}\n" for i in range(12)))
    reading = ImageOptions(keep_shape=True, window=(500.0, 3500.0), group="slide")
    settings = {"say": lambda line: None, "preset": preset, "reading": reading}
    api.train(folder, tmp_path / "run", iterations=3, **settings)
    model = api.train(folder, tmp_path / "run", iterations=5, resume=True, say=lambda line: None)
    assert model.config.image_size == (13, 10) and model.noise_shape == (1, 14, 10)
    assert model.config.intensity.high == 3500 and model.history["iterations"] == 5
    images = load_images(folder, size=(13, 10), group="slide")
    restored = model.config.intensity.restore(model.reconstruct(images))
    assert torch.equal(restored, images.pixels)
    assert model.reconstruct(folder).shape == (12, 1, 13, 10)
    (folder / "00.png").unlink()
    with pytest.raises(ZsemError, match="the training to resume had other images"):
        api.train(folder, tmp_path / "run", iterations=6, resume=True, say=lambda line: None)


def test_a_torch_data_set_is_trained_on(tmp_path, preset):
    pixels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    model = api.train(TensorDataset(pixels), tmp_path, preset=preset, iterations=2, say=lambda line: None)
    assert model.history["train_images"] == 7 and model.config.intensity == EIGHT_BITS


def test_a_set_that_is_mapped_from_the_cache_trains_as_one_in_memory(tmp_path, preset, image_folder, monkeypatch):
    monkeypatch.setenv("ZSEM_CACHE", str(tmp_path / "cache"))
    in_memory = load_images(image_folder, size=16)
    mapped = load_images(image_folder, size=16, memory=1000)
    assert mapped.mapped and not in_memory.mapped
    stamps = {
        api.train(images, tmp_path / name, preset=preset, iterations=3, say=lambda line: None).stamp
        for name, images in (("memory", in_memory), ("mapped", mapped))
    }
    assert len(stamps) == 1
