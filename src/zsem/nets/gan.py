"""The discriminator of a GAN. Its generator is the `Decoder` of `zsem.nets.vae`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import ResBlock
from zsem.nets.settings import Levels


class Discriminator(nn.Module):
    """Image to one logit, positive for real ones: residual blocks, half the resolution after each level.

    Without normalisation, as in the ResNets that R1 was proposed with (1801.04406, section 5): what one image is
    judged to be depends on no other, and its gradient by the image is not scaled away.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Levels):
        channels: int = 64
        """width of the first level"""
        channel_mult: tuple[int, ...] = (1, 2, 2)
        """width of every level as a multiple of `channels`; each level halves the resolution"""
        num_res_blocks: int = 1
        """residual blocks per level"""
        patch: int = 2
        """side of the pixel blocks that become channels at the input"""

    def __init__(self, config: Config, *, image_size: tuple[int, int], image_channels: int) -> None:
        """image_size: height and width."""
        super().__init__()
        self.config = config
        c = config.channels * config.channel_mult[0]
        self.stem = nn.Conv2d(image_channels * config.patch**2, c, 3, padding=1)
        blocks = []
        for level, mult in enumerate(config.channel_mult):
            width = config.channels * mult
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(c, width, norm=nn.Identity))
                c = width
            if level < len(config.channel_mult) - 1:
                blocks.append(ResBlock(c, c, norm=nn.Identity, resample="down"))
        blocks.append(ResBlock(c, c, norm=nn.Identity))
        self.blocks = nn.Sequential(*blocks)
        for conv in (self.stem, *(block.conv_in for block in blocks)):
            nn.init.kaiming_normal_(conv.weight)  # no normalisation brings back what torch's own start takes away
        height, width = (side // config.multiple for side in image_size)
        self.project = nn.Linear(c * height * width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Logits for images in [-1, 1]."""
        h = self.blocks(self.stem(F.pixel_unshuffle(x, self.config.patch)))
        return self.project(F.silu(h).flatten(1))[:, 0]
