"""The semantic encoder: half a U-Net that ends in a vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import Attention, ResBlock, group_norm


class SemanticEncoder(nn.Module):
    """Image to z_sem (DiffAE, section 3.2 and supplement A); deterministic, no normalisation of the result.

    Its residual blocks have one convolution each and no time input, as in the published weights.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        channels: int = 64
        """width of the first level"""
        channel_mult: tuple[int, ...] = (1, 2, 4, 8, 8)
        """width of every level as a multiple of `channels`; each level halves the resolution"""
        num_res_blocks: int = 2
        """residual blocks per level"""
        attention_resolutions: tuple[int, ...] = (16,)
        """sizes (pixels of the feature map) at which attention follows every block; the middle always has it"""
        num_heads: int = 1
        """attention heads"""
        patch: int = 1
        """side of the pixel blocks that become channels at the input"""
        pool: int = 1
        """side of the pooled map that the last linear layer reads; 1 is the paper's global average"""

    def __init__(self, config: Config, *, image_size: int, image_channels: int, z_dim: int):
        super().__init__()
        self.config = config
        self.multiple = config.patch * 2 ** (len(config.channel_mult) - 1)
        width = config.channels
        c, size = width * config.channel_mult[0], image_size // config.patch
        self.stem = nn.Conv2d(image_channels * config.patch**2, c, 3, padding=1)
        layers: list[nn.Module] = []
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(c, width * mult))
                c = width * mult
                if size in config.attention_resolutions:
                    layers.append(Attention(c, heads=config.num_heads))
            if level < len(config.channel_mult) - 1:
                layers.append(ResBlock(c, c, resample="down"))
                size //= 2
        layers += [ResBlock(c, c), Attention(c, heads=config.num_heads), ResBlock(c, c)]
        self.layers = nn.Sequential(*layers)
        self.norm_out = group_norm(c)
        self.project = nn.Linear(c * config.pool**2, z_dim)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """z_sem of clean images in [-1, 1]."""
        h = self.layers(self.stem(F.pixel_unshuffle(x0, self.config.patch)))
        pooled = F.adaptive_avg_pool2d(F.silu(self.norm_out(h)), self.config.pool)
        return self.project(pooled.flatten(1))
