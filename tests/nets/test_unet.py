"""The U-Net and the encoder against what the papers say of them."""

import math

import pytest
import torch
import torch.nn.functional as F

from zsem.nets.blocks import Attention, ResBlock, downsample, group_norm, sinusoidal_embedding, upsample
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.values.prediction import Condition


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Zero-initialised layers hide mistakes behind them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return module.eval()


def small_unet(**changes) -> UNet:
    settings = {"channels": 16, "channel_mult": (1, 2), "attention_resolutions": (8,), "embed_channels": 32}
    network = UNet(UNet.Config(**(settings | changes)), image_size=16, image_channels=3, z_dim=8)
    randomise(network)
    return network


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


PUBLISHED = [  # image size, width, levels, parameters in all and of the encoder, counted on DiffAE's own classes
    (64, 64, (1, 2, 4, 8), 90_839_235, 19_320_512),
    (128, 128, (1, 1, 2, 3, 4), 128_545_155, 24_673_536),
    (256, 128, (1, 1, 2, 2, 4, 4), 168_492_291, 30_150_400),
]


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_sizes(published):
    size, channels, mult, total, encoder = published
    shape = {"image_size": size, "image_channels": 3, "z_dim": 512}
    with torch.device("meta"):
        network = UNet(UNet.Config(channels=channels, channel_mult=mult), **shape)
        half = SemanticEncoder(SemanticEncoder.Config(channels=channels, channel_mult=(*mult, mult[-1])), **shape)
    assert count(half) == encoder
    assert count(network) + count(half) == total


def test_residual_block_is_the_published_formula():
    block = ResBlock(8, 16, embed_channels=4, z_dim=6)
    randomise(block)
    x, embedding, z = torch.randn(2, 8, 6, 6), torch.randn(2, 4), torch.randn(2, 6)
    h = block.conv_in(F.silu(block.norm_in(x)))
    scale, shift = block.embed_time(embedding)[:, :, None, None].chunk(2, dim=1)
    h = (1 + block.embed_z(z)[:, :, None, None]) * ((1 + scale) * block.norm_out(h) + shift)
    expected = block.skip(x) + block.conv_out(F.silu(h))
    torch.testing.assert_close(block(x, embedding, z), expected)


def test_attention_equals_torch():
    attention = Attention(16, heads=4)
    randomise(attention)
    x = torch.randn(2, 16, 5, 3)
    tokens = attention.norm(x).flatten(2).transpose(1, 2)
    q, k, v = attention.qkv(tokens).chunk(3, dim=-1)
    split = [part.view(2, 15, 4, 4).transpose(1, 2) for part in (q, k, v)]
    mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(2, 15, 16)
    expected = x + attention.project(mixed).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected)


def test_resampling_equals_torch():
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(upsample(x), F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(downsample(upsample(x)), x)


def test_time_embedding_tells_timesteps_apart():
    embedding = sinusoidal_embedding(torch.arange(1000.0), 64)
    assert embedding.shape == (1000, 64)
    assert embedding[0, 0] == 1
    assert embedding[0, 32] == 0
    assert embedding[7, 33] == pytest.approx(math.sin(7 * 1e4 ** (-1 / 32)), rel=1e-5)
    assert torch.cdist(embedding, embedding).fill_diagonal_(1).min() > 0.01


@pytest.mark.parametrize("channels", [1, 5, 48, 96, 100, 512])
def test_any_width_is_normalised_in_groups(channels):
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    if channels % 32 == 0:
        assert norm.num_groups == 32


def test_forward_is_down_then_up_and_the_bottleneck_matters():
    network, x, t = small_unet(), torch.randn(2, 3, 16, 16), torch.tensor([3.0, 500.0])
    cond = Condition(z=torch.randn(2, 8))
    h, context = network.down(x, t, cond)
    assert h.shape == (2, 32, 8, 8)
    assert torch.equal(network(x, t, cond), network.up(h, context))
    assert not torch.allclose(network(x, t, cond), network.up(h + 1, context))


def test_it_listens_to_z_time_and_class():
    network, x, t = small_unet(num_classes=3), torch.randn(1, 3, 16, 16), torch.tensor([10.0])
    z, kind = torch.randn(1, 8), torch.tensor([0])
    base = network(x, t, Condition(z=z, classes=kind))
    for other in (
        network(x, t + 1, Condition(z=z, classes=kind)),
        network(x, t, Condition(z=-z, classes=kind)),
        network(x, t, Condition(z=z, classes=kind + 1)),
        network(x, t, Condition(classes=kind)),
    ):
        assert not torch.allclose(base, other)


@pytest.mark.parametrize("changes", [{"patch": 2}, {"channels": 20}, {"num_head_channels": 8}, {"dropout": 0.5}])
def test_options_keep_the_image_shape(changes):
    network = small_unet(**changes)
    x = torch.randn(2, 3, 16, 16)
    assert network(x, torch.zeros(2), Condition(z=torch.randn(2, 8))).shape == x.shape


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        small_unet()(torch.randn(1, 3, 15, 16), torch.zeros(1), Condition(z=torch.randn(1, 8)))


def test_the_untrained_decoder_predicts_zero():
    network = UNet(UNet.Config(channels=16, channel_mult=(1,)), image_size=16, image_channels=1, z_dim=4)
    assert network(torch.randn(1, 1, 16, 16), torch.zeros(1), Condition(z=torch.randn(1, 4))).abs().max() == 0


@pytest.mark.parametrize("pool", [1, 2])
def test_encoder_gives_one_vector_per_image(pool):
    config = SemanticEncoder.Config(channels=8, channel_mult=(1, 2, 2), attention_resolutions=(8,), pool=pool)
    encoder = SemanticEncoder(config, image_size=16, image_channels=3, z_dim=10)
    randomise(encoder)
    x = torch.randn(3, 3, 16, 16)
    assert encoder(x).shape == (3, 10)
    torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]))
