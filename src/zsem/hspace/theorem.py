"""Theorem 1 of Asyrp (2210.10960): why a change of eps in both halves of a DDIM step nearly cancels, and where not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import ddim, last
from zsem.hspace.asyrp import asyrp, scaled_as_published
from zsem.hspace.editable import Editable
from zsem.hspace.edits import check_shift
from zsem.hspace.engine import Edited
from zsem.models.imaging import evaluation
from zsem.values import draws
from zsem.values.direction import Direction, Shift
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What a change d of eps at timestep t adds to the state after the step, in multiples of d.

    t: of the steps, the noisiest first.
    asymmetric: with d in the predicted x0 alone, -sqrt(abar_{t-1}) sqrt(1 - abar_t) / sqrt(abar_t).
    symmetric: with d in the direction to x_t too, which adds sqrt(1 - abar_{t-1} - sigma_t^2).
    """

    t: Float64[Tensor, " s"]
    asymmetric: Float64[Tensor, " s"]
    symmetric: Float64[Tensor, " s"]

    def sums(self, t_edit: float | int = 0) -> tuple[float, float, float]:
        """Over all steps from t >= t_edit: |sum| asymmetric, symmetric, and how many times the first is the second."""
        edited = self.t >= t_edit
        asymmetric, symmetric = (float(part[edited].sum().abs()) for part in (self.asymmetric, self.symmetric))
        return asymmetric, symmetric, asymmetric / symmetric


def coefficients(grid: TimeGrid, eta: float | int = 0.0) -> Coefficients:
    """The coefficients of DDIM steps on a grid, with a share eta (0..1) of fresh noise (DDIM, eq. 16).

    For eta 0 and one timestep a step the symmetric one is (sqrt(1 - abar - beta) - sqrt(1 - abar)) / sqrt(1 - beta),
    nearly 0 as beta is: the theorem. It says so of small steps; over a whole process the sum hardly depends on their
    number, and the asymmetric one grows with it.
    """
    alpha, sigma, after, u = grid.alpha[:-1], grid.sigma[:-1], grid.sigma[1:], grid.u[:-1]
    fresh = eta * after / sigma * (1 - (alpha / grid.alpha[1:]) ** 2).sqrt()
    in_x0 = -grid.alpha[1:] * u
    return Coefficients(t=grid.t[:-1], asymmetric=in_x0, symmetric=in_x0 + (after**2 - fresh**2).sqrt())


def published_levels(steps: int, timesteps: int = 1000) -> Float64[Tensor, " s"]:
    """The timesteps of the published code for 2 or more steps: whole parts of an even division, noisiest first."""
    return torch.tensor([i * (timesteps - 1) // (steps - 1) for i in range(steps)], dtype=torch.float64).flip(0)


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """How much one shift changes images, as root mean squares: in x0 alone, and in both halves of the steps."""

    steps: int
    asymmetric: float
    symmetric: float


def cancellation(
    model: Editable,
    *,
    steps: int,
    shift: Shift | None = None,
    size: float | int = 1.0,
    t_edit: float | int | None = None,
    number: int = 4,
    reference_steps: int = 1000,
    seed: int = 0,
) -> Cancellation:
    """The experiment: a shift of h in x0 alone and in both halves, on samples from noise, by DDIM of some steps.

    The asymmetric process is scaled as published, so that it changes about as much whatever the steps; the symmetric
    one has the same shift. Costs 4 evaluations a step for each image.
    shift: None = a random one for all timesteps, `size` times normal.
    t_edit: where edits end; None = at half of the timesteps.
    number: of images. reference_steps: number of steps at which the shift is as it is.
    Raises ZsemError for a conditional model, or a number of steps that the schedule does not have.
    """
    if getattr(model.config, "conditional", False):
        raise ZsemError("the experiment is for models that are told no class")
    T = model.schedule.timesteps
    if not 1 < steps <= T:
        raise ZsemError(f"the experiment takes 2 to {T} steps, not {steps}")
    if shift is None:
        vector = size * draws.normal([(seed, 0)], model.bottleneck_shape)[0]
        shift = Direction(space="h", vector=vector, unit="standard normal", name="random", model=model.stamp)
    check_shift(model, shift)
    scaled = scaled_as_published([(1, shift)], trained_steps=reference_steps, steps=steps)
    first = T // 2 if t_edit is None else t_edit
    grid = TimeGrid.from_levels(model.schedule, t=published_levels(steps, T), clean=True)
    x_T, cond = model.fresh_noise(number, seed=seed).x_T.to(model.device), Condition()
    both = Edited(model.denoiser, scaled, interval=(first, T - 1))
    with evaluation(model):
        plain = last(ddim(bind(model.denoiser, cond), x_T, grid))[0]
        edited = last(asyrp(model.denoiser, cond, x_T, grid, scaled, t_edit=first))[0]
        cancelled = last(ddim(bind(both, cond), x_T, grid))[0]
    changes = [float((image - plain).square().mean().sqrt()) for image in (edited, cancelled)]
    return Cancellation(steps=steps, asymmetric=changes[0], symmetric=changes[1])
