"""The configuration of a network from the names and shapes of its weights.

What these do not tell is guessed as the published models have it, and can be given: the image size (attention at 16
pixels where one level has it, else a bottleneck of 8 x 8) and the number of attention heads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zsem.nets.encoder import SemanticEncoder
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet

Shapes = Mapping[str, torch.Size]
CIFAR_MULT = (1, 2, 2, 2)  # of DDPM and improved DDPM at 32 pixels


class UnknownArchitectureError(Exception):
    """Names and shapes are not those of a network that zsem knows; the text says why, without the file."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Attention heads, which no shape tells: their number, or the channels of each."""

    number: int = 1
    channels: int | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What was found out about a U-Net or half of one."""

    net: HalfUNet.Config
    image_size: int
    image_channels: int
    out_channels: int


def adm(shapes: Shapes, *, heads: Heads, image_size: int | None = None, time: str = "time_embed") -> Architecture:
    """Of a U-Net, or a noisy classifier, in the layout of guided-diffusion; `time` as in `layouts.adm`.

    Raises UnknownArchitectureError where names are missing that every such network has.
    """
    channels, embed = shape(shapes, f"{time}.0.weight")[1], shape(shapes, f"{time}.2.weight")[0]
    stages = 1 + last_number(shapes, r"input_blocks\.(\d+)\.")
    ups = 1 + last_number(shapes, r"output_blocks\.(\d+)\.", default=-1)
    if ups:
        grows = r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight"
        blocks = stages // (1 + sum(re.fullmatch(grows, name) is not None for name in shapes)) - 1
    else:
        blocks = blocks_per_level(shapes, stages)
    levels = stages // (blocks + 1)
    if blocks < 1 or levels * (blocks + 1) != stages:
        raise UnknownArchitectureError(f"{stages} input blocks are no whole levels of a U-Net")
    ends = [(level + 1) * (blocks + 1) - 1 for level in range(levels)]  # the last block of each level
    widths = [shape(shapes, f"input_blocks.{end}.0.in_layers.2.weight")[0] for end in ends]
    mult = tuple(multiples(widths, channels))
    attentive = [level for level, end in enumerate(ends) if f"input_blocks.{end}.1.qkv.weight" in shapes]
    size = image_size or default_size(mult, attentive)
    if not ups:
        if "out.2.positional_embedding" not in shapes:
            raise UnknownArchitectureError("classifiers with other pooling than attention are not read")
        tokens = shape(shapes, "out.2.positional_embedding")[1] - 1
        size = round(tokens**0.5) * 2 ** (levels - 1)
    time_rows = shape(shapes, "input_blocks.1.0.emb_layers.1.weight")[0]
    classes = shapes.get("label_emb.weight")
    net = HalfUNet.Config(
        channels=channels, channel_mult=mult, num_res_blocks=blocks, embed_channels=embed,
        attention_resolutions=tuple(size // 2**level for level in attentive),
        num_heads=heads.number, num_head_channels=heads.channels,
        num_classes=None if classes is None else classes[0],
        time="scale_shift" if time_rows == 2 * widths[0] else "add",
        resample="conv" if f"input_blocks.{blocks + 1}.0.op.weight" in shapes else "block",
    )  # fmt: skip
    return Architecture(
        net=net, image_size=size, image_channels=shape(shapes, "input_blocks.0.0.weight")[1],
        out_channels=shape(shapes, "out.2.weight" if ups else "out.2.c_proj.weight")[0],
    )  # fmt: skip


def adm_encoder(
    shapes: Shapes, *, image_size: int, heads: int = 1, blocks: int | None = None
) -> SemanticEncoder.Config:
    """Of DiffAE's semantic encoder; `blocks` per level, where that is known."""
    stages = 1 + last_number(shapes, r"input_blocks\.(\d+)\.")
    blocks = blocks or blocks_per_level(shapes, stages)
    ends = range(blocks, stages, blocks + 1)
    channels = shape(shapes, "input_blocks.0.0.weight")[0]
    widths = [shape(shapes, f"input_blocks.{end}.0.in_layers.2.weight")[0] for end in ends]
    return SemanticEncoder.Config(
        channels=channels, channel_mult=tuple(int(m) for m in multiples(widths, channels)), num_res_blocks=blocks,
        attention_resolutions=tuple(
            image_size // 2**level for level, end in enumerate(ends) if f"input_blocks.{end}.1.qkv.weight" in shapes
        ),
        num_heads=heads,
    )  # fmt: skip


def latent(shapes: Shapes) -> LatentNet.Config:
    """Of DiffAE's latent network."""
    return LatentNet.Config(
        layers=1 + last_number(shapes, r"layers\.(\d+)\."),
        hidden=shape(shapes, "layers.0.linear.weight")[0],
        time_channels=shape(shapes, "time_embed.0.weight")[1],
    )


def ddpm(shapes: Shapes, *, heads: Heads, image_size: int | None = None) -> Architecture:
    """Of a U-Net in the layout of DDPM's PyTorch port."""
    channels, embed = shape(shapes, "temb.dense.0.weight")[1], shape(shapes, "temb.dense.1.weight")[0]
    levels = 1 + last_number(shapes, r"down\.(\d+)\.")
    blocks = 1 + last_number(shapes, r"down\.0\.block\.(\d+)\.")
    widths = [shape(shapes, f"down.{level}.block.{blocks - 1}.conv1.weight")[0] for level in range(levels)]
    mult = tuple(multiples(widths, channels))
    attentive = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in shapes]
    size = image_size or default_size(mult, attentive)
    net = HalfUNet.Config(
        channels=channels, channel_mult=mult, num_res_blocks=blocks, embed_channels=embed,
        attention_resolutions=tuple(size // 2**level for level in attentive),
        num_heads=heads.number, num_head_channels=heads.channels,
        time="add", resample="conv_tail", norm_eps=1e-6, frequency_shift=1,
    )  # fmt: skip
    return Architecture(
        net=net, image_size=size, image_channels=shape(shapes, "conv_in.weight")[1],
        out_channels=shape(shapes, "conv_out.weight")[0],
    )  # fmt: skip


def default_size(mult: tuple[int | float, ...], attentive: list[int]) -> int:
    """The image size that published models of these levels have: where one level has attention, it is of 16 pixels."""
    if len(attentive) == 1:
        return 16 * 2 ** attentive[0]
    return 32 if mult == CIFAR_MULT else 8 * 2 ** (len(mult) - 1)


def multiples(widths: list[int], channels: int) -> list[int | float]:
    """Widths in units of `channels`, whole where they are."""
    return [width // channels if width % channels == 0 else width / channels for width in widths]


def blocks_per_level(shapes: Shapes, stages: int) -> int:
    """Residual blocks per level of half a U-Net: the count for which levels are of one width and one kind throughout.

    Between levels is a block (or convolution) that keeps the width and never has attention.
    """
    widths, attention = [0], [False]
    for i in range(1, stages):
        weight = shapes.get(f"input_blocks.{i}.0.in_layers.2.weight")
        widths.append(-1 if weight is None else weight[0])  # -1: a convolution
        attention.append(f"input_blocks.{i}.1.qkv.weight" in shapes)
    fitting = []
    for blocks in range(1, stages):
        if stages % (blocks + 1):
            continue
        levels = [range(first + 1, first + 1 + blocks) for first in range(0, stages, blocks + 1)]
        alike = all(len({(widths[i], attention[i]) for i in level}) == 1 and widths[level[0]] > 0 for level in levels)
        between = [level[-1] + 1 for level in levels[:-1]]
        if alike and all(not attention[i] and widths[i] in {-1, widths[i - 1]} for i in between):
            fitting.append(blocks)
    if not fitting:
        raise UnknownArchitectureError("the input blocks do not form levels of a U-Net")
    if len(fitting) > 1 and 2 not in fitting:
        raise UnknownArchitectureError(
            f"there may be {' or '.join(map(str, fitting))} blocks per level: no shape tells"
        )
    return 2 if 2 in fitting else fitting[0]  # two, as published


def shape(shapes: Shapes, name: str) -> torch.Size:
    """The shape of a tensor that must be there."""
    if name not in shapes:
        raise UnknownArchitectureError(f"there is no {name}: the file is incomplete, or of another architecture")
    return shapes[name]


def last_number(shapes: Shapes, pattern: str, default: int | None = None) -> int:
    """The largest number that stands in names at the place of the pattern's group."""
    numbers = [int(found[1]) for name in shapes if (found := re.match(pattern, name))]
    if numbers:
        return max(numbers)
    if default is None:
        raise UnknownArchitectureError(
            f"there are no tensors called {pattern}: the file is incomplete, or of another architecture"
        )
    return default
