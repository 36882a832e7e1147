"""The network f_t: its formula, its size, and the embedding of timesteps that it takes from a U-Net."""

import math

import pytest
import torch

from zsem.nets.shift import ShiftNet
from zsem.nets.unet import UNet

UNET = UNet.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), embed_channels=16)


def test_it_has_as_many_parameters_as_the_published_one():
    net = ShiftNet(ShiftNet.Config(channels=512))
    embedding = sum(p.numel() for p in net.time_embed.parameters())
    assert sum(p.numel() for p in net.parameters()) - embedding == 788_992
    assert net.norm.num_groups == 32 and net.norm.eps == 1e-6


def test_it_is_the_formula_of_the_paper():
    """Written out with matrix products, in float64."""
    torch.manual_seed(0)
    unet = UNet(UNET, image_size=8, image_channels=3)
    net = ShiftNet(ShiftNet.Config.of(unet))
    net.adopt(unet)
    h, t = torch.randn(2, 16, 4, 4), torch.tensor([3.0, 700.0])
    w = {name: p.double() for name, p in net.named_parameters()}

    def swish(x):
        return x / (1 + torch.exp(-x))

    frequencies = torch.tensor([math.exp(-math.log(1e4) * i / 4) for i in range(4)]).double()
    angles = t.double()[:, None] * frequencies
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    embedding = swish(waves @ unet.time_embed[0].weight.double().T + unet.time_embed[0].bias.double())
    embedding = embedding @ unet.time_embed[2].weight.double().T + unet.time_embed[2].bias.double()
    x = torch.einsum("oc,bchw->bohw", w["conv_in.weight"][:, :, 0, 0], h.double())
    x = x + w["conv_in.bias"].view(1, -1, 1, 1)
    x = x + (swish(embedding) @ w["time.weight"].T + w["time.bias"])[:, :, None, None]
    # 16 groups of one channel
    x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-6).sqrt()
    x = swish(x * w["norm.weight"].view(1, -1, 1, 1) + w["norm.bias"].view(1, -1, 1, 1))
    wanted = torch.einsum("oc,bchw->bohw", w["conv_out.weight"][:, :, 0, 0], x) + w["conv_out.bias"].view(1, -1, 1, 1)
    torch.testing.assert_close(net(h, t).double(), wanted, atol=1e-5, rtol=1e-4)
    assert float(wanted.detach().abs().mean()) > 0.01


def test_the_embedding_of_timesteps_stays_that_of_the_network():
    unet = UNet(UNET, image_size=8, image_channels=3)
    net = ShiftNet(ShiftNet.Config.of(unet))
    net.adopt(unet)
    net(torch.randn(1, 16, 4, 4), torch.ones(1)).sum().backward()
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None}
    assert trained == {"time", "conv_in", "norm", "conv_out"}
    with pytest.raises(ValueError, match="made for"):
        ShiftNet(ShiftNet.Config(channels=16)).adopt(unet)
