"""The networks of the baselines: how they begin, and how large they are by default."""

import pytest
import torch
import torch.nn.functional as F

from zsem.models.gan import GenerativeAdversarialNetwork
from zsem.models.vae import VariationalAutoencoder
from zsem.nets.gan import Discriminator
from zsem.nets.vae import Decoder


@pytest.fixture(autouse=True)
def seeded():
    """Weights and noise of every test are the same whatever ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("patch", [1, 2, 3])
def test_a_decoder_begins_without_a_grid(patch):
    decoder = Decoder(
        Decoder.Config(channels=8, channel_mult=(1, 2), embed_channels=16, patch=patch),
        image_size=(4 * patch, 6 * patch), image_channels=3, z_dim=5,
    )  # fmt: skip
    images = decoder(torch.randn(2, 5))
    assert images.shape == (2, 3, 4 * patch, 6 * patch)
    first = images[..., ::patch, ::patch]
    torch.testing.assert_close(F.interpolate(first, scale_factor=patch, mode="nearest"), images)
    assert first.std() > 0.01


def test_every_block_of_a_decoder_is_told_the_vector():
    decoder = Decoder(Decoder.Config(channels=8, channel_mult=(1, 1)), image_size=(8, 8), image_channels=1, z_dim=3)
    with torch.no_grad():
        for block in decoder.blocks:
            torch.nn.init.normal_(block.conv_out.weight, std=0.1)
        decoder.stem.weight.zero_()  # only the blocks know z now
    one, other = decoder(torch.randn(2, 3))
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_discriminator_keeps_the_scale_of_what_it_sees():
    discriminator = Discriminator(Discriminator.Config(), image_size=(32, 32), image_channels=3)
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        inside = discriminator.blocks(discriminator.stem(F.pixel_unshuffle(images, 2)))
        logits = discriminator(images)
    assert 0.3 < inside.std() < 10
    assert 0.02 < logits.std() < 10


@pytest.mark.parametrize("kind", [VariationalAutoencoder, GenerativeAdversarialNetwork])
def test_the_default_is_of_a_size_for_cpus(kind):
    model = kind(kind.Config(image_size=32))
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 3e6
