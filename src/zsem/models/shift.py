"""f_t: a shift of the bottleneck that was learned for one attribute of one diffusion model (Asyrp, 2210.10960)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from zsem.models.base import Model
from zsem.nets.shift import ShiftNet
from zsem.values.direction import Direction, load_directions
from zsem.values.errors import ZsemError

Mode = Literal["symmetric", "asymmetric"]
"""Whether the edited eps stands in both halves of a step, or in the predicted x0 alone, as published."""


class LearnedShift(Model):
    """f_t(h, t) as a `Shift`, with what it was learned for; a model folder like any other."""

    kind = "shift"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        name: str
        """what it changes, e.g. "smile"; an amount of 1 is what it was trained at"""
        model: str
        """stamp of the diffusion model that it belongs to"""
        net: ShiftNet.Config = field(default_factory=lambda: ShiftNet.Config(channels=512))
        """the network"""
        mode: Mode = "symmetric"
        """the process that it was trained in"""
        gain: float = 1.0
        """of the symmetric process, see `hspace.engine.Edited`"""
        t_edit: float = 0.0
        """the last timestep at which it was trained to act; the first is the noisiest"""
        steps: int = 40
        """steps of the process that it was trained in, the published S"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = ShiftNet(config.net)

    @property
    def name(self) -> str:
        """What it changes, as a `Direction` says it."""
        return self.config.name

    @property
    def model(self) -> str:
        """Stamp of the diffusion model that it belongs to, as a `Direction` has it."""
        return self.config.model

    @property
    def space(self) -> str:
        """Where it acts, as a `Direction` says it."""
        return "h"

    @property
    def unit(self) -> str:
        """What an amount of 1 is, as a `Direction` says it."""
        return f"trained strength of {self.name}"

    def forward(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """What is added to h at timesteps t, for an amount of 1."""
        return self.net(h, t)


NamedShift = Direction | LearnedShift
"""What `zsem edit` adds up: both have name, space, unit and the stamp of their model."""


def load_shifts(path: str | Path) -> list[NamedShift]:
    """The shifts of a file of directions, or the one of a folder that a `LearnedShift` was saved to; each has a name.

    Raises ZsemError where there is neither, or it is damaged.
    """
    if Path(path).is_dir():
        return [LearnedShift.from_pretrained(path)]
    if not Path(path).exists():
        raise ZsemError(f"{path} is neither a file of directions nor a folder with a learned shift: check the path")
    return [*load_directions(path)]
