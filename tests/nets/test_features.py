"""EfficientNet-Lite0 against a forward pass written from the published description, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsem.nets import features
from zsem.nets.features import load_efficientnet_lite0
from zsem.nets.weights import packaged
from zsem.values.draws import generator
from zsem.values.errors import ZsemError

# as in TensorFlow's efficientnet_lite_builder.py: repeats, kernel, stride, expansion, input and output channels
BLOCKS = (
    "r1_k3_s1_e1_i32_o16", "r2_k3_s2_e6_i16_o24", "r2_k5_s2_e6_i24_o40", "r3_k3_s2_e6_i40_o80",
    "r3_k5_s1_e6_i80_o112", "r4_k5_s2_e6_i112_o192", "r1_k3_s1_e6_i192_o320",
)  # fmt: skip
SIDE = 32


def blocks() -> list[dict[str, int]]:
    """Every block's kernel, stride, expansion, input and output, repeats written out."""
    out = []
    for text in BLOCKS:
        block = {part[0]: int(part[1:]) for part in text.split("_")}
        for repeat in range(block["r"]):
            out.append(block if repeat == 0 else {**block, "s": 1, "i": block["o"]})
    return out


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights under the names of the published file, classifier included."""
    rng = generator(0)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, side: int) -> None:
        scale = (into * side**2) ** -0.5
        state[f"{name}.weight"] = torch.from_numpy(rng.normal(0, scale, (out, into, side, side)).astype(np.float32))

    def norm(name: str, channels: int) -> None:
        for part, low, high in (
            ("weight", 1, 2),
            ("bias", -0.2, 1),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.5, 2),
        ):
            state[f"{name}.{part}"] = torch.from_numpy(rng.uniform(low, high, channels).astype(np.float32))
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, block in enumerate(blocks()):
        wide = block["i"] * block["e"]
        if block["e"] > 1:
            conv(f"_blocks.{number}._expand_conv", wide, block["i"], 1)
            norm(f"_blocks.{number}._bn0", wide)
        conv(f"_blocks.{number}._depthwise_conv", wide, 1, block["k"])
        norm(f"_blocks.{number}._bn1", wide)
        conv(f"_blocks.{number}._project_conv", block["o"], wide, 1)
        norm(f"_blocks.{number}._bn2", block["o"])
    conv("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    state["_fc.weight"], state["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "efficientnet-lite0.pth"
    torch.save(state, path)
    return path


def reference(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Features of pixels 0..255 in float64, straight from the weights."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = w[f"{name}.weight"]
        # "SAME": as many outputs as strides fit, the window that sticks out shared, the odd pixel at the end
        over = max((-(-x.shape[-1] // stride) - 1) * stride + kernel.shape[-1] - x.shape[-1], 0)
        return F.conv2d(F.pad(x, (over // 2, over - over // 2) * 2), kernel, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        part = {key: w[f"{name}.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")}
        return (x - part["running_mean"]) / (part["running_var"] + 1e-3).sqrt() * part["weight"] + part["bias"]

    h = norm(conv((pixels.double() - 127) / 128, "_conv_stem", stride=2), "_bn0").clamp(0, 6)
    for number, block in enumerate(blocks()):
        name, before = f"_blocks.{number}", h
        if block["e"] > 1:
            h = norm(conv(h, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        h = conv(h, f"{name}._depthwise_conv", stride=block["s"], groups=h.shape[1])
        h = norm(h, f"{name}._bn1").clamp(0, 6)
        h = norm(conv(h, f"{name}._project_conv"), f"{name}._bn2")
        if block["s"] == 1 and block["i"] == block["o"]:
            h = h + before
    return norm(conv(h, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))


def pictures(channels: int = 3, side: int = SIDE) -> Tensor:
    return torch.from_numpy(generator(1).integers(0, 256, (2, channels, side, side)).astype(np.float32))


def test_features_are_those_of_the_published_network(state, weights):
    network = load_efficientnet_lite0(weights, size=SIDE)
    pixels = pictures()
    found, expected = network(pixels / 127.5 - 1).double(), reference(state, pixels)
    assert found.shape == (2, 1280) and expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_images_are_resized_and_grey_ones_get_three_channels(weights):
    network = load_efficientnet_lite0(weights, size=SIDE)
    flat = torch.full((1, 1, 20, 20), 0.25)
    same = network(torch.full((1, 3, SIDE, SIDE), 0.25))
    torch.testing.assert_close(network(flat), same)
    large = pictures(side=2 * SIDE) / 127.5 - 1
    smaller = F.interpolate(large, (SIDE, SIDE), mode="bilinear", antialias=True)
    torch.testing.assert_close(network(large), network(smaller), atol=1e-4, rtol=1e-4)


def test_the_network_only_judges(weights):
    network = load_efficientnet_lite0(weights)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    image = pictures().requires_grad_()
    network(image).sum().backward()  # guidance by features needs the gradient of the image
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_weights_of_other_networks_are_named(state, tmp_path):
    short = tmp_path / "short.pth"
    torch.save({name: tensor for name, tensor in state.items() if name != "_conv_head.weight"}, short)
    with pytest.raises(ZsemError, match=r"short\.pth does not hold an EfficientNet-Lite0"):
        load_efficientnet_lite0(short)


def test_the_packaged_weights_load(state):
    packaged_state = torch.load(packaged(features.PACKAGE, "models/*.pth", what=""), weights_only=True)
    assert {k: v.shape for k, v in packaged_state.items()} == {k: v.shape for k, v in state.items()}
    found, pixels = load_efficientnet_lite0(size=SIDE), pictures()
    expected = reference(packaged_state, pixels)
    torch.testing.assert_close(found(pixels / 127.5 - 1).double(), expected, atol=1e-3, rtol=1e-3)
