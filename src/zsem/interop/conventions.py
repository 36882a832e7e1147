"""What published models were made with and their files do not tell, and how a user says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zsem.diffusion.schedule import NoiseSchedule
from zsem.interop.architecture import Architecture, Heads


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to take instead of the guess; None = the guess, or what the file says."""

    image_size: int | None = None
    """side of the images, pixels"""
    heads: int | None = None
    """number of attention heads"""
    head_channels: int | None = None
    """channels of one attention head, instead of their number"""
    attention_order: Literal["legacy", "new"] | None = None
    """queries, keys and values stored head by head (legacy) or side by side (--use_new_attention_order True)"""
    schedule: Literal["linear", "cosine"] | None = None
    """noise schedule"""
    timesteps: int | None = None
    """timesteps of the noise schedule (--diffusion_steps)"""
    rescale_timesteps: bool | None = None
    """the network is told t * 1000 / timesteps (--rescale_timesteps)"""
    weights: Literal["ema", "raw"] | None = None
    """averaged or last weights, where a file has both"""


GUESS = Options()


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a network is to be run: attention heads, noise schedule, labels of timesteps."""

    heads: Heads = field(default_factory=Heads)
    legacy_heads: bool = True
    schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
    time_scale: float = 1.0

    def changed(self, options: Options) -> Conventions:
        """The same with what the user says."""
        heads = self.heads
        if options.heads is not None or options.head_channels is not None:
            heads = Heads(number=options.heads or 1, channels=options.head_channels)
        timesteps = options.timesteps or self.schedule.timesteps
        scale = self.time_scale if options.timesteps is None else 1.0
        if options.rescale_timesteps is not None:
            scale = 1000 / timesteps if options.rescale_timesteps else 1.0
        return Conventions(
            heads=heads,
            legacy_heads=self.legacy_heads if options.attention_order is None else options.attention_order == "legacy",
            schedule=NoiseSchedule.Config(kind=options.schedule or self.schedule.kind, timesteps=timesteps),
            time_scale=scale,
        )

    def __str__(self) -> str:
        heads = f"{self.heads.number} heads" if self.heads.channels is None else f"heads of {self.heads.channels}"
        return (
            f"attention in {heads} ({'legacy' if self.legacy_heads else 'new'} order), "
            f"{self.schedule.kind} schedule of {self.schedule.timesteps} timesteps"
        )


ONE_HEAD = Conventions()


def of_guided_diffusion(found: Architecture, *, classifier: bool) -> Conventions:
    """The flags of the models that the repositories of ADM (also P2, ILVR) and improved DDPM publish."""
    net, cosine = found.net, NoiseSchedule.Config(kind="cosine")
    if net.resample == "block":
        small = found.image_size == 64
        if classifier:
            return Conventions(heads=Heads(channels=64), schedule=cosine if small else NoiseSchedule.Config())
        if net.num_classes is not None and found.image_size == 128:
            return Conventions(heads=Heads(number=4))
        if net.num_classes is not None and small:
            return Conventions(heads=Heads(channels=64), legacy_heads=False, schedule=cosine)
        return Conventions(heads=Heads(channels=64))
    if net.time == "add":  # LSUN
        return ONE_HEAD
    return Conventions(
        heads=Heads(number=4), schedule=NoiseSchedule.Config(kind="cosine", timesteps=4000),
        time_scale=1.0 if net.num_classes is not None else 0.25,
    )  # fmt: skip
