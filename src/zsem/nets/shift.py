"""The network f_t of Asyrp: from the bottleneck h of a U-Net and the timestep to what is added to h."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.nets.blocks import group_norm, sinusoidal_embedding
from zsem.nets.unet import HalfUNet


class ShiftNet(nn.Module):
    """A 1x1 convolution, the timestep added, group norm, swish, a 1x1 convolution (2210.10960, figure 4).

    It starts from torch's random weights and not from zeros, at which the direction of what it changes is unknown.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        channels: int
        """channels of h"""
        waves: int = 128
        """length of the sinusoidal embedding of the timestep, the width of the U-Net's first level"""
        embed_channels: int = 512
        """length of the learned embedding of the timestep"""
        time_scale: float = 1.0
        """factor on timesteps before they are embedded, as the U-Net has it"""
        frequency_shift: int = 0
        """of the sinusoidal embedding, as the U-Net has it"""

        @classmethod
        def of(cls, unet: HalfUNet) -> ShiftNet.Config:
            """For the bottleneck of a U-Net, with its embedding of timesteps."""
            config = unet.config
            return cls(
                channels=unet.skip_channels[-1], waves=config.channels, embed_channels=config.embed_channels,
                time_scale=config.time_scale, frequency_shift=config.frequency_shift,
            )  # fmt: skip

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        c, embed = config.channels, config.embed_channels
        self.time_embed = nn.Sequential(nn.Linear(config.waves, embed), nn.SiLU(), nn.Linear(embed, embed))
        self.time = nn.Linear(embed, c)
        self.conv_in, self.norm, self.conv_out = nn.Conv2d(c, c, 1), group_norm(c, eps=1e-6), nn.Conv2d(c, c, 1)

    def adopt(self, unet: HalfUNet) -> None:
        """Take the embedding of timesteps from a trained U-Net, and keep it as it is, as in the published code.

        Raises ValueError where the configuration is not `Config.of` this U-Net.
        """
        if self.config != self.Config.of(unet):
            raise ValueError("a shift takes the embedding of timesteps from the U-Net that it was made for")
        self.time_embed.load_state_dict(unet.time_embed.state_dict())
        self.time_embed.requires_grad_(False)

    def forward(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is added to h at timesteps t (0..T-1)."""
        config = self.config
        waves = sinusoidal_embedding(t * config.time_scale, config.waves, shift=config.frequency_shift)
        at = self.time(F.silu(self.time_embed(waves)))
        return self.conv_out(F.silu(self.norm(self.conv_in(h) + at[:, :, None, None])))
