"""How stored values become the numbers that networks see, and back: one affine map, whatever the depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from zsem.data.pixels import from_uint8, to_uint8
from zsem.data.shaping import Depth, depth_of
from zsem.values.errors import ZsemError

LOW, HIGH = 0.1, 99.9
"""Percentiles that become -1 and 1 where none are given."""
SAMPLED = 2**24
"""Values that percentiles are taken over; of more, evenly spaced ones."""
FLOAT_LEVELS = 65535
"""Steps between -1 and 1 in which floats are compared: those of 16 bits."""
USED = 0.25
"""A note is made where images use less of the full range."""


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """An affine map of stored values: `low` becomes -1 and `high` becomes 1, and what lies outside goes on beyond.

    Nothing is clipped on the way in, so the map can be undone; only a display is clipped.
    """

    kind: Literal["full", "window", "percentiles"] = "full"
    """where low and high come from: the range of the type, a choice, or percentiles of the training images"""
    low: float = 0.0
    """value that becomes -1"""
    high: float = 255.0
    """value that becomes 1"""
    depth: Depth = "uint8"
    """type of the stored values"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ZsemError(f"the intensities {self.low:g} to {self.high:g} are no window: give the lower one first")

    def normalise(self, values: Shaped[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
        """Stored values of this depth as float32, nominally in [-1, 1]."""
        if self == EIGHT_BITS:
            return from_uint8(values)
        half = (self.high - self.low) / 2
        # in float64: differences of large numbers would lose the last bits of 16
        return ((values.to(torch.float64) - self.low) / half - 1).to(torch.float32)

    def restore(self, x: Float[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The inverse of `normalise`: values of this depth, whole ones rounded and kept within the type."""
        if self == EIGHT_BITS:
            return to_uint8(x)
        values = (x.to(torch.float64) + 1) * ((self.high - self.low) / 2) + self.low
        if self.depth == "float32":
            return values.to(torch.float32)
        limits = np.iinfo(self.depth)
        return values.round().clamp(limits.min, limits.max).to(getattr(torch, self.depth))

    def display(self, x: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        """Eight bits to look at: -1 black, 1 white, clipped."""
        return to_uint8(x)

    def identical(self, x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Where two images in [-1, 1] are the same once stored.

        Floats are never stored to the bit after an affine map: they count as the same where they are nearer than half
        a step of 16 bits between `low` and `high`.
        """
        if self.depth == "float32":
            return (x.to(torch.float64) - y.to(torch.float64)).abs() < 1 / FLOAT_LEVELS
        return self.restore(x) == self.restore(y)


EIGHT_BITS = Intensity()
"""Ordinary pictures: 0 is -1, 255 is 1."""


def full_range(depth: Depth) -> Intensity:
    """The whole range of a type of whole numbers. ZsemError: float32 has none."""
    if depth == "float32":
        raise ZsemError("float images have no full range: choose percentiles, or a window such as 0 1")
    limits = np.iinfo(depth)
    return Intensity(kind="full", low=float(limits.min), high=float(limits.max), depth=depth)


def choose_intensity(
    pixels: Shaped[Tensor, "n c h w"],
    *,
    kind: Literal["full", "window", "percentiles"] | None = None,
    low: float | int | None = None,
    high: float | int | None = None,
) -> Intensity:
    """The map for a training set.

    kind: "full"; "window" from `low` to `high`; "percentiles" `low` to `high` of the pixels (.1 and 99.9 where they are
        not given); None = a window where low and high are given, percentiles for floats, else the full range.
    ZsemError: no window, floats with the full range, pixels that are all the same.
    """
    depth = depth_of(pixels[:0].numpy())
    given = (low, high) != (None, None)
    if kind is None:
        kind = "window" if given else "percentiles" if depth == "float32" else "full"
    if kind == "full":
        if given:
            raise ZsemError("the full range takes no low and high: choose a window or percentiles")
        return full_range(depth)
    if kind == "window":
        if low is None or high is None:
            raise ZsemError("a window of intensities needs both its low and its high end")
        return Intensity(kind=kind, low=float(low), high=float(high), depth=depth)
    shares = (LOW if low is None else low, HIGH if high is None else high)
    if not 0 <= shares[0] < shares[1] <= 100:
        raise ZsemError(f"the percentiles {shares[0]:g} and {shares[1]:g} must lie between 0 and 100, the lower first")
    ends = np.percentile(_sample(pixels.numpy()), shares)
    if not ends[0] < ends[1]:
        raise ZsemError(f"the percentiles {shares[0]:g} and {shares[1]:g} are both {ends[0]:g}: choose wider ones")
    return Intensity(kind=kind, low=float(ends[0]), high=float(ends[1]), depth=depth)


def _sample(pixels: np.ndarray) -> np.ndarray:
    """At most SAMPLED of the values: whole images, evenly spaced, so that a mapped set is not read as a whole."""
    step = max(1, -(-pixels.size // SAMPLED))
    return pixels[::step]


def intensity_note(intensity: Intensity, low: float | int, high: float | int) -> str | None:
    """A line to the user where values from `low` to `high` make poor use of the map, else None."""
    width = intensity.high - intensity.low
    if intensity.kind == "full" and intensity.depth != "uint8" and high - low < USED * width:
        return (
            f"the images use values from {low:g} to {high:g} of {intensity.low:g} to {intensity.high:g}: "
            "percentiles, or a window, would use more of the range"
        )
    return None
