import numpy as np
import pytest
import torch

from zsem.hspace.collect import collect, collect_samples
from zsem.values.draws import normal
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition


@pytest.fixture(scope="module")
def images(model_noise):
    return model_noise.clamp(-1, 1)


def test_h_is_collected_on_the_way_to_noise_that_decodes_to_the_images(model, images):
    found, codes = collect(model, images, steps=6, batch_size=2)
    assert found.h.shape == (4, 6, *model.bottleneck_shape) and found.h.dtype == np.float32
    assert found.timesteps == codes.timesteps and found.timesteps[0] == 999.0
    assert len(found) == len(codes) == 4
    assert codes.noise is not None
    plain = model.invert(images, steps=6, batch_size=2).noise
    assert torch.equal(codes.noise.x_T, plain.x_T) and torch.equal(codes.noise.carry, plain.carry)
    noisiest, cleanest = found.timesteps[0], found.timesteps[-1]
    at_noise = model.bottleneck(codes.noise.x_T, noisiest)
    np.testing.assert_allclose(found.at(noisiest), at_noise.numpy(), atol=1e-5)
    with torch.no_grad():  # the codec's first step is one of Euler's, from the image
        eps = model.denoiser(images.double(), torch.ones(4, dtype=torch.float64), Condition()).eps
    alpha, sigma = (float(level) for level in model.schedule.level(torch.tensor(cleanest)))
    at_image = model.bottleneck((alpha * images.double() + sigma * eps).float(), cleanest)
    np.testing.assert_allclose(found.at(cleanest), at_image.numpy(), atol=1e-5)


def test_levels_can_be_left_out_and_maps_averaged(model, images):
    whole, _ = collect(model, images, steps=6)
    part, _ = collect(model, images, steps=6, interval=(100, 900), pooled=True)
    assert part.timesteps == tuple(t for t in whole.timesteps if 100 <= t <= 900)
    for t in part.timesteps:
        np.testing.assert_allclose(part.at(t), whole.at(t).mean(axis=(2, 3), keepdims=True), atol=1e-5)
    with pytest.raises(ZsemError, match="no noise level"):
        collect(model, images, steps=6, interval=(100, 101))


def test_large_ones_are_kept_in_a_file(model, images, tmp_path):
    whole, _ = collect(model, images, steps=3)
    kept, _ = collect(model, images, steps=3, file=tmp_path / "parts" / "h.npy", batch_size=2)
    assert isinstance(kept.h, np.memmap) and kept.h.dtype == np.float16
    np.testing.assert_allclose(kept.at(999), whole.at(999), rtol=2e-3, atol=2e-3)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["h.npy"]
    with pytest.raises(ZsemError, match="leave out the"):
        collect(model, images, classes=1, file=tmp_path / "none.npy")
    assert not [path for path in tmp_path.iterdir() if path.is_file()]
    with pytest.raises(ZsemError, match=r"end in \.npy"):
        collect(model, images, file=tmp_path / "h.safetensors")


def test_h_of_samples_comes_with_their_images(random_model):
    model = random_model(num_classes=3)
    classes = [0, 2, 1]
    found, images = collect_samples(model, 3, classes=classes, steps=4, solver="ddim", batch_size=2)
    torch.testing.assert_close(images, model.sample(3, classes=classes, steps=4, solver="ddim"), atol=1e-5, rtol=0)
    at_noise = model.bottleneck(model.fresh_noise(3).x_T, 999, classes)
    np.testing.assert_allclose(found.at(999), at_noise.numpy(), atol=1e-5)
    with pytest.raises(ZsemError, match="without classifier-free"):
        collect_samples(model, 3, classes=classes, guidance_scale=2)


def test_h_of_samples_whose_walk_ends_early(random_model):
    model = random_model()
    found, images = collect_samples(model, 2, steps=5, cleanest=200)
    assert min(found.timesteps) >= 200 and found.h.shape[1] == 5
    assert torch.equal(images, model.sample(2, steps=5, cleanest=200))


def test_an_autoencoder_is_told_the_z_of_its_images(small_model):
    images = normal([(5, i) for i in range(2)], (3, 16, 16)).clamp(-1, 1)
    found, codes = collect(small_model, images, steps=3)
    assert codes.noise is not None
    at_noise = small_model.bottleneck(codes.noise.x_T, 999, codes.z)
    np.testing.assert_allclose(found.at(found.timesteps[0]), at_noise.numpy(), atol=1e-4)
