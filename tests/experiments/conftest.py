"""What the tests of experiments share."""

import copy
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zsem.data import builtin
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.vae import VariationalAutoencoder
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.nets.vae import Decoder
from zsem.training.presets import Preset, find_preset


@pytest.fixture(scope="module")
def model(small_model) -> DiffusionAutoencoder:
    """A model whose pictures depend on z, as those of trained ones do."""
    model = copy.deepcopy(small_model)
    with torch.no_grad():
        model.encoder.project.weight.mul_(30)
        for name, parameter in model.unet.named_parameters():
            if "embed_z" in name:
                parameter.mul_(10)
    return model


@pytest.fixture
def small_nano() -> Preset:
    """The preset `nano` with networks of the least size, for 16 px."""
    nano = find_preset("nano")
    unet = replace(nano.model.unet, channels=8, channel_mult=(1,), attention_resolutions=(), embed_channels=8)
    encoder = replace(nano.model.encoder, channels=8, channel_mult=(1, 2))
    return replace(nano, model=replace(nano.model, image_size=16, z_dim=8, unet=unet, encoder=encoder))


@pytest.fixture(scope="session")
def two_hundred_faces(tmp_path_factory) -> Path:
    """Faces of 16 px, 180 to train on and 20 held out."""
    return builtin.avatars(tmp_path_factory.mktemp("faces") / "set", number=200, size=16, workers=1)


@pytest.fixture(scope="module")
def runs(model, two_hundred_faces, tmp_path_factory) -> dict[str, Path]:
    """Folders of an autoencoder, an unconditional model and a VAE, all small and untrained, by the tables' options."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    twin = DiffusionModel(
        DiffusionModel.Config(
            image_size=16,
            unet=UNet.Config(channels=16, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), patch=2),
        )
    )
    encoder = SemanticEncoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=())
    vae = VariationalAutoencoder(
        VariationalAutoencoder.Config(
            image_size=16, z_dim=8, encoder=encoder, decoder=Decoder.Config(channels=8, channel_mult=(1, 2))
        )
    )
    for parameter in twin.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    images = load_images(two_hundred_faces, size=16)
    model.measure_codes(images.split("train"), images.held_out())
    return {
        name: part.save(folder / name) for name, part in (("autoencoder", model), ("twin", twin), ("vae", vae))
    }  # fmt: skip


@pytest.fixture
def command(runs, two_hundred_faces, tmp_path, monkeypatch):
    """Call a table's command on small faces with small models; gives the folder of its files."""

    def call(name: str, *words: object) -> Path:
        options = [word for kind, run in runs.items() for word in (f"--{kind}", run)]
        given = [name, "--data", two_hundred_faces, "--out", tmp_path / name, *options, *words]
        monkeypatch.setattr("sys.argv", list(map(str, given)))
        importlib.import_module(f"experiments.{name}").main()
        return tmp_path / name

    return call
