"""The ADM U-Net, conditioned on time, class and z_sem, in two halves that meet in the bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import Attention, ResBlock, group_norm, sinusoidal_embedding, zero_init
from zsem.values.prediction import Condition


@dataclass(frozen=True, kw_only=True)
class Context:
    """What `down` leaves for `up`: the embeddings (through SiLU) and the skip connections, first to last."""

    embedding: Float[Tensor, "b e"]
    z: Float[Tensor, "b d"] | None
    skips: tuple[Float[Tensor, "b _c _h _w"], ...]


class Stage(nn.Module):
    """One residual block with what follows it at the same place: attention, then a resampling block."""

    def __init__(self, block: ResBlock, attention: Attention | None = None, resample: ResBlock | None = None):
        super().__init__()
        self.block, self.attention, self.resample = block, attention, resample

    def forward(self, x: Tensor, embedding: Tensor, z: Tensor | None) -> Tensor:
        x = self.block(x, embedding, z)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.resample is None else self.resample(x, embedding, z)


class UNet(nn.Module):
    """Noise-predicting U-Net of ADM (2105.05233, section 3) as DiffAE configures it (2111.15640, supplement A).

    Any number of image channels and any width. Heights and widths must be multiples of `UNet.multiple`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        channels: int = 64
        """width of the first level"""
        channel_mult: tuple[int, ...] = (1, 2, 4, 8)
        """width of every level as a multiple of `channels`; each level halves the resolution"""
        num_res_blocks: int = 2
        """residual blocks per level on the way down; one more on the way up"""
        attention_resolutions: tuple[int, ...] = (16,)
        """sizes (pixels of the feature map) at which attention follows every block; the middle always has it"""
        num_heads: int = 1
        """attention heads"""
        num_head_channels: int | None = None
        """channels of one attention head; sets the number of heads where given"""
        embed_channels: int = 512
        """width of the time embedding"""
        dropout: float = 0.0
        """dropout inside residual blocks, in training only"""
        patch: int = 1
        """side of the pixel blocks that become channels at the input (an orthonormal pixel-unshuffle)"""
        num_classes: int | None = None
        """number of classes for a class-conditional network"""

    def __init__(self, config: Config, *, image_size: int, image_channels: int, z_dim: int | None = None):
        super().__init__()
        self.config = config
        self.patch = config.patch
        self.multiple = config.patch * 2 ** (len(config.channel_mult) - 1)
        width, embed = config.channels, config.embed_channels
        self.time_embed = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.class_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, embed)
        pixel_channels = image_channels * config.patch**2
        self.stem = nn.Conv2d(pixel_channels, width * config.channel_mult[0], 3, padding=1)

        def block(c_in: int, c_out: int, resample: str | None = None) -> ResBlock:
            return ResBlock(c_in, c_out, embed_channels=embed, z_dim=z_dim, dropout=config.dropout, resample=resample)

        def attention(c: int, size: int) -> Attention | None:
            if size not in config.attention_resolutions:
                return None
            return Attention(c, heads=config.num_heads, head_channels=config.num_head_channels)

        size, c = image_size // config.patch, width * config.channel_mult[0]
        skips, down, up = [c], [], []
        last = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                down.append(Stage(block(c, width * mult), attention(width * mult, size)))
                c = width * mult
                skips.append(c)
            if level < last:
                down.append(Stage(block(c, c, "down")))
                size //= 2
                skips.append(c)
        middle_attention = Attention(c, heads=config.num_heads, head_channels=config.num_head_channels)
        self.middle_in = Stage(block(c, c), middle_attention)
        self.middle_out = block(c, c)
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                skip = skips.pop()
                grow = block(width * mult, width * mult, "up") if level > 0 and i == config.num_res_blocks else None
                up.append(Stage(block(c + skip, width * mult), attention(width * mult, size), grow))
                c = width * mult
            size *= 2
        self.down_stages, self.up_stages = nn.ModuleList(down), nn.ModuleList(up)
        self.norm_out = group_norm(c)
        self.conv_out = zero_init(nn.Conv2d(c, pixel_channels, 3, padding=1))

    def down(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> tuple[Float[Tensor, "b c2 h2 w2"], Context]:
        """From x_t to the bottleneck h (after the middle blocks, where Asyrp edits) and what `up` needs beside it.

        t: timesteps (0..T-1). Raises ValueError where the image size does not fit the levels.
        """
        if x_t.shape[2] % self.multiple or x_t.shape[3] % self.multiple:
            raise ValueError(f"image sides {tuple(x_t.shape[2:])} must be multiples of {self.multiple}")
        embedding = self.time_embed(sinusoidal_embedding(t, self.config.channels))
        if self.class_embed is not None and cond.classes is not None:
            embedding = embedding + self.class_embed(cond.classes)
        embedding = F.silu(embedding)
        z = None if cond.z is None else F.silu(cond.z)
        h = self.stem(F.pixel_unshuffle(x_t, self.patch))
        skips = [h]
        for stage in self.down_stages:
            h = stage(h, embedding, z)
            skips.append(h)
        h = self.middle_out(self.middle_in(h, embedding, z), embedding, z)
        return h, Context(embedding=embedding, z=z, skips=tuple(skips))

    def up(self, h: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c2 h2 w2"]:
        """From the bottleneck to the network's prediction, the size and channels of the image."""
        for stage, skip in zip(self.up_stages, reversed(context.skips), strict=True):
            h = stage(torch.cat([h, skip], dim=1), context.embedding, context.z)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The prediction (eps, v or x0, as trained) for x_t at timesteps t."""
        return self.up(*self.down(x_t, t, cond))
