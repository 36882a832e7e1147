"""The network of the latent DDIM: an MLP that is given its input again at every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import sinusoidal_embedding


class LatentLayer(nn.Module):
    """Linear, scaled by time, layer norm, SiLU. The last layer of a network is linear alone (`embed_channels` None)."""

    def __init__(self, in_channels: int, out_channels: int, embed_channels: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.embed_time = self.norm = None
        if embed_channels is not None:
            self.embed_time = nn.Linear(embed_channels, out_channels)
            self.norm = nn.LayerNorm(out_channels)
            for layer in (self.linear, self.embed_time):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b c2"]:
        """`embedding` comes already passed through SiLU."""
        x = self.linear(x)
        if self.embed_time is None or self.norm is None:
            return x
        return F.silu(self.norm(x * (1 + self.embed_time(embedding))))


class LatentNet(nn.Module):
    """Noise predictor for normalised semantic codes (DiffAE, section 3.4 and supplement A.1, Table 7)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        layers: int = 10
        """linear layers"""
        hidden: int = 2048
        """width of the hidden layers"""
        time_channels: int = 64
        """length of the sinusoidal time embedding"""

    def __init__(self, config: Config, *, z_dim: int) -> None:
        super().__init__()
        self.config = config
        self.time_embed = nn.Sequential(nn.Linear(config.time_channels, z_dim), nn.SiLU(), nn.Linear(z_dim, z_dim))
        widths = [z_dim, *[config.hidden + z_dim] * (config.layers - 1)]
        self.layers = nn.ModuleList(
            [LatentLayer(width, config.hidden, z_dim) for width in widths[:-1]] + [LatentLayer(widths[-1], z_dim, None)]
        )

    def forward(self, z_t: Float[Tensor, "b d"], t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """eps for noisy normalised codes z_t at timesteps t (0..T-1)."""
        embedding = F.silu(self.time_embed(sinusoidal_embedding(t, self.config.time_channels)))
        h = z_t
        for number, layer in enumerate(self.layers):
            h = layer(h if number == 0 else torch.cat([h, z_t], dim=1), embedding)
        return h
