"""What published models were made with and their files do not tell, and how a user says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from zsem.diffusion.schedule import NoiseSchedule
from zsem.interop.architecture import Architecture, Heads
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to take instead of the guess; None = the guess, or what the file says.

    Raises ZsemError for numbers that are not positive.
    """

    size: int | None = None
    """side of the images, pixels"""
    heads: int | None = None
    """number of attention heads"""
    head_channels: int | None = None
    """channels of one attention head, instead of their number"""
    attention_order: Literal["legacy", "new"] | None = None
    """new for models trained with --use_new_attention_order True"""
    schedule: Literal["linear", "cosine"] | None = None
    """noise schedule"""
    timesteps: int | None = None
    """timesteps of the noise schedule (--diffusion_steps)"""
    rescale_timesteps: bool | None = None
    """the network is told t * 1000 / timesteps, as with improved-diffusion's --rescale_timesteps True"""
    weights: Literal["ema", "raw"] | None = None
    """averaged or last weights, where a file has both; averaged by default, but the last of a classifier of z"""

    def __post_init__(self) -> None:
        for name in ("size", "heads", "head_channels", "timesteps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ZsemError(f"--{name.replace('_', '-')} must be at least 1, not {value}")

    def refuse(self, layout: str, *unused: str) -> None:
        """Raise ZsemError where an option is given that means nothing for a layout."""
        for name in unused:
            if getattr(self, name) is not None:
                raise ZsemError(f"--{name.replace('_', '-')} means nothing for {layout}: leave it out")


GUESS = Options()


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a network is to be run: attention heads, noise schedule, labels of timesteps."""

    heads: Heads = field(default_factory=Heads)
    legacy_heads: bool = True
    schedule: NoiseSchedule.Config = field(default_factory=NoiseSchedule.Config)
    rescale: bool = False

    def changed(self, options: Options) -> Conventions:
        """The same with what the user says."""
        heads = self.heads
        if options.heads is not None or options.head_channels is not None:
            heads = Heads(number=options.heads or 1, channels=options.head_channels)
        order, rescale = options.attention_order, options.rescale_timesteps
        schedule = self.schedule
        if options.schedule is not None or options.timesteps is not None:
            kind, beta = options.schedule or schedule.kind, schedule.beta * schedule.timesteps / 1000
            schedule = scaled(kind, options.timesteps or schedule.timesteps, beta)
        return Conventions(
            heads=heads,
            legacy_heads=self.legacy_heads if order is None else order == "legacy",
            schedule=schedule,
            rescale=self.rescale if rescale is None else rescale,
        )

    def put(self, net: HalfUNet.Config) -> HalfUNet.Config:
        """A network's configuration that follows them."""
        scale = 1000 / self.schedule.timesteps if self.rescale else 1.0
        return replace(net, num_heads=self.heads.number, num_head_channels=self.heads.channels, time_scale=scale)

    def __str__(self) -> str:
        heads = f"{self.heads.number} heads" if self.heads.channels is None else f"heads of {self.heads.channels}"
        told = " told as t * 1000 / T" if self.rescale else ""
        return (
            f"attention in {heads} ({'legacy' if self.legacy_heads else 'new'} order), "
            f"{self.schedule.kind} schedule of {self.schedule.timesteps} timesteps{told}"
        )


ONE_HEAD = Conventions()


def scaled(
    kind: Literal["linear", "cosine", "constant"], timesteps: int = 1000, beta: float = 0.008
) -> NoiseSchedule.Config:
    """A schedule as improved DDPM, ADM and DiffAE have it: betas are those of a thousand timesteps, times 1000 / T."""
    by, plain = 1000 / timesteps, NoiseSchedule.Config()
    return NoiseSchedule.Config(
        kind=kind, timesteps=timesteps,
        beta_start=plain.beta_start * by, beta_end=plain.beta_end * by, beta=beta * by,
    )  # fmt: skip


def of_guided_diffusion(found: Architecture, *, classifier: bool) -> Conventions:
    """The flags of the models that the repositories of ADM (also P2, ILVR) and improved DDPM publish."""
    net = found.net
    if net.resample == "block":
        small = found.image_size == 64
        if classifier:
            return Conventions(heads=Heads(channels=64), schedule=scaled("cosine" if small else "linear"))
        if net.num_classes is not None and found.image_size == 128:
            return Conventions(heads=Heads(number=4))
        if net.num_classes is not None and small:
            return Conventions(heads=Heads(channels=64), legacy_heads=False, schedule=scaled("cosine"))
        return Conventions(heads=Heads(channels=64))
    if net.time == "add":  # LSUN
        return ONE_HEAD
    return Conventions(heads=Heads(number=4), schedule=scaled("cosine", 4000), rescale=net.num_classes is None)
