"""The ADM U-Net, conditioned on time, class and z_sem, in two halves that meet in the bottleneck."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import (
    Attention,
    DownConv,
    ResBlock,
    TimeInjection,
    UpConv,
    group_norm,
    sinusoidal_embedding,
    zero_init,
)
from zsem.nets.settings import Levels
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition


@dataclass(frozen=True, kw_only=True)
class Context:
    """What `down` leaves for `up`: the embeddings (through SiLU) and the skip connections, first to last."""

    embedding: Float[Tensor, "b e"]
    z: Float[Tensor, "b d"] | None
    skips: tuple[Float[Tensor, "b _c _h _w"], ...]


class Stage(nn.Module):
    """One block with what follows it at the same place: attention, then a resampling block."""

    def __init__(
        self,
        block: ResBlock | DownConv,
        attention: Attention | None = None,
        resample: ResBlock | UpConv | None = None,
    ):
        super().__init__()
        self.block, self.attention, self.resample = block, attention, resample

    def forward(self, x: Tensor, embedding: Tensor, z: Tensor | None) -> Tensor:
        x = self.block(x, embedding, z)
        if self.attention is not None:
            x = self.attention(x)
        return x if self.resample is None else self.resample(x, embedding, z)


class HalfUNet(nn.Module):
    """The way down of the ADM U-Net (2105.05233, section 3), from x_t to the bottleneck h.

    Any number of image channels and any width. Heights and widths must be multiples of `multiple`.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Levels):
        channels: int = 64
        """width of the first level"""
        channel_mult: tuple[int | float, ...] = (1, 2, 4, 8)
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
        """number of classes for a class-conditional network; it is told -1, or nothing, for an image of no class"""
        time: TimeInjection = "scale_shift"
        """how blocks learn of time and class: scale and shift after normalisation (ADM), or added before it (DDPM)"""
        resample: Literal["block", "conv", "conv_tail"] = "block"
        """between levels: a residual block (ADM), a convolution, or one with padding at the tail only (DDPM)"""
        rescale: bool = False
        """divide the sums of residual blocks and attention by sqrt(2), as in score SDEs (2011.13456; ADM, table 1)"""
        norm_groups: int = 32
        """groups of a normalisation at most; the most that divide its channels are taken"""
        norm_eps: float = 1e-5
        """what normalisations add to the variance"""
        frequency_shift: int = 0
        """frequencies of the time embedding: 0 as in ADM, 1 as in DDPM"""
        time_scale: float = 1.0
        """factor on the timestep before it is embedded (improved DDPM: 1000 / timesteps)"""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.channels // 2 <= self.frequency_shift:
                raise ZsemError(f"channels of a network must be at least {2 * self.frequency_shift + 2}, to embed time")

    def __init__(self, config: Config, *, image_size: int, image_channels: int, z_dim: int | None = None):
        super().__init__()
        self.config = config
        self.patch, self.multiple = config.patch, config.multiple
        width, embed = config.channels, config.embed_channels
        self.time_embed = nn.Sequential(nn.Linear(width, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.class_embed = None if config.num_classes is None else nn.Embedding(config.num_classes, embed)
        self.norm = functools.partial(group_norm, groups=config.norm_groups, eps=config.norm_eps)
        self._z_dim = z_dim
        c, size = self.width(0), image_size // config.patch
        self.stem = nn.Conv2d(image_channels * config.patch**2, c, 3, padding=1)
        self.skip_channels, down = [c], []
        for level in range(len(config.channel_mult)):
            for _ in range(config.num_res_blocks):
                down.append(Stage(self.block(c, self.width(level)), self.attention(self.width(level), size)))
                c = self.width(level)
                self.skip_channels.append(c)
            if level < len(config.channel_mult) - 1:
                by_block = config.resample == "block"
                down.append(
                    Stage(self.block(c, c, "down") if by_block else DownConv(c, tail=config.resample == "conv_tail"))
                )
                size //= 2
                self.skip_channels.append(c)
        self.size = size  # of the bottleneck, pixels
        self.down_stages = nn.ModuleList(down)
        self.middle_in = Stage(self.block(c, c), self.attention(c))
        self.middle_out = self.block(c, c)

    def width(self, level: int) -> int:
        """Channels of a level, 0 the finest."""
        return int(self.config.channels * self.config.channel_mult[level])

    def block(self, c_in: int, c_out: int, resample: str | None = None) -> ResBlock:
        """A residual block of this network's kind."""
        return ResBlock(
            c_in, c_out, embed_channels=self.config.embed_channels, z_dim=self._z_dim, time=self.config.time,
            dropout=self.config.dropout, resample=resample, rescale=self.config.rescale, norm=self.norm,
        )  # fmt: skip

    def attention(self, c: int, size: int | None = None) -> Attention | None:
        """Attention of this network's kind, or None where maps of `size` pixels have none."""
        if size is not None and size not in self.config.attention_resolutions:
            return None
        return Attention(
            c, heads=self.config.num_heads, head_channels=self.config.num_head_channels,
            rescale=self.config.rescale, norm=self.norm,
        )  # fmt: skip

    def down(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> tuple[Float[Tensor, "b c2 h2 w2"], Context]:
        """From x_t to the bottleneck h (after the middle blocks, where Asyrp edits) and what `up` needs beside it.

        t: timesteps (0..T-1). Raises ValueError where the image size does not fit the levels.
        """
        if x_t.shape[2] % self.multiple or x_t.shape[3] % self.multiple:
            raise ValueError(f"image sides {tuple(x_t.shape[2:])} must be multiples of {self.multiple}")
        config = self.config
        waves = sinusoidal_embedding(t * config.time_scale, config.channels, shift=config.frequency_shift)
        embedding = self.time_embed(waves)
        if self.class_embed is not None and cond.classes is not None:
            of_class = self.class_embed(cond.classes.clamp(min=0))
            embedding = embedding + of_class * (cond.classes >= 0)[:, None]  # -1 adds nothing: the image is of no class
        embedding = F.silu(embedding)
        z = None if cond.z is None else F.silu(cond.z)
        if z is None and self._z_dim is not None:
            z = embedding.new_zeros(len(x_t), self._z_dim)  # as in training with dropped z
        h = self.stem(F.pixel_unshuffle(x_t, self.patch))
        skips = [h]
        for stage in self.down_stages:
            h = stage(h, embedding, z)
            skips.append(h)
        h = self.middle_out(self.middle_in(h, embedding, z), embedding, z)
        return h, Context(embedding=embedding, z=z, skips=tuple(skips))


class UNet(HalfUNet):
    """Noise-predicting U-Net of ADM as DiffAE configures it (2111.15640, supplement A).

    out_channels: channels of the prediction, those of the image where None; twice as many for a learned variance.
    """

    def __init__(
        self,
        config: HalfUNet.Config,
        *,
        image_size: int,
        image_channels: int,
        z_dim: int | None = None,
        out_channels: int | None = None,
    ):
        super().__init__(config, image_size=image_size, image_channels=image_channels, z_dim=z_dim)
        skips, size = list(self.skip_channels), self.size
        c, up = skips[-1], []
        for level in reversed(range(len(config.channel_mult))):
            width = self.width(level)
            for i in range(config.num_res_blocks + 1):
                grow = None
                if level > 0 and i == config.num_res_blocks:
                    grow = self.block(width, width, "up") if config.resample == "block" else UpConv(width)
                up.append(Stage(self.block(c + skips.pop(), width), self.attention(width, size), grow))
                c = width
            size *= 2
        self.up_stages = nn.ModuleList(up)
        self.norm_out = self.norm(c)
        self.conv_out = zero_init(nn.Conv2d(c, (out_channels or image_channels) * config.patch**2, 3, padding=1))

    def up(self, h: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c2 h2 w2"]:
        """From the bottleneck to the network's prediction, the size of the image."""
        for stage, skip in zip(self.up_stages, reversed(context.skips), strict=True):
            h = stage(torch.cat([h, skip], dim=1), context.embedding, context.z)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c2 h w"]:
        """The prediction (eps, v or x0, as trained; with a learned variance its range after it) at timesteps t."""
        return self.up(*self.down(x_t, t, cond))
