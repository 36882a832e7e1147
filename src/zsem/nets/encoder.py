"""Half U-Nets that end in a vector: the semantic encoder, and the classifier of noisy images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import Attention, ResBlock, attend, group_norm
from zsem.nets.settings import Levels
from zsem.nets.unet import HalfUNet
from zsem.values.prediction import Condition


class SemanticEncoder(nn.Module):
    """Image to z_sem (DiffAE, section 3.2 and supplement A); deterministic, no normalisation of the result.

    Its residual blocks have one convolution each and no time input, as in the published weights.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Levels):
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
        width = config.channels
        c, size = width * config.channel_mult[0], image_size // config.patch
        self.stem = nn.Conv2d(image_channels * config.patch**2, c, 3, padding=1)
        layers: list[nn.Module] = []
        self.level_ends: list[int] = []  # layers up to the end of every level, before it is halved
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers.append(ResBlock(c, width * mult))
                c = width * mult
                if size in config.attention_resolutions:
                    layers.append(Attention(c, heads=config.num_heads))
            self.level_ends.append(len(layers))
            if level < len(config.channel_mult) - 1:
                layers.append(ResBlock(c, c, resample="down"))
                size //= 2
        layers += [ResBlock(c, c), Attention(c, heads=config.num_heads), ResBlock(c, c)]
        self.layers = nn.Sequential(*layers)
        self.norm_out = group_norm(c)
        self.project = nn.Linear(c * config.pool**2, z_dim)

    def forward(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """z_sem of clean images in [-1, 1]."""
        return self.project(self.features(x0))

    def features(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """What the last linear layer, `project`, reads of clean images in [-1, 1]."""
        h = self.layers(self.stem(F.pixel_unshuffle(x0, self.config.patch)))
        return F.adaptive_avg_pool2d(F.silu(self.norm_out(h)), self.config.pool).flatten(1)

    def level_maps(self, x0: Float[Tensor, "b c h w"], levels: int) -> list[Float[Tensor, "b _ _ _"]]:
        """Feature maps at the end of the first levels, finest first; the rest of the network is not evaluated."""
        h, maps = self.stem(F.pixel_unshuffle(x0, self.config.patch)), []
        for number, layer in enumerate(islice(self.layers, self.level_ends[levels - 1]), start=1):
            h = layer(h)
            if number in self.level_ends:
                maps.append(h)
        return maps


class AttentionPool(nn.Module):
    """A feature map to a vector: its mean is one more token, and attends to all of them (ADM, section 4; CLIP).

    cells: of the map, its height times its width; out_dim: length of the vector.
    """

    def __init__(self, channels: int, *, cells: int, head_channels: int, out_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.position = nn.Parameter(torch.randn(channels, cells + 1) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, out_dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.project(self.features(x))

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """What the last linear layer, `project`, reads."""
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(dim=2, keepdim=True), tokens], dim=2) + self.position
        return attend(self.qkv(tokens.transpose(1, 2)), self.heads)[:, 0]


class NoisyClassifierNet(HalfUNet):
    """Logits of classes from x_t and t: half a U-Net with attention pooling (ADM, section 4.1).

    image_size: side of the images, or height and width: attention pooling knows places, and takes no other size.
    """

    def __init__(
        self, config: HalfUNet.Config, *, image_size: int | tuple[int, int], image_channels: int, num_outputs: int
    ):
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        super().__init__(config, image_size=max(height, width), image_channels=image_channels)
        cells = (height // config.multiple) * (width // config.multiple)
        c = self.skip_channels[-1]
        self.norm_out = self.norm(c)
        head_channels = config.num_head_channels or c // config.num_heads
        self.pool = AttentionPool(c, cells=cells, head_channels=head_channels, out_dim=num_outputs)

    def forward(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Logits for x_t at timesteps t (0..T-1)."""
        return self.pool(self._map(x_t, t))

    def features(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
        """What the last linear layer, `pool.project`, reads of x_t at timesteps t."""
        return self.pool.features(self._map(x_t, t))

    def _map(self, x_t: Tensor, t: Tensor) -> Tensor:
        h, _ = self.down(x_t, t, Condition())
        return F.silu(self.norm_out(h))
