"""What many tests need: small real images and a small real model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.training.loop import Loop
from zsem.training.presets import Preset
from zsem.values import draws

# The networks here are so small that a second thread only waits, and on a busy machine waits for long.
torch.set_num_threads(1)

# The same examples every time, and no verdict on how long one took: machines are busy.
settings.register_profile("zsem", deadline=None, derandomize=True)
settings.load_profile("zsem")

SMALL = DiffusionAutoencoder.Config(
    image_size=16,
    image_channels=3,
    z_dim=8,
    unet=UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=32),
    encoder=SemanticEncoder.Config(channels=8, channel_mult=(1, 2), attention_resolutions=(), num_res_blocks=1),
)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty coloured discs on plain grounds, 16 px, in one folder."""
    folder = tmp_path_factory.mktemp("discs")
    rows, columns = np.mgrid[:16, :16]
    for i in range(40):
        rng = draws.generator(7, i)
        ground, colour = rng.integers(0, 256, (2, 3))
        y, x, radius = rng.uniform(3, 13, 3)
        disc = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2)[..., None]
        Image.fromarray(np.where(disc, colour, ground).astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def small_model() -> DiffusionAutoencoder:
    """A small autoencoder that answers something at every layer (zero-initialised ones would hide mistakes)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionAutoencoder(SMALL)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def quick_preset() -> Preset:
    """Networks of the least size that learn the discs of `image_folder` in a second or two."""
    return Preset(
        model=DiffusionAutoencoder.Config(
            image_size=16,
            z_dim=8,
            unet=UNet.Config(
                channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=32, patch=4
            ),
            encoder=SemanticEncoder.Config(
                channels=16, channel_mult=(1,), attention_resolutions=(), num_res_blocks=1, patch=4, pool=2
            ),
        ),
        training=Loop.Config(batch_size=32, warmup=10, learning_rate=5e-3, log_every=10, precision="fp32"),
    )
