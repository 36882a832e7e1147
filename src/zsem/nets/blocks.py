"""The building blocks of the ADM U-Net as Diffusion Autoencoders configure it (DiffAE, supplement A; ADM, section 3).

Written for speed on CPUs as well: attention is a plain matrix product there (the fused CPU kernel loses at the few
tokens of a U-Net), upsampling is a reshape, and both modulations of a block are applied in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.values.errors import ZsemError

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Norm = Callable[[int], nn.Module]
TimeInjection = Literal["scale_shift", "add"]


def group_norm(channels: int, *, groups: int = 32, eps: float = 1e-5) -> nn.GroupNorm:
    """Group normalisation with the most groups up to `groups` that divide `channels` (32 for all published widths)."""
    return nn.GroupNorm(max(g for g in range(1, groups + 1) if channels % g == 0), channels, eps=eps)


def zero_init(module: ModuleT) -> ModuleT:
    """Set all parameters of `module` to zero, so that its residual branch begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def downsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
    """Mean over 2 x 2 pixels; height and width must be even."""
    return F.avg_pool2d(x, 2)


def upsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Nearest-neighbour, twice the size."""
    b, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)


def sinusoidal_embedding(t: Float[Tensor, " b"], dim: int, *, shift: int = 0) -> Float[Tensor, "b dim"]:
    """[cos | sin] of t at `dim`/2 frequencies from 1 down to 1e-4 (DDPM, appendix B), t in timesteps.

    shift: 0 ends one frequency above 1e-4, as ADM's code does; 1 ends on it, as DDPM's does.
    """
    half = dim // 2
    falls = torch.arange(half, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(1e4) / (half - shift) * falls)
    angles = t[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class ResBlock(nn.Module):
    """Residual block with optional 2x resampling and adaptive group normalisation.

    With `embed_channels` (the U-Net): two convolutions; the second normalisation is modulated by the time embedding
    (scale and shift) and then by z (scale only): h = (1 + z_s) ((1 + t_s) GN(h) + t_b)   (DiffAE, eq. 7).
    Without (the semantic encoder): one convolution, x + conv(silu(GN(x))).

    time: "scale_shift" as above (ADM, section 3), or "add": GN(h + t_b), as in DDPM.
    resample: None, "down" or "up"; both branches are resampled before the first convolution (BigGAN).
    rescale: divide the sum of both branches by sqrt(2), which keeps the variance of branches of one size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        embed_channels: int | None = None,
        z_dim: int | None = None,
        time: TimeInjection = "scale_shift",
        dropout: float = 0.0,
        resample: str | None = None,
        rescale: bool = False,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.rescale = rescale
        self.resample = None if resample is None else {"down": downsample, "up": upsample}[resample]
        self.time = time
        self.norm_in = norm(in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.embed_time = self.embed_z = None
        if embed_channels is None:
            return
        self.embed_time = nn.Linear(embed_channels, out_channels if time == "add" else 2 * out_channels)
        if z_dim is not None:
            self.embed_z = nn.Linear(z_dim, out_channels)
        self.norm_out = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        embedding: Float[Tensor, "b e"] | None = None,
        z: Float[Tensor, "b d"] | None = None,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """`embedding` and `z` come already passed through SiLU: every block needs them so."""
        h = F.silu(self.norm_in(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_in(h)
        if self.embed_time is not None and embedding is not None:
            h = self._modulate(h, self.embed_time(embedding), z)
            h = self.conv_out(self.dropout(F.silu(h)))
        h = self.skip(x) + h
        return h / math.sqrt(2) if self.rescale else h

    def _modulate(self, h: Tensor, time: Tensor, z: Tensor | None) -> Tensor:
        z_scale = None if self.embed_z is None or z is None else 1 + self.embed_z(z)
        if self.time == "add":
            h = self.norm_out(h + time[:, :, None, None].to(h.dtype))
            return h if z_scale is None else h * z_scale[:, :, None, None].to(h.dtype)
        scale, shift = time.chunk(2, dim=1)
        scale = 1 + scale
        if z_scale is not None:
            scale, shift = scale * z_scale, shift * z_scale
        return torch.addcmul(shift[:, :, None, None].to(h.dtype), self.norm_out(h), scale[:, :, None, None].to(h.dtype))


class DownConv(nn.Module):
    """Half the size by a 3 x 3 convolution of stride 2.

    tail: zeros are added at the bottom and right only, as in DDPM, instead of on all sides.
    """

    def __init__(self, channels: int, *, tail: bool) -> None:
        super().__init__()
        self.tail = tail
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if tail else 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Tensor | None = None, z: Tensor | None = None
    ) -> Float[Tensor, "b c h/2 w/2"]:
        """Called as a residual block is; the embeddings are not used."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.tail else x)


class UpConv(nn.Module):
    """Twice the size: nearest-neighbour, then a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Tensor | None = None, z: Tensor | None = None
    ) -> Float[Tensor, "b c 2*h 2*w"]:
        """Called as a residual block is; the embeddings are not used."""
        return self.conv(upsample(x))


class Attention(nn.Module):
    """Self-attention over all pixels with a residual connection (ADM, section 3.1).

    heads: number of heads; head_channels: channels of one head, which then sets the number of heads.
    rescale: as in `ResBlock`.
    Raises ZsemError where the channels cannot be divided among the heads.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 1,
        head_channels: int | None = None,
        rescale: bool = False,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.rescale = rescale
        if channels % (heads if head_channels is None else head_channels):
            of = f"{heads} attention heads" if head_channels is None else f"attention heads of {head_channels}"
            raise ZsemError(f"{channels} channels cannot be divided among {of}")
        self.heads = heads if head_channels is None else channels // head_channels
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        b, c, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        out = self.project(attend(self.qkv(tokens), self.heads))
        x = x + out.transpose(1, 2).reshape(b, c, height, width)
        return x / math.sqrt(2) if self.rescale else x


def attend(qkv: Float[Tensor, "b n _"], heads: int) -> Float[Tensor, "b n _"]:
    """Attention of n tokens over each other; `qkv` holds queries, keys and values side by side, each head by head."""
    b, _, width = qkv.shape
    size = width // 3 // heads
    q, k, v = qkv.view(b, -1, 3, heads, size).permute(2, 0, 3, 1, 4)
    if qkv.device.type == "cpu":
        scores = (q * size**-0.5) @ k.transpose(-1, -2)
        out = scores.float().softmax(-1).to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(b, -1, width // 3)
