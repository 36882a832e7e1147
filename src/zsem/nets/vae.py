"""From a latent vector to an image: the decoder of a VAE, and the generator of a GAN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import ResBlock, group_norm
from zsem.nets.settings import Levels


class Decoder(nn.Module):
    """Latent vector to image: a linear map to the coarsest level, then residual blocks that double the resolution.

    Every block is told the vector again, as scale and shift after its normalisation (ADM's AdaGN with the vector in
    place of time; BigGAN, 1809.11096, section 3). No batch normalisation: its statistics would depend on how a batch
    is shared out, and averages of weights have none of their own.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Levels):
        channels: int = 64
        """width of the first level"""
        channel_mult: tuple[int, ...] = (1, 2, 2)
        """width of every level as a multiple of `channels`, the finest first; each level halves the resolution"""
        num_res_blocks: int = 1
        """residual blocks per level"""
        embed_channels: int = 256
        """width of what every block is told of the latent vector"""
        patch: int = 2
        """side of the pixel blocks that are channels at the output"""

    def __init__(self, config: Config, *, image_size: tuple[int, int], image_channels: int, z_dim: int) -> None:
        """image_size: height and width."""
        super().__init__()
        self.config = config
        c, embed = config.channels * config.channel_mult[-1], config.embed_channels
        height, width = (side // config.multiple for side in image_size)
        self.coarsest = (c, height, width)
        self.embed = nn.Linear(z_dim, embed)
        self.stem = nn.Linear(z_dim, c * height * width)
        blocks = []
        for level in reversed(range(len(config.channel_mult))):
            width = config.channels * config.channel_mult[level]
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(c, width, embed_channels=embed))
                c = width
            if level > 0:
                blocks.append(ResBlock(c, c, embed_channels=embed, resample="up"))
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = group_norm(c)
        self.conv_out = nn.Conv2d(c, image_channels * config.patch**2, 3, padding=1)
        with torch.no_grad():  # the pixels of a patch begin equal, or a grid stays in the images (1707.02937)
            for parameter in self.conv_out.parameters():
                parameter.copy_(parameter[:: config.patch**2].repeat_interleave(config.patch**2, dim=0))

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Images, nominally in [-1, 1] and not clipped."""
        embedding = F.silu(self.embed(z))
        h = self.stem(z).unflatten(1, self.coarsest)
        for block in self.blocks:
            h = block(h, embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.config.patch)
