"""The U-Net and the encoder against what the papers say of them."""

import math

import pytest
import torch
import torch.nn.functional as F

from zsem.nets.blocks import (
    Attention,
    DownConv,
    ResBlock,
    UpConv,
    downsample,
    group_norm,
    sinusoidal_embedding,
    upsample,
)
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.values.errors import ZsemError
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


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("time", ["scale_shift", "add"])
def test_time_is_scale_and_shift_or_added_and_residual_sums_may_be_rescaled(time, rescale):
    block = ResBlock(8, 16, embed_channels=4, time=time, rescale=rescale)
    randomise(block)
    x, embedding = torch.randn(2, 8, 6, 6), torch.randn(2, 4)
    told = block.embed_time(embedding)[:, :, None, None]
    h = block.conv_in(F.silu(block.norm_in(x)))
    if time == "add":
        assert told.shape[1] == 16
        h = F.group_norm(h + told, 16, block.norm_out.weight, block.norm_out.bias)
    else:
        scale, shift = told.chunk(2, dim=1)
        h = (1 + scale) * F.group_norm(h, 16, block.norm_out.weight, block.norm_out.bias) + shift
    expected = block.skip(x) + block.conv_out(F.silu(h))
    torch.testing.assert_close(block(x, embedding), expected * (0.5**0.5 if rescale else 1))


def test_every_residual_sum_is_rescaled():
    """Before training all branches but the skips are 0, so that every sum divides by sqrt(2) and does nothing else."""
    config = UNet.Config(
        channels=16, channel_mult=(1, 1), num_res_blocks=3, attention_resolutions=(16,), embed_channels=32, rescale=True
    )
    network = UNet(config, image_size=16, image_channels=3)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        h, context = network.down(x, torch.zeros(2), Condition())
    sums = 3 * 2 + 1 + 3 + 3  # blocks with attention, the one that halves, blocks without, and the middle
    torch.testing.assert_close(h, downsample(network.stem(x)) * 2 ** (-sums / 2))
    torch.testing.assert_close(context.skips[1], network.stem(x) / 2)


def test_heads_by_number_or_by_width():
    by_number, by_width = small_unet(num_heads=4), small_unet(num_head_channels=8)
    other = small_unet(num_heads=2)
    assert by_number.middle_in.attention.heads == 4  # 32 channels
    x, t, cond = torch.randn(2, 3, 16, 16), torch.zeros(2), Condition(z=torch.randn(2, 8))
    assert torch.equal(by_number(x, t, cond), by_width(x, t, cond))
    assert not torch.allclose(by_number(x, t, cond), other(x, t, cond))
    with pytest.raises(ZsemError, match="32 channels cannot be divided among attention heads of 24"):
        Attention(32, head_channels=24)


@pytest.mark.parametrize(("sizes", "stages"), [((16,), 2 + 3), ((32, 16, 8), 6 + 9), ((), 0)])
def test_attention_follows_every_block_at_its_sizes(sizes, stages):
    config = UNet.Config(channels=8, channel_mult=(1, 1, 1), attention_resolutions=sizes, embed_channels=8)
    network = UNet(config, image_size=32, image_channels=1)
    attentive = [stage for stage in (*network.down_stages, *network.up_stages) if stage.attention is not None]
    assert len(attentive) == stages
    assert network.middle_in.attention is not None


@pytest.mark.parametrize(
    ("resample", "down", "up"),
    [("block", ResBlock, ResBlock), ("conv", DownConv, UpConv), ("conv_tail", DownConv, UpConv)],
)
def test_levels_are_joined_by_blocks_or_convolutions(resample, down, up):
    network = small_unet(resample=resample)
    between, grows = network.down_stages[2].block, [s.resample for s in network.up_stages if s.resample is not None]
    assert type(between) is down
    assert [type(module) for module in grows] == [up]
    x = torch.randn(1, 16, 16, 16)
    if resample == "block":
        assert between.resample is downsample
        assert grows[0].resample is upsample
        return
    padded = F.pad(x, (0, 1, 0, 1)) if resample == "conv_tail" else F.pad(x, (1, 1, 1, 1))
    expected = F.conv2d(padded, between.conv.weight, between.conv.bias, stride=2)
    torch.testing.assert_close(between(x), expected)


def test_a_class_shifts_the_embedding_of_time():
    network = small_unet(num_classes=3)
    x, t, z = torch.randn(2, 3, 16, 16), torch.tensor([10.0, 20.0]), torch.randn(2, 8)
    told = network(x, t, Condition(z=z, classes=torch.tensor([2, 2])))
    network.time_embed[2].bias.data += network.class_embed.weight[2].detach()
    torch.testing.assert_close(network(x, t, Condition(z=z)), told)


def test_depth_or_width_at_nearly_the_same_size():
    """ADM, section 3: 160 channels with 2 blocks per level against 128 with 4, at 128 pixels."""
    with torch.device("meta"):
        wide, deep = (
            UNet(
                UNet.Config(
                    channels=channels, channel_mult=(1, 1, 2, 3, 4), num_res_blocks=blocks, embed_channels=4 * channels
                ),
                image_size=128,
                image_channels=3,
            )
            for channels, blocks in ((160, 2), (128, 4))
        )
    assert count(deep) == pytest.approx(count(wide), rel=0.1)
    assert len(deep.down_stages) - len(wide.down_stages) == 10


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
