"""One step of the reverse process: its posterior given x0, and the variances that a model may give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule, TimeGrid, state_dtype

Variance = Literal["small", "large", "learned"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Posteriors:
    """q(x_s | x_t, x0) for every step of a falling grid, from node i (x_t) to node i + 1 (x_s); float64, [steps].

    of_x0, of_x_t: its mean is of_x0 x0 + of_x_t x_t (DDPM, eq. 7).
    small: its variance (DDPM, eq. 7), 0 on a step to the clean image.
    floor: the same, but on a step to the clean image that of the step before, as p(x0 | x_1) must not be a point
        (improved DDPM's code calls it clipped).
    large: beta of the step, the variance of p for data without structure (DDPM, section 3.2).
    """

    of_x0: Float64[Tensor, " n"]
    of_x_t: Float64[Tensor, " n"]
    small: Float64[Tensor, " n"]
    floor: Float64[Tensor, " n"]
    large: Float64[Tensor, " n"]

    @staticmethod
    def of(grid: TimeGrid) -> Posteriors:
        """Raises ValueError where the grid leads from clean to noisy."""
        if not bool((grid.u.diff() < 0).all()):
            raise ValueError("posteriors belong to a grid that leads from noisy to clean")
        alpha, alpha_next = grid.alpha[:-1], grid.alpha[1:]
        sigma, sigma_next = grid.sigma[:-1], grid.sigma[1:]
        keep = alpha / alpha_next
        beta, shrink = 1 - keep**2, (sigma_next / sigma) ** 2
        small = beta * shrink
        floor = small.clone()
        if small[-1] == 0:
            floor[-1] = small[-2] if len(small) > 1 else beta[-1]
        return Posteriors(
            of_x0=alpha_next * beta / sigma**2, of_x_t=keep * shrink, small=small, floor=floor, large=beta
        )

    @staticmethod
    def of_all(schedule: NoiseSchedule) -> Posteriors:
        """For all timesteps that a network was trained on: step i is the one from timestep T - 1 - i."""
        return Posteriors.of(TimeGrid.make(schedule, schedule.timesteps, spacing="uniform"))

    @property
    def steps(self) -> int:
        return len(self.small)

    def mean(
        self, step: int | Int[Tensor, " b"], x0: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The mean of q(x_s | x_t, x0), at one step for all images or one each."""
        if isinstance(step, int):
            return float(self.of_x0[step]) * x0 + float(self.of_x_t[step]) * x_t
        return _at(self.of_x0, step) * x0 + _at(self.of_x_t, step) * x_t

    def variance(
        self, kind: Variance, step: int, fraction: Float[Tensor, "b c h w"] | None
    ) -> float | Float[Tensor, "b c h w"]:
        """The variance of p(x_s | x_t) at a step; arguments and errors as in `log_variance`."""
        low, high = (float(bound[step]) for bound in self._bounds(kind, fraction))
        return low if fraction is None or kind != "learned" else low * (high / low) ** fraction

    def log_variance(
        self, kind: Variance, step: Int[Tensor, " b"], fraction: Float[Tensor, "b c h w"] | None
    ) -> Float[Tensor, "b _c _h _w"]:
        """The logarithm of the variance of p(x_s | x_t), at a step for each image.

        kind: small = the posterior's; large = beta; learned = between both, where `fraction` (of the logarithms,
            nominally in 0..1) says (improved DDPM, eq. 15). On a step to the clean image small and large are `floor`.
        Raises ValueError for learned without a fraction.
        """
        low, high = (_at(bound.log(), step) for bound in self._bounds(kind, fraction))
        return low if fraction is None or kind != "learned" else low + fraction * (high - low)

    def _bounds(self, kind: Variance, fraction: Tensor | None) -> tuple[Tensor, Tensor]:
        if kind == "learned":
            if fraction is None:
                raise ValueError("this denoiser has no learned variance; choose small or large")
            return self.floor, self.large
        fixed = {"small": self.floor, "large": torch.where(self.small > 0, self.large, self.floor)}[kind]
        return fixed, fixed


def _at(table: Tensor, step: Tensor) -> Tensor:
    """A table's values at a step for each image, [b, 1, 1, 1]."""
    return table.to(step.device, state_dtype(step.device))[step].view(-1, 1, 1, 1)
