"""What official code does that no shape tells, written down again: attention, latent network, published flags."""

import math

import pytest
import torch
import torch.nn.functional as F

from zsem.interop import layouts
from zsem.interop.architecture import Architecture, Heads
from zsem.interop.conventions import Options, of_guided_diffusion
from zsem.nets.blocks import Attention, sinusoidal_embedding
from zsem.nets.encoder import AttentionPool, NoisyClassifierNet
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet, UNet


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 3


def legacy_attention(qkv, heads):
    """QKVAttentionLegacy of guided-diffusion: [b, heads * 3 * c, n] -> [b, heads * c, n]."""
    b, width, n = qkv.shape
    c = width // (3 * heads)
    q, k, v = qkv.reshape(b * heads, 3 * c, n).split(c, dim=1)
    weight = torch.einsum("bct,bcs->bts", q / math.sqrt(math.sqrt(c)), k / math.sqrt(math.sqrt(c)))
    return torch.einsum("bts,bcs->bct", weight.softmax(-1), v).reshape(b, -1, n)


def new_attention(qkv, heads):
    """QKVAttention of guided-diffusion: queries, keys and values side by side."""
    b, width, n = qkv.shape
    c = width // (3 * heads)
    q, k, v = (part.reshape(b * heads, c, n) for part in qkv.chunk(3, dim=1))
    weight = torch.einsum("bct,bcs->bts", q / math.sqrt(math.sqrt(c)), k / math.sqrt(math.sqrt(c)))
    return torch.einsum("bts,bcs->bct", weight.softmax(-1), v).reshape(b, -1, n)


@pytest.mark.parametrize("legacy", [True, False])
def test_attention_of_several_heads(legacy):
    config = HalfUNet.Config(channels=32, channel_mult=(1,), num_heads=4, embed_channels=16, num_res_blocks=1)
    network = UNet(config, image_size=8, image_channels=3)
    state = {"middle_block.1.qkv.weight": random(96, 32, 1), "middle_block.1.qkv.bias": random(96, seed=1)}
    state |= {"middle_block.1.proj_out.weight": random(32, 32, 1, seed=2), "middle_block.1.proj_out.bias": random(32)}
    state |= {"middle_block.1.norm.weight": random(32, seed=3) + 1, "middle_block.1.norm.bias": random(32, seed=4)}
    mine = {e.ours: e for e in layouts.adm(network, legacy_heads=legacy) if e.ours.startswith("middle_in.attention")}
    attention = network.middle_in.attention
    assert isinstance(attention, Attention)
    own = {f"middle_in.attention.{name}": p.shape for name, p in attention.named_parameters()}
    attention.load_state_dict(
        {name.removeprefix("middle_in.attention."): entry.read(state, own[name]) for name, entry in mine.items()}
    )
    x = random(2, 32, 4, 4, seed=5)
    h = F.group_norm(x, 32, state["middle_block.1.norm.weight"], state["middle_block.1.norm.bias"]).flatten(2)
    h = F.conv1d(h, state["middle_block.1.qkv.weight"], state["middle_block.1.qkv.bias"])
    h = legacy_attention(h, 4) if legacy else new_attention(h, 4)
    h = F.conv1d(h, state["middle_block.1.proj_out.weight"], state["middle_block.1.proj_out.bias"])
    with torch.no_grad():
        torch.testing.assert_close(attention(x), x + h.reshape(x.shape), atol=1e-5, rtol=1e-5)


def test_attention_pool():
    """AttentionPool2d of guided-diffusion: the mean is the first token, and what it attends to is the answer."""
    pool = AttentionPool(16, cells=9, head_channels=8, out_dim=5)
    x = random(2, 16, 3, 3)
    tokens = x.flatten(2)
    tokens = torch.cat([tokens.mean(dim=-1, keepdim=True), tokens], dim=-1) + pool.position[None]
    h = new_attention(F.conv1d(tokens, pool.qkv.weight[..., None], pool.qkv.bias), 2)
    wanted = F.conv1d(h, pool.project.weight[..., None], pool.project.bias)[:, :, 0]
    torch.testing.assert_close(pool(x), wanted, atol=1e-5, rtol=1e-5)
    half = HalfUNet.Config(channels=16, channel_mult=(1, 1), num_head_channels=8, embed_channels=16)
    entries = layouts.adm(NoisyClassifierNet(half, image_size=8, image_channels=3, num_outputs=5))
    assert {e.order for e in entries if e.ours.startswith("pool.")} == {"same"}  # it never was in the legacy order


def test_latent_network():
    """MLPSkipNet of DiffAE: scale before the norm, the input again before every layer but the first."""
    net = LatentNet(LatentNet.Config(layers=3, hidden=12, time_channels=8), z_dim=6)
    z, t = random(4, 6), torch.tensor([0.0, 10.0, 500.0, 999.0])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(random(*parameter.shape, seed=9))
        p = dict(net.named_parameters())
        time = F.linear(sinusoidal_embedding(t, 8), p["time_embed.0.weight"], p["time_embed.0.bias"])
        time = F.silu(F.linear(F.silu(time), p["time_embed.2.weight"], p["time_embed.2.bias"]))
        h = z
        for i in range(2):
            h = h if i == 0 else torch.cat([h, z], dim=1)
            h = F.linear(h, p[f"layers.{i}.linear.weight"], p[f"layers.{i}.linear.bias"])
            h = h * (1 + F.linear(time, p[f"layers.{i}.embed_time.weight"], p[f"layers.{i}.embed_time.bias"]))
            h = F.silu(F.layer_norm(h, (12,), p[f"layers.{i}.norm.weight"], p[f"layers.{i}.norm.bias"]))
        h = F.linear(torch.cat([h, z], dim=1), p["layers.2.linear.weight"], p["layers.2.linear.bias"])
        torch.testing.assert_close(net(z, t), h, atol=1e-5, rtol=1e-5)


def found(size, *, classes=None, resample="block", time="scale_shift"):
    net = HalfUNet.Config(num_classes=classes, resample=resample, time=time)
    return Architecture(net=net, image_size=size, image_channels=3, out_channels=6)


# flags in the READMEs of guided-diffusion and improved-diffusion
@pytest.mark.parametrize(
    ("architecture", "classifier", "heads", "legacy", "kind", "timesteps", "time_scale"),
    [
        (found(64, classes=1000), False, Heads(channels=64), False, "cosine", 1000, 1.0),
        (found(128, classes=1000), False, Heads(number=4), True, "linear", 1000, 1.0),
        (found(256, classes=1000), False, Heads(channels=64), True, "linear", 1000, 1.0),
        (found(256), False, Heads(channels=64), True, "linear", 1000, 1.0),
        (found(64), True, Heads(channels=64), True, "cosine", 1000, 1.0),
        (found(256), True, Heads(channels=64), True, "linear", 1000, 1.0),
        (found(32, resample="conv"), False, Heads(number=4), True, "cosine", 4000, 0.25),
        (found(64, resample="conv", classes=1000), False, Heads(number=4), True, "cosine", 4000, 1.0),
        (found(256, resample="conv", time="add"), False, Heads(number=1), True, "linear", 1000, 1.0),
    ],
)
def test_flags_of_published_models(architecture, classifier, heads, legacy, kind, timesteps, time_scale):
    conventions = of_guided_diffusion(architecture, classifier=classifier)
    assert (conventions.heads, conventions.legacy_heads) == (heads, legacy)
    assert (conventions.schedule.kind, conventions.schedule.timesteps) == (kind, timesteps)
    assert conventions.put(architecture.net).time_scale == time_scale


def test_what_the_user_says_changes_that_alone():
    assumed = of_guided_diffusion(found(32, resample="conv"), classifier=False)
    assert assumed.changed(Options(timesteps=4000)) == assumed
    shorter = assumed.changed(Options(timesteps=2000, schedule="linear"))
    assert shorter.put(HalfUNet.Config()).time_scale == 0.5
    assert (shorter.schedule.beta_start, shorter.schedule.beta_end) == (5e-5, 0.01)
    assert "told as t * 1000 / T" in str(shorter)
    assert shorter.changed(Options(rescale_timesteps=False)).put(HalfUNet.Config()).time_scale == 1.0
    assert assumed.changed(Options(attention_order="new", head_channels=32)).heads == Heads(channels=32)
