"""A direction in a space of codes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A step in z or h that means something, whatever method found it.

    space: "z" (normalised semantic code) or "h" (U-Net bottleneck).
    vector: the step for an amount of 1, [d].
    unit: what an amount of 1 is, e.g. "standard deviation" or "logit of smile".
    name: what the direction changes, e.g. "smile".
    model: stamp of the model that the direction belongs to.
    """

    space: str
    vector: Float[Tensor, " d"]
    unit: str
    name: str
    model: str

    def __mul__(self, amount: float) -> Direction:
        return Direction(
            space=self.space, vector=self.vector * amount, unit=self.unit, name=self.name, model=self.model
        )

    __rmul__ = __mul__
