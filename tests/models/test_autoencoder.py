"""The autoencoder's promises: exact codes, files that cannot be confused, one sentence for every mistake."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from zsem.data.images import load_images
from zsem.data.pixels import from_uint8, to_uint8
from zsem.diffusion.guidance import Extrapolate
from zsem.models import base, imaging
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.values import draws
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition


@pytest.fixture(scope="module")
def pixels(image_folder):
    return load_images(image_folder, size=16).pixels[:6]


def error(decoded: torch.Tensor, pixels: torch.Tensor) -> float:
    return float(((decoded.double() - from_uint8(pixels).double()) / 2).square().mean())


@pytest.mark.parametrize(("codec", "bound"), [("exact", 1e-10), ("offsets", 1e-10)])
@pytest.mark.parametrize("storage", [torch.float32, torch.float16])
def test_saved_codes_decode_to_the_same_pixels(small_model, pixels, tmp_path, codec, bound, storage):
    codes = small_model.encode(pixels, codec=codec, storage=storage)
    loaded = Codes.load(codes.save(tmp_path / "codes.parquet", dtype=storage))
    decoded = small_model.decode(loaded)
    assert error(decoded, pixels) < (bound if storage == torch.float32 else 1e-8)
    assert torch.equal(to_uint8(decoded), pixels)


def test_ddim_is_not_exact_and_more_steps_bring_it_closer(small_model, pixels):
    errors = [error(small_model.reconstruct(pixels, codec="ddim", steps=steps), pixels) for steps in (5, 25)]
    assert errors[0] > errors[1] > 1e-12


def test_the_exact_codec_counts_its_evaluations(small_model, pixels):
    calls = []
    hook = small_model.unet.register_forward_hook(lambda *_: calls.append(1))
    codes = small_model.encode(pixels, steps=19)
    encoded = len(calls)
    small_model.decode(codes)
    hook.remove()
    assert (encoded, len(calls) - encoded) == (20, 19)


def test_a_code_does_not_depend_on_its_batch(small_model, pixels):
    together, alone = small_model.encode(pixels), small_model.encode(pixels, batch_size=1)
    torch.testing.assert_close(together.z, alone.z, atol=1e-5, rtol=0)
    # encoding with random weights, which are no denoiser, magnifies rounding; decoding damps it
    torch.testing.assert_close(together.noise.x_T, alone.noise.x_T, atol=1e-3, rtol=0)
    varied = small_model.vary(together, 2, seed=3)
    decoded = small_model.decode(varied)
    torch.testing.assert_close(small_model.decode(varied, batch_size=1), decoded, atol=1e-5, rtol=0)


def test_every_kind_of_image_gives_the_same_code(small_model, image_folder, pixels):
    paths = sorted(image_folder.glob("*.png"))[:6]
    pictures = [Image.open(path) for path in paths]
    expected = small_model.encode(pixels, noise=False).z
    for images in (
        paths,
        [str(path) for path in paths],
        pictures,
        [np.asarray(picture) for picture in pictures],
        np.stack([np.asarray(picture) for picture in pictures]),
        from_uint8(pixels),
        load_images(image_folder, size=16).subset(range(6)),
    ):
        torch.testing.assert_close(small_model.encode(images, noise=False).z, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(small_model.encode(pictures[0], noise=False).z, expected[:1], atol=1e-5, rtol=0)
    named = small_model.encode(paths[0], noise=False)
    assert named.paths == (paths[0].name,)
    order = [paths[2], paths[0]]
    assert small_model.encode(order, noise=False).paths == tuple(path.as_posix() for path in order)
    assert len(named.sha256[0]) == 64


def test_codes_remember_their_grid(small_model, pixels, monkeypatch):
    """A later zsem may choose other noise levels; codes of an earlier one must still decode."""
    codes = small_model.encode(pixels)
    monkeypatch.setattr(imaging, "CLEANEST", 40)
    assert small_model.encode(pixels).timesteps != codes.timesteps
    assert torch.equal(to_uint8(small_model.decode(codes)), pixels)


def test_vary_keeps_z_and_mix_swaps_it(small_model, pixels):
    codes = small_model.encode(pixels)
    varied = small_model.vary(codes, 3)
    assert torch.equal(varied.z, codes.z.repeat_interleave(3, dim=0))
    assert not torch.equal(varied.noise.x_T[0], varied.noise.x_T[1])
    mixed = small_model.mix(codes[:3], codes[3:])
    assert torch.equal(mixed.z, codes.z[:3])
    assert torch.equal(mixed.noise.x_T, codes.noise.x_T[3:])
    with pytest.raises(ZsemError, match="needs noise"):
        small_model.mix(codes, small_model.encode(pixels, noise=False))
    with pytest.raises(ZsemError, match="as many codes"):
        small_model.mix(codes[:2], codes[3:])


def test_codes_without_noise_decode_with_fresh_noise(small_model, pixels):
    codes = small_model.encode(pixels, noise=False)
    again = small_model.decode(codes, seed=1)
    assert torch.equal(again, small_model.decode(codes, seed=1))
    assert not torch.equal(again, small_model.decode(codes, seed=2))


@pytest.fixture(scope="module")
def guidable(small_model):
    """A model that says it was trained with z left out at times, and to which z matters."""
    model = copy.deepcopy(small_model)
    model.history["z_dropout"] = 0.1
    with torch.no_grad():
        for name, parameter in model.unet.named_parameters():
            if "embed_z" in name:
                parameter.mul_(10)
    return model


def test_guidance_on_z_extrapolates_from_no_z_in_one_batch(guidable, pixels):
    codes, seen = guidable.vary(guidable.encode(pixels[:3], noise=False)), []
    plain = guidable.decode(codes)
    hook = guidable.unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    guided = guidable.decode(codes, guidance_scale=3, batch_size=2)
    hook.remove()
    assert seen == [4] * 19 + [2] * 19

    def steer(cond, rows):
        return Extrapolate(guidable.denoiser, Condition(), cond, 3.0)

    torch.testing.assert_close(guided, guidable.decode(codes, steer=steer), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(guided, plain, atol=1e-2)
    with pytest.raises(ValueError, match="steer"):
        guidable.decode(codes, guidance_scale=3, steer=steer)


def test_scales_1_and_0_of_guidance_on_z(guidable, pixels):
    codes, seen = guidable.encode(pixels[:3]), []
    plain = guidable.decode(codes)
    hook = guidable.unet.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    assert torch.equal(guidable.decode(codes, guidance_scale=1), plain)
    assert seen == [3] * 19
    none = guidable.decode(codes, guidance_scale=0)
    assert seen == [3] * 38
    hook.remove()
    assert torch.equal(guidable.decode(replace(codes, z=codes.z.roll(1, dims=0)), guidance_scale=0), none)
    assert not torch.allclose(none, plain, atol=1e-2)


def test_statistics_of_codes_are_stored(small_model):
    images = (draws.normal([(0, i) for i in range(4)], (3, 16, 16)) * 60 + 128).clamp(0, 255).to(torch.uint8)
    model = DiffusionAutoencoder(small_model.config)
    model.load_state_dict(small_model.state_dict())
    model.measure_codes(images, images)
    z = model.encode(images, noise=False).z
    torch.testing.assert_close(model.z_mean, z.mean(0))
    torch.testing.assert_close(model.z_std, z.std(0, correction=0))
    x_T = model.encode(images).noise.x_T
    expected = {"mean": float(x_T.mean()), "variance": float(x_T.var()), "images": 4}
    assert model.history["x_T"] == pytest.approx(expected, abs=1e-4)


def test_a_folder_gives_back_the_same_model(small_model, pixels, tmp_path):
    small_model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = DiffusionAutoencoder.from_pretrained(tmp_path)
    assert loaded.config == small_model.config
    assert loaded.stamp == small_model.stamp
    assert torch.equal(loaded.encode(pixels).noise.x_T, small_model.encode(pixels).noise.x_T)
    assert isinstance(Model.from_pretrained(tmp_path), DiffusionAutoencoder)


def test_codes_of_another_model_are_refused(small_model, pixels):
    other = DiffusionAutoencoder(small_model.config)
    with pytest.raises(ZsemError, match="belong to model"):
        other.decode(small_model.encode(pixels))


def test_codes_of_another_backend_are_told(small_model, pixels):
    codes = small_model.encode(pixels[:1])
    with pytest.warns(UserWarning, match="made with torch 1.0 abacus float32"):
        small_model.decode(replace(codes, backend="torch 1.0 abacus float32"))


@pytest.fixture
def saved(small_model, tmp_path):
    return small_model.save(tmp_path / "model")


def change_config(folder, **changes):
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | changes))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: change_config(f, version=99), "format version 99"),
        (lambda f: change_config(f, format="other"), "not written by zsem"),
        (lambda f: change_config(f, kind="unheard of"), "unheard of"),
        (lambda f: change_config(f, config={"image_size": "large"}), "image_size"),
        (lambda f: (f / "config.json").write_text("{"), "is damaged"),
        (lambda f: (f / "config.json").unlink(), "zsem train"),
        (lambda f: (f / "model.safetensors").unlink(), "is missing"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:1000]), "is damaged"),
        (lambda f: safetensors.torch.save_file({"a": torch.zeros(1)}, f / "model.safetensors"), "does not fit"),
    ],
)
def test_spoilt_folders_are_told_in_a_sentence(saved, spoil, sentence):
    spoil(saved)
    with pytest.raises(ZsemError, match=sentence) as caught:
        DiffusionAutoencoder.from_pretrained(saved)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nowhere_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ZsemError, match="neither a folder here nor"):
        DiffusionAutoencoder.from_pretrained("no_such_owner_zsem/no_such_model")


FULL_DISK = """
import resource, signal, sys
from zsem.diffusion.guidance import Extrapolate
from zsem.models import base, imaging
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.values.errors import ZsemError
model = DiffusionAutoencoder.from_pretrained(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    model.save(sys.argv[1])
except ZsemError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_keeps_the_model_that_was_there(saved, small_model):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, saved], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("could not write")
    assert DiffusionAutoencoder.from_pretrained(saved).stamp == small_model.stamp


def test_wrong_requests_are_told_in_a_sentence(small_model, pixels, monkeypatch):
    with pytest.raises(ZsemError, match="choose one of exact, ddim, offsets"):
        small_model.encode(pixels, codec="exakt")
    with pytest.raises(ZsemError, match="between 1 and 998"):
        small_model.encode(pixels, steps=0)
    for told in ({}, {"z_dropout": 0.0}):
        monkeypatch.setattr(small_model, "history", told)
        with pytest.raises(ZsemError, match="never saw an image without its z"):
            small_model.decode(small_model.encode(pixels[:1], noise=False), guidance_scale=2.0)
    with pytest.raises(ZsemError, match=r"\[n, 3, 16, 16\]"):
        small_model.encode(pixels[:, :, :8])
    with pytest.raises(ZsemError, match="image size 0 is none: give 1 pixel or more"):
        DiffusionAutoencoder(type(small_model.config)(image_size=0))


def test_half_weights_are_half_the_file_and_load_as_float32(small_model, pixels, tmp_path):
    whole, half = small_model.save(tmp_path / "whole"), small_model.save(tmp_path / "half", dtype=torch.float16)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = Model.from_pretrained(half)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(to_uint8(loaded.reconstruct(pixels)), pixels)


def test_a_model_that_the_package_comes_with_is_found_by_its_name(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "ASSETS", tmp_path / "assets")
    monkeypatch.chdir(tmp_path)
    small_model.save(tmp_path / "assets" / "discs")
    assert Model.from_pretrained("discs").stamp == small_model.stamp
    other = DiffusionAutoencoder(small_model.config)
    other.save(tmp_path / "discs")  # one's own folder comes first
    assert Model.from_pretrained("discs").stamp == other.stamp


def test_a_code_has_numbers_and_takes_the_place_of_classes(small_model):
    config = small_model.config
    with pytest.raises(ZsemError, match="told z and no class"):
        DiffusionAutoencoder(replace(config, unet=replace(config.unet, num_classes=3)))
    with pytest.raises(ZsemError, match="z_dim must be at least 1, not 0"):
        DiffusionAutoencoder(replace(small_model.config, z_dim=0))
