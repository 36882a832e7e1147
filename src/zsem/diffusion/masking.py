"""Edits that stay within a mask, and where an edit wants to change something."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from zsem.diffusion.guidance import Interval
from zsem.diffusion.schedule import level_like
from zsem.values.prediction import BoundDenoiser, Condition, Denoiser, NoiseLevels, Prediction


class Masked:
    """A bound denoiser for pairs of states: sources in the even rows, and after each its target.

    Outside the mask the target is told the source's eps, inside its own, and at soft edges their mean weighted by the
    mask. Solvers and codecs treat every pixel for itself but for what the denoiser answers, so that two states of a
    pair that begin equal outside the mask stay equal there, to the bit, and the target ends as the source does. Unlike
    a blend of the states after every step, a soft edge is the same for any number of steps.
    """

    def __init__(self, source: BoundDenoiser, target: BoundDenoiser, mask: Float[Tensor, "b 1 h w"]) -> None:
        """source, target: each for its half of the rows. mask: 0..1, for each pair, as large as the states."""
        self._source = source
        self._target = target
        self._mask = mask

    @property
    def schedule(self) -> NoiseLevels:
        return self._source.schedule

    def __call__(self, x_t: Float[Tensor, "b2 c h w"], t: Float[Tensor, " b2"]) -> Prediction:
        """One evaluation of each denoiser. No var_fraction is passed on: masks are for walks without fresh noise."""
        source = self._source(x_t[0::2], t[0::2])
        target = self._target(x_t[1::2], t[1::2])
        alpha, sigma = level_like(self.schedule, t[1::2], x_t[1::2])
        mask = self._mask.to(x_t)
        target = target.steer((1 - mask) * (source.eps - target.eps), sigma / alpha)
        outside = mask == 0  # where rounding must not tell the two apart
        return Prediction(
            x0=_pairs(source.x0, torch.where(outside, source.x0, target.x0)),
            eps=_pairs(source.eps, torch.where(outside, source.eps, target.eps)),
        )


class Comparison:
    """A denoiser bound to `source` that adds up, on its way, how far x0 is another one under `target`.

    total: the sum over the evaluations within `interval` of |x0_target - x0_source|, as its root mean square over
        channels, [b, h, w]; None before the first of them.
    """

    def __init__(self, denoise: Denoiser, source: Condition, target: Condition, interval: Interval) -> None:
        """interval: first and last timestep, both inclusive, at which the two are compared."""
        self._denoise = denoise
        self._source = source
        self._target = target
        self._interval = interval
        self.total: Float[Tensor, "b h w"] | None = None

    @property
    def schedule(self) -> NoiseLevels:
        return self._denoise.schedule

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Prediction:
        """One evaluation of the network, two where it compares."""
        source = self._denoise(x_t, t, self._source)
        if bool(((t >= self._interval[0]) & (t <= self._interval[1])).all()):
            difference = self._denoise(x_t, t, self._target).x0 - source.x0
            size = difference.square().mean(dim=1).sqrt()
            self.total = size if self.total is None else self.total + size
        return source


def _pairs(source: Tensor, target: Tensor) -> Tensor:
    """[2 b, ...] with the sources in the even rows and the targets in the odd."""
    return torch.stack([source, target], dim=1).flatten(0, 1)
