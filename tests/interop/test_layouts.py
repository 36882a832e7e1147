"""Names and shapes of published checkpoints: every architecture is found, and every tensor has its place."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from zsem.interop import architecture, layouts
from zsem.interop.architecture import Heads
from zsem.interop.importing import below
from zsem.nets.encoder import NoisyClassifierNet, SemanticEncoder
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet, UNet

# name -> shape, written down from the official classes
PUBLISHED = json.loads(gzip.decompress((Path(__file__).parent / "diffae_state_dict_keys.json.gz").read_bytes()))
# image size; parameters of U-Net, encoder and latent network as the paper's configurations have them
SIZES = {
    "ffhq64/celeba64 autoenc": (64, 90_839_235),
    "celeba64 autoenc_latent(10)": (64, 144_948_931),
    "ffhq64_ddpm": (64, 67_841_539),
    "ffhq128_autoenc": (128, 128_545_155),
    "ffhq128_autoenc_latent(10)": (128, 182_654_851),
    "horse/bedroom128_autoenc_latent(20)": (128, 245_651_331),
    "ffhq128_ddpm": (128, 98_618_499),
    "ffhq256_autoenc": (256, 168_492_291),
    "ffhq256_autoenc_latent(10)": (256, 222_601_987),
}


def assert_fits(network, entries, shapes):
    """Every tensor of the file is wanted once and fits, every parameter gets its own."""
    parameters = dict(network.named_parameters())
    assert sorted(entry.ours for entry in entries) == sorted(parameters)
    assert sorted(name for entry in entries for name in entry.theirs) == sorted(shapes)
    for entry in entries:
        (name,) = entry.theirs
        assert [n for n in shapes[name] if n != 1] == [n for n in parameters[entry.ours].shape if n != 1], name
    return sum(p.numel() for p in parameters.values())


@pytest.mark.parametrize("name", SIZES)
def test_all_published_configurations_are_found(name):
    size, parameters = SIZES[name]
    shapes = {key: torch.Size(shape) for key, shape in PUBLISHED[name].items()}
    encoder, latent = below(shapes, "encoder."), below(shapes, "latent_net.")
    body = {k: v for k, v in shapes.items() if not k.startswith(("encoder.", "latent_net."))}
    time = "time_embed.time_embed" if encoder else "time_embed"
    found = architecture.adm(body, heads=Heads(), time=time)
    assert found.image_size == size  # from the number of levels alone
    assert found.net.attention_resolutions == (16,)
    total = 0
    with torch.device("meta"):
        unet = UNet(found.net, image_size=size, image_channels=3, z_dim=512 if encoder else None)
        total += assert_fits(unet, layouts.adm(unet, time=time), body)
        if encoder:
            config = architecture.adm_encoder(encoder, image_size=size)
            network = SemanticEncoder(config, image_size=size, image_channels=3, z_dim=512)
            total += assert_fits(network, layouts.adm_encoder(network), encoder)
        if latent:
            once = {k: v for k, v in latent.items() if ".cond_layers." not in k}
            net = LatentNet(architecture.latent(once), z_dim=512)
            total += assert_fits(net, layouts.latent(net), once)
    assert total == parameters


ADM = HalfUNet.Config(
    channels=64, channel_mult=(1, 2, 3, 4), num_res_blocks=3, attention_resolutions=(32, 16, 8),
    num_head_channels=64, embed_channels=256, num_classes=1000,
)  # fmt: skip
IMPROVED = HalfUNet.Config(
    channels=32, channel_mult=(1, 2, 2, 2), num_res_blocks=3, attention_resolutions=(16, 8), num_heads=4,
    embed_channels=128, resample="conv",
)  # fmt: skip
LSUN = HalfUNet.Config(
    channels=32, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2, embed_channels=128, time="add", resample="conv"
)
DDPM = HalfUNet.Config(
    channels=32, channel_mult=(1, 1, 2, 2, 4, 4), embed_channels=128, time="add", resample="conv_tail",
    norm_eps=1e-6, frequency_shift=1,
)  # fmt: skip
HALF_A_LEVEL = HalfUNet.Config(
    channels=64, channel_mult=(0.5, 1, 1, 2, 2, 4, 4), attention_resolutions=(32, 16, 8), num_head_channels=32
)


@pytest.mark.parametrize(("config", "size"), [(ADM, 64), (IMPROVED, 32), (LSUN, 256), (DDPM, 256), (HALF_A_LEVEL, 512)])
@pytest.mark.parametrize("learned_range", [False, True])
def test_an_architecture_is_found_again_from_its_own_shapes(config, size, learned_range):
    with torch.device("meta"):
        network = UNet(config, image_size=size, image_channels=3, out_channels=6 if learned_range else 3)
    heads = Heads(number=config.num_heads, channels=config.num_head_channels)
    if config is DDPM:
        entries, find = layouts.ddpm(network), architecture.ddpm
    else:
        entries, find = layouts.adm(network), architecture.adm
    parameters = dict(network.named_parameters())
    state = {name: part for entry in entries for name, part in entry.write(parameters[entry.ours]).items()}
    found = find({name: part.shape for name, part in state.items()}, heads=heads)
    assert found.net == config
    assert (found.image_size, found.image_channels, found.out_channels) == (size, 3, 6 if learned_range else 3)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_noisy_classifier_is_found_again(depth):
    config = HalfUNet.Config(
        channels=32, channel_mult=(1, 2, 3, 4), num_res_blocks=depth, attention_resolutions=(32, 16, 8),
        num_head_channels=32, embed_channels=128,
    )  # fmt: skip
    with torch.device("meta"):
        network = NoisyClassifierNet(config, image_size=64, image_channels=3, num_outputs=10)
    entries = layouts.adm(network)
    assert sorted(entry.ours for entry in entries) == sorted(name for name, _ in network.named_parameters())
    parameters = dict(network.named_parameters())
    shapes = {entry.theirs[0]: parameters[entry.ours].shape for entry in entries}
    found = architecture.adm(shapes, heads=Heads(channels=32))
    assert (found.net, found.image_size, found.out_channels) == (config, 64, 10)


def test_legacy_attention_is_stored_head_by_head():
    """Against the definition: the first rows of a legacy projection are queries, keys and values of the first head."""
    heads, width = 2, 3
    rows = [f"{part}{head}{i}" for head in range(heads) for part in "qkv" for i in range(width)]
    wanted = [f"{part}{head}{i}" for part in "qkv" for head in range(heads) for i in range(width)]
    legacy = torch.arange(len(rows), dtype=torch.float32)
    entry = layouts.Entry(ours="qkv.bias", theirs=("qkv.bias",), order="heads", heads=heads)
    ours = entry.read({"qkv.bias": legacy}, torch.Size([len(rows)]))
    assert [rows[int(i)] for i in ours] == wanted
    assert torch.equal(entry.write(ours)["qkv.bias"], legacy)


def test_sines_before_cosines():
    entry = layouts.Entry(ours="time_embed.0.weight", theirs=("w",), order="waves")
    sines_first = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
    ours = entry.read({"w": sines_first}, torch.Size([1, 4]))
    assert ours.tolist() == [[30.0, 40.0, 1.0, 2.0]]
    assert torch.equal(entry.write(ours)["w"], sines_first)
