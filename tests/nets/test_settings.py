"""Configurations that no network can be made of are told in one sentence, whichever network they are for."""

from dataclasses import replace

import pytest

from zsem.nets.encoder import SemanticEncoder
from zsem.nets.gan import Discriminator
from zsem.nets.unet import HalfUNet, UNet
from zsem.nets.vae import Decoder
from zsem.values.errors import ZsemError


@pytest.mark.parametrize("network", [HalfUNet, SemanticEncoder, Decoder, Discriminator])
@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("channels", 0, "channels of a network must be at least 1, not 0"),
        ("patch", 0, "patch of a network must be at least 1, not 0"),
        ("num_res_blocks", -1, "num_res_blocks of a network must be at least 1, not -1"),
        ("channel_mult", (), r"channel_mult .* not \[\]"),
        ("channel_mult", (1, 0), r"channel_mult .* not \[1, 0\]"),
    ],
)
def test_what_all_networks_need(network, setting, value, told):
    with pytest.raises(ZsemError, match=told):
        replace(network.Config(), **{setting: value})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_heads": 0}, "num_heads .* at least 1"),
        ({"num_head_channels": 0}, "num_head_channels .* at least 1"),
        ({"embed_channels": 0}, "embed_channels .* at least 1"),
        ({"norm_groups": 0}, "norm_groups .* at least 1"),
        ({"dropout": 1.0}, "dropout .* not 1"),
        ({"channels": 1}, "at least 2, to embed time"),
        ({"channels": 3, "frequency_shift": 1}, "at least 4, to embed time"),
        ({"channels": 8, "channel_mult": (0.1,)}, r"channel_mult .* not \[0.1\]"),
    ],
)
def test_what_a_unet_needs(changes, told):
    with pytest.raises(ZsemError, match=told):
        UNet.Config(**changes)


def test_the_narrowest_unets():
    UNet(UNet.Config(channels=2, channel_mult=(1,)), image_size=4, image_channels=1)
    UNet.Config(channels=4, frequency_shift=1, channel_mult=(0.25,))


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(ZsemError, match="64 channels cannot be divided among 3 attention heads"):
        SemanticEncoder(SemanticEncoder.Config(num_heads=3, channel_mult=(1,)), image_size=8, image_channels=3, z_dim=4)
